//! Put Page From URL.

use axum::response::IntoResponse;
use axum::routing::get;

use super::super::request::{crc64, md5};
use super::*;

const SECTOR: [u8; 512] = [0x77; 512];

/// A snapshot with a pattern, and the SAS to read it.
async fn snapshot(host: &Host) -> String {
    host.store().create(OTHER, CONTENT, false).unwrap();
    host.store().write(OTHER, 4096, &SECTOR).unwrap();
    host.reader(OTHER)
}

async fn copy(host: &Host, url: &str, to: &str, from: &str, more: &[(&str, &str)]) -> Got {
    let mut headers = vec![("x-ms-page-write", "update"), ("x-ms-copy-source", url), ("x-ms-range", to), ("x-ms-source-range", from)];
    headers.extend(more);
    host.send("PUT", &host.write, "&comp=page", &headers, &[]).await
}

#[tokio::test]
async fn from_a_snapshot_by_its_sas() {
    let host = Host::new();
    let url = snapshot(&host).await;
    let (to, from) = ("bytes=0-1023", "bytes=4096-5119");
    let got = copy(&host, &url, to, from, &[]).await;
    let expected = [SECTOR, [0; 512]].concat();
    assert_eq!((got.status, got.header("x-ms-content-crc64")), (201, crc64(&expected).as_str()));
    assert_eq!(host.bytes(0, 1024), expected);
    assert_eq!(copy(&host, &url, to, from, &[("x-ms-source-content-md5", &md5(&expected))]).await.status, 201);
    let wrong = copy(&host, &url, to, from, &[("x-ms-source-content-crc64", &crc64(b"x"))]).await;
    assert_eq!(wrong.error(), (400, "Crc64Mismatch"));
    let got = host.store().describe();
    let counts = got.as_array().unwrap().iter().find(|disk| disk["id"] == DISK).unwrap()["counts"].clone();
    assert_eq!(counts["operations"]["PutPageFromUrl"]["requests"], 3);
    assert_eq!(counts["operations"]["PutPageFromUrl"]["bytesIn"], 3072 - 1024, "the last one's did not fit");
}

#[tokio::test]
async fn what_it_asks_for_is_checked() {
    let host = Host::new();
    let url = snapshot(&host).await;
    let error = async |to: &str, from: &str, more: &[(&str, &str)]| {
        let got = copy(&host, &url, to, from, more).await;
        (got.status, got.header("x-ms-error-code").to_owned())
    };
    let is = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(error("bytes=1-512", "bytes=0-511", &[]).await, is(416, "InvalidPageRange"));
    assert_eq!(error("bytes=0-1023", "bytes=0-511", &[]).await, is(400, "InvalidHeaderValue"));
    assert_eq!(error("bytes=0-511", "bytes=0-", &[]).await, is(400, "InvalidHeaderValue"));
    assert_eq!(error("bytes=0-4194815", "bytes=0-4194815", &[]).await, is(413, "RequestBodyTooLarge"));
    assert_eq!(error("bytes=0-511", "bytes=0-511", &[("x-ms-source-if-match", "*")]).await, is(400, "InvalidHeaderValue"));
    assert_eq!(error("bytes=0-511", "bytes=6291968-6292479", &[]).await, is(416, "CannotVerifyCopySource"), "beyond the source's end");
    let both = [("x-ms-source-content-crc64", crc64(b"")), ("x-ms-source-content-md5", md5(b""))];
    let both = both.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(error("bytes=0-511", "bytes=0-511", &both).await, is(400, "BothCrc64AndMd5HeaderPresent"));
    assert_eq!(copy(&host, "no url", "bytes=0-511", "bytes=0-511", &[]).await.error(), (400, "InvalidHeaderValue"));
    let body = [
        ("x-ms-page-write", "update"),
        ("x-ms-copy-source", url.as_str()),
        ("x-ms-range", "bytes=0-511"),
        ("x-ms-source-range", "bytes=0-511"),
    ];
    assert_eq!(host.send("PUT", &host.write, "&comp=page", &body, &SECTOR).await.error(), (400, "InvalidHeaderValue"), "it has no body");
    let clear = [
        ("x-ms-page-write", "clear"),
        ("x-ms-copy-source", url.as_str()),
        ("x-ms-range", "bytes=0-511"),
        ("x-ms-source-range", "bytes=0-511"),
    ];
    assert_eq!(host.send("PUT", &host.write, "&comp=page", &clear, &[]).await.error(), (400, "InvalidHeaderValue"));
    assert_eq!(host.send("PUT", &host.write, "&comp=page", &body[..3], &[]).await.error(), (400, "MissingRequiredHeader"));
    assert_eq!(host.store().written(DISK).unwrap(), []);
}

#[tokio::test]
async fn the_source_has_to_be_readable() {
    let host = Host::new();
    let url = snapshot(&host).await;
    let (to, from) = ("bytes=0-511", "bytes=4096-4607");
    let forged = url.replace("&sig=", "&sig=A");
    let got = copy(&host, &forged, to, from, &[]).await;
    assert_eq!(got.error(), (403, "CannotVerifyCopySource"));
    assert_eq!((got.header("x-ms-copy-source-status-code"), got.header("x-ms-copy-source-error-code")), ("403", "AuthenticationFailed"));
    assert_eq!(copy(&host, &host.write, to, from, &[]).await.status, 201, "an open upload by its own SAS");
    host.set(|switches| switches.read_by_write_sas = false);
    assert_eq!(copy(&host, &host.write, to, from, &[]).await.error(), (403, "CannotVerifyCopySource"));
    host.store().revoke(OTHER);
    assert_eq!(copy(&host, &url, to, from, &[]).await.error(), (403, "CannotVerifyCopySource"));
    let reader = host.reader(OTHER);
    assert_eq!(copy(&host, &reader, to, from, &[]).await.status, 201);
    host.store().revoke(DISK);
    assert_eq!(copy(&host, &reader, to, from, &[]).await.error(), (403, "AuthenticationFailed"), "the target's own SAS");
    assert_eq!(host.bytes(0, 512), SECTOR);
}

/// Another blob service: what it says is passed on.
#[tokio::test]
async fn from_elsewhere() {
    let serve = |headers: HeaderMap| async move {
        let range = headers.get("x-ms-range").map_or("", |range| range.to_str().unwrap());
        let authorized = headers.get("authorization").is_some_and(|value| value == "Bearer t");
        match (authorized, range) {
            (true, "bytes=1024-1535") => (http::StatusCode::PARTIAL_CONTENT, SECTOR.to_vec()).into_response(),
            (true, _) => (http::StatusCode::PARTIAL_CONTENT, vec![1; 100]).into_response(),
            (false, _) => (http::StatusCode::NOT_FOUND, [("x-ms-error-code", "BlobNotFound")], Vec::new()).into_response(),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/account/container/blob", listener.local_addr().unwrap());
    let server = tokio::spawn(crate::serve::serve(listener, None, Router::new().route("/account/container/blob", get(serve))));
    let host = Host::new();
    let bearer = [("x-ms-copy-source-authorization", "Bearer t")];
    assert_eq!(copy(&host, &url, "bytes=0-511", "bytes=1024-1535", &bearer).await.status, 201);
    assert_eq!(host.bytes(0, 512), SECTOR);
    let missing = copy(&host, &url, "bytes=512-1023", "bytes=1024-1535", &[]).await;
    assert_eq!((missing.error(), missing.header("x-ms-copy-source-error-code")), ((404, "CannotVerifyCopySource"), "BlobNotFound"));
    let short = copy(&host, &url, "bytes=512-1023", "bytes=0-511", &bearer).await;
    assert_eq!(short.error(), (416, "CannotVerifyCopySource"));
    server.abort();
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a/c/b", nobody.local_addr().unwrap());
    drop(nobody);
    assert_eq!(copy(&host, &url, "bytes=512-1023", "bytes=0-511", &[]).await.error(), (500, "CannotVerifyCopySource"));
    assert_eq!(host.store().written(DISK).unwrap(), [(0, 512)]);
}
