//! One measurement, in a process of its own.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use blocklog::clock::{Clock, SystemClock};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use source::nbd::IN_FLIGHT;

use crate::{
    data::Areas,
    primitives,
    rig::{Rig, Source},
};

/// What to measure.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// The parts of the pipeline alone. `scratch` is a file that may be written.
    Primitives { data: PathBuf, scratch: PathBuf },
    /// The gateway's half of a cycle.
    Gateway(Rig),
    /// The applier's half.
    Apply(Rig),
    /// Only reads, as many in flight as the gateway has: the whole source in MiB, or areas of it.
    Read { source: Source, areas: Option<Areas> },
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Of the work alone, without the process's start and the rig's.
    pub seconds: f64,
    /// CPU time of the process, in hundredths.
    pub cpu: f64,
    /// Peak resident bytes before the work began.
    pub idle: u64,
    /// Peak resident bytes at its end.
    pub peak: u64,
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes in the log.
    pub uploaded: u64,
    /// Bytes applied.
    pub applied: u64,
    /// Seconds of each primitive.
    pub parts: BTreeMap<String, f64>,
}

impl Outcome {
    /// What the work took beyond a worker that has nothing to do.
    pub fn beyond_idle(&self) -> u64 {
        self.peak - self.idle
    }

    /// All primitives together.
    pub fn ideal(&self) -> f64 {
        self.parts.values().sum()
    }
}

/// Carries out a task.
pub fn run(task: Task) -> Outcome {
    if let Task::Primitives { data, scratch } = &task {
        return Outcome { parts: primitives::measure(data, scratch), ..Outcome::default() };
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match task {
            Task::Primitives { .. } => unreachable!("done above"),
            Task::Gateway(rig) => rig.gateway().await,
            Task::Apply(rig) => rig.apply().await,
            Task::Read { source, areas } => read(source, areas).await,
        }
    })
}

async fn read(source: Source, areas: Option<Areas>) -> Outcome {
    let source = source.open().await.unwrap();
    let whole = Areas { capacity: source.size(), length: 1 << 20, count: source.size() >> 20 };
    let ranges: Arc<Vec<_>> = Arc::new(areas.unwrap_or(whole).ranges().collect());
    let clock = SystemClock::new();
    let (begin, next) = (clock.monotonic(), Arc::new(AtomicU64::new(0)));
    let readers = (0..IN_FLIGHT).map(|_| {
        let (source, ranges, next) = (Arc::clone(&source), Arc::clone(&ranges), Arc::clone(&next));
        tokio::spawn(async move {
            while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                source.read(range.start, (range.end - range.start) as u32).await.unwrap();
            }
        })
    });
    join_all(readers).await.into_iter().for_each(Result::unwrap);
    let read = ranges.iter().map(|range| range.end - range.start).sum();
    Outcome { seconds: (clock.monotonic() - begin).as_secs_f64(), read, ..Outcome::default() }
}

/// The most memory that this process ever had, in bytes.
pub fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The CPU time that this process has used, in seconds.
pub fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Counted from behind the name, which may hold anything: user time and system time, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}
