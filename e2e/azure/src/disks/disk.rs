//! One disk or snapshot: its bytes, its grants, and the one lock that orders what happens to them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use rustix::fs::FallocateFlags;
use uuid::Uuid;

use super::conditions::Condition;
use super::footer::{self, FOOTER};
use super::ranges::Ranges;
use super::refusal::Refusal;
use super::store::Access;
use super::switches::Counts;
use crate::Clock;

/// A disk or snapshot.
pub(super) struct Disk {
    /// The ARM id, lower-cased.
    pub(super) id: String,
    /// The first part of its URL's path.
    pub(super) container: String,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Bytes without the footer; it grows under the lock.
    content: AtomicU64,
    /// Made to be uploaded: the footer is what was written there. Other disks are exported with a footer of the host's making.
    pub(super) upload: bool,
    /// For the footer of the host's making.
    pub(super) unique: [u8; 16],
    pub(super) created: Timestamp,
    pub(super) inside: RwLock<Inside>,
    counts: Mutex<Counts>,
}

/// What changes.
pub(super) struct Inside {
    pub(super) written: Ranges,
    modified: Timestamp,
    version: u64,
    sequence: u64,
    pub(super) grants: HashMap<Uuid, Grant>,
}

/// A SAS that holds until it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    pub(super) access: Access,
    pub(super) until: Timestamp,
}

/// What the headers of every answer say of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) size: u64,
    pub(super) modified: Timestamp,
    pub(super) etag: String,
    pub(super) sequence: u64,
    pub(super) created: Timestamp,
}

/// What a write does.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(u64, bytes::Bytes),
    Clear(u64, u64),
    /// Set Blob Properties with `x-ms-sequence-number-action`.
    Sequence(SequenceAction),
}

/// The ways to set a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SequenceAction {
    Max(u64),
    Update(u64),
    Increment,
}

/// A SAS that was found good, and has to be good still when a write takes effect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) si: Uuid,
    pub(super) access: Access,
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Inside {
    pub(super) fn touch(&mut self, now: Timestamp) {
        self.modified = now;
        self.version += 1;
    }

    /// The grant, if it is good at `now`.
    fn check(&self, ticket: Ticket, now: Timestamp) -> Result<Access, Refusal> {
        let grant = self.grants.get(&ticket.si).ok_or_else(Refusal::unknown_identifier)?;
        if grant.until <= now {
            return Err(Refusal::expired(grant.until, now));
        }
        Ok(grant.access)
    }
}

impl Disk {
    #[allow(clippy::too_many_arguments, reason = "one caller, which has just made all of it")]
    pub(super) fn new(
        id: String,
        container: String,
        (path, file): (PathBuf, File),
        content: u64,
        upload: bool,
        unique: [u8; 16],
        written: Ranges,
        now: Timestamp,
    ) -> Self {
        let inside = Inside { written, modified: now, version: 1, sequence: 0, grants: HashMap::new() };
        let (inside, counts) = (RwLock::new(inside), Mutex::default());
        Self { id, container, path, file, content: AtomicU64::new(content), upload, unique, created: now, inside, counts }
    }

    /// Bytes of the blob that clients see.
    pub(super) fn size(&self) -> u64 {
        self.content() + FOOTER
    }

    /// Bytes without the footer.
    pub(super) fn content(&self) -> u64 {
        self.content.load(Ordering::Acquire)
    }

    /// Whoever calls it holds the lock, and has made the file longer.
    pub(super) fn grow(&self, content: u64) {
        self.content.store(content, Ordering::Release);
    }

    /// The footer of a disk that was not uploaded.
    fn made_footer(&self) -> [u8; FOOTER as usize] {
        // Seconds since 2000.
        let seconds = u32::try_from(self.created.as_second().saturating_sub(946_684_800)).unwrap_or(0);
        footer::make(self.content(), self.unique, seconds)
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self, inside: &Inside) -> Properties {
        Properties {
            size: self.size(),
            modified: inside.modified,
            etag: format!("\"0x8D{:013X}\"", inside.version),
            sequence: inside.sequence,
            created: self.created,
        }
    }

    pub(super) fn properties(&self) -> Properties {
        self.seen(&read(&self.inside))
    }

    pub(super) fn written_bytes(&self) -> u64 {
        read(&self.inside).written.bytes()
    }

    pub(super) fn grants(&self) -> Vec<(Uuid, Grant)> {
        let mut grants: Vec<_> = read(&self.inside).grants.iter().map(|(si, grant)| (*si, *grant)).collect();
        grants.sort_by_key(|(si, _)| *si);
        grants
    }

    /// What the SAS named `si` lets do at `now`.
    pub(super) fn ticket(&self, si: Uuid, now: Timestamp) -> Result<Ticket, Refusal> {
        let ticket = Ticket { si, access: Access::Read };
        let access = read(&self.inside).check(ticket, now)?;
        Ok(Ticket { si, access })
    }

    /// Reads; beyond the end it is short. Whoever calls it holds the lock.
    pub(super) fn bytes(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(length).min(self.size());
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(offset)).map_err(io::Error::other)?];
        let held = if self.upload { self.size() } else { self.content() };
        let from_file = usize::try_from(held.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        self.file.read_exact_at(&mut bytes[..from_file], offset)?;
        if from_file < bytes.len() {
            // Only a footer of the host's making lies beyond the file.
            let skip = usize::try_from((offset + from_file as u64).saturating_sub(held)).map_err(io::Error::other)?;
            let rest = bytes.len() - from_file;
            bytes[from_file..].copy_from_slice(&self.made_footer()[skip..skip + rest]);
        }
        Ok(bytes)
    }

    /// Reads what is there when the conditions are met.
    pub(super) fn get(&self, condition: &Condition, offset: u64, length: u64) -> Result<(Vec<u8>, Properties), Refusal> {
        let inside = read(&self.inside);
        let seen = self.seen(&inside);
        condition.check_read(&seen)?;
        let bytes = self.bytes(offset, length).map_err(|error| Refusal::internal(&error))?;
        Ok((bytes, seen))
    }

    /// The written ranges within `start..end`.
    pub(super) fn written(&self, condition: &Condition, start: u64, end: u64) -> Result<(Vec<(u64, u64)>, Properties), Refusal> {
        let inside = read(&self.inside);
        let seen = self.seen(&inside);
        condition.check_read(&seen)?;
        let mut ranges: Vec<(u64, u64)> = inside.written.within(start, end).collect();
        if !self.upload && end > self.content() {
            let footer = (self.content().max(start), end);
            match ranges.last_mut() {
                Some(last) if last.1 == footer.0 => last.1 = footer.1,
                _ => ranges.push(footer),
            }
        }
        Ok((ranges, seen))
    }

    fn writable(&self, inside: &Inside, ticket: Ticket, now: Timestamp) -> Result<(), Refusal> {
        let access = inside.check(ticket, now)?;
        if access == Access::Write && self.upload { Ok(()) } else { Err(Refusal::permission()) }
    }

    /// Whether a change would be let through now.
    pub(super) fn may_change(&self, clock: &Clock, ticket: Ticket, condition: &Condition) -> Result<(), Refusal> {
        let inside = read(&self.inside);
        self.writable(&inside, ticket, clock.now())?;
        condition.check_write(&self.seen(&inside), false)
    }

    /// Changes the disk, if `ticket` is good now and the conditions are met: all of it under one lock.
    pub(super) fn change(
        &self,
        clock: &Clock,
        ticket: Option<Ticket>,
        condition: &Condition,
        change: &Change,
    ) -> Result<Properties, Refusal> {
        let mut inside = write(&self.inside);
        let now = clock.now();
        if let Some(ticket) = ticket {
            self.writable(&inside, ticket, now)?;
        }
        condition.check_write(&self.seen(&inside), matches!(change, Change::Sequence(_)))?;
        let failed = |error: io::Error| Refusal::internal(&error);
        match change {
            Change::Put(offset, bytes) => {
                self.file.write_all_at(bytes, *offset).map_err(failed)?;
                inside.written.insert(*offset, offset + bytes.len() as u64);
            }
            Change::Clear(offset, length) => {
                self.zero(&inside.written, *offset, *length).map_err(failed)?;
                inside.written.remove(*offset, offset + length);
            }
            Change::Sequence(action) => {
                inside.sequence = match *action {
                    SequenceAction::Max(number) => inside.sequence.max(number),
                    SequenceAction::Update(number) => number,
                    SequenceAction::Increment => inside.sequence + 1,
                };
            }
        }
        inside.touch(now);
        Ok(self.seen(&inside))
    }

    fn zero(&self, written: &Ranges, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(()),
            // A file system without holes: zeroes, where there is anything else.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeroes = vec![0; 1 << 20];
                for (start, end) in written.within(offset, offset + length) {
                    let mut at = start;
                    while at < end {
                        let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeroes.len());
                        self.file.write_all_at(&zeroes[..step], at)?;
                        at += step as u64;
                    }
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// As of now, for Get Blob Properties.
    pub(super) fn head(&self, condition: &Condition) -> Result<Properties, Refusal> {
        let seen = self.properties();
        condition.check_read(&seen)?;
        Ok(seen)
    }
}
