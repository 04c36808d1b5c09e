//! The Appliance's passes: what they find where all answer, what they cost, and that a fault of the apiserver changes no end.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{APPLIANCE, Asked, Fault, NAMESPACE, World};

/// Passes until nothing changes; the workers' pods come up where they are deployed.
async fn settle(world: &World) -> Value {
    let (mut before, mut same) = (Value::Null, 0);
    for _ in 0..12 {
        // What is built anew would lead to a real log store and a real vCenter.
        world.builds().await;
        // A pass that fails is repeated.
        let passed = world.pass_over_appliance().await.is_ok();
        world.deploys();
        let now = seen(world);
        same = if now != before { 0 } else { same + usize::from(passed) };
        if same == 2 {
            return now;
        }
        before = now;
    }
    panic!("it never comes to rest: {before:#}");
}

/// What is to be seen of it, but for versions and times.
fn seen(world: &World) -> Value {
    let appliance = world.api.get("appliances", NAMESPACE, APPLIANCE).unwrap();
    let conditions = appliance["status"]["conditions"].as_array().unwrap().iter();
    let mut conditions: Vec<Value> = conditions.map(|one| json!([one["type"], one["status"], one["reason"]])).collect();
    conditions.sort_by_key(Value::to_string);
    let of = |kind: &str| -> Vec<Value> {
        world.api.all(kind).into_iter().map(|one| json!([one["metadata"]["name"], one["spec"], one["data"], one["status"]])).collect()
    };
    json!({
        "conditions": conditions, "finalizers": appliance["metadata"]["finalizers"], "gateways": appliance["status"]["gateways"],
        "deployments": of("deployments"), "maps": of("configmaps"),
    })
}

#[tokio::test]
async fn one_of_which_all_is_well_is_ready() {
    let world = World::new().await;
    let found = settle(&world).await;
    let conditions = found["conditions"].as_array().unwrap();
    assert!(conditions.len() > 5 && conditions.iter().all(|one| one[1] == "True"), "{conditions:?}");
}

#[tokio::test]
async fn an_idle_pass_writes_nothing() {
    let world = World::new().await;
    settle(&world).await;
    world.api.take_asked();
    world.pass_over_appliance().await.unwrap();
    let asked = world.api.take_asked();
    let writes: Vec<&Asked> = asked.iter().filter(|asked| asked.writes()).collect();
    assert!(writes.is_empty(), "{writes:?}");
    for (number, one) in asked.iter().enumerate() {
        assert!(!asked[..number].contains(one), "it is asked twice: {one:?}");
    }
    assert!(asked.len() <= 11, "{}: {asked:?}", asked.len());
}

#[tokio::test]
async fn what_could_not_be_read_for_once_is_not_built_anew() {
    let world = World::new().await;
    settle(&world).await;
    let store = || world.context.sites.get(NAMESPACE, APPLIANCE).unwrap().steward().unwrap().store.clone();
    let before = store();
    for name in ["azure", "azure-ca", "hawser-key", "vcenter"] {
        world.api.plan(move |asked| (asked.name.as_deref() == Some(name)).then(|| Fault::status(500)));
        world.pass_over_appliance().await.unwrap();
        world.api.no_plan();
        world.pass_over_appliance().await.unwrap();
        assert!(Arc::ptr_eq(&before, &store()), "{name}: the clients of Azure, with their tokens, are those of before");
    }
}

async fn at_each_request(fault: Fault) {
    let world = World::new().await;
    let wanted = settle(&world).await;
    for at in 1.. {
        for kind in ["deployments", "configmaps"] {
            for name in ["onprem-gateway", "onprem-applier"] {
                world.api.delete(kind, NAMESPACE, name);
            }
        }
        let met: Arc<Mutex<Option<Asked>>> = Arc::default();
        let (mut count, told, planted) = (0, met.clone(), fault.clone());
        world.api.plan(move |asked| {
            count += 1;
            if count != at {
                return None;
            }
            *told.lock().unwrap() = Some(asked.clone());
            Some(planted.clone())
        });
        let found = settle(&world).await;
        world.api.no_plan();
        let Some(met) = met.lock().unwrap().clone() else {
            assert!(at > 25, "two passes have more requests than {at}");
            return;
        };
        assert_eq!(found, wanted, "{fault:?} at request {at}: {met:?}");
    }
}

#[tokio::test]
async fn a_404_changes_no_end() {
    at_each_request(Fault::status(404)).await;
}

#[tokio::test]
async fn a_409_changes_no_end() {
    at_each_request(Fault::status(409)).await;
}

#[tokio::test]
async fn a_500_changes_no_end() {
    at_each_request(Fault::status(500)).await;
}

#[tokio::test]
async fn a_lost_answer_changes_no_end() {
    at_each_request(Fault::Dropped { after: true }).await;
}
