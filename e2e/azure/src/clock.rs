//! The simulator's time: the machine's clock, which tests can push forward or hold still.
//!
//! Everything that takes time here goes by this clock (operations, tokens, SAS, the delay of role assignments, throttles), so that a
//! test need not wait an hour for an hour's rule.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// A clock that is shared by everything in the simulator; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    setting: Mutex<Setting>,
    moved: watch::Sender<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    /// Added to the machine's clock.
    ahead: SignedDuration,
    /// Where the clock stands, if it is held.
    held: Option<Timestamp>,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::with(Setting { ahead: SignedDuration::ZERO, held: None })
    }

    /// A clock that stands still at `at` until it is moved.
    #[must_use]
    pub fn held(at: Timestamp) -> Self {
        Self::with(Setting { ahead: SignedDuration::ZERO, held: Some(at) })
    }

    fn with(setting: Setting) -> Self {
        Self { inner: Arc::new(Inner { setting: Mutex::new(setting), moved: watch::Sender::new(0) }) }
    }

    fn setting(&self) -> MutexGuard<'_, Setting> {
        self.inner.setting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What time it is here.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let setting = *self.setting();
        setting.held.unwrap_or_else(|| machine().saturating_add(setting.ahead).unwrap_or(Timestamp::MAX))
    }

    /// Moves the clock forward, and wakes what slept.
    pub fn advance(&self, by: Duration) {
        let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
        {
            let mut setting = self.setting();
            match &mut setting.held {
                Some(at) => *at = at.saturating_add(by).unwrap_or(Timestamp::MAX),
                None => setting.ahead = setting.ahead.saturating_add(by),
            }
        }
        self.inner.moved.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Holds the clock where it is.
    pub fn hold(&self) {
        let now = self.now();
        self.setting().held = Some(now);
        self.inner.moved.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Lets a held clock run again, from where it stands.
    pub fn release(&self) {
        {
            let mut setting = self.setting();
            if let Some(at) = setting.held.take() {
                setting.ahead = at.duration_since(machine());
            }
        }
        self.inner.moved.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Whether the clock stands still.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.setting().held.is_some()
    }

    /// Returns when this clock has reached `until`.
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub async fn sleep_until(&self, until: Timestamp) {
        let mut moved = self.inner.moved.subscribe();
        loop {
            moved.mark_unchanged();
            let left = until.duration_since(self.now());
            let Ok(left) = Duration::try_from(left) else { return };
            if left.is_zero() {
                return;
            }
            if self.is_held() {
                // The sender lives as long as this clock: an error cannot come.
                let _ = moved.changed().await;
            } else {
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    _ = moved.changed() => {}
                }
            }
        }
    }

    /// Returns after `length` of this clock's time.
    pub async fn sleep(&self, length: Duration) {
        let length = SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX);
        self.sleep_until(self.now().saturating_add(length).unwrap_or(Timestamp::MAX)).await;
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the clock")]
fn machine() -> Timestamp {
    Timestamp::now()
}
