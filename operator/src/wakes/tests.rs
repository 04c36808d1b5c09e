use serde_json::{Value, json};

use crds::ReplicatedVM;

use super::*;

fn object(kind: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": kind,
        "metadata": { "name": "web", "namespace": "apps", "uid": "u", "generation": 1, "resourceVersion": "1" },
        "status": { "conditions": [condition("Ready", "False", "Unreachable", "m"), condition("Applied", "Unknown", "Pending", "m")] },
    });
    change(&mut object);
    object
}

fn condition(of: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": of, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-30T00:00:00Z" })
}

fn vm(change: impl FnOnce(&mut Value)) -> ReplicatedVM {
    let mut object = object("ReplicatedVM", change);
    object["spec"] = json!({ "applianceRef": { "name": "site-a" }, "vm": { "moRef": "vm-1" } });
    serde_json::from_value(object).unwrap()
}

fn appliance(change: impl FnOnce(&mut Value)) -> Appliance {
    let spec = crate::vm::test_support::appliance(json!({})).spec;
    let mut object = object("Appliance", change);
    object["spec"] = serde_json::to_value(spec).unwrap();
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_written_status_wakes_nobody() {
    let before = but_status(&vm(|_| {}));
    let same = |change: fn(&mut Value)| assert_eq!(but_status(&vm(change)), before);
    same(|vm| vm["status"]["conditions"] = json!([condition("Ready", "True", "AsExpected", "well")]));
    same(|vm| vm["metadata"]["resourceVersion"] = json!("2"));
    same(|vm| vm["metadata"]["managedFields"] = json!([{ "manager": "hawser-operator", "operation": "Apply" }]));
}

#[test]
fn what_others_change_of_an_object_wakes() {
    let before = but_status(&vm(|_| {}));
    let wakes = |change: fn(&mut Value)| assert_ne!(but_status(&vm(change)), before);
    wakes(|vm| vm["metadata"]["generation"] = json!(2));
    wakes(|vm| vm["metadata"]["labels"] = json!({ "a": "b" }));
    wakes(|vm| vm["metadata"]["annotations"] = json!({ "a": "b" }));
    wakes(|vm| vm["metadata"]["finalizers"] = json!(["hawser.dev/cleanup"]));
    wakes(|vm| vm["metadata"]["deletionTimestamp"] = json!("2026-11-30T00:00:00Z"));
    wakes(|vm| vm["metadata"]["uid"] = json!("made anew under the same name"));
}

#[test]
fn an_appliance_wakes_its_vms_when_it_becomes_ready_or_not() {
    let before = of_appliance(&appliance(|_| {}));
    let of = |change: fn(&mut Value)| of_appliance(&appliance(change));
    assert_eq!(of(|it| it["status"]["conditions"][0]["message"] = json!("Trace ID: 7")), before);
    assert_eq!(of(|it| it["status"]["conditions"][1]["status"] = json!("True")), before, "another condition");
    assert_eq!(of(|it| it["status"]["diskSlots"] = json!({ "used": 3, "total": 8 })), before);
    assert_ne!(of(|it| it["status"]["conditions"][0]["reason"] = json!("Throttled")), before);
    assert_ne!(of(|it| it["status"]["conditions"][0]["status"] = json!("True")), before);
    assert_ne!(of(|it| it["metadata"]["generation"] = json!(2)), before);
    assert_ne!(of(|it| it["metadata"]["deletionTimestamp"] = json!("2026-11-30T00:00:00Z")), before);
}

#[test]
fn a_cycle_wakes_its_vm_by_what_its_gateway_does() {
    let cycle = |change: fn(&mut ReplicationCycle)| {
        let mut cycle = crate::vm::test_support::cycle_object(&crate::vm::test_support::seeded(), 1);
        cycle.status.get_or_insert_default().conditions = vec![
            serde_json::from_value(condition("Transferred", "Unknown", "Transferring", "m")).unwrap(),
            serde_json::from_value(condition("Applied", "Unknown", "Pending", "m")).unwrap(),
        ];
        change(&mut cycle);
        of_cycle(&cycle)
    };
    let before = cycle(|_| {});
    let own = cycle(|it| it.status.as_mut().unwrap().conditions[1].status = "True".to_owned());
    let words = cycle(|it| it.status.as_mut().unwrap().conditions[0].message = "another".to_owned());
    let target = cycle(|it| it.status.as_mut().unwrap().target = Some(crds::replication_cycle::TargetStatus::default()));
    assert_eq!([own, words, target], [before; 3]);
    let sent = cycle(|it| it.status.as_mut().unwrap().conditions[0].status = "True".to_owned());
    let source = cycle(|it| it.status.as_mut().unwrap().source = Some(crds::replication_cycle::SourceStatus::default()));
    let held = cycle(|it| it.metadata.finalizers = Some(vec!["another".to_owned()]));
    assert!(sent != before && source != before && held != before);
}

#[tokio::test]
async fn a_watch_tells_what_changed_what_came_and_what_went() {
    let at = |name: &str, generation: i64, reason: &str| {
        let mut vm = vm(|vm| vm["metadata"]["generation"] = json!(generation));
        vm.metadata.name = Some(name.to_owned());
        vm.status.as_mut().unwrap().conditions[0].reason = reason.to_owned();
        vm
    };
    let events = vec![
        Event::Init,
        Event::InitApply(at("a", 1, "x")),
        Event::InitApply(at("b", 1, "x")),
        Event::InitDone,
        Event::Apply(at("a", 1, "y")),
        Event::Apply(at("a", 2, "y")),
        Event::Delete(at("b", 1, "x")),
        // Made anew: nothing is known of it any more.
        Event::Apply(at("b", 1, "x")),
        // The watch has begun anew: what is as it was is not told again, and what has gone meanwhile is forgotten.
        Event::Init,
        Event::InitApply(at("a", 2, "z")),
        Event::InitDone,
        Event::Apply(at("b", 1, "x")),
    ];
    let told = changed(futures::stream::iter(events.into_iter().map(Ok)), but_status::<ReplicatedVM>);
    let told: Vec<_> = told.map(|vm| vm.unwrap().metadata).map(|meta| (meta.name.unwrap(), meta.generation.unwrap())).collect().await;
    let expected = [("a", 1), ("b", 1), ("a", 2), ("b", 1), ("b", 1), ("b", 1)];
    assert_eq!(told, expected.map(|(name, generation)| (name.to_owned(), generation)));
}
