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

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        LogError::from(error).into()
    }
}

impl From<ArmError> for Trouble {
    fn from(error: ArmError) -> Self {
        Self { reason: error.reason(), message: error.to_string(), again: error.retry_after() }
    }
}

impl From<Verdict> for Trouble {
    fn from(verdict: Verdict) -> Self {
        Self::new(verdict.reason, verdict.message)
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
        Self::new(error.reason(), error.to_string())
    }
}
