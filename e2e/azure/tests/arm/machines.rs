//! What a virtual machine may be made of.

use azure_simulator::config::Restriction;
use serde_json::{Value, json};

use crate::sim::{MIB, Reply, Sim, config, disk, empty_body, id, nic, nic_body, nic_id, upload_body, vm, vm_body, with};

/// A sealed OS disk `os`, a data disk `data`, a card `card`.
async fn ready() -> Sim {
    ready_with(config()).await
}

async fn ready_with(config: azure_simulator::Config) -> Sim {
    let sim = Sim::with(config).await;
    sim.sealed("os", json!({})).await;
    sim.put_done(&disk("data"), empty_body(4)).await;
    sim.nic("card").await;
    sim
}

async fn put(sim: &Sim, extra: Value) -> Reply {
    sim.put(&vm("m"), with(vm_body("os", &["data"], "card"), extra)).await
}

fn properties(extra: Value) -> Value {
    json!({ "properties": extra })
}

fn size(name: &str) -> Value {
    properties(json!({ "hardwareProfile": { "vmSize": name } }))
}

fn os_disk(extra: Value) -> Value {
    properties(json!({ "storageProfile": { "osDisk": extra } }))
}

fn data_disks(list: Value) -> Value {
    properties(json!({ "storageProfile": { "dataDisks": list } }))
}

fn data(lun: i64, name: &str) -> Value {
    json!({ "lun": lun, "createOption": "Attach", "managedDisk": { "id": id(name) } })
}

#[tokio::test]
async fn an_attached_disk_brings_its_own_system() {
    let sim = ready().await;
    put(&sim, properties(json!({ "osProfile": { "computerName": "m" } }))).await.refused(
        400,
        "InvalidParameter",
        "Parameter 'osProfile' is not allowed.",
    );
    put(&sim, properties(json!({ "storageProfile": { "imageReference": { "sku": "x" } } }))).await.refused(
        400,
        "InvalidParameter",
        "imageReference",
    );
    put(&sim, os_disk(json!({ "createOption": "FromImage" }))).await.refused(
        400,
        "NotSupportedBySimulator",
        "osDisk.createOption: FromImage",
    );
    put(&sim, os_disk(json!({ "managedDisk": { "id": null } }))).await.refused(400, "InvalidParameter", "osDisk.managedDisk.id");
    put(&sim, os_disk(json!({ "managedDisk": { "id": id("nothing") } }))).await.refused(404, "NotFound", "Disk nothing is not found.");
    put(&sim, os_disk(json!({ "managedDisk": { "id": "os" } }))).await.refused(400, "LinkedInvalidPropertyId", "osDisk.managedDisk.id");
    put(&sim, os_disk(json!({ "osType": "Windows" }))).await.refused(
        409,
        "PropertyChangeNotAllowed",
        "osType 'Windows' of the VM does not match 'Linux'",
    );
    put(&sim, os_disk(json!({ "name": "other" }))).await.refused(400, "InvalidParameter", "'other' does not match 'os'");
    put(&sim, os_disk(json!({ "managedDisk": { "storageAccountType": "Standard_LRS" } }))).await.refused(
        400,
        "InvalidParameter",
        "'Standard_LRS' does not match 'Premium_LRS'",
    );
    sim.put_done(&disk("plain"), empty_body(4)).await;
    let plain = os_disk(json!({ "osType": null, "managedDisk": { "id": id("plain") } }));
    put(&sim, plain).await.refused(400, "InvalidParameter", "Required parameter 'osDisk.osType' is missing");
    sim.put_done(&disk("huge"), empty_body(4096)).await;
    put(&sim, os_disk(json!({ "managedDisk": { "id": id("huge") } }))).await.refused(400, "BadRequest", "4095 GiB");
    sim.get(&vm("m")).await.refused(404, "ResourceNotFound", "virtualMachines/m");
    assert_eq!(sim.state_of("os").await, "Unattached", "a refusal holds nothing");
    put(&sim, json!({})).await.is(201);
}

#[tokio::test]
async fn disks_in_upload_and_disks_that_are_read() {
    let sim = ready().await;
    sim.upload("open", 20 * MIB).await;
    put(&sim, data_disks(json!([data(0, "open")]))).await.refused(
        409,
        "OperationNotAllowed",
        "Disk open cannot be attached to the VM because it is in state ReadyToUpload",
    );
    sim.grant("open", "Write", 3600).await;
    put(&sim, data_disks(json!([data(0, "open")]))).await.refused(409, "OperationNotAllowed", "ActiveUpload");
    put(&sim, os_disk(json!({ "managedDisk": { "id": id("open") } }))).await.refused(409, "OperationNotAllowed", "ActiveUpload");
    sim.grant("data", "Read", 3600).await;
    put(&sim, json!({})).await.refused(
        409,
        "OperationNotAllowed",
        "outstanding for disk data. Call EndGetAccess before attaching the disk",
    );
    sim.revoke("data").await;
    let copying = sim.put(&disk("late"), empty_body(1)).await;
    put(&sim, data_disks(json!([data(0, "late")]))).await.refused(409, "Conflict", "concurrent");
    sim.done(&copying).await;
    put(&sim, data_disks(json!([data(0, "late")]))).await.is(201);
}

#[tokio::test]
async fn a_disk_has_one_owner() {
    let sim = ready().await;
    let created = put(&sim, json!({})).await;
    sim.sealed("os2", json!({})).await;
    sim.nic("card2").await;
    let words = "because it is already attached to VM /subscriptions/";
    // From the first moment of its creation.
    sim.put(&vm("n"), vm_body("os2", &["data"], "card2")).await.refused(409, "ConflictingUserInput", words);
    sim.done(&created).await;
    sim.put(&vm("n"), vm_body("os", &[], "card2")).await.refused(409, "ConflictingUserInput", words);
    sim.put(&vm("n"), vm_body("os2", &[], "card")).await.refused(400, "NicInUse", "virtualMachines/m");
    put(&sim, data_disks(json!([data(0, "data"), data(1, "data")]))).await.refused(400, "InvalidParameter", "given more than once");
}

#[tokio::test]
async fn generations() {
    let sim = ready().await;
    put(&sim, size("Standard_A2_v2")).await.refused(400, "InvalidParameter", "does not support the storage account type Premium_LRS");
    sim.sealed("gen2", json!({ "sku": { "name": "Standard_LRS" } })).await;
    sim.sealed("gen1", json!({ "properties": { "hyperVGeneration": "V1" } })).await;
    let of = |disk: &str, name: &str| with(os_disk(json!({ "managedDisk": { "id": id(disk) } })), size(name));
    put(&sim, of("gen2", "Standard_A2_v2")).await.refused(
        400,
        "BadRequest",
        "The selected VM size 'Standard_A2_v2' cannot boot Hypervisor Generation '2'.",
    );
    sim.state.arm.set_quota("westeurope", "standardDCSv3Family", 10).unwrap();
    put(&sim, of("gen1", "Standard_DC2s_v3")).await.refused(400, "BadRequest", "cannot boot Hypervisor Generation '1'");
    put(&sim, with(of("gen1", "Standard_D2s_v5"), properties(json!({ "securityProfile": { "securityType": "TrustedLaunch" } }))))
        .await
        .refused(400, "BadRequest", "not supported for Generation 1");
    put(&sim, properties(json!({ "securityProfile": { "securityType": "TrustedLaunch" } }))).await.refused(
        400,
        "BadRequest",
        "does not match that of its OS disk",
    );
    put(&sim, properties(json!({ "securityProfile": { "uefiSettings": { "vTpmEnabled": true } } }))).await.refused(
        400,
        "BadRequest",
        "uefiSettings",
    );
    put(&sim, properties(json!({ "securityProfile": { "securityType": "ConfidentialVM" } }))).await.refused(
        400,
        "NotSupportedBySimulator",
        "ConfidentialVM",
    );
    let v2 = json!({ "sku": { "name": "PremiumV2_LRS" }, "zones": ["1"], "properties": { "creationData": { "logicalSectorSize": 512 } } });
    sim.sealed("v2", v2).await;
    put(&sim, with(of("v2", "Standard_D2s_v5"), json!({ "zones": ["1"] }))).await.refused(
        400,
        "BadRequest",
        "PremiumV2_LRS cannot be used as an OS disk",
    );
    sim.sealed("trusted", json!({ "properties": { "securityProfile": { "securityType": "TrustedLaunch" } } })).await;
    put(&sim, of("trusted", "Standard_D2s_v5")).await.refused(
        400,
        "BadRequest",
        "does not match that of its OS disk trusted (TrustedLaunch)",
    );
    let trusted = properties(
        json!({ "securityProfile": { "securityType": "TrustedLaunch", "uefiSettings": { "secureBootEnabled": true, "vTpmEnabled": true } } }),
    );
    put(&sim, with(of("trusted", "Standard_D2s_v5"), trusted)).await.is(201);
}

#[tokio::test]
async fn zones_are_equal() {
    let sim = ready().await;
    put(&sim, json!({ "zones": ["1"] })).await.refused(400, "BadRequest", "cannot be attached to the VM because it is not in zone '1'.");
    sim.sealed("os1", json!({ "zones": ["1"] })).await;
    sim.put_done(&disk("data2"), with(empty_body(4), json!({ "zones": ["2"] }))).await;
    let zoned = |list: Value, zones: Value| {
        with(with(os_disk(json!({ "managedDisk": { "id": id("os1") } })), data_disks(list)), json!({ "zones": zones }))
    };
    put(&sim, zoned(json!([]), json!([]))).await.refused(400, "BadRequest", "the disk is in zone '1' and the VM is in none");
    put(&sim, zoned(json!([data(0, "data2")]), json!(["1"]))).await.refused(
        400,
        "BadRequest",
        "because it is not in the same zone as the VM. VM zone: '1'. Disk zone: '2'.",
    );
    put(&sim, zoned(json!([]), json!(["9"]))).await.refused(400, "InvalidAvailabilityZone", "'9'");
    put(&sim, zoned(json!([]), json!(["1", "2"]))).await.refused(400, "InvalidAvailabilityZone", "'1,2'");
    put(&sim, with(zoned(json!([]), json!(["1"])), properties(json!({ "availabilitySet": { "id": "x" } })))).await.refused(
        400,
        "BadRequest",
        "availability set",
    );
    put(&sim, properties(json!({ "availabilitySet": { "id": "x" } }))).await.refused(400, "NotSupportedBySimulator", "availabilitySet");
    sim.put_done(&disk("anywhere"), with(empty_body(4), json!({ "sku": { "name": "Premium_ZRS" } }))).await;
    put(&sim, zoned(json!([data(0, "anywhere")]), json!(["1"]))).await.is(201);
}

#[tokio::test]
async fn disks_have_places() {
    let sim = ready().await;
    put(&sim, data_disks(json!([data(0, "data"), data(0, "os")]))).await.refused(400, "InvalidParameter", "LUN 0 is used by more than one");
    put(&sim, data_disks(json!([data(64, "data")]))).await.refused(400, "InvalidParameter", "between 0 and 63");
    put(&sim, data_disks(json!([data(-1, "data")]))).await.refused(400, "InvalidParameter", "between 0 and 63");
    put(&sim, data_disks(json!([{ "createOption": "Attach", "managedDisk": { "id": id("data") } }]))).await.refused(
        400,
        "InvalidParameter",
        "dataDisks[0].lun' is missing",
    );
    put(&sim, data_disks(json!([{ "lun": 0, "createOption": "Empty", "diskSizeGB": 4 }]))).await.refused(
        400,
        "NotSupportedBySimulator",
        "dataDisk.createOption: Empty",
    );
    put(&sim, data_disks(json!([data(0, "os")]))).await.refused(400, "InvalidParameter", "Disk os is given more than once");
    let many: Vec<Value> = (0..5).map(|lun| data(lun, "data")).collect();
    put(&sim, data_disks(json!(many))).await.refused(
        409,
        "OperationNotAllowed",
        "The maximum number of data disks allowed to be attached to a VM of this size is 4.",
    );
    sim.put_done(&disk("big"), empty_body(4096)).await;
    put(&sim, data_disks(json!([with(data(0, "big"), json!({ "caching": "ReadOnly" }))]))).await.refused(
        400,
        "InvalidParameter",
        "caching is not supported for disk big",
    );
    put(&sim, data_disks(json!([with(data(0, "data"), json!({ "caching": "Always" }))]))).await.refused(
        400,
        "BadRequest",
        "Error converting value",
    );
    let north = with(empty_body(4), json!({ "location": "northeurope" }));
    sim.put_done(&disk("north"), north).await;
    put(&sim, data_disks(json!([data(0, "north")]))).await.refused(400, "BadRequest", "it is in location 'northeurope'");
}

#[tokio::test]
async fn sizes_that_cannot_be_had() {
    let mut config = config();
    let restrict = |name: &str, zones: &[&str]| Restriction {
        location: "westeurope".to_owned(),
        zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
        reason: name.to_owned(),
    };
    for size in &mut config.sizes {
        match size.name.as_str() {
            "Standard_B1s" => size.restrictions.push(restrict("NotAvailableForSubscription", &[])),
            "Standard_D4s_v5" => size.restrictions.push(restrict("NotAvailableForSubscription", &["2"])),
            "Standard_D8s_v5" => size.locations = vec!["northeurope".to_owned()],
            _ => {}
        }
    }
    let sim = ready_with(config).await;
    put(&sim, size("Standard_X")).await.refused(
        400,
        "InvalidParameter",
        "The value Standard_X provided for the VM size is not valid. The valid sizes in the current region are: Standard_B1s",
    );
    put(&sim, size("Standard_D8s_v5")).await.refused(400, "InvalidParameter", "Standard_D8s_v5");
    put(&sim, size("Standard_B1s")).await.refused(409, "SkuNotAvailable", "is currently not available in location 'westeurope'");
    put(&sim, with(size("Standard_D4s_v5"), json!({ "zones": ["2"] }))).await.refused(409, "SkuNotAvailable", "Standard_D4s_v5");
    let skus =
        sim.get("/subscriptions/22222222-2222-4222-8222-222222222222/providers/Microsoft.Compute/skus?api-version=2021-07-01").await.body;
    let of = |name: &str, place: &str| {
        skus["value"].as_array().unwrap().iter().find(|sku| sku["name"] == name && sku["locations"][0] == place).cloned()
    };
    assert_eq!(of("Standard_B1s", "westeurope").unwrap()["restrictions"][0]["type"], "Location");
    assert_eq!(of("Standard_D4s_v5", "westeurope").unwrap()["restrictions"][0]["restrictionInfo"]["zones"], json!(["2"]));
    assert!(of("Standard_D8s_v5", "westeurope").is_none() && of("Standard_D8s_v5", "northeurope").is_some());
    put(&sim, size("Standard_D4s_v5")).await.is(201);
}

#[tokio::test]
async fn quotas_end() {
    let sim = ready().await;
    sim.state.arm.set_quota("westeurope", "cores", 3).unwrap();
    assert!(sim.state.arm.set_quota("moon", "cores", 3).is_err());
    let created = put(&sim, json!({})).await;
    sim.done(&created).await;
    sim.sealed("os2", json!({})).await;
    sim.nic("card2").await;
    let second = async || sim.put(&vm("n"), vm_body("os2", &[], "card2")).await;
    let words = "exceeding approved Total Regional Cores quota. Additional details - Deployment Model: Resource Manager, Location: westeurope, Current \
                 Limit: 3, Current Usage: 2, Additional Required: 2, (Minimum) New Limit Required: 4.";
    second().await.refused(409, "OperationNotAllowed", words);
    // Machines that are off their hosts count too.
    let stop = sim.post(&vm("m").replace("?", "/deallocate?"), None).await;
    sim.done(&stop).await;
    second().await.refused(409, "OperationNotAllowed", words);
    sim.state.arm.set_quota("westeurope", "cores", 100).unwrap();
    sim.state.arm.set_quota("westeurope", "standardDSv5Family", 2).unwrap();
    second().await.refused(409, "OperationNotAllowed", "standardDSv5Family quota");
    sim.state.arm.set_quota("westeurope", "standardDSv5Family", 4).unwrap();
    sim.state.arm.set_quota("westeurope", "virtualMachines", 1).unwrap();
    second().await.refused(409, "OperationNotAllowed", "Virtual Machines quota");
    sim.state.arm.set_quota("westeurope", "virtualMachines", 2).unwrap();
    second().await.is(201);
    let usages = sim.get("/subscriptions/22222222-2222-4222-8222-222222222222/providers/Microsoft.Compute/locations/westeurope/usages?api-version=2026-04-01").await.body;
    let cores = usages["value"].as_array().unwrap().iter().find(|usage| usage["name"]["value"] == "cores").unwrap().clone();
    assert_eq!(cores["currentValue"], 4);
}

#[tokio::test]
async fn cards() {
    let sim = ready().await;
    let reference = |name: &str, primary: bool| json!({ "id": nic_id(name), "properties": { "primary": primary } });
    let with_cards = async |list: Value| put(&sim, properties(json!({ "networkProfile": { "networkInterfaces": list } }))).await;
    with_cards(json!([])).await.refused(400, "InvalidParameter", "at least one network interface");
    with_cards(json!([reference("nothing", true)])).await.refused(
        400,
        "InvalidResourceReference",
        "networkInterfaces/nothing referenced by resource",
    );
    with_cards(json!([{ "id": id("os") }])).await.refused(400, "InvalidResourceReference", "disks/os");
    with_cards(json!([reference("card", true), reference("card", false)])).await.refused(400, "InvalidParameter", "given more than once");
    with_cards(json!([reference("card", true), reference("b", true)])).await.refused(
        400,
        "VirtualMachineMustHaveOneNetworkInterfaceAsPrimary",
        "2 are primary",
    );
    with_cards(json!([reference("card", true), reference("b", false), reference("c", false)])).await.refused(
        400,
        "NetworkInterfaceCountExceeded",
        "maximum allowed is 2",
    );
    sim.put_done(&nic("test"), nic_body("test")).await;
    with_cards(json!([reference("card", true), reference("test", false)])).await.refused(
        400,
        "VirtualMachineNetworkInterfacesMustBeInSameVnet",
        "one virtual network",
    );
    let started = sim.put(&nic("late"), nic_body("production")).await;
    with_cards(json!([reference("late", true)])).await.refused(409, "AnotherOperationInProgress", "networkInterfaces/late");
    sim.done(&started).await;
    with_cards(json!([reference("card", true), reference("late", false)])).await.is(201);
}

#[tokio::test]
async fn bodies_are_strict() {
    let sim = ready().await;
    put(&sim, properties(json!({ "storageProfile": { "dataDisks": [{ "lun": 0, "createOption": "Attach", "toBeForgotten": true }] } })))
        .await
        .refused(400, "BadRequest", "Could not find member 'toBeForgotten' on object of type 'DataDisk'. Path 'properties.storageProfile.dataDisks[0].toBeForgotten'");
    put(&sim, properties(json!({ "licenseType": "Free" }))).await.refused(400, "BadRequest", "Free");
    put(&sim, properties(json!({ "hardwareProfile": null }))).await.refused(400, "InvalidParameter", "properties.hardwareProfile");
    put(&sim, properties(json!({ "host": { "id": "x" } }))).await.refused(400, "NotSupportedBySimulator", "properties.host");
    put(&sim, json!({ "identity": { "type": "SystemAssigned" } })).await.refused(400, "NotSupportedBySimulator", "identity");
    sim.put(&vm(&"x".repeat(65)), vm_body("os", &[], "card")).await.refused(400, "InvalidResourceName", "up to 64 characters");
    sim.put(&disk("x"), upload_body(20 * MIB)).await.is(202);
}
