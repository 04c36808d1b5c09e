//! Objects that this version may be unable to read.
//!
//! An object that another version wrote may have a word where this one knows a closed set: after a rollback, or in the middle of an upgrade. Read
//! as its bare type it would fail the whole list that it is in, and with it all others. As [`Read`] it fails alone.

use std::{borrow::Cow, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::Resource;
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};
use serde_json::{Value, json};

use crate::{
    conditions::{self, ConditionType, Finding, Status},
    reasons::Reason,
};

/// An object, or why this version can't read it.
///
/// As kube's `DeserializeGuard`, which keeps only metadata of what can't be read; but which appliance a VM needs, and how many slots a cycle has,
/// counts whether or not the rest is understood.
#[derive(Debug)]
pub struct Read<K>(pub Result<Arc<K>, Arc<Unreadable>>);

/// An object that this version can't read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{kind} {}: this version of Hawser can't read it: {why}", self.name())]
pub struct Unreadable {
    /// Its kind.
    pub kind: Cow<'static, str>,
    /// Its metadata, which every version reads.
    pub metadata: ObjectMeta,
    /// What is not understood.
    pub why: String,
    object: Value,
}

impl<K> Read<K> {
    /// The object, where it could be read.
    #[must_use]
    pub fn readable(&self) -> Option<&Arc<K>> {
        self.0.as_ref().ok()
    }
}

impl<K> Clone for Read<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'de, K: Resource<DynamicType = ()> + DeserializeOwned> Deserialize<'de> for Read<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let why = match K::deserialize(&object) {
            Ok(read) => return Ok(Self(Ok(Arc::new(read)))),
            Err(why) => why.to_string(),
        };
        // Without these it is no object at all.
        let metadata = ObjectMeta::deserialize(object.get("metadata").unwrap_or(&Value::Null)).map_err(D::Error::custom)?;
        Ok(Self(Err(Arc::new(Unreadable { kind: K::kind(&()), metadata, why, object }))))
    }
}

impl<K: Resource<DynamicType = ()> + Clone> Resource for Read<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(by: &()) -> Cow<'_, str> {
        K::kind(by)
    }

    fn group(by: &()) -> Cow<'_, str> {
        K::group(by)
    }

    fn version(by: &()) -> Cow<'_, str> {
        K::version(by)
    }

    fn plural(by: &()) -> Cow<'_, str> {
        K::plural(by)
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(read) => read.meta(),
            Err(unreadable) => &unreadable.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(read) => Arc::make_mut(read).meta_mut(),
            Err(unreadable) => &mut Arc::make_mut(unreadable).metadata,
        }
    }
}

impl Unreadable {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// One of its fields, by its path as a JSON pointer; none where it is not there, or is itself what can't be read.
    #[must_use]
    pub fn field<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        T::deserialize(self.object.pointer(path)?).ok()
    }

    /// Its conditions, but for those that can't be read.
    #[must_use]
    pub fn conditions(&self) -> Vec<Condition> {
        let all: Vec<Value> = self.field("/status/conditions").unwrap_or_default();
        all.iter().filter_map(|one| Condition::deserialize(one).ok()).collect()
    }

    /// What is to be applied to its status so that it says what is so; none where it says so already. `of` is the condition that says it, with
    /// this status.
    ///
    /// It names nothing else. Whoever applies it does so as a writer of its own: from a writer that has more in the status all that would be taken.
    #[must_use]
    pub fn told(&self, of: ConditionType, status: Status, now: Timestamp) -> Option<Value> {
        let finding = Finding { of, status, reason: Reason::Unreadable, message: self.message() };
        let old = self.conditions();
        let new = conditions::merge(&old, &[finding], self.metadata.generation, now);
        if conditions::get(&old, of) == new.first() {
            return None;
        }
        let version = format!("{}/{}", crate::names::GROUP, crate::names::VERSION);
        // With its UID, or it would be of another object by the same name.
        let metadata = json!({ "name": self.name(), "uid": self.metadata.uid });
        Some(json!({ "apiVersion": version, "kind": self.kind, "metadata": metadata, "status": { "conditions": new } }))
    }

    /// What people read.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{self}. Another version wrote it; it is left as it is until it can be read. Upgrade Hawser, or put it right")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ReplicatedVM, ReplicationCycle};

    fn vm(edit: impl FnOnce(&mut Value)) -> Read<ReplicatedVM> {
        let mut object = json!({
            "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicatedVM",
            "metadata": { "name": "web", "namespace": "apps", "uid": "u", "generation": 3, "resourceVersion": "7" },
            "spec": { "applianceRef": { "name": "onprem" }, "vm": { "moRef": "vm-1" }, "target": {} },
            "status": { "phase": "InitialReplication" },
        });
        edit(&mut object);
        serde_json::from_value(object).unwrap()
    }

    fn unread(read: &Read<ReplicatedVM>) -> Arc<Unreadable> {
        read.0.clone().unwrap_err()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_object_of_this_version_is_read() {
        let read = vm(|_| {});
        assert_eq!(read.readable().unwrap().spec.appliance_ref.name, "onprem");
        assert_eq!(
            (read.meta().name.as_deref(), ReplicatedVM::plural(&()), Read::<ReplicatedVM>::plural(&())),
            (Some("web"), "replicatedvms".into(), "replicatedvms".into())
        );
    }

    #[test]
    fn an_unknown_word_costs_the_object_and_keeps_what_is_asked_for() {
        let read = vm(|object| object["status"]["phase"] = json!("MigrationQueued"));
        let unread = unread(&read);
        let word = "MigrationQueued";
        assert!(read.readable().is_none() && unread.why.contains(word), "{}", unread.why);
        assert_eq!((read.meta().resource_version.as_deref(), unread.name()), (Some("7"), "web"));
        assert_eq!(unread.field::<String>("/spec/applianceRef/name").as_deref(), Some("onprem"));
        assert_eq!((unread.field::<u32>("/spec/applianceRef/name"), unread.field::<u32>("/spec/nothing")), (None, None));
    }

    #[test]
    fn one_unreadable_object_fails_no_list() {
        let cycle = |kind: &str| {
            json!({
                "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicationCycle", "metadata": { "name": kind.to_lowercase() },
                "spec": {
                    "vmRef": { "name": "web" }, "applianceRef": { "name": "onprem" }, "owner": { "cluster": "c", "object": "apps/web" },
                    "kind": kind,
                },
            })
        };
        let items = [cycle("Delta"), cycle("PreMigrate")];
        let alone: Vec<_> =
            items.iter().map(|one| serde_json::from_value::<ReplicationCycle>(one.clone()).err().map(|why| why.to_string())).collect();
        let read: Vec<Read<ReplicationCycle>> = serde_json::from_value(json!(items)).unwrap();
        let whys: Vec<_> = read.iter().map(|one| one.0.as_ref().err().map(|unread| unread.why.clone())).collect();
        assert_eq!(whys, alone);
        assert_eq!(read[1].0.as_ref().unwrap_err().field::<String>("/spec/vmRef/name").as_deref(), Some("web"));
    }

    #[test]
    fn what_has_no_metadata_is_no_object() {
        assert!(serde_json::from_value::<Read<ReplicatedVM>>(json!({ "kind": "ReplicatedVM", "metadata": 3 })).is_err());
    }

    #[test]
    fn an_unreadable_object_is_told_once() {
        let odd =
            |conditions: Value| unread(&vm(|object| object["status"] = json!({ "phase": "MigrationQueued", "conditions": conditions })));
        let ready = json!({ "type": "Ready", "status": "True", "reason": "AsExpected", "message": "", "lastTransitionTime": "2026-11-29T00:00:00Z" });
        let told = odd(json!([ready, "odd"])).told(ConditionType::Ready, Status::False, at(1_800_000_000)).unwrap();
        assert_eq!((&told["kind"], &told["metadata"]), (&json!("ReplicatedVM"), &json!({ "name": "web", "uid": "u" })));
        let [condition] = told["status"]["conditions"].as_array().unwrap().as_slice() else { panic!("{told}") };
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Unreadable")));
        assert!(condition["message"].as_str().unwrap().contains("this version of Hawser can't read it"), "{condition}");
        assert_eq!(condition["lastTransitionTime"], json!("2027-01-15T08:00:00Z"));
        let again = odd(json!([condition, "odd"]));
        assert_eq!(again.told(ConditionType::Ready, Status::False, at(1_900_000_000)), None);
        assert!(again.told(ConditionType::Ready, Status::Unknown, at(1_900_000_000)).is_some());
    }
}
