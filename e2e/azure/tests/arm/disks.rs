//! Managed disks: creation, changes, deletion.

use serde_json::{Value, json};

use crate::sim::{MIB, Sim, act, copy_body, disk, empty_body, id, nic, upload_body, vm, vm_body, with};

async fn put(sim: &Sim, extra: Value) -> crate::sim::Reply {
    sim.put(&disk("a"), with(upload_body(20 * MIB), extra)).await
}

#[tokio::test]
async fn an_upload_disk_is_born_ready() {
    let sim = Sim::start().await;
    let started = sim.put(&disk("a"), upload_body(20 * MIB)).await;
    started.is(202);
    assert_eq!(started.body["properties"]["provisioningState"], "Updating");
    assert_eq!(sim.get(&disk("a")).await.body["properties"]["provisioningState"], "Creating");
    sim.done(&started).await;
    let body = sim.get(&disk("a")).await.body;
    let properties = &body["properties"];
    assert_eq!((&properties["provisioningState"], &properties["diskState"]), (&json!("Succeeded"), &json!("ReadyToUpload")));
    assert_eq!((&properties["diskSizeBytes"], &properties["diskSizeGB"]), (&json!(20 * MIB), &json!(1)));
    assert_eq!(properties["creationData"]["uploadSizeBytes"], 20 * MIB + 512);
    assert_eq!(body["sku"], json!({ "name": "Premium_LRS", "tier": "Premium" }));
    assert!(uuid::Uuid::parse_str(properties["uniqueId"].as_str().unwrap()).is_ok());
}

#[tokio::test]
async fn upload_sizes_are_mebibytes_and_a_footer() {
    let sim = Sim::start().await;
    let size = async |bytes: i64| put(&sim, json!({ "properties": { "creationData": { "uploadSizeBytes": bytes } } })).await;
    size(44_716_382_720).await.refused(
        400,
        "BadRequest",
        "The upload size in bytes 44716382720 - 512 bytes for the VHD footer (44716382208 in this case) must be a multiple of MiB.",
    );
    size(20 << 20).await.refused(400, "BadRequest", "must be between 20972032");
    size((19 << 20) + 512).await.refused(400, "BadRequest", "must be between 20972032");
    size((20 << 20) + 513).await.refused(400, "BadRequest", "must be a multiple of MiB");
    size(-1).await.refused(400, "BadRequest", "must be between");
    size(35_183_298_347_520 + (1 << 20)).await.refused(400, "BadRequest", "35183298347520");
    // Larger ones than the file system of the machine takes cannot be had here: ext4 ends at 16 TiB.
    size((4 << 40) + 512).await.is(202);
    put(&sim, json!({ "properties": { "creationData": { "uploadSizeBytes": null } } })).await.refused(409, "Conflict", "");
    sim.put(&disk("b"), with(upload_body(20 * MIB), json!({ "properties": { "creationData": { "uploadSizeBytes": null } } })))
        .await
        .refused(400, "InvalidParameter", "disk.creationData.uploadSizeBytes");
}

#[tokio::test]
async fn creation_data_has_to_fit_its_option() {
    let sim = Sim::start().await;
    let data = async |properties: Value| sim.put(&disk("a"), json!({ "location": "westeurope", "properties": properties })).await;
    data(json!({ "creationData": { "createOption": "Empty" } })).await.refused(400, "InvalidParameter", "diskSizeGB");
    data(json!({ "diskSizeGB": 4, "creationData": { "createOption": "Empty", "uploadSizeBytes": 20_972_032 } })).await.refused(
        400,
        "InvalidParameter",
        "'creationData.uploadSizeBytes' is not allowed with createOption 'Empty'",
    );
    data(json!({ "diskSizeGB": 4, "creationData": { "createOption": "Upload", "uploadSizeBytes": 20_972_032 } })).await.refused(
        400,
        "InvalidParameter",
        "'diskSizeGB' is not allowed with createOption 'Upload'",
    );
    data(json!({ "diskSizeGB": 0, "creationData": { "createOption": "Empty" } })).await.refused(
        400,
        "InvalidParameter",
        "between 1 and 32767",
    );
    data(json!({ "diskSizeGB": 32_768, "creationData": { "createOption": "Empty" } })).await.refused(
        400,
        "InvalidParameter",
        "out of range",
    );
    data(json!({ "diskSizeGB": 4, "creationData": {} })).await.refused(400, "InvalidParameter", "properties.creationData.createOption");
    data(json!({ "diskSizeGB": 4, "creationData": { "createOption": "Magic" } })).await.refused(
        400,
        "BadRequest",
        "Error converting value",
    );
    data(json!({ "diskSizeGB": 4, "creationData": { "createOption": "FromImage" } })).await.refused(
        400,
        "NotSupportedBySimulator",
        "FromImage",
    );
    data(json!({ "dataAccessAuthMode": "AzureActiveDirectory", "diskSizeGB": 4, "creationData": { "createOption": "Empty" } }))
        .await
        .refused(400, "NotSupportedBySimulator", "dataAccessAuthMode");
}

#[tokio::test]
async fn names_zones_and_skus() {
    let sim = Sim::start().await;
    for name in ["a%20b", "-a", "a-", "ä", &"x".repeat(81)] {
        sim.put(&disk(name), empty_body(1)).await.refused(400, "InvalidResourceName", "The name of the disk can be up to 80 characters");
    }
    sim.put(&disk(&"x".repeat(80)), empty_body(1)).await.is(202);
    put(&sim, json!({ "zones": ["4"] })).await.refused(400, "InvalidAvailabilityZone", "'4'");
    put(&sim, json!({ "zones": ["1", "2"] })).await.refused(400, "InvalidParameter", "At most one");
    put(&sim, json!({ "zones": ["1"], "sku": { "name": "Premium_ZRS" } })).await.refused(400, "BadRequest", "zone-redundant");
    put(&sim, json!({ "sku": { "name": "Gold" } })).await.refused(400, "BadRequest", "Gold");
    put(&sim, json!({ "sku": { "name": "PremiumV2_LRS" } })).await.refused(400, "BadRequest", "has to be in an availability zone");
    put(&sim, json!({ "sku": { "name": "PremiumV2_LRS" }, "zones": ["1"] })).await.refused(400, "BadRequest", "logicalSectorSize 512");
    put(&sim, json!({ "properties": { "creationData": { "logicalSectorSize": 512 } } })).await.refused(
        400,
        "BadRequest",
        "logicalSectorSize is not supported",
    );
    let v2 = json!({ "sku": { "name": "PremiumV2_LRS" }, "zones": ["1"], "properties": { "creationData": { "logicalSectorSize": 512 } } });
    put(&sim, v2).await.is(202);
}

#[tokio::test]
async fn a_put_can_be_repeated_and_not_turned() {
    let sim = Sim::start().await;
    let first = sim.upload("a", 20 * MIB).await;
    let again = sim.put(&disk("a"), upload_body(20 * MIB)).await;
    assert_eq!(again.is(200).header("azure-asyncoperation"), "");
    assert_eq!(again.body["properties"]["uniqueId"], first["properties"]["uniqueId"]);
    let change = async |extra| put(&sim, extra).await;
    change(json!({ "properties": { "creationData": { "uploadSizeBytes": 21 * MIB + 512 } } })).await.refused(
        409,
        "PropertyChangeNotAllowed",
        "Changing property 'creationData.uploadSizeBytes' is not allowed.",
    );
    change(json!({ "properties": { "hyperVGeneration": "V1" } })).await.refused(409, "PropertyChangeNotAllowed", "hyperVGeneration");
    change(json!({ "location": "northeurope" })).await.refused(409, "InvalidResourceLocation", "already exists in location 'westeurope'");
    change(json!({ "zones": ["1"] })).await.refused(400, "ResourceAvailabilityZonesCannotBeModified", "Zones cannot be added");
    sim.put(&disk("a"), empty_body(1)).await.refused(409, "PropertyChangeNotAllowed", "creationData.createOption");
    change(json!({ "sku": { "name": "Standard_LRS" } })).await.refused(409, "OperationNotAllowed", "ReadyToUpload");
    let tagged = sim.put_done(&disk("a"), with(upload_body(20 * MIB), json!({ "tags": { "owner": "hawser" } }))).await;
    assert_eq!((&tagged["tags"]["owner"], &tagged["properties"]["uniqueId"]), (&json!("hawser"), &first["properties"]["uniqueId"]));
    // A PUT says all: tags that are not in it are gone.
    assert_eq!(sim.put_done(&disk("a"), upload_body(20 * MIB)).await["tags"], json!({}));
}

#[tokio::test]
async fn what_is_being_changed_is_left_alone() {
    let sim = Sim::start().await;
    let started = sim.put(&disk("a"), upload_body(20 * MIB)).await;
    let words = "conflict with a concurrent request";
    sim.put(&disk("a"), upload_body(20 * MIB)).await.refused(409, "Conflict", words);
    sim.call("PATCH", &disk("a"), Some(json!({ "tags": {} }))).await.refused(409, "Conflict", words);
    sim.delete(&disk("a")).await.refused(409, "Conflict", words);
    let grant = Some(json!({ "access": "Write", "durationInSeconds": 60 }));
    sim.post(&act("disks", "a", "beginGetAccess"), grant).await.refused(409, "Conflict", words);
    sim.done(&started).await;
    let deleting = sim.delete(&disk("a")).await;
    deleting.is(202);
    sim.put(&disk("a"), upload_body(20 * MIB)).await.refused(409, "Conflict", words);
    sim.done(&deleting).await;
    sim.get(&disk("a")).await.is(404);
    sim.delete(&disk("a")).await.is(204);
}

#[tokio::test]
async fn a_new_disk_of_an_old_name_is_another() {
    let sim = Sim::start().await;
    let first = sim.sealed("a", json!({})).await;
    let deleting = sim.delete(&disk("a")).await;
    sim.done(&deleting).await;
    let second = sim.upload("a", 20 * MIB).await;
    assert_ne!(first["properties"]["uniqueId"], second["properties"]["uniqueId"]);
    assert_eq!(second["properties"]["diskState"], "ReadyToUpload");
    assert_eq!(sim.state.disks.read(&id("a").to_ascii_lowercase(), 0, 512).unwrap(), vec![0; 512]);
}

#[tokio::test]
async fn sizes_only_grow() {
    let sim = Sim::start().await;
    sim.put_done(&disk("a"), empty_body(4)).await;
    let resize = async |name: &str, gib: u64| sim.call("PATCH", &disk(name), Some(json!({ "properties": { "diskSizeGB": gib } }))).await;
    resize("a", 3).await.refused(
        400,
        "BadRequest",
        "Disk size reduction is not supported. Current size is 4294967296 bytes, requested size is 3221225472 bytes.",
    );
    resize("a", 40_000).await.refused(400, "InvalidParameter", "between 1 and 32767");
    let patch = async |body: Value| sim.call("PATCH", &disk("a"), Some(body)).await;
    patch(json!({ "sku": { "name": "PremiumV2_LRS" } })).await.refused(409, "PropertyChangeNotAllowed", "sku.name");
    patch(json!({ "properties": { "dataAccessAuthMode": "AzureActiveDirectory" } })).await.refused(
        400,
        "NotSupportedBySimulator",
        "dataAccessAuthMode",
    );
    patch(json!({ "location": "westeurope" })).await.refused(400, "InvalidRequestContent", "'location'");
    let grown = resize("a", 5).await;
    sim.done(&grown).await;
    assert_eq!(sim.get(&disk("a")).await.body["properties"]["diskSizeBytes"], 5_u64 << 30);
    assert_eq!(sim.state.disks.content(&id("a").to_ascii_lowercase()), Some(5 << 30));
    sim.upload("b", 20 * MIB).await;
    resize("b", 5).await.refused(409, "OperationNotAllowed", "is in state ReadyToUpload: it cannot be resized");
    sim.grant("a", "Read", 60).await;
    resize("a", 6).await.refused(409, "OperationNotAllowed", "active shared access signature outstanding");
}

#[tokio::test]
async fn what_is_used_is_not_deleted() {
    let sim = Sim::start().await;
    sim.sealed("os", json!({})).await;
    sim.nic("card").await;
    sim.put_done(&vm("m"), vm_body("os", &[], "card")).await;
    sim.delete(&disk("os")).await.refused(409, "OperationNotAllowed", "Disk os is attached to VM /subscriptions/");
    sim.delete(&nic("card")).await.refused(400, "NicInUse", "aka.ms/deletenic");
    sim.call("PATCH", &disk("os"), Some(json!({ "properties": { "diskSizeGB": 9 } }))).await.refused(
        409,
        "OperationNotAllowed",
        "attached to running VM",
    );
    sim.call("PATCH", &disk("os"), Some(json!({ "sku": { "name": "Standard_LRS" } }))).await.refused(
        409,
        "OperationNotAllowed",
        "deallocate it first",
    );

    sim.call("PATCH", &disk("os"), Some(json!({ "properties": { "osType": "Windows" } }))).await.refused(
        409,
        "PropertyChangeNotAllowed",
        "osType",
    );

    sim.upload("open", 20 * MIB).await;
    sim.grant("open", "Write", 60).await;
    sim.delete(&disk("open")).await.refused(409, "OperationNotAllowed", "Call EndGetAccess before deleting");
    sim.advance(61);
    sim.delete(&disk("open")).await.is(202);
}

#[tokio::test]
async fn copies() {
    let sim = Sim::start().await;
    let source = sim.sealed("seed", json!({})).await;
    let copy = sim.put(&disk("copy"), copy_body(&id("seed"))).await;
    sim.done(&copy).await;
    let body = sim.get(&disk("copy")).await.body;
    let properties = &body["properties"];
    assert_eq!(
        (&properties["osType"], &properties["hyperVGeneration"], &properties["diskState"]),
        (&json!("Linux"), &json!("V2"), &json!("Unattached"))
    );
    assert_eq!(properties["creationData"]["sourceUniqueId"], source["properties"]["uniqueId"]);
    assert_ne!(properties["uniqueId"], source["properties"]["uniqueId"]);
    // Usable at once; the bytes follow: 20 MiB at 1 MiB a second, of which the operation took some.
    let first = properties["completionPercent"].as_f64().unwrap();
    assert!((50.0..100.0).contains(&first), "{first}");
    sim.advance(15);
    assert_eq!(sim.get(&disk("copy")).await.body["properties"]["completionPercent"], 100.0);
    let bytes = |name: &str| sim.state.disks.sha256(&id(name).to_ascii_lowercase(), 0, 20 * MIB).unwrap();
    assert_eq!(bytes("copy"), bytes("seed"));

    let refused = async |source: &str, extra: Value| sim.put(&disk("other"), with(copy_body(source), extra)).await;
    refused(&id("nothing"), json!({})).await.refused(404, "ResourceNotFound", "disks/nothing");
    refused("nothing", json!({})).await.refused(400, "LinkedInvalidPropertyId", "Property id 'nothing'");
    refused(&vm("m").replace("?api-version=2026-04-01", ""), json!({})).await.refused(
        400,
        "InvalidParameter",
        "neither a disk nor a snapshot",
    );
    refused(&id("seed"), json!({ "location": "northeurope" })).await.refused(400, "InvalidParameter", "is in location 'westeurope'");
    refused(&id("seed"), json!({ "properties": { "hyperVGeneration": "V1" } })).await.refused(
        400,
        "BadRequest",
        "generation of a disk cannot be changed",
    );
    refused(&id("seed"), json!({ "properties": { "creationData": { "sourceUri": "https://x" } } })).await.refused(
        400,
        "InvalidParameter",
        "sourceUri",
    );
    sim.upload("open", 20 * MIB).await;
    refused(&id("open"), json!({})).await.refused(409, "OperationNotAllowed", "Disk open is in state ReadyToUpload. It cannot be copied");
    sim.grant("open", "Write", 60).await;
    refused(&id("open"), json!({})).await.refused(409, "OperationNotAllowed", "ActiveUpload");
    sim.put_done(&disk("big"), empty_body(4)).await;
    refused(&id("big"), json!({ "properties": { "diskSizeGB": 3 } })).await.refused(400, "BadRequest", "Disk size reduction");
    let larger = sim.put_done(&disk("larger"), with(copy_body(&id("big")), json!({ "properties": { "diskSizeGB": 6 } }))).await;
    assert_eq!(larger["properties"]["diskSizeGB"], 6);
}
