//! The handle of one seed in an applier: its access can be renewed while writes go on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use replica::ReplicaDisk;
use zeroize::Zeroizing;

/// One seed, by the access that is good now.
pub(super) struct SeedHandle(Mutex<Inner>);

struct Inner {
    seed: Arc<dyn ReplicaDisk>,
    access: Zeroizing<Vec<u8>>,
}

impl SeedHandle {
    pub(super) fn new(seed: Arc<dyn ReplicaDisk>, access: Zeroizing<Vec<u8>>) -> Self {
        Self(Mutex::new(Inner { seed, access }))
    }

    /// The seed, for one write.
    pub(super) fn seed(&self) -> Arc<dyn ReplicaDisk> {
        Arc::clone(&self.lock().seed)
    }

    /// True where it was opened by this access.
    pub(super) fn has(&self, access: &[u8]) -> bool {
        self.lock().access.as_slice() == access
    }

    /// From the next write on, by another access.
    pub(super) fn replace(&self, seed: Arc<dyn ReplicaDisk>, access: Zeroizing<Vec<u8>>) {
        *self.lock() = Inner { seed, access };
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held can't have left it half changed: both fields are set at once.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
