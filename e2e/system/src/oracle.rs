//! What each snapshot of ours held, by SHA-256: looked up while it stands, since it is gone when its cycle is over.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::{vcenter::VCenter, wait};

/// SHA-256 of each disk, by its key.
pub type Hashes = BTreeMap<i64, String>;

/// Watches a VM's snapshots.
#[derive(Debug)]
pub struct Oracle {
    seen: Arc<Mutex<BTreeMap<String, Hashes>>>,
    watcher: JoinHandle<()>,
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Oracle {
    /// Begins to watch.
    #[must_use]
    pub fn watch(vcenter: VCenter, vm: String) -> Self {
        let seen: Arc<Mutex<BTreeMap<String, Hashes>>> = Arc::default();
        let all = seen.clone();
        let watcher = tokio::spawn(async move {
            loop {
                for snapshot in vcenter.snapshots(&vm).await.unwrap_or_default() {
                    if all.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&snapshot.name) {
                        continue;
                    }
                    let mut hashes = Hashes::new();
                    for disk in &snapshot.disks {
                        if let Ok(hash) = vcenter.snapshot_sha256(&snapshot.mo_ref, disk.key).await {
                            hashes.insert(disk.key, hash);
                        }
                    }
                    // One that went meanwhile has told nothing wrong, but not all.
                    if hashes.len() == snapshot.disks.len() {
                        all.lock().unwrap_or_else(PoisonError::into_inner).insert(snapshot.name, hashes);
                    }
                }
                wait::pause(Duration::from_millis(100)).await;
            }
        });
        Self { seen, watcher }
    }

    /// What the snapshot of this name held, where it was seen.
    #[must_use]
    pub fn of(&self, snapshot: &str) -> Option<Hashes> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(snapshot).cloned()
    }
}
