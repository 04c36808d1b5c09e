//! The encrypted connection.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::handshake::Stream;
use super::target::TlsConfig;
use crate::SourceError;

/// What a connection is encrypted with.
pub(super) struct Trust {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// Makes the connection encrypted. The certificate's name and its authority are checked, and nothing is sent before that.
pub(super) async fn wrap(stream: Stream, Trust { connector, name }: Trust) -> Result<Stream, SourceError> {
    let whom = name.to_str().into_owned();
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        // A certificate that isn't trusted comes as an error of rustls inside of an I/O error.
        Err(error) if error.get_ref().is_some_and(|e| e.is::<rustls::Error>()) => {
            Err(SourceError::refused(format!("the TLS handshake with {whom} failed: {error}")))
        }
        Err(error) => Err(SourceError::unreachable(format!("the TLS handshake with {whom} broke off: {error}"))),
    }
}

/// Reads the authorities. The provider is named, so that a second one elsewhere in the program can't make the choice ambiguous.
pub(super) fn prepare(tls: &TlsConfig) -> Result<Trust, SourceError> {
    let refused = |why: &dyn std::fmt::Display| SourceError::refused(format!("the certificate file {}: {why}", tls.ca_file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&tls.ca_file).map_err(|e| refused(&e))? {
        roots.add(certificate.map_err(|e| refused(&e))?).map_err(|e| refused(&e))?;
    }
    if roots.is_empty() {
        return Err(refused(&"it holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| SourceError::refused(format!("TLS can't be set up: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(tls.server_name.clone())
        .map_err(|_| SourceError::refused(format!("{:?} is not a name that a certificate can hold", tls.server_name)))?;
    Ok(Trust { connector: TlsConnector::from(Arc::new(config)), name })
}
