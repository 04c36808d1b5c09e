//! Time as a value: decisions take `now`, and what has to wait asks a [`Clock`] that tests can drive.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

/// Where time comes from. Production uses [`SystemClock`]; the schedules use one that their scheduler moves.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The wall clock: for people, for blobs, and for the end of a fence that another machine will compare with its own.
    fn now(&self) -> Timestamp;

    /// Time that never jumps, counted from an arbitrary origin: for leases, back-off and throttles.
    fn monotonic(&self) -> Duration;

    /// Returns after `length` has passed.
    async fn sleep(&self, length: Duration);

    /// Returns when [`Clock::monotonic`] has reached `at`.
    async fn sleep_until(&self, at: Duration) {
        let now = self.monotonic();
        if at > now {
            self.sleep(at - now).await;
        }
    }
}

/// The machine's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    async fn sleep(&self, length: Duration) {
        tokio::time::sleep(length).await;
    }
}
