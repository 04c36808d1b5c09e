//! What has changed on a disk since the last clean cycle, and what of it is in use.

use extents::ExtentSet;
use reasons::Reason;

use crate::{
    cbt::{self, FullReason, WalkError},
    classify::{Class, Doing, Verdict, classify},
    error::Error,
    moref::MoRef,
    snapshot::{
        control::{Control, Failure},
        lineage::{self, Lineage},
    },
};

/// What the last clean cycle knew of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// Its change ID.
    pub change_id: String,
    /// Its size then, where known.
    pub capacity: Option<u64>,
    /// What stayed of it, where known: [`crate::model::disk::Disk::identity`].
    pub identity: Option<String>,
    /// What that cycle's snapshot was built on, where known.
    pub lineage: Option<Lineage>,
}

/// What has changed on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// These sectors, and perhaps fewer; never more.
    Areas(ExtentSet),
    /// It can't be told.
    Unknown(FullReason),
}

impl Control {
    /// What changed on a disk between a baseline and a snapshot.
    ///
    /// # Errors
    /// [`Failure`] where asking again may help or a person has to; what makes the disk go through the cycle in full is no error.
    pub async fn changed(&self, snapshot: &MoRef, disk: u32, since: &Baseline) -> Result<Changes, Failure> {
        let (vm, view, _) = self.seen(&[]).await?;
        let devices = self.taken(snapshot, &view.tree).await?.devices;
        let Some(frozen) = devices.disk(disk) else {
            let message = format!("the snapshot holds no disk with the key {disk}: the VM's disks are read again.");
            return Err(Failure::Passing(Verdict { class: Class::Retry, reason: Reason::SourceChanged, message }));
        };
        let now = Lineage::of(snapshot, &view.tree, &devices);
        let doubt = if since.lineage.as_ref().is_some_and(|before| lineage::reverted(before, &now, &view.tree)) {
            Err(FullReason::Reverted)
        } else if since.capacity.is_some_and(|capacity| capacity != frozen.capacity) {
            Err(FullReason::Resized)
        } else if since.identity.as_deref().zip(frozen.identity()).is_some_and(|(then, now)| then != now) {
            Err(FullReason::Replaced)
        } else {
            let rooted = if since.lineage.as_ref().is_some_and(Lineage::can_be_left) { Err(FullReason::ForeignSnapshot) } else { Ok(()) };
            cbt::comparable(&since.change_id, frozen.backing.change_id.as_deref()).and(rooted)
        };
        if let Err(reason) = doubt {
            return Ok(Changes::Unknown(reason));
        }
        let mut attempts = 0;
        loop {
            let error = match self.walk(&vm, snapshot, disk, &since.change_id, frozen.capacity).await {
                Ok(areas) => return Ok(Changes::Areas(areas)),
                Err(Asked::Odd(error)) => {
                    tracing::warn!(%error, disk, "the host's list of changes");
                    return Ok(Changes::Unknown(FullReason::CbtAnswerOdd));
                }
                Err(Asked::Failed(error)) => error,
            };
            let verdict = classify(&error, Doing::AskingChanges);
            match verdict.class {
                Class::Full(reason) => return Ok(Changes::Unknown(reason)),
                Class::Retry if verdict.reason == Reason::TaskFailed && attempts >= self.tries() => {
                    return Ok(Changes::Unknown(FullReason::CbtFails));
                }
                Class::Retry if verdict.reason == Reason::TaskFailed => {
                    self.pause(verdict.reason, verdict.message, &mut attempts).await;
                }
                // What lasts longer ends the run, and is waited for between runs: meanwhile the snapshot does not keep its session.
                Class::Wait if matches!(verdict.reason, Reason::SourceBusy | Reason::HostUnavailable) && attempts < self.tries() => {
                    self.pause(verdict.reason, verdict.message, &mut attempts).await;
                }
                Class::Retry | Class::Wait | Class::Block => return Err(Failure::by(verdict)),
            }
        }
    }

    /// The allocated areas of a disk of a snapshot: a hint only (it works best on VMFS). None where the host does not tell: all may be in use.
    pub async fn allocated(&self, snapshot: &MoRef, disk: u32, capacity: u64) -> Option<ExtentSet> {
        let vm = self.vm().await.ok()?;
        match self.walk(&vm, snapshot, disk, cbt::ALLOCATED, capacity).await {
            Ok(areas) => Some(areas),
            Err(error) => {
                tracing::debug!(%error, disk, "the host does not tell what is allocated");
                None
            }
        }
    }

    async fn walk(&self, vm: &MoRef, snapshot: &MoRef, disk: u32, since: &str, capacity: u64) -> Result<ExtentSet, Asked> {
        // Not by `cbt::walk`: of a closure that borrows, the compiler can't tell that its future may change threads.
        let mut walk = cbt::Walk::new(capacity);
        while let Some(at) = walk.next() {
            walk.take(&self.client().changed_areas(vm, Some(snapshot), disk, at, since).await?)?;
        }
        Ok(walk.finish())
    }
}

#[derive(Debug, thiserror::Error)]
enum Asked {
    #[error(transparent)]
    Odd(#[from] WalkError),
    #[error(transparent)]
    Failed(#[from] Error),
}
