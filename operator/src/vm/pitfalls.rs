//! Rows of docs/pitfalls.md that are kept by several checks of the chain together.

use std::sync::Arc;

use blocklog::{
    cycle::Phase,
    ids::{Cycle, DiskKey, Owner, Turn},
    steward::Due,
};
use crds::{
    ReplicatedVMStatus,
    conditions::{self, ConditionType as C},
    reasons::Reason,
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::{
    look::Pass,
    model::{ApplianceState, Observed, SourceDisk},
    status::status,
    step::Step,
    test_support::{CAPACITY, at, clean, decide, done, later, ledger, mirrored, seed_disk, state, transferring},
};
use crate::{
    admission::{Candidate, Holder},
    pass::SOON,
    trouble::Trouble,
};

fn said(seen: &Observed) -> ReplicatedVMStatus {
    status(&Pass::new(seen.clone()), &decide(seen))
}

fn reason(status: &ReplicatedVMStatus, of: C) -> (String, String) {
    let found = conditions::get(&status.conditions, of).unwrap();
    (found.status.clone(), found.reason.clone())
}

/// A clean replica whose last cycle was a delta, and what was said of it.
fn settled(number: u64) -> Observed {
    let mut seen = clean(number);
    let status = said(&seen);
    Arc::make_mut(&mut seen.object).status = Some(status);
    seen
}

/// Each of the days of a month.
fn month(seen: &Observed) -> impl Iterator<Item = Observed> {
    (0..30).map(|day| later(seen.clone(), SignedDuration::from_hours(24 * day)))
}

/// Row 27.
#[test]
fn a_vm_that_is_gone_costs_nothing_and_takes_nothing_with_it() {
    let mut seen = settled(4);
    let before = said(&seen);
    let source = std::mem::replace(&mut seen.source, Err(Trouble::new(Reason::VmNotFound, "vCenter has no such VM")));
    for seen in month(&seen) {
        let decision = decide(&seen);
        assert_eq!(decision.step, Step::None, "nothing is begun, made or deleted");
        assert!(decision.wake >= SOON, "it does not turn in circles");
        let said = said(&seen);
        assert_eq!(reason(&said, C::SourceFound), ("False".into(), "VmNotFound".into()));
        assert_eq!(reason(&said, C::Ready), ("False".into(), "VmNotFound".into()));
        assert_eq!((&said.recovery_point, &said.disks, &said.vm), (&before.recovery_point, &before.disks, &before.vm));
        assert_eq!((said.failures, said.next_cycle_time), (None, None));
    }
    // Nor is anything mended for it: who knows whether that VM comes back.
    let mut mended = seen.clone();
    mended.disks.as_mut().unwrap().remove(0);
    assert_eq!(decide(&mended).step, Step::None);
    seen.source = source;
    assert_eq!(decide(&seen).step, Step::Claim(Cycle(4)), "found again it goes on from where it was");
}

/// Rows 22 and 31.
#[test]
fn what_passes_by_itself_is_waited_for_and_counts_as_no_failure() {
    for busy in [Reason::HostUnavailable, Reason::VmInaccessible, Reason::SourceBusy, Reason::DatastoreFull, Reason::VmQuestion] {
        let mut seen = settled(4);
        seen.source.as_mut().unwrap().busy = Some(Trouble::new(busy, "why"));
        for seen in month(&seen) {
            let decision = decide(&seen);
            assert_eq!(decision.step, Step::None, "{busy}");
            let said = said(&seen);
            assert_eq!(reason(&said, C::Replicating), ("False".into(), busy.to_string()));
            assert_eq!(said.waiting_for.map(|wait| wait.reason), Some(busy.to_string()));
            assert_eq!((said.failures, Pass::new(seen.clone()).history.1), (None, 0));
        }
        seen.source.as_mut().unwrap().busy = None;
        assert_eq!(decide(&seen).step, Step::Claim(Cycle(4)));
        // A cycle that runs is its gateway's, which waits as well: nobody takes it away.
        let mut running = transferring(clean(4), 5);
        running.source.as_mut().unwrap().busy = Some(Trouble::new(busy, "why"));
        assert_eq!(decide(&running).step, Step::None);
    }
}

/// Row 16.
#[test]
fn a_snapshot_that_a_crash_left_goes_before_the_next_cycle() {
    for left in [1, 3, 9] {
        let mut seen = settled(3);
        seen.source.as_mut().unwrap().snapshots.insert(Cycle(left), format!("hawser-{left}"));
        assert_eq!(decide(&seen).step, Step::ReleaseSnapshots, "{left}");
        let seen = done(seen, &Step::ReleaseSnapshots);
        assert_eq!(decide(&seen).step, Step::Claim(Cycle(3)));
    }
    // That of a cycle that runs is its own.
    let mut running = transferring(clean(3), 4);
    running.source.as_mut().unwrap().snapshots.insert(Cycle(4), "hawser-4".into());
    assert_eq!(decide(&running).step, Step::None);
}

/// Row 16: it grows, whatever else a person has to do first.
#[test]
fn a_snapshot_that_nobody_needs_goes_whatever_is_in_the_way() {
    let mut stray = settled(3);
    stray.source.as_mut().unwrap().snapshots.insert(Cycle(4), "hawser-4".into());
    let mut blocked = stray.clone();
    blocked.appliance = ApplianceState::NotReady("a role is missing".into());
    let mut lost = stray.clone();
    ledger(&mut lost).owner.cluster = "other".into();
    lost.due = Ok(None);
    for seen in [blocked, lost] {
        assert_eq!(decide(&seen).step, Step::ReleaseSnapshots);
        assert_ne!(decide(&done(seen, &Step::ReleaseSnapshots)).step, Step::ReleaseSnapshots);
    }
    // Where nobody knows whether a cycle needs it, it stays.
    let mut unknown = stray;
    unknown.due = Err(Trouble::new(Reason::LogStoreUnreachable, "no route"));
    assert_eq!(decide(&unknown).step, Step::None);
}

/// Row 16: the owner before is not there any more to remove it.
#[test]
fn a_snapshot_of_the_owner_before_goes_once_his_replica_is_ours() {
    let former = Owner { cluster: "other".into(), object: "apps/web".into() };
    let mut seen = settled(3);
    seen.source.as_mut().unwrap().left_by = Some(former.clone());
    assert_eq!(decide(&seen).step, Step::ReleaseSnapshots);
    assert_eq!(decide(&done(seen.clone(), &Step::ReleaseSnapshots)).step, Step::Claim(Cycle(3)));
    // As long as it is his, he may be reading it.
    ledger(&mut seen).owner = former;
    seen.due = Ok(None);
    assert_eq!(decide(&seen).step, Step::None);
}

/// Row 16: what can't be applied any more is not read to its end.
#[test]
fn a_gateway_that_works_in_vain_is_told_so() {
    // A seed was exchanged under it, or its ledger is gone.
    let mut exchanged = transferring(clean(1), 2);
    ledger(&mut exchanged).turn = Turn(9);
    exchanged.due = Ok(Some(Due::New { above: Cycle(2) }));
    let mut lost = transferring(clean(1), 2);
    (lost.ledger, lost.due) = (Ok(None), Ok(None));
    for (seen, reason) in [(exchanged, Reason::BasisPassed), (lost, Reason::Cancelled)] {
        let step = decide(&seen).step;
        assert_eq!(step, Step::Cancel { cycles: vec!["web-2".into()], reason });
        let told = mirrored(done(seen.clone(), &step));
        assert!(!matches!(decide(&told).step, Step::Cancel { .. }), "once");
        // Deletion does not wait for one that is never told.
        let mut deleted = mirrored(seen);
        Arc::make_mut(&mut deleted.object).metadata.deletion_timestamp = Some(Time(at(0)));
        assert_eq!(decide(&deleted).step, Step::Cancel { cycles: vec!["web-2".into()], reason: Reason::Stopped });
    }
}

/// Row 25.
#[test]
fn an_added_disk_gets_a_seed_and_others_keep_their_baselines() {
    let mut seen = settled(3);
    let added = SourceDisk { key: DiskKey(2002), uuid: None, label: "Hard disk 3".into(), capacity: CAPACITY, excluded: false };
    seen.source.as_mut().unwrap().disks.push(added);
    let step = decide(&seen).step;
    assert!(matches!(&step, Step::MakeDisks(disks) if disks.len() == 1 && disks[0].which.disk == DiskKey(2002)), "{step:?}");
    let seen = done(seen, &step);
    let step = decide(&seen).step;
    assert!(matches!(&step, Step::Reseed(ready) if ready.len() == 1 && ready[0].disk == DiskKey(2002)), "{step:?}");
    let before = seen.ours().unwrap().baseline.clone();
    let seen = done(seen, &step);
    let ledger = seen.ours().unwrap();
    assert_eq!(ledger.baseline, before, "only the new one is copied whole");
    assert!(ledger.recovery_point.is_none(), "until it is, there is no state of all disks");
    assert_eq!(decide(&seen).step, Step::Claim(Cycle(3)));
}

/// Row 25.
#[test]
fn the_replica_of_a_disk_that_was_removed_is_kept_and_told() {
    let mut seen = settled(3);
    seen.source.as_mut().unwrap().disks.remove(1);
    assert_eq!(decide(&seen).step, Step::Retire(vec![DiskKey(2001)]));
    let seen = done(seen, &Step::Retire(vec![DiskKey(2001)]));
    let ledger = seen.ours().unwrap();
    assert_eq!(ledger.recovery_point.as_ref().unwrap().disks, [DiskKey(2000)]);
    assert_eq!(ledger.baseline.keys().collect::<Vec<_>>(), [&DiskKey(2000)]);
    // From here on its seed is deleted by nothing but an end of replication.
    let mut later = seen;
    for _ in 0..5 {
        let step = decide(&later).step;
        assert!(!matches!(step, Step::SweepSeeds(_) | Step::CleanUp(_)), "{step:?}");
        later = mirrored(done(later, &step));
    }
    let said = said(&later);
    let concern = said.concerns.iter().find(|concern| concern.id == "DiskRemoved").unwrap();
    assert_eq!(concern.disk, Some(2001));
    assert!(concern.message.contains(&seed_disk(2001, 1).id.name), "{}", concern.message);
    // Back, or with all disks untold, it is not said to be gone.
    let mut untold = later.clone();
    untold.source.as_mut().unwrap().disks.clear();
    assert!(self::said(&untold).concerns.is_empty());
    let back = clean(3);
    assert!(self::said(&back).concerns.is_empty());
}

/// Rows 6 and 12.
#[test]
fn tracking_is_switched_on_between_cycles_never_under_one() {
    let mut seen = settled(3);
    seen.source.as_mut().unwrap().tracking_off = true;
    assert_eq!(decide(&seen).step, Step::SwitchTracking);
    assert_eq!(decide(&done(seen, &Step::SwitchTracking)).step, Step::Claim(Cycle(3)));
    let mut running = transferring(clean(3), 4);
    running.source.as_mut().unwrap().tracking_off = true;
    assert_eq!(decide(&running).step, Step::None);
}

/// Eight slots, of which one is free; the VM has two disks.
fn on_a_full_host(mut seen: Observed) -> Observed {
    let on = |host: &str, vm: &str, disks| Holder { vm: vm.into(), host: Some(host.into()), disks };
    seen.source.as_mut().unwrap().host = Some("esx-1".into());
    seen.slots.as_mut().unwrap().holders = vec![on("esx-1", "db", 7), on("esx-2", "mail", 1)];
    seen
}

/// Rows 23 and 30.
#[test]
fn a_full_host_says_which_it_is_and_who_has_its_slots() {
    let mut seen = on_a_full_host(clean(1));
    assert_eq!(decide(&seen).step, Step::None);
    let told = said(&seen);
    assert_eq!(reason(&told, C::Replicating), ("False".into(), "HostFull".into()));
    let waiting = told.waiting_for.unwrap();
    assert_eq!((waiting.reason.as_str(), waiting.resource.as_deref()), ("HostFull", Some("esx-1")));
    assert_eq!((waiting.used, waiting.capacity, waiting.holders), (Some(7), Some(8), vec!["db".to_owned()]));
    // It is moved by vMotion.
    seen.source.as_mut().unwrap().host = Some("esx-2".into());
    assert_eq!(decide(&seen).step, Step::Claim(Cycle(1)));
}

/// Rows 23 and 30: nobody has counted it since its number was claimed. One that goes on already is not kept waiting.
#[test]
fn a_cycle_without_an_object_gets_it_only_where_there_are_slots() {
    let mut seen = on_a_full_host(clean(1));
    let state = state(&seen, 2, Phase::Open);
    let of = state.of;
    seen.due = Ok(Some(Due::Resume(state)));
    assert_eq!(decide(&seen).step, Step::None);
    assert_eq!(reason(&said(&seen), C::Replicating), ("False".into(), "HostFull".into()));
    // It had its turn when it was claimed: who waits is behind it.
    let mut room = seen.clone();
    room.slots.as_mut().unwrap().holders.clear();
    let another = |n: i64| Candidate { vm: format!("w{n}"), host: Some("esx-1".into()), disks: 4, initial: true, since: at(-9999) };
    room.slots.as_mut().unwrap().waiting = (0..9).map(another).collect();
    assert!(matches!(decide(&room).step, Step::MakeCycle { .. }));
    // While vCenter does not answer it is where it was.
    let mut blind = seen.clone();
    crate::vm::test_support::status(&mut blind).vm = Some(
        serde_json::from_value(json!({ "moRef": "vm-1", "name": "web", "instanceUuid": "u", "vcenterUuid": "v", "host": "esx-1" }))
            .unwrap(),
    );
    blind.source = Err(Trouble::new(Reason::Unreachable, "vCenter does not answer"));
    assert_eq!(decide(&blind).step, Step::None);
    let mut stands = seen.clone();
    stands.source.as_mut().unwrap().snapshots.insert(Cycle(2), "hawser".into());
    assert!(matches!(decide(&stands).step, Step::MakeCycle { .. }));
    seen.due = Ok(Some(Due::Apply { of, begun: false }));
    assert!(matches!(decide(&seen).step, Step::MakeCycle { .. }));
}
