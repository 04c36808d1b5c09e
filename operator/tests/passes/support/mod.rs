//! What passes are tested against: an apiserver, a log store, an Azure and a vCenter, all in this process.
//!
//! [`World`] is the way in. A test makes one, has it pass until what it is about comes up, does what it is about, and looks:
//!
//! ```ignore
//! let world = World::new().await;                        // an Appliance that is ready, the VM `web`, a gateway that is ready
//! let (seen, step) = world.until("web", |step| matches!(step, Step::Claim(_))).await;   // passes, and its workers work, until this is decided
//! world.pass("web").await.unwrap();                      // the pass that does it
//! let after = world.observe("web").await;                // what the next one sees
//! ```
//!
//! What the workers would do is done by hand ([`World::sends`], [`World::applies`]), or all of it at once ([`World::work`]). What vCenter has is changed by
//! [`VCenter::edit`], what the apiserver has by [`Apiserver::edit`] and [`Apiserver::delete`]. What the apiserver was asked says [`Apiserver::take_asked`];
//! what becomes of a request instead of its answer, [`Apiserver::plan`]; what Azure does, `world.azure.state.arm.knobs`. More VMs come by
//! [`World::add_vm`]. Time is [`TestClock`]'s: it jumps where somebody sleeps, and [`TestClock::advance`] lets it pass.
//!
//! What is about many passes, and what wakes them, has the real controllers work for a while: in a test with `#[tokio::test(start_paused = true)]`,
//! [`World::paused`] and [`World::operates`]. Two minutes of theirs take some seconds; what is counted afterwards is what the servers were asked meanwhile.
#![allow(dead_code, reason = "each test uses a part")]

pub mod apiserver;
pub mod azure;
pub mod clock;
pub mod patch;
pub mod vcenter;
pub mod workers;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use blocklog::{
    clock::Clock,
    entropy::Entropy,
    ids::{Owner, VmId},
    keys::KeyRing,
    store::{LogStore, memory::MemoryStore},
};
use crds::{Appliance, Read, ReplicatedVM, names};
use kube::{
    Client,
    runtime::{
        controller::Action,
        events::{Recorder, Reporter},
        reflector::store,
        watcher::Event,
    },
};
use operator::{
    appliance::{self, gather, site::Site, sites::Sites},
    context::{Context, DiskLists, Settings},
    controllers::Controllers,
    metrics::Metrics,
    objects::seconds,
    status_writes::StatusWrites,
    trouble::Trouble,
    vm::{self, decide, look::Pass, model::Observed, observe, step::Step, test_support},
    vm_changes::VmChanges,
};
use serde_json::{Value, json};
use uuid::Uuid;

pub use self::{
    apiserver::{Apiserver, Asked, Fault},
    azure::Azure,
    clock::TestClock,
    vcenter::{Machine, VCenter},
};

/// Where everything lies.
pub const NAMESPACE: &str = "apps";
/// The Appliance's name.
pub const APPLIANCE: &str = "onprem";
/// The VM that is there from the beginning.
pub const WEB: &str = "web";
/// So many passes are enough for anything.
const PASSES: usize = 60;

/// Everything that a pass talks to. See the module.
pub struct World {
    pub clock: Arc<TestClock>,
    pub api: Apiserver,
    pub store: Arc<MemoryStore>,
    pub keys: KeyRing,
    pub azure: Azure,
    pub vcenter: VCenter,
    pub context: Arc<Context>,
    vms: Mutex<store::Writer<Read<ReplicatedVM>>>,
    /// The machines' numbers, by the names of their objects: of objects that are gone, too.
    numbers: Mutex<BTreeMap<String, u128>>,
}

/// Random numbers that are the same in each run.
struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn fill(&self, out: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(out);
    }
}

impl World {
    /// An Appliance that is ready, a gateway that is, and the VM `web` of two disks, of which the operator has not heard yet.
    pub async fn new() -> Self {
        Self::with(TestClock::new()).await
    }

    /// The same for a test whose tokio is paused.
    pub async fn paused() -> Self {
        Self::with(TestClock::paused()).await
    }

    async fn with(clock: Arc<TestClock>) -> Self {
        let api = Apiserver::new(clock.clone());
        let azure = Azure::start(&clock).await;
        let vcenter = VCenter::new(test_support::vm_id().vcenter, clock.clone());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let key = format!("1 {}\n", "11".repeat(32));
        let keys = KeyRing::parse(&key).unwrap();
        let secret = |name: &str, data: &[(&str, &str)]| {
            let data: BTreeMap<_, _> = data.iter().map(|(key, text)| (*key, BASE64.encode(text))).collect();
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": NAMESPACE }, "data": data })
        };
        api.put(secret("vcenter", &[(names::VCENTER_USERNAME_KEY, "hawser"), (names::VCENTER_PASSWORD_KEY, "right")]));
        api.put(secret("hawser-key", &[(names::ENCRYPTION_KEY, &key)]));
        api.put(secret("azure", &[(names::CLIENT_SECRET_KEY, "sandbox")]));
        api.put(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "azure-ca", "namespace": NAMESPACE },
            "data": { "ca.crt": azure.authority },
        }));
        let client = api.client();
        let (reader, writer) = store::store();
        let context = Arc::new(context(&client, &clock, 1, vec![reader]));
        let world = Self { clock, api, store, keys, azure, vcenter, context, vms: Mutex::new(writer), numbers: Mutex::default() };
        world.has_appliance().await;
        world.has_gateway("gw-1", true);
        world.add_vm(WEB);
        world
    }

    /// The Appliance as it is once it was looked at, and what was built for it.
    async fn has_appliance(&self) {
        let now = seconds(self.clock.now());
        self.api.put(json!({
            "apiVersion": "hawser.dev/v1alpha1", "kind": "Appliance",
            "metadata": { "name": APPLIANCE, "namespace": NAMESPACE, "finalizers": [names::APPLIANCE_FINALIZER] },
            "spec": {
                "vcenter": { "url": "https://vcenter.example.com", "credentialsSecretRef": { "name": "vcenter" } },
                "azure": self.azure.spec(),
                "logStore": { "accountUrl": "https://hawserlog.blob.core.windows.net" },
                "encryption": { "keySecretRef": { "name": "hawser-key" } },
                "diskAccess": { "method": "VDDK", "vddk": { "claimName": "vddk" } },
            },
            "status": {
                "vcenter": { "instanceUuid": self.vcenter.uuid },
                "conditions": [{ "type": "Ready", "status": "True", "reason": "AsExpected", "message": "all is well", "lastTransitionTime": now }],
            },
        }));
        self.builds().await;
        self.api.take_asked();
    }

    /// Builds what the Appliance's passes work with, over this world's log store and vCenter, where they don't have it.
    pub async fn builds(&self) {
        let whole = |site: &Arc<Site>| site.vcenter.is_ok() && site.target.as_ref().is_ok_and(|target| target.steward.is_ok());
        if self.context.sites.get(NAMESPACE, APPLIANCE).is_some_and(|site| whole(&site)) {
            return;
        }
        let object: Appliance = serde_json::from_value(self.api.get("appliances", NAMESPACE, APPLIANCE).unwrap()).unwrap();
        let inputs = gather::gather(&self.context.client, NAMESPACE, &object).await;
        let store: Arc<dyn LogStore> = self.store.clone();
        let clock: Arc<dyn Clock> = self.clock.clone();
        let site = Site::over(inputs, &clock, &store, self.vcenter.client(), self.vcenter.inventory());
        site.target.as_ref().unwrap();
        self.context.sites.put(NAMESPACE, APPLIANCE, Arc::new(site));
    }

    /// A gateway's pod.
    pub fn has_gateway(&self, name: &str, ready: bool) {
        // What is not ready has not been so for long enough to be given up.
        let since = seconds(self.clock.now() - jiff::SignedDuration::from_mins(10));
        self.api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": NAMESPACE,
                "labels": { names::APPLIANCE_LABEL: APPLIANCE, names::COMPONENT_LABEL: "gateway" },
            },
            "status": { "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": since }] },
        }));
    }

    /// A VM of two disks in vCenter, and its object; the same VM again where its object has gone.
    pub fn add_vm(&self, name: &str) {
        let number = {
            let mut numbers = self.numbers.lock().unwrap();
            let next = numbers.len() as u128 + 1;
            *numbers.entry(name.to_owned()).or_insert(next)
        };
        let disks = BTreeMap::from([(2000, test_support::CAPACITY), (2001, test_support::CAPACITY)]);
        let machine = Machine {
            name: name.to_owned(),
            instance: Uuid::from_u128(number + 1),
            disks,
            tracking: true,
            tracked: true,
            snapshots: Vec::new(),
        };
        let reference = format!("vm-{number}");
        self.vcenter.put(&reference, machine);
        self.api.put(json!({
            "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicatedVM",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": { "applianceRef": { "name": APPLIANCE }, "vm": { "moRef": reference }, "snapshot": { "quiesce": "Never" } },
        }));
    }

    /// The object of a VM, where it is there.
    pub fn vm(&self, name: &str) -> Option<ReplicatedVM> {
        Some(serde_json::from_value(self.api.get("replicatedvms", NAMESPACE, name)?).unwrap())
    }

    /// Changes a VM's object as a person does.
    pub fn edit_vm(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.api.edit("replicatedvms", NAMESPACE, name, change);
    }

    /// Who a VM's ledger belongs to.
    pub fn owner(&self, name: &str) -> Owner {
        self.context.owner(NAMESPACE, name)
    }

    /// The id of the machine that a VM's object means.
    pub fn vm_id(&self, name: &str) -> VmId {
        let number = self.numbers.lock().unwrap()[name];
        VmId { vcenter: self.vcenter.uuid, instance: Uuid::from_u128(number + 1) }
    }

    /// The watch of VMs has told all that there is.
    pub fn told(&self) {
        let mut writer = self.vms.lock().unwrap();
        writer.apply_watcher_event(&Event::Init);
        for object in self.api.all("replicatedvms") {
            writer.apply_watcher_event(&Event::InitApply(serde_json::from_value(object).unwrap()));
        }
        writer.apply_watcher_event(&Event::InitDone);
    }

    /// What a pass over a VM sees.
    pub async fn observe(&self, name: &str) -> Observed {
        self.told();
        observe::observe(&self.context, self.vm(name).unwrap()).await.unwrap()
    }

    /// One pass over a VM; none is needed where its object has gone.
    ///
    /// # Errors
    /// As the pass.
    pub async fn pass(&self, name: &str) -> Result<Action, Trouble> {
        self.told();
        match self.vm(name) {
            Some(object) => vm::reconcile(Arc::new(object), self.context.clone()).await,
            None => Ok(Action::await_change()),
        }
    }

    /// One pass over the Appliance.
    ///
    /// # Errors
    /// As the pass.
    pub async fn pass_over_appliance(&self) -> Result<Action, Trouble> {
        let object: Appliance = serde_json::from_value(self.api.get("appliances", NAMESPACE, APPLIANCE).unwrap()).unwrap();
        appliance::reconcile(Arc::new(object), self.context.clone()).await
    }

    /// The real controllers work for so long, by the clock: what was changed, and what they want, wakes them as it does in a cluster.
    pub async fn operates(&self, length: Duration) {
        let client = self.api.client();
        let controllers = Controllers::new(&client, &[NAMESPACE.to_owned()], 16);
        let context = context(&client, &self.clock, 1 << 32, controllers.stores());
        if let Some(site) = self.context.sites.get(NAMESPACE, APPLIANCE) {
            context.sites.put(NAMESPACE, APPLIANCE, site);
        }
        tokio::select! {
            () = controllers.run(Arc::new(context), std::future::pending()) => unreachable!("nobody stops them"),
            () = self.clock.sleep(length) => {}
        }
    }

    /// Passes, and works, until a step is decided that is meant: what was seen then, and the step, which is not done yet.
    pub async fn until(&self, name: &str, meant: impl Fn(&Step) -> bool) -> (Observed, Step) {
        let mut before = Vec::new();
        for _ in 0..PASSES {
            let mut seen = self.observe(name).await;
            let mut step = decided(&seen);
            if step == Step::LookAtSlots && !meant(&step) {
                // As the pass does: it decides once more.
                seen.slots = Some(observe::slots(&self.context, &seen.object).await.unwrap());
                step = decided(&seen);
            }
            if meant(&step) {
                return (seen, step);
            }
            before.push(step);
            self.pass(name).await.unwrap();
            self.work(name).await;
            self.clock.advance(Duration::from_secs(1));
        }
        panic!("it was not decided, but {before:?}; the status is {:#}", self.api.get("replicatedvms", NAMESPACE, name).unwrap()["status"]);
    }

    /// Passes, and works, until nothing changes any more: how many passes it took. What a pass could not do the next one does.
    pub async fn settle(&self, name: &str) -> usize {
        let mut before = None;
        let mut same = 0;
        for passes in 0..PASSES {
            // A pass that fails is repeated.
            let failed = self.pass(name).await.is_err();
            self.work(name).await;
            self.clock.advance(Duration::from_secs(1));
            let now = Some(self.state());
            same = if now != before { 0 } else { same + usize::from(!failed) };
            before = now;
            if same == 2 {
                return passes;
            }
        }
        panic!("it never comes to rest: {:#}", self.api.get("replicatedvms", NAMESPACE, name).unwrap_or_default()["status"]);
    }

    /// All that is stored: objects but events, and blobs.
    fn state(&self) -> (Vec<Value>, BTreeMap<String, bytes::Bytes>) {
        let kinds = ["replicatedvms", "replicationcycles", "appliances"];
        (kinds.iter().flat_map(|kind| self.api.all(kind)).collect(), self.store.snapshot())
    }
}

/// What all passes share; `first` is where its random numbers begin.
fn context(client: &Client, clock: &Arc<TestClock>, first: u64, vms: Vec<store::Store<Read<ReplicatedVM>>>) -> Context {
    let reporter = Reporter { controller: "hawser-operator".to_owned(), instance: Some("test".to_owned()) };
    Context {
        client: client.clone(),
        clock: clock.clone(),
        entropy: Arc::new(Seeded(AtomicU64::new(first))),
        settings: Settings {
            cluster: test_support::owner().cluster,
            worker_image: "worker".to_owned(),
            worker_service_account: "hawser-worker".to_owned(),
        },
        sites: Sites::default(),
        recorder: Recorder::new(client.clone(), reporter),
        metrics: Metrics::new().unwrap(),
        vms,
        disks: DiskLists::default(),
        vm_changes: VmChanges::default(),
        writes: StatusWrites::default(),
        admission: tokio::sync::Mutex::new(()),
    }
}

/// What is decided on what was seen.
pub fn decided(seen: &Observed) -> Step {
    decide::decide(&Pass::new(seen.clone())).step
}
