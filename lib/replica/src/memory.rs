//! A seed in memory, for the schedules: it keeps the same rules as a page blob or as a managed disk, and its two sides can be taken apart.
//! The client's side ([`MemoryDisk`]) makes a [`HostWrite`] of each write under its permit; the host's side ([`MemoryHost`]) looks at the
//! condition when the write arrives. What lies between them can lose a write, delay it beyond its sender's death, or deliver it twice.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use blocklog::clock::Clock;
use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    Condition, Fence, FenceKind, NO_SEED, Permit, ReplicaDisk, ReplicaError,
    gate::{Gate, check_range, check_transfer, raise_by_time, whole_seconds},
};

/// What the host does with conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// It has a sequence number: a page blob.
    Exact,
    /// It has only the time of its last change: a managed disk.
    Time {
        /// Whether it looks at `If-Unmodified-Since`. Azure does not say whether hosts of managed disks do.
        honours_header: bool,
    },
}

/// What a write brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// These bytes.
    Data(Bytes),
    /// So many zeros.
    Zeros(u64),
}

/// A write on its way to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostWrite {
    /// Which disk it was sent to: a managed disk that replaces another has another address.
    pub instance: u64,
    /// What the host has to find.
    pub condition: Condition,
    /// Where it goes, in bytes.
    pub offset: u64,
    /// What goes there.
    pub body: Body,
}

/// Why the host did not carry a write out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The condition is not met (412).
    #[error("the condition is not met")]
    ConditionNotMet,
    /// The disk that it was sent to is gone (404).
    #[error("the disk is gone")]
    Gone,
    /// It reaches past the end (416).
    #[error("the range is not on the disk")]
    OutOfRange,
}

/// The host's side: one disk, whoever writes it.
pub struct MemoryHost {
    kind: HostKind,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    data: Vec<u8>,
    unique_id: Option<Uuid>,
    instance: u64,
    sequence: u64,
    /// In whole seconds, as HTTP has it.
    last_modified: Timestamp,
}

impl fmt::Debug for MemoryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("MemoryHost")
            .field("kind", &self.kind)
            .field("capacity", &state.data.len())
            .field("unique_id", &state.unique_id)
            .field("instance", &state.instance)
            .field("sequence", &state.sequence)
            .field("last_modified", &state.last_modified)
            .finish_non_exhaustive()
    }
}

impl MemoryHost {
    /// A disk of `capacity` zeros (whole sectors), formatted as the seed `unique_id`. `clock` is the host's own.
    #[must_use]
    pub fn new(capacity: usize, unique_id: Option<Uuid>, kind: HostKind, clock: Arc<dyn Clock>) -> Arc<Self> {
        let last_modified = whole_seconds(clock.now());
        let state = State { data: vec![0; capacity], unique_id, instance: 0, sequence: 0, last_modified };
        Arc::new(Self { kind, clock, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the disk keeps late writes out.
    #[must_use]
    pub fn fence_kind(&self) -> FenceKind {
        match self.kind {
            HostKind::Exact => FenceKind::Exact,
            HostKind::Time { .. } => FenceKind::Time,
        }
    }

    /// Which disk it is: another number once it was replaced.
    #[must_use]
    pub fn instance(&self) -> u64 {
        self.state().instance
    }

    /// A write arrives: now, or again.
    pub fn deliver(&self, write: &HostWrite) -> Result<(), Refused> {
        let mut state = self.state();
        if self.fence_kind() == FenceKind::Time && write.instance != state.instance {
            return Err(Refused::Gone);
        }
        let met = match write.condition {
            Condition::None => true,
            Condition::SequenceIs(turn) => state.sequence == turn,
            Condition::UnmodifiedSince(time) => {
                self.kind == HostKind::Time { honours_header: false } || state.last_modified <= whole_seconds(time)
            }
        };
        if !met {
            return Err(Refused::ConditionNotMet);
        }
        let length = match &write.body {
            Body::Data(data) => data.len() as u64,
            Body::Zeros(length) => *length,
        };
        let place = write.offset.checked_add(length).and_then(|end| {
            let (start, end) = (usize::try_from(write.offset).ok()?, usize::try_from(end).ok()?);
            state.data.get_mut(start..end)
        });
        match (place, &write.body) {
            (None, _) => return Err(Refused::OutOfRange),
            (Some(place), Body::Data(data)) => place.copy_from_slice(data),
            (Some(place), Body::Zeros(_)) => place.fill(0),
        }
        state.last_modified = whole_seconds(self.clock.now());
        Ok(())
    }

    /// Sets the sequence number to `turn` unless it is higher, and returns what it is now.
    pub fn raise_sequence(&self, turn: u64) -> u64 {
        let mut state = self.state();
        state.sequence = state.sequence.max(turn);
        state.last_modified = whole_seconds(self.clock.now());
        state.sequence
    }

    /// The footer is rewritten: returns the time of the change. `None` where the disk has no footer.
    pub fn rewrite_footer(&self) -> Option<Timestamp> {
        let mut state = self.state();
        state.unique_id?;
        state.last_modified = whole_seconds(self.clock.now());
        Some(state.last_modified)
    }

    /// All content as it is.
    #[must_use]
    pub fn peek(&self) -> Vec<u8> {
        self.state().data.clone()
    }

    /// The disk is deleted, and one of the same size takes its place: zeros, formatted as the seed `unique_id` or not at all. Clients find
    /// the new one; what was sent to a managed disk before arrives nowhere, what was sent to a page blob arrives at the blob of that name.
    ///
    /// A page blob is born with the sequence number `turn`.
    pub fn replace_with_empty(&self, unique_id: Option<Uuid>, turn: u64) {
        let mut state = self.state();
        state.data.fill(0);
        state.unique_id = unique_id;
        state.instance += 1;
        state.sequence = turn;
        state.last_modified = whole_seconds(self.clock.now());
    }
}

/// The client's side: one writer's handle.
pub struct MemoryDisk {
    host: Arc<MemoryHost>,
    clock: Arc<dyn Clock>,
    gate: Gate,
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk").field("host", &self.host).field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl MemoryDisk {
    /// A handle on the disk. `clock` is the writer's own, which may differ from the host's.
    #[must_use]
    pub fn new(host: Arc<MemoryHost>, clock: Arc<dyn Clock>) -> Self {
        Self { host, clock, gate: Gate::default() }
    }

    /// The disk's other side.
    #[must_use]
    pub fn host(&self) -> &Arc<MemoryHost> {
        &self.host
    }

    /// Everything that [`ReplicaDisk::write`] does before the write is sent.
    pub fn prepare_write(&self, permit: Permit, offset: u64, data: Bytes) -> Result<HostWrite, ReplicaError> {
        check_transfer(self.capacity(), offset, data.len() as u64)?;
        self.prepare(permit, offset, Body::Data(data))
    }

    /// Everything that [`ReplicaDisk::clear`] does before it is sent.
    pub fn prepare_clear(&self, permit: Permit, offset: u64, length: u64) -> Result<HostWrite, ReplicaError> {
        check_range(self.capacity(), offset, length)?;
        self.prepare(permit, offset, Body::Zeros(length))
    }

    fn prepare(&self, permit: Permit, offset: u64, body: Body) -> Result<HostWrite, ReplicaError> {
        self.gate.check(permit)?;
        let condition = self.fence_kind().condition(permit, self.clock.now())?;
        Ok(HostWrite { instance: self.host.state().instance, condition, offset, body })
    }

    /// What the host's answer means to a writer of `turn`.
    #[must_use]
    pub fn answer(turn: u64, refused: Refused) -> ReplicaError {
        match refused {
            Refused::ConditionNotMet => ReplicaError::Fenced { turn },
            Refused::Gone => ReplicaError::WrongSeed { expected: "the disk".to_owned(), found: NO_SEED.to_owned() },
            Refused::OutOfRange => ReplicaError::Failed(refused.to_string()),
        }
    }

    fn send(&self, turn: u64, write: &HostWrite) -> Result<(), ReplicaError> {
        self.host.deliver(write).map_err(|refused| Self::answer(turn, refused))
    }
}

#[async_trait]
impl ReplicaDisk for MemoryDisk {
    fn capacity(&self) -> u64 {
        self.host.state().data.len() as u64
    }

    fn fence_kind(&self) -> FenceKind {
        self.host.fence_kind()
    }

    async fn unique_id(&self) -> Result<String, ReplicaError> {
        Ok(self.host.state().unique_id.map_or_else(|| NO_SEED.to_owned(), |id| id.to_string()))
    }

    async fn raise_fence(&self, fence: Fence) -> Result<(), ReplicaError> {
        self.gate.may_raise(fence.turn)?;
        match self.fence_kind() {
            FenceKind::Exact if self.host.raise_sequence(fence.turn) > fence.turn => return Err(ReplicaError::Fenced { turn: fence.turn }),
            FenceKind::Exact => {}
            FenceKind::Time => {
                let rewrite = || async { self.host.rewrite_footer().ok_or_else(|| Self::answer(fence.turn, Refused::Gone)) };
                raise_by_time(self.clock.as_ref(), fence, rewrite).await?;
            }
        }
        self.gate.raised(fence.turn);
        Ok(())
    }

    async fn write(&self, permit: Permit, offset: u64, data: Bytes) -> Result<(), ReplicaError> {
        let write = self.prepare_write(permit, offset, data)?;
        self.send(permit.turn, &write)
    }

    async fn clear(&self, permit: Permit, offset: u64, length: u64) -> Result<(), ReplicaError> {
        let write = self.prepare_clear(permit, offset, length)?;
        self.send(permit.turn, &write)
    }

    async fn flush(&self) -> Result<(), ReplicaError> {
        Ok(())
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, ReplicaError> {
        check_transfer(self.capacity(), offset, u64::from(length))?;
        let state = self.host.state();
        // Inside of the disk, checked above.
        let start = offset as usize;
        Ok(Bytes::copy_from_slice(&state.data[start..start + length as usize]))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use blocklog::test_support::ManualClock;
    use jiff::SignedDuration;

    use super::*;

    fn disk(kind: HostKind) -> (MemoryDisk, ManualClock) {
        let clock = ManualClock::new();
        clock.auto_advance(true);
        let host = MemoryHost::new(4096, Some(Uuid::from_u128(7)), kind, Arc::new(clock.clone()));
        (MemoryDisk::new(host, Arc::new(clock.clone())), clock)
    }

    fn permit(turn: u64, clock: &ManualClock) -> Permit {
        Permit { turn, until: clock.now() + SignedDuration::from_secs(60) }
    }

    /// The write was sent in time, and arrives after the successor's fence stands.
    async fn late_write(kind: HostKind) -> (Result<(), Refused>, Vec<u8>) {
        let (old, clock) = disk(kind);
        let new = MemoryDisk::new(Arc::clone(old.host()), Arc::new(clock.clone()));
        old.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
        let first = permit(1, &clock);
        let late = old.prepare_write(first, 0, vec![1; 512].into()).unwrap();
        new.raise_fence(Fence { turn: 2, previous_end: Some(first.until) }).await.unwrap();
        assert!(kind == HostKind::Exact || clock.now() > first.until);
        new.write(permit(2, &clock), 0, vec![2; 512].into()).await.unwrap();
        (old.host().deliver(&late), old.host().peek())
    }

    #[tokio::test]
    async fn late_writes_are_refused() {
        for kind in [HostKind::Exact, HostKind::Time { honours_header: true }] {
            let (delivered, content) = late_write(kind).await;
            assert_eq!(delivered, Err(Refused::ConditionNotMet));
            assert_eq!(content[0], 2);
        }
    }

    /// What the ledger's `lost` is for.
    #[tokio::test]
    async fn a_host_that_ignores_the_header_takes_them() {
        let (delivered, content) = late_write(HostKind::Time { honours_header: false }).await;
        assert_eq!(delivered, Ok(()));
        assert_eq!(content[0], 1);
    }

    /// As HTTP has it: modified in that second is not modified since.
    #[tokio::test]
    async fn the_second_itself_is_not_since() {
        let (disk, clock) = disk(HostKind::Time { honours_header: true });
        let now = clock.now();
        let write = |time| HostWrite { instance: 0, condition: Condition::UnmodifiedSince(time), offset: 0, body: Body::Zeros(512) };
        assert_eq!(disk.host().deliver(&write(now)), Ok(()));
        assert_eq!(disk.host().deliver(&write(now - SignedDuration::from_nanos(1))), Err(Refused::ConditionNotMet));
    }

    #[tokio::test]
    async fn a_doubled_write_of_the_same_turn_is_taken_twice() {
        for kind in [HostKind::Exact, HostKind::Time { honours_header: true }] {
            let (disk, clock) = disk(kind);
            disk.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
            let write = disk.prepare_clear(permit(1, &clock), 512, 512).unwrap();
            assert_eq!(disk.host().deliver(&write), Ok(()));
            clock.advance(Duration::from_secs(20));
            assert_eq!(disk.host().deliver(&write), Ok(()));
        }
    }

    #[tokio::test]
    async fn what_was_sent_to_a_replaced_disk_changes_nothing() {
        for (kind, refused) in [(HostKind::Exact, Refused::ConditionNotMet), (HostKind::Time { honours_header: false }, Refused::Gone)] {
            let (disk, clock) = disk(kind);
            disk.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
            disk.write(permit(1, &clock), 0, vec![1; 512].into()).await.unwrap();
            let late = disk.prepare_write(permit(1, &clock), 0, vec![1; 512].into()).unwrap();
            disk.host().replace_with_empty(None, 0);
            assert_eq!(disk.unique_id().await.unwrap(), NO_SEED);
            assert_eq!(disk.host().deliver(&late), Err(refused));
            assert_eq!(disk.host().peek(), vec![0; 4096]);
        }
    }
}
