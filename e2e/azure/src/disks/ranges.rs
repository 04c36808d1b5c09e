//! Which pages of a page blob are written: exact to the page of 512 bytes, which a file system's own holes are not.

use std::collections::BTreeMap;

/// Disjoint ranges that do not touch, in order; start and end (exclusive) in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds `start..end`, and joins it with what it touches.
    pub fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        // From the last range that begins at or before the end, backwards while they touch.
        while let Some((&from, &to)) = self.0.range(..=end).next_back() {
            if to < start {
                break;
            }
            start = start.min(from);
            end = end.max(to);
            self.0.remove(&from);
        }
        self.0.insert(start, end);
    }

    /// Takes `start..end` out.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..end).next_back() {
            if to <= start {
                break;
            }
            self.0.remove(&from);
            if to > end {
                self.0.insert(end, to);
            }
            if from < start {
                self.0.insert(from, start);
            }
        }
    }

    /// The parts that lie in `start..end`, cut to it.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let before = self.0.range(..start).next_back().filter(|&(_, &to)| to > start && end > start);
        before.into_iter().chain(self.0.range(start..end.max(start))).map(move |(&from, &to)| (from.max(start), to.min(end)))
    }

    /// How many bytes they hold together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain map of bits.
        #[test]
        fn as_a_bitmap(steps in proptest::collection::vec((any::<bool>(), 0u64..64, 0u64..64), 0..60), from in 0u64..64, to in 0u64..64) {
            let mut ranges = Ranges::default();
            let mut bits = [false; 64];
            for (set, one, other) in steps {
                let (start, end) = (one.min(other), one.max(other));
                if set { ranges.insert(start, end) } else { ranges.remove(start, end) }
                bits[start as usize..end as usize].fill(set);
            }
            let (from, to) = (from.min(to), from.max(to));
            let mut expected: Vec<(u64, u64)> = Vec::new();
            for at in (from..to).filter(|&at| bits[at as usize]) {
                match expected.last_mut() {
                    Some(last) if last.1 == at => last.1 = at + 1,
                    _ => expected.push((at, at + 1)),
                }
            }
            prop_assert_eq!(ranges.within(from, to).collect::<Vec<_>>(), expected);
            prop_assert_eq!(ranges.bytes(), bits.iter().filter(|&&bit| bit).count() as u64);
        }
    }
}
