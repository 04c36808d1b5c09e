//! How a run can end that did not do what it was asked: a closed set, each with an exit code, what happened, and what to do.

use blocklog::{LogError, keys::KeyFileError, store::StoreError};
use reasons::Reason;
use replica::ReplicaError;
use serde::Serialize;
use source::SourceError;

use crate::{applier::ApplierError, gateway::GatewayError, snapshot::SnapshotError};

/// The kinds of failure. Scripts may rely on word and exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Other,
    /// The command line or a file that it names can't be used.
    BadFile,
    /// The key is not the log store's.
    WrongKey,
    /// A blob of the log store is not what was written.
    DamagedBlob,
    /// The source ends before its replica does.
    SourceTooShort,
    /// The replica holds less than the source.
    ReplicaTooSmall,
    /// The log store does not answer, or refuses.
    StoreUnreachable,
    /// No room is left, in the log store or for a replica.
    DiskFull,
    /// The replica belongs to another owner.
    LedgerOfAnother,
    /// A source does not answer, refuses, or fails.
    SourceUnreachable,
    /// A replica refuses: it is in use, it is not ours, access is denied, it does not answer.
    ReplicaRefused,
    /// The image changed before all of it was read; what is sound was kept.
    SnapshotLost,
    /// Source and replica differ.
    NotEqual,
    Interrupted,
    Terminated,
}

impl Kind {
    pub const ALL: [Self; 15] = [
        Self::Other,
        Self::BadFile,
        Self::WrongKey,
        Self::DamagedBlob,
        Self::SourceTooShort,
        Self::ReplicaTooSmall,
        Self::StoreUnreachable,
        Self::DiskFull,
        Self::LedgerOfAnother,
        Self::SourceUnreachable,
        Self::ReplicaRefused,
        Self::SnapshotLost,
        Self::NotEqual,
        Self::Interrupted,
        Self::Terminated,
    ];

    #[must_use]
    pub fn exit(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::BadFile => 2,
            Self::WrongKey => 10,
            Self::DamagedBlob => 11,
            Self::SourceTooShort => 12,
            Self::ReplicaTooSmall => 13,
            Self::StoreUnreachable => 14,
            Self::DiskFull => 15,
            Self::LedgerOfAnother => 16,
            Self::SourceUnreachable => 17,
            Self::ReplicaRefused => 18,
            Self::SnapshotLost => 19,
            Self::NotEqual => 20,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Other => "Failed",
            Self::BadFile => "BadFile",
            Self::WrongKey => "WrongKey",
            Self::DamagedBlob => "DamagedBlob",
            Self::SourceTooShort => "SourceTooShort",
            Self::ReplicaTooSmall => "ReplicaTooSmall",
            Self::StoreUnreachable => "StoreUnreachable",
            Self::DiskFull => "DiskFull",
            Self::LedgerOfAnother => "LedgerOfAnother",
            Self::SourceUnreachable => "SourceUnreachable",
            Self::ReplicaRefused => "ReplicaRefused",
            Self::SnapshotLost => "SnapshotLost",
            Self::NotEqual => "NotEqual",
            Self::Interrupted => "Interrupted",
            Self::Terminated => "Terminated",
        }
    }

    /// What it means, for `--help` and the reference.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Other => "anything that has no code of its own",
            Self::BadFile => "the command line or a file that it names can't be used",
            Self::WrongKey => "the key file does not hold the log store's key",
            Self::DamagedBlob => "a blob of the log store is missing or is not what was written",
            Self::SourceTooShort => "a source ends before its replica does",
            Self::ReplicaTooSmall => "a replica holds less than its source",
            Self::StoreUnreachable => "the log store does not answer, or refuses access",
            Self::DiskFull => "no room is left, in the log store or for a replica",
            Self::LedgerOfAnother => "the replica belongs to another owner",
            Self::SourceUnreachable => "a source does not answer, refuses, or can't be read",
            Self::ReplicaRefused => "a replica is in use, is not ours, refuses access, or does not answer",
            Self::SnapshotLost => "the image changed before all of it was read",
            Self::NotEqual => "source and replica differ",
            Self::Interrupted => "stopped by SIGINT",
            Self::Terminated => "stopped by SIGTERM",
        }
    }
}

/// A run that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which exit code.
    pub kind: Kind,
    /// The reason, where there is one that is finer than the kind.
    pub reason: Option<Reason>,
    /// One sentence: what happened.
    pub message: String,
    /// One sentence: what to do.
    pub remedy: String,
}

/// As a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    error: &'static str,
    reason: &'a str,
    message: &'a str,
    remedy: &'a str,
    exit: u8,
}

impl Failure {
    /// A failure that its kind says all of.
    pub fn new(kind: Kind, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, reason: None, message: message.into(), remedy: remedy.into() }
    }

    /// The same, for a reason of its own.
    #[must_use]
    pub fn because(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// The reason's word, or the kind's.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.reason.map_or_else(|| self.kind.word(), Reason::as_str)
    }

    /// The same, with what it is about in front.
    #[must_use]
    pub fn about(self, what: impl std::fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// The same with another remedy.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }

    /// One line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let line =
            Line { error: self.kind.word(), reason: self.word(), message: &self.message, remedy: &self.remedy, exit: self.kind.exit() };
        // Text and a number can always be written.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// For people: what happened, and what to do.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error ({}): {}\nremedy: {}", self.word(), self.message, self.remedy)
    }
}

impl std::error::Error for Failure {}

/// What to do about a blob that is damaged or missing. `needed`: the ledger names its cycle as begun and not finished, or as lost.
#[must_use]
pub fn blob_remedy(name: &str, needed: bool) -> &'static str {
    const ANEW: &str = "Restore the blob from a version or a backup of the log store; where there is none, move the replicas away and delete the \
                        VM's folder in the log store, and the next run begins anew.";
    let last = name.rsplit('/').next().unwrap_or_default();
    match last {
        "ledger" => ANEW,
        "manifest" if needed => ANEW,
        "manifest" => "Delete this blob if it is there and run again: a new cycle covers the same ground.",
        "keycheck" => "If the key file is the right one, delete this blob: the next run makes it anew.",
        "state" => "Run again: the cycle's number is skipped, and a new cycle covers the same ground.",
        "receipt" => "It is for people only: delete it.",
        "setback" => "Delete it: where the cycle still can't be applied, the applier writes it anew.",
        _ if last.ends_with(".seg") => "Run again: a new cycle covers the same ground.",
        _ if name.contains("/fingerprints/") => {
            "Run `worker ledger forget-fingerprints` for this disk, and then a cycle: the disk is sent whole once."
        }
        _ if name.starts_with("v1/orders/") => "Run again: the order is written anew.",
        _ => ANEW,
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (kind, remedy) = match &error {
            StoreError::Unreachable(_) => (Kind::StoreUnreachable, "See to it that the log store can be reached from here, and run again."),
            StoreError::ContainerMissing(_) | StoreError::Denied(_) => {
                (Kind::StoreUnreachable, "Give the log store's container or folder, and a key or SAS that may read and write it.")
            }
            StoreError::Full(_) => (Kind::DiskFull, "Make room in the log store, and run again: nothing is lost."),
            StoreError::Leased(_) => {
                (Kind::ReplicaRefused, "Another worker is at work on this VM: wait until it has ended, and run again.")
            }
            StoreError::LeaseLost(_) | StoreError::Changed(_) | StoreError::Exists(_) => {
                (Kind::Other, "Another worker has taken over this VM: see that only one runs, and run again.")
            }
            StoreError::NotFound(name) => (Kind::DamagedBlob, blob_remedy(name, false)),
            StoreError::Failed(_) => (Kind::Other, "See what the log store says, and run again: nothing is lost."),
        };
        Self::new(kind, error.to_string(), remedy).because(error.reason())
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        let (kind, remedy) = match &error {
            LogError::Store(error) => return error.clone().into(),
            LogError::Missing(name) | LogError::Damaged { name, .. } => (Kind::DamagedBlob, blob_remedy(name, false)),
            LogError::UnknownVersion { .. } => (Kind::DamagedBlob, "Use the version of Hawser that wrote it, or a newer one."),
            LogError::WrongKey { .. } => (Kind::WrongKey, "Name the key file that this log store was set up with, or another log store."),
            LogError::KeyMissing { .. } => {
                (Kind::WrongKey, "Put that version back into the key file: versions are kept until nothing needs them.")
            }
        };
        Self::new(kind, error.to_string(), remedy).because(error.reason())
    }
}

impl From<ReplicaError> for Failure {
    fn from(error: ReplicaError) -> Self {
        let (kind, remedy) = match &error {
            ReplicaError::TooSmall { .. } => (Kind::ReplicaTooSmall, "Give a replica that is at least as large as the source."),
            ReplicaError::Full(_) => (Kind::DiskFull, "Make room for the replica, and run again: nothing is lost."),
            ReplicaError::InUse(_) => (Kind::ReplicaRefused, "Wait until the other process has ended, or end it, and run again."),
            ReplicaError::WrongSeed { .. } => {
                (Kind::ReplicaRefused, "Name the replica that the ledger knows; or move this one away, and the next run makes a new one.")
            }
            ReplicaError::Fenced { .. } => {
                (Kind::ReplicaRefused, "Another worker writes this replica: see that only one runs, and run again.")
            }
            ReplicaError::Denied(_) => (Kind::ReplicaRefused, "Give a path, key or SAS that may write the replica, and run again."),
            ReplicaError::Unreachable(_) => (Kind::ReplicaRefused, "See to it that the replica can be reached from here, and run again."),
            ReplicaError::PermitEnds { .. } | ReplicaError::Failed(_) => {
                (Kind::ReplicaRefused, "See what the replica's host says, and run again.")
            }
            ReplicaError::Invalid(_) => (Kind::Other, "This is an error of Hawser: report it with the lines above."),
        };
        Self::new(kind, error.to_string(), remedy).because(error.reason())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let (kind, remedy) = match &error {
            SourceError::TooShort { .. } => {
                (Kind::SourceTooShort, "Give the whole image; where the disk was really cut, move its replica away for a new one.")
            }
            SourceError::Unreachable { .. } => {
                (Kind::SourceUnreachable, "See to it that the source can be reached from here, and run again.")
            }
            SourceError::Busy(_) | SourceError::Exhausted { .. } => {
                (Kind::SourceUnreachable, "Wait until others need less of the source's host, and run again.")
            }
            SourceError::Protocol(_) => (Kind::SourceUnreachable, "See what the NBD server says, and run again."),
            SourceError::Read { .. } => (Kind::SourceUnreachable, "Look after the disk that holds the source, and run again."),
            SourceError::Refused { .. } => (Kind::SourceUnreachable, "Name a source that exists and may be read."),
        };
        Self::new(kind, error.to_string(), remedy).because(error.reason())
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        let remedy = "See to it that every source exists and can be read, and run again.";
        Self::new(Kind::SourceUnreachable, error.to_string(), remedy).because(error.reason())
    }
}

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::Log(error) => error.into(),
            GatewayError::Snapshot(error) => error.into(),
            GatewayError::Source { disk, error } => Self::from(error).about(format_args!("disk {disk}")),
            GatewayError::SourceGrown { disk, size, capacity } => grown(disk.0, size, capacity),
            GatewayError::DiskGone(disk) => gone(disk.0),
        }
    }
}

/// A source that has outgrown its replica.
#[must_use]
pub fn grown(disk: u32, size: u64, capacity: u64) -> Failure {
    let message = format!("disk {disk}: the source has {size} bytes, its replica was made for {capacity}");
    Failure::new(Kind::ReplicaTooSmall, message, "Move the disk's replica away, and the next run makes one of the new size.")
        .because(Reason::SourceGrown)
}

/// A disk that is replicated and is not there to be read.
fn gone(disk: u32) -> Failure {
    let message = format!("disk {disk} takes no part in the snapshot");
    Failure::new(Kind::SourceUnreachable, message, "Take it out of the cycle, and run again.").because(Reason::DisksChanged)
}

impl From<ApplierError> for Failure {
    fn from(error: ApplierError) -> Self {
        match error {
            ApplierError::Log(error) => error.into(),
            ApplierError::Replica { disk, error } => Self::from(error).about(format_args!("disk {disk}")),
            ApplierError::Stopped => Self::new(Kind::Other, "the applier was stopped", "Run again: it finishes.").because(Reason::Stopped),
            ApplierError::BitmapMismatch { .. } => {
                let reason = error.reason();
                Self::new(Kind::DamagedBlob, error.to_string(), "Run again: a new cycle covers the same ground.").because(reason)
            }
        }
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Self::new(Kind::BadFile, error.to_string(), "Name a key file as `worker key new` makes it.").because(Reason::CredentialsMissing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_are_all_different() {
        let codes: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.exit()).collect();
        let words: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!((codes.len(), words.len()), (Kind::ALL.len(), Kind::ALL.len()));
        assert!(!codes.contains(&0));
    }

    #[test]
    fn a_failure_reads_as_two_sentences_and_as_json() {
        let failure = Failure::from(ApplierError::Log(LogError::damaged("v1/a/b/c/0000000001/2000/0001-00000000.seg", "its \"MAC\"")));
        assert_eq!(failure.kind.exit(), 11);
        let text = failure.to_string();
        assert!(
            text.starts_with("error (BlobDamaged): v1/") && text.ends_with("\nremedy: Run again: a new cycle covers the same ground."),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&failure.json()).unwrap();
        assert_eq!((&json["error"], &json["reason"], &json["exit"]), (&"DamagedBlob".into(), &"BlobDamaged".into(), &11.into()));
        assert!(!failure.json().contains('\n'));
    }

    #[test]
    fn what_to_do_depends_on_the_blob() {
        let folder = "v1/v/i/n/";
        let all = [
            "ledger",
            "0000000001/state",
            "0000000001/manifest",
            "0000000001/2000/0001-00000000.seg",
            "fingerprints/2000/0000000001-index",
        ];
        let remedies: std::collections::BTreeSet<_> = all.iter().map(|name| blob_remedy(&format!("{folder}{name}"), false)).collect();
        assert_eq!(remedies.len(), all.len());
        assert_eq!(blob_remedy("v1/v/i/n/0000000001/manifest", true), blob_remedy("v1/v/i/ledger", false));
    }

    #[test]
    fn the_disk_is_named_once() {
        let disk = blocklog::ids::DiskKey(2000);
        let failure = Failure::from(ApplierError::Replica { disk, error: ReplicaError::InUse("/a".to_owned()) });
        assert_eq!((failure.kind, failure.message.matches("disk 2000").count()), (Kind::ReplicaRefused, 1));
        let failure = Failure::from(GatewayError::SourceGrown { disk, size: 2, capacity: 1 });
        assert_eq!((failure.kind, failure.message.matches("disk 2000").count()), (Kind::ReplicaTooSmall, 1));
    }
}
