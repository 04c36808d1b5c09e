//! The log store as an administrator of the storage account sees it: to judge what is left, and to break it.

use std::{collections::BTreeMap, sync::Arc};

use blocklog::{
    cycle::State,
    document,
    ids::{CycleId, VmId},
    keys::KeyRing,
    ledger::Ledger,
    names,
    store::{LogStore, azure::AzureStore},
};

use crate::{
    Result,
    install::{CONTAINER, container, keys},
    sandbox::Sandbox,
};

/// The log store of the appliance.
#[derive(Clone)]
pub struct Log {
    /// Its blobs.
    pub store: Arc<dyn LogStore>,
    keys: KeyRing,
}

impl Log {
    /// That of a sandbox.
    ///
    /// # Errors
    /// Where no client can be made.
    pub fn open(sandbox: &Sandbox) -> Result<Self> {
        Self::of(sandbox, CONTAINER)
    }

    /// That of an appliance with a container of its own.
    ///
    /// # Errors
    /// Where no client can be made.
    pub fn of(sandbox: &Sandbox, name: &str) -> Result<Self> {
        let store = AzureStore::new(container(sandbox, name)?, "").map_err(|error| error.to_string())?;
        Ok(Self { store: Arc::new(store), keys: keys() })
    }

    /// The ledger of a VM.
    ///
    /// # Errors
    /// Where it can't be read.
    pub async fn ledger(&self, vm: VmId) -> Result<Option<Ledger>> {
        let found = document::read::<Ledger>(self.store.as_ref(), &self.keys, &names::ledger(vm)).await;
        Ok(found.map_err(|error| error.to_string())?.map(|(ledger, _)| ledger))
    }

    /// How far a cycle's gateway is.
    ///
    /// # Errors
    /// Where that can't be read; it goes when the cycle is over.
    pub async fn state(&self, of: CycleId) -> Result<State> {
        let found = document::read::<State>(self.store.as_ref(), &self.keys, &names::state(of)).await;
        found.map_err(|error| error.to_string())?.map(|(state, _)| state).ok_or_else(|| format!("{} is not there", names::state(of)))
    }

    /// The names of a VM's blobs.
    ///
    /// # Errors
    /// Where they can't be listed.
    pub async fn blobs(&self, vm: VmId) -> Result<Vec<String>> {
        let all = self.store.list(&names::vm(vm)).await.map_err(|error| error.to_string())?;
        Ok(all.into_iter().map(|blob| blob.name).collect())
    }

    /// The names of a cycle's segments, and their sizes.
    ///
    /// # Errors
    /// Where they can't be listed.
    pub async fn segments(&self, of: CycleId) -> Result<BTreeMap<String, u64>> {
        let all = self.store.list(&names::cycle(of)).await.map_err(|error| error.to_string())?;
        Ok(all.into_iter().filter(|blob| blob.name.ends_with(".seg")).map(|blob| (blob.name, blob.size)).collect())
    }
}
