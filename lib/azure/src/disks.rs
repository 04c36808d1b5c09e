//! The managed disks that replicas are.

use std::{collections::BTreeMap, fmt, time::Duration};

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{arm::Arm, error::ArmError, id::ResourceId};

/// The version of the disk resource provider's API.
const VERSION: &str = "2025-01-02";
/// A VHD's footer.
const FOOTER: u64 = 512;
/// Sizes of upload disks are of whole MiB, the footer apart.
pub const GRAIN: u64 = 1 << 20;
/// The least content of an upload disk: 20 MiB.
pub const LEAST: u64 = 20 << 20;
/// The largest managed disk: 32 TiB less a GiB.
pub const MOST: u64 = 35_183_298_347_520 - FOOTER;

/// The content of the upload disk for a disk of `capacity` bytes: the next whole MiB, 20 MiB at the least.
#[must_use]
pub fn content(capacity: u64) -> u64 {
    capacity.div_ceil(GRAIN).saturating_mul(GRAIN).max(LEAST)
}

/// What a disk is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum DiskState {
    /// It waits for its upload to begin.
    ReadyToUpload,
    /// It is being uploaded to.
    ActiveUpload,
    /// Its upload has ended: nothing can be written to it any more.
    Unattached,
    /// It is attached to a VM.
    Attached,
    /// It is attached to a VM that does not run.
    Reserved,
    /// It is frozen.
    Frozen,
    /// It is being read through an access signature.
    ActiveSAS,
    /// The same of a frozen one.
    ActiveSASFrozen,
    /// A state that this version does not know.
    #[serde(other)]
    Other,
}

impl DiskState {
    /// True while it can be written through an access signature.
    #[must_use]
    pub fn is_upload(self) -> bool {
        matches!(self, Self::ReadyToUpload | Self::ActiveUpload)
    }
}

/// A managed disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its id.
    pub id: ResourceId,
    /// Another one is another disk, whatever its name.
    pub unique_id: String,
    /// What it is ready for.
    pub state: DiskState,
    /// False while it is being made or deleted.
    pub provisioned: bool,
    /// True where its making has ended in failure: it can be deleted, and made again.
    pub failed: bool,
    /// Bytes that it holds, without a VHD's footer, where it was made for upload.
    pub content: Option<u64>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A disk to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadDisk {
    /// The region.
    pub location: String,
    /// Such as `Premium_LRS`.
    pub sku: String,
    /// The availability zone.
    pub zone: Option<String>,
    /// Bytes of content: [`content`] of the source's.
    pub content: u64,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// Write or read access for a while: a URL with a signature.
#[derive(Clone)]
pub struct Sas(String);

impl Sas {
    /// The URL, signature included: only for a client.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sas(<redacted>)")
    }
}

/// What may be done through a [`Sas`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Writing, to an upload disk.
    Write,
}

#[derive(Deserialize)]
struct Wire {
    id: ResourceId,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
    properties: Properties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    #[serde(default)]
    unique_id: String,
    disk_state: Option<DiskState>,
    provisioning_state: Option<String>,
    creation_data: Option<CreationData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreationData {
    upload_size_bytes: Option<u64>,
}

impl Disk {
    fn read(operation: &str, value: Value) -> Result<Self, ArmError> {
        let wire: Wire =
            serde_json::from_value(value).map_err(|error| ArmError::Answer { operation: operation.to_owned(), why: error.to_string() })?;
        let Properties { unique_id, disk_state, provisioning_state, creation_data } = wire.properties;
        Ok(Self {
            id: wire.id,
            unique_id,
            state: disk_state.unwrap_or(DiskState::Other),
            failed: matches!(provisioning_state.as_deref(), Some("Failed" | "Canceled")),
            provisioned: provisioning_state.is_none_or(|state| matches!(state.as_str(), "Succeeded" | "Failed" | "Canceled")),
            content: creation_data.and_then(|data| data.upload_size_bytes).map(|size| size.saturating_sub(FOOTER)),
            tags: wire.tags.unwrap_or_default(),
        })
    }
}

impl Arm {
    /// A disk; none where there is none of this id.
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn disk(&self, id: &ResourceId) -> Result<Option<Disk>, ArmError> {
        let path = id.to_string();
        self.get(&path, VERSION).await?.map(|found| Disk::read(&path, found)).transpose()
    }

    /// All disks of a resource group. A group that does not exist is [`ArmError::Refused`].
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn disks(&self, subscription: &str, group: &str) -> Result<Vec<Disk>, ArmError> {
        let path = format!("/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/disks");
        self.list(&path, VERSION).await?.into_iter().map(|found| Disk::read(&path, found)).collect()
    }

    /// Makes an upload disk, or finds the one that the same call has made before.
    ///
    /// # Errors
    /// [`ArmError`]; [`ArmError::Conflict`] where another disk stands there.
    pub async fn make_upload_disk(&self, id: &ResourceId, disk: &UploadDisk) -> Result<Disk, ArmError> {
        let mut body = json!({
            "location": disk.location,
            "sku": { "name": disk.sku },
            "tags": disk.tags,
            "properties": { "creationData": { "createOption": "Upload", "uploadSizeBytes": disk.content + FOOTER } },
        });
        if let Some(zone) = &disk.zone {
            body["zones"] = json!([zone]);
        }
        let path = id.to_string();
        Disk::read(&path, self.run(Method::PUT, &path, VERSION, Some(&body)).await?)
    }

    /// Access to a disk, for `lasts`, counted in whole seconds. A disk being uploaded to may be granted again and again.
    ///
    /// # Errors
    /// [`ArmError`]; [`ArmError::Conflict`] where the disk's state forbids it.
    pub async fn grant(&self, id: &ResourceId, access: Access, lasts: Duration) -> Result<Sas, ArmError> {
        let access = match access {
            Access::Read => "Read",
            Access::Write => "Write",
        };
        let path = format!("{id}/beginGetAccess");
        let body = json!({ "access": access, "durationInSeconds": lasts.as_secs() });
        let granted = self.run(Method::POST, &path, VERSION, Some(&body)).await?;
        let url = ["accessSAS", "accessSas"].iter().find_map(|name| granted.get(name)).and_then(Value::as_str);
        url.map(|url| Sas(url.to_owned())).ok_or_else(|| ArmError::Answer { operation: path, why: "it has no access in it".to_owned() })
    }

    /// Ends every access to a disk. An upload disk can't be written any more after it.
    ///
    /// # Errors
    /// [`ArmError`]; a disk that is gone is an error, [`ArmError::NotFound`].
    pub async fn revoke(&self, id: &ResourceId) -> Result<(), ArmError> {
        self.run(Method::POST, &format!("{id}/endGetAccess"), VERSION, None).await.map(drop)
    }

    /// Deletes a disk. One that is gone already is deleted.
    ///
    /// # Errors
    /// [`ArmError`]; [`ArmError::Conflict`] where it is attached, or an access to it is not revoked.
    pub async fn delete_disk(&self, id: &ResourceId) -> Result<(), ArmError> {
        match self.run(Method::DELETE, &id.to_string(), VERSION, None).await {
            Ok(_) | Err(ArmError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_disks_are_of_whole_mib_and_20_at_the_least() {
        assert_eq!(content(1), LEAST);
        assert_eq!(content(LEAST), LEAST);
        assert_eq!(content(LEAST + 1), LEAST + GRAIN);
        assert_eq!(content((64 << 30) - 512), 64 << 30);
    }

    #[test]
    fn a_disk_is_read_as_azure_writes_it() {
        let text = r#"{"id": "/subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/disks/seed", "name": "seed", "location": "westeurope",
            "properties": {"uniqueId": "0d1e", "diskState": "ReadyToUpload", "provisioningState": "Succeeded",
            "creationData": {"createOption": "Upload", "uploadSizeBytes": 20972032}}}"#;
        let disk = Disk::read("GET", serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((disk.unique_id.as_str(), disk.state, disk.content), ("0d1e", DiskState::ReadyToUpload, Some(LEAST)));
        assert!(disk.provisioned && disk.tags.is_empty() && disk.state.is_upload());
        let unknown = text.replace("ReadyToUpload", "Levitating").replace("Succeeded", "Updating");
        let disk = Disk::read("GET", serde_json::from_str(&unknown).unwrap()).unwrap();
        assert_eq!((disk.state, disk.provisioned, disk.failed), (DiskState::Other, false, false));
        // Nothing goes on with it any more: who waited for it would wait for ever.
        let disk = Disk::read("GET", serde_json::from_str(&text.replace("Succeeded", "Failed")).unwrap()).unwrap();
        assert_eq!((disk.provisioned, disk.failed), (true, true));
        assert!(matches!(Disk::read("GET", json!({"id": "seed"})), Err(ArmError::Answer { .. })));
    }

    #[test]
    fn an_access_is_not_shown() {
        assert!(!format!("{:?}", Sas("https://md-x/y?sig=secret".to_owned())).contains("secret"));
    }
}
