//! One VM whose cycles are run: its ledger, its snapshots, its order, its replicas.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use blocklog::{
    clock::SystemClock,
    cycle::{Manifest, Order, OrderSeed, Snapshot, State},
    document,
    entropy::{Entropy, SystemEntropy},
    ids::{ChangeId, Cycle, CycleId, DiskKey, Incarnation, Owner, VmId},
    keys::{KeyRing, Secret},
    ledger::{Ledger, Seed},
    names,
    store::directory::DirectoryStore,
};
use extents::ExtentSet;
use replica::{ReplicaDisk, ReplicaError, raw_file::RawFileDisk};
use serde::{Deserialize, Serialize};
use source::{
    DiskSource, SourceError,
    nbd::{NbdAddress, NbdSource, NbdTarget},
    raw::RawFile,
};
use uuid::Uuid;
use worker::{
    applier::{self, ReplicaOpener},
    cpu::Threads,
    env::{Env, Event, Limits, Progress},
    gateway,
    snapshot::{Changes, Found, SnapshotControl, SnapshotError},
    throttle::Throttle,
};

use crate::{
    child::{Outcome, cpu_time, peak},
    data::Areas,
};

const VM: VmId = VmId { vcenter: Uuid::from_u128(1), instance: Uuid::from_u128(2) };
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(3));

/// Where a disk is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Source {
    /// A raw file.
    File(PathBuf),
    /// An NBD server's unix socket.
    Nbd(PathBuf),
}

impl Source {
    /// Opens it.
    pub async fn open(&self) -> Result<Arc<dyn DiskSource>, SourceError> {
        Ok(match self {
            Self::File(path) => Arc::new(RawFile::open(path).await?),
            Self::Nbd(socket) => {
                let target = NbdTarget { address: NbdAddress::Unix(socket.clone()), export: String::new(), tls: None };
                Arc::new(NbdSource::connect(target).await?)
            }
        })
    }
}

/// A VM and one cycle of it. Log and replicas lie in `folder` and outlive the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rig {
    /// Empty before the first cycle.
    pub folder: PathBuf,
    /// Its number, from 1. The first is `Full`, the others send `areas`.
    pub cycle: u64,
    /// Threads that compute.
    pub threads: usize,
    /// The disks and their bytes.
    pub disks: Vec<(Source, u64)>,
    /// What has changed since the cycle before.
    pub areas: Option<Areas>,
}

/// Sums what it is told.
#[derive(Default)]
struct Sums {
    read: AtomicU64,
    applied: AtomicU64,
}

impl Progress for Sums {
    fn note(&self, event: Event) {
        match event {
            Event::Read { step, .. } => drop(self.read.fetch_add(step.read, Ordering::Relaxed)),
            Event::Applied { bytes, .. } => drop(self.applied.fetch_add(bytes, Ordering::Relaxed)),
            Event::Waiting { reason, message } => panic!("{reason}: {message}"),
            Event::Reading { .. } | Event::Sent | Event::Applying { .. } | Event::Answered => {}
        }
    }
}

impl Rig {
    fn of(&self) -> CycleId {
        CycleId { vm: VM, incarnation: INCARNATION, cycle: Cycle(self.cycle) }
    }

    fn owner() -> Owner {
        Owner { cluster: "bench".to_owned(), object: "default/vm".to_owned() }
    }

    fn disks(&self) -> impl Iterator<Item = (DiskKey, &(Source, u64))> {
        (2000..).map(DiskKey).zip(&self.disks)
    }

    /// The replica of a disk.
    pub fn replica(&self, n: usize) -> PathBuf {
        self.folder.join(format!("{}.raw", 2000 + n))
    }

    fn env(&self, sums: Arc<Sums>) -> Env {
        let clock = Arc::new(SystemClock::new());
        // The first random number of a process takes some 30 ms (the generator tests its source): that is a process's start, not its work.
        SystemEntropy.uuid();
        Env {
            store: Arc::new(DirectoryStore::open(self.folder.join("log"), clock.clone()).unwrap()),
            keys: KeyRing::single(1, Secret::new([7; 32])),
            throttle: Arc::new(Throttle::new(clock.clone(), None)),
            clock,
            entropy: Arc::new(SystemEntropy),
            cpu: Arc::new(Threads::new(self.threads).unwrap()),
            limits: Limits::default(),
            progress: sums,
        }
    }

    /// Reads the snapshot into the log.
    pub async fn gateway(&self) -> Outcome {
        let sums = Arc::new(Sums::default());
        let env = self.env(sums.clone());
        let ledger = match document::read::<Ledger>(env.store.as_ref(), &env.keys, &names::ledger(VM)).await.unwrap() {
            Some((ledger, _)) => ledger,
            None => self.begin(&env).await,
        };
        let state = State::new(self.of(), Self::owner(), ledger.turn);
        document::write_new(env.store.as_ref(), &env.keys, &state.name(), &state).await.unwrap();
        let control = Control { rig: self, env: &env, found: Mutex::default() };
        let job = gateway::Job { of: self.of(), owner: Self::owner(), full: false };
        let mut outcome = measured(&env, async {
            let end = gateway::run(&env, &control, &job).await.unwrap();
            assert!(matches!(end, gateway::End::Sent { .. }), "{end:?}");
        })
        .await;
        let (manifest, _) = document::require::<Manifest>(env.store.as_ref(), &env.keys, &names::manifest(self.of())).await.unwrap();
        outcome.read = sums.read.load(Ordering::Relaxed);
        outcome.uploaded = manifest.disks.values().map(|disk| disk.figures.uploaded).sum();
        outcome
    }

    /// A ledger with new seeds.
    async fn begin(&self, env: &Env) -> Ledger {
        let mut seeds = BTreeMap::new();
        for (n, (key, (_, capacity))) in self.disks().enumerate() {
            let (path, id) = (self.replica(n), Uuid::from_u128(u128::from(key.0)));
            RawFileDisk::create(&path, *capacity, id).await.unwrap();
            seeds.insert(key, Seed { id: path.display().to_string(), unique_id: id.to_string(), capacity: *capacity });
        }
        let ledger = Ledger::new(VM, Self::owner(), INCARNATION, blocklog::codec::MAX_BLOCK, seeds);
        document::write_new(env.store.as_ref(), &env.keys, &names::ledger(VM), &ledger).await.unwrap();
        ledger
    }

    /// Applies the cycle's log to the replicas.
    pub async fn apply(&self) -> Outcome {
        let sums = Arc::new(Sums::default());
        let env = self.env(sums.clone());
        let (manifest, digest) = document::require::<Manifest>(env.store.as_ref(), &env.keys, &names::manifest(self.of())).await.unwrap();
        let seal = |(disk, sent): (&DiskKey, &blocklog::cycle::ManifestDisk)| {
            (*disk, OrderSeed::seal(&env.keys, VM, INCARNATION, *disk, &sent.seed, b"by its key", &SystemEntropy))
        };
        let seeds = manifest.disks.iter().map(seal).collect();
        let order = Order { of: self.of(), owner: Self::owner(), manifest: digest, seeds, tokens: BTreeMap::new() };
        let name = names::order(&Self::owner(), VM);
        document::write_new(env.store.as_ref(), &env.keys, &name, &order).await.unwrap();
        drop((manifest, order));
        let mut outcome = measured(&env, async {
            let end = applier::run(&env, &Opener(self), &Self::owner(), VM).await.unwrap();
            assert_eq!(end, applier::End::Clean);
        })
        .await;
        env.store.delete(&name, None).await.unwrap();
        outcome.applied = sums.applied.load(Ordering::Relaxed);
        outcome
    }
}

async fn measured(env: &Env, work: impl Future<Output = ()>) -> Outcome {
    let (idle, used, begin) = (peak(), cpu_time(), env.clock.monotonic());
    work.await;
    let seconds = (env.clock.monotonic() - begin).as_secs_f64();
    Outcome { seconds, cpu: cpu_time() - used, idle, peak: peak(), ..Outcome::default() }
}

/// A VM that nothing happens to.
struct Control<'a> {
    rig: &'a Rig,
    env: &'a Env,
    found: Mutex<Option<Found>>,
}

#[async_trait]
impl SnapshotControl for Control<'_> {
    async fn find(&self, _: VmId) -> Result<Vec<Found>, SnapshotError> {
        Ok(self.found.lock().unwrap().iter().cloned().collect())
    }

    async fn take(&self, of: CycleId) -> Result<Snapshot, SnapshotError> {
        let change_ids = self.rig.disks().map(|(key, _)| (key, Some(ChangeId(format!("bench/{}", of.cycle))))).collect();
        let snapshot = Snapshot { reference: "bench".to_owned(), taken: self.env.clock.now(), change_ids };
        *self.found.lock().unwrap() = Some(Found { of, snapshot: snapshot.clone() });
        Ok(snapshot)
    }

    async fn stands(&self, _: &Snapshot) -> Result<bool, SnapshotError> {
        Ok(true)
    }

    async fn changed(&self, _: &Snapshot, disk: DiskKey, _: &ChangeId) -> Result<Changes, SnapshotError> {
        let capacity = self.rig.disks().find(|(key, _)| *key == disk).map_or(0, |(_, (_, capacity))| *capacity);
        Ok(match self.rig.areas {
            Some(areas) => Changes::Areas(ExtentSet::from_bytes(areas.ranges(), capacity)),
            None => Changes::Unknown(None),
        })
    }

    async fn open(&self, _: &Snapshot, disk: DiskKey) -> Result<Arc<dyn DiskSource>, SourceError> {
        let (_, (source, _)) = self.rig.disks().find(|(key, _)| *key == disk).unwrap();
        source.open().await
    }

    async fn release(&self, _: &Snapshot) -> Result<(), SnapshotError> {
        *self.found.lock().unwrap() = None;
        Ok(())
    }
}

struct Opener<'a>(&'a Rig);

#[async_trait]
impl ReplicaOpener for Opener<'_> {
    async fn open(&self, disk: DiskKey, _: &[u8]) -> Result<Arc<dyn ReplicaDisk>, ReplicaError> {
        Ok(Arc::new(RawFileDisk::open(self.0.replica((disk.0 - 2000) as usize)).await?))
    }
}
