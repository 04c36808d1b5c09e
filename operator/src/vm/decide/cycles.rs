//! Checks of cycles: what is over is closed, what goes on is told, what the log says is to be done is done.

use std::{collections::BTreeMap, time::Duration};

use blocklog::{
    ids::{CycleId, DiskKey},
    steward::Due,
};
use crds::{
    conditions::{ConditionType as C, Finding, Status},
    names,
    reasons::Reason,
};

use super::{
    start,
    telling::{held_up, no_gateway, runs, waits},
};
use crate::{
    objects::bytes,
    pass::{NOW, SOON, Said, waits_for},
    vm::{
        look::Pass,
        model::{CycleSeen, GRANT, Observed},
        step::{End, Step},
    },
};

/// The most that is kept of each: cycles that succeeded, and cycles that did not.
const HISTORY: usize = 5;

/// Cycles that are over are closed, and those whose gateway is gone are given to another, so that every snapshot is released.
pub(super) fn over(pass: &Pass, _: &mut Said) -> Option<End> {
    // One that is applied is not over before its snapshot is gone, and somebody has to see to that.
    for (cycle, mirrored) in pass.open().filter(|(_, mirrored)| mirrored.over || mirrored.applied.status == Status::True) {
        let name = cycle.name();
        if mirrored.over && mirrored.released {
            // What it came to is written first: nobody mirrors a cycle that is closed.
            let written = cycle.object.status.as_ref().is_some_and(|status| status.phase == mirrored.status.phase);
            let step = if written { Step::Close { cycle: name, order: pass.seen.is_ordered(cycle) } } else { Step::None };
            return Some((step, NOW));
        }
        if cycle.is_in_vain(mirrored) {
            return Some((Step::Cancel { cycles: vec![name], reason: mirrored.applied.reason }, NOW));
        }
        if let Some(end) = reassign(pass, cycle, &name) {
            return Some(end);
        }
    }
    prune(pass)
}

/// A snapshot of ours that no cycle needs goes, whatever else is in the way: a call to take it may have been carried out long after its caller was
/// gone.
pub(super) fn sweep(pass: &Pass, said: &mut Said) -> Option<End> {
    let seen = &pass.seen;
    let source = seen.source.as_ref().ok()?;
    let stands = !source.snapshots.is_empty() || seen.ours().is_some() && source.left_by.is_some();
    // A cycle that was claimed has no object yet where its operator died in between.
    let known = seen.ledger.is_ok() && seen.due.is_ok();
    if !stands || !known || seen.running() || pass.open().next().is_some() {
        return None;
    }
    said.open(C::Replicating, Reason::RemovingSnapshot, "a snapshot of ours that no cycle needs is removed");
    Some((Step::ReleaseSnapshots, SOON))
}

/// Another gateway for a cycle whose own is gone, where there is one.
fn reassign(pass: &Pass, cycle: &CycleSeen, name: &str) -> Option<End> {
    let worker = cycle.object.spec.worker.as_deref();
    if worker.is_some_and(|worker| pass.seen.alive(worker)) {
        return None;
    }
    let free = pass.seen.free_gateway().filter(|free| Some(free.name.as_str()) != worker)?;
    if pass.seen.slots.is_none() {
        return Some((Step::LookAtSlots, NOW));
    }
    Some((Step::Assign { cycle: name.to_owned(), worker: free.name.clone() }, SOON))
}

fn prune(pass: &Pass) -> Option<End> {
    let (mut good, mut bad) = (0, 0);
    let mut old = Vec::new();
    // The newest first.
    for (cycle, mirrored) in pass.cycles().filter(|(cycle, _)| !cycle.is_held()).collect::<Vec<_>>().into_iter().rev() {
        let count = if mirrored.applied.status == Status::True { &mut good } else { &mut bad };
        *count += 1;
        if *count > HISTORY && cycle.object.metadata.deletion_timestamp.is_none() {
            old.extend(cycle.object.metadata.name.clone());
        }
    }
    (!old.is_empty()).then_some((Step::Prune(old), NOW))
}

/// Nobody tells us what an applier has done. Most have little to do, and are done at once: an order is looked at often when it is new, then less and
/// less. Each look costs a few requests to the log store.
fn look(since: Option<jiff::SignedDuration>) -> Duration {
    match since.map(|since| since.as_secs()) {
        None | Some(..10) => Duration::from_millis(300),
        Some(..60) => Duration::from_secs(1),
        Some(_) => SOON,
    }
}

pub(super) fn cycle(pass: &Pass, said: &mut Said) -> Option<End> {
    let seen = &pass.seen;
    let ledger = seen.ours()?;
    match seen.due.as_ref().ok()?.as_ref()? {
        Due::Apply { of, .. } => Some(apply(pass, said, *of)),
        Due::Resume(state) => {
            let Some((cycle, name)) = object(pass, state.of) else {
                let Some(slots) = &seen.slots else { return Some((Step::LookAtSlots, NOW)) };
                // Nobody has counted it since it was claimed. It had its turn then.
                let waits = seen.only_claimed().then(|| start::waits_for_slots(seen, &slots.before_all(), said, seen.now)).flatten();
                return Some(waits.unwrap_or_else(|| make_cycle(pass, said, state.of)));
            };
            if let Some(end) = reassign(pass, cycle, &name) {
                runs(said, &name, "is given to another gateway");
                return Some(end);
            }
            match cycle.object.spec.worker.as_deref().filter(|worker| seen.alive(worker)) {
                Some(worker) => match held_up(cycle, C::Transferred) {
                    Some(by) => waits(said, by, &name, &format!("waits on {worker}")),
                    None => runs(said, &name, &format!("runs on {worker}")),
                },
                None => no_gateway(seen, said),
            }
            Some((Step::None, SOON))
        }
        Due::New { above } => Some(previous(pass, said).unwrap_or_else(|| start::begin(pass, said, ledger, *above))),
    }
}

fn object(pass: &Pass, of: CycleId) -> Option<(&CycleSeen, String)> {
    let cycle = pass.seen.cycles.iter().find(|cycle| cycle.id() == Some(of))?;
    Some((cycle, cycle.name()))
}

/// The cycle before is not over as long as its snapshot stands.
fn previous(pass: &Pass, said: &mut Said) -> Option<End> {
    let seen = &pass.seen;
    let (cycle, _) = pass.open().next()?;
    let name = cycle.name();
    let worker = cycle.object.spec.worker.as_deref().filter(|worker| seen.alive(worker));
    if worker.is_none() {
        no_gateway(seen, said);
        return Some((Step::None, SOON));
    }
    if let Some((reason, message)) = held_up(cycle, C::SourceReleased) {
        waits(said, (reason, &format!("{message}{}", held_by(seen))), &name, "is not over yet");
    } else {
        let message = format!("{name} is not over yet: its snapshot is being removed");
        said.holds(C::Replicating, Reason::PreviousCycleOpen, message);
        said.waiting = Some(waits_for(Reason::PreviousCycleOpen, Some(name)));
    }
    Some((Step::None, SOON))
}

/// Who else has a file of the VM's disks, for a person who asks why they can't be consolidated.
fn held_by(seen: &Observed) -> String {
    let who = match seen.source.as_ref().map(|source| source.held_by.as_slice()) {
        Ok([one]) => format!("The VM {one} has"),
        Ok([first, .., last]) => format!("Other VMs, from {first} to {last}, have"),
        Ok([]) | Err(_) => return String::new(),
    };
    format!(" {who} a file of its disks, too: a backup proxy has to let it go (a linked clone is none)")
}

fn make_cycle(pass: &Pass, said: &mut Said, of: CycleId) -> End {
    runs(said, &names::cycle(pass.seen.name(), bytes(of.cycle.0)), "begins");
    (Step::MakeCycle { of, worker: pass.seen.free_gateway().map(|free| free.name.clone()) }, NOW)
}

fn apply(pass: &Pass, said: &mut Said, of: CycleId) -> End {
    let seen = &pass.seen;
    let Some((cycle, name)) = object(pass, of) else {
        return if seen.slots.is_some() { make_cycle(pass, said, of) } else { (Step::LookAtSlots, NOW) };
    };
    match hindrance(pass, cycle) {
        Some(applied) => waits(said, (applied.reason, &applied.message), &name, "is not applied yet"),
        None => runs(said, &name, "is being applied"),
    }
    // The snapshot is still released while the log is applied.
    if let Some(end) = reassign(pass, cycle, &name).filter(|_| !released(pass, cycle)) {
        return end;
    }
    // It names those disks of which something changed. Which these are follows from the cycle, so it is enough that they are still the ledger's.
    let stands = |seeds: &BTreeMap<DiskKey, String>| {
        let ours = seen.ours().map(|ledger| &ledger.seeds);
        ours.is_some_and(|ours| seeds.iter().all(|(disk, id)| ours.get(disk).is_some_and(|seed| seed.unique_id == *id)))
    };
    let ordered = matches!(&seen.order, Ok(Some(order)) if order.of == of && stands(&order.seeds));
    let written = cycle.object.status.as_ref().and_then(|status| status.target.as_ref()).and_then(|target| target.ordered.as_ref());
    // Renewed at half life: whoever is at work with it then has half a day to take note.
    let since = written.map(|written| seen.now.duration_since(written.0));
    let fresh = since.is_some_and(|since| since < GRANT / 2);
    if ordered && fresh { (Step::None, look(since)) } else { (Step::WriteOrder(of), look(None)) }
}

/// What `Applied` says of a cycle, where that keeps it from being applied just now.
fn hindrance<'p>(pass: &'p Pass, cycle: &CycleSeen) -> Option<&'p Finding> {
    let seen = &pass.seen;
    let mirrored = pass.cycles().find(|(one, _)| one.name() == cycle.name()).map(|(_, mirrored)| mirrored)?;
    let applied = Some(&mirrored.applied).filter(|applied| applied.status == Status::Unknown)?;
    match &seen.setback {
        // Another try has begun since: nobody knows yet how that one ends.
        Some(setback) => {
            let tried_again = seen.ours().zip(setback.turn).is_some_and(|(ledger, turn)| ledger.turn > turn);
            (!tried_again && Some(setback.of) == cycle.id()).then_some(applied)
        }
        None => (seen.is_ordered(cycle) && applied.reason == Reason::Pending).then_some(applied),
    }
}

fn released(pass: &Pass, cycle: &CycleSeen) -> bool {
    pass.cycles().any(|(one, mirrored)| one.name() == cycle.name() && mirrored.released)
}
