//! Snapshots.

use serde_json::{Value, json};

use crate::sim::{GROUP, MIB, Sim, copy_body, disk, empty_body, id, snapshot, snapshot_body, vm, vm_body, with};

fn snapshot_id(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/snapshots/{name}")
}

#[tokio::test]
async fn a_snapshot_is_frozen() {
    let sim = Sim::start().await;
    sim.sealed("a", json!({})).await;
    let shot = sim.put_done(&snapshot("s"), snapshot_body(&id("a"))).await;
    let properties = &shot["properties"];
    assert_eq!((&properties["incremental"], &properties["diskState"]), (&json!(true), &json!("Unattached")));
    assert_eq!((&properties["osType"], &properties["hyperVGeneration"]), (&json!("Linux"), &json!("V2")));
    assert_eq!((&properties["diskSizeBytes"], &shot["sku"]["name"]), (&json!(20 * MIB), &json!("Standard_LRS")));
    let family = properties["incrementalSnapshotFamilyId"].clone();
    assert_eq!(sim.put_done(&snapshot("t"), snapshot_body(&id("a"))).await["properties"]["incrementalSnapshotFamilyId"], family);
    sim.state.disks.write(&id("a").to_ascii_lowercase(), 0, &[9; 512]).unwrap();
    let copy = sim.put_done(&disk("copy"), copy_body(&snapshot_id("s"))).await;
    assert_eq!(copy["properties"]["diskState"], "Unattached");
    let first = |name: &str| sim.state.disks.read(&id(name).to_ascii_lowercase(), 0, 1).unwrap()[0];
    assert_eq!((first("a"), first("copy")), (9, 1));
}

#[tokio::test]
async fn what_cannot_be_photographed() {
    let sim = Sim::start().await;
    sim.upload("open", 20 * MIB).await;
    let shoot = async |source: &str, extra: Value| sim.put(&snapshot("s"), with(snapshot_body(source), extra)).await;
    shoot(&id("open"), json!({})).await.refused(409, "OperationNotAllowed", "ReadyToUpload");
    sim.grant("open", "Write", 3600).await;
    shoot(&id("open"), json!({})).await.refused(
        409,
        "OperationNotAllowed",
        "Disk open is in state ActiveUpload. It cannot be copied before its upload is finished",
    );
    shoot(&id("nothing"), json!({})).await.refused(404, "ResourceNotFound", "nothing");
    sim.put_done(&disk("a"), empty_body(4)).await;
    shoot(&id("a"), json!({ "location": "northeurope" })).await.refused(400, "InvalidParameter", "location");
    shoot(&id("a"), json!({ "sku": { "name": "Premium_LRS" } })).await.refused(400, "InvalidParameter", "standard storage");
    shoot(&id("a"), json!({ "properties": { "diskSizeGB": 8 } })).await.refused(400, "InvalidParameter", "size of its source");
    shoot(&id("a"), json!({ "properties": { "creationData": { "createOption": "Upload" } } })).await.refused(
        400,
        "InvalidParameter",
        "not supported for snapshots",
    );
    shoot(&id("a"), json!({ "properties": { "creationData": { "createOption": "CopyStart" } } })).await.refused(
        400,
        "NotSupportedBySimulator",
        "CopyStart",
    );
    shoot(&id("a"), json!({ "properties": { "creationData": { "sourceResourceId": null } } })).await.refused(
        400,
        "InvalidParameter",
        "sourceResourceId",
    );
    shoot(&id("a"), json!({ "zones": ["1"] })).await.refused(400, "InvalidRequestContent", "'zones'");
    shoot(&id("a"), json!({ "properties": { "dataAccessAuthMode": "AzureActiveDirectory" } })).await.refused(
        400,
        "NotSupportedBySimulator",
        "dataAccessAuthMode",
    );
    shoot(&id("a"), json!({ "properties": { "creationData": { "uploadSizeBytes": 1 } } })).await.refused(
        400,
        "InvalidParameter",
        "uploadSizeBytes",
    );
    sim.put(&snapshot("a%20b"), snapshot_body(&id("a"))).await.refused(400, "InvalidResourceName", "snapshot");
    let started = sim.put(&disk("b"), empty_body(4)).await;
    shoot(&id("b"), json!({})).await.refused(409, "Conflict", "concurrent");
    sim.done(&started).await;
    sim.put_done(&snapshot("s"), snapshot_body(&id("b"))).await;
    sim.put(&snapshot("s"), snapshot_body(&id("b"))).await.is(200);
    sim.put(&snapshot("s"), snapshot_body(&id("a"))).await.refused(409, "PropertyChangeNotAllowed", "creationData.sourceResourceId");
    shoot(&id("b"), json!({ "properties": { "incremental": false } })).await.refused(409, "PropertyChangeNotAllowed", "incremental");
}

#[tokio::test]
async fn of_an_attached_disk_too() {
    let sim = Sim::start().await;
    sim.sealed("os", json!({})).await;
    sim.nic("card").await;
    sim.put_done(&vm("m"), vm_body("os", &[], "card")).await;
    sim.put_done(&snapshot("s"), snapshot_body(&id("os"))).await;
}

#[tokio::test]
async fn seven_in_five_minutes() {
    let sim = Sim::start().await;
    sim.put_done(&disk("a"), empty_body(1)).await;
    for n in 0..7 {
        let started = sim.put(&snapshot(&format!("s{n}")), snapshot_body(&id("a"))).await;
        sim.done(&started).await;
    }
    let refused = sim.put(&snapshot("s7"), snapshot_body(&id("a"))).await;
    refused.refused(429, "TooManyRequests", "7 incremental snapshots in the last five minutes");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=300).contains(&wait), "{wait}");
    sim.get(&snapshot("s7")).await.is(404);
    sim.advance(wait);
    sim.put(&snapshot("s7"), snapshot_body(&id("a"))).await.is(202);
}

#[tokio::test]
async fn five_hundred_of_a_disk() {
    let sim = Sim::start().await;
    sim.put_done(&disk("a"), empty_body(1)).await;
    for n in 0..500 {
        sim.advance(60);
        sim.put(&snapshot(&format!("s{n}")), snapshot_body(&id("a"))).await.is(202);
    }
    sim.advance(60);
    sim.put(&snapshot("one-more"), snapshot_body(&id("a"))).await.refused(409, "OperationNotAllowed", "500 incremental snapshots already");
}

#[tokio::test]
async fn premium_v2_needs_its_time() {
    let sim = Sim::start().await;
    let v2 = json!({ "sku": { "name": "PremiumV2_LRS" }, "zones": ["1"] });
    sim.put_done(&disk("a"), with(empty_body(1), v2)).await;
    let whole = with(snapshot_body(&id("a")), json!({ "properties": { "incremental": false } }));
    sim.put(&snapshot("whole"), whole).await.refused(400, "InvalidParameter", "Only incremental snapshots");
    let shot = sim.put_done(&snapshot("s"), snapshot_body(&id("a"))).await;
    let percent = shot["properties"]["completionPercent"].as_f64().unwrap();
    assert!(percent < 100.0, "{percent}");
    sim.put(&disk("b"), copy_body(&snapshot_id("s"))).await.refused(409, "OperationNotAllowed", "before its completionPercent is 100");
    sim.advance(500);
    let later = sim.get(&snapshot("s")).await.body["properties"]["completionPercent"].as_f64().unwrap();
    assert!(percent < later && later < 100.0, "{percent} {later}");
    sim.advance(600);
    assert_eq!(sim.get(&snapshot("s")).await.body["properties"]["completionPercent"], 100.0);
    sim.put(&disk("b"), copy_body(&snapshot_id("s"))).await.is(202);
}

#[tokio::test]
async fn tags_of_a_snapshot_change() {
    let sim = Sim::start().await;
    sim.put_done(&disk("a"), empty_body(1)).await;
    sim.put_done(&snapshot("s"), snapshot_body(&id("a"))).await;
    let started = sim.call("PATCH", &snapshot("s"), Some(json!({ "tags": { "a": "b" } }))).await;
    sim.done(&started).await;
    assert_eq!(sim.get(&snapshot("s")).await.body["tags"], json!({ "a": "b" }));
    sim.call("PATCH", &snapshot("s"), Some(json!({ "properties": {} }))).await.refused(400, "InvalidRequestContent", "'properties'");
    assert_eq!(sim.get(&snapshot("").replace("/?", "?")).await.is(200).body["value"].as_array().unwrap().len(), 1);
    let deleting = sim.delete(&snapshot("s")).await;
    sim.done(&deleting).await;
    sim.delete(&snapshot("s")).await.is(204);
}
