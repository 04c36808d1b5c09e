use blocklog::ids::Cycle;
use crds::replication_cycle::SnapshotState;

use super::*;
use crate::vm::{
    decide::Pass,
    model::Observed,
    test_support::{
        begin, clean, edit, gateway_says, ledger, make_clean, mirrored, released, seeded, sent, state, transferred, transferring,
    },
};

fn phase(seen: &Observed) -> (Status, Reason, CyclePhase) {
    let pass = Pass::new(seen);
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
    let pass = Pass::new(&seen);
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
        let pass = Pass::new(&seen);
        assert_eq!(pass.mirrored[0].status.failure.as_ref().unwrap().reason, reason.as_str());
        (reason, phase)
    };
    assert_eq!(
        failed(&|seen| seen.cycles[0].state = Some(state(seen, 2, Phase::Failed("SnapshotLost".into())))),
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
    seen.cycles[0].state = Some(state(&seen, 2, Phase::Failed("SnapshotLost".into())));
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
    id(&seen.cycles[0].object).unwrap().cycle
}
