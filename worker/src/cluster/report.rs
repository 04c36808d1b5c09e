//! What is told about a running cycle, and where it is gathered.

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
    /// It stands.
    Taken {
        /// Its name.
        name: String,
        /// Its reference.
        reference: String,
        /// When it was taken, by vCenter's clock.
        taken: jiff::Timestamp,
        /// Whether the guest was at rest.
        quiesced: bool,
        /// Whether the VM was powered off before and after; none where it is not known.
        powered_off: Option<bool>,
    },
    /// It is about to be removed.
    Releasing {
        /// Its reference.
        reference: String,
    },
    /// It is gone.
    Released {
        /// Its reference.
        reference: String,
    },
    /// A task of vCenter runs.
    Task {
        /// Its reference.
        id: String,
        /// What it does.
        method: String,
        /// How far it is.
        percent: Option<u8>,
    },
    /// A disk is compared in full, for this reason, or because it was asked for.
    Full {
        /// The disk.
        disk: DiskKey,
        /// Why.
        reason: Option<Reason>,
    },
    /// Something is waited for, or was tried in vain.
    Waiting {
        /// Why.
        reason: Reason,
        /// What it is, and what helps.
        message: String,
    },
}

/// Gathers what is told, and wakes whoever writes it down.
pub struct Reporter {
    clock: Arc<dyn Clock>,
    report: Mutex<Report>,
    news: Notify,
}

impl Reporter {
    /// From a first report on.
    #[must_use]
    pub fn new(report: Report, clock: Arc<dyn Clock>) -> Self {
        Self { clock, report: Mutex::new(report), news: Notify::new() }
    }

    /// Takes note.
    pub fn tell(&self, told: &Told) {
        let now = self.clock.now();
        self.change(|report| report.take(told, now));
    }

    /// Changes the report.
    pub fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock());
        self.news.notify_one();
    }

    /// The report as it is now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.lock().clone()
    }

    /// Returns when something was told since the last time.
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
