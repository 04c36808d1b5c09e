//! The Deployments of an appliance: its gateways and its appliers, and the file that each reads.
//!
//! A pod gets Secrets as files and nothing of the operator's. Its template carries a digest of its file, so that a change of the
//! appliance rolls the pods; Secrets are read anew by the worker for each cycle, so a changed password rolls nothing.

use crds::{
    Appliance,
    appliance::{ApplierMode, CredentialsType},
    common::{BundleKind, CaBundleRef},
    names,
};
use serde_json::{Value, json};

use crate::{context::Settings, objects::MANAGER};

/// The worker's port for `/healthz`, `/readyz` and `/metrics`.
const PORT: u16 = 8080;
/// Where VDDK lies in a gateway.
const VDDK: &str = "/opt/vmware-vix-disklib";
/// The folder in a user's image or claim.
const DISTRIB: &str = "vmware-vix-disklib-distrib";
/// Where the token for Azure lies.
const TOKENS: &str = "/var/run/secrets/azure/tokens";
/// The user of the image: no file of it belongs to it.
const USER: i64 = 65532;

/// One half of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Reads VMware, writes the log.
    Gateway,
    /// Reads the log, writes seed disks.
    Applier,
}

impl Component {
    /// Its word: in names, labels and command lines.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Applier => "applier",
        }
    }

    /// The name of its Deployment.
    #[must_use]
    pub fn name(self, appliance: &str) -> String {
        format!("{appliance}-{}", self.word())
    }

    /// How many pods are asked for.
    #[must_use]
    pub fn wanted(self, appliance: &Appliance) -> i32 {
        match (self, appliance.spec.applier.mode) {
            (Self::Gateway, _) => appliance.spec.workers.replicas,
            (Self::Applier, ApplierMode::InCluster) => appliance.spec.applier.replicas,
            (Self::Applier, ApplierMode::External) => 0,
        }
    }
}

/// The file that a worker reads.
#[must_use]
pub fn file(appliance: &Appliance, component: Component, cluster: &str) -> Value {
    let spec = &appliance.spec;
    let credentials = &spec.azure.credentials;
    let identity = match credentials.type_ {
        CredentialsType::WorkloadIdentity => {
            let mut workload = json!({});
            for (name, value) in [("tenantId", &credentials.tenant_id), ("clientId", &credentials.client_id)] {
                if let Some(value) = value {
                    workload[name] = json!(value);
                }
            }
            json!({ "workload": workload })
        }
        CredentialsType::ClientSecret => json!({ "clientSecret": {
            "tenantId": credentials.tenant_id, "clientId": credentials.client_id,
            "secretFile": format!("/etc/hawser/azure/{}", names::CLIENT_SECRET_KEY),
        }}),
    };
    let mut log_store = json!({
        "accountUrl": spec.log_store.account_url, "container": spec.log_store.container,
        "identity": identity, "authorityHost": spec.azure.endpoints.authority_host,
    });
    if spec.azure.ca_bundle_ref.is_some() {
        log_store["caFile"] = json!("/etc/hawser/azure-ca/ca.crt");
    }
    let mut file = json!({
        "logStore": log_store,
        "key": { "file": format!("/etc/hawser/key/{}", names::ENCRYPTION_KEY) },
        "listen": format!("0.0.0.0:{PORT}"),
    });
    match component {
        Component::Applier => file["cluster"] = json!(cluster),
        Component::Gateway => {
            file["appliance"] = json!(appliance.metadata.name);
            file["namespace"] = json!(appliance.metadata.namespace);
            file["vcenter"] = json!({
                "url": spec.vcenter.url,
                "usernameFile": format!("/etc/hawser/vcenter/{}", names::VCENTER_USERNAME_KEY),
                "passwordFile": format!("/etc/hawser/vcenter/{}", names::VCENTER_PASSWORD_KEY),
            });
            if let Some(thumbprint) = &spec.vcenter.thumbprint {
                file["vcenter"]["thumbprint"] = json!(thumbprint);
            } else if spec.vcenter.ca_bundle_ref.is_some() {
                file["vcenter"]["caFile"] = json!("/etc/hawser/vcenter-ca/ca.crt");
            }
            file["vddk"] = json!({ "libdir": format!("{VDDK}/{DISTRIB}") });
        }
    }
    file
}

/// The ConfigMap with the file. A text of JSON is one of YAML.
#[must_use]
pub fn config_map(appliance: &Appliance, component: Component, cluster: &str) -> Value {
    let text = format!("{:#}\n", file(appliance, component, cluster));
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(appliance, component),
        "data": { format!("{}.yaml", component.word()): text },
    })
}

/// The Deployment.
#[must_use]
pub fn deployment(appliance: &Appliance, component: Component, settings: &Settings) -> Value {
    let spec = &appliance.spec;
    let (mut volumes, mut mounts) = volumes(appliance, component);
    volumes.push(json!({ "name": "tmp", "emptyDir": {} }));
    mounts.push(json!({ "name": "tmp", "mountPath": "/tmp" }));
    let workers = &spec.workers;
    let mut env = vec![json!({ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } })];
    let credentials = &spec.azure.credentials;
    if let (CredentialsType::WorkloadIdentity, Some(tenant), Some(client)) =
        (credentials.type_, &credentials.tenant_id, &credentials.client_id)
    {
        // As the workload identity webhook does it, under its names: with or without one there is one token.
        volumes.push(json!({ "name": "azure-identity-token", "projected": { "sources": [{ "serviceAccountToken": {
            "audience": "api://AzureADTokenExchange", "expirationSeconds": 3600, "path": "azure-identity-token",
        } }] } }));
        mounts.push(json!({ "name": "azure-identity-token", "mountPath": TOKENS, "readOnly": true }));
        let token = format!("{TOKENS}/azure-identity-token");
        let authority = &spec.azure.endpoints.authority_host;
        for (name, value) in [
            ("AZURE_TENANT_ID", tenant),
            ("AZURE_CLIENT_ID", client),
            ("AZURE_AUTHORITY_HOST", authority),
            ("AZURE_FEDERATED_TOKEN_FILE", &token),
        ] {
            env.push(json!({ "name": name, "value": value }));
        }
    }
    let image = workers.image.as_deref().unwrap_or(&settings.worker_image);
    let account = workers.service_account_name.as_deref().unwrap_or(&settings.worker_service_account);
    let digest = blake3::hash(file(appliance, component, &settings.cluster).to_string().as_bytes()).to_hex();
    let labels = labels(appliance, component);
    let mut pod_labels = with_common(labels.clone(), component);
    // The workload identity webhook looks at pods with this label alone.
    if spec.azure.credentials.type_ == CredentialsType::WorkloadIdentity {
        pod_labels["azure.workload.identity/use"] = json!("true");
    }
    let probe = |path: &str, seconds: u32| json!({ "httpGet": { "path": path, "port": "http" }, "periodSeconds": seconds });
    let mut container = json!({
        "name": component.word(),
        "image": image,
        "args": [component.word(), "--config", format!("/etc/hawser/worker/{}.yaml", component.word())],
        "env": env,
        "ports": [{ "name": "http", "containerPort": PORT }],
        "livenessProbe": probe("/healthz", 10),
        "readinessProbe": probe("/readyz", 5),
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": mounts,
    });
    if let Some(resources) = &workers.resources {
        container["resources"] = json!({ "requests": resources.requests, "limits": resources.limits });
    }
    let pod = json!({
        "serviceAccountName": account,
        // Only a gateway talks to the apiserver.
        "automountServiceAccountToken": component == Component::Gateway,
        "enableServiceLinks": false,
        // A gateway saves what is durable and gives its leases back within ten seconds.
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "seccompProfile": { "type": "RuntimeDefault" },
        },
        "nodeSelector": workers.node_selector,
        "tolerations": workers.tolerations,
        "containers": [container],
        "volumes": volumes,
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(appliance, component),
        "spec": {
            "replicas": component.wanted(appliance),
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": pod_labels, "annotations": { "hawser.dev/file": &digest[..16] } }, "spec": pod },
        },
    })
}

fn volumes(appliance: &Appliance, component: Component) -> (Vec<Value>, Vec<Value>) {
    let spec = &appliance.spec;
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    let mut add = |name: &str, path: &str, source: Value| {
        let mut volume = source;
        volume["name"] = json!(name);
        volumes.push(volume);
        mounts.push(json!({ "name": name, "mountPath": path, "readOnly": true }));
    };
    let own = component.name(appliance.metadata.name.as_deref().unwrap_or_default());
    let secret = |name: &str| json!({ "secret": { "secretName": name, "defaultMode": 0o440 } });
    add("worker", "/etc/hawser/worker", json!({ "configMap": { "name": own } }));
    add("key", "/etc/hawser/key", secret(&spec.encryption.key_secret_ref.name));
    if let Some(of) = &spec.azure.credentials.client_secret_ref {
        add("azure", "/etc/hawser/azure", secret(&of.name));
    }
    if let Some(of) = &spec.azure.ca_bundle_ref {
        add("azure-ca", "/etc/hawser/azure-ca", bundle(of));
    }
    if component == Component::Gateway {
        add("vcenter", "/etc/hawser/vcenter", secret(&spec.vcenter.credentials_secret_ref.name));
        if let Some(of) = &spec.vcenter.ca_bundle_ref {
            add("vcenter-ca", "/etc/hawser/vcenter-ca", bundle(of));
        }
        if let Some(vddk) = &spec.disk_access.vddk {
            let source = match (&vddk.claim_name, &vddk.image) {
                (Some(claim), _) => json!({ "persistentVolumeClaim": { "claimName": claim, "readOnly": true } }),
                (None, image) => json!({ "image": { "reference": image, "pullPolicy": "IfNotPresent" } }),
            };
            add("vddk", VDDK, source);
        }
    }
    (volumes, mounts)
}

/// Whatever the key is called, the worker finds it as `ca.crt`.
fn bundle(of: &CaBundleRef) -> Value {
    let items = json!([{ "key": of.key, "path": "ca.crt" }]);
    match of.kind {
        BundleKind::ConfigMap => json!({ "configMap": { "name": of.name, "items": items } }),
        BundleKind::Secret => json!({ "secret": { "secretName": of.name, "items": items } }),
    }
}

fn labels(appliance: &Appliance, component: Component) -> Value {
    json!({ names::APPLIANCE_LABEL: appliance.metadata.name, names::COMPONENT_LABEL: component.word() })
}

/// With the labels by which all tools know programs. Not a Deployment's to select by: those can't be edited.
fn with_common(mut labels: Value, component: Component) -> Value {
    labels["app.kubernetes.io/name"] = json!("hawser");
    labels["app.kubernetes.io/component"] = json!(component.word());
    labels
}

fn metadata(appliance: &Appliance, component: Component) -> Value {
    let mut labels = with_common(labels(appliance, component), component);
    labels["app.kubernetes.io/managed-by"] = json!(MANAGER);
    json!({
        "name": component.name(appliance.metadata.name.as_deref().unwrap_or_default()),
        "namespace": appliance.metadata.namespace,
        "labels": labels,
        "ownerReferences": [{
            "apiVersion": format!("{}/{}", names::GROUP, names::VERSION), "kind": "Appliance",
            "name": appliance.metadata.name, "uid": appliance.metadata.uid, "controller": true, "blockOwnerDeletion": true,
        }],
    })
}

#[cfg(test)]
#[path = "pods/tests.rs"]
mod tests;
