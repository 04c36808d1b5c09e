//! Resource Manager's resources, faults and counts.

use axum::extract::State as Shared;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Body, Numbered, Query, Wrong, counts, done};
use crate::State;
use crate::arm::knobs::Injection;
use crate::config::Registration;

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route("/", get(dump))
        .route("/faults", get(faults).post(inject).delete(clear))
        .route("/counts", get(calls).delete(reset_counts))
        .route("/roles", post(assign).delete(unassign))
        .route("/power", put(power))
        .route("/providers", put(provider))
        .route("/quota", put(quota))
        .route("/throttle", put(throttle))
}

async fn dump(Shared(state): Shared<State>) -> Json<Value> {
    Json(state.arm.dump(&state))
}

async fn faults(Shared(state): Shared<State>) -> Json<Value> {
    let planted: Vec<Value> = state.arm.knobs.injections().into_iter().map(|(id, fault)| json!({ "id": id, "fault": fault })).collect();
    Json(json!(planted))
}

async fn inject(Shared(state): Shared<State>, Body(injection): Body<Injection>) -> Answer {
    Ok(Json(json!({ "id": state.arm.knobs.inject(injection) })))
}

async fn clear(Shared(state): Shared<State>, Query(which): Query<Numbered>) -> Answer {
    state.arm.knobs.clear(which.id);
    done()
}

async fn calls(Shared(state): Shared<State>) -> Json<Value> {
    counts(&state.arm.knobs.counts())
}

async fn reset_counts(Shared(state): Shared<State>) -> Answer {
    state.arm.knobs.reset_counts();
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Assignment {
    object_id: Option<String>,
    client_id: Option<String>,
    role: String,
    #[serde(default)]
    scope: String,
    /// Without the minute that Azure takes.
    #[serde(default)]
    at_once: bool,
}

impl Assignment {
    fn object_id(&self, state: &State) -> Result<String, Wrong> {
        match (&self.object_id, &self.client_id) {
            (Some(id), None) => Ok(id.clone()),
            (None, Some(client)) => {
                let found = state.config.principals.iter().find(|principal| principal.client_id.eq_ignore_ascii_case(client));
                found
                    .map(|principal| principal.object_id.clone())
                    .ok_or_else(|| Wrong::new(404, format!("no principal has the clientId {client}")))
            }
            _ => Err(Wrong::new(400, "objectId, clientId: give one of them")),
        }
    }
}

async fn assign(Shared(state): Shared<State>, Body(asked): Body<Assignment>) -> Answer {
    let who = asked.object_id(&state)?;
    let id = state.arm.assign(&state, &who, &asked.role, &asked.scope, asked.at_once).map_err(|error| Wrong::new(400, error))?;
    Ok(Json(json!({ "id": id })))
}

async fn unassign(Shared(state): Shared<State>, Body(asked): Body<Assignment>) -> Answer {
    let who = asked.object_id(&state)?;
    state.arm.unassign(&state, &who, &asked.role, &asked.scope, asked.at_once).map_err(|error| Wrong::new(400, error))?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Power {
    vm: String,
    state: String,
}

async fn power(Shared(state): Shared<State>, Body(asked): Body<Power>) -> Answer {
    state.arm.set_power(&state, &asked.vm, &asked.state).map_err(|error| Wrong::new(400, error))?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    name: String,
    registration: Registration,
}

async fn provider(Shared(state): Shared<State>, Body(asked): Body<Provider>) -> Answer {
    state.arm.set_provider(&asked.name, asked.registration);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Quota {
    location: String,
    name: String,
    limit: u64,
}

async fn quota(Shared(state): Shared<State>, Body(asked): Body<Quota>) -> Answer {
    state.arm.set_quota(&asked.location, &asked.name, asked.limit).map_err(|error| Wrong::new(404, error))?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scale {
    scale: f64,
}

async fn throttle(Shared(state): Shared<State>, Body(asked): Body<Scale>) -> Answer {
    if !asked.scale.is_finite() || asked.scale < 0.0 {
        return Err(Wrong::new(400, format!("scale: {} is no factor: give 0 or more", asked.scale)));
    }
    state.arm.set_throttle(asked.scale);
    done()
}
