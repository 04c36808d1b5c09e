//! The client against the servers that people run: nbdkit and qemu-nbd.

#![allow(clippy::unwrap_used, reason = "a test whose parts fail has failed")]

mod test_support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use extents::{ExtentSet, SECTOR};
use source::nbd::{IN_FLIGHT, NbdAddress, NbdSource, NbdTarget, STALL};
use source::raw::RawFile;
use source::{DiskSource, MAX_READ, SourceError};
use test_support::{Image, Random, Server, noise};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 32 * MIB + 7 * SECTOR;

/// Data at the start, across the middle, and in the last sectors; holes between.
fn image() -> (Image, Vec<u8>) {
    let mut bytes = vec![0; SIZE as usize];
    let mut parts = Vec::new();
    for (at, length) in [(0, 3 * MIB), (9 * MIB + 4096, 5 * MIB), (SIZE - 7 * SECTOR, 7 * SECTOR)] {
        let data = noise(at, length as usize);
        bytes[at as usize..][..data.len()].copy_from_slice(&data);
        parts.push((at, data));
    }
    let parts: Vec<_> = parts.iter().map(|(at, data)| (*at, data.as_slice())).collect();
    (Image::new(SIZE, &parts), bytes)
}

/// Random reads, four at a time, and the whole disk in pieces.
async fn reads_the_same(source: Arc<dyn DiskSource>, bytes: &Arc<Vec<u8>>) {
    assert_eq!(source.size(), bytes.len() as u64);
    let readers: Vec<_> = (0..IN_FLIGHT as u64)
        .map(|seed| {
            let (source, bytes) = (Arc::clone(&source), Arc::clone(bytes));
            tokio::spawn(async move {
                let mut random = Random(seed);
                let sectors = bytes.len() as u64 / SECTOR;
                for round in 0..60 {
                    let at = random.below(sectors as usize) as u64;
                    let most = (sectors - at).min(u64::from(MAX_READ) / SECTOR);
                    // Many small ones among the large.
                    let count = random.below(if round % 3 == 0 { most } else { most.min(16) } as usize) as u64 + 1;
                    let got = source.read(at * SECTOR, (count * SECTOR) as u32).await.unwrap();
                    assert!(got == bytes[(at * SECTOR) as usize..][..(count * SECTOR) as usize], "{count} sectors at {at} differ");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    let mut at = 0;
    while at < source.size() {
        let length = (source.size() - at).min(u64::from(MAX_READ));
        assert!(source.read(at, length as u32).await.unwrap() == bytes[at as usize..(at + length) as usize], "the MiB at {at} differs");
        at += length;
    }
}

/// What is called zero is zero, and the large holes are called zero.
async fn tells_zeroes(source: &dyn DiskSource, bytes: &[u8]) {
    let zeroes = source.zeroes(0..source.size()).await.expect("the server tells zeroes");
    for range in zeroes.byte_ranges() {
        assert!(bytes[range.start as usize..range.end as usize].iter().all(|b| *b == 0), "{range:?} is not zero");
    }
    for hole in [4 * MIB..9 * MIB, 15 * MIB..32 * MIB] {
        assert!(zeroes.contains(hole.start / SECTOR..hole.end / SECTOR), "{hole:?} is not in {zeroes:?}");
    }
    // A part that starts and ends inside of holes and data.
    let part = source.zeroes(2 * MIB + 512..10 * MIB).await.unwrap();
    assert_eq!(part, zeroes.within((2 * MIB + 512) / SECTOR..10 * MIB / SECTOR));
}

async fn connect(target: NbdTarget) -> Arc<NbdSource> {
    Arc::new(NbdSource::connect(target).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdkit_and_the_file_are_read_alike() {
    let (image, bytes) = image();
    let bytes = Arc::new(bytes);
    let raw = Arc::new(RawFile::open(image.path()).await.unwrap());
    reads_the_same(raw.clone(), &bytes).await;
    tells_zeroes(&*raw, &bytes).await;
    let server = Server::nbdkit(&["file", &image.argument()]);
    let source = connect(server.target()).await;
    reads_the_same(source.clone(), &bytes).await;
    tells_zeroes(&*source, &bytes).await;
    assert_eq!(source.zeroes(0..SIZE).await, raw.zeroes(0..SIZE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_nbd_reads_the_same() {
    let (image, bytes) = image();
    let bytes = Arc::new(bytes);
    let server = Server::qemu(&["--format=raw", "--export-name=disk", &image.argument()]);
    let target = NbdTarget { export: "disk".into(), ..server.target() };
    let source = connect(target.clone()).await;
    reads_the_same(source.clone(), &bytes).await;
    tells_zeroes(&*source, &bytes).await;
    let error = NbdSource::connect(NbdTarget { export: "other".into(), ..target }).await.unwrap_err();
    assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains("no such export")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_out_of_order_find_their_requests() {
    let (image, bytes) = image();
    // The delay makes the server's threads overtake each other.
    let server = Server::nbdkit(&["--filter=delay", "file", &image.argument(), "rdelay=3ms"]);
    reads_the_same(connect(server.target()).await, &Arc::new(bytes)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_chunks_is_read_with_simple_replies() {
    let (image, bytes) = image();
    let server = Server::nbdkit(&["--no-sr", "file", &image.argument()]);
    let source = connect(server.target()).await;
    reads_the_same(source.clone(), &Arc::new(bytes)).await;
    assert_eq!(source.zeroes(0..SIZE).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_tells_no_zeroes_has_none() {
    let (image, _) = image();
    let server = Server::nbdkit(&["--filter=noextents", "file", &image.argument()]);
    // nbdkit answers, and calls everything data.
    assert_eq!(connect(server.target()).await.zeroes(0..SIZE).await, Some(ExtentSet::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_block_sizes_are_kept() {
    let bytes = noise(5, 4 * MIB as usize);
    let image = Image::new(4 * MIB, &[(0, &bytes)]);
    let policy = ["blocksize-error-policy=error", "blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=65536"];
    let server = Server::nbdkit(&[&["--filter=blocksize-policy", "file", &image.argument()], &policy[..]].concat());
    reads_the_same(connect(server.target()).await, &Arc::new(bytes)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_zeroes_beyond_four_gigabytes_is_told_as_one_hole() {
    let size = 5 << 40;
    let server = Server::nbdkit(&["memory", "5T"]);
    let source = connect(server.target()).await;
    assert_eq!(source.zeroes(0..size).await, Some(ExtentSet::all(size / SECTOR)));
    assert_eq!(source.read(size - 512, 512).await.unwrap(), [0; 512]);
    assert_eq!(source.read(size - 512, 1024).await.unwrap_err(), SourceError::TooShort { size, wanted: size + 512 });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_server_ends_one_read_and_no_connection() {
    let (image, bytes) = image();
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("fail");
    let trigger_argument = format!("error-file={}", trigger.display());
    let arguments = ["--filter=error", "file", &image.argument(), "error-pread=EIO", "error-pread-rate=100%", &trigger_argument];
    let server = Server::nbdkit(&arguments);
    let source = connect(server.target()).await;
    for _ in 0..3 {
        std::fs::write(&trigger, "").unwrap();
        let reads = (0..6).map(|at| source.read(at * MIB, MAX_READ));
        for outcome in futures::future::join_all(reads).await {
            assert!(matches!(&outcome, Err(SourceError::Read { length: MAX_READ, message, .. }) if message.contains("EIO")), "{outcome:?}");
        }
        std::fs::remove_file(&trigger).unwrap();
        let got = source.read(MIB, MAX_READ).await.unwrap();
        assert!(got == bytes[MIB as usize..2 * MIB as usize]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_is_unreachable_at_once() {
    let (image, _) = image();
    let mut server = Server::nbdkit(&["--filter=delay", "file", &image.argument(), "rdelay=30"]);
    let source = connect(server.target()).await;
    let reads: Vec<_> = (0..6)
        .map(|at| {
            let source = Arc::clone(&source);
            tokio::spawn(async move { source.read(at * MIB, MAX_READ).await })
        })
        .collect();
    tokio::time::timeout(Duration::from_millis(200), std::future::pending::<()>()).await.unwrap_err();
    server.child.kill().unwrap();
    for read in reads {
        let outcome = tokio::time::timeout(STALL / 4, read).await.expect("the read ends with the server").unwrap();
        assert!(matches!(outcome, Err(SourceError::Unreachable { .. })), "{outcome:?}");
    }
    assert!(matches!(source.read(0, 512).await, Err(SourceError::Unreachable { .. })));
    drop(server.child.wait());
    let error = NbdSource::connect(server.target()).await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_and_a_uri() {
    let (image, bytes) = image();
    let server = Server::nbdkit_tcp(&["file", &image.argument()]);
    let target = NbdTarget::parse(&format!("nbd://{}/", server.address)).unwrap();
    assert_eq!(target, server.target());
    reads_the_same(connect(target).await, &Arc::new(bytes)).await;
    let NbdAddress::Tcp(host, _) = &server.address else { unreachable!() };
    let nobody = NbdTarget { address: NbdAddress::Tcp(host.clone(), 1), ..server.target() };
    assert!(matches!(NbdSource::connect(nobody).await, Err(SourceError::Unreachable { .. })));
}

/// A folder as nbdkit's `tls-certificates` wants it: an authority, and a server's certificate for `localhost`.
fn certificates() -> tempfile::TempDir {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let folder = tempfile::tempdir().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    for (name, pem) in [("ca-cert.pem", authority.pem()), ("server-cert.pem", certificate.pem()), ("server-key.pem", key.serialize_pem())] {
        std::fs::write(folder.path().join(name), pem).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_authority_that_the_test_made() {
    let config = Command::new("nbdkit").arg("--dump-config").output().expect("apt-get install nbdkit").stdout;
    assert!(
        String::from_utf8_lossy(&config).contains("tls=yes"),
        "this nbdkit was built without TLS; Debian's has it: apt-get install nbdkit"
    );
    let (image, bytes) = image();
    let (trusted, other) = (certificates(), certificates());
    let folder = format!("--tls-certificates={}", trusted.path().display());
    let server = Server::nbdkit_tcp(&["--tls=require", &folder, "file", &image.argument()]);
    let ca_file = trusted.path().join("ca-cert.pem");

    let source = connect(server.with_tls(&ca_file, "localhost")).await;
    reads_the_same(source.clone(), &Arc::new(bytes.clone())).await;
    tells_zeroes(&*source, &bytes).await;

    // Another name, another authority, and a client that doesn't ask for TLS.
    let other_ca = other.path().join("ca-cert.pem");
    for (target, reason) in [
        (server.with_tls(&ca_file, "elsewhere"), "certificate"),
        (server.with_tls(&other_ca, "localhost"), "certificate"),
        (server.target(), "TLS is required"),
    ] {
        let error = NbdSource::connect(target).await.unwrap_err();
        assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains(reason)), "{error}");
    }

    // A server without TLS, a client that wants it.
    let plain = Server::nbdkit(&["file", &image.argument()]);
    let error = NbdSource::connect(plain.with_tls(&ca_file, "localhost")).await.unwrap_err();
    assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains("the server has none")), "{error}");
}
