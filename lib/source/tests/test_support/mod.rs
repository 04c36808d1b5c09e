//! Real NBD servers for the tests.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use source::nbd::{NbdAddress, NbdTarget, TlsConfig};

mod random;
#[allow(unused_imports, reason = "each test file uses its own part")]
pub use random::{Random, noise};

/// A server that ends with the test.
pub struct Server {
    pub child: Child,
    pub address: NbdAddress,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// nbdkit on a unix socket, with these arguments behind its own.
    pub fn nbdkit(arguments: &[&str]) -> Self {
        Self::on_socket("nbdkit", "nbdkit", |socket| {
            let own = ["--foreground", "--exit-with-parent", "--readonly", "--unix", socket];
            own.iter().chain(arguments).map(|a| (*a).to_owned()).collect()
        })
    }

    /// nbdkit on a TCP port of its own choice among the free ones.
    pub fn nbdkit_tcp(arguments: &[&str]) -> Self {
        // The port is free now; nobody else on a test machine asks for ports at random.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let own = ["--foreground", "--exit-with-parent", "--readonly", "--ipaddr", "127.0.0.1", "--port"];
        let mut command = Command::new("nbdkit");
        command.args(own).arg(port.to_string()).args(arguments);
        let mut child = spawn(command, "nbdkit");
        wait(&mut child, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, address: NbdAddress::Tcp("127.0.0.1".into(), port), _folder: None }
    }

    /// qemu-nbd on a unix socket, with these arguments behind its own.
    pub fn qemu(arguments: &[&str]) -> Self {
        Self::on_socket("qemu-nbd", "qemu-utils", |socket| {
            let own = ["--read-only", "--persistent", "--shared=4", "--socket", socket];
            own.iter().chain(arguments).map(|a| (*a).to_owned()).collect()
        })
    }

    fn on_socket(program: &str, package: &str, arguments: impl Fn(&str) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd.sock");
        let mut command = Command::new(program);
        command.args(arguments(socket.to_str().unwrap()));
        let mut child = spawn(command, package);
        wait(&mut child, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        Self { child, address: NbdAddress::Unix(socket), _folder: Some(folder) }
    }

    /// The default export.
    pub fn target(&self) -> NbdTarget {
        NbdTarget { address: self.address.clone(), export: String::new(), tls: None }
    }

    /// The default export, encrypted.
    pub fn with_tls(&self, ca_file: &Path, server_name: &str) -> NbdTarget {
        let tls = TlsConfig { ca_file: ca_file.to_owned(), server_name: server_name.to_owned() };
        NbdTarget { tls: Some(tls), ..self.target() }
    }
}

fn spawn(mut command: Command, package: &str) -> Child {
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{program:?} can't be started ({e}): apt-get install {package}"))
}

/// Waits until the server listens.
fn wait(child: &mut Child, listens: impl Fn() -> bool) {
    for _ in 0..1000 {
        if listens() {
            return;
        }
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the server ended with {status} before it listened");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the server did not listen within 10 seconds");
}

/// A raw image with `parts` in it and holes between them, in a folder that ends with it.
pub struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    pub fn new(size: u64, parts: &[(u64, &[u8])]) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), size, parts)
    }

    pub fn in_folder(folder: tempfile::TempDir, size: u64, parts: &[(u64, &[u8])]) -> Self {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(folder.path().join("disk.img")).unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        Self { folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    pub fn argument(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }
}
