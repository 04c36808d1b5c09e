//! Nobody storms a server that is down: ten VMs and their appliance, two minutes of each kind of error in words that are others each time.
//!
//! The passes run as the controllers run them: when their time has come, and when what wakes them has changed, by the rules of `operator::wakes`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use azure_simulator::{
    arm::knobs::{Effect, Injection},
    sts::Outage,
};
use blocklog::{
    clock::Clock,
    store::{Blob, ETag, LeaseId, Listed, LogStore, StoreError, When},
};
use bytes::Bytes;
use crds::{Appliance, ReplicatedVM};
use operator::{
    appliance::{gather, site::Site},
    wakes,
};
use vsphere::error::WireError;

use crate::support::{APPLIANCE, NAMESPACE, World};

/// The longest that anybody has to wait once the server answers.
const RECOVERY: Duration = Duration::from_secs(30);
const OUTAGE: Duration = Duration::from_secs(120);
const MINUTE: Duration = Duration::from_secs(60);
/// Status writes of one object, and requests to one server, within a minute.
const WRITES: usize = 4;
const REQUESTS: u64 = 20;

/// What is counted, at points in time.
#[derive(Default)]
struct Counted {
    /// Status writes, by resource and name.
    writes: BTreeMap<String, Vec<Duration>>,
    /// Requests to the server so far.
    requests: Vec<(Duration, u64)>,
}

impl Counted {
    fn check(&self, what: &str) {
        for (object, times) in &self.writes {
            for window in times.windows(WRITES + 1) {
                assert!(window[WRITES] - window[0] > MINUTE, "{what}: the status of {object} was written at {times:?}");
            }
        }
        for (number, (from, before)) in self.requests.iter().enumerate() {
            let within = self.requests[number..].iter().take_while(|(at, _)| *at - *from <= MINUTE);
            let most = within.map(|(_, count)| count - before).max().unwrap_or_default();
            assert!(most <= REQUESTS, "{what}: {most} requests within a minute from {from:?}: {:?}", self.requests);
        }
    }
}

/// The world, and when each of its objects is looked at next.
struct Storm {
    world: World,
    due: BTreeMap<String, Duration>,
    known: BTreeMap<String, u64>,
    counted: Counted,
}

impl Storm {
    async fn new() -> Self {
        let world = World::new().await;
        for number in 1..10 {
            world.add_vm(&format!("vm-{number}"));
        }
        world.api.take_asked();
        let mut storm = Self { world, due: BTreeMap::new(), known: BTreeMap::new(), counted: Counted::default() };
        storm.due.insert(APPLIANCE.to_owned(), Duration::ZERO);
        for name in storm.vms() {
            storm.due.insert(name, Duration::ZERO);
        }
        storm
    }

    fn vms(&self) -> Vec<String> {
        self.world.api.all("replicatedvms").iter().map(|vm| vm["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    fn appliance(&self) -> Appliance {
        serde_json::from_value(self.world.api.get("appliances", NAMESPACE, APPLIANCE).unwrap()).unwrap()
    }

    /// Wakes whom the watches would wake.
    fn watched(&mut self) {
        let now = self.world.clock.monotonic();
        let mut differs = |of: &str, part: u64| self.known.insert(of.to_owned(), part).is_some_and(|before| before != part);
        let appliance: Appliance = serde_json::from_value(self.world.api.get("appliances", NAMESPACE, APPLIANCE).unwrap()).unwrap();
        let mut woken = Vec::new();
        if differs("appliance itself", wakes::but_status(&appliance)) {
            woken.push(APPLIANCE.to_owned());
        }
        let all_vms = differs("appliance of its VMs", wakes::of_appliance(&appliance));
        for vm in self.world.api.all("replicatedvms") {
            let vm: ReplicatedVM = serde_json::from_value(vm).unwrap();
            let name = vm.metadata.name.clone().unwrap();
            if differs(&name, wakes::but_status(&vm)) || all_vms {
                woken.push(name);
            }
        }
        for name in woken {
            self.due.insert(name, now);
        }
    }

    /// Passes until then, each when it is due, those that are due together at once. `requests` counts those to the server so far.
    async fn pass_until(&mut self, end: Duration, requests: impl Fn(&World) -> u64) {
        loop {
            let next = *self.due.values().min().unwrap();
            let now = self.world.clock.monotonic();
            if next.max(now) >= end {
                self.world.clock.advance(end.saturating_sub(now));
                return;
            }
            self.world.clock.advance(next.saturating_sub(now));
            let now = self.world.clock.monotonic();
            let due: Vec<String> = self.due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
            let world = &self.world;
            let pass = async |name: &String| {
                let result = if name == APPLIANCE { world.pass_over_appliance().await } else { world.pass(name).await };
                let wait = result.map_or(Duration::from_secs(5), |action| wait_of(&format!("{action:?}")));
                world.clock.monotonic() + wait
            };
            let ended = futures::future::join_all(due.iter().map(pass)).await;
            // No pass takes no time, and whatever wakes itself for ever would else stop the clock.
            self.world.clock.advance(Duration::from_millis(50));
            self.due.extend(due.into_iter().zip(ended));
            let now = self.world.clock.monotonic();
            for asked in self.world.api.take_asked() {
                if asked.verb == "patch" && asked.resource.ends_with("/status") {
                    let object = format!("{}/{}", asked.resource, asked.name.unwrap_or_default());
                    self.counted.writes.entry(object).or_default().push(now);
                }
            }
            self.counted.requests.push((now, requests(&self.world)));
            self.watched();
        }
    }

    /// What the conditions of all objects say that is not so any more.
    fn troubled(&self, reasons: &[&str]) -> Vec<String> {
        let vms = self.world.api.all("replicatedvms").into_iter().map(|vm| serde_json::from_value::<ReplicatedVM>(vm).unwrap());
        let vms = vms.map(|vm| (vm.metadata.name.clone().unwrap(), vm.status.unwrap_or_default().conditions));
        let all = vms.chain([(APPLIANCE.to_owned(), self.appliance().status.unwrap().conditions)]);
        let told = |(name, conditions): (String, Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>)| {
            let bad = conditions.into_iter().filter(|one| reasons.contains(&one.reason.as_str()));
            bad.map(|one| format!("{name}: {} {}: {}", one.type_, one.reason, one.message)).collect::<Vec<_>>()
        };
        all.flat_map(told).collect()
    }

    /// Two minutes of it, from the start, and half a minute after it.
    async fn strikes(mut self, what: &str, reasons: &[&str], mut fails: impl FnMut(&World, bool), requests: impl Fn(&World) -> u64) {
        let begun = self.world.clock.monotonic();
        self.counted.requests.push((begun, requests(&self.world)));
        fails(&self.world, true);
        self.pass_until(begun + OUTAGE, &requests).await;
        assert!(!self.troubled(reasons).is_empty(), "{what}: nobody says so");
        self.counted.check(what);
        let count = self.counted.writes.values().map(Vec::len).sum::<usize>();
        println!("{what}: {} requests, {count} status writes in two minutes", requests(&self.world));
        fails(&self.world, false);
        let mended = self.world.clock.monotonic();
        self.pass_until(mended + RECOVERY, &requests).await;
        let still = self.troubled(reasons);
        assert!(still.is_empty(), "{what}: half a minute after the server is well: {still:#?}");
    }
}

/// How long the next look may wait. The library keeps it to itself, so it is read from what it shows.
fn wait_of(action: &str) -> Duration {
    let Some((_, rest)) = action.split_once("Some(") else { return Duration::from_secs(3600) };
    let number: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let unit = rest[number.len()..].split(')').next().unwrap();
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        other => panic!("{other} in {action}"),
    };
    Duration::from_secs_f64(number.parse::<f64>().unwrap() * scale)
}

const AZURES: &[&str] =
    &["Unreachable", "ServerFailed", "WrongCredentials", "Throttled", "RolesMissing", "LogStoreUnreachable", "LogStoreDenied"];

fn tokens(world: &World) -> u64 {
    world.azure.state.sts.counts().values().sum()
}

fn manager(world: &World) -> u64 {
    world.azure.state.arm.knobs.counts().values().sum()
}

#[tokio::test]
async fn tokens_that_can_not_be_had_are_asked_for_by_one() {
    for status in [Some(503), Some(500), Some(429), Some(401), None] {
        let fails = |world: &World, on: bool| world.azure.state.sts.set_outage(on.then_some(Outage { status, times: None }));
        Storm::new().await.strikes(&format!("tokens {status:?}"), AZURES, fails, tokens).await;
    }
}

#[tokio::test]
async fn a_resource_manager_that_fails_is_asked_by_one() {
    let answer = |status: u16, code: &str, retry_after| Effect::Answer {
        status,
        code: code.to_owned(),
        message: "It is not possible now.".to_owned(),
        retry_after,
    };
    for effect in [
        answer(503, "ServiceUnavailable", None),
        answer(500, "InternalServerError", None),
        answer(429, "TooManyRequests", Some(7)),
        answer(403, "AuthorizationFailed", None),
        answer(401, "InvalidAuthenticationToken", None),
        Effect::Drop { after: false },
    ] {
        let what = format!("Resource Manager {effect:?}");
        let fails = |world: &World, on: bool| {
            if on {
                let injection = Injection { method: None, path: "*".to_owned(), times: None, skip: 0, effect: effect.clone() };
                world.azure.state.arm.knobs.inject(injection);
            } else {
                world.azure.state.arm.knobs.clear(None);
            }
        };
        Storm::new().await.strikes(&what, AZURES, fails, manager).await;
    }
}

#[tokio::test]
async fn a_vcenter_that_fails_is_asked_by_one() {
    let calls = Arc::new(AtomicU64::new(0));
    for kind in ["refuses", "answers 503", "is silent"] {
        calls.store(0, Ordering::Relaxed);
        let host = || "vcenter.example.com".to_owned();
        let fails = |world: &World, on: bool| {
            let error = match kind {
                "refuses" => WireError::Connect { host: host(), why: format!("refused [opID=5f-{}]", calls.load(Ordering::Relaxed)) },
                "answers 503" => WireError::Status { host: host(), status: 503 },
                _ => WireError::TimedOut { host: host(), after: Duration::from_secs(60) },
            };
            world.vcenter.down(on.then_some(error));
        };
        let count = |world: &World| {
            let more = world.vcenter.take_calls().len() as u64;
            calls.fetch_add(more, Ordering::Relaxed) + more
        };
        Storm::new().await.strikes(&format!("vCenter {kind}"), &["Unreachable", "ServerFailed"], fails, count).await;
    }
}

/// The error that it makes of a text.
type Made = fn(String) -> StoreError;

/// A log store that fails, in words that are others each time. That it is asked by one is held beside its client (`blocklog::turnstile`).
struct Failing {
    store: Arc<dyn LogStore>,
    how: std::sync::Mutex<Option<Made>>,
    asked: AtomicU64,
}

impl Failing {
    fn met(&self) -> Result<(), StoreError> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let how = *self.how.lock().unwrap();
        how.map_or(Ok(()), |how| Err(how(format!("HTTP 503 ServerBusy, the {number}th time"))))
    }
}

#[async_trait]
impl LogStore for Failing {
    async fn get(&self, name: &str) -> Result<Option<Blob>, StoreError> {
        self.met()?;
        self.store.get(name).await
    }
    async fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        self.met()?;
        self.store.get_range(name, range).await
    }
    async fn put(&self, name: &str, body: Bytes, when: When, lease: Option<LeaseId>) -> Result<ETag, StoreError> {
        self.met()?;
        self.store.put(name, body, when, lease).await
    }
    async fn stage(&self, name: &str, part: u32, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        self.met()?;
        self.store.stage(name, part, pieces).await
    }
    async fn commit(&self, name: &str, parts: u32) -> Result<(), StoreError> {
        self.met()?;
        self.store.commit(name, parts).await
    }
    async fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<bool, StoreError> {
        self.met()?;
        self.store.delete(name, lease).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.met()?;
        self.store.list(prefix).await
    }
    async fn acquire(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        self.met()?;
        self.store.acquire(name, lease).await
    }
    async fn renew(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        self.met()?;
        self.store.renew(name, lease).await
    }
    async fn release(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        self.met()?;
        self.store.release(name, lease).await
    }
    async fn break_lease(&self, name: &str) -> Result<(), StoreError> {
        self.met()?;
        self.store.break_lease(name).await
    }
}

#[tokio::test]
async fn a_log_store_that_fails_in_other_words_is_told_now_and_then() {
    for how in [StoreError::Unreachable as Made, StoreError::Denied, StoreError::Failed] {
        let storm = Storm::new().await;
        let world = &storm.world;
        let failing = Arc::new(Failing { store: world.store.clone(), how: std::sync::Mutex::default(), asked: AtomicU64::new(0) });
        let store: Arc<dyn LogStore> = failing.clone();
        let inputs = gather::gather(&world.context.client, NAMESPACE, &storm.appliance()).await;
        let clock: Arc<dyn Clock> = world.clock.clone();
        let site = Site::over(inputs, &clock, &store, world.vcenter.client(), world.vcenter.inventory());
        world.context.sites.put(NAMESPACE, APPLIANCE, Arc::new(site));
        let fails = |_: &World, on: bool| *failing.how.lock().unwrap() = on.then_some(how);
        let reasons = &["LogStoreUnreachable", "LogStoreDenied", "LogStoreFailed"];
        storm.strikes(how(String::new()).reason().as_str(), reasons, fails, |_| 0).await;
    }
}
