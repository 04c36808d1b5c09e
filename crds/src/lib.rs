//! The objects of `hawser.dev/v1alpha1`: what users ask for, and what Hawser says about it.
//!
//! The definitions that an apiserver gets are made from these types ([`definitions`]) and committed beside this crate as `crds/*.yaml`; the
//! reference in `docs/api.md` is made from the same. A test fails where they differ, and says how to make them anew.
//!
//! Whatever can be refused when a manifest is applied is refused by the schema: bounds, defaults, and rules in CEL, whose messages say
//! what to write instead. So no webhook is needed, and a controller finds only what the rules let through. Still, a parser here never relies on that:
//! an older schema may have been laxer.
//!
//! Every field has one writer; its description says who. `metadata` and `spec` are the user's, but for [`ReplicationCycle`], which the operator
//! makes. Triggers are tokens that are echoed in status when they are done.
#![allow(clippy::duplicated_attributes, reason = "two columns of a printed table may be of the same type")]

pub mod appliance;
pub mod blackout_window;
pub mod common;
pub mod conditions;
pub mod names;
pub mod reading;
pub mod replicated_vm;
pub mod replication_cycle;
mod rules;
mod schema;
pub mod span;
pub mod windows;

/// What may stand in the way of replicating a VM: the ids of concerns.
pub mod concerns {
    pub use ::reasons::{ConcernId, Severity};
}

/// Why: one closed set of words for conditions, events, metrics, `waitingFor`, and what workers report.
pub mod reasons {
    pub use ::reasons::Reason;
}

pub use appliance::{Appliance, ApplianceSpec, ApplianceStatus};
pub use blackout_window::{BlackoutWindow, BlackoutWindowSpec, BlackoutWindowStatus};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
pub use reading::{Read, Unreadable};
pub use replicated_vm::{ReplicatedVM, ReplicatedVMSpec, ReplicatedVMStatus};
pub use replication_cycle::{ReplicationCycle, ReplicationCycleSpec, ReplicationCycleStatus};

/// The definitions as they are installed, in the order of the documentation.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [Appliance::crd(), ReplicatedVM::crd(), BlackoutWindow::crd(), ReplicationCycle::crd()].into_iter().map(schema::tidy).collect()
}
