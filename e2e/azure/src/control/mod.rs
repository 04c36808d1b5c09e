//! The control port: what tests read and set, over plain HTTP and JSON. `GET /` lists what there is.
//!
//! It listens where only tests reach it, and asks nobody who they are.

mod arm;
mod disks;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::seconds;
use crate::disks::Switches;
use crate::sts::Outage;
use crate::{Clock, State};

/// What there is, for people and as the answer to a path that there is not.
const ROUTES: &str = "\
GET    /                     this list
GET    /clock                {now, held}
POST   /clock                {advanceSeconds?, hold?, release?}: moves the clock forward, holds it, lets it run
GET    /disks                all disks and snapshots: size, grants with their URLs, counts
GET    /disks/bytes          ?id=&offset=&length=: bytes, VHD footer included
PUT    /disks/bytes          ?id=&offset=: writes the body as the guest would
GET    /disks/sha256         ?id=&offset=&length=&footer=false: SHA-256 and how many bytes it is of; without offset and length of all
GET    /disks/ranges         ?id=: the written ranges [start, end)
GET    /disks/switches       how the host behaves where Azure leaves it open
PATCH  /disks/switches       any of their fields
GET    /disks/faults         planted faults
POST   /disks/faults         {disk?, operation?, times?, skip?, effect: {kind: answer|drop|delay|late|twice, ...}}
DELETE /disks/faults         ?id=: one, or all
POST   /disks/expire         {id?}: SAS reach their end now
DELETE /disks/counts         counts from nothing again
GET    /sts                  {counts, outage}
PUT    /sts/outage           {status?, times?}: requests for tokens fail
DELETE /sts/outage           no longer
GET    /sts/token            ?clientId=&audience=: a token as the endpoint gives it
GET    /arm                  all resources
GET    /arm/faults           planted faults
POST   /arm/faults           {method?, path, times?, skip?, effect: {kind: answer|delay|drop|failOperation|holdOperation, ...}}
DELETE /arm/faults           ?id=: one, or all
GET    /arm/counts           calls, by operation
DELETE /arm/counts           counts from nothing again
POST   /arm/roles            {objectId | clientId, role, scope?, atOnce?}: assigns a role
DELETE /arm/roles            the same body: takes it away
PUT    /arm/power            {vm, state: running|stopped|deallocated}: as the guest or the host would
PUT    /arm/providers        {name, registration: Registered|NotRegistered|Registering}
PUT    /arm/quota            {location, name, limit}
PUT    /arm/throttle         {scale}: 1 is Azure's, 0 is none
POST   /reset                switches, faults, outages and counts as at the start; resources, grants and the clock stay
";

/// The control port's routes.
pub fn router(state: State) -> Router {
    Router::new()
        .route("/", get(|| async { ROUTES }))
        .route("/clock", get(clock).post(set_clock))
        .route("/sts", get(sts))
        .route("/sts/outage", axum::routing::put(set_outage).delete(end_outage))
        .route("/sts/token", get(token))
        .route("/reset", axum::routing::post(reset))
        .nest("/disks", disks::routes())
        .nest("/arm", arm::routes())
        .fallback(|| async { Wrong::new(404, format!("there is no such thing here; there is:\n{ROUTES}")) })
        .method_not_allowed_fallback(|| async { Wrong::new(405, format!("not with this method; there is:\n{ROUTES}")) })
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20))
        .with_state(state)
}

/// An answer that says what is wrong with the request.
#[derive(Debug)]
struct Wrong(u16, String);

impl Wrong {
    fn new(status: u16, sentence: impl Into<String>) -> Self {
        Self(status, sentence.into())
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0).unwrap_or(StatusCode::BAD_REQUEST);
        (status, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<JsonRejection> for Wrong {
    fn from(rejection: JsonRejection) -> Self {
        Self(400, rejection.body_text())
    }
}

impl From<QueryRejection> for Wrong {
    fn from(rejection: QueryRejection) -> Self {
        Self(400, rejection.body_text())
    }
}

impl From<std::io::Error> for Wrong {
    fn from(error: std::io::Error) -> Self {
        let status = match error.kind() {
            std::io::ErrorKind::NotFound => 404,
            std::io::ErrorKind::InvalidInput => 400,
            _ => 500,
        };
        Self(status, error.to_string())
    }
}

/// A JSON body, of whatever content type: tests send them by curl.
struct Body<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Wrong;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Wrong> {
        let bytes = bytes::Bytes::from_request(request, state).await.map_err(|error| Wrong::new(400, error.body_text()))?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text).map(Self).map_err(|error| Wrong::new(400, format!("the body: {error}")))
    }
}

/// The query.
struct Query<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Wrong;

    async fn from_request_parts(parts: &mut http::request::Parts, state: &S) -> Result<Self, Wrong> {
        let axum::extract::Query(query) = axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Self(query))
    }
}

type Answer = Result<Json<Value>, Wrong>;

fn done() -> Answer {
    Ok(Json(json!({})))
}

/// A number in the query, that may be missing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbered {
    id: Option<u64>,
}

fn time(clock: &Clock) -> Json<Value> {
    Json(json!({ "now": clock.now(), "held": clock.is_held() }))
}

async fn clock(Shared(state): Shared<State>) -> Json<Value> {
    time(&state.clock)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Move {
    #[serde(default)]
    advance_seconds: f64,
    #[serde(default)]
    hold: bool,
    #[serde(default)]
    release: bool,
}

async fn set_clock(Shared(state): Shared<State>, Body(asked): Body<Move>) -> Answer {
    let by = asked.advance_seconds;
    if !by.is_finite() || by < 0.0 {
        return Err(Wrong::new(400, format!("advanceSeconds: {by}: this clock only goes forward, give 0 or more")));
    }
    if asked.hold && asked.release {
        return Err(Wrong::new(400, "hold and release: give one of them"));
    }
    if asked.hold {
        state.clock.hold();
    }
    if by > 0.0 {
        state.clock.advance(seconds(by));
    }
    if asked.release {
        state.clock.release();
    }
    // What slept until then runs now: give it a moment of the machine's own time.
    tokio::task::yield_now().await;
    Ok(time(&state.clock))
}

async fn sts(Shared(state): Shared<State>) -> Json<Value> {
    Json(json!({ "counts": state.sts.counts(), "outage": state.sts.outage() }))
}

async fn set_outage(Shared(state): Shared<State>, Body(outage): Body<Outage>) -> Answer {
    if let Some(status) = outage.status.filter(|status| !(400..600).contains(status)) {
        return Err(Wrong::new(400, format!("status: {status} is no error: give 400 to 599, or none to close connections")));
    }
    state.sts.set_outage(Some(outage));
    done()
}

async fn end_outage(Shared(state): Shared<State>) -> Answer {
    state.sts.set_outage(None);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TokenFor {
    client_id: String,
    audience: String,
}

async fn token(Shared(state): Shared<State>, Query(asked): Query<TokenFor>) -> Answer {
    let token = state.sts.token_for(&asked.client_id, &asked.audience).map_err(|error| Wrong::new(404, error))?;
    Ok(Json(json!({ "token": token })))
}

async fn reset(Shared(state): Shared<State>) -> Answer {
    state.disks.set_switches(Switches::default());
    state.disks.clear_faults(None);
    state.disks.reset_counts();
    state.sts.set_outage(None);
    state.sts.reset_counts();
    state.arm.knobs.clear(None);
    state.arm.knobs.reset_counts();
    state.arm.set_throttle(state.config.throttle.scale);
    state.clock.release();
    done()
}

/// Counts as JSON.
fn counts(counts: &BTreeMap<String, u64>) -> Json<Value> {
    Json(json!(counts))
}
