//! Everything that Resource Manager remembers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::operations::Operation;
use super::rbac::Rbac;
use super::throttle::Throttles;
use crate::config::{Config, Registration, seconds};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte: `diskSizeGB` counts these.
pub const GIB: u64 = 1 << 30;

/// All resources, by their ids in lower case.
pub struct World {
    /// Resource groups, by name in lower case.
    pub groups: BTreeMap<String, Group>,
    /// Disks and snapshots.
    pub volumes: BTreeMap<String, Volume>,
    /// Network cards.
    pub nics: BTreeMap<String, Nic>,
    /// Virtual machines.
    pub vms: BTreeMap<String, Vm>,
    /// Virtual networks.
    pub networks: BTreeMap<String, Network>,
    /// Network security groups and storage accounts: what is only looked at.
    pub fixtures: BTreeMap<String, Fixture>,
    /// Operations that run or ran.
    pub operations: BTreeMap<Uuid, Operation>,
    /// Who may do what.
    pub rbac: Rbac,
    /// Throttles.
    pub throttles: Throttles,
    /// Resource providers by their real names.
    pub providers: BTreeMap<String, Registration>,
    /// Limits for each region.
    pub quotas: BTreeMap<String, BTreeMap<String, u64>>,
    /// When snapshots of a disk were taken.
    pub snapshots_taken: BTreeMap<String, Vec<Timestamp>>,
    /// Counts operations, so that those which end at the same time end in their order.
    pub sequence: u64,
}

/// A resource group.
#[derive(Debug, Clone)]
pub struct Group {
    /// As it was created.
    pub name: String,
    /// Its region.
    pub location: String,
    /// Its tags.
    pub tags: Map<String, Value>,
}

/// What every resource has.
#[derive(Debug, Clone)]
pub struct Common {
    /// Its id, as it was created.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its resource group's name.
    pub group: String,
    /// Its region.
    pub location: String,
    /// Its tags.
    pub tags: Map<String, Value>,
    /// `Creating`, `Updating`, `Deleting`, `Succeeded`, `Failed`.
    pub provisioning: &'static str,
    /// The operation that holds it.
    pub busy: Option<Uuid>,
    /// Since when it exists.
    pub created: Timestamp,
}

/// Whether a volume is a disk or a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A managed disk.
    Disk,
    /// A snapshot.
    Snapshot,
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// Not an upload, or over: there is no way back.
    Done,
    /// No write SAS was given yet.
    Ready,
    /// A write SAS was given.
    Active,
}

/// An outstanding SAS.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// When it ends.
    pub until: Timestamp,
}

/// A copy that goes on behind a volume which can be used already.
#[derive(Debug, Clone, Copy)]
pub struct Hydration {
    /// When it began.
    pub start: Timestamp,
    /// When all is there.
    pub end: Timestamp,
}

/// A managed disk or a snapshot.
#[derive(Debug, Clone)]
pub struct Volume {
    /// What every resource has.
    pub common: Common,
    /// Disk or snapshot.
    pub kind: Kind,
    /// Its zone, in a list.
    pub zones: Vec<String>,
    /// As `Premium_LRS`.
    pub sku: String,
    /// Its properties as they were accepted.
    pub properties: Map<String, Value>,
    /// Bytes, without a footer.
    pub content: u64,
    /// New for every disk, whatever its name.
    pub unique: Uuid,
    /// How far its upload is.
    pub upload: Upload,
    /// The VM it belongs to, in lower case.
    pub owner: Option<String>,
    /// Outstanding SAS.
    pub grants: Vec<Grant>,
    /// A copy that goes on.
    pub hydration: Option<Hydration>,
    /// Of incremental snapshots: what they share.
    pub family: Option<Uuid>,
}

/// A network card.
#[derive(Debug, Clone)]
pub struct Nic {
    /// What every resource has.
    pub common: Common,
    /// Its properties as they were accepted, with the addresses given out.
    pub properties: Map<String, Value>,
    /// The VM it belongs to, in lower case.
    pub owner: Option<String>,
    /// A VM whose creation failed, and until when the card waits for it.
    pub reserved: Option<(String, Timestamp)>,
    /// Its MAC address, once it belongs to a VM.
    pub mac: String,
    /// New for every card.
    pub unique: Uuid,
}

/// What a VM's power is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// On its way up.
    Starting,
    /// On.
    Running,
    /// On its way down.
    Stopping,
    /// Off, yet paid for, and its disks held.
    Stopped,
    /// On its way off its host.
    Deallocating,
    /// Off its host.
    Deallocated,
}

impl Power {
    /// As in `PowerState/running`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Deallocating => "deallocating",
            Self::Deallocated => "deallocated",
        }
    }

    /// As Azure shows it.
    #[must_use]
    pub fn display(self) -> String {
        format!("VM {}", self.code())
    }
}

/// A virtual machine.
#[derive(Debug, Clone)]
pub struct Vm {
    /// What every resource has.
    pub common: Common,
    /// Its zone, in a list.
    pub zones: Vec<String>,
    /// Its properties as they were accepted.
    pub properties: Map<String, Value>,
    /// Its power.
    pub power: Power,
    /// Its size.
    pub size: String,
    /// Its disks with what happens to each when it is deleted, in lower case; the OS disk first.
    pub disks: Vec<(String, bool)>,
    /// Its cards with what happens to each when it is deleted, in lower case.
    pub nics: Vec<(String, bool)>,
    /// New for every VM.
    pub unique: Uuid,
}

/// A virtual network.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its region.
    pub location: String,
    /// Its addresses.
    pub prefix: String,
    /// Its subnets: name and addresses.
    pub subnets: Vec<(String, String)>,
}

/// A resource that is only looked at.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// Its region.
    pub location: String,
    /// As it is shown.
    pub shown: Value,
}

impl World {
    /// As the configuration has it.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let scope = |group: &str| format!("/subscriptions/{}/resourceGroups/{group}", config.subscription);
        let mut world = Self {
            groups: BTreeMap::new(),
            volumes: BTreeMap::new(),
            nics: BTreeMap::new(),
            vms: BTreeMap::new(),
            networks: BTreeMap::new(),
            fixtures: BTreeMap::new(),
            operations: BTreeMap::new(),
            rbac: Rbac::new(config),
            throttles: Throttles::new(config.throttle.scale),
            providers: config.providers.clone(),
            quotas: BTreeMap::new(),
            snapshots_taken: BTreeMap::new(),
            sequence: 0,
        };
        for group in &config.groups {
            let tags = group.tags.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            let known = Group { name: group.name.clone(), location: group.location.clone(), tags };
            world.groups.insert(group.name.to_ascii_lowercase(), known);
        }
        for location in &config.locations {
            world.quotas.insert(location.clone(), config.quotas.clone());
        }
        for network in &config.networks {
            let id = format!("{}/providers/Microsoft.Network/virtualNetworks/{}", scope(&network.group), network.name);
            let subnets = network.subnets.iter().map(|subnet| (subnet.name.clone(), subnet.prefix.clone())).collect();
            let known = Network {
                id: id.clone(),
                name: network.name.clone(),
                location: network.location.clone(),
                prefix: network.prefix.clone(),
                subnets,
            };
            world.networks.insert(id.to_ascii_lowercase(), known);
        }
        for group in &config.security_groups {
            let id = format!("{}/providers/Microsoft.Network/networkSecurityGroups/{}", scope(&group.group), group.name);
            let shown = json!({
                "id": id, "name": group.name, "type": "Microsoft.Network/networkSecurityGroups", "location": group.location,
                "properties": { "provisioningState": "Succeeded", "securityRules": [], "defaultSecurityRules": [] },
            });
            world.fixtures.insert(id.to_ascii_lowercase(), Fixture { location: group.location.clone(), shown });
        }
        for account in &config.storage_accounts {
            let id = format!("{}/providers/Microsoft.Storage/storageAccounts/{}", scope(&account.group), account.name);
            let shown = json!({
                "id": id, "name": account.name, "type": "Microsoft.Storage/storageAccounts", "location": account.location,
                "kind": "StorageV2", "sku": { "name": "Standard_LRS", "tier": "Standard" },
                "properties": {
                    "provisioningState": "Succeeded", "allowSharedKeyAccess": true,
                    "primaryEndpoints": { "blob": format!("{}/", account.blob_endpoint.trim_end_matches('/')) },
                },
            });
            world.fixtures.insert(id.to_ascii_lowercase(), Fixture { location: account.location.clone(), shown });
        }
        world
    }

    /// The common part of the resource with this id, whatever it is.
    pub fn common_mut(&mut self, key: &str) -> Option<&mut Common> {
        if let Some(volume) = self.volumes.get_mut(key) {
            return Some(&mut volume.common);
        }
        if let Some(nic) = self.nics.get_mut(key) {
            return Some(&mut nic.common);
        }
        self.vms.get_mut(key).map(|vm| &mut vm.common)
    }

    /// A volume's state: learn.microsoft.com, REST API of disks, `DiskState`.
    #[must_use]
    pub fn disk_state(&self, volume: &Volume, now: Timestamp) -> &'static str {
        match volume.upload {
            Upload::Ready => return "ReadyToUpload",
            // It stays so when the SAS has expired: beginGetAccess gives another ("Upload a VHD", 2019).
            Upload::Active => return "ActiveUpload",
            Upload::Done => {}
        }
        if volume.has_sas(now) {
            return "ActiveSAS";
        }
        match volume.owner.as_ref().and_then(|owner| self.vms.get(owner)) {
            Some(vm) if vm.power == Power::Deallocated => "Reserved",
            Some(_) => "Attached",
            None => "Unattached",
        }
    }
}

impl Volume {
    /// Whether a SAS is outstanding that has not expired.
    #[must_use]
    pub fn has_sas(&self, now: Timestamp) -> bool {
        self.grants.iter().any(|grant| grant.until > now)
    }

    /// How much of a copy is there.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100")]
    pub fn completion(&self, now: Timestamp) -> Option<f64> {
        let Hydration { start, end } = self.hydration?;
        if now >= end {
            return Some(100.0);
        }
        let whole = end.duration_since(start).as_secs_f64();
        let done = now.duration_since(start).as_secs_f64().max(0.0);
        Some((done / whole * 100.0).floor().clamp(0.0, 99.0))
    }

    /// `diskSizeGB`.
    #[must_use]
    pub fn gib(&self) -> u64 {
        self.content.div_ceil(GIB)
    }
}

/// How long a copy of this many bytes takes.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a length of time")]
pub fn hydration(content: u64, config: &Config, now: Timestamp) -> Hydration {
    let length = seconds(content as f64 / MIB as f64 / config.times.copy_mib);
    Hydration {
        start: now,
        end: now.saturating_add(jiff::SignedDuration::try_from(length).unwrap_or(jiff::SignedDuration::MAX)).unwrap_or(Timestamp::MAX),
    }
}
