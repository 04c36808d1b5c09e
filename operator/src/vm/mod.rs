//! ReplicatedVMs: looked at, decided, acted upon, told.

pub mod apply;
pub mod decide;
pub mod look;
pub mod model;
pub mod observe;
pub mod remains;
pub mod slots;
pub mod source;
pub mod status;
pub mod step;

use std::{sync::Arc, time::Duration};

use crds::{
    ReplicatedVM, ReplicatedVMStatus, ReplicationCycle, ReplicationCycleStatus,
    conditions::{self, ConditionType as C, Finding, Status},
    names,
    reasons::Reason,
    replication_cycle::CyclePhase,
};
use futures::FutureExt;
use kube::{Api, Resource, ResourceExt, runtime::controller::Action};

use self::{
    apply::Outcome,
    look::Pass,
    model::{CycleSeen, Observed},
    step::{Decision, Step},
};
use crate::{
    context::Context,
    cycle::mirror::{self, Mirrored},
    objects::{is_held_by, seconds, write_status},
    pass::{SOON, edges},
    reading,
    status_writes::Worth,
    trouble::Trouble,
};

/// Passes once over a ReplicatedVM.
///
/// # Errors
/// Where the apiserver does not do what it is asked.
#[tracing::instrument(skip_all, fields(namespace = object.namespace(), name = object.name_any()))]
pub async fn reconcile<K: Resource<DynamicType = ()>>(object: Arc<K>, context: Arc<Context>) -> Result<Action, Trouble> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<ReplicatedVM> = Api::namespaced(context.client.clone(), &namespace);
    // The cache may lag behind our own writes; the incarnation must be drawn once, so the object is read live.
    let object = match reading::get::<ReplicatedVM>(&context.client, &namespace, &name).await? {
        None => {
            context.metrics.forget(&namespace, &name);
            return Ok(Action::await_change());
        }
        Some(Err(unread)) => {
            reading::tell::<ReplicatedVM>(&context, &unread, C::Ready, Status::False).boxed().await?;
            context.metrics.ready.with_label_values(&[&namespace, &name]).set(0.0);
            return Ok(Action::await_change());
        }
        Some(Ok(object)) => object,
    };
    if object.metadata.deletion_timestamp.is_some() && !is_held_by(&object, names::CLEANUP_FINALIZER) {
        return Ok(Action::await_change());
    }
    // Boxed, each of them: otherwise the compiler can't see that the whole may go from thread to thread.
    let mut pass = Pass::new(observe::observe(&context, object).boxed().await?);
    let mut decision = decide::decide(&pass);
    if decision.step == Step::LookAtSlots {
        pass.seen.slots = Some(observe::slots(&context, &pass.seen.object).boxed().await?);
        decision = decide::decide(&pass);
    }
    let outcome = take(&context, &pass.seen, &mut decision).boxed().await;
    if outcome.gone {
        return Ok(Action::await_change());
    }
    for (cycle, mirrored) in pass.cycles() {
        write_cycle(&context, &pass.seen, cycle, mirrored, &outcome).boxed().await?;
    }
    let mut status = status::status(&pass, &decision);
    if let Some(incarnation) = outcome.incarnation {
        status.incarnation = Some(incarnation.to_string());
    }
    if let Worth::Later(wait) = write(&context, &api, &pass.seen, &status, outcome.incarnation.is_some()).boxed().await? {
        decision.wake = decision.wake.min(wait);
    }
    tell(&context, &pass.seen, &outcome, &status).boxed().await;
    Ok(Action::requeue(decision.wake))
}

/// Takes the step that was decided; what came of it, or kept it from being taken, is said over what was decided.
async fn take(context: &Context, seen: &Observed, decision: &mut Decision) -> Outcome {
    let step = &decision.step;
    if *step != Step::None {
        tracing::info!(
            step = step.words(),
            on = step.subject(),
            worker = step.worker(),
            reason = step.reason().map(Reason::as_str),
            "decided"
        );
    }
    let outcome = match apply::apply(context, seen, step).boxed().await {
        Ok(outcome) => outcome,
        Err(trouble) => {
            let trouble = apply::understood(context, seen, trouble).boxed().await;
            tracing::warn!(step = step.words(), on = step.subject(), reason = trouble.reason.as_str(), %trouble, "not done");
            context.metrics.errors.with_label_values(&["ReplicatedVM", trouble.reason.as_str()]).inc();
            decision.wake = trouble.again.unwrap_or(SOON).max(Duration::from_secs(1));
            Outcome { findings: not_done(step, &trouble), ..Outcome::default() }
        }
    };
    decision.findings.extend(outcome.findings.clone());
    if let Some(waiting) = outcome.waiting.clone() {
        (decision.waiting, decision.wake) = (Some(waiting), SOON);
    }
    outcome
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
        Step::Prune(_) | Step::Hold | Step::DrawIncarnation | Step::LookAtSlots | Step::None => Vec::new(),
        _ => vec![fails(C::Replicating)],
    }
}

/// Writes the operator's part of a cycle's status, where it says something new.
async fn write_cycle(context: &Context, seen: &Observed, cycle: &CycleSeen, mirrored: &Mirrored, outcome: &Outcome) -> Result<(), Trouble> {
    let old = cycle.object.status.clone().unwrap_or_default();
    let mut status = mirrored.status.clone();
    if let Some((of, at)) = outcome.ordered
        && cycle.id() == Some(of)
    {
        status.target.get_or_insert_default().ordered = Some(seconds(at));
    }
    let now = context.clock.monotonic();
    if !cycle.is_held() || context.writes.ask(cycle.object.as_ref(), Some(&old), &status, now) != Worth::Write {
        return Ok(());
    }
    let name = cycle.object.name_any();
    let api: Api<ReplicationCycle> = Api::namespaced(context.client.clone(), &seen.object.namespace().unwrap_or_default());
    if !write_status(&api, &name, &own_part(&status), None).await? {
        return Ok(());
    }
    if status.phase != old.phase {
        edge(context, &cycle.object, &status).await;
    }
    if mirror::is_new_setback(&old, &mirrored.applied) {
        let Finding { reason, message, .. } = &mirrored.applied;
        context.event(cycle.object.as_ref(), true, *reason, "Apply", message).await;
        context.event(seen.object.as_ref(), true, *reason, "Apply", &format!("{name}: {message}")).await;
    }
    Ok(())
}

/// What the operator owns of a cycle's status: the rest is the gateway's.
fn own_part(status: &ReplicationCycleStatus) -> ReplicationCycleStatus {
    ReplicationCycleStatus {
        conditions: status.conditions.iter().filter(|one| one.type_ == C::Applied.as_str()).cloned().collect(),
        source: None,
        ..status.clone()
    }
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
    context.event(cycle, warning, reason, "Cycle", &note).await;
}

/// Writes the status and its figures; `alone` where nobody may have written since it was looked at.
async fn write(
    context: &Context,
    api: &Api<ReplicatedVM>,
    seen: &Observed,
    status: &ReplicatedVMStatus,
    alone: bool,
) -> Result<Worth, Trouble> {
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
    let worth = context.writes.ask(seen.object.as_ref(), seen.object.status.as_ref(), status, context.clock.monotonic());
    if worth != Worth::Write {
        return Ok(worth);
    }
    // An incarnation is drawn on what was seen, and on nothing else.
    let on = alone.then(|| seen.object.resource_version()).flatten();
    write_status(api, &name, status, on).await?;
    Ok(worth)
}

/// Tells people what a step did, and of conditions that no longer hold, or hold again.
async fn tell(context: &Context, seen: &Observed, outcome: &Outcome, status: &ReplicatedVMStatus) {
    let object = seen.object.as_ref();
    for (reason, note) in &outcome.events {
        context.event(object, false, *reason, "Replicate", note).await;
    }
    let old = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    for edge in edges(old, &status.conditions) {
        context.event(object, edge.warning, edge.reason, "Check", &edge.note).await;
    }
}

#[cfg(test)]
mod pitfalls;
#[cfg(any(test, feature = "test-support"))]
#[allow(dead_code, missing_docs, clippy::unwrap_used, reason = "only tests use it, and each of them uses a part")]
pub mod test_support;
