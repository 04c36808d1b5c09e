//! `worker gateway`: runs the cycles whose `spec.worker` is this pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use blocklog::clock::{Clock, SystemClock};
use crds::{
    Read, ReplicationCycle, Unreadable,
    conditions::{ConditionType, Status},
};
use futures::StreamExt;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    HAND_OVER,
    config::GatewayConfig,
    cycle::Seen,
    health::{self, Health},
    open,
    shared::{Shared, WatchedCycle, is_over},
    status::MANAGER,
};
use crate::failure::{Failure, Kind};

/// How long saying goodbye to vCenter may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Runs until `stop` ends, and hands over then: nothing more is read, leases are given back, snapshots stay for a successor.
///
/// # Errors
/// [`Failure`] where the file, or what it names, can't be used. A server that does not answer is waited for.
pub async fn run(path: &Path, pod: &str, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    let config = GatewayConfig::read(path)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let health = Health::waiting_for(&["log store and key", "cycles"]);
    if let Some(at) = config.listen {
        health::serve(health.clone(), at).await?;
    }
    let (store, _) = open::store(&config.log_store)?;
    open::keys(&config.key)?;
    let client = open::vcenter(&config.vcenter, &config.log_store, clock.clone())?;
    // The tree has one provider of TLS; with a second one in some dependency rustls would not know which.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster = kube::Client::try_default().await.map_err(|error| {
        Failure::new(Kind::Other, format!("no way to Kubernetes: {error}"), "Run it in a pod with a service account, or set KUBECONFIG.")
    })?;
    let api: Api<ReplicationCycle> = Api::namespaced(cluster, &config.namespace);
    let cpu = Arc::new(open::threads(&config.limits)?);
    let shared = Arc::new(Shared { config, pod: pod.to_owned(), api, store, client, opening: Arc::default(), cpu, clock, health });
    tracing::info!(pod, appliance = shared.config.appliance, namespace = shared.config.namespace, "gateway");
    tokio::spawn(open::ready(shared.health.clone(), shared.store.clone(), shared.config.key.clone(), shared.clock.clone()));
    let (stopped, listen) = watch::channel(false);
    let mut cycles = Cycles::new(shared.clone(), listen);
    tokio::select! {
        biased;
        () = stop => {}
        () = cycles.watch() => {}
    }
    tracing::info!("handing over");
    let _ = stopped.send(true);
    let handles = cycles.slots.into_values().map(|slot| slot.handle);
    if tokio::time::timeout(HAND_OVER - GOODBYE, futures::future::join_all(handles)).await.is_err() {
        tracing::warn!("not everything was given back in time");
    }
    let _ = tokio::time::timeout(GOODBYE, shared.client.logout()).await;
    Ok(())
}

/// The cycles of this pod.
pub(super) struct Cycles {
    shared: Arc<Shared>,
    pub(super) slots: BTreeMap<String, Slot>,
    /// Those that a list that is under way has shown.
    seen: BTreeSet<String>,
    stop: watch::Receiver<bool>,
}

pub(super) struct Slot {
    uid: Option<String>,
    pub(super) told: watch::Sender<WatchedCycle>,
    handle: JoinHandle<()>,
}

impl Cycles {
    pub(super) fn new(shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Self {
        Self { shared, slots: BTreeMap::new(), seen: BTreeSet::new(), stop }
    }

    /// Follows the apiserver. It never ends by itself.
    async fn watch(&mut self) {
        let config = watcher::Config::default().fields(&format!("spec.worker={}", self.shared.pod));
        let client = self.shared.api.clone().into_client();
        let all = Api::<Read<ReplicationCycle>>::namespaced(client, &self.shared.config.namespace);
        let events = watcher(all, config).default_backoff();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    self.event(event);
                    self.shared.health.has("cycles");
                }
                Err(error) => {
                    tracing::warn!(%error, "the cycles can't be watched");
                    self.shared.health.lacks("cycles", &error);
                }
            }
        }
    }

    pub(super) fn event(&mut self, event: watcher::Event<Read<ReplicationCycle>>) {
        match event {
            watcher::Event::Init => self.seen.clear(),
            watcher::Event::InitApply(cycle) => {
                self.seen.insert(cycle.name_any());
                self.take_in(cycle);
            }
            watcher::Event::InitDone => {
                let gone: Vec<String> = self.slots.keys().filter(|name| !self.seen.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| self.gone(name));
            }
            watcher::Event::Apply(cycle) => self.take_in(cycle),
            watcher::Event::Delete(cycle) => self.gone(&cycle.name_any()),
        }
    }

    fn take_in(&mut self, cycle: Read<ReplicationCycle>) {
        match cycle.0 {
            Ok(cycle) => self.apply(cycle),
            Err(unread) => self.leave(&unread),
        }
    }

    /// What can't be read is not taken up. It is not gone either: what runs for it goes on as it was asked last.
    fn leave(&mut self, unread: &Unreadable) {
        let (name, version) = (unread.name(), unread.metadata.resource_version.as_deref());
        if self.slots.get(name).is_some_and(|slot| slot.uid == unread.metadata.uid && !slot.handle.is_finished()) {
            tracing::warn!(cycle = name, version, why = unread.why, "it can't be read any more: it goes on as it was asked last");
            return;
        }
        self.gone(name);
        // Of one that says so already it was told.
        let Some(change) = unread.told(ConditionType::Transferred, Status::Unknown, self.shared.clock.now()) else { return };
        tracing::warn!(cycle = name, version, why = unread.why, "it can't be read: it is not taken up");
        let api = Api::<Read<ReplicationCycle>>::namespaced(self.shared.api.clone().into_client(), &self.shared.config.namespace);
        let name = name.to_owned();
        tokio::spawn(async move {
            // As a writer of its own: what a gateway has said of the cycle before stays.
            let writer = PatchParams::apply(&format!("{MANAGER}-reading")).force();
            if let Err(error) = api.patch_status(&name, &writer, &Patch::Apply(&change)).await {
                tracing::warn!(cycle = name, %error, "it can't be told that it can't be read");
            }
        });
    }

    fn apply(&mut self, cycle: Arc<ReplicationCycle>) {
        let (name, uid) = (cycle.name_any(), cycle.uid());
        if let Some(slot) = self.slots.get(&name) {
            // It runs as long as the object is this pod's.
            if slot.uid == uid && !slot.handle.is_finished() {
                let _ = slot.told.send(Some(cycle));
                return;
            }
            self.gone(&name);
        }
        if is_over(&cycle) {
            return;
        }
        tracing::info!(cycle = name, "taken up");
        let (sender, receiver) = watch::channel(None);
        let seen = Seen::new(self.shared.clone(), &cycle, receiver);
        let _ = sender.send(Some(cycle));
        let mut stop = self.stop.clone();
        let handle = tokio::spawn(async move {
            let stop = async move {
                // A sender that is gone is a process that ends.
                let _ = stop.wait_for(|stop| *stop).await;
            };
            seen.run(stop).await;
        });
        self.slots.insert(name, Slot { uid, told: sender, handle });
    }

    /// It is not this pod's any more. What runs for it stops by itself.
    fn gone(&mut self, name: &str) {
        if let Some(slot) = self.slots.remove(name) {
            let _ = slot.told.send(None);
        }
    }
}
