//! What all cycles of a gateway share, and the object of one as the apiserver tells it.

use std::sync::Arc;

use blocklog::{clock::Clock, store::LogStore};
use crds::{
    ReplicationCycle,
    conditions::{self, ConditionType, Status},
};
use kube::Api;
use vsphere::Client;

use super::{config::GatewayConfig, health::Health};
use crate::cpu::Threads;

/// What all cycles of a gateway share.
pub(super) struct Shared {
    pub(super) config: GatewayConfig,
    pub(super) pod: String,
    pub(super) api: Api<ReplicationCycle>,
    pub(super) store: Arc<dyn LogStore>,
    pub(super) client: Client,
    /// The turn to open a disk: [`super::control::Setup::opening`].
    pub(super) opening: Arc<tokio::sync::Mutex<()>>,
    pub(super) cpu: Arc<Threads>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) health: Arc<Health>,
}

/// The object as the apiserver tells it; none where it is not this pod's any more.
pub(super) type WatchedCycle = Option<Arc<ReplicationCycle>>;

/// True where a cycle needs its gateway no more: its log is complete or will never be, and its snapshot is gone.
pub(super) fn is_over(cycle: &ReplicationCycle) -> bool {
    let Some(status) = &cycle.status else { return false };
    let is = |of, status_: Status| conditions::is(&status.conditions, of, status_);
    let decided = is(ConditionType::Transferred, Status::True) || is(ConditionType::Transferred, Status::False);
    decided && is(ConditionType::SourceReleased, Status::True)
}
