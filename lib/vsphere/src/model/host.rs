//! Hosts.

use crate::{error::Error, model::read::Read, moref::MoRef, xml::Element};

/// A host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// `connected`, `disconnected` or `notResponding`.
    pub connection: String,
    /// Whether it is in maintenance mode.
    pub maintenance: bool,
    /// Its product's version: `8.0.3`.
    pub version: Option<String>,
    /// Its product's build.
    pub build: Option<u64>,
}

impl Host {
    /// The properties that are read.
    pub const PATHS: &'static [&'static str] =
        &["name", "runtime.connectionState", "runtime.inMaintenanceMode", "config.product.version", "config.product.build"];

    /// True where VMs on it can be worked with.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.connection == "connected" && !self.maintenance
    }

    /// Takes over a property.
    ///
    /// # Errors
    /// [`Error::Answer`] where it can't be read; the host is as before then.
    pub fn set(&mut self, path: &str, value: Option<&Element>) -> Result<(), Error> {
        let text = value.map(|value| value.text.trim().to_owned());
        match path {
            "name" => self.name = text.unwrap_or_default(),
            "runtime.connectionState" => self.connection = text.unwrap_or_default(),
            "runtime.inMaintenanceMode" => self.maintenance = value.map_or(Ok(false), |value| Read::of(path, value).own_flag())?,
            "config.product.version" => self.version = text,
            "config.product.build" => self.build = text.and_then(|text| text.parse().ok()),
            _ => {}
        }
        Ok(())
    }
}

/// The hosts by reference.
pub type Hosts = std::collections::BTreeMap<MoRef, Host>;
