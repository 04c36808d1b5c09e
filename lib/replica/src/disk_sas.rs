//! A seed as a managed disk that is open for upload, through the write SAS that Azure grants for it.
//!
//! Its host takes Put Page, Get Page Ranges and Get. Put Blob must never be sent: it deletes the disk's blob and makes another. There are no
//! metadata, leases or sequence numbers, so the fence is time: see [`FenceKind::Time`].

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use azure_core::http::{Transport, Url};
use blocklog::{azure_blob::Auth, clock::Clock};
use bytes::Bytes;
use uuid::Uuid;

use crate::{
    Fence, FenceKind, NO_SEED, Permit, ReplicaDisk, ReplicaError,
    gate::raise_by_time,
    page_blob::content_of,
    pages::{PageDisk, Pages},
    vhd::Footer,
};

/// The `x-ms-version` that the hosts of managed disks are spoken to in. Which newer ones they take is not documented.
pub const VERSION: &str = "2021-12-02";

/// A seed in a managed disk.
pub struct DiskSasDisk(PageDisk);

impl fmt::Debug for DiskSasDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskSasDisk").field("content", &self.0.content).finish_non_exhaustive()
    }
}

impl DiskSasDisk {
    /// Opens a disk by its SAS. [`ReplicaError::WrongSeed`] where there is none; whether it is the right one [`ReplicaDisk::unique_id`] tells.
    pub async fn open(url: Url, clock: Arc<dyn Clock>, version: Option<&str>) -> Result<Self, ReplicaError> {
        Self::open_through(None, url, clock, version).await
    }

    async fn open_through(
        transport: Option<Transport>,
        url: Url,
        clock: Arc<dyn Clock>,
        version: Option<&str>,
    ) -> Result<Self, ReplicaError> {
        let pages = Pages::through(transport, url, &Auth::Url, Some(version.unwrap_or(VERSION)))?;
        let content = content_of(pages.properties().await?)?;
        Ok(Self(PageDisk::new(pages, content, FenceKind::Time, clock)))
    }

    /// Makes a new upload disk the seed `unique_id`, by its footer: the first thing that is written, so that no seal can fail for want of
    /// it. Safe to repeat. [`ReplicaError::TooSmall`] where the disk holds less than `capacity`, [`ReplicaError::WrongSeed`] where it is
    /// another seed already.
    pub async fn format(
        url: Url,
        clock: Arc<dyn Clock>,
        version: Option<&str>,
        capacity: u64,
        unique_id: Uuid,
    ) -> Result<Self, ReplicaError> {
        Self::format_through(None, url, clock, version, capacity, unique_id).await
    }

    /// The same over a transport that has its own opinion of whom to trust.
    pub async fn format_through(
        transport: Option<Transport>,
        url: Url,
        clock: Arc<dyn Clock>,
        version: Option<&str>,
        capacity: u64,
        unique_id: Uuid,
    ) -> Result<Self, ReplicaError> {
        let disk = Self::open_through(transport, url, clock, version).await?;
        let content = disk.0.content;
        if content < capacity {
            return Err(ReplicaError::TooSmall { capacity: content, needed: capacity });
        }
        match disk.0.footer().await? {
            Some(found) if found.footer.unique_id == unique_id => {}
            Some(found) => {
                let found = found.footer.unique_id.to_string();
                return Err(ReplicaError::WrongSeed { expected: unique_id.to_string(), found });
            }
            None => {
                let footer = Footer { unique_id, content, created: disk.0.clock.now() };
                disk.0.put_footer(footer.build().to_vec().into()).await?;
            }
        }
        Ok(disk)
    }
}

#[async_trait]
impl ReplicaDisk for DiskSasDisk {
    fn capacity(&self) -> u64 {
        self.0.content
    }

    fn fence_kind(&self) -> FenceKind {
        self.0.kind
    }

    async fn unique_id(&self) -> Result<String, ReplicaError> {
        Ok(self.0.footer().await?.map_or_else(|| NO_SEED.to_owned(), |found| found.footer.unique_id.to_string()))
    }

    async fn raise_fence(&self, fence: Fence) -> Result<(), ReplicaError> {
        self.0.gate.may_raise(fence.turn)?;
        let footer = self.0.footer().await?;
        let bytes = footer
            .map(|found| found.bytes)
            .ok_or_else(|| ReplicaError::WrongSeed { expected: "a disk with a VHD footer".to_owned(), found: NO_SEED.to_owned() })?;
        raise_by_time(self.0.clock.as_ref(), fence, || self.0.put_footer(bytes.clone())).await?;
        self.0.gate.raised(fence.turn);
        Ok(())
    }

    async fn write(&self, permit: Permit, offset: u64, data: Bytes) -> Result<(), ReplicaError> {
        self.0.write(permit, offset, data).await
    }

    async fn clear(&self, permit: Permit, offset: u64, length: u64) -> Result<(), ReplicaError> {
        self.0.clear(permit, offset, length).await
    }

    /// A page that was put is durable.
    async fn flush(&self) -> Result<(), ReplicaError> {
        Ok(())
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, ReplicaError> {
        self.0.read(offset, length).await
    }
}
