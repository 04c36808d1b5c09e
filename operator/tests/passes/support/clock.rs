//! Time that passes when nobody has anything to do but to wait.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use blocklog::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, oneshot};

/// So many looks in a row, a millisecond apart, have to find that no server was asked, before time passes: else somebody may be at work. Looks are counted,
/// not milliseconds: between two of them everybody has had its turn, however busy the machine is.
const QUIET: u32 = 10;

/// The same where time passes a little at a time: a look that comes too early does no harm.
const QUIET_WHILE_PAUSED: u32 = 3;
/// So much passes at a time.
const STEP: Duration = Duration::from_millis(100);

/// Lets everybody have its turn, by the machine's time.
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
async fn look(paused: bool) {
    let length = Duration::from_millis(1);
    if paused {
        let _ = tokio::task::spawn_blocking(move || std::thread::sleep(length)).await;
    } else {
        tokio::time::sleep(length).await;
    }
}

/// A clock that jumps to the end of the next sleep once all is quiet. So a lease of a minute lasts a moment, and a time-out ends what is silent, not what is
/// slow. What waits for sockets has its time-outs by the machine's clock.
pub struct TestClock {
    /// Where tokio's time is paused, and passes with this one: it keeps tokio from letting it pass by itself.
    paused: Option<std::sync::mpsc::Sender<()>>,
    start: Timestamp,
    state: Mutex<State>,
    came: Notify,
}

#[derive(Default)]
struct State {
    passed: Duration,
    number: u64,
    sleepers: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
    /// Requests under way at servers, and how many looks have found none since.
    under_way: usize,
    quiet: u32,
}

impl TestClock {
    /// One that begins at the machine's time: tokens and accesses of the simulated Azure run by that.
    pub fn new() -> Arc<Self> {
        Self::with(None)
    }

    /// The same for a test whose tokio is paused (`start_paused`): its time passes with this one, a little at a time, and only while all is quiet. So what
    /// waits by tokio's timers (controllers, watches) waits no longer than what asks the clock, and nothing that waits for a socket runs out of time.
    pub fn paused() -> Arc<Self> {
        let (keeps, kept) = std::sync::mpsc::channel::<()>();
        // As long as something blocks, tokio does not let time pass by itself.
        tokio::task::spawn_blocking(move || kept.recv());
        Self::with(Some(keeps))
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn with(paused: Option<std::sync::mpsc::Sender<()>>) -> Arc<Self> {
        let clock = Arc::new(Self { paused, start: Timestamp::now(), state: Mutex::default(), came: Notify::new() });
        let weak = Arc::downgrade(&clock);
        tokio::spawn(async move {
            while let Some(clock) = weak.upgrade() {
                if !clock.step().await {
                    // Looked at again before long: nobody shall wait for a clock that is gone.
                    let _ = tokio::time::timeout(Duration::from_millis(200), clock.came.notified()).await;
                }
            }
        });
        clock
    }

    /// Looks once, and lets time pass where all is quiet; false where nobody waits for it.
    async fn step(&self) -> bool {
        look(self.paused.is_some()).await;
        let by = {
            let mut state = self.state.lock().unwrap();
            let next = state.sleepers.keys().next().map(|(until, _)| until.saturating_sub(state.passed));
            let (by, enough) = match (&self.paused, next) {
                // Who waits by tokio's timers is not known here.
                (Some(_), next) => (next.unwrap_or(STEP).min(STEP), QUIET_WHILE_PAUSED),
                (None, Some(next)) => (next, QUIET),
                (None, None) => return false,
            };
            state.quiet = if state.under_way > 0 { 0 } else { state.quiet + 1 };
            if state.quiet < enough {
                return true;
            }
            state.quiet = 0;
            by
        };
        self.advance(by);
        if self.paused.is_some() {
            tokio::time::advance(by).await;
        }
        true
    }

    /// Lets time pass, and ends the sleeps that are over by then.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap();
        state.passed += by;
        let end = (state.passed, u64::MAX);
        let later = state.sleepers.split_off(&end);
        for (_, wake) in std::mem::replace(&mut state.sleepers, later) {
            let _ = wake.send(());
        }
    }

    /// A server has been asked, or has answered.
    pub fn active(&self, comes: bool) {
        let mut state = self.state.lock().unwrap();
        state.under_way = if comes { state.under_way + 1 } else { state.under_way.saturating_sub(1) };
        state.quiet = 0;
    }
}

/// Takes a sleep out whose sleeper has gone.
struct Sleep<'a>(&'a TestClock, (Duration, u64));

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().sleepers.remove(&self.1);
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.start + SignedDuration::try_from(self.monotonic()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().unwrap().passed
    }

    async fn sleep(&self, length: Duration) {
        if length.is_zero() {
            return tokio::task::yield_now().await;
        }
        let (wake, woken) = oneshot::channel();
        let key = {
            let mut state = self.state.lock().unwrap();
            state.number += 1;
            let key = (state.passed + length, state.number);
            state.sleepers.insert(key, wake);
            key
        };
        let _gone = Sleep(self, key);
        self.came.notify_one();
        let _ = woken.await;
    }
}
