//! What the tests of several crates share. Behind the feature `test-support`, so that no product carries it.

mod azurite;
mod clock;

pub use azurite::Azurite;
pub use clock::ManualClock;
