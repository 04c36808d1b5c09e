//! Who and which: the names that bind a block to its place.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A VM, by vCenter's own and the VM's instance UUID: neither changes when the VM is renamed, moved or registered anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmId {
    /// `ServiceContent.about.instanceUuid` of the vCenter.
    pub vcenter: Uuid,
    /// `config.instanceUuid` of the VM.
    pub instance: Uuid,
}

/// Whose replica it is: one object of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The cluster's id (the UID of its `kube-system` namespace), or a name that the user gave. `[A-Za-z0-9._-]`, 1 to 63 characters.
    pub cluster: String,
    /// The object: `namespace/name`.
    pub object: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.object)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// The number of a cycle, from 1; it rises within an incarnation and is never used twice.
    Cycle, u64
);
number!(
    /// VMware's `VirtualDisk.key`.
    DiskKey, u32
);
number!(
    /// One start of a gateway for one cycle, from 1. Each has a data key of its own, so two workers never share a nonce.
    Epoch, u32
);
number!(
    /// The ledger's count of dirty marks.
    Turn, u64
);

impl Turn {
    /// The turn after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Random, new each time that replication starts: what belongs to an earlier start can never be taken for this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub Uuid);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// The position of a disk in its source's change tracking, and what its gateway has to know with it: VMware's `<uuid>/<n>`, then, behind a bar,
/// the gateway's own note. Both are opaque here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeId(pub String);

impl ChangeId {
    /// What divides the source's change ID from the note. VMware's is of hexadecimal digits, spaces, hyphens and a slash.
    const BAR: char = '|';

    /// The source's change ID with a note.
    #[must_use]
    pub fn with_note(of_source: &str, note: &str) -> Self {
        Self(format!("{of_source}{}{note}", Self::BAR))
    }

    /// The change ID as the source knows it.
    #[must_use]
    pub fn of_source(&self) -> &str {
        self.0.split(Self::BAR).next().unwrap_or_default()
    }

    /// The gateway's note, where it made one.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.0.split_once(Self::BAR).map(|(_, note)| note)
    }
}

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A BLAKE3 digest; hexadecimal in documents.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut out = [0; 32];
        hex::decode_to_slice(&text, &mut out).map_err(|_| serde::de::Error::custom("a digest is 64 hexadecimal digits"))?;
        Ok(Self(out))
    }
}

/// One cycle of one VM, for all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CycleId {
    /// The VM.
    pub vm: VmId,
    /// The start of replication it belongs to.
    pub incarnation: Incarnation,
    /// Its number.
    pub cycle: Cycle,
}

/// One disk in one cycle: what a block is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskCycle {
    /// The cycle.
    pub of: CycleId,
    /// The disk.
    pub disk: DiskKey,
}
