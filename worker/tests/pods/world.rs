//! A vCenter (the simulator as a program), an nbdkit that serves what its snapshots hold, a log store in memory and seeds in files.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command, sync::Arc, time::Duration};

use crate::program::Program;
use async_trait::async_trait;
use blocklog::{
    clock::{Clock, SystemClock},
    cycle::{Manifest, Order, OrderSeed},
    document,
    entropy::{Entropy, SystemEntropy},
    ids::{CycleId, DiskKey, Incarnation, Owner, VmId},
    keys::KeyRing,
    ledger::{Ledger, Seed},
    names,
    steward::{Due, Steward},
    store::{When, memory::MemoryStore},
};
use replica::{ReplicaDisk, ReplicaError, raw_file::RawFileDisk};
use serde_json::{Value, json};
use uuid::Uuid;
use vsphere::{
    Client, Credentials, Secret, Trust,
    snapshot::{control::Settings, take::Policy},
    tasks::Patience,
};
use worker::{
    applier::{self, ReplicaOpener},
    cluster::{
        control::{Setup, VcenterControl},
        report::Reporter,
        status::Report,
        vddk,
    },
    cpu::Threads,
    env::{Env, Limits, Progress},
    gateway::{End, Job},
    throttle::Throttle,
};

pub const MIB: u64 = 1 << 20;

/// In VDDK's place: nbdkit with the bytes of the snapshot's disk, which the simulator's control port tells. It looks at what VDDK looks at,
/// the password and the thumbprint included. `HAWSER_NBDKIT` names another one, for example the real plugin in a container's tree.
const NBDKIT: &str = r#"#!/bin/sh
set -eu
refuse() { echo "nbdkit: vddk[1]: error: $1" >&2; exit 1; }
read -r secret <&3
for argument; do
  case $argument in
    --*|-D|nbdkit.*|vddk*) ;;
    *=*) key=${argument%%=*}; eval "$key=\${argument#*=}" ;;
    *) socket=$argument ;;
  esac
done
[ "$secret" = sandbox ] && [ "$password" = -3 ] || refuse "VixDiskLib_Open: $file: Insufficient permissions in the host operating system"
case $vm in moref=vm-*) ;; *) refuse "VixDiskLib_Open: $file: The virtual machine cannot be found" ;; esac
[ "${#thumbprint}" = 59 ] || refuse "VixDiskLibVim: Failed to verify SSL certificate: actual thumbprint=?"
case $file in *_1*) disk=2001 ;; *) disk=2000 ;; esac
while [ -e CONTROLDIR/hold ]; do sleep 0.02; done
[ ! -e CONTROLDIR/busy ] || { rm CONTROLDIR/busy; refuse "VixDiskLib_Open: $file: The server refused connection"; }
curl -fsS "$(cat CONTROLDIR/control)/v1/snapshots/$snapshot/disks/$disk/bytes" -o "$TMPDIR/disk" 2>/dev/null ||
  refuse "VixDiskLib_Open: $file: The snapshot does not exist"
exec env -u LD_LIBRARY_PATH nbdkit --foreground --exit-with-parent --readonly --newstyle --threads=4 --unix "$socket" file "$TMPDIR/disk"
"#;

pub struct World {
    vcenter: Program,
    pub store: Arc<MemoryStore>,
    pub keys: KeyRing,
    pub clock: Arc<dyn Clock>,
    pub folder: tempfile::TempDir,
    pub vm: VmId,
    pub nbdkit: PathBuf,
}

impl World {
    /// A vCenter with the VM `web`, whose disks 2000 and 2001 have 8 and 4 MiB, and a ledger with their seeds.
    pub async fn new() -> Self {
        for (tool, package) in [("nbdkit", "nbdkit"), ("curl", "curl")] {
            assert!(Command::new(tool).arg("--version").output().is_ok(), "{tool} is missing: apt-get install {package}");
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let vcenter = Program::start(&inventory(), folder.path());
        fs::write(at("control"), &vcenter.control).unwrap();
        let nbdkit = match std::env::var_os("HAWSER_NBDKIT") {
            Some(path) => path.into(),
            None => {
                let path = at("nbdkit");
                fs::write(&path, NBDKIT.replace("CONTROLDIR", folder.path().to_str().unwrap())).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                path
            }
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let keys = KeyRing::parse(&KeyRing::new_file(1, &SystemEntropy)).unwrap();
        let vm = VmId { vcenter: Uuid::nil(), instance: Uuid::nil() };
        let mut world = Self { vcenter, store, keys, clock, folder, vm, nbdkit };
        let about = world.client("sandbox").service().await.unwrap().content.about.clone();
        let told = world.ask("GET", "/vms/web", Value::Null).await;
        world.vm = VmId { vcenter: about.instance_uuid.unwrap(), instance: told["instanceUuid"].as_str().unwrap().parse().unwrap() };
        let mut seeds = BTreeMap::new();
        for (key, capacity) in [(2000, 8 * MIB), (2001, 4 * MIB)] {
            let unique = Uuid::new_v4();
            RawFileDisk::create(world.seed(DiskKey(key)), capacity, unique).await.unwrap();
            seeds.insert(DiskKey(key), Seed { id: key.to_string(), unique_id: unique.to_string(), capacity });
        }
        let ledger = Ledger::new(world.vm, owner(), Incarnation(SystemEntropy.uuid()), blocklog::codec::MAX_BLOCK, seeds);
        document::write_new(world.store.as_ref(), &world.keys, &names::ledger(world.vm), &ledger).await.unwrap();
        world
    }

    pub fn client(&self, password: &str) -> Client {
        let credentials = Credentials { user: "hawser@vsphere.local".into(), password: Secret::new(password) };
        Client::new(&self.vcenter.url, &Trust::Bundle(self.vcenter.ca.clone()), credentials, self.clock.clone()).unwrap()
    }

    /// Asks the control port: the guest, an administrator, or fate.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        self.vcenter.ask(method, path, body).await
    }

    /// The guest writes.
    pub async fn write(&self, disk: u32, offset: u64, length: u64, seed: u64) {
        self.ask("PUT", &format!("/vms/web/disks/{disk}/bytes?offset={offset}&length={length}&seed={seed}"), Value::Null).await;
    }

    pub async fn snapshots(&self) -> Vec<String> {
        let vm = self.ask("GET", "/vms/web", Value::Null).await;
        vm["snapshots"].as_array().into_iter().flatten().map(|snapshot| snapshot["ref"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn seed(&self, disk: DiskKey) -> PathBuf {
        self.folder.path().join(format!("{disk}.raw"))
    }

    pub async fn ledger(&self) -> Ledger {
        document::require::<Ledger>(self.store.as_ref(), &self.keys, &names::ledger(self.vm)).await.unwrap().0
    }

    /// The next cycle, or the one that goes on.
    pub async fn cycle(&self) -> CycleId {
        let (steward, ledger) = (Steward { store: self.store.clone(), keys: self.keys.clone() }, self.ledger().await);
        match steward.due(&ledger, &owner(), false, |_| ()).await.unwrap() {
            Due::New { above } => steward.claim(&ledger, &owner(), above).await.unwrap(),
            Due::Resume(state) => state.of,
            Due::Apply { of, .. } => of,
        }
    }

    /// A gateway for a cycle: its world, vCenter's side, and what it has told.
    pub fn gateway(&self, of: CycleId, client: Client) -> Gateway {
        let reporter = Arc::new(Reporter::new(Report::begin("gateway-0", None, self.clock.now()), self.clock.clone()));
        let settings = Settings {
            policy: Policy::Never,
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_millis(200),
            patience: Patience { silence: Duration::from_secs(5), ..Patience::default() },
            ..Settings::default()
        };
        let setup = Setup {
            client,
            url: self.vcenter.url.clone(),
            vddk: vddk::Settings { nbdkit: self.nbdkit.clone(), libdir: "/opt/vmware-vix-disklib".into() },
            owner: owner(),
            of,
            mo_ref: None,
            settings,
            full: Vec::new(),
            opening: Arc::default(),
        };
        let control = Arc::new(VcenterControl::new(setup, reporter.clone()));
        Gateway { env: self.env(reporter.clone()), control, reporter, job: Job { of, owner: owner(), full: false } }
    }

    fn env(&self, progress: Arc<dyn Progress>) -> Env {
        Env {
            store: self.store.clone(),
            keys: self.keys.clone(),
            clock: self.clock.clone(),
            entropy: Arc::new(SystemEntropy),
            cpu: Arc::new(Threads::new(1).unwrap()),
            throttle: Arc::new(Throttle::new(self.clock.clone(), None)),
            limits: Limits { segment: MIB, ..Limits::default() },
            progress,
        }
    }

    /// The operator's order, and the applier; then source and seeds have to be equal.
    pub async fn apply(&self, of: CycleId) -> Manifest {
        let manifest = self.carry_out(of, &applier::End::Clean).await;
        for disk in [2000, 2001] {
            let source = self.ask("GET", &format!("/vms/web/disks/{disk}/sha256"), Value::Null).await;
            let replica = Command::new("sha256sum").arg(self.seed(DiskKey(disk))).output().unwrap();
            let replica = String::from_utf8(replica.stdout).unwrap();
            assert_eq!(source["sha256"].as_str(), replica.split(' ').next(), "disk {disk}");
        }
        manifest
    }

    /// The same of a cycle whose snapshot went before all was read.
    pub async fn apply_partial(&self, of: CycleId) -> Manifest {
        self.carry_out(of, &applier::End::Partial).await
    }

    async fn carry_out(&self, of: CycleId, end: &applier::End) -> Manifest {
        let (manifest, digest) = document::require::<Manifest>(self.store.as_ref(), &self.keys, &names::manifest(of)).await.unwrap();
        let seal = |disk: DiskKey| {
            let id = &manifest.disks[&disk].seed;
            (disk, OrderSeed::seal(&self.keys, of.vm, of.incarnation, disk, id, b"file", &SystemEntropy))
        };
        let seeds = manifest.written().map(seal).collect();
        let order = Order { of, owner: owner(), manifest: digest, seeds, tokens: BTreeMap::new() };
        let name = names::order(&owner(), of.vm);
        let bytes = document::encode(&self.keys, &name, &order).unwrap();
        blocklog::store::LogStore::put(self.store.as_ref(), &name, bytes, When::Always, None).await.unwrap();
        let env = self.env(Arc::new(worker::env::Silent));
        assert_eq!(applier::run(&env, self, &owner(), of.vm).await.as_ref(), Ok(end));
        manifest
    }
}

#[async_trait]
impl ReplicaOpener for World {
    async fn open(&self, disk: DiskKey, _: &[u8]) -> Result<Arc<dyn ReplicaDisk>, ReplicaError> {
        Ok(Arc::new(RawFileDisk::open(self.seed(disk)).await?))
    }
}

pub struct Gateway {
    pub env: Env,
    pub control: Arc<VcenterControl>,
    pub reporter: Arc<Reporter>,
    pub job: Job,
}

impl Gateway {
    /// Runs the cycle and tells the report how it ended.
    pub async fn run(&self) -> Result<End, worker::gateway::GatewayError> {
        let result = worker::gateway::run(&self.env, self.control.as_ref(), &self.job).await;
        let now = self.env.clock.now();
        self.reporter.change(|report| report.ended(&result, now));
        result
    }

    /// Type, status, reason and message of each condition.
    pub fn conditions(&self) -> Vec<(String, String, String, String)> {
        let (_, conditions) = self.reporter.report().status(&[], None, self.env.clock.now());
        conditions.into_iter().map(|one| (one.type_, one.status, one.reason, one.message)).collect()
    }
}

pub fn owner() -> Owner {
    Owner { cluster: "test".into(), object: "apps/web".into() }
}

fn inventory() -> Value {
    let required: Vec<&str> = vsphere::methods::rights::PRIVILEGES.iter().map(|privilege| privilege.id).collect();
    json!({
        "name": "pods", "version": "8.0.3",
        "datacenters": [{
            "name": "DC", "networks": ["VM Network"],
            "clusters": [{"name": "cluster", "hosts": [{"name": "esx-1"}, {"name": "esx-2"}]}],
            "datastores": [{"name": "vmfs", "type": "VMFS", "capacity": "500GiB"}]}],
        "users": [{"name": "hawser@vsphere.local", "password": "sandbox", "permissions": [{"entity": "/", "privileges": required}]}],
        "vms": [{"name": "web", "datastore": "vmfs", "host": "esx-1", "cbt": true, "disks": [{"size": "8MiB"}, {"size": "4MiB"}]}],
    })
}
