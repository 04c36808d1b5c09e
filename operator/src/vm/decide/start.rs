//! Whether the next cycle may begin: replication is on, it is due, nothing else is at work on the VM, and there are slots.

use std::time::Duration;

use blocklog::{ids::Cycle, ledger::Ledger};
use crds::{
    conditions::ConditionType as C,
    names,
    reasons::Reason,
    replicated_vm::{Replication, WaitingFor},
};
use jiff::Timestamp;

use super::telling::{no_gateway, runs};
use crate::{
    cycle::SYNC_NOW,
    due::due_by,
    objects::{bytes, seconds},
    pass::{IDLE, LATER, NOW, SOON, Said, retry_after, waits_for},
    vm::{
        look::Pass,
        model::{History, Observed, Slots},
        slots::lacks_slots,
        step::{End, Step},
    },
};

pub(super) fn begin(pass: &Pass, said: &mut Said, ledger: &Ledger, above: Cycle) -> End {
    let seen = &pass.seen;
    if matches!(seen.order, Ok(Some(_))) {
        return (Step::DropOrder, NOW);
    }
    let Ok(source) = &seen.source else { return (Step::None, LATER) };
    match seen.object.spec.replication {
        Replication::Active => {}
        Replication::Paused => {
            said.fails(C::Replicating, Reason::Paused, "replication is paused: set it to Active to go on");
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
        said.fails(C::Replicating, busy.reason, busy.message.clone());
        said.waiting = Some(waits_for(busy.reason, None));
        return (Step::None, retry_after(busy, SOON));
    }
    if seen.free_gateway().is_none() {
        no_gateway(seen, said);
        return (Step::None, SOON);
    }
    let Some(slots) = &seen.slots else { return (Step::LookAtSlots, NOW) };
    if let Some(end) = waits_for_slots(seen, slots, said, since) {
        return end;
    }
    runs(said, &names::cycle(seen.name(), bytes(above.0 + 1)), "begins");
    (Step::Claim(above), NOW)
}

pub(super) fn waits_for_slots(seen: &Observed, slots: &Slots, said: &mut Said, since: Timestamp) -> Option<End> {
    let (finding, waiting) = lacks_slots(seen, slots, since)?;
    said.findings.push(finding);
    said.waiting = Some(waiting);
    Some((Step::None, SOON))
}

/// From when on a cycle is due.
fn due(seen: &Observed, ledger: &Ledger, history: &History) -> Timestamp {
    let uid = seen.object.metadata.uid.as_deref();
    due_by(&seen.object.spec, uid, ledger.tokens.get(SYNC_NOW), ledger.recovery_point.is_some(), history.0.as_ref(), history.1)
}

fn not_due(said: &mut Said, history: &History, since: Timestamp) {
    let since = seconds(since).0;
    if history.1 > 0 {
        let reason = history.0.as_ref().and_then(|last| last.reason.clone()).unwrap_or_default();
        let message = format!("{} cycles failed in a row, the last one with {reason}: the next one begins at {since}", history.1);
        said.fails(C::Replicating, Reason::BackOff, message);
        said.waiting = Some(WaitingFor { earliest: Some(seconds(since)), ..waits_for(Reason::BackOff, None) });
    } else {
        said.holds(C::Replicating, Reason::NotDue, format!("the next cycle begins at {since}"));
    }
}
