//! What is said of a cycle that goes on or waits.

use crds::{
    conditions::{self, ConditionType as C, Status},
    reasons::Reason,
};

use crate::{
    pass::{Said, waits_for},
    vm::model::{CycleSeen, Observed},
};

pub(super) fn runs(said: &mut Said, name: &str, how: &str) {
    said.holds(C::Replicating, Reason::CycleRunning, format!("{name} {how}"));
}

/// What a gateway says that keeps it from going on: all but what it is at.
pub(super) fn held_up(cycle: &CycleSeen, of: C) -> Option<(Reason, &str)> {
    let condition = conditions::get(cycle.conditions(), of).filter(|condition| condition.status != Status::True.as_str())?;
    let reason = Reason::from_word(&condition.reason)?;
    let at_work = matches!(
        reason,
        Reason::Pending | Reason::TakingSnapshot | Reason::Transferring | Reason::RemovingSnapshot | Reason::Consolidating
    );
    (!at_work).then_some((reason, condition.message.as_str()))
}

/// A cycle that waits for something else than its turn.
pub(super) fn waits(said: &mut Said, (reason, message): (Reason, &str), name: &str, how: &str) {
    said.open(C::Replicating, reason, format!("{name} {how}: {message}"));
    said.waiting = Some(waits_for(reason, Some(name.to_owned())));
}

pub(super) fn no_gateway(seen: &Observed, said: &mut Said) {
    let name = seen.object.spec.appliance_ref.name.clone();
    said.fails(C::Replicating, Reason::PodsNotReady, format!("no gateway of the appliance {name} is ready"));
    said.waiting = Some(waits_for(Reason::PodsNotReady, Some(name)));
}
