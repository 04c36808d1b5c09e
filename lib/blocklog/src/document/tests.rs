use std::{fmt::Debug, sync::Arc};

use serde_json::Value;

use super::*;
use crate::{
    cycle::{KeyCheck, Manifest, Order, Receipt, State},
    fingerprints::Index,
    fixtures::{self, key_check, keys, manifest, order, receipt, secret, state},
    ledger::Ledger,
    store::{StoreError, memory::MemoryStore},
    test_support::ManualClock,
};

const NAME: &str = "v1/a/document";

/// The bytes of a document with a text of our own under a MAC that fits.
fn signed<D: Document>(body: &[u8]) -> Vec<u8> {
    let mac = keys().derived(2, CONTEXT, NAME).unwrap().mac(&[D::KIND.as_bytes(), NAME.as_bytes(), body]);
    [format!("hawser/1 {} key=2 mac={}\n", D::KIND, mac.to_hex()).as_bytes(), body].concat()
}

/// Puts a field that nobody knows into each object in turn; gives the text of each.
fn with_unknown_field(value: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    if let Value::Object(fields) = value {
        let mut more = fields.clone();
        more.insert("zzz".into(), Value::Null);
        out.push(Value::Object(more));
        for (key, field) in fields {
            for changed in with_unknown_field(field) {
                let mut fields = fields.clone();
                fields.insert(key.clone(), changed);
                out.push(Value::Object(fields));
            }
        }
    }
    if let Value::Array(items) = value {
        for (i, item) in items.iter().enumerate() {
            for changed in with_unknown_field(item) {
                let mut items = items.clone();
                items[i] = changed;
                out.push(Value::Array(items));
            }
        }
    }
    out
}

fn damaged<D: Document + Debug>(found: Result<D, LogError>, what: &str) {
    assert!(matches!(found, Err(LogError::Damaged { .. })), "{} {what}: {found:?}", D::KIND);
}

/// Everything that holds for every kind of document.
fn holds<D: Document + Debug, Other: Document + Debug>(document: &D) {
    let keys = keys();
    let bytes = encode(&keys, NAME, document).unwrap();
    assert_eq!(decode::<D>(&keys, NAME, &bytes).unwrap(), *document);
    assert_eq!(encode(&keys, NAME, document).unwrap(), bytes, "the same document is the same bytes");
    assert!(bytes.starts_with(format!("hawser/1 {} key=2 mac=", D::KIND).as_bytes()));

    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << bit;
            let found = decode::<D>(&keys, NAME, &changed);
            assert!(found.is_err(), "{} byte {at} bit {bit}", D::KIND);
        }
        damaged(decode::<D>(&keys, NAME, &bytes[..at]), "cut short");
    }
    damaged(decode::<D>(&keys, NAME, &[&bytes, b" ".as_slice()].concat()), "with a blank more");
    damaged(decode::<D>(&keys, "v1/b/document", &bytes), "of another name");
    damaged(decode::<Other>(&keys, NAME, &bytes), "of another kind");

    let (line, body) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1);
    let line = std::str::from_utf8(line).unwrap();
    let renamed = line.replace(D::KIND, Other::KIND);
    damaged(decode::<Other>(&keys, NAME, &[renamed.as_bytes(), body].concat()), "that calls itself another kind");
    for (from, to) in [("key=2", "key=+2"), ("key=2", "key=02"), ("mac=", "mac= "), (" key", "  key"), ("\n", " \n"), ("\n", "\r\n")] {
        damaged(decode::<D>(&keys, NAME, &[line.replace(from, to).as_bytes(), body].concat()), "in another spelling");
    }
    for version in ["2", "01", "", "x"] {
        let found = decode::<D>(&keys, NAME, &[line.replace("hawser/1", &format!("hawser/{version}")).as_bytes(), body].concat());
        assert_eq!(found, Err(LogError::UnknownVersion { name: NAME.into(), found: version.into(), known: 1 }));
    }
    let found = decode::<D>(&keys, NAME, &[line.replace("key=2", "key=3").as_bytes(), body].concat());
    assert_eq!(found, Err(LogError::KeyMissing { name: NAME.into(), version: 3 }));
    damaged(decode::<D>(&KeyRing::single(2, secret(9)), NAME, &bytes), "read with another key");

    let value: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(decode::<D>(&keys, NAME, &signed::<D>(&serde_json::to_vec(&value).unwrap())).unwrap(), *document);
    let changed = with_unknown_field(&value);
    assert!(!changed.is_empty());
    for value in changed {
        damaged(decode::<D>(&keys, NAME, &signed::<D>(&serde_json::to_vec(&value).unwrap())), &value.to_string());
    }
    damaged(decode::<D>(&keys, NAME, &signed::<D>(b"")), "without a text");
    damaged(decode::<D>(&keys, NAME, &signed::<D>(&[body, b"{}".as_slice()].concat())), "with two texts");
}

#[test]
fn state_is_a_document() {
    holds::<State, Manifest>(&state());
}

#[test]
fn manifest_is_a_document() {
    holds::<Manifest, State>(&manifest(3, 4));
}

#[test]
fn order_is_a_document() {
    holds::<Order, Receipt>(&order());
}

#[test]
fn receipt_is_a_document() {
    holds::<Receipt, Order>(&receipt());
}

#[test]
fn ledger_is_a_document() {
    holds::<Ledger, KeyCheck>(&fixtures::full_ledger());
}

#[test]
fn index_is_a_document() {
    holds::<Index, KeyCheck>(&crate::fingerprints::tests::example());
}

#[test]
fn setback_is_a_document() {
    holds::<crate::setback::Setback, KeyCheck>(&fixtures::setback());
}

#[test]
fn key_check_is_a_document() {
    holds::<KeyCheck, Ledger>(&key_check());
}

#[test]
fn an_old_version_of_the_key_still_reads_and_the_new_one_writes() {
    let old = KeyRing::parse(&format!("1 {}", "11".repeat(32))).unwrap();
    let bytes = encode(&old, NAME, &key_check()).unwrap();
    assert!(bytes.starts_with(b"hawser/1 keycheck key=1 "));
    assert_eq!(decode::<KeyCheck>(&keys(), NAME, &bytes).unwrap(), key_check());
    let bytes = encode(&keys(), NAME, &key_check()).unwrap();
    assert_eq!(decode::<KeyCheck>(&old, NAME, &bytes), Err(LogError::KeyMissing { name: NAME.into(), version: 2 }));
}

#[test]
fn what_no_reader_takes_is_not_written() {
    let length = encode(&keys(), NAME, &key_check()).unwrap().len();
    assert!(encode_within(&keys(), NAME, &key_check(), length).is_ok());
    assert!(matches!(encode_within(&keys(), NAME, &key_check(), length - 1), Err(LogError::Damaged { .. })));
    damaged(decode::<KeyCheck>(&keys(), NAME, &vec![b'x'; MAX_DOCUMENT + 1]), "larger than any");
}

#[test]
fn a_text_without_end_or_bottom_is_refused() {
    for body in ["[".repeat(1 << 16), "{\"of\":".repeat(1 << 16), "9".repeat(1 << 16), "\"".repeat(3)] {
        damaged(decode::<Manifest>(&keys(), NAME, &signed::<Manifest>(body.as_bytes())), "nested");
    }
}

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(Arc::new(ManualClock::new())))
}

#[tokio::test]
async fn documents_are_read_with_the_digest_of_their_bytes() {
    let (store, keys) = (store(), keys());
    assert_eq!(read::<Ledger>(store.as_ref(), &keys, NAME).await, Ok(None));
    assert_eq!(require::<Ledger>(store.as_ref(), &keys, NAME).await, Err(LogError::Missing(NAME.into())));
    let written = write_new(store.as_ref(), &keys, NAME, &fixtures::full_ledger()).await.unwrap();
    assert_eq!(written, Digest::of(&store.peek(NAME).unwrap()));
    assert_eq!(require::<Ledger>(store.as_ref(), &keys, NAME).await, Ok((fixtures::full_ledger(), written)));
    store.corrupt(NAME, |bytes| bytes[200] ^= 1);
    assert!(matches!(read::<Ledger>(store.as_ref(), &keys, NAME).await, Err(LogError::Damaged { .. })));
}

#[tokio::test]
async fn a_new_document_may_be_written_twice_but_not_over_another() {
    let (store, keys) = (store(), keys());
    let first = write_new(store.as_ref(), &keys, NAME, &receipt()).await.unwrap();
    assert_eq!(write_new(store.as_ref(), &keys, NAME, &receipt()).await, Ok(first));
    let found = write_new(store.as_ref(), &keys, NAME, &key_check()).await;
    assert_eq!(found, Err(LogError::Store(StoreError::Exists(NAME.into()))));
    assert_eq!(Digest::of(&store.peek(NAME).unwrap()), first);
}

#[tokio::test]
async fn a_document_whose_answer_was_lost_is_ours_if_its_bytes_are() {
    use crate::test_support::{Fault, Faulty, Op};
    for (fault, done) in [(Fault::AnswerLost, true), (Fault::Repeated, true), (Fault::Dropped, false)] {
        let faulty = Faulty::new(store());
        faulty.script([(Op::Put, fault)]);
        let found = write_new(faulty.as_ref(), &keys(), NAME, &receipt()).await;
        assert_eq!(found.is_ok(), done, "{fault:?}");
        if let Err(LogError::Store(error)) = found {
            assert!(error.in_doubt());
        }
        // Trying again is always right.
        assert!(write_new(faulty.as_ref(), &keys(), NAME, &receipt()).await.is_ok());
    }
}
