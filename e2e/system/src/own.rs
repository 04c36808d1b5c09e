//! An Appliance of a test's own beside the shared one: what is done to it disturbs nobody else.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    Result,
    install::{CONTAINER, NAMESPACE, appliance, make_container},
    log::Log,
    vm::{Replica, World},
    wait,
};

/// What belongs to it, and goes with it.
const LABEL: &str = "e2e.hawser.dev/own";

/// An Appliance of a test's own. It goes when this does, with its Secrets and ReplicatedVMs.
pub struct Own {
    /// All that can be asked.
    pub world: World,
    /// Its name.
    pub name: String,
    container: String,
}

/// What a condition said, and how long it took.
#[derive(Debug, Clone)]
pub struct Said {
    /// The condition's message.
    pub message: String,
    /// Since what was asked.
    pub after: Duration,
}

impl Drop for Own {
    fn drop(&mut self) {
        let kubectl = self.world.sandbox.root.join(".cache/sandbox-bin/kubectl");
        let label = format!("{LABEL}={}", self.name);
        let kinds = "replicatedvms,appliances,secrets,configmaps";
        // Where it can't be, the next run finds it, and applies its own over it.
        let _ = Command::new(kubectl)
            .args(["delete", kinds, "--namespace", NAMESPACE, "--selector", &label, "--wait=false", "--ignore-not-found"])
            .env("KUBECONFIG", self.world.sandbox.get("KUBECONFIG"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

impl Own {
    /// One of this name, of which nothing exists yet.
    #[must_use]
    pub fn new(world: &World, name: &str) -> Self {
        Self { world: world.clone(), name: name.to_owned(), container: CONTAINER.to_owned() }
    }

    /// The same with a log store's container of its own, of its name, which `world` looks into from then on. Appliers carry out all orders of their
    /// cluster that lie in a container: those of an appliance that goes, or is struck, had better not be at work on others' replicas.
    ///
    /// # Errors
    /// What the store says against it.
    pub async fn apart(world: &mut World, name: &str) -> Result<Self> {
        make_container(&world.sandbox, name).await?;
        world.log = Log::of(&world.sandbox, name)?;
        let mut own = Self::new(world, name);
        name.clone_into(&mut own.container);
        Ok(own)
    }

    async fn put(&self, mut object: Value) -> Result<()> {
        object["metadata"]["labels"][LABEL] = json!(self.name);
        self.world.sandbox.apply(&object.to_string()).await.map(drop)
    }

    /// The shared appliance's manifest with another name, without pods, and edited.
    ///
    /// # Errors
    /// Where it is not YAML.
    pub fn manifest(&self, edit: impl FnOnce(&mut Value)) -> Result<Value> {
        let text = appliance(&self.world.sandbox, NAMESPACE, &self.name);
        let mut object: Value = serde_yaml_ng::from_str(&text).map_err(|error| error.to_string())?;
        object["spec"]["logStore"]["container"] = json!(self.container);
        object["spec"]["workers"] = json!({ "replicas": 0 });
        object["spec"]["applier"] = json!({ "replicas": 0 });
        edit(&mut object["spec"]);
        Ok(object)
    }

    /// Applies that; gives the time.
    ///
    /// # Errors
    /// What the apiserver says against it.
    pub async fn apply(&self, edit: impl FnOnce(&mut Value)) -> Result<Instant> {
        self.put(self.manifest(edit)?).await?;
        Ok(wait::now())
    }

    /// A Secret of its own, made or changed; gives the time.
    ///
    /// # Errors
    /// What the apiserver says against it.
    pub async fn secret(&self, name: &str, data: Value) -> Result<Instant> {
        self.put(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": NAMESPACE }, "stringData": data }))
            .await?;
        Ok(wait::now())
    }

    /// Edits its spec; gives the time.
    ///
    /// # Errors
    /// What the apiserver says against it.
    pub async fn edit(&self, spec: Value) -> Result<Instant> {
        let api: Api<crds::Appliance> = Api::namespaced(self.world.client.clone(), NAMESPACE);
        let patched = api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&json!({ "spec": spec }))).await;
        patched.map(|_| wait::now()).map_err(|error| error.to_string())
    }

    /// A ReplicatedVM of it. `more` are further lines of its spec, indented by two.
    ///
    /// # Errors
    /// What the apiserver says against it.
    pub async fn replicate(&self, vm: &str, more: &str) -> Result<Replica> {
        let manifest = Replica::manifest(NAMESPACE, &self.name, vm, more);
        self.put(serde_yaml_ng::from_str(&manifest).map_err(|error| error.to_string())?).await?;
        Ok(Replica::of(&self.world, vm))
    }

    /// Waits for a condition to have this status and reason, no longer than `limit` after `since`.
    ///
    /// # Errors
    /// What is so instead.
    pub async fn says(&self, condition: &str, status: &str, reason: &str, since: Instant, limit: Duration) -> Result<Said> {
        let api: Api<crds::Appliance> = Api::namespaced(self.world.client.clone(), NAMESPACE);
        let what = format!("the appliance {} says {condition}={status} {reason}", self.name);
        let message = wait::until(&what, limit.saturating_sub(since.elapsed()), async || {
            let found = api.get(&self.name).await.map_err(|error| error.to_string())?;
            let conditions = found.status.map(|status| status.conditions).unwrap_or_default();
            match conditions.iter().find(|one| one.type_ == condition) {
                Some(found) if found.status == status && found.reason == reason => Ok(found.message.clone()),
                Some(found) => Err(format!("{}={} {}: {}", found.type_, found.status, found.reason, found.message)),
                None => Err("it has no such condition".to_owned()),
            }
        })
        .await?;
        let said = Said { message, after: since.elapsed() };
        println!("{} {condition}={status} {reason} after {:.1} s: {}", self.name, said.after.as_secs_f64(), said.message);
        Ok(said)
    }

    /// Whether people are told of this reason by an event.
    ///
    /// # Errors
    /// What they are told instead.
    pub async fn told(&self, reason: &str, limit: Duration) -> Result<()> {
        let api: Api<Event> = Api::namespaced(self.world.client.clone(), NAMESPACE);
        wait::until(&format!("an event of the appliance {} tells {reason}", self.name), limit, async || {
            let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let mine = all.items.iter().filter(|event| {
                event.regarding.as_ref().is_some_and(|it| it.name.as_deref() == Some(&self.name) && it.kind.as_deref() == Some("Appliance"))
            });
            let words: Vec<&str> = mine.filter_map(|event| event.reason.as_deref()).collect();
            if words.contains(&reason) { Ok(()) } else { Err(format!("{words:?}")) }
        })
        .await
    }
}
