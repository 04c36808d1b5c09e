//! Fingerprints: BLAKE3 of each whole block of a seed, as of the last clean write.
//!
//! They lie in chunks of [`CHUNK_BLOCKS`] blocks, so that a delta writes anew only the chunks that it touches, and an index says for each
//! chunk which turn wrote it. The ledger names the index by its digest, the index each chunk by its digest: one write of the ledger changes
//! all of them at once.
//!
//! A block may be without a fingerprint: it was written in part, or a cycle that was begun has not finished. Such a block is sent by the next
//! `Full` disk, whatever it holds.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use extents::ExtentSet;
use serde::{Deserialize, Serialize};

use crate::{
    codec::Descriptor,
    document::{self, Document},
    error::LogError,
    ids::{Digest, DiskKey, Incarnation, Turn, VmId},
    keys::KeyRing,
    ledger::IndexRef,
    names,
    plant::{Plant, planted},
    store::LogStore,
};

/// Blocks in a chunk: 4 GiB of disk in 128 KiB.
pub const CHUNK_BLOCKS: u64 = 4096;

/// The fingerprint of a block, or none.
pub type Fingerprint = Option<[u8; 32]>;

/// BLAKE3 of a block of `length` zero bytes.
#[must_use]
pub fn zero_fingerprint(length: u64) -> [u8; 32] {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut hasher = blake3::Hasher::new();
    let mut left = length;
    while left > 0 {
        let step = left.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..step as usize]);
        left -= step;
    }
    *hasher.finalize().as_bytes()
}

/// Where a disk's fingerprints lie, and how its blocks are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The VM.
    pub vm: VmId,
    /// The start of replication.
    pub incarnation: Incarnation,
    /// The disk.
    pub disk: DiskKey,
    /// Bytes of the source's disk.
    pub capacity: u64,
    /// Bytes of a block.
    pub block: u32,
}

impl Place {
    /// How many blocks there are; the last may be short.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.capacity.div_ceil(u64::from(self.block))
    }

    /// Bytes of block number `block`.
    #[must_use]
    pub fn length(&self, block: u64) -> u64 {
        let start = block * u64::from(self.block);
        u64::from(self.block).min(self.capacity.saturating_sub(start))
    }

    fn sectors(&self) -> u64 {
        u64::from(self.block) / extents::SECTOR
    }

    /// The numbers of the blocks that `sectors` touches, as a set.
    #[must_use]
    pub fn touched(&self, sectors: &ExtentSet) -> ExtentSet {
        let grain = self.sectors();
        sectors.iter().map(|range| range.start / grain..range.end.div_ceil(grain)).collect()
    }

    fn chunk_blocks(&self, chunk: u64) -> std::ops::Range<u64> {
        chunk * CHUNK_BLOCKS..((chunk + 1) * CHUNK_BLOCKS).min(self.blocks())
    }
}

/// Which turn wrote which chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Index {
    disk: DiskKey,
    capacity: u64,
    block: u32,
    chunk_blocks: u64,
    /// A chunk that is missing here has no fingerprint at all.
    chunks: BTreeMap<u64, ChunkRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum ChunkRef {
    /// Every block of it is zero.
    Zero,
    /// In the blob that this turn wrote.
    At { turn: Turn, digest: Digest },
}

impl Document for Index {
    const KIND: &'static str = "index";
}

impl Index {
    /// The names of the blobs that it refers to.
    pub fn blobs(&self, place: Place) -> impl Iterator<Item = String> {
        self.chunks.iter().filter_map(move |(chunk, at)| match at {
            ChunkRef::Zero => None,
            ChunkRef::At { turn, .. } => Some(names::chunk(place.vm, place.incarnation, place.disk, *turn, *chunk)),
        })
    }
}

/// Reads the fingerprints of one disk, a chunk at a time.
pub struct Fingerprints {
    store: Arc<dyn LogStore>,
    place: Place,
    index: Index,
    /// Blocks whose fingerprints are void.
    mask: ExtentSet,
    cached: Option<(u64, Vec<Fingerprint>)>,
}

impl Fingerprints {
    /// Those that the ledger names by `at`, less the blocks of `mask`.
    ///
    /// # Errors
    /// Those of reading the index; [`LogError::Damaged`] where it is another than the ledger's.
    pub async fn open(
        store: Arc<dyn LogStore>,
        keys: &KeyRing,
        place: Place,
        at: Option<&IndexRef>,
        mask: ExtentSet,
    ) -> Result<Self, LogError> {
        let chunks = place.blocks().div_ceil(CHUNK_BLOCKS);
        let empty =
            Index { disk: place.disk, capacity: place.capacity, block: place.block, chunk_blocks: CHUNK_BLOCKS, chunks: BTreeMap::new() };
        let index = match at {
            None => empty,
            Some(IndexRef::Zero) => Index { chunks: (0..chunks).map(|chunk| (chunk, ChunkRef::Zero)).collect(), ..empty },
            Some(IndexRef::At { turn, digest }) => {
                let name = names::index(place.vm, place.incarnation, place.disk, *turn);
                let (index, found) = document::require::<Index>(store.as_ref(), keys, &name).await?;
                if found != *digest {
                    return Err(LogError::damaged(&name, "it is not the index that the ledger names"));
                }
                if (Index { chunks: BTreeMap::new(), ..index.clone() }) != empty || index.chunks.keys().any(|chunk| *chunk >= chunks) {
                    return Err(LogError::damaged(&name, "it was made for a disk of another size"));
                }
                index
            }
        };
        Ok(Self { store, place, index, mask, cached: None })
    }

    /// The fingerprint of a block.
    ///
    /// # Errors
    /// Those of reading its chunk.
    pub async fn get(&mut self, block: u64) -> Result<Fingerprint, LogError> {
        if self.mask.contains(block..block + 1) {
            return Ok(None);
        }
        let chunk = block / CHUNK_BLOCKS;
        match self.index.chunks.get(&chunk) {
            None => return Ok(None),
            Some(ChunkRef::Zero) => return Ok(Some(zero_of(self.place, block))),
            Some(ChunkRef::At { .. }) => {}
        }
        if self.cached.as_ref().is_none_or(|(cached, _)| *cached != chunk) {
            let loaded = self.load(chunk).await?;
            self.cached = Some((chunk, loaded));
        }
        Ok(self.cached.as_ref().and_then(|(_, loaded)| loaded.get((block % CHUNK_BLOCKS) as usize).copied().flatten()))
    }

    /// A chunk's fingerprints, without the mask.
    async fn load(&self, chunk: u64) -> Result<Vec<Fingerprint>, LogError> {
        let range = self.place.chunk_blocks(chunk);
        match self.index.chunks.get(&chunk) {
            None => Ok(range.map(|_| None).collect()),
            Some(ChunkRef::Zero) => Ok(range.map(|block| Some(zero_of(self.place, block))).collect()),
            Some(ChunkRef::At { turn, digest }) => {
                let name = names::chunk(self.place.vm, self.place.incarnation, self.place.disk, *turn, chunk);
                let blob = self.store.get(&name).await?.ok_or_else(|| LogError::Missing(name.clone()))?;
                if Digest::of(&blob.body) != *digest {
                    return Err(LogError::damaged(&name, "it is not the chunk that the index names"));
                }
                decode(&blob.body, range.end - range.start).ok_or_else(|| LogError::damaged(&name, "it is not a chunk of this disk"))
            }
        }
    }
}

thread_local! {
    static ZERO: std::cell::Cell<Option<(u64, [u8; 32])>> = const { std::cell::Cell::new(None) };
}

/// [`zero_fingerprint`] of a block's length; all but the last are the same.
fn zero_of(place: Place, block: u64) -> [u8; 32] {
    let length = place.length(block);
    match ZERO.get() {
        Some((cached, zero)) if cached == length => zero,
        _ => {
            let zero = zero_fingerprint(length);
            ZERO.set(Some((length, zero)));
            zero
        }
    }
}

const MAGIC: &[u8; 8] = b"HAWFP\x01\r\n";

fn encode(chunk: &[Fingerprint]) -> Bytes {
    let mut out = Vec::with_capacity(MAGIC.len() + chunk.len() * 32);
    out.extend_from_slice(MAGIC);
    // BLAKE3 gives 32 zero bytes for no input that anyone will find: they say that there is none.
    chunk.iter().for_each(|fingerprint| out.extend_from_slice(&fingerprint.unwrap_or_default()));
    out.into()
}

fn decode(bytes: &[u8], blocks: u64) -> Option<Vec<Fingerprint>> {
    let (entries, rest) = bytes.strip_prefix(MAGIC)?.as_chunks::<32>();
    (rest.is_empty() && entries.len() as u64 == blocks).then(|| entries.iter().map(|entry| (*entry != [0; 32]).then_some(*entry)).collect())
}

/// Makes the next index of one disk while a cycle is applied.
///
/// Blocks are noted as their records are applied, and a chunk is written as soon as no later record can touch it; so memory holds the chunks
/// in between, not the disk.
pub struct Update {
    base: Fingerprints,
    turn: Turn,
    /// Blocks whose old fingerprint is void: those of this cycle and of every masked one.
    void: ExtentSet,
    noted: BTreeMap<u64, [u8; 32]>,
    zeroed: ExtentSet,
    next: BTreeMap<u64, ChunkRef>,
    done: u64,
}

impl Update {
    /// On top of `base` (whose mask is what earlier cycles voided) for a cycle that covers `sectors`.
    #[must_use]
    pub fn new(base: Fingerprints, turn: Turn, sectors: &ExtentSet) -> Self {
        let void =
            if planted(Plant::FingerprintsOfPartialKept) { base.mask.clone() } else { base.mask.union(&base.place.touched(sectors)) };
        let next = base.index.chunks.clone();
        Self { base, turn, void, noted: BTreeMap::new(), zeroed: ExtentSet::new(), next, done: 0 }
    }

    /// Notes an applied record. Only whole blocks get a fingerprint.
    pub fn note(&mut self, record: &Descriptor) {
        let (place, grain) = (self.base.place, u64::from(self.base.place.block));
        let end = record.offset + record.length;
        if record.codec == crate::codec::Codec::Zero {
            let first = record.offset.div_ceil(grain);
            let last = if end == place.capacity { place.blocks() } else { end / grain };
            if first < last {
                self.zeroed.insert(first..last);
            }
        } else if record.offset.is_multiple_of(grain) && place.length(record.offset / grain) == record.length {
            self.noted.insert(record.offset / grain, record.checksum);
        }
    }

    /// Writes the chunks that lie wholly below `offset` (bytes): no later record begins below it.
    ///
    /// # Errors
    /// The store's.
    pub async fn flush_below(&mut self, offset: u64) -> Result<(), LogError> {
        let chunk = offset / u64::from(self.base.place.block) / CHUNK_BLOCKS;
        self.flush(chunk).await
    }

    /// Writes what is left, and the index.
    ///
    /// # Errors
    /// The store's.
    pub async fn finish(mut self, keys: &KeyRing) -> Result<IndexRef, LogError> {
        self.flush(self.base.place.blocks().div_ceil(CHUNK_BLOCKS)).await?;
        let place = self.base.place;
        let index = Index { chunks: self.next, ..self.base.index };
        let name = names::index(place.vm, place.incarnation, place.disk, self.turn);
        let digest = document::write_new(self.base.store.as_ref(), keys, &name, &index).await?;
        Ok(IndexRef::At { turn: self.turn, digest })
    }

    async fn flush(&mut self, below: u64) -> Result<(), LogError> {
        let range = self.done * CHUNK_BLOCKS..below.max(self.done) * CHUNK_BLOCKS;
        let mut touched = self.void.within(range.clone()).union(&self.zeroed.within(range.clone()));
        self.noted.range(range.clone()).for_each(|(block, _)| touched.insert(*block..block + 1));
        for chunk in touched.blocks(CHUNK_BLOCKS).collect::<Vec<_>>() {
            self.write(chunk).await?;
        }
        self.noted = self.noted.split_off(&range.end);
        self.done = self.done.max(below);
        Ok(())
    }

    async fn write(&mut self, chunk: u64) -> Result<(), LogError> {
        let place = self.base.place;
        let blocks = place.chunk_blocks(chunk);
        let mut prints = self.base.load(chunk).await?;
        for set in [&self.void, &self.zeroed] {
            let zero = std::ptr::eq(set, &self.zeroed);
            for block in set.within(blocks.clone()).iter().flatten() {
                prints[(block - blocks.start) as usize] = zero.then(|| zero_of(place, block));
            }
        }
        for (block, print) in self.noted.range(blocks.clone()) {
            prints[(block - blocks.start) as usize] = Some(*print);
        }
        if prints.iter().all(Option::is_none) {
            self.next.remove(&chunk);
        } else if prints.iter().zip(blocks).all(|(print, block)| *print == Some(zero_of(place, block))) {
            self.next.insert(chunk, ChunkRef::Zero);
        } else {
            let bytes = encode(&prints);
            let digest = Digest::of(&bytes);
            document::put_new(self.base.store.as_ref(), &names::chunk(place.vm, place.incarnation, place.disk, self.turn, chunk), bytes)
                .await?;
            self.next.insert(chunk, ChunkRef::At { turn: self.turn, digest });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
