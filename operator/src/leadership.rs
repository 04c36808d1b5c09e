//! Which of several operators works: the one that holds the Lease. It only keeps two from the same work; what must not happen twice is kept by
//! leases on blobs.

use std::time::Duration;

use blocklog::clock::Clock;
use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, task::JoinHandle};

/// How long the Lease lasts without being renewed: after a leader that was killed, nobody leads for so long.
const LEASE_SECONDS: u64 = 15;
/// How long after a renewal the next one is.
const RENEW_SECONDS: u64 = 10;
/// How often one that waits looks whether the Lease was given back.
const LOOK: Duration = Duration::from_secs(2);

/// Which Lease, and who wants it.
#[derive(Debug, Clone)]
pub struct Claim {
    pub namespace: String,
    pub lease: String,
    /// Who wants it: the pod's name.
    pub identity: String,
}

/// The Lease, held by this process, and renewed in a task until it is given back.
pub struct Leadership {
    held: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Leadership {
    /// Ends when another holds it.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
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
    pub async fn release(self) {
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
///
/// # Errors
/// Where it can't be looked at even once: the process may not, or nothing answers.
pub async fn lead(client: &Client, claim: &Claim, clock: &dyn Clock, stop: impl Future<Output = ()>) -> Result<Option<Leadership>, String> {
    let look = || async {
        LeaseManagerBuilder::new(client.clone(), &claim.lease)
            .with_namespace(&claim.namespace)
            .with_identity(&claim.identity)
            .with_duration(LEASE_SECONDS)
            .with_grace(LEASE_SECONDS - RENEW_SECONDS)
            .build()
            .await
            .map_err(|error| format!("the lease {} in {}: {error}", claim.lease, claim.namespace))
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
