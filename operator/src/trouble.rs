//! What goes wrong around the operator, in the words of the API.

use std::time::Duration;

use azure::ArmError;
use blocklog::{LogError, constant::noted, store::StoreError};
use crds::reasons::Reason;
use vsphere::{
    classify::{Doing, Verdict, classify},
    snapshot::control::Failure,
};

/// Something that keeps a pass from going on, with the word and the sentence that people see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    /// The word.
    pub reason: Reason,
    /// What is so, and what to do.
    pub message: String,
    /// After how long it is worth looking again, where somebody has said so.
    pub again: Option<Duration>,
}

impl Trouble {
    /// In these words.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), again: None }
    }
}

/// The word of another crate; one that the API does not know stands for itself in the message.
#[must_use]
pub fn reason_of(word: &str) -> Reason {
    if let Some(reason) = Reason::from_word(word) {
        return reason;
    }
    match word {
        "VCenterUnreachable" => Reason::Unreachable,
        "CertificateUntrusted" => Reason::UntrustedCertificate,
        "AddressWrong" | "AnswerOdd" | "VersionUnsupported" | "ConfigInvalid" | "SessionLost" | "SourceError" => Reason::ServerFailed,
        "LoginRefused" => Reason::WrongCredentials,
        "PrivilegeMissing" => Reason::PrivilegesMissing,
        "SourceGone" => Reason::VmNotFound,
        "SnapshotGone" | "Drift" => Reason::SnapshotLost,
        "MethodDisabled" | "DisksLocked" | "VmStateUnfit" => Reason::SourceBusy,
        "DatastoreUnavailable" => Reason::HostUnavailable,
        "QuestionPending" => Reason::VmQuestion,
        "ChainTooLong" | "SnapshotsUnsupported" | "LicenseMissing" => Reason::SourceRefused,
        _ => Reason::TaskFailed,
    }
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::new(reason_of(error.reason()), error.to_string())
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        LogError::from(error).into()
    }
}

impl From<ArmError> for Trouble {
    fn from(error: ArmError) -> Self {
        Self { reason: reason_of(error.reason()), message: error.to_string(), again: error.retry_after() }
    }
}

impl From<Verdict> for Trouble {
    fn from(verdict: Verdict) -> Self {
        Self::new(reason_of(verdict.reason), verdict.message)
    }
}

impl From<vsphere::Error> for Trouble {
    fn from(error: vsphere::Error) -> Self {
        classify(&error, Doing::Other).into()
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        failure.verdict().clone().into()
    }
}

impl From<kube::Error> for Trouble {
    fn from(error: kube::Error) -> Self {
        Self::new(Reason::ServerFailed, noted("apiserver", &format!("the apiserver: {error}")))
    }
}

impl From<replica::ReplicaError> for Trouble {
    fn from(error: replica::ReplicaError) -> Self {
        Self::new(reason_of(error.reason()), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_vcenters_verdicts_has_one_in_the_api() {
        for word in vsphere::classify::REASONS {
            // `TaskFailed` is what is left for words that nobody has thought of.
            assert_ne!(reason_of(word), Reason::TaskFailed, "{word}");
        }
    }

    #[test]
    fn every_word_of_the_log_is_the_apis_own() {
        let name = || "n".to_owned();
        for error in [
            LogError::Missing(name()),
            LogError::damaged("n", "x"),
            LogError::WrongKey { version: 1 },
            LogError::KeyMissing { name: name(), version: 1 },
            LogError::UnknownVersion { name: name(), found: name(), known: 1 },
            StoreError::Denied(name()).into(),
            StoreError::Unreachable(name()).into(),
        ] {
            assert_eq!(Trouble::from(error.clone()).reason.as_str(), error.reason());
        }
    }
}
