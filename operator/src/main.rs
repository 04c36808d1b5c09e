//! The operator's program.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use blocklog::{
    clock::{Clock, SystemClock},
    entropy::SystemEntropy,
};
use clap::Parser;
use crds::{Appliance, ReplicatedVM, ReplicationCycle, names};
use futures::{FutureExt, StreamExt, future::LocalBoxFuture};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        Controller,
        controller::{Action, Config},
        events::{Recorder, Reporter},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use operator::{
    appliance,
    appliance::sites::Sites,
    context::{Context, DiskLists, Settings},
    metrics::Metrics,
    told::Told,
    trouble::Trouble,
    vm,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
};

/// How long the Lease lasts without being renewed: after a leader that was killed, nobody leads for so long.
const LEASE_SECONDS: u64 = 15;
/// How long after a renewal the next one is.
const RENEW_SECONDS: u64 = 10;
/// How often one that waits looks whether the Lease was given back.
const LOOK: Duration = Duration::from_secs(2);
/// How long the passes that are under way have when the process is told to stop; one that makes seeds may take much longer, and can be cut
/// anywhere. With twice [`GOODBYE`] it is less than ten seconds, in which another leads.
const LAST_PASSES: Duration = Duration::from_secs(4);
/// How long each farewell may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Reconciles Appliances and ReplicatedVMs. Of several replicas one works, by a Lease; the others wait.
#[derive(Debug, Parser)]
#[command(name = "operator", version)]
struct Arguments {
    /// Who this cluster is to ledgers: 1 to 63 of A-Z a-z 0-9 . _ -; where it is not given, the UID of the namespace kube-system.
    #[arg(long, env = "HAWSER_CLUSTER")]
    cluster: Option<String>,
    /// A namespace whose objects are reconciled; may be given more than once. Default: all.
    #[arg(long)]
    namespace: Vec<String>,
    /// The name of the Lease.
    #[arg(long, default_value = "hawser-operator")]
    lease: String,
    /// The namespace of the Lease: the operator's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pod_namespace: String,
    /// Who this replica is: its pod's name.
    #[arg(long, env = "POD_NAME", default_value = "operator")]
    pod: String,
    /// The image of gateways and appliers where an appliance names none.
    #[arg(long, env = "HAWSER_WORKER_IMAGE")]
    worker_image: String,
    /// The service account of gateways and appliers where an appliance names none.
    #[arg(long, env = "HAWSER_WORKER_SERVICE_ACCOUNT", default_value = "hawser-worker")]
    worker_service_account: String,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "HAWSER_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// How many VMs are looked at at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!(why, "the operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let told = |what: &'static str| move |error: kube::Error| format!("{what}: {error}");
    let mut config = kube::Config::infer().await.map_err(|error| format!("no way to the apiserver: {error}"))?;
    // A pass is repeated as a whole: retries below it would only hide for minutes that nothing answers.
    config.default_retry = false;
    let client = Client::try_from(config).map_err(told("no client of the apiserver"))?;
    let cluster = cluster(&client, arguments.cluster.clone()).await?;
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    let (leads, leading) = watch::channel(false);
    let stop = stopping().shared();
    tokio::spawn(serve(arguments.listen, metrics.clone(), leading.clone()));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let Some(leadership) = lead(&client, &arguments, clock.as_ref(), stop.clone()).await? else { return Ok(()) };
    leads.send_replace(true);
    metrics.leading.set(1.0);
    let lost = leadership.lost();

    let scopes: Vec<Option<String>> =
        if arguments.namespace.is_empty() { vec![None] } else { arguments.namespace.iter().cloned().map(Some).collect() };
    let busy = Config::default().concurrency(arguments.concurrency);
    let controllers: Vec<_> = scopes
        .iter()
        .map(|scope| Controller::new(api::<ReplicatedVM>(&client, scope.as_deref()), watcher::Config::default()).with_config(busy.clone()))
        .collect();
    let settings = Settings { cluster, worker_image: arguments.worker_image, worker_service_account: arguments.worker_service_account };
    let reporter = Reporter { controller: "hawser-operator".to_owned(), instance: Some(arguments.pod) };
    let context = Arc::new(Context {
        client: client.clone(),
        clock,
        entropy: Arc::new(SystemEntropy),
        settings,
        sites: Sites::default(),
        recorder: Recorder::new(client.clone(), reporter),
        metrics,
        vms: controllers.iter().map(Controller::store).collect(),
        disks: DiskLists::default(),
        told: Told::default(),
        admission: tokio::sync::Mutex::new(()),
    });
    let end = async move {
        tokio::select! {
            () = stop => tracing::info!("told to stop"),
            () = lost => tracing::error!("the lease is lost"),
        }
    }
    .shared();
    let mut running: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
    for (scope, controller) in scopes.iter().zip(controllers) {
        let scope = scope.as_deref();
        let (store, store_of_told) = (controller.store(), controller.store());
        let of_appliance = move |appliance: Appliance| {
            let (namespace, name) = (appliance.namespace(), appliance.name_any());
            let refers = |vm: &Arc<ReplicatedVM>| vm.spec.appliance_ref.name == name && vm.namespace() == namespace;
            store.state().iter().filter(|vm| refers(vm)).map(|vm| ObjectRef::from_obj(vm.as_ref())).collect::<Vec<_>>()
        };
        let of_vms = controller
            .reconcile_on(context.told.wakes(store_of_told))
            .owns(api::<ReplicationCycle>(&client, scope), watcher::Config::default())
            .watches(api::<Appliance>(&client, scope), watcher::Config::default(), of_appliance)
            .graceful_shutdown_on(end.clone())
            .run(pass_over_vm, on_error, context.clone())
            .for_each(|_| std::future::ready(()));
        running.push(of_vms.boxed_local());
        let appliances = Controller::new(api::<Appliance>(&client, scope), watcher::Config::default());
        let (of_secret, of_map) = (appliances.store(), appliances.store());
        let of_appliances = appliances
            .with_config(Config::default().concurrency(4))
            // Of these only names and versions are watched: what they hold is read by the appliance that refers to it.
            .watches(api::<PartialObjectMeta<Secret>>(&client, scope), watcher::Config::default(), move |it| refers(&of_secret, &it))
            .watches(api::<PartialObjectMeta<ConfigMap>>(&client, scope), watcher::Config::default(), move |it| refers(&of_map, &it))
            .owns(api::<Deployment>(&client, scope), watcher::Config::default().labels(names::APPLIANCE_LABEL))
            .graceful_shutdown_on(end.clone())
            .run(pass_over_appliance, on_error, context.clone())
            .for_each(|_| std::future::ready(()));
        running.push(of_appliances.boxed_local());
    }
    tracing::info!(cluster = context.settings.cluster, "leading");
    let late = async {
        end.await;
        context.clock.sleep(LAST_PASSES).await;
    };
    tokio::select! {
        _ = futures::future::join_all(running) => {}
        // A pass that is cut here is what one is that was killed: the next leader looks again.
        () = late => tracing::warn!("not all passes have ended in time"),
    }
    leads.send_replace(false);
    context.metrics.leading.set(0.0);
    for site in context.sites.all() {
        // A session that is left counts against vCenter's limit until it runs out.
        let _ = tokio::time::timeout(GOODBYE, site.leave()).await;
    }
    // After the last pass, so that two never work at a time; before the end, or nobody leads until it runs out.
    if tokio::time::timeout(GOODBYE, leadership.release()).await.is_err() {
        tracing::warn!("the lease could not be given back in time: the next leader waits until it runs out");
    }
    Ok(())
}

/// The appliances that may refer to a Secret or a ConfigMap: those whose spec has its name somewhere. One too many is looked at once too
/// often.
fn refers<K: kube::Resource>(appliances: &Store<Appliance>, it: &K) -> Vec<ObjectRef<Appliance>> {
    let (namespace, name) = (it.meta().namespace.clone(), it.meta().name.clone().unwrap_or_default());
    let named =
        |appliance: &Arc<Appliance>| appliance.namespace() == namespace && appliance::references(&appliance.spec).contains(&name.as_str());
    appliances.state().iter().filter(|appliance| named(appliance)).map(|appliance| ObjectRef::from_obj(appliance.as_ref())).collect()
}

/// The objects of a namespace, or of all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace))
}

async fn pass_over_vm(object: Arc<ReplicatedVM>, context: Arc<Context>) -> Result<Action, Trouble> {
    let begun = context.clock.monotonic();
    let result = vm::reconcile(object, context.clone()).await;
    measured(&context, "ReplicatedVM", begun, &result);
    result
}

async fn pass_over_appliance(object: Arc<Appliance>, context: Arc<Context>) -> Result<Action, Trouble> {
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

/// Who this cluster is.
async fn cluster(client: &Client, given: Option<String>) -> Result<String, String> {
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

/// The Lease, held by this process, and renewed in a task until it is given back.
struct Leadership {
    held: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Leadership {
    /// Ends when another holds it.
    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut held = self.held.clone();
        async move {
            while *held.borrow_and_update() {
                if held.changed().await.is_err() {
                    break;
                }
            }
        }
    }

    /// Gives it back. What [`Leadership::lost`] has given has to be gone.
    async fn release(self) {
        // The task gives it back, and ends, when nobody listens to it any more.
        drop(self.held);
        match self.task.await {
            Ok(Ok(_)) => tracing::info!("the lease is given back"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be given back"),
            Err(error) => tracing::warn!(%error, "the lease could not be given back"),
        }
    }
}

/// Waits for the lease; none where the operator is stopped before it has it.
async fn lead(
    client: &Client,
    arguments: &Arguments,
    clock: &dyn Clock,
    stop: impl Future<Output = ()>,
) -> Result<Option<Leadership>, String> {
    let look = || async {
        LeaseManagerBuilder::new(client.clone(), &arguments.lease)
            .with_namespace(&arguments.pod_namespace)
            .with_identity(&arguments.pod)
            .with_duration(LEASE_SECONDS)
            .with_grace(LEASE_SECONDS - RENEW_SECONDS)
            .build()
            .await
            .map_err(|error| format!("the lease {} in {}: {error}", arguments.lease, arguments.pod_namespace))
    };
    let mut manager = look().await?;
    let won = async {
        loop {
            // One that another holds it believes until it runs out, though it be given back before: so it has to look anew. Where this is cut
            // between its taking the lease and its saying so, the next look finds it taken by this name.
            let looked = tokio::time::timeout(LOOK, manager.changed()).await;
            match looked {
                Ok(Ok(true)) => return manager,
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the lease can't be looked at");
                    clock.sleep(LOOK).await;
                }
            }
            match look().await {
                Ok(anew) => manager = anew,
                Err(why) => tracing::warn!(why, "the lease can't be looked at"),
            }
        }
    };
    tokio::select! {
        won = won => {
            let (held, task) = won.watch().await;
            Ok(Some(Leadership { held, task }))
        }
        () = stop => Ok(None),
    }
}

async fn stopping() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Serves what kubelet and Prometheus ask for: one request a connection, and nothing that is read from it counts but its first line.
async fn serve(at: SocketAddr, metrics: Metrics, leading: watch::Receiver<bool>) {
    let listener = match TcpListener::bind(at).await {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, %at, "no /healthz and no /metrics"),
    };
    loop {
        let Ok((mut connection, _)) = listener.accept().await else { continue };
        let (metrics, leads) = (metrics.clone(), *leading.borrow());
        tokio::spawn(async move {
            let mut head = [0; 1024];
            let read = tokio::time::timeout(Duration::from_secs(5), connection.read(&mut head)).await;
            let Ok(Ok(length)) = read else { return };
            let (status, body) = answer(&head[..length], leads, &metrics);
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            // Whoever has gone away asks again.
            let _ = connection.write_all(&[head.as_bytes(), &body].concat()).await;
        });
    }
}

fn answer(head: &[u8], leads: bool, metrics: &Metrics) -> (&'static str, Vec<u8>) {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match line.split(|byte| *byte == b' ').collect::<Vec<_>>().as_slice() {
        [b"GET", b"/healthz", ..] => ("200 OK", b"ok\n".to_vec()),
        // One that waits for the lease is ready to.
        [b"GET", b"/readyz", ..] => ("200 OK", if leads { b"leading\n".to_vec() } else { b"waiting for the lease\n".to_vec() }),
        [b"GET", b"/metrics", ..] => ("200 OK", metrics.text()),
        _ => ("404 Not Found", b"there are /healthz, /readyz and /metrics\n".to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_is_served() {
        let metrics = Metrics::new().unwrap();
        metrics.ready.with_label_values(&["a", "b"]).set(0.0);
        let ask = |line: &str| answer(format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(), true, &metrics);
        assert_eq!(ask("GET /healthz"), ("200 OK", b"ok\n".to_vec()));
        assert!(String::from_utf8(ask("GET /metrics").1).unwrap().contains("hawser_vm_ready"));
        assert_eq!(ask("GET /").0, "404 Not Found");
        assert_eq!(answer(b"", true, &metrics).0, "404 Not Found");
    }
}
