//! Answers, as they come: recorded from the simulator (with its `_XMLSchema-instance` prefixes), and in the shapes of a vCenter.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::PathBuf};

use proptest::prelude::*;
use vsphere::{
    MoRef, envelope,
    methods::properties::{Kind, UpdateSet},
    model::{
        datastore::Datastore,
        disk::{BackingKind, DiskMode},
        host::Host,
        task::{Task, TaskState, Work},
        vm::{Firmware, Power, Vm},
    },
    xml::Element,
};

fn answer(name: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/answers").join(name)).unwrap()
}

fn vm(document: &str) -> Vm {
    let answer = envelope::open("RetrievePropertiesEx", document).unwrap();
    let mut vm = Vm::default();
    for property in answer.at(&["returnval", "objects"]).unwrap().all("propSet") {
        vm.set(property.text_of("name").unwrap(), property.child("val"));
    }
    vm
}

#[test]
fn a_vm_of_the_simulator() {
    let document = answer("simulator-vm.xml");
    assert!(document.contains("_XMLSchema-instance:type=\"VirtualDisk\""), "recorded for its prefix");
    let vm = vm(&document);
    assert!(vm.unread.is_empty(), "{:?}", vm.unread);
    assert_eq!((vm.name.as_str(), vm.power, vm.firmware, vm.hardware), ("web", Power::On, Some(Firmware::Efi), Some(19)));
    assert!(vm.tracking && vm.tracking_supported == Some(true));
    let [first, second] = vm.disks() else { panic!("{:?}", vm.disks()) };
    assert_eq!((first.key, first.capacity, first.backing.mode), (2000, 64 << 20, DiskMode::Persistent));
    // A snapshot stands: the disk is a chain of two files.
    assert_eq!(first.backing.chain.len(), 2);
    assert!(first.backing.change_id.is_some() && second.backing.mode == DiskMode::Independent);
    assert_eq!(vm.snapshots.current_path().iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["before"]);
    assert_eq!(vm.devices.as_ref().unwrap().nics[0].network.as_deref(), Some("VM Network"));
}

#[test]
fn updates_of_a_vcenter() {
    let set = UpdateSet::read(envelope::open("WaitForUpdatesEx", &answer("vcenter-updates.xml")).unwrap()).unwrap().unwrap();
    assert_eq!((set.version.as_str(), set.truncated, set.updates.len()), ("3", true, 3));
    let update = &set.updates[0];
    assert_eq!((update.kind, &update.object), (Kind::Enter, &MoRef::vm("vm-1042")));
    let mut vm = Vm { fault_tolerant: true, ..Vm::default() };
    update.changes.iter().for_each(|(path, value)| vm.set(path, value.as_ref()));
    update.missing.iter().for_each(|(path, fault)| vm.set_missing(path, fault));
    // One odd value is named and leaves the rest.
    assert_eq!(vm.unread.keys().map(String::as_str).collect::<Vec<_>>(), ["capability.changeTrackingSupported", "config.keyId"]);
    assert!(vm.unread["config.keyId"].contains("System.Read"));
    assert_eq!((vm.name.as_str(), vm.fault_tolerant), ("db & files", false));
    assert_eq!(vm.question.as_ref().unwrap().id, "7");
    assert_eq!(
        (vm.disabled_methods, vm.datastores),
        (vec!["RelocateVM_Task".into(), "MarkAsTemplate".into()], vec![MoRef::new("Datastore", "datastore-15")])
    );

    let devices = vm.devices.as_ref().unwrap();
    assert!(devices.tpm);
    assert_eq!(devices.shared.iter().map(|bus| bus.key).collect::<Vec<_>>(), [1001]);
    assert_eq!(devices.nics[0].mac.as_deref(), Some("00:50:56:9a:0b:1c"));
    let kinds: Vec<_> = devices
        .disks
        .iter()
        .map(|disk| (disk.key, disk.backing.kind.clone(), disk.backing.mode, disk.backing.change_id.is_some()))
        .collect();
    use BackingKind::*;
    assert_eq!(
        kinds,
        [
            (2000, SeSparse, DiskMode::Persistent, true),
            (2016, Flat, DiskMode::Independent, false),
            (2017, RdmPhysical, DiskMode::Independent, false),
            (2018, RdmVirtual, DiskMode::Persistent, true),
            (2019, Sparse, DiskMode::Persistent, true),
            (2020, Raw, DiskMode::Persistent, true),
            (2021, Other("VirtualDiskFlatVer1BackingInfo".into()), DiskMode::NonPersistent, false),
        ]
    );
    let [first, second, ..] = devices.disks.as_slice() else { panic!() };
    let files: Vec<&str> = first.backing.chain.iter().map(|link| link.file.as_str()).collect();
    assert_eq!(files, ["[ds 1] db/db-000002.vmdk", "[ds 1] db/db-000001.vmdk", "[ds 1] db/db.vmdk"]);
    assert_eq!((first.capacity, first.object_id.as_deref()), (40 << 30, Some("1-2000")));
    assert_eq!(first.identity(), Some("6000C29f-0a1b-2c3d-4e5f-60718293a4b5"));
    assert_eq!((second.capacity, second.backing.multi_writer, second.backing.encrypted), (1 << 20, true, true));

    let tree = &vm.snapshots;
    assert_eq!(
        tree.nodes.iter().map(|node| (node.name.as_str(), node.parent)).collect::<Vec<_>>(),
        [("before %2f after", None), ("aside", Some(0)), ("here", Some(0))]
    );
    assert_eq!((tree.depth(), tree.nodes[1].quiesced), (2, true));
    assert_eq!(tree.nodes[1].taken.to_string(), "2026-11-20T08:00:00Z");

    let mut datastore = Datastore::default();
    set.updates[1].changes.iter().for_each(|(path, value)| datastore.set(path, value.as_ref()).unwrap());
    assert_eq!((datastore.free_percent(), datastore.accessible, datastore.kind.as_str()), (10, true, "VMFS"));
    assert_eq!(set.updates[2].kind, Kind::Leave);
    let nothing = r#"<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><WaitForUpdatesExResponse xmlns="urn:vim25"/></e:Body></e:Envelope>"#;
    assert!(UpdateSet::read(envelope::open("WaitForUpdatesEx", nothing).unwrap()).unwrap().is_none());
}

#[test]
fn a_task_that_failed() {
    let answer = envelope::open("RetrievePropertiesEx", &answer("vcenter-task.xml")).unwrap();
    let task = Task::read(answer.at(&["returnval", "objects", "propSet", "val"]).unwrap()).unwrap();
    assert_eq!(
        (task.work, task.by.as_deref(), &task.entity),
        (Work::TakesSnapshot, Some(r"VSPHERE.LOCAL\hawser"), &Some(MoRef::vm("vm-1042")))
    );
    let TaskState::Error(fault) = &task.state else { panic!("{:?}", task.state) };
    assert!(fault.is("ApplicationQuiesceFault") && fault.has_key("msg.snapshot.vigor.take.error"));
    assert!(!task.open());
}

/// All that is read from answers, whatever they hold.
fn read_everything(document: &str) {
    for method in ["RetrievePropertiesEx", "WaitForUpdatesEx"] {
        let Ok(answer) = envelope::open(method, document) else { continue };
        if let Ok(Some(set)) = UpdateSet::read(answer.clone()) {
            let (mut vm, mut host, mut datastore) = (Vm::default(), Host::default(), Datastore::default());
            for (path, value) in set.updates.iter().flat_map(|update| &update.changes) {
                vm.set(path, value.as_ref());
                let _ = (host.set(path, value.as_ref()), datastore.set(path, value.as_ref()));
            }
            let _ = (vm.snapshots.depth(), datastore.free_percent());
        }
        fn each(element: &Element) {
            let _ = Task::read(element);
            element.children.iter().for_each(each);
        }
        each(&answer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    /// Bytes changed, taken out, doubled: an error or another value, never a panic.
    #[test]
    fn a_bad_byte_never_panics(which in 0usize..3, edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..40, proptest::option::of("[ -~]{0,6}")), 1..6)) {
        let mut document = answer(["simulator-vm.xml", "vcenter-updates.xml", "vcenter-task.xml"][which]).into_bytes();
        for (at, length, with) in edits {
            let at = at.index(document.len());
            let end = (at + length).min(document.len());
            let with = with.map_or_else(|| document[at..end].repeat(2), String::into_bytes);
            document.splice(at..end, with);
            if document.is_empty() {
                break;
            }
        }
        read_everything(&String::from_utf8_lossy(&document));
    }

    /// Numbers and words of all sorts where others are awaited.
    #[test]
    fn odd_values_never_panic(value in "(-?[0-9]{1,25}|[a-zA-Z]{0,10}|9223372036854775807|-1|true|)", tag in "(key|capacityInBytes|capacityInKB|createTime|progress|busNumber|id|unitNumber|capacity|freeSpace|truncated)") {
        for name in ["simulator-vm.xml", "vcenter-updates.xml", "vcenter-task.xml"] {
            let document = answer(name);
            let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
            let parts: Vec<&str> = document.split(&open).collect();
            let changed: Vec<String> = parts.iter().enumerate().map(|(at, part)| match part.split_once(&close) {
                Some((_, rest)) if at > 0 => format!("{value}{close}{rest}"),
                _ => (*part).to_owned(),
            }).collect();
            read_everything(&changed.join(&open));
        }
    }
}
