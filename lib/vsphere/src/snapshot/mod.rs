//! Hawser's snapshots: how they are known, taken, watched and released.
//!
//! A worker can die between any two calls, so nothing is remembered that vCenter does not tell: a snapshot carries whose it is in its name and
//! description ([`Mark`]), and each step first looks at what is there. What to do next is decided by pure functions over what was seen
//! ([`take::next`], [`release::next`], [`standing::judge`]); [`control::Control`] is the thin edge that looks and does.
//!
//! Three rules hold whatever happens: of a VM there is never more than one own snapshot, none is taken before the last one is consolidated
//! away, and what is not ours is not touched.

pub mod changes;
pub mod control;
pub mod lineage;
mod mark;
pub mod release;
pub mod standing;
pub mod take;

pub use mark::{Mark, Whose};

use reasons::Reason;

use crate::model::{
    snapshots::{Node, Tree},
    task::{Task, Work},
};

/// What was seen of a VM at one moment, as far as snapshots go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Its snapshots.
    pub tree: Tree,
    /// Its tasks that wait or run.
    pub tasks: Vec<Task>,
    /// Whether removed snapshots have left something to merge.
    pub consolidation_needed: bool,
    /// Whether VMware Tools run in the guest.
    pub tools_running: bool,
    /// What the VM asks, if it does.
    pub question: Option<String>,
    /// Whether the VM runs.
    pub power: take::PowerSeen,
}

impl View {
    /// The open task of one of these kinds that was asked for first.
    #[must_use]
    pub fn task(&self, works: &[Work]) -> Option<&Task> {
        self.tasks.iter().filter(|task| task.open() && works.contains(&task.work)).min_by_key(|task| task.queued)
    }

    /// The own snapshots of an owner, oldest first.
    #[must_use]
    pub fn own(&self, of: &mark::Owning) -> Vec<(&Node, Mark)> {
        let mut own: Vec<_> = self.tree.nodes.iter().filter_map(|node| of.owns(node).map(|mark| (node, mark))).collect();
        own.sort_by_key(|(node, _)| (node.taken, node.id));
        own
    }
}

pub use mark::Owning;

/// What a wait is for, told on the way to whoever shows it to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A task runs, or stalls.
    Task(crate::tasks::Progress),
    /// Something else has to end first, or a try has failed and is made again.
    Waiting {
        /// The reason.
        reason: Reason,
        /// What is waited for, and what helps.
        message: String,
        /// How often it was tried so far.
        attempts: u32,
    },
    /// The guest could not be brought to rest; the snapshot is taken as after a power cut.
    NotQuiesced {
        /// Why.
        message: String,
    },
}
