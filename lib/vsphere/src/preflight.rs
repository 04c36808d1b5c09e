//! What stands in the way of replicating a VM: a function of what vCenter tells.

use std::collections::{BTreeMap, BTreeSet};

use reasons::ConcernId;

use crate::{
    model::{
        datastore::Datastore,
        disk::{BackingKind, Disk, DiskMode},
        host::Host,
        vm::Vm,
    },
    moref::MoRef,
};

/// What a person should know before, and what blocks. Weight and remedy are the id's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    /// What it is.
    pub id: ConcernId,
    /// The disk's key, where it is about one.
    pub disk: Option<u32>,
    /// What is the matter.
    pub message: String,
}

impl Concern {
    fn new(id: ConcernId, message: impl Into<String>) -> Self {
        Self { id, disk: None, message: message.into() }
    }

    fn of(mut self, disk: &Disk) -> Self {
        self.disk = Some(disk.key);
        self
    }
}

/// From this depth on no snapshot is taken: vSphere allows 32.
pub const MAX_DEPTH: usize = 28;
/// The oldest virtual hardware whose changes are tracked.
const MIN_HARDWARE: u32 = 7;
/// The first build of ESXi 6.0 that does not lose changes while disks are consolidated (VMware KB 2136854, ESXi600-201511001).
const ESXI_60_CBT_FIX: u64 = 3_247_720;

/// A disk as the last cycle knew it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDisk {
    /// Its key.
    pub key: u32,
    /// What stays of it when its files move: [`Disk::identity`].
    pub identity: Option<String>,
    /// In bytes.
    pub capacity: u64,
}

/// What else there is to know.
#[derive(Debug, Default)]
pub struct Around<'a> {
    /// The VM's host.
    pub host: Option<&'a Host>,
    /// The datastores.
    pub datastores: Option<&'a BTreeMap<MoRef, Datastore>>,
    /// Disks that shall not be replicated.
    pub excluded: BTreeSet<u32>,
    /// Snapshots of the VM that are Hawser's own.
    pub own: BTreeSet<MoRef>,
    /// The disks of the last cycle; empty before the first.
    pub known: Vec<KnownDisk>,
    /// Less free space than this, in percent, and nothing is started on a datastore.
    pub free_percent: u64,
    /// Whether the guest has to be brought to rest.
    pub quiesce_required: bool,
    /// Whether Hawser may switch changed block tracking on.
    pub may_switch_tracking: bool,
}

/// What stands in the way, the worst first.
#[must_use]
pub fn preflight(vm: &Vm, around: &Around<'_>) -> Vec<Concern> {
    let mut found = Vec::new();
    whole_vm(vm, around, &mut found);
    tracking(vm, around, &mut found);
    snapshots(vm, around, &mut found);
    place(vm, around, &mut found);
    for disk in vm.disks().iter().filter(|disk| !around.excluded.contains(&disk.key)) {
        one_disk(vm, disk, &mut found);
    }
    since_last_cycle(vm, around, &mut found);
    found.sort_by(|a, b| a.id.severity().cmp(&b.id.severity()).then(a.disk.cmp(&b.disk)).then(a.id.as_str().cmp(b.id.as_str())));
    found
}

fn whole_vm(vm: &Vm, around: &Around<'_>, found: &mut Vec<Concern>) {
    if vm.instance_uuid.is_none() {
        found.push(Concern::new(ConcernId::NoInstanceUuid, "vCenter tells no instance UUID of the VM"));
    }
    if vm.template {
        found.push(Concern::new(ConcernId::Template, "It is a template"));
    }
    if vm.fault_tolerant {
        found.push(Concern::new(ConcernId::FaultTolerant, "The VM is fault tolerant: it takes no snapshots"));
    }
    if vm.encrypted {
        found.push(Concern::new(ConcernId::Encrypted, "The VM is encrypted: its disks can't be read as plain data"));
    }
    let devices = vm.devices.as_ref();
    if devices.is_some_and(|devices| devices.tpm) {
        found.push(Concern::new(ConcernId::VirtualTpm, "The VM has a virtual TPM, whose content is not replicated"));
    }
    for label in devices.map(|devices| devices.passthrough.as_slice()).unwrap_or_default() {
        found.push(Concern::new(
            ConcernId::Passthrough,
            format!("{label} is a device of the host: a running VM with one takes no snapshots"),
        ));
    }
    match devices {
        None => found.push(Concern::new(
            ConcernId::DevicesUnknown,
            format!("vCenter does not tell the VM's disks{}", unread(vm, "config.hardware.device")),
        )),
        Some(devices) if devices.disks.iter().all(|disk| around.excluded.contains(&disk.key)) => {
            found.push(Concern::new(ConcernId::NoDisks, "The VM has no disk to replicate"));
        }
        Some(_) => {}
    }
    let rest: Vec<&str> = vm.unread.keys().map(String::as_str).filter(|path| *path != "config.hardware.device").collect();
    if !rest.is_empty() {
        found.push(Concern::new(ConcernId::PartlyUnknown, format!("vCenter does not tell {}{}", rest.join(", "), unread(vm, rest[0]))));
    }
    if let Some(question) = &vm.question {
        found.push(Concern::new(ConcernId::Question, format!("The VM asks: {}", question.text)));
    }
    if around.quiesce_required && !vm.tools_running {
        found.push(Concern::new(ConcernId::ToolsNotRunning, "snapshot.quiesce is Require, and VMware Tools do not run in the guest"));
    }
    let blocked = |method: &str| vm.disabled_methods.iter().any(|disabled| disabled == method);
    if blocked("CreateSnapshot_Task") || blocked("CreateSnapshotEx_Task") || blocked("RemoveSnapshot_Task") {
        found.push(Concern::new(ConcernId::MethodDisabled, "Snapshots of the VM are disabled at the moment"));
    }
}

fn unread(vm: &Vm, path: &str) -> String {
    vm.unread.get(path).map(|why| format!(" ({why})")).unwrap_or_default()
}

fn tracking(vm: &Vm, around: &Around<'_>, found: &mut Vec<Concern>) {
    let unsupported = vm.hardware.is_some_and(|hardware| hardware < MIN_HARDWARE);
    if unsupported {
        found.push(Concern::new(
            ConcernId::ChangeTrackingUnsupported,
            format!("Virtual hardware version {} tracks no changes", vm.hardware.unwrap_or_default()),
        ));
    } else if vm.tracking_supported == Some(false) {
        found.push(Concern::new(ConcernId::ChangeTrackingUnsupported, "vCenter says that changes of this VM can't be tracked"));
    } else if !vm.tracking {
        let foreign = vm.snapshots.nodes.iter().any(|node| !around.own.contains(&node.snapshot));
        if foreign {
            found.push(Concern::new(
                ConcernId::ChangeTrackingBlocked,
                "Changed block tracking is off, and does not work for disks that had snapshots when it was switched on",
            ));
        } else if around.may_switch_tracking {
            found.push(Concern::new(
                ConcernId::ChangeTrackingToBeEnabled,
                "Changed block tracking is off; it is switched on before the first cycle (the VM stands still for a moment)",
            ));
        } else {
            found.push(Concern::new(ConcernId::ChangeTrackingOff, "Changed block tracking is off"));
        }
    } else {
        let tracked = |disk: &&Disk| !around.excluded.contains(&disk.key) && can_be_tracked(disk) && disk.backing.change_id.is_none();
        for disk in vm.disks().iter().filter(tracked) {
            found.push(
                Concern::new(
                    ConcernId::ChangeTrackingInactive,
                    format!("Changed block tracking is on, but {} has no change ID", disk.label),
                )
                .of(disk),
            );
        }
    }
    if let Some(host) = around.host
        && host.version.as_deref().is_some_and(|version| version.starts_with("6.0"))
        && host.build.is_some_and(|build| build < ESXI_60_CBT_FIX)
    {
        found.push(Concern::new(
            ConcernId::HostUnreliable,
            format!("{} runs an ESXi 6.0 that loses changes while disks are consolidated (VMware KB 2136854)", host.name),
        ));
    }
}

fn can_be_tracked(disk: &Disk) -> bool {
    let kind = matches!(disk.backing.kind, BackingKind::Flat | BackingKind::SeSparse | BackingKind::Sparse | BackingKind::RdmVirtual);
    kind && disk.backing.mode == DiskMode::Persistent
}

fn snapshots(vm: &Vm, around: &Around<'_>, found: &mut Vec<Concern>) {
    let foreign: Vec<&str> =
        vm.snapshots.nodes.iter().filter(|node| !around.own.contains(&node.snapshot)).map(|node| node.name.as_str()).collect();
    let depth = vm.snapshots.depth();
    let own = vm.snapshots.current_path().iter().filter(|node| around.own.contains(&node.snapshot)).count();
    if depth - own >= MAX_DEPTH {
        found.push(Concern::new(ConcernId::SnapshotChainLong, format!("{depth} snapshots lie on top of one another; vSphere allows 32")));
    } else if !foreign.is_empty() {
        found
            .push(Concern::new(ConcernId::ForeignSnapshots, format!("The VM has snapshots that are not Hawser's: {}", foreign.join(", "))));
    }
    if vm.consolidation_needed {
        found.push(Concern::new(
            ConcernId::ConsolidationNeeded,
            "Removed snapshots have left files that have to be merged; no new snapshot is taken before",
        ));
    }
    for disk in vm.disks().iter().filter(|disk| !around.excluded.contains(&disk.key)) {
        // Each snapshot below adds one file to the chain; what is beyond belongs to another VM. Independent disks have no part in snapshots.
        if disk.backing.mode == DiskMode::Persistent && disk.backing.chain.len() > depth + 1 && !vm.consolidation_needed {
            found.push(
                Concern::new(
                    ConcernId::LinkedClone,
                    format!(
                        "{} is built on a disk of another VM ({})",
                        disk.label,
                        disk.backing.chain.last().map_or("", |link| link.file.as_str())
                    ),
                )
                .of(disk),
            );
        }
    }
}

fn place(vm: &Vm, around: &Around<'_>, found: &mut Vec<Concern>) {
    if !vm.connection.is_empty() && vm.connection != "connected" {
        found.push(Concern::new(ConcernId::VmInaccessible, format!("vCenter calls the VM {}", vm.connection)));
    }
    if let Some(host) = around.host.filter(|host| !host.usable()) {
        let why = if host.maintenance { "is in maintenance mode" } else { "is not connected" };
        found.push(Concern::new(ConcernId::HostUnavailable, format!("The VM's host {} {why}", host.name)));
    }
    for datastore in vm.datastores.iter().filter_map(|reference| around.datastores?.get(reference)) {
        if !datastore.accessible {
            found.push(Concern::new(ConcernId::DatastoreUnavailable, format!("The datastore {} can't be reached", datastore.name)));
        } else if datastore.free_percent() < around.free_percent {
            found.push(Concern::new(
                ConcernId::DatastoreLow,
                format!("The datastore {} has {} % free, less than {} %", datastore.name, datastore.free_percent(), around.free_percent),
            ));
        }
    }
}

fn one_disk(vm: &Vm, disk: &Disk, found: &mut Vec<Concern>) {
    let label = &disk.label;
    let mut unfit = |id, message: String| found.push(Concern::new(id, message).of(disk));
    match &disk.backing.kind {
        BackingKind::Flat | BackingKind::SeSparse | BackingKind::Sparse | BackingKind::RdmVirtual => {}
        BackingKind::RdmPhysical => {
            unfit(ConcernId::RawDeviceMapping, format!("{label} is a LUN in physical compatibility mode: it takes no snapshots"))
        }
        BackingKind::Raw => {
            unfit(ConcernId::DiskBackingUnsupported, format!("{label} is a raw device: it takes no snapshots"));
        }
        BackingKind::Other(kind) => {
            unfit(ConcernId::DiskBackingUnsupported, format!("{label} is backed by {kind}, whose changes can't be tracked"));
        }
    }
    match disk.backing.mode {
        DiskMode::Persistent => {}
        DiskMode::Independent => {
            unfit(ConcernId::IndependentDisk, format!("{label} is independent: snapshots leave it out"));
        }
        DiskMode::NonPersistent => {
            unfit(ConcernId::DiskBackingUnsupported, format!("{label} throws its changes away at power off"));
        }
    }
    if disk.backing.multi_writer {
        unfit(ConcernId::SharedDisk, format!("{label} may be written by several VMs"));
    }
    if let Some(bus) = vm.devices.iter().flat_map(|devices| &devices.shared).find(|bus| disk.controller == Some(bus.key)) {
        unfit(ConcernId::SharedDisk, format!("{label} is at a controller that shares its bus ({})", bus.sharing));
    }
    if disk.backing.encrypted && !vm.encrypted {
        unfit(ConcernId::Encrypted, format!("{label} is encrypted: it can't be read as plain data"));
    }
    if disk.capacity == 0 || !disk.capacity.is_multiple_of(extents::SECTOR) {
        unfit(ConcernId::CapacityOdd, format!("{label} has {} bytes, which is no size of a disk", disk.capacity));
    }
    if disk.backing.kind == BackingKind::RdmVirtual {
        found.push(Concern::new(ConcernId::RdmVirtual, format!("{label} is a LUN in virtual compatibility mode")).of(disk));
    }
}

fn since_last_cycle(vm: &Vm, around: &Around<'_>, found: &mut Vec<Concern>) {
    // Without the devices nothing can be said about what is gone.
    if around.known.is_empty() || vm.devices.is_none() {
        return;
    }
    for disk in vm.disks().iter().filter(|disk| !around.excluded.contains(&disk.key)) {
        let label = &disk.label;
        match around.known.iter().find(|known| known.key == disk.key) {
            None => found.push(Concern::new(ConcernId::DiskAdded, format!("{label} is new")).of(disk)),
            Some(known) if known.identity.as_deref().zip(disk.identity()).is_some_and(|(then, now)| then != now) => {
                found.push(Concern::new(ConcernId::DiskReplaced, format!("{label} is another disk than before")).of(disk))
            }
            Some(known) if disk.capacity > known.capacity => found.push(
                Concern::new(ConcernId::DiskGrown, format!("{label} has grown from {} to {} bytes", known.capacity, disk.capacity))
                    .of(disk),
            ),
            Some(known) if disk.capacity < known.capacity => {
                found.push(Concern::new(ConcernId::DiskShrunk, format!("{label} is smaller than before")).of(disk))
            }
            Some(_) => {}
        }
    }
    for known in around.known.iter().filter(|known| !vm.disks().iter().any(|disk| disk.key == known.key)) {
        found.push(Concern {
            disk: Some(known.key),
            ..Concern::new(ConcernId::DiskRemoved, format!("The disk with the key {} is gone", known.key))
        });
    }
}
