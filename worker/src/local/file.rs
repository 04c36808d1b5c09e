//! The file that a cycle is run from: which images, which replicas, which log store, which key.
//!
//! Relative paths in it are relative to its folder. Secrets stand in files of their own, so that this one can be shown around.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use blocklog::{
    azure_blob::AccountUrl,
    ids::{DiskKey, Owner, VmId},
    segment::MAX_SEGMENT,
};
use replica::access::SecretUrl;
use serde::Deserialize;
use source::nbd::{NbdAddress, NbdTarget};
use uuid::Uuid;

use crate::failure::{Failure, Kind};

/// A cycle's file, with every path absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleFile {
    /// Whose replica it is.
    pub owner: Owner,
    /// Which VM: given, or made from the owner.
    pub vm: VmId,
    /// Every disk is compared in full.
    pub full: bool,
    /// The name that the frozen image has, and so the change ID that its cycle makes.
    pub snapshot: Option<String>,
    pub disks: BTreeMap<DiskKey, Disk>,
    pub log_store: StoreAt,
    pub key: PathBuf,
    pub tuning: Tuning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What is read.
    pub source: SourceAt,
    /// How it is known what changed; none: the disk is compared in full.
    pub changed: Option<Changed>,
    /// What is written.
    pub replica: ReplicaAt,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SourceFields")]
pub enum SourceAt {
    /// A raw image or a block device.
    File(PathBuf),
    Nbd(NbdTarget),
}

/// What changed since the last clean cycle.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ChangedFields")]
pub struct Changed {
    /// How it is told.
    pub by: ChangedBy,
    /// The change ID from which on it holds.
    pub since: String,
}

/// How the changed areas are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedBy {
    /// Start and length of each, in bytes.
    Areas(Vec<(u64, u64)>),
    /// The same in a file.
    AreasFile(PathBuf),
    /// The image as the last clean cycle saw it.
    CompareWith(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ReplicaFields")]
pub enum ReplicaAt {
    File(PathBuf),
    PageBlob(PageBlobAt),
    /// A managed disk that is open for upload.
    Sas {
        /// A file that holds its write SAS.
        url_file: PathBuf,
    },
}

/// A page blob and the way in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PageBlobAt {
    pub url: SecretUrl,
    /// A file that holds the account's key.
    pub account_key_file: Option<PathBuf>,
    /// A file that holds a shared access signature.
    pub sas_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "StoreFields")]
pub enum StoreAt {
    Directory(PathBuf),
    Azure(AzureAt),
}

/// A container and the way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureAt {
    pub account: AccountUrl,
    pub container: String,
    /// A file that holds a shared access signature, or the account's key.
    pub secret: SecretFile,
}

/// What a secret file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFile {
    Sas(PathBuf),
    AccountKey(PathBuf),
}

/// How much at a time; all optional.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes of a segment.
    pub segment: Option<u64>,
    /// Bytes that one disk may hold in memory.
    pub memory: Option<usize>,
    /// The throttle.
    pub bits_per_second: Option<u64>,
    /// Threads that compute.
    pub cpus: Option<usize>,
}

impl CycleFile {
    /// Reads it.
    ///
    /// # Errors
    /// [`Kind::BadFile`], naming line and field where there are any.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bad = |why: String| {
            let remedy = "Correct the file; `worker cycle --help` shows what stands in it.";
            Failure::new(Kind::BadFile, format!("{}: {why}", path.display()), remedy)
        };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let fields: Fields = serde_yaml_ng::from_str(&text).map_err(|error| bad(with_line(&text, error.to_string())))?;
        let path = std::path::absolute(path).map_err(|error| bad(error.to_string()))?;
        let base = path.parent().unwrap_or(Path::new("/"));
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        fields.resolve(base, stem).map_err(|error| bad(with_line(&text, error)))
    }
}

/// Adds the line of the top-level field that a message begins with, where the message names no line: YAML's parser knows none for what is found
/// wrong only when the whole was read.
fn with_line(text: &str, message: String) -> String {
    let field = message.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    let begins = |line: &str| line.strip_prefix(field).is_some_and(|rest| rest.trim_start().starts_with(':'));
    match text.lines().position(begins) {
        Some(line) if !field.is_empty() && !message.contains(" at line ") => format!("{message} at line {}", line + 1),
        _ => message,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fields {
    owner: Option<OwnerFields>,
    vm: Option<VmFields>,
    #[serde(default)]
    mode: ModeField,
    snapshot: Option<SnapshotFields>,
    disks: Vec<DiskFields>,
    log_store: StoreAt,
    key: KeyFields,
    segment_bytes: Option<u64>,
    memory_bytes: Option<u64>,
    bits_per_second: Option<u64>,
    cpus: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnerFields {
    cluster: Option<String>,
    object: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VmFields {
    vcenter: Uuid,
    instance: Uuid,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
enum ModeField {
    #[default]
    Changed,
    Full,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotFields {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskFields {
    key: u32,
    source: SourceAt,
    changed: Option<Changed>,
    replica: ReplicaAt,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFields {
    file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceFields {
    file: Option<PathBuf>,
    nbd: Option<String>,
    tls: Option<TlsFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TlsFields {
    ca_file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ChangedFields {
    areas: Option<Vec<(u64, u64)>>,
    areas_file: Option<PathBuf>,
    compare_with: Option<PathBuf>,
    since: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReplicaFields {
    file: Option<PathBuf>,
    page_blob: Option<PageBlobAt>,
    sas: Option<SasFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SasFields {
    url_file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreFields {
    directory: Option<PathBuf>,
    azure: Option<AzureFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AzureFields {
    account_url: String,
    container: String,
    sas_file: Option<PathBuf>,
    account_key_file: Option<PathBuf>,
}

impl TryFrom<SourceFields> for SourceAt {
    type Error = String;

    fn try_from(fields: SourceFields) -> Result<Self, String> {
        match fields {
            SourceFields { file: Some(path), nbd: None, tls: None } => Ok(Self::File(path)),
            SourceFields { file: None, nbd: Some(uri), tls } => {
                let ca = tls.map(|tls| tls.ca_file);
                NbdTarget::parse_with_ca(&uri, ca.as_deref()).map(Self::Nbd).map_err(|error| format!("source.nbd: {error}"))
            }
            _ => Err("source: name either `file`, or `nbd` (and `tls` with it)".to_owned()),
        }
    }
}

impl TryFrom<ChangedFields> for Changed {
    type Error = String;

    fn try_from(fields: ChangedFields) -> Result<Self, String> {
        let by = match (fields.areas, fields.areas_file, fields.compare_with) {
            (Some(areas), None, None) => ChangedBy::Areas(sound(areas).map_err(|error| format!("changed.areas: {error}"))?),
            (None, Some(path), None) => ChangedBy::AreasFile(path),
            (None, None, Some(path)) => ChangedBy::CompareWith(path),
            _ => return Err("changed: name one of `areas`, `areasFile`, `compareWith`".to_owned()),
        };
        // A list that does not say what it starts from would be believed after a run that failed, and what that run was to send would be missing.
        let since = fields.since.ok_or(
            "changed: add `since`, the change ID that it starts from: the `snapshot.id` of the last clean cycle, or `local/<cycle>` where it had \
             none; `worker ledger show` names it under `baseline`",
        )?;
        Ok(Self { by, since })
    }
}

/// Refuses areas that no disk can have. An empty one is refused as well: whoever made the list meant something else.
pub(super) fn sound(areas: Vec<(u64, u64)>) -> Result<Vec<(u64, u64)>, String> {
    match areas.iter().find(|(start, length)| *length == 0 || start.checked_add(*length).is_none()) {
        Some((start, length)) => Err(format!("[{start}, {length}] is not an area: start and length in bytes, the length above 0")),
        None => Ok(areas),
    }
}

impl TryFrom<ReplicaFields> for ReplicaAt {
    type Error = String;

    fn try_from(fields: ReplicaFields) -> Result<Self, String> {
        match (fields.file, fields.page_blob, fields.sas) {
            (Some(path), None, None) => Ok(Self::File(path)),
            (None, Some(blob), None) => {
                let signed = blob.url.expose().query().is_some();
                let ways = [signed, blob.account_key_file.is_some(), blob.sas_file.is_some()];
                match ways.into_iter().filter(|way| *way).count() {
                    1 => Ok(Self::PageBlob(blob)),
                    _ => Err("replica.pageBlob: give one of `accountKeyFile`, `sasFile`, and a signature in `url`".to_owned()),
                }
            }
            (None, None, Some(sas)) => Ok(Self::Sas { url_file: sas.url_file }),
            _ => Err("replica: name one of `file`, `pageBlob`, `sas`".to_owned()),
        }
    }
}

impl TryFrom<StoreFields> for StoreAt {
    type Error = String;

    fn try_from(fields: StoreFields) -> Result<Self, String> {
        match (fields.directory, fields.azure) {
            (Some(path), None) => Ok(Self::Directory(path)),
            (None, Some(azure)) => {
                if azure.account_url.contains('?') {
                    return Err("logStore.azure.accountUrl: a signature belongs into `sasFile`".to_owned());
                }
                let account = AccountUrl::parse(&azure.account_url).map_err(|error| format!("logStore.azure.accountUrl: {error}"))?;
                let secret = match (azure.sas_file, azure.account_key_file) {
                    (Some(path), None) => SecretFile::Sas(path),
                    (None, Some(path)) => SecretFile::AccountKey(path),
                    _ => return Err("logStore.azure: name either `sasFile` or `accountKeyFile`".to_owned()),
                };
                Ok(Self::Azure(AzureAt { account, container: azure.container, secret }))
            }
            _ => Err("logStore: name either `directory` or `azure`".to_owned()),
        }
    }
}

impl Fields {
    fn resolve(self, base: &Path, stem: String) -> Result<CycleFile, String> {
        let (cluster, object) = self.owner.map_or((None, None), |owner| (owner.cluster, owner.object));
        let owner = Owner { cluster: cluster.unwrap_or_else(|| "local".to_owned()), object: object.unwrap_or(stem) };
        accept_owner(&owner)?;
        let snapshot = self.snapshot.map(|snapshot| snapshot.id);
        if snapshot.as_ref().is_some_and(|id| !printable(id, 200)) {
            return Err("snapshot.id: 1 to 200 printable characters".to_owned());
        }
        if self.disks.is_empty() {
            return Err("disks: name at least one".to_owned());
        }
        let mut disks = BTreeMap::new();
        for (n, disk) in self.disks.into_iter().enumerate() {
            let key = DiskKey(disk.key);
            let disk = Disk {
                source: disk.source.within(base),
                changed: disk.changed.map(|changed| changed.within(base)),
                replica: disk.replica.within(base),
            };
            if disks.insert(key, disk).is_some() {
                return Err(format!("disks[{n}].key: {key} is there twice"));
            }
        }
        let tuning = Tuning {
            segment: within("segmentBytes", self.segment_bytes, 64 << 10, MAX_SEGMENT)?,
            memory: within("memoryBytes", self.memory_bytes, 4 << 20, 1 << 30)?.map(|bytes| bytes as usize),
            bits_per_second: within("bitsPerSecond", self.bits_per_second, 8, u64::MAX)?,
            cpus: within("cpus", self.cpus.map(|cpus| cpus as u64), 1, 1024)?.map(|cpus| cpus as usize),
        };
        Ok(CycleFile {
            vm: self.vm.map_or_else(|| vm_of(&owner), |vm| VmId { vcenter: vm.vcenter, instance: vm.instance }),
            owner,
            full: self.mode == ModeField::Full,
            snapshot,
            disks,
            log_store: self.log_store.within(base),
            key: base.join(self.key.file),
            tuning,
        })
    }
}

fn within(field: &str, value: Option<u64>, least: u64, most: u64) -> Result<Option<u64>, String> {
    match value {
        Some(value) if !(least..=most).contains(&value) => Err(format!("{field}: {value} is not between {least} and {most}")),
        value => Ok(value),
    }
}

/// The cluster's name becomes part of a blob's.
fn accept_owner(owner: &Owner) -> Result<(), String> {
    let clean = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let cluster = &owner.cluster;
    if cluster.is_empty() || cluster.len() > 63 || !cluster.chars().all(clean) || cluster.starts_with('.') {
        return Err(format!("owner.cluster: {cluster:?} is not 1 to 63 of A-Z a-z 0-9 . _ - (no dot in front)"));
    }
    if printable(&owner.object, 253) { Ok(()) } else { Err("owner.object: 1 to 253 printable characters".to_owned()) }
}

fn printable(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The same for the same owner, on every machine: UUIDs of version 8 from BLAKE3 of the names.
fn vm_of(owner: &Owner) -> VmId {
    let uuid = |text: &str| {
        let hash = blake3::derive_key("hawser v1 local vm", text.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        uuid::Builder::from_custom_bytes(half).into_uuid()
    };
    VmId { vcenter: uuid(&owner.cluster), instance: uuid(&owner.to_string()) }
}

impl SourceAt {
    fn within(self, base: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(base.join(path)),
            Self::Nbd(mut target) => {
                if let NbdAddress::Unix(socket) = &mut target.address {
                    *socket = base.join(&socket);
                }
                if let Some(tls) = &mut target.tls {
                    tls.ca_file = base.join(&tls.ca_file);
                }
                Self::Nbd(target)
            }
        }
    }
}

impl Changed {
    fn within(self, base: &Path) -> Self {
        let by = match self.by {
            ChangedBy::Areas(areas) => ChangedBy::Areas(areas),
            ChangedBy::AreasFile(path) => ChangedBy::AreasFile(base.join(path)),
            ChangedBy::CompareWith(path) => ChangedBy::CompareWith(base.join(path)),
        };
        Self { by, ..self }
    }
}

impl ReplicaAt {
    fn within(self, base: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(base.join(path)),
            Self::PageBlob(blob) => Self::PageBlob(PageBlobAt {
                account_key_file: blob.account_key_file.map(|path| base.join(path)),
                sas_file: blob.sas_file.map(|path| base.join(path)),
                ..blob
            }),
            Self::Sas { url_file } => Self::Sas { url_file: base.join(url_file) },
        }
    }
}

impl StoreAt {
    fn within(self, base: &Path) -> Self {
        match self {
            Self::Directory(path) => Self::Directory(base.join(path)),
            Self::Azure(azure) => {
                let secret = match azure.secret {
                    SecretFile::Sas(path) => SecretFile::Sas(base.join(path)),
                    SecretFile::AccountKey(path) => SecretFile::AccountKey(base.join(path)),
                };
                Self::Azure(AzureAt { secret, ..azure })
            }
        }
    }
}

#[cfg(test)]
mod tests;
