//! Disks from page blobs, out of Azurite.

use std::time::Duration;

use aws_lc_rs::hmac;
use azure_storage_blob::models::HttpRange;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blocklog::test_support::Azurite;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::sim::{GROUP, LINKED, MIB, Sim, config, disk, footer, id, merge};

const SIZE: u64 = 20 * MIB;

fn account() -> String {
    format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/devstoreaccount1")
}

fn body(uri: &str) -> Value {
    json!({ "location": "westeurope", "properties": { "osType": "Linux", "hyperVGeneration": "V2",
        "creationData": { "createOption": "Import", "sourceUri": uri, "storageAccountId": account() } } })
}

async fn start() -> Sim {
    let mut config = config();
    config.storage_accounts[0].blob_endpoint = Azurite::shared().url().to_owned();
    Sim::with(config).await
}

/// A page blob with a few pages, and its URL.
async fn blob(size: u64, with_footer: bool) -> String {
    let container = Azurite::shared().create_container().await;
    let blob = Azurite::shared().container_client(&container).blob_client("x.vhd");
    let pages = blob.page_blob_client();
    pages.create(size, None).await.unwrap();
    for (at, byte) in [(0_u64, 1_u8), (5 * MIB, 2), (SIZE - 512, 3)] {
        pages.upload_pages(Bytes::from(vec![byte; 512]).into(), 512, HttpRange::new(at, 512), None).await.unwrap();
    }
    if with_footer {
        pages.upload_pages(Bytes::from(footer(size - 512).to_vec()).into(), 512, HttpRange::new(size - 512, 512), None).await.unwrap();
    }
    format!("{}/{container}/x.vhd", Azurite::shared().url())
}

/// How an import ended; its bytes come in real time.
async fn ended(sim: &Sim, name: &str, body: Value) -> Value {
    let started = sim.put(&disk(name), body).await;
    started.is(202);
    sim.advance(60);
    for _ in 0..500 {
        let status = sim.get(started.header("azure-asyncoperation")).await.body;
        if status["status"] != "InProgress" {
            return status;
        }
        let _ = tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>()).await;
    }
    panic!("the import does not end");
}

#[tokio::test]
async fn a_vhd_becomes_a_disk() {
    let sim = start().await;
    let uri = blob(SIZE + 512, true).await;
    let status = ended(&sim, "a", body(&uri)).await;
    assert_eq!(status["status"], "Succeeded", "{status}");
    let shown = sim.get(&disk("a")).await.body;
    assert_eq!((&shown["properties"]["diskState"], &shown["properties"]["diskSizeBytes"]), (&json!("Unattached"), &json!(SIZE)));
    let byte = |at: u64| sim.state.disks.read(&id("a").to_ascii_lowercase(), at, 1).unwrap()[0];
    assert_eq!((byte(0), byte(512), byte(5 * MIB), byte(SIZE - 512)), (1, 0, 2, 3));

    let mut larger = body(&uri);
    larger["properties"]["diskSizeGB"] = json!(2);
    assert_eq!(ended(&sim, "b", larger).await["status"], "Succeeded");
    assert_eq!(sim.get(&disk("b")).await.body["properties"]["diskSizeGB"], 2);
}

#[tokio::test]
async fn by_a_sas() {
    let mut config = config();
    config.storage_accounts[0].blob_endpoint = Azurite::shared().url().to_owned();
    config.storage_accounts[0].key = STANDARD.encode("another key");
    let sim = Sim::with(config).await;
    let uri = blob(SIZE + 512, true).await;
    let status = ended(&sim, "a", body(&uri)).await;
    assert_eq!(status["error"]["code"], "BlobNotReachable", "{status}");

    let expiry = "2099-01-01T00:00:00Z";
    let text = format!("devstoreaccount1\nr\nb\no\n\n{expiry}\n\n\n2020-08-04\n");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(Azurite::shared().key()).unwrap());
    let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()).as_ref()).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let sas = format!("sv=2020-08-04&ss=b&srt=o&sp=r&se={}&sig={signature}", expiry.replace(':', "%3A"));
    let status = ended(&sim, "b", body(&format!("{uri}?{sas}"))).await;
    assert_eq!(status["status"], "Succeeded", "{status}");
}

#[tokio::test]
async fn what_is_no_vhd() {
    let sim = start().await;
    let failed = async |name: &str, uri: &str| {
        let status = ended(&sim, name, body(uri)).await;
        assert_eq!(status["status"], "Failed", "{status}");
        let shown = sim.get(&disk(name)).await.body;
        assert_eq!(shown["properties"]["provisioningState"], "Failed");
        assert_eq!(sim.state.disks.content(&id(name).to_ascii_lowercase()), None, "its bytes are gone");
        (status["error"]["code"].clone(), status["error"]["message"].as_str().unwrap().to_owned())
    };
    let (code, words) = failed("a", &blob(SIZE + 512, false).await).await;
    assert!(code == "InvalidVhd" && words.contains("conectix"), "{code} {words}");
    let (code, words) = failed("b", &blob(SIZE + 1024, true).await).await;
    assert!(code == "InvalidVhd" && words.contains("must be a multiple of 1 MiB"), "{code} {words}");
    let uri = blob(SIZE + 512, true).await;
    let (code, _) = failed("c", &uri.replace("x.vhd", "y.vhd")).await;
    assert_eq!(code, "SourceBlobNotFound");
    let container = Azurite::shared().create_container().await;
    let block = Azurite::shared().container_client(&container).blob_client("block");
    block.upload(Bytes::from(vec![0; 4096]).into(), None).await.unwrap();
    let (code, words) = failed("d", &format!("{}/{container}/block", Azurite::shared().url())).await;
    assert!(code == "InvalidVhd" && words.contains("Only blobs formatted as VHDs can be imported"), "{code} {words}");
    // What was never made cannot be made by putting it again.
    sim.put(&disk("d"), body(&format!("{}/{container}/block", Azurite::shared().url()))).await.refused(
        409,
        "OperationNotAllowed",
        "Delete it",
    );
    let deleting = sim.delete(&disk("d")).await;
    sim.done(&deleting).await;
}

#[tokio::test]
async fn what_does_not_fit() {
    let sim = start().await;
    let uri = format!("{}/seeds/x.vhd", Azurite::shared().url());
    let put = async |extra: Value| {
        let mut body = body(&uri);
        merge(&mut body, extra);
        sim.put(&disk("a"), body).await
    };
    let data = |extra: Value| json!({ "properties": { "creationData": extra } });
    put(data(json!({ "sourceUri": null }))).await.refused(400, "InvalidParameter", "sourceUri' is missing");
    put(data(json!({ "storageAccountId": null }))).await.refused(400, "InvalidParameter", "storageAccountId' is missing");
    put(data(json!({ "storageAccountId": "devstoreaccount1" }))).await.refused(400, "LinkedInvalidPropertyId", "storageAccountId");
    put(data(json!({ "storageAccountId": format!("{}x", account()) }))).await.refused(404, "ResourceNotFound", "devstoreaccount1x");
    put(data(json!({ "sourceUri": "https://elsewhere.example/seeds/x.vhd" }))).await.refused(
        400,
        "InvalidParameter",
        "does not belong to the storage account",
    );
    put(data(json!({ "sourceUri": format!("{}/x.vhd", Azurite::shared().url()) }))).await.refused(
        400,
        "InvalidParameter",
        "does not belong",
    );
    put(json!({ "location": "northeurope" })).await.refused(400, "InvalidParameter", "is in location 'westeurope'");
    put(data(json!({ "uploadSizeBytes": 20_972_032 }))).await.refused(
        400,
        "InvalidParameter",
        "'creationData.uploadSizeBytes' is not allowed with createOption 'Import'",
    );
    let stranger = sim.call_as(LINKED, "PUT", &disk("a"), Some(body(&uri))).await;
    stranger.refused(403, "LinkedAuthorizationFailed", "'Microsoft.Storage/storageAccounts/read'");
    sim.get(&disk("a")).await.is(404);
}
