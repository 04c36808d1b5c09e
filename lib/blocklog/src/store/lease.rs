//! The lease rules that the memory and directory stores keep: those of Azure's Lease Blob, for leases of fixed length and a break period
//! of zero. Pure: time comes in as a length from the store's own origin.
//!
//! | the lease is | a write without lease | a write naming A | acquire A | acquire B | renew A | release A | break |
//! |---|---|---|---|---|---|---|---|
//! | never taken | goes on | lost | leased A | leased B | lost | lost | nothing |
//! | held by A | refused | goes on | leased A | refused | leased A | free | broken |
//! | A, ran out | goes on, frees it | lost | leased A | leased B | leased A | free | broken |
//! | A, broken | goes on, frees it | lost | leased A | leased B | lost | free | broken |

use std::time::Duration;

use uuid::Uuid;

use super::{LEASE, LeaseId, StoreError};

/// A lease that was taken. `None` in place of one means that the blob was never leased, or that the lease was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// The holder's name for it.
    pub id: Uuid,
    /// When it runs out.
    pub until: Duration,
    /// Ended by [`brk`]: it cannot be renewed.
    pub broken: bool,
}

impl Lease {
    fn new(id: LeaseId, now: Duration) -> Self {
        Self { id: id.0, until: now + LEASE, broken: false }
    }

    fn active(&self, now: Duration) -> bool {
        !self.broken && now < self.until
    }
}

/// May a write (or a deletion) that names `lease` go on? `Ok` holds the lease that remains once it has happened.
pub(super) fn write(name: &str, held: Option<Lease>, lease: Option<LeaseId>, now: Duration) -> Result<Option<Lease>, StoreError> {
    let active = held.filter(|held| held.active(now));
    match (active, lease) {
        (None, None) => Ok(None),
        (Some(held), Some(lease)) if held.id == lease.0 => Ok(Some(held)),
        (Some(_), None) => Err(StoreError::Leased(name.to_owned())),
        (_, Some(_)) => Err(StoreError::LeaseLost(name.to_owned())),
    }
}

/// Takes the lease, or renews it.
pub(super) fn acquire(name: &str, held: Option<Lease>, lease: LeaseId, now: Duration) -> Result<Lease, StoreError> {
    match held {
        Some(held) if held.active(now) && held.id != lease.0 => Err(StoreError::Leased(name.to_owned())),
        _ => Ok(Lease::new(lease, now)),
    }
}

/// Renews the lease, also one that ran out and that nobody has taken or written over since.
pub(super) fn renew(name: &str, held: Option<Lease>, lease: LeaseId, now: Duration) -> Result<Lease, StoreError> {
    match held {
        Some(held) if held.id == lease.0 && !held.broken => Ok(Lease::new(lease, now)),
        _ => Err(StoreError::LeaseLost(name.to_owned())),
    }
}

/// Gives the lease back.
pub(super) fn release(name: &str, held: Option<Lease>, lease: LeaseId) -> Result<(), StoreError> {
    match held {
        Some(held) if held.id == lease.0 => Ok(()),
        _ => Err(StoreError::LeaseLost(name.to_owned())),
    }
}

/// Ends the lease, whoever holds it.
pub(super) fn brk(held: Option<Lease>) -> Option<Lease> {
    held.map(|held| Lease { broken: true, ..held })
}
