//! The footer of a fixed VHD: the last 512 bytes of a page blob or of an upload disk, after the content. Azure looks for it when an upload
//! ends (`InvalidVhd` where it is missing), and its uuid is how a seed carries its own identity.
//!
//! Layout (Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0; big-endian):
//!
//! | offset | size | field | here |
//! |---|---|---|---|
//! | 0 | 8 | cookie | `conectix` |
//! | 8 | 4 | features | 2 (reserved, always set) |
//! | 12 | 4 | file format version | `0x0001_0000` |
//! | 16 | 8 | data offset | all ones: fixed |
//! | 24 | 4 | time stamp | seconds since 2000-01-01T00:00:00Z |
//! | 28 | 4 | creator application | `win `: readers then trust the size and not the geometry |
//! | 32 | 4 | creator version | `0x000A_0000` |
//! | 36 | 4 | creator host OS | `Wi2k` |
//! | 40 | 8 | original size | bytes of content |
//! | 48 | 8 | current size | bytes of content |
//! | 56 | 4 | geometry | cylinders u16, heads u8, sectors u8 |
//! | 60 | 4 | disk type | 2: fixed |
//! | 64 | 4 | checksum | ones' complement of the sum of all other bytes |
//! | 68 | 16 | unique id | the seed's |
//! | 84 | 1 | saved state | 0 |
//! | 85 | 427 | reserved | zero |
//!
//! Nothing in it changes over the life of a seed: a fence rewrites the bytes that it read, because the rewrite itself is what moves
//! `Last-Modified`.

use jiff::Timestamp;
use uuid::Uuid;

/// Bytes of a footer.
pub const FOOTER: usize = 512;

/// Azure takes only content that is a whole number of MiB.
pub const CONTENT_UNIT: u64 = 1 << 20;

/// 2000-01-01T00:00:00Z, in seconds since 1970: where the time stamps of VHD begin.
const EPOCH: i64 = 946_684_800;

const COOKIE: &[u8; 8] = b"conectix";
const VERSION: u32 = 0x0001_0000;
const FIXED: u32 = 2;
const CHECKSUM: std::ops::Range<usize> = 64..68;

/// What a footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// The seed's identity.
    pub unique_id: Uuid,
    /// Bytes of content before the footer.
    pub content: u64,
    /// When the seed was formatted, in whole seconds. Times before 2000 are kept as 2000, times after 2136 as the last that fits.
    pub created: Timestamp,
}

/// Why 512 bytes are not the footer of a fixed VHD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FooterError {
    /// Not 512 bytes.
    #[error("a VHD footer has 512 bytes, not {0}")]
    Length(usize),
    /// The cookie is missing: these bytes are no footer at all.
    #[error("no VHD footer: the cookie `conectix` is missing")]
    NoCookie,
    /// A footer that was damaged.
    #[error("the VHD footer's checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// The checksum in the footer.
        stored: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// A format version later than 1.
    #[error("the VHD footer has the unknown format version {0:#010x}")]
    Version(u32),
    /// A dynamic or differencing disk.
    #[error("the VHD is not fixed: its type is {0}")]
    NotFixed(u32),
}

/// The content that a seed for `capacity` bytes needs: rounded up to whole MiB. `None` where that overflows.
#[must_use]
pub fn content_for(capacity: u64) -> Option<u64> {
    capacity.checked_next_multiple_of(CONTENT_UNIT)
}

impl Footer {
    /// The footer's bytes. The same footer always gives the same bytes.
    #[must_use]
    pub fn build(&self) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        let seconds = u32::try_from(self.created.as_second().saturating_sub(EPOCH).max(0)).unwrap_or(u32::MAX);
        bytes[0..8].copy_from_slice(COOKIE);
        bytes[8..12].copy_from_slice(&2u32.to_be_bytes());
        bytes[12..16].copy_from_slice(&VERSION.to_be_bytes());
        bytes[16..24].fill(0xff);
        bytes[24..28].copy_from_slice(&seconds.to_be_bytes());
        bytes[28..32].copy_from_slice(b"win ");
        bytes[32..36].copy_from_slice(&0x000a_0000u32.to_be_bytes());
        bytes[36..40].copy_from_slice(b"Wi2k");
        bytes[40..48].copy_from_slice(&self.content.to_be_bytes());
        bytes[48..56].copy_from_slice(&self.content.to_be_bytes());
        bytes[56..60].copy_from_slice(&geometry(self.content));
        bytes[60..64].copy_from_slice(&FIXED.to_be_bytes());
        bytes[68..84].copy_from_slice(self.unique_id.as_bytes());
        let sum = checksum(&bytes);
        bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Reads a footer, of whatever creator.
    pub fn parse(bytes: &[u8]) -> Result<Self, FooterError> {
        let footer: &[u8; FOOTER] = bytes.try_into().map_err(|_| FooterError::Length(bytes.len()))?;
        if &footer[0..8] != COOKIE {
            return Err(FooterError::NoCookie);
        }
        let stored = be32(footer, CHECKSUM.start);
        let computed = checksum(footer);
        if stored != computed {
            return Err(FooterError::Checksum { stored, computed });
        }
        let version = be32(footer, 12);
        if version >> 16 != VERSION >> 16 {
            return Err(FooterError::Version(version));
        }
        let kind = be32(footer, 60);
        if kind != FIXED {
            return Err(FooterError::NotFixed(kind));
        }
        let mut content = [0; 8];
        content.copy_from_slice(&footer[48..56]);
        let mut unique_id = [0; 16];
        unique_id.copy_from_slice(&footer[68..84]);
        Ok(Self {
            unique_id: Uuid::from_bytes(unique_id),
            content: u64::from_be_bytes(content),
            // Year 2136 at most, well inside of what a timestamp can hold.
            created: Timestamp::from_second(EPOCH + i64::from(be32(footer, 24))).unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }
}

fn be32(footer: &[u8; FOOTER], at: usize) -> u32 {
    u32::from_be_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]])
}

fn checksum(footer: &[u8; FOOTER]) -> u32 {
    let sum: u32 = footer.iter().enumerate().filter(|(at, _)| !CHECKSUM.contains(at)).map(|(_, byte)| u32::from(*byte)).sum();
    !sum
}

/// Cylinders, heads and sectors by the algorithm of the specification's appendix. Disks above 127 GiB have no geometry that fits.
fn geometry(content: u64) -> [u8; 4] {
    let sectors = (content / 512).min(65535 * 16 * 255);
    let (per_track, heads, cylinders_by_heads) = if sectors >= 65535 * 16 * 63 {
        (255, 16, sectors / 255)
    } else {
        let mut per_track = 17;
        let mut tracks = sectors / per_track;
        let mut heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            per_track = 31;
            heads = 16;
            tracks = sectors / per_track;
        }
        if tracks >= heads * 1024 {
            per_track = 63;
            heads = 16;
            tracks = sectors / per_track;
        }
        (per_track, heads, tracks)
    };
    // At most 65535 cylinders, 16 heads and 255 sectors by the bounds above.
    let [.., high, low] = (cylinders_by_heads / heads).to_be_bytes();
    let [.., heads] = heads.to_be_bytes();
    let [.., per_track] = per_track.to_be_bytes();
    [high, low, heads, per_track]
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::fs::FileExt,
        path::Path,
        process::{Command, Output},
    };

    use proptest::prelude::*;

    use super::*;

    fn footer(content: u64) -> Footer {
        Footer {
            unique_id: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            content,
            created: "2026-11-23T12:34:56Z".parse().unwrap(),
        }
    }

    fn qemu_img(arguments: &[&str], file: &Path) -> Output {
        Command::new("qemu-img")
            .args(arguments)
            .arg(file)
            .output()
            .expect("qemu-img is needed by this test: install the package qemu-utils (Debian) or qemu-img (Fedora)")
    }

    /// The expected bytes were put together field by field outside of this program.
    #[test]
    fn golden() {
        let bytes = footer(20 << 20).build();
        let expected = [
            &b"conectix"[..],
            b"\x00\x00\x00\x02\x00\x01\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x32\x96\xef\x70",
            b"win \x00\x0a\x00\x00Wi2k",
            b"\x00\x00\x00\x00\x01\x40\x00\x00\x00\x00\x00\x00\x01\x40\x00\x00",
            b"\x02\x5a\x04\x11\x00\x00\x00\x02",
            b"\xff\xff\xe6\xbe",
            b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
            &[0; 428],
        ]
        .concat();
        assert_eq!(bytes.to_vec(), expected);
    }

    #[test]
    fn qemu_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        for content in [1 << 20, 20 << 20, (1 << 30) + (1 << 20), (130 << 30) + (1 << 20)] {
            let path = folder.path().join("disk.vhd");
            let file = File::create(&path).unwrap();
            file.write_all_at(&footer(content).build(), content).unwrap();
            let info = qemu_img(&["info", "-f", "vpc", "--output=json"], &path);
            assert!(info.status.success(), "{}", String::from_utf8_lossy(&info.stderr));
            let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
            assert_eq!(info["virtual-size"], content, "{info}");
            assert_eq!(info["format"], "vpc");
        }
    }

    /// qemu-img is an independent writer of the format: its footers are read, and its geometry is ours. (It rounds the size up to one that
    /// a geometry can say, so the size comes from its footer.)
    #[test]
    fn reads_what_qemu_writes() {
        let folder = tempfile::tempdir().unwrap();
        for mib in [1u64, 3, 20, 64, 505, 1024, 40_000, 120 * 1024] {
            let path = folder.path().join("qemu.vhd");
            let size = (mib << 20).to_string();
            let made = Command::new("qemu-img")
                .args(["create", "-q", "-f", "vpc", "-o", "subformat=fixed"])
                .arg(&path)
                .arg(&size)
                .output()
                .expect("qemu-img is needed by this test: install the package qemu-utils (Debian) or qemu-img (Fedora)");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            let mut bytes = [0; FOOTER];
            let file = File::open(&path).unwrap();
            let content = file.metadata().unwrap().len() - FOOTER as u64;
            file.read_exact_at(&mut bytes, content).unwrap();
            let parsed = Footer::parse(&bytes).unwrap();
            assert_eq!(parsed.content, content);
            assert!(content >= mib << 20);
            assert_eq!(bytes[56..60], geometry(content), "{mib} MiB");
        }
    }

    #[test]
    fn refuses_what_is_no_footer() {
        let good = footer(20 << 20).build();
        assert_eq!(Footer::parse(&good[..511]), Err(FooterError::Length(511)));
        assert_eq!(Footer::parse(&[0; FOOTER]), Err(FooterError::NoCookie));
        let with = |at: usize, value: u32| {
            let mut bytes = good;
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            let sum = checksum(&bytes);
            bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
            Footer::parse(&bytes)
        };
        assert_eq!(with(60, 3), Err(FooterError::NotFixed(3)));
        assert_eq!(with(12, 0x0002_0000), Err(FooterError::Version(0x0002_0000)));
        assert!(with(28, u32::from_be_bytes(*b"qem2")).is_ok());
    }

    #[test]
    fn content_is_whole_mib() {
        assert_eq!(content_for(1), Some(CONTENT_UNIT));
        assert_eq!(content_for(CONTENT_UNIT), Some(CONTENT_UNIT));
        assert_eq!(content_for(CONTENT_UNIT + 512), Some(2 * CONTENT_UNIT));
        assert_eq!(content_for(u64::MAX), None);
    }

    #[test]
    fn times_that_do_not_fit_are_clamped() {
        let early = Footer { created: Timestamp::UNIX_EPOCH, ..footer(1 << 20) };
        assert_eq!(Footer::parse(&early.build()).unwrap().created.as_second(), EPOCH);
        let late = Footer { created: "2500-01-01T00:00:00Z".parse().unwrap(), ..footer(1 << 20) };
        assert_eq!(Footer::parse(&late.build()).unwrap().created.as_second(), EPOCH + i64::from(u32::MAX));
    }

    proptest! {
        #[test]
        fn what_is_built_is_parsed(id: u128, mib in 1u64..=(32 << 20), second in EPOCH..EPOCH + i64::from(u32::MAX)) {
            let footer = Footer {
                unique_id: Uuid::from_u128(id),
                content: mib << 20,
                created: Timestamp::from_second(second).unwrap(),
            };
            prop_assert_eq!(Footer::parse(&footer.build()), Ok(footer));
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..FOOTER, bit in 0u32..8) {
            let mut bytes = footer(20 << 20).build();
            bytes[at] ^= 1 << bit;
            prop_assert!(Footer::parse(&bytes).is_err());
        }
    }
}
