//! References to managed objects.

use std::fmt;

use crate::xml::{Element, Ns};

/// A reference to a managed object of vCenter: `VirtualMachine:vm-62`. It is vCenter's own, and changes when a VM is registered anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MoRef {
    kind: String,
    id: String,
}

impl MoRef {
    /// The reference to an object of a type.
    #[must_use]
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self { kind: kind.into(), id: id.into() }
    }

    /// A virtual machine.
    #[must_use]
    pub fn vm(id: impl Into<String>) -> Self {
        Self::new("VirtualMachine", id)
    }

    /// A snapshot of a virtual machine.
    #[must_use]
    pub fn snapshot(id: impl Into<String>) -> Self {
        Self::new("VirtualMachineSnapshot", id)
    }

    /// A task.
    #[must_use]
    pub fn task(id: impl Into<String>) -> Self {
        Self::new("Task", id)
    }

    /// The type of the object.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its id, unique in its vCenter: `vm-62`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The one that an element says.
    #[must_use]
    pub fn read(element: &Element) -> Option<Self> {
        let kind = element.attribute(Ns::None, "type").or_else(|| element.attribute(Ns::Vim, "type"))?;
        let id = element.text.trim();
        (!id.is_empty()).then(|| Self::new(kind, id))
    }
}

impl fmt::Display for MoRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}
