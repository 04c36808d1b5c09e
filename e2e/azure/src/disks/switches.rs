//! What tests can set about the host, and what it counts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::conditions::Conditional;

/// How the host behaves where Azure's documents leave it open, and how fast it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Switches {
    /// `If-Unmodified-Since`, `If-Modified-Since`, `If-Match`, `If-None-Match`.
    pub conditions: Conditional,
    /// `x-ms-if-sequence-number-*`. Set Blob Properties, which changes the number, is let through only where they are honoured.
    pub sequence_numbers: Conditional,
    /// Whether a write SAS reads, too.
    pub read_by_write_sas: bool,
    /// The longest range of one Get Blob. The Blob service itself has no limit; readers that keep to this one work with any host.
    pub largest_read: u64,
    /// How many bytes a second a disk takes and gives: a request that would wait longer than a second is refused with 503 `ServerBusy`.
    pub bytes_per_second: Option<u64>,
    /// The newest `x-ms-version` that is known.
    pub newest_version: String,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            conditions: Conditional::Honoured,
            sequence_numbers: Conditional::Ignored,
            read_by_write_sas: true,
            largest_read: 4 << 20,
            bytes_per_second: None,
            newest_version: VERSIONS[VERSIONS.len() - 1].to_owned(),
        }
    }
}

/// The Blob service's versions ("Previous Azure Storage service versions", learn.microsoft.com; the last ones as clients of today send them).
const VERSIONS: [&str; 50] = [
    "2009-04-14",
    "2009-07-17",
    "2009-09-19",
    "2011-08-18",
    "2012-02-12",
    "2013-08-15",
    "2014-02-14",
    "2015-02-21",
    "2015-04-05",
    "2015-07-08",
    "2015-12-11",
    "2016-05-31",
    "2017-04-17",
    "2017-07-29",
    "2017-11-09",
    "2018-03-28",
    "2018-11-09",
    "2019-02-02",
    "2019-07-07",
    "2019-10-10",
    "2019-12-12",
    "2020-02-10",
    "2020-04-08",
    "2020-06-12",
    "2020-08-04",
    "2020-10-02",
    "2020-12-06",
    "2021-02-12",
    "2021-04-10",
    "2021-06-08",
    "2021-08-06",
    "2021-10-04",
    "2021-12-02",
    "2022-11-02",
    "2023-01-03",
    "2023-05-03",
    "2023-08-03",
    "2023-11-03",
    "2024-02-04",
    "2024-05-04",
    "2024-08-04",
    "2024-11-04",
    "2025-01-05",
    "2025-05-05",
    "2025-07-05",
    "2025-11-05",
    "2026-02-06",
    "2026-04-06",
    "2026-06-06",
    "2026-10-06",
];

impl Switches {
    /// Whether the host speaks this version.
    #[must_use]
    pub fn speaks(&self, version: &str) -> bool {
        // The form of versions is that of dates: they compare as text.
        (VERSIONS.contains(&version) && version <= self.newest_version.as_str()) || version == self.newest_version
    }
}

/// A request that goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    /// The disk's ARM id; every disk where it is not given.
    #[serde(default)]
    pub disk: Option<String>,
    /// Every operation that moves bytes where it is not given.
    #[serde(default)]
    pub operation: Option<Operation>,
    /// How many requests meet it; all, until it is cleared, where it is not given.
    #[serde(default)]
    pub times: Option<u32>,
    /// How many requests go by unharmed before.
    #[serde(default)]
    pub skip: u32,
    /// What happens to them.
    pub effect: Effect,
}

/// What the host carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the Blob service's own names")]
pub enum Operation {
    PutPage,
    ClearPages,
    PutPageFromUrl,
    GetPageRanges,
    GetBlob,
    GetBlobProperties,
    SetBlobProperties,
}

impl Operation {
    fn writes(self) -> bool {
        matches!(self, Self::PutPage | Self::ClearPages | Self::PutPageFromUrl)
    }
}

/// When a write that lands late looks for its SAS and its conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Checked {
    /// When it lands: a host that does both in one step.
    #[default]
    Landing,
    /// When it arrives: what happens between, it does not see. The worst that a host can do.
    Arrival,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Effect {
    /// An error is answered; `after`: although the request was carried out.
    Answer {
        /// The status, such as 500 or 503.
        status: u16,
        /// The code, such as `InternalError` or `ServerBusy`.
        code: String,
        /// Whether it took effect before.
        #[serde(default)]
        after: bool,
        /// Seconds in `Retry-After`.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// The connection is closed without an answer.
    Drop {
        /// Whether it took effect before.
        #[serde(default)]
        after: bool,
    },
    /// It waits before anything is looked at. Its own `timeout=` ends it without effect.
    Delay {
        /// How long.
        seconds: f64,
    },
    /// A write takes effect only after this time, whatever became of the client and of its `timeout=`; it is answered then, or at its
    /// `timeout=` with 500 `OperationTimedOut`.
    Late {
        /// How long.
        seconds: f64,
        /// When it is checked.
        #[serde(default)]
        checked: Checked,
    },
    /// A write takes effect at once, and again after this time.
    Twice {
        /// How long after.
        seconds: f64,
        /// When the second one is checked.
        #[serde(default)]
        checked: Checked,
    },
}

impl Effect {
    /// Whether it only makes sense for writes.
    fn of_writes(&self) -> bool {
        matches!(self, Self::Late { .. } | Self::Twice { .. })
    }

    fn seconds(&self) -> f64 {
        match self {
            Self::Delay { seconds } | Self::Late { seconds, .. } | Self::Twice { seconds, .. } => *seconds,
            Self::Answer { .. } | Self::Drop { .. } => 0.0,
        }
    }
}

/// The host's switches and faults.
#[derive(Default)]
pub(super) struct HostKnobs(Mutex<Knobs>);

#[derive(Default)]
struct Knobs {
    switches: Switches,
    faults: Vec<(u64, Fault)>,
    last: u64,
    /// Requests that were not let in, by code: they belong to no disk.
    turned_away: BTreeMap<String, u64>,
}

impl HostKnobs {
    fn lock(&self) -> MutexGuard<'_, Knobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn switches(&self) -> Switches {
        self.lock().switches.clone()
    }

    pub(super) fn set(&self, switches: Switches) {
        self.lock().switches = switches;
    }

    pub(super) fn inject(&self, fault: Fault) -> Result<u64, String> {
        let seconds = fault.effect.seconds();
        if !seconds.is_finite() || seconds < 0.0 {
            return Err(format!("seconds: {seconds} is no length of time: give 0 or more"));
        }
        if fault.effect.of_writes() && fault.operation.is_some_and(|operation| !operation.writes()) {
            return Err("late and twice are for PutPage, ClearPages and PutPageFromUrl: choose one of them, or no operation".to_owned());
        }
        if let Effect::Answer { status, .. } = fault.effect
            && !(400..600).contains(&status)
        {
            return Err(format!("status: {status} is no error: give 400 to 599"));
        }
        let mut knobs = self.lock();
        knobs.last += 1;
        let id = knobs.last;
        knobs.faults.push((id, fault));
        Ok(id)
    }

    pub(super) fn faults(&self) -> Vec<(u64, Fault)> {
        self.lock().faults.clone()
    }

    pub(super) fn clear(&self, id: Option<u64>) {
        self.lock().faults.retain(|(held, _)| id.is_some_and(|id| id != *held));
    }

    /// The first fault that this request meets; it is used up by that.
    pub(super) fn meet(&self, disk: &str, operation: Operation) -> Option<Effect> {
        let mut knobs = self.lock();
        let at = knobs.faults.iter_mut().position(|(_, fault)| {
            let meets = fault.disk.as_ref().is_none_or(|id| id.eq_ignore_ascii_case(disk))
                && fault.operation.is_none_or(|wanted| wanted == operation)
                && (operation.writes() || !fault.effect.of_writes());
            let passes = meets && fault.skip > 0;
            fault.skip -= u32::from(passes);
            meets && !passes
        })?;
        let fault = &mut knobs.faults[at].1;
        let effect = fault.effect.clone();
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                knobs.faults.remove(at);
            }
        }
        Some(effect)
    }

    pub(super) fn turn_away(&self, code: &str) {
        *self.lock().turned_away.entry(code.to_owned()).or_default() += 1;
    }

    pub(super) fn turned_away(&self) -> BTreeMap<String, u64> {
        self.lock().turned_away.clone()
    }

    pub(super) fn reset_counts(&self) {
        self.lock().turned_away.clear();
    }
}

/// What one disk has seen.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// By operation.
    pub operations: BTreeMap<String, OperationCounts>,
    /// Error answers, by code.
    pub errors: BTreeMap<String, u64>,
    /// Changes that took effect.
    pub landed: u64,
    /// Those among them that took effect late, or for the second time.
    pub landed_late: u64,
    /// Late ones that were refused when they would have taken effect.
    pub refused_late: u64,
    /// Until when what was let through uses up the disk's bytes a second.
    #[serde(skip)]
    pub(super) busy: Option<Timestamp>,
}

/// What one operation has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationCounts {
    /// Requests that were let in.
    pub requests: u64,
    /// Bytes of their bodies.
    pub bytes_in: u64,
    /// Bytes of the answers' bodies.
    pub bytes_out: u64,
}

impl Counts {
    pub(super) fn operation(&mut self, name: &str) -> &mut OperationCounts {
        self.operations.entry(name.to_owned()).or_default()
    }

    pub(super) fn error(&mut self, code: &str) {
        *self.errors.entry(code.to_owned()).or_default() += 1;
    }
}
