//! Joins writes that lie end to end, so that scattered sectors do not cost a request each: a page blob takes 500 requests a second, and
//! 60 MiB.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A piece of a disk, to be written by one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where it goes, in bytes.
    pub offset: u64,
    /// What goes there.
    pub data: Bytes,
}

/// Takes writes in order and gives them back in order, as runs of at most `most` bytes. Only a write that begins where the last one ended is
/// joined with it: nothing is reordered, and what is written twice is written twice.
///
/// It holds back less than `most` bytes. Bytes are copied only where a run has several pieces.
#[derive(Debug)]
pub struct Coalescer {
    most: usize,
    offset: u64,
    held: Held,
    ready: VecDeque<Run>,
}

/// What is held back. A second piece is copied behind the first at once, so that no more than one piece is held twice.
#[derive(Debug)]
enum Held {
    One(Bytes),
    Joined(BytesMut),
}

impl Held {
    fn len(&self) -> usize {
        match self {
            Self::One(piece) => piece.len(),
            Self::Joined(whole) => whole.len(),
        }
    }

    /// `most` is what the whole may come to: no more room is taken for it.
    fn push(&mut self, piece: Bytes, most: usize) {
        match self {
            Self::One(first) if first.is_empty() => *first = piece,
            Self::One(first) => {
                let mut whole = BytesMut::with_capacity((2 * (first.len() + piece.len())).min(most));
                whole.extend_from_slice(first);
                whole.extend_from_slice(&piece);
                *self = Self::Joined(whole);
            }
            Self::Joined(whole) => whole.extend_from_slice(&piece),
        }
    }

    fn take(&mut self) -> Bytes {
        match std::mem::replace(self, Self::One(Bytes::new())) {
            Self::One(piece) => piece,
            Self::Joined(whole) => whole.freeze(),
        }
    }
}

impl Coalescer {
    /// Runs of at most `most` bytes: [`crate::MAX_WRITE`] or less, whole sectors.
    ///
    /// # Panics
    /// Where `most` is zero.
    #[must_use]
    pub fn new(most: usize) -> Self {
        assert!(most > 0, "a run holds something");
        Self { most, offset: 0, held: Held::One(Bytes::new()), ready: VecDeque::new() }
    }

    /// Takes a write. What became ready by it is to be fetched with [`Coalescer::next_run`] before the next one.
    pub fn push(&mut self, offset: u64, mut data: Bytes) {
        // An empty write is nowhere, and ends no run.
        if !data.is_empty() && self.held() > 0 && self.offset + self.held() as u64 != offset {
            self.end_run();
        }
        let mut at = offset;
        while !data.is_empty() {
            if self.held() == 0 {
                self.offset = at;
            }
            let piece = data.split_to(data.len().min(self.most - self.held()));
            at += piece.len() as u64;
            self.held.push(piece, self.most);
            if self.held() == self.most {
                self.end_run();
            }
        }
    }

    /// Gives up waiting for more: what is held back becomes ready.
    pub fn finish(&mut self) {
        if self.held() > 0 {
            self.end_run();
        }
    }

    /// The next run that is ready.
    pub fn next_run(&mut self) -> Option<Run> {
        self.ready.pop_front()
    }

    /// Bytes that wait for a write that joins them.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn end_run(&mut self) {
        let data = self.held.take();
        self.ready.push_back(Run { offset: self.offset, data });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(coalescer: &mut Coalescer, writes: &[(u64, Vec<u8>)]) -> Vec<Run> {
        let mut runs = Vec::new();
        for (offset, data) in writes {
            coalescer.push(*offset, data.clone().into());
            assert!(coalescer.held() < coalescer.most);
            runs.extend(std::iter::from_fn(|| coalescer.next_run()));
        }
        coalescer.finish();
        runs.extend(std::iter::from_fn(|| coalescer.next_run()));
        runs
    }

    /// One byte at a time, in order: a run ends where the next byte lies elsewhere, or where it is full.
    fn oracle(most: usize, writes: &[(u64, Vec<u8>)]) -> Vec<Run> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (offset, data) in writes {
            for (at, byte) in data.iter().enumerate() {
                let at = offset + at as u64;
                match runs.last_mut() {
                    Some((start, run)) if *start + run.len() as u64 == at && run.len() < most => run.push(*byte),
                    _ => runs.push((at, vec![*byte])),
                }
            }
        }
        runs.into_iter().map(|(offset, data)| Run { offset, data: data.into() }).collect()
    }

    #[test]
    fn a_single_piece_is_not_copied() {
        let mut coalescer = Coalescer::new(8);
        let data = Bytes::from(vec![1; 20]);
        coalescer.push(4, data.clone());
        coalescer.finish();
        let runs: Vec<Run> = std::iter::from_fn(|| coalescer.next_run()).collect();
        assert_eq!(runs.iter().map(|run| (run.offset, run.data.len())).collect::<Vec<_>>(), [(4, 8), (12, 8), (20, 4)]);
        assert_eq!(runs[0].data.as_ptr(), data.as_ptr());
        assert_eq!(runs[2].data.as_ptr(), data[16..].as_ptr());
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(run(&mut Coalescer::new(8), &[(3, vec![]), (9, vec![])]), []);
    }

    proptest! {
        #[test]
        fn as_the_oracle(
            most in 1usize..12,
            steps in prop::collection::vec((prop_oneof![Just(0u64), 0u64..4], any::<bool>(), prop::collection::vec(any::<u8>(), 0..30)), 0..20),
        ) {
            // Mostly end to end, else a gap, an overlap or a jump back.
            let mut writes = Vec::new();
            let mut end = 0u64;
            for (gap, back, data) in steps {
                let offset = if back { end.saturating_sub(gap) } else { end + gap };
                end = offset + data.len() as u64;
                writes.push((offset, data));
            }
            prop_assert_eq!(run(&mut Coalescer::new(most), &writes), oracle(most, &writes));
        }
    }
}
