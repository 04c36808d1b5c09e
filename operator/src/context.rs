//! What all controllers share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use blocklog::{clock::Clock, entropy::Entropy, ids::Owner};
use crds::{Read, ReplicatedVM, reasons::Reason};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        events::{Event, EventType, Recorder},
        reflector::{ObjectRef, Store},
    },
};

use azure::{Arm, ArmError, disks::Disk};

use crate::{appliance::sites::Sites, metrics::Metrics, objects::cut, status_writes::StatusWrites, vm_changes::VmChanges};

/// The most bytes of an event's note: the apiserver refuses more than 1024.
const NOTE_MOST: usize = 1024;

/// What is given to the operator when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who we are to ledgers: the UID of the namespace `kube-system`, or a name that was given.
    pub cluster: String,
    /// The image of gateways and appliers where an appliance names none.
    pub worker_image: String,
    /// The service account of gateways and appliers where an appliance names none.
    pub worker_service_account: String,
}

/// Who this cluster is to ledgers: the name that was given, or the UID of the namespace `kube-system`.
///
/// # Errors
/// A sentence about what can't be had, or can't be used.
pub async fn cluster(client: &Client, given: Option<String>) -> Result<String, String> {
    let cluster = match given.filter(|given| !given.is_empty()) {
        Some(given) => given,
        None => {
            let found = Api::<Namespace>::all(client.clone()).get("kube-system").await;
            found.map_err(|error| format!("the namespace kube-system can't be read: {error}. Or give --cluster"))?.uid().unwrap_or_default()
        }
    };
    let fits = !cluster.is_empty() && cluster.len() <= 63 && cluster.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if fits { Ok(cluster) } else { Err(format!("--cluster: {cluster:?} is not 1 to 63 of A-Z a-z 0-9 . _ -")) }
}

/// What all controllers share.
pub struct Context {
    pub client: Client,
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    pub settings: Settings,
    /// What was built for each appliance, by namespace and name.
    pub sites: Sites,
    /// Events.
    pub recorder: Recorder,
    /// Figures.
    pub metrics: Metrics,
    /// All ReplicatedVMs as the watches last told, a store for each namespace that is watched: for queues, never for what is decided
    /// about one of them.
    pub vms: Vec<Store<Read<ReplicatedVM>>>,
    /// Managed disks as they were listed last.
    pub disks: DiskLists,
    pub vm_changes: VmChanges,
    /// When statuses were written last.
    pub writes: StatusWrites,
    /// Held while a cycle is admitted: two that see the same free slot must not both take it.
    pub admission: tokio::sync::Mutex<()>,
}

impl Context {
    /// The owner that ledgers of an object name.
    #[must_use]
    pub fn owner(&self, namespace: &str, name: &str) -> Owner {
        Owner { cluster: self.settings.cluster.clone(), object: format!("{namespace}/{name}") }
    }

    /// All ReplicatedVMs as the watches last told, but for those that can't be read.
    #[must_use]
    pub fn all_vms(&self) -> Vec<Arc<ReplicatedVM>> {
        self.vms.iter().flat_map(Store::state).filter_map(|vm| vm.readable().cloned()).collect()
    }

    /// The host that a VM was on when it was looked at last, also of an object that can't be read.
    #[must_use]
    pub fn host_of(&self, namespace: &str, vm: &str) -> Option<String> {
        let found = self.vms.iter().find_map(|store| store.get(&ObjectRef::new(vm).within(namespace)))?;
        match &found.0 {
            Ok(vm) => vm.status.as_ref()?.vm.as_ref()?.host.clone(),
            Err(unread) => unread.field("/status/vm/host"),
        }
    }

    /// Tells people something as an event. One that can't be told is lost: it is in the conditions, too.
    pub async fn event<K: Resource<DynamicType = ()>>(&self, of: &K, warning: bool, reason: Reason, action: &str, note: &str) {
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        let note = Some(cut(note, NOTE_MOST).to_owned());
        let event = Event { type_, reason: reason.into(), note, action: action.to_owned(), secondary: None };
        if let Err(error) = self.recorder.publish(&event, &of.object_ref(&())).await {
            tracing::warn!(%error, reason = reason.as_str(), "an event could not be written");
        }
    }
}

/// For so long a list of managed disks is taken for what is there. Resource Manager counts each reading, and a VM is looked at every few
/// seconds while its cycle runs.
const LIST_HOLDS: Duration = Duration::from_secs(60);

/// A subscription and a resource group.
type Group = (String, String);
type Lists = BTreeMap<Group, (Duration, Arc<Vec<Disk>>)>;
type Turns = BTreeMap<Group, Arc<tokio::sync::Mutex<()>>>;

/// The managed disks of resource groups as they were listed last.
#[derive(Default)]
pub struct DiskLists {
    known: Mutex<Lists>,
    /// Held by the one who lists a group for all.
    turns: Mutex<Turns>,
}

impl DiskLists {
    /// The disks of a resource group, listed now or a little while ago.
    ///
    /// # Errors
    /// As [`Arm::disks`].
    pub async fn list(&self, context: &Context, arm: &Arm, subscription: &str, group: &str) -> Result<Arc<Vec<Disk>>, ArmError> {
        let key = (subscription.to_lowercase(), group.to_lowercase());
        if let Some(disks) = self.fresh(&key, context.clock.monotonic()) {
            return Ok(disks);
        }
        // Of each group for itself: a Resource Manager that is slow keeps nobody of another appliance waiting.
        let turn = self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone();
        let _turn = turn.lock().await;
        let now = context.clock.monotonic();
        // Another one may have listed them meanwhile.
        if let Some(disks) = self.fresh(&key, now) {
            return Ok(disks);
        }
        let disks = Arc::new(arm.disks(subscription, group).await?);
        // What is being made is looked at again at once.
        if disks.iter().all(|disk| disk.provisioned) {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (now, disks.clone()));
        }
        Ok(disks)
    }

    fn fresh(&self, key: &Group, now: Duration) -> Option<Arc<Vec<Disk>>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(at, _)| now.saturating_sub(*at) < LIST_HOLDS).map(|(_, disks)| disks.clone())
    }

    /// Has everything listed anew: something was made or deleted.
    pub fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
