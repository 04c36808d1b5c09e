//! A gateway against a vCenter: the simulator with its snapshots, its changed block tracking and its refusals. Only VDDK is another one
//! here, since its plugin is not in every distribution; `e2e` has the real plugin.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

#[path = "../../../lib/vsphere/tests/vcenter/program.rs"]
mod program;
mod world;

use blocklog::cycle::Mode;
use crds::replication_cycle::SnapshotState;
use reasons::Reason;
use serde_json::{Value, json};
use vsphere::LoginState;
use worker::gateway::{self, End, Why};

use self::world::{Gateway, MIB, World};

async fn sent(gateway: &Gateway) {
    let result = gateway.run().await;
    assert!(matches!(result, Ok(End::Sent { .. })), "{result:?}");
}

/// Returns when the gateway has said that its snapshot is taken.
async fn snapshot_taken(world: &World, gateway: &Gateway) {
    let source = || gateway.reporter.report().status(&[], None, world.clock.now()).0;
    while source().snapshot.is_none_or(|found| found.state != SnapshotState::Taken) {
        gateway.reporter.news().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_initial_cycle_and_deltas() {
    let world = World::new().await;
    world.write(2000, 0, 2 * MIB, 1).await;
    world.write(2001, MIB, 70_144, 2).await;
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    sent(&gateway).await;
    assert_eq!(world.snapshots().await, Vec::<String>::new());
    let manifest = world.apply(gateway.job.of).await;
    assert!(manifest.disks.values().all(|disk| disk.mode == Mode::Full));
    let (source, conditions) = gateway.reporter.report().status(&[], None, world.clock.now());
    assert!(conditions.iter().all(|condition| condition.status == "True"), "{conditions:?}");
    assert_eq!(source.disks.iter().map(|disk| disk.reason.as_deref()).collect::<Vec<_>>(), [Some("NoBaseline"); 2]);

    // What the guest writes is what goes over, and nothing else.
    world.write(2000, 5 * MIB, 128 << 10, 3).await;
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    sent(&gateway).await;
    let manifest = world.apply(gateway.job.of).await;
    assert!(manifest.disks.values().all(|disk| disk.mode == Mode::Changed));
    let read: u64 = manifest.disks.values().map(|disk| disk.figures.read).sum();
    assert!((128 << 10..=256 << 10).contains(&read), "{read}");

    // Nothing has changed: no disk is opened.
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    sent(&gateway).await;
    let manifest = world.apply(gateway.job.of).await;
    assert!(manifest.disks.values().all(|disk| disk.segments.is_empty()));
}

/// A host whose change IDs do not show that the VM was taken back: the baseline remembers what the last cycle was built on, and that branch still
/// stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_revert_is_seen_by_the_lineage() {
    let world = World::new().await;
    world.write(2000, 0, MIB, 1).await;
    let first = world.ask("POST", "/vms/web/snapshots", json!({"name": "before the upgrade"})).await;
    world.write(2000, 2 * MIB, MIB, 2).await;
    world.ask("POST", "/vms/web/snapshots", json!({"name": "after the upgrade"})).await;
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    sent(&gateway).await;
    world.apply(gateway.job.of).await;
    let back = format!("/snapshots/{}/revert", first["ref"].as_str().unwrap());
    world.ask("POST", &back, json!({"hidden": true})).await;
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    sent(&gateway).await;
    let manifest = world.apply(gateway.job.of).await;
    assert!(manifest.disks.values().all(|disk| disk.mode == Mode::Full));
    let (source, _) = gateway.reporter.report().status(&[], None, world.clock.now());
    assert_eq!(source.disks[0].reason.as_deref(), Some("Reverted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_leaves_its_snapshot_to_a_successor() {
    let world = World::new().await;
    world.write(2000, 0, 8 * MIB, 1).await;
    let of = world.cycle().await;
    let first = world.gateway(of, world.client("sandbox"));
    killed_in_transfer(&world, &first).await;
    assert_eq!(world.snapshots().await.len(), 1);
    let second = world.gateway(of, world.client("sandbox"));
    sent(&second).await;
    assert_eq!(world.snapshots().await, Vec::<String>::new());
    let manifest = world.apply(of).await;
    let epochs: std::collections::BTreeSet<u32> =
        manifest.disks.values().flat_map(|disk| &disk.segments).map(|segment| segment.epoch.0).collect();
    assert_eq!(epochs.into_iter().collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_cycle_leaves_no_snapshot_and_no_manifest() {
    let world = World::new().await;
    world.write(2000, 0, 8 * MIB, 1).await;
    let of = world.cycle().await;
    let gateway = world.gateway(of, world.client("sandbox"));
    killed_in_transfer(&world, &gateway).await;
    let end = gateway::cancel(&gateway.env, gateway.control.as_ref(), &gateway.job, Why::NotWanted(Reason::Cancelled)).await;
    assert_eq!(end, Ok(End::Failed { reason: Reason::Cancelled }));
    assert_eq!(world.snapshots().await, Vec::<String>::new());
    // The next one covers the same ground.
    let next = world.gateway(world.cycle().await, world.client("sandbox"));
    assert!(next.job.of.cycle > of.cycle);
    sent(&next).await;
    // One that is sent stays sent, whatever is asked.
    let end = gateway::cancel(&next.env, next.control.as_ref(), &next.job, Why::NotWanted(Reason::Cancelled)).await;
    assert!(matches!(end, Ok(End::Sent { .. })), "{end:?}");
    world.apply(next.job.of).await;
}

/// Drops a run when it has read something, as a kill would.
async fn killed_in_transfer(world: &World, gateway: &Gateway) {
    tokio::select! {
        _ = gateway.run() => panic!("it was to be stopped before"),
        () = async {
            while gateway.reporter.report().status(&[], None, world.clock.now()).0.uploaded_bytes.unwrap_or_default() == 0 {
                gateway.reporter.news().await;
            }
        } => {}
    }
    gateway.control.close().await;
    // Its lease was not given back, and the store's clock is not ours to move.
    blocklog::store::LogStore::break_lease(world.store.as_ref(), &blocklog::names::state(gateway.job.of)).await.unwrap();
}

/// A snapshot that has to go for its datastore's sake: what was read of disks that are compared in full is not read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_has_to_go_leaves_what_was_read() {
    let world = World::new().await;
    world.write(2000, 0, 8 * MIB, 1).await;
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    killed_in_transfer(&world, &gateway).await;
    let why = Why::SnapshotHasToGo(Reason::DatastoreFull);
    let end = gateway::cancel(&gateway.env, gateway.control.as_ref(), &gateway.job, why).await;
    assert!(matches!(end, Ok(End::Sent { .. })), "{end:?}");
    assert_eq!(world.snapshots().await, Vec::<String>::new());
    let manifest = world.apply_partial(gateway.job.of).await;
    let uploaded: u64 = manifest.disks.values().map(|disk| disk.figures.uploaded).sum();
    assert!(manifest.partial() && uploaded > 0, "{uploaded}");
    // The next one sends the rest, and finds in place what is.
    let next = world.gateway(world.cycle().await, world.client("sandbox"));
    sent(&next).await;
    let rest = world.apply(next.job.of).await;
    let in_place: u64 = rest.disks.values().map(|disk| disk.figures.in_place).sum();
    assert!(in_place > 0, "all of it was sent again");
    // A delta that is cut off has nothing that could be applied: its snapshot's changes count as a whole, or not at all.
    world.write(2000, 0, 8 * MIB, 2).await;
    let delta = world.gateway(world.cycle().await, world.client("sandbox"));
    killed_in_transfer(&world, &delta).await;
    let end = gateway::cancel(&delta.env, delta.control.as_ref(), &delta.job, why).await;
    assert_eq!(end, Ok(End::Failed { reason: Reason::DatastoreFull }));
    assert_eq!(world.snapshots().await, Vec::<String>::new());
}

/// A snapshot that somebody else has removed, and that left its deltas behind: whoever succeeds the gateway merges them, or the VM would write to
/// them for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_consolidates_what_a_removed_snapshot_has_left() {
    let world = World::new().await;
    world.write(2000, 0, 8 * MIB, 1).await;
    let of = world.cycle().await;
    let first = world.gateway(of, world.client("sandbox"));
    killed_in_transfer(&world, &first).await;
    let snapshot = world.ask("GET", "/vms/web", Value::Null).await["snapshots"][0]["ref"].as_str().unwrap().to_owned();
    world.ask("PUT", "/vms/web/consolidation", json!({"tries": 1})).await;
    world.ask("DELETE", &format!("/snapshots/{snapshot}"), Value::Null).await;
    assert_eq!(world.ask("GET", "/vms/web", Value::Null).await["consolidationNeeded"], true);
    let second = world.gateway(of, world.client("sandbox"));
    let end = second.run().await;
    assert!(matches!(&end, Ok(End::Sent { .. } | End::Failed { .. })), "{end:?}");
    assert_eq!(world.ask("GET", "/vms/web", Value::Null).await["consolidationNeeded"], false);
}

/// Row 25: a disk that left the VM after the cycle was claimed, before its snapshot was taken. No other try could end otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_not_in_the_snapshot_ends_the_cycle() {
    let world = World::new().await;
    world.write(2000, 0, MIB, 1).await;
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    world.ask("DELETE", "/vms/web/disks/2001", Value::Null).await;
    let error = gateway.run().await.unwrap_err();
    assert_eq!((error.reason(), error.is_for_good()), (Reason::DisksChanged, true), "{error}");
    assert_eq!(gateway.run().await, Ok(End::Failed { reason: Reason::DisksChanged }));
    assert_eq!(world.snapshots().await, Vec::<String>::new());
}

/// The truth about the replica is gone: its cycle ends all the same, and its snapshot goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_without_ledger_or_readable_state_leaves_no_snapshot() {
    let world = World::new().await;
    world.write(2000, 0, 8 * MIB, 1).await;
    let lost = world.gateway(world.cycle().await, world.client("sandbox"));
    killed_in_transfer(&world, &lost).await;
    let store: &dyn blocklog::store::LogStore = world.store.as_ref();
    let name = blocklog::names::ledger(lost.job.of.vm);
    let ledger = store.get(&name).await.unwrap().unwrap();
    store.delete(&name, None).await.unwrap();
    assert_eq!(lost.run().await, Ok(End::Failed { reason: Reason::BlobMissing }));
    assert_eq!(world.snapshots().await, Vec::<String>::new());
    store.put(&name, ledger.body, blocklog::store::When::Absent, None).await.unwrap();

    let damaged = world.gateway(world.cycle().await, world.client("sandbox"));
    killed_in_transfer(&world, &damaged).await;
    let name = blocklog::names::state(damaged.job.of);
    store.put(&name, bytes::Bytes::from_static(b"{}"), blocklog::store::When::Always, None).await.unwrap();
    assert_eq!(damaged.run().await.unwrap_err().reason(), Reason::BlobDamaged);
    assert_eq!(world.snapshots().await.len(), 1);
    gateway::give_up(damaged.control.as_ref(), &damaged.job).await.unwrap();
    assert_eq!(world.snapshots().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_named() {
    let world = World::new().await;
    let of = world.cycle().await;
    let wrong = world.client("wrong");
    let gateway = world.gateway(of, wrong.clone());
    let error = gateway.run().await.unwrap_err();
    assert_eq!(error.reason(), Reason::WrongCredentials);
    let conditions = gateway.conditions();
    assert_eq!((conditions[0].1.as_str(), conditions[0].2.as_str()), ("Unknown", "WrongCredentials"));
    assert!(conditions[0].3.contains("Correct the Secret"), "{conditions:?}");
    assert!(matches!(wrong.login_state(), LoginState::Refused(_)));
    // It is not tried again by itself.
    gateway.run().await.unwrap_err();
    let calls = world.ask("GET", "/calls", Value::Null).await;
    assert_eq!(calls["Login"]["calls"].as_i64(), Some(1), "{calls}");

    let privilege = json!({"privilegeId": "VirtualMachine.State.CreateSnapshot"});
    let fault = json!({"method": "CreateSnapshotEx_Task", "on": "call", "fault": "NoPermission", "properties": privilege, "count": 1});
    world.ask("POST", "/faults", fault).await;
    let gateway = world.gateway(of, world.client("sandbox"));
    gateway.run().await.unwrap_err();
    let conditions = gateway.conditions();
    assert_eq!(conditions[0].2, "PrivilegesMissing", "{conditions:?}");
    assert!(conditions[0].3.contains("VirtualMachine.State.CreateSnapshot"), "{conditions:?}");
    // Mended, the same cycle goes on.
    let gateway = world.gateway(of, world.client("sandbox"));
    sent(&gateway).await;
    world.apply(of).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_an_admin_removes_fails_the_cycle() {
    let world = World::new().await;
    world.write(2000, 0, 8 * MIB, 1).await;
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    // Its disks do not open before that.
    let hold = world.folder.path().join("hold");
    std::fs::write(&hold, "").unwrap();
    let removed = async {
        snapshot_taken(&world, &gateway).await;
        let snapshot = world.snapshots().await.remove(0);
        world.ask("DELETE", &format!("/snapshots/{snapshot}"), Value::Null).await;
        std::fs::remove_file(&hold).unwrap();
    };
    let (result, ()) = tokio::join!(gateway.run(), removed);
    assert_eq!(result, Ok(End::Failed { reason: Reason::SnapshotLost }));
    let conditions = gateway.conditions();
    assert_eq!((conditions[0].1.as_str(), conditions[0].2.as_str()), ("False", "SnapshotLost"));
    assert_eq!(conditions[1].1, "True");
    let next = world.gateway(world.cycle().await, world.client("sandbox"));
    sent(&next).await;
    world.apply(next.job.of).await;
}

/// What was said of a cycle whose VM somebody deletes: it ends, nothing of the replica is lost, and the next one is not tried for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_deleted_under_a_cycle_costs_the_replica_nothing() {
    let world = World::new().await;
    world.write(2000, 0, 2 * MIB, 1).await;
    let first = world.gateway(world.cycle().await, world.client("sandbox"));
    sent(&first).await;
    world.apply(first.job.of).await;
    let before = world.ledger().await;

    world.write(2000, 0, 2 * MIB, 2).await;
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    let hold = world.folder.path().join("hold");
    std::fs::write(&hold, "").unwrap();
    let deleted = async {
        snapshot_taken(&world, &gateway).await;
        world.ask("DELETE", "/vms/web", Value::Null).await;
        std::fs::remove_file(&hold).unwrap();
    };
    let (result, ()) = tokio::join!(gateway.run(), deleted);
    // Where it had not yet asked what has changed, it hears of the VM first, and the next run notes that, as a gateway begins it at once.
    let (result, word) = match result {
        Err(error) if error.is_for_good() => (gateway.run().await, Reason::VmNotFound),
        result => (result, Reason::SnapshotLost),
    };
    assert_eq!(result, Ok(End::Failed { reason: word }));
    let conditions = gateway.conditions();
    assert_eq!((conditions[0].1.as_str(), conditions[1].1.as_str()), ("False", "True"), "{conditions:?}");

    // One that begins later fails at once, by a word that says why; so does one that is cancelled.
    let late = world.gateway(world.cycle().await, world.client("sandbox"));
    let error = late.run().await.unwrap_err();
    assert_eq!((error.reason(), error.is_for_good()), (Reason::VmNotFound, true), "{error}");
    assert_eq!(late.run().await, Ok(End::Failed { reason: Reason::VmNotFound }));
    let cancelled = world.gateway(world.cycle().await, world.client("sandbox"));
    let end = gateway::cancel(&cancelled.env, cancelled.control.as_ref(), &cancelled.job, Why::NotWanted(Reason::Cancelled)).await;
    assert_eq!(end, Ok(End::Failed { reason: Reason::Cancelled }));
    assert_eq!(world.ledger().await, before, "the replica, its recovery point and its baseline are as they were");
}

/// A host that has no session to spare is waited for; ten seconds, as in production.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_a_session_is_waited_for() {
    let world = World::new().await;
    world.write(2000, 0, MIB, 1).await;
    std::fs::write(world.folder.path().join("busy"), "").unwrap();
    let gateway = world.gateway(world.cycle().await, world.client("sandbox"));
    let begun = world.clock.monotonic();
    sent(&gateway).await;
    assert!(world.clock.monotonic() - begun >= std::time::Duration::from_secs(10));
    assert!(!world.folder.path().join("busy").exists(), "it was never refused");
    world.apply(gateway.job.of).await;
}
