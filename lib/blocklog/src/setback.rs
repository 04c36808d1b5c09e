//! What an applier says of a cycle that it could not apply: the way by which a failure far from the cluster reaches the people in it.
//!
//! It lies in the cycle's own folder, so that it speaks of that cycle alone, whoever wrote it and whatever was ordered since, and goes where
//! the cycle's log goes. One that is [`Setback::for_good`] is also what a successor finds: the cycle is given up, whatever crashes in between
//! ([`crate::steward::Steward::look`]). It says nothing about the replica: that is the ledger's.

use jiff::Timestamp;
use reasons::Reason;
use serde::{Deserialize, Serialize};

use crate::{
    document::Document,
    ids::{CycleId, DiskKey, Turn},
    names,
};

/// Why a cycle could not be applied. Replaced by each try in vain; once the replica is clean by this cycle or a later one it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Setback {
    /// The cycle.
    pub of: CycleId,
    /// The reason.
    pub reason: Reason,
    /// What happened, for people.
    pub message: String,
    /// The disk that it is about, where it is about one.
    pub disk: Option<DiskKey>,
    /// Tries in vain, one after another.
    pub tries: u32,
    /// When the first of them ended.
    pub first: Timestamp,
    /// When the last of them ended.
    pub last: Timestamp,
    /// The ledger's turn when the last one had ended, where it could be read. A ledger that is beyond it has seen another try begin.
    pub turn: Option<Turn>,
    /// True where no other try can help: the cycle's log can't become whole any more.
    pub for_good: bool,
}

impl Document for Setback {
    const KIND: &'static str = "setback";
}

impl Setback {
    /// The blob's name.
    #[must_use]
    pub fn name(&self) -> String {
        names::setback(self.of)
    }

    /// The same as the next one after `before`; none where `before` is for good and this is not: another applier may fail for another reason,
    /// and the log is as broken as it was.
    #[must_use]
    pub fn following(self, before: Option<&Self>) -> Option<Self> {
        let Some(before) = before.filter(|before| before.of == self.of) else { return Some(self) };
        if before.for_good && !self.for_good {
            return None;
        }
        Some(Self { tries: before.tries.saturating_add(self.tries), first: before.first.min(self.first), ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{cycle, setback, time};

    #[test]
    fn tries_are_counted_for_one_cycle_and_what_is_for_good_stays() {
        let one = Setback { for_good: false, tries: 1, first: time(10), last: time(10), ..setback() };
        let two = Setback { first: time(20), last: time(20), reason: Reason::ReplicaUnreachable, ..one.clone() };
        let next = two.clone().following(Some(&one)).unwrap();
        assert_eq!((next.tries, next.first, next.last, next.reason), (2, time(10), time(20), Reason::ReplicaUnreachable));
        let other = Setback { of: cycle(9), ..one.clone() };
        assert_eq!(two.clone().following(Some(&other)), Some(two.clone()));
        let last = Setback { for_good: true, ..one };
        assert_eq!(two.clone().following(Some(&last)), None);
        assert!(last.clone().following(Some(&two)).unwrap().for_good);
    }
}
