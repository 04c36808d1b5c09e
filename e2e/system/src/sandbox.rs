//! A sandbox that stands: its addresses, and the programs that people use on it.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::{Result, wait};

/// A sandbox that stands.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Its name.
    pub name: String,
    /// The working copy.
    pub root: PathBuf,
    env: BTreeMap<String, String>,
}

impl Sandbox {
    /// The sandbox that `HAWSER_SANDBOX` names (`hawser`).
    ///
    /// # Errors
    /// Where it does not stand.
    pub fn open() -> Result<Self> {
        let name = std::env::var("HAWSER_SANDBOX").unwrap_or_else(|_| "hawser".to_owned());
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let root = root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))?;
        let file = root.join(".cache/sandbox").join(&name).join("env");
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("the sandbox {name} does not stand ({}: {error}): `make sandbox-up`", file.display()))?;
        let line = |line: &str| {
            let (key, value) = line.split_once('=')?;
            Some((key.to_owned(), value.trim_matches('\'').to_owned()))
        };
        Ok(Self { name, root, env: text.lines().filter_map(line).collect() })
    }

    /// A variable of its `env`.
    ///
    /// # Panics
    /// Where it has none of that name, which is a mistake in the caller.
    #[must_use]
    pub fn get(&self, key: &str) -> &str {
        self.env.get(key).unwrap_or_else(|| panic!("the sandbox's env has no {key}"))
    }

    /// The authority of all its certificates, in PEM.
    ///
    /// # Errors
    /// Where its file can't be read.
    pub fn authority(&self) -> Result<String> {
        std::fs::read_to_string(self.get("CA_FILE")).map_err(|error| format!("{}: {error}", self.get("CA_FILE")))
    }

    /// The address of something on the node.
    #[must_use]
    pub fn node(&self) -> &str {
        self.get("NODE_IP")
    }

    /// A client of the apiserver, as an administrator.
    ///
    /// # Errors
    /// Where its kubeconfig can't be read.
    pub async fn kubernetes(&self) -> Result<kube::Client> {
        let file = kube::config::Kubeconfig::read_from(self.get("KUBECONFIG")).map_err(|error| error.to_string())?;
        let options = kube::config::KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|error| error.to_string())?;
        config.proxy_url = None;
        kube::Client::try_from(config).map_err(|error| error.to_string())
    }

    /// Runs one of the sandbox's programs (`kubectl`, `helm`), or a script of the working copy by its path.
    ///
    /// # Errors
    /// Its words, where it fails.
    pub async fn run(&self, program: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let path = if program.contains('/') { self.root.join(program) } else { self.root.join(".cache/sandbox-bin").join(program) };
        let mut child = Command::new(&path)
            .args(arguments)
            .current_dir(&self.root)
            .env("KUBECONFIG", self.get("KUBECONFIG"))
            .env("HAWSER_SANDBOX", &self.name)
            // What stands was built: whoever starts a part again does not wait for the question whether it has to be.
            .env("HAWSER_SANDBOX_BIN", self.root.join(".cache/sandbox-bin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut stdin = child.stdin.take();
        let feed = async {
            if let (Some(pipe), Some(text)) = (stdin.as_mut(), input) {
                // One that ends without reading says why itself.
                let _ = pipe.write_all(text.as_bytes()).await;
            }
            drop(stdin.take());
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), feed);
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(said.into_owned()) } else { Err(format!("{program} {}: {said}{complained}", arguments.join(" "))) }
    }

    /// Gives an image of the node a second name, as a registry would have a newer one.
    ///
    /// # Errors
    /// Where containerd does not know it.
    pub async fn tag(&self, image: &str, name: &str) -> Result<()> {
        // A scenario may have taken containerd away for a moment.
        wait::until(&format!("{image} is {name}, too"), Duration::from_secs(60), async || {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{}", self.get("NETNS"))).arg(format!("--mount=/run/hawser-{}/mnt", self.name));
            command.args(["ctr", "--namespace", "k8s.io", "images", "tag", "--force", image, name]);
            let output = command.output().await.map_err(|error| format!("nsenter: {error}"))?;
            if output.status.success() { Ok(()) } else { Err(format!("ctr images tag: {}", String::from_utf8_lossy(&output.stderr))) }
        })
        .await
    }

    /// `kubectl`.
    ///
    /// # Errors
    /// Its words, where it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments, None).await
    }

    /// `kubectl apply` of manifests in YAML.
    ///
    /// # Errors
    /// Its words, where it fails.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.run("kubectl", &["apply", "-f", "-"], Some(manifests)).await
    }
}
