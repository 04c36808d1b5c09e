//! A seed as a local raw file, byte for byte the source disk: for tests, for one machine without Azure, and as a restore target.
//!
//! Beside `disk.raw` stands `disk.raw.hawser` with the seed's identity and its turn. Whoever has the file open for writing holds an exclusive
//! `flock` on the file itself, and the lock lives until the last write on its way has returned: no late write can meet a successor.

mod sidecar;

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::{fs::FallocateFlags, io::Errno};
use uuid::Uuid;

use self::sidecar::{Sidecar, beside, sync_folder};
use crate::{
    Fence, FenceKind, NO_SEED, Permit, ReplicaDisk, ReplicaError,
    gate::{Gate, SECTOR, check_range, check_transfer},
};

/// What is written at once where holes cannot be punched.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A seed in a local file.
#[derive(Debug)]
pub struct RawFileDisk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: OpenFile,
    path: PathBuf,
    capacity: u64,
    writable: bool,
    gate: Gate,
    /// Held shared for the whole of each write, and exclusively while the fence is raised: between a write's look at the turn and its
    /// effect no newer turn can begin.
    fence: RwLock<()>,
    /// Set when a flush failed: the kernel may have dropped what it could not write, and the next flush would succeed without it.
    lost: OnceLock<String>,
}

/// A file whose lock ends when it is dropped, and not later: a child process that is being started at that moment has a copy of the
/// descriptor until it runs its own program, and would keep the lock until then.
#[derive(Debug)]
struct OpenFile(File);

impl std::ops::Deref for OpenFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Where this fails, closing the file does it.
        let _ = self.0.unlock();
    }
}

/// What a failed system call means for the replica.
fn io_error(path: &Path, error: &io::Error) -> ReplicaError {
    let words = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => ReplicaError::Full(words),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ReplicaError::Denied(words),
        _ => ReplicaError::Failed(words),
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ReplicaError> + Send + 'static) -> Result<T, ReplicaError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(ReplicaError::Failed(format!("the write's thread failed: {error}"))),
    }
}

fn lock(file: &File, path: &Path) -> Result<(), ReplicaError> {
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => ReplicaError::InUse(path.display().to_string()),
        fs::TryLockError::Error(error) => io_error(path, &error),
    })
}

fn metadata(file: &File, path: &Path) -> Result<Metadata, ReplicaError> {
    file.metadata().map_err(|error| io_error(path, &error))
}

fn same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

impl RawFileDisk {
    /// Makes a sparse file of `capacity` bytes (whole sectors) at `path`, whose folder exists, and opens it for writing. A seed of the same
    /// id and capacity that is there already is opened as it is. Any other file there is left alone: [`ReplicaError::WrongSeed`] where it is
    /// another seed, else [`ReplicaError::Denied`].
    pub async fn create(path: impl Into<PathBuf>, capacity: u64, unique_id: Uuid) -> Result<Self, ReplicaError> {
        let path = path.into();
        blocking(move || Inner::create(path, capacity, unique_id)).await.map(|inner| Self(Arc::new(inner)))
    }

    /// Opens a seed for writing. [`ReplicaError::WrongSeed`] where there is none (the file that was made as a seed is gone, or has been
    /// replaced), [`ReplicaError::InUse`] where another handle or process writes it.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, ReplicaError> {
        let path = path.into();
        blocking(move || Inner::open(path, true)).await.map(|inner| Self(Arc::new(inner)))
    }

    /// Opens a seed for reading only, beside a writer if there is one.
    pub async fn open_for_reading(path: impl Into<PathBuf>) -> Result<Self, ReplicaError> {
        let path = path.into();
        blocking(move || Inner::open(path, false)).await.map(|inner| Self(Arc::new(inner)))
    }
}

impl Inner {
    fn create(path: PathBuf, capacity: u64, unique_id: Uuid) -> Result<Self, ReplicaError> {
        if capacity == 0 || !capacity.is_multiple_of(SECTOR) {
            return Err(ReplicaError::Invalid(format!("a disk of {capacity} bytes is not whole sectors")));
        }
        match fs::symlink_metadata(&path) {
            Ok(_) => return Self::open_made(path, capacity, unique_id),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&path, &error)),
        }
        // The file gets its name last, and only where none has it: a crash leaves no seed without its sidecar, and no foreign file is taken.
        let fresh = beside(&path, ".hawser.new");
        let failed = |error: io::Error| io_error(&path, &error);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&fresh).map_err(failed)?;
        lock(&file, &fresh)?;
        let file = OpenFile(file);
        // Whoever made it before may have given it its name, or taken it away, before it let go of the lock.
        let found = file.metadata().map_err(failed)?;
        if found.nlink() != 1 || !fs::symlink_metadata(&fresh).is_ok_and(|named| same_file(&named, &found)) {
            return Err(ReplicaError::InUse(format!("{} is being created", path.display())));
        }
        let make = || {
            file.set_len(0)?;
            file.set_len(capacity)?;
            file.sync_all()
        };
        make().map_err(failed)?;
        Sidecar::new(unique_id, capacity, &metadata(&file, &path)?).store(&path)?;
        let name = || {
            fs::hard_link(&fresh, &path)?;
            fs::remove_file(&fresh)?;
            sync_folder(&path)
        };
        name().map_err(failed)?;
        Ok(Self::new(file, path, capacity, true))
    }

    /// The other half of [`Inner::create`]: something is there.
    fn open_made(path: PathBuf, capacity: u64, unique_id: Uuid) -> Result<Self, ReplicaError> {
        let foreign = |path: &Path| {
            ReplicaError::Denied(format!(
                "{} exists and is not a seed of Hawser (its identity stands in {}): choose another path, or move the file away",
                path.display(),
                beside(path, ".hawser").display()
            ))
        };
        let inner = match Self::open(path.clone(), true) {
            Err(ReplicaError::WrongSeed { .. }) => return Err(foreign(&path)),
            opened => opened?,
        };
        let Some(sidecar) = inner.sidecar()? else { return Err(foreign(&path)) };
        if sidecar.unique_id != unique_id {
            return Err(ReplicaError::WrongSeed { expected: unique_id.to_string(), found: sidecar.unique_id.to_string() });
        }
        if sidecar.capacity < capacity {
            return Err(ReplicaError::TooSmall { capacity: sidecar.capacity, needed: capacity });
        }
        Ok(inner)
    }

    fn open(path: PathBuf, writable: bool) -> Result<Self, ReplicaError> {
        let none = || ReplicaError::WrongSeed { expected: format!("a seed at {}", path.display()), found: NO_SEED.to_owned() };
        // Asked before it is opened: opening a pipe would wait for its other end.
        match fs::metadata(&path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(ReplicaError::Denied(format!("{} is not a regular file", path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(none()),
            Err(error) => return Err(io_error(&path, &error)),
        }
        let file = OpenOptions::new().read(true).write(writable).open(&path).map_err(|error| io_error(&path, &error))?;
        if writable {
            lock(&file, &path)?;
        }
        let inner = Self::new(OpenFile(file), path.clone(), 0, writable);
        let capacity = inner.sidecar()?.ok_or_else(none)?.capacity;
        Ok(Self { capacity, ..inner })
    }

    fn new(file: OpenFile, path: PathBuf, capacity: u64, writable: bool) -> Self {
        Self { file, path, capacity, writable, gate: Gate::default(), fence: RwLock::new(()), lost: OnceLock::new() }
    }

    /// The sidecar, if it speaks of the open file and that file still has its name.
    fn sidecar(&self) -> Result<Option<Sidecar>, ReplicaError> {
        let file = metadata(&self.file, &self.path)?;
        match fs::metadata(&self.path) {
            Ok(named) if same_file(&named, &file) => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&self.path, &error)),
        }
        Ok(Sidecar::load(&self.path)?.filter(|sidecar| sidecar.describes(&file)))
    }

    fn replaced(&self) -> ReplicaError {
        ReplicaError::WrongSeed { expected: format!("the seed that was opened at {}", self.path.display()), found: NO_SEED.to_owned() }
    }

    fn may_write(&self) -> Result<(), ReplicaError> {
        match self.lost.get() {
            _ if !self.writable => Err(ReplicaError::Invalid("the seed was opened for reading only".to_owned())),
            Some(error) => Err(ReplicaError::Failed(format!("an earlier flush failed, what it covered may be lost: {error}"))),
            None => Ok(()),
        }
    }

    fn raise_fence(&self, turn: u64) -> Result<(), ReplicaError> {
        self.may_write()?;
        let _fence = self.fence.write().unwrap_or_else(PoisonError::into_inner);
        self.gate.may_raise(turn)?;
        let mut sidecar = self.sidecar()?.ok_or_else(|| self.replaced())?;
        if sidecar.turn > Some(turn) {
            return Err(ReplicaError::Fenced { turn });
        }
        if sidecar.turn < Some(turn) {
            sidecar.turn = Some(turn);
            sidecar.store(&self.path)?;
        }
        self.gate.raised(turn);
        Ok(())
    }

    fn change(&self, permit: Permit, change: impl FnOnce(&File) -> io::Result<()>) -> Result<(), ReplicaError> {
        self.may_write()?;
        let _fence = self.fence.read().unwrap_or_else(PoisonError::into_inner);
        self.gate.check(permit)?;
        change(&self.file).map_err(|error| io_error(&self.path, &error))
    }

    fn flushed(&self, result: io::Result<()>) -> Result<(), ReplicaError> {
        result.map_err(|error| {
            // The first one counts.
            let _ = self.lost.set(error.to_string());
            io_error(&self.path, &error)
        })
    }

    fn flush(&self) -> Result<(), ReplicaError> {
        self.may_write()?;
        self.flushed(self.file.sync_data())?;
        // What was written into a file that has lost its name is in no seed.
        self.sidecar()?.map(|_| ()).ok_or_else(|| self.replaced())
    }
}

/// Makes a range read as zero and gives its room back where the filesystem can.
fn clear(file: &File, offset: u64, length: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, offset, length),
        done => Ok(done?),
    }
}

fn write_zeros(file: &File, mut offset: u64, length: u64) -> io::Result<()> {
    let end = offset + length;
    while offset < end {
        let step = (end - offset).min(ZEROS.len() as u64);
        // At most the buffer's length.
        file.write_all_at(&ZEROS[..step as usize], offset)?;
        offset += step;
    }
    Ok(())
}

#[async_trait]
impl ReplicaDisk for RawFileDisk {
    fn capacity(&self) -> u64 {
        self.0.capacity
    }

    fn fence_kind(&self) -> FenceKind {
        FenceKind::Exact
    }

    async fn unique_id(&self) -> Result<String, ReplicaError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.sidecar()).await.map(|found| found.map_or_else(|| NO_SEED.to_owned(), |it| it.unique_id.to_string()))
    }

    async fn raise_fence(&self, fence: Fence) -> Result<(), ReplicaError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.raise_fence(fence.turn)).await
    }

    async fn write(&self, permit: Permit, offset: u64, data: Bytes) -> Result<(), ReplicaError> {
        check_transfer(self.0.capacity, offset, data.len() as u64)?;
        let inner = Arc::clone(&self.0);
        blocking(move || inner.change(permit, |file| file.write_all_at(&data, offset))).await
    }

    async fn clear(&self, permit: Permit, offset: u64, length: u64) -> Result<(), ReplicaError> {
        check_range(self.0.capacity, offset, length)?;
        let inner = Arc::clone(&self.0);
        blocking(move || inner.change(permit, |file| clear(file, offset, length))).await
    }

    async fn flush(&self) -> Result<(), ReplicaError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.flush()).await
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, ReplicaError> {
        check_transfer(self.0.capacity, offset, u64::from(length))?;
        let inner = Arc::clone(&self.0);
        blocking(move || {
            // At most MAX_WRITE, checked above.
            let mut data = vec![0; length as usize];
            inner.file.read_exact_at(&mut data, offset).map_err(|error| io_error(&inner.path, &error))?;
            Ok(data.into())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
