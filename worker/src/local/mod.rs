//! One cycle on one machine, from a file: the operator's part without a cluster.
//!
//! Claims the cycle's number, runs the gateway, writes the order, runs the applier, cleans up. What an interrupted run has left is looked for
//! first and finished: the same steps, taken from where they stopped.

mod compare;
pub mod file;
mod images;
mod inspect;
mod mend;
mod open;
mod outcome;
mod seeds;
mod verify;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use blocklog::{
    LogError,
    clock::{Clock, SystemClock},
    cycle::{KeyCheck, Manifest, Mode, Order, OrderSeed, Receipt},
    document,
    entropy::SystemEntropy,
    held::MARGIN,
    ids::{CycleId, Digest, DiskKey},
    key_check,
    ledger::{Ledger, Refusal},
    names,
    steward::{Due, Steward},
    store::{LEASE, StoreError, When},
};
use reasons::Reason;
use replica::{
    ReplicaDisk, ReplicaError,
    access::{self, Purpose, ReplicaAccess},
};
use zeroize::Zeroizing;

pub use self::{
    compare::Differences,
    inspect::{CycleSummary, Damage, IncarnationSummary, Inspector, Looked, Summary, Tally, VmSummary},
    mend::forget_fingerprints,
    outcome::{AppliedBytes, DiskOutcome, Outcome},
    verify::{Checked, verify},
};
use self::{file::CycleFile, images::Images, open::Use};
use crate::{
    applier::{self, ApplierError, ReplicaOpener},
    cpu::Threads,
    env::{Env, Event, Limits, Progress},
    failure::{Failure, Kind, blob_remedy},
    gateway::{self, GatewayError, Job},
    leases::Leases,
    outage::Telling,
    patience::pause,
    snapshot::SnapshotError,
    throttle::Throttle,
};

/// The pause between two looks at a lease that another holds.
const PAUSE: Duration = Duration::from_secs(2);

/// The order's token that says which images its cycle has seen. Through it a run that finishes an interrupted one knows whether a new cycle is due.
const IMAGES: &str = "images";

/// How often a gateway or an applier is started anew after an error that may pass. Each has tried for minutes by itself.
const STARTS: u32 = 3;

/// What a run on one machine reports beside the [`Event`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEvent {
    /// A cycle begins, or goes on.
    Cycle {
        of: CycleId,
        /// True where an interrupted run began it.
        resumed: bool,
    },
    /// Something is not as it should be, and the run goes on.
    Warning(String),
    /// A disk is compared with its replica: bytes done, and all.
    Comparing {
        disk: DiskKey,
        /// Bytes compared so far.
        done: u64,
        /// Bytes in all.
        of: u64,
    },
}

/// Receives what a run reports. It must not block.
pub trait Listener: Progress {
    fn tell(&self, told: RunEvent);
}

/// What a run is asked beside its file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Take the ledger of another owner.
    pub take_over: bool,
    /// A throttle in place of the file's.
    pub bits_per_second: Option<u64>,
}

/// A replica and the way to it.
struct Replica {
    access: ReplicaAccess,
    auth: blocklog::azure_blob::Auth,
}

/// One machine's half of everything.
pub struct Local {
    file: CycleFile,
    take_over: bool,
    env: Env,
    leases: Arc<Leases>,
    images: Images,
    replicas: BTreeMap<DiskKey, Replica>,
    listener: Arc<dyn Listener>,
    meter: Arc<Meter>,
    begun: Duration,
}

/// What to do next.
enum Next {
    /// Apply the log of a cycle that an interrupted run has sent; `begun` where its applier had begun.
    Apply { of: CycleId, begun: bool },
    /// Run a gateway for the cycle.
    Run { of: CycleId, resumed: bool },
}

impl Local {
    /// Opens everything that the file names, the key first.
    ///
    /// # Errors
    /// Where something can't be opened or the key is not the store's.
    pub async fn open(file: CycleFile, options: Options, listener: Arc<dyn Listener>) -> Result<Self, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let begun = clock.monotonic();
        let keys = open::keys(&file.key)?;
        let leases = Arc::new(Leases::new(open::store(&file.log_store, Use::Write, clock.clone())?));
        if !key_check::verify(leases.as_ref(), &keys).await? {
            // A store without the blob, but with a ledger, was set up by somebody: their key has to be ours before it is written.
            document::read::<Ledger>(leases.as_ref(), &keys, &names::ledger(file.vm)).await?;
            let check = KeyCheck { since: clock.now() };
            match document::write_new(leases.as_ref(), &keys, names::KEY_CHECK, &check).await {
                Err(LogError::Store(StoreError::Exists(_))) => drop(key_check::verify(leases.as_ref(), &keys).await?),
                result => drop(result?),
            }
        }
        let mut replicas = BTreeMap::new();
        for (key, disk) in &file.disks {
            let (access, auth) = open::replica(&disk.replica).map_err(|failure| failure.about(format_args!("disk {key}")))?;
            replicas.insert(*key, Replica { access, auth });
        }
        let images = Images::open(&file.disks, file.snapshot.clone(), clock.clone()).await?;
        let meter = Arc::new(Meter { listener: listener.clone(), clock: clock.clone(), times: Mutex::default() });
        let bits = options.bits_per_second.or(file.tuning.bits_per_second);
        let env = Env {
            store: Arc::new(Telling::new(leases.clone(), meter.clone())),
            keys,
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy),
            cpu: Arc::new(threads(file.tuning.cpus)?),
            throttle: Arc::new(Throttle::new(clock, bits)),
            limits: limits(&file),
            progress: meter.clone(),
        };
        Ok(Self { file, take_over: options.take_over, env, leases, images, replicas, listener, meter, begun })
    }

    /// Gives back what a run that is dropped has leased. The ledger's lease stays where a write to a replica may still land after it: it runs
    /// out by itself.
    pub async fn give_back(&self) {
        let timed = self.replicas.values().any(|replica| matches!(replica.access, ReplicaAccess::DiskSas { .. }));
        let ledger = names::ledger(self.file.vm);
        self.leases.give_back(|name| !timed || name != ledger).await;
    }

    /// Runs until the replica is clean, with the images as they are now.
    ///
    /// # Errors
    /// [`Failure`]; nothing is lost by it, and the next run goes on.
    pub async fn run(&self) -> Result<Outcome, Failure> {
        let mut ledger = self.prepare().await?;
        let (mut finished, mut failed, mut superseded) = (Vec::new(), false, false);
        loop {
            let (of, resumed, begun) = match self.next(&ledger, superseded).await? {
                Next::Apply { of, begun } => {
                    self.listener.tell(RunEvent::Cycle { of, resumed: true });
                    (of, true, begun)
                }
                Next::Run { of, resumed } => {
                    self.listener.tell(RunEvent::Cycle { of, resumed });
                    if let Err(reason) = self.send(of).await? {
                        if failed {
                            return Err(gave_up(reason));
                        }
                        failed = true;
                        self.warn(format!("cycle {} can't be finished ({reason}): a new one covers the same ground", of.cycle));
                        ledger = self.ledger().await?;
                        continue;
                    }
                    (of, resumed, false)
                }
            };
            let applied = match self.apply(of).await {
                // A second time: the log of this cycle won't become whole any more. A new cycle needs none of it but its manifest.
                Err(failure) if failure.kind == Kind::DamagedBlob && begun => {
                    self.warn(format!("cycle {} can't be finished ({}): a new one covers the same ground", of.cycle, failure.message));
                    superseded = true;
                    ledger = self.ledger().await?;
                    continue;
                }
                result => result?,
            };
            ledger = self.ledger().await?;
            self.clean_up(&ledger).await;
            // An interrupted run has seen the images as they were then. Whoever runs this cycle wants them as they are now.
            if resumed && !self.is_what_was_asked(&applied).await? {
                finished.push(of.cycle.0);
                continue;
            }
            return Ok(self.outcome(applied, finished));
        }
    }

    /// True where a cycle of an interrupted run has done what this run was asked.
    async fn is_what_was_asked(&self, applied: &Applied) -> Result<bool, Failure> {
        let full = !self.file.full || applied.manifest.disks.values().all(|sent| sent.mode == Mode::Full);
        Ok(match &applied.seen {
            Some(seen) => full && self.images.are(seen).await?,
            None => false,
        })
    }

    async fn ledger(&self) -> Result<Ledger, Failure> {
        let name = names::ledger(self.file.vm);
        let (ledger, _) = document::require::<Ledger>(self.env.store.as_ref(), &self.env.keys, &name).await?;
        if ledger.owner == self.file.owner { Ok(ledger) } else { Err(seeds::of_another(&ledger)) }
    }

    fn warn(&self, warning: String) {
        self.listener.tell(RunEvent::Warning(warning));
    }

    /// What an interrupted run has left to do, or a new cycle.
    async fn next(&self, ledger: &Ledger, superseded: bool) -> Result<Next, Failure> {
        let (steward, owner) = (self.steward(), &self.file.owner);
        let due = steward.due(ledger, owner, superseded, |warning| self.warn(warning)).await.map_err(|error| {
            let manifest = names::manifest(ledger.cycle(ledger.begun));
            let begun = matches!(&error, LogError::Missing(name) | LogError::Damaged { name, .. } if *name == manifest);
            let failure = Failure::from(error);
            if begun { failure.with_remedy(blob_remedy(&manifest, true)) } else { failure }
        })?;
        let above = match due {
            Due::Apply { of, begun } => return Ok(Next::Apply { of, begun }),
            // A cycle that was begun with less than is asked for now is left.
            Due::Resume(state) if self.file.full && state.disks.values().any(|disk| disk.mode == Mode::Changed) => state.of.cycle,
            Due::Resume(state) => return Ok(Next::Run { of: state.of, resumed: true }),
            Due::New { above } => above,
        };
        Ok(Next::Run { of: steward.claim(ledger, owner, above).await?, resumed: false })
    }

    fn steward(&self) -> Steward {
        Steward { store: self.env.store.clone(), keys: self.env.keys.clone() }
    }

    /// Deletes what nothing needs any more. What fails here is tried again after the next cycle.
    async fn clean_up(&self, ledger: &Ledger) {
        if let Err(error) = self.steward().clean_up(ledger).await {
            self.warn(format!("not everything that is done with could be deleted: {error}"));
        }
    }

    /// Runs the gateway. The inner error is the reason of a cycle that can't be finished.
    async fn send(&self, of: CycleId) -> Result<Result<(), Reason>, Failure> {
        let job = Job { of, owner: self.file.owner.clone(), full: self.file.full };
        let mut patience = Patience::new(self);
        loop {
            match gateway::run(&self.env, &self.images, &job).await {
                Ok(gateway::End::Sent { .. }) => return Ok(Ok(())),
                Ok(gateway::End::Failed { reason }) => return Ok(Err(reason)),
                Err(GatewayError::Log(error)) => patience.log(error).await?,
                Err(GatewayError::Snapshot(error @ SnapshotError::Unreachable { .. })) => patience.again(Failure::from(error)).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes the order and runs the applier.
    async fn apply(&self, of: CycleId) -> Result<Applied, Failure> {
        let (store, keys) = (self.env.store.as_ref(), &self.env.keys);
        let (manifest, digest) = document::require::<Manifest>(store, keys, &names::manifest(of)).await?;
        let name = names::order(&self.file.owner, of.vm);
        let seen = match self.images.seen(of.cycle) {
            Some(seen) => Some(seen),
            None => self.noted(&name, of, digest).await,
        };
        let order = document::encode(keys, &name, &self.order(&manifest, digest, seen.clone())?)?;
        store.put(&name, order, When::Always, None).await?;
        let mut patience = Patience::new(self);
        let end = loop {
            match applier::run(&self.env, self, &self.file.owner, of.vm).await {
                Ok(applier::End::Busy) => patience.log(StoreError::Leased(names::ledger(of.vm)).into()).await?,
                Ok(end) => break end,
                Err(ApplierError::Log(error)) => patience.log(error).await?,
                Err(error @ ApplierError::Replica { error: ReplicaError::Unreachable(_), .. }) => patience.again(error.into()).await?,
                Err(error) => return Err(error.into()),
            }
        };
        match end {
            applier::End::Clean => {}
            applier::End::Partial => {
                self.withdraw(&name).await;
                let message = "an image changed before all of it was read: what was read is applied, the replica is no recovery point yet";
                let remedy = "Leave the images alone while a cycle runs, and run again: it sends the rest.";
                return Err(Failure::new(Kind::SnapshotLost, message, remedy).because(Reason::Partial));
            }
            applier::End::Refused(refusal) => return Err(refused(&refusal)),
            applier::End::NoOrder | applier::End::Cancelled | applier::End::Busy => {
                let message = format!("the order {name} was taken back while it was carried out");
                return Err(Failure::new(Kind::Other, message, "Run again: it finishes.").because(Reason::Cancelled));
            }
        }
        self.withdraw(&name).await;
        let receipt = document::read::<Receipt>(store, keys, &names::receipt(of)).await.unwrap_or_else(|error| {
            self.warn(error.to_string());
            None
        });
        Ok(Applied { manifest, receipt: receipt.map(|(receipt, _)| receipt), seen })
    }

    /// Which images an interrupted run has seen for the cycle, as its order says.
    async fn noted(&self, name: &str, of: CycleId, digest: Digest) -> Option<String> {
        match document::read::<Order>(self.env.store.as_ref(), &self.env.keys, name).await {
            Ok(Some((order, _))) if order.of == of && order.manifest == digest => order.tokens.get(IMAGES).cloned(),
            Ok(_) => None,
            // It is about to be written anew.
            Err(error) => {
                self.warn(error.to_string());
                None
            }
        }
    }

    fn order(&self, manifest: &Manifest, digest: Digest, seen: Option<String>) -> Result<Order, Failure> {
        let mut seeds = BTreeMap::new();
        for (disk, sent) in &manifest.disks {
            let Some(replica) = self.replicas.get(disk) else { continue };
            let access = serde_json::to_vec(&replica.access).map(Zeroizing::new);
            let access =
                access.map_err(|error| Failure::new(Kind::Other, error.to_string(), "Name the replica by a path of UTF-8 text."))?;
            let entropy = self.env.entropy.as_ref();
            let of = manifest.of;
            seeds.insert(*disk, OrderSeed::seal(&self.env.keys, of.vm, of.incarnation, *disk, &sent.seed, &access, entropy));
        }
        Ok(Order {
            of: manifest.of,
            owner: self.file.owner.clone(),
            manifest: digest,
            seeds,
            tokens: seen.map(|seen| (IMAGES.to_owned(), seen)).into_iter().collect(),
        })
    }

    /// Deletes the order: it is carried out. One that stays is replaced by the next.
    async fn withdraw(&self, name: &str) {
        if let Err(error) = self.env.store.delete(name, None).await {
            self.warn(error.to_string());
        }
    }

    fn outcome(&self, applied: Applied, finished: Vec<u64>) -> Outcome {
        let Applied { manifest, receipt, .. } = applied;
        let disks = manifest.disks.iter().map(|(disk, sent)| {
            let done = receipt.as_ref().and_then(|receipt| receipt.disks.get(disk));
            DiskOutcome {
                disk: disk.0,
                mode: sent.mode,
                changed: sent.figures.changed,
                read: sent.figures.read,
                uploaded: sent.figures.uploaded,
                in_place: sent.figures.in_place,
                applied: done
                    .map_or(AppliedBytes { written: 0, cleared: 0 }, |done| AppliedBytes { written: done.written, cleared: done.cleared }),
                seconds: self.meter.seconds(*disk),
                verified: done.is_some_and(|done| done.extents == Digest(sent.extents.digest())),
            }
        });
        Outcome {
            cycle: manifest.of.cycle.0,
            incarnation: manifest.of.incarnation.to_string(),
            recovery_point: manifest.snapshot_taken,
            finished,
            disks: disks.collect(),
            seconds: outcome::rounded(self.env.clock.monotonic() - self.begun),
        }
    }
}

/// A cycle that made the replica clean.
struct Applied {
    manifest: Manifest,
    receipt: Option<Receipt>,
    /// The images that it has seen, where that is known.
    seen: Option<String>,
}

fn gave_up(reason: Reason) -> Failure {
    let message = format!("two cycles in a row can't be finished: {reason}");
    let remedy = "See that nobody writes the images while a cycle runs, and run again.";
    Failure::new(if reason == Reason::SnapshotLost { Kind::SnapshotLost } else { Kind::Other }, message, remedy)
}

fn refused(refusal: &Refusal) -> Failure {
    let (kind, remedy) = match refusal {
        Refusal::OwnedByOther { .. } => {
            (Kind::LedgerOfAnother, "Another owner has taken the replica over: name that owner, or run with --take-over.")
        }
        Refusal::Sealed => (Kind::ReplicaRefused, "The replica was sealed for a migration, and is written no more: make a new one."),
        Refusal::BasisPassed { .. } | Refusal::SeedReplaced { .. } | Refusal::OtherManifest { .. } | Refusal::OtherGeometry { .. } => {
            (Kind::Other, "Another worker has been at work on this replica: see that only one runs, and run again.")
        }
    };
    Failure::new(kind, refusal.to_string(), remedy).because(refusal.reason())
}

/// How long errors that may pass are borne.
struct Patience<'a> {
    local: &'a Local,
    started: u32,
    /// Until when a lease of a vanished worker can last.
    until: Duration,
}

impl<'a> Patience<'a> {
    fn new(local: &'a Local) -> Self {
        Self { local, started: 1, until: local.env.clock.monotonic() + LEASE + MARGIN }
    }

    async fn log(&mut self, error: LogError) -> Result<(), Failure> {
        let clock = &self.local.env.clock;
        match &error {
            LogError::Store(StoreError::Leased(name)) if clock.monotonic() < self.until => {
                let message = format!("{name} is leased by another worker, or by one that vanished");
                self.local.waiting(Reason::BlobLeased, message);
                clock.sleep(PAUSE).await;
                Ok(())
            }
            LogError::Store(StoreError::Unreachable(_) | StoreError::LeaseLost(_)) => self.again(error.into()).await,
            _ => Err(error.into()),
        }
    }

    async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        if self.started >= STARTS {
            return Err(failure);
        }
        self.local.waiting(failure.reason.unwrap_or(Reason::SourceUnreachable), failure.message);
        self.local.env.clock.sleep(pause(self.started + 2)).await;
        self.started += 1;
        Ok(())
    }
}

#[async_trait]
impl ReplicaOpener for Local {
    async fn open(&self, disk: DiskKey, access: &[u8]) -> Result<Arc<dyn ReplicaDisk>, ReplicaError> {
        let denied = |why: &str| ReplicaError::Denied(format!("disk {disk}: {why}"));
        let auth = &self.replicas.get(&disk).ok_or_else(|| denied("the cycle's file does not name it"))?.auth;
        let access: ReplicaAccess = serde_json::from_slice(access).map_err(|_| denied("the order's access can't be read"))?;
        access::open(&access, Purpose::Write, auth, self.env.clock.clone()).await
    }
}

/// Passes events on, and remembers when each disk was first and last heard of.
struct Meter {
    listener: Arc<dyn Listener>,
    clock: Arc<dyn Clock>,
    times: Mutex<BTreeMap<DiskKey, (Duration, Duration)>>,
}

impl Meter {
    fn times(&self) -> MutexGuard<'_, BTreeMap<DiskKey, (Duration, Duration)>> {
        // A panic while it was held can't have left it half changed.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seconds(&self, disk: DiskKey) -> f64 {
        self.times().get(&disk).map_or(0.0, |(first, last)| outcome::rounded(*last - *first))
    }
}

impl Progress for Meter {
    fn note(&self, event: Event) {
        if let Event::Reading { disk, .. } | Event::Read { disk, .. } | Event::Applying { disk, .. } | Event::Applied { disk, .. } = &event
        {
            let now = self.clock.monotonic();
            self.times().entry(*disk).or_insert((now, now)).1 = now;
        }
        self.listener.note(event);
    }
}

/// Threads for computing: as many as the file says, or as there are processors.
fn threads(asked: Option<usize>) -> Result<Threads, Failure> {
    let width = asked.or_else(|| std::thread::available_parallelism().ok().map(std::num::NonZero::get)).unwrap_or(1);
    Threads::new(width).map_err(|error| Failure::new(Kind::Other, format!("no threads: {error}"), "Allow this process more threads."))
}

fn limits(file: &CycleFile) -> Limits {
    let limits = Limits::default();
    let memory = file.tuning.memory.unwrap_or(limits.memory);
    Limits { segment: file.tuning.segment.unwrap_or(limits.segment), memory, part: limits.part.min(memory / 4), ..limits }
}

#[cfg(test)]
mod tests;
