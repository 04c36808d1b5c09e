//! A vCenter that does not answer is not asked by everybody: one client serves hundreds of VMs, and each of them asks again by itself.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use backoff::Backoff;
use blocklog::clock::Clock;

use crate::{
    error::WireError,
    tls::Thumbprint,
    transport::{Reply, Request, Wire},
};

/// A vCenter of which nothing is known. After five failures in a row it is asked by one at a time; the waits stay short, since whoever mends it
/// need not wait for us.
const CLOSED: backoff::Breaker<WireError> = backoff::Breaker::new(5, Backoff::new(Duration::from_secs(1), Duration::from_secs(10)));

/// What of a result counts as no answer. What is too large is an answer, and so is a no: a gateway's to the list of versions is nothing unusual.
fn no_answer<T>(result: &Result<T, WireError>) -> Option<&WireError> {
    match result {
        Ok(_) | Err(WireError::TooLarge { .. } | WireError::Status { status: 400..=499, .. }) => None,
        Err(error) => Some(error),
    }
}

/// A wire to a vCenter that is left alone for a while where it does not answer.
pub(crate) struct Breaker {
    wire: Box<dyn Wire>,
    clock: Arc<dyn Clock>,
    state: Mutex<backoff::Breaker<WireError>>,
}

impl Breaker {
    pub(crate) fn new(wire: Box<dyn Wire>, clock: Arc<dyn Clock>) -> Self {
        Self { wire, clock, state: Mutex::new(CLOSED) }
    }

    fn state(&self) -> MutexGuard<'_, backoff::Breaker<WireError>> {
        // Each change is of one value: a panic can't have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Wire for Breaker {
    async fn send(&self, request: Request) -> Result<Reply, WireError> {
        self.state().ask(self.clock.monotonic())?;
        let result = self.wire.send(request).await;
        self.state().note(no_answer(&result), self.clock.monotonic());
        result
    }

    fn thumbprint(&self) -> Option<Thumbprint> {
        self.wire.thumbprint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some gateways do not let the list of versions through, and it is asked for before anything else.
    #[test]
    fn a_no_of_a_vcenter_is_an_answer() {
        let status = |status| Err::<(), _>(WireError::Status { host: "vcenter".into(), status });
        for answer in [Ok(()), status(400), status(404), status(499)] {
            assert_eq!(no_answer(&answer), None, "{answer:?}");
        }
        let silent = Err(WireError::Connect { host: "vcenter".into(), why: "refused".into() });
        for answer in [status(500), status(503), silent] {
            assert_eq!(no_answer(&answer), answer.as_ref().err());
        }
    }
}
