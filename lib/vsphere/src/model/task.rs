//! Tasks.

use jiff::Timestamp;

use crate::{error::Error, fault::Fault, model::read::Read, moref::MoRef, xml::Element};

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    /// It waits for its turn.
    Queued,
    /// It runs; how far, in percent, if the server tells.
    Running(Option<u8>),
    /// It is done; what it has made, if that is an object.
    Success(Option<MoRef>),
    /// It came to nothing.
    Error(Box<Fault>),
}

/// What a task does to a VM, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It takes a snapshot.
    TakesSnapshot,
    /// It removes one, or all.
    RemovesSnapshot,
    /// It takes the VM back to one.
    Reverts,
    /// It merges what removed ones have left.
    Consolidates,
    /// It moves the VM, or its disks.
    Moves,
    /// It starts the VM.
    PowersOn,
    /// Anything else.
    Other,
}

impl Work {
    /// From a task's `name` (`RemoveSnapshot_Task`; the simulator leaves `_Task` out) and `descriptionId` (`vm.Snapshot.remove`).
    #[must_use]
    pub fn of(name: &str, description_id: &str) -> Self {
        let name = name.rsplit('.').next().unwrap_or(name);
        let name = name.strip_suffix("_Task").or_else(|| name.strip_suffix("Task")).unwrap_or(name).trim_end_matches('_');
        let id = description_id.strip_prefix("vim.").unwrap_or(description_id);
        match (name.to_ascii_lowercase().as_str(), id) {
            ("createsnapshot" | "createsnapshotex", _) | (_, "VirtualMachine.createSnapshot" | "VirtualMachine.createSnapshotEx") => {
                Self::TakesSnapshot
            }
            ("removesnapshot" | "removeallsnapshots", _)
            | (_, "vm.Snapshot.remove" | "VirtualMachineSnapshot.remove" | "VirtualMachine.removeAllSnapshots") => Self::RemovesSnapshot,
            ("reverttosnapshot" | "reverttocurrentsnapshot", _)
            | (_, "vm.Snapshot.revert" | "VirtualMachineSnapshot.revert" | "VirtualMachine.revertToCurrentSnapshot") => Self::Reverts,
            ("consolidatevmdisks", _) | (_, "VirtualMachine.consolidateDisks") => Self::Consolidates,
            ("relocatevm" | "migratevm", _) | (_, "VirtualMachine.relocate" | "VirtualMachine.migrate" | "Drm.ExecuteVMotionLRO") => {
                Self::Moves
            }
            ("poweronvm", _) | (_, "VirtualMachine.powerOn" | "Drm.ExecuteVmPowerOnLRO") => Self::PowersOn,
            _ => Self::Other,
        }
    }
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// It.
    pub task: MoRef,
    /// The object that it works on.
    pub entity: Option<MoRef>,
    /// What it does, in vCenter's words.
    pub name: String,
    /// What it does.
    pub work: Work,
    /// How far it is.
    pub state: TaskState,
    /// Who started it, where it is known: a user, or a scheduled task's name.
    pub by: Option<String>,
    /// When it was asked for.
    pub queued: Option<Timestamp>,
}

impl Task {
    /// True while it waits or runs.
    #[must_use]
    pub fn open(&self) -> bool {
        matches!(self.state, TaskState::Queued | TaskState::Running(_))
    }

    /// From the property `info` of a task.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn read(info: &Element) -> Result<Self, Error> {
        let read = Read::of("TaskInfo", info);
        let state = match read.text("state")? {
            "queued" => TaskState::Queued,
            "running" => {
                let percent = read.optional_i64("progress")?.map(|percent| percent.clamp(0, 100));
                TaskState::Running(percent.and_then(|percent| u8::try_from(percent).ok()))
            }
            "success" => TaskState::Success(info.child("result").and_then(MoRef::read)),
            "error" => {
                let fault = info.child("error").map_or_else(|| Fault::of("MethodFault"), Fault::from_localized);
                TaskState::Error(Box::new(fault))
            }
            other => return Err(Error::answer("TaskInfo", format!("its state is {other:?}"))),
        };
        let (name, id) = (read.optional_text("name").unwrap_or_default(), read.optional_text("descriptionId").unwrap_or_default());
        let reason = read.optional_object("reason");
        let by = reason.and_then(|reason| reason.optional_text("userName").or_else(|| reason.optional_text("name")));
        Ok(Self {
            task: read.reference("task").or_else(|_| Ok::<_, Error>(MoRef::task(read.text("key")?)))?,
            entity: read.reference("entity").ok(),
            name: if name.is_empty() { id.to_owned() } else { name.to_owned() },
            work: Work::of(name, id),
            state,
            by: by.filter(|by| !by.is_empty()).map(str::to_owned),
            queued: read.time("queueTime").ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_task_does_is_known_by_name_or_description() {
        for (name, id, work) in [
            ("CreateSnapshotEx_Task", "VirtualMachine.createSnapshotEx", Work::TakesSnapshot),
            ("CreateSnapshotEx", "", Work::TakesSnapshot),
            ("", "VirtualMachine.createSnapshot", Work::TakesSnapshot),
            ("RemoveSnapshot_Task", "vm.Snapshot.remove", Work::RemovesSnapshot),
            ("RemoveSnapshot", "VirtualMachineSnapshot.remove", Work::RemovesSnapshot),
            ("", "VirtualMachine.removeAllSnapshots", Work::RemovesSnapshot),
            ("vim.vm.Snapshot.RevertToSnapshot_Task", "", Work::Reverts),
            ("RevertToCurrentSnapshot_Task", "VirtualMachine.revertToCurrentSnapshot", Work::Reverts),
            ("ConsolidateVMDisks_Task", "VirtualMachine.consolidateDisks", Work::Consolidates),
            ("RelocateVM_Task", "VirtualMachine.relocate", Work::Moves),
            ("PowerOnVM_Task", "VirtualMachine.powerOn", Work::PowersOn),
            ("", "Drm.ExecuteVmPowerOnLRO", Work::PowersOn),
            ("PowerOffVM_Task", "VirtualMachine.powerOff", Work::Other),
        ] {
            assert_eq!(Work::of(name, id), work, "{name} {id}");
        }
    }
}
