//! Waiting for what others do, with an end.

use std::time::{Duration, Instant};

use crate::Result;

/// Looks until `look` finds something, every 200 ms; the last thing that it said instead is the error when `limit` has passed.
///
/// # Errors
/// What was waited for, and what was so at the end.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let end = now() + limit;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(why) if now() >= end => return Err(format!("{what}: not within {} s. At the end: {why}", limit.as_secs())),
            Err(_) => pause(Duration::from_millis(200)).await,
        }
    }
}

/// The clock on the wall: what is measured here are other processes.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
pub fn now() -> Instant {
    Instant::now()
}

/// A pause on that clock.
#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
