//! The source's side of a cycle: its snapshot.

use std::sync::Arc;

use async_trait::async_trait;
use blocklog::{
    cycle::Snapshot,
    ids::{ChangeId, CycleId, DiskKey, VmId},
};
use extents::ExtentSet;
use reasons::Reason;
use source::{DiskSource, SourceError};

/// Why the source's side did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It does not answer, or has failed. Trying again may help.
    #[error("the source does not answer: {message}")]
    Unreachable {
        /// Why.
        reason: Reason,
        /// What it said.
        message: String,
    },
    /// Something else has to end first. Trying again later helps.
    #[error("the source is busy: {message}")]
    Busy {
        /// Why.
        reason: Reason,
        /// What it said.
        message: String,
    },
    /// It refuses, and will go on to: no privilege, no such disk.
    #[error("the source refuses: {message}")]
    Refused {
        /// Why.
        reason: Reason,
        /// What it said.
        message: String,
    },
    /// The VM is not there any more, and its snapshots are not with it: no try will ever be answered otherwise.
    #[error("the VM is gone: {0}")]
    Gone(String),
}

impl SnapshotError {
    /// A source that does not answer, and has not said why.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::Unreachable { reason: Reason::SourceUnreachable, message: message.into() }
    }

    /// A source that refuses, for no reason that has a word of its own.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused { reason: Reason::SourceRefused, message: message.into() }
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable { reason, .. } | Self::Busy { reason, .. } | Self::Refused { reason, .. } => *reason,
            Self::Gone(_) => Reason::VmNotFound,
        }
    }
}

/// What has changed on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// These sectors, and perhaps fewer; never more.
    Areas(ExtentSet),
    /// It can't be told, for this reason, or is not asked for: the disk has to be read in full.
    Unknown(Option<Reason>),
}

/// A snapshot of ours that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The cycle that its name tells.
    pub of: CycleId,
    pub snapshot: Snapshot,
}

impl Found {
    /// True where the snapshot is `cycle`'s own, or one that an earlier cycle of the same incarnation left.
    pub fn is_up_to(&self, cycle: CycleId) -> bool {
        self.of.vm == cycle.vm && self.of.incarnation == cycle.incarnation && self.of.cycle <= cycle.cycle
    }
}

/// Takes, watches and removes the snapshots of one VM. Each of them is named by owner, VM, incarnation and cycle, so that one that was taken by
/// a worker which died before it could note it is found again, and none is taken for that of a replication that was begun anew.
#[async_trait]
pub trait SnapshotControl: Send + Sync {
    /// All own snapshots of the VM that stand or are being taken (it waits for these), oldest first.
    async fn find(&self, vm: VmId) -> Result<Vec<Found>, SnapshotError>;

    /// Takes one for the cycle. A call whose answer is lost may have taken it.
    async fn take(&self, of: CycleId) -> Result<Snapshot, SnapshotError>;

    /// True where the snapshot and its backing chain stand and no removal runs: then everything that was read from it before this call is
    /// sound. Of a VM that is gone none stands.
    async fn stands(&self, snapshot: &Snapshot) -> Result<bool, SnapshotError>;

    /// What changed on a disk between `since` and the snapshot.
    async fn changed(&self, snapshot: &Snapshot, disk: DiskKey, since: &ChangeId) -> Result<Changes, SnapshotError>;

    /// Opens a disk of the snapshot.
    async fn open(&self, snapshot: &Snapshot, disk: DiskKey) -> Result<Arc<dyn DiskSource>, SourceError>;

    /// Removes it. Returns when it is gone and nothing is left to consolidate; also where it was gone already.
    async fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError>;
}
