//! Where the events of a running cycle are gathered into its report.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blocklog::clock::Clock;
use tokio::sync::Notify;

use super::{event::ReportEvent, status::Report};
use crate::env::{Event, Progress};

/// Gathers events into the report, and wakes the status writer.
pub struct Reporter {
    clock: Arc<dyn Clock>,
    report: Mutex<Report>,
    news: Notify,
}

impl Reporter {
    /// Starts from a first report.
    #[must_use]
    pub fn new(report: Report, clock: Arc<dyn Clock>) -> Self {
        Self { clock, report: Mutex::new(report), news: Notify::new() }
    }

    pub fn tell(&self, told: &ReportEvent) {
        let now = self.clock.now();
        self.change(|report| report.take(told, now));
    }

    pub fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock());
        self.news.notify_one();
    }

    /// The report as it is now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.lock().clone()
    }

    /// Returns when the report has changed since the last call.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        // A panic while it was held can't have left it half changed: every change is of plain values.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Reporter {
    fn note(&self, event: Event) {
        self.tell(&ReportEvent::Event(event));
    }
}
