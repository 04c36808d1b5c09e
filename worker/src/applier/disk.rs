//! One disk of a cycle: from its segments to acknowledged writes.

use blocklog::{
    LogError,
    codec::{self, Codec, Descriptor},
    cycle::{Manifest, ReceiptDisk},
    fingerprints::Update,
    ids::{Digest, DiskCycle, DiskKey},
    names,
    segment::{Segment, SegmentRef},
};
use extents::{ExtentSet, SECTOR};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, FusedFuture},
    stream::{self, FuturesUnordered},
};
use replica::{CLEAR_STEP, MAX_WRITE, ReplicaError, coalesce::Coalescer};
use tokio::sync::mpsc;

use super::{ApplierError, seed_handle::SeedHandle, write_lease::WriteLease};
use crate::{
    cpu,
    env::{Env, Event},
    patience::{self, pause},
};

/// How often one write is tried.
const TRIES: u32 = 8;

/// How often a segment is fetched before it is taken for damaged.
const LOOKS: u32 = 2;

/// The most that neighbouring blocks are joined to. Half of what a request may hold: the disk's speed is its own well before the number of
/// requests counts, and each byte more is held three times, in the run that is joined and in those on their way.
const RUN: usize = MAX_WRITE / 2;

/// What was done on a disk.
#[derive(Default)]
pub(super) struct Applied {
    written: u64,
    cleared: u64,
    extents: ExtentSet,
}

impl Applied {
    pub(super) fn receipt(&self) -> ReceiptDisk {
        ReceiptDisk { written: self.written, cleared: self.cleared, extents: Digest(self.extents.digest()) }
    }
}

/// Applies all segments of a disk, in the order of their offsets, and compares what was acknowledged with the manifest.
///
/// A segment is fetched whole while its predecessor is applied, and nothing of it is written before every byte of it is verified.
pub(super) async fn apply(
    env: &Env,
    manifest: &Manifest,
    disk: DiskKey,
    handle: &SeedHandle,
    update: &mut Update,
    lease: &WriteLease<'_>,
) -> Result<Applied, ApplierError> {
    let sent = &manifest.disks[&disk];
    env.progress.note(Event::Applying { disk, bytes: sent.extents.bytes() });
    let of = DiskCycle { of: manifest.of, disk };
    let mut segments: Vec<&SegmentRef> = sent.segments.iter().collect();
    segments.sort_by_key(|segment| segment.first);
    let applied = Applied::default();
    let mut writer = Writer { env, disk, handle, lease, running: FuturesUnordered::new(), joined: Coalescer::new(RUN), applied };
    // One segment is applied while the next is fetched, never more: the place in the channel is taken before the fetch begins.
    let (sender, mut receiver) = mpsc::channel(1);
    let fetching = async {
        for segment in &segments {
            let Ok(place) = sender.reserve().await else { break };
            place.send(fetch(env, manifest, of, segment).await);
        }
        drop(sender);
    };
    let writing = async {
        let mut firsts = segments.iter().skip(1).map(|segment| segment.first);
        while let Some(fetched) = writer.beside(receiver.recv()).await? {
            let (name, segment) = fetched?;
            writer.segment(&name, segment, update).await?;
            if let Some(first) = firsts.next() {
                update.flush_below(first).await?;
            }
        }
        Ok(())
    };
    let result = {
        let (mut fetching, mut writing) = (std::pin::pin!(fetching.fuse()), std::pin::pin!(writing));
        loop {
            tokio::select! {
                biased;
                result = &mut writing => break result,
                () = &mut fetching, if !fetching.is_terminated() => {}
            }
        }
    };
    // Also after a failure: what was sent is waited for, so that it is known whether anything can still land.
    let settled = writer.settle(result.is_ok()).await;
    result.and(settled)?;
    handle.seed().flush().await.map_err(|error| ApplierError::Replica { disk, error })?;
    // The sum is compared as well: records that overlap would be written in an order that nobody knows.
    if writer.applied.extents != sent.extents || writer.applied.written + writer.applied.cleared != sent.extents.bytes() {
        return Err(ApplierError::BitmapMismatch { disk });
    }
    Ok(writer.applied)
}

/// A segment, verified and decrypted.
async fn fetch(env: &Env, manifest: &Manifest, of: DiskCycle, segment: &SegmentRef) -> Result<(String, Segment), ApplierError> {
    let name = names::segment(of, segment.epoch, segment.n);
    let key = manifest.epochs.open(&env.keys, manifest.of, segment.epoch, &names::manifest(manifest.of))?;
    let mut looked = 1;
    loop {
        let bytes = patience::store(env, || env.store.get_range(&name, 0..segment.size)).await?;
        let (owned, expected, key) = (name.clone(), segment.clone(), key.clone());
        match cpu::run(env.cpu.as_ref(), move || Segment::open(&owned, of, &expected, &key, bytes.into())).await {
            // A cycle is given up for this: what was changed on its way, or in our memory, is not damaged where it lies.
            Err(LogError::Damaged { .. }) if looked < LOOKS => looked += 1,
            opened => return Ok((name, opened?)),
        }
    }
}

/// Sends writes: neighbours joined into one, a few in flight, each tried until it is acknowledged.
struct Writer<'a> {
    env: &'a Env,
    disk: DiskKey,
    handle: &'a SeedHandle,
    lease: &'a WriteLease<'a>,
    running: FuturesUnordered<BoxFuture<'a, Result<Written, ApplierError>>>,
    /// Joins neighbouring blocks.
    joined: Coalescer,
    applied: Applied,
}

impl<'a> Writer<'a> {
    async fn segment(&mut self, name: &str, segment: Segment, update: &mut Update) -> Result<(), ApplierError> {
        let cpu = self.env.cpu.as_ref();
        let unpacked = stream::iter(segment.into_records()).map(|(record, stored)| async move {
            if record.codec == Codec::Zero {
                return (record, Ok(None));
            }
            let of = record.clone();
            let plain = cpu::run(cpu, move || codec::unpack(&of, &stored)).await;
            (record, plain.map(Some))
        });
        let mut unpacked = std::pin::pin!(unpacked.buffered(cpu.width() + 1));
        while let Some((record, plain)) = self.beside(unpacked.next()).await? {
            match plain.map_err(|error| Segment::damaged(name, &record, error))? {
                Some(plain) => {
                    // A run that is whole waits for nothing: else it would be held beside those on their way.
                    if self.joined.held() + plain.len() >= RUN {
                        self.room().await?;
                    }
                    self.joined.push(record.offset, plain.into());
                    self.send_ready().await?;
                }
                None => {
                    self.send_rest().await?;
                    self.clear(&record).await?;
                }
            }
            update.note(&record);
        }
        Ok(())
    }

    /// Waits for something while writes go on.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ApplierError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return Ok(result),
                Some(written) = self.running.next(), if !self.running.is_empty() => self.acknowledge(written?),
            }
        }
    }

    /// Sends the runs that are ready.
    async fn send_ready(&mut self) -> Result<(), ApplierError> {
        while let Some(run) = self.joined.next_run() {
            self.room().await?;
            let (env, disk, handle, lease) = (self.env, self.disk, self.handle, self.lease);
            self.running.push(Box::pin(async move {
                let length = run.data.len() as u64;
                env.throttle.take(run.data.len()).await;
                attempt(env, disk, lease, |permit| {
                    let (seed, data) = (handle.seed(), run.data.clone());
                    async move { seed.write(permit, run.offset, data).await }
                })
                .await?;
                Ok(Written { offset: run.offset, length, data: true })
            }));
        }
        Ok(())
    }

    /// Sends what waits for a neighbour.
    async fn send_rest(&mut self) -> Result<(), ApplierError> {
        self.joined.finish();
        self.send_ready().await
    }

    /// Clears a range, in steps: each needs a permit of its own, and the lease has to last it.
    async fn clear(&mut self, record: &Descriptor) -> Result<(), ApplierError> {
        let end = record.offset + record.length;
        let mut offset = record.offset;
        while offset < end {
            let length = CLEAR_STEP.min(end - offset);
            self.room().await?;
            let (env, disk, handle, lease) = (self.env, self.disk, self.handle, self.lease);
            self.running.push(Box::pin(async move {
                attempt(env, disk, lease, |permit| {
                    let seed = handle.seed();
                    async move { seed.clear(permit, offset, length).await }
                })
                .await?;
                Ok(Written { offset, length, data: false })
            }));
            offset += length;
        }
        Ok(())
    }

    /// Waits until one more may be in flight.
    async fn room(&mut self) -> Result<(), ApplierError> {
        while self.running.len() >= self.env.limits.writes.max(1)
            && let Some(written) = self.running.next().await
        {
            self.acknowledge(written?);
        }
        Ok(())
    }

    fn acknowledge(&mut self, written: Written) {
        let Written { offset, length, data } = written;
        self.applied.extents.insert(offset / SECTOR..(offset + length) / SECTOR);
        *if data { &mut self.applied.written } else { &mut self.applied.cleared } += length;
        self.env.progress.note(Event::Applied { disk: self.disk, bytes: length });
    }

    /// Sends what is left, where there is reason to, and waits until nothing is in flight.
    async fn settle(&mut self, sound: bool) -> Result<(), ApplierError> {
        let mut result = if sound { self.send_rest().await } else { Ok(()) };
        while let Some(written) = self.running.next().await {
            match written {
                Ok(written) => self.acknowledge(written),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}

/// An acknowledged write.
struct Written {
    offset: u64,
    length: u64,
    data: bool,
}

/// Sends one write until it is acknowledged. Each attempt needs a permit of its own: the lease may have to be renewed first.
async fn attempt<F: Future<Output = Result<(), ReplicaError>>>(
    env: &Env,
    disk: DiskKey,
    lease: &WriteLease<'_>,
    mut send: impl FnMut(replica::Permit) -> F,
) -> Result<(), ApplierError> {
    let mut tried = 0;
    loop {
        if lease.stopped() {
            return Err(ApplierError::Stopped);
        }
        let Some(permit) = lease.permit() else {
            // The keeper renews; if it can't, it stops everything.
            env.clock.sleep(pause(0)).await;
            continue;
        };
        match send(permit).await {
            Ok(()) => return Ok(()),
            Err(ReplicaError::PermitEnds { .. }) => env.clock.sleep(pause(0)).await,
            Err(error) => {
                if error.in_doubt() {
                    lease.doubt();
                }
                tried += 1;
                if !error.retryable() || tried >= TRIES {
                    return Err(ApplierError::Replica { disk, error });
                }
                env.progress.note(Event::Waiting { reason: error.reason(), message: error.to_string() });
                env.clock.sleep(pause(tried)).await;
            }
        }
    }
}
