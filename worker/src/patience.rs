//! Trying again, and holding on meanwhile.

use std::time::Duration;

use backoff::Backoff;
use blocklog::{
    LogError,
    document::Document,
    held::{Held, RENEW_EVERY},
    store::StoreError,
};

use crate::env::Env;

/// How often a request to the log store is tried whose outcome is unknown. The store's client has tried for some 10 to 20 s each time.
const TRIES: u32 = 6;

/// The pauses between tries.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));

/// The pause before the next try.
pub(crate) fn pause(tried: u32) -> Duration {
    PAUSES.wait(tried, 0)
}

/// Asks the store until it answers. Only for requests that can be repeated.
pub(crate) async fn store<T, F: Future<Output = Result<T, StoreError>>>(
    env: &Env,
    mut request: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let mut tried = 0;
    loop {
        match request().await {
            Err(error) if error.in_doubt() && tried + 1 < TRIES => {
                env.clock.sleep(pause(tried)).await;
                tried += 1;
            }
            result => return result,
        }
    }
}

/// Does something slow while the lease is kept.
pub(crate) async fn renewing<D: Document, T>(env: &Env, held: &mut Held<D>, work: impl Future<Output = T>) -> Result<T, LogError> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => {
                // Whoever slept through its lease must not act on what it has learnt.
                held.check()?;
                return Ok(result);
            }
            () = env.clock.sleep(RENEW_EVERY) => held.renew().await?,
        }
    }
}
