//! What gateway and operator say about a cycle.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DiskMode;
use crate::{
    conditions::{self, ConditionType, Status},
    reasons::Reason,
    replicated_vm::Progress,
};

/// What is said about a cycle. Each field, and each condition, has one writer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationCycleStatus {
    /// The generation of the spec that `phase` speaks of. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// `Pending`, `Snapshot`, `Transfer`, `Applying`, `Succeeded`, `Failed` or `Cancelled`, derived from the conditions for people. Written by the
    /// operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<CyclePhase>,
    /// `Transferred` and `SourceReleased`, written by the gateway, and `Applied`, written by the operator. `Unknown` is on its way, `False` will
    /// not be (of `SourceReleased`: can't be yet).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Why the cycle failed or was cancelled. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The half that reads VMware and writes the log. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// The half that applies the log. Written by the operator, from ledger and receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetStatus>,
}

/// Where a cycle stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::schema::undescribed)]
pub enum CyclePhase {
    /// No gateway has taken it up.
    Pending,
    /// Its snapshot is being taken.
    Snapshot,
    /// Its disks are being transferred.
    Transfer,
    /// Its log is complete, and being applied; or its snapshot is still to be released.
    Applying,
    /// Applied and verified, and its snapshot gone.
    Succeeded,
    /// It will not be applied.
    Failed,
    /// It was ended before its time.
    Cancelled,
}

/// Why a cycle failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// In one word. Written by the operator.
    pub reason: String,
    /// What happened, and what to do. Written by the operator.
    pub message: String,
    /// The key of the disk, where it was one. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub disk: Option<i64>,
}

/// The gateway's half.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The pod that runs it. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How many gateways have begun it: each start is an epoch with a data key of its own. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub epoch: Option<i64>,
    /// When the first gateway took it up. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// When its log was complete, or given up. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Time>,
    /// Its snapshot. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStatus>,
    /// The tasks of vCenter that run for it, so that a successor can adopt them. Written by the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub tasks: Vec<TaskStatus>,
    /// Its disks. Written by the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub disks: Vec<SourceDisk>,
    /// Bytes that have to be looked at, of all disks: the changed areas, or whole disks. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub changed_bytes: Option<i64>,
    /// Bytes that were read, of all disks and epochs. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub read_bytes: Option<i64>,
    /// Bytes in the log, of all disks: the segments that count. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub uploaded_bytes: Option<i64>,
    /// How far the transfer is; at most one write each 5 seconds. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The digest of the manifest, 64 hexadecimal digits: the log is complete. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
}

/// What has become of a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SnapshotState {
    /// The call to take it may have been made.
    #[default]
    Intended,
    /// It stands.
    Taken,
    /// It is being removed, or what it left is being consolidated.
    Releasing,
    /// It is gone, and nothing is left to consolidate.
    Released,
}

/// The snapshot of a cycle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// `Intended`: the call to take it may have been made. `Taken`: it stands. `Releasing`: it is being removed, or what it left is being
    /// consolidated. `Released`: it is gone. Written by the gateway.
    pub state: SnapshotState,
    /// Its name in vCenter. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its managed object reference. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mo_ref: Option<String>,
    /// When it was taken, by vCenter's clock. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<Time>,
    /// Whether the guest was quiesced for it. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiesced: Option<bool>,
    /// Whether the VM was powered off right before and right after it was taken, and not started in between. Absent where that is not known: of a
    /// snapshot that a gateway has found, and not taken itself. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub powered_off: Option<bool>,
    /// When it was gone. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released: Option<Time>,
    /// How often removing or consolidating it has failed. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub release_failures: Option<i32>,
}

/// A task of vCenter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// Its managed object reference, such as `task-8812`. Written by the gateway.
    pub id: String,
    /// Which method runs, such as `RemoveSnapshot_Task`. Written by the gateway.
    pub method: String,
    /// How far it is, in percent, where vCenter says so. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// When its progress last moved: a task that stands still is told, never cut off. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<Time>,
}

/// A disk on the source's side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceDisk {
    /// VMware's key of it. Written by the gateway.
    #[schemars(range(min = 0))]
    pub key: i64,
    /// `Changed`: the areas changed since the baseline. `Full`: every block that differs from its fingerprint or has none. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<DiskMode>,
    /// Why it is `Full`, in one word, such as `ChangeTrackingReset`. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes that have to be looked at: the changed areas, or the disk. Written by the gateway.
    #[schemars(range(min = 0))]
    pub changed_bytes: i64,
    /// Bytes that were read, by all epochs. Written by the gateway.
    #[schemars(range(min = 0))]
    pub read_bytes: i64,
    /// Bytes in the log: the segments that count. Written by the gateway.
    #[schemars(range(min = 0))]
    pub uploaded_bytes: i64,
    /// Bytes that were found in place by their fingerprint, and not sent. Written by the gateway.
    #[schemars(range(min = 0))]
    pub in_place_bytes: i64,
    /// Whether all of it is read, and the snapshot still stood. Written by the gateway.
    #[serde(default)]
    pub done: bool,
    /// Whether it is sent in part only, since the snapshot was lost: the next cycle sends the rest. Written by the gateway.
    #[serde(default)]
    pub partial: bool,
}

/// The operator's half.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// When the order to apply it was written. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordered: Option<Time>,
    /// When the replica was clean with it, or the order was taken back. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Time>,
    /// The ledger's turn that applied it. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub turn: Option<i64>,
    /// Its disks, from the receipt. Written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub disks: Vec<TargetDisk>,
    /// Bytes written to seed disks, of all disks. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub written_bytes: Option<i64>,
    /// Bytes cleared on seed disks, of all disks. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub cleared_bytes: Option<i64>,
}

/// A disk on the target's side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetDisk {
    /// VMware's key of it. Written by the operator.
    #[schemars(range(min = 0))]
    pub key: i64,
    /// Bytes written. Written by the operator.
    #[schemars(range(min = 0))]
    pub written_bytes: i64,
    /// Bytes cleared. Written by the operator.
    #[schemars(range(min = 0))]
    pub cleared_bytes: i64,
    /// Whether the sectors whose writes were acknowledged are those of the manifest. Written by the operator.
    #[serde(default)]
    pub verified: bool,
}

impl ReplicationCycleStatus {
    /// Where the cycle stands, from its conditions and the snapshot. It says nothing that those don't say.
    #[must_use]
    pub fn derive_phase(&self) -> CyclePhase {
        use ConditionType::{Applied, SourceReleased, Transferred};
        let is = |of, status| conditions::is(&self.conditions, of, status);
        let ended = [Transferred, Applied].into_iter().find(|of| is(*of, Status::False));
        if let Some(condition) = ended.and_then(|of| conditions::get(&self.conditions, of)) {
            return if condition.reason == Reason::Cancelled.as_str() { CyclePhase::Cancelled } else { CyclePhase::Failed };
        }
        if is(Applied, Status::True) && is(SourceReleased, Status::True) {
            return CyclePhase::Succeeded;
        }
        if is(Transferred, Status::True) {
            return CyclePhase::Applying;
        }
        match self.source.as_ref().and_then(|source| source.snapshot.as_ref()).map(|snapshot| snapshot.state) {
            None => CyclePhase::Pending,
            Some(SnapshotState::Intended) => CyclePhase::Snapshot,
            Some(SnapshotState::Taken | SnapshotState::Releasing | SnapshotState::Released) => CyclePhase::Transfer,
        }
    }

    /// True where nothing more will come of it but that its snapshot goes.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.derive_phase(), CyclePhase::Succeeded | CyclePhase::Failed | CyclePhase::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::conditions::{Finding, merge};

    fn phase(snapshot: Option<SnapshotState>, findings: &[Finding]) -> CyclePhase {
        let snapshot = snapshot.map(|state| SnapshotStatus { state, ..SnapshotStatus::default() });
        let source = Some(SourceStatus { snapshot, ..SourceStatus::default() });
        let conditions = merge(&[], findings, None, Timestamp::UNIX_EPOCH);
        ReplicationCycleStatus { conditions, source, ..ReplicationCycleStatus::default() }.derive_phase()
    }

    #[test]
    fn a_phase_says_what_the_conditions_say() {
        use ConditionType::{Applied, SourceReleased, Transferred};
        assert_eq!(ReplicationCycleStatus::default().derive_phase(), CyclePhase::Pending);
        assert_eq!(phase(None, &[]), CyclePhase::Pending);
        assert_eq!(phase(Some(SnapshotState::Intended), &[]), CyclePhase::Snapshot);
        let transferring = Finding::open(Transferred, Reason::Transferring, "");
        assert_eq!(phase(Some(SnapshotState::Taken), std::slice::from_ref(&transferring)), CyclePhase::Transfer);

        let sent = Finding::holds(Transferred, Reason::AsExpected, "");
        let released = Finding::holds(SourceReleased, Reason::AsExpected, "");
        let applied = Finding::holds(Applied, Reason::AsExpected, "");
        let removing = Finding::open(SourceReleased, Reason::RemovingSnapshot, "");
        let taken = Some(SnapshotState::Taken);
        assert_eq!(phase(taken, std::slice::from_ref(&sent)), CyclePhase::Applying);
        assert_eq!(phase(taken, &[sent.clone(), released.clone()]), CyclePhase::Applying);
        assert_eq!(phase(taken, &[sent.clone(), removing.clone(), applied.clone()]), CyclePhase::Applying, "the next cycle waits for both");
        assert_eq!(phase(taken, &[sent.clone(), released.clone(), applied]), CyclePhase::Succeeded);

        let lost = Finding::fails(Transferred, Reason::SnapshotLost, "");
        assert_eq!(phase(taken, &[lost, removing]), CyclePhase::Failed);
        let refused = Finding::fails(Applied, Reason::BasisPassed, "");
        assert_eq!(phase(taken, &[sent.clone(), released.clone(), refused]), CyclePhase::Failed);
        let cancelled = Finding::fails(Transferred, Reason::Cancelled, "");
        assert_eq!(phase(taken, &[cancelled]), CyclePhase::Cancelled);
        let taken_back = Finding::fails(Applied, Reason::Cancelled, "");
        assert_eq!(phase(taken, &[sent, released, taken_back]), CyclePhase::Cancelled);
    }
}
