//! From the source to records: read, zero test, BLAKE3, compare, zstd, AES-256-GCM.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use blocklog::{
    codec::{Record, Sealer, is_zero},
    cycle::{Figures, Snapshot},
    fingerprints::{Fingerprint, Fingerprints, Place, zero_fingerprint},
    ids::DiskKey,
};
use extents::{ExtentSet, SECTOR};
use futures::{Stream, TryStreamExt, stream};
use source::{DiskSource, SourceError};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::{GatewayError, plan::DiskPlan};
use crate::{
    cpu,
    env::{Env, Event},
    patience::pause,
    snapshot::{SnapshotControl, SnapshotError},
};

/// How often a read is tried, with the disk opened anew in between: a host that restarts or a VM that moves takes a minute or two.
const TRIES: u32 = 10;

/// Blocks that have come and wait for one before them, beside those that are being read. Few: what is held is cold when it is computed.
const READY: usize = 2;

/// Bytes of a disk whose unallocated areas are asked for at a time.
const HINT_WINDOW: u64 = 1 << 30;

/// One disk of the snapshot, opened anew when it fails.
struct Reader<'a> {
    env: &'a Env,
    control: &'a dyn SnapshotControl,
    snapshot: &'a Snapshot,
    disk: DiskKey,
    /// The open source, and how many were opened before it.
    current: Mutex<(u32, Arc<dyn DiskSource>)>,
    /// What the source is asked for at a time. Counted here and not by the queue of blocks: there a block that has come keeps its place until
    /// those before it have come too, and meanwhile the source would have less to do.
    in_flight: Semaphore,
    /// How many that is by now.
    width: AtomicUsize,
}

impl<'a> Reader<'a> {
    async fn open(env: &'a Env, control: &'a dyn SnapshotControl, snapshot: &'a Snapshot, place: Place) -> Result<Self, GatewayError> {
        let disk = place.disk;
        let fail = |error| GatewayError::Source { disk, error };
        let source = control.open(snapshot, disk).await.map_err(fail)?;
        let (size, capacity) = (source.size(), place.capacity);
        if size < capacity {
            return Err(fail(SourceError::TooShort { size, wanted: capacity }));
        }
        if size > capacity {
            return Err(GatewayError::SourceGrown { disk, size, capacity });
        }
        let width = env.limits.reads.max(1);
        let (in_flight, width) = (Semaphore::new(width), AtomicUsize::new(width));
        Ok(Self { env, control, snapshot, disk, current: Mutex::new((0, source)), in_flight, width })
    }

    /// Whether one read less may be in flight from here on: all but one.
    fn narrow(&self) -> bool {
        let less = |width: usize| (width > 1).then(|| width - 1);
        self.width.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    async fn read(&self, range: &Range<u64>) -> Result<Vec<u8>, GatewayError> {
        let mut tried = 0;
        loop {
            let (generation, source) = {
                let current = self.current.lock().await;
                (current.0, Arc::clone(&current.1))
            };
            let read = async {
                // The semaphore is never closed.
                let place = self.in_flight.acquire().await;
                let result = source.read(range.start, (range.end - range.start) as u32).await;
                if let (Err(SourceError::Exhausted { .. }), Ok(place)) = (&result, place)
                    && self.narrow()
                {
                    place.forget();
                }
                result
            };
            let error = match read.await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            tried += 1;
            let hopeless = matches!(error, SourceError::TooShort { .. } | SourceError::Refused { .. });
            // Where the snapshot is gone, no number of tries helps, and the caller will look for the reason. Where that can't be told, it may
            // be for the same reason that the read failed.
            let gone = !hopeless && matches!(self.control.stands(self.snapshot).await, Ok(false) | Err(SnapshotError::Refused { .. }));
            if hopeless || gone || tried >= TRIES {
                return Err(GatewayError::Source { disk: self.disk, error });
            }
            self.env.progress.note(Event::Waiting { reason: error.reason(), message: error.to_string() });
            self.env.clock.sleep(pause(tried)).await;
            // A host without memory has answered: its session is sound, and a new one would cost it more.
            if !matches!(error, SourceError::Exhausted { .. }) {
                self.reopen(generation).await;
            }
        }
    }

    /// Opens the disk anew, unless another read has. A failure shows at the next read.
    async fn reopen(&self, generation: u32) {
        let mut current = self.current.lock().await;
        if current.0 == generation
            && let Ok(source) = self.control.open(self.snapshot, self.disk).await
        {
            *current = (generation + 1, source);
        }
    }

    async fn zeroes(&self, range: Range<u64>) -> ExtentSet {
        let source = Arc::clone(&self.current.lock().await.1);
        source.zeroes(range).await.unwrap_or_default()
    }
}

/// What came of a range.
pub(super) enum Out {
    /// It is zero: a record is made when the run of zeroes ends.
    Zero(Range<u64>),
    /// It has data. The permit is for the memory of its ciphertext.
    Data(Record, OwnedSemaphorePermit),
}

/// What was done, for whoever wants to tell.
#[derive(Default)]
pub(super) struct Counters {
    read: AtomicU64,
    in_place: AtomicU64,
}

impl Counters {
    /// What was done since the last call.
    pub(super) fn take(&self) -> Figures {
        let swap = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Figures { read: swap(&self.read), in_place: swap(&self.in_place), ..Figures::default() }
    }
}

/// Memory for the blocks of one disk, in KiB.
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes >> 10)))
    }

    async fn take(&self, bytes: u64) -> OwnedSemaphorePermit {
        // The semaphore is never closed, and no block is larger than the budget.
        Arc::clone(&self.0).acquire_many_owned(kib(bytes)).await.expect("the budget stays open")
    }
}

fn kib(bytes: u64) -> u32 {
    bytes.div_ceil(1 << 10).clamp(1, u64::from(u32::MAX)) as u32
}

enum Item {
    Zero(Range<u64>),
    Read { range: Range<u64>, expect: Fingerprint, permit: OwnedSemaphorePermit },
}

enum Fetched {
    Zero(Range<u64>),
    Data { offset: u64, plain: Vec<u8>, expect: Fingerprint, permit: OwnedSemaphorePermit },
}

/// Reads what the plan names and gives what has to be sent, in the order of the disk.
///
/// Reads are issued in order, [`crate::env::Limits::reads`] at a time, each when there is memory for it; a few more blocks may have come
/// and wait for their turn. Blocks are computed one a thread, with one more for each ready: they leave in the disk's order, and one that packs
/// slowly must not leave the other threads without work.
pub(super) async fn records<'a>(
    env: &'a Env,
    control: &'a dyn SnapshotControl,
    snapshot: &'a Snapshot,
    plan: DiskPlan,
    sealer: Sealer,
    budget: Budget,
    counters: &'a Counters,
) -> Result<impl Stream<Item = Result<Out, GatewayError>> + 'a, GatewayError> {
    let reader = Arc::new(Reader::open(env, control, snapshot, plan.place).await?);
    let work = Work {
        ranges: Cut {
            ranges: plan.target.byte_ranges().collect::<Vec<_>>().into_iter(),
            current: 0..0,
            block: u64::from(plan.place.block),
        },
        place: plan.place,
        fingerprints: plan.fingerprints,
        reader: Arc::clone(&reader),
        hints: (0, ExtentSet::new()),
        budget,
        counters,
    };
    let fetched = stream::try_unfold(work, async |mut work| Ok(work.next().await?.map(|item| (item, work))))
        .map_ok(move |item| {
            let reader = Arc::clone(&reader);
            async move {
                match item {
                    Item::Zero(range) => Ok(Fetched::Zero(range)),
                    Item::Read { range, expect, permit } => {
                        let plain = reader.read(&range).await?;
                        counters.read.fetch_add(plain.len() as u64, Ordering::Relaxed);
                        Ok(Fetched::Data { offset: range.start, plain, expect, permit })
                    }
                }
            }
        })
        .try_buffered(env.limits.reads.max(1) + READY);
    let computed = fetched
        .map_ok(move |fetched| {
            let sealer = sealer.clone();
            async move {
                match fetched {
                    Fetched::Zero(range) => Ok(Some(Out::Zero(range))),
                    Fetched::Data { offset, plain, expect, permit } => {
                        let length = plain.len() as u64;
                        // Not worth two changes of thread: it takes less time than reading the block took.
                        let out = if is_zero(&plain) {
                            let range = offset..offset + length;
                            let in_place = expect.is_some_and(|expect| expect == zero_fingerprint_of(&range));
                            (!in_place).then_some(Out::Zero(range))
                        } else {
                            cpu::run(env.cpu.as_ref(), move || compute(&sealer, offset, plain, expect, permit)).await
                        };
                        if out.is_none() {
                            counters.in_place.fetch_add(length, Ordering::Relaxed);
                        }
                        Ok(out)
                    }
                }
            }
        })
        .try_buffered(env.cpu.width() * 2);
    Ok(computed.try_filter_map(async |out| Ok(out)))
}

/// The work on a block that has data, on a thread of the pool: none where it is in place.
fn compute(sealer: &Sealer, offset: u64, plain: Vec<u8>, expect: Fingerprint, mut permit: OwnedSemaphorePermit) -> Option<Out> {
    let checksum = *blake3::hash(&plain).as_bytes();
    if expect == Some(checksum) {
        return None;
    }
    let record = sealer.data(offset, plain, checksum);
    let spare = permit.num_permits().saturating_sub(kib(record.payload.len() as u64) as usize);
    drop(permit.split(spare));
    Some(Out::Data(record, permit))
}

/// Gives the ranges to look at one by one.
struct Work<'a> {
    ranges: Cut,
    place: Place,
    fingerprints: Option<Fingerprints>,
    reader: Arc<Reader<'a>>,
    /// The sectors known to be zero below an offset.
    hints: (u64, ExtentSet),
    budget: Budget,
    counters: &'a Counters,
}

impl Work<'_> {
    async fn next(&mut self) -> Result<Option<Item>, GatewayError> {
        while let Some(range) = self.ranges.next() {
            let Some(fingerprints) = &mut self.fingerprints else {
                let permit = self.budget.take(range.end - range.start).await;
                return Ok(Some(Item::Read { range, expect: None, permit }));
            };
            let block = range.start / u64::from(self.place.block);
            let expect = fingerprints.get(block).await?;
            if !self.known_zero(&range).await {
                let permit = self.budget.take(range.end - range.start).await;
                return Ok(Some(Item::Read { range, expect, permit }));
            }
            if expect == Some(zero_fingerprint_of(&range)) {
                self.counters.in_place.fetch_add(range.end - range.start, Ordering::Relaxed);
            } else {
                return Ok(Some(Item::Zero(range)));
            }
        }
        Ok(None)
    }

    async fn known_zero(&mut self, range: &Range<u64>) -> bool {
        if range.end > self.hints.0 {
            let end = (range.start + HINT_WINDOW).min(self.place.capacity);
            self.hints = (end, self.reader.zeroes(range.start..end).await);
        }
        self.hints.1.contains(range.start / SECTOR..range.end / SECTOR)
    }
}

/// [`zero_fingerprint`], remembered for the length that nearly all blocks have.
fn zero_fingerprint_of(range: &Range<u64>) -> [u8; 32] {
    thread_local! {
        static LAST: std::cell::Cell<(u64, [u8; 32])> = const { std::cell::Cell::new((0, [0; 32])) };
    }
    let length = range.end - range.start;
    let (last, fingerprint) = LAST.get();
    if last == length {
        return fingerprint;
    }
    let fingerprint = zero_fingerprint(length);
    LAST.set((length, fingerprint));
    fingerprint
}

/// Byte ranges, cut at the borders of blocks.
struct Cut {
    ranges: std::vec::IntoIter<Range<u64>>,
    current: Range<u64>,
    block: u64,
}

impl Iterator for Cut {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        if self.current.is_empty() {
            self.current = self.ranges.next()?;
        }
        let start = self.current.start;
        let end = self.current.end.min((start / self.block + 1) * self.block);
        self.current.start = end;
        Some(start..end)
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
