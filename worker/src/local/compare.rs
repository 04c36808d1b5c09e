//! Compares two disks, a piece at a time and several at once.

use std::ops::Range;

use extents::{ExtentSet, SECTOR};
use futures::{StreamExt, TryStreamExt, stream};
use source::{DiskSource, MAX_READ, SourceError};

/// How finely two images are compared: a changed byte sends this much.
const GRAIN: u64 = 64 << 10;

/// Pieces in flight.
const PIECES: usize = 4;

/// How much of a disk is asked at a time for what it knows to be zero.
const WINDOW: u64 = 1 << 30;

/// The sectors in which two images of one size differ, in steps of 64 KiB.
pub(super) async fn differing(one: &dyn DiskSource, other: &dyn DiskSource) -> Result<ExtentSet, SourceError> {
    let size = one.size();
    let mut differing = ExtentSet::new();
    let mut at = 0;
    while at < size {
        let end = (at + WINDOW).min(size);
        let zero = match (one.zeroes(at..end).await, other.zeroes(at..end).await) {
            (Some(one), Some(other)) => one.intersection(&other),
            _ => ExtentSet::new(),
        };
        let look = ExtentSet::from(at / SECTOR..end / SECTOR).difference(&zero);
        let pieces: Vec<Range<u64>> = look.cut(u64::from(MAX_READ) / SECTOR).collect();
        let mut compared = stream::iter(pieces).map(|piece| pieces_of(one, other, piece)).buffered(PIECES);
        while let Some(found) = compared.try_next().await? {
            differing.extend(found);
        }
        at = end;
    }
    // A hole that is not of whole steps cuts them: each is widened to its step again.
    Ok(differing.widen(GRAIN / SECTOR, size / SECTOR))
}

/// The steps of one piece in which the images differ, as ranges of sectors.
async fn pieces_of(one: &dyn DiskSource, other: &dyn DiskSource, piece: Range<u64>) -> Result<Vec<Range<u64>>, SourceError> {
    let offset = piece.start * SECTOR;
    let length = ((piece.end - piece.start) * SECTOR) as u32;
    let (one, other) = futures::try_join!(one.read(offset, length), other.read(offset, length))?;
    if one == other {
        return Ok(Vec::new());
    }
    let steps = one.chunks(GRAIN as usize).zip(other.chunks(GRAIN as usize)).enumerate();
    let differing = steps.filter(|(_, (one, other))| one != other).map(|(n, (one, _))| {
        let start = piece.start + n as u64 * (GRAIN / SECTOR);
        start..start + one.len() as u64 / SECTOR
    });
    Ok(differing.collect())
}

/// Ranges in which two disks differ, counted as they are found, in the order of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// The first ten, in bytes.
    pub first: Vec<Range<u64>>,
    pub count: u64,
    pub bytes: u64,
    end: Option<u64>,
}

impl Differences {
    /// How many are remembered.
    pub const SHOWN: usize = 10;

    /// Notes the sectors in which two pieces at `offset` differ. What one has more than the other counts as different from what is not there.
    pub(super) fn compare(&mut self, offset: u64, one: &[u8], other: &[u8]) {
        if one == other {
            return;
        }
        let sector = SECTOR as usize;
        for (n, (one, other)) in one.chunks(sector).zip(other.chunks(sector)).enumerate() {
            if one != other {
                self.note(offset + (n * sector) as u64, one.len() as u64);
            }
        }
    }

    fn note(&mut self, start: u64, length: u64) {
        let end = start + length;
        self.bytes += length;
        let joins = self.end == Some(start);
        self.end = Some(end);
        if !joins {
            self.count += 1;
            if self.first.len() < Self::SHOWN {
                self.first.push(start..end);
            }
        } else if self.count as usize <= Self::SHOWN
            && let Some(last) = self.first.last_mut()
        {
            last.end = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use source::raw::RawFile;

    use super::*;

    async fn image(bytes: &[u8]) -> (tempfile::NamedTempFile, RawFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let source = RawFile::open(file.path()).await.unwrap();
        (file, source)
    }

    #[tokio::test]
    async fn a_changed_byte_is_a_step() {
        let one: Vec<u8> = (0..(5 << 20) + 1536).map(|n: u32| (n / 7) as u8).collect();
        let mut other = one.clone();
        for at in [0, (2 << 20) - 1, (5 << 20) + 1535] {
            other[at] ^= 1;
        }
        let ((_a, one), (_b, other)) = (image(&one).await, image(&other).await);
        let found = differing(&one, &other).await.unwrap();
        let step = GRAIN / SECTOR;
        let end = (5 << 20) / SECTOR;
        let expected = ExtentSet::from_ranges([0..step, (2 << 20) / SECTOR - step..(2 << 20) / SECTOR, end..end + 3]);
        assert_eq!(found, expected);
        assert!(differing(&one, &one).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_hole_against_data_is_a_difference() {
        let (file, hole) = image(&[]).await;
        drop(hole);
        file.as_file().set_len(4 << 20).unwrap();
        let hole = RawFile::open(file.path()).await.unwrap();
        let mut data = vec![0; 4 << 20];
        data[(3 << 20) + 5] = 1;
        let (_b, data) = image(&data).await;
        let found = differing(&hole, &data).await.unwrap();
        let start = (3 << 20) / SECTOR;
        assert_eq!(found, ExtentSet::from(start..start + GRAIN / SECTOR));
    }

    #[test]
    fn ranges_are_joined_over_pieces_and_counted() {
        let mut found = Differences::default();
        let (zero, one) = (vec![0; 1024], vec![1; 1024]);
        found.compare(0, &zero, &one);
        found.compare(1024, &zero, &one);
        found.compare(2048, &zero, &zero);
        for n in 0..12 {
            found.compare(4096 + n * 2048, &zero[..512], &one[..512]);
        }
        assert_eq!((found.count, found.bytes, found.first.len()), (13, 2048 + 12 * 512, 10));
        assert_eq!(found.first[..2], [0..2048, 4096..4608]);
        found.compare(4096 + 11 * 2048 + 512, &zero, &one);
        assert_eq!(found.count, 13);
        assert_eq!(found.first[9].end - found.first[9].start, 512, "the thirteenth grew, not the tenth");
    }
}
