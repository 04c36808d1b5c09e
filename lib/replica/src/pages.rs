//! What a page blob and an upload disk have in common: content in pages, a VHD footer after it, and the requests for both.
//!
//! Every call is one request (clearing is one for each [`CLEAR_STEP`]). The SDK repeats none, and no request outlives [`WRITE_TIMEOUT`] on
//! this side either: its bytes have left before the permit that it was sent under ends.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use azure_core::{
    http::{Transport, Url},
    time::OffsetDateTime,
};
use azure_storage_blob::{
    BlobClient, BlobClientOptions, PageBlobClient,
    models::{
        BlobClientDownloadOptions, BlobClientGetPropertiesOptions, BlobClientGetPropertiesResultHeaders, BlobType, HttpRange,
        PageBlobClientClearPagesOptions, PageBlobClientCreateOptions, PageBlobClientSetSequenceNumberOptions,
        PageBlobClientSetSequenceNumberResultHeaders, PageBlobClientUploadPagesOptions, PageBlobClientUploadPagesResultHeaders,
        SequenceNumberActionType,
    },
};
use blocklog::{
    azure_blob::{Auth, Failure, FailureKind, Retry, classify, client_options},
    clock::Clock,
};
use bytes::Bytes;
use jiff::Timestamp;
use tracing::{debug, warn};

use crate::{
    CLEAR_STEP, Condition, FenceKind, NO_SEED, Permit, ReplicaError, WRITE_TIMEOUT,
    gate::{Gate, check_range, check_transfer},
    vhd::{FOOTER, Footer},
};

/// How long a request that changes nothing may take.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of one page blob.
pub(crate) struct Pages {
    blob: BlobClient,
    page: PageBlobClient,
    /// The host has said that it takes no conditions of time: they are left out, as one that ignores them would read them.
    blind: AtomicBool,
}

/// A page blob's properties.
#[derive(Debug)]
pub(crate) struct Properties {
    pub(crate) length: u64,
    pub(crate) metadata: HashMap<String, String>,
}

/// The bytes of a footer as they stand on the disk, and what they say.
#[derive(Debug, Clone)]
pub(crate) struct FoundFooter {
    pub(crate) bytes: Bytes,
    pub(crate) footer: Footer,
    /// The blob's metadata came with the same answer.
    pub(crate) metadata: HashMap<String, String>,
}

/// What an answer means where no condition was set.
fn refused(failure: &Failure) -> ReplicaError {
    let words = failure.to_string();
    match (failure.kind, failure.status, failure.code.as_str()) {
        (FailureKind::Unreachable, ..) => ReplicaError::Unreachable(words),
        (FailureKind::Denied, ..) => ReplicaError::Denied(words),
        (_, Some(404), _) => ReplicaError::WrongSeed { expected: "a page blob".to_owned(), found: NO_SEED.to_owned() },
        // Damaged on its way, and not carried out: the same write will succeed.
        (_, Some(400), "Crc64Mismatch" | "Md5Mismatch") => ReplicaError::Unreachable(words),
        (_, Some(412), code) if code.starts_with("Lease") => ReplicaError::Denied(format!("somebody else holds a lease: {words}")),
        // Azurite's own, where its memory ends.
        (_, Some(409), "MemoryExtentStoreAtSizeLimit") => ReplicaError::Full(words),
        _ => ReplicaError::Failed(words),
    }
}

/// The Blob service's codes for a conditional header where none may be.
fn takes_no_conditions(failure: &Failure) -> bool {
    failure.status == Some(400) && ["ConditionHeadersNotSupported", "UnsupportedHeader"].contains(&failure.code.as_str())
}

/// What an answer means to a write of `turn` that was sent under a condition. A host of managed disks may have words of its own for a
/// condition that is not met, so the status decides.
fn refused_write(failure: &Failure, condition: Condition, turn: u64) -> ReplicaError {
    let conditional = condition != Condition::None;
    if conditional && failure.status == Some(412) && !failure.code.starts_with("Lease") {
        return ReplicaError::Fenced { turn };
    }
    refused(failure)
}

async fn within<T>(limit: Duration, request: impl Future<Output = azure_core::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(|error| classify(&error)),
        Err(_) => Err(Failure {
            kind: FailureKind::Unreachable,
            status: None,
            code: String::new(),
            text: format!("no answer within {} s", limit.as_secs()),
        }),
    }
}

/// `timeout=`, in seconds.
fn server_timeout() -> Option<i32> {
    i32::try_from(WRITE_TIMEOUT.as_secs()).ok()
}

fn sequence(turn: u64) -> Result<i64, ReplicaError> {
    i64::try_from(turn).map_err(|_| ReplicaError::Invalid(format!("turn {turn} is no sequence number")))
}

fn header_time(time: Timestamp) -> Result<OffsetDateTime, ReplicaError> {
    OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(|_| ReplicaError::Invalid(format!("{time} cannot stand in a header")))
}

/// CRC-64/NVME, little-endian: what Azure calls `x-ms-content-crc64`.
fn crc64(data: &[u8]) -> Vec<u8> {
    let mut digest = crc64fast_nvme::Digest::new();
    digest.write(data);
    digest.sum64().to_le_bytes().to_vec()
}

impl Pages {
    /// A client of the blob at `url`, which is used as it stands. `version` is the `x-ms-version` to speak; `None` is the SDK's own.
    pub(crate) fn new(url: Url, auth: &Auth, version: Option<&str>) -> Result<Self, ReplicaError> {
        Self::through(None, url, auth, version)
    }

    /// The same over a transport that has its own opinion of whom to trust.
    pub(crate) fn through(transport: Option<Transport>, url: Url, auth: &Auth, version: Option<&str>) -> Result<Self, ReplicaError> {
        let mut client_options = client_options(auth, Retry::None).map_err(|error| ReplicaError::Denied(error.to_string()))?;
        client_options.transport = transport.or(client_options.transport);
        let mut options = BlobClientOptions { client_options, ..BlobClientOptions::default() };
        if let Some(version) = version {
            options.version = version.to_owned();
        }
        let blob =
            BlobClient::new(url, auth.credential(), Some(options)).map_err(|error| ReplicaError::Denied(classify(&error).to_string()))?;
        let page = blob.page_blob_client();
        Ok(Self { blob, page, blind: AtomicBool::new(false) })
    }

    /// Makes the blob, where there is none: `false` where there is one.
    pub(crate) async fn create(&self, size: u64, turn: u64, metadata: HashMap<String, String>) -> Result<bool, ReplicaError> {
        let blob_sequence_number = Some(sequence(turn)?);
        let options =
            PageBlobClientCreateOptions { metadata: Some(metadata), blob_sequence_number, timeout: server_timeout(), ..Default::default() };
        match within(READ_TIMEOUT, self.page.create(size, Some(options.if_not_exists()))).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.status == Some(409) && failure.code == "BlobAlreadyExists" => Ok(false),
            Err(failure) => Err(refused(&failure)),
        }
    }

    /// The blob's properties; `None` where there is none.
    pub(crate) async fn properties(&self) -> Result<Option<Properties>, ReplicaError> {
        let found = match within(READ_TIMEOUT, self.blob.get_properties(Some(BlobClientGetPropertiesOptions::default()))).await {
            Ok(found) => found,
            Err(failure) if failure.status == Some(404) => return Ok(None),
            Err(failure) => return Err(refused(&failure)),
        };
        let unknown = |error: azure_core::Error| refused(&classify(&error));
        // A host of managed disks that does not say what it serves serves a disk.
        if !matches!(found.blob_type().map_err(unknown)?, None | Some(BlobType::PageBlob)) {
            return Err(ReplicaError::Failed("the blob is not a page blob".to_owned()));
        }
        let Some(length) = found.content_length().map_err(unknown)? else {
            return Err(ReplicaError::Failed("the storage does not say how long the blob is".to_owned()));
        };
        Ok(Some(Properties { length, metadata: found.metadata().map_err(unknown)? }))
    }

    /// Puts pages in one request and returns the `Last-Modified` that they got.
    async fn put(&self, condition: Condition, turn: u64, offset: u64, data: Bytes) -> Result<Option<Timestamp>, ReplicaError> {
        let checksum = crc64(&data);
        let send = |condition| {
            let (data, checksum) = (data.clone(), checksum.clone());
            async move {
                let mut options = PageBlobClientUploadPagesOptions {
                    timeout: server_timeout(),
                    transactional_content_crc64: Some(checksum),
                    ..Default::default()
                };
                match condition {
                    Condition::SequenceIs(turn) => options.if_sequence_number_equal_to = Some(sequence(turn)?),
                    Condition::UnmodifiedSince(time) => options.if_unmodified_since = Some(header_time(time)?),
                    Condition::None => {}
                }
                let length = data.len() as u64;
                let request = self.page.upload_pages(data.into(), length, HttpRange::new(offset, length), Some(options));
                Ok(within(WRITE_TIMEOUT, request).await)
            }
        };
        let answer = self.under(condition, turn, send).await?;
        let modified = answer.last_modified().ok().flatten();
        Ok(modified.and_then(|time| Timestamp::from_second(time.unix_timestamp()).ok()))
    }

    async fn clear(&self, condition: Condition, turn: u64, offset: u64, length: u64) -> Result<(), ReplicaError> {
        let send = |condition| async move {
            let mut options = PageBlobClientClearPagesOptions { timeout: server_timeout(), ..Default::default() };
            match condition {
                Condition::SequenceIs(turn) => options.if_sequence_number_equal_to = Some(sequence(turn)?),
                Condition::UnmodifiedSince(time) => options.if_unmodified_since = Some(header_time(time)?),
                Condition::None => {}
            }
            let request = self.page.clear_pages(HttpRange::new(offset, length), Some(options));
            Ok(within(WRITE_TIMEOUT, request).await)
        };
        self.under(condition, turn, send).await.map(drop)
    }

    /// Sends a write under its condition. Where the host takes no condition of time, it goes again without, as do all after it: that host is as
    /// good as one that ignores it, and a write that was refused has had no effect.
    async fn under<T, F>(&self, condition: Condition, turn: u64, send: impl Fn(Condition) -> F) -> Result<T, ReplicaError>
    where
        F: Future<Output = Result<Result<T, Failure>, ReplicaError>>,
    {
        let timed = matches!(condition, Condition::UnmodifiedSince(_));
        let condition = if timed && self.blind.load(Ordering::Relaxed) { Condition::None } else { condition };
        match send(condition).await? {
            Ok(answer) => Ok(answer),
            Err(failure) if timed && condition != Condition::None && takes_no_conditions(&failure) => {
                if !self.blind.swap(true, Ordering::Relaxed) {
                    warn!("the disk's host takes no conditions: late writes are only kept out by waiting");
                }
                send(Condition::None).await?.map_err(|failure| refused(&failure))
            }
            Err(failure) => Err(refused_write(&failure, condition, turn)),
        }
    }

    /// Sets the sequence number to `turn` unless it is higher, and returns what it is now.
    pub(crate) async fn raise_sequence(&self, turn: u64) -> Result<u64, ReplicaError> {
        let options = PageBlobClientSetSequenceNumberOptions {
            blob_sequence_number: Some(sequence(turn)?),
            timeout: server_timeout(),
            ..Default::default()
        };
        let request = self.page.set_sequence_number(SequenceNumberActionType::Max, Some(options));
        let answer = within(WRITE_TIMEOUT, request).await.map_err(|failure| refused(&failure))?;
        let number = answer.blob_sequence_number().ok().flatten().and_then(|number| u64::try_from(number).ok());
        number.ok_or_else(|| ReplicaError::Failed("the storage does not say which sequence number it has set".to_owned()))
    }

    async fn get(&self, offset: u64, length: u64) -> Result<(Bytes, HashMap<String, String>), Failure> {
        let read = async {
            let options = BlobClientDownloadOptions { range: Some(HttpRange::new(offset, length)), ..Default::default() };
            let answer = self.blob.download(Some(options)).await?;
            let metadata = answer.properties.metadata;
            Ok((answer.body.collect().await?, metadata))
        };
        let (data, metadata) = within(READ_TIMEOUT, read).await?;
        if data.len() as u64 == length {
            return Ok((data, metadata));
        }
        Err(Failure {
            kind: FailureKind::Other,
            status: None,
            code: String::new(),
            text: format!("{} bytes came for the {length} asked for at {offset}", data.len()),
        })
    }
}

/// A disk in pages: the content, the footer, and the gate before them.
pub(crate) struct PageDisk {
    pub(crate) pages: Pages,
    /// Bytes of content before the footer.
    pub(crate) content: u64,
    pub(crate) kind: FenceKind,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gate: Gate,
}

impl PageDisk {
    pub(crate) fn new(pages: Pages, content: u64, kind: FenceKind, clock: Arc<dyn Clock>) -> Self {
        Self { pages, content, kind, clock, gate: Gate::default() }
    }

    /// The footer, or `None` where there is none that belongs to a disk of this size.
    pub(crate) async fn footer(&self) -> Result<Option<FoundFooter>, ReplicaError> {
        let (bytes, metadata) = match self.pages.get(self.content, FOOTER as u64).await {
            Ok(found) => found,
            // The blob is gone, or was made anew and is shorter.
            Err(failure) if matches!(failure.status, Some(404 | 416)) => return Ok(None),
            Err(failure) => return Err(refused(&failure)),
        };
        match Footer::parse(&bytes) {
            Ok(footer) if footer.content == self.content => Ok(Some(FoundFooter { bytes, footer, metadata })),
            Ok(footer) => {
                warn!(footer = footer.content, content = self.content, "the VHD footer belongs to a disk of another size");
                Ok(None)
            }
            Err(error) => {
                debug!(%error, "there is no VHD footer");
                Ok(None)
            }
        }
    }

    /// Writes the footer's bytes. There is nothing to protect it from: it says the same for as long as the seed lives.
    pub(crate) async fn put_footer(&self, bytes: Bytes) -> Result<Timestamp, ReplicaError> {
        let modified = self.pages.put(Condition::None, 0, self.content, bytes).await?;
        modified.ok_or_else(|| ReplicaError::Failed("the storage does not say when the footer was written".to_owned()))
    }

    pub(crate) async fn write(&self, permit: Permit, offset: u64, data: Bytes) -> Result<(), ReplicaError> {
        check_transfer(self.content, offset, data.len() as u64)?;
        self.gate.check(permit)?;
        let condition = self.kind.condition(permit, self.clock.now())?;
        self.pages.put(condition, permit.turn, offset, data).await.map(|_| ())
    }

    pub(crate) async fn clear(&self, permit: Permit, offset: u64, length: u64) -> Result<(), ReplicaError> {
        check_range(self.content, offset, length)?;
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let step = (end - at).min(CLEAR_STEP);
            self.gate.check(permit)?;
            let condition = self.kind.condition(permit, self.clock.now())?;
            self.pages.clear(condition, permit.turn, at, step).await?;
            at += step;
        }
        Ok(())
    }

    pub(crate) async fn read(&self, offset: u64, length: u32) -> Result<Bytes, ReplicaError> {
        check_transfer(self.content, offset, u64::from(length))?;
        self.pages.get(offset, u64::from(length)).await.map(|(data, _)| data).map_err(|failure| refused(&failure))
    }
}
