//! End to end, in a sandbox that stands and has Hawser in it: `scripts/e2e.sh system`. The demo is the first test; these come after it.
//!
//! Each test has a VM of its own, and they run beside each other. What strikes all of them (an operator that is killed, a vCenter that does
//! not answer) holds the [`Gate`] alone, and is in a module `alone`: so `test.sh` can run these first, and nobody waits at the gate. What takes a quarter of an
//! hour is in `hostile`, which is only run by name (`make e2e-hostile`).
#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod changes;
mod faults_azure;
mod faults_vcenter;
mod hostile;
mod input;
mod kills;
mod lifecycle;
mod operators;
mod reading;

use std::time::Duration;

use crds::replication_cycle::CyclePhase;
use reqwest::Method;
use serde_json::json;
use system::vm::{Replica, World};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What nothing should need: a wait that is longer is a failure.
const PATIENCE: Duration = Duration::from_secs(240);

static GATE: RwLock<()> = RwLock::const_new(());

/// Who may disturb whom.
#[allow(dead_code, reason = "held, not read")]
enum Gate {
    /// It disturbs nobody.
    Shared(RwLockReadGuard<'static, ()>),
    /// Others would be disturbed by it.
    Alone(RwLockWriteGuard<'static, ()>),
}

/// The sandbox, for a test that disturbs nobody.
async fn beside_others() -> (World, Gate) {
    let gate = Gate::Shared(GATE.read().await);
    (World::open().await.unwrap(), gate)
}

/// The sandbox, for a test that disturbs all others.
#[allow(dead_code, reason = "not every group needs it")]
async fn alone() -> (World, Gate) {
    let gate = Gate::Alone(GATE.write().await);
    (World::open().await.unwrap(), gate)
}

/// A VM whose initial cycle and first delta have succeeded, and whose replica is equal.
async fn replicated(world: &World, name: &str) -> Replica {
    let replica = Replica::apply(world, name, "").await.unwrap();
    replica.succeeded(2, PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    replica
}
