//! Why: one closed set of words for conditions, events, metrics, `waitingFor`, and what workers report.

use crate::words::words;

words! {
    /// Why something is as it is. A word keeps its meaning for ever; new ones may come.
    pub enum Reason {
        // All kinds.
        /// It is as it should be.
        AsExpected,
        /// It was not looked at yet.
        NotChecked,
        /// It is not asked for.
        NotAskedFor,
        /// This version of Hawser can't read the object, which another one wrote; the message names the word. It is left as it is.
        Unreadable,

        // Whom the appliance talks to.
        /// The server does not answer.
        Unreachable,
        /// The server answers with errors of its own; it is tried again.
        ServerFailed,
        /// The server asks to be left alone for a while; it is.
        Throttled,
        /// The server does not take user and password, or client and secret. They are tried again when the Secret changes, or after five minutes.
        WrongCredentials,
        /// A Secret, or a key in it, is missing or empty.
        CredentialsMissing,
        /// The server's certificate is not trusted by the authorities or the fingerprint that were given.
        UntrustedCertificate,
        /// The ConfigMap or Secret with the authorities is missing, or holds no certificate.
        CaBundleMissing,
        /// The URL leads to another vCenter than before: its instance UUID differs.
        OtherVCenter,
        /// Privileges in vCenter are missing; the message names them.
        PrivilegesMissing,
        /// Actions in Azure are not allowed; the message names them and a role that has them.
        RolesMissing,
        /// Azure refuses what a role allows: a new assignment takes minutes to be known everywhere. It is tried again.
        RolesPending,
        /// The resource group does not exist, or lies in another region.
        ResourceGroupInvalid,
        /// The log store's container does not exist.
        ContainerMissing,
        /// Too few pods are ready; the message names those that are not, and why.
        PodsNotReady,
        /// VMware's VDDK is not where the appliance says.
        DiskLibraryMissing,

        // The log store and the ledger, in the words of those who read and write them.
        /// The log store does not answer.
        LogStoreUnreachable,
        /// The log store refuses access.
        LogStoreDenied,
        /// The log store has no room.
        LogStoreFull,
        /// The log store fails.
        LogStoreFailed,
        /// The encryption key is not the log store's.
        WrongKey,
        /// The encryption key lacks a version that a blob was written with.
        KeyVersionMissing,
        /// A blob is in a format that this version does not know.
        FormatUnknown,
        /// A blob is not what was written.
        BlobDamaged,
        /// A blob that has to be there is missing.
        BlobMissing,
        /// A blob was not found.
        BlobNotFound,
        /// A blob exists already.
        BlobExists,
        /// A blob was changed by another writer.
        BlobChanged,
        /// Another worker is at work on the VM.
        BlobLeased,
        /// A lease was lost: a successor goes on.
        LeaseLost,
        /// The ledger belongs to another cluster or object; `takeOver` takes it from that owner.
        OwnedByOther,
        /// A ledger is being taken over: its last writer is given a minute to stop.
        TakingOver,

        // The VM.
        /// The Appliance does not exist.
        ApplianceMissing,
        /// The Appliance is not ready; the message repeats why.
        ApplianceNotReady,
        /// vCenter has no such VM, or the user may not see it.
        VmNotFound,
        /// More than one VM is meant by this.
        VmAmbiguous,
        /// The VM found is another than the one that was replicated: its instance UUID differs.
        VmReplaced,
        /// Another ReplicatedVM replicates this VM.
        VmTaken,
        /// The VM is orphaned, invalid or inaccessible in vCenter.
        VmInaccessible,
        /// The VM waits for an answer to a question; the message repeats it.
        VmQuestion,
        /// A concern stands that can't be accepted.
        ConcernsBlock,
        /// A concern stands that is to be mended, or accepted by its id in `acceptConcerns`.
        ConcernsToAccept,

        // Seed disks.
        /// Seed disks are being made.
        SeedsBeingMade,
        /// A seed disk is missing.
        SeedMissing,
        /// A seed disk is not the one that the ledger names.
        SeedReplaced,
        /// The seed disks are sealed: nothing more is written to them.
        SeedsSealed,
        /// Azure refuses to make a seed disk; the message repeats why.
        SeedRefused,

        // Between cycles.
        /// The next cycle is not due yet.
        NotDue,
        /// A cycle is going on.
        CycleRunning,
        /// Too few disk slots of the appliance are free, or they are kept for a VM that has waited longer.
        ApplianceFull,
        /// Too few disk slots of the VM's host are free (`limits.disksPerHost` of the appliance), or they are kept for a VM that has waited longer.
        HostFull,
        /// The cycle before is not over yet: its snapshot is being removed, or its log applied.
        PreviousCycleOpen,
        /// Another task or product is at work on the VM: a snapshot, a backup, a migration.
        SourceBusy,
        /// The VM's host is disconnected, or in maintenance.
        HostUnavailable,
        /// The last cycle failed; the next one waits a little longer after each failure.
        BackOff,
        /// Replication is paused (`replication: Paused`).
        Paused,
        /// Replication is stopped (`replication: Stopped`). Of a disk: it stopped because another one failed.
        Stopped,

        // The source's side of a cycle.
        /// No worker has taken the cycle up yet.
        Pending,
        /// The snapshot is being taken.
        TakingSnapshot,
        /// Changed block tracking is being switched on.
        EnablingChangeTracking,
        /// Disks are being transferred.
        Transferring,
        /// The snapshot is being removed.
        RemovingSnapshot,
        /// What the snapshot left behind is being consolidated.
        Consolidating,
        /// The operator took the cycle back.
        Cancelled,
        /// A task of vCenter failed; the message repeats its fault.
        TaskFailed,
        /// The datastore has no room.
        DatastoreFull,
        /// The source does not answer.
        SourceUnreachable,
        /// The source refuses, and will go on to.
        SourceRefused,
        /// A disk of the source ends before it should.
        SourceTooShort,
        /// A disk has grown: it gets a new seed.
        SourceGrown,
        /// The snapshot was removed, or changed under the reader, before all was read.
        SnapshotLost,
        /// A disk of the cycle is gone from the VM, or its file from the host.
        DiskMissing,
        /// The host could not quiesce the guest.
        QuiesceFailed,
        /// VMware Tools do not run in the guest, so it could not be quiesced.
        ToolsNotRunning,

        // Why a disk is compared in full.
        /// There is no change ID to start from: the disk's first cycle, or its seed is new.
        NoBaseline,
        /// Changed block tracking began anew: the change ID is of another generation, or did not rise.
        ChangeTrackingReset,
        /// Changed block tracking is off, or not active yet.
        ChangeTrackingOff,
        /// The VM was reverted to a snapshot.
        Reverted,
        /// The VM was powered on after the snapshot that was to be its last: what it has written since is not in the replica.
        Diverged,
        /// The last cycle was built on a snapshot that is not Hawser's: whether the VM was reverted to it since can't be told for certain. The
        /// disks are compared in full until a cycle runs without such a snapshot: remove it when it is not needed.
        ForeignSnapshot,
        /// The host can't tell what changed; the message repeats its fault.
        ChangesUnknown,

        // The target's side of a cycle.
        /// The log is being applied.
        Applying,
        /// What was sent is applied, but the snapshot was lost before all was: the replica stays dirty, and the next cycle sends the rest.
        Partial,
        /// The manifest is missing.
        ManifestMissing,
        /// The cycle was computed from an older state of the replica.
        BasisPassed,
        /// The order names another manifest.
        OtherManifest,
        /// Block size or disks of the cycle are not those of the replica.
        OtherGeometry,
        /// What was written is not what the manifest says.
        BitmapMismatch,
        /// The write access to a seed ends too soon for a write.
        PermitEnds,
        /// A newer turn has fenced this writer out.
        ReplicaFenced,
        /// A seed disk refuses access.
        ReplicaDenied,
        /// A seed disk does not answer.
        ReplicaUnreachable,
        /// A seed disk is smaller than its source.
        ReplicaTooSmall,
        /// There is no room for a seed disk.
        ReplicaFull,
        /// Another process holds the seed.
        ReplicaInUse,
        /// A seed's host does not understand a request.
        ReplicaRequestInvalid,
        /// A seed disk fails.
        ReplicaFailed,

        // Cleaning up.
        /// Snapshots, seeds, log and ledger are being removed.
        CleaningUp,
        /// A snapshot can't be removed; the message names it and what keeps it.
        SnapshotLeft,
        /// A seed disk can't be removed; the message names it and what keeps it.
        SeedsLeft,
        /// Log or ledger can't be removed; the message says what keeps them.
        LogLeft,
        /// A person gave up what could not be reached (annotation `hawser.dev/abandon`).
        Abandoned,

        // Events at the edges of a VM's life.
        /// Replication began: a ledger was made.
        ReplicationStarted,
        /// A cycle began.
        CycleStarted,
        /// A cycle is applied and verified, and its snapshot gone.
        CycleSucceeded,
        /// A cycle failed; the next one covers the same ground.
        CycleFailed,
        /// A snapshot of ours that nobody needed was found and removed.
        SnapshotSwept,
        /// A disk was added to the VM, or taken from it.
        DisksChanged,
        /// A ledger was taken over from another owner.
        TakenOver,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_can_stand_in_a_condition_and_says_what_it_means() {
        // CamelCase, which is narrower than the pattern of metav1.Condition.
        let form = regex::Regex::new("^([A-Z][a-z0-9]*)+$").unwrap();
        for reason in Reason::ALL {
            assert!(form.is_match(reason.as_str()) && reason.as_str().len() <= 40, "{reason}");
            assert!(reason.meaning().ends_with('.') || reason.meaning().ends_with(')'), "{reason}: {}", reason.meaning());
            assert_eq!(Reason::from_word(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::ALL.iter().map(|reason| reason.as_str()).collect::<BTreeSet<_>>().len(), Reason::ALL.len());
        assert_eq!(Reason::from_word("NeverHeardOf"), None);
    }
}
