//! A call to Resource Manager: who calls, whether it may, and where it goes.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::ArmError;
use super::knobs::Effect;
use super::path::{self, ArmPath};
use super::route;
use super::throttle::Resource;
use super::world::World;
use crate::State;
use crate::serve::drop_connection;
use crate::sts::{Caller, TokenRefused};

/// What a handler answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers beside those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Option<Value>,
}

impl Answer {
    /// 200 with a body.
    #[must_use]
    pub fn ok(body: Value) -> Self {
        Self { status: 200, headers: Vec::new(), body: Some(body) }
    }

    /// A status without a body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: None }
    }
}

/// What comes of a call.
pub type Outcome = Result<Answer, ArmError>;

/// A call that is authenticated.
pub struct Call {
    /// Everything there is.
    pub state: State,
    /// When it came.
    pub now: Timestamp,
    /// `GET`, `PUT`...
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// The host by which the client came: operation URLs have it.
    pub host: String,
    /// The path.
    pub path: ArmPath,
    /// The query.
    pub query: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Who calls.
    pub caller: Caller,
    /// `api-version`.
    pub version: String,
    /// The failure that was planted for its operation.
    pub fail: Option<ArmError>,
    /// The fault that holds its operation.
    pub held: Option<u64>,
}

impl Call {
    /// A parameter of the query; names are compared without regard to case.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The subscription of the path.
    #[must_use]
    pub fn subscription(&self) -> &str {
        self.path.subscription.as_deref().unwrap_or_default()
    }

    /// Refuses what the caller may not do with a resource that the body names.
    ///
    /// # Errors
    /// LinkedAuthorizationFailed (403).
    pub fn may_link(&self, world: &World, own: (&str, &str), action: &str, id: &str) -> Result<(), ArmError> {
        world.rbac.check_linked(&self.caller, own, (action, id), self.now)
    }
}

/// Audiences of tokens for Resource Manager (learn.microsoft.com, "Azure REST API": both names of the resource are served).
pub const AUDIENCES: &[&str] = &[
    "https://management.azure.com",
    "https://management.azure.com/",
    "https://management.core.windows.net",
    "https://management.core.windows.net/",
];

/// The largest body that Resource Manager takes.
const LARGEST: usize = 4 << 20;

/// Answers a request.
pub async fn handle(Shared(state): Shared<State>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let ids = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    let bytes = match to_bytes(body, LARGEST).await {
        Ok(bytes) => bytes,
        Err(_) => {
            let error = ArmError::new(413, "RequestContentTooLarge", "The request content size exceeds the maximum size of 4 MB.");
            return respond(&state, &ids, Err(error), None);
        }
    };
    let method = parts.method.as_str().to_owned();
    let raw = parts.uri.path().to_owned();
    let parsed = ArmPath::parse(&raw);
    if let Ok(path) = &parsed {
        state.arm.knobs.count(route::operation(&method, path));
    }

    let caller = match authenticate(&state, &parts.headers) {
        Ok(caller) => caller,
        Err(error) => return respond(&state, &ids, Err(error), None),
    };

    let (mut fail, mut held, mut lose) = (None, None, false);
    for (id, effect) in state.arm.knobs.meet(&method, &raw) {
        match effect {
            Effect::Answer { status, code, message, retry_after } => {
                let message = if message.is_empty() { "This answer was planted by a test.".to_owned() } else { message };
                let mut error = ArmError::new(status, &code, message);
                error.retry_after = retry_after;
                return respond(&state, &ids, Err(error), None);
            }
            Effect::Delay { seconds } => state.clock.sleep(crate::config::seconds(seconds)).await,
            Effect::Drop { after: false } => return drop_connection(),
            Effect::Drop { after: true } => lose = true,
            Effect::FailOperation { code, message } => fail = Some(ArmError::new(500, &code, message)),
            Effect::HoldOperation => held = Some(id),
        }
    }

    let query = path::query(parts.uri.query().unwrap_or_default());
    let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).or(parts.uri.host()).unwrap_or("localhost").to_owned();
    let url = format!("https://{host}{}", parts.uri.path_and_query().map_or(raw.as_str(), |both| both.as_str()));
    let work = state.clone();
    // The bytes of disks are copied and created under way: not on the threads that serve.
    let outcome = tokio::task::spawn_blocking(move || {
        let now = work.clock.now();
        let mut world = work.arm.world();
        world.settle(&work, now);
        let version = query.iter().find(|(name, _)| name.eq_ignore_ascii_case("api-version")).map(|(_, value)| value.clone());
        let path = match parsed {
            Ok(path) => path,
            Err(error) => return (Err(error), None),
        };
        let call = Call {
            state: work.clone(),
            now,
            method,
            url,
            host,
            path,
            query,
            body: bytes.to_vec(),
            caller,
            version: version.unwrap_or_default(),
            fail,
            held,
        };
        let resource = throttled(&call);
        let header = match world.throttles.take(&call.method, &call.caller.object_id, &resource, now) {
            Ok(header) => header,
            Err(error) => return (Err(error), None),
        };
        let outcome = route::route(&mut world, &call);
        // What takes no time ends before the answer goes out.
        world.settle(&work, now);
        (outcome, Some(header))
    })
    .await;
    let (outcome, header) = outcome.unwrap_or_else(|error| {
        tracing::error!(%error, "a handler panicked");
        (Err(ArmError::new(500, "InternalServerError", "The simulator failed; its log says how.")), None)
    });
    if lose {
        return drop_connection();
    }
    respond(&state, &ids, outcome, header)
}

/// Which of Compute's own throttles a call draws from.
fn throttled(call: &Call) -> Resource {
    let Some((namespace, segments)) = call.path.last() else { return Resource::None };
    if !namespace.eq_ignore_ascii_case("Microsoft.Compute") {
        return Resource::None;
    }
    let is = |at: usize, word: &str| segments.get(at).is_some_and(|segment: &String| segment.eq_ignore_ascii_case(word));
    let group = call.path.group.clone().unwrap_or_default();
    if is(0, "virtualMachines") && segments.len() >= 2 {
        let id = format!("{group}/{}", segments[1]).to_ascii_lowercase();
        return if call.method == "GET" { Resource::GetVm(id) } else { Resource::ChangeVm(id) };
    }
    if is(0, "locations") && segments.len() == 4 && (is(2, "operations") || is(2, "DiskOperations")) {
        return Resource::Status(segments[3].to_ascii_lowercase());
    }
    Resource::None
}

/// Who calls.
fn authenticate(state: &State, headers: &http::HeaderMap) -> Result<Caller, ArmError> {
    let refuse = |code: &str, message: String| {
        let mut error = ArmError::new(401, code, message.clone());
        error.challenge = Some(format!(
            "Bearer authorization_uri=\"https://login.microsoftonline.com/{}\", error=\"invalid_token\", error_description=\"{}\"",
            state.config.tenant,
            message.replace('"', "'")
        ));
        error
    };
    let Some(header) = headers.get("authorization") else {
        return Err(refuse("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.".to_owned()));
    };
    let text = header.to_str().unwrap_or_default();
    let Some((_, token)) = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer")) else {
        let scheme = text.split(' ').next().unwrap_or_default();
        return Err(refuse(
            "AuthenticationFailedInvalidHeader",
            format!("Authentication failed. The 'Authorization' header is provided in an invalid format ('{scheme}')."),
        ));
    };
    state.sts.check(token.trim(), AUDIENCES).map_err(|error| {
        let (code, message) = match error {
            TokenRefused::Malformed | TokenRefused::Signature => ("InvalidAuthenticationToken", "The access token is invalid.".to_owned()),
            TokenRefused::NotYetValid => ("InvalidAuthenticationToken", "The access token is not yet valid.".to_owned()),
            TokenRefused::Expired => {
                ("ExpiredAuthenticationToken", format!("The access token expiry UTC time is earlier than current UTC time '{}'.", state.clock.now()))
            }
            TokenRefused::Audience(audience) => (
                "InvalidAuthenticationTokenAudience",
                format!(
                    "The access token has been obtained for wrong audience or resource '{audience}'. It should exactly match with one of the allowed \
                     audiences '{}'.",
                    AUDIENCES.join("','")
                ),
            ),
            TokenRefused::Issuer(issuer) => (
                "InvalidAuthenticationTokenTenant",
                format!(
                    "The access token is from the wrong issuer '{issuer}'. It must match the tenant 'https://sts.windows.net/{}/' associated with this \
                     subscription.",
                    state.config.tenant
                ),
            ),
        };
        refuse(code, message)
    })
}

/// Puts an answer together.
fn respond(state: &State, (request, correlation): &(String, String), outcome: Outcome, limit: Option<(&'static str, String)>) -> Response {
    let mut builder = http::Response::builder()
        .header("x-ms-request-id", request)
        .header("x-ms-correlation-request-id", correlation)
        .header("x-ms-routing-request-id", format!("SANDBOX:{}:{correlation}", state.clock.now().strftime("%Y%m%dT%H%M%SZ")))
        .header("cache-control", "no-cache")
        .header("strict-transport-security", "max-age=31536000; includeSubDomains")
        .header("x-content-type-options", "nosniff");
    if let Some((name, value)) = limit {
        builder = builder.header(name, value);
    }
    let (status, body) = match outcome {
        Ok(answer) => {
            for (name, value) in answer.headers {
                builder = builder.header(name, value);
            }
            (answer.status, answer.body)
        }
        Err(error) => {
            if let Some(seconds) = error.retry_after {
                builder = builder.header("retry-after", seconds.to_string());
            }
            if let Some(challenge) = &error.challenge {
                builder = builder.header("www-authenticate", challenge);
            }
            let mut body = error.body();
            if matches!(error.status, 429 | 500..) {
                // Azure's own words where it can't say more: another text each time.
                let (said, now) = (body["error"]["message"].as_str().unwrap_or_default(), state.clock.now());
                body["error"]["message"] = json!(format!(
                    "{said} Diagnostic information: timestamp '{}', tracking id '{request}', request correlation id '{correlation}'.",
                    now.strftime("%Y%m%dT%H%M%SZ")
                ));
            }
            (error.status, Some(body))
        }
    };
    let built = match body {
        Some(body) => builder.status(status).header("content-type", "application/json; charset=utf-8").body(Body::from(body.to_string())),
        None => builder.status(status).body(Body::empty()),
    };
    built.unwrap_or_else(|error| {
        tracing::error!(%error, "an answer could not be put together");
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
