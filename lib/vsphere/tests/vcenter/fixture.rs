//! The simulator, and clients of it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use blocklog::{
    clock::SystemClock,
    ids::{Cycle, CycleId, Incarnation, Owner, VmId},
};
use reasons::Reason;
use serde_json::{Value, json};
use uuid::Uuid;
use vsphere::{
    Client, Credentials, Secret, Trust,
    snapshot::{
        Mark, Note, Owning,
        control::{Control, Settings},
        take::Policy,
    },
    tasks::Patience,
};

use crate::program::Program;

/// A running simulator.
pub struct Simulator {
    program: Program,
    _state: tempfile::TempDir,
}

impl std::ops::Deref for Simulator {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

pub const MIB: u64 = 1 << 20;

pub fn vm(name: &str, more: Value) -> Value {
    let mut vm = json!({"name": name, "datastore": "vmfs", "host": "esx-1", "cbt": true, "disks": [{"size": "64MiB"}]});
    vm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    vm
}

pub fn inventory(vms: &[Value], settings: Value) -> Value {
    let required: Vec<&str> = vsphere::methods::rights::PRIVILEGES.iter().map(|privilege| privilege.id).collect();
    let without = |id: &str| required.iter().filter(|known| **known != id).copied().collect::<Vec<_>>();
    json!({
        "name": "client", "version": "8.0.3", "settings": settings,
        "datacenters": [{
            "name": "DC", "networks": ["VM Network"],
            "clusters": [{"name": "cluster", "hosts": [{"name": "esx-1"}, {"name": "esx-2"}]}],
            "datastores": [
                {"name": "vmfs", "type": "VMFS", "capacity": "500GiB"},
                {"name": "other", "type": "VMFS", "capacity": "500GiB"},
                {"name": "nfs", "type": "NFS", "capacity": "100GiB", "allocated": "fault"},
            ]}],
        "users": [
            {"name": "hawser@vsphere.local", "password": "sandbox", "permissions": [{"entity": "/", "privileges": required}]},
            {"name": "reader@vsphere.local", "password": "sandbox", "permissions": [{"entity": "/", "role": "ReadOnly"}]},
            {"name": "no-snapshots@vsphere.local", "password": "sandbox",
             "permissions": [{"entity": "/", "privileges": without("VirtualMachine.State.CreateSnapshot")}]},
            {"name": "administrator@vsphere.local", "password": "sandbox", "permissions": [{"entity": "/", "role": "Admin"}]},
        ],
        "vms": vms,
    })
}

impl Simulator {
    /// One with these VMs.
    pub fn start(vms: &[Value]) -> Self {
        Self::with(vms, json!({}))
    }

    pub fn with(vms: &[Value], settings: Value) -> Self {
        let state = tempfile::tempdir().unwrap();
        Self { program: Program::start(&inventory(vms, settings), state.path()), _state: state }
    }

    /// A client of it.
    pub fn client_as(&self, user: &str, password: &str) -> Client {
        self.client_with(user, password, &Trust::Bundle(self.ca.clone()))
    }

    pub fn client_with(&self, user: &str, password: &str, trust: &Trust) -> Client {
        let credentials = Credentials { user: format!("{user}@vsphere.local"), password: Secret::new(password) };
        Client::new(&self.url, trust, credentials, Arc::new(SystemClock::new())).unwrap()
    }

    pub fn client(&self) -> Client {
        self.client_as("hawser", "sandbox")
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, Value::Null).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.ask("PUT", path, body).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.ask("POST", path, body).await
    }

    pub async fn delete(&self, path: &str) -> Value {
        self.ask("DELETE", path, Value::Null).await
    }

    /// The guest writes.
    pub async fn write(&self, vm: &str, disk: u32, offset: u64, length: u64) {
        self.put(&format!("/vms/{vm}/disks/{disk}/bytes?offset={offset}&length={length}&seed={offset}"), Value::Null).await;
    }

    pub async fn snapshots(&self, vm: &str) -> Vec<String> {
        let vm = self.get(&format!("/vms/{vm}")).await;
        vm["snapshots"].as_array().into_iter().flatten().map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn calls(&self, method: &str) -> i64 {
        self.get("/calls").await[method]["calls"].as_i64().unwrap_or(0)
    }

    /// The snapshots of a VM, with quick waits.
    pub async fn control(&self, vm: &str) -> Watched {
        self.control_with(vm, self.client(), |settings| settings).await
    }

    pub async fn control_with(&self, vm: &str, client: Client, change: impl FnOnce(Settings) -> Settings) -> Watched {
        let told = self.get(&format!("/vms/{vm}")).await;
        let instance = Uuid::parse_str(told["instanceUuid"].as_str().unwrap()).unwrap();
        let vcenter = client.service().await.unwrap().content.about.instance_uuid.unwrap();
        let owning = Owning { owner: Owner { cluster: "test".into(), object: "apps/web".into() }, vm: VmId { vcenter, instance } };
        let settings = Settings {
            policy: Policy::Never,
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_millis(200),
            patience: Patience { stall_after: Duration::from_millis(600), silence: Duration::from_secs(10) },
            ..Settings::default()
        };
        let notes = Arc::new(Mutex::new(Vec::new()));
        let sink = notes.clone();
        let tell = Arc::new(move |note| sink.lock().unwrap().push(note));
        Watched { control: Control::new(client, owning.clone(), change(settings), tell), owning, notes }
    }
}

/// A control and what it has told.
pub struct Watched {
    pub control: Control,
    pub owning: Owning,
    notes: Arc<Mutex<Vec<Note>>>,
}

impl std::ops::Deref for Watched {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Watched {
    pub fn mark(&self, cycle: u64) -> Mark {
        let of = CycleId { vm: self.owning.vm, incarnation: Incarnation(Uuid::from_u128(7)), cycle: Cycle(cycle) };
        Mark { owner: self.owning.owner.clone(), of }
    }

    /// The reasons of what was waited for.
    pub fn waited(&self) -> Vec<Reason> {
        let notes = self.notes.lock().unwrap();
        notes.iter().filter_map(|note| if let Note::Waiting { reason, .. } = note { Some(*reason) } else { None }).collect()
    }

    pub fn notes(&self) -> Vec<Note> {
        self.notes.lock().unwrap().clone()
    }
}
