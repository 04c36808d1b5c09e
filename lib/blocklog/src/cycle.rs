//! The documents of one cycle: state, manifest, order, receipt. What each field means to the protocol stands with it; who may write which,
//! and when, in `docs/log-format.md`.

use std::collections::BTreeMap;

use extents::ExtentSet;
use jiff::Timestamp;
use reasons::Reason;
use serde::{Deserialize, Serialize};

use crate::{
    document::Document,
    entropy::Entropy,
    error::LogError,
    ids::{ChangeId, Cycle, CycleId, Digest, DiskKey, Epoch, Incarnation, Owner, Turn, VmId},
    keys::{KeyRing, Sealed, Secret, epoch_binding},
    names,
    segment::SegmentRef,
};

/// How a disk goes through a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The areas changed since the baseline.
    Changed,
    /// Every block that differs from its fingerprint or has none.
    Full,
}

impl Mode {
    /// The word that documents and people have for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "Changed",
            Self::Full => "Full",
        }
    }
}

/// The data keys of a cycle, each wrapped for its epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epochs(BTreeMap<Epoch, Sealed>);

impl Epochs {
    /// The last one claimed.
    #[must_use]
    pub fn last(&self) -> Option<Epoch> {
        self.0.keys().next_back().copied()
    }

    /// A new data key, wrapped for `epoch`.
    pub fn add(&mut self, keys: &KeyRing, of: CycleId, epoch: Epoch, entropy: &dyn Entropy) -> Secret {
        let mut plain = zeroize::Zeroizing::new([0; 32]);
        entropy.fill(plain.as_mut_slice());
        self.0.insert(epoch, keys.seal("data key", &epoch_binding(of, epoch), plain.as_slice(), entropy));
        Secret::new(*plain)
    }

    /// Only the epochs that `wanted` names.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(Epoch) -> bool) -> Self {
        Self(self.0.iter().filter(|(epoch, _)| wanted(**epoch)).map(|(epoch, key)| (*epoch, key.clone())).collect())
    }

    /// The data key of an epoch; `name` is the document that holds it.
    ///
    /// # Errors
    /// [`LogError::Damaged`] where the epoch is unknown or its key cannot be unwrapped, [`LogError::KeyMissing`].
    pub fn open(&self, keys: &KeyRing, of: CycleId, epoch: Epoch, name: &str) -> Result<Secret, LogError> {
        let sealed = self.0.get(&epoch).ok_or_else(|| LogError::damaged(name, format!("it holds no key of epoch {epoch}")))?;
        let plain = keys.open("data key", &epoch_binding(of, epoch), sealed, name)?;
        let bytes = <[u8; 32]>::try_from(plain.as_slice()).map_err(|_| LogError::damaged(name, "a data key is not of 32 bytes"))?;
        Ok(Secret::new(bytes))
    }
}

/// The gateway's progress in a cycle: what a successor goes on from. Created by whoever starts the cycle, then written only under its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct State {
    /// The cycle.
    pub of: CycleId,
    /// Whose replica it is for.
    pub owner: Owner,
    /// The turn that the cycle is computed from.
    pub basis: Turn,
    /// What has become of it.
    pub phase: Phase,
    /// One for each start of a gateway.
    pub epochs: Epochs,
    /// The snapshot, or that one is about to be taken.
    pub snapshot: SnapshotNote,
    /// What was asked for each disk; empty until the first gateway has decided it.
    pub disks: BTreeMap<DiskKey, DiskProgress>,
}

/// What has become of a cycle on the source's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It goes on.
    Open,
    /// Its manifest is written.
    Sent,
    /// It can't be finished, for this reason: no manifest will be written.
    Failed(Reason),
}

/// The snapshot of a cycle as its state knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SnapshotNote {
    /// None was asked for.
    None,
    /// The call to take one may have been made.
    Intended,
    /// It was taken.
    Taken(Snapshot),
    /// It is gone, and nothing is left to consolidate.
    Released,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Snapshot {
    /// VMware's managed object reference, or what stands for it.
    pub reference: String,
    /// When it was taken.
    pub taken: Timestamp,
    /// Each disk's pending change ID, from the snapshot's configuration; none where changes are not tracked.
    pub change_ids: BTreeMap<DiskKey, Option<ChangeId>>,
}

/// How far one disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DiskProgress {
    /// How it goes through the cycle; decided once.
    pub mode: Mode,
    /// The segments that are durable, by the epoch that wrote them, in order.
    pub runs: Vec<Run>,
    /// True once all of it was read and the snapshot still stood.
    pub read: bool,
    /// For people: what was done for it so far, as far as it was recorded.
    pub figures: Figures,
}

/// The segments `0..durable` of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Run {
    /// The epoch.
    pub epoch: Epoch,
    /// How many are durable.
    pub durable: u32,
    /// How many of those were read before the snapshot was last seen standing. The rest counts only once it is seen again.
    pub checked: u32,
}

/// What commits a cycle's log: written once, when every segment that it names is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    /// The cycle.
    pub of: CycleId,
    /// Whose replica it is for.
    pub owner: Owner,
    /// The turn that it was computed from: it can be applied on that one only.
    pub basis: Turn,
    /// Bytes of a block, of which fingerprints are made.
    pub block: u32,
    /// When the snapshot was taken: the recovery point that the cycle makes.
    pub snapshot_taken: Timestamp,
    /// The data keys of the epochs whose segments count.
    pub epochs: Epochs,
    /// Every disk of the cycle.
    pub disks: BTreeMap<DiskKey, ManifestDisk>,
}

/// One disk of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ManifestDisk {
    /// The unique id of the seed that the cycle was computed for.
    pub seed: String,
    /// Bytes of the source's disk.
    pub capacity: u64,
    /// How it went through the cycle.
    pub mode: Mode,
    /// True where the snapshot was lost before all of a `Full` disk was read: what is here is sound, the rest is missing.
    pub partial: bool,
    /// The change ID that the next delta starts from.
    pub change_id: Option<ChangeId>,
    /// The sectors that the records cover.
    pub extents: ExtentSet,
    /// The segments that count. Their records are disjoint.
    pub segments: Vec<SegmentRef>,
    /// For people.
    pub figures: Figures,
}

/// Byte counts of one disk in one cycle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Figures {
    /// What had to be looked at: the changed areas, or the disk.
    pub changed: u64,
    /// What was read from the source, by all epochs together as far as it was recorded.
    pub read: u64,
    /// What went into the log: the sizes of the segments that count.
    pub uploaded: u64,
    /// What was found in place by its fingerprint.
    pub in_place: u64,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.changed += other.changed;
        self.read += other.read;
        self.uploaded += other.uploaded;
        self.in_place += other.in_place;
    }
}

impl Manifest {
    /// The disks of which something changed. To the others nothing is written: they need neither access nor fence.
    pub fn written(&self) -> impl Iterator<Item = DiskKey> {
        self.disks.iter().filter(|(_, sent)| !sent.extents.is_empty() || !sent.segments.is_empty()).map(|(disk, _)| *disk)
    }

    /// True where a disk is missing a part: the cycle can't make the replica clean.
    #[must_use]
    pub fn partial(&self) -> bool {
        self.disks.values().any(|disk| disk.partial)
    }
}

/// What the applier shall apply, with the access that it needs. Replaced in place when the access is renewed, deleted to cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Order {
    /// The cycle.
    pub of: CycleId,
    /// Whose replica it is.
    pub owner: Owner,
    /// The digest of the manifest's blob.
    pub manifest: Digest,
    /// The seed of each disk that is written to ([`Manifest::written`]). More do no harm.
    pub seeds: BTreeMap<DiskKey, OrderSeed>,
    /// What the clean write shall echo as done: trigger tokens by their name.
    pub tokens: BTreeMap<String, String>,
}

/// A seed as an order names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OrderSeed {
    /// The unique id that the disk has to carry.
    pub unique_id: String,
    /// How to write it, sealed by the appliance's key for this seed.
    pub access: Sealed,
}

impl OrderSeed {
    /// Seals an access (a JSON text of `replica`'s).
    #[must_use]
    pub fn seal(
        keys: &KeyRing,
        vm: VmId,
        incarnation: Incarnation,
        disk: DiskKey,
        unique_id: &str,
        access: &[u8],
        entropy: &dyn Entropy,
    ) -> Self {
        let access = keys.seal("access", &seed_binding(vm, incarnation, disk, unique_id), access, entropy);
        Self { unique_id: unique_id.to_owned(), access }
    }

    /// Opens it; `name` is the order's.
    ///
    /// # Errors
    /// As [`KeyRing::open`].
    pub fn open(
        &self,
        keys: &KeyRing,
        vm: VmId,
        incarnation: Incarnation,
        disk: DiskKey,
        name: &str,
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, LogError> {
        keys.open("access", &seed_binding(vm, incarnation, disk, &self.unique_id), &self.access, name)
    }
}

fn seed_binding(vm: VmId, incarnation: Incarnation, disk: DiskKey, unique_id: &str) -> Vec<u8> {
    [vm.vcenter.as_bytes(), vm.instance.as_bytes(), incarnation.0.as_bytes(), disk.0.to_le_bytes().as_slice(), unique_id.as_bytes()]
        .concat()
}

/// What the applier says it did: figures for people, never the truth about the replica (that is the ledger).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Receipt {
    /// The cycle.
    pub of: CycleId,
    /// The manifest that was applied.
    pub manifest: Digest,
    /// The turn that applied it.
    pub turn: Turn,
    /// When.
    pub at: Timestamp,
    /// Each disk.
    pub disks: BTreeMap<DiskKey, ReceiptDisk>,
}

/// One disk of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ReceiptDisk {
    /// Bytes written.
    pub written: u64,
    /// Bytes cleared.
    pub cleared: u64,
    /// The digest of the sectors whose writes were acknowledged; it equals that of the manifest's extents.
    pub extents: Digest,
}

/// By which a wrong key is known before anything else is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeyCheck {
    /// When the log store was set up with this version of the key.
    pub since: Timestamp,
}

impl Document for State {
    const KIND: &'static str = "state";
}
impl Document for Manifest {
    const KIND: &'static str = "manifest";
}
impl Document for Order {
    const KIND: &'static str = "order";
}
impl Document for Receipt {
    const KIND: &'static str = "receipt";
}
impl Document for KeyCheck {
    const KIND: &'static str = "keycheck";
}

impl State {
    /// A cycle that nobody has worked on.
    #[must_use]
    pub fn new(of: CycleId, owner: Owner, basis: Turn) -> Self {
        Self { of, owner, basis, phase: Phase::Open, epochs: Epochs::default(), snapshot: SnapshotNote::None, disks: BTreeMap::new() }
    }

    /// The blob's name.
    #[must_use]
    pub fn name(&self) -> String {
        names::state(self.of)
    }
}

/// The cycle after `cycle`.
#[must_use]
pub fn next(cycle: Cycle) -> Cycle {
    Cycle(cycle.0 + 1)
}

/// For fuzzing: whatever the bytes are, reading them as a manifest neither panics nor allocates more than a small multiple of their length.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let keys = KeyRing::single(1, Secret::new([7; 32]));
    let _ = crate::document::decode::<Manifest>(&keys, "fuzz", data);
    // Behind the MAC, which no fuzzer gets past.
    let text = data.iter().position(|byte| *byte == b'\n').map_or(data, |end| &data[end + 1..]);
    let _ = crate::document::parse::<Manifest>("fuzz", text);
}

#[cfg(test)]
mod tests;
