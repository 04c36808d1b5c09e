//! What stands in the way of replicating a VM: a function of what vCenter tells.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{
        datastore::Datastore,
        disk::{BackingKind, Disk, DiskMode},
        host::Host,
        vm::Vm,
    },
    moref::MoRef,
};

/// How much a concern matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Replication goes on, with a drawback or after a wait.
    Warning,
    /// Nothing is replicated before it is mended, or (where it is acceptable) accepted.
    Critical,
}

/// What a person should know before, and what blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    /// The word that names it, from a closed set: what `acceptConcerns` lists.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// The disk's key, where it is about one.
    pub disk: Option<u32>,
    /// What is the matter.
    pub message: String,
    /// What helps.
    pub remedy: String,
    /// True where a person may say that it shall be replicated all the same.
    pub acceptable: bool,
}

impl Concern {
    fn new(id: &'static str, severity: Severity, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { id, severity, disk: None, message: message.into(), remedy: remedy.into(), acceptable: false }
    }

    fn of(mut self, disk: &Disk) -> Self {
        self.disk = Some(disk.key);
        self
    }

    fn acceptable(mut self) -> Self {
        self.acceptable = true;
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
    found.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.disk.cmp(&b.disk)).then(a.id.cmp(b.id)));
    found
}

use Severity::{Critical, Info, Warning};

fn whole_vm(vm: &Vm, around: &Around<'_>, found: &mut Vec<Concern>) {
    if vm.instance_uuid.is_none() {
        found.push(Concern::new(
            "NoInstanceUuid",
            Critical,
            "vCenter tells no instance UUID of the VM",
            "Register the VM at a vCenter that gives it one",
        ));
    }
    if vm.template {
        found.push(Concern::new("Template", Critical, "It is a template", "Convert it to a virtual machine"));
    }
    if vm.fault_tolerant {
        found.push(Concern::new(
            "FaultTolerance",
            Critical,
            "The VM is fault tolerant: it takes no snapshots",
            "Turn fault tolerance off for it",
        ));
    }
    if vm.encrypted {
        found.push(Concern::new(
            "Encrypted",
            Critical,
            "The VM is encrypted: its disks can't be read as plain data",
            "Decrypt it in vCenter",
        ));
    }
    let devices = vm.devices.as_ref();
    if devices.is_some_and(|devices| devices.tpm) {
        found.push(Concern::new(
            "VirtualTpm",
            Warning,
            "The VM has a virtual TPM, whose content is not replicated",
            "Keep the recovery keys of what is sealed by it (BitLocker) at hand",
        ));
    }
    for label in devices.map(|devices| devices.passthrough.as_slice()).unwrap_or_default() {
        found.push(Concern::new(
            "Passthrough",
            Warning,
            format!("{label} is a device of the host: a running VM with one takes no snapshots"),
            "Remove the device, or power the VM off for its cycles",
        ));
    }
    match devices {
        None => found.push(Concern::new(
            "DevicesUnknown",
            Critical,
            format!("vCenter does not tell the VM's disks{}", unread(vm, "config.hardware.device")),
            "Give the vCenter user read access to the VM, and look whether the VM is accessible",
        )),
        Some(devices) if devices.disks.iter().all(|disk| around.excluded.contains(&disk.key)) => {
            found.push(Concern::new("NoDisks", Critical, "The VM has no disk to replicate", "Add a disk, or exclude fewer"));
        }
        Some(_) => {}
    }
    let rest: Vec<&str> = vm.unread.keys().map(String::as_str).filter(|path| *path != "config.hardware.device").collect();
    if !rest.is_empty() {
        found.push(Concern::new(
            "PartlyUnknown",
            Warning,
            format!("vCenter does not tell {}{}", rest.join(", "), unread(vm, rest[0])),
            "Give the vCenter user read access to the VM, and look whether the VM is accessible",
        ));
    }
    if let Some(question) = &vm.question {
        found.push(Concern::new("Question", Warning, format!("The VM asks: {}", question.text), "Answer it in vCenter"));
    }
    if around.quiesce_required && !vm.tools_running {
        found.push(Concern::new(
            "ToolsNotRunning",
            Critical,
            "snapshot.quiesce is Require, and VMware Tools do not run in the guest",
            "Start VMware Tools, or set snapshot.quiesce to Try",
        ));
    }
    let blocked = |method: &str| vm.disabled_methods.iter().any(|disabled| disabled == method);
    if blocked("CreateSnapshot_Task") || blocked("CreateSnapshotEx_Task") || blocked("RemoveSnapshot_Task") {
        found.push(Concern::new(
            "MethodDisabled",
            Warning,
            "Snapshots of the VM are disabled at the moment",
            "Wait for the backup that has disabled them; if none runs, have them enabled again",
        ));
    }
}

fn unread(vm: &Vm, path: &str) -> String {
    vm.unread.get(path).map(|why| format!(" ({why})")).unwrap_or_default()
}

fn tracking(vm: &Vm, around: &Around<'_>, found: &mut Vec<Concern>) {
    let unsupported = vm.hardware.is_some_and(|hardware| hardware < MIN_HARDWARE);
    if unsupported {
        found.push(
            Concern::new(
                "HardwareTooOld",
                Critical,
                format!("Virtual hardware version {} tracks no changes", vm.hardware.unwrap_or_default()),
                format!("Upgrade it to version {MIN_HARDWARE} or later, or accept that each cycle reads the whole disks"),
            )
            .acceptable(),
        );
    } else if vm.tracking_supported == Some(false) {
        found.push(
            Concern::new(
                "CbtUnsupported",
                Critical,
                "vCenter says that changes of this VM can't be tracked",
                "See its disks' concerns, or accept that each cycle reads the whole disks",
            )
            .acceptable(),
        );
    } else if !vm.tracking {
        let foreign = vm.snapshots.nodes.iter().any(|node| !around.own.contains(&node.snapshot));
        if foreign {
            found.push(
                Concern::new(
                    "CbtNeedsNoSnapshots",
                    Critical,
                    "Changed block tracking is off, and does not work for disks that had snapshots when it was switched on",
                    "Remove the VM's snapshots, or accept that each cycle reads the whole disks until they are gone",
                )
                .acceptable(),
            );
        } else if around.may_switch_tracking {
            found.push(Concern::new(
                "CbtOff",
                Info,
                "Changed block tracking is off; it is switched on before the first cycle (the VM stands still for a moment)",
                "Nothing",
            ));
        } else {
            found.push(
                Concern::new(
                    "CbtOff",
                    Critical,
                    "Changed block tracking is off",
                    "Switch it on, let Hawser do it, or accept that each cycle reads the whole disks",
                )
                .acceptable(),
            );
        }
    } else {
        let tracked = |disk: &&Disk| !around.excluded.contains(&disk.key) && can_be_tracked(disk) && disk.backing.change_id.is_none();
        for disk in vm.disks().iter().filter(tracked) {
            found.push(
                Concern::new(
                    "CbtNotActive",
                    Warning,
                    format!("Changed block tracking is on, but {} has no change ID", disk.label),
                    "It begins to work with the next snapshot, unless snapshots from before stand: remove these. Until then the whole disk is read",
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
            "HostLosesChanges",
            Critical,
            format!("{} runs an ESXi 6.0 that loses changes while disks are consolidated (VMware KB 2136854)", host.name),
            "Update the host to ESXi600-201511001 or later, or move the VM",
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
        found.push(Concern::new(
            "ChainTooLong",
            Critical,
            format!("{depth} snapshots lie on top of one another; vSphere allows 32"),
            format!("Remove some: no cycle starts from {MAX_DEPTH} on"),
        ));
    } else if !foreign.is_empty() {
        found.push(Concern::new(
            "ForeignSnapshots",
            Info,
            format!("The VM has snapshots that are not Hawser's: {}", foreign.join(", ")),
            "Remove what is not needed: while one stands each cycle compares the disks in full, since not every host tells that a VM was reverted. Hawser never touches them",
        ));
    }
    if vm.consolidation_needed {
        found.push(Concern::new(
            "ConsolidationNeeded",
            Warning,
            "Removed snapshots have left files that have to be merged; no new snapshot is taken before",
            "Hawser does it itself; if it stays so, something holds the disks open (most often a backup proxy)",
        ));
    }
    for disk in vm.disks().iter().filter(|disk| !around.excluded.contains(&disk.key)) {
        // Each snapshot below adds one file to the chain; what is beyond belongs to another VM. Independent disks have no part in snapshots.
        if disk.backing.mode == DiskMode::Persistent && disk.backing.chain.len() > depth + 1 && !vm.consolidation_needed {
            found.push(
                Concern::new(
                    "LinkedClone",
                    Warning,
                    format!(
                        "{} is built on a disk of another VM ({})",
                        disk.label,
                        disk.backing.chain.last().map_or("", |link| link.file.as_str())
                    ),
                    "It is replicated with all of its content. Do not remove that other VM's disk",
                )
                .of(disk),
            );
        }
    }
}

fn place(vm: &Vm, around: &Around<'_>, found: &mut Vec<Concern>) {
    if !vm.connection.is_empty() && vm.connection != "connected" {
        found.push(Concern::new(
            "VmInaccessible",
            Warning,
            format!("vCenter calls the VM {}", vm.connection),
            "Bring its host and its datastore back; cycles wait until then",
        ));
    }
    if let Some(host) = around.host.filter(|host| !host.usable()) {
        let why = if host.maintenance { "is in maintenance mode" } else { "is not connected" };
        found.push(Concern::new(
            "HostUnavailable",
            Warning,
            format!("The VM's host {} {why}", host.name),
            "Bring it back, or move the VM; cycles wait until then",
        ));
    }
    for datastore in vm.datastores.iter().filter_map(|reference| around.datastores?.get(reference)) {
        if !datastore.accessible {
            found.push(Concern::new(
                "DatastoreUnavailable",
                Warning,
                format!("The datastore {} can't be reached", datastore.name),
                "Bring it back; cycles wait until then",
            ));
        } else if datastore.free_percent() < around.free_percent {
            found.push(Concern::new(
                "DatastoreLow",
                Warning,
                format!("The datastore {} has {} % free, less than {} %", datastore.name, datastore.free_percent(), around.free_percent),
                "Free space on it: while a snapshot stands it grows, and a full datastore stops its VMs. No cycle starts until then",
            ));
        }
    }
}

fn one_disk(vm: &Vm, disk: &Disk, found: &mut Vec<Concern>) {
    let label = &disk.label;
    let exclude = "or exclude the disk";
    let mut critical = |id, message: String, remedy: String| found.push(Concern::new(id, Critical, message, remedy).of(disk));
    match &disk.backing.kind {
        BackingKind::Flat | BackingKind::SeSparse | BackingKind::Sparse | BackingKind::RdmVirtual => {}
        BackingKind::RdmPhysical => critical(
            "RdmPhysical",
            format!("{label} is a LUN in physical compatibility mode: it takes no snapshots"),
            format!("Copy it to a virtual disk, change it to virtual compatibility mode, {exclude}"),
        ),
        BackingKind::Raw => {
            critical("RawDisk", format!("{label} is a raw device: it takes no snapshots"), format!("Copy it to a virtual disk, {exclude}"));
        }
        BackingKind::Other(kind) => {
            critical(
                "BackingUnsupported",
                format!("{label} is backed by {kind}, whose changes can't be tracked"),
                format!("Copy it to a virtual disk, {exclude}"),
            );
        }
    }
    match disk.backing.mode {
        DiskMode::Persistent => {}
        DiskMode::Independent => {
            critical(
                "IndependentDisk",
                format!("{label} is independent: snapshots leave it out"),
                format!("Change its mode to dependent, {exclude}"),
            );
        }
        DiskMode::NonPersistent => {
            critical(
                "NonPersistentDisk",
                format!("{label} throws its changes away at power off"),
                format!("Change its mode to dependent, {exclude}"),
            );
        }
    }
    if disk.backing.multi_writer {
        critical("MultiWriter", format!("{label} may be written by several VMs"), format!("Set its sharing to none, {exclude}"));
    }
    if let Some(bus) = vm.devices.iter().flat_map(|devices| &devices.shared).find(|bus| disk.controller == Some(bus.key)) {
        critical(
            "SharedBus",
            format!("{label} is at a controller that shares its bus ({})", bus.sharing),
            format!("Move it to another controller, {exclude}"),
        );
    }
    if disk.backing.encrypted && !vm.encrypted {
        critical(
            "EncryptedDisk",
            format!("{label} is encrypted: it can't be read as plain data"),
            format!("Decrypt it in vCenter, {exclude}"),
        );
    }
    if disk.capacity == 0 || !disk.capacity.is_multiple_of(extents::SECTOR) {
        critical(
            "CapacityOdd",
            format!("{label} has {} bytes, which is no size of a disk", disk.capacity),
            format!("Look at the disk in vCenter, {exclude}"),
        );
    }
    if disk.backing.kind == BackingKind::RdmVirtual {
        found.push(
            Concern::new(
                "RdmVirtual",
                Critical,
                format!("{label} is a LUN in virtual compatibility mode"),
                format!("Copy it to a virtual disk, {exclude}, or accept it: it is replicated like one"),
            )
            .of(disk)
            .acceptable(),
        );
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
            None => found.push(
                Concern::new(
                    "DiskAdded",
                    Info,
                    format!("{label} is new"),
                    "It is replicated from the next cycle on; exclude it if it should not be",
                )
                .of(disk),
            ),
            Some(known) if known.identity.as_deref().zip(disk.identity()).is_some_and(|(then, now)| then != now) => found.push(
                Concern::new(
                    "DiskReplaced",
                    Warning,
                    format!("{label} is another disk than before"),
                    "It is compared in full in the next cycle",
                )
                .of(disk),
            ),
            Some(known) if disk.capacity > known.capacity => found.push(
                Concern::new(
                    "DiskGrown",
                    Info,
                    format!("{label} has grown from {} to {} bytes", known.capacity, disk.capacity),
                    "It gets a new seed disk of its new size; the old one is deleted when the new one is clean",
                )
                .of(disk),
            ),
            Some(known) if disk.capacity < known.capacity => found.push(
                Concern::new("DiskShrunk", Warning, format!("{label} is smaller than before"), "It gets a new seed disk in the next cycle")
                    .of(disk),
            ),
            Some(_) => {}
        }
    }
    for known in around.known.iter().filter(|known| !vm.disks().iter().any(|disk| disk.key == known.key)) {
        found.push(Concern {
            disk: Some(known.key),
            ..Concern::new(
                "DiskRemoved",
                Warning,
                format!("The disk with the key {} is gone", known.key),
                "Its replica is kept as it was, until replication stops",
            )
        });
    }
}
