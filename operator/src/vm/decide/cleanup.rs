//! Deletion and `Stopped`: what is left of a replica goes, in an order in which nothing is left that nobody knows of. What can't be
//! reached is named, and keeps nothing else from going.

use crds::{
    conditions::{self, ConditionType as C, Finding, Status},
    names,
    reasons::Reason,
};

use crate::{
    pass::{AT_REST, LATER, NOW, SOON, Said},
    vm::{
        look::Pass,
        model::{ApplianceState, CycleSeen, Observed},
        remains::{is_out_of_reach, look, not_removed},
        step::{End, Step},
    },
};

pub(super) fn decide(pass: &Pass, said: &mut Said) -> End {
    let seen = &pass.seen;
    if !seen.deleting() {
        said.fails(C::Replicating, Reason::Stopped, "replication is stopped: set it to Active to begin anew");
    } else if abandoned(seen) {
        said.holds(C::CleanedUp, Reason::Abandoned, "a person gave up what could not be reached");
        return (Step::LetGo, NOW);
    } else {
        // What was said of it before is not so any more.
        said.open(C::Replicating, Reason::CleaningUp, "the object is deleted, and its replica with it");
    }
    // Nothing was ever made: an incarnation is drawn before anything is named by it.
    let drawn = seen.object.status.as_ref().is_some_and(|status| status.incarnation.is_some());
    if !drawn && seen.cycles.is_empty() && seen.ours().is_none() {
        return finished(seen, said);
    }
    if let ApplianceState::Missing | ApplianceState::Unbuilt(_) = &seen.appliance {
        let name = &seen.object.spec.appliance_ref.name;
        let (reason, why) = match &seen.appliance {
            ApplianceState::Unbuilt(trouble) => (Reason::ApplianceNotReady, format!("is not ready: {}", trouble.message)),
            _ => (Reason::ApplianceMissing, "does not exist: create it again".to_owned()),
        };
        let message = format!(
            "snapshots, seed disks, log and ledger can't be reached: the appliance {name} {why}. Or give them up with the annotation {}={}",
            names::ABANDON_ANNOTATION,
            names::ABANDON_CONFIRMED
        );
        said.fails(C::CleanedUp, reason, message);
        return (Step::None, LATER);
    }
    if let Some(end) = running(pass, said) {
        return end;
    }
    rest(pass, said)
}

fn abandoned(seen: &Observed) -> bool {
    let annotations = seen.object.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(names::ABANDON_ANNOTATION)).is_some_and(|value| value == names::ABANDON_CONFIRMED)
}

fn finished(seen: &Observed, said: &mut Said) -> End {
    said.holds(C::CleanedUp, Reason::AsExpected, "nothing is left");
    if seen.deleting() {
        return (Step::LetGo, NOW);
    }
    let remembers = seen.object.status.as_ref().is_some_and(|status| status.incarnation.is_some());
    if remembers || !seen.cycles.is_empty() && seen.cycles.iter().any(CycleSeen::is_held) {
        (Step::Forget, NOW)
    } else {
        (Step::None, AT_REST)
    }
}

/// Cycles that go on: cancelled first, then their gateway releases the snapshot.
fn running(pass: &Pass, said: &mut Said) -> Option<End> {
    let seen = &pass.seen;
    let to_cancel: Vec<String> = pass
        .open()
        .filter(|(cycle, mirrored)| !cycle.is_cancelled() && (!mirrored.over || cycle.is_in_vain(mirrored)))
        .map(|(cycle, _)| cycle.name())
        .collect();
    if !to_cancel.is_empty() {
        said.open(C::CleanedUp, Reason::CleaningUp, format!("{} is cancelled", to_cancel.join(", ")));
        return Some((Step::Cancel { cycles: to_cancel, reason: Reason::Stopped }, NOW));
    }
    let waits = pass.open().find(|(cycle, mirrored)| {
        let alive = cycle.object.spec.worker.as_deref().is_some_and(|worker| seen.alive(worker));
        // One that gets nowhere says so; what keeps it is named below.
        alive && !is_stuck(cycle) && !mirrored.released
    });
    let (cycle, _) = waits?;
    let message =
        format!("the gateway {} releases the snapshot of {}", cycle.object.spec.worker.as_deref().unwrap_or_default(), cycle.name());
    said.open(C::CleanedUp, Reason::CleaningUp, message);
    Some((Step::None, SOON))
}

/// True where the gateway says that it can't get at the snapshot.
fn is_stuck(cycle: &CycleSeen) -> bool {
    [C::Transferred, C::SourceReleased].into_iter().any(|of| {
        let found = conditions::get(cycle.conditions(), of).filter(|condition| condition.status != Status::True.as_str());
        found.and_then(|condition| Reason::from_word(&condition.reason)).is_some_and(is_out_of_reach)
    })
}

fn rest(pass: &Pass, said: &mut Said) -> End {
    let seen = &pass.seen;
    let (remains, left) = look(seen);
    if remains.is_empty() && left.is_empty() {
        return finished(seen, said);
    }
    let going = || Finding::open(C::CleanedUp, Reason::CleaningUp, "snapshots, seed disks, log and ledger are being removed");
    said.findings.push(not_removed(&left, seen.deleting()).unwrap_or_else(going));
    if remains.is_empty() { (Step::None, LATER) } else { (Step::CleanUp(remains), SOON) }
}
