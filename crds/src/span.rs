//! Durations as people write them here, and as Azure Migrate does: `7h`, `1d7h`, `90m`.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// A duration of whole minutes: one minute to seven days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    minutes: u32,
}

impl Span {
    /// The longest: a week, since a weekly window can't be longer.
    pub const MAX: Self = Self { minutes: 7 * 24 * 60 };

    /// From minutes; none where it is no time at all or more than seven days.
    #[must_use]
    pub fn of_minutes(minutes: u32) -> Option<Self> {
        (1..=Self::MAX.minutes).contains(&minutes).then_some(Self { minutes })
    }

    /// Its minutes.
    #[must_use]
    pub fn minutes(self) -> u32 {
        self.minutes
    }

    /// For arithmetic with timestamps.
    #[must_use]
    pub fn duration(self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_mins(i64::from(self.minutes))
    }
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// Not the form.
    #[error("`{0}` is not a duration: write days, hours and minutes in this order, each at most once, such as 7h, 1d7h or 90m")]
    Form(String),
    /// No time at all, or too long.
    #[error("`{0}` is not between one minute and seven days")]
    Length(String),
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let form = || SpanError::Form(text.to_owned());
        let (mut rest, mut minutes) = (text, 0_u32);
        for (unit, factor) in [('d', 24 * 60), ('h', 60), ('m', 1)] {
            if let Some((number, after)) = rest.split_once(unit) {
                // At most five digits, as the rule in the schema has it: no sum of three overflows.
                if number.is_empty() || number.len() > 5 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(form());
                }
                minutes += number.parse::<u32>().map_err(|_| form())? * factor;
                rest = after;
            }
        }
        if !rest.is_empty() || text.is_empty() {
            return Err(form());
        }
        Self::of_minutes(minutes).ok_or_else(|| SpanError::Length(text.to_owned()))
    }
}

/// The shortest text of it.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in [(self.minutes / (24 * 60), 'd'), (self.minutes / 60 % 24, 'h'), (self.minutes % 60, 'm')] {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

/// A duration as it stands in a manifest. It is kept as it was written, so that a controller can still read the rest of an object that an
/// older schema let through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, transform = rules::span)]
pub struct SpanText(pub String);

impl SpanText {
    /// What it says.
    ///
    /// # Errors
    /// [`SpanError`], which the schema's rules make impossible for an object that they have seen.
    pub fn parse(&self) -> Result<Span, SpanError> {
        self.0.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_duration() {
        for (text, minutes) in
            [("7h", 420), ("1d7h", 31 * 60), ("90m", 90), ("7d", 10_080), ("0d1m", 1), ("1d2h3m", 1563), ("168h", 10_080), ("007h", 420)]
        {
            assert_eq!(text.parse::<Span>().unwrap().minutes(), minutes, "{text}");
        }
    }

    #[test]
    fn what_is_none() {
        for text in ["", "7", "h", "7h1d", "1h1h", "1d 7h", "-1h", "+1h", "1.5h", "7H", "1w", "1s", "123456m", "１h", "1d7", "d"] {
            assert_eq!(text.parse::<Span>(), Err(SpanError::Form(text.to_owned())), "{text}");
        }
        for text in ["0m", "0d0h0m", "7d1m", "10081m", "99999d99999h99999m"] {
            assert_eq!(text.parse::<Span>(), Err(SpanError::Length(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn every_duration_is_read_as_it_is_written() {
        for minutes in 1..=Span::MAX.minutes() {
            let span = Span::of_minutes(minutes).unwrap();
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        assert_eq!(Span::of_minutes(0), None);
        assert_eq!(Span::of_minutes(Span::MAX.minutes() + 1), None);
        assert_eq!("1d7h".parse::<Span>().unwrap().duration(), jiff::SignedDuration::from_hours(31));
    }
}
