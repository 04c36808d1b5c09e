//! Probes and metrics: a few lines of HTTP for the kubelet and Prometheus.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::failure::{Failure, Kind};

/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(5);
/// No request of a probe is longer.
const LONGEST: usize = 8 << 10;

/// What a process says of itself.
#[derive(Debug, Default)]
pub struct Health {
    /// What has to be there before it is ready, and why it is not.
    missing: Mutex<BTreeMap<&'static str, String>>,
    /// Cycles or orders under way.
    pub running: AtomicI64,
    /// Cycles or orders that ended well.
    pub succeeded: AtomicU64,
    /// Runs that ended in an error, or in a failed cycle.
    pub failed: AtomicU64,
    /// Bytes read from sources.
    pub read: AtomicU64,
    /// Bytes that went into the log.
    pub uploaded: AtomicU64,
    /// Bytes that were written to seeds.
    pub applied: AtomicU64,
}

impl Health {
    /// Waits for these.
    #[must_use]
    pub fn waiting_for(what: &[&'static str]) -> Arc<Self> {
        let missing = what.iter().map(|what| (*what, "not looked at yet".to_owned())).collect();
        Arc::new(Self { missing: Mutex::new(missing), ..Self::default() })
    }

    /// It is there.
    pub fn has(&self, what: &'static str) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }

    /// It is not.
    pub fn lacks(&self, what: &'static str, why: impl std::fmt::Display) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(what, why.to_string());
    }

    fn answer(&self, path: &str) -> (u16, String) {
        match path {
            "/healthz" => (200, "ok\n".to_owned()),
            "/readyz" => {
                let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
                let lines: String = missing.iter().map(|(what, why)| format!("{what}: {why}\n")).collect();
                if lines.is_empty() { (200, "ok\n".to_owned()) } else { (503, lines) }
            }
            "/metrics" => (200, self.metrics()),
            _ => (404, "there are /healthz, /readyz and /metrics\n".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        let ready = i64::from(self.missing.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        [
            ("hawser_worker_ready", "gauge", "1 where the worker has what it needs.", ready.to_string()),
            ("hawser_worker_running", "gauge", "Cycles or orders under way.", self.running.load(Ordering::Relaxed).to_string()),
            ("hawser_worker_succeeded_total", "counter", "Cycles or orders that ended well.", count(&self.succeeded)),
            ("hawser_worker_failed_total", "counter", "Runs that ended in an error.", count(&self.failed)),
            ("hawser_worker_read_bytes_total", "counter", "Bytes read from sources.", count(&self.read)),
            ("hawser_worker_uploaded_bytes_total", "counter", "Bytes that went into the log.", count(&self.uploaded)),
            ("hawser_worker_applied_bytes_total", "counter", "Bytes written to or cleared on seeds.", count(&self.applied)),
        ]
        .iter()
        .map(|(name, kind, help, value)| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"))
        .collect()
    }
}

/// Something that is under way, as long as it lives.
pub struct Running(Arc<Health>);

impl Running {
    /// It begins.
    #[must_use]
    pub fn new(health: &Arc<Health>) -> Self {
        health.running.fetch_add(1, Ordering::Relaxed);
        Self(health.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Listens. Returns the address, which has a port also where 0 was asked for.
///
/// # Errors
/// Where it can't listen there.
pub async fn serve(health: Arc<Health>, at: SocketAddr) -> Result<SocketAddr, Failure> {
    let refuse =
        |error: std::io::Error| Failure::new(Kind::BadFile, format!("listen: {at}: {error}"), "Give an address and port that are free.");
    let listener = TcpListener::bind(at).await.map_err(refuse)?;
    let bound = listener.local_addr().map_err(refuse)?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let health = health.clone();
                    tokio::spawn(async move {
                        // A client that is gone wants no answer.
                        let _ = tokio::time::timeout(PATIENCE, talk(stream, &health)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a probe can't be answered");
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    Ok(bound)
}

async fn talk(mut stream: TcpStream, health: &Health) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < LONGEST {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    let text = String::from_utf8_lossy(&request);
    let mut words = text.split_ascii_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(path)) => health.answer(path.split('?').next().unwrap_or_default()),
        _ => (405, "GET only\n".to_owned()),
    };
    let reason = if status == 200 { "OK" } else { "Not OK" };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_is_alive_at_once_and_ready_when_it_has_all() {
        let health = Health::waiting_for(&["log store", "key"]);
        let at = serve(health.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert!(get(at, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
        health.has("key");
        health.lacks("log store", "no route");
        let answer = get(at, "GET /readyz HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nlog store: no route\n"), "{answer}");
        health.has("log store");
        assert!(get(at, "GET /readyz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
        assert!(get(at, "GET /secrets HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(get(at, "POST /healthz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        let running = Running::new(&health);
        assert!(get(at, "GET /metrics HTTP/1.1\r\n\r\n").await.contains("\nhawser_worker_running 1\n"));
        drop(running);
        assert!(get(at, "GET /metrics HTTP/1.1\r\n\r\n").await.contains("\nhawser_worker_running 0\n"));
        assert!(serve(health, at).await.is_err());
    }
}
