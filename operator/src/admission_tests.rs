use super::{Admission, Candidate, Holder, Limits, Resource, Timestamp};

const EIGHT: Limits = Limits { appliance: 8, host: 100 };

fn holder(vm: &str, disks: usize) -> Holder {
    Holder { vm: vm.to_owned(), host: None, disks }
}

fn waits(vm: &str, disks: usize, since: i64) -> Candidate {
    Candidate { vm: vm.to_owned(), host: None, disks, initial: false, since: Timestamp::from_second(since).unwrap() }
}

fn runs_on(host: &str, vm: &str, disks: usize) -> Holder {
    Holder { host: Some(host.to_owned()), ..holder(vm, disks) }
}

fn waits_on(host: &str, vm: &str, disks: usize, since: i64) -> Candidate {
    Candidate { host: Some(host.to_owned()), ..waits(vm, disks, since) }
}

/// What is said to one of those that wait.
fn admit(vm: &str, holders: &[Holder], waiting: &[Candidate], limits: Limits) -> Admission {
    let (me, others): (Vec<Candidate>, Vec<Candidate>) = waiting.iter().cloned().partition(|one| one.vm == vm);
    super::admit(&me[0], holders, &others, limits)
}

/// What it waits for, and at which place.
fn waits_for(admission: Admission) -> (Resource, usize) {
    match admission {
        Admission::Full { of, position, .. } => (of, position),
        Admission::Start => panic!("it starts"),
    }
}

#[test]
fn slots_are_given_in_the_order_of_waiting() {
    let waiting = [waits("late", 2, 20), waits("early", 2, 10)];
    assert_eq!(admit("early", &[holder("on", 5)], &waiting, EIGHT), Admission::Start);
    let full = Admission::Full { of: Resource::Appliance, used: 5, total: 8, holders: vec!["on".to_owned()], position: 2 };
    assert_eq!(admit("late", &[holder("on", 5)], &waiting, EIGHT), full);
    assert_eq!(admit("late", &[holder("on", 4)], &waiting, EIGHT), Admission::Start);
}

#[test]
fn initial_cycles_go_before_deltas() {
    let first = Candidate { initial: true, ..waits("first", 4, 30) };
    let waiting = [waits("delta", 4, 10), first];
    assert_eq!(admit("first", &[holder("on", 4)], &waiting, EIGHT), Admission::Start);
    assert_eq!(waits_for(admit("delta", &[holder("on", 4)], &waiting, EIGHT)), (Resource::Appliance, 2));
}

#[test]
fn who_waits_longest_reserves_what_it_lacks() {
    let waiting = [waits("large", 6, 10), waits("small", 1, 20)];
    assert_eq!(waits_for(admit("large", &[holder("on", 4)], &waiting, EIGHT)), (Resource::Appliance, 1));
    assert_eq!(waits_for(admit("small", &[holder("on", 4)], &waiting, EIGHT)), (Resource::Appliance, 2));
}

#[test]
fn a_vm_with_more_disks_than_slots_goes_alone() {
    let waiting = [waits("huge", 20, 10)];
    assert_eq!(admit("huge", &[], &waiting, EIGHT), Admission::Start);
    assert!(matches!(admit("huge", &[holder("on", 1)], &waiting, EIGHT), Admission::Full { used: 1, total: 8, .. }));
    let alone = [holder("huge", EIGHT.at_a_time(20))];
    assert!(matches!(admit("next", &alone, &[waits("next", 1, 1)], EIGHT), Admission::Full { used: 8, .. }));
    // On its host, too.
    let host = Limits { appliance: 52, host: 8 };
    assert_eq!(host.at_a_time(20), 8);
    assert_eq!(admit("huge", &[runs_on("b", "on", 8)], &[waits_on("a", "huge", 20, 10)], host), Admission::Start);
}

#[test]
fn a_host_has_slots_of_its_own_and_keeps_nobody_else_waiting() {
    let limits = Limits { appliance: 12, host: 4 };
    let holders = [runs_on("a", "one", 3), runs_on("b", "two", 1)];
    let waiting = [waits_on("a", "early", 2, 10), waits_on("b", "other", 3, 20), waits_on("a", "late", 1, 30), waits("unknown", 5, 40)];
    let full = Admission::Full { of: Resource::Host("a".to_owned()), used: 3, total: 4, holders: vec!["one".to_owned()], position: 1 };
    assert_eq!(admit("early", &holders, &waiting, limits), full);
    assert_eq!(admit("other", &holders, &waiting, limits), Admission::Start);
    // It would fit: what is left is kept for who was there before.
    assert_eq!(waits_for(admit("late", &holders, &waiting, limits)), (Resource::Host("a".to_owned()), 2));
    // One that its host has no slots for keeps none of the appliance's either.
    let beside = [runs_on("a", "one", 4), runs_on("b", "two", 1), runs_on("c", "three", 4)];
    let waiting = [waits_on("a", "early", 4, 10), waits_on("b", "other", 2, 20)];
    assert_eq!(waits_for(admit("early", &beside, &waiting, limits)), (Resource::Host("a".to_owned()), 1));
    assert_eq!(admit("other", &beside, &waiting, limits), Admission::Start);
    let waiting = [waits_on("a", "early", 2, 10), waits_on("b", "other", 3, 20), waits_on("a", "late", 1, 30), waits("unknown", 5, 40)];
    // Where the host is not known the appliance's slots count, and those of hosts do not.
    assert_eq!(admit("unknown", &holders, &waiting, limits), Admission::Start);
}

#[test]
fn limits_by_host_follow_a_vmotion() {
    let limits = Limits { appliance: 52, host: 4 };
    let waiting = [waits_on("a", "waits", 2, 10)];
    let began = [runs_on("a", "one", 2), runs_on("a", "two", 2)];
    assert_eq!(waits_for(admit("waits", &began, &waiting, limits)), (Resource::Host("a".to_owned()), 1));
    // Another one went to another host, or it did itself.
    let moved = [runs_on("a", "one", 2), runs_on("b", "two", 2)];
    assert_eq!(admit("waits", &moved, &waiting, limits), Admission::Start);
    assert_eq!(admit("waits", &began, &[waits_on("b", "waits", 2, 10)], limits), Admission::Start);
    // What comes from elsewhere and is over the limit goes on; nothing is admitted until it is below.
    let over = [runs_on("a", "one", 2), runs_on("a", "two", 2), runs_on("a", "came", 3)];
    assert!(matches!(admit("waits", &over, &waiting, limits), Admission::Full { used: 7, total: 4, .. }));
    assert!(matches!(admit("waits", &over[1..], &waiting, limits), Admission::Full { used: 5, total: 4, .. }));
    assert_eq!(admit("waits", &over[..1], &waiting, limits), Admission::Start);
}

#[test]
fn starts_never_exceed_the_slots_and_nobody_starves() {
    for seed in 0_u64..60 {
        let mut n = 0;
        let mut roll = |most: u64| {
            n += 1;
            u64::from_le_bytes(blake3::hash(format!("{seed}/{n}").as_bytes()).as_bytes()[..8].try_into().unwrap()) % most
        };
        let mut some = |most| 1 + usize::try_from(roll(most)).unwrap();
        let limits = Limits { appliance: some(12), host: some(8) };
        let mut waiting: Vec<Candidate> = Vec::new();
        let mut holders: Vec<Holder> = Vec::new();
        let mut first = (String::new(), 0);
        // More come than can run, the most of them small, and the one that has run longest ends.
        for round in 0..60 {
            for n in 0..3 {
                let host = ["a", "b", "c"].get(some(4) - 1).map(|host| (*host).to_owned());
                let disks = if some(6) == 1 { some(15) } else { 1 };
                waiting.push(Candidate { host, ..waits(&format!("w{round:02}{n}"), disks, round) });
            }
            for candidate in waiting.clone() {
                if admit(&candidate.vm, &holders, &waiting, limits) == Admission::Start {
                    waiting.retain(|one| one.vm != candidate.vm);
                    let disks = limits.at_a_time(candidate.disks);
                    holders.push(Holder { vm: candidate.vm, host: candidate.host, disks });
                }
                let on = |host| holders.iter().filter(|one| one.host.as_deref() == host).map(|one| one.disks).sum::<usize>();
                let used: usize = holders.iter().map(|holder| holder.disks).sum();
                assert!(used <= limits.appliance, "{seed}: {used} of {limits:?}");
                assert!(["a", "b", "c"].into_iter().all(|host| on(Some(host)) <= limits.host), "{seed}: {holders:?} of {limits:?}");
            }
            assert!(!holders.is_empty(), "{seed}: slots are free, and {waiting:?} wait");
            // At the most 12 run, and after as many ends whoever is first has what it lacks of its host, and then of the appliance.
            if let Some(now) = waiting.first().filter(|now| now.vm != first.0) {
                first = (now.vm.clone(), round);
            }
            assert!(waiting.is_empty() || round - first.1 <= 24, "{seed}: {first:?} is first, and waits until {round}: {limits:?}");
            holders.remove(0);
        }
    }
}
