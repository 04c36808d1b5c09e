//! Reading back what a write may have overwritten that nobody can vouch for.
//!
//! A time-fenced seed keeps late writes out only where its host looks at `If-Unmodified-Since`. Where it does not, the ledger's `lost` names
//! the cycles that such a write may still belong to, and what it has hit can't be seen from outside: the disk has to be read. Every block of a
//! lost cycle that nobody has touched since keeps its fingerprint, so what it has to hold is known without the source.
//!
//! It says something for good only when nothing can land any more, after the seal has ended all access to the seed; before that it says what
//! has landed so far.

use std::{collections::BTreeMap, sync::Arc};

use blocklog::{
    LogError,
    cycle::Manifest,
    document,
    fingerprints::{Fingerprints, Place},
    ids::{CycleId, DiskKey},
    keys::KeyRing,
    ledger::Ledger,
    names,
    store::LogStore,
};
use extents::ExtentSet;
use replica::{MAX_WRITE, ReplicaDisk};

use crate::applier::ApplierError;

/// What came of reading a seed back. Blocks are numbers, in the ledger's block size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// Blocks that were read.
    pub read: u64,
    /// Those that are not what was written last: a late write has hit them. A cycle has to send them again.
    pub differ: ExtentSet,
    /// Blocks of lost cycles of which nobody knows what they have to hold: they were written in part since. They are to be compared with the
    /// source.
    pub unknown: ExtentSet,
}

impl ReadBack {
    /// True where every block of a lost cycle is what was written last.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.differ.is_empty() && self.unknown.is_empty()
    }
}

/// Reads every block of lost cycles on a disk, and compares it with its fingerprint.
///
/// # Errors
/// [`ApplierError`]: those of the log, and of reading the seed; [`LogError::Missing`] where the manifest of a lost cycle is gone, for then
/// nobody knows what it wrote.
pub async fn read_back(
    store: &Arc<dyn LogStore>,
    keys: &KeyRing,
    ledger: &Ledger,
    disk: DiskKey,
    seed: &dyn ReplicaDisk,
) -> Result<ReadBack, ApplierError> {
    let mut found = ReadBack::default();
    let Some(named) = ledger.seeds.get(&disk) else { return Ok(found) };
    let place = Place { vm: ledger.vm, incarnation: ledger.incarnation, disk, capacity: named.capacity, block: ledger.block };
    let mut lost = ExtentSet::new();
    for cycle in &ledger.lost {
        lost = lost.union(&place.touched(&extents(store, keys, *cycle, disk).await?));
    }
    let mut mask = ExtentSet::new();
    for begun in ledger.masked() {
        mask = mask.union(&place.touched(&extents(store, keys, ledger.cycle(begun.cycle), disk).await?));
    }
    let mut fingerprints = Fingerprints::open(Arc::clone(store), keys, place, ledger.index.get(&disk), mask).await?;
    for block in lost.iter().flatten() {
        let Some(expected) = fingerprints.get(block).await? else {
            found.unknown.insert(block..block + 1);
            continue;
        };
        if fingerprint(seed, disk, block * u64::from(place.block), place.length(block)).await? != expected {
            found.differ.insert(block..block + 1);
        }
        found.read += 1;
    }
    Ok(found)
}

async fn fingerprint(seed: &dyn ReplicaDisk, disk: DiskKey, start: u64, length: u64) -> Result<[u8; 32], ApplierError> {
    let mut hasher = blake3::Hasher::new();
    let (mut at, end) = (start, start + length);
    while at < end {
        let step = (end - at).min(MAX_WRITE as u64);
        let bytes = seed.read(at, step as u32).await.map_err(|error| ApplierError::Replica { disk, error })?;
        hasher.update(&bytes);
        at += step;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The sectors that a cycle writes on a disk. Its manifest stands as long as the ledger names it.
async fn extents(store: &Arc<dyn LogStore>, keys: &KeyRing, of: CycleId, disk: DiskKey) -> Result<ExtentSet, LogError> {
    let (manifest, _) = document::require::<Manifest>(store.as_ref(), keys, &names::manifest(of)).await?;
    let mut disks: BTreeMap<_, _> = manifest.disks;
    Ok(disks.remove(&disk).map(|disk| disk.extents).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use blocklog::{
        codec::{Codec, Descriptor},
        cycle::{Epochs, Figures, ManifestDisk, Mode},
        fingerprints::Update,
        ids::{Cycle, Incarnation, Owner, Turn, VmId},
        keys::Secret,
        ledger::{IndexRef, Seed},
        store::memory::MemoryStore,
        test_support::ManualClock,
    };
    use bytes::Bytes;
    use replica::{
        Condition,
        memory::{Body, HostKind, HostWrite, MemoryDisk, MemoryHost},
    };
    use uuid::Uuid;

    use super::*;

    const DISK: DiskKey = DiskKey(2000);
    const BLOCK: u32 = 4096;
    const SECTORS: u64 = 8;

    fn keys() -> KeyRing {
        KeyRing::single(1, Secret::new([7; 32]))
    }

    fn bytes(block: u8) -> Vec<u8> {
        vec![block + 1; BLOCK as usize]
    }

    fn owner() -> Owner {
        Owner { cluster: "c".into(), object: "n/o".into() }
    }

    /// A seed of eight blocks, on a host that does not look at conditions; cycle 1 wrote the blocks 1 to 4 and is lost, cycle 2 has written half of
    /// block 4 since.
    struct World {
        store: Arc<dyn LogStore>,
        ledger: Ledger,
        host: Arc<MemoryHost>,
        seed: MemoryDisk,
    }

    impl World {
        async fn new() -> Self {
            let clock = Arc::new(ManualClock::new());
            let store: Arc<dyn LogStore> = Arc::new(MemoryStore::new(clock.clone()));
            let host =
                MemoryHost::new(8 * BLOCK as usize, Some(Uuid::from_u128(9)), HostKind::Time { honours_header: false }, clock.clone());
            let seed = MemoryDisk::new(host.clone(), clock);
            let vm = VmId { vcenter: Uuid::from_u128(1), instance: Uuid::from_u128(2) };
            let named = Seed { id: "seed".into(), unique_id: "u".into(), capacity: 8 * u64::from(BLOCK) };
            let mut ledger = Ledger::new(vm, owner(), Incarnation(Uuid::from_u128(3)), BLOCK, [(DISK, named)].into());
            let place = Place { vm, incarnation: ledger.incarnation, disk: DISK, capacity: 8 * u64::from(BLOCK), block: BLOCK };
            let mut at = IndexRef::Zero;
            for (turn, records) in [(1, vec![(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]), (2, vec![(4, 0.5)])] {
                let sectors: ExtentSet = records
                    .iter()
                    .map(|(block, share): &(u64, f64)| block * SECTORS..block * SECTORS + (SECTORS as f64 * share) as u64)
                    .collect();
                let base = Fingerprints::open(store.clone(), &keys(), place, Some(&at), ExtentSet::new()).await.unwrap();
                let mut update = Update::new(base, Turn(turn), &sectors);
                for range in sectors.iter().flat_map(|run| (run.start / SECTORS..run.end.div_ceil(SECTORS)).map(move |n| (n, run.clone())))
                {
                    let (block, run) = range;
                    let length = (run.end - block * SECTORS).min(SECTORS) * extents::SECTOR;
                    let data = bytes(block as u8)[..length as usize].to_vec();
                    update.note(&Descriptor {
                        offset: block * u64::from(BLOCK),
                        length,
                        codec: Codec::Raw,
                        stored: 0,
                        checksum: *blake3::hash(&data).as_bytes(),
                        nonce: [0; 12],
                        tag: [0; 16],
                    });
                    write(&host, block * u64::from(BLOCK), data);
                }
                at = update.finish(&keys()).await.unwrap();
                let of = ledger.cycle(Cycle(turn));
                let manifest = manifest(&ledger, of, sectors);
                document::write_new(store.as_ref(), &keys(), &names::manifest(of), &manifest).await.unwrap();
            }
            ledger.index.insert(DISK, at);
            ledger.lost.push(ledger.cycle(Cycle(1)));
            Self { store, ledger, host, seed }
        }

        async fn look(&self) -> ReadBack {
            read_back(&self.store, &keys(), &self.ledger, DISK, &self.seed).await.unwrap()
        }
    }

    fn manifest(ledger: &Ledger, of: CycleId, extents: ExtentSet) -> Manifest {
        let disk = ManifestDisk {
            seed: "u".into(),
            capacity: 8 * u64::from(BLOCK),
            mode: Mode::Changed,
            partial: false,
            change_id: None,
            extents,
            segments: Vec::new(),
            figures: Figures::default(),
        };
        Manifest {
            of,
            owner: owner(),
            basis: ledger.turn,
            block: BLOCK,
            snapshot_taken: jiff::Timestamp::UNIX_EPOCH,
            epochs: Epochs::default(),
            disks: [(DISK, disk)].into(),
        }
    }

    fn write(host: &MemoryHost, offset: u64, data: Vec<u8>) {
        let write = HostWrite { instance: host.instance(), condition: Condition::None, offset, body: Body::Data(Bytes::from(data)) };
        host.deliver(&write).unwrap();
    }

    #[tokio::test]
    async fn a_late_write_is_found_by_reading_back() {
        let world = World::new().await;
        let unknown = ExtentSet::from(4..5);
        assert_eq!(world.look().await, ReadBack { read: 3, differ: ExtentSet::new(), unknown: unknown.clone() });
        // One sector of cycle 1 lands again, with what it was before.
        write(&world.host, 2 * u64::from(BLOCK) + 512, vec![0xEE; 512]);
        let found = world.look().await;
        assert_eq!(found, ReadBack { read: 3, differ: ExtentSet::from(2..3), unknown });
        assert!(!found.is_sound());
    }

    #[tokio::test]
    async fn only_blocks_of_lost_cycles_are_read() {
        let mut world = World::new().await;
        // Block 6 was never in a lost cycle: nothing of one can land there.
        write(&world.host, 6 * u64::from(BLOCK), bytes(9));
        assert!(world.look().await.differ.is_empty());
        world.ledger.lost.clear();
        write(&world.host, 2 * u64::from(BLOCK), bytes(9));
        let found = world.look().await;
        assert!(found.is_sound() && found.read == 0, "{found:?}");
    }

    #[tokio::test]
    async fn a_lost_cycle_without_a_manifest_is_an_error_and_not_nothing() {
        let world = World::new().await;
        world.store.delete(&names::manifest(world.ledger.cycle(Cycle(1))), None).await.unwrap();
        let error = read_back(&world.store, &keys(), &world.ledger, DISK, &world.seed).await.unwrap_err();
        assert_eq!(error.reason(), reasons::Reason::BlobMissing);
    }
}
