//! The applier: verifies a cycle's log and writes it to the seeds.
//!
//! It needs the log store and the key, and neither Kubernetes nor ARM nor VMware. Its orders come from the log store, and what it did stands
//! in the ledger. [`run`] is one order from beginning to end; a successor begins again from the start, as a turn of its own, because applying is
//! idempotent and what a vanished writer had on its way is not known.

mod disk;
mod seed_handle;
mod setback;
mod write_lease;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use blocklog::{
    LogError,
    blob_name::BlobName,
    cycle::{Manifest, Order, Receipt},
    document,
    fingerprints::{Fingerprints, Place, Update},
    held::Held,
    ids::{CycleId, Digest, DiskKey, Owner, Turn, VmId},
    ledger::{Admission, Ledger, Refusal},
    names,
    plant::{Plant, planted},
    store::{LeaseId, StoreError, When},
};
use extents::ExtentSet;
use futures::future::join_all;
use reasons::Reason;
use replica::{Fence, FenceKind, ReplicaDisk, ReplicaError};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

pub use self::setback::note_setback;
use self::{disk::Applied, seed_handle::SeedHandle, write_lease::WriteLease};
use crate::{
    env::{Env, Event},
    patience::{self, renewing},
};

/// Opens seeds by the access that an order carries.
#[async_trait]
pub trait ReplicaOpener: Send + Sync {
    /// Opens a seed for writing.
    async fn open(&self, disk: DiskKey, access: &[u8]) -> Result<Arc<dyn ReplicaDisk>, ReplicaError>;
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The log store holds no order for the VM.
    NoOrder,
    /// Another actor holds the ledger.
    Busy,
    /// The replica is clean, at this cycle.
    Clean,
    /// All that a partial cycle has is applied; the replica stays dirty.
    Partial,
    /// The order was taken back; the replica stays dirty.
    Cancelled,
    /// The ledger does not take this cycle.
    Refused(Refusal),
}

impl End {
    /// The end in words, for the log.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::NoOrder => "there is no order".to_owned(),
            Self::Busy => "another actor holds the ledger".to_owned(),
            Self::Clean => "the replica is clean".to_owned(),
            Self::Partial => "all that a partial cycle has is applied".to_owned(),
            Self::Cancelled => "the order was taken back".to_owned(),
            Self::Refused(refusal) => format!("refused: {refusal}"),
        }
    }
}

/// Why an applier stopped before the end. The replica stays dirty, and a successor begins the cycle again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplierError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("disk {disk}: {error}")]
    Replica { disk: DiskKey, error: ReplicaError },
    /// Another disk failed, and this one stopped for it.
    #[error("stopped")]
    Stopped,
    /// What was written is not what the manifest says.
    #[error("disk {disk}: the sectors written are not those of the manifest")]
    BitmapMismatch { disk: DiskKey },
}

impl ApplierError {
    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Log(error) => error.reason(),
            Self::Replica { error, .. } => error.reason(),
            Self::Stopped => Reason::Stopped,
            Self::BitmapMismatch { .. } => Reason::BitmapMismatch,
        }
    }

    /// True where the log of the cycle `of` can't become whole: one of its own blobs is missing or is not what was written. What is wrong
    /// with ledger, fingerprints or an earlier cycle's manifest would be so for the next cycle too.
    #[must_use]
    pub fn is_for_good(&self, of: CycleId) -> bool {
        match self {
            Self::BitmapMismatch { .. } => true,
            Self::Log(_) => {
                matches!(self.blob(), Some(BlobName::Manifest(it)) if it == of)
                    || matches!(self.blob(), Some(BlobName::Segment(it, ..)) if it.of == of)
            }
            Self::Replica { .. } | Self::Stopped => false,
        }
    }

    /// The disk that it is about, where it is about one.
    #[must_use]
    pub fn disk(&self) -> Option<DiskKey> {
        match self {
            Self::Replica { disk, .. } | Self::BitmapMismatch { disk } => Some(*disk),
            Self::Log(_) => match self.blob()? {
                BlobName::Segment(it, ..) => Some(it.disk),
                BlobName::Index(it) | BlobName::Chunk(it, _) => Some(it.disk),
                _ => None,
            },
            Self::Stopped => None,
        }
    }

    /// The blob that is missing or damaged.
    fn blob(&self) -> Option<BlobName> {
        match self {
            Self::Log(LogError::Missing(name) | LogError::Damaged { name, .. } | LogError::Store(StoreError::NotFound(name))) => {
                Some(BlobName::of(name))
            }
            _ => None,
        }
    }
}

impl From<StoreError> for ApplierError {
    fn from(error: StoreError) -> Self {
        Self::Log(error.into())
    }
}

/// Carries out the order for a VM, if there is one.
///
/// # Errors
/// [`ApplierError`]; the replica is dirty then, if it was touched at all.
pub async fn run(env: &Env, opener: &dyn ReplicaOpener, owner: &Owner, vm: VmId) -> Result<End, ApplierError> {
    run_until(env, opener, owner, vm, std::future::pending()).await
}

/// The same until `stop` ends: then nothing new is written, what was sent is waited for, and the ledger is given back, so that a successor
/// need not wait for a lease to run out. The end is [`End::Cancelled`] then.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    env: &Env,
    opener: &dyn ReplicaOpener,
    owner: &Owner,
    vm: VmId,
    stop: impl Future<Output = ()> + Send,
) -> Result<End, ApplierError> {
    let name = names::order(owner, vm);
    let Some((order, _)) = document::read::<Order>(env.store.as_ref(), &env.keys, &name).await? else { return Ok(End::NoOrder) };
    carry_out(env, opener, name, order, stop).await
}

/// The same for an order that was read already, from the blob `name`.
///
/// # Errors
/// As [`run`].
pub async fn carry_out(
    env: &Env,
    opener: &dyn ReplicaOpener,
    name: String,
    order: Order,
    stop: impl Future<Output = ()> + Send,
) -> Result<End, ApplierError> {
    let manifest_name = names::manifest(order.of);
    let (manifest, digest) = document::require::<Manifest>(env.store.as_ref(), &env.keys, &manifest_name).await?;
    if digest != order.manifest || manifest.of != order.of || manifest.owner != order.owner {
        return Err(LogError::damaged(&manifest_name, "it is not the manifest that the order names").into());
    }
    let lease = LeaseId(env.entropy.uuid());
    let held = Held::<Ledger>::acquire(env.store.clone(), env.keys.clone(), env.clock.clone(), &names::ledger(order.of.vm), lease).await;
    let mut held = match held {
        Ok(held) => held,
        Err(LogError::Store(StoreError::Leased(_))) => return Ok(End::Busy),
        Err(error) => return Err(error.into()),
    };
    let work = Work { env, opener, name, order, manifest, digest };
    let Ended { end, in_doubt } = work.act(&mut held, stop).await;
    // With a write in doubt the lease runs out by itself: nobody may take the seed before.
    if !in_doubt {
        held.release().await;
    }
    end
}

/// One order and what it names.
struct Work<'a> {
    env: &'a Env,
    opener: &'a dyn ReplicaOpener,
    name: String,
    order: Order,
    manifest: Manifest,
    digest: Digest,
}

type Seeds = BTreeMap<DiskKey, SeedHandle>;

/// How an order ended.
struct Ended {
    end: Result<End, ApplierError>,
    /// A write was sent whose outcome is not known, and no fence but the lease keeps it from landing late.
    in_doubt: bool,
}

/// What stands before the first write.
enum Start<'a> {
    /// There is nothing to write.
    Ended(End),
    /// The ledger is dirty with this turn.
    Begun(Box<Begun<'a>>),
}

/// What a turn works with.
struct Begun<'a> {
    seeds: Seeds,
    updates: BTreeMap<DiskKey, Update>,
    lease: WriteLease<'a>,
    /// Some seed is fenced by time alone.
    timed: bool,
    /// Until when an earlier turn's writes may land, by disk.
    previous_ends: BTreeMap<DiskKey, jiff::Timestamp>,
    admission: Admission,
}

impl<'a> Work<'a> {
    async fn act(&self, held: &mut Held<Ledger>, stop: impl Future<Output = ()> + Send) -> Ended {
        let mut begun = match self.begin(held).await {
            Ok(Start::Begun(begun)) => begun,
            Ok(Start::Ended(end)) => return Ended { end: Ok(end), in_doubt: false },
            Err(error) => return Ended { end: Err(error), in_doubt: false },
        };
        // From here on the caller may give the lease back only where nothing that was sent can still land.
        let result = self.apply(held, &mut begun, stop).await;
        let Begun { seeds, updates, lease, timed, .. } = *begun;
        drop(seeds);
        let in_doubt = timed && lease.in_doubt();
        let end = match result {
            Ok(Some(applied)) => self.finish(held, updates, applied, in_doubt).await,
            Ok(None) => {
                self.abandon(held, in_doubt).await;
                Ok(End::Cancelled)
            }
            Err(error) => {
                self.abandon(held, in_doubt).await;
                Err(error)
            }
        };
        Ended { end, in_doubt }
    }

    /// Opens the seeds and makes the ledger dirty, where the cycle is still to be applied.
    async fn begin(&self, held: &mut Held<Ledger>) -> Result<Start<'a>, ApplierError> {
        let admission = match held.value().admit(&self.manifest, self.digest) {
            Ok(Admission::Done) if held.value().is_clean() => return Ok(Start::Ended(End::Clean)),
            Ok(Admission::Done) => return Ok(Start::Ended(End::Partial)),
            Ok(admission) => admission,
            Err(refusal) => return Ok(Start::Ended(End::Refused(refusal))),
        };
        let ledger = held.value().clone();
        let seeds = renewing(self.env, held, self.open()).await??;
        // Read before anything is touched: a log that can't be read must not make a clean replica dirty.
        let updates = renewing(self.env, held, self.updates(&ledger)).await??;

        let timed = seeds.values().any(|handle| handle.seed().fence_kind() == FenceKind::Time);
        let lease = WriteLease::new(self.env, held, timed);
        let next = held.value().begin(&self.manifest, self.digest, timed.then(|| lease.until()));
        held.write(next).await?;
        lease.begin(held.value().turn);
        Ok(Start::Begun(Box::new(Begun { seeds, updates, lease, timed, previous_ends: ledger.write_ends, admission })))
    }

    /// Opens every seed that is written to, and makes sure that each is the one that ledger and order name, and large enough.
    ///
    /// Where nothing of a disk changed, its seed needs no access. No fence is raised there, and none is waited for: what an older turn still writes to it
    /// is what is there, and the turn that writes to it next waits for the end that the ledger goes on to name.
    async fn open(&self) -> Result<Seeds, ApplierError> {
        let mut seeds = Seeds::new();
        for disk in self.manifest.written() {
            let access = self.access(&self.order, disk)?;
            let seed = self.open_one(disk, &access).await?;
            let needed = self.manifest.disks[&disk].capacity;
            if seed.capacity() < needed {
                let error = ReplicaError::TooSmall { capacity: seed.capacity(), needed };
                return Err(ApplierError::Replica { disk, error });
            }
            seeds.insert(disk, SeedHandle::new(seed, access));
        }
        Ok(seeds)
    }

    async fn open_one(&self, disk: DiskKey, access: &[u8]) -> Result<Arc<dyn ReplicaDisk>, ApplierError> {
        let seed = self.opener.open(disk, access).await.map_err(|error| ApplierError::Replica { disk, error })?;
        self.is_seed(disk, seed.as_ref()).await?;
        Ok(seed)
    }

    /// Makes sure that a disk is the seed that the cycle was computed for. The ledger names the same one, or it would not have been admitted.
    async fn is_seed(&self, disk: DiskKey, seed: &dyn ReplicaDisk) -> Result<(), ApplierError> {
        let expected = &self.manifest.disks[&disk].seed;
        match seed.unique_id().await {
            Ok(found) if found == *expected || planted(Plant::BaselineKeptForNewSeed) => Ok(()),
            Ok(found) => Err(ApplierError::Replica { disk, error: ReplicaError::WrongSeed { expected: expected.clone(), found } }),
            Err(error) => Err(ApplierError::Replica { disk, error }),
        }
    }

    /// The access to a seed, from an order that names the same seed as the manifest.
    fn access(&self, order: &Order, disk: DiskKey) -> Result<Zeroizing<Vec<u8>>, ApplierError> {
        let seed = order
            .seeds
            .get(&disk)
            .filter(|seed| seed.unique_id == self.manifest.disks[&disk].seed || planted(Plant::BaselineKeptForNewSeed));
        let seed = seed.ok_or_else(|| LogError::damaged(&self.name, format!("it does not name the manifest's seed of disk {disk}")))?;
        Ok(seed.open(&self.env.keys, order.of.vm, order.of.incarnation, disk, &self.name)?)
    }

    /// Takes the access of an order that was renewed in place.
    async fn renew_access(&self, order: &Order, seeds: &Seeds, turn: Turn) -> Result<(), ApplierError> {
        for (disk, handle) in seeds {
            let access = self.access(order, *disk)?;
            if handle.has(&access) {
                continue;
            }
            let seed = self.open_one(*disk, &access).await?;
            let fence = Fence { turn: turn.0, previous_end: None };
            seed.raise_fence(fence).await.map_err(|error| ApplierError::Replica { disk: *disk, error })?;
            handle.replace(seed, access);
        }
        Ok(())
    }

    /// The next fingerprints of each disk, on top of the ledger's, less those of cycles that were begun and not finished.
    async fn updates(&self, ledger: &Ledger) -> Result<BTreeMap<DiskKey, Update>, ApplierError> {
        let mut masks: BTreeMap<DiskKey, ExtentSet> = BTreeMap::new();
        for begun in ledger.masked() {
            let name = names::manifest(ledger.cycle(begun.cycle));
            let (manifest, _) = document::require::<Manifest>(self.env.store.as_ref(), &self.env.keys, &name).await?;
            for (disk, sent) in manifest.disks {
                let mask = masks.entry(disk).or_default();
                *mask = mask.union(&sent.extents);
            }
        }
        let mut updates = BTreeMap::new();
        for (disk, sent) in &self.manifest.disks {
            let place =
                Place { vm: ledger.vm, incarnation: ledger.incarnation, disk: *disk, capacity: sent.capacity, block: self.manifest.block };
            let mask = masks.get(disk).map(|sectors| place.touched(sectors)).unwrap_or_default();
            let base = Fingerprints::open(self.env.store.clone(), &self.env.keys, place, ledger.index.get(disk), mask).await?;
            updates.insert(*disk, Update::new(base, ledger.turn.next(), &sent.extents));
        }
        Ok(updates)
    }

    /// Raises the fence, then writes every record, while the lease is kept and the order looked at. None where the order was taken back, or this
    /// applier is to stop.
    async fn apply(
        &self,
        held: &mut Held<Ledger>,
        begun: &mut Begun<'_>,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Option<BTreeMap<DiskKey, Applied>>, ApplierError> {
        let Begun { seeds, updates, lease, previous_ends, admission, .. } = begun;
        let (seeds, lease, previous_ends, admission) = (&*seeds, &*lease, &*previous_ends, *admission);
        let fenced = !planted(Plant::NoFence) && (!planted(Plant::FenceOnlyAtTakeOver) || admission == Admission::Finish);
        let disks = updates.iter_mut().map(|(disk, update)| async move {
            let Some(handle) = seeds.get(disk) else { return (*disk, Ok(Applied::default())) };
            let fence = Fence { turn: lease.turn().0, previous_end: previous_ends.get(disk).copied() };
            let result = async {
                if fenced {
                    handle.seed().raise_fence(fence).await.map_err(|error| ApplierError::Replica { disk: *disk, error })?;
                }
                // Again, behind the fence: a disk that was replaced since it was opened is not written.
                self.is_seed(*disk, handle.seed().as_ref()).await?;
                disk::apply(self.env, &self.manifest, *disk, handle, update, lease).await
            };
            let result = result.await;
            // One disk that fails ends the others: what they have sent is waited for, nothing new is sent.
            if result.is_err() {
                lease.stop();
            }
            (*disk, result)
        });
        let all = join_all(disks);
        let mut all = std::pin::pin!(all);
        let (done, mut finished) = oneshot::channel::<()>();
        // Beside the writes, so that a slow log store does not hold them up.
        let keeper = async {
            let mut stop = std::pin::pin!(stop);
            loop {
                tokio::select! {
                    biased;
                    () = &mut stop => {
                        lease.stop();
                        return Ok(false);
                    }
                    _ = &mut finished => return Ok(true),
                    () = lease.renewal_due() => {}
                }
                let kept = self.keep(held, seeds, lease).await;
                if !matches!(kept, Ok(true)) {
                    lease.stop();
                    return kept;
                }
            }
        };
        let mut keeper = std::pin::pin!(keeper);
        let mut kept = None;
        let results = loop {
            tokio::select! {
                biased;
                results = &mut all => break results,
                ended = &mut keeper, if kept.is_none() => kept = Some(ended),
            }
        };
        // A renewal that is under way is waited for: one that is dropped in its midst leaves a ledger behind that is not the one we know, and
        // all that was written would have been written for nothing.
        drop(done);
        let kept = match kept {
            Some(kept) => kept,
            None => keeper.await,
        };
        if !kept? {
            return Ok(None);
        }
        let (applied, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(|(_, result)| result.is_ok());
        let error = failed.into_iter().filter_map(|(_, result)| result.err()).min_by_key(|error| *error == ApplierError::Stopped);
        match error {
            Some(error) => Err(error),
            None => Ok(Some(applied.into_iter().filter_map(|(disk, result)| Some((disk, result.ok()?))).collect())),
        }
    }

    /// Renews the lease and, for time-fenced seeds, notes the later end before anything is sent under it. False where the order is gone.
    async fn keep(&self, held: &mut Held<Ledger>, seeds: &Seeds, lease: &WriteLease<'_>) -> Result<bool, ApplierError> {
        held.renew().await?;
        if let Some(until) = lease.renewed(held) {
            let next = held.value().extend(&self.manifest, until);
            held.write(next).await?;
            lease.extended(until);
        }
        let order = document::read::<Order>(self.env.store.as_ref(), &self.env.keys, &self.name).await;
        match order {
            Ok(Some((order, _))) if order.of != self.order.of || order.manifest != self.order.manifest => Ok(false),
            Ok(Some((order, _))) => self.renew_access(&order, seeds, lease.turn()).await.map(|()| true),
            Ok(None) => Ok(false),
            // The store is slow today; the next renewal looks again.
            Err(LogError::Store(error)) if error.in_doubt() => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Fingerprints, receipt, and then everything at once in the ledger.
    async fn finish(
        &self,
        held: &mut Held<Ledger>,
        updates: BTreeMap<DiskKey, Update>,
        applied: BTreeMap<DiskKey, Applied>,
        in_doubt: bool,
    ) -> Result<End, ApplierError> {
        let mut index = BTreeMap::new();
        for (disk, update) in updates {
            index.insert(disk, renewing(self.env, held, update.finish(&self.env.keys)).await??);
        }
        held.renew().await?;
        let receipt = Receipt {
            of: self.manifest.of,
            manifest: self.digest,
            turn: held.value().turn,
            at: self.env.clock.now(),
            disks: applied.into_iter().map(|(disk, applied)| (disk, applied.receipt())).collect(),
        };
        let name = names::receipt(self.manifest.of);
        let bytes = document::encode(&self.env.keys, &name, &receipt)?;
        patience::store(self.env, || self.env.store.put(&name, bytes.clone(), When::Always, None)).await?;
        let next = held.value().finish(&self.manifest, index, &self.order.tokens, in_doubt);
        held.write(next).await?;
        Ok(if self.manifest.partial() { End::Partial } else { End::Clean })
    }

    /// Ends the turn without the cycle. Best effort: a ledger that can't be written says that its writer vanished, which is true enough.
    async fn abandon(&self, held: &mut Held<Ledger>, in_doubt: bool) {
        if !in_doubt {
            let next = held.value().abandon();
            if let Err(error) = held.write(next).await {
                self.env.progress.note(Event::Waiting { reason: error.reason(), message: error.to_string() });
            }
        }
    }
}
