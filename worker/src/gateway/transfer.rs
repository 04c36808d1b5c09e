//! Reads and uploads what is missing of a cycle, all disks side by side.

use blocklog::{
    cycle::{Snapshot, State},
    held::Held,
    ids::{CycleId, Epoch},
    keys::Secret,
    ledger::Ledger,
    segment::MAX_SEGMENT,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{Areas, GatewayError, Kept, keeper::Keeper, plan, plan::DiskPlan, resume, upload};
use crate::{
    env::{Env, Limits},
    patience::renewing,
    snapshot::SnapshotControl,
};

/// How the reading of a snapshot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Every disk was read, from a snapshot that stood.
    Complete,
    /// The snapshot is gone, or what changed since the last one can't be told any more.
    SnapshotLost,
}

/// What the transfers of all disks share.
pub(super) struct Transfer<'a> {
    pub(super) env: &'a Env,
    pub(super) control: &'a dyn SnapshotControl,
    pub(super) snapshot: &'a Snapshot,
    pub(super) of: CycleId,
    pub(super) epoch: Epoch,
    pub(super) key: &'a Secret,
}

/// `env`, with segments so large that a cycle has at most a million of them, whatever the size of its disks: the manifest names each, and has to
/// stay readable.
pub(super) fn sized_for(env: &Env, ledger: &Ledger) -> Env {
    let total: u64 = ledger.seeds.values().map(|seed| seed.capacity).sum();
    let segment = env.limits.segment.max(total >> 20).min(MAX_SEGMENT);
    Env { limits: Limits { segment, ..env.limits }, ..env.clone() }
}

impl Transfer<'_> {
    /// Transfers until everything is recorded or the snapshot is found to be gone. `areas` are the changes that are known already, `done` is what
    /// predecessors have sent; returns what is durable in the end.
    pub(super) async fn run(
        &self,
        ledger: &Ledger,
        held: &mut Held<State>,
        areas: Areas,
        done: Kept,
    ) -> Result<(Kept, Reading), GatewayError> {
        let Some(plans) = self.plans(ledger, held, areas, &done).await? else { return Ok((done, Reading::SnapshotLost)) };
        let (sender, receiver) = mpsc::channel(plans.len().max(1) * 2);
        let mut keeper = Keeper::new(self, held, done, receiver);
        let mut waiting = plans.into_iter();
        let start = |(plan, fresh): (DiskPlan, bool)| upload::disk(self, plan, fresh, sender.clone());
        let mut running: FuturesUnordered<_> = waiting.by_ref().take(self.env.limits.disks.max(1)).map(start).collect();
        let transfers = async {
            while let Some(result) = running.next().await {
                result?;
                running.extend(waiting.by_ref().next().map(start));
            }
            Ok::<(), GatewayError>(())
        };
        // The keeper ends when every disk is recorded, or the snapshot is gone, or the lease is lost. The transfers end first only by an error.
        let reading = tokio::select! {
            biased;
            reading = keeper.run() => reading?,
            Err(error) = transfers => {
                // The usual reason why a source stops answering is that its snapshot is gone.
                if matches!(error, GatewayError::Source { .. }) && !keeper.stands().await? { Reading::SnapshotLost } else { return Err(error) }
            }
        };
        Ok((keeper.into_kept(), reading))
    }

    /// The plan of each disk that is not read, and whether nobody has sent any of it; none where the changes that a disk began with can't be told
    /// any more.
    async fn plans(
        &self,
        ledger: &Ledger,
        held: &mut Held<State>,
        mut areas: Areas,
        done: &Kept,
    ) -> Result<Option<Vec<(DiskPlan, bool)>>, GatewayError> {
        let open: Vec<_> =
            held.value().disks.iter().filter(|(_, progress)| !progress.read).map(|(disk, progress)| (*disk, progress.mode)).collect();
        let mut plans = Vec::new();
        for (disk, mode) in open {
            let covered = done.get(&disk).map(|counted| resume::extents(counted)).unwrap_or_default();
            let fresh = held.value().disks[&disk].runs.iter().all(|run| run.durable == 0);
            let plan = plan::disk(self, ledger, disk, mode, areas.remove(&disk), covered);
            match renewing(self.env, held, plan).await?? {
                Some(plan) => plans.push((plan, fresh)),
                None => return Ok(None),
            }
        }
        Ok(Some(plans))
    }
}
