//! Which statuses are worth a write.
//!
//! What is written wakes whoever watches, and is kept in the apiserver's history. A change of what is so is written at once; one of its words alone
//! now and then: some of what servers say is another text each time, whatever is taken out of it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::Value;

/// The least time between the last write and one of words alone.
pub const WORDS: Duration = Duration::from_secs(15);
/// The time over which writes are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// So many writes within that time leave no room for one of words alone.
const FULL: usize = 3;

/// Whether a status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// At once.
    Write,
    /// Not before so long.
    Later(Duration),
    /// It says the same.
    Nothing,
}

/// Whether a status is worth a write, where the object has `old` and was written at these times, the last one last.
#[must_use]
pub fn worth_writing(old: &Value, new: &Value, written: &VecDeque<Duration>, now: Duration) -> Worth {
    if old == new {
        return Worth::Nothing;
    }
    if without_words(old) != without_words(new) {
        return Worth::Write;
    }
    let after_last = written.back().map(|at| *at + WORDS);
    // The one that has to be a minute old before there is room again.
    let room = written.len().checked_sub(FULL).and_then(|before| written.get(before)).map(|at| *at + MINUTE);
    match after_last.max(room).filter(|next| *next > now) {
        Some(next) => Worth::Later(next - now),
        None => Worth::Write,
    }
}

/// A status without what is only said to people.
fn without_words(status: &Value) -> Value {
    match status {
        Value::Object(fields) => {
            let rest = fields.iter().filter(|(name, value)| !(matches!(name.as_str(), "message" | "remedy") && value.is_string()));
            Value::Object(rest.map(|(name, value)| (name.clone(), without_words(value))).collect())
        }
        Value::Array(all) => all.iter().map(without_words).collect(),
        other => other.clone(),
    }
}

type Written = BTreeMap<String, VecDeque<Duration>>;

/// When the statuses of objects were written last: for a minute, and for no decision but whether words alone are written.
#[derive(Debug, Default)]
pub struct StatusWrites(Mutex<Written>);

impl StatusWrites {
    /// Whether the object's status is to become `new` now; if so, this is noted as a write.
    pub fn ask<K, S>(&self, of: &K, old: Option<&S>, new: &S, now: Duration) -> Worth
    where
        K: Resource<DynamicType = ()>,
        S: Serialize,
    {
        // A status of ours can always be written as JSON.
        let value = |status: Option<&S>| status.and_then(|status| serde_json::to_value(status).ok()).unwrap_or_default();
        let name = format!("{}/{}/{}", K::kind(&()), of.namespace().unwrap_or_default(), of.name_any());
        // A panic while it was held can't have left it half changed.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values_mut().for_each(|times| times.retain(|at| *at + MINUTE > now));
        all.retain(|_, times| !times.is_empty());
        let worth = worth_writing(&value(old), &value(Some(new)), all.get(&name).unwrap_or(&VecDeque::new()), now);
        if worth == Worth::Write {
            all.entry(name).or_default().push_back(now);
        }
        worth
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn status(reason: &str, message: &str) -> Value {
        json!({
            "phase": "TestMigrationPending",
            "conditions": [{ "type": "Replicating", "status": "False", "reason": reason, "message": message, "lastTransitionTime": "t" }],
            "concerns": [{ "id": "DatastoreLow", "message": message, "remedy": message }],
            "failure": { "reason": reason, "message": message },
        })
    }

    fn at(seconds: &[u64]) -> VecDeque<Duration> {
        seconds.iter().map(|second| SECOND * u32::try_from(*second).unwrap()).collect()
    }

    #[test]
    fn the_same_status_is_not_written() {
        assert_eq!(worth_writing(&status("A", "x"), &status("A", "x"), &at(&[]), SECOND), Worth::Nothing);
    }

    #[test]
    fn what_is_so_is_written_at_once() {
        let crowded = at(&[0, 1, 2, 3, 4]);
        assert_eq!(worth_writing(&status("A", "x"), &status("B", "y"), &crowded, SECOND * 5), Worth::Write);
        let moved = json!({ "phase": "NotApplicable" });
        assert_eq!(worth_writing(&status("A", "x"), &moved, &crowded, SECOND * 5), Worth::Write);
        // A field that is called so and is no text is no words.
        let (one, other) = (json!({ "message": { "count": 1 } }), json!({ "message": { "count": 2 } }));
        assert_eq!(worth_writing(&one, &other, &crowded, SECOND * 5), Worth::Write);
    }

    #[test]
    fn words_alone_wait_for_the_last_write() {
        let worth = |written: &[u64], now: u32| worth_writing(&status("A", "x"), &status("A", "y"), &at(written), SECOND * now);
        assert_eq!(worth(&[], 100), Worth::Write);
        assert_eq!(worth(&[100], 101), Worth::Later(SECOND * 14));
        assert_eq!(worth(&[100], 115), Worth::Write);
        // What was written for other reasons counts, too.
        assert_eq!(worth(&[100, 115, 124], 139), Worth::Later(SECOND * 21));
        assert_eq!(worth(&[100, 115, 124], 160), Worth::Write);
    }

    proptest! {
        /// However often it is looked, and whatever is said: at most four writes of words in a minute, and what was said last is written in the end.
        #[test]
        fn words_are_written_at_most_four_times_a_minute(looks in prop::collection::vec(1u32..20, 1..100)) {
            let writes = StatusWrites::default();
            let object = crds::ReplicatedVM::new("web", serde_json::from_value(json!({
                "applianceRef": { "name": "site-a" }, "vm": { "moRef": "vm-1" },
            })).unwrap());
            let (mut now, mut written, mut times) = (Duration::ZERO, status("A", "0"), Vec::new());
            for (number, tenths) in looks.into_iter().enumerate() {
                now += Duration::from_millis(u64::from(tenths) * 100);
                let new = status("A", &format!("{number}"));
                match writes.ask(&object, Some(&written), &new, now) {
                    Worth::Write => {
                        written = new;
                        times.push(now);
                    }
                    Worth::Later(wait) => prop_assert!(wait <= MINUTE && !wait.is_zero()),
                    Worth::Nothing => prop_assert_eq!(&written, &new),
                }
            }
            for window in times.windows(5) {
                prop_assert!(window[4] - window[0] > MINUTE, "{:?}", times);
            }
        }
    }
}
