//! beginGetAccess and endGetAccess.

use serde_json::{Value, json};

use crate::sim::{MIB, Reply, Sim, act, copy_body, disk, empty_body, footer, id, snapshot, snapshot_body, upload_body, vm, vm_body, with};

async fn grant(sim: &Sim, name: &str, access: &str, seconds: i64) -> Reply {
    sim.post(&act("disks", name, "beginGetAccess"), Some(json!({ "access": access, "durationInSeconds": seconds }))).await
}

fn key(name: &str) -> String {
    id(name).to_ascii_lowercase()
}

#[tokio::test]
async fn an_upload_goes_one_way() {
    let sim = Sim::start().await;
    sim.upload("a", 20 * MIB).await;
    assert_eq!(sim.state_of("a").await, "ReadyToUpload");
    let started = grant(&sim, "a", "Write", 3600).await;
    started.is(202);
    assert!(started.header("location").contains("monitor=true"), "{started:?}");
    assert_eq!(sim.get(started.header("location")).await.status, 202);
    assert_eq!(sim.state_of("a").await, "ReadyToUpload", "not before the operation has ended");
    let status = sim.done(&started).await;
    let url = status["properties"]["output"]["accessSAS"].as_str().unwrap().to_owned();
    assert_eq!(sim.get(started.header("location")).await.body, json!({ "accessSAS": url }));
    assert_eq!(sim.state_of("a").await, "ActiveUpload");

    sim.state.disks.write(&key("a"), 20 * MIB, &footer(20 * MIB)).unwrap();
    sim.revoke("a").await;
    assert_eq!(sim.state_of("a").await, "Unattached");
    grant(&sim, "a", "Write", 3600).await.refused(
        409,
        "OperationNotAllowed",
        "Upload can only be used during the creation of a new empty disk",
    );
    // To revoke again changes nothing.
    sim.revoke("a").await;
    assert_eq!(sim.state_of("a").await, "Unattached");
    sim.grant("a", "Read", 60).await;
    assert_eq!(sim.state_of("a").await, "ActiveSAS");
    sim.revoke("a").await;
    assert_eq!(sim.state_of("a").await, "Unattached");
}

#[tokio::test]
async fn a_footer_that_is_none_keeps_the_upload_open() {
    let sim = Sim::start().await;
    sim.upload("a", 20 * MIB).await;
    sim.grant("a", "Write", 3600).await;
    let end = async || {
        let started = sim.post(&act("disks", "a", "endGetAccess"), None).await;
        let location = started.header("location").to_owned();
        let status = sim.ended(&started).await;
        (status, sim.get(&location).await)
    };
    let (status, result) = end().await;
    assert_eq!(status["status"], "Failed");
    assert_eq!(status["error"]["code"], "InvalidVhd");
    assert!(status["error"]["message"].as_str().unwrap().contains("Disk is expected to have cookie value 'conectix'"), "{status}");
    result.refused(400, "InvalidVhd", "conectix");
    assert_eq!(sim.state_of("a").await, "ActiveUpload");
    let mut wrong = footer(20 * MIB);
    wrong[70] ^= 1;
    sim.state.disks.write(&key("a"), 20 * MIB, &wrong).unwrap();
    assert_eq!(end().await.0["error"]["code"], "InvalidVhd");
    sim.state.disks.write(&key("a"), 20 * MIB, &footer(21 * MIB)).unwrap();
    assert_eq!(end().await.0["error"]["code"], "InvalidVhd");
    sim.state.disks.write(&key("a"), 20 * MIB, &footer(20 * MIB)).unwrap();
    assert_eq!(end().await.0["status"], "Succeeded");
    assert_eq!(sim.state_of("a").await, "Unattached");
}

#[tokio::test]
async fn an_expired_upload_gets_another_sas() {
    let sim = Sim::start().await;
    sim.upload("a", 20 * MIB).await;
    let first = sim.grant("a", "Write", 60).await;
    // Another one while the first still holds, too.
    let second = sim.grant("a", "Write", 60).await;
    assert_ne!(first, second);
    sim.advance(61);
    assert_eq!(sim.state_of("a").await, "ActiveUpload");
    let third = sim.grant("a", "Write", 60).await;
    assert_ne!(second, third);
    assert_eq!(sim.state_of("a").await, "ActiveUpload");
}

#[tokio::test]
async fn the_sas_ends_with_the_call_that_revokes_and_with_no_other() {
    let sim = Sim::start().await;
    sim.upload("a", 20 * MIB).await;
    let sas = sim.grant("a", "Write", 3600).await;
    assert_eq!(sim.write(&sas, 0).await, 201);
    let end = async || sim.post(&act("disks", "a", "endGetAccess"), None).await;
    // A seal that fails leaves the way open on which its footer is written.
    let started = end().await;
    assert_eq!(sim.write(&sas, 512).await, 201);
    assert_eq!(sim.ended(&started).await["status"], "Failed");
    assert_eq!(sim.write(&sas, 512).await, 201);
    sim.state.disks.write(&key("a"), 20 * MIB, &footer(20 * MIB)).unwrap();
    let effect = azure_simulator::arm::Effect::FailOperation { code: "InternalExecutionError".to_owned(), message: String::new() };
    let path = "*/endGetAccess".to_owned();
    sim.state.arm.knobs.inject(azure_simulator::arm::Injection { method: None, path, times: Some(1), skip: 0, effect });
    let started = end().await;
    assert_eq!(sim.ended(&started).await["status"], "Failed");
    assert_eq!(sim.write(&sas, 512).await, 201);
    // One that is accepted closes it, before its operation has ended.
    let started = end().await;
    assert_eq!(sim.write(&sas, 512).await, 403);
    assert_eq!(sim.state_of("a").await, "ActiveUpload");
    sim.done(&started).await;
    assert_eq!(sim.write(&sas, 512).await, 403);

    let reading = sim.grant("a", "Read", 60).await;
    assert_eq!((sim.read(&reading, 0).await, sim.write(&reading, 0).await), (206, 403));
    sim.advance(61);
    assert_eq!(sim.read(&reading, 0).await, 403);
    sim.upload("b", 20 * MIB).await;
    let first = sim.grant("b", "Write", 60).await;
    sim.advance(61);
    let second = sim.grant("b", "Write", 60).await;
    assert_eq!((sim.write(&first, 0).await, sim.write(&second, 0).await), (403, 201));
    sim.advance(61);
    let deleting = sim.delete(&disk("b")).await;
    sim.done(&deleting).await;
    sim.upload("b", 20 * MIB).await;
    let third = sim.grant("b", "Write", 3600).await;
    assert_eq!((sim.write(&second, 0).await, sim.write(&third, 0).await), (403, 201), "a new disk of the same name has other URLs");
}

#[tokio::test]
async fn who_may_not() {
    let sim = Sim::start().await;
    sim.upload("a", 20 * MIB).await;
    let refuse = async |body: Value| sim.post(&act("disks", "a", "beginGetAccess"), Some(body)).await;
    refuse(json!({ "access": "Write" })).await.refused(400, "InvalidParameter", "'durationInSeconds' is missing");
    refuse(json!({ "durationInSeconds": 60 })).await.refused(400, "InvalidParameter", "'access' is missing");
    refuse(json!({ "access": "write", "durationInSeconds": 60 })).await.refused(400, "BadRequest", "Error converting value");
    refuse(json!({ "access": "None", "durationInSeconds": 60 })).await.refused(400, "InvalidParameter", "gives no access");
    refuse(json!({ "access": "Write", "durationInSeconds": 60, "fileFormat": "VHDX" })).await.refused(
        400,
        "NotSupportedBySimulator",
        "VHDX",
    );
    refuse(json!({ "access": "Write", "durationInSeconds": 60, "more": 1 })).await.refused(400, "InvalidRequestContent", "'more'");
    for seconds in [0, -5, 60 * 24 * 3600 + 1] {
        grant(&sim, "a", "Write", seconds).await.refused(400, "InvalidParameter", "between 1 and 5184000");
    }
    grant(&sim, "a", "Read", 60).await.refused(
        409,
        "OperationNotAllowed",
        "Read access cannot be granted to disk a: it is in state ReadyToUpload",
    );
    sim.post(&act("disks", "a", "endGetAccess"), None).await.refused(409, "OperationNotAllowed", "ReadyToUpload");
    sim.post(&act("disks", "a", "endGetAccess"), Some(json!({ "x": 1 }))).await.refused(400, "InvalidRequestContent", "takes no body");
    sim.post(&act("disks", "a", "formatDisk"), None).await.refused(404, "InvalidResourceType", "'formatDisk'");
    grant(&sim, "nothing", "Write", 60).await.refused(404, "ResourceNotFound", "nothing");
    sim.put_done(&disk("empty"), empty_body(1)).await;
    grant(&sim, "empty", "Write", 60).await.refused(409, "OperationNotAllowed", "not in state ReadyToUpload or ActiveUpload");
    sim.put_done(&disk("shut"), with(upload_body(20 * MIB), json!({ "properties": { "networkAccessPolicy": "DenyAll" } }))).await;
    grant(&sim, "shut", "Write", 60).await.refused(409, "OperationNotAllowed", "networkAccessPolicy");
}

#[tokio::test]
async fn a_running_machines_disk_is_not_read() {
    let sim = Sim::start().await;
    sim.sealed("os", json!({})).await;
    sim.nic("card").await;
    sim.put_done(&vm("m"), vm_body("os", &[], "card")).await;
    assert_eq!(sim.state_of("os").await, "Attached");
    grant(&sim, "os", "Read", 60).await.refused(
        409,
        "Conflict",
        "Access not permitted because disk os is currently attached to running VM /subscriptions/",
    );
    let stop = sim.post(&vm("m").replace("?", "/deallocate?"), None).await;
    sim.done(&stop).await;
    assert_eq!(sim.state_of("os").await, "Reserved");
    sim.grant("os", "Read", 3600).await;
    assert_eq!(sim.state_of("os").await, "ActiveSAS");
    sim.post(&vm("m").replace("?", "/start?"), None).await.refused(
        409,
        "OperationNotAllowed",
        "active shared access signature outstanding for disk os",
    );
    sim.revoke("os").await;
    let start = sim.post(&vm("m").replace("?", "/start?"), None).await;
    sim.done(&start).await;
    assert_eq!(sim.state_of("os").await, "Attached");
}

#[tokio::test]
async fn snapshots_are_read_five_of_a_family_at_once() {
    let sim = Sim::start().await;
    sim.put_done(&disk("a"), empty_body(1)).await;
    for n in 0..6 {
        sim.put_done(&snapshot(&format!("s{n}")), snapshot_body(&id("a"))).await;
    }
    let read = async |n: u32| {
        sim.post(&act("snapshots", &format!("s{n}"), "beginGetAccess"), Some(json!({ "access": "Read", "durationInSeconds": 3600 }))).await
    };
    for n in 0..5 {
        let started = read(n).await;
        sim.done(&started).await;
    }
    read(5).await.refused(409, "OperationNotAllowed", "5 snapshots have a SAS already");
    let write = json!({ "access": "Write", "durationInSeconds": 60 });
    sim.post(&act("snapshots", "s0", "beginGetAccess"), Some(write)).await.refused(
        409,
        "OperationNotAllowed",
        "Write access cannot be granted to snapshot s0",
    );
    sim.delete(&snapshot("s0")).await.refused(409, "OperationNotAllowed", "active shared access signature");
    let end = sim.post(&act("snapshots", "s0", "endGetAccess"), None).await;
    sim.done(&end).await;
    let started = read(5).await;
    sim.done(&started).await;
}

#[tokio::test]
async fn a_sas_ends_with_the_revocation_and_with_its_disk() {
    let sim = Sim::start().await;
    sim.put_done(&disk("a"), empty_body(1)).await;
    sim.grant("a", "Read", 30).await;
    sim.delete(&disk("a")).await.refused(409, "OperationNotAllowed", "EndGetAccess");
    // A copy of a disk that is read is allowed.
    sim.put_done(&disk("b"), copy_body(&id("a"))).await;
    sim.advance(60);
    assert_eq!(sim.state_of("a").await, "Unattached", "an expired SAS holds nothing");
    let deleting = sim.delete(&disk("a")).await;
    sim.done(&deleting).await;
}
