//! How a snapshot is known as ours.

use std::fmt;

use blocklog::ids::{Cycle, CycleId, Incarnation, Owner, VmId};
use uuid::Uuid;

use crate::model::snapshots::Node;

/// What every name begins with.
const PREFIX: &str = "hawser-";
/// What the line of a description begins with that says whose it is.
const LINE: &str = "hawser/v1 ";

/// Whose a snapshot is, and of which cycle: what its name and its description say.
///
/// Both have to say the same, so neither a snapshot that somebody gave a similar name nor one whose description was edited is taken for ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The owner of the replica.
    pub owner: Owner,
    /// The cycle.
    pub of: CycleId,
}

impl Mark {
    /// The name: the cycle's number, and a digest of the rest. `%`, `/` and `\` have a meaning in vSphere's names, so there is none.
    #[must_use]
    pub fn name(&self) -> String {
        let digest = blake3::hash(self.line().as_bytes());
        format!("{PREFIX}{}-{}", self.of.cycle, &digest.to_hex()[..16])
    }

    /// The description.
    #[must_use]
    pub fn description(&self) -> String {
        format!(
            "Taken by Hawser to replicate this VM for {}, which removes it. Removing it by hand fails a cycle.\n{}",
            self.owner.object,
            self.line()
        )
    }

    fn line(&self) -> String {
        let Self { owner, of: CycleId { vm, incarnation, cycle } } = self;
        format!(
            "{LINE}cluster={} object={} vcenter={} vm={} incarnation={incarnation} cycle={cycle}",
            owner.cluster, owner.object, vm.vcenter, vm.instance
        )
    }

    /// Reads name and description.
    #[must_use]
    pub fn read(name: &str, description: &str) -> Whose {
        if !name.starts_with(PREFIX) {
            return Whose::Foreign;
        }
        // vCenter may show line ends in its own way; ours is the last line.
        let line = description.lines().map(str::trim).rfind(|line| line.starts_with(LINE));
        match line.and_then(Self::parse) {
            Some(mark) if mark.name() == name => Whose::Hawsers(mark),
            _ => Whose::Unclear,
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(LINE)?.split(' ');
        let mut word = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=');
        let (cluster, object) = (word("cluster")?.to_owned(), word("object")?.to_owned());
        let (vcenter, instance) = (Uuid::parse_str(word("vcenter")?).ok()?, Uuid::parse_str(word("vm")?).ok()?);
        let (incarnation, cycle) = (Uuid::parse_str(word("incarnation")?).ok()?, word("cycle")?.parse().ok()?);
        words.next().is_none().then_some(Self {
            owner: Owner { cluster, object },
            of: CycleId { vm: VmId { vcenter, instance }, incarnation: Incarnation(incarnation), cycle: Cycle(cycle) },
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cycle {} of {}", self.of.cycle, self.owner)
    }
}

/// Whose a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A Hawser's: ours, or another cluster's.
    Hawsers(Mark),
    /// It is called like one of Hawser's, but does not say whose it is: somebody has edited it. A person has to look.
    Unclear,
    /// Somebody else's.
    Foreign,
}

/// Whose snapshots of which VM are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owning {
    /// The owner.
    pub owner: Owner,
    /// The VM.
    pub vm: VmId,
}

impl Owning {
    /// The mark of a snapshot, where it is ours: of this owner and this VM (a VM made from a copy of another's files may carry the other's
    /// snapshots).
    #[must_use]
    pub fn owns(&self, node: &Node) -> Option<Mark> {
        match Mark::read(&node.name, &node.description) {
            Whose::Hawsers(mark) if mark.owner == self.owner && mark.of.vm == self.vm => Some(mark),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn mark(cycle: u64) -> Mark {
        let vm = VmId { vcenter: Uuid::from_u128(1), instance: Uuid::from_u128(2) };
        Mark {
            owner: Owner { cluster: "prod".into(), object: "apps/web-1".into() },
            of: CycleId { vm, incarnation: Incarnation(Uuid::from_u128(3)), cycle: Cycle(cycle) },
        }
    }

    #[test]
    fn a_mark_is_read_back() {
        let mark = mark(12);
        assert_eq!(Mark::read(&mark.name(), &mark.description()), Whose::Hawsers(mark.clone()));
        assert!(mark.name().len() <= 80 && !mark.name().contains(['%', '/', '\\']), "{}", mark.name());
        // As a server may hand it back.
        let windows = mark.description().replace('\n', "\r\n") + "\r\n";
        assert_eq!(Mark::read(&mark.name(), &windows), Whose::Hawsers(mark.clone()));
    }

    #[test]
    fn what_only_looks_like_ours_is_not() {
        let ours = mark(12);
        assert_eq!(Mark::read("before the upgrade", &ours.description()), Whose::Foreign);
        assert_eq!(Mark::read(&ours.name(), ""), Whose::Unclear);
        assert_eq!(Mark::read(&mark(13).name(), &ours.description()), Whose::Unclear);
        assert_eq!(Mark::read(&ours.name(), &ours.description().replace("cycle=12", "cycle=12 and=more")), Whose::Unclear);
        let mut other = ours.clone();
        other.owner.cluster = "test".into();
        let node = |mark: &Mark| Node {
            snapshot: crate::MoRef::snapshot("snapshot-1"),
            name: mark.name(),
            description: mark.description(),
            id: 1,
            taken: jiff::Timestamp::UNIX_EPOCH,
            quiesced: false,
            parent: None,
        };
        let owning = Owning { owner: ours.owner.clone(), vm: ours.of.vm };
        assert_eq!(owning.owns(&node(&ours)), Some(ours.clone()));
        assert_eq!(owning.owns(&node(&other)), None);
        let mut copied = ours;
        copied.of.vm.instance = Uuid::from_u128(9);
        assert_eq!(owning.owns(&node(&copied)), None);
    }

    proptest! {
        #[test]
        fn any_mark_is_read_back_and_nothing_panics(cluster in "[A-Za-z0-9._-]{1,63}", object in "[a-z0-9-]{1,20}/[a-z0-9-.]{1,63}", cycle: u64, any in ".{0,200}") {
            let mut mark = mark(cycle);
            mark.owner = Owner { cluster, object };
            prop_assert!(mark.name().len() <= 80);
            prop_assert_eq!(Mark::read(&mark.name(), &mark.description()), Whose::Hawsers(mark.clone()));
            let _ = Mark::read(&mark.name(), &any);
            let _ = Mark::read(&any, &mark.description());
        }
    }
}
