//! The ledger: the truth about one VM's replica.
//!
//! Every change is a function from one ledger to the next. I/O happens around them: the holder of the ledger's lease reads it, asks for the
//! next one, and writes that by if-match ([`crate::held`]). So each rule about what may follow what stands here, once.
//!
//! # Why a crash loses nothing
//!
//! A turn begins with the dirty mark ([`Ledger::begin`]), which is durable before the first write to a seed. From then on the ledger says
//! that the blocks of that cycle's manifest may hold anything. It stays so until one write ([`Ledger::finish`]) says at once that the replica
//! is clean, which recovery point it is, and which change IDs and fingerprints belong to it. Wherever a crash falls, the ledger names either
//! the old clean state and nothing begun, or the cycles begun since, or the new clean state. The next cycle is computed from the last clean
//! change IDs, so it covers whatever a begun one left behind; for a `Full` disk, the begun blocks have no fingerprint and are sent.
//!
//! Two workers can't interleave: whoever acts holds the lease, each dirty mark is a new turn, and the seed refuses writes of an older turn. A
//! cycle computed from an older turn is refused ([`Refusal::BasisPassed`]): its fingerprints or its baseline may be those of a replica that
//! is no more.

use std::collections::BTreeMap;

use jiff::Timestamp;
use reasons::Reason;
use serde::{Deserialize, Serialize};

use crate::{
    cycle::{Manifest, ManifestDisk, Mode},
    document::Document,
    ids::{ChangeId, Cycle, CycleId, Digest, DiskKey, Incarnation, Owner, Turn, VmId},
    plant::{Plant, planted},
};

/// The truth about one VM's replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ledger {
    /// The VM.
    pub vm: VmId,
    /// Whose replica it is.
    pub owner: Owner,
    /// The start of replication.
    pub incarnation: Incarnation,
    /// Bytes of a block, of which fingerprints are made. The same for all of a replica's life.
    pub block: u32,
    /// Every disk's seed.
    pub seeds: BTreeMap<DiskKey, Seed>,
    /// The last cycle that began to write.
    pub begun: Cycle,
    /// How many dirty marks there were.
    pub turn: Turn,
    /// The cycles begun since the last clean write, in order. None: the replica is clean.
    pub dirty: Vec<Begun>,
    /// The cycles that a late write may still belong to, although their turn is over.
    pub lost: Vec<CycleId>,
    /// The last clean state: its cycle and snapshot time. None before the first.
    pub recovery_point: Option<RecoveryPoint>,
    /// The change ID that each disk's next delta starts from. A disk without one goes through its next cycle as `Full`.
    pub baseline: BTreeMap<DiskKey, ChangeId>,
    /// Each disk's fingerprints. A disk that is missing here has none.
    pub index: BTreeMap<DiskKey, IndexRef>,
    /// By disk: until when a write of this turn or an older one may take effect on its seed, where that is fenced by time. It stays when the turn is
    /// over: a request that some proxy sends twice is on its way although its sender has an answer. The next turn that writes to the disk waits for it.
    pub write_ends: BTreeMap<DiskKey, Timestamp>,
    /// True while a writer of this turn may have writes on their way to a time-fenced seed. Where the next turn finds it so, that writer vanished.
    pub writing: bool,
    /// Set when the seeds were sealed: nothing more is written to them.
    pub sealed: Option<Turn>,
    /// Trigger tokens done, by their name.
    pub tokens: BTreeMap<String, String>,
}

/// A seed disk, one instance of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Seed {
    /// Where it is: an ARM id, a URL without its query, a path.
    pub id: String,
    /// What the disk itself carries: gone when the disk is replaced.
    pub unique_id: String,
    /// Bytes of the source's disk that it was made for.
    pub capacity: u64,
}

/// A cycle that began to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Begun {
    /// Its number, in the ledger's incarnation.
    pub cycle: Cycle,
    /// The manifest that it applies.
    pub manifest: Digest,
    /// True once an index was written that speaks of its blocks truly: they need not be masked any more.
    pub covered: bool,
}

/// A state of the replica that a VM could be made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RecoveryPoint {
    /// The cycle that made it.
    pub cycle: Cycle,
    /// When its snapshot was taken.
    pub time: Timestamp,
    /// The disks that it covers.
    pub disks: Vec<DiskKey>,
}

/// Where a disk's fingerprints are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum IndexRef {
    /// The seed is new: every block is zero.
    Zero,
    /// In the index that this turn wrote.
    At {
        /// The turn.
        turn: Turn,
        /// The digest of the index's blob.
        digest: Digest,
    },
}

impl Document for Ledger {
    const KIND: &'static str = "ledger";
}

/// What to do with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is the next cycle: begin it.
    Begin,
    /// It was begun and not finished: begin it again, from its start.
    Finish,
    /// It is done: nothing to do.
    Done,
}

/// Why a manifest is not applied. The words of [`Refusal::reason`] stand in conditions, events and metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The ledger belongs to somebody else.
    #[error("the ledger belongs to {owner}, incarnation {incarnation}")]
    OwnedByOther {
        /// Its owner.
        owner: Owner,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// The replica went on since the cycle was computed.
    #[error("cycle {cycle} was computed from turn {basis}, the ledger is at turn {turn}")]
    BasisPassed {
        /// The cycle.
        cycle: Cycle,
        /// What it was computed from.
        basis: Turn,
        /// Where the ledger is.
        turn: Turn,
    },
    /// The seed is another instance than the one that the cycle was computed for.
    #[error("disk {disk}: the cycle was computed for seed {expected}, the ledger names {found}")]
    SeedReplaced {
        /// The disk.
        disk: DiskKey,
        /// The manifest's.
        expected: String,
        /// The ledger's, or `none`.
        found: String,
    },
    /// The begun cycle's manifest is not the one that was begun.
    #[error("cycle {cycle} was begun with another manifest")]
    OtherManifest {
        /// The cycle.
        cycle: Cycle,
    },
    /// The manifest counts its blocks, or its disk's bytes, otherwise than the ledger does.
    #[error("cycle {cycle} was made for blocks or disks of another size")]
    OtherGeometry {
        /// The cycle.
        cycle: Cycle,
    },
    /// The seeds are sealed.
    #[error("the seeds are sealed")]
    Sealed,
}

impl Refusal {
    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::OwnedByOther { .. } => Reason::OwnedByOther,
            Self::BasisPassed { .. } => Reason::BasisPassed,
            Self::SeedReplaced { .. } => Reason::SeedReplaced,
            Self::OtherManifest { .. } => Reason::OtherManifest,
            Self::OtherGeometry { .. } => Reason::OtherGeometry,
            Self::Sealed => Reason::SeedsSealed,
        }
    }
}

impl Ledger {
    /// The ledger of a replica whose seeds were just made, all zero.
    #[must_use]
    pub fn new(vm: VmId, owner: Owner, incarnation: Incarnation, block: u32, seeds: BTreeMap<DiskKey, Seed>) -> Self {
        Self {
            vm,
            owner,
            incarnation,
            block,
            index: seeds.keys().map(|disk| (*disk, IndexRef::Zero)).collect(),
            seeds,
            begun: Cycle(0),
            turn: Turn(0),
            dirty: Vec::new(),
            lost: Vec::new(),
            recovery_point: None,
            baseline: BTreeMap::new(),
            write_ends: BTreeMap::new(),
            writing: false,
            sealed: None,
            tokens: BTreeMap::new(),
        }
    }

    /// True where no cycle is begun and not finished.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.recovery_point.is_some()
    }

    /// The id of one of this incarnation's cycles.
    #[must_use]
    pub fn cycle(&self, cycle: Cycle) -> CycleId {
        CycleId { vm: self.vm, incarnation: self.incarnation, cycle }
    }

    /// True where `owner` may act on it as `incarnation`.
    ///
    /// # Errors
    /// [`Refusal::OwnedByOther`].
    pub fn owned_by(&self, owner: &Owner, incarnation: Incarnation) -> Result<(), Refusal> {
        if self.owner == *owner && self.incarnation == incarnation {
            Ok(())
        } else {
            Err(Refusal::OwnedByOther { owner: self.owner.clone(), incarnation: self.incarnation })
        }
    }

    /// Whether a gateway may go on with the cycle `of` that was computed from `basis`, and so with this ledger's baseline and fingerprints.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn supports(&self, owner: &Owner, of: CycleId, basis: Turn) -> Result<(), Refusal> {
        self.owned_by(owner, of.incarnation)?;
        if self.sealed.is_some() {
            return Err(Refusal::Sealed);
        }
        if (basis != self.turn || of.cycle <= self.begun) && !planted(Plant::BasisUnchecked) {
            return Err(Refusal::BasisPassed { cycle: of.cycle, basis, turn: self.turn });
        }
        Ok(())
    }

    /// What to do with a manifest whose blob has this digest.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&self, manifest: &Manifest, digest: Digest) -> Result<Admission, Refusal> {
        self.owned_by(&manifest.owner, manifest.of.incarnation)?;
        let cycle = manifest.of.cycle;
        let passed = Refusal::BasisPassed { cycle, basis: manifest.basis, turn: self.turn };
        let begun = self.dirty.iter().rev().find(|begun| begun.cycle == cycle);
        let admission = match begun {
            _ if cycle == self.begun && self.dirty.is_empty() => return Ok(Admission::Done),
            Some(begun) if begun.manifest != digest => return Err(Refusal::OtherManifest { cycle }),
            // A partial cycle that is covered has given all that it has.
            Some(begun) if cycle == self.begun && begun.covered => return Ok(Admission::Done),
            Some(_) if cycle == self.begun => Admission::Finish,
            _ if planted(Plant::BasisUnchecked) => Admission::Begin,
            _ if cycle > self.begun && manifest.basis == self.turn => Admission::Begin,
            _ => return Err(passed),
        };
        if self.sealed.is_some() {
            return Err(Refusal::Sealed);
        }
        let fits = |(disk, sent): (&DiskKey, &ManifestDisk)| self.seeds.get(disk).is_none_or(|seed| seed.capacity == sent.capacity);
        if manifest.block != self.block || !manifest.disks.iter().all(fits) {
            return Err(Refusal::OtherGeometry { cycle });
        }
        for disk in self.seeds.keys().chain(manifest.disks.keys()) {
            let (seed, sent) = (self.seeds.get(disk), manifest.disks.get(disk));
            let found = seed.map(|seed| &seed.unique_id);
            let expected = sent.map(|sent| &sent.seed);
            if found != expected && !planted(Plant::BaselineKeptForNewSeed) {
                let word = |id: Option<&String>| id.cloned().unwrap_or_else(|| "none".to_owned());
                return Err(Refusal::SeedReplaced { disk: *disk, expected: word(expected), found: word(found) });
            }
        }
        Ok(admission)
    }

    /// The dirty mark: durable before the first write of the turn. `write_end` is given where a seed is fenced by time.
    ///
    /// A turn that is still `writing` belongs to a writer that vanished: its cycle is lost until a seal has shown otherwise. A disk in mode
    /// `Full` loses its baseline: it is read in full because its change IDs can't be trusted, so what is written now is not covered by a delta
    /// from them.
    #[must_use]
    pub fn begin(&self, manifest: &Manifest, digest: Digest, write_end: Option<Timestamp>) -> Self {
        let mut next = self.clone();
        let cycle = manifest.of.cycle;
        if self.writing {
            next.lose(self.cycle(self.begun));
        }
        next.turn = self.turn.next();
        next.begun = cycle;
        if !planted(Plant::DirtyMarkLeftOut) && next.dirty.last().is_none_or(|begun| begun.cycle != cycle) {
            next.dirty.push(Begun { cycle, manifest: digest, covered: false });
        }
        next.writing = write_end.is_some();
        if let Some(end) = write_end {
            next.allow_until(manifest, end);
        }
        for (disk, sent) in &manifest.disks {
            if sent.mode == Mode::Full && !planted(Plant::BaselineKeptForNewSeed) {
                next.baseline.remove(disk);
            }
            if planted(Plant::ChangeIdBeforeClean)
                && let Some(change_id) = &sent.change_id
            {
                next.baseline.insert(*disk, change_id.clone());
            }
        }
        next
    }

    /// The same turn, which applies this manifest, with a later end of its fence; to be written before any write is sent that names it.
    #[must_use]
    pub fn extend(&self, manifest: &Manifest, write_end: Timestamp) -> Self {
        let mut next = self.clone();
        next.allow_until(manifest, write_end);
        next
    }

    fn allow_until(&mut self, manifest: &Manifest, end: Timestamp) {
        for disk in manifest.written() {
            let known = self.write_ends.entry(disk).or_insert(end);
            *known = end.max(*known);
        }
    }

    /// The turn is over, without the cycle being finished. Only with no write in doubt.
    #[must_use]
    pub fn abandon(&self) -> Self {
        Self { writing: false, ..self.clone() }
    }

    /// The end of a cycle whose writes are all acknowledged, flushed, and compared with its manifest. For a whole cycle this is the clean
    /// write: recovery point, change IDs and fingerprints at once. A partial one leaves the replica dirty, but its index now speaks truly of
    /// every block begun. `in_doubt`: a write of this turn on a time-fenced seed may still land.
    #[must_use]
    pub fn finish(
        &self,
        manifest: &Manifest,
        index: BTreeMap<DiskKey, IndexRef>,
        tokens: &BTreeMap<String, String>,
        in_doubt: bool,
    ) -> Self {
        let mut next = self.clone();
        next.index.extend(index);
        next.writing = false;
        if in_doubt {
            next.lose(manifest.of);
        }
        if manifest.partial() {
            next.dirty.iter_mut().for_each(|begun| begun.covered = true);
            return next;
        }
        next.dirty.clear();
        next.recovery_point = Some(RecoveryPoint {
            cycle: manifest.of.cycle,
            time: manifest.snapshot_taken,
            disks: manifest.disks.keys().copied().collect(),
        });
        for (disk, sent) in &manifest.disks {
            match &sent.change_id {
                Some(change_id) => next.baseline.insert(*disk, change_id.clone()),
                None => next.baseline.remove(disk),
            };
        }
        next.tokens.extend(tokens.clone());
        next
    }

    /// A seed was found missing or replaced, and a new one made in its place, all zero. What was known of the old one is void, and so is
    /// every cycle computed from it: this is a turn of its own. Until a cycle has covered the new seed there is no recovery point.
    #[must_use]
    pub fn reseed(&self, disk: DiskKey, seed: Seed) -> Self {
        let mut next = self.clone();
        next.turn = self.turn.next();
        next.seeds.insert(disk, seed);
        next.recovery_point = None;
        if !planted(Plant::BaselineKeptForNewSeed) {
            next.baseline.remove(&disk);
            next.index.insert(disk, IndexRef::Zero);
        }
        next
    }

    /// A disk takes no part any more. What was computed with it is void, so this is a turn of its own; the recovery point is one of the other
    /// disks.
    #[must_use]
    pub fn retire(&self, disk: DiskKey) -> Self {
        let mut next = self.clone();
        next.turn = self.turn.next();
        next.seeds.remove(&disk);
        next.baseline.remove(&disk);
        next.index.remove(&disk);
        next.write_ends.remove(&disk);
        if let Some(point) = &mut next.recovery_point {
            point.disks.retain(|one| *one != disk);
        }
        next
    }

    /// A disk's fingerprints can't be read any more. It goes on without them: a delta needs none, and a `Full` disk is sent whole once. What was
    /// computed with them is void, so this is a turn of its own.
    #[must_use]
    pub fn forget_fingerprints(&self, disk: DiskKey) -> Self {
        let mut next = self.clone();
        next.turn = self.turn.next();
        next.index.remove(&disk);
        if next.index.is_empty() {
            // Nothing is left that the begun cycles' manifests would have to mask.
            next.dirty.iter_mut().for_each(|begun| begun.covered = true);
        }
        next
    }

    /// Another owner takes the replica over, knowingly, from the same baseline. The lease was broken and [`crate::store::LEASE`] has passed
    /// since. The fingerprints lie in the old incarnation's folder and do not come along; a delta needs none.
    #[must_use]
    pub fn take_over(&self, owner: Owner, incarnation: Incarnation) -> Self {
        let mut next = self.clone();
        if self.writing {
            next.lose(self.cycle(self.begun));
        }
        next.writing = false;
        next.turn = self.turn.next();
        next.owner = owner;
        next.incarnation = incarnation;
        next.index.clear();
        // Their manifests lie in the old incarnation, and masked fingerprints that do not exist.
        next.dirty.iter_mut().for_each(|begun| begun.covered = true);
        next
    }

    /// The cycles whose blocks the index does not speak of truly.
    pub fn masked(&self) -> impl Iterator<Item = &Begun> {
        self.dirty.iter().filter(|begun| !begun.covered && !planted(Plant::FingerprintsOfBegunKept))
    }

    fn lose(&mut self, cycle: CycleId) {
        if !self.lost.contains(&cycle) {
            self.lost.push(cycle);
        }
    }
}

#[cfg(test)]
mod tests;
