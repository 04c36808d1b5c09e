//! Opens what a cycle's file names: log store, key, sources, replicas.

use std::sync::Arc;

use azure_core::credentials::Secret;
use blocklog::{
    azure_blob::{AccountUrl, Auth, ConfigError},
    clock::Clock,
    store::{
        LogStore, StoreError,
        azure::{AzureStore, AzureStoreConfig},
        directory::DirectoryStore,
    },
};
use replica::access::ReplicaAccess;
use source::{DiskSource, SourceError, nbd::NbdSource, raw::RawFile};

use super::file::{PageBlobAt, ReplicaAt, SecretFile, SourceAt, StoreAt};
use crate::{
    failure::{Failure, Kind},
    secrets,
};

pub(super) use crate::secrets::keys;

/// What a command wants with the log store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To write: a folder that is not there is made.
    Write,
    /// To look: nothing is made.
    Look,
}

/// The log store.
///
/// # Errors
/// Where it can't be opened. Whether a container answers shows only at the first request.
pub fn store(at: &StoreAt, to: Use, clock: Arc<dyn Clock>) -> Result<Arc<dyn LogStore>, Failure> {
    match at {
        StoreAt::Directory(path) => {
            if to == Use::Look && !path.is_dir() {
                return Err(StoreError::Denied(format!("{} is not a folder", path.display())).into());
            }
            Ok(Arc::new(DirectoryStore::open(path, clock)?))
        }
        StoreAt::Azure(azure) => {
            let auth = auth(&azure.secret, &azure.account)?;
            let config =
                AzureStoreConfig { account: azure.account.clone(), container: azure.container.clone(), prefix: String::new(), auth };
            Ok(Arc::new(AzureStore::open(&config).map_err(bad_config)?))
        }
    }
}

fn auth(secret: &SecretFile, account: &AccountUrl) -> Result<Auth, Failure> {
    match secret {
        SecretFile::Sas(path) => Ok(Auth::Sas(Secret::new(secrets::text(path)?.to_string()))),
        SecretFile::AccountKey(path) => {
            let key = Secret::new(secrets::text(path)?.to_string());
            Ok(Auth::SharedKey { account: account.account().to_owned(), key })
        }
    }
}

fn bad_config(error: ConfigError) -> Failure {
    Failure::new(Kind::BadFile, error.to_string(), "Correct the file, or the secret file that it names.")
}

/// A source.
///
/// # Errors
/// [`SourceError`].
pub async fn source(at: &SourceAt) -> Result<Arc<dyn DiskSource>, SourceError> {
    Ok(match at {
        SourceAt::File(path) => Arc::new(RawFile::open(path).await?),
        SourceAt::Nbd(target) => Arc::new(NbdSource::connect(target.clone()).await?),
    })
}

/// The way to a replica, and the identity that opens it where its URL does not.
///
/// # Errors
/// [`Kind::BadFile`] where a secret file is none.
pub fn replica(at: &ReplicaAt) -> Result<(ReplicaAccess, Auth), Failure> {
    match at {
        ReplicaAt::File(path) => Ok((ReplicaAccess::File { path: path.clone() }, Auth::Url)),
        ReplicaAt::PageBlob(blob) => page_blob(blob),
        ReplicaAt::Sas { url_file } => {
            let text = secrets::text(url_file)?;
            let url = text.to_string().try_into().map_err(|error| {
                Failure::new(Kind::BadFile, format!("{}: {error}", url_file.display()), "Name a file that holds the disk's write SAS.")
            })?;
            Ok((ReplicaAccess::DiskSas { url, api_version: None }, Auth::Url))
        }
    }
}

fn page_blob(blob: &PageBlobAt) -> Result<(ReplicaAccess, Auth), Failure> {
    let mut url = blob.url.expose().clone();
    let auth = match (&blob.account_key_file, &blob.sas_file) {
        (Some(path), _) => {
            // Where the host carries the account, as Azure's do, it is its first label; else it is the path's first part, as with Azurite.
            let host = url.domain().and_then(|host| host.split_once('.')).filter(|(_, rest)| rest.starts_with("blob."));
            let account = host.map(|(label, _)| label).or_else(|| url.path_segments().and_then(|mut parts| parts.next()));
            Auth::SharedKey { account: account.unwrap_or_default().to_owned(), key: Secret::new(secrets::text(path)?.to_string()) }
        }
        (None, Some(path)) => {
            url.set_query(Some(secrets::text(path)?.trim_start_matches('?')));
            Auth::Url
        }
        (None, None) => Auth::Url,
    };
    Ok((ReplicaAccess::PageBlob { url: url.into() }, auth))
}

/// Where a replica is, for people and for the ledger: without any signature.
#[must_use]
pub fn whereabouts(access: &ReplicaAccess) -> String {
    match access {
        ReplicaAccess::File { path } => path.display().to_string(),
        ReplicaAccess::PageBlob { url } | ReplicaAccess::DiskSas { url, .. } => {
            let mut url = url.expose().clone();
            url.set_query(None);
            url.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use blocklog::clock::SystemClock;

    use super::*;

    #[test]
    fn the_account_of_a_page_blob() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "a2V5\n").unwrap();
        for (url, expected) in [("https://acct.blob.core.windows.net/c/b", "acct"), ("http://127.0.0.1:10000/dev/c/b", "dev")] {
            let at = PageBlobAt { url: url.to_owned().try_into().unwrap(), account_key_file: Some(secret.clone()), sas_file: None };
            let (access, auth) = page_blob(&at).unwrap();
            let Auth::SharedKey { account, key } = auth else { panic!("{auth:?}") };
            assert_eq!((account.as_str(), key.secret(), whereabouts(&access).as_str()), (expected, "a2V5", url));
        }
    }

    #[test]
    fn a_signature_goes_into_the_access_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "?sv=1&sig=SECRET\n").unwrap();
        let url = "https://acct.blob.core.windows.net/c/b".to_owned();
        let at = PageBlobAt { url: url.try_into().unwrap(), account_key_file: None, sas_file: Some(secret.clone()) };
        let (access, _) = page_blob(&at).unwrap();
        assert!(serde_json::to_string(&access).unwrap().ends_with("/c/b?sv=1&sig=SECRET\"}"));
        assert!(!format!("{access:?} {}", whereabouts(&access)).contains("SECRET"));
        let error = replica(&ReplicaAt::Sas { url_file: secret }).unwrap_err();
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }

    #[tokio::test]
    async fn looking_makes_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = StoreAt::Directory(folder.path().join("log"));
        let clock = Arc::new(SystemClock::new());
        assert_eq!(store(&at, Use::Look, clock.clone()).err().map(|failure| failure.kind), Some(Kind::StoreUnreachable));
        store(&at, Use::Write, clock.clone()).unwrap();
        store(&at, Use::Look, clock).unwrap();
    }
}
