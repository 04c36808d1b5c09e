//! A stand-in for Azure that is worth what it refuses: Resource Manager's rules for disks, snapshots, network cards and virtual
//! machines, the token endpoint of workload identity, and the SAS URLs of managed disks.

pub mod arm;
pub mod clock;
pub mod config;
pub mod control;
pub mod disks;
pub mod serve;
pub mod sts;

use std::sync::Arc;

pub use clock::Clock;
pub use config::Config;

/// Everything the simulator's three ports share; cheap to clone.
#[derive(Clone)]
pub struct State {
    inner: Arc<Inner>,
}

/// What [`State`] leads to.
pub struct Inner {
    /// Subscription, groups, networks, sizes, quotas, principals and roles.
    pub config: Config,
    /// The one clock.
    pub clock: Clock,
    /// The bytes of managed disks and snapshots, and their SAS.
    pub disks: disks::DiskStore,
    /// The token endpoint: signs tokens, and checks those that come back.
    pub sts: sts::Sts,
    /// Resource Manager.
    pub arm: arm::Arm,
}

impl std::ops::Deref for State {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl State {
    /// Puts the parts together.
    #[must_use]
    pub fn new(config: Config, clock: Clock, disks: disks::DiskStore, sts: sts::Sts) -> Self {
        let arm = arm::Arm::new(&config);
        Self { inner: Arc::new(Inner { config, clock, disks, sts, arm }) }
    }
}

/// The routes of the first port: Resource Manager and, on every other path, the token endpoint.
pub fn front(state: &State) -> axum::Router {
    sts::router(state.clone()).fallback_service(arm::router(state.clone()))
}
