//! How many requests a pass costs the apiserver. The numbers stand in docs/performance.md.

use std::{collections::BTreeMap, time::Duration};

use crds::names;
use operator::vm::step::Step;
use serde_json::json;

use crate::support::{APPLIANCE, Asked, NAMESPACE, WEB, World};

/// One pass: its requests, by verb and resource, without events, which only edges have.
async fn pass(world: &World) -> BTreeMap<String, usize> {
    world.api.take_asked();
    world.pass(WEB).await.unwrap();
    let asked = world.api.take_asked();
    let of_all = format!("{}={APPLIANCE}", names::APPLIANCE_LABEL);
    let lists_all = |asked: &Asked| asked.verb == "list" && asked.resource == "replicationcycles" && asked.selector == of_all;
    assert!(!asked.iter().any(lists_all), "a pass that asks for no slots lists its own cycles alone: {asked:?}");
    let mut counts = BTreeMap::new();
    for one in asked.iter().filter(|one| one.resource != "events") {
        *counts.entry(one.word()).or_default() += 1;
    }
    counts
}

/// What every pass asks: the object, its appliance, its cycles, and the gateways.
const READS: [&str; 4] = ["get appliances", "get replicatedvms", "list pods", "list replicationcycles"];

fn words(counts: &BTreeMap<String, usize>) -> Vec<&str> {
    assert!(counts.values().all(|count| *count == 1), "nothing is asked twice: {counts:?}");
    counts.keys().map(String::as_str).collect()
}

/// A world with more VMs than one, whose cycles are nobody else's business.
async fn world() -> World {
    let world = World::new().await;
    world.settle(WEB).await;
    for name in ["db", "mail"] {
        world.add_vm(name);
        world.settle(name).await;
    }
    world
}

#[tokio::test]
async fn an_idle_pass_reads_four_times_and_writes_nothing() {
    let world = world().await;
    assert_eq!(words(&pass(&world).await), READS);
}

#[tokio::test]
async fn a_pass_while_a_cycle_runs_reads_four_times() {
    let world = world().await;
    world.edit_vm(WEB, |vm| vm["spec"]["syncNow"] = json!("once"));
    world.until(WEB, |step| matches!(step, Step::Claim(_))).await;
    world.pass(WEB).await.unwrap();
    world.takes_snapshot(world.cycles(WEB).last().unwrap()).await;
    // What the gateway said is told once.
    world.pass(WEB).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(words(&pass(&world).await), READS);
    let status = &world.api.get("replicatedvms", NAMESPACE, WEB).unwrap()["status"];
    assert_eq!(status["currentCycle"], "web-3");
}

#[tokio::test]
async fn a_pass_that_waits_for_a_gateway_reads_four_times() {
    let world = world().await;
    world.has_gateway("gw-1", false);
    world.edit_vm(WEB, |vm| vm["spec"]["syncNow"] = json!("once"));
    world.pass(WEB).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(words(&pass(&world).await), READS);
    let waits = &world.api.get("replicatedvms", NAMESPACE, WEB).unwrap()["status"]["waitingFor"];
    assert_eq!(waits["reason"], "PodsNotReady");
}

#[tokio::test]
async fn a_pass_that_waits_for_slots_reads_six_times() {
    let world = world().await;
    let db = world.cycles("db").pop().unwrap();
    // Another VM's cycle takes all that there are.
    world.api.edit("appliances", NAMESPACE, APPLIANCE, |it| it["spec"]["limits"]["parallelDisks"] = json!(2));
    world.api.put(json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicationCycle",
        "metadata": {
            "name": "db-9", "namespace": NAMESPACE, "finalizers": [names::SNAPSHOT_FINALIZER],
            "labels": { names::VM_LABEL: "db", names::APPLIANCE_LABEL: APPLIANCE },
        },
        "spec": db.spec,
    }));
    world.edit_vm(WEB, |vm| vm["spec"]["syncNow"] = json!("once"));
    world.pass(WEB).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    world.api.take_asked();
    world.pass(WEB).await.unwrap();
    let asked = world.api.take_asked();
    let waits = &world.api.get("replicatedvms", NAMESPACE, WEB).unwrap()["status"]["waitingFor"];
    assert_eq!(waits["reason"], "ApplianceFull");
    assert!(asked.len() <= 6 && !asked.iter().any(Asked::writes), "{asked:?}");
}

#[tokio::test]
async fn a_cycle_costs_the_operator_eight_writes() {
    let world = world().await;
    world.edit_vm(WEB, |vm| vm["spec"]["syncNow"] = json!("once"));
    world.api.take_asked();
    let passes = world.settle(WEB).await;
    let asked = world.api.take_asked();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for one in asked.iter().filter(|one| one.writes() && one.resource != "events") {
        *counts.entry(one.word()).or_default() += 1;
    }
    assert_eq!(world.cycles(WEB).len(), 3);
    assert!(counts.values().sum::<usize>() <= 8, "{passes} passes: {counts:?}");
}
