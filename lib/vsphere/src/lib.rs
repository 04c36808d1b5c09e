//! VMware vCenter: its API as far as replication needs it.
//!
//! A client of the vSphere API over SOAP (6.5 to 9) written for the few methods that are used, and on top of it what Hawser does there: it
//! keeps an inventory ([`collector`]), says what can't be replicated ([`preflight`]), takes and releases snapshots ([`snapshot`]), switches
//! changed block tracking on ([`tracking`]), and asks what has changed ([`cbt`]).
//!
//! Decisions are functions of values: the walk over changed areas, the protocol of snapshots, preflight and the classification of faults
//! ([`classify`]) take no client and no clock.

mod breaker;
pub mod cbt;
pub mod classify;
pub mod collector;
pub mod envelope;
pub mod error;
pub mod fault;
pub mod methods;
pub mod model;
pub mod moref;
pub mod preflight;
pub mod secret;
pub mod session;
pub mod snapshot;
pub mod tasks;
pub mod tls;
pub mod tracking;
pub mod transport;
pub mod version;
pub mod write;
pub mod xml;

pub use error::Error;
pub use fault::Fault;
pub use moref::MoRef;
pub use secret::Secret;
pub use session::{Client, Credentials, LoginState, RETRY_LOGIN, Refusal};
pub use tls::{Thumbprint, Trust};
