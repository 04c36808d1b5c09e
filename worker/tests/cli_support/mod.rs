//! What the tests of the command line share: a folder with images, a cycle's file, and the real binary.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::disallowed_methods, reason = "a process is timed by the real clock")]

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

pub const MIB: usize = 1 << 20;

/// A folder with everything that a cycle needs.
pub struct Bench {
    folder: tempfile::TempDir,
    /// Lines that are put in front of the file.
    pub head: String,
    /// The `changed` of disk 2000.
    pub changed: Option<String>,
    /// Where the log lies.
    pub store: String,
}

/// A run of the binary that has ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub lines: Vec<Value>,
    pub stderr: String,
    pub took: Duration,
}

/// A run that has not ended.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    lines: Vec<Value>,
    begun: Instant,
}

impl Bench {
    /// With a key and an image of `size` bytes: data, zeroes, and data that packs well.
    pub fn new(size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bench = Self { folder, head: String::new(), changed: None, store: "{directory: log}".to_owned() };
        let made = bench.run(&["key", "new", bench.path("key").to_str().unwrap()]);
        assert_eq!(made.code, Some(0), "{made:?}");
        fs::write(bench.path("a.raw"), content(size)).unwrap();
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the file and gives its path.
    pub fn file(&self) -> PathBuf {
        let changed = self.changed.as_ref().map(|changed| format!("  changed: {changed}\n")).unwrap_or_default();
        let disk = format!("- key: 2000\n  source: {{file: a.raw}}\n{changed}  replica: {{file: r.raw}}\n");
        self.write_file("vm1.yaml", &disk)
    }

    /// Writes a file with these disks.
    pub fn write_file(&self, name: &str, disks: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("{}disks:\n{disks}logStore: {}\nkey: {{file: key}}\n", self.head, self.store)).unwrap();
        path
    }

    pub fn run(&self, args: &[&str]) -> Run {
        Running::start(args).wait()
    }

    pub fn cycle(&self) -> Run {
        self.run(&["cycle", self.file().to_str().unwrap()])
    }

    pub fn verify(&self) -> Run {
        self.run(&["verify", self.file().to_str().unwrap()])
    }

    /// A cycle that has to succeed, after which the replica is the image.
    pub fn good_cycle(&self) -> Run {
        let run = self.cycle();
        assert_eq!(run.code, Some(0), "{run:?}");
        self.assert_equal("a.raw", "r.raw");
        run
    }

    pub fn assert_equal(&self, one: &str, other: &str) {
        let (one, other) = (fs::read(self.path(one)).unwrap(), fs::read(self.path(other)).unwrap());
        assert_eq!(one.len(), other.len());
        let differs = one.iter().zip(&other).position(|(one, other)| one != other);
        assert_eq!(differs, None, "the first byte that differs");
    }

    /// Writes into the image.
    pub fn patch(&self, offset: usize, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path("a.raw")).unwrap();
        file.write_all_at(bytes, offset as u64).unwrap();
    }

    /// The names of the store's blobs that contain `part`.
    pub fn blobs(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path("log")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.strip_prefix(self.path("log/v1")).is_ok_and(|name| name.to_str().unwrap().contains(part)) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// Flips a bit in the middle of the only blob whose name contains `part`, and gives the blob's name.
    pub fn flip(&self, part: &str) -> String {
        let blobs = self.blobs(part);
        let path = blobs.first().unwrap_or_else(|| panic!("there is no {part}"));
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(path, bytes).unwrap();
        path.strip_prefix(self.path("log")).unwrap().to_str().unwrap().to_owned()
    }

    /// Runs a cycle whose log is complete and not applied: another process takes the replica between the halves.
    pub fn send_only(&mut self) -> Run {
        let head = std::mem::take(&mut self.head);
        // So slow that the replica is taken before the applier gets to it.
        self.head = format!("{head}bitsPerSecond: 20000000\n");
        let mut running = Running::start(&["cycle", self.file().to_str().unwrap()]);
        running.until("reading");
        let replica = File::options().read(true).write(true).open(self.path("r.raw")).unwrap();
        replica.lock().unwrap();
        let run = running.wait();
        self.head = head;
        drop(replica);
        run
    }
}

/// A megabyte each of noise, zeroes, text, by turns; the same for the same size.
pub fn content(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let room = MIB.min(size - bytes.len());
        match bytes.len() / MIB % 3 {
            0 => bytes.extend((0..room).map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })),
            1 => bytes.extend(std::iter::repeat_n(0, room)),
            n => bytes.extend(format!("{n} bottles of beer on the wall, ").bytes().cycle().take(room)),
        }
    }
    bytes
}

impl Running {
    pub fn start(args: &[&str]) -> Self {
        let begun = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_worker"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout, lines: Vec::new(), begun }
    }

    /// Reads on until an event of this name.
    pub fn until(&mut self, event: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "it ended before {event}: {:?}", self.lines);
            let value: Value = serde_json::from_str(&line).unwrap();
            self.lines.push(value.clone());
            if value["event"] == event {
                return value;
            }
        }
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub fn wait(mut self) -> Run {
        let mut stderr = self.child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        // Commands for people write something else.
        self.lines.extend(rest.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())));
        let code = self.child.wait().unwrap().code();
        Run { code, lines: self.lines, stderr: errors.join().unwrap(), took: self.begun.elapsed() }
    }
}

impl Run {
    /// The last line.
    pub fn last(&self) -> &Value {
        self.lines.last().unwrap_or(&Value::Null)
    }

    /// All events of a name.
    pub fn events(&self, name: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["event"] == name).collect()
    }

    /// One disk of the result.
    pub fn disk(&self, n: usize) -> &Value {
        let result = self.last();
        assert_eq!(result["event"], "result", "{self:?}");
        &result["disks"][n]
    }

    /// Everything that was written.
    pub fn text(&self) -> String {
        let lines: Vec<String> = self.lines.iter().map(|line| line.as_str().map_or_else(|| line.to_string(), str::to_owned)).collect();
        format!("{}\n{}", lines.join("\n"), self.stderr)
    }

    /// It failed in this way: by exit code, by the last line of JSON, and in two sentences.
    pub fn assert_failed(&self, code: i32, error: &str, message: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let last = self.last();
        assert_eq!((&last["error"], &last["exit"]), (&error.into(), &code.into()), "{self:?}");
        assert!(last["message"].as_str().is_some_and(|said| said.contains(message)), "{message:?} is not in {last}");
        assert!(last["remedy"].as_str().is_some_and(|remedy| remedy.ends_with('.')), "{last}");
        let reason = last["reason"].as_str().unwrap();
        let expected = format!("error ({reason}): {}\nremedy: {}\n", last["message"].as_str().unwrap(), last["remedy"].as_str().unwrap());
        assert!(self.stderr.ends_with(&expected), "{self:?}");
    }
}

/// A small file system in memory.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn mount(path: &Path, bytes: usize) -> Self {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(path).status();
        assert!(mounted.is_ok_and(|status| status.success()), "a tmpfs can't be mounted: run the tests as root, with mount(8) installed");
        Self(path.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: something may still have a file open, and the folder has to go.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
