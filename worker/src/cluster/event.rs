//! The events of a running cycle.

use blocklog::ids::DiskKey;
use crds::reasons::Reason;

use crate::env::Event;

/// Something that was done, or is waited for, beside the [`Event`]s of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportEvent {
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
        powered_off: Option<bool>,
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
