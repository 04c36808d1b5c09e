//! What passes of all kinds share: what a chain of checks has found out, how it ends, how long to wait until the next look, and what is told of it.
//!
//! It stands below the controllers, generic over their steps, so that each new kind of pass begins with it and none imports another's.

use std::time::Duration;

use crds::{
    conditions::{ConditionType, Finding, Status},
    reasons::Reason,
    replicated_vm::WaitingFor,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::trouble::Trouble;

/// The wait until the next look where there is more to do.
pub const NOW: Duration = Duration::from_millis(50);
/// The wait while something goes on that nobody tells us of.
pub const SOON: Duration = Duration::from_secs(5);
/// The wait while a person has to do something; what is watched wakes sooner.
pub const LATER: Duration = Duration::from_secs(30);
/// The longest time between two looks: nobody tells of a seed disk that was deleted.
pub const IDLE: Duration = Duration::from_secs(120);
/// The wait where nothing is left to look at but what watches tell.
pub const AT_REST: Duration = Duration::from_secs(3600);

/// What a chain of checks has found out so far.
#[derive(Debug, Default)]
pub struct Said {
    pub findings: Vec<Finding>,
    pub waiting: Option<WaitingFor>,
    pub next_cycle: Option<Timestamp>,
}

impl Said {
    /// A condition holds.
    pub fn holds(&mut self, of: ConditionType, reason: Reason, message: impl Into<String>) {
        self.findings.push(Finding::holds(of, reason, message));
    }

    /// A condition is worked on, or can't be known yet.
    pub fn open(&mut self, of: ConditionType, reason: Reason, message: impl Into<String>) {
        self.findings.push(Finding::open(of, reason, message));
    }

    /// A condition does not hold.
    pub fn fails(&mut self, of: ConditionType, reason: Reason, message: impl Into<String>) {
        self.findings.push(Finding::fails(of, reason, message));
    }

    /// A condition does not hold because of something outside.
    pub fn troubled(&mut self, of: ConditionType, trouble: &Trouble) {
        self.fails(of, trouble.reason, trouble.message.clone());
    }
}

/// Where a chain ends: the step to take, and how long to wait until the next look.
pub type End<S> = (S, Duration);

/// What follows from what a pass has seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<S> {
    /// The one thing to do.
    pub step: S,
    /// The conditions as they are.
    pub findings: Vec<Finding>,
    /// What a due cycle waits for.
    pub waiting: Option<WaitingFor>,
    /// When the next cycle is due.
    pub next_cycle: Option<Timestamp>,
    /// How long to wait until the next look.
    pub wake: Duration,
}

impl<S> Decision<S> {
    /// The decision at the end of a chain.
    pub fn new(said: Said, (step, wake): End<S>) -> Self {
        Self { step, findings: said.findings, waiting: said.waiting, next_cycle: said.next_cycle, wake }
    }
}

/// How long to wait after a trouble: as it says itself, else `otherwise`.
#[must_use]
pub fn retry_after(trouble: &Trouble, otherwise: Duration) -> Duration {
    trouble.again.unwrap_or(otherwise)
}

/// A wait as `status.waitingFor` has it.
#[must_use]
pub fn waits_for(reason: Reason, resource: Option<String>) -> WaitingFor {
    WaitingFor { reason: reason.into(), resource, ..WaitingFor::default() }
}

/// `Ready` repeats the first of its causes that does not hold: what was found to be wrong comes before what is not known yet.
#[must_use]
pub fn ready(causes: &[ConditionType], findings: &[Finding], well: impl Into<String>) -> Finding {
    let last = |of: &ConditionType| findings.iter().rev().find(|finding| finding.of == *of);
    let first = |status| causes.iter().filter_map(last).find(|finding| finding.status == status);
    match first(Status::False).or_else(|| first(Status::Unknown)) {
        Some(cause) => Finding { of: ConditionType::Ready, ..cause.clone() },
        None => Finding::holds(ConditionType::Ready, Reason::AsExpected, well),
    }
}

/// An edge that people are told of as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Whether it is a `Warning`.
    pub warning: bool,
    pub reason: Reason,
    pub note: String,
}

/// The edges between the conditions of before and of now: one that no longer holds, or is another one's fault, and one that holds again. `Ready`
/// repeats others and tells nothing itself.
#[must_use]
pub fn edges(old: &[Condition], new: &[Condition]) -> Vec<Edge> {
    let edge = |condition: &Condition| {
        let before = old.iter().find(|one| one.type_ == condition.type_);
        let reason = Reason::from_word(&condition.reason)?;
        let moved = before.is_none_or(|before| before.status != condition.status || before.reason != condition.reason);
        let (fails, holds) = (condition.status == Status::False.as_str(), condition.status == Status::True.as_str());
        let mended = holds && before.is_some_and(|before| before.status == Status::False.as_str());
        (moved && (fails || mended)).then(|| Edge {
            warning: fails && !is_ordinary(reason),
            reason,
            note: format!("{}: {}", condition.type_, condition.message),
        })
    };
    new.iter().filter(|condition| condition.type_ != ConditionType::Ready.as_str()).filter_map(edge).collect()
}

/// True for what is as people have asked for it, or passes by itself without anything being wrong: a condition that is not `True` for it is no
/// reason to warn.
fn is_ordinary(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotAskedFor
            | Reason::SeedsBeingMade
            | Reason::ApplianceFull
            | Reason::HostFull
            | Reason::NotDue
            | Reason::PreviousCycleOpen
            | Reason::Paused
            | Reason::Stopped
            | Reason::NoBaseline
            | Reason::CleaningUp
            | Reason::TakingOver
            | Reason::EnablingChangeTracking
    )
}

#[cfg(test)]
mod tests {
    use crds::conditions::{ConditionType as C, merge};

    use super::*;

    fn conditions(findings: &[Finding]) -> Vec<Condition> {
        merge(&[], findings, Some(1), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn ready_names_what_is_wrong_before_what_is_unknown() {
        let causes = [C::SourceFound, C::LedgerOwned, C::Replicating];
        let findings = [
            Finding::open(C::SourceFound, Reason::NotChecked, "not yet"),
            Finding::holds(C::LedgerOwned, Reason::AsExpected, "ours"),
            Finding::fails(C::Replicating, Reason::Paused, "paused"),
        ];
        let of = |findings: &[Finding]| ready(&causes, findings, "all well");
        assert_eq!(of(&findings), Finding::fails(C::Ready, Reason::Paused, "paused"));
        assert_eq!(of(&findings[..2]), Finding::open(C::Ready, Reason::NotChecked, "not yet"));
        assert_eq!(of(&findings[1..2]), Finding::holds(C::Ready, Reason::AsExpected, "all well"));
    }

    #[test]
    fn progress_that_is_ordinary_is_no_warning() {
        let said = |finding| edges(&[], &conditions(&[finding]));
        assert!(!said(Finding::fails(C::SeedsReady, Reason::SeedsBeingMade, "2 disks"))[0].warning);
        assert!(said(Finding::fails(C::SeedsReady, Reason::SeedMissing, "2000"))[0].warning);
        assert_eq!(said(Finding::holds(C::SeedsReady, Reason::AsExpected, "2 of 2")), [], "what was never wrong");
        assert_eq!(said(Finding::fails(C::Ready, Reason::SeedMissing, "2000")), [], "it repeats another one");
    }

    #[test]
    fn an_edge_is_told_once_and_so_is_its_end() {
        let wrong = conditions(&[Finding::fails(C::SourceFound, Reason::VmNotFound, "no VM")]);
        let well = conditions(&[Finding::holds(C::SourceFound, Reason::AsExpected, "it is web")]);
        assert_eq!(edges(&wrong, &wrong), []);
        let mended = Edge { warning: false, reason: Reason::AsExpected, note: "SourceFound: it is web".to_owned() };
        assert_eq!(edges(&wrong, &well), [mended]);
    }
}
