//! What we may do.

use crate::{
    error::Error,
    moref::MoRef,
    session::{Call, Client},
};

/// Asks which of some privileges a session has on some objects.
#[must_use]
pub fn has_privilege_on_entities(manager: &MoRef, entities: &[MoRef], session: &str, privileges: &[&str]) -> Call {
    Call::new("HasPrivilegeOnEntities", manager, |w| {
        entities.iter().for_each(|entity| w.reference("entity", entity));
        w.text("sessionId", session);
        privileges.iter().for_each(|privilege| w.text("privId", privilege));
    })
}

/// Asks which of some privileges a user has on some objects.
#[must_use]
pub fn has_user_privilege_on_entities(manager: &MoRef, entities: &[MoRef], user: &str, privileges: &[&str]) -> Call {
    Call::new("HasUserPrivilegeOnEntities", manager, |w| {
        entities.iter().for_each(|entity| w.reference("entities", entity));
        w.text("userName", user);
        privileges.iter().for_each(|privilege| w.text("privId", privilege));
    })
}

/// A privilege that replication needs, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privilege {
    /// Its id.
    pub id: &'static str,
    /// Where it stands in vSphere's dialogue of roles.
    pub label: &'static str,
    /// What it is for.
    pub reason: &'static str,
    /// True where replication of every VM needs it; else only what the reason says.
    pub required: bool,
}

const fn required(id: &'static str, label: &'static str, reason: &'static str) -> Privilege {
    Privilege { id, label, reason, required: true }
}

/// The privileges on a VM. Those for disks are VDDK's (VMware's guide to virtual disk programming names them).
pub const PRIVILEGES: &[Privilege] = &[
    required(
        "VirtualMachine.State.CreateSnapshot",
        "Virtual machine > Snapshot management > Create snapshot",
        "takes each cycle's snapshot",
    ),
    required(
        "VirtualMachine.State.RemoveSnapshot",
        "Virtual machine > Snapshot management > Remove snapshot",
        "releases and consolidates it",
    ),
    required(
        "VirtualMachine.Config.ChangeTracking",
        "Virtual machine > Change configuration > Toggle disk change tracking",
        "switches changed block tracking on",
    ),
    required(
        "VirtualMachine.Config.DiskLease",
        "Virtual machine > Change configuration > Acquire disk lease",
        "opens the snapshot's disks",
    ),
    required(
        "VirtualMachine.Provisioning.DiskRandomRead",
        "Virtual machine > Provisioning > Allow read-only disk access",
        "reads disks, and asks what changed on them",
    ),
    required(
        "VirtualMachine.Provisioning.DiskRandomAccess",
        "Virtual machine > Provisioning > Allow disk access",
        "reads disks through VDDK",
    ),
    required(
        "VirtualMachine.Provisioning.GetVmFiles",
        "Virtual machine > Provisioning > Allow virtual machine download",
        "reads disks through VDDK",
    ),
    Privilege {
        id: "VirtualMachine.Interact.PowerOff",
        label: "Virtual machine > Interaction > Power off",
        reason: "shuts the source down in a migration",
        required: false,
    },
    Privilege {
        id: "VirtualMachine.Interact.PowerOn",
        label: "Virtual machine > Interaction > Power on",
        reason: "starts the source again where a migration is rolled back",
        required: false,
    },
];

impl Client {
    /// Which of the privileges this client lacks on an object.
    ///
    /// # Errors
    /// [`Error`]. A privilege that this vCenter does not know counts as missing.
    pub async fn missing_privileges(&self, on: &MoRef, privileges: &[&'static Privilege]) -> Result<Vec<&'static Privilege>, Error> {
        let (service, session) = self.session().await?;
        let manager = service.content.authorization_manager.clone();
        let manager = manager.ok_or_else(|| Error::answer("RetrieveServiceContent", "it has no authorization manager"))?;
        let ids: Vec<&str> = privileges.iter().map(|privilege| privilege.id).collect();
        let entity = std::slice::from_ref(on);
        let ask = |key: &str| has_privilege_on_entities(&manager, entity, key, &ids);
        let answer = match self.call_in(&service, &session, &ask(&session.key)).await {
            // The key is that session's: another one has to be asked about by its own.
            Err(error) if error.is("NotAuthenticated") => {
                let (service, session) = self.session().await?;
                self.call_in(&service, &session, &ask(&session.key)).await?
            }
            // Where a session may not ask about itself, one may ask about the user.
            Err(error) if error.is("NoPermission") || error.is("NotSupported") => {
                self.call(&has_user_privilege_on_entities(&manager, entity, &session.user, &ids)).await?
            }
            result => result?,
        };
        let of_entity = answer.all("returnval").flat_map(|value| value.all("privAvailability"));
        let granted: Vec<&str> =
            of_entity.filter(|p| p.text_of("isGranted") == Some("true")).filter_map(|p| p.text_of("privId")).map(str::trim).collect();
        Ok(privileges.iter().filter(|privilege| !granted.contains(&privilege.id)).copied().collect())
    }
}
