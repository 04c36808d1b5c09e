//! Releasing a snapshot: what to do next.

use reasons::Reason;

use crate::{
    classify::{Class, Doing, Verdict, of_fault},
    fault::Fault,
    model::task::Work,
    moref::MoRef,
    snapshot::{Owning, View},
};

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is gone, and nothing is left of it.
    Done,
    /// Wait for this task, then look again.
    Await(MoRef),
    /// Look again after a while.
    Wait {
        /// The reason.
        reason: Reason,
        /// What is waited for, and what helps.
        message: String,
    },
    /// Remove the snapshot, then look again.
    Remove(MoRef),
    /// Merge what it has left, then look again.
    Consolidate,
    /// The snapshot is not ours.
    Refuse(MoRef),
}

/// What to do next, by what was seen: until `unwanted` is gone, or, where there is none, until what others have removed is.
///
/// Gone alone is not enough: the host may still be merging, or may have given up on it ("consolidation needed"). Only when nothing is left may
/// another snapshot be taken, or may the cycle count as over on this side.
#[must_use]
pub fn next(unwanted: Option<&MoRef>, owning: &Owning, view: &View) -> Step {
    if let Some(task) = view.task(&[Work::RemovesSnapshot, Work::Reverts, Work::Consolidates, Work::Moves, Work::TakesSnapshot]) {
        return Step::Await(task.task.clone());
    }
    let standing = unwanted.and_then(|unwanted| view.tree.find(unwanted));
    match standing {
        Some(node) if owning.owns(node).is_none() => Step::Refuse(node.snapshot.clone()),
        // A VM that stands still until it is answered merges nothing.
        Some(_) | None if view.question.is_some() && (view.consolidation_needed || standing.is_some()) => Step::Wait {
            reason: Reason::VmQuestion,
            message: format!("the VM asks: {} Answer it in vCenter", view.question.as_deref().unwrap_or_default()),
        },
        Some(node) => Step::Remove(node.snapshot.clone()),
        None if view.consolidation_needed => Step::Consolidate,
        None => Step::Done,
    }
}

/// What a fault of a removal or a consolidation means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// Look again at once: it may be what was wanted.
    Look,
    /// Look again after a while; nobody gives up on a snapshot.
    Wait(Verdict),
    /// A person has to do something first. (It is tried again all the same, when somebody asks for it.)
    Person(Verdict),
}

/// What a fault of a removal or a consolidation means.
#[must_use]
pub fn after(fault: &Fault, doing: Doing) -> After {
    // Of a removal it says that the snapshot is gone: what was wanted, unless it is the VM.
    if fault.is("ManagedObjectNotFound") && fault.field("obj.type") != Some("VirtualMachine") {
        return After::Look;
    }
    let verdict = of_fault(fault, doing);
    match verdict.class {
        Class::Block => After::Person(verdict),
        Class::Retry | Class::Wait | Class::Full(_) => After::Wait(verdict),
    }
}
