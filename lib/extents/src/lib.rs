//! Sets of disk ranges.
//!
//! VMware reports changed areas, Azure reports page ranges, and a source reports zeroes; all three are sets of 512-byte sectors. An
//! [`ExtentSet`] holds such a set as sorted half-open ranges that neither overlap nor touch, so that equal sets are equal values and the
//! memory follows the number of fragments, not the disk's capacity (a 32 TiB bitmap of sectors would be 8 GiB).
//!
//! The crate is pure: no I/O, no clock, no randomness.

use std::fmt;
use std::ops::Range;

mod wire;

/// The bytes in a sector: the granularity of VMware's changed areas and of Azure's page blobs.
pub const SECTOR: u64 = 512;

/// The first sector whose bytes no longer fit into 64 bits of byte addresses. A document that names a sector from here on is refused.
pub const MAX_SECTORS: u64 = u64::MAX / SECTOR;

/// A range of the set. It is never empty.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u64,
    end: u64,
}

/// A set of sectors.
///
/// Ranges are half-open and in sectors, unless a name says bytes. An empty range (also one whose end lies before its start) is the empty set
/// wherever one is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentSet {
    /// Sorted; each ends before the next one starts, with at least one sector between them.
    spans: Vec<Span>,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl ExtentSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { spans: Vec::new() }
    }

    /// Every sector of a disk of that many sectors.
    #[must_use]
    pub fn all(sectors: u64) -> Self {
        Self::from(0..sectors)
    }

    /// The union of ranges in any order, that may overlap or be empty.
    pub fn from_ranges(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut spans: Vec<Span> = ranges.into_iter().filter(|r| r.start < r.end).map(|r| Span { start: r.start, end: r.end }).collect();
        spans.sort_unstable_by_key(|s| s.start);
        // Joins in place: the write position never passes the read position.
        let mut kept = 0;
        for at in 0..spans.len() {
            let span = spans[at];
            if kept > 0 && span.start <= spans[kept - 1].end {
                spans[kept - 1].end = spans[kept - 1].end.max(span.end);
            } else {
                spans[kept] = span;
                kept += 1;
            }
        }
        spans.truncate(kept);
        Self { spans }
    }

    /// The sectors that ranges of bytes touch, on a disk of `capacity_bytes`.
    ///
    /// Made for what VMware answers: areas may come in any order, overlap, and reach past the disk's end. A sector touched in part counts as a
    /// whole; what lies past the capacity is dropped. A capacity that isn't whole sectors is rounded up.
    pub fn from_bytes(ranges: impl IntoIterator<Item = Range<u64>>, capacity_bytes: u64) -> Self {
        Self::from_ranges(
            ranges
                .into_iter()
                .map(|r| r.start..r.end.min(capacity_bytes))
                .filter(|r| r.start < r.end)
                .map(|r| r.start / SECTOR..r.end.div_ceil(SECTOR)),
        )
    }

    /// Adds a range. Adding behind the last range costs amortised constant time; elsewhere it moves the ranges that follow.
    pub fn insert(&mut self, range: Range<u64>) {
        let Range { start, end } = range;
        if start >= end {
            return;
        }
        if self.spans.last().is_none_or(|last| last.start <= start) {
            self.push(start, end);
            return;
        }
        // Those that overlap or touch, and so become one with the new range.
        let from = self.spans.partition_point(|s| s.end < start);
        let to = self.spans.partition_point(|s| s.start <= end);
        if from == to {
            self.spans.insert(from, Span { start, end });
        } else {
            let joined = Span { start: start.min(self.spans[from].start), end: end.max(self.spans[to - 1].end) };
            self.spans[from] = joined;
            self.spans.drain(from + 1..to);
        }
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range<u64>) {
        let Range { start, end } = range;
        if start >= end {
            return;
        }
        let from = self.spans.partition_point(|s| s.end <= start);
        let to = self.spans.partition_point(|s| s.start < end);
        if from == to {
            return;
        }
        let before = Span { start: self.spans[from].start, end: start };
        let after = Span { start: end, end: self.spans[to - 1].end };
        let left = [before, after].into_iter().filter(|s| s.start < s.end);
        self.spans.splice(from..to, left);
    }

    /// What is in either set. Linear in the fragments of both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut joined = Self { spans: Vec::with_capacity(self.spans.len().max(other.spans.len())) };
        let (mut a, mut b) = (self.spans.iter().peekable(), other.spans.iter().peekable());
        loop {
            let next = match (a.peek(), b.peek()) {
                (Some(x), Some(y)) if x.start <= y.start => a.next(),
                (_, Some(_)) => b.next(),
                (Some(_), None) => a.next(),
                (None, None) => return joined,
            };
            if let Some(span) = next {
                joined.push(span.start, span.end);
            }
        }
    }

    /// What is in both sets. Linear in the fragments of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::new();
        let (mut a, mut b) = (0, 0);
        while let (Some(x), Some(y)) = (self.spans.get(a), other.spans.get(b)) {
            let (start, end) = (x.start.max(y.start), x.end.min(y.end));
            if start < end {
                // Pieces of one set's disjoint, non-adjacent ranges can't touch each other either.
                both.spans.push(Span { start, end });
            }
            if x.end <= y.end {
                a += 1;
            } else {
                b += 1;
            }
        }
        both
    }

    /// What is in this set and not in the other. Linear in the fragments of both.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Self::new();
        let mut b = 0;
        for span in &self.spans {
            let mut start = span.start;
            while let Some(hole) = other.spans.get(b) {
                if hole.end <= start {
                    b += 1;
                    continue;
                }
                if hole.start >= span.end {
                    break;
                }
                if start < hole.start {
                    left.spans.push(Span { start, end: hole.start });
                }
                start = hole.end;
                if start >= span.end {
                    // The hole may reach into the next range: it stays.
                    break;
                }
                b += 1;
            }
            if start < span.end {
                left.spans.push(Span { start, end: span.end });
            }
        }
        left
    }

    /// Each range widened outward to multiples of `grain_sectors` (0 counts as 1), then cut at `capacity_sectors`: the last grain of a disk
    /// may be short.
    #[must_use]
    pub fn widen(&self, grain_sectors: u64, capacity_sectors: u64) -> Self {
        let grain = grain_sectors.max(1);
        let mut wide = Self::new();
        for span in &self.spans {
            let start = span.start - span.start % grain;
            let end = span.end.checked_next_multiple_of(grain).unwrap_or(u64::MAX).min(capacity_sectors);
            if start >= end {
                break;
            }
            wide.push(start, end);
        }
        wide
    }

    /// Joins neighbours with a gap of `max_gap_sectors` or less between them: fewer and larger reads, for sectors that nobody asked for.
    #[must_use]
    pub fn coalesce(&self, max_gap_sectors: u64) -> Self {
        let mut joined = Self::new();
        for span in &self.spans {
            match joined.spans.last_mut() {
                Some(last) if span.start - last.end <= max_gap_sectors => last.end = span.end,
                _ => joined.spans.push(*span),
            }
        }
        joined
    }

    /// The part of the set inside `range`.
    #[must_use]
    pub fn within(&self, range: Range<u64>) -> Self {
        let Range { start, end } = range;
        let from = self.spans.partition_point(|s| s.end <= start);
        let to = self.spans.partition_point(|s| s.start < end);
        let clipped = self.spans.get(from..to).unwrap_or_default().iter();
        let spans = clipped.map(|s| Span { start: s.start.max(start), end: s.end.min(end) }).filter(|s| s.start < s.end).collect();
        Self { spans }
    }

    /// Whether every sector of `range` is in the set. An empty range always is.
    #[must_use]
    pub fn contains(&self, range: Range<u64>) -> bool {
        if range.start >= range.end {
            return true;
        }
        let at = self.spans.partition_point(|s| s.end <= range.start);
        self.spans.get(at).is_some_and(|s| s.start <= range.start && range.end <= s.end)
    }

    /// Whether any sector of `range` is in the set.
    #[must_use]
    pub fn intersects(&self, range: Range<u64>) -> bool {
        if range.start >= range.end {
            return false;
        }
        let at = self.spans.partition_point(|s| s.end <= range.start);
        self.spans.get(at).is_some_and(|s| s.start < range.end)
    }

    /// Whether every sector of `other` is in this set. Linear in the fragments of both.
    #[must_use]
    pub fn is_superset(&self, other: &Self) -> bool {
        other.difference(self).is_empty()
    }

    /// Whether the set has no sector.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many sectors the set has.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.spans.iter().map(|s| s.end - s.start).sum()
    }

    /// How many bytes the set has. Sets that reach past [`MAX_SECTORS`] saturate.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sectors().saturating_mul(SECTOR)
    }

    /// How many ranges the set has.
    #[must_use]
    pub fn fragments(&self) -> usize {
        self.spans.len()
    }

    /// The sector behind the last one of the set; 0 where it is empty.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.spans.last().map_or(0, |s| s.end)
    }

    /// The ranges, ascending. They neither overlap nor touch.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + ExactSizeIterator + '_ {
        self.spans.iter().map(|s| s.start..s.end)
    }

    /// The ranges in bytes, ascending. Sectors past [`MAX_SECTORS`] saturate.
    pub fn byte_ranges(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + ExactSizeIterator + '_ {
        self.spans.iter().map(|s| s.start.saturating_mul(SECTOR)..s.end.saturating_mul(SECTOR))
    }

    /// The ranges cut at every multiple of `block_sectors` (0 counts as 1), ascending.
    pub fn cut(&self, block_sectors: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let block = block_sectors.max(1);
        self.spans.iter().flat_map(move |span| {
            let (mut start, end) = (span.start, span.end);
            std::iter::from_fn(move || {
                if start >= end {
                    return None;
                }
                let stop = (start - start % block).saturating_add(block).min(end);
                let piece = start..stop;
                start = stop;
                Some(piece)
            })
        })
    }

    /// The number of each block of `block_sectors` (0 counts as 1) that the set touches: once each, ascending.
    pub fn blocks(&self, block_sectors: u64) -> impl Iterator<Item = u64> + '_ {
        let block = block_sectors.max(1);
        let mut unseen = 0;
        self.spans.iter().flat_map(move |span| {
            // Two ranges may lie in one block; the first of them has named it.
            let first = (span.start / block).max(unseen);
            unseen = (span.end - 1) / block + 1;
            first..unseen
        })
    }

    /// BLAKE3 over the set's canonical encoding: a version, the number of ranges, then start and length of each, little-endian. Equal sets
    /// have equal digests, on every machine and in every release that keeps the version.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"hawser extents v1\0");
        hasher.update(&(self.spans.len() as u64).to_le_bytes());
        for span in &self.spans {
            hasher.update(&span.start.to_le_bytes());
            hasher.update(&(span.end - span.start).to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Adds a range that starts at or behind the last range's start. It is not empty.
    fn push(&mut self, start: u64, end: u64) {
        match self.spans.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => self.spans.push(Span { start, end }),
        }
    }
}

impl FromIterator<Range<u64>> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        Self::from_ranges(ranges)
    }
}

impl From<Range<u64>> for ExtentSet {
    fn from(range: Range<u64>) -> Self {
        Self::from_ranges(std::iter::once(range))
    }
}

impl Extend<Range<u64>> for ExtentSet {
    fn extend<I: IntoIterator<Item = Range<u64>>>(&mut self, ranges: I) {
        for range in ranges {
            self.insert(range);
        }
    }
}
