//! What a run did, for people and as JSON.

use std::time::Duration;

use blocklog::cycle::Mode;
use jiff::Timestamp;
use serde::Serialize;

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The cycle that made the replica clean.
    pub cycle: u64,
    /// The start of replication that it belongs to.
    pub incarnation: String,
    /// When the images were as the replica is now.
    pub recovery_point: Timestamp,
    /// Cycles of interrupted runs that were finished before it.
    pub finished: Vec<u64>,
    pub disks: Vec<DiskOutcome>,
    pub seconds: f64,
}

/// What a run did for one disk. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskOutcome {
    pub disk: u32,
    /// How it went through the cycle.
    pub mode: Mode,
    /// What had to be looked at.
    pub changed: u64,
    /// What was read.
    pub read: u64,
    /// What went into the log.
    pub uploaded: u64,
    /// What was found in place.
    pub in_place: u64,
    /// What was written to the replica.
    pub applied: AppliedBytes,
    /// From the first read to the last write, in this run.
    pub seconds: f64,
    /// True where the acknowledged writes were those of the manifest.
    pub verified: bool,
}

/// What was written to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AppliedBytes {
    /// Bytes of data.
    pub written: u64,
    /// Bytes made zero.
    pub cleared: u64,
}

/// Seconds, to the millisecond.
pub(super) fn rounded(length: Duration) -> f64 {
    length.as_millis() as f64 / 1000.0
}
