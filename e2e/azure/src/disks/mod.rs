//! Managed disks and snapshots: their bytes, and the host that their SAS URLs lead to.

mod conditions;
mod disk;
mod footer;
mod host;
mod knobs;
mod ranges;
mod refusal;
mod request;
mod sas;
mod source;
mod store;
mod switches;
#[cfg(test)]
mod tests;

pub use conditions::Conditional;
pub use footer::{FOOTER, InvalidVhd};
pub use host::router;
pub use store::{Access, DiskStore};
pub use switches::{Checked, Counts, Effect, Fault, Operation, OperationCounts, Switches};
