//! What VMware and its administrators do to a VM between and during cycles. Each ends with a replica that is equal, and a reason that was told.

use system::{
    fate::Fate,
    install::{NAMESPACE, ready},
    own::Own,
    vm::{Replica, phase, snapshot},
    wait,
};

use super::*;

const MIB: u64 = 1 << 20;

/// Makes every read of the VM's disks slow, so that a cycle is met in its midst; gives the fault's id.
pub(super) async fn slow_reads(replica: &Replica) -> i64 {
    let vm = replica.world.vcenter.vm(&replica.name).await.unwrap();
    replica.world.vcenter.read_fault(json!({ "op": "read", "vm": vm.mo_ref, "delayMs": 1500 })).await.unwrap()
}

#[tokio::test]
async fn change_tracking_that_was_reset_has_all_compared() {
    let (world, _gate) = beside_others().await;
    let replica = replicated(&world, "cbt-reset").await;
    world.vcenter.call(Method::POST, "/vms/cbt-reset/cbt/reset", Some(json!({}))).await.unwrap();
    world.vcenter.write("cbt-reset", 2000, 20 * MIB, MIB, 7).await.unwrap();
    replica.sync("after", PATIENCE).await.unwrap();
    replica.told("ChangeTrackingReset", PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    // Compared in full, but what is in place is not sent again.
    let last = replica.cycles().await.unwrap().pop().unwrap();
    let uploaded = last.status.unwrap().source.unwrap().uploaded_bytes.unwrap();
    assert!(uploaded < 4 << 20, "{uploaded} bytes were sent for a change of 1 MiB");
}

#[tokio::test]
async fn a_snapshot_that_an_administrator_removes_ends_its_cycle() {
    let (world, _gate) = beside_others().await;
    let replica = replicated(&world, "snapshot-removed").await;
    world.vcenter.write(&replica.name, 2000, 0, 24 * MIB, 8).await.unwrap();
    let slow = slow_reads(&replica).await;
    replica.sync_now("removed").await.unwrap();
    replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();
    let snapshot = replica.world.vcenter.snapshots(&replica.name).await.unwrap().remove(0);
    world.vcenter.call(Method::DELETE, &format!("/snapshots/{}", snapshot.mo_ref), None).await.unwrap();
    replica.told("SnapshotLost", PATIENCE).await.unwrap();
    world.vcenter.mend_read(slow).await.unwrap();
    replica.sync("after", PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
}

#[tokio::test]
async fn a_revert_has_all_compared() {
    let (world, _gate) = beside_others().await;
    let told = reverted(&world, "reverted", false).await;
    assert!(["Reverted", "ChangeTrackingReset"].contains(&told.as_str()), "{told}");
}

#[tokio::test]
async fn a_revert_that_the_host_hides_from_change_tracking_is_seen() {
    let (world, _gate) = beside_others().await;
    assert_eq!(reverted(&world, "reverted-hidden", true).await, "ForeignSnapshot");
}

/// A person's snapshot, a cycle on top of it, and back to it. Gives the reason for which the disks were compared in full.
async fn reverted(world: &World, name: &str, hidden: bool) -> String {
    let replica = replicated(world, name).await;
    let person = world.vcenter.call(Method::POST, &format!("/vms/{name}/snapshots"), Some(json!({ "name": "before the update" }))).await;
    let person = person.unwrap()["ref"].as_str().unwrap().to_owned();
    world.vcenter.write(name, 2000, 4 * MIB, 2 * MIB, 9).await.unwrap();
    replica.sync("on-top", PATIENCE).await.unwrap();
    world.vcenter.call(Method::POST, &format!("/snapshots/{person}/revert"), Some(json!({ "hidden": hidden }))).await.unwrap();
    // A snapshot without memory leaves the VM powered off.
    world.vcenter.call(Method::PUT, &format!("/vms/{name}/power"), Some(json!({ "state": "on" }))).await.unwrap();
    world.vcenter.write(name, 2001, 4 * MIB, MIB, 10).await.unwrap();
    replica.sync("after", PATIENCE).await.unwrap();
    world.vcenter.call(Method::DELETE, &format!("/snapshots/{person}"), None).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    let last = replica.cycles().await.unwrap().pop().unwrap();
    let reason = last.status.unwrap().source.unwrap().disks.remove(0).reason.unwrap();
    let words = replica.told(&reason, PATIENCE).await.unwrap();
    assert!(words.contains("in full") && words.contains("2000"), "{words}");
    reason
}

/// What the guest writes while a snapshot stands is the next cycle's business.
#[tokio::test]
async fn a_replica_is_its_snapshot_and_not_what_was_written_since() {
    let (world, _gate) = beside_others().await;
    let vm = "written-meanwhile";
    let slow = Fate::slow_reads(&world, vm, 1000).await.unwrap();
    // Each stands long enough to be looked at.
    let reference = world.vcenter.vm(vm).await.unwrap().mo_ref;
    let removal = json!({ "on": "task", "object": reference, "method": "RemoveSnapshot_Task", "delayMs": 4000 });
    let _removal = Fate::vcenter(&world, removal).await.unwrap();
    let replica = Replica::apply(&world, vm, "").await.unwrap();
    replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();
    for (disk, offset) in [(2000, MIB / 2), (2001, 4 * MIB)] {
        world.vcenter.write(vm, disk, offset, MIB, 14).await.unwrap();
    }
    slow.mend().await.unwrap();
    let first = wait::until("the first cycle has succeeded", PATIENCE, async || {
        let first = replica.cycles().await?.into_iter().next().ok_or("no cycle")?;
        if phase(&first) == Some(CyclePhase::Succeeded) { Ok(first) } else { Err(replica.story().await?) }
    })
    .await
    .unwrap();
    // The next one writes to the seeds only when the turn before it, of a minute, has ended.
    let held = replica.oracle.of(&snapshot(&first).unwrap().0).expect("the snapshot was looked at");
    let judged = replica.judge(&held).await.unwrap();
    assert_eq!((judged.equal, judged.differs.len()), (2, 0), "{judged:?}");
    let since = replica.source().await.unwrap();
    assert!(held.iter().all(|(disk, hash)| since[disk] != *hash), "the guest has written to both disks since");
    replica.succeeded(2, PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    let second = replica.cycles().await.unwrap().remove(1);
    assert_eq!(second.status.unwrap().source.unwrap().changed_bytes, Some(i64::try_from(2 * MIB).unwrap()));
}

/// What is read goes on by the new host, and counts there; the old one has room for who waits.
#[tokio::test]
async fn a_vm_that_vmotion_takes_away_is_read_on() {
    let (mut world, _gate) = beside_others().await;
    let own = Own::apart(&mut world, "hosts").await.unwrap();
    own.apply(|spec| {
        spec["limits"] = json!({ "disksPerHost": 2 });
        (spec["workers"], spec["applier"]) = (json!({ "replicas": 1 }), json!({ "replicas": 1 }));
    })
    .await
    .unwrap();
    ready(&world.sandbox, NAMESPACE, "hosts", PATIENCE).await.unwrap();
    let stalled = Fate::stalled_reads(&world, "vmotion", 6).await.unwrap();
    let moves = own.replicate("vmotion", "").await.unwrap();
    moves.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();

    let waits = own.replicate("waits-for-host", "").await.unwrap();
    let wait = wait::until("the second VM waits for the host", PATIENCE, async || {
        let status = waits.object().await?.status.unwrap_or_default();
        let wait = status.waiting_for.filter(|wait| wait.reason == "HostFull");
        wait.ok_or(waits.story().await?)
    })
    .await
    .unwrap();
    assert_eq!((wait.resource.as_deref(), wait.used, wait.capacity), (Some("esx-1.sandbox"), Some(2), Some(2)));
    assert_eq!((wait.holders, wait.position), (vec!["vmotion".to_owned()], Some(1)));
    assert!(waits.cycles().await.unwrap().is_empty());
    waits.told("HostFull", PATIENCE).await.unwrap();

    world.vcenter.call(Method::POST, "/vms/vmotion/migrate", Some(json!({ "host": "esx-2.sandbox" }))).await.unwrap();
    wait::until("the other begins", PATIENCE, async || match waits.cycles().await?.len() {
        0 => Err(waits.story().await?),
        _ => Ok(()),
    })
    .await
    .unwrap();
    let first = moves.cycles().await.unwrap().remove(0);
    assert_eq!(phase(&first), Some(CyclePhase::Transfer), "the other has waited for the host, not for the end of the cycle");
    stalled.mend().await.unwrap();
    for replica in [&moves, &waits] {
        replica.succeeded(2, PATIENCE).await.unwrap();
        assert_eq!(replica.equal_now().await.unwrap(), 2);
    }
    // The cycle was read on where it was.
    let first = moves.cycles().await.unwrap().remove(0);
    assert_eq!((first.spec.cycle, phase(&first)), (1, Some(CyclePhase::Succeeded)));
}

#[tokio::test]
async fn a_disk_that_grew_gets_a_new_seed() {
    let (world, _gate) = beside_others().await;
    let replica = replicated(&world, "grown").await;
    let before = world.azure.disks().await.unwrap();
    world.vcenter.call(Method::POST, "/vms/grown/disks/2001/grow", Some(json!({ "capacity": 40 * MIB }))).await.unwrap();
    world.vcenter.write("grown", 2001, 34 * MIB, MIB, 11).await.unwrap();
    replica.told("SourceGrown", PATIENCE).await.unwrap();
    replica.sync("after", PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    // The old seed is not left behind.
    let mine = |disks: &[String]| disks.iter().filter(|id| id.to_lowercase().contains("hawser-grown-")).count();
    assert_eq!(mine(&before), 2);
    wait::until("the old seed is gone", PATIENCE, async || {
        let disks = world.azure.disks().await?;
        if mine(&disks) == 2 { Ok(()) } else { Err(format!("{disks:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_disk_that_was_added_is_replicated_too() {
    let (world, _gate) = beside_others().await;
    let replica = replicated(&world, "added").await;
    let added = world.vcenter.call(Method::POST, "/vms/added/disks", Some(json!({ "size": 16 * MIB }))).await.unwrap();
    let key = added["key"].as_i64().unwrap();
    world.vcenter.write("added", key, 2 * MIB, 3 * MIB, 12).await.unwrap();
    replica.told("DisksChanged", PATIENCE).await.unwrap();
    replica.sync("after", PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 3);
}

#[tokio::test]
async fn a_disk_that_was_removed_takes_no_part_and_keeps_its_seed() {
    let (world, _gate) = beside_others().await;
    let replica = replicated(&world, "removed").await;
    world.vcenter.call(Method::DELETE, "/vms/removed/disks/2001", None).await.unwrap();
    world.vcenter.write("removed", 2000, 5 * MIB, MIB, 13).await.unwrap();
    replica.told("DisksChanged", PATIENCE).await.unwrap();
    replica.sync("after", PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 1);
    let seeds = world.azure.disks().await.unwrap();
    assert_eq!(seeds.iter().filter(|id| id.to_lowercase().contains("hawser-removed-")).count(), 2, "its seed stays");
    assert!(replica.cycles().await.unwrap().iter().all(|cycle| phase(cycle) == Some(CyclePhase::Succeeded)));
}

/// The status and the reason of the condition `Final`.
async fn last_word(replica: &Replica) -> Option<(String, String)> {
    let status = replica.object().await.unwrap().status.unwrap();
    status.conditions.into_iter().find(|one| one.type_ == "Final").map(|one| (one.status, one.reason))
}

/// Switches the VM on or off, and waits until the operator has seen it.
async fn power(replica: &Replica, state: &str, shown: &str) {
    let (world, path) = (&replica.world, format!("/vms/{}/power", replica.name));
    world.vcenter.call(Method::PUT, &path, Some(json!({ "state": state }))).await.unwrap();
    wait::until(&format!("{} is shown as {shown}", replica.name), PATIENCE, async || {
        let power = replica.object().await?.status.and_then(|status| status.vm?.power_state).unwrap_or_default();
        if power == shown { Ok(()) } else { Err(power) }
    })
    .await
    .unwrap();
}

/// A cycle of a VM that is off, after which it is final. Another test may end the session by which it is watched meanwhile: then the next one tells.
async fn final_after_a_cycle(replica: &Replica, token: &str) {
    for round in 0..4 {
        replica.sync(&format!("{token}-{round}"), PATIENCE).await.unwrap();
        let said = replica.says("Final", "AsExpected", Duration::from_secs(20)).await;
        if said.is_ok() {
            assert_eq!(last_word(replica).await.unwrap().0, "True");
            return;
        }
    }
    panic!("{} does not get final: {}", replica.name, replica.story().await.unwrap());
}

/// Whether nothing was written since is read from the VM's power: vCenter calls every snapshot `poweredOff` that has no memory.
#[tokio::test]
async fn a_vm_is_final_only_when_it_was_off_before_its_cycle() {
    let (world, _gate) = beside_others().await;
    let replica = replicated(&world, "final").await;
    let was_off = |cycle: &crds::ReplicationCycle| cycle.status.clone()?.source?.snapshot?.powered_off;
    let ran = replica.cycles().await.unwrap();
    assert!(ran.iter().all(|cycle| was_off(cycle) != Some(true)), "it runs: {:?}", ran.iter().map(was_off).collect::<Vec<_>>());
    assert_eq!(last_word(&replica).await, None, "nobody has shut it down");

    // It runs, writes, and is shut down: what it wrote is not in the replica.
    world.vcenter.write(&replica.name, 2000, 20 * MIB, MIB, 41).await.unwrap();
    power(&replica, "off", "PoweredOff").await;
    assert_eq!(last_word(&replica).await, None, "it has had no cycle since");
    final_after_a_cycle(&replica, "off").await;
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    assert_eq!(was_off(replica.cycles().await.unwrap().last().unwrap()), Some(true));

    // What it may have written while it was on does not go by switching it off.
    power(&replica, "on", "PoweredOn").await;
    replica.says("Final", "Diverged", PATIENCE).await.unwrap();
    world.vcenter.write(&replica.name, 2001, 4 * MIB, MIB, 42).await.unwrap();
    power(&replica, "off", "PoweredOff").await;
    assert_eq!(last_word(&replica).await, Some(("False".to_owned(), "Diverged".to_owned())));
    final_after_a_cycle(&replica, "again").await;
    assert_eq!(replica.equal_now().await.unwrap(), 2);
}
