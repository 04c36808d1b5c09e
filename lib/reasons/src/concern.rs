//! What may stand in the way of replicating a VM.

use serde::{Deserialize, Serialize};

use crate::words::words;

/// How much a concern weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Severity {
    /// Nothing is replicated while it stands.
    Critical,
    /// Nothing is replicated until it is mended, or accepted by its id.
    Warning,
    /// It is told, and keeps nothing from going on.
    Information,
}

impl Severity {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "Critical",
            Self::Warning => "Warning",
            Self::Information => "Information",
        }
    }
}

words! {
    /// The ids of concerns. `acceptConcerns` takes those of the severity [`Severity::Warning`].
    pub enum ConcernId {
        // What can't be replicated.
        /// vCenter tells no instance UUID of the VM, by which it is known.
        NoInstanceUuid => "Register the VM at a vCenter that gives it one.",
        /// It is a template.
        Template => "Convert it to a virtual machine.",
        /// The VM is protected by fault tolerance: it has no snapshots.
        FaultTolerant => "Turn fault tolerance off for it.",
        /// VM or disk is encrypted: it can't be read as plain data.
        Encrypted => "Decrypt it in vCenter, or exclude the disk.",
        /// vCenter does not tell the VM's disks.
        DevicesUnknown => "Give the vCenter user read access to the VM, and look whether the VM is accessible.",
        /// No disk is left to replicate.
        NoDisks => "Add a disk, or exclude fewer.",
        /// The disk is independent: snapshots leave it out.
        IndependentDisk => "Change its mode to dependent, or exclude the disk.",
        /// The disk is a raw device mapping in physical mode: it has neither snapshots nor change tracking.
        RawDeviceMapping => "Copy it to a virtual disk, change it to virtual compatibility mode, or exclude the disk.",
        /// The disk, or its controller's bus, is shared with other VMs: another writer would not be seen.
        SharedDisk => "Set its sharing to none, or move it to a controller whose bus is not shared, or exclude the disk.",
        /// The disk's backing or mode is of a kind that can't be read through a snapshot.
        DiskBackingUnsupported => "Copy it to a virtual disk (one that is not persistent: change its mode to dependent), or exclude the disk.",
        /// The disk's capacity is no size of a disk.
        CapacityOdd => "Look at the disk in vCenter, or exclude the disk.",
        /// The disk is larger than a managed disk can be.
        DiskTooLarge => "Exclude the disk, or split it.",
        /// The host is of a version whose change tracking is known to miss changes (VMware KB 2136854).
        HostUnreliable => "Update the host to ESXi600-201511001 or later, or move the VM.",
        /// The VM's chain of snapshots is close to the 32 that VMware allows: from 28 on no cycle starts.
        SnapshotChainLong => "Remove snapshots that are not needed.",
        /// `snapshot.quiesce` is `Require`, and VMware Tools do not run in the guest.
        ToolsNotRunning => "Start VMware Tools, or set `snapshot.quiesce` to `Try`.",

        // What can be accepted.
        /// The disk is a raw device mapping in virtual mode: it is replicated like a virtual disk.
        RdmVirtual => "Accept it, copy it to a virtual disk, or exclude the disk.",
        /// The VM can't track changed blocks: its virtual hardware is below version 7, or vCenter says so. Every cycle reads everything.
        ChangeTrackingUnsupported => "Upgrade the virtual hardware to version 7 or later, or accept that each cycle reads the whole disks.",
        /// Change tracking is off, and may not be switched on (`changeTracking: Leave`). Every cycle reads everything.
        ChangeTrackingOff => "Switch it on, let Hawser do it, or accept that each cycle reads the whole disks.",
        /// Change tracking is off, and can't be switched on while the VM has snapshots. Until then every cycle reads everything.
        ChangeTrackingBlocked => "Remove the VM's snapshots, or accept that each cycle reads the whole disks until they are gone.",

        // What is told.
        /// Change tracking is off, and is switched on before the first cycle: the VM stands still for a moment.
        ChangeTrackingToBeEnabled => "Nothing: Hawser does it. Who does not want it sets `changeTracking` to `Leave`.",
        /// Change tracking is on, and the disk has no change ID yet: it is read in full until it has.
        ChangeTrackingInactive => "Nothing, unless snapshots from before stand: remove these. It begins to work with the next snapshot.",
        /// The VM has a virtual TPM, whose content is not replicated.
        VirtualTpm => "Keep the recovery keys of what is sealed by it (BitLocker) at hand.",
        /// The VM has a device of its host: while it runs with one, it takes no snapshots.
        Passthrough => "Remove the device, or power the VM off for its cycles.",
        /// vCenter does not tell all of the VM; the message names what is missing.
        PartlyUnknown => "Give the vCenter user read access to the VM, and look whether the VM is accessible.",
        /// The VM waits for an answer to a question; cycles wait until then.
        Question => "Answer it in vCenter.",
        /// Snapshots of the VM are disabled at the moment; cycles wait until then.
        MethodDisabled => "Wait for the backup that has disabled them; if none runs, have them enabled again.",
        /// The VM has snapshots that are not Hawser's: while one stands each cycle compares the disks in full, since not every host tells that a VM was reverted.
        ForeignSnapshots => "Remove those that are not needed. Hawser never touches them.",
        /// Removed snapshots have left files that have to be merged before a new one is taken.
        ConsolidationNeeded => "Nothing: Hawser does it. If it stays so, something holds the disks open, most often a backup proxy: detach them there.",
        /// The disk is built on a disk of another VM; it is replicated with all of its content.
        LinkedClone => "Do not remove that other VM's disk.",
        /// vCenter calls the VM orphaned, invalid or inaccessible; cycles wait until then.
        VmInaccessible => "Bring its host and its datastore back.",
        /// The VM's host is disconnected, or in maintenance; cycles wait until then.
        HostUnavailable => "Bring it back, or move the VM.",
        /// A datastore of the VM can't be reached; cycles wait until then.
        DatastoreUnavailable => "Bring it back.",
        /// A datastore of the VM has less free than `limits.datastoreFreePercent`; cycles wait until then.
        DatastoreLow => "Free space on it: while a snapshot stands it grows, and a full datastore stops its VMs.",
        /// An excluded or overridden disk does not exist.
        DiskUnknown => "Take its key out of `disks`, or correct it.",
        /// The VM has a disk more than in the last cycle.
        DiskAdded => "Nothing: it is replicated from the next cycle on. Exclude it if it should not be.",
        /// Under the disk's key is another disk than in the last cycle.
        DiskReplaced => "Nothing: it is compared in full in the next cycle.",
        /// The disk is larger than in the last cycle.
        DiskGrown => "Nothing: it gets a new seed disk of its new size; the old one is deleted when the new one is clean.",
        /// The disk is smaller than in the last cycle.
        DiskShrunk => "Nothing: it gets a new seed disk in the next cycle.",
        /// A disk of the last cycle is gone from the VM; its replica is kept as it was.
        DiskRemoved => "Nothing: its replica is deleted when replication stops.",
    }
}

impl ConcernId {
    /// How much it weighs: this is the one place that says it.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::NoInstanceUuid
            | Self::Template
            | Self::FaultTolerant
            | Self::Encrypted
            | Self::DevicesUnknown
            | Self::NoDisks
            | Self::IndependentDisk
            | Self::RawDeviceMapping
            | Self::SharedDisk
            | Self::DiskBackingUnsupported
            | Self::CapacityOdd
            | Self::DiskTooLarge
            | Self::HostUnreliable
            | Self::SnapshotChainLong
            | Self::ToolsNotRunning => Severity::Critical,
            Self::RdmVirtual | Self::ChangeTrackingUnsupported | Self::ChangeTrackingOff | Self::ChangeTrackingBlocked => Severity::Warning,
            Self::ChangeTrackingToBeEnabled
            | Self::ChangeTrackingInactive
            | Self::VirtualTpm
            | Self::Passthrough
            | Self::PartlyUnknown
            | Self::Question
            | Self::MethodDisabled
            | Self::ForeignSnapshots
            | Self::ConsolidationNeeded
            | Self::LinkedClone
            | Self::VmInaccessible
            | Self::HostUnavailable
            | Self::DatastoreUnavailable
            | Self::DatastoreLow
            | Self::DiskUnknown
            | Self::DiskAdded
            | Self::DiskReplaced
            | Self::DiskGrown
            | Self::DiskShrunk
            | Self::DiskRemoved => Severity::Information,
        }
    }

    /// True where a person may say that it shall be replicated all the same.
    #[must_use]
    pub const fn acceptable(self) -> bool {
        matches!(self.severity(), Severity::Warning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_concern_has_meaning_and_remedy() {
        let words: Vec<_> = ConcernId::ALL.iter().map(|id| (id.as_str(), id.meaning(), id.remedy())).collect();
        crate::words::tests::hold(&words);
    }

    #[test]
    fn what_can_be_accepted_says_how() {
        for id in ConcernId::ALL {
            assert_eq!(id.remedy().to_lowercase().contains("accept"), id.acceptable(), "{id}: {}", id.remedy());
        }
    }
}
