//! The clients of all appliances.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::site::Site;

/// What was built for each appliance.
#[derive(Default)]
pub struct Sites(Mutex<BTreeMap<(String, String), Arc<Site>>>);

impl Sites {
    /// The one of an appliance; none before its first look.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Site>> {
        self.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Takes one in.
    pub fn put(&self, namespace: &str, name: &str, site: Arc<Site>) {
        self.lock().insert((namespace.to_owned(), name.to_owned()), site);
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Site>> {
        self.lock().values().cloned().collect()
    }

    /// Forgets one.
    pub fn remove(&self, namespace: &str, name: &str) -> Option<Arc<Site>> {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Arc<Site>>> {
        // A panic while it was held can't have left it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
