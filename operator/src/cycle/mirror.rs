//! What the operator says about a cycle: what the ledger, the cycle's state and the receipt say, in the words of the API. It decides
//! nothing; truth is in the ledger.

use blocklog::{
    cycle::{Manifest, Phase, Receipt, State},
    ids::{Digest, Owner, Turn},
    ledger::{Ledger, Refusal},
    setback::Setback,
    steward::GivenUp,
};
use crds::{
    ReplicationCycle, ReplicationCycleStatus,
    conditions::{self, ConditionType, Finding, Status},
    reasons::Reason,
    replicated_vm::{CycleKind, LastCycle},
    replication_cycle::{CyclePhase, Failure, ReplicationCycleSpec, TargetDisk, TargetStatus},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::objects::{bytes, seconds, status_of};

/// How long an order may stand before it is told that no applier has begun it.
pub const UNTAKEN: SignedDuration = SignedDuration::from_mins(2);

/// What is known of a cycle when it is mirrored.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub object: &'a ReplicationCycle,
    /// Who we are to ledgers.
    pub owner: &'a Owner,
    /// False where ledger or state could not be looked at: what was said of it before holds.
    pub readable: bool,
    pub ledger: Option<&'a Ledger>,
    /// Its state; none where it is gone.
    pub state: Option<&'a State>,
    /// What it was to write, and what was written.
    pub proof: Option<&'a (Manifest, Receipt)>,
    /// True where an order for it stands.
    pub ordered: bool,
    /// Why it will never be applied, where the log says so.
    pub given_up: Option<&'a GivenUp>,
    /// Why it could not be applied so far, as its applier says.
    pub setback: Option<&'a Setback>,
    pub now: Timestamp,
}

/// The operator's part of a cycle's status.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirrored {
    /// `Applied`.
    pub applied: Finding,
    /// The status as it will be read: the gateway's part as it was, ours as it is now.
    pub status: ReplicationCycleStatus,
    /// True where nothing more will come of it.
    pub over: bool,
    /// True where its snapshot is gone.
    pub released: bool,
}

impl Mirrored {
    /// As the VM's history has it.
    #[must_use]
    pub fn last(&self, object: &ReplicationCycle, now: Timestamp) -> Option<LastCycle> {
        if !self.over {
            return None;
        }
        let (source, target) = (self.status.source.as_ref(), self.status.target.as_ref());
        let created = object.metadata.creation_timestamp.clone();
        let started = source.and_then(|source| source.started.clone()).or(created).unwrap_or(Time(now));
        let ends = [target.and_then(|target| target.ended.clone()), source.and_then(|source| source.ended.clone())];
        let released = source.and_then(|source| source.snapshot.as_ref()).and_then(|snapshot| snapshot.released.clone());
        let ended = ends.into_iter().flatten().chain(released).map(|time| time.0).max().unwrap_or(now);
        let succeeded = self.applied.status == Status::True;
        let reason = (!succeeded).then(|| self.status.failure.as_ref().map(|failure| failure.reason.clone())).flatten();
        Some(LastCycle { cycle: object.spec.cycle, kind: object.spec.kind, started, ended: Time(ended), succeeded, reason })
    }
}

/// Mirrors a cycle.
#[must_use]
pub fn mirror(seen: &Seen<'_>) -> Mirrored {
    let old = seen.object.status.clone().unwrap_or_default();
    let applied = settled(&old).unwrap_or_else(|| applied(seen, &old));
    let mut status = old.clone();
    let mut conditions: Vec<_> = old.conditions.iter().filter(|one| one.type_ != ConditionType::Applied.as_str()).cloned().collect();
    conditions.extend(conditions::merge(&old.conditions, std::slice::from_ref(&applied), seen.object.metadata.generation, seen.now));
    status.conditions = conditions;
    status.observed_generation = seen.object.metadata.generation;
    status.target = target(seen, &old, &applied);
    let phase = status.derive_phase();
    status.phase = Some(phase);
    status.failure = failure(seen, &status, phase, &applied);
    let released = conditions::is(&status.conditions, ConditionType::SourceReleased, Status::True);
    Mirrored { over: matches!(phase, CyclePhase::Succeeded | CyclePhase::Failed | CyclePhase::Cancelled), applied, status, released }
}

/// What was said once stays: a cycle that is applied, or never will be, does not become another one by what comes after it.
fn settled(old: &ReplicationCycleStatus) -> Option<Finding> {
    let condition = conditions::get(&old.conditions, ConditionType::Applied)?;
    let reason = Reason::from_word(&condition.reason)?;
    let status = Some(status_of(&condition.status)).filter(|status| *status != Status::Unknown)?;
    Some(Finding { of: ConditionType::Applied, status, reason, message: condition.message.clone() })
}

fn applied(seen: &Seen<'_>, old: &ReplicationCycleStatus) -> Finding {
    use ConditionType::Applied;
    let (spec, number) = (&seen.object.spec, seen.object.spec.cycle);
    let fails = |reason, message: String| Finding::fails(Applied, reason, message);
    if !seen.readable {
        let before = conditions::get(&old.conditions, Applied);
        let before = before.and_then(|one| Some(Finding::open(Applied, Reason::from_word(&one.reason)?, one.message.clone())));
        return before.unwrap_or_else(|| Finding::open(Applied, Reason::NotChecked, "the log store can't be asked"));
    }
    if let Some(State { phase: Phase::Failed(reason), .. }) = seen.state {
        return fails(*reason, format!("its log was given up: {} The next cycle covers the same ground", reason.meaning()));
    }
    // What the gateway says of a cycle whose state is cleaned up already.
    if let Some(condition) =
        conditions::get(&old.conditions, ConditionType::Transferred).filter(|condition| condition.status == Status::False.as_str())
    {
        return fails(Reason::read(&condition.reason), condition.message.clone());
    }
    let Some(ledger) = seen.ledger else {
        return fails(Reason::Cancelled, "the replica and its ledger are gone".to_owned());
    };
    let of = ledger.cycle(blocklog::ids::Cycle(u64::try_from(number).unwrap_or_default()));
    if ledger.owner != *seen.owner || ledger.incarnation.to_string() != incarnation(&spec.incarnation) {
        return fails(Reason::OwnedByOther, format!("the ledger belongs to {}, another start of replication", ledger.owner));
    }
    if let Some(point) = ledger.recovery_point.as_ref().filter(|point| point.cycle == of.cycle && ledger.is_clean()) {
        return Finding::holds(Applied, Reason::AsExpected, format!("the replica is the VM as of {}", point.time));
    }
    if let Some(gone) = seen.given_up.filter(|_| !cancelled(seen)) {
        return fails(gone.reason, format!("{}: the next cycle covers the same ground", gone.message));
    }
    if of.cycle <= ledger.begun {
        return match ledger.dirty.iter().find(|begun| begun.cycle == of.cycle) {
            Some(begun) if begun.covered => {
                // It was lost, or had to go.
                let reason = spec.cancel.as_ref().and_then(|cancel| Reason::from_word(&cancel.reason)).unwrap_or(Reason::SnapshotLost);
                fails(reason, "its snapshot went before all was read: what was read is applied, the next cycle sends the rest".to_owned())
            }
            Some(_) if of.cycle == ledger.begun && !cancelled(seen) => {
                seen.setback.map_or_else(|| Finding::open(Applied, Reason::Applying, "the log is being applied"), tried)
            }
            Some(_) if cancelled(seen) => fails(Reason::Cancelled, "it was cancelled while it was applied".to_owned()),
            _ => fails(Reason::BasisPassed, format!("cycle {} has begun since", ledger.begun)),
        };
    }
    let basis = Turn(u64::try_from(spec.basis).unwrap_or_default());
    if let Err(refusal) = ledger.supports(seen.owner, of, basis) {
        return refused(&refusal);
    }
    match seen.state.map(|state| &state.phase) {
        None => fails(Reason::BlobMissing, "the cycle's state is missing from the log store".to_owned()),
        Some(Phase::Sent) if cancelled(seen) => fails(Reason::Cancelled, "it was cancelled before it was applied".to_owned()),
        Some(Phase::Sent) if seen.setback.is_some() => seen.setback.map_or_else(|| untaken(seen, old), tried),
        Some(Phase::Sent) if seen.ordered => untaken(seen, old),
        Some(Phase::Sent) => Finding::open(Applied, Reason::Pending, "the order is to be written".to_owned()),
        Some(Phase::Open | Phase::Failed(_)) => Finding::open(Applied, Reason::Pending, "its log is not complete yet".to_owned()),
    }
}

/// What an applier says of its tries in vain; it tries again by itself.
fn tried(setback: &Setback) -> Finding {
    let Setback { reason, message, tries, first, last, .. } = setback;
    let (first, last) = (seconds(*first).0, seconds(*last).0);
    let tries =
        if *tries == 1 { format!("tried in vain at {last}") } else { format!("tried {tries} times in vain from {first} to {last}") };
    Finding::open(ConditionType::Applied, *reason, format!("{message} ({tries}; it is tried again)"))
}

/// An order that stands, and that nobody has begun or complained of.
fn untaken(seen: &Seen<'_>, old: &ReplicationCycleStatus) -> Finding {
    let ordered = old.target.as_ref().and_then(|target| target.ordered.as_ref()).map(|time| time.0);
    match ordered.filter(|ordered| seen.now.duration_since(*ordered) >= UNTAKEN) {
        Some(since) => {
            let message = format!(
                "no applier has begun the order of {since}: either all are busy with other orders, or none can read it (its pod or process, \
                 its way to the log store, its key: see its log and /readyz)"
            );
            Finding::open(ConditionType::Applied, Reason::Pending, message)
        }
        None => Finding::open(ConditionType::Applied, Reason::Applying, "the order is written: an applier takes it up"),
    }
}

/// True where people are to be told that a cycle can't be applied for now: once for each reason, however often it is tried.
#[must_use]
pub fn is_new_setback(old: &ReplicationCycleStatus, applied: &Finding) -> bool {
    let before = conditions::get(&old.conditions, ConditionType::Applied).map(|one| one.reason.as_str()).unwrap_or_default();
    let worth = match applied.reason {
        Reason::Applying | Reason::NotChecked => false,
        // Before the order is written it waits for nobody.
        Reason::Pending => before == Reason::Applying.as_str(),
        _ => true,
    };
    applied.status == Status::Unknown && worth && before != applied.reason.as_str()
}

fn refused(refusal: &Refusal) -> Finding {
    Finding::fails(ConditionType::Applied, refusal.reason(), format!("{refusal}: the next cycle covers the same ground"))
}

fn cancelled(seen: &Seen<'_>) -> bool {
    is_cancelled(&seen.object.spec)
}

/// True for a cycle that nobody wants any more, also where its log is complete. One whose snapshot only had to go for a datastore's sake is
/// applied where it was sent by then.
#[must_use]
pub fn is_cancelled(spec: &ReplicationCycleSpec) -> bool {
    spec.cancel.as_ref().is_some_and(|cancel| cancel.reason != Reason::DatastoreFull.as_str())
}

/// An incarnation as ledgers write it, from the object's UUID.
fn incarnation(text: &str) -> String {
    uuid::Uuid::parse_str(text).map_or_else(|_| text.to_owned(), |uuid| uuid.simple().to_string())
}

fn target(seen: &Seen<'_>, old: &ReplicationCycleStatus, applied: &Finding) -> Option<TargetStatus> {
    let mut target = old.target.clone().unwrap_or_default();
    if applied.status != Status::Unknown && target.ended.is_none() && (target.ordered.is_some() || applied.status == Status::True) {
        target.ended = Some(seconds(seen.now));
    }
    if let Some((manifest, receipt)) = seen.proof {
        target.turn = i64::try_from(receipt.turn.0).ok();
        target.disks = receipt
            .disks
            .iter()
            .map(|(key, done)| TargetDisk {
                key: i64::from(key.0),
                written_bytes: bytes(done.written),
                cleared_bytes: bytes(done.cleared),
                verified: manifest.disks.get(key).is_some_and(|sent| done.extents == Digest(sent.extents.digest())),
            })
            .collect();
        target.written_bytes = Some(target.disks.iter().map(|disk| disk.written_bytes).sum());
        target.cleared_bytes = Some(target.disks.iter().map(|disk| disk.cleared_bytes).sum());
    }
    (target != TargetStatus::default()).then_some(target)
}

fn failure(seen: &Seen<'_>, status: &ReplicationCycleStatus, phase: CyclePhase, applied: &Finding) -> Option<Failure> {
    if !matches!(phase, CyclePhase::Failed | CyclePhase::Cancelled) {
        return None;
    }
    let transferred =
        conditions::get(&status.conditions, ConditionType::Transferred).filter(|condition| condition.status == Status::False.as_str());
    // What was said once stays, with the disk that it was said of.
    let before = seen.object.status.as_ref().and_then(|old| old.failure.as_ref()).and_then(|failure| failure.disk);
    let disk = before.or_else(|| seen.given_up.and_then(|gone| gone.disk).map(|disk| i64::from(disk.0)));
    Some(transferred.map_or_else(
        || Failure { reason: applied.reason.into(), message: applied.message.clone(), disk },
        |condition| Failure { reason: condition.reason.clone(), message: condition.message.clone(), disk: None },
    ))
}

/// What a new cycle is for.
#[must_use]
pub fn kind(ledger: &Ledger) -> CycleKind {
    if ledger.recovery_point.is_some() { CycleKind::Delta } else { CycleKind::Initial }
}

#[cfg(test)]
#[path = "mirror/tests.rs"]
mod tests;
