use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU32},
};

use async_trait::async_trait;
use blocklog::{
    cycle::{Epochs, Mode},
    entropy::SystemEntropy,
    ids::{ChangeId, Cycle, CycleId, DiskCycle, Epoch, Incarnation, VmId},
    keys::KeyRing,
    store::memory::MemoryStore,
    test_support::ManualClock,
};
use uuid::Uuid;

use super::*;
use crate::{
    cpu::Threads,
    env::{Limits, Silent},
    snapshot::{Changes, Found},
    throttle::Throttle,
};

const BLOCK: u64 = 1 << 20;
const BLOCKS: u64 = 16;

/// A host that serves one disk: so many reads at a time, and none after so many, until it is opened anew.
struct Host {
    /// How many reads it has memory for.
    memory: u32,
    /// After how many reads a session dies.
    lives: u32,
    stands: AtomicBool,
    opened: AtomicU32,
    at_once: AtomicU32,
    most: AtomicU32,
    starved: AtomicU32,
    /// What was asked for, in the order of answers.
    read: std::sync::Mutex<Vec<u64>>,
}

impl Host {
    fn new(memory: u32, lives: u32) -> Arc<Self> {
        let zero = AtomicU32::default;
        let (stands, read) = (AtomicBool::new(true), std::sync::Mutex::default());
        Arc::new(Self { memory, lives, stands, opened: zero(), at_once: zero(), most: zero(), starved: zero(), read })
    }
}

struct Opened {
    host: Arc<Host>,
    left: AtomicU32,
}

#[async_trait]
impl DiskSource for Opened {
    fn size(&self) -> u64 {
        BLOCKS * BLOCK
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, SourceError> {
        let less = |left: u32| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_err() {
            return Err(SourceError::unreachable("the host has restarted"));
        }
        let at_once = self.host.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.host.most.fetch_max(at_once, Ordering::SeqCst);
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        self.host.at_once.fetch_sub(1, Ordering::SeqCst);
        if at_once > self.host.memory {
            self.host.starved.fetch_add(1, Ordering::SeqCst);
            return Err(SourceError::Exhausted { offset, length, message: "no memory".into() });
        }
        self.host.read.lock().unwrap().push(offset / BLOCK);
        Ok(vec![7; length as usize])
    }

    async fn zeroes(&self, _: Range<u64>) -> Option<ExtentSet> {
        None
    }
}

struct Control(Arc<Host>);

#[async_trait]
impl SnapshotControl for Control {
    async fn find(&self, _: VmId) -> Result<Vec<Found>, SnapshotError> {
        unreachable!()
    }

    async fn take(&self, _: CycleId) -> Result<Snapshot, SnapshotError> {
        unreachable!()
    }

    async fn stands(&self, _: &Snapshot) -> Result<bool, SnapshotError> {
        Ok(self.0.stands.load(Ordering::SeqCst))
    }

    async fn changed(&self, _: &Snapshot, _: DiskKey, _: &ChangeId) -> Result<Changes, SnapshotError> {
        unreachable!()
    }

    async fn open(&self, _: &Snapshot, _: DiskKey) -> Result<Arc<dyn DiskSource>, SourceError> {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(Opened { host: self.0.clone(), left: AtomicU32::new(self.0.lives) }))
    }

    async fn release(&self, _: &Snapshot) -> Result<(), SnapshotError> {
        unreachable!()
    }
}

fn env() -> Env {
    let clock = ManualClock::new();
    clock.auto_advance(true);
    let clock = Arc::new(clock);
    Env {
        store: Arc::new(MemoryStore::new(clock.clone())),
        keys: KeyRing::parse(&KeyRing::new_file(1, &SystemEntropy)).unwrap(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
        cpu: Arc::new(Threads::new(1).unwrap()),
        throttle: Arc::new(Throttle::new(clock, None)),
        limits: Limits::default(),
        progress: Arc::new(Silent),
    }
}

/// Sends the whole disk, as a cycle in `Changed` does; the offsets of its records, in blocks.
async fn transferred(env: &Env, host: &Arc<Host>) -> Result<Vec<u64>, GatewayError> {
    transferred_of(env, host, BLOCKS).await
}

/// The same for a seed that was made for so many blocks.
async fn transferred_of(env: &Env, host: &Arc<Host>, blocks: u64) -> Result<Vec<u64>, GatewayError> {
    let capacity = blocks * BLOCK;
    let vm = VmId { vcenter: Uuid::nil(), instance: Uuid::nil() };
    let place = Place { vm, incarnation: Incarnation(Uuid::nil()), disk: DiskKey(2000), capacity, block: BLOCK as u32 };
    let target = ExtentSet::all(capacity / SECTOR);
    let plan = DiskPlan { place, mode: Mode::Changed, changed: target.bytes(), target, fingerprints: None };
    let control = Control(host.clone());
    let snapshot = Snapshot { reference: "snapshot-1".into(), taken: jiff::Timestamp::UNIX_EPOCH, change_ids: BTreeMap::new() };
    let counters = Counters::default();
    let of = CycleId { vm, incarnation: place.incarnation, cycle: Cycle(7) };
    let key = Epochs::default().add(&env.keys, of, Epoch(1), env.entropy.as_ref());
    let sealer = Sealer::new(DiskCycle { of, disk: place.disk }, &key);
    let records = records(env, &control, &snapshot, plan, sealer, Budget::new(16 << 20), &counters).await?;
    let offsets = records.map_ok(|out| match out {
        Out::Data(record, _) => record.descriptor.offset / BLOCK,
        Out::Zero(range) => panic!("{range:?} is not zero"),
    });
    offsets.try_collect().await
}

#[tokio::test]
async fn a_host_without_memory_is_asked_for_less_at_a_time() {
    let (env, host) = (env(), Host::new(1, u32::MAX));
    assert_eq!(transferred(&env, &host).await.unwrap(), (0..BLOCKS).collect::<Vec<_>>());
    assert_eq!(host.most.load(Ordering::SeqCst), 4, "it was asked for all at first");
    // One read less after each refusal: what is refused after the third is a read that was under way by then.
    assert!((3..=6).contains(&host.starved.load(Ordering::SeqCst)), "{:?}", host.starved);
    assert_eq!(host.opened.load(Ordering::SeqCst), 1, "its session is sound");
    // One that has the memory is asked for as much as ever.
    let host = Host::new(4, u32::MAX);
    transferred(&env, &host).await.unwrap();
    assert_eq!((host.most.load(Ordering::SeqCst), host.starved.load(Ordering::SeqCst)), (4, 0));
}

#[tokio::test]
async fn a_session_that_dies_is_opened_anew_where_the_reading_was() {
    let (env, host) = (env(), Host::new(u32::MAX, 5));
    assert_eq!(transferred(&env, &host).await.unwrap(), (0..BLOCKS).collect::<Vec<_>>());
    assert!((4..=8).contains(&host.opened.load(Ordering::SeqCst)), "{:?}", host.opened);
    let mut read = host.read.lock().unwrap().clone();
    read.sort_unstable();
    assert_eq!(read, (0..BLOCKS).collect::<Vec<_>>(), "no block was read twice");
}

#[tokio::test]
async fn a_disk_whose_snapshot_is_gone_is_not_opened_anew() {
    let (env, host) = (env(), Host::new(u32::MAX, 5));
    host.stands.store(false, Ordering::SeqCst);
    let error = transferred(&env, &host).await.unwrap_err();
    assert!(matches!(error, GatewayError::Source { error: SourceError::Unreachable { .. }, .. }), "{error}");
    assert_eq!(host.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_disk_of_another_size_than_its_seed_is_not_read() {
    let (env, host) = (env(), Host::new(u32::MAX, u32::MAX));
    let grown = transferred_of(&env, &host, BLOCKS - 1).await.unwrap_err();
    assert!(matches!(grown, GatewayError::SourceGrown { .. }) && grown.is_for_good(), "{grown}");
    let short = transferred_of(&env, &host, BLOCKS + 1).await.unwrap_err();
    assert!(matches!(short, GatewayError::Source { error: SourceError::TooShort { .. }, .. }) && short.is_for_good(), "{short}");
    assert!(host.read.lock().unwrap().is_empty());
}
