//! What every log store must do, as one suite that runs against each: [`conformance!`] makes the tests of one store from a function that
//! makes the store.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use uuid::Uuid;

use super::{ETag, LeaseId, Listed, LogStore, MAX_PART, StoreError, When};

/// Lets time pass.
pub(super) type Pass = Box<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A store to be tested, empty.
pub(super) struct Subject {
    /// One way to it.
    pub store: Arc<dyn LogStore>,
    /// Another way to the same blobs, where the store has such; else the same.
    pub other: Arc<dyn LogStore>,
    /// How long its leases hold.
    pub lease: Duration,
    /// Lets time pass.
    pub pass: Pass,
    /// What has to live as long as the store.
    pub _keep: Box<dyn std::any::Any + Send + Sync>,
}

/// Makes a test of each of the suite's functions. The argument is a path to an `async fn() -> Subject`.
macro_rules! conformance {
    ($subject:path) => {
        $crate::store::conformance::conformance!($subject;
            absent, versions, put_absent, put_matching, put_always, names, ranges, staged_parts_are_unseen, commit_once, commit_needs_all_parts,
            parts_in_any_order, parts_staged_again, parts_of_many_pieces, large_blob, parts_have_a_limit, listing, race_to_create, race_to_change,
            race_to_commit, lease_needs_a_blob, lease_guards_writes, lease_that_is_not_held, lease_comes_before_conditions, lease_of_another,
            lease_given_back, lease_broken, lease_is_no_change, lease_dies_with_its_blob, lease_runs_out);
    };
    ($subject:path; $($test:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $crate::store::conformance::$test($subject().await).await;
            }
        )+
    };
}
pub(super) use conformance;

const NAME: &str = "v1/some/blob";

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn id() -> LeaseId {
    LeaseId(Uuid::new_v4())
}

/// `length` bytes that tell their place.
fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect::<Vec<_>>().into()
}

async fn body(store: &dyn LogStore, name: &str) -> Option<Bytes> {
    store.get(name).await.unwrap().map(|blob| blob.body)
}

async fn put(store: &dyn LogStore, name: &str, text: &str) -> ETag {
    store.put(name, bytes(text), When::Always, None).await.unwrap()
}

async fn names_of(store: &dyn LogStore, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|listed| listed.name).collect()
}

fn not_found() -> StoreError {
    StoreError::NotFound(NAME.to_owned())
}
fn exists() -> StoreError {
    StoreError::Exists(NAME.to_owned())
}
fn changed() -> StoreError {
    StoreError::Changed(NAME.to_owned())
}
fn leased() -> StoreError {
    StoreError::Leased(NAME.to_owned())
}
fn lost() -> StoreError {
    StoreError::LeaseLost(NAME.to_owned())
}

pub(super) async fn absent(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(body(store, NAME).await, None);
    assert_eq!(store.get_range(NAME, 0..1).await.unwrap_err(), not_found());
    assert_eq!(store.delete(NAME, None).await, Ok(false));
    assert_eq!(store.delete(NAME, Some(id())).await, Ok(false));
    assert_eq!(store.list("").await.unwrap(), []);
}

pub(super) async fn versions(subject: Subject) {
    let (store, other) = (&*subject.store, &*subject.other);
    let mut seen = Vec::new();
    for round in 0..20 {
        // The same bytes make another version, and so does a blob that comes back.
        let etag = put(store, NAME, "same").await;
        assert!(!seen.contains(&etag), "{etag:?} was there already");
        let blob = other.get(NAME).await.unwrap().unwrap();
        assert_eq!((&blob.etag, &*blob.body), (&etag, &b"same"[..]));
        assert_eq!(store.get(NAME).await.unwrap().unwrap().etag, etag, "reading changes nothing");
        seen.push(etag);
        if round % 4 == 3 {
            assert_eq!(other.delete(NAME, None).await, Ok(true));
            assert_eq!(body(store, NAME).await, None);
        }
    }
}

pub(super) async fn put_absent(subject: Subject) {
    let store = &*subject.store;
    let etag = store.put(NAME, bytes("first"), When::Absent, None).await.unwrap();
    for text in ["first", "second"] {
        assert_eq!(store.put(NAME, bytes(text), When::Absent, None).await.unwrap_err(), exists());
    }
    let blob = store.get(NAME).await.unwrap().unwrap();
    assert_eq!((blob.etag, &*blob.body), (etag, &b"first"[..]));
    // The way back: an empty body is a blob too.
    assert_eq!(store.delete(NAME, None).await, Ok(true));
    store.put(NAME, Bytes::new(), When::Absent, None).await.unwrap();
    assert_eq!(body(store, NAME).await.as_deref(), Some(&b""[..]));
}

pub(super) async fn put_matching(subject: Subject) {
    let store = &*subject.store;
    let first = put(store, NAME, "first").await;
    let second = store.put(NAME, bytes("second"), When::Matches(first.clone()), None).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(store.put(NAME, bytes("third"), When::Matches(first.clone()), None).await.unwrap_err(), changed());
    assert_eq!(body(store, NAME).await.as_deref(), Some(&b"second"[..]));
    // A blob that is gone has changed, and one that came back with the same bytes is another.
    store.delete(NAME, None).await.unwrap();
    assert_eq!(store.put(NAME, bytes("third"), When::Matches(second.clone()), None).await.unwrap_err(), changed());
    assert_eq!(body(store, NAME).await, None);
    put(store, NAME, "second").await;
    assert_eq!(store.put(NAME, bytes("third"), When::Matches(second), None).await.unwrap_err(), changed());
}

pub(super) async fn put_always(subject: Subject) {
    let store = &*subject.store;
    for text in ["a long first text", "short", ""] {
        put(store, NAME, text).await;
        assert_eq!(body(store, NAME).await.as_deref(), Some(text.as_bytes()));
    }
}

pub(super) async fn names(subject: Subject) {
    let store = &*subject.store;
    for name in ["v1/0a-B_c.d/e=f,g@h+i(j)~k!l'm&n;o$p[q]r^s", "v1/%41", "v1/a b"] {
        let result = store.put(name, bytes(name), When::Absent, None).await;
        if name.contains(['%', ' ']) {
            assert!(matches!(result, Err(StoreError::Failed(_))), "{name}: {result:?}");
        } else {
            result.unwrap();
            assert_eq!(body(store, name).await.as_deref(), Some(name.as_bytes()));
            assert_eq!(names_of(store, "v1/").await, [name]);
        }
    }
    for name in ["", "/a", "a/", "a//b", "a/../b", "a/./b", ".lock", "a/.b"] {
        let failed = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Failed(_))), "{name:?}: {result:?}");
        failed(store.get(name).await.map(drop));
        failed(store.get_range(name, 0..0).await.map(drop));
        failed(store.put(name, bytes("x"), When::Always, None).await.map(drop));
        failed(store.stage(name, 0, vec![]).await);
        failed(store.commit(name, 1).await);
        failed(store.delete(name, None).await.map(drop));
        failed(store.acquire(name, id()).await);
        failed(store.renew(name, id()).await);
        failed(store.release(name, id()).await);
        failed(store.break_lease(name).await);
    }
    for prefix in ["/", "../", "a//"] {
        assert!(matches!(store.list(prefix).await, Err(StoreError::Failed(_))), "{prefix:?}");
    }
}

pub(super) async fn ranges(subject: Subject) {
    let store = &*subject.store;
    put(store, NAME, "0123456789").await;
    for range in [0..10, 0..1, 9..10, 3..7, 0..0, 4..4, 10..10] {
        let text = &b"0123456789"[range.start as usize..range.end as usize];
        assert_eq!(store.get_range(NAME, range.clone()).await.unwrap(), text, "{range:?}");
    }
    #[allow(clippy::reversed_empty_ranges, reason = "it is what is refused")]
    for range in [0..11, 9..11, 10..11, 11..12, 11..11, 100..200, 5..4, 0..u64::MAX] {
        let result = store.get_range(NAME, range.clone()).await;
        assert!(matches!(result, Err(StoreError::Failed(_))), "{range:?}: {result:?}");
    }
    put(store, NAME, "").await;
    assert_eq!(store.get_range(NAME, 0..0).await.unwrap(), "");
}

pub(super) async fn staged_parts_are_unseen(subject: Subject) {
    let store = &*subject.store;
    store.stage(NAME, 0, vec![bytes("one "), bytes("two ")]).await.unwrap();
    store.stage(NAME, 1, vec![bytes("three")]).await.unwrap();
    for seer in [&subject.store, &subject.other] {
        assert_eq!(body(&**seer, NAME).await, None);
        assert_eq!(seer.get_range(NAME, 0..1).await.unwrap_err(), not_found());
        assert_eq!(seer.list("").await.unwrap(), []);
    }
    store.commit(NAME, 2).await.unwrap();
    for seer in [&subject.store, &subject.other] {
        assert_eq!(body(&**seer, NAME).await.as_deref(), Some(&b"one two three"[..]));
        assert_eq!(seer.list("").await.unwrap(), [Listed { name: NAME.to_owned(), size: 13 }]);
    }
}

pub(super) async fn commit_once(subject: Subject) {
    let store = &*subject.store;
    put(store, NAME, "there").await;
    store.stage(NAME, 0, vec![bytes("other")]).await.unwrap();
    assert_eq!(store.commit(NAME, 1).await.unwrap_err(), exists());
    assert_eq!(body(store, NAME).await.as_deref(), Some(&b"there"[..]));

    let name = "v1/some/other";
    store.stage(name, 0, vec![bytes("bytes")]).await.unwrap();
    store.commit(name, 1).await.unwrap();
    assert_eq!(store.commit(name, 1).await.unwrap_err(), StoreError::Exists(name.to_owned()));
    store.stage(name, 0, vec![bytes("other")]).await.unwrap();
    assert_eq!(store.commit(name, 1).await.unwrap_err(), StoreError::Exists(name.to_owned()));
    assert_eq!(body(store, name).await.as_deref(), Some(&b"bytes"[..]));
    // What a commit made is a blob like any other.
    let etag = store.get(name).await.unwrap().unwrap().etag;
    store.put(name, bytes("put"), When::Matches(etag), None).await.unwrap();
    assert_eq!(store.delete(name, None).await, Ok(true));
}

pub(super) async fn commit_needs_all_parts(subject: Subject) {
    let store = &*subject.store;
    assert!(matches!(store.commit(NAME, 1).await, Err(StoreError::Failed(_))), "nothing was staged");
    store.stage(NAME, 0, vec![bytes("zero ")]).await.unwrap();
    store.stage(NAME, 2, vec![bytes("two")]).await.unwrap();
    assert!(matches!(store.commit(NAME, 3).await, Err(StoreError::Failed(_))), "part 1 is missing");
    assert_eq!(body(store, NAME).await, None);
    assert_eq!(names_of(store, "").await, [""; 0]);
    // Nothing was lost by the refusal.
    store.stage(NAME, 1, vec![bytes("one ")]).await.unwrap();
    store.commit(NAME, 3).await.unwrap();
    assert_eq!(body(store, NAME).await.as_deref(), Some(&b"zero one two"[..]));

    store.commit("v1/empty", 0).await.unwrap();
    assert_eq!(body(store, "v1/empty").await.as_deref(), Some(&b""[..]));
}

pub(super) async fn parts_in_any_order(subject: Subject) {
    let store = &*subject.store;
    // Of one length but for the last, of all lengths, and with lengths that do not fit where the others left room.
    let cases: [(&[usize], &[usize]); 6] = [
        (&[5, 5, 5, 2], &[0, 1, 2, 3]),
        (&[5, 5, 5, 2], &[2, 0, 3, 1]),
        (&[5, 5, 5, 2], &[3, 2, 1, 0]),
        (&[1, 7, 2, 3], &[0, 1, 2, 3]),
        (&[1, 7, 2, 3], &[2, 1, 3, 0]),
        (&[9, 1, 9, 1], &[1, 3, 2, 0]),
    ];
    for (case, (lengths, order)) in cases.into_iter().enumerate() {
        let name = format!("v1/case-{case}");
        let parts: Vec<Bytes> = lengths.iter().enumerate().map(|(part, &length)| pattern(length, part as u64 + 1)).collect();
        for &part in order {
            store.stage(&name, part as u32, vec![parts[part].clone()]).await.unwrap();
        }
        // What is staged beyond what is committed is no part of it.
        store.stage(&name, 4, vec![bytes("beyond")]).await.unwrap();
        store.commit(&name, 4).await.unwrap();
        assert_eq!(body(store, &name).await.unwrap(), parts.concat(), "case {case}");
    }
}

pub(super) async fn parts_staged_again(subject: Subject) {
    let store = &*subject.store;
    for (name, again) in [("v1/equal", "two "), ("v1/other", "2222"), ("v1/longer", "second "), ("v1/shorter", "2 ")] {
        for (part, text) in ["one ", "two ", "three"].into_iter().enumerate() {
            store.stage(name, part as u32, vec![bytes(text)]).await.unwrap();
        }
        store.stage(name, 1, vec![bytes(again)]).await.unwrap();
        store.commit(name, 3).await.unwrap();
        assert_eq!(body(store, name).await.unwrap(), format!("one {again}three"), "{name}");
    }
}

pub(super) async fn parts_of_many_pieces(subject: Subject) {
    let store = &*subject.store;
    // More pieces than one system call takes, empty ones among them.
    let pieces: Vec<Bytes> = (0..3000).map(|piece| pattern(piece % 7, piece as u64)).collect();
    store.stage(NAME, 0, pieces.clone()).await.unwrap();
    store.stage(NAME, 1, vec![bytes("end")]).await.unwrap();
    store.commit(NAME, 2).await.unwrap();
    assert_eq!(body(store, NAME).await.unwrap(), [pieces.concat(), b"end".to_vec()].concat());
}

pub(super) async fn large_blob(subject: Subject) {
    let store = subject.store;
    let whole = pattern(2 * MAX_PART + 12_345, 7);
    let staged = (0..3).map(|part| {
        let (store, from) = (store.clone(), part * MAX_PART);
        let bytes = whole.slice(from..whole.len().min(from + MAX_PART));
        tokio::spawn(async move { store.stage(NAME, part as u32, vec![bytes.slice(..100), bytes.slice(100..)]).await })
    });
    for result in futures::future::join_all(staged).await {
        result.unwrap().unwrap();
    }
    store.commit(NAME, 3).await.unwrap();
    let part = MAX_PART as u64;
    for range in [0..10, part - 5..part + 5, 2 * part - 1..2 * part + 12_345, 1..2 * part + 12_344, 0..2 * part + 12_345] {
        let got = store.get_range(NAME, range.clone()).await.unwrap();
        assert!(got == whole[range.start as usize..range.end as usize], "{range:?}");
    }
    assert!(body(&*store, NAME).await.unwrap() == whole);
    assert!(matches!(store.get_range(NAME, part..2 * part + 12_346).await, Err(StoreError::Failed(_))));
}

pub(super) async fn parts_have_a_limit(subject: Subject) {
    let store = &*subject.store;
    let most = pattern(MAX_PART, 3);
    for pieces in [vec![most.clone(), bytes("x")], vec![], vec![Bytes::new()]] {
        let result = store.stage(NAME, 0, pieces).await;
        assert!(matches!(result, Err(StoreError::Failed(_))), "{result:?}");
    }
    store.stage(NAME, 0, vec![most.clone()]).await.unwrap();
    store.commit(NAME, 1).await.unwrap();
    assert!(body(store, NAME).await.unwrap() == most);
}

pub(super) async fn listing(subject: Subject) {
    let store = &*subject.store;
    let names = ["p/a-1", "p/a/b", "p/a/c/d", "p/a0", "p/b", "pq/x", "q"];
    for name in names.iter().rev() {
        put(store, name, name).await;
    }
    let listed: Vec<Listed> = names.iter().map(|&name| Listed { name: name.to_owned(), size: name.len() as u64 }).collect();
    assert_eq!(store.list("").await.unwrap(), listed);
    for prefix in ["p", "p/", "p/a", "p/a/", "p/a/c", "p/a/c/", "p/a/c/d", "p/a/c/d/", "p/a/x", "q", "qq", "x/y/z"] {
        let expected: Vec<&str> = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(names_of(store, prefix).await, expected, "{prefix}");
    }
    store.delete("p/a/c/d", None).await.unwrap();
    assert_eq!(names_of(&*subject.other, "p/a/").await, ["p/a/b"]);
}

pub(super) async fn race_to_create(subject: Subject) {
    for round in 0..10 {
        let name = format!("v1/race-{round}");
        let racers = [subject.store.clone(), subject.other.clone(), subject.store.clone()].into_iter().enumerate().map(|(racer, store)| {
            let name = name.clone();
            tokio::spawn(async move { store.put(&name, bytes(&racer.to_string()), When::Absent, None).await })
        });
        let results: Vec<_> = futures::future::join_all(racers).await.into_iter().map(Result::unwrap).collect();
        let winners: Vec<usize> = (0..3).filter(|&racer| results[racer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for result in results.into_iter().filter(Result::is_err) {
            assert_eq!(result.unwrap_err(), StoreError::Exists(name.clone()));
        }
        assert_eq!(body(&*subject.store, &name).await.unwrap(), winners[0].to_string());
    }
}

pub(super) async fn race_to_change(subject: Subject) {
    let mut etag = put(&*subject.store, NAME, "start").await;
    for round in 0..10 {
        let racers = [subject.store.clone(), subject.other.clone(), subject.store.clone()].into_iter().enumerate().map(|(racer, store)| {
            let (text, when) = (format!("{round}-{racer}"), When::Matches(etag.clone()));
            tokio::spawn(async move { store.put(NAME, bytes(&text), when, None).await.map(|etag| (etag, text)) })
        });
        let results: Vec<_> = futures::future::join_all(racers).await.into_iter().map(Result::unwrap).collect();
        let mut winner = None;
        for result in results {
            match result {
                Ok(won) => assert!(winner.replace(won).is_none(), "two have won"),
                Err(error) => assert_eq!(error, changed()),
            }
        }
        let (next, text) = winner.expect("one has won");
        let blob = subject.store.get(NAME).await.unwrap().unwrap();
        assert_eq!((&blob.etag, blob.body), (&next, bytes(&text)));
        etag = next;
    }
}

pub(super) async fn race_to_commit(subject: Subject) {
    for round in 0..5 {
        let name = format!("v1/race-{round}");
        let racers = [subject.store.clone(), subject.other.clone()].map(|store| {
            let name = name.clone();
            tokio::spawn(async move {
                store.stage(&name, 0, vec![bytes("one ")]).await.unwrap();
                store.stage(&name, 1, vec![bytes("two")]).await.unwrap();
                store.commit(&name, 2).await
            })
        });
        let results: Vec<_> = futures::future::join_all(racers).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        assert!(results.contains(&Err(StoreError::Exists(name.clone()))), "{results:?}");
        assert_eq!(body(&*subject.store, &name).await.unwrap(), "one two");
    }
}

pub(super) async fn lease_needs_a_blob(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(store.acquire(NAME, id()).await.unwrap_err(), not_found());
    assert_eq!(store.renew(NAME, id()).await.unwrap_err(), not_found());
    assert_eq!(store.release(NAME, id()).await.unwrap_err(), not_found());
    assert_eq!(store.break_lease(NAME).await.unwrap_err(), not_found());
    assert_eq!(body(store, NAME).await, None);
}

pub(super) async fn lease_guards_writes(subject: Subject) {
    let (store, other) = (&*subject.store, &*subject.other);
    let (holder, stranger) = (id(), id());
    put(store, NAME, "start").await;
    store.acquire(NAME, holder).await.unwrap();
    for store in [store, other] {
        assert_eq!(store.put(NAME, bytes("no"), When::Always, None).await.unwrap_err(), leased());
        assert_eq!(store.put(NAME, bytes("no"), When::Always, Some(stranger)).await.unwrap_err(), lost());
        assert_eq!(store.delete(NAME, None).await.unwrap_err(), leased());
        assert_eq!(store.delete(NAME, Some(stranger)).await.unwrap_err(), lost());
        assert_eq!(body(store, NAME).await.as_deref(), Some(&b"start"[..]), "anybody may read");
    }
    // The holder may write, as often as it likes, and the lease stays.
    for text in ["first", "second"] {
        let etag = store.get(NAME).await.unwrap().unwrap().etag;
        store.put(NAME, bytes(text), When::Matches(etag), Some(holder)).await.unwrap();
        assert_eq!(body(other, NAME).await.unwrap(), text);
        assert_eq!(other.put(NAME, bytes("no"), When::Always, None).await.unwrap_err(), leased());
    }
    store.renew(NAME, holder).await.unwrap();
    // Other blobs are free.
    put(other, "v1/some/other", "free").await;
    assert_eq!(store.delete(NAME, Some(holder)).await, Ok(true));
    assert_eq!(body(other, NAME).await, None);
}

pub(super) async fn lease_that_is_not_held(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(store.put(NAME, bytes("no"), When::Always, Some(id())).await.unwrap_err(), lost());
    assert_eq!(store.put(NAME, bytes("no"), When::Absent, Some(id())).await.unwrap_err(), lost());
    assert_eq!(body(store, NAME).await, None);
    let etag = put(store, NAME, "start").await;
    assert_eq!(store.put(NAME, bytes("no"), When::Always, Some(id())).await.unwrap_err(), lost());
    assert_eq!(store.put(NAME, bytes("no"), When::Matches(etag), Some(id())).await.unwrap_err(), lost());
    assert_eq!(store.delete(NAME, Some(id())).await.unwrap_err(), lost());
    assert_eq!(store.renew(NAME, id()).await.unwrap_err(), lost());
    assert_eq!(store.release(NAME, id()).await.unwrap_err(), lost());
    assert_eq!(store.break_lease(NAME).await, Ok(()), "there is none to break");
    assert_eq!(body(store, NAME).await.as_deref(), Some(&b"start"[..]));
}

pub(super) async fn lease_comes_before_conditions(subject: Subject) {
    let store = &*subject.store;
    let stale = put(store, NAME, "first").await;
    let etag = put(store, NAME, "second").await;
    assert_eq!(store.put(NAME, bytes("no"), When::Absent, Some(id())).await.unwrap_err(), lost());
    assert_eq!(store.put(NAME, bytes("no"), When::Matches(stale.clone()), Some(id())).await.unwrap_err(), lost());
    let holder = id();
    store.acquire(NAME, holder).await.unwrap();
    for when in [When::Absent, When::Matches(stale.clone()), When::Matches(etag.clone())] {
        assert_eq!(store.put(NAME, bytes("no"), when.clone(), None).await.unwrap_err(), leased(), "{when:?}");
        assert_eq!(store.put(NAME, bytes("no"), when, Some(id())).await.unwrap_err(), lost());
    }
    assert_eq!(store.put(NAME, bytes("no"), When::Absent, Some(holder)).await.unwrap_err(), exists());
    assert_eq!(store.put(NAME, bytes("no"), When::Matches(stale), Some(holder)).await.unwrap_err(), changed());
    store.put(NAME, bytes("yes"), When::Matches(etag), Some(holder)).await.unwrap();
    // A commit never replaces, so whether the blob is leased makes no difference.
    assert_eq!(store.commit(NAME, 1).await.unwrap_err(), exists());
    assert_eq!(body(store, NAME).await.as_deref(), Some(&b"yes"[..]));
}

pub(super) async fn lease_of_another(subject: Subject) {
    let (store, other) = (&*subject.store, &*subject.other);
    let (holder, stranger) = (id(), id());
    put(store, NAME, "start").await;
    store.acquire(NAME, holder).await.unwrap();
    store.acquire(NAME, holder).await.expect("the holder asks again");
    assert_eq!(other.acquire(NAME, stranger).await.unwrap_err(), leased());
    assert_eq!(other.renew(NAME, stranger).await.unwrap_err(), lost());
    assert_eq!(other.release(NAME, stranger).await.unwrap_err(), lost());
    // None of that touched the lease.
    store.renew(NAME, holder).await.unwrap();
    store.put(NAME, bytes("mine"), When::Always, Some(holder)).await.unwrap();
    // One of two wins.
    store.release(NAME, holder).await.unwrap();
    let results = tokio::join!(store.acquire(NAME, holder), other.acquire(NAME, stranger));
    assert!(matches!(&results, (Ok(()), Err(error)) | (Err(error), Ok(())) if *error == leased()), "{results:?}");
}

pub(super) async fn lease_given_back(subject: Subject) {
    let (store, other) = (&*subject.store, &*subject.other);
    let holder = id();
    put(store, NAME, "start").await;
    store.acquire(NAME, holder).await.unwrap();
    store.release(NAME, holder).await.unwrap();
    assert_eq!(store.release(NAME, holder).await.unwrap_err(), lost());
    assert_eq!(store.renew(NAME, holder).await.unwrap_err(), lost());
    assert_eq!(store.put(NAME, bytes("no"), When::Always, Some(holder)).await.unwrap_err(), lost());
    put(other, NAME, "free").await;
    other.acquire(NAME, id()).await.unwrap();
    assert_eq!(store.acquire(NAME, holder).await.unwrap_err(), leased());
}

pub(super) async fn lease_broken(subject: Subject) {
    let (store, other) = (&*subject.store, &*subject.other);
    let (holder, stranger) = (id(), id());
    put(store, NAME, "start").await;
    store.acquire(NAME, holder).await.unwrap();
    other.break_lease(NAME).await.unwrap();
    other.break_lease(NAME).await.expect("broken already");
    assert_eq!(store.put(NAME, bytes("no"), When::Always, Some(holder)).await.unwrap_err(), lost());
    assert_eq!(store.renew(NAME, holder).await.unwrap_err(), lost());
    assert_eq!(store.delete(NAME, Some(holder)).await.unwrap_err(), lost());
    other.acquire(NAME, stranger).await.unwrap();
    assert_eq!(store.acquire(NAME, holder).await.unwrap_err(), leased());
    assert_eq!(store.release(NAME, holder).await.unwrap_err(), lost());
    other.put(NAME, bytes("taken"), When::Always, Some(stranger)).await.unwrap();
    // A broken lease leaves the blob open for a write without one, and for its holder to take it anew.
    other.break_lease(NAME).await.unwrap();
    put(store, NAME, "open").await;
    assert_eq!(other.renew(NAME, stranger).await.unwrap_err(), lost());
    store.acquire(NAME, holder).await.unwrap();
    other.break_lease(NAME).await.unwrap();
    store.acquire(NAME, holder).await.unwrap();
    store.put(NAME, bytes("again"), When::Always, Some(holder)).await.unwrap();
    // Giving back what was broken says that nobody has it now.
    other.break_lease(NAME).await.unwrap();
    store.release(NAME, holder).await.unwrap();
    assert_eq!(store.release(NAME, holder).await.unwrap_err(), lost());
}

pub(super) async fn lease_is_no_change(subject: Subject) {
    let store = &*subject.store;
    let holder = id();
    let etag = put(store, NAME, "start").await;
    store.acquire(NAME, holder).await.unwrap();
    store.renew(NAME, holder).await.unwrap();
    assert_eq!(store.get(NAME).await.unwrap().unwrap().etag, etag);
    store.break_lease(NAME).await.unwrap();
    store.acquire(NAME, holder).await.unwrap();
    store.release(NAME, holder).await.unwrap();
    store.put(NAME, bytes("next"), When::Matches(etag), None).await.unwrap();
}

pub(super) async fn lease_dies_with_its_blob(subject: Subject) {
    let store = &*subject.store;
    let holder = id();
    put(store, NAME, "start").await;
    store.acquire(NAME, holder).await.unwrap();
    assert_eq!(store.delete(NAME, Some(holder)).await, Ok(true));
    assert_eq!(store.renew(NAME, holder).await.unwrap_err(), not_found());
    put(store, NAME, "another").await;
    assert_eq!(store.renew(NAME, holder).await.unwrap_err(), lost());
    assert_eq!(store.put(NAME, bytes("no"), When::Always, Some(holder)).await.unwrap_err(), lost());
    store.acquire(NAME, id()).await.unwrap();
}

/// One test with several blobs, so that a store with real time waits but once.
pub(super) async fn lease_runs_out(subject: Subject) {
    let (store, other) = (&*subject.store, &*subject.other);
    let (holder, stranger) = (id(), id());
    let names = ["v1/renewed", "v1/written", "v1/taken", "v1/held", "v1/deleted", "v1/released"];
    let lost = |name: &str| StoreError::LeaseLost(name.to_owned());
    let mut etags = Vec::new();
    for name in names {
        etags.push(put(store, name, "start").await);
        store.acquire(name, holder).await.unwrap();
    }
    let third = subject.lease / 3;
    (subject.pass)(third * 2).await;
    store.renew("v1/held", holder).await.unwrap();
    for name in names {
        assert_eq!(other.acquire(name, stranger).await.unwrap_err(), StoreError::Leased(name.to_owned()));
    }
    (subject.pass)(third + Duration::from_secs(1)).await;

    // The renewed one still holds.
    assert_eq!(other.acquire("v1/held", stranger).await.unwrap_err(), StoreError::Leased("v1/held".to_owned()));
    store.put("v1/held", bytes("held"), When::Always, Some(holder)).await.unwrap();
    // The others are lost for writing ...
    for name in names.into_iter().filter(|&name| name != "v1/held") {
        assert_eq!(store.put(name, bytes("no"), When::Always, Some(holder)).await.unwrap_err(), lost(name));
        assert_eq!(store.delete(name, Some(holder)).await.unwrap_err(), lost(name));
        assert_eq!(body(store, name).await.as_deref(), Some(&b"start"[..]));
    }
    // ... but where nobody came by, the lease can be had back.
    store.renew("v1/renewed", holder).await.unwrap();
    store.put("v1/renewed", bytes("mine"), When::Matches(etags[0].clone()), Some(holder)).await.unwrap();
    assert_eq!(other.acquire("v1/renewed", stranger).await.unwrap_err(), StoreError::Leased("v1/renewed".to_owned()));
    // A write ends that, and so does another's lease, also when it is over.
    other.put("v1/written", bytes("theirs"), When::Matches(etags[1].clone()), None).await.unwrap();
    assert_eq!(store.renew("v1/written", holder).await.unwrap_err(), lost("v1/written"));
    other.acquire("v1/taken", stranger).await.unwrap();
    assert_eq!(store.renew("v1/taken", holder).await.unwrap_err(), lost("v1/taken"));
    assert_eq!(store.put("v1/taken", bytes("no"), When::Always, Some(holder)).await.unwrap_err(), lost("v1/taken"));
    other.release("v1/taken", stranger).await.unwrap();
    assert_eq!(store.renew("v1/taken", holder).await.unwrap_err(), lost("v1/taken"));
    assert_eq!(other.delete("v1/deleted", None).await, Ok(true));
    store.release("v1/released", holder).await.expect("nobody has it");
    assert_eq!(store.renew("v1/released", holder).await.unwrap_err(), lost("v1/released"));
}
