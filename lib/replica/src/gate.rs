//! The checks that every kind of disk makes before anything is sent.

use std::sync::{Mutex, PoisonError};

use crate::{MAX_WRITE, Permit, ReplicaError};

/// Sector size: all offsets and lengths are multiples of it.
pub(crate) const SECTOR: u64 = 512;

/// Offset and length are whole sectors inside of the disk.
pub(crate) fn check_range(capacity: u64, offset: u64, length: u64) -> Result<(), ReplicaError> {
    if length == 0 || !offset.is_multiple_of(SECTOR) || !length.is_multiple_of(SECTOR) {
        return Err(ReplicaError::Invalid(format!("{length} bytes at {offset} are not whole sectors")));
    }
    match offset.checked_add(length) {
        Some(end) if end <= capacity => Ok(()),
        end => Err(ReplicaError::TooSmall { capacity, needed: end.unwrap_or(u64::MAX) }),
    }
}

/// The range of one request that carries data.
pub(crate) fn check_transfer(capacity: u64, offset: u64, length: u64) -> Result<(), ReplicaError> {
    if length > MAX_WRITE as u64 {
        return Err(ReplicaError::Invalid(format!("{length} bytes in one request, at most {MAX_WRITE} can be sent")));
    }
    check_range(capacity, offset, length)
}

/// The turn whose fence was raised through this handle.
///
/// It only turns mistakes into errors early: what keeps late writes out is the disk's own fence, since a late write may come from another
/// handle, or may have passed this gate long ago.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Option<u64>>);

impl Gate {
    fn turn(&self) -> Option<u64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to go back to an older turn.
    pub(crate) fn may_raise(&self, turn: u64) -> Result<(), ReplicaError> {
        match self.turn() {
            Some(raised) if raised > turn => Err(ReplicaError::Fenced { turn }),
            _ => Ok(()),
        }
    }

    /// Records that the disk's fence stands.
    pub(crate) fn raised(&self, turn: u64) {
        let mut raised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *raised = (*raised).max(Some(turn));
    }

    /// Refuses writes of any other turn than the raised one.
    pub(crate) fn check(&self, permit: Permit) -> Result<(), ReplicaError> {
        let turn = permit.turn;
        match self.turn() {
            Some(raised) if raised == turn => Ok(()),
            Some(raised) if raised > turn => Err(ReplicaError::Fenced { turn }),
            _ => Err(ReplicaError::Invalid(format!("a write of turn {turn} before the turn's fence was raised"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(check_range(4096, 0, 4096), Ok(()));
        assert_eq!(check_range(4096, 512, 4096), Err(ReplicaError::TooSmall { capacity: 4096, needed: 4608 }));
        assert_eq!(check_range(4096, u64::MAX - 511, 512), Err(ReplicaError::TooSmall { capacity: 4096, needed: u64::MAX }));
        for (offset, length) in [(0, 0), (1, 512), (0, 513)] {
            assert_eq!(check_range(4096, offset, length).unwrap_err().reason(), "ReplicaRequestInvalid");
        }
        let max = MAX_WRITE as u64;
        assert_eq!(check_transfer(2 * max, max, max), Ok(()));
        assert_eq!(check_transfer(2 * max, 0, max + 512).unwrap_err().reason(), "ReplicaRequestInvalid");
        assert_eq!(check_range(2 * max, 0, max + 512), Ok(()));
    }

    #[test]
    fn turns() {
        let gate = Gate::default();
        let permit = |turn| Permit { turn, until: Timestamp::MAX };
        assert_eq!(gate.check(permit(3)).unwrap_err().reason(), "ReplicaRequestInvalid");
        gate.raised(3);
        assert_eq!(gate.check(permit(3)), Ok(()));
        assert_eq!(gate.check(permit(2)), Err(ReplicaError::Fenced { turn: 2 }));
        assert_eq!(gate.check(permit(4)).unwrap_err().reason(), "ReplicaRequestInvalid");
        assert_eq!(gate.may_raise(2), Err(ReplicaError::Fenced { turn: 2 }));
        assert_eq!(gate.may_raise(3), Ok(()));
        gate.raised(5);
        gate.raised(4);
        assert_eq!(gate.check(permit(4)), Err(ReplicaError::Fenced { turn: 4 }));
    }
}
