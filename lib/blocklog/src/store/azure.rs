//! A log store in a container of an Azure blob account.
//!
//! The rules are the service's own: block blobs, staged blocks, leases, `If-Match` and `If-None-Match`. Two things are added. The service
//! does not say whether it looks at the lease or at the condition first (Azurite looks at the condition, and lets a lease be named on a
//! blob that does not exist), so a write that was refused is asked about once more, and a write under a lease always asks for the blob to
//! be there. And a read is asked again where its answer broke off.
//!
//! The account must be one without a hierarchical namespace, which lists folders as if they were blobs. Soft delete and versions do no
//! harm, but keep (and cost) what is deleted.

#[cfg(test)]
mod tests;

use std::{fmt, future::Future, num::NonZero, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use azure_core::http::Etag;
use azure_storage_blob::{
    BlobClient, BlobContainerClient, BlobContainerClientOptions,
    models::{
        BlobClientAcquireLeaseOptions, BlobClientBreakLeaseOptions, BlobClientDeleteOptions, BlobClientDownloadOptions,
        BlobClientGetPropertiesOptions, BlobClientGetPropertiesResultHeaders, BlobContainerClientListBlobsOptions,
        BlockBlobClientCommitBlockListOptions, BlockBlobClientStageBlockOptions, BlockBlobClientUploadOptions, BlockLookupList, HttpRange,
        LeaseStatus,
    },
};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::{Blob, ETag, LEASE, LeaseId, Listed, LogStore, StoreError, When, accept};
use crate::{
    azure_blob::{AccountUrl, Auth, ConfigError, Failure, FailureKind, Retry, classify, client_options},
    clock::SystemClock,
    turnstile::{Silence, Turnstile},
};

/// How long an operation without much content may take, retries included.
const SHORT: Duration = Duration::from_secs(20);

/// How long a request waits for its turn where the account does not answer: as long as it would be repeated.
const SILENCE: Duration = Duration::from_secs(15);

/// How long a renewal may take: it has to fail while there is time to stop what the lease guards.
const RENEWAL: Duration = Duration::from_secs(10);

/// How long one transfer of content may take, retries included: twice the longest silence that the transport bears. A service that cannot
/// be reached is known earlier, because no attempt starts after [`Retry::Normal`]'s 15 s.
const TRANSFER: Duration = Duration::from_secs(120);

/// Up to this size content is sent, or asked for, in one request.
const ONE_REQUEST: usize = 8 << 20;

/// How often a read is asked whose answer broke off half-way. The SDK's retries end where the answer's content begins.
const READS: u32 = 3;

/// Where the log lies.
#[derive(Debug, Clone)]
pub struct AzureStoreConfig {
    /// The account.
    pub account: AccountUrl,
    /// The container, which must exist.
    pub container: String,
    /// A folder in it that all names are under, or an empty string.
    pub prefix: String,
    /// How to get in.
    pub auth: Auth,
}

/// Blobs in a container.
pub struct AzureStore {
    container: BlobContainerClient,
    /// Ends with a slash, where it is not empty.
    prefix: String,
    /// For messages.
    place: String,
    /// How long leases hold, in seconds.
    lease: i32,
    /// How many blobs a page of a listing holds; the service's most (5,000) where not given.
    page: Option<i32>,
}

impl AzureStore {
    /// Makes the client. Nothing is sent: whether the container can be reached shows at the first operation.
    ///
    /// # Errors
    /// Where `config` cannot be right.
    pub fn open(config: &AzureStoreConfig) -> Result<Self, ConfigError> {
        let refuse = |why: String| ConfigError::Url { url: config.account.to_string(), why };
        let mut client_options = client_options(&config.auth, Retry::Normal)?;
        client_options.per_try_policies.insert(0, Turnstile::new(Arc::new(SystemClock::new()), Silence::Borne(SILENCE)));
        let options = BlobContainerClientOptions { client_options, ..BlobContainerClientOptions::default() };
        let url = config.account.container(&config.container, &config.auth);
        let container = BlobContainerClient::new(url, config.auth.credential(), Some(options));
        let container = container.map_err(|error| refuse(classify(&error).text))?;
        Self::new(container, &config.prefix).map_err(|error| refuse(error.to_string()))
    }

    /// Takes a client of a container; `prefix` as in [`AzureStoreConfig`]. The client should repeat requests ([`Retry::Normal`]).
    ///
    /// # Errors
    /// [`StoreError::Failed`] where the prefix is not one.
    pub fn new(container: BlobContainerClient, prefix: &str) -> Result<Self, StoreError> {
        let prefix = match prefix.trim_end_matches('/') {
            "" => String::new(),
            folder => {
                accept::name(folder)?;
                format!("{folder}/")
            }
        };
        let mut url = container.url().clone();
        url.set_query(None);
        // From 15 to 60 s is what the service takes.
        let lease = i32::try_from(LEASE.as_secs()).unwrap_or(60);
        Ok(Self { container, prefix, place: url.to_string(), lease, page: None })
    }

    fn blob(&self, name: &str) -> BlobClient {
        self.container.blob_client(&format!("{}{name}", self.prefix))
    }

    fn refusal(&self, name: &str, failure: Failure) -> StoreError {
        let name = name.to_owned();
        let text = format!("{}: {}", self.place, failure.text);
        match (failure.kind, failure.code.as_str()) {
            (FailureKind::Unreachable, _) if failure.status == Some(507) => StoreError::Full(text),
            (FailureKind::Unreachable, _) => StoreError::Unreachable(text),
            (FailureKind::Denied, _) => StoreError::Denied(text),
            (_, "BlobNotFound") => StoreError::NotFound(name),
            (_, "ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled") => {
                StoreError::ContainerMissing(format!("{} ({})", self.place, failure.text))
            }
            (_, "BlobAlreadyExists") => StoreError::Exists(name),
            (_, "ConditionNotMet") => StoreError::Changed(name),
            (_, "LeaseIdMissing" | "LeaseAlreadyPresent" | "LeaseIsBreakingAndCannotBeAcquired") => StoreError::Leased(name),
            (
                _,
                "LeaseIdMismatchWithBlobOperation"
                | "LeaseIdMismatchWithLeaseOperation"
                | "LeaseIsBrokenAndCannotBeRenewed"
                | "LeaseLost"
                | "LeaseNotPresentWithBlobOperation"
                | "LeaseNotPresentWithLeaseOperation",
            ) => StoreError::LeaseLost(name),
            _ => StoreError::Failed(format!("{name}: {text}")),
        }
    }

    async fn bounded<T>(
        &self,
        limit: Duration,
        name: &str,
        work: impl Future<Output = azure_core::Result<T>> + Send,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result.map_err(|error| self.refusal(name, classify(&error))),
            Err(_) => Err(StoreError::Unreachable(format!("{}: no answer within {} s", self.place, limit.as_secs()))),
        }
    }

    /// What the blob's lease has against a write: the contract wants this known before the condition.
    async fn lease_against(&self, name: &str, lease: Option<LeaseId>) -> Result<Option<StoreError>, StoreError> {
        let blob = self.blob(name);
        let options = BlobClientGetPropertiesOptions { lease_id: lease.map(|lease| lease.to_string()), ..Default::default() };
        let locked = |result: azure_core::Result<_>| {
            let properties: azure_core::http::Response<_, _> = result?;
            Ok(properties.lease_status()? == Some(LeaseStatus::Locked))
        };
        match self.bounded(SHORT, name, async { locked(blob.get_properties(Some(options)).await) }).await {
            Ok(true) if lease.is_none() => Ok(Some(StoreError::Leased(name.to_owned()))),
            Ok(_) => Ok(None),
            Err(StoreError::NotFound(_)) => Ok(lease.map(|_| StoreError::LeaseLost(name.to_owned()))),
            Err(lost @ StoreError::LeaseLost(_)) => Ok(Some(lost)),
            Err(error) => Err(error),
        }
    }

    /// Reads the blob, or a range of it.
    async fn read(&self, name: &str, range: Option<HttpRange>) -> Result<(Bytes, Option<Etag>), StoreError> {
        let blob = self.blob(name);
        let mut asked = 0;
        loop {
            asked += 1;
            let options = BlobClientDownloadOptions {
                range: range.clone(),
                partition_size: NonZero::new(ONE_REQUEST),
                parallel: NonZero::new(2),
                ..Default::default()
            };
            let mut answered = false;
            let work = async {
                let response = blob.download(Some(options)).await?;
                answered = true;
                let length = total(&response.headers);
                let body = response.body.collect().await?;
                Ok((body, response.properties.etag, length))
            };
            let result = self.bounded(TRANSFER, name, work).await;
            match result {
                // What is longer than one request is read under the version of the first one.
                Err(StoreError::Changed(_) | StoreError::Unreachable(_)) if answered && asked < READS => {}
                Err(StoreError::Changed(_)) => return Err(StoreError::Failed(format!("{name}: changes faster than it can be read"))),
                Err(error) => return Err(error),
                Ok((body, etag, length)) => {
                    if range.is_none() && length.is_some_and(|length| length != body.len() as u64) {
                        return Err(StoreError::Failed(format!("{name}: {} bytes came of {length:?}", body.len())));
                    }
                    return Ok((body, etag));
                }
            }
        }
    }

    async fn size(&self, name: &str) -> Result<u64, StoreError> {
        let blob = self.blob(name);
        let work = async { blob.get_properties(None).await?.content_length() };
        let size = self.bounded(SHORT, name, work).await?;
        size.ok_or_else(|| StoreError::Failed(format!("{name}: its length is not told")))
    }
}

/// How long the whole blob is, from the `Content-Range` of an answer that holds some of it.
fn total(headers: &azure_core::http::headers::Headers) -> Option<u64> {
    let name = azure_core::http::headers::HeaderName::from_static("content-range");
    headers.get_optional_str(&name)?.rsplit('/').next()?.parse().ok()
}

/// All blocks of a blob must have ids of one length, and those that the SDK makes itself have 16 bytes.
fn block_id(part: u32) -> Vec<u8> {
    u128::from(part).to_be_bytes().to_vec()
}

#[async_trait]
impl LogStore for AzureStore {
    async fn get(&self, name: &str) -> Result<Option<Blob>, StoreError> {
        accept::name(name)?;
        match self.read(name, None).await {
            Ok((body, Some(etag))) => Ok(Some(Blob { body, etag: ETag(etag.to_string()) })),
            Ok((_, None)) => Err(StoreError::Failed(format!("{name}: came without an ETag"))),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        accept::name(name)?;
        let failed = |why: String| StoreError::Failed(format!("{name}: {range:?}: {why}"));
        let length = range.end.checked_sub(range.start).ok_or_else(|| failed("ends before it begins".to_owned()))?;
        if length == 0 || length > ONE_REQUEST as u64 {
            // Nothing, which cannot be asked for, or so much that it is better known first that it is there.
            let size = self.size(name).await?;
            if range.end > size {
                return Err(failed(format!("reaches past its {size} bytes")));
            }
        }
        if length == 0 {
            return Ok(Bytes::new());
        }
        let (body, _) = self.read(name, Some(HttpRange::new(range.start, length))).await?;
        if body.len() as u64 == length { Ok(body) } else { Err(failed(format!("{} bytes came", body.len()))) }
    }

    async fn put(&self, name: &str, body: Bytes, when: When, lease: Option<LeaseId>) -> Result<ETag, StoreError> {
        accept::name(name)?;
        let mut options = BlockBlobClientUploadOptions {
            lease_id: lease.map(|lease| lease.to_string()),
            partition_size: NonZero::new(ONE_REQUEST as u64),
            parallel: NonZero::new(2),
            ..Default::default()
        };
        match (&when, lease) {
            (When::Absent, None) => options = options.if_not_exists(),
            // A blob that is not there is not leased, so one of the two refuses.
            (When::Absent, Some(_)) => {
                return Err(self.lease_against(name, lease).await?.unwrap_or_else(|| StoreError::Exists(name.to_owned())));
            }
            (When::Matches(etag), _) => options.if_match = Some(Etag::from(etag.0.as_str())),
            (When::Always, Some(_)) => options.if_match = Some(Etag::from("*")),
            (When::Always, None) => {}
        }
        let blob = self.blob(name);
        match self.bounded(TRANSFER, name, blob.upload(body.into(), Some(options))).await {
            Ok(written) => match written.etag {
                Some(etag) => Ok(ETag(etag.to_string())),
                None => Err(StoreError::Failed(format!("{name}: written, but its ETag is not told"))),
            },
            Err(refused @ (StoreError::Exists(_) | StoreError::Changed(_))) => {
                let refused = if when == When::Absent { StoreError::Exists(name.to_owned()) } else { refused };
                Err(self.lease_against(name, lease).await?.unwrap_or(refused))
            }
            Err(error) => Err(error),
        }
    }

    async fn stage(&self, name: &str, part: u32, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        accept::name(name)?;
        let length = accept::part(name, part, &pieces)?;
        let mut sum = crc64fast_nvme::Digest::new();
        pieces.iter().for_each(|piece| sum.write(piece));
        let body = match <[Bytes; 1]>::try_from(pieces) {
            Ok([piece]) => piece,
            Err(pieces) => {
                let mut body = BytesMut::with_capacity(length);
                pieces.iter().for_each(|piece| body.extend_from_slice(piece));
                body.freeze()
            }
        };
        let options = BlockBlobClientStageBlockOptions {
            // The service wants the CRC's bytes in little-endian order, which its reference does not say.
            transactional_content_crc64: Some(sum.sum64().to_le_bytes().to_vec()),
            ..Default::default()
        };
        let blob = self.blob(name).block_blob_client();
        let id = block_id(part);
        self.bounded(TRANSFER, name, blob.stage_block(&id, length as u64, body.into(), Some(options))).await?;
        Ok(())
    }

    async fn commit(&self, name: &str, parts: u32) -> Result<(), StoreError> {
        accept::name(name)?;
        let blob = self.blob(name).block_blob_client();
        let list = BlockLookupList { latest: Some((0..parts).map(block_id).collect()), ..Default::default() };
        let options = BlockBlobClientCommitBlockListOptions { if_none_match: Some(Etag::from("*")), ..Default::default() };
        let work = async { blob.commit_block_list(list.try_into()?, Some(options)).await };
        match self.bounded(SHORT, name, work).await {
            Ok(_) => Ok(()),
            // Whichever the service looks at first: the blob is there.
            Err(StoreError::Changed(_) | StoreError::Leased(_)) => Err(StoreError::Exists(name.to_owned())),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<bool, StoreError> {
        accept::name(name)?;
        let blob = self.blob(name);
        let options = BlobClientDeleteOptions { lease_id: lease.map(|lease| lease.to_string()), ..Default::default() };
        match self.bounded(SHORT, name, blob.delete(Some(options))).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        accept::prefix(prefix)?;
        let options = BlobContainerClientListBlobsOptions {
            // An empty parameter is signed in one way here and in another by Azurite.
            prefix: Some(format!("{}{prefix}", self.prefix)).filter(|prefix| !prefix.is_empty()),
            maxresults: self.page,
            ..Default::default()
        };
        let pages = self.container.list_blobs(Some(options)).map_err(|error| self.refusal(prefix, classify(&error)))?;
        let mut pages = pages.into_pages();
        let mut found = Vec::new();
        while let Some(page) = self.bounded(SHORT, prefix, pages.try_next()).await? {
            let page = page.into_model().map_err(|error| self.refusal(prefix, classify(&error)))?;
            for item in page.blob_items {
                let name = item.name.as_deref().and_then(|name| name.strip_prefix(&self.prefix));
                let size = item.properties.and_then(|properties| properties.content_length);
                match (name, size) {
                    (Some(name), Some(size)) => found.push(Listed { name: name.to_owned(), size }),
                    _ => return Err(StoreError::Failed(format!("{prefix}: a listing without names or sizes"))),
                }
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    async fn acquire(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        accept::name(name)?;
        let blob = self.blob(name);
        let options = BlobClientAcquireLeaseOptions { proposed_lease_id: Some(lease.to_string()), ..Default::default() };
        self.bounded(SHORT, name, blob.acquire_lease(self.lease, Some(options))).await?;
        Ok(())
    }

    async fn renew(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        accept::name(name)?;
        let blob = self.blob(name);
        self.bounded(RENEWAL, name, blob.renew_lease(lease.to_string(), None)).await?;
        Ok(())
    }

    async fn release(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        accept::name(name)?;
        let blob = self.blob(name);
        self.bounded(SHORT, name, blob.release_lease(lease.to_string(), None)).await?;
        Ok(())
    }

    async fn break_lease(&self, name: &str) -> Result<(), StoreError> {
        accept::name(name)?;
        let blob = self.blob(name);
        let options = BlobClientBreakLeaseOptions { break_period: Some(0), ..Default::default() };
        match self.bounded(SHORT, name, blob.break_lease(Some(options))).await {
            // There is none to break.
            Ok(_) | Err(StoreError::LeaseLost(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Debug for AzureStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureStore").field("container", &self.place).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
