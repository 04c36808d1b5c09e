//! Long-running operations: their headers, their URLs, what they leave behind.

use azure_simulator::arm::{Effect, Injection};
use serde_json::json;

use crate::sim::{DISKS, GROUP, MIB, NOBODY, Sim, act, copy_body, disk, empty_body, id, nic, nic_body, upload_body, vm, vm_body};

fn fail(path: &str) -> Injection {
    let effect =
        Effect::FailOperation { code: "InternalExecutionError".to_owned(), message: "An internal execution error occurred.".to_owned() };
    Injection { method: None, path: path.to_owned(), times: Some(1), skip: 0, effect }
}

#[tokio::test]
async fn disks_give_both_urls() {
    let sim = Sim::start().await;
    let started = sim.put(&disk("a"), upload_body(20 * MIB)).await;
    let (status, result) = (started.header("azure-asyncoperation"), started.header("location"));
    assert!(
        status.starts_with(&sim.base) && status.contains("/providers/Microsoft.Compute/locations/westeurope/DiskOperations/"),
        "{status}"
    );
    assert!(result.contains("&monitor=true&") && !status.contains("monitor"), "{result}");
    assert_eq!(started.header("retry-after"), "5");
    let running = sim.get(status).await;
    assert_eq!((running.is(200).body["status"].as_str(), running.header("retry-after")), (Some("InProgress"), "5"));
    let waiting = sim.get(result).await;
    assert_eq!((waiting.is(202).header("retry-after"), &waiting.body), ("5", &serde_json::Value::Null));
    sim.advance(10);
    let ended = sim.get(status).await.body;
    assert_eq!((&ended["status"], ended["endTime"].as_str()), (&json!("Succeeded"), Some("2026-11-23T12:00:10Z")));
    assert_eq!(sim.get(result).await.is(200).body["id"], id("a"));
}

#[tokio::test]
async fn machines_and_cards_give_what_azure_gives() {
    let sim = Sim::start().await;
    let card = sim.put(&nic("card"), nic_body("production")).await;
    card.is(201);
    assert!(card.header("azure-asyncoperation").contains("/providers/Microsoft.Network/locations/westeurope/operations/"));
    assert_eq!(card.header("location"), "");
    assert_eq!(card.body["properties"]["provisioningState"], "Updating");
    sim.done(&card).await;
    sim.sealed("os", json!({})).await;
    let created = sim.put(&vm("m"), vm_body("os", &[], "card")).await;
    created.is(201);
    assert!(created.header("azure-asyncoperation").contains("/providers/Microsoft.Compute/locations/westeurope/operations/"));
    assert_eq!((created.header("location"), &created.body["properties"]["provisioningState"]), ("", &json!("Creating")));
    sim.done(&created).await;
    let stopped = sim.post(&vm("m").replace("?", "/powerOff?"), None).await;
    stopped.is(202);
    assert!(stopped.header("location").contains("monitor=true"));
    assert_eq!(sim.get(stopped.header("location")).await.status, 202);
    sim.done(&stopped).await;
    assert_eq!(sim.get(stopped.header("location")).await.status, 200);
    let deleted = sim.delete(&vm("m")).await;
    sim.done(&deleted).await;
    let gone = sim.delete(&nic("card")).await;
    assert!(gone.is(202).header("location").contains("/operationResults/"));
    assert_eq!(sim.get(gone.header("location")).await.status, 202);
    sim.done(&gone).await;
    assert_eq!(sim.get(gone.header("location")).await.status, 200);
}

#[tokio::test]
async fn operations_that_are_not_known() {
    let sim = Sim::start().await;
    let started = sim.put(&disk("a"), empty_body(1)).await;
    let url = started.header("azure-asyncoperation").to_owned();
    let words = "The entity was not found in this Azure location.";
    let other = uuid::Uuid::new_v4().to_string();
    let own = url.split("DiskOperations/").nth(1).unwrap().split('?').next().unwrap().to_owned();
    sim.get(&url.replace(&own, &other)).await.refused(404, "NotFound", words);
    sim.get(&url.replace(&own, "x")).await.refused(404, "NotFound", words);
    sim.get(&url.replace("westeurope", "northeurope")).await.refused(404, "NotFound", words);
    // The URL is the server's: one that was put together without its parameters leads nowhere.
    sim.get(&format!("{}?api-version={DISKS}", url.split('?').next().unwrap())).await.refused(404, "NotFound", words);
    sim.get(&url.replace("DiskOperations", "operations")).await.refused(404, "NotFound", words);
    // It lies below the subscription, out of reach of a role on a resource group: who has been given it may follow it.
    sim.call_as(NOBODY, "GET", &url, None).await.is(200);
    sim.get(&url).await.is(200);
}

#[tokio::test]
async fn a_failed_operation_says_so_at_both_urls() {
    let sim = Sim::start().await;
    sim.state.arm.knobs.inject(fail("*/disks/a"));
    let started = sim.put(&disk("a"), upload_body(20 * MIB)).await;
    started.is(202);
    let ended = sim.ended(&started).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("Failed"), &json!("InternalExecutionError")));
    sim.get(started.header("location")).await.refused(500, "InternalExecutionError", "internal execution error");
    assert_eq!(sim.get(&disk("a")).await.body["properties"]["provisioningState"], "Failed");
    sim.post(&act("disks", "a", "beginGetAccess"), Some(json!({ "access": "Write", "durationInSeconds": 60 }))).await.refused(
        409,
        "OperationNotAllowed",
        "provisioning state Failed",
    );
    sim.put(&disk("b"), copy_body(&id("a"))).await.refused(409, "OperationNotAllowed", "Disk a is in state ReadyToUpload");
    sim.state.arm.knobs.inject(fail("*/disks/empty"));
    let empty = sim.put(&disk("empty"), empty_body(1)).await;
    sim.ended(&empty).await;
    sim.put(&disk("b"), copy_body(&id("empty"))).await.refused(
        409,
        "OperationNotAllowed",
        "Disk empty is in provisioning state Failed: it cannot be copied",
    );
    sim.sealed("os", json!({})).await;
    sim.nic("card").await;
    let words = "Disk empty cannot be attached to the VM because it is in provisioning state Failed.";
    sim.put(&vm("m"), vm_body("os", &["empty"], "card")).await.refused(409, "OperationNotAllowed", words);
    // The same PUT again repairs it.
    let body = sim.put_done(&disk("a"), upload_body(20 * MIB)).await;
    assert_eq!(body["properties"]["provisioningState"], "Succeeded");
}

#[tokio::test]
async fn a_failed_grant_and_a_failed_revocation_change_nothing() {
    let sim = Sim::start().await;
    sim.upload("a", 20 * MIB).await;
    sim.state.arm.knobs.inject(fail("*/beginGetAccess"));
    let started = sim.post(&act("disks", "a", "beginGetAccess"), Some(json!({ "access": "Write", "durationInSeconds": 600 }))).await;
    assert_eq!(sim.ended(&started).await["status"], "Failed");
    assert_eq!(sim.state_of("a").await, "ReadyToUpload");
    sim.grant("a", "Write", 600).await;
    sim.state.disks.write(&id("a").to_ascii_lowercase(), 20 * MIB, &crate::sim::footer(20 * MIB)).unwrap();
    sim.state.arm.knobs.inject(fail("*/endGetAccess"));
    let started = sim.post(&act("disks", "a", "endGetAccess"), None).await;
    assert_eq!(sim.ended(&started).await["status"], "Failed");
    assert_eq!(sim.state_of("a").await, "ActiveUpload");
    sim.revoke("a").await;
    assert_eq!(sim.state_of("a").await, "Unattached");
}

#[tokio::test]
async fn a_failed_deletion_leaves_the_disk() {
    let sim = Sim::start().await;
    sim.put_done(&disk("a"), empty_body(1)).await;
    sim.state.arm.knobs.inject(fail("*/disks/a"));
    let started = sim.delete(&disk("a")).await;
    assert_eq!(sim.ended(&started).await["status"], "Failed");
    assert_eq!(sim.get(&disk("a")).await.is(200).body["properties"]["provisioningState"], "Failed");
    let started = sim.delete(&disk("a")).await;
    sim.done(&started).await;
    sim.get(&disk("a")).await.is(404);
}

#[tokio::test]
async fn what_is_held_does_not_end() {
    let sim = Sim::start().await;
    let held =
        Injection { method: Some("PUT".to_owned()), path: format!("{GROUP}/*"), times: Some(1), skip: 0, effect: Effect::HoldOperation };
    let number = sim.state.arm.knobs.inject(held);
    let started = sim.put(&disk("a"), empty_body(1)).await;
    sim.advance(100_000);
    assert_eq!(sim.get(started.header("azure-asyncoperation")).await.body["status"], "InProgress");
    // Only the first one is held.
    sim.put_done(&disk("b"), empty_body(1)).await;
    sim.put(&disk("a"), empty_body(1)).await.refused(409, "Conflict", "concurrent");
    sim.state.arm.knobs.clear(Some(number));
    assert_eq!(sim.get(started.header("azure-asyncoperation")).await.body["status"], "Succeeded");
    assert_eq!(sim.get(&disk("a")).await.body["properties"]["provisioningState"], "Succeeded");
}
