//! What is done to a VM and its snapshots.

use std::time::Duration;

use crate::{
    cbt::Page,
    error::Error,
    methods::{reference, value},
    model::read::Read,
    moref::MoRef,
    session::{Call, Client},
};

/// vCenter asks the host, which reads its tracking files.
const PATIENCE_FOR_CHANGES: Duration = Duration::from_secs(300);

/// How the guest is brought to rest before a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiesce {
    /// How long the guest may take; the API allows 5 to 240 minutes.
    pub minutes: u8,
}

/// Takes a snapshot. Never with memory: it would be large, and nobody reads it.
#[must_use]
pub fn create_snapshot_ex(vm: &MoRef, name: &str, description: &str, quiesce: Option<Quiesce>) -> Call {
    Call::new("CreateSnapshotEx_Task", vm, |w| {
        w.text("name", name);
        w.text("description", description);
        w.flag("memory", false);
        if let Some(Quiesce { minutes }) = quiesce {
            w.object("quiesceSpec", Some("VirtualMachineGuestQuiesceSpec"), |w| w.number("timeout", i64::from(minutes.clamp(5, 240))));
        }
    })
}

/// Removes one snapshot, none below it, and lets the host merge its disks.
#[must_use]
pub fn remove_snapshot(snapshot: &MoRef) -> Call {
    Call::new("RemoveSnapshot_Task", snapshot, |w| {
        w.flag("removeChildren", false);
        w.flag("consolidate", true);
    })
}

/// Merges what removed snapshots have left.
#[must_use]
pub fn consolidate_disks(vm: &MoRef) -> Call {
    Call::new("ConsolidateVMDisks_Task", vm, |_| {})
}

/// Switches changed block tracking on or off. It takes effect when the VM is next stunned.
#[must_use]
pub fn reconfigure_tracking(vm: &MoRef, on: bool) -> Call {
    Call::new("ReconfigVM_Task", vm, |w| w.object("spec", None, |w| w.flag("changeTrackingEnabled", on)))
}

/// Asks what has changed on a disk between `change_id` and a snapshot, from an offset on. Without a snapshot: until now, which is sound only
/// while the VM is powered off.
#[must_use]
pub fn query_changed_disk_areas(vm: &MoRef, snapshot: Option<&MoRef>, disk: u32, start: u64, change_id: &str) -> Call {
    let call = Call::new("QueryChangedDiskAreas", vm, |w| {
        if let Some(snapshot) = snapshot {
            w.reference("snapshot", snapshot);
        }
        w.number("deviceKey", i64::from(disk));
        w.text("startOffset", &start.to_string());
        w.text("changeId", change_id);
    });
    call.patience(PATIENCE_FOR_CHANGES)
}

/// Asks a task to stop.
#[must_use]
pub fn cancel_task(task: &MoRef) -> Call {
    Call::new("CancelTask", task, |_| {})
}

/// Asks the guest to shut down.
#[must_use]
pub fn shutdown_guest(vm: &MoRef) -> Call {
    Call::new("ShutdownGuest", vm, |_| {})
}

/// Switches a VM off.
#[must_use]
pub fn power_off(vm: &MoRef) -> Call {
    Call::new("PowerOffVM_Task", vm, |_| {})
}

/// Switches a VM on.
#[must_use]
pub fn power_on(vm: &MoRef) -> Call {
    Call::new("PowerOnVM_Task", vm, |_| {})
}

impl Client {
    /// Makes a call that starts a task.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn start(&self, call: &Call) -> Result<MoRef, Error> {
        reference(call.method, &self.call(call).await?)
    }

    /// Makes a call that answers nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tell(&self, call: &Call) -> Result<(), Error> {
        self.call(call).await.map(drop)
    }

    /// One page of what has changed.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn changed_areas(&self, vm: &MoRef, snapshot: Option<&MoRef>, disk: u32, start: u64, change_id: &str) -> Result<Page, Error> {
        let call = query_changed_disk_areas(vm, snapshot, disk, start, change_id);
        let answer = self.call(&call).await?;
        let info = Read::of(call.method, value(call.method, &answer)?);
        let areas = info.objects("changedArea").map(|area| Ok((area.i64("start")?, area.i64("length")?))).collect::<Result<_, Error>>()?;
        Ok(Page { start: info.i64("startOffset")?, length: info.i64("length")?, areas })
    }
}
