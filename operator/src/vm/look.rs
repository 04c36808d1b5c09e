//! One look at a ReplicatedVM, and what follows from it at once.

use blocklog::ids::Incarnation;
use uuid::Uuid;

use super::model::{CycleSeen, History, Observed};
use crate::cycle::mirror::{self, Mirrored, Seen};

/// One look, with what is worked out of it once.
pub struct Pass {
    pub seen: Observed,
    /// Each cycle as it is mirrored, in the order of [`Observed::cycles`].
    pub mirrored: Vec<Mirrored>,
    /// The last cycle that ended, and failures since the last success.
    pub history: History,
}

impl Pass {
    /// Works out what follows at once.
    #[must_use]
    pub fn new(seen: Observed) -> Self {
        let order = seen.order.as_ref().ok().and_then(Option::as_ref);
        let mirrored = |cycle: &CycleSeen| {
            let id = cycle.id();
            mirror::mirror(&Seen {
                object: &cycle.object,
                owner: &seen.owner,
                readable: seen.ledger.is_ok() && cycle.readable,
                ledger: seen.ledger.as_ref().ok().and_then(Option::as_ref),
                state: cycle.state.as_ref(),
                proof: cycle.proof.as_deref(),
                ordered: order.is_some_and(|order| Some(order.of) == id),
                given_up: seen.given_up.iter().find(|gone| Some(gone.of) == id),
                setback: seen.setback.as_ref().filter(|setback| Some(setback.of) == id),
                now: seen.now,
            })
        };
        let mirrored: Vec<Mirrored> = seen.cycles.iter().map(mirrored).collect();
        let history = history(&seen, &mirrored);
        Self { seen, mirrored, history }
    }

    /// All cycles, each with what is said of it.
    pub fn cycles(&self) -> impl Iterator<Item = (&CycleSeen, &Mirrored)> {
        self.seen.cycles.iter().zip(&self.mirrored)
    }

    /// Cycles that are not closed: their finalizer stands.
    pub fn open(&self) -> impl Iterator<Item = (&CycleSeen, &Mirrored)> {
        self.cycles().filter(|(cycle, _)| cycle.is_held())
    }

    /// The incarnation that new things belong to.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        let drawn = self.seen.object.status.as_ref().and_then(|status| status.incarnation.as_deref());
        let drawn = drawn.and_then(|text| Uuid::parse_str(text).ok()).map(Incarnation);
        self.seen.ours().map(|ledger| ledger.incarnation).or(drawn)
    }
}

fn history(seen: &Observed, mirrored: &[Mirrored]) -> History {
    let status = seen.object.status.as_ref();
    let mut last = status.and_then(|status| status.last_cycle.clone());
    let mut failures = status.and_then(|status| status.failures).and_then(|count| u32::try_from(count).ok()).unwrap_or_default();
    let current = status.and_then(|status| status.incarnation.as_deref());
    for (cycle, mirrored) in seen.cycles.iter().zip(mirrored) {
        // What the same word says of another start of replication is no history of this one.
        if current.is_some_and(|current| !same_uuid(current, &cycle.object.spec.incarnation)) {
            continue;
        }
        let newer = last.as_ref().is_none_or(|last| cycle.object.spec.cycle > last.cycle);
        if let Some(ended) = mirrored.last(&cycle.object, seen.now).filter(|_| newer) {
            failures = if ended.succeeded { 0 } else { failures.saturating_add(1) };
            last = Some(ended);
        }
    }
    (last, failures)
}

fn same_uuid(a: &str, b: &str) -> bool {
    match (Uuid::parse_str(a), Uuid::parse_str(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}
