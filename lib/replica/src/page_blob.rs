//! A seed as a page blob. Its sequence number is the turn, and every write names it: a write of an older turn is refused by the storage
//! itself, however late it comes.

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use azure_core::http::Url;
use blocklog::{azure_blob::Auth, clock::Clock};
use bytes::Bytes;
use tracing::warn;
use uuid::Uuid;

use crate::{
    Fence, FenceKind, NO_SEED, Permit, ReplicaDisk, ReplicaError,
    pages::{PageDisk, Pages, Properties},
    vhd::{CONTENT_UNIT, FOOTER, Footer, content_for},
};

/// The largest page blob, footer included: 8 TiB (scalability targets of Blob storage).
pub const LARGEST: u64 = 8 << 40;

/// The metadata that holds the seed's unique id. (Names of metadata have no hyphens.)
const SEED: &str = "hawser_seed";

/// A seed in a page blob.
pub struct PageBlobDisk(PageDisk);

impl fmt::Debug for PageBlobDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageBlobDisk").field("content", &self.0.content).finish_non_exhaustive()
    }
}

impl PageBlobDisk {
    /// Makes a page blob for `capacity` bytes, rounded up to MiB, with its footer. The container exists. A creation that was cut off is
    /// finished; any other blob there is left alone: [`ReplicaError::WrongSeed`].
    ///
    /// `turn` is the ledger's, with the new seed in it. The blob is born with that sequence number: whatever an older turn sent to a blob of this
    /// name, a write or the raising of its fence, finds itself shut out from the first moment.
    pub async fn create(
        url: Url,
        auth: &Auth,
        clock: Arc<dyn Clock>,
        turn: u64,
        capacity: u64,
        unique_id: Uuid,
    ) -> Result<Self, ReplicaError> {
        let content = content_for(capacity).filter(|content| *content > 0 && content + FOOTER as u64 <= LARGEST);
        let content = content.ok_or(ReplicaError::TooSmall { capacity: LARGEST - CONTENT_UNIT, needed: capacity })?;
        let pages = Pages::new(url, auth, None)?;
        let id = unique_id.to_string();
        let made = pages.create(content + FOOTER as u64, turn, HashMap::from([(SEED.to_owned(), id.clone())])).await?;
        let disk = Self(PageDisk::new(pages, content, FenceKind::Exact, clock));
        if !made {
            let found = disk.0.pages.properties().await?;
            let same = found.as_ref().is_some_and(|it| it.length == content + FOOTER as u64 && it.metadata.get(SEED) == Some(&id));
            if !same {
                let found = found.and_then(|it| it.metadata.get(SEED).cloned()).unwrap_or_else(|| "another blob".to_owned());
                return Err(ReplicaError::WrongSeed { expected: id, found });
            }
        }
        if disk.0.footer().await?.is_none() {
            let footer = Footer { unique_id, content, created: disk.0.clock.now() };
            disk.0.put_footer(footer.build().to_vec().into()).await?;
        }
        Ok(disk)
    }

    /// Opens a page blob of whole MiB and a footer. [`ReplicaError::WrongSeed`] where there is none.
    pub async fn open(url: Url, auth: &Auth, clock: Arc<dyn Clock>) -> Result<Self, ReplicaError> {
        let pages = Pages::new(url, auth, None)?;
        let content = content_of(pages.properties().await?)?;
        Ok(Self(PageDisk::new(pages, content, FenceKind::Exact, clock)))
    }
}

/// The bytes of content in a blob of whole MiB and a footer.
pub(crate) fn content_of(found: Option<Properties>) -> Result<u64, ReplicaError> {
    let no_seed = |found: String| ReplicaError::WrongSeed { expected: "a disk with a VHD footer".to_owned(), found };
    let Some(found) = found else { return Err(no_seed(NO_SEED.to_owned())) };
    match found.length.checked_sub(FOOTER as u64) {
        Some(content) if content > 0 && content.is_multiple_of(CONTENT_UNIT) => Ok(content),
        _ => Err(no_seed(format!("a blob of {} bytes", found.length))),
    }
}

#[async_trait]
impl ReplicaDisk for PageBlobDisk {
    fn capacity(&self) -> u64 {
        self.0.content
    }

    fn fence_kind(&self) -> FenceKind {
        self.0.kind
    }

    /// Footer and metadata have to agree: a blob that was copied from elsewhere, or filled from elsewhere, is not the seed.
    async fn unique_id(&self) -> Result<String, ReplicaError> {
        let Some(found) = self.0.footer().await? else { return Ok(NO_SEED.to_owned()) };
        let id = found.footer.unique_id.to_string();
        if found.metadata.get(SEED) == Some(&id) {
            return Ok(id);
        }
        warn!(footer = id, metadata = found.metadata.get(SEED), "footer and metadata of the page blob name different seeds");
        Ok(NO_SEED.to_owned())
    }

    async fn raise_fence(&self, fence: Fence) -> Result<(), ReplicaError> {
        self.0.gate.may_raise(fence.turn)?;
        let number = self.0.pages.raise_sequence(fence.turn).await?;
        if number > fence.turn {
            return Err(ReplicaError::Fenced { turn: fence.turn });
        }
        if number < fence.turn {
            return Err(ReplicaError::Failed(format!("the sequence number is {number} after it was raised to {}", fence.turn)));
        }
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
