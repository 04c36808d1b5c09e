//! What a worker answers to the kubelet and to Prometheus.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use probes::{LIMITS, Probed, Server};

use crate::failure::{Failure, Kind};

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

impl Probed for Health {
    fn ready(&self) -> Result<String, String> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: String = missing.iter().map(|(what, why)| format!("{what}: {why}\n")).collect();
        if lines.is_empty() { Ok("ok\n".to_owned()) } else { Err(lines) }
    }

    fn figures(&self) -> Vec<u8> {
        self.metrics().into_bytes()
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
    let server = Server::bind(at, LIMITS)
        .await
        .map_err(|error| Failure::new(Kind::BadFile, format!("listen: {at}: {error}"), "Give an address and port that are free."))?;
    let bound = server.address();
    tokio::spawn(server.serve(health));
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ready_when_it_has_all() {
        let health = Health::waiting_for(&["log store", "key"]);
        health.has("key");
        health.lacks("log store", "no route");
        assert_eq!(health.ready(), Err("log store: no route\n".to_owned()));
        health.has("log store");
        assert_eq!(health.ready(), Ok("ok\n".to_owned()));
    }

    #[test]
    fn a_worker_counts_what_is_under_way() {
        let health = Health::waiting_for(&[]);
        let counts = |count: &str| String::from_utf8(health.figures()).unwrap().contains(&format!("\nhawser_worker_running {count}\n"));
        let running = Running::new(&health);
        assert!(counts("1"));
        drop(running);
        assert!(counts("0"));
    }

    #[tokio::test]
    async fn a_worker_says_so_where_it_cant_listen() {
        let at = serve(Health::waiting_for(&[]), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let failure = serve(Health::waiting_for(&[]), at).await.unwrap_err();
        assert!(failure.message.contains(&at.to_string()), "{}", failure.message);
    }
}
