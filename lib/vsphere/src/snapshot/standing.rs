//! Whether a snapshot stands, so that what was read from it is sound.

use std::collections::BTreeMap;

use crate::{
    model::{
        disk::{Devices, DiskMode},
        task::Work,
    },
    moref::MoRef,
    snapshot::View,
};

/// The files that a disk of a snapshot is made of: the frozen one first, the base last.
pub type Chains = BTreeMap<u32, Vec<String>>;

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It stands: all that was read from it before this look is sound. Its files, to compare the next look with.
    Stands(Chains),
    /// It stands, but its files lie elsewhere now: what was read is sound, and has to be opened anew.
    Moved(Chains),
    /// It does not, or somebody is at it; the sentence is for people.
    Lost(Loss, String),
}

/// What has become of a snapshot that does not stand. To people all of them are [`reasons::Reason::SnapshotLost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// A task removes it, or rewrites files that it is built on.
    BeingRemoved,
    /// It is gone.
    Gone,
    /// The VM was taken back to an earlier one.
    Reverted,
    /// A disk of the VM is not built on it any more.
    ChainBroken,
    /// Files below it were merged.
    ChainChanged,
}

/// The files of the disks of a snapshot that take part in it.
#[must_use]
pub fn chains(devices: &Devices) -> Chains {
    let part = devices.disks.iter().filter(|disk| disk.backing.mode == DiskMode::Persistent);
    part.map(|disk| (disk.key, disk.backing.chain.iter().map(|link| link.file.clone()).collect())).collect()
}

/// Judges what was seen: the VM's snapshots and tasks, the snapshot's devices, the VM's present devices, and the chains of an earlier look.
///
/// The order of looking matters: the tasks first. A removal that had begun before is then seen running, or, where it ended in between, by what
/// it has done to the tree and the files; one that begins after it has not touched what was read before.
#[must_use]
pub fn judge(snapshot: &MoRef, view: &View, frozen: Option<&Devices>, present: &Devices, before: Option<&Chains>) -> Standing {
    // Whatever snapshot is removed or consolidated: the host rewrites files of the chain meanwhile.
    if let Some(task) = view.task(&[Work::RemovesSnapshot, Work::Reverts, Work::Consolidates]) {
        let by = task.by.as_ref().map(|by| format!(", started by {by}")).unwrap_or_default();
        return Standing::Lost(Loss::BeingRemoved, format!("{} runs on the VM{by}", task.name));
    }
    let (Some(_), Some(frozen)) = (view.tree.find(snapshot), frozen) else {
        return Standing::Lost(Loss::Gone, "somebody has removed the snapshot".into());
    };
    if !view.tree.current_path().iter().any(|node| node.snapshot == *snapshot) {
        return Standing::Lost(Loss::Reverted, "the VM was taken back to an earlier snapshot".into());
    }
    let now = chains(frozen);
    for (key, chain) in &now {
        let Some(file) = chain.first() else { continue };
        // The disk may have been taken out of the VM; its frozen file stays with the snapshot then.
        if let Some(disk) = present.disk(*key)
            && !disk.backing.chain.iter().any(|link| link.file == *file)
            && !replaced(frozen, present, *key)
        {
            return Standing::Lost(Loss::ChainBroken, format!("{} is not built on the snapshot's file {file} any more", disk.label));
        }
    }
    let Some(before) = before else { return Standing::Stands(now) };
    // Of a disk without a change ID its taker left no word: of those that there are none may differ.
    let known: Chains = now.iter().filter(|(key, _)| before.contains_key(key)).map(|(key, chain)| (*key, chain.clone())).collect();
    match before {
        before if *before == known => Standing::Stands(now),
        // A move takes the whole chain elsewhere and leaves its shape.
        before if shape(before) == shape(&known) => Standing::Moved(now),
        _ => Standing::Lost(Loss::ChainChanged, "files below the snapshot were merged".into()),
    }
}

/// True where another disk has taken the place of the one that is frozen.
fn replaced(frozen: &Devices, present: &Devices, key: u32) -> bool {
    let identity = |devices: &Devices| devices.disk(key).and_then(|disk| disk.identity().map(str::to_owned));
    identity(frozen).zip(identity(present)).is_some_and(|(then, now)| then != now)
}

fn shape(chains: &Chains) -> BTreeMap<u32, usize> {
    chains.iter().map(|(key, chain)| (*key, chain.len())).collect()
}
