//! A clock that stands still until a test moves it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use crate::clock::Clock;

/// A clock whose two times move together, and only by [`ManualClock::advance`], or, once [`ManualClock::auto_advance`] is on, by
/// whatever somebody sleeps. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct ManualClock {
    start: Timestamp,
    passed: Arc<watch::Sender<Duration>>,
    auto: Arc<AtomicBool>,
}

impl ManualClock {
    /// A clock at 2025-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(Timestamp::constant(1_735_689_600, 0))
    }

    /// A clock that shows `start`.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self { start, passed: Arc::new(watch::Sender::new(Duration::ZERO)), auto: Arc::default() }
    }

    /// Lets `length` pass, and wakes those whose sleep is over.
    pub fn advance(&self, length: Duration) {
        self.passed.send_modify(|passed| *passed += length);
    }

    /// Whether a sleep moves the clock itself and returns at once. Sleeps that overlap then add up: for code that sleeps in one place.
    pub fn auto_advance(&self, on: bool) {
        self.auto.store(on, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.monotonic()).expect("a test's time fits");
        self.start.checked_add(passed).expect("a test's time fits")
    }

    fn monotonic(&self) -> Duration {
        *self.passed.borrow()
    }

    async fn sleep(&self, length: Duration) {
        if self.auto.load(Ordering::SeqCst) {
            self.advance(length);
            tokio::task::yield_now().await;
            return;
        }
        let until = self.monotonic() + length;
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.passed.subscribe().wait_for(|passed| *passed >= until).await;
    }
}
