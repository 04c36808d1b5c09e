//! What strikes a sandbox and is taken away again, also where a test fails halfway: what is left would strike the tests after it.

use std::{process::Command, thread};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Result, azure::Azure, sandbox::Sandbox, vcenter::VCenter, vm::World, wait};

/// What takes a stroke of fate away.
#[derive(Debug, Clone)]
enum Remedy {
    /// A request to vCenter's control port.
    VCenter(Method, String, Option<Value>),
    /// A request to Azure's.
    Azure(Method, String, Option<Value>),
    /// A process goes on.
    Continue(u32),
    /// What does not run is started.
    Up,
}

impl Remedy {
    async fn apply(self, sandbox: &Sandbox) -> Result<()> {
        match self {
            // One that is gone was taken away by somebody else, or is used up.
            Self::VCenter(method, path, body) => VCenter::new(sandbox).call(method, &path, body).await.map(drop),
            Self::Azure(method, path, body) => Azure::new(sandbox).call(method, &path, body).await.map(drop),
            Self::Continue(process) => signal(process, "CONT"),
            Self::Up => sandbox.run("e2e/sandbox/up.sh", &[], None).await.map(drop),
        }
    }
}

/// A stroke of fate: it lasts until [`Fate::mend`], or until it is dropped.
#[must_use]
pub struct Fate {
    sandbox: Sandbox,
    remedy: Option<Remedy>,
    /// What its control port calls it.
    pub id: i64,
}

impl Drop for Fate {
    fn drop(&mut self) {
        let (Some(remedy), sandbox) = (self.remedy.take(), self.sandbox.clone()) else { return };
        // The test's own runtime is on its way out.
        let mended = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
            runtime.block_on(remedy.apply(&sandbox))
        });
        if let Ok(Err(error)) = mended.join() {
            eprintln!("could not be put back: {error}");
        }
    }
}

impl Fate {
    fn new(world: &World, remedy: Remedy, id: i64) -> Self {
        Self { sandbox: world.sandbox.clone(), remedy: Some(remedy), id }
    }

    /// A fault in vCenter.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn vcenter(world: &World, fault: Value) -> Result<Self> {
        let id = world.vcenter.fault(fault).await?;
        Ok(Self::new(world, Remedy::VCenter(Method::DELETE, format!("/faults/{id}"), None), id))
    }

    /// A fault in the data path.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn reads(world: &World, fault: Value) -> Result<Self> {
        let id = world.vcenter.read_fault(fault).await?;
        Ok(Self::new(world, Remedy::VCenter(Method::DELETE, format!("/vddk/faults/{id}"), None), id))
    }

    /// Makes every read of a VM's disks slow, so that a cycle is met in its midst.
    ///
    /// # Errors
    /// Where there is no such VM.
    pub async fn slow_reads(world: &World, vm: &str, milliseconds: u32) -> Result<Self> {
        let vm = world.vcenter.vm(vm).await?;
        Self::reads(world, json!({ "op": "read", "vm": vm.mo_ref, "delayMs": milliseconds })).await
    }

    /// No read of a VM's disks is answered but the first few.
    ///
    /// # Errors
    /// Where there is no such VM.
    pub async fn stalled_reads(world: &World, vm: &str, answered: u32) -> Result<Self> {
        let vm = world.vcenter.vm(vm).await?;
        Self::reads(world, json!({ "op": "read", "vm": vm.mo_ref, "skip": answered, "stall": true })).await
    }

    /// A fault in Resource Manager.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn arm(world: &World, fault: Value) -> Result<Self> {
        Self::planted(world, "/arm/faults", fault).await
    }

    /// A fault of the managed disks' host.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn disk(world: &World, fault: Value) -> Result<Self> {
        Self::planted(world, "/disks/faults", fault).await
    }

    /// Requests for tokens fail: with this status, or without an answer where there is none.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn tokens(world: &World, status: Option<u16>) -> Result<Self> {
        world.azure.call(Method::PUT, "/sts/outage", Some(json!({ "status": status }))).await?;
        Ok(Self::new(world, Remedy::Azure(Method::DELETE, "/sts/outage".to_owned(), None), 0))
    }

    async fn planted(world: &World, path: &str, fault: Value) -> Result<Self> {
        let planted = world.azure.call(Method::POST, path, Some(fault)).await?;
        let id = planted["id"].as_i64().ok_or_else(|| format!("no id: {planted}"))?;
        Ok(Self::new(world, Remedy::Azure(Method::DELETE, format!("{path}?id={id}"), None), id))
    }

    /// The host of managed disks behaves otherwise.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn switch(world: &World, switch: &str, value: Value, usual: Value) -> Result<Self> {
        world.azure.call(Method::PATCH, "/disks/switches", Some(json!({ switch: value }))).await?;
        Ok(Self::new(world, Remedy::Azure(Method::PATCH, "/disks/switches".to_owned(), Some(json!({ switch: usual }))), 0))
    }

    /// A part of the sandbox stands still: its connections are open, and nothing comes back.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn freeze(world: &World, part: &str) -> Result<Self> {
        let process = process(&world.sandbox, part)?;
        signal(process, "STOP")?;
        Ok(Self::new(world, Remedy::Continue(process), 0))
    }

    /// A part of the sandbox ends, and is started again by `up.sh`.
    ///
    /// # Errors
    /// Where it does not run.
    pub async fn end(world: &World, part: &str) -> Result<Self> {
        let process = process(&world.sandbox, part)?;
        signal(process, "TERM")?;
        let fate = Self::new(world, Remedy::Up, 0);
        wait::until(&format!("{part} has ended"), std::time::Duration::from_secs(20), async || {
            if std::path::Path::new(&format!("/proc/{process}")).exists() { Err("it runs".to_owned()) } else { Ok(()) }
        })
        .await?;
        Ok(fate)
    }

    /// Takes it away.
    ///
    /// # Errors
    /// What the sandbox says against it.
    pub async fn mend(mut self) -> Result<()> {
        match self.remedy.take() {
            Some(remedy) => remedy.apply(&self.sandbox).await,
            None => Ok(()),
        }
    }
}

/// The process of one of the sandbox's parts.
fn process(sandbox: &Sandbox, part: &str) -> Result<u32> {
    let file = format!("/run/hawser-{}/pids/{part}", sandbox.name);
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    text.split_whitespace().next().and_then(|id| id.parse().ok()).ok_or_else(|| format!("{file} names no process: {text}"))
}

fn signal(process: u32, signal: &str) -> Result<()> {
    let done = Command::new("kill").arg(format!("-{signal}")).arg(process.to_string()).output();
    let done = done.map_err(|error| format!("kill: {error}"))?;
    if done.status.success() { Ok(()) } else { Err(format!("kill -{signal} {process}: {}", String::from_utf8_lossy(&done.stderr))) }
}
