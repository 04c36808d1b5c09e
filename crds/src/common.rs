//! What several kinds share.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// Another object of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ObjectRef {
    /// The object's name, in the namespace of this one. Written by the user.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::name())]
    pub name: String,
}

/// What holds certificates of authorities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum BundleKind {
    /// A ConfigMap.
    #[default]
    ConfigMap,
    /// A Secret.
    Secret,
}

/// Certificates of authorities, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct CaBundleRef {
    /// What holds the certificates, a `ConfigMap` or a `Secret`. Default: `ConfigMap`. Written by the user.
    #[serde(default)]
    pub kind: BundleKind,
    /// The name of the ConfigMap or Secret, in the appliance's namespace. Written by the user.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::name())]
    pub name: String,
    /// The key in it. Default: `ca.crt`. Written by the user.
    #[serde(default = "ca_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn ca_key() -> String {
    "ca.crt".to_owned()
}
