//! What tests can do to Resource Manager: refuse, delay, drop, and count.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// A planted fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Injection {
    /// `PUT`, `POST`...; none: all.
    #[serde(default)]
    pub method: Option<String>,
    /// A path without its query, `*` for anything; compared without regard to case.
    pub path: String,
    /// How many calls it meets; none: all, until it is cleared.
    #[serde(default)]
    pub times: Option<u32>,
    /// How many matching calls go by unharmed before.
    #[serde(default)]
    pub skip: u32,
    /// What happens.
    pub effect: Effect,
}

/// What a planted fault does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Effect {
    /// An error instead of an answer; nothing is done.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The error's code.
        code: String,
        /// The error's message.
        #[serde(default)]
        message: String,
        /// `Retry-After`.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// The call waits, by the simulator's clock, then goes on.
    Delay {
        /// How long.
        seconds: f64,
    },
    /// The connection is closed without an answer.
    Drop {
        /// Whether the call is carried out first: its answer is lost, its effect is not.
        #[serde(default)]
        after: bool,
    },
    /// The long-running operation starts, and ends in failure.
    FailOperation {
        /// The error's code.
        code: String,
        /// The error's message.
        #[serde(default)]
        message: String,
    },
    /// The long-running operation does not end before the fault is cleared.
    HoldOperation,
}

/// The planted faults, and the counters.
#[derive(Debug, Default)]
pub struct Knobs {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    injections: Vec<(u64, Injection)>,
    counts: BTreeMap<String, u64>,
}

impl Knobs {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plants a fault; its number is for [`Knobs::clear`].
    pub fn inject(&self, injection: Injection) -> u64 {
        let mut inner = self.inner();
        inner.next += 1;
        let id = inner.next;
        inner.injections.push((id, injection));
        id
    }

    /// Removes one fault, or all. Operations that it held go on.
    pub fn clear(&self, id: Option<u64>) {
        self.inner().injections.retain(|(known, _)| id.is_some_and(|id| id != *known));
    }

    /// The faults that are left.
    #[must_use]
    pub fn injections(&self) -> Vec<(u64, Injection)> {
        self.inner().injections.clone()
    }

    /// Whether a fault is still planted.
    #[must_use]
    pub fn is_planted(&self, id: u64) -> bool {
        self.inner().injections.iter().any(|(known, _)| *known == id)
    }

    /// How many calls came, by operation: `PUT Microsoft.Compute/disks`, `POST Microsoft.Compute/disks/beginGetAccess`.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.inner().counts.clone()
    }

    /// Counts from nothing again.
    pub fn reset_counts(&self) {
        self.inner().counts.clear();
    }

    pub(super) fn count(&self, operation: String) {
        *self.inner().counts.entry(operation).or_default() += 1;
    }

    /// The faults that this call meets, in the order in which they were planted; each is used up by one.
    pub(super) fn meet(&self, method: &str, path: &str) -> Vec<(u64, Effect)> {
        let mut met = Vec::new();
        let mut inner = self.inner();
        for (id, injection) in &mut inner.injections {
            let fits = injection.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method));
            if !fits || !glob(&injection.path.to_ascii_lowercase(), &path.to_ascii_lowercase()) || injection.times == Some(0) {
                continue;
            }
            if injection.skip > 0 {
                injection.skip -= 1;
                continue;
            }
            if let Some(times) = &mut injection.times {
                *times -= 1;
            }
            met.push((*id, injection.effect.clone()));
        }
        // What holds an operation stays planted until it is cleared, though it meets no further call.
        inner.injections.retain(|(_, injection)| injection.times != Some(0) || injection.effect == Effect::HoldOperation);
        met
    }
}

/// `*` stands for any number of any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return false };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        assert!(glob("*/disks/*", "/subscriptions/x/disks/a"));
        assert!(glob("/a", "/a"));
        assert!(!glob("/a", "/ab"));
        assert!(glob("/a*", "/ab"));
        assert!(!glob("*/disks/a", "/x/disks/ab"));
        assert!(glob("*", ""));
    }

    #[test]
    fn a_fault_is_used_up() {
        let knobs = Knobs::default();
        let effect = Effect::Drop { after: false };
        knobs.inject(Injection { method: Some("put".into()), path: "*/disks/*".into(), times: Some(1), skip: 1, effect });
        assert!(knobs.meet("GET", "/x/disks/a").is_empty());
        assert!(knobs.meet("PUT", "/x/disks/a").is_empty());
        assert_eq!(knobs.meet("PUT", "/x/disks/a").len(), 1);
        assert!(knobs.meet("PUT", "/x/disks/a").is_empty());
        assert!(knobs.injections().is_empty());
    }
}
