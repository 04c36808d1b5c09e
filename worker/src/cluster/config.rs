//! The file that a pod is started with. Everything in it is a place or a number: secrets stand in files of their own, which may change.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use blocklog::{azure_blob::AccountUrl, segment::MAX_SEGMENT, store::MAX_PART};
use serde::{Deserialize, de::DeserializeOwned};
use vsphere::Thumbprint;

use crate::failure::{Failure, Kind};

/// What `worker gateway` is told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewayConfig {
    pub appliance: String,
    /// The namespace whose ReplicationCycles are watched.
    pub namespace: String,
    pub log_store: LogStoreAt,
    pub key: KeyAt,
    pub vcenter: VCenterAt,
    /// How disks are read.
    pub vddk: VddkAt,
    #[serde(default)]
    pub limits: Limits,
    /// Where probes and metrics are answered. Default: nowhere.
    pub listen: Option<SocketAddr>,
}

/// What `worker applier` is told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ApplierConfig {
    /// Whose orders it carries out: `cluster` of the ledgers' owner.
    pub cluster: String,
    pub log_store: LogStoreAt,
    pub key: KeyAt,
    #[serde(default)]
    pub limits: Limits,
    /// Where probes and metrics are answered. Default: nowhere.
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LogStoreAt {
    #[serde(deserialize_with = "account")]
    pub account_url: AccountUrl,
    /// The container, which has to exist.
    pub container: String,
    /// Who this process is there.
    pub identity: IdentityAt,
    /// Who issues tokens.
    #[serde(default = "authority_host")]
    pub authority_host: String,
    /// The authorities that are trusted for log store, issuer and seeds, in PEM. Default: those of the machine.
    pub ca_file: Option<PathBuf>,
}

/// Who a process is at the log store: one of these.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum IdentityAt {
    /// The pod's service account, by workload identity.
    Workload(WorkloadAt),
    /// An application and its secret.
    ClientSecret(ClientSecretAt),
    /// A file with a shared access signature: for tests.
    SasFile(PathBuf),
    /// A file with the account's key: for tests.
    AccountKeyFile(PathBuf),
}

/// Workload identity. What is not given is taken from the environment, where the webhook or the chart puts it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadAt {
    pub tenant_id: Option<String>,
    pub client_id: Option<String>,
    /// The file with the service account's token.
    pub token_file: Option<PathBuf>,
}

/// An application and its secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClientSecretAt {
    pub tenant_id: String,
    pub client_id: String,
    /// The file with its secret.
    pub secret_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeyAt {
    /// The key file, as `worker key new` makes it.
    pub file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VCenterAt {
    /// `https://HOST` or `https://HOST:PORT`.
    pub url: String,
    pub username_file: PathBuf,
    pub password_file: PathBuf,
    /// The authorities that are trusted, in PEM.
    pub ca_file: Option<PathBuf>,
    /// The thumbprint of the one certificate that is trusted.
    pub thumbprint: Option<String>,
}

/// How disks are read: by nbdkit with VMware's library.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VddkAt {
    /// The library's folder, the one with `lib64` in it.
    pub libdir: PathBuf,
    /// The nbdkit to run. Default: the one in PATH.
    #[serde(default = "nbdkit")]
    pub nbdkit: PathBuf,
}

/// Bounds of memory and concurrency, as an Appliance sets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Limits {
    /// Threads that compute; as many as there are cores where not given.
    pub cpus: Option<usize>,
    /// Bytes of blocks that one disk holds in memory.
    pub memory_bytes: usize,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Orders that are carried out at a time.
    pub orders: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let usual = crate::env::Limits::default();
        Self { cpus: None, memory_bytes: usual.memory, segment_bytes: usual.segment, orders: 4 }
    }
}

impl Limits {
    /// What gateway and applier take; `disks` that transfer at a time.
    #[must_use]
    pub fn with_disks(&self, disks: usize) -> crate::env::Limits {
        crate::env::Limits { memory: self.memory_bytes, segment: self.segment_bytes, disks, ..crate::env::Limits::default() }
    }

    fn check(&self) -> Result<(), String> {
        if self.cpus == Some(0) {
            return Err("limits.cpus is at least 1".to_owned());
        }
        if self.memory_bytes < 4 * MAX_PART {
            return Err(format!("limits.memoryBytes is at least {}", 4 * MAX_PART));
        }
        if !(1 << 20..=MAX_SEGMENT).contains(&self.segment_bytes) {
            return Err(format!("limits.segmentBytes is from 1048576 to {MAX_SEGMENT}"));
        }
        if self.orders == 0 {
            return Err("limits.orders is at least 1".to_owned());
        }
        Ok(())
    }
}

impl GatewayConfig {
    /// Reads a gateway's file.
    ///
    /// # Errors
    /// [`Kind::BadFile`].
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let config: Self = parse(path)?;
        config.check().map_err(|why| refuse(path, why))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if !self.vcenter.url.starts_with("https://") {
            return Err("vcenter.url begins with https://".to_owned());
        }
        if self.vcenter.ca_file.is_some() && self.vcenter.thumbprint.is_some() {
            return Err(
                "give vcenter.caFile or vcenter.thumbprint, not both: a pinned certificate is not looked up with authorities".to_owned()
            );
        }
        if let Some(thumbprint) = &self.vcenter.thumbprint {
            Thumbprint::parse(thumbprint).map_err(|error| format!("vcenter.thumbprint: {error}"))?;
        }
        if self.namespace.is_empty() || self.appliance.is_empty() {
            return Err("appliance and namespace must not be empty".to_owned());
        }
        self.limits.check()
    }
}

impl ApplierConfig {
    /// Reads an applier's file.
    ///
    /// # Errors
    /// [`Kind::BadFile`].
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let config: Self = parse(path)?;
        // It becomes a part of blobs' names.
        let fits = (1..=63).contains(&config.cluster.len())
            && config.cluster.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if !fits {
            return Err(refuse(path, "cluster is 1 to 63 letters, digits, dots, hyphens and underscores".to_owned()));
        }
        config.limits.check().map_err(|why| refuse(path, why))?;
        Ok(config)
    }
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| refuse(path, error.to_string()))?;
    // Identities are maps with one key, as everywhere in Kubernetes, and not YAML's tags.
    let value = serde_yaml_ng::Deserializer::from_str(&text);
    serde_yaml_ng::with::singleton_map_recursive::deserialize(value).map_err(|error| refuse(path, error.to_string()))
}

fn refuse(path: &Path, why: String) -> Failure {
    let remedy = "Correct the file; docs/worker-pods.md lists its fields.";
    Failure::new(Kind::BadFile, format!("{}: {why}", path.display()), remedy)
}

fn account<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<AccountUrl, D::Error> {
    let text = String::deserialize(deserializer)?;
    AccountUrl::parse(&text).map_err(serde::de::Error::custom)
}

fn authority_host() -> String {
    "https://login.microsoftonline.com".to_owned()
}

fn nbdkit() -> PathBuf {
    PathBuf::from("nbdkit")
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLIER: &str = "
cluster: demo
logStore:
  accountUrl: https://acct.blob.core.windows.net
  container: hawser
  identity:
    workload: {}
key: {file: /etc/hawser/key/key}
";
    const MORE: &str = "
vcenter:
  url: https://vcenter.example.com
  usernameFile: /etc/hawser/vcenter/username
  passwordFile: /etc/hawser/vcenter/password
vddk: {libdir: /opt/vmware-vix-disklib}
";

    fn gateway(text: &str) -> Result<GatewayConfig, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.yaml");
        std::fs::write(&path, text).unwrap();
        GatewayConfig::read(&path)
    }

    fn applier(text: &str) -> Result<ApplierConfig, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("applier.yaml");
        std::fs::write(&path, text).unwrap();
        ApplierConfig::read(&path)
    }

    fn gateways() -> String {
        format!("{}{MORE}", APPLIER.replace("cluster: demo", "appliance: site-a\nnamespace: hawser"))
    }

    #[test]
    fn the_least_of_each() {
        let config = gateway(&gateways()).unwrap();
        assert_eq!((config.appliance.as_str(), config.vddk.nbdkit.to_str(), config.listen), ("site-a", Some("nbdkit"), None));
        assert_eq!(config.log_store.authority_host, "https://login.microsoftonline.com");
        assert_eq!(config.log_store.identity, IdentityAt::Workload(WorkloadAt::default()));
        assert_eq!(applier(APPLIER).unwrap().limits, Limits::default());
    }

    #[test]
    fn the_examples_of_the_reference_can_be_read() {
        let text = include_str!("../../../docs/worker-pods.md");
        let blocks: Vec<&str> = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert_eq!(blocks.len(), 2);
        gateway(blocks[0]).unwrap();
        applier(blocks[1]).unwrap();
    }

    #[test]
    fn every_identity() {
        for (yaml, expected) in [
            (
                "clientSecret: {tenantId: t, clientId: c, secretFile: /s}",
                IdentityAt::ClientSecret(ClientSecretAt { tenant_id: "t".into(), client_id: "c".into(), secret_file: "/s".into() }),
            ),
            ("sasFile: /sas", IdentityAt::SasFile("/sas".into())),
            ("accountKeyFile: /key", IdentityAt::AccountKeyFile("/key".into())),
            ("workload: {clientId: c}", IdentityAt::Workload(WorkloadAt { client_id: Some("c".into()), ..WorkloadAt::default() })),
        ] {
            assert_eq!(applier(&APPLIER.replace("workload: {}", yaml)).unwrap().log_store.identity, expected);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = gateways();
        for (from, to, words) in [
            ("container: hawser", "container: hawser\n  prefix: x", "prefix"),
            ("workload: {}", "password: x", "password"),
            ("workload: {}", "{sasFile: /a, accountKeyFile: /b}", "map"),
            ("https://vcenter.example.com", "vcenter.example.com", "https://"),
            ("usernameFile:", "thumbprint: abc\n  usernameFile:", "thumbprint"),
            ("usernameFile:", "insecure: true\n  usernameFile:", "insecure"),
            ("usernameFile:", "thumbprint: abc\n  caFile: /ca\n  usernameFile:", "not both"),
            ("vddk:", "limits: {cpus: 0}\nvddk:", "cpus"),
            ("vddk:", "limits: {memoryBytes: 1000}\nvddk:", "memoryBytes"),
            ("vddk:", "limits: {segmentBytes: 1000}\nvddk:", "segmentBytes"),
            ("https://acct.blob.core.windows.net", "ftp://acct", "the scheme must be https"),
        ] {
            let failure = gateway(&good.replace(from, to)).unwrap_err();
            assert!(failure.kind == Kind::BadFile && failure.message.contains(words), "{to}: {failure}");
        }
        assert!(applier(&APPLIER.replace("demo", "a/b")).unwrap_err().message.contains("cluster"));
        assert!(gateway(APPLIER).unwrap_err().message.contains("cluster"));
    }
}
