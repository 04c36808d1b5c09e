//! Switching changed block tracking on.
//!
//! Switched on is not active: the host begins to track when the VM is next stunned, so a snapshot is taken and removed at once. And disks that
//! have snapshots from before stay without tracking until these are gone.

use blocklog::ids::{Cycle, CycleId, Incarnation};

use crate::{
    classify::{Class, Doing, of_fault},
    error::Error,
    methods::vm as methods,
    model::{
        disk::{BackingKind, DiskMode},
        vm::Vm,
    },
    snapshot::{
        Mark, Owning,
        control::{Control, Failure},
        take::Policy,
    },
    tasks::Outcome,
};

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Changes of all disks that can be tracked are.
    Active,
    /// Switch it on.
    Switch,
    /// Stun the VM, so that it takes effect.
    Stun,
    /// It is on, and the VM was stunned, but these disks have no change ID: they are read in full until they have.
    Partly(Vec<u32>),
    /// It can't be switched on: the sentence says why.
    Unable(String),
}

/// What to do next. `stunned`: that has been done already.
#[must_use]
pub fn next(vm: &Vm, owning: &Owning, stunned: bool) -> Step {
    if vm.tracking_supported == Some(false) {
        return Step::Unable("vCenter says that changes of this VM can't be tracked".into());
    }
    let foreign = vm.snapshots.nodes.iter().find(|node| owning.owns(node).is_none());
    let trackable = vm.disks().iter().filter(|disk| {
        let kind = matches!(disk.backing.kind, BackingKind::Flat | BackingKind::SeSparse | BackingKind::Sparse | BackingKind::RdmVirtual);
        kind && disk.backing.mode == DiskMode::Persistent
    });
    let untracked: Vec<u32> = trackable.filter(|disk| disk.backing.change_id.is_none()).map(|disk| disk.key).collect();
    match (vm.tracking, foreign) {
        (true, _) if untracked.is_empty() => Step::Active,
        (_, Some(node)) => {
            Step::Unable(format!("changed block tracking does not begin to work while the snapshot {:?} stands: remove it", node.name))
        }
        (false, None) => Step::Switch,
        (true, None) if stunned => Step::Partly(untracked),
        (true, None) => Step::Stun,
    }
}

impl Control {
    /// Switches tracking on and makes it work. The snapshot of the stun is an own one of cycle 0, so that one that is left by a worker's death
    /// is found and removed like any other.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn switch_tracking_on(&self, incarnation: Incarnation) -> Result<Step, Failure> {
        let fail = |error: Error| Failure::of(&error, Doing::SwitchingTracking);
        let (mut stunned, mut attempts) = (false, 0);
        loop {
            let reference = self.vm().await?;
            let content = self.client().read(&reference, Vm::PATHS).await.map_err(fail)?;
            let mut vm = Vm::default();
            for path in Vm::PATHS {
                vm.set(path, content.property(path));
            }
            if vm.devices.is_none() || vm.unread.contains_key("snapshot") {
                return Err(fail(Error::answer("RetrievePropertiesEx", "the VM's disks or snapshots are not told")));
            }
            match next(&vm, self.owning(), stunned) {
                Step::Switch => {
                    let outcome = match self.client().start(&methods::reconfigure_tracking(&reference, true)).await {
                        Ok(task) => self.wait(&task, Doing::SwitchingTracking).await?,
                        Err(Error::Fault { fault, .. }) => Outcome::Failed(fault),
                        Err(error) => return Err(fail(error)),
                    };
                    if let Outcome::Failed(fault) = outcome {
                        let verdict = of_fault(&fault, Doing::SwitchingTracking);
                        if verdict.class != Class::Wait {
                            return Err(Failure::by(verdict));
                        }
                        self.pause(verdict.reason, verdict.message, &mut attempts).await;
                    }
                }
                Step::Stun => {
                    let of = CycleId { vm: self.owning().vm, incarnation, cycle: Cycle(0) };
                    let mark = Mark { owner: self.owning().owner.clone(), of };
                    let taken = self.take_with(&mark, Policy::Never).await?;
                    self.release(&taken.snapshot).await?;
                    stunned = true;
                }
                step => return Ok(step),
            }
        }
    }
}
