//! Weekly windows in Azure Migrate's own form: `Monday;7:00;7h`.

use std::{fmt, str::FromStr};

use jiff::civil::{Time, Weekday};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    rules,
    span::{Span, SpanError},
};

/// The days by the names that Azure Migrate gives them, Monday first.
pub const DAYS: [(&str, Weekday); 7] = [
    ("Monday", Weekday::Monday),
    ("Tuesday", Weekday::Tuesday),
    ("Wednesday", Weekday::Wednesday),
    ("Thursday", Weekday::Thursday),
    ("Friday", Weekday::Friday),
    ("Saturday", Weekday::Saturday),
    ("Sunday", Weekday::Sunday),
];

/// An interval of each week, in local time. It may span midnight, and days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// The day that it begins on.
    pub day: Weekday,
    /// When it begins on that day: hours and minutes.
    pub start: Time,
    /// How long it is.
    pub length: Span,
}

/// Why a text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not three parts.
    #[error("`{0}` is not a window: write day, start and length with semicolons, such as Monday;7:00;7h")]
    Form(String),
    /// No day.
    #[error("`{0}` is not a day: write Monday, Tuesday, Wednesday, Thursday, Friday, Saturday or Sunday")]
    Day(String),
    /// No time of day.
    #[error("`{0}` is not a time of day: write hours and minutes from 0:00 to 23:59, such as 7:00")]
    Start(String),
    /// No length.
    #[error(transparent)]
    Length(#[from] SpanError),
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let parts: Vec<&str> = text.split(';').collect();
        let [day, start, length] = parts.as_slice() else { return Err(WindowError::Form(text.to_owned())) };
        let weekday = DAYS.iter().find(|(name, _)| name == day).ok_or_else(|| WindowError::Day((*day).to_owned()))?.1;
        Ok(Self { day: weekday, start: time(start).ok_or_else(|| WindowError::Start((*start).to_owned()))?, length: length.parse()? })
    }
}

/// `7:00` or `07:00`: one or two digits of hours, two of minutes.
fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    if !(1..=2).contains(&hour.len()) || minute.len() != 2 || !(hour.bytes().chain(minute.bytes())).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

/// The shortest text of it.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = DAYS.iter().find(|(_, day)| *day == self.day).map_or("", |(name, _)| name);
        write!(f, "{name};{}:{:02};{}", self.start.hour(), self.start.minute(), self.length)
    }
}

/// A window as it stands in a manifest. It is kept as it was written, so that a controller can still read the rest of an object that an older
/// schema let through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, transform = rules::window)]
pub struct WindowText(pub String);

impl WindowText {
    /// What it says.
    ///
    /// # Errors
    /// [`WindowError`], which the schema's rules make impossible for an object that they have seen.
    pub fn parse(&self) -> Result<Window, WindowError> {
        self.0.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azure_migrates_own_examples() {
        let window: Window = "Monday;7:00;7h".parse().unwrap();
        assert_eq!((window.day, window.start, window.length.minutes()), (Weekday::Monday, jiff::civil::time(7, 0, 0, 0), 420));
        let window: Window = "Saturday;23:30;1d7h".parse().unwrap();
        assert_eq!((window.day, window.start, window.length.minutes()), (Weekday::Saturday, jiff::civil::time(23, 30, 0, 0), 31 * 60));
        assert_eq!("Sunday;07:05;7d".parse::<Window>().unwrap().to_string(), "Sunday;7:05;7d");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, told) in [
            ("", "`` is not a window"),
            ("Monday", "`Monday` is not a window"),
            ("Monday;7:00;7h;", "is not a window"),
            ("Mon;7:00;7h", "`Mon` is not a day"),
            ("monday;7:00;7h", "`monday` is not a day"),
            ("Monday;24:00;7h", "`24:00` is not a time of day"),
            ("Monday;7;7h", "`7` is not a time of day"),
            ("Monday;7:0;7h", "`7:0` is not a time of day"),
            ("Monday;7:60;7h", "`7:60` is not a time of day"),
            ("Monday;+7:00;7h", "`+7:00` is not a time of day"),
            ("Monday; 7:00;7h", "` 7:00` is not a time of day"),
            ("Monday;7:00;", "`` is not a duration"),
            ("Monday;7:00;7", "`7` is not a duration"),
            ("Monday;7:00;0h", "`0h` is not between"),
            ("Monday;7:00;8d", "`8d` is not between"),
        ] {
            let error = text.parse::<Window>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
