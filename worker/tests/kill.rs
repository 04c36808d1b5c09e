//! `kill -9` of the real worker at random moments, in the gateway's half and in the applier's. Run again, it finishes, and the replica is equal.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use blocklog::{cycle::State, document, ids::DiskCycle, keys::KeyRing, names};

const DISK: u64 = 24 << 20;
const SEGMENT: u64 = 1 << 20;
const KILLS: u64 = 20;

/// Slow enough that a moment can be hit: 12 MiB take about 0.7 s in each half.
const BITS_PER_SECOND: u64 = 16 << 23;

/// Steele, Lea and Flood's SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

struct Setting {
    folder: tempfile::TempDir,
    random: Random,
}

impl Setting {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Half of the disk's blocks get new bytes that do not compress.
    fn change(&mut self) {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(self.path("disk.img")).unwrap();
        file.set_len(DISK).unwrap();
        for block in 0..DISK >> 20 {
            if self.random.below(2) == 0 {
                let bytes: Vec<u8> = (0..1 << 17).flat_map(|_| self.random.next().to_le_bytes()).collect();
                file.write_all_at(&bytes, block << 20).unwrap();
            }
        }
    }

    fn worker(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_worker"))
            .args(["cycle", "--json"])
            .arg(self.path("disk.yaml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs the worker until it has said `event` and `delay` has passed, then kills it. False where it ended before.
    fn kill_after(&self, event: &str, delay: Duration) -> bool {
        let mut child = self.worker();
        let wanted = format!("\"event\":\"{event}\"");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = lines.by_ref().map_while(Result::ok).any(|line| line.contains(&wanted));
        assert!(seen, "the worker ended without saying {event}");
        std::thread::sleep(delay);
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        running
    }

    /// Lets the minute of the dead worker's leases pass, by moving their end: twenty real ones are not worth waiting for.
    fn leases_run_out(&self) {
        for (path, _) in files(&self.path("log").join(".leases")) {
            let mut lease: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert!(lease["until"].is_number(), "a lease has an end: {lease}");
            lease["until"] = 1.into();
            fs::write(&path, serde_json::to_vec(&lease).unwrap()).unwrap();
        }
    }

    fn finish(&self) {
        self.leases_run_out();
        let output = self.worker().wait_with_output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "run again, it fails: {out}\n{err}");
    }

    /// Bytes in the log store that a successor will send again: segments, whole or in part, that no state names.
    /// And bytes that are named.
    fn unnamed_bytes(&self) -> (u64, u64) {
        let keys = KeyRing::parse(&fs::read_to_string(self.path("hawser.key")).unwrap()).unwrap();
        let root = self.path("log");
        let files = files(&root);
        let mut named = BTreeSet::new();
        // The store's own folders begin with a dot.
        let hidden = |path: &Path| path.strip_prefix(&root).is_ok_and(|path| path.to_string_lossy().starts_with('.'));
        for (path, _) in files.iter().filter(|(path, _)| path.ends_with("state") && !hidden(path)) {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            let state: State = document::decode(&keys, name, &fs::read(path).unwrap()).unwrap();
            for (disk, progress) in &state.disks {
                let of = DiskCycle { of: state.of, disk: *disk };
                let segments = progress.runs.iter().flat_map(|run| (0..run.durable).map(|n| names::segment(of, run.epoch, n)));
                named.extend(segments.map(|name| root.join(name)));
            }
            // A cycle whose manifest stands sends nothing again.
            if root.join(names::manifest(state.of)).exists() {
                let folder = root.join(names::cycle(state.of));
                named.extend(files.iter().map(|(path, _)| path.clone()).filter(|path| path.starts_with(&folder)));
            }
        }
        let segment = |path: &Path| path.to_str().is_some_and(|path| path.contains(".seg") && !path.contains("/.leases"));
        let (kept, again): (Vec<_>, Vec<_>) = files.iter().filter(|(path, _)| segment(path)).partition(|(path, _)| named.contains(path));
        let sum = |files: Vec<&(PathBuf, u64)>| files.iter().map(|(_, size)| size).sum();
        (sum(again), sum(kept))
    }
}

fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let entries = entries.flatten().flat_map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => files(&entry.path()),
        Ok(metadata) => vec![(entry.path(), metadata.len())],
        Err(_) => Vec::new(),
    });
    entries.collect()
}

#[test]
fn a_cycle_killed_at_twenty_moments_ends_in_an_equal_replica() {
    let mut setting = Setting { folder: tempfile::tempdir().unwrap(), random: Random(11) };
    assert!(Command::new(env!("CARGO_BIN_EXE_worker")).args(["key", "new"]).arg(setting.path("hawser.key")).status().unwrap().success());
    let file = format!(
        "mode: full\ndisks:\n- {{key: 2000, source: {{file: disk.img}}, replica: {{file: replica.img}}}}\nlogStore: {{directory: log}}\n\
         key: {{file: hawser.key}}\nsegmentBytes: {SEGMENT}\nmemoryBytes: {}\nbitsPerSecond: {BITS_PER_SECOND}\n",
        16 << 20
    );
    fs::write(setting.path("disk.yaml"), file).unwrap();
    let (mut killed, mut most) = (0, 0);
    for n in 0..KILLS {
        setting.change();
        let half = if n % 2 == 0 { "reading" } else { "applying" };
        let delay = Duration::from_millis(setting.random.below(600));
        if !setting.kill_after(half, delay) {
            println!("{n}: {half} + {delay:?}: it had ended");
            continue;
        }
        killed += 1;
        let (again, kept) = setting.unnamed_bytes();
        most = most.max(again);
        let mib = |bytes| bytes as f64 / 1_048_576.0;
        println!("{n}: killed at {half} + {delay:?}; of {:.1} MiB in the log {:.2} MiB are sent again", mib(kept + again), mib(again));
        // The part that was being filled is not in the store yet: what is there is a segment that was not noted, and one that was begun.
        assert!(again <= 2 * SEGMENT + (64 << 10), "{again} bytes are sent again: more than two segments");
        setting.finish();
        assert!(fs::read(setting.path("disk.img")).unwrap() == fs::read(setting.path("replica.img")).unwrap(), "{n}: the replica differs");
    }
    println!(
        "{killed} of {KILLS} killed while running; at most {:.2} MiB sent again, two segments of 1 MiB are the bound",
        most as f64 / 1_048_576.0
    );
    assert!(killed >= KILLS * 3 / 4, "too few were hit while running");
}
