//! A storage account that does not answer is asked by one for all who share its client.
//!
//! The SDK repeats each request by itself, so that ten who want something of an account that is down send it seven requests each, again and again.
//! A [`Turnstile`] is passed before each of these tries: after a few failures in a row it lets one through at growing intervals, and all others are
//! told what that one met.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use azure_core::{
    error::{Error, ErrorKind},
    http::{
        AsyncRawResponse, Context, Method, Request,
        headers::{HeaderName, Headers, RETRY_AFTER},
        policies::{Policy, PolicyResult},
    },
};
use backoff::{Backoff, Breaker};
use tokio::sync::Notify;

use crate::{
    azure_blob::{Failure, FailureKind, answered, classify},
    clock::Clock,
};

/// Failures in a row after which one is let through at a time.
const FAILURES: u32 = 3;
/// The waits between these; the longest is so short that all goes on soon after the account is well again.
const WAITS: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
/// The longest that an account is left alone because it asks for it: a lease that is not renewed for longer than that may be lost.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// What becomes of those who come while nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// They are told at once.
    Told,
    /// They wait for their turn for so long, and are told then.
    Borne(Duration),
}

/// Where a request is turned away that another one has stood for.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TurnedAway(pub(crate) Failure);

/// What all requests to an account pass.
pub struct Turnstile {
    breaker: Mutex<Breaker<Failure>>,
    /// Wakes those who wait for their turn as soon as the account answers.
    heard: Notify,
    clock: Arc<dyn Clock>,
    silence: Silence,
}

impl fmt::Debug for Turnstile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turnstile").field("silence", &self.silence).finish_non_exhaustive()
    }
}

impl Turnstile {
    /// One that lets all through, as long as the account answers. It belongs into `per_try_policies`, before what signs.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, silence: Silence) -> Arc<Self> {
        Arc::new(Self { breaker: Mutex::new(Breaker::new(FAILURES, WAITS)), heard: Notify::new(), clock, silence })
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker<Failure>> {
        // Each change is of one value: a panic can't have left it half changed.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when one may go, or with what the last one met.
    async fn turn(&self) -> Result<(), Failure> {
        let borne = match self.silence {
            Silence::Told => Duration::ZERO,
            Silence::Borne(borne) => borne,
        };
        let until = self.clock.monotonic() + borne;
        loop {
            let heard = self.heard.notified();
            let (asked, next) = {
                let mut breaker = self.breaker();
                let asked = breaker.ask(self.clock.monotonic());
                (asked, breaker.next_turn())
            };
            match (asked, next) {
                (Ok(()), _) => return Ok(()),
                // Only a silence is borne: a no that all get would be one in a while, too. All who wait come at once, and one of them is let through.
                (Err(failure), Some(next)) if failure.kind == FailureKind::Unreachable && next <= until => {
                    tokio::select! {
                        () = self.clock.sleep_until(next) => {}
                        () = heard => {}
                    }
                }
                (Err(failure), _) => return Err(failure),
            }
        }
    }

    fn note(&self, method: Method, result: &PolicyResult) {
        let now = self.clock.monotonic();
        match result {
            Ok(answer) => {
                let failure = answered(answer.status().into(), answer.headers());
                match (concerns_all(method, &failure), left_alone(answer)) {
                    (true, Some(wait)) => self.breaker().hold(&failure, now + wait),
                    (true, None) => self.breaker().note(Some(&failure), now),
                    (false, _) => {
                        self.breaker().note(None, now);
                        self.heard.notify_waiters();
                    }
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Connection) => self.breaker().note(Some(&classify(error)), now),
            // It never left.
            Err(_) => {}
        }
    }
}

/// True for an answer that others get, too, whatever they ask for: a no about one blob is an answer, and so is one to whoever may read, and not write or
/// delete.
fn concerns_all(method: Method, failure: &Failure) -> bool {
    match failure.kind {
        FailureKind::Unreachable => true,
        FailureKind::Denied => matches!(method, Method::Get | Method::Head),
        FailureKind::Refused => failure.code.starts_with("Container"),
        FailureKind::Other => false,
    }
}

/// How long the account asks to be left alone.
fn left_alone(answer: &AsyncRawResponse) -> Option<Duration> {
    let number = |name: HeaderName| number(answer.headers(), name);
    let millis = number(HeaderName::from_static("x-ms-retry-after-ms")).map(Duration::from_millis);
    millis.or_else(|| number(RETRY_AFTER).map(Duration::from_secs)).map(|wait| wait.min(LEFT_ALONE))
}

fn number(headers: &Headers, name: HeaderName) -> Option<u64> {
    headers.get_optional_str(&name)?.trim().parse().ok()
}

#[async_trait]
impl Policy for Turnstile {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let [first, rest @ ..] = next else { return Err(Error::with_message(ErrorKind::Other, "no transport after the turnstile")) };
        // Not of a kind that the SDK repeats.
        self.turn().await.map_err(|failure| Error::new(ErrorKind::Other, TurnedAway(failure)))?;
        let method = request.method();
        let result = first.send(ctx, request, rest).await;
        self.note(method, &result);
        result
    }
}

#[cfg(test)]
#[path = "turnstile/tests.rs"]
mod tests;
