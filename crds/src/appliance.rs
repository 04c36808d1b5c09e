//! Appliance: the on-premises side.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ResourceRequirements, Toleration},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{CaBundleRef, ObjectRef},
    rules,
};

mod status;

pub use status::{ApplianceStatus, Pods, Slots, VCenterIdentity};

/// What the user asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "hawser.dev",
    version = "v1alpha1",
    kind = "Appliance",
    namespaced,
    status = "ApplianceStatus",
    derive = "PartialEq",
    doc = "An Appliance is the on-premises side of replication: one vCenter, one log store, one Azure target, the workers, and the limits. \
           ReplicatedVMs of its namespace refer to it.",
    shortname = "appl",
    category = "hawser",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "VMs", type_ = "integer", json_path = ".status.replicatingVMs"),
    printcolumn(name = "Disks", type_ = "integer", json_path = ".status.diskSlots.used", description = "Disks that are being transferred"),
    printcolumn(name = "Disk Slots", type_ = "integer", json_path = ".status.diskSlots.total", priority = 1),
    printcolumn(name = "vCenter", type_ = "string", json_path = ".spec.vcenter.url", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::short_name()
)]
pub struct ApplianceSpec {
    /// The vCenter whose VMs are replicated. Written by the user.
    pub vcenter: VCenter,
    /// Where the replicas are made. Written by the user.
    pub azure: Azure,
    /// Where the log and the ledgers lie. It can't be edited: the ledgers, which are the truth about all replicas, would stay behind. Written by
    /// the user.
    #[x_kube(validation = rules::immutable(
        "logStore can't be edited, since the ledgers of all VMs lie there: create another Appliance, and ReplicatedVMs that refer to it"
    ))]
    pub log_store: LogStore,
    /// The key that everything in the log store is encrypted and authenticated with. Written by the user.
    pub encryption: Encryption,
    /// How disks are read. Written by the user.
    pub disk_access: DiskAccess,
    /// The pods that read VMware and write the log (the gateways). Written by the user.
    #[serde(default)]
    pub workers: Workers,
    /// The pods that read the log and write the seed disks. Written by the user.
    #[serde(default)]
    pub applier: Applier,
    /// What no cycle is admitted over; this version obeys `parallelDisks`, `disksPerHost` and `datastoreFreePercent`. Written by the user.
    #[serde(default)]
    pub limits: Limits,
    /// The time zone of blackout windows that name none, an IANA name such as `Europe/Berlin`. Default: `UTC`. NOT OBEYED YET, as blackout windows.
    /// Written by the user.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::time_zone())]
    pub time_zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A vCenter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.caBundleRef) && has(self.thumbprint))").message(
    "give caBundleRef or thumbprint, not both: a pinned certificate is not looked up with authorities"
))]
pub struct VCenter {
    /// The address, `https://HOST` or `https://HOST:PORT`. It may be edited, as long as it leads to the same vCenter. Written by the user.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rules::https_origin(
        "give the vCenter as https://HOST or https://HOST:PORT, without path, user or query: /sdk is added"
    ))]
    pub url: String,
    /// The Secret with the keys `username` and `password`. A password that is refused is tried once, and then only when the Secret changes or
    /// after five minutes, so that no account is locked. Written by the user.
    pub credentials_secret_ref: ObjectRef,
    /// The authorities that the server's certificate is verified with. Default: those of the image's operating system. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
    /// The SHA-256 fingerprint of the server's certificate, 32 pairs of hexadecimal digits with colons: only this certificate is accepted, and no
    /// authority is asked. Default: none. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::thumbprint())]
    pub thumbprint: Option<String>,
}

/// The target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Azure {
    /// The subscription of the replicas, a UUID. It can't be edited. Written by the user.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = rules::uuid("give the subscription's id, a UUID (`az account show --query id` prints it)"),
        validation = rules::immutable(
            "subscriptionId can't be edited, since seed disks lie there: create another Appliance, and ReplicatedVMs that refer to it"
        )
    )]
    pub subscription_id: String,
    /// The resource group of seed disks, unless a ReplicatedVM names another. An edit counts for seed disks that are made from then on. Written
    /// by the user.
    #[schemars(length(min = 1, max = 90))]
    #[x_kube(validation = rules::resource_group())]
    pub resource_group: String,
    /// The region, by its short name, such as `westeurope`. It can't be edited. Written by the user.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = rules::location(),
        validation = rules::immutable(
            "location can't be edited, since seed disks lie there: create another Appliance, and ReplicatedVMs that refer to it"
        )
    )]
    pub location: String,
    /// How Azure knows the appliance. Default: workload identity. Written by the user.
    #[serde(default)]
    pub credentials: AzureCredentials,
    /// Where Azure's services are. Default: those of the public cloud. Written by the user.
    #[serde(default)]
    pub endpoints: AzureEndpoints,
    /// The authorities that certificates of Azure's services are verified with, in sovereign and private clouds or behind a proxy that
    /// re-encrypts. Default: those of the image's operating system. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
}

/// How Azure knows the appliance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CredentialsType {
    /// The service account's token is exchanged.
    #[default]
    WorkloadIdentity,
    /// A client secret.
    ClientSecret,
}

/// How Azure knows the appliance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type != 'ClientSecret' || (has(self.clientSecretRef) && has(self.tenantId) && has(self.clientId))").message(
        "type ClientSecret needs tenantId, clientId and clientSecretRef: name the Secret whose key clientSecret holds the secret"
    ),
    validation = Rule::new("self.type == 'ClientSecret' || !has(self.clientSecretRef)").message(
        "clientSecretRef is for type ClientSecret: set that type, or remove clientSecretRef"
    )
)]
pub struct AzureCredentials {
    /// `WorkloadIdentity` exchanges the token of the pods' service account; `ClientSecret` uses a secret. Default: `WorkloadIdentity`. Written by
    /// the user.
    #[serde(default, rename = "type")]
    pub type_: CredentialsType,
    /// The tenant, a UUID. Default, with `WorkloadIdentity`: what the pod's environment says (`AZURE_TENANT_ID`). Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::uuid("give the tenant's id, a UUID (`az account show --query tenantId` prints it)"))]
    pub tenant_id: Option<String>,
    /// The application (client) id, a UUID. Default, with `WorkloadIdentity`: what the pod's environment says (`AZURE_CLIENT_ID`). Written by the
    /// user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::uuid("give the application's client id, a UUID"))]
    pub client_id: Option<String>,
    /// The Secret whose key `clientSecret` holds the secret. Only with `ClientSecret`. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<ObjectRef>,
}

/// Where Azure's services are. The log store's address is its own field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureEndpoints {
    /// Azure Resource Manager. Default: `https://management.azure.com`; in the US government's cloud `https://management.usgovcloudapi.net`, in
    /// China's `https://management.chinacloudapi.cn`. Written by the user.
    #[serde(default = "resource_manager")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rules::https_origin("give Resource Manager as https://HOST or https://HOST:PORT, without path"))]
    pub resource_manager: String,
    /// What tokens for Resource Manager are asked for (their audience). Default: `resourceManager`. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rules::https_origin("give the audience as https://HOST, without path: /.default is added"))]
    pub resource_manager_audience: Option<String>,
    /// Where tokens are issued. Default: `https://login.microsoftonline.com`; in the US government's cloud `https://login.microsoftonline.us`, in
    /// China's `https://login.chinacloudapi.cn`. Written by the user.
    #[serde(default = "authority_host")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rules::https_origin("give the token issuer as https://HOST or https://HOST:PORT, without tenant or path"))]
    pub authority_host: String,
}

fn resource_manager() -> String {
    "https://management.azure.com".to_owned()
}

fn authority_host() -> String {
    "https://login.microsoftonline.com".to_owned()
}

impl Default for AzureEndpoints {
    fn default() -> Self {
        Self { resource_manager: resource_manager(), resource_manager_audience: None, authority_host: authority_host() }
    }
}

/// The log store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogStore {
    /// The blob endpoint of the storage account, such as `https://ACCOUNT.blob.core.windows.net`. The appliance's credentials need the role
    /// Storage Blob Data Contributor on it. It can't be edited. Written by the user.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rules::account_url())]
    pub account_url: String,
    /// The container, 3 to 63 characters. It has to exist. It can't be edited. Default: `hawser`. Written by the user.
    #[serde(default = "container")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::container())]
    pub container: String,
}

fn container() -> String {
    "hawser".to_owned()
}

/// The encryption of the log store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// The Secret whose key `key` holds a key file, as `worker key new` writes it: a line `<version> <64 hexadecimal digits>` for each version.
    /// Without this key no ledger can be read: keep a copy of it elsewhere. Written by the user.
    pub key_secret_ref: ObjectRef,
}

/// How disks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DiskAccessMethod {
    /// VMware's library, through nbdkit.
    #[serde(rename = "VDDK")]
    Vddk,
}

/// How disks are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.method != 'VDDK' || has(self.vddk)").message(
    "method VDDK needs vddk: name a claim or an image with VMware's Virtual Disk Development Kit, which can't be shipped with Hawser"
))]
pub struct DiskAccess {
    /// `VDDK` reads through VMware's library, which the user provides. Written by the user.
    pub method: DiskAccessMethod,
    /// Where the library is. Needed for `VDDK`. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vddk: Option<Vddk>,
}

/// VMware's Virtual Disk Development Kit. Its root is the folder `vmware-vix-disklib-distrib`, with `lib64` in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.claimName) != has(self.image)").message("give claimName or image: one of them, not both"))]
pub struct Vddk {
    /// A PersistentVolumeClaim of the appliance's namespace that holds `vmware-vix-disklib-distrib` at its root; mounted read-only. Written by
    /// the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::name())]
    pub claim_name: Option<String>,
    /// A container image that holds `/vmware-vix-disklib-distrib`, where the cluster mounts images as volumes (the feature `ImageVolume`, on by default
    /// from Kubernetes 1.35). Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
}

/// The gateways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workers {
    /// How many pods. A pod replicates several VMs at once; 0 suspends every transfer. Default: 1. Written by the user.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// The image of gateways and appliers. Default: that of the operator's release. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// What a pod asks for and is limited to; of gateways and appliers alike. A gateway holds up to 32 MiB for each disk that it
    /// transfers, beside nbdkit and VMware's library. Default: nothing. Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Labels of the nodes that the pods may run on; of gateways and appliers alike. Default: any node. Written by the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate; of gateways and appliers alike. Default: none. Written by the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// The service account of the pods; with workload identity it is the one that Azure knows. Default: the one that the chart makes for workers.
    /// Written by the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::name())]
    pub service_account_name: Option<String>,
}

fn one() -> i32 {
    1
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            replicas: one(),
            image: None,
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            service_account_name: None,
        }
    }
}

/// What a container asks for and is limited to, by `cpu` and `memory`. (Kubernetes' own type also has claims of devices, which a worker can't
/// use.)
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What a pod is given at least, such as `cpu: 500m`, `memory: 1Gi`. Default: the limits. Written by the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
    /// What a pod is given at most. Default: no limit. Written by the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
}

impl From<Resources> for ResourceRequirements {
    fn from(resources: Resources) -> Self {
        let some = |map: BTreeMap<String, Quantity>| (!map.is_empty()).then_some(map);
        Self { claims: None, limits: some(resources.limits), requests: some(resources.requests) }
    }
}

/// Where the log is applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApplierMode {
    /// In this cluster.
    #[default]
    InCluster,
    /// Elsewhere.
    External,
}

/// The appliers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Applier {
    /// `InCluster`: the operator runs appliers here. `External`: somebody runs `worker applier` elsewhere, best in Azure next to the storage; it
    /// needs the log store and the encryption key, and nothing else. Default: `InCluster`. Written by the user.
    #[serde(default)]
    pub mode: ApplierMode,
    /// How many pods, with `InCluster`; 0 suspends applying. Default: 1. Written by the user.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
}

impl Default for Applier {
    fn default() -> Self {
        Self { mode: ApplierMode::default(), replicas: one() }
    }
}

/// What no cycle is admitted over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// How many disks of the appliance's VMs transfer at once. Default: 52, the connections that VMware allows through one vCenter. Written by
    /// the user.
    #[schemars(range(min = 1, max = 1024))]
    pub parallel_disks: i32,
    /// How many disks of the VMs that are on one ESXi host transfer at once. A VM that vMotion takes to another host counts there from then on.
    /// This version counts for each appliance by itself. Default: 8. Written by the user.
    #[schemars(range(min = 1, max = 1024))]
    pub disks_per_host: i32,
    /// How many disk snapshots of ours one datastore holds at once, for all appliances of a vCenter. A VM with more disks may go alone. Default:
    /// 15. NOT OBEYED YET. Written by the user.
    #[schemars(range(min = 1, max = 1024))]
    pub snapshots_per_datastore: i32,
    /// How many VMs the appliance replicates. Default: 300. NOT OBEYED YET. Written by the user.
    #[serde(rename = "replicatingVMs")]
    #[schemars(range(min = 1, max = 10_000))]
    pub replicating_vms: i32,
    /// The part of a datastore, in percent, that has to be free before a snapshot is taken on it. Where less than half of it is left, cycles
    /// that are being read from there are ended, so that their snapshots go. Default: 10. Written by the user.
    #[schemars(range(min = 0, max = 90))]
    pub datastore_free_percent: i32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { parallel_disks: 52, disks_per_host: 8, snapshots_per_datastore: 15, replicating_vms: 300, datastore_free_percent: 10 }
    }
}
