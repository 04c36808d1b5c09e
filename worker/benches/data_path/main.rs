//! What the data path makes of its machine: each figure is a ratio to something that is measured beside it, in the same run.
//!
//! `scripts/bench.sh` runs it; docs/performance.md says what the figures mean. Every measurement is a process of its own (this program again,
//! with a task), so that one leaves no warm heap to the next, can be bound to a core, and shows its own peak memory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement whose parts fail has failed, and says where")]

mod child;
mod data;
mod figures;
mod primitives;
mod report;
mod rig;
mod tools;

use std::path::PathBuf;

use report::Report;

/// What the whole run works with.
struct Setup {
    /// Everything lies below it: a folder in memory (tmpfs).
    folder: PathBuf,
    /// Bytes of each kind of data.
    size: u64,
    /// Repetitions of each measurement.
    runs: usize,
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} can't be read")),
        Err(_) => default,
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(task) = arguments.iter().position(|word| word == "--task") {
        println!("{}", serde_json::to_string(&child::run(serde_json::from_str(&arguments[task + 1]).unwrap())).unwrap());
        return;
    }
    for tool in ["nbdkit", "nbdcopy", "qemu-img", "taskset", "tar"] {
        assert!(tools::is_there(tool), "{tool} is missing: scripts/setup.sh installs it");
    }
    let place = setting("HAWSER_BENCH_DIR", PathBuf::from("/dev/shm"));
    let folder = tempfile::Builder::new().prefix("hawser-bench-").tempdir_in(&place).expect("a folder in memory");
    let setup =
        Setup { folder: folder.path().to_owned(), size: setting("HAWSER_BENCH_MIB", 512) << 20, runs: setting("HAWSER_BENCH_RUNS", 5) };
    let only = setting("HAWSER_BENCH_ONLY", String::new());
    let mut report = Report::begin(&setup, &place);
    let wanted = |number: &str| only.is_empty() || only.split(',').any(|word| word == number);
    for (number, figure) in figures::ALL {
        if wanted(number) {
            figure(&setup, &mut report);
        }
    }
    report.end();
}
