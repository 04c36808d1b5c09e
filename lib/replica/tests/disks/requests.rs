//! What goes over the wire: a server of ours counts requests, looks at headers, and answers as Azurite never does.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use azure_core::credentials::Secret;
use blocklog::{azure_blob::Auth, clock::Clock, test_support::ManualClock};
use jiff::{SignedDuration, Timestamp};
use reasons::Reason;
use replica::{
    CLEAR_STEP, Fence, Permit, ReplicaDisk, ReplicaError, WRITE_TIMEOUT,
    access::{self, Purpose, ReplicaAccess},
    disk_sas::DiskSasDisk,
    page_blob::PageBlobDisk,
    vhd::Footer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

const CONTENT: u64 = 3 << 40;
const ID: Uuid = Uuid::from_u128(7);
const NOW: Timestamp = Timestamp::constant(1_767_225_600, 250_000_000);
const DATE: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// A request as it arrived.
#[derive(Debug, Clone)]
struct Request {
    method: String,
    target: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// What to do with a Put Page that comes next.
#[derive(Debug, Clone)]
enum Answer {
    /// Status and error code.
    Status(u16, &'static str),
    /// The connection is closed.
    Close,
    /// The request is never answered.
    Silence,
    /// What is no HTTP.
    Garbage,
}

/// The host of one disk. It knows reading; Put Page is answered by the script, else with success.
#[derive(Debug, Default)]
struct Host {
    script: Mutex<VecDeque<Answer>>,
    seen: Mutex<Vec<Request>>,
}

impl Host {
    async fn start() -> (Arc<Self>, String) {
        let host = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/c/disk?sig=SECRET", listener.local_addr().unwrap());
        let server = Arc::clone(&host);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Arc::clone(&server);
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        (host, url)
    }

    fn then(&self, answer: Answer) {
        self.script.lock().unwrap().push_back(answer);
    }

    fn next(&self) -> Option<Answer> {
        self.script.lock().unwrap().pop_front()
    }

    /// Requests since the last look.
    fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    async fn serve(&self, mut stream: TcpStream) {
        while let Some(request) = read(&mut stream).await {
            self.seen.lock().unwrap().push(request.clone());
            let common = format!("Last-Modified: {DATE}\r\nx-ms-blob-type: PageBlob\r\nx-ms-blob-sequence-number: 5\r\n");
            let success = |status: &str, body: usize| format!("HTTP/1.1 {status}\r\n{common}Content-Length: {body}\r\n");
            let reply = match (request.method.as_str(), request.target.contains("comp=page")) {
                ("HEAD", _) => format!("HTTP/1.1 200 OK\r\n{common}Content-Length: {}\r\n\r\n", CONTENT + 512).into_bytes(),
                ("GET", _) => {
                    let footer = Footer { unique_id: ID, content: CONTENT, created: NOW }.build();
                    let range = format!("Content-Range: bytes {CONTENT}-{}/{}\r\n", CONTENT + 511, CONTENT + 512);
                    [success("206 Partial Content", 512).as_bytes(), range.as_bytes(), b"\r\n", &footer].concat()
                }
                ("PUT", false) => format!("{}\r\n", success("200 OK", 0)).into_bytes(),
                _ => match self.next() {
                    None => format!("{}\r\n", success("201 Created", 0)).into_bytes(),
                    Some(Answer::Status(status, code)) => {
                        format!("HTTP/1.1 {status} Whatever\r\nx-ms-error-code: {code}\r\nContent-Length: 0\r\n\r\n").into_bytes()
                    }
                    Some(Answer::Garbage) => b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(),
                    Some(Answer::Close) => return,
                    Some(Answer::Silence) => std::future::pending().await,
                },
            };
            if stream.write_all(&reply).await.is_err() {
                return;
            }
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let headers: HashMap<String, String> =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method: first.next().unwrap().to_owned(), target: first.next().unwrap().to_owned(), headers, body })
}

fn clock() -> ManualClock {
    ManualClock::starting_at(NOW)
}

/// A managed disk behind its fence, and no request counted yet.
async fn disk_sas() -> (Arc<Host>, DiskSasDisk, Permit) {
    let (host, url) = Host::start().await;
    let disk = DiskSasDisk::open(url.parse().unwrap(), Arc::new(clock()), None).await.unwrap();
    disk.raise_fence(Fence { turn: 5, previous_end: None }).await.unwrap();
    host.seen();
    (host, disk, Permit { turn: 5, until: NOW + SignedDuration::from_millis(59_900) })
}

/// A page blob behind its fence, and no request counted yet.
async fn page_blob() -> (Arc<Host>, PageBlobDisk, Permit) {
    let (host, url) = Host::start().await;
    let disk = PageBlobDisk::open(url.parse().unwrap(), &Auth::Url, Arc::new(clock())).await.unwrap();
    disk.raise_fence(Fence { turn: 5, previous_end: None }).await.unwrap();
    host.seen();
    (host, disk, Permit { turn: 5, until: NOW })
}

/// One write and one clear, each met by `answer`: what they give, and that each was one request.
async fn met_by(answer: Answer) -> ReplicaError {
    let (time, sas, by_time) = disk_sas().await;
    let (exact, blob, by_number) = page_blob().await;
    let mut errors = Vec::new();
    for (host, disk, permit) in [(&time, &sas as &dyn ReplicaDisk, by_time), (&exact, &blob, by_number)] {
        host.then(answer.clone());
        errors.push(disk.write(permit, 0, vec![1; 1024].into()).await.unwrap_err());
        assert_eq!(host.seen().len(), 1, "{answer:?}");
        host.then(answer.clone());
        errors.push(disk.clear(permit, 0, 1024).await.unwrap_err());
        assert_eq!(host.seen().len(), 1, "{answer:?}");
    }
    for error in &errors {
        assert_eq!(error.reason(), errors[0].reason(), "{answer:?}");
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }
    errors.remove(0)
}

#[tokio::test]
async fn each_attempt_is_one_request() {
    for status in [408, 429, 500, 502, 503, 504] {
        let error = met_by(Answer::Status(status, "ServerBusy")).await;
        assert_eq!(error.reason(), Reason::ReplicaUnreachable, "{status}");
        assert!(error.in_doubt() && error.retryable());
    }
    assert_eq!(met_by(Answer::Close).await.reason(), Reason::ReplicaUnreachable);
    assert!(met_by(Answer::Garbage).await.in_doubt());
}

#[tokio::test]
async fn answers_have_their_meaning() {
    let cases = [
        (412, "SequenceNumberConditionNotMet", Reason::ReplicaFenced),
        (412, "ConditionNotMet", Reason::ReplicaFenced),
        (412, "WhateverADiskHostSays", Reason::ReplicaFenced),
        (412, "LeaseIdMissing", Reason::ReplicaDenied),
        (401, "NoAuthenticationInformation", Reason::ReplicaDenied),
        (403, "AuthenticationFailed", Reason::ReplicaDenied),
        (404, "BlobNotFound", Reason::SeedReplaced),
        (400, "Crc64Mismatch", Reason::ReplicaUnreachable),
        (400, "InvalidHeaderValue", Reason::ReplicaFailed),
        (409, "InvalidBlobType", Reason::ReplicaFailed),
        (413, "RequestBodyTooLarge", Reason::ReplicaFailed),
        (416, "InvalidPageRange", Reason::ReplicaFailed),
        (200, "", Reason::ReplicaFailed),
        (302, "", Reason::ReplicaFailed),
    ];
    for (status, code, reason) in cases {
        assert_eq!(met_by(Answer::Status(status, code)).await.reason(), reason, "{status} {code}");
    }
}

/// The bytes of a write leave while its permit holds, or not at all.
#[tokio::test]
async fn no_write_outlives_its_time() {
    let (host, disk, permit) = disk_sas().await;
    host.then(Answer::Silence);
    let sent = tokio::time::timeout(WRITE_TIMEOUT + Duration::from_secs(2), disk.write(permit, 0, vec![1; 512].into())).await;
    assert_eq!(sent.expect("it gives up by itself").unwrap_err().reason(), Reason::ReplicaUnreachable);
    assert_eq!(host.seen().len(), 1);
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/c/disk?sig=SECRET", listener.local_addr().unwrap());
    drop(listener);
    let error = DiskSasDisk::open(url.parse().unwrap(), Arc::new(clock()), None).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ReplicaUnreachable);
    assert!(!error.to_string().contains("SECRET"), "{error}");
}

#[tokio::test]
async fn a_managed_disk_is_written_under_its_time() {
    let (host, disk, permit) = disk_sas().await;
    disk.write(permit, 4096, vec![7; 1024].into()).await.unwrap();
    disk.clear(permit, 512, 1024).await.unwrap();
    let seen = host.seen();
    let [put, clear] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(put.body, vec![7; 1024]);
    assert_eq!(put.headers["x-ms-page-write"], "update");
    assert_eq!(put.headers["range"], "bytes=4096-5119");
    // Worked out by another implementation of CRC-64/NVME, little-endian.
    assert_eq!(put.headers["x-ms-content-crc64"], "XVe5ny/lujE=");
    assert_eq!(clear.headers["x-ms-page-write"], "clear");
    assert_eq!(clear.headers["range"], "bytes=512-1535");
    assert!(clear.body.is_empty());
    for request in [put, clear] {
        assert_eq!(request.method, "PUT");
        assert!(request.target.contains("comp=page") && request.target.contains("timeout=10"), "{}", request.target);
        // The permit ends at 00:01:00.15.
        assert_eq!(request.headers["if-unmodified-since"], "Thu, 01 Jan 2026 00:01:00 GMT");
        assert_eq!(request.headers["x-ms-version"], "2021-12-02");
        assert!(!request.headers.keys().any(|name| name.contains("sequence-number") || name.contains("lease")), "{request:?}");
    }
}

/// Put Blob would delete the disk's blob.
#[tokio::test]
async fn a_managed_disk_sees_pages_and_reads_only() {
    let (host, url) = Host::start().await;
    let disk = DiskSasDisk::format(url.parse().unwrap(), Arc::new(clock()), Some("2020-10-02"), CONTENT, ID).await.unwrap();
    disk.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
    disk.unique_id().await.unwrap();
    let seen = host.seen();
    let mut kinds: Vec<String> = Vec::new();
    for request in &seen {
        assert_eq!(request.headers["x-ms-version"], "2020-10-02");
        assert!(!request.headers.keys().any(|name| name.starts_with("x-ms-meta") || name == "x-ms-blob-type"), "{request:?}");
        let page = if request.target.contains("comp=page") { " page" } else { "" };
        kinds.push(format!("{}{page}", request.method));
    }
    assert_eq!(kinds, ["HEAD", "GET", "GET", "PUT page", "GET"]);
    let rewrite = &seen[3];
    assert_eq!(rewrite.body, Footer { unique_id: ID, content: CONTENT, created: NOW }.build());
    assert!(!rewrite.headers.contains_key("if-unmodified-since"));
}

#[tokio::test]
async fn a_page_blob_is_written_under_its_number() {
    let (host, disk, permit) = page_blob().await;
    disk.write(permit, 0, vec![7; 1024].into()).await.unwrap();
    disk.clear(permit, 0, 1024).await.unwrap();
    let seen = host.seen();
    assert_eq!(seen.len(), 2);
    for request in &seen {
        assert_eq!(request.headers["x-ms-if-sequence-number-eq"], "5");
        assert!(request.target.contains("timeout=10"), "{}", request.target);
        assert!(!request.headers.contains_key("if-unmodified-since"));
    }
}

/// Azure refuses a request that carries both a SAS and an identity's header.
#[tokio::test]
async fn a_signed_url_gets_no_other_identity() {
    let (host, url) = Host::start().await;
    let auth = Auth::SharedKey { account: "c".to_owned(), key: Secret::new("a2V5") };
    for (url, signed) in [(url.as_str(), true), (url.split('?').next().unwrap(), false)] {
        let access = ReplicaAccess::PageBlob { url: url.to_owned().try_into().unwrap() };
        access::open(&access, Purpose::Write, &auth, Arc::new(clock())).await.unwrap();
        let seen = host.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].headers.contains_key("authorization"), !signed);
        assert_eq!(seen[0].target.contains("SECRET"), signed);
    }
}

#[tokio::test]
async fn a_long_clear_goes_in_steps() {
    let (host, disk, permit) = disk_sas().await;
    disk.clear(permit, 512, 2 * CLEAR_STEP + 512).await.unwrap();
    let ranges: Vec<String> = host.seen().iter().map(|request| request.headers["range"].clone()).collect();
    let edges = [(512, CLEAR_STEP + 511), (CLEAR_STEP + 512, 2 * CLEAR_STEP + 511), (2 * CLEAR_STEP + 512, 2 * CLEAR_STEP + 1023)];
    assert_eq!(ranges, edges.map(|(first, last)| format!("bytes={first}-{last}")));
    host.then(Answer::Status(201, ""));
    host.then(Answer::Status(503, "ServerBusy"));
    assert_eq!(disk.clear(permit, 0, 3 * CLEAR_STEP).await.unwrap_err().reason(), Reason::ReplicaUnreachable);
    assert_eq!(host.seen().len(), 2, "it stops at the first that fails");
}

/// The storage's clock counts: here it stands still, and never passes the older turn's end.
#[tokio::test]
async fn the_fence_believes_the_storages_clock() {
    let (host, url) = Host::start().await;
    let clock = clock();
    clock.auto_advance(true);
    let disk = DiskSasDisk::open(url.parse().unwrap(), Arc::new(clock.clone()), None).await.unwrap();
    let end = NOW + SignedDuration::from_secs(1);
    let error = disk.raise_fence(Fence { turn: 1, previous_end: Some(end) }).await.unwrap_err();
    assert!(error.to_string().contains("NTP"), "{error}");
    assert!(host.seen().iter().filter(|request| request.method == "PUT").count() > 1);
    assert!(clock.now() > end);
    let permit = Permit { turn: 1, until: Timestamp::MAX };
    assert_eq!(disk.write(permit, 0, vec![1; 512].into()).await.unwrap_err().reason(), Reason::ReplicaRequestInvalid, "no fence stands");
}
