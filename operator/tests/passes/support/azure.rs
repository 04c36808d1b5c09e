//! Azure in the test's process: Resource Manager, tokens and the disks' hosts, over sockets of this machine.

use std::sync::Arc;

use azure_simulator::{
    Config, State,
    config::{CLIENT, SUBSCRIPTION, TENANT, Times},
    disks, front, serve, sts,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::clock::TestClock;

/// The simulator of Azure's rules. Its own clock is the machine's; what is begun has ended when it is looked at.
pub struct Azure {
    pub state: State,
    pub endpoint: String,
    /// Its certificate, in PEM.
    pub authority: String,
    _folder: tempfile::TempDir,
    servers: [JoinHandle<()>; 2],
}

impl Drop for Azure {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

impl Azure {
    pub async fn start(clock: &Arc<TestClock>) -> Self {
        let mut config = Config {
            times: Times { disk: 0.0, access: 0.0, nic: 0.0, vm: 0.0, power: 0.0, retry_after: 0, rbac: 0.0, ..Times::default() },
            ..Config::default()
        };
        config.throttle.scale = 0.0;
        config.check().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let time = azure_simulator::Clock::system();
        let hosts = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let public = format!("http://{}", hosts.local_addr().unwrap());
        let store = disks::DiskStore::open(folder.path(), &public, time.clone()).unwrap();
        let sts = sts::Sts::new(&config, time.clone()).unwrap();
        let state = State::new(config, time, store, sts);
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = issued.signing_key.serialize_der().try_into().unwrap();
        let tls = serve::acceptor(vec![issued.cert.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let servers = [
            tokio::spawn({
                let routes = counted(front(&state), clock.clone());
                async move { match serve::serve(listener, Some(tls), routes).await {} }
            }),
            tokio::spawn({
                let routes = counted(disks::router(state.clone()), clock.clone());
                async move { match serve::serve(hosts, None, routes).await {} }
            }),
        ];
        Self { state, endpoint, authority: issued.cert.pem(), _folder: folder, servers }
    }

    /// The part of an Appliance's spec that leads here.
    pub fn spec(&self) -> Value {
        json!({
            "subscriptionId": SUBSCRIPTION, "resourceGroup": "hawser", "location": "westeurope",
            "credentials": { "type": "ClientSecret", "tenantId": TENANT, "clientId": CLIENT, "clientSecretRef": { "name": "azure" } },
            "endpoints": {
                "resourceManager": self.endpoint, "authorityHost": self.endpoint, "resourceManagerAudience": "https://management.azure.com",
            },
            "caBundleRef": { "kind": "ConfigMap", "name": "azure-ca", "key": "ca.crt" },
        })
    }

    /// How often an operation was asked for: `PUT Microsoft.Compute/disks`.
    pub fn count(&self, operation: &str) -> u64 {
        self.state.arm.knobs.counts().get(operation).copied().unwrap_or(0)
    }
}

/// Tells the clock of each request, so that no time passes meanwhile.
fn counted(routes: axum::Router, clock: Arc<TestClock>) -> axum::Router {
    routes.layer(axum::middleware::from_fn(move |request: axum::extract::Request, next: axum::middleware::Next| {
        let clock = clock.clone();
        async move {
            clock.active(true);
            let response = next.run(request).await;
            clock.active(false);
            response
        }
    }))
}
