//! Asking what changed.

use extents::ExtentSet;
use reasons::Reason;
use serde_json::json;
use vsphere::{
    cbt::FullReason,
    snapshot::{
        changes::{Baseline, Changes},
        control::Taken,
    },
};

use crate::fixture::{MIB, Simulator, Watched, vm};

const DISK: u32 = 2000;

fn baseline(taken: &Taken) -> Baseline {
    let disk = taken.devices.disk(DISK).unwrap();
    Baseline {
        change_id: disk.backing.change_id.clone().unwrap(),
        capacity: Some(disk.capacity),
        identity: disk.identity().map(str::to_owned),
        lineage: Some(taken.lineage.clone()),
    }
}

/// A cycle: what it would note as its baseline.
async fn cycle(control: &Watched, number: u64) -> Baseline {
    let taken = control.take(&control.mark(number)).await.unwrap();
    control.release(&taken.snapshot).await.unwrap();
    baseline(&taken)
}

/// What a second cycle would read.
async fn next(control: &Watched, number: u64, since: &Baseline) -> Changes {
    let taken = control.take(&control.mark(number)).await.unwrap();
    let changes = control.changed(&taken.snapshot, DISK, since).await.unwrap();
    control.release(&taken.snapshot).await.unwrap();
    changes
}

fn sectors(offset: u64, length: u64) -> std::ops::Range<u64> {
    offset / 512..(offset + length) / 512
}

#[tokio::test]
async fn what_the_guest_wrote_is_found_page_by_page() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let control = simulator.control("a").await;
    let since = cycle(&control, 1).await;
    let written = [(0, 512), (3 * MIB + 512, 4096), (40 * MIB, MIB), (64 * MIB - 512, 512)];
    for (offset, length) in written {
        simulator.write("a", DISK, offset, length).await;
    }
    let taken = control.take(&control.mark(2)).await.unwrap();
    // Pages of 4 MiB: most of them are empty.
    simulator.put("/vms/a/cbt/pages", json!({"disk": DISK, "span": 4 * MIB})).await;
    simulator.delete("/calls").await;
    let Changes::Areas(areas) = control.changed(&taken.snapshot, DISK, &since).await.unwrap() else { panic!() };
    assert!(written.iter().all(|(offset, length)| areas.contains(sectors(*offset, *length))), "{areas:?}");
    assert!(areas.bytes() <= 2 * MIB && areas.end() == 64 * MIB / 512, "{areas:?}");
    assert_eq!(simulator.calls("QueryChangedDiskAreas").await, 16);
    // What is written after the snapshot is the next cycle's.
    simulator.write("a", DISK, 20 * MIB, MIB).await;
    assert_eq!(control.changed(&taken.snapshot, DISK, &since).await.unwrap(), Changes::Areas(areas));
    let then = baseline(&taken);
    control.release(&taken.snapshot).await.unwrap();
    assert_eq!(next(&control, 3, &then).await, Changes::Areas(ExtentSet::from(sectors(20 * MIB, MIB))));
    let idle = cycle(&control, 4).await;
    assert_eq!(next(&control, 5, &idle).await, Changes::Areas(ExtentSet::new()));
}

#[tokio::test]
async fn where_changes_can_not_be_told_the_disk_is_read_in_full() {
    let simulator = Simulator::start(&[
        vm("reset", json!({})),
        vm("grown", json!({})),
        vm("replaced", json!({})),
        vm("reverted", json!({})),
        vm("off", json!({"cbt": false})),
    ]);
    let told = async |name: &str, change: &dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>| {
        let control = simulator.control(name).await;
        let since = cycle(&control, 1).await;
        change().await;
        next(&control, 2, &since).await
    };
    let simulator = &simulator;
    let at = |method: &'static str, path: &str, body: serde_json::Value| {
        let (control, path) = (simulator.control.clone(), path.to_owned());
        move || -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
            let (control, path, body) = (control.clone(), path.clone(), body.to_string());
            Box::pin(async move {
                let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
                let sent = reqwest::Client::new().request(method, format!("{control}/v1{path}")).body(body).send().await.unwrap();
                assert!(sent.status().is_success(), "{}", sent.text().await.unwrap());
            })
        }
    };
    assert_eq!(told("reset", &at("POST", "/vms/reset/cbt/reset", json!({}))).await, Changes::Unknown(FullReason::CbtReset));
    assert_eq!(
        told("grown", &at("POST", "/vms/grown/disks/2000/grow", json!({"capacity": 96 * MIB}))).await,
        Changes::Unknown(FullReason::Resized)
    );
    assert_eq!(told("replaced", &at("POST", "/vms/replaced/disks/2000/replace", json!({}))).await, Changes::Unknown(FullReason::Replaced));
    let before = simulator.post("/vms/reverted/snapshots", json!({"name": "before", "description": ""})).await;
    let revert = format!("/snapshots/{}/revert", before["ref"].as_str().unwrap());
    let changes = told("reverted", &at("POST", &revert, json!({}))).await;
    assert!(matches!(changes, Changes::Unknown(_)), "{changes:?}");

    // Never tracked: a change ID from another life.
    let control = simulator.control("off").await;
    let taken = control.take(&control.mark(1)).await.unwrap();
    let since =
        Baseline { change_id: "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/4".into(), capacity: None, identity: None, lineage: None };
    assert_eq!(control.changed(&taken.snapshot, DISK, &since).await.unwrap(), Changes::Unknown(FullReason::NotTracked));
}

#[tokio::test]
async fn a_revert_that_the_host_hides_shows_in_the_tree() {
    let simulator = Simulator::start(&[vm("a", json!({})), vm("b", json!({}))]);
    // The branch that was left still stands.
    let control = simulator.control("a").await;
    let first = simulator.post("/vms/a/snapshots", json!({"name": "first", "description": ""})).await;
    simulator.post("/vms/a/snapshots", json!({"name": "second", "description": ""})).await;
    let since = cycle(&control, 1).await;
    simulator.post(&format!("/snapshots/{}/revert", first["ref"].as_str().unwrap()), json!({"hidden": true})).await;
    assert_eq!(next(&control, 2, &since).await, Changes::Unknown(FullReason::Reverted));
    // Another branch: one that was begun after the cycle.
    let control = simulator.control("b").await;
    let first = simulator.post("/vms/b/snapshots", json!({"name": "first", "description": ""})).await;
    simulator.write("b", DISK, 0, MIB).await;
    let since = cycle(&control, 1).await;
    simulator.post("/vms/b/snapshots", json!({"name": "second", "description": ""})).await;
    assert_eq!(next(&control, 2, &since).await, Changes::Unknown(FullReason::ForeignSnapshot), "somebody's snapshot is no revert");
    simulator.post(&format!("/snapshots/{}/revert", first["ref"].as_str().unwrap()), json!({"hidden": true})).await;
    assert_eq!(next(&control, 3, &since).await, Changes::Unknown(FullReason::Reverted));
}

/// The host goes on with the same generation of change IDs, and the new delta has the old one's name: nothing shows it. So a cycle that was
/// built on somebody's snapshot is nothing to start from, until one was built on none.
#[tokio::test]
async fn a_revert_that_nothing_shows_is_reckoned_with() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let control = simulator.control("a").await;
    let before = simulator.post("/vms/a/snapshots", json!({"name": "before", "description": ""})).await;
    simulator.write("a", DISK, 0, MIB).await;
    let since = cycle(&control, 1).await;
    simulator.post(&format!("/snapshots/{}/revert", before["ref"].as_str().unwrap()), json!({"hidden": true})).await;
    simulator.put("/vms/a/power", json!({"state": "on"})).await;
    assert_eq!(next(&control, 2, &since).await, Changes::Unknown(FullReason::ForeignSnapshot));
    simulator.delete(&format!("/snapshots/{}", before["ref"].as_str().unwrap())).await;
    let since = cycle(&control, 3).await;
    simulator.write("a", DISK, 2 * MIB, MIB).await;
    assert_eq!(next(&control, 4, &since).await, Changes::Areas(ExtentSet::from(sectors(2 * MIB, MIB))));
    // One that was taken since is no reason: what is written and undone is in the host's list.
    let since = cycle(&control, 5).await;
    let later = simulator.post("/vms/a/snapshots", json!({"name": "later", "description": ""})).await;
    simulator.write("a", DISK, 4 * MIB, MIB).await;
    simulator.post(&format!("/snapshots/{}/revert", later["ref"].as_str().unwrap()), json!({"hidden": true})).await;
    simulator.put("/vms/a/power", json!({"state": "on"})).await;
    let areas = ExtentSet::from(sectors(4 * MIB, MIB));
    assert!(matches!(next(&control, 6, &since).await, Changes::Areas(found) if found.is_superset(&areas)));
}

#[tokio::test]
async fn faults_of_the_host() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let control = simulator.control("a").await;
    let since = cycle(&control, 1).await;
    simulator.write("a", DISK, MIB, MIB).await;
    let taken = control.take(&control.mark(2)).await.unwrap();
    let asked = async |fault: serde_json::Value| {
        let mut injected = json!({"method": "QueryChangedDiskAreas"});
        injected.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
        simulator.post("/faults", injected).await;
        let changes = control.changed(&taken.snapshot, DISK, &since).await;
        simulator.delete("/faults").await;
        changes
    };
    let areas = Changes::Areas(ExtentSet::from(sectors(MIB, MIB)));
    let family = |key: &str, message: &str| json!({"fault": "FileFault", "message": message, "properties": {"file": "[vmfs] a/a.vmdk", "faultMessage": [{"key": key, "message": message}]}});
    assert_eq!(asked(family("vim.hostd.vmsvc.cbt.noTrack", "")).await, Ok(Changes::Unknown(FullReason::NotTracked)));
    assert_eq!(asked(family("vim.hostd.vmsvc.cbt.noEpoch", "")).await, Ok(Changes::Unknown(FullReason::ChangeIdUnknown)));
    assert_eq!(asked(family("vim.hostd.vmsvc.cbt.cannotGetChanges", "corrupt")).await, Ok(Changes::Unknown(FullReason::CbtCorrupt)));
    let changed_id = json!({"fault": "InvalidArgument", "properties": {"invalidProperty": "changeId"}});
    assert_eq!(asked(changed_id).await, Ok(Changes::Unknown(FullReason::ChangeIdUnknown)));
    let key = json!({"fault": "InvalidArgument", "properties": {"invalidProperty": "deviceKey"}});
    assert_eq!(asked(key).await.unwrap_err().verdict().reason, Reason::SourceChanged);
    // Any other fault is tried again, and passes, or does not.
    assert_eq!(asked(json!({"fault": "FileFault", "properties": {"file": "x"}, "count": 2})).await, Ok(areas.clone()));
    assert_eq!(asked(json!({"fault": "SystemError", "properties": {"reason": "x"}})).await, Ok(Changes::Unknown(FullReason::CbtFails)));
    assert_eq!(
        asked(json!({"fault": "NoPermission", "properties": {"privilegeId": "VirtualMachine.Provisioning.DiskRandomRead"}}))
            .await
            .unwrap_err()
            .verdict()
            .reason,
        Reason::PrivilegesMissing
    );
    // vCenter's own trouble says nothing about the disk.
    assert_eq!(asked(json!({"status": 503})).await.unwrap_err().verdict().reason, Reason::Unreachable);
    assert_eq!(asked(json!({"delayMs": 1})).await, Ok(areas));
}

#[tokio::test]
async fn what_is_allocated_is_a_hint() {
    let simulator = Simulator::start(&[vm("a", json!({})), vm("b", json!({"datastore": "nfs"}))]);
    for (name, told) in [("a", true), ("b", false)] {
        let control = simulator.control(name).await;
        simulator.write(name, DISK, 8 * MIB, MIB).await;
        let taken = control.take(&control.mark(1)).await.unwrap();
        match control.allocated(&taken.snapshot, DISK, 64 * MIB).await {
            Some(areas) => assert!(told && areas.contains(sectors(8 * MIB, MIB)) && areas.bytes() < 16 * MIB, "{areas:?}"),
            None => assert!(!told),
        }
    }
}

#[tokio::test]
async fn changes_are_asked_of_a_snapshot_alone() {
    let simulator = Simulator::start(&[vm("on", json!({})), vm("off", json!({"power": "off"}))]);
    // The host refuses it of a VM that runs; of one that does not it would answer, and the next power-on would make that wrong.
    let control = simulator.control("on").await;
    let since = cycle(&control, 1).await;
    let error = simulator.client().changed_areas(&control.vm().await.unwrap(), None, DISK, 0, &since.change_id).await.unwrap_err();
    assert!(error.is("InvalidPowerState"), "{error}");
    assert_eq!(next(&control, 2, &since).await, Changes::Areas(ExtentSet::new()));

    let control = simulator.control("off").await;
    let since = cycle(&control, 1).await;
    let taken = control.take(&control.mark(2)).await.unwrap();
    assert_eq!(taken.powered_off, Some(true));
    simulator.put("/vms/off/power", json!({"state": "on"})).await;
    simulator.write("off", DISK, MIB, MIB).await;
    // What is written after the snapshot is not in it, so it is not among its changes either.
    assert_eq!(control.changed(&taken.snapshot, DISK, &since).await, Ok(Changes::Areas(ExtentSet::new())));
}

#[tokio::test]
async fn a_disk_is_known_by_its_key_and_uuid_wherever_its_files_go() {
    for resets in [false, true] {
        let simulator = Simulator::with(&[vm("a", json!({}))], json!({"relocateResetsTracking": resets}));
        let control = simulator.control("a").await;
        let since = cycle(&control, 1).await;
        simulator.write("a", DISK, MIB, MIB).await;
        let before = simulator.get("/vms/a").await["disks"][0]["file"].clone();
        simulator.post("/vms/a/relocate", json!({"datastore": "other"})).await;
        let taken = control.take(&control.mark(2)).await.unwrap();
        let disk = taken.devices.disk(DISK).unwrap();
        assert!(disk.backing.file().starts_with("[other]") && Some(disk.backing.file()) != before.as_str(), "{before}");
        assert_eq!(disk.identity(), since.identity.as_deref());
        let changes = control.changed(&taken.snapshot, DISK, &since).await.unwrap();
        let expected = if resets { Changes::Unknown(FullReason::CbtReset) } else { Changes::Areas(ExtentSet::from(sectors(MIB, MIB))) };
        assert_eq!(changes, expected, "the change ID's generation decides, not the move");
    }
}
