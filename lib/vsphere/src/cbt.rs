//! What has changed on a disk: the walk over changed areas, and whether they can be believed.
//!
//! All of it is pure but for the closure that fetches a page.

use std::fmt;

use extents::{ExtentSet, SECTOR};
use reasons::Reason;

/// A page of changed areas, as the host gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Where the stretch that it tells of begins.
    pub start: i64,
    /// How long that stretch is.
    pub length: i64,
    /// Start and length of each area in it.
    pub areas: Vec<(i64, i64)>,
}

/// An answer that can't be right: nothing may be concluded from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// It tells of nothing: asked again, it would for ever.
    #[error("the host's page at {at} has the length {length}")]
    NoLength {
        /// Where we asked.
        at: u64,
        /// What it said.
        length: i64,
    },
    /// It leaves a gap of which nothing is told.
    #[error("asked about {at}, the host tells of {start} and later")]
    Gap {
        /// Where we asked.
        at: u64,
        /// Where its page begins.
        start: i64,
    },
    /// It ends before where we asked.
    #[error("asked about {at}, the host tells only of what lies before")]
    Behind {
        /// Where we asked.
        at: u64,
    },
    /// An area that is none.
    #[error("an area at {start} has the length {length}")]
    Area {
        /// Its start.
        start: i64,
        /// Its length.
        length: i64,
    },
    /// So many pages that something is wrong.
    #[error("the host has not come to the end of the disk in {pages} pages")]
    Endless {
        /// How many.
        pages: u32,
    },
}

/// Pages of 2,000 areas: at 64 KiB an area the sparsest disk of 62 TiB needs half a million.
const MAX_PAGES: u32 = 1_000_000;
/// More fragments than this are joined over ever larger gaps, which only reads more: 16 bytes each in memory.
const MAX_FRAGMENTS: usize = 4 << 20;

/// A walk over the changed areas of a disk: it says where to ask next, and takes the answer.
#[derive(Debug, Clone)]
pub struct Walk {
    capacity: u64,
    at: u64,
    pages: u32,
    found: ExtentSet,
    gap: u64,
    max_fragments: usize,
}

impl Walk {
    /// Over a disk of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self { capacity, at: 0, pages: 0, found: ExtentSet::new(), gap: 64 * 1024 / SECTOR, max_fragments: MAX_FRAGMENTS }
    }

    /// The offset to ask about; none at the end. The end itself is never asked about: the host faults there.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        (self.at < self.capacity).then_some(self.at)
    }

    /// Takes the answer to [`Self::next`]. What it tells of and says nothing about has not changed, so a page without areas is a step as well.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn take(&mut self, page: &Page) -> Result<(), WalkError> {
        let at = self.at;
        let length = u64::try_from(page.length).ok().filter(|length| *length > 0).ok_or(WalkError::NoLength { at, length: page.length })?;
        // Beginning earlier is telling more than was asked; beginning later leaves something out.
        let start = u64::try_from(page.start).ok().filter(|start| *start <= at).ok_or(WalkError::Gap { at, start: page.start })?;
        // Both are below 2^63.
        let end = start + length;
        if end <= at {
            return Err(WalkError::Behind { at });
        }
        self.pages += 1;
        if self.pages > MAX_PAGES {
            return Err(WalkError::Endless { pages: self.pages });
        }
        let mut ranges = Vec::with_capacity(page.areas.len());
        for &(start, length) in &page.areas {
            let wrong = || WalkError::Area { start, length };
            let from = u64::try_from(start).map_err(|_| wrong())?;
            // Areas may reach past the end, overlap, and come in any order: that much is put right. A negative length is not an area.
            let length = u64::try_from(length).map_err(|_| wrong())?;
            ranges.push(from..from + length);
        }
        let set = ExtentSet::from_bytes(ranges, self.capacity);
        // Areas usually ascend from page to page, and then this is cheap.
        if set.iter().next().is_none_or(|first| first.start >= self.found.end()) {
            self.found.extend(set.iter());
        } else {
            self.found = self.found.union(&set);
        }
        while self.found.fragments() > self.max_fragments {
            self.found = self.found.coalesce(self.gap);
            self.gap *= 2;
        }
        self.at = end;
        Ok(())
    }

    /// What has changed: these sectors, and perhaps fewer.
    #[must_use]
    pub fn finish(self) -> ExtentSet {
        self.found
    }
}

/// Walks over a disk with a closure that fetches the page at an offset.
///
/// # Errors
/// Those of the closure; [`WalkError`] as one of them.
pub async fn walk<E: From<WalkError>>(capacity: u64, mut fetch: impl AsyncFnMut(u64) -> Result<Page, E>) -> Result<ExtentSet, E> {
    let mut walk = Walk::new(capacity);
    while let Some(at) = walk.next() {
        let page = fetch(at).await?;
        walk.take(&page)?;
    }
    Ok(walk.finish())
}

/// The word that asks for allocated areas instead of changed ones.
pub const ALLOCATED: &str = "*";

/// A position of changed block tracking, read: `52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The generation, in plain hexadecimal digits: another one after each reset.
    pub generation: String,
    /// The counter in it: it rises with every snapshot.
    pub counter: u64,
}

impl Position {
    /// Reads a change ID.
    #[must_use]
    pub fn parse(change_id: &str) -> Option<Self> {
        let (generation, counter) = change_id.trim().rsplit_once('/')?;
        let generation: String = generation.chars().filter(|c| !c.is_whitespace() && *c != '-').map(|c| c.to_ascii_lowercase()).collect();
        (generation.len() == 32 && generation.chars().all(|c| c.is_ascii_hexdigit()))
            .then_some(())
            .and_then(|()| counter.parse().ok())
            .map(|counter| Self { generation, counter })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.generation, self.counter)
    }
}

/// Why a disk has to be read in full: finer than the [`Reason`] that people see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FullReason {
    /// The snapshot has no change ID of the disk: tracking is off, or does not work yet.
    NotTracked,
    /// Tracking was reset: a power loss of the host, a move of the storage, somebody's reset.
    CbtReset,
    /// The counter did not rise: the VM was taken back to an earlier state.
    CbtWentBack,
    /// What stands where a change ID should is none.
    ChangeIdUnreadable,
    /// The tree of snapshots shows that the VM was taken back, whatever the host says of its changes.
    Reverted,
    /// The last cycle was built on a snapshot that is not ours: whether the VM was taken back to it since can't be ruled out.
    ForeignSnapshot,
    /// The disk has another size than the baseline's.
    Resized,
    /// It is another disk under the same key.
    Replaced,
    /// The host can't read its tracking file.
    CbtCorrupt,
    /// The host does not know the change ID any more.
    ChangeIdUnknown,
    /// The host's list makes no sense.
    CbtAnswerOdd,
    /// The host failed to tell, again and again.
    CbtFails,
}

impl FullReason {
    /// The reason that people see.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::NotTracked => Reason::ChangeTrackingOff,
            Self::CbtReset => Reason::ChangeTrackingReset,
            Self::CbtWentBack | Self::Reverted => Reason::Reverted,
            Self::ForeignSnapshot => Reason::ForeignSnapshot,
            Self::Resized => Reason::SourceGrown,
            Self::Replaced => Reason::NoBaseline,
            Self::ChangeIdUnreadable | Self::CbtCorrupt | Self::ChangeIdUnknown | Self::CbtAnswerOdd | Self::CbtFails => {
                Reason::ChangesUnknown
            }
        }
    }
}

impl fmt::Display for FullReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTracked => "changes on the disk are not tracked",
            Self::CbtReset => "changed block tracking was reset since the last cycle",
            Self::CbtWentBack => "changed block tracking has gone back: the VM was reverted",
            Self::ChangeIdUnreadable => "the change ID can't be read",
            Self::Reverted => "the VM was reverted to a snapshot since the last cycle",
            Self::ForeignSnapshot => {
                "the last cycle was built on a snapshot that is not Hawser's: whether the VM was reverted to it since can't be told"
            }
            Self::Resized => "the disk has another size than in the last cycle",
            Self::Replaced => "it is another disk than in the last cycle",
            Self::CbtCorrupt => "the host's tracking file is corrupt",
            Self::ChangeIdUnknown => "the host does not know the last cycle's change ID",
            Self::CbtAnswerOdd => "the host's list of changes makes no sense",
            Self::CbtFails => "the host fails to list the changes",
        })
    }
}

/// Whether the host may be asked what changed between two change IDs. The host itself answers wrongly across some of these edges, so the
/// change IDs are compared before it is asked.
///
/// # Errors
/// Why the disk has to be read in full.
pub fn comparable(since: &str, now: Option<&str>) -> Result<(), FullReason> {
    let now = now.filter(|now| !now.is_empty()).ok_or(FullReason::NotTracked)?;
    let since = Position::parse(since).ok_or(FullReason::ChangeIdUnreadable)?;
    let now = Position::parse(now).ok_or(FullReason::ChangeIdUnreadable)?;
    if since.generation != now.generation {
        return Err(FullReason::CbtReset);
    }
    if now.counter <= since.counter {
        return Err(FullReason::CbtWentBack);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn page(start: u64, length: u64, areas: &[(i64, i64)]) -> Page {
        Page { start: start as i64, length: length as i64, areas: areas.to_vec() }
    }

    fn taken(walk: &mut Walk, page: Page) -> Result<(), WalkError> {
        walk.take(&page)
    }

    #[test]
    fn an_empty_page_is_a_step_and_the_end_is_never_asked_about() {
        let mut walk = Walk::new(4 * MIB);
        assert_eq!(walk.next(), Some(0));
        taken(&mut walk, page(0, MIB, &[])).unwrap();
        assert_eq!(walk.next(), Some(MIB));
        taken(&mut walk, page(MIB, 3 * MIB, &[(2 << 20, 1024)])).unwrap();
        assert_eq!(walk.next(), None);
        assert_eq!(walk.finish(), ExtentSet::from(4096..4098));
        assert_eq!(Walk::new(0).next(), None);
    }

    #[test]
    fn answers_that_cannot_be_right_are_errors() {
        let answer = |p: Page| {
            let mut walk = Walk::new(4 * MIB);
            taken(&mut walk, page(0, MIB, &[])).unwrap();
            walk.take(&p)
        };
        assert!(matches!(answer(page(MIB, 0, &[])), Err(WalkError::NoLength { length: 0, .. })));
        assert!(matches!(answer(Page { start: 1 << 20, length: -5, areas: vec![] }), Err(WalkError::NoLength { .. })));
        assert!(matches!(answer(page(2 * MIB, MIB, &[])), Err(WalkError::Gap { .. })));
        assert!(matches!(answer(Page { start: -1, length: 4 << 20, areas: vec![] }), Err(WalkError::Gap { .. })));
        assert!(matches!(answer(page(0, MIB, &[])), Err(WalkError::Behind { .. })));
        assert!(matches!(answer(page(MIB, MIB, &[(-1, 5)])), Err(WalkError::Area { .. })));
        assert!(matches!(answer(page(MIB, MIB, &[(5, -1)])), Err(WalkError::Area { .. })));
        assert!(answer(Page { start: i64::MAX, length: i64::MAX, areas: vec![] }).is_err());
        assert!(answer(page(MIB, i64::MAX as u64, &[(i64::MAX, i64::MAX)])).is_ok());
        // It tells of more than was asked: fine.
        assert!(answer(page(0, 4 * MIB, &[])).is_ok());
    }

    #[test]
    fn too_many_fragments_are_joined() {
        let mut walk = Walk::new(1 << 40);
        walk.max_fragments = 10;
        let areas: Vec<(i64, i64)> = (0..1000).map(|n| (n * 512 * 1024, 512)).collect();
        taken(&mut walk, page(0, 1 << 40, &areas)).unwrap();
        let found = walk.finish();
        assert!(found.fragments() <= 10);
        assert!(areas.iter().all(|(start, _)| found.contains((*start as u64 / 512)..(*start as u64 / 512 + 1))));
    }

    #[test]
    fn positions() {
        let id = "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81";
        let position = Position::parse(id).unwrap();
        assert_eq!(position.to_string(), "52dec0d9b9439d1061d54c1be97b6563/81");
        for wrong in [
            "",
            "*",
            "81",
            "/81",
            "52 de/81",
            "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63",
            "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/x",
            "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/-1",
        ] {
            assert_eq!(Position::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn change_ids_that_may_not_be_compared() {
        let id = |generation: &str, n: u64| format!("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 {generation}/{n}");
        assert_eq!(comparable(&id("63", 4), Some(&id("63", 5))), Ok(()));
        assert_eq!(comparable(&id("63", 4), Some(&id("63", 400))), Ok(()));
        assert_eq!(comparable(&id("63", 4), Some(&id("64", 5))), Err(FullReason::CbtReset));
        assert_eq!(comparable(&id("63", 4), Some(&id("63", 4))), Err(FullReason::CbtWentBack));
        assert_eq!(comparable(&id("63", 4), Some(&id("63", 3))), Err(FullReason::CbtWentBack));
        assert_eq!(comparable(&id("63", 4), None), Err(FullReason::NotTracked));
        assert_eq!(comparable(&id("63", 4), Some("")), Err(FullReason::NotTracked));
        assert_eq!(comparable("*", Some(&id("63", 4))), Err(FullReason::ChangeIdUnreadable));
        assert_eq!(comparable(&id("63", 4), Some("what")), Err(FullReason::ChangeIdUnreadable));
    }

    /// A host with a bitmap, that answers in pages of a few areas, shuffled, doubled and too long at the end.
    fn host(changed: &[bool], at: u64, per_page: usize, step: u64, untidy: bool) -> Page {
        let capacity = changed.len() as u64 * SECTOR;
        let first = at / SECTOR;
        let last = (first + step).min(changed.len() as u64);
        let mut areas: Vec<(i64, i64)> = Vec::new();
        let mut end = first;
        while end < last && areas.len() < per_page {
            if changed[end as usize] {
                let from = end;
                while end < last && changed[end as usize] {
                    end += 1;
                }
                areas.push(((from * SECTOR) as i64, ((end - from) * SECTOR) as i64));
            } else {
                end += 1;
            }
        }
        if untidy {
            areas.reverse();
            if let Some(area) = areas.first().copied() {
                areas.push(area);
                if (area.0 + area.1) as u64 == capacity {
                    areas[0].1 += 1 << 30;
                }
            }
        }
        Page { start: at as i64, length: ((end - first) * SECTOR) as i64, areas }
    }

    proptest! {
        #[test]
        fn the_walk_finds_what_a_naive_oracle_knows(
            changed in proptest::collection::vec(any::<bool>(), 0..400), per_page in 1usize..6, step in 1u64..80, untidy in any::<bool>(),
        ) {
            let capacity = changed.len() as u64 * SECTOR;
            let mut walk = Walk::new(capacity);
            let mut asked = Vec::new();
            while let Some(at) = walk.next() {
                prop_assert!(at < capacity, "asked at the capacity");
                asked.push(at);
                walk.take(&host(&changed, at, per_page, step, untidy)).unwrap();
            }
            prop_assert!(asked.windows(2).all(|pair| pair[0] < pair[1]));
            let oracle: ExtentSet = changed.iter().enumerate().filter(|(_, c)| **c).map(|(at, _)| at as u64..at as u64 + 1).collect();
            prop_assert_eq!(walk.finish(), oracle);
        }

        /// Whatever the host says: the walk ends, what it finds lies on the disk, and all that lay in a page that it took is in it.
        #[test]
        fn no_answer_makes_it_lie(
            capacity in 0u64..(1 << 20), pages in proptest::collection::vec((any::<i64>(), any::<i64>(), proptest::collection::vec((any::<i64>(), any::<i64>()), 0..4), any::<bool>()), 0..30),
        ) {
            let mut walk = Walk::new(capacity);
            let mut told = ExtentSet::new();
            for (start, length, areas, tame) in pages {
                let Some(at) = walk.next() else { break };
                // Half of them are near to the truth, else nothing would ever be taken.
                let tamed = |n: i64, to: i64| if tame { n.rem_euclid(to) } else { n };
                let areas: Vec<_> = areas.into_iter().map(|(s, l)| (tamed(s, 1 << 21), tamed(l, 1 << 12))).collect();
                let page = Page { start: if tame { at as i64 } else { start }, length: tamed(length, 1 << 18), areas };
                if walk.take(&page).is_ok() {
                    prop_assert!(walk.next().is_none_or(|next| next > at));
                    told.extend(page.areas.iter().map(|(s, l)| (*s as u64).min(capacity) / SECTOR..((*s as u64 + *l as u64).min(capacity)) / SECTOR));
                }
            }
            let found = walk.finish();
            prop_assert!(found.end() <= capacity.div_ceil(SECTOR));
            prop_assert!(found.is_superset(&told));
        }

        #[test]
        fn positions_never_panic(text in ".{0,80}") {
            let _ = Position::parse(&text);
        }
    }
}
