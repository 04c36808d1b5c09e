//! The operator's hands: the real passes against an apiserver, a log store, an Azure and a vCenter that answer as the real ones do, in seconds.
//!
//! * `steps.rs`: what is seen after each step is what `vm::test_support::done` says, on which all tests of decisions rest.
//! * `faults.rs`: whatever the apiserver does to one request, the next passes come to the same end.
//! * `conflicts.rs`: whoever writes between a pass's look and its write loses nothing.
//! * `appliances.rs`: the same for the Appliance's passes.
//! * `costs.rs`: how many requests a pass costs.
//! * `controllers.rs`: the real controllers at work for a while.
//! * `storms.rs`: a server that is down is asked by one, and statuses are written now and then.
//! * `unreadable.rs`: a cycle that a newer version wrote.
//! * `support/`: what they are tested against, and how a test is written ([`support::World`]).

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod appliances;
mod conflicts;
mod controllers;
mod costs;
mod faults;
mod steps;
mod storms;
mod support;
mod unreadable;
