//! What the operator says about an appliance.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator says. All of it is written by the operator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplianceStatus {
    /// The generation of the spec that the status speaks of. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// `Ready`, `TLSVerified`, `VCenterReachable`, `VCenterPrivileges`, `AzurePermissions`, `LogStoreReachable`, `KeyVerified` and
    /// `WorkersAvailable`. Written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The vCenter that the URL led to. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcenter: Option<VCenterIdentity>,
    /// The pods of the gateways. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateways: Option<Pods>,
    /// The pods of the appliers, where they run in this cluster. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub appliers: Option<Pods>,
    /// How many disks transfer, and how many may (`limits.parallelDisks`). Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_slots: Option<Slots>,
    /// How many ReplicatedVMs that are not stopped refer to the appliance. Written by the operator.
    #[serde(rename = "replicatingVMs", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicating_vms: Option<i32>,
}

/// Which vCenter it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VCenterIdentity {
    /// Its instance UUID. A URL that leads to another one is refused (reason `OtherVCenter`). Written by the operator.
    pub instance_uuid: String,
    /// Its version, such as `8.0.3`. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its build, such as `24022515`. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
}

/// Pods of a Deployment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pods {
    /// How many are asked for. Written by the operator.
    #[schemars(range(min = 0))]
    pub wanted: i32,
    /// How many are ready. Written by the operator.
    #[schemars(range(min = 0))]
    pub ready: i32,
}

/// A resource of which there is only so much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Slots {
    /// How many are taken. Written by the operator.
    #[schemars(range(min = 0))]
    pub used: i32,
    /// How many there are. Written by the operator.
    #[schemars(range(min = 0))]
    pub total: i32,
}
