//! The keeper: the one owner of `state` while disks transfer.
//!
//! The disks tell it what is durable and what is read; it notes that in `state`, watches the snapshot, and keeps the lease. A disk goes on only
//! when the keeper has noted its last segment, so that what a crash can cost is bounded: a segment that is durable and not noted, one that is being
//! made, and what is in memory.

use std::{collections::BTreeSet, time::Duration};

use blocklog::{
    cycle::{Figures, Run, Snapshot, State},
    held::{Held, RENEW_EVERY},
    ids::{DiskKey, Epoch},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    GatewayError, Kept,
    resume::Counted,
    transfer::{Reading, Transfer},
};
use crate::{
    env::{Env, Event},
    patience::renewing,
    snapshot::SnapshotControl,
};

/// What a disk tells the keeper.
pub(super) enum Note {
    /// Its next segment is durable.
    Durable {
        disk: DiskKey,
        counted: Counted,
        /// What was done since the last note.
        step: Figures,
        /// Answered when it is noted.
        noted: oneshot::Sender<()>,
    },
    /// All of it was read, and all its segments are durable.
    Read { disk: DiskKey, step: Figures },
}

/// Owns `state` while disks transfer.
pub(super) struct Keeper<'a> {
    env: &'a Env,
    control: &'a dyn SnapshotControl,
    snapshot: &'a Snapshot,
    held: &'a mut Held<State>,
    epoch: Epoch,
    kept: Kept,
    notes: mpsc::Receiver<Note>,
    next_renewal: Duration,
    next_check: Duration,
}

enum Wake {
    Note(Note),
    Renew,
    Check,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(transfer: &Transfer<'a>, held: &'a mut Held<State>, kept: Kept, notes: mpsc::Receiver<Note>) -> Self {
        let Transfer { env, control, snapshot, epoch, .. } = *transfer;
        let now = env.clock.monotonic();
        Self { env, control, snapshot, held, epoch, kept, notes, next_renewal: now, next_check: now + env.limits.check_every }
    }

    /// Runs until every disk is read and checked, or the snapshot is gone.
    pub(super) async fn run(&mut self) -> Result<Reading, GatewayError> {
        while !self.held.value().disks.values().all(|disk| disk.read) {
            let wake = tokio::select! {
                biased;
                () = self.env.clock.sleep_until(self.next_renewal) => Wake::Renew,
                () = self.env.clock.sleep_until(self.next_check) => Wake::Check,
                Some(note) = self.notes.recv() => Wake::Note(note),
            };
            let stands = match wake {
                Wake::Renew => {
                    self.held.renew().await?;
                    self.next_renewal = self.env.clock.monotonic() + RENEW_EVERY;
                    true
                }
                Wake::Check => self.check(&BTreeSet::new()).await?,
                Wake::Note(note) => self.take(note).await?,
            };
            if !stands {
                return Ok(Reading::SnapshotLost);
            }
        }
        Ok(Reading::Complete)
    }

    /// Whether the snapshot still stands.
    pub(super) async fn stands(&mut self) -> Result<bool, GatewayError> {
        Ok(renewing(self.env, self.held, self.control.stands(self.snapshot)).await??)
    }

    /// What is durable, by disk.
    pub(super) fn into_kept(self) -> Kept {
        self.kept
    }

    /// Notes everything that disks have told by now, in one write. False where the snapshot was found to be gone.
    async fn take(&mut self, first: Note) -> Result<bool, GatewayError> {
        let mut next = self.held.value().clone();
        let mut waiting = Vec::new();
        let mut read = BTreeSet::new();
        let mut note = Some(first);
        while let Some(told) = note {
            let (disk, step) = match told {
                Note::Durable { disk, counted, step, noted } => {
                    let progress = next.disks.entry(disk);
                    progress.and_modify(|progress| count(&mut progress.runs, self.epoch));
                    self.kept.entry(disk).or_default().push(counted);
                    waiting.push(noted);
                    (disk, step)
                }
                Note::Read { disk, step } => {
                    read.insert(disk);
                    (disk, step)
                }
            };
            if let Some(progress) = next.disks.get_mut(&disk) {
                progress.figures += step;
            }
            self.env.progress.note(Event::Read { disk, step });
            note = self.notes.try_recv().ok();
        }
        self.held.write(next).await?;
        // A disk that is gone wants no answer.
        for noted in waiting {
            let _ = noted.send(());
        }
        if read.is_empty() { Ok(true) } else { self.check(&read).await }
    }

    /// Looks whether the snapshot stands; false where it is gone. If it stands, everything durable by now was read from a sound one, and the disks
    /// of `read` are done.
    async fn check(&mut self, read: &BTreeSet<DiskKey>) -> Result<bool, GatewayError> {
        let durable = self.held.value().clone();
        if !self.stands().await? {
            return Ok(false);
        }
        let mut next = durable;
        for (disk, progress) in &mut next.disks {
            progress.runs.iter_mut().for_each(|run| run.checked = run.durable);
            progress.read |= read.contains(disk);
        }
        self.held.write(next).await?;
        self.next_check = self.env.clock.monotonic() + self.env.limits.check_every;
        Ok(true)
    }
}

fn count(runs: &mut Vec<Run>, epoch: Epoch) {
    match runs.last_mut() {
        Some(run) if run.epoch == epoch => run.durable += 1,
        _ => runs.push(Run { epoch, durable: 1, checked: 0 }),
    }
}
