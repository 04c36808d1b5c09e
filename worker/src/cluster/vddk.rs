//! Disks by VMware's VDDK: a child process of nbdkit for each open disk.
//!
//! VMware's library is closed, crashes, and brings libraries of its own that must not meet ours; so it lives in another process, and we
//! speak NBD with that. The child's life is bound to the [`VddkSource`]: it is told to end when that is dropped, killed where it does not,
//! and dies with this process. One source is one connection, and one connection is one session of the host's NFC service.
//!
//! Filters: `cacheextents` alone (a host answers for allocated areas slowly). `retry` is left out, since it lets requests through one by
//! one only (`nbdkit-retry-filter`'s thread model); whoever reads opens the disk anew instead. Nor is `blocksize` needed: no read is larger
//! than a MiB.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use blocklog::{clock::Clock, constant::constant};
use extents::ExtentSet;
use reasons::Reason;
use rustix::process::{Pid, Signal, kill_process};
use source::{
    DiskSource, SourceError,
    nbd::{NbdAddress, NbdSource, NbdTarget},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::{Child, Command},
};
use vsphere::Secret;

/// How long nbdkit may take until it listens. VMware's library is loaded before that, from a volume that may be slow.
const START: Duration = Duration::from_secs(30);
/// How long it may take to end when it is told to.
const END: Duration = Duration::from_secs(5);
/// The pause between two looks for its socket.
const LOOK: Duration = Duration::from_millis(20);
/// How long its words are waited for when it has refused a disk.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Requests that it works on at a time: as many as our client sends.
const THREADS: usize = source::nbd::IN_FLIGHT;
/// Lines of its log that are kept, and characters of each.
const LOG: (usize, usize) = (200, 500);

/// The password comes by descriptor 3: arguments and environment can be read by whoever sees the process. The library's folder is for
/// nbdkit alone, for it brings its own versions of common libraries; set beforehand, so that the plugin need not execute itself again,
/// through a file in /tmp.
const SHELL: &str = r#"LD_LIBRARY_PATH=$1; export LD_LIBRARY_PATH; shift; exec "$@" 3<&0 </dev/null"#;

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub nbdkit: PathBuf,
    /// VMware's library: the folder with `lib64` in it.
    pub libdir: PathBuf,
}

/// A disk of a snapshot, as VDDK knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskAt {
    /// The vCenter's name or address.
    pub server: String,
    /// Its port, where it is not 443.
    pub port: Option<u16>,
    /// Who logs in.
    pub user: String,
    pub password: Secret,
    /// The SHA-1 thumbprint of its certificate, with colons.
    pub thumbprint: String,
    /// The VM's reference.
    pub vm: String,
    /// The snapshot's reference.
    pub snapshot: String,
    /// The disk's file in the snapshot's configuration.
    pub file: String,
}

/// A disk that is open. Its session begins to end when it is dropped.
pub struct VddkSource {
    // Dropped in this order: first goodbye, then the end.
    nbd: NbdSource,
    session: Session,
}

/// The session of a disk: to wait for its end, also when the source is gone already.
#[derive(Clone)]
pub struct Session(Arc<Nbdkit>);

impl Session {
    /// Ends it, and returns when it is over.
    pub async fn end(&self) {
        self.0.end().await;
    }
}

impl Drop for VddkSource {
    fn drop(&mut self) {
        let session = self.session.clone();
        // Without a runtime the child is killed as it is dropped.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { session.end().await });
        }
    }
}

impl VddkSource {
    /// Opens a disk: returns when VMware's library has.
    ///
    /// # Errors
    /// [`SourceError`]. No text of it holds the password.
    pub async fn open(settings: &Settings, at: &DiskAt, clock: Arc<dyn Clock>) -> Result<Self, SourceError> {
        let process = Nbdkit::start(&settings.nbdkit, &plugin(settings, at), &settings.libdir.join("lib64"), &at.password, clock)?;
        Self::over(process).await
    }

    async fn over(process: Nbdkit) -> Result<Self, SourceError> {
        match process.connect().await {
            Ok(nbd) => Ok(Self { nbd, session: Session(Arc::new(process)) }),
            Err(error) => {
                // Whoever tries again must not find the disk held by this one.
                process.end().await;
                Err(error)
            }
        }
    }

    #[must_use]
    pub fn session(&self) -> Session {
        self.session.clone()
    }
}

#[async_trait]
impl DiskSource for VddkSource {
    fn size(&self) -> u64 {
        self.nbd.size()
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, SourceError> {
        // nbdkit's client learns of an error and its number; VMware's words stand in nbdkit's log.
        self.nbd.read(offset, length).await.map_err(|error| match self.session.0.last_error() {
            Some(said) => explained(error, &said),
            None => error,
        })
    }

    async fn zeroes(&self, range: Range<u64>) -> Option<ExtentSet> {
        self.nbd.zeroes(range).await
    }
}

/// The plugin and its parameters.
fn plugin(settings: &Settings, at: &DiskAt) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["-D", "vddk.datapath=0", "--filter=cacheextents", "vddk"].map(OsString::from).into();
    let mut add = |key: &str, value: &OsStr| {
        let mut argument = OsString::from(key);
        argument.push("=");
        argument.push(value);
        arguments.push(argument);
    };
    add("libdir", settings.libdir.as_os_str());
    for (key, value) in [
        ("server", at.server.as_str()),
        ("user", &at.user),
        ("password", "-3"),
        ("thumbprint", &at.thumbprint),
        ("vm", &format!("moref={}", at.vm)),
        ("snapshot", &at.snapshot),
        ("transports", "file:nbdssl:nbd"),
        ("file", &at.file),
    ] {
        add(key, value.as_ref());
    }
    if let Some(port) = at.port {
        add("port", port.to_string().as_ref());
    }
    arguments
}

/// The last lines of a child's stderr, without the password.
#[derive(Default)]
struct Log(Mutex<VecDeque<String>>);

impl Log {
    fn push(&self, line: &str, password: &Secret) {
        let mut line: String = line.chars().take(LOG.1).collect();
        if !password.reveal().is_empty() {
            line = line.replace(password.reveal(), "<password>");
        }
        tracing::trace!(target: "worker::nbdkit", "{line}");
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LOG.0 {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// nbdkit as a child.
struct Nbdkit {
    folder: PathBuf,
    log: Arc<Log>,
    clock: Arc<dyn Clock>,
    /// The child and what goes with it; none once it has ended.
    life: tokio::sync::Mutex<Option<Life>>,
    pid: Option<Pid>,
}

struct Life {
    child: Child,
    listener: tokio::task::JoinHandle<()>,
    folder: TempDir,
}

impl Nbdkit {
    /// Starts it with a socket in a folder of its own. To be called on a thread that stays: the child gets its signal when the thread that
    /// started it ends (PR_SET_PDEATHSIG), not the process. The runtime's workers do; its blocking threads do not.
    fn start(program: &Path, plugin: &[OsString], library: &Path, password: &Secret, clock: Arc<dyn Clock>) -> Result<Self, SourceError> {
        let failed = |what: &str, error: std::io::Error| SourceError::unreachable(format!("{what}: {error}"));
        let private = std::fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("nbdkit-").permissions(private).tempdir();
        let folder = folder.map_err(|error| failed("no folder for nbdkit's socket", error))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SHELL, "sh"]).arg(library).arg(program);
        command.args(["--foreground", "--exit-with-parent", "--readonly", "--newstyle"]);
        command.arg(format!("--threads={THREADS}")).arg("--unix").arg(folder.path().join("s"));
        // VMware's library tells why a login failed, or a certificate was refused, in its log only, which this shows.
        command.args(["--verbose", "-D", "nbdkit.backend.datapath=0", "-D", "nbdkit.backend.controlpath=0"]);
        command.args(plugin);
        command.env_clear().env("TMPDIR", folder.path()).env("HOME", folder.path());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).current_dir("/");
        let mut child = command.spawn().map_err(|error| failed("no nbdkit", error))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let log = Arc::new(Log::default());
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let (secret, lines) = (password.clone(), log.clone());
        // Shorter than a pipe's buffer, so it never waits; a child that has died already gets none.
        tokio::spawn(async move {
            if let Some(mut stdin) = stdin {
                let line = zeroize::Zeroizing::new(format!("{}\n", secret.reveal()));
                let _ = stdin.write_all(line.as_bytes()).await;
            }
        });
        let secret = password.clone();
        let listener = tokio::spawn(async move {
            let Some(stderr) = stderr else { return };
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            while let Ok(1..) = reader.read_until(b'\n', &mut line).await {
                lines.push(String::from_utf8_lossy(&line).trim_end(), &secret);
                line.clear();
            }
        });
        let life = Life { child, listener, folder };
        let folder = life.folder.path().to_owned();
        Ok(Self { folder, log, clock, life: tokio::sync::Mutex::new(Some(life)), pid })
    }

    /// Waits until it listens, and opens its export.
    async fn connect(&self) -> Result<NbdSource, SourceError> {
        let socket = self.folder.join("s");
        let until = self.clock.monotonic() + START;
        let stream = loop {
            if self.has_ended().await {
                return Err(self.why("nbdkit ended before it listened"));
            }
            // Between its socket's bind and listen it answers nobody.
            if let Ok(stream) = UnixStream::connect(&socket).await {
                break stream;
            }
            if self.clock.monotonic() >= until {
                return Err(self.why(&format!("nbdkit did not listen within {} s", START.as_secs())));
            }
            self.clock.sleep(LOOK).await;
        };
        let target = NbdTarget { address: NbdAddress::Unix(socket), export: String::new(), tls: None };
        // Once: each try is a login, and a wrong password locks an account after a few.
        let error = match NbdSource::on(stream, &target).await {
            Ok(nbd) => return Ok(nbd),
            Err(error) => error,
        };
        // What it has said may still be on its way through the pipe, and decides whether another try can help.
        let until = self.clock.monotonic() + LAST_WORDS;
        self.clock.sleep(LOOK * 5).await;
        while self.last_error().is_none() && self.clock.monotonic() < until {
            self.clock.sleep(LOOK).await;
        }
        Err(self.why(&error.to_string()))
    }

    async fn has_ended(&self) -> bool {
        let mut life = self.life.lock().await;
        let Some(life) = life.as_mut() else { return true };
        let ended = !matches!(life.child.try_wait(), Ok(None));
        if ended {
            // All that it said; a grandchild that keeps the pipe open is not waited for.
            let _ = tokio::time::timeout(Duration::from_secs(1), &mut life.listener).await;
        }
        ended
    }

    fn why(&self, otherwise: &str) -> SourceError {
        understand(&self.log.lines(), otherwise)
    }

    fn last_error(&self) -> Option<String> {
        last_error(&self.log.lines())
    }

    /// Tells it to end and waits until it has, whoever told it first.
    async fn end(&self) {
        let mut life = self.life.lock().await;
        if let Some(life) = life.take() {
            end(life, self.pid).await;
        }
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let Some(life) = self.life.get_mut().take() else { return };
        // Without a runtime the child is killed as it is dropped.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(end(life, self.pid));
        }
    }
}

/// SIGTERM, and SIGKILL where that does not help. The folder goes when the child has.
async fn end(mut life: Life, pid: Option<Pid>) {
    // Not waited for yet, so the number is still its own.
    if let Some(pid) = pid
        && matches!(life.child.try_wait(), Ok(None))
    {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(END, life.child.wait()).await.is_err() {
        tracing::debug!("nbdkit does not end: it is killed");
        let _ = life.child.kill().await;
    }
    life.listener.abort();
}

/// The last line of a log that tells an error, without nbdkit's own words around it.
fn last_error(lines: &[String]) -> Option<String> {
    lines.iter().rev().find_map(|line| line.split_once("error: ").map(|(_, said)| constant(said))).filter(|said| !said.is_empty())
}

/// What a host says whose NFC service has no memory for the reads that it is asked for (nbdkit-vddk-plugin(1), "out of memory errors").
const STARVED: [&str; 3] = ["Failed to allocate", "Memory allocation failed", "NFC error 5"];

/// A failed read, by what the log says of it.
fn explained(error: SourceError, said: &str) -> SourceError {
    match error {
        SourceError::Read { offset, length, message } => {
            let message = format!("{message}: {said}");
            if STARVED.iter().any(|words| said.contains(words)) {
                SourceError::Exhausted { offset, length, message }
            } else {
                SourceError::Read { offset, length, message }
            }
        }
        SourceError::Unreachable { reason, message } => SourceError::Unreachable { reason, message: format!("{message}: {said}") },
        error => error,
    }
}

/// What a log says about a disk that does not open. The texts are VDDK's: its error codes' in nbdkit's line, the reasons in its own log.
fn understand(lines: &[String], otherwise: &str) -> SourceError {
    let said = last_error(lines).unwrap_or_else(|| otherwise.to_owned());
    let has = |words: &[&str]| lines.iter().any(|line| words.iter().any(|word| line.contains(word)));
    let refused = |reason, remedy: &str| SourceError::Refused { reason, message: format!("{said}. {remedy}") };
    if has(&["Failed to verify SSL certificate", "SSL_VerifyCert", "thumbprint mismatch"]) {
        return refused(
            Reason::UntrustedCertificate,
            "VDDK saw another certificate than the client of the API: is something between them?",
        );
    }
    if has(&["incorrect user name or password", "InvalidLogin"]) {
        return refused(Reason::WrongCredentials, "Correct the user or the password in the Secret");
    }
    if has(&["Insufficient permissions", "You do not have access rights to this file", "NoPermission"]) {
        return refused(
            Reason::PrivilegesMissing,
            "Give the vCenter user the privilege VirtualMachine.Provisioning.GetVmFiles and DiskRandomRead on this VM",
        );
    }
    if has(&["not licensed for this feature"]) {
        return refused(Reason::SourceRefused, "The host's licence has no storage APIs: a free ESXi can't be replicated");
    }
    if has(&["cannot open shared object", "libvixDiskLib", "vddk: cannot", "could not be found", "cannot open plugin", "not found"])
        && !has(&["VixDiskLib_"])
    {
        return refused(Reason::DiskLibraryMissing, "Mount VMware's VDDK, whose lib64 holds libvixDiskLib.so, where the appliance says");
    }
    // 14009: the host's NFC service has no session, or no memory, for another disk.
    if has(&["The server refused connection", "Failed to allocate", "limit of open files"]) {
        return SourceError::Busy(format!("{said}. Others read as many disks of this host as it serves; it is waited for"));
    }
    if has(&["The file is already in use"]) {
        return SourceError::Busy(format!("{said}. Something holds the disk open; it is waited for"));
    }
    SourceError::unreachable(said)
}

#[cfg(test)]
#[path = "vddk_tests.rs"]
mod tests;
