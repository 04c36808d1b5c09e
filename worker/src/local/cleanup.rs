//! Deletes what nothing needs any more, once the replica is clean. What fails here is tried again after the next cycle.

use std::collections::{BTreeMap, BTreeSet};

use blocklog::{
    LogError,
    cycle::{SnapshotNote, State},
    document,
    fingerprints::{Index, Place},
    ids::{DiskKey, Turn},
    ledger::{IndexRef, Ledger},
    names,
};
use futures::{StreamExt, stream};

use super::{Local, blobs::Blob};

/// Deletions in flight.
const DELETIONS: usize = 8;

impl Local {
    /// Deletes the logs of cycles at or below the clean one that the ledger does not name, fingerprints that no index names, and dead
    /// incarnations.
    pub(super) async fn clean_up(&self, ledger: &Ledger) {
        if !ledger.is_clean() {
            return;
        }
        let result = async {
            let store = self.env.store.as_ref();
            let keep = self.fingerprints(ledger).await;
            let mut names = Vec::new();
            for listed in store.list(&names::vm(ledger.vm)).await? {
                if self.is_garbage(ledger, &keep, &listed.name).await? {
                    names.push(listed.name);
                }
            }
            // In the order of the names a cycle's state goes last: until then it tells whose the rest is.
            let mut deleted = stream::iter(&names).map(|name| store.delete(name, None)).buffered(DELETIONS);
            let mut first = Ok(());
            while let Some(result) = deleted.next().await {
                first = first.and(result.map(drop).map_err(LogError::from));
            }
            first
        };
        if let Err(error) = result.await {
            self.listener.tell(super::Told::Warning(format!("not everything that is done with could be deleted: {error}")));
        }
    }

    /// The blobs that each disk's index names, itself among them; a disk whose index can't be read keeps everything.
    async fn fingerprints(&self, ledger: &Ledger) -> BTreeMap<DiskKey, Option<BTreeSet<String>>> {
        let mut keep = BTreeMap::new();
        for (disk, seed) in &ledger.seeds {
            let mut names = BTreeSet::new();
            if let Some(IndexRef::At { turn, .. }) = ledger.index.get(disk) {
                let name = names::index(ledger.vm, ledger.incarnation, *disk, *turn);
                let Ok((index, _)) = document::require::<Index>(self.env.store.as_ref(), &self.env.keys, &name).await else {
                    keep.insert(*disk, None);
                    continue;
                };
                let place =
                    Place { vm: ledger.vm, incarnation: ledger.incarnation, disk: *disk, capacity: seed.capacity, block: ledger.block };
                names.extend(index.blobs(place));
                names.insert(name);
            }
            keep.insert(*disk, Some(names));
        }
        keep
    }

    async fn is_garbage(&self, ledger: &Ledger, keep: &BTreeMap<DiskKey, Option<BTreeSet<String>>>, name: &str) -> Result<bool, LogError> {
        let blob = Blob::of(name);
        let Some(incarnation) = blob.incarnation() else { return Ok(false) };
        if let Blob::Manifest(of) = blob
            && (ledger.lost.contains(&of) || incarnation == ledger.incarnation && ledger.dirty.iter().any(|begun| begun.cycle == of.cycle))
        {
            return Ok(false);
        }
        if incarnation != ledger.incarnation {
            return match blob {
                // It may tell of a snapshot in vCenter that only its owner can remove.
                Blob::State(_) => {
                    let state = document::read::<State>(self.env.store.as_ref(), &self.env.keys, name).await;
                    Ok(matches!(state, Ok(Some((State { snapshot: SnapshotNote::None | SnapshotNote::Released, .. }, _)))))
                }
                _ => Ok(true),
            };
        }
        Ok(match blob {
            // What a later turn has written is another's, and not in the ledger yet.
            Blob::Index(it) | Blob::Chunk(it, _) => {
                let named = keep.get(&it.disk).is_some_and(|names| names.as_ref().is_none_or(|names| names.contains(name)));
                it.turn > Turn(0) && it.turn <= ledger.turn && !named
            }
            // The last one's figures are kept for people.
            Blob::Receipt(of) => of.cycle < ledger.begun,
            Blob::State(of) | Blob::Manifest(of) => of.cycle <= ledger.begun,
            Blob::Segment(of, ..) => of.of.cycle <= ledger.begun,
            Blob::KeyCheck | Blob::Order | Blob::Ledger(_) | Blob::Unknown => false,
        })
    }
}
