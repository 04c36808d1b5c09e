//! The same questions to a real apiserver, where `CRDS_KUBECONFIG` names one on which crds/*.yaml are applied. Nothing there is changed but the
//! objects of one namespace, which is made and removed.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::with;

/// A namespace of an apiserver.
pub struct Real {
    kubeconfig: String,
    namespace: String,
}

impl Real {
    /// The apiserver that the environment names.
    pub fn from_environment(kind: &str) -> Option<Self> {
        let kubeconfig = std::env::var("CRDS_KUBECONFIG").ok()?;
        let real = Self { kubeconfig, namespace: format!("crds-rules-{}-{}", kind.to_lowercase(), std::process::id()) };
        real.kubectl(&["create", "namespace", &real.namespace], None).expect("kubectl makes a namespace");
        Some(real)
    }

    /// Whether it would create the object; what it says where it would not.
    pub fn create(&self, object: &Value) -> Result<(), String> {
        self.send(&["create", "--dry-run=server"], object)
    }

    /// Makes the object that updates are asked about.
    pub fn keep(&self, object: &Value) {
        self.send(&["create"], object).expect("the base is created");
    }

    /// Whether it would update the object that was kept.
    pub fn update(&self, object: &Value) -> Result<(), String> {
        self.send(&["replace", "--dry-run=server"], object)
    }

    fn send(&self, verb: &[&str], object: &Value) -> Result<(), String> {
        let object = with(object, "/metadata/namespace", json!(self.namespace));
        let arguments = [verb, &["--validate=strict", "-f", "-"]].concat();
        self.kubectl(&arguments, Some(&object))
    }

    fn kubectl(&self, arguments: &[&str], input: Option<&Value>) -> Result<(), String> {
        let mut child = Command::new("kubectl")
            .args(["--kubeconfig", &self.kubeconfig])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is installed (https://kubernetes.io/docs/tasks/tools/)");
        let mut stdin = child.stdin.take().unwrap();
        if let Some(input) = input {
            stdin.write_all(input.to_string().as_bytes()).unwrap();
        }
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(told) }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        drop(self.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"], None));
    }
}
