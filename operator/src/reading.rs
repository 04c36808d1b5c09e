//! Reads Hawser's own objects so that one that this version can't read costs nobody but itself, and tells people of that one.

use std::sync::Arc;

use crds::{
    Read, Unreadable,
    conditions::{self, ConditionType, Status},
    names,
    reasons::Reason,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;

use crate::{
    admission::Holder,
    context::Context,
    objects::{MANAGER, finalizers},
    pass::LATER,
    trouble::Trouble,
};

/// The kinds that are read so.
pub trait Own:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync
{
}

impl<K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync> Own for K {}

/// A list, of which some may be unreadable.
#[derive(Debug)]
pub struct Listed<K> {
    /// Those that this version reads.
    pub readable: Vec<K>,
    /// The others, which are there as well.
    pub unreadable: Vec<Arc<Unreadable>>,
}

impl<K: Own> Listed<K> {
    /// The names of all.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let readable = self.readable.iter().map(ResourceExt::name_any);
        readable.chain(self.unreadable.iter().map(|unread| unread.name().to_owned())).collect()
    }
}

/// Lists the objects of a namespace.
///
/// # Errors
/// The apiserver's.
pub async fn list<K: Own>(client: &Client, namespace: &str, which: &ListParams) -> Result<Listed<K>, kube::Error> {
    let mut listed = Listed { readable: Vec::new(), unreadable: Vec::new() };
    for Read(one) in api::<K>(client, namespace).list(which).await?.items {
        match one {
            Ok(one) => listed.readable.push(Arc::unwrap_or_clone(one)),
            Err(unread) => listed.unreadable.push(unread),
        }
    }
    Ok(listed)
}

/// Gets an object; an error of its own where it is there and can't be read.
///
/// # Errors
/// The apiserver's.
pub async fn get<K: Own>(client: &Client, namespace: &str, name: &str) -> Result<Option<Result<K, Arc<Unreadable>>>, kube::Error> {
    let found = api::<K>(client, namespace).get_opt(name).await?;
    Ok(found.map(|Read(one)| one.map(Arc::unwrap_or_clone)))
}

/// Says on an object that it can't be read, in this condition, and tells people once. Whoever reads the object may not have been able to write to
/// it for a while; so it is not taken for a failure of who looks at it.
///
/// # Errors
/// The apiserver did not answer.
pub async fn tell<K: Own>(context: &Context, unread: &Arc<Unreadable>, of: ConditionType, status: Status) -> Result<(), Trouble> {
    let (namespace, name) = (unread.metadata.namespace.clone().unwrap_or_default(), unread.name());
    let Some(change) = unread.told(of, status, context.clock.now()) else { return Ok(()) };
    let version = unread.metadata.resource_version.as_deref();
    tracing::warn!(kind = %unread.kind, namespace, name, version, why = unread.why, "it can't be read");
    // As a writer of its own: what the operator has said of the object before stays, and is not this version's to take away.
    let writer = PatchParams::apply(&format!("{MANAGER}-reading")).force();
    match api::<K>(&context.client, &namespace).patch_status(name, &writer, &Patch::Apply(&change)).await {
        Ok(_) => {}
        // It is gone, or its definition here does not allow for it. Any other error is worth another try.
        Err(kube::Error::Api(refused)) if matches!(refused.code, 400 | 404 | 409 | 422) => {
            tracing::warn!(kind = %unread.kind, namespace, name, why = refused.message, "it can't be told that it can't be read");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    context.event(&Read::<K>(Err(unread.clone())), true, Reason::Unreadable, "Read", &unread.message()).await;
    Ok(())
}

/// A cycle that can't be read and is not closed, if there is one. One that is closed is history, whatever it was.
#[must_use]
pub fn open(cycles: &[Arc<Unreadable>]) -> Option<&Arc<Unreadable>> {
    cycles.iter().find(|cycle| is_open(cycle))
}

/// True while nobody has closed it: its finalizer stands.
#[must_use]
pub fn is_open(cycle: &Unreadable) -> bool {
    cycle.metadata.finalizers.iter().flatten().any(|one| one == names::SNAPSHOT_FINALIZER)
}

/// The disk slots of cycles that can't be read, and may transfer: a newer gateway may be at work on them.
pub fn holders(cycles: &[Arc<Unreadable>]) -> impl Iterator<Item = Holder> + '_ {
    let sent =
        |cycle: &Unreadable| conditions::get(&cycle.conditions(), ConditionType::Transferred).is_some_and(|one| one.status != "Unknown");
    cycles.iter().filter(move |cycle| is_open(cycle) && !sent(cycle)).map(|cycle| Holder {
        vm: cycle.field("/spec/vmRef/name").unwrap_or_default(),
        host: None,
        // Of one whose share can't be read either it is known that it has one.
        disks: cycle.field("/spec/allotment/disks").unwrap_or(1),
    })
}

/// Takes a finalizer off an object that can't be read, where it is there.
///
/// # Errors
/// The apiserver's.
pub async fn let_go<K: Own>(client: &Client, unread: &Arc<Unreadable>, finalizer: &str) -> Result<(), kube::Error> {
    let namespace = unread.metadata.namespace.clone().unwrap_or_default();
    let object = Read::<K>(Err(unread.clone()));
    finalizers(&api::<K>(client, &namespace), &object, |all| all.retain(|one| one != finalizer)).await
}

fn api<K: Own>(client: &Client, namespace: &str) -> Api<Read<K>> {
    Api::namespaced(client.clone(), namespace)
}

impl From<&Unreadable> for Trouble {
    fn from(unread: &Unreadable) -> Self {
        Self { again: Some(LATER), ..Self::new(Reason::Unreadable, unread.message()) }
    }
}

#[cfg(test)]
mod tests;
