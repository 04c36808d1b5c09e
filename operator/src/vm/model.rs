//! What a pass over a ReplicatedVM sees: values, so that what is decided can be tested without anybody to talk to.

use std::{collections::BTreeMap, sync::Arc};

use azure::disks::Disk;
use blocklog::{
    cycle::{Manifest, Phase, Receipt, State},
    ids::{Cycle, CycleId, DiskKey, Owner, VmId},
    ledger::Ledger,
    setback::Setback,
    steward::{Due, GivenUp},
};
use crds::{
    ReplicatedVM, ReplicationCycle, Unreadable,
    conditions::{self, ConditionType, Status},
    names,
    replicated_vm::{Concern, LastCycle},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    admission::{Candidate, Holder, Limits},
    cycle::mirror::Mirrored,
    objects::{cycle_id, is_held_by},
    trouble::Trouble,
};

/// How long to wait for an unready gateway before its cycle moves to another one.
pub const GATEWAY_PATIENCE: SignedDuration = SignedDuration::from_mins(1);
/// How long write access to a seed is granted for.
pub const GRANT: SignedDuration = SignedDuration::from_hours(24);

/// What is known of the appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplianceState {
    /// There is none of this name.
    Missing,
    /// Nothing can be asked through it yet: a Secret is missing, a certificate is no certificate.
    Unbuilt(Trouble),
    /// It is there, and something is not as it should be.
    NotReady(String),
    Ready,
}

/// A disk of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDisk {
    /// VMware's key.
    pub key: DiskKey,
    /// What stays of it when its files move.
    pub uuid: Option<String>,
    /// For people.
    pub label: String,
    /// In bytes.
    pub capacity: u64,
    /// Whether it is left out.
    pub excluded: bool,
}

/// The VM as vCenter tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What names it for good.
    pub id: VmId,
    pub mo_ref: String,
    pub name: String,
    pub host: Option<String>,
    /// `PoweredOn`, `PoweredOff` or `Suspended`.
    pub power: Option<&'static str>,
    /// Since when it was seen off without a break; none where it is not off, or vCenter is not heard.
    pub off_since: Option<Timestamp>,
    pub disks: Vec<SourceDisk>,
    /// What stands in the way, accepted or not.
    pub concerns: Vec<Concern>,
    /// What a new cycle waits for, on the source's side.
    pub busy: Option<Trouble>,
    /// A datastore of its disks is so full that no snapshot of ours may stand there any longer.
    pub pressed: Option<Trouble>,
    /// Changed block tracking is off, and Hawser may and can switch it on.
    pub tracking_off: bool,
    /// Where its disks have to be consolidated: other VMs that have a file of them, too.
    pub held_by: Vec<String>,
    /// Our snapshots of it: their names, by cycle.
    pub snapshots: BTreeMap<Cycle, String>,
    /// The previous owner, if its snapshot is still on the VM. Only we can remove it.
    pub left_by: Option<Owner>,
    /// When the oldest of them was taken, by vCenter's clock.
    pub oldest_snapshot: Option<Timestamp>,
}

/// What an applier's order says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderSeen {
    pub of: CycleId,
    /// The unique id of each seed that it gives access to.
    pub seeds: BTreeMap<DiskKey, String>,
}

/// A cycle's object and what the log says of it.
#[derive(Debug, Clone)]
pub struct CycleSeen {
    pub object: Arc<ReplicationCycle>,
    /// Its state; none where it is gone, or was not looked at because the cycle is over.
    pub state: Option<State>,
    /// False where its state could not be looked at: then it says nothing, not even that it is gone.
    pub readable: bool,
    /// What it was to write, and what was written: read when the ledger is clean by it.
    pub proof: Option<Arc<(Manifest, Receipt)>>,
}

impl CycleSeen {
    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> String {
        self.object.metadata.name.clone().unwrap_or_default()
    }

    /// The id of the cycle; none where the object's fields are no ids.
    #[must_use]
    pub fn id(&self) -> Option<CycleId> {
        cycle_id(&self.object)
    }

    /// The conditions, the gateway's and the operator's.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        self.object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }

    /// True while the operator has not closed the cycle: its finalizer stands.
    #[must_use]
    pub fn is_held(&self) -> bool {
        is_held_by(self.object.as_ref(), names::SNAPSHOT_FINALIZER)
    }

    /// True where somebody has taken the cycle back.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.object.spec.cancel.is_some()
    }

    /// True as long as a gateway may be reading: the log is neither complete nor given up.
    #[must_use]
    pub fn is_read(&self) -> bool {
        let decided = conditions::get(self.conditions(), ConditionType::Transferred)
            .is_some_and(|condition| condition.status != Status::Unknown.as_str());
        !decided && !self.state.as_ref().is_some_and(|state| state.phase != Phase::Open)
    }

    /// True where a gateway is still at a cycle that will never be applied, and does not know it: its snapshot grows for nothing.
    #[must_use]
    pub fn is_in_vain(&self, mirrored: &Mirrored) -> bool {
        mirrored.applied.status == Status::False && !mirrored.released && self.is_read() && !self.is_cancelled()
    }
}

/// A gateway's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub name: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Since when it is what it is.
    pub since: Timestamp,
}

/// The disk slots of the appliance and its hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    pub holders: Vec<Holder>,
    /// Who waits for some, this VM not among them.
    pub waiting: Vec<Candidate>,
    /// How many there are.
    pub limits: Limits,
    /// How many cycles each gateway has.
    pub busy: BTreeMap<String, usize>,
}

impl Slots {
    /// As they are for one that goes before all who wait.
    #[must_use]
    pub fn before_all(&self) -> Self {
        Self { waiting: Vec::new(), ..self.clone() }
    }
}

/// What a pass saw.
#[derive(Debug, Clone)]
pub struct Observed {
    pub now: Timestamp,
    pub object: Arc<ReplicatedVM>,
    /// Who we are to ledgers.
    pub owner: Owner,
    pub appliance: ApplianceState,
    pub source: Result<Source, Trouble>,
    pub ledger: Result<Option<Ledger>, Trouble>,
    /// The managed disks: of the resource group those that are ours, and those that the ledger names.
    pub disks: Result<Vec<Disk>, Trouble>,
    /// What the log says is to be done; of a ledger of ours alone.
    pub due: Result<Option<Due>, Trouble>,
    /// Cycles that the log says will never be applied.
    pub given_up: Vec<GivenUp>,
    /// Why the cycle that is to be applied could not be so far, as its applier says.
    pub setback: Option<Setback>,
    pub order: Result<Option<OrderSeen>, Trouble>,
    /// The cycles' objects, by number.
    pub cycles: Vec<CycleSeen>,
    /// Cycles' objects that this version can't read.
    pub unreadable: Vec<Arc<Unreadable>>,
    pub gateways: Vec<Gateway>,
    /// The slots; looked at only where a cycle asks for some.
    pub slots: Option<Slots>,
    /// Blobs of the VM beside the ledger; looked for only when it is cleaned up.
    pub blobs: Result<usize, Trouble>,
}

impl Observed {
    /// True where a person has asked for the object to go.
    #[must_use]
    pub fn deleting(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// The ledger, where it is ours.
    #[must_use]
    pub fn ours(&self) -> Option<&Ledger> {
        self.ledger.as_ref().ok()?.as_ref().filter(|ledger| ledger.owner == self.owner)
    }

    /// True where a cycle is going on.
    #[must_use]
    pub fn running(&self) -> bool {
        matches!(self.due, Ok(Some(Due::Apply { .. } | Due::Resume(_))))
    }

    /// True where a cycle was claimed, and nothing of it goes on yet: no snapshot of it stands, and its log is not complete.
    #[must_use]
    pub fn only_claimed(&self) -> bool {
        let stands = |cycle: Cycle| self.source.as_ref().is_ok_and(|source| source.snapshots.contains_key(&cycle));
        matches!(&self.due, Ok(Some(Due::Resume(state))) if !stands(state.of.cycle))
    }

    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether a pod of this name may still be at work.
    #[must_use]
    pub fn alive(&self, worker: &str) -> bool {
        let pod = self.gateways.iter().find(|gateway| gateway.name == worker);
        pod.is_some_and(|pod| pod.ready || self.now.duration_since(pod.since) < GATEWAY_PATIENCE)
    }

    /// The ready gateway with the least to do, as far as that was looked at.
    #[must_use]
    pub fn free_gateway(&self) -> Option<&Gateway> {
        let cycles = |gateway: &Gateway| self.slots.as_ref().and_then(|slots| slots.busy.get(&gateway.name)).copied().unwrap_or_default();
        self.gateways.iter().filter(|gateway| gateway.ready).min_by_key(|gateway| (cycles(gateway), &gateway.name))
    }

    /// True where the order that stands is a cycle's.
    #[must_use]
    pub fn is_ordered(&self, cycle: &CycleSeen) -> bool {
        matches!(&self.order, Ok(Some(order)) if Some(order.of) == cycle.id())
    }
}

/// The last cycle that ended, and failures since the last success.
pub type History = (Option<LastCycle>, u32);
