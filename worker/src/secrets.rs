//! Secrets in files of their own.

use std::path::Path;

use blocklog::{LogError, cycle::KeyCheck, document, keys::KeyRing, names, store::LogStore};
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
        Failure::new(Kind::BadFile, format!("{}: {error}", path.display()), remedy).because("KeyFile")
    })?;
    KeyRing::parse(&text).map_err(|error| Failure::from(error).about(path.display()))
}

/// True where the key is the log store's; false where the store has no key-check blob yet.
///
/// # Errors
/// [`LogError::WrongKey`], [`LogError::KeyMissing`], and those of reading it.
pub(crate) async fn check_key(store: &dyn LogStore, keys: &KeyRing) -> Result<bool, LogError> {
    let Some(blob) = store.get(names::KEY_CHECK).await? else { return Ok(false) };
    let error = match document::decode::<KeyCheck>(keys, names::KEY_CHECK, &blob.body) {
        Ok(_) => return Ok(true),
        Err(error) => error,
    };
    // A blob that is whole but for its MAC was written with another key; anything else is damage.
    let text = String::from_utf8_lossy(&blob.body);
    let Some((line, body)) = text.split_once('\n') else { return Err(error) };
    let version = line.split(' ').find_map(|word| word.strip_prefix("key=")).and_then(|version| version.parse().ok());
    match version {
        Some(version) if matches!(error, LogError::Damaged { .. }) && serde_json::from_str::<KeyCheck>(body).is_ok() => {
            Err(LogError::WrongKey { version })
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blocklog::{clock::SystemClock, keys::Secret as Key, store::When, store::memory::MemoryStore};

    use super::*;

    fn ring(byte: u8) -> KeyRing {
        KeyRing::single(1, Key::new([byte; 32]))
    }

    #[tokio::test]
    async fn a_wrong_key_is_told_from_damage() {
        let store = MemoryStore::new(Arc::new(SystemClock::new()));
        assert_eq!(check_key(&store, &ring(1)).await, Ok(false));
        let check = KeyCheck { since: jiff::Timestamp::UNIX_EPOCH };
        document::write_new(&store, &ring(1), names::KEY_CHECK, &check).await.unwrap();
        assert_eq!(check_key(&store, &ring(1)).await, Ok(true));
        assert_eq!(check_key(&store, &ring(2)).await, Err(LogError::WrongKey { version: 1 }));
        let later = KeyRing::single(2, Key::new([1; 32]));
        assert_eq!(check_key(&store, &later).await.unwrap_err().reason(), "KeyVersionMissing");
        let mut bytes = store.get(names::KEY_CHECK).await.unwrap().unwrap().body.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        store.put(names::KEY_CHECK, bytes.into(), When::Always, None).await.unwrap();
        assert_eq!(check_key(&store, &ring(1)).await.unwrap_err().reason(), "BlobDamaged");
    }
}
