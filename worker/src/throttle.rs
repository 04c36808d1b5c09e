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

    /// Changes the share; who waits already waits on.
    pub fn set(&self, bits_per_second: Option<u64>) {
        self.lock().rate = rate(bits_per_second);
    }

    /// Returns when `bytes` may go.
    pub async fn take(&self, bytes: usize) {
        let wait = {
            let mut bucket = self.lock();
            let now = self.clock.monotonic();
            let Some(rate) = bucket.rate else { return };
            bucket.level = (bucket.level + now.saturating_sub(bucket.at).as_secs_f64() * rate).min(rate);
            bucket.at = now;
            bucket.level -= bytes as f64;
            if bucket.level >= 0.0 { return } else { Duration::from_secs_f64(-bucket.level / rate) }
        };
        self.clock.sleep(wait).await;
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
