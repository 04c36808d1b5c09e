//! Conditions, copies, footers, and the bytes under everything.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use proptest::prelude::*;

use super::*;

const SECTOR: [u8; 512] = [0x5a; 512];

#[tokio::test]
async fn conditions_are_a_switch() {
    let host = Host::new();
    let modified = host.put(0, &SECTOR, &[]).await;
    assert_eq!(modified.header("last-modified"), "Thu, 01 Jan 2026 00:00:00 GMT");
    let etag = modified.header("etag").to_owned();
    host.clock.advance(Duration::from_secs(10));
    let earlier = ("if-unmodified-since", "Wed, 31 Dec 2025 23:59:59 GMT");
    let same = ("if-unmodified-since", "Thu, 01 Jan 2026 00:00:00 GMT");
    let refused = [
        earlier,
        ("if-modified-since", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("if-match", "\"other\""),
        ("if-none-match", etag.as_str()),
        ("if-none-match", "*"),
    ];
    for header in refused {
        assert_eq!(host.put(512, &SECTOR, &[header]).await.error(), (412, "ConditionNotMet"), "{header:?}");
    }
    assert_eq!(host.store().written(DISK).unwrap(), [(0, 512)]);
    assert_eq!(host.put(0, &SECTOR, &[("if-unmodified-since", "yesterday")]).await.error(), (400, "InvalidHeaderValue"));
    let range = ("x-ms-range", "bytes=0-511");
    assert_eq!(host.send("GET", &host.write, "", &[range, earlier], &[]).await.error(), (412, "ConditionNotMet"));
    assert_eq!(host.send("GET", &host.write, "", &[range, ("if-none-match", &etag)], &[]).await.status, 304);
    assert_eq!(host.put(512, &SECTOR, &[same]).await.status, 201, "whole seconds: not modified after it");
    assert_eq!(host.put(512, &SECTOR, &[same]).await.error(), (412, "ConditionNotMet"), "the write itself moved it");
    host.set(|switches| switches.conditions = Conditional::Ignored);
    for header in refused {
        assert_eq!(host.put(512, &SECTOR, &[header]).await.status, 201, "{header:?}");
    }
    host.set(|switches| switches.conditions = Conditional::Refused);
    for header in [earlier, same, ("if-match", "*")] {
        assert_eq!(host.put(512, &SECTOR, &[header]).await.error(), (400, "ConditionHeadersNotSupported"), "{header:?}");
    }
    assert_eq!(host.put(512, &SECTOR, &[]).await.status, 201);
}

#[tokio::test]
async fn sequence_numbers_are_a_switch() {
    let host = Host::new();
    let set = async |action: &str, number: &str| {
        let headers = [("x-ms-sequence-number-action", action), ("x-ms-blob-sequence-number", number)];
        host.send("PUT", &host.write, "&comp=properties", &headers, &[]).await
    };
    let put = async |name: &str, value: &str| host.put(0, &SECTOR, &[(name, value)]).await;
    assert_eq!(set("max", "7").await.error(), (403, "AuthorizationPermissionMismatch"), "a disk has none");
    assert_eq!(put("x-ms-if-sequence-number-eq", "9").await.status, 201, "ignored");
    host.set(|switches| switches.sequence_numbers = Conditional::Refused);
    assert_eq!(put("x-ms-if-sequence-number-eq", "0").await.error(), (400, "ConditionHeadersNotSupported"));
    host.set(|switches| switches.sequence_numbers = Conditional::Honoured);
    assert_eq!(set("max", "7").await.header("x-ms-blob-sequence-number"), "7");
    assert_eq!(set("max", "5").await.header("x-ms-blob-sequence-number"), "7");
    assert_eq!(set("update", "6").await.header("x-ms-blob-sequence-number"), "6");
    assert_eq!(set("increment", "").await.header("x-ms-blob-sequence-number"), "7");
    assert_eq!(set("max", "-1").await.error(), (400, "InvalidHeaderValue"));
    assert_eq!(set("least", "1").await.error(), (400, "InvalidHeaderValue"));
    for (name, value) in [("eq", "6"), ("eq", "8"), ("le", "6"), ("lt", "7")] {
        let got = put(&format!("x-ms-if-sequence-number-{name}"), value).await;
        assert_eq!(got.error(), (412, "SequenceNumberConditionNotMet"), "{name} {value}");
    }
    for (name, value) in [("eq", "7"), ("le", "7"), ("lt", "8")] {
        assert_eq!(put(&format!("x-ms-if-sequence-number-{name}"), value).await.status, 201, "{name} {value}");
    }
    assert_eq!(put("x-ms-if-sequence-number-eq", "x").await.error(), (400, "InvalidHeaderValue"));
}

/// What an upload has to end with, and what an export ends with.
#[tokio::test]
async fn footers() {
    let host = Host::new();
    let none = host.store().footer(DISK).unwrap_err();
    assert!(matches!(none, InvalidVhd::Cookie { .. }), "{none}");
    assert!(none.to_string().contains("https://disks.sandbox:8446/") && !none.to_string().contains("sig="), "{none}");
    let footer = footer::make(CONTENT, [1; 16], 2);
    assert_eq!(host.put(CONTENT, &footer, &[]).await.status, 201);
    assert_eq!(host.store().footer(DISK), Ok(()));
    host.put(CONTENT, &footer::make(CONTENT - MIB, [1; 16], 2), &[]).await;
    assert!(matches!(host.store().footer(DISK), Err(InvalidVhd::Size { .. })));
    host.put(0, &SECTOR, &[]).await;
    host.store().copy(DISK, OTHER, CONTENT + MIB).unwrap();
    assert!(matches!(host.store().footer(OTHER), Err(InvalidVhd::NoUpload(_))));
    let reader = host.reader(OTHER);
    let got = host.get(&reader, CONTENT + MIB, 512).await;
    let made: &[u8; 512] = got.body.as_ref().try_into().unwrap();
    assert_eq!(footer::check(made, CONTENT + MIB, "abcd", ""), Ok(()), "the export's own, of the larger size");
    assert_eq!(host.get(&reader, CONTENT, 512).await.body, vec![0; 512], "the old footer is no content");
    let across = host.get(&reader, CONTENT + MIB - 100, 612).await.body;
    assert_eq!((&across[..100], &across[100..]), (&[0; 100][..], &made[..]));
    let list = host.send("GET", &reader, "&comp=pagelist", &[], &[]).await.text();
    assert!(list.contains("<Start>7340032</Start><End>7340543</End>"), "{list}");
}

#[test]
fn the_store_refuses() {
    let host = Host::new();
    let store = host.store();
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(store.create(&DISK.to_uppercase(), MIB, true)), std::io::ErrorKind::AlreadyExists, "ids have no case");
    assert_eq!(kind(store.copy(OTHER, "/x", MIB)), std::io::ErrorKind::NotFound);
    assert_eq!(kind(store.copy(DISK, "/x", CONTENT - MIB)), std::io::ErrorKind::InvalidInput);
    store.copy(DISK, OTHER, CONTENT).unwrap();
    assert_eq!(kind(store.copy(DISK, OTHER, CONTENT)), std::io::ErrorKind::AlreadyExists);
    assert_eq!(kind(store.write(OTHER, CONTENT - 1, &[1, 2])), std::io::ErrorKind::InvalidInput);
    assert_eq!(kind(store.resize(OTHER, CONTENT - MIB)), std::io::ErrorKind::InvalidInput, "never smaller");
    assert_eq!(kind(store.resize(DISK, CONTENT + MIB)), std::io::ErrorKind::InvalidInput, "not while it is uploaded");
    assert_eq!(kind(store.read("/x", 0, 1).map(|_| ())), std::io::ErrorKind::NotFound);
    store.write(OTHER, CONTENT - 2, &[1, 2]).unwrap();
    store.resize(OTHER, CONTENT + MIB).unwrap();
    assert_eq!(store.read(OTHER, CONTENT - 2, 4).unwrap(), [1, 2, 0, 0]);
    assert_eq!(store.content(OTHER), Some(CONTENT + MIB));
    store.write(DISK, CONTENT, &footer::make(CONTENT, [3; 16], 0)).unwrap();
    store.revoke(DISK);
    store.resize(DISK, CONTENT + MIB).unwrap();
    assert_eq!(store.footer(DISK), Ok(()), "a grown one has the footer of its new size");
    assert_eq!(store.read(DISK, CONTENT, 512).unwrap(), [0; 512]);
}

/// A writer counts up in two far places, the first always before the second. In a copy of one moment they differ by one at most.
#[test]
fn a_copy_is_of_one_moment() {
    let host = Host::new();
    let store = host.store();
    let far = CONTENT - 512;
    // Between the two lies what takes a while to copy.
    store.write(DISK, MIB, &vec![7; 4 << 20]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for count in 1u64.. {
                store.write(DISK, 0, &count.to_le_bytes()).unwrap();
                store.write(DISK, far, &count.to_le_bytes()).unwrap();
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return count;
                }
            }
            0
        });
        for round in 0..20 {
            let to = format!("{OTHER}{round}");
            let copied = store.copy(DISK, &to, CONTENT);
            seen.push((to, copied));
        }
        // Before anything is asserted: the writer would go on for ever.
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(writer.join().unwrap() > 20, "it wrote while the copies were made");
    });
    let mut last = 0;
    for (to, copied) in seen {
        copied.unwrap();
        let number = |at| u64::from_le_bytes(store.read(&to, at, 8).unwrap().try_into().unwrap());
        let (first, second) = (number(0), number(far));
        assert!(first == second || first == second + 1, "{first} {second}");
        assert!(first >= last);
        last = first;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64, u64, u8),
    Clear(u64, u64),
    Copy,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pages = (0u64..64, 1u64..16);
    let step = prop_oneof![
        4 => (pages.clone(), any::<u8>()).prop_map(|((at, length), byte)| Step::Put(at, length, byte)),
        2 => pages.prop_map(|(at, length)| Step::Clear(at, length)),
        1 => Just(Step::Copy),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Bytes, written ranges and hashes, after any puts and clears; and copies, which nothing changes afterwards.
    #[test]
    fn as_a_plain_array(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let host = Host::new();
            let mut bytes = vec![0u8; (CONTENT + 512) as usize];
            let mut written = vec![false; bytes.len() / 512];
            let mut copies: Vec<(String, Vec<u8>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Put(at, length, byte) => {
                        let (from, to) = ((at * 512) as usize, ((at + length) * 512) as usize);
                        assert_eq!(host.put(at * 512, &vec![byte; to - from], &[]).await.status, 201);
                        bytes[from..to].fill(byte);
                        written[from / 512..to / 512].fill(true);
                    }
                    Step::Clear(at, length) => {
                        assert_eq!(host.clear(at * 512, length * 512).await.status, 201);
                        let (from, to) = ((at * 512) as usize, ((at + length) * 512) as usize);
                        bytes[from..to].fill(0);
                        written[from / 512..to / 512].fill(false);
                    }
                    Step::Copy => {
                        let id = format!("{OTHER}{}", copies.len());
                        host.store().copy(DISK, &id, CONTENT).unwrap();
                        copies.push((id, bytes[..CONTENT as usize].to_vec()));
                    }
                }
            }
            assert!(host.bytes(0, CONTENT + 512) == bytes);
            let mut expected: Vec<(u64, u64)> = Vec::new();
            for at in (0..written.len() as u64).filter(|at| written[*at as usize]) {
                match expected.last_mut() {
                    Some(last) if last.1 == at * 512 => last.1 += 512,
                    _ => expected.push((at * 512, at * 512 + 512)),
                }
            }
            assert_eq!(host.store().written(DISK).unwrap(), expected);
            let sha = |bytes: &[u8]| hex::encode(digest(&SHA256, bytes));
            assert_eq!(host.store().sha256(DISK, 0, CONTENT + 512).unwrap(), sha(&bytes));
            assert_eq!(host.store().sha256(DISK, 700, 20_000).unwrap(), sha(&bytes[700..20_700]));
            for (id, content) in copies {
                assert_eq!(host.store().sha256(&id, 0, CONTENT).unwrap(), sha(&content));
                let whole = host.store().read(&id, 0, CONTENT + 512).unwrap();
                assert_eq!(host.store().sha256(&id, 0, CONTENT + 512).unwrap(), sha(&whole), "with the footer");
            }
        });
    }
}
