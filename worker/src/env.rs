//! What gateway and applier work with.

use std::{sync::Arc, time::Duration};

use blocklog::{
    clock::Clock,
    cycle::{Figures, Mode},
    entropy::Entropy,
    ids::DiskKey,
    keys::KeyRing,
    store::{LogStore, MAX_PART},
};
use reasons::Reason;

use crate::{cpu::CpuPool, throttle::Throttle};

/// The world as gateway and applier see it. Everything that could differ between two runs comes from here.
#[derive(Clone)]
pub struct Env {
    pub store: Arc<dyn LogStore>,
    pub keys: KeyRing,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// Where blocks are computed.
    pub cpu: Arc<dyn CpuPool>,
    /// The share of the throttle: for uploads, and for the writes of an applier that stands on the same side of the wire.
    pub throttle: Arc<Throttle>,
    pub limits: Limits,
    /// Receives the events.
    pub progress: Arc<dyn Progress>,
}

/// Bounds of memory and concurrency for a gateway and an applier.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a segment at which the next begins; at most 32 MiB. A VM whose disks hold more than a million of them gets larger ones.
    pub segment: u64,
    /// Bytes of a staged part; at most 4 MiB.
    pub part: usize,
    /// Bytes of blocks that one disk may hold in memory, from read to upload. At least four parts.
    pub memory: usize,
    /// Reads in flight on one disk: four of 1 MiB are the 4 MB that a host's NFC service gives each.
    pub reads: usize,
    /// Parts in flight to the log store, a disk.
    pub uploads: usize,
    /// Writes in flight to a replica disk.
    pub writes: usize,
    /// Disks that transfer at a time.
    pub disks: usize,
    /// How long reads may go on without the snapshot being seen to stand.
    pub check_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Small enough that the applier can hold one whole while it fetches the next, within 32 MiB a disk (docs/performance.md).
            segment: 6 << 20,
            part: MAX_PART,
            memory: 16 << 20,
            reads: 4,
            uploads: 2,
            writes: 2,
            disks: 8,
            check_every: Duration::from_secs(30),
        }
    }
}

/// An event of a gateway or an applier, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A disk's transfer begins.
    Reading {
        disk: DiskKey,
        /// How it goes through the cycle.
        mode: Mode,
        /// Bytes to look at.
        changed: u64,
    },
    /// A disk's transfer goes on: what was done since the last such event.
    Read { disk: DiskKey, step: Figures },
    /// The manifest stands.
    Sent,
    /// A disk's records begin to be applied.
    Applying {
        disk: DiskKey,
        /// Bytes that they cover.
        bytes: u64,
    },
    /// Records were applied: bytes since the last such event.
    Applied { disk: DiskKey, bytes: u64 },
    /// The work waits for something that should answer.
    Waiting { reason: Reason, message: String },
    /// The log store, which was waited for, answers again.
    Answered,
}

/// Receives events. It must not block.
pub trait Progress: Send + Sync {
    fn note(&self, event: Event);
}

/// Drops all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn note(&self, _: Event) {}
}
