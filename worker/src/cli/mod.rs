//! The command line.

mod key;
mod log;
mod output;

use std::{future::Future, io::IsTerminal, os::unix::process::CommandExt, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use blocklog::ids::DiskKey;
use clap::{Args, Parser, Subcommand};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use self::output::Output;
use crate::{
    cluster,
    failure::{Failure, Kind},
    local::{self, Inspector, Local, Options, file::CycleFile},
};

/// How long leases may take to be given back when the process is stopped.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// What a pod logs where RUST_LOG does not say: not each request of the clients.
const PODS: &str = "info,kube=warn,azure_core=warn,azure_identity=warn,typespec_client_core=warn";

/// How long the last read or write of a process that ends is waited for.
const LAST: Duration = Duration::from_secs(2);

const FILE: &str = "\
THE FILE (YAML; relative paths are relative to its folder; sizes in bytes):

  owner: {cluster: demo, object: default/vm1}   # default: local, and the file's name without its ending
  vm: {vcenter: <uuid>, instance: <uuid>}       # default: made from the owner
  mode: changed                                 # or full: every block is compared with its fingerprint
  snapshot: {id: nightly-7}                     # a name of the frozen images; the next run's `since`
  disks:
  - key: 2000
    source: {file: vm1.raw}                     # or {nbd: 'nbd+unix:///?socket=s'}, with TLS {nbd: .., tls: {caFile: ..}}
    changed:                                    # what changed since the last cycle; without it the disk is compared in full
      areas: [[0, 4096]]                        # start and length; or areasFile: PATH (JSON, or a line `start length` each);
      since: nightly-6                          # or compareWith: PATH, the image as the last cycle saw it
    replica: {file: /replicas/vm1.raw}          # or {pageBlob: {url: .., accountKeyFile: .. or sasFile: ..}}, {sas: {urlFile: ..}}
  logStore: {directory: log}                    # or {azure: {accountUrl: .., container: .., sasFile: .. or accountKeyFile: ..}}
  key: {file: key}                              # `worker key new` makes it
  segmentBytes: 6291456                         # these four are optional
  memoryBytes: 16777216                         # of blocks, a disk
  bitsPerSecond: 100000000
  cpus: 2

Nobody may write the images while a cycle runs: a change is noticed, and the cycle begins anew or ends with SnapshotLost. A list of changed
areas is believed, so `since` has to stand with it: where the replica is not at that change ID (an earlier run failed), the disk is compared in
full instead.
A change ID is the snapshot's id, or local/<cycle> where none is given.";

/// Replicates disks into an encrypted log and from it into replica disks.
#[derive(Parser)]
#[command(name = "worker", version, after_help = "`worker help` or --help shows the exit codes.", after_long_help = exit_codes())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one cycle from a file, or finish an interrupted one.
    #[command(after_long_help = format!("{FILE}\n\n{}", exit_codes()))]
    Cycle(CycleArgs),
    /// Compare every replica with its source, byte by byte; exit 0 only if they are equal.
    Verify(FileArgs),
    /// Look into a log store.
    Log {
        #[command(subcommand)]
        command: LogCommand,
    },
    /// Look at a replica's ledger, and mend it.
    Ledger {
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// Make keys.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// In a cluster: run the cycles whose `spec.worker` is this pod. SIGTERM hands them over.
    Gateway {
        /// Its file; docs/worker-pods.md lists the fields.
        #[arg(long)]
        config: PathBuf,
        /// The pod's name.
        #[arg(long, env = "POD_NAME")]
        pod: String,
    },
    /// Carry out the orders that lie in the log store, in a cluster or anywhere. SIGTERM hands them over.
    Applier {
        /// Its file; docs/worker-pods.md lists the fields.
        #[arg(long)]
        config: PathBuf,
    },
}

#[derive(Args)]
struct FileArgs {
    /// The cycle's file.
    file: PathBuf,
    /// Write JSON lines to stdout, also on a terminal.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct CycleArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Take the replica over from another owner. Nobody else may work on it any more.
    #[arg(long)]
    take_over: bool,
    /// Write log and replicas no faster than this, together.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(8..))]
    bits_per_second: Option<u64>,
}

#[derive(Subcommand)]
enum LogCommand {
    /// VMs, incarnations, cycles and segments: counts and bytes.
    Ls {
        #[command(flatten)]
        file: FileArgs,
        /// Only this VM: `<vCenter uuid>/<VM instance uuid>`.
        #[arg(long)]
        vm: Option<String>,
    },
    /// One blob: a document as JSON, a segment as a table of its records.
    Show {
        /// The cycle's file.
        file: PathBuf,
        /// The blob's name, from v1/ on.
        blob: String,
    },
    /// Read and check every blob; a line for each that is damaged.
    Verify(FileArgs),
}

#[derive(Subcommand)]
enum LedgerCommand {
    /// The ledger as JSON.
    Show {
        /// The cycle's file.
        file: PathBuf,
    },
    /// Go on without a disk's fingerprints, which can't be read any more. The next comparison in full sends the disk whole.
    ForgetFingerprints {
        /// The cycle's file.
        file: PathBuf,
        /// The disk's key.
        disk: u32,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key file with one new key. A file that exists is left alone.
    New {
        /// The key file.
        file: PathBuf,
    },
    /// Add the next version to a key file. It is used from then on; the older ones stay for what they have written.
    Add {
        /// The key file.
        file: PathBuf,
    },
}

fn exit_codes() -> String {
    let lines = Kind::ALL.iter().map(|kind| format!("\n  {:<4} {:<18} {}", kind.exit(), kind.word(), kind.meaning()));
    format!("EXIT CODES:\n  0    it is done{}", lines.collect::<String>())
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let usual = if cli.command.stays() { PODS } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    // A second one, set by nobody here, would be in order too.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    let json = cli.command.json();
    match trust(&cli.command).and_then(|()| runtime()).and_then(|runtime| {
        let result = runtime.block_on(run(cli.command));
        // A read or write that was abandoned may still run; it can't be stopped, and nothing of ours waits for it.
        runtime.shutdown_timeout(LAST);
        result
    }) {
        Ok(code) => code,
        Err(failure) => {
            if json {
                output::line(&failure.json());
            }
            output::complain(&failure.to_string());
            ExitCode::from(failure.kind.exit())
        }
    }
}

/// Starts this program anew where its file names other authorities than it trusts. Returns where there is nothing to change.
fn trust(command: &Command) -> Result<(), Failure> {
    let again = match command {
        Command::Gateway { config, .. } => cluster::trusting_gateway(config)?,
        Command::Applier { config } => cluster::trusting_applier(config)?,
        Command::Cycle(_) | Command::Verify(_) | Command::Log { .. } | Command::Ledger { .. } | Command::Key { .. } => None,
    };
    match again {
        None => Ok(()),
        Some(mut again) => {
            let error = again.exec();
            Err(Failure::new(Kind::Other, format!("this program can't be started anew: {error}"), "Set SSL_CERT_FILE to caFile yourself."))
        }
    }
}

/// One or two threads wait; what computes has threads of its own.
fn runtime() -> Result<Runtime, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.map_err(|error| Failure::new(Kind::Other, format!("no threads: {error}"), "Allow this process more threads."))
}

impl Command {
    fn json(&self) -> bool {
        match self {
            Self::Cycle(CycleArgs { file, .. }) | Self::Verify(file) => {
                file.json || !(std::io::stdout().is_terminal() && std::io::stderr().is_terminal())
            }
            Self::Log { command: LogCommand::Ls { file, .. } | LogCommand::Verify(file) } => file.json,
            Self::Log { .. } | Self::Ledger { .. } | Self::Key { .. } | Self::Gateway { .. } | Self::Applier { .. } => false,
        }
    }

    /// True where it runs until it is told to stop.
    fn stays(&self) -> bool {
        matches!(self, Self::Gateway { .. } | Self::Applier { .. })
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    let json = command.json();
    let mut stop = Stop::new()?;
    match command {
        Command::Cycle(args) => cycle(args, json, &mut stop).await,
        Command::Verify(args) => {
            let file = CycleFile::read(&args.file)?;
            let output = Output::new(json);
            let checked = stop.or(local::verify(&file, output.as_ref())).await;
            output.end();
            output.checked(&checked?)
        }
        Command::Log { command } => stop.or(log::run(command)).await,
        Command::Ledger { command: LedgerCommand::Show { file } } => {
            let inspector = Inspector::open(&CycleFile::read(&file)?).await?;
            output::line(&inspector.ledger().await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Ledger { command: LedgerCommand::ForgetFingerprints { file, disk } } => {
            let (file, output) = (CycleFile::read(&file)?, Output::new(json));
            stop.or(local::forget_fingerprints(&file, DiskKey(disk), output.as_ref())).await?;
            output.end();
            output::say(&format!("disk {disk}: its fingerprints are forgotten; the next comparison in full sends the disk whole"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Key { command } => key::run(&command),
        // Told to stop, they end well: nothing is lost.
        Command::Gateway { config, pod } => cluster::gateway::run(&config, &pod, stop.told()).await.map(|()| ExitCode::SUCCESS),
        Command::Applier { config } => cluster::applier::run(&config, stop.told()).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn cycle(args: CycleArgs, json: bool, stop: &mut Stop) -> Result<ExitCode, Failure> {
    let file = CycleFile::read(&args.file.file)?;
    let output = Output::new(json);
    let options = Options { take_over: args.take_over, bits_per_second: args.bits_per_second };
    let local = stop.or(Local::open(file, options, Arc::clone(&output) as _)).await?;
    let result = stop.or(local.run()).await;
    if result.is_err() {
        // Whoever comes next need not wait for leases to run out. A store that does not answer is not waited for.
        let _ = tokio::time::timeout(GIVE_BACK, local.give_back()).await;
    }
    output.end();
    output.result(&result?);
    Ok(ExitCode::SUCCESS)
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::new(Kind::Other, format!("no signals: {error}"), "Report this."));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Returns when the process is to stop.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// The result of `work`, unless the process is to stop before: then `work` is dropped where it stands.
    async fn or<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let stopped =
            |kind: Kind| Failure::new(kind, "stopped by a signal; nothing is lost", "Run again: it goes on where it was stopped.");
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Err(stopped(Kind::Interrupted)),
            _ = self.terminate.recv() => Err(stopped(Kind::Terminated)),
            result = work => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_shows_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for kind in Kind::ALL {
            assert!(help.contains(&format!("{:<4} {}", kind.exit(), kind.word())), "{kind:?}");
        }
    }

    /// What the help shows as a file is one.
    #[test]
    fn the_file_of_the_help_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm1.yaml");
        let text = FILE.split_once("\n\n").unwrap().1.split_once("\n\nNobody").unwrap().0;
        std::fs::write(&path, text.replace("<uuid>", "11111111-1111-4111-8111-111111111111")).unwrap();
        let file = CycleFile::read(&path).unwrap();
        assert_eq!((file.disks.len(), file.snapshot.as_deref()), (1, Some("nightly-7")));
    }

    #[test]
    fn the_reference_shows_every_exit_code() {
        let text = include_str!("../../../docs/worker-cycle.md");
        for kind in Kind::ALL {
            let row = format!("| {} | `{}` | {} |", kind.exit(), kind.word(), kind.meaning());
            assert!(text.contains(&row), "{row}");
        }
    }
}
