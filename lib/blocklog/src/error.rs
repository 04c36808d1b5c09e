//! What can be wrong with a log.

use reasons::Reason;

use crate::store::StoreError;

/// Why a blob of the log could not be read or written. The words of [`LogError::reason`] stand in conditions, events and metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob has to be there, and is not.
    #[error("{0} is missing from the log store")]
    Missing(String),
    /// The blob is not what was written: a changed byte, a wrong place, another's.
    #[error("{name} is damaged: {what}")]
    Damaged {
        /// The blob.
        name: String,
        /// What does not hold.
        what: String,
    },
    /// The blob was written by a version of Hawser that this one does not know.
    #[error("{name} has format version {found}; this version of Hawser knows {known}")]
    UnknownVersion {
        /// The blob.
        name: String,
        /// Its version.
        found: String,
        /// The version known here.
        known: u32,
    },
    /// The key of the appliance is not the one that this log store was set up with.
    #[error("the key is not the one that this log store was set up with (version {version})")]
    WrongKey {
        /// The version of the key that was tried.
        version: u32,
    },
    /// The blob needs a version of the key that is not in the key file.
    #[error("{name} needs version {version} of the key, which the key file does not hold")]
    KeyMissing {
        /// The blob.
        name: String,
        /// The version that it was written with.
        version: u32,
    },
}

impl LogError {
    /// A damaged blob.
    pub fn damaged(name: &str, what: impl Into<String>) -> Self {
        Self::Damaged { name: name.to_owned(), what: what.into() }
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Store(error) => error.reason(),
            Self::Missing(_) => Reason::BlobMissing,
            Self::Damaged { .. } => Reason::BlobDamaged,
            Self::UnknownVersion { .. } => Reason::FormatUnknown,
            Self::WrongKey { .. } => Reason::WrongKey,
            Self::KeyMissing { .. } => Reason::KeyVersionMissing,
        }
    }
}
