//! What to do next for a ReplicatedVM: a chain of checks over what was seen. The first that does not hold says what is so, why, and what
//! is done about it.

use std::time::Duration;

use azure::disks::Disk;
use blocklog::{cycle::Phase, ids::DiskKey, ledger::Ledger, steward::Due};
use crds::{
    ReplicatedVMSpec,
    concerns::Severity,
    conditions::{self, ConditionType as C, Finding, Status},
    names,
    reasons::Reason,
    replicated_vm::{CycleKind, Replication, WaitingFor},
};
use jiff::Timestamp;

use super::{
    cleanup,
    model::{CycleSeen, Decision, GRANT, History, NewSeed, Observed, ReadySeed, Site, Slots, Source, Step, waits_for},
    slots,
};
use crate::{
    admission::{Admission, Candidate, Resource, admit},
    cycle::mirror::{self, Mirrored, Seen},
    due::{self, Last, due_since},
    seeds::{self, Plan, Why},
    trouble::Trouble,
};

/// At once: there is more to do.
pub const NOW: Duration = Duration::from_millis(50);
/// While something goes on that nobody tells us of.
pub const SOON: Duration = Duration::from_secs(5);
/// While a person has to do something; what is watched wakes sooner.
pub const LATER: Duration = Duration::from_secs(30);
/// The longest time between two looks: nobody tells of a seed disk that was deleted.
pub const IDLE: Duration = Duration::from_secs(120);
/// The most that is kept of each: cycles that succeeded, and cycles that did not.
const HISTORY: usize = 5;
/// The token in orders and ledgers that says which `syncNow` is done.
pub const SYNC_NOW: &str = "syncNow";

mod cycles;

use cycles::cycle;
pub use cycles::{due_by, lacks_slots};

/// What was found out so far.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub findings: Vec<Finding>,
    pub waiting: Option<WaitingFor>,
    pub next_cycle: Option<Timestamp>,
}

/// Where a chain ends.
pub(super) type End = (Step, Duration);

type Check = fn(&Pass<'_>, &mut Said) -> Option<End>;

/// One look, with what is worked out of it once.
pub struct Pass<'a> {
    /// What was seen.
    pub seen: &'a Observed,
    /// Each cycle as it is mirrored, in the order of [`Observed::cycles`].
    pub mirrored: Vec<Mirrored>,
    /// The last cycle that ended, and failures since the last success.
    pub history: History,
}

const CHAIN: [Check; 11] = [
    hold,       // whoever is deleted is cleaned up
    appliance,  // somebody to ask
    source,     // a VM
    room,       // for a snapshot that grows
    over,       // what is over is closed, whosever the replica is by now
    sweep,      // no snapshot that nobody needs
    ledger,     // ours
    preflight,  // nothing in the way
    seed_disks, // a place to write to
    tracking,   // changes are tracked
    cycle,      // what the log says
];

/// Decides.
#[must_use]
pub fn decide(seen: &Observed) -> Decision {
    let pass = Pass::new(seen);
    let mut said = Said::default();
    let cleaning = seen.deleting() || seen.object.spec.replication == Replication::Stopped && !finishes(&pass);
    let (step, wake) = if cleaning {
        cleanup::decide(&pass, &mut said)
    } else {
        CHAIN.iter().find_map(|check| check(&pass, &mut said)).unwrap_or((Step::None, IDLE))
    };
    Decision { step, findings: said.findings, waiting: said.waiting, next_cycle: said.next_cycle, history: pass.history, wake }
}

/// A delta that runs when replication is stopped finishes first: what was sent is not lost.
fn finishes(pass: &Pass<'_>) -> bool {
    let delta = pass.seen.ours().is_some_and(|ledger| mirror::kind(ledger) == CycleKind::Delta);
    let cancelled = pass.open().any(|(cycle, _)| cycle.object.spec.cancel.is_some());
    delta && pass.seen.running() && !cancelled || pass.open().any(|(_, mirrored)| mirrored.applied.status == Status::True)
}

impl<'a> Pass<'a> {
    /// Works out what follows at once.
    #[must_use]
    pub fn new(seen: &'a Observed) -> Self {
        let order = seen.order.as_ref().ok().and_then(Option::as_ref);
        let mirrored = |cycle: &CycleSeen| {
            let id = mirror::id(&cycle.object);
            mirror::mirror(&Seen {
                object: &cycle.object,
                owner: &seen.owner,
                readable: seen.ledger.is_ok() && cycle.readable,
                ledger: seen.ledger.as_ref().ok().and_then(Option::as_ref),
                state: cycle.state.as_ref(),
                proof: cycle.proof.as_deref(),
                ordered: order.is_some_and(|order| Some(order.of) == id),
                given_up: seen.given_up.iter().find(|gone| Some(gone.of) == id),
                setback: seen.setback.as_ref().filter(|setback| Some(setback.of) == id),
                now: seen.now,
            })
        };
        let mirrored: Vec<Mirrored> = seen.cycles.iter().map(mirrored).collect();
        let history = history(seen, &mirrored);
        Self { seen, mirrored, history }
    }

    fn cycles(&self) -> impl Iterator<Item = (&CycleSeen, &Mirrored)> {
        self.seen.cycles.iter().zip(&self.mirrored)
    }

    /// Cycles that are not closed: their finalizer stands.
    pub(super) fn open(&self) -> impl Iterator<Item = (&CycleSeen, &Mirrored)> {
        self.cycles().filter(|(cycle, _)| is_held(cycle))
    }

    /// The incarnation that new things belong to.
    fn incarnation(&self) -> Option<blocklog::ids::Incarnation> {
        let drawn = self.seen.object.status.as_ref().and_then(|status| status.incarnation.as_deref());
        let drawn = drawn.and_then(|text| uuid::Uuid::parse_str(text).ok()).map(blocklog::ids::Incarnation);
        self.seen.ours().map(|ledger| ledger.incarnation).or(drawn)
    }
}

/// True while the operator has not closed a cycle.
#[must_use]
pub fn is_held(cycle: &CycleSeen) -> bool {
    cycle.object.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == names::SNAPSHOT_FINALIZER)
}

fn history(seen: &Observed, mirrored: &[Mirrored]) -> History {
    let status = seen.object.status.as_ref();
    let mut last = status.and_then(|status| status.last_cycle.clone());
    let mut failures = status.and_then(|status| status.failures).and_then(|count| u32::try_from(count).ok()).unwrap_or_default();
    let current = status.and_then(|status| status.incarnation.as_deref());
    for (cycle, mirrored) in seen.cycles.iter().zip(mirrored) {
        // What the same word says of another start of replication is no history of this one.
        if current.is_some_and(|current| !same_uuid(current, &cycle.object.spec.incarnation)) {
            continue;
        }
        let newer = last.as_ref().is_none_or(|last| cycle.object.spec.cycle > last.cycle);
        if let Some(ended) = mirrored.last(&cycle.object, seen.now).filter(|_| newer) {
            failures = if ended.succeeded { 0 } else { failures.saturating_add(1) };
            last = Some(ended);
        }
    }
    (last, failures)
}

fn same_uuid(a: &str, b: &str) -> bool {
    match (uuid::Uuid::parse_str(a), uuid::Uuid::parse_str(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn fails(said: &mut Said, of: C, trouble: &Trouble) {
    said.findings.push(Finding::fails(of, trouble.reason, trouble.message.clone()));
}

/// Cycles do not follow one another, and why.
fn stands_still(said: &mut Said, reason: Reason, message: impl Into<String>) {
    said.findings.push(Finding::fails(C::Replicating, reason, message));
}

fn again(trouble: &Trouble, otherwise: Duration) -> Duration {
    trouble.again.unwrap_or(otherwise)
}

fn hold(pass: &Pass<'_>, _: &mut Said) -> Option<End> {
    let finalizers = pass.seen.object.metadata.finalizers.as_deref().unwrap_or_default();
    (!finalizers.iter().any(|finalizer| finalizer == names::CLEANUP_FINALIZER)).then_some((Step::Hold, NOW))
}

fn appliance(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    let name = &pass.seen.object.spec.appliance_ref.name;
    match &pass.seen.site {
        Site::Missing => {
            stands_still(said, Reason::ApplianceMissing, format!("there is no Appliance {name} in this namespace: create it"));
            said.waiting = Some(waits_for(Reason::ApplianceMissing, Some(name.clone())));
            Some((Step::None, LATER))
        }
        Site::Unbuilt(trouble) => {
            stands_still(said, Reason::ApplianceNotReady, format!("the appliance {name} is not ready: {}", trouble.message));
            said.waiting = Some(waits_for(Reason::ApplianceNotReady, Some(name.clone())));
            Some((Step::None, SOON))
        }
        Site::NotReady(_) | Site::Ready => None,
    }
}

fn source(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    match &pass.seen.source {
        Ok(source) => {
            said.findings.push(Finding::holds(C::SourceFound, Reason::AsExpected, format!("it is {} ({})", source.name, source.mo_ref)));
            None
        }
        Err(trouble) => {
            fails(said, C::SourceFound, trouble);
            // What is sent can be applied without the source, and what is over is closed.
            if pass.seen.running() || pass.open().any(|(_, mirrored)| mirrored.over) {
                return None;
            }
            stands_still(said, trouble.reason, trouble.message.clone());
            Some((Step::None, again(trouble, LATER)))
        }
    }
}

/// True as long as a gateway may be reading: the log is neither complete nor given up.
fn is_read(cycle: &CycleSeen) -> bool {
    let conditions = cycle.object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let decided = conditions::get(conditions, C::Transferred).is_some_and(|condition| condition.status != Status::Unknown.as_str());
    !decided && !cycle.state.as_ref().is_some_and(|state| state.phase != Phase::Open)
}

/// A snapshot grows as long as it stands, and a datastore that is full stops every VM on it: a cycle that is still read is ended.
fn room(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    let pressed = pass.seen.source.as_ref().ok()?.pressed.as_ref()?;
    let (cycle, _) = pass.open().find(|(cycle, mirrored)| !mirrored.over && cycle.object.spec.cancel.is_none() && is_read(cycle))?;
    let name = cycle.object.metadata.name.clone().unwrap_or_default();
    let message = format!("{name} is ended, so that its snapshot goes: {}", pressed.message);
    said.findings.push(Finding::open(C::Replicating, pressed.reason, message));
    Some((Step::Cancel { cycles: vec![name], reason: pressed.reason }, NOW))
}

fn ledger(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    let (seen, status) = (pass.seen, pass.seen.object.status.as_ref());
    let stop = |said: &mut Said, reason, message: String, wake| {
        said.findings.push(Finding::fails(C::LedgerOwned, reason, message.clone()));
        stands_still(said, reason, message);
        Some((Step::None, wake))
    };
    let found = match &seen.ledger {
        Err(trouble) => return stop(said, trouble.reason, trouble.message.clone(), again(trouble, SOON)),
        Ok(found) => found,
    };
    let Some(found) = found else {
        if status.is_some_and(|status| status.last_cycle.is_some() || status.recovery_point.is_some()) {
            let message =
                "the ledger is missing from the log store, and with it what is known of the replica: bring it back, or set replication to \
                           Stopped, which deletes the replica, and then to Active"
                    .to_owned();
            return stop(said, Reason::BlobMissing, message, LATER);
        }
        if pass.incarnation().is_none() {
            return Some((Step::DrawIncarnation, NOW));
        }
        said.findings.push(Finding::open(C::LedgerOwned, Reason::SeedsBeingMade, "the ledger is made when its seed disks stand"));
        return None;
    };
    if found.owner != seen.owner {
        if seen.object.spec.take_over.as_deref() == Some(found.owner.to_string().as_str()) {
            let message = format!("the ledger of {} is being taken over: its last writer is given a minute to stop", found.owner);
            said.findings.push(Finding::open(C::LedgerOwned, Reason::TakingOver, message));
            return Some((Step::TakeOver, NOW));
        }
        let message = format!(
            "the replica belongs to {}: where nobody replicates the VM there any more, set takeOver to that owner, and replication goes \
             on from its baseline",
            found.owner
        );
        return stop(said, Reason::OwnedByOther, message, LATER);
    }
    if found.sealed.is_some() {
        said.findings.push(Finding::holds(C::LedgerOwned, Reason::AsExpected, ""));
        said.findings.push(Finding::fails(
            C::SeedsReady,
            Reason::SeedsSealed,
            "the seed disks are sealed: nothing more is written to them",
        ));
        stands_still(said, Reason::SeedsSealed, "the seed disks are sealed");
        return Some((Step::None, LATER));
    }
    said.findings.push(Finding::holds(C::LedgerOwned, Reason::AsExpected, ""));
    // Without these nothing can be said of what goes on.
    let trouble = seen.due.as_ref().err().or(seen.order.as_ref().err())?;
    stands_still(said, trouble.reason, trouble.message.clone());
    Some((Step::None, again(trouble, SOON)))
}

/// Cycles that are over are closed, and those whose gateway is gone are given to another, so that every snapshot is released.
fn over(pass: &Pass<'_>, _: &mut Said) -> Option<End> {
    // One that is applied is not over before its snapshot is gone, and somebody has to see to that.
    for (cycle, mirrored) in pass.open().filter(|(_, mirrored)| mirrored.over || mirrored.applied.status == Status::True) {
        let name = cycle.object.metadata.name.clone().unwrap_or_default();
        if mirrored.over && mirrored.released {
            // What it came to is written first: nobody mirrors a cycle that is closed.
            let written = cycle.object.status.as_ref().is_some_and(|status| status.phase == mirrored.status.phase);
            let step = if written { Step::Close { cycle: name, order: is_ordered(pass.seen, cycle) } } else { Step::None };
            return Some((step, NOW));
        }
        if is_in_vain(cycle, mirrored) {
            return Some((Step::Cancel { cycles: vec![name], reason: mirrored.applied.reason }, NOW));
        }
        if let Some(end) = reassign(pass, cycle, &name) {
            return Some(end);
        }
    }
    prune(pass)
}

/// True where a gateway is still at a cycle that will never be applied, and does not know it: its snapshot grows for nothing.
pub(super) fn is_in_vain(cycle: &CycleSeen, mirrored: &Mirrored) -> bool {
    mirrored.applied.status == Status::False && !mirrored.released && is_read(cycle) && cycle.object.spec.cancel.is_none()
}

/// A snapshot of ours that no cycle needs goes, whatever else is in the way: a call to take it may have been carried out long after its caller was
/// gone.
fn sweep(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    let seen = pass.seen;
    let source = seen.source.as_ref().ok()?;
    let stands = !source.snapshots.is_empty() || seen.ours().is_some() && source.left_by.is_some();
    // A cycle that was claimed has no object yet where its operator died in between.
    let known = seen.ledger.is_ok() && seen.due.is_ok();
    if !stands || !known || seen.running() || pass.open().next().is_some() {
        return None;
    }
    said.findings.push(Finding::open(C::Replicating, Reason::RemovingSnapshot, "a snapshot of ours that no cycle needs is removed"));
    Some((Step::ReleaseSnapshots, SOON))
}

pub(super) fn is_ordered(seen: &Observed, cycle: &CycleSeen) -> bool {
    matches!(&seen.order, Ok(Some(order)) if Some(order.of) == mirror::id(&cycle.object))
}

/// Another gateway for a cycle whose own is gone, where there is one.
fn reassign(pass: &Pass<'_>, cycle: &CycleSeen, name: &str) -> Option<End> {
    let worker = cycle.object.spec.worker.as_deref();
    if worker.is_some_and(|worker| pass.seen.alive(worker)) {
        return None;
    }
    let free = pass.seen.free_gateway().filter(|free| Some(free.name.as_str()) != worker)?;
    Some((Step::Assign { cycle: name.to_owned(), worker: free.name.clone() }, SOON))
}

fn prune(pass: &Pass<'_>) -> Option<End> {
    let (mut good, mut bad) = (0, 0);
    let mut old = Vec::new();
    // The newest first.
    for (cycle, mirrored) in pass.cycles().filter(|(cycle, _)| !is_held(cycle)).collect::<Vec<_>>().into_iter().rev() {
        let count = if mirrored.applied.status == Status::True { &mut good } else { &mut bad };
        *count += 1;
        if *count > HISTORY && cycle.object.metadata.deletion_timestamp.is_none() {
            old.extend(cycle.object.metadata.name.clone());
        }
    }
    (!old.is_empty()).then_some((Step::Prune(old), NOW))
}

fn preflight(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    let Ok(source) = &pass.seen.source else { return None };
    let concerns = |severity| source.concerns.iter().filter(move |concern| concern.severity == severity && !concern.accepted);
    let (critical, warnings): (Vec<_>, Vec<_>) = (concerns(Severity::Critical).collect(), concerns(Severity::Warning).collect());
    let told = |all: &[&crds::replicated_vm::Concern]| {
        let told = |one: &&crds::replicated_vm::Concern| format!("{}: {}. {}", one.id, one.message, one.remedy);
        all.iter().map(told).collect::<Vec<_>>().join("; ")
    };
    let block = if !critical.is_empty() {
        Some((Reason::ConcernsBlock, told(&critical)))
    } else if !warnings.is_empty() {
        Some((Reason::ConcernsToAccept, told(&warnings)))
    } else {
        None
    };
    match &block {
        Some((reason, message)) => said.findings.push(Finding::fails(C::PreflightPassed, *reason, message.clone())),
        None => said.findings.push(Finding::holds(C::PreflightPassed, Reason::AsExpected, "")),
    }
    if pass.seen.running() {
        return None;
    }
    if let Some((reason, message)) = block {
        stands_still(said, reason, message);
        return Some((Step::None, LATER));
    }
    if let Site::NotReady(why) = &pass.seen.site {
        let name = pass.seen.object.spec.appliance_ref.name.clone();
        stands_still(said, Reason::ApplianceNotReady, format!("the appliance {name} is not ready: {why}"));
        said.waiting = Some(waits_for(Reason::ApplianceNotReady, Some(name)));
        return Some((Step::None, LATER));
    }
    None
}

fn replicated(source: &Source) -> Vec<seeds::SourceDisk> {
    let wanted = source.disks.iter().filter(|disk| !disk.excluded);
    wanted.map(|disk| seeds::SourceDisk { key: disk.key, capacity: disk.capacity }).collect()
}

fn seed_disks(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    let seen = pass.seen;
    let running = seen.running() || seen.object.spec.replication == Replication::Stopped;
    let disks = match &seen.disks {
        Ok(disks) => disks,
        Err(trouble) => {
            fails(said, C::SeedsReady, trouble);
            if running {
                return None;
            }
            stands_still(said, trouble.reason, trouble.message.clone());
            return Some((Step::None, again(trouble, LATER)));
        }
    };
    let incarnation = pass.incarnation()?;
    // Without the source's sizes only what is gone can be told.
    let source = match (&seen.source, seen.ours()) {
        (Ok(source), _) => replicated(source),
        (Err(_), Some(ledger)) => ledger.seeds.iter().map(|(key, seed)| seeds::SourceDisk { key: *key, capacity: seed.capacity }).collect(),
        (Err(_), None) => return None,
    };
    let look = seeds::Look { owner: &seen.owner, incarnation, source: &source, ledger: seen.ours(), disks };
    let plans = seeds::plan(&look);
    // A cycle that runs is let finish where it can; on a seed that is gone it can't.
    let due = |plan: &Plan| !running || matches!(plan, Plan::Make { why: Why::Missing | Why::Replaced, .. });
    let (mut to_make, mut ready, mut words, mut coming) = (Vec::new(), Vec::new(), Vec::new(), false);
    for (key, plan) in plans.iter().filter(|(_, plan)| due(plan)) {
        let Plan::Make { which, capacity, why, made } = plan else { continue };
        words.push((why.reason(), *key));
        match made.as_deref() {
            Some(disk) if !disk.provisioned => coming = true,
            Some(disk) if seeds::fits(disk, *capacity) => ready.push(ready_seed(*key, disk, *capacity)),
            made => to_make.push(NewSeed { which: *which, capacity: *capacity, replace: made.is_some() }),
        }
    }
    if let Some((reason, _)) = words.first() {
        let keys: Vec<String> = words.iter().map(|(_, key)| key.to_string()).collect();
        let message = format!("seed disks are being made for the disks {}", keys.join(", "));
        said.findings.push(Finding::open(C::SeedsReady, *reason, message.clone()));
        stands_still(said, *reason, message);
        return Some(match (to_make.is_empty(), coming, seen.ours()) {
            (false, ..) => (Step::MakeDisks(to_make), NOW),
            (true, true, _) => (Step::None, SOON),
            (true, false, None) => (Step::CreateLedger(ready), NOW),
            (true, false, Some(_)) => (Step::Reseed(ready), NOW),
        });
    }
    let gone: Vec<DiskKey> = plans.iter().filter(|(_, plan)| due(plan) && **plan == Plan::Leave).map(|(key, _)| *key).collect();
    if !gone.is_empty() {
        return Some((Step::Retire(gone), NOW));
    }
    said.findings.push(Finding::holds(C::SeedsReady, Reason::AsExpected, ""));
    let replaced = seen.ours().map(|ledger| seeds::sweep(&seen.owner, ledger, disks)).unwrap_or_default();
    (!running && !replaced.is_empty()).then_some((Step::SweepSeeds(replaced), NOW))
}

fn ready_seed(disk: DiskKey, found: &Disk, capacity: u64) -> ReadySeed {
    ReadySeed { disk, id: found.id.clone(), unique_id: found.unique_id.clone(), capacity }
}

fn tracking(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    let off = matches!(&pass.seen.source, Ok(source) if source.tracking_off);
    if !off || pass.seen.running() || pass.open().next().is_some() || pass.seen.object.spec.replication != Replication::Active {
        return None;
    }
    if let Ok(Source { busy: Some(busy), .. }) = &pass.seen.source {
        stands_still(said, busy.reason, busy.message.clone());
        said.waiting = Some(waits_for(busy.reason, None));
        return Some((Step::None, again(busy, SOON)));
    }
    said.findings.push(Finding::open(C::Replicating, Reason::EnablingChangeTracking, "changed block tracking is being switched on"));
    Some((Step::SwitchTracking, NOW))
}

#[cfg(test)]
#[path = "decide/tests.rs"]
mod tests;
