//! What is built for an appliance: clients that keep their sessions from pass to pass, and are built anew only when what they are made of
//! changes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azure::{Arm, ArmConfig, credential};
use azure_core::http::Transport;
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use blocklog::{
    azure_blob::{AccountUrl, Auth, Retry, client_options},
    clock::Clock,
    keys::KeyRing,
    steward::Steward,
    store::azure::AzureStore,
    turnstile::{Silence, Turnstile},
};
use crds::{ApplianceSpec, ReplicatedVM, appliance::CredentialsType, reasons::Reason};
use jiff::Timestamp;
use tokio::{sync::watch, task::JoinHandle};
use vsphere::{
    Client, Credentials, LoginState, Secret, Thumbprint, Trust,
    collector::{Collector, Inventory},
};

use crate::trouble::Trouble;

/// How long a request to the log store waits for its turn where the store does not answer, so that nobody is told of a moment's silence.
const PATIENCE: Duration = Duration::from_secs(3);

/// What an appliance is made of: its spec, and what its Secrets and ConfigMaps hold.
#[derive(Clone)]
pub struct Inputs {
    pub spec: ApplianceSpec,
    /// The name and password for vCenter, and the version of their Secret.
    pub vcenter: Result<(Credentials, String), Trouble>,
    /// Whom we believe to be vCenter.
    pub vcenter_trust: Result<Trust, Trouble>,
    /// The secret for Azure; none with workload identity.
    pub azure_secret: Result<Option<Secret>, Trouble>,
    /// The authorities of Azure's services.
    pub azure_trust: Result<Option<Vec<u8>>, Trouble>,
    /// The key ring, and a digest of its text.
    pub keys: Result<(KeyRing, String), Trouble>,
}

/// The vCenter of an appliance.
pub struct VCenter {
    pub client: Client,
    pub inventory: watch::Receiver<Arc<Inventory>>,
    url: String,
    trust: Trust,
    /// The version of the Secret that the last refusal belongs to: a Secret that was written anew is tried again, even with the same words.
    tried: Mutex<String>,
    collector: JoinHandle<()>,
}

impl Drop for VCenter {
    fn drop(&mut self) {
        self.collector.abort();
    }
}

/// The Azure of an appliance.
#[derive(Clone)]
pub struct Target {
    /// Resource Manager.
    pub arm: Arm,
    /// The way to the hosts of managed disks: whom the appliance trusts.
    pub disk_hosts: Transport,
    /// The log, without whose key nothing is read.
    pub steward: Result<Steward, Trouble>,
    /// The same, by a client that knows sooner when nobody answers.
    pub probe: Result<Steward, Trouble>,
    made_of: String,
}

/// What was built for an appliance.
#[derive(Clone)]
pub struct Site {
    pub spec: ApplianceSpec,
    pub vcenter: Result<Arc<VCenter>, Trouble>,
    pub target: Result<Target, Trouble>,
    /// The last vCenter that there was. It knows which password was refused, also after a look for which the apiserver did not answer.
    last: Option<Arc<VCenter>>,
    /// The last Azure that was whole. It has its token, and knows for how long it is to be left alone, also after a look for which the apiserver did not
    /// answer; it is used again only where all that it is made of is the same.
    last_target: Option<Target>,
}

impl Site {
    /// Builds what has to be, and keeps what can be kept. `follow` goes with an inventory.
    pub async fn build<F>(
        inputs: Inputs,
        before: Option<&Self>,
        clock: &Arc<dyn Clock>,
        follow: impl FnOnce(watch::Receiver<Arc<Inventory>>) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let last = before.and_then(|site| site.last.as_ref());
        let vcenter = vcenter(&inputs, last, clock, follow).await;
        let last = match &vcenter {
            Ok(vcenter) => Some(vcenter.clone()),
            // What was taken away is not used any more; another Secret is tried in any case.
            Err(trouble) if matches!(trouble.reason, Reason::CredentialsMissing | Reason::CaBundleMissing) => None,
            Err(_) => last.cloned(),
        };
        let last_target = before.and_then(|site| site.last_target.as_ref());
        // Also one that lacks the log's key has its token, and knows for how long it is to be left alone.
        let known = [before.and_then(|site| site.target.as_ref().ok()), last_target];
        let target = target(&inputs, known, clock);
        let last_target = whole(&target).or(last_target).cloned();
        Self { spec: inputs.spec, vcenter, target, last, last_target }
    }

    /// Builds one over a test's own log store and vCenter, and for the rest from what is given. A look at the appliance keeps all of it for as long as
    /// nothing that it is made of changes.
    #[cfg(feature = "test-support")]
    #[must_use]
    pub fn over(
        inputs: Inputs,
        clock: &Arc<dyn Clock>,
        store: &Arc<dyn blocklog::store::LogStore>,
        client: Client,
        inventory: watch::Receiver<Arc<Inventory>>,
    ) -> Self {
        let steward = inputs.keys.clone().map(|(keys, _)| Steward { store: store.clone(), keys });
        let target = target(&inputs, [None; 2], clock).map(|target| Target { steward: steward.clone(), probe: steward, ..target });
        let vcenter = inputs.vcenter.clone().and_then(|(_, version)| {
            let (url, trust) = (inputs.spec.vcenter.url.clone(), inputs.vcenter_trust.clone()?);
            // The inventory is the test's: nobody collects it.
            let collector = tokio::spawn(std::future::pending());
            Ok(Arc::new(VCenter { client, inventory, url, trust, tried: Mutex::new(version), collector }))
        });
        let (last, last_target) = (vcenter.as_ref().ok().cloned(), whole(&target).cloned());
        Self { spec: inputs.spec, vcenter, target, last, last_target }
    }

    /// Says goodbye to vCenter.
    pub async fn leave(&self) {
        if let Some(vcenter) = &self.last {
            vcenter.client.logout().await;
        }
    }

    /// The log, to ask whether it answers.
    ///
    /// # Errors
    /// Why it can't be asked.
    pub fn probe(&self) -> Result<&Steward, Trouble> {
        self.target.as_ref().map_err(Clone::clone)?.probe.as_ref().map_err(Clone::clone)
    }

    /// The resource group of the seed disks that a VM gets now.
    #[must_use]
    pub fn group(&self, object: &ReplicatedVM) -> String {
        object.spec.target.resource_group.clone().unwrap_or_else(|| self.spec.azure.resource_group.clone())
    }

    /// The log's steward.
    ///
    /// # Errors
    /// Why there is none.
    pub fn steward(&self) -> Result<&Steward, Trouble> {
        self.target.as_ref().map_err(Clone::clone)?.steward.as_ref().map_err(Clone::clone)
    }
}

async fn vcenter<F>(
    inputs: &Inputs,
    before: Option<&Arc<VCenter>>,
    clock: &Arc<dyn Clock>,
    follow: impl FnOnce(watch::Receiver<Arc<Inventory>>) -> F,
) -> Result<Arc<VCenter>, Trouble>
where
    F: Future<Output = ()> + Send + 'static,
{
    let trust = inputs.vcenter_trust.clone()?;
    let (credentials, version) = inputs.vcenter.clone()?;
    let url = inputs.spec.vcenter.url.clone();
    if let Some(old) = before.filter(|old| old.url == url && old.trust == trust) {
        old.client.set_credentials(credentials).await;
        let state = old.client.login_state();
        let written_anew = {
            let mut tried = old.tried.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *tried, version.clone()) != version
        };
        if may_try(&state, written_anew, clock.now()) {
            old.client.allow_login().await;
        }
        return Ok(old.clone());
    }
    let client = Client::new(&url, &trust, credentials, clock.clone())?;
    let collector = Collector::new(client.clone());
    let inventory = collector.inventory();
    let follows = follow(inventory.clone());
    // The one ends with the other, when the inventory's sender goes.
    tokio::spawn(follows);
    let collector = tokio::spawn(async move { collector.run().await });
    Ok(Arc::new(VCenter { client, inventory, url, trust, tried: Mutex::new(version), collector }))
}

/// Whether a password that was refused may be tried once more.
fn may_try(state: &LoginState, written_anew: bool, now: Timestamp) -> bool {
    written_anew && matches!(state, LoginState::Refused(_)) || state.may_be_tried_again(now)
}

/// What lacks nothing of an Azure.
fn whole(target: &Result<Target, Trouble>) -> Option<&Target> {
    target.as_ref().ok().filter(|target| target.steward.is_ok())
}

fn target(inputs: &Inputs, known: [Option<&Target>; 2], clock: &Arc<dyn Clock>) -> Result<Target, Trouble> {
    let (bundle, secret) = (inputs.azure_trust.clone()?, inputs.azure_secret.clone()?);
    let made_of = digest(inputs, bundle.as_deref(), secret.as_ref());
    if let Some(old) = known.into_iter().flatten().find(|old| old.made_of == made_of) {
        return Ok(old.clone());
    }
    let azure = &inputs.spec.azure;
    let http = credential::http(bundle.as_deref())?;
    let given = |what: &Option<String>| what.clone().unwrap_or_default();
    let identity = match (azure.credentials.type_, secret) {
        (CredentialsType::WorkloadIdentity, _) => credential::Identity::Workload {
            tenant: azure.credentials.tenant_id.clone(),
            client: azure.credentials.client_id.clone(),
            token_file: None,
        },
        (CredentialsType::ClientSecret, Some(secret)) => credential::Identity::ClientSecret {
            tenant: given(&azure.credentials.tenant_id),
            client: given(&azure.credentials.client_id),
            secret: azure_core::credentials::Secret::new(secret.reveal().to_owned()),
        },
        (CredentialsType::ClientSecret, None) => return Err(Trouble::new(Reason::CredentialsMissing, "azure.credentials names no Secret")),
    };
    let credential = credential::credential(identity, &azure.endpoints.authority_host, http.clone(), clock.clone())?;
    let endpoint = azure.endpoints.resource_manager.clone();
    let arm = Arm::new(ArmConfig {
        audience: azure.endpoints.resource_manager_audience.clone().unwrap_or_else(|| endpoint.clone()),
        endpoint,
        credential: credential.clone(),
        http: http.clone(),
        clock: clock.clone(),
    });
    let disk_hosts = Transport::new(Arc::new(http.clone()));
    // Both are the same account, so its silence is one.
    let turnstile = Turnstile::new(clock.clone(), Silence::Borne(PATIENCE));
    let steward = |retry| {
        let (keys, _) = inputs.keys.clone()?;
        let store = store(&inputs.spec, Auth::Token(credential.clone()), http.clone(), retry, turnstile.clone());
        Ok(Steward { store: Arc::new(store.map_err(|why| Trouble::new(Reason::LogStoreFailed, why))?), keys })
    };
    let (steward, probe) = (steward(Retry::Normal), steward(Retry::Brief));
    Ok(Target { arm, disk_hosts, steward, probe, made_of })
}

/// The container, through a client that trusts whom the appliance trusts.
fn store(spec: &ApplianceSpec, auth: Auth, http: reqwest::Client, retry: Retry, turnstile: Arc<Turnstile>) -> Result<AzureStore, String> {
    let account = AccountUrl::parse(&spec.log_store.account_url).map_err(|error| error.to_string())?;
    let mut client_options = client_options(&auth, retry).map_err(|error| error.to_string())?;
    client_options.transport = Some(Transport::new(Arc::new(http)));
    client_options.per_try_policies.insert(0, turnstile);
    let options = BlobContainerClientOptions { client_options, ..BlobContainerClientOptions::default() };
    let url = account.container(&spec.log_store.container, &auth);
    let container = BlobContainerClient::new(url, auth.credential(), Some(options)).map_err(|error| error.to_string())?;
    AzureStore::new(container, "").map_err(|error| error.to_string())
}

/// Names what a target is made of without telling it.
fn digest(inputs: &Inputs, bundle: Option<&[u8]>, secret: Option<&Secret>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    // A spec can always be written as JSON.
    part(&serde_json::to_vec(&(&inputs.spec.azure, &inputs.spec.log_store)).unwrap_or_default());
    part(bundle.unwrap_or_default());
    part(secret.map(|secret| secret.reveal().as_bytes()).unwrap_or_default());
    match &inputs.keys {
        Ok((_, digest)) => part(digest.as_bytes()),
        Err(trouble) => part(trouble.message.as_bytes()),
    }
    hasher.finalize().to_hex().to_string()
}

/// Whom to believe to be vCenter.
///
/// # Errors
/// Where the thumbprint is none.
pub fn trust(thumbprint: Option<&str>, bundle: Option<Vec<u8>>) -> Result<Trust, Trouble> {
    Ok(match (thumbprint, bundle) {
        (Some(text), _) => {
            Trust::Pinned(Thumbprint::parse(text).map_err(|error| Trouble::new(Reason::UntrustedCertificate, error.to_string()))?)
        }
        (None, Some(pem)) => Trust::Bundle(pem),
        (None, None) => Trust::System,
    })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use vsphere::Refusal;

    use super::*;

    #[test]
    fn a_refused_password_is_tried_with_a_new_secret_or_in_5_min() {
        let at = Timestamp::UNIX_EPOCH;
        let refused = LoginState::Refused(Refusal { user: "u".into(), kind: "InvalidLogin".into(), at });
        let after = |seconds| at + SignedDuration::from_secs(seconds);
        assert!(!may_try(&refused, false, after(299)));
        assert!(may_try(&refused, false, after(300)));
        assert!(may_try(&refused, true, after(1)));
        assert!(!may_try(&LoginState::LoggedOut, true, after(999)));
    }

    #[tokio::test]
    async fn a_refused_password_is_remembered_without_its_secret() {
        let clock: Arc<dyn Clock> = Arc::new(blocklog::test_support::ManualClock::new());
        let nobody = || Trouble::new(Reason::Unreachable, "the apiserver did not answer");
        let words = Credentials { user: "u".into(), password: Secret::new("wrong") };
        let inputs = Inputs {
            spec: crate::vm::test_support::appliance(serde_json::json!({})).spec,
            vcenter: Ok((words.clone(), "1".to_owned())),
            vcenter_trust: Ok(Trust::System),
            azure_secret: Err(nobody()),
            azure_trust: Err(nobody()),
            keys: Err(nobody()),
        };
        let unread = Inputs { vcenter: Err(nobody()), ..inputs.clone() };
        let deleted = Inputs { vcenter: Err(Trouble::new(Reason::CredentialsMissing, "the Secret does not exist")), ..inputs.clone() };
        let build = |inputs, before: Option<Site>| {
            let clock = clock.clone();
            async move { Site::build(inputs, before.as_ref(), &clock, |_| std::future::ready(())).await }
        };
        let first = build(inputs.clone(), None).await;
        first.vcenter.as_ref().unwrap().client.was_refused(&words, "InvalidLogin").await;
        let second = build(unread, Some(first)).await;
        assert!(second.vcenter.is_err());
        let third = build(inputs.clone(), Some(second)).await;
        assert!(matches!(third.vcenter.as_ref().unwrap().client.login_state(), LoginState::Refused(_)));
        // Written anew, it is tried.
        let written = Inputs { vcenter: inputs.vcenter.clone().map(|(words, _)| (words, "2".to_owned())), ..inputs };
        let fourth = build(written, Some(third)).await;
        assert_eq!(fourth.vcenter.as_ref().unwrap().client.login_state(), LoginState::LoggedOut);
        let fifth = build(deleted, Some(fourth)).await;
        assert!(fifth.last.is_none(), "nobody goes on with what was taken away");
    }
}
