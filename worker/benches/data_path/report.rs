//! What is printed.

use std::path::Path;

use blocklog::clock::{Clock, SystemClock};

use crate::{Setup, tools};

/// Prints figures and remembers which missed their aims.
pub struct Report {
    missed: Vec<String>,
    met: usize,
    begin: SystemClock,
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn load() -> String {
    file("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The middle one, the least and the greatest.
pub fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let middle = if n.is_multiple_of(2) { f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]) } else { sorted[n / 2] };
    (middle, sorted[0], sorted[n - 1])
}

impl Report {
    /// Prints the machine.
    pub fn begin(setup: &Setup, place: &Path) -> Self {
        let begin = SystemClock::new();
        let cpuinfo = file("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown processor");
        let mhz = cpuinfo.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(": ").nth(1)).unwrap_or("?");
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let memory = file("/proc/meminfo").lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
        println!("machine    {model}, {mhz} MHz, {cores} cores, {} GiB, Linux {}", memory >> 20, file("/proc/sys/kernel/osrelease").trim());
        println!("date       {}", begin.now().strftime("%Y-%m-%d %H:%M UTC"));
        println!("versions   worker {}, {}", env!("CARGO_PKG_VERSION"), tools::version("rustc --version"));
        let programs = ["nbdkit --version", "nbdcopy --version", "qemu-img --version"].map(tools::version);
        println!("           {}, zstd {}", programs.join(", "), zstd::zstd_safe::version_string());
        println!("load       {} before the run", load());
        println!(
            "data       {} MiB of each kind in {}; median (least to greatest) of {} interleaved repetitions",
            setup.size >> 20,
            place.display(),
            setup.runs
        );
        Self { missed: Vec::new(), met: 0, begin }
    }

    /// A heading.
    pub fn head(&self, text: &str) {
        println!("\n{text}");
    }

    /// A ratio that should be `aim` or more.
    pub fn at_least(&mut self, name: &str, samples: &[f64], aim: f64, detail: &str) {
        let (middle, least, greatest) = spread(samples);
        let verdict = self.judge(name, middle >= aim, &format!("aim {aim:.2}, got {middle:.3}"));
        println!("  {name:<34} {middle:>5.2} ({least:.2} to {greatest:.2})  aim {aim:.2} {verdict}  {detail}");
    }

    /// MiB that should be `aim` or fewer.
    pub fn at_most(&mut self, name: &str, samples: &[f64], aim: f64, detail: &str) {
        let (middle, least, greatest) = spread(samples);
        let verdict = self.judge(name, middle <= aim, &format!("aim {aim:.0} MiB, got {middle:.1}"));
        println!("  {name:<34} {middle:>5.1} ({least:.1} to {greatest:.1}) MiB  aim {aim:.0} {verdict}  {detail}");
    }

    /// A figure without an aim.
    pub fn plain(&self, name: &str, samples: &[f64], detail: &str) {
        let (middle, least, greatest) = spread(samples);
        println!("  {name:<34} {middle:>5.2} ({least:.2} to {greatest:.2})  {detail}");
    }

    /// A line of explanation.
    pub fn note(&self, text: &str) {
        println!("  {text}");
    }

    fn judge(&mut self, name: &str, met: bool, what: &str) -> &'static str {
        if met {
            self.met += 1;
            "met   "
        } else {
            self.missed.push(format!("{name}: {what}"));
            "MISSED"
        }
    }

    /// Prints what was missed.
    pub fn end(self) {
        println!("\nload       {} after the run, which took {:.0} s", load(), self.begin.monotonic().as_secs_f64());
        println!("aims       {} met, {} missed", self.met, self.missed.len());
        for missed in self.missed {
            println!("           missed: {missed}");
        }
    }
}
