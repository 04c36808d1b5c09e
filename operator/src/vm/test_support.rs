//! A VM, its replica and its cycles, as values; and what each step would do to them.

use std::{collections::BTreeMap, sync::Arc};

use azure::{
    ResourceId,
    disks::{Disk, DiskState, content},
};
use blocklog::{
    cycle::{Phase, State},
    ids::{ChangeId, Cycle, DiskKey, Incarnation, Owner, Turn, VmId},
    ledger::{Begun, Ledger, RecoveryPoint, Seed},
    steward::Due,
};
use crds::{
    Appliance, ReplicatedVM, ReplicationCycle,
    conditions::{ConditionType, Finding, merge},
    names,
    reasons::Reason,
    replication_cycle::{SnapshotState, SnapshotStatus, SourceStatus, TargetStatus},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    look::Pass,
    model::{ApplianceState, CycleSeen, Gateway, Observed, OrderSeen, Slots, Source, SourceDisk},
    step::{Decision, Remains, Step},
};
use crate::{admission::Limits, seeds::Which};

pub const CAPACITY: u64 = 64 << 20;

pub fn owner() -> Owner {
    Owner { cluster: "prod".into(), object: "apps/web".into() }
}

pub fn vm_id() -> VmId {
    VmId { vcenter: Uuid::from_u128(1), instance: Uuid::from_u128(2) }
}

pub fn incarnation() -> Incarnation {
    Incarnation(Uuid::from_u128(0xABCD_0000_0000_4000_8000_0000_0000_0001))
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub(crate) fn object(spec: Value) -> ReplicatedVM {
    let mut all = json!({ "applianceRef": { "name": "onprem" }, "vm": { "moRef": "vm-1" } });
    for (name, value) in spec.as_object().unwrap() {
        all[name] = value.clone();
    }
    let mut object: ReplicatedVM = serde_json::from_value(json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicatedVM",
        "metadata": { "name": "web", "namespace": "apps", "uid": "u-1", "generation": 1 }, "spec": all,
    }))
    .unwrap();
    object.metadata.finalizers = Some(vec![names::CLEANUP_FINALIZER.to_owned()]);
    object
}

pub(crate) fn seed_disk(key: u32, instance: u64) -> Disk {
    let which = Which { incarnation: incarnation(), disk: DiskKey(key), instance };
    Disk {
        id: ResourceId::disk("s", "g", &which.name("web")),
        unique_id: Uuid::from_u128(u128::from(key) * 1000 + u128::from(instance)).to_string(),
        state: DiskState::ActiveUpload,
        provisioned: true,
        failed: false,
        content: Some(content(CAPACITY)),
        tags: which.tags(&owner(), &BTreeMap::new()),
    }
}

pub(crate) fn seed(disk: &Disk) -> Seed {
    Seed { id: disk.id.to_string(), unique_id: disk.unique_id.clone(), capacity: CAPACITY }
}

/// A world with one VM of two disks, of which nothing was made yet.
pub(crate) fn fresh() -> Observed {
    let disk = |key| SourceDisk { key: DiskKey(key), uuid: None, label: format!("Hard disk {key}"), capacity: CAPACITY, excluded: false };
    Observed {
        now: at(0),
        object: Arc::new(object(json!({}))),
        owner: owner(),
        appliance: ApplianceState::Ready,
        source: Ok(Source {
            id: vm_id(),
            mo_ref: "vm-1".into(),
            name: "web".into(),
            host: None,
            power: Some("PoweredOn"),
            off_since: None,
            disks: vec![disk(2000), disk(2001)],
            concerns: Vec::new(),
            busy: None,
            pressed: None,
            tracking_off: false,
            held_by: Vec::new(),
            snapshots: BTreeMap::new(),
            left_by: None,
            oldest_snapshot: None,
        }),
        ledger: Ok(None),
        disks: Ok(Vec::new()),
        due: Ok(None),
        given_up: Vec::new(),
        setback: None,
        order: Ok(None),
        cycles: Vec::new(),
        unreadable: Vec::new(),
        gateways: vec![Gateway { name: "gw-1".into(), ready: true, since: at(-9999) }],
        slots: Some(Slots { limits: Limits { appliance: 10, host: 8 }, ..Slots::default() }),
        blobs: Ok(0),
    }
}

pub(crate) fn status(seen: &mut Observed) -> &mut crds::ReplicatedVMStatus {
    Arc::make_mut(&mut seen.object).status.get_or_insert_default()
}

pub(crate) fn spec(seen: &mut Observed) -> &mut crds::ReplicatedVMSpec {
    &mut Arc::make_mut(&mut seen.object).spec
}

/// The same with seeds and a ledger; no cycle has begun.
pub(crate) fn seeded() -> Observed {
    let mut seen = fresh();
    let disks = vec![seed_disk(2000, 1), seed_disk(2001, 1)];
    let seeds = disks.iter().zip([2000, 2001]).map(|(disk, key)| (DiskKey(key), seed(disk))).collect();
    status(&mut seen).incarnation = Some(incarnation().0.to_string());
    seen.ledger = Ok(Some(Ledger::new(vm_id(), owner(), incarnation(), 1 << 20, seeds)));
    seen.disks = Ok(disks);
    seen.due = Ok(Some(Due::New { above: Cycle(0) }));
    seen
}

pub(crate) fn ledger(seen: &mut Observed) -> &mut Ledger {
    seen.ledger.as_mut().unwrap().as_mut().unwrap()
}

/// The same with a clean replica, made by cycle `number`.
pub(crate) fn clean(number: u64) -> Observed {
    let mut seen = seeded();
    make_clean(&mut seen, number);
    seen
}

pub(crate) fn make_clean(seen: &mut Observed, number: u64) {
    let ledger = ledger(seen);
    ledger.begun = Cycle(number);
    ledger.turn = Turn(number);
    ledger.dirty.clear();
    ledger.recovery_point = Some(RecoveryPoint { cycle: Cycle(number), time: at(-60), disks: vec![DiskKey(2000), DiskKey(2001)] });
    for key in [2000, 2001] {
        ledger.baseline.insert(DiskKey(key), ChangeId(format!("52 de/{number}|{{}}")));
    }
    seen.due = Ok(Some(Due::New { above: Cycle(number) }));
}

/// The state of a cycle as a gateway has left it.
pub(crate) fn state(seen: &Observed, number: u64, phase: Phase) -> State {
    let ledger = seen.ours().unwrap();
    State { phase, ..State::new(ledger.cycle(Cycle(number)), owner(), ledger.turn) }
}

/// The object of a cycle.
pub(crate) fn cycle_object(seen: &Observed, number: u64) -> ReplicationCycle {
    let ledger = seen.ours().unwrap();
    let mut object: ReplicationCycle = serde_json::from_value(json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicationCycle",
        "metadata": { "name": format!("web-{number}"), "namespace": "apps", "generation": 1 },
        "spec": {
            "vmRef": { "name": "web" }, "applianceRef": { "name": "onprem" }, "cycle": number,
            "incarnation": ledger.incarnation.0, "owner": { "cluster": "prod", "object": "apps/web" },
            "vm": { "vcenterUuid": vm_id().vcenter, "instanceUuid": vm_id().instance, "moRef": "vm-1" },
            "kind": if ledger.recovery_point.is_some() { "Delta" } else { "Initial" }, "basis": ledger.turn.0,
            "disks": [{ "key": 2000, "capacityBytes": CAPACITY }, { "key": 2001, "capacityBytes": CAPACITY }],
            "quiesce": "Never", "worker": "gw-1", "allotment": { "disks": 2 },
        },
    }))
    .unwrap();
    object.metadata.finalizers = Some(vec![names::SNAPSHOT_FINALIZER.to_owned()]);
    object.metadata.creation_timestamp = Some(Time(at(-300)));
    object
}

/// What a gateway says of a cycle.
pub(crate) fn gateway_says(cycle: &mut ReplicationCycle, findings: &[Finding], snapshot: SnapshotState) {
    let status = cycle.status.get_or_insert_default();
    status.conditions = merge(&[], findings, Some(1), at(-100));
    status.source = Some(SourceStatus {
        started: Some(Time(at(-300))),
        ended: Some(Time(at(-120))),
        snapshot: Some(SnapshotStatus { state: snapshot, ..SnapshotStatus::default() }),
        ..SourceStatus::default()
    });
}

pub(crate) fn sent() -> Finding {
    Finding::holds(ConditionType::Transferred, Reason::AsExpected, "")
}

pub(crate) fn released() -> Finding {
    Finding::holds(ConditionType::SourceReleased, Reason::AsExpected, "")
}

pub(crate) fn put(seen: &mut Observed, cycle: ReplicationCycle, state: Option<State>) {
    seen.cycles.push(CycleSeen { object: Arc::new(cycle), state, readable: true, proof: None });
}

/// A cycle that a gateway is at.
pub(crate) fn transferring(mut seen: Observed, number: u64) -> Observed {
    let state = state(&seen, number, Phase::Open);
    let mut cycle = cycle_object(&seen, number);
    gateway_says(&mut cycle, &[Finding::open(ConditionType::Transferred, Reason::Transferring, "")], SnapshotState::Taken);
    put(&mut seen, cycle, Some(state.clone()));
    seen.due = Ok(Some(Due::Resume(state)));
    seen
}

/// A cycle whose log is complete.
pub(crate) fn transferred(mut seen: Observed, number: u64) -> Observed {
    let state = state(&seen, number, Phase::Sent);
    let mut cycle = cycle_object(&seen, number);
    gateway_says(&mut cycle, &[sent(), released()], SnapshotState::Released);
    seen.due = Ok(Some(Due::Apply { of: state.of, begun: false }));
    put(&mut seen, cycle, Some(state));
    seen
}

/// What is decided over what was seen. Whatever it is, each condition says in words what is so.
pub(crate) fn decide(seen: &Observed) -> Decision {
    let decision = super::decide::decide(&Pass::new(seen.clone()));
    assert!(decision.findings.iter().all(|finding| !finding.message.is_empty()), "{:?}", decision.findings);
    decision
}

/// What a step has done by the next look, as far as the decision can see it.
pub fn done(mut seen: Observed, step: &Step) -> Observed {
    match step {
        Step::Hold => Arc::make_mut(&mut seen.object).metadata.finalizers = Some(vec![names::CLEANUP_FINALIZER.to_owned()]),
        Step::DrawIncarnation => status(&mut seen).incarnation = Some(incarnation().0.to_string()),
        Step::MakeDisks(disks) => {
            let made = disks.iter().map(|new| seed_disk(new.which.disk.0, new.which.instance));
            let mut all: Vec<Disk> = made.chain(seen.disks.unwrap()).collect();
            all.dedup_by(|a, b| a.id == b.id);
            seen.disks = Ok(all);
        }
        Step::CreateLedger(ready) => {
            let seeds = ready
                .iter()
                .map(|new| (new.disk, Seed { id: new.id.to_string(), unique_id: new.unique_id.clone(), capacity: new.capacity }));
            seen.ledger = Ok(Some(Ledger::new(vm_id(), owner(), incarnation(), 1 << 20, seeds.collect())));
            seen.due = Ok(Some(Due::New { above: Cycle(0) }));
        }
        Step::Reseed(ready) => {
            for new in ready {
                let seed = Seed { id: new.id.to_string(), unique_id: new.unique_id.clone(), capacity: new.capacity };
                let next = ledger(&mut seen).reseed(new.disk, seed);
                seen.ledger = Ok(Some(next));
            }
        }
        Step::Retire(disks) => {
            for disk in disks {
                let next = ledger(&mut seen).retire(*disk);
                seen.ledger = Ok(Some(next));
            }
        }
        Step::SweepSeeds(ids) => seen.disks.as_mut().unwrap().retain(|disk| !ids.contains(&disk.id)),
        Step::SwitchTracking => seen.source.as_mut().unwrap().tracking_off = false,
        // The first half alone: a crash before the object was made.
        Step::Claim(above) => seen.due = Ok(Some(Due::Resume(state(&seen, above.0 + 1, Phase::Open)))),
        Step::MakeCycle { of, .. } => {
            let (cycle, phase) =
                (cycle_object(&seen, of.cycle.0), if matches!(seen.due, Ok(Some(Due::Apply { .. }))) { Phase::Sent } else { Phase::Open });
            let state = state(&seen, of.cycle.0, phase);
            put(&mut seen, cycle, Some(state));
        }
        Step::Assign { cycle, worker } => edit(&mut seen, cycle, |cycle| cycle.spec.worker = Some(worker.clone())),
        Step::Cancel { cycles, reason } => {
            for name in cycles {
                let cancel = crds::replication_cycle::Cancel { reason: reason.as_str().into() };
                edit(&mut seen, name, |cycle| cycle.spec.cancel = Some(cancel.clone()));
            }
        }
        Step::WriteOrder(of) => {
            // Nothing has changed on the last one, so it needs no access.
            let all = &ledger(&mut seen).seeds;
            let written = all.len().saturating_sub(1).max(1);
            let seeds = all.iter().take(written).map(|(disk, seed)| (*disk, seed.unique_id.clone())).collect();
            seen.order = Ok(Some(OrderSeen { of: *of, seeds }));
            let now = seen.now;
            for cycle in seen.cycles.iter_mut().filter(|cycle| cycle.id() == Some(*of)) {
                let status = Arc::make_mut(&mut cycle.object).status.get_or_insert_default();
                status.target = Some(TargetStatus { ordered: Some(Time(now)), ..status.target.clone().unwrap_or_default() });
            }
        }
        Step::DropOrder => seen.order = Ok(None),
        Step::Close { cycle, order } => {
            if *order {
                seen.order = Ok(None);
            }
            edit(&mut seen, cycle, |cycle| cycle.metadata.finalizers = None);
            // Nobody looks at the log of one that is closed.
            let closed = seen.cycles.iter_mut().find(|one| one.object.metadata.name.as_deref() == Some(cycle)).unwrap();
            (closed.state, closed.proof) = (None, None);
        }
        Step::ReleaseSnapshots => release(&mut seen),
        Step::CleanUp(remains) => {
            for remain in remains {
                match remain {
                    Remains::Snapshots => release(&mut seen),
                    Remains::Order => seen.order = Ok(None),
                    Remains::Seeds(ids) => seen.disks.as_mut().unwrap().retain(|disk| !ids.contains(&disk.id)),
                    Remains::Log => seen.blobs = Ok(0),
                    Remains::Ledger => (seen.ledger, seen.due) = (Ok(None), Ok(None)),
                }
            }
        }
        Step::Forget => {
            seen.cycles.clear();
            let status = status(&mut seen);
            (status.incarnation, status.last_cycle, status.recovery_point, status.failures) = (None, None, None, None);
        }
        Step::Prune(cycles) => seen.cycles.retain(|cycle| !cycles.contains(&cycle.object.metadata.name.clone().unwrap())),
        Step::TakeOver => {
            let next = ledger(&mut seen).take_over(owner(), incarnation());
            let above = next.begun;
            (seen.ledger, seen.due) = (Ok(Some(next)), Ok(Some(Due::New { above })));
        }
        Step::None | Step::LookAtSlots | Step::LetGo => {}
    }
    seen
}

fn release(seen: &mut Observed) {
    let source = seen.source.as_mut().unwrap();
    (source.snapshots, source.left_by) = (Default::default(), None);
}

pub(crate) fn edit(seen: &mut Observed, name: &str, change: impl FnOnce(&mut ReplicationCycle)) {
    let cycle = seen.cycles.iter_mut().find(|cycle| cycle.object.metadata.name.as_deref() == Some(name)).unwrap();
    change(Arc::make_mut(&mut cycle.object));
}

/// What the passes of before have said of cycles stands in their objects.
pub(crate) fn mirrored(mut seen: Observed) -> Observed {
    let statuses: Vec<_> = Pass::new(seen.clone()).mirrored.into_iter().map(|mirrored| mirrored.status).collect();
    for (cycle, status) in seen.cycles.iter_mut().zip(statuses) {
        Arc::make_mut(&mut cycle.object).status = Some(status);
    }
    seen
}

/// A cycle begun by an applier.
pub(crate) fn begin(seen: &mut Observed, number: u64) {
    let ledger = ledger(seen);
    ledger.begun = Cycle(number);
    ledger.turn = ledger.turn.next();
    ledger.dirty.push(Begun { cycle: Cycle(number), manifest: blocklog::ids::Digest([1; 32]), covered: false });
    let of = ledger.cycle(Cycle(number));
    seen.due = Ok(Some(Due::Apply { of, begun: true }));
}

pub(crate) fn later(mut seen: Observed, by: SignedDuration) -> Observed {
    seen.now += by;
    seen
}

/// An appliance with these fields in its spec, besides what every one has.
pub(crate) fn appliance(spec: Value) -> Appliance {
    let mut all = json!({
        "vcenter": { "url": "https://vcenter.example.com", "credentialsSecretRef": { "name": "vcenter" } },
        "azure": { "subscriptionId": "22222222-2222-4222-8222-222222222222", "resourceGroup": "hawser", "location": "westeurope" },
        "logStore": { "accountUrl": "https://hawserlog.blob.core.windows.net" },
        "encryption": { "keySecretRef": { "name": "hawser-key" } },
        "diskAccess": { "method": "VDDK", "vddk": { "claimName": "vddk" } },
    });
    for (name, value) in spec.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": "Appliance",
        "metadata": { "name": "onprem", "namespace": "site", "uid": "u-1" }, "spec": all,
    }))
    .unwrap()
}
