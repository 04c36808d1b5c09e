//! The names of blobs. Everything of a VM lies under `v1/<vCenter>/<VM>/`; every cycle's under its incarnation, so that a folder can be
//! swept whole when its incarnation is dead.

use crate::ids::{CycleId, DiskCycle, DiskKey, Epoch, Incarnation, Owner, Turn, VmId};

/// By which a wrong key is known in a second.
pub const KEY_CHECK: &str = "v1/keycheck";

/// The folder of everything that belongs to the VM, with a `/` at its end.
#[must_use]
pub fn vm(vm: VmId) -> String {
    format!("v1/{}/{}/", vm.vcenter, vm.instance)
}

/// The ledger.
#[must_use]
pub fn ledger(of: VmId) -> String {
    format!("{}ledger", vm(of))
}

/// The order to the applier.
#[must_use]
pub fn order(owner: &Owner, of: VmId) -> String {
    format!("v1/orders/{}/{}.{}", owner.cluster, of.vcenter, of.instance)
}

/// Where the orders of a cluster lie.
#[must_use]
pub fn orders(cluster: &str) -> String {
    format!("v1/orders/{cluster}/")
}

/// The folder of an incarnation, with a `/` at its end.
#[must_use]
pub fn incarnation(of: VmId, incarnation: Incarnation) -> String {
    format!("{}{incarnation}/", vm(of))
}

/// The folder of a cycle, with a `/` at its end. Numbers are padded, so that a listing is in their order.
#[must_use]
pub fn cycle(of: CycleId) -> String {
    format!("{}{:010}/", incarnation(of.vm, of.incarnation), of.cycle.0)
}

/// The gateway's progress.
#[must_use]
pub fn state(of: CycleId) -> String {
    format!("{}state", cycle(of))
}

/// What commits the cycle's log.
#[must_use]
pub fn manifest(of: CycleId) -> String {
    format!("{}manifest", cycle(of))
}

/// What the applier says of it.
#[must_use]
pub fn receipt(of: CycleId) -> String {
    format!("{}receipt", cycle(of))
}

/// Why the applier could not apply it.
#[must_use]
pub fn setback(of: CycleId) -> String {
    format!("{}setback", cycle(of))
}

/// The segments of one disk, with a `/` at the end.
#[must_use]
pub fn segments(of: DiskCycle) -> String {
    format!("{}{}/", cycle(of.of), of.disk)
}

/// One segment.
#[must_use]
pub fn segment(of: DiskCycle, epoch: Epoch, n: u32) -> String {
    format!("{}{:04}-{n:08}.seg", segments(of), epoch.0)
}

/// Where the fingerprints of a disk lie, with a `/` at the end.
#[must_use]
pub fn fingerprints(of: VmId, inc: Incarnation, disk: DiskKey) -> String {
    format!("{}fingerprints/{disk}/", incarnation(of, inc))
}

/// One chunk of fingerprints.
#[must_use]
pub fn chunk(of: VmId, inc: Incarnation, disk: DiskKey, turn: Turn, chunk: u64) -> String {
    format!("{}{:010}-{chunk:06}", fingerprints(of, inc, disk), turn.0)
}

/// The index of a disk's chunks.
#[must_use]
pub fn index(of: VmId, inc: Incarnation, disk: DiskKey, turn: Turn) -> String {
    format!("{}{:010}-index", fingerprints(of, inc, disk), turn.0)
}
