//! Documents: ledger, state, manifest, order, receipt, setback, fingerprint index, key check.
//!
//! A document is one line and a JSON text:
//!
//! ```text
//! hawser/1 ledger key=2 mac=5f…e1
//! {"vm":{…},…}
//! ```
//!
//! The format version stands first, so that a later version can be refused before anything else is read. The MAC (keyed BLAKE3, under a key
//! derived from the named version of the wrapping key) covers kind, blob name and text: a document can be neither changed nor put in the
//! place of another. What it cannot tell is an older version of the same blob; that is what turn, basis and incarnation are for.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::LogError,
    ids::Digest,
    keys::KeyRing,
    store::{LogStore, When},
};

/// The version of the format that this code writes, and the only one that it reads.
pub const FORMAT: u32 = 1;

/// The largest document that is read: 256 MiB, a manifest of some 1.8 million segments.
pub const MAX_DOCUMENT: usize = 256 << 20;

const CONTEXT: &str = "hawser v1 document mac";

/// A kind of document.
pub trait Document: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync {
    /// Its word in the first line.
    const KIND: &'static str;
}

/// The bytes of a document for the blob `name`.
///
/// # Errors
/// [`LogError::Damaged`] where it would be larger than [`MAX_DOCUMENT`]. ([`LogError::KeyMissing`] cannot happen: a key ring holds the version
/// that it writes with.)
pub fn encode<D: Document>(keys: &KeyRing, name: &str, document: &D) -> Result<Bytes, LogError> {
    encode_within(keys, name, document, MAX_DOCUMENT)
}

/// [`encode`] with another limit.
fn encode_within<D: Document>(keys: &KeyRing, name: &str, document: &D, limit: usize) -> Result<Bytes, LogError> {
    let version = keys.current();
    let body = serde_json::to_vec(document).map_err(|error| LogError::damaged(name, format!("it cannot be written: {error}")))?;
    let mac = keys.derived(version, CONTEXT, name)?.mac(&[D::KIND.as_bytes(), name.as_bytes(), &body]);
    let mut out = format!("hawser/{FORMAT} {} key={version} mac={}\n", D::KIND, mac.to_hex()).into_bytes();
    out.extend_from_slice(&body);
    // What no reader takes must not be written: the cycle would wait for ever for a manifest that is there.
    if out.len() > limit {
        return Err(LogError::damaged(name, format!("it would have {} bytes, more than the {limit} of the largest document", out.len())));
    }
    Ok(out.into())
}

/// The document that `bytes` of the blob `name` hold.
///
/// # Errors
/// [`LogError::UnknownVersion`], [`LogError::KeyMissing`], and [`LogError::Damaged`] for everything else that is not as it was written.
pub fn decode<D: Document>(keys: &KeyRing, name: &str, bytes: &[u8]) -> Result<D, LogError> {
    let (head, body) = split::<D>(name, bytes)?;
    let key = keys.derived(head.key, CONTEXT, name)?;
    // `blake3::Hash` compares in constant time.
    if key.mac(&[D::KIND.as_bytes(), name.as_bytes(), body]) != head.mac {
        return Err(LogError::damaged(name, "its MAC does not fit: changed, put in another's place, or written with another key"));
    }
    parse(name, body)
}

/// The text of a document, once its MAC is known to fit. Its memory is bounded by a small multiple of the text's length: no field of any
/// document gives a length that is allocated before its content is there.
pub(crate) fn parse<D: Document>(name: &str, body: &[u8]) -> Result<D, LogError> {
    serde_json::from_slice(body).map_err(|error| LogError::damaged(name, format!("its text is not a {}: {error}", D::KIND)))
}

struct Head {
    key: u32,
    mac: blake3::Hash,
}

fn split<'a, D: Document>(name: &str, bytes: &'a [u8]) -> Result<(Head, &'a [u8]), LogError> {
    let bad = |what: &str| LogError::damaged(name, what);
    if bytes.len() > MAX_DOCUMENT {
        return Err(bad("it is larger than any document"));
    }
    // The longest first line: two numbers, a kind and a MAC.
    let end = bytes.iter().take(160).position(|b| *b == b'\n').ok_or_else(|| bad("it has no first line"))?;
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| bad("its first line is not text"))?;
    let mut words = line.split(' ');
    let version = words.next().and_then(|w| w.strip_prefix("hawser/")).ok_or_else(|| bad("it is not a document of Hawser"))?;
    if version != FORMAT.to_string() {
        return Err(LogError::UnknownVersion { name: name.to_owned(), found: version.to_owned(), known: FORMAT });
    }
    if words.next() != Some(D::KIND) {
        return Err(bad(&format!("it is not a {}", D::KIND)));
    }
    let key = words.next().and_then(|w| w.strip_prefix("key=")).and_then(|w| w.parse().ok()).ok_or_else(|| bad("its key version"))?;
    let mac =
        words.next().and_then(|w| w.strip_prefix("mac=")).and_then(|w| blake3::Hash::from_hex(w).ok()).ok_or_else(|| bad("its MAC"))?;
    let head = Head { key, mac };
    // One way to write each document: another spelling of the same line (a plus sign, upper case) is a changed byte.
    if line != format!("hawser/{FORMAT} {} key={} mac={}", D::KIND, head.key, head.mac.to_hex()) {
        return Err(bad("its first line is not written as Hawser writes it"));
    }
    Ok((head, &bytes[end + 1..]))
}

/// Reads the document `name`, or `None` where there is none. The digest is that of the blob's bytes.
///
/// # Errors
/// As [`decode`], and the store's.
pub async fn read<D: Document>(store: &dyn LogStore, keys: &KeyRing, name: &str) -> Result<Option<(D, Digest)>, LogError> {
    match store.get(name).await? {
        Some(blob) => Ok(Some((decode(keys, name, &blob.body)?, Digest::of(&blob.body)))),
        None => Ok(None),
    }
}

/// Reads a document that has to be there.
///
/// # Errors
/// As [`read`], and [`LogError::Missing`].
pub async fn require<D: Document>(store: &dyn LogStore, keys: &KeyRing, name: &str) -> Result<(D, Digest), LogError> {
    read(store, keys, name).await?.ok_or_else(|| LogError::Missing(name.to_owned()))
}

/// Writes a document that nobody else may have written. Where the answer to the write was lost, or the store repeated it, the blob that
/// exists is ours if its bytes are.
///
/// # Errors
/// The store's; [`crate::store::StoreError::Exists`] where another's stands there.
pub async fn write_new<D: Document>(store: &dyn LogStore, keys: &KeyRing, name: &str, document: &D) -> Result<Digest, LogError> {
    let bytes = encode(keys, name, document)?;
    let digest = Digest::of(&bytes);
    put_new(store, name, bytes).await?;
    Ok(digest)
}

/// Writes a blob that nobody else may have written, as [`write_new`] does.
///
/// # Errors
/// As [`write_new`].
pub async fn put_new(store: &dyn LogStore, name: &str, bytes: Bytes) -> Result<(), LogError> {
    let Err(error) = store.put(name, bytes.clone(), When::Absent, None).await else { return Ok(()) };
    let ours = (error.in_doubt() || matches!(error, crate::store::StoreError::Exists(_)))
        && store.get(name).await.is_ok_and(|found| found.is_some_and(|blob| blob.body == bytes));
    if ours { Ok(()) } else { Err(error.into()) }
}

#[cfg(test)]
mod tests;
