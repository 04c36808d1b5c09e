//! What to do next for a ReplicatedVM: a chain of checks over what was seen. The first that does not hold says what is so, why, and what
//! is done about it.
//!
//! The checks stand with the side that they look at: `source` (appliance and vCenter), `target` (ledger and seed disks), `cycles` (what goes on),
//! `start` (whether a cycle may begin), and `cleanup` in place of all of them where the replica goes.

mod cleanup;
mod cycles;
mod source;
mod start;
mod target;
mod telling;

use crds::{
    conditions::Status,
    names,
    replicated_vm::{CycleKind, Replication},
};

use super::{
    look::Pass,
    step::{Decision, End, Step},
};
use crate::{
    cycle::mirror,
    objects::is_held_by,
    pass::{IDLE, NOW, Said},
};

type Check = fn(&Pass, &mut Said) -> Option<End>;

const CHAIN: [Check; 11] = [
    hold,               // whoever is deleted is cleaned up
    source::appliance,  // somebody to ask
    source::found,      // a VM
    source::room,       // for a snapshot that grows
    cycles::over,       // what is over is closed, whosever the replica is by now
    cycles::sweep,      // no snapshot that nobody needs
    target::ledger,     // ours
    source::preflight,  // nothing in the way
    target::seed_disks, // a place to write to
    source::tracking,   // changes are tracked
    cycles::cycle,      // what the log says
];

/// Decides what a pass does.
#[must_use]
pub fn decide(pass: &Pass) -> Decision {
    let mut said = Said::default();
    let seen = &pass.seen;
    let cleaning = seen.deleting() || seen.object.spec.replication == Replication::Stopped && !finishes(pass);
    let end = if cleaning {
        cleanup::decide(pass, &mut said)
    } else {
        CHAIN.iter().find_map(|check| check(pass, &mut said)).unwrap_or((Step::None, IDLE))
    };
    Decision::new(said, end)
}

/// A delta that runs when replication is stopped finishes first: what was sent is not lost.
fn finishes(pass: &Pass) -> bool {
    let delta = pass.seen.ours().is_some_and(|ledger| mirror::kind(ledger) == CycleKind::Delta);
    let cancelled = pass.open().any(|(cycle, _)| cycle.is_cancelled());
    delta && pass.seen.running() && !cancelled || pass.open().any(|(_, mirrored)| mirrored.applied.status == Status::True)
}

fn hold(pass: &Pass, _: &mut Said) -> Option<End> {
    (!is_held_by(pass.seen.object.as_ref(), names::CLEANUP_FINALIZER)).then_some((Step::Hold, NOW))
}

#[cfg(test)]
mod tests;
