//! The gateway: reads the snapshot of one cycle and writes its log.
//!
//! [`run`] is the whole of it, and is what a successor runs as well: each step looks at what is there before it does anything. It ends with a
//! manifest ([`End::Sent`]) or with the knowledge that there will be none ([`End::Failed`]), in both cases without a snapshot; or with an error,
//! after which whoever starts a gateway for the cycle again goes on from `state`.

mod keeper;
mod plan;
mod read;
mod resume;
mod transfer;
mod upload;

use std::collections::BTreeMap;

use blocklog::{
    LogError,
    cycle::{DiskProgress, Epochs, Manifest, ManifestDisk, Mode, Phase, Snapshot, SnapshotNote, State},
    document,
    held::Held,
    ids::{CycleId, Digest, DiskKey, Epoch, Owner},
    keys::Secret,
    ledger::Ledger,
    names,
    plant::{Plant, planted},
    store::{LeaseId, StoreError},
};
use extents::ExtentSet;
use reasons::Reason;
use source::SourceError;

use self::{
    resume::Counted,
    transfer::{Reading, Transfer},
};
use crate::{
    env::{Env, Event},
    patience::renewing,
    snapshot::{Changes, SnapshotControl, SnapshotError},
};

/// What a gateway is asked to do.
#[derive(Debug, Clone)]
pub struct Job {
    /// The cycle, whose `state` exists.
    pub of: CycleId,
    /// Whose replica it is for.
    pub owner: Owner,
    /// Every disk goes through it as `Full`.
    pub full: bool,
}

/// How a gateway's cycle ended. The snapshot is gone in both cases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The manifest stands.
    Sent {
        /// The digest of its blob.
        manifest: Digest,
    },
    /// There will be no manifest, for this reason. The next cycle covers the same ground.
    Failed { reason: Reason },
}

/// Why a gateway stopped before the end. A successor goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Log(#[from] LogError),
    /// The source's side.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("disk {disk}: {error}")]
    Source { disk: DiskKey, error: SourceError },
    /// A disk has grown: its seed has to be made anew.
    #[error("disk {disk} has {size} bytes, its seed was made for {capacity}")]
    SourceGrown {
        disk: DiskKey,
        size: u64,
        /// What the seed was made for.
        capacity: u64,
    },
    /// A disk that is replicated takes no part in the snapshot: it has left the VM, or became independent, since the cycle was claimed.
    #[error("the snapshot holds no disk {0}: it was taken from the VM, or takes no part in snapshots any more")]
    DiskGone(DiskKey),
}

impl GatewayError {
    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Log(error) => error.reason(),
            Self::Snapshot(error) => error.reason(),
            Self::Source { error, .. } => error.reason(),
            Self::SourceGrown { .. } => Reason::SourceGrown,
            Self::DiskGone(_) => Reason::DisksChanged,
        }
    }

    /// True where this cycle can't be finished by anyone: its snapshot is released, and the cycle has failed.
    #[must_use]
    pub fn is_for_good(&self) -> bool {
        matches!(
            self,
            Self::SourceGrown { .. }
                | Self::DiskGone(_)
                | Self::Source { error: SourceError::TooShort { .. }, .. }
                | Self::Snapshot(SnapshotError::Gone(_))
        )
    }
}

impl From<StoreError> for GatewayError {
    fn from(error: StoreError) -> Self {
        Self::Log(error.into())
    }
}

/// Goes on with a cycle until its manifest stands or it has failed, and its snapshot is gone.
///
/// # Errors
/// [`GatewayError`]; nothing is lost by it. The lease on `state` is given back where it is still held.
pub async fn run(env: &Env, control: &dyn SnapshotControl, job: &Job) -> Result<End, GatewayError> {
    let name = names::state(job.of);
    let lease = LeaseId(env.entropy.uuid());
    let mut held = Held::<State>::acquire(env.store.clone(), env.keys.clone(), env.clock.clone(), &name, lease).await?;
    let end = act(env, control, job, &mut held).await;
    // Whatever of ours is still on its way carries our epoch or our lease, so it can't hurt a successor.
    held.release().await;
    end
}

/// Why a cycle is ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nobody wants it any more.
    NotWanted(Reason),
    /// Only its snapshot has to go: what was read by now is worth as much as if somebody had removed the snapshot.
    SnapshotHasToGo(Reason),
}

/// Ends a cycle before its time: its snapshot goes. One that has its manifest already is sent, whatever is asked.
///
/// # Errors
/// [`GatewayError`]; nothing is lost by it.
pub async fn cancel(env: &Env, control: &dyn SnapshotControl, job: &Job, why: Why) -> Result<End, GatewayError> {
    let name = names::state(job.of);
    let lease = LeaseId(env.entropy.uuid());
    let mut held = Held::<State>::acquire(env.store.clone(), env.keys.clone(), env.clock.clone(), &name, lease).await?;
    let end = cut(env, control, job, &mut held, why).await;
    held.release().await;
    end
}

async fn cut(env: &Env, control: &dyn SnapshotControl, job: &Job, held: &mut Held<State>, why: Why) -> Result<End, GatewayError> {
    let end = match (ended(env, job, held).await?, why) {
        (Some(end), _) => end,
        (None, Why::NotWanted(reason)) => End::Failed { reason },
        (None, Why::SnapshotHasToGo(reason)) => match so_far(env, control, job, held).await? {
            Some(manifest) => sent(env, held, &manifest).await?,
            None => End::Failed { reason },
        },
    };
    finish(env, control, held, end).await
}

/// The manifest of what was read by now, where that makes a cycle.
async fn so_far(env: &Env, control: &dyn SnapshotControl, job: &Job, held: &mut Held<State>) -> Result<Option<Manifest>, GatewayError> {
    let (SnapshotNote::Taken(snapshot), Ok(ledger)) = (held.value().snapshot.clone(), basis(env, job, held.value()).await?) else {
        return Ok(None);
    };
    if held.value().disks.is_empty() {
        return Ok(None);
    }
    let stands = renewing(env, held, control.stands(&snapshot)).await??;
    let done = resume::durable(env, held, stands).await?;
    Ok(manifest(held.value(), &ledger, &snapshot, done, true))
}

async fn sent(env: &Env, held: &Held<State>, manifest: &Manifest) -> Result<End, GatewayError> {
    held.check()?;
    let digest = commit(env, manifest).await?;
    env.progress.note(Event::Sent);
    Ok(End::Sent { manifest: digest })
}

/// Releases what snapshots there are of a cycle whose `state` can't be read, and of those before it: nobody can go on from them. It needs no lease: who still has one finds at
/// its next write that its `state` is another, and whoever else releases them only waits for the same removal.
///
/// # Errors
/// [`SnapshotError`]; it is safe to try again.
pub async fn give_up(control: &dyn SnapshotControl, job: &Job) -> Result<(), SnapshotError> {
    for found in control.find(job.of.vm).await?.into_iter().filter(|found| found.is_up_to(job.of)) {
        control.release(&found.snapshot).await?;
    }
    Ok(())
}

async fn act(env: &Env, control: &dyn SnapshotControl, job: &Job, held: &mut Held<State>) -> Result<End, GatewayError> {
    match go_on(env, control, job, held).await {
        // No successor would come further, and the snapshot must not stand for ever. A log that is complete stays so: it only has to be released.
        Err(error) if error.is_for_good() && held.value().phase != Phase::Sent => {
            env.progress.note(Event::Waiting { reason: error.reason(), message: error.to_string() });
            finish(env, control, held, End::Failed { reason: error.reason() }).await?;
            Err(error)
        }
        result => result,
    }
}

async fn go_on(env: &Env, control: &dyn SnapshotControl, job: &Job, held: &mut Held<State>) -> Result<End, GatewayError> {
    if let Some(end) = ended(env, job, held).await? {
        return finish(env, control, held, end).await;
    }
    let ledger = match basis(env, job, held.value()).await? {
        Ok(ledger) => ledger,
        Err(reason) => return finish(env, control, held, End::Failed { reason }).await,
    };
    // It was sent, and somebody has deleted its manifest. What it read is of a snapshot that is gone: under a new one it would move the baseline
    // past changes that nobody has sent.
    if held.value().phase == Phase::Sent {
        return finish(env, control, held, End::Failed { reason: Reason::ManifestMissing }).await;
    }
    let (epoch, key) = claim(env, held).await?;
    let snapshot = snapshot(env, control, held).await?;
    let stands = renewing(env, held, control.stands(&snapshot)).await??;
    // A successor finds the modes decided, and asks for the areas of the disks that are left.
    let mut areas = Areas::new();
    if held.value().disks.is_empty() {
        if !stands {
            return finish(env, control, held, End::Failed { reason: Reason::SnapshotLost }).await;
        }
        // What takes no part in the snapshot would be read as it is written, or not at all.
        if let Some(disk) = ledger.seeds.keys().find(|disk| !snapshot.change_ids.contains_key(disk)) {
            return Err(GatewayError::DiskGone(*disk));
        }
        areas = decide_modes(env, control, job, &ledger, &snapshot, held).await?;
    }
    let done = resume::durable(env, held, stands).await?;
    let (kept, reading) = if stands {
        let env = &transfer::sized_for(env, &ledger);
        let transfer = Transfer { env, control, snapshot: &snapshot, of: job.of, epoch, key: &key };
        transfer.run(&ledger, held, areas, done).await?
    } else {
        (done, Reading::SnapshotLost)
    };
    let end = match manifest(held.value(), &ledger, &snapshot, kept, reading == Reading::SnapshotLost) {
        Some(manifest) => sent(env, held, &manifest).await?,
        None => End::Failed { reason: Reason::SnapshotLost },
    };
    finish(env, control, held, end).await
}

/// How the cycle has ended, where it has: in `state`, or by a manifest whose writer died before it could note it there.
async fn ended(env: &Env, job: &Job, held: &Held<State>) -> Result<Option<End>, GatewayError> {
    if let Phase::Failed(reason) = &held.value().phase {
        return Ok(Some(End::Failed { reason: *reason }));
    }
    let found = document::read::<Manifest>(env.store.as_ref(), &env.keys, &names::manifest(job.of)).await?;
    Ok(found.map(|(_, manifest)| End::Sent { manifest }))
}

/// The ledger that the cycle is computed from, if the cycle can still be applied; else the reason.
async fn basis(env: &Env, job: &Job, state: &State) -> Result<Result<Ledger, Reason>, GatewayError> {
    let name = names::ledger(job.of.vm);
    Ok(match document::read::<Ledger>(env.store.as_ref(), &env.keys, &name).await? {
        Some((ledger, _)) => ledger.supports(&job.owner, job.of, state.basis).map(|()| ledger).map_err(|refusal| refusal.reason()),
        // The replica's truth is gone: whatever becomes of it, this cycle is not what goes on from there, and its snapshot must not wait for it.
        None => Err(LogError::Missing(name).reason()),
    })
}

/// The next epoch, with a data key of its own.
async fn claim(env: &Env, held: &mut Held<State>) -> Result<(Epoch, Secret), GatewayError> {
    let mut next = held.value().clone();
    let last = next.epochs.last();
    if planted(Plant::EpochReused)
        && let Some(last) = last
    {
        let key = next.epochs.open(&env.keys, next.of, last, held.name())?;
        return Ok((last, key));
    }
    let epoch = Epoch(last.map_or(1, |last| last.0 + 1));
    let key = next.epochs.add(&env.keys, next.of, epoch, env.entropy.as_ref());
    held.write(next).await?;
    Ok((epoch, key))
}

/// The cycle's snapshot: the one that `state` names, one that a predecessor took and could not note, or a new one. Any other own snapshot is
/// removed before anything is read.
async fn snapshot(env: &Env, control: &dyn SnapshotControl, held: &mut Held<State>) -> Result<Snapshot, GatewayError> {
    let of = held.value().of;
    match &held.value().snapshot {
        SnapshotNote::Taken(snapshot) => return Ok(snapshot.clone()),
        SnapshotNote::None | SnapshotNote::Intended | SnapshotNote::Released => {}
    }
    let mut next = held.value().clone();
    next.snapshot = SnapshotNote::Intended;
    held.write(next.clone()).await?;
    let mut ours = None;
    for found in renewing(env, held, control.find(of.vm)).await?? {
        if found.of == of && ours.is_none() {
            ours = Some(found.snapshot);
        } else if found.is_up_to(of) || found.of.incarnation != of.incarnation {
            // One of a later cycle is that gateway's business, and this one's is over. Another incarnation is dead: the ledger is of this one.
            renewing(env, held, control.release(&found.snapshot)).await??;
        }
    }
    let snapshot = match ours {
        Some(snapshot) => snapshot,
        None => renewing(env, held, control.take(of)).await??,
    };
    next.snapshot = SnapshotNote::Taken(snapshot.clone());
    held.write(next).await?;
    Ok(snapshot)
}

/// The areas that changed on a disk, in sectors.
type Areas = BTreeMap<DiskKey, ExtentSet>;

/// The durable segments of each disk that count.
type Kept = BTreeMap<DiskKey, Vec<Counted>>;

/// Decides once how each disk goes through the cycle. Returns the changed areas of the disks of which they are known: to have them listed takes a
/// large disk's host a while, so its transfer need not ask again.
async fn decide_modes(
    env: &Env,
    control: &dyn SnapshotControl,
    job: &Job,
    ledger: &Ledger,
    snapshot: &Snapshot,
    held: &mut Held<State>,
) -> Result<Areas, GatewayError> {
    let mut next = held.value().clone();
    let mut known = Areas::new();
    for disk in ledger.seeds.keys() {
        let mode = match ledger.baseline.get(disk) {
            Some(since) if !job.full => match renewing(env, held, control.changed(snapshot, *disk, since)).await?? {
                Changes::Areas(areas) => {
                    known.insert(*disk, areas);
                    Mode::Changed
                }
                Changes::Unknown(_) => Mode::Full,
            },
            _ => Mode::Full,
        };
        next.disks.insert(*disk, DiskProgress { mode, runs: Vec::new(), read: false, figures: Default::default() });
    }
    held.write(next).await?;
    Ok(known)
}

/// The manifest of what counts, or none where that can't make a cycle.
fn manifest(state: &State, ledger: &Ledger, snapshot: &Snapshot, mut kept: Kept, lost: bool) -> Option<Manifest> {
    let mut disks = BTreeMap::new();
    for (disk, progress) in &state.disks {
        let partial = !progress.read;
        if partial && progress.mode == Mode::Changed {
            return None;
        }
        let mut counted = kept.remove(disk).unwrap_or_default();
        if partial {
            counted.truncate(progress.runs.iter().map(|run| run.checked as usize).sum());
        }
        let seed = &ledger.seeds[disk];
        let mut figures = progress.figures;
        figures.uploaded = counted.iter().map(|counted| counted.segment.size).sum();
        disks.insert(
            *disk,
            ManifestDisk {
                seed: seed.unique_id.clone(),
                capacity: seed.capacity,
                mode: progress.mode,
                partial,
                change_id: if partial { None } else { snapshot.change_ids.get(disk).cloned().flatten() },
                extents: resume::extents(&counted),
                segments: counted.into_iter().map(|counted| counted.segment).collect(),
                figures,
            },
        );
    }
    let empty = disks.values().all(|disk: &ManifestDisk| disk.segments.is_empty());
    if lost && empty && disks.values().any(|disk| disk.partial) {
        return None;
    }
    let used = |epoch| disks.values().flat_map(|disk| &disk.segments).any(|segment| segment.epoch == epoch);
    let epochs: Epochs = state.epochs.only(used);
    Some(Manifest {
        of: state.of,
        owner: state.owner.clone(),
        basis: state.basis,
        block: ledger.block,
        snapshot_taken: snapshot.taken,
        epochs,
        disks,
    })
}

/// Writes the manifest. One that is there already was written by a predecessor that had every right to, and is as good.
async fn commit(env: &Env, manifest: &Manifest) -> Result<Digest, GatewayError> {
    let name = names::manifest(manifest.of);
    match document::write_new(env.store.as_ref(), &env.keys, &name, manifest).await {
        Err(LogError::Store(StoreError::Exists(_))) => {
            Ok(document::require::<Manifest>(env.store.as_ref(), &env.keys, &name).await.map(|(_, digest)| digest)?)
        }
        result => Ok(result?),
    }
}

/// Notes how the cycle ended and removes its snapshot.
async fn finish(env: &Env, control: &dyn SnapshotControl, held: &mut Held<State>, end: End) -> Result<End, GatewayError> {
    let mut next = held.value().clone();
    next.phase = match &end {
        End::Sent { .. } => Phase::Sent,
        End::Failed { reason } => Phase::Failed(*reason),
    };
    held.write(next.clone()).await?;
    // Whatever the note says: a call to take one may have been carried out long after its caller gave up.
    let mut released = Vec::new();
    for found in renewing(env, held, control.find(next.of.vm)).await?? {
        // One of a later cycle is that gateway's business; so is one of another incarnation, for this one may be the dead one.
        if found.is_up_to(next.of) {
            renewing(env, held, control.release(&found.snapshot)).await??;
            released.push(found.snapshot.reference);
        }
    }
    // One that is noted and not found is gone, and may have left disks to consolidate; or somebody has edited its name, and has to be told.
    if let SnapshotNote::Taken(noted) = &next.snapshot
        && !released.contains(&noted.reference)
    {
        renewing(env, held, control.release(noted)).await??;
    }
    next.snapshot = SnapshotNote::Released;
    held.write(next).await?;
    Ok(end)
}

#[cfg(test)]
mod tests;
