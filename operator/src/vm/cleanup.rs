//! Deletion and `Stopped`: what is left of a replica goes, in an order in which nothing is left that nobody knows of. What can't be
//! reached is named, and keeps nothing else from going.

use std::time::Duration;

use crds::{
    conditions::{self, ConditionType as C, Finding},
    names,
    reasons::Reason,
};

use super::{
    decide::{End, LATER, NOW, Pass, SOON, Said, is_in_vain},
    model::{CycleSeen, Observed, Remains, Site, Source, Step},
};
use crate::{seeds, trouble::Trouble};

/// Something that is not removed, in words, and the word for it.
pub(super) type Left = (Reason, String);

pub(super) fn decide(pass: &Pass<'_>, said: &mut Said) -> End {
    let seen = pass.seen;
    if !seen.deleting() {
        said.findings.push(Finding::fails(C::Replicating, Reason::Stopped, "replication is stopped: set it to Active to begin anew"));
    } else if abandoned(seen) {
        said.findings.push(Finding::holds(C::CleanedUp, Reason::Abandoned, "a person gave up what could not be reached"));
        return (Step::LetGo, NOW);
    } else {
        // What was said of it before is not so any more.
        said.findings.push(Finding::open(C::Replicating, Reason::CleaningUp, "the object is deleted, and its replica with it"));
    }
    // Nothing was ever made: an incarnation is drawn before anything is named by it.
    let drawn = seen.object.status.as_ref().is_some_and(|status| status.incarnation.is_some());
    if !drawn && seen.cycles.is_empty() && seen.ours().is_none() {
        return finished(seen, said);
    }
    if let Site::Missing | Site::Unbuilt(_) = &seen.site {
        let name = &seen.object.spec.appliance_ref.name;
        let (reason, why) = match &seen.site {
            Site::Unbuilt(trouble) => (Reason::ApplianceNotReady, format!("is not ready: {}", trouble.message)),
            _ => (Reason::ApplianceMissing, "does not exist: create it again".to_owned()),
        };
        let message = format!(
            "snapshots, seed disks, log and ledger can't be reached: the appliance {name} {why}. Or give them up with the annotation {}={}",
            names::ABANDON_ANNOTATION,
            names::ABANDON_CONFIRMED
        );
        said.findings.push(Finding::fails(C::CleanedUp, reason, message));
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
    said.findings.push(Finding::holds(C::CleanedUp, Reason::AsExpected, "nothing is left"));
    if seen.deleting() {
        return (Step::LetGo, NOW);
    }
    let remembers = seen.object.status.as_ref().is_some_and(|status| status.incarnation.is_some());
    if remembers || !seen.cycles.is_empty() && seen.cycles.iter().any(super::decide::is_held) {
        (Step::Forget, NOW)
    } else {
        (Step::None, Duration::from_secs(3600))
    }
}

/// Cycles that go on: cancelled first, then their gateway releases the snapshot.
fn running(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    let seen = pass.seen;
    let name = |cycle: &super::model::CycleSeen| cycle.object.metadata.name.clone().unwrap_or_default();
    let to_cancel: Vec<String> = pass
        .open()
        .filter(|(cycle, mirrored)| cycle.object.spec.cancel.is_none() && (!mirrored.over || is_in_vain(cycle, mirrored)))
        .map(|(cycle, _)| name(cycle))
        .collect();
    if !to_cancel.is_empty() {
        said.findings.push(Finding::open(C::CleanedUp, Reason::CleaningUp, format!("{} is cancelled", to_cancel.join(", "))));
        return Some((Step::Cancel { cycles: to_cancel, reason: Reason::Stopped }, NOW));
    }
    let waits = pass.open().find(|(cycle, mirrored)| {
        let alive = cycle.object.spec.worker.as_deref().is_some_and(|worker| seen.alive(worker));
        // One that gets nowhere says so; what keeps it is named below.
        alive && !is_stuck(cycle) && !mirrored.released
    });
    let (cycle, _) = waits?;
    let message =
        format!("the gateway {} releases the snapshot of {}", cycle.object.spec.worker.as_deref().unwrap_or_default(), name(cycle));
    said.findings.push(Finding::open(C::CleanedUp, Reason::CleaningUp, message));
    Some((Step::None, SOON))
}

/// vCenter is not there, or does not let us in: nothing is known of it.
fn is_out_of_reach(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unreachable
            | Reason::SourceUnreachable
            | Reason::WrongCredentials
            | Reason::UntrustedCertificate
            | Reason::PrivilegesMissing
            | Reason::ServerFailed
            | Reason::ConfigInvalid
    )
}

/// What is told of vCenter is not of now: it is out of reach, or answers with a fault.
fn is_of_before(reason: Reason) -> bool {
    is_out_of_reach(reason) || matches!(reason, Reason::TaskFailed | Reason::SourceRefused)
}

/// True where the gateway says that it can't get at the snapshot.
fn is_stuck(cycle: &CycleSeen) -> bool {
    let conditions = cycle.object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    [C::Transferred, C::SourceReleased].into_iter().any(|of| {
        let found = conditions::get(conditions, of).filter(|condition| condition.status != "True");
        found.and_then(|condition| Reason::from_word(&condition.reason)).is_some_and(is_out_of_reach)
    })
}

/// What is left of a replica: what can be removed, and what can't be reached, in words.
pub(super) fn look(seen: &Observed) -> (Vec<Remains>, Vec<Left>) {
    let (mut remains, mut left) = (Vec::new(), Vec::new());
    let snapshots = |trouble: &Trouble| (Reason::SnapshotLeft, format!("snapshots of the VM: {}", trouble.message));
    match &seen.source {
        Ok(source) if !source.snapshots.is_empty() || seen.ours().is_some() && source.left_by.is_some() => remains.push(Remains::Snapshots),
        // What was heard before vCenter fell silent says nothing of a snapshot that was taken since.
        Ok(Source { busy: Some(trouble), .. }) if is_of_before(trouble.reason) => left.push(snapshots(trouble)),
        // Its snapshots are gone with it.
        Ok(_) => {}
        Err(trouble) if matches!(trouble.reason, Reason::VmNotFound | Reason::VmReplaced) => {}
        Err(trouble) => left.push(snapshots(trouble)),
    }
    match &seen.order {
        Ok(Some(_)) => remains.push(Remains::Order),
        Ok(None) => {}
        Err(trouble) => left.push((Reason::LogLeft, format!("the order: {}", trouble.message))),
    }
    let mut seeds_gone = false;
    // Whose the seeds are says the ledger: after a take-over they have the tags of the owner before, and hold the next one's replica.
    match (&seen.ledger, &seen.disks) {
        (Ok(Some(ledger)), _) if ledger.owner != seen.owner => {}
        (ledger, Ok(disks)) => {
            let ids = seeds::all(&seen.owner, seen.ours(), disks);
            seeds_gone = ids.is_empty();
            match ledger {
                _ if seeds_gone => {}
                Ok(_) => remains.push(Remains::Seeds(ids)),
                Err(_) => left.push((Reason::SeedsLeft, "seed disks: whose they are says the ledger".to_owned())),
            }
        }
        (_, Err(trouble)) => left.push((Reason::SeedsLeft, format!("seed disks: {}", trouble.message))),
    }
    match (&seen.ledger, &seen.blobs) {
        (Err(trouble), _) => left.push((Reason::LogLeft, format!("the ledger: {}", trouble.message))),
        (Ok(Some(ledger)), _) if ledger.owner != seen.owner => {}
        (Ok(Some(_)), Err(trouble)) => left.push((Reason::LogLeft, format!("the log: {}", trouble.message))),
        (Ok(Some(_)), Ok(blobs)) if *blobs > 0 => remains.push(Remains::Log),
        // It tells which disks are ours, so it goes after them.
        (Ok(Some(_)), Ok(_)) if seeds_gone => remains.push(Remains::Ledger),
        (Ok(_), _) => {}
    }
    // A task that has not ended yet may leave one: before the ledger goes vCenter is asked itself, where it answers.
    let answers = |source: &Source| !source.busy.as_ref().is_some_and(|trouble| is_of_before(trouble.reason));
    if remains.contains(&Remains::Ledger) && seen.source.as_ref().is_ok_and(answers) && !remains.contains(&Remains::Snapshots) {
        remains.insert(0, Remains::Snapshots);
    }
    (remains, left)
}

/// Says what is not removed yet, where there is something.
pub(super) fn told(left: &[Left], deleting: bool) -> Option<Finding> {
    let (reason, _) = left.first()?;
    let what: Vec<&str> = left.iter().map(|(_, what)| what.trim_end_matches('.')).collect();
    let give_up = format!("{}={}", names::ABANDON_ANNOTATION, names::ABANDON_CONFIRMED);
    let way_out = if deleting { format!(". It is tried again; the annotation {give_up} gives it up") } else { String::new() };
    Some(Finding::fails(C::CleanedUp, *reason, format!("not removed yet: {}{way_out}", what.join("; "))))
}

fn rest(pass: &Pass<'_>, said: &mut Said) -> End {
    let seen = pass.seen;
    let (remains, left) = look(seen);
    if remains.is_empty() && left.is_empty() {
        return finished(seen, said);
    }
    let going = || Finding::open(C::CleanedUp, Reason::CleaningUp, "snapshots, seed disks, log and ledger are being removed");
    said.findings.push(told(&left, seen.deleting()).unwrap_or_else(going));
    if remains.is_empty() { (Step::None, LATER) } else { (Step::CleanUp(remains), SOON) }
}
