//! What the tests of several crates share. Behind the feature `test-support`, so that no product carries it.

mod azurite;
mod clock;
#[allow(clippy::unwrap_used, reason = "only tests use it: a lock that is poisoned is a test that has failed")]
mod faulty;

pub use azurite::Azurite;
pub use clock::ManualClock;
pub use faulty::{Fault, Faulty, Op};
