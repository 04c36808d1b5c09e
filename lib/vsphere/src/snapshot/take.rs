//! Taking a snapshot: what to do next.

use std::collections::BTreeSet;

use jiff::Timestamp;
use reasons::Reason;

use crate::{
    classify::{Class, Doing, Verdict, of_fault},
    fault::Fault,
    model::{
        task::{Task, Work},
        vm::{Power, Vm},
    },
    moref::MoRef,
    preflight::MAX_DEPTH,
    snapshot::{Mark, Owning, View},
};

/// Whether the guest is brought to rest before a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Never: the replica is as after a power cut.
    Never,
    /// Where that works.
    Try,
    /// Always: where it does not work there is no snapshot.
    Require,
}

/// What shall be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// What it is marked with.
    pub mark: Mark,
    /// Whether the guest is brought to rest.
    pub policy: Policy,
}

/// What has happened so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// The last try with a guest at rest has failed so.
    pub quiesce_failed: Option<Box<Fault>>,
    /// How often consolidation was asked for.
    pub consolidations: u32,
}

/// What one look showed of whether the VM runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PowerSeen {
    /// Whether it runs.
    pub power: Power,
    /// When it was started: unset while it is off.
    pub booted: Option<Timestamp>,
    /// Its recent tasks, ended or not, that started it or may have: a revert may lead to a VM that runs.
    pub starts: BTreeSet<MoRef>,
}

impl PowerSeen {
    /// From a look at the VM's properties and its recent tasks.
    #[must_use]
    pub fn new(vm: &Vm, recent: &[Task]) -> Self {
        let starts = recent.iter().filter(|task| matches!(task.work, Work::PowersOn | Work::Reverts));
        // Of a VM whose host is away vCenter tells what was so before.
        let power = if vm.connection == "connected" { vm.power } else { Power::Unknown };
        Self { power, booted: vm.booted, starts: starts.map(|task| task.task.clone()).collect() }
    }
}

/// Whether the VM was off while a snapshot was taken, by the last look before the call that took it and the first after it. `None` where it
/// can't be known. The snapshot's own `state` says nothing of it: without memory it is `poweredOff` always.
#[must_use]
pub fn was_off(before: Option<&PowerSeen>, after: &PowerSeen) -> Option<bool> {
    // A predecessor's snapshot: nobody remembers what the VM was when it was taken.
    let before = before?;
    match (before.power, after.power) {
        (Power::Off, Power::Off) => Some(before.booted == after.booted && after.starts.is_subset(&before.starts)),
        (Power::On | Power::Suspended, _) | (_, Power::On | Power::Suspended) => Some(false),
        (Power::Unknown, _) | (_, Power::Unknown) => None,
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It stands.
    Stands(MoRef),
    /// Wait for this task, then look again.
    Await(MoRef),
    /// Look again after a while.
    Wait {
        /// The reason.
        reason: Reason,
        /// What is waited for, and what helps.
        message: String,
    },
    /// Merge what removed snapshots have left, then look again.
    Consolidate,
    /// Take it.
    Take {
        /// Whether the guest is brought to rest.
        quiesce: bool,
    },
    /// It can't be taken.
    Refuse {
        /// The reason.
        reason: Reason,
        /// What is in the way, and what helps.
        message: String,
    },
}

/// What to do next, by what was seen.
#[must_use]
pub fn next(want: &Want, view: &View, past: &Past) -> Step {
    let owning = Owning { owner: want.mark.owner.clone(), vm: want.mark.of.vm };
    // A task does not say what snapshot it takes, so any may be the one that a predecessor has asked for.
    if let Some(task) = view.task(&[Work::TakesSnapshot]) {
        return Step::Await(task.task.clone());
    }
    let own = view.own(&owning);
    if let Some((node, _)) = own.iter().find(|(_, mark)| *mark == want.mark) {
        return Step::Stands(node.snapshot.clone());
    }
    if let Some((node, mark)) = own.first() {
        return Step::Refuse {
            reason: Reason::PreviousCycleOpen,
            message: format!("the snapshot {} of {mark} still stands: it is removed first, never are there two", node.name),
        };
    }
    if let Some(task) = view.task(&[Work::RemovesSnapshot, Work::Reverts, Work::Consolidates, Work::Moves]) {
        return Step::Await(task.task.clone());
    }
    if let Some(question) = &view.question {
        return Step::Wait { reason: Reason::VmQuestion, message: format!("the VM asks: {question} Answer it in vCenter") };
    }
    if view.consolidation_needed {
        return Step::Consolidate;
    }
    if view.tree.depth() >= MAX_DEPTH {
        let depth = view.tree.depth();
        return Step::Refuse {
            reason: Reason::SourceRefused,
            message: format!(
                "{depth} snapshots lie on top of one another, and vSphere allows 32: remove those that are not needed any more"
            ),
        };
    }
    match (want.policy, view.tools_running, &past.quiesce_failed) {
        (Policy::Never, _, _) | (Policy::Try, false, _) | (Policy::Try, true, Some(_)) => Step::Take { quiesce: false },
        (Policy::Try | Policy::Require, true, None) => Step::Take { quiesce: true },
        // vCenter would quietly take one as after a power cut.
        (Policy::Require, false, _) => Step::Refuse {
            reason: Reason::ToolsNotRunning,
            message: "snapshot.quiesce is Require, and VMware Tools do not run in the guest: start them, or set it to Try".into(),
        },
        (Policy::Require, true, Some(fault)) => {
            let verdict = of_fault(fault, Doing::TakingSnapshot);
            Step::Refuse { reason: Reason::QuiesceFailed, message: verdict.message }
        }
    }
}

/// What a fault of a try means for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// The guest did not come to rest: remember it in [`Past::quiesce_failed`] and look again.
    QuiesceFailed(Box<Fault>),
    /// Wait and look again.
    Wait(Verdict),
    /// Give up.
    GiveUp(Verdict),
}

/// What a fault of a try means. `quiesced`: it was one with a guest at rest.
#[must_use]
pub fn after(fault: Fault, quiesced: bool) -> After {
    let verdict = of_fault(&fault, Doing::TakingSnapshot);
    // Some guests' trouble is told as a plain SnapshotFault, or as an error of the system.
    let guests =
        verdict.reason == Reason::QuiesceFailed || matches!(fault.kind.as_str(), "SnapshotFault" | "GenericVmConfigFault" | "SystemError");
    match verdict.class {
        _ if quiesced && guests => After::QuiesceFailed(Box::new(fault)),
        Class::Wait => After::Wait(verdict),
        Class::Retry | Class::Block | Class::Full(_) => After::GiveUp(verdict),
    }
}
