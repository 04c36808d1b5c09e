//! Appliances: what they refer to is read, what they talk to is asked, and their workers are deployed.

pub mod check;
pub mod gather;
pub mod pods;
pub mod site;
pub mod sites;

use std::{sync::Arc, time::Duration};

use crds::{
    Appliance, ApplianceStatus, ReplicatedVM, ReplicationCycle,
    appliance::{ApplierMode, Pods, Slots},
    conditions::{self, ConditionType as C, Finding, Kind, Status},
    names,
    reasons::Reason,
    replicated_vm::Replication,
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::{Value, json};

use self::{pods::Component, site::Site};
use crate::{
    context::Context,
    cycle::takes_slots,
    objects::{MANAGER, delete, finalizers, is_held_by, write_status},
    pass::{edges, ready},
    reading,
    status_writes::Worth,
    trouble::Trouble,
};

/// How often an appliance is looked at, so that within 15 s it is told what is wrong (a role that was taken away, a server that fell silent), and what
/// is well again.
const LOOK: Duration = Duration::from_secs(7);
const _: () =
    assert!(LOOK.as_secs() + check::ANSWER.as_secs() <= 12, "the next look begins when the last one is over, and tells when it is");

/// What `Ready` says where nothing is wrong.
const WELL: &str = "vCenter, Azure, log store and workers are as they should be";

/// Passes once over an appliance.
///
/// # Errors
/// Where the apiserver does not do what it is asked.
pub async fn reconcile<K: Resource<DynamicType = ()>>(appliance: Arc<K>, context: Arc<Context>) -> Result<Action, Trouble> {
    let (namespace, name) = (appliance.namespace().unwrap_or_default(), appliance.name_any());
    let api: Api<Appliance> = Api::namespaced(context.client.clone(), &namespace);
    // What a watch told may be behind what was written.
    let appliance = match reading::get::<Appliance>(&context.client, &namespace, &name).await? {
        None => {
            context.sites.remove(&namespace, &name);
            return Ok(Action::await_change());
        }
        Some(Err(unread)) => {
            reading::tell::<Appliance>(&context, &unread, C::Ready, Status::False).await?;
            return Ok(Action::await_change());
        }
        Some(Ok(appliance)) => appliance,
    };
    let of_it = ListParams::default().fields(&format!("spec.applianceRef.name={name}"));
    let vms = reading::list::<ReplicatedVM>(&context.client, &namespace, &of_it).await?;
    let deleted = appliance.metadata.deletion_timestamp.is_some();
    // As long as there are ReplicatedVMs they need it, to leave nothing behind: also those that can't be read.
    if deleted && vms.names().is_empty() {
        finalizers(&api, &appliance, |all| all.retain(|one| one != names::APPLIANCE_FINALIZER)).await?;
        if let Some(site) = context.sites.remove(&namespace, &name) {
            site.leave().await;
        }
        return Ok(Action::await_change());
    }
    if !deleted && !is_held_by(&appliance, names::APPLIANCE_FINALIZER) {
        finalizers(&api, &appliance, |all| all.push(names::APPLIANCE_FINALIZER.to_owned())).await?;
    }
    let inputs = gather::gather(&context.client, &namespace, &appliance).await;
    let before = context.sites.get(&namespace, &name);
    let tell = |inventory| context.vm_changes.clone().follow(namespace.clone(), name.clone(), inventory);
    let site = Arc::new(Site::build(inputs, before.as_deref(), &context.clock, tell).await);
    context.sites.put(&namespace, &name, site.clone());
    let old = appliance.status.clone().unwrap_or_default();
    let ((mut findings, vcenter), azure, log, workers) = tokio::join!(
        check::vcenter(&site, old.vcenter.clone(), context.clock.as_ref()),
        check::azure(&site, context.clock.as_ref()),
        check::log(&site, context.clock.as_ref()),
        deploy(&context, &namespace, &appliance),
    );
    let (workers, gateways, appliers) = workers.unwrap_or_else(|refused| {
        let finding = Finding::fails(C::WorkersAvailable, refused.reason, refused.message);
        (finding, old.gateways.unwrap_or_default(), old.appliers.unwrap_or_default())
    });
    findings.push(azure);
    findings.extend(log);
    findings.push(check::tls(&site, &findings));
    findings.push(workers);
    findings.push(if deleted { waits_for_vms(&vms.names()) } else { is_ready(&findings) });
    let of_it = ListParams::default().labels(&format!("{}={name}", names::APPLIANCE_LABEL));
    let cycles = reading::list::<ReplicationCycle>(&context.client, &namespace, &of_it).await?;
    let transfers = cycles.readable.iter().filter(|cycle| takes_slots(cycle));
    let unread = reading::holders(&cycles.unreadable).map(|holder| i32::try_from(holder.disks).unwrap_or_default());
    let used = transfers.map(|cycle| cycle.spec.allotment.disks).chain(unread).sum();
    // One whose VM was never found is not replicated; one that can't be read is, as far as anybody knows.
    let found = |vm: &&ReplicatedVM| vm.status.as_ref().is_some_and(|status| status.vm.is_some());
    let active = vms.readable.iter().filter(|vm| vm.spec.replication != Replication::Stopped);
    let replicating = active.filter(found).count() + vms.unreadable.len();
    let now = context.clock.now();
    let status = ApplianceStatus {
        observed_generation: appliance.metadata.generation,
        conditions: conditions::merge(&old.conditions, &findings, appliance.metadata.generation, now),
        vcenter,
        gateways: Some(gateways),
        appliers: (appliance.spec.applier.mode == ApplierMode::InCluster).then_some(appliers),
        disk_slots: Some(Slots { used, total: appliance.spec.limits.parallel_disks }),
        replicating_vms: i32::try_from(replicating).ok(),
    };
    if context.writes.ask(&appliance, Some(&old), &status, context.clock.monotonic()) == Worth::Write {
        write_status(&api, &name, &status, None).await?;
        for edge in edges(&old.conditions, &status.conditions) {
            context.event(&appliance, edge.warning, edge.reason, "Check", &edge.note).await;
        }
    }
    Ok(Action::requeue(LOOK))
}

/// The names of the Secrets and ConfigMaps that an appliance refers to.
#[must_use]
pub fn references(spec: &crds::ApplianceSpec) -> Vec<&str> {
    let bundles = [&spec.vcenter.ca_bundle_ref, &spec.azure.ca_bundle_ref].into_iter().flatten().map(|bundle| bundle.name.as_str());
    let secrets = [
        Some(&spec.vcenter.credentials_secret_ref),
        Some(&spec.encryption.key_secret_ref),
        spec.azure.credentials.client_secret_ref.as_ref(),
    ];
    bundles.chain(secrets.into_iter().flatten().map(|secret| secret.name.as_str())).collect()
}

fn waits_for_vms(names: &[String]) -> Finding {
    let message = format!("it is deleted, and goes when its ReplicatedVMs have gone: {}", names.join(", "));
    Finding::fails(C::Ready, Reason::CleaningUp, message)
}

/// Whether the appliance is ready. Who may not ask what it may do may well be allowed all of it: that keeps nothing from being tried.
fn is_ready(findings: &[Finding]) -> Finding {
    let unchecked = |one: &&Finding| one.of == C::AzurePermissions && one.status == Status::Unknown;
    let counted: Vec<Finding> = findings.iter().filter(|one| !unchecked(one)).cloned().collect();
    let well = if counted.len() < findings.len() { "all is well but that the principal's rights in Azure can't be checked" } else { WELL };
    ready(Kind::Appliance.conditions(), &counted, well)
}

/// Deploys the workers, and says how many are ready.
async fn deploy(context: &Context, namespace: &str, appliance: &Appliance) -> Result<(Finding, Pods, Pods), Trouble> {
    let (mut counts, mut missing) = ([Pods::default(); 2], Vec::new());
    for (component, count) in [Component::Gateway, Component::Applier].into_iter().zip(&mut counts) {
        let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), namespace);
        let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
        let name = component.name(&appliance.name_any());
        if component == Component::Applier && appliance.spec.applier.mode == ApplierMode::External {
            if deployments.get_opt(&name).await?.is_some_and(|current| owned(&current, appliance)) {
                delete(&maps, &name).await?;
                delete(&deployments, &name).await?;
            }
            continue;
        }
        apply(&maps, &name, &pods::config_map(appliance, component, &context.settings.cluster)).await?;
        let found: Deployment = apply(&deployments, &name, &pods::deployment(appliance, component, &context.settings)).await?;
        let ready = found.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        *count = Pods { wanted: component.wanted(appliance), ready };
        if ready < 1 && count.wanted > 0 {
            let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
            let why = conditions.iter().find_map(|one| one.message.clone()).unwrap_or_default();
            missing.push(format!("{name}: {ready} of {} pods are ready. {why}", count.wanted));
        }
    }
    let finding = if missing.is_empty() {
        let [gateways, appliers] = counts.map(|pods| format!("{} of {}", pods.ready, pods.wanted));
        let message = match appliance.spec.applier.mode {
            ApplierMode::InCluster => format!("{gateways} gateways and {appliers} appliers are ready"),
            ApplierMode::External => format!("{gateways} gateways are ready; appliers run elsewhere"),
        };
        Finding::holds(C::WorkersAvailable, Reason::AsExpected, message)
    } else {
        Finding::fails(C::WorkersAvailable, Reason::PodsNotReady, missing.join("; "))
    };
    Ok((finding, counts[0], counts[1]))
}

fn owned(deployment: &Deployment, appliance: &Appliance) -> bool {
    deployment.owner_references().iter().any(|owner| Some(&owner.uid) == appliance.metadata.uid.as_ref())
}

/// Has an object be so, where it is not: most looks change nothing, and write nothing.
async fn apply<K>(api: &Api<K>, name: &str, object: &Value) -> Result<K, Trouble>
where
    K: Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object = marked(object);
    let current = api.get_opt(name).await?;
    if let Some(current) = current.filter(|current| serde_json::to_value(current).is_ok_and(|current| has(&current, &object))) {
        return Ok(current);
    }
    Ok(api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await?)
}

/// With a digest of itself, so that what is not wanted any more is missed: by what stands alone it could be somebody else's.
fn marked(object: &Value) -> Value {
    let mut marked = object.clone();
    marked["metadata"]["annotations"]["hawser.dev/applied"] = json!(&blake3::hash(object.to_string().as_bytes()).to_hex()[..16]);
    marked
}

/// True where all that is wanted is there. What else is there was put in by the apiserver, or is somebody else's.
fn has(current: &Value, wanted: &Value) -> bool {
    match (current, wanted) {
        (_, Value::Null) => true,
        (Value::Object(current), Value::Object(wanted)) => {
            let empty =
                |wanted: &Value| wanted.is_null() || wanted.as_object().is_some_and(serde_json::Map::is_empty) || *wanted == json!([]);
            // The kind is not told by an object that was read as one of its type; what is empty is not told at all.
            wanted.iter().all(|(key, wanted)| match current.get(key) {
                Some(current) => has(current, wanted),
                None => empty(wanted),
            })
        }
        (Value::Array(current), Value::Array(wanted)) => {
            current.len() == wanted.len() && current.iter().zip(wanted).all(|(current, wanted)| has(current, wanted))
        }
        (current, wanted) => current == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_appliance_whose_rights_can_not_be_checked_is_ready() {
        let all = |of: C, status: Status| -> Vec<Finding> {
            let kinds = Kind::Appliance.conditions().iter().filter(|one| **one != C::Ready);
            let finding = |one: &C| match (*one == of, status) {
                (true, Status::Unknown) => Finding::open(*one, Reason::RolesMissing, "x"),
                (true, Status::False) => Finding::fails(*one, Reason::RolesMissing, "x"),
                _ => Finding::holds(*one, Reason::AsExpected, ""),
            };
            kinds.map(finding).collect()
        };
        assert_eq!(is_ready(&all(C::AzurePermissions, Status::Unknown)).status, Status::True);
        assert_eq!(is_ready(&all(C::AzurePermissions, Status::False)).status, Status::False);
        assert_eq!(is_ready(&all(C::VCenterPrivileges, Status::Unknown)).status, Status::Unknown);
    }

    #[test]
    fn what_is_so_already_is_not_written_again() {
        let wanted = marked(&json!({ "metadata": { "name": "a" }, "spec": {
            "replicas": 2, "nodeSelector": {}, "tolerations": [], "resources": null, "containers": [{ "name": "c", "args": ["x", "y"] }],
        } }));
        let mut current = wanted.clone();
        for gone in ["nodeSelector", "tolerations", "resources"] {
            current["spec"].as_object_mut().unwrap().remove(gone);
        }
        current["metadata"]["uid"] = json!("1");
        current["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
        assert!(has(&current, &wanted), "what the apiserver puts in is no difference");
        let differs = |path: &str, value: Value| {
            let mut other = current.clone();
            *other.pointer_mut(path).unwrap() = value;
            !has(&other, &wanted)
        };
        assert!(differs("/spec/replicas", json!(3)), "somebody has scaled it");
        assert!(differs("/spec/containers/0/args", json!(["x"])));
        assert!(differs("/spec/containers", json!([])));
        // What was wanted before, and is not any more, stands there still.
        let mut less = wanted.clone();
        less["metadata"].as_object_mut().unwrap().remove("annotations");
        less["spec"]["containers"][0].as_object_mut().unwrap().remove("args");
        assert!(has(&current, &less) && !has(&current, &marked(&less)));
    }
}
