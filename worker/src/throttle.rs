//! The throttle: how many bits a second this worker's share is.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use blocklog::clock::Clock;

/// A token bucket that holds at most one second. Whoever takes more than is there goes into debt and waits until it is paid, so a large part
/// is as welcome as a small one and the rate holds over time.
pub struct Throttle {
    clock: Arc<dyn Clock>,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    /// Bytes a second; none means no limit.
    rate: Option<f64>,
    /// Bytes that may go now; below zero, a debt.
    level: f64,
    at: Duration,
}

impl Throttle {
    /// A throttle of so many bits a second; `None` lets everything through.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, bits_per_second: Option<u64>) -> Self {
        let at = clock.monotonic();
        Self { clock, bucket: Mutex::new(Bucket { rate: rate(bits_per_second), level: 0.0, at }) }
    }

    /// Changes the share, also for those who wait.
    pub fn set(&self, bits_per_second: Option<u64>) {
        self.lock().rate = rate(bits_per_second);
    }

    /// Returns when `bytes` may go.
    pub async fn take(&self, bytes: usize) {
        self.lock().level -= bytes as f64;
        while let Some(wait) = self.debt() {
            // In steps, so that a share that is raised meanwhile is felt at once.
            self.clock.sleep(wait.min(Duration::from_secs(1))).await;
        }
    }

    /// How long it takes until nothing is owed, or none where that is now.
    fn debt(&self) -> Option<Duration> {
        let mut bucket = self.lock();
        let now = self.clock.monotonic();
        let passed = now.saturating_sub(bucket.at);
        bucket.at = now;
        let Some(rate) = bucket.rate else {
            bucket.level = 0.0;
            return None;
        };
        bucket.level = (bucket.level + passed.as_secs_f64() * rate).min(rate);
        // A thousandth of a second less is nothing that anyone would wait for, and rounding must not make it an endless one.
        (bucket.level < 0.0).then(|| Duration::from_secs_f64((-bucket.level / rate).clamp(0.001, 1e9)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bucket> {
        // A panic while it was held can't have left it half changed: every change is of plain numbers.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes a second. Zero bits would be "suspended", which is the allotment's business, not the throttle's: it becomes one byte a second.
fn rate(bits_per_second: Option<u64>) -> Option<f64> {
    bits_per_second.map(|bits| (bits as f64 / 8.0).max(1.0))
}
