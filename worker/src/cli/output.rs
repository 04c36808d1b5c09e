//! What a run says while it runs and when it ends: bars and a table on a terminal, lines of JSON otherwise.

use std::{
    collections::BTreeMap,
    io::Write,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use blocklog::{
    clock::{Clock, SystemClock},
    cycle::{Figures, Mode},
    ids::DiskKey,
};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    env::{Event, Progress},
    failure::{Failure, Kind},
    local::{Checked, Damage, Differences, Listener, Looked, Outcome, RunEvent, Tally},
};

/// How often a disk's progress becomes a line.
const EVERY: Duration = Duration::from_secs(1);

/// Writes a line to stdout. A reader that is gone is no reason to stop a cycle.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes an event as a line of JSON.
pub(super) fn event(event: &Line<'_>) {
    // Text and numbers can always be written.
    line(&serde_json::to_string(event).unwrap_or_default());
}

/// A line of JSON.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Line<'a> {
    Cycle {
        cycle: u64,
        incarnation: String,
        resumed: bool,
    },
    Reading {
        disk: u32,
        mode: Mode,
        changed: u64,
    },
    Read {
        disk: u32,
        read: u64,
        uploaded: u64,
        in_place: u64,
    },
    Sent,
    Applying {
        disk: u32,
        bytes: u64,
    },
    Applied {
        disk: u32,
        bytes: u64,
    },
    Compared {
        disk: u32,
        bytes: u64,
    },
    Waiting {
        reason: &'a str,
        message: &'a str,
    },
    Answered,
    Warning {
        message: &'a str,
    },
    Result(&'a Outcome),
    Verified(&'a Checked),
    #[serde(rename = "result")]
    Equal {
        equal: bool,
    },
    Damage(&'a Damage),
    #[serde(rename = "result")]
    Looked {
        documents: u64,
        segments: Tally,
        unnamed: Tally,
        damaged: usize,
    },
}

impl<'a> From<&'a Looked> for Line<'a> {
    fn from(looked: &'a Looked) -> Self {
        let Looked { documents, segments, unnamed, damaged } = looked;
        Self::Looked { documents: *documents, segments: *segments, unnamed: *unnamed, damaged: damaged.len() }
    }
}

/// Tells people on stdout: the result of a command that has no other.
pub(super) fn say(text: &str) {
    line(text);
}

/// Tells people on stderr.
pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Where a run's words go.
pub(super) enum Output {
    /// Lines of JSON to stdout.
    Lines(Lines),
    /// Bars to stderr.
    Bars(Bars),
}

impl Output {
    pub(super) fn new(json: bool) -> Arc<Self> {
        Arc::new(if json {
            Self::Lines(Lines { clock: SystemClock::new(), disks: Mutex::default() })
        } else {
            Self::Bars(Bars { all: MultiProgress::new(), disks: Mutex::default() })
        })
    }

    /// Nothing more comes but a result or a failure.
    pub(super) fn end(&self) {
        match self {
            Self::Lines(lines) => lines.flush(),
            Self::Bars(bars) => bars.lock().values().for_each(|disk| disk.bar.finish_and_clear()),
        }
    }

    /// What a cycle did.
    pub(super) fn result(&self, outcome: &Outcome) {
        match self {
            Self::Lines(_) => event(&Line::Result(outcome)),
            Self::Bars(_) => complain(&table(outcome)),
        }
    }

    /// What a comparison found.
    pub(super) fn checked(&self, checked: &[Checked]) -> Result<ExitCode, Failure> {
        for disk in checked {
            match self {
                Self::Lines(_) => event(&Line::Verified(disk)),
                Self::Bars(_) => complain(&verdict(disk)),
            }
        }
        let different: Vec<String> = checked.iter().filter(|disk| !disk.equal).map(|disk| disk.disk.to_string()).collect();
        if different.is_empty() {
            if let Self::Lines(_) = self {
                event(&Line::Equal { equal: true });
            }
            return Ok(ExitCode::SUCCESS);
        }
        let message = format!("the replica differs from its source: disk {}", different.join(", "));
        let remedy = "If no cycle is under way and the source is the image of the last one, run a cycle with mode: full, and verify again.";
        Err(Failure::new(Kind::NotEqual, message, remedy))
    }
}

impl Progress for Output {
    fn note(&self, event: Event) {
        match self {
            Self::Lines(lines) => lines.note(event),
            Self::Bars(bars) => bars.note(event),
        }
    }
}

impl Listener for Output {
    fn tell(&self, told: RunEvent) {
        match self {
            Self::Lines(lines) => lines.tell(told),
            Self::Bars(bars) => bars.tell(told),
        }
    }
}

/// Lines of JSON; progress of a disk at most once a second, as sums.
pub(super) struct Lines {
    clock: SystemClock,
    disks: Mutex<BTreeMap<DiskKey, Sums>>,
}

#[derive(Default)]
struct Sums {
    figures: Figures,
    applied: u64,
    /// What was not told yet.
    pending: Option<Step>,
    told: Option<Duration>,
}

#[derive(Clone, Copy)]
enum Step {
    Read,
    Applied,
    Compared,
}

impl Sums {
    fn tell(&mut self, disk: DiskKey) {
        let (disk, bytes) = (disk.0, self.applied);
        match self.pending.take() {
            Some(Step::Read) => {
                let Figures { read, uploaded, in_place, .. } = self.figures;
                event(&Line::Read { disk, read, uploaded, in_place });
            }
            Some(Step::Applied) => event(&Line::Applied { disk, bytes }),
            Some(Step::Compared) => event(&Line::Compared { disk, bytes }),
            None => {}
        }
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DiskKey, Sums>> {
        // A panic while it was held can't have left it half changed: sums are plain numbers.
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self) {
        self.lock().iter_mut().for_each(|(disk, sums)| sums.tell(*disk));
    }

    fn progress(&self, disk: DiskKey, step: Step, change: impl FnOnce(&mut Sums)) {
        let now = self.clock.monotonic();
        let mut disks = self.lock();
        let sums = disks.entry(disk).or_default();
        change(sums);
        sums.pending = Some(step);
        if sums.told.is_none_or(|told| now - told >= EVERY) {
            sums.told = Some(now);
            sums.tell(disk);
        }
    }

    fn note(&self, told: Event) {
        match told {
            Event::Reading { disk, mode, changed } => {
                // A cycle that begins anew counts anew.
                self.lock().insert(disk, Sums::default());
                event(&Line::Reading { disk: disk.0, mode, changed });
            }
            Event::Read { disk, step } => self.progress(disk, Step::Read, |sums| sums.figures += step),
            Event::Sent => {
                self.flush();
                event(&Line::Sent);
            }
            Event::Applying { disk, bytes } => {
                self.lock().insert(disk, Sums::default());
                event(&Line::Applying { disk: disk.0, bytes });
            }
            Event::Applied { disk, bytes } => self.progress(disk, Step::Applied, |sums| sums.applied += bytes),
            Event::Waiting { reason, message } => event(&Line::Waiting { reason: reason.as_str(), message: &message }),
            Event::Answered => event(&Line::Answered),
        }
    }

    fn tell(&self, told: RunEvent) {
        match told {
            RunEvent::Cycle { of, resumed } => {
                event(&Line::Cycle { cycle: of.cycle.0, incarnation: of.incarnation.to_string(), resumed });
            }
            RunEvent::Warning(message) => event(&Line::Warning { message: &message }),
            RunEvent::Comparing { disk, done, .. } => self.progress(disk, Step::Compared, |sums| sums.applied = done),
        }
    }
}

/// A bar for each disk.
pub(super) struct Bars {
    all: MultiProgress,
    disks: Mutex<BTreeMap<DiskKey, Bar>>,
}

struct Bar {
    bar: ProgressBar,
    figures: Figures,
}

impl Bars {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DiskKey, Bar>> {
        // A panic while it was held can't have left it half changed.
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, disk: DiskKey, work: impl FnOnce(&mut Bar)) {
        let mut disks = self.lock();
        work(disks.entry(disk).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(0));
            // The template is a constant, and parses; the plain bar would do as well.
            let style = ProgressStyle::with_template(
                "disk {prefix:<6} {msg:<8} {wide_bar} {bytes:>11} / {total_bytes:<11} {bytes_per_sec:>12} {eta:>4}",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(disk.to_string());
            Bar { bar, figures: Figures::default() }
        }));
    }

    fn phase(&self, disk: DiskKey, phase: &'static str, length: u64) {
        self.with(disk, |disk| {
            disk.figures = Figures::default();
            disk.bar.reset();
            disk.bar.set_length(length);
            disk.bar.set_message(phase);
        });
    }

    fn say(&self, text: &str) {
        // Above the bars. Where stderr is gone there is nobody to tell.
        self.all.suspend(|| complain(text));
    }

    fn note(&self, event: Event) {
        match event {
            Event::Reading { disk, changed, .. } => self.phase(disk, "reading", changed),
            Event::Read { disk, step } => self.with(disk, |disk| {
                disk.figures += step;
                // What is in place was either read or known to be zero: the larger of the two is what was looked at, or a little less.
                disk.bar.set_position(disk.figures.read.max(disk.figures.in_place));
            }),
            Event::Sent => self.lock().values().for_each(|disk| disk.bar.set_position(disk.bar.length().unwrap_or_default())),
            Event::Applying { disk, bytes } => self.phase(disk, "applying", bytes),
            Event::Applied { disk, bytes } => self.with(disk, |disk| disk.bar.inc(bytes)),
            Event::Waiting { reason, message } => self.say(&format!("waiting ({reason}): {message}")),
            Event::Answered => self.say("the log store answers again"),
        }
    }

    fn tell(&self, told: RunEvent) {
        match told {
            RunEvent::Cycle { of, resumed } => {
                self.say(&format!("cycle {}{}", of.cycle, if resumed { ", begun by an earlier run" } else { "" }))
            }
            RunEvent::Warning(message) => self.say(&format!("warning: {message}")),
            RunEvent::Comparing { disk, done, of } => self.with(disk, |disk| {
                disk.bar.set_length(of);
                disk.bar.set_message("compare");
                disk.bar.set_position(done);
            }),
        }
    }
}

fn table(outcome: &Outcome) -> String {
    let columns = ["disk", "mode", "changed", "read", "uploaded", "in place", "written", "cleared", "seconds"].map(str::to_owned);
    let rows = outcome.disks.iter().map(|disk| {
        let bytes = |bytes: u64| HumanBytes(bytes).to_string();
        let [changed, read, uploaded, in_place] = [disk.changed, disk.read, disk.uploaded, disk.in_place].map(bytes);
        let [written, cleared] = [disk.applied.written, disk.applied.cleared].map(bytes);
        [
            disk.disk.to_string(),
            disk.mode.as_str().to_owned(),
            changed,
            read,
            uploaded,
            in_place,
            written,
            cleared,
            format!("{:.1}", disk.seconds),
        ]
    });
    let mut text = String::new();
    for row in std::iter::once(columns).chain(rows) {
        text.push_str(&row.map(|cell| format!("{cell:>12}")).concat());
        text.push('\n');
    }
    let finished = match outcome.finished.as_slice() {
        [] => String::new(),
        cycles => format!(" (after cycle {} of an earlier run)", cycles.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
    };
    format!("{text}cycle {} is applied{finished}: the replica is the images as of {}", outcome.cycle, outcome.recovery_point)
}

fn verdict(checked: &Checked) -> String {
    let Checked { disk, bytes, equal, differences, .. } = checked;
    if *equal {
        return format!("disk {disk}: {} are equal", HumanBytes(*bytes));
    }
    let Differences { first, count, bytes: differing, .. } = differences;
    let mut text = format!("disk {disk}: {} in {count} ranges differ", HumanBytes(*differing));
    for range in first {
        text.push_str(&format!("\n  {} bytes at {}", range.end - range.start, range.start));
    }
    if *count > first.len() as u64 {
        text.push_str(&format!("\n  and {} more", count - first.len() as u64));
    }
    text
}
