//! What the operator answers to the kubelet and to Prometheus.

use tokio::sync::watch;

use crate::metrics::Metrics;

/// The operator, as it is probed.
pub struct Probes {
    pub metrics: Metrics,
    /// Whether it leads.
    pub leading: watch::Receiver<bool>,
}

impl probes::Probed for Probes {
    /// One that waits for the lease is ready to take it.
    fn ready(&self) -> Result<String, String> {
        let leads = *self.leading.borrow();
        Ok(if leads { "leading\n".to_owned() } else { "waiting for the lease\n".to_owned() })
    }

    fn figures(&self) -> Vec<u8> {
        self.metrics.text()
    }
}

#[cfg(test)]
mod tests {
    use probes::Probed;

    use super::*;

    #[test]
    fn an_operator_is_ready_while_it_waits_and_while_it_leads() {
        let (leads, leading) = watch::channel(false);
        let operator = Probes { metrics: Metrics::new().unwrap(), leading };
        assert_eq!(operator.ready().unwrap(), "waiting for the lease\n");
        leads.send_replace(true);
        assert_eq!(operator.ready().unwrap(), "leading\n");
    }

    #[test]
    fn figures_are_those_of_the_metrics() {
        let operator = Probes { metrics: Metrics::new().unwrap(), leading: watch::channel(false).1 };
        operator.metrics.ready.with_label_values(&["a", "b"]).set(0.0);
        assert!(String::from_utf8(operator.figures()).unwrap().contains("hawser_vm_ready"));
    }
}
