//! The operator's part in the log of one VM: what an interrupted cycle left to do, a number for a new one, and what may be deleted.
//!
//! Whoever drives cycles does it with these: the operator for a cluster, `worker cycle` for one machine. All of it is taken from the blobs at
//! each call, so that a successor needs no hand-over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, stream};
use reasons::Reason;

use crate::{
    LogError,
    blob_name::BlobName,
    clock::Clock,
    cycle::{Manifest, Phase, SnapshotNote, State, next},
    document,
    entropy::Entropy,
    fingerprints::{Index, Place},
    held::Held,
    ids::{Cycle, CycleId, DiskKey, Incarnation, Owner, Turn},
    keys::KeyRing,
    ledger::{Admission, IndexRef, Ledger},
    names,
    setback::Setback,
    store::{LEASE, LeaseId, LogStore, StoreError},
};

/// Deletions in flight.
const DELETIONS: usize = 8;

/// What is to be done for a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// A cycle is sent: an order for it is to be written, or stands.
    Apply {
        /// The cycle.
        of: CycleId,
        /// True where its applier has begun.
        begun: bool,
    },
    /// A gateway was at it: one is to go on.
    Resume(State),
    /// Nothing is left over. A new cycle's number is above this one.
    New {
        /// The highest number in use.
        above: Cycle,
    },
}

/// A cycle whose log was sent, and that will never be applied: a new one covers its ground.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// The cycle.
    pub of: CycleId,
    /// The reason.
    pub reason: Reason,
    /// What is so, for people.
    pub message: String,
    /// The disk that it is about, where it is about one.
    pub disk: Option<DiskKey>,
}

impl GivenUp {
    fn new(of: CycleId, reason: Reason, message: String) -> Self {
        Self { of, reason, message, disk: None }
    }
}

/// What the log says of a VM's cycles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What is to be done.
    pub due: Due,
    /// Cycles that are not to be done, and why.
    pub given_up: Vec<GivenUp>,
    /// Why the cycle that is to be applied could not be so far.
    pub setback: Option<Setback>,
    /// Each `state` that was read for this, so that nobody need read it again. A cycle that is not in here was not looked at.
    pub states: BTreeMap<CycleId, StateSeen>,
}

/// What was found where the `state` of a cycle is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a look has one or two of them, and nearly all stand")]
pub enum StateSeen {
    /// The state stands.
    Stands(State),
    /// There is no such blob: the number is free, or the cycle was cleaned up.
    Gone,
    /// The blob is not as it was written; the text says how.
    Damaged(String),
}

impl StateSeen {
    /// The state, where one stands.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        match self {
            Self::Stands(state) => Some(state),
            Self::Gone | Self::Damaged(_) => None,
        }
    }
}

/// How the log is to be read.
#[derive(Debug, Clone, Copy)]
struct Ask {
    /// The cycle begun last can't be finished: what is due is decided without it.
    superseded: bool,
    /// A manifest that can't be read gives its cycle up; else it is an error.
    lenient: bool,
}

/// What becomes of a cycle whose log was sent.
enum Verdict {
    /// Its applier is to run; it may have said why it could not so far.
    Apply(Option<Setback>),
    /// It will never be applied.
    GivenUp(GivenUp),
    /// It was applied.
    Done,
}

/// The log of the VMs of one appliance.
#[derive(Clone)]
pub struct Steward {
    /// Where it lies.
    pub store: Arc<dyn LogStore>,
    /// The appliance's keys.
    pub keys: KeyRing,
}

impl Steward {
    /// What an interrupted cycle has left to do, or that a new one may begin.
    ///
    /// `superseded`: the cycle begun last can't be finished, and a new one is to cover its ground; so is one whose applier has said so
    /// ([`Setback::for_good`]). `warn` is told of a cycle whose `state` can't be read: it is left, and its number is not used again.
    ///
    /// # Errors
    /// Where the store does not answer; [`LogError::Missing`] and [`LogError::Damaged`] where the begun cycle's manifest can't be read.
    pub async fn due(&self, ledger: &Ledger, owner: &Owner, superseded: bool, warn: impl Fn(String) + Send) -> Result<Due, LogError> {
        Ok(self.read(ledger, owner, Ask { superseded, lenient: false }, warn).await?.due)
    }

    /// The same for whoever tells people how cycles end. A cycle whose manifest can't be read is given up here, and no error.
    ///
    /// # Errors
    /// Where the store does not answer, or the key is missing.
    pub async fn look(&self, ledger: &Ledger, owner: &Owner, warn: impl Fn(String) + Send) -> Result<Look, LogError> {
        self.read(ledger, owner, Ask { superseded: false, lenient: true }, warn).await
    }

    async fn read(&self, ledger: &Ledger, owner: &Owner, ask: Ask, warn: impl Fn(String) + Send) -> Result<Look, LogError> {
        let mut given_up = Vec::new();
        let mut states = BTreeMap::new();
        if let Some(begun) = ledger.dirty.last().filter(|begun| begun.cycle == ledger.begun && !begun.covered && !ask.superseded) {
            let of = ledger.cycle(begun.cycle);
            match self.begun(ledger, of, ask, &warn).await? {
                Verdict::Apply(setback) => return Ok(Look { due: Due::Apply { of, begun: true }, given_up, setback, states }),
                Verdict::GivenUp(gone) => given_up.push(gone),
                Verdict::Done => {}
            }
        }
        let (last, highest) = self.above(ledger.cycle(ledger.begun), &mut states, &warn).await?;
        let new = Due::New { above: last.cycle };
        let (due, setback) = match highest.filter(|state| ledger.supports(owner, state.of, state.basis).is_ok()) {
            Some(State { phase: Phase::Sent, of, .. }) => match self.sent(of, ask, &warn).await? {
                Verdict::Apply(setback) => (Due::Apply { of, begun: false }, setback),
                Verdict::GivenUp(gone) => {
                    given_up.push(gone);
                    (new, None)
                }
                Verdict::Done => (new, None),
            },
            Some(state) if state.phase == Phase::Open => (Due::Resume(state), None),
            _ => (new, None),
        };
        Ok(Look { due, given_up, setback, states })
    }

    /// The verdict on the cycle that an applier has begun.
    async fn begun(&self, ledger: &Ledger, of: CycleId, ask: Ask, warn: &(impl Fn(String) + Send)) -> Result<Verdict, LogError> {
        match document::require::<Manifest>(self.store.as_ref(), &self.keys, &names::manifest(of)).await {
            Ok((manifest, digest)) => match ledger.admit(&manifest, digest) {
                Ok(Admission::Finish | Admission::Begin) => Ok(after(of, said(self.setback(of).await, warn)?)),
                Ok(Admission::Done) => Ok(Verdict::Done),
                // A seed was replaced since: a new cycle sends it all.
                Err(refusal) => Ok(Verdict::GivenUp(GivenUp::new(of, refusal.reason(), refusal.to_string()))),
            },
            // It can't be applied; whether the next one can do without it, its applier will say.
            Err(error @ (LogError::Missing(_) | LogError::Damaged { .. })) if ask.lenient => {
                Ok(Verdict::GivenUp(GivenUp::new(of, error.reason(), error.to_string())))
            }
            Err(error) => Err(error),
        }
    }

    /// The highest number in use, with its cycle's state where that can be read. Cycles are claimed without gaps, so the first number without
    /// a state is free.
    async fn above(
        &self,
        mut last: CycleId,
        states: &mut BTreeMap<CycleId, StateSeen>,
        warn: &(impl Fn(String) + Send),
    ) -> Result<(CycleId, Option<State>), LogError> {
        let mut highest = None;
        loop {
            let of = CycleId { cycle: next(last.cycle), ..last };
            let seen = match document::read::<State>(self.store.as_ref(), &self.keys, &names::state(of)).await {
                Ok(None) => StateSeen::Gone,
                Ok(Some((state, _))) => StateSeen::Stands(state),
                Err(error @ LogError::Damaged { .. }) => {
                    let error = error.to_string();
                    warn(format!("{error}: cycle {} is left, its number is not used again", of.cycle));
                    StateSeen::Damaged(error)
                }
                Err(error) => return Err(error),
            };
            let free = seen == StateSeen::Gone;
            if !free {
                highest = seen.state().cloned();
            }
            states.insert(of, seen);
            if free {
                return Ok((last, highest));
            }
            last = of;
        }
    }

    /// The verdict on a cycle that is sent, and that no applier has begun.
    async fn sent(&self, of: CycleId, ask: Ask, warn: &(impl Fn(String) + Send)) -> Result<Verdict, LogError> {
        let error = match document::read::<Manifest>(self.store.as_ref(), &self.keys, &names::manifest(of)).await {
            Ok(Some(_)) => return Ok(after(of, said(self.setback(of).await, warn)?)),
            // A cycle that is Sent and has no manifest was given up by whoever deleted it.
            Ok(None) => LogError::Missing(names::manifest(of)),
            // Nothing of it was written to a seed, so no ledger needs it.
            Err(error @ LogError::Damaged { .. }) if ask.lenient => error,
            Err(error) => return Err(error),
        };
        Ok(Verdict::GivenUp(GivenUp::new(of, error.reason(), error.to_string())))
    }

    async fn setback(&self, of: CycleId) -> Result<Option<Setback>, LogError> {
        let found = document::read::<Setback>(self.store.as_ref(), &self.keys, &names::setback(of)).await?;
        Ok(found.map(|(setback, _)| setback).filter(|setback| setback.of == of))
    }

    /// A number of its own for a new cycle, above `above`, computed from the ledger's turn.
    ///
    /// # Errors
    /// Where the store does not answer.
    pub async fn claim(&self, ledger: &Ledger, owner: &Owner, above: Cycle) -> Result<CycleId, LogError> {
        let mut last = above;
        loop {
            last = next(last);
            let state = State::new(ledger.cycle(last), owner.clone(), ledger.turn);
            match document::write_new(self.store.as_ref(), &self.keys, &state.name(), &state).await {
                Ok(_) => return Ok(state.of),
                Err(LogError::Store(StoreError::Exists(_))) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the ledger of another owner, knowingly: breaks its lease, holds it for as long as the other's requests may still take effect, and
    /// changes owner and incarnation in one write. A ledger that is `owner`'s already is left as it is.
    ///
    /// # Errors
    /// Where the store does not answer, or a third one holds the lease.
    pub async fn take_over(&self, name: &str, owner: &Owner, clock: Arc<dyn Clock>, entropy: &dyn Entropy) -> Result<Ledger, LogError> {
        self.store.break_lease(name).await?;
        let lease = LeaseId(entropy.uuid());
        let mut held = Held::<Ledger>::acquire(self.store.clone(), self.keys.clone(), clock.clone(), name, lease).await?;
        let since = clock.monotonic();
        while clock.monotonic() - since < LEASE {
            clock.sleep(LEASE / 4).await;
            held.renew().await?;
        }
        if held.value().owner != *owner {
            let next = held.value().take_over(owner.clone(), Incarnation(entropy.uuid()));
            held.write(next).await?;
        }
        let ledger = held.value().clone();
        held.release().await;
        Ok(ledger)
    }

    /// Deletes the logs of cycles at or below the clean one that the ledger does not name, fingerprints that no index names, and dead
    /// incarnations. Does nothing while the ledger is dirty. What fails is left for the next call.
    ///
    /// # Errors
    /// The first thing that could not be deleted; the rest was tried.
    pub async fn clean_up(&self, ledger: &Ledger) -> Result<(), LogError> {
        if !ledger.is_clean() {
            return Ok(());
        }
        let keep = self.fingerprints(ledger).await;
        let mut names = Vec::new();
        for listed in self.store.list(&names::vm(ledger.vm)).await? {
            if self.is_garbage(ledger, &keep, &listed.name).await? {
                names.push(listed.name);
            }
        }
        // In the order of the names a cycle's state goes last: until then it tells whose the rest is.
        // With names and store of its own: of a future that borrows both, the compiler can't tell that it may change threads.
        let delete = |name: String| {
            let store = Arc::clone(&self.store);
            async move { store.delete(&name, None).await }
        };
        let mut deleted = stream::iter(names.into_iter().map(delete)).buffered(DELETIONS);
        let mut first = Ok(());
        while let Some(result) = deleted.next().await {
            first = first.and(result.map(drop).map_err(LogError::from));
        }
        first
    }

    /// The blobs that each disk's index names, itself among them; a disk whose index can't be read keeps everything.
    async fn fingerprints(&self, ledger: &Ledger) -> BTreeMap<DiskKey, Option<BTreeSet<String>>> {
        let mut keep = BTreeMap::new();
        for (disk, seed) in &ledger.seeds {
            let mut names = BTreeSet::new();
            if let Some(IndexRef::At { turn, .. }) = ledger.index.get(disk) {
                let name = names::index(ledger.vm, ledger.incarnation, *disk, *turn);
                let Ok((index, _)) = document::require::<Index>(self.store.as_ref(), &self.keys, &name).await else {
                    keep.insert(*disk, None);
                    continue;
                };
                let place =
                    Place { vm: ledger.vm, incarnation: ledger.incarnation, disk: *disk, capacity: seed.capacity, block: ledger.block };
                names.extend(index.blobs(place));
                names.insert(name);
            }
            keep.insert(*disk, Some(names));
        }
        keep
    }

    async fn is_garbage(&self, ledger: &Ledger, keep: &BTreeMap<DiskKey, Option<BTreeSet<String>>>, name: &str) -> Result<bool, LogError> {
        let blob = BlobName::of(name);
        let Some(incarnation) = blob.incarnation() else { return Ok(false) };
        if let BlobName::Manifest(of) = blob
            && (ledger.lost.contains(&of) || incarnation == ledger.incarnation && ledger.dirty.iter().any(|begun| begun.cycle == of.cycle))
        {
            return Ok(false);
        }
        if incarnation != ledger.incarnation {
            return match blob {
                // It may tell of a snapshot in vCenter that only its owner can remove.
                BlobName::State(_) => {
                    let state = document::read::<State>(self.store.as_ref(), &self.keys, name).await;
                    Ok(matches!(state, Ok(Some((State { snapshot: SnapshotNote::None | SnapshotNote::Released, .. }, _)))))
                }
                _ => Ok(true),
            };
        }
        Ok(match blob {
            // What a later turn has written is another's, and not in the ledger yet.
            BlobName::Index(it) | BlobName::Chunk(it, _) => {
                let named = keep.get(&it.disk).is_some_and(|names| names.as_ref().is_none_or(|names| names.contains(name)));
                it.turn > Turn(0) && it.turn <= ledger.turn && !named
            }
            // The last one's figures are kept for people.
            BlobName::Receipt(of) => of.cycle < ledger.begun,
            BlobName::State(of) | BlobName::Manifest(of) | BlobName::Setback(of) => of.cycle <= ledger.begun,
            BlobName::Segment(of, ..) => of.of.cycle <= ledger.begun,
            BlobName::KeyCheck | BlobName::Order | BlobName::Ledger(_) | BlobName::Unknown => false,
        })
    }
}

/// What was said of a cycle. What can't be read says nothing: a store that does not answer is another matter.
fn said(found: Result<Option<Setback>, LogError>, warn: &impl Fn(String)) -> Result<Option<Setback>, LogError> {
    match found {
        Err(error @ (LogError::Damaged { .. } | LogError::UnknownVersion { .. } | LogError::KeyMissing { .. })) => {
            warn(format!("{error}: it says nothing"));
            Ok(None)
        }
        found => found,
    }
}

/// The verdict on a cycle whose log is whole, after what its applier has said.
fn after(of: CycleId, setback: Option<Setback>) -> Verdict {
    match setback {
        Some(it) if it.for_good => Verdict::GivenUp(GivenUp { of, reason: it.reason, message: it.message, disk: it.disk }),
        setback => Verdict::Apply(setback),
    }
}

#[cfg(test)]
mod tests;
