//! What a step does to seed disks and to the ledger that names them.

use std::{collections::BTreeMap, time::Duration};

use azure::{
    ArmError, ResourceId,
    disks::{Access, UploadDisk},
};
use blocklog::{
    document,
    held::Held,
    ids::{DiskKey, Incarnation},
    ledger::{Ledger, Seed},
    names as blobs,
    store::{LeaseId, StoreError},
};
use crds::{reasons::Reason, replicated_vm::DiskSku};
use replica::disk_sas::DiskSasDisk;
use uuid::Uuid;

use super::{Outcome, StepContext, orders::secret_url};
use crate::{
    seeds::Which,
    trouble::Trouble,
    vm::step::{NewSeed, ReadySeed},
};

/// Bytes of a block, of which fingerprints are made: the same for all of a replica's life.
const BLOCK: u32 = 1 << 20;
/// For how long a new disk is opened to be formatted.
const FORMATTING: Duration = Duration::from_secs(3600);

impl StepContext<'_> {
    pub(super) async fn make_disks(&self, disks: &[NewSeed]) -> Result<Outcome, Trouble> {
        let site = self.site()?;
        let target = site.target.as_ref().map_err(Clone::clone)?;
        let spec = &self.seen.object.spec.target;
        let group = site.group(&self.seen.object);
        self.context.disks.forget();
        for new in disks {
            let id = ResourceId::disk(&site.spec.azure.subscription_id, &group, &new.which.name(&self.name));
            if let Some(standing) = target.arm.disk(&id).await? {
                // A name of ours that another's disk has is left alone.
                if Which::of(&self.seen.owner, &standing) != Some(new.which) {
                    let message =
                        format!("{id} exists, and is not a seed disk of this VM: delete it, or choose another target.resourceGroup");
                    return Err(Trouble::new(Reason::SeedRefused, message));
                }
                if new.replace {
                    self.delete_disks(std::slice::from_ref(&id)).await?;
                }
            }
            let sku = self.sku(new.which.disk);
            let zone = spec.zone.filter(|_| !sku.is_zone_redundant()).map(|zone| zone.as_str().to_owned());
            let disk = UploadDisk {
                location: site.spec.azure.location.clone(),
                sku: sku.as_str().to_owned(),
                zone,
                content: azure::disks::content(new.capacity),
                tags: new.which.tags(&self.seen.owner, &spec.tags),
            };
            target.arm.make_upload_disk(&id, &disk).await?;
        }
        self.context.disks.forget();
        Ok(Outcome::default())
    }

    /// The SKU of a disk's seed: its own, else that of all.
    fn sku(&self, disk: DiskKey) -> DiskSku {
        let spec = &self.seen.object.spec;
        let own = spec.disks.overrides.iter().find(|one| one.key == i64::from(disk.0));
        own.and_then(|own| own.disk_sku).unwrap_or(spec.target.disk_sku)
    }

    /// Opens new disks and writes their footer, by which an applier, which has no Resource Manager, knows them.
    pub(super) async fn format(&self, ready: &[ReadySeed]) -> Result<BTreeMap<DiskKey, Seed>, Trouble> {
        let site = self.site()?;
        let target = site.target.as_ref().map_err(Clone::clone)?;
        let mut seeds = BTreeMap::new();
        for seed in ready {
            let unique_id = Uuid::parse_str(&seed.unique_id).map_err(|_| {
                Trouble::new(Reason::SeedRefused, format!("{}: Azure's id of it is no UUID: {:?}", seed.id, seed.unique_id))
            })?;
            let sas = target.arm.grant(&seed.id, Access::Write, FORMATTING).await?;
            let url = secret_url(sas.expose())?;
            let (hosts, clock) = (Some(target.disk_hosts.clone()), self.context.clock.clone());
            DiskSasDisk::format_through(hosts, url.expose().clone(), clock, None, seed.capacity, unique_id).await?;
            seeds.insert(seed.disk, Seed { id: seed.id.to_string(), unique_id: unique_id.to_string(), capacity: seed.capacity });
        }
        Ok(seeds)
    }

    pub(super) async fn create_ledger(&self, ready: &[ReadySeed]) -> Result<Outcome, Trouble> {
        let source = self.seen.source.as_ref().map_err(Clone::clone)?;
        let drawn = self.seen.object.status.as_ref().and_then(|status| status.incarnation.as_deref());
        let drawn = drawn.and_then(|text| Uuid::parse_str(text).ok());
        let incarnation = Incarnation(drawn.ok_or_else(|| Trouble::new(Reason::NotChecked, "the incarnation is to be drawn first"))?);
        let seeds = self.format(ready).await?;
        let ledger = Ledger::new(source.id, self.seen.owner.clone(), incarnation, BLOCK, seeds);
        let steward = self.steward()?;
        document::write_new(steward.store.as_ref(), &steward.keys, &blobs::ledger(source.id), &ledger).await?;
        let note = format!("seed disks of {} disks are made; the initial cycle begins", ledger.seeds.len());
        Ok(Outcome::event(Reason::ReplicationStarted, note))
    }

    pub(super) async fn reseed(&self, ready: &[ReadySeed]) -> Result<Outcome, Trouble> {
        let seeds = self.format(ready).await?;
        let keys: Vec<String> = seeds.keys().map(ToString::to_string).collect();
        self.edit_ledger(|ledger| seeds.iter().fold(ledger.clone(), |ledger, (disk, seed)| ledger.reseed(*disk, seed.clone()))).await?;
        self.context.disks.forget();
        Ok(Outcome::event(Reason::DisksChanged, format!("new seed disks for the disks {}", keys.join(", "))))
    }

    pub(super) async fn retire(&self, disks: &[DiskKey]) -> Result<Outcome, Trouble> {
        self.edit_ledger(|ledger| disks.iter().fold(ledger.clone(), |ledger, disk| ledger.retire(*disk))).await?;
        let keys: Vec<String> = disks.iter().map(ToString::to_string).collect();
        let note = format!("the disks {} take no part any more; their seed disks stay until replication stops", keys.join(", "));
        Ok(Outcome::event(Reason::DisksChanged, note))
    }

    /// Changes the ledger under its lease. What was decided without the lease is only worth something where nobody wrote in between.
    pub(super) async fn edit_ledger(&self, change: impl FnOnce(&Ledger) -> Ledger) -> Result<(), Trouble> {
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

    pub(super) async fn delete_disks(&self, ids: &[ResourceId]) -> Result<(), Trouble> {
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
}
