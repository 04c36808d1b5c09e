//! What the tests of the log's formats share: names, keys, randomness from a seed, and a full example of each document.

use std::{collections::BTreeMap, sync::Mutex};

use extents::ExtentSet;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    codec::{Record, Sealer},
    cycle::{
        DiskProgress, Epochs, Figures, KeyCheck, Manifest, ManifestDisk, Mode, Order, OrderSeed, Phase, Receipt, ReceiptDisk, Run,
        Snapshot, SnapshotNote, State,
    },
    entropy::Entropy,
    ids::{ChangeId, Cycle, CycleId, Digest, DiskCycle, DiskKey, Epoch, Incarnation, Owner, Turn, VmId},
    keys::{KeyRing, Secret},
    ledger::{Begun, IndexRef, Ledger, RecoveryPoint, Seed},
    segment::{Part, SegmentBuilder, SegmentRef},
    setback::Setback,
};

/// Randomness from a seed.
pub(crate) struct Seeded(Mutex<blake3::OutputReader>);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()))
    }
}

impl Entropy for Seeded {
    fn fill(&self, out: &mut [u8]) {
        self.0.lock().unwrap().fill(out);
    }
}

/// `length` bytes that do not pack.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    Seeded::new(seed).fill(&mut out);
    out
}

/// `length` bytes that pack well.
pub(crate) fn text(seed: u64, length: usize) -> Vec<u8> {
    format!("block {seed}: the quick brown fox jumps over the lazy dog; ").bytes().cycle().take(length).collect()
}

/// The record of data that is not zero.
pub(crate) fn data(sealer: &Sealer, offset: u64, plain: Vec<u8>) -> Record {
    let checksum = *blake3::hash(&plain).as_bytes();
    sealer.data(offset, plain, checksum)
}

pub(crate) fn time(second: i64) -> Timestamp {
    Timestamp::new(1_735_689_600 + second, 0).unwrap()
}

pub(crate) fn vm() -> VmId {
    VmId { vcenter: Uuid::from_u128(0x11), instance: Uuid::from_u128(0x22) }
}

pub(crate) fn incarnation() -> Incarnation {
    Incarnation(Uuid::from_u128(0x33))
}

pub(crate) fn owner() -> Owner {
    Owner { cluster: "west".into(), object: "default/web".into() }
}

pub(crate) fn cycle(number: u64) -> CycleId {
    CycleId { vm: vm(), incarnation: incarnation(), cycle: Cycle(number) }
}

pub(crate) const DISK: DiskKey = DiskKey(2000);
pub(crate) const OTHER_DISK: DiskKey = DiskKey(2001);

pub(crate) fn disk_cycle(number: u64) -> DiskCycle {
    DiskCycle { of: cycle(number), disk: DISK }
}

pub(crate) fn secret(byte: u8) -> Secret {
    Secret::new([byte; 32])
}

/// A key ring with an older version, 1, and the one that writes, 2.
pub(crate) fn keys() -> KeyRing {
    KeyRing::parse(&format!("1 {}\n2 {}\n", "11".repeat(32), "22".repeat(32))).unwrap()
}

/// One segment of three records: text, noise, zero.
pub(crate) fn small_segment(of: DiskCycle, epoch: Epoch, n: u32, key: &Secret) -> (Vec<u8>, SegmentRef) {
    let sealer = Sealer::new(of, key);
    let records = [data(&sealer, 4096, text(1, 1024)), data(&sealer, 0, noise(2, 512)), sealer.zero(8192, 1 << 40)];
    build(&mut SegmentBuilder::new(of, epoch, n, key, 1 << 20, 1 << 20), &records)
}

/// Ends a segment that holds `records`: its bytes, and how a manifest names it.
pub(crate) fn build(builder: &mut SegmentBuilder, records: &[Record]) -> (Vec<u8>, SegmentRef) {
    let mut parts: Vec<Part> = records.iter().flat_map(|record| builder.push(record)).collect();
    let builder = std::mem::replace(builder, SegmentBuilder::new(disk_cycle(1), Epoch(0), 0, &secret(0), 0, 0));
    let (last, count, segment) = builder.finish();
    parts.extend(last);
    assert_eq!(parts.len(), count as usize);
    (parts.iter().flat_map(|part| part.pieces.iter().flatten().copied()).collect(), segment)
}

pub(crate) fn change_id(n: u32) -> ChangeId {
    ChangeId(format!("52 1a 2b 3c 4d 5e 6f 70-81 92 a3 b4 c5 d6 e7 f8/{n}"))
}

/// Two epochs' keys.
pub(crate) fn epochs(of: CycleId) -> Epochs {
    let (entropy, mut epochs) = (Seeded::new(5), Epochs::default());
    for epoch in [1, 2] {
        epochs.add(&keys(), of, Epoch(epoch), &entropy);
    }
    epochs
}

pub(crate) fn state() -> State {
    let change_ids = BTreeMap::from([(DISK, Some(change_id(7))), (OTHER_DISK, None)]);
    let runs = vec![Run { epoch: Epoch(1), durable: 3, checked: 2 }, Run { epoch: Epoch(2), durable: 1, checked: 0 }];
    State {
        phase: Phase::Open,
        epochs: epochs(cycle(3)),
        snapshot: SnapshotNote::Taken(Snapshot { reference: "snapshot-12".into(), taken: time(0), change_ids }),
        disks: BTreeMap::from([(DISK, DiskProgress { mode: Mode::Changed, runs, read: false, figures: figures() })]),
        ..State::new(cycle(3), owner(), Turn(4))
    }
}

pub(crate) fn figures() -> Figures {
    Figures { changed: 1 << 30, read: 1 << 29, uploaded: 1 << 28, in_place: 1 << 27 }
}

/// A manifest of cycle `number` that was computed from `basis`: a delta of the first disk, the second in full.
pub(crate) fn manifest(number: u64, basis: u64) -> Manifest {
    let segment = |n, first| SegmentRef { epoch: Epoch(2), n, size: 1234, records: 5, first, digest: Digest::of(&[n as u8]) };
    let disk = |seed: &str, mode, change_id, sectors: &[(u64, u64)]| ManifestDisk {
        seed: seed.into(),
        capacity: 1 << 30,
        mode,
        partial: false,
        change_id,
        extents: sectors.iter().map(|(start, end)| *start..*end).collect(),
        segments: vec![segment(0, 0), segment(1, 1 << 20)],
        figures: figures(),
    };
    Manifest {
        of: cycle(number),
        owner: owner(),
        basis: Turn(basis),
        block: 1 << 20,
        snapshot_taken: time(number as i64),
        epochs: epochs(cycle(number)),
        disks: BTreeMap::from([
            (DISK, disk("seed-a", Mode::Changed, Some(change_id(number as u32)), &[(0, 8), (4096, 6144)])),
            (OTHER_DISK, disk("seed-b", Mode::Full, None, &[(0, 1)])),
        ]),
    }
}

pub(crate) fn seed(unique_id: &str) -> Seed {
    Seed { id: format!("/subscriptions/s/disks/{unique_id}"), unique_id: unique_id.into(), capacity: 1 << 30 }
}

pub(crate) fn seeds() -> BTreeMap<DiskKey, Seed> {
    BTreeMap::from([(DISK, seed("seed-a")), (OTHER_DISK, seed("seed-b"))])
}

/// The ledger that [`manifest`]`(1, 0)` goes on from.
pub(crate) fn new_ledger() -> Ledger {
    Ledger::new(vm(), owner(), incarnation(), 1 << 20, seeds())
}

/// A ledger with something in each of its fields.
pub(crate) fn full_ledger() -> Ledger {
    Ledger {
        begun: Cycle(9),
        turn: Turn(12),
        dirty: vec![
            Begun { cycle: Cycle(8), manifest: Digest::of(b"8"), covered: true },
            Begun { cycle: Cycle(9), manifest: Digest::of(b"9"), covered: false },
        ],
        lost: vec![cycle(8)],
        recovery_point: Some(RecoveryPoint { cycle: Cycle(7), time: time(7), disks: vec![DISK, OTHER_DISK] }),
        baseline: BTreeMap::from([(DISK, change_id(7))]),
        index: BTreeMap::from([(DISK, IndexRef::At { turn: Turn(11), digest: Digest::of(b"index") }), (OTHER_DISK, IndexRef::Zero)]),
        write_ends: BTreeMap::from([(DISK, time(600))]),
        writing: true,
        sealed: Some(Turn(12)),
        tokens: BTreeMap::from([("syncNow".into(), "t-1".into())]),
        ..new_ledger()
    }
}

pub(crate) fn order() -> Order {
    let access =
        OrderSeed::seal(&keys(), vm(), incarnation(), DISK, "seed-a", br#"{"url":"https://example.invalid/seed"}"#, &Seeded::new(6));
    Order {
        of: cycle(3),
        owner: owner(),
        manifest: Digest::of(b"manifest"),
        seeds: BTreeMap::from([(DISK, access)]),
        tokens: BTreeMap::from([("syncNow".into(), "t-1".into())]),
    }
}

pub(crate) fn receipt() -> Receipt {
    let disk = ReceiptDisk { written: 4096, cleared: 512, extents: Digest(ExtentSet::all(9).digest()) };
    Receipt { of: cycle(3), manifest: Digest::of(b"manifest"), turn: Turn(5), at: time(60), disks: BTreeMap::from([(DISK, disk)]) }
}

pub(crate) fn setback() -> Setback {
    Setback {
        of: cycle(3),
        reason: reasons::Reason::BlobDamaged,
        message: "a segment is damaged".into(),
        disk: Some(DISK),
        tries: 2,
        first: time(60),
        last: time(90),
        turn: Some(Turn(5)),
        for_good: true,
    }
}

pub(crate) fn key_check() -> KeyCheck {
    KeyCheck { since: time(0) }
}
