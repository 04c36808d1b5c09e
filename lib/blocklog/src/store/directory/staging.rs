//! Parts on their way to one blob.
//!
//! The parts of a blob go into one file, each to its place, so that commit only has to rename it. A part's place is the end of the parts
//! before it, where all of those are there (parts staged in order may have any length); otherwise its number times the length of the first
//! part that came (parts of one length, but for the last, may come in any order). A part whose place is taken, because it is staged a
//! second time or because the lengths vary out of order, goes to a file of its own, and commit copies.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::files::Temporary;
use crate::store::{MAX_PART, StoreError};

/// A blob that only lacks its name.
pub(super) enum Joined {
    /// The shared file is the blob.
    Shared(Arc<Staging>),
    /// The parts had to be copied together.
    Copied(Temporary),
}

impl Joined {
    /// The file.
    pub fn file(&self) -> &Temporary {
        match self {
            Self::Shared(staging) => &staging.shared,
            Self::Copied(file) => file,
        }
    }
}

/// The parts of one blob.
pub(super) struct Staging {
    shared: Temporary,
    state: Mutex<State>,
}

struct State {
    /// Places given out in the shared file, by part.
    places: BTreeMap<u32, Place>,
    /// Parts of which the bytes are on their way to their place in the shared file.
    writing: BTreeSet<u32>,
    /// Parts that are there, and where.
    parts: BTreeMap<u32, Part>,
    /// The length of the first part that came.
    unit: u64,
    /// Once commit has looked, no place is given out: the file is the blob then.
    closed: bool,
    touched: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    offset: u64,
    length: u64,
}

impl Place {
    fn end(self) -> u64 {
        self.offset + self.length
    }
}

enum Part {
    Shared(Place),
    Own(Temporary, u64),
}

impl State {
    fn place(&mut self, part: u32, length: u64) -> Option<Place> {
        if self.places.contains_key(&part) {
            return None;
        }
        if self.places.is_empty() {
            self.unit = length;
        }
        let after = self.end_before(part);
        let at_unit = u64::from(part) * self.unit;
        let offset = after.unwrap_or(at_unit);
        let place = Place { offset, length };
        let taken = self.places.values().any(|held| held.offset < place.end() && offset < held.end());
        if taken {
            return None;
        }
        self.places.insert(part, place);
        self.writing.insert(part);
        Some(place)
    }

    /// Where the parts before this one end, if they are all there, one after the other.
    fn end_before(&self, part: u32) -> Option<u64> {
        let mut end = 0;
        for before in 0..part {
            end = self.places.get(&before).filter(|place| place.offset == end)?.end();
        }
        Some(end)
    }
}

impl Staging {
    /// A blob of which no part is there. `path` is where they go.
    pub fn create(path: PathBuf, now: Duration) -> Result<Self, StoreError> {
        let state =
            State { places: BTreeMap::new(), writing: BTreeSet::new(), parts: BTreeMap::new(), unit: 0, closed: false, touched: now };
        Ok(Self { shared: Temporary::create(path)?, state: Mutex::new(state) })
    }

    /// When a part was last staged.
    pub fn touched(&self) -> Duration {
        self.lock().touched
    }

    /// Writes one part; `own` names a file for it where it cannot go to the shared one. False where commit has taken this over: the part
    /// belongs to the next blob of the name.
    pub fn stage(&self, part: u32, pieces: &[Bytes], own: impl FnOnce() -> PathBuf, now: Duration) -> Result<bool, StoreError> {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let place = {
            let mut state = self.lock();
            if state.closed {
                return Ok(false);
            }
            state.touched = now;
            state.place(part, length)
        };
        let Some(place) = place else {
            let own = Temporary::create(own())?;
            own.write(pieces, 0)?;
            self.lock().parts.insert(part, Part::Own(own, length));
            return Ok(true);
        };
        let written = self.shared.write(pieces, place.offset);
        let mut state = self.lock();
        state.writing.remove(&part);
        match written {
            Ok(()) => state.parts.insert(part, Part::Shared(place)),
            Err(error) => {
                // Nobody writes there any more, so that the next attempt may.
                state.places.remove(&part);
                return Err(error);
            }
        };
        Ok(true)
    }

    /// Joins the parts `0..parts` to a file that is on the disk when this returns, and that no stage writes to any more. `copy` names a file
    /// for them where they do not lie one after the other.
    pub fn join(self: &Arc<Self>, name: &str, parts: u32, copy: impl FnOnce() -> PathBuf) -> Result<Joined, StoreError> {
        let mut state = self.lock();
        if let Some(part) = (0..parts).find(|part| !state.parts.contains_key(part)) {
            return Err(StoreError::Failed(format!("{name}: part {part} was never staged")));
        }
        let mut end = 0;
        let in_place = state.writing.is_empty()
            && state.parts.range(..parts).all(|(_, part)| match part {
                Part::Shared(place) if place.offset == end => {
                    end = place.end();
                    true
                }
                _ => false,
            });
        if in_place {
            state.closed = true;
            // Parts beyond those that make the blob are cut off, and must not be found there by a commit that is tried again.
            state.parts.split_off(&parts);
            drop(state);
            self.shared.told(self.shared.file.set_len(end))?;
            self.shared.sync()?;
            return Ok(Joined::Shared(Arc::clone(self)));
        }
        let joined = Temporary::create(copy())?;
        let mut buffer = vec![0; MAX_PART];
        let mut end = 0;
        for part in state.parts.range(..parts).map(|(_, part)| part) {
            let (from, place) = match part {
                Part::Shared(place) => (&self.shared, *place),
                Part::Own(own, length) => (own, Place { offset: 0, length: *length }),
            };
            // No part is longer than the buffer.
            let bytes = &mut buffer[..place.length as usize];
            from.told(from.file.read_exact_at(bytes, place.offset))?;
            joined.told(joined.file.write_all_at(bytes, end))?;
            end += place.length;
        }
        joined.sync()?;
        Ok(Joined::Copied(joined))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is whole by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn bytes(text: &'static str) -> [Bytes; 1] {
        [Bytes::from_static(text.as_bytes())]
    }

    fn staged(folder: &tempfile::TempDir) -> Arc<Staging> {
        let staging = Arc::new(Staging::create(folder.path().join("shared"), NOW).unwrap());
        assert!(staging.stage(0, &bytes("zero"), || panic!("it has a place"), NOW).unwrap());
        staging
    }

    /// A caller that gave up on a part cannot stop its write.
    #[test]
    fn what_is_still_being_written_never_reaches_the_blob() {
        let folder = tempfile::tempdir().unwrap();
        let staging = staged(&folder);
        let late = staging.lock().place(1, 4).unwrap();
        let joined = staging.join("name", 1, || folder.path().join("copy")).unwrap();
        staging.shared.write(&bytes("late"), late.offset).unwrap();
        assert!(matches!(joined, Joined::Copied(_)));
        assert_eq!(joined.file().file.metadata().unwrap().len(), 4);
    }

    #[test]
    fn no_part_goes_to_a_file_that_is_the_blob() {
        let folder = tempfile::tempdir().unwrap();
        let staging = staged(&folder);
        let joined = staging.join("name", 1, || panic!("nothing is to be copied")).unwrap();
        assert!(matches!(joined, Joined::Shared(_)));
        for part in [0, 1] {
            assert!(!staging.stage(part, &bytes("late"), || panic!("it is closed"), NOW).unwrap());
        }
        assert_eq!(std::fs::read(folder.path().join("shared")).unwrap(), b"zero");
    }

    /// The place of a write that failed is free for the next attempt, which then costs no copy.
    #[test]
    fn a_place_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shared");
        let mut staging = Staging::create(path.clone(), NOW).unwrap();
        // A file that cannot be written to, as a full disk cannot.
        let whole = std::mem::replace(&mut staging.shared.file, std::fs::File::open(&path).unwrap());
        assert!(staging.stage(0, &bytes("zero"), || panic!("it has a place"), NOW).is_err());
        staging.shared.file = whole;
        assert!(staging.stage(0, &bytes("zero"), || panic!("it has a place"), NOW).unwrap());
        assert!(matches!(Arc::new(staging).join("name", 1, || panic!("nothing is to be copied")).unwrap(), Joined::Shared(_)));
    }
}
