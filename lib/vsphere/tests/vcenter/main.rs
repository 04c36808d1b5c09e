//! The client against a vCenter: the simulator of `e2e/vcenter`, whose author is another one than the client's, over TLS on loopback.

#![allow(clippy::unwrap_used, reason = "a test")]

mod changes;
mod client;
mod fixture;
mod inventory;
mod program;
mod snapshots;
