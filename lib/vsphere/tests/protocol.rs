//! The decisions of the snapshots' protocol, of tracking and of preflight, over made-up values: what the simulator can't be brought to show.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use blocklog::ids::{Cycle, CycleId, Incarnation, Owner, VmId};
use jiff::Timestamp;
use proptest::prelude::*;
use reasons::{ConcernId, Reason};
use uuid::Uuid;
use vsphere::{
    Fault, MoRef,
    classify::Doing,
    model::{
        datastore::Datastore,
        disk::{Backing, BackingKind, Devices, Disk, DiskMode, Link, SharedBus},
        host::Host,
        snapshots::{Node, Tree},
        task::{Task, TaskState, Work},
        vm::{Power, Vm},
    },
    preflight::{Around, KnownDisk, MAX_DEPTH, preflight},
    snapshot::{
        Mark, Owning, View,
        lineage::{Lineage, reverted},
        release,
        standing::{Loss, Standing, chains, judge},
        take::{self, Past, Policy, PowerSeen, Want, was_off},
    },
    tracking,
};

fn mark(cycle: u64) -> Mark {
    let vm = VmId { vcenter: Uuid::from_u128(1), instance: Uuid::from_u128(2) };
    Mark {
        owner: Owner { cluster: "prod".into(), object: "apps/web-1".into() },
        of: CycleId { vm, incarnation: Incarnation(Uuid::from_u128(3)), cycle: Cycle(cycle) },
    }
}

fn owning() -> Owning {
    Owning { owner: mark(1).owner, vm: mark(1).of.vm }
}

fn node(id: &str, name: &str, description: &str, at: i64, parent: Option<usize>) -> Node {
    Node {
        snapshot: MoRef::snapshot(id),
        name: name.into(),
        description: description.into(),
        id: at,
        taken: Timestamp::from_second(at).unwrap(),
        quiesced: false,
        parent,
    }
}

fn ours(id: &str, cycle: u64, at: i64, parent: Option<usize>) -> Node {
    node(id, &mark(cycle).name(), &mark(cycle).description(), at, parent)
}

fn tree(nodes: Vec<Node>, current: Option<&str>) -> Tree {
    Tree { nodes, current: current.map(MoRef::snapshot) }
}

fn task(id: &str, work: Work, state: TaskState) -> Task {
    Task { task: MoRef::task(id), entity: None, name: format!("{work:?}"), work, state, by: Some("DOMAIN\\admin".into()), queued: None }
}

fn want(policy: Policy) -> Want {
    Want { mark: mark(5), policy }
}

fn running() -> View {
    View { tools_running: true, ..View::default() }
}

#[test]
fn a_snapshot_is_taken_only_where_nothing_is_in_the_way() {
    let next = |view: &View| take::next(&want(Policy::Never), view, &Past::default());
    assert_eq!(next(&running()), take::Step::Take { quiesce: false });
    for work in [Work::TakesSnapshot, Work::RemovesSnapshot, Work::Reverts, Work::Consolidates, Work::Moves] {
        let busy = View { tasks: vec![task("task-1", work, TaskState::Running(None))], ..running() };
        assert_eq!(next(&busy), take::Step::Await(MoRef::task("task-1")), "{work:?}");
    }
    let done = View { tasks: vec![task("task-1", Work::RemovesSnapshot, TaskState::Success(None))], ..running() };
    assert_eq!(next(&done), take::Step::Take { quiesce: false });
    assert_eq!(next(&View { consolidation_needed: true, ..running() }), take::Step::Consolidate);
    assert!(matches!(next(&View { question: Some("which?".into()), ..running() }), take::Step::Wait { reason: Reason::VmQuestion, .. }));

    let adopted = View { tree: tree(vec![ours("s-1", 5, 1, None)], Some("s-1")), consolidation_needed: true, ..running() };
    assert_eq!(next(&adopted), take::Step::Stands(MoRef::snapshot("s-1")));
    // The same number of an earlier start of replication is another cycle.
    let mut earlier = mark(5);
    earlier.of.incarnation = Incarnation(Uuid::from_u128(4));
    let stale = node("s-1", &earlier.name(), &earlier.description(), 1, None);
    let stale = View { tree: tree(vec![stale], Some("s-1")), ..running() };
    assert!(matches!(next(&stale), take::Step::Refuse { reason: Reason::PreviousCycleOpen, .. }));
}

#[test]
fn long_chains_grow_no_longer() {
    let chain = |length: usize| {
        let nodes = (0..length).map(|at| node(&format!("s-{at}"), "x", "", at as i64, at.checked_sub(1))).collect();
        View { tree: tree(nodes, length.checked_sub(1).map(|last| format!("s-{last}")).as_deref()), ..running() }
    };
    assert_eq!(take::next(&want(Policy::Never), &chain(MAX_DEPTH - 1), &Past::default()), take::Step::Take { quiesce: false });
    let step = take::next(&want(Policy::Never), &chain(MAX_DEPTH), &Past::default());
    assert!(matches!(step, take::Step::Refuse { reason: Reason::SourceRefused, .. }));
}

#[test]
fn quiescing_by_policy() {
    let failed = Past { quiesce_failed: Some(Box::new(Fault::of("ApplicationQuiesceFault"))), ..Past::default() };
    let without = View::default();
    for (policy, view, past, expected) in [
        (Policy::Never, running(), Past::default(), Some(false)),
        (Policy::Try, running(), Past::default(), Some(true)),
        (Policy::Try, running(), failed.clone(), Some(false)),
        (Policy::Try, without.clone(), Past::default(), Some(false)),
        (Policy::Require, running(), Past::default(), Some(true)),
        (Policy::Require, running(), failed, None),
        (Policy::Require, without, Past::default(), None),
    ] {
        match take::next(&want(policy), &view, &past) {
            take::Step::Take { quiesce } => assert_eq!(Some(quiesce), expected, "{policy:?}"),
            take::Step::Refuse { .. } => assert_eq!(None, expected, "{policy:?}"),
            step => panic!("{step:?}"),
        }
    }
    assert!(matches!(take::after(Fault::of("SnapshotFault"), true), take::After::QuiesceFailed(_)));
    assert!(matches!(take::after(Fault::of("SnapshotFault"), false), take::After::GiveUp(_)));
    assert!(matches!(take::after(Fault::of("TaskInProgress"), false), take::After::Wait(_)));
}

#[test]
fn gone_is_not_released() {
    let snapshot = MoRef::snapshot("s-1");
    let next = |view: &View| release::next(Some(&snapshot), &owning(), view);
    let stands = View { tree: tree(vec![ours("s-1", 4, 1, None)], Some("s-1")), ..View::default() };
    assert_eq!(next(&stands), release::Step::Remove(snapshot.clone()));
    assert_eq!(next(&View { consolidation_needed: true, ..View::default() }), release::Step::Consolidate);
    let merging = View { tasks: vec![task("task-1", Work::RemovesSnapshot, TaskState::Queued)], ..View::default() };
    assert_eq!(next(&merging), release::Step::Await(MoRef::task("task-1")));
    assert_eq!(next(&View::default()), release::Step::Done);
    assert!(matches!(next(&View { question: Some("which?".into()), ..stands }), release::Step::Wait { .. }));
    let foreign = View { tree: tree(vec![node("s-1", "theirs", "", 1, None)], Some("s-1")), ..View::default() };
    assert_eq!(next(&foreign), release::Step::Refuse(snapshot.clone()));

    let gone = Fault::of("ManagedObjectNotFound").with_field("obj.type", "VirtualMachineSnapshot");
    assert_eq!(release::after(&gone, Doing::RemovingSnapshot), release::After::Look);
    assert!(matches!(release::after(&Fault::of("SystemError"), Doing::RemovingSnapshot), release::After::Wait(_)));
    assert!(matches!(release::after(&Fault::of("NoPermission"), Doing::RemovingSnapshot), release::After::Person(_)));
}

proptest! {
    /// Whatever is seen: nothing is taken beside an own snapshot or before consolidation, nothing foreign is removed, and "done" means that
    /// nothing is left.
    #[test]
    fn the_three_rules(
        own in proptest::collection::vec(0u64..8, 0..3), foreign in 0usize..3, consolidation_needed: bool, work in 0usize..7, tools_running: bool, asks: bool, which in 0usize..6,
    ) {
        let mut nodes: Vec<Node> = own.iter().enumerate().map(|(at, cycle)| ours(&format!("s-{at}"), *cycle, at as i64, None)).collect();
        nodes.extend((0..foreign).map(|at| node(&format!("f-{at}"), "theirs", "", 10, None)));
        let works = [Work::TakesSnapshot, Work::RemovesSnapshot, Work::Reverts, Work::Consolidates, Work::Moves, Work::Other];
        let tasks: Vec<Task> = works.get(work).map(|work| task("task-1", *work, TaskState::Running(Some(3)))).into_iter().collect();
        let view = View { tree: tree(nodes, None), tasks, consolidation_needed, tools_running, question: asks.then(|| "?".to_owned()), ..View::default() };
        for policy in [Policy::Never, Policy::Try, Policy::Require] {
            if let take::Step::Take { .. } = take::next(&want(policy), &view, &Past::default()) {
                prop_assert!(own.is_empty() && !consolidation_needed && work >= 5);
            }
        }
        let snapshot = MoRef::snapshot(if which < 3 { format!("s-{which}") } else { format!("f-{}", which - 3) });
        match release::next(Some(&snapshot), &owning(), &view) {
            release::Step::Remove(_) => prop_assert!(which < own.len() && work >= 5),
            release::Step::Done => prop_assert!(view.tree.find(&snapshot).is_none() && !consolidation_needed && work >= 5),
            _ => {}
        }
    }
}

fn disk(key: u32, chain: &[&str]) -> Disk {
    let link = |file: &&str| Link { file: (*file).into(), uuid: Some(format!("uuid-{key}")), content_id: None, object_id: None };
    let backing = Backing {
        kind: BackingKind::Flat,
        chain: chain.iter().map(link).collect(),
        datastore: None,
        change_id: Some("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/4".into()),
        mode: DiskMode::Persistent,
        multi_writer: false,
        encrypted: false,
        thin: None,
    };
    Disk {
        key,
        controller: Some(1000),
        unit: Some(0),
        label: format!("Hard disk {key}"),
        capacity: 1 << 20,
        object_id: None,
        first_class: None,
        backing,
    }
}

fn devices(disks: Vec<Disk>) -> Devices {
    Devices { disks, ..Devices::default() }
}

#[test]
fn what_stands_and_what_does_not() {
    let snapshot = MoRef::snapshot("s-1");
    let view = View { tree: tree(vec![ours("s-1", 4, 1, None)], Some("s-1")), ..View::default() };
    let frozen = devices(vec![disk(2000, &["a.vmdk"])]);
    let present = devices(vec![disk(2000, &["a-000001.vmdk", "a.vmdk"])]);
    let now = chains(&frozen);
    assert_eq!(judge(&snapshot, &view, Some(&frozen), &present, None), Standing::Stands(now.clone()));
    assert_eq!(judge(&snapshot, &view, Some(&frozen), &present, Some(&now)), Standing::Stands(now.clone()));

    let lost = |standing: Standing| match standing {
        Standing::Lost(reason, _) => reason,
        standing => panic!("{standing:?}"),
    };
    assert_eq!(lost(judge(&snapshot, &View::default(), Some(&frozen), &present, None)), Loss::Gone);
    assert_eq!(lost(judge(&snapshot, &view, None, &present, None)), Loss::Gone);
    for work in [Work::RemovesSnapshot, Work::Reverts, Work::Consolidates] {
        let busy = View { tasks: vec![task("task-1", work, TaskState::Queued)], ..view.clone() };
        assert_eq!(lost(judge(&snapshot, &busy, Some(&frozen), &present, None)), Loss::BeingRemoved);
    }
    let backup = View { tasks: vec![task("task-1", Work::TakesSnapshot, TaskState::Queued)], ..view.clone() };
    assert!(matches!(judge(&snapshot, &backup, Some(&frozen), &present, None), Standing::Stands(_)));
    // The VM runs on something else, though the tree says nothing.
    let elsewhere = devices(vec![disk(2000, &["b-000001.vmdk", "b.vmdk"])]);
    assert_eq!(lost(judge(&snapshot, &view, Some(&frozen), &elsewhere, None)), Loss::ChainBroken);
    // The disk was taken out of the VM, or another put in its place: what is frozen stays.
    assert!(matches!(judge(&snapshot, &view, Some(&frozen), &devices(vec![]), None), Standing::Stands(_)));
    let mut other = disk(2000, &["c.vmdk"]);
    other.backing.chain[0].uuid = Some("another".into());
    assert!(matches!(judge(&snapshot, &view, Some(&frozen), &devices(vec![other]), None), Standing::Stands(_)));
    // Moved, and merged from below.
    let moved = devices(vec![disk(2000, &["x.vmdk"])]);
    let running = devices(vec![disk(2000, &["x-000001.vmdk", "x.vmdk"])]);
    assert!(matches!(judge(&snapshot, &view, Some(&moved), &running, Some(&now)), Standing::Moved(_)));
    let longer = BTreeMap::from([(2000, vec!["a-000001.vmdk".to_owned(), "a.vmdk".to_owned()])]);
    assert_eq!(lost(judge(&snapshot, &view, Some(&frozen), &present, Some(&longer))), Loss::ChainChanged);
    // Of the second disk nothing is known from before: what is known of the first counts all the same.
    let two = devices(vec![disk(2000, &["a.vmdk"]), disk(2001, &["d.vmdk"])]);
    let runs = devices(vec![disk(2000, &["a-000001.vmdk", "a.vmdk"]), disk(2001, &["d-000001.vmdk", "d.vmdk"])]);
    assert_eq!(judge(&snapshot, &view, Some(&two), &runs, Some(&now)), Standing::Stands(chains(&two)));
    assert_eq!(lost(judge(&snapshot, &view, Some(&two), &runs, Some(&longer))), Loss::ChainChanged);
}

#[test]
fn reverts_are_seen_and_ordinary_days_are_not_taken_for_them() {
    let lineage = |taken: i64, path: &[&str], files: &[&str]| Lineage {
        taken: Timestamp::from_second(taken).unwrap(),
        path: path.iter().map(|id| (*id).to_owned()).collect(),
        files: BTreeMap::from([(2000, files.iter().map(|file| (*file).to_owned()).collect())]),
    };
    let a = || node("a", "A", "", 1, None);
    let b = |at| node("b", "B", "", at, Some(0));
    let before = lineage(10, &["a"], &["d-000001.vmdk", "d.vmdk"]);
    let now = |path: &[&str], files: &[&str]| lineage(20, path, files);
    // Nothing has happened.
    assert!(!reverted(&before, &now(&["a"], &["d-000001.vmdk", "d.vmdk"]), &tree(vec![a()], Some("a"))));
    // A snapshot was added, and one removed.
    assert!(!reverted(&before, &now(&["a", "b"], &["d-000002.vmdk", "d-000001.vmdk", "d.vmdk"]), &tree(vec![a(), b(12)], Some("b"))));
    assert!(!reverted(&before, &now(&[], &["d.vmdk"]), &tree(vec![], None)));
    // The VM's disks were moved.
    assert!(!reverted(&before, &now(&["a"], &["e-000001.vmdk", "e.vmdk"]), &tree(vec![a()], Some("a"))));
    // Without snapshots there is nothing to go back to.
    assert!(!reverted(&lineage(10, &[], &["d.vmdk"]), &now(&[], &["e.vmdk"]), &tree(vec![], None)));
    // A branch that stood aside before the last cycle is old news.
    assert!(!reverted(&before, &now(&["a"], &["d-000001.vmdk", "d.vmdk"]), &tree(vec![a(), b(5)], Some("a"))));

    // To A, with B (on which the last cycle was built) left standing.
    let built = lineage(10, &["a", "b"], &["d-000002.vmdk", "d-000001.vmdk", "d.vmdk"]);
    assert!(reverted(&built, &now(&["a"], &["d-000003.vmdk", "d.vmdk"]), &tree(vec![a(), b(5)], Some("a"))));
    // To A, with B (taken since) left standing.
    assert!(reverted(&before, &now(&["a"], &["d-000001.vmdk", "d.vmdk"]), &tree(vec![a(), b(12)], Some("a"))));
    // To A, nothing left: another delta lies on top of it.
    assert!(reverted(&before, &now(&["a"], &["d-000002.vmdk", "d.vmdk"]), &tree(vec![a()], Some("a"))));
}

fn vm() -> Vm {
    Vm {
        name: "web".into(),
        instance_uuid: Some(Uuid::from_u128(2)),
        hardware: Some(19),
        tracking: true,
        tracking_supported: Some(true),
        devices: Some(devices(vec![disk(2000, &["a.vmdk"]), disk(2001, &["b.vmdk"])])),
        connection: "connected".into(),
        tools_running: true,
        ..Vm::default()
    }
}

fn with_disk(change: impl FnOnce(&mut Disk)) -> Vm {
    let mut vm = vm();
    change(&mut vm.devices.as_mut().unwrap().disks[0]);
    vm
}

fn concerns(vm: &Vm, around: &Around<'_>) -> Vec<(ConcernId, Option<u32>)> {
    let concerns = preflight(vm, around);
    assert!(concerns.iter().all(|concern| !concern.message.is_empty()));
    assert!(concerns.is_sorted_by_key(|concern| concern.id.severity()));
    concerns.into_iter().map(|concern| (concern.id, concern.disk)).collect()
}

#[test]
fn every_concern_has_its_cause() {
    let plain = Around { may_switch_tracking: true, ..Around::default() };
    assert_eq!(concerns(&vm(), &plain), []);
    type Case = (Vm, (ConcernId, Option<u32>));
    let disk_case = |id, change: fn(&mut Disk)| -> Case { (with_disk(change), (id, Some(2000))) };
    let vm_case = |id, change: fn(&mut Vm)| -> Case {
        let mut vm = vm();
        change(&mut vm);
        (vm, (id, None))
    };
    let cases: Vec<Case> = vec![
        disk_case(ConcernId::IndependentDisk, |disk| disk.backing.mode = DiskMode::Independent),
        disk_case(ConcernId::DiskBackingUnsupported, |disk| disk.backing.mode = DiskMode::NonPersistent),
        disk_case(ConcernId::RawDeviceMapping, |disk| disk.backing.kind = BackingKind::RdmPhysical),
        disk_case(ConcernId::RdmVirtual, |disk| disk.backing.kind = BackingKind::RdmVirtual),
        disk_case(ConcernId::DiskBackingUnsupported, |disk| disk.backing.kind = BackingKind::Raw),
        disk_case(ConcernId::DiskBackingUnsupported, |disk| {
            disk.backing.kind = BackingKind::Other("VirtualDiskFlatVer1BackingInfo".into())
        }),
        disk_case(ConcernId::SharedDisk, |disk| disk.backing.multi_writer = true),
        disk_case(ConcernId::Encrypted, |disk| disk.backing.encrypted = true),
        disk_case(ConcernId::CapacityOdd, |disk| disk.capacity = 1000),
        disk_case(ConcernId::ChangeTrackingInactive, |disk| disk.backing.change_id = None),
        disk_case(ConcernId::LinkedClone, |disk| disk.backing.chain.push(disk.backing.chain[0].clone())),
        vm_case(ConcernId::ChangeTrackingUnsupported, |vm| vm.hardware = Some(6)),
        vm_case(ConcernId::ChangeTrackingUnsupported, |vm| vm.tracking_supported = Some(false)),
        vm_case(ConcernId::ChangeTrackingToBeEnabled, |vm| vm.tracking = false),
        vm_case(ConcernId::FaultTolerant, |vm| vm.fault_tolerant = true),
        vm_case(ConcernId::Template, |vm| vm.template = true),
        vm_case(ConcernId::Encrypted, |vm| vm.encrypted = true),
        vm_case(ConcernId::VirtualTpm, |vm| vm.devices.as_mut().unwrap().tpm = true),
        vm_case(ConcernId::Passthrough, |vm| vm.devices.as_mut().unwrap().passthrough.push("PCI device 0".into())),
        vm_case(ConcernId::NoInstanceUuid, |vm| vm.instance_uuid = None),
        vm_case(ConcernId::NoDisks, |vm| vm.devices = Some(Devices::default())),
        vm_case(ConcernId::DevicesUnknown, |vm| vm.devices = None),
        vm_case(ConcernId::PartlyUnknown, |vm| drop(vm.unread.insert("snapshot".into(), "NoPermission".into()))),
        vm_case(ConcernId::ConsolidationNeeded, |vm| vm.consolidation_needed = true),
        vm_case(ConcernId::VmInaccessible, |vm| vm.connection = "inaccessible".into()),
        vm_case(ConcernId::MethodDisabled, |vm| vm.disabled_methods.push("CreateSnapshotEx_Task".into())),
    ];
    for (vm, expected) in cases {
        assert_eq!(concerns(&vm, &plain), [expected]);
    }
    let mut shared = vm();
    shared.devices.as_mut().unwrap().shared.push(SharedBus { key: 1000, sharing: "physicalSharing".into() });
    assert_eq!(concerns(&shared, &plain), [(ConcernId::SharedDisk, Some(2000)), (ConcernId::SharedDisk, Some(2001))]);
    // A disk that is left out is nobody's concern.
    let without = Around { excluded: BTreeSet::from([2000]), ..Around::default() };
    assert_eq!(concerns(&with_disk(|disk| disk.backing.mode = DiskMode::Independent), &without), []);
}

#[test]
fn concerns_of_the_surroundings() {
    let datastore = MoRef::new("Datastore", "datastore-1");
    let mut placed = vm();
    placed.datastores.push(datastore.clone());
    let mut stores = BTreeMap::from([(
        datastore.clone(),
        Datastore { name: "ds".into(), capacity: 100, free: 9, accessible: true, ..Datastore::default() },
    )]);
    fn around(stores: &BTreeMap<MoRef, Datastore>) -> Around<'_> {
        Around { datastores: Some(stores), free_percent: 10, ..Around::default() }
    }
    assert_eq!(concerns(&placed, &around(&stores)), [(ConcernId::DatastoreLow, None)]);
    stores.get_mut(&datastore).unwrap().free = 10;
    assert_eq!(concerns(&placed, &around(&stores)), []);
    stores.get_mut(&datastore).unwrap().accessible = false;
    assert_eq!(concerns(&placed, &around(&stores)), [(ConcernId::DatastoreUnavailable, None)]);

    let on = |host: &Host| concerns(&vm(), &Around { host: Some(host), ..Around::default() });
    let host = |version: &str, build| Host {
        name: "esx".into(),
        connection: "connected".into(),
        version: Some(version.into()),
        build: Some(build),
        ..Host::default()
    };
    assert_eq!(on(&host("6.0.0", 2_494_585)), [(ConcernId::HostUnreliable, None)]);
    assert_eq!((on(&host("6.0.0", 3_247_720)), on(&host("6.5.0", 1))), (vec![], vec![]));
    assert_eq!(on(&Host { maintenance: true, ..host("8.0.3", 1) }), [(ConcernId::HostUnavailable, None)]);

    let required = Around { quiesce_required: true, ..Around::default() };
    assert_eq!(concerns(&Vm { tools_running: false, ..vm() }, &required), [(ConcernId::ToolsNotRunning, None)]);
    let chain = |length: usize| {
        let nodes = (0..length).map(|at| node(&format!("s-{at}"), "x", "", at as i64, at.checked_sub(1))).collect();
        Vm { snapshots: tree(nodes, Some(&format!("s-{}", length - 1))), ..vm() }
    };
    assert_eq!(concerns(&chain(1), &Around::default()), [(ConcernId::ForeignSnapshots, None)]);
    assert_eq!(concerns(&chain(28), &Around::default()), [(ConcernId::SnapshotChainLong, None)]);
    // Our own does not count, and tracking can be switched on beside nothing else.
    let own = Around { own: BTreeSet::from([MoRef::snapshot("s-0")]), may_switch_tracking: true, ..Around::default() };
    assert_eq!(concerns(&chain(1), &own), []);
    assert_eq!(concerns(&Vm { tracking: false, ..chain(1) }, &Around::default())[0], (ConcernId::ChangeTrackingBlocked, None));
    assert_eq!(concerns(&Vm { tracking: false, ..vm() }, &Around::default()), [(ConcernId::ChangeTrackingOff, None)]);
}

#[test]
fn disks_that_changed_since_the_last_cycle() {
    let known = |key, identity: &str, capacity| KnownDisk { key, identity: Some(identity.into()), capacity };
    let since = |disks: Vec<KnownDisk>| concerns(&vm(), &Around { known: disks, ..Around::default() });
    let second = || known(2001, "uuid-2001", 1 << 20);
    assert_eq!(since(vec![known(2000, "uuid-2000", 1 << 20), second()]), []);
    assert_eq!(since(vec![second()]), [(ConcernId::DiskAdded, Some(2000))]);
    assert_eq!(since(vec![known(2000, "uuid-2000", 1 << 19), second()]), [(ConcernId::DiskGrown, Some(2000))]);
    assert_eq!(since(vec![known(2000, "uuid-2000", 1 << 21), second()]), [(ConcernId::DiskShrunk, Some(2000))]);
    assert_eq!(since(vec![known(2000, "another", 1 << 20), second()]), [(ConcernId::DiskReplaced, Some(2000))]);
    let gone = since(vec![known(2000, "uuid-2000", 1 << 20), second(), known(2002, "uuid-2002", 1)]);
    assert_eq!(gone, [(ConcernId::DiskRemoved, Some(2002))]);
    // What is not told is not gone.
    let blind = Vm { devices: None, ..vm() };
    let around = Around { known: vec![second()], ..Around::default() };
    assert_eq!(concerns(&blind, &around), [(ConcernId::DevicesUnknown, None)]);
}

#[test]
fn tracking_is_switched_on_then_made_to_work() {
    let next = |vm: &Vm, stunned| tracking::next(vm, &owning(), stunned);
    let untracked = |on| Vm { tracking: on, ..with_disk(|disk| disk.backing.change_id = None) };
    assert_eq!(next(&vm(), false), tracking::Step::Active);
    assert_eq!(next(&untracked(false), false), tracking::Step::Switch);
    assert_eq!(next(&untracked(true), false), tracking::Step::Stun);
    assert_eq!(next(&untracked(true), true), tracking::Step::Partly(vec![2000]));
    // A disk that can't be tracked does not keep the others from it.
    let independent = with_disk(|disk| {
        disk.backing.change_id = None;
        disk.backing.mode = DiskMode::Independent;
    });
    assert_eq!(next(&independent, false), tracking::Step::Active);
    let beside = |node: Node| Vm { snapshots: tree(vec![node], Some("s-1")), ..untracked(false) };
    assert!(matches!(next(&beside(node("s-1", "theirs", "", 1, None)), false), tracking::Step::Unable(_)));
    assert_eq!(next(&beside(ours("s-1", 0, 1, None)), false), tracking::Step::Switch);
    assert!(matches!(next(&Vm { tracking_supported: Some(false), ..vm() }, false), tracking::Step::Unable(_)));
}

#[test]
fn power_is_read_before_and_after_a_snapshot() {
    let seen =
        |power, connection: &str, tasks: &[Task]| PowerSeen::new(&Vm { power, connection: connection.into(), ..Vm::default() }, tasks);
    let is = |power| seen(power, "connected", &[]);
    for (before, after, expected) in [
        (Power::Off, Power::Off, Some(true)),
        (Power::On, Power::Off, Some(false)),
        (Power::Off, Power::On, Some(false)),
        (Power::On, Power::On, Some(false)),
        (Power::Suspended, Power::Suspended, Some(false)),
        (Power::Unknown, Power::Off, None),
        (Power::Off, Power::Unknown, None),
        (Power::Unknown, Power::On, Some(false)),
    ] {
        assert_eq!(was_off(Some(&is(before)), &is(after)), expected, "{before:?} {after:?}");
    }
    assert_eq!(was_off(None, &is(Power::Off)), None, "a predecessor's");
    assert_eq!(was_off(Some(&is(Power::Off)), &seen(Power::Off, "disconnected", &[])), None, "vCenter tells what was so before");
}

#[test]
fn a_vm_booted_between_two_looks_was_not_off() {
    let off = Vm { power: Power::Off, connection: "connected".into(), ..Vm::default() };
    for work in [Work::PowersOn, Work::Reverts] {
        let started = task("task-7", work, TaskState::Success(None));
        let (before, after) = (PowerSeen::new(&off, &[]), PowerSeen::new(&off, std::slice::from_ref(&started)));
        assert_eq!(was_off(Some(&before), &after), Some(false), "{work:?}");
        assert_eq!(was_off(Some(&after), &after), Some(true), "that was before, and it was off again");
    }
    let booted = Vm { booted: Some(Timestamp::from_second(9).unwrap()), ..off.clone() };
    assert_eq!(was_off(Some(&PowerSeen::new(&off, &[])), &PowerSeen::new(&booted, &[])), Some(false));
}
