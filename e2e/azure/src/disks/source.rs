//! Where Put Page From URL copies from: a disk or snapshot of this host by its SAS, or another blob service (an account's, Azurite's).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Url;

use super::conditions::Condition;
use super::refusal::Refusal;
use super::request::Copied;
use super::store::{Access, DiskStore};

/// How long another service may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The query's pairs, by their names.
pub(super) fn pairs(url: &Url) -> HashMap<String, String> {
    url.query_pairs().map(|(name, value)| (name.to_lowercase(), value.into_owned())).collect()
}

impl DiskStore {
    /// Reads what is to be copied.
    pub(super) async fn source(&self, copied: &Copied) -> Result<Bytes, Refusal> {
        let url = Url::parse(&copied.url).map_err(|_| Refusal::header("x-ms-copy-source", &copied.url))?;
        let own = Url::parse(&self.inner.public).is_ok_and(|public| public.origin() == url.origin());
        let bytes = if own { self.own_source(&url, copied).await } else { self.other_source(url, copied).await }?;
        copied.checksums.verify(&bytes)?;
        Ok(bytes)
    }

    async fn own_source(&self, url: &Url, copied: &Copied) -> Result<Bytes, Refusal> {
        let refused = |refusal: Refusal| Refusal::copy_source(refusal.status, &refusal.code);
        let (disk, ticket) = self.authenticate(url.path(), &pairs(url), self.inner.clock.now()).map_err(refused)?;
        if ticket.access == Access::Write && !self.inner.knobs.switches().read_by_write_sas {
            return Err(refused(Refusal::permission()));
        }
        let (offset, length) = (copied.offset, copied.length);
        if offset.saturating_add(length) > disk.size() {
            return Err(refused(Refusal::range(disk.size())));
        }
        let disk = Arc::clone(&disk);
        let read = tokio::task::spawn_blocking(move || {
            let found = disk.get(&Condition::default(), offset, length);
            disk.counts().operation("ReadAsCopySource").requests += 1;
            found
        });
        let (bytes, _) = read.await.map_err(|error| Refusal::internal(&std::io::Error::other(error)))??;
        Ok(bytes.into())
    }

    async fn other_source(&self, url: Url, copied: &Copied) -> Result<Bytes, Refusal> {
        let last = copied.offset + copied.length - 1;
        let mut request = self.inner.http.get(url).timeout(PATIENCE).header("x-ms-range", format!("bytes={}-{last}", copied.offset));
        request = request.header("x-ms-version", "2021-12-02");
        if let Some(authorization) = &copied.authorization {
            request = request.header("authorization", authorization);
        }
        let unreachable = |_| Refusal::copy_source(500, "CannotVerifyCopySource");
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status().as_u16();
        if !answer.status().is_success() {
            let code = answer.headers().get("x-ms-error-code").and_then(|code| code.to_str().ok()).unwrap_or("Unknown").to_owned();
            return Err(Refusal::copy_source(status, &code));
        }
        let bytes = answer.bytes().await.map_err(unreachable)?;
        if bytes.len() as u64 != copied.length {
            return Err(Refusal::copy_source(416, "InvalidRange"));
        }
        Ok(bytes)
    }
}
