//! Finding a VM.

use uuid::Uuid;

use crate::{
    error::Error,
    moref::MoRef,
    session::{Call, Client},
};

/// By UUID. `instance` = vCenter's own of the VM, else the BIOS's.
#[must_use]
pub fn find_by_uuid(index: &MoRef, uuid: Uuid, instance: bool) -> Call {
    Call::new("FindByUuid", index, |w| {
        w.text("uuid", &uuid.to_string());
        w.flag("vmSearch", true);
        w.flag("instanceUuid", instance);
    })
}

/// By path: `DC0/vm/folder/name`; a `/` in a name is `%2f`.
#[must_use]
pub fn find_by_inventory_path(index: &MoRef, path: &str) -> Call {
    Call::new("FindByInventoryPath", index, |w| w.text("inventoryPath", path))
}

impl Client {
    async fn index(&self) -> Result<MoRef, Error> {
        let index = self.service().await?.content.search_index.clone();
        index.ok_or_else(|| Error::answer("RetrieveServiceContent", "it has no search index"))
    }

    /// The VM with this instance UUID, if there is one.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn find_by_instance_uuid(&self, uuid: Uuid) -> Result<Option<MoRef>, Error> {
        let answer = self.call(&find_by_uuid(&self.index().await?, uuid, true)).await?;
        Ok(answer.child("returnval").and_then(MoRef::read))
    }

    /// Whether an object is gone. Searches and views show only what the user may see; so one that is not found there is asked for by the
    /// reference that it had.
    ///
    /// # Errors
    /// [`Error`]: a fault `NoPermission` where it is there, and the user may not see it.
    pub async fn is_gone(&self, object: &MoRef) -> Result<bool, Error> {
        let fault = match self.read(object, &["name"]).await {
            Ok(mut content) => {
                content.missing.pop().map(|(_, fault)| Error::Fault { method: "RetrievePropertiesEx".into(), fault: Box::new(fault) })
            }
            Err(error) => Some(error),
        };
        match fault {
            None => Ok(false),
            Some(error) if error.fault().is_some_and(|fault| fault.is("ManagedObjectNotFound")) => Ok(true),
            Some(error) => Err(error),
        }
    }

    /// What lies at this path, if it is a VM.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn find_by_path(&self, path: &str) -> Result<Option<MoRef>, Error> {
        let answer = self.call(&find_by_inventory_path(&self.index().await?, path)).await?;
        Ok(answer.child("returnval").and_then(MoRef::read).filter(|found| found.kind() == "VirtualMachine"))
    }
}
