//! Reads a log store for people: what is there, what a blob says, and whether all of it is what was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::Arc,
};

use blocklog::{
    LogError,
    blob_name::BlobName,
    clock::SystemClock,
    codec::{self, Codec, Descriptor},
    cycle::{Epochs, KeyCheck, Manifest, ManifestDisk, Order, Receipt, State},
    document::{self, Document},
    fingerprints::{CHUNK_BLOCKS, Fingerprints, Index, Place},
    ids::{CycleId, DiskCycle, Epoch, VmId},
    key_check,
    keys::{KeyRing, Secret},
    ledger::{IndexRef, Ledger},
    names,
    segment::{self, Segment, SegmentRef, Tail},
    setback::Setback,
    store::{LogStore, StoreError},
};
use extents::ExtentSet;
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::Value;

use super::{
    file::CycleFile,
    open::{self, Use},
};
use crate::failure::{Failure, Kind, blob_remedy};

/// Segments that are looked at side by side; each is held whole.
const SEGMENTS: usize = 2;

/// A log store that is only looked at.
pub struct Inspector {
    store: Arc<dyn LogStore>,
    keys: KeyRing,
    vm: VmId,
}

/// Counts and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub count: u64,
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What a log store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// By `<vCenter>/<VM>`.
    pub vms: BTreeMap<String, VmSummary>,
    /// Orders that are not carried out.
    pub orders: Tally,
    /// What has no name of Hawser's.
    pub unknown: Tally,
}

/// What it holds of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmSummary {
    /// Whether there is a ledger.
    pub ledger: bool,
    /// By incarnation.
    pub incarnations: BTreeMap<String, IncarnationSummary>,
}

/// What it holds of one start of replication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncarnationSummary {
    /// By number.
    pub cycles: BTreeMap<u64, CycleSummary>,
    /// Fingerprints of all disks, and their indexes.
    pub fingerprints: Tally,
}

/// What it holds of one cycle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CycleSummary {
    /// Which of state, manifest and receipt there are.
    pub documents: BTreeSet<&'static str>,
    /// The segments of all disks.
    pub segments: Tally,
}

/// A blob that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub blob: String,
    /// What does not hold.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

/// What a verification looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    /// Documents whose MAC was checked.
    pub documents: u64,
    /// Segments that were opened, and their bytes.
    pub segments: Tally,
    /// Segments that no manifest and no state names: being written, or left behind.
    pub unnamed: Tally,
    /// What was found damaged or missing.
    pub damaged: Vec<Damage>,
}

impl Inspector {
    /// Opens the log store of a cycle's file.
    ///
    /// # Errors
    /// Where it can't be opened, or the key is not its.
    pub async fn open(file: &CycleFile) -> Result<Self, Failure> {
        let keys = open::keys(&file.key)?;
        let store = open::store(&file.log_store, Use::Look, Arc::new(SystemClock::new()))?;
        key_check::verify(store.as_ref(), &keys).await?;
        Ok(Self { store, keys, vm: file.vm })
    }

    /// The ledger of the file's VM, as JSON.
    ///
    /// # Errors
    /// [`LogError::Missing`] where there is none, and those of reading it.
    pub async fn ledger(&self) -> Result<String, Failure> {
        let (ledger, _) =
            document::require::<Ledger>(self.store.as_ref(), &self.keys, &names::ledger(self.vm)).await.map_err(|error| match error {
                LogError::Missing(_) => Failure::from(error).with_remedy("Run `worker cycle` first: it makes the ledger."),
                error => error.into(),
            })?;
        Ok(pretty(&ledger))
    }

    /// What the store holds, of one VM (`<vCenter>/<VM>`) or of all.
    ///
    /// # Errors
    /// The store's.
    pub async fn summary(&self, vm: Option<&str>) -> Result<Summary, Failure> {
        let mut summary = Summary::default();
        for listed in self.store.list("").await? {
            let blob = BlobName::of(&listed.name);
            match blob {
                BlobName::Order => summary.orders.add(listed.size),
                BlobName::Unknown => summary.unknown.add(listed.size),
                _ => {}
            }
            let Some(of) = blob.vm() else { continue };
            let key = format!("{}/{}", of.vcenter, of.instance);
            if vm.is_some_and(|vm| vm != key) {
                continue;
            }
            let of = summary.vms.entry(key).or_default();
            of.ledger |= matches!(blob, BlobName::Ledger(_));
            let Some(incarnation) = blob.incarnation() else { continue };
            let incarnation = of.incarnations.entry(incarnation.to_string()).or_default();
            let Some(cycle) = blob.cycle() else {
                incarnation.fingerprints.add(listed.size);
                continue;
            };
            let cycle = incarnation.cycles.entry(cycle.cycle.0).or_default();
            match blob {
                BlobName::State(_) => drop(cycle.documents.insert("state")),
                BlobName::Manifest(_) => drop(cycle.documents.insert("manifest")),
                BlobName::Receipt(_) => drop(cycle.documents.insert("receipt")),
                BlobName::Setback(_) => drop(cycle.documents.insert("setback")),
                _ => cycle.segments.add(listed.size),
            }
        }
        Ok(summary)
    }

    /// A blob as people read it: a document as JSON (what is sealed left out), a segment as a table of its records.
    ///
    /// # Errors
    /// Where there is none, it is damaged, or it is not one of Hawser's.
    pub async fn show(&self, name: &str) -> Result<String, Failure> {
        match BlobName::of(name) {
            BlobName::KeyCheck => self.document::<KeyCheck>(name).await,
            BlobName::Order => self.document::<Order>(name).await,
            BlobName::Ledger(_) => self.document::<Ledger>(name).await,
            BlobName::State(_) => self.document::<State>(name).await,
            BlobName::Manifest(_) => self.document::<Manifest>(name).await,
            BlobName::Receipt(_) => self.document::<Receipt>(name).await,
            BlobName::Setback(_) => self.document::<Setback>(name).await,
            BlobName::Index(_) => self.document::<Index>(name).await,
            BlobName::Segment(of, epoch, n) => Ok(table(&self.tail(name, of, epoch, n).await?)),
            BlobName::Chunk(..) => {
                let message = format!("{name} holds the fingerprints of {CHUNK_BLOCKS} blocks, and nothing that can be read");
                Err(Failure::new(Kind::BadFile, message, "Look at the index beside it, or run `worker log verify`."))
            }
            BlobName::Unknown => {
                let message = format!("{name} is not a name that Hawser gives to a blob");
                Err(Failure::new(Kind::BadFile, message, "Take a name as it stands in the log store, from v1/ on."))
            }
        }
    }

    async fn document<D: Document>(&self, name: &str) -> Result<String, Failure> {
        let (document, _) = document::require::<D>(self.store.as_ref(), &self.keys, name).await?;
        Ok(pretty(&document))
    }

    async fn tail(&self, name: &str, of: DiskCycle, epoch: Epoch, n: u32) -> Result<Tail, LogError> {
        let store = self.store.as_ref();
        let (manifest_name, state_name) = (names::manifest(of.of), names::state(of.of));
        let key = match document::read::<Manifest>(store, &self.keys, &manifest_name).await? {
            Some((manifest, _)) if manifest.disks.get(&of.disk).is_some_and(|disk| disk.segments.iter().any(|it| it.epoch == epoch)) => {
                manifest.epochs.open(&self.keys, of.of, epoch, &manifest_name)?
            }
            _ => {
                let (state, _) = document::require::<State>(store, &self.keys, &state_name).await?;
                state.epochs.open(&self.keys, of.of, epoch, &state_name)?
            }
        };
        let bytes = self.whole(name).await?;
        whole_tail(name, of, epoch, n, &key, &bytes)
    }

    /// Reads and checks everything. Each damage is told as it is found, and stands in the answer too.
    ///
    /// # Errors
    /// The store's: then nothing is known of the rest.
    pub async fn verify(&self, mut tell: impl FnMut(&Damage)) -> Result<Looked, Failure> {
        let mut all = Everything::default();
        let mut looked = Looked::default();
        for listed in self.store.list("").await? {
            let (blob, name) = (BlobName::of(&listed.name), listed.name);
            let result = match blob {
                BlobName::KeyCheck => self.check::<KeyCheck>(&name).await.map(drop),
                BlobName::Order => self.check::<Order>(&name).await.map(drop),
                BlobName::Receipt(_) => self.check::<Receipt>(&name).await.map(drop),
                BlobName::Setback(_) => self.check::<Setback>(&name).await.map(drop),
                BlobName::Index(_) => self.check::<Index>(&name).await.map(drop),
                BlobName::Ledger(vm) => self.check::<Ledger>(&name).await.map(|ledger| drop(all.ledgers.insert(vm, ledger))),
                BlobName::State(of) => self.check::<State>(&name).await.map(|state| drop(all.states.insert(of, state))),
                BlobName::Manifest(of) => self.check::<Manifest>(&name).await.map(|manifest| drop(all.manifests.insert(of, manifest))),
                BlobName::Segment(of, epoch, n) => {
                    all.segments.insert(names::segment(of, epoch, n), listed.size);
                    continue;
                }
                BlobName::Chunk(..) | BlobName::Unknown => continue,
            };
            looked.documents += 1;
            if let Err(error) = result {
                all.note(&mut looked, error, &mut tell)?;
            }
        }
        let mut checked = BTreeSet::new();
        for (of, manifest) in &all.manifests {
            for (disk, sent) in &manifest.disks {
                let of = DiskCycle { of: *of, disk: *disk };
                let result = self.manifest_disk(of, &manifest.epochs, sent, &all, &mut looked, &mut checked, &mut tell).await;
                if let Err(error) = result {
                    all.note(&mut looked, error, &mut tell)?;
                }
            }
        }
        for (of, state) in &all.states {
            for (disk, run) in state.disks.iter().flat_map(|(disk, progress)| progress.runs.iter().map(move |run| (*disk, *run))) {
                let of = DiskCycle { of: *of, disk };
                for n in 0..run.durable {
                    let name = names::segment(of, run.epoch, n);
                    if checked.contains(&name) || !all.segments.contains_key(&name) && !all.needs(of.of) {
                        continue;
                    }
                    let result = self.state_segment(&name, of, state, run.epoch, n).await;
                    checked.insert(name);
                    match result {
                        Ok(size) => looked.segments.add(size),
                        Err(error) => all.note(&mut looked, error, &mut tell)?,
                    }
                }
            }
        }
        for (vm, ledger) in &all.ledgers {
            for error in self.ledger_refers(*vm, ledger, &all).await {
                all.note(&mut looked, error, &mut tell)?;
            }
        }
        all.segments.iter().filter(|(name, _)| !checked.contains(*name)).for_each(|(_, size)| looked.unnamed.add(*size));
        Ok(looked)
    }

    async fn check<D: Document>(&self, name: &str) -> Result<D, LogError> {
        Ok(document::require::<D>(self.store.as_ref(), &self.keys, name).await?.0)
    }

    /// Opens every segment of one disk of a manifest, and compares what they cover with what the manifest says.
    #[allow(clippy::too_many_arguments, reason = "what a verification is made of")]
    async fn manifest_disk(
        &self,
        of: DiskCycle,
        epochs: &Epochs,
        sent: &ManifestDisk,
        all: &Everything,
        looked: &mut Looked,
        checked: &mut BTreeSet<String>,
        tell: &mut impl FnMut(&Damage),
    ) -> Result<(), LogError> {
        let manifest = names::manifest(of.of);
        let mut wanted = Vec::new();
        let mut whole = true;
        for segment in &sent.segments {
            let name = names::segment(of, segment.epoch, segment.n);
            // Of a cycle that is done with, the clean-up may have taken some.
            if all.segments.contains_key(&name) || all.needs(of.of) {
                let key = epochs.open(&self.keys, of.of, segment.epoch, &manifest)?;
                wanted.push((name, segment.clone(), key));
            } else {
                whole = false;
            }
        }
        let opened = stream::iter(wanted).map(|(name, segment, key)| async move {
            let result = self.open_whole(&name, of, segment, key).await;
            (name, result)
        });
        let mut opened = std::pin::pin!(opened.buffered(SEGMENTS));
        let (mut covered, mut sectors) = (ExtentSet::new(), 0);
        while let Some((name, result)) = opened.next().await {
            checked.insert(name);
            match result {
                Ok((size, ranges)) => {
                    looked.segments.add(size);
                    sectors += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
                    covered = covered.union(&ExtentSet::from_ranges(ranges));
                }
                Err(error @ LogError::Store(_)) => return Err(error),
                Err(error) => {
                    whole = false;
                    // It is no error of the store, and so noting it is none either.
                    let _ = all.note(looked, error, tell);
                }
            }
        }
        if whole && covered != sent.extents {
            return Err(LogError::damaged(&manifest, format!("disk {}: its records do not cover what it says", of.disk)));
        }
        if sectors != covered.sectors() {
            return Err(LogError::damaged(&manifest, format!("disk {}: its records overlap", of.disk)));
        }
        Ok(())
    }

    /// Decrypts, unpacks and checks every record of a segment: its size, and the sectors of its records.
    async fn open_whole(
        &self,
        name: &str,
        of: DiskCycle,
        segment: SegmentRef,
        key: Secret,
    ) -> Result<(u64, Vec<std::ops::Range<u64>>), LogError> {
        let bytes = self.whole(name).await?;
        let (size, owned) = (segment.size, name.to_owned());
        let work = move || {
            let segment = Segment::open(&owned, of, &segment, &key, bytes)?;
            let mut sectors = Vec::new();
            for (record, stored) in segment.into_records() {
                if record.codec != Codec::Zero {
                    codec::unpack(&record, &stored).map_err(|error| Segment::damaged(&owned, &record, error))?;
                }
                sectors.push(record.sectors());
            }
            Ok((size, sectors))
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Failed(error.to_string()))?
    }

    async fn state_segment(&self, name: &str, of: DiskCycle, state: &State, epoch: Epoch, n: u32) -> Result<u64, LogError> {
        let key = state.epochs.open(&self.keys, of.of, epoch, &names::state(of.of))?;
        let bytes = self.whole(name).await?;
        let tail = whole_tail(name, of, epoch, n, &key, &bytes)?;
        Ok(self.open_whole(name, of, tail.segment, key).await?.0)
    }

    /// All bytes of a segment.
    async fn whole(&self, name: &str) -> Result<Vec<u8>, LogError> {
        Ok(self.store.get(name).await?.ok_or_else(|| LogError::Missing(name.to_owned()))?.body.into())
    }

    /// What a ledger names has to be there: fingerprints, and the manifests of cycles that are begun or lost.
    async fn ledger_refers(&self, vm: VmId, ledger: &Ledger, all: &Everything) -> Vec<LogError> {
        let mut errors = Vec::new();
        for (disk, at) in &ledger.index {
            let Some(seed) = ledger.seeds.get(disk) else { continue };
            let place = Place { vm, incarnation: ledger.incarnation, disk: *disk, capacity: seed.capacity, block: ledger.block };
            if matches!(at, IndexRef::Zero) {
                continue;
            }
            let result = async {
                let mut prints = Fingerprints::open(self.store.clone(), &self.keys, place, Some(at), ExtentSet::new()).await?;
                for block in (0..place.blocks()).step_by(CHUNK_BLOCKS as usize) {
                    prints.get(block).await?;
                }
                Ok(())
            };
            errors.extend(result.await.err());
        }
        let begun = ledger.masked().map(|begun| ledger.cycle(begun.cycle));
        let missing = begun.chain(ledger.lost.iter().copied()).filter(|of| !all.manifests.contains_key(of)).map(names::manifest);
        for name in missing.collect::<BTreeSet<_>>() {
            // One that is there and damaged was told already.
            match self.store.get(&name).await {
                Ok(None) => errors.push(LogError::Missing(name)),
                Ok(Some(_)) => {}
                Err(error) => errors.push(error.into()),
            }
        }
        errors
    }
}

/// What was read.
#[derive(Default)]
struct Everything {
    ledgers: BTreeMap<VmId, Ledger>,
    states: BTreeMap<CycleId, State>,
    manifests: BTreeMap<CycleId, Manifest>,
    /// Sizes, by name.
    segments: BTreeMap<String, u64>,
}

impl Everything {
    /// True where the log of a cycle may still be applied; else it waits for the clean-up.
    fn needs(&self, of: CycleId) -> bool {
        self.ledgers.get(&of.vm).is_none_or(|ledger| {
            ledger.incarnation == of.incarnation && (of.cycle > ledger.begun || ledger.masked().any(|begun| begun.cycle == of.cycle))
        })
    }

    /// True where the ledger needs the cycle's manifest.
    fn names(&self, of: CycleId) -> bool {
        self.ledgers.get(&of.vm).is_some_and(|ledger| {
            let begun = ledger.incarnation == of.incarnation && ledger.masked().any(|begun| begun.cycle == of.cycle);
            begun || ledger.lost.contains(&of)
        })
    }

    fn note(&self, looked: &mut Looked, error: LogError, tell: &mut impl FnMut(&Damage)) -> Result<(), Failure> {
        let what = error.to_string();
        let (blob, what) = match error {
            LogError::Store(error) => return Err(error.into()),
            LogError::WrongKey { .. } => return Err(error.into()),
            LogError::Damaged { name, what } => (name, what),
            LogError::Missing(name) => (name, "it is missing".to_owned()),
            LogError::UnknownVersion { name, .. } | LogError::KeyMissing { name, .. } => (name, what),
        };
        let needed = BlobName::of(&blob).cycle().is_some_and(|of| self.names(of));
        let damage = Damage { remedy: blob_remedy(&blob, needed), blob, what };
        if !looked.damaged.contains(&damage) {
            tell(&damage);
            looked.damaged.push(damage);
        }
        Ok(())
    }
}

fn whole_tail(name: &str, of: DiskCycle, epoch: Epoch, n: u32, key: &Secret, bytes: &[u8]) -> Result<Tail, LogError> {
    let tail = segment::read_tail(name, of, epoch, n, key, bytes.len() as u64, bytes)?;
    tail.map_err(|_| LogError::damaged(name, "it is shorter than its index"))
}

/// JSON for people, with what is sealed left out.
fn pretty(document: &impl Serialize) -> String {
    let Ok(mut value) = serde_json::to_value(document) else { return String::new() };
    redact(&mut value);
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.len() == 2 && fields.contains_key("key") && fields.contains_key("data") {
                fields.insert("data".to_owned(), "<sealed>".into());
            }
            fields.values_mut().for_each(redact);
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

fn table(tail: &Tail) -> String {
    let mut out = format!("{:>16} {:>12} {:>5} {:>10}  checksum\n", "offset", "length", "codec", "stored");
    for Descriptor { offset, length, codec, stored, checksum, .. } in &tail.records {
        let codec = match codec {
            Codec::Zero => "zero",
            Codec::Raw => "raw",
            Codec::Zstd => "zstd",
        };
        let sum = if codec == "zero" { "-".to_owned() } else { hex::encode(&checksum[..8]) };
        // A String takes everything.
        let _ = writeln!(out, "{offset:>16} {length:>12} {codec:>5} {stored:>10}  {sum}");
    }
    let SegmentRef { epoch, n, size, records, .. } = &tail.segment;
    let _ = write!(out, "{records} records in {size} bytes, epoch {epoch}, number {n}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_not_shown() {
        let mut value =
            serde_json::json!({"epochs": {"1": {"key": 2, "data": "SECRET"}}, "seeds": [{"access": {"data": "SECRET", "key": 1}}]});
        redact(&mut value);
        assert!(!value.to_string().contains("SECRET"));
        assert_eq!(value["epochs"]["1"]["key"], 2);
    }
}
