//! Whom we believe to be vCenter.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::error::Error;

/// The thumbprint of a certificate: of SHA-256, or of SHA-1 as vSphere's own tools show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Thumbprint {
    /// 20 bytes. It still names one certificate: nobody has made a second one to a given SHA-1.
    Sha1([u8; 20]),
    /// 32 bytes.
    Sha256([u8; 32]),
}

impl Thumbprint {
    /// The one that a text says, in hexadecimal digits with or without colons.
    ///
    /// # Errors
    /// [`Error::Config`] where it is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::Config(format!(
                "{:?} is no thumbprint: it has to be 64 (SHA-256) or 40 (SHA-1) hexadecimal digits, with or without colons",
                text.chars().take(120).collect::<String>()
            ))
        };
        let digits: String = text.chars().filter(|c| *c != ':' && !c.is_whitespace()).collect();
        let bytes = hex::decode(digits).map_err(|_| wrong())?;
        match bytes.len() {
            20 => bytes.try_into().map(Self::Sha1).map_err(|_| wrong()),
            32 => bytes.try_into().map(Self::Sha256).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    /// The SHA-256 thumbprint of a certificate.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self::Sha256(out)
    }

    /// The SHA-1 thumbprint of a certificate: what VDDK wants to be told.
    #[must_use]
    pub fn sha1_of(certificate: &[u8]) -> Self {
        let mut out = [0; 20];
        out.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, certificate).as_ref());
        Self::Sha1(out)
    }

    fn matches(&self, certificate: &[u8]) -> bool {
        match self {
            Self::Sha1(_) => *self == Self::sha1_of(certificate),
            Self::Sha256(_) => *self == Self::of(certificate),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha1(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
        }
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.bytes().iter().enumerate() {
            if at > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What makes a server's certificate good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The certificate authorities of this machine.
    System,
    /// These certificate authorities, in PEM.
    Bundle(Vec<u8>),
    /// This very certificate, whatever its names and dates.
    Pinned(Thumbprint),
    /// Nothing: whoever answers is believed. Only where a person said so; a condition tells everybody.
    Insecure,
}

impl Trust {
    /// False where nothing is verified.
    #[must_use]
    pub fn verifies(&self) -> bool {
        *self != Self::Insecure
    }
}

/// What was wrong with the last certificate that was refused.
#[derive(Debug, Clone)]
pub(crate) struct Rejected {
    pub why: String,
    pub shown: Thumbprint,
}

/// What the verifier tells about the certificates that it saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<SeenState>>);

#[derive(Debug, Default)]
struct SeenState {
    rejected: Option<Rejected>,
    sha1: Option<Thumbprint>,
}

impl Seen {
    /// Takes what was wrong with the last certificate that was refused.
    pub fn rejected(&self) -> Option<Rejected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rejected.take()
    }

    /// The SHA-1 thumbprint of the last certificate that was taken.
    pub fn sha1(&self) -> Option<Thumbprint> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sha1.clone()
    }
}

/// The TLS side of a client that trusts by `trust`.
pub(crate) fn config(trust: &Trust, seen: Seen) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |why: &dyn fmt::Display| Error::Config(format!("TLS can't be set up: {why}"));
    let rule = match trust {
        Trust::System => Rule::Chain(Arc::new(rustls_platform_verifier::Verifier::new(provider.clone()).map_err(|error| failed(&error))?)),
        Trust::Bundle(pem) => Rule::Chain(bundle(pem, &provider)?),
        Trust::Pinned(thumbprint) => Rule::Pinned(thumbprint.clone()),
        Trust::Insecure => Rule::Anything,
    };
    let verifier = Verifier { rule, algorithms: provider.signature_verification_algorithms, seen };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| failed(&error))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

fn bundle(pem: &[u8], provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| Error::Config(format!("the CA bundle is no PEM: {error}")))?;
        roots.add(certificate).map_err(|error| Error::Config(format!("a certificate of the CA bundle can't be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(Error::Config("the CA bundle holds no certificate: it has to be PEM, with a BEGIN CERTIFICATE line".into()));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    Ok(verifier.map_err(|error| Error::Config(format!("the CA bundle can't be used: {error}")))?)
}

#[derive(Debug)]
enum Rule {
    Chain(Arc<dyn ServerCertVerifier>),
    Pinned(Thumbprint),
    Anything,
}

#[derive(Debug)]
struct Verifier {
    rule: Rule,
    algorithms: WebPkiSupportedAlgorithms,
    seen: Seen,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = match &self.rule {
            Rule::Chain(verifier) => verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            Rule::Pinned(thumbprint) if thumbprint.matches(end_entity) => Ok(ServerCertVerified::assertion()),
            Rule::Pinned(thumbprint) => Err(rustls::Error::General(format!("it is not the one with the thumbprint {thumbprint}"))),
            Rule::Anything => Ok(ServerCertVerified::assertion()),
        };
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Ok(_) => *seen = SeenState { rejected: None, sha1: Some(Thumbprint::sha1_of(end_entity)) },
            Err(error) => seen.rejected = Some(Rejected { why: plain(error), shown: Thumbprint::of(end_entity) }),
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn plain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::General(text) => text.clone(),
        rustls::Error::InvalidCertificate(why) => match why {
            rustls::CertificateError::UnknownIssuer => "none of the trusted authorities has issued it".into(),
            why => format!("{why}"),
        },
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbprints_are_read_as_people_write_them() {
        let plain = "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12";
        let pairs = "2F:D4:E1:C6:7A:2D:28:FC:ED:84:9E:E1:BB:76:E7:39:1B:93:EB:12";
        assert_eq!(Thumbprint::parse(plain).unwrap(), Thumbprint::parse(pairs).unwrap());
        assert_eq!(Thumbprint::parse(plain).unwrap().to_string(), pairs);
        assert!(matches!(Thumbprint::parse(&"ab".repeat(32)), Ok(Thumbprint::Sha256(_))));
        for wrong in ["", "ab", "zz", &"ab".repeat(31), "SHA256:abc"] {
            assert!(Thumbprint::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bundle_has_to_hold_a_certificate() {
        for pem in [&b""[..], b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(config(&Trust::Bundle(pem.to_vec()), Seen::default()), Err(Error::Config(_))));
        }
    }
}
