//! Who has disk slots of an appliance, and who waits for some: derived from the objects at each pass.

use std::{collections::BTreeMap, sync::Arc};

use crds::{
    Appliance, ReplicatedVM, ReplicationCycle,
    conditions::{ConditionType as C, Finding},
    reasons::Reason,
    replicated_vm::{Replication, WaitingFor},
};
use jiff::Timestamp;
use kube::ResourceExt;

use super::model::{Observed, Slots};
use crate::{
    admission::{Admission, Candidate, Holder, Limits, Resource, admit},
    cycle::takes_slots,
    due::due_by,
    pass::waits_for,
};

/// The slots of an appliance as all but `me` leave them. Hosts are those that VMs' own passes have seen last: what vCenter tells of a vMotion has
/// the VM looked at.
#[must_use]
pub fn slots(vms: &[Arc<ReplicatedVM>], appliance: &Appliance, cycles: &[ReplicationCycle], me: &str) -> Slots {
    let vms: BTreeMap<String, &ReplicatedVM> = vms
        .iter()
        .filter(|vm| vm.namespace() == appliance.namespace() && vm.spec.appliance_ref.name == appliance.name_any())
        .map(|vm| (vm.name_any(), vm.as_ref()))
        .collect();
    let holder = |cycle: &ReplicationCycle| Holder {
        vm: cycle.spec.vm_ref.name.clone(),
        host: vms.get(&cycle.spec.vm_ref.name).and_then(|vm| host(vm)),
        disks: usize::try_from(cycle.spec.allotment.disks).unwrap_or_default(),
    };
    let holders: Vec<Holder> = cycles.iter().filter(|cycle| takes_slots(cycle)).map(holder).collect();
    let waits = |vm: &&&ReplicatedVM| {
        let name = vm.name_any();
        waits_for_slots(vm) && name != me && !holders.iter().any(|holder| holder.vm == name)
    };
    let waiting = vms.values().filter(waits).map(|vm| candidate(vm)).collect();
    let limits = &appliance.spec.limits;
    let limits = Limits {
        appliance: usize::try_from(limits.parallel_disks).unwrap_or(1),
        host: usize::try_from(limits.disks_per_host).unwrap_or(1),
    };
    let mut busy = BTreeMap::new();
    for worker in cycles.iter().filter(|cycle| takes_slots(cycle)).filter_map(|cycle| cycle.spec.worker.clone()) {
        *busy.entry(worker).or_default() += 1;
    }
    Slots { holders, waiting, limits, busy }
}

/// What a cycle that is due since then waits for, where it lacks disk slots.
#[must_use]
pub fn lacks_slots(seen: &Observed, slots: &Slots, due: Timestamp) -> Option<(Finding, WaitingFor)> {
    let ledger = seen.ours();
    let me = Candidate {
        vm: seen.name().to_owned(),
        host: seen.source.as_ref().ok().and_then(|source| source.host.clone()).or_else(|| host(&seen.object)),
        disks: ledger.map_or(0, |ledger| ledger.seeds.len()),
        initial: ledger.is_none_or(|ledger| ledger.recovery_point.is_none()),
        since: since(&seen.object, due),
    };
    let Admission::Full { of, used, total, holders, position } = admit(&me, &slots.holders, &slots.waiting, slots.limits) else {
        return None;
    };
    let (reason, what, name) = match of {
        Resource::Appliance => (Reason::ApplianceFull, "appliance", seen.object.spec.appliance_ref.name.clone()),
        Resource::Host(name) => (Reason::HostFull, "host", name),
    };
    let message = format!("{used} of {total} disk slots of the {what} {name} are taken; place {position} in the queue");
    let count = |count: usize| i64::try_from(count).ok();
    let waiting =
        WaitingFor { used: count(used), capacity: count(total), holders, position: count(position), ..waits_for(reason, Some(name)) };
    Some((Finding::fails(C::Replicating, reason, message), waiting))
}

/// True for one that said so last. It no longer does where it goes: cleaning up may take long, and its status is written afterwards.
fn waits_for_slots(vm: &ReplicatedVM) -> bool {
    let wait = vm.status.as_ref().and_then(|status| status.waiting_for.as_ref());
    let reason = wait.and_then(|WaitingFor { reason, .. }| Reason::from_word(reason));
    matches!(reason, Some(Reason::ApplianceFull | Reason::HostFull))
        && vm.metadata.deletion_timestamp.is_none()
        && vm.spec.replication != Replication::Stopped
}

fn candidate(vm: &ReplicatedVM) -> Candidate {
    let status = vm.status.clone().unwrap_or_default();
    let disks = status.disks.iter().filter(|disk| !disk.excluded).count();
    let initial = status.recovery_point.is_none();
    let failures = status.failures.and_then(|count| u32::try_from(count).ok()).unwrap_or_default();
    let done = status.last_sync_now.as_ref();
    let due = due_by(&vm.spec, vm.metadata.uid.as_deref(), done, !initial, status.last_cycle.as_ref(), failures);
    Candidate { vm: vm.name_any(), host: host(vm), disks, initial, since: since(vm, due) }
}

/// The host that a VM was on when it was looked at last.
#[must_use]
pub fn host(vm: &ReplicatedVM) -> Option<String> {
    vm.status.as_ref()?.vm.as_ref()?.host.clone()
}

/// Since when a VM waits whose cycle is due by then: a first cycle not before there was something to replicate.
#[must_use]
pub fn since(vm: &ReplicatedVM, due: Timestamp) -> Timestamp {
    vm.metadata.creation_timestamp.as_ref().map_or(due, |created| due.max(created.0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn appliance() -> Appliance {
        serde_json::from_value(json!({
            "apiVersion": "hawser.dev/v1alpha1", "kind": "Appliance", "metadata": { "name": "onprem", "namespace": "apps" },
            "spec": {
                "vcenter": { "url": "https://vc", "credentialsSecretRef": { "name": "vc" } },
                "azure": { "subscriptionId": "s", "resourceGroup": "g", "location": "l" },
                "logStore": { "accountUrl": "https://a" }, "encryption": { "keySecretRef": { "name": "k" } },
                "diskAccess": { "method": "VDDK", "vddk": { "claimName": "vddk" } },
                "limits": { "parallelDisks": 12, "disksPerHost": 4 },
            },
        }))
        .unwrap()
    }

    /// A VM on `esx-1` that waits for its first cycle.
    fn vm(name: &str, edit: impl FnOnce(&mut Value)) -> Arc<ReplicatedVM> {
        let disk = |excluded| json!({ "key": 2000, "label": "d", "capacityBytes": 1, "excluded": excluded });
        let mut object = json!({
            "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicatedVM",
            "metadata": { "name": name, "namespace": "apps", "creationTimestamp": "2026-11-29T00:00:00Z" },
            "spec": { "applianceRef": { "name": "onprem" }, "vm": { "moRef": "vm-1" }, "target": {} },
            "status": {
                "vm": { "moRef": "vm-1", "name": name, "instanceUuid": "u", "vcenterUuid": "v", "host": "esx-1" },
                "disks": [disk(false), disk(true), disk(false)],
                "waitingFor": { "reason": "HostFull" },
            },
        });
        edit(&mut object);
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn cycle(vm: &str, disks: i32, transferred: &str) -> ReplicationCycle {
        serde_json::from_value(json!({
            "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicationCycle",
            "metadata": { "name": format!("{vm}-1"), "namespace": "apps", "finalizers": [crds::names::SNAPSHOT_FINALIZER] },
            "spec": {
                "vmRef": { "name": vm }, "applianceRef": { "name": "onprem" }, "cycle": 1, "incarnation": "i",
                "owner": { "cluster": "c", "object": "o" }, "vm": { "vcenterUuid": "v", "instanceUuid": "u", "moRef": "vm-1" },
                "kind": "Initial", "basis": 0, "disks": [{ "key": 2000, "capacityBytes": 1 }], "quiesce": "Never",
                "allotment": { "disks": disks },
            },
            "status": { "conditions": [{
                "type": "Transferred", "status": transferred, "reason": "Transferring", "message": "", "lastTransitionTime": "2026-11-29T00:00:00Z",
            }] },
        }))
        .unwrap()
    }

    #[test]
    fn who_has_slots_and_who_waits_is_in_the_objects() {
        let vms = [
            vm("me", |_| ()),
            vm("waits", |_| ()),
            vm("for-appliance", |vm| vm["status"]["waitingFor"]["reason"] = json!("ApplianceFull")),
            vm("runs", |vm| vm["status"]["vm"]["host"] = json!("esx-2")),
            vm("due", |vm| vm["status"]["waitingFor"] = Value::Null),
            vm("stopped", |vm| vm["spec"]["replication"] = json!("Stopped")),
            vm("deleted", |vm| vm["metadata"]["deletionTimestamp"] = json!("2026-11-29T00:01:00Z")),
            vm("others", |vm| vm["spec"]["applianceRef"]["name"] = json!("another")),
            vm("elsewhere", |vm| vm["metadata"]["namespace"] = json!("other")),
        ];
        let cycles = [cycle("runs", 3, "Unknown"), cycle("sent", 4, "True")];
        let slots = slots(&vms, &appliance(), &cycles, "me");
        assert_eq!(slots.limits, Limits { appliance: 12, host: 4 });
        assert_eq!(slots.holders, [Holder { vm: "runs".into(), host: Some("esx-2".into()), disks: 3 }]);
        let created = "2026-11-29T00:00:00Z".parse().unwrap();
        let waits = |name: &str| Candidate { vm: name.into(), host: Some("esx-1".into()), disks: 2, initial: true, since: created };
        assert_eq!(slots.waiting, [waits("for-appliance"), waits("waits")]);
    }

    #[test]
    fn a_first_cycle_waits_since_its_vm_was_created() {
        let vm = vm("web", |_| ());
        let (epoch, later) = (Timestamp::UNIX_EPOCH, "2026-11-29T05:00:00Z".parse().unwrap());
        assert_eq!(since(&vm, epoch), "2026-11-29T00:00:00Z".parse().unwrap());
        assert_eq!(since(&vm, later), later);
    }
}
