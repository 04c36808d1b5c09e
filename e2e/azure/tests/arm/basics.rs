//! Versions, paths, groups, providers, bodies: what every call meets.

use serde_json::json;

use crate::sim::{DISKS, GROUP, MACHINES, NETWORK, NOBODY, RESOURCES, Sim, disk, empty_body, id, upload_body, with};

const SUBSCRIPTION: &str = "/subscriptions/22222222-2222-4222-8222-222222222222";

#[tokio::test]
async fn the_version_is_needed_known_and_well_formed() {
    let sim = Sim::start().await;
    sim.get(GROUP).await.refused(400, "MissingApiVersionParameter", "is required for all requests");
    sim.get(&id("a")).await.refused(400, "MissingApiVersionParameter", "is required");
    sim.get(&format!("{GROUP}?api-version=2013-01-01")).await.refused(400, "InvalidApiVersionParameter", "The supported versions are '");
    sim.get(&format!("{GROUP}?api-version=latest")).await.refused(400, "InvalidApiVersionParameter", "'latest' is invalid");
    sim.get(&format!("{}?api-version=2026-3-2", id("a"))).await.refused(400, "InvalidApiVersionParameter", "is invalid");
    sim.get(&format!("{}?api-version=2016-04-30-preview", id("a"))).await.refused(
        400,
        "NoRegisteredProviderFound",
        "and API version '2016-04-30-preview' for type 'disks'. The supported api-versions are '",
    );
    // Each type has its own: machines' newest is not one of disks.
    sim.get(&format!("{}?api-version={MACHINES}", id("a"))).await.refused(400, "NoRegisteredProviderFound", "for type 'disks'");
}

#[tokio::test]
async fn what_does_not_exist() {
    let sim = Sim::start().await;
    let other = disk("a").replace("22222222-2222-4222-8222-222222222222", "22222222-2222-4222-8222-000000000000");
    sim.get(&other).await.refused(404, "SubscriptionNotFound", "could not be found");
    sim.get(&disk("a").replace("/hawser/", "/nowhere/")).await.refused(
        404,
        "ResourceGroupNotFound",
        "Resource group 'nowhere' could not be found.",
    );
    sim.get(&disk("a")).await.refused(404, "ResourceNotFound", "'Microsoft.Compute/disks/a' under resource group 'hawser' was not found");
    sim.get(&disk("a").replace("/disks/", "/floppies/")).await.refused(
        404,
        "InvalidResourceType",
        "'floppies' could not be found in the namespace 'Microsoft.Compute'",
    );
    sim.get(&disk("a").replace("Microsoft.Compute", "Microsoft.Computer")).await.refused(
        404,
        "InvalidResourceNamespace",
        "'Microsoft.Computer' is invalid",
    );
    sim.get(&format!("/elsewhere?api-version={RESOURCES}")).await.refused(404, "InvalidResourceType", "");
    sim.call("PATCH", &format!("{GROUP}?api-version={RESOURCES}"), Some(json!({}))).await.refused(405, "HttpMethodNotSupported", "'PATCH'");
    sim.call("POST", &format!("{GROUP}/providers/Microsoft.Compute/disks/a?api-version={DISKS}"), None).await.refused(
        405,
        "HttpMethodNotSupported",
        "'POST'",
    );
}

#[tokio::test]
async fn ids_are_compared_without_case() {
    let sim = Sim::start().await;
    let created = sim.put_done(&disk("Data-1"), empty_body(4)).await;
    assert_eq!(created["id"], id("Data-1"));
    let shouted = disk("DATA-1")
        .replace("resourceGroups/hawser", "RESOURCEGROUPS/HAWSER")
        .replace("disks", "DISKS")
        .replace("subscriptions", "Subscriptions");
    let found = sim.get(&shouted).await;
    assert_eq!(found.is(200).body["id"], id("Data-1"));
    sim.put(&disk("dAtA-1"), empty_body(4)).await.is(200);
    assert_eq!(
        sim.get(&format!("{GROUP}/providers/Microsoft.Compute/disks?api-version={DISKS}")).await.body["value"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn every_answer_has_its_ids_and_limits() {
    let sim = Sim::start().await;
    let reply = sim.get(&format!("{GROUP}?api-version={RESOURCES}")).await;
    reply.is(200);
    for header in
        ["x-ms-request-id", "x-ms-correlation-request-id", "x-ms-routing-request-id", "x-ms-ratelimit-remaining-subscription-reads"]
    {
        assert!(!reply.header(header).is_empty(), "{header}: {reply:?}");
    }
    assert_eq!(reply.header("content-type"), "application/json; charset=utf-8");
    assert!(!sim.put(&disk("a"), empty_body(4)).await.header("x-ms-ratelimit-remaining-subscription-writes").is_empty());
    assert!(!sim.delete(&disk("b")).await.header("x-ms-ratelimit-remaining-subscription-deletes").is_empty());
    assert_eq!(reply.body["properties"]["provisioningState"], "Succeeded");
}

#[tokio::test]
async fn strangers_in_bodies_are_refused() {
    let sim = Sim::start().await;
    let put = async |extra| sim.put(&disk("a"), with(upload_body(20 << 20), extra)).await;
    put(json!({ "colour": "red" })).await.refused(400, "InvalidRequestContent", "Could not find member 'colour' on object of type 'Disk'");
    put(json!({ "properties": { "colour": "red" } })).await.refused(
        400,
        "BadRequest",
        "Could not find member 'colour' on object of type 'DiskProperties'. Path 'properties.colour'",
    );
    put(json!({ "properties": { "osType": "linux" } })).await.refused(400, "BadRequest", "Error converting value \"linux\"");
    put(json!({ "properties": { "creationData": { "uploadSizeBytes": "20972032" } } })).await.refused(400, "BadRequest", "System.Int64");
    put(json!({ "tags": { "a": 1 } })).await.refused(400, "InvalidRequestContent", "'a' has to be a string");
    put(json!({ "location": null })).await.refused(400, "LocationRequired", "location property is required");
    put(json!({ "location": "moon" })).await.refused(400, "LocationNotAvailableForResourceType", "'moon' is not available");
    put(json!({ "properties": { "purchasePlan": { "name": "x" } } })).await.refused(
        400,
        "NotSupportedBySimulator",
        "properties.purchasePlan",
    );
    let tags: serde_json::Map<String, serde_json::Value> = (0..51).map(|n| (format!("t{n}"), json!("x"))).collect();
    put(json!({ "tags": tags })).await.refused(400, "InvalidTags", "at most 50");
    put(json!({ "tags": { "a": "x".repeat(257) } })).await.refused(400, "InvalidTagValueLength", "maximum length: '256'");
    put(json!({ "tags": { "x".repeat(513): "a" } })).await.refused(400, "InvalidTagNameLength", "at most 512");
    put(json!({ "tags": { "a".repeat(3): "x".repeat(5 << 20) } })).await.refused(413, "RequestContentTooLarge", "4 MB");
    let bearer = format!("Bearer {}", sim.token(azure_simulator::config::CLIENT));
    sim.raw("PUT", &disk("a"), Some("{".to_owned()), Some(&bearer)).await.unwrap().refused(
        400,
        "InvalidRequestContent",
        "could not be deserialized",
    );
    sim.raw("PUT", &disk("a"), None, Some(&bearer)).await.unwrap().refused(400, "InvalidRequestContent", "is empty");
    assert_eq!(sim.get(&disk("a")).await.status, 404, "nothing was created");
}

#[tokio::test]
async fn a_provider_has_to_be_registered() {
    let sim = Sim::start().await;
    let provider = format!("{SUBSCRIPTION}/providers/Microsoft.Compute");
    assert_eq!(sim.get(&format!("{provider}?api-version={RESOURCES}")).await.body["registrationState"], "Registered");
    sim.post(&format!("{provider}/unregister?api-version={RESOURCES}"), None).await.is(200);
    sim.put(&disk("a"), empty_body(4)).await.refused(
        409,
        "MissingSubscriptionRegistration",
        "not registered to use namespace 'Microsoft.Compute'",
    );
    sim.call_as(NOBODY, "POST", &format!("{provider}/register?api-version={RESOURCES}"), None).await.refused(
        403,
        "AuthorizationFailed",
        "'Microsoft.Compute/register/action'",
    );
    sim.post(&format!("{provider}/register?api-version={RESOURCES}"), None).await.is(200);
    sim.put(&disk("a"), empty_body(4)).await.is(202);
}

#[tokio::test]
async fn groups() {
    let sim = Sim::start().await;
    let group = format!("{SUBSCRIPTION}/resourcegroups/other?api-version={RESOURCES}");
    sim.get(&group).await.refused(404, "ResourceGroupNotFound", "'other'");
    assert_eq!(sim.call("HEAD", &group, None).await.status, 404);
    sim.put(&group, json!({ "location": "moon" })).await.refused(400, "LocationNotAvailableForResourceType", "moon");
    sim.put(&group, json!({ "location": "West Europe" })).await.is(201);
    sim.put(&group, json!({ "location": "westeurope", "tags": { "a": "b" } })).await.is(200);
    sim.put(&group, json!({ "location": "northeurope" })).await.refused(
        409,
        "InvalidResourceGroupLocation",
        "already exists in location 'westeurope'",
    );
    assert_eq!(sim.call("HEAD", &group, None).await.status, 204);
    assert_eq!(sim.get(&group).await.body["tags"]["a"], "b");
    sim.put(&group.replace("/other", "/bad."), json!({ "location": "westeurope" })).await.refused(400, "InvalidResourceGroupName", "bad.");
    sim.delete(&group).await.refused(400, "NotSupportedBySimulator", "DELETE of a resource group");
    assert_eq!(sim.get(&format!("{SUBSCRIPTION}/resourcegroups?api-version={RESOURCES}")).await.body["value"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn sizes_quotas_and_names() {
    let sim = Sim::start().await;
    let skus = sim
        .get(&format!("{SUBSCRIPTION}/providers/Microsoft.Compute/skus?api-version=2021-07-01&$filter=location%20eq%20'westeurope'"))
        .await;
    let skus = skus.is(200).body["value"].as_array().unwrap().clone();
    assert!(skus.iter().all(|sku| sku["locations"] == json!(["westeurope"])), "{skus:?}");
    let size = skus.iter().find(|sku| sku["name"] == "Standard_D2s_v5").unwrap();
    let capability = |name: &str| size["capabilities"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap()["value"].clone();
    assert_eq!(
        (capability("HyperVGenerations"), capability("MaxDataDiskCount"), capability("vCPUs")),
        (json!("V1,V2"), json!("4"), json!("2"))
    );
    let usages = sim.get(&format!("{SUBSCRIPTION}/providers/Microsoft.Compute/locations/westeurope/usages?api-version={MACHINES}")).await;
    let cores = usages.is(200).body["value"].as_array().unwrap().iter().find(|usage| usage["name"]["value"] == "cores").unwrap().clone();
    assert_eq!((&cores["currentValue"], &cores["limit"]), (&json!(0), &json!(100)));
    sim.get(&format!("{SUBSCRIPTION}/providers/Microsoft.Compute/locations/moon/usages?api-version={MACHINES}")).await.refused(
        400,
        "NoRegisteredProviderFound",
        "moon",
    );

    let check = format!("{SUBSCRIPTION}/providers/Microsoft.Storage/checkNameAvailability?api-version=2025-06-01");
    let ask = async |name: &str| {
        sim.post(&check, Some(json!({ "name": name, "type": "Microsoft.Storage/storageAccounts" }))).await.is(200).body.clone()
    };
    assert_eq!(ask("Bad-Name").await["reason"], "AccountNameInvalid");
    assert_eq!(ask("devstoreaccount1").await["reason"], "AlreadyExists");
    assert_eq!(ask("hawserlogs").await["nameAvailable"], true);
    sim.post(&check, Some(json!({ "name": "x" }))).await.refused(400, "InvalidParameter", "'type' is missing");
}

#[tokio::test]
async fn networks_and_security_groups_are_looked_at() {
    let sim = Sim::start().await;
    let network = format!("{GROUP}/providers/Microsoft.Network/virtualNetworks/production");
    assert_eq!(sim.get(&format!("{network}?api-version={NETWORK}")).await.is(200).body["properties"]["subnets"][0]["name"], "default");
    assert_eq!(
        sim.get(&format!("{network}/subnets/default?api-version={NETWORK}")).await.is(200).body["properties"]["addressPrefix"],
        "10.1.0.0/24"
    );
    assert_eq!(sim.get(&format!("{network}/subnets?api-version={NETWORK}")).await.is(200).body["value"].as_array().unwrap().len(), 1);
    sim.get(&format!("{network}/subnets/other?api-version={NETWORK}")).await.refused(404, "NotFound", "subnets/other not found");
    sim.get(&format!("{network}x/subnets/default?api-version={NETWORK}")).await.refused(404, "ResourceNotFound", "productionx");
    let groups = format!("{GROUP}/providers/Microsoft.Network/networkSecurityGroups");
    sim.get(&format!("{groups}/default-nsg?api-version={NETWORK}")).await.is(200);
    sim.get(&format!("{groups}/other?api-version={NETWORK}")).await.refused(404, "ResourceNotFound", "other");
    sim.put(&format!("{groups}/other?api-version={NETWORK}"), json!({})).await.refused(
        400,
        "NotSupportedBySimulator",
        "declare it in the simulator's configuration",
    );
    let account = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/devstoreaccount1?api-version=2025-06-01");
    assert_eq!(sim.get(&account).await.is(200).body["kind"], "StorageV2");
}
