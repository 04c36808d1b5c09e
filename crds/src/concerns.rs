//! What may stand in the way of replicating a VM: the ids of concerns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::words::words;

/// How much a concern weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// Nothing is replicated while it stands.
    Critical,
    /// Nothing is replicated until it is mended, or accepted by its id.
    Warning,
    /// It is told, and keeps nothing from going on.
    Information,
}

words! {
    /// The ids of concerns. `acceptConcerns` takes those of the severity `Warning`.
    pub enum ConcernId {
        /// The disk is independent: snapshots leave it out. Exclude it, or make it dependent.
        IndependentDisk,
        /// The disk is a raw device mapping in physical mode: it has neither snapshots nor change tracking. Exclude it.
        RawDeviceMapping,
        /// The disk is a raw device mapping in virtual mode: it is replicated like a virtual disk.
        RdmVirtual,
        /// The disk, or its controller's bus, is shared with other VMs: another writer would not be seen. Exclude it.
        SharedDisk,
        /// The disk's backing is of a kind that can't be read through a snapshot. Exclude it.
        DiskBackingUnsupported,
        /// The disk is larger than a managed disk can be. Exclude it.
        DiskTooLarge,
        /// No disk is left to replicate.
        NoDisks,
        /// An excluded or overridden disk does not exist.
        DiskUnknown,
        /// VM or disk is encrypted.
        Encrypted,
        /// The VM is protected by fault tolerance: it has no snapshots.
        FaultTolerant,
        /// It is a template.
        Template,
        /// The VM can't track changed blocks: its hardware version is below 7, or its host lacks them. Every cycle would read everything.
        ChangeTrackingUnsupported,
        /// Change tracking is off, and may not be switched on (`changeTracking: Leave`). Every cycle reads everything.
        ChangeTrackingOff,
        /// Change tracking is off, and can't be switched on while the VM has snapshots. Remove them; until then every cycle reads everything.
        ChangeTrackingBlocked,
        /// The host is of a version whose change tracking is known to miss changes. Update it.
        HostUnreliable,
        /// The VM's chain of snapshots is close to the 32 that VMware allows. Remove some.
        SnapshotChainLong,
        /// The guest is to be quiesced, and VMware Tools do not run.
        ToolsNotRunning,
    }
}

impl ConcernId {
    /// How much it weighs.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::IndependentDisk
            | Self::RawDeviceMapping
            | Self::SharedDisk
            | Self::DiskBackingUnsupported
            | Self::DiskTooLarge
            | Self::NoDisks
            | Self::Encrypted
            | Self::FaultTolerant
            | Self::Template
            | Self::HostUnreliable
            | Self::SnapshotChainLong => Severity::Critical,
            Self::RdmVirtual | Self::ChangeTrackingUnsupported | Self::ChangeTrackingOff | Self::ChangeTrackingBlocked => Severity::Warning,
            Self::DiskUnknown | Self::ToolsNotRunning => Severity::Information,
        }
    }
}
