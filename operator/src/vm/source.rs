//! The VM of a ReplicatedVM: which one is meant, and what vCenter tells of it.

use std::collections::{BTreeMap, BTreeSet};

use blocklog::ids::{DiskKey, Owner, VmId};
use crds::{
    ApplianceSpec, ReplicatedVMSpec,
    concerns::ConcernId,
    reasons::Reason,
    replicated_vm::{ChangeTracking, Concern, Quiesce, VmSelector},
};
use uuid::Uuid;
use vsphere::{
    MoRef,
    collector::Inventory,
    model::{
        disk::DiskMode,
        vm::{Power, Vm},
    },
    preflight::{self, Around, KnownDisk},
    snapshot::{Mark, Owning, Whose},
};

use super::model::{Source, SourceDisk};
use crate::trouble::Trouble;

/// What is known of a VM beside the inventory.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Its instance UUID, once it was found.
    pub uuid: Option<Uuid>,
    /// What lies at the selector's path, where that was asked.
    pub at_path: Option<&'a MoRef>,
}

/// The VM that is meant: by the selector first, and by its instance UUID ever after.
///
/// # Errors
/// Why there is none.
pub fn find<'i>(inventory: &'i Inventory, selector: &VmSelector, known: Known<'_>) -> Result<(&'i MoRef, &'i Vm), Trouble> {
    let not_found = |what: String| {
        Trouble::new(Reason::VmNotFound, format!("vCenter has no VM {what}, or its user may not see it. What was replicated is kept"))
    };
    let selected = by_selector(inventory, selector, known.at_path);
    let Some(uuid) = known.uuid else {
        return match selected?.as_slice() {
            [] => Err(not_found(word(selector))),
            [one] => Ok(*one),
            several => {
                let ids: Vec<&str> = several.iter().map(|(reference, _)| reference.id()).collect();
                Err(Trouble::new(Reason::VmAmbiguous, format!("{} is more than one VM: {}", word(selector), ids.join(", "))))
            }
        };
    };
    if let Some((reference, vm)) = inventory.by_instance(uuid) {
        return Ok((reference, vm));
    }
    match selected?.first() {
        Some((reference, vm)) => Err(Trouble::new(
            Reason::VmReplaced,
            format!(
                "{} is {} now, with the instance UUID {}: the VM that was replicated, {uuid}, is gone. Its replica is kept; for the other \
                 VM create another ReplicatedVM",
                word(selector),
                reference.id(),
                vm.instance_uuid.map_or_else(|| "unknown".to_owned(), |uuid| uuid.to_string())
            ),
        )),
        None => Err(not_found(format!("with the instance UUID {uuid}"))),
    }
}

fn by_selector<'i>(inventory: &'i Inventory, selector: &VmSelector, at_path: Option<&MoRef>) -> Result<Vec<(&'i MoRef, &'i Vm)>, Trouble> {
    let one =
        |reference: &MoRef| inventory.vms.get_key_value(reference).map(|(reference, vm)| (reference, vm.as_ref())).into_iter().collect();
    Ok(if let Some(id) = &selector.mo_ref {
        one(&MoRef::vm(id.clone()))
    } else if let Some(text) = &selector.instance_uuid {
        let uuid = Uuid::parse_str(text).map_err(|_| Trouble::new(Reason::VmNotFound, format!("{text} is no UUID")))?;
        let all: Vec<_> = inventory.vms.iter().filter(|(_, vm)| vm.instance_uuid == Some(uuid)).map(|(r, vm)| (r, vm.as_ref())).collect();
        // Templates and their copies may share it; of those that are VMs there has to be one.
        let vms: Vec<_> = all.iter().copied().filter(|(_, vm)| !vm.template).collect();
        if vms.is_empty() { all } else { vms }
    } else {
        at_path.map(one).unwrap_or_default()
    })
}

fn word(selector: &VmSelector) -> String {
    selector.mo_ref.as_ref().or(selector.instance_uuid.as_ref()).or(selector.inventory_path.as_ref()).cloned().unwrap_or_default()
}

/// What is asked for, and what was known before.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What the user asks for.
    pub spec: &'a ReplicatedVMSpec,
    pub appliance: &'a ApplianceSpec,
    pub owner: &'a Owner,
    /// Which VM it is.
    pub id: VmId,
}

/// What vCenter tells of the VM.
#[must_use]
pub fn facts(inventory: &Inventory, reference: &MoRef, vm: &Vm, asked: &Asked<'_>, known: Vec<KnownDisk>) -> Source {
    let owning = Owning { owner: asked.owner.clone(), vm: asked.id };
    let own: Vec<_> = vm.snapshots.nodes.iter().filter_map(|node| Some((node, owning.owns(node)?))).collect();
    let excluded: BTreeSet<u32> = asked.spec.disks.exclude.iter().filter_map(|key| u32::try_from(*key).ok()).collect();
    let host = vm.host.as_ref().and_then(|host| inventory.hosts.get(host));
    let datastores: BTreeMap<_, _> =
        inventory.datastores.iter().map(|(reference, one)| (reference.clone(), one.as_ref().clone())).collect();
    let may_switch = asked.spec.change_tracking == ChangeTracking::Enable;
    let around = Around {
        host: host.map(AsRef::as_ref),
        datastores: Some(&datastores),
        excluded: excluded.clone(),
        own: own.iter().map(|(node, _)| node.snapshot.clone()).collect(),
        known,
        free_percent: u64::try_from(asked.appliance.limits.datastore_free_percent).unwrap_or_default(),
        quiesce_required: asked.spec.snapshot.quiesce == Quiesce::Require,
        may_switch_tracking: may_switch,
    };
    let found = preflight::preflight(vm, &around);
    let busy =
        found.iter().find_map(|concern| Some(Trouble::new(waits(concern.id)?, format!("{}. {}", concern.message, concern.id.remedy()))));
    let blocked = found.iter().any(|concern| matches!(concern.id, ConcernId::ChangeTrackingUnsupported | ConcernId::ChangeTrackingBlocked));
    let mut concerns: Vec<Concern> = found.into_iter().map(|concern| told(concern, asked.spec)).collect();
    concerns.extend(of_target(vm, asked.spec, &excluded).into_iter().map(|concern| told(concern, asked.spec)));
    Source {
        id: asked.id,
        mo_ref: reference.id().to_owned(),
        name: vm.name.clone(),
        host: host.map(|host| host.name.clone()),
        power: match vm.power {
            Power::On => Some("PoweredOn"),
            Power::Off => Some("PoweredOff"),
            Power::Suspended => Some("Suspended"),
            Power::Unknown => None,
        },
        off_since: vm.off_since.filter(|_| inventory.trouble.is_none()),
        disks: vm
            .disks()
            .iter()
            .map(|disk| SourceDisk {
                key: DiskKey(disk.key),
                uuid: disk.identity().map(str::to_owned),
                label: disk.label.clone(),
                capacity: disk.capacity,
                excluded: excluded.contains(&disk.key),
            })
            .collect(),
        concerns,
        // What was heard last may not be so any more.
        busy: inventory.trouble.clone().map(Trouble::from).or(busy),
        pressed: pressed(inventory, vm, around.free_percent),
        tracking_off: !vm.tracking && may_switch && !blocked,
        held_by: if vm.consolidation_needed { holders(inventory, reference, vm) } else { Vec::new() },
        left_by: former(vm, asked),
        oldest_snapshot: own.iter().map(|(node, _)| node.taken).min(),
        snapshots: own.into_iter().map(|(node, mark)| (mark.of.cycle, node.name.clone())).collect(),
    }
}

/// The owner that the replica was taken over from, or is to be, where the VM has a snapshot of his.
fn former(vm: &Vm, asked: &Asked<'_>) -> Option<Owner> {
    let from = asked.spec.take_over.as_deref()?;
    let marks = vm.snapshots.nodes.iter().filter_map(|node| match Mark::read(&node.name, &node.description) {
        Whose::Hawsers(mark) if mark.of.vm == asked.id => Some(mark.owner),
        _ => None,
    });
    marks.into_iter().find(|owner| owner != asked.owner && owner.to_string() == from)
}

/// A datastore on which snapshots of the VM's disks grow, and that has less free than half of what has to be before one is taken.
fn pressed(inventory: &Inventory, vm: &Vm, free_percent: u64) -> Option<Trouble> {
    // Excluded or not: an independent disk takes no part in snapshots.
    let persistent = vm.disks().iter().filter(|disk| disk.backing.mode == DiskMode::Persistent);
    let on = persistent.filter_map(|disk| inventory.datastores.get(disk.backing.datastore.as_ref()?));
    on.filter(|one| one.accessible).find(|one| one.free_percent() * 2 < free_percent).map(|one| {
        let message = format!(
            "the datastore {} has {} % free, less than half of the {free_percent} % that have to be before a cycle begins. Free space on it",
            one.name,
            one.free_percent()
        );
        Trouble::new(Reason::DatastoreFull, message)
    })
}

/// The VMs that have a file of its disks, too: as long as they hold it, nothing can be merged into it. Backup proxies attach disks in this way.
fn holders(inventory: &Inventory, reference: &MoRef, vm: &Vm) -> Vec<String> {
    fn files(vm: &Vm) -> impl Iterator<Item = &str> {
        vm.disks().iter().flat_map(|disk| &disk.backing.chain).map(|link| link.file.as_str())
    }
    let own: BTreeSet<&str> = files(vm).collect();
    let others = inventory.vms.iter().filter(|(other, _)| *other != reference);
    others.filter(|(_, other)| files(other).any(|file| own.contains(file))).map(|(_, other)| other.name.clone()).collect()
}

/// What a new cycle waits for: it passes by itself, or by a person, and is no property of the VM.
fn waits(id: ConcernId) -> Option<Reason> {
    Some(match id {
        ConcernId::VmInaccessible => Reason::VmInaccessible,
        ConcernId::HostUnavailable | ConcernId::DatastoreUnavailable => Reason::HostUnavailable,
        ConcernId::DatastoreLow => Reason::DatastoreFull,
        ConcernId::Question => Reason::VmQuestion,
        ConcernId::MethodDisabled => Reason::SourceBusy,
        _ => return None,
    })
}

/// A concern as the VM's status tells it.
fn told(concern: preflight::Concern, spec: &ReplicatedVMSpec) -> Concern {
    let preflight::Concern { id, disk, message } = concern;
    Concern {
        id: id.into(),
        severity: id.severity(),
        disk: disk.map(i64::from),
        message,
        remedy: id.remedy().to_owned(),
        accepted: id.acceptable() && spec.accept_concerns.iter().any(|accepted| accepted == id.as_str()),
    }
}

/// What the target has against it.
fn of_target(vm: &Vm, spec: &ReplicatedVMSpec, excluded: &BTreeSet<u32>) -> Vec<preflight::Concern> {
    let concern = |id, key, message| preflight::Concern { id, disk: Some(key), message };
    let large = vm.disks().iter().filter(|disk| !excluded.contains(&disk.key) && disk.capacity > azure::disks::MOST);
    let large =
        large.map(|disk| concern(ConcernId::DiskTooLarge, disk.key, format!("{} is larger than a managed disk can be", disk.label)));
    let named = spec.disks.exclude.iter().chain(spec.disks.overrides.iter().map(|one| &one.key)).filter_map(|key| u32::try_from(*key).ok());
    let unknown = named.filter(|key| vm.devices.is_some() && !vm.disks().iter().any(|disk| disk.key == *key));
    let unknown = unknown.map(|key| concern(ConcernId::DiskUnknown, key, format!("the VM has no disk with the key {key}")));
    large.chain(unknown).collect()
}

#[cfg(test)]
#[path = "source/tests.rs"]
mod tests;
