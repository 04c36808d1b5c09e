//! Other programs: servers, what is measured against, and this program again.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use blocklog::clock::{Clock, SystemClock};

use crate::child::{Outcome, Task};

/// Whether a program is on the path.
pub fn is_there(tool: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()))
}

/// The first line that a program says of itself.
pub fn version(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output();
    output
        .ok()
        .and_then(|output| String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Measures a task in a process of its own, on the given cores (as `taskset` names them) or on all.
pub fn measure(task: &Task, cores: Option<&str>) -> Outcome {
    let this = std::env::current_exe().unwrap();
    let mut command = match cores {
        Some(cores) => {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", cores]).arg(this);
            command
        }
        None => Command::new(this),
    };
    let output = command.arg("--task").arg(serde_json::to_string(task).unwrap()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{task:?} ended with {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// How long something takes, in seconds.
pub fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    let result = work();
    ((clock.monotonic() - begin).as_secs_f64(), result)
}

/// Runs a program to its end and gives the seconds that it took.
pub fn run(program: &str, arguments: &[&str]) -> f64 {
    let (seconds, status) = timed(|| Command::new(program).args(arguments).stdout(Stdio::null()).status().unwrap());
    assert!(status.success(), "{program} {arguments:?} ended with {status}");
    seconds
}

/// nbdkit, serving a file on a unix socket until it is dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts it. `before` goes in front of the plugin's name, `after` behind the file.
    pub fn start(socket: &Path, file: &Path, before: &[&str], after: &[&str]) -> Self {
        // nbdkit writes it when it listens.
        let ready = socket.with_extension("pid");
        for old in [socket, &ready] {
            let _ = std::fs::remove_file(old);
        }
        let child = Command::new("nbdkit")
            .args(["--foreground", "--exit-with-parent", "--readonly", "--unix"])
            .arg(socket)
            .arg("--pidfile")
            .arg(&ready)
            .args(before)
            .arg("file")
            .arg(file)
            .args(after)
            .spawn()
            .unwrap();
        let server = Self { child, socket: socket.to_owned() };
        for _ in 0..1000 {
            if ready.exists() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nbdkit does not listen at {} after ten seconds", socket.display());
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// As libnbd and qemu name it.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
