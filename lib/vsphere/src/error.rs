//! What can go wrong between us and vCenter.

use std::time::Duration;

use crate::{fault::Fault, session::Refusal, tls::Thumbprint, xml::XmlError};

/// The network and HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No connection.
    #[error("no connection to {host}: {why}")]
    Connect {
        /// Whom we called.
        host: String,
        /// What the machine says.
        why: String,
    },
    /// No answer in time.
    #[error("{host} has not answered within {} s", .after.as_secs())]
    TimedOut {
        /// Whom we called.
        host: String,
        /// How long we waited.
        after: Duration,
    },
    /// Its certificate is not trusted.
    #[error(
        "the certificate of {host} is not trusted: {why}{}",
        .shown.as_ref().map_or_else(String::new, |shown| format!(
            "; it showed the SHA-256 thumbprint {shown}. If that is the right one, set it as the thumbprint, or give the CA's bundle"
        ))
    )]
    Certificate {
        /// Whom we called.
        host: String,
        /// What is wrong with it.
        why: String,
        /// The thumbprint of the certificate that it showed.
        shown: Option<Thumbprint>,
    },
    /// An answer of HTTP that is no answer of the API.
    #[error("{host} answers with HTTP status {status}")]
    Status {
        /// Whom we called.
        host: String,
        /// The status.
        status: u16,
    },
    /// More than we take.
    #[error("the answer of {host} is larger than {limit} bytes")]
    TooLarge {
        /// Whom we called.
        host: String,
        /// How much we take.
        limit: usize,
    },
    /// The connection broke, or what came is no text.
    #[error("the answer of {host} broke off: {why}")]
    Broken {
        /// Whom we called.
        host: String,
        /// What the machine says.
        why: String,
    },
}

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The network, or HTTP.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// vCenter said no.
    #[error("{method}: {fault}")]
    Fault {
        /// What was called.
        method: String,
        /// What it said.
        fault: Box<Fault>,
    },
    /// What it answers is no XML.
    #[error("the answer to {method} can't be read: {why}")]
    Xml {
        /// What was called.
        method: String,
        /// What is wrong with it.
        why: XmlError,
    },
    /// It answers in XML, but not what the API says.
    #[error("the answer to {method} is not what the API says: {why}")]
    Answer {
        /// What was called.
        method: String,
        /// What is missing or odd.
        why: String,
    },
    /// It refused our name and password, and they are not tried again until somebody says so.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It speaks no version of the API that we speak.
    #[error("this vCenter offers the API versions {offered}; Hawser needs one from 6.5 on")]
    Version {
        /// What it offers.
        offered: String,
    },
    /// The address, or what is to be trusted, makes no sense.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// The fault, if it is one.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault { fault, .. } => Some(fault),
            _ => None,
        }
    }

    /// True where it is a fault of that very type.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.fault().is_some_and(|fault| fault.is(kind))
    }

    /// An answer that is not what the API says.
    pub(crate) fn answer(method: &str, why: impl Into<String>) -> Self {
        Self::Answer { method: method.into(), why: why.into() }
    }
}
