//! The bytes of managed disks and snapshots, in sparse files, and who may reach them.
//!
//! One lock for each disk orders everything: a write looks for its grant and its conditions under the lock under which it changes the bytes,
//! so a revocation or a copy comes wholly before it or wholly after it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use aws_lc_rs::digest;
use jiff::Timestamp;
use uuid::Uuid;

use super::disk::{Disk, Grant, read, write};
use super::footer::{self, FOOTER, InvalidVhd};
use super::ranges::Ranges;
use super::sas::Signer;
use super::switches::HostKnobs;
use crate::Clock;

/// What a SAS lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Access {
    /// Get Blob, Get Blob Properties, Get Page Ranges.
    Read,
    /// These, and Put Page.
    Write,
}

/// The disks; cheap to clone.
#[derive(Clone)]
pub struct DiskStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    folder: PathBuf,
    /// How clients reach the host, without a slash at the end.
    pub(super) public: String,
    pub(super) clock: Clock,
    pub(super) signer: Signer,
    index: RwLock<Index>,
    pub(super) knobs: HostKnobs,
    /// For sources of Put Page From URL that are not ours.
    pub(super) http: reqwest::Client,
}

#[derive(Default)]
struct Index {
    by_id: HashMap<String, Arc<Disk>>,
    by_container: HashMap<String, Arc<Disk>>,
}

fn missing(id: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no disk {id}"))
}

impl std::fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskStore").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

impl DiskStore {
    /// Keeps disks in `folder`, in which disks of an earlier process are deleted; `public` is the URL by which clients reach the host.
    ///
    /// # Errors
    /// When the folder cannot be made or cleaned, or there is no randomness or no TLS.
    pub fn open(folder: &Path, public: &str, clock: Clock) -> io::Result<Self> {
        let folder = folder.join("disks");
        std::fs::create_dir_all(&folder)?;
        for left in std::fs::read_dir(&folder)? {
            let path = left?.path();
            if path.extension().is_some_and(|extension| extension == "disk") {
                std::fs::remove_file(path)?;
            }
        }
        let http = reqwest::Client::builder().no_proxy().build().map_err(io::Error::other)?;
        let inner = Inner {
            folder,
            public: public.trim_end_matches('/').to_owned(),
            clock,
            signer: Signer::random()?,
            index: RwLock::default(),
            knobs: HostKnobs::default(),
            http,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        read(&self.inner.index)
    }

    pub(super) fn disk(&self, id: &str) -> Option<Arc<Disk>> {
        self.index().by_id.get(&id.to_lowercase()).cloned()
    }

    pub(super) fn by_container(&self, container: &str) -> Option<Arc<Disk>> {
        self.index().by_container.get(container).cloned()
    }

    /// All disks, by id.
    pub(super) fn disks(&self) -> Vec<Arc<Disk>> {
        let mut disks: Vec<Arc<Disk>> = self.index().by_id.values().cloned().collect();
        disks.sort_by(|one, other| one.id.cmp(&other.id));
        disks
    }

    fn make(&self, id: &str, content: u64, upload: bool, fill: impl FnOnce(&File) -> io::Result<Ranges>) -> io::Result<()> {
        let id = id.to_lowercase();
        let taken = || io::Error::new(io::ErrorKind::AlreadyExists, format!("there is a disk {id} already"));
        if self.disk(&id).is_some() {
            return Err(taken());
        }
        let path = self.inner.folder.join(format!("{}.disk", Uuid::new_v4()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let size = content + if upload { FOOTER } else { 0 };
        let filled = fill(&file).and_then(|written| file.set_len(size).map(|()| written));
        let written = match filled {
            Ok(written) => written,
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
        };
        let now = self.inner.clock.now();
        let digest = digest::digest(&digest::SHA256, id.as_bytes());
        let mut unique = [0; 16];
        unique.copy_from_slice(&digest.as_ref()[..16]);
        let container = format!("c{}", &Uuid::new_v4().simple().to_string()[..11]);
        let disk = Arc::new(Disk::new(id.clone(), container, (path, file), content, upload, unique, written, now));
        let mut index = write(&self.inner.index);
        if index.by_id.contains_key(&id) {
            let _ = std::fs::remove_file(&disk.path);
            return Err(taken());
        }
        index.by_container.insert(disk.container.clone(), Arc::clone(&disk));
        index.by_id.insert(id, disk);
        Ok(())
    }

    /// Makes a disk of zeroes; `footer`: it is uploaded, so that it has 512 bytes more, for the footer to be written.
    ///
    /// # Errors
    /// When there is a disk of that id, or no file can be made.
    pub fn create(&self, id: &str, content: u64, footer: bool) -> io::Result<()> {
        self.make(id, content, footer, |_| Ok(Ranges::default()))
    }

    /// Makes `to`, of `content` bytes, from what `from` holds now, without its footer. What is beyond the end of `from` is zero.
    ///
    /// # Errors
    /// When `from` is missing or larger, `to` exists, or the bytes cannot be copied.
    pub fn copy(&self, from: &str, to: &str, content: u64) -> io::Result<()> {
        let source = self.disk(from).ok_or_else(|| missing(from))?;
        self.make(to, content, false, |file| {
            // Nobody writes meanwhile: the copy is of one moment.
            let inside = read(&source.inside);
            let held = source.content();
            if content < held {
                let why = format!("{content} bytes cannot hold the {held} of {from}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let mut written = Ranges::default();
            let whole = rustix::fs::ioctl_ficlone(file, &source.file).is_ok();
            if whole {
                // The footer, if there is one, is not content.
                file.set_len(held)?;
            }
            let mut buffer = vec![0; 1 << 20];
            for (start, end) in inside.written.within(0, held) {
                written.insert(start, end);
                let mut at = start;
                while !whole && at < end {
                    let step = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                    source.file.read_exact_at(&mut buffer[..step], at)?;
                    file.write_all_at(&buffer[..step], at)?;
                    at += step as u64;
                }
            }
            Ok(written)
        })
    }

    /// Deletes a disk; its SAS die with it.
    pub fn delete(&self, id: &str) {
        let gone = {
            let mut index = write(&self.inner.index);
            let gone = index.by_id.remove(&id.to_lowercase());
            if let Some(disk) = &gone {
                index.by_container.remove(&disk.container);
            }
            gone
        };
        if let Some(disk) = gone {
            write(&disk.inside).grants.clear();
            let _ = std::fs::remove_file(&disk.path);
        }
    }

    /// Gives out a SAS until `until`, under the name `si`. A disk that was deleted meanwhile gets a URL that opens nothing.
    #[must_use]
    pub fn grant(&self, id: &str, access: Access, until: Timestamp, si: Uuid) -> String {
        let Some(disk) = self.disk(id) else {
            return self.inner.signer.url(&self.inner.public, "gone", si);
        };
        write(&disk.inside).grants.insert(si, Grant { access, until });
        self.inner.signer.url(&self.inner.public, &disk.container, si)
    }

    /// Ends all SAS of a disk at once: a write that was let in but has not changed anything yet is refused.
    pub fn revoke(&self, id: &str) {
        if let Some(disk) = self.disk(id) {
            write(&disk.inside).grants.clear();
        }
    }

    /// Lets the SAS of a disk, or of all, reach their end now.
    pub fn expire(&self, id: Option<&str>) -> usize {
        let now = self.inner.clock.now();
        let mut ended = 0;
        for disk in self.disks().iter().filter(|disk| id.is_none_or(|id| disk.id == id.to_lowercase())) {
            for grant in write(&disk.inside).grants.values_mut() {
                ended += usize::from(grant.until > now);
                grant.until = grant.until.min(now);
            }
        }
        ended
    }

    /// Looks at the footer of an upload, as Azure does when its write access is revoked.
    ///
    /// # Errors
    /// [`InvalidVhd`].
    pub fn footer(&self, id: &str) -> Result<(), InvalidVhd> {
        let disk = self.disk(id).filter(|disk| disk.upload).ok_or_else(|| InvalidVhd::NoUpload(id.to_owned()))?;
        let blob = format!("{}/{}/abcd", self.inner.public, disk.container);
        let mut bytes = [0; FOOTER as usize];
        disk.file.read_exact_at(&mut bytes, disk.content()).map_err(|_| InvalidVhd::NoUpload(blob.clone()))?;
        footer::check(&bytes, disk.content(), "abcd", &blob)
    }

    /// Bytes of a disk without its footer.
    #[must_use]
    pub fn content(&self, id: &str) -> Option<u64> {
        self.disk(id).map(|disk| disk.content())
    }

    /// Makes a disk larger; what is new is zero.
    ///
    /// # Errors
    /// When the disk is missing, being uploaded or larger already, or its file cannot grow.
    pub fn resize(&self, id: &str, content: u64) -> io::Result<()> {
        let disk = self.disk(id).ok_or_else(|| missing(id))?;
        let mut inside = write(&disk.inside);
        if disk.upload && !inside.grants.is_empty() || content < disk.content() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{id} cannot become {content} bytes")));
        }
        if disk.upload {
            // Its footer is no longer at its end, and no longer true.
            inside.written.remove(disk.content(), disk.size());
            disk.file.set_len(disk.content())?;
        }
        let footer = if disk.upload { FOOTER } else { 0 };
        disk.file.set_len(content + footer)?;
        if disk.upload {
            disk.file.write_all_at(&footer::make(content, disk.unique, 0), content)?;
            inside.written.insert(content, content + FOOTER);
        }
        disk.grow(content);
        inside.touch(self.inner.clock.now());
        Ok(())
    }

    /// Writes as whoever owns the bytes: an import, or the guest of the machine that the disk is attached to.
    ///
    /// # Errors
    /// When the disk is missing, the range is beyond its content, or the file cannot be written.
    pub fn write(&self, id: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let disk = self.disk(id).ok_or_else(|| missing(id))?;
        let end = offset.saturating_add(bytes.len() as u64);
        let mut inside = write(&disk.inside);
        // An import brings its own footer.
        let limit = if disk.upload { disk.size() } else { disk.content() };
        if end > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{end} is beyond the {limit} bytes of {id}")));
        }
        disk.file.write_all_at(bytes, offset)?;
        inside.written.insert(offset, end);
        inside.touch(self.inner.clock.now());
        Ok(())
    }

    /// Reads, footer included; a read beyond the end is short.
    ///
    /// # Errors
    /// When the disk is missing or its file cannot be read.
    pub fn read(&self, id: &str, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let disk = self.disk(id).ok_or_else(|| missing(id))?;
        let _still = read(&disk.inside);
        disk.bytes(offset, length)
    }

    /// SHA-256 of one moment of `offset..offset + length`, cut to the disk's end, footer included.
    ///
    /// # Errors
    /// When the disk is missing or its file cannot be read.
    pub fn sha256(&self, id: &str, offset: u64, length: u64) -> io::Result<String> {
        let disk = self.disk(id).ok_or_else(|| missing(id))?;
        let inside = read(&disk.inside);
        let end = offset.saturating_add(length).min(disk.size());
        let mut context = digest::Context::new(&digest::SHA256);
        let zeroes = vec![0; 1 << 20];
        let mut at = offset;
        let mut pieces: Vec<(u64, u64)> = inside.written.within(offset, end).collect();
        if !disk.upload && end > disk.content() {
            pieces.push((disk.content().max(offset), end));
        }
        pieces.push((end, end));
        for (start, stop) in pieces {
            while at < start {
                let step = usize::try_from(start - at).unwrap_or(usize::MAX).min(zeroes.len());
                context.update(&zeroes[..step]);
                at += step as u64;
            }
            while at < stop {
                let bytes = disk.bytes(at, (stop - at).min(1 << 20))?;
                context.update(&bytes);
                at += bytes.len() as u64;
            }
        }
        Ok(hex::encode(context.finish()))
    }
}
