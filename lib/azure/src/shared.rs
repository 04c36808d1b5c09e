//! What all who ask Resource Manager share: that it does not answer, and answers that are the same for all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use backoff::{Backoff, Breaker};
use reqwest::Method;

use crate::{arm::Answer, error::ArmError};

/// Failures in a row after which it is asked by one at a time.
const FAILURES: u32 = 3;
/// The waits between these; the longest is so short that all goes on soon after it is well again.
const WAITS: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(12));
/// For so long a refusal stands for all who ask the same, and so does what our roles allow. Whoever mends it waits no longer than that and a look.
const STANDS: Duration = Duration::from_secs(9);

/// Held by the one who asks what others ask, too.
type Turn = tokio::sync::Mutex<()>;
type Remembered = BTreeMap<String, (Duration, Result<Answer, ArmError>)>;

pub(crate) struct Shared {
    /// Azure counts what is read and what is written apart, and may refuse the one and not the other.
    breakers: Mutex<[Breaker<ArmError>; 2]>,
    remembered: Mutex<Remembered>,
    turns: Mutex<BTreeMap<String, Weak<Turn>>>,
}

impl Default for Shared {
    fn default() -> Self {
        let breaker = || Breaker::new(FAILURES, WAITS);
        Self { breakers: Mutex::new([breaker(), breaker()]), remembered: Mutex::default(), turns: Mutex::default() }
    }
}

impl Shared {
    fn breakers(&self) -> MutexGuard<'_, [Breaker<ArmError>; 2]> {
        // Each change is of one value: a panic can't have left it half changed. So it is with what is remembered.
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call may go; else what the last one has met, and from when on another one may.
    pub(crate) fn ask(&self, method: &Method, now: Duration) -> Result<(), (ArmError, Duration)> {
        let breaker = &mut self.breakers()[usize::from(method != Method::GET)];
        breaker.ask(now).map_err(|error| (error, breaker.next_turn().unwrap_or(now)))
    }

    /// The turn of who asks this. What is read is read by one after the other: where the first is refused, all others are by the same answer.
    pub(crate) fn turn(&self, method: &Method, url: &str) -> Option<Arc<Turn>> {
        if method != Method::GET {
            return None;
        }
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(url).and_then(Weak::upgrade) {
            return Some(turn);
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::default());
        turns.insert(url.to_owned(), Arc::downgrade(&turn));
        Some(turn)
    }

    /// The answer to the same question, where it still stands.
    pub(crate) fn remembered(&self, method: &Method, url: &str, now: Duration) -> Option<Result<Answer, ArmError>> {
        let memory = self.memory();
        memory.get(url).filter(|(until, _)| method == Method::GET && now < *until).map(|(_, answer)| answer.clone())
    }

    /// Takes note of what came of a call.
    pub(crate) fn answered(&self, method: &Method, url: &str, answer: &Result<Answer, ArmError>, now: Duration) {
        let failure = answer.as_ref().err().filter(|error| concerns_all(error));
        match failure {
            Some(error @ ArmError::Throttled { wait, .. }) => {
                self.breakers()[usize::from(method != Method::GET)].hold(error, now + *wait);
            }
            _ => self.breakers()[usize::from(method != Method::GET)].note(failure, now),
        }
        if method == Method::GET && stands(url, answer) {
            let mut memory = self.memory();
            memory.retain(|_, (until, _)| now < *until);
            memory.insert(url.to_owned(), (now + STANDS, answer.clone()));
        }
    }
}

/// True for what others meet, too, whatever they ask for.
fn concerns_all(error: &ArmError) -> bool {
    match error {
        ArmError::Unreachable(_)
        | ArmError::Untrusted { .. }
        | ArmError::Credential(_)
        | ArmError::Throttled { .. }
        | ArmError::Failed { .. }
        | ArmError::Answer { .. } => true,
        ArmError::Forbidden { .. } | ArmError::NotFound(_) | ArmError::Conflict { .. } | ArmError::Refused { .. } => false,
    }
}

fn stands(url: &str, answer: &Result<Answer, ArmError>) -> bool {
    match answer {
        Err(ArmError::Forbidden { .. }) => true,
        Ok(_) => url.contains("/permissions?"),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const GROUP: &str = "https://arm/resourceGroups/g?api-version=1";

    fn failed() -> ArmError {
        ArmError::Failed { operation: "GET /one".into(), code: "ServiceUnavailable".into(), message: "later".into() }
    }

    fn forbidden() -> ArmError {
        ArmError::Forbidden { operation: "GET /g".into(), message: "no".into() }
    }

    #[test]
    fn ten_who_ask_what_fails_are_one() {
        let shared = Shared::default();
        let mut sent = 0;
        for second in 0..120 {
            for _ in 0..10 {
                match shared.ask(&Method::GET, SECOND * second) {
                    Ok(()) => {
                        sent += 1;
                        shared.answered(&Method::GET, GROUP, &Err(failed()), SECOND * second);
                    }
                    Err((error, next)) => assert!(error == failed() && next > SECOND * second),
                }
            }
        }
        // 3 until it is known; then after 1, 3, 7, 15 s, and each 12 s.
        assert_eq!(sent, 3 + 12);
        assert!(shared.ask(&Method::PUT, SECOND * 120).is_ok(), "what is written is another side");
    }

    #[test]
    fn a_refusal_stands_for_all_who_ask_the_same() {
        let shared = Shared::default();
        shared.answered(&Method::GET, GROUP, &Err(forbidden()), SECOND);
        assert_eq!(shared.remembered(&Method::GET, GROUP, SECOND * 9).unwrap().unwrap_err(), forbidden());
        assert!(shared.remembered(&Method::GET, GROUP, SECOND + STANDS).is_none());
        assert!(shared.remembered(&Method::DELETE, GROUP, SECOND * 9).is_none(), "what changes something is never left out");
        assert!(shared.remembered(&Method::GET, "https://arm/other", SECOND * 9).is_none());
        for _ in 0..20 {
            shared.answered(&Method::GET, GROUP, &Err(forbidden()), SECOND);
        }
        assert!(shared.ask(&Method::GET, SECOND).is_ok(), "a no is an answer");
    }

    #[test]
    fn what_is_throttled_is_asked_by_one_when_its_time_has_come() {
        let shared = Shared::default();
        let until = jiff::Timestamp::UNIX_EPOCH;
        let throttled = ArmError::Throttled { operation: "GET /one".into(), wait: SECOND * 30, until };
        shared.answered(&Method::GET, GROUP, &Err(throttled), SECOND);
        assert!(shared.ask(&Method::GET, SECOND * 30).is_err());
        assert!(shared.ask(&Method::GET, SECOND * 31).is_ok());
        assert!(shared.ask(&Method::GET, SECOND * 31).is_err());
    }
}
