//! Hawser as a user installs it: Secrets, a volume with VMware's library, the chart, an Appliance.

use std::time::Duration;

use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use blocklog::{
    azure_blob::{AccountUrl, Auth, Retry, client_options},
    keys::{KeyRing, Secret},
};

use crate::{Result, sandbox::Sandbox, wait};

/// The namespace and the release.
pub const NAMESPACE: &str = "hawser";
/// The appliance.
pub const APPLIANCE: &str = "site-a";
/// The log store's container.
pub const CONTAINER: &str = "hawser";
/// Azure's tenant in the sandbox.
pub const TENANT: &str = "11111111-1111-4111-8111-111111111111";
/// The subscription.
pub const SUBSCRIPTION: &str = "22222222-2222-4222-8222-222222222222";
/// The application that operator and workers are to Azure.
pub const CLIENT: &str = "33333333-3333-4333-8333-333333333333";
/// The appliance's key: a sandbox's alone.
pub const KEY: &str = "1 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\n";
/// The emulator's account key, which Microsoft publishes.
const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A container of the sandbox's storage account, with the account's key.
///
/// # Errors
/// Where the sandbox's authority can't be read.
pub fn container(sandbox: &Sandbox, name: &str) -> Result<BlobContainerClient> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let account = AccountUrl::parse(sandbox.get("BLOB_URL")).map_err(|error| told(&error))?;
    let auth = Auth::SharedKey { account: account.account().to_owned(), key: ACCOUNT_KEY.into() };
    let mut client_options = client_options(&auth, Retry::Normal).map_err(|error| told(&error))?;
    let http = azure::credential::http(Some(sandbox.authority()?.as_bytes())).map_err(|error| told(&error))?;
    client_options.transport = Some(azure_core::http::Transport::new(std::sync::Arc::new(http)));
    let options = BlobContainerClientOptions { client_options, ..BlobContainerClientOptions::default() };
    BlobContainerClient::new(account.container(name, &auth), auth.credential(), Some(options)).map_err(|error| told(&error))
}

/// Makes a container, where there is none of its name.
///
/// # Errors
/// What the store says against it.
pub async fn make_container(sandbox: &Sandbox, name: &str) -> Result<()> {
    match container(sandbox, name)?.create(None).await {
        Ok(_) => Ok(()),
        Err(error) if error.http_status().is_some_and(|status| u16::from(status) == 409) => Ok(()),
        Err(error) => Err(format!("the container {name}: {error}")),
    }
}

/// The appliance's keys.
///
/// # Panics
/// Never: the key is a key.
#[must_use]
pub fn keys() -> KeyRing {
    KeyRing::single(1, Secret::new([0x5a; 32]))
}

/// What lies in a namespace before an Appliance can be made there: Secrets, authorities, the volume with the library.
#[must_use]
pub fn prerequisites(sandbox: &Sandbox, namespace: &str, authority: &str) -> String {
    let library = sandbox.root.join(".cache/images/vddk");
    let indented = authority.trim_end().replace('\n', "\n    ");
    let key = KEY.trim_end();
    format!(
        r"apiVersion: v1
kind: Secret
metadata: {{name: vcenter, namespace: {namespace}}}
stringData: {{username: hawser@vsphere.local, password: sandbox}}
---
apiVersion: v1
kind: Secret
metadata: {{name: hawser-key, namespace: {namespace}}}
stringData: {{key: '{key}'}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: sandbox-ca, namespace: {namespace}}}
data:
  ca.crt: |
    {indented}
---
# A user's volume holds VMware's own library here; the sandbox's has a stand-in.
apiVersion: v1
kind: PersistentVolume
metadata: {{name: vddk-{namespace}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadOnlyMany]
  storageClassName: ''
  claimRef: {{name: vddk, namespace: {namespace}}}
  hostPath: {{path: {library}, type: Directory}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: vddk, namespace: {namespace}}}
spec:
  accessModes: [ReadOnlyMany]
  storageClassName: ''
  volumeName: vddk-{namespace}
  resources: {{requests: {{storage: 1Gi}}}}
",
        library = library.display(),
    )
}

/// An Appliance of the sandbox's vCenter and Azure. `edit` changes it.
#[must_use]
pub fn appliance(sandbox: &Sandbox, namespace: &str, name: &str) -> String {
    let (node, arm, sts, blob) = (sandbox.node(), sandbox.get("ARM_URL"), sandbox.get("STS_URL"), sandbox.get("BLOB_URL"));
    format!(
        r"apiVersion: hawser.dev/v1alpha1
kind: Appliance
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  vcenter:
    url: https://{node}
    credentialsSecretRef: {{name: vcenter}}
    caBundleRef: {{name: sandbox-ca}}
  azure:
    subscriptionId: {SUBSCRIPTION}
    resourceGroup: hawser
    location: westeurope
    credentials: {{tenantId: {TENANT}, clientId: {CLIENT}}}
    endpoints: {{resourceManager: '{arm}', resourceManagerAudience: 'https://management.azure.com', authorityHost: '{sts}'}}
    caBundleRef: {{name: sandbox-ca}}
  logStore: {{accountUrl: '{blob}', container: {CONTAINER}}}
  encryption: {{keySecretRef: {{name: hawser-key}}}}
  diskAccess: {{method: VDDK, vddk: {{claimName: vddk}}}}
  # All VMs of the sandbox are on one host.
  limits: {{disksPerHost: 64}}
"
    )
}

/// A namespace in which Pods are restricted.
#[must_use]
pub fn namespace(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{pod-security.kubernetes.io/enforce: restricted, \
         pod-security.kubernetes.io/warn: restricted}}\n"
    )
}

/// `helm upgrade --install` of the chart, until its operators are ready. `values` are further `--set`s.
///
/// # Errors
/// What helm says against it.
pub async fn chart(sandbox: &Sandbox, values: &[&str]) -> Result<String> {
    release(sandbox, NAMESPACE, values).await
}

/// The same, as a release of the name of its namespace.
///
/// # Errors
/// What helm says against it.
pub async fn release(sandbox: &Sandbox, namespace: &str, values: &[&str]) -> Result<String> {
    let authority = format!("workloadIdentity.authorityHost={}", sandbox.get("STS_URL"));
    let (client, tenant) = (format!("workloadIdentity.clientId={CLIENT}"), format!("workloadIdentity.tenantId={TENANT}"));
    let mut arguments = vec!["upgrade", "--install", namespace, "charts/hawser", "--namespace", namespace, "--wait", "--timeout=120s"];
    let tags = [format!("image.tag={}", tag(sandbox, "operator").await?), format!("worker.image.tag={}", tag(sandbox, "worker").await?)];
    let images = ["image.repository=hawser.dev/operator", "worker.image.repository=hawser.dev/worker", &tags[0], &tags[1]];
    for value in images.into_iter().chain([client.as_str(), &tenant, &authority]).chain(values.iter().copied()) {
        arguments.extend(["--set", value]);
    }
    sandbox.run("helm", &arguments, None).await
}

/// The tag of an image as it was built last: a program that was built anew is another image, or nobody would start it.
async fn tag(sandbox: &Sandbox, image: &str) -> Result<String> {
    let file = sandbox.root.join(".cache/images").join(image).with_extension("key");
    let key = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}: e2e/images/build.sh builds it", file.display()))?;
    let tag = format!("dev-{}", key.trim().chars().take(12).collect::<String>());
    sandbox.tag(&format!("hawser.dev/{image}:dev"), &format!("hawser.dev/{image}:{tag}")).await?;
    Ok(tag)
}

/// All of it: namespace, log store, Secrets, chart, and the appliance, until it is ready.
///
/// # Errors
/// What is not ready, and why.
pub async fn all(sandbox: &Sandbox) -> Result<()> {
    sandbox.apply(&namespace(NAMESPACE)).await?;
    make_container(sandbox, CONTAINER).await?;
    sandbox.apply(&prerequisites(sandbox, NAMESPACE, &sandbox.authority()?)).await?;
    chart(sandbox, &[]).await?;
    sandbox.apply(&appliance(sandbox, NAMESPACE, APPLIANCE)).await?;
    ready(sandbox, NAMESPACE, APPLIANCE, Duration::from_secs(90)).await
}

/// Waits for an appliance to be ready.
///
/// # Errors
/// What is not, and why.
pub async fn ready(sandbox: &Sandbox, namespace: &str, name: &str, limit: Duration) -> Result<()> {
    let client = sandbox.kubernetes().await?;
    let api: kube::Api<crds::Appliance> = kube::Api::namespaced(client, namespace);
    wait::until(&format!("the appliance {name} is ready"), limit, async || {
        let found = api.get(name).await.map_err(|error| error.to_string())?;
        let conditions = found.status.map(|status| status.conditions).unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
        match ready {
            Some(ready) if ready.status == "True" => Ok(()),
            Some(ready) => Err(format!("{}: {}", ready.reason, ready.message)),
            None => Err("it has no conditions yet".to_owned()),
        }
    })
    .await
}
