//! Does the one thing that was decided. Each step is safe to repeat: a crash in its midst is the next pass's beginning.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use azure::{
    ArmError, ResourceId,
    disks::{Access, UploadDisk},
};
use blocklog::{
    cycle::{Manifest, Order, OrderSeed, State},
    document,
    held::Held,
    ids::{Cycle, CycleId, DiskKey, Incarnation},
    keys::KeyRing,
    ledger::{Ledger, Seed},
    names as blobs,
    steward::Steward,
    store::{LeaseId, StoreError, When},
};
use crds::{
    Appliance, ReplicatedVM, ReplicationCycle, ReplicationCycleSpec,
    common::ObjectRef,
    conditions::Finding,
    names,
    reasons::Reason,
    replicated_vm::{WaitingFor, Zone},
    replication_cycle::{Allotment, CycleDisk, CycleVm, LedgerOwner},
};
use futures::{FutureExt, future::try_join_all};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use replica::{
    access::{ReplicaAccess, SecretUrl},
    disk_sas::DiskSasDisk,
};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    cleanup,
    decide::{self, SYNC_NOW},
    model::{GRANT, NewSeed, Observed, ReadySeed, Remains, Slots, Step},
    observe, slots,
};
use crate::{
    admission::Limits,
    appliance::{finalizers, site::Site},
    context::{Context, MANAGER},
    cycle::mirror::{self, bytes},
    roles, seeds,
    trouble::Trouble,
};

mod vcenter;

/// Bytes of a block, of which fingerprints are made: the same for all of a replica's life.
const BLOCK: u32 = 1 << 20;
/// For how long a new disk is opened to be formatted.
const FORMATTING: Duration = Duration::from_secs(3600);

/// What came of a step beside what the next look will see.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The incarnation that was drawn.
    pub incarnation: Option<Uuid>,
    /// The cycle whose order was written.
    pub ordered: Option<(CycleId, Timestamp)>,
    /// What was found out on the way, over what was decided.
    pub findings: Vec<Finding>,
    /// What a cycle waits for that could not begin after all.
    pub waiting: Option<WaitingFor>,
    /// True where the object goes: nothing more is said of it.
    pub gone: bool,
    /// Something that people want to know.
    pub told: Vec<(Reason, String)>,
}

/// Does the step.
///
/// # Errors
/// Why it could not be done.
pub async fn apply(context: &Context, seen: &Observed, step: &Step) -> Result<Outcome, Trouble> {
    let deed = Deed::new(context, seen);
    match step {
        Step::None => Ok(Outcome::default()),
        Step::Hold => deed.hold().boxed().await,
        Step::DrawIncarnation => Ok(Outcome { incarnation: Some(context.entropy.uuid()), ..Outcome::default() }),
        Step::TakeOver => deed.take_over().boxed().await,
        Step::MakeDisks(disks) => deed.make_disks(disks).boxed().await,
        Step::CreateLedger(ready) => deed.create_ledger(ready).boxed().await,
        Step::Reseed(ready) => deed.reseed(ready).boxed().await,
        Step::Retire(disks) => deed.retire(disks).boxed().await,
        Step::SweepSeeds(ids) => deed.delete_disks(ids).boxed().await.map(|()| Outcome::default()),
        Step::SwitchTracking => deed.switch_tracking().boxed().await,
        Step::Claim(above) => deed.claim(*above).boxed().await,
        Step::MakeCycle { of, worker } => deed.claimed(*of, worker.as_deref()).boxed().await,
        Step::Assign { cycle, worker } => deed.edit_cycle(cycle, json!({ "worker": worker })).boxed().await,
        Step::Cancel { cycles, reason } => {
            for cycle in cycles {
                deed.edit_cycle(cycle, json!({ "cancel": { "reason": reason.as_str() } })).await?;
            }
            Ok(Outcome::default())
        }
        Step::WriteOrder(of) => deed.write_order(*of).boxed().await,
        Step::DropOrder => deed.drop_order().boxed().await,
        Step::Close { cycle, order } => deed.close(cycle, *order).boxed().await,
        Step::ReleaseSnapshots => deed.release_snapshots().boxed().await,
        Step::CleanUp(remains) => Ok(deed.clean_up(remains).boxed().await),
        Step::Forget => deed.forget().boxed().await,
        Step::LetGo => deed.let_go().boxed().await,
        Step::Prune(cycles) => {
            for cycle in cycles {
                deed.delete_cycle(cycle).boxed().await?;
            }
            Ok(Outcome::default())
        }
    }
}

/// A trouble that a step has met: where Azure refuses, whether a role is missing or only new is asked there.
pub async fn understood(context: &Context, seen: &Observed, trouble: Trouble) -> Trouble {
    let Ok(site) = Deed::new(context, seen).site() else { return trouble };
    let Ok(target) = &site.target else { return trouble };
    let group = observe::group(&site, &seen.object);
    roles::pending(&target.arm, &site.spec.azure.subscription_id, &group, trouble).await
}

/// What a step works with.
struct Deed<'a> {
    context: &'a Context,
    seen: &'a Observed,
    namespace: String,
    name: String,
}

impl<'a> Deed<'a> {
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

    fn cycles(&self) -> Api<ReplicationCycle> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    fn ledger(&self) -> Result<&Ledger, Trouble> {
        self.seen.ours().ok_or_else(|| Trouble::new(Reason::BlobMissing, "there is no ledger of ours"))
    }

    async fn hold(&self) -> Result<Outcome, Trouble> {
        let api: Api<ReplicatedVM> = Api::namespaced(self.context.client.clone(), &self.namespace);
        finalizers(&api, &self.seen.object, |all| all.push(names::CLEANUP_FINALIZER.to_owned())).await?;
        Ok(Outcome::default())
    }

    async fn take_over(&self) -> Result<Outcome, Trouble> {
        let Ok(Some(ledger)) = &self.seen.ledger else { return Ok(Outcome::default()) };
        let (from, name) = (ledger.owner.clone(), blobs::ledger(ledger.vm));
        self.steward()?.take_over(&name, &self.seen.owner, self.context.clock.clone(), self.context.entropy.as_ref()).await?;
        Ok(Outcome { told: vec![(Reason::TakenOver, format!("the replica of {from} was taken over"))], ..Outcome::default() })
    }

    async fn make_disks(&self, disks: &[NewSeed]) -> Result<Outcome, Trouble> {
        let site = self.site()?;
        let target = site.target.as_ref().map_err(Clone::clone)?;
        let spec = &self.seen.object.spec.target;
        let group = observe::group(&site, &self.seen.object);
        self.context.disks.forget();
        for new in disks {
            let id = ResourceId::disk(&site.spec.azure.subscription_id, &group, &new.which.name(&self.name));
            if let Some(standing) = target.arm.disk(&id).await? {
                // A name of ours that another's disk has is left alone.
                if seeds::Which::of(&self.seen.owner, &standing) != Some(new.which) {
                    let message =
                        format!("{id} exists, and is not a seed disk of this VM: delete it, or choose another target.resourceGroup");
                    return Err(Trouble::new(Reason::SeedRefused, message));
                }
                if new.replace {
                    self.delete_disks(std::slice::from_ref(&id)).await?;
                }
            }
            let key = i64::from(new.which.disk.0);
            let sku = self
                .seen
                .object
                .spec
                .disks
                .overrides
                .iter()
                .find(|one| one.key == key)
                .and_then(|one| one.disk_sku)
                .unwrap_or(spec.disk_sku);
            let zone = spec.zone.filter(|_| !sku.is_zone_redundant()).map(|zone| match zone {
                Zone::One => "1".to_owned(),
                Zone::Two => "2".to_owned(),
                Zone::Three => "3".to_owned(),
            });
            let disk = UploadDisk {
                location: site.spec.azure.location.clone(),
                sku: format!("{sku:?}"),
                zone,
                content: azure::disks::content(new.capacity),
                tags: new.which.tags(&self.seen.owner, &spec.tags),
            };
            target.arm.make_upload_disk(&id, &disk).await?;
        }
        self.context.disks.forget();
        Ok(Outcome::default())
    }

    /// Opens new disks and writes their footer, by which an applier, which has no Resource Manager, knows them.
    async fn format(&self, ready: &[ReadySeed]) -> Result<BTreeMap<DiskKey, Seed>, Trouble> {
        let site = self.site()?;
        let target = site.target.as_ref().map_err(Clone::clone)?;
        let mut seeds = BTreeMap::new();
        for seed in ready {
            let unique_id = Uuid::parse_str(&seed.unique_id).map_err(|_| {
                Trouble::new(Reason::SeedRefused, format!("{}: Azure's id of it is no UUID: {:?}", seed.id, seed.unique_id))
            })?;
            let sas = target.arm.grant(&seed.id, Access::Write, FORMATTING).await?;
            let url = url(sas.expose())?;
            let (hosts, clock) = (Some(target.disk_hosts.clone()), self.context.clock.clone());
            DiskSasDisk::format_through(hosts, url.expose().clone(), clock, None, seed.capacity, unique_id).await?;
            seeds.insert(seed.disk, Seed { id: seed.id.to_string(), unique_id: unique_id.to_string(), capacity: seed.capacity });
        }
        Ok(seeds)
    }

    async fn create_ledger(&self, ready: &[ReadySeed]) -> Result<Outcome, Trouble> {
        let source = self.seen.source.as_ref().map_err(Clone::clone)?;
        let drawn = self.seen.object.status.as_ref().and_then(|status| status.incarnation.as_deref());
        let drawn = drawn.and_then(|text| Uuid::parse_str(text).ok());
        let incarnation = Incarnation(drawn.ok_or_else(|| Trouble::new(Reason::NotChecked, "the incarnation is to be drawn first"))?);
        let seeds = self.format(ready).await?;
        let ledger = Ledger::new(source.id, self.seen.owner.clone(), incarnation, BLOCK, seeds);
        let steward = self.steward()?;
        document::write_new(steward.store.as_ref(), &steward.keys, &blobs::ledger(source.id), &ledger).await?;
        let told = format!("seed disks of {} disks are made; the initial cycle begins", ledger.seeds.len());
        Ok(Outcome { told: vec![(Reason::ReplicationStarted, told)], ..Outcome::default() })
    }

    async fn reseed(&self, ready: &[ReadySeed]) -> Result<Outcome, Trouble> {
        let seeds = self.format(ready).await?;
        let keys: Vec<String> = seeds.keys().map(ToString::to_string).collect();
        self.edit_ledger(|ledger| seeds.iter().fold(ledger.clone(), |ledger, (disk, seed)| ledger.reseed(*disk, seed.clone()))).await?;
        self.context.disks.forget();
        Ok(Outcome {
            told: vec![(Reason::DisksChanged, format!("new seed disks for the disks {}", keys.join(", ")))],
            ..Outcome::default()
        })
    }

    async fn retire(&self, disks: &[DiskKey]) -> Result<Outcome, Trouble> {
        self.edit_ledger(|ledger| disks.iter().fold(ledger.clone(), |ledger, disk| ledger.retire(*disk))).await?;
        let keys: Vec<String> = disks.iter().map(ToString::to_string).collect();
        let told = format!("the disks {} take no part any more; their seed disks stay until replication stops", keys.join(", "));
        Ok(Outcome { told: vec![(Reason::DisksChanged, told)], ..Outcome::default() })
    }

    /// Changes the ledger under its lease. What was decided without the lease is only worth something where nobody wrote in between.
    async fn edit_ledger(&self, change: impl FnOnce(&Ledger) -> Ledger) -> Result<(), Trouble> {
        let (ledger, steward) = (self.ledger()?, self.steward()?);
        let (name, lease) = (blobs::ledger(ledger.vm), LeaseId(self.context.entropy.uuid()));
        let clock = self.context.clock.clone();
        let mut held = Held::<Ledger>::acquire(steward.store.clone(), steward.keys.clone(), clock, &name, lease).await?;
        let result = if held.value() == ledger {
            let next = change(ledger);
            held.write(next).await
        } else {
            Err(StoreError::Changed(name).into())
        };
        held.release().await;
        Ok(result?)
    }

    async fn delete_disks(&self, ids: &[ResourceId]) -> Result<(), Trouble> {
        let site = self.site()?;
        let arm = &site.target.as_ref().map_err(Clone::clone)?.arm;
        self.context.disks.forget();
        for id in ids {
            match arm.revoke(id).await {
                // Nothing is granted, or it is no disk that could be sealed: whether it can go says its deletion.
                Ok(()) | Err(ArmError::NotFound(_) | ArmError::Conflict { .. } | ArmError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            arm.delete_disk(id).await?;
        }
        self.context.disks.forget();
        Ok(())
    }

    /// Claims a number and makes its object, while nobody else admits a cycle: the object is what the next one counts.
    async fn claim(&self, above: Cycle) -> Result<Outcome, Trouble> {
        let _alone = self.context.admission.lock().await;
        let slots = self.slots().await?;
        if let Some(refused) = self.refused(&slots) {
            return Ok(refused);
        }
        let of = self.steward()?.claim(self.ledger()?, &self.seen.owner, above).await?;
        let worker = self.seen.free_gateway().map(|free| free.name.clone());
        self.make_cycle(of, worker.as_deref(), slots.limits).await
    }

    /// Makes the object of a cycle that was claimed before.
    async fn claimed(&self, of: CycleId, worker: Option<&str>) -> Result<Outcome, Trouble> {
        if !self.seen.only_claimed() {
            return self.make_cycle(of, worker, self.seen.slots.limits).await;
        }
        let _alone = self.context.admission.lock().await;
        let slots = self.slots().await?;
        match self.refused(&slots) {
            Some(refused) => Ok(refused),
            None => self.make_cycle(of, worker, slots.limits).await,
        }
    }

    /// The slots as they are now.
    async fn slots(&self) -> Result<Slots, Trouble> {
        let name = &self.seen.object.spec.appliance_ref.name;
        let vms = self.context.all_vms();
        let appliance = Api::<Appliance>::namespaced(self.context.client.clone(), &self.namespace).get_opt(name).await?;
        let appliance = appliance.ok_or_else(|| Trouble::new(Reason::ApplianceMissing, "the appliance is not there"))?;
        let cycles = self.cycles().list(&ListParams::default().labels(&format!("{}={name}", names::APPLIANCE_LABEL))).await?;
        Ok(slots::slots(&vms, &appliance, &cycles.items, &self.name))
    }

    /// What is said where another one was admitted since it was decided that this one may be. Its place in the queue was looked at then.
    fn refused(&self, slots: &Slots) -> Option<Outcome> {
        let (finding, waiting) = decide::lacks_slots(self.seen, &slots.before_all(), self.seen.now)?;
        Some(Outcome { findings: vec![finding], waiting: Some(waiting), ..Outcome::default() })
    }

    async fn make_cycle(&self, of: CycleId, worker: Option<&str>, limits: Limits) -> Result<Outcome, Trouble> {
        let (steward, ledger) = (self.steward()?, self.ledger()?);
        let (state, _) = document::require::<State>(steward.store.as_ref(), &steward.keys, &blobs::state(of)).await?;
        let object = self.cycle_object(ledger, &state, worker, limits)?;
        let (api, name) = (self.cycles(), object.name_any());
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {
                let told = format!("{name}: {:?}, {} disks", object.spec.kind, object.spec.disks.len());
                Ok(Outcome { told: vec![(Reason::CycleStarted, told)], ..Outcome::default() })
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                // One of another start of replication is history.
                if let Some(old) = api.get_opt(&name).await?.filter(|old| mirror::id(old) != Some(of)) {
                    finalizers(&api, &old, |all| all.retain(|one| one != names::SNAPSHOT_FINALIZER)).await?;
                    self.delete_cycle(&name).await?;
                }
                Ok(Outcome::default())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn cycle_object(&self, ledger: &Ledger, state: &State, worker: Option<&str>, limits: Limits) -> Result<ReplicationCycle, Trouble> {
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
        let allotment = Allotment { disks: i32::try_from(limits.at_a_time(disks.len())).unwrap_or(i32::MAX).min(256) };
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
        let owner = kube::Resource::controller_owner_ref(&**object, &());
        meta.owner_references = Some(vec![owner.ok_or_else(|| Trouble::new(Reason::NotChecked, "the object has no UID"))?]);
        Ok(cycle)
    }

    async fn edit_cycle(&self, name: &str, spec: serde_json::Value) -> Result<Outcome, Trouble> {
        match self
            .cycles()
            .patch(
                name,
                &PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() },
                &Patch::Merge(&json!({ "spec": spec })),
            )
            .await
        {
            Ok(_) => Ok(Outcome::default()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Outcome::default()),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete_cycle(&self, name: &str) -> Result<(), Trouble> {
        match self.cycles().delete(name, &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Grants write access to every seed that is written to, and writes the order, or writes it anew with grants that last.
    async fn write_order(&self, of: CycleId) -> Result<Outcome, Trouble> {
        let (site, steward, ledger) = (self.site()?, self.steward()?, self.ledger()?);
        let arm = &site.target.as_ref().map_err(Clone::clone)?.arm;
        let (store, keys) = (steward.store.as_ref(), &steward.keys);
        let (manifest, digest) = document::require::<Manifest>(store, keys, &blobs::manifest(of)).await?;
        // As the ledger would: what it refuses is not ordered.
        ledger.admit(&manifest, digest).map_err(|refusal| Trouble::new(refusal.reason(), refusal.to_string()))?;
        let lasts = Duration::try_from(GRANT).unwrap_or(FORMATTING);
        // It is admitted, so the ledger names all of them.
        let written = manifest.written().filter_map(|disk| Some((disk, ledger.seeds.get(&disk)?)));
        let granted = written.map(|(disk, seed)| async move {
            let id = ResourceId::parse(&seed.id).map_err(|error| Trouble::new(Reason::SeedMissing, error.to_string()))?;
            let sas = arm.grant(&id, Access::Write, lasts).await?;
            let access = sealed(keys, of, disk, &seed.unique_id, url(sas.expose())?, self.context)?;
            Ok::<_, Trouble>((disk, access))
        });
        // Azure takes its time for each.
        let seeds = try_join_all(granted).await?.into_iter().collect();
        // What the cycle was begun for: a wish that came after its snapshot is for the next one.
        let cycle = self.seen.cycles.iter().find(|cycle| mirror::id(&cycle.object) == Some(of));
        let asked = cycle.and_then(|cycle| cycle.object.spec.sync_now.clone());
        let tokens = asked.into_iter().map(|token| (SYNC_NOW.to_owned(), token)).collect();
        let order = Order { of, owner: self.seen.owner.clone(), manifest: digest, seeds, tokens };
        let name = blobs::order(&self.seen.owner, of.vm);
        store.put(&name, document::encode(keys, &name, &order)?, When::Always, None).await?;
        Ok(Outcome { ordered: Some((of, self.context.clock.now())), ..Outcome::default() })
    }

    async fn drop_order(&self) -> Result<Outcome, Trouble> {
        if let Ok(Some(order)) = &self.seen.order {
            self.steward()?.store.delete(&blobs::order(&self.seen.owner, order.of.vm), None).await?;
        }
        Ok(Outcome::default())
    }

    /// The finalizer goes last: until then the next pass does all of it again.
    async fn close(&self, name: &str, order: bool) -> Result<Outcome, Trouble> {
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

    async fn unhold(&self, name: &str) -> Result<(), Trouble> {
        let cycle = self.seen.cycles.iter().find(|cycle| cycle.object.name_any() == name);
        if let Some(cycle) = cycle {
            finalizers(&self.cycles(), &cycle.object, |all| all.retain(|one| one != names::SNAPSHOT_FINALIZER)).await?;
        }
        Ok(())
    }

    /// All that can be reached. What can't is named, and keeps nothing else.
    async fn clean_up(&self, remains: &[Remains]) -> Outcome {
        // What can't even be looked at is named beside what could not be removed.
        let (_, mut left) = cleanup::look(self.seen);
        let (mut told, mut unsure) = (Vec::new(), false);
        for remain in remains {
            // As long as it stands, they are asked for again.
            if *remain == Remains::Ledger && unsure {
                continue;
            }
            let (reason, what, result) = match remain {
                Remains::Snapshots => {
                    let result = self.release_snapshots().await.map(|outcome| told.extend(outcome.told));
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
        let findings = cleanup::told(&left, self.seen.deleting()).into_iter().collect();
        Outcome { findings, told, ..Outcome::default() }
    }

    async fn delete_blobs(&self, ledger: bool) -> Result<(), Trouble> {
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
    async fn forget(&self) -> Result<Outcome, Trouble> {
        for cycle in &self.seen.cycles {
            let name = cycle.object.name_any();
            self.unhold(&name).await?;
            self.delete_cycle(&name).await?;
        }
        self.context.metrics.forget(&self.namespace, &self.name);
        Ok(Outcome::default())
    }

    async fn let_go(&self) -> Result<Outcome, Trouble> {
        for cycle in &self.seen.cycles {
            self.unhold(&cycle.object.name_any()).await?;
        }
        let api: Api<ReplicatedVM> = Api::namespaced(self.context.client.clone(), &self.namespace);
        finalizers(&api, &self.seen.object, |all| all.retain(|one| one != names::CLEANUP_FINALIZER)).await?;
        self.context.metrics.forget(&self.namespace, &self.name);
        Ok(Outcome { gone: true, ..Outcome::default() })
    }
}

fn url(text: &str) -> Result<SecretUrl, Trouble> {
    text.to_owned().try_into().map_err(|error| Trouble::new(Reason::ServerFailed, format!("Azure's access to a seed disk is {error}")))
}

fn sealed(keys: &KeyRing, of: CycleId, disk: DiskKey, unique_id: &str, url: SecretUrl, context: &Context) -> Result<OrderSeed, Trouble> {
    let access = serde_json::to_vec(&ReplicaAccess::DiskSas { url, api_version: None }).map(Zeroizing::new);
    let access = access.map_err(|error| Trouble::new(Reason::ServerFailed, error.to_string()))?;
    Ok(OrderSeed::seal(keys, of.vm, of.incarnation, disk, unique_id, &access, context.entropy.as_ref()))
}
