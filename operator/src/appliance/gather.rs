//! Reads what an appliance refers to: Secrets and ConfigMaps of its namespace.

use std::collections::BTreeMap;

use blocklog::keys::KeyRing;
use crds::{
    Appliance,
    common::{BundleKind, CaBundleRef},
    names,
    reasons::Reason,
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client};
use vsphere::Credentials;
use zeroize::Zeroizing;

use super::site::{Inputs, trust};
use crate::trouble::Trouble;

/// Reads all of it. What is missing is a trouble of the part that needs it, and of no other.
pub async fn gather(client: &Client, namespace: &str, appliance: &Appliance) -> Inputs {
    let from = From { secrets: Api::namespaced(client.clone(), namespace), maps: Api::namespaced(client.clone(), namespace) };
    let spec = &appliance.spec;
    let vcenter_trust = match from.bundle(spec.vcenter.ca_bundle_ref.as_ref()).await {
        Ok(bundle) => trust(spec.vcenter.thumbprint.as_deref(), bundle),
        Err(trouble) => Err(trouble),
    };
    Inputs {
        vcenter: from.vcenter(&spec.vcenter.credentials_secret_ref.name).await,
        vcenter_trust,
        azure_secret: match &spec.azure.credentials.client_secret_ref {
            None => Ok(None),
            Some(of) => from.azure(&of.name).await.map(Some),
        },
        azure_trust: from.bundle(spec.azure.ca_bundle_ref.as_ref()).await,
        keys: from.keys(&spec.encryption.key_secret_ref.name).await,
        spec: spec.clone(),
    }
}

struct From {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
}

impl From {
    /// A Secret, which is to have something under a key.
    async fn secret(&self, name: &str, key: &str) -> Result<Secret, Trouble> {
        let missing =
            || Trouble::new(Reason::CredentialsMissing, format!("the Secret {name} does not exist: create it, with the key {key}"));
        self.secrets.get_opt(name).await?.ok_or_else(missing)
    }

    /// Reads user and password at one look: the one of before with the other of now would be a wrong login.
    async fn vcenter(&self, name: &str) -> Result<(Credentials, String), Trouble> {
        let secret = self.secret(name, names::VCENTER_USERNAME_KEY).await?;
        let (user, password) = (text(&secret, name, names::VCENTER_USERNAME_KEY)?, text(&secret, name, names::VCENTER_PASSWORD_KEY)?);
        // A line's end is the editor's; other white space may be the password's.
        let password = vsphere::Secret::new(password.trim_end_matches(['\r', '\n']));
        let version = secret.metadata.resource_version.unwrap_or_default();
        Ok((Credentials { user: user.trim().to_owned(), password }, version))
    }

    async fn azure(&self, name: &str) -> Result<vsphere::Secret, Trouble> {
        let secret = self.secret(name, names::CLIENT_SECRET_KEY).await?;
        Ok(vsphere::Secret::new(text(&secret, name, names::CLIENT_SECRET_KEY)?.trim()))
    }

    async fn keys(&self, name: &str) -> Result<(KeyRing, String), Trouble> {
        let secret = self.secret(name, names::ENCRYPTION_KEY).await?;
        let text = text(&secret, name, names::ENCRYPTION_KEY)?;
        let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        let ring = KeyRing::parse(&text).map_err(|error| {
            let message =
                format!("the key {} of the Secret {name} is no key file: {error}; `worker key new` makes one", names::ENCRYPTION_KEY);
            Trouble::new(Reason::CredentialsMissing, message)
        })?;
        Ok((ring, digest))
    }

    async fn bundle(&self, of: Option<&CaBundleRef>) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(CaBundleRef { kind, name, key }) = of else { return Ok(None) };
        let found = match kind {
            BundleKind::ConfigMap => {
                self.maps.get_opt(name).await?.and_then(|map| map.data.unwrap_or_default().remove(key)).map(String::into_bytes)
            }
            BundleKind::Secret => {
                self.secrets.get_opt(name).await?.and_then(|secret| secret.data.unwrap_or_default().remove(key)).map(|bytes| bytes.0)
            }
        };
        let found = found.filter(|pem| pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----"));
        found.map(Some).ok_or_else(|| {
            let kind = if *kind == BundleKind::Secret { "Secret" } else { "ConfigMap" };
            Trouble::new(Reason::CaBundleMissing, format!("the {kind} {name} holds no certificate in PEM under the key {key}: add it"))
        })
    }
}

/// A text of a Secret.
fn text(secret: &Secret, name: &str, key: &str) -> Result<Zeroizing<String>, Trouble> {
    let missing = || Trouble::new(Reason::CredentialsMissing, format!("the Secret {name} has no text under the key {key}: add it"));
    text_of(secret.data.as_ref(), key).ok_or_else(missing)
}

fn text_of(data: Option<&BTreeMap<String, ByteString>>, key: &str) -> Option<Zeroizing<String>> {
    let bytes = Zeroizing::new(data?.get(key)?.0.clone());
    let text = Zeroizing::new(std::str::from_utf8(&bytes).ok()?.to_owned());
    (!text.trim().is_empty()).then_some(text)
}
