//! Azurite, Microsoft's emulator of the blob service, one process for as long as the test wants it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use azure_core::{credentials::Secret, http::Url};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};

use crate::azure_blob::{AccountUrl, Auth, Retry, client_options};

/// The account that every Azurite has, and its key, which is not a secret: <https://github.com/Azure/Azurite#default-storage-account>.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Starts Azurite, and kills it when our end of the pipe closes, also when this process is killed. Killed, because it would say good-bye to
/// a pipe that nobody reads; it has nothing to save.
const GUARD: &str = r#""$0" "$@" </dev/null & child=$!; exec >&-; read -r _; kill -9 "$child""#;

/// A running Azurite with everything in memory. It is stopped when this is dropped.
#[derive(Debug)]
pub struct Azurite {
    guard: Child,
    pipe: Option<ChildStdin>,
    url: String,
    containers: AtomicU32,
}

impl Azurite {
    /// Starts one, on a free port of 127.0.0.1. It takes a few seconds: prefer [`Azurite::shared`].
    ///
    /// # Panics
    /// Where Azurite is not installed, or does not start: the test cannot go on.
    #[must_use]
    pub fn start() -> Self {
        let program = program();
        assert!(program.is_file(), "Azurite is not installed at {}: run `make azurite`, or set AZURITE to azurite-blob", program.display());
        let mut guard = Command::new("sh")
            .args(["-c", GUARD])
            .arg(&program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"])
            .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let pipe = guard.stdin.take();
        let mut lines = BufReader::new(guard.stdout.take().expect("it is piped")).lines();
        let listens = |line: &String| line.contains("successfully listens on ");
        let line = lines.by_ref().map_while(Result::ok).find(listens).expect("Azurite ended before it listened: is Node.js installed?");
        let root = line.rsplit(' ').next().expect("a line has a last word").trim_end_matches('/').to_owned();
        // It must never wait for somebody to read what it says.
        std::thread::spawn(move || lines.for_each(drop));
        Self { guard, pipe, url: format!("{root}/{ACCOUNT}"), containers: AtomicU32::new(0) }
    }

    /// One for all tests of the process, started by the first.
    ///
    /// # Panics
    /// As [`Azurite::start`].
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Azurite> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The account's URL: `http://127.0.0.1:<port>/devstoreaccount1`.
    #[must_use]
    pub fn account_url(&self) -> AccountUrl {
        AccountUrl::parse(&self.url).expect("it is one")
    }

    /// The same as text, for configurations.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The account's name.
    #[must_use]
    pub fn account(&self) -> &'static str {
        ACCOUNT
    }

    /// The account's key, in base64.
    #[must_use]
    pub fn key(&self) -> &'static str {
        KEY
    }

    /// The account's key as an [`Auth`].
    #[must_use]
    pub fn auth(&self) -> Auth {
        Auth::SharedKey { account: ACCOUNT.to_owned(), key: Secret::new(KEY) }
    }

    /// A client of a container, which need not exist. Requests are not repeated.
    #[must_use]
    pub fn container_client(&self, container: &str) -> BlobContainerClient {
        let auth = self.auth();
        let client_options = client_options(&auth, Retry::None).expect("the key is well formed");
        let options = BlobContainerClientOptions { client_options, ..Default::default() };
        let url: Url = self.account_url().container(container, &auth);
        BlobContainerClient::new(url, auth.credential(), Some(options)).expect("the URL is well formed")
    }

    /// Makes a new container and returns its name.
    ///
    /// # Panics
    /// Where Azurite does not make it.
    pub async fn create_container(&self) -> String {
        let name = format!("test-{}", self.containers.fetch_add(1, Ordering::Relaxed));
        self.container_client(&name).create(None).await.expect("Azurite makes a container");
        name
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // Nothing is to be done about a guard that is gone already.
        let _ = self.guard.wait();
    }
}

fn program() -> PathBuf {
    match std::env::var_os("AZURITE") {
        Some(path) => path.into(),
        None => {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            workspace.join(".cache/azurite/node_modules/.bin/azurite-blob")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn azurite_stops_when_it_is_dropped() {
        let azurite = Azurite::start();
        let name = azurite.create_container().await;
        let client = azurite.container_client(&name);
        assert!(client.exists().await.unwrap());
        drop(azurite);
        assert!(client.exists().await.is_err(), "nobody answers any more");
    }
}
