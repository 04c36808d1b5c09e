//! `worker gateway`: runs the cycles whose `spec.worker` is this pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use blocklog::clock::{Clock, SystemClock};
use crds::ReplicationCycle;
use futures::StreamExt;
use kube::{
    Api, ResourceExt,
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
    let mut cycles = Cycles { shared: shared.clone(), slots: BTreeMap::new(), seen: BTreeSet::new(), stop: listen };
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
struct Cycles {
    shared: Arc<Shared>,
    slots: BTreeMap<String, Slot>,
    /// Those that a list that is under way has shown.
    seen: BTreeSet<String>,
    stop: watch::Receiver<bool>,
}

struct Slot {
    uid: Option<String>,
    told: watch::Sender<WatchedCycle>,
    handle: JoinHandle<()>,
}

impl Cycles {
    /// Follows the apiserver. It never ends by itself.
    async fn watch(&mut self) {
        let config = watcher::Config::default().fields(&format!("spec.worker={}", self.shared.pod));
        let events = watcher(self.shared.api.clone(), config).default_backoff();
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

    fn event(&mut self, event: watcher::Event<ReplicationCycle>) {
        match event {
            watcher::Event::Init => self.seen.clear(),
            watcher::Event::InitApply(cycle) => {
                self.seen.insert(cycle.name_any());
                self.apply(cycle);
            }
            watcher::Event::InitDone => {
                let gone: Vec<String> = self.slots.keys().filter(|name| !self.seen.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| self.gone(name));
            }
            watcher::Event::Apply(cycle) => self.apply(cycle),
            watcher::Event::Delete(cycle) => self.gone(&cycle.name_any()),
        }
    }

    fn apply(&mut self, cycle: ReplicationCycle) {
        let (name, uid) = (cycle.name_any(), cycle.uid());
        if let Some(slot) = self.slots.get(&name) {
            // It runs as long as the object is this pod's.
            if slot.uid == uid && !slot.handle.is_finished() {
                let _ = slot.told.send(Some(Arc::new(cycle)));
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
        let _ = sender.send(Some(Arc::new(cycle)));
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
