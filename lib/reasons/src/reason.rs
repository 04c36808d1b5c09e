//! Why something is as it is.

use crate::words::words;

/// The remedy of what passes.
const PASSES: &str = "Nothing: it passes by itself.";
/// The remedy of what is in order.
const NOTHING: &str = "Nothing: it is in order.";

words! {
    /// Why something is as it is. A word keeps its meaning for ever; new ones may come.
    pub enum Reason {
        // All kinds.
        /// It is as it should be.
        AsExpected => NOTHING,
        /// It was not looked at yet.
        NotChecked => PASSES,
        /// It is not asked for.
        NotAskedFor => NOTHING,
        /// Another version of Hawser wrote a word that this one does not know.
        Unrecognized => "Nothing while an upgrade is going on. Else run the version that wrote it, or a newer one.",
        /// This version of Hawser can't read the object, which another one wrote; the message names the word. It is left as it is.
        Unreadable => "Nothing while an upgrade is going on. Else run the version that wrote it, or a newer one, or correct the object.",

        // Whom the appliance talks to.
        /// The server does not answer.
        Unreachable => "Check the address, the way there, and that the server's services run; it is tried again.",
        /// The server answers with errors of its own; it is tried again.
        ServerFailed => "Nothing at first: it is tried again. If it stays, look at the server, and report it with the message.",
        /// The server asks to be left alone for a while; it is.
        Throttled => PASSES,
        /// The server does not take user and password, or client and secret. They are tried again when the Secret changes, or after five minutes.
        WrongCredentials => "Correct the Secret that the message names.",
        /// A Secret, or a key in it, is missing or empty.
        CredentialsMissing => "Create the Secret, or the key in it, that the message names.",
        /// The server's certificate is not trusted by the authorities or the fingerprint that were given.
        UntrustedCertificate => "Give the fingerprint, or a CA bundle with the authority that signed it. If neither has changed, look whether something is between.",
        /// The ConfigMap or Secret with the authorities is missing, or holds no certificate.
        CaBundleMissing => "Create the ConfigMap or Secret, with certificates in PEM.",
        /// The URL leads to another vCenter than before: its instance UUID differs.
        OtherVCenter => "Correct the URL; another vCenter needs another Appliance.",
        /// What the Appliance says of a server can't be right: its address, its certificates or fingerprint, or what answers there speaks another protocol.
        ConfigInvalid => "Correct the field of the Appliance that the message names.",
        /// Privileges in vCenter are missing; the message names them.
        PrivilegesMissing => "Add the privileges that the message names to the user's role.",
        /// Actions in Azure are not allowed; the message names them and a role that has them.
        RolesMissing => "Assign the principal a role with the actions that the message names.",
        /// Azure refuses what a role allows: a new assignment takes minutes to be known everywhere. It is tried again.
        RolesPending => PASSES,
        /// The resource group does not exist, or lies in another region.
        ResourceGroupInvalid => "Create the resource group, or correct `azure.resourceGroup`.",
        /// The log store's container does not exist.
        ContainerMissing => "Create the container.",
        /// Too few pods are ready; the message names those that are not, and why.
        PodsNotReady => "Look at the pods that the message names.",
        /// VMware's VDDK is not where the appliance says.
        DiskLibraryMissing => "Mount VMware's VDDK, whose lib64 holds libvixDiskLib.so, where `diskAccess` says.",

        // The log store and the ledger, in the words of those who read and write them.
        /// The log store does not answer.
        LogStoreUnreachable => "Check `logStore.accountUrl` and the way there; it is tried again.",
        /// The log store refuses access.
        LogStoreDenied => "Assign the principal the role Storage Blob Data Contributor on the account.",
        /// The log store has no room.
        LogStoreFull => "Make room in the log store; nothing is lost.",
        /// The log store fails.
        LogStoreFailed => "Nothing at first: it is tried again. If it stays, look at the storage account.",
        /// The encryption key is not the log store's.
        WrongKey => "Give the Secret of `encryption.keySecretRef` the key that this log store was set up with.",
        /// The encryption key lacks a version that a blob was written with.
        KeyVersionMissing => "Put that version of the key back into the Secret: versions are kept until nothing needs them.",
        /// A blob is in a format that this version does not know.
        FormatUnknown => "Run the version of Hawser that wrote it, or a newer one.",
        /// A blob is not what was written.
        BlobDamaged => "Restore the blob from a version or a backup. Where it is one of a cycle's, nothing: the next cycle covers the same ground.",
        /// A blob that has to be there is missing.
        BlobMissing => "Restore the blob from a version or a backup. Where it is one of a cycle's, nothing: the next cycle covers the same ground.",
        /// A blob was not found.
        BlobNotFound => "Nothing, unless somebody has deleted it: restore it then.",
        /// A blob exists already.
        BlobExists => PASSES,
        /// A blob was changed by another writer.
        BlobChanged => PASSES,
        /// Another worker is at work on the VM.
        BlobLeased => PASSES,
        /// A lease was lost: a successor goes on.
        LeaseLost => PASSES,
        /// The ledger belongs to another cluster or object; `takeOver` takes it from that owner.
        OwnedByOther => "Find out who owns it; to take it over, name that owner in `takeOver`.",
        /// A ledger is being taken over: its last writer is given a minute to stop.
        TakingOver => PASSES,

        // The VM.
        /// The Appliance does not exist.
        ApplianceMissing => "Create the Appliance, or correct `applianceRef`.",
        /// The Appliance is not ready; the message repeats why.
        ApplianceNotReady => "See the Appliance's conditions.",
        /// vCenter has no such VM, or the user may not see it.
        VmNotFound => "Correct `vm`, or give the user of vCenter read access. Where the VM is gone, its replica is kept until you delete the ReplicatedVM.",
        /// More than one VM is meant by this.
        VmAmbiguous => "Name the VM by its reference or instance UUID.",
        /// The VM found is another than the one that was replicated: its instance UUID differs.
        VmReplaced => "For the other VM create another ReplicatedVM.",
        /// Another ReplicatedVM replicates this VM.
        VmTaken => "Delete one of the two.",
        /// The VM is orphaned, invalid or inaccessible in vCenter.
        VmInaccessible => "Bring its host and its datastore back; it is waited for.",
        /// The VM waits for an answer to a question; the message repeats it.
        VmQuestion => "Answer it in vCenter.",
        /// A concern stands that can't be accepted.
        ConcernsBlock => "Mend what the concerns in status name.",
        /// A concern stands that is to be mended, or accepted by its id in `acceptConcerns`.
        ConcernsToAccept => "Mend it, or add its id to `acceptConcerns`.",

        // Seed disks.
        /// Seed disks are being made.
        SeedsBeingMade => PASSES,
        /// A seed disk is missing.
        SeedMissing => "Nothing: it is made anew, and its disk sent whole. Look who has deleted it.",
        /// A seed disk is not the one that the ledger names.
        SeedReplaced => "Nothing: it is made anew, and its disk sent whole. Look who has replaced it.",
        /// The seed disks are sealed: nothing more is written to them.
        SeedsSealed => NOTHING,
        /// Azure refuses to make a seed disk; the message repeats why.
        SeedRefused => "Mend what the message names: a quota, a policy, a SKU that the region does not have.",

        // Between cycles.
        /// The next cycle is not due yet.
        NotDue => PASSES,
        /// A cycle is going on.
        CycleRunning => NOTHING,
        /// Too few disk slots of the appliance are free, or they are kept for a VM that has waited longer.
        ApplianceFull => "Nothing: it gets its turn. More at a time: raise `limits.parallelDisks` of the appliance.",
        /// Too few disk slots of the VM's host are free (`limits.disksPerHost` of the appliance), or they are kept for a VM that has waited longer.
        HostFull => "Nothing: it gets its turn. More at a time: raise `limits.disksPerHost` of the appliance.",
        /// The cycle before is not over yet: its snapshot still stands, or its log is being applied.
        PreviousCycleOpen => "Nothing, unless it stays: see what keeps that cycle.",
        /// Another task or product is at work on the VM or holds its disks (a snapshot, a backup, a migration), or the host has no session or memory to spare.
        SourceBusy => "Nothing at first: it is waited for. If it stays, the message says who may hold the VM or its disks: end that, most often a backup.",
        /// The VM's host is disconnected or in maintenance, or its datastore can't be reached.
        HostUnavailable => "Bring the host or datastore back, or move the VM; it is waited for.",
        /// The last cycle failed; the next one waits a little longer after each failure.
        BackOff => "See why the last cycle failed. A new `syncNow` does not wait.",
        /// Replication is paused (`replication: Paused`).
        Paused => "Set `replication` to `Active` to go on.",
        /// Replication is stopped (`replication: Stopped`). Of a disk: it stopped because another one failed.
        Stopped => "Set `replication` to `Active` to begin anew.",

        // The source's side of a cycle.
        /// No worker has taken the cycle up yet.
        Pending => PASSES,
        /// The snapshot is being taken.
        TakingSnapshot => PASSES,
        /// Changed block tracking is being switched on.
        EnablingChangeTracking => PASSES,
        /// Disks are being transferred.
        Transferring => PASSES,
        /// The snapshot is being removed.
        RemovingSnapshot => PASSES,
        /// What the snapshot left behind is being consolidated.
        Consolidating => "Nothing, unless it stays: then something holds the VM's disks open, most often a backup proxy.",
        /// The operator took the cycle back.
        Cancelled => "Nothing: the next cycle covers the same ground.",
        /// vCenter answers a call or ends a task with a fault; the message repeats it.
        TaskFailed => "Nothing at first: it is tried again. If it stays, look for the fault in vCenter.",
        /// The datastore has no room.
        DatastoreFull => "Free space on the datastore; nothing new is started there until then.",
        /// The host or server that a disk is read from does not answer, or breaks off.
        SourceUnreachable => "Check the way from the gateway to the VM's host; it is tried again.",
        /// The source refuses, or what is asked of it can't be done, and that will stay so: the message says why.
        SourceRefused => "Do what the message says.",
        /// The VM was changed while it was looked at.
        SourceChanged => PASSES,
        /// A disk of the source ends before it should.
        SourceTooShort => "Look at the disk. If it was really made smaller, it gets a new seed in the next cycle.",
        /// A disk has grown: it gets a new seed.
        SourceGrown => NOTHING,
        /// The snapshot was removed, or changed under the reader, before all was read.
        SnapshotLost => "Nothing: the next cycle covers the same ground. Look who removes Hawser's snapshots.",
        /// A disk of the cycle is gone from the VM, or its file from the host.
        DiskMissing => "Look whether the disk was taken from the VM; exclude it, or bring it back.",
        /// The host could not quiesce the guest.
        QuiesceFailed => "Look at the guest (VSS writers, VMware Tools), or set `snapshot.quiesce` to `Try` or `Never`.",
        /// VMware Tools do not run in the guest, so it could not be quiesced.
        ToolsNotRunning => "Start VMware Tools in the guest, or set `snapshot.quiesce` to `Try`.",

        // Why a disk is compared in full.
        /// There is no change ID to start from: the disk's first cycle, or its seed is new.
        NoBaseline => NOTHING,
        /// Changed block tracking began anew: the change ID is of another generation, or did not rise.
        ChangeTrackingReset => NOTHING,
        /// Changed block tracking is off, or not active yet.
        ChangeTrackingOff => "Let Hawser switch it on (`changeTracking: Enable`); where the VM has snapshots from before, remove them.",
        /// The VM was reverted to a snapshot.
        Reverted => NOTHING,
        /// The VM was powered on after the snapshot that was to be its last: what it has written since is not in the replica.
        Diverged => "Nothing: the next cycle brings what it writes. Where it was to be off, shut it down.",
        /// The last cycle was built on a snapshot that is not Hawser's: whether the VM was reverted to it since can't be told for certain. The
        /// disks are compared in full until a cycle runs without such a snapshot: remove it when it is not needed.
        ForeignSnapshot => "Remove the snapshot when it is not needed.",
        /// The host can't tell what changed; the message repeats its fault.
        ChangesUnknown => "Nothing: only what differs is sent. If it stays, look for the fault on the host.",

        // The target's side of a cycle.
        /// The log is being applied.
        Applying => PASSES,
        /// What was sent is applied, but the snapshot was lost before all was: the replica stays dirty, and the next cycle sends the rest.
        Partial => PASSES,
        /// The manifest is missing.
        ManifestMissing => "Nothing: the next cycle covers the same ground.",
        /// The cycle was computed from an older state of the replica.
        BasisPassed => "Nothing: the next cycle covers the same ground.",
        /// The order names another manifest.
        OtherManifest => "Nothing: the next cycle covers the same ground.",
        /// Block size or disks of the cycle are not those of the replica.
        OtherGeometry => "Nothing: the next cycle covers the same ground.",
        /// What was written is not what the manifest says.
        BitmapMismatch => "Nothing: the next cycle covers the same ground. Report it with the message.",
        /// The write access to a seed ends too soon for a write.
        PermitEnds => PASSES,
        /// A newer turn has fenced this writer out.
        ReplicaFenced => PASSES,
        /// A seed disk refuses access.
        ReplicaDenied => "Nothing at first: new access is granted. If it stays, look who revokes it, and whether the applier may reach the disk.",
        /// A seed disk does not answer.
        ReplicaUnreachable => "Check the way from the applier to Azure's disks; it is tried again.",
        /// A seed disk is smaller than its source.
        ReplicaTooSmall => "Nothing: the disk gets a new seed of its size.",
        /// There is no room for a seed disk.
        ReplicaFull => "Make room for the replica; nothing is lost.",
        /// Another process holds the seed.
        ReplicaInUse => "End the other process, or wait for it.",
        /// A seed's host does not understand a request.
        ReplicaRequestInvalid => "Report it with the message: it is an error of Hawser.",
        /// A seed disk fails.
        ReplicaFailed => "Nothing at first: it is tried again. If it stays, look at the seed disk.",

        // Cleaning up.
        /// Snapshots, seeds, log and ledger are being removed.
        CleaningUp => PASSES,
        /// A snapshot can't be removed; the message names it and what keeps it.
        SnapshotLeft => "Mend what keeps it, or give it up by the annotation `hawser.dev/abandon`.",
        /// A seed disk can't be removed; the message names it and what keeps it.
        SeedsLeft => "Mend what keeps it, or give it up by the annotation `hawser.dev/abandon`.",
        /// Log or ledger can't be removed; the message says what keeps them.
        LogLeft => "Mend what keeps them, or give them up by the annotation `hawser.dev/abandon`.",
        /// A person gave up what could not be reached (annotation `hawser.dev/abandon`).
        Abandoned => "Remove by hand what the message names.",

        // Events at the edges of a VM's life.
        /// Replication began: a ledger was made.
        ReplicationStarted => NOTHING,
        /// A cycle began.
        CycleStarted => NOTHING,
        /// A cycle is applied and verified, and its snapshot gone.
        CycleSucceeded => NOTHING,
        /// A cycle failed; the next one covers the same ground.
        CycleFailed => "Nothing: the next cycle covers the same ground. If they go on to fail, see `status.lastCycle`.",
        /// A snapshot of ours that nobody needed was found and removed.
        SnapshotSwept => NOTHING,
        /// A disk was added to the VM, or taken from it.
        DisksChanged => NOTHING,
        /// A ledger was taken over from another owner.
        TakenOver => NOTHING,
    }
}

impl Reason {
    /// Reads a word of an object or a document; one of another version is [`Reason::Unrecognized`], for whoever wrote it meant something.
    #[must_use]
    pub fn read(word: &str) -> Self {
        Self::from_word(word).unwrap_or(Self::Unrecognized)
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A word that this version does not know costs nobody the document around it.
impl<'de> serde::Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::read(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_meaning_and_remedy() {
        let words: Vec<_> = Reason::ALL.iter().map(|reason| (reason.as_str(), reason.meaning(), reason.remedy())).collect();
        crate::words::tests::hold(&words);
    }

    #[test]
    fn each_reason_is_read_back_from_its_word() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_word(reason.as_str()), Some(*reason));
            let written = serde_json::to_string(reason).unwrap();
            assert_eq!((written.as_str(), serde_json::from_str(&written).ok()), (format!("\"{reason}\"").as_str(), Some(*reason)));
        }
    }

    #[test]
    fn a_word_of_another_version_loses_nothing() {
        assert_eq!(Reason::from_word("NeverHeardOf"), None);
        assert_eq!(serde_json::from_str::<Reason>("\"NeverHeardOf\"").unwrap(), Reason::Unrecognized);
        assert!(serde_json::from_str::<Reason>("7").is_err(), "what is no word is damaged");
    }
}
