//! What conditions said on the way: they change, and whoever looks now and then may come too late.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crds::{Appliance, ReplicatedVM, ReplicationCycle, names::VM_LABEL};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, ResourceExt,
    runtime::watcher::{self, watcher},
};
use tokio::task::JoinHandle;

use crate::{Result, vm::Replica, wait};

/// A condition as it was for a while.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose: the object's name.
    pub of: String,
    /// Its type.
    pub condition: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, condition, status, reason, message } = self;
        write!(f, "{of}: {condition}={status} {reason}: {message}")
    }
}

#[derive(Default)]
struct Entries(Mutex<Vec<Entry>>);

impl Entries {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, of: &str, conditions: Vec<Condition>) {
        let mut all = self.lock();
        for Condition { type_: condition, status, reason, message, .. } in conditions {
            let entry = Entry { of: of.to_owned(), condition, status, reason, message };
            if all.iter().rev().find(|old| old.of == entry.of && old.condition == entry.condition) != Some(&entry) {
                all.push(entry);
            }
        }
    }
}

/// Follows the conditions of a ReplicatedVM, its cycles, and its appliance.
pub struct Diary {
    entries: Arc<Entries>,
    watchers: Vec<JoinHandle<()>>,
}

impl Drop for Diary {
    fn drop(&mut self) {
        self.watchers.iter().for_each(JoinHandle::abort);
    }
}

impl Diary {
    /// From now on, with what is so now.
    #[must_use]
    pub fn keep(replica: &Replica, appliance: &str) -> Self {
        let entries = Arc::new(Entries::default());
        let (client, namespace) = (replica.world.client.clone(), replica.namespace.as_str());
        let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let own = watcher::Config::default().labels(&format!("{VM_LABEL}={}", replica.name));
        let watchers = vec![
            follow(Api::<ReplicatedVM>::namespaced(client.clone(), namespace), named(&replica.name), entries.clone(), |object| {
                object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default()
            }),
            follow(Api::<ReplicationCycle>::namespaced(client.clone(), namespace), own, entries.clone(), |object| {
                object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default()
            }),
            follow(Api::<Appliance>::namespaced(client, namespace), named(appliance), entries.clone(), |object| {
                object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default()
            }),
        ];
        Self { entries, watchers }
    }

    /// What was said so far.
    #[must_use]
    pub fn all(&self) -> Vec<Entry> {
        self.entries.lock().clone()
    }

    /// Waits until a condition has had this reason, and all these words in its message.
    ///
    /// # Errors
    /// What was said instead.
    pub async fn tells(&self, reason: &str, words: &[&str], limit: Duration) -> Result<Entry> {
        self.has(reason, words, limit, |_| true).await
    }

    /// The same for one condition.
    ///
    /// # Errors
    /// What was said instead.
    pub async fn tells_by(&self, condition: &str, reason: &str, words: &[&str], limit: Duration) -> Result<Entry> {
        self.has(reason, words, limit, |entry| entry.condition == condition).await
    }

    async fn has(&self, reason: &str, words: &[&str], limit: Duration, of: impl Fn(&Entry) -> bool) -> Result<Entry> {
        let fits = |entry: &&Entry| of(entry) && entry.reason == reason && words.iter().all(|word| entry.message.contains(word));
        wait::until(&format!("{reason} with {words:?} is told"), limit, async || {
            let all = self.all();
            all.iter().find(fits).cloned().ok_or_else(|| format!("{all:#?}"))
        })
        .await
    }
}

fn follow<K>(api: Api<K>, config: watcher::Config, entries: Arc<Entries>, conditions: fn(&K) -> Vec<Condition>) -> JoinHandle<()>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + fmt::Debug + Send + Sync + 'static,
{
    tokio::spawn(async move {
        // It begins anew by itself where it breaks off.
        let mut events = watcher(api, config).into_stream().boxed();
        loop {
            match events.try_next().await {
                Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                    entries.note(&object.name_any(), conditions(&object));
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => wait::pause(Duration::from_millis(200)).await,
            }
        }
    })
}
