//! A disk in a file or on a block device.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use extents::ExtentSet;
use rustix::buffer::spare_capacity;
use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread};
use tokio::task::spawn_blocking;

use crate::zeroes::ZeroRuns;
use crate::{DiskSource, SourceError, check};

/// A raw image or a block device that nobody writes while it is open.
#[derive(Debug)]
pub struct RawFile {
    file: Arc<File>,
    size: u64,
}

impl RawFile {
    /// Opens a regular file or a block device for reading.
    ///
    /// # Errors
    /// [`SourceError::Refused`] where there is none, it may not be read, or it is something else (a directory, a pipe).
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let path = path.as_ref().to_owned();
        blocking(move || {
            let refused = |why: &dyn std::fmt::Display| SourceError::refused(format!("{}: {why}", path.display()));
            // A pipe is told apart before it is opened: opening one waits for a writer.
            let kind = std::fs::metadata(&path).map_err(|e| refused(&e))?.file_type();
            if !kind.is_file() && !kind.is_block_device() {
                return Err(refused(&"neither a file nor a block device"));
            }
            let file = File::open(&path).map_err(|e| refused(&e))?;
            // The length in a block device's metadata is 0; its end can be sought like a file's.
            let size = seek(&file, SeekFrom::End(0)).map_err(|e| refused(&e))?;
            Ok(Self { file: Arc::new(file), size })
        })
        .await
    }
}

#[async_trait]
impl DiskSource for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, SourceError> {
        check(self.size, offset, length)?;
        let file = Arc::clone(&self.file);
        blocking(move || read_at(&file, offset, length)).await
    }

    async fn zeroes(&self, range: Range<u64>) -> Option<ExtentSet> {
        let file = Arc::clone(&self.file);
        let range = range.start..range.end.min(self.size);
        spawn_blocking(move || holes(&file, range)).await.ok()?
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, SourceError> + Send + 'static) -> Result<T, SourceError> {
    spawn_blocking(work).await.map_err(|e| SourceError::unreachable(format!("the reading thread ended: {e}")))?
}

fn read_at(file: &File, offset: u64, length: u32) -> Result<Vec<u8>, SourceError> {
    let wanted = length as usize;
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let at = offset + bytes.len() as u64;
        match pread(file, spare_capacity(&mut bytes), at) {
            // The file was cut since it was opened.
            Ok(0) => return Err(SourceError::TooShort { size: at, wanted: offset + u64::from(length) }),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(SourceError::Read { offset, length, message: error.to_string() }),
        }
    }
    // An allocator may give more than it was asked for, and the kernel fills what there is.
    bytes.truncate(wanted);
    Ok(bytes)
}

/// The holes of a file, from its file system. `None` where that can't tell (a block device, for one).
fn holes(file: &File, range: Range<u64>) -> Option<ExtentSet> {
    let mut zeroes = ZeroRuns::default();
    let mut at = range.start;
    while at < range.end {
        // Both are told in terms of the whole file: from `at`, where is the next byte of data, and where does that data end?
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(range.end),
            Err(Errno::NXIO) => range.end,
            Err(_) => return None,
        };
        zeroes.push(at..data);
        if data == range.end {
            break;
        }
        let end = seek(file, SeekFrom::Hole(data)).ok()?;
        if end <= data {
            return None;
        }
        at = end;
    }
    Some(zeroes.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_READ;
    use std::io::{Seek, SeekFrom as StdSeek, Write};

    const MIB: u64 = 1 << 20;

    fn file(parts: &[(u64, Vec<u8>)], size: u64) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for (at, bytes) in parts {
            file.seek(StdSeek::Start(*at)).unwrap();
            file.write_all(bytes).unwrap();
        }
        file.as_file().set_len(size).unwrap();
        file
    }

    #[tokio::test]
    async fn reads_what_the_file_holds_up_to_its_end() {
        let bytes: Vec<u8> = (0..3 * MIB).map(|i| (i * 31 / 7) as u8).collect();
        let file = file(&[(0, bytes.clone())], 3 * MIB);
        let source = RawFile::open(file.path()).await.unwrap();
        assert_eq!(source.size(), 3 * MIB);
        for (offset, length) in [(0, MAX_READ), (512, 512), (3 * MIB - 512, 512), (MIB + 1024, 4096)] {
            let got = source.read(offset, length).await.unwrap();
            assert_eq!(got, bytes[offset as usize..][..length as usize]);
        }
    }

    #[tokio::test]
    async fn reads_past_the_end_and_crooked_ones_are_refused() {
        let file = file(&[], 2 * MIB);
        let source = RawFile::open(file.path()).await.unwrap();
        let past = source.read(2 * MIB - 512, 1024).await.unwrap_err();
        assert_eq!(past, SourceError::TooShort { size: 2 * MIB, wanted: 2 * MIB + 512 });
        let overflow = source.read(u64::MAX - 511, 512).await.unwrap_err();
        assert_eq!(overflow, SourceError::TooShort { size: 2 * MIB, wanted: u64::MAX });
        for (offset, length) in [(0, 0), (1, 512), (0, 513), (0, MAX_READ + 512)] {
            assert!(matches!(source.read(offset, length).await, Err(SourceError::Read { .. })), "{length} at {offset}");
        }
    }

    #[tokio::test]
    async fn a_file_that_was_cut_is_too_short() {
        let file = file(&[], MIB);
        let source = RawFile::open(file.path()).await.unwrap();
        file.as_file().set_len(1000).unwrap();
        let error = source.read(512, 1024).await.unwrap_err();
        assert_eq!(error, SourceError::TooShort { size: 1000, wanted: 1536 });
    }

    #[tokio::test]
    async fn holes_are_zeroes_and_data_is_not() {
        let file = file(&[(MIB, vec![7; 4096]), (3 * MIB, vec![8; 65536])], 8 * MIB);
        let source = RawFile::open(file.path()).await.unwrap();
        let Some(zeroes) = source.zeroes(0..8 * MIB).await else { panic!("the temporary directory's file system knows no holes") };
        // A file system may know holes only in blocks of its own; it may not call data a hole.
        assert!(zeroes.contains(0..1024) && zeroes.contains(8192..16 * 1024), "{zeroes:?}");
        assert!(!zeroes.intersects(2048..2048 + 8) && !zeroes.intersects(6144..6144 + 128), "{zeroes:?}");
        assert_eq!(source.zeroes(MIB / 2..MIB).await.unwrap(), ExtentSet::from(1024..2048));
        assert_eq!(source.zeroes(6 * MIB..u64::MAX).await.unwrap(), ExtentSet::from(12 * 1024..16 * 1024));
        assert!(source.zeroes(MIB..MIB).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn only_files_and_block_devices_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("absent"), "/dev/null".into()] {
            let error = RawFile::open(&path).await.unwrap_err();
            assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains(&path.display().to_string())), "{error}");
        }
    }
}
