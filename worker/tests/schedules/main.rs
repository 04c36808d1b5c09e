//! The replication protocol under seeded schedules of crashes, pauses, and late or doubled requests.
//!
//! The gateway and the applier are the real ones; store, seeds and VM are in memory, and one seed decides everything that happens. After each
//! change of ledger, manifest, receipt or seed the rules 1 to 5 of the design are looked at, and whenever the ledger says clean, the replica is
//! compared with its snapshot. `HAWSER_SEED=n` runs one schedule and prints its history.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod damage;
mod operator;
mod scheduler;
mod vm;
mod world;

use std::time::Duration;

use blocklog::plant::{Plant, plant};
use replica::memory::HostKind;

use crate::{operator::Operator, scheduler::Sim, world::World};

/// Schedules in a run.
const SCHEDULES: u64 = 2_000;

/// How long things go wrong in a schedule, and how long a system in which nothing goes wrong any more may take to be clean.
const TROUBLE: Duration = Duration::from_secs(600);
const CALM: Duration = Duration::from_secs(1200);

struct Outcome {
    violation: Option<String>,
    history: Vec<String>,
    cleans: u32,
}

fn schedule(seed: u64) -> Outcome {
    let sim = Sim::new(seed);
    let kind = match sim.random(|r| r.below(8)) {
        0..4 => HostKind::Exact,
        4..7 => HostKind::Time { honours_header: true },
        _ => HostKind::Time { honours_header: false },
    };
    let world = World::new(sim.clone(), kind);
    sim.note(format!("seed {seed}, {kind:?}"));
    let operator = Operator::start(&world);
    let rate = sim.random(|r| 20 + r.below(200));
    sim.set_fault_rate(rate);
    sim.run(TROUBLE);
    sim.set_fault_rate(0);
    operator.calm_down();
    let before = world.clean_writes();
    let mut until = TROUBLE;
    while sim.violation().is_none() && world.clean_writes() < before + 2 {
        until += Duration::from_secs(60);
        if until > TROUBLE + CALM {
            sim.violate("nothing goes wrong any more, and the replica does not become clean");
        }
        sim.run(until);
    }
    if sim.violation().is_none() && world.ledger().is_none_or(|ledger| ledger.recovery_point.is_none()) {
        sim.violate("there is no recovery point in the end");
    }
    // Rule 6, as far as a schedule can tell: what was taken for a cycle that is long over does not stand.
    if let Some(point) = world.ledger().and_then(|ledger| ledger.recovery_point).filter(|_| sim.violation().is_none()) {
        let left: Vec<_> = world.vm.standing_cycles().into_iter().filter(|cycle| cycle.0 + 1 < point.cycle.0).collect();
        if !left.is_empty() {
            sim.violate(format!("rule 6: clean at cycle {}, and the snapshots of cycles {left:?} stand", point.cycle));
        }
    }
    sim.close();
    Outcome { violation: sim.violation(), history: sim.history(), cleans: world.clean_writes() }
}

fn report(seed: u64, outcome: &Outcome) -> String {
    let tail: Vec<_> = outcome.history.iter().rev().take(400).rev().cloned().collect();
    format!(
        "{}: {}\n{}\nHAWSER_SEED={seed} shows it again",
        outcome.history[0],
        outcome.violation.as_deref().unwrap_or("-"),
        tail.join("\n")
    )
}

#[test]
fn two_thousand_schedules_keep_the_rules() {
    if let Some(seed) = std::env::var("HAWSER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let outcome = schedule(seed);
        println!("{}", report(seed, &outcome));
        assert_eq!(outcome.violation, None);
        return;
    }
    let count = std::env::var("HAWSER_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(SCHEDULES);
    let outcomes: Vec<_> = in_parallel(count, |seed| {
        let outcome = schedule(seed);
        assert!(outcome.violation.is_none(), "{}", report(seed, &outcome));
        let met = TROUBLES.map(|(_, word)| outcome.history.iter().any(|line| line.contains(word)));
        (outcome.cleans, met)
    })
    .collect();
    let cleans: u32 = outcomes.iter().map(|(cleans, _)| cleans).sum();
    println!("{count} schedules, {cleans} clean writes, no rule broken; schedules that met:");
    for (i, (trouble, _)) in TROUBLES.iter().enumerate() {
        let met = outcomes.iter().filter(|(_, met)| met[i]).count();
        println!("{met:>6}  {trouble}");
        assert!(met as u64 >= count / 2000, "too few schedules met: {trouble}");
    }
}

/// What two thousand schedules have to meet, and the word that tells of it in a history. How often each was met is printed.
const TROUBLES: [(&str, &str); 18] = [
    ("a worker that dies before a request", "dies before"),
    ("a worker that dies after a request", "dies after"),
    ("a lost request", "request lost"),
    ("a lost answer", "answer lost"),
    ("a request that arrives late", "arrives late"),
    ("a request that arrives twice", "arrives twice"),
    ("a worker that sleeps before a request is sent", "falls asleep before"),
    ("a worker that sleeps and wakes when others have gone on", "falls asleep after"),
    ("a lost lease", "LeaseLost"),
    ("a writer shut out by its successor's fence", "is fenced out"),
    ("an order taken back while it is applied", "Ok(Cancelled)"),
    ("a lost snapshot", "SnapshotLost"),
    ("a partial cycle", "Ok(Partial)"),
    ("a seed replaced by an empty one", "replaced by an empty one"),
    ("a cycle computed from a restored, older status", "BasisPassed"),
    ("a reverted source", "is reverted"),
    ("a second owner who takes over", "takes over"),
    ("a worker of an owner who is no longer", "OwnedByOther"),
];

/// Does something for each number below `count`, on all cores.
fn in_parallel<T: Send>(count: u64, work: impl Fn(u64) -> T + Sync) -> impl Iterator<Item = T> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let results: Vec<T> = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            (0..cores).map(|core| scope.spawn(move || (core..count).step_by(cores as usize).map(work).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    results.into_iter()
}

#[test]
fn a_schedule_happens_again_the_same_way() {
    let (one, two) = (schedule(7), schedule(7));
    assert_eq!(one.history, two.history);
}

#[test]
fn every_planted_fault_is_found() {
    let found = in_parallel(Plant::ALL.len() as u64, |n| {
        let fault = Plant::ALL[n as usize];
        plant(Some(fault));
        let found = (0..SCHEDULES).map(|seed| (seed, schedule(seed))).find(|(_, outcome)| outcome.violation.is_some());
        plant(None);
        match &found {
            Some((seed, outcome)) => println!("{fault:?}: seed {seed}: {}", outcome.violation.as_deref().unwrap_or("-")),
            None => println!("{fault:?}: NOT FOUND in {SCHEDULES} schedules"),
        }
        found.is_some()
    });
    assert!(found.into_iter().all(|found| found), "a planted fault was not found");
}
