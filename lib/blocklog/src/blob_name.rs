//! What a blob is, told from its name.

use uuid::Uuid;

use crate::{
    ids::{Cycle, CycleId, DiskCycle, DiskKey, Epoch, Incarnation, Turn, VmId},
    names,
};

/// What a name says of its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobName {
    /// Tells a wrong key at once.
    KeyCheck,
    /// What an applier is to apply.
    Order,
    /// The truth about a replica.
    Ledger(VmId),
    /// A gateway's progress.
    State(CycleId),
    /// What commits a cycle.
    Manifest(CycleId),
    /// What an applier says it did.
    Receipt(CycleId),
    /// Why an applier could not apply a cycle.
    Setback(CycleId),
    /// Records of blocks: its disk and cycle, the epoch that wrote it, its number there.
    Segment(DiskCycle, Epoch, u32),
    /// A disk's fingerprints: which chunks hold them.
    Index(Prints),
    /// Some of a disk's fingerprints: which.
    Chunk(Prints, u64),
    /// Not a name that Hawser gives.
    Unknown,
}

/// Fingerprints that one turn wrote for one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prints {
    /// The VM.
    pub vm: VmId,
    /// The start of replication.
    pub incarnation: Incarnation,
    /// The disk.
    pub disk: DiskKey,
    /// The turn.
    pub turn: Turn,
}

impl BlobName {
    /// Of any name: one that Hawser does not give is [`BlobName::Unknown`].
    #[must_use]
    pub fn of(name: &str) -> Self {
        // A name that would be written in another way is another's.
        Self::parse(name).filter(|blob| blob.name().is_none_or(|canonical| canonical == name)).unwrap_or(Self::Unknown)
    }

    fn parse(name: &str) -> Option<Self> {
        if name == names::KEY_CHECK {
            return Some(Self::KeyCheck);
        }
        let rest = name.strip_prefix("v1/")?;
        if rest.starts_with("orders/") {
            return Some(Self::Order);
        }
        let parts: Vec<&str> = rest.split('/').collect();
        let (vcenter, instance, rest) = match parts.as_slice() {
            [vcenter, instance, rest @ ..] => (vcenter, instance, rest),
            _ => return None,
        };
        let vm = VmId { vcenter: Uuid::parse_str(vcenter).ok()?, instance: Uuid::parse_str(instance).ok()? };
        let (incarnation, rest) = match rest {
            ["ledger"] => return Some(Self::Ledger(vm)),
            [incarnation, rest @ ..] => (Incarnation(Uuid::parse_str(incarnation).ok()?), rest),
            [] => return None,
        };
        if let ["fingerprints", disk, file] = rest {
            let (turn, what) = file.split_once('-')?;
            let prints = Prints { vm, incarnation, disk: DiskKey(disk.parse().ok()?), turn: Turn(turn.parse().ok()?) };
            return Some(if what == "index" { Self::Index(prints) } else { Self::Chunk(prints, what.parse().ok()?) });
        }
        let (cycle, rest) = rest.split_first()?;
        let of = CycleId { vm, incarnation, cycle: Cycle(cycle.parse().ok()?) };
        match rest {
            ["state"] => Some(Self::State(of)),
            ["manifest"] => Some(Self::Manifest(of)),
            ["receipt"] => Some(Self::Receipt(of)),
            ["setback"] => Some(Self::Setback(of)),
            [disk, file] => {
                let (epoch, n) = file.strip_suffix(".seg")?.split_once('-')?;
                Some(Self::Segment(DiskCycle { of, disk: DiskKey(disk.parse().ok()?) }, Epoch(epoch.parse().ok()?), n.parse().ok()?))
            }
            _ => None,
        }
    }

    /// None for an order, whose name can't be made from its parts.
    fn name(self) -> Option<String> {
        Some(match self {
            Self::KeyCheck => names::KEY_CHECK.to_owned(),
            Self::Order | Self::Unknown => return None,
            Self::Ledger(vm) => names::ledger(vm),
            Self::State(of) => names::state(of),
            Self::Manifest(of) => names::manifest(of),
            Self::Receipt(of) => names::receipt(of),
            Self::Setback(of) => names::setback(of),
            Self::Segment(of, epoch, n) => names::segment(of, epoch, n),
            Self::Index(it) => names::index(it.vm, it.incarnation, it.disk, it.turn),
            Self::Chunk(it, chunk) => names::chunk(it.vm, it.incarnation, it.disk, it.turn, chunk),
        })
    }

    /// The VM whose folder it lies in.
    #[must_use]
    pub fn vm(self) -> Option<VmId> {
        match self {
            Self::KeyCheck | Self::Order | Self::Unknown => None,
            Self::Ledger(vm) => Some(vm),
            Self::Index(it) | Self::Chunk(it, _) => Some(it.vm),
            Self::State(of) | Self::Manifest(of) | Self::Receipt(of) | Self::Setback(of) => Some(of.vm),
            Self::Segment(of, ..) => Some(of.of.vm),
        }
    }

    /// The start of replication that it belongs to.
    #[must_use]
    pub fn incarnation(self) -> Option<Incarnation> {
        match self {
            Self::KeyCheck | Self::Order | Self::Unknown | Self::Ledger(_) => None,
            Self::Index(it) | Self::Chunk(it, _) => Some(it.incarnation),
            Self::State(of) | Self::Manifest(of) | Self::Receipt(of) | Self::Setback(of) => Some(of.incarnation),
            Self::Segment(of, ..) => Some(of.of.incarnation),
        }
    }

    /// The cycle that it belongs to.
    #[must_use]
    pub fn cycle(self) -> Option<CycleId> {
        match self {
            Self::State(of) | Self::Manifest(of) | Self::Receipt(of) | Self::Setback(of) => Some(of),
            Self::Segment(of, ..) => Some(of.of),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_told_and_no_other() {
        let vm = VmId { vcenter: Uuid::from_u128(1), instance: Uuid::from_u128(2) };
        let incarnation = Incarnation(Uuid::from_u128(3));
        let of = CycleId { vm, incarnation, cycle: Cycle(7) };
        let disk = DiskKey(2000);
        let prints = Prints { vm, incarnation, disk, turn: Turn(4) };
        let segment = BlobName::Segment(DiskCycle { of, disk }, Epoch(2), 11);
        let all = [
            BlobName::KeyCheck,
            BlobName::Ledger(vm),
            BlobName::State(of),
            BlobName::Manifest(of),
            BlobName::Receipt(of),
            BlobName::Setback(of),
            segment,
            BlobName::Index(prints),
            BlobName::Chunk(prints, 5),
        ];
        for blob in all {
            let name = blob.name().unwrap();
            assert_eq!(BlobName::of(&name), blob, "{name}");
            assert_eq!(BlobName::of(&format!("{name}x")), BlobName::Unknown);
        }
        assert_eq!(BlobName::of("v1/orders/local/x.y"), BlobName::Order);
        let name = names::state(of);
        for other in ["", "v1", "v2/keycheck", "v1/a/b/ledger", &name.replace("0000000007", "7"), &name.replace("/state", "/2000/1-1.seg")]
        {
            assert_eq!(BlobName::of(other), BlobName::Unknown, "{other}");
        }
        assert_eq!((segment.vm(), segment.incarnation(), segment.cycle()), (Some(vm), Some(incarnation), Some(of)));
    }
}
