//! What wakes a pass: which objects are watched for which controller, and how many passes run at a time. Hawser's own are watched as [`Read`]: one
//! that this version can't read wakes its own pass, which says so, and costs no other one.

use std::{fmt::Debug, sync::Arc, time::Duration};

use crds::{Appliance, Read, ReplicatedVM, ReplicationCycle, names};
use futures::{FutureExt, StreamExt, future::LocalBoxFuture};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt,
        controller::{Action, Config},
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;

use crate::{appliance, context::Context, trouble::Trouble, vm, wakes};

/// How long the passes that are under way have when the process is told to stop; one that makes seeds may take much longer, and can be cut
/// anywhere. With the farewells that follow it is less than ten seconds, in which another leads.
const LAST_PASSES: Duration = Duration::from_secs(4);
/// How many Appliances are looked at at once.
const APPLIANCES: u16 = 4;

/// The controllers of all namespaces that are watched.
pub struct Controllers {
    client: Client,
    scopes: Vec<Scope>,
}

/// A namespace, or all of them.
struct Scope {
    namespace: Option<String>,
    /// Made before the others, since all passes share what it stores.
    vms: Controller<Read<ReplicatedVM>>,
}

impl Controllers {
    /// Of these namespaces, or of all where none is given; `concurrency` VMs are looked at at once in each.
    #[must_use]
    pub fn new(client: &Client, namespaces: &[String], concurrency: u16) -> Self {
        let namespaces = if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() };
        let busy = Config::default().concurrency(concurrency);
        let scope = |namespace: Option<String>| {
            let vms = watched(api::<Read<ReplicatedVM>>(client, namespace.as_deref()));
            Scope { namespace, vms: vms.with_config(busy.clone()) }
        };
        Self { client: client.clone(), scopes: namespaces.into_iter().map(scope).collect() }
    }

    /// The ReplicatedVMs as the watches tell them, a store for each scope.
    #[must_use]
    pub fn stores(&self) -> Vec<Store<Read<ReplicatedVM>>> {
        self.scopes.iter().map(|scope| scope.vms.store()).collect()
    }

    /// Reconciles until `end` ends, and what is under way then for a little while.
    pub async fn run(self, context: Arc<Context>, end: impl Future<Output = ()> + Clone + Send + Sync + 'static) {
        let mut running = Vec::new();
        for Scope { namespace, vms } in self.scopes {
            let namespace = namespace.as_deref();
            running.push(of_vms(vms, &self.client, namespace, context.clone(), end.clone()));
            running.push(of_appliances(&self.client, namespace, context.clone(), end.clone()));
        }
        let late = async {
            end.await;
            context.clock.sleep(LAST_PASSES).await;
        };
        tokio::select! {
            _ = futures::future::join_all(running) => {}
            // A pass that is cut here is what one is that was killed: the next leader looks again.
            () = late => tracing::warn!("not all passes have ended in time"),
        }
    }
}

/// Wakes an object by what others change of it, and not by its status, which the pass itself has written.
fn watched<K>(api: Api<Read<K>>) -> Controller<Read<K>>
where
    K: Send + Sync + 'static,
    Read<K>: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let (reader, writer) = reflector::store();
    let events = watcher(api, watcher::Config::default()).reflect(writer);
    Controller::for_stream(wakes::changed(events, wakes::read_but_status), reader)
}

/// Wakes a VM by itself, its cycles, its appliance, and what vCenter tells of it.
fn of_vms(
    controller: Controller<Read<ReplicatedVM>>,
    client: &Client,
    namespace: Option<&str>,
    context: Arc<Context>,
    end: impl Future<Output = ()> + Send + Sync + 'static,
) -> LocalBoxFuture<'static, ()> {
    let (store, store_of_changes) = (controller.store(), controller.store());
    let of_appliance = move |appliance: Read<Appliance>| {
        let (namespace, name) = (appliance.namespace(), appliance.name_any());
        let refers =
            |vm: &Read<ReplicatedVM>| vm.readable().is_some_and(|vm| vm.spec.appliance_ref.name == name && vm.namespace() == namespace);
        store.state().iter().filter(|vm| refers(vm)).map(|vm| ObjectRef::from_obj(vm.as_ref())).collect::<Vec<_>>()
    };
    controller
        .reconcile_on(context.vm_changes.wakes(store_of_changes))
        .owns_stream(wakes::changed(
            watcher(api::<Read<ReplicationCycle>>(client, namespace), Default::default()),
            wakes::read(wakes::of_cycle),
        ))
        .watches_stream(
            wakes::changed(watcher(api::<Read<Appliance>>(client, namespace), Default::default()), wakes::read(wakes::of_appliance)),
            of_appliance,
        )
        .graceful_shutdown_on(end)
        .run(pass_over_vm, on_error, context)
        .for_each(|_| std::future::ready(()))
        .boxed_local()
}

/// Wakes an appliance by itself, its workers, and the Secrets and ConfigMaps that it refers to.
fn of_appliances(
    client: &Client,
    namespace: Option<&str>,
    context: Arc<Context>,
    end: impl Future<Output = ()> + Send + Sync + 'static,
) -> LocalBoxFuture<'static, ()> {
    let controller = watched(api::<Read<Appliance>>(client, namespace));
    let (of_secret, of_map) = (controller.store(), controller.store());
    controller
        .with_config(Config::default().concurrency(APPLIANCES))
        // Of these only names and versions are watched: what they hold is read by the appliance that refers to it.
        .watches(api::<PartialObjectMeta<Secret>>(client, namespace), watcher::Config::default(), move |it| refers(&of_secret, &it))
        .watches(api::<PartialObjectMeta<ConfigMap>>(client, namespace), watcher::Config::default(), move |it| refers(&of_map, &it))
        .owns(api::<Deployment>(client, namespace), watcher::Config::default().labels(names::APPLIANCE_LABEL))
        .graceful_shutdown_on(end)
        .run(pass_over_appliance, on_error, context)
        .for_each(|_| std::future::ready(()))
        .boxed_local()
}

/// The appliances that may refer to a Secret or a ConfigMap: those whose spec has its name somewhere. One too many is looked at once too
/// often.
fn refers<K: kube::Resource>(appliances: &Store<Read<Appliance>>, it: &K) -> Vec<ObjectRef<Read<Appliance>>> {
    let (namespace, name) = (it.meta().namespace.clone(), it.meta().name.clone().unwrap_or_default());
    let named = |appliance: &Read<Appliance>| {
        appliance.namespace() == namespace
            && appliance.readable().is_some_and(|appliance| appliance::references(&appliance.spec).contains(&name.as_str()))
    };
    appliances.state().iter().filter(|appliance| named(appliance)).map(|appliance| ObjectRef::from_obj(appliance.as_ref())).collect()
}

/// The objects of a namespace, or of all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace))
}

async fn pass_over_vm(object: Arc<Read<ReplicatedVM>>, context: Arc<Context>) -> Result<Action, Trouble> {
    let begun = context.clock.monotonic();
    let result = vm::reconcile(object, context.clone()).await;
    measured(&context, "ReplicatedVM", begun, &result);
    result
}

async fn pass_over_appliance(object: Arc<Read<Appliance>>, context: Arc<Context>) -> Result<Action, Trouble> {
    let begun = context.clock.monotonic();
    let result = appliance::reconcile(object, context.clone()).await;
    measured(&context, "Appliance", begun, &result);
    result
}

fn measured(context: &Context, kind: &str, begun: Duration, result: &Result<Action, Trouble>) {
    let seconds = context.clock.monotonic().saturating_sub(begun).as_secs_f64();
    context.metrics.passes.with_label_values(&[kind]).observe(seconds);
    if let Err(trouble) = result {
        tracing::warn!(kind, reason = %trouble.reason, %trouble, "a pass failed");
        context.metrics.errors.with_label_values(&[kind, trouble.reason.as_str()]).inc();
    }
}

/// The apiserver did not do something: soon again, whatever it was.
fn on_error<K>(_: Arc<K>, trouble: &Trouble, _: Arc<Context>) -> Action {
    Action::requeue(trouble.again.unwrap_or(Duration::from_secs(5)))
}
