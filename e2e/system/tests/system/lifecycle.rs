//! What people do to an installation and its objects: upgraded, applied again, stopped, deleted, given up, taken over by another cluster.

use std::collections::BTreeMap;

use blocklog::ids::VmId;
use crds::{ReplicationCycle, replicated_vm::CycleKind};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde_json::Value;
use system::{
    Result,
    install::{APPLIANCE, NAMESPACE, appliance, chart, namespace, prerequisites, ready, release},
    own::Own,
    pods::{OPERATORS, workers},
    sandbox::Sandbox,
    vm::{Replica, phase},
    wait,
};

use super::*;

const MIB: u64 = 1 << 20;

/// The managed disks of a VM's replica.
async fn seeds(world: &World, vm: &str) -> Result<Vec<String>> {
    let mut all = world.azure.disks().await?;
    all.retain(|id| id.to_lowercase().contains(&format!("/hawser-{vm}-")));
    Ok(all)
}

/// Nothing of the replica is anywhere, but for its VM.
async fn nothing_is_left(replica: &Replica, id: VmId) -> Result<()> {
    let (disks, blobs) = (seeds(&replica.world, &replica.name).await?, replica.world.log.blobs(id).await?);
    let (snapshots, cycles) = (replica.world.vcenter.snapshots(&replica.name).await?, replica.cycles().await?);
    if disks.is_empty() && blobs.is_empty() && snapshots.is_empty() && cycles.is_empty() {
        return Ok(());
    }
    Err(format!("{disks:?}; {blobs:?}; {snapshots:?}; {} cycles; {}", cycles.len(), replica.story().await.unwrap_or_default()))
}

async fn delete(replica: &Replica) -> Result<String> {
    let (name, namespace) = (&replica.name, &replica.namespace);
    replica.world.sandbox.kubectl(&["delete", "replicatedvm", name, "--namespace", namespace, "--timeout=120s"]).await
}

async fn patch(replica: &Replica, spec: Value) -> Result<()> {
    let api: Api<crds::ReplicatedVM> = Api::namespaced(replica.world.client.clone(), &replica.namespace);
    let change = kube::api::Patch::Merge(json!({ "spec": spec }));
    api.patch(&replica.name, &kube::api::PatchParams::default(), &change).await.map(drop).map_err(|error| error.to_string())
}

async fn incarnation(replica: &Replica) -> String {
    replica.object().await.unwrap().status.and_then(|status| status.incarnation).unwrap()
}

fn numbers(cycles: &[ReplicationCycle]) -> Vec<i64> {
    cycles.iter().map(|cycle| cycle.spec.cycle).collect()
}

/// The images of the ready pods with these labels.
async fn images(world: &World, labels: &str) -> Result<BTreeMap<String, String>> {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), NAMESPACE);
    let pods = api.list(&ListParams::default().labels(labels)).await.map_err(|error| error.to_string())?;
    let image = |pod: Pod| {
        let conditions = pod.status?.conditions.unwrap_or_default();
        let ready = conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True");
        let image = pod.spec?.containers.into_iter().next()?.image?;
        (ready && pod.metadata.deletion_timestamp.is_none()).then_some((pod.metadata.name?, image))
    };
    Ok(pods.items.into_iter().filter_map(image).collect())
}

mod alone {
    use super::*;

    #[tokio::test]
    async fn an_upgrade_of_operator_and_workers_loses_no_cycle() {
        let (world, _gate) = alone().await;
        let replica = replicated(&world, "upgrade").await;
        for image in ["operator", "worker"] {
            world.sandbox.tag(&format!("hawser.dev/{image}:dev"), &format!("hawser.dev/{image}:next")).await.unwrap();
        }
        world.vcenter.write(&replica.name, 2000, 0, 24 * MIB, 31).await.unwrap();
        let vm = world.vcenter.vm(&replica.name).await.unwrap();
        // Some of it is in the log, and the rest waits until all is upgraded.
        let stall = world.vcenter.read_fault(json!({ "op": "read", "vm": vm.mo_ref, "skip": 6, "stall": true })).await.unwrap();
        replica.sync_now("upgrade").await.unwrap();
        let outcome = upgraded(&replica).await;
        let _ = world.vcenter.mend_read(stall).await;
        let done = async {
            let first = outcome?;
            let cycles = replica.succeeded(3, PATIENCE).await?;
            let equal = replica.equal_now().await?;
            Ok::<_, String>((first, cycles, equal))
        };
        let done = done.await;
        chart(&world.sandbox, &[]).await.unwrap();
        ready(&world.sandbox, NAMESPACE, APPLIANCE, PATIENCE).await.unwrap();
        // Those who come next are to find nothing on its way out or in.
        wait::until("all is as it was", PATIENCE, async || {
            for labels in [OPERATORS.to_owned(), workers(APPLIANCE, "gateway"), workers(APPLIANCE, "applier")] {
                let all = images(&world, &labels).await?;
                let wanted = if labels == OPERATORS { 2 } else { 1 };
                if all.len() != wanted || !all.values().all(|image| image.contains(":dev-")) {
                    return Err(format!("{all:?}"));
                }
            }
            Ok(())
        })
        .await
        .unwrap();
        let (first, cycles, equal) = done.unwrap();
        assert_eq!(numbers(&cycles), [1, 2, 3], "none doubled, none lost");
        assert!(cycles.iter().all(|cycle| phase(cycle) == Some(CyclePhase::Succeeded)));
        let source = cycles[2].status.clone().unwrap().source.unwrap();
        assert_ne!(source.worker.as_ref(), Some(&first), "handed over");
        assert!(source.epoch > Some(1), "its successor went on, in an epoch of its own: {source:?}");
        assert_eq!(equal, 2);
    }
}

/// Upgrades first the operators, then the workers, while the cycle transfers; gives the gateway that began it.
async fn upgraded(replica: &Replica) -> Result<String> {
    let world = &replica.world;
    let cycle = replica.reaches(CyclePhase::Transfer, PATIENCE).await?;
    let first = cycle.spec.worker.clone().ok_or("nobody runs it")?;
    chart(&world.sandbox, &["image.tag=next"]).await?;
    wait::until("the new operators run", PATIENCE, async || {
        let all = images(world, "app.kubernetes.io/component=operator,app.kubernetes.io/instance=hawser").await?;
        if all.len() == 2 && all.values().all(|image| image.ends_with(":next")) { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await?;
    // It is the same cycle, with the same gateway: an operator that comes and goes does not matter to it.
    let cycle = replica.cycles().await?.pop().ok_or("its object is gone")?;
    if cycle.spec.worker.as_ref() != Some(&first) || phase(&cycle) != Some(CyclePhase::Transfer) {
        return Err(replica.story().await?);
    }
    chart(&world.sandbox, &["image.tag=next", "worker.image.tag=next"]).await?;
    wait::until("another gateway has the cycle", PATIENCE, async || {
        let cycle = replica.cycles().await?.pop().ok_or("its object is gone")?;
        let worker = cycle.spec.worker.clone().unwrap_or_default();
        let all = images(world, &format!("hawser.dev/appliance={APPLIANCE},hawser.dev/component=gateway")).await?;
        let reads = cycle.status.and_then(|status| status.source?.worker) == Some(worker.clone());
        let new = all.get(&worker).is_some_and(|image| image.ends_with(":next"));
        if worker != first && new && reads { Ok(()) } else { Err(format!("{worker} of {all:?}: {}", replica.story().await?)) }
    })
    .await?;
    Ok(first)
}

/// Versions of all objects of helm's release: what is written anew has another.
async fn versions(sandbox: &Sandbox) -> Result<String> {
    let manifest = sandbox.run("helm", &["get", "manifest", "hawser", "--namespace", NAMESPACE], None).await?;
    let path = "jsonpath={range .items[*]}{.kind}/{.metadata.name}:{.metadata.generation}:{.metadata.resourceVersion}{\"\\n\"}{end}";
    sandbox.run("kubectl", &["get", "--namespace", NAMESPACE, "-f", "-", "-o", path], Some(&manifest)).await
}

/// Generations of what helm installed, and of the shared appliance, and the operators' pods: of what is asked for again each is as it was.
async fn generations(sandbox: &Sandbox) -> Result<String> {
    let manifest = sandbox.run("helm", &["get", "manifest", "hawser", "--namespace", NAMESPACE], None).await?;
    let each = "jsonpath={range .items[*]}{.kind}/{.metadata.name}:{.metadata.generation}{\"\\n\"}{end}";
    let installed = sandbox.run("kubectl", &["get", "--namespace", NAMESPACE, "-f", "-", "-o", each], Some(&manifest)).await?;
    let appliance =
        sandbox.kubectl(&["get", "appliance", APPLIANCE, "--namespace", NAMESPACE, "-o", "jsonpath={.metadata.generation}"]).await?;
    let labels = "app.kubernetes.io/name=hawser,app.kubernetes.io/component=operator";
    let pods = sandbox
        .kubectl(&["get", "pods", "--namespace", NAMESPACE, "--selector", labels, "-o", "jsonpath={.items[*].metadata.uid}"])
        .await?;
    Ok(format!("{installed}{appliance}\n{pods}"))
}

#[tokio::test]
async fn what_is_applied_again_changes_nothing() {
    let (world, _gate) = beside_others().await;
    let sandbox = &world.sandbox;
    let replica = replicated(&world, "same-again").await;
    // The shared appliance tells of others' cycles: whether one is written for nothing shows one that has none.
    let own = Own::new(&world, "quiet");
    let since = own.apply(|_| ()).await.unwrap();
    own.says("Ready", "True", "AsExpected", since, PATIENCE).await.unwrap();
    let version = async || {
        let api: Api<crds::Appliance> = Api::namespaced(world.client.clone(), NAMESPACE);
        let idle = api.get(&own.name).await.map_err(|error| error.to_string())?.metadata;
        let (vm, cycles) = (replica.object().await?.metadata, replica.cycles().await?);
        let cycles: Vec<_> = cycles.into_iter().map(|cycle| (cycle.metadata.name, cycle.metadata.resource_version)).collect();
        Ok::<_, String>(format!("{:?} {:?} {cycles:?}", (idle.generation, idle.resource_version), (vm.generation, vm.resource_version)))
    };
    let manifests = [appliance(sandbox, NAMESPACE, APPLIANCE), Replica::manifest(NAMESPACE, APPLIANCE, &replica.name, "")];
    let once = generations(sandbox).await.unwrap();
    // On a busy machine a server may take its time to answer, which is told, and is another version: what is written for nothing is so each time.
    wait::until("what is applied again changes nothing", PATIENCE, async || {
        let before = version().await?;
        wait::pause(Duration::from_secs(3)).await;
        let again = sandbox.apply(&manifests.join("---\n")).await?;
        assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
        // Of Secrets kubectl can't tell that they are the same; the operator can.
        sandbox.apply(&prerequisites(sandbox, NAMESPACE, &sandbox.authority()?)).await?;
        own.apply(|_| ()).await?;
        // So long that every object is looked at at least once.
        wait::pause(Duration::from_secs(20)).await;
        let after = version().await?;
        if after == before { Ok(()) } else { Err(format!("{before}\n{after}")) }
    })
    .await
    .unwrap();
    // kubectl fails where there is a difference.
    for manifest in &manifests {
        assert_eq!(sandbox.run("kubectl", &["diff", "-f", "-"], Some(manifest)).await.unwrap(), "");
    }
    assert_eq!(sandbox.kubectl(&["diff", "-f", "crds/"]).await.unwrap(), "");
    // What the chart installed, too: nothing is written anew, and no pod begins again.
    wait::until("the chart installed again changes nothing", PATIENCE, async || {
        let installed = versions(sandbox).await?;
        assert!(installed.lines().count() >= 12, "{installed}");
        chart(sandbox, &[]).await?;
        let after = versions(sandbox).await?;
        if after == installed { Ok(()) } else { Err(format!("{installed}\n{after}")) }
    })
    .await
    .unwrap();
    assert_eq!(generations(sandbox).await.unwrap(), once, "nothing was asked of anybody in the meantime");
    let next = replica.object().await.unwrap().status.unwrap();
    assert_eq!(next.last_cycle.unwrap().cycle, 2);
}

#[tokio::test]
async fn what_is_deleted_leaves_nothing_and_applied_again_begins_anew() {
    let (world, _gate) = beside_others().await;
    let replica = replicated(&world, "delete-again").await;
    let (id, first) = (replica.id().await.unwrap(), incarnation(&replica).await);
    let mut old = seeds(&world, &replica.name).await.unwrap();
    assert_eq!(old.len(), 2);
    delete(&replica).await.unwrap();
    // Cycles' objects are collected after it.
    wait::until("nothing is left", Duration::from_secs(30), async || nothing_is_left(&replica, id).await).await.unwrap();
    let replica = replicated(&world, "delete-again").await;
    assert_ne!(incarnation(&replica).await, first);
    let cycles = replica.cycles().await.unwrap();
    assert_eq!((numbers(&cycles), cycles[0].spec.kind), (vec![1, 2], CycleKind::Initial));
    let new = seeds(&world, &replica.name).await.unwrap();
    old.retain(|id| new.contains(id));
    assert!(old.is_empty(), "other disks, by other names: {old:?}");
}

#[tokio::test]
async fn a_stopped_vm_is_cleaned_up_and_begins_anew_when_active() {
    let (world, _gate) = beside_others().await;
    let replica = replicated(&world, "stopped").await;
    let (id, first) = (replica.id().await.unwrap(), incarnation(&replica).await);
    patch(&replica, json!({ "replication": "Stopped" })).await.unwrap();
    replica.says("CleanedUp", "AsExpected", PATIENCE).await.unwrap();
    wait::until("nothing is left", Duration::from_secs(30), async || nothing_is_left(&replica, id).await).await.unwrap();
    let status = replica.object().await.unwrap().status.unwrap();
    assert!(status.recovery_point.is_none() && status.disks.iter().all(|disk| disk.seed_disk.is_none()), "{status:?}");
    let said = replica.says("Replicating", "Stopped", PATIENCE).await.unwrap();
    assert!(said.contains("Active"), "{said}");
    patch(&replica, json!({ "replication": "Active" })).await.unwrap();
    replica.succeeded(2, PATIENCE).await.unwrap();
    assert_ne!(incarnation(&replica).await, first);
    assert_eq!(numbers(&replica.cycles().await.unwrap()), [1, 2]);
    assert_eq!(replica.equal_now().await.unwrap(), 2);
}

#[tokio::test]
async fn what_can_not_be_reached_is_named_and_can_be_given_up() {
    let (mut world, _gate) = beside_others().await;
    let own = Own::apart(&mut world, "cut-off").await.unwrap();
    let pods = json!({ "replicas": 1 });
    own.apply(|spec| (spec["workers"], spec["applier"]) = (pods.clone(), pods.clone())).await.unwrap();
    ready(&world.sandbox, NAMESPACE, &own.name, PATIENCE).await.unwrap();
    let replica = own.replicate("left-behind", "").await.unwrap();
    replica.succeeded(2, PATIENCE).await.unwrap();
    let (id, vm) = (replica.id().await.unwrap(), world.vcenter.vm(&replica.name).await.unwrap());
    world.vcenter.write(&replica.name, 2000, 0, 4 * MIB, 41).await.unwrap();
    let stall = world.vcenter.read_fault(json!({ "op": "read", "vm": vm.mo_ref, "stall": true })).await.unwrap();
    replica.sync_now("cut-off").await.unwrap();
    replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap();
    // Neither vCenter is where it was, nor do the disks answer; and there is no gateway that knows vCenter from before.
    let nobody = format!("https://{}:444", world.sandbox.node());
    own.edit(json!({ "vcenter": { "url": nobody }, "workers": { "replicas": 0 } })).await.unwrap();
    wait::until("its gateway is gone", PATIENCE, async || {
        let all = images(&world, "hawser.dev/appliance=cut-off,hawser.dev/component=gateway").await?;
        if all.is_empty() { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await
    .unwrap();
    let broken = json!({ "path": "*/disks/hawser-left-behind-*", "effect": { "kind": "drop" } });
    let fault = world.azure.call(Method::POST, "/arm/faults", Some(broken)).await.unwrap()["id"].clone();
    let name = &replica.name;
    world.sandbox.kubectl(&["delete", "replicatedvm", name, "--namespace", NAMESPACE, "--wait=false"]).await.unwrap();
    let names = |what: &'static [&'static str]| {
        wait::until("what is left is named", PATIENCE, async || {
            let status = replica.object().await?.status.unwrap_or_default();
            let found = status.conditions.iter().find(|one| one.type_ == "CleanedUp" && one.status == "False");
            let message = found.map(|found| found.message.clone()).ok_or(replica.story().await?)?;
            if what.iter().all(|word| message.contains(word)) { Ok(message) } else { Err(message) }
        })
    };
    let both = names(&["snapshots", "444", "seed disks", "hawser-left-behind-2000-", "hawser.dev/abandon=leave-what-is-left"]).await;
    let mended = world.azure.call(Method::DELETE, &format!("/arm/faults?id={fault}"), None).await;
    println!("{}", both.unwrap());
    mended.unwrap();
    // What can be reached again goes.
    wait::until("disks and log are gone", PATIENCE, async || {
        let (disks, blobs) = (seeds(&world, name).await?, world.log.blobs(id).await?);
        if disks.is_empty() && blobs.is_empty() { Ok(()) } else { Err(format!("{disks:?} {blobs:?} {}", replica.story().await?)) }
    })
    .await
    .unwrap();
    let message = names(&["snapshots", "hawser.dev/abandon=leave-what-is-left"]).await.unwrap();
    assert!(!message.contains("seed disks"), "{message}");
    println!("{message}");
    let given_up = ["annotate", "replicatedvm", name, "--namespace", NAMESPACE, "hawser.dev/abandon=leave-what-is-left"];
    world.sandbox.kubectl(&given_up).await.unwrap();
    world.sandbox.kubectl(&["wait", "--for=delete", "replicatedvm", name, "--namespace", NAMESPACE, "--timeout=30s"]).await.unwrap();
    // It was the truth: the snapshot stands, for a person to remove.
    world.vcenter.mend_read(stall).await.unwrap();
    let left = world.vcenter.snapshots(name).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    world.vcenter.call(Method::DELETE, &format!("/snapshots/{}", left[0].mo_ref), None).await.unwrap();
}

/// The namespace of the second installation, and its release's name.
const SECOND: &str = "hawser-b";

/// Takes the second installation away.
struct Second<'a>(&'a Sandbox);

impl Drop for Second<'_> {
    fn drop(&mut self) {
        let script = format!(
            "kubectl delete replicatedvms,appliances --all --namespace {SECOND} --timeout=60s; helm uninstall {SECOND} --namespace {SECOND}; \
             kubectl delete namespace {SECOND} --wait=false; kubectl delete pv vddk-{SECOND} --wait=false"
        );
        let tools = self.0.root.join(".cache/sandbox-bin");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = std::process::Command::new("sh");
        let _ = command.args(["-c", &script]).env("PATH", path).env("KUBECONFIG", self.0.get("KUBECONFIG")).output();
    }
}

#[tokio::test]
async fn another_cluster_takes_over_from_the_same_baseline() {
    let (world, _gate) = beside_others().await;
    let sandbox = &world.sandbox;
    let first = replicated(&world, "take-over").await;
    let id = first.id().await.unwrap();
    let owner = world.log.ledger(id).await.unwrap().unwrap().owner;

    // Another cluster: an operator with another name, in a namespace of its own.
    let _second = Second(sandbox);
    sandbox.apply(&namespace(SECOND)).await.unwrap();
    sandbox.apply(&prerequisites(sandbox, SECOND, &sandbox.authority().unwrap())).await.unwrap();
    release(sandbox, SECOND, &["crds.enabled=false", "replicaCount=1", "extraArgs={--cluster=second}"]).await.unwrap();
    sandbox.apply(&appliance(sandbox, SECOND, "site-b")).await.unwrap();
    ready(sandbox, SECOND, "site-b", PATIENCE).await.unwrap();
    sandbox.apply(&Replica::manifest(SECOND, "site-b", &first.name, "")).await.unwrap();
    let second = Replica { namespace: SECOND.to_owned(), ..Replica::of(&world, &first.name) };
    let said = second.says("LedgerOwned", "OwnedByOther", PATIENCE).await.unwrap();
    assert!(said.contains(&owner.to_string()) && said.contains("takeOver"), "{said}");
    assert_eq!(second.cycles().await.unwrap().len(), 0);
    assert_eq!(world.log.ledger(id).await.unwrap().unwrap().owner, owner, "nothing is taken that is not given");

    world.vcenter.write(&first.name, 2001, 5 * MIB, MIB, 51).await.unwrap();
    patch(&second, json!({ "takeOver": owner.to_string() })).await.unwrap();
    second.told("TakenOver", PATIENCE).await.unwrap();
    second.sync("second", PATIENCE).await.unwrap();
    let cycles = second.cycles().await.unwrap();
    let cycle = cycles.last().unwrap();
    let source = cycle.status.clone().unwrap().source.unwrap();
    assert_eq!(cycles[0].spec.kind, CycleKind::Delta, "from the same baseline");
    assert!(source.changed_bytes.unwrap() <= 4 << 20 && source.uploaded_bytes.unwrap() < 4 << 20, "{source:?}");
    assert_eq!(second.equal_now().await.unwrap(), 2);
    assert_eq!(seeds(&world, &first.name).await.unwrap().len(), 2, "the same disks");

    // The first one is told, touches nothing, and may go.
    let said = first.says("LedgerOwned", "OwnedByOther", PATIENCE).await.unwrap();
    assert!(said.contains("second/hawser-b/take-over"), "{said}");
    delete(&first).await.unwrap();
    assert_eq!(seeds(&world, &first.name).await.unwrap().len(), 2, "they are the other's now");
    second.sync("again", PATIENCE).await.unwrap();
    assert_eq!(second.equal_now().await.unwrap(), 2);
    // And what the second one leaves is nothing, though the disks have the first one's tags.
    delete(&second).await.unwrap();
    wait::until("nothing is left", Duration::from_secs(30), async || nothing_is_left(&second, id).await).await.unwrap();
}

#[tokio::test]
async fn the_definitions_are_applied_without_a_warning() {
    let (world, _gate) = beside_others().await;
    let sandbox = &world.sandbox;
    let applied = sandbox.kubectl(&["apply", "--server-side", "--warnings-as-errors", "-f", "crds/"]).await.unwrap();
    assert_eq!(applied.lines().count(), 4, "{applied}");
    // As a cluster sees them that has never seen them: under another group, so that nobody's objects go when they do.
    let mut fresh = String::new();
    for entry in std::fs::read_dir(sandbox.root.join("crds")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            fresh += &format!("---\n{}\n", std::fs::read_to_string(path).unwrap());
        }
    }
    let fresh = fresh.replace(".hawser.dev", ".fresh.hawser.dev").replace("group: hawser.dev", "group: fresh.hawser.dev");
    // And only asked for: as long as there are two groups, kubectl takes either for what is called by a short name, in everybody's scenarios.
    let apply = ["apply", "--dry-run=server", "--warnings-as-errors", "-f", "-"];
    let applied = sandbox.run("kubectl", &apply, Some(&fresh)).await.unwrap();
    assert_eq!(applied.lines().filter(|line| line.ends_with(" created (server dry run)")).count(), 4, "{applied}");
    let odd = fresh.replace("format: date-time", "format: odd");
    let warned = sandbox.run("kubectl", &apply, Some(&odd)).await.unwrap_err();
    assert!(warned.contains("unrecognized format"), "{warned}");
    // What somebody asks for who has never read our pages.
    let explained = sandbox.kubectl(&["explain", "replicatedvm.spec.takeOver"]).await.unwrap();
    assert!(explained.contains("FIELD: takeOver"), "{explained}");
    for (word, kind) in [("rvm", "ReplicatedVM"), ("hawser", "Appliance")] {
        sandbox.kubectl(&["get", word, "--all-namespaces"]).await.unwrap_or_else(|why| panic!("{word} is {kind}: {why}"));
    }
}
