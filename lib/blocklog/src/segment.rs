//! Segments: the records of one disk in one epoch, a few MiB at a time.
//!
//! ```text
//! header   80 bytes: magic, format version, VM, incarnation, cycle, disk, epoch, number
//! payloads the ciphertexts, back to back, in the order of the records
//! index    84 bytes a record: offset, length, codec, stored length, checksum, nonce, tag
//! trailer  60 bytes: number of records, length of the payloads, MAC, magic
//! ```
//!
//! The order is that of a stream: the header is known before the first block, and what describes the blocks only after the last, so a segment
//! is uploaded part by part while its disk is read, and nobody holds it whole. The end can be read alone (the trailer's length is fixed): a
//! gateway that takes over learns from it what a segment covers without reading the blocks.
//!
//! What holds it together: each payload's tag stands in the index, and the MAC (keyed BLAKE3 under a key derived from the epoch's data key)
//! covers header, index and trailer. So every byte is authenticated, and none is hashed a second time. A segment is named in the manifest
//! by the digest of the same three parts.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{Codec, Descriptor, MAX_BLOCK, OpenError, Opener, Record},
    document::FORMAT,
    error::LogError,
    ids::{Digest, DiskCycle, Epoch},
    keys::Secret,
    store::MAX_PART,
};

/// The most that a segment may hold.
pub const MAX_SEGMENT: u64 = 32 << 20;

/// The most records in a segment: its plain content stays below 4 GiB however well it packs, and its index below 400 KiB.
pub const MAX_RECORDS: usize = 4096;

const MAGIC: &[u8; 8] = b"HAWSEG\r\n";
const END: &[u8; 8] = b"HAWSEND\n";
const HEADER: usize = 8 + 4 + 16 * 3 + 8 + 4 + 4 + 4;
const DESCRIPTOR: usize = 8 + 8 + 4 + 4 + 32 + 12 + 16;
const TRAILER: usize = 4 + 8 + 8 + 32 + 8;

/// How the index of a segment writes a record.
impl Descriptor {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&[self.codec as u8, 0, 0, 0]);
        out.extend_from_slice(&self.stored.to_le_bytes());
        out.extend_from_slice(&self.checksum);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.tag);
    }

    fn read(bytes: &[u8; DESCRIPTOR]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (offset, length) = (reader.u64()?, reader.u64()?);
        let [codec, 0, 0, 0] = reader.array()? else { return None };
        let codec = Codec::from_byte(codec)?;
        let (stored, checksum, nonce, tag) = (reader.u32()?, reader.array()?, reader.array()?, reader.array()?);
        let sound = offset % extents::SECTOR == 0
            && length % extents::SECTOR == 0
            && length > 0
            && offset.checked_add(length).is_some()
            && match codec {
                Codec::Zero => stored == 0,
                Codec::Raw => length <= u64::from(MAX_BLOCK) && u64::from(stored) == length,
                Codec::Zstd => length <= u64::from(MAX_BLOCK) && u64::from(stored) < length && stored > 0,
            };
        sound.then_some(Self { offset, length, codec, stored, checksum, nonce, tag })
    }
}

/// A segment as manifest and ledger name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// Its number within the epoch, from 0.
    pub n: u32,
    /// Bytes.
    pub size: u64,
    /// Its records.
    pub records: u32,
    /// The lowest offset of a record, in bytes: segments are applied in this order.
    pub first: u64,
    /// BLAKE3 of header, index and trailer.
    pub digest: Digest,
}

/// A part that is ready to be staged.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its number, from 0.
    pub number: u32,
    /// Its bytes, in pieces.
    pub pieces: Vec<Bytes>,
}

/// Builds one segment as a stream of parts.
pub struct SegmentBuilder {
    key: Secret,
    epoch: Epoch,
    n: u32,
    header: [u8; HEADER],
    part_size: usize,
    limit: u64,
    index: Vec<u8>,
    records: u32,
    payload: u64,
    first: u64,
    parts: u32,
    pieces: Vec<Bytes>,
    pending: usize,
}

impl SegmentBuilder {
    /// A new segment. It takes records until it holds `limit` bytes (at most [`MAX_SEGMENT`]) and gives parts of `part_size` bytes (more than
    /// the header's 80, at most [`MAX_PART`]; what is outside is brought to the nearer end).
    #[must_use]
    pub fn new(of: DiskCycle, epoch: Epoch, n: u32, data_key: &Secret, limit: u64, part_size: usize) -> Self {
        let header = header(of, epoch, n);
        Self {
            key: data_key.derive(MAC_CONTEXT),
            epoch,
            n,
            header,
            part_size: part_size.clamp(HEADER + 1, MAX_PART),
            limit: limit.min(MAX_SEGMENT),
            index: Vec::new(),
            records: 0,
            payload: 0,
            first: u64::MAX,
            parts: 0,
            pieces: vec![Bytes::copy_from_slice(&header)],
            pending: HEADER,
        }
    }

    /// True while nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// True where a record of `stored` bytes belongs in the next segment. An empty segment takes any record.
    #[must_use]
    pub fn is_full_for(&self, stored: usize) -> bool {
        let size = (HEADER + self.index.len() + DESCRIPTOR + stored + TRAILER) as u64 + self.payload;
        self.records > 0 && (size > self.limit || self.records as usize >= MAX_RECORDS)
    }

    /// Adds a record; gives the parts that are full now.
    pub fn push(&mut self, record: &Record) -> Vec<Part> {
        record.descriptor.write(&mut self.index);
        self.records += 1;
        self.payload += record.payload.len() as u64;
        self.first = self.first.min(record.descriptor.offset);
        self.append(record.payload.clone())
    }

    /// Ends it: the last parts, how many there are in all, and how the manifest names it. Not for an empty one: no reader takes a segment
    /// without records.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Part>, u32, SegmentRef) {
        let mut trailer = Vec::with_capacity(TRAILER);
        trailer.extend_from_slice(&self.records.to_le_bytes());
        trailer.extend_from_slice(&self.payload.to_le_bytes());
        trailer.extend_from_slice(&self.first.to_le_bytes());
        let mac = self.key.mac(&[&self.header, &self.index, &trailer]);
        trailer.extend_from_slice(mac.as_bytes());
        trailer.extend_from_slice(END);
        let digest = digest(&self.header, &self.index, &trailer);
        let size = (HEADER + self.index.len() + TRAILER) as u64 + self.payload;
        let segment = SegmentRef { epoch: self.epoch, n: self.n, size, records: self.records, first: self.first, digest };
        let index = std::mem::take(&mut self.index);
        let mut parts = self.append(index.into());
        parts.extend(self.append(trailer.into()));
        if self.pending > 0 {
            parts.push(self.take_part());
        }
        (parts, self.parts, segment)
    }

    fn append(&mut self, mut bytes: Bytes) -> Vec<Part> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(self.part_size - self.pending));
            self.pending += piece.len();
            self.pieces.push(piece);
            if self.pending == self.part_size {
                out.push(self.take_part());
            }
        }
        out
    }

    fn take_part(&mut self) -> Part {
        let part = Part { number: self.parts, pieces: std::mem::take(&mut self.pieces) };
        self.parts += 1;
        self.pending = 0;
        part
    }
}

const MAC_CONTEXT: &str = "hawser v1 segment mac";

fn header(of: DiskCycle, epoch: Epoch, n: u32) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    let parts: [&[u8]; 9] = [
        MAGIC,
        &FORMAT.to_le_bytes(),
        of.of.vm.vcenter.as_bytes(),
        of.of.vm.instance.as_bytes(),
        of.of.incarnation.0.as_bytes(),
        &of.of.cycle.0.to_le_bytes(),
        &of.disk.0.to_le_bytes(),
        &epoch.0.to_le_bytes(),
        &n.to_le_bytes(),
    ];
    let mut at = 0;
    for part in parts {
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    out
}

fn digest(header: &[u8], index: &[u8], trailer: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header).update(index).update(trailer);
    Digest(*hasher.finalize().as_bytes())
}

/// How many bytes at the end of a segment hold `records` descriptors and the trailer.
#[must_use]
pub fn tail_length(records: u32) -> u64 {
    (records as usize * DESCRIPTOR + TRAILER) as u64
}

/// What a segment's end says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Its records, in order.
    pub records: Vec<Descriptor>,
    /// How the manifest names it.
    pub segment: SegmentRef,
}

/// Reads the end of the segment number `n` of `epoch`; `size` is the segment's whole length. Where `tail` is too short for the index, the
/// answer is how many bytes are needed.
///
/// # Errors
/// [`LogError::Damaged`] for everything that is not as [`SegmentBuilder`] writes it, [`LogError::UnknownVersion`] never: the trailer carries no
/// version, the header does.
pub fn read_tail(
    name: &str,
    of: DiskCycle,
    epoch: Epoch,
    n: u32,
    data_key: &Secret,
    size: u64,
    tail: &[u8],
) -> Result<Result<Tail, u64>, LogError> {
    let trailer = Trailer::parse(name, size, tail)?;
    let needed = tail_length(trailer.records);
    if (tail.len() as u64) < needed {
        return Ok(Err(needed));
    }
    let tail = &tail[tail.len() - needed as usize..];
    trailer.check(name, &header(of, epoch, n), epoch, n, data_key, tail).map(Ok)
}

/// A whole segment, its blocks decrypted and their tags verified, not yet unpacked.
pub struct Segment {
    bytes: Vec<u8>,
    records: Vec<Descriptor>,
}

impl Segment {
    /// Verifies every byte of a segment and decrypts it in place. Memory: that of `bytes`, and the index once more.
    ///
    /// # Errors
    /// [`LogError::Damaged`]; [`LogError::UnknownVersion`] where the header says so.
    pub fn open(name: &str, of: DiskCycle, expected: &SegmentRef, data_key: &Secret, mut bytes: Vec<u8>) -> Result<Self, LogError> {
        let bad = |what: &str| LogError::damaged(name, what);
        let size = bytes.len() as u64;
        if size != expected.size {
            return Err(bad(&format!("it has {size} bytes, the manifest says {}", expected.size)));
        }
        check_version(name, &bytes)?;
        let trailer = Trailer::parse(name, size, &bytes)?;
        let header = header(of, expected.epoch, expected.n);
        if bytes.get(..HEADER) != Some(&header[..]) {
            return Err(bad("its header names another place"));
        }
        let start = bytes.len() - tail_length(trailer.records) as usize;
        let tail = trailer.check(name, &header, expected.epoch, expected.n, data_key, &bytes[start..])?;
        if tail.segment != *expected {
            return Err(bad("it is not the segment that the manifest names"));
        }
        let opener = Opener::new(of, data_key);
        let mut at = HEADER;
        for (i, record) in tail.records.iter().enumerate() {
            let end = at + record.stored as usize;
            opener.decrypt(record, &mut bytes[at..end]).map_err(|error| bad(&format!("record {i}: {error}")))?;
            at = end;
        }
        Ok(Self { bytes, records: tail.records })
    }

    /// Its records in order, each with its decrypted bytes (none for a zero range); [`crate::codec::unpack`] makes the block of them. The bytes
    /// are slices of the segment: nothing is copied.
    pub fn into_records(self) -> impl Iterator<Item = (Descriptor, Bytes)> + Send {
        let bytes = Bytes::from(self.bytes);
        let mut at = HEADER;
        self.records.into_iter().map(move |record| {
            let start = at;
            at += record.stored as usize;
            (record, bytes.slice(start..at))
        })
    }

    /// The message for a block of it that can't be unpacked.
    #[must_use]
    pub fn damaged(name: &str, record: &Descriptor, error: OpenError) -> LogError {
        LogError::damaged(name, format!("the block at {}: {error}", record.offset))
    }
}

fn check_version(name: &str, bytes: &[u8]) -> Result<(), LogError> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| LogError::damaged(name, "it is shorter than a header"))?;
    if magic != MAGIC {
        return Err(LogError::damaged(name, "it is not a segment"));
    }
    let version =
        rest.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)).ok_or_else(|| LogError::damaged(name, "it is shorter than a header"))?;
    if version == FORMAT {
        Ok(())
    } else {
        Err(LogError::UnknownVersion { name: name.to_owned(), found: version.to_string(), known: FORMAT })
    }
}

/// The trailer, checked against the segment's length only.
struct Trailer {
    records: u32,
    payload: u64,
    first: u64,
    size: u64,
}

impl Trailer {
    /// Bounds everything that is allocated later: the index by [`MAX_RECORDS`], the whole by the segment's real length.
    fn parse(name: &str, size: u64, tail: &[u8]) -> Result<Self, LogError> {
        let bad = |what: &str| LogError::damaged(name, what);
        let start = tail.len().checked_sub(TRAILER).ok_or_else(|| bad("it is shorter than a trailer"))?;
        let mut reader = Reader(&tail[start..]);
        let (Some(records), Some(payload), Some(first)) = (reader.u32(), reader.u64(), reader.u64()) else {
            return Err(bad("it has no trailer"));
        };
        if !tail.ends_with(END) {
            return Err(bad("it has no end"));
        }
        if records == 0 || records as usize > MAX_RECORDS {
            return Err(bad("its number of records is out of range"));
        }
        if (HEADER as u64).checked_add(payload).and_then(|n| n.checked_add(tail_length(records))) != Some(size)
            || size > MAX_SEGMENT + (2 << 20)
        {
            return Err(bad("its parts do not add up to its length"));
        }
        Ok(Self { records, payload, first, size })
    }

    /// `tail` is exactly index and trailer.
    fn check(&self, name: &str, header: &[u8; HEADER], epoch: Epoch, n: u32, data_key: &Secret, tail: &[u8]) -> Result<Tail, LogError> {
        let bad = |what: &str| LogError::damaged(name, what);
        let (index, trailer) = tail.split_at(tail.len() - TRAILER);
        let (fields, rest) = trailer.split_at(TRAILER - 40);
        let stated = rest.first_chunk::<32>().map(|bytes| blake3::Hash::from_bytes(*bytes)).ok_or_else(|| bad("it has no MAC"))?;
        if data_key.derive(MAC_CONTEXT).mac(&[header, index, fields]) != stated {
            return Err(bad("its MAC does not fit: changed, put in another's place, or written with another key"));
        }
        let records =
            index.as_chunks::<DESCRIPTOR>().0.iter().map(Descriptor::read).collect::<Option<Vec<_>>>().ok_or_else(|| bad("its index"))?;
        if records.iter().map(|record| u64::from(record.stored)).sum::<u64>() != self.payload {
            return Err(bad("its index does not add up to its payloads"));
        }
        if records.iter().map(|record| record.offset).min() != Some(self.first) {
            return Err(bad("its first offset"));
        }
        let segment =
            SegmentRef { epoch, n, size: self.size, records: self.records, first: self.first, digest: digest(header, index, trailer) };
        Ok(Tail { records, segment })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// For fuzzing: whatever the bytes are, reading them neither panics nor allocates more than a copy of them, an index, and one plain block.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let vm = crate::ids::VmId { vcenter: uuid::Uuid::nil(), instance: uuid::Uuid::nil() };
    let of = crate::ids::CycleId { vm, incarnation: crate::ids::Incarnation(uuid::Uuid::nil()), cycle: crate::ids::Cycle(1) };
    let of = DiskCycle { of, disk: crate::ids::DiskKey(2000) };
    let key = Secret::new([7; 32]);
    let read = |bytes: Vec<u8>| {
        let size = bytes.len() as u64;
        let expected = match read_tail("fuzz", of, Epoch(1), 0, &key, size, &bytes) {
            Ok(Ok(tail)) => tail.segment,
            _ => SegmentRef { epoch: Epoch(1), n: 0, size, records: 1, first: 0, digest: Digest([0; 32]) },
        };
        if let Ok(segment) = Segment::open("fuzz", of, &expected, &key, bytes) {
            segment
                .into_records()
                .filter(|(record, _)| record.codec != Codec::Zero)
                .for_each(|(record, bytes)| drop(crate::codec::unpack(&record, &bytes)));
        }
    };
    read(data.to_vec());
    // Behind the MAC, which no fuzzer gets past: the same bytes with a header and a MAC that fit.
    if let Ok(trailer) = Trailer::parse("fuzz", data.len() as u64, data) {
        let mut signed = data.to_vec();
        let header = header(of, Epoch(1), 0);
        signed[..HEADER].copy_from_slice(&header);
        let (index, fields) = (signed.len() - tail_length(trailer.records) as usize, signed.len() - TRAILER);
        let mac = key.derive(MAC_CONTEXT).mac(&[&header, &signed[index..fields], &signed[fields..fields + 20]]);
        signed[fields + 20..fields + 52].copy_from_slice(mac.as_bytes());
        read(signed);
    }
    // Behind the tags.
    for codec in [Codec::Raw, Codec::Zstd] {
        let length = if codec == Codec::Raw { data.len() as u64 } else { u64::from(MAX_BLOCK) };
        let record = Descriptor { offset: 0, length, codec, stored: 0, checksum: [0; 32], nonce: [0; 12], tag: [0; 16] };
        let _ = crate::codec::unpack(&record, data);
    }
}

#[cfg(test)]
mod tests;
