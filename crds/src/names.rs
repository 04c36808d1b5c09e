//! Names that several rooms have to agree on: finalizers, labels, annotations, and the keys of Secrets.

/// The API's group.
pub const GROUP: &str = "hawser.dev";
/// The API's version.
pub const VERSION: &str = "v1alpha1";

/// On a ReplicatedVM: snapshots, seeds, log and ledger are still to be cleaned up.
pub const CLEANUP_FINALIZER: &str = "hawser.dev/cleanup";
/// On a ReplicationCycle: its snapshot may still stand.
pub const SNAPSHOT_FINALIZER: &str = "hawser.dev/snapshot";
/// On an Appliance: ReplicatedVMs still need it to clean up.
pub const APPLIANCE_FINALIZER: &str = "hawser.dev/replicated-vms";

/// An annotation by which a person gives up what a deletion can't reach: with the value [`ABANDON_CONFIRMED`] the object goes, and what the
/// condition `CleanedUp` names is left behind.
pub const ABANDON_ANNOTATION: &str = "hawser.dev/abandon";
/// The only value of [`ABANDON_ANNOTATION`] that counts. A sentence, so that nobody sets it by habit.
pub const ABANDON_CONFIRMED: &str = "leave-what-is-left";

/// Label of everything that belongs to an appliance: its name.
pub const APPLIANCE_LABEL: &str = "hawser.dev/appliance";
/// Label of everything that belongs to a ReplicatedVM: its name.
pub const VM_LABEL: &str = "hawser.dev/vm";
/// Label of an appliance's pods: `gateway` or `applier`.
pub const COMPONENT_LABEL: &str = "hawser.dev/component";

/// Key of vCenter's Secret: who logs in.
pub const VCENTER_USERNAME_KEY: &str = "username";
/// Key of vCenter's Secret: the password.
pub const VCENTER_PASSWORD_KEY: &str = "password";
/// Key of Azure's Secret, for credentials of the type `ClientSecret`.
pub const CLIENT_SECRET_KEY: &str = "clientSecret";
/// Key of the encryption Secret: a key file as `worker key new` writes it, a line `<version> <64 hexadecimal digits>` for each version.
pub const ENCRYPTION_KEY: &str = "key";

/// The most characters of an Appliance's or a ReplicatedVM's name. What is named after them (`<appliance>-gateway`, `<vm>-<sequence>`) fits
/// into a label's 63.
pub const NAME_MAX: usize = 50;

/// The name of a cycle's object.
#[must_use]
pub fn cycle(vm: &str, sequence: i64) -> String {
    format!("{vm}-{sequence}")
}
