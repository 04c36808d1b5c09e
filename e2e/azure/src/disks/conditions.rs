//! Conditional headers, and what the host makes of them.
//!
//! Whether the hosts of managed disks look at them is not documented. Microsoft's own AzCopy leaves them out there, saying that "no access
//! conditions are supported on managed disk import/export" (azure-storage-azcopy, `ste/downloader-blob.go`), but not what happens to a
//! request that has them. So it is a switch: honoured, ignored, or refused.

use http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::disk::Properties;
use super::refusal::Refusal;

/// What the host does with a kind of condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Conditional {
    /// As the Blob service does: 412 where it is not met.
    Honoured,
    /// As if it were not there.
    Ignored,
    /// 400 `ConditionHeadersNotSupported`.
    Refused,
}

/// The conditional headers of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    unmodified_since: Option<Timestamp>,
    modified_since: Option<Timestamp>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    sequence_eq: Option<u64>,
    sequence_le: Option<u64>,
    sequence_lt: Option<u64>,
}

/// What is left of them after the switches: what has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Condition(Conditions);

const SEQUENCE: [&str; 3] = ["x-ms-if-sequence-number-eq", "x-ms-if-sequence-number-le", "x-ms-if-sequence-number-lt"];

impl Conditions {
    /// Reads the headers.
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, Refusal> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let time = |name: &'static str| {
            let Some(value) = text(name) else { return Ok(None) };
            let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(&value);
            parsed.map(Some).map_err(|_| Refusal::header(name, &value))
        };
        let number = |name: &'static str| {
            let Some(value) = text(name) else { return Ok(None) };
            value.parse().map(Some).map_err(|_| Refusal::header(name, &value))
        };
        Ok(Self {
            unmodified_since: time("if-unmodified-since")?,
            modified_since: time("if-modified-since")?,
            if_match: text("if-match"),
            if_none_match: text("if-none-match"),
            sequence_eq: number(SEQUENCE[0])?,
            sequence_le: number(SEQUENCE[1])?,
            sequence_lt: number(SEQUENCE[2])?,
        })
    }

    fn has_access(&self) -> bool {
        self.unmodified_since.is_some() || self.modified_since.is_some() || self.if_match.is_some() || self.if_none_match.is_some()
    }

    fn has_sequence(&self) -> bool {
        self.sequence_eq.is_some() || self.sequence_le.is_some() || self.sequence_lt.is_some()
    }

    /// What the switches leave of them.
    pub(super) fn under(mut self, access: Conditional, sequence: Conditional) -> Result<Condition, Refusal> {
        if (self.has_access() && access == Conditional::Refused) || (self.has_sequence() && sequence == Conditional::Refused) {
            return Err(Refusal::conditions_not_supported());
        }
        if access == Conditional::Ignored {
            self = Self { sequence_eq: self.sequence_eq, sequence_le: self.sequence_le, sequence_lt: self.sequence_lt, ..Self::default() };
        }
        if sequence == Conditional::Ignored {
            self = Self { sequence_eq: None, sequence_le: None, sequence_lt: None, ..self };
        }
        Ok(Condition(self))
    }
}

fn tag_matches(list: &str, etag: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    list.trim() == "*" || list.split(',').any(|tag| bare(tag) == bare(etag))
}

impl Condition {
    /// Last-Modified has whole seconds, and so have the headers that are compared with it.
    fn access(&self, seen: &Properties, refuse: impl Fn() -> Refusal) -> Result<(), Refusal> {
        let conditions = &self.0;
        let modified = seen.modified.as_second();
        let met = conditions.unmodified_since.is_none_or(|time| modified <= time.as_second())
            && conditions.if_match.as_ref().is_none_or(|list| tag_matches(list, &seen.etag));
        if !met {
            return Err(Refusal::condition_not_met());
        }
        let met = conditions.modified_since.is_none_or(|time| modified > time.as_second())
            && conditions.if_none_match.as_ref().is_none_or(|list| !tag_matches(list, &seen.etag));
        if met { Ok(()) } else { Err(refuse()) }
    }

    /// For reads: 412, or 304 where only a change was asked for.
    pub(super) fn check_read(&self, seen: &Properties) -> Result<(), Refusal> {
        self.access(seen, Refusal::not_modified)
    }

    /// For writes. Setting a sequence number knows no condition on the number.
    pub(super) fn check_write(&self, seen: &Properties, setting: bool) -> Result<(), Refusal> {
        self.access(seen, Refusal::condition_not_met)?;
        let conditions = &self.0;
        let met = conditions.sequence_eq.is_none_or(|number| seen.sequence == number)
            && conditions.sequence_le.is_none_or(|number| seen.sequence <= number)
            && conditions.sequence_lt.is_none_or(|number| seen.sequence < number);
        if met || setting { Ok(()) } else { Err(Refusal::sequence_not_met()) }
    }
}
