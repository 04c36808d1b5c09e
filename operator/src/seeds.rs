//! Seed disks: how they are called, and what becomes of each.
//!
//! A seed's name is known before the disk exists (incarnation and instance are in it), so a disk that a crash left half made is found by
//! its name and gone on with. Whose it is say its tags; what has other tags is never touched.

use std::collections::BTreeMap;

use azure::{ResourceId, disks::Disk};
use blocklog::{
    ids::{DiskKey, Incarnation, Owner},
    ledger::Ledger,
};
use crds::reasons::Reason;

/// Tag: the owner of the ledger, `CLUSTER/NAMESPACE/NAME`.
pub const OWNER_TAG: &str = "hawser-owner";
/// Tag: the start of replication.
pub const INCARNATION_TAG: &str = "hawser-incarnation";
/// Tag: VMware's key of the disk.
pub const DISK_TAG: &str = "hawser-disk";
/// Tag: which seed of the disk it is.
pub const INSTANCE_TAG: &str = "hawser-instance";
/// The longest name of a managed disk.
const NAME_MAX: usize = 80;

/// Which seed a disk is: what its name and its tags say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Which {
    /// The start of replication.
    pub incarnation: Incarnation,
    pub disk: DiskKey,
    /// Which of its seeds: 1, then the ledger's turn and 2.
    pub instance: u64,
}

impl Which {
    /// The name of the managed disk for the ReplicatedVM `vm`.
    #[must_use]
    pub fn name(&self, vm: &str) -> String {
        let end = format!("-{}-{}-{}", self.disk, &self.incarnation.to_string()[..8], self.instance);
        // A VM's name has 50 characters at the most, so nothing is cut but for disks that a VM can't have.
        let room = NAME_MAX - "hawser-".len() - end.len();
        let vm: String = vm.chars().take(room).collect();
        format!("hawser-{vm}{end}")
    }

    /// The tags, on top of the user's.
    #[must_use]
    pub fn tags(&self, owner: &Owner, users: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let own = [
            (OWNER_TAG, owner.to_string()),
            (INCARNATION_TAG, self.incarnation.to_string()),
            (DISK_TAG, self.disk.to_string()),
            (INSTANCE_TAG, self.instance.to_string()),
        ];
        let mut tags = users.clone();
        tags.extend(own.map(|(name, value)| (name.to_owned(), value)));
        tags
    }

    /// Which seed of `owner` a disk is; none where it is not one of that owner's.
    #[must_use]
    pub fn of(owner: &Owner, disk: &Disk) -> Option<Self> {
        let tag = |name: &str| disk.tags.iter().find(|(tag, _)| tag.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        if tag(OWNER_TAG)? != owner.to_string() {
            return None;
        }
        let incarnation = uuid::Uuid::parse_str(tag(INCARNATION_TAG)?).ok()?;
        Some(Self {
            incarnation: Incarnation(incarnation),
            disk: DiskKey(tag(DISK_TAG)?.parse().ok()?),
            instance: tag(INSTANCE_TAG)?.parse().ok()?,
        })
    }
}

/// A disk of the source that is to be replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceDisk {
    /// VMware's key.
    pub key: DiskKey,
    /// In bytes.
    pub capacity: u64,
}

/// Why a seed is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The disk is new.
    New,
    /// Its seed is gone.
    Missing,
    /// What has its seed's name is another disk, or one that can't be written any more.
    Replaced,
    /// The source's disk has another size now.
    Grown,
}

impl Why {
    /// The word.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::New => Reason::SeedsBeingMade,
            Self::Missing => Reason::SeedMissing,
            Self::Replaced => Reason::SeedReplaced,
            Self::Grown => Reason::SourceGrown,
        }
    }
}

/// What becomes of the seed of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It is the one that the ledger names.
    Keep,
    /// A new one is to be made.
    Make {
        /// Which.
        which: Which,
        /// For so many bytes of the source.
        capacity: u64,
        why: Why,
        /// The disk, where a pass before this one has made it.
        made: Option<Box<Disk>>,
    },
    /// The disk takes no part any more: the ledger forgets it, the seed disk stays.
    Leave,
}

/// What is known when seeds are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// Whose they are.
    pub owner: &'a Owner,
    /// The start of replication.
    pub incarnation: Incarnation,
    /// The source's disks that are to be replicated.
    pub source: &'a [SourceDisk],
    /// The ledger; none before it is made.
    pub ledger: Option<&'a Ledger>,
    /// The managed disks: those of the resource group, and those that the ledger names.
    pub disks: &'a [Disk],
}

/// What becomes of each disk's seed.
#[must_use]
pub fn plan(look: &Look<'_>) -> BTreeMap<DiskKey, Plan> {
    let mut plans: BTreeMap<DiskKey, Plan> = look.source.iter().map(|disk| (disk.key, of_disk(look, *disk))).collect();
    for key in look.ledger.iter().flat_map(|ledger| ledger.seeds.keys()) {
        plans.entry(*key).or_insert(Plan::Leave);
    }
    plans
}

fn of_disk(look: &Look<'_>, source: SourceDisk) -> Plan {
    let named = look.ledger.and_then(|ledger| ledger.seeds.get(&source.key));
    let why = match named {
        None => Why::New,
        Some(seed) if seed.capacity != source.capacity => Why::Grown,
        Some(seed) => match find(look.disks, &seed.id) {
            None => Why::Missing,
            Some(disk) if is_seed(disk, &seed.unique_id) => return Plan::Keep,
            Some(_) => Why::Replaced,
        },
    };
    let which = Which { incarnation: look.incarnation, disk: source.key, instance: instance(look.ledger) };
    let made = look.disks.iter().find(|disk| Which::of(look.owner, disk) == Some(which)).cloned().map(Box::new);
    Plan::Make { which, capacity: source.capacity, why, made }
}

/// The instance of a seed that is made now. It follows from the ledger's turn, and a seed gets into a ledger by a turn of its own: so a
/// disk with this instance was never in the ledger, and nothing but a footer was ever written to it, whatever passes before this one have
/// done.
fn instance(ledger: Option<&Ledger>) -> u64 {
    ledger.map_or(1, |ledger| ledger.turn.0 + 2)
}

/// True where a disk that was made before can become the seed of a source of `capacity` bytes.
#[must_use]
pub fn fits(disk: &Disk, capacity: u64) -> bool {
    !disk.failed && disk.state.is_upload() && disk.content == Some(azure::disks::content(capacity))
}

fn find<'a>(disks: &'a [Disk], id: &str) -> Option<&'a Disk> {
    disks.iter().find(|disk| is_id(disk, id))
}

fn is_id(disk: &Disk, id: &str) -> bool {
    ResourceId::parse(id).is_ok_and(|id| id == disk.id)
}

fn is_seed(disk: &Disk, unique_id: &str) -> bool {
    // Azure writes UUIDs in either case.
    disk.unique_id.eq_ignore_ascii_case(unique_id) && disk.state.is_upload()
}

/// Disks of ours whose place a clean seed has taken, in the order of their names. None while the replica is dirty: the old one stays
/// until the new one holds all of it. A disk that takes no part any more keeps its seed.
#[must_use]
pub fn sweep(owner: &Owner, ledger: &Ledger, disks: &[Disk]) -> Vec<ResourceId> {
    if !ledger.is_clean() {
        return Vec::new();
    }
    let named = |disk: &Disk| ledger.seeds.values().any(|seed| is_id(disk, &seed.id));
    let replaced = |disk: &&Disk| Which::of(owner, disk).is_some_and(|which| ledger.seeds.contains_key(&which.disk)) && !named(disk);
    let mut ids: Vec<ResourceId> = disks.iter().filter(replaced).map(|disk| disk.id.clone()).collect();
    ids.sort_by_key(ToString::to_string);
    ids
}

/// All disks that go when replication stops: the owner's, and those that its ledger names (which a take-over left with another's tags).
#[must_use]
pub fn all(owner: &Owner, ledger: Option<&Ledger>, disks: &[Disk]) -> Vec<ResourceId> {
    let named = |disk: &Disk| {
        let mut seeds = ledger.iter().flat_map(|ledger| ledger.seeds.values());
        seeds.any(|seed| is_id(disk, &seed.id) && disk.unique_id.eq_ignore_ascii_case(&seed.unique_id))
    };
    disks.iter().filter(|disk| Which::of(owner, disk).is_some() || named(disk)).map(|disk| disk.id.clone()).collect()
}

#[cfg(test)]
#[path = "seeds/tests.rs"]
mod tests;
