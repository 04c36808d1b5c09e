//! Runs of zero bytes as they are told, in order, into whole sectors.

use std::ops::Range;

use extents::{ExtentSet, SECTOR};

/// Collects ranges of zero bytes, ascending. Ranges that touch become one before they are narrowed to whole sectors: a server may cut a run
/// in the middle of a sector.
#[derive(Debug, Default)]
pub(crate) struct ZeroRuns {
    open: Range<u64>,
    sectors: ExtentSet,
}

impl ZeroRuns {
    /// Adds a range of bytes that starts at or behind the end of the one before it.
    pub(crate) fn push(&mut self, bytes: Range<u64>) {
        if bytes.start >= bytes.end {
            return;
        }
        if bytes.start == self.open.end && !self.open.is_empty() {
            self.open.end = bytes.end;
        } else {
            self.flush();
            self.open = bytes;
        }
    }

    /// The sectors that are zero as a whole.
    pub(crate) fn finish(mut self) -> ExtentSet {
        self.flush();
        self.sectors
    }

    fn flush(&mut self) {
        self.sectors.insert(self.open.start.div_ceil(SECTOR)..self.open.end / SECTOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sector_is_zero_when_all_its_bytes_are(runs in prop::collection::vec((0..900_u64, 1..900_u64), 0..20)) {
            let mut told = ZeroRuns::default();
            let mut bytes = vec![false; 64 * SECTOR as usize];
            let mut at = 0;
            for (gap, length) in runs {
                let range = at + gap..at + gap + length;
                at = range.end;
                bytes[range.start as usize..range.end as usize].fill(true);
                told.push(range);
            }
            let oracle = bytes.chunks(SECTOR as usize).enumerate().filter(|(_, s)| s.iter().all(|b| *b));
            let oracle = ExtentSet::from_ranges(oracle.map(|(at, _)| at as u64..at as u64 + 1));
            prop_assert_eq!(told.finish(), oracle);
        }
    }
}
