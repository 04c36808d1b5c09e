//! Words that must not be seen.

use std::fmt;

use zeroize::Zeroizing;

/// A password, or the cookie of a session. It wipes itself and shows itself to nobody who prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps a word.
    #[must_use]
    pub fn new(word: impl Into<String>) -> Self {
        Self(Zeroizing::new(word.into()))
    }

    /// The word, for whom it is meant.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl From<String> for Secret {
    fn from(word: String) -> Self {
        Self::new(word)
    }
}
