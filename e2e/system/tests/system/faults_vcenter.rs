//! What a vCenter does that has a bad day. Nothing is lost by it, and what is waited for is told.

use system::{diary::Diary, fate::Fate, install::APPLIANCE, vm::phase, wait};

use super::*;

const MIB: u64 = 1 << 20;

/// A fault of a VM's tasks.
async fn of_tasks(world: &World, vm: &str, mut fault: serde_json::Value) -> Fate {
    let vm = world.vcenter.vm(vm).await.unwrap();
    fault["on"] = json!("task");
    fault["object"] = json!(vm.mo_ref);
    Fate::vcenter(world, fault).await.unwrap()
}

/// Every cycle of a VM has succeeded: what struck it was waited for, not failed by.
async fn none_failed(replica: &Replica) {
    let cycles = replica.cycles().await.unwrap();
    assert!(cycles.iter().all(|cycle| phase(cycle) == Some(CyclePhase::Succeeded)), "{}", replica.story().await.unwrap());
}

mod alone {
    use super::*;

    #[tokio::test]
    async fn a_vcenter_that_answers_503_is_waited_for() {
        let replica = {
            let (world, _gate) = beside_others().await;
            replicated(&world, "vc-503").await
        };
        let (world, _gate) = alone().await;
        let diary = Diary::keep(&replica, APPLIANCE);
        let everything = json!({ "method": "*", "on": "http", "status": 503 });

        let outage = Fate::vcenter(&world, everything.clone()).await.unwrap();
        replica.sync_now("into-the-outage").await.unwrap();
        // Whether the cycle began before the appliance was looked at is a matter of seconds; either says what it waits for.
        diary.tells("Unreachable", &["503", "tried again", "vCenter's services"], PATIENCE).await.unwrap();
        outage.mend().await.unwrap();
        replica.sync("into-the-outage", PATIENCE).await.unwrap();

        world.vcenter.write(&replica.name, 2000, 0, 16 * MIB, 31).await.unwrap();
        let slow = Fate::slow_reads(&world, &replica.name, 1500).await.unwrap();
        replica.sync_now("in-the-midst").await.unwrap();
        replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();
        // Of this cycle alone: the first outage is over.
        let diary = Diary::keep(&replica, APPLIANCE);
        let outage = Fate::vcenter(&world, everything).await.unwrap();
        diary.tells_by("Transferred", "Unreachable", &["503", "tried again", "vCenter's services"], PATIENCE).await.unwrap();
        slow.mend().await.unwrap();
        outage.mend().await.unwrap();
        replica.sync("in-the-midst", PATIENCE).await.unwrap();
        assert_eq!(replica.equal_now().await.unwrap(), 2);
        none_failed(&replica).await;
    }
}

#[tokio::test]
async fn a_session_that_ends_in_mid_cycle_is_made_anew() {
    let (world, _gate) = beside_others().await;
    let slow = Fate::slow_reads(&world, "session-expired", 1500).await.unwrap();
    let replica = Replica::apply(&world, "session-expired", "").await.unwrap();
    replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();
    let ended = world.vcenter.call(Method::DELETE, "/sessions?user=hawser@vsphere.local", None).await.unwrap();
    assert!(ended["ended"].as_u64().unwrap() >= 2, "the operator's and the gateway's: {ended}");
    slow.mend().await.unwrap();
    replica.succeeded(2, PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    none_failed(&replica).await;
}

#[tokio::test]
async fn tasks_that_fail_are_tried_again_and_slow_ones_are_waited_for() {
    let (world, _gate) = beside_others().await;
    let vm = "tasks";
    // Longer than a lease lasts, and than a call may take.
    const LONG: u32 = 65_000;
    let fails = of_tasks(
        &world,
        vm,
        json!({ "method": "CreateSnapshotEx_Task", "fault": "Timedout", "message": "Operation timed out.", "count": 1 }),
    );
    let fails = fails.await;
    let slow = of_tasks(&world, vm, json!({ "method": "CreateSnapshotEx_Task", "delayMs": LONG, "count": 1 })).await;
    let locked = json!({ "method": "RemoveSnapshot_Task", "fault": "FileLocked", "message": "Unable to access file since it is locked.", "count": 2 });
    let locked = of_tasks(&world, vm, locked).await;
    let long = of_tasks(&world, vm, json!({ "method": "RemoveSnapshot_Task", "delayMs": LONG, "count": 1 })).await;
    let replica = Replica::apply(&world, vm, "").await.unwrap();
    let diary = Diary::keep(&replica, APPLIANCE);

    let failed = diary.tells("TaskFailed", &["CreateSnapshotEx_Task", "Operation timed out", "tried again"], PATIENCE).await.unwrap();
    assert_eq!((failed.condition.as_str(), failed.status.as_str()), ("Transferred", "Unknown"));
    // Who looks at the VM alone is told, too.
    wait::until("the VM repeats what its gateway says", PATIENCE, async || {
        let repeats = |entry: &system::diary::Entry| entry.of == vm && entry.condition == "Replicating" && entry.reason == "TaskFailed";
        let all = diary.all();
        if all.iter().any(repeats) { Ok(()) } else { Err(format!("{all:#?}")) }
    })
    .await
    .unwrap();
    let half = wait::until("the task is told, and how far it is", PATIENCE, async || {
        let cycle = replica.cycles().await?.pop().ok_or("no cycle")?;
        let tasks = cycle.status.and_then(|status| status.source).map(|source| source.tasks).unwrap_or_default();
        let slow = tasks.iter().find(|task| task.method == "CreateSnapshotEx_Task" && task.percent.is_some_and(|percent| percent >= 50));
        slow.map(|_| ()).ok_or_else(|| format!("{tasks:?}"))
    });
    half.await.unwrap();
    let locked_out = diary.tells("SourceBusy", &["locked", "backup", "detach it"], PATIENCE).await.unwrap();
    assert_eq!((locked_out.condition.as_str(), locked_out.status.as_str()), ("SourceReleased", "False"));
    // When it goes on at last, that is what is said.
    let told = |entries: &[system::diary::Entry]| entries.iter().rev().find(|entry| entry.condition == "SourceReleased").cloned();
    wait::until("the removal goes on", PATIENCE, async || match told(&diary.all()) {
        Some(entry) if entry.reason == "RemovingSnapshot" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    replica.succeeded(2, PATIENCE).await.unwrap();
    for (fate, times) in [(&fails, 1), (&slow, 1), (&locked, 2), (&long, 1)] {
        assert_eq!(world.vcenter.hits(fate.id).await.unwrap(), times);
    }
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    none_failed(&replica).await;
}

#[tokio::test]
async fn a_consolidation_that_needs_three_tries_gets_them() {
    let (world, _gate) = beside_others().await;
    let vm = "consolidation";
    let slow = Fate::slow_reads(&world, vm, 1500).await.unwrap();
    let replica = Replica::apply(&world, vm, "").await.unwrap();
    let diary = Diary::keep(&replica, APPLIANCE);
    replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();
    let asked = async || {
        let calls = world.vcenter.call(Method::GET, "/calls", None).await.unwrap();
        calls["ConsolidateVMDisks_Task"]["calls"].as_u64().unwrap_or_default()
    };
    let before = asked().await;
    // The removal leaves its deltas behind, and twice they can't be merged.
    world.vcenter.call(Method::PUT, "/vms/consolidation/consolidation", Some(json!({ "tries": 2 }))).await.unwrap();
    slow.mend().await.unwrap();
    let told = diary.tells("SourceBusy", &["ConsolidateVMDisks_Task", "lock", "backup", "detach it"], PATIENCE).await.unwrap();
    assert_eq!((told.condition.as_str(), told.status.as_str()), ("SourceReleased", "False"));
    diary.tells("Consolidating", &["consolidated"], PATIENCE).await.unwrap();
    replica.succeeded(2, PATIENCE).await.unwrap();
    let tries = asked().await - before;
    assert!(tries >= 3, "{tries}");
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    none_failed(&replica).await;
}
