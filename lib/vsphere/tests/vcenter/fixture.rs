//! Starts the simulator as a program.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use blocklog::{
    clock::SystemClock,
    ids::{Cycle, CycleId, Incarnation, Owner, VmId},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The program, built once; or the one that `HAWSER_VCENTER` names. The sandbox's own build takes the same lock.
fn binary() -> &'static Path {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("HAWSER_VCENTER") {
            return Ok(path.into());
        }
        let (root, bin) = (root(), root().join(".cache/sandbox-bin"));
        fs::create_dir_all(&bin).unwrap();
        let lock = File::create(bin.join(".lock")).unwrap();
        lock.lock().unwrap();
        let path = bin.join("vcenter");
        let built =
            Command::new("go").args(["build", "-mod=readonly", "-o"]).arg(&path).arg(".").current_dir(root.join("e2e/vcenter")).output();
        match built {
            Ok(built) if built.status.success() => Ok(path),
            Ok(built) => Err(format!("e2e/vcenter does not build: {}", String::from_utf8_lossy(&built.stderr))),
            Err(error) => Err(format!(
                "these tests need Go to build the vCenter simulator ({error}): install Go 1.26 (https://go.dev/dl) and put it on PATH"
            )),
        }
    });
    built.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// A running simulator.
pub struct Simulator {
    child: Child,
    pub url: String,
    pub control: String,
    /// The CA that issued its certificate, in PEM.
    pub ca: Vec<u8>,
    _state: tempfile::TempDir,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
        let (ca, server) = certificates();
        fs::write(state.path().join("server.pem"), server.0).unwrap();
        fs::write(state.path().join("server.key"), server.1).unwrap();
        // JSON is YAML.
        fs::write(state.path().join("inventory.yaml"), inventory(vms, settings).to_string()).unwrap();
        let file = |name: &str| state.path().join(name);
        let mut command = Command::new(binary());
        command.args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        for (flag, name) in [("--cert", "server.pem"), ("--key", "server.key"), ("--inventory", "inventory.yaml"), ("--state", "state")] {
            command.arg(flag).arg(file(name));
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = |word: &str| -> String {
            let line = lines.next().unwrap_or_else(|| panic!("the simulator has ended: see above")).unwrap();
            line.strip_prefix(word).unwrap_or_else(|| panic!("{line:?} where {word:?} was awaited")).trim().to_owned()
        };
        let (control, url) = (said("control "), said("ready "));
        Self { child, url, control, ca, _state: state }
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

    /// Asks the control port: the guest, an administrator, or fate.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = reqwest::Client::new().request(method.clone(), format!("{}/v1{path}", self.control));
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
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

    /// The reason words of what was waited for.
    pub fn waited(&self) -> Vec<&'static str> {
        let notes = self.notes.lock().unwrap();
        notes.iter().filter_map(|note| if let Note::Waiting { reason, .. } = note { Some(*reason) } else { None }).collect()
    }

    pub fn notes(&self) -> Vec<Note> {
        self.notes.lock().unwrap().clone()
    }
}

/// A CA's certificate, and a server's with its key, in PEM.
fn certificates() -> (Vec<u8>, (String, String)) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "a CA for tests");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    (ca.pem().into_bytes(), (server.pem(), key.serialize_pem()))
}
