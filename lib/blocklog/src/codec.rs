//! One block on its way into the log and out of it.
//!
//! In: zero test → BLAKE3 of the plain block → zstd 1, or raw where that does not pay → AES-256-GCM. Out: the same backwards, and the
//! checksum is compared with what was decrypted and unpacked. What is authenticated with each block (the additional data) says where it belongs, so that
//! no block can be moved to another offset, disk, cycle or VM, nor be played again.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use bytes::Bytes;

use crate::{ids::DiskCycle, keys::Secret};

/// The largest plain block.
pub const MAX_BLOCK: u32 = 1 << 20;

/// The level of zstd: level 1 is the fastest that keeps the ratio of the default within a few percent on disks of servers.
const ZSTD_LEVEL: i32 = 1;

/// Where compression saves less than 1/16, the block stays raw: unpacking it would cost the applier more than the bytes save.
const MUST_SAVE: usize = 16;

/// How a block is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// No bytes: the range reads as zero.
    Zero = 0,
    /// As it is.
    Raw = 1,
    /// zstd.
    Zstd = 2,
}

impl Codec {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Zero, Self::Raw, Self::Zstd].into_iter().find(|codec| *codec as u8 == byte)
    }
}

/// True where every byte is zero. Looks at 256 bytes at a time, so that the compiler makes wide instructions of it and a block with data
/// in front is known at once.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<256>();
    chunks.iter().all(|chunk| chunk.as_chunks::<8>().0.iter().fold(0, |acc, word| acc | u64::from_ne_bytes(*word)) == 0)
        && rest.iter().all(|b| *b == 0)
}

/// What a record is: where it belongs, how it is stored, and what proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes from the disk's beginning; a multiple of 512.
    pub offset: u64,
    /// Bytes; a multiple of 512. At most [`MAX_BLOCK`], zero ranges apart.
    pub length: u64,
    /// How it is stored.
    pub codec: Codec,
    /// Bytes of ciphertext.
    pub stored: u32,
    /// BLAKE3 of the plain bytes; zero for a zero range.
    pub checksum: [u8; 32],
    /// Its nonce.
    pub nonce: [u8; 12],
    /// Its tag.
    pub tag: [u8; 16],
}

impl Descriptor {
    /// The sectors that it covers.
    #[must_use]
    pub fn sectors(&self) -> std::ops::Range<u64> {
        self.offset / extents::SECTOR..(self.offset + self.length) / extents::SECTOR
    }
}

/// Why a record is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The tag does not fit: changed, moved, or another key's.
    #[error("its tag does not fit")]
    Tag,
    /// It does not unpack to the length that it states.
    #[error("it does not unpack to its length")]
    Unpack,
    /// The unpacked bytes have another checksum.
    #[error("its checksum does not fit")]
    Checksum,
}

/// A record ready for a segment.
#[derive(Debug, Clone)]
pub struct Record {
    /// What it is.
    pub descriptor: Descriptor,
    /// Its ciphertext, without the tag.
    pub payload: Bytes,
}

/// Makes the records of one disk in one epoch.
///
/// The nonce is disk key and a counter. Data key and disk are one gateway's alone, and the counter never goes back within it: a block that is
/// read again (a host moved) is a new record with a new nonce. So no nonce is ever used for two plaintexts.
#[derive(Clone)]
pub struct Sealer(Arc<SealerInner>);

struct SealerInner {
    of: DiskCycle,
    key: LessSafeKey,
    next: AtomicU64,
}

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Sealer {
    /// For one disk in one epoch: the only one that is ever made for it, because each counts its nonces from 0. Clones count together.
    #[must_use]
    pub fn new(of: DiskCycle, data_key: &Secret) -> Self {
        Self(Arc::new(SealerInner { of, key: data_key.derive("hawser v1 block").aead(), next: AtomicU64::new(0) }))
    }

    /// The record of a block that has data. `plain` is at most [`MAX_BLOCK`] bytes and is not all zero; `checksum` is its BLAKE3.
    #[must_use]
    pub fn data(&self, offset: u64, plain: Vec<u8>, checksum: [u8; 32]) -> Record {
        let length = plain.len() as u64;
        match compress(&plain) {
            Some(packed) => self.seal(offset, length, Codec::Zstd, checksum, packed),
            None => self.seal(offset, length, Codec::Raw, checksum, plain),
        }
    }

    /// The record that a range is zero.
    #[must_use]
    pub fn zero(&self, offset: u64, length: u64) -> Record {
        self.seal(offset, length, Codec::Zero, [0; 32], Vec::new())
    }

    fn seal(&self, offset: u64, length: u64, codec: Codec, checksum: [u8; 32], mut payload: Vec<u8>) -> Record {
        let counter = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.0.of.disk.0.to_le_bytes());
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        let mut descriptor = Descriptor { offset, length, codec, stored: 0, checksum, nonce, tag: [0; 16] };
        let aad = Aad::from(aad(self.0.of, &descriptor));
        // GCM refuses only inputs of more than 64 GiB.
        let tag =
            self.0.key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut payload).expect("a block can be sealed");
        descriptor.tag.copy_from_slice(tag.as_ref());
        descriptor.stored = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        Record { descriptor, payload: payload.into() }
    }
}

/// Opens the records of one disk in one epoch.
#[derive(Clone)]
pub struct Opener {
    of: DiskCycle,
    key: Arc<LessSafeKey>,
}

impl Opener {
    /// For one disk in one epoch.
    #[must_use]
    pub fn new(of: DiskCycle, data_key: &Secret) -> Self {
        Self { of, key: Arc::new(data_key.derive("hawser v1 block").aead()) }
    }

    /// Decrypts in place and checks the tag, without unpacking.
    ///
    /// # Errors
    /// [`OpenError::Tag`].
    pub fn decrypt(&self, descriptor: &Descriptor, payload: &mut [u8]) -> Result<(), OpenError> {
        let aad = Aad::from(aad(self.of, descriptor));
        let nonce = Nonce::assume_unique_for_key(descriptor.nonce);
        self.key.open_in_place_separate_tag(nonce, aad, &descriptor.tag, payload).map(drop).map_err(|_| OpenError::Tag)
    }
}

/// Unpacks what [`Opener::decrypt`] gave and compares the checksum. Not for zero records. `length` in the descriptor is at most
/// [`MAX_BLOCK`] (the segment's parser sees to it), which bounds what is allocated.
///
/// # Errors
/// [`OpenError::Unpack`] and [`OpenError::Checksum`].
pub fn unpack(descriptor: &Descriptor, decrypted: &[u8]) -> Result<Vec<u8>, OpenError> {
    let length = usize::try_from(descriptor.length).map_err(|_| OpenError::Unpack)?;
    let plain = match descriptor.codec {
        Codec::Zstd => decompress(decrypted, length).ok_or(OpenError::Unpack)?,
        Codec::Raw => decrypted.to_vec(),
        Codec::Zero => return Err(OpenError::Unpack),
    };
    if plain.len() != length {
        return Err(OpenError::Unpack);
    }
    if *blake3::hash(&plain).as_bytes() != descriptor.checksum {
        return Err(OpenError::Checksum);
    }
    Ok(plain)
}

/// What is authenticated with a block: format version, VM, incarnation, disk, cycle, offset, length, codec, checksum. The epoch is bound by
/// its key.
fn aad(of: DiskCycle, descriptor: &Descriptor) -> [u8; 110] {
    let mut out = [0; 110];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&[1]);
    put(of.of.vm.vcenter.as_bytes());
    put(of.of.vm.instance.as_bytes());
    put(of.of.incarnation.0.as_bytes());
    put(&of.disk.0.to_le_bytes());
    put(&of.of.cycle.0.to_le_bytes());
    put(&descriptor.offset.to_le_bytes());
    put(&descriptor.length.to_le_bytes());
    put(&[descriptor.codec as u8]);
    put(&descriptor.checksum);
    out
}

/// The packed block, or `None` where it does not pay. The room given to zstd is what pays: it stops as soon as that is not enough.
fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    let room = plain.len() - plain.len() / MUST_SAVE;
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?),
        };
        let mut out = Vec::with_capacity(room);
        compressor.compress_to_buffer(plain, &mut out).ok()?;
        // A record waits in its segment for the upload: it holds what it needs there, not the room that it was packed in.
        out.shrink_to_fit();
        (out.len() <= room).then_some(out)
    })
}

fn decompress(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(zstd::bulk::Decompressor::new().ok()?),
        };
        decompressor.decompress(packed, length).ok()
    })
}

#[cfg(test)]
mod tests;
