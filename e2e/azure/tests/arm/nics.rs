//! Network cards.

use serde_json::{Value, json};

use crate::sim::{GROUP, NETWORK, Reply, Sim, config, nic, nic_body, nic_id, subnet, vm, vm_body, with};

async fn put(sim: &Sim, properties: Value) -> Reply {
    let mut body = nic_body("production");
    crate::sim::merge(&mut body["properties"]["ipConfigurations"][0], properties);
    sim.put(&nic("a"), body).await
}

#[tokio::test]
async fn addresses_are_given_out_and_kept() {
    let sim = Sim::start().await;
    let address = |body: &Value| body["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"].as_str().unwrap().to_owned();
    assert_eq!(address(&sim.nic("a").await), "10.1.0.4");
    assert_eq!(address(&sim.nic("b").await), "10.1.0.5");
    sim.put(&nic("a"), nic_body("production")).await.is(200);
    let tagged = sim.put_done(&nic("a"), with(nic_body("production"), json!({ "tags": { "a": "b" } }))).await;
    assert_eq!((address(&tagged), &tagged["tags"]["a"]), ("10.1.0.4".to_owned(), &json!("b")));
    let used = sim.get(&format!("{}?api-version={NETWORK}", subnet("production"))).await.body;
    assert_eq!(used["properties"]["ipConfigurations"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn addresses_that_cannot_be_had() {
    let sim = Sim::start().await;
    sim.nic("b").await;
    let fixed = async |address: Value| {
        put(&sim, json!({ "properties": { "privateIPAllocationMethod": "Static", "privateIPAddress": address } })).await
    };
    fixed(json!(null)).await.refused(400, "PrivateIPAddressMissing", "static");
    fixed(json!("10.1.0.x")).await.refused(400, "InvalidRequestFormat", "no IPv4 address");
    fixed(json!("10.2.0.9")).await.refused(400, "PrivateIPAddressNotInSubnet", "does not belong to the range of subnet prefix 10.1.0.0/24");
    fixed(json!("10.1.0.3")).await.refused(400, "PrivateIPAddressInReservedRange", "reserved IP range");
    fixed(json!("10.1.0.255")).await.refused(400, "PrivateIPAddressInReservedRange", "reserved IP range");
    fixed(json!("10.1.0.4")).await.refused(400, "PrivateIPAddressInUse", "10.1.0.4");
    fixed(json!("10.1.0.77")).await.is(201);
}

#[tokio::test]
async fn a_subnet_gets_full() {
    let mut config = config();
    config.networks[0].subnets[0].prefix = "10.1.0.0/29".to_owned();
    let sim = Sim::with(config).await;
    for name in ["a", "b", "c"] {
        sim.nic(name).await;
    }
    sim.put(&nic("d"), nic_body("production")).await.refused(400, "SubnetIsFull", "10.1.0.0/29");
}

#[tokio::test]
async fn references_that_lead_nowhere() {
    let sim = Sim::start().await;
    let to = async |id: &str| put(&sim, json!({ "properties": { "subnet": { "id": id } } })).await;
    let words = "was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.";
    to(&subnet("nowhere")).await.refused(400, "InvalidResourceReference", words);
    to(&subnet("production").replace("/default", "/other")).await.refused(400, "InvalidResourceReference", words);
    to("default").await.refused(400, "LinkedInvalidPropertyId", "properties.ipConfigurations[0].properties.subnet.id");
    put(&sim, json!({ "properties": { "subnet": null } })).await.refused(400, "SubnetIdMissing", "ipconfig1");
    sim.put(&nic("a"), with(nic_body("production"), json!({ "location": "northeurope" }))).await.refused(
        400,
        "InvalidResourceReference",
        words,
    );
    let group = json!({ "properties": { "networkSecurityGroup": { "id": format!("{GROUP}/providers/Microsoft.Network/networkSecurityGroups/other") } } });
    sim.put(&nic("a"), with(nic_body("production"), group)).await.refused(400, "InvalidResourceReference", words);
    sim.put(&nic("a"), with(nic_body("production"), json!({ "properties": { "colour": 1 } }))).await.refused(
        400,
        "InvalidRequestFormat",
        "Cannot parse the request.",
    );
    put(&sim, json!({ "properties": { "publicIPAddress": { "id": "x" } } })).await.refused(
        400,
        "NotSupportedBySimulator",
        "publicIPAddress",
    );
    sim.put(&nic("a"), with(nic_body("production"), json!({ "properties": { "ipConfigurations": [] } }))).await.refused(
        400,
        "NetworkInterfaceMustHaveIpConfiguration",
        "must have one or more",
    );
    sim.get(&nic("a")).await.refused(404, "ResourceNotFound", "networkInterfaces/a");
}

#[tokio::test]
async fn configurations_fit_together() {
    let sim = Sim::start().await;
    let one = |name: &str, primary: bool, network: &str| json!({ "name": name, "properties": { "primary": primary, "subnet": { "id": subnet(network) } } });
    let list =
        async |list: Value| sim.put(&nic("a"), with(nic_body("production"), json!({ "properties": { "ipConfigurations": list } }))).await;
    list(json!([one("a", true, "production"), one("b", true, "production")])).await.refused(
        400,
        "MultiplePrimaryIpConfigurationsNotAllowed",
        "exactly one",
    );
    list(json!([one("a", false, "production")])).await.refused(400, "MultiplePrimaryIpConfigurationsNotAllowed", "0 primary");
    list(json!([one("a", true, "production"), one("A", false, "production")])).await.refused(400, "InvalidRequestFormat", "more than once");
    list(json!([one("a", true, "production"), one("b", false, "test")])).await.refused(
        400,
        "AllIpConfigurationsMustBeInSameVirtualNetwork",
        "different",
    );
    list(json!([one("a", true, "production"), one("b", false, "production")])).await.is(201);
}

#[tokio::test]
async fn a_card_of_a_machine_stays_as_it_is() {
    let sim = Sim::start().await;
    sim.sealed("os", json!({})).await;
    sim.nic("a").await;
    sim.put_done(&vm("m"), vm_body("os", &[], "a")).await;
    let shown = sim.get(&nic("a")).await.body;
    assert!(shown["properties"]["virtualMachine"]["id"].as_str().unwrap().ends_with("/virtualMachines/m"));
    assert!(shown["properties"]["macAddress"].as_str().unwrap().starts_with("00-0D-3A-"));
    put(&sim, json!({ "properties": { "subnet": { "id": subnet("test") } } })).await.refused(
        400,
        "NotSupportedBySimulator",
        "belongs to a virtual machine",
    );
    sim.call("PATCH", &nic("a"), Some(json!({ "tags": { "x": "y" } }))).await.is(200);
    sim.delete(&nic("a")).await.refused(400, "NicInUse", &format!("Network Interface {} is used by existing resource", nic_id("a")));
    sim.delete(&nic("nothing")).await.is(204);
}
