//! A log store in memory, for tests and for the schedules: all the rules, and nothing that survives the process.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{
    Blob, ETag, LeaseId, Listed, LogStore, StoreError, When, accept,
    lease::{self, Lease},
};
use crate::clock::Clock;

/// Blobs in memory. Leases run by [`Clock::monotonic`]; versions are counted. Clone the [`Arc`] around it to share it.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    blobs: BTreeMap<String, Stored>,
    staged: HashMap<String, BTreeMap<u32, Bytes>>,
    versions: u64,
}

struct Stored {
    body: Bytes,
    version: u64,
    lease: Option<Lease>,
}

impl Stored {
    fn etag(&self) -> ETag {
        ETag(self.version.to_string())
    }
}

impl Inner {
    fn insert(&mut self, name: &str, body: Bytes, lease: Option<Lease>) -> ETag {
        self.versions += 1;
        // As on Azure, writing a blob drops what was staged under its name.
        self.staged.remove(name);
        let stored = Stored { body, version: self.versions, lease };
        let etag = stored.etag();
        self.blobs.insert(name.to_owned(), stored);
        etag
    }

    fn blob(&mut self, name: &str) -> Result<&mut Stored, StoreError> {
        self.blobs.get_mut(name).ok_or_else(|| StoreError::NotFound(name.to_owned()))
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, inner: Mutex::default() }
    }

    /// The names of all blobs, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().blobs.keys().cloned().collect()
    }

    /// All blobs as they are now.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, Bytes> {
        self.lock().blobs.iter().map(|(name, stored)| (name.clone(), stored.body.clone())).collect()
    }

    /// The bytes of one blob, past all rules.
    #[must_use]
    pub fn peek(&self, name: &str) -> Option<Bytes> {
        self.lock().blobs.get(name).map(|stored| stored.body.clone())
    }

    /// Changes the bytes of a blob behind everyone's back, as a failing medium would: version and lease stay. False where there is no such
    /// blob.
    pub fn corrupt(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut inner = self.lock();
        let Some(stored) = inner.blobs.get_mut(name) else { return false };
        let mut body = stored.body.to_vec();
        change(&mut body);
        stored.body = body.into();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code under this lock leaves the maps half changed, so a panic of another test thread does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LogStore for MemoryStore {
    async fn get(&self, name: &str) -> Result<Option<Blob>, StoreError> {
        accept::name(name)?;
        Ok(self.lock().blobs.get(name).map(|stored| Blob { body: stored.body.clone(), etag: stored.etag() }))
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        accept::name(name)?;
        let body = self.lock().blob(name)?.body.clone();
        if range.start > range.end || range.end > body.len() as u64 {
            return Err(StoreError::Failed(format!("{name}: {range:?} reaches past its {} bytes", body.len())));
        }
        // Both ends fit: they are no more than the length, which is a usize.
        Ok(body.slice(range.start as usize..range.end as usize))
    }

    async fn put(&self, name: &str, body: Bytes, when: When, lease: Option<LeaseId>) -> Result<ETag, StoreError> {
        accept::name(name)?;
        let mut inner = self.lock();
        let stored = inner.blobs.get(name);
        let left = lease::write(name, stored.and_then(|stored| stored.lease), lease, self.clock.monotonic())?;
        match when {
            When::Absent if stored.is_some() => return Err(StoreError::Exists(name.to_owned())),
            When::Matches(etag) if stored.is_none_or(|stored| stored.etag() != etag) => return Err(StoreError::Changed(name.to_owned())),
            _ => {}
        }
        Ok(inner.insert(name, body, left))
    }

    async fn stage(&self, name: &str, part: u32, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        accept::name(name)?;
        let length = accept::part(name, part, &pieces)?;
        let mut bytes = BytesMut::with_capacity(length);
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        self.lock().staged.entry(name.to_owned()).or_default().insert(part, bytes.freeze());
        Ok(())
    }

    async fn commit(&self, name: &str, parts: u32) -> Result<(), StoreError> {
        accept::name(name)?;
        let mut inner = self.lock();
        if inner.blobs.contains_key(name) {
            return Err(StoreError::Exists(name.to_owned()));
        }
        let staged = inner.staged.get(name);
        let mut body = BytesMut::new();
        for part in 0..parts {
            match staged.and_then(|staged| staged.get(&part)) {
                Some(bytes) => body.extend_from_slice(bytes),
                None => return Err(StoreError::Failed(format!("{name}: part {part} was never staged"))),
            }
        }
        inner.insert(name, body.freeze(), None);
        Ok(())
    }

    async fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<bool, StoreError> {
        accept::name(name)?;
        let mut inner = self.lock();
        let Some(stored) = inner.blobs.get(name) else { return Ok(false) };
        lease::write(name, stored.lease, lease, self.clock.monotonic())?;
        inner.blobs.remove(name);
        Ok(true)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        accept::prefix(prefix)?;
        let inner = self.lock();
        let found = inner.blobs.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        Ok(found.map(|(name, stored)| Listed { name: name.clone(), size: stored.body.len() as u64 }).collect())
    }

    async fn acquire(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        accept::name(name)?;
        let (mut inner, now) = (self.lock(), self.clock.monotonic());
        let stored = inner.blob(name)?;
        stored.lease = Some(lease::acquire(name, stored.lease, lease, now)?);
        Ok(())
    }

    async fn renew(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        accept::name(name)?;
        let (mut inner, now) = (self.lock(), self.clock.monotonic());
        let stored = inner.blob(name)?;
        stored.lease = Some(lease::renew(name, stored.lease, lease, now)?);
        Ok(())
    }

    async fn release(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        accept::name(name)?;
        let mut inner = self.lock();
        let stored = inner.blob(name)?;
        lease::release(name, stored.lease, lease)?;
        stored.lease = None;
        Ok(())
    }

    async fn break_lease(&self, name: &str) -> Result<(), StoreError> {
        accept::name(name)?;
        let mut inner = self.lock();
        let stored = inner.blob(name)?;
        stored.lease = lease::brk(stored.lease);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{LEASE, conformance::Subject},
        test_support::ManualClock,
    };

    async fn subject() -> Subject {
        let clock = ManualClock::new();
        let store = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        let pass = move |length| {
            clock.advance(length);
            Box::pin(std::future::ready(())) as _
        };
        Subject { store: store.clone(), other: store, lease: LEASE, pass: Box::new(pass), _keep: Box::new(()) }
    }

    crate::store::conformance::conformance!(subject);

    #[tokio::test]
    async fn tests_can_look_and_spoil() {
        let store = MemoryStore::new(Arc::new(ManualClock::new()));
        let etag = store.put("a", Bytes::from_static(b"abc"), When::Absent, None).await.unwrap();
        store.stage("b", 0, vec![Bytes::from_static(b"unseen")]).await.unwrap();
        assert!(store.corrupt("a", |bytes| bytes[1] ^= 1));
        assert!(!store.corrupt("b", |_| panic!("there is no such blob")));
        assert_eq!(store.names(), ["a"]);
        assert_eq!(store.peek("a").as_deref(), Some(&b"acc"[..]));
        assert_eq!(store.peek("b"), None);
        assert_eq!(store.snapshot(), BTreeMap::from([("a".to_owned(), Bytes::from_static(b"acc"))]));
        let blob = store.get("a").await.unwrap().unwrap();
        assert_eq!((blob.etag, &*blob.body), (etag, &b"acc"[..]));
    }
}
