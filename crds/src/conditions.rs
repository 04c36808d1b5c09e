//! The types of conditions, and how they are merged.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::reasons::Reason;

reasons::closed_set! {
    /// The types of conditions, of all kinds. Each is `True` where all is well; which kinds carry which says [`Kind::conditions`].
    pub enum ConditionType {
        /// The object does what it is there for. Where it does not, reason and message are those of the first other condition that fails.
        Ready,
        /// vCenter answers, and its credentials are taken.
        VCenterReachable,
        /// The user has every privilege that replication needs; the message names those that are missing.
        VCenterPrivileges,
        /// The principal may do on the target resource group what replication needs; the message names the actions that are missing. `Unknown`: it may
        /// not ask what it may do; that alone keeps the Appliance from nothing.
        AzurePermissions,
        /// The log store answers, and may be read and written.
        LogStoreReachable,
        /// The encryption key is the one that the log store was set up with.
        KeyVerified,
        /// Enough pods of gateway and applier are ready.
        WorkersAvailable,
        /// The certificates of vCenter and Azure were verified.
        TLSVerified,
        /// The VM is in vCenter's inventory, and it is the one that it was.
        SourceFound,
        /// No concern keeps the VM from being replicated.
        PreflightPassed,
        /// The ledger is ours, and its MAC is right.
        LedgerOwned,
        /// Every disk has its seed disk, and each is the one that the ledger names.
        SeedsReady,
        /// Cycles follow one another. `False` says why not: paused, stopped, waiting for something, or backing off after a failure.
        Replicating,
        /// The last snapshot was quiesced as `snapshot.quiesce` asks.
        Quiesced,
        /// The last cycle went by what VMware says has changed. `False`: it compares disks in full; the message names them and says why.
        ChangesTracked,
        /// The VM was off when the recovery point's snapshot was taken, and has been off ever since: nothing has been written since. `False`: it was
        /// started since. `Unknown`: it was not watched without a break since; the next cycle tells. Only where the VM was off at that snapshot.
        Final,
        /// Deletion only: nothing is left of the VM's snapshots, seeds, log and ledger; the message names what is, and what keeps it.
        CleanedUp,
        /// The cycle's log is complete: its manifest stands. `False`: there will be none.
        Transferred,
        /// The cycle's snapshot is gone, and nothing is left to consolidate. `False` names the snapshot and what keeps it.
        SourceReleased,
        /// The cycle's log is applied and verified: the replica is clean. `False`: it will not be.
        Applied,
    }
}

/// The kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An Appliance.
    Appliance,
    /// A ReplicatedVM.
    ReplicatedVm,
    /// A BlackoutWindow.
    BlackoutWindow,
    /// A ReplicationCycle.
    ReplicationCycle,
}

impl Kind {
    /// The conditions of its status, causes before effects: `Ready`, where there is one, repeats the first of the others that does not hold.
    #[must_use]
    pub const fn conditions(self) -> &'static [ConditionType] {
        use ConditionType as C;
        match self {
            Self::Appliance => &[
                C::Ready,
                C::TLSVerified,
                C::VCenterReachable,
                C::VCenterPrivileges,
                C::AzurePermissions,
                C::LogStoreReachable,
                C::KeyVerified,
                C::WorkersAvailable,
            ],
            Self::ReplicatedVm => &[
                C::Ready,
                C::SourceFound,
                C::LedgerOwned,
                C::PreflightPassed,
                C::SeedsReady,
                C::Replicating,
                C::ChangesTracked,
                C::Quiesced,
                C::Final,
                C::CleanedUp,
            ],
            Self::BlackoutWindow => &[C::Ready],
            Self::ReplicationCycle => &[C::Transferred, C::SourceReleased, C::Applied],
        }
    }
}

/// Whether it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does.
    True,
    /// It does not.
    False,
    /// It is not known yet, or is being worked on.
    Unknown,
}

impl Status {
    /// The word in the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a controller has found out about one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which condition.
    pub of: ConditionType,
    /// Whether it holds.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// For people: what is so, and where it is not well, what to do.
    pub message: String,
}

impl Finding {
    /// It holds.
    pub fn holds(of: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { of, status: Status::True, reason, message: message.into() }
    }

    /// It does not.
    pub fn fails(of: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { of, status: Status::False, reason, message: message.into() }
    }

    /// It is not known, or is being worked on.
    pub fn open(of: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { of, status: Status::Unknown, reason, message: message.into() }
    }
}

/// The conditions to write for `findings`, where the object has `old` ones: a transition is stamped with `now` only where the status moved, so
/// that the same findings give the same conditions, byte for byte, and nothing has to be written.
///
/// Only the conditions of `findings` are in the answer, in the order of [`ConditionType::ALL`]: with server-side apply a writer names what is
/// its own, and what it leaves out goes. Of two findings for one condition the last counts.
#[must_use]
pub fn merge(old: &[Condition], findings: &[Finding], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let last = |of: ConditionType| findings.iter().rev().find(|finding| finding.of == of);
    ConditionType::ALL.iter().filter_map(|of| last(*of)).map(|finding| renewed(get(old, finding.of), finding, generation, now)).collect()
}

fn renewed(old: Option<&Condition>, finding: &Finding, generation: Option<i64>, now: Timestamp) -> Condition {
    // Kubernetes keeps seconds: what is read back has to equal what was written.
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let last_transition_time = match old {
        Some(old) if old.status == finding.status.as_str() => old.last_transition_time.clone(),
        _ => now,
    };
    Condition {
        last_transition_time,
        message: finding.message.clone(),
        observed_generation: generation,
        reason: finding.reason.as_str().to_owned(),
        status: finding.status.as_str().to_owned(),
        type_: finding.of.as_str().to_owned(),
    }
}

/// The condition of a type.
#[must_use]
pub fn get(conditions: &[Condition], of: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == of.as_str())
}

/// True where the condition is there and has this status.
#[must_use]
pub fn is(conditions: &[Condition], of: ConditionType, status: Status) -> bool {
    get(conditions, of).is_some_and(|condition| condition.status == status.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millisecond(second * 1000 + 987).unwrap()
    }

    fn seconds(conditions: &[Condition]) -> Vec<(&str, i64)> {
        conditions.iter().map(|one| (one.type_.as_str(), one.last_transition_time.0.as_second())).collect()
    }

    #[test]
    fn a_transition_is_a_move_of_the_status() {
        let lost = Finding::fails(ConditionType::VCenterReachable, Reason::Unreachable, "no route");
        let first = merge(&[], std::slice::from_ref(&lost), Some(1), at(10));
        assert_eq!(seconds(&first), [("VCenterReachable", 10)]);
        assert_eq!(first[0].last_transition_time.0.subsec_nanosecond(), 0, "Kubernetes keeps seconds");

        let wrong = Finding::fails(ConditionType::VCenterReachable, Reason::WrongCredentials, "the password is not taken");
        let second = merge(&first, std::slice::from_ref(&wrong), Some(2), at(20));
        assert_eq!(seconds(&second), [("VCenterReachable", 10)], "another reason is no transition");
        assert_eq!((second[0].reason.as_str(), second[0].observed_generation), ("WrongCredentials", Some(2)));

        let back = Finding::holds(ConditionType::VCenterReachable, Reason::AsExpected, "");
        let third = merge(&second, std::slice::from_ref(&back), Some(2), at(30));
        assert_eq!(seconds(&third), [("VCenterReachable", 30)]);
    }

    #[test]
    fn the_same_findings_give_the_same_conditions() {
        let findings = [
            Finding::open(ConditionType::Applied, Reason::Applying, "12 of 40 MiB"),
            Finding::holds(ConditionType::Transferred, Reason::AsExpected, ""),
        ];
        let first = merge(&[], &findings, Some(1), at(10));
        assert_eq!(merge(&first, &findings, Some(1), at(99)), first);
    }

    #[test]
    fn a_writer_names_only_its_own_and_the_last_finding_counts() {
        let others = merge(&[], &[Finding::holds(ConditionType::Applied, Reason::AsExpected, "")], None, at(1));
        let findings = [
            Finding::open(ConditionType::SourceReleased, Reason::Consolidating, ""),
            Finding::open(ConditionType::Transferred, Reason::Transferring, ""),
            Finding::holds(ConditionType::Transferred, Reason::AsExpected, ""),
        ];
        let merged = merge(&others, &findings, None, at(2));
        assert_eq!(seconds(&merged), [("Transferred", 2), ("SourceReleased", 2)], "in the order of the types, without what is not ours");
        assert!(is(&merged, ConditionType::Transferred, Status::True) && !is(&merged, ConditionType::Applied, Status::True));
    }

    #[test]
    fn every_type_belongs_to_a_kind() {
        let kinds = [Kind::Appliance, Kind::ReplicatedVm, Kind::BlackoutWindow, Kind::ReplicationCycle];
        for of in ConditionType::ALL {
            assert!(kinds.iter().any(|kind| kind.conditions().contains(of)), "{of}");
            assert_eq!(ConditionType::from_word(of.as_str()), Some(*of));
        }
    }
}
