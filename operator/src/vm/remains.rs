//! What is left of a replica that goes: what can be removed, and what can't be reached.

use crds::{
    conditions::{ConditionType as C, Finding},
    names,
    reasons::Reason,
};

use super::{
    model::{Observed, Source},
    step::Remains,
};
use crate::{seeds, trouble::Trouble};

/// Something that is not removed: the reason, and what it is in words.
pub type Left = (Reason, String);

/// vCenter is not there, or does not let us in: nothing is known of it.
pub fn is_out_of_reach(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unreachable
            | Reason::SourceUnreachable
            | Reason::WrongCredentials
            | Reason::UntrustedCertificate
            | Reason::PrivilegesMissing
            | Reason::ServerFailed
            | Reason::ConfigInvalid
            | Reason::CredentialsMissing
            | Reason::CaBundleMissing
            | Reason::SourceChanged
    )
}

/// What is told of vCenter is not of now: it is out of reach, or answers with a fault.
fn is_of_before(reason: Reason) -> bool {
    is_out_of_reach(reason) || matches!(reason, Reason::TaskFailed | Reason::SourceRefused)
}

/// What is left of a replica: what can be removed, and what can't be reached, in words.
pub fn look(seen: &Observed) -> (Vec<Remains>, Vec<Left>) {
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
pub fn not_removed(left: &[Left], deleting: bool) -> Option<Finding> {
    let (reason, _) = left.first()?;
    let what: Vec<&str> = left.iter().map(|(_, what)| what.trim_end_matches('.')).collect();
    let give_up = format!("{}={}", names::ABANDON_ANNOTATION, names::ABANDON_CONFIRMED);
    let way_out = if deleting { format!(". It is tried again; the annotation {give_up} gives it up") } else { String::new() };
    Some(Finding::fails(C::CleanedUp, *reason, format!("not removed yet: {}{way_out}", what.join("; "))))
}
