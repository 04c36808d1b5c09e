//! Reports that the log store does not answer, and that it answers again, whoever waits for it.
//!
//! Most requests are tried again by who needs them: a lease's renewal for as long as the lease lasts, a part of a segment for minutes. None of them can
//! be forgotten here, and none has to know whom to tell.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use blocklog::store::{Blob, ETag, LeaseId, Listed, LogStore, StoreError, When};
use bytes::Bytes;

use crate::env::{Event, Progress};

/// A log store wrapper that reports when the store stops answering, and when it answers again.
pub struct Telling {
    store: Arc<dyn LogStore>,
    progress: Arc<dyn Progress>,
    /// Whether the last report was that the store does not answer.
    silent: AtomicBool,
}

impl Telling {
    #[must_use]
    pub fn new(store: Arc<dyn LogStore>, progress: Arc<dyn Progress>) -> Self {
        Self { store, progress, silent: AtomicBool::new(false) }
    }

    fn told<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Err(error) if error.in_doubt() => {
                self.silent.store(true, Ordering::Relaxed);
                self.progress.note(Event::Waiting { reason: error.reason(), message: error.to_string() });
            }
            // A refusal is an answer.
            _ => {
                if self.silent.swap(false, Ordering::Relaxed) {
                    self.progress.note(Event::Answered);
                }
            }
        }
        result
    }
}

#[async_trait]
impl LogStore for Telling {
    async fn get(&self, name: &str) -> Result<Option<Blob>, StoreError> {
        self.told(self.store.get(name).await)
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.told(self.store.get_range(name, range).await)
    }

    async fn put(&self, name: &str, body: Bytes, when: When, lease: Option<LeaseId>) -> Result<ETag, StoreError> {
        self.told(self.store.put(name, body, when, lease).await)
    }

    async fn stage(&self, name: &str, part: u32, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        self.told(self.store.stage(name, part, pieces).await)
    }

    async fn commit(&self, name: &str, parts: u32) -> Result<(), StoreError> {
        self.told(self.store.commit(name, parts).await)
    }

    async fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<bool, StoreError> {
        self.told(self.store.delete(name, lease).await)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.told(self.store.list(prefix).await)
    }

    async fn acquire(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        self.told(self.store.acquire(name, lease).await)
    }

    async fn renew(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        self.told(self.store.renew(name, lease).await)
    }

    async fn release(&self, name: &str, lease: LeaseId) -> Result<(), StoreError> {
        self.told(self.store.release(name, lease).await)
    }

    async fn break_lease(&self, name: &str) -> Result<(), StoreError> {
        self.told(self.store.break_lease(name).await)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use blocklog::{
        clock::SystemClock,
        cycle::KeyCheck,
        document,
        held::Held,
        keys::{KeyRing, Secret},
        names,
        store::memory::MemoryStore,
        test_support::{Fault, Faulty, Op},
    };
    use uuid::Uuid;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<&'static str>>);

    impl Progress for Heard {
        fn note(&self, event: Event) {
            let word = match event {
                Event::Waiting { reason, .. } => reason.as_str(),
                Event::Answered => "Answered",
                other => panic!("{other:?}"),
            };
            self.0.lock().unwrap().push(word);
        }
    }

    /// A disk that has sent all that it had waits for nobody but the keeper, and the keeper for its lease or its note.
    #[tokio::test(start_paused = true)]
    async fn who_waits_under_a_lease_says_so_and_says_when_it_is_over() {
        let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
        let (faulty, heard) = (Faulty::new(memory), Arc::new(Heard::default()));
        let store: Arc<dyn LogStore> = Arc::new(Telling::new(faulty.clone(), heard.clone()));
        let (keys, lease) = (KeyRing::single(1, Secret::new([1; 32])), LeaseId(Uuid::from_u128(1)));
        let since = jiff::Timestamp::UNIX_EPOCH;
        document::write_new(store.as_ref(), &keys, names::KEY_CHECK, &KeyCheck { since }).await.unwrap();
        let clock = Arc::new(SystemClock::new());
        let mut held = Held::<KeyCheck>::acquire(store.clone(), keys, clock, names::KEY_CHECK, lease).await.unwrap();
        let hears = |expected: &[&str]| assert_eq!(std::mem::take(&mut *heard.0.lock().unwrap()), expected);
        hears(&[]);
        faulty.script([(Op::Renew, Fault::Dropped), (Op::Renew, Fault::Dropped)]);
        held.renew().await.unwrap();
        hears(&["LogStoreUnreachable", "LogStoreUnreachable", "Answered"]);
        faulty.script([(Op::Put, Fault::Dropped), (Op::Get, Fault::Dropped)]);
        held.write(KeyCheck { since: jiff::Timestamp::from_second(1).unwrap() }).await.unwrap();
        hears(&["LogStoreUnreachable", "LogStoreUnreachable", "Answered"]);
        // A refusal is an answer: nobody waits.
        assert!(store.acquire(names::KEY_CHECK, LeaseId(Uuid::from_u128(2))).await.is_err());
        hears(&[]);
    }
}
