//! What a step does to the order of an applier.

use azure::{ResourceId, disks::Access};
use blocklog::{
    cycle::{Manifest, Order, OrderSeed},
    document,
    ids::{CycleId, DiskKey},
    keys::KeyRing,
    names as blobs,
    store::When,
};
use crds::reasons::Reason;
use futures::future::try_join_all;
use replica::access::{ReplicaAccess, SecretUrl};
use zeroize::Zeroizing;

use super::{Outcome, StepContext};
use crate::{context::Context, cycle::SYNC_NOW, trouble::Trouble, vm::model::GRANT};

impl StepContext<'_> {
    /// Grants write access to every seed that is written to, and writes the order, or writes it anew with grants that last.
    pub(super) async fn write_order(&self, of: CycleId) -> Result<Outcome, Trouble> {
        let (site, steward, ledger) = (self.site()?, self.steward()?, self.ledger()?);
        let arm = &site.target.as_ref().map_err(Clone::clone)?.arm;
        let (store, keys) = (steward.store.as_ref(), &steward.keys);
        let (manifest, digest) = document::require::<Manifest>(store, keys, &blobs::manifest(of)).await?;
        // As the ledger would: what it refuses is not ordered.
        ledger.admit(&manifest, digest).map_err(|refusal| Trouble::new(refusal.reason(), refusal.to_string()))?;
        // It is admitted, so the ledger names all of them.
        let written = manifest.written().filter_map(|disk| Some((disk, ledger.seeds.get(&disk)?)));
        let granted = written.map(|(disk, seed)| async move {
            let id = ResourceId::parse(&seed.id).map_err(|error| Trouble::new(Reason::SeedMissing, error.to_string()))?;
            let sas = arm.grant(&id, Access::Write, GRANT.unsigned_abs()).await?;
            let access = sealed(keys, of, disk, &seed.unique_id, secret_url(sas.expose())?, self.context)?;
            Ok::<_, Trouble>((disk, access))
        });
        // Azure takes its time for each.
        let seeds = try_join_all(granted).await?.into_iter().collect();
        // What the cycle was begun for: a wish that came after its snapshot is for the next one.
        let cycle = self.seen.cycles.iter().find(|cycle| cycle.id() == Some(of));
        let asked = cycle.and_then(|cycle| cycle.object.spec.sync_now.clone());
        let tokens = asked.into_iter().map(|token| (SYNC_NOW.to_owned(), token)).collect();
        let order = Order { of, owner: self.seen.owner.clone(), manifest: digest, seeds, tokens };
        let name = blobs::order(&self.seen.owner, of.vm);
        store.put(&name, document::encode(keys, &name, &order)?, When::Always, None).await?;
        Ok(Outcome { ordered: Some((of, self.context.clock.now())), ..Outcome::default() })
    }

    pub(super) async fn drop_order(&self) -> Result<Outcome, Trouble> {
        if let Ok(Some(order)) = &self.seen.order {
            self.steward()?.store.delete(&blobs::order(&self.seen.owner, order.of.vm), None).await?;
        }
        Ok(Outcome::default())
    }
}

/// Azure's answer as a URL that is not shown to anybody.
pub(super) fn secret_url(text: &str) -> Result<SecretUrl, Trouble> {
    text.to_owned().try_into().map_err(|error| Trouble::new(Reason::ServerFailed, format!("Azure's access to a seed disk is {error}")))
}

fn sealed(keys: &KeyRing, of: CycleId, disk: DiskKey, unique_id: &str, url: SecretUrl, context: &Context) -> Result<OrderSeed, Trouble> {
    let access = serde_json::to_vec(&ReplicaAccess::DiskSas { url, api_version: None }).map(Zeroizing::new);
    let access = access.map_err(|error| Trouble::new(Reason::ServerFailed, error.to_string()))?;
    Ok(OrderSeed::seal(keys, of.vm, of.incarnation, disk, unique_id, &access, context.entropy.as_ref()))
}
