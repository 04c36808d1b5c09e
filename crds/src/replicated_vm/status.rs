//! What the operator says about a VM.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::concerns::Severity;

/// What the operator says. All of it is written by the operator; what is true of the replica it mirrors from the ledger.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedVMStatus {
    /// The generation of the spec that the status speaks of. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Where the VM stands, in Azure Migrate's words, derived from the conditions for people: `InitialReplicationQueued`, `InitialReplication`,
    /// `TestMigrationPending` (there is a recovery point, and deltas follow), `NotApplicable` (stopped). Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// `Ready`, `SourceFound`, `LedgerOwned`, `PreflightPassed`, `SeedsReady`, `Replicating`; `Quiesced` and `ChangesTracked` of the last cycle; `Final`
    /// where the VM was off when the recovery point's snapshot was taken; `CleanedUp` while it is deleted. Written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What stands in the way of replicating the VM, or should be known. Written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub concerns: Vec<Concern>,
    /// The VM that was found. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmIdentity>,
    /// The start of replication that the ledger is of, random: it is new each time that replication begins anew. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// The VM's disks, excluded ones too. Written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub disks: Vec<DiskStatus>,
    /// The last state of the VM that a replica could be made into. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<RecoveryPoint>,
    /// The last cycle that ended. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_cycle: Option<LastCycle>,
    /// The name of the ReplicationCycle that is going on. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_cycle: Option<String>,
    /// When the next cycle is due. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cycle_time: Option<Time>,
    /// What a due cycle waits for. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
    /// How far the running cycle is; at most one write each 5 seconds. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The last `syncNow` that is done. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync_now: Option<String>,
    /// How many cycles have failed since the last that succeeded: the next one waits longer after each. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub failures: Option<i32>,
}

/// Where a VM stands. Test migration and migration bring more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::schema::undescribed)]
pub enum Phase {
    /// The initial cycle has not begun.
    InitialReplicationQueued,
    /// The initial cycle is going on.
    InitialReplication,
    /// There is a recovery point, and deltas follow.
    TestMigrationPending,
    /// Stopped.
    NotApplicable,
}

/// Something that stands in the way, or should be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Concern {
    /// Its id, which `acceptConcerns` takes. Written by the operator.
    pub id: String,
    /// `Critical`: nothing is replicated while it stands. `Warning`: nothing is replicated until it is mended or accepted. `Information`: it keeps
    /// nothing from going on. Written by the operator.
    pub severity: Severity,
    /// The key of the disk that it is about; of the whole VM where it is missing. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub disk: Option<i64>,
    /// What is so. Written by the operator.
    pub message: String,
    /// What to do. Written by the operator.
    pub remedy: String,
    /// Whether it is accepted. Written by the operator.
    #[serde(default, skip_serializing_if = "is_false")]
    pub accepted: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The VM that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmIdentity {
    /// Its name in vCenter, for people. Written by the operator.
    pub name: String,
    /// The instance UUID of its vCenter; with the VM's own it is the name of the ledger. Written by the operator.
    pub vcenter_uuid: String,
    /// Its instance UUID. Written by the operator.
    pub instance_uuid: String,
    /// Its managed object reference now. Written by the operator.
    pub mo_ref: String,
    /// The host that it runs on now. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `PoweredOn`, `PoweredOff` or `Suspended`. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_state: Option<String>,
}

/// One disk of the VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskStatus {
    /// VMware's key of it. Written by the operator.
    #[schemars(range(min = 0))]
    pub key: i64,
    /// The UUID of its backing: another UUID is another disk. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its label in vCenter, such as `Hard disk 1`. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its size in bytes. Written by the operator.
    #[schemars(range(min = 0))]
    pub capacity_bytes: i64,
    /// Whether it is left out, by `disks.exclude`. Written by the operator.
    #[serde(default, skip_serializing_if = "is_false")]
    pub excluded: bool,
    /// Where its next delta starts from; without one it is compared in full. Written by the operator, from the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// Its replica. Written by the operator, from the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed_disk: Option<SeedDisk>,
}

/// Where a disk's next delta starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// VMware's position of changed block tracking. Written by the operator.
    pub change_id: String,
    /// The cycle that carried it. Written by the operator.
    #[schemars(range(min = 1))]
    pub cycle: i64,
}

/// A seed disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeedDisk {
    /// Its ARM id. Written by the operator.
    pub id: String,
    /// Azure's `uniqueId` of it: another one is another disk, whatever its name. Written by the operator.
    pub unique_id: String,
    /// Bytes of the source's disk that it was made for. Written by the operator.
    #[schemars(range(min = 0))]
    pub capacity_bytes: i64,
}

/// A state of the VM that a replica could be made into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryPoint {
    /// When its snapshot was taken. Written by the operator.
    pub time: Time,
    /// The cycle that made it. Written by the operator.
    #[schemars(range(min = 1))]
    pub cycle: i64,
    /// The keys of the disks that it covers. Written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<i64>,
}

/// What a cycle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CycleKind {
    /// There is no recovery point yet.
    Initial,
    /// From one recovery point to the next.
    Delta,
}

impl CycleKind {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "Initial",
            Self::Delta => "Delta",
        }
    }
}

/// A cycle that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastCycle {
    /// Its number. Written by the operator.
    #[schemars(range(min = 1))]
    pub cycle: i64,
    /// `Initial` or `Delta`. Written by the operator.
    pub kind: CycleKind,
    /// When it began. Written by the operator.
    pub started: Time,
    /// When it ended. Written by the operator.
    pub ended: Time,
    /// Whether it is applied and verified. Written by the operator.
    pub succeeded: bool,
    /// Why not, in one word. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a due cycle waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingFor {
    /// Why, in one word, such as `ApplianceFull`. Written by the operator.
    pub reason: String,
    /// What is lacking: an appliance, a host, the VM. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// How much of it is taken. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub used: Option<i64>,
    /// How much of it there is. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub capacity: Option<i64>,
    /// Who has it: names of ReplicatedVMs, the first 10. Written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub holders: Vec<String>,
    /// The VM's place among those that wait for it, from 1. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub position: Option<i64>,
    /// When it can start at the earliest, where that is known. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earliest: Option<Time>,
}

/// How far something is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Of what has to be looked at, how much is in the log, in percent. Written by the operator; in a cycle's status by the gateway.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
    /// Bytes that were looked at. Written by the operator; in a cycle's status by the gateway.
    #[schemars(range(min = 0))]
    pub done_bytes: i64,
    /// Bytes that have to be looked at. Written by the operator; in a cycle's status by the gateway.
    #[schemars(range(min = 0))]
    pub total_bytes: i64,
    /// Bytes a second, of late. Written by the operator; in a cycle's status by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub bytes_per_second: Option<i64>,
}
