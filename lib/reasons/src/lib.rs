//! Why something is as it is, and what may stand in the way: closed sets of words, the same for whoever meets the fault.
//!
//! A [`Reason`] stands in conditions, events, metrics, `waitingFor`, the log store's documents and the worker's exits; a [`ConcernId`] in a ReplicatedVM's
//! concerns. Each has a meaning and a remedy, which the reference in `docs/api.md` is made from: a word without them does not compile. Errors of all crates
//! say their reason as a value of these types. Text becomes one in two places only: where an object or a document is read.
//!
//! This crate knows no other of the tree.

mod concern;
mod reason;
mod words;

pub use concern::{ConcernId, Severity};
pub use reason::Reason;
