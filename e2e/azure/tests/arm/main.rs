//! Resource Manager over its own port: every rule has a test here in which it refuses.

#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod auth;
mod basics;
mod disks;
mod faults;
mod import;
mod machines;
mod nics;
mod operations;
mod process;
mod roles;
mod settings;
mod sim;
mod snapshots;
mod vm_lifecycle;
