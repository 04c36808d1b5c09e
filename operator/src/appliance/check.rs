//! Asks what an appliance talks to whether all is as replication will need it. One that is silent is told as soon as one that refuses, and keeps
//! nobody from telling what the others say.

use std::{sync::Arc, time::Duration};

use azure::rights;
use blocklog::{LogError, clock::Clock, cycle::KeyCheck, document, key_check, names, steward::Steward, store::StoreError};
use crds::{
    ApplianceSpec,
    appliance::VCenterIdentity,
    conditions::{ConditionType as C, Finding},
    reasons::Reason,
};
use vsphere::{
    LoginState,
    methods::rights::{PRIVILEGES, Privilege},
};

use super::site::{Site, VCenter};
use crate::{roles, trouble::Trouble};

/// How long a server may take for all of its answers.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// An answer; none where it takes longer than [`ANSWER`].
async fn in_time<T>(clock: &dyn Clock, answer: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        () = clock.sleep(ANSWER) => None,
    }
}

fn silent(who: &str) -> String {
    format!("{who} has not answered for {} s", ANSWER.as_secs())
}

/// What was found of vCenter, and who it is.
pub type OfVCenter = (Vec<Finding>, Option<VCenterIdentity>);

/// What was found of vCenter.
pub async fn vcenter(site: &Arc<Site>, known: Option<VCenterIdentity>, clock: &dyn Clock) -> OfVCenter {
    let (asked, before) = (site.clone(), known.clone());
    // Not dropped where it takes longer: a login that is cut off is a session that nobody ends.
    let asked = tokio::spawn(async move { ask_vcenter(&asked, before.as_ref()).await });
    match in_time(clock, asked).await {
        Some(Ok(found)) => found,
        Some(Err(_)) | None => vcenter_fails(site, known.as_ref(), &Trouble::new(Reason::Unreachable, silent("vCenter"))),
    }
}

fn vcenter_fails(site: &Site, known: Option<&VCenterIdentity>, trouble: &Trouble) -> OfVCenter {
    let found = Finding::fails(C::VCenterReachable, trouble.reason, vcenter_remedy(trouble, &site.spec));
    (vec![found, Finding::open(C::VCenterPrivileges, Reason::NotChecked, "vCenter can't be asked")], known.cloned())
}

async fn ask_vcenter(site: &Site, known: Option<&VCenterIdentity>) -> OfVCenter {
    let failed = |trouble: Trouble| vcenter_fails(site, known, &trouble);
    let vcenter = match &site.vcenter {
        Ok(vcenter) => vcenter,
        Err(trouble) => return failed(trouble.clone()),
    };
    let identity = match identify(vcenter, known).await {
        Ok(identity) => identity,
        Err(trouble) => return failed(trouble),
    };
    let version = identity.version.clone().unwrap_or_default();
    let reached = Finding::holds(C::VCenterReachable, Reason::AsExpected, format!("vCenter {version} at {}", site.spec.vcenter.url));
    let privileges = match missing(vcenter).await {
        Ok(missing) if missing.is_empty() => {
            Finding::holds(C::VCenterPrivileges, Reason::AsExpected, "the user has the privileges that replication needs")
        }
        Ok(missing) => {
            let told: Vec<String> = missing.iter().map(|one| format!("{} ({}: {})", one.id, one.label, one.reason)).collect();
            let user = match vcenter.client.login_state() {
                LoginState::LoggedIn { user } => format!("the user {user}"),
                _ => "the user".to_owned(),
            };
            let message = format!("{user} lacks privileges in vCenter; add them to its role: {}", told.join("; "));
            Finding::fails(C::VCenterPrivileges, Reason::PrivilegesMissing, message)
        }
        Err(error) => {
            let trouble = Trouble::from(error);
            // Who it is and the session are known from before: this is the first question of this look.
            if matches!(trouble.reason, Reason::Unreachable | Reason::UntrustedCertificate | Reason::WrongCredentials) {
                return (failed(trouble).0, Some(identity));
            }
            Finding::open(C::VCenterPrivileges, trouble.reason, trouble.message)
        }
    };
    (vec![reached, privileges], Some(identity))
}

/// What is so, and the field or Secret of the Appliance in which it is mended.
fn vcenter_remedy(trouble: &Trouble, spec: &ApplianceSpec) -> String {
    let (url, secret) = (&spec.vcenter.url, &spec.vcenter.credentials_secret_ref.name);
    let field = match trouble.reason {
        Reason::WrongCredentials => format!("vcenter.credentialsSecretRef names the Secret {secret}"),
        Reason::UntrustedCertificate => "here that is vcenter.thumbprint, or vcenter.caBundleRef".to_owned(),
        Reason::Unreachable => "check vcenter.url, and the way there".to_owned(),
        _ => return trouble.message.clone(),
    };
    format!("{url}: {} ({field})", trouble.message)
}

async fn identify(vcenter: &VCenter, known: Option<&VCenterIdentity>) -> Result<VCenterIdentity, Trouble> {
    let service = vcenter.client.service().await?;
    let about = &service.content.about;
    let uuid = about.instance_uuid.filter(|_| about.is_vcenter);
    let uuid = uuid.ok_or_else(|| {
        Trouble::new(Reason::OtherVCenter, "what answers there is a host, not a vCenter: give the address of the vCenter")
    })?;
    if let Some(known) = known.filter(|known| known.instance_uuid != uuid.to_string()) {
        let message =
            format!("the URL leads to the vCenter {uuid}, it was {} before: another vCenter needs another Appliance", known.instance_uuid);
        return Err(Trouble::new(Reason::OtherVCenter, message));
    }
    // Whether it lets us in.
    vcenter.client.session().await?;
    Ok(VCenterIdentity { instance_uuid: uuid.to_string(), version: Some(about.version.clone()), build: Some(about.build.clone()) })
}

async fn missing(vcenter: &VCenter) -> Result<Vec<&'static Privilege>, vsphere::Error> {
    let root = vcenter.client.service().await?.content.root_folder.clone();
    let required: Vec<&'static Privilege> = PRIVILEGES.iter().filter(|privilege| privilege.required).collect();
    vcenter.client.missing_privileges(&root, &required).await
}

/// What was found of Azure's roles.
pub async fn azure(site: &Site, clock: &dyn Clock) -> Finding {
    let endpoint = &site.spec.azure.endpoints.resource_manager;
    let silent = || Finding::fails(C::AzurePermissions, Reason::Unreachable, silent(&format!("{endpoint}, or who issues tokens for it,")));
    in_time(clock, ask_azure(site)).await.unwrap_or_else(silent)
}

async fn ask_azure(site: &Site) -> Finding {
    let of = C::AzurePermissions;
    let arm = match &site.target {
        Ok(target) => &target.arm,
        Err(trouble) => return Finding::fails(of, trouble.reason, trouble.message.clone()),
    };
    let (subscription, group) = (&site.spec.azure.subscription_id, &site.spec.azure.resource_group);
    let fails = async |error: azure::ArmError| {
        let trouble = roles::pending(arm, subscription, group, error.into()).await;
        let remedy = match trouble.reason {
            Reason::UntrustedCertificate => ". azure.caBundleRef names the authorities to trust instead".to_owned(),
            _ => String::new(),
        };
        Finding::fails(of, trouble.reason, format!("{}{remedy}", trouble.message.trim_end_matches('.')))
    };
    match arm.resource_group(subscription, group).await {
        Ok(Some(found)) if !found.location.eq_ignore_ascii_case(&site.spec.azure.location) => {
            // A group may hold what lies elsewhere; its own region is only where its list is kept.
            tracing::debug!(group, location = found.location, "the resource group lies in another region");
        }
        Ok(Some(_)) => {}
        Ok(None) => {
            let message = format!("the resource group {group} does not exist in the subscription {subscription}: create it");
            return Finding::fails(of, Reason::ResourceGroupInvalid, message);
        }
        Err(error) => return fails(error).await,
    }
    match arm.permissions(subscription, group).await {
        Ok(permissions) => {
            let missing = rights::missing(&permissions, &rights::REPLICATION);
            if missing.is_empty() {
                return Finding::holds(
                    of,
                    Reason::AsExpected,
                    format!("the principal may do on the resource group {group} what replication needs"),
                );
            }
            Finding::fails(of, Reason::RolesMissing, roles::lacks(group, &missing))
        }
        Err(azure::ArmError::Forbidden { .. }) => unasked(group),
        Err(error) => fails(error).await,
    }
}

/// Where our roles can't be asked for. It is not known that anything else is missing, so this is no failure.
fn unasked(group: &str) -> Finding {
    let message = format!(
        "what the principal may do in the resource group {group} can't be checked: it lacks {}. Add that to its role; what else is missing shows \
         when it is needed",
        rights::PERMISSIONS_READ
    );
    Finding::open(C::AzurePermissions, Reason::RolesMissing, message)
}

/// What was found of log store and key.
pub async fn log(site: &Site, clock: &dyn Clock) -> Vec<Finding> {
    let (reached, verified) = (C::LogStoreReachable, C::KeyVerified);
    let steward = match site.probe() {
        Ok(steward) => steward,
        // Where the key is missing, nothing is known of the store.
        Err(trouble) if trouble.reason == Reason::CredentialsMissing && site.target.is_ok() => {
            return vec![
                Finding::open(reached, Reason::NotChecked, "it is looked at when there is a key"),
                Finding::fails(verified, trouble.reason, trouble.message),
            ];
        }
        Err(trouble) => {
            return vec![
                Finding::fails(reached, trouble.reason, trouble.message),
                Finding::open(verified, Reason::NotChecked, "the log store can't be asked"),
            ];
        }
    };
    let told = match in_time(clock, check(steward, clock)).await {
        None => Err((reached, Reason::LogStoreUnreachable, remedy(Reason::LogStoreUnreachable, &silent("it"), &site.spec))),
        Some(Ok(())) => Ok(()),
        Some(Err(LogError::Store(error))) => {
            let reason = error.reason();
            Err((reached, reason, remedy(reason, &error.to_string(), &site.spec)))
        }
        Some(Err(error)) => Err((verified, error.reason(), error.to_string())),
    };
    let answers = || Finding::holds(reached, Reason::AsExpected, format!("{} answers", site.spec.log_store.account_url));
    match told {
        Ok(()) => vec![answers(), Finding::holds(verified, Reason::AsExpected, "the key is the one that this log store was set up with")],
        Err((of, reason, message)) if of == reached => {
            vec![Finding::fails(reached, reason, message), Finding::open(verified, Reason::NotChecked, "the log store can't be asked")]
        }
        Err((_, reason, message)) => {
            let secret = &site.spec.encryption.key_secret_ref.name;
            let message =
                format!("{message}: give the Secret {secret} (encryption.keySecretRef) the key that this log store was set up with");
            vec![answers(), Finding::fails(verified, reason, message)]
        }
    }
}

fn remedy(reason: Reason, error: &str, spec: &ApplianceSpec) -> String {
    let (account, container) = (&spec.log_store.account_url, &spec.log_store.container);
    match reason {
        Reason::ContainerMissing => format!("{error}: create the container {container} in {account}"),
        Reason::LogStoreDenied => format!("{error}: assign the principal the role Storage Blob Data Contributor on {account}"),
        Reason::LogStoreUnreachable => {
            format!("{account} (logStore.accountUrl) does not answer: {error}. Check the way there, and azure.caBundleRef where it has one")
        }
        _ => error.to_owned(),
    }
}

/// Reads the key check, and writes it where the store is new.
async fn check(steward: &Steward, clock: &dyn Clock) -> Result<(), LogError> {
    let (store, keys) = (steward.store.as_ref(), &steward.keys);
    if key_check::verify(store, keys).await? {
        return Ok(());
    }
    // A store with anything in it was set up by somebody, with a key that has to be ours before it is written.
    if !store.list("v1/").await?.is_empty() {
        return Err(LogError::Missing(names::KEY_CHECK.to_owned()));
    }
    match document::write_new(store, keys, names::KEY_CHECK, &KeyCheck { since: clock.now() }).await {
        Err(LogError::Store(StoreError::Exists(_))) => key_check::verify(store, keys).await.map(drop),
        result => result.map(drop),
    }
}

/// Whether certificates are verified: they always are, so this says whether they could be.
#[must_use]
pub fn tls(site: &Site, found: &[Finding]) -> Finding {
    let troubles = [site.vcenter.as_ref().err(), site.target.as_ref().err()];
    let untrusted = |reason: Reason| matches!(reason, Reason::UntrustedCertificate | Reason::CaBundleMissing);
    let built =
        troubles.into_iter().flatten().find(|trouble| untrusted(trouble.reason)).map(|trouble| (trouble.reason, trouble.message.clone()));
    let met = found.iter().find(|finding| untrusted(finding.reason)).map(|finding| (finding.reason, finding.message.clone()));
    let unseen =
        |of| found.iter().find(|finding| finding.of == of && matches!(finding.reason, Reason::Unreachable | Reason::LogStoreUnreachable));
    let unseen = [C::VCenterReachable, C::AzurePermissions, C::LogStoreReachable].into_iter().find_map(unseen);
    match (built.or(met), unseen) {
        (Some((reason, message)), _) => Finding::fails(C::TLSVerified, reason, message),
        // Whose certificate nobody has seen is not verified.
        (None, Some(finding)) => {
            Finding::open(C::TLSVerified, Reason::NotChecked, format!("not every server has answered: {}", finding.message))
        }
        (None, None) => {
            let message = "the certificates of vCenter, Azure and the log store are verified";
            Finding::holds(C::TLSVerified, Reason::AsExpected, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blocklog::{
        clock::SystemClock,
        keys::{KeyRing, Secret},
        store::{LogStore, When, memory::MemoryStore},
    };
    use bytes::Bytes;
    use crds::conditions::Status;

    use super::*;

    fn steward(store: &Arc<MemoryStore>, key: u8) -> Steward {
        Steward { store: store.clone(), keys: KeyRing::single(1, Secret::new([key; 32])) }
    }

    #[test]
    fn rights_that_can_not_be_checked_are_unknown() {
        let found = unasked("g");
        assert_eq!((found.of, found.status, found.reason), (C::AzurePermissions, Status::Unknown, Reason::RolesMissing));
        assert!(found.message.contains("Microsoft.Authorization/permissions/read"), "{}", found.message);
    }

    #[tokio::test]
    async fn a_wrong_key_is_told_and_never_written() {
        let clock = SystemClock::new();
        let store = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        check(&steward(&store, 1), &clock).await.unwrap();
        check(&steward(&store, 1), &clock).await.unwrap();
        assert_eq!(check(&steward(&store, 2), &clock).await, Err(LogError::WrongKey { version: 1 }));
        // Somebody's blobs, and no key check: nobody knows with which key.
        let other = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        other.put("v1/a/b/ledger", Bytes::from_static(b"x"), When::Absent, None).await.unwrap();
        assert!(matches!(check(&steward(&other, 2), &clock).await, Err(LogError::Missing(_))));
    }
}
