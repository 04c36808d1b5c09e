//! A cycle that a newer version wrote costs nobody but itself, keeps what was said of it, and goes with the VM that it belongs to.

use crds::names;
use operator::vm::step::Step;
use serde_json::{Value, json};

use crate::support::{NAMESPACE, WEB, World};

const FIRST: &str = "web-1";

/// The first cycle, of a kind that this version does not know.
fn of_another_kind(world: &World) {
    world.api.edit("replicationcycles", NAMESPACE, FIRST, |cycle| cycle["spec"]["kind"] = json!("Rehearsal"));
}

fn first(world: &World) -> Option<Value> {
    world.api.get("replicationcycles", NAMESPACE, FIRST)
}

#[tokio::test]
async fn an_unreadable_cycle_is_let_go_with_its_vm() {
    let world = World::new().await;
    world.until(WEB, |step| matches!(step, Step::WriteOrder(_))).await;
    of_another_kind(&world);
    world.edit_vm(WEB, |vm| vm["metadata"]["annotations"] = json!({ names::ABANDON_ANNOTATION: names::ABANDON_CONFIRMED }));
    world.api.delete("replicatedvms", NAMESPACE, WEB);
    // The first pass says on the cycle that it can't be read, and so has seen another version of it than the one that there is then.
    for _ in 0..2 {
        world.pass(WEB).await.unwrap();
    }
    assert!(world.vm(WEB).is_none(), "it is given up");
    let left = first(&world).map(|cycle| cycle["metadata"].clone());
    assert_eq!(left, None, "nobody else would take its finalizer off");
}

#[tokio::test]
async fn what_was_said_of_a_closed_cycle_stays() {
    let world = World::new().await;
    world.settle(WEB).await;
    let said = first(&world).unwrap()["status"].clone();
    of_another_kind(&world);
    world.settle(WEB).await;
    assert_eq!(first(&world).unwrap()["status"], said, "nobody would say it again");
}

#[tokio::test]
async fn an_unreadable_open_cycle_is_told_of_and_waited_for() {
    let world = World::new().await;
    world.until(WEB, |step| matches!(step, Step::WriteOrder(_))).await;
    of_another_kind(&world);
    for _ in 0..3 {
        world.pass(WEB).await.unwrap();
    }
    let applied = first(&world).unwrap()["status"]["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Applied").cloned();
    assert_eq!(applied.unwrap()["reason"], "Unreadable");
    assert_eq!(world.api.all("replicationcycles").len(), 1, "no other one is begun");
}

#[tokio::test]
async fn a_stop_forgets_unreadable_history() {
    let world = World::new().await;
    world.settle(WEB).await;
    of_another_kind(&world);
    world.edit_vm(WEB, |vm| vm["spec"]["replication"] = json!("Stopped"));
    world.settle(WEB).await;
    assert_eq!(world.api.all("replicationcycles"), Vec::<Value>::new(), "the next start of replication counts from 1 again");
}
