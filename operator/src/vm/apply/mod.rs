//! Does the one thing that was decided. Each step is safe to repeat: a crash in its midst is the next pass's beginning.
//!
//! What a step does stands with the side that it is done to: `seeds`, `cycles`, `orders`, `vcenter`, and `cleanup` where the replica goes.

mod cleanup;
mod cycles;
mod orders;
mod seeds;
mod vcenter;

use std::sync::Arc;

use blocklog::{ids::CycleId, ledger::Ledger, names as blobs, steward::Steward};
use crds::{ReplicatedVM, ReplicationCycle, conditions::Finding, names, reasons::Reason, replicated_vm::WaitingFor};
use futures::FutureExt;
use jiff::Timestamp;
use kube::{Api, ResourceExt};
use serde_json::json;
use uuid::Uuid;

use super::{model::Observed, step::Step};
use crate::{
    appliance::site::Site,
    context::Context,
    objects::{delete, edit_spec, finalizers},
    roles,
    trouble::Trouble,
};

/// What came of a step beside what the next look will see.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The incarnation that was drawn.
    pub incarnation: Option<Uuid>,
    /// The cycle whose order was written, and when.
    pub ordered: Option<(CycleId, Timestamp)>,
    /// What was found out on the way, over what was decided.
    pub findings: Vec<Finding>,
    /// What a cycle waits for that could not begin after all.
    pub waiting: Option<WaitingFor>,
    /// True where the object goes: nothing more is said of it.
    pub gone: bool,
    /// Events: each a reason and a note.
    pub events: Vec<(Reason, String)>,
}

impl Outcome {
    /// The outcome that people are told of by one event.
    fn event(reason: Reason, note: String) -> Self {
        Self { events: vec![(reason, note)], ..Self::default() }
    }
}

/// Does the step.
///
/// # Errors
/// Why it could not be done.
pub async fn apply(context: &Context, seen: &Observed, step: &Step) -> Result<Outcome, Trouble> {
    let step_context = StepContext::new(context, seen);
    // Each arm is boxed: otherwise the compiler can't see that the whole may go from thread to thread.
    match step {
        // Looking at slots is done by the pass itself, which decides anew.
        Step::None | Step::LookAtSlots => Ok(Outcome::default()),
        Step::Hold => step_context.hold().boxed().await,
        Step::DrawIncarnation => Ok(Outcome { incarnation: Some(context.entropy.uuid()), ..Outcome::default() }),
        Step::TakeOver => step_context.take_over().boxed().await,
        Step::MakeDisks(disks) => step_context.make_disks(disks).boxed().await,
        Step::CreateLedger(ready) => step_context.create_ledger(ready).boxed().await,
        Step::Reseed(ready) => step_context.reseed(ready).boxed().await,
        Step::Retire(disks) => step_context.retire(disks).boxed().await,
        Step::SweepSeeds(ids) => step_context.delete_disks(ids).boxed().await.map(|()| Outcome::default()),
        Step::SwitchTracking => step_context.switch_tracking().boxed().await,
        Step::Claim(above) => step_context.claim(*above).boxed().await,
        Step::MakeCycle { of, worker } => step_context.claimed(*of, worker.as_deref()).boxed().await,
        Step::Assign { cycle, worker } => {
            edit_spec(&step_context.cycles(), cycle, json!({ "worker": worker })).await?;
            Ok(Outcome::default())
        }
        Step::Cancel { cycles, reason } => {
            for cycle in cycles {
                edit_spec(&step_context.cycles(), cycle, json!({ "cancel": { "reason": reason.as_str() } })).await?;
            }
            Ok(Outcome::default())
        }
        Step::WriteOrder(of) => step_context.write_order(*of).boxed().await,
        Step::DropOrder => step_context.drop_order().boxed().await,
        Step::Close { cycle, order } => step_context.close(cycle, *order).boxed().await,
        Step::ReleaseSnapshots => step_context.release_snapshots().boxed().await,
        Step::CleanUp(remains) => Ok(step_context.clean_up(remains).boxed().await),
        Step::Forget => step_context.forget().boxed().await,
        Step::LetGo => step_context.let_go().boxed().await,
        Step::Prune(cycles) => {
            for cycle in cycles {
                delete(&step_context.cycles(), cycle).boxed().await?;
            }
            Ok(Outcome::default())
        }
    }
}

/// A trouble that a step has met: where Azure refuses, whether a role is missing or only new is asked there.
pub async fn understood(context: &Context, seen: &Observed, trouble: Trouble) -> Trouble {
    let Ok(site) = StepContext::new(context, seen).site() else { return trouble };
    let Ok(target) = &site.target else { return trouble };
    let group = site.group(&seen.object);
    roles::pending(&target.arm, &site.spec.azure.subscription_id, &group, trouble).await
}

/// What a step works with.
struct StepContext<'a> {
    context: &'a Context,
    seen: &'a Observed,
    namespace: String,
    name: String,
}

impl<'a> StepContext<'a> {
    fn new(context: &'a Context, seen: &'a Observed) -> Self {
        Self { context, seen, namespace: seen.object.namespace().unwrap_or_default(), name: seen.object.name_any() }
    }

    fn site(&self) -> Result<Arc<Site>, Trouble> {
        let name = &self.seen.object.spec.appliance_ref.name;
        let site = self.context.sites.get(&self.namespace, name);
        site.ok_or_else(|| Trouble::new(Reason::ApplianceNotReady, format!("the appliance {name} is looked at first")))
    }

    fn steward(&self) -> Result<Steward, Trouble> {
        self.site()?.steward().cloned()
    }

    fn vms(&self) -> Api<ReplicatedVM> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    fn cycles(&self) -> Api<ReplicationCycle> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    fn ledger(&self) -> Result<&Ledger, Trouble> {
        self.seen.ours().ok_or_else(|| Trouble::new(Reason::BlobMissing, "there is no ledger of ours"))
    }

    async fn hold(&self) -> Result<Outcome, Trouble> {
        finalizers(&self.vms(), &self.seen.object, |all| all.push(names::CLEANUP_FINALIZER.to_owned())).await?;
        Ok(Outcome::default())
    }

    async fn take_over(&self) -> Result<Outcome, Trouble> {
        let Ok(Some(ledger)) = &self.seen.ledger else { return Ok(Outcome::default()) };
        let (from, name) = (ledger.owner.clone(), blobs::ledger(ledger.vm));
        self.steward()?.take_over(&name, &self.seen.owner, self.context.clock.clone(), self.context.entropy.as_ref()).await?;
        Ok(Outcome::event(Reason::TakenOver, format!("the replica of {from} was taken over")))
    }
}
