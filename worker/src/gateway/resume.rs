//! What a predecessor has left: its durable segments, learnt from their ends.

use blocklog::{
    LogError,
    codec::Descriptor,
    cycle::State,
    held::Held,
    ids::{DiskCycle, Epoch},
    keys::Secret,
    names,
    segment::{self, SegmentRef},
};
use extents::ExtentSet;
use futures::{StreamExt, TryStreamExt, stream};

use super::{GatewayError, Kept};
use crate::{env::Env, patience::renewing};

/// Ends that are read at a time.
const READS: usize = 8;

/// How much of a segment's end is read at first: the index of 190 records.
const TAIL: u64 = 16 << 10;

/// A segment that counts.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    /// How the manifest names it.
    pub(super) segment: SegmentRef,
    /// What its records cover.
    pub(super) extents: ExtentSet,
}

/// What all of them cover together.
pub(super) fn extents(counted: &[Counted]) -> ExtentSet {
    counted.iter().flat_map(|counted| counted.extents.iter()).collect()
}

/// The durable segments of each disk. Where the snapshot stands they all count, and are noted as checked; else only those that were checked.
pub(super) async fn durable(env: &Env, held: &mut Held<State>, stands: bool) -> Result<Kept, GatewayError> {
    let mut next = held.value().clone();
    for run in next.disks.values_mut().flat_map(|disk| &mut disk.runs) {
        if stands {
            run.checked = run.durable;
        } else {
            run.durable = run.checked;
        }
    }
    held.write(next.clone()).await?;
    let name = held.name().to_owned();
    let mut kept = Kept::new();
    for (disk, progress) in &next.disks {
        let mut counted = Vec::new();
        for run in progress.runs.iter().filter(|run| run.durable > 0) {
            let key = next.epochs.open(&env.keys, next.of, run.epoch, &name)?;
            let of = DiskCycle { of: next.of, disk: *disk };
            let sizes = renewing(env, held, sizes(env, of)).await??;
            let ends =
                stream::iter(0..run.durable).map(|n| tail(env, of, run.epoch, n, &key, &sizes)).buffered(READS).try_collect::<Vec<_>>();
            counted.extend(renewing(env, held, ends).await??);
        }
        kept.insert(*disk, counted);
    }
    Ok(kept)
}

type Sizes = std::collections::BTreeMap<String, u64>;

async fn sizes(env: &Env, of: DiskCycle) -> Result<Sizes, LogError> {
    let listed = env.store.list(&names::segments(of)).await?;
    Ok(listed.into_iter().map(|blob| (blob.name, blob.size)).collect())
}

async fn tail(env: &Env, of: DiskCycle, epoch: Epoch, n: u32, key: &Secret, sizes: &Sizes) -> Result<Counted, LogError> {
    let name = names::segment(of, epoch, n);
    let size = *sizes.get(&name).ok_or_else(|| LogError::Missing(name.clone()))?;
    let mut length = TAIL;
    loop {
        let end = env.store.get_range(&name, size.saturating_sub(length)..size).await?;
        match segment::read_tail(&name, of, epoch, n, key, size, &end)? {
            Ok(tail) => {
                let extents = tail.records.iter().map(Descriptor::sectors).collect();
                return Ok(Counted { segment: tail.segment, extents });
            }
            Err(needed) => length = needed,
        }
    }
}
