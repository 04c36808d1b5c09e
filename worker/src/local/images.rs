//! Images in the place of snapshots.
//!
//! A "snapshot" of local images is their owner's promise that nobody writes them while a cycle lasts. The promise is watched: each image has an
//! identity (a file's path, size, inode and times of change; an export's address, name and size), and the snapshot's reference is a digest of
//! them all. An image that changed while it was read, or between two runs of a cycle that was interrupted, is noticed, and never gives a
//! replica that mixes two states. What it can't see is a write through an NBD server or to a block device.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use blocklog::{
    clock::Clock,
    cycle::Snapshot,
    ids::{ChangeId, Cycle, CycleId, DiskKey, VmId},
};
use extents::ExtentSet;
use reasons::Reason;
use source::{DiskSource, SourceError};

use super::{
    compare,
    file::{Changed, ChangedBy, Disk, SourceAt, sound},
    open,
};
use crate::{
    failure::{Failure, Kind},
    snapshot::{Changes, Found, SnapshotControl, SnapshotError},
};

/// The images of one VM.
pub struct Images {
    clock: Arc<dyn Clock>,
    id: Option<String>,
    disks: BTreeMap<DiskKey, Image>,
    /// The snapshot that this process has "taken".
    taken: Mutex<Option<Found>>,
    /// The last reference that was found to hold.
    seen: Mutex<Option<String>>,
}

struct Image {
    source: SourceAt,
    /// Bytes, as it was first opened.
    size: u64,
    changed: Option<Changed>,
    /// The areas, once they are known.
    areas: tokio::sync::OnceCell<ExtentSet>,
}

impl Images {
    /// Opens every image once to learn its size, and looks whether what is said of its changes can be true.
    ///
    /// # Errors
    /// Those of opening them; [`Kind::BadFile`] for a size that is not whole sectors, for areas past the end, and for an image to compare with
    /// that is of another size.
    pub async fn open(disks: &BTreeMap<DiskKey, Disk>, id: Option<String>, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let mut images = BTreeMap::new();
        for (key, disk) in disks {
            let about = format!("disk {key}");
            let source = open::source(&disk.source).await.map_err(|error| Failure::from(error).about(&about))?;
            let size = source.size();
            if size == 0 || !size.is_multiple_of(extents::SECTOR) {
                let message = format!("{about}: the source has {size} bytes, which is not a disk of whole sectors of 512 bytes");
                return Err(Failure::new(Kind::BadFile, message, "Name the raw image of a disk."));
            }
            let image = Image { source: disk.source.clone(), size, changed: disk.changed.clone(), areas: tokio::sync::OnceCell::new() };
            image.check_changed().await.map_err(|why| {
                Failure::new(
                    Kind::BadFile,
                    format!("{about}: {why}"),
                    "Correct what the file says of the disk's changes, or leave it out: then the disk is compared in full.",
                )
            })?;
            images.insert(*key, image);
        }
        Ok(Self { clock, id, disks: images, taken: Mutex::default(), seen: Mutex::default() })
    }

    /// Bytes of each image.
    pub fn sizes(&self) -> BTreeMap<DiskKey, u64> {
        self.disks.iter().map(|(key, image)| (*key, image.size)).collect()
    }

    /// The reference under which this process last saw the images stand still for a cycle.
    pub fn seen(&self, cycle: Cycle) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|reference| cycle_of(reference) == Some(cycle))
    }

    /// True where `seen`, which an interrupted run has noted for the cycle, are the images as they are now. An export looks the same whatever
    /// it holds; of one without a snapshot's name that can't be told.
    ///
    /// # Errors
    /// Those of asking for the files' times.
    pub async fn are(&self, seen: &str) -> Result<bool, SnapshotError> {
        let export = self.disks.values().any(|image| matches!(image.source, SourceAt::Nbd(_)));
        if export && self.id.is_none() {
            return Ok(false);
        }
        let Some(cycle) = cycle_of(seen) else { return Ok(false) };
        Ok(self.reference(cycle).await?.is_some_and(|reference| reference == seen))
    }

    fn image(&self, disk: DiskKey) -> Result<&Image, SnapshotError> {
        self.disks.get(&disk).ok_or_else(|| SnapshotError::refused(format!("the cycle's file names no disk {disk}")))
    }

    /// The reference of a snapshot of the images as they are now; none where one is gone.
    async fn reference(&self, cycle: Cycle) -> Result<Option<String>, SnapshotError> {
        let mut hasher = blake3::Hasher::new_derive_key("hawser v1 local images");
        let mut field = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        field(self.id.as_deref().unwrap_or_default());
        for (key, image) in &self.disks {
            field(&key.to_string());
            let mut files = Vec::new();
            match &image.source {
                SourceAt::File(path) => files.push(path),
                SourceAt::Nbd(target) => field(&format!("{} {} {}", target.address, target.export, image.size)),
            }
            // The areas hold between this image and the source.
            if let Some(Changed { by: ChangedBy::CompareWith(path), .. }) = &image.changed {
                files.push(path);
            }
            for path in files {
                let Some(identity) = stat(path.clone()).await? else { return Ok(None) };
                field(&path.to_string_lossy());
                field(&identity);
            }
        }
        Ok(Some(format!("local:{cycle}:{}", hasher.finalize().to_hex())))
    }

    fn taken(&self) -> MutexGuard<'_, Option<Found>> {
        // A panic while it was held can't have left it half changed: it is set at once.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cycle that a reference is of.
fn cycle_of(reference: &str) -> Option<Cycle> {
    reference.strip_prefix("local:")?.split(':').next()?.parse().ok().map(Cycle)
}

/// What the file system says of a file's identity; none where there is no such file.
async fn stat(path: PathBuf) -> Result<Option<String>, SnapshotError> {
    let shown = path.display().to_string();
    let found = tokio::task::spawn_blocking(move || std::fs::metadata(&path)).await;
    let found = found.map_err(|error| SnapshotError::unreachable(error.to_string()))?;
    match found {
        Ok(meta) => {
            // The time of the inode's change as well: a tool can set the other one back.
            let identity = format!(
                "{} {} {} {}.{:09} {}.{:09}",
                meta.dev(),
                meta.ino(),
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec()
            );
            Ok(Some(identity))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(SnapshotError::unreachable(format!("{shown}: {error}"))),
    }
}

impl Image {
    async fn check_changed(&self) -> Result<(), String> {
        match self.changed.as_ref().map(|changed| &changed.by) {
            None => Ok(()),
            Some(ChangedBy::Areas(areas)) => self.set_areas("changed.areas", areas),
            Some(ChangedBy::AreasFile(path)) => {
                let about = format!("changed.areasFile: {}", path.display());
                self.set_areas(&about, &read_areas(path).map_err(|error| format!("{about}: {error}"))?)
            }
            Some(ChangedBy::CompareWith(path)) => {
                let other = source::raw::RawFile::open(path).await.map_err(|error| format!("changed.compareWith: {error}"))?;
                let (size, found) = (self.size, other.size());
                if size == found {
                    Ok(())
                } else {
                    Err(format!("changed.compareWith: {} has {found} bytes, the source {size}", path.display()))
                }
            }
        }
    }

    fn set_areas(&self, about: &str, areas: &[(u64, u64)]) -> Result<(), String> {
        if let Some((start, length)) = areas.iter().find(|(start, length)| start.saturating_add(*length) > self.size) {
            return Err(format!("{about}: [{start}, {length}] reaches past the disk's {} bytes", self.size));
        }
        // It is set once, when the image is opened.
        let _ = self.areas.set(ExtentSet::from_bytes(areas.iter().map(|(start, length)| *start..start + length), self.size));
        Ok(())
    }

    async fn compared(&self) -> Result<ExtentSet, SourceError> {
        let Some(Changed { by: ChangedBy::CompareWith(path), .. }) = &self.changed else { return Ok(ExtentSet::new()) };
        let (one, other) = futures::try_join!(open::source(&self.source), source::raw::RawFile::open(path))?;
        if one.size() != other.size() {
            let why = format!("{} has {} bytes, the source {}", path.display(), other.size(), one.size());
            return Err(SourceError::refused(why));
        }
        compare::differing(one.as_ref(), &other).await
    }
}

/// Areas in a file: JSON (`[[start, length], …]`), or a line `start length` for each, `#` for comments. All in bytes.
fn read_areas(path: &Path) -> Result<Vec<(u64, u64)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    if text.trim_start().starts_with('[') {
        return sound(serde_json::from_str(&text).map_err(|error| error.to_string())?);
    }
    let mut areas = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(start) = words.next() else { continue };
        let area = words.next().and_then(|length| Some((start.parse().ok()?, length.parse().ok()?)));
        match (area, words.next()) {
            (Some(area), None) => areas.push(area),
            _ => return Err(format!("line {} is not `start length` in bytes", n + 1)),
        }
    }
    sound(areas)
}

#[async_trait]
impl SnapshotControl for Images {
    async fn find(&self, _: VmId) -> Result<Vec<Found>, SnapshotError> {
        Ok(self.taken().iter().cloned().collect())
    }

    async fn take(&self, of: CycleId) -> Result<Snapshot, SnapshotError> {
        // Before the images are looked at: they are what they were at this time, or later.
        let taken = self.clock.now();
        let gone = || SnapshotError::refused("an image that the cycle's file names is gone".to_owned());
        let reference = self.reference(of.cycle).await?.ok_or_else(gone)?;
        let change_id = ChangeId(self.id.clone().unwrap_or_else(|| format!("local/{}", of.cycle)));
        let change_ids = self.disks.keys().map(|disk| (*disk, Some(change_id.clone()))).collect();
        let snapshot = Snapshot { reference, taken, change_ids };
        *self.taken() = Some(Found { of, snapshot: snapshot.clone() });
        Ok(snapshot)
    }

    async fn stands(&self, snapshot: &Snapshot) -> Result<bool, SnapshotError> {
        let Some(cycle) = cycle_of(&snapshot.reference) else { return Ok(false) };
        let stands = self.reference(cycle).await?.is_some_and(|reference| reference == snapshot.reference);
        if stands {
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot.reference.clone());
        }
        Ok(stands)
    }

    async fn changed(&self, _: &Snapshot, disk: DiskKey, since: &ChangeId) -> Result<Changes, SnapshotError> {
        let image = self.image(disk)?;
        let Some(changed) = &image.changed else { return Ok(Changes::Unknown(Some(Reason::NoBaseline))) };
        if changed.since != since.0 {
            return Ok(Changes::Unknown(Some(Reason::ChangesUnknown)));
        }
        let areas = image.areas.get_or_try_init(|| image.compared()).await;
        let areas = areas.map_err(|error| SnapshotError::unreachable(format!("disk {disk}: {error}")))?;
        Ok(Changes::Areas(areas.clone()))
    }

    async fn open(&self, _: &Snapshot, disk: DiskKey) -> Result<Arc<dyn DiskSource>, SourceError> {
        let image = self.image(disk).map_err(|error| SourceError::refused(error.to_string()))?;
        let source = open::source(&image.source).await?;
        // A file's size is part of what is watched; of an export nobody else looks at it.
        if source.size() != image.size {
            let why = format!("it has {} bytes now, and had {} when the cycle began", source.size(), image.size);
            return Err(SourceError::refused(why));
        }
        Ok(source)
    }

    async fn release(&self, _: &Snapshot) -> Result<(), SnapshotError> {
        *self.taken() = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use blocklog::{
        clock::SystemClock,
        ids::{Incarnation, VmId},
    };
    use uuid::Uuid;

    use super::*;
    use crate::local::file::ReplicaAt;

    const DISK: DiskKey = DiskKey(2000);

    struct Fixture {
        folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("a"), vec![1; 1 << 20]).unwrap();
            Self { folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        async fn images(&self, changed: Option<Changed>, id: Option<&str>) -> Result<Images, Failure> {
            let disk = Disk { source: SourceAt::File(self.path("a")), changed, replica: ReplicaAt::File(self.path("r")) };
            Images::open(&BTreeMap::from([(DISK, disk)]), id.map(str::to_owned), Arc::new(SystemClock::new())).await
        }
    }

    fn of(cycle: u64) -> CycleId {
        let vm = VmId { vcenter: Uuid::nil(), instance: Uuid::nil() };
        CycleId { vm, incarnation: Incarnation(Uuid::nil()), cycle: Cycle(cycle) }
    }

    #[tokio::test]
    async fn a_snapshot_stands_while_nobody_writes() {
        let fixture = Fixture::new();
        let images = fixture.images(None, None).await.unwrap();
        let snapshot = images.take(of(7)).await.unwrap();
        assert_eq!(snapshot.change_ids[&DISK], Some(ChangeId("local/7".to_owned())));
        assert_eq!(images.stands(&snapshot).await, Ok(true));
        assert_eq!(images.find(of(7).vm).await.unwrap().len(), 1);
        // Another process looks at the same images, and finds them as they were.
        let later = fixture.images(None, None).await.unwrap();
        assert_eq!(later.stands(&snapshot).await, Ok(true));
        assert_eq!(later.take(of(7)).await.unwrap().reference, snapshot.reference);
        assert_ne!(later.take(of(8)).await.unwrap().reference, snapshot.reference);
        assert_eq!(fixture.images(None, Some("x")).await.unwrap().stands(&snapshot).await, Ok(false));
        // A byte of the same file.
        std::os::unix::fs::FileExt::write_all_at(&std::fs::File::options().write(true).open(fixture.path("a")).unwrap(), &[2], 5).unwrap();
        assert_eq!(later.stands(&snapshot).await, Ok(false));
        let snapshot = later.take(of(9)).await.unwrap();
        // The same bytes in another file.
        std::fs::copy(fixture.path("a"), fixture.path("b")).unwrap();
        std::fs::rename(fixture.path("b"), fixture.path("a")).unwrap();
        assert_eq!(later.stands(&snapshot).await, Ok(false));
        std::fs::remove_file(fixture.path("a")).unwrap();
        assert_eq!(later.stands(&snapshot).await, Ok(false));
        assert!(matches!(later.take(of(10)).await, Err(SnapshotError::Refused { .. })));
        later.release(&snapshot).await.unwrap();
        assert!(later.find(of(9).vm).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_cycle_has_seen_is_compared_with_what_is_there() {
        let fixture = Fixture::new();
        let images = fixture.images(None, None).await.unwrap();
        let snapshot = images.take(of(3)).await.unwrap();
        assert_eq!(images.seen(Cycle(3)), None, "taken is not seen");
        assert_eq!(images.stands(&snapshot).await, Ok(true));
        let seen = images.seen(Cycle(3)).unwrap();
        assert_eq!((images.seen(Cycle(4)), images.are(&seen).await), (None, Ok(true)));
        assert_eq!(images.are("local:x").await, Ok(false));
        assert_eq!(fixture.images(None, Some("name")).await.unwrap().are(&seen).await, Ok(false));
        std::fs::write(fixture.path("a"), vec![2; 1 << 20]).unwrap();
        assert_eq!(images.are(&seen).await, Ok(false));
        assert_eq!(images.stands(&snapshot).await, Ok(false));
        assert_eq!(images.seen(Cycle(3)), Some(seen), "what was seen stays seen");
    }

    async fn changed(fixture: &Fixture, by: ChangedBy, since: &str) -> Result<Changes, String> {
        let images = fixture.images(Some(Changed { by, since: since.to_owned() }), None).await.map_err(|failure| failure.message)?;
        let snapshot = images.take(of(2)).await.unwrap();
        Ok(images.changed(&snapshot, DISK, &ChangeId("local/1".to_owned())).await.unwrap())
    }

    #[tokio::test]
    async fn changes_are_told_in_three_ways() {
        let fixture = Fixture::new();
        let areas = |ranges: &[std::ops::Range<u64>]| Ok(Changes::Areas(ExtentSet::from_ranges(ranges.iter().cloned())));
        let list = vec![(100, 512), (4096, 512)];
        assert_eq!(changed(&fixture, ChangedBy::Areas(list.clone()), "local/1").await, areas(&[0..2, 8..9]));
        assert_eq!(changed(&fixture, ChangedBy::Areas(list), "local/0").await, Ok(Changes::Unknown(Some(Reason::ChangesUnknown))));
        for text in ["# changed\n100 512\n\n4096 512 # here\n", " [[100, 512], [4096, 512]]"] {
            std::fs::write(fixture.path("list"), text).unwrap();
            assert_eq!(changed(&fixture, ChangedBy::AreasFile(fixture.path("list")), "local/1").await, areas(&[0..2, 8..9]), "{text}");
        }
        let mut bytes = vec![1; 1 << 20];
        bytes[200_000] = 2;
        std::fs::write(fixture.path("b"), bytes).unwrap();
        assert_eq!(
            changed(&fixture, ChangedBy::CompareWith(fixture.path("b")), "local/1").await,
            Ok(Changes::Areas(ExtentSet::from(384..512)))
        );
    }

    #[tokio::test]
    async fn what_is_said_of_changes_has_to_be_possible() {
        let fixture = Fixture::new();
        std::fs::write(fixture.path("short"), vec![1; 512]).unwrap();
        std::fs::write(fixture.path("words"), "0 512\nzero 512\n").unwrap();
        std::fs::write(fixture.path("json"), "[[0]]").unwrap();
        let cases = [
            (ChangedBy::Areas(vec![(0, (1 << 20) + 512)]), "reaches past"),
            (ChangedBy::AreasFile(fixture.path("words")), "line 2"),
            (ChangedBy::AreasFile(fixture.path("json")), "json"),
            (ChangedBy::AreasFile(fixture.path("absent")), "absent"),
            (ChangedBy::CompareWith(fixture.path("short")), "has 512 bytes"),
            (ChangedBy::CompareWith(fixture.path("absent")), "absent"),
        ];
        for (by, expected) in cases {
            let error = changed(&fixture, by.clone(), "local/1").await.unwrap_err();
            assert!(error.contains(expected), "{by:?}: {error}");
        }
        std::fs::write(fixture.path("a"), vec![1; 700]).unwrap();
        assert_eq!(fixture.images(None, None).await.err().map(|failure| failure.kind), Some(Kind::BadFile));
    }
}
