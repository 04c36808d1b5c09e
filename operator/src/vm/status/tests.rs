use crds::replicated_vm::Replication as R;

use super::*;
use crate::{
    trouble::Trouble,
    vm::test_support::{at, begin, clean, decide, edit, fresh, ledger, make_clean, seeded, spec, transferred, transferring},
};

fn said(seen: &Observed) -> ReplicatedVMStatus {
    status(&Pass::new(seen.clone()), &decide(seen))
}

fn condition(status: &ReplicatedVMStatus, of: C) -> (String, String) {
    let found = conditions::get(&status.conditions, of).unwrap_or_else(|| panic!("{of}"));
    (found.status.clone(), found.reason.clone())
}

#[test]
fn phases_are_azure_migrates_words() {
    assert_eq!(said(&fresh()).phase, Some(Phase::InitialReplicationQueued));
    assert_eq!(said(&transferring(seeded(), 1)).phase, Some(Phase::InitialReplication));
    assert_eq!(said(&clean(1)).phase, Some(Phase::TestMigrationPending));
    let mut stopped = fresh();
    spec(&mut stopped).replication = R::Stopped;
    assert_eq!(said(&stopped).phase, Some(Phase::NotApplicable));
}

#[test]
fn a_replica_is_mirrored_from_its_ledger() {
    let status = said(&clean(3));
    assert_eq!(status.recovery_point.as_ref().unwrap().cycle, 3);
    let disk = &status.disks[0];
    assert_eq!(disk.baseline.as_ref().unwrap().change_id, "52 de/3", "what stands behind the bar is the gateway's");
    assert!(disk.seed_disk.as_ref().unwrap().id.contains("hawser-web-2000"));
    let mut seen = clean(3);
    ledger(&mut seen).tokens.insert(SYNC_NOW.into(), "today".into());
    assert_eq!(said(&seen).last_sync_now.as_deref(), Some("today"));
}

#[test]
fn ready_repeats_the_first_thing_that_is_wrong() {
    assert_eq!(condition(&said(&transferring(clean(1), 2)), C::Ready), ("True".into(), "AsExpected".into()));
    let mut seen = fresh();
    seen.source = Err(Trouble::new(Reason::VmNotFound, "no such VM"));
    let status = said(&seen);
    assert_eq!(condition(&status, C::Ready), ("False".into(), "VmNotFound".into()));
    assert_eq!(condition(&status, C::SeedsReady), ("Unknown".into(), "NotChecked".into()));
}

#[test]
fn what_was_not_looked_at_stays_as_it_was_said() {
    let mut seen = clean(1);
    let before = said(&seen);
    assert_eq!(condition(&before, C::SeedsReady), ("True".into(), "AsExpected".into()));
    std::sync::Arc::make_mut(&mut seen.object).status = Some(before);
    seen.ledger = Err(Trouble::new(Reason::LogStoreUnreachable, "away"));
    let after = said(&seen);
    assert_eq!(condition(&after, C::SeedsReady), ("True".into(), "AsExpected".into()));
    assert_eq!(condition(&after, C::Ready), ("False".into(), "LogStoreUnreachable".into()));
    assert_eq!(after.recovery_point.unwrap().cycle, 1, "a store that is away takes no recovery point with it");
}

#[test]
fn a_recovery_point_that_is_no_more_is_not_told() {
    let mut seen = clean(1);
    std::sync::Arc::make_mut(&mut seen.object).status = Some(said(&seen.clone()));
    begin(&mut seen, 2);
    assert!(said(&seen).recovery_point.is_some(), "the ledger still names it: a dirty replica is its matter");
    ledger(&mut seen).recovery_point = None;
    assert!(said(&seen).recovery_point.is_none());
}

#[test]
fn the_same_look_writes_nothing_twice() {
    let mut seen = clean(1);
    let once = said(&seen);
    std::sync::Arc::make_mut(&mut seen.object).status = Some(once.clone());
    seen.now = at(1);
    assert_eq!(said(&seen), once);
}

#[test]
fn whether_the_guest_was_at_rest_is_told_where_it_was_asked_for() {
    use crds::replicated_vm::Quiesce;
    for (asked, was, expected) in [
        (Quiesce::Try, true, ("True", "AsExpected")),
        (Quiesce::Try, false, ("False", "QuiesceFailed")),
        (Quiesce::Require, true, ("True", "AsExpected")),
        (Quiesce::Never, false, ("Unknown", "NotAskedFor")),
    ] {
        let mut seen = transferring(clean(1), 2);
        edit(&mut seen, "web-2", |cycle| {
            cycle.spec.quiesce = asked;
            let source = cycle.status.as_mut().unwrap().source.as_mut().unwrap();
            source.snapshot.as_mut().unwrap().quiesced = Some(was);
        });
        assert_eq!(condition(&said(&seen), C::Quiesced), (expected.0.to_owned(), expected.1.to_owned()), "{asked:?}");
        // A guest that is not at rest keeps nothing from going on.
        assert_eq!(condition(&said(&seen), C::Ready).0, "True");
    }
}

#[test]
fn why_a_disk_is_compared_in_full_is_told() {
    let mut seen = transferring(clean(1), 2);
    let disks = |seen: &mut Observed, reasons: [Option<Reason>; 2]| {
        edit(seen, "web-2", |cycle| {
            let disk = |(key, reason): (i64, Option<Reason>)| SourceDisk {
                key,
                mode: Some(reason.map_or(DiskMode::Changed, |_| DiskMode::Full)),
                reason: reason.map(Into::into),
                ..SourceDisk::default()
            };
            let source = cycle.status.as_mut().unwrap().source.as_mut().unwrap();
            source.disks = [2000, 2001].into_iter().zip(reasons).map(disk).collect();
        });
        said(seen)
    };
    let whole = disks(&mut seen, [None, Some(Reason::ChangeTrackingReset)]);
    assert_eq!(condition(&whole, C::ChangesTracked), ("False".into(), "ChangeTrackingReset".into()));
    let told = &conditions::get(&whole.conditions, C::ChangesTracked).unwrap().message;
    assert!(told.contains("web-2") && told.contains("2001 (ChangeTrackingReset)") && !told.contains("2000"), "{told}");
    assert_eq!(condition(&whole, C::Ready), ("True".into(), "AsExpected".into()), "it costs time, and nothing else");
    let first = disks(&mut seen, [Some(Reason::NoBaseline); 2]);
    assert_eq!(condition(&first, C::ChangesTracked), ("Unknown".into(), "NoBaseline".into()));
    let tracked = disks(&mut seen, [None, None]);
    assert_eq!(condition(&tracked, C::ChangesTracked), ("True".into(), "AsExpected".into()));
}

/// A VM whose recovery point's snapshot was taken while it was off, or not, or nobody knows.
fn point(was_off: Option<bool>) -> Observed {
    let mut seen = transferred(clean(1), 2);
    make_clean(&mut seen, 2);
    edit(&mut seen, "web-2", |cycle| {
        let source = cycle.status.as_mut().unwrap().source.as_mut().unwrap();
        source.snapshot.as_mut().unwrap().powered_off = was_off;
    });
    seen
}

/// What is said next of a VM that is so, off since a second (the cycle began at -300); what is said is kept.
fn last(seen: &mut Observed, power: Option<&'static str>, off_since: Option<i64>) -> Option<(String, String)> {
    let source = seen.source.as_mut().unwrap();
    (source.power, source.off_since) = (power, off_since.map(at));
    let said = said(seen);
    let last = conditions::get(&said.conditions, C::Final).map(|one| (one.status.clone(), one.reason.clone()));
    std::sync::Arc::make_mut(&mut seen.object).status = Some(said);
    last
}

fn word(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.to_owned(), reason.to_owned()))
}

const ON: Option<&str> = Some("PoweredOn");
const OFF: Option<&str> = Some("PoweredOff");

#[test]
fn final_is_not_said_of_a_vm_that_ran_at_its_snapshot() {
    for was_off in [Some(false), None] {
        let mut seen = point(was_off);
        assert_eq!(last(&mut seen, ON, None), None, "it runs, and nobody has shut it down");
        // Shut down, and no cycle since: what it wrote before is not in the replica.
        assert_eq!(last(&mut seen, OFF, Some(-100)), None);
        assert_eq!(last(&mut seen, OFF, Some(-9000)), None);
    }
}

#[test]
fn a_vm_that_was_off_before_its_cycle_and_ever_since_is_final() {
    let mut seen = point(Some(true));
    assert_eq!(last(&mut seen, OFF, Some(-300)), word("True", "AsExpected"));
    assert_eq!(last(&mut seen, OFF, Some(-9000)), word("True", "AsExpected"));
}

#[test]
fn a_vm_that_was_not_watched_all_the_time_is_not_final() {
    let mut seen = point(Some(true));
    assert_eq!(last(&mut seen, OFF, Some(-9000)), word("True", "AsExpected"));
    // A watch begun anew, a vCenter that is silent, one that does not say, a VM that is not to be seen.
    assert_eq!(last(&mut seen, OFF, Some(-299)), word("Unknown", "NotChecked"));
    assert_eq!(last(&mut seen, OFF, None), word("Unknown", "NotChecked"));
    assert_eq!(last(&mut seen, None, None), word("Unknown", "NotChecked"));
    seen.source = Err(Trouble::new(Reason::VmNotFound, "no such VM"));
    assert_eq!(condition(&said(&seen), C::Final), ("Unknown".into(), "NotChecked".into()));
}

/// Row 40 of docs/pitfalls.md.
#[test]
fn a_vm_started_since_its_final_snapshot_has_diverged() {
    for power in ["PoweredOn", "Suspended"] {
        let mut seen = point(Some(true));
        assert_eq!(last(&mut seen, OFF, Some(-9000)), word("True", "AsExpected"));
        assert_eq!(last(&mut seen, Some(power), None), word("False", "Diverged"));
    }
}

#[test]
fn a_vm_that_has_diverged_is_not_final_when_it_is_off_again() {
    let mut seen = point(Some(true));
    assert_eq!(last(&mut seen, ON, None), word("False", "Diverged"));
    assert_eq!(last(&mut seen, OFF, Some(-10)), word("False", "Diverged"));
    // Nor when the ledger can't be read, whatever the clocks say.
    seen.ledger = Err(Trouble::new(Reason::LogStoreUnreachable, "away"));
    assert_eq!(last(&mut seen, OFF, Some(-9000)), word("False", "Diverged"));
    // Another recovery point begins anew.
    let mut next = transferred(clean(2), 3);
    make_clean(&mut next, 3);
    edit(&mut next, "web-3", |cycle| {
        let source = cycle.status.as_mut().unwrap().source.as_mut().unwrap();
        source.snapshot.as_mut().unwrap().powered_off = Some(true);
    });
    next.object = seen.object.clone();
    assert_eq!(last(&mut next, OFF, Some(-9000)), word("True", "AsExpected"));
}
