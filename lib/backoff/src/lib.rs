//! How long to wait before something is tried again, and when a server that does not answer is asked by one for all.
//!
//! Pure: the number of the attempt, the caller's jitter and the caller's clock go in; a wait, or a yes or no, comes out.

mod breaker;

use std::time::Duration;

pub use breaker::Breaker;

/// Waits that double from attempt to attempt up to a longest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    jitter: Jitter,
}

/// How much of a wait the caller's jitter may take off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Nothing: all who failed together come back together.
    None,
    /// Up to a quarter.
    Quarter,
    /// Up to a half.
    Half,
}

impl Backoff {
    /// Doubles from `first` up to `most`, without jitter.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, jitter: Jitter::None }
    }

    /// Lets jitter take so much off each wait.
    #[must_use]
    pub const fn with(self, jitter: Jitter) -> Self {
        Self { jitter, ..self }
    }

    /// The wait before the `attempt`th further try, from 0. `share` is the caller's jitter: 0 takes nothing off, 255 nearly all that
    /// [`Jitter`] allows. Who comes from the same failure draws its own: at random, or from a digest of its name where a pure function asks.
    #[must_use]
    pub fn wait(&self, attempt: u32, share: u8) -> Duration {
        // A power beyond this one changes nothing: a first wait of a millisecond has become 24 days by then.
        let whole = self.first.saturating_mul(1 << attempt.min(31)).min(self.most);
        let parts: u32 = match self.jitter {
            Jitter::None => return whole,
            Jitter::Quarter => 4 * 256,
            Jitter::Half => 2 * 256,
        };
        whole - whole / parts * u32::from(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WAITS: Backoff = Backoff::new(SECOND, Duration::from_secs(10));

    #[test]
    fn waits_double_up_to_the_longest() {
        let seconds = [0, 1, 2, 3, 4, 5, 40, u32::MAX].map(|attempt| WAITS.wait(attempt, 0).as_secs());
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10, 10, 10]);
    }

    #[test]
    fn waits_never_overflow() {
        let endless = Backoff::new(SECOND, Duration::MAX).with(Jitter::Half);
        for attempt in [31, 32, u32::MAX] {
            for share in [0, 255] {
                assert!(endless.wait(attempt, share) > SECOND * (1 << 30), "{attempt} {share}");
            }
        }
        assert_eq!(Backoff::new(Duration::ZERO, SECOND).wait(3, 0), Duration::ZERO);
    }

    #[test]
    fn a_first_wait_beyond_the_longest_is_the_longest() {
        assert_eq!(Backoff::new(SECOND * 60, SECOND).wait(0, 0), SECOND);
    }

    #[test]
    fn jitter_takes_off_no_more_than_its_part() {
        let at = |jitter, share| WAITS.with(jitter).wait(1, share);
        assert_eq!([0, 255].map(|share| at(Jitter::None, share)), [SECOND * 2; 2]);
        for (jitter, least) in [(Jitter::Quarter, 1500), (Jitter::Half, 1000)] {
            let least = Duration::from_millis(least);
            assert_eq!(at(jitter, 0), SECOND * 2);
            assert!((least..least + Duration::from_millis(5)).contains(&at(jitter, 255)), "{:?}", at(jitter, 255));
            assert_eq!(at(jitter, 128), (SECOND * 2 + least) / 2);
        }
    }
}
