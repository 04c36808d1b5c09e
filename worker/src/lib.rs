//! The worker: gateway and applier.

pub mod applier;
pub mod cli;
pub mod cpu;
pub mod env;
pub mod failure;
pub mod gateway;
pub mod local;
mod patience;
pub mod snapshot;
pub mod throttle;
