//! Whoever writes between a pass's look and its write loses nothing, and is not believed to have written what the pass did.

use operator::vm::step::Step;
use serde_json::json;

use crate::support::{NAMESPACE, WEB, World};

#[tokio::test]
async fn a_finalizer_that_came_meanwhile_stays() {
    let world = World::new().await;
    world.until(WEB, |step| *step == Step::Hold).await;
    let (api, mut done) = (world.api.clone(), false);
    world.api.plan(move |asked| {
        if asked.word() == "patch replicatedvms" && !std::mem::replace(&mut done, true) {
            api.edit("replicatedvms", NAMESPACE, WEB, |vm| vm["metadata"]["finalizers"] = json!(["somebody.else/holds"]));
        }
        None
    });
    world.pass(WEB).await.unwrap();
    let finalizers = |world: &World| world.vm(WEB).unwrap().metadata.finalizers.unwrap_or_default();
    assert_eq!(finalizers(&world), ["somebody.else/holds"], "the pass has looked at another version");
    world.pass(WEB).await.unwrap();
    assert_eq!(finalizers(&world), ["somebody.else/holds", "hawser.dev/cleanup"]);
}

#[tokio::test]
async fn an_incarnation_that_another_drew_stays() {
    let world = World::new().await;
    world.until(WEB, |step| *step == Step::DrawIncarnation).await;
    let others = "dddddddd-0000-4000-8000-000000000001";
    let api = world.api.clone();
    world.api.plan(move |asked| {
        if asked.word() == "patch replicatedvms/status" {
            api.edit("replicatedvms", NAMESPACE, WEB, |vm| vm["status"]["incarnation"] = json!(others));
        }
        None
    });
    assert!(world.pass(WEB).await.is_err(), "what was drawn on another version is not written");
    world.api.no_plan();
    world.settle(WEB).await;
    assert_eq!(world.vm(WEB).unwrap().status.unwrap().incarnation.as_deref(), Some(others));
    assert_eq!(world.observe(WEB).await.disks.unwrap().len(), 2, "no disk was made for the other one");
}

#[tokio::test]
async fn a_wish_that_came_meanwhile_is_heard() {
    let world = World::new().await;
    world.settle(WEB).await;
    // A person asks for a cycle, then for another before the pass has written anything.
    world.edit_vm(WEB, |vm| vm["spec"]["syncNow"] = json!("first"));
    let (api, mut done) = (world.api.clone(), false);
    world.api.plan(move |asked| {
        if asked.writes() && !std::mem::replace(&mut done, true) {
            api.edit("replicatedvms", NAMESPACE, WEB, |vm| vm["spec"]["syncNow"] = json!("second"));
        }
        None
    });
    world.settle(WEB).await;
    let tokens: Vec<_> = world.cycles(WEB).iter().filter_map(|cycle| cycle.spec.sync_now.clone()).collect();
    assert_eq!(tokens, ["first", "second"]);
    assert_eq!(world.vm(WEB).unwrap().status.unwrap().last_sync_now.as_deref(), Some("second"));
}

#[tokio::test]
async fn a_running_cycles_object_that_was_taken_away_comes_back() {
    let world = World::new().await;
    world.until(WEB, |step| matches!(step, Step::Claim(_))).await;
    world.pass(WEB).await.unwrap();
    let before = world.cycles(WEB).remove(0);
    world.takes_snapshot(&before).await;
    world.api.edit("replicationcycles", NAMESPACE, "web-1", |cycle| cycle["metadata"]["finalizers"] = json!([]));
    world.api.delete("replicationcycles", NAMESPACE, "web-1");
    assert!(world.cycles(WEB).is_empty());
    world.pass(WEB).await.unwrap();
    assert_eq!(world.cycles(WEB).remove(0).spec, before.spec, "with all that it was given");
    world.settle(WEB).await;
    assert_eq!(world.cycles(WEB).len(), 2, "no number was used twice, and none left out");
    assert!(world.vcenter.snapshots("vm-1").is_empty());
}
