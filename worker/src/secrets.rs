//! Secrets in files of their own.

use std::path::Path;

use blocklog::keys::KeyRing;
use zeroize::Zeroizing;

use crate::failure::{Failure, Kind};

/// The text of a secret file, without the white space around it. It never stands in a message.
pub(crate) fn text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bad = |why: String| Failure::new(Kind::BadFile, format!("{}: {why}", path.display()), "Name a file that holds the secret alone.");
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| bad(error.to_string()))?;
    let trimmed = text.trim();
    if trimmed.is_empty() { Err(bad("it is empty".to_owned())) } else { Ok(Zeroizing::new(trimmed.to_owned())) }
}

/// The key ring of a key file.
///
/// # Errors
/// [`Kind::BadFile`].
pub(crate) fn keys(path: &Path) -> Result<KeyRing, Failure> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| {
        let remedy = "Name the key file; `worker key new` makes one for a new log store.";
        Failure::new(Kind::BadFile, format!("{}: {error}", path.display()), remedy).because(reasons::Reason::CredentialsMissing)
    })?;
    KeyRing::parse(&text).map_err(|error| Failure::from(error).about(path.display()))
}
