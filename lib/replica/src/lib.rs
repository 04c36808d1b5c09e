//! Writing a seed disk, behind its fence.
//!
//! A worker that was thought dead may wake up and send a write that belongs to an older cycle. Each turn of the ledger is therefore
//! fenced: [`ReplicaDisk::raise_fence`] is called once a turn, before its first write, and from then on no write of an older turn may
//! change the disk. Page blob: the blob's sequence number is the turn, and every Put Page names it. Managed disk: no lease and no sequence
//! number can be had, so each write carries the end of the ledger's lease (`If-Unmodified-Since`), and the next turn rewrites the footer
//! after that end. Local file: an exclusive lock.

pub mod access;
pub mod coalesce;
pub mod disk_sas;
mod gate;
pub mod memory;
pub mod page_blob;
mod pages;
pub mod raw_file;
pub mod vhd;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use reasons::Reason;

pub use gate::Condition;

/// The most that one write may hold: Azure's limit of Put Page.
pub const MAX_WRITE: usize = 4 << 20;

/// How long the server may take over one write (`timeout=`), and the least that must be left of the lease when it is sent.
pub const WRITE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// How much one request clears at most. A longer [`ReplicaDisk::clear`] is several requests under one permit; whoever clears more than this
/// on a time-fenced disk asks in steps of it, with a fresh permit for each.
pub const CLEAR_STEP: u64 = 1 << 30;

/// What [`ReplicaDisk::unique_id`] says where the disk carries no id.
pub const NO_SEED: &str = "none";

/// What a turn knows about those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// The ledger's turn.
    pub turn: u64,
    /// The end of the fence under which an older turn's writes may still be on their way (the ledger's `writeEnds`), where there may be any.
    pub previous_end: Option<Timestamp>,
}

/// The leave under which one write is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// The ledger's turn.
    pub turn: u64,
    /// When the write may no longer take effect: the end that the ledger has recorded for the disk. Only time-fenced disks use it.
    pub until: Timestamp,
}

/// How a kind of disk keeps late writes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceKind {
    /// The disk itself refuses writes of an older turn: once a newer turn has raised its fence, a write with an unknown outcome can never
    /// land. Until then it can, so within a turn every byte is written with one value only.
    Exact,
    /// Only time keeps them out, and only where the host honours it: a vanished writer leaves its cycle in the ledger's `lost`.
    Time,
}

/// Why a replica did not take a write. The words of [`ReplicaError::reason`] stand in conditions, events and metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// A newer turn has fenced this one out: this writer was succeeded, and stops.
    #[error("the replica is fenced: a newer turn than {turn} writes it")]
    Fenced {
        /// The turn of the refused write.
        turn: u64,
    },
    /// The disk found is not the seed that the ledger names, or there is none.
    #[error("the replica is not the seed of the ledger: expected {expected}, found {found}")]
    WrongSeed {
        /// The unique id that the ledger names.
        expected: String,
        /// The one found, or `none`.
        found: String,
    },
    /// The disk is smaller than the source.
    #[error("the replica holds {capacity} bytes, {needed} are needed")]
    TooSmall {
        /// Bytes that the replica holds.
        capacity: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// No room is left for it.
    #[error("no space left for the replica: {0}")]
    Full(String),
    /// The host does not answer or is overloaded. The write may have taken effect, or may do so later. Trying again may help.
    #[error("the replica does not answer: {0}")]
    Unreachable(String),
    /// The permit's time is too short for another attempt: the lease has to be renewed first.
    #[error("the permit ends at {until}, too soon for a write")]
    PermitEnds {
        /// The permit's end.
        until: Timestamp,
    },
    /// The host refuses this access: expired or revoked SAS, permissions.
    #[error("the replica refuses access: {0}")]
    Denied(String),
    /// Another process holds the local file.
    #[error("the replica is in use by another process: {0}")]
    InUse(String),
    /// The host answered in a way that its contract does not know. Nobody can say what became of the write.
    #[error("the replica failed: {0}")]
    Failed(String),
    /// The request itself breaks the rules of [`ReplicaDisk`] (alignment, length, no fence raised). Nothing was sent: a programming error.
    #[error("the replica was asked for what no disk can do: {0}")]
    Invalid(String),
}

impl ReplicaError {
    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Fenced { .. } => Reason::ReplicaFenced,
            Self::WrongSeed { .. } => Reason::SeedReplaced,
            Self::TooSmall { .. } => Reason::ReplicaTooSmall,
            Self::Full(_) => Reason::ReplicaFull,
            Self::Unreachable(_) => Reason::ReplicaUnreachable,
            Self::PermitEnds { .. } => Reason::PermitEnds,
            Self::Denied(_) => Reason::ReplicaDenied,
            Self::InUse(_) => Reason::ReplicaInUse,
            Self::Failed(_) => Reason::ReplicaFailed,
            Self::Invalid(_) => Reason::ReplicaRequestInvalid,
        }
    }

    /// True where the write may have taken effect, or may do so later, although it failed.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Failed(_))
    }

    /// True where the same write may succeed when tried again.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

/// A seed disk. Offsets and lengths are multiples of 512 bytes. No method repeats a request by itself: the applier decides on each attempt.
#[async_trait]
pub trait ReplicaDisk: Send + Sync {
    /// How many bytes of content it holds (without a VHD footer).
    fn capacity(&self) -> u64;

    /// How it keeps late writes out.
    fn fence_kind(&self) -> FenceKind;

    /// The unique id that the disk itself carries, read from the disk at each call: the hyphenated lower-case uuid that it was formatted with
    /// as a seed, or [`NO_SEED`]. Asked after [`ReplicaDisk::raise_fence`] and before the first write, so that no replacement goes unseen.
    async fn unique_id(&self) -> Result<String, ReplicaError>;

    /// Shuts out all older turns. Called through each handle once a turn, before its first write, and safe to repeat; writes before it are
    /// [`ReplicaError::Invalid`]. [`ReplicaError::Fenced`] where a newer turn has been here (a time-fenced disk keeps no turn, so there only
    /// the same handle knows). A time-fenced disk returns only when `previous_end` has passed and its footer was rewritten after it: the
    /// caller keeps its lease alive meanwhile.
    async fn raise_fence(&self, fence: Fence) -> Result<(), ReplicaError>;

    /// Writes 512 to [`MAX_WRITE`] bytes at `offset`, in one request. When it returns, the write is acknowledged; [`ReplicaDisk::flush`] makes
    /// it durable. A write past the end is [`ReplicaError::TooSmall`].
    async fn write(&self, permit: Permit, offset: u64, data: Bytes) -> Result<(), ReplicaError>;

    /// Makes `length` bytes at `offset` read as zero. `length` may be as large as the disk (see [`CLEAR_STEP`]); where it fails, some of the
    /// range may be cleared.
    async fn clear(&self, permit: Permit, offset: u64, length: u64) -> Result<(), ReplicaError>;

    /// Returns when all acknowledged writes are durable.
    async fn flush(&self) -> Result<(), ReplicaError>;

    /// Reads `length` bytes (at most [`MAX_WRITE`]) at `offset`: for verification.
    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, ReplicaError>;
}
