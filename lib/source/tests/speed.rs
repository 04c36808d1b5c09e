//! How fast bytes come out of nbdkit. It measures, so it runs on demand:
//! `cargo test --release -p source --test speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test whose parts fail has failed")]

mod test_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use source::nbd::{IN_FLIGHT, NbdSource};
use source::{DiskSource, MAX_READ};
use test_support::{Image, Server, noise};

const SIZE: u64 = 1 << 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
#[allow(clippy::disallowed_methods, reason = "it measures")]
async fn a_gibibyte_from_nbdkit() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let image = Image::in_folder(folder, SIZE, &[(0, &noise(1, SIZE as usize))]);
    let mut arguments = vec!["file".to_owned(), image.argument()];
    if let Ok(threads) = std::env::var("NBDKIT_THREADS") {
        arguments.splice(0..0, ["-t".to_owned(), threads]);
    }
    let server = Server::nbdkit(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let source = Arc::new(NbdSource::connect(server.target()).await.unwrap());
    for _ in 0..5 {
        let next = Arc::new(AtomicU64::new(0));
        let start = std::time::Instant::now();
        let readers: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let (source, next) = (Arc::clone(&source), Arc::clone(&next));
                tokio::spawn(async move {
                    loop {
                        let at = next.fetch_add(u64::from(MAX_READ), Ordering::Relaxed);
                        if at >= SIZE {
                            return;
                        }
                        assert_eq!(source.read(at, MAX_READ).await.unwrap().len(), MAX_READ as usize);
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.await.unwrap();
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{:.2} GiB/s", SIZE as f64 / seconds / f64::from(1 << 30));
    }
}
