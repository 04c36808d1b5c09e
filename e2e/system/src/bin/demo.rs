//! The whole of Hawser before your eyes: it is installed into the sandbox by its chart, and replicates a VM with three disks, while the guest
//! writes: an initial cycle and two deltas, each compared with its snapshot by SHA-256.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use crds::{ReplicationCycle, replication_cycle::CyclePhase};
use serde_json::json;
use system::{
    Result,
    fate::Fate,
    install,
    oracle::Hashes,
    vm::{Judged, Replica, World, phase, snapshot},
    wait,
};

/// The VM: its first disk is sparse, its second gets a filesystem, its third is empty.
const VM: &str = "web-1";
const SPARSE: i64 = 2000;
const FILES: i64 = 2001;
const EMPTY: i64 = 2002;
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match demo().await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\ndemo: {why}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn say(what: &str) {
    println!("\n{what}");
}

async fn demo() -> Result<()> {
    let began = wait::now();
    let world = World::open().await?;
    say("Hawser is being installed: namespace, Secrets, VMware's library in a volume, the chart");
    again(&world).await?;
    install::all(&world.sandbox).await?;
    print!("{}", world.sandbox.kubectl(&["get", "appliances,pods", "--namespace", install::NAMESPACE]).await?);

    say("A VM with three disks: one sparse, one with a filesystem full of this machine's files, one empty");
    let image = filesystem(&world).await?;
    println!("{image}");

    // As at a real host. While a snapshot stands, what each of its disks holds is hashed, to be held against the seeds.
    let vm = world.vcenter.vm(VM).await?.mo_ref;
    let removal = json!({ "on": "task", "object": vm, "method": "RemoveSnapshot_Task", "delayMs": 3000 });
    let removal = Fate::vcenter(&world, removal).await?;

    say("It is replicated");
    let replica = Replica::apply(&world, VM, "").await?;
    // The first delta follows the initial cycle at once, so the guest writes while that one runs: to the disk that it does not write to, for else the delta
    // would wait for up to a minute, as the next one does (docs/decisions/0004-time-fence.md).
    let (initial, ()) = futures::try_join!(cycle(&replica, 1), writes_beside(&replica))?;
    let mut table = vec![initial, cycle(&replica, 2).await?];
    println!("  the guest writes 3 MiB into files, and 64 KiB here and there of the sparse disk; a delta is asked for");
    writes(&world).await?;
    replica.sync_now("demo").await?;
    table.push(cycle(&replica, 3).await?);
    replica.succeeded(3, PATIENCE).await?;
    removal.mend().await?;

    say("What came of it");
    println!(
        "{:>5}  {:<7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>7}  verified",
        "cycle", "kind", "changed", "read", "uploaded", "applied", "seconds"
    );
    for row in &table {
        println!("{}", row.line());
    }
    let equal = table.last().map_or(0, |row| row.judged.equal);
    let left = world.vcenter.snapshots(VM).await?.len();
    let differs: Vec<&String> = table.iter().flat_map(|row| &row.judged.differs).collect();
    if !differs.is_empty() || table.iter().any(|row| row.judged.equal != 3) || left != 0 {
        return Err(format!("the replica is not the VM: {differs:?}; {left} snapshots are left"));
    }
    say("The sandbox stands. What to try next:");
    println!("  export KUBECONFIG={}", world.sandbox.get("KUBECONFIG"));
    println!("  export PATH={}:$PATH", world.sandbox.root.join(".cache/sandbox-bin").display());
    for (command, what) in [
        ("kubectl -n hawser get hawser", "everything of ours"),
        ("kubectl -n hawser describe replicatedvm web-1", "its conditions and events"),
        ("kubectl -n hawser patch replicatedvm web-1 --type merge -p '{\"spec\":{\"syncNow\":\"again\"}}'", "another delta now"),
        ("kubectl -n hawser delete replicatedvm web-1", "stop, and leave nothing behind"),
        ("make sandbox-down", "the end"),
    ] {
        println!("  {command}    # {what}");
    }
    println!("demo ok: cycles={} disks=3 equal={equal} snapshots_left={left} seconds={}", table.len(), began.elapsed().as_secs());
    Ok(())
}

/// A replica that an earlier run has left goes first, so that each run shows the same.
async fn again(world: &World) -> Result<()> {
    let gone = ["delete", "replicatedvm", VM, "--namespace", install::NAMESPACE, "--ignore-not-found", "--timeout=120s"];
    match world.sandbox.kubectl(&gone).await {
        Err(why) if !why.contains("the server doesn't have a resource type") => Err(why),
        _ => Ok(()),
    }
}

/// An ext4 filesystem with files of this machine, written by the guest to its second disk.
async fn filesystem(world: &World) -> Result<String> {
    let told = world.sandbox.run("scripts/demo/filesystem.sh", &["96"], None).await?;
    let (path, what) = told.trim().split_once('\n').ok_or("the filesystem's script says nothing")?;
    let image = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    std::fs::remove_file(path).map_err(|error| format!("{path}: {error}"))?;
    let mut zeroes = 0;
    for (n, chunk) in image.chunks(4 << 20).enumerate() {
        if chunk.iter().all(|byte| *byte == 0) {
            zeroes += 1;
            continue;
        }
        world.vcenter.write_bytes(VM, FILES, n as u64 * (4 << 20), chunk.to_vec()).await?;
    }
    Ok(format!("{what}; {zeroes} of {} pieces of 4 MiB are all zero, and not written", image.len() / (4 << 20)))
}

/// What the guest does while the first cycle runs, of which that must not show.
async fn writes_beside(replica: &Replica) -> Result<()> {
    wait::until("the first snapshot is taken", PATIENCE, async || {
        let cycles = replica.cycles().await?;
        cycles.first().and_then(snapshot).map(drop).ok_or_else(|| "none yet".to_owned())
    })
    .await?;
    // On a terminal it stands in the line that shows the cycle's progress, and that is written again.
    let begin = if std::io::stdout().is_terminal() { "\r\x1b[2K" } else { "" };
    println!("{begin}  its snapshot stands; the guest writes 1 MiB to the empty disk");
    replica.world.vcenter.write(VM, EMPTY, 17 * MIB, MIB, 99).await
}

/// What the guest does before the third cycle.
async fn writes(world: &World) -> Result<()> {
    world.vcenter.write(VM, FILES, 60 * MIB, 3 * MIB, 91).await?;
    for n in 0..8 {
        world.vcenter.write(VM, SPARSE, (7 + 29 * n) * MIB, 64 << 10, 92 + n).await?;
    }
    Ok(())
}

/// A row of the table.
struct Row {
    cycle: ReplicationCycle,
    judged: Judged,
}

impl Row {
    fn line(&self) -> String {
        let status = self.cycle.status.clone().unwrap_or_default();
        let (source, target) = (status.source.unwrap_or_default(), status.target.unwrap_or_default());
        let seconds = self.cycle.metadata.creation_timestamp.as_ref().zip(target.ended.as_ref());
        let seconds = seconds.map_or(0, |(from, to)| to.0.duration_since(from.0).as_secs());
        let verified = target.disks.iter().filter(|disk| disk.verified).count();
        format!(
            "{:>5}  {:<7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>7}  {verified} of {} by the log, {} equal to the snapshot",
            self.cycle.spec.cycle,
            format!("{:?}", self.cycle.spec.kind),
            size(source.changed_bytes),
            size(source.read_bytes),
            size(source.uploaded_bytes),
            size(target.written_bytes),
            seconds,
            target.disks.len(),
            self.judged.equal,
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn size(bytes: Option<i64>) -> String {
    match bytes {
        None => "?".to_owned(),
        Some(0) => "0".to_owned(),
        Some(bytes) if bytes < 1 << 20 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        Some(bytes) => format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64),
    }
}

/// Shows a cycle until its replica is whole, and compares that with the snapshot.
async fn cycle(replica: &Replica, number: usize) -> Result<Row> {
    let live = std::io::stdout().is_terminal();
    let mut shown = String::new();
    let over = wait::until(&format!("cycle {number} is over"), PATIENCE, async || {
        let cycles = replica.cycles().await?;
        let Some(cycle) = cycles.get(number - 1) else { return Err(replica.story().await?) };
        let line = progress(cycle);
        if line != shown {
            if live {
                print!("\r\x1b[2K{line}");
            } else {
                println!("{line}");
            }
            let _ = std::io::stdout().flush();
            shown = line;
        }
        match phase(cycle) {
            Some(CyclePhase::Succeeded) => Ok(Ok(cycle.clone())),
            Some(CyclePhase::Failed | CyclePhase::Cancelled) => Ok(Err(replica.story().await?)),
            _ => Err(replica.story().await?),
        }
    })
    .await??;
    if live {
        println!();
    }
    let (name, _) = snapshot(&over).ok_or("the cycle names no snapshot")?;
    let hashes: Hashes = replica.oracle.of(&name).ok_or_else(|| format!("the snapshot {name} was gone before anybody looked at it"))?;
    let judged = replica.judge(&hashes).await?;
    Ok(Row { cycle: over, judged })
}

fn progress(cycle: &ReplicationCycle) -> String {
    let status = cycle.status.clone().unwrap_or_default();
    let name = cycle.metadata.name.clone().unwrap_or_default();
    let source = status.source.unwrap_or_default();
    let percent = source.progress.as_ref().map_or(0, |progress| progress.percent);
    let phase = status.phase.map_or_else(|| "Pending".to_owned(), |phase| format!("{phase:?}"));
    let (read, changed, uploaded) = (size(source.read_bytes), size(source.changed_bytes), size(source.uploaded_bytes));
    format!("  {name}  {phase:<9}  {percent:>3} %  read {read} of {changed}, in the log {uploaded}")
}
