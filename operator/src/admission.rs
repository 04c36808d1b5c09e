//! Which of the cycles that are due may begin: one cycle a VM, and the disks of an appliance, first come first served.

use jiff::Timestamp;

/// What a cycle that goes on takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its ReplicatedVM.
    pub vm: String,
    /// Disks that it transfers, or may.
    pub disks: usize,
}

/// A VM whose cycle is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The ReplicatedVM.
    pub vm: String,
    /// Its disks.
    pub disks: usize,
    /// Since when it is due.
    pub since: Timestamp,
}

/// Whether a cycle may begin now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Start,
    /// The appliance's disk slots are taken.
    Full {
        /// Slots in use.
        used: usize,
        /// All slots.
        total: usize,
        /// Who has them.
        holders: Vec<String>,
        /// The place among those that wait, from 1.
        position: usize,
    },
}

/// Whether `vm` may begin, seen all that goes on and all that waits. A VM with more disks than there are slots goes alone: its cycle
/// transfers as many at a time as there are.
#[must_use]
pub fn admit(vm: &str, holders: &[Holder], waiting: &[Candidate], total: usize) -> Admission {
    let used: usize = holders.iter().map(|holder| holder.disks.min(total)).sum();
    let mut queue: Vec<&Candidate> = waiting.iter().collect();
    queue.sort_by(|a, b| (a.since, &a.vm).cmp(&(b.since, &b.vm)));
    let mut free = total.saturating_sub(used);
    for (place, candidate) in queue.iter().enumerate() {
        let needs = candidate.disks.clamp(1, total.max(1));
        let fits = needs <= free;
        if candidate.vm == vm {
            return if fits { Admission::Start } else { full(used, total, holders, place + 1) };
        }
        // The first that lacks slots keeps the rest of them: a VM with many disks gets its turn.
        free = if fits { free - needs } else { 0 };
    }
    full(used, total, holders, queue.len() + 1)
}

fn full(used: usize, total: usize, holders: &[Holder], position: usize) -> Admission {
    Admission::Full { used, total, holders: holders.iter().map(|holder| holder.vm.clone()).take(10).collect(), position }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(vm: &str, disks: usize) -> Holder {
        Holder { vm: vm.to_owned(), disks }
    }

    fn waits(vm: &str, disks: usize, since: i64) -> Candidate {
        Candidate { vm: vm.to_owned(), disks, since: Timestamp::from_second(since).unwrap() }
    }

    #[test]
    fn slots_are_given_in_the_order_of_waiting() {
        let waiting = [waits("late", 2, 20), waits("early", 2, 10)];
        assert_eq!(admit("early", &[holder("on", 5)], &waiting, 8), Admission::Start);
        let full = Admission::Full { used: 5, total: 8, holders: vec!["on".to_owned()], position: 2 };
        assert_eq!(admit("late", &[holder("on", 5)], &waiting, 8), full);
        assert_eq!(admit("late", &[holder("on", 4)], &waiting, 8), Admission::Start);
    }

    #[test]
    fn who_waits_longest_reserves_what_it_lacks() {
        let waiting = [waits("large", 6, 10), waits("small", 1, 20)];
        assert!(matches!(admit("large", &[holder("on", 4)], &waiting, 8), Admission::Full { position: 1, .. }));
        assert!(matches!(admit("small", &[holder("on", 4)], &waiting, 8), Admission::Full { position: 2, .. }));
    }

    #[test]
    fn a_vm_with_more_disks_than_slots_goes_alone() {
        let waiting = [waits("huge", 20, 10)];
        assert_eq!(admit("huge", &[], &waiting, 8), Admission::Start);
        assert!(matches!(admit("huge", &[holder("on", 1)], &waiting, 8), Admission::Full { used: 1, total: 8, .. }));
        assert!(matches!(admit("next", &[holder("huge", 20)], &[waits("next", 1, 1)], 8), Admission::Full { used: 8, .. }));
    }

    #[test]
    fn the_sum_of_what_is_started_never_exceeds_the_slots() {
        for seed in 0_u64..2000 {
            let roll = |n: u64, most: u64| {
                u64::from_le_bytes(blake3::hash(format!("{seed}/{n}").as_bytes()).as_bytes()[..8].try_into().unwrap()) % most
            };
            let total = 1 + usize::try_from(roll(0, 12)).unwrap();
            let waiting: Vec<Candidate> = (0..roll(1, 6))
                .map(|n| waits(&format!("w{n}"), 1 + usize::try_from(roll(10 + n, 15)).unwrap(), i64::try_from(roll(20 + n, 5)).unwrap()))
                .collect();
            let mut holders: Vec<Holder> = Vec::new();
            for candidate in &waiting {
                let left: Vec<Candidate> =
                    waiting.iter().filter(|one| !holders.iter().any(|holder| holder.vm == one.vm)).cloned().collect();
                if admit(&candidate.vm, &holders, &left, total) == Admission::Start {
                    holders.push(holder(&candidate.vm, candidate.disks));
                }
                let used: usize = holders.iter().map(|holder| holder.disks.min(total)).sum();
                assert!(used <= total, "{seed}: {used} of {total}");
            }
        }
    }
}
