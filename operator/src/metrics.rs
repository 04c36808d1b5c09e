//! Figures for Prometheus.

use jiff::Timestamp;
use prometheus::{Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

/// The operator's figures. Labels are names of objects and words of closed sets, never texts.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// `hawser_leading`
    pub leading: Gauge,
    /// `hawser_recovery_point_timestamp_seconds`
    pub recovery_point: GaugeVec,
    /// `hawser_vm_ready`
    pub ready: GaugeVec,
    /// `hawser_apply_failures`
    pub apply_failures: GaugeVec,
    /// `hawser_snapshot_timestamp_seconds`
    snapshots: GaugeVec,
    /// `hawser_cycles_total`
    pub cycles: IntCounterVec,
    /// `hawser_reconcile_seconds`
    pub passes: HistogramVec,
    /// `hawser_reconcile_errors_total`
    pub errors: IntCounterVec,
}

impl Metrics {
    /// New ones, all at zero.
    ///
    /// # Errors
    /// Where two have one name, which a test would have shown.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let leading = Gauge::with_opts(Opts::new("hawser_leading", "1 where this replica of the operator leads, 0 where it waits"))?;
        let vm = &["namespace", "name"];
        let recovery_point = GaugeVec::new(
            Opts::new("hawser_recovery_point_timestamp_seconds", "When the snapshot of the last recovery point was taken"),
            vm,
        )?;
        let ready = GaugeVec::new(Opts::new("hawser_vm_ready", "1 where the condition Ready of a ReplicatedVM is True"), vm)?;
        let apply_failures =
            GaugeVec::new(Opts::new("hawser_apply_failures", "Tries in a row in which the current cycle could not be applied"), vm)?;
        let cycles = IntCounterVec::new(
            Opts::new("hawser_cycles_total", "Cycles that ended, by reason (AsExpected where they succeeded)"),
            &["namespace", "name", "reason"],
        )?;
        let snapshots = GaugeVec::new(
            Opts::new(
                "hawser_snapshot_timestamp_seconds",
                "When the oldest snapshot of Hawser's that stands on the VM was taken; none where none does",
            ),
            vm,
        )?;
        let buckets = vec![0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];
        let passes = HistogramVec::new(
            HistogramOpts::new("hawser_reconcile_seconds", "Seconds of a pass over an object").buckets(buckets),
            &["kind"],
        )?;
        let errors = IntCounterVec::new(Opts::new("hawser_reconcile_errors_total", "Passes that failed"), &["kind", "reason"])?;
        registry.register(Box::new(leading.clone()))?;
        registry.register(Box::new(recovery_point.clone()))?;
        registry.register(Box::new(ready.clone()))?;
        registry.register(Box::new(apply_failures.clone()))?;
        registry.register(Box::new(snapshots.clone()))?;
        registry.register(Box::new(cycles.clone()))?;
        registry.register(Box::new(passes.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        Ok(Self { registry, leading, recovery_point, ready, apply_failures, snapshots, cycles, passes, errors })
    }

    /// Tells since when a snapshot stands on a VM.
    pub fn snapshot(&self, namespace: &str, name: &str, taken: Option<Timestamp>) {
        let label = &[namespace, name];
        match taken {
            #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
            Some(taken) => self.snapshots.with_label_values(label).set(taken.as_second() as f64),
            // It is no error where nothing was told of it.
            None => drop(self.snapshots.remove_label_values(label)),
        }
    }

    /// Takes away what is told of a VM that is gone: a gauge that stays would raise an alert for ever.
    pub fn forget(&self, namespace: &str, name: &str) {
        // It is no error where nothing was told of it.
        let _ = self.recovery_point.remove_label_values(&[namespace, name]);
        let _ = self.ready.remove_label_values(&[namespace, name]);
        let _ = self.apply_failures.remove_label_values(&[namespace, name]);
        for reason in crds::reasons::Reason::ALL {
            let _ = self.cycles.remove_label_values(&[namespace, name, reason.as_str()]);
        }
        self.snapshot(namespace, name, None);
    }

    /// As Prometheus reads them.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::warn!(%error, "the metrics");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alerts_ask_for_figures_that_there_are() {
        let metrics = Metrics::new().unwrap();
        metrics.snapshot("apps", "web", Some(Timestamp::UNIX_EPOCH));
        for one in [&metrics.recovery_point, &metrics.apply_failures] {
            one.with_label_values(&["apps", "web"]).set(1.0);
        }
        let told = String::from_utf8(metrics.text()).unwrap();
        let rules = include_str!("../../charts/hawser/templates/alerts.yaml");
        let words = rules.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        let asked: Vec<&str> = words.filter(|word| word.starts_with("hawser_")).collect();
        assert!(!asked.is_empty());
        for figure in asked {
            assert!(told.contains(&format!("# TYPE {figure} ")), "{figure}");
        }
    }

    #[test]
    fn a_vm_that_is_gone_is_not_told_of() {
        let metrics = Metrics::new().unwrap();
        metrics.ready.with_label_values(&["apps", "web"]).set(1.0);
        metrics.apply_failures.with_label_values(&["apps", "web"]).set(3.0);
        metrics.cycles.with_label_values(&["apps", "web", "SnapshotLost"]).inc();
        assert!(String::from_utf8(metrics.text()).unwrap().contains(r#"hawser_vm_ready{name="web",namespace="apps"} 1"#));
        metrics.snapshot("apps", "web", Timestamp::from_second(1_700_000_000).ok());
        let told = |metrics: &Metrics| {
            String::from_utf8(metrics.text())
                .unwrap()
                .lines()
                .any(|line| line.starts_with("hawser_snapshot_timestamp_seconds{") && line.ends_with(" 1700000000"))
        };
        assert!(told(&metrics));
        metrics.snapshot("apps", "web", None);
        assert!(!told(&metrics));
        metrics.snapshot("apps", "web", Timestamp::from_second(1_700_000_000).ok());
        metrics.forget("apps", "web");
        assert!(!String::from_utf8(metrics.text()).unwrap().contains("web"));
    }
}
