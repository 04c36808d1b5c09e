//! What to do about an error: the one place that decides it.
//!
//! Every error is one of four: it passes ([`Class::Retry`]), something else has to end first ([`Class::Wait`]), one disk has to be read in full
//! ([`Class::Full`]), or a person has to do something ([`Class::Block`]). With it goes a [`Reason`] and a sentence that names
//! the remedy.

use blocklog::constant::noted;
use reasons::Reason;

use crate::{
    cbt::FullReason,
    error::{Error, WireError},
    fault::Fault,
};

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Taking a snapshot.
    TakingSnapshot,
    /// Removing one.
    RemovingSnapshot,
    /// Consolidating disks.
    Consolidating,
    /// Asking what changed on a disk.
    AskingChanges,
    /// Switching changed block tracking on.
    SwitchingTracking,
    /// Power.
    Power,
    /// Anything else.
    Other,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again after a while; it counts as a failure.
    Retry,
    /// Try again after a while; it counts as waiting.
    Wait,
    /// Read the disk in full.
    Full(FullReason),
    /// Wait for a person. Looking again from time to time does no harm.
    Block,
}

/// An error, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub class: Class,
    /// The reason.
    pub reason: Reason,
    /// What has happened and what helps.
    pub message: String,
}

impl Verdict {
    /// Of this call or task: a fault alone does not say what has failed.
    #[must_use]
    pub(crate) fn of(self, method: &str) -> Self {
        Self { message: format!("{method}: {}", self.message), ..self }
    }
}

/// Understands an error.
#[must_use]
pub fn classify(error: &Error, doing: Doing) -> Verdict {
    let verdict = |class, reason, remedy: &str| Verdict { class, reason, message: sentence(&error.to_string(), remedy) };
    match error {
        Error::Wire(WireError::Certificate { .. }) => verdict(Class::Block, Reason::UntrustedCertificate, ""),
        Error::Wire(WireError::Status { status: 401 | 403 | 404 | 405, .. }) => {
            verdict(Class::Block, Reason::ConfigInvalid, "Check vcenter.url: what is there does not speak vCenter's API")
        }
        Error::Wire(WireError::TooLarge { .. }) => verdict(Class::Retry, Reason::ServerFailed, "It is tried again"),
        Error::Wire(_) => {
            verdict(Class::Retry, Reason::Unreachable, "It is tried again; check the network and that vCenter's services run")
        }
        Error::Xml { .. } | Error::Answer { .. } => {
            verdict(Class::Retry, Reason::ServerFailed, "It is tried again; if it stays, report it with this text")
        }
        Error::Refused(_) => verdict(Class::Block, Reason::WrongCredentials, ""),
        Error::Version { .. } => verdict(Class::Block, Reason::SourceRefused, "Upgrade vCenter"),
        Error::Config(_) => verdict(Class::Block, Reason::ConfigInvalid, ""),
        Error::Fault { method, fault } => {
            // People are shown what stays of its words, and the log has all of them.
            for text in std::iter::once(&fault.text).chain(&fault.messages) {
                let _ = noted("vCenter", text);
            }
            let mut verdict = of_fault(fault, doing);
            verdict.message = format!("{method}: {}", verdict.message);
            verdict
        }
    }
}

/// Understands a fault: of a call, or of a task.
#[must_use]
pub fn of_fault(fault: &Fault, doing: Doing) -> Verdict {
    let verdict = |class, reason, remedy: &str| Verdict { class, reason, message: sentence(&fault.to_string(), remedy) };
    let full =
        |reason: FullReason| verdict(Class::Full(reason), reason.reason(), "The disk is compared in full; only what differs is sent");
    // A full datastore is told in many wrappings.
    if out_of_space(fault) {
        return verdict(Class::Wait, Reason::DatastoreFull, "Free space on the datastore; nothing new is started there until then");
    }
    match (fault.kind.as_str(), doing) {
        ("FileFault" | "CannotAccessFile" | "FileNotFound", Doing::AskingChanges) => match tracking_fault(fault) {
            Some(reason) => full(reason),
            None => verdict(Class::Retry, Reason::TaskFailed, "It is tried again; if it stays, the disk is compared in full"),
        },
        ("InvalidArgument", Doing::AskingChanges) => match fault.field("invalidProperty") {
            Some(property) if !property.is_empty() && !property.eq_ignore_ascii_case("changeId") => {
                verdict(Class::Retry, Reason::SourceChanged, "The VM's disks are read again: it has changed in the meantime")
            }
            None | Some("") if ["startOffset", "deviceKey", "snapshot"].iter().any(|word| fault.mentions(word)) => {
                verdict(Class::Retry, Reason::SourceChanged, "The VM's disks are read again: it has changed in the meantime")
            }
            _ => full(FullReason::ChangeIdUnknown),
        },
        ("NotSupported" | "CbtNotEnabled", Doing::AskingChanges) => full(FullReason::NotTracked),
        ("NotFound", Doing::AskingChanges) => verdict(Class::Retry, Reason::SnapshotLost, "Somebody has removed the snapshot"),
        ("NotAuthenticated", _) => verdict(Class::Retry, Reason::ServerFailed, "A new session is made"),
        ("NoPermission" | "RestrictedByAdministrator", _) => {
            let privilege = fault.field("privilegeId").unwrap_or("the one in question");
            verdict(Class::Block, Reason::PrivilegesMissing, &format!("Give the vCenter user the privilege {privilege} on this object"))
        }
        ("ManagedObjectNotFound", _) => match fault.field("obj.type") {
            Some("VirtualMachineSnapshot") => verdict(Class::Retry, Reason::SnapshotLost, "Somebody has removed the snapshot"),
            Some("VirtualMachine") => verdict(Class::Block, Reason::VmNotFound, "The VM is not registered any more; its replica is kept"),
            _ => verdict(Class::Retry, Reason::SourceChanged, "It is looked for again"),
        },
        ("TaskInProgress" | "ResourceInUse" | "ConcurrentAccess" | "SnapshotCopyNotSupported" | "VimFault.TaskInProgress", _) => {
            verdict(Class::Wait, Reason::SourceBusy, "Another task works on the VM; it is waited for")
        }
        ("MethodDisabled" | "MethodAlreadyDisabledFault", _) => verdict(
            Class::Wait,
            Reason::SourceBusy,
            "Another product has disabled this for the VM, most likely a backup that runs. If none does, look at the VM's disabled methods",
        ),
        (
            "HostNotConnected"
            | "HostNotReachable"
            | "HostCommunication"
            | "HostConnectFault"
            | "HostInMaintenance"
            | "InvalidHostState"
            | "HostPowerOpFailed"
            | "CannotAccessLocalSource",
            _,
        ) => verdict(Class::Wait, Reason::HostUnavailable, "Bring the VM's host back, or move the VM"),
        (
            "InaccessibleDatastore"
            | "InvalidDatastore"
            | "CannotAccessVmComponent"
            | "CannotAccessVmConfig"
            | "CannotAccessVmDisk"
            | "CannotAccessVmDevice"
            | "DatastoreNotWritableOnHost",
            _,
        ) => verdict(Class::Wait, Reason::HostUnavailable, "Bring the VM's datastore back"),
        ("QuestionPending", _) => verdict(Class::Wait, Reason::VmQuestion, "Answer the VM's question in vCenter"),
        ("FileLocked" | "FileAlreadyLocked", _) => locked(verdict),
        ("CannotAccessFile" | "FileFault" | "GenericVmConfigFault", Doing::RemovingSnapshot | Doing::Consolidating)
            if fault.mentions("lock") =>
        {
            locked(verdict)
        }
        ("TooManySnapshotLevels" | "MultipleSnapshotsNotSupported", _) => {
            verdict(Class::Block, Reason::SourceRefused, "Remove snapshots of the VM that are not needed any more")
        }
        ("ApplicationQuiesceFault" | "FilesystemQuiesceFault" | "QuiesceDatastoreIOForHAFailed" | "NotEnoughResourcesToQuiesce", _) => {
            verdict(
                Class::Retry,
                Reason::QuiesceFailed,
                "Look at the guest (VSS writers, VMware Tools), or set snapshot.quiesce to Try or Never",
            )
        }
        ("ToolsUnavailable", _) => verdict(Class::Block, Reason::ToolsNotRunning, "Start VMware Tools in the guest"),
        ("NotSupported", Doing::TakingSnapshot) | ("SnapshotNotSupported" | "SnapshotDisabled", _) => {
            verdict(Class::Block, Reason::SourceRefused, "The VM has a disk or device that allows no snapshot: see its concerns")
        }
        ("SnapshotLocked", _) => verdict(Class::Wait, Reason::SourceBusy, "Another product holds the VM's snapshots"),
        (
            "InvalidState" | "InvalidPowerState" | "SnapshotNoChange" | "InvalidSnapshotFormat" | "VmConfigFault" | "GenericVmConfigFault",
            _,
        ) => verdict(Class::Retry, Reason::SourceBusy, "It is tried again; look at the VM's state in vCenter"),
        (kind, _) if kind.contains("License") || kind == "RestrictedVersion" => {
            verdict(Class::Block, Reason::SourceRefused, "The host's licence has no storage APIs: a free ESXi can't be replicated")
        }
        _ => verdict(Class::Retry, Reason::TaskFailed, "It is tried again"),
    }
}

fn locked(verdict: impl Fn(Class, Reason, &str) -> Verdict) -> Verdict {
    verdict(
        Class::Wait,
        Reason::SourceBusy,
        "Something holds the VM's disks open, most often a backup proxy that has one hot-added: detach it there. It is tried again",
    )
}

/// The families of `FileFault` by which a host says that it can't tell what changed (VMware's own CSI driver tells them apart by these keys).
fn tracking_fault(fault: &Fault) -> Option<FullReason> {
    let has = |key| fault.has_key(key);
    if has("vim.hostd.vmsvc.cbt.noTrack") {
        Some(FullReason::NotTracked)
    } else if has("vim.hostd.vmsvc.cbt.noEpoch") {
        Some(FullReason::ChangeIdUnknown)
    } else if has("vim.hostd.vmsvc.cbt.cannotGetChanges") {
        Some(if fault.mentions("corrupt") { FullReason::CbtCorrupt } else { FullReason::ChangeIdUnknown })
    } else {
        None
    }
}

fn out_of_space(fault: &Fault) -> bool {
    matches!(fault.kind.as_str(), "NoDiskSpace" | "InsufficientStorageSpace" | "InsufficientDisks" | "InsufficientStorageIops")
        || fault.cause.as_ref().is_some_and(|cause| out_of_space(cause))
}

fn sentence(what: &str, remedy: &str) -> String {
    let what = what.trim_end_matches(['.', ' ']);
    if remedy.is_empty() { format!("{what}.") } else { format!("{what}. {remedy}.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(fault: Fault, doing: Doing) -> (Class, Reason) {
        let verdict = of_fault(&fault, doing);
        assert!(verdict.message.ends_with('.') && !verdict.message.contains(".."), "{}", verdict.message);
        (verdict.class, verdict.reason)
    }

    #[test]
    fn faults_of_asking_for_changes() {
        use FullReason::*;
        let asked = |fault| reason(fault, Doing::AskingChanges).0;
        let file = |key: &str, message: &str| Fault::of("FileFault").with_message(key, message);
        assert_eq!(asked(file("vim.hostd.vmsvc.cbt.noTrack", "")), Class::Full(NotTracked));
        assert_eq!(asked(file("vim.hostd.vmsvc.cbt.noEpoch", "")), Class::Full(ChangeIdUnknown));
        assert_eq!(asked(file("vim.hostd.vmsvc.cbt.cannotGetChanges", "file is corrupted")), Class::Full(CbtCorrupt));
        assert_eq!(asked(file("vim.hostd.vmsvc.cbt.cannotGetChanges", "")), Class::Full(ChangeIdUnknown));
        // Any other passes, or is taken for one of these after some tries.
        assert_eq!(asked(Fault::of("FileFault")), Class::Retry);
        assert_eq!(asked(Fault::of("SystemError")), Class::Retry);
        assert_eq!(asked(Fault::of("InvalidArgument").with_field("invalidProperty", "changeId")), Class::Full(ChangeIdUnknown));
        assert_eq!(asked(Fault::of("InvalidArgument")), Class::Full(ChangeIdUnknown));
        for property in ["startOffset", "deviceKey", "snapshot"] {
            assert_eq!(asked(Fault::of("InvalidArgument").with_field("invalidProperty", property)), Class::Retry);
        }
        // The same faults elsewhere say nothing about a disk.
        assert_eq!(reason(Fault::of("InvalidArgument"), Doing::TakingSnapshot).0, Class::Retry);
        assert_eq!(reason(file("vim.hostd.vmsvc.cbt.noTrack", ""), Doing::RemovingSnapshot).0, Class::Retry);
    }

    #[test]
    fn who_has_to_do_something() {
        let no_space = Fault { cause: Some(Box::new(Fault::of("NoDiskSpace"))), ..Fault::of("FileFault") };
        for (fault, doing, expected) in [
            (Fault::of("TaskInProgress"), Doing::TakingSnapshot, (Class::Wait, Reason::SourceBusy)),
            (Fault::of("MethodDisabled"), Doing::TakingSnapshot, (Class::Wait, Reason::SourceBusy)),
            (Fault::of("HostNotConnected"), Doing::RemovingSnapshot, (Class::Wait, Reason::HostUnavailable)),
            (Fault::of("FileLocked"), Doing::Consolidating, (Class::Wait, Reason::SourceBusy)),
            (Fault::of("QuestionPending"), Doing::Other, (Class::Wait, Reason::VmQuestion)),
            (no_space, Doing::TakingSnapshot, (Class::Wait, Reason::DatastoreFull)),
            (Fault::of("NotAuthenticated"), Doing::Other, (Class::Retry, Reason::ServerFailed)),
            (Fault::of("SystemError"), Doing::Other, (Class::Retry, Reason::TaskFailed)),
            (Fault::of("ApplicationQuiesceFault"), Doing::TakingSnapshot, (Class::Retry, Reason::QuiesceFailed)),
            (Fault::of("ManagedObjectNotFound").with_field("obj.type", "VirtualMachine"), Doing::Other, (Class::Block, Reason::VmNotFound)),
            (
                Fault::of("ManagedObjectNotFound").with_field("obj.type", "VirtualMachineSnapshot"),
                Doing::Other,
                (Class::Retry, Reason::SnapshotLost),
            ),
            (Fault::of("TooManySnapshotLevels"), Doing::TakingSnapshot, (Class::Block, Reason::SourceRefused)),
            (Fault::of("NotSupported"), Doing::TakingSnapshot, (Class::Block, Reason::SourceRefused)),
            (Fault::of("Invented"), Doing::Other, (Class::Retry, Reason::TaskFailed)),
        ] {
            assert_eq!(reason(fault.clone(), doing), expected, "{fault}");
        }
    }

    #[test]
    fn the_message_names_what_is_missing() {
        let fault = Fault::of("NoPermission").with_field("privilegeId", "VirtualMachine.State.CreateSnapshot");
        let error = Error::Fault { method: "CreateSnapshotEx_Task".into(), fault: Box::new(fault) };
        let verdict = classify(&error, Doing::TakingSnapshot);
        assert_eq!((verdict.class, verdict.reason), (Class::Block, Reason::PrivilegesMissing));
        assert!(verdict.message.contains("Give the vCenter user the privilege VirtualMachine.State.CreateSnapshot"), "{}", verdict.message);
    }

    #[test]
    fn the_network_passes_and_the_certificate_does_not() {
        let status = |status| classify(&WireError::Status { host: "vc".into(), status }.into(), Doing::Other);
        assert_eq!((status(503).class, status(503).reason), (Class::Retry, Reason::Unreachable));
        assert_eq!((status(404).class, status(404).reason), (Class::Block, Reason::ConfigInvalid));
        let certificate = WireError::Certificate { host: "vc".into(), why: "expired".into(), shown: None };
        assert_eq!(classify(&certificate.into(), Doing::Other).reason, Reason::UntrustedCertificate);
    }
}
