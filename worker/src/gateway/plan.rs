//! What to send of a disk.

use std::{collections::BTreeMap, sync::Arc};

use blocklog::{
    cycle::{Manifest, Mode},
    document,
    fingerprints::{Fingerprints, Place},
    ids::{CycleId, DiskKey},
    ledger::Ledger,
    names,
};
use extents::{ExtentSet, SECTOR};

use super::{GatewayError, transfer::Transfer};
use crate::{env::Env, snapshot::Changes};

/// Changed areas nearer to each other than this are read and sent as one: a request and a record cost more than the bytes between.
const GAP: u64 = (16 << 10) / SECTOR;

/// What to send of one disk.
pub(super) struct DiskPlan {
    pub(super) place: Place,
    pub(super) mode: Mode,
    /// What has to be looked at, in sectors, without what a predecessor has sent.
    pub(super) target: ExtentSet,
    /// Where `Full`: a block that has its fingerprint is in place.
    pub(super) fingerprints: Option<Fingerprints>,
    /// Bytes to look at, with what a predecessor has sent.
    pub(super) changed: u64,
}

/// The plan of one disk, or none where its changes can't be told any more. `areas` are its changes, where they are known already; `covered` is what
/// predecessors have sent.
pub(super) async fn disk(
    transfer: &Transfer<'_>,
    ledger: &Ledger,
    disk: DiskKey,
    mode: Mode,
    areas: Option<ExtentSet>,
    covered: ExtentSet,
) -> Result<Option<DiskPlan>, GatewayError> {
    let env = transfer.env;
    let capacity = ledger.seeds[&disk].capacity;
    let place = Place { vm: ledger.vm, incarnation: ledger.incarnation, disk, capacity, block: ledger.block };
    let sectors = capacity / SECTOR;
    let (target, fingerprints) = match mode {
        Mode::Full => (ExtentSet::all(sectors), Some(fingerprints(env, ledger, place).await?)),
        Mode::Changed => {
            let areas = match areas {
                Some(areas) => areas,
                None => {
                    let Some(since) = ledger.baseline.get(&disk) else { return Ok(None) };
                    let Changes::Areas(areas) = transfer.control.changed(transfer.snapshot, disk, since).await? else { return Ok(None) };
                    areas
                }
            };
            let areas = areas.within(0..sectors).coalesce(GAP);
            (areas.union(&in_doubt(env, ledger, place, &areas).await?), None)
        }
    };
    Ok(Some(DiskPlan { place, mode, changed: target.bytes(), target: target.difference(&covered), fingerprints }))
}

/// The fingerprints that can be trusted: those of the ledger's index, less the blocks of cycles that were begun and not finished.
async fn fingerprints(env: &Env, ledger: &Ledger, place: Place) -> Result<Fingerprints, GatewayError> {
    let mut mask = ExtentSet::new();
    for begun in ledger.masked() {
        mask = mask.union(&place.touched(&extents(env, ledger.cycle(begun.cycle), place.disk).await?));
    }
    Ok(Fingerprints::open(Arc::clone(&env.store), &env.keys, place, ledger.index.get(&place.disk), mask).await?)
}

/// The blocks of lost cycles that have to be sent whole: a write that is still on its way may overwrite them, and only a fingerprint can show
/// it. Those that have one and are not touched now keep it.
async fn in_doubt(env: &Env, ledger: &Ledger, place: Place, areas: &ExtentSet) -> Result<ExtentSet, GatewayError> {
    let mut whole = ExtentSet::new();
    if ledger.lost.is_empty() {
        return Ok(whole);
    }
    let mut lost = ExtentSet::new();
    for cycle in &ledger.lost {
        lost = lost.union(&place.touched(&extents(env, *cycle, place.disk).await?));
    }
    let grain = u64::from(place.block) / SECTOR;
    let mut fingerprints = fingerprints(env, ledger, place).await?;
    for block in lost.iter().flatten() {
        let sectors = block * grain..((block + 1) * grain).min(place.capacity / SECTOR);
        if areas.intersects(sectors.clone()) || fingerprints.get(block).await?.is_none() {
            whole.insert(sectors);
        }
    }
    Ok(whole)
}

/// The sectors that a begun cycle writes on a disk. Its manifest stands as long as the ledger names it.
async fn extents(env: &Env, of: CycleId, disk: DiskKey) -> Result<ExtentSet, GatewayError> {
    let (manifest, _) = document::require::<Manifest>(env.store.as_ref(), &env.keys, &names::manifest(of)).await?;
    let mut disks: BTreeMap<_, _> = manifest.disks;
    Ok(disks.remove(&disk).map(|disk| disk.extents).unwrap_or_default())
}
