//! Cycles as their objects show them.

pub mod mirror;

use crds::{
    ReplicationCycle,
    conditions::{self, ConditionType, Status},
    names,
};

use crate::objects::is_held_by;

/// The token in orders and ledgers that says which `syncNow` is done.
pub const SYNC_NOW: &str = "syncNow";

/// True for a cycle that transfers, or may.
#[must_use]
pub fn takes_slots(cycle: &ReplicationCycle) -> bool {
    let status = cycle.status.clone().unwrap_or_default();
    let sent = conditions::get(&status.conditions, ConditionType::Transferred)
        .is_some_and(|condition| condition.status != Status::Unknown.as_str());
    !sent && !status.is_over() && is_held_by(cycle, names::SNAPSHOT_FINALIZER)
}
