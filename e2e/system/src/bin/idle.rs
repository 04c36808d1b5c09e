//! What Hawser costs while it has nothing to do, and what a cycle without changes takes: 20 VMs, replicated once, then left alone.
//!
//! `HAWSER_SANDBOX_INVENTORY=e2e/system/idle.yaml e2e/sandbox/up.sh && cargo run -p e2e-system --bin idle -- 10`

use std::{collections::BTreeMap, time::Duration};

use system::{
    Result, install,
    vm::{Replica, World},
    wait,
};

const VMS: usize = 20;
/// Cycles that are measured one by one.
const CYCLES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(900);

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let minutes = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10);
    match idle(minutes).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("idle: {why}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn idle(minutes: u64) -> Result<()> {
    let world = World::open().await?;
    install::all(&world.sandbox).await?;
    let mut replicas = Vec::new();
    for n in 1..=VMS {
        replicas.push(Replica::apply(&world, &format!("idle-{n}"), "").await?);
    }
    for replica in &replicas {
        replica.succeeded(2, PATIENCE).await?;
    }
    println!("{VMS} VMs are replicated; now nothing happens for {minutes} minutes");
    // What the last cycles have left to write is written.
    wait::pause(Duration::from_secs(30)).await;
    let before = writes(&world).await?;
    wait::pause(Duration::from_secs(60 * minutes)).await;
    let after = writes(&world).await?;
    println!("\n{:<24}  {:>8}  {:>16}", "writes to", "count", "per VM and hour");
    // Of the leases most are Kubernetes' own.
    for (resource, count) in &after {
        let count = count - before.get(resource).copied().unwrap_or_default();
        println!("{resource:<24}  {count:>8}  {:>16.1}", count * 60.0 / minutes as f64 / VMS as f64);
    }
    println!("\n{:<24}  {:>8}", "process", "MiB");
    for (process, resident) in memory(&world.sandbox.name)? {
        println!("{process:<24}  {resident:>8}");
    }
    let first = &replicas[0];
    let (mut seconds, before) = (Vec::new(), writes(&world).await?);
    for n in 0..CYCLES {
        let began = wait::now();
        first.sync(&format!("idle-{n}"), PATIENCE).await?;
        seconds.push(format!("{:.1} s", began.elapsed().as_secs_f64()));
    }
    println!("\na delta without changes, from syncNow to closed: {}", seconds.join(", "));
    let after = writes(&world).await?;
    for (resource, count) in after.iter().filter(|(resource, _)| *resource != "leases") {
        let count = count - before.get(resource).copied().unwrap_or_default();
        if count > 0.0 {
            println!("{resource:<24}  {:>8.1} writes for each", count / CYCLES as f64);
        }
    }
    Ok(())
}

/// How often each kind of object was written, as the apiserver counts it. Nodes' own reports are not ours.
async fn writes(world: &World) -> Result<BTreeMap<String, f64>> {
    let text = world.sandbox.kubectl(&["get", "--raw", "/metrics"]).await?;
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| line.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let ours = ["hawser.dev", "events.k8s.io", "apps"].contains(&label("group"))
            || label("resource") == "configmaps"
            || label("resource") == "leases";
        if !ours || !["POST", "PUT", "PATCH", "APPLY", "DELETE"].contains(&label("verb")) {
            continue;
        }
        let (resource, part) = (label("resource"), label("subresource"));
        let name = if part.is_empty() { resource.to_owned() } else { format!("{resource}/{part}") };
        let count: f64 = line.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        *counts.entry(name).or_default() += count;
    }
    Ok(counts)
}

/// Resident memory of each of our processes in this sandbox, in MiB.
fn memory(sandbox: &str) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(|error| error.to_string())?.flatten() {
        let group = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if !group.contains(&format!("/hawser-{sandbox}/")) {
            continue;
        }
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let name = match command.split('\0').collect::<Vec<_>>().as_slice() {
            ["/usr/local/bin/operator", ..] => "operator",
            ["/usr/local/bin/worker", part, ..] => part,
            _ => continue,
        };
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        found.push((name.to_owned(), resident.unwrap_or_default() / 1024));
    }
    found.sort();
    Ok(found)
}
