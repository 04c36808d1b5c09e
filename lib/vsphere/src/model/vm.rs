//! Virtual machines.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    error::Error,
    fault::Fault,
    methods::properties::items,
    model::{disk::Devices, read::Read, snapshots::Tree},
    moref::MoRef,
    xml::Element,
};

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Power {
    /// It does.
    On,
    /// It does not.
    Off,
    /// Its memory lies on disk.
    Suspended,
    /// vCenter does not say.
    #[default]
    Unknown,
}

/// How the guest is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// By a BIOS: generation 1 in Azure.
    Bios,
    /// By UEFI: generation 2.
    Efi,
}

/// A question that the VM waits for an answer to: it stands still until a person gives one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its id.
    pub id: String,
    /// What it asks.
    pub text: String,
}

/// A VM as vCenter tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// What names it for good in its vCenter.
    pub instance_uuid: Option<Uuid>,
    /// The BIOS's UUID: clones may share it.
    pub bios_uuid: Option<Uuid>,
    /// The version of its virtual hardware: 13 for `vmx-13`.
    pub hardware: Option<u32>,
    /// Whether changed block tracking is switched on (not: whether it works yet).
    pub tracking: bool,
    /// Whether it can be.
    pub tracking_supported: Option<bool>,
    /// `[datastore] folder/name.vmx`
    pub path: String,
    /// Its devices; none where they have not been read.
    pub devices: Option<Devices>,
    /// How it is started.
    pub firmware: Option<Firmware>,
    /// VMware's id of its operating system: `ubuntu64Guest`.
    pub guest_id: Option<String>,
    /// The operating system in words.
    pub guest_name: Option<String>,
    /// Whether it is a template.
    pub template: bool,
    /// Whether it has a twin for fault tolerance.
    pub fault_tolerant: bool,
    /// Whether its own files are encrypted.
    pub encrypted: bool,
    /// Where it runs.
    pub host: Option<MoRef>,
    /// Whether it runs.
    pub power: Power,
    /// Since when it has been seen off by a watch that did not break: not what vCenter tells, but what [`crate::collector`] saw.
    pub off_since: Option<Timestamp>,
    /// When it was started, where that was asked for: unset while it is off.
    pub booted: Option<Timestamp>,
    /// `connected`, `disconnected`, `orphaned`, `inaccessible` or `invalid`.
    pub connection: String,
    /// Whether removed snapshots have left something to merge.
    pub consolidation_needed: bool,
    /// What it asks.
    pub question: Option<Question>,
    /// Whether VMware Tools run in the guest.
    pub tools_running: bool,
    /// Where its files lie.
    pub datastores: Vec<MoRef>,
    /// Its snapshots.
    pub snapshots: Tree,
    /// Methods that somebody has disabled for it: `RelocateVM_Task` while a backup runs.
    pub disabled_methods: Vec<String>,
    /// Its recent tasks.
    pub tasks: Vec<MoRef>,
    /// What could not be read, and why.
    pub unread: BTreeMap<String, String>,
}

impl Vm {
    /// The properties that are read.
    pub const PATHS: &'static [&'static str] = &[
        "name",
        "config.instanceUuid",
        "config.uuid",
        "config.version",
        "config.changeTrackingEnabled",
        "config.files.vmPathName",
        "config.hardware.device",
        "config.firmware",
        "config.guestId",
        "config.guestFullName",
        "config.template",
        "config.ftInfo",
        "config.keyId",
        "capability.changeTrackingSupported",
        "runtime.host",
        "runtime.powerState",
        "runtime.connectionState",
        "runtime.consolidationNeeded",
        "runtime.question",
        "guest.toolsRunningStatus",
        "datastore",
        "snapshot",
        "disabledMethod",
        "recentTask",
    ];

    /// Takes over a property; `None` where it is unset. One that can't be read is noted in [`Self::unread`] and leaves the rest as it is: one
    /// odd VM must not blind us to all others.
    pub fn set(&mut self, path: &str, value: Option<&Element>) {
        match self.try_set(path, value) {
            Ok(()) => {
                self.unread.remove(path);
            }
            Err(error) => {
                self.unread.insert(path.to_owned(), error.to_string());
            }
        }
    }

    /// Notes that a property is not told, and why.
    pub fn set_missing(&mut self, path: &str, fault: &Fault) {
        self.unread.insert(path.to_owned(), fault.to_string());
    }

    fn try_set(&mut self, path: &str, value: Option<&Element>) -> Result<(), Error> {
        let read = value.map(|value| Read::of(path, value));
        let text = || read.map(|read| read.own_text().to_owned()).filter(|text| !text.is_empty());
        let flag = || read.map_or(Ok(false), |read| read.own_flag());
        let uuid = || read.filter(|read| !read.own_text().is_empty()).map(|read| read.own_uuid()).transpose();
        let references = || value.into_iter().flat_map(items).filter_map(MoRef::read).collect();
        match path {
            "name" => self.name = text().unwrap_or_default(),
            "config.instanceUuid" => self.instance_uuid = uuid()?,
            "config.uuid" => self.bios_uuid = uuid()?,
            "config.version" => self.hardware = text().and_then(|text| text.strip_prefix("vmx-")?.parse().ok()),
            "config.changeTrackingEnabled" => self.tracking = flag()?,
            "config.files.vmPathName" => self.path = text().unwrap_or_default(),
            "config.hardware.device" => {
                // What was read before is not what it is now.
                self.devices = None;
                self.devices = value.map(Devices::read).transpose()?;
            }
            "config.firmware" => {
                self.firmware = match text().as_deref() {
                    Some("efi") => Some(Firmware::Efi),
                    Some("bios") => Some(Firmware::Bios),
                    _ => None,
                }
            }
            "config.guestId" => self.guest_id = text(),
            "config.guestFullName" => self.guest_name = text(),
            "config.template" => self.template = flag()?,
            "config.ftInfo" => self.fault_tolerant = value.is_some(),
            "config.keyId" => self.encrypted = value.is_some(),
            "capability.changeTrackingSupported" => self.tracking_supported = read.map(|read| read.own_flag()).transpose()?,
            "runtime.host" => self.host = value.and_then(MoRef::read),
            "runtime.powerState" => {
                self.power = match text().as_deref() {
                    Some("poweredOn") => Power::On,
                    Some("poweredOff") => Power::Off,
                    Some("suspended") => Power::Suspended,
                    _ => Power::Unknown,
                }
            }
            "runtime.bootTime" => self.booted = read.filter(|read| !read.own_text().is_empty()).map(|read| read.own_time()).transpose()?,
            "runtime.connectionState" => self.connection = text().unwrap_or_default(),
            "runtime.consolidationNeeded" => self.consolidation_needed = flag()?,
            "runtime.question" => {
                self.question = read.map(|read| Question {
                    id: read.optional_text("id").unwrap_or_default().to_owned(),
                    text: read.optional_text("text").unwrap_or_default().to_owned(),
                });
            }
            "guest.toolsRunningStatus" => {
                self.tools_running = matches!(text().as_deref(), Some("guestToolsRunning" | "guestToolsExecutingScripts"));
            }
            "datastore" => self.datastores = references(),
            "snapshot" => self.snapshots = value.map(Tree::read).transpose()?.unwrap_or_default(),
            "disabledMethod" => self.disabled_methods = value.into_iter().flat_map(items).map(|item| item.text.trim().to_owned()).collect(),
            "recentTask" => self.tasks = references(),
            _ => {}
        }
        Ok(())
    }

    /// Its disks.
    #[must_use]
    pub fn disks(&self) -> &[crate::model::disk::Disk] {
        self.devices.as_ref().map(|devices| devices.disks.as_slice()).unwrap_or_default()
    }
}

/// The VMs by reference.
pub type Vms = BTreeMap<MoRef, Vm>;
