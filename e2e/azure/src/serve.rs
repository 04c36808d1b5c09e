//! Serving a router over TLS or plainly, one connection at a time, with the power to hang up on a client.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// As the extension of a response: no answer is sent, the connection is closed.
#[derive(Debug, Clone, Copy)]
pub struct DropConnection;

/// A response that makes the server hang up without a word.
#[must_use]
pub fn drop_connection() -> Response {
    let mut response = ().into_response();
    response.extensions_mut().insert(DropConnection);
    response
}

/// What keeps a server from starting.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The certificate or key cannot be used.
    #[error("{path}: {message}: give a PEM file")]
    Pem {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// Certificate and key do not fit.
    #[error("certificate and key: {0}")]
    Tls(#[from] rustls::Error),
}

/// Reads a certificate chain and its key.
///
/// # Errors
/// When a file is missing, is not PEM, or the two do not fit.
pub fn tls(cert: &Path, key: &Path) -> Result<TlsAcceptor, ServeError> {
    let pem =
        |path: &Path, message: &dyn std::fmt::Display| ServeError::Pem { path: path.display().to_string(), message: message.to_string() };
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(|error| pem(cert, &error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, &error))?;
    acceptor(chain, key)
}

/// An acceptor of TLS for this chain and key.
///
/// # Errors
/// When the two do not fit.
pub fn acceptor(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<TlsAcceptor, ServeError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves `router` on `listener` until the future is dropped.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) -> Infallible {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, most of all: others may close some.
                tracing::warn!(%error, "accept");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move { connection(stream, peer, tls, router).await });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, router: Router) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => exchange(stream, peer, router).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => exchange(stream, peer, router).await,
            Err(error) => tracing::debug!(%peer, %error, "handshake"),
        },
    }
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr, router: Router) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let router = router.clone();
        async move {
            let response = match router.oneshot(request.map(Body::new)).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            match response.extensions().get::<DropConnection>() {
                Some(DropConnection) => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
                None => Ok(response),
            }
        }
    });
    if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, %error, "connection");
    }
}
