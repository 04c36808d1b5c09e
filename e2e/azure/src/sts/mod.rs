//! The token endpoint of Entra ID, as far as a program without a person uses it: the client-credentials grant by a client secret or by
//! another issuer's token (workload identity), and what MSAL reads before it asks.
//!
//! Codes and texts are Entra's ("Microsoft Entra authentication and authorization error codes", learn.microsoft.com).

mod assertion;
mod jwt;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::rsa::{KeyPair, KeySize};
use axum::extract::{Path, Request, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

pub use jwt::JwtError;

use crate::config::{Principal, seconds};
use crate::{Clock, Config, State};

/// The audience that a federated credential's tokens have.
pub const EXCHANGE: &str = "api://AzureADTokenExchange";

/// The resources that tokens are given for, without a slash at the end.
const RESOURCES: [&str; 5] = [
    "https://management.azure.com",
    "https://management.core.windows.net",
    "https://storage.azure.com",
    "https://vault.azure.net",
    "https://graph.microsoft.com",
];

/// The token endpoint; cheap to clone.
#[derive(Clone)]
pub struct Sts {
    inner: Arc<Inner>,
}

struct Inner {
    tenant: String,
    principals: Vec<Principal>,
    lifetime: SignedDuration,
    clock: Clock,
    key: &'static Key,
    http: reqwest::Client,
    knobs: Mutex<Knobs>,
}

/// What tokens are signed with: one for each process.
struct Key {
    pair: KeyPair,
    id: String,
}

static KEY: OnceLock<Key> = OnceLock::new();

fn key() -> Result<&'static Key, StsError> {
    if KEY.get().is_none() {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| StsError::Key)?;
        // Where another was quicker, its key is the one.
        let _ = KEY.set(Key { pair, id: Uuid::new_v4().simple().to_string() });
    }
    KEY.get().ok_or(StsError::Key)
}

#[derive(Default)]
struct Knobs {
    counts: BTreeMap<String, u64>,
    outage: Option<Outage>,
}

/// Requests for tokens that fail.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Outage {
    /// The status that they are answered with; the connection is closed where it is not given.
    #[serde(default)]
    pub status: Option<u16>,
    /// How many; all, until it is cleared, where it is not given.
    #[serde(default)]
    pub times: Option<u32>,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The service principal: what roles are assigned to.
    pub object_id: String,
    /// The application.
    pub client_id: String,
    /// The directory.
    pub tenant: String,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It is no token of ours.
    #[error("the access token is malformed")]
    Malformed,
    /// Somebody else signed it, or nobody.
    #[error("the access token's signature is not valid")]
    Signature,
    /// Its time is over.
    #[error("the access token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the access token is not valid yet")]
    NotYetValid,
    /// It is for another resource.
    #[error("the access token is for '{0}'")]
    Audience(String),
    /// It is of another directory.
    #[error("the access token was issued by '{0}'")]
    Issuer(String),
}

impl TokenRefused {
    /// The code that Resource Manager answers with, beside 401.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Signature | Self::NotYetValid => "InvalidAuthenticationToken",
            Self::Expired => "ExpiredAuthenticationToken",
            Self::Audience(_) => "InvalidAuthenticationTokenAudience",
            Self::Issuer(_) => "InvalidAuthenticationTokenTenant",
        }
    }
}

/// The endpoint cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StsError {
    /// No key.
    #[error("no key to sign tokens with can be made")]
    Key,
    /// No client for issuers' keys.
    #[error("no HTTP client: {0}")]
    Client(String),
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Denied {
    status: u16,
    error: &'static str,
    code: u64,
    text: String,
}

impl Denied {
    fn new(status: u16, error: &'static str, code: u64, text: impl Into<String>) -> Self {
        Self { status, error, code, text: text.into() }
    }

    fn missing(field: &str) -> Self {
        let text = format!("The request body must contain the following parameter: '{field}'.");
        Self::new(400, "invalid_request", 900_144, text)
    }

    fn response(&self, now: Timestamp) -> Response {
        let (trace, correlation) = (Uuid::new_v4(), Uuid::new_v4());
        let time = now.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let body = json!({
            "error": self.error,
            "error_description":
                format!("AADSTS{}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {time}", self.code, self.text),
            "error_codes": [self.code],
            "timestamp": time,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code),
        });
        (StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST), Json(body)).into_response()
    }
}

impl Sts {
    /// An endpoint for the configuration's tenant and principals, signed with this process's key.
    ///
    /// # Errors
    /// When no key or no HTTP client can be made.
    pub fn new(config: &Config, clock: Clock) -> Result<Self, StsError> {
        let key = key()?;
        let http = reqwest::Client::builder().no_proxy().build().map_err(|error| StsError::Client(error.to_string()))?;
        let lifetime = SignedDuration::try_from(seconds(config.times.token)).unwrap_or(SignedDuration::MAX);
        let inner = Inner {
            tenant: config.tenant.to_lowercase(),
            principals: config.principals.clone(),
            lifetime,
            clock,
            key,
            http,
            knobs: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.inner.knobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests for tokens, by outcome: `issued`, or the code of the error.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.knobs().counts.clone()
    }

    /// Counts from nothing again.
    pub fn reset_counts(&self) {
        self.knobs().counts.clear();
    }

    /// Lets requests for tokens fail, or no longer.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.knobs().outage = outage;
    }

    /// The outage that lasts.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        self.knobs().outage.clone()
    }

    fn count(&self, what: String) {
        *self.knobs().counts.entry(what).or_default() += 1;
    }

    fn meet_outage(&self) -> Option<Outage> {
        let mut knobs = self.knobs();
        let met = knobs.outage.clone()?;
        if let Some(times) = knobs.outage.as_mut().and_then(|outage| outage.times.as_mut()) {
            *times = times.saturating_sub(1);
            if *times == 0 {
                knobs.outage = None;
            }
        }
        Some(met)
    }

    fn issuer(&self) -> String {
        format!("https://sts.windows.net/{}/", self.inner.tenant)
    }

    /// Checks a token that was given out here.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn check(&self, token: &str, audiences: &[&str]) -> Result<Caller, TokenRefused> {
        let parsed = jwt::parse(token).map_err(|_| TokenRefused::Malformed)?;
        let text = |name: &str| parsed.claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        // Before the signature: another directory's token is signed with a key that is not known here.
        if text("iss") != self.issuer() {
            return Err(TokenRefused::Issuer(text("iss")));
        }
        jwt::verify_own(&self.inner.key.pair, token, &parsed).map_err(|_| TokenRefused::Signature)?;
        let now = self.inner.clock.now().as_second();
        let time = |name: &str| parsed.claims.get(name).and_then(Value::as_i64);
        match (time("nbf"), time("exp")) {
            (_, None) => return Err(TokenRefused::Malformed),
            (Some(from), _) if now < from => return Err(TokenRefused::NotYetValid),
            (_, Some(until)) if now >= until => return Err(TokenRefused::Expired),
            _ => {}
        }
        if !audiences.contains(&text("aud").as_str()) {
            return Err(TokenRefused::Audience(text("aud")));
        }
        Ok(Caller { object_id: text("oid"), client_id: text("appid"), tenant: text("tid") })
    }

    /// A token for a principal and an audience, as the endpoint would give it: for tests that need no client of it.
    ///
    /// # Errors
    /// When there is no such principal, or nothing can be signed.
    pub fn token_for(&self, client_id: &str, audience: &str) -> Result<String, String> {
        let principal = self.principal(client_id).ok_or_else(|| format!("no principal has the clientId {client_id}: declare it"))?;
        self.sign(principal, audience, "1").map_err(|denied| denied.text)
    }

    fn principal(&self, client_id: &str) -> Option<&Principal> {
        self.inner.principals.iter().find(|principal| principal.client_id.eq_ignore_ascii_case(client_id))
    }

    fn sign(&self, principal: &Principal, audience: &str, strength: &str) -> Result<String, Denied> {
        let now = self.inner.clock.now();
        let until = now.saturating_add(self.inner.lifetime).unwrap_or(Timestamp::MAX);
        // Five minutes back, as Entra does it, for clocks that are slow.
        let from = now.as_second() - 300;
        let claims = json!({
            "aud": audience,
            "iss": self.issuer(),
            "iat": from,
            "nbf": from,
            "exp": until.as_second(),
            "appid": principal.client_id.to_lowercase(),
            "appidacr": strength,
            "idp": self.issuer(),
            "idtyp": "app",
            "oid": principal.object_id.to_lowercase(),
            "sub": principal.object_id.to_lowercase(),
            "tid": self.inner.tenant,
            "uti": Uuid::new_v4().simple().to_string(),
            "ver": "1.0",
        });
        jwt::sign(&self.inner.key.pair, &self.inner.key.id, &claims).map_err(|_| Denied::new(500, "server_error", 90_033, "No signature."))
    }

    fn check_tenant(&self, tenant: &str) -> Result<(), Denied> {
        if tenant.eq_ignore_ascii_case(&self.inner.tenant) {
            return Ok(());
        }
        let text = format!(
            "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check \
             with your subscription administrator, this may happen if there are no active subscriptions for the tenant."
        );
        Err(Denied::new(400, "invalid_request", 90_002, text))
    }

    async fn token(&self, tenant: &str, form: &HashMap<String, String>) -> Result<Value, Denied> {
        self.check_tenant(tenant)?;
        let field = |name: &str| form.get(name).filter(|value| !value.is_empty()).cloned();
        let need = |name: &'static str| field(name).ok_or_else(|| Denied::missing(name));
        let grant = need("grant_type")?;
        if grant != "client_credentials" {
            let text = format!("The app requested an unsupported grant type '{grant}'.");
            return Err(Denied::new(400, "unsupported_grant_type", 70_003, text));
        }
        let client_id = need("client_id")?;
        let audience = audience(&need("scope")?)?;
        let principal = self.principal(&client_id).ok_or_else(|| {
            let text = format!(
                "Application with identifier '{client_id}' was not found in the directory '{tenant}'. This can happen if the application \
                 has not been installed by the administrator of the tenant or consented to by any user in the tenant."
            );
            Denied::new(400, "unauthorized_client", 700_016, text)
        })?;
        let strength = match (field("client_assertion"), field("client_secret")) {
            (Some(assertion), _) => {
                let kind = need("client_assertion_type")?;
                if kind != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
                    let text = format!("The assertion type '{kind}' is not supported.");
                    return Err(Denied::new(400, "invalid_request", 50_048, text));
                }
                assertion::check(principal, &assertion, &self.inner.http, self.inner.clock.now()).await?;
                "2"
            }
            (None, Some(secret)) => {
                check_secret(principal, &secret)?;
                "1"
            }
            (None, None) => {
                let text = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
                return Err(Denied::new(401, "invalid_client", 7_000_216, text));
            }
        };
        let token = self.sign(principal, &audience, strength)?;
        let lifetime = self.inner.lifetime.as_secs();
        Ok(json!({ "token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token }))
    }
}

fn check_secret(principal: &Principal, secret: &str) -> Result<(), Denied> {
    use aws_lc_rs::{constant_time, digest};
    let hash = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    let good = principal.secret.as_deref().is_some_and(|expected| {
        // Hashed, so that the length takes no time either.
        constant_time::verify_slices_are_equal(hash(expected).as_ref(), hash(secret).as_ref()).is_ok()
    });
    if good {
        return Ok(());
    }
    let text = format!(
        "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, \
         for a secret added to app '{}'.",
        principal.client_id
    );
    Err(Denied::new(401, "invalid_client", 7_000_215, text))
}

/// The resource of a scope: `https://storage.azure.com/.default` is for `https://storage.azure.com`. A slash of the resource's own stays.
fn audience(scope: &str) -> Result<String, Denied> {
    let mut wanted = scope.split_whitespace().filter(|part| !matches!(*part, "openid" | "profile" | "offline_access"));
    let (Some(one), None) = (wanted.next(), wanted.next()) else {
        return Err(Denied::new(
            400,
            "invalid_scope",
            70_011,
            format!("The provided value for the input parameter 'scope' is not valid: '{scope}'."),
        ));
    };
    let Some(resource) = one.strip_suffix("/.default") else {
        let text = format!(
            "The provided value for scope {one} is not valid. Client credential flows must have a scope value with /.default suffixed to the \
             resource identifier (application ID URI)."
        );
        return Err(Denied::new(400, "invalid_scope", 1_002_012, text));
    };
    let bare = resource.trim_end_matches('/');
    let account = bare.strip_prefix("https://").is_some_and(|host| host.ends_with(".blob.core.windows.net") && !host.contains('/'));
    if RESOURCES.contains(&bare) || account {
        return Ok(resource.to_owned());
    }
    let text = format!(
        "The resource principal named {resource} was not found in the tenant. This can happen if the application has not been installed."
    );
    Err(Denied::new(400, "invalid_resource", 500_011, text))
}

/// The endpoint's routes.
pub fn router(state: State) -> Router {
    Router::new()
        .route("/{tenant}/oauth2/v2.0/token", post(token))
        .route("/{tenant}/v2.0/.well-known/openid-configuration", get(discovery))
        .route("/{tenant}/discovery/v2.0/keys", get(keys))
        .route("/common/discovery/instance", get(instance))
        .with_state(state.sts.clone())
}

async fn token(Shared(sts): Shared<Sts>, Path(tenant): Path<String>, request: Request) -> Response {
    let now = sts.inner.clock.now();
    match sts.meet_outage() {
        Some(Outage { status: None, .. }) => {
            sts.count("dropped".to_owned());
            return crate::serve::drop_connection();
        }
        Some(Outage { status: Some(status), .. }) => {
            sts.count(status.to_string());
            return Denied::new(status, "temporarily_unavailable", 90_033, "A transient error has occurred. Please try again.")
                .response(now);
        }
        None => {}
    }
    let body = match Limited::new(request.into_body(), 1 << 20).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Denied::new(413, "invalid_request", 90_020, "The request body is too large.").response(now),
    };
    let form: HashMap<String, String> = match reqwest::Url::parse(&format!("http://form/?{}", String::from_utf8_lossy(&body))) {
        Ok(url) => url.query_pairs().into_owned().collect(),
        Err(_) => HashMap::new(),
    };
    match sts.token(&tenant, &form).await {
        Ok(answer) => {
            sts.count("issued".to_owned());
            ([("cache-control", "no-store, no-cache")], Json(answer)).into_response()
        }
        Err(denied) => {
            sts.count(format!("AADSTS{}", denied.code));
            denied.response(now)
        }
    }
}

/// The address that the client used: what it is told to go on with.
fn host(headers: &HeaderMap) -> String {
    headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or("localhost").to_owned()
}

async fn discovery(Shared(sts): Shared<Sts>, Path(tenant): Path<String>, headers: HeaderMap) -> Response {
    if let Err(denied) = sts.check_tenant(&tenant) {
        return Denied { error: "invalid_tenant", ..denied }.response(sts.inner.clock.now());
    }
    let base = format!("https://{}/{}", host(&headers), sts.inner.tenant);
    Json(json!({
        "issuer": format!("{base}/v2.0"),
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        "end_session_endpoint": format!("{base}/oauth2/v2.0/logout"),
        "device_authorization_endpoint": format!("{base}/oauth2/v2.0/devicecode"),
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "claims_supported": ["sub", "iss", "aud", "exp", "iat"],
    }))
    .into_response()
}

async fn keys(Shared(sts): Shared<Sts>, Path(tenant): Path<String>) -> Response {
    if let Err(denied) = sts.check_tenant(&tenant) {
        return denied.response(sts.inner.clock.now());
    }
    Json(jwt::jwks(&sts.inner.key.pair, &sts.inner.key.id)).into_response()
}

/// What MSAL asks to learn which hosts are one cloud.
async fn instance(Shared(sts): Shared<Sts>, headers: HeaderMap) -> Response {
    let host = host(&headers);
    Json(json!({
        "tenant_discovery_endpoint": format!("https://{host}/{}/v2.0/.well-known/openid-configuration", sts.inner.tenant),
        "api-version": "1.1",
        "metadata": [{ "preferred_network": host, "preferred_cache": host, "aliases": [host] }],
    }))
    .into_response()
}

#[cfg(test)]
mod tests;
