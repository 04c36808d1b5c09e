//! What a store takes: names, and parts.

use bytes::Bytes;

use super::{MAX_PART, StoreError};

/// The longest name that Azure allows, in characters.
const MAX_NAME: usize = 1024;

/// Refuses what is not a name: `/`-separated printable ASCII without empty parts and without parts that begin with a dot (`.` and `..`
/// would climb, and the directory store keeps its own files under dotted names).
pub(super) fn name(name: &str) -> Result<(), StoreError> {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.');
    if name.len() <= MAX_NAME && clean(name) && name.split('/').all(part) { Ok(()) } else { Err(refused(name)) }
}

/// Refuses what no name can start with.
pub(super) fn prefix(prefix: &str) -> Result<(), StoreError> {
    let whole = prefix.rsplit_once('/').map_or("", |(folders, _)| folders);
    let last = prefix.rsplit('/').next().unwrap_or_default();
    if (whole.is_empty() && !prefix.starts_with('/') || name(whole).is_ok()) && clean(prefix) && !last.starts_with('.') {
        Ok(())
    } else {
        Err(refused(prefix))
    }
}

/// The length of a part. Azure refuses one without bytes, and the memory of an upload is counted in parts.
pub(super) fn part(name: &str, part: u32, pieces: &[Bytes]) -> Result<usize, StoreError> {
    match pieces.iter().map(Bytes::len).sum() {
        length @ 1..=MAX_PART => Ok(length),
        length => Err(StoreError::Failed(format!("{name}: part {part} has {length} bytes, not 1 to {MAX_PART}"))),
    }
}

/// Backslash is refused because Azure's clients turn it into a slash, `%`, `?` and `#` because a URL gives them a meaning.
fn clean(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\%?#\"<>|*".contains(&byte))
}

fn refused(name: &str) -> StoreError {
    StoreError::Failed(format!("{name:?} is not a name that the log store takes"))
}

#[cfg(test)]
mod tests {
    use super::{MAX_NAME, StoreError};

    #[test]
    fn names_are_clean_paths() {
        for name in ["a", "v1/a-b_c/x.seg", "v1/orders/owner/vm@1,2"] {
            super::name(name).unwrap();
        }
        let long = "a".repeat(MAX_NAME + 1);
        for name in
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.b", ".lock", "a b", "a\\b", "ä", "a%2fb", "a?b", "a#b", "a\nb", &long]
        {
            assert!(matches!(super::name(name), Err(StoreError::Failed(_))), "{name:?}");
        }
    }

    #[test]
    fn prefixes_may_end_anywhere() {
        for prefix in ["", "a", "a/", "a/b", "a/b/"] {
            super::prefix(prefix).unwrap();
        }
        for prefix in ["/", "/a", "a//", "../a", "a/..", "a/.", ".", "a b"] {
            assert!(matches!(super::prefix(prefix), Err(StoreError::Failed(_))), "{prefix:?}");
        }
    }
}
