//! What the control port sees of the disks and of their host.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::conditions::Condition;
use super::store::DiskStore;
use super::switches::{Fault, Switches};

/// A disk, for people and tests.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    id: String,
    content: u64,
    upload: bool,
    modified: jiff::Timestamp,
    sequence_number: u64,
    written_bytes: u64,
    grants: Vec<Value>,
    counts: super::Counts,
}

impl DiskStore {
    /// All disks: their sizes, grants and counts.
    #[must_use]
    pub fn describe(&self) -> Value {
        let describe = |disk: std::sync::Arc<super::disk::Disk>| {
            let seen = disk.properties();
            let grants = disk.grants().into_iter().map(|(si, grant)| {
                let url = self.inner.signer.url(&self.inner.public, &disk.container, si);
                json!({ "si": si, "access": grant.access, "until": grant.until, "url": url })
            });
            Described {
                id: disk.id.clone(),
                content: disk.content(),
                upload: disk.upload,
                modified: seen.modified,
                sequence_number: seen.sequence,
                written_bytes: disk.written_bytes(),
                grants: grants.collect(),
                counts: disk.counts().clone(),
            }
        };
        json!(self.disks().into_iter().map(describe).collect::<Vec<_>>())
    }

    /// The ranges that were written, start and end (exclusive).
    #[must_use]
    pub fn written(&self, id: &str) -> Option<Vec<(u64, u64)>> {
        let disk = self.disk(id)?;
        disk.written(&Condition::default(), 0, disk.size()).ok().map(|(ranges, _)| ranges)
    }

    /// How the host behaves.
    #[must_use]
    pub fn switches(&self) -> Switches {
        self.inner.knobs.switches()
    }

    /// Lets the host behave otherwise.
    pub fn set_switches(&self, switches: Switches) {
        self.inner.knobs.set(switches);
    }

    /// Plants a fault; its number is for [`DiskStore::clear_faults`].
    ///
    /// # Errors
    /// What makes no sense in it.
    pub fn inject(&self, fault: Fault) -> Result<u64, String> {
        self.inner.knobs.inject(fault)
    }

    /// The planted faults.
    #[must_use]
    pub fn faults(&self) -> Vec<(u64, Fault)> {
        self.inner.knobs.faults()
    }

    /// Removes one fault, or all.
    pub fn clear_faults(&self, id: Option<u64>) {
        self.inner.knobs.clear(id);
    }

    /// Requests that had no good SAS, by the code of their answer.
    #[must_use]
    pub fn turned_away(&self) -> BTreeMap<String, u64> {
        self.inner.knobs.turned_away()
    }

    /// Counts from nothing again.
    pub fn reset_counts(&self) {
        self.inner.knobs.reset_counts();
        for disk in self.disks() {
            let mut counts = disk.counts();
            let busy = counts.busy;
            *counts = super::Counts { busy, ..super::Counts::default() };
        }
    }
}
