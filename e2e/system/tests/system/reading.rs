//! What a newer version of Hawser wrote, and this one can't read, costs nobody but itself, and is told: after a rollback, or in the middle of an
//! upgrade, when the apiserver's definitions are wider than those that the operator and its gateways were built with.

use std::panic::AssertUnwindSafe;

use crds::{Appliance, BlackoutWindow, ReplicatedVM, ReplicationCycle, names};
use futures::FutureExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Resource,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::Value;
use system::{
    Result,
    install::{APPLIANCE, NAMESPACE},
    own::Own,
    pods::{self, OPERATORS, Pod, workers},
    vm::Replica,
    wait,
};

use super::*;

/// An enum of each kind that has one, in its definition's `spec`, and the word that a newer version has there.
const WIDER: [(&str, &str, &str); 3] = [
    ("appliances", "diskAccess/properties/method", "NFC"),
    ("replicatedvms", "replication", "Rehearsed"),
    ("replicationcycles", "kind", "PreMigrate"),
];
/// A window that none of today's rules lets through.
const WINDOW: &str = "FirstMonday;7:00;7h";

/// The objects of a kind, whatever is in them.
fn all_of<K: Resource<DynamicType = ()>>(world: &World) -> Api<DynamicObject> {
    Api::namespaced_with(world.client.clone(), NAMESPACE, &ApiResource::erase::<K>(&()))
}

fn definitions(world: &World) -> Api<DynamicObject> {
    Api::all_with(world.client.clone(), &ApiResource::erase::<CustomResourceDefinition>(&()))
}

async fn versions(world: &World, plural: &str) -> Value {
    definitions(world).get(&format!("{plural}.{}", names::GROUP)).await.unwrap().data["spec"]["versions"].clone()
}

async fn define(world: &World, plural: &str, versions: &Value) {
    let change = json!({ "spec": { "versions": versions } });
    let name = format!("{plural}.{}", names::GROUP);
    definitions(world).patch(&name, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
}

/// Makes the definitions a newer version's, and gives back what they were.
async fn widen(world: &World) -> Vec<(&'static str, Value)> {
    let mut before = Vec::new();
    for (plural, path, word) in WIDER {
        let mut all = versions(world, plural).await;
        before.push((plural, all.clone()));
        let words = all.pointer_mut(&format!("/0/schema/openAPIV3Schema/properties/spec/properties/{path}/enum")).unwrap();
        words.as_array_mut().unwrap().push(json!(word));
        define(world, plural, &all).await;
    }
    let mut all = versions(world, "blackoutwindows").await;
    before.push(("blackoutwindows", all.clone()));
    *all.pointer_mut("/0/schema/openAPIV3Schema/properties/spec/properties/windows/items").unwrap() = json!({ "type": "string" });
    define(world, "blackoutwindows", &all).await;
    before
}

/// Applies an object, once the apiserver has taken its wider definition in.
async fn put(world: &World, object: &Value) {
    wait::until("the wider definition is taken in", PATIENCE, async || world.sandbox.apply(&object.to_string()).await.map(drop))
        .await
        .unwrap();
}

/// Waits until an object says in this condition that it can't be read, and why.
async fn told<K: Resource<DynamicType = ()>>(world: &World, name: &str, condition: &str, word: &str) {
    let what = format!("{name} says {condition}: Unreadable");
    let message = wait::until(&what, PATIENCE, async || {
        let object = all_of::<K>(world).get(name).await.map_err(|error| error.to_string())?;
        let all = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|one| one["type"] == condition && one["reason"] == "Unreadable");
        found.map(|found| found["message"].as_str().unwrap_or_default().to_owned()).ok_or_else(|| format!("{all:?}"))
    });
    let message = message.await.unwrap();
    println!("{name} {condition}: {message}");
    assert!(message.contains(word), "{message}");
}

/// A cycle of a VM as a newer operator makes it.
async fn newer_cycle(replica: &Replica, name: &str, worker: &str) -> Value {
    let (vm, id) = (replica.object().await.unwrap(), replica.id().await.unwrap());
    let owner = json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicatedVM", "name": replica.name, "uid": vm.metadata.uid, "controller": true,
    });
    json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicationCycle",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "finalizers": [names::SNAPSHOT_FINALIZER], "ownerReferences": [owner],
            "labels": { (names::APPLIANCE_LABEL): APPLIANCE, (names::VM_LABEL): replica.name },
        },
        "spec": {
            "vmRef": { "name": replica.name }, "applianceRef": { "name": APPLIANCE }, "cycle": 99, "kind": "PreMigrate", "basis": 2,
            "incarnation": vm.status.unwrap().incarnation, "owner": { "cluster": "newer", "object": format!("{NAMESPACE}/{}", replica.name) },
            "vm": { "vcenterUuid": id.vcenter.to_string(), "instanceUuid": id.instance.to_string(), "moRef": "vm-1" },
            "disks": [{ "key": 2000, "capacityBytes": 1 }], "quiesce": "Never", "worker": worker, "allotment": { "disks": 1 },
        },
    })
}

/// Has another operator lead: it begins with lists.
async fn another_operator(world: &World) {
    let leader = pods::leader(world).await.unwrap();
    let all = Pod::all(world, OPERATORS).await.unwrap();
    let pod = all.into_iter().find(|pod| pod.name == leader).expect("the leader is a pod");
    pod.stop(world, Duration::from_secs(20)).await.unwrap();
    wait::until("another operator leads", PATIENCE, async || match pods::leader(world).await? {
        now if now == leader => Err(now),
        _ => Ok(()),
    })
    .await
    .unwrap();
}

async fn remove<K: Resource<DynamicType = ()>>(world: &World, name: &str) -> Result<()> {
    let api = all_of::<K>(world);
    let change = json!({ "metadata": { "finalizers": [] } });
    api.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await.map_err(|error| error.to_string())?;
    api.delete(name, &DeleteParams::default()).await.map(drop).map_err(|error| error.to_string())
}

mod alone {
    use super::*;

    #[tokio::test]
    async fn what_a_newer_version_wrote_keeps_nobody_from_going_on() {
        let (world, _gate) = alone().await;
        let replica = replicated(&world, "reading").await;
        let before = widen(&world).await;
        let result = AssertUnwindSafe(scenario(&world, &replica)).catch_unwind().await;
        // What can't be read goes first: whoever comes after this test finds the definitions and the objects as they were.
        let _ = remove::<ReplicationCycle>(&world, "reading-99").await;
        let _ = remove::<ReplicatedVM>(&world, "reading-odd").await;
        let _ = remove::<BlackoutWindow>(&world, "reading-odd").await;
        for (plural, versions) in before {
            define(&world, plural, &versions).await;
        }
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        replica.succeeded(3, PATIENCE).await.unwrap();
        println!("its VM goes on when the cycle that could not be read is gone");
    }

    async fn scenario(world: &World, replica: &Replica) {
        // An appliance; its VMs say that it is there and why it is not ready.
        let own = Own::new(world, "reading-odd");
        let odd = own.manifest(|spec| spec["diskAccess"] = json!({ "method": "NFC" })).unwrap();
        put(world, &odd).await;
        told::<Appliance>(world, &own.name, "Ready", "NFC").await;
        let lost = own.replicate("reading-lost", "").await.unwrap();
        let message = lost.says("Replicating", "ApplianceNotReady", PATIENCE).await.unwrap();
        assert!(message.contains("NFC"), "{message}");

        // A VM, and a window, which nobody reads yet.
        let manifest = Replica::manifest(NAMESPACE, APPLIANCE, "reading-odd", "  replication: Rehearsed\n");
        put(world, &serde_yaml_ng::from_str(&manifest).unwrap()).await;
        told::<ReplicatedVM>(world, "reading-odd", "Ready", "Rehearsed").await;
        put(
            world,
            &json!({
                "apiVersion": "hawser.dev/v1alpha1", "kind": "BlackoutWindow", "metadata": { "name": "reading-odd", "namespace": NAMESPACE },
                "spec": { "applianceRefs": [{ "name": APPLIANCE }], "windows": [WINDOW] },
            }),
        )
        .await;

        // A cycle: its gateway and the operator leave it alone, and its VM has no other one meanwhile.
        let gateway = Pod::all(world, &workers(APPLIANCE, "gateway")).await.unwrap().remove(0).name;
        put(world, &newer_cycle(replica, "reading-99", &gateway).await).await;
        told::<ReplicationCycle>(world, "reading-99", "Transferred", "PreMigrate").await;
        told::<ReplicationCycle>(world, "reading-99", "Applied", "PreMigrate").await;
        let message = replica.says("Replicating", "Unreadable", PATIENCE).await.unwrap();
        assert!(message.contains("reading-99"), "{message}");
        replica.sync_now("meanwhile").await.unwrap();

        // All others go on, also under an operator that finds all of these when it starts.
        another_operator(world).await;
        replicated(world, "reading-beside").await;
        assert_eq!(replica.cycles().await.unwrap().len(), 2, "no other cycle beside one that can't be read");

        // What is put right is read.
        let right = json!({ "spec": { "replication": "Paused" } });
        all_of::<ReplicatedVM>(world).patch("reading-odd", &PatchParams::default(), &Patch::Merge(&right)).await.unwrap();
        Replica::of(world, "reading-odd").says("SourceFound", "VmNotFound", PATIENCE).await.unwrap();
        let _ = all_of::<Appliance>(world).delete(&own.name, &DeleteParams::default()).await;
    }
}
