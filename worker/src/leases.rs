//! Remembers which leases are held, so that a worker that is stopped can give them back: gateway and applier are dropped where they stand.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use blocklog::store::{Blob, ETag, LeaseId, Listed, LogStore, StoreError, When};
use bytes::Bytes;

/// A log store that remembers its leases.
pub struct Leases {
    store: Arc<dyn LogStore>,
    held: Mutex<BTreeMap<String, LeaseId>>,
}

impl Leases {
    #[must_use]
    pub fn new(store: Arc<dyn LogStore>) -> Self {
        Self { store, held: Mutex::default() }
    }

    /// Gives back every lease on a blob that `may` allows. Best effort: a lease that stays ends by itself.
    pub async fn give_back(&self, may: impl Fn(&str) -> bool) {
        let held = std::mem::take(&mut *self.held());
        for (name, lease) in held.into_iter().filter(|(name, _)| may(name)) {
            let _ = self.store.release(&name, lease).await;
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, LeaseId>> {
        // A panic while it was held can't have left it half changed: it is changed by one operation at a time.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LogStore for Leases {
    async fn get(&self, name: &str) -> Result<Option<Blob>, StoreError> {
        self.store.get(name).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.store.get_range(name, range).await
    }

    async fn put(&self, name: &str, body: Bytes, when: When, lease: Option<LeaseId>) -> Result<ETag, StoreError> {
        self.store.put(name, body, when, lease).await
    }

    async fn stage(&self, name: &str, part: u32, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        self.store.stage(name, part, pieces).await
    }

    async fn commit(&self, name: &str, parts: u32) -> Result<(), StoreError> {
        self.store.commit(name, parts).await
    }

    async fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<bool, StoreError> {
        self.store.delete(name, lease).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.store.list(prefix).await
    }

    async fn acquire(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        // Before it is known whether it was given: the answer may be lost, or never waited for.
        self.held().insert(name.to_owned(), lease);
        let result = self.store.acquire(name, lease).await;
        if matches!(result, Err(StoreError::Leased(_) | StoreError::NotFound(_))) {
            self.held().remove(name);
        }
        result
    }

    async fn renew(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        self.store.renew(name, lease).await
    }

    async fn release(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        let result = self.store.release(name, lease).await;
        self.held().remove(name);
        result
    }

    async fn break_lease(&self, name: &str) -> Result<(), StoreError> {
        self.store.break_lease(name).await
    }
}

#[cfg(test)]
mod tests {
    use blocklog::{clock::SystemClock, store::memory::MemoryStore};
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn what_is_held_is_given_back() {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
        let leases = Leases::new(store.clone());
        let lease = |n| LeaseId(Uuid::from_u128(n));
        for name in ["a", "b", "c", "d"] {
            leases.put(name, Bytes::new(), When::Absent, None).await.unwrap();
        }
        store.acquire("d", lease(9)).await.unwrap();
        for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
            leases.acquire(name, lease(n as u128)).await.unwrap();
        }
        assert!(leases.acquire("d", lease(4)).await.is_err());
        leases.release("b", lease(1)).await.unwrap();
        leases.give_back(|name| name != "c").await;
        store.acquire("a", lease(5)).await.unwrap();
        store.acquire("b", lease(5)).await.unwrap();
        for name in ["c", "d"] {
            assert_eq!(store.acquire(name, lease(5)).await, Err(StoreError::Leased(name.to_owned())));
        }
    }
}
