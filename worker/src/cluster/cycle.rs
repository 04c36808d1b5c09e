//! One cycle in a gateway: run, suspended, cancelled, tried again, handed over; and what is said about it.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use backoff::Backoff;
use blocklog::{
    LogError,
    cycle::{Manifest, State},
    document,
    entropy::SystemEntropy,
    ids::{Cycle, CycleId, DiskKey, Incarnation, Owner, VmId},
    names,
    store::StoreError,
};
use crds::{ReplicationCycle, reasons::Reason, replicated_vm::Quiesce, replication_cycle::DiskMode};
use kube::ResourceExt;
use tokio::sync::watch;
use uuid::Uuid;
use vsphere::{
    LoginState, MoRef,
    snapshot::{control::Settings, take::Policy},
};

use super::{
    control::{Setup, VcenterControl},
    health::{self, Health},
    open,
    report::Reporter,
    shared::{Shared, WatchedCycle},
    status::Report,
    vddk,
    writer::Writer,
};
use crate::{
    env::{Env, Event, Progress},
    failure::Failure,
    gateway::{self, End, GatewayError, Job, Why},
    leases::Leases,
    outage::Telling,
    snapshot::SnapshotError,
    throttle::Throttle,
};

/// The first pause after a run that came to nothing, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest where a person has to do something first: a guest that can't be brought to rest must not be asked to each minute. As long as a password
/// that was refused is left alone.
const LONGEST_FOR_A_PERSON: Duration = Duration::from_secs(300);
/// How long giving back may take once the process is told to stop.
const GIVE_BACK: Duration = Duration::from_secs(4);

/// What an object asks of its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    /// Nothing: another pod has it, or nobody.
    Nothing,
    /// To wait.
    Suspend,
    /// To end it before its time.
    Cancel(Reason),
    /// To run it with so many disks at a time.
    Run(usize),
}

impl Want {
    fn of(told: &WatchedCycle, pod: &str) -> Self {
        let Some(cycle) = told else { return Self::Nothing };
        if cycle.spec.worker.as_deref() != Some(pod) {
            return Self::Nothing;
        }
        match (&cycle.spec.cancel, usize::try_from(cycle.spec.allotment.disks)) {
            (Some(cancel), _) => Self::Cancel(Reason::read(&cancel.reason)),
            (None, Ok(disks @ 1..)) => Self::Run(disks),
            (None, _) => Self::Suspend,
        }
    }

    /// True where what runs for `self` has to stop, since `next` is asked now. More disks count from the next start on: it is not worth a
    /// stop.
    fn ends_for(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Run(disks), Self::Run(now)) => now < disks,
            // The word is written once.
            (Self::Cancel(_), Self::Cancel(_)) => false,
            (one, other) => one != other,
        }
    }
}

/// How a cycle is ended for this reason, and how it is noted as failed. Where only a datastore was in the way, what was read counts; what can't be
/// applied any more keeps the word that says why; else it is not wanted.
fn why(reason: Reason) -> Why {
    match reason {
        Reason::DatastoreFull => Why::SnapshotHasToGo(reason),
        Reason::Unrecognized | Reason::Stopped => Why::NotWanted(Reason::Cancelled),
        other => Why::NotWanted(other),
    }
}

/// What an object says that a run is made of.
fn job(cycle: &ReplicationCycle) -> Result<(Job, Vec<DiskKey>), String> {
    let spec = &cycle.spec;
    let uuid = |what: &str, text: &str| Uuid::parse_str(text).map_err(|error| format!("spec.{what}: {error}"));
    let vm = VmId { vcenter: uuid("vm.vcenterUuid", &spec.vm.vcenter_uuid)?, instance: uuid("vm.instanceUuid", &spec.vm.instance_uuid)? };
    let number = u64::try_from(spec.cycle).map_err(|_| "spec.cycle is from 1 on".to_owned())?;
    let of = CycleId { vm, incarnation: Incarnation(uuid("incarnation", &spec.incarnation)?), cycle: Cycle(number) };
    let owner = Owner { cluster: spec.owner.cluster.clone(), object: spec.owner.object.clone() };
    let full = spec.disks.iter().filter(|disk| disk.mode == Some(DiskMode::Full));
    let full: Vec<DiskKey> = full.filter_map(|disk| u32::try_from(disk.key).ok().map(DiskKey)).collect();
    Ok((Job { of, owner, full: full.len() == spec.disks.len() }, full))
}

/// What has to be given back when a run is dropped where it stands.
struct Running {
    leases: Arc<Leases>,
    control: Arc<VcenterControl>,
}

impl Running {
    async fn give_back(&self) {
        self.leases.give_back(|_| true).await;
        self.control.close().await;
    }
}

/// Runs one cycle of this gateway.
pub(super) struct Seen {
    shared: Arc<Shared>,
    name: String,
    told: watch::Receiver<WatchedCycle>,
    running: Mutex<Option<Arc<Running>>>,
}

impl Seen {
    pub(super) fn new(shared: Arc<Shared>, cycle: &ReplicationCycle, told: watch::Receiver<WatchedCycle>) -> Self {
        Self { shared, name: cycle.name_any(), told, running: Mutex::default() }
    }

    /// Runs the cycle until it is assigned to another pod, or `stop` ends: then its leases are given back, and its snapshot stays. A cycle that is
    /// over ends this only when its object's status says so.
    pub(super) async fn run(self, stop: impl Future<Output = ()>) {
        let Some(cycle) = self.told.borrow().clone() else { return };
        let now = self.shared.clock.now();
        let report = Report::begin(&self.shared.pod, cycle.status.as_ref(), now);
        let reporter = Arc::new(Reporter::new(report, self.shared.clock.clone()));
        let mut writer = Writer::new(&self.shared, &cycle, self.told.clone(), reporter.clone());
        let mut stop = std::pin::pin!(stop);
        let ended = tokio::select! {
            biased;
            () = &mut stop => false,
            ended = self.work(&reporter) => ended,
            () = writer.run() => false,
        };
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = running
            && tokio::time::timeout(GIVE_BACK, running.give_back()).await.is_err()
        {
            tracing::warn!(cycle = self.name, "the log store did not take a lease back in time; it runs out by itself");
        }
        if ended {
            tokio::select! {
                biased;
                () = &mut stop => {}
                () = writer.stand() => {}
            }
        }
        // So that the last figures are not lost; a successor begins with what is in the log. What is another's by now, it tells.
        if Want::of(&self.told.borrow(), &self.shared.pod) != Want::Nothing {
            let _ = tokio::time::timeout(GIVE_BACK / 2, writer.finish()).await;
        }
    }

    /// Returns true when the cycle is over, false when it is not this pod's any more.
    async fn work(&self, reporter: &Arc<Reporter>) -> bool {
        let mut told = self.told.clone();
        let mut tried = 0;
        loop {
            let (want, cycle) = {
                let told = told.borrow_and_update();
                (Want::of(&told, &self.shared.pod), told.clone())
            };
            let (Some(cycle), true) = (cycle, want != Want::Nothing) else { return false };
            if want == Want::Suspend {
                reporter.change(Report::suspended);
                if told.changed().await.is_err() {
                    return false;
                }
                continue;
            }
            let pause = match self.attempt(&cycle, &want, reporter, &mut told).await {
                Attempt::Over => return true,
                Attempt::AskedElse => {
                    tried = 0;
                    continue;
                }
                Attempt::Again(pause) => pause,
            };
            let wait = match pause {
                Pause::Of(wait) => wait,
                Pause::Growing(longest) => Backoff::new(FIRST_PAUSE, longest).wait(tried, 0),
            };
            tried = tried.saturating_add(1);
            tokio::select! {
                biased;
                changed = changed(&mut told, &want, &self.shared.pod) => if !changed { return false },
                () = self.shared.clock.sleep(wait) => {}
            }
        }
    }

    /// One run, until it ends or something else is asked.
    async fn attempt(
        &self,
        cycle: &ReplicationCycle,
        want: &Want,
        reporter: &Arc<Reporter>,
        told: &mut watch::Receiver<WatchedCycle>,
    ) -> Attempt {
        let trouble = |failure: Failure| {
            let reason = failure.reason.unwrap_or(Reason::SourceUnreachable);
            let told = super::event::ReportEvent::Waiting { reason, message: failure.message };
            reporter.tell(&told);
            Attempt::Again(Pause::Growing(LONGEST_PAUSE))
        };
        let (job, full) = match job(cycle) {
            Ok(job) => job,
            Err(why) => return trouble(Failure::new(crate::failure::Kind::Other, why, "").because(Reason::SourceRefused)),
        };
        let disks = if let Want::Run(disks) = want { *disks } else { 1 };
        let (env, running) = match self.prepare(cycle, &job, full, disks, reporter).await {
            Ok(prepared) => prepared,
            Err(failure) => return trouble(failure),
        };
        // What an earlier epoch has done counts.
        match document::read::<State>(env.store.as_ref(), &env.keys, &names::state(job.of)).await {
            Ok(Some((state, _))) => reporter.change(|report| report.resume(&state)),
            Ok(None) => {}
            // Nobody can go on from it, and its snapshot must not stand for that.
            Err(LogError::Damaged { name, what }) => {
                tracing::warn!(cycle = self.name, blob = name, what, "the cycle's state can't be read: its snapshot is released");
                return match gateway::give_up(running.control.as_ref(), &job).await {
                    Ok(()) => {
                        reporter.change(|report| report.over(self.shared.clock.now()));
                        Attempt::Over
                    }
                    Err(error) => trouble(error.into()),
                };
            }
            Err(error) => return trouble(error.into()),
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running.clone());
        let control = running.control.as_ref();
        let _counted = health::Running::new(&self.shared.health);
        let run = async {
            match want {
                Want::Cancel(reason) => {
                    tracing::info!(cycle = self.name, %reason, "cancelled");
                    gateway::cancel(&env, control, &job, why(*reason)).await
                }
                Want::Run(_) | Want::Suspend | Want::Nothing => gateway::run(&env, control, &job).await,
            }
        };
        let result = tokio::select! {
            biased;
            _ = changed(told, want, &self.shared.pod) => None,
            result = run => Some(result),
        };
        running.give_back().await;
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        match result {
            None => Attempt::AskedElse,
            Some(result) => self.ended(&env, &job, cycle, result, reporter).await,
        }
    }

    async fn ended(
        &self,
        env: &Env,
        job: &Job,
        cycle: &ReplicationCycle,
        result: Result<End, GatewayError>,
        reporter: &Arc<Reporter>,
    ) -> Attempt {
        let now = self.shared.clock.now();
        match &result {
            Ok(End::Sent { .. }) => {
                let manifest = document::read::<Manifest>(env.store.as_ref(), &env.keys, &names::manifest(job.of)).await;
                if let Ok(Some((manifest, _))) = manifest {
                    reporter.change(|report| report.manifest(&manifest));
                }
            }
            Ok(End::Failed { reason }) => tracing::warn!(cycle = self.name, %reason, "the cycle has failed"),
            // Its state is deleted when its snapshot is gone and it was applied, or can never be.
            Err(GatewayError::Log(LogError::Missing(name))) if *name == names::state(job.of) => {
                reporter.change(|report| report.over(now));
                return Attempt::Over;
            }
            Err(error) => tracing::warn!(cycle = self.name, "{}: {error}", error.reason()),
        }
        let health = &self.shared.health;
        let counter = if matches!(result, Ok(End::Sent { .. })) { &health.succeeded } else { &health.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        reporter.change(|report| report.ended(&result, now));
        match result {
            Ok(_) => Attempt::Over,
            // It is noted as failed, its snapshot is gone; the next run says so.
            Err(error) if error.is_for_good() => Attempt::Again(Pause::Of(Duration::ZERO)),
            // Another gateway's lease: it ends within a minute, or that one is at work.
            Err(GatewayError::Log(LogError::Store(StoreError::Leased(_)))) => Attempt::Again(Pause::Of(FIRST_PAUSE)),
            // A file that was mended is to be seen soon, and looking costs vCenter nothing.
            Err(_) if matches!(self.shared.client.login_state(), LoginState::Refused(_)) => Attempt::Again(Pause::Of(FIRST_PAUSE)),
            Err(GatewayError::Snapshot(SnapshotError::Refused { .. })) => Attempt::Again(Pause::Growing(LONGEST_FOR_A_PERSON)),
            Err(_) => {
                tracing::debug!(cycle = cycle.name_any(), "tried again");
                Attempt::Again(Pause::Growing(LONGEST_PAUSE))
            }
        }
    }

    /// Everything of a run, from the files as they are now.
    async fn prepare(
        &self,
        cycle: &ReplicationCycle,
        job: &Job,
        full: Vec<DiskKey>,
        disks: usize,
        reporter: &Arc<Reporter>,
    ) -> Result<(Env, Arc<Running>), Failure> {
        let Shared { config, client, clock, .. } = self.shared.as_ref();
        client.set_credentials(open::credentials(&config.vcenter)?).await;
        if client.login_state().may_be_tried_again(clock.now()) {
            client.allow_login().await;
        }
        let leases = Arc::new(Leases::new(self.shared.store.clone()));
        let policy = match cycle.spec.quiesce {
            Quiesce::Never => Policy::Never,
            Quiesce::Try => Policy::Try,
            Quiesce::Require => Policy::Require,
        };
        let setup = Setup {
            client: client.clone(),
            url: config.vcenter.url.clone(),
            vddk: vddk::Settings { nbdkit: config.vddk.nbdkit.clone(), libdir: config.vddk.libdir.clone() },
            owner: job.owner.clone(),
            of: job.of,
            mo_ref: Some(cycle.spec.vm.mo_ref.clone()).filter(|id| !id.is_empty()).map(MoRef::vm),
            settings: Settings { policy, ..Settings::default() },
            full,
            opening: self.shared.opening.clone(),
        };
        let progress = Arc::new(Counting { reporter: reporter.clone(), health: self.shared.health.clone() });
        let env = Env {
            store: Arc::new(Telling::new(leases.clone(), progress.clone())),
            keys: open::keys(&config.key)?,
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy),
            cpu: self.shared.cpu.clone(),
            throttle: Arc::new(Throttle::new(clock.clone(), None)),
            limits: config.limits.with_disks(disks),
            progress,
        };
        Ok((env, Arc::new(Running { leases, control: Arc::new(VcenterControl::new(setup, reporter.clone())) })))
    }
}

/// Passes events on to the reporter, and counts bytes for the metrics.
struct Counting {
    reporter: Arc<Reporter>,
    health: Arc<Health>,
}

impl Progress for Counting {
    fn note(&self, event: Event) {
        if let Event::Read { step, .. } = &event {
            self.health.read.fetch_add(step.read, Ordering::Relaxed);
            self.health.uploaded.fetch_add(step.uploaded, Ordering::Relaxed);
        }
        self.reporter.note(event);
    }
}

enum Attempt {
    /// Nothing is left to do.
    Over,
    /// The object asks for something else now.
    AskedElse,
    /// It is tried again.
    Again(Pause),
}

/// After how long something is tried again.
enum Pause {
    Of(Duration),
    /// Longer each time, up to this.
    Growing(Duration),
}

/// Returns true when the object asks for something else than `want`, false when its watch has ended.
async fn changed(told: &mut watch::Receiver<WatchedCycle>, want: &Want, pod: &str) -> bool {
    loop {
        if told.changed().await.is_err() {
            return false;
        }
        if want.ends_for(&Want::of(&told.borrow_and_update(), pod)) {
            return true;
        }
    }
}

#[cfg(test)]
#[path = "cycle_tests.rs"]
mod tests;
