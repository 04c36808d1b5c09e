//! A vCenter that does not answer is not asked by everybody.
//!
//! One client serves hundreds of VMs, and each of them asks again by itself. A vCenter that has just come up would get all of that at once, and
//! one that swallows packets would keep each of them for as long as a call is waited for. So after a few failures in a row one call at a time is
//! let through, at growing intervals, and all others fail at once with what the last one met.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use blocklog::clock::Clock;

use crate::{
    error::WireError,
    tls::Thumbprint,
    transport::{Reply, Request, Wire},
};

/// Failures in a row after which it is asked by one at a time.
pub const FAILURES: u32 = 5;
/// How long it is left alone at first. Doubled each time it does not answer.
pub const FIRST: Duration = Duration::from_secs(1);
/// The longest: whoever mends it need not wait for us.
pub const LONGEST: Duration = Duration::from_secs(10);

/// What is known of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It answers, as far as we know.
    Closed {
        /// Failures since its last answer.
        failures: u32,
    },
    /// It does not.
    Open {
        /// What the last call met.
        last: WireError,
        /// [`Clock::monotonic`] from which on one more is let through.
        next: Duration,
        /// How long after that one the next one is, if there is no answer.
        wait: Duration,
    },
}

impl State {
    /// Whether a call may go.
    fn ask(&mut self, now: Duration) -> Result<(), WireError> {
        match self {
            Self::Closed { .. } => Ok(()),
            Self::Open { next, wait, .. } if *next <= now => {
                // Also where nobody waits for its answer any more, another one follows.
                *next = now + *wait;
                *wait = (*wait * 2).min(LONGEST);
                Ok(())
            }
            Self::Open { last, .. } => Err(last.clone()),
        }
    }

    /// What became of one.
    fn note(&mut self, error: Option<&WireError>, now: Duration) {
        match (error, &mut *self) {
            // What is too large is an answer, and so is a no: a gateway's to the list of versions is nothing unusual.
            (None | Some(WireError::TooLarge { .. } | WireError::Status { status: 400..=499, .. }), _) => {
                *self = Self::Closed { failures: 0 }
            }
            (Some(error), Self::Closed { failures }) if *failures + 1 >= FAILURES => {
                *self = Self::Open { last: error.clone(), next: now + FIRST, wait: FIRST * 2 };
            }
            (Some(_), Self::Closed { failures }) => *failures += 1,
            (Some(error), Self::Open { last, .. }) => *last = error.clone(),
        }
    }
}

/// A wire to a vCenter that is left alone for a while where it does not answer.
pub(crate) struct Breaker {
    wire: Box<dyn Wire>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

impl Breaker {
    pub(crate) fn new(wire: Box<dyn Wire>, clock: Arc<dyn Clock>) -> Self {
        Self { wire, clock, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is of one value: a panic can't have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Wire for Breaker {
    async fn send(&self, request: Request) -> Result<Reply, WireError> {
        self.state().ask(self.clock.monotonic())?;
        let result = self.wire.send(request).await;
        self.state().note(result.as_ref().err(), self.clock.monotonic());
        result
    }

    fn thumbprint(&self) -> Option<Thumbprint> {
        self.wire.thumbprint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn silent(why: &str) -> WireError {
        WireError::Connect { host: "vcenter".into(), why: why.into() }
    }

    fn open() -> State {
        let mut state = State::Closed { failures: 0 };
        for n in 0..FAILURES {
            assert!(state.ask(SECOND * 100).is_ok(), "{n}");
            state.note(Some(&silent("refused")), SECOND * 100);
        }
        state
    }

    #[test]
    fn calls_after_some_failures_go_one_by_one_at_growing_intervals() {
        let mut state = open();
        let mut gone = Vec::new();
        for tenth in 0..600 {
            let now = SECOND * 100 + Duration::from_millis(tenth * 100);
            match state.ask(now) {
                Ok(()) => {
                    gone.push(tenth / 10);
                    state.note(Some(&silent("refused")), now);
                }
                Err(error) => assert_eq!(error, silent("refused")),
            }
        }
        assert_eq!(gone, [1, 3, 7, 15, 25, 35, 45, 55]);
    }

    #[test]
    fn one_answer_lets_all_through_again() {
        let mut state = open();
        assert!(state.ask(SECOND * 101).is_ok());
        assert!(state.ask(SECOND * 101).is_err(), "one at a time");
        state.note(None, SECOND * 101);
        for _ in 0..10 {
            assert!(state.ask(SECOND * 101).is_ok());
        }
    }

    #[test]
    fn few_failures_between_answers_stop_nobody() {
        let mut state = State::Closed { failures: 0 };
        for _ in 0..100 {
            for _ in 1..FAILURES {
                assert!(state.ask(SECOND * 101).is_ok());
                state.note(Some(&silent("reset")), SECOND * 101);
            }
            state.note(None, SECOND * 101);
        }
    }

    /// Some gateways do not let the list of versions through, and it is asked for before anything else.
    #[test]
    fn a_no_is_an_answer() {
        let status = |status| WireError::Status { host: "vcenter".into(), status };
        let mut state = open();
        assert!(state.ask(SECOND * 101).is_ok());
        state.note(Some(&status(404)), SECOND * 101);
        assert!(state.ask(SECOND * 101).is_ok());
        for _ in 0..FAILURES {
            state.note(Some(&status(503)), SECOND * 101);
        }
        assert_eq!(state.ask(SECOND * 101), Err(status(503)));
    }

    /// Those that were under way when it fell silent come back one by one.
    #[test]
    fn what_was_under_way_does_not_lengthen_the_wait() {
        let mut state = open();
        for _ in 0..50 {
            state.note(Some(&silent("broke off")), SECOND * 100);
        }
        assert_eq!(state.ask(SECOND * 100), Err(silent("broke off")), "the last one's words");
        assert!(state.ask(SECOND * 101).is_ok());
        // One whose caller has gone away is followed by another.
        assert!(state.ask(SECOND * 102).is_err());
        assert!(state.ask(SECOND * 103).is_ok());
    }
}
