//! What the directory store does to files: temporary files that vanish unless they are renamed, changes that survive a power cut, the lock
//! between processes, and what an error of the file system means.

use std::{
    fs::{File, FileTimes, OpenOptions, TryLockError},
    io::{self, ErrorKind, IoSlice},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::store::{ETag, StoreError};

/// Gives an error of the file system its place in [`StoreError`].
pub(super) fn refusal(path: &Path, error: &io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(text),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::Denied(text),
        _ => StoreError::Failed(text),
    }
}

/// Whether the error says that there is no such file, also because what would be its folder is a file.
pub(super) fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// A file under a temporary name. It is removed when this is dropped, unless it got its lasting name.
pub(super) struct Temporary {
    pub file: File,
    path: PathBuf,
    kept: AtomicBool,
}

impl Temporary {
    /// Makes an empty one. `path` must not exist.
    pub fn create(path: PathBuf) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| refusal(&path, &error))?;
        Ok(Self { file, path, kept: AtomicBool::new(false) })
    }

    /// Makes one that holds `body`, which is on the disk when this returns.
    pub fn holding(path: PathBuf, body: &[u8]) -> Result<Self, StoreError> {
        let made = Self::create(path)?;
        made.told(made.file.write_all_at(body, 0))?;
        made.sync()?;
        Ok(made)
    }

    /// Writes `pieces` one after the other from `offset` on.
    pub fn write(&self, pieces: &[Bytes], mut offset: u64) -> Result<(), StoreError> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| IoSlice::new(piece)).collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            // The kernel takes 1024 slices at a time (IOV_MAX), and may write less than it is given.
            let batch = &left[..left.len().min(1024)];
            match rustix::io::pwritev(&self.file, batch, offset) {
                Ok(0) => return self.told(Err(ErrorKind::WriteZero.into())),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return self.told(Err(error.into())),
            }
        }
        Ok(())
    }

    /// Returns when the bytes are on the disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.told(self.file.sync_all())
    }

    /// Gives it its lasting name, in place of whatever has it. The folder must exist, and be synced afterwards.
    pub fn keep(&self, name: &Path) -> Result<(), StoreError> {
        std::fs::rename(&self.path, name).map_err(|error| refusal(name, &error))?;
        self.kept.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Puts this file's name to an error.
    pub fn told<T>(&self, result: io::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| refusal(&self.path, &error))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !*self.kept.get_mut() {
            // What stays is swept when it is a day old.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The version of a file: its modification time is set by [`Locked::stamp`] and never given out twice; inode and length are there for a
/// file that was put there by hand.
pub(super) fn etag(file: &File) -> io::Result<ETag> {
    let meta = file.metadata()?;
    Ok(ETag(format!("{:x}.{:09}-{:x}-{:x}", meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len())))
}

/// The lock of a directory, between threads and processes. The lock file holds the last version that was given out.
pub(super) struct Lock {
    path: PathBuf,
    file: Mutex<File>,
    /// How often it is tried while another process has it.
    pub tries: u32,
}

/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(2);

/// The lock, held.
pub(super) struct Locked<'a> {
    path: &'a Path,
    file: MutexGuard<'a, File>,
}

impl Lock {
    /// Opens the lock file, and proves that the file system can keep versions.
    pub fn open(path: PathBuf) -> Result<Self, StoreError> {
        let open = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            let odd = SystemTime::UNIX_EPOCH + Duration::new(1_735_689_601, 123_456_789);
            file.set_times(FileTimes::new().set_modified(odd))?;
            let exact = file.metadata()?.modified()? == odd;
            io::Result::Ok((file, exact))
        };
        let (file, exact) = open().map_err(|error| refusal(&path, &error))?;
        if !exact {
            let text =
                format!("{}: the file system does not keep times to the nanosecond, by which versions are told apart", path.display());
            return Err(StoreError::Failed(text));
        }
        Ok(Self { path, file: Mutex::new(file), tries: 10_000 })
    }

    /// Waits for the lock. It is held for a few file operations at a time, so a long wait means that its holder is stopped or its disk hangs:
    /// after 20 s that is [`StoreError::Unreachable`].
    pub fn lock(&self) -> Result<Locked<'_>, StoreError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..self.tries {
            match file.try_lock() {
                Ok(()) => return Ok(Locked { path: &self.path, file }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(TRY_EVERY),
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(TryLockError::Error(error)) => return Err(refusal(&self.path, &error)),
            }
        }
        Err(StoreError::Unreachable(format!("{}: another process does not give the lock back", self.path.display())))
    }
}

impl Locked<'_> {
    /// Sets the file's modification time to a version that no file had before: the time, or one nanosecond more than the last one.
    pub fn stamp(&self, file: &File, now: Duration) -> Result<ETag, StoreError> {
        let stamp = || {
            let mut last = [0; 8];
            match self.file.read_exact_at(&mut last, 0) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
                read => read?,
            }
            let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            let next = now.max(u64::from_le_bytes(last).saturating_add(1));
            self.file.write_all_at(&next.to_le_bytes(), 0)?;
            file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(next)))?;
            etag(file)
        };
        stamp().map_err(|error: io::Error| refusal(self.path, &error))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // The file stays open, so closing does not do it. It cannot fail for a lock that is held.
        let _ = self.file.unlock();
    }
}

/// Makes the folder and those above it, so that they survive a power cut.
pub(super) fn make_folder(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().unwrap_or(Path::new("/"));
    make_folder(above)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(refusal(path, &error)),
        _ => sync_folder(above),
    }
}

/// Returns when the names in the folder are on the disk.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| refusal(path, &error))
}

/// Removes the folder and those above it as far as they are empty, but not `root`.
pub(super) fn prune_folders(path: &Path, root: &Path) {
    let mut folder = Some(path);
    while let Some(path) = folder.filter(|path| *path != root && path.starts_with(root)) {
        if std::fs::remove_dir(path).is_err() {
            return;
        }
        folder = path.parent();
    }
}
