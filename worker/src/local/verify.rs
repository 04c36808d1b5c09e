//! Compares replicas with their sources, byte by byte.

use std::{sync::Arc, time::Duration};

use blocklog::{
    clock::{Clock, SystemClock},
    ids::DiskKey,
};
use futures::{StreamExt, TryStreamExt, stream};
use replica::{
    ReplicaDisk, ReplicaError,
    access::{self, Purpose},
};
use serde::{Serialize, Serializer, ser::SerializeSeq};
use source::{DiskSource, MAX_READ};

use super::{Differences, Listener, RunEvent, file::CycleFile, open};
use crate::failure::Failure;

/// Blocks in flight.
const BLOCKS: usize = 4;

/// Replicas are as large as their sources, rounded up to this.
const UNIT: u64 = 1 << 20;

/// What came of one disk.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    #[serde(serialize_with = "number")]
    pub disk: DiskKey,
    /// Bytes of the source.
    pub bytes: u64,
    /// Whether they are the same, and what follows on the replica up to the next MiB is zero.
    pub equal: bool,
    /// Where they differ.
    #[serde(flatten, serialize_with = "differences")]
    pub differences: Differences,
    pub seconds: f64,
}

fn number<S: Serializer>(disk: &DiskKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(disk.0)
}

fn differences<S: Serializer>(found: &Differences, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown<'a> {
        differing_ranges: u64,
        differing_bytes: u64,
        first: First<'a>,
    }
    struct First<'a>(&'a [std::ops::Range<u64>]);
    impl Serialize for First<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
            for range in self.0 {
                seq.serialize_element(&[range.start, range.end - range.start])?;
            }
            seq.end()
        }
    }
    Shown { differing_ranges: found.count, differing_bytes: found.bytes, first: First(&found.first) }.serialize(serializer)
}

/// Compares every disk of the file, one after the other.
///
/// # Errors
/// Where a source or a replica can't be read; where they differ is no error.
pub async fn verify(file: &CycleFile, listener: &dyn Listener) -> Result<Vec<Checked>, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut checked = Vec::new();
    for (key, disk) in &file.disks {
        let about = |failure: Failure| failure.about(format_args!("disk {key}"));
        let begun = clock.monotonic();
        let (access, auth) = open::replica(&disk.replica).map_err(about)?;
        let source = open::source(&disk.source).await.map_err(|error| about(error.into()))?;
        let replica = access::open(&access, Purpose::Verify, &auth, clock.clone()).await.map_err(|error| about(error.into()))?;
        let (bytes, capacity) = (source.size(), replica.capacity());
        if capacity < bytes {
            return Err(about(ReplicaError::TooSmall { capacity, needed: bytes }.into()));
        }
        let differences = compare(*key, source.as_ref(), replica.as_ref(), listener).await.map_err(about)?;
        let equal = differences.count == 0;
        let took: Duration = clock.monotonic() - begun;
        checked.push(Checked { disk: *key, bytes, equal, differences, seconds: super::outcome::rounded(took) });
    }
    Ok(checked)
}

async fn compare(
    disk: DiskKey,
    source: &dyn DiskSource,
    replica: &dyn ReplicaDisk,
    listener: &dyn Listener,
) -> Result<Differences, Failure> {
    let size = source.size();
    let end = size.next_multiple_of(UNIT).min(replica.capacity());
    let block = u64::from(MAX_READ);
    let blocks = stream::iter(0..end.div_ceil(block)).map(|n| async move {
        let start = n * block;
        let from_replica = async { replica.read(start, (end.min(start + block) - start) as u32).await.map_err(Failure::from) };
        let from_source = async {
            let length = size.min(start + block).saturating_sub(start) as u32;
            // Past its end, within the last MiB, the replica has to be zero.
            let mut bytes = if length > 0 { source.read(start, length).await.map_err(Failure::from)? } else { Vec::new() };
            bytes.resize((end.min(start + block) - start) as usize, 0);
            Ok(bytes)
        };
        let (one, other) = futures::try_join!(from_source, from_replica)?;
        Ok::<_, Failure>((start, one, other))
    });
    let mut blocks = std::pin::pin!(blocks.buffered(BLOCKS));
    let mut found = Differences::default();
    while let Some((start, one, other)) = blocks.try_next().await? {
        found.compare(start, &one, &other);
        listener.tell(RunEvent::Comparing { disk, done: start + one.len() as u64, of: end });
    }
    Ok(found)
}
