use std::process::Command;

use jiff::Timestamp;
use reasons::Reason;

use super::*;

const CAPACITY: u64 = 8 << 20;
const ID: Uuid = Uuid::from_u128(7);

fn permit(turn: u64) -> Permit {
    Permit { turn, until: Timestamp::MAX }
}

fn fence(turn: u64) -> Fence {
    Fence { turn, previous_end: None }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    (folder, path)
}

/// A full disk, as far as this process can make one: `/dev/full` says ENOSPC to every write.
#[test]
fn no_space_is_full() {
    let full = Path::new("/dev/full");
    let error = OpenOptions::new().write(true).open(full).unwrap().write_all_at(&ZEROS, 0).unwrap_err();
    assert_eq!(io_error(full, &error).reason(), Reason::ReplicaFull);
    let quota = io::Error::from_raw_os_error(Errno::DQUOT.raw_os_error());
    assert_eq!(io_error(full, &quota).reason(), Reason::ReplicaFull);
    let broken = io::Error::from_raw_os_error(Errno::IO.raw_os_error());
    assert!(io_error(full, &broken).in_doubt());
}

#[tokio::test]
async fn the_file_is_the_disk() {
    let (_folder, path) = folder();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().blocks(), 0, "a new seed is sparse");
    disk.raise_fence(fence(1)).await.unwrap();
    disk.write(permit(1), 4096, vec![7; 1 << 20].into()).await.unwrap();
    disk.flush().await.unwrap();
    let before = fs::metadata(&path).unwrap().blocks();
    disk.clear(permit(1), 4096, 512 << 10).await.unwrap();
    disk.flush().await.unwrap();
    let mut expected = vec![0; CAPACITY as usize];
    expected[4096 + (512 << 10)..4096 + (1 << 20)].fill(7);
    assert!(fs::read(&path).unwrap() == expected);
    assert!(fs::metadata(&path).unwrap().blocks() <= before);
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the file and its sidecar: {names:?}");
}

#[test]
fn zeros_are_written_where_no_hole_can_be_punched() {
    let (_folder, path) = folder();
    fs::write(&path, vec![7; 300 << 10]).unwrap();
    write_zeros(&OpenOptions::new().write(true).open(&path).unwrap(), 512, 200 << 10).unwrap();
    let found = fs::read(&path).unwrap();
    assert!(found.iter().enumerate().all(|(at, byte)| (*byte == 0) == (512..512 + (200 << 10)).contains(&at)));
}

#[tokio::test]
async fn one_writer_at_a_time() {
    let (_folder, path) = folder();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    assert_eq!(RawFileDisk::open(&path).await.unwrap_err().reason(), Reason::ReplicaInUse);
    assert_eq!(RawFileDisk::create(&path, CAPACITY, ID).await.unwrap_err().reason(), Reason::ReplicaInUse);
    disk.raise_fence(fence(1)).await.unwrap();
    disk.write(permit(1), 0, vec![7; 512].into()).await.unwrap();
    let reader = RawFileDisk::open_for_reading(&path).await.unwrap();
    assert_eq!(reader.read(0, 512).await.unwrap(), vec![7; 512]);
    assert_eq!(reader.raise_fence(fence(2)).await.unwrap_err().reason(), Reason::ReplicaRequestInvalid);
    assert_eq!(reader.write(permit(1), 0, vec![7; 512].into()).await.unwrap_err().reason(), Reason::ReplicaRequestInvalid);
    drop(disk);
    RawFileDisk::open(&path).await.unwrap();
}

/// The lock is the kernel's, so that it also holds between processes.
#[tokio::test]
async fn another_process_is_kept_out() {
    let (_folder, path) = folder();
    let flock = |path: &Path| {
        let mut command = Command::new("flock");
        command.args(["--nonblock", "--exclusive"]).arg(path).arg("true");
        command.status().expect("flock is needed by this test: install the package util-linux").success()
    };
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    assert!(!flock(&path));
    drop(disk);
    assert!(flock(&path));
}

/// A caller that gives up on a write leaves it running on its thread: nobody else may open the disk before it is done.
#[tokio::test]
async fn an_abandoned_write_keeps_the_lock() {
    let (_folder, path) = folder();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    disk.raise_fence(fence(1)).await.unwrap();
    let inner = Arc::clone(&disk.0);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let late = tokio::task::spawn_blocking(move || {
        inner.change(permit(1), |file| {
            wait.recv().unwrap();
            file.write_all_at(&[7; 512], 0)
        })
    });
    drop(disk);
    assert_eq!(RawFileDisk::open(&path).await.unwrap_err().reason(), Reason::ReplicaInUse);
    go.send(()).unwrap();
    late.await.unwrap().unwrap();
    let disk = RawFileDisk::open(&path).await.unwrap();
    assert_eq!(disk.read(0, 512).await.unwrap(), vec![7; 512]);
}

/// A write that has passed the check is over before the next turn's fence stands.
#[tokio::test]
async fn the_fence_waits_for_writes_on_their_way() {
    let (_folder, path) = folder();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    disk.raise_fence(fence(1)).await.unwrap();
    let (started, on_its_way) = tokio::sync::oneshot::channel::<()>();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let inner = Arc::clone(&disk.0);
    let late = tokio::task::spawn_blocking(move || {
        inner.change(permit(1), |file| {
            started.send(()).unwrap();
            wait.recv().unwrap();
            file.write_all_at(&[7; 512], 0)
        })
    });
    on_its_way.await.unwrap();
    let raise = disk.raise_fence(fence(2));
    tokio::pin!(raise);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), &mut raise).await.is_err());
    go.send(()).unwrap();
    raise.await.unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(disk.write(permit(1), 0, vec![8; 512].into()).await, Err(ReplicaError::Fenced { turn: 1 }));
}

#[tokio::test]
async fn the_turn_is_kept() {
    let (_folder, path) = folder();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    disk.raise_fence(fence(5)).await.unwrap();
    drop(disk);
    let disk = RawFileDisk::open(&path).await.unwrap();
    assert_eq!(disk.raise_fence(fence(4)).await, Err(ReplicaError::Fenced { turn: 4 }));
    disk.raise_fence(fence(5)).await.unwrap();
    disk.write(permit(5), 0, vec![1; 512].into()).await.unwrap();
}

#[tokio::test]
async fn a_file_made_anew_is_no_seed() {
    let (_folder, path) = folder();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    disk.raise_fence(fence(1)).await.unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), ID.to_string());
    fs::remove_file(&path).unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), NO_SEED);
    assert_eq!(disk.flush().await.unwrap_err().reason(), Reason::SeedReplaced);
    File::create(&path).unwrap().set_len(CAPACITY).unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), NO_SEED);
    assert_eq!(disk.raise_fence(fence(2)).await.unwrap_err().reason(), Reason::SeedReplaced);
    drop(disk);
    assert_eq!(RawFileDisk::open(&path).await.unwrap_err().reason(), Reason::SeedReplaced);
    let refused = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ReplicaDenied);
    assert!(refused.to_string().contains("move the file away"), "{refused}");
    fs::remove_file(&path).unwrap();
    assert_eq!(RawFileDisk::open(&path).await.unwrap_err().reason(), Reason::SeedReplaced);
    let disk = RawFileDisk::create(&path, CAPACITY, Uuid::from_u128(8)).await.unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), Uuid::from_u128(8).to_string());
}

#[tokio::test]
async fn a_truncated_file_is_no_seed() {
    let (_folder, path) = folder();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(CAPACITY - 512).unwrap();
    assert_eq!(disk.unique_id().await.unwrap(), NO_SEED);
}

#[tokio::test]
async fn foreign_files_are_left_alone() {
    let (folder, path) = folder();
    fs::write(&path, b"holiday pictures").unwrap();
    assert_eq!(RawFileDisk::create(&path, CAPACITY, ID).await.unwrap_err().reason(), Reason::ReplicaDenied);
    assert_eq!(RawFileDisk::open(&path).await.unwrap_err().reason(), Reason::SeedReplaced);
    assert_eq!(fs::read(&path).unwrap(), b"holiday pictures");
    assert_eq!(RawFileDisk::create(folder.path(), CAPACITY, ID).await.unwrap_err().reason(), Reason::ReplicaDenied);
    assert_eq!(RawFileDisk::open("/dev/null").await.unwrap_err().reason(), Reason::ReplicaDenied);
    let dangling = folder.path().join("dangling");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &dangling).unwrap();
    assert_eq!(RawFileDisk::create(&dangling, CAPACITY, ID).await.unwrap_err().reason(), Reason::ReplicaDenied);
    for capacity in [0, 513] {
        let odd = folder.path().join("odd");
        assert_eq!(RawFileDisk::create(&odd, capacity, ID).await.unwrap_err().reason(), Reason::ReplicaRequestInvalid);
        assert!(!odd.exists());
    }
}

#[tokio::test]
async fn creating_again_is_safe() {
    let (_folder, path) = folder();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    disk.raise_fence(fence(3)).await.unwrap();
    disk.write(permit(3), 0, vec![7; 512].into()).await.unwrap();
    drop(disk);
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    assert_eq!(disk.read(0, 512).await.unwrap(), vec![7; 512]);
    assert_eq!(disk.raise_fence(fence(2)).await, Err(ReplicaError::Fenced { turn: 2 }));
    drop(disk);
    let other = RawFileDisk::create(&path, CAPACITY, Uuid::from_u128(8)).await.unwrap_err();
    assert_eq!(other.reason(), Reason::SeedReplaced);
    let larger = RawFileDisk::create(&path, CAPACITY + 512, ID).await.unwrap_err();
    assert_eq!(larger, ReplicaError::TooSmall { capacity: CAPACITY, needed: CAPACITY + 512 });
}

/// Wherever a creation was cut off, the next one ends in an empty seed.
#[tokio::test]
async fn a_creation_that_was_cut_off_is_begun_again() {
    let (_folder, path) = folder();
    fs::write(beside(&path, ".hawser.new"), b"left behind").unwrap();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    assert_eq!(disk.read(0, 512).await.unwrap(), vec![0; 512]);
    drop(disk);
    // The sidecar stands, the file has no name yet.
    fs::rename(&path, beside(&path, ".hawser.new")).unwrap();
    assert_eq!(RawFileDisk::open(&path).await.unwrap_err().reason(), Reason::SeedReplaced);
    drop(RawFileDisk::create(&path, CAPACITY, ID).await.unwrap());
    // The file has its name, and its first name still.
    fs::hard_link(&path, beside(&path, ".hawser.new")).unwrap();
    assert_eq!(RawFileDisk::create(&path, CAPACITY, ID).await.unwrap().unique_id().await.unwrap(), ID.to_string());
}

#[tokio::test]
async fn a_failed_flush_is_not_forgotten() {
    let (_folder, path) = folder();
    let disk = RawFileDisk::create(&path, CAPACITY, ID).await.unwrap();
    disk.raise_fence(fence(1)).await.unwrap();
    let broken = io::Error::from_raw_os_error(Errno::IO.raw_os_error());
    assert_eq!(disk.0.flushed(Err(broken)).unwrap_err().reason(), Reason::ReplicaFailed);
    assert_eq!(disk.flush().await.unwrap_err().reason(), Reason::ReplicaFailed);
    assert_eq!(disk.write(permit(1), 0, vec![7; 512].into()).await.unwrap_err().reason(), Reason::ReplicaFailed);
}
