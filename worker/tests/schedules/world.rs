//! Log store and seeds behind the scheduler, and the rules that are looked at whenever either changes.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use blocklog::{
    cycle::{Manifest, Receipt},
    document,
    ids::{Digest, DiskKey, VmId},
    keys::{KeyRing, Secret},
    ledger::Ledger,
    names,
    plant::{Plant, planted},
    store::{Blob, ETag, LeaseId, Listed, LogStore, StoreError, When, memory::MemoryStore},
};
use bytes::Bytes;
use extents::{ExtentSet, SECTOR};
use futures::FutureExt;
use replica::{
    Condition, Fence, FenceKind, Permit, ReplicaDisk, ReplicaError,
    memory::{Body, HostKind, HostWrite, MemoryDisk, MemoryHost},
};
use uuid::Uuid;

use crate::{
    scheduler::{ActorId, Sim},
    vm::{DISKS, Vm, snapshot_of},
};

pub const VM: VmId = VmId { vcenter: Uuid::from_u128(0xc0), instance: Uuid::from_u128(0x11) };

/// A block of a schedule: small, so that thousands of schedules take seconds.
pub const BLOCK: u32 = 4096;

/// Everything that actors share.
#[derive(Clone)]
pub struct World {
    pub sim: Sim,
    pub vm: Vm,
    pub store: Arc<MemoryStore>,
    pub keys: KeyRing,
    pub hosts: BTreeMap<DiskKey, Arc<MemoryHost>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    ledger: Option<Ledger>,
    older: Vec<Ledger>,
    /// Which gateway staged what, by the folder of disk and epoch.
    epochs: BTreeMap<String, ActorId>,
    clean_writes: u32,
    /// The blob that is read with a changed byte, once.
    misread: Option<String>,
}

impl World {
    pub fn new(sim: Sim, kind: HostKind) -> Self {
        let store = Arc::new(MemoryStore::new(Arc::new(sim.clone())));
        let vm = Vm::new(&sim);
        let host = |(disk, capacity): &(DiskKey, u64)| {
            (*disk, MemoryHost::new(*capacity as usize, Some(Uuid::from_u128(u128::from(disk.0))), kind, Arc::new(sim.clone())))
        };
        let hosts = DISKS.iter().map(host).collect();
        Self { sim, vm, store, keys: KeyRing::single(1, Secret::new([42; 32])), hosts, seen: Arc::default() }
    }

    /// Does something to the store at once, as somebody whom no fault touches.
    pub fn now<T>(&self, work: impl Future<Output = T>) -> T {
        work.now_or_never().expect("memory answers at once")
    }

    pub fn read<D: document::Document>(&self, name: &str) -> Option<(D, Digest)> {
        let bytes = self.store.peek(name)?;
        match document::decode(&self.keys, name, &bytes) {
            Ok(document) => Some((document, Digest::of(&bytes))),
            Err(error) => {
                self.sim.violate(format!("{name} cannot be read: {error}"));
                None
            }
        }
    }

    pub fn ledger(&self) -> Option<Ledger> {
        self.read::<Ledger>(&names::ledger(VM)).map(|(ledger, _)| ledger)
    }

    /// A ledger as it once was.
    pub fn older_ledger(&self) -> Option<Ledger> {
        let seen = self.seen.lock().unwrap();
        let n = seen.older.len() as u64;
        (n > 0).then(|| seen.older[self.sim.random(|r| r.below(n)) as usize].clone())
    }

    /// The next read of a part of this blob gives a changed byte; what lies there is sound.
    pub fn misread_once(&self, name: &str) {
        self.seen.lock().unwrap().misread = Some(name.to_owned());
    }

    /// True where that is still to come; it is not any more then.
    pub fn is_misread(&self, name: &str) -> bool {
        self.seen.lock().unwrap().misread.take_if(|misread| misread == name).is_some()
    }

    pub fn clean_writes(&self) -> u32 {
        self.seen.lock().unwrap().clean_writes
    }

    /// The unique id that a disk carries now.
    pub fn seed_id(&self, disk: DiskKey) -> String {
        let client = MemoryDisk::new(Arc::clone(&self.hosts[&disk]), Arc::new(self.sim.clone()));
        self.now(client.unique_id()).unwrap_or_default()
    }

    /// Looks at a blob that has just changed.
    pub fn look(&self, name: &str) {
        if name.ends_with("/ledger") {
            self.look_at_ledger();
        } else if name.ends_with("/manifest") {
            self.look_at_manifest(name);
        } else if name.ends_with("/receipt") {
            self.look_at_receipt(name);
        }
    }

    /// Rule 1: a change ID advances only in the write that makes the replica clean, for the cycle that carried it. And whatever is clean is
    /// equal to its snapshot.
    fn look_at_ledger(&self) {
        let Some(next) = self.ledger() else { return };
        let previous = self.seen.lock().unwrap().ledger.replace(next.clone());
        let Some(previous) = previous else { return };
        for (disk, change_id) in &next.baseline {
            let carried = next.recovery_point.as_ref().and_then(|point| self.read::<Manifest>(&names::manifest(next.cycle(point.cycle))));
            let carried = carried.and_then(|(manifest, _)| manifest.disks.get(disk)?.change_id.clone());
            if previous.baseline.get(disk) != Some(change_id) && (!next.dirty.is_empty() || carried.as_ref() != Some(change_id)) {
                self.sim.violate(format!("rule 1: the change ID of disk {disk} became {change_id} outside of its clean write"));
            }
        }
        if next.turn < previous.turn {
            self.sim.violate("the ledger's turn went back");
        }
        let mut seen = self.seen.lock().unwrap();
        seen.clean_writes += u32::from(next.is_clean() && next.recovery_point != previous.recovery_point);
        seen.older.push(previous);
        drop(seen);
        self.look_at_replica("the ledger was written");
    }

    /// Whenever the ledger says clean, the replica equals the snapshot of its recovery point. Where the host ignores the time fence, the blocks of
    /// lost cycles are what a seal would read back.
    pub fn look_at_replica(&self, why: &str) {
        let Some(ledger) = self.seen.lock().unwrap().ledger.clone().filter(Ledger::is_clean) else { return };
        let Some(point) = &ledger.recovery_point else { return };
        let Some(frozen) = snapshot_of(&self.vm, point.cycle, point.time) else {
            return self.sim.violate(format!("the recovery point {point:?} is no snapshot that was ever taken"));
        };
        for (i, (disk, _)) in DISKS.iter().enumerate() {
            // A disk that somebody has put in the seed's place is not the replica, and the next applier refuses it.
            if self.seed_id(*disk) != ledger.seeds[disk].unique_id {
                continue;
            }
            let found = self.hosts[disk].peek();
            let known = self.lost(&ledger, *disk);
            let differs = |sector: &u64| {
                let range = (sector * SECTOR) as usize..((sector + 1) * SECTOR) as usize;
                found[range.clone()] != frozen.bytes[i][range] && !known.contains(*sector..sector + 1)
            };
            let wrong: Vec<_> = (0..found.len() as u64 / SECTOR).filter(differs).collect();
            if !wrong.is_empty() {
                let what =
                    format!("clean at cycle {}, but disk {disk} differs from its snapshot in sectors {wrong:?} ({why})", point.cycle);
                return self.sim.violate(what);
            }
        }
    }

    /// The sectors of lost cycles' blocks, where the host ignores the time fence.
    fn lost(&self, ledger: &Ledger, disk: DiskKey) -> ExtentSet {
        if !format!("{:?}", self.hosts[&disk]).contains("honours_header: false") {
            return ExtentSet::new();
        }
        let capacity = DISKS.iter().find(|(key, _)| *key == disk).map_or(0, |(_, capacity)| *capacity);
        let manifests = ledger.lost.iter().filter_map(|cycle| self.read::<Manifest>(&names::manifest(*cycle)));
        let sectors = manifests.filter_map(|(manifest, _)| Some(manifest.disks.get(&disk)?.extents.clone()));
        sectors.fold(ExtentSet::new(), |all, some| all.union(&some)).widen(u64::from(BLOCK) / SECTOR, capacity / SECTOR)
    }

    /// Rule 2: a manifest is never written before all its segments are durable.
    fn look_at_manifest(&self, name: &str) {
        let Some((manifest, _)) = self.read::<Manifest>(name) else { return };
        // One that arrives when its cycle is long over, and its segments deleted, is never applied: its basis has passed.
        if self.seen.lock().unwrap().ledger.as_ref().is_some_and(|ledger| manifest.of <= ledger.cycle(ledger.begun)) {
            return;
        }
        for (disk, sent) in &manifest.disks {
            for segment in &sent.segments {
                let of = blocklog::ids::DiskCycle { of: manifest.of, disk: *disk };
                let segment = names::segment(of, segment.epoch, segment.n);
                if self.store.peek(&segment).is_none() {
                    self.sim.violate(format!("rule 2: the manifest stands, {segment} does not"));
                }
            }
        }
    }

    /// Rule 2: a receipt is never written before all its writes are acknowledged, and so on the disk.
    fn look_at_receipt(&self, name: &str) {
        let Some((receipt, _)) = self.read::<Receipt>(name) else { return };
        // One that arrives late tells of a turn that is over; what it said was true then.
        if self
            .seen
            .lock()
            .unwrap()
            .ledger
            .as_ref()
            .is_none_or(|ledger| (ledger.turn, ledger.incarnation) != (receipt.turn, receipt.of.incarnation))
        {
            return;
        }
        let Some((manifest, _)) = self.read::<Manifest>(&names::manifest(receipt.of)) else { return };
        let Some(frozen) = snapshot_of(&self.vm, receipt.of.cycle, manifest.snapshot_taken) else { return };
        for (i, (disk, _)) in DISKS.iter().enumerate() {
            let found = self.hosts[disk].peek();
            let Some(sent) = manifest.disks.get(disk).filter(|sent| sent.seed == self.seed_id(*disk)) else { continue };
            let known = self.ledger().map(|ledger| self.lost(&ledger, *disk)).unwrap_or_default();
            for range in sent.extents.difference(&known).byte_ranges() {
                let range = range.start as usize..range.end as usize;
                if found[range.clone()] != frozen.bytes[i][range] {
                    self.sim
                        .violate(format!("rule 2: the receipt of cycle {} stands, disk {disk} does not hold its blocks", receipt.of.cycle));
                    return;
                }
            }
        }
    }

    /// Rule 5: no block reaches a replica that was not in a snapshot.
    fn look_at_write(&self, disk: DiskKey, range: Range<usize>) {
        let i = DISKS.iter().position(|(key, _)| *key == disk).unwrap_or_default();
        let found = self.hosts[&disk].peek();
        // A run of neighbours may come from one cycle only, so some snapshot holds all of it.
        let known = self.vm.any_snapshot(|frozen| frozen.bytes[i][range.clone()] == found[range.clone()]);
        if !known {
            self.sim.violate(format!("rule 5: bytes that were in no snapshot were written to disk {disk} at {range:?}"));
        }
    }
}

/// One actor's way to the log store.
pub struct ActorStore {
    pub world: World,
    pub actor: ActorId,
}

impl ActorStore {
    async fn io<T: Send + 'static>(
        &self,
        what: &str,
        name: &str,
        mut work: impl FnMut(&World) -> Result<T, StoreError> + Send + 'static,
        changes: bool,
    ) -> Result<T, StoreError> {
        let (world, looked) = (self.world.clone(), name.to_owned());
        let effect = move || {
            let result = work(&world);
            if changes && result.is_ok() {
                world.look(&looked);
            }
            result
        };
        self.world.sim.io(self.actor, &format!("{what} {name}"), effect, || Err(StoreError::Unreachable("no answer".to_owned()))).await
    }
}

#[async_trait]
impl LogStore for ActorStore {
    async fn get(&self, name: &str) -> Result<Option<Blob>, StoreError> {
        let n = name.to_owned();
        self.io("get", name, move |world| world.now(world.store.get(&n)), false).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let n = name.to_owned();
        let work = move |world: &World| {
            let mut bytes = world.now(world.store.get_range(&n, range.clone()))?.to_vec();
            if world.is_misread(&n) {
                bytes[90] ^= 1;
            }
            Ok(bytes.into())
        };
        self.io("get", name, work, false).await
    }

    async fn put(&self, name: &str, body: Bytes, when: When, lease: Option<LeaseId>) -> Result<ETag, StoreError> {
        let n = name.to_owned();
        self.io("put", name, move |world| world.now(world.store.put(&n, body.clone(), when.clone(), lease)), true).await
    }

    async fn stage(&self, name: &str, part: u32, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        let (n, actor) = (name.to_owned(), self.actor);
        let folder = name.rsplit_once('-').map_or(name, |(folder, _)| folder).to_owned();
        let work = move |world: &World| {
            let first = *world.seen.lock().unwrap().epochs.entry(folder.clone()).or_insert(actor);
            if first != actor {
                world.sim.violate(format!("two gateways wrote under one epoch and its data key: {folder}"));
            }
            world.now(world.store.stage(&n, part, pieces.clone()))
        };
        self.io("stage", name, work, false).await
    }

    async fn commit(&self, name: &str, parts: u32) -> Result<(), StoreError> {
        let n = name.to_owned();
        self.io("commit", name, move |world| world.now(world.store.commit(&n, parts)), true).await
    }

    async fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<bool, StoreError> {
        let n = name.to_owned();
        self.io("delete", name, move |world| world.now(world.store.delete(&n, lease)), true).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let n = prefix.to_owned();
        self.io("list", prefix, move |world| world.now(world.store.list(&n)), false).await
    }

    async fn acquire(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        let n = name.to_owned();
        self.io("lease", name, move |world| world.now(world.store.acquire(&n, lease)), false).await
    }

    async fn renew(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        let n = name.to_owned();
        self.io("renew", name, move |world| world.now(world.store.renew(&n, lease)), false).await
    }

    async fn release(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        let n = name.to_owned();
        self.io("release", name, move |world| world.now(world.store.release(&n, lease)), false).await
    }

    async fn break_lease(&self, name: &str) -> Result<(), StoreError> {
        let n = name.to_owned();
        self.io("break", name, move |world| world.now(world.store.break_lease(&n)), false).await
    }
}

/// One actor's handle on a seed: the client's side is the real one's, the host's side is reached through the scheduler.
pub struct ActorDisk {
    world: World,
    actor: ActorId,
    disk: DiskKey,
    client: MemoryDisk,
    /// With a planted fault, what stands in the place of a fence.
    unfenced: Condition,
}

impl ActorDisk {
    pub fn new(world: &World, actor: ActorId, disk: DiskKey) -> Self {
        let host = Arc::clone(&world.hosts[&disk]);
        let unfenced = if planted(Plant::NoFence) { Condition::None } else { Condition::SequenceIs(host.raise_sequence(0)) };
        let client = MemoryDisk::new(host, Arc::new(world.sim.clone()));
        Self { world: world.clone(), actor, disk, client, unfenced }
    }

    fn prepared(&self, permit: Permit, offset: u64, body: Body) -> Result<HostWrite, ReplicaError> {
        let write = match &body {
            Body::Data(data) => self.client.prepare_write(permit, offset, data.clone()),
            Body::Zeros(length) => self.client.prepare_clear(permit, offset, *length),
        };
        match write {
            // The client refuses to write without a fence; a planted fault goes on with what a careless one would send.
            Err(ReplicaError::Invalid(_)) if planted(Plant::NoFence) || planted(Plant::FenceOnlyAtTakeOver) => {
                Ok(HostWrite { instance: self.world.hosts[&self.disk].instance(), condition: self.unfenced, offset, body })
            }
            write => write,
        }
    }

    async fn send(&self, permit: Permit, write: HostWrite) -> Result<(), ReplicaError> {
        let (world, disk) = (self.world.clone(), self.disk);
        let length = match &write.body {
            Body::Data(data) => data.len(),
            Body::Zeros(length) => *length as usize,
        };
        let range = write.offset as usize..write.offset as usize + length;
        let written = range.clone();
        let effect = move || {
            let result = world.hosts[&disk].deliver(&write).map_err(|refused| MemoryDisk::answer(permit.turn, refused));
            if result.is_err() {
                world.sim.note(format!("a write of turn {} to disk {disk} is fenced out", permit.turn));
            } else {
                world.look_at_write(disk, written.clone());
                world.look_at_replica("a write arrived");
            }
            result
        };
        let what = format!("write disk {} at {range:?} turn {}", self.disk, permit.turn);
        self.world.sim.io(self.actor, &what, effect, || Err(ReplicaError::Unreachable("no answer".to_owned()))).await
    }
}

#[async_trait]
impl ReplicaDisk for ActorDisk {
    fn capacity(&self) -> u64 {
        self.client.capacity()
    }

    fn fence_kind(&self) -> FenceKind {
        self.client.fence_kind()
    }

    async fn unique_id(&self) -> Result<String, ReplicaError> {
        self.client.unique_id().await
    }

    async fn raise_fence(&self, fence: Fence) -> Result<(), ReplicaError> {
        let lost = || Err(ReplicaError::Unreachable("no answer".to_owned()));
        let what = format!("fence disk {} turn {}", self.disk, fence.turn);
        let (host, kind) = (Arc::clone(&self.world.hosts[&self.disk]), self.client.fence_kind());
        // What the real client sends, as a request that can be late, doubled or lost. It says the same each time it arrives.
        let effect = move || {
            let _ = match kind {
                FenceKind::Exact => Some(host.raise_sequence(fence.turn)),
                FenceKind::Time => host.rewrite_footer().map(|_| 0),
            };
            Ok(())
        };
        if kind == FenceKind::Exact {
            self.world.sim.io(self.actor, &what, effect, lost).await?;
            return self.client.raise_fence(fence).await;
        }
        // The time fence waits first, and looks at the answer; a copy of its request may arrive whenever it likes.
        self.client.raise_fence(fence).await?;
        self.world.sim.io(self.actor, &what, effect, lost).await
    }

    async fn write(&self, permit: Permit, offset: u64, data: Bytes) -> Result<(), ReplicaError> {
        let write = self.prepared(permit, offset, Body::Data(data))?;
        self.send(permit, write).await
    }

    async fn clear(&self, permit: Permit, offset: u64, length: u64) -> Result<(), ReplicaError> {
        let write = self.prepared(permit, offset, Body::Zeros(length))?;
        self.send(permit, write).await
    }

    async fn flush(&self) -> Result<(), ReplicaError> {
        Ok(())
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, ReplicaError> {
        self.client.read(offset, length).await
    }
}
