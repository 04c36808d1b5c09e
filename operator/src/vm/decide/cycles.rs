//! The end of the chain: what the log says is to be done, and when the next cycle begins.

use super::*;

/// Nobody tells us what an applier has done. Most have little to do, and are done at once: an order is looked at often when it is new, then less and
/// less. Each look costs a few requests to the log store.
fn look(since: Option<jiff::SignedDuration>) -> Duration {
    match since.map(|since| since.as_secs()) {
        None | Some(..10) => Duration::from_millis(300),
        Some(..60) => Duration::from_secs(1),
        Some(_) => SOON,
    }
}

pub(super) fn cycle(pass: &Pass<'_>, said: &mut Said) -> Option<End> {
    let seen = pass.seen;
    let ledger = seen.ours()?;
    match seen.due.as_ref().ok()?.as_ref()? {
        Due::Apply { of, .. } => Some(apply(pass, said, *of)),
        Due::Resume(state) => {
            let Some((cycle, name)) = object(pass, state.of) else {
                // Nobody has counted it since it was claimed. It had its turn then.
                let waits = seen.only_claimed().then(|| waits_for_slots(seen, &seen.slots.before_all(), said, seen.now)).flatten();
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
        Due::New { above } => Some(new_cycle(pass, said, ledger, *above)),
    }
}

fn object<'p>(pass: &'p Pass<'_>, of: blocklog::ids::CycleId) -> Option<(&'p CycleSeen, String)> {
    let cycle = pass.seen.cycles.iter().find(|cycle| mirror::id(&cycle.object) == Some(of))?;
    Some((cycle, cycle.object.metadata.name.clone().unwrap_or_default()))
}

fn runs(said: &mut Said, name: &str, how: &str) {
    said.findings.push(Finding::holds(C::Replicating, Reason::CycleRunning, format!("{name} {how}")));
}

/// What a gateway says that keeps it from going on: all but what it is at.
fn held_up(cycle: &CycleSeen, of: C) -> Option<(Reason, &str)> {
    let conditions = &cycle.object.status.as_ref()?.conditions;
    let condition = crds::conditions::get(conditions, of).filter(|condition| condition.status != Status::True.as_str())?;
    let reason = Reason::from_word(&condition.reason)?;
    let at_work = matches!(
        reason,
        Reason::Pending | Reason::TakingSnapshot | Reason::Transferring | Reason::RemovingSnapshot | Reason::Consolidating
    );
    (!at_work).then_some((reason, condition.message.as_str()))
}

/// A cycle that waits for something else than its turn.
fn waits(said: &mut Said, (reason, message): (Reason, &str), name: &str, how: &str) {
    said.findings.push(Finding::open(C::Replicating, reason, format!("{name} {how}: {message}")));
    said.waiting = Some(waits_for(reason, Some(name.to_owned())));
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

fn no_gateway(seen: &Observed, said: &mut Said) {
    let name = seen.object.spec.appliance_ref.name.clone();
    stands_still(said, Reason::PodsNotReady, format!("no gateway of the appliance {name} is ready"));
    said.waiting = Some(waits_for(Reason::PodsNotReady, Some(name)));
}

fn make_cycle(pass: &Pass<'_>, said: &mut Said, of: blocklog::ids::CycleId) -> End {
    runs(said, &names::cycle(pass.seen.name(), mirror::bytes(of.cycle.0)), "begins");
    (Step::MakeCycle { of, worker: pass.seen.free_gateway().map(|free| free.name.clone()) }, NOW)
}

fn apply(pass: &Pass<'_>, said: &mut Said, of: blocklog::ids::CycleId) -> End {
    let seen = pass.seen;
    let Some((cycle, name)) = object(pass, of) else { return make_cycle(pass, said, of) };
    match hindrance(pass, cycle) {
        Some(applied) => waits(said, (applied.reason, &applied.message), &name, "is not applied yet"),
        None => runs(said, &name, "is being applied"),
    }
    // The snapshot is still released while the log is applied.
    if let Some(end) = reassign(pass, cycle, &name).filter(|_| !pass.released(cycle)) {
        return end;
    }
    // It names those disks of which something changed. Which these are follows from the cycle, so it is enough that they are still the ledger's.
    let stands = |seeds: &std::collections::BTreeMap<DiskKey, String>| {
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
fn hindrance<'p>(pass: &'p Pass<'_>, cycle: &CycleSeen) -> Option<&'p Finding> {
    let seen = pass.seen;
    let mirrored = pass.cycles().find(|(one, _)| one.object.metadata.name == cycle.object.metadata.name).map(|(_, mirrored)| mirrored)?;
    let applied = Some(&mirrored.applied).filter(|applied| applied.status == Status::Unknown)?;
    match &seen.setback {
        // Another try has begun since: nobody knows yet how that one ends.
        Some(setback) => {
            let tried_again = seen.ours().zip(setback.turn).is_some_and(|(ledger, turn)| ledger.turn > turn);
            (!tried_again && Some(setback.of) == mirror::id(&cycle.object)).then_some(applied)
        }
        None => (is_ordered(seen, cycle) && applied.reason == Reason::Pending).then_some(applied),
    }
}

impl Pass<'_> {
    fn released(&self, cycle: &CycleSeen) -> bool {
        self.cycles().any(|(one, mirrored)| one.object.metadata.name == cycle.object.metadata.name && mirrored.released)
    }
}

fn new_cycle(pass: &Pass<'_>, said: &mut Said, ledger: &Ledger, above: blocklog::ids::Cycle) -> End {
    let seen = pass.seen;
    if let Some((cycle, _)) = pass.open().next() {
        let name = cycle.object.metadata.name.clone().unwrap_or_default();
        let worker = cycle.object.spec.worker.as_deref().filter(|worker| seen.alive(worker));
        if worker.is_none() {
            no_gateway(seen, said);
            return (Step::None, SOON);
        }
        if let Some((reason, message)) = held_up(cycle, C::SourceReleased) {
            waits(said, (reason, &format!("{message}{}", held_by(seen))), &name, "is not over yet");
        } else {
            let message = format!("{name} is not over yet: its snapshot is being removed");
            said.findings.push(Finding::holds(C::Replicating, Reason::PreviousCycleOpen, message));
            said.waiting = Some(waits_for(Reason::PreviousCycleOpen, Some(name)));
        }
        return (Step::None, SOON);
    }
    if matches!(seen.order, Ok(Some(_))) {
        return (Step::DropOrder, NOW);
    }
    let Ok(source) = &seen.source else { return (Step::None, LATER) };
    match seen.object.spec.replication {
        Replication::Active => {}
        Replication::Paused => {
            stands_still(said, Reason::Paused, "replication is paused: set it to Active to go on");
            return (Step::None, IDLE);
        }
        Replication::Stopped => return (Step::None, NOW),
    }
    let since = due(seen, ledger, &pass.history);
    if since > seen.now {
        said.next_cycle = Some(since);
        not_due(said, &pass.history, since);
        let wait = Duration::try_from(since.duration_since(seen.now)).unwrap_or(IDLE);
        return (Step::None, wait.clamp(NOW, IDLE));
    }
    if let Some(busy) = &source.busy {
        stands_still(said, busy.reason, busy.message.clone());
        said.waiting = Some(waits_for(busy.reason, None));
        return (Step::None, again(busy, SOON));
    }
    if seen.free_gateway().is_none() {
        no_gateway(seen, said);
        return (Step::None, SOON);
    }
    if let Some(end) = waits_for_slots(seen, &seen.slots, said, since) {
        return end;
    }
    runs(said, &names::cycle(seen.name(), mirror::bytes(above.0 + 1)), "begins");
    (Step::Claim(above), NOW)
}

fn waits_for_slots(seen: &Observed, slots: &Slots, said: &mut Said, since: Timestamp) -> Option<End> {
    let (finding, waiting) = lacks_slots(seen, slots, since)?;
    said.findings.push(finding);
    said.waiting = Some(waiting);
    Some((Step::None, SOON))
}

/// What a cycle that is due since then waits for, where it lacks disk slots.
#[must_use]
pub fn lacks_slots(seen: &Observed, slots: &Slots, due: Timestamp) -> Option<(Finding, WaitingFor)> {
    let ledger = seen.ours();
    let me = Candidate {
        vm: seen.name().to_owned(),
        host: seen.source.as_ref().ok().and_then(|source| source.host.clone()).or_else(|| slots::host(&seen.object)),
        disks: ledger.map_or(0, |ledger| ledger.seeds.len()),
        initial: ledger.is_none_or(|ledger| ledger.recovery_point.is_none()),
        since: slots::since(&seen.object, due),
    };
    let Admission::Full { of, used, total, holders, position } = admit(&me, &slots.holders, &slots.waiting, slots.limits) else {
        return None;
    };
    let (reason, what, name) = match of {
        Resource::Appliance => (Reason::ApplianceFull, "appliance", seen.object.spec.appliance_ref.name.clone()),
        Resource::Host(name) => (Reason::HostFull, "host", name),
    };
    let message = format!("{used} of {total} disk slots of the {what} {name} are taken; place {position} in the queue");
    let count = |count: usize| i64::try_from(count).ok();
    let waiting =
        WaitingFor { used: count(used), capacity: count(total), holders, position: count(position), ..waits_for(reason, Some(name)) };
    Some((Finding::fails(C::Replicating, reason, message), waiting))
}

/// From when on a cycle is due.
fn due(seen: &Observed, ledger: &Ledger, history: &History) -> Timestamp {
    let uid = seen.object.metadata.uid.as_deref();
    due_by(&seen.object.spec, uid, ledger.tokens.get(SYNC_NOW), ledger.recovery_point.is_some(), history)
}

/// From when on a cycle is due: `done` is the `syncNow` that is done, `replica` is true where there is a recovery point.
#[must_use]
pub fn due_by(spec: &ReplicatedVMSpec, uid: Option<&str>, done: Option<&String>, replica: bool, history: &History) -> Timestamp {
    let last = history.0.as_ref().map(|last| Last {
        started: last.started.0,
        ended: last.ended.0,
        succeeded: last.succeeded,
        initial: last.kind == CycleKind::Initial,
    });
    // A disk whose seed is new waits for nothing: until it is covered there is no recovery point.
    let last = last.filter(|last| !last.succeeded || replica);
    let asked = spec.sync_now.as_ref().is_some_and(|token| Some(token) != done);
    let max_interval = spec.max_interval.as_ref().and_then(|text| text.parse().ok()).map(|span| span.duration());
    due_since(&due::History { last, failures: history.1, max_interval, asked, uid: uid.unwrap_or_default() })
}

fn not_due(said: &mut Said, history: &History, since: Timestamp) {
    let since = mirror::seconds(since).0;
    if history.1 > 0 {
        let reason = history.0.as_ref().and_then(|last| last.reason.clone()).unwrap_or_default();
        let message = format!("{} cycles failed in a row, the last one with {reason}: the next one begins at {since}", history.1);
        stands_still(said, Reason::BackOff, message);
        said.waiting = Some(WaitingFor { earliest: Some(mirror::seconds(since)), ..waits_for(Reason::BackOff, None) });
    } else {
        said.findings.push(Finding::holds(C::Replicating, Reason::NotDue, format!("the next cycle begins at {since}")));
    }
}
