//! A server that does not answer is asked by one for all.

use std::time::Duration;

use crate::Backoff;

/// Knows whether a server answers, and who may ask it.
///
/// One client serves many, and each of them asks again by itself. A server that has just come up would get all of that at once, and one that
/// swallows packets would keep each of them for as long as a call is waited for. So after some failures in a row one call at a time is let
/// through, at growing intervals, and all others fail at once with what the last one met.
///
/// It holds no clock and no lock: times are the caller's, of a clock that never goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker<E> {
    failures_before: u32,
    waits: Backoff,
    state: State<E>,
}

/// What is known of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State<E> {
    /// It answers, as far as we know.
    Closed {
        /// Failures since its last answer.
        failures: u32,
    },
    /// It does not.
    Open {
        /// What the last call met.
        last: E,
        /// From when on one more is let through.
        next: Duration,
        /// How often one was let through, or the number of the wait after that one.
        tried: u32,
    },
}

impl<E: Clone> Breaker<E> {
    /// Lets all through until so many calls in a row have failed; then one after each of these waits.
    #[must_use]
    pub const fn new(failures_before: u32, waits: Backoff) -> Self {
        Self { failures_before, waits, state: State::Closed { failures: 0 } }
    }

    /// Whether a call may go now. Each yes is followed by [`Breaker::note`], or by nothing where its caller has gone: then another one is
    /// let through after the next wait.
    ///
    /// # Errors
    /// What the last call met, where it may not.
    pub fn ask(&mut self, now: Duration) -> Result<(), E> {
        match &mut self.state {
            State::Closed { .. } => Ok(()),
            State::Open { next, tried, .. } if *next <= now => {
                *next = now.saturating_add(self.waits.wait(*tried, 0));
                *tried = tried.saturating_add(1);
                Ok(())
            }
            State::Open { last, .. } => Err(last.clone()),
        }
    }

    /// Takes in what became of a call: none where the server answered, be it with a no.
    pub fn note(&mut self, error: Option<&E>, now: Duration) {
        match (error, &mut self.state) {
            (None, _) => self.state = State::Closed { failures: 0 },
            (Some(error), State::Closed { failures }) if failures.saturating_add(1) >= self.failures_before => {
                let next = now.saturating_add(self.waits.wait(0, 0));
                self.state = State::Open { last: error.clone(), next, tried: 1 };
            }
            (Some(_), State::Closed { failures }) => *failures += 1,
            // Those that were under way when it fell silent come back one by one: that lengthens no wait.
            (Some(error), State::Open { last, .. }) => *last = error.clone(),
        }
    }

    /// Takes in that the server asks to be left alone until then: nobody is let through before, and one at a time afterwards.
    pub fn hold(&mut self, error: &E, until: Duration) {
        match &mut self.state {
            State::Closed { .. } => self.state = State::Open { last: error.clone(), next: until, tried: 0 },
            State::Open { last, next, .. } => (*last, *next) = (error.clone(), (*next).max(until)),
        }
    }

    /// From when on the next one is let through; none where all are.
    #[must_use]
    pub const fn next_turn(&self) -> Option<Duration> {
        match &self.state {
            State::Closed { .. } => None,
            State::Open { next, .. } => Some(*next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const FAILURES: u32 = 5;
    const CLOSED: Breaker<&str> = Breaker::new(FAILURES, Backoff::new(SECOND, Duration::from_secs(10)));

    fn open() -> Breaker<&'static str> {
        let mut breaker = CLOSED;
        for n in 0..FAILURES {
            assert!(breaker.ask(SECOND * 100).is_ok(), "{n}");
            breaker.note(Some(&"refused"), SECOND * 100);
        }
        breaker
    }

    #[test]
    fn an_open_breaker_lets_one_through_at_growing_intervals() {
        let mut breaker = open();
        let mut gone = Vec::new();
        for tenth in 0..600 {
            let now = SECOND * 100 + Duration::from_millis(tenth * 100);
            match breaker.ask(now) {
                Ok(()) => {
                    gone.push(tenth / 10);
                    breaker.note(Some(&"refused"), now);
                }
                Err(error) => assert_eq!(error, "refused"),
            }
        }
        assert_eq!(gone, [1, 3, 7, 15, 25, 35, 45, 55]);
    }

    #[test]
    fn an_answer_closes_the_breaker() {
        let mut breaker = open();
        assert!(breaker.ask(SECOND * 101).is_ok());
        assert!(breaker.ask(SECOND * 101).is_err(), "one at a time");
        breaker.note(None, SECOND * 101);
        assert_eq!(breaker, CLOSED);
    }

    #[test]
    fn few_failures_between_answers_stop_nobody() {
        let mut breaker = CLOSED;
        for _ in 0..100 {
            for _ in 1..FAILURES {
                assert!(breaker.ask(SECOND).is_ok());
                breaker.note(Some(&"reset"), SECOND);
            }
            breaker.note(None, SECOND);
        }
    }

    #[test]
    fn calls_under_way_lengthen_no_wait_and_tell_their_error() {
        let mut breaker = open();
        for _ in 0..50 {
            breaker.note(Some(&"broke off"), SECOND * 100);
        }
        assert_eq!(breaker.ask(SECOND * 100), Err("broke off"), "the last one's words");
        assert!(breaker.ask(SECOND * 101).is_ok());
    }

    #[test]
    fn a_call_whose_caller_has_gone_is_followed_by_another() {
        let mut breaker = open();
        assert!(breaker.ask(SECOND * 101).is_ok());
        assert!(breaker.ask(SECOND * 102).is_err());
        assert!(breaker.ask(SECOND * 103).is_ok());
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_asks() {
        let mut breaker = CLOSED;
        assert_eq!(breaker.next_turn(), None);
        breaker.hold(&"busy", SECOND * 130);
        assert_eq!((breaker.ask(SECOND * 129), breaker.next_turn()), (Err("busy"), Some(SECOND * 130)));
        assert!(breaker.ask(SECOND * 130).is_ok());
        assert_eq!(breaker.ask(SECOND * 130), Err("busy"), "one at a time");
        breaker.hold(&"busier", SECOND * 200);
        breaker.hold(&"busier still", SECOND * 150);
        assert_eq!((breaker.ask(SECOND * 199), breaker.ask(SECOND * 200)), (Err("busier still"), Ok(())));
    }

    #[test]
    fn one_failure_is_enough_where_the_caller_says_so() {
        let mut breaker = Breaker::new(1, Backoff::new(SECOND, SECOND));
        breaker.note(Some(&"down"), SECOND);
        assert_eq!(breaker.ask(SECOND), Err("down"));
    }
}
