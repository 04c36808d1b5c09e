//! What a step does to cycles: claimed in the log, made and closed as objects.

use blocklog::{
    cycle::State,
    document,
    ids::{Cycle, CycleId},
    ledger::Ledger,
    names as blobs,
};
use crds::{
    ReplicationCycle, ReplicationCycleSpec,
    common::ObjectRef,
    names,
    reasons::Reason,
    replication_cycle::{Allotment, CycleDisk, CycleVm, LedgerOwner},
};
use kube::{Resource, ResourceExt, api::PostParams};

use super::{Outcome, StepContext};
use crate::{
    admission::Limits,
    cycle::{SYNC_NOW, mirror},
    objects::{bytes, cycle_id, delete, finalizers},
    reading,
    trouble::Trouble,
    vm::{model::Slots, observe, slots::lacks_slots},
};

impl StepContext<'_> {
    /// Claims a number and makes its object, while nobody else admits a cycle: the object is what the next one counts.
    pub(super) async fn claim(&self, above: Cycle) -> Result<Outcome, Trouble> {
        let _alone = self.context.admission.lock().await;
        let slots = observe::slots(self.context, &self.seen.object).await?;
        if let Some(refused) = self.refused(&slots) {
            return Ok(refused);
        }
        let of = self.steward()?.claim(self.ledger()?, &self.seen.owner, above).await?;
        let worker = self.seen.free_gateway().map(|free| free.name.clone());
        self.make_cycle(of, worker.as_deref(), slots.limits).await
    }

    /// Makes the object of a cycle that was claimed before.
    pub(super) async fn claimed(&self, of: CycleId, worker: Option<&str>) -> Result<Outcome, Trouble> {
        if !self.seen.only_claimed() {
            let limits = self.seen.slots.as_ref().map(|slots| slots.limits).unwrap_or_default();
            return self.make_cycle(of, worker, limits).await;
        }
        let _alone = self.context.admission.lock().await;
        let slots = observe::slots(self.context, &self.seen.object).await?;
        match self.refused(&slots) {
            Some(refused) => Ok(refused),
            None => self.make_cycle(of, worker, slots.limits).await,
        }
    }

    /// What is said where another one was admitted since it was decided that this one may be. Its place in the queue was looked at then.
    pub(super) fn refused(&self, slots: &Slots) -> Option<Outcome> {
        let (finding, waiting) = lacks_slots(self.seen, &slots.before_all(), self.seen.now)?;
        Some(Outcome { findings: vec![finding], waiting: Some(waiting), ..Outcome::default() })
    }

    pub(super) async fn make_cycle(&self, of: CycleId, worker: Option<&str>, limits: Limits) -> Result<Outcome, Trouble> {
        let (steward, ledger) = (self.steward()?, self.ledger()?);
        let (state, _) = document::require::<State>(steward.store.as_ref(), &steward.keys, &blobs::state(of)).await?;
        let object = self.cycle_object(ledger, &state, worker, limits)?;
        let (api, name) = (self.cycles(), object.name_any());
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {
                let note = format!("{name}: {}, {} disks", object.spec.kind.as_str(), object.spec.disks.len());
                Ok(Outcome::event(Reason::CycleStarted, note))
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                match reading::get::<ReplicationCycle>(&self.context.client, &self.namespace, &name).await? {
                    // One of another start of replication is history.
                    Some(Ok(old)) if cycle_id(&old) != Some(of) => {
                        finalizers(&api, &old, |all| all.retain(|one| one != names::SNAPSHOT_FINALIZER)).await?;
                        delete(&api, &name).await?;
                    }
                    Some(Err(unread)) if reading::is_open(&unread) => return Err(unread.as_ref().into()),
                    Some(Err(_)) => delete(&api, &name).await?,
                    Some(Ok(_)) | None => {}
                }
                Ok(Outcome::default())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn cycle_object(
        &self,
        ledger: &Ledger,
        state: &State,
        worker: Option<&str>,
        limits: Limits,
    ) -> Result<ReplicationCycle, Trouble> {
        let (object, of) = (&self.seen.object, state.of);
        let mo_ref = match &self.seen.source {
            Ok(source) => source.mo_ref.clone(),
            Err(_) => object.status.as_ref().and_then(|status| status.vm.as_ref()).map(|vm| vm.mo_ref.clone()).unwrap_or_default(),
        };
        let disks: Vec<CycleDisk> = ledger
            .seeds
            .iter()
            .map(|(key, seed)| CycleDisk { key: i64::from(key.0), capacity_bytes: bytes(seed.capacity), mode: None })
            .collect();
        let allotment = Allotment { disks: i32::try_from(limits.at_a_time(disks.len())).unwrap_or(i32::MAX).min(Allotment::MOST_DISKS) };
        let number = bytes(of.cycle.0);
        let done = ledger.tokens.get(SYNC_NOW);
        let spec = ReplicationCycleSpec {
            vm_ref: ObjectRef { name: self.name.clone() },
            appliance_ref: object.spec.appliance_ref.clone(),
            cycle: number,
            incarnation: of.incarnation.0.to_string(),
            owner: LedgerOwner { cluster: self.seen.owner.cluster.clone(), object: self.seen.owner.object.clone() },
            vm: CycleVm { vcenter_uuid: of.vm.vcenter.to_string(), instance_uuid: of.vm.instance.to_string(), mo_ref },
            kind: mirror::kind(ledger),
            basis: bytes(state.basis.0),
            disks,
            quiesce: object.spec.snapshot.quiesce,
            sync_now: object.spec.sync_now.clone().filter(|token| Some(token) != done),
            worker: worker.map(str::to_owned),
            allotment,
            cancel: None,
        };
        let mut cycle = ReplicationCycle::new(&names::cycle(&self.name, number), spec);
        let meta = &mut cycle.metadata;
        meta.namespace = Some(self.namespace.clone());
        meta.finalizers = Some(vec![names::SNAPSHOT_FINALIZER.to_owned()]);
        let labels = [(names::VM_LABEL, &self.name), (names::APPLIANCE_LABEL, &object.spec.appliance_ref.name)];
        meta.labels = Some(labels.map(|(label, value)| (label.to_owned(), value.clone())).into());
        let owner = object.controller_owner_ref(&());
        meta.owner_references = Some(vec![owner.ok_or_else(|| Trouble::new(Reason::NotChecked, "the object has no UID"))?]);
        Ok(cycle)
    }

    /// The finalizer goes last: until then the next pass does all of it again.
    pub(super) async fn close(&self, name: &str, order: bool) -> Result<Outcome, Trouble> {
        if order {
            self.drop_order().await?;
        }
        // A log that can't be cleaned up now is so after the next cycle.
        // One whose replica is another's by now has none to clean up.
        if let Some(ledger) = self.seen.ours()
            && let Err(error) = self.steward()?.clean_up(ledger).await
        {
            tracing::warn!(%error, cycle = name, "not everything that is done with could be deleted");
        }
        self.unhold(name).await?;
        Ok(Outcome::default())
    }

    pub(super) async fn unhold(&self, name: &str) -> Result<(), Trouble> {
        let cycle = self.seen.cycles.iter().find(|cycle| cycle.object.name_any() == name);
        if let Some(cycle) = cycle {
            finalizers(&self.cycles(), &cycle.object, |all| all.retain(|one| one != names::SNAPSHOT_FINALIZER)).await?;
        }
        Ok(())
    }
}
