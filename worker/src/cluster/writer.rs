//! Writes what is told about a cycle into its object's status.

use std::{sync::Arc, time::Duration};

use backoff::Backoff;
use blocklog::clock::Clock;
use crds::ReplicationCycle;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    report::Reporter,
    shared::{Shared, WatchedCycle, is_over},
    status::{self, MANAGER, News, Report, Written, due},
};

/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the apiserver may take to tell what was written last. Doubled each time it has not.
const ECHO: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));

/// The one writer of the gateway's part of a cycle's status.
///
/// One write at a time, and each is waited for before the next is sent, also when whoever waited was dropped: the apiserver carries a request
/// out whose sender has gone, and tries it again where another one came first. So an older report would stand over the last one, and nobody
/// would ever correct it.
pub(super) struct Writer {
    api: Api<ReplicationCycle>,
    clock: Arc<dyn Clock>,
    name: String,
    uid: Option<String>,
    told: watch::Receiver<WatchedCycle>,
    reporter: Arc<Reporter>,
    written: Option<Written>,
    under_way: Option<(JoinHandle<kube::Result<()>>, Written)>,
}

impl Writer {
    pub(super) fn new(shared: &Shared, cycle: &ReplicationCycle, told: watch::Receiver<WatchedCycle>, reporter: Arc<Reporter>) -> Self {
        let (api, clock) = (shared.api.clone(), shared.clock.clone());
        Self { api, clock, name: cycle.name_any(), uid: cycle.uid(), told, reporter, written: None, under_way: None }
    }

    /// Writes what is told, until it is dropped.
    pub(super) async fn run(&mut self) {
        loop {
            match self.due() {
                None => self.reporter.news().await,
                Some(at) if at > self.clock.monotonic() => {
                    tokio::select! {
                        () = self.clock.sleep_until(at) => {}
                        () = self.reporter.news() => {}
                    }
                }
                Some(_) => self.write().await,
            }
        }
    }

    /// Writes until what was told last is written.
    pub(super) async fn finish(&mut self) {
        while (self.under_way.is_some() || self.due().is_some()) && self.told.borrow().is_some() {
            self.write().await;
        }
    }

    /// Finishes, and sees to it that the object says that the cycle is over as long as it is this pod's: a write whose answer was lost may come
    /// after the last one.
    pub(super) async fn stand(&mut self) {
        self.finish().await;
        let (mut told, mut late) = (self.told.clone(), 0);
        while told.changed().await.is_ok() {
            self.clock.sleep(ECHO.wait(late, 0)).await;
            let Some(cycle) = told.borrow_and_update().clone() else { return };
            if is_over(&cycle) {
                late = 0;
            } else {
                tracing::info!(cycle = self.name, "its status is an older one, or is told late: it is written again");
                self.write().await;
                told.mark_changed();
                late += 1;
            }
        }
    }

    fn due(&self) -> Option<Duration> {
        let report = self.reporter.report();
        let (source, conditions) = self.status(&report);
        let news = self.written.as_ref().map_or(News::More, |written| written.news(&source, &conditions));
        due(self.written.as_ref(), report.edges(), news, self.clock.monotonic())
    }

    fn status(&self, report: &Report) -> (crds::replication_cycle::SourceStatus, Vec<Condition>) {
        let told = self.told.borrow().clone();
        let generation = told.as_ref().and_then(|cycle| cycle.metadata.generation);
        let old = match (&self.written, &told) {
            (Some(written), _) => written.conditions.clone(),
            (None, Some(cycle)) => cycle.status.clone().unwrap_or_default().conditions,
            (None, None) => Vec::new(),
        };
        report.status(&old, generation, self.clock.now())
    }

    /// One write: the one that is under way, or else a new one. After one that failed it pauses.
    async fn write(&mut self) {
        if self.under_way.is_none() {
            let report = self.reporter.report();
            let (source, conditions) = self.status(&report);
            let patch = status::patch(&self.name, self.uid.as_deref(), &source, &conditions);
            let written = Written { at: self.clock.monotonic(), edges: report.edges(), source, conditions };
            let (api, name) = (self.api.clone(), self.name.clone());
            let write =
                async move { api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await.map(|_| ()) };
            self.under_way = Some((tokio::spawn(write), written));
        }
        let Some((write, _)) = &mut self.under_way else { return };
        let result = write.await;
        let written = self.under_way.take().map(|(_, written)| written);
        let error = match result {
            Ok(Ok(())) => {
                self.written = written;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(cycle = self.name, error, "its status can't be written");
        self.clock.sleep(PAUSE).await;
    }
}
