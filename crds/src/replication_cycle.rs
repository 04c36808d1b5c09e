//! ReplicationCycle: one pass over one VM.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{common::ObjectRef, replicated_vm::CycleKind, replicated_vm::Quiesce, rules};

mod status;

pub use status::{
    CyclePhase, Failure, ReplicationCycleStatus, SnapshotState, SnapshotStatus, SourceDisk, SourceStatus, TargetDisk, TargetStatus,
    TaskStatus,
};

/// The fields that no rule keeps from being edited; a test sees to it that every other one is kept.
pub const EDITABLE: [&str; 3] = ["worker", "allotment", "cancel"];

/// What the operator asks a gateway to do. All of it is written by the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "hawser.dev",
    version = "v1alpha1",
    kind = "ReplicationCycle",
    namespaced,
    status = "ReplicationCycleStatus",
    derive = "PartialEq",
    doc = "A ReplicationCycle is one pass over one VM: snapshot, changed areas, transfer to the log, release, consolidate, apply, verify. The \
           operator makes it; people read it.",
    shortname = "rcycle",
    category = "hawser",
    selectable = ".spec.vmRef.name",
    selectable = ".spec.applianceRef.name",
    selectable = ".spec.worker",
    selectable = ".status.phase",
    printcolumn(name = "VM", type_ = "string", json_path = ".spec.vmRef.name"),
    printcolumn(name = "Cycle", type_ = "integer", json_path = ".spec.cycle"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.source.progress.percent", description = "In percent"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.failure.reason"),
    printcolumn(
        name = "Changed",
        type_ = "integer",
        json_path = ".status.source.changedBytes",
        description = "Bytes to look at",
        priority = 1
    ),
    printcolumn(
        name = "Uploaded",
        type_ = "integer",
        json_path = ".status.source.uploadedBytes",
        description = "Bytes in the log",
        priority = 1
    ),
    printcolumn(
        name = "Written",
        type_ = "integer",
        json_path = ".status.target.writtenBytes",
        description = "Bytes written",
        priority = 1
    ),
    printcolumn(name = "Worker", type_ = "string", json_path = ".spec.worker", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    // One rule for all, since a rule on an optional field is not asked when the field comes or goes.
    validation = Rule::new(
        "self.vmRef == oldSelf.vmRef && self.applianceRef == oldSelf.applianceRef && self.cycle == oldSelf.cycle \
         && self.incarnation == oldSelf.incarnation && self.owner == oldSelf.owner && self.vm == oldSelf.vm && self.kind == oldSelf.kind \
         && self.basis == oldSelf.basis && self.disks == oldSelf.disks && self.quiesce == oldSelf.quiesce \
         && has(self.syncNow) == has(oldSelf.syncNow) && (!has(self.syncNow) || self.syncNow == oldSelf.syncNow)"
    ).message("only worker, allotment and cancel of a cycle can be edited: change the ReplicatedVM, and the next cycle follows it").reason(Reason::FieldValueForbidden),
    validation = Rule::new("!has(oldSelf.cancel) || (has(self.cancel) && self.cancel == oldSelf.cancel)")
        .message("cancel can't be taken back: the next cycle covers the same ground").reason(Reason::FieldValueForbidden)
)]
pub struct ReplicationCycleSpec {
    /// The ReplicatedVM, which also owns this object. Written by the operator.
    pub vm_ref: ObjectRef,
    /// Its Appliance. Written by the operator.
    pub appliance_ref: ObjectRef,
    /// The cycle's number, from 1: it rises within an incarnation, and is claimed in the log store before this object is made. Written by the
    /// operator.
    #[schemars(range(min = 1))]
    pub cycle: i64,
    /// The start of replication that it belongs to, a UUID. Written by the operator.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::uuid("give the ledger's incarnation, a UUID"))]
    pub incarnation: String,
    /// Whose replica it is for: the ledger's owner. Written by the operator.
    pub owner: LedgerOwner,
    /// The VM, as the ledger and vCenter know it. Written by the operator.
    pub vm: CycleVm,
    /// `Initial`: there is no recovery point yet. `Delta`: from one recovery point to the next. Written by the operator.
    pub kind: CycleKind,
    /// The ledger's turn that the cycle is computed from: it can be applied on that one only. Written by the operator.
    #[schemars(range(min = 0))]
    pub basis: i64,
    /// The disks that take part. Written by the operator.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub disks: Vec<CycleDisk>,
    /// `snapshot.quiesce` of the ReplicatedVM when the cycle was made. Written by the operator.
    pub quiesce: Quiesce,
    /// The `syncNow` of the ReplicatedVM that the cycle fulfils. Default: none. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub sync_now: Option<String>,
    /// The gateway pod that shall run it; another one when that is gone. Default: none yet. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::name())]
    pub worker: Option<String>,
    /// What it may use now. Written by the operator.
    pub allotment: Allotment,
    /// Set once to end the cycle before its time. Default: none. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel: Option<Cancel>,
}

/// The owner of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerOwner {
    /// The cluster: the UID of its namespace `kube-system`, or the name that it was given. Written by the operator.
    #[schemars(length(min = 1, max = 63))]
    pub cluster: String,
    /// The ReplicatedVM, `NAMESPACE/NAME`. Written by the operator.
    #[schemars(length(min = 3, max = 317))]
    pub object: String,
}

/// The VM, as the ledger and vCenter know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CycleVm {
    /// The instance UUID of its vCenter. Written by the operator.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::uuid("give the vCenter's instance UUID, 36 characters with hyphens"))]
    pub vcenter_uuid: String,
    /// Its own instance UUID. Written by the operator.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::uuid("give the VM's instance UUID, 36 characters with hyphens"))]
    pub instance_uuid: String,
    /// Its managed object reference when the cycle was made: a hint, since it may have changed. Written by the operator.
    #[schemars(length(min = 1, max = 63))]
    pub mo_ref: String,
}

/// How a disk goes through a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::schema::undescribed)]
pub enum DiskMode {
    /// The areas changed since the baseline.
    Changed,
    /// Every block that differs from its fingerprint or has none.
    Full,
}

/// A disk that takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CycleDisk {
    /// VMware's key of it. Written by the operator.
    #[schemars(range(min = 0))]
    pub key: i64,
    /// Its size in bytes when the cycle was made. Written by the operator.
    #[schemars(range(min = 0))]
    pub capacity_bytes: i64,
    /// `Full` has the whole disk compared even where VMware can tell what changed. Default: none, the gateway decides. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<DiskMode>,
}

/// What a cycle may use now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allotment {
    /// How many of its disks may transfer at once; 0 suspends it. Written by the operator.
    #[schemars(range(min = 0, max = Self::MOST_DISKS))]
    pub disks: i32,
}

impl Allotment {
    /// The most disks that may transfer at once: no VM has more.
    pub const MOST_DISKS: i32 = 256;
}

/// Why a cycle is ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cancel {
    /// In one word, such as `Stopped`. Written by the operator.
    #[schemars(length(min = 1, max = 63))]
    pub reason: String,
}
