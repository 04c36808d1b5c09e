//! What Azure does that has a bad day. Nothing is lost by it, and what is waited for is told.

use system::{
    diary::Diary,
    fate::Fate,
    install::{APPLIANCE, TENANT, ready},
    own::Own,
    vm::{Replica, phase},
    wait,
};

use super::*;

const MIB: u64 = 1 << 20;

/// Every cycle of a VM has succeeded: what struck it was waited for, not failed by.
async fn none_failed(replica: &Replica) {
    let cycles = replica.cycles().await.unwrap();
    assert!(cycles.iter().all(|cycle| phase(cycle) == Some(CyclePhase::Succeeded)), "{}", replica.story().await.unwrap());
}

/// The id of a VM's seed disk.
async fn seed(replica: &Replica, disk: u32) -> String {
    let ledger = replica.world.log.ledger(replica.id().await.unwrap()).await.unwrap().unwrap();
    ledger.seeds[&blocklog::ids::DiskKey(disk)].id.clone()
}

#[tokio::test]
async fn what_resource_manager_refuses_fails_or_drops_is_tried_again() {
    let (world, _gate) = beside_others().await;
    // Each call that makes one of the seed disks meets the next of these.
    let plan = [
        json!({ "kind": "answer", "status": 429, "code": "TooManyRequests", "message": "slow down", "retryAfter": 21 }),
        json!({ "kind": "answer", "status": 409, "code": "Conflict", "message": "an operation is in progress" }),
        json!({ "kind": "answer", "status": 500, "code": "InternalServerError", "message": "a moment, please" }),
        json!({ "kind": "failOperation", "code": "InternalExecutionError", "message": "the operation got lost" }),
        json!({ "kind": "drop", "after": true }),
    ];
    let mut skip = 0;
    let mut fates = Vec::new();
    for effect in plan {
        // As often as it is tried within one call.
        let times = if effect["status"] == 500 { 4 } else { 1 };
        let fault = json!({ "method": "PUT", "path": "*/disks/hawser-arm-faults-*", "times": times, "skip": skip, "effect": effect });
        fates.push(Fate::arm(&world, fault).await.unwrap());
        skip += times;
    }
    // Each seed is opened once to be formatted; then comes the order.
    let refused = json!({ "kind": "answer", "status": 429, "code": "TooManyRequests", "message": "slow down", "retryAfter": 21 });
    let order = json!({ "method": "POST", "path": "*/disks/hawser-arm-faults-*/beginGetAccess", "times": 1, "skip": 2, "effect": refused });
    fates.push(Fate::arm(&world, order).await.unwrap());
    let replica = Replica::apply(&world, "arm-faults", "").await.unwrap();
    let diary = Diary::keep(&replica, APPLIANCE);

    let throttled = diary.tells("Throttled", &["PUT", "hawser-arm-faults", "left alone until", "then it goes on"], PATIENCE).await.unwrap();
    assert_eq!((throttled.of.as_str(), throttled.status.as_str()), ("arm-faults", "False"));
    diary.tells("ServerFailed", &["Conflict", "an operation is in progress"], PATIENCE).await.unwrap();
    // The next two are the same reason in other words, which alone are not written each time: that they have struck is seen below.
    diary.tells("Throttled", &["beginGetAccess", "left alone until"], PATIENCE).await.unwrap();
    replica.told("Throttled", PATIENCE).await.unwrap();
    replica.told("ServerFailed", PATIENCE).await.unwrap();
    replica.succeeded(2, PATIENCE).await.unwrap();
    let left = world.azure.call(Method::GET, "/arm/faults", None).await.unwrap();
    let mine = left.as_array().unwrap().iter().filter(|fault| fault["fault"]["path"].as_str().unwrap().contains("arm-faults"));
    assert_eq!(mine.count(), 0, "each has struck: {left}");
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    // The one whose answer was dropped was found, not made twice.
    let seeds = world.azure.disks().await.unwrap();
    assert_eq!(seeds.iter().filter(|id| id.to_lowercase().contains("hawser-arm-faults-")).count(), 2);
    none_failed(&replica).await;
}

#[tokio::test]
async fn a_role_that_is_given_again_takes_its_minute_and_all_goes_on() {
    let (world, _gate) = beside_others().await;
    // Another than that of the others, and than the one whose roles change at once.
    let principal = "77777777-7777-4777-8777-777777777777";
    let role = async |method: Method, at_once: bool| {
        let body = json!({ "clientId": principal, "role": "Owner", "atOnce": at_once });
        world.azure.call(method, "/arm/roles", Some(body)).await
    };
    let _ = role(Method::POST, true).await;
    let own = Own::new(&world, "delayed");
    own.secret("delayed-azure", json!({ "clientSecret": "sandbox" })).await.unwrap();
    let credentials =
        json!({ "type": "ClientSecret", "tenantId": TENANT, "clientId": principal, "clientSecretRef": { "name": "delayed-azure" } });
    own.apply(|spec| {
        spec["azure"]["credentials"] = credentials;
        spec["workers"] = json!({ "replicas": 1 });
    })
    .await
    .unwrap();
    ready(&world.sandbox, "hawser", &own.name, PATIENCE).await.unwrap();
    let slow = Fate::slow_reads(&world, "rbac-delay", 1500).await.unwrap();
    let replica = own.replicate("rbac-delay", "").await.unwrap();
    let diary = Diary::keep(&replica, &own.name);
    replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();

    // Taken away while the seeds stand and their disks are read: the order needs it.
    role(Method::DELETE, true).await.unwrap();
    slow.mend().await.unwrap();
    diary.tells("RolesMissing", &["Microsoft.Compute/disks/beginGetAccess/action", "assign it a role"], PATIENCE).await.unwrap();
    wait::until("appliance and VM say so", PATIENCE, async || {
        let all = diary.all();
        let say = |of, condition| all.iter().any(|entry| entry.of == of && entry.condition == condition && entry.reason == "RolesMissing");
        if say("rbac-delay", "Replicating") && say("delayed", "AzurePermissions") { Ok(()) } else { Err(format!("{all:#?}")) }
    })
    .await
    .unwrap();
    role(Method::POST, false).await.unwrap();
    let given = wait::now();
    replica.succeeded(2, PATIENCE).await.unwrap();
    assert!(given.elapsed() > Duration::from_secs(55), "the role held at once: {:?}", given.elapsed());
    replica.told("RolesMissing", PATIENCE).await.unwrap();

    // What the role allows, and not everybody in Azure knows yet.
    let words = "The client does not have authorization to perform action 'Microsoft.Compute/disks/beginGetAccess/action'. If access was \
                 recently granted, please refresh your credentials.";
    let not_yet = json!({ "kind": "answer", "status": 403, "code": "AuthorizationFailed", "message": words });
    let not_yet = json!({ "method": "POST", "path": "*/disks/hawser-rbac-delay-*/beginGetAccess", "times": 1, "effect": not_yet });
    let _not_yet = Fate::arm(&world, not_yet).await.unwrap();
    // Only where something has changed is access needed.
    world.vcenter.write(&replica.name, 2000, 0, 1 << 20, 31).await.unwrap();
    replica.sync("known-everywhere", PATIENCE).await.unwrap();
    let pending = diary.tells("RolesPending", &["beginGetAccess", "tried again"], PATIENCE).await.unwrap();
    assert_eq!(pending.of, "rbac-delay", "{pending:?}");
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    none_failed(&replica).await;
}

/// What a disk's host has counted.
async fn counted(world: &World, id: &str, what: &str) -> u64 {
    let all = world.azure.call(Method::GET, "/disks", None).await.unwrap();
    let mine = all["disks"].as_array().unwrap().iter().find(|disk| disk["id"].as_str().is_some_and(|it| it.eq_ignore_ascii_case(id)));
    mine.unwrap()["counts"][what].as_u64().unwrap()
}

/// Waits until a write has landed late, or was refused.
async fn late(world: &World, disk: &str, what: &str) {
    wait::until(&format!("{what} of {disk}"), PATIENCE, async || match counted(world, disk, what).await {
        0 => Err("it is on its way".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap();
}

async fn lost(replica: &Replica) -> Vec<u64> {
    let ledger = replica.world.log.ledger(replica.id().await.unwrap()).await.unwrap().unwrap();
    ledger.lost.iter().map(|cycle| cycle.cycle.0).collect()
}

/// A VM whose initial cycle sends a write that takes effect only after `seconds`, when its sender has long repeated it and the first delta
/// has written something else to the same block. Gives its disk.
async fn with_a_late_write(world: &World, name: &str, seconds: u32) -> (Replica, String, Fate) {
    let slow = Fate::slow_reads(world, name, 1500).await.unwrap();
    let replica = Replica::apply(world, name, "").await.unwrap();
    replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();
    // The snapshot stands: this is the first delta's, half of a block of which all was in the late write.
    world.vcenter.write(name, 2000, 0, MIB / 2, 41).await.unwrap();
    let disk = seed(&replica, 2000).await;
    // The first page is the footer, by which the turn raises its fence.
    let effect = json!({ "kind": "late", "seconds": seconds });
    let late = Fate::disk(world, json!({ "disk": disk, "operation": "PutPage", "times": 1, "skip": 1, "effect": effect })).await.unwrap();
    slow.mend().await.unwrap();
    wait::until("the write is on its way", PATIENCE, async || {
        let planted = world.azure.call(Method::GET, "/disks/faults", None).await?;
        let stands = planted.as_array().into_iter().flatten().any(|fault| fault["id"].as_i64() == Some(late.id));
        if stands { Err(replica.story().await?) } else { Ok(()) }
    })
    .await
    .unwrap();
    (replica, disk, late)
}

#[tokio::test]
async fn a_write_that_lands_after_its_successors_harms_nothing() {
    let (world, _gate) = beside_others().await;
    // The delta writes when the turn before it, of a minute and a little, has ended.
    let (honours, at_honours, _late) = with_a_late_write(&world, "late-write", 150).await;
    // Whether the host looks at the condition is decided when the write arrives.
    let blind = Fate::switch(&world, "conditions", json!("ignored"), json!("honoured")).await.unwrap();
    let (ignores, at_ignores, _later) = with_a_late_write(&world, "late-write-ignored", 150).await;
    blind.mend().await.unwrap();
    for replica in [&honours, &ignores] {
        replica.succeeded(2, PATIENCE).await.unwrap();
        assert_eq!(replica.equal_now().await.unwrap(), 2);
        assert_eq!(lost(replica).await, [1], "what became of a write of the first cycle is not known");
        // What the first cycle has written there may not stand: the second sends the block whole, though half of it has changed.
        let second = replica.cycles().await.unwrap().remove(1).status.unwrap().source.unwrap();
        assert_eq!(second.changed_bytes, Some(i64::try_from(MIB).unwrap()));
    }
    let landed = [counted(&world, &at_honours, "landedLate").await, counted(&world, &at_ignores, "landedLate").await];
    assert_eq!(landed, [0, 0], "the deltas were before the late writes");

    // A host that looks at the condition refuses the late write: its successor has changed the disk since.
    late(&world, &at_honours, "refusedLate").await;
    assert_eq!(counted(&world, &at_honours, "landedLate").await, 0);
    assert_eq!(honours.equal_now().await.unwrap(), 2);

    // One that does not look lets it land. Nobody can see that from outside.
    late(&world, &at_ignores, "landedLate").await;
    let different = ignores.equal_now().await.unwrap_err();
    assert!(different.contains("disk 2000: the source is"), "{different}");
    // The next cycle that touches the block sends all of it, for its cycle is known as lost.
    world.vcenter.write(&ignores.name, 2000, 3 * MIB / 4, 64 << 10, 42).await.unwrap();
    ignores.sync("covered", PATIENCE).await.unwrap();
    assert_eq!(ignores.equal_now().await.unwrap(), 2);
    let third = ignores.cycles().await.unwrap().pop().unwrap().status.unwrap().source.unwrap();
    assert_eq!(third.changed_bytes, Some(i64::try_from(MIB).unwrap()));
    assert_eq!(lost(&ignores).await, [1], "only a seal can say that it is over");
    none_failed(&honours).await;
    none_failed(&ignores).await;
}

mod alone {
    use super::*;

    #[tokio::test]
    async fn a_log_store_that_is_gone_for_a_minute_is_waited_for() {
        let (world, _gate) = alone().await;
        let minute = Duration::from_secs(60);
        let slow = Fate::slow_reads(&world, "log-outage", 1500).await.unwrap();
        let replica = Replica::apply(&world, "log-outage", "").await.unwrap();
        let diary = Diary::keep(&replica, APPLIANCE);
        replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();
        let began = wait::now();
        let gone = Fate::end(&world, "azurite").await.unwrap();
        slow.mend().await.unwrap();
        let told = diary.tells("LogStoreUnreachable", &["log store"], PATIENCE).await.unwrap();
        println!("{told:?} after {:?}", began.elapsed());
        wait::until("the cycle, the VM and the appliance say so", minute, async || {
            let all = diary.all();
            let missing: Vec<_> = [("log-outage-1", "Transferred"), ("log-outage", "Replicating"), ("site-a", "LogStoreReachable")]
                .into_iter()
                .filter(|(of, condition)| {
                    !all.iter().any(|it| it.of == *of && it.condition == *condition && it.reason == "LogStoreUnreachable")
                })
                .collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} of {all:#?}")) }
        })
        .await
        .unwrap();
        wait::pause(minute.saturating_sub(began.elapsed())).await;
        gone.mend().await.unwrap();

        // Slow enough that the next outage meets it in its midst.
        let effect = json!({ "kind": "delay", "seconds": 2.0 });
        let slow = wait::until("the seeds are known again", PATIENCE, async || {
            let id = replica.id().await?;
            let ledger = world.log.ledger(id).await?.ok_or("no ledger")?;
            Ok(ledger.seeds[&blocklog::ids::DiskKey(2000)].id.clone())
        });
        let disk = slow.await.unwrap();
        let slow = Fate::disk(&world, json!({ "disk": disk, "operation": "PutPage", "effect": effect })).await.unwrap();
        wait::until("the log is being applied", PATIENCE, async || {
            let ledger = world.log.ledger(replica.id().await?).await?.ok_or("no ledger")?;
            if ledger.writing { Ok(()) } else { Err(replica.story().await?) }
        })
        .await
        .unwrap();
        // This time it does not refuse: it is silent.
        let began = wait::now();
        let silent = Fate::freeze(&world, "azurite").unwrap();
        slow.mend().await.unwrap();
        wait::pause(minute.saturating_sub(began.elapsed())).await;
        silent.mend().await.unwrap();
        replica.succeeded(2, PATIENCE).await.unwrap();
        assert_eq!(replica.equal_now().await.unwrap(), 2);
        none_failed(&replica).await;
    }
}
