use std::sync::Arc;

use blocklog::{
    cycle::Phase,
    ids::{Cycle, DiskKey, Owner},
    steward::Due,
};
use crds::{
    concerns::Severity,
    conditions::{ConditionType as C, Finding, Status},
    names,
    reasons::Reason,
    replicated_vm::{Concern, CycleKind, LastCycle, Replication},
    replication_cycle::SnapshotState,
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    admission::Holder,
    cycle::SYNC_NOW,
    pass::IDLE,
    trouble::Trouble,
    vm::{
        look::Pass,
        model::*,
        step::*,
        test_support::{ledger, *},
    },
};

fn finding(decision: &Decision, of: C) -> (Status, Reason) {
    let finding = decision.findings.iter().rev().find(|finding| finding.of == of);
    finding.map(|finding| (finding.status, finding.reason)).unwrap_or_else(|| panic!("{of}: {:?}", decision.findings))
}

/// Passes until nothing is left to do; the words of the steps.
fn run(mut seen: Observed, most: usize) -> (Observed, Vec<String>) {
    let mut steps = Vec::new();
    for _ in 0..most {
        let step = decide(&seen).step;
        if step == Step::None {
            return (seen, steps);
        }
        let word = format!("{step:?}");
        steps.push(word.split(['(', ' ', '{']).next().unwrap().to_owned());
        seen = mirrored(done(seen, &step));
    }
    panic!("it goes on for ever: {steps:?}");
}

#[test]
fn from_nothing_to_a_running_cycle() {
    let mut seen = fresh();
    Arc::make_mut(&mut seen.object).metadata.finalizers = None;
    let (seen, steps) = run(seen, 10);
    assert_eq!(steps, ["Hold", "DrawIncarnation", "MakeDisks", "CreateLedger", "Claim", "MakeCycle"]);
    assert_eq!(finding(&decide(&seen), C::Replicating), (Status::True, Reason::CycleRunning));
}

#[test]
fn from_a_complete_log_to_a_closed_cycle() {
    let (mut seen, steps) = run(transferred(seeded(), 1), 5);
    assert_eq!(steps, ["WriteOrder"]);
    begin(&mut seen, 1);
    assert_eq!(decide(&seen).step, Step::None, "an applier is at it");
    make_clean(&mut seen, 1);
    let (seen, steps) = run(mirrored(seen), 5);
    assert_eq!(steps, ["Close", "Claim", "MakeCycle"], "the first delta follows at once");
    assert!(matches!(seen.order, Ok(None)));
}

#[test]
fn a_cycle_that_is_over_is_closed_without_its_vm() {
    let mut seen = transferred(seeded(), 1);
    make_clean(&mut seen, 1);
    seen.source = Err(Trouble::new(Reason::VmNotFound, "no VM has this UUID"));
    let (seen, steps) = run(mirrored(seen), 5);
    assert_eq!(steps.first().map(String::as_str), Some("Close"));
    assert_eq!(finding(&decide(&seen), C::Replicating), (Status::False, Reason::VmNotFound));
}

#[test]
fn no_step_is_repeated_when_it_has_taken_effect() {
    // Each of these, decided again over what the step has left behind, is another step or none.
    let mut off = seeded();
    off.source.as_mut().unwrap().tracking_off = true;
    let mut gone = seeded();
    gone.disks.as_mut().unwrap().remove(0);
    let mut fewer = seeded();
    fewer.source.as_mut().unwrap().disks[1].excluded = true;
    let mut old = clean(4);
    old.disks.as_mut().unwrap().push(seed_disk(2000, 0));
    let mut dead = transferring(clean(3), 4);
    dead.gateways[0].name = "gw-2".into();
    let mut stray = clean(3);
    stray.source.as_mut().unwrap().snapshots.insert(Cycle(2), "hawser-2".into());
    let all = [fresh(), seeded(), off, gone, fewer, old, dead, stray, transferred(clean(1), 2), clean(1)];
    for (at, mut seen) in all.into_iter().enumerate() {
        for _ in 0..12 {
            let step = decide(&seen).step;
            if step == Step::None {
                break;
            }
            seen = mirrored(done(seen, &step));
            assert_ne!(decide(&seen).step, step, "{at}");
        }
    }
}

#[test]
fn a_wait_has_a_reason() {
    let mut cases: Vec<(&str, Observed, C, (Status, Reason))> = Vec::new();
    let mut case = |what, of, expected, change: &dyn Fn(&mut Observed)| {
        let mut seen = clean(1);
        change(&mut seen);
        cases.push((what, seen, of, expected));
    };
    let trouble = |reason| Trouble::new(reason, "why");
    case("no appliance", C::Replicating, (Status::False, Reason::ApplianceMissing), &|seen| seen.appliance = ApplianceState::Missing);
    case("no Secret", C::Replicating, (Status::False, Reason::ApplianceNotReady), &|seen| {
        seen.appliance = ApplianceState::Unbuilt(trouble(Reason::CredentialsMissing));
    });
    case("no role", C::Replicating, (Status::False, Reason::ApplianceNotReady), &|seen| {
        seen.appliance = ApplianceState::NotReady("why".into())
    });
    case("no VM", C::SourceFound, (Status::False, Reason::VmNotFound), &|seen| seen.source = Err(trouble(Reason::VmNotFound)));
    case("no log store", C::LedgerOwned, (Status::False, Reason::LogStoreUnreachable), &|seen| {
        seen.ledger = Err(trouble(Reason::LogStoreUnreachable));
    });
    case("no ledger any more", C::LedgerOwned, (Status::False, Reason::BlobMissing), &|seen| {
        status(seen).recovery_point = Some(crds::replicated_vm::RecoveryPoint { time: Time(at(0)), cycle: 1, disks: Vec::new() });
        seen.ledger = Ok(None);
    });
    case("another's", C::LedgerOwned, (Status::False, Reason::OwnedByOther), &|seen| ledger(seen).owner.cluster = "test".into());
    case("sealed", C::SeedsReady, (Status::False, Reason::SeedsSealed), &|seen| ledger(seen).sealed = Some(blocklog::ids::Turn(1)));
    case("a begun manifest", C::Replicating, (Status::False, Reason::BlobDamaged), &|seen| seen.due = Err(trouble(Reason::BlobDamaged)));
    case("a concern", C::PreflightPassed, (Status::False, Reason::ConcernsBlock), &|seen| concern(seen, Severity::Critical, false));
    case("one to accept", C::PreflightPassed, (Status::False, Reason::ConcernsToAccept), &|seen| concern(seen, Severity::Warning, false));
    case("no ARM", C::SeedsReady, (Status::False, Reason::Throttled), &|seen| seen.disks = Err(trouble(Reason::Throttled)));
    case("paused", C::Replicating, (Status::False, Reason::Paused), &|seen| spec(seen).replication = Replication::Paused);
    case("a host away", C::Replicating, (Status::False, Reason::HostUnavailable), &|seen| {
        seen.source.as_mut().unwrap().busy = Some(trouble(Reason::HostUnavailable));
    });
    case("no gateway", C::Replicating, (Status::False, Reason::PodsNotReady), &|seen| seen.gateways.clear());
    case("no slot", C::Replicating, (Status::False, Reason::ApplianceFull), &|seen| {
        seen.slots.as_mut().unwrap().holders = vec![Holder { vm: "db".into(), host: None, disks: 9 }];
    });
    for (what, seen, of, expected) in cases {
        let decision = decide(&seen);
        assert_eq!(decision.step, Step::None, "{what}");
        assert_eq!(finding(&decision, of), expected, "{what}");
        let told = decision.findings.iter().find(|finding| finding.of == of).unwrap();
        assert!(!told.message.is_empty() && decision.wake <= IDLE, "{what}");
    }
}

fn concern(seen: &mut Observed, severity: Severity, accepted: bool) {
    let one = Concern { id: "X".into(), severity, disk: None, message: "m".into(), remedy: "r".into(), accepted };
    seen.source.as_mut().unwrap().concerns.push(one);
}

#[test]
fn what_is_accepted_or_only_told_keeps_nothing_from_going_on() {
    for (severity, accepted) in [(Severity::Warning, true), (Severity::Information, false)] {
        let mut seen = clean(1);
        concern(&mut seen, severity, accepted);
        assert_eq!(decide(&seen).step, Step::Claim(Cycle(1)));
    }
}

#[test]
fn a_full_appliance_says_who_has_its_slots() {
    let mut seen = clean(1);
    seen.slots.as_mut().unwrap().holders = vec![Holder { vm: "db".into(), host: None, disks: 9 }];
    let waiting = decide(&seen).waiting.unwrap();
    assert_eq!((waiting.used, waiting.capacity, waiting.position), (Some(9), Some(10), Some(1)));
    assert_eq!((waiting.reason.as_str(), waiting.holders), ("ApplianceFull", vec!["db".to_owned()]));
}

#[test]
fn another_owners_ledger_is_taken_over_only_where_it_is_named() {
    let mut seen = clean(7);
    ledger(&mut seen).owner = Owner { cluster: "old".into(), object: "apps/web".into() };
    spec(&mut seen).take_over = Some("elsewhere/apps/web".into());
    assert_eq!(finding(&decide(&seen), C::LedgerOwned), (Status::False, Reason::OwnedByOther));
    spec(&mut seen).take_over = Some("old/apps/web".into());
    let decision = decide(&seen);
    assert_eq!((decision.step.clone(), finding(&decision, C::LedgerOwned)), (Step::TakeOver, (Status::Unknown, Reason::TakingOver)));
    // Seeds of the old owner are kept, with its tags; the baseline, too.
    let seen = done(seen, &decision.step);
    assert_eq!(decide(&seen).step, Step::Claim(Cycle(7)));
    assert_eq!(seen.ours().unwrap().baseline.len(), 2);
}

#[test]
fn a_cycle_is_due_by_interval_token_or_back_off() {
    let mut seen = clean(2);
    let last = |succeeded, kind| LastCycle {
        cycle: 2,
        kind,
        started: Time(at(-120)),
        ended: Time(at(-60)),
        succeeded,
        reason: Some("SnapshotLost".into()),
    };
    status(&mut seen).last_cycle = Some(last(true, CycleKind::Delta));
    let decision = decide(&seen);
    assert_eq!((decision.step.clone(), finding(&decision, C::Replicating)), (Step::None, (Status::True, Reason::NotDue)));
    assert_eq!(decision.next_cycle, Some(at(3540)));
    assert_eq!(decide(&later(seen.clone(), SignedDuration::from_secs(3541))).step, Step::Claim(Cycle(2)));
    spec(&mut seen).sync_now = Some("today".into());
    assert_eq!(decide(&seen).step, Step::Claim(Cycle(2)));
    ledger(&mut seen).tokens.insert(SYNC_NOW.into(), "today".into());
    assert_eq!(decide(&seen).step, Step::None, "the same manifest applied again starts nothing");
    status(&mut seen).last_cycle = Some(last(false, CycleKind::Delta));
    status(&mut seen).failures = Some(3);
    let decision = decide(&seen);
    assert_eq!(finding(&decision, C::Replicating), (Status::False, Reason::BackOff));
    assert!(decision.waiting.unwrap().earliest.is_some());
    assert_eq!(decide(&later(seen, SignedDuration::from_secs(300))).step, Step::Claim(Cycle(2)));
}

#[test]
fn a_gateway_is_replaced_only_when_it_is_gone_for_a_minute() {
    let mut seen = transferring(clean(1), 2);
    assert_eq!(decide(&seen).step, Step::None);
    let spare = Gateway { name: "gw-2".into(), ready: true, since: at(-9) };
    seen.gateways.push(spare.clone());
    seen.gateways[0] = Gateway { ready: false, since: at(-59), ..seen.gateways[0].clone() };
    assert_eq!(decide(&seen).step, Step::None);
    seen.gateways[0].since = at(-60);
    let assign = Step::Assign { cycle: "web-2".into(), worker: "gw-2".into() };
    assert_eq!(decide(&seen).step, assign);
    seen.gateways = vec![spare];
    assert_eq!(decide(&seen).step, assign, "its pod is gone");
    seen.gateways.clear();
    assert_eq!(finding(&decide(&seen), C::Replicating), (Status::False, Reason::PodsNotReady));
}

#[test]
fn a_snapshot_is_released_whoever_takes_the_cycle_up() {
    // Failed, not released, and its gateway is gone.
    let mut seen = transferring(clean(1), 2);
    seen.due = Ok(Some(Due::New { above: Cycle(2) }));
    seen.cycles[0].state = Some(state(&seen, 2, Phase::Failed(Reason::SnapshotLost)));
    edit(&mut seen, "web-2", |cycle| cycle.spec.worker = Some("gone".into()));
    assert_eq!(decide(&seen).step, Step::Assign { cycle: "web-2".into(), worker: "gw-1".into() });
    edit(&mut seen, "web-2", |cycle| cycle.spec.worker = Some("gw-1".into()));
    let decision = decide(&seen);
    assert_eq!((decision.step.clone(), finding(&decision, C::Replicating)), (Step::None, (Status::True, Reason::PreviousCycleOpen)));
    assert_eq!(Pass::new(seen.clone()).history.1, 1);
    edit(&mut seen, "web-2", |cycle| gateway_says(cycle, &[released()], SnapshotState::Released));
    assert_eq!(decide(&seen).step, Step::None, "what it came to is written first");
    assert_eq!(decide(&mirrored(seen)).step, Step::Close { cycle: "web-2".into(), order: false });

    // Applied, and its gateway went while the snapshot was being removed.
    let mut seen = transferring(clean(2), 2);
    seen.due = Ok(Some(Due::New { above: Cycle(2) }));
    let removing = Finding::open(C::SourceReleased, Reason::RemovingSnapshot, "");
    edit(&mut seen, "web-2", |cycle| gateway_says(cycle, &[sent(), removing], SnapshotState::Releasing));
    edit(&mut seen, "web-2", |cycle| cycle.spec.worker = Some("gone".into()));
    assert_eq!(decide(&seen).step, Step::Assign { cycle: "web-2".into(), worker: "gw-1".into() });
    edit(&mut seen, "web-2", |cycle| cycle.spec.worker = Some("gw-1".into()));
    assert_eq!(decide(&seen).step, Step::None);
}

#[test]
fn what_a_gateway_waits_for_is_told_of_the_vm() {
    let mut seen = transferring(clean(1), 2);
    assert_eq!(finding(&decide(&seen), C::Replicating), (Status::True, Reason::CycleRunning));
    let away = Finding::open(C::Transferred, Reason::SourceUnreachable, "vCenter answers 503");
    edit(&mut seen, "web-2", |cycle| gateway_says(cycle, &[away], SnapshotState::Taken));
    let decision = decide(&seen);
    assert_eq!(finding(&decision, C::Replicating), (Status::Unknown, Reason::SourceUnreachable));
    let waiting = decision.waiting.unwrap();
    assert_eq!((waiting.reason.as_str(), waiting.resource.as_deref()), ("SourceUnreachable", Some("web-2")));
    assert!(decision.findings.iter().any(|one| one.message.contains("vCenter answers 503")));

    // Its log is given up, and its snapshot can't be removed.
    let stays = Finding::fails(C::SourceReleased, Reason::SourceUnreachable, "vCenter answers 503");
    let gave_up = Finding::fails(C::Transferred, Reason::SnapshotLost, "");
    edit(&mut seen, "web-2", |cycle| gateway_says(cycle, &[gave_up, stays], SnapshotState::Releasing));
    seen.due = Ok(Some(Due::New { above: Cycle(2) }));
    seen.cycles[0].state = Some(state(&seen, 2, Phase::Failed(Reason::SnapshotLost)));
    let decision = decide(&seen);
    assert_eq!(finding(&decision, C::Replicating), (Status::Unknown, Reason::SourceUnreachable));
    assert_eq!(decision.step, Step::None, "no other cycle begins on top of it");

    // A backup proxy has attached a disk of it, so that what the snapshot left can't be merged.
    let locked = Finding::fails(C::SourceReleased, Reason::SourceBusy, "another process holds the disk.");
    edit(&mut seen, "web-2", |cycle| gateway_says(cycle, &[locked], SnapshotState::Releasing));
    seen.source.as_mut().unwrap().held_by = vec!["backup-proxy-1".into()];
    let decision = decide(&seen);
    let told = decision.findings.iter().find(|one| one.of == C::Replicating).unwrap();
    assert!(told.message.contains("holds the disk") && told.message.contains("backup-proxy-1"), "{told:?}");
}

#[test]
fn a_cycle_without_an_object_gets_it() {
    let mut seen = clean(1);
    let state = state(&seen, 2, Phase::Open);
    let of = state.of;
    seen.due = Ok(Some(Due::Resume(state)));
    assert_eq!(decide(&seen).step, Step::MakeCycle { of, worker: Some("gw-1".into()) });
    seen.due = Ok(Some(Due::Apply { of, begun: false }));
    assert_eq!(decide(&seen).step, Step::MakeCycle { of, worker: Some("gw-1".into()) });
}

#[test]
fn access_is_renewed_at_half_life_and_for_a_new_seed() {
    let seen = transferred(clean(1), 2);
    let of = seen.ours().unwrap().cycle(Cycle(2));
    let mut seen = mirrored(done(seen, &Step::WriteOrder(of)));
    assert_eq!(decide(&seen).step, Step::None);
    let hours = |hours| later(seen.clone(), SignedDuration::from_hours(hours));
    assert_eq!(decide(&hours(11)).step, Step::None);
    assert_eq!(decide(&hours(12)).step, Step::WriteOrder(of));
    if let Ok(Some(order)) = &mut seen.order {
        order.seeds.insert(DiskKey(2000), "another".into());
    }
    assert_eq!(decide(&seen).step, Step::WriteOrder(of));
}

#[test]
fn a_lost_seed_is_made_anew_even_while_a_cycle_runs() {
    let mut gone = transferring(clean(1), 2);
    gone.disks.as_mut().unwrap().remove(0);
    let decision = decide(&gone);
    assert!(matches!(decision.step, Step::MakeDisks(_)));
    assert_eq!(finding(&decision, C::SeedsReady), (Status::Unknown, Reason::SeedMissing));
    let seen = mirrored(done(gone, &decision.step));
    let Step::Reseed(ready) = decide(&seen).step else { panic!() };
    assert_eq!(ready.len(), 1);
    let mut grown = transferring(clean(1), 2);
    grown.source.as_mut().unwrap().disks[0].capacity *= 2;
    assert_eq!(decide(&grown).step, Step::None, "it is let finish");
    let mut idle = clean(1);
    idle.source.as_mut().unwrap().disks[0].capacity *= 2;
    assert_eq!(finding(&decide(&idle), C::SeedsReady), (Status::Unknown, Reason::SourceGrown));
}

#[test]
fn a_source_that_is_gone_keeps_nothing_from_being_applied() {
    let mut seen = transferred(clean(1), 2);
    seen.source = Err(Trouble::new(Reason::VmNotFound, "gone"));
    assert!(matches!(decide(&seen).step, Step::WriteOrder(_)));
}

#[test]
fn a_stop_lets_a_delta_finish_and_cancels_an_initial_cycle() {
    let mut delta = transferring(clean(1), 2);
    spec(&mut delta).replication = Replication::Stopped;
    assert_eq!(decide(&delta).step, Step::None);
    let mut initial = transferring(seeded(), 1);
    spec(&mut initial).replication = Replication::Stopped;
    assert_eq!(decide(&initial).step, Step::Cancel { cycles: vec!["web-1".into()], reason: Reason::Stopped });
    let mut deleted = transferring(clean(1), 2);
    Arc::make_mut(&mut deleted.object).metadata.deletion_timestamp = Some(Time(at(0)));
    assert_eq!(decide(&deleted).step, Step::Cancel { cycles: vec!["web-2".into()], reason: Reason::Stopped });
}

#[test]
fn a_cycle_ends_before_its_snapshot_fills_the_datastore() {
    let press = |seen: &mut Observed| seen.source.as_mut().unwrap().pressed = Some(Trouble::new(Reason::DatastoreFull, "ds has 4 % free"));
    let mut seen = transferring(clean(1), 2);
    press(&mut seen);
    let decision = decide(&seen);
    assert_eq!(decision.step, Step::Cancel { cycles: vec!["web-2".into()], reason: Reason::DatastoreFull });
    assert_eq!(finding(&decision, C::Replicating), (Status::Unknown, Reason::DatastoreFull));
    let mut away = seen.clone();
    away.ledger = Err(Trouble::new(Reason::LogStoreUnreachable, "no answer"));
    assert_eq!(decide(&away).step, decision.step, "its gateway does it when the store answers");
    let ended = done(seen, &decision.step);
    assert_eq!(decide(&ended).step, Step::None, "once");
    // What it was cancelled for can't be changed, and need not be.
    let mut gone = ended.clone();
    Arc::make_mut(&mut gone.object).metadata.deletion_timestamp = Some(Time(at(0)));
    assert!(!matches!(decide(&gone).step, Step::Cancel { .. }), "{:?}", decide(&gone).step);
    gone.gateways.clear();
    assert!(matches!(decide(&gone).step, Step::CleanUp(_)), "{:?}", decide(&gone).step);
    let mut sent = transferred(clean(1), 2);
    press(&mut sent);
    assert!(matches!(decide(&sent).step, Step::WriteOrder(_)), "its snapshot goes by itself");
    // It was sent while it was being cancelled.
    let late = Step::Cancel { cycles: vec!["web-2".into()], reason: Reason::DatastoreFull };
    assert!(matches!(decide(&done(sent, &late)).step, Step::WriteOrder(_)));
}

fn deleted(mut seen: Observed) -> Observed {
    Arc::make_mut(&mut seen.object).metadata.deletion_timestamp = Some(Time(at(0)));
    seen
}

#[test]
fn deletion_leaves_nothing_and_the_ledger_goes_last() {
    let mut seen = deleted(clean(3));
    seen.source.as_mut().unwrap().snapshots.insert(Cycle(2), "hawser-2".into());
    seen.blobs = Ok(12);
    let Step::CleanUp(remains) = decide(&seen).step else { panic!() };
    assert!(matches!(remains.as_slice(), [Remains::Snapshots, Remains::Seeds(_), Remains::Log]), "{remains:?}");
    let seen = done(seen, &Step::CleanUp(remains));
    let step = decide(&seen).step;
    assert_eq!(step, Step::CleanUp(vec![Remains::Snapshots, Remains::Ledger]), "one may have been taken since it was looked");
    let decision = decide(&done(seen, &step));
    assert_eq!((decision.step.clone(), finding(&decision, C::CleanedUp)), (Step::LetGo, (Status::True, Reason::AsExpected)));
}

#[test]
fn what_cannot_be_reached_is_named_and_keeps_nothing_else() {
    let mut seen = deleted(clean(3));
    seen.source = Err(Trouble::new(Reason::Unreachable, "no route"));
    seen.blobs = Ok(1);
    let decision = decide(&seen);
    assert_eq!(finding(&decision, C::CleanedUp), (Status::False, Reason::SnapshotLeft));
    assert!(matches!(&decision.step, Step::CleanUp(remains) if remains.len() == 2));
    let (mut seen, _) = run(seen, 5);
    assert_eq!(finding(&decide(&seen), C::CleanedUp), (Status::False, Reason::SnapshotLeft), "for ever");
    Arc::make_mut(&mut seen.object).metadata.annotations = Some([(names::ABANDON_ANNOTATION.to_owned(), "yes".to_owned())].into());
    assert_eq!(decide(&seen).step, Step::None, "nobody gives up by habit");
    Arc::make_mut(&mut seen.object).metadata.annotations =
        Some([(names::ABANDON_ANNOTATION.to_owned(), names::ABANDON_CONFIRMED.to_owned())].into());
    assert_eq!(decide(&seen).step, Step::LetGo);
}

#[test]
fn deletion_waits_for_the_gateway_and_not_for_one_that_is_gone() {
    let mut seen = deleted(transferring(clean(1), 2));
    let step = decide(&seen).step;
    seen = mirrored(done(seen, &step));
    let decision = decide(&seen);
    assert_eq!((decision.step.clone(), finding(&decision, C::CleanedUp)), (Step::None, (Status::Unknown, Reason::CleaningUp)));
    assert_eq!(finding(&decision, C::Replicating), (Status::Unknown, Reason::CleaningUp), "it is not replicated any more");
    // One that vCenter does not let in releases nothing, and nobody knows what stands there.
    let mut stuck = seen.clone();
    let refused = Finding::open(C::Transferred, Reason::WrongCredentials, "vCenter refuses the user");
    let cycle = stuck.cycles.last_mut().unwrap();
    gateway_says(Arc::make_mut(&mut cycle.object), &[refused], SnapshotState::Taken);
    stuck.source.as_mut().unwrap().busy = Some(Trouble::new(Reason::WrongCredentials, "vCenter refuses the user"));
    stuck.blobs = Ok(0);
    let decision = decide(&stuck);
    assert_eq!(finding(&decision, C::CleanedUp), (Status::False, Reason::SnapshotLeft));
    assert!(matches!(&decision.step, Step::CleanUp(remains) if !remains.contains(&Remains::Snapshots)), "{:?}", decision.step);
    seen.gateways.clear();
    assert!(matches!(decide(&seen).step, Step::CleanUp(_)));
}

#[test]
fn deletion_of_what_never_began_hangs_on_nobody() {
    for change in [ApplianceState::Missing, ApplianceState::Unbuilt(Trouble::new(Reason::CredentialsMissing, "")), ApplianceState::Ready] {
        let mut seen = deleted(fresh());
        seen.appliance = change;
        seen.ledger = Err(Trouble::new(Reason::LogStoreUnreachable, ""));
        assert_eq!(decide(&seen).step, Step::LetGo);
    }
    let mut seen = deleted(clean(1));
    seen.appliance = ApplianceState::Missing;
    let decision = decide(&seen);
    assert_eq!((decision.step.clone(), finding(&decision, C::CleanedUp)), (Step::None, (Status::False, Reason::ApplianceMissing)));
}

#[test]
fn another_owners_replica_is_not_cleaned_up() {
    let mut seen = deleted(clean(1));
    ledger(&mut seen).owner.cluster = "other".into();
    seen.blobs = Ok(9);
    // Its seeds have the tags of whom it took them from: ours.
    assert_eq!(decide(&seen).step, Step::LetGo);
    // While nobody can say whose they are, they stay.
    seen.ledger = Err(Trouble::new(Reason::LogStoreUnreachable, "no route"));
    let decision = decide(&seen);
    assert_eq!((decision.step.clone(), finding(&decision, C::CleanedUp)), (Step::None, (Status::False, Reason::SeedsLeft)));
    let said = decision.findings.iter().find(|finding| finding.of == C::CleanedUp).unwrap();
    assert!(said.message.contains("seed disks"), "{}", said.message);
}

#[test]
fn stopped_and_clean_is_quiet_and_active_again_begins_anew() {
    let mut seen = clean(3);
    spec(&mut seen).replication = Replication::Stopped;
    let (mut seen, steps) = run(seen, 10);
    assert_eq!(steps, ["CleanUp", "CleanUp", "Forget"]);
    assert_eq!(finding(&decide(&seen), C::Replicating), (Status::False, Reason::Stopped));
    spec(&mut seen).replication = Replication::Active;
    assert_eq!(decide(&seen).step, Step::DrawIncarnation);
}

#[test]
fn history_is_kept_like_a_cron_jobs() {
    let mut seen = clean(20);
    for number in 1..=14 {
        let mut cycle = cycle_object(&seen, number);
        cycle.metadata.finalizers = None;
        let applied = if number % 2 == 0 {
            Finding::holds(C::Applied, Reason::AsExpected, "")
        } else {
            Finding::fails(C::Applied, Reason::SnapshotLost, "")
        };
        gateway_says(&mut cycle, &[sent(), released(), applied], SnapshotState::Released);
        put(&mut seen, cycle, None);
    }
    let Step::Prune(mut old) = decide(&seen).step else { panic!() };
    old.sort();
    assert_eq!(old, ["web-1", "web-2", "web-3", "web-4"]);
}

#[test]
fn what_cannot_be_read_changes_nothing_that_was_said() {
    let mut seen = transferred(clean(1), 2);
    let before = mirrored(seen.clone()).cycles[0].object.status.clone();
    seen.ledger = Err(Trouble::new(Reason::LogStoreUnreachable, "away"));
    seen.cycles[0].state = None;
    seen.cycles[0].readable = false;
    let pass = Pass::new(seen.clone());
    assert_eq!(pass.mirrored[0].applied.status, Status::Unknown);
    assert!(!pass.mirrored[0].over && before.is_some());
}

/// A cycle that is sent and ordered, and begun where it is asked for.
fn ordered(begun: bool) -> Observed {
    let (mut seen, _) = run(transferred(clean(1), 2), 3);
    if begun {
        begin(&mut seen, 2);
    }
    mirrored(seen)
}

fn setback(seen: &Observed, number: u64, reason: Reason) -> blocklog::setback::Setback {
    let ledger = seen.ours().unwrap();
    blocklog::setback::Setback {
        of: ledger.cycle(Cycle(number)),
        reason,
        message: "why".into(),
        disk: Some(DiskKey(2000)),
        tries: 1,
        first: seen.now,
        last: seen.now,
        turn: Some(ledger.turn),
        for_good: false,
    }
}

/// As the log says it when its applier has.
fn give_up(seen: &mut Observed, number: u64, reason: Reason) {
    let of = seen.ours().unwrap().cycle(Cycle(number));
    seen.given_up = vec![blocklog::steward::GivenUp { of, reason, message: "why".into(), disk: None }];
    seen.due = Ok(Some(Due::New { above: Cycle(number) }));
}

#[test]
fn a_cycle_that_can_not_be_applied_for_now_says_why() {
    for begun in [false, true] {
        let mut seen = ordered(begun);
        assert_eq!(finding(&decide(&seen), C::Replicating), (Status::True, Reason::CycleRunning));
        seen.setback = Some(setback(&seen, 2, Reason::ReplicaUnreachable));
        let decision = decide(&seen);
        assert_eq!(finding(&decision, C::Replicating), (Status::Unknown, Reason::ReplicaUnreachable));
        assert_eq!(decision.waiting.as_ref().map(|wait| wait.reason.as_str()), Some("ReplicaUnreachable"));
        assert_eq!(decision.step, Step::None, "the applier tries again by itself");
        // Another try has begun since.
        let mut tried = seen.clone();
        ledger(&mut tried).turn = ledger(&mut tried).turn.next();
        if begun {
            assert_eq!(finding(&decide(&tried), C::Replicating), (Status::True, Reason::CycleRunning));
        }
        // An older cycle's says nothing.
        seen.setback = Some(setback(&seen, 1, Reason::ReplicaUnreachable));
        assert_eq!(finding(&decide(&seen), C::Replicating), (Status::True, Reason::CycleRunning));
    }
    let seen = later(ordered(false), SignedDuration::from_mins(3));
    assert_eq!(finding(&decide(&seen), C::Replicating), (Status::Unknown, Reason::Pending), "nobody takes it up");
}

#[test]
fn a_cycle_that_is_given_up_is_closed_and_followed() {
    for begun in [false, true] {
        for reason in [Reason::BlobDamaged, Reason::SeedReplaced] {
            let mut seen = ordered(begun);
            give_up(&mut seen, 2, reason);
            // What it came to is written before anything goes.
            assert_eq!(decide(&seen).step, Step::None);
            let (seen, steps) = run(mirrored(seen), 5);
            assert_eq!(steps, ["Close"]);
            assert!(matches!(seen.order, Ok(None)));
            let decision = decide(&seen);
            assert_eq!(finding(&decision, C::Replicating), (Status::False, Reason::BackOff));
            let (last, failures) = Pass::new(seen.clone()).history;
            let last = last.unwrap();
            assert_eq!((last.succeeded, last.reason.as_deref(), failures), (false, Some(reason.as_str()), 1));
            let wait = decision.next_cycle.unwrap().duration_since(seen.now);
            assert!(wait <= SignedDuration::from_mins(1), "{wait}");
            let (seen, steps) = run(later(seen, SignedDuration::from_mins(1)), 5);
            assert_eq!(steps, ["Claim", "MakeCycle"]);
            assert!(seen.cycles.iter().any(|cycle| cycle.object.spec.cycle == 3));
        }
    }
}

#[test]
fn a_cycle_that_is_given_up_still_waits_for_its_snapshot() {
    let mut seen = ordered(true);
    edit(&mut seen, "web-2", |cycle| gateway_says(cycle, &[sent()], SnapshotState::Releasing));
    give_up(&mut seen, 2, Reason::BlobDamaged);
    let seen = mirrored(seen);
    let decision = decide(&seen);
    assert_eq!((decision.step.clone(), finding(&decision, C::Replicating)), (Step::None, (Status::True, Reason::PreviousCycleOpen)));
}

#[test]
fn slots_are_looked_at_only_where_a_cycle_asks_for_some() {
    let asks = |mut seen: Observed| {
        seen.slots = None;
        decide(&seen).step == Step::LookAtSlots
    };
    assert!(asks(seeded()), "a first cycle");
    let mut claimed = seeded();
    claimed.due = Ok(Some(Due::Resume(state(&claimed, 1, Phase::Open))));
    assert!(asks(claimed), "one that was claimed and has no object");
    let mut orphaned = transferring(seeded(), 1);
    edit(&mut orphaned, "web-1", |cycle| cycle.spec.worker = Some("gone".into()));
    assert!(asks(orphaned), "another gateway, the one with the least to do");
    for idle in [fresh(), transferring(seeded(), 1), transferred(seeded(), 1)] {
        assert!(!asks(idle));
    }
    let mut waits = clean(1);
    let (started, ended) = (Time(at(-120)), Time(at(-60)));
    status(&mut waits).last_cycle = Some(LastCycle { cycle: 1, kind: CycleKind::Delta, started, ended, succeeded: true, reason: None });
    assert!(!asks(waits), "the next delta is not due");
}
