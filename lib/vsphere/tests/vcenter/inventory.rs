//! The collector, and preflight over what it tells.

use std::{sync::Arc, time::Duration};

use reasons::{ConcernId, Severity};
use serde_json::{Value, json};
use tokio::sync::watch;
use vsphere::{
    MoRef,
    collector::{Collector, Inventory},
    model::vm::{Firmware, Power},
    preflight::{Around, preflight},
};

use crate::fixture::{MIB, Simulator, vm};

struct Following {
    seen: watch::Receiver<Arc<Inventory>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    fn of(simulator: &Simulator) -> Self {
        let collector = Collector::new(simulator.client());
        let seen = collector.inventory();
        Self { seen, task: tokio::spawn(async move { collector.run().await }) }
    }

    /// Waits until the inventory is as it should be.
    async fn until(&mut self, what: &str, is: impl Fn(&Inventory) -> bool) -> Arc<Inventory> {
        let wait = self.seen.wait_for(|inventory| is(inventory));
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
    }
}

fn named<'a>(inventory: &'a Inventory, name: &str) -> Option<(&'a MoRef, &'a vsphere::model::vm::Vm)> {
    inventory.vms.iter().find(|(_, vm)| vm.name == name).map(|(reference, vm)| (reference, vm.as_ref()))
}

#[tokio::test]
async fn the_inventory_follows_vcenter() {
    let efi = json!({"firmware": "efi", "guest": "ubuntu64Guest", "nics": [{"network": "VM Network"}], "disks": [{"size": "64MiB"}, {"size": "32MiB"}]});
    let simulator = Simulator::start(&[vm("a", efi), vm("b", json!({"power": "off"}))]);
    let mut following = Following::of(&simulator);
    let all = following.until("everything is told", Inventory::complete).await;
    assert_eq!((all.vms.len(), all.hosts.len(), all.datastores.len()), (2, 2, 3));
    let (_, a) = named(&all, "a").unwrap();
    assert_eq!((a.firmware, a.guest_id.as_deref(), a.power), (Some(Firmware::Efi), Some("ubuntu64Guest"), Power::On));
    assert_eq!(a.disks().iter().map(|disk| (disk.key, disk.capacity)).collect::<Vec<_>>(), [(2000, 64 * MIB), (2001, 32 * MIB)]);
    assert!(a.disks().iter().all(|disk| disk.backing.change_id.is_some() && disk.identity().is_some()));
    assert_eq!(a.devices.as_ref().unwrap().nics.len(), 1);
    assert!(a.unread.is_empty(), "{:?}", a.unread);
    assert!(a.tracking && a.hardware.unwrap() >= 7 && a.instance_uuid.is_some());
    assert_eq!(all.hosts[a.host.as_ref().unwrap()].name, "esx-1");
    assert_eq!(all.datastores[&a.datastores[0]].name, "vmfs");
    assert_eq!(all.by_instance(a.instance_uuid.unwrap()).unwrap().1.name, "a");

    simulator.put("/vms/a/name", json!({"name": "c"})).await;
    simulator.post("/vms/b/disks", json!({"size": 16 * MIB})).await;
    simulator.post("/vms/c/snapshots", json!({"name": "before", "description": "an upgrade"})).await;
    let seen = following.until("it is renamed, has a disk more, and a snapshot", |inventory| {
        named(inventory, "c").is_some_and(|(_, vm)| vm.snapshots.nodes.len() == 1)
            && named(inventory, "b").is_some_and(|(_, vm)| vm.disks().len() == 2)
    });
    let seen = seen.await;
    assert_eq!(named(&seen, "c").unwrap().1.snapshots.current_path()[0].name, "before");

    simulator.post("/vms/c/migrate", json!({"host": "esx-2"})).await;
    simulator.ask("PATCH", "/hosts/esx-2", json!({"connection": "notResponding"})).await;
    let moved = following.until("it has moved to a host that does not respond", |inventory| {
        let host = named(inventory, "c").and_then(|(_, vm)| inventory.hosts.get(vm.host.as_ref()?));
        host.is_some_and(|host| host.name == "esx-2" && !host.usable())
    });
    moved.await;

    simulator.delete("/vms/b").await;
    following.until("it is gone", |inventory| named(inventory, "b").is_none()).await;
}

#[tokio::test]
async fn a_collector_survives_the_loss_of_sessions_and_health() {
    let simulator = Simulator::start(&[vm("a", json!({})), vm("still", json!({}))]);
    let mut following = Following::of(&simulator);
    let first = following.until("everything is told", Inventory::complete).await;
    // Of this one nothing is ever new: it has to be told again whenever a filter is.
    let still = named(&first, "still").map(|(_, vm)| vm.clone()).unwrap();
    let stands = |inventory: &Inventory| assert_eq!(named(inventory, "still").map(|(_, vm)| vm), Some(&still));
    simulator.delete("/sessions").await;
    simulator.put("/vms/a/name", json!({"name": "b"})).await;
    following.until("it is renamed after the session was lost", |inventory| named(inventory, "b").is_some()).await;

    simulator.post("/faults", json!({"method": "*", "status": 503, "count": 6})).await;
    simulator.put("/vms/b/name", json!({"name": "c"})).await;
    simulator.delete("/sessions").await;
    let stale = following.until("the trouble is told", |inventory| inventory.trouble.is_some()).await;
    assert_eq!(stale.vms.len(), 2, "what was known stays");
    let well = following.until("it is well again", |inventory| inventory.trouble.is_none() && named(inventory, "c").is_some()).await;
    stands(&well);

    // The wait alone breaks off, and session and filter live on.
    simulator.post("/faults", json!({"method": "WaitForUpdatesEx", "on": "http", "status": 503, "count": 2})).await;
    simulator.put("/vms/c/name", json!({"name": "e"})).await;
    following.until("the trouble of the wait is told", |inventory| inventory.trouble.is_some()).await;
    simulator.put("/vms/e/name", json!({"name": "c"})).await;
    let well = following.until("the wait is well again", |inventory| inventory.trouble.is_none() && named(inventory, "c").is_some()).await;
    stands(&well);

    simulator.post("/faults", json!({"method": "WaitForUpdatesEx", "fault": "InvalidCollectorVersion", "count": 1})).await;
    simulator.put("/vms/c/name", json!({"name": "d"})).await;
    let again = following.until("the collector's version was lost", |inventory| named(inventory, "d").is_some()).await;
    stands(&again);
}

#[tokio::test]
async fn preflight_names_what_can_not_be_replicated() {
    let disk = |more: Value| json!({"disks": [more]});
    let size = "16MiB";
    let vms = [
        vm("plain", json!({})),
        vm("independent", disk(json!({"size": size, "mode": "independent_persistent"}))),
        vm("physical", disk(json!({"size": size, "rdm": "physical"}))),
        vm("shared", disk(json!({"size": size, "multiWriter": true}))),
        vm("old", json!({"hardware": 4, "cbt": false})),
        vm("unsupported", json!({"cbtSupported": false, "cbt": false})),
        vm("untracked", json!({"cbt": false})),
        vm("twin", json!({"faultTolerance": true})),
        vm("secret", json!({"encryptionKey": "key-1"})),
        vm("template", json!({"template": true, "power": "off"})),
    ];
    let simulator = Simulator::start(&vms);
    let mut following = Following::of(&simulator);
    let all = following.until("everything is told", Inventory::complete).await;
    let worst = |name: &str| {
        let (_, vm) = named(&all, name).unwrap_or_else(|| panic!("{name}"));
        let around = Around {
            host: vm.host.as_ref().and_then(|host| all.hosts.get(host)).map(AsRef::as_ref),
            may_switch_tracking: true,
            ..Around::default()
        };
        let concerns = preflight(vm, &around);
        concerns
            .into_iter()
            .filter(|concern| concern.id.severity() <= Severity::Warning)
            .map(|concern| (concern.id, concern.disk))
            .collect::<Vec<_>>()
    };
    assert_eq!(worst("plain"), []);
    assert_eq!(worst("independent"), [(ConcernId::IndependentDisk, Some(2000))]);
    assert_eq!(worst("physical"), [(ConcernId::RawDeviceMapping, Some(2000))]);
    assert_eq!(worst("shared"), [(ConcernId::SharedDisk, Some(2000))]);
    assert_eq!(worst("old"), [(ConcernId::ChangeTrackingUnsupported, None)]);
    assert_eq!(worst("unsupported"), [(ConcernId::ChangeTrackingUnsupported, None)]);
    assert_eq!(worst("untracked"), []);
    assert_eq!(worst("twin"), [(ConcernId::FaultTolerant, None)]);
    assert_eq!(worst("secret").first(), Some(&(ConcernId::Encrypted, None)));
    assert_eq!(worst("template"), [(ConcernId::Template, None)]);
}

#[tokio::test]
async fn more_than_a_page_is_told_whole() {
    let vms: Vec<Value> = (0..130).map(|n| vm(&format!("vm-{n}"), json!({"disks": [{"size": "1MiB"}]}))).collect();
    let simulator = Simulator::start(&vms);
    let mut following = Following::of(&simulator);
    let all = following.until("everything is told", Inventory::complete).await;
    assert_eq!(all.vms.len(), 130);
    assert!(all.vms.values().all(|vm| vm.unread.is_empty() && vm.disks().len() == 1));
    // What is complete was told at once: nobody has seen a part of it.
    let references: Vec<MoRef> = all.vms.keys().cloned().collect();
    let wanted = [vsphere::methods::properties::Wanted { kind: "VirtualMachine", paths: &["name"] }];
    let read = simulator.client().retrieve(&wanted, &references).await.unwrap();
    assert_eq!(read.len(), 130);
}

#[tokio::test]
async fn a_vm_is_off_since_it_is_watched() {
    let simulator = Simulator::start(&[vm("a", json!({"power": "off"})), vm("on", json!({}))]);
    let mut following = Following::of(&simulator);
    let since = |inventory: &Inventory, name: &str| named(inventory, name).and_then(|(_, vm)| vm.off_since);
    let first = following.until("everything is told", Inventory::complete).await;
    let begun = since(&first, "a").expect("it is off");
    assert_eq!(since(&first, "on"), None);
    // What else is told of it does not matter.
    simulator.post("/vms/a/snapshots", json!({"name": "before", "description": ""})).await;
    let seen =
        following.until("its snapshot", |inventory| named(inventory, "a").is_some_and(|(_, vm)| vm.snapshots.nodes.len() == 1)).await;
    assert_eq!(since(&seen, "a"), Some(begun));
    simulator.put("/vms/a/power", json!({"state": "on"})).await;
    following.until("it runs", |inventory| since(inventory, "a").is_none()).await;
    simulator.put("/vms/a/power", json!({"state": "off"})).await;
    let off = following.until("it is off again", |inventory| since(inventory, "a").is_some()).await;
    let again = since(&off, "a").unwrap();
    assert!(again > begun);
    // A watch that broke has not seen what was in between.
    simulator.delete("/sessions").await;
    simulator.put("/vms/on/name", json!({"name": "b"})).await;
    let anew = following.until("it is watched anew", |inventory| named(inventory, "b").is_some()).await;
    assert!(since(&anew, "a").unwrap() > again);
}
