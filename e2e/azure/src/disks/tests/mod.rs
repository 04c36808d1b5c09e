//! Each rule of the host, in a request that it refuses.

mod changes;
mod faults;
mod requests;
mod sources;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use tower::ServiceExt;
use uuid::Uuid;

use super::*;
use crate::serve::DropConnection;
use crate::sts::Sts;
use crate::{Clock, Config, State};

pub(super) const MIB: u64 = 1 << 20;
/// What every test's disk holds.
pub(super) const CONTENT: u64 = 6 * MIB;
pub(super) const DISK: &str = "/subscriptions/s/resourcegroups/g/providers/microsoft.compute/disks/seed";
pub(super) const OTHER: &str = "/subscriptions/s/resourcegroups/g/providers/microsoft.compute/disks/other";

/// An answer.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) dropped: bool,
}

impl Got {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status and code of the error.
    pub(super) fn error(&self) -> (u16, &str) {
        (self.status, self.header("x-ms-error-code"))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A host with an upload disk and a write SAS for it, under a clock that stands still.
pub(super) struct Host {
    pub(super) state: State,
    pub(super) clock: Clock,
    pub(super) write: String,
    router: Router,
    _folder: tempfile::TempDir,
}

pub(super) fn hours(clock: &Clock, hours: i64) -> Timestamp {
    clock.now() + SignedDuration::from_hours(hours)
}

impl Host {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::held("2026-01-01T00:00:00.25Z".parse().unwrap());
        let config = Config::default();
        let store = DiskStore::open(folder.path(), "https://disks.sandbox:8446", clock.clone()).unwrap();
        let sts = Sts::new(&config, clock.clone()).unwrap();
        let state = State::new(config, clock.clone(), store, sts);
        state.disks.create(DISK, CONTENT, true).unwrap();
        let write = state.disks.grant(DISK, Access::Write, hours(&clock, 24), Uuid::new_v4());
        Self { router: router(state.clone()), state, clock, write, _folder: folder }
    }

    pub(super) fn store(&self) -> &DiskStore {
        &self.state.disks
    }

    /// A SAS to read a disk.
    pub(super) fn reader(&self, id: &str) -> String {
        self.store().grant(id, Access::Read, hours(&self.clock, 1), Uuid::new_v4())
    }

    /// Sends a request; `extra` goes behind the SAS in the query.
    pub(super) async fn send(&self, method: &str, url: &str, extra: &str, headers: &[(&str, &str)], body: &[u8]) -> Got {
        let path = url.strip_prefix("https://disks.sandbox:8446").unwrap();
        let mut request = Request::builder().method(method).uri(format!("{path}{extra}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !headers.iter().any(|(name, _)| *name == "content-length" || *name == "transfer-encoding") {
            request = request.header("content-length", body.len());
        }
        let request = request.body(Body::from(body.to_vec())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let dropped = response.extensions().get::<DropConnection>().is_some();
        let (parts, body) = response.into_parts();
        Got { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes(), dropped }
    }

    /// Put Page, update.
    pub(super) async fn put(&self, offset: u64, data: &[u8], headers: &[(&str, &str)]) -> Got {
        let range = format!("bytes={offset}-{}", offset + data.len() as u64 - 1);
        let mut all = vec![("x-ms-page-write", "update"), ("x-ms-range", range.as_str())];
        all.extend(headers);
        self.send("PUT", &self.write, "&comp=page", &all, data).await
    }

    /// Put Page, clear.
    pub(super) async fn clear(&self, offset: u64, length: u64) -> Got {
        let range = format!("bytes={offset}-{}", offset + length - 1);
        self.send("PUT", &self.write, "&comp=page", &[("x-ms-page-write", "clear"), ("x-ms-range", &range)], &[]).await
    }

    pub(super) async fn get(&self, url: &str, offset: u64, length: u64) -> Got {
        let range = format!("bytes={offset}-{}", offset + length - 1);
        self.send("GET", url, "", &[("x-ms-range", &range)], &[]).await
    }

    /// What lies on the disk, past all of the host's rules.
    pub(super) fn bytes(&self, offset: u64, length: u64) -> Vec<u8> {
        self.store().read(DISK, offset, length).unwrap()
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Switches)) {
        let mut switches = self.store().switches();
        change(&mut switches);
        self.store().set_switches(switches);
    }
}

/// Lets tasks run until they wait for the clock.
pub(super) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
