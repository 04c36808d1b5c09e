use std::sync::Arc;

use crds::concerns::Severity;
use serde_json::json;
use vsphere::model::disk::Devices;

use super::*;

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn inventory(vms: &[(&str, u128, bool)]) -> Inventory {
    let vm = |n, template| Arc::new(Vm { instance_uuid: Some(uuid(n)), template, devices: Some(Devices::default()), ..Vm::default() });
    Inventory { vms: vms.iter().map(|(id, n, template)| (MoRef::vm(*id), vm(*n, *template))).collect(), ..Inventory::default() }
}

fn found(inventory: &Inventory, selector: &VmSelector, known: Option<Uuid>) -> Result<String, Reason> {
    find(inventory, selector, Known { uuid: known, at_path: None }).map(|(one, _)| one.id().to_owned()).map_err(|trouble| trouble.reason)
}

#[test]
fn a_vm_is_known_by_its_selector_then_by_its_uuid() {
    let by_ref = VmSelector { mo_ref: Some("vm-1".into()), ..VmSelector::default() };
    let all = inventory(&[("vm-1", 1, false), ("vm-2", 2, false)]);
    assert_eq!(found(&all, &by_ref, None), Ok("vm-1".into()));
    // Registered anew, under another reference.
    assert_eq!(found(&inventory(&[("vm-9", 1, false)]), &by_ref, Some(uuid(1))), Ok("vm-9".into()));
    // Another VM has its reference now.
    assert_eq!(found(&inventory(&[("vm-1", 5, false)]), &by_ref, Some(uuid(1))), Err(Reason::VmReplaced));
    assert_eq!(found(&inventory(&[]), &by_ref, Some(uuid(1))), Err(Reason::VmNotFound));
    assert_eq!(found(&inventory(&[]), &by_ref, None), Err(Reason::VmNotFound));
    let path = MoRef::vm("vm-2");
    let by_path = VmSelector { inventory_path: Some("/DC0/vm/web".into()), ..VmSelector::default() };
    let at = find(&all, &by_path, Known { uuid: None, at_path: Some(&path) }).unwrap();
    assert_eq!(at.0.id(), "vm-2");
}

#[test]
fn two_vms_of_one_uuid_are_told_unless_one_is_a_template() {
    let selector = VmSelector { instance_uuid: Some(uuid(7).to_string()), ..VmSelector::default() };
    assert_eq!(found(&inventory(&[("vm-1", 7, false), ("vm-2", 7, false)]), &selector, None), Err(Reason::VmAmbiguous));
    assert_eq!(found(&inventory(&[("vm-1", 7, true), ("vm-2", 7, false)]), &selector, None), Ok("vm-2".into()));
}

#[test]
fn a_concern_is_accepted_by_its_id_where_it_may_be() {
    for id in ConcernId::ALL {
        let spec: ReplicatedVMSpec = serde_json::from_value(json!({
            "applianceRef": {"name": "onprem"}, "vm": {"moRef": "vm-1"}, "acceptConcerns": [id.as_str()]
        }))
        .unwrap();
        let one = |id| super::told(preflight::Concern { id, disk: Some(2000), message: "m".into() }, &spec);
        let concern = one(*id);
        assert_eq!((concern.id.as_str(), concern.severity, concern.remedy.as_str()), (id.as_str(), id.severity(), id.remedy()));
        assert_eq!(concern.accepted, id.severity() == Severity::Warning, "{id}");
        assert!(ConcernId::ALL.iter().all(|other| other == id || !one(*other).accepted), "{id} accepts another one");
    }
}

/// A VM with two disks on a host and a datastore, as vCenter tells it.
fn placed() -> (Inventory, Vm) {
    use vsphere::model::{
        datastore::Datastore,
        disk::{Backing, BackingKind, Disk, DiskMode, Link},
        host::Host,
    };
    let (host, datastore) = (MoRef::new("HostSystem", "host-1"), MoRef::new("Datastore", "datastore-1"));
    let disk = |key: u32| Disk {
        key,
        controller: Some(1000),
        unit: None,
        label: format!("Hard disk {key}"),
        capacity: 1 << 20,
        object_id: None,
        first_class: None,
        backing: Backing {
            kind: BackingKind::Flat,
            chain: vec![Link { file: format!("[ds] web/{key}.vmdk"), uuid: Some(key.to_string()), content_id: None, object_id: None }],
            datastore: Some(datastore.clone()),
            change_id: Some("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/4".into()),
            mode: DiskMode::Persistent,
            multi_writer: false,
            encrypted: false,
            thin: None,
        },
    };
    let vm = Vm {
        name: "web".into(),
        instance_uuid: Some(uuid(2)),
        hardware: Some(19),
        tracking: true,
        tracking_supported: Some(true),
        connection: "connected".into(),
        host: Some(host.clone()),
        datastores: vec![datastore.clone()],
        devices: Some(Devices { disks: vec![disk(2000), disk(2001)], ..Devices::default() }),
        ..Vm::default()
    };
    let up = Host { name: "esx-1".into(), connection: "connected".into(), ..Host::default() };
    let store = Datastore { name: "ds".into(), capacity: 100, free: 50, accessible: true, ..Datastore::default() };
    let inventory =
        Inventory { hosts: [(host, Arc::new(up))].into(), datastores: [(datastore, Arc::new(store))].into(), ..Inventory::default() };
    (inventory, vm)
}

fn told(inventory: &Inventory, vm: &Vm, more: serde_json::Value) -> Source {
    let mut spec = json!({"applianceRef": {"name": "onprem"}, "vm": {"moRef": "vm-1"}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let spec: ReplicatedVMSpec = serde_json::from_value(spec).unwrap();
    let appliance: ApplianceSpec = serde_json::from_value(json!({
        "vcenter": { "url": "https://vcenter.example.com", "credentialsSecretRef": { "name": "vcenter" } },
        "azure": { "subscriptionId": "22222222-2222-4222-8222-222222222222", "resourceGroup": "hawser", "location": "westeurope" },
        "logStore": { "accountUrl": "https://hawserlog.blob.core.windows.net" },
        "encryption": { "keySecretRef": { "name": "hawser-key" } },
        "diskAccess": { "method": "VDDK", "vddk": { "claimName": "vddk" } },
    }))
    .unwrap();
    let owner = Owner { cluster: "prod".into(), object: "apps/web".into() };
    let asked = Asked { spec: &spec, appliance: &appliance, owner: &owner, id: VmId { vcenter: uuid(1), instance: uuid(2) } };
    facts(inventory, &MoRef::vm("vm-1"), vm, &asked, Vec::new())
}

#[test]
fn what_passes_by_itself_is_waited_for_and_blocks_nothing() {
    use vsphere::model::{datastore::Datastore, host::Host, vm::Question};
    let (inventory, vm) = placed();
    assert_eq!(told(&inventory, &vm, json!({})).busy, None);
    type Change = fn(&mut Host, &mut Datastore, &mut Vm);
    let cases: [(Reason, Change); 8] = [
        (Reason::HostUnavailable, |host, _, _| host.maintenance = true),
        (Reason::HostUnavailable, |host, _, _| host.connection = "disconnected".into()),
        (Reason::HostUnavailable, |host, _, _| host.connection = "notResponding".into()),
        (Reason::HostUnavailable, |_, store, _| store.accessible = false),
        (Reason::VmInaccessible, |_, _, vm| vm.connection = "inaccessible".into()),
        (Reason::DatastoreFull, |_, store, _| store.free = 9),
        (Reason::SourceBusy, |_, _, vm| vm.disabled_methods.push("CreateSnapshotEx_Task".into())),
        (Reason::VmQuestion, |_, _, vm| vm.question = Some(Question { id: "1".into(), text: "moved or copied?".into() })),
    ];
    for (reason, change) in cases {
        let (mut inventory, mut vm) = placed();
        let host = Arc::make_mut(inventory.hosts.values_mut().next().unwrap());
        let store = Arc::make_mut(inventory.datastores.values_mut().next().unwrap());
        change(host, store, &mut vm);
        let source = told(&inventory, &vm, json!({}));
        let busy = source.busy.unwrap_or_else(|| panic!("{reason}"));
        assert_eq!(busy.reason, reason);
        assert!(busy.message.len() > 20, "{}", busy.message);
        assert!(source.concerns.iter().all(|concern| concern.severity == Severity::Information), "{reason}: {:?}", source.concerns);
    }
}

#[test]
fn a_disk_that_can_not_be_replicated_blocks_until_excluded() {
    use vsphere::model::disk::{BackingKind, Disk, DiskMode};
    type Change = fn(&mut Disk);
    let cases: [(ConcernId, Change); 6] = [
        (ConcernId::IndependentDisk, |disk| disk.backing.mode = DiskMode::Independent),
        (ConcernId::RawDeviceMapping, |disk| disk.backing.kind = BackingKind::RdmPhysical),
        (ConcernId::SharedDisk, |disk| disk.backing.multi_writer = true),
        (ConcernId::DiskBackingUnsupported, |disk| disk.backing.mode = DiskMode::NonPersistent),
        (ConcernId::Encrypted, |disk| disk.backing.encrypted = true),
        (ConcernId::DiskTooLarge, |disk| disk.capacity = azure::disks::MOST + (1 << 20)),
    ];
    for (id, change) in cases {
        let (inventory, mut vm) = placed();
        change(&mut vm.devices.as_mut().unwrap().disks[1]);
        // That nobody may wave it through is in its severity: `acceptConcerns` takes warnings alone.
        let source = told(&inventory, &vm, json!({"acceptConcerns": [id.as_str()]}));
        let found: Vec<_> = source.concerns.iter().map(|one| (one.id.as_str(), one.severity, one.disk, one.accepted)).collect();
        assert_eq!(found, [(id.as_str(), Severity::Critical, Some(2001), false)]);
        let source = told(&inventory, &vm, json!({"disks": {"exclude": [2001]}}));
        assert!(source.concerns.is_empty(), "{id:?}: {:?}", source.concerns);
        assert_eq!(source.disks.iter().map(|disk| disk.excluded).collect::<Vec<_>>(), [false, true]);
    }
}

#[test]
fn a_vm_that_can_not_be_replicated_blocks() {
    type Change = fn(&mut Vm);
    let cases: [(ConcernId, Change); 3] = [
        (ConcernId::Encrypted, |vm| vm.encrypted = true),
        (ConcernId::FaultTolerant, |vm| vm.fault_tolerant = true),
        (ConcernId::Template, |vm| vm.template = true),
    ];
    for (id, change) in cases {
        let (inventory, mut vm) = placed();
        change(&mut vm);
        let source = told(&inventory, &vm, json!({"acceptConcerns": [id.as_str()]}));
        let found: Vec<_> = source.concerns.iter().map(|one| (one.id.as_str(), one.severity, one.accepted)).collect();
        assert_eq!(found, [(id.as_str(), Severity::Critical, false)]);
    }
}

#[test]
fn a_snapshot_may_not_stand_where_half_of_the_limit_is_left() {
    let with = |free: u64| {
        let (mut inventory, vm) = placed();
        inventory.datastores.values_mut().for_each(|one| Arc::make_mut(one).free = free);
        let source = told(&inventory, &vm, json!({}));
        (source.busy.map(|busy| busy.reason), source.pressed.map(|pressed| pressed.reason))
    };
    assert_eq!(with(10), (None, None));
    assert_eq!(with(5), (Some(Reason::DatastoreFull), None));
    assert_eq!(with(4), (Some(Reason::DatastoreFull), Some(Reason::DatastoreFull)));
}

/// As a backup proxy does that reads a disk through itself.
#[test]
fn who_holds_disks_that_have_to_be_consolidated_is_named() {
    let (mut inventory, vm) = placed();
    let other = |name: &str, disks: &[usize]| {
        let all = &vm.devices.as_ref().unwrap().disks;
        let disks = disks.iter().map(|at| all[*at].clone()).collect();
        Arc::new(Vm { name: name.into(), devices: Some(Devices { disks, ..Devices::default() }), ..Vm::default() })
    };
    inventory.vms = [
        (MoRef::vm("vm-1"), Arc::new(vm.clone())),
        (MoRef::vm("vm-2"), other("db", &[])),
        (MoRef::vm("vm-3"), other("backup-proxy-1", &[1])),
    ]
    .into();
    assert!(told(&inventory, &vm, json!({})).held_by.is_empty(), "nobody waits for it");
    let stuck = Vm { consolidation_needed: true, ..vm.clone() };
    assert_eq!(told(&inventory, &stuck, json!({})).held_by, ["backup-proxy-1"]);
}

#[test]
fn tracking_is_switched_on_only_where_it_may_and_can_be() {
    let (inventory, vm) = placed();
    assert!(!told(&inventory, &vm, json!({})).tracking_off);
    let off = Vm { tracking: false, ..vm };
    assert!(told(&inventory, &off, json!({})).tracking_off);
    assert!(!told(&inventory, &off, json!({"changeTracking": "Leave"})).tracking_off);
    assert!(!told(&inventory, &Vm { hardware: Some(6), ..off.clone() }, json!({})).tracking_off);
    let mut beside = off;
    beside.snapshots.nodes.push(vsphere::model::snapshots::Node {
        snapshot: MoRef::snapshot("snapshot-1"),
        name: "before the upgrade".into(),
        description: String::new(),
        id: 1,
        taken: jiff::Timestamp::UNIX_EPOCH,
        quiesced: false,
        parent: None,
    });
    let source = told(&inventory, &beside, json!({}));
    assert!(!source.tracking_off && source.concerns.iter().any(|concern| concern.id == "ChangeTrackingBlocked"), "{:?}", source.concerns);
}
