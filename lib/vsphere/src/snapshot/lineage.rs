//! Where a state of a VM comes from, to see a revert that changed block tracking hides.
//!
//! A revert usually shows in the change IDs: another generation, or a counter that goes back. There are hosts where it does not. So beside the
//! change ID one remembers what the cycle's snapshot was built on, and compares it with what the next one is built on. A revert leaves the
//! branch that was left standing beside the path, or puts a new delta file where an old one was.
//!
//! What it can't see: a revert that hides itself, leaves no branch, and gives the new delta the old one's name. So nothing is asked of change
//! tracking where such a revert is possible at all: where the last cycle was built on somebody's snapshot. A revert to a snapshot that was
//! taken after that cycle does no harm: all that was written since the cycle is in the host's list, what was undone too.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    model::{disk::Devices, snapshots::Tree},
    moref::MoRef,
    snapshot::standing::chains,
};

/// What a cycle's snapshot was built on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Lineage {
    /// When it was taken, by the host's clock.
    pub taken: Timestamp,
    /// The snapshots below it, root first, by reference.
    pub path: Vec<String>,
    /// The files that its disks were made of, the frozen one first.
    pub files: BTreeMap<u32, Vec<String>>,
}

impl Lineage {
    /// True where somebody's snapshot lies below: the VM can be taken back to a state from before this one.
    #[must_use]
    pub fn can_be_left(&self) -> bool {
        !self.path.is_empty()
    }

    /// Of a snapshot and its devices.
    #[must_use]
    pub fn of(snapshot: &MoRef, tree: &Tree, devices: &Devices) -> Self {
        let mut path: Vec<String> = tree.path(snapshot).iter().map(|node| node.snapshot.id().to_owned()).collect();
        path.pop();
        let taken = tree.find(snapshot).map_or(Timestamp::UNIX_EPOCH, |node| node.taken);
        Self { taken, path, files: chains(devices) }
    }
}

/// True where the VM was taken back between two cycles' snapshots, as far as the tree shows. `tree`: as it is now.
///
/// It may say so where nothing was taken back (somebody merged and moved files at once): a disk is read in full for nothing then, which is
/// the safe side.
#[must_use]
pub fn reverted(before: &Lineage, now: &Lineage, tree: &Tree) -> bool {
    let stands = |id: &String| tree.nodes.iter().any(|node| node.snapshot.id() == id);
    // What the last cycle was built on is still there, but this one is not built on it: the VM has left that branch.
    if before.path.iter().any(|id| stands(id) && !now.path.contains(id)) {
        return true;
    }
    // One that was taken since stands aside: the VM has been there, and is not built on it.
    if tree
        .nodes
        .iter()
        .any(|node| node.taken > before.taken && node.taken < now.taken && !now.path.iter().any(|id| id == node.snapshot.id()))
    {
        return true;
    }
    // The same snapshots below, but another file on top of them: the delta that the last cycle froze was thrown away.
    let kept: Vec<&String> = before.path.iter().filter(|id| stands(id)).collect();
    let same_path = !now.path.is_empty() && kept.len() == before.path.len() && now.path == before.path;
    same_path
        && now.files.iter().any(|(key, files)| {
            before.files.get(key).is_some_and(|then| {
                // Below the top nothing has changed, so the disk was not moved.
                then.len() == files.len() && then.len() > 1 && then[1..] == files[1..] && then[0] != files[0]
            })
        })
}
