//! The snapshots of a VM.

use jiff::Timestamp;

use crate::{error::Error, model::read::Read, moref::MoRef, xml::Element};

/// A snapshot in its tree. vCenter's `state` of it is left out: it tells what a revert would lead to, and without memory that is `poweredOff`
/// whatever the VM was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// It.
    pub snapshot: MoRef,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// The host's own number of it: never given twice to one VM.
    pub id: i64,
    /// When it was taken, by the host's clock.
    pub taken: Timestamp,
    /// True where the guest was brought to rest.
    pub quiesced: bool,
    /// The index of the one that it was taken on top of.
    pub parent: Option<usize>,
}

/// The tree of a VM's snapshots, flat: parents before their children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// All of them.
    pub nodes: Vec<Node>,
    /// The one that the VM runs on top of.
    pub current: Option<MoRef>,
}

impl Tree {
    /// From the property `snapshot`.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn read(info: &Element) -> Result<Self, Error> {
        let read = Read::of("snapshot", info);
        let mut tree = Self { nodes: Vec::new(), current: read.reference("currentSnapshot").ok() };
        let mut open: Vec<(Read<'_>, Option<usize>)> = read.objects("rootSnapshotList").map(|root| (root, None)).collect();
        open.reverse();
        while let Some((node, parent)) = open.pop() {
            let at = tree.nodes.len();
            tree.nodes.push(Node {
                snapshot: node.reference("snapshot")?,
                name: node.text("name")?.to_owned(),
                description: node.optional_text("description").unwrap_or_default().to_owned(),
                id: node.optional_i64("id")?.unwrap_or_default(),
                taken: node.time("createTime")?,
                quiesced: node.optional_flag("quiesced")?.unwrap_or(false),
                parent,
            });
            let children = open.len();
            open.extend(node.objects("childSnapshotList").map(|child| (child, Some(at))));
            // The first child is taken off first.
            open[children..].reverse();
        }
        Ok(tree)
    }

    /// One of them.
    #[must_use]
    pub fn find(&self, snapshot: &MoRef) -> Option<&Node> {
        self.nodes.iter().find(|node| node.snapshot == *snapshot)
    }

    /// The snapshots that a state is built on, root first, itself last.
    #[must_use]
    pub fn path(&self, to: &MoRef) -> Vec<&Node> {
        let mut path = Vec::new();
        let mut at = self.nodes.iter().position(|node| node.snapshot == *to);
        // Parents stand before their children, so this ends.
        while let Some(node) = at.and_then(|at| self.nodes.get(at)) {
            path.push(node);
            at = node.parent;
        }
        path.reverse();
        path
    }

    /// The snapshots that the VM's present state is built on, root first.
    #[must_use]
    pub fn current_path(&self) -> Vec<&Node> {
        self.current.as_ref().map(|current| self.path(current)).unwrap_or_default()
    }

    /// How many snapshots lie on top of one another below the present state.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.current_path().len()
    }
}
