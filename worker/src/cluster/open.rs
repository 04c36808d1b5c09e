//! Opens what a pod's file names: log store, key, vCenter.

use std::{path::Path, sync::Arc, time::Duration};

use azure::credential::{self, Identity};
use azure_core::credentials::Secret as AzureSecret;
use blocklog::{
    azure_blob::Auth,
    clock::{Clock, SystemClock},
    keys::KeyRing,
    store::{
        LogStore,
        azure::{AzureStore, AzureStoreConfig},
    },
};
use reasons::Reason;
use vsphere::{Client, Credentials, Secret, Thumbprint, Trust};
use zeroize::Zeroizing;

use super::{
    config::{ClientSecretAt, IdentityAt, KeyAt, Limits, LogStoreAt, VCenterAt, WorkloadAt},
    health::Health,
};
use crate::{
    cpu::Threads,
    failure::{Failure, Kind},
    secrets,
};

/// The variable by which the libraries below are told whom to trust.
const TRUST: &str = "SSL_CERT_FILE";

/// The machine's authorities, where Debian and the image that is made of it keep them.
const MACHINES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How often it is looked whether store and key are still there.
const LOOK: Duration = Duration::from_secs(60);
/// How often while they are not.
const LOOK_SOON: Duration = Duration::from_secs(5);

/// The log store, and the identity that opens it. Nothing is asked of it yet.
pub(super) fn store(at: &LogStoreAt) -> Result<(Arc<dyn LogStore>, Auth), Failure> {
    let bad = |why: String| Failure::new(Kind::BadFile, why, "Correct logStore in the file, or the file that it names.");
    let identity = match &at.identity {
        IdentityAt::Workload(WorkloadAt { tenant_id, client_id, token_file }) => {
            Ok(Identity::Workload { tenant: tenant_id.clone(), client: client_id.clone(), token_file: token_file.clone() })
        }
        IdentityAt::ClientSecret(ClientSecretAt { tenant_id, client_id, secret_file }) => Ok(Identity::ClientSecret {
            tenant: tenant_id.clone(),
            client: client_id.clone(),
            secret: AzureSecret::new(secrets::text(secret_file)?.to_string()),
        }),
        IdentityAt::SasFile(path) => Err(Auth::Sas(AzureSecret::new(secrets::text(path)?.to_string()))),
        IdentityAt::AccountKeyFile(path) => {
            let key = AzureSecret::new(secrets::text(path)?.to_string());
            Err(Auth::SharedKey { account: at.account_url.account().to_owned(), key })
        }
    };
    let auth = match identity {
        Err(auth) => auth,
        Ok(identity) => {
            let bundle = at.ca_file.as_deref().map(bundle).transpose()?;
            let http = credential::http(bundle.as_deref()).map_err(|error| bad(error.to_string()))?;
            let clock = Arc::new(SystemClock::new());
            Auth::Token(credential::credential(identity, &at.authority_host, http, clock).map_err(|error| bad(error.to_string()))?)
        }
    };
    let config = AzureStoreConfig { account: at.account_url.clone(), container: at.container.clone(), prefix: String::new(), auth };
    let store = AzureStore::open(&config).map_err(|error| bad(error.to_string()))?;
    Ok((Arc::new(store), config.auth))
}

/// The key ring of the appliance, as its file is now.
pub(super) fn keys(at: &KeyAt) -> Result<KeyRing, Failure> {
    secrets::keys(&at.file)
}

/// Threads for blocks: as many as the file says, or as there are cores.
pub(super) fn threads(limits: &Limits) -> Result<Threads, Failure> {
    let cpus = limits.cpus.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    Threads::new(cpus).map_err(|error| Failure::new(Kind::Other, format!("no threads: {error}"), "Allow this process more threads."))
}

/// Looks again and again whether the log store answers and the key is its own, and says so.
pub(super) async fn ready(health: Arc<Health>, store: Arc<dyn LogStore>, key: KeyAt, clock: Arc<dyn Clock>) {
    const WHAT: &str = "log store and key";
    loop {
        let result = match keys(&key) {
            Ok(keys) => blocklog::key_check::verify(store.as_ref(), &keys).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match result {
            // One without a check yet is set up by the operator.
            Ok(_) => health.has(WHAT),
            Err(failure) => {
                tracing::warn!(reason = failure.word(), "{}", failure.message);
                health.lacks(WHAT, format!("{}: {} {}", failure.word(), failure.message, failure.remedy));
                clock.sleep(LOOK_SOON).await;
                continue;
            }
        }
        clock.sleep(LOOK).await;
    }
}

/// Where another bundle of authorities is to be trusted than this process was started with: the command that starts it anew, with the one.
/// The clients of the log store and of the seeds' hosts look at the environment when they are made, and a process can't safely change its
/// own.
pub(super) fn trusting(at: &LogStoreAt) -> Result<Option<std::process::Command>, Failure> {
    let Some(ca_file) = &at.ca_file else { return Ok(None) };
    // Whether it holds a certificate is told now, by a sentence, and not later by a failed handshake.
    credential::http(Some(&bundle(ca_file)?))
        .map_err(|error| Failure::new(Kind::BadFile, format!("{}: {error}", ca_file.display()), "Name a file of certificates in PEM."))?;
    if std::env::var_os(TRUST).is_some_and(|value| value == ca_file.as_os_str()) {
        return Ok(None);
    }
    let own = std::env::current_exe().map_err(|error| {
        Failure::new(Kind::Other, format!("this program's own file: {error}"), format!("Set {TRUST}={}", ca_file.display()))
    })?;
    let mut again = std::process::Command::new(own);
    again.args(std::env::args_os().skip(1)).env(TRUST, ca_file);
    Ok(Some(again))
}

fn bundle(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::new(Kind::BadFile, format!("{}: {error}", path.display()), "Name a file of certificates in PEM.")
            .because(Reason::CaBundleMissing)
    })
}

/// The client of the vCenter. Nothing is asked of it yet. `log_store` may have this process trust others for Azure; that is not for
/// vCenter.
pub(super) fn vcenter(at: &VCenterAt, log_store: &LogStoreAt, clock: Arc<dyn Clock>) -> Result<Client, Failure> {
    let bad = |why: String| {
        Failure::new(Kind::BadFile, why, "Correct vcenter in the file, or the file that it names.").because(Reason::ConfigInvalid)
    };
    let trust = match (&at.ca_file, &at.thumbprint) {
        (Some(path), _) => Trust::Bundle(bundle(path)?),
        (None, Some(thumbprint)) => Trust::Pinned(Thumbprint::parse(thumbprint).map_err(|error| bad(error.to_string()))?),
        (None, None) if log_store.ca_file.is_some() => Trust::Bundle(bundle(Path::new(MACHINES))?),
        (None, None) => Trust::System,
    };
    Client::new(&at.url, &trust, credentials(at)?, clock).map_err(|error| bad(error.to_string()))
}

/// Who we are at the vCenter, as the files say now.
pub(super) fn credentials(at: &VCenterAt) -> Result<Credentials, Failure> {
    let user = secrets::text(&at.username_file)?.to_string();
    // White space at the end may be the password's; a line's end is the editor's.
    let read = |path: &Path| std::fs::read_to_string(path).map(Zeroizing::new);
    let password = read(&at.password_file).map_err(|error| {
        let what = format!("{}: {error}", at.password_file.display());
        Failure::new(Kind::BadFile, what, "Name a file that holds the password alone.").because(Reason::CredentialsMissing)
    })?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.contains('\n') {
        let what = format!("{}: it has to hold one line, the password", at.password_file.display());
        return Err(Failure::new(Kind::BadFile, what, "Put the password alone into the Secret.").because(Reason::CredentialsMissing));
    }
    Ok(Credentials { user, password: Secret::new(password) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(folder: &Path) -> VCenterAt {
        VCenterAt {
            url: "https://vcenter.example.com".to_owned(),
            username_file: folder.join("username"),
            password_file: folder.join("password"),
            ca_file: None,
            thumbprint: None,
        }
    }

    #[test]
    fn a_password_is_a_line_and_stands_in_no_message() {
        let folder = tempfile::tempdir().unwrap();
        let at = at(folder.path());
        std::fs::write(&at.username_file, "hawser@vsphere.local\n").unwrap();
        assert_eq!(credentials(&at).unwrap_err().reason, Some(Reason::CredentialsMissing));
        std::fs::write(&at.password_file, " p:ss word% \r\n").unwrap();
        let found = credentials(&at).unwrap();
        assert_eq!((found.user.as_str(), found.password.reveal()), ("hawser@vsphere.local", " p:ss word% "));
        for wrong in ["\n", "SECRET\nSECRET"] {
            std::fs::write(&at.password_file, wrong).unwrap();
            let failure = credentials(&at).unwrap_err();
            assert!(failure.reason == Some(Reason::CredentialsMissing) && !failure.to_string().contains("SECRET"), "{failure}");
        }
    }

    #[test]
    fn a_bundle_without_a_certificate_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.crt");
        let at = LogStoreAt {
            account_url: blocklog::azure_blob::AccountUrl::parse("https://acct.blob.core.windows.net").unwrap(),
            container: "hawser".to_owned(),
            identity: IdentityAt::Workload(WorkloadAt::default()),
            authority_host: "https://login.example.com".to_owned(),
            ca_file: Some(ca.clone()),
        };
        assert_eq!(trusting(&at).unwrap_err().reason, Some(Reason::CaBundleMissing));
        std::fs::write(&ca, "nothing").unwrap();
        assert!(trusting(&at).unwrap_err().message.contains("no certificate"), "{:?}", trusting(&at));
        assert!(trusting(&LogStoreAt { ca_file: None, ..at }).unwrap().is_none());
    }
}
