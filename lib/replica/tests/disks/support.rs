//! Places where disks live, for the tests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use azure_core::{credentials::Secret, hmac::hmac_sha256, http::Url};
use azure_storage_blob::{BlobClient, models::PageBlobClientCreateOptions};
use blocklog::{
    azure_blob::Auth,
    clock::{Clock, SystemClock},
    test_support::{Azurite, ManualClock},
};
use jiff::{SignedDuration, Timestamp};
use replica::{
    ReplicaDisk,
    access::{self, Purpose, ReplicaAccess},
    disk_sas::DiskSasDisk,
    memory::{HostKind, MemoryDisk, MemoryHost},
    page_blob::PageBlobDisk,
    raw_file::RawFileDisk,
};
use uuid::Uuid;

/// What every place's disk holds.
pub const CAPACITY: u64 = 6 << 20;

/// What every place's disk is.
pub const ID: Uuid = Uuid::from_u128(0xfeed_0000_0000_4000_8000_0000_0000_0001);

/// A clock that can be set wrong.
pub struct OffsetClock {
    base: Arc<dyn Clock>,
    seconds: AtomicI64,
}

impl OffsetClock {
    pub fn new(base: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { base, seconds: AtomicI64::new(0) })
    }

    pub fn system() -> Arc<Self> {
        Self::new(Arc::new(SystemClock::new()))
    }

    /// As if the time were `seconds` later than it is.
    pub fn set(&self, seconds: i64) {
        self.seconds.store(seconds, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for OffsetClock {
    fn now(&self) -> Timestamp {
        self.base.now() + SignedDuration::from_secs(self.seconds.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.base.monotonic()
    }

    async fn sleep(&self, length: Duration) {
        self.base.sleep(length).await;
    }
}

/// A writer's handle and the clock that it looks at.
pub struct Writer {
    pub disk: Arc<dyn ReplicaDisk>,
    pub clock: Arc<OffsetClock>,
}

/// Where a disk lives.
pub enum Place {
    File(tempfile::TempDir),
    Memory(Arc<MemoryHost>, Arc<dyn Clock>),
    Azure(ReplicaAccess),
}

impl Place {
    pub async fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        drop(RawFileDisk::create(folder.path().join("disk.raw"), CAPACITY, ID).await.unwrap());
        Self::File(folder)
    }

    pub fn memory(kind: HostKind) -> Self {
        let clock = ManualClock::new();
        clock.auto_advance(true);
        let clock: Arc<dyn Clock> = Arc::new(clock);
        Self::Memory(MemoryHost::new(CAPACITY as usize, Some(ID), kind, Arc::clone(&clock)), clock)
    }

    pub async fn page_blob() -> Self {
        let url = blob_url().await;
        PageBlobDisk::create(url.clone(), &Azurite::shared().auth(), OffsetClock::system(), 0, CAPACITY, ID).await.unwrap();
        Self::Azure(ReplicaAccess::PageBlob { url: url.into() })
    }

    pub async fn disk_sas() -> Self {
        let url = upload_disk(CAPACITY + 512).await;
        DiskSasDisk::format(url.clone(), OffsetClock::system(), None, CAPACITY, ID).await.unwrap();
        Self::Azure(ReplicaAccess::DiskSas { url: url.into(), api_version: None })
    }

    /// Whether a second writer can open it beside the first.
    pub fn shared(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    pub async fn open(&self) -> Writer {
        match self {
            Self::Memory(host, base) => {
                let clock = OffsetClock::new(Arc::clone(base));
                Writer { disk: Arc::new(MemoryDisk::new(Arc::clone(host), clock.clone())), clock }
            }
            Self::File(folder) => open(&ReplicaAccess::File { path: folder.path().join("disk.raw") }, &Auth::Url).await,
            Self::Azure(access) => open(access, &Azurite::shared().auth()).await,
        }
    }
}

async fn open(access: &ReplicaAccess, auth: &Auth) -> Writer {
    let clock = OffsetClock::system();
    let disk = access::open(access, Purpose::Write, auth, clock.clone()).await.unwrap();
    Writer { disk, clock }
}

/// The URL of a blob that does not exist yet, in a container that does.
pub async fn blob_url() -> Url {
    let azurite = Azurite::shared();
    let container = azurite.create_container().await;
    azurite.account_url().blob(&container, "disk.vhd", &azurite.auth())
}

/// A client of the blob at `url`, which ends in container and name, with the account's key.
pub fn key_client(url: &Url) -> BlobClient {
    let mut parts = url.path_segments().unwrap().rev();
    let (name, container) = (parts.next().unwrap(), parts.next().unwrap());
    Azurite::shared().container_client(container).blob_client(name)
}

/// What ARM does for an upload disk: its blob, of `size` bytes, and a SAS to write it.
pub async fn upload_disk(size: u64) -> Url {
    let url = blob_url().await;
    key_client(&url).page_blob_client().create(size, Some(PageBlobClientCreateOptions::default().if_not_exists())).await.unwrap();
    write_sas(url)
}

/// Signs a service SAS as "Create a service SAS" of the Blob service's REST reference has it for version 2020-12-06 and later.
pub fn write_sas(mut url: Url) -> Url {
    let azurite = Azurite::shared();
    let (permissions, end, version, resource) = ("rw", "2099-01-01T00:00:00Z", "2021-12-02", "b");
    let path = url.path().strip_prefix(&format!("/{}", azurite.account())).unwrap();
    let canonical = format!("/blob/{}{path}", azurite.account());
    let fields = [permissions, "", end, &canonical, "", "", "", version, resource, "", "", "", "", "", "", ""];
    let signature = hmac_sha256(&fields.join("\n"), &Secret::new(azurite.key())).unwrap();
    let query = [("sp", permissions), ("se", end), ("sv", version), ("sr", resource), ("sig", &signature)];
    url.query_pairs_mut().extend_pairs(query);
    url
}
