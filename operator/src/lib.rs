//! Hawser's operator: what people ask for (`crds`) is made so by workers, vCenter and Azure.
//!
//! Each controller looks ([`vm::observe`]), decides (a pure function: [`vm::decide`]), does one step ([`vm::apply`]), and says what it
//! saw. Nothing is remembered from one pass to the next that could not be looked up: objects, ledger, inventory and Azure are the state.
#![allow(missing_docs, reason = "nobody outside links this crate: a name that speaks needs no sentence")]

pub mod admission;
pub mod appliance;
pub mod context;
pub mod controllers;
pub mod cycle;
pub mod due;
pub mod leadership;
pub mod metrics;
pub mod objects;
pub mod pass;
pub mod probes;
pub mod reading;
pub mod roles;
pub mod seeds;
pub mod status_writes;
pub mod trouble;
pub mod vm;
pub mod vm_changes;
pub mod wakes;
