//! The lease under which an applier writes: its turn, how long it lasts, and whether writes may go on.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use blocklog::{
    clock::Clock,
    held::{Held, RENEW_EVERY},
    ids::Turn,
    ledger::Ledger,
};
use jiff::Timestamp;
use replica::{Permit, WRITE_TIMEOUT};

use crate::env::Env;

/// Shared by the disks of one turn. The keeper of the lease moves it on; each attempt of a write asks it.
pub(super) struct WriteLease<'a> {
    clock: &'a dyn Clock,
    timed: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    turn: Turn,
    /// The end that the ledger has recorded: nothing sent may take effect after it.
    until: Timestamp,
    /// [`Clock::monotonic`] until when the lease surely lasts.
    ends: Duration,
    next_renewal: Duration,
    stopped: bool,
    in_doubt: bool,
}

impl<'a> WriteLease<'a> {
    pub(super) fn new(env: &'a Env, held: &Held<Ledger>, timed: bool) -> Self {
        let clock = env.clock.as_ref();
        let (now, left) = (clock.monotonic(), held.remaining());
        let inner = Inner {
            turn: Turn(0),
            until: end(clock, left),
            ends: now + left,
            next_renewal: now + RENEW_EVERY.min(left / 3),
            stopped: false,
            in_doubt: false,
        };
        Self { clock, timed, inner: Mutex::new(inner) }
    }

    /// The end of the lease, as other machines' clocks see it.
    pub(super) fn until(&self) -> Timestamp {
        self.lock().until
    }

    /// The dirty mark is durable: this is the turn.
    pub(super) fn begin(&self, turn: Turn) {
        self.lock().turn = turn;
    }

    pub(super) fn turn(&self) -> Turn {
        self.lock().turn
    }

    /// Nothing new is sent.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
    }

    pub(super) fn stopped(&self) -> bool {
        self.lock().stopped
    }

    /// A write was sent whose outcome is not known.
    pub(super) fn doubt(&self) {
        self.lock().in_doubt = true;
    }

    pub(super) fn in_doubt(&self) -> bool {
        self.lock().in_doubt
    }

    /// Returns when the lease should be renewed.
    pub(super) async fn renewal_due(&self) {
        let due = self.lock().next_renewal;
        self.clock.sleep_until(due).await;
    }

    /// The lease was renewed. Where seeds are fenced by time: the end that has to be noted in the ledger before it may be used.
    pub(super) fn renewed(&self, held: &Held<Ledger>) -> Option<Timestamp> {
        let (now, left) = (self.clock.monotonic(), held.remaining());
        let mut inner = self.lock();
        inner.ends = now + left;
        inner.next_renewal = now + RENEW_EVERY;
        self.timed.then(|| end(self.clock, left))
    }

    /// The ledger has noted the end.
    pub(super) fn extended(&self, until: Timestamp) {
        self.lock().until = until;
    }

    /// WriteLease to send one write, or none where the lease has too little left for it.
    pub(super) fn permit(&self) -> Option<Permit> {
        let inner = self.lock();
        let left = inner.ends.saturating_sub(self.clock.monotonic());
        (left > WRITE_TIMEOUT).then_some(Permit { turn: inner.turn.0, until: inner.until })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held can't have left it half changed: every change is of plain values.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(clock: &dyn Clock, left: Duration) -> Timestamp {
    // A minute from now is far from the end of time.
    clock.now().checked_add(left).unwrap_or(Timestamp::MAX)
}
