//! What people decide about a ledger that the worker does not decide by itself.

use std::sync::Arc;

use blocklog::{
    LogError,
    clock::{Clock, SystemClock},
    entropy::{Entropy, SystemEntropy},
    held::{Held, MARGIN},
    ids::DiskKey,
    key_check,
    keys::KeyRing,
    ledger::Ledger,
    names,
    store::{LEASE, LeaseId, LogStore, StoreError},
};
use reasons::Reason;

use super::{
    Listener, PAUSE,
    file::CycleFile,
    open::{self, Use},
    seeds::of_another,
};
use crate::{
    env::Event,
    failure::{Failure, Kind},
};

/// Takes the lease of a VM's ledger. A worker that vanished may have left it leased: then the lease's end is waited for.
pub(super) async fn hold(
    file: &CycleFile,
    store: Arc<dyn LogStore>,
    keys: &KeyRing,
    clock: Arc<dyn Clock>,
    entropy: &dyn Entropy,
    listener: &dyn Listener,
) -> Result<Held<Ledger>, Failure> {
    let name = names::ledger(file.vm);
    let until = clock.monotonic() + LEASE + MARGIN;
    loop {
        match Held::acquire(store.clone(), keys.clone(), clock.clone(), &name, LeaseId(entropy.uuid())).await {
            Err(LogError::Store(StoreError::Leased(_))) if clock.monotonic() < until => {
                let message = format!("{name} is leased by another worker, or by one that vanished");
                listener.note(Event::Waiting { reason: Reason::BlobLeased, message });
                clock.sleep(PAUSE).await;
            }
            held => return Ok(held?),
        }
    }
}

/// Goes on without the fingerprints of a disk, which can't be read any more ([`Ledger::forget_fingerprints`]).
///
/// # Errors
/// Where the ledger is missing, damaged, leased for more than a minute, another's, or does not know the disk.
pub async fn forget_fingerprints(file: &CycleFile, disk: DiskKey, listener: &dyn Listener) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let keys = open::keys(&file.key)?;
    let store = open::store(&file.log_store, Use::Look, clock.clone())?;
    key_check::verify(store.as_ref(), &keys).await?;
    let mut held = hold(file, store, &keys, clock, &SystemEntropy, listener).await?;
    let ledger = held.value();
    let result = if ledger.owner != file.owner {
        Err(of_another(ledger))
    } else if !ledger.seeds.contains_key(&disk) {
        let known = ledger.seeds.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(Failure::new(Kind::BadFile, format!("the ledger has no disk {disk}"), format!("Name one of its disks: {known}.")))
    } else {
        let next = ledger.forget_fingerprints(disk);
        held.write(next).await.map_err(Failure::from)
    };
    held.release().await;
    result
}
