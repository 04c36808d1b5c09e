//! Reconciles a ReplicatedVM as soon as vCenter reports a change of its VM: a disk that was added need not wait for the next look.

use std::{collections::BTreeMap, sync::Arc};

use crds::{Read, ReplicatedVM};
use futures::{Stream, stream};
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::{broadcast, watch};
use uuid::Uuid;
use vsphere::{MoRef, collector::Inventory, model::vm::Vm};

/// A VM that has come, gone or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    uuid: Option<Uuid>,
    /// True where it may be another one's than it was: it is new, or has another name.
    appears: bool,
}

type Changed = BTreeMap<MoRef, Change>;

/// The VMs of an appliance's vCenter that have come, gone or changed since its last report.
#[derive(Debug, Clone)]
struct News {
    namespace: String,
    appliance: String,
    vms: Arc<Changed>,
}

impl News {
    /// Whether it is about the VM that is meant; one that was not found yet may be any that appears.
    fn concern(&self, object: &ReplicatedVM) -> bool {
        let known = object.status.as_ref().and_then(|status| status.vm.as_ref());
        let told = |(reference, change): (&MoRef, &Change)| match known {
            Some(known) => {
                known.mo_ref == reference.id() || change.uuid.is_some_and(|uuid| Uuid::parse_str(&known.instance_uuid) == Ok(uuid))
            }
            None => change.appears,
        };
        object.spec.appliance_ref.name == self.appliance
            && object.namespace().as_deref() == Some(&self.namespace)
            && self.vms.iter().any(told)
    }
}

/// The changes of VMs that all vCenters report, for the controllers that reconcile by them.
#[derive(Debug, Clone)]
pub struct VmChanges(broadcast::Sender<News>);

impl Default for VmChanges {
    fn default() -> Self {
        // Whoever misses some looks at the next interval, as if nobody told.
        Self(broadcast::Sender::new(256))
    }
}

impl VmChanges {
    /// Follows the inventory of an appliance's vCenter, for as long as there is one.
    pub async fn follow(self, namespace: String, appliance: String, mut inventory: watch::Receiver<Arc<Inventory>>) {
        let mut before = Arc::default();
        loop {
            let now = inventory.borrow_and_update().clone();
            let vms = changed(&before, &now);
            if !vms.is_empty() {
                // Nobody listens while the operator ends.
                let _ = self.0.send(News { namespace: namespace.clone(), appliance: appliance.clone(), vms: Arc::new(vms) });
            }
            before = now;
            if inventory.changed().await.is_err() {
                return;
            }
        }
    }

    /// The ReplicatedVMs of a store that something is told of.
    pub fn wakes(&self, vms: Store<Read<ReplicatedVM>>) -> impl Stream<Item = ObjectRef<Read<ReplicatedVM>>> + Send + 'static {
        let batches = stream::unfold((self.0.subscribe(), vms), async |(mut news, vms)| {
            let meant: Vec<_> = loop {
                match news.recv().await {
                    Ok(news) => {
                        let all = vms.state();
                        break all
                            .iter()
                            .filter(|vm| vm.readable().is_some_and(|vm| news.concern(vm)))
                            .map(|vm| ObjectRef::from_obj(vm.as_ref()))
                            .collect();
                    }
                    Err(broadcast::error::RecvError::Lagged(missed)) => tracing::debug!(missed, "what vCenter told"),
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            };
            Some((stream::iter(meant), (news, vms)))
        });
        futures::StreamExt::flatten(batches)
    }
}

/// The VMs that are not what they were.
fn changed(before: &Inventory, now: &Inventory) -> Changed {
    let differs = |reference: &MoRef| match (before.vms.get(reference), now.vms.get(reference)) {
        (Some(old), Some(new)) => !Arc::ptr_eq(old, new) && old != new,
        _ => true,
    };
    // Whoever was told that nothing is heard waits for it.
    let heard_again = before.trouble.is_some() && now.trouble.is_none();
    // Of one that is in both what it is now counts.
    let all = before.vms.iter().chain(&now.vms).filter(|(reference, _)| heard_again || differs(reference));
    let change = |(of, vm): (&MoRef, &Arc<Vm>)| {
        let names = |vm: &Arc<Vm>| (vm.name.clone(), vm.instance_uuid);
        let appears = now.vms.get(of).is_some_and(|now| before.vms.get(of).map(names) != Some(names(now)));
        (of.clone(), Change { uuid: vm.instance_uuid, appears })
    };
    all.map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::reasons::Reason;
    use futures::StreamExt;
    use kube::runtime::{reflector::store, watcher::Event};
    use serde_json::json;
    use vsphere::classify::{Class, Verdict};

    fn vm(uuid: u128, name: &str) -> Arc<Vm> {
        Arc::new(Vm { instance_uuid: Some(Uuid::from_u128(uuid)), name: name.into(), ..Vm::default() })
    }

    fn inventory(vms: &[(&str, &Arc<Vm>)]) -> Arc<Inventory> {
        let vms = vms.iter().map(|(id, vm)| (MoRef::vm((*id).to_owned()), (*vm).clone())).collect();
        Arc::new(Inventory { vms, ..Inventory::default() })
    }

    fn object(name: &str, appliance: &str, known: Option<(&str, u128)>) -> ReplicatedVM {
        let known = known.map(
            |(mo_ref, uuid)| json!({ "name": name, "moRef": mo_ref, "vcenterUuid": "", "instanceUuid": Uuid::from_u128(uuid).to_string() }),
        );
        serde_json::from_value(json!({
            "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicatedVM",
            "metadata": { "name": name, "namespace": "apps" },
            "spec": { "applianceRef": { "name": appliance }, "vm": { "moRef": "vm-1" } },
            "status": { "vm": known },
        }))
        .unwrap()
    }

    #[test]
    fn what_came_went_or_changed_is_told_and_nothing_else() {
        let (same, old, new) = (vm(1, "same"), vm(2, "old"), vm(2, "new"));
        let before = inventory(&[("vm-1", &same), ("vm-2", &old), ("vm-3", &vm(3, "goes"))]);
        let now = inventory(&[("vm-1", &vm(1, "same")), ("vm-2", &new), ("vm-4", &vm(4, "comes"))]);
        let told: Vec<_> = changed(&before, &now).into_keys().map(|reference| reference.id().to_owned()).collect();
        assert_eq!(told, ["vm-2", "vm-3", "vm-4"]);
        let appear: Vec<_> = changed(&before, &now).into_values().map(|change| change.appears).collect();
        assert_eq!(appear, [true, false, true]);
        let moved = Arc::new(Vm { tools_running: true, ..same.as_ref().clone() });
        let moved = changed(&before, &inventory(&[("vm-1", &moved), ("vm-2", &old), ("vm-3", &vm(3, "goes"))]));
        assert_eq!(moved.into_values().map(|change| change.appears).collect::<Vec<_>>(), [false], "changed, and what it was");
        assert!(changed(&now, &now).is_empty());
        let unheard = Inventory {
            trouble: Some(Verdict { class: Class::Retry, reason: Reason::Unreachable, message: String::new() }),
            ..(*now).clone()
        };
        assert!(changed(&now, &unheard).is_empty());
        assert_eq!(changed(&unheard, &now).len(), 3, "all that wait for it");
    }

    #[tokio::test]
    async fn a_change_wakes_who_means_the_vm_or_has_found_none() {
        let (reader, mut writer) = store::store();
        writer.apply_watcher_event(&Event::Init);
        for one in [
            object("same-ref", "site-a", Some(("vm-2", 9))),
            object("registered-anew", "site-a", Some(("vm-8", 2))),
            object("not-found", "site-a", None),
            object("another", "site-a", Some(("vm-1", 1))),
            object("elsewhere", "site-b", Some(("vm-2", 2))),
        ] {
            writer.apply_watcher_event(&Event::InitApply(Read(Ok(Arc::new(one)))));
        }
        writer.apply_watcher_event(&Event::InitDone);
        let told = VmChanges::default();
        let woken = told.wakes(reader);
        let (out, inventories) = watch::channel(inventory(&[("vm-1", &vm(1, "a"))]));
        let follows = tokio::spawn(told.follow("apps".into(), "site-a".into(), inventories));
        // The first that is known of wakes those of vm-1, and the one that looks for its VM.
        let mut woken = Box::pin(woken.map(|it| it.name));
        let mut first = [woken.next().await.unwrap(), woken.next().await.unwrap()];
        first.sort();
        assert_eq!(first, ["another", "not-found"]);
        out.send_replace(inventory(&[("vm-1", &vm(1, "a")), ("vm-2", &vm(2, "b"))]));
        let mut second = [woken.next().await.unwrap(), woken.next().await.unwrap(), woken.next().await.unwrap()];
        second.sort();
        assert_eq!(second, ["not-found", "registered-anew", "same-ref"]);
        drop(out);
        follows.await.unwrap();
        assert_eq!(woken.next().await, None, "nothing else was told");
    }
}
