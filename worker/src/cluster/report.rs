//! The events of a running cycle, and the report that they make.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blocklog::{clock::Clock, ids::DiskKey};
use crds::reasons::Reason;
use tokio::sync::Notify;

use super::status::Report;
use crate::env::{Event, Progress};

/// Something that was done, or is waited for, beside the [`Event`]s of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The gateway's own.
    Event(Event),
    /// A snapshot is about to be taken.
    Taking,
    Taken {
        name: String,
        reference: String,
        /// When it was taken, by vCenter's clock.
        taken: jiff::Timestamp,
        quiesced: bool,
        powered_off: bool,
    },
    /// It is about to be removed.
    Releasing {
        reference: String,
    },
    Released {
        reference: String,
    },
    /// A task of vCenter runs.
    Task {
        id: String,
        method: String,
        percent: Option<u8>,
    },
    /// A disk is compared in full, for this reason, or because it was asked for.
    Full {
        disk: DiskKey,
        reason: Option<Reason>,
    },
    /// Something is waited for, or was tried in vain.
    Waiting {
        reason: Reason,
        /// What it is, and what helps.
        message: String,
    },
}

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

    pub fn tell(&self, told: &Told) {
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
        self.tell(&Told::Event(event));
    }
}
