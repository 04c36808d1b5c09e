use blocklog::ids::Cycle;
use crds::replication_cycle::SnapshotState;

use super::*;
use crate::vm::{
    look::Pass,
    model::Observed,
    test_support::{
        begin, clean, edit, gateway_says, ledger, make_clean, mirrored, released, seeded, sent, state, transferred, transferring,
    },
};

fn phase(seen: &Observed) -> (Status, Reason, CyclePhase) {
    let pass = Pass::new(seen.clone());
    let one = pass.mirrored.last().unwrap();
    (one.applied.status, one.applied.reason, one.status.phase.unwrap())
}

#[test]
fn a_cycle_from_its_beginning_to_its_end() {
    let seen = transferring(seeded(), 1);
    assert_eq!(phase(&seen), (Status::Unknown, Reason::Pending, CyclePhase::Transfer));
    let mut seen = transferred(seeded(), 1);
    assert_eq!(phase(&seen), (Status::Unknown, Reason::Pending, CyclePhase::Applying));
    begin(&mut seen, 1);
    assert_eq!(phase(&seen), (Status::Unknown, Reason::Applying, CyclePhase::Applying));
    make_clean(&mut seen, 1);
    assert_eq!(phase(&seen), (Status::True, Reason::AsExpected, CyclePhase::Succeeded));
    let pass = Pass::new(seen.clone());
    let last = pass.history.0.clone().unwrap();
    assert!(last.succeeded && last.kind == CycleKind::Initial && pass.history.1 == 0);
}

#[test]
fn it_has_succeeded_only_when_its_snapshot_is_gone() {
    let mut seen = transferred(seeded(), 1);
    edit(&mut seen, "web-1", |cycle| gateway_says(cycle, &[sent()], SnapshotState::Releasing));
    make_clean(&mut seen, 1);
    assert_eq!(phase(&seen), (Status::True, Reason::AsExpected, CyclePhase::Applying));
    edit(&mut seen, "web-1", |cycle| gateway_says(cycle, &[sent(), released()], SnapshotState::Released));
    assert_eq!(phase(&seen).2, CyclePhase::Succeeded);
}

#[test]
fn why_a_cycle_is_not_applied() {
    let failed = |change: &dyn Fn(&mut Observed)| {
        let mut seen = transferred(clean(1), 2);
        change(&mut seen);
        let (status, reason, phase) = phase(&seen);
        assert_eq!(status, Status::False);
        let pass = Pass::new(seen.clone());
        assert_eq!(pass.mirrored[0].status.failure.as_ref().unwrap().reason, reason.as_str());
        (reason, phase)
    };
    assert_eq!(
        failed(&|seen| seen.cycles[0].state = Some(state(seen, 2, Phase::Failed(Reason::SnapshotLost)))),
        (Reason::SnapshotLost, CyclePhase::Failed)
    );
    assert_eq!(failed(&|seen| ledger(seen).turn = Turn(9)), (Reason::BasisPassed, CyclePhase::Failed));
    assert_eq!(failed(&|seen| ledger(seen).sealed = Some(Turn(1))), (Reason::SeedsSealed, CyclePhase::Failed));
    assert_eq!(failed(&|seen| ledger(seen).owner.cluster = "test".into()), (Reason::OwnedByOther, CyclePhase::Failed));
    assert_eq!(failed(&|seen| seen.cycles[0].state = None), (Reason::BlobMissing, CyclePhase::Failed));
    assert_eq!(
        failed(&|seen| {
            begin(seen, 2);
            ledger(seen).dirty[0].covered = true;
        }),
        (Reason::SnapshotLost, CyclePhase::Failed),
        "sent in part"
    );
    let cancel = crds::replication_cycle::Cancel { reason: "Stopped".into() };
    assert_eq!(
        failed(&|seen| edit(seen, "web-2", |cycle| cycle.spec.cancel = Some(cancel.clone()))),
        (Reason::Cancelled, CyclePhase::Cancelled)
    );
}

#[test]
fn what_was_said_of_an_end_stays() {
    // Failed; then a later cycle makes the replica clean.
    let mut seen = transferred(clean(1), 2);
    seen.cycles[0].state = Some(state(&seen, 2, Phase::Failed(Reason::SnapshotLost)));
    let mut seen = mirrored(seen);
    make_clean(&mut seen, 3);
    seen.cycles[0].state = None;
    assert_eq!(phase(&seen), (Status::False, Reason::SnapshotLost, CyclePhase::Failed));
    // Applied; then the next one begins.
    let mut seen = transferred(clean(1), 2);
    make_clean(&mut seen, 2);
    let mut seen = mirrored(seen);
    begin(&mut seen, 3);
    seen.cycles[0].state = None;
    assert_eq!(phase(&seen).0, Status::True);
    // Never seen applied, and passed: it is not taken for applied.
    let mut seen = transferred(clean(1), 2);
    make_clean(&mut seen, 3);
    assert_eq!(phase(&seen), (Status::False, Reason::BasisPassed, CyclePhase::Failed));
}

#[test]
fn the_same_look_says_the_same() {
    let mut seen = transferred(clean(1), 2);
    make_clean(&mut seen, 2);
    let once = mirrored(seen);
    let mut twice = mirrored(once.clone());
    twice.now = once.now;
    assert_eq!(once.cycles[0].object.status, twice.cycles[0].object.status);
    assert_eq!(seen_cycle(&once), Cycle(2));
}

fn seen_cycle(seen: &Observed) -> Cycle {
    seen.cycles[0].id().unwrap().cycle
}

fn setback(seen: &Observed, number: u64, reason: Reason) -> Setback {
    let of = seen.ours().unwrap().cycle(Cycle(number));
    let at = seen.now;
    let turn = Some(seen.ours().unwrap().turn);
    Setback { of, reason, message: "why".into(), disk: None, tries: 3, first: at, last: at, turn, for_good: false }
}

fn gone(seen: &Observed, number: u64) -> GivenUp {
    let of = seen.ours().unwrap().cycle(Cycle(number));
    GivenUp { of, reason: Reason::BlobDamaged, message: "a segment is damaged".into(), disk: Some(blocklog::ids::DiskKey(2000)) }
}

#[test]
fn a_cycle_that_is_given_up_has_failed_for_good() {
    for begun in [false, true] {
        let mut seen = transferred(clean(1), 2);
        if begun {
            begin(&mut seen, 2);
        }
        seen.given_up = vec![gone(&seen, 3)];
        assert_eq!(phase(&seen).0, Status::Unknown, "another one is");
        seen.given_up = vec![gone(&seen, 2)];
        let failed = (Status::False, Reason::BlobDamaged, CyclePhase::Failed);
        assert_eq!(phase(&seen), failed);
        let told = |seen: &Observed| Pass::new(seen.clone()).mirrored[0].status.failure.clone().unwrap();
        assert_eq!((told(&seen).disk, told(&seen).reason.as_str()), (Some(2000), "BlobDamaged"));
        assert!(told(&seen).message.starts_with("a segment is damaged"));
        // What said so is cleaned up, or can't be read any more.
        let mut seen = mirrored(seen);
        let before = told(&seen);
        seen.given_up.clear();
        assert_eq!((phase(&seen), told(&seen)), (failed, before));
    }
    // It was taken back before: that is what it ended by.
    let mut seen = transferred(clean(1), 2);
    seen.given_up = vec![gone(&seen, 2)];
    edit(&mut seen, "web-2", |cycle| cycle.spec.cancel = Some(crds::replication_cycle::Cancel { reason: "Stopped".into() }));
    assert_eq!(phase(&seen).2, CyclePhase::Cancelled);
    // Another applier could do it after all.
    let mut seen = transferred(clean(1), 2);
    seen.given_up = vec![gone(&seen, 2)];
    make_clean(&mut seen, 2);
    assert_eq!(phase(&seen).0, Status::True);
}

#[test]
fn what_an_applier_tries_in_vain_is_said_while_it_is_tried() {
    for begun in [false, true] {
        let mut seen = transferred(clean(1), 2);
        if begun {
            begin(&mut seen, 2);
        }
        let quiet = phase(&seen);
        seen.setback = Some(setback(&seen, 1, Reason::ReplicaUnreachable));
        assert_eq!(phase(&seen), quiet, "of an older cycle it says nothing");
        seen.setback = Some(setback(&seen, 2, Reason::ReplicaUnreachable));
        assert_eq!(phase(&seen), (Status::Unknown, Reason::ReplicaUnreachable, CyclePhase::Applying));
        let message = Pass::new(seen.clone()).mirrored[0].applied.message.clone();
        assert!(message.starts_with("why (tried 3 times in vain from 2023-11-14"), "{message}");
        // It passes.
        make_clean(&mut seen, 2);
        assert_eq!(phase(&seen).0, Status::True);
    }
}

#[test]
fn an_order_that_nobody_takes_up_is_told_after_a_while() {
    let mut seen = transferred(clean(1), 2);
    let of = seen.ours().unwrap().cycle(Cycle(2));
    seen.order = Ok(Some(crate::vm::model::OrderSeen { of, seeds: Default::default() }));
    let now = seen.now;
    edit(&mut seen, "web-2", |cycle| cycle.status.as_mut().unwrap().target.get_or_insert_default().ordered = Some(Time(now)));
    assert_eq!(phase(&seen).1, Reason::Applying);
    seen.now += UNTAKEN;
    assert_eq!(phase(&seen), (Status::Unknown, Reason::Pending, CyclePhase::Applying));
    assert!(Pass::new(seen.clone()).mirrored[0].applied.message.contains("no applier has begun"));
    begin(&mut seen, 2);
    assert_eq!(phase(&seen).1, Reason::Applying);
}

#[test]
fn a_setback_is_told_once_for_each_reason() {
    let status = |reason| {
        let finding = Finding::open(ConditionType::Applied, reason, "");
        let conditions = conditions::merge(&[], &[finding], Some(1), jiff::Timestamp::UNIX_EPOCH);
        ReplicationCycleStatus { conditions, ..ReplicationCycleStatus::default() }
    };
    let told = |from, to| is_new_setback(&status(from), &Finding::open(ConditionType::Applied, to, ""));
    assert!(told(Reason::Applying, Reason::ReplicaDenied));
    assert!(told(Reason::ReplicaUnreachable, Reason::ReplicaDenied));
    assert!(!told(Reason::ReplicaDenied, Reason::ReplicaDenied), "however often it is tried");
    assert!(!told(Reason::ReplicaDenied, Reason::Applying) && !told(Reason::Pending, Reason::NotChecked));
    assert!(told(Reason::Applying, Reason::Pending), "nobody takes the order up");
    assert!(!told(Reason::NotChecked, Reason::Pending), "it is not complete yet");
    // What is final is told at the cycle's edge.
    assert!(!is_new_setback(&status(Reason::Applying), &Finding::fails(ConditionType::Applied, Reason::BlobDamaged, "")));
}
