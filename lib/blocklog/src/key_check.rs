//! Whether a key is the log store's: told in a second, before anything else is read.

use crate::{LogError, cycle::KeyCheck, document, keys::KeyRing, names, store::LogStore};

/// True where the key is the log store's; false where the store has no key-check blob yet.
///
/// # Errors
/// [`LogError::WrongKey`], [`LogError::KeyMissing`], and those of reading it.
pub async fn verify(store: &dyn LogStore, keys: &KeyRing) -> Result<bool, LogError> {
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
    use reasons::Reason;

    use std::sync::Arc;

    use super::*;
    use crate::{clock::SystemClock, keys::Secret as Key, store::When, store::memory::MemoryStore};

    fn ring(byte: u8) -> KeyRing {
        KeyRing::single(1, Key::new([byte; 32]))
    }

    #[tokio::test]
    async fn a_wrong_key_is_told_from_damage() {
        let store = MemoryStore::new(Arc::new(SystemClock::new()));
        assert_eq!(verify(&store, &ring(1)).await, Ok(false));
        let check = KeyCheck { since: jiff::Timestamp::UNIX_EPOCH };
        document::write_new(&store, &ring(1), names::KEY_CHECK, &check).await.unwrap();
        assert_eq!(verify(&store, &ring(1)).await, Ok(true));
        assert_eq!(verify(&store, &ring(2)).await, Err(LogError::WrongKey { version: 1 }));
        let later = KeyRing::single(2, Key::new([1; 32]));
        assert_eq!(verify(&store, &later).await.unwrap_err().reason(), Reason::KeyVersionMissing);
        let mut bytes = store.get(names::KEY_CHECK).await.unwrap().unwrap().body.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        store.put(names::KEY_CHECK, bytes.into(), When::Always, None).await.unwrap();
        assert_eq!(verify(&store, &ring(1)).await.unwrap_err().reason(), Reason::BlobDamaged);
    }
}
