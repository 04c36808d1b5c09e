//! From records to durable segments.

use std::{future, ops::Range};

use blocklog::{
    LogError,
    codec::{Record, Sealer},
    cycle::Figures,
    ids::{DiskCycle, Epoch},
    keys::Secret,
    names,
    plant::{Plant, planted},
    segment::{self, Part, SegmentBuilder, SegmentRef},
    store::StoreError,
};
use extents::ExtentSet;
use futures::{
    StreamExt, TryStreamExt,
    future::{BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    GatewayError,
    keeper::Note,
    plan::DiskPlan,
    read::{self, Budget, Counters, Out},
    resume::Counted,
    transfer::Transfer,
};
use crate::{
    env::{Env, Event},
    patience,
};

/// How many results of reading wait for the upload.
const WAITING: usize = 4;

/// Sends one disk. Returns when the keeper has been told that all of it is read.
pub(super) async fn disk(transfer: &Transfer<'_>, plan: DiskPlan, fresh: bool, notes: mpsc::Sender<Note>) -> Result<(), GatewayError> {
    let Transfer { env, control, snapshot, epoch, key, .. } = *transfer;
    let disk = plan.place.disk;
    let of = DiskCycle { of: transfer.of, disk };
    env.progress.note(Event::Reading { disk, mode: plan.mode, changed: plan.changed });
    let counters = Counters::default();
    let sealer = Sealer::new(of, key);
    let changed = if fresh { plan.changed } else { 0 };
    let records = read::records(env, control, snapshot, plan, sealer.clone(), Budget::new(env.limits.memory), &counters).await?;
    let mut uploader =
        Uploader { env, of, epoch, key, sealer, notes, counters: &counters, changed, next: 0, open: None, zero: None, finishing: None };
    let (sender, receiver) = mpsc::channel(WAITING);
    // Two halves, so that reads go on while an upload is waited for.
    let producer = async {
        let mut records = std::pin::pin!(records);
        while let Some(out) = records.try_next().await? {
            if sender.send(out).await.is_err() {
                break;
            }
        }
        drop(sender);
        Ok(())
    };
    futures::future::try_join(producer, uploader.run(receiver)).await?;
    Ok(())
}

/// Makes segments of one disk, one after the other. The next is begun while the last becomes durable and is noted; it ends only when that is
/// done.
struct Uploader<'a> {
    env: &'a Env,
    of: DiskCycle,
    epoch: Epoch,
    key: &'a Secret,
    sealer: Sealer,
    notes: mpsc::Sender<Note>,
    counters: &'a Counters,
    /// What the first note says was looked at.
    changed: u64,
    next: u32,
    open: Option<Open<'a>>,
    /// Zeroes that are not yet a record.
    zero: Option<Range<u64>>,
    finishing: Option<BoxFuture<'a, Result<(), GatewayError>>>,
}

/// The segment that is being made.
struct Open<'a> {
    name: String,
    builder: SegmentBuilder,
    staging: FuturesUnordered<BoxFuture<'a, Result<(), GatewayError>>>,
    /// The memory of the part that is being filled.
    permit: Option<OwnedSemaphorePermit>,
    extents: ExtentSet,
}

impl<'a> Uploader<'a> {
    async fn run(&mut self, mut records: mpsc::Receiver<Out>) -> Result<(), GatewayError> {
        loop {
            let staging = self.open.as_ref().map_or(0, |open| open.staging.len());
            tokio::select! {
                biased;
                result = done(&mut self.finishing) => {
                    self.finishing = None;
                    result?;
                }
                Some(result) = staged(&mut self.open), if staging > 0 => result?,
                out = records.recv(), if staging < self.env.limits.uploads.max(1) => match out {
                    Some(Out::Zero(range)) => self.zeroes(range).await?,
                    Some(Out::Data(record, permit)) => {
                        self.end_zeroes().await?;
                        self.push(record, Some(permit)).await?;
                    }
                    None => break,
                },
            }
        }
        self.end_zeroes().await?;
        self.close().await?;
        done_or_none(&mut self.finishing).await?;
        let step = self.step(0);
        // The keeper is gone where the cycle is over: nobody wants to know.
        let _ = self.notes.send(Note::Read { disk: self.of.disk, step }).await;
        Ok(())
    }

    async fn zeroes(&mut self, range: Range<u64>) -> Result<(), GatewayError> {
        match &mut self.zero {
            Some(zero) if zero.end == range.start => zero.end = range.end,
            _ => {
                self.end_zeroes().await?;
                self.zero = Some(range);
            }
        }
        Ok(())
    }

    async fn end_zeroes(&mut self) -> Result<(), GatewayError> {
        match self.zero.take() {
            Some(zero) => self.push(self.sealer.zero(zero.start, zero.end - zero.start), None).await,
            None => Ok(()),
        }
    }

    async fn push(&mut self, record: Record, permit: Option<OwnedSemaphorePermit>) -> Result<(), GatewayError> {
        if self.open.as_ref().is_some_and(|open| open.builder.is_full_for(record.payload.len())) {
            self.close().await?;
        }
        let (env, limits) = (self.env, self.env.limits);
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let n = self.next;
                self.next += 1;
                self.open.insert(Open {
                    name: names::segment(self.of, self.epoch, n),
                    builder: SegmentBuilder::new(self.of, self.epoch, n, self.key, limits.segment, limits.part),
                    staging: FuturesUnordered::new(),
                    permit: None,
                    extents: ExtentSet::new(),
                })
            }
        };
        open.extents.insert(record.descriptor.sectors());
        let parts = open.builder.push(&record);
        match (&mut open.permit, permit) {
            (Some(held), Some(more)) => held.merge(more),
            (held, more) => *held = held.take().or(more),
        }
        for part in parts {
            open.staging.push(stage(env, open.name.clone(), part, open.permit.take()).boxed());
        }
        Ok(())
    }

    /// Ends the open segment. It becomes durable beside what follows.
    async fn close(&mut self) -> Result<(), GatewayError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        done_or_none(&mut self.finishing).await?;
        let (parts, count, segment) = open.builder.finish();
        let step = self.step(segment.size);
        let counted = Counted { segment, extents: open.extents };
        let finish = Finish { env: self.env, of: self.of, key: self.key, name: open.name, notes: self.notes.clone() };
        self.finishing = Some(finish.run(open.staging, parts, open.permit, count, counted, step).boxed());
        Ok(())
    }

    fn step(&mut self, uploaded: u64) -> Figures {
        Figures { changed: std::mem::take(&mut self.changed), uploaded, ..self.counters.take() }
    }
}

/// Makes a segment durable and has it noted.
struct Finish<'a> {
    env: &'a Env,
    of: DiskCycle,
    key: &'a Secret,
    name: String,
    notes: mpsc::Sender<Note>,
}

impl<'a> Finish<'a> {
    async fn run(
        self,
        mut staging: FuturesUnordered<BoxFuture<'a, Result<(), GatewayError>>>,
        parts: Vec<Part>,
        permit: Option<OwnedSemaphorePermit>,
        count: u32,
        counted: Counted,
        step: Figures,
    ) -> Result<(), GatewayError> {
        let segment = counted.segment.clone();
        let (noted, answer) = oneshot::channel();
        let note = Note::Durable { disk: self.of.disk, counted, step, noted };
        if planted(Plant::ManifestBeforeSegments) {
            let _ = self.notes.send(note).await;
            return self.commit(&mut staging, parts, permit, count, &segment).await;
        }
        self.commit(&mut staging, parts, permit, count, &segment).await?;
        // A keeper that is gone has ended the transfer: this future is about to be dropped.
        let _ = self.notes.send(note).await;
        if answer.await.is_err() {
            future::pending::<()>().await;
        }
        Ok(())
    }

    async fn commit(
        &self,
        staging: &mut FuturesUnordered<BoxFuture<'a, Result<(), GatewayError>>>,
        parts: Vec<Part>,
        mut permit: Option<OwnedSemaphorePermit>,
        count: u32,
        segment: &SegmentRef,
    ) -> Result<(), GatewayError> {
        for part in parts {
            while staging.len() >= self.env.limits.uploads.max(1) {
                staging.try_next().await?;
            }
            staging.push(stage(self.env, self.name.clone(), part, permit.take()).boxed());
        }
        while staging.try_next().await?.is_some() {}
        match patience::store(self.env, || self.env.store.commit(&self.name, count)).await {
            // The request had been carried out, and its answer was lost. Nobody else writes segments of our epoch; but look.
            Err(StoreError::Exists(_)) => self.is_ours(segment).await,
            result => Ok(result?),
        }
    }

    async fn is_ours(&self, segment: &SegmentRef) -> Result<(), GatewayError> {
        let start = segment.size.saturating_sub(segment::tail_length(segment.records));
        let end = patience::store(self.env, || self.env.store.get_range(&self.name, start..segment.size)).await?;
        match segment::read_tail(&self.name, self.of, segment.epoch, segment.n, self.key, segment.size, &end)? {
            Ok(tail) if tail.segment == *segment => Ok(()),
            _ => Err(LogError::damaged(&self.name, "another writer has written it").into()),
        }
    }
}

async fn stage(env: &Env, name: String, part: Part, permit: Option<OwnedSemaphorePermit>) -> Result<(), GatewayError> {
    env.throttle.take(part.pieces.iter().map(bytes::Bytes::len).sum()).await;
    patience::store(env, || env.store.stage(&name, part.number, part.pieces.clone())).await?;
    drop(permit);
    Ok(())
}

/// Never, where nothing is running.
async fn done(running: &mut Option<BoxFuture<'_, Result<(), GatewayError>>>) -> Result<(), GatewayError> {
    match running {
        Some(running) => running.await,
        None => future::pending().await,
    }
}

async fn done_or_none(running: &mut Option<BoxFuture<'_, Result<(), GatewayError>>>) -> Result<(), GatewayError> {
    match running.take() {
        Some(running) => running.await,
        None => Ok(()),
    }
}

async fn staged<'a>(open: &mut Option<Open<'a>>) -> Option<Result<(), GatewayError>> {
    open.as_mut()?.staging.next().await
}
