//! The worker's pods: gateway and applier in a cluster, and an applier anywhere.
//!
//! `worker gateway` runs the cycles that name its pod: [`gateway`] watches them, [`control`] is vCenter's side of each, [`vddk`] opens
//! their disks,
//! [`status`] says how they go. `worker applier` carries out the orders that lie in the log store ([`applier`]), and needs neither Kubernetes nor
//! vCenter. Both are told what they need by a file ([`config`]).

pub mod applier;
pub mod baseline;
pub mod config;
pub mod control;
mod cycle;
pub mod event;
pub mod gateway;
pub mod health;
mod open;
pub mod report;
mod shared;
pub mod status;
pub mod vddk;
mod writer;

/// How long a process that is told to stop takes at the most until its leases are free.
pub const HAND_OVER: std::time::Duration = std::time::Duration::from_secs(10);

/// The command that starts `worker gateway` anew, where it has to trust other authorities.
///
/// # Errors
/// [`crate::failure::Kind::BadFile`].
pub fn trusting_gateway(file: &std::path::Path) -> Result<Option<std::process::Command>, crate::failure::Failure> {
    open::trusting(&config::GatewayConfig::read(file)?.log_store)
}

/// The same of `worker applier`.
///
/// # Errors
/// [`crate::failure::Kind::BadFile`].
pub fn trusting_applier(file: &std::path::Path) -> Result<Option<std::process::Command>, crate::failure::Failure> {
    open::trusting(&config::ApplierConfig::read(file)?.log_store)
}
