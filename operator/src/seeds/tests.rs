use azure::disks::{DiskState, LEAST, content};
use blocklog::{
    ids::{ChangeId, Cycle, Turn, VmId},
    ledger::{RecoveryPoint, Seed},
};
use jiff::Timestamp;
use uuid::Uuid;

use super::*;

fn owner() -> Owner {
    Owner { cluster: "prod".into(), object: "apps/web".into() }
}

fn incarnation() -> Incarnation {
    Incarnation(Uuid::from_u128(0xABCD_0000_0000_4000_8000_0000_0000_0001))
}

fn which(disk: u32, instance: u64) -> Which {
    Which { incarnation: incarnation(), disk: DiskKey(disk), instance }
}

fn disk(which: Which, unique: &str, capacity: u64) -> Disk {
    Disk {
        id: ResourceId::disk("s", "g", &which.name("web")),
        unique_id: unique.to_owned(),
        state: DiskState::ActiveUpload,
        provisioned: true,
        failed: false,
        content: Some(content(capacity)),
        tags: which.tags(&owner(), &BTreeMap::new()),
    }
}

fn seed(disk: &Disk, capacity: u64) -> Seed {
    Seed { id: disk.id.to_string(), unique_id: disk.unique_id.clone(), capacity }
}

fn ledger(seeds: &[(u32, Seed)]) -> Ledger {
    let vm = VmId { vcenter: Uuid::from_u128(1), instance: Uuid::from_u128(2) };
    Ledger::new(vm, owner(), incarnation(), 1 << 20, seeds.iter().map(|(key, seed)| (DiskKey(*key), seed.clone())).collect())
}

fn planned(source: &[(u32, u64)], ledger: Option<&Ledger>, disks: &[Disk]) -> BTreeMap<DiskKey, Plan> {
    let source: Vec<_> = source.iter().map(|(key, capacity)| SourceDisk { key: DiskKey(*key), capacity: *capacity }).collect();
    plan(&Look { owner: &owner(), incarnation: incarnation(), source: &source, ledger, disks })
}

fn make(plan: &Plan) -> (Which, Why, bool) {
    let Plan::Make { which, why, made, .. } = plan else { panic!("{plan:?}") };
    (*which, *why, made.is_some())
}

#[test]
fn a_name_says_which_seed_it_is_and_azure_takes_it() {
    assert_eq!(which(2000, 1).name("web"), "hawser-web-2000-abcd0000-1");
    let longest = which(u32::MAX, u64::MAX).name(&"v".repeat(50));
    assert!(longest.len() <= 80 && longest.ends_with("-18446744073709551615"), "{longest}");
    assert!(which(2000, 7).name(&"v".repeat(50)).contains(&"v".repeat(50)));
    assert_ne!(which(2000, 1).name("web"), which(2000, 2).name("web"));
}

#[test]
fn tags_say_whose_it_is_and_win_over_the_users() {
    let users = BTreeMap::from([("team".to_owned(), "db".to_owned()), (OWNER_TAG.to_owned(), "me".to_owned())]);
    let tags = which(2000, 1).tags(&owner(), &users);
    assert_eq!((tags[OWNER_TAG].as_str(), tags["team"].as_str()), ("prod/apps/web", "db"));
    let mut found = disk(which(2000, 1), "u", LEAST);
    assert_eq!(Which::of(&owner(), &found), Some(which(2000, 1)));
    let other = Owner { cluster: "test".into(), ..owner() };
    assert_eq!(Which::of(&other, &found), None);
    // Azure may hand a tag back in another case.
    let id = found.tags.remove(DISK_TAG).unwrap();
    assert_eq!(Which::of(&owner(), &found), None);
    found.tags.insert("Hawser-Disk".to_owned(), id);
    assert_eq!(Which::of(&owner(), &found), Some(which(2000, 1)));
}

#[test]
fn the_first_seeds_are_made_and_found_again() {
    let plans = planned(&[(2000, 1 << 30), (2001, 5)], None, &[]);
    assert_eq!(make(&plans[&DiskKey(2000)]), (which(2000, 1), Why::New, false));
    assert_eq!(make(&plans[&DiskKey(2001)]), (which(2001, 1), Why::New, false));
    let made = [disk(which(2000, 1), "a", 1 << 30)];
    let plans = planned(&[(2000, 1 << 30), (2001, 5)], None, &made);
    assert_eq!(make(&plans[&DiskKey(2000)]), (which(2000, 1), Why::New, true));
    assert_eq!(make(&plans[&DiskKey(2001)]), (which(2001, 1), Why::New, false));
    // Another incarnation's is not gone on with.
    let old = Which { incarnation: Incarnation(Uuid::from_u128(9)), ..which(2000, 1) };
    assert!(!make(&planned(&[(2000, 1 << 30)], None, &[disk(old, "a", 1 << 30)])[&DiskKey(2000)]).2);
}

#[test]
fn a_disk_whose_making_failed_does_not_become_a_seed() {
    let found = disk(which(2000, 1), "a", LEAST);
    assert!(fits(&found, LEAST));
    assert!(!fits(&Disk { failed: true, ..found }, LEAST), "it is made again, and not waited for");
}

#[test]
fn a_seed_in_its_place_is_kept() {
    let found = disk(which(2000, 1), "ab", LEAST);
    let ledger = ledger(&[(2000, Seed { unique_id: "AB".into(), ..seed(&found, LEAST) })]);
    assert_eq!(planned(&[(2000, LEAST)], Some(&ledger), std::slice::from_ref(&found))[&DiskKey(2000)], Plan::Keep);
}

#[test]
fn a_seed_that_is_gone_or_unfit_is_made_anew() {
    let found = disk(which(2000, 1), "a", LEAST);
    let mut ledger = ledger(&[(2000, seed(&found, LEAST))]);
    let why = |ledger: &Ledger, capacity, disks: &[Disk]| make(&planned(&[(2000, capacity)], Some(ledger), disks)[&DiskKey(2000)]);
    assert_eq!(why(&ledger, LEAST, &[]), (which(2000, 2), Why::Missing, false));
    let other = Disk { unique_id: "b".into(), ..found.clone() };
    assert_eq!(why(&ledger, LEAST, &[other]), (which(2000, 2), Why::Replaced, false));
    let sealed = Disk { state: DiskState::Unattached, ..found.clone() };
    assert_eq!(why(&ledger, LEAST, &[sealed]), (which(2000, 2), Why::Replaced, false));
    assert_eq!(why(&ledger, LEAST + 1, std::slice::from_ref(&found)), (which(2000, 2), Why::Grown, false));
    // A crash after the disk was made: it is gone on with, until the ledger has gone on.
    let next = disk(which(2000, 2), "c", LEAST + 1);
    assert_eq!(why(&ledger, LEAST + 1, &[found.clone(), next.clone()]), (which(2000, 2), Why::Grown, true));
    ledger.turn = Turn(4);
    assert_eq!(why(&ledger, LEAST + 1, &[found, next]), (which(2000, 6), Why::Grown, false));
}

#[test]
fn a_disk_that_comes_back_never_gets_a_seed_that_was_written() {
    let old = disk(which(2001, 1), "a", LEAST);
    let first = disk(which(2000, 1), "b", LEAST);
    let mut at = ledger(&[(2000, seed(&first, LEAST)), (2001, seed(&old, LEAST))]);
    let disks = [first, old];
    assert_eq!(planned(&[(2000, LEAST)], Some(&at), &disks)[&DiskKey(2001)], Plan::Leave);
    at = at.retire(DiskKey(2001));
    assert!(!planned(&[(2000, LEAST)], Some(&at), &disks).contains_key(&DiskKey(2001)));
    let back = planned(&[(2000, LEAST), (2001, LEAST)], Some(&at), &disks);
    assert_eq!(make(&back[&DiskKey(2001)]), (which(2001, 3), Why::New, false));
}

#[test]
fn whatever_happened_before_a_new_seed_was_never_in_the_ledger() {
    // Made at any turn, named by the write that follows: its instance is never planned again.
    let mut at = ledger(&[]);
    let mut named = std::collections::BTreeSet::new();
    for round in 0..50_u64 {
        let Plan::Make { which, .. } = planned(&[(2000, LEAST + round)], Some(&at), &[])[&DiskKey(2000)].clone() else { panic!() };
        assert!(named.insert(which.instance), "{round}");
        let made = disk(which, "x", LEAST + round);
        at = match round % 3 {
            0 => at.reseed(DiskKey(2000), seed(&made, LEAST + round)),
            1 => at.reseed(DiskKey(2000), seed(&made, LEAST + round)).retire(DiskKey(2000)),
            _ => {
                let mut next = at.reseed(DiskKey(2000), seed(&made, LEAST + round));
                next.turn = next.turn.next();
                next
            }
        };
    }
}

#[test]
fn what_a_ledger_forgets() {
    let (first, second) = (disk(which(2000, 1), "a", LEAST), disk(which(2001, 1), "b", LEAST));
    let mut at = ledger(&[(2000, seed(&first, LEAST)), (2001, seed(&second, LEAST))]);
    at.recovery_point = Some(RecoveryPoint { cycle: Cycle(3), time: Timestamp::UNIX_EPOCH, disks: vec![DiskKey(2000), DiskKey(2001)] });
    at.baseline.insert(DiskKey(2001), ChangeId("x/1".into()));
    let next = at.retire(DiskKey(2001));
    assert_eq!(next.turn, at.turn.next(), "cycles of the turn before are refused");
    assert!(!next.seeds.contains_key(&DiskKey(2001)) && !next.index.contains_key(&DiskKey(2001)) && next.baseline.is_empty());
    assert_eq!(next.recovery_point.unwrap().disks, [DiskKey(2000)]);
}

#[test]
fn only_what_is_ours_and_replaced_is_swept_and_only_when_clean() {
    let (old, new) = (disk(which(2000, 1), "a", LEAST), disk(which(2000, 4), "b", LEAST));
    let retired = disk(which(2001, 1), "c", LEAST);
    let foreign = Disk { id: ResourceId::disk("s", "g", "payroll"), tags: BTreeMap::new(), ..old.clone() };
    let mut at = ledger(&[(2000, seed(&new, LEAST))]);
    let disks = [new.clone(), old.clone(), retired.clone(), foreign];
    assert!(sweep(&owner(), &at, &disks).is_empty(), "no cycle has covered the new one");
    at.recovery_point = Some(RecoveryPoint { cycle: Cycle(3), time: Timestamp::UNIX_EPOCH, disks: vec![DiskKey(2000)] });
    assert_eq!(sweep(&owner(), &at, &disks), std::slice::from_ref(&old.id));
    assert_eq!(sweep(&Owner { cluster: "test".into(), ..owner() }, &at, &disks), []);
    // When replication stops, all of ours go, and those that the ledger names.
    assert_eq!(all(&owner(), None, &disks).len(), 3);
    let taken = Owner { cluster: "other".into(), ..owner() };
    assert_eq!(all(&taken, Some(&at), &disks), [new.id]);
}
