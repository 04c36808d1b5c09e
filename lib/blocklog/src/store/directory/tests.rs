use std::{
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use super::*;
use crate::{
    clock::SystemClock,
    store::{LEASE, conformance::Subject},
    test_support::ManualClock,
};

/// Two stores on one directory, as two processes have it.
async fn subject() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let open = || Arc::new(DirectoryStore::open(folder.path(), Arc::new(clock.clone())).unwrap());
    let (store, other) = (open(), open());
    let pass = {
        let clock = clock.clone();
        move |length| {
            clock.advance(length);
            Box::pin(std::future::ready(())) as _
        }
    };
    Subject { store, other, lease: LEASE, pass: Box::new(pass), _keep: Box::new(folder) }
}

crate::store::conformance::conformance!(subject);

struct Fixture {
    folder: tempfile::TempDir,
    clock: ManualClock,
    store: DirectoryStore,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new();
        let store = DirectoryStore::open(folder.path(), Arc::new(clock.clone())).unwrap();
        Self { folder, clock, store }
    }

    fn reopen(&mut self) {
        self.store = DirectoryStore::open(self.folder.path(), Arc::new(self.clock.clone())).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The temporary files that there are.
    fn temporaries(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.path(".staged")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn piece(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn blobs_are_files_and_nothing_else_is_left() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    store.put("v1/a/b", piece("body"), When::Absent, None).await.unwrap();
    assert_eq!(std::fs::read(fixture.path("v1/a/b")).unwrap(), b"body");
    store.put("v1/a/b", piece("next"), When::Always, None).await.unwrap();
    store.put("v1/a/b", piece("no"), When::Absent, None).await.unwrap_err();
    store.stage("v1/c", 0, vec![piece("part")]).await.unwrap();
    store.commit("v1/c", 1).await.unwrap();
    let id = LeaseId(Uuid::new_v4());
    store.acquire("v1/a/b", id).await.unwrap();
    assert!(fixture.temporaries().is_empty());
    store.delete("v1/a/b", Some(id)).await.unwrap();
    store.delete("v1/c", None).await.unwrap();
    // Empty folders go with their last blob, also those of the leases.
    assert!(!fixture.path("v1").exists());
    assert!(!fixture.path(".leases/v1").exists());
    assert!(fixture.temporaries().is_empty());
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart() {
    let mut fixture = Fixture::new();
    let id = LeaseId(Uuid::new_v4());
    let etag = fixture.store.put("a", piece("body"), When::Absent, None).await.unwrap();
    fixture.store.acquire("a", id).await.unwrap();
    fixture.reopen();
    let store = &fixture.store;
    assert_eq!(store.get("a").await.unwrap().unwrap().etag, etag);
    assert_eq!(store.put("a", piece("no"), When::Always, None).await, Err(StoreError::Leased("a".into())));
    let next = store.put("a", piece("mine"), When::Matches(etag.clone()), Some(id)).await.unwrap();
    assert_ne!(next, etag);
    // The lease ran out while nobody had the directory open.
    fixture.clock.advance(LEASE);
    fixture.reopen();
    fixture.store.put("a", piece("free"), When::Matches(next), None).await.unwrap();
}

#[tokio::test]
async fn versions_differ_while_the_clock_stands_still() {
    let mut fixture = Fixture::new();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        for _ in 0..50 {
            assert!(seen.insert(fixture.store.put("a", piece("body"), When::Always, None).await.unwrap()));
            fixture.store.delete("a", None).await.unwrap();
        }
        // The last version is remembered by the directory, not by the process.
        fixture.reopen();
    }
}

/// The inode tells whether commit copied.
#[tokio::test]
async fn commit_copies_only_what_came_out_of_place() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let inode = |path: &std::path::Path| std::fs::metadata(path).unwrap().ino();
    type Parts = &'static [(u32, &'static str)];
    let cases: [(&str, Parts, bool); 6] = [
        ("in-order-of-all-lengths", &[(0, "a"), (1, "bcdef"), (2, "gh"), (3, "ijk")], false),
        ("one-length-backwards", &[(2, "ef"), (1, "cd"), (0, "ab")], false),
        ("one-length-but-the-last", &[(1, "cd"), (0, "ab"), (3, "g"), (2, "ef")], false),
        ("last-first", &[(2, "e"), (0, "ab"), (1, "cd")], true),
        ("twice", &[(0, "ab"), (1, "xx"), (1, "cd")], true),
        ("all-lengths-out-of-order", &[(1, "bcd"), (0, "a"), (2, "e")], true),
    ];
    for (name, parts, copied) in cases {
        for &(part, text) in parts {
            store.stage(name, part, vec![piece(text)]).await.unwrap();
        }
        let before: Vec<u64> = fixture.temporaries().iter().map(|path| inode(path)).collect();
        let count = parts.iter().map(|(part, _)| part + 1).max().unwrap();
        store.commit(name, count).await.unwrap();
        assert_eq!(before.contains(&inode(&fixture.path(name))), !copied, "{name}");
        let mut sorted = parts.to_vec();
        sorted.sort_by_key(|(part, _)| *part);
        sorted.retain(|(_, text)| *text != "xx");
        let whole: String = sorted.into_iter().map(|(_, text)| text).collect();
        assert_eq!(std::fs::read_to_string(fixture.path(name)).unwrap(), whole, "{name}");
    }
    assert!(fixture.temporaries().is_empty());
}

#[tokio::test]
async fn a_part_that_is_cut_off_is_never_found_again() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    store.stage("a/b", 0, vec![piece("zero")]).await.unwrap();
    store.stage("a/b", 1, vec![piece("one")]).await.unwrap();
    // The commit fails after it has cut the file: the folder's name is a blob.
    store.put("a", piece("in the way"), When::Absent, None).await.unwrap();
    assert!(matches!(store.commit("a/b", 1).await, Err(StoreError::Failed(_))));
    store.delete("a", None).await.unwrap();
    assert!(matches!(store.commit("a/b", 2).await, Err(StoreError::Failed(_))), "part 1 is gone");
    store.commit("a/b", 1).await.unwrap();
    assert_eq!(store.get("a/b").await.unwrap().unwrap().body, "zero");
}

#[tokio::test]
async fn a_part_staged_after_a_failed_commit_makes_a_new_blob() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    store.stage("a/b", 0, vec![piece("old")]).await.unwrap();
    store.put("a", piece("in the way"), When::Absent, None).await.unwrap();
    assert!(matches!(store.commit("a/b", 1).await, Err(StoreError::Failed(_))));
    store.delete("a", None).await.unwrap();
    store.stage("a/b", 0, vec![piece("new")]).await.unwrap();
    store.commit("a/b", 1).await.unwrap();
    assert_eq!(store.get("a/b").await.unwrap().unwrap().body, "new");
}

#[tokio::test]
async fn a_blob_is_no_folder() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    store.put("a/b", piece("x"), When::Always, None).await.unwrap();
    assert!(store.get("a").await.unwrap().is_none());
    assert_eq!(store.delete("a", None).await, Ok(false));
    assert!(matches!(store.put("a", piece("x"), When::Always, None).await, Err(StoreError::Failed(_))));
    assert!(store.get("a/b/c").await.unwrap().is_none());
    assert!(matches!(store.put("a/b/c", piece("x"), When::Always, None).await, Err(StoreError::Failed(_))));
    assert_eq!(store.list("").await.unwrap(), [Listed { name: "a/b".into(), size: 1 }]);
    assert!(fixture.temporaries().is_empty());
}

#[tokio::test]
async fn dotted_files_are_not_listed() {
    let fixture = Fixture::new();
    fixture.store.put("a/b", piece("x"), When::Always, None).await.unwrap();
    fixture.store.acquire("a/b", LeaseId(Uuid::new_v4())).await.unwrap();
    fixture.store.stage("a/c", 0, vec![piece("x")]).await.unwrap();
    std::fs::write(fixture.path("a/.hidden"), "x").unwrap();
    for prefix in ["", "a", "a/"] {
        assert_eq!(fixture.store.list(prefix).await.unwrap(), [Listed { name: "a/b".into(), size: 1 }]);
    }
}

#[tokio::test]
async fn old_temporary_files_are_swept_at_open() {
    let mut fixture = Fixture::new();
    let age = |path: &std::path::Path, age: Duration| {
        let time = SystemTime::from(fixture.clock.now()) - age;
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    let (old, young) = (fixture.path(".staged/old-1"), fixture.path(".staged/young-1"));
    for path in [&old, &young] {
        std::fs::write(path, "left by a dead writer").unwrap();
    }
    age(&old, ABANDONED + Duration::from_secs(1));
    age(&young, ABANDONED - Duration::from_secs(1));
    fixture.reopen();
    assert_eq!(fixture.temporaries(), [young]);
}

#[tokio::test]
async fn abandoned_parts_are_given_up() {
    let fixture = Fixture::new();
    fixture.store.stage("a", 0, vec![piece("x")]).await.unwrap();
    fixture.clock.advance(ABANDONED);
    fixture.store.stage("b", 0, vec![piece("x")]).await.unwrap();
    assert_eq!(fixture.temporaries().len(), 1);
    assert!(matches!(fixture.store.commit("a", 1).await, Err(StoreError::Failed(_))));
    fixture.store.commit("b", 1).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_cannot_be_read_is_an_error() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    store.put("a", piece("x"), When::Always, None).await.unwrap();
    std::fs::write(fixture.path(".leases/a"), "{").unwrap();
    let id = LeaseId(Uuid::new_v4());
    for result in [
        store.put("a", piece("y"), When::Always, None).await.map(drop),
        store.put("a", piece("y"), When::Always, Some(id)).await.map(drop),
        store.delete("a", None).await.map(drop),
        store.acquire("a", id).await,
        store.break_lease("a").await,
    ] {
        assert!(matches!(&result, Err(StoreError::Failed(text)) if text.contains("not a lease")), "{result:?}");
    }
    assert_eq!(store.get("a").await.unwrap().unwrap().body, "x");
}

#[tokio::test]
async fn a_lease_does_not_outlive_a_blob_that_was_removed_by_hand() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let id = LeaseId(Uuid::new_v4());
    for name in ["put", "committed"] {
        store.put(name, piece("x"), When::Always, None).await.unwrap();
        store.acquire(name, id).await.unwrap();
        std::fs::remove_file(fixture.path(name)).unwrap();
    }
    store.put("put", piece("y"), When::Absent, None).await.unwrap();
    store.stage("committed", 0, vec![piece("y")]).await.unwrap();
    store.commit("committed", 1).await.unwrap();
    for name in ["put", "committed"] {
        assert_eq!(store.renew(name, id).await, Err(StoreError::LeaseLost(name.into())));
        store.put(name, piece("z"), When::Always, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_lock_that_is_never_given_back_is_told() {
    let mut fixture = Fixture::new();
    Arc::get_mut(&mut fixture.store.inner).unwrap().lock.tries = 3;
    let stopped = File::open(fixture.path(".lock")).unwrap();
    stopped.lock().unwrap();
    let result = fixture.store.put("a", piece("x"), When::Always, None).await;
    assert!(matches!(&result, Err(StoreError::Unreachable(text)) if text.contains(".lock")), "{result:?}");
    assert!(fixture.store.get("a").await.unwrap().is_none(), "reading needs no lock");
    drop(stopped);
    fixture.store.put("a", piece("x"), When::Always, None).await.unwrap();
}

#[test]
fn errors_of_the_file_system_have_their_place() {
    use std::io::Error;
    let path = PathBuf::from("/log/a");
    let refusal = |code: rustix::io::Errno| refusal(&path, &Error::from_raw_os_error(code.raw_os_error()));
    use rustix::io::Errno;
    assert!(matches!(refusal(Errno::NOSPC), StoreError::Full(text) if text.contains("/log/a")));
    assert!(matches!(refusal(Errno::DQUOT), StoreError::Full(_)));
    assert!(matches!(refusal(Errno::ACCESS), StoreError::Denied(_)));
    assert!(matches!(refusal(Errno::ROFS), StoreError::Denied(_)));
    assert!(matches!(refusal(Errno::IO), StoreError::Failed(_)));
}

/// The environment variable by which [`a_writer_to_be_killed`] knows that it is one.
const WRITER: &str = "HAWSER_TEST_WRITER";

#[tokio::test]
#[ignore = "not a test of its own: a_killed_writer_leaves_whole_blobs runs it as a process"]
async fn a_writer_to_be_killed() {
    let Some(folder) = std::env::var_os(WRITER) else { return };
    let store = DirectoryStore::open(folder, Arc::new(SystemClock::new())).unwrap();
    for round in 0_u64.. {
        let body = Bytes::from(vec![round as u8; 1 << 20]);
        store.put("put", body.clone(), When::Always, None).await.unwrap();
        let name = format!("segment-{round}");
        store.stage(&name, 0, vec![body.slice(..500_000), body.slice(500_000..)]).await.unwrap();
        store.stage(&name, 1, vec![body]).await.unwrap();
        store.commit(&name, 2).await.unwrap();
        // Only what was reported is promised.
        println!("done {round}");
        std::io::stdout().flush().unwrap();
    }
}

#[tokio::test]
async fn a_killed_writer_leaves_whole_blobs() {
    let folder = tempfile::tempdir().unwrap();
    for millis in [40, 70, 110, 160] {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["store::directory::tests::a_writer_to_be_killed", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(WRITER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = [0; 1];
        let mut stdout = writer.stdout.take().unwrap();
        let mut text = String::new();
        while !text.contains("done 0\n") {
            assert_eq!(stdout.read(&mut told).unwrap(), 1, "the writer ended: {text}");
            text.push(told[0] as char);
        }
        #[allow(clippy::disallowed_methods, reason = "another process is given real time")]
        tokio::time::sleep(Duration::from_millis(millis)).await;
        writer.kill().unwrap();
        writer.wait().unwrap();
        stdout.read_to_string(&mut text).unwrap();

        let store = DirectoryStore::open(folder.path(), Arc::new(SystemClock::new())).unwrap();
        let one_value = |body: &Bytes| body.iter().all(|byte| *byte == body[0]);
        let put = store.get("put").await.unwrap().unwrap().body;
        assert!(put.len() == 1 << 20 && one_value(&put));
        let listed = store.list("").await.unwrap();
        let last = text.lines().rev().find_map(|line| line.split("done ").nth(1)).unwrap().to_owned();
        assert!(listed.iter().any(|listed| listed.name == format!("segment-{last}")), "{listed:?} lacks {last}");
        for segment in listed.iter().filter(|listed| listed.name != "put") {
            let body = store.get(&segment.name).await.unwrap().unwrap().body;
            assert!(body.len() == 2 << 20 && one_value(&body), "{segment:?}");
            // For the next writer; and nobody holds the lock any more.
            store.delete(&segment.name, None).await.unwrap();
        }
    }
}
