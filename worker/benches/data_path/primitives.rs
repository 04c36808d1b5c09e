//! What the gateway is made of, each part measured alone: the least time in which one core could do the work.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, path::Path, time::Duration};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use blocklog::{
    clock::{Clock, SystemClock},
    codec::is_zero,
};

/// A block, and what the gateway stages at once.
const BLOCK: usize = 1 << 20;
const PART: usize = 4 << 20;

/// Seconds of each part of the pipeline over all of a file, on this thread. Every part works in buffers that are used again and again, on bytes
/// that were just put there; putting them there is not counted.
pub fn measure(path: &Path, scratch: &Path) -> BTreeMap<String, f64> {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len() as usize;
    let mut parts = BTreeMap::new();
    let mut block = vec![0; BLOCK];
    let mut part = |name: &str, seconds: Duration| {
        parts.insert(name.to_owned(), seconds.as_secs_f64());
    };

    let clock = SystemClock::new();
    let begin = clock.monotonic();
    for at in (0..size).step_by(BLOCK) {
        let length = BLOCK.min(size - at);
        file.read_exact_at(&mut block[..length], at as u64).unwrap();
    }
    part("read", clock.monotonic() - begin);

    let blocks = || {
        (0..size).step_by(BLOCK).map(|at| {
            let mut bytes = vec![0; BLOCK.min(size - at)];
            file.read_exact_at(&mut bytes, at as u64).unwrap();
            bytes
        })
    };
    let mut zero = Vec::new();
    part("zero test", each(&clock, blocks(), &mut block, |block| zero.push(std::hint::black_box(is_zero(block)))));
    let data = || blocks().zip(&zero).filter(|(_, zero)| !**zero).map(|(block, _)| block);
    part("BLAKE3", each(&clock, data(), &mut block, |block| {
        std::hint::black_box(blake3::hash(block));
    }));

    // As the codec does it: level 1, and no more room than pays; where that is not enough the block stays as it is.
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    let mut room = Vec::with_capacity(BLOCK - BLOCK / 16);
    let mut packed = Vec::new();
    let mut spent = Duration::ZERO;
    for plain in data() {
        block[..plain.len()].copy_from_slice(&plain);
        let begin = clock.monotonic();
        let result = compressor.compress_to_buffer(&block[..plain.len()], &mut room);
        spent += clock.monotonic() - begin;
        packed.push(if result.is_ok() { room.clone() } else { plain });
    }
    part("zstd 1", spent);

    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let mut counter = 0_u64;
    part(
        "AES-256-GCM",
        each(&clock, packed.iter().cloned(), &mut block, |block| {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&counter.to_le_bytes());
            counter += 1;
            let _ = std::hint::black_box(key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from([0; 110]), block).unwrap());
        }),
    );

    let segment = File::create(scratch).unwrap();
    let stored: Vec<u8> = packed.concat();
    drop(packed);
    let mut buffer = vec![0; PART];
    let mut at = 0;
    let write = each(&clock, stored.chunks(PART).map(<[u8]>::to_vec), &mut buffer, |part| {
        segment.write_all_at(part, at).unwrap();
        at += part.len() as u64;
    });
    part("write", write);
    std::fs::remove_file(scratch).unwrap();
    parts
}

/// The time that `work` takes over all pieces, each copied to the same buffer before.
fn each(clock: &SystemClock, pieces: impl Iterator<Item = Vec<u8>>, buffer: &mut [u8], mut work: impl FnMut(&mut [u8])) -> Duration {
    let mut spent = Duration::ZERO;
    for piece in pieces {
        let bytes = &mut buffer[..piece.len()];
        bytes.copy_from_slice(&piece);
        let begin = clock.monotonic();
        work(bytes);
        spent += clock.monotonic() - begin;
    }
    spent
}
