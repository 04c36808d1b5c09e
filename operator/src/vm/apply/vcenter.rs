//! What a step has done at vCenter.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use blocklog::ids::Owner;
use crds::reasons::Reason;
use vsphere::{
    snapshot::{
        Note, Owning,
        control::{Control, Settings},
    },
    tracking,
};

use super::{Outcome, StepContext};
use crate::trouble::Trouble;

/// How long a pass waits for what vCenter does.
const AT_VCENTER: Duration = Duration::from_secs(30);

impl StepContext<'_> {
    /// Has something done at the VM. What lasts longer than a pass may goes on at vCenter, and the next pass takes it up where it stands: so
    /// it is told what is waited for, and a person is heard.
    async fn at_vcenter<T, F>(&self, owner: &Owner, what: &str, work: impl FnOnce(Control) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>> + Send,
    {
        let last = Arc::new(Mutex::new(None));
        let control = self.control(owner.clone(), last.clone())?;
        tokio::select! {
            biased;
            result = work(control) => result,
            () = self.context.clock.sleep(AT_VCENTER) => {
                let told = last.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(told.unwrap_or_else(|| Trouble::new(Reason::SourceBusy, format!("vCenter is still at it: {what}"))))
            }
        }
    }

    /// Of the snapshots of `owner`; `last` is what it waits for.
    fn control(&self, owner: Owner, last: Arc<Mutex<Option<Trouble>>>) -> Result<Control, Trouble> {
        let site = self.site()?;
        let vcenter = site.vcenter.as_ref().map_err(Clone::clone)?;
        let source = self.seen.source.as_ref().map_err(Clone::clone)?;
        let owning = Owning { owner, vm: source.id };
        let notes = Arc::new(move |note| {
            tracing::info!(?note, "vCenter");
            *last.lock().unwrap_or_else(PoisonError::into_inner) = match note {
                Note::Waiting { reason, message, .. } => Some(Trouble::new(reason, message)),
                _ => None,
            };
        });
        Ok(Control::new(vcenter.client.clone(), owning, Settings::default(), notes))
    }

    pub(super) async fn switch_tracking(&self) -> Result<Outcome, Trouble> {
        let incarnation = self.ledger()?.incarnation;
        let switched = self.at_vcenter(&self.seen.owner, "change tracking is being switched on", |control| async move {
            Ok(control.switch_tracking_on(incarnation).await?)
        });
        match switched.await? {
            tracking::Step::Unable(message) => Err(Trouble::new(Reason::ChangeTrackingOff, message)),
            _ => Ok(Outcome::default()),
        }
    }

    pub(super) async fn release_snapshots(&self) -> Result<Outcome, Trouble> {
        // Those of the owner before are ours to remove once his replica is.
        let former = self.seen.source.as_ref().ok().and_then(|source| source.left_by.as_ref()).filter(|_| self.seen.ours().is_some());
        let mut events = Vec::new();
        for owner in [Some(&self.seen.owner), former].into_iter().flatten() {
            let removed = self.at_vcenter(owner, "a snapshot is being removed", |control| async move {
                let mut removed = Vec::new();
                for found in control.find().await? {
                    control.release(&found.snapshot).await?;
                    removed.push((Reason::SnapshotSwept, format!("the snapshot {} of {} was removed", found.name, found.mark)));
                }
                // One that went before may have left disks to consolidate.
                control.settle().await?;
                Ok(removed)
            });
            events.extend(removed.await?);
        }
        Ok(Outcome { events, ..Outcome::default() })
    }
}
