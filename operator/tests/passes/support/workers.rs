//! A gateway and an applier that do at once what they are asked: what they write is what theirs would be, without any block of data.

use std::collections::BTreeMap;

use blocklog::clock::Clock;
use blocklog::{
    cycle::{Epochs, Figures, Manifest, ManifestDisk, Mode, Order, Phase, Receipt, ReceiptDisk, Snapshot, SnapshotNote, State},
    document,
    ids::{ChangeId, Cycle, CycleId, Digest, DiskKey},
    ledger::Ledger,
    names as blobs,
    store::{LogStore, When},
};
use crds::{ReplicationCycle, reasons::Reason};
use extents::ExtentSet;
use operator::objects::{cycle_id, seconds};
use serde_json::{Value, json};
use vsphere::snapshot::Mark;

use super::{NAMESPACE, World};

impl World {
    /// A document of the log.
    pub async fn read<D: document::Document>(&self, name: &str) -> Option<D> {
        document::read::<D>(self.store.as_ref(), &self.keys, name).await.unwrap().map(|(document, _)| document)
    }

    /// Writes a document of the log, past all leases.
    pub async fn write<D: document::Document>(&self, name: &str, document: &D) -> Digest {
        let bytes = document::encode(&self.keys, name, document).unwrap();
        let digest = Digest::of(&bytes);
        self.store.put(name, bytes, When::Always, None).await.unwrap();
        digest
    }

    /// The ledger of a VM.
    pub async fn ledger(&self, vm: &str) -> Option<Ledger> {
        self.read(&blobs::ledger(self.vm_id(vm))).await
    }

    /// The objects of a VM's cycles that this version can read, by number.
    pub fn cycles(&self, vm: &str) -> Vec<ReplicationCycle> {
        let of: Vec<Value> = self.api.all("replicationcycles").into_iter().filter(|one| one["spec"]["vmRef"]["name"] == vm).collect();
        let mut all: Vec<ReplicationCycle> = of.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect();
        all.sort_by_key(|cycle| cycle.spec.cycle);
        all
    }

    /// The gateway takes the snapshot of a cycle, and says so.
    pub async fn takes_snapshot(&self, cycle: &ReplicationCycle) {
        let of = cycle_id(cycle).unwrap();
        let mut state: State = self.read(&blobs::state(of)).await.unwrap();
        self.vcenter.take(&cycle.spec.vm.mo_ref, &self.mark(cycle, of));
        let change_ids = cycle.spec.disks.iter().map(|disk| (key(disk.key), Some(change_id(disk.key, of.cycle)))).collect();
        state.snapshot = SnapshotNote::Taken(Snapshot { reference: "snapshot".into(), taken: self.clock.now(), change_ids });
        self.write(&blobs::state(of), &state).await;
        self.says(cycle, &[("Transferred", "Unknown", "Transferring")], json!({ "snapshot": { "state": "Taken" } }));
    }

    /// The gateway has sent all of a cycle, of whose disks the first has changed and the others have not; its snapshot goes.
    pub async fn sends(&self, cycle: &ReplicationCycle) {
        let of = cycle_id(cycle).unwrap();
        let mut state: State = self.read(&blobs::state(of)).await.unwrap();
        let ledger = self.ledger(&cycle.spec.vm_ref.name).await.unwrap();
        let sent = |(number, (key, seed)): (usize, (&DiskKey, &blocklog::ledger::Seed))| {
            let extents = if number == 0 { ExtentSet::all(8) } else { ExtentSet::default() };
            let disk = ManifestDisk {
                seed: seed.unique_id.clone(),
                capacity: seed.capacity,
                mode: if ledger.recovery_point.is_some() { Mode::Changed } else { Mode::Full },
                partial: false,
                change_id: Some(change_id(i64::from(key.0), of.cycle)),
                extents,
                segments: Vec::new(),
                figures: Figures::default(),
            };
            (*key, disk)
        };
        let manifest = Manifest {
            of,
            owner: state.owner.clone(),
            basis: state.basis,
            block: ledger.block,
            snapshot_taken: self.clock.now(),
            epochs: Epochs::default(),
            disks: ledger.seeds.iter().enumerate().map(sent).collect(),
        };
        self.write(&blobs::manifest(of), &manifest).await;
        (state.phase, state.snapshot) = (Phase::Sent, SnapshotNote::Released);
        self.write(&blobs::state(of), &state).await;
        self.vcenter.release(&cycle.spec.vm.mo_ref, &self.mark(cycle, of));
        let now = seconds(self.clock.now());
        let source = json!({ "started": now, "ended": now, "snapshot": { "state": "Released", "released": now } });
        self.says(cycle, &[("Transferred", "True", "AsExpected"), ("SourceReleased", "True", "AsExpected")], source);
    }

    /// The gateway gives up a cycle that was cancelled: its snapshot goes, and nothing of it is applied.
    pub async fn gives_up(&self, cycle: &ReplicationCycle) {
        let of = cycle_id(cycle).unwrap();
        if let Some(mut state) = self.read::<State>(&blobs::state(of)).await {
            (state.phase, state.snapshot) = (Phase::Failed(Reason::Cancelled), SnapshotNote::Released);
            self.write(&blobs::state(of), &state).await;
        }
        self.vcenter.release(&cycle.spec.vm.mo_ref, &self.mark(cycle, of));
        let now = seconds(self.clock.now());
        let source = json!({ "started": now, "ended": now, "snapshot": { "state": "Released", "released": now } });
        self.says(cycle, &[("Transferred", "False", "Cancelled"), ("SourceReleased", "True", "AsExpected")], source);
    }

    /// The applier begins the cycle that is ordered for a VM, where one is; false where none is.
    pub async fn begins(&self, vm: &str) -> bool {
        let Some((order, manifest, ledger)) = self.ordered(vm).await else { return false };
        self.write(&blobs::ledger(order.of.vm), &ledger.begin(&manifest, order.manifest, None)).await;
        true
    }

    /// The applier applies the cycle that is ordered for a VM, where one is, and the replica is clean; false where none is.
    pub async fn applies(&self, vm: &str) -> bool {
        let Some((order, manifest, ledger)) = self.ordered(vm).await else { return false };
        if ledger.begun >= order.of.cycle && ledger.is_clean() {
            return false;
        }
        let begun = ledger.begin(&manifest, order.manifest, None);
        let clean = begun.finish(&manifest, BTreeMap::new(), &order.tokens, false);
        let done = |(key, sent): (&DiskKey, &ManifestDisk)| {
            let extents = Digest(sent.extents.digest());
            (*key, ReceiptDisk { written: sent.extents.bytes(), cleared: 0, extents })
        };
        let disks = manifest.disks.iter().map(done).collect();
        let receipt = Receipt { of: order.of, manifest: order.manifest, turn: clean.turn, at: self.clock.now(), disks };
        self.write(&blobs::receipt(order.of), &receipt).await;
        self.write(&blobs::ledger(order.of.vm), &clean).await;
        true
    }

    async fn ordered(&self, vm: &str) -> Option<(Order, Manifest, Ledger)> {
        let order: Order = self.read(&blobs::order(&self.owner(vm), self.vm_id(vm))).await?;
        let manifest = self.read(&blobs::manifest(order.of)).await?;
        let ledger = self.ledger(vm).await?;
        Some((order, manifest, ledger))
    }

    /// The workers' pods come up where they are deployed.
    pub fn deploys(&self) {
        for deployment in self.api.all("deployments") {
            let name = deployment["metadata"]["name"].as_str().unwrap();
            self.api.edit("deployments", NAMESPACE, name, |it| it["status"] = json!({ "readyReplicas": it["spec"]["replicas"] }));
        }
    }

    /// Both halves do at once all that they are asked.
    pub async fn work(&self, vm: &str) {
        for cycle in self.cycles(vm).iter().filter(|cycle| cycle.spec.worker.is_some()) {
            let said = cycle.status.as_ref().is_some_and(|status| status.source.is_some());
            let of = cycle_id(cycle).unwrap();
            let open = self.read::<State>(&blobs::state(of)).await.is_some_and(|state| state.phase == Phase::Open);
            match (&cycle.spec.cancel, open) {
                (None, true) => self.sends(cycle).await,
                (Some(_), _) if !said => self.gives_up(cycle).await,
                _ => {}
            }
        }
        self.applies(vm).await;
    }

    fn mark(&self, cycle: &ReplicationCycle, of: CycleId) -> Mark {
        Mark { owner: self.owner(&cycle.spec.vm_ref.name), of }
    }

    /// What a gateway says of a cycle.
    fn says(&self, cycle: &ReplicationCycle, conditions: &[(&str, &str, &str)], source: Value) {
        let now = seconds(self.clock.now());
        self.api.edit("replicationcycles", NAMESPACE, cycle.metadata.name.as_deref().unwrap(), |object| {
            let mut all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            for (of, status, reason) in conditions {
                all.retain(|one| one["type"] != *of);
                all.push(json!({ "type": of, "status": status, "reason": reason, "message": "as planned", "lastTransitionTime": now }));
            }
            object["status"]["conditions"] = json!(all);
            object["status"]["source"] = source;
        });
    }
}

fn key(key: i64) -> DiskKey {
    DiskKey(u32::try_from(key).unwrap())
}

fn change_id(disk: i64, cycle: Cycle) -> ChangeId {
    ChangeId(format!("52 de {disk}/{cycle}"))
}
