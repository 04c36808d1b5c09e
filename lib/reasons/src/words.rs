//! What makes a closed set of words.

/// Makes an enum of CamelCase words. The first paragraph of a word's documentation is its meaning, which the reference prints.
#[macro_export]
macro_rules! closed_set {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident {
            $( $(#[doc = $meaning:literal])+ $word:ident, )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $( $(#[doc = $meaning])+ $word, )+
        }

        impl $name {
            /// All of them, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$word,)+];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => stringify!($word),)+
                }
            }

            /// What it means, for the reference and for `explain`.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$word => concat!($($meaning, "\n",)+).trim_ascii(),)+
                }
            }

            /// The one with this word; none for a word of another version.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.as_str().to_owned()
            }
        }
    };
}

/// Makes a closed set of words, each with its remedy besides.
macro_rules! words {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident {
            $( $(#[doc = $meaning:literal])+ $word:ident => $remedy:expr, )+
        }
    ) => {
        $crate::closed_set! {
            $(#[doc = $doc])+
            pub enum $name {
                $( $(#[doc = $meaning])+ $word, )+
            }
        }

        impl $name {
            /// What a person can do about it; where that is nothing, it says so.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$word => $remedy,)+
                }
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    /// Holds a set of words to what all of them keep: `(word, meaning, remedy)`.
    pub(crate) fn hold(words: &[(&str, &str, &str)]) {
        for (word, meaning, remedy) in words {
            // CamelCase, which is narrower than the pattern of metav1.Condition.
            let letters =
                word.chars().all(|letter| letter.is_ascii_alphanumeric()) && word.starts_with(|first: char| first.is_ascii_uppercase());
            assert!(letters && word.len() <= 40, "{word} can't stand in a condition");
            assert!(sentence(meaning), "{word} has no meaning: {meaning:?}");
            assert!(sentence(remedy), "{word} has no remedy: {remedy:?}");
            assert_ne!(meaning, remedy, "{word}");
        }
        assert_eq!(words.iter().map(|(word, ..)| word).collect::<BTreeSet<_>>().len(), words.len(), "a word is there twice");
    }

    fn sentence(text: &str) -> bool {
        text.len() > 10 && text.ends_with(['.', ')']) && !text.contains("  ")
    }
}
