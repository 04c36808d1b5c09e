//! ReplicatedVM: one VM, kept in step with its replica.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{common::ObjectRef, rules, span::SpanText};

mod status;

pub use status::{
    Baseline, Concern, CycleKind, DiskStatus, LastCycle, Phase, Progress, RecoveryPoint, ReplicatedVMStatus, SeedDisk, VmIdentity,
    WaitingFor,
};

/// What the user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "hawser.dev",
    version = "v1alpha1",
    kind = "ReplicatedVM",
    plural = "replicatedvms",
    namespaced,
    status = "ReplicatedVMStatus",
    derive = "PartialEq",
    doc = "A ReplicatedVM is a VMware VM whose disks are replicated to managed disks in Azure, cycle after cycle.",
    shortname = "rvm",
    category = "hawser",
    selectable = ".spec.applianceRef.name",
    selectable = ".spec.replication",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Recovery Point", type_ = "date", json_path = ".status.recoveryPoint.time", description = "Its age"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress.percent", description = "Of the running cycle, in percent"),
    // Not a date: kubectl prints a time to come as <invalid>.
    printcolumn(name = "Next Cycle", type_ = "string", json_path = ".status.nextCycleTime"),
    printcolumn(name = "Waiting For", type_ = "string", json_path = ".status.waitingFor.reason"),
    printcolumn(name = "Appliance", type_ = "string", json_path = ".spec.applianceRef.name", priority = 1),
    printcolumn(name = "VM", type_ = "string", json_path = ".status.vm.name", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::short_name()
)]
pub struct ReplicatedVMSpec {
    /// The appliance that replicates the VM. It can't be edited: the ledger lies in that appliance's log store. Written by the user.
    #[x_kube(validation = rules::immutable(
        "applianceRef can't be edited, since the VM's ledger lies in the appliance's log store: delete this ReplicatedVM and create another"
    ))]
    pub appliance_ref: ObjectRef,
    /// Which VM. It can't be edited: another VM has another replica. Written by the user.
    #[x_kube(validation = rules::immutable(
        "vm can't be edited, since the replica is of that VM: delete this ReplicatedVM and create another for the other VM"
    ))]
    pub vm: VmSelector,
    /// `Active`: cycles follow one another. `Paused`: the running cycle finishes and none follows; seed disks stay. `Stopped`: a running delta
    /// finishes, an initial cycle is cancelled, and then seed disks, log and ledger are deleted; `Active` after that begins anew. Default:
    /// `Active`. Written by the user.
    #[serde(default)]
    pub replication: Replication,
    /// Any text that differs from the last one starts a cycle now, unless one is running, which then counts. It is echoed in
    /// `status.lastSyncNow` when that cycle is applied, so that the same manifest applied again starts nothing. Default: none. Written by the
    /// user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::token())]
    pub sync_now: Option<String>,
    /// The longest time from the end of a cycle to the start of the next, such as `15m` or `4h`; 1 minute to 7 days. Without it the next delta is
    /// due after half the last one's duration, an hour at the least: a longer one makes cycles no rarer than that. Default: none. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<SpanText>,
    /// Which disks, and how. Default: all of them, as `target` says. Written by the user.
    #[serde(default, skip_serializing_if = "Disks::is_empty")]
    pub disks: Disks,
    /// How snapshots are taken. Written by the user.
    #[serde(default)]
    pub snapshot: SnapshotPolicy,
    /// Whether Hawser may change the VM's configuration to switch changed block tracking on. `Enable`: it does, with a snapshot taken and removed
    /// so that it takes effect. `Leave`: it doesn't; where tracking is off, every cycle reads every disk whole. Default: `Enable`. Written by
    /// the user.
    #[serde(default)]
    pub change_tracking: ChangeTracking,
    /// What is made in Azure. An edit counts for what is made from then on; seed disks that exist stay as they are. Written by the user.
    #[serde(default)]
    pub target: Target,
    /// Ids of concerns of the severity `Warning` that are accepted: `RdmVirtual`, `ChangeTrackingUnsupported`, `ChangeTrackingOff`,
    /// `ChangeTrackingBlocked`. Others are without effect. Default: none. Written by the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub accept_concerns: Vec<String>,
    /// The owner that an existing ledger of this VM is taken from, `CLUSTER/NAMESPACE/NAME`, as the condition `LedgerOwned` names it. Replication
    /// goes on from that ledger's baseline; the owner named here must not replicate the VM any more. Default: none; a ledger of another owner is
    /// left alone. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 400))]
    #[x_kube(validation = rules::owner())]
    pub take_over: Option<String>,
}

/// A VM, by one of its names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.moRef), has(self.instanceUuid), has(self.inventoryPath)].exists_one(given, given)").message(
    "give exactly one of moRef, instanceUuid and inventoryPath (instanceUuid is the one that survives moving and registering anew)"
))]
pub struct VmSelector {
    /// VMware's managed object reference, such as `vm-1034`. It changes when the VM is registered anew. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::vm_reference())]
    pub mo_ref: Option<String>,
    /// The VM's instance UUID (`config.instanceUuid`; not the BIOS UUID). It stays the VM's own whatever becomes of it. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::uuid(
        "give the VM's instance UUID (config.instanceUuid; `govc vm.info -json` prints it), not its BIOS UUID in another form"
    ))]
    pub instance_uuid: Option<String>,
    /// The VM's whole path in the inventory, such as `/DATACENTER/vm/FOLDER/NAME`. It is looked up once; from then on the VM is known by its
    /// instance UUID, and may be renamed and moved. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::inventory_path())]
    pub inventory_path: Option<String>,
}

/// Whether cycles follow one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Replication {
    /// They do.
    #[default]
    Active,
    /// Not for now.
    Paused,
    /// No more.
    Stopped,
}

/// Which disks, and how. A disk is named by VMware's key (2000 is the first on the first SCSI controller); `status.disks` lists them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.exclude) || !has(self.overrides) || !self.overrides.exists(one, one.key in self.exclude)"
).message("a disk is excluded and overridden at once: take its key out of exclude or out of overrides"))]
pub struct Disks {
    /// Keys of disks that are not replicated. The seed disk of one that is excluded later stays until replication stops. Default: none. Written
    /// by the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(range(min = 0, max = 2_147_483_647)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub exclude: Vec<i64>,
    /// What differs for single disks. Default: nothing. Written by the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub overrides: Vec<DiskOverride>,
}

impl Disks {
    /// True where it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exclude.is_empty() && self.overrides.is_empty()
    }
}

/// What differs for one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskOverride {
    /// The disk's key. Written by the user.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub key: i64,
    /// The SKU of its managed disk. Default: `target.diskSku`. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_sku: Option<DiskSku>,
}

/// Whether the guest is quiesced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Quiesce {
    /// Never.
    #[default]
    Never,
    /// Where it works.
    Try,
    /// Or no cycle.
    Require,
}

/// How snapshots are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotPolicy {
    /// `Never`: snapshots are consistent as after a power cut. `Try`: VMware Tools quiesce the guest's filesystems; where that fails, the snapshot
    /// is taken without, and the condition `Quiesced` says so. `Require`: where it fails, the cycle fails. Default: `Never`, since quiescing every
    /// hour stalls some guests. Written by the user.
    #[serde(default)]
    pub quiesce: Quiesce,
}

/// Whether Hawser may switch changed block tracking on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ChangeTracking {
    /// It may.
    #[default]
    Enable,
    /// It may not.
    Leave,
}

/// SKUs of managed disks that can be written by upload with sectors of 512 bytes, whatever the region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(non_camel_case_types, reason = "Azure's own names")]
#[schemars(transform = crate::schema::undescribed)]
pub enum DiskSku {
    /// Hard disks.
    Standard_LRS,
    /// Solid state, standard.
    StandardSSD_LRS,
    /// Solid state, standard, in three zones.
    StandardSSD_ZRS,
    /// Solid state, premium.
    #[default]
    Premium_LRS,
    /// Solid state, premium, in three zones.
    Premium_ZRS,
}

impl DiskSku {
    /// Azure's name of it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard_LRS => "Standard_LRS",
            Self::StandardSSD_LRS => "StandardSSD_LRS",
            Self::StandardSSD_ZRS => "StandardSSD_ZRS",
            Self::Premium_LRS => "Premium_LRS",
            Self::Premium_ZRS => "Premium_ZRS",
        }
    }

    /// True where the disk lies in all zones, so that it can't be put into one.
    #[must_use]
    pub fn is_zone_redundant(self) -> bool {
        matches!(self, Self::StandardSSD_ZRS | Self::Premium_ZRS)
    }
}

/// An availability zone of the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::schema::undescribed)]
pub enum Zone {
    /// The first.
    #[serde(rename = "1")]
    One,
    /// The second.
    #[serde(rename = "2")]
    Two,
    /// The third.
    #[serde(rename = "3")]
    Three,
}

impl Zone {
    /// Azure's name of it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
            Self::Three => "3",
        }
    }
}

/// What is made in Azure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The resource group of the seed disks. Default: the appliance's. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 90))]
    #[x_kube(validation = rules::resource_group())]
    pub resource_group: Option<String>,
    /// The SKU of the managed disks: `Standard_LRS`, `StandardSSD_LRS`, `StandardSSD_ZRS`, `Premium_LRS` or `Premium_ZRS`. Default: `Premium_LRS`.
    /// Written by the user.
    #[serde(default)]
    pub disk_sku: DiskSku,
    /// The availability zone of the disks, `1`, `2` or `3`; disks with a zone-redundant SKU lie in all of them anyway. Default: none. Written by
    /// the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Tags of what is made, 40 at most. Hawser adds its own, whose names begin with `hawser`. Default: none. Written by the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(transform = rules::tags)]
    pub tags: BTreeMap<String, String>,
}
