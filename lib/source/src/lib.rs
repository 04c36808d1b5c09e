//! Reading the disk of a snapshot.
//!
//! [`DiskSource`] is what the gateway reads through. The bytes behind it never change while it is open: a snapshot, or an image that
//! nobody writes. [`nbd`] speaks to any NBD server (nbdkit with VMware's VDDK in production); [`raw`] reads a file.

use std::ops::Range;

use async_trait::async_trait;
use extents::ExtentSet;
use reasons::Reason;

pub mod nbd;
pub mod raw;
mod zeroes;

/// The largest single read that the gateway asks for. Four of these in flight are the 4 MB a disk of a host's NFC buffer.
pub const MAX_READ: u32 = 1 << 20;

/// Why a source did not give its bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The range reaches past the disk's end.
    #[error("the source ends at {size} bytes, a read wanted up to {wanted}")]
    TooShort {
        /// The source's size in bytes.
        size: u64,
        /// The end of the read in bytes.
        wanted: u64,
    },
    /// The connection broke or could not be made. Opening again may help.
    #[error("the source does not answer: {message}")]
    Unreachable {
        /// Why.
        reason: Reason,
        /// What it said.
        message: String,
    },
    /// Somebody else holds the disk, or its host has no session to spare. It is worth waiting.
    #[error("the source is busy: {0}")]
    Busy(String),
    /// The host has no memory for as many reads at a time. The session is sound: fewer of them may get through.
    #[error("the source has no memory for {length} bytes at {offset}: {message}")]
    Exhausted {
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        length: u32,
        /// What it said.
        message: String,
    },
    /// The server broke the protocol. The connection is closed.
    #[error("the source's server broke the protocol: {0}")]
    Protocol(String),
    /// The server or the file answered with an error.
    #[error("the source failed to read {length} bytes at {offset}: {message}")]
    Read {
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        length: u32,
        /// What it said.
        message: String,
    },
    /// The source refuses: no such export, TLS required, certificate not trusted, permission.
    #[error("the source refuses: {message}")]
    Refused {
        /// Why.
        reason: Reason,
        /// What it said.
        message: String,
    },
}

impl SourceError {
    /// A source that does not answer, and has not said why.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::Unreachable { reason: Reason::SourceUnreachable, message: message.into() }
    }

    /// A source that refuses, for no reason that has a word of its own.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused { reason: Reason::SourceRefused, message: message.into() }
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::TooShort { .. } => Reason::SourceTooShort,
            Self::Unreachable { reason, .. } | Self::Refused { reason, .. } => *reason,
            Self::Busy(_) | Self::Exhausted { .. } => Reason::SourceBusy,
            Self::Protocol(_) | Self::Read { .. } => Reason::SourceUnreachable,
        }
    }
}

/// A frozen disk.
#[async_trait]
pub trait DiskSource: Send + Sync {
    /// The disk's size in bytes.
    fn size(&self) -> u64;

    /// Reads `length` bytes (1 to [`MAX_READ`]) at `offset`. Offset and length are multiples of 512. Several reads may be in flight; dropping
    /// the future abandons the read and nothing else.
    async fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, SourceError>;

    /// The sectors inside `range` (bytes) that the source knows to read as zero without reading them, or `None` where it can't tell. A
    /// hint: a failure is `None`, and whatever is not named must be read.
    async fn zeroes(&self, range: Range<u64>) -> Option<ExtentSet>;
}

/// The contract's side of the caller: inside the disk, whole sectors, no more than [`MAX_READ`].
fn check(size: u64, offset: u64, length: u32) -> Result<(), SourceError> {
    let wanted = offset.saturating_add(u64::from(length));
    if wanted > size {
        return Err(SourceError::TooShort { size, wanted });
    }
    let whole_sectors = offset.is_multiple_of(extents::SECTOR) && u64::from(length).is_multiple_of(extents::SECTOR);
    if length == 0 || length > MAX_READ || !whole_sectors {
        let message = format!("a read is whole sectors of {} bytes, {MAX_READ} bytes at the most", extents::SECTOR);
        return Err(SourceError::Read { offset, length, message });
    }
    Ok(())
}
