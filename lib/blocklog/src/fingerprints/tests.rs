use futures::executor::block_on;
use proptest::prelude::*;

use super::*;
use crate::{
    codec::Codec,
    document::put_new,
    fixtures::{DISK, incarnation, keys, vm},
    store::{LogStore, memory::MemoryStore},
    test_support::ManualClock,
};

const SECTOR: u64 = extents::SECTOR;

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(Arc::new(ManualClock::new())))
}

fn place(sectors: u64, block: u32) -> Place {
    Place { vm: vm(), incarnation: incarnation(), disk: DISK, capacity: sectors * SECTOR, block }
}

/// An index with a chunk of each kind.
pub(crate) fn example() -> Index {
    let at = ChunkRef::At { turn: Turn(5), digest: Digest::of(b"chunk") };
    Index { disk: DISK, capacity: 1 << 40, block: 1 << 20, chunk_blocks: CHUNK_BLOCKS, chunks: [(0, ChunkRef::Zero), (17, at)].into() }
}

/// A chunk with an entry that is there and one that is not.
pub(crate) fn chunk() -> Bytes {
    encode(&[Some(print(1)), None])
}

/// A record of `length` sectors at `offset` sectors; `print` none: a zero range.
fn record(offset: u64, length: u64, print: Option<[u8; 32]>) -> Descriptor {
    let codec = if print.is_some() { Codec::Raw } else { Codec::Zero };
    let checksum = print.unwrap_or_default();
    Descriptor { offset: offset * SECTOR, length: length * SECTOR, codec, stored: 0, checksum, nonce: [0; 12], tag: [0; 16] }
}

fn print(n: u64) -> [u8; 32] {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

fn sectors(records: &[Descriptor]) -> ExtentSet {
    records.iter().map(Descriptor::sectors).collect()
}

/// A bench around one disk.
struct Disk {
    store: Arc<MemoryStore>,
    place: Place,
    at: Option<IndexRef>,
    mask: ExtentSet,
    turn: u64,
}

impl Disk {
    fn new(sectors: u64, block: u32, at: Option<IndexRef>) -> Self {
        Self { store: store(), place: place(sectors, block), at, mask: ExtentSet::new(), turn: 0 }
    }

    fn open(&self) -> Result<Fingerprints, LogError> {
        block_on(Fingerprints::open(self.store.clone(), &keys(), self.place, self.at.as_ref(), self.mask.clone()))
    }

    fn get(&self, blocks: impl IntoIterator<Item = u64>) -> Result<Vec<Fingerprint>, LogError> {
        let mut prints = self.open()?;
        blocks.into_iter().map(|block| block_on(prints.get(block))).collect()
    }

    /// Applies segments of records in the order of their first offsets, as an applier does. `begun`: it dies before the ledger is written.
    fn apply(&mut self, segments: &[Vec<Descriptor>], begun: bool) {
        self.turn += 1;
        let covered: ExtentSet = segments.iter().flatten().map(Descriptor::sectors).collect();
        let mut segments: Vec<_> = segments.iter().filter(|segment| !segment.is_empty()).collect();
        let first = |segment: &Vec<Descriptor>| segment.iter().map(|record| record.offset).min().unwrap_or_default();
        segments.sort_by_key(|segment| first(segment));
        let mut update = Update::new(self.open().unwrap(), Turn(self.turn), &covered);
        for segment in &segments {
            block_on(update.flush_below(first(segment))).unwrap();
            segment.iter().for_each(|record| update.note(record));
        }
        let at = block_on(update.finish(&keys())).unwrap();
        if begun {
            self.mask = self.mask.union(&self.place.touched(&covered));
        } else {
            self.at = Some(at);
            self.mask = ExtentSet::new();
        }
    }

    fn names(&self) -> Vec<String> {
        let folder = names::fingerprints(vm(), incarnation(), DISK);
        self.store.names().into_iter().map(|name| name.strip_prefix(&folder).unwrap().to_owned()).collect()
    }
}

/// The same in the plainest way: one entry a block, and nothing else.
struct Oracle {
    sectors: u64,
    grain: u64,
    prints: Vec<Fingerprint>,
    /// By cycle begun and not finished: the blocks that it touches.
    begun: Vec<bool>,
}

impl Oracle {
    fn range(&self, block: u64) -> std::ops::Range<u64> {
        block * self.grain..((block + 1) * self.grain).min(self.sectors)
    }

    fn apply(&mut self, records: &[Descriptor], begun: bool) {
        let touches =
            |block: &std::ops::Range<u64>, record: &Descriptor| record.sectors().start < block.end && block.start < record.sectors().end;
        for block in 0..self.prints.len() {
            let range = self.range(block as u64);
            let mut touching = records.iter().filter(|record| touches(&range, record));
            let first = touching.next();
            if begun {
                self.begun[block] |= first.is_some();
                continue;
            }
            if std::mem::take(&mut self.begun[block]) {
                self.prints[block] = None;
            }
            let Some(record) = first else { continue };
            let covers = record.sectors().start <= range.start && range.end <= record.sectors().end;
            self.prints[block] = match record.codec {
                Codec::Zero if covers => Some(*blake3::hash(&vec![0; ((range.end - range.start) * SECTOR) as usize]).as_bytes()),
                Codec::Raw if record.sectors() == range => Some(record.checksum),
                _ => None,
            };
        }
    }

    fn get(&self, block: usize) -> Fingerprint {
        if self.begun[block] { None } else { self.prints[block] }
    }
}

/// What a cycle writes: places and lengths as fractions, so that they fit any disk.
#[derive(Debug, Clone)]
struct Wish {
    kind: u8,
    at: u64,
    length: u64,
    segment: usize,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = (0u8..6, 0u64..20_000, 1u64..9000, 0usize..4).prop_map(|(kind, at, length, segment)| Wish { kind, at, length, segment });
    prop::collection::vec(wish, 0..25)
}

/// Disjoint records that fit the disk, in up to four segments.
fn grant(place: Place, wishes: &[Wish], salt: u64) -> Vec<Vec<Descriptor>> {
    let (grain, end) = (place.sectors(), place.capacity / SECTOR);
    let mut taken = ExtentSet::new();
    let mut segments = vec![Vec::new(); 4];
    for (i, wish) in wishes.iter().enumerate() {
        let at = wish.at % end;
        let block = at - at % grain;
        // A chunk's edge is where mistakes are.
        let edge = (at / (CHUNK_BLOCKS * grain) * CHUNK_BLOCKS * grain).saturating_sub(wish.length % 3);
        let (start, length) = match wish.kind {
            0 | 1 => (block, grain),
            2 => (at, 1 + wish.length % (2 * grain)),
            3 => (edge, grain + wish.length % 2),
            4 => (at, wish.length),
            _ => (block, wish.length * grain),
        };
        let range = start..(start + length).min(end);
        if range.is_empty() || taken.intersects(range.clone()) {
            continue;
        }
        taken.insert(range.clone());
        let print = (wish.kind < 4).then(|| print(salt * 1000 + i as u64));
        segments[wish.segment].push(record(range.start, range.end - range.start, print));
    }
    segments
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn fingerprints_are_what_a_plain_list_says(
        blocks in 1u64..9500,
        odd in 0u64..4,
        grain in prop_oneof![Just(1u64), Just(4)],
        fresh: bool,
        cycles in prop::collection::vec((wishes(), any::<bool>()), 1..6),
    ) {
        let sectors = (blocks * grain).saturating_sub(odd % grain);
        prop_assume!(sectors > 0);
        let mut disk = Disk::new(sectors, (grain * SECTOR) as u32, fresh.then_some(IndexRef::Zero));
        let count = disk.place.blocks() as usize;
        let mut oracle = Oracle { sectors, grain, prints: vec![None; count], begun: vec![false; count] };
        if fresh {
            oracle.apply(&[record(0, sectors, None)], false);
        }
        for (i, (wishes, begun)) in cycles.iter().enumerate() {
            let segments = grant(disk.place, wishes, i as u64);
            disk.apply(&segments, *begun);
            oracle.apply(&segments.concat(), *begun);
            let found = disk.get(0..count as u64).unwrap();
            for (block, found) in found.into_iter().enumerate() {
                prop_assert_eq!(found, oracle.get(block), "block {} of {}, cycle {}", block, count, i);
            }
        }
        // What the index names is there.
        if let Some(IndexRef::At { .. }) = disk.at {
            let names = disk.store.names();
            prop_assert!(disk.open().unwrap().index.blobs(disk.place).all(|name| names.contains(&name)));
        }
    }
}

#[test]
fn the_fingerprint_of_zeros_is_blake3_of_them() {
    for length in [0usize, 1, 512, 4095, 4096, 4097, 1 << 20] {
        assert_eq!(zero_fingerprint(length as u64), *blake3::hash(&vec![0; length]).as_bytes(), "{length}");
    }
}

#[test]
fn the_last_block_may_be_short() {
    let place = place(10, 2048);
    assert_eq!((place.blocks(), place.length(0), place.length(1), place.length(2), place.length(3)), (3, 2048, 2048, 1024, 0));
    let mut disk = Disk::new(10, 2048, None);
    disk.apply(&[vec![record(4, 4, Some(print(1))), record(8, 2, Some(print(2)))]], false);
    assert_eq!(disk.get(0..4).unwrap(), [None, Some(print(1)), Some(print(2)), None]);
    // Half of it is not all of it; a zero range that ends where the disk ends is.
    disk.apply(&[vec![record(8, 1, Some(print(3)))]], false);
    assert_eq!(disk.get([2]).unwrap(), [None]);
    disk.apply(&[vec![record(7, 3, None)]], false);
    assert_eq!(disk.get([1, 2]).unwrap(), [None, Some(zero_fingerprint(1024))]);
    disk.apply(&[vec![record(7, 2, None)]], false);
    assert_eq!(disk.get([1, 2]).unwrap(), [None, None]);
}

#[test]
fn a_new_seed_is_zero_everywhere_and_an_unknown_one_nowhere() {
    let all = [0, 1, CHUNK_BLOCKS - 1, CHUNK_BLOCKS, 3 * CHUNK_BLOCKS];
    let sectors = 3 * CHUNK_BLOCKS + 1;
    assert_eq!(Disk::new(sectors, 512, Some(IndexRef::Zero)).get(all).unwrap(), [Some(zero_fingerprint(512)); 5]);
    assert_eq!(Disk::new(sectors, 512, None).get(all).unwrap(), [None; 5]);
}

#[test]
fn masked_blocks_have_none_until_an_index_covers_them() {
    let mut disk = Disk::new(100, 512, Some(IndexRef::Zero));
    disk.mask = ExtentSet::from_iter(std::iter::once(10..20));
    let zero = Some(zero_fingerprint(512));
    assert_eq!(disk.get([9, 10, 19, 20]).unwrap(), [zero, None, None, zero]);
    // The cycle that finishes writes one of them anew; the rest stays without, though nothing masks it now.
    disk.apply(&[vec![record(10, 1, Some(print(1)))]], false);
    assert!(disk.mask.is_empty());
    assert_eq!(disk.get([9, 10, 11, 19, 20]).unwrap(), [zero, Some(print(1)), None, None, zero]);
}

#[test]
fn a_delta_writes_only_the_chunks_that_it_touches() {
    let mut disk = Disk::new(4 * CHUNK_BLOCKS, 512, Some(IndexRef::Zero));
    disk.apply(&[(0..4).map(|chunk| record(chunk * CHUNK_BLOCKS, 1, Some(print(chunk)))).collect()], false);
    assert_eq!(disk.names(), ["0000000001-000000", "0000000001-000001", "0000000001-000002", "0000000001-000003", "0000000001-index"]);
    disk.apply(&[vec![record(2 * CHUNK_BLOCKS + 7, 1, Some(print(9)))]], false);
    assert_eq!(disk.names()[5..], ["0000000002-000002", "0000000002-index"]);
    let blobs: Vec<_> = disk.open().unwrap().index.blobs(disk.place).collect();
    assert_eq!(
        blobs.iter().map(|name| &name[name.len() - 17..]).collect::<Vec<_>>(),
        ["0000000001-000000", "0000000001-000001", "0000000002-000002", "0000000001-000003"]
    );
    // A chunk that is zero again, or unknown as a whole, needs no blob.
    disk.apply(&[vec![record(2 * CHUNK_BLOCKS, CHUNK_BLOCKS, None)]], false);
    disk.mask = ExtentSet::all(CHUNK_BLOCKS);
    disk.apply(&[], false);
    assert_eq!(disk.names()[7..], ["0000000003-index", "0000000004-index"]);
    assert_eq!(disk.open().unwrap().index.blobs(disk.place).count(), 2);
    assert_eq!(disk.get([0, 2 * CHUNK_BLOCKS]).unwrap(), [None, Some(zero_fingerprint(512))]);
    // Nothing to do is a new index all the same.
    disk.apply(&[], false);
    assert_eq!(disk.names()[9..], ["0000000005-index"]);
}

#[test]
fn chunks_are_written_as_soon_as_nothing_can_touch_them() {
    let disk = Disk::new(4 * CHUNK_BLOCKS, 512, None);
    let records = [record(5, 1, Some(print(1))), record(2 * CHUNK_BLOCKS, 1, Some(print(2))), record(CHUNK_BLOCKS - 1, 5, None)];
    let mut update = Update::new(disk.open().unwrap(), Turn(1), &sectors(&records));
    update.note(&records[0]);
    update.note(&records[2]);
    block_on(update.flush_below(SECTOR * CHUNK_BLOCKS - 1)).unwrap();
    assert_eq!(disk.names().len(), 0);
    block_on(update.flush_below(SECTOR * (2 * CHUNK_BLOCKS - 1))).unwrap();
    assert_eq!(disk.names(), ["0000000001-000000"]);
    assert!(update.noted.is_empty(), "what is written is not kept");
    // Going back is not possible, and does no harm.
    block_on(update.flush_below(0)).unwrap();
    update.note(&records[1]);
    block_on(update.finish(&keys())).unwrap();
    assert_eq!(disk.names(), ["0000000001-000000", "0000000001-000001", "0000000001-000002", "0000000001-index"]);
}

#[test]
fn every_changed_bit_of_a_chunk_and_of_its_index_is_found() {
    let mut disk = Disk::new(3, 512, None);
    disk.apply(&[vec![record(0, 1, Some(print(1))), record(1, 1, None)]], false);
    assert_eq!(disk.get(0..3).unwrap(), [Some(print(1)), Some(zero_fingerprint(512)), None]);
    for name in disk.store.names() {
        let length = disk.store.peek(&name).unwrap().len();
        for at in 0..length {
            for bit in 0..8 {
                disk.store.corrupt(&name, |bytes| bytes[at] ^= 1 << bit);
                let found = disk.get(0..3);
                assert!(found.is_err(), "{name} byte {at} bit {bit}");
                disk.store.corrupt(&name, |bytes| bytes[at] ^= 1 << bit);
            }
        }
        disk.store.corrupt(&name, |bytes| bytes.truncate(length - 1));
        assert!(matches!(disk.get(0..3), Err(LogError::Damaged { .. })));
        disk.store.corrupt(&name, |bytes| bytes.clear());
        assert!(matches!(disk.get(0..3), Err(LogError::Damaged { .. })));
        block_on(disk.store.delete(&name, None)).unwrap();
        assert_eq!(disk.get(0..3), Err(LogError::Missing(name)));
        disk = Disk::new(3, 512, None);
        disk.apply(&[vec![record(0, 1, Some(print(1))), record(1, 1, None)]], false);
    }
}

#[test]
fn an_index_is_the_one_that_the_ledger_names() {
    let mut disk = Disk::new(3, 512, None);
    disk.apply(&[vec![record(0, 1, Some(print(1)))]], false);
    let first = disk.at;
    disk.apply(&[vec![record(1, 1, Some(print(2)))]], false);
    let Some(IndexRef::At { digest, .. }) = first else { panic!() };
    disk.at = Some(IndexRef::At { turn: Turn(2), digest });
    assert!(matches!(disk.get([0]), Err(LogError::Damaged { .. })));
    disk.at = first;
    assert_eq!(disk.get([0, 1]).unwrap(), [Some(print(1)), None], "an older one still stands");
    // An index of another size, though it is the one that is named.
    for place in [place(4, 512), place(3, 1024), Place { disk: DiskKey(2001), ..disk.place }] {
        let other = Disk { store: store(), place, at: first, mask: ExtentSet::new(), turn: 0 };
        for (name, bytes) in disk.store.snapshot() {
            block_on(put_new(other.store.as_ref(), &name.replace("/2000/", &format!("/{}/", place.disk)), bytes)).unwrap();
        }
        assert!(matches!(other.get([0]), Err(LogError::Damaged { .. })));
    }
}

#[test]
fn an_index_that_names_chunks_past_the_disk_is_refused() {
    let mut disk = Disk::new(3, 512, None);
    let at = ChunkRef::At { turn: Turn(1), digest: Digest::of(b"") };
    let index = Index { disk: DISK, capacity: 1536, block: 512, chunk_blocks: CHUNK_BLOCKS, chunks: [(1, at)].into() };
    let name = names::index(vm(), incarnation(), DISK, Turn(1));
    let digest = block_on(document::write_new(disk.store.as_ref(), &keys(), &name, &index)).unwrap();
    disk.at = Some(IndexRef::At { turn: Turn(1), digest });
    assert!(matches!(disk.get([0]), Err(LogError::Damaged { .. })));
}

#[test]
fn a_chunk_has_an_entry_for_each_of_its_blocks() {
    let prints = [Some(print(1)), None, Some(print(2))];
    let bytes = encode(&prints);
    assert_eq!(bytes.len(), 8 + 3 * 32);
    assert_eq!(decode(&bytes, 3).unwrap(), prints);
    for (bytes, blocks) in [(&bytes[..], 2), (&bytes[..], 4), (&bytes[..bytes.len() - 1], 3), (&bytes[1..], 3), (&[], 0)] {
        assert_eq!(decode(bytes, blocks), None);
    }
    assert_eq!(decode(&encode(&[]), 0).unwrap(), []);
}
