//! What a pass over a ReplicatedVM can do.

use azure::ResourceId;
use blocklog::ids::{Cycle, CycleId, DiskKey};
use crds::reasons::Reason;

use crate::{pass, seeds::Which};

/// Where a chain of a VM's checks ends.
pub type End = pass::End<Step>;
/// What a pass over a VM decides.
pub type Decision = pass::Decision<Step>;

/// A disk to make, and the seed that it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSeed {
    /// Which.
    pub which: Which,
    /// For so many bytes of the source.
    pub capacity: u64,
    /// True where a disk of the name stands that can't become the seed: it goes first.
    pub replace: bool,
}

/// A disk that stands, and is to become a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadySeed {
    pub disk: DiskKey,
    pub id: ResourceId,
    /// Azure's id of that very disk.
    pub unique_id: String,
    /// For so many bytes of the source.
    pub capacity: u64,
}

/// The one thing that a pass does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    None,
    /// Puts the finalizer on the object.
    Hold,
    /// Draws an incarnation and writes it to the status.
    DrawIncarnation,
    /// Takes the ledger of another owner.
    TakeOver,
    /// Makes managed disks.
    MakeDisks(Vec<NewSeed>),
    /// Grants, formats, and makes the first ledger.
    CreateLedger(Vec<ReadySeed>),
    /// Grants, formats, and exchanges these in the ledger.
    Reseed(Vec<ReadySeed>),
    /// Has the ledger forget these disks.
    Retire(Vec<DiskKey>),
    /// Deletes seed disks that were replaced.
    SweepSeeds(Vec<ResourceId>),
    /// Switches changed block tracking on.
    SwitchTracking,
    /// Looks who has the appliance's slots, and decides anew.
    LookAtSlots,
    /// Claims a number above this one.
    Claim(Cycle),
    /// Makes the object of a cycle.
    MakeCycle {
        of: CycleId,
        /// Who shall run it.
        worker: Option<String>,
    },
    /// Gives a cycle to a gateway.
    Assign { cycle: String, worker: String },
    /// Ends cycles before their time.
    Cancel {
        /// Their objects.
        cycles: Vec<String>,
        reason: Reason,
    },
    /// Grants write access, and writes the order or renews it.
    WriteOrder(CycleId),
    /// Takes back an order that nothing needs.
    DropOrder,
    /// A cycle is over on both sides: its order goes, its log is cleaned up, then its finalizer.
    Close {
        cycle: String,
        /// Whether the order is its.
        order: bool,
    },
    /// Removes snapshots of ours that no cycle needs.
    ReleaseSnapshots,
    /// Removes what is left of a replica, all that can be reached.
    CleanUp(Vec<Remains>),
    /// Stopped and clean: the status forgets the replica.
    Forget,
    /// Nothing is left, or it is given up: the finalizers go.
    LetGo,
    /// Deletes the objects of old cycles.
    Prune(Vec<String>),
}

/// What is left of a replica, in the order in which it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remains {
    /// Snapshots of ours.
    Snapshots,
    Order,
    /// Seed disks.
    Seeds(Vec<ResourceId>),
    Log,
    Ledger,
}

impl Step {
    /// The step in words, for the log and for people.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Hold => "put the finalizer on the object",
            Self::DrawIncarnation => "draw an incarnation",
            Self::TakeOver => "take the ledger over",
            Self::MakeDisks(_) => "make seed disks",
            Self::CreateLedger(_) => "format the seed disks and create the ledger",
            Self::Reseed(_) => "put new seed disks into the ledger",
            Self::Retire(_) => "take disks out of the ledger",
            Self::SweepSeeds(_) => "delete replaced seed disks",
            Self::SwitchTracking => "switch changed block tracking on",
            Self::LookAtSlots => "look at the appliance's slots",
            Self::Claim(_) => "claim a cycle",
            Self::MakeCycle { .. } => "create the cycle's object",
            Self::Assign { .. } => "assign the cycle to another gateway",
            Self::Cancel { .. } => "cancel cycles",
            Self::WriteOrder(_) => "write the order",
            Self::DropOrder => "delete the order",
            Self::Close { .. } => "close the cycle",
            Self::ReleaseSnapshots => "remove snapshots that no cycle needs",
            Self::CleanUp(_) => "clean up",
            Self::Forget => "forget the replica",
            Self::LetGo => "take the finalizers off",
            Self::Prune(_) => "delete old cycles",
        }
    }

    /// What the step is done to: disks by key, cycles by name or number.
    #[must_use]
    pub fn subject(&self) -> Option<String> {
        let join = |all: &mut dyn Iterator<Item = String>| Some(all.collect::<Vec<_>>().join(", "));
        match self {
            Self::MakeDisks(new) => join(&mut new.iter().map(|new| new.which.disk.to_string())),
            Self::CreateLedger(ready) | Self::Reseed(ready) => join(&mut ready.iter().map(|ready| ready.disk.to_string())),
            Self::Retire(disks) => join(&mut disks.iter().map(ToString::to_string)),
            Self::SweepSeeds(ids) => join(&mut ids.iter().map(|id| id.name.clone())),
            Self::Claim(above) => Some(format!("above {above}")),
            Self::MakeCycle { of, .. } | Self::WriteOrder(of) => Some(of.cycle.to_string()),
            Self::Assign { cycle, .. } | Self::Close { cycle, .. } => Some(cycle.clone()),
            Self::Cancel { cycles, .. } | Self::Prune(cycles) => join(&mut cycles.iter().cloned()),
            Self::CleanUp(remains) => join(&mut remains.iter().map(|remain| remain.words().to_owned())),
            Self::None
            | Self::Hold
            | Self::DrawIncarnation
            | Self::TakeOver
            | Self::SwitchTracking
            | Self::LookAtSlots
            | Self::DropOrder
            | Self::ReleaseSnapshots
            | Self::Forget
            | Self::LetGo => None,
        }
    }

    /// The gateway that a cycle is given to.
    #[must_use]
    pub fn worker(&self) -> Option<&str> {
        match self {
            Self::MakeCycle { worker, .. } => worker.as_deref(),
            Self::Assign { worker, .. } => Some(worker),
            _ => None,
        }
    }

    /// Why cycles are cancelled.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Cancel { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

impl Remains {
    /// What is left, in words.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::Snapshots => "snapshots",
            Self::Order => "the order",
            Self::Seeds(_) => "seed disks",
            Self::Log => "the log",
            Self::Ledger => "the ledger",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_in_words_with_what_it_is_done_to() {
        let new = |disk| NewSeed {
            which: Which { incarnation: blocklog::ids::Incarnation(uuid::Uuid::nil()), disk: DiskKey(disk), instance: 1 },
            capacity: 1,
            replace: false,
        };
        let step = Step::MakeDisks(vec![new(2000), new(2001)]);
        assert_eq!((step.words(), step.subject().as_deref()), ("make seed disks", Some("2000, 2001")));
        let step = Step::Assign { cycle: "web-4".into(), worker: "gw-2".into() };
        assert_eq!((step.subject().as_deref(), step.worker()), (Some("web-4"), Some("gw-2")));
        let step = Step::Cancel { cycles: vec!["web-4".into()], reason: Reason::Stopped };
        assert_eq!((step.words(), step.reason()), ("cancel cycles", Some(Reason::Stopped)));
        assert_eq!(Step::LetGo.subject(), None);
    }
}
