//! A log store in a directory: on a disk, or on memory that is mounted (tmpfs). Blobs are files under their names, so that one can look at
//! them with the tools one has; beside them lie `.lock`, `.leases/` and `.staged/`.
//!
//! A blob is written under a temporary name, synced, and renamed: after a crash or a power cut a reader sees the old one or the new one,
//! whole. What looks before it writes does so under a lock on `.lock`, so several processes of one machine can share the directory; leases
//! among them run by the wall clock. ext4, tmpfs and overlayfs are known to do; a file system of the network will not, where its locks are not
//! real, and one without times to the nanosecond is refused.
//!
//! Two things differ from a container: a name cannot be a blob and the folder of other blobs at once, and staged parts belong to the store
//! object that they were staged with.

mod files;
mod staging;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Blob, ETag, LeaseId, Listed, LogStore, StoreError, When, accept,
    lease::{self, Lease},
};
use crate::clock::Clock;
use files::{Lock, Locked, Temporary, absent, etag, make_folder, prune_folders, refusal, sync_folder};
use staging::Staging;

/// After this long without a further part, staged parts and other temporary files are given up.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Blobs in a directory. Every operation runs on tokio's threads for blocking work.
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    clock: Arc<dyn Clock>,
    lock: Lock,
    staged: Mutex<HashMap<String, Arc<Staging>>>,
    /// Temporary names begin with it, so that no two stores choose the same.
    unique: Uuid,
    temporary: AtomicU64,
}

/// A lease as its file holds it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseFile {
    id: Uuid,
    /// Wall clock, milliseconds since 1970.
    until: u64,
    broken: bool,
}

impl DirectoryStore {
    /// Opens the directory, makes it where there is none, and removes temporary files of dead writers that are older than a day. It works
    /// on files for a moment, and so blocks.
    ///
    /// # Errors
    /// [`StoreError::Denied`], [`StoreError::Full`], or [`StoreError::Failed`] where the file system does not keep times exactly enough.
    pub fn open(path: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        // Absolute, so that parents can be told, and a change of the working directory changes nothing.
        let root: PathBuf = path.into();
        let root = std::path::absolute(&root).map_err(|error| refusal(&root, &error))?;
        make_folder(&root.join(".staged"))?;
        make_folder(&root.join(".leases"))?;
        let lock = Lock::open(root.join(".lock"))?;
        let inner = Inner { root, clock, lock, staged: Mutex::default(), unique: Uuid::new_v4(), temporary: AtomicU64::new(0) };
        inner.sweep()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(StoreError::Failed(format!("the process is ending: {error}"))),
            },
        }
    }
}

impl Inner {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn temporary(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.root.join(".staged").join(format!("{}-{number}", self.unique))
    }

    /// The wall clock as leases and versions use it. A clock before 1970 counts as 1970.
    fn wall(&self) -> Duration {
        Duration::from_millis(self.clock.now().as_millisecond().try_into().unwrap_or(0))
    }

    fn staged(&self) -> MutexGuard<'_, HashMap<String, Arc<Staging>>> {
        // A map of one operation at a time is whole whatever panicked.
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self) -> Result<(), StoreError> {
        let folder = self.root.join(".staged");
        let old = SystemTime::UNIX_EPOCH + self.wall().saturating_sub(ABANDONED);
        let remove = || {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let modified = entry.metadata().and_then(|meta| meta.modified());
                if modified.is_ok_and(|modified| modified < old) {
                    // Another store may be sweeping too.
                    std::fs::remove_file(entry.path()).or_else(|error| if absent(&error) { Ok(()) } else { Err(error) })?;
                }
            }
            io::Result::Ok(())
        };
        remove().map_err(|error| refusal(&folder, &error))
    }

    /// Opens a blob. `None` where there is none; a folder is none.
    fn open(&self, name: &str) -> Result<Option<(File, u64)>, StoreError> {
        let path = self.path(name);
        let open = || {
            let file = File::open(&path)?;
            let meta = file.metadata()?;
            io::Result::Ok((file, meta))
        };
        match open() {
            Ok((file, meta)) => Ok(meta.is_file().then_some((file, meta.len()))),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(refusal(&path, &error)),
        }
    }

    fn read(&self, name: &str, file: &File, range: Range<u64>) -> Result<Bytes, StoreError> {
        let length =
            usize::try_from(range.end - range.start).map_err(|_| StoreError::Failed(format!("{name}: too large to be read at once")))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start).map_err(|error| refusal(&self.path(name), &error))?;
        Ok(bytes.into())
    }

    fn get(&self, name: &str) -> Result<Option<Blob>, StoreError> {
        let Some((file, length)) = self.open(name)? else { return Ok(None) };
        // A file that has its lasting name never changes, so length, bytes and version belong together.
        let body = self.read(name, &file, 0..length)?;
        let etag = etag(&file).map_err(|error| refusal(&self.path(name), &error))?;
        Ok(Some(Blob { body, etag }))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let (file, length) = self.open(name)?.ok_or_else(|| StoreError::NotFound(name.to_owned()))?;
        if range.start > range.end || range.end > length {
            return Err(StoreError::Failed(format!("{name}: {range:?} reaches past its {length} bytes")));
        }
        self.read(name, &file, range)
    }

    fn put(&self, name: &str, body: &[u8], when: When, lease: Option<LeaseId>) -> Result<ETag, StoreError> {
        // What takes long is done before the lock is held.
        let written = Temporary::holding(self.temporary(), body)?;
        let locked = self.lock.lock()?;
        let current = match self.open(name)? {
            Some((file, _)) => Some(etag(&file).map_err(|error| refusal(&self.path(name), &error))?),
            None => None,
        };
        // A lease file without its blob was left behind by somebody who deleted the blob by hand.
        let held = if current.is_some() { self.lease(name)? } else { None };
        let left = lease::write(name, held, lease, self.wall())?;
        match when {
            When::Absent if current.is_some() => return Err(StoreError::Exists(name.to_owned())),
            When::Matches(etag) if current.as_ref() != Some(&etag) => return Err(StoreError::Changed(name.to_owned())),
            _ => {}
        }
        self.name(&locked, &written, name, left)
    }

    /// Gives a file the name of a blob, with a version of its own, and leaves the blob the lease `left` or none.
    fn name(&self, locked: &Locked<'_>, written: &Temporary, name: &str, left: Option<Lease>) -> Result<ETag, StoreError> {
        if left.is_none() && self.lease(name)?.is_some() {
            // First: a lease that is lost without a write harms nobody, a write that leaves a lease to be renewed does.
            self.set_lease(name, None)?;
        }
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        let etag = locked.stamp(&written.file, self.wall())?;
        written.keep(&path)?;
        sync_folder(folder)?;
        Ok(etag)
    }

    fn stage(&self, name: &str, part: u32, pieces: &[Bytes]) -> Result<(), StoreError> {
        accept::part(name, part, pieces)?;
        let now = self.clock.monotonic();
        loop {
            let staging = {
                let mut staged = self.staged();
                match staged.get(name) {
                    Some(staging) => Arc::clone(staging),
                    None => {
                        staged.retain(|_, staging| staging.touched() + ABANDONED > now);
                        let staging = Arc::new(Staging::create(self.temporary(), now)?);
                        staged.insert(name.to_owned(), Arc::clone(&staging));
                        staging
                    }
                }
            };
            if staging.stage(part, pieces, || self.temporary(), now)? {
                return Ok(());
            }
            self.forget(name, &staging);
        }
    }

    fn commit(&self, name: &str, parts: u32) -> Result<(), StoreError> {
        let staging = self.staged().get(name).cloned();
        let exists = || self.open(name).map(|blob| blob.is_some());
        let result = self.commit_staged(name, parts, staging.as_ref(), exists);
        if let (Some(staging), Ok(()) | Err(StoreError::Exists(_))) = (staging, &result) {
            self.forget(name, &staging);
        }
        result
    }

    fn commit_staged(
        &self,
        name: &str,
        parts: u32,
        staging: Option<&Arc<Staging>>,
        exists: impl Fn() -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        if exists()? {
            return Err(StoreError::Exists(name.to_owned()));
        }
        let joined;
        let empty;
        let file = match staging {
            Some(staging) => {
                joined = staging.join(name, parts, || self.temporary())?;
                joined.file()
            }
            None if parts == 0 => {
                empty = Temporary::holding(self.temporary(), &[])?;
                &empty
            }
            None => return Err(StoreError::Failed(format!("{name}: part 0 was never staged"))),
        };
        let locked = self.lock.lock()?;
        if exists()? {
            return Err(StoreError::Exists(name.to_owned()));
        }
        self.name(&locked, file, name, None)?;
        Ok(())
    }

    fn forget(&self, name: &str, staging: &Arc<Staging>) {
        let mut staged = self.staged();
        if staged.get(name).is_some_and(|held| Arc::ptr_eq(held, staging)) {
            staged.remove(name);
        }
    }

    fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<bool, StoreError> {
        let _locked = self.lock.lock()?;
        if self.open(name)?.is_none() {
            return Ok(false);
        }
        let held = self.lease(name)?;
        lease::write(name, held, lease, self.wall())?;
        if held.is_some() {
            self.set_lease(name, None)?;
        }
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.root);
        std::fs::remove_file(&path).map_err(|error| refusal(&path, &error))?;
        sync_folder(folder)?;
        prune_folders(folder, &self.root);
        Ok(true)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let mut found = Vec::new();
        let mut folders = vec![prefix.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"))];
        while let Some(folder) = folders.pop() {
            let path = self.root.join(&folder);
            let read = |found: &mut Vec<Listed>, folders: &mut Vec<String>| {
                for entry in std::fs::read_dir(&path)? {
                    let entry = entry?;
                    let file_name = entry.file_name();
                    // A name that is not UTF-8 was not given by a store.
                    let Some(part) = file_name.to_str().filter(|part| !part.starts_with('.')) else { continue };
                    let name = format!("{folder}{part}");
                    let kind = entry.file_type()?;
                    if kind.is_dir() && (name.starts_with(prefix) || prefix.starts_with(&format!("{name}/"))) {
                        folders.push(format!("{name}/"));
                    } else if kind.is_file() && name.starts_with(prefix) {
                        match entry.metadata() {
                            Ok(meta) => found.push(Listed { name, size: meta.len() }),
                            // Deleted since the folder was read.
                            Err(error) if absent(&error) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                io::Result::Ok(())
            };
            match read(&mut found, &mut folders) {
                Err(error) if !absent(&error) => return Err(refusal(&path, &error)),
                _ => {}
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Changes the lease of a blob that exists.
    fn with_lease(
        &self,
        name: &str,
        change: impl FnOnce(Option<Lease>, Duration) -> Result<Option<Lease>, StoreError>,
    ) -> Result<(), StoreError> {
        let _locked = self.lock.lock()?;
        if self.open(name)?.is_none() {
            return Err(StoreError::NotFound(name.to_owned()));
        }
        let held = self.lease(name)?;
        let left = change(held, self.wall())?;
        if left == held { Ok(()) } else { self.set_lease(name, left) }
    }

    fn lease_path(&self, name: &str) -> PathBuf {
        self.root.join(".leases").join(name)
    }

    fn lease(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        let path = self.lease_path(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(refusal(&path, &error)),
        };
        // A lease that cannot be read may be somebody's: it is neither kept nor broken here.
        let file: LeaseFile =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::Failed(format!("{}: not a lease: {error}", path.display())))?;
        Ok(Some(Lease { id: file.id, until: Duration::from_millis(file.until), broken: file.broken }))
    }

    fn set_lease(&self, name: &str, lease: Option<Lease>) -> Result<(), StoreError> {
        let path = self.lease_path(name);
        let root = self.root.join(".leases");
        let folder = path.parent().unwrap_or(&root);
        let Some(lease) = lease else {
            std::fs::remove_file(&path).map_err(|error| refusal(&path, &error))?;
            sync_folder(folder)?;
            prune_folders(folder, &root);
            return Ok(());
        };
        let until = u64::try_from(lease.until.as_millis()).unwrap_or(u64::MAX);
        let file = LeaseFile { id: lease.id, until, broken: lease.broken };
        let bytes = serde_json::to_vec(&file).map_err(|error| StoreError::Failed(error.to_string()))?;
        let written = Temporary::holding(self.temporary(), &bytes)?;
        make_folder(folder)?;
        written.keep(&path)?;
        sync_folder(folder)
    }
}

#[async_trait]
impl LogStore for DirectoryStore {
    async fn get(&self, name: &str) -> Result<Option<Blob>, StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.get(&name)).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.get_range(&name, range)).await
    }

    async fn put(&self, name: &str, body: Bytes, when: When, lease: Option<LeaseId>) -> Result<ETag, StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.put(&name, &body, when, lease)).await
    }

    async fn stage(&self, name: &str, part: u32, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.stage(&name, part, &pieces)).await
    }

    async fn commit(&self, name: &str, parts: u32) -> Result<(), StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.commit(&name, parts)).await
    }

    async fn delete(&self, name: &str, lease: Option<LeaseId>) -> Result<bool, StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.delete(&name, lease)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        accept::prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.run(move |inner| inner.list(&prefix)).await
    }

    async fn acquire(&self, name: &str, id: LeaseId) -> Result<(), StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.with_lease(&name, |held, now| lease::acquire(&name, held, id, now).map(Some))).await
    }

    async fn renew(&self, name: &str, id: LeaseId) -> Result<(), StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.with_lease(&name, |held, now| lease::renew(&name, held, id, now).map(Some))).await
    }

    async fn release(&self, name: &str, id: LeaseId) -> Result<(), StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.with_lease(&name, |held, _| lease::release(&name, held, id).map(|()| None))).await
    }

    async fn break_lease(&self, name: &str) -> Result<(), StoreError> {
        accept::name(name)?;
        let name = name.to_owned();
        self.run(move |inner| inner.with_lease(&name, |held, _| Ok(lease::brk(held)))).await
    }
}

/// For messages: the folder.
impl std::fmt::Debug for DirectoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DirectoryStore").field(&self.inner.root).finish()
    }
}
