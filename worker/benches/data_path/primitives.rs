//! What the gateway is made of, each part measured alone: the least time in which one core could do the work.

use std::{collections::BTreeMap, fs::File, ops::Range, os::unix::fs::FileExt, path::Path, time::Duration};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use blocklog::{
    clock::{Clock, SystemClock},
    codec::is_zero,
};

/// A block, and what the gateway stages at once.
const BLOCK: usize = 1 << 20;
const PART: usize = 4 << 20;

/// Seconds of each part of the pipeline over all of a file, on this thread. Every part works in a buffer that is used again and again, on bytes
/// that were just put there; putting them there is not counted.
pub fn measure(path: &Path, scratch: &Path) -> BTreeMap<String, f64> {
    let data = Data { file: File::open(path).unwrap(), clock: SystemClock::new() };
    let mut parts = BTreeMap::new();
    let mut part = |name: &str, seconds: Duration| {
        parts.insert(name.to_owned(), seconds.as_secs_f64());
    };

    let size = data.file.metadata().unwrap().len() as usize;
    let all: Vec<_> = (0..size).step_by(BLOCK).map(|at| at..size.min(at + BLOCK)).collect();
    let mut block = vec![0; BLOCK];
    part("read", data.timed(|| all.iter().for_each(|range| data.read(range, &mut block))));

    let mut zero = Vec::new();
    part("zero test", data.each(&all, |block| zero.push(std::hint::black_box(is_zero(block)))));
    let blocks: Vec<_> = all.into_iter().zip(zero).filter(|(_, zero)| !zero).map(|(range, _)| range).collect();
    let hash = |block: &mut [u8]| {
        std::hint::black_box(blake3::hash(block));
    };
    part("BLAKE3", data.each(&blocks, hash));

    // As the codec does it: level 1, and no more room than pays; where that is not enough the block stays as it is.
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    let mut room = Vec::with_capacity(BLOCK - BLOCK / 16);
    let mut stored = Vec::new();
    let pack = |block: &mut [u8]| {
        let packed = compressor.compress_to_buffer(block, &mut room);
        stored.push(0..packed.unwrap_or(block.len()));
    };
    part("zstd 1", data.each(&blocks, pack));

    // Neither cipher nor file asks what the bytes are, only how many.
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let mut counter = 0_u64;
    let seal = |block: &mut [u8]| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        counter += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let _ = std::hint::black_box(key.seal_in_place_separate_tag(nonce, Aad::from([0; 110]), block).unwrap());
    };
    part("AES-256-GCM", data.each(&stored, seal));

    let (segment, bytes) = (File::create(scratch).unwrap(), stored.iter().map(|range| range.end).sum::<usize>());
    let buffer = vec![0; PART];
    let write = || {
        for at in (0..bytes).step_by(PART) {
            segment.write_all_at(&buffer[..PART.min(bytes - at)], at as u64).unwrap();
        }
    };
    part("write", data.timed(write));
    std::fs::remove_file(scratch).unwrap();
    parts
}

struct Data {
    file: File,
    clock: SystemClock,
}

impl Data {
    fn read(&self, range: &Range<usize>, buffer: &mut [u8]) {
        self.file.read_exact_at(&mut buffer[..range.len()], range.start as u64).unwrap();
    }

    fn timed(&self, work: impl FnOnce()) -> Duration {
        let begin = self.clock.monotonic();
        work();
        self.clock.monotonic() - begin
    }

    /// The time that `work` takes over all ranges, without reading them.
    fn each(&self, ranges: &[Range<usize>], mut work: impl FnMut(&mut [u8])) -> Duration {
        let mut buffer = vec![0; BLOCK];
        let mut spent = Duration::ZERO;
        for range in ranges {
            self.read(range, &mut buffer);
            spent += self.timed(|| work(&mut buffer[..range.len()]));
        }
        spent
    }
}
