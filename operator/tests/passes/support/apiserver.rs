//! An apiserver in memory: what it stores, what it refuses, and what it makes of a patch.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::body::Body;
use blocklog::clock::Clock;
use futures::stream;
use http::{Method, Response};
use kube::Client;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::{
    clock::TestClock,
    patch::{apply, merge, without_nulls},
};

/// Of these the status is written by its own requests alone.
const WITH_STATUS: [&str; 4] = ["appliances", "replicatedvms", "replicationcycles", "deployments"];

/// Where an object lies: its resource (`replicatedvms`), namespace and name.
pub type Key = (String, String, String);

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `get`, `list`, `watch`, `create`, `patch`, `update` or `delete`.
    pub verb: &'static str,
    /// `replicatedvms`, and `replicatedvms/status`.
    pub resource: String,
    /// None in a list.
    pub name: Option<String>,
    /// The selectors of a list, as they were sent.
    pub selector: String,
}

impl Asked {
    /// `patch replicatedvms/status`.
    pub fn word(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }

    /// True for what changes something.
    pub fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }
}

/// What becomes of a request instead of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status, reason and message, and nothing is done.
    Refused(u16, &'static str, String),
    /// The connection is closed, before or after it was carried out.
    Dropped { after: bool },
}

impl Fault {
    /// Answered with a status, as Kubernetes words it.
    pub fn status(code: u16) -> Self {
        let reason = match code {
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            _ => "InternalError",
        };
        Self::Refused(code, reason, format!("planted: {code}"))
    }
}

/// Asked of each request: what becomes of it, where that is not its answer.
type Plan = Box<dyn FnMut(&Asked) -> Option<Fault> + Send>;

struct State {
    objects: BTreeMap<Key, Value>,
    /// What each manager has applied last, by object and whether it is the status.
    applied: BTreeMap<(Key, String, bool), Value>,
    version: u64,
    /// All that was written, for those who watch: the version that it has made, and `ADDED`, `MODIFIED` or `DELETED`.
    history: Vec<(u64, Key, &'static str, Value)>,
    asked: Vec<Asked>,
    plan: Option<Plan>,
}

/// The apiserver. Clones are the same one.
#[derive(Clone)]
pub struct Apiserver {
    state: Arc<Mutex<State>>,
    clock: Arc<TestClock>,
    /// The last version.
    version: Arc<watch::Sender<u64>>,
}

struct Refusal(u16, &'static str, String);

impl Apiserver {
    pub fn new(clock: Arc<TestClock>) -> Self {
        let state =
            State { objects: BTreeMap::new(), applied: BTreeMap::new(), version: 0, history: Vec::new(), asked: Vec::new(), plan: None };
        Self { state: Arc::new(Mutex::new(state)), clock, version: Arc::new(watch::Sender::new(0)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A client of it. It has to be made where a runtime is.
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let server = server.clone();
            async move { server.serve(request).await }
        });
        Client::new(service, "default")
    }

    /// Puts an object there past all rules.
    pub fn put(&self, mut object: Value) {
        let resource = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let key = (resource, text("namespace"), text("name"));
        let mut state = self.lock();
        state.version += 1;
        let (version, now) = (state.version, self.clock.now());
        born(&mut object, version, now);
        self.keep(&mut state, key, object);
    }

    /// Stores an object at the last version, and tells those who watch.
    fn keep(&self, state: &mut State, key: Key, object: Value) {
        let how = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        state.history.push((state.version, key.clone(), how, object.clone()));
        state.objects.insert(key, object);
        self.version.send_replace(state.version);
    }

    /// An object.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.lock().objects.get(&(resource.into(), namespace.into(), name.into())).cloned()
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str) -> Vec<Value> {
        self.lock().objects.iter().filter(|(key, _)| key.0 == resource).map(|(_, object)| object.clone()).collect()
    }

    /// Changes an object as somebody else would: it has another version then, and another generation where its spec changed.
    pub fn edit(&self, resource: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut state = self.lock();
        let old = state.objects.get(&key).cloned().unwrap_or_else(|| panic!("there is no {key:?}"));
        let mut new = old.clone();
        change(&mut new);
        self.store(&mut state, &key, &old, new);
    }

    /// Deletes an object as a person does: it stays as long as it has finalizers.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.remove(&mut self.lock(), &key);
    }

    /// What was asked so far, and forgets it.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.lock().asked)
    }

    /// From now on this is asked what becomes of each request. It may change objects meanwhile, as somebody who was quicker.
    pub fn plan(&self, plan: impl FnMut(&Asked) -> Option<Fault> + Send + 'static) {
        self.lock().plan = Some(Box::new(plan));
    }

    /// Requests are answered again.
    pub fn no_plan(&self) {
        self.lock().plan = None;
    }

    async fn serve(&self, request: http::Request<kube::client::Body>) -> Result<Response<Body>, std::io::Error> {
        self.clock.active(true);
        self.clock.active(false);
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
        let url = reqwest::Url::parse(&format!("http://apiserver{}", head.uri)).map_err(std::io::Error::other)?;
        let Some(place) = Place::of(&url) else { return Ok(answer(Err(Refusal(404, "NotFound", format!("{url}"))))) };
        let asked = Asked {
            verb: place.verb(&head.method, &url),
            resource: place.word(),
            name: place.name.clone(),
            selector: place.selector.clone(),
        };
        self.lock().asked.push(asked.clone());
        // Not under the lock: a plan may look, and change what is there.
        let plan = self.lock().plan.take();
        let fault = plan.and_then(|mut plan| {
            let fault = plan(&asked);
            self.lock().plan.get_or_insert(plan);
            fault
        });
        let dropped = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        match fault {
            Some(Fault::Refused(code, reason, message)) => return Ok(answer(Err(Refusal(code, reason, message)))),
            Some(Fault::Dropped { after: false }) => return Err(dropped()),
            Some(Fault::Dropped { after: true }) => {
                drop(self.answered(&place, asked.verb, &head.headers, &url, &body));
                return Err(dropped());
            }
            None if asked.verb == "watch" => return Ok(self.watched(place, &url)),
            None => {}
        }
        Ok(answer(self.answered(&place, asked.verb, &head.headers, &url, &body)))
    }

    /// All that is written from a version on, for as long as somebody listens.
    fn watched(&self, place: Place, url: &reqwest::Url) -> Response<Body> {
        let from = url.query_pairs().find(|(name, _)| name == "resourceVersion").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        let start = (self.clone(), self.version.subscribe(), Arc::new(place), from);
        let lines = stream::unfold(start, |(server, mut version, place, from): (Self, watch::Receiver<u64>, Arc<Place>, u64)| async move {
            loop {
                version.borrow_and_update();
                let (lines, last) = {
                    let state = server.lock();
                    let begin = state.history.partition_point(|(version, ..)| *version <= from);
                    let told = state.history[begin..].iter().filter(|(_, key, _, object)| place.holds(key, object));
                    let lines: String = told.map(|(_, _, how, object)| format!("{}\n", json!({ "type": how, "object": object }))).collect();
                    (lines, state.version)
                };
                if !lines.is_empty() {
                    return Some((Ok::<_, std::io::Error>(lines), (server, version, place, last)));
                }
                version.changed().await.ok()?;
            }
        });
        Response::builder().header("content-type", "application/json").body(Body::from_stream(lines)).unwrap()
    }

    fn answered(&self, place: &Place, verb: &str, headers: &http::HeaderMap, url: &reqwest::Url, body: &[u8]) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let key = (place.resource.clone(), place.namespace.clone().unwrap_or_default(), place.name.clone().unwrap_or_default());
        let read = || serde_json::from_slice::<Value>(body).map_err(|error| Refusal(400, "BadRequest", error.to_string()));
        let missing = || Refusal(404, "NotFound", format!("{} {:?} not found", key.0, key.2));
        match verb {
            "list" => Ok(list(&state, place)),
            "get" => state.objects.get(&key).cloned().ok_or_else(missing),
            "create" => {
                let mut object = read()?;
                let name = object["metadata"]["name"].as_str().map(str::to_owned);
                let generated = || format!("{}{}", object["metadata"]["generateName"].as_str().unwrap_or("x-"), state.version + 1);
                let name = name.unwrap_or_else(generated);
                let key = (key.0, key.1, name.clone());
                if state.objects.contains_key(&key) {
                    return Err(Refusal(409, "AlreadyExists", format!("{} {:?} already exists", key.0, key.2)));
                }
                object["metadata"]["name"] = json!(name);
                object["metadata"]["namespace"] = json!(key.1);
                if WITH_STATUS.contains(&key.0.as_str()) {
                    object.as_object_mut().map(|object| object.remove("status"));
                }
                state.version += 1;
                let version = state.version;
                born(&mut object, version, self.clock.now());
                self.keep(&mut state, key, object.clone());
                Ok(object)
            }
            "delete" => {
                let old = state.objects.get(&key).cloned().ok_or_else(missing)?;
                self.remove(&mut state, &key);
                Ok(state.objects.get(&key).cloned().unwrap_or(old))
            }
            _ => {
                let change = without_nulls(read()?, headers.get("content-type").is_some_and(|kind| kind == "application/merge-patch+json"));
                self.write(&mut state, place, &key, verb, headers, url, change)
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one request")]
    fn write(
        &self,
        state: &mut State,
        place: &Place,
        key: &Key,
        verb: &str,
        headers: &http::HeaderMap,
        url: &reqwest::Url,
        change: Value,
    ) -> Result<Value, Refusal> {
        let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let applies = verb == "patch" && kind == "application/apply-patch+yaml";
        let old = match state.objects.get(key) {
            Some(old) => old.clone(),
            None if applies && !place.status => {
                let mut new = json!({ "apiVersion": change["apiVersion"], "kind": change["kind"], "metadata": {} });
                new["metadata"] = json!({ "name": key.2, "namespace": key.1 });
                state.version += 1;
                let version = state.version;
                born(&mut new, version, self.clock.now());
                new
            }
            None => return Err(Refusal(404, "NotFound", format!("{} {:?} not found", key.0, key.2))),
        };
        if let Some(version) = change["metadata"]["resourceVersion"].as_str()
            && old["metadata"]["resourceVersion"] != version
        {
            return Err(Refusal(409, "Conflict", format!("{} {:?} was changed: look again", key.0, key.2)));
        }
        let mut new = if verb == "update" {
            change
        } else if applies {
            let manager = url.query_pairs().find(|(name, _)| name == "fieldManager").map(|(_, value)| value.into_owned());
            let id = (key.clone(), manager.unwrap_or_default(), place.status);
            let before = state.applied.insert(id.clone(), change.clone());
            let others: Vec<&Value> = state.applied.iter().filter(|(of, _)| of.0 == *key && **of != id).map(|(_, value)| value).collect();
            apply(Some(&old), before.as_ref(), &change, &others)
        } else {
            let mut new = old.clone();
            merge(&mut new, &change);
            new
        };
        // The status is one request's, and the rest the other's.
        let separate = WITH_STATUS.contains(&key.0.as_str());
        let (from, to): (&Value, Vec<&str>) = if place.status {
            (&old, old.as_object().into_iter().flat_map(Map::keys).map(String::as_str).filter(|name| *name != "status").collect())
        } else {
            (&old, if separate { vec!["status"] } else { Vec::new() })
        };
        for name in to {
            match from.get(name) {
                Some(value) => new[name] = value.clone(),
                None => drop(new.as_object_mut().map(|new| new.remove(name))),
            }
        }
        for name in ["uid", "creationTimestamp", "deletionTimestamp", "generation", "resourceVersion", "name", "namespace"] {
            match old["metadata"].get(name) {
                Some(value) => new["metadata"][name] = value.clone(),
                None => drop(new["metadata"].as_object_mut().map(|new| new.remove(name))),
            }
        }
        Ok(self.store(state, key, &old, new))
    }

    /// Stores what was changed, where it was. What is being deleted and has no finalizer any more goes.
    fn store(&self, state: &mut State, key: &Key, old: &Value, mut new: Value) -> Value {
        if state.objects.get(key) == Some(&new) {
            return new;
        }
        if old.get("spec") != new.get("spec") {
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        state.version += 1;
        new["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let held = new["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        if new["metadata"].get("deletionTimestamp").is_some() && !held {
            self.gone(state, key);
        } else {
            self.keep(state, key.clone(), new.clone());
        }
        new
    }

    fn remove(&self, state: &mut State, key: &Key) {
        let Some(old) = state.objects.get(key).cloned() else { return };
        if old["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            return self.gone(state, key);
        }
        if old["metadata"].get("deletionTimestamp").is_none() {
            let mut new = old.clone();
            new["metadata"]["deletionTimestamp"] = json!(second(self.clock.now()));
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
            self.store(state, key, &old, new);
        }
    }

    /// An object is gone, and what it owned goes with it.
    fn gone(&self, state: &mut State, key: &Key) {
        let Some(mut old) = state.objects.remove(key) else { return };
        state.applied.retain(|(of, ..), _| of != key);
        state.version += 1;
        old["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.history.push((state.version, key.clone(), "DELETED", old.clone()));
        self.version.send_replace(state.version);
        let owned = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|all| all.iter().any(|owner| owner["uid"] == old["metadata"]["uid"]))
        };
        let orphans: Vec<Key> = state.objects.iter().filter(|(_, object)| owned(object)).map(|(key, _)| key.clone()).collect();
        orphans.iter().for_each(|key| self.remove(state, key));
    }
}

fn second(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap().to_string()
}

/// What the apiserver gives to what is new, where it does not have it.
fn born(object: &mut Value, version: u64, now: jiff::Timestamp) {
    let meta = &mut object["metadata"];
    meta["resourceVersion"] = json!(version.to_string());
    for (name, value) in [
        ("uid", json!(uuid::Uuid::from_u128(0xFFFF_0000 + u128::from(version)).to_string())),
        ("creationTimestamp", json!(second(now))),
        ("generation", json!(1)),
    ] {
        if meta.get(name).is_none() {
            meta[name] = value;
        }
    }
}

fn list(state: &State, place: &Place) -> Value {
    let items: Vec<&Value> = state.objects.iter().filter(|(key, object)| place.holds(key, object)).map(|(_, object)| object).collect();
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": state.version.to_string() }, "items": items })
}

fn answer(result: Result<Value, Refusal>) -> Response<Body> {
    let (code, body) = match result {
        Ok(value) => (200, value),
        Err(Refusal(code, reason, message)) => {
            let status = json!({
                "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code,
            });
            (code, status)
        }
    };
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(Body::from(body.to_string().into_bytes())).unwrap()
}

/// What a path leads to.
struct Place {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
    status: bool,
    selector: String,
    labels: Vec<(String, String)>,
    fields: Vec<(String, String)>,
}

impl Place {
    fn of(url: &reqwest::Url) -> Option<Self> {
        let mut parts = url.path_segments()?;
        match parts.next()? {
            "api" => drop(parts.next()?),
            "apis" => drop((parts.next()?, parts.next()?)),
            _ => return None,
        }
        let rest: Vec<&str> = parts.collect();
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let query =
            |wanted: &str| url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned()).unwrap_or_default();
        let (labels, fields) = (query("labelSelector"), query("fieldSelector"));
        let pairs = |text: &str| text.split(',').filter_map(|one| one.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        Some(Self {
            resource: (*rest.first()?).to_owned(),
            namespace,
            name: rest.get(1).map(|name| (*name).to_owned()),
            status: rest.get(2) == Some(&"status"),
            selector: [labels.as_str(), fields.as_str()].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(" "),
            labels: pairs(&labels),
            fields: pairs(&fields),
        })
    }

    /// True for what a list of it has.
    fn holds(&self, key: &Key, object: &Value) -> bool {
        key.0 == self.resource
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.1)
            && self.labels.iter().all(|(name, value)| object["metadata"]["labels"][name] == *value)
            && self.fields.iter().all(|(path, value)| object.pointer(&format!("/{}", path.replace('.', "/"))) == Some(&json!(value)))
    }

    fn word(&self) -> String {
        if self.status { format!("{}/status", self.resource) } else { self.resource.clone() }
    }

    fn verb(&self, method: &Method, url: &reqwest::Url) -> &'static str {
        match *method {
            Method::GET if self.name.is_some() => "get",
            Method::GET if url.query_pairs().any(|(name, value)| name == "watch" && value != "false") => "watch",
            Method::GET => "list",
            Method::POST => "create",
            Method::PATCH => "patch",
            Method::PUT => "update",
            Method::DELETE => "delete",
            _ => "other",
        }
    }
}
