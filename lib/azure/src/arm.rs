//! Calls of Resource Manager: the token, the retries, what takes long.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azure_core::credentials::{AccessToken, TokenCredential};
use backoff::Backoff;
use blocklog::{
    azure_blob::{FailureKind, token_kind},
    clock::Clock,
    constant::noted,
};
use jiff::Timestamp;
use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, HeaderName, RETRY_AFTER},
};
use serde_json::Value;

use crate::{error::ArmError, shared::Shared};

/// How often a call is sent that fails in a way that may pass.
const TRIES: u32 = 4;
/// The waits in between, where Azure names none.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(16));
/// The longest wait, asked for by Azure or our own, that a call sits out; a longer one is the caller's ([`ArmError::Throttled`]).
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest that a call waits for its turn where nothing answers: as long as its own tries last.
const TURN: Duration = Duration::from_secs(8);
/// For how long Azure is left alone where it asks for it and names no time.
const LEFT_ALONE: Duration = Duration::from_secs(10);
/// Between two looks at an operation where Azure names no time: it asks not to be polled faster.
const POLL: Duration = Duration::from_secs(5);
/// The longest that an operation is waited for in one call. It goes on in Azure; the call is safe to repeat.
const OPERATION: Duration = Duration::from_secs(120);

/// Where Resource Manager is, and who asks.
#[derive(Clone)]
pub struct ArmConfig {
    /// Such as `https://management.azure.com`.
    pub endpoint: String,
    /// What tokens are asked for, such as `https://management.azure.com`.
    pub audience: String,
    /// Who asks.
    pub credential: Arc<dyn TokenCredential>,
    /// The HTTP client ([`crate::credential::http`]).
    pub http: reqwest::Client,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Resource Manager. Clones share what they know of it.
#[derive(Clone)]
pub struct Arm {
    config: ArmConfig,
    scope: String,
    quiet: Arc<Quiet>,
    shared: Arc<Shared>,
}

/// Until when Azure has asked not to be read, and not to be written: whoever comes next with another disk is the same principal to it, and is
/// counted with those before.
#[derive(Default)]
struct Quiet(Mutex<[Option<Until>; 2]>);

#[derive(Clone, Copy)]
struct Until {
    /// [`Clock::monotonic`].
    end: Duration,
    /// For people.
    at: Timestamp,
}

impl Quiet {
    fn side(method: &Method) -> usize {
        usize::from(method != Method::GET)
    }

    fn of(&self, method: &Method) -> Option<Until> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[Self::side(method)]
    }

    fn keep(&self, method: &Method, until: Until) {
        let side = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner)[Self::side(method)];
        if side.is_none_or(|old| old.end < until.end) {
            *side = Some(until);
        }
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<String> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }
}

impl Arm {
    /// A client. Nothing is sent yet.
    #[must_use]
    pub fn new(config: ArmConfig) -> Self {
        let scope = format!("{}/.default", config.audience.trim_end_matches('/'));
        Self { config, scope, quiet: Arc::default(), shared: Arc::default() }
    }

    /// A GET: none where there is nothing.
    pub(crate) async fn get(&self, path: &str, version: &str) -> Result<Option<Value>, ArmError> {
        match self.call(Method::GET, &self.url(path, version), None).await {
            Ok(answer) => Ok(Some(answer.body)),
            Err(ArmError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All pages of a list.
    pub(crate) async fn list(&self, path: &str, version: &str) -> Result<Vec<Value>, ArmError> {
        let (mut all, mut url) = (Vec::new(), self.url(path, version));
        loop {
            let answer = self.call(Method::GET, &url, None).await?;
            let page = answer.body.get("value").and_then(Value::as_array);
            let page = page.ok_or_else(|| ArmError::Answer { operation: format!("GET {path}"), why: "it has no list".to_owned() })?;
            all.extend(page.iter().cloned());
            match answer.body.get("nextLink").and_then(Value::as_str) {
                // A link elsewhere would be given our token.
                Some(next) if self.is_ours(next) => next.clone_into(&mut url),
                Some(next) => {
                    let why = format!("its next page is at {next}, which is not Resource Manager");
                    return Err(ArmError::Answer { operation: format!("GET {path}"), why });
                }
                None => return Ok(all),
            }
        }
    }

    /// A call that may go on in Azure after its answer, waited for until it has ended. What comes back is the operation's result where it has
    /// one, else the first answer's body.
    pub(crate) async fn run(&self, method: Method, path: &str, version: &str, body: Option<&Value>) -> Result<Value, ArmError> {
        let operation = format!("{method} {path}");
        let first = self.call(method.clone(), &self.url(path, version), body).await?;
        let status_url = first.header("azure-asyncoperation").or_else(|| first.header("operation-location"));
        let result_url = first.header("location");
        let until = self.config.clock.monotonic() + OPERATION;
        let mut wait = retry_after(&first.headers).unwrap_or(POLL);
        let Some(url) = status_url.clone().or_else(|| result_url.clone()) else {
            return Ok(first.body);
        };
        if first.status == StatusCode::OK && status_url.is_none() {
            return Ok(first.body);
        }
        for url in [Some(&url), result_url.as_ref()].into_iter().flatten() {
            if !self.is_ours(url) {
                let why = format!("it is to be followed to {url}, which is not Resource Manager");
                return Err(ArmError::Answer { operation, why });
            }
        }
        loop {
            if self.config.clock.monotonic() + wait > until {
                let message = format!("it has not ended after {} s; it goes on", OPERATION.as_secs());
                return Err(ArmError::Failed { operation, code: "OperationPending".to_owned(), message });
            }
            self.config.clock.sleep(wait).await;
            let answer = self.call(Method::GET, &url, None).await?;
            wait = retry_after(&answer.headers).unwrap_or(POLL);
            if status_url.is_none() {
                // By `Location`: 202 until it has ended, then the result.
                if answer.status == StatusCode::ACCEPTED {
                    continue;
                }
                return Ok(answer.body);
            }
            match answer.body.get("status").and_then(Value::as_str) {
                Some("Succeeded") => {}
                Some(status @ ("Failed" | "Canceled")) => return Err(ended(operation, status, &answer.body)),
                Some(_) => continue,
                None => return Err(ArmError::Answer { operation, why: "an operation without a status".to_owned() }),
            }
            if let Some(output) = answer.body.pointer("/properties/output") {
                return Ok(output.clone());
            }
            return match (&result_url, &method) {
                (Some(result), &Method::POST) => Ok(self.call(Method::GET, result, None).await?.body),
                (_, &Method::PUT) => Ok(self.call(Method::GET, &self.url(path, version), None).await?.body),
                _ => Ok(Value::Null),
            };
        }
    }

    fn url(&self, path: &str, version: &str) -> String {
        let sign = if path.contains('?') { '&' } else { '?' };
        format!("{}{path}{sign}api-version={version}", self.config.endpoint.trim_end_matches('/'))
    }

    fn is_ours(&self, url: &str) -> bool {
        let origin = |text: &str| reqwest::Url::parse(text).ok().map(|url| url.origin());
        let ours = origin(&self.config.endpoint);
        ours.is_some() && origin(url) == ours
    }

    /// Sends a call until it has an answer that is not an error which may pass.
    async fn call(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Answer, ArmError> {
        let path = reqwest::Url::parse(url).map_or_else(|_| url.to_owned(), |url| url.path().to_owned());
        let operation = format!("{method} {path}");
        let (mut renewed, mut same_turn) = (false, false);
        let mut tried = 1;
        let turn = self.shared.turn(&method, url);
        let _turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        if let Some(answer) = self.shared.remembered(&method, url, self.config.clock.monotonic()) {
            return answer;
        }
        loop {
            if let Some(until) = self.quiet.of(&method) {
                let wait = until.end.saturating_sub(self.config.clock.monotonic());
                if wait > PATIENCE {
                    return Err(ArmError::Throttled { operation, wait, until: until.at });
                }
                if !wait.is_zero() {
                    self.config.clock.sleep(wait).await;
                }
            }
            let token = self.token().await?;
            // The second try with another token is of the same turn.
            if !std::mem::take(&mut same_turn) {
                self.turn(&method, &operation).await?;
            }
            let sent = self.send(&method, url, body, &token).await;
            // A token that was good a moment ago: where there is another one by now, that is tried.
            let refused = sent.as_ref().is_ok_and(|answer| answer.status == StatusCode::UNAUTHORIZED);
            let another = refused && !renewed && self.token().await.is_ok_and(|new| new.token.secret() != token.token.secret());
            let wait = match sent {
                Ok(answer) if answer.status.is_success() => {
                    self.shared.answered(&method, url, &Ok(answer.clone()), self.config.clock.monotonic());
                    return Ok(answer);
                }
                Ok(_) if another => {
                    (renewed, same_turn) = (true, true);
                    Duration::ZERO
                }
                Ok(answer) => {
                    let wait = retry_after(&answer.headers);
                    let error = refusal(&operation, &path, &answer, self.config.clock.now());
                    if let ArmError::Throttled { wait, until, .. } = &error {
                        self.quiet.keep(&method, Until { end: self.config.clock.monotonic() + *wait, at: *until });
                    }
                    self.shared.answered(&method, url, &Err(error.clone()), self.config.clock.monotonic());
                    match &error {
                        ArmError::Throttled { .. } | ArmError::Failed { .. } if tried < TRIES => {
                            let wait = wait.unwrap_or_else(|| AGAIN.wait(tried - 1, 0));
                            if wait > PATIENCE {
                                return Err(error);
                            }
                            wait
                        }
                        _ => return Err(error),
                    }
                }
                Err(error) => {
                    self.shared.answered(&method, url, &Err(error.clone()), self.config.clock.monotonic());
                    if tried >= TRIES || !matches!(error, ArmError::Unreachable(_)) {
                        return Err(error);
                    }
                    tracing::debug!(%error, operation, "tried again");
                    AGAIN.wait(tried - 1, 0)
                }
            };
            tried += u32::from(!wait.is_zero());
            self.config.clock.sleep(wait).await;
        }
    }

    /// Waits for the turn of a call where nothing answers, for a moment. Who would wait longer is told what another has met, of what it wants itself.
    async fn turn(&self, method: &Method, operation: &str) -> Result<(), ArmError> {
        let until = self.config.clock.monotonic() + TURN;
        loop {
            let now = self.config.clock.monotonic();
            match self.shared.ask(method, now) {
                Ok(()) => return Ok(()),
                Err((_, next)) if next <= until => self.config.clock.sleep_until(next).await,
                Err((error, next)) => return Err(error.of(operation).after(next.saturating_sub(now), self.config.clock.now())),
            }
        }
    }

    /// Its issuer is asked by one for all, who know themselves when it is worth asking again.
    async fn token(&self) -> Result<AccessToken, ArmError> {
        let token = self.config.credential.get_token(&[&self.scope], None).await;
        token.map_err(|error| of_token(&error))
    }

    async fn send(&self, method: &Method, url: &str, body: Option<&Value>, token: &AccessToken) -> Result<Answer, ArmError> {
        let mut request = self.config.http.request(method.clone(), url).bearer_auth(token.token.secret());
        request = match body {
            Some(body) => request.json(body),
            // Azure answers 411 to a POST without a length.
            None if *method == Method::POST => request.header(reqwest::header::CONTENT_LENGTH, "0"),
            None => request,
        };
        let answer = request.send().await.map_err(|error| of_transport(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.bytes().await.map_err(|error| of_transport(&error))?;
        let body = match serde_json::from_slice(&text) {
            Ok(body) => body,
            Err(_) if text.is_empty() || !status.is_success() => Value::Null,
            Err(error) => return Err(ArmError::Answer { operation: format!("{method} {url}"), why: error.to_string() }),
        };
        Ok(Answer { status, headers, body })
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What an answer that is no success says.
fn refusal(operation: &str, path: &str, answer: &Answer, now: Timestamp) -> ArmError {
    let error = answer.body.get("error").unwrap_or(&answer.body);
    let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
    let code = text("code").unwrap_or_else(|| answer.status.as_str().to_owned());
    let message = text("message").map_or_else(
        || answer.status.canonical_reason().unwrap_or("no reason given").to_owned(),
        |message| noted("Resource Manager", &message),
    );
    tracing::debug!(operation, code, correlation = answer.header("x-ms-correlation-request-id"), "Resource Manager refuses");
    let operation = operation.to_owned();
    match answer.status.as_u16() {
        401 => ArmError::Credential(format!("{code}: {message}")),
        403 => ArmError::Forbidden { operation, message },
        404 if code == "ResourceGroupNotFound" || code == "SubscriptionNotFound" => ArmError::Refused { operation, code, message },
        404 => ArmError::NotFound(path.to_owned()),
        409 => ArmError::Conflict { operation, code, message },
        429 => {
            let wait = retry_after(&answer.headers).unwrap_or(LEFT_ALONE);
            let until = now.as_second().saturating_add(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX));
            ArmError::Throttled { operation, wait, until: Timestamp::from_second(until).unwrap_or(Timestamp::MAX) }
        }
        408 | 500.. => ArmError::Failed { operation, code, message },
        _ => ArmError::Refused { operation, code, message },
    }
}

/// An operation that did not succeed.
fn ended(operation: String, status: &str, body: &Value) -> ArmError {
    let text = |name: &str| body.pointer(&format!("/error/{name}")).and_then(Value::as_str).map(str::to_owned);
    let code = text("code").unwrap_or_else(|| status.to_owned());
    let message = text("message").map_or_else(|| "Azure gives no reason".to_owned(), |message| noted("Resource Manager", &message));
    match code.as_str() {
        "InternalServerError" | "InternalExecutionError" | "InternalOperationError" | "OperationPreempted" | "Canceled" => {
            ArmError::Failed { operation, code, message }
        }
        "Conflict" | "OperationNotAllowed" | "AnotherOperationInProgress" => ArmError::Conflict { operation, code, message },
        _ => ArmError::Refused { operation, code, message },
    }
}

fn of_token(error: &azure_core::Error) -> ArmError {
    let why = chain(error);
    if is_of_trust(&why) {
        return ArmError::Untrusted { host: "the token endpoint".to_owned(), why };
    }
    match token_kind(error) {
        // One that fails or is not to be reached says nothing about who we are.
        FailureKind::Unreachable => ArmError::Unreachable(format!("no token is to be had: {why}")),
        _ => ArmError::Credential(why),
    }
}

fn of_transport(error: &reqwest::Error) -> ArmError {
    let why = chain(error);
    if is_of_trust(&why) {
        let host = error.url().and_then(reqwest::Url::host_str).unwrap_or("Azure").to_owned();
        return ArmError::Untrusted { host, why };
    }
    ArmError::Unreachable(why)
}

/// TLS's errors come as text through two clients: rustls begins with "invalid peer certificate".
fn is_of_trust(why: &str) -> bool {
    why.contains("certificate")
}

/// The error and what is behind it: the outer one alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    noted("Azure", &text)
}
