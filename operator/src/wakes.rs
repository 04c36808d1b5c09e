//! What wakes a pass: changes by others, and none by itself.
//!
//! A controller that looks at an object each time that it has written its status works for ever on a status that differs each time. So of each
//! watched object only a part counts, and the watch is silent where that part is as it was.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use crds::{
    Appliance, Read, ReplicationCycle,
    conditions::{self, ConditionType},
};
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Resource,
    core::ObjectMeta,
    runtime::watcher::{Error, Event},
};

/// What people or other programs change of an object: its spec, and all of its metadata that anything is decided by. Written statuses change nothing
/// of it.
fn of_meta(meta: &ObjectMeta, hasher: &mut impl Hasher) {
    (&meta.uid, meta.generation, &meta.labels, &meta.annotations, &meta.finalizers).hash(hasher);
    meta.deletion_timestamp.as_ref().map(|time| time.0.as_second()).hash(hasher);
    let owners = meta.owner_references.iter().flatten().map(|owner| owner.uid.as_str());
    owners.collect::<Vec<_>>().hash(hasher);
}

fn digest(parts: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts(&mut hasher);
    hasher.finish()
}

/// Of an object whose status is the operator's own: all else.
#[must_use]
pub fn but_status<K: Resource>(object: &K) -> u64 {
    digest(|hasher| of_meta(object.meta(), hasher))
}

/// The same of one that may be of another version: also whether this one can read it.
#[must_use]
pub fn read_but_status<K>(object: &Read<K>) -> u64
where
    Read<K>: Resource,
{
    digest(|hasher| (but_status(object), object.readable().is_some()).hash(hasher))
}

/// A part of what can be read; of the rest all but its status.
pub fn read<K>(part: impl Fn(&K) -> u64) -> impl Fn(&Read<K>) -> u64
where
    Read<K>: Resource,
{
    move |object| object.readable().map_or_else(|| read_but_status(object), |object| part(object))
}

/// Of a VM's cycle: all but the operator's own part of its status, and what its gateway only says in other words.
#[must_use]
pub fn of_cycle(cycle: &ReplicationCycle) -> u64 {
    digest(|hasher| {
        of_meta(&cycle.metadata, hasher);
        let Some(status) = &cycle.status else { return };
        let gateways = status.conditions.iter().filter(|one| one.type_ != ConditionType::Applied.as_str());
        gateways.map(stands).collect::<Vec<_>>().hash(hasher);
        // Figures and states; it can always be written as JSON.
        serde_json::to_vec(&status.source).unwrap_or_default().hash(hasher);
    })
}

/// Of a VM's appliance: what is asked of it, and whether it is ready.
#[must_use]
pub fn of_appliance(appliance: &Appliance) -> u64 {
    digest(|hasher| {
        let meta = &appliance.metadata;
        (&meta.uid, meta.generation).hash(hasher);
        meta.deletion_timestamp.is_some().hash(hasher);
        let conditions = appliance.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions::get(conditions, ConditionType::Ready).map(stands).hash(hasher);
    })
}

/// A condition without its words.
fn stands(condition: &Condition) -> (&str, &str, &str) {
    (&condition.type_, &condition.status, &condition.reason)
}

/// The objects that a watch tells of whose `part` is another than it was. One that has gone is always told.
pub fn changed<K>(
    events: impl Stream<Item = Result<Event<K>, Error>> + Send + 'static,
    part: impl Fn(&K) -> u64 + Send + 'static,
) -> impl Stream<Item = Result<K, Error>> + Send + 'static
where
    K: Resource + Send + 'static,
{
    let mut known: Known = HashMap::new();
    let told = events.filter_map(move |event| {
        let told = match event {
            Err(error) => Some(Err(error)),
            Ok(event) => known_anew(&mut known, event, &part).map(Ok),
        };
        std::future::ready(told)
    });
    told.boxed()
}

type Known = HashMap<(Option<String>, Option<String>), (u64, bool)>;

/// The object of an event, where it is to be told of.
fn known_anew<K: Resource>(known: &mut Known, event: Event<K>, part: &impl Fn(&K) -> u64) -> Option<K> {
    let name = |object: &K| (object.meta().namespace.clone(), object.meta().name.clone());
    match event {
        Event::Delete(object) => {
            known.remove(&name(&object));
            Some(object)
        }
        Event::Apply(object) | Event::InitApply(object) => {
            let now = part(&object);
            let before = known.insert(name(&object), (now, true));
            before.is_none_or(|(before, _)| before != now).then_some(object)
        }
        // All that there is comes now: what does not come has gone.
        Event::Init => {
            known.values_mut().for_each(|(_, seen)| *seen = false);
            None
        }
        Event::InitDone => {
            known.retain(|_, (_, seen)| *seen);
            None
        }
    }
}

#[cfg(test)]
#[path = "wakes/tests.rs"]
mod tests;
