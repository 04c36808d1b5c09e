//! Virtual disks and what lies behind them.

use crate::{error::Error, model::read::Read, moref::MoRef};

/// What kind of thing holds a disk's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackingKind {
    /// A file on VMFS, NFS, vSAN or a vVol.
    Flat,
    /// A space-efficient delta, as snapshots make them on VMFS 6.
    SeSparse,
    /// A sparse file of hosted products.
    Sparse,
    /// A LUN behind a mapping file that takes snapshots (virtual compatibility mode).
    RdmVirtual,
    /// A LUN behind a mapping file that takes none (physical compatibility mode).
    RdmPhysical,
    /// A raw device, or a partition of one.
    Raw,
    /// A file of the first format (ESX 2), or whatever else there is: the type's name.
    Other(String),
}

/// How a disk takes part in snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskMode {
    /// It does.
    Persistent,
    /// It does not: snapshots leave it out.
    Independent,
    /// What is written is thrown away at power off.
    NonPersistent,
}

/// One file of a disk's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `[datastore] folder/name.vmdk`
    pub file: String,
    /// The disk's own UUID: the same along its chain.
    pub uuid: Option<String>,
    /// What names the content.
    pub content_id: Option<String>,
    /// What names the object on vSAN and vVols.
    pub object_id: Option<String>,
}

/// What holds a disk's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its kind.
    pub kind: BackingKind,
    /// Its chain: the file that is written first, the base last.
    pub chain: Vec<Link>,
    /// Where its first file lies.
    pub datastore: Option<MoRef>,
    /// The position of changed block tracking; none where changes are not tracked.
    pub change_id: Option<String>,
    /// How it takes part in snapshots.
    pub mode: DiskMode,
    /// True where several VMs may write it.
    pub multi_writer: bool,
    /// True where it is encrypted.
    pub encrypted: bool,
    /// True where it is provisioned thin, if told.
    pub thin: Option<bool>,
}

impl Backing {
    /// The file that is written.
    #[must_use]
    pub fn file(&self) -> &str {
        self.chain.first().map_or("", |link| link.file.as_str())
    }

    /// The UUID of the disk.
    #[must_use]
    pub fn uuid(&self) -> Option<&str> {
        self.chain.first().and_then(|link| link.uuid.as_deref())
    }

    fn read(backing: Read<'_>) -> Result<Self, Error> {
        let kind = backing.element().xsi_type().unwrap_or_default();
        let rdm = |backing: Read<'_>| match backing.optional_text("compatibilityMode") {
            Some("virtualMode") => BackingKind::RdmVirtual,
            // One that does not say is taken for the worse.
            _ => BackingKind::RdmPhysical,
        };
        let kind = match kind {
            "VirtualDiskFlatVer2BackingInfo" => BackingKind::Flat,
            "VirtualDiskSeSparseBackingInfo" => BackingKind::SeSparse,
            "VirtualDiskSparseVer2BackingInfo" => BackingKind::Sparse,
            "VirtualDiskRawDiskMappingVer1BackingInfo" => rdm(backing),
            "VirtualDiskRawDiskVer2BackingInfo" | "VirtualDiskPartitionedRawDiskVer2BackingInfo" => BackingKind::Raw,
            other => BackingKind::Other(other.to_owned()),
        };
        let mode = match backing.optional_text("diskMode") {
            Some(mode) if mode.starts_with("independent") => DiskMode::Independent,
            Some("nonpersistent" | "undoable") => DiskMode::NonPersistent,
            _ => DiskMode::Persistent,
        };
        let mut chain = Vec::new();
        let mut next = Some(backing);
        while let Some(link) = next {
            let text = |name| link.optional_text(name).filter(|text| !text.is_empty()).map(str::to_owned);
            chain.push(Link {
                file: text("fileName").or_else(|| text("descriptorFileName")).unwrap_or_default(),
                uuid: text("uuid"),
                content_id: text("contentId"),
                object_id: text("backingObjectId"),
            });
            next = link.optional_object("parent");
        }
        Ok(Self {
            kind,
            chain,
            datastore: backing.reference("datastore").ok(),
            change_id: backing.optional_text("changeId").filter(|id| !id.is_empty()).map(str::to_owned),
            mode,
            multi_writer: backing.optional_text("sharing") == Some("sharingMultiWriter"),
            encrypted: backing.optional_object("keyId").is_some(),
            thin: backing.optional_flag("thinProvisioned")?,
        })
    }
}

/// A disk of a VM, or of a snapshot of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its key: what it is known by.
    pub key: u32,
    /// Its controller's key.
    pub controller: Option<i64>,
    /// Its place at the controller.
    pub unit: Option<i64>,
    /// For people: `Hard disk 1`.
    pub label: String,
    /// In bytes.
    pub capacity: u64,
    /// What vCenter calls it across snapshots, on those that tell.
    pub object_id: Option<String>,
    /// Its id as a first class disk, where it is one.
    pub first_class: Option<String>,
    /// What holds its bytes.
    pub backing: Backing,
}

impl Disk {
    /// What stays of it when its files move: the UUID of its backing, else what vCenter calls it.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.backing.uuid().or(self.object_id.as_deref())
    }

    fn read(device: Read<'_>) -> Result<Self, Error> {
        let capacity = match device.optional_i64("capacityInBytes")? {
            Some(_) => device.u64("capacityInBytes")?,
            // Before 5.5 there was only this.
            None => device.u64("capacityInKB")?.saturating_mul(1024),
        };
        let text = |name| device.optional_text(name).filter(|text| !text.is_empty()).map(str::to_owned);
        let label = device.optional_object("deviceInfo").and_then(|info| info.optional_text("label")).unwrap_or_default();
        Ok(Self {
            key: device.key("key")?,
            controller: device.optional_i64("controllerKey")?,
            unit: device.optional_i64("unitNumber")?,
            label: label.to_owned(),
            capacity,
            object_id: text("diskObjectId"),
            first_class: device.optional_object("vDiskId").and_then(|id| id.optional_text("id")).map(str::to_owned),
            backing: Backing::read(device.object("backing")?)?,
        })
    }
}

/// A SCSI controller that shares its bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedBus {
    /// Its key.
    pub key: i64,
    /// `physicalSharing` or `virtualSharing`.
    pub sharing: String,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its key.
    pub key: i64,
    /// For people: `Network adapter 1`.
    pub label: String,
    /// Its address: `00:50:56:..`
    pub mac: Option<String>,
    /// The name of its network, where told.
    pub network: Option<String>,
    /// Whether it is connected.
    pub connected: bool,
}

/// The devices of a VM that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Controllers that share their bus.
    pub shared: Vec<SharedBus>,
    /// Its network cards.
    pub nics: Vec<Nic>,
    /// Whether it has a virtual TPM.
    pub tpm: bool,
    /// Devices of the host that are passed through: for people.
    pub passthrough: Vec<String>,
}

impl Devices {
    /// From `config.hardware.device`, of a VM or of a snapshot.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn read(array: &crate::xml::Element) -> Result<Self, Error> {
        let mut devices = Self::default();
        for element in &array.children {
            let device = Read::of("config.hardware.device", element);
            let label = device.optional_object("deviceInfo").and_then(|info| info.optional_text("label")).unwrap_or_default();
            match element.xsi_type().unwrap_or_default() {
                "VirtualDisk" => devices.disks.push(Disk::read(device)?),
                "VirtualTPM" => devices.tpm = true,
                "VirtualPCIPassthrough" | "VirtualSriovEthernetCard" => devices.passthrough.push(label.to_owned()),
                _ if device.optional_text("sharedBus").is_some_and(|sharing| sharing != "noSharing") => {
                    let sharing = device.optional_text("sharedBus").unwrap_or_default().to_owned();
                    devices.shared.push(SharedBus { key: device.i64("key")?, sharing });
                }
                _ if device.optional_text("macAddress").is_some() => devices.nics.push(Nic {
                    key: device.i64("key")?,
                    label: label.to_owned(),
                    mac: device.optional_text("macAddress").filter(|mac| !mac.is_empty()).map(str::to_owned),
                    network: device.optional_object("backing").and_then(|backing| backing.optional_text("deviceName")).map(str::to_owned),
                    connected: match device.optional_object("connectable") {
                        Some(connectable) => connectable.optional_flag("connected")?.unwrap_or(false),
                        None => false,
                    },
                }),
                _ => {}
            }
        }
        devices.disks.sort_by_key(|disk| disk.key);
        Ok(devices)
    }

    /// A disk by its key.
    #[must_use]
    pub fn disk(&self, key: u32) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.key == key)
    }
}
