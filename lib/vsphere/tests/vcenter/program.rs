//! The vCenter simulator as a program on loopback. `worker`'s tests start it by this file too.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

/// The program, built once; or the one that `HAWSER_VCENTER` names. The sandbox's own build takes the same lock.
fn binary() -> &'static Path {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("HAWSER_VCENTER") {
            return Ok(path.into());
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|folder| folder.join("e2e/vcenter").is_dir()).unwrap();
        let bin = root.join(".cache/sandbox-bin");
        fs::create_dir_all(&bin).unwrap();
        let lock = File::create(bin.join(".lock")).unwrap();
        lock.lock().unwrap();
        let path = bin.join("vcenter");
        let built =
            Command::new("go").args(["build", "-mod=readonly", "-o"]).arg(&path).arg(".").current_dir(root.join("e2e/vcenter")).output();
        match built {
            Ok(built) if built.status.success() => Ok(path),
            Ok(built) => Err(format!("e2e/vcenter does not build: {}", String::from_utf8_lossy(&built.stderr))),
            Err(error) => Err(format!(
                "these tests need Go to build the vCenter simulator ({error}): install Go 1.26 (https://go.dev/dl) and put it on PATH"
            )),
        }
    });
    built.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// A running simulator; it ends with this.
pub struct Program {
    child: Child,
    pub url: String,
    pub control: String,
    /// The CA that issued its certificate, in PEM.
    pub ca: Vec<u8>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// One with this inventory, whose files lie in `folder`.
    pub fn start(inventory: &Value, folder: &Path) -> Self {
        let (ca, server) = certificates();
        fs::write(folder.join("server.pem"), server.0).unwrap();
        fs::write(folder.join("server.key"), server.1).unwrap();
        // JSON is YAML.
        fs::write(folder.join("inventory.yaml"), inventory.to_string()).unwrap();
        let mut command = Command::new(binary());
        command.args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        for (flag, name) in [("--cert", "server.pem"), ("--key", "server.key"), ("--inventory", "inventory.yaml"), ("--state", "state")] {
            command.arg(flag).arg(folder.join(name));
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = |word: &str| -> String {
            let line = lines.next().unwrap_or_else(|| panic!("the simulator has ended: see above")).unwrap();
            line.strip_prefix(word).unwrap_or_else(|| panic!("{line:?} where {word:?} was awaited")).trim().to_owned()
        };
        let (control, url) = (said("control "), said("ready "));
        Self { child, url, control, ca }
    }

    /// Asks the control port: the guest, an administrator, or fate.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = reqwest::Client::new().request(method.clone(), format!("{}/v1{path}", self.control));
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }
}

/// A CA's certificate, and a server's with its key, in PEM.
fn certificates() -> (Vec<u8>, (String, String)) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "a CA for tests");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    (ca.pem().into_bytes(), (server.pem(), key.serialize_pem()))
}
