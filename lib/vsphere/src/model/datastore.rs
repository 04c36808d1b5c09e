//! Datastores.

use crate::{error::Error, model::read::Read, moref::MoRef, xml::Element};

/// A datastore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Datastore {
    /// Its name.
    pub name: String,
    /// In bytes.
    pub capacity: u64,
    /// In bytes, as of the last time that vCenter looked.
    pub free: u64,
    /// Whether any host reaches it.
    pub accessible: bool,
    /// `normal`, `enteringMaintenance` or `inMaintenance`.
    pub maintenance: Option<String>,
    /// `VMFS`, `NFS`, `vsan`, ...
    pub kind: String,
}

impl Datastore {
    /// The properties that are read.
    pub const PATHS: &'static [&'static str] = &["name", "summary"];

    /// How much of it is free, in percent.
    #[must_use]
    pub fn free_percent(&self) -> u64 {
        self.free.saturating_mul(100).checked_div(self.capacity).unwrap_or(0).min(100)
    }

    /// Takes over a property.
    ///
    /// # Errors
    /// [`Error::Answer`] where it can't be read; the datastore is as before then.
    pub fn set(&mut self, path: &str, value: Option<&Element>) -> Result<(), Error> {
        let Some(value) = value else { return Ok(()) };
        match path {
            "name" => self.name = value.text.trim().to_owned(),
            "summary" => {
                let summary = Read::of("summary", value);
                let (capacity, free) = (summary.u64("capacity")?, summary.u64("freeSpace")?);
                self.accessible = summary.optional_flag("accessible")?.unwrap_or(false);
                (self.capacity, self.free) = (capacity, free);
                self.maintenance = summary.optional_text("maintenanceMode").map(str::to_owned);
                self.kind = summary.optional_text("type").unwrap_or_default().to_owned();
            }
            _ => {}
        }
        Ok(())
    }
}

/// The datastores by reference.
pub type Datastores = std::collections::BTreeMap<MoRef, Datastore>;
