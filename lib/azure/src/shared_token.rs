//! One credential for all who want tokens.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use azure_core::{
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    error::ErrorKind,
    http::headers::RETRY_AFTER,
    time::OffsetDateTime,
};
use backoff::{Backoff, Breaker};
use blocklog::clock::Clock;

/// The waits after failures. Whoever issues tokens is asked by every process of ours, and each of them only has to know within half a minute that
/// there are some again.
const WAITS: Backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(15));
/// The longest that the issuer is left alone because it asks for it.
const LEFT_ALONE: Duration = Duration::from_secs(60);
/// A token is asked for anew before it ends, by so much.
const RENEWED: azure_core::time::Duration = azure_core::time::Duration::minutes(5);
/// Where none can be had, the old one is used for as long as at least so much of it is left.
const USABLE: azure_core::time::Duration = azure_core::time::Duration::seconds(30);

/// A credential whose issuer is asked by one at a time. Who comes meanwhile shares the answer; after a failure all get its error at once, until the
/// next one is let through after a growing wait.
pub(crate) struct SharedToken {
    inner: Arc<dyn TokenCredential>,
    clock: Arc<dyn Clock>,
    /// Held by the one who asks.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    tokens: BTreeMap<String, AccessToken>,
    breaker: Breaker<Arc<azure_core::Error>>,
}

impl fmt::Debug for SharedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedToken").field(&self.inner).finish()
    }
}

/// The error of another's request.
#[derive(Debug)]
struct Others(Arc<azure_core::Error>);

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Others {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // Its kind is what is asked for, and a status that stands behind it.
        Some(&*self.0)
    }
}

impl SharedToken {
    pub(crate) fn new(inner: Arc<dyn TokenCredential>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let state = State { tokens: BTreeMap::new(), breaker: Breaker::new(1, WAITS) };
        Arc::new(Self { inner, clock, turn: tokio::sync::Mutex::default(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is of one value: a panic can't have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token of before, with so much left of it.
    fn known(&self, scopes: &str, left: azure_core::time::Duration) -> Option<AccessToken> {
        let now = OffsetDateTime::now_utc();
        self.state().tokens.get(scopes).filter(|token| token.expires_on > now + left).cloned()
    }

    /// The one request that is under way for all.
    async fn asked(&self, scopes: &[&str], options: Option<TokenRequestOptions<'_>>) -> Result<AccessToken, Arc<azure_core::Error>> {
        self.state().breaker.ask(self.clock.monotonic())?;
        let result = self.inner.get_token(scopes, options).await.map_err(Arc::new);
        let now = self.clock.monotonic();
        let mut state = self.state();
        match &result {
            Ok(token) => {
                state.tokens.insert(scopes.join(" "), token.clone());
                state.breaker.note(None, now);
            }
            Err(error) => match left_alone(error) {
                Some(wait) => state.breaker.hold(error, now + wait),
                None => state.breaker.note(Some(error), now),
            },
        }
        result
    }
}

#[async_trait]
impl TokenCredential for SharedToken {
    async fn get_token(&self, scopes: &[&str], options: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        let name = scopes.join(" ");
        if let Some(token) = self.known(&name, RENEWED) {
            return Ok(token);
        }
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            // Nobody waits for an issuer that is slow as long as the old one is good.
            Err(_) => match self.known(&name, USABLE) {
                Some(token) => return Ok(token),
                None => self.turn.lock().await,
            },
        };
        if let Some(token) = self.known(&name, RENEWED) {
            return Ok(token);
        }
        match self.asked(scopes, options).await {
            Ok(token) => Ok(token),
            Err(error) => self.known(&name, USABLE).ok_or_else(|| azure_core::Error::new(error.kind().clone(), Others(error))),
        }
    }
}

/// How long the issuer asks to be left alone.
fn left_alone(error: &azure_core::Error) -> Option<Duration> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(ErrorKind::HttpResponse { raw_response: Some(raw), .. }) = error.downcast_ref().map(azure_core::Error::kind) {
            let seconds = raw.headers().get_optional_str(&RETRY_AFTER)?.trim().parse().ok()?;
            return Some(Duration::from_secs(seconds).min(LEFT_ALONE));
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
#[path = "shared_token/tests.rs"]
mod tests;
