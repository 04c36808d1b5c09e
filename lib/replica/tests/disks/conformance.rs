//! What holds for every kind of disk.

use blocklog::clock::Clock;
use bytes::Bytes;
use futures::future::join_all;
use jiff::SignedDuration;
use reasons::Reason;
use replica::{Fence, FenceKind, MAX_WRITE, Permit, ReplicaDisk, ReplicaError, memory::HostKind};

use crate::support::{CAPACITY, ID, Place, Writer};

const FIRST: Fence = Fence { turn: 1, previous_end: None };

impl Writer {
    fn permit(&self, turn: u64) -> Permit {
        Permit { turn, until: self.clock.now() + SignedDuration::from_secs(60) }
    }
}

/// Bytes that tell where they belong.
fn pattern(seed: u8, length: usize) -> Bytes {
    (0..length).map(|at| seed ^ (at / 512) as u8 ^ (at % 251) as u8 | 1).collect()
}

async fn content(disk: &dyn ReplicaDisk) -> Vec<u8> {
    let mut all = Vec::new();
    while (all.len() as u64) < CAPACITY {
        let length = (CAPACITY - all.len() as u64).min(MAX_WRITE as u64);
        all.extend_from_slice(&disk.read(all.len() as u64, length as u32).await.unwrap());
    }
    all
}

async fn what_is_written_is_read(place: Place) {
    let mut expected = vec![0; CAPACITY as usize];
    let writer = place.open().await;
    let disk = writer.disk.as_ref();
    assert_eq!(disk.capacity(), CAPACITY);
    assert!(content(disk).await == expected, "a new seed is zero");
    disk.raise_fence(FIRST).await.unwrap();
    let permit = writer.permit(1);
    // A largest write, a sector, the last sector, and one over an edge of two others.
    for (seed, offset, length) in
        [(0x10, 0, MAX_WRITE), (0x20, MAX_WRITE, 512), (0x30, CAPACITY as usize - 512, 512), (0x40, MAX_WRITE - 512, 64 << 10)]
    {
        let data = pattern(seed, length);
        expected[offset..offset + length].copy_from_slice(&data);
        disk.write(permit, offset as u64, data).await.unwrap();
    }
    for (offset, length) in [(1024, 512), (1 << 20, (1 << 20) + 512), (CAPACITY as usize - 512, 512)] {
        expected[offset..offset + length].fill(0);
        disk.clear(permit, offset as u64, length as u64).await.unwrap();
    }
    disk.flush().await.unwrap();
    assert!(content(disk).await == expected);
    assert_eq!(disk.read(1536, 512).await.unwrap(), expected[1536..2048]);
    drop(writer);

    let writer = place.open().await;
    assert!(content(writer.disk.as_ref()).await == expected, "it is still there when opened again");
    writer.disk.raise_fence(FIRST).await.unwrap();
    writer.disk.clear(writer.permit(1), 0, CAPACITY).await.unwrap();
    assert!(content(writer.disk.as_ref()).await.iter().all(|byte| *byte == 0), "cleared as a whole");
    assert_eq!(writer.disk.unique_id().await.unwrap(), ID.to_string(), "and it is a seed still");
}

/// The writes of one turn do not stand in each other's way.
async fn writes_go_side_by_side(place: Place) {
    let writer = place.open().await;
    writer.disk.raise_fence(FIRST).await.unwrap();
    let permit = writer.permit(1);
    let step = 128 << 10;
    let writes = (0..16).map(|n| writer.disk.write(permit, n * step, pattern(n as u8, step as usize)));
    assert_eq!(join_all(writes).await, vec![Ok(()); 16]);
    for n in 0..16 {
        assert_eq!(writer.disk.read(n * step, step as u32).await.unwrap(), pattern(n as u8, step as usize));
    }
}

async fn what_no_disk_can_do_is_refused(place: Place) {
    let writer = place.open().await;
    let disk = writer.disk.as_ref();
    disk.raise_fence(FIRST).await.unwrap();
    let permit = writer.permit(1);
    let beyond = |needed| Err(ReplicaError::TooSmall { capacity: CAPACITY, needed });
    for (offset, length) in [(1, 512), (0, 511), (0, 0), (256, 256), (0, MAX_WRITE as u64 + 512)] {
        let written = disk.write(permit, offset, vec![1; length as usize].into()).await.unwrap_err();
        assert_eq!(written.reason(), Reason::ReplicaRequestInvalid, "{offset} {length}");
        assert!(!written.in_doubt());
        let read = disk.read(offset, length as u32).await.unwrap_err();
        assert_eq!(read.reason(), Reason::ReplicaRequestInvalid, "{offset} {length}");
        if length <= MAX_WRITE as u64 {
            assert_eq!(disk.clear(permit, offset, length).await.unwrap_err().reason(), Reason::ReplicaRequestInvalid);
        }
    }
    // The footer lies right behind the end, and is not to be had.
    assert_eq!(disk.write(permit, CAPACITY, vec![1; 512].into()).await, beyond(CAPACITY + 512));
    assert_eq!(disk.write(permit, CAPACITY - 512, vec![1; 1024].into()).await, beyond(CAPACITY + 512));
    assert_eq!(disk.clear(permit, 0, CAPACITY + 512).await, beyond(CAPACITY + 512));
    assert_eq!(disk.clear(permit, 512, u64::MAX - 511).await, beyond(u64::MAX));
    assert_eq!(disk.read(CAPACITY, 512).await.map(|_| ()), beyond(CAPACITY + 512));
    assert!(content(disk).await.iter().all(|byte| *byte == 0));
    assert_eq!(disk.unique_id().await.unwrap(), ID.to_string());
}

async fn a_turn_writes_behind_its_fence(place: Place) {
    let writer = place.open().await;
    let disk = writer.disk.as_ref();
    let data = || pattern(1, 512);
    assert_eq!(disk.write(writer.permit(2), 0, data()).await.unwrap_err().reason(), Reason::ReplicaRequestInvalid, "no fence yet");
    disk.raise_fence(Fence { turn: 2, previous_end: None }).await.unwrap();
    disk.raise_fence(Fence { turn: 2, previous_end: None }).await.unwrap();
    disk.write(writer.permit(2), 0, data()).await.unwrap();
    assert_eq!(disk.write(writer.permit(1), 0, data()).await, Err(ReplicaError::Fenced { turn: 1 }));
    assert_eq!(disk.clear(writer.permit(1), 0, 512).await, Err(ReplicaError::Fenced { turn: 1 }));
    assert_eq!(disk.write(writer.permit(3), 0, data()).await.unwrap_err().reason(), Reason::ReplicaRequestInvalid);
    assert_eq!(disk.raise_fence(FIRST).await, Err(ReplicaError::Fenced { turn: 1 }));
    assert_eq!(disk.read(0, 512).await.unwrap(), data());
    let ends = Permit { turn: 2, until: writer.permit(2).until - SignedDuration::from_secs(51) };
    let (write, clear) = (disk.write(ends, 0, pattern(2, 512)).await, disk.clear(ends, 0, 512).await);
    if disk.fence_kind() == FenceKind::Time {
        assert_eq!(
            (write, clear),
            (Err(ReplicaError::PermitEnds { until: ends.until }), Err(ReplicaError::PermitEnds { until: ends.until }))
        );
        assert_eq!(disk.read(0, 512).await.unwrap(), data());
    } else {
        assert_eq!((write, clear), (Ok(()), Ok(())));
    }
}

/// A worker that stood still, and writes after its successor's fence.
async fn a_writer_of_an_older_turn_is_shut_out(place: Place) {
    let old = place.open().await;
    old.disk.raise_fence(FIRST).await.unwrap();
    // The storage's clock is the real one for Azurite: a permit of five seconds keeps the test short, and a clock that has stopped a
    // minute ago lets the writer use it.
    let until = old.clock.now() + SignedDuration::from_secs(5);
    let permit = Permit { turn: 1, until };
    old.clock.set(-60);
    old.disk.write(permit, 0, pattern(1, 1024)).await.unwrap();
    assert_eq!(old.disk.unique_id().await.unwrap(), ID.to_string());

    let old = if place.shared() {
        Some(old)
    } else {
        drop(old);
        None
    };
    let new = place.open().await;
    new.disk.raise_fence(Fence { turn: 2, previous_end: Some(until) }).await.unwrap();
    assert_eq!(new.disk.unique_id().await.unwrap(), ID.to_string());
    let stale = &old.as_ref().unwrap_or(&new).disk;
    let fenced = Err(ReplicaError::Fenced { turn: 1 });
    assert_eq!(stale.write(permit, 512, pattern(9, 512)).await, fenced);
    assert_eq!(stale.clear(permit, 0, 512).await, fenced);
    if new.disk.fence_kind() == FenceKind::Exact {
        assert_eq!(stale.raise_fence(FIRST).await, fenced);
    } else {
        // Such a disk keeps no turn. The stale writer notices by its clock, and if it does not, what it may rewrite is the footer.
        assert_eq!(stale.raise_fence(FIRST).await.unwrap_err().reason(), Reason::ReplicaFailed);
        if let Some(old) = &old {
            old.clock.set(0);
            assert_eq!(stale.raise_fence(FIRST).await, Ok(()));
            old.clock.set(-60);
        }
    }
    assert_eq!(stale.write(permit, 512, pattern(9, 512)).await, fenced);
    new.disk.write(new.permit(2), 512, pattern(2, 512)).await.unwrap();
    assert_eq!(stale.write(permit, 512, pattern(9, 512)).await, fenced);
    let expected = [&pattern(1, 1024)[..512], &pattern(2, 512)[..]].concat();
    assert_eq!(new.disk.read(0, 1024).await.unwrap(), expected);
}

macro_rules! suite {
    ($name:ident, $place:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn what_is_written_is_read() {
                super::what_is_written_is_read($place).await;
            }

            #[tokio::test]
            async fn writes_go_side_by_side() {
                super::writes_go_side_by_side($place).await;
            }

            #[tokio::test]
            async fn what_no_disk_can_do_is_refused() {
                super::what_no_disk_can_do_is_refused($place).await;
            }

            #[tokio::test]
            async fn a_turn_writes_behind_its_fence() {
                super::a_turn_writes_behind_its_fence($place).await;
            }

            #[tokio::test]
            async fn a_writer_of_an_older_turn_is_shut_out() {
                super::a_writer_of_an_older_turn_is_shut_out($place).await;
            }
        }
    };
}

suite!(raw_file, Place::file().await);
suite!(memory_exact, Place::memory(HostKind::Exact));
suite!(memory_time, Place::memory(HostKind::Time { honours_header: true }));
suite!(page_blob, Place::page_blob().await);
suite!(disk_sas, Place::disk_sas().await);
