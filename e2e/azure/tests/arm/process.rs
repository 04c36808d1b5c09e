//! The process: its flags, its word when it is ready, its end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn simulator(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_azure-simulator"));
    command
        .current_dir(folder)
        .args(["--listen", "127.0.0.1:0", "--disks", "127.0.0.1:0", "--control", "127.0.0.1:0", "--state", "state"])
        .args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn certificate(folder: &Path) {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("server.pem"), issued.cert.pem()).unwrap();
    std::fs::write(folder.join("server.key"), issued.signing_key.serialize_pem()).unwrap();
}

#[track_caller]
fn refused(folder: &Path, more: &[&str], words: &str) {
    let output = simulator(folder, more).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(words), "'{words}' is not in '{text}'");
}

#[test]
fn it_says_when_it_is_ready_and_ends_when_told() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let mut child = simulator(folder.path(), &[]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready https://127.0.0.1:"), "{line}");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_it_cannot_use_it_names() {
    let folder = tempfile::tempdir().unwrap();
    refused(folder.path(), &[], "server.pem");
    certificate(folder.path());
    refused(folder.path(), &["--config", "none.yaml"], "none.yaml");
    std::fs::write(folder.path().join("odd.yaml"), "colour: red\n").unwrap();
    refused(folder.path(), &["--config", "odd.yaml"], "unknown field `colour`");
    std::fs::write(folder.path().join("server.key"), "no key").unwrap();
    refused(folder.path(), &[], "server.key");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    certificate(folder.path());
    let output = Command::new(env!("CARGO_BIN_EXE_azure-simulator"))
        .current_dir(folder.path())
        .args(["--listen", &taken.local_addr().unwrap().to_string(), "--state", "state"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("is another simulator running?"), "{output:?}");
}
