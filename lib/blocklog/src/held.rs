//! A document under its lease: how a ledger or a state is changed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    clock::Clock,
    document::{self, Document},
    error::LogError,
    keys::KeyRing,
    store::{ETag, LEASE, LeaseId, LogStore, StoreError, When},
};

/// A lease is taken for lost this long before it can really have ended: for clocks that run at slightly different speeds, and for a request that
/// is sent at the last moment.
pub const MARGIN: Duration = Duration::from_secs(5);

/// How often a holder renews.
pub const RENEW_EVERY: Duration = Duration::from_secs(15);

/// The pause before a request is tried again whose outcome is unknown.
const PAUSE: Duration = Duration::from_millis(500);

/// A document that this worker, and nobody else, may change for the time being.
///
/// The value here is what the store holds: each [`Held::write`] is conditional on the version that was read or written last, and names the
/// lease. A write whose answer was lost is resolved by looking: the store either holds the new bytes, or still the old version. A holder that
/// has lost its lease finds that out at its next write, at the latest; nothing that it wrote in between took effect.
pub struct Held<D> {
    store: Arc<dyn LogStore>,
    keys: KeyRing,
    clock: Arc<dyn Clock>,
    name: String,
    lease: LeaseId,
    etag: ETag,
    value: D,
    /// [`Clock::monotonic`] at which the lease may end.
    ends: Duration,
}

impl<D: Document> Held<D> {
    /// Takes the lease of an existing document and reads it.
    ///
    /// # Errors
    /// [`StoreError::Leased`] where another holds it, [`LogError::Missing`] where there is no such document, and those of reading it. On an
    /// error the lease is given back where it was taken.
    pub async fn acquire(
        store: Arc<dyn LogStore>,
        keys: KeyRing,
        clock: Arc<dyn Clock>,
        name: &str,
        lease: LeaseId,
    ) -> Result<Self, LogError> {
        let ends = clock.monotonic() + LEASE;
        match store.acquire(name, lease).await {
            Ok(()) => {}
            Err(StoreError::NotFound(_)) => return Err(LogError::Missing(name.to_owned())),
            Err(error) => {
                // The lease may have been given although the answer was lost: the next holder would wait for nobody.
                if error.in_doubt() {
                    let _ = store.release(name, lease).await;
                }
                return Err(error.into());
            }
        }
        let read = async {
            let blob = store.get(name).await?.ok_or_else(|| LogError::Missing(name.to_owned()))?;
            Ok((document::decode(&keys, name, &blob.body)?, blob.etag))
        };
        match read.await {
            Ok((value, etag)) => Ok(Self { store, keys, clock, name: name.to_owned(), lease, etag, value, ends }),
            Err(error) => {
                // Best effort: a lease that stays ends by itself.
                let _ = store.release(name, lease).await;
                Err(error)
            }
        }
    }

    /// What the store holds.
    #[must_use]
    pub fn value(&self) -> &D {
        &self.value
    }

    /// The document's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How much of the lease is surely left.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.ends.saturating_sub(MARGIN).saturating_sub(self.clock.monotonic())
    }

    /// An error where the lease may have ended.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    pub fn check(&self) -> Result<(), LogError> {
        if self.remaining() > Duration::ZERO { Ok(()) } else { Err(StoreError::LeaseLost(self.name.clone()).into()) }
    }

    /// Makes the lease last from now. While the store does not answer, it is tried again for as long as the lease lasts.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], also where the store did not answer for as long as the lease lasted; and whatever else it answers.
    pub async fn renew(&mut self) -> Result<(), LogError> {
        loop {
            self.check()?;
            let ends = self.clock.monotonic() + LEASE;
            match self.store.renew(&self.name, self.lease).await {
                Ok(()) => {
                    self.ends = ends;
                    return Ok(());
                }
                Err(error) if error.in_doubt() => self.clock.sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Replaces the document. When it returns, the store holds `next`.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], [`StoreError::Changed`] where somebody else wrote it, and the store's.
    pub async fn write(&mut self, next: D) -> Result<(), LogError> {
        // Also where there is nothing to write: the caller goes on in the belief that the document is still its own.
        self.check()?;
        if next == self.value {
            return Ok(());
        }
        let bytes = document::encode(&self.keys, &self.name, &next)?;
        loop {
            self.check()?;
            let error = match self.store.put(&self.name, bytes.clone(), When::Matches(self.etag.clone()), Some(self.lease)).await {
                Ok(etag) => {
                    self.etag = etag;
                    self.value = next;
                    return Ok(());
                }
                Err(error) => error,
            };
            // The store may have carried it out before it failed, or have repeated a request of which the first had taken effect.
            if !error.in_doubt() && !matches!(error, StoreError::Changed(_)) {
                return Err(error.into());
            }
            match self.look(&bytes).await? {
                Some(etag) => {
                    self.etag = etag;
                    self.value = next;
                    return Ok(());
                }
                None if error.in_doubt() => self.clock.sleep(PAUSE).await,
                None => return Err(error.into()),
            }
        }
    }

    /// The version under which the store holds exactly `bytes`, or none where it still holds the version that was there before.
    async fn look(&self, bytes: &Bytes) -> Result<Option<ETag>, LogError> {
        loop {
            self.check()?;
            match self.store.get(&self.name).await {
                Ok(Some(blob)) if blob.body == *bytes => return Ok(Some(blob.etag)),
                Ok(Some(blob)) if blob.etag == self.etag => return Ok(None),
                Ok(_) => return Err(StoreError::Changed(self.name.clone()).into()),
                Err(error) if error.in_doubt() => self.clock.sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the lease back, so that the next holder need not wait. Only where nothing that this holder sent is in doubt.
    pub async fn release(self) {
        // Best effort: a lease that stays ends by itself.
        let _ = self.store.release(&self.name, self.lease).await;
    }
}

#[cfg(test)]
mod tests;
