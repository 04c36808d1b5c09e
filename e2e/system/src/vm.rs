//! A ReplicatedVM and its cycles, as somebody who waits for them sees them.

use std::time::Duration;

use blocklog::ids::VmId;
use crds::{
    ReplicatedVM, ReplicationCycle,
    replication_cycle::{CyclePhase, SnapshotState},
};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};

use crate::{
    Result,
    azure::Azure,
    install::{APPLIANCE, NAMESPACE},
    log::Log,
    oracle::{Hashes, Oracle},
    sandbox::Sandbox,
    vcenter::VCenter,
    wait,
};

/// All that can be asked.
#[derive(Clone)]
pub struct World {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// vCenter's control port.
    pub vcenter: VCenter,
    /// Azure's control port.
    pub azure: Azure,
    /// The apiserver.
    pub client: kube::Client,
    /// The log store.
    pub log: Log,
}

impl World {
    /// The sandbox that stands.
    ///
    /// # Errors
    /// Where none does.
    pub async fn open() -> Result<Self> {
        let sandbox = Sandbox::open()?;
        Ok(Self {
            vcenter: VCenter::new(&sandbox),
            azure: Azure::new(&sandbox),
            client: sandbox.kubernetes().await?,
            log: Log::open(&sandbox)?,
            sandbox,
        })
    }
}

/// A ReplicatedVM of the appliance.
pub struct Replica {
    /// All that can be asked.
    pub world: World,
    /// Its name, which is the VM's too.
    pub name: String,
    /// Where it lies.
    pub namespace: String,
    /// What its snapshots held.
    pub oracle: Oracle,
}

/// What has come of a VM's replication.
#[derive(Debug, Clone)]
pub struct Judged {
    /// How many seed disks are equal to what they are compared with.
    pub equal: usize,
    /// The disks that are not, and why.
    pub differs: Vec<String>,
    /// How many snapshots are left in vCenter.
    pub snapshots_left: usize,
}

impl Replica {
    /// The manifest of a ReplicatedVM for the VM of the same name. `more` are further lines of its spec, indented by two.
    #[must_use]
    pub fn manifest(namespace: &str, appliance: &str, name: &str, more: &str) -> String {
        format!(
            "apiVersion: hawser.dev/v1alpha1\nkind: ReplicatedVM\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
             applianceRef: {{name: {appliance}}}\n  vm: {{inventoryPath: /DC1/vm/prod/{name}}}\n{more}"
        )
    }

    /// Applies it.
    ///
    /// # Errors
    /// What the apiserver says against it.
    pub async fn apply(world: &World, name: &str, more: &str) -> Result<Self> {
        world.sandbox.apply(&Self::manifest(NAMESPACE, APPLIANCE, name, more)).await?;
        Ok(Self::of(world, name))
    }

    /// One that is applied already.
    #[must_use]
    pub fn of(world: &World, name: &str) -> Self {
        let oracle = Oracle::watch(world.vcenter.clone(), name.to_owned());
        Self { world: world.clone(), name: name.to_owned(), namespace: NAMESPACE.to_owned(), oracle }
    }

    /// The object.
    ///
    /// # Errors
    /// Where it can't be read.
    pub async fn object(&self) -> Result<ReplicatedVM> {
        let api: Api<ReplicatedVM> = Api::namespaced(self.world.client.clone(), &self.namespace);
        api.get(&self.name).await.map_err(|error| error.to_string())
    }

    /// Its cycles, by their number.
    ///
    /// # Errors
    /// Where they can't be read.
    pub async fn cycles(&self) -> Result<Vec<ReplicationCycle>> {
        // One of a newer version's, which a test has made, is none of a VM that replicates as today.
        let api: Api<crds::Read<ReplicationCycle>> = Api::namespaced(self.world.client.clone(), &self.namespace);
        let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let mut all: Vec<ReplicationCycle> = all.iter().filter_map(|one| one.readable().map(|cycle| cycle.as_ref().clone())).collect();
        all.retain(|cycle| cycle.spec.vm_ref.name == self.name);
        all.sort_by_key(|cycle| cycle.spec.cycle);
        Ok(all)
    }

    /// What its conditions and its cycles' say now, for people who wonder why something has not happened.
    ///
    /// # Errors
    /// Where they can't be read.
    pub async fn story(&self) -> Result<String> {
        let object = self.object().await?;
        let status = object.status.unwrap_or_default();
        let mut lines: Vec<String> = status
            .conditions
            .iter()
            .filter(|condition| condition.status != "True" || condition.type_ == "Replicating")
            .map(|condition| format!("{}={} {}: {}", condition.type_, condition.status, condition.reason, condition.message))
            .collect();
        for cycle in self.cycles().await? {
            let status = cycle.status.unwrap_or_default();
            let name = cycle.metadata.name.unwrap_or_default();
            let conditions = status.conditions.iter().map(|one| format!("{}={} {}: {}", one.type_, one.status, one.reason, one.message));
            lines.push(format!("{name} {:?} [{}]", status.phase, conditions.collect::<Vec<_>>().join("; ")));
        }
        Ok(lines.join("\n  "))
    }

    /// Waits until so many of its cycles have succeeded and been closed, and none is open.
    ///
    /// # Errors
    /// What is so instead.
    pub async fn succeeded(&self, count: usize, limit: Duration) -> Result<Vec<ReplicationCycle>> {
        wait::until(&format!("{count} cycles of {} have succeeded", self.name), limit, async || {
            let cycles = self.cycles().await?;
            let good = |cycle: &&ReplicationCycle| phase(cycle) == Some(CyclePhase::Succeeded);
            let held = |cycle: &ReplicationCycle| cycle.metadata.finalizers.iter().flatten().next().is_some();
            if cycles.iter().filter(good).count() >= count && !cycles.iter().any(held) { Ok(cycles) } else { Err(self.story().await?) }
        })
        .await
    }

    /// Waits for a condition of the object to have this reason.
    ///
    /// # Errors
    /// What is so instead.
    pub async fn says(&self, condition: &str, reason: &str, limit: Duration) -> Result<String> {
        wait::until(&format!("{} says {condition}: {reason}", self.name), limit, async || {
            let object = self.object().await?;
            let conditions = object.status.map(|status| status.conditions).unwrap_or_default();
            let found = conditions.into_iter().find(|one| one.type_ == condition);
            match found {
                Some(found) if found.reason == reason => Ok(found.message),
                Some(found) => Err(format!("{}: {}", found.reason, found.message)),
                None => Err("it has no such condition".to_owned()),
            }
        })
        .await
    }

    /// Waits until somebody who looks at the events of the VM, its cycles, or at their conditions finds this reason; gives the words beside it.
    ///
    /// # Errors
    /// What was told instead.
    pub async fn told(&self, reason: &str, limit: Duration) -> Result<String> {
        wait::until(&format!("{}: {reason} is told", self.name), limit, async || {
            let mut told = Vec::new();
            let api: Api<Event> = Api::namespaced(self.world.client.clone(), &self.namespace);
            for event in api.list(&ListParams::default()).await.map_err(|error| error.to_string())? {
                let about = event.regarding.and_then(|about| about.name).unwrap_or_default();
                if about == self.name || about.starts_with(&format!("{}-", self.name)) {
                    told.push((event.reason.unwrap_or_default(), event.note.unwrap_or_default()));
                }
            }
            let mut conditions = self.object().await?.status.map(|status| status.conditions).unwrap_or_default();
            for cycle in self.cycles().await? {
                let status = cycle.status.unwrap_or_default();
                conditions.extend(status.conditions);
                told.extend(status.failure.map(|failure| (failure.reason, failure.message)));
            }
            told.extend(conditions.into_iter().map(|one| (one.reason, one.message)));
            let words = told.iter().find(|(word, _)| word == reason).map(|(_, words)| words.clone());
            match words {
                Some(words) => Ok(words),
                None => Err(format!("{told:?}")),
            }
        })
        .await
    }

    /// Waits until the running cycle is in this phase.
    ///
    /// # Errors
    /// What is so instead.
    pub async fn reaches(&self, wanted: CyclePhase, limit: Duration) -> Result<ReplicationCycle> {
        wait::until(&format!("a cycle of {} is at {wanted:?}", self.name), limit, async || {
            match self.cycles().await?.into_iter().find(|cycle| phase(cycle) == Some(wanted)) {
                Some(cycle) => Ok(cycle),
                None => Err(self.story().await?),
            }
        })
        .await
    }

    /// Asks for a cycle now.
    ///
    /// # Errors
    /// What the apiserver says against it.
    pub async fn sync_now(&self, token: &str) -> Result<()> {
        let patch = serde_json::json!({ "spec": { "syncNow": token } });
        let api: Api<ReplicatedVM> = Api::namespaced(self.world.client.clone(), &self.namespace);
        let patched = api.patch(&self.name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&patch)).await;
        patched.map(drop).map_err(|error| error.to_string())
    }

    /// Asks for a cycle now, and waits until one has succeeded that began afterwards.
    ///
    /// # Errors
    /// What is so instead.
    pub async fn sync(&self, token: &str, limit: Duration) -> Result<()> {
        self.sync_now(token).await?;
        wait::until(&format!("{}: the cycle of syncNow {token} has succeeded", self.name), limit, async || {
            let done = self.object().await?.status.and_then(|status| status.last_sync_now);
            if done.as_deref() == Some(token) { Ok(()) } else { Err(self.story().await?) }
        })
        .await?;
        // Of old ones only the last few are kept: none are counted here.
        self.succeeded(1, limit).await.map(drop)
    }

    /// The VM's identity.
    ///
    /// # Errors
    /// Where it was not found yet.
    pub async fn id(&self) -> Result<VmId> {
        let vm = self.object().await?.status.and_then(|status| status.vm).ok_or("the VM was not found yet")?;
        let uuid = |text: &str| uuid::Uuid::parse_str(text).map_err(|error| error.to_string());
        Ok(VmId { vcenter: uuid(&vm.vcenter_uuid)?, instance: uuid(&vm.instance_uuid)? })
    }

    /// What each disk holds now.
    ///
    /// # Errors
    /// Where vCenter can't be asked.
    pub async fn source(&self) -> Result<Hashes> {
        let mut hashes = Hashes::new();
        for disk in self.world.vcenter.vm(&self.name).await?.disks {
            hashes.insert(disk.key, self.world.vcenter.sha256(&self.name, disk.key).await?);
        }
        Ok(hashes)
    }

    /// Compares each seed disk that the ledger names with these, and counts what is left in vCenter.
    ///
    /// # Errors
    /// Where something can't be asked.
    pub async fn judge(&self, hashes: &Hashes) -> Result<Judged> {
        let id = self.id().await?;
        let ledger = self.world.log.ledger(id).await?.ok_or("there is no ledger")?;
        let mut judged = Judged { equal: 0, differs: Vec::new(), snapshots_left: self.world.vcenter.snapshots(&self.name).await?.len() };
        if !ledger.is_clean() {
            judged.differs.push("the ledger is dirty".to_owned());
        }
        for (disk, seed) in &ledger.seeds {
            let written = self.world.azure.sha256(&seed.id, seed.capacity).await?;
            match hashes.get(&i64::from(disk.0)) {
                Some(hash) if *hash == written => judged.equal += 1,
                Some(hash) => judged.differs.push(format!("disk {disk}: the source is {hash}, its seed {written}")),
                None => judged.differs.push(format!("disk {disk}: nothing to compare it with")),
            }
        }
        Ok(judged)
    }

    /// The replica is the VM as it is now, nothing is left in vCenter: for guests that write nothing meanwhile.
    ///
    /// # Errors
    /// What is not so.
    pub async fn equal_now(&self) -> Result<usize> {
        let judged = self.judge(&self.source().await?).await?;
        let vm = self.world.vcenter.vm(&self.name).await?;
        if vm.consolidation_needed || vm.disks.iter().any(|disk| disk.deltas > 0) {
            return Err(format!("{} has deltas left: {vm:?}", self.name));
        }
        if judged.differs.is_empty() && judged.snapshots_left == 0 { Ok(judged.equal) } else { Err(format!("{}: {judged:?}", self.name)) }
    }
}

/// Where a cycle is.
#[must_use]
pub fn phase(cycle: &ReplicationCycle) -> Option<CyclePhase> {
    cycle.status.as_ref().and_then(|status| status.phase)
}

/// The name of a cycle's snapshot, and whether it is gone.
#[must_use]
pub fn snapshot(cycle: &ReplicationCycle) -> Option<(String, bool)> {
    let snapshot = cycle.status.as_ref()?.source.as_ref()?.snapshot.as_ref()?;
    Some((snapshot.name.clone()?, snapshot.state == SnapshotState::Released))
}
