//! Who we are to Azure.

use std::{fmt, path::PathBuf, sync::Arc};

use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    credentials::{Secret, TokenCredential},
    http::{ClientOptions, RetryOptions, Transport},
};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use blocklog::clock::Clock;

use crate::{error::ArmError, shared_token::SharedToken};

/// A way to get tokens.
#[derive(Clone)]
pub enum Identity {
    /// The projected token of the pod's service account is exchanged. What is none is taken from the environment (`AZURE_TENANT_ID`,
    /// `AZURE_CLIENT_ID`, `AZURE_FEDERATED_TOKEN_FILE`), where the workload identity webhook, or the chart, puts it.
    Workload {
        /// The tenant.
        tenant: Option<String>,
        /// The application.
        client: Option<String>,
        /// The file with the service account's token.
        token_file: Option<PathBuf>,
    },
    /// A client secret.
    ClientSecret {
        /// The tenant.
        tenant: String,
        /// The application.
        client: String,
        /// Its secret.
        secret: Secret,
    },
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workload { .. } => "Workload",
            Self::ClientSecret { .. } => "ClientSecret",
        })
    }
}

/// The credential of an identity, whose tokens are issued by `authority_host` (`https://login.microsoftonline.com`) and asked for through `http`: by
/// one for all who share it, and after failures with growing waits by `clock`.
///
/// # Errors
/// [`ArmError::Credential`] where something that it needs is missing: nothing is asked of Azure yet.
pub fn credential(
    identity: Identity,
    authority_host: &str,
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn TokenCredential>, ArmError> {
    let mut cloud = CustomConfiguration::default();
    authority_host.clone_into(&mut cloud.authority_host);
    let client_options = ClientOptions {
        cloud: Some(Arc::new(CloudConfiguration::from(cloud))),
        transport: Some(Transport::new(Arc::new(http))),
        // Whoever asks for a token tries again by himself, and sooner: the SDK takes a minute to tell that a certificate is not trusted.
        retry: RetryOptions::none(),
        ..ClientOptions::default()
    };
    let refuse = |error: azure_core::Error| ArmError::Credential(error.to_string());
    let credential: Arc<dyn TokenCredential> = match identity {
        Identity::Workload { tenant, client, token_file } => {
            let credential_options = ClientAssertionCredentialOptions { client_options };
            let options =
                WorkloadIdentityCredentialOptions { credential_options, client_id: client, tenant_id: tenant, token_file_path: token_file };
            WorkloadIdentityCredential::new(Some(options)).map_err(refuse)?
        }
        Identity::ClientSecret { tenant, client, secret } => {
            let options = ClientSecretCredentialOptions { client_options };
            ClientSecretCredential::new(&tenant, client, secret, Some(options)).map_err(refuse)?
        }
    };
    Ok(SharedToken::new(credential, clock))
}

/// A client for Azure's servers: TLS by the authorities of the operating system, or by those in `bundle` (PEM) alone.
///
/// # Errors
/// [`ArmError::Untrusted`] where the bundle holds no certificate.
pub fn http(bundle: Option<&[u8]>) -> Result<reqwest::Client, ArmError> {
    let refuse = |why: String| ArmError::Untrusted { host: "Azure".to_owned(), why };
    let mut builder = reqwest::Client::builder()
        .connect_timeout(std::time::Duration::from_secs(10))
        .timeout(std::time::Duration::from_secs(60))
        // The SDK checks lengths of what it downloads; compressed answers would have others.
        .redirect(reqwest::redirect::Policy::none());
    if let Some(pem) = bundle {
        let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| refuse(error.to_string()))?;
        if authorities.is_empty() {
            return Err(refuse("the bundle of authorities holds no certificate in PEM".to_owned()));
        }
        builder = builder.tls_certs_only(authorities);
    }
    builder.build().map_err(|error| refuse(error.to_string()))
}
