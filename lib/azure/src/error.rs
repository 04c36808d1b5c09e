//! What goes wrong between Hawser and Resource Manager.

use std::time::Duration;

use jiff::Timestamp;
use reasons::Reason;

/// Why a call did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArmError {
    /// No answer: no route, no name, a connection that broke, a time-out. It may have been carried out.
    #[error("Azure Resource Manager does not answer: {0}")]
    Unreachable(String),
    /// The server's certificate is not trusted.
    #[error("the certificate of {host} is not trusted: {why}")]
    Untrusted {
        /// Whose it is.
        host: String,
        /// What TLS said.
        why: String,
    },
    /// No token was to be had.
    #[error("no token for Azure: {0}")]
    Credential(String),
    /// Azure asks to be left alone.
    #[error("Azure throttles {operation}: it asks to be left alone until {until}, and is; then it goes on")]
    Throttled {
        /// What was asked.
        operation: String,
        /// For how long.
        wait: Duration,
        /// Until when, in whole seconds: whoever tries in between says the same.
        until: Timestamp,
    },
    /// The principal lacks an action; or has it, and not everybody knows yet.
    #[error("Azure refuses {operation}: {message}")]
    Forbidden {
        /// What was asked.
        operation: String,
        /// Azure's words, which name action and scope.
        message: String,
    },
    /// It is not there.
    #[error("{0} does not exist in Azure")]
    NotFound(String),
    /// Something else is going on with the resource, or its state forbids it.
    #[error("{operation} is not possible now: {code}: {message}")]
    Conflict {
        /// What was asked.
        operation: String,
        /// Azure's code.
        code: String,
        /// Azure's words.
        message: String,
    },
    /// Azure will not do it, however often it is asked.
    #[error("Azure refuses {operation}: {code}: {message}")]
    Refused {
        /// What was asked.
        operation: String,
        /// Azure's code.
        code: String,
        /// Azure's words.
        message: String,
    },
    /// Azure fails, and may not the next time.
    #[error("Azure fails at {operation}: {code}: {message}")]
    Failed {
        /// What was asked.
        operation: String,
        /// Azure's code, or the HTTP status.
        code: String,
        /// Azure's words.
        message: String,
    },
    /// The answer is not what the API promises.
    #[error("the answer of Azure to {operation} makes no sense: {why}")]
    Answer {
        /// What was asked.
        operation: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ArmError {
    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable(_) => Reason::Unreachable,
            Self::Untrusted { .. } => Reason::UntrustedCertificate,
            Self::Credential(_) => Reason::WrongCredentials,
            Self::Throttled { .. } => Reason::Throttled,
            Self::Forbidden { .. } => Reason::RolesMissing,
            Self::NotFound(_) => Reason::SeedMissing,
            Self::Conflict { .. } | Self::Failed { .. } | Self::Answer { .. } => Reason::ServerFailed,
            Self::Refused { .. } => Reason::SeedRefused,
        }
    }

    /// The same, met by whoever wanted this.
    #[must_use]
    pub(crate) fn of(mut self, wanted: &str) -> Self {
        match &mut self {
            Self::Throttled { operation, .. }
            | Self::Forbidden { operation, .. }
            | Self::Conflict { operation, .. }
            | Self::Refused { operation, .. }
            | Self::Failed { operation, .. }
            | Self::Answer { operation, .. } => wanted.clone_into(operation),
            Self::Unreachable(_) | Self::Untrusted { .. } | Self::Credential(_) | Self::NotFound(_) => {}
        }
        self
    }

    /// The same, met by whoever may ask again after this wait: an old word of how long to wait is not told anew.
    #[must_use]
    pub(crate) fn after(mut self, left: Duration, now: jiff::Timestamp) -> Self {
        if let Self::Throttled { wait, until, .. } = &mut self {
            (*wait, *until) = (left, now.checked_add(left).unwrap_or(*until));
        }
        self
    }

    /// After how long it is worth asking again; none where only a change by people helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { wait, .. } => Some(*wait),
            Self::Unreachable(_) | Self::Failed { .. } | Self::Conflict { .. } => Some(Duration::from_secs(5)),
            // A new assignment takes minutes to be known everywhere.
            Self::Forbidden { .. } => Some(Duration::from_secs(30)),
            Self::Untrusted { .. } | Self::Credential(_) | Self::NotFound(_) | Self::Refused { .. } | Self::Answer { .. } => None,
        }
    }
}
