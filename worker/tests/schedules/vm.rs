//! A VM with changed block tracking, as far as a cycle sees it: a guest that writes, snapshots that freeze, change IDs by generation and number.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use blocklog::{
    clock::Clock,
    cycle::Snapshot,
    ids::{ChangeId, Cycle, CycleId, DiskKey, VmId},
};
use extents::{ExtentSet, SECTOR};
use reasons::Reason;
use source::{DiskSource, SourceError};
use std::ops::Range;
use worker::snapshot::{Changes, Found, SnapshotControl, SnapshotError};

use crate::scheduler::{ActorId, Sim};

/// CBT tells changes in grains of this many sectors.
const GRAIN: u64 = 2;

pub const DISKS: [(DiskKey, u64); 2] = [(DiskKey(2000), 20 * 4096 + 1536), (DiskKey(2001), 6 * 4096)];

struct Disk {
    bytes: Vec<u8>,
    /// Every write since the generation began: its number and its sectors.
    writes: Vec<(u64, Range<u64>)>,
}

/// A snapshot that was taken, for all time.
#[derive(Clone)]
pub struct Frozen {
    pub of: CycleId,
    pub snapshot: Snapshot,
    pub bytes: Vec<Vec<u8>>,
    numbers: (u64, u64),
    pub gone: bool,
}

struct Inner {
    disks: Vec<Disk>,
    generation: u64,
    number: u64,
    taken: Vec<Frozen>,
}

/// The VM. Clones are the same one.
#[derive(Clone)]
pub struct Vm(Arc<Mutex<Inner>>, Sim);

impl Vm {
    pub fn new(sim: &Sim) -> Self {
        let disks = DISKS.iter().map(|(_, capacity)| Disk { bytes: vec![0; *capacity as usize], writes: Vec::new() }).collect();
        let vm = Self(Arc::new(Mutex::new(Inner { disks, generation: 1, number: 0, taken: Vec::new() })), sim.clone());
        (0..12).for_each(|_| vm.guest_writes());
        vm
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// The guest writes somewhere: whole blocks or a few sectors, data or zeroes.
    pub fn guest_writes(&self) {
        let mut inner = self.lock();
        let disk = self.1.random(|r| r.below(DISKS.len() as u64)) as usize;
        let sectors = DISKS[disk].1 / SECTOR;
        let (start, length, fill, seed) = self.1.random(|r| {
            let whole = r.one_in(2);
            let length = if whole { 8 * (1 + r.below(4)) } else { 1 + r.below(6) };
            let start = r.below(sectors);
            (if whole { start / 8 * 8 } else { start }, length, r.below(4), r.next())
        });
        let end = (start + length).min(sectors);
        inner.number += 1;
        let number = inner.number;
        let target = &mut inner.disks[disk];
        for (i, byte) in target.bytes[(start * SECTOR) as usize..(end * SECTOR) as usize].iter_mut().enumerate() {
            *byte = match fill {
                0 => 0,
                1 => (seed >> (i % 8)) as u8,
                _ => (seed.wrapping_mul(i as u64 + 1) >> 32) as u8,
            };
        }
        target.writes.push((number, start..end));
    }

    /// Somebody reverts the VM to an older state, and the guest goes on from there.
    pub fn revert(&self) {
        let mut inner = self.lock();
        let n = inner.taken.len().saturating_sub(3);
        let Some(frozen) = inner.taken.get(n).cloned() else { return };
        inner.generation += 1;
        for (disk, bytes) in inner.disks.iter_mut().zip(frozen.bytes) {
            disk.bytes = bytes;
            disk.writes.clear();
        }
    }

    /// An admin removes whatever snapshot of ours stands.
    pub fn lose_snapshots(&self) {
        self.lock().taken.iter_mut().for_each(|frozen| frozen.gone = true);
    }

    /// The cycles whose snapshots stand.
    pub fn standing_cycles(&self) -> Vec<Cycle> {
        self.lock().taken.iter().filter(|frozen| !frozen.gone).map(|frozen| frozen.of.cycle).collect()
    }

    pub fn standing(&self) -> usize {
        self.lock().taken.iter().filter(|frozen| !frozen.gone).count()
    }

    /// Looks at all snapshots that were ever taken, the newest first.
    pub fn any_snapshot(&self, wanted: impl FnMut(&&Frozen) -> bool) -> bool {
        self.lock().taken.iter().rev().find(wanted).is_some()
    }

    fn take(&self, of: CycleId) -> Snapshot {
        let taken = self.1.wall();
        let mut inner = self.lock();
        let (generation, number) = (inner.generation, inner.number);
        let change_ids = DISKS.iter().map(|(disk, _)| (*disk, Some(ChangeId(format!("{generation}/{number}"))))).collect();
        let snapshot = Snapshot { reference: format!("snapshot-{}", inner.taken.len()), taken, change_ids };
        let bytes = inner.disks.iter().map(|disk| disk.bytes.clone()).collect();
        inner.taken.push(Frozen { of, snapshot: snapshot.clone(), bytes, numbers: (generation, number), gone: false });
        snapshot
    }

    fn changed(&self, reference: &str, disk: DiskKey, since: &ChangeId) -> Changes {
        let inner = self.lock();
        let Some(frozen) = inner.taken.iter().find(|frozen| frozen.snapshot.reference == reference && !frozen.gone) else {
            return Changes::Unknown(Some(Reason::SnapshotLost));
        };
        let (generation, number) = since.0.split_once('/').unwrap();
        let (generation, number): (u64, u64) = (generation.parse().unwrap(), number.parse().unwrap());
        if generation != frozen.numbers.0 || generation != inner.generation || number > frozen.numbers.1 {
            return Changes::Unknown(Some(Reason::ChangeTrackingReset));
        }
        let index = DISKS.iter().position(|(key, _)| *key == disk).unwrap();
        let sectors = DISKS[index].1 / SECTOR;
        let writes = inner.disks[index].writes.iter().filter(|(at, _)| *at > number && *at <= frozen.numbers.1);
        Changes::Areas(writes.map(|(_, range)| range.clone()).collect::<ExtentSet>().widen(GRAIN, sectors))
    }

    /// What a read of a snapshot's disk gives. Once the snapshot is gone, that is whatever the disk holds now.
    fn read(&self, reference: &str, disk: usize, offset: u64, length: u32) -> Vec<u8> {
        let inner = self.lock();
        let frozen = inner.taken.iter().find(|frozen| frozen.snapshot.reference == reference && !frozen.gone);
        let bytes = frozen.map_or(&inner.disks[disk].bytes, |frozen| &frozen.bytes[disk]);
        bytes[offset as usize..offset as usize + length as usize].to_vec()
    }

    fn find(&self) -> Vec<Found> {
        let inner = self.lock();
        inner.taken.iter().filter(|frozen| !frozen.gone).map(|frozen| Found { of: frozen.of, snapshot: frozen.snapshot.clone() }).collect()
    }

    fn release(&self, reference: &str) {
        self.lock().taken.iter_mut().filter(|frozen| frozen.snapshot.reference == reference).for_each(|frozen| frozen.gone = true);
    }

    fn stands(&self, reference: &str) -> bool {
        self.lock().taken.iter().any(|frozen| frozen.snapshot.reference == reference && !frozen.gone)
    }
}

impl Sim {
    /// The wall clock.
    pub fn wall(&self) -> jiff::Timestamp {
        Clock::now(self)
    }
}

/// One worker's way to the VM.
pub struct Control {
    pub vm: Vm,
    pub sim: Sim,
    pub actor: ActorId,
}

fn silent<T>() -> Result<T, SnapshotError> {
    Err(SnapshotError::unreachable("no answer"))
}

#[async_trait]
impl SnapshotControl for Control {
    async fn find(&self, _: VmId) -> Result<Vec<Found>, SnapshotError> {
        let vm = self.vm.clone();
        self.sim.io(self.actor, "find snapshots", move || Ok(vm.find()), silent).await
    }

    async fn take(&self, of: CycleId) -> Result<Snapshot, SnapshotError> {
        let (vm, sim) = (self.vm.clone(), self.sim.clone());
        // A task is made once: a repeated request is vCenter's own matter, and ends in the same task.
        let mut made = None;
        let effect = move || {
            Ok(made
                .get_or_insert_with(|| {
                    sim.note(format!("snapshot for cycle {}", of.cycle));
                    vm.take(of)
                })
                .clone())
        };
        self.sim.io(self.actor, "take snapshot", effect, silent).await
    }

    async fn stands(&self, snapshot: &Snapshot) -> Result<bool, SnapshotError> {
        let (vm, reference) = (self.vm.clone(), snapshot.reference.clone());
        self.sim.io(self.actor, "check snapshot", move || Ok(vm.stands(&reference)), silent).await
    }

    async fn changed(&self, snapshot: &Snapshot, disk: DiskKey, since: &ChangeId) -> Result<Changes, SnapshotError> {
        let (vm, reference, since) = (self.vm.clone(), snapshot.reference.clone(), since.clone());
        self.sim.io(self.actor, "query changes", move || Ok(vm.changed(&reference, disk, &since)), silent).await
    }

    async fn open(&self, snapshot: &Snapshot, disk: DiskKey) -> Result<Arc<dyn DiskSource>, SourceError> {
        let index = DISKS.iter().position(|(key, _)| *key == disk).unwrap();
        let control = Self { vm: self.vm.clone(), sim: self.sim.clone(), actor: self.actor };
        Ok(Arc::new(Source { control, reference: snapshot.reference.clone(), disk: index }))
    }

    async fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let (vm, reference) = (self.vm.clone(), snapshot.reference.clone());
        let effect = move || {
            vm.release(&reference);
            Ok(())
        };
        self.sim.io(self.actor, "release snapshot", effect, silent).await
    }
}

struct Source {
    control: Control,
    reference: String,
    disk: usize,
}

#[async_trait]
impl DiskSource for Source {
    fn size(&self) -> u64 {
        DISKS[self.disk].1
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, SourceError> {
        let (vm, reference, disk) = (self.control.vm.clone(), self.reference.clone(), self.disk);
        let effect = move || Ok(vm.read(&reference, disk, offset, length));
        self.control.sim.io(self.control.actor, "read", effect, || Err(SourceError::unreachable("no answer"))).await
    }

    async fn zeroes(&self, range: Range<u64>) -> Option<ExtentSet> {
        // A hint, and only sometimes given.
        if self.control.sim.random(|r| r.one_in(2)) {
            return None;
        }
        let inner = self.control.vm.lock();
        let frozen = inner.taken.iter().find(|frozen| frozen.snapshot.reference == self.reference && !frozen.gone)?;
        let bytes = &frozen.bytes[self.disk];
        let zero = |sector: &u64| bytes[(sector * SECTOR) as usize..((sector + 1) * SECTOR) as usize].iter().all(|byte| *byte == 0);
        Some((range.start / SECTOR..range.end / SECTOR).filter(zero).map(|sector| sector..sector + 1).collect())
    }
}

/// The bytes of a cycle's snapshot, by when it was taken.
pub fn snapshot_of(vm: &Vm, cycle: Cycle, taken: jiff::Timestamp) -> Option<Frozen> {
    vm.lock().taken.iter().rev().find(|frozen| frozen.of.cycle == cycle && frozen.snapshot.taken == taken).cloned()
}
