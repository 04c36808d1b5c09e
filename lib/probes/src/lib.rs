//! The HTTP server for what the kubelet probes and Prometheus scrapes.
//!
//! One request a connection. How many connections there are at a time is bounded, and so is the time of each: a client that connects and says
//! nothing, or one byte a second, keeps nobody from being answered for long.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{MethodRouter, get},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// The format of figures, and of plain sentences, too.
const TEXT: &str = "text/plain; version=0.0.4";
/// The longest head of a request.
const HEAD: usize = 8 << 10;
/// The pause after a connection could not be taken: there are too many open files, and there will be in a microsecond.
const PAUSE: Duration = Duration::from_millis(100);

/// A process that is probed.
pub trait Probed: Send + Sync + 'static {
    /// Whether it has what it needs, with a sentence about that.
    ///
    /// # Errors
    /// What it lacks.
    fn ready(&self) -> Result<String, String>;

    /// Its figures, in Prometheus' text format.
    fn figures(&self) -> Vec<u8>;
}

/// How much a server bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. Whoever comes when there are so many waits until one of them has gone.
    pub connections: usize,
    /// How long a client may take to say what it wants.
    pub head: Duration,
    /// How long a connection may last.
    pub whole: Duration,
}

/// Enough for a kubelet and some Prometheus, which come one after the other.
pub const LIMITS: Limits = Limits { connections: 128, head: Duration::from_secs(2), whole: Duration::from_secs(10) };

/// A server that listens. Clients that come before it serves wait for it.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// Where it can't listen there.
    pub async fn bind(at: SocketAddr, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, limits })
    }

    /// Where it listens: it has a port also where 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for `probed`, for ever.
    #[allow(clippy::disallowed_methods, reason = "what waits is a listener of this machine: no clock of a test is asked")]
    pub async fn serve(self, probed: Arc<impl Probed>) {
        let (router, free) = (router(probed), Arc::new(Semaphore::new(self.limits.connections)));
        loop {
            // Nobody closes it.
            let Ok(permit) = free.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let router = router.clone();
                    tokio::spawn(async move {
                        talk(stream, router, self.limits).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a probe can't be answered");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// One request and its answer.
async fn talk(stream: TcpStream, router: Router, limits: Limits) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(limits.whole, connection).await {
        Ok(Ok(())) => {}
        // Whoever has gone away asks again.
        Ok(Err(error)) => tracing::debug!(%error, "a probe"),
        Err(_) => tracing::debug!("a probe that takes too long is cut"),
    }
}

fn router<P: Probed>(probed: Arc<P>) -> Router {
    let only = |get: MethodRouter<Arc<P>>| get.fallback(|| async { text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n") });
    Router::new()
        .route("/healthz", only(get(|| async { text(StatusCode::OK, "ok\n") })))
        .route("/readyz", only(get(ready::<P>)))
        .route("/metrics", only(get(async |State(probed): State<Arc<P>>| text(StatusCode::OK, probed.figures()))))
        .fallback(|| async { text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n") })
        .with_state(probed)
}

async fn ready<P: Probed>(State(probed): State<Arc<P>>) -> impl IntoResponse {
    match probed.ready() {
        Ok(why) => text(StatusCode::OK, why),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

fn text(status: StatusCode, body: impl Into<axum::body::Body>) -> impl IntoResponse {
    (status, [(CONTENT_TYPE, TEXT)], body.into())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a server of this machine's time")]
mod tests;
