//! The shared access signature of a disk: `?sv=2018-03-28&sr=b&si=<guid>&sig=...`, signed as "Create a service SAS" has it for that version.
//! It names a stored access policy (`si`), and permission and end lie there: that is how it can be revoked.

use std::collections::HashMap;
use std::io;

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use uuid::Uuid;

use super::disk::{Disk, Ticket};
use super::refusal::Refusal;
use super::store::DiskStore;

/// The version that Azure puts into the SAS of disks.
pub(super) const SAS_VERSION: &str = "2018-03-28";

/// The blob's name in every URL of a disk.
pub(super) const BLOB: &str = "abcd";

/// The account that is part of what is signed.
const ACCOUNT: &str = "md-impexp-sandbox";

/// The key that SAS are signed with: one for each process.
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    fn text(container: &str, field: impl Fn(&str) -> String) -> String {
        let canonical = format!("/blob/{ACCOUNT}/{container}/{BLOB}");
        let before = ["sp", "st", "se"].map(&field);
        let after = ["si", "sip", "spr", "sv", "rscc", "rscd", "rsce", "rscl", "rsct"].map(&field);
        before.into_iter().chain([canonical]).chain(after).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn url(&self, public: &str, container: &str, si: Uuid) -> String {
        let text = Self::text(container, |name| match name {
            "si" => si.to_string(),
            "sv" => SAS_VERSION.to_owned(),
            _ => String::new(),
        });
        let signature = STANDARD.encode(hmac::sign(&self.0, text.as_bytes()));
        let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        format!("{public}/{container}/{BLOB}?sv={SAS_VERSION}&sr=b&si={si}&sig={signature}")
    }

    /// In constant time.
    fn verify(&self, container: &str, query: &HashMap<String, String>, signature: &[u8]) -> bool {
        let text = Self::text(container, |name| query.get(name).cloned().unwrap_or_default());
        hmac::verify(&self.0, text.as_bytes(), signature).is_ok()
    }
}

impl DiskStore {
    /// Who asks: the disk of the URL, if its SAS is good at `now`.
    pub(super) fn authenticate(
        &self,
        path: &str,
        query: &HashMap<String, String>,
        now: Timestamp,
    ) -> Result<(std::sync::Arc<Disk>, Ticket), Refusal> {
        let Some(signature) = query.get("sig") else {
            return Err(Refusal::no_signature("The URL carries no shared access signature (sig)."));
        };
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        // The signature is for one blob: anything else, a container too, is not what was signed.
        let ([container, BLOB], Some("b")) = (parts.as_slice(), query.get("sr").map(String::as_str)) else {
            return Err(Refusal::signature());
        };
        let signed = STANDARD.decode(signature).is_ok_and(|bytes| self.inner.signer.verify(container, query, &bytes));
        if !signed {
            return Err(Refusal::signature());
        }
        // With a good signature the rest is of our own making.
        let si = query.get("si").and_then(|si| Uuid::parse_str(si).ok()).ok_or_else(Refusal::signature)?;
        let disk = self.by_container(container).ok_or_else(Refusal::unknown_identifier)?;
        let ticket = disk.ticket(si, now)?;
        Ok((disk, ticket))
    }
}
