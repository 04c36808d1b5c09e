//! The worker: gateway and applier.

pub mod applier;
pub mod cpu;
pub mod env;
pub mod gateway;
mod patience;
pub mod snapshot;
pub mod throttle;
