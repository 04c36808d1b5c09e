//! What page blobs have beside the suite.

use std::{collections::HashMap, process::Command, sync::Arc};

use azure_core::{credentials::Secret, http::Url};
use azure_storage_blob::models::{BlobClientGetPropertiesResultHeaders, PageBlobClientCreateOptions, PageBlobClientUploadPagesOptions};
use blocklog::{azure_blob::Auth, clock::SystemClock, test_support::Azurite};
use bytes::Bytes;
use jiff::Timestamp;
use reasons::Reason;
use replica::{
    Fence, NO_SEED, Permit, ReplicaDisk, ReplicaError,
    access::{self, Purpose, ReplicaAccess},
    page_blob::PageBlobDisk,
};
use uuid::Uuid;

use crate::support::{CAPACITY, ID, blob_url, key_client, write_sas};

async fn create(url: &Url, capacity: u64, id: Uuid) -> Result<PageBlobDisk, ReplicaError> {
    PageBlobDisk::create(url.clone(), &Azurite::shared().auth(), Arc::new(SystemClock::new()), 0, capacity, id).await
}

async fn open(url: &Url) -> Result<PageBlobDisk, ReplicaError> {
    PageBlobDisk::open(url.clone(), &Azurite::shared().auth(), Arc::new(SystemClock::new())).await
}

fn fence(turn: u64) -> Fence {
    Fence { turn, previous_end: None }
}

fn permit(turn: u64) -> Permit {
    Permit { turn, until: Timestamp::MAX }
}

/// Makes the blob as somebody else would.
async fn raw_create(url: &Url, size: u64, seed: Option<Uuid>) {
    let metadata = seed.map(|id| HashMap::from([("hawser_seed".to_owned(), id.to_string())]));
    let options = PageBlobClientCreateOptions { metadata, ..Default::default() };
    key_client(url).page_blob_client().create(size, Some(options)).await.unwrap();
}

#[tokio::test]
async fn a_page_blob_is_a_vhd() {
    let url = blob_url().await;
    // A source of odd length is rounded up to MiB.
    let disk = create(&url, CAPACITY - 512, ID).await.unwrap();
    assert_eq!(disk.capacity(), CAPACITY);
    let whole = key_client(&url).download(None).await.unwrap().body.collect().await.unwrap();
    assert_eq!(whole.len() as u64, CAPACITY + 512);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    std::fs::write(&path, &whole).unwrap();
    let info = Command::new("qemu-img")
        .args(["info", "-f", "vpc", "--output=json"])
        .arg(&path)
        .output()
        .expect("qemu-img is needed by this test: install the package qemu-utils (Debian) or qemu-img (Fedora)");
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["virtual-size"], CAPACITY);
}

#[tokio::test]
async fn the_turn_is_the_sequence_number() {
    let url = blob_url().await;
    let disk = create(&url, CAPACITY, ID).await.unwrap();
    let sequence = async || key_client(&url).get_properties(None).await.unwrap().blob_sequence_number().unwrap();
    assert_eq!(sequence().await, Some(0));
    disk.raise_fence(fence(7)).await.unwrap();
    assert_eq!(sequence().await, Some(7));
    let late = open(&url).await.unwrap();
    assert_eq!(late.raise_fence(fence(6)).await, Err(ReplicaError::Fenced { turn: 6 }));
    assert_eq!(sequence().await, Some(7));
    // Opened again in the same turn, as after a crash.
    late.raise_fence(fence(7)).await.unwrap();
    late.write(permit(7), 0, vec![1; 512].into()).await.unwrap();
    assert_eq!(disk.raise_fence(fence(u64::MAX)).await.unwrap_err().reason(), Reason::ReplicaRequestInvalid);
}

#[tokio::test]
async fn creating_is_safe_to_repeat() {
    let url = blob_url().await;
    let disk = create(&url, CAPACITY, ID).await.unwrap();
    disk.raise_fence(fence(1)).await.unwrap();
    disk.write(permit(1), 0, vec![7; 512].into()).await.unwrap();
    let again = create(&url, CAPACITY, ID).await.unwrap();
    assert_eq!(again.read(0, 512).await.unwrap(), vec![7; 512]);
    let other = Uuid::from_u128(8);
    let refused = create(&url, CAPACITY, other).await.unwrap_err();
    assert_eq!(refused, ReplicaError::WrongSeed { expected: other.to_string(), found: ID.to_string() });
    assert_eq!(create(&url, CAPACITY + 512, ID).await.unwrap_err().reason(), Reason::SeedReplaced);
    assert_eq!(create(&url, 9 << 40, ID).await.unwrap_err().reason(), Reason::ReplicaTooSmall);
    assert_eq!(create(&url, 0, ID).await.unwrap_err().reason(), Reason::ReplicaTooSmall);
}

#[tokio::test]
async fn a_creation_that_was_cut_off_is_finished() {
    let url = blob_url().await;
    raw_create(&url, CAPACITY + 512, Some(ID)).await;
    assert_eq!(open(&url).await.unwrap().unique_id().await.unwrap(), NO_SEED, "no footer yet");
    let disk = create(&url, CAPACITY, ID).await.unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), ID.to_string());
}

#[tokio::test]
async fn foreign_blobs_are_left_alone() {
    let url = blob_url().await;
    assert_eq!(open(&url).await.unwrap_err().reason(), Reason::SeedReplaced, "there is none");
    raw_create(&url, CAPACITY + 512, None).await;
    assert_eq!(create(&url, CAPACITY, ID).await.unwrap_err().reason(), Reason::SeedReplaced);
    let whole = key_client(&url).download(None).await.unwrap().body.collect().await.unwrap();
    assert!(whole.iter().all(|byte| *byte == 0));
    raw_create(&url, CAPACITY, None).await;
    assert_eq!(open(&url).await.unwrap_err().reason(), Reason::SeedReplaced, "not MiB and a footer");
    key_client(&url).upload(Bytes::from_static(b"holiday pictures").into(), None).await.unwrap();
    assert_eq!(open(&url).await.unwrap_err().reason(), Reason::ReplicaFailed, "a block blob");
}

#[tokio::test]
async fn footer_and_metadata_have_to_agree() {
    let url = blob_url().await;
    let disk = create(&url, CAPACITY, ID).await.unwrap();
    let footer = key_client(&url).download(None).await.unwrap().body.collect().await.unwrap().slice(CAPACITY as usize..);
    // The same footer in a blob whose metadata name another seed, as after a copy.
    raw_create(&url, CAPACITY + 512, Some(Uuid::from_u128(8))).await;
    let range = azure_storage_blob::models::HttpRange::new(CAPACITY, 512);
    let options = PageBlobClientUploadPagesOptions::default();
    key_client(&url).page_blob_client().upload_pages(footer.into(), 512, range, Some(options)).await.unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), NO_SEED);
}

#[tokio::test]
async fn a_replaced_blob_takes_no_write() {
    let url = blob_url().await;
    let disk = create(&url, CAPACITY, ID).await.unwrap();
    disk.raise_fence(fence(3)).await.unwrap();
    raw_create(&url, CAPACITY + 512, None).await;
    assert_eq!(disk.unique_id().await.unwrap(), NO_SEED);
    assert_eq!(disk.write(permit(3), 0, vec![1; 512].into()).await, Err(ReplicaError::Fenced { turn: 3 }));
    raw_create(&url, 1 << 20, None).await;
    assert_eq!(disk.unique_id().await.unwrap(), NO_SEED, "a shorter one");
    key_client(&url).delete(None).await.unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), NO_SEED);
    assert_eq!(disk.write(permit(3), 0, vec![1; 512].into()).await.unwrap_err().reason(), Reason::SeedReplaced);
    assert_eq!(disk.raise_fence(fence(4)).await.unwrap_err().reason(), Reason::SeedReplaced);
}

/// A URL that carries a SAS needs no other identity, and gets none.
#[tokio::test]
async fn a_signed_url_says_it_all() {
    let url = blob_url().await;
    create(&url, CAPACITY, ID).await.unwrap();
    let wrong = Auth::SharedKey { account: Azurite::shared().account().to_owned(), key: Secret::new("d3Jvbmc=") };
    let open = async |url: Url| {
        let access = ReplicaAccess::PageBlob { url: url.into() };
        access::open(&access, Purpose::Write, &wrong, Arc::new(SystemClock::new())).await
    };
    assert_eq!(open(url.clone()).await.map(|_| ()).unwrap_err().reason(), Reason::ReplicaDenied);
    let disk = open(write_sas(url)).await.unwrap();
    disk.raise_fence(fence(1)).await.unwrap();
    disk.write(permit(1), 0, vec![1; 512].into()).await.unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), ID.to_string());
}

/// Somebody who leases the blob keeps us out, but did not succeed us.
#[tokio::test]
async fn a_lease_is_no_fence() {
    let url = blob_url().await;
    let disk = create(&url, CAPACITY, ID).await.unwrap();
    disk.raise_fence(fence(1)).await.unwrap();
    key_client(&url).acquire_lease(15, None).await.unwrap();
    let error = disk.write(permit(1), 0, vec![1; 512].into()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ReplicaDenied);
    assert!(error.to_string().contains("lease"), "{error}");
}
