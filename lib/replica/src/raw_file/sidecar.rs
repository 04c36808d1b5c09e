//! What stands beside a raw file: the seed's identity and its fence. The file itself holds nothing but the disk's content.

use std::{
    fs::{self, File, Metadata},
    io::{ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::io_error;
use crate::ReplicaError;

/// The only format so far.
const FORMAT: u32 = 1;

/// `<path>.hawser`: which file is a seed, and the turn that may write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Sidecar {
    format: u32,
    /// The seed's identity.
    pub(super) unique_id: Uuid,
    /// Bytes that the file holds.
    pub(super) capacity: u64,
    /// The turn whose fence was raised last.
    pub(super) turn: Option<u64>,
    file: FileIdentity,
}

/// Which file it was written for, so that a file deleted and made anew is not taken for the seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileIdentity {
    device: u64,
    inode: u64,
    /// Not every filesystem records it.
    #[serde(skip_serializing_if = "Option::is_none")]
    birth_time: Option<Timestamp>,
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> Self {
        let birth_time = metadata.created().ok().and_then(|time| Timestamp::try_from(time).ok());
        Self { device: metadata.dev(), inode: metadata.ino(), birth_time }
    }

    /// An inode's number is used again after its file is gone, its time of birth is not. The device's number is only looked at where there
    /// is no time of birth: it changes when a volume is mounted again, or by another node.
    fn is(&self, other: &Self) -> bool {
        self.inode == other.inode
            && match (self.birth_time, other.birth_time) {
                (Some(one), Some(other)) => one == other,
                _ => self.device == other.device,
            }
    }
}

/// `path` with `suffix` after its last letter.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Sidecar {
    pub(super) fn new(unique_id: Uuid, capacity: u64, file: &Metadata) -> Self {
        Self { format: FORMAT, unique_id, capacity, turn: None, file: FileIdentity::of(file) }
    }

    /// True where it speaks of this very file, in its whole length.
    pub(super) fn describes(&self, file: &Metadata) -> bool {
        self.file.is(&FileIdentity::of(file)) && self.capacity == file.len()
    }

    /// The sidecar of the file at `path`, or `None` where there is none.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, ReplicaError> {
        let sidecar = beside(path, ".hawser");
        let text = match fs::read(&sidecar) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&sidecar, &error)),
        };
        /// Enough to tell a later format from a damaged file.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged = |error: serde_json::Error| ReplicaError::Failed(format!("{} cannot be read: {error}", sidecar.display()));
        let Version { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format != FORMAT {
            return Err(ReplicaError::Failed(format!(
                "{} has format {format}, this version of Hawser knows {FORMAT}: use the version that wrote it, or a newer one",
                sidecar.display()
            )));
        }
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// Replaces the sidecar of the file at `path`: after a crash there is the old one or the new one. Only the holder of the file's lock
    /// calls it.
    pub(super) fn store(&self, path: &Path) -> Result<(), ReplicaError> {
        let sidecar = beside(path, ".hawser");
        let fresh = beside(path, ".hawser.tmp");
        let text = serde_json::to_vec_pretty(self).map_err(|error| ReplicaError::Failed(error.to_string()))?;
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&fresh, &sidecar)?;
            sync_folder(&sidecar)
        };
        write().map_err(|error| io_error(&sidecar, &error))
    }
}

/// Makes a change of names in the folder of `path` durable.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use reasons::Reason;

    use super::*;

    #[test]
    fn a_volume_mounted_elsewhere_is_the_same() {
        let birth_time = Some("2026-11-23T12:00:00.123456789Z".parse().unwrap());
        let one = FileIdentity { device: 1, inode: 7, birth_time };
        assert!(one.is(&FileIdentity { device: 2, ..one.clone() }));
        assert!(!one.is(&FileIdentity { inode: 8, ..one.clone() }));
        assert!(!one.is(&FileIdentity { birth_time: Some(Timestamp::UNIX_EPOCH), ..one.clone() }));
        let old = FileIdentity { birth_time: None, ..one };
        assert!(old.is(&old));
        assert!(!old.is(&FileIdentity { device: 2, ..old.clone() }));
    }

    #[test]
    fn other_formats_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        assert_eq!(Sidecar::load(&path), Ok(None));
        for (text, word) in [("{\"format\":2,\"more\":1}", "has format 2"), ("{\"format\":1}", "cannot be read"), ("", "cannot be read")] {
            fs::write(beside(&path, ".hawser"), text).unwrap();
            let error = Sidecar::load(&path).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.reason(), Reason::ReplicaFailed);
        }
    }
}
