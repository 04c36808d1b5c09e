//! Virtual machines that live: power, changes, deletion.

use azure_simulator::arm::{Effect, Injection};
use serde_json::{Value, json};

use crate::sim::{Reply, Sim, disk, empty_body, id, nic, vm, vm_body, vm_id, with};

async fn running() -> Sim {
    let sim = Sim::start().await;
    sim.sealed("os", json!({})).await;
    sim.put_done(&disk("data"), empty_body(4)).await;
    sim.nic("card").await;
    sim.put_done(&vm("m"), vm_body("os", &["data"], "card")).await;
    sim
}

async fn act(sim: &Sim, action: &str) -> Reply {
    sim.post(&vm("m").replace("?", &format!("/{action}?")), None).await
}

async fn power(sim: &Sim) -> String {
    let view = sim.get(&format!("{}&$expand=instanceView", vm("m"))).await.is(200).body["properties"]["instanceView"].clone();
    view["statuses"][1]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn it_is_created_and_runs() {
    let sim = Sim::start().await;
    sim.sealed("os", json!({})).await;
    sim.nic("card").await;
    let created = sim.put(&vm("m"), vm_body("os", &[], "card")).await;
    assert_eq!(power(&sim).await, "PowerState/starting");
    assert_eq!(sim.get(&disk("os")).await.body["managedBy"], vm_id("m"));
    for (method, body) in [("PUT", Some(vm_body("os", &[], "card"))), ("DELETE", None)] {
        sim.call(method, &vm("m"), body).await.refused(409, "Conflict", "concurrent");
    }
    act(&sim, "start").await.refused(409, "Conflict", "concurrent");
    sim.done(&created).await;
    assert_eq!(power(&sim).await, "PowerState/running");
    let body = sim.get(&vm("m")).await.body;
    let os = &body["properties"]["storageProfile"]["osDisk"];
    assert_eq!(
        (&os["name"], &os["managedDisk"]["storageAccountType"], &os["deleteOption"]),
        (&json!("os"), &json!("Premium_LRS"), &json!("Detach"))
    );
    assert!(body["properties"]["instanceView"].is_null());
    let view = sim.get(&vm("m").replace("?", "/instanceView?")).await.body;
    assert_eq!((&view["statuses"][0]["code"], &view["hyperVGeneration"]), (&json!("ProvisioningState/succeeded"), &json!("V2")));
    sim.get(&format!("{}&$expand=everything", vm("m"))).await.refused(400, "InvalidParameter", "'everything' is invalid");
    sim.put(&vm("m"), vm_body("os", &[], "card")).await.is(200);
}

#[tokio::test]
async fn power_goes_on_and_off() {
    let sim = running().await;
    for (action, during, after) in [
        ("powerOff", "PowerState/stopping", "PowerState/stopped"),
        ("start", "PowerState/starting", "PowerState/running"),
        ("restart", "PowerState/starting", "PowerState/running"),
        ("deallocate", "PowerState/deallocating", "PowerState/deallocated"),
        ("powerOff", "PowerState/deallocated", "PowerState/deallocated"),
        ("start", "PowerState/starting", "PowerState/running"),
        ("start", "PowerState/running", "PowerState/running"),
    ] {
        let started = act(&sim, action).await;
        started.is(202);
        assert_eq!(power(&sim).await, during, "{action}");
        sim.done(&started).await;
        assert_eq!(power(&sim).await, after, "{action}");
    }
    let stop = sim.post(&format!("{}&skipShutdown=true", vm("m").replace("?", "/powerOff?")), None).await;
    sim.done(&stop).await;
    assert_eq!(sim.state_of("os").await, "Attached", "a stopped machine holds its disks");
    act(&sim, "restart").await.refused(409, "OperationNotAllowed", "not running");
    sim.post(&format!("{}&skipShutdown=maybe", vm("m").replace("?", "/powerOff?")), None).await.refused(
        400,
        "InvalidParameter",
        "skipShutdown",
    );
    act(&sim, "redeploy").await.refused(400, "NotSupportedBySimulator", "redeploy");
    sim.post(&vm("n").replace("?", "/start?"), None).await.refused(404, "ResourceNotFound", "virtualMachines/n");
    sim.state.arm.set_power(&sim.state, &vm_id("m"), "deallocated").unwrap();
    assert_eq!(sim.state_of("os").await, "Reserved");
    assert!(sim.state.arm.set_power(&sim.state, &vm_id("m"), "asleep").is_err());
    assert!(sim.state.arm.set_power(&sim.state, &vm_id("n"), "running").is_err());
}

#[tokio::test]
async fn data_disks_come_and_go() {
    let sim = running().await;
    sim.put_done(&disk("more"), empty_body(8)).await;
    let changed = sim.put(&vm("m"), vm_body("os", &["data", "more"], "card")).await;
    changed.is(200);
    sim.done(&changed).await;
    assert_eq!(sim.state_of("more").await, "Attached");
    let detach = with(vm_body("os", &["data", "more"], "card"), json!({}));
    let mut detach = detach;
    detach["properties"]["storageProfile"]["dataDisks"][0]["toBeDetached"] = json!(true);
    let changed = sim.put(&vm("m"), detach).await;
    sim.done(&changed).await;
    assert_eq!((sim.state_of("data").await, sim.state_of("more").await), ("Unattached".to_owned(), "Attached".to_owned()));
    assert_eq!(sim.get(&vm("m")).await.body["properties"]["storageProfile"]["dataDisks"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_machine_is_it_stays() {
    let sim = running().await;
    sim.sealed("os2", json!({})).await;
    sim.nic("card2").await;
    let change = async |body: Value| sim.put(&vm("m"), body).await;
    change(vm_body("os2", &["data"], "card")).await.refused(
        409,
        "PropertyChangeNotAllowed",
        "Changing property 'osDisk.managedDisk.id' is not allowed.",
    );
    change(with(vm_body("os", &["data"], "card"), json!({ "zones": ["1"] }))).await.refused(409, "PropertyChangeNotAllowed", "zones");
    change(with(vm_body("os", &["data"], "card"), json!({ "location": "northeurope" }))).await.refused(
        409,
        "InvalidResourceLocation",
        "westeurope",
    );
    change(vm_body("os", &["data"], "card2")).await.refused(
        409,
        "AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported",
        "running",
    );
    sim.call("PATCH", &vm("m"), Some(json!({}))).await.refused(400, "NotSupportedBySimulator", "PATCH");
    let larger = with(vm_body("os", &["data"], "card"), json!({ "properties": { "hardwareProfile": { "vmSize": "Standard_D4s_v5" } } }));
    change(larger.clone()).await.refused(400, "NotSupportedBySimulator", "vmSize of a virtual machine that is not deallocated");
    let stop = act(&sim, "deallocate").await;
    sim.done(&stop).await;
    assert_eq!(sim.put_done(&vm("m"), larger).await["properties"]["hardwareProfile"]["vmSize"], "Standard_D4s_v5");
    assert_eq!(power(&sim).await, "PowerState/deallocated");
    let small = with(vm_body("os", &["data"], "card"), json!({ "tags": { "a": "b" } }));
    let tagged = sim.put_done(&vm("m"), small).await;
    assert_eq!(tagged["tags"]["a"], "b");
}

#[tokio::test]
async fn deletion_leaves_what_it_should() {
    let sim = running().await;
    let deleting = sim.delete(&format!("{}&forceDeletion=true", vm("m"))).await;
    deleting.is(202);
    assert_eq!(sim.get(&vm("m")).await.body["properties"]["provisioningState"], "Deleting");
    act(&sim, "start").await.refused(409, "Conflict", "concurrent");
    sim.done(&deleting).await;
    sim.get(&vm("m")).await.is(404);
    assert_eq!(sim.state_of("os").await, "Unattached");
    sim.delete(&vm("m")).await.is(204);

    let mut body = vm_body("os", &["data"], "card");
    body["properties"]["storageProfile"]["osDisk"]["deleteOption"] = json!("Delete");
    body["properties"]["storageProfile"]["dataDisks"][0]["deleteOption"] = json!("Detach");
    body["properties"]["networkProfile"]["networkInterfaces"][0]["properties"]["deleteOption"] = json!("Delete");
    sim.put_done(&vm("m"), body).await;
    sim.delete(&format!("{}&forceDeletion=maybe", vm("m"))).await.refused(400, "InvalidParameter", "forceDeletion");
    let deleting = sim.delete(&vm("m")).await;
    sim.done(&deleting).await;
    sim.get(&disk("os")).await.is(404);
    sim.get(&nic("card")).await.is(404);
    assert_eq!(sim.state_of("data").await, "Unattached");
    assert_eq!(sim.state.disks.content(&id("os").to_ascii_lowercase()), None);
}

#[tokio::test]
async fn a_machine_that_failed_reserves_its_card() {
    let sim = Sim::start().await;
    sim.sealed("os", json!({})).await;
    sim.nic("card").await;
    let effect = Effect::FailOperation { code: "AllocationFailed".to_owned(), message: "Allocation failed.".to_owned() };
    sim.state.arm.knobs.inject(Injection {
        method: Some("PUT".to_owned()),
        path: "*/virtualMachines/m".to_owned(),
        times: Some(1),
        skip: 0,
        effect,
    });
    let created = sim.put(&vm("m"), vm_body("os", &[], "card")).await;
    let status = sim.ended(&created).await;
    assert_eq!(status["error"]["code"], "AllocationFailed");
    assert_eq!(sim.get(&vm("m")).await.body["properties"]["provisioningState"], "Failed");
    act(&sim, "start").await.refused(409, "OperationNotAllowed", "provisioning failed");
    sim.delete(&nic("card")).await.refused(400, "NicInUse", "virtualMachines/m");
    let deleting = sim.delete(&vm("m")).await;
    sim.done(&deleting).await;
    sim.delete(&nic("card")).await.refused(400, "NicReservedForAnotherVm", "is reserved for another Virtual Machine for 180 seconds");
    sim.put(&vm("n"), vm_body("os", &[], "card")).await.refused(400, "NicReservedForAnotherVm", "virtualMachines/m");
    sim.advance(181);
    let deleting = sim.delete(&nic("card")).await;
    sim.done(&deleting).await;
}

#[tokio::test]
async fn everything_is_in_the_dump() {
    let sim = running().await;
    let dump = sim.state.arm.dump(&sim.state);
    assert_eq!(dump["disks"].as_array().unwrap().len(), 2);
    assert_eq!(dump["virtualMachines"][0]["properties"]["instanceView"]["statuses"][1]["code"], "PowerState/running");
    assert!(dump["operations"].as_array().unwrap().iter().all(|operation| operation["status"] == "Succeeded"));
}
