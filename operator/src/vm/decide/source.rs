//! Checks of the source's side: the appliance, the VM in vCenter, what stands in the way of its snapshots, and changed block tracking.

use crds::{
    concerns::Severity,
    conditions::ConditionType as C,
    reasons::Reason,
    replicated_vm::{Concern, Replication},
};

use crate::{
    pass::{LATER, NOW, SOON, Said, retry_after, waits_for},
    vm::{
        look::Pass,
        model::{ApplianceState, Source},
        step::{End, Step},
    },
};

pub(super) fn appliance(pass: &Pass, said: &mut Said) -> Option<End> {
    let name = &pass.seen.object.spec.appliance_ref.name;
    match &pass.seen.appliance {
        ApplianceState::Missing => {
            said.fails(C::Replicating, Reason::ApplianceMissing, format!("there is no Appliance {name} in this namespace: create it"));
            said.waiting = Some(waits_for(Reason::ApplianceMissing, Some(name.clone())));
            Some((Step::None, LATER))
        }
        ApplianceState::Unbuilt(trouble) => {
            said.fails(C::Replicating, Reason::ApplianceNotReady, format!("the appliance {name} is not ready: {}", trouble.message));
            said.waiting = Some(waits_for(Reason::ApplianceNotReady, Some(name.clone())));
            Some((Step::None, SOON))
        }
        ApplianceState::NotReady(_) | ApplianceState::Ready => None,
    }
}

pub(super) fn found(pass: &Pass, said: &mut Said) -> Option<End> {
    match &pass.seen.source {
        Ok(source) => {
            said.holds(C::SourceFound, Reason::AsExpected, format!("it is {} ({})", source.name, source.mo_ref));
            None
        }
        Err(trouble) => {
            said.troubled(C::SourceFound, trouble);
            // What is sent can be applied without the source, and what is over is closed.
            if pass.seen.running() || pass.open().any(|(_, mirrored)| mirrored.over) {
                return None;
            }
            said.fails(C::Replicating, trouble.reason, trouble.message.clone());
            Some((Step::None, retry_after(trouble, LATER)))
        }
    }
}

/// A snapshot grows as long as it stands, and a datastore that is full stops every VM on it: a cycle that is still read is ended.
pub(super) fn room(pass: &Pass, said: &mut Said) -> Option<End> {
    let pressed = pass.seen.source.as_ref().ok()?.pressed.as_ref()?;
    let (cycle, _) = pass.open().find(|(cycle, mirrored)| !mirrored.over && !cycle.is_cancelled() && cycle.is_read())?;
    let name = cycle.name();
    let message = format!("{name} is ended, so that its snapshot goes: {}", pressed.message);
    said.open(C::Replicating, pressed.reason, message);
    Some((Step::Cancel { cycles: vec![name], reason: pressed.reason }, NOW))
}

pub(super) fn preflight(pass: &Pass, said: &mut Said) -> Option<End> {
    let Ok(source) = &pass.seen.source else { return None };
    let concerns = |severity| source.concerns.iter().filter(move |concern| concern.severity == severity && !concern.accepted);
    let (critical, warnings): (Vec<_>, Vec<_>) = (concerns(Severity::Critical).collect(), concerns(Severity::Warning).collect());
    let told = |all: &[&Concern]| {
        let told = |one: &&Concern| format!("{}: {}. {}", one.id, one.message, one.remedy);
        all.iter().map(told).collect::<Vec<_>>().join("; ")
    };
    let block = if !critical.is_empty() {
        Some((Reason::ConcernsBlock, told(&critical)))
    } else if !warnings.is_empty() {
        Some((Reason::ConcernsToAccept, told(&warnings)))
    } else {
        None
    };
    match &block {
        Some((reason, message)) => said.fails(C::PreflightPassed, *reason, message.clone()),
        None => said.holds(C::PreflightPassed, Reason::AsExpected, passed(source)),
    }
    if pass.seen.running() {
        return None;
    }
    if let Some((reason, message)) = block {
        said.fails(C::Replicating, reason, message);
        return Some((Step::None, LATER));
    }
    if let ApplianceState::NotReady(why) = &pass.seen.appliance {
        let name = pass.seen.object.spec.appliance_ref.name.clone();
        said.fails(C::Replicating, Reason::ApplianceNotReady, format!("the appliance {name} is not ready: {why}"));
        said.waiting = Some(waits_for(Reason::ApplianceNotReady, Some(name)));
        return Some((Step::None, LATER));
    }
    None
}

/// What is said of a preflight that nothing stands in the way of.
fn passed(source: &Source) -> String {
    match source.concerns.iter().filter(|concern| concern.accepted).count() {
        0 => "nothing stands in the way of replication".to_owned(),
        accepted => format!("nothing stands in the way of replication but what was accepted: {accepted} of the concerns"),
    }
}

pub(super) fn tracking(pass: &Pass, said: &mut Said) -> Option<End> {
    let off = matches!(&pass.seen.source, Ok(source) if source.tracking_off);
    if !off || pass.seen.running() || pass.open().next().is_some() || pass.seen.object.spec.replication != Replication::Active {
        return None;
    }
    if let Ok(Source { busy: Some(busy), .. }) = &pass.seen.source {
        said.fails(C::Replicating, busy.reason, busy.message.clone());
        said.waiting = Some(waits_for(busy.reason, None));
        return Some((Step::None, retry_after(busy, SOON)));
    }
    said.open(C::Replicating, Reason::EnablingChangeTracking, "changed block tracking is being switched on");
    Some((Step::SwitchTracking, NOW))
}
