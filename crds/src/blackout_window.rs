//! BlackoutWindow: when no cycle starts.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{common::ObjectRef, rules, windows::WindowText};

/// What the user asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "hawser.dev",
    version = "v1alpha1",
    kind = "BlackoutWindow",
    namespaced,
    status = "BlackoutWindowStatus",
    derive = "PartialEq",
    doc = "A BlackoutWindow is a set of weekly intervals in which no cycle starts; running cycles finish. NOT OBEYED YET: this version checks \
           it, and nothing more.",
    shortname = "blackout",
    category = "hawser",
    printcolumn(name = "Active", type_ = "boolean", json_path = ".status.active"),
    // Not dates: kubectl prints a time to come as <invalid>.
    printcolumn(name = "Until", type_ = "string", json_path = ".status.activeUntil"),
    printcolumn(name = "Next Start", type_ = "string", json_path = ".status.nextStart"),
    printcolumn(name = "Windows", type_ = "string", json_path = ".spec.windows", priority = 1),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#, priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("has(self.applianceRefs) != has(self.applianceSelector)").message(
    "give applianceRefs or applianceSelector: one of them, not both (applianceSelector: {} means every Appliance of the namespace)"
))]
pub struct BlackoutWindowSpec {
    /// The appliances that it holds for, by name. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub appliance_refs: Option<Vec<ObjectRef>>,
    /// The appliances that it holds for, by their labels; `{}` means every one of the namespace. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub appliance_selector: Option<LabelSelector>,
    /// The intervals of each week, in Azure Migrate's own form: day, start and length, such as `Monday;7:00;7h` or `Saturday;23:30;1d7h`. Lengths are
    /// in days, hours and minutes, 1 minute to 7 days. They may overlap, span midnight and span days. Written by the user.
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub windows: Vec<WindowText>,
    /// The time zone of the windows, an IANA name such as `Europe/Berlin`; local time follows daylight saving. Default: the appliance's. Written by
    /// the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::time_zone())]
    pub time_zone: Option<String>,
}

/// What the operator says. All of it is written by the operator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlackoutWindowStatus {
    /// The generation of the spec that the status speaks of. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// `Ready`: appliances and time zone are known. Written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Whether it holds now. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Until when it holds, overlapping windows taken together. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_until: Option<Time>,
    /// When it holds next. Written by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_start: Option<Time>,
}
