use super::*;
use crate::{
    document,
    fixtures::{DISK, OTHER_DISK, change_id, full_ledger, keys, manifest, new_ledger, owner, seed, time, vm},
};

const NEW_DISK: DiskKey = DiskKey(2002);

fn digest(manifest: &Manifest) -> Digest {
    Digest::of(&document::encode(&keys(), "manifest", manifest).unwrap())
}

fn index(turn: u64) -> BTreeMap<DiskKey, IndexRef> {
    [DISK, OTHER_DISK].map(|disk| (disk, IndexRef::At { turn: Turn(turn), digest: Digest::of(&[disk.0 as u8]) })).into()
}

fn begin(ledger: &Ledger, manifest: &Manifest) -> Ledger {
    ledger.begin(manifest, digest(manifest), None)
}

fn finish(ledger: &Ledger, manifest: &Manifest) -> Ledger {
    ledger.finish(manifest, index(ledger.turn.0), &BTreeMap::new(), false)
}

/// A ledger whose first cycle is applied: turn 1, cycle 1, clean.
fn clean() -> Ledger {
    let first = manifest(1, 0);
    finish(&begin(&new_ledger(), &first), &first)
}

fn partial(number: u64, basis: u64) -> Manifest {
    let mut manifest = manifest(number, basis);
    let disk = manifest.disks.get_mut(&OTHER_DISK).unwrap();
    (disk.partial, disk.change_id) = (true, None);
    manifest
}

fn other_owner() -> (Owner, Incarnation) {
    (Owner { cluster: "east".into(), ..owner() }, Incarnation(uuid::Uuid::from_u128(0x99)))
}

#[test]
fn a_new_ledger_knows_that_every_seed_is_zero() {
    let ledger = new_ledger();
    assert!(!ledger.is_clean(), "nothing was applied");
    assert!(ledger.seeds.keys().all(|disk| ledger.index[disk] == IndexRef::Zero));
    assert!(ledger.baseline.is_empty() && ledger.recovery_point.is_none());
    assert_eq!((ledger.begun, ledger.turn), (Cycle(0), Turn(0)));
}

#[test]
fn a_cycle_goes_from_dirty_to_clean() {
    let first = manifest(1, 0);
    let dirty = begin(&new_ledger(), &first);
    assert_eq!((dirty.turn, dirty.begun), (Turn(1), Cycle(1)));
    assert_eq!(dirty.dirty, [Begun { cycle: Cycle(1), manifest: digest(&first), covered: false }]);
    assert!(!dirty.is_clean() && dirty.recovery_point.is_none() && dirty.baseline.is_empty());
    let tokens = BTreeMap::from([("syncNow".to_owned(), "t-1".to_owned())]);
    let clean = dirty.finish(&first, index(1), &tokens, false);
    assert!(clean.is_clean() && clean.dirty.is_empty());
    assert_eq!(clean.recovery_point, Some(RecoveryPoint { cycle: Cycle(1), time: time(1), disks: vec![DISK, OTHER_DISK] }));
    assert_eq!(clean.baseline, BTreeMap::from([(DISK, change_id(1))]), "a disk whose changes are not tracked has none");
    assert_eq!((clean.index.clone(), clean.tokens.clone(), clean.turn), (index(1), tokens, Turn(1)));
    // Tokens of earlier cycles stay known.
    let second = manifest(2, 1);
    let more = BTreeMap::from([("migration".to_owned(), "m".to_owned())]);
    assert_eq!(begin(&clean, &second).finish(&second, index(2), &more, false).tokens.len(), 2);
}

#[test]
fn the_baseline_advances_only_with_the_clean_write() {
    let clean = Ledger { baseline: BTreeMap::from([(DISK, change_id(1)), (OTHER_DISK, change_id(100))]), ..clean() };
    let second = manifest(2, 1);
    let dirty = begin(&clean, &second);
    assert_eq!(dirty.baseline, BTreeMap::from([(DISK, change_id(1))]), "the disk that goes in full has lost it");
    assert_eq!(dirty.index, clean.index);
    assert_eq!(dirty.recovery_point, clean.recovery_point);
    for unfinished in [dirty.abandon(), dirty.extend(&second, time(1)), begin(&dirty, &second), begin(&dirty, &manifest(3, 2))] {
        assert_eq!((&unfinished.baseline, &unfinished.recovery_point), (&dirty.baseline, &dirty.recovery_point));
        assert!(!unfinished.is_clean());
    }
    assert_eq!(finish(&dirty, &second).baseline, BTreeMap::from([(DISK, change_id(2))]));
    // A disk whose changes are no longer tracked has no baseline either, though its last delta had one.
    let mut untracked = second;
    untracked.disks.get_mut(&DISK).unwrap().change_id = None;
    let dirty = begin(&clean, &untracked);
    assert_eq!(dirty.baseline, BTreeMap::from([(DISK, change_id(1))]));
    assert!(finish(&dirty, &untracked).baseline.is_empty());
}

#[test]
fn a_manifest_is_admitted_by_owner_basis_and_digest() {
    use Admission::{Begin, Done, Finish};
    let passed = |cycle, basis, turn| Err(Refusal::BasisPassed { cycle: Cycle(cycle), basis: Turn(basis), turn: Turn(turn) });
    let other = |cycle| Err(Refusal::OtherManifest { cycle: Cycle(cycle) });
    let second = manifest(2, 1);
    let dirty = begin(&clean(), &second);
    let twice = begin(&dirty, &manifest(3, 2));
    let again = begin(&dirty, &second);
    let third = partial(3, 2);
    let covered = begin(&dirty, &third).finish(&third, index(3), &BTreeMap::new(), false);
    let cases = [
        ("the first", new_ledger(), manifest(1, 0), Ok(Begin)),
        ("numbers may be left out", new_ledger(), manifest(5, 0), Ok(Begin)),
        ("the next", clean(), second.clone(), Ok(Begin)),
        ("the one that is done", clean(), manifest(1, 0), Ok(Done)),
        ("an older basis", clean(), manifest(2, 0), passed(2, 0, 1)),
        ("a newer basis", clean(), manifest(2, 2), passed(2, 2, 1)),
        ("the begun one", dirty.clone(), second.clone(), Ok(Finish)),
        ("the begun one, begun again", again, second.clone(), Ok(Finish)),
        ("the begun one with other contents", dirty.clone(), manifest(2, 7), other(2)),
        ("one before the begun one", dirty.clone(), manifest(1, 2), passed(1, 2, 2)),
        ("one that supersedes the begun one", dirty.clone(), manifest(3, 2), Ok(Begin)),
        ("one that was computed before the begun one", dirty.clone(), manifest(3, 1), passed(3, 1, 2)),
        ("the superseded one", twice.clone(), second.clone(), passed(2, 1, 3)),
        ("the superseding one", twice.clone(), manifest(3, 2), Ok(Finish)),
        ("one after a partial one", covered.clone(), manifest(4, 3), Ok(Begin)),
        ("a partial one that gave what it had", covered.clone(), third.clone(), Ok(Done)),
        ("the one before a partial one", covered, second.clone(), passed(2, 1, 3)),
        ("any that was computed before a re-seed", clean().reseed(DISK, seed("seed-a")), second, passed(2, 1, 2)),
    ];
    for (what, ledger, manifest, expected) in cases {
        assert_eq!(ledger.admit(&manifest, digest(&manifest)), expected, "{what}");
    }
}

#[test]
fn a_manifest_of_another_owner_or_incarnation_is_refused_first() {
    let (theirs, incarnation) = other_owner();
    let refused = Err(Refusal::OwnedByOther { owner: owner(), incarnation: crate::fixtures::incarnation() });
    for ledger in [new_ledger(), clean(), begin(&clean(), &manifest(2, 1))] {
        for number in 1..4 {
            let mut manifest = manifest(number, ledger.turn.0);
            manifest.owner = theirs.clone();
            assert_eq!(ledger.admit(&manifest, digest(&manifest)), refused);
            manifest.owner = owner();
            manifest.of.incarnation = incarnation;
            assert_eq!(ledger.admit(&manifest, digest(&manifest)), refused);
        }
    }
}

#[test]
fn a_cycle_is_for_the_seeds_that_it_was_computed_for() {
    let replaced = |disk, expected: &str, found: &str| Err(Refusal::SeedReplaced { disk, expected: expected.into(), found: found.into() });
    let manifest = manifest(2, 1);
    let admit = |ledger: &Ledger| ledger.admit(&manifest, digest(&manifest));
    let mut ledger = clean();
    ledger.seeds.insert(DISK, seed("seed-c"));
    assert_eq!(admit(&ledger), replaced(DISK, "seed-a", "seed-c"));
    let mut ledger = clean();
    ledger.seeds.insert(NEW_DISK, seed("seed-c"));
    assert_eq!(admit(&ledger), replaced(NEW_DISK, "none", "seed-c"), "a disk that the cycle leaves out would be behind");
    let mut ledger = clean();
    ledger.seeds.remove(&OTHER_DISK);
    assert_eq!(admit(&ledger), replaced(OTHER_DISK, "seed-b", "none"));
    // Also where it was begun before.
    let dirty = begin(&clean(), &manifest);
    assert_eq!(admit(&dirty), Ok(Admission::Finish));
    assert_eq!(admit(&dirty.reseed(DISK, seed("seed-c"))), replaced(DISK, "seed-a", "seed-c"));
}

#[test]
fn nothing_is_written_to_sealed_seeds() {
    let sealed = |ledger: Ledger| Ledger { sealed: Some(ledger.turn), ..ledger };
    let second = manifest(2, 1);
    assert_eq!(sealed(clean()).admit(&second, digest(&second)), Err(Refusal::Sealed));
    assert_eq!(sealed(begin(&clean(), &second)).admit(&second, digest(&second)), Err(Refusal::Sealed));
    assert_eq!(sealed(clean()).supports(&owner(), second.of, Turn(1)), Err(Refusal::Sealed));
    // What is done stays done.
    assert_eq!(sealed(clean()).admit(&manifest(1, 0), digest(&manifest(1, 0))), Ok(Admission::Done));
}

#[test]
fn a_gateway_goes_on_only_from_the_turn_that_it_started_from() {
    let (ledger, of) = (clean(), manifest(2, 1).of);
    assert_eq!(ledger.supports(&owner(), of, Turn(1)), Ok(()));
    let passed = |cycle, basis, turn| Err(Refusal::BasisPassed { cycle: Cycle(cycle), basis: Turn(basis), turn: Turn(turn) });
    assert_eq!(ledger.supports(&owner(), of, Turn(0)), passed(2, 0, 1));
    assert_eq!(ledger.supports(&owner(), manifest(1, 1).of, Turn(1)), passed(1, 1, 1));
    assert_eq!(begin(&ledger, &manifest(2, 1)).supports(&owner(), of, Turn(1)), passed(2, 1, 2));
    let (theirs, incarnation) = other_owner();
    assert!(matches!(ledger.supports(&theirs, of, Turn(1)), Err(Refusal::OwnedByOther { .. })));
    assert!(matches!(ledger.supports(&owner(), CycleId { incarnation, ..of }, Turn(1)), Err(Refusal::OwnedByOther { .. })));
}

#[test]
fn the_index_is_true_of_a_begun_cycle_only_once_it_is_covered() {
    let masked = |ledger: &Ledger| ledger.masked().map(|begun| begun.cycle.0).collect::<Vec<_>>();
    let dirty = begin(&begin(&clean(), &manifest(2, 1)), &manifest(3, 2));
    assert_eq!(masked(&dirty), [2, 3]);
    let fourth = partial(4, 3);
    let begun = begin(&dirty, &fourth);
    assert_eq!(masked(&begun), [2, 3, 4]);
    let covered = begun.finish(&fourth, index(4), &BTreeMap::from([("syncNow".into(), "t".into())]), false);
    assert_eq!((masked(&covered), covered.dirty.len()), (vec![], 3));
    assert!(!covered.is_clean());
    assert_eq!(covered.index, index(4));
    assert_eq!((&covered.recovery_point, &covered.baseline), (&begun.recovery_point, &begun.baseline));
    assert!(covered.tokens.is_empty(), "a partial cycle has done nothing that was asked for");
    let fifth = manifest(5, 4);
    let begun = begin(&covered, &fifth);
    assert_eq!(masked(&begun), [5]);
    assert!(finish(&begun, &fifth).is_clean());
}

#[test]
fn a_cycle_is_begun_once_however_often_it_is_finished() {
    let second = manifest(2, 1);
    let twice = begin(&begin(&clean(), &second), &second);
    assert_eq!((twice.turn, twice.begun, twice.dirty.len()), (Turn(3), Cycle(2), 1), "each is a turn, so that late writes are fenced");
}

#[test]
fn a_writer_that_vanished_leaves_a_lost_cycle() {
    let (second, third) = (manifest(2, 1), manifest(3, 2));
    let begun = clean().begin(&second, digest(&second), Some(time(100)));
    assert_eq!((end(&begun), begun.writing, begun.lost.len()), (Some(time(100)), true, 0));
    let longer = begun.extend(&second, time(200));
    assert_eq!(end(&longer), Some(time(200)));
    assert_eq!(end(&longer.extend(&second, time(150))), Some(time(200)), "never earlier");
    assert_eq!(longer.extend(&second, time(150)).turn, longer.turn);
    // It vanishes: whoever comes next, for the same cycle or another, says so.
    let again = longer.begin(&second, digest(&second), Some(time(150)));
    assert_eq!((again.lost.as_slice(), end(&again)), ([second.of].as_slice(), Some(time(200))));
    let other = longer.begin(&third, digest(&third), Some(time(300)));
    assert_eq!((other.lost.as_slice(), end(&other)), ([second.of].as_slice(), Some(time(300))));
    // Vanishing again adds what was not lost yet.
    assert_eq!(again.begin(&second, digest(&second), None).lost, [second.of]);
    assert_eq!(other.begin(&third, digest(&third), None).lost, [second.of, third.of]);
    // A re-seed in between changes nothing in that.
    let fourth = manifest(4, 4);
    assert_eq!(other.reseed(DISK, seed("seed-c")).begin(&fourth, digest(&fourth), None).lost, [second.of, third.of]);
    // It stays lost through clean writes: only a seal shows otherwise.
    let clean = finish(&again, &second);
    assert_eq!((clean.lost.as_slice(), clean.writing, clean.is_clean()), ([second.of].as_slice(), false, true));
}

#[test]
fn a_turn_that_ends_with_no_write_in_doubt_loses_nothing() {
    let (second, third) = (manifest(2, 1), manifest(3, 2));
    let begun = clean().begin(&second, digest(&second), Some(time(100)));
    for over in [begun.abandon(), finish(&begun, &second)] {
        // The end of the fence stays: the next turn waits for it whatever its predecessor was told.
        assert_eq!((end(&over), over.writing), (Some(time(100)), false));
        let next = over.begin(&third, digest(&third), Some(time(90)));
        assert_eq!((end(&next), next.writing, next.lost.len()), (Some(time(100)), true, 0));
    }
    assert_eq!(begun.abandon().dirty, begun.dirty, "abandoned is still dirty");
    // A replica that is fenced by numbers never has an end.
    let begun = begin(&clean(), &second);
    assert_eq!((end(&begun), begun.writing), (None, false));
    assert!(begin(&begun, &second).lost.is_empty());
}

/// The end of the fence of the disk that the fixtures write to.
fn end(ledger: &Ledger) -> Option<Timestamp> {
    ledger.write_ends.get(&DISK).copied()
}

#[test]
fn a_turn_waits_only_for_those_that_wrote_to_its_disks() {
    let writes = |number, basis, disks: &[DiskKey]| {
        let mut manifest = manifest(number, basis);
        let sent = manifest.disks[&DISK].clone();
        for (disk, to) in &mut manifest.disks {
            (to.extents, to.segments) = match disks.contains(disk) {
                true => (sent.extents.clone(), sent.segments.clone()),
                false => (extents::ExtentSet::new(), Vec::new()),
            };
        }
        assert!(manifest.written().eq(disks.iter().copied()));
        manifest
    };
    let ends = |ledger: &Ledger| [DISK, OTHER_DISK].map(|disk| ledger.write_ends.get(&disk).copied());
    let both = writes(2, 1, &[DISK, OTHER_DISK]);
    let first = finish(&clean().begin(&both, digest(&both), Some(time(100))), &both);
    assert_eq!(ends(&first), [Some(time(100)); 2]);
    let one = writes(3, 2, &[OTHER_DISK]);
    let second = first.begin(&one, digest(&one), Some(time(150))).extend(&one, time(200));
    assert_eq!(ends(&second), [Some(time(100)), Some(time(200))], "what the turn does not write to, it does not hold up");
    // Nothing changed: nothing is written, and nobody need wait for it.
    let none = writes(4, 3, &[]);
    let third = finish(&second, &one).begin(&none, digest(&none), None);
    assert_eq!((ends(&third), third.writing), ([Some(time(100)), Some(time(200))], false));
    assert_eq!(ends(&third.retire(DISK)), [None, Some(time(200))]);
    assert_eq!(ends(&third.reseed(DISK, seed("seed-c"))), [Some(time(100)), Some(time(200))]);
}

#[test]
fn a_write_in_doubt_is_lost_though_the_cycle_is_finished() {
    let second = manifest(2, 1);
    let begun = clean().begin(&second, digest(&second), Some(time(100)));
    for manifest in [second.clone(), partial(2, 1)] {
        let done = begun.finish(&manifest, index(2), &BTreeMap::new(), true);
        assert_eq!((end(&done), done.writing, done.lost.as_slice()), (Some(time(100)), false, [second.of].as_slice()));
        let third = crate::fixtures::manifest(3, 2);
        assert_eq!(done.begin(&third, digest(&third), Some(time(300))).lost, [second.of]);
    }
}

#[test]
fn a_new_seed_voids_what_was_known_of_the_old_one() {
    let ledger = Ledger { baseline: BTreeMap::from([(DISK, change_id(1)), (OTHER_DISK, change_id(100))]), ..clean() };
    let next = ledger.reseed(DISK, seed("seed-c"));
    assert_eq!((next.turn, next.begun, next.recovery_point.clone()), (Turn(2), Cycle(1), None));
    assert!(!next.is_clean(), "nothing can be made from it");
    assert_eq!(next.seeds[&DISK], seed("seed-c"));
    assert_eq!(next.baseline, BTreeMap::from([(OTHER_DISK, change_id(100))]));
    assert_eq!((next.index[&DISK], next.index[&OTHER_DISK]), (IndexRef::Zero, ledger.index[&OTHER_DISK]));
    assert_eq!(next.reseed(NEW_DISK, seed("seed-d")).index[&NEW_DISK], IndexRef::Zero, "an added disk is a new seed too");
    // A cycle that was begun stays so: the other disk's blocks are as they are.
    let dirty = begin(&ledger, &manifest(2, 1));
    assert_eq!(dirty.reseed(DISK, seed("seed-c")).dirty, dirty.dirty);
}

#[test]
fn unreadable_fingerprints_are_all_that_is_forgotten() {
    let ledger = clean();
    let next = ledger.forget_fingerprints(DISK);
    assert_eq!((next.index.get(&DISK), next.index.get(&OTHER_DISK)), (None, ledger.index.get(&OTHER_DISK)));
    assert_eq!(next.turn, Turn(2));
    assert_eq!(Ledger { turn: ledger.turn, index: ledger.index.clone(), ..next.clone() }, ledger);
    assert!(matches!(next.admit(&manifest(2, 1), digest(&manifest(2, 1))), Err(Refusal::BasisPassed { .. })), "it was computed with them");
    assert_eq!(next.admit(&manifest(2, 2), digest(&manifest(2, 2))), Ok(Admission::Begin));
}

#[test]
fn a_take_over_keeps_the_baseline_and_no_fingerprints() {
    let (theirs, incarnation) = other_owner();
    let second = manifest(2, 1);
    let begun = clean().begin(&second, digest(&second), Some(time(100)));
    let taken = begun.take_over(theirs.clone(), incarnation);
    assert_eq!((&taken.owner, taken.incarnation, taken.turn, taken.begun), (&theirs, incarnation, Turn(3), Cycle(2)));
    assert_eq!((&taken.baseline, &taken.seeds, &taken.recovery_point), (&begun.baseline, &begun.seeds, &begun.recovery_point));
    assert!(taken.index.is_empty() && taken.masked().next().is_none());
    assert!(!taken.is_clean(), "what was begun stays dirty");
    assert_eq!(taken.lost, [second.of]);
    assert_eq!((end(&taken), taken.writing), (Some(time(100)), false), "the fence holds for the old owner's writes");
    assert!(matches!(taken.admit(&second, digest(&second)), Err(Refusal::OwnedByOther { .. })));
    // The old owner's cycle is not lost a second time as one of the new incarnation, which there never was.
    let mut third = manifest(3, 3);
    (third.owner, third.of.incarnation) = (theirs.clone(), incarnation);
    assert_eq!(taken.admit(&third, digest(&third)), Ok(Admission::Begin));
    let begun = taken.begin(&third, digest(&third), Some(time(300)));
    assert_eq!(begun.lost, [second.of]);
    assert_eq!(begun.begin(&third, digest(&third), Some(time(400))).lost, [second.of, third.of]);
    assert!(finish(&begun, &third).is_clean());
    assert!(clean().take_over(theirs, incarnation).is_clean());
}

#[test]
fn each_refusal_has_its_reason() {
    let (theirs, incarnation) = other_owner();
    let refusals = [
        (
            Refusal::OwnedByOther { owner: theirs, incarnation },
            Reason::OwnedByOther,
            "the ledger belongs to east/default/web, incarnation 00000000000000000000000000000099",
        ),
        (
            Refusal::BasisPassed { cycle: Cycle(2), basis: Turn(1), turn: Turn(3) },
            Reason::BasisPassed,
            "cycle 2 was computed from turn 1, the ledger is at turn 3",
        ),
        (
            Refusal::SeedReplaced { disk: DISK, expected: "a".into(), found: "none".into() },
            Reason::SeedReplaced,
            "disk 2000: the cycle was computed for seed a, the ledger names none",
        ),
        (Refusal::OtherManifest { cycle: Cycle(2) }, Reason::OtherManifest, "cycle 2 was begun with another manifest"),
        (Refusal::Sealed, Reason::SeedsSealed, "the seeds are sealed"),
    ];
    for (refusal, reason, text) in refusals {
        assert_eq!((refusal.reason(), refusal.to_string().as_str()), (reason, text));
    }
    assert_eq!(full_ledger().cycle(Cycle(4)), CycleId { vm: vm(), incarnation: crate::fixtures::incarnation(), cycle: Cycle(4) });
}

#[test]
fn its_text_stays_as_it_is() {
    // Replicas outlive releases: a field that is renamed here makes every ledger unreadable.
    let text = serde_json::to_string(&full_ledger()).unwrap();
    let expected = concat!(
        r#"{"vm":{"vcenter":"00000000-0000-0000-0000-000000000011","instance":"00000000-0000-0000-0000-000000000022"},"#,
        r#""owner":{"cluster":"west","object":"default/web"},"incarnation":"00000000-0000-0000-0000-000000000033","block":1048576,"#,
        r#""seeds":{"2000":{"id":"/subscriptions/s/disks/seed-a","uniqueId":"seed-a","capacity":1073741824},"#,
        r#""2001":{"id":"/subscriptions/s/disks/seed-b","uniqueId":"seed-b","capacity":1073741824}},"#,
        r#""begun":9,"turn":12,"dirty":[{"cycle":8,"manifest":"{8}","covered":true},{"cycle":9,"manifest":"{9}","covered":false}],"#,
        r#""lost":[{"vm":{"vcenter":"00000000-0000-0000-0000-000000000011","instance":"00000000-0000-0000-0000-000000000022"},"#,
        r#""incarnation":"00000000-0000-0000-0000-000000000033","cycle":8}],"#,
        r#""recoveryPoint":{"cycle":7,"time":"2025-01-01T00:00:07Z","disks":[2000,2001]},"#,
        r#""baseline":{"2000":"52 1a 2b 3c 4d 5e 6f 70-81 92 a3 b4 c5 d6 e7 f8/7"},"#,
        r#""index":{"2000":{"at":{"turn":11,"digest":"{index}"}},"2001":"zero"},"writeEnds":{"2000":"2025-01-01T00:10:00Z"},"writing":true,"sealed":12,"#,
        r#""tokens":{"syncNow":"t-1"}}"#
    );
    let digests = [("{8}", "8"), ("{9}", "9"), ("{index}", "index")];
    let expected =
        digests.iter().fold(expected.to_owned(), |text, (place, of)| text.replace(place, &Digest::of(of.as_bytes()).to_string()));
    assert_eq!(text, expected);
}
