//! The operator's program: it serves its probes, waits for the lease, reconciles until it is stopped, and gives back what it holds.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use ::probes::{LIMITS, Server};
use blocklog::{
    clock::{Clock, SystemClock},
    entropy::SystemEntropy,
};
use clap::Parser;
use futures::FutureExt;
use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};
use operator::{
    appliance::sites::Sites,
    context::{self, Context, DiskLists, Settings},
    controllers::Controllers,
    leadership::{self, Claim},
    metrics::Metrics,
    objects::MANAGER,
    probes::Probes,
    status_writes::StatusWrites,
    vm_changes::VmChanges,
};
use tokio::sync::watch;

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
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    let (leads, leading) = watch::channel(false);
    let server = Server::bind(arguments.listen, LIMITS).await.map_err(|error| format!("--listen {}: {error}", arguments.listen))?;
    tokio::spawn(server.serve(Arc::new(Probes { metrics: metrics.clone(), leading })));
    let mut config = kube::Config::infer().await.map_err(|error| format!("no way to the apiserver: {error}"))?;
    // A pass is repeated as a whole: retries below it would only hide for minutes that nothing answers.
    config.default_retry = false;
    let client = Client::try_from(config).map_err(|error| format!("no client of the apiserver: {error}"))?;
    let cluster = context::cluster(&client, arguments.cluster).await?;
    let stop = stopping().shared();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let claim = Claim { namespace: arguments.pod_namespace, lease: arguments.lease, identity: arguments.pod.clone() };
    let Some(leadership) = leadership::lead(&client, &claim, clock.as_ref(), stop.clone()).await? else { return Ok(()) };
    leads.send_replace(true);
    metrics.leading.set(1.0);
    let controllers = Controllers::new(&client, &arguments.namespace, arguments.concurrency);
    let settings = Settings { cluster, worker_image: arguments.worker_image, worker_service_account: arguments.worker_service_account };
    let context = Arc::new(Context {
        client: client.clone(),
        clock,
        entropy: Arc::new(SystemEntropy),
        settings,
        sites: Sites::default(),
        recorder: Recorder::new(client, Reporter { controller: MANAGER.to_owned(), instance: Some(arguments.pod) }),
        metrics,
        vms: controllers.stores(),
        disks: DiskLists::default(),
        vm_changes: VmChanges::default(),
        writes: StatusWrites::default(),
        admission: tokio::sync::Mutex::new(()),
    });
    let lost = leadership.lost();
    let end = async move {
        tokio::select! {
            () = stop => tracing::info!("told to stop"),
            () = lost => tracing::error!("the lease is lost"),
        }
    };
    tracing::info!(cluster = context.settings.cluster, "leading");
    controllers.run(context.clone(), end.shared()).await;
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        <super::Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
