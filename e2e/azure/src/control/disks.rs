//! Disks' bytes, and the host's switches and faults.

use axum::Router;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use axum::Json;

use super::{Answer, Body, Numbered, Query, Wrong, done};
use crate::State;
use crate::disks::{DiskStore, FOOTER, Fault, Switches};

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route("/", get(list))
        .route("/bytes", get(read).put(write))
        .route("/sha256", get(sha256))
        .route("/ranges", get(ranges))
        .route("/switches", get(switches).patch(switch))
        .route("/faults", get(faults).post(inject).delete(clear))
        .route("/expire", post(expire))
        .route("/counts", delete(reset_counts))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    id: String,
    offset: Option<u64>,
    length: Option<u64>,
    /// Whether the VHD footer is part of it, where no length is given.
    footer: Option<bool>,
}

impl Range {
    /// Offset and length, inside of the disk.
    fn within(&self, store: &DiskStore) -> Result<(u64, u64), Wrong> {
        let content = store.content(&self.id).ok_or_else(|| Wrong::new(404, format!("no disk {}: GET /disks lists them", self.id)))?;
        let size = content + if self.footer.unwrap_or(true) { FOOTER } else { 0 };
        let offset = self.offset.unwrap_or(0);
        let length = self.length.unwrap_or_else(|| size.saturating_sub(offset));
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(Wrong::new(400, format!("{length} bytes at {offset} are beyond the disk's {size}")));
        }
        Ok((offset, length))
    }
}

/// Reads and hashes may take a while: not on the threads that answer.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Wrong> {
    match tokio::task::spawn_blocking(work).await {
        Ok(worked) => Ok(worked?),
        Err(error) => Err(Wrong::new(500, error.to_string())),
    }
}

async fn list(Shared(state): Shared<State>) -> Json<Value> {
    Json(json!({ "disks": state.disks.describe(), "turnedAway": state.disks.turned_away() }))
}

async fn read(Shared(state): Shared<State>, Query(range): Query<Range>) -> Result<Response, Wrong> {
    let (offset, length) = range.within(&state.disks)?;
    let store = state.disks.clone();
    let bytes = blocking(move || store.read(&range.id, offset, length)).await?;
    Ok(([("content-type", "application/octet-stream")], bytes).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    id: String,
    offset: u64,
}

async fn write(Shared(state): Shared<State>, Query(place): Query<Place>, body: Bytes) -> Answer {
    let store = state.disks.clone();
    blocking(move || store.write(&place.id, place.offset, &body)).await?;
    done()
}

async fn sha256(Shared(state): Shared<State>, Query(range): Query<Range>) -> Answer {
    let (offset, length) = range.within(&state.disks)?;
    let store = state.disks.clone();
    let sha256 = blocking(move || store.sha256(&range.id, offset, length)).await?;
    Ok(Json(json!({ "sha256": sha256, "offset": offset, "length": length })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    id: String,
}

async fn ranges(Shared(state): Shared<State>, Query(one): Query<One>) -> Answer {
    let ranges = state.disks.written(&one.id).ok_or_else(|| Wrong::new(404, format!("no disk {}: GET /disks lists them", one.id)))?;
    Ok(Json(json!(ranges)))
}

async fn switches(Shared(state): Shared<State>) -> Json<Value> {
    Json(json!(state.disks.switches()))
}

async fn switch(Shared(state): Shared<State>, Body(change): Body<Map<String, Value>>) -> Answer {
    let Value::Object(mut all) = json!(state.disks.switches()) else {
        return Err(Wrong::new(500, "the switches are no object"));
    };
    all.extend(change);
    let switches: Switches = serde_json::from_value(Value::Object(all)).map_err(|error| Wrong::new(400, error.to_string()))?;
    state.disks.set_switches(switches.clone());
    Ok(Json(json!(switches)))
}

async fn faults(Shared(state): Shared<State>) -> Json<Value> {
    let faults: Vec<Value> = state.disks.faults().into_iter().map(|(id, fault)| json!({ "id": id, "fault": fault })).collect();
    Json(json!(faults))
}

async fn inject(Shared(state): Shared<State>, Body(fault): Body<Fault>) -> Answer {
    if let Some(id) = fault.disk.as_ref().filter(|id| state.disks.content(id).is_none()) {
        return Err(Wrong::new(404, format!("no disk {id}: GET /disks lists them")));
    }
    let id = state.disks.inject(fault).map_err(|error| Wrong::new(400, error))?;
    Ok(Json(json!({ "id": id })))
}

async fn clear(Shared(state): Shared<State>, Query(which): Query<Numbered>) -> Answer {
    state.disks.clear_faults(which.id);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Maybe {
    id: Option<String>,
}

async fn expire(Shared(state): Shared<State>, Body(which): Body<Maybe>) -> Answer {
    if let Some(id) = which.id.as_ref().filter(|id| state.disks.content(id).is_none()) {
        return Err(Wrong::new(404, format!("no disk {id}: GET /disks lists them")));
    }
    Ok(Json(json!({ "expired": state.disks.expire(which.id.as_deref()) })))
}

async fn reset_counts(Shared(state): Shared<State>) -> Answer {
    state.disks.reset_counts();
    done()
}
