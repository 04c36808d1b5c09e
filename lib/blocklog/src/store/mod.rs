//! The log store: blobs by name, with the four things that the protocol leans on. A write can be conditional on the blob being absent
//! ([`When::Absent`]) or unchanged ([`When::Matches`]); a blob can be leased, so that one writer at a time may change it; a large blob is
//! staged in parts and appears whole, by one commit; and a reader never sees half a blob.
//!
//! Three stores keep the same rules: an Azure container ([`azure`]), a directory ([`directory`]), and memory ([`memory`]). The tests in
//! `conformance` run against each of them.

pub mod azure;
pub mod directory;
pub mod memory;

mod accept;
#[cfg(test)]
mod conformance;
mod lease;

use std::{fmt, ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use reasons::Reason;
use uuid::Uuid;

/// How long a lease holds without being renewed. Azure allows 15 to 60 s; the longest leaves most room for a slow network.
pub const LEASE: Duration = Duration::from_secs(60);

/// The most that one staged part may hold: 4 MiB keeps a part's retry short and its memory small.
pub const MAX_PART: usize = 4 << 20;

/// An opaque version of a blob's content. Two versions of one blob never share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

/// The name under which a holder knows its lease. Chosen by the holder, so that a repeated request is recognised as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub Uuid);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A blob as it was read.
#[derive(Debug, Clone)]
pub struct Blob {
    /// All of its bytes.
    pub body: Bytes,
    /// The version that the bytes belong to.
    pub etag: ETag,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// The blob does not exist (`If-None-Match: *`).
    Absent,
    /// The blob's version is still this one (`If-Match`).
    Matches(ETag),
    /// Whatever is there is replaced.
    Always,
}

/// A row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The blob's whole name.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

/// Why a store did not do what it was asked. The words of [`StoreError::reason`] stand in conditions, events and metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no blob of this name.
    #[error("{0}: no such blob")]
    NotFound(String),
    /// [`When::Absent`] was asked, and the blob exists.
    #[error("{0}: exists already")]
    Exists(String),
    /// [`When::Matches`] was asked, and the blob has changed.
    #[error("{0}: changed by another writer")]
    Changed(String),
    /// The blob is leased by somebody else.
    #[error("{0}: leased by another holder")]
    Leased(String),
    /// The lease that was named is no longer this holder's: it ran out, or it was broken.
    #[error("{0}: the lease is lost")]
    LeaseLost(String),
    /// The store does not answer. The request may or may not have been carried out.
    #[error("the log store does not answer: {0}")]
    Unreachable(String),
    /// There is no container, or one that is being deleted.
    #[error("the log store has no container: {0}")]
    ContainerMissing(String),
    /// The store refuses this identity.
    #[error("the log store refuses access: {0}")]
    Denied(String),
    /// There is no room left.
    #[error("the log store is full: {0}")]
    Full(String),
    /// The store answered in a way that its contract does not know.
    #[error("the log store failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotFound(_) => Reason::BlobNotFound,
            Self::Exists(_) => Reason::BlobExists,
            Self::Changed(_) => Reason::BlobChanged,
            Self::Leased(_) => Reason::BlobLeased,
            Self::LeaseLost(_) => Reason::LeaseLost,
            Self::Unreachable(_) => Reason::LogStoreUnreachable,
            Self::ContainerMissing(_) => Reason::ContainerMissing,
            Self::Denied(_) => Reason::LogStoreDenied,
            Self::Full(_) => Reason::LogStoreFull,
            Self::Failed(_) => Reason::LogStoreFailed,
        }
    }

    /// True where the request may have been carried out although it failed: the caller has to look.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Failed(_))
    }
}

/// A store of blobs. Names are `/`-separated ASCII without empty, `.` or `..` parts.
///
/// Implementations may repeat a request that went unanswered; every operation here is safe to repeat, and where a repeat meets its own
/// effect (a conditional write that had landed) the caller sees [`StoreError::Exists`] or [`StoreError::Changed`] and compares contents. A
/// repeated deletion says `false`, a repeated release [`StoreError::LeaseLost`].
///
/// A holder counts its lease from the moment before it asked: the store counts from when it heard of it. The operations on leases say
/// [`StoreError::NotFound`] where the blob is gone.
#[async_trait]
pub trait LogStore: Send + Sync {
    /// The whole blob, or `None` where there is none. For documents; segments are read with [`LogStore::get_range`].
    async fn get(&self, name: &str) -> Result<Option<Blob>, StoreError>;

    /// The bytes of `range`, all of them: a range that reaches past the blob's end is [`StoreError::Failed`].
    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Writes a whole blob. A leased blob can only be written by naming its lease; `lease` on a blob without that lease is
    /// [`StoreError::LeaseLost`]. The lease stays. Order of refusal: the lease, then the condition.
    async fn put(&self, name: &str, body: Bytes, when: When, lease: Option<LeaseId>) -> Result<ETag, StoreError>;

    /// Uploads part number `part` (counted from 0, of 1 to [`MAX_PART`] bytes) of a blob that does not appear before
    /// [`LogStore::commit`]. `pieces` are written one after the other, so that a caller need not copy them together.
    async fn stage(&self, name: &str, part: u32, pieces: Vec<Bytes>) -> Result<(), StoreError>;

    /// Makes the blob of its staged parts `0..parts`, if none of that name exists. When it returns, the blob is durable.
    async fn commit(&self, name: &str, parts: u32) -> Result<(), StoreError>;

    /// Deletes the blob; `Ok(false)` where there was none. A leased blob needs its lease.
    async fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<bool, StoreError>;

    /// All committed blobs whose name starts with `prefix`, in the order of their names.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;

    /// Leases an existing blob for [`LEASE`]. Asking again with the same id renews. [`StoreError::Leased`] where another holds it.
    async fn acquire(&self, name: &str, lease: LeaseId) -> Result<(), StoreError>;

    /// Makes the lease last [`LEASE`] from now. As on Azure, a lease that ran out can still be renewed as long as nobody has leased or
    /// changed the blob since; otherwise [`StoreError::LeaseLost`].
    async fn renew(&self, name: &str, lease: LeaseId) -> Result<(), StoreError>;

    /// Gives the lease back, also one that ran out or was broken as long as nobody has leased or changed the blob since; otherwise
    /// [`StoreError::LeaseLost`].
    async fn release(&self, name: &str, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends whatever lease there is, at once: for a take-over, which then waits [`LEASE`] before it writes. The old holder can neither write
    /// nor renew, but it can acquire as anybody can, so a take-over acquires the lease itself before it waits.
    async fn break_lease(&self, name: &str) -> Result<(), StoreError>;
}
