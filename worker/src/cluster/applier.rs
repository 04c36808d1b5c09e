//! `worker applier`: carries out the orders that lie in the log store. It knows neither Kubernetes nor vCenter, and runs wherever log store
//! and seeds can be reached.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use backoff::Backoff;
use blocklog::{
    LogError,
    azure_blob::Auth,
    clock::{Clock, SystemClock},
    cycle::Order,
    document,
    entropy::SystemEntropy,
    ids::{DiskKey, VmId},
    names,
    store::{ETag, LogStore},
};
use futures::{StreamExt, stream::FuturesUnordered};
use replica::{
    ReplicaDisk, ReplicaError,
    access::{self, Purpose, ReplicaAccess},
};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    HAND_OVER,
    config::ApplierConfig,
    health::{self, Health, Running},
    open,
};
use crate::{
    applier::{self, ApplierError, End, ReplicaOpener},
    cpu::Threads,
    env::{Env, Event, Progress},
    failure::Failure,
    outage::Telling,
    throttle::Throttle,
};

/// The pause between two looks while there is something to do, and for a minute afterwards: whoever waits for an order waits for this too.
const BUSY_LOOK: Duration = Duration::from_millis(500);
/// The pause that it grows to. A list costs money.
const IDLE_LOOK: Duration = Duration::from_secs(3);
/// How long after the last order looks stay quick.
const WARM: Duration = Duration::from_secs(60);
/// The pause after a try that came to nothing, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// When an order that was carried out, and is still there, is looked at again. It is the operator's to delete.
const DONE_PAUSE: Duration = Duration::from_secs(300);

/// Runs until `stop` ends: then nothing new is written, what was sent is waited for, and ledgers are given back.
///
/// # Errors
/// [`Failure`] where the file, or what it names, can't be used. A server that does not answer is waited for.
pub async fn run(path: &Path, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    let config = ApplierConfig::read(path)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let health = Health::waiting_for(&["log store and key", "orders"]);
    if let Some(at) = config.listen {
        health::serve(health.clone(), at).await?;
    }
    let (store, auth) = open::store(&config.log_store)?;
    open::keys(&config.key)?;
    let cpu = Arc::new(open::threads(&config.limits)?);
    tracing::info!(cluster = config.cluster, "applier");
    tokio::spawn(open::ready(health.clone(), store.clone(), config.key.clone(), clock.clone()));
    Applier { config, store, auth, cpu, clock, health }.run(stop).await;
    Ok(())
}

/// What all orders share.
pub(super) struct Applier {
    pub(super) config: ApplierConfig,
    pub(super) store: Arc<dyn LogStore>,
    pub(super) auth: Auth,
    pub(super) cpu: Arc<Threads>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) health: Arc<Health>,
}

/// What is remembered of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tried {
    /// The order as it was then. Another one is tried at once.
    etag: Option<ETag>,
    /// Tries in vain.
    failures: u32,
    /// [`Clock::monotonic`] of the next look.
    next: Duration,
}

impl Applier {
    /// Carries out orders until `stop` ends.
    pub(super) async fn run(&self, stop: impl Future<Output = ()>) {
        let (stopped, listen) = watch::channel(false);
        let mut stop = std::pin::pin!(stop);
        let mut tried: BTreeMap<String, Tried> = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        let mut busy: Vec<String> = Vec::new();
        let (mut warm, mut look) = (self.clock.monotonic() + WARM, Duration::ZERO);
        loop {
            let free = busy.len() < self.config.limits.orders;
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(carried @ Carried { .. }) = running.next(), if !busy.is_empty() => {
                    busy.retain(|other| *other != carried.name);
                    self.note(&mut tried, carried);
                    (warm, look) = (self.clock.monotonic() + WARM, Duration::ZERO);
                }
                () = self.clock.sleep(look), if free => {
                    // A store that does not answer is asked for a while, and a stop does not wait for that.
                    // Nor do those that run: their leases have to be renewed meanwhile.
                    let mut ended = Vec::new();
                    let found = {
                        let mut orders = std::pin::pin!(self.orders(&mut tried, &busy));
                        loop {
                            tokio::select! {
                                biased;
                                () = &mut stop => break None,
                                found = &mut orders => break Some(found),
                                Some(carried) = running.next(), if ended.len() < busy.len() => ended.push(carried),
                            }
                        }
                    };
                    for carried in ended {
                        busy.retain(|other| *other != carried.name);
                        self.note(&mut tried, carried);
                        warm = self.clock.monotonic() + WARM;
                    }
                    let Some(found) = found else { break };
                    for (name, vm, etag) in found.into_iter().take(self.config.limits.orders - busy.len()) {
                        busy.push(name.clone());
                        running.push(self.carry_out(name, vm, etag, listen.clone()));
                        warm = self.clock.monotonic() + WARM;
                    }
                    look = if self.clock.monotonic() < warm { BUSY_LOOK } else { (look * 2).clamp(BUSY_LOOK, IDLE_LOOK) };
                }
            }
        }
        tracing::info!(orders = busy.len(), "handing over");
        let _ = stopped.send(true);
        let rest = async { while running.next().await.is_some() {} };
        if tokio::time::timeout(HAND_OVER - Duration::from_secs(1), rest).await.is_err() {
            // Its lease runs out by itself: a write may still be on its way.
            tracing::warn!("not every write was answered in time");
        }
    }

    /// The orders that are to be tried now.
    async fn orders(&self, tried: &mut BTreeMap<String, Tried>, busy: &[String]) -> Vec<(String, VmId, Option<ETag>)> {
        let prefix = names::orders(&self.config.cluster);
        let listed = match self.store.list(&prefix).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(reason = %error.reason(), "the orders can't be listed: {error}");
                self.health.lacks("orders", format!("{}: {error}", error.reason()));
                return Vec::new();
            }
        };
        self.health.has("orders");
        tried.retain(|name, _| listed.iter().any(|blob| blob.name == *name));
        let now = self.clock.monotonic();
        let mut found = Vec::new();
        for blob in listed.into_iter().filter(|blob| !busy.contains(&blob.name)) {
            let Some(vm) = vm_of(&prefix, &blob.name) else {
                tracing::debug!(blob = blob.name, "not an order");
                continue;
            };
            let etag = match tried.get(&blob.name) {
                None => None,
                // Where it is not due by itself, it is by being another one.
                Some(last) if last.next <= now => last.etag.clone(),
                Some(last) => match self.store.get(&blob.name).await {
                    Ok(Some(found)) if Some(&found.etag) != last.etag.as_ref() => Some(found.etag),
                    Ok(_) | Err(_) => continue,
                },
            };
            found.push((blob.name, vm, etag));
        }
        found
    }

    fn env(&self) -> Result<Env, Failure> {
        let progress = Arc::new(Counting(self.health.clone()));
        Ok(Env {
            store: Arc::new(Telling::new(self.store.clone(), progress.clone())),
            keys: open::keys(&self.config.key)?,
            clock: self.clock.clone(),
            entropy: Arc::new(SystemEntropy),
            cpu: self.cpu.clone(),
            throttle: Arc::new(Throttle::new(self.clock.clone(), None)),
            limits: self.config.limits.with_disks(crate::env::Limits::default().disks),
            progress,
        })
    }

    async fn carry_out(&self, name: String, vm: VmId, etag: Option<ETag>, mut stop: watch::Receiver<bool>) -> Carried {
        let _counted = Running::new(&self.health);
        // One that is renewed while it is carried out is another one.
        let found = self.store.get(&name).await;
        let etag = found.as_ref().ok().and_then(Option::as_ref).map(|blob| blob.etag.clone()).or(etag);
        let mut given_up = false;
        let result = async {
            let env = self.env()?;
            let opener = Opener { auth: self.auth.clone(), clock: self.clock.clone() };
            let Some(blob) = found? else { return Ok(End::NoOrder) };
            let order = document::decode::<Order>(&env.keys, &name, &blob.body)?;
            if order.of.vm != vm {
                return Err(LogError::damaged(&name, "it is for another VM").into());
            }
            let stop = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            let result = applier::carry_out(&env, &opener, name.clone(), order.clone(), stop).await;
            if let Err(error) = &result {
                given_up = tell(&env, &name, &order, error).await;
            }
            Ok(result?)
        };
        let result = result.await;
        Carried { name, etag, result, given_up }
    }

    fn note(&self, tried: &mut BTreeMap<String, Tried>, carried: Carried) {
        let Carried { name, etag, result, given_up } = carried;
        let failures = tried.get(&name).map_or(0, |tried| tried.failures);
        let (failures, pause) = match &result {
            Ok(End::Busy) => (0, FIRST_PAUSE),
            Ok(End::NoOrder) => (0, Duration::ZERO),
            Ok(end) => {
                tracing::info!(order = name, end = end.words(), "carried out");
                self.health.succeeded.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                (0, DONE_PAUSE)
            }
            Err(failure) => {
                tracing::warn!(order = name, reason = failure.word(), "{}", failure.message);
                self.health.failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let pause = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE).wait(failures, 0);
                // No other try can help, and the operator knows: what is left is its order to take back.
                (failures.saturating_add(1), if given_up { DONE_PAUSE } else { pause })
            }
        };
        tried.insert(name, Tried { etag, failures, next: self.clock.monotonic() + pause });
    }
}

/// What came of an order.
struct Carried {
    name: String,
    /// The order that it was.
    etag: Option<ETag>,
    result: Result<End, Failure>,
    /// True where it is written down that the cycle can never be applied.
    given_up: bool,
}

/// Writes down why an order could not be carried out. True where that is for good. What can't be written is written by the next try.
async fn tell(env: &Env, name: &str, order: &Order, error: &ApplierError) -> bool {
    match applier::note_setback(env, name, order, error).await {
        Ok(setback) => setback.is_some_and(|setback| setback.for_good),
        Err(error) => {
            tracing::warn!(order = name, reason = %error.reason(), "why it could not be carried out can't be written down: {error}");
            false
        }
    }
}

/// The VM of an order, by its name.
fn vm_of(prefix: &str, name: &str) -> Option<VmId> {
    let (vcenter, instance) = name.strip_prefix(prefix)?.split_once('.')?;
    let vm = VmId { vcenter: Uuid::parse_str(vcenter).ok()?, instance: Uuid::parse_str(instance).ok()? };
    // The one spelling, or it would be another blob that is read.
    (name == format!("{prefix}{}.{}", vm.vcenter, vm.instance)).then_some(vm)
}

/// Opens seeds by what an order carries, and page blobs without a signature as ourselves.
struct Opener {
    auth: Auth,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl ReplicaOpener for Opener {
    async fn open(&self, disk: DiskKey, access: &[u8]) -> Result<Arc<dyn ReplicaDisk>, ReplicaError> {
        let access: ReplicaAccess = serde_json::from_slice(access).map_err(|_| {
            ReplicaError::Denied(format!("disk {disk}: the order's access can't be read: is this worker older than the operator?"))
        })?;
        access::open(&access, Purpose::Write, &self.auth, self.clock.clone()).await
    }
}

struct Counting(Arc<Health>);

impl Progress for Counting {
    fn note(&self, event: Event) {
        match event {
            Event::Applied { bytes, .. } => {
                self.0.applied.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            }
            Event::Waiting { reason, message } => tracing::warn!(%reason, "{message}"),
            Event::Answered => tracing::info!("the log store answers again"),
            Event::Reading { .. } | Event::Read { .. } | Event::Sent | Event::Applying { .. } => {}
        }
    }
}

#[cfg(test)]
#[path = "applier_tests.rs"]
mod tests;
