//! The log: the blocks of a cycle on their way from source to replica, and the documents by which the halves of Hawser meet.
//!
//! A gateway makes records of blocks ([`codec`]), packs them into segments ([`segment`]), and commits a cycle's segments with a manifest
//! ([`cycle`]). An applier verifies and writes them to the seeds, and says so in the ledger ([`ledger`]), the truth about one VM's replica.
//! All of it lies in a [`store::LogStore`]; documents carry a MAC ([`document`]), blocks are encrypted ([`keys`]).

pub mod azure_blob;
pub mod blob_name;
pub mod clock;
pub mod codec;
pub mod constant;
pub mod cycle;
pub mod document;
pub mod entropy;
pub mod error;
pub mod fingerprints;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod golden;
pub mod held;
pub mod ids;
pub mod key_check;
pub mod keys;
pub mod ledger;
pub mod names;
pub mod plant;
pub mod segment;
pub mod setback;
pub mod steward;
pub mod store;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
pub mod turnstile;

pub use error::LogError;
