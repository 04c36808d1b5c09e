//! What managed disks have beside the suite.

use std::{collections::HashMap, sync::Arc};

use azure_core::http::Url;
use azure_storage_blob::models::{BlobClientGetPropertiesResultHeaders, PageBlobClientCreateOptions};
use blocklog::clock::{Clock, SystemClock};
use jiff::{SignedDuration, Timestamp};
use reasons::Reason;
use replica::{Fence, NO_SEED, Permit, ReplicaDisk, ReplicaError, disk_sas::DiskSasDisk};
use uuid::Uuid;

use crate::support::{CAPACITY, ID, blob_url, key_client, upload_disk, write_sas};

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}

async fn format(url: &Url, capacity: u64, id: Uuid) -> Result<DiskSasDisk, ReplicaError> {
    DiskSasDisk::format(url.clone(), clock(), None, capacity, id).await
}

async fn last_modified(url: &Url) -> Timestamp {
    let time = key_client(url).get_properties(None).await.unwrap().last_modified().unwrap().unwrap();
    Timestamp::from_second(time.unix_timestamp()).unwrap()
}

#[tokio::test]
async fn the_footer_makes_the_seed() {
    let url = upload_disk(CAPACITY + 512).await;
    let disk = DiskSasDisk::open(url.clone(), clock(), None).await.unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), NO_SEED);
    let fence = Fence { turn: 1, previous_end: None };
    assert_eq!(disk.raise_fence(fence).await.unwrap_err().reason(), Reason::SeedReplaced, "nothing to rewrite");
    format(&url, CAPACITY - 512, ID).await.unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), ID.to_string());
    let before = last_modified(&url).await;
    format(&url, CAPACITY, ID).await.unwrap();
    assert_eq!(last_modified(&url).await, before, "formatting again writes nothing");
    let other = Uuid::from_u128(8);
    let refused = format(&url, CAPACITY, other).await.unwrap_err();
    assert_eq!(refused, ReplicaError::WrongSeed { expected: other.to_string(), found: ID.to_string() });
    let larger = format(&url, CAPACITY + 512, ID).await.unwrap_err();
    assert_eq!(larger, ReplicaError::TooSmall { capacity: CAPACITY, needed: CAPACITY + 512 });
}

/// The fence rewrites the very bytes that it found.
#[tokio::test]
async fn the_fence_changes_the_time_and_nothing_else() {
    let url = upload_disk(CAPACITY + 512).await;
    let disk = format(&url, CAPACITY, ID).await.unwrap();
    let whole = async || key_client(&url).download(None).await.unwrap().body.collect().await.unwrap();
    let before = whole().await;
    let end = clock().now() + SignedDuration::from_millis(1500);
    disk.raise_fence(Fence { turn: 1, previous_end: Some(end) }).await.unwrap();
    assert!(last_modified(&url).await > end);
    assert!(whole().await == before);
}

/// Without its own clock's help, the writer is kept out by the storage alone: the permit's end lies before the footer's rewrite.
#[tokio::test]
async fn the_storage_honours_the_permits_end() {
    let url = upload_disk(CAPACITY + 512).await;
    let slow = crate::support::OffsetClock::system();
    let disk = DiskSasDisk::format(url.clone(), slow.clone(), None, CAPACITY, ID).await.unwrap();
    disk.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
    let modified = last_modified(&url).await;
    slow.set(-3600);
    let write = async |until| disk.write(Permit { turn: 1, until }, 0, vec![1; 512].into()).await;
    let just_before = modified - SignedDuration::from_nanos(1);
    assert_eq!(write(just_before).await, Err(ReplicaError::Fenced { turn: 1 }), "rounded down, it ends a second earlier");
    assert_eq!(disk.read(0, 512).await.unwrap(), vec![0; 512]);
    assert_eq!(write(modified + SignedDuration::from_secs(60)).await, Ok(()));
}

#[tokio::test]
async fn what_is_no_disk_is_refused() {
    let nowhere = write_sas(blob_url().await);
    assert_eq!(DiskSasDisk::open(nowhere, clock(), None).await.unwrap_err().reason(), Reason::SeedReplaced);
    let odd = upload_disk(CAPACITY).await;
    assert_eq!(DiskSasDisk::open(odd, clock(), None).await.unwrap_err().reason(), Reason::SeedReplaced);
    let mut forged = upload_disk(CAPACITY + 512).await;
    let query: HashMap<String, String> = forged.query_pairs().into_owned().collect();
    forged.query_pairs_mut().clear().extend_pairs(query.iter().map(|(name, value)| (name, if name == "sp" { "r" } else { value })));
    let denied = DiskSasDisk::open(forged, clock(), None).await.unwrap_err();
    assert_eq!(denied.reason(), Reason::ReplicaDenied);
    assert!(!denied.to_string().contains(&query["sig"]), "{denied}");
}

/// A disk of another size with a footer of the first: as if its end had been cut off or filled from elsewhere.
#[tokio::test]
async fn a_footer_of_another_size_is_none() {
    let url = upload_disk(CAPACITY + 512).await;
    let disk = format(&url, CAPACITY, ID).await.unwrap();
    let footer = key_client(&url).download(None).await.unwrap().body.collect().await.unwrap().slice(CAPACITY as usize..);
    let larger = CAPACITY + (1 << 20);
    let client = key_client(&url).page_blob_client();
    client.create(larger + 512, Some(PageBlobClientCreateOptions::default())).await.unwrap();
    client.upload_pages(footer.into(), 512, azure_storage_blob::models::HttpRange::new(larger, 512), None).await.unwrap();
    let reopened = DiskSasDisk::open(url.clone(), clock(), None).await.unwrap();
    assert_eq!(reopened.capacity(), larger);
    assert_eq!(reopened.unique_id().await.unwrap(), NO_SEED);
    assert_eq!(disk.unique_id().await.unwrap(), NO_SEED);
}
