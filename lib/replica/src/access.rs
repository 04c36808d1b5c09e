//! How a seed is reached: what an order carries, sealed, to the applier.

use std::{fmt, path::PathBuf, sync::Arc};

use azure_core::http::Url;
use blocklog::{azure_blob::Auth, clock::Clock};
use serde::{Deserialize, Serialize};

use crate::{ReplicaDisk, ReplicaError, disk_sas::DiskSasDisk, page_blob::PageBlobDisk, raw_file::RawFileDisk};

/// A URL whose query may hold a signature: it is shown without its query.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretUrl(Url);

/// Why a text is not the URL of a blob. It does not repeat the text, which may hold a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It cannot be parsed.
    #[error("not a URL")]
    Malformed,
    /// Neither https nor http.
    #[error("the URL of a blob begins with https://")]
    Scheme,
}

impl SecretUrl {
    /// The URL, signature included: only for a client.
    #[must_use]
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl TryFrom<String> for SecretUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        let url = Url::parse(&text).map_err(|_| UrlError::Malformed)?;
        match url.scheme() {
            "https" | "http" => Ok(Self(url)),
            _ => Err(UrlError::Scheme),
        }
    }
}

impl From<SecretUrl> for String {
    fn from(url: SecretUrl) -> Self {
        url.0.into()
    }
}

impl From<Url> for SecretUrl {
    fn from(url: Url) -> Self {
        Self(url)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        url.set_query(None);
        url.set_fragment(None);
        // A URL with a host can always be without a user.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let query = if self.0.query().is_some() { "?<redacted>" } else { "" };
        write!(f, "{url}{query}")
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

/// The way to a seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum ReplicaAccess {
    /// A raw file on the applier's machine.
    File {
        /// Where it is.
        path: PathBuf,
    },
    /// A page blob. Where the URL carries no SAS, the applier's own identity opens it.
    PageBlob {
        /// Where it is.
        url: SecretUrl,
    },
    /// A managed disk that is open for upload.
    DiskSas {
        /// Its write SAS.
        url: SecretUrl,
        /// The `x-ms-version` to speak to its host; [`crate::disk_sas::VERSION`] where it is not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api_version: Option<String>,
    },
}

/// What a seed is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be written, behind its fence.
    Write,
    /// To be read: no lock is taken. (Only a file knows the difference.)
    Verify,
}

/// Opens the seed. `auth` is the identity of the applier, for page blobs whose URL carries no SAS.
///
/// # Errors
/// [`ReplicaError::WrongSeed`] where there is no seed, and what the kind of disk can say beside that.
pub async fn open(
    access: &ReplicaAccess,
    purpose: Purpose,
    auth: &Auth,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn ReplicaDisk>, ReplicaError> {
    Ok(match (access, purpose) {
        (ReplicaAccess::File { path }, Purpose::Write) => Arc::new(RawFileDisk::open(path).await?),
        (ReplicaAccess::File { path }, Purpose::Verify) => Arc::new(RawFileDisk::open_for_reading(path).await?),
        (ReplicaAccess::PageBlob { url }, _) => {
            let signed = url.expose().query_pairs().any(|(name, _)| name == "sig");
            let auth = if signed { &Auth::Url } else { auth };
            Arc::new(PageBlobDisk::open(url.expose().clone(), auth, clock).await?)
        }
        (ReplicaAccess::DiskSas { url, api_version }, _) => {
            Arc::new(DiskSasDisk::open(url.expose().clone(), clock, api_version.as_deref()).await?)
        }
    })
}

#[cfg(test)]
mod tests {
    use reasons::Reason;

    use super::*;

    const SAS: &str = "https://md-impexp-x.z1.blob.storage.azure.net/c/abcd?sv=2018-03-28&sr=b&sig=SECRET%3D";

    #[test]
    fn what_an_order_carries() {
        let cases = [
            (ReplicaAccess::File { path: "/srv/disk.raw".into() }, r#"{"kind":"file","path":"/srv/disk.raw"}"#.to_owned()),
            (
                ReplicaAccess::DiskSas { url: SAS.to_owned().try_into().unwrap(), api_version: None },
                format!(r#"{{"kind":"diskSas","url":"{SAS}"}}"#),
            ),
            (
                ReplicaAccess::DiskSas { url: SAS.to_owned().try_into().unwrap(), api_version: Some("2020-10-02".to_owned()) },
                format!(r#"{{"kind":"diskSas","url":"{SAS}","apiVersion":"2020-10-02"}}"#),
            ),
            (
                ReplicaAccess::PageBlob { url: "http://127.0.0.1:1/a/c/b".to_owned().try_into().unwrap() },
                r#"{"kind":"pageBlob","url":"http://127.0.0.1:1/a/c/b"}"#.to_owned(),
            ),
        ];
        for (access, text) in cases {
            assert_eq!(serde_json::to_string(&access).unwrap(), text);
            assert_eq!(serde_json::from_str::<ReplicaAccess>(&text).unwrap(), access);
        }
    }

    #[test]
    fn no_signature_is_shown() {
        let access: ReplicaAccess = serde_json::from_str(&format!(r#"{{"kind":"diskSas","url":"{SAS}"}}"#)).unwrap();
        let shown = format!("{access:?}");
        assert!(shown.contains("md-impexp-x") && shown.contains("<redacted>"), "{shown}");
        assert!(!shown.contains("SECRET") && !shown.contains("sig"), "{shown}");
        let user = SecretUrl::try_from("https://user:SECRET@host/b".to_owned()).unwrap();
        assert!(!format!("{user} {user:?}").contains("SECRET"));
        for text in ["SECRET", "ftp://host/?sig=SECRET", "https://?sig=SECRET"] {
            let error = serde_json::from_str::<ReplicaAccess>(&format!(r#"{{"kind":"pageBlob","url":"{text}"}}"#)).unwrap_err();
            assert!(!error.to_string().contains("SECRET"), "{error}");
        }
    }

    #[tokio::test]
    async fn verifying_takes_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let access = ReplicaAccess::File { path: folder.path().join("disk.raw") };
        let clock = Arc::new(blocklog::test_support::ManualClock::new());
        let open = async |purpose| open(&access, purpose, &Auth::Url, clock.clone()).await.map(|disk| disk.capacity());
        assert_eq!(open(Purpose::Verify).await.unwrap_err().reason(), Reason::SeedReplaced);
        let writer = RawFileDisk::create(folder.path().join("disk.raw"), 4096, uuid::Uuid::nil()).await.unwrap();
        assert_eq!(open(Purpose::Verify).await, Ok(4096));
        assert_eq!(open(Purpose::Write).await.unwrap_err().reason(), Reason::ReplicaInUse);
        drop(writer);
        assert_eq!(open(Purpose::Write).await, Ok(4096));
    }

    #[test]
    fn unknown_fields_are_refused() {
        for text in [
            r#"{"kind":"file","path":"/a","key":"k"}"#,
            r#"{"kind":"pageBlob","url":"http://h/b","accountKey":"k"}"#,
            r#"{"kind":"floppy","path":"/a"}"#,
            r#"{"path":"/a"}"#,
        ] {
            assert!(serde_json::from_str::<ReplicaAccess>(text).is_err(), "{text}");
        }
    }
}
