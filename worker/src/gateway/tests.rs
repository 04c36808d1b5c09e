//! A whole cycle against a source that counts what it is asked.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use async_trait::async_trait;
use blocklog::{
    entropy::SystemEntropy,
    ids::{ChangeId, Cycle, Incarnation, Turn, VmId},
    keys::KeyRing,
    ledger::Seed,
    store::memory::MemoryStore,
    test_support::ManualClock,
};
use extents::SECTOR;
use reasons::Reason;
use source::DiskSource;
use uuid::Uuid;

use super::*;
use crate::{cpu::Threads, env::Silent, snapshot::Found, throttle::Throttle};

const CAPACITY: u64 = 8 << 20;
const DISKS: [DiskKey; 2] = [DiskKey(2000), DiskKey(2001)];

fn vm() -> VmId {
    VmId { vcenter: Uuid::nil(), instance: Uuid::from_u128(1) }
}

/// A VM with two disks, of which the first mebibyte has changed.
#[derive(Default)]
struct Vm {
    /// Its hosts refuse to be read.
    silent: AtomicBool,
    /// How often it was asked what has changed.
    asked: AtomicU32,
    taken: Mutex<Option<Found>>,
}

struct Disk;

#[async_trait]
impl DiskSource for Disk {
    fn size(&self) -> u64 {
        CAPACITY
    }

    async fn read(&self, _: u64, length: u32) -> Result<Vec<u8>, SourceError> {
        Ok(vec![7; length as usize])
    }

    async fn zeroes(&self, _: std::ops::Range<u64>) -> Option<ExtentSet> {
        None
    }
}

#[async_trait]
impl SnapshotControl for Vm {
    async fn find(&self, _: VmId) -> Result<Vec<Found>, SnapshotError> {
        Ok(self.taken.lock().unwrap().iter().cloned().collect())
    }

    async fn take(&self, of: CycleId) -> Result<Snapshot, SnapshotError> {
        let change_ids = DISKS.map(|disk| (disk, Some(ChangeId("52/2".into())))).into();
        let snapshot = Snapshot { reference: "snapshot-1".into(), taken: jiff::Timestamp::UNIX_EPOCH, change_ids };
        *self.taken.lock().unwrap() = Some(Found { of, snapshot: snapshot.clone() });
        Ok(snapshot)
    }

    async fn stands(&self, _: &Snapshot) -> Result<bool, SnapshotError> {
        Ok(self.taken.lock().unwrap().is_some())
    }

    async fn changed(&self, _: &Snapshot, _: DiskKey, _: &ChangeId) -> Result<Changes, SnapshotError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(Changes::Areas(ExtentSet::all((1 << 20) / SECTOR)))
    }

    async fn open(&self, _: &Snapshot, _: DiskKey) -> Result<Arc<dyn DiskSource>, SourceError> {
        match self.silent.load(Ordering::SeqCst) {
            true => Err(SourceError::Unreachable { reason: Reason::SourceUnreachable, message: "no answer".into() }),
            false => Ok(Arc::new(Disk)),
        }
    }

    async fn release(&self, _: &Snapshot) -> Result<(), SnapshotError> {
        *self.taken.lock().unwrap() = None;
        Ok(())
    }
}

/// A cycle that is claimed, of a VM whose last cycle is clean.
async fn claimed() -> (Env, Job) {
    let clock = ManualClock::new();
    clock.auto_advance(true);
    let clock = Arc::new(clock);
    let env = Env {
        store: Arc::new(MemoryStore::new(clock.clone())),
        keys: KeyRing::parse(&KeyRing::new_file(1, &SystemEntropy)).unwrap(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
        cpu: Arc::new(Threads::new(1).unwrap()),
        throttle: Arc::new(Throttle::new(clock, None)),
        limits: Default::default(),
        progress: Arc::new(Silent),
    };
    let owner = Owner { cluster: "west".into(), object: "default/web".into() };
    let seed = |disk: DiskKey| Seed { id: format!("seed-{disk}"), unique_id: format!("seed-{disk}"), capacity: CAPACITY };
    let seeds = DISKS.map(|disk| (disk, seed(disk))).into();
    let mut ledger = Ledger::new(vm(), owner.clone(), Incarnation(Uuid::nil()), 1 << 20, seeds);
    (ledger.begun, ledger.turn) = (Cycle(1), Turn(1));
    ledger.baseline = DISKS.map(|disk| (disk, ChangeId("52/1".into()))).into();
    let state = State::new(ledger.cycle(Cycle(2)), owner.clone(), ledger.turn);
    document::write_new(env.store.as_ref(), &env.keys, &names::ledger(vm()), &ledger).await.unwrap();
    document::write_new(env.store.as_ref(), &env.keys, &state.name(), &state).await.unwrap();
    (env, Job { of: state.of, owner, full: false })
}

#[tokio::test]
async fn changed_areas_are_asked_for_once_a_disk() {
    let ((env, job), vm) = (claimed().await, Vm::default());
    assert!(matches!(run(&env, &vm, &job).await.unwrap(), End::Sent { .. }));
    assert_eq!(vm.asked.load(Ordering::SeqCst), DISKS.len() as u32);
    let name = names::manifest(job.of);
    let (manifest, _) = document::require::<Manifest>(env.store.as_ref(), &env.keys, &name).await.unwrap();
    assert!(manifest.disks.values().all(|disk| disk.mode == Mode::Changed && disk.extents.bytes() == 1 << 20));
}

#[tokio::test]
async fn a_successor_asks_for_the_changed_areas_again() {
    let ((env, job), vm) = (claimed().await, Vm::default());
    vm.silent.store(true, Ordering::SeqCst);
    assert!(matches!(run(&env, &vm, &job).await, Err(GatewayError::Source { .. })));
    assert_eq!(vm.asked.load(Ordering::SeqCst), DISKS.len() as u32);
    vm.silent.store(false, Ordering::SeqCst);
    assert!(matches!(run(&env, &vm, &job).await.unwrap(), End::Sent { .. }));
    assert_eq!(vm.asked.load(Ordering::SeqCst), 2 * DISKS.len() as u32);
}
