//! The worker: gateway and applier.

#![allow(missing_docs, reason = "nothing outside this folder links it: a name that speaks needs no sentence")]

pub mod applier;
pub mod cli;
pub mod cluster;
pub mod cpu;
pub mod env;
pub mod failure;
pub mod gateway;
mod leases;
pub mod local;
mod outage;
mod patience;
pub mod read_back;
mod secrets;
pub mod snapshot;
pub mod throttle;

/// Blocks of a MiB are allocated on one thread and freed on another, hundreds a second. The system's allocator gives each back to the kernel
/// and faults it in again page by page, which costs more than reading it, or keeps what is free once for each thread.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
