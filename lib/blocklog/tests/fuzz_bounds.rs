//! Whatever bytes a log store gives, reading them neither panics nor allocates out of proportion. 100,000 inputs each: valid ones changed
//! in all the ways that bytes get changed, and noise.
//!
//! The allocator counts what Rust allocates, not zstd's own context (a fixed 128 KiB a thread) nor what the test itself holds.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use blocklog::{
    codec::Sealer,
    cycle::{self, Epochs, Figures, Manifest, ManifestDisk, Mode},
    document,
    entropy::Entropy,
    ids::{Cycle, CycleId, Digest, DiskCycle, DiskKey, Epoch, Incarnation, Owner, Turn, VmId},
    keys::{KeyRing, Secret},
    segment::{self, SegmentBuilder, SegmentRef},
};
use extents::ExtentSet;
use peak_alloc::PeakAlloc;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The allocator counts for the whole process, so the tests take turns.
static TURNS: Mutex<()> = Mutex::new(());

const INPUTS: usize = 100_000;

/// Splitmix64: the same inputs in every run.
struct Random(Mutex<u64>);

impl Random {
    fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

impl Entropy for Random {
    fn fill(&self, out: &mut [u8]) {
        out.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }
}

/// Words that parsers stumble over, for texts and for binary numbers.
const WORDS: [&[u8]; 14] = [
    b"0",
    b"-1",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1e999",
    b"null",
    b"{",
    b"[",
    b"[0,1],",
    b"\"\\u0000\"",
    &[0xff; 8],
    &[0; 8],
    &[0, 16, 0, 0],
    b"HAWSEND\n",
];

/// One input: a valid one with up to eight changes, or noise.
fn input(random: &Random, valid: &[Vec<u8>]) -> Vec<u8> {
    if random.below(16) == 0 {
        let mut noise = vec![0; random.below(2048)];
        random.fill(&mut noise);
        return noise;
    }
    let mut bytes = valid[random.below(valid.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            2 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            3 => bytes.truncate(at),
            4 => drop(bytes.splice(at..(at + random.below(4)).min(bytes.len()), WORDS[random.below(WORDS.len())].iter().copied())),
            5 => {
                let end = (at + random.below(200)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            _ => {
                let other = &valid[random.below(valid.len())];
                let from = random.below(other.len());
                let piece = &other[from..(from + random.below(200)).min(other.len())];
                let end = (at + piece.len()).min(bytes.len());
                drop(bytes.splice(at..end, piece.iter().copied()));
            }
        }
    }
    bytes
}

/// What `read` allocates at most for `data`.
fn peak(read: impl Fn(&[u8]), data: &[u8]) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    read(data);
    ALLOCATOR.peak_usage().saturating_sub(before)
}

fn run(what: &str, valid: &[Vec<u8>], read: impl Fn(&[u8]) + Copy, bound: impl Fn(usize) -> usize) {
    let _turn = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    let random = Random(Mutex::new(7));
    // The first time, a thread's caches are made.
    valid.iter().for_each(|valid| read(valid));
    for i in 0..INPUTS {
        let data = input(&random, valid);
        let peak = peak(read, &data);
        assert!(peak <= bound(data.len()), "{what} {i}: {} bytes of input took {peak}: {:?}", data.len(), String::from_utf8_lossy(&data));
    }
}

fn of() -> CycleId {
    CycleId { vm: VmId { vcenter: Uuid::nil(), instance: Uuid::nil() }, incarnation: Incarnation(Uuid::nil()), cycle: Cycle(1) }
}

/// Segments that [`segment::fuzz`] can open: its names, its key.
fn segments() -> Vec<Vec<u8>> {
    let (of, key) = (DiskCycle { of: of(), disk: DiskKey(2000) }, Secret::new([7; 32]));
    let random = Random(Mutex::new(1));
    [1, 2, 7]
        .into_iter()
        .map(|count| {
            let sealer = Sealer::new(of, &key);
            let mut builder = SegmentBuilder::new(of, Epoch(1), 0, &key, 1 << 20, 1 << 20);
            let mut parts = Vec::new();
            for i in 0..count {
                let mut plain = vec![i as u8; 512];
                if i % 3 == 1 {
                    random.fill(&mut plain);
                }
                let checksum = *blake3::hash(&plain).as_bytes();
                let record = if i % 3 == 2 { sealer.zero(i << 30, 1 << 30) } else { sealer.data(i << 30, plain, checksum) };
                parts.extend(builder.push(&record));
            }
            parts.extend(builder.finish().0);
            parts.iter().flat_map(|part| part.pieces.iter().flatten().copied()).collect()
        })
        .collect()
}

fn manifest(extents: ExtentSet, segments: u32) -> Manifest {
    let random = Random(Mutex::new(2));
    let keys = KeyRing::single(1, Secret::new([7; 32]));
    let mut epochs = Epochs::default();
    epochs.add(&keys, of(), Epoch(1), &random);
    let segment =
        |n| SegmentRef { epoch: Epoch(1), n, size: 1 << 20, records: 9, first: u64::from(n) << 20, digest: Digest([n as u8; 32]) };
    let disk = ManifestDisk {
        seed: "s".into(),
        capacity: 1 << 40,
        mode: Mode::Full,
        partial: false,
        change_id: None,
        extents,
        segments: (0..segments).map(segment).collect(),
        figures: Figures::default(),
    };
    Manifest {
        of: of(),
        owner: Owner { cluster: "c".into(), object: "n/o".into() },
        basis: Turn(0),
        block: 1 << 20,
        snapshot_taken: jiff::Timestamp::UNIX_EPOCH,
        epochs,
        disks: BTreeMap::from([(DiskKey(2000), disk)]),
    }
}

fn manifest_bytes(manifest: &Manifest) -> Vec<u8> {
    document::encode(&KeyRing::single(1, Secret::new([7; 32])), "fuzz", manifest).expect("a manifest can be written").to_vec()
}

/// A copy of the input, the index as it is kept (which grows while it is read), a raw block's copy, and one unpacked block.
fn segment_bound(length: usize) -> usize {
    5 * length + (1 << 20) + (16 << 10)
}

/// A list of extents is the densest text: `[8,1],` becomes 16 bytes, and three times that while a vector grows.
fn manifest_bound(length: usize) -> usize {
    8 * length + (16 << 10)
}

#[test]
fn any_bytes_are_read_as_a_segment_within_bounds() {
    run("segment", &segments(), segment::fuzz, segment_bound);
}

#[test]
fn any_bytes_are_read_as_a_manifest_within_bounds() {
    let sparse = manifest(ExtentSet::from_ranges([0..8, 100..200]), 2);
    let dense = manifest(ExtentSet::from_ranges((0..20).map(|i| 2 * i..2 * i + 1)), 1);
    run("manifest", &[manifest_bytes(&sparse), manifest_bytes(&dense)], cycle::fuzz, manifest_bound);
}

#[test]
fn the_densest_inputs_stay_within_the_same_bounds() {
    let _turn = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    // A vector has just doubled, is just full, or is in between.
    for count in [1u64 << 16, (1 << 16) + 1, 100_000] {
        let bytes = manifest_bytes(&manifest(ExtentSet::from_ranges((0..count).map(|i| 2 * i..2 * i + 1)), 0));
        let peak = peak(cycle::fuzz, &bytes);
        assert!(peak <= manifest_bound(bytes.len()), "{} bytes of extents took {peak}", bytes.len());
        let text = &bytes[bytes.iter().position(|byte| *byte == b'\n').unwrap()..];
        assert!(text.len() > 6 * count as usize && peak > 16 * count as usize, "it is measured");
    }
    let (of, key) = (DiskCycle { of: of(), disk: DiskKey(2000) }, Secret::new([7; 32]));
    let (sealer, mut builder) = (Sealer::new(of, &key), SegmentBuilder::new(of, Epoch(1), 0, &key, 1 << 20, 1 << 20));
    for i in 0..segment::MAX_RECORDS as u64 {
        builder.push(&sealer.zero(i << 20, 512));
    }
    let bytes: Vec<u8> = builder.finish().0.iter().flat_map(|part| part.pieces.iter().flatten().copied()).collect();
    let peak = peak(segment::fuzz, &bytes);
    assert!(peak <= segment_bound(bytes.len()), "{} bytes of records took {peak}", bytes.len());
    assert!(peak > 2 * bytes.len(), "it is measured");
}
