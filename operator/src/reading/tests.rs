use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use blocklog::{clock::SystemClock, entropy::SystemEntropy};
use crds::{Appliance, ReplicatedVM, ReplicationCycle};
use http::{Method, Request, Response};
use kube::{
    client::Body,
    runtime::{
        controller::Action,
        events::{Recorder, Reporter},
    },
};
use serde_json::{Value, json};

use super::*;
use crate::{
    appliance::sites::Sites,
    context::{DiskLists, Settings},
    metrics::Metrics,
    vm::{self, model::ApplianceState, step::Step, test_support},
    vm_changes::VmChanges,
};

const BASE: &str = "/apis/hawser.dev/v1alpha1/namespaces/apps";

/// An apiserver that has some objects, and remembers what is written.
#[derive(Clone, Default)]
struct Server {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    written: Arc<Mutex<Vec<(String, Value)>>>,
    /// With which code it refuses to write.
    refuses: Option<u16>,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn with(objects: impl IntoIterator<Item = Value>) -> Self {
        let server = Self::default();
        objects.into_iter().for_each(|object| server.put(object));
        server
    }

    fn put(&self, object: Value) {
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        lock(&self.objects).insert(format!("{BASE}/{plural}/{}", object["metadata"]["name"].as_str().unwrap()), object);
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let of = path.trim_end_matches("/status");
        if *method != Method::GET {
            lock(&self.written).push((format!("{method} {path}"), body.clone()));
            if let (Some(code), true) = (self.refuses, *method == Method::PATCH) {
                return (code, json!({ "kind": "Status", "status": "Failure", "message": "no", "reason": "Invalid", "code": code }));
            }
        }
        let objects = lock(&self.objects);
        match objects.get(of) {
            Some(object) => (200, object.clone()),
            None if *method == Method::POST => (201, body),
            None if of.rsplit('/').next().is_some_and(|last| last.ends_with('s')) => {
                let items: Vec<&Value> = objects.range(format!("{of}/")..format!("{of}0")).map(|(_, object)| object).collect();
                (200, json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }))
            }
            None => (404, json!({ "kind": "Status", "status": "Failure", "message": "none", "reason": "NotFound", "code": 404 })),
        }
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (method, uri) = (request.method().clone(), request.uri().clone());
                let body = request.into_body().collect_bytes().await?;
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, answer) = server.answer(&method, uri.path(), body);
                Ok::<_, kube::Error>(Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap())
            }
        });
        Client::new(service, "apps")
    }

    fn context(&self) -> Context {
        let client = self.client();
        Context {
            client: client.clone(),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            settings: Settings { cluster: "c".into(), worker_image: "w".into(), worker_service_account: "w".into() },
            sites: Sites::default(),
            recorder: Recorder::new(client, Reporter { controller: MANAGER.into(), instance: None }),
            metrics: Metrics::new().unwrap(),
            vms: Vec::new(),
            disks: DiskLists::default(),
            vm_changes: VmChanges::default(),
            writes: Default::default(),
            admission: tokio::sync::Mutex::new(()),
        }
    }

    /// What was written to the objects, without what was told as events.
    fn written(&self) -> Vec<(String, Value)> {
        lock(&self.written).iter().filter(|(what, _)| what.contains(BASE)).cloned().collect()
    }
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "namespace": "apps", "uid": format!("uid-{name}"), "resourceVersion": "7", "generation": 1 })
}

fn vm(name: &str) -> Value {
    let mut object = serde_json::to_value(test_support::object(json!({}))).unwrap();
    object["metadata"] = metadata(name);
    object
}

fn odd_vm(name: &str) -> Value {
    let mut object = vm(name);
    object["spec"]["replication"] = json!("Rehearsed");
    object
}

fn appliance(name: &str) -> Value {
    let mut object = serde_json::to_value(test_support::appliance(json!({}))).unwrap();
    object["metadata"] = metadata(name);
    object
}

fn odd_cycle(name: &str, vm: &str) -> Value {
    let mut object = metadata(name);
    object["labels"] = json!({ (names::VM_LABEL): vm });
    object["finalizers"] = json!([names::SNAPSHOT_FINALIZER]);
    json!({
        "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicationCycle", "metadata": object,
        "spec": { "vmRef": { "name": vm }, "kind": "PreMigrate", "allotment": { "disks": 3 } },
    })
}

async fn unread(server: &Server) -> Arc<Unreadable> {
    get::<ReplicatedVM>(&server.client(), "apps", "odd").await.unwrap().unwrap().unwrap_err()
}

#[tokio::test]
async fn a_list_tells_the_readable_from_the_others() {
    let server = Server::with([vm("web"), odd_vm("odd"), vm("db")]);
    let listed = list::<ReplicatedVM>(&server.client(), "apps", &ListParams::default()).await.unwrap();
    assert_eq!(listed.names(), ["db", "web", "odd"]);
    let [odd] = listed.unreadable.as_slice() else { panic!("{listed:?}") };
    assert!(odd.why.contains("Rehearsed"), "{odd}");
}

#[tokio::test]
async fn an_object_that_is_there_and_unread_is_not_missing() {
    let server = Server::with([vm("web"), odd_vm("odd")]);
    let client = server.client();
    assert!(get::<ReplicatedVM>(&client, "apps", "web").await.unwrap().unwrap().is_ok());
    assert!(get::<ReplicatedVM>(&client, "apps", "odd").await.unwrap().unwrap().is_err());
    assert!(get::<ReplicatedVM>(&client, "apps", "none").await.unwrap().is_none());
}

#[tokio::test]
async fn an_unread_object_says_so_and_nothing_else_of_it_is_touched() {
    let server = Server::with([odd_vm("odd")]);
    let context = server.context();
    let unread = unread(&server).await;
    tell::<ReplicatedVM>(&context, &unread, ConditionType::Ready, Status::False).await.unwrap();
    let [(what, change)] = server.written().try_into().unwrap();
    assert_eq!(what, format!("PATCH {BASE}/replicatedvms/odd/status"));
    assert_eq!(change["status"].as_object().unwrap().keys().collect::<Vec<_>>(), ["conditions"]);
    let condition = &change["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("Ready"), &json!("Unreadable")));
    let events = lock(&server.written).iter().filter(|(what, _)| what.contains("/events")).count();
    assert_eq!(events, 1, "people are told");

    // What is said already is not said again.
    let mut told = odd_vm("odd");
    told["status"] = json!({ "conditions": [condition] });
    server.put(told);
    let unread = super::tests::unread(&server).await;
    tell::<ReplicatedVM>(&context, &unread, ConditionType::Ready, Status::False).await.unwrap();
    assert_eq!(server.written().len(), 1);
}

#[tokio::test]
async fn an_apiserver_that_refuses_the_word_stops_nobody() {
    let server = Server { refuses: Some(422), ..Server::with([odd_vm("odd")]) };
    let unread = unread(&server).await;
    tell::<ReplicatedVM>(&server.context(), &unread, ConditionType::Ready, Status::False).await.unwrap();
    assert_eq!(lock(&server.written).len(), 1, "and no event");
}

#[tokio::test]
async fn a_pass_over_an_unread_vm_tells_it_and_does_nothing() {
    let server = Server::with([odd_vm("odd"), vm("web")]);
    let object: Read<ReplicatedVM> = serde_json::from_value(odd_vm("odd")).unwrap();
    let action = vm::reconcile(Arc::new(object), Arc::new(server.context())).await.unwrap();
    assert_eq!(action, Action::await_change());
    let written = server.written();
    assert_eq!(written.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>(), [format!("PATCH {BASE}/replicatedvms/odd/status")]);
}

#[tokio::test]
async fn a_pass_over_an_unread_appliance_keeps_its_finalizer() {
    let mut odd = appliance("onprem");
    odd["spec"]["diskAccess"]["method"] = json!("NFC");
    odd["metadata"]["deletionTimestamp"] = json!("2026-11-29T00:00:00Z");
    odd["metadata"]["finalizers"] = json!([names::APPLIANCE_FINALIZER]);
    let server = Server::with([odd.clone()]);
    let object: Read<Appliance> = serde_json::from_value(odd).unwrap();
    let action = crate::appliance::reconcile(Arc::new(object), Arc::new(server.context())).await.unwrap();
    assert_eq!(action, Action::await_change());
    let written = server.written();
    assert_eq!(written.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>(), [format!("PATCH {BASE}/appliances/onprem/status")]);
}

#[tokio::test]
async fn an_appliance_is_kept_for_a_vm_that_cant_be_read() {
    let mut object = appliance("onprem");
    object["metadata"]["deletionTimestamp"] = json!("2026-11-29T00:00:00Z");
    object["metadata"]["finalizers"] = json!([names::APPLIANCE_FINALIZER]);
    let server = Server::with([object.clone(), odd_vm("odd")]);
    let read: Read<Appliance> = serde_json::from_value(object).unwrap();
    // Whatever else it meets in a world without Secrets.
    let _ = crate::appliance::reconcile(Arc::new(read), Arc::new(server.context())).await;
    let off = |(what, change): &(String, Value)| what.ends_with("/appliances/onprem") && change["metadata"]["finalizers"] == json!([]);
    assert!(!server.written().iter().any(off), "{:?}", server.written());
    let told = server.written().into_iter().find(|(what, _)| what.ends_with("/appliances/onprem/status")).map(|(_, change)| change);
    assert!(told.is_some_and(|change| change.to_string().contains("have gone: odd")), "{:?}", server.written());
}

#[tokio::test]
async fn a_vm_of_an_unreadable_appliance_says_so() {
    let name = test_support::object(json!({})).spec.appliance_ref.name;
    let mut odd = appliance(&name);
    odd["spec"]["diskAccess"]["method"] = json!("NFC");
    let server = Server::with([odd, vm("web")]);
    let object: ReplicatedVM = serde_json::from_value(vm("web")).unwrap();
    let seen = vm::observe::observe(&server.context(), object).await.unwrap();
    let ApplianceState::Unbuilt(trouble) = &seen.appliance else { panic!("{:?}", seen.appliance) };
    assert!(trouble.reason == Reason::Unreadable && trouble.message.contains("NFC"), "{trouble}");
    assert_eq!(seen.source.as_ref().unwrap_err().reason, Reason::Unreadable);
}

/// The step of a VM that is due, and has a snapshot that nobody seems to need, with and without a cycle of its that can't be read.
#[test]
fn a_vm_with_an_unread_cycle_begins_and_sweeps_nothing() {
    let mut due = test_support::later(test_support::mirrored(test_support::clean(1)), jiff::SignedDuration::from_hours(48));
    assert_ne!(test_support::decide(&due).step, Step::None);
    let odd: Read<ReplicationCycle> = serde_json::from_value(odd_cycle("web-2", "web")).unwrap();
    due.due = Err(Trouble::from(odd.0.unwrap_err().as_ref()));
    let mut sweeps = due.clone();
    sweeps.source.as_mut().unwrap().snapshots.insert(blocklog::ids::Cycle(2), "hawser-2".into());
    for seen in [due, sweeps] {
        let decision = test_support::decide(&seen);
        let said = decision.findings.iter().rev().find(|finding| finding.of == ConditionType::Replicating).unwrap();
        assert_eq!((decision.step, said.reason), (Step::None, Reason::Unreadable));
        assert!(said.message.contains("web-2"), "{}", said.message);
    }
}

#[test]
fn an_unread_cycle_has_its_slots_until_it_is_known_to_be_sent() {
    let slots = |edit: &dyn Fn(&mut Value)| {
        let mut object = odd_cycle("web-2", "web");
        edit(&mut object);
        let read: Read<ReplicationCycle> = serde_json::from_value(object).unwrap();
        holders(&[read.0.unwrap_err()]).map(|holder| (holder.vm, holder.disks)).collect::<Vec<_>>()
    };
    assert_eq!(slots(&|_| {}), [("web".to_owned(), 3)]);
    assert_eq!(slots(&|object| object["spec"]["allotment"] = json!("?")), [("web".to_owned(), 1)]);
    let sent = json!({
        "type": "Transferred", "status": "True", "reason": "AsExpected", "message": "", "lastTransitionTime": "2026-11-29T00:00:00Z",
    });
    assert!(slots(&|object| object["status"] = json!({ "conditions": [sent] })).is_empty());
    assert!(slots(&|object| object["metadata"]["finalizers"] = json!([])).is_empty());
}

#[test]
fn a_closed_cycle_that_cant_be_read_is_history() {
    let read = |finalizers: Value| {
        let mut object = odd_cycle("web-2", "web");
        object["metadata"]["finalizers"] = finalizers;
        serde_json::from_value::<Read<ReplicationCycle>>(object).unwrap().0.unwrap_err()
    };
    let (closed, held) = (read(json!([])), read(json!([names::SNAPSHOT_FINALIZER])));
    assert_eq!(open(std::slice::from_ref(&closed)), None);
    assert_eq!(open(&[closed, held.clone()]), Some(&held));
}
