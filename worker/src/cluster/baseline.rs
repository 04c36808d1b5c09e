//! What a change ID of the log says: VMware's own, and what the next cycle has to know beside it.
//!
//! A host can go back to an earlier state without its change IDs showing it. So a cycle remembers with each change ID what its snapshot was
//! built on, how large the disk was and which disk it was. All of it stands in the text that manifest and ledger carry as the disk's change
//! ID, which is opaque to them: it becomes the baseline in the one write that makes the replica clean, and can't come apart from it.

use std::collections::BTreeMap;

use blocklog::{
    cycle,
    ids::{ChangeId, DiskKey},
};
use serde::{Deserialize, Serialize};
use vsphere::snapshot::{changes::Baseline, control::Taken, lineage::Lineage};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Beside {
    capacity: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// Of this disk alone.
    lineage: Lineage,
}

/// The snapshot as a cycle's state notes it, with change IDs that say all that the next cycle has to know.
#[must_use]
pub fn note(taken: &Taken) -> cycle::Snapshot {
    let mut note = taken.note();
    for (key, id) in &mut note.change_ids {
        let Some(disk) = taken.devices.disk(key.0) else { continue };
        *id = id.take().map(|id| {
            let files = taken.lineage.files.get(&key.0).map(|files| (key.0, files.clone())).into_iter().collect();
            let lineage = Lineage { files, ..taken.lineage.clone() };
            let beside = Beside { capacity: disk.capacity, identity: disk.identity().map(str::to_owned), lineage };
            // Text and numbers can always be written.
            ChangeId::with_note(id.of_source(), &serde_json::to_string(&beside).unwrap_or_default())
        });
    }
    note
}

/// The baseline that a change ID tells; none where what stands beside it can't be read, for nothing may be guessed then.
#[must_use]
pub fn read(id: &ChangeId) -> Option<Baseline> {
    let change_id = id.of_source().to_owned();
    let Some(beside) = id.note() else {
        return Some(Baseline { change_id, capacity: None, identity: None, lineage: None });
    };
    let Beside { capacity, identity, lineage } = serde_json::from_str(beside).ok()?;
    Some(Baseline { change_id, capacity: Some(capacity), identity, lineage: Some(lineage) })
}

/// What a snapshot's disks were made of when it was taken, so that another worker sees where files were merged since: of those disks of which
/// it is told. None where it is of none.
#[must_use]
pub fn lineage(snapshot: &cycle::Snapshot) -> Option<Lineage> {
    let mut whole: Option<Lineage> = None;
    let mut files: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (DiskKey(key), id) in &snapshot.change_ids {
        let Some(mut lineage) = id.as_ref().and_then(read).and_then(|baseline| baseline.lineage) else { continue };
        files.extend(lineage.files.remove(key).map(|chain| (*key, chain)));
        whole.get_or_insert(lineage);
    }
    whole.map(|lineage| Lineage { files, ..lineage })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const ID: &str = "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81";

    fn lineage_of(keys: &[u32]) -> Lineage {
        let files = keys.iter().map(|key| (*key, vec![format!("[ds] vm/{key}-000001.vmdk"), format!("[ds] vm/{key}.vmdk")])).collect();
        Lineage { taken: Timestamp::UNIX_EPOCH, path: vec!["snapshot-3".into()], files }
    }

    fn id(key: u32) -> ChangeId {
        let beside = Beside { capacity: 4096, identity: Some("6000C29a".into()), lineage: lineage_of(&[key]) };
        ChangeId(format!("{ID}|{}", serde_json::to_string(&beside).unwrap()))
    }

    #[test]
    fn a_baseline_is_read_back() {
        let found = read(&id(2000)).unwrap();
        assert_eq!((found.change_id.as_str(), found.capacity, found.identity.as_deref()), (ID, Some(4096), Some("6000C29a")));
        assert_eq!(found.lineage, Some(lineage_of(&[2000])));
        assert_eq!(id(2000).of_source(), ID);
    }

    #[test]
    fn a_change_id_with_a_damaged_note_is_no_baseline() {
        let bare = read(&ChangeId(ID.to_owned())).unwrap();
        assert_eq!((bare.change_id.as_str(), bare.lineage), (ID, None));
        for beside in ["", "{}", "{\"capacity\":1}", "nonsense"] {
            assert_eq!(read(&ChangeId(format!("{ID}|{beside}"))), None, "{beside}");
        }
    }

    #[test]
    fn a_snapshots_lineage_is_that_of_the_disks_that_have_one() {
        let mut snapshot = cycle::Snapshot {
            reference: "snapshot-7".into(),
            taken: Timestamp::UNIX_EPOCH,
            change_ids: [(DiskKey(2000), Some(id(2000))), (DiskKey(2001), Some(id(2001)))].into(),
        };
        assert_eq!(lineage(&snapshot), Some(lineage_of(&[2000, 2001])));
        snapshot.change_ids.insert(DiskKey(2002), None);
        assert_eq!(lineage(&snapshot), Some(lineage_of(&[2000, 2001])), "an untracked disk's files are not known, the others' are");
        snapshot.change_ids.insert(DiskKey(2002), Some(ChangeId(ID.to_owned())));
        assert_eq!(lineage(&snapshot), Some(lineage_of(&[2000, 2001])));
        snapshot.change_ids.retain(|key, _| *key == DiskKey(2002));
        assert_eq!(lineage(&snapshot), None);
    }
}
