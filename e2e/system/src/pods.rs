//! Hawser's pods, and their processes on the node: what is told to stop, and what is killed.

use std::{fs, process::Command, time::Duration};

use k8s_openapi::api::{coordination::v1::Lease, core::v1};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};

use crate::{Result, install::NAMESPACE, sandbox::Sandbox, vm::World, wait};

/// The pods of the chart's operator.
pub const OPERATORS: &str = "app.kubernetes.io/component=operator";

/// The pods of an appliance: `gateway` or `applier`.
#[must_use]
pub fn workers(appliance: &str, component: &str) -> String {
    format!("hawser.dev/appliance={appliance},hawser.dev/component={component}")
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether it is ready, and nobody has deleted it.
    pub ready: bool,
    /// How often its program was started again.
    pub restarts: i32,
}

impl Pod {
    fn of(pod: &v1::Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let is_ready = |one: &v1::PodCondition| one.type_ == "Ready" && one.status == "True";
        let ready = status.conditions.iter().flatten().any(is_ready) && pod.metadata.deletion_timestamp.is_none();
        let restarts = status.container_statuses.iter().flatten().map(|one| one.restart_count).sum();
        Self { name: pod.name_any(), uid: pod.uid().unwrap_or_default(), ready, restarts }
    }

    /// Those that labels choose.
    ///
    /// # Errors
    /// Where they can't be listed.
    pub async fn all(world: &World, labels: &str) -> Result<Vec<Self>> {
        let api: Api<v1::Pod> = Api::namespaced(world.client.clone(), NAMESPACE);
        let all = api.list(&ListParams::default().labels(labels)).await.map_err(|error| error.to_string())?;
        Ok(all.iter().map(Self::of).collect())
    }

    /// So many of them, once so many are there and all are ready.
    ///
    /// # Errors
    /// Which are there instead.
    pub async fn ready(world: &World, labels: &str, count: usize, limit: Duration) -> Result<Vec<Self>> {
        wait::until(&format!("{count} pods of {labels} are ready"), limit, async || {
            let all = Self::all(world, labels).await?;
            if all.len() == count && all.iter().all(|pod| pod.ready) { Ok(all) } else { Err(format!("{all:?}")) }
        })
        .await
    }

    /// Deletes it: its program is told to stop. Gives the time until it had. Its object goes when kubelet has tidied up.
    ///
    /// # Errors
    /// Where it does not run, or still does after `limit`.
    pub async fn stop(&self, world: &World, limit: Duration) -> Result<Duration> {
        let (api, began) = (Api::<v1::Pod>::namespaced(world.client.clone(), NAMESPACE), wait::now());
        self.programs(&world.sandbox)?;
        api.delete(&self.name, &DeleteParams::default()).await.map_err(|error| error.to_string())?;
        wait::until(&format!("the pod {} has stopped", self.name), limit, async || match self.programs(&world.sandbox) {
            Ok(programs) => Err(format!("{programs:?}")),
            Err(_) => Ok(began.elapsed()),
        })
        .await
    }

    /// The processes of its programs.
    fn programs(&self, sandbox: &Sandbox) -> Result<Vec<String>> {
        // The process that holds the pod's namespaces stays.
        let all: Vec<String> = processes(sandbox, &self.uid).into_iter().filter(|(_, name)| name != "pause").map(|(id, _)| id).collect();
        if all.is_empty() { Err(format!("{} has no process", self.name)) } else { Ok(all) }
    }

    /// Its program ends without a word, as where the kernel runs out of memory. kubelet starts it again in the same pod.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn crash(&self, sandbox: &Sandbox) -> Result<()> {
        let programs = self.programs(sandbox)?;
        // One that ended with its parent was killed too.
        let _ = Command::new("kill").arg("-KILL").args(&programs).output();
        Ok(())
    }

    /// Its program ends without a word, and its object is gone, as where a node dies: another pod takes its place.
    ///
    /// # Errors
    /// Where it does not run, or can't be deleted.
    pub async fn kill(&self, world: &World) -> Result<()> {
        self.crash(&world.sandbox)?;
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let api: Api<v1::Pod> = Api::namespaced(world.client.clone(), NAMESPACE);
        api.delete(&self.name, &now).await.map(drop).map_err(|error| error.to_string())
    }
}

/// The processes of a pod, each with its program's name, by the control group that kubelet has put them into.
fn processes(sandbox: &Sandbox, uid: &str) -> Vec<(String, String)> {
    let (ours, pod) = (format!("/hawser-{}/", sandbox.name), format!("/pod{uid}/"));
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = all.filter_map(|entry| entry.file_name().into_string().ok()).filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()));
    let of_pod = |id: &String| {
        let groups = fs::read_to_string(format!("/proc/{id}/cgroup")).unwrap_or_default();
        groups.contains(&ours) && groups.contains(&pod)
    };
    let named = |id: String| {
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        (id, name.trim().to_owned())
    };
    ids.filter(of_pod).map(named).collect()
}

/// The operator that leads, by the Lease.
///
/// # Errors
/// Where none does.
pub async fn leader(world: &World) -> Result<String> {
    let api: Api<Lease> = Api::namespaced(world.client.clone(), NAMESPACE);
    let lease = api.get("hawser-operator").await.map_err(|error| error.to_string())?;
    lease.spec.and_then(|spec| spec.holder_identity).ok_or_else(|| "nobody leads".to_owned())
}
