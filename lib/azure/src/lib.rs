//! Azure for Hawser: who we are to it ([`credential`]), Resource Manager ([`arm`]), the managed disks that replicas are ([`disks`]), and
//! whether we may do what we will have to ([`rights`]).
//!
//! There is no official client of Resource Manager in Rust, so this is a small one of the dozen calls that are needed. All of them are safe to
//! repeat: PUT by name, GET, DELETE, and POSTs that end in the same state. What takes long goes on in Azure whether or not anybody asks, so an
//! operation is begun once more after a restart, and Azure answers with what is there.

pub mod arm;
pub mod credential;
pub mod disks;
pub mod error;
pub mod id;
pub mod rights;
mod shared;
mod shared_token;

pub use arm::{Arm, ArmConfig};
pub use error::ArmError;
pub use id::ResourceId;
