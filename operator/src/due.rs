//! When a VM's next cycle is due.
//!
//! The first at once, and the first delta right after it; from then on half of the last one's duration after its end, an hour at the
//! least, or what the user allows at the most; a new `syncNow` at once. After failures the wait doubles, from a minute to an hour, and is
//! another one for each VM, so that a vCenter that comes back is not asked by all of them in the same second.

use std::time::Duration;

use backoff::{Backoff, Jitter};
use crds::{
    ReplicatedVMSpec,
    replicated_vm::{CycleKind, LastCycle},
};
use jiff::{SignedDuration, Timestamp, TimestampArithmetic};

/// The least time between the end of a delta and the start of the next.
pub const LEAST: SignedDuration = SignedDuration::from_hours(1);
/// The waits after failures, less up to a quarter that is the VM's own.
const AFTER_FAILURES: Backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(3600)).with(Jitter::Quarter);

/// The last cycle that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    pub started: Timestamp,
    pub ended: Timestamp,
    /// Whether it made the replica clean.
    pub succeeded: bool,
    /// Whether it was the first that did.
    pub initial: bool,
}

/// What the time of the next cycle depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History<'a> {
    /// The last cycle; none before the first has ended.
    pub last: Option<Last>,
    /// Failures since the last success.
    pub failures: u32,
    /// The longest time from the end of a cycle to the start of the next that the user allows.
    pub max_interval: Option<SignedDuration>,
    /// True where the user asks for a cycle that was not run yet.
    pub asked: bool,
    /// The object's UID: where the VM's own jitter comes from.
    pub uid: &'a str,
}

/// From when on a cycle is due. In the past where it is due already.
#[must_use]
pub fn due_since(history: &History<'_>) -> Timestamp {
    let Some(last) = history.last else { return Timestamp::UNIX_EPOCH };
    if !last.succeeded {
        return after(last.ended, back_off(history.failures, history.uid));
    }
    if history.asked || last.initial {
        return last.ended;
    }
    let usual = (last.ended.duration_since(last.started) / 2).max(LEAST);
    after(last.ended, history.max_interval.map_or(usual, |most| usual.min(most)))
}

/// From when on a cycle is due: `done` is the `syncNow` that is done, `replica` is true where there is a recovery point.
#[must_use]
pub fn due_by(
    spec: &ReplicatedVMSpec,
    uid: Option<&str>,
    done: Option<&String>,
    replica: bool,
    last: Option<&LastCycle>,
    failures: u32,
) -> Timestamp {
    let last = last.map(|last| Last {
        started: last.started.0,
        ended: last.ended.0,
        succeeded: last.succeeded,
        initial: last.kind == CycleKind::Initial,
    });
    // A disk whose seed is new waits for nothing: until it is covered there is no recovery point.
    let last = last.filter(|last| !last.succeeded || replica);
    let asked = spec.sync_now.as_ref().is_some_and(|token| Some(token) != done);
    let max_interval = spec.max_interval.as_ref().and_then(|text| text.parse().ok()).map(|span| span.duration());
    due_since(&History { last, failures, max_interval, asked, uid: uid.unwrap_or_default() })
}

/// How long to wait after so many failures in a row.
fn back_off(failures: u32, uid: &str) -> Duration {
    let share = blake3::hash(format!("{uid}/{failures}").as_bytes()).as_bytes()[0];
    AFTER_FAILURES.wait(failures.saturating_sub(1), share)
}

/// The end of time where the sum is beyond it.
fn after(at: Timestamp, wait: impl Into<TimestampArithmetic>) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + minute * 60).unwrap()
    }

    fn history(last: Option<Last>) -> History<'static> {
        History { last, failures: 0, max_interval: None, asked: false, uid: "a" }
    }

    fn delta(started: i64, ended: i64) -> Last {
        Last { started: at(started), ended: at(ended), succeeded: true, initial: false }
    }

    #[test]
    fn the_first_cycle_and_the_first_delta_are_due_at_once() {
        assert!(due_since(&history(None)) < at(0));
        assert_eq!(due_since(&history(Some(Last { initial: true, ..delta(0, 600) }))), at(600));
    }

    #[test]
    fn a_delta_follows_after_half_a_duration_an_hour_at_least() {
        assert_eq!(due_since(&history(Some(delta(0, 10)))), at(70));
        assert_eq!(due_since(&history(Some(delta(0, 120)))), at(180));
        assert_eq!(due_since(&history(Some(delta(0, 600)))), at(900));
    }

    #[test]
    fn the_users_longest_interval_only_shortens() {
        let capped = |minutes, last| due_since(&History { max_interval: Some(SignedDuration::from_mins(minutes)), ..history(Some(last)) });
        assert_eq!(capped(15, delta(0, 10)), at(25));
        assert_eq!(capped(240, delta(0, 10)), at(70));
        assert_eq!(capped(240, delta(0, 600)), at(840));
    }

    #[test]
    fn a_new_token_is_due_at_once_but_not_within_a_back_off() {
        assert_eq!(due_since(&History { asked: true, ..history(Some(delta(0, 10))) }), at(10));
        let failed = Last { succeeded: false, ..delta(0, 10) };
        assert!(due_since(&History { asked: true, failures: 3, ..history(Some(failed)) }) > at(12));
    }

    #[test]
    fn waits_after_failures_double_with_jitter_up_to_an_hour() {
        let failed = Last { succeeded: false, ..delta(0, 10) };
        let wait = |failures, uid| due_since(&History { failures, uid, ..history(Some(failed)) }).duration_since(at(10)).as_secs();
        for failures in 1..12 {
            let whole = (60 * 2_i64.pow(failures - 1)).min(3600);
            let got = wait(failures, "a");
            assert!((whole * 3 / 4..=whole).contains(&got), "{failures}: {got} of {whole}");
        }
        assert!(wait(u32::MAX, "a") <= 3600);
        let different: std::collections::BTreeSet<i64> = ["a", "b", "c", "d", "e"].map(|uid| wait(6, uid)).into();
        assert!(different.len() > 2, "{different:?}");
    }
}
