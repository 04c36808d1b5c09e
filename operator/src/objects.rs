//! What is done to objects of any kind, and how values are written into them.

use blocklog::ids::{Cycle, CycleId, Incarnation, VmId};
use crds::{ReplicationCycle, conditions::Status};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// The manager of the operator's fields.
pub const MANAGER: &str = "hawser-operator";

/// Changes the finalizers of an object, where nobody else has changed it in between.
///
/// # Errors
/// The apiserver's.
pub async fn finalizers<K>(api: &Api<K>, object: &K, change: impl FnOnce(&mut Vec<String>)) -> Result<(), kube::Error>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut all = object.finalizers().to_vec();
    change(&mut all);
    if all == object.finalizers() {
        return Ok(());
    }
    // Of two that change the list at once the second is refused: its version is not the one that it looked at.
    let change = json!({ "metadata": { "finalizers": all, "resourceVersion": object.resource_version() } });
    unless_gone(api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&change)).await)
}

/// Deletes an object, where it is there.
///
/// # Errors
/// The apiserver's.
pub async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    unless_gone(api.delete(name, &DeleteParams::background()).await)
}

/// Changes some fields of an object's spec, where it is there.
///
/// # Errors
/// The apiserver's.
pub async fn edit_spec<K>(api: &Api<K>, name: &str, spec: Value) -> Result<(), kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    unless_gone(api.patch(name, &parameters, &Patch::Merge(&json!({ "spec": spec }))).await)
}

/// Writes the operator's part of an object's status, where the object is there; true where it was.
///
/// With `on`, only where the object is still at this resource version.
///
/// # Errors
/// The apiserver's.
pub async fn write_status<K>(api: &Api<K>, name: &str, status: &impl serde::Serialize, on: Option<String>) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned,
{
    let mut change = json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status });
    if let Some(version) = on {
        change["metadata"] = json!({ "resourceVersion": version });
    }
    match api.patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&change)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(refused)) if refused.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What was asked of an object that has gone meanwhile is done.
fn unless_gone<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(refused)) if refused.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether an object has a finalizer.
#[must_use]
pub fn is_held_by(object: &impl Resource, finalizer: &str) -> bool {
    object.meta().finalizers.iter().flatten().any(|one| one == finalizer)
}

/// The status of a condition from its word; a word of another version is not known.
#[must_use]
pub fn status_of(word: &str) -> Status {
    [Status::True, Status::False].into_iter().find(|status| status.as_str() == word).unwrap_or(Status::Unknown)
}

/// A time as Kubernetes keeps it, in whole seconds: what is read back has to equal what was written.
#[must_use]
pub fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// A count of bytes, cycles or turns as the API has it, without unsigned numbers.
#[must_use]
pub fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The id of an object's cycle; none where its fields are no ids.
#[must_use]
pub fn cycle_id(object: &ReplicationCycle) -> Option<CycleId> {
    let spec = &object.spec;
    Some(CycleId {
        vm: VmId { vcenter: Uuid::parse_str(&spec.vm.vcenter_uuid).ok()?, instance: Uuid::parse_str(&spec.vm.instance_uuid).ok()? },
        incarnation: Incarnation(Uuid::parse_str(&spec.incarnation).ok()?),
        cycle: Cycle(u64::try_from(spec.cycle).ok()?),
    })
}

/// The first `most` bytes of a text, cut between two characters.
#[must_use]
pub fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_by_bytes_between_two_characters() {
        assert_eq!(cut("short", 1024), "short");
        let long = "ä".repeat(1000);
        assert_eq!(cut(&long, 1023).len(), 1022);
        assert_eq!(cut(&long, 1024).chars().count(), 512);
    }
}
