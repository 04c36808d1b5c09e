//! ReplicatedVMs: looked at, decided, acted upon, told.

pub mod apply;
mod cleanup;
pub mod decide;
pub mod model;
pub mod observe;
pub mod slots;
pub mod source;
pub mod status;

use std::{sync::Arc, time::Duration};

use crds::{
    ReplicatedVM, ReplicatedVMStatus, ReplicationCycle, ReplicationCycleStatus,
    conditions::{self, ConditionType as C, Finding, Status},
    reasons::Reason,
    replication_cycle::CyclePhase,
};
use futures::FutureExt;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;

use self::{
    apply::Outcome,
    decide::Pass,
    model::{CycleSeen, Observed, Step},
};
use crate::{
    context::{Context, MANAGER},
    cycle::mirror::{self, Mirrored, seconds},
    trouble::Trouble,
};

/// One pass over a ReplicatedVM.
///
/// # Errors
/// Where the apiserver does not do what it is asked.
pub async fn reconcile(object: Arc<ReplicatedVM>, context: Arc<Context>) -> Result<Action, Trouble> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<ReplicatedVM> = Api::namespaced(context.client.clone(), &namespace);
    // What a watch told may be behind what was written, and what is drawn once must not be drawn again.
    let Some(object) = api.get_opt(&name).await? else {
        context.metrics.forget(&namespace, &name);
        return Ok(Action::await_change());
    };
    if object.metadata.deletion_timestamp.is_some() && !object.finalizers().iter().any(|one| one == crds::names::CLEANUP_FINALIZER) {
        return Ok(Action::await_change());
    }
    // Boxed, each of them: otherwise the compiler can't see that the whole may go from thread to thread.
    let seen = observe::observe(&context, object).boxed().await?;
    let mut decision = decide::decide(&seen);
    if decision.step != Step::None {
        tracing::info!(namespace, name, step = ?decision.step, "decided");
    }
    let outcome = match apply::apply(&context, &seen, &decision.step).boxed().await {
        Ok(outcome) => outcome,
        Err(trouble) => {
            let trouble = apply::understood(&context, &seen, trouble).boxed().await;
            tracing::warn!(namespace, name, step = ?decision.step, reason = %trouble.reason, %trouble, "not done");
            context.metrics.errors.with_label_values(&["ReplicatedVM", trouble.reason.as_str()]).inc();
            decision.wake = trouble.again.unwrap_or(decide::SOON).max(Duration::from_secs(1));
            Outcome { findings: not_done(&decision.step, &trouble), ..Outcome::default() }
        }
    };
    if outcome.gone {
        return Ok(Action::await_change());
    }
    decision.findings.extend(outcome.findings.clone());
    if let Some(waiting) = outcome.waiting.clone() {
        (decision.waiting, decision.wake) = (Some(waiting), decide::SOON);
    }
    let pass = Pass::new(&seen);
    for (cycle, mirrored) in seen.cycles.iter().zip(&pass.mirrored) {
        write_cycle(&context, &seen, cycle, mirrored, &outcome).boxed().await?;
    }
    let mut status = status::status(&pass, &decision);
    if let Some(incarnation) = outcome.incarnation {
        status.incarnation = Some(incarnation.to_string());
    }
    write_status(&context, &api, &seen, &status, outcome.incarnation.is_some()).boxed().await?;
    tell(&context, &seen, &outcome, &status).boxed().await;
    Ok(Action::requeue(decision.wake))
}

/// A step that could not be done, as the condition that it was for has it.
fn not_done(step: &Step, trouble: &Trouble) -> Vec<Finding> {
    let fails = |of| Finding::fails(of, trouble.reason, trouble.message.clone());
    match step {
        Step::MakeDisks(_) | Step::CreateLedger(_) | Step::Reseed(_) | Step::SweepSeeds(_) => {
            vec![fails(C::SeedsReady), fails(C::Replicating)]
        }
        Step::TakeOver | Step::Retire(_) => vec![fails(C::LedgerOwned), fails(C::Replicating)],
        Step::CleanUp(_) | Step::LetGo | Step::Forget | Step::Cancel { reason: Reason::Stopped, .. } => vec![fails(C::CleanedUp)],
        // What is only tidied up keeps nothing from going on.
        Step::Prune(_) | Step::Hold | Step::DrawIncarnation | Step::None => Vec::new(),
        _ => vec![fails(C::Replicating)],
    }
}

/// Writes the operator's part of a cycle's status, where it says something new.
async fn write_cycle(context: &Context, seen: &Observed, cycle: &CycleSeen, mirrored: &Mirrored, outcome: &Outcome) -> Result<(), Trouble> {
    let old = cycle.object.status.clone().unwrap_or_default();
    let mut status = mirrored.status.clone();
    if let Some((of, at)) = outcome.ordered
        && mirror::id(&cycle.object) == Some(of)
    {
        status.target.get_or_insert_default().ordered = Some(seconds(at));
    }
    if status == old || !decide::is_held(cycle) {
        return Ok(());
    }
    let name = cycle.object.name_any();
    let api: Api<ReplicationCycle> = Api::namespaced(context.client.clone(), &seen.object.namespace().unwrap_or_default());
    match api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&own_part(&status))).await {
        Ok(_) => {}
        Err(kube::Error::Api(refused)) if refused.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    if status.phase != old.phase {
        edge(context, &cycle.object, &status).await;
    }
    if mirror::is_new_setback(&old, &mirrored.applied) {
        let Finding { reason, message, .. } = &mirrored.applied;
        context.event(cycle.object.as_ref(), true, *reason, "Apply", message.clone()).await;
        context.event(seen.object.as_ref(), true, *reason, "Apply", format!("{name}: {message}")).await;
    }
    Ok(())
}

/// What the operator owns of a cycle's status: the rest is the gateway's.
fn own_part(status: &ReplicationCycleStatus) -> serde_json::Value {
    let own = ReplicationCycleStatus {
        conditions: status.conditions.iter().filter(|one| one.type_ == C::Applied.as_str()).cloned().collect(),
        source: None,
        ..status.clone()
    };
    json!({ "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicationCycle", "status": own })
}

async fn edge(context: &Context, cycle: &ReplicationCycle, status: &ReplicationCycleStatus) {
    let (namespace, vm) = (cycle.namespace().unwrap_or_default(), cycle.spec.vm_ref.name.clone());
    let (warning, reason, note) = match (status.phase, &status.failure) {
        (Some(CyclePhase::Succeeded), _) => (false, Reason::CycleSucceeded, "applied and verified, and its snapshot gone".to_owned()),
        (Some(CyclePhase::Failed | CyclePhase::Cancelled), Some(failure)) => {
            (true, Reason::CycleFailed, format!("{}: {}", failure.reason, failure.message))
        }
        _ => return,
    };
    let word = status.failure.as_ref().map_or(Reason::AsExpected.as_str(), |failure| failure.reason.as_str());
    context.metrics.cycles.with_label_values(&[&namespace, &vm, word]).inc();
    context.event(cycle, warning, reason, "Cycle", note).await;
}

async fn write_status(
    context: &Context,
    api: &Api<ReplicatedVM>,
    seen: &Observed,
    status: &ReplicatedVMStatus,
    alone: bool,
) -> Result<(), Trouble> {
    let (namespace, name) = (seen.object.namespace().unwrap_or_default(), seen.object.name_any());
    let label = &[namespace.as_str(), name.as_str()];
    context.metrics.ready.with_label_values(label).set(f64::from(u8::from(conditions::is(&status.conditions, C::Ready, Status::True))));
    context.metrics.apply_failures.with_label_values(label).set(seen.setback.as_ref().map_or(0.0, |setback| f64::from(setback.tries)));
    match &seen.source {
        Ok(source) => context.metrics.snapshot(&namespace, &name, source.oldest_snapshot),
        // Its snapshots are gone with it.
        Err(trouble) if matches!(trouble.reason, Reason::VmNotFound | Reason::VmReplaced) => {
            context.metrics.snapshot(&namespace, &name, None)
        }
        Err(_) => {}
    }
    if let Some(point) = &status.recovery_point {
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
        context.metrics.recovery_point.with_label_values(label).set(point.time.0.as_second() as f64);
    }
    if seen.object.status.as_ref() == Some(status) {
        return Ok(());
    }
    let mut change = json!({ "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicatedVM", "status": status });
    if alone {
        // An incarnation is drawn on what was seen, and on nothing else.
        change["metadata"] = json!({ "resourceVersion": seen.object.resource_version() });
    }
    match api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&change)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(refused)) if refused.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Tells people of edges: what a step did, and conditions that no longer hold, or hold again.
async fn tell(context: &Context, seen: &Observed, outcome: &Outcome, status: &ReplicatedVMStatus) {
    let object = seen.object.as_ref();
    for (reason, note) in &outcome.told {
        context.event(object, false, *reason, "Replicate", note.clone()).await;
    }
    let old = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    for condition in status.conditions.iter().filter(|condition| condition.type_ != C::Ready.as_str()) {
        let before = old.iter().find(|one| one.type_ == condition.type_);
        let Some(reason) = Reason::from_word(&condition.reason) else { continue };
        let moved = before.is_none_or(|before| before.status != condition.status || before.reason != condition.reason);
        // What was wrong is told when it begins; that it is not any more, where something was.
        let worth = condition.status == "False" || condition.status == "True" && before.is_some_and(|before| before.status == "False");
        if moved && worth {
            let note = format!("{}: {}", condition.type_, condition.message);
            context.event(object, condition.status == "False", reason, "Check", note).await;
        }
    }
}

#[cfg(test)]
mod pitfalls;
#[cfg(any(test, feature = "test-support"))]
#[allow(dead_code, missing_docs, clippy::unwrap_used, reason = "only tests use it, and each of them uses a part")]
pub mod test_support;
