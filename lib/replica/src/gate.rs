//! The checks that every kind of disk makes before anything is sent.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use blocklog::clock::Clock;
use jiff::{SignedDuration, Timestamp};

use crate::{Fence, FenceKind, MAX_WRITE, Permit, ReplicaError, WRITE_TIMEOUT};

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

/// What a host has to find before it carries a write out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The blob's sequence number is this turn (`x-ms-if-sequence-number-eq`).
    SequenceIs(u64),
    /// Nothing has changed the disk after this time, of whole seconds (`If-Unmodified-Since`). A writer's own writes do not stand in its way:
    /// they end before its permit does.
    UnmodifiedSince(Timestamp),
    /// Nothing. Only for footers, which always say the same.
    None,
}

impl FenceKind {
    /// The condition under which a write of `permit` may be sent at `now`.
    ///
    /// # Errors
    /// [`ReplicaError::PermitEnds`] where a time-fenced write could still be on its way when the permit ends.
    pub fn condition(self, permit: Permit, now: Timestamp) -> Result<Condition, ReplicaError> {
        match self {
            Self::Exact => Ok(Condition::SequenceIs(permit.turn)),
            Self::Time if permit.until.duration_since(now) <= signed(WRITE_TIMEOUT) => {
                Err(ReplicaError::PermitEnds { until: permit.until })
            }
            // Rounded down, since HTTP knows whole seconds only: the permit gets shorter, never longer.
            Self::Time => Ok(Condition::UnmodifiedSince(whole_seconds(permit.until))),
        }
    }
}

/// `time` without its fraction of a second, towards the past.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    let second = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
    Timestamp::from_second(second).unwrap_or(Timestamp::MIN)
}

fn signed(length: Duration) -> SignedDuration {
    SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX)
}

/// How long after the end of the older turn the footer is rewritten: longer than clocks of two machines with NTP differ.
const AFTER_THE_END: SignedDuration = SignedDuration::from_secs(2);

/// An older turn's end lies one lease ahead at most. An end beyond this comes from a clock that is wrong, and is not waited for.
const FURTHEST_END: SignedDuration = SignedDuration::from_mins(5);

/// How far the storage's clock may be ahead of ours. Beyond it, the writer's own writes would bear times after the end of its permits, and
/// fence it out.
const FURTHEST_AHEAD: SignedDuration = SignedDuration::from_secs(5);

/// How often the footer is rewritten, a second apart, for a storage whose clock is behind ours.
const REWRITES: u32 = 30;

/// Raises the fence of a disk that has only time: waits for the older turn's end and calls `rewrite`, which rewrites the footer and gives the
/// `Last-Modified` of its answer, until that time is after the end by the storage's own clock.
pub(crate) async fn raise_by_time<R>(clock: &dyn Clock, fence: Fence, rewrite: impl Fn() -> R + Send) -> Result<(), ReplicaError>
where
    R: Future<Output = Result<Timestamp, ReplicaError>> + Send,
{
    if let Some(end) = fence.previous_end {
        let ahead = |now: Timestamp| end.duration_since(now).saturating_add(AFTER_THE_END);
        if ahead(clock.now()) > FURTHEST_END {
            return Err(ReplicaError::Failed(format!(
                "the older turn may write until {end}, far ahead of this machine's clock: one of the clocks is wrong, set them (NTP)"
            )));
        }
        loop {
            match Duration::try_from(ahead(clock.now())) {
                Ok(wait) if !wait.is_zero() => clock.sleep(wait).await,
                // Nothing is left to wait for, or less than that.
                _ => break,
            }
        }
    }
    for _ in 0..REWRITES {
        let modified = rewrite().await?;
        let ahead = modified.duration_since(clock.now());
        if ahead > FURTHEST_AHEAD {
            return Err(ReplicaError::Failed(format!(
                "the storage's clock is {} s ahead of this machine's: set this machine's clock (NTP)",
                ahead.as_secs()
            )));
        }
        if fence.previous_end.is_none_or(|end| modified > end) {
            return Ok(());
        }
        clock.sleep(Duration::from_secs(1)).await;
    }
    Err(ReplicaError::Failed(format!(
        "the storage's clock has not passed the end of the older turn ({}) in {REWRITES} s: the clock of the machine that ran it, or of this \
         one, is ahead, set it (NTP)",
        fence.previous_end.unwrap_or_default()
    )))
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
    use reasons::Reason;

    use std::sync::atomic::{AtomicU32, Ordering};

    use blocklog::test_support::ManualClock;

    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(check_range(4096, 0, 4096), Ok(()));
        assert_eq!(check_range(4096, 512, 4096), Err(ReplicaError::TooSmall { capacity: 4096, needed: 4608 }));
        assert_eq!(check_range(4096, u64::MAX - 511, 512), Err(ReplicaError::TooSmall { capacity: 4096, needed: u64::MAX }));
        for (offset, length) in [(0, 0), (1, 512), (0, 513)] {
            assert_eq!(check_range(4096, offset, length).unwrap_err().reason(), Reason::ReplicaRequestInvalid);
        }
        let max = MAX_WRITE as u64;
        assert_eq!(check_transfer(2 * max, max, max), Ok(()));
        assert_eq!(check_transfer(2 * max, 0, max + 512).unwrap_err().reason(), Reason::ReplicaRequestInvalid);
        assert_eq!(check_range(2 * max, 0, max + 512), Ok(()));
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn conditions() {
        let permit = Permit { turn: 4, until: at("2026-01-01T00:01:00.9Z") };
        assert_eq!(FenceKind::Exact.condition(permit, permit.until), Ok(Condition::SequenceIs(4)));
        let rounded = Condition::UnmodifiedSince(at("2026-01-01T00:01:00Z"));
        assert_eq!(FenceKind::Time.condition(permit, at("2026-01-01T00:00:50.8Z")), Ok(rounded));
        let ends = Err(ReplicaError::PermitEnds { until: permit.until });
        assert_eq!(FenceKind::Time.condition(permit, at("2026-01-01T00:00:50.9Z")), ends);
        assert_eq!(FenceKind::Time.condition(permit, at("2026-01-02T00:00:00Z")), ends);
        assert_eq!(whole_seconds(at("1969-12-31T23:59:58.5Z")), at("1969-12-31T23:59:58Z"));
    }

    /// A storage whose clock is `skew` ahead of the manual clock, and which gives times in whole seconds.
    async fn raise(skew: i64, previous_end: Option<&str>) -> (Result<(), ReplicaError>, Timestamp, u32) {
        let clock = ManualClock::starting_at(at("2026-01-01T00:00:00.25Z"));
        clock.auto_advance(true);
        let rewrites = AtomicU32::new(0);
        let fence = Fence { turn: 1, previous_end: previous_end.map(at) };
        let raised = raise_by_time(&clock, fence, || async {
            rewrites.fetch_add(1, Ordering::SeqCst);
            Ok(whole_seconds(clock.now() + SignedDuration::from_secs(skew)))
        });
        let raised = raised.await;
        (raised, clock.now(), rewrites.into_inner())
    }

    #[tokio::test]
    async fn the_older_turn_ends_before_the_fence_stands() {
        let none = raise(0, None).await;
        assert_eq!(none, (Ok(()), at("2026-01-01T00:00:00.25Z"), 1));
        let past = raise(0, Some("2025-12-31T23:59:00Z")).await;
        assert_eq!(past, (Ok(()), at("2026-01-01T00:00:00.25Z"), 1));
        let ahead = raise(0, Some("2026-01-01T00:00:50.5Z")).await;
        assert_eq!(ahead, (Ok(()), at("2026-01-01T00:00:52.5Z"), 1));
    }

    #[tokio::test]
    async fn the_storage_says_when_it_is_later() {
        // At 00:00:52.5 by our clock its clock shows 00:00:42.
        let (raised, now, rewrites) = raise(-10, Some("2026-01-01T00:00:50.5Z")).await;
        assert_eq!((raised, rewrites), (Ok(()), 10));
        assert_eq!(now, at("2026-01-01T00:01:01.5Z"));
        let (raised, now, rewrites) = raise(-60, Some("2026-01-01T00:00:50.5Z")).await;
        assert!(raised.unwrap_err().to_string().contains("set it (NTP)"));
        assert_eq!((now, rewrites), (at("2026-01-01T00:01:22.5Z"), REWRITES));
    }

    /// A write of the older turn may bear this very second, and would find the disk unmodified since.
    #[tokio::test]
    async fn the_second_of_the_end_is_not_later() {
        // At 00:00:52 by our clock its clock shows the end itself.
        let (raised, now, rewrites) = raise(-2, Some("2026-01-01T00:00:50Z")).await;
        assert_eq!((raised, now, rewrites), (Ok(()), at("2026-01-01T00:00:53Z"), 2));
    }

    #[tokio::test]
    async fn wrong_clocks_are_named() {
        assert_eq!(raise(5, None).await.0, Ok(()));
        assert!(raise(7, None).await.0.unwrap_err().to_string().contains("ahead of this machine's: set"));
        let (raised, now, rewrites) = raise(0, Some("2026-01-01T01:00:00Z")).await;
        assert!(raised.unwrap_err().to_string().contains("one of the clocks is wrong"));
        assert_eq!((now, rewrites), (at("2026-01-01T00:00:00.25Z"), 0));
    }

    #[test]
    fn turns() {
        let gate = Gate::default();
        let permit = |turn| Permit { turn, until: Timestamp::MAX };
        assert_eq!(gate.check(permit(3)).unwrap_err().reason(), Reason::ReplicaRequestInvalid);
        gate.raised(3);
        assert_eq!(gate.check(permit(3)), Ok(()));
        assert_eq!(gate.check(permit(2)), Err(ReplicaError::Fenced { turn: 2 }));
        assert_eq!(gate.check(permit(4)).unwrap_err().reason(), Reason::ReplicaRequestInvalid);
        assert_eq!(gate.may_raise(2), Err(ReplicaError::Fenced { turn: 2 }));
        assert_eq!(gate.may_raise(3), Ok(()));
        gate.raised(5);
        gate.raised(4);
        assert_eq!(gate.check(permit(4)), Err(ReplicaError::Fenced { turn: 4 }));
    }
}
