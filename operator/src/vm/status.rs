//! What is said about a ReplicatedVM.

use std::collections::BTreeMap;

use blocklog::ids::DiskKey;
use crds::{
    ReplicatedVMStatus,
    concerns::ConcernId,
    conditions::{self, ConditionType as C, Finding, Kind, Status},
    reasons::Reason,
    replicated_vm::{Baseline, Concern, DiskStatus, Phase, Progress, RecoveryPoint, Replication, SeedDisk, VmIdentity},
    replication_cycle::{DiskMode, SourceDisk},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    look::Pass,
    model::{Observed, Source},
    step::{Decision, Step},
};
use crate::{
    cycle::SYNC_NOW,
    objects::{bytes, seconds, status_of},
    pass,
    seeds::Which,
};

/// The causes of `Ready`, in the order in which they are told.
const CAUSES: [C; 5] = [C::SourceFound, C::LedgerOwned, C::PreflightPassed, C::SeedsReady, C::Replicating];

/// The status to write.
#[must_use]
pub fn status(pass: &Pass, decision: &Decision) -> ReplicatedVMStatus {
    let seen = &pass.seen;
    let old = seen.object.status.clone().unwrap_or_default();
    let ledger = seen.ours();
    let source = seen.source.as_ref().ok();
    let forgets = decision.step == Step::Forget;
    let (last_cycle, failures) = pass.history.clone();
    let current = pass.open().map(|(cycle, mirrored)| (cycle, mirrored, cycle.object.metadata.name.clone())).last();
    let running = current.as_ref().filter(|(_, mirrored, _)| !mirrored.over);
    let progress: Option<Progress> = running.and_then(|(_, mirrored, _)| mirrored.status.source.as_ref()?.progress.clone());
    let mut status = ReplicatedVMStatus {
        observed_generation: seen.object.metadata.generation,
        phase: None,
        conditions: conditions(seen, &old, decision),
        concerns: source.map_or_else(|| old.concerns.clone(), |source| [source.concerns.clone(), retired(seen, source)].concat()),
        vm: source.map(identity).or_else(|| old.vm.clone()),
        incarnation: ledger.map(|ledger| ledger.incarnation.0.to_string()).or_else(|| old.incarnation.clone()),
        disks: disks(seen, &old),
        recovery_point: match (&seen.ledger, ledger) {
            // What can't be read says nothing: the last recovery point is still there.
            (Err(_), _) => old.recovery_point.clone(),
            (Ok(_), Some(ledger)) => ledger.recovery_point.as_ref().map(|point| RecoveryPoint {
                time: seconds(point.time),
                cycle: bytes(point.cycle.0),
                disks: point.disks.iter().map(|disk| i64::from(disk.0)).collect(),
            }),
            (Ok(_), None) => old.recovery_point.clone(),
        },
        last_cycle,
        current_cycle: current.filter(|(_, mirrored, _)| !(mirrored.over && mirrored.released)).and_then(|(_, _, name)| name),
        next_cycle_time: decision.next_cycle.map(seconds),
        waiting_for: decision.waiting.clone(),
        progress,
        last_sync_now: ledger.and_then(|ledger| ledger.tokens.get(SYNC_NOW).cloned()).or_else(|| old.last_sync_now.clone()),
        failures: (failures > 0).then(|| i32::try_from(failures).unwrap_or(i32::MAX)),
    };
    if forgets {
        status = ReplicatedVMStatus {
            incarnation: None,
            recovery_point: None,
            last_cycle: None,
            current_cycle: None,
            progress: None,
            failures: None,
            disks: status.disks.into_iter().map(|disk| DiskStatus { baseline: None, seed_disk: None, ..disk }).collect(),
            ..status
        };
    }
    // What an unreadable cycle is at is not known: what was said of it holds.
    if matches!(&seen.due, Err(trouble) if trouble.reason == Reason::Unreadable) && old.phase.is_some() {
        return ReplicatedVMStatus { current_cycle: old.current_cycle, progress: old.progress, phase: old.phase, ..status };
    }
    status.phase = Some(phase(seen, &status, ledger.is_some_and(|ledger| ledger.recovery_point.is_some()), current_runs(pass)));
    status
}

fn current_runs(pass: &Pass) -> bool {
    pass.open().any(|(_, mirrored)| !mirrored.over)
}

fn phase(seen: &Observed, status: &ReplicatedVMStatus, replica: bool, runs: bool) -> Phase {
    if seen.object.spec.replication == Replication::Stopped && !runs {
        Phase::NotApplicable
    } else if replica || status.recovery_point.is_some() {
        Phase::TestMigrationPending
    } else if runs {
        Phase::InitialReplication
    } else {
        Phase::InitialReplicationQueued
    }
}

/// Those that were found out now, and those that were not looked at as they were.
fn conditions(seen: &Observed, old: &ReplicatedVMStatus, decision: &Decision) -> Vec<Condition> {
    let generation = seen.object.metadata.generation;
    let mut findings = decision.findings.clone();
    for of in Kind::ReplicatedVm.conditions().iter().filter(|of| **of != C::Ready) {
        if findings.iter().any(|finding| finding.of == *of) {
            continue;
        }
        match conditions::get(&old.conditions, *of) {
            // Only of an object that is cleaned up, or was; only of a recovery point whose VM was off.
            _ if matches!(of, C::CleanedUp | C::Final) => {}
            Some(condition) => findings.extend(kept(*of, condition)),
            None if CAUSES.contains(of) => findings.push(Finding::open(*of, Reason::NotChecked, "it was not looked at yet")),
            None => {}
        }
    }
    findings.extend(quiesced(seen));
    findings.extend(tracked(seen));
    findings.extend(last_word(seen, old));
    findings.push(ready(&findings));
    conditions::merge(&old.conditions, &findings, generation, seen.now)
}

fn kept(of: C, condition: &Condition) -> Option<Finding> {
    Some(Finding {
        of,
        status: status_of(&condition.status),
        reason: Reason::from_word(&condition.reason)?,
        message: condition.message.clone(),
    })
}

/// `Ready` where all is well says what the cycles do.
fn ready(findings: &[Finding]) -> Finding {
    let replicating = findings.iter().rev().find(|finding| finding.of == C::Replicating);
    pass::ready(&CAUSES, findings, replicating.map(|finding| finding.message.clone()).unwrap_or_default())
}

/// Disks that the VM has no more and whose seeds stand: told for as long as they do.
fn retired(seen: &Observed, source: &Source) -> Vec<Concern> {
    let (Some(ledger), Ok(disks)) = (seen.ours(), &seen.disks) else { return Vec::new() };
    // Where the VM's disks are not told, nothing can be said of what is gone.
    if source.disks.is_empty() {
        return Vec::new();
    }
    let mut gone: BTreeMap<DiskKey, Vec<&str>> = BTreeMap::new();
    for disk in disks {
        let Some(which) = Which::of(&seen.owner, disk).filter(|which| which.incarnation == ledger.incarnation) else { continue };
        let told = source
            .concerns
            .iter()
            .any(|concern| concern.id == ConcernId::DiskRemoved.as_str() && concern.disk == Some(i64::from(which.disk.0)));
        if !told && !source.disks.iter().any(|one| one.key == which.disk) {
            gone.entry(which.disk).or_default().push(&disk.id.name);
        }
    }
    let concern = |(key, seeds): (DiskKey, Vec<&str>)| Concern {
        id: ConcernId::DiskRemoved.into(),
        severity: ConcernId::DiskRemoved.severity(),
        disk: Some(i64::from(key.0)),
        message: format!("The disk with the key {key} is gone from the VM; its replica, {}, is kept as it was", seeds.join(" and ")),
        remedy: ConcernId::DiskRemoved.remedy().to_owned(),
        accepted: false,
    };
    gone.into_iter().map(concern).collect()
}

/// Of the last snapshot that a gateway took, where it was to be quiesced.
fn quiesced(seen: &Observed) -> Option<Finding> {
    use crds::replicated_vm::Quiesce;
    let last = seen.cycles.iter().rev().find_map(|cycle| {
        let snapshot = cycle.object.status.as_ref()?.source.as_ref()?.snapshot.as_ref()?;
        Some((cycle, snapshot.quiesced?))
    })?;
    let name = last.0.object.metadata.name.clone().unwrap_or_default();
    Some(match (last.0.object.spec.quiesce, last.1) {
        (Quiesce::Never, _) => Finding::open(C::Quiesced, Reason::NotAskedFor, "snapshot.quiesce is Never"),
        (_, true) => Finding::holds(C::Quiesced, Reason::AsExpected, format!("the snapshot of {name} was quiesced")),
        (_, false) => Finding::fails(
            C::Quiesced,
            Reason::QuiesceFailed,
            format!("the snapshot of {name} could not be quiesced: it is as after a power cut"),
        ),
    })
}

/// Whether the last cycle that has looked at its disks went by what VMware says has changed, or compares them in full, and why.
fn tracked(seen: &Observed) -> Option<Finding> {
    let (cycle, disks) = seen.cycles.iter().rev().find_map(|cycle| {
        let disks = &cycle.object.status.as_ref()?.source.as_ref()?.disks;
        disks.iter().any(|disk| disk.mode.is_some()).then_some((cycle, disks))
    })?;
    let why = |disk: &SourceDisk| Reason::from_word(disk.reason.as_deref()?);
    let whole = || disks.iter().filter(|disk| disk.mode == Some(DiskMode::Full));
    let first = whole().filter_map(why).find(|reason| *reason != Reason::NoBaseline);
    let name = cycle.object.metadata.name.clone().unwrap_or_default();
    Some(match first {
        Some(reason) => {
            let told = |disk: &SourceDisk| Some(format!("{} ({})", disk.key, why(disk).filter(|reason| *reason != Reason::NoBaseline)?));
            let keys: Vec<String> = whole().filter_map(told).collect();
            let message =
                format!("{name} compares these disks in full, and sends only what differs: {}. {}", keys.join(", "), reason.meaning());
            Finding::fails(C::ChangesTracked, reason, message)
        }
        None if whole().next().is_some() => {
            Finding::open(C::ChangesTracked, Reason::NoBaseline, "there is nothing yet that a delta could start from")
        }
        None => Finding::holds(C::ChangesTracked, Reason::AsExpected, format!("{name} sends what vCenter says has changed")),
    })
}

/// Whether the VM has written nothing since the recovery point's snapshot. Only of a VM that was off when that was taken; what can't be known is
/// not final.
fn last_word(seen: &Observed, old: &ReplicatedVMStatus) -> Option<Finding> {
    let known = old.recovery_point.as_ref().map(|point| point.cycle);
    let point = match &seen.ledger {
        // What can't be read says nothing: the last recovery point is still there.
        Err(_) => known?,
        Ok(_) => bytes(seen.ours()?.recovery_point.as_ref()?.cycle.0),
    };
    let of_point = seen.cycles.iter().find(|cycle| cycle.id().is_some_and(|id| bytes(id.cycle.0) == point))?;
    if of_point.object.status.as_ref()?.source.as_ref()?.snapshot.as_ref()?.powered_off != Some(true) {
        return None;
    }
    let source = seen.source.as_ref().ok();
    // One that was on has written, whatever it is now: only the next recovery point takes that back.
    let diverged = known == Some(point)
        && conditions::get(&old.conditions, C::Final).is_some_and(|condition| condition.status == Status::False.as_str());
    if diverged || matches!(source.and_then(|source| source.power), Some("PoweredOn" | "Suspended")) {
        let message =
            "the VM was off when the recovery point's snapshot was taken, and was started since: the next cycle brings what it has written";
        return Some(Finding::fails(C::Final, Reason::Diverged, message));
    }
    // Both clocks are the cluster's, and one tells whole seconds.
    let created = of_point.object.metadata.creation_timestamp.as_ref().map(|created| created.0.as_second());
    let since = source.and_then(|source| source.off_since).map(|since| since.as_second());
    Some(if since.zip(created).is_some_and(|(since, created)| since <= created) {
        Finding::holds(
            C::Final,
            Reason::AsExpected,
            "the VM was off when the recovery point's snapshot was taken, and has been off ever since",
        )
    } else {
        let message = "the VM was off when the recovery point's snapshot was taken, but was not watched without a break since: whether it was \
                       started in between can't be known. The recovery point of the next cycle tells";
        Finding::open(C::Final, Reason::NotChecked, message)
    })
}

fn identity(source: &Source) -> VmIdentity {
    VmIdentity {
        name: source.name.clone(),
        vcenter_uuid: source.id.vcenter.to_string(),
        instance_uuid: source.id.instance.to_string(),
        mo_ref: source.mo_ref.clone(),
        host: source.host.clone(),
        power_state: source.power.map(str::to_owned),
    }
}

fn disks(seen: &Observed, old: &ReplicatedVMStatus) -> Vec<DiskStatus> {
    let mut disks: Vec<DiskStatus> = match &seen.source {
        Ok(source) => source
            .disks
            .iter()
            .map(|disk| DiskStatus {
                key: i64::from(disk.key.0),
                uuid: disk.uuid.clone(),
                label: Some(disk.label.clone()).filter(|label| !label.is_empty()),
                capacity_bytes: bytes(disk.capacity),
                excluded: disk.excluded,
                baseline: None,
                seed_disk: None,
            })
            .collect(),
        Err(_) => old.disks.clone(),
    };
    let Some(ledger) = seen.ours() else { return disks };
    let cycle = ledger.recovery_point.as_ref().map_or(1, |point| bytes(point.cycle.0).max(1));
    for disk in &mut disks {
        let Ok(key) = u32::try_from(disk.key).map(DiskKey) else { continue };
        disk.baseline = ledger.baseline.get(&key).map(|change_id| Baseline { change_id: change_id.of_source().to_owned(), cycle });
        disk.seed_disk = ledger.seeds.get(&key).map(|seed| SeedDisk {
            id: seed.id.clone(),
            unique_id: seed.unique_id.clone(),
            capacity_bytes: bytes(seed.capacity),
        });
    }
    disks
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
