//! The host that the SAS URLs of managed disks lead to. It knows a handful of operations, and refuses all others as a SAS without the
//! permission is refused; which status real hosts give them is not documented, and no client may depend on it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use uuid::Uuid;

use super::conditions::{Condition, Conditions};
use super::disk::{Change, Disk, Properties, Ticket};
use super::refusal::{Refusal, date};
use super::request::{self, Call, LARGEST_PUT, Wanted};
use super::sas::SAS_VERSION;
use super::source::pairs;
use super::store::{Access, DiskStore};
use super::switches::{Checked, Effect};
use crate::config::seconds;
use crate::serve::drop_connection;
use crate::{Clock, State};

/// How long a request may wait for its turn where bytes a second are limited.
const QUEUE: SignedDuration = SignedDuration::from_secs(1);

/// How much of a refused request's body is read, in bytes.
const DRAINED: usize = 64 << 20;

/// The host's routes: every path.
pub fn router(state: State) -> Router {
    Router::new().fallback(serve).with_state(state.disks.clone())
}

/// A request that was let in.
struct Job {
    store: DiskStore,
    disk: Arc<Disk>,
    ticket: Ticket,
    condition: Condition,
    call: Call,
    body: Bytes,
    /// When its `timeout=` is over.
    deadline: Option<Timestamp>,
}

/// What becomes of a request.
enum Outcome {
    Answer(Response),
    Refused(Refusal),
    Dropped,
}

type Acted = Result<Response, Refusal>;

/// The disk of a good SAS, what it may do, and the request's query.
type Admitted = (Arc<Disk>, Ticket, HashMap<String, String>);

async fn serve(Shared(store): Shared<DiskStore>, request: Request) -> Response {
    let now = store.inner.clock.now();
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let id = Uuid::new_v4().to_string();
    let head = parts.method == Method::HEAD;
    let version = parts.headers.get("x-ms-version").and_then(|value| value.to_str().ok()).unwrap_or(SAS_VERSION).to_owned();
    let echo = parts.headers.get("x-ms-client-request-id").cloned();
    let outcome = match admit(&store, &parts, now) {
        Ok((disk, ticket, query)) => {
            let named = request::name(&parts.method, &query, &parts.headers);
            disk.counts().operation(named).requests += 1;
            let outcome = match job(&store, &disk, ticket, &parts, &query, &mut body, now).await {
                // In a task of its own: what was let in is carried out though its client goes.
                Ok(job) => {
                    tokio::spawn(job.run()).await.unwrap_or_else(|error| Outcome::Refused(Refusal::internal(&std::io::Error::other(error))))
                }
                Err(refusal) => Outcome::Refused(refusal),
            };
            if let Outcome::Refused(refusal) = &outcome {
                disk.counts().error(&refusal.code);
            }
            outcome
        }
        Err(refusal) => {
            store.inner.knobs.turn_away(&refusal.code);
            Outcome::Refused(refusal)
        }
    };
    if let Some(body) = body {
        // A client that is still sending would not see its answer if the connection were closed on it.
        let _ = Limited::new(body, DRAINED).collect().await;
    }
    let now = store.inner.clock.now();
    let mut response = match outcome {
        Outcome::Answer(response) => response,
        Outcome::Refused(refusal) => refusal.response(&id, now, head),
        Outcome::Dropped => return drop_connection(),
    };
    let headers = response.headers_mut();
    for (name, value) in
        [("x-ms-request-id", id.as_str()), ("x-ms-version", &version), ("date", &date(now)), ("server", "Windows-Azure-Blob/1.0")]
    {
        put(headers, name, value);
    }
    if let Some(echo) = echo {
        headers.insert("x-ms-client-request-id", echo);
    }
    response
}

/// Version and signature: before anything else is looked at.
fn admit(store: &DiskStore, parts: &http::request::Parts, now: Timestamp) -> Result<Admitted, Refusal> {
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let url =
        Url::parse(&format!("https://disks{path}")).map_err(|_| Refusal::new(400, "InvalidUri", "The requested URI is not valid."))?;
    let query = pairs(&url);
    if let Some(version) = parts.headers.get("x-ms-version") {
        let version = version.to_str().unwrap_or_default();
        if !store.inner.knobs.switches().speaks(version) {
            return Err(Refusal::header("x-ms-version", version));
        }
    }
    let (disk, ticket) = store.authenticate(url.path(), &query, now)?;
    Ok((disk, ticket, query))
}

async fn job(
    store: &DiskStore,
    disk: &Arc<Disk>,
    ticket: Ticket,
    parts: &http::request::Parts,
    query: &HashMap<String, String>,
    body: &mut Option<Body>,
    now: Timestamp,
) -> Result<Job, Refusal> {
    let switches = store.inner.knobs.switches();
    let deadline = match query.get("timeout") {
        None => None,
        Some(value) => {
            let length = value.parse::<i64>().ok().filter(|seconds| *seconds > 0 && *seconds <= 1_000_000);
            let length = length.ok_or_else(|| Refusal::query("timeout", value, "It has to be a number of seconds, 1 or more."))?;
            Some(now.saturating_add(SignedDuration::from_secs(length)).unwrap_or(Timestamp::MAX))
        }
    };
    let call = request::parse(&parts.method, query, &parts.headers, disk.size(), &switches)?;
    let allowed = match ticket.access {
        Access::Read => !call.writes(),
        Access::Write => call.writes() || call == Call::Head || switches.read_by_write_sas,
    };
    if !allowed {
        return Err(Refusal::permission());
    }
    let condition = Conditions::parse(&parts.headers)?.under(switches.conditions, switches.sequence_numbers)?;
    let body = match &call {
        Call::Put(_, length, checksums) => {
            let read = Limited::new(body.take().unwrap_or_default(), usize::try_from(LARGEST_PUT).unwrap_or(usize::MAX)).collect();
            let body = tokio::select! {
                body = read => body.map_err(|_| Refusal::new(400, "InvalidInput", "The request body broke off."))?.to_bytes(),
                () = until(&store.inner.clock, deadline) => return Err(Refusal::timed_out()),
            };
            if body.len() as u64 != *length {
                return Err(Refusal::page_range());
            }
            checksums.verify(&body)?;
            disk.counts().operation("PutPage").bytes_in += *length;
            body
        }
        _ => Bytes::new(),
    };
    Ok(Job { store: store.clone(), disk: Arc::clone(disk), ticket, condition, call, body, deadline })
}

/// Returns at `at`, or never where there is no such time.
async fn until(clock: &Clock, at: Option<Timestamp>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Job {
    fn clock(&self) -> &Clock {
        &self.store.inner.clock
    }

    async fn run(mut self) -> Outcome {
        let effect = self.store.inner.knobs.meet(&self.disk.id, self.call.operation());
        if let Some(Effect::Delay { seconds: length }) = effect {
            let clock = self.clock().clone();
            tokio::select! {
                () = clock.sleep(seconds(length)) => {}
                () = until(&clock, self.deadline) => return Outcome::Refused(Refusal::timed_out()),
            }
        }
        if let Err(refusal) = self.turn().await {
            return Outcome::Refused(refusal);
        }
        let answer = |acted: Acted| acted.map_or_else(Outcome::Refused, Outcome::Answer);
        match effect {
            None | Some(Effect::Delay { .. }) => answer(self.act(Some(self.ticket)).await),
            Some(Effect::Answer { status, code, after, retry_after }) => {
                if after && let Err(refusal) = self.act(Some(self.ticket)).await {
                    return Outcome::Refused(refusal);
                }
                let refusal = Refusal::new(status, &code, "An error that was asked for.");
                Outcome::Refused(match retry_after {
                    Some(seconds) => refusal.with_header("retry-after", seconds.to_string()),
                    None => refusal,
                })
            }
            Some(Effect::Drop { after }) => {
                if after {
                    // Whether it was refused or carried out, the client never learns.
                    let _ = self.act(Some(self.ticket)).await;
                }
                Outcome::Dropped
            }
            Some(Effect::Late { seconds: length, checked }) => {
                if let Err(refusal) = self.fetch().await.and_then(|()| self.look(checked)) {
                    return Outcome::Refused(refusal);
                }
                let (clock, deadline) = (self.clock().clone(), self.deadline);
                let mut late = tokio::spawn(self.later(seconds(length), checked));
                tokio::select! {
                    acted = &mut late => answer(acted.unwrap_or_else(|error| Err(Refusal::internal(&std::io::Error::other(error))))),
                    // The task goes on without us.
                    () = until(&clock, deadline) => Outcome::Refused(Refusal::timed_out()),
                }
            }
            Some(Effect::Twice { seconds: length, checked }) => {
                if let Err(refusal) = self.fetch().await {
                    return Outcome::Refused(refusal);
                }
                let first = self.act(Some(self.ticket)).await;
                if first.is_ok() {
                    tokio::spawn(self.later(seconds(length), checked));
                }
                answer(first)
            }
        }
    }

    /// Waits for the disk's bytes a second.
    async fn turn(&self) -> Result<(), Refusal> {
        let Some(rate) = self.store.inner.knobs.switches().bytes_per_second else { return Ok(()) };
        let bytes = match &self.call {
            Call::Put(_, length, _) | Call::Get(_, length, ..) => *length,
            Call::FromUrl(_, copied) => copied.length,
            Call::Clear(..) | Call::Ranges(..) | Call::Head | Call::Sequence(_) => 0,
        };
        let now = self.clock().now();
        let start = {
            let mut counts = self.disk.counts();
            let start = counts.busy.map_or(now, |busy| busy.max(now));
            if start.duration_since(now) > QUEUE {
                return Err(Refusal::busy());
            }
            #[allow(clippy::cast_precision_loss, reason = "a throttle need not be exact")]
            let length = Duration::try_from_secs_f64(bytes as f64 / rate.max(1) as f64).unwrap_or(Duration::MAX);
            let length = SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX);
            counts.busy = Some(start.saturating_add(length).unwrap_or(Timestamp::MAX));
            start
        };
        self.clock().sleep_until(start).await;
        Ok(())
    }

    /// The check of a write that will land without one.
    fn look(&self, checked: Checked) -> Result<(), Refusal> {
        match checked {
            Checked::Landing => Ok(()),
            Checked::Arrival => self.disk.may_change(self.clock(), self.ticket, &self.condition),
        }
    }

    /// Gets the bytes of Put Page From URL: after this it is a write like another.
    async fn fetch(&mut self) -> Result<(), Refusal> {
        if let Call::FromUrl(offset, copied) = &self.call
            && self.body.is_empty()
        {
            let offset = *offset;
            let fetched = tokio::select! {
                fetched = self.store.source(copied) => fetched?,
                () = until(&self.store.inner.clock, self.deadline) => return Err(Refusal::timed_out()),
            };
            self.disk.counts().operation("PutPageFromUrl").bytes_in += fetched.len() as u64;
            self.call = Call::Put(offset, fetched.len() as u64, request::Checksums::default());
            self.body = fetched;
        }
        Ok(())
    }

    async fn later(mut self, length: Duration, checked: Checked) -> Acted {
        self.clock().sleep(length).await;
        let (ticket, condition) = match checked {
            Checked::Landing => (Some(self.ticket), self.condition.clone()),
            Checked::Arrival => (None, Condition::default()),
        };
        self.condition = condition;
        let acted = self.act(ticket).await;
        let mut counts = self.disk.counts();
        match &acted {
            Ok(_) => counts.landed_late += 1,
            Err(_) => counts.refused_late += 1,
        }
        drop(counts);
        acted
    }

    async fn act(&mut self, ticket: Option<Ticket>) -> Acted {
        self.fetch().await?;
        let (disk, condition, clock) = (Arc::clone(&self.disk), self.condition.clone(), self.clock().clone());
        let (call, body) = (self.call.clone(), self.body.clone());
        let acted = tokio::task::spawn_blocking(move || act(&disk, &clock, ticket, &condition, &call, body)).await;
        acted.unwrap_or_else(|error| Err(Refusal::internal(&std::io::Error::other(error))))
    }
}

fn act(disk: &Disk, clock: &Clock, ticket: Option<Ticket>, condition: &Condition, call: &Call, body: Bytes) -> Acted {
    let change = |change: &Change| {
        let seen = disk.change(clock, ticket, condition, change)?;
        disk.counts().landed += 1;
        Ok::<_, Refusal>(seen)
    };
    match call {
        Call::Put(offset, _, checksums) => {
            let seen = change(&Change::Put(*offset, body.clone()))?;
            let mut response = answer(StatusCode::CREATED, &seen, Body::empty());
            match checksums.md5 {
                Some(_) => put(response.headers_mut(), "content-md5", &request::md5(&body)),
                None => put(response.headers_mut(), "x-ms-content-crc64", &request::crc64(&body)),
            }
            put(response.headers_mut(), "x-ms-request-server-encrypted", "true");
            Ok(response)
        }
        Call::Clear(offset, length) => Ok(answer(StatusCode::CREATED, &change(&Change::Clear(*offset, *length))?, Body::empty())),
        Call::Sequence(action) => Ok(answer(StatusCode::OK, &change(&Change::Sequence(*action))?, Body::empty())),
        // `fetch` has made it a Put.
        Call::FromUrl(..) => Err(Refusal::new(500, "InternalError", "The source was not read.")),
        Call::Ranges(start, end, marker, most) => {
            let (ranges, seen) = disk.written(condition, (*start).max(*marker), *end)?;
            let mut body = String::from("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>");
            for (from, to) in ranges.iter().take(*most) {
                // The ends are inclusive.
                body.push_str(&format!("<PageRange><Start>{from}</Start><End>{}</End></PageRange>", to - 1));
            }
            match ranges.get(*most) {
                Some((next, _)) => body.push_str(&format!("<NextMarker>{next}</NextMarker></PageList>")),
                None => body.push_str("<NextMarker /></PageList>"),
            }
            let mut response = answer(StatusCode::OK, &seen, Body::from(body));
            put(response.headers_mut(), "content-type", "application/xml");
            put(response.headers_mut(), "x-ms-blob-content-length", &seen.size.to_string());
            Ok(response)
        }
        Call::Get(offset, length, ranged, wanted) => {
            let (bytes, seen) = disk.get(condition, *offset, *length)?;
            disk.counts().operation("GetBlob").bytes_out += bytes.len() as u64;
            let sum = match wanted {
                Some(Wanted::Md5) => Some(("content-md5", request::md5(&bytes))),
                Some(Wanted::Crc64) => Some(("x-ms-content-crc64", request::crc64(&bytes))),
                None => None,
            };
            let last = offset + bytes.len() as u64 - 1;
            let mut response = answer(if *ranged { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK }, &seen, Body::from(bytes));
            blob_headers(response.headers_mut(), &seen);
            if *ranged {
                put(response.headers_mut(), "content-range", &format!("bytes {offset}-{last}/{}", seen.size));
            }
            if let Some((name, sum)) = sum {
                put(response.headers_mut(), name, &sum);
            }
            Ok(response)
        }
        Call::Head => {
            let seen = disk.head(condition)?;
            let mut response = answer(StatusCode::OK, &seen, Body::empty());
            blob_headers(response.headers_mut(), &seen);
            put(response.headers_mut(), "content-length", &seen.size.to_string());
            Ok(response)
        }
    }
}

fn answer(status: StatusCode, seen: &Properties, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    put(headers, "etag", &seen.etag);
    put(headers, "last-modified", &date(seen.modified));
    put(headers, "x-ms-blob-sequence-number", &seen.sequence.to_string());
    response
}

fn blob_headers(headers: &mut HeaderMap, seen: &Properties) {
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("accept-ranges", "bytes"),
        ("x-ms-blob-type", "PageBlob"),
        ("x-ms-lease-status", "unlocked"),
        ("x-ms-lease-state", "available"),
        ("x-ms-server-encrypted", "true"),
        ("x-ms-creation-time", &date(seen.created)),
    ] {
        put(headers, name, value);
    }
}

/// A value that is not one of a header's is left out.
fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}
