//! vCenter's control port: as the guest, as an administrator, and as fate.

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Result, sandbox::Sandbox};

/// The control port.
#[derive(Debug, Clone)]
pub struct VCenter {
    url: String,
    http: reqwest::Client,
}

/// A virtual machine.
#[derive(Debug, Clone, Deserialize)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// Its reference.
    #[serde(rename = "ref")]
    pub mo_ref: String,
    /// Its instance UUID.
    #[serde(rename = "instanceUuid")]
    pub instance_uuid: String,
    /// Its host's name.
    pub host: String,
    /// Whether a merge was left undone.
    #[serde(rename = "consolidationNeeded")]
    pub consolidation_needed: bool,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its snapshots, foreign ones too.
    #[serde(default)]
    pub snapshots: Option<Vec<Snapshot>>,
}

/// One of its disks.
#[derive(Debug, Clone, Deserialize)]
pub struct Disk {
    /// VMware's key.
    pub key: i64,
    /// In bytes.
    pub capacity: u64,
    /// What snapshots eat.
    #[serde(default)]
    pub deltas: u64,
}

/// One of its snapshots.
#[derive(Debug, Clone, Deserialize)]
pub struct Snapshot {
    /// Its reference.
    #[serde(rename = "ref")]
    pub mo_ref: String,
    /// Its name.
    pub name: String,
    /// The disks as it has them.
    pub disks: Vec<Disk>,
}

impl VCenter {
    /// That of a sandbox.
    #[must_use]
    pub fn new(sandbox: &Sandbox) -> Self {
        Self { url: sandbox.get("VCENTER_CONTROL").to_owned(), http: crate::azure::plain() }
    }

    /// Any request; an error is its sentence.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        crate::azure::call(&self.http, method, &format!("{}/v1{path}", self.url), body).await
    }

    /// A VM.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn vm(&self, vm: &str) -> Result<Vm> {
        serde_json::from_value(self.call(Method::GET, &format!("/vms/{vm}"), None).await?).map_err(|error| error.to_string())
    }

    /// Its snapshots.
    ///
    /// # Errors
    /// Where there is no such VM.
    pub async fn snapshots(&self, vm: &str) -> Result<Vec<Snapshot>> {
        Ok(self.vm(vm).await?.snapshots.unwrap_or_default())
    }

    /// Writes the pattern of `seed`, as the guest.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn write(&self, vm: &str, disk: i64, offset: u64, length: u64, seed: u64) -> Result<()> {
        let path = format!("/vms/{vm}/disks/{disk}/bytes?offset={offset}&length={length}&seed={seed}");
        self.call(Method::PUT, &path, None).await.map(drop)
    }

    /// Writes these bytes, as the guest.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn write_bytes(&self, vm: &str, disk: i64, offset: u64, bytes: Vec<u8>) -> Result<()> {
        let url = format!("{}/v1/vms/{vm}/disks/{disk}/bytes?offset={offset}", self.url);
        crate::azure::answer(self.http.put(url).body(bytes)).await.map(drop)
    }

    /// The SHA-256 of a disk as the guest sees it now.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn sha256(&self, vm: &str, disk: i64) -> Result<String> {
        hash(&self.call(Method::GET, &format!("/vms/{vm}/disks/{disk}/sha256"), None).await?)
    }

    /// The SHA-256 of a disk as a snapshot has it: the oracle.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn snapshot_sha256(&self, snapshot: &str, disk: i64) -> Result<String> {
        hash(&self.call(Method::GET, &format!("/snapshots/{snapshot}/disks/{disk}/sha256"), None).await?)
    }

    /// Plants a fault; see the control port's documentation.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn fault(&self, fault: Value) -> Result<i64> {
        let planted = self.call(Method::POST, "/faults", Some(fault)).await?;
        planted["id"].as_i64().ok_or_else(|| format!("no id: {planted}"))
    }

    /// Takes a fault away.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn mend(&self, fault: i64) -> Result<()> {
        self.call(Method::DELETE, &format!("/faults/{fault}"), None).await.map(drop)
    }

    /// How often a fault has struck.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn hits(&self, fault: i64) -> Result<i64> {
        let all = self.call(Method::GET, "/faults", None).await?;
        let mine = all.as_array().into_iter().flatten().find(|one| one["id"] == json!(fault));
        mine.and_then(|one| one["hits"].as_i64()).ok_or_else(|| format!("no fault {fault}: {all}"))
    }

    /// Plants a fault in the data path.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn read_fault(&self, fault: Value) -> Result<i64> {
        let planted = self.call(Method::POST, "/vddk/faults", Some(fault)).await?;
        planted["id"].as_i64().ok_or_else(|| format!("no id: {planted}"))
    }

    /// Takes a fault in the data path away; what it stalled goes on.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn mend_read(&self, fault: i64) -> Result<()> {
        self.call(Method::DELETE, &format!("/vddk/faults/{fault}"), None).await.map(drop)
    }
}

fn hash(answer: &Value) -> Result<String> {
    answer["sha256"].as_str().map(str::to_owned).ok_or_else(|| format!("no sha256: {answer}"))
}
