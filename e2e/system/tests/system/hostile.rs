//! Each server in turn fails for two minutes, in every way that it can and in words that are others each time, with ten VMs that want something of it:
//! nobody storms it, nobody writes the same again and again, and all is well half a minute after it is. By the servers' own counts.
//!
//! It takes a quarter of an hour, so it is run by its name alone: `make e2e-hostile`.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Instant,
};

use crds::{Appliance, ReplicatedVM, ReplicationCycle, conditions::get};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, ResourceExt,
    runtime::watcher::{self, watcher},
};
use serde_json::Value;
use system::{
    fate::Fate,
    install::{NAMESPACE, ready},
    own::Own,
    vm::Replica,
    wait,
};
use tokio::task::JoinHandle;

use super::*;

/// How long each server fails, and how long all may take to be well again.
const OUTAGE: Duration = Duration::from_secs(120);
const RECOVERY: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);
/// Status writes of one object, and requests to one server, within a minute.
const WRITES: usize = 4;
const REQUESTS: u64 = 20;
const VMS: usize = 10;
/// The port of the node at which the log store is reached through the proxy.
const PORT: u16 = 10013;

/// What is said of servers that fail.
const TROUBLE: &[&str] = &[
    "Unreachable",
    "ServerFailed",
    "WrongCredentials",
    "Throttled",
    "RolesMissing",
    "LogStoreUnreachable",
    "LogStoreDenied",
    "LogStoreFailed",
    "ReplicaUnreachable",
    "ReplicaFailed",
    "ReplicaDenied",
];

type Times = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

/// Counts the writes of statuses, as a watch shows them.
struct Writes {
    times: Times,
    watchers: Vec<JoinHandle<()>>,
}

impl Drop for Writes {
    fn drop(&mut self) {
        self.watchers.iter().for_each(JoinHandle::abort);
    }
}

impl Writes {
    fn watch(world: &World) -> Self {
        let times = Times::default();
        let watchers = vec![
            count::<Appliance>(world, "Appliance", times.clone()),
            count::<ReplicatedVM>(world, "ReplicatedVM", times.clone()),
            count::<ReplicationCycle>(world, "ReplicationCycle", times.clone()),
        ];
        Self { times, watchers }
    }

    fn clear(&self) {
        self.times.lock().unwrap().clear();
    }

    fn check(&self, what: &str) {
        for (object, times) in self.times.lock().unwrap().iter() {
            for window in times.windows(WRITES + 1) {
                let within = window[WRITES].duration_since(window[0]);
                assert!(within > MINUTE, "{what}: the status of {object} was written {} times within {within:?}", WRITES + 1);
            }
        }
    }
}

fn count<K>(world: &World, kind: &'static str, times: Times) -> JoinHandle<()>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let api = Api::<K>::namespaced(world.client.clone(), NAMESPACE);
    tokio::spawn(async move {
        let mut known: BTreeMap<String, Value> = BTreeMap::new();
        let mut events = watcher(api, watcher::Config::default()).boxed();
        loop {
            match events.try_next().await {
                Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                    let status = serde_json::to_value(&object).unwrap()["status"].clone();
                    let name = format!("{kind} {}", object.name_any());
                    let before = known.insert(name.clone(), status.clone());
                    if before.is_some_and(|before| before != status) {
                        times.lock().unwrap().entry(name).or_default().push(wait::now());
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => wait::pause(Duration::from_millis(200)).await,
            }
        }
    })
}

/// The way to the log store, which counts requests and answers them itself where it is told to.
struct Proxy {
    process: tokio::process::Child,
    folder: PathBuf,
}

impl Proxy {
    fn start(world: &World) -> Self {
        let folder = world.sandbox.root.join(".cache").join(format!("hostile-{}", world.sandbox.name));
        std::fs::create_dir_all(&folder).unwrap();
        let proxy = Self { process: Self::run(world, &folder), folder };
        proxy.answers("pass");
        proxy
    }

    fn run(world: &World, folder: &std::path::Path) -> tokio::process::Child {
        let state = world.sandbox.root.join(".cache/sandbox").join(&world.sandbox.name);
        let host = world.sandbox.node();
        let store = world.sandbox.get("BLOB_URL").trim_start_matches("https://");
        let port = store.split([':', '/']).nth(1).unwrap();
        let (state, folder) = (state.display(), folder.display());
        let script = format!(
            r#"
const fs = require('fs'), https = require('https'), crypto = require('crypto');
let count = 0;
const agent = new https.Agent({{ keepAlive: true, rejectUnauthorized: false }});
const options = {{ cert: fs.readFileSync('{state}/server.pem'), key: fs.readFileSync('{state}/server.key') }};
https.createServer(options, (request, response) => {{
  const mode = fs.readFileSync('{folder}/mode', 'utf8').trim();
  count += 1;
  fs.writeFileSync('{folder}/count', String(count));
  if (mode === 'drop') return request.socket.destroy();
  if (mode !== 'pass') {{
    const id = crypto.randomUUID(), code = mode === '403' ? 'AuthorizationPermissionMismatch' : mode === '503' ? 'ServerBusy' : 'InternalError';
    request.resume();
    response.writeHead(Number(mode), {{ 'x-ms-request-id': id, 'x-ms-error-code': code, 'content-type': 'application/xml' }});
    const body = `<?xml version="1.0"?><Error><Code>${{code}}</Code><Message>No.\nRequestId:${{id}}\nTime:${{new Date().toISOString()}}</Message></Error>`;
    return response.end(request.method === 'HEAD' ? undefined : body);
  }}
  const on = https.request({{ agent, host: '{host}', port: {port}, method: request.method, path: request.url, headers: request.headers }}, answer => {{
    response.writeHead(answer.statusCode, answer.rawHeaders);
    answer.pipe(response);
  }});
  on.on('error', () => response.destroy());
  request.pipe(on);
}}).listen({PORT}, '{host}');
"#
        );
        let mut command = tokio::process::Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", world.sandbox.get("NETNS"))).args(["node", "-e", &script]);
        command.stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap()
    }

    fn answers(&self, mode: &str) {
        std::fs::write(self.folder.join("mode"), mode).unwrap();
    }

    fn count(&self) -> u64 {
        let text = std::fs::read_to_string(self.folder.join("count")).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }
}

/// One of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Tokens,
    Manager,
    LogStore,
    DiskHosts,
    VCenter,
}

/// What all of it is done with.
struct Setting {
    world: World,
    own: Own,
    proxy: Proxy,
    replicas: Vec<Replica>,
    writes: Writes,
}

/// A way to fail that lasts as long as it is held.
enum Struck {
    Fate(Fate),
    Proxy,
}

impl Setting {
    /// Requests to a server so far; of disks' hosts by disk, since each is a host of its own.
    async fn requests(&self, server: Server) -> BTreeMap<String, u64> {
        fn sum(value: &Value) -> u64 {
            match value {
                Value::Number(number) => number.as_u64().unwrap_or_default(),
                Value::Object(all) => all.values().map(sum).sum(),
                _ => 0,
            }
        }
        let azure = async |path: &str| self.world.azure.call(Method::GET, path, None).await.unwrap();
        let one = |count: u64| BTreeMap::from([(format!("{server:?}"), count)]);
        match server {
            Server::Tokens => one(sum(&azure("/sts").await["counts"])),
            Server::Manager => one(sum(&azure("/arm/counts").await)),
            Server::LogStore => one(self.proxy.count()),
            Server::VCenter => {
                let calls = self.world.vcenter.call(Method::GET, "/calls", None).await.unwrap();
                one(calls.as_object().unwrap().values().map(|method| method["calls"].as_u64().unwrap_or_default()).sum())
            }
            Server::DiskHosts => {
                let all = azure("/disks").await;
                let disks = all["disks"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|disk| disk["id"].as_str().is_some_and(|id| id.contains("hawser-storm-")));
                let requests = |disk: &Value| {
                    let operations = disk["counts"]["operations"].as_object().cloned().unwrap_or_default();
                    let refused = sum(&disk["counts"]["errors"]);
                    operations.values().map(|one| one["requests"].as_u64().unwrap_or_default()).sum::<u64>().max(refused)
                };
                disks.map(|disk| (disk["id"].as_str().unwrap().to_owned(), requests(disk))).collect()
            }
        }
    }

    /// The ways in which a server fails.
    fn ways(server: Server) -> Vec<Value> {
        let answer =
            |status: u16, code: &str| json!({ "kind": "answer", "status": status, "code": code, "message": "It is not possible now." });
        match server {
            Server::Tokens => [Some(503), Some(500), Some(429), Some(401), None].map(|status| json!(status)).to_vec(),
            Server::Manager => vec![
                answer(503, "ServiceUnavailable"),
                answer(500, "InternalServerError"),
                json!({ "kind": "answer", "status": 429, "code": "TooManyRequests", "message": "Slow down.", "retryAfter": 7 }),
                answer(403, "AuthorizationFailed"),
                json!({ "kind": "drop" }),
            ],
            Server::LogStore => ["503", "500", "403", "drop"].map(|mode| json!(mode)).to_vec(),
            Server::DiskHosts => vec![
                json!({ "kind": "answer", "status": 503, "code": "ServerBusy" }),
                json!({ "kind": "answer", "status": 500, "code": "InternalError" }),
                json!({ "kind": "drop" }),
            ],
            Server::VCenter => vec![
                json!({ "method": "*", "status": 503 }),
                json!({ "method": "*", "fault": "HostCommunication" }),
                json!({ "method": "*", "fault": "NotAuthenticated", "properties": { "privilegeId": "System.View" } }),
            ],
        }
    }

    async fn strike(&self, server: Server, how: &Value) -> Struck {
        let world = &self.world;
        let fate = match server {
            Server::Tokens => Fate::tokens(world, how.as_u64().and_then(|status| u16::try_from(status).ok())).await,
            Server::Manager => Fate::arm(world, json!({ "path": "*", "effect": how })).await,
            Server::DiskHosts => Fate::disk(world, json!({ "effect": how })).await,
            Server::VCenter => Fate::vcenter(world, how.clone()).await,
            Server::LogStore => {
                self.proxy.answers(how.as_str().unwrap());
                return Struck::Proxy;
            }
        };
        Struck::Fate(fate.unwrap())
    }

    async fn mend(&self, struck: Struck) {
        match struck {
            Struck::Fate(fate) => fate.mend().await.unwrap(),
            Struck::Proxy => self.proxy.answers("pass"),
        }
    }

    /// Has everybody want something of it.
    async fn provoke(&self, server: Server, round: &str) {
        match server {
            // What was issued is good for a day: another audience needs other tokens.
            Server::Tokens => {
                let endpoints = json!({ "resourceManagerAudience": "https://management.core.windows.net" });
                self.own.edit(json!({ "azure": { "endpoints": endpoints } })).await.unwrap();
            }
            _ => {
                for replica in &self.replicas {
                    self.world.vcenter.write(&replica.name, 2000, 0, 1 << 20, 77).await.unwrap();
                    replica.sync_now(round).await.unwrap();
                }
            }
        }
    }

    async fn conditions(&self) -> Vec<(String, Condition)> {
        let appliances = Api::<Appliance>::namespaced(self.world.client.clone(), NAMESPACE);
        let own = appliances.get(&self.own.name).await.unwrap().status.unwrap_or_default().conditions;
        let mut all: Vec<_> = own.into_iter().map(|one| (self.own.name.clone(), one)).collect();
        for replica in &self.replicas {
            let conditions = replica.object().await.unwrap().status.unwrap_or_default().conditions;
            all.extend(conditions.into_iter().map(|one| (replica.name.clone(), one)));
        }
        all
    }

    /// A server fails for two minutes, in each of its ways in turn.
    async fn outage(&self, server: Server) {
        println!("== {server:?}");
        self.writes.clear();
        let began = wait::now();
        let mut counted = vec![(began, self.requests(server).await)];
        let ways = Self::ways(server);
        let each = OUTAGE / u32::try_from(ways.len()).unwrap();
        for (number, how) in ways.iter().enumerate() {
            let struck = self.strike(server, how).await;
            if number == 0 {
                self.provoke(server, &format!("{server:?}")).await;
            }
            let end = began + each * u32::try_from(number + 1).unwrap();
            while wait::now() < end {
                wait::pause(Duration::from_secs(2)).await;
                counted.push((wait::now(), self.requests(server).await));
            }
            self.mend(struck).await;
        }
        let mended = wait::now();
        for (number, (from, before)) in counted.iter().enumerate() {
            for (_, after) in counted[number..].iter().take_while(|(at, _)| at.duration_since(*from) <= MINUTE) {
                for (host, count) in after {
                    let within = count - before.get(host).copied().unwrap_or_default().min(*count);
                    assert!(within <= REQUESTS, "{host}: {within} requests within a minute");
                }
            }
        }
        self.writes.check(&format!("{server:?}"));
        let limit = RECOVERY.saturating_sub(mended.elapsed());
        wait::until(&format!("{server:?}: all is well again"), limit, async || {
            let all = self.conditions().await;
            let bad: Vec<_> = all.iter().filter(|(_, one)| TROUBLE.contains(&one.reason.as_str())).collect();
            if bad.is_empty() { Ok(()) } else { Err(format!("{bad:#?}")) }
        })
        .await
        .unwrap();
        println!("{server:?}: well again after {:.1} s", mended.elapsed().as_secs_f64());
    }
}

#[tokio::test]
async fn ten_vms_storm_no_server_that_is_down() {
    let (mut world, _gate) = alone().await;
    let own = Own::apart(&mut world, "hostile").await.unwrap();
    let mut proxy = Proxy::start(&world);
    let url = format!("https://{}:{PORT}/devstoreaccount1", world.sandbox.node());
    own.apply(|spec| {
        spec["logStore"]["accountUrl"] = json!(url);
        spec["workers"] = json!({ "replicas": 1 });
        spec["applier"] = json!({ "replicas": 1 });
    })
    .await
    .unwrap();
    ready(&world.sandbox, NAMESPACE, &own.name, PATIENCE).await.unwrap();
    let mut replicas = Vec::new();
    for number in 0..VMS {
        replicas.push(own.replicate(&format!("storm-{number}"), "").await.unwrap());
    }
    for replica in &replicas {
        replica.succeeded(2, PATIENCE).await.unwrap();
    }
    assert!(proxy.process.try_wait().unwrap().is_none(), "the proxy has ended");
    assert!(proxy.count() > 0, "nobody comes through the proxy");
    let writes = Writes::watch(&world);
    let setting = Setting { world, own, proxy, replicas, writes };
    let ready = setting.conditions().await;
    assert!(ready.iter().all(|(_, one)| !TROUBLE.contains(&one.reason.as_str())), "{ready:#?}");
    for server in [Server::Tokens, Server::Manager, Server::LogStore, Server::DiskHosts, Server::VCenter] {
        setting.outage(server).await;
        // What it has begun ends first.
        for replica in &setting.replicas {
            replica.succeeded(2, PATIENCE).await.unwrap();
        }
    }
    let object = setting.replicas[0].object().await.unwrap().status.unwrap();
    assert!(get(&object.conditions, crds::conditions::ConditionType::Ready).is_some_and(|ready| ready.status == "True"));
}
