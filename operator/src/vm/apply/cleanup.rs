//! What a step does to a replica that goes.

use blocklog::names as blobs;
use crds::{ReplicationCycle, names, reasons::Reason};
use kube::ResourceExt;

use super::{Outcome, StepContext};
use crate::{
    objects::{delete, finalizers},
    reading,
    trouble::Trouble,
    vm::{remains, step::Remains},
};

impl StepContext<'_> {
    /// All that can be reached. What can't is named, and keeps nothing else.
    pub(super) async fn clean_up(&self, remains: &[Remains]) -> Outcome {
        // What can't even be looked at is named beside what could not be removed.
        let (_, mut left) = remains::look(self.seen);
        let (mut events, mut unsure) = (Vec::new(), false);
        for remain in remains {
            // As long as it stands, they are asked for again.
            if *remain == Remains::Ledger && unsure {
                continue;
            }
            let (reason, what, result) = match remain {
                Remains::Snapshots => {
                    let result = self.release_snapshots().await.map(|outcome| events.extend(outcome.events));
                    (Reason::SnapshotLeft, "snapshots".to_owned(), result)
                }
                Remains::Order => (Reason::LogLeft, "the order".to_owned(), self.drop_order().await.map(drop)),
                Remains::Seeds(ids) => {
                    let names: Vec<&str> = ids.iter().map(|id| id.name.as_str()).collect();
                    (Reason::SeedsLeft, format!("the seed disks {}", names.join(", ")), self.delete_disks(ids).await)
                }
                Remains::Log => (Reason::LogLeft, "the log".to_owned(), self.delete_blobs(false).await),
                Remains::Ledger => (Reason::LogLeft, "the ledger".to_owned(), self.delete_blobs(true).await),
            };
            if let Err(trouble) = result {
                unsure |= *remain == Remains::Snapshots;
                left.push((reason, format!("{what}: {}", trouble.message)));
            }
        }
        let findings = remains::not_removed(&left, self.seen.deleting()).into_iter().collect();
        Outcome { findings, events, ..Outcome::default() }
    }

    pub(super) async fn delete_blobs(&self, ledger: bool) -> Result<(), Trouble> {
        let (steward, vm) = (self.steward()?, self.ledger()?.vm);
        let name = blobs::ledger(vm);
        if ledger {
            steward.store.delete(&name, None).await?;
            return Ok(());
        }
        for blob in steward.store.list(&blobs::vm(vm)).await?.iter().filter(|blob| blob.name != name) {
            steward.store.delete(&blob.name, None).await?;
        }
        Ok(())
    }

    /// Stopped: what is told of the old replica goes with it.
    pub(super) async fn forget(&self) -> Result<Outcome, Trouble> {
        for cycle in &self.seen.cycles {
            let name = cycle.object.name_any();
            self.unhold(&name).await?;
            delete(&self.cycles(), &name).await?;
        }
        for cycle in &self.seen.unreadable {
            reading::let_go::<ReplicationCycle>(&self.context.client, cycle, names::SNAPSHOT_FINALIZER).await?;
            delete(&self.cycles(), cycle.name()).await?;
        }
        self.context.metrics.forget(&self.namespace, &self.name);
        Ok(Outcome::default())
    }

    pub(super) async fn let_go(&self) -> Result<Outcome, Trouble> {
        for cycle in &self.seen.cycles {
            self.unhold(&cycle.object.name_any()).await?;
        }
        // Cycles are only looked at through their VM: nobody else would let them go.
        for cycle in &self.seen.unreadable {
            reading::let_go::<ReplicationCycle>(&self.context.client, cycle, names::SNAPSHOT_FINALIZER).await?;
        }
        finalizers(&self.vms(), &self.seen.object, |all| all.retain(|one| one != names::CLEANUP_FINALIZER)).await?;
        self.context.metrics.forget(&self.namespace, &self.name);
        Ok(Outcome { gone: true, ..Outcome::default() })
    }
}
