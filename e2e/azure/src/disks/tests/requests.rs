//! Who is let in, and what may be asked.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::request::{crc64, md5};
use super::*;

const SECTOR: [u8; 512] = [0xa5; 512];

/// Method, query and headers.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

#[tokio::test]
async fn put_page_takes_whole_pages_of_at_most_4_mib() {
    let host = Host::new();
    let put = async |headers: &[(&str, &str)], body: &[u8]| {
        let got = host.send("PUT", &host.write, "&comp=page", headers, body).await;
        (got.status, got.header("x-ms-error-code").to_owned())
    };
    let is = |status: u16, code: &str| (status, code.to_owned());
    let update = ("x-ms-page-write", "update");
    for (range, expected) in [
        ("bytes=1-512", is(416, "InvalidPageRange")),
        ("bytes=0-510", is(416, "InvalidPageRange")),
        ("bytes=0-", is(416, "InvalidPageRange")),
        ("bytes=0-1023", is(416, "InvalidPageRange")),
        ("bytes=6292480-6292991", is(416, "InvalidPageRange")),
        ("bytes=6291968-6292479", is(416, "InvalidPageRange")),
        ("bytes=0-4194815", is(413, "RequestBodyTooLarge")),
        ("bytes=512-0", is(400, "InvalidHeaderValue")),
        ("0-511", is(400, "InvalidHeaderValue")),
        ("bytes=0-18446744073709551615", is(400, "InvalidHeaderValue")),
    ] {
        assert_eq!(put(&[update, ("x-ms-range", range)], &SECTOR).await, expected, "{range}");
    }
    let range = ("x-ms-range", "bytes=0-511");
    assert_eq!(put(&[update], &SECTOR).await, is(400, "MissingRequiredHeader"));
    assert_eq!(put(&[range], &SECTOR).await, is(400, "MissingRequiredHeader"));
    assert_eq!(put(&[("x-ms-page-write", "add"), range], &SECTOR).await, is(400, "InvalidHeaderValue"));
    assert_eq!(put(&[update, range, ("transfer-encoding", "chunked")], &SECTOR).await, is(411, "MissingContentLengthHeader"));
    assert_eq!(put(&[update, range, ("content-length", "1024")], &SECTOR).await, is(416, "InvalidPageRange"), "another length");
    assert_eq!(put(&[update, range, ("content-length", "512")], &SECTOR[..256]).await, is(416, "InvalidPageRange"), "cut off");
    assert_eq!(put(&[("x-ms-page-write", "clear"), range], &SECTOR).await, is(400, "InvalidHeaderValue"), "a clear has no body");
    assert_eq!(put(&[update, range, ("x-ms-lease-id", "l")], &SECTOR).await, is(412, "LeaseNotPresentWithBlobOperation"));
    assert_eq!(host.store().written(DISK).unwrap(), [], "none of them wrote anything");
    let largest = vec![7; 4 << 20];
    assert_eq!(host.put(0, &largest, &[]).await.status, 201);
    assert_eq!(host.put(CONTENT, &SECTOR, &[]).await.status, 201, "the footer's page");
    assert_eq!(put(&[update, range, ("range", "bytes=1-2")], &SECTOR).await.0, 201, "x-ms-range goes before Range");
    assert_eq!(put(&[update, ("range", "bytes=512-1023")], &SECTOR).await.0, 201);
    assert_eq!(host.bytes(0, 1024), [SECTOR, SECTOR].concat());
    assert_eq!(host.clear(0, CONTENT + 512).await.status, 201, "a clear may be longer than 4 MiB");
    assert_eq!(host.store().written(DISK).unwrap(), []);
    assert!(host.bytes(0, CONTENT + 512).iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn checksums_are_checked() {
    let host = Host::new();
    // CRC-64/NVME of "123456789" is ae8b14860a799888 (its catalogue entry); Azure wants it little-endian.
    assert_eq!(crc64(b"123456789"), STANDARD.encode(0xae8b_1486_0a79_9888_u64.to_le_bytes()));
    assert_eq!(md5(b""), "1B2M2Y8AsgTpgAmY7PhCfg==");
    let good = crc64(&SECTOR);
    let mut big_endian = STANDARD.decode(&good).unwrap();
    big_endian.reverse();
    let put = async |headers: &[(&str, &str)]| host.put(0, &SECTOR, headers).await;
    assert_eq!(put(&[("x-ms-content-crc64", &STANDARD.encode(big_endian))]).await.error(), (400, "Crc64Mismatch"));
    assert_eq!(put(&[("content-md5", &md5(b"x"))]).await.error(), (400, "Md5Mismatch"));
    assert_eq!(put(&[("content-md5", "AAAA")]).await.error(), (400, "InvalidMd5"));
    assert_eq!(put(&[("x-ms-content-crc64", "not base64")]).await.error(), (400, "InvalidHeaderValue"));
    let both = put(&[("content-md5", &md5(&SECTOR)), ("x-ms-content-crc64", &good)]).await;
    assert_eq!(both.error(), (400, "BothCrc64AndMd5HeaderPresent"));
    assert_eq!(host.store().written(DISK).unwrap(), []);
    let got = put(&[("x-ms-content-crc64", &good)]).await;
    assert_eq!((got.status, got.header("x-ms-content-crc64")), (201, good.as_str()));
    assert_eq!(put(&[]).await.header("x-ms-content-crc64"), good, "computed where none was sent");
    let got = put(&[("content-md5", &md5(&SECTOR))]).await;
    assert_eq!((got.status, got.header("content-md5")), (201, md5(&SECTOR).as_str()));
}

#[tokio::test]
async fn a_sas_is_signed_for_one_blob() {
    let host = Host::new();
    host.store().create(OTHER, CONTENT, true).unwrap();
    let other = host.store().grant(OTHER, Access::Write, hours(&host.clock, 1), Uuid::new_v4());
    let status = async |url: &str| {
        let got = host.send("HEAD", url, "", &[], &[]).await;
        (got.status, got.header("x-ms-error-code").to_owned())
    };
    let (path, query) = host.write.split_once('?').unwrap();
    let (other_path, other_query) = other.split_once('?').unwrap();
    assert_eq!(status(&host.write).await.0, 200);
    let refused = (403, "AuthenticationFailed".to_owned());
    let (before, signature) = host.write.split_once("&sig=").unwrap();
    let flipped = format!("{before}&sig={}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    let (signed, signature) = query.split_once("&sig=").unwrap();
    for url in [
        path.to_owned(),
        before.to_owned(),
        flipped,
        format!("{path}?{other_query}"),
        format!("{other_path}?{query}"),
        format!("{}?{query}", path.replace("/abcd", "/abce")),
        format!("{}?{query}", path.replace("/abcd", "")),
        format!("{path}/abcd?{query}"),
        format!("{path}?{query}&sp=rwdl"),
        format!("{path}?{query}&se=2099-01-01T00:00:00Z"),
        format!("{path}?{}&sig={signature}", signed.replace("sr=b", "sr=c")),
        format!("{path}?{}&sig={signature}", signed.replace("2018-03-28", "2021-12-02")),
        format!("{path}?{}&sig={signature}", signed.replace("&si=", "&si=0")),
        format!("{path}?{signed}&sig="),
        format!("{path}?{signed}&sig=%00"),
    ] {
        assert_eq!(status(&url).await, refused, "{url}");
    }
    let got = host.send("GET", path, "?", &[], &[]).await;
    assert!(got.text().contains("<Code>AuthenticationFailed</Code>"), "{}", got.text());
    assert!(got.header("x-ms-request-id").len() == 36 && got.header("content-type") == "application/xml");
    assert_eq!(host.store().turned_away()["AuthenticationFailed"], 16);
}

#[tokio::test]
async fn a_sas_ends() {
    let host = Host::new();
    assert_eq!(host.put(0, &SECTOR, &[]).await.status, 201);
    let second = host.store().grant(DISK, Access::Write, hours(&host.clock, 48), Uuid::new_v4());
    host.clock.advance(Duration::from_secs(24 * 3600 - 1));
    assert_eq!(host.put(512, &SECTOR, &[]).await.status, 201);
    host.clock.advance(Duration::from_secs(1));
    let got = host.put(1024, &SECTOR, &[]).await;
    assert_eq!(got.error(), (403, "AuthenticationFailed"));
    assert!(got.text().contains("Signed expiry time [Fri, 02 Jan 2026 00:00:00 GMT]"), "{}", got.text());
    assert_eq!(host.get(&second, 0, 512).await.status, 206, "each has its own end");
    assert_eq!(host.store().expire(Some(DISK)), 1);
    assert_eq!(host.get(&second, 0, 512).await.status, 403);
    let third = host.store().grant(DISK, Access::Write, hours(&host.clock, 1), Uuid::new_v4());
    assert_eq!(host.get(&third, 0, 512).await.status, 206);
    host.store().revoke(DISK);
    let got = host.get(&third, 0, 512).await;
    assert_eq!(got.error(), (403, "AuthenticationFailed"));
    assert!(got.text().contains("SAS identifier cannot be found for specified signed identifier"));
    let fourth = host.reader(DISK);
    host.store().delete(DISK);
    assert_eq!(host.get(&fourth, 0, 512).await.status, 403);
    host.store().create(DISK, CONTENT, true).unwrap();
    assert_eq!(host.get(&fourth, 0, 512).await.status, 403, "a new disk of the name is another");
    assert_eq!(host.bytes(0, 512), [0; 512]);
}

#[tokio::test]
async fn reading_does_not_write() {
    let host = Host::new();
    let reader = host.reader(DISK);
    let headers = [("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-511")];
    let got = host.send("PUT", &reader, "&comp=page", &headers, &SECTOR).await;
    assert_eq!(got.error(), (403, "AuthorizationPermissionMismatch"));
    let clear = [("x-ms-page-write", "clear"), ("x-ms-range", "bytes=0-511")];
    assert_eq!(host.send("PUT", &reader, "&comp=page", &clear, &[]).await.status, 403);
    assert_eq!(host.store().written(DISK).unwrap(), []);
    // Whether writing reads is not documented.
    assert_eq!(host.get(&host.write, 0, 512).await.status, 206);
    host.set(|switches| switches.read_by_write_sas = false);
    assert_eq!(host.get(&host.write, 0, 512).await.error(), (403, "AuthorizationPermissionMismatch"));
    assert_eq!(host.send("GET", &host.write, "&comp=pagelist", &[], &[]).await.status, 403);
    assert_eq!(host.send("HEAD", &host.write, "", &[], &[]).await.status, 200);
    assert_eq!(host.put(0, &SECTOR, &[]).await.status, 201);
    // A write grant for what is no upload writes nothing.
    host.store().copy(DISK, OTHER, CONTENT).unwrap();
    let grant = host.store().grant(OTHER, Access::Write, hours(&host.clock, 1), Uuid::new_v4());
    let got = host.send("PUT", &grant, "&comp=page", &headers, &SECTOR).await;
    assert_eq!(got.error(), (403, "AuthorizationPermissionMismatch"));
}

#[tokio::test]
async fn a_disk_knows_few_operations() {
    let host = Host::new();
    host.put(0, &SECTOR, &[]).await;
    const COPY: &[(&str, &str)] = &[("x-ms-copy-source", "https://disks.sandbox:8446/c/abcd")];
    let cases: [Case; 17] = [
        ("PUT", "", &[("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", "1048576")]),
        ("PUT", "", &[("x-ms-blob-type", "BlockBlob")]),
        ("PUT", "", COPY),
        ("PUT", "&comp=metadata", &[("x-ms-meta-a", "b")]),
        ("GET", "&comp=metadata", &[]),
        ("PUT", "&comp=lease", &[("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "60")]),
        ("PUT", "&comp=lease", &[("x-ms-lease-action", "break"), ("x-ms-lease-id", "l")]),
        ("PUT", "&comp=snapshot", &[]),
        ("PUT", "&comp=incrementalcopy", COPY),
        ("PUT", "&comp=properties", &[("x-ms-blob-content-length", "1048576")]),
        ("PUT", "&comp=properties", &[("x-ms-sequence-number-action", "max"), ("x-ms-blob-sequence-number", "3")]),
        ("PUT", "&comp=tier", &[("x-ms-access-tier", "P10")]),
        ("PUT", "&comp=tags", &[]),
        ("PUT", "&comp=block&blockid=AAAA", &[]),
        ("PUT", "&comp=appendblock", &[]),
        ("DELETE", "", &[]),
        ("POST", "&comp=query", &[]),
    ];
    for (method, query, headers) in cases {
        let got = host.send(method, &host.write, query, headers, &[]).await;
        assert_eq!(got.error(), (403, "AuthorizationPermissionMismatch"), "{method} {query} {headers:?}");
    }
    for query in ["&restype=container&comp=list", "&restype=container", "&restype=container&comp=acl"] {
        assert_eq!(host.send("GET", &host.write, query, &[], &[]).await.status, 403, "{query}");
    }
    for query in ["&snapshot=2026-01-01T00:00:00.0000000Z", "&comp=pagelist&prevsnapshot=2026-01-01T00:00:00.0000000Z", "&versionid=1"] {
        assert_eq!(host.send("GET", &host.write, query, &[], &[]).await.error(), (400, "InvalidQueryParameterValue"), "{query}");
    }
    let diff = [("x-ms-previous-snapshot-url", "https://h/c/b")];
    assert_eq!(host.send("GET", &host.write, "&comp=pagelist", &diff, &[]).await.error(), (400, "InvalidHeaderValue"));
    assert_eq!(host.bytes(0, 512), SECTOR);
    assert_eq!(host.store().written(DISK).unwrap(), [(0, 512)]);
    let described = host.store().describe();
    let counts = &described[0]["counts"];
    assert_eq!(counts["operations"]["PutBlob"]["requests"], 2, "refused ones are counted by their names");
    assert_eq!(counts["operations"]["LeaseBlob"]["requests"], 2);
    assert_eq!(counts["errors"]["AuthorizationPermissionMismatch"], 20);
    assert_eq!(counts["landed"], 1);
}

#[tokio::test]
async fn versions_and_time_outs_have_a_form() {
    let host = Host::new();
    let head = async |query: &str, headers: &[(&str, &str)]| host.send("HEAD", &host.write, query, headers, &[]).await;
    for version in ["2021-12-02", "2026-04-06", "2018-03-28"] {
        let got = head("", &[("x-ms-version", version)]).await;
        assert_eq!((got.status, got.header("x-ms-version")), (200, version));
    }
    assert_eq!(head("", &[]).await.header("x-ms-version"), "2018-03-28", "the SAS's own where none is sent");
    for version in ["2021-12-03", "2030-01-01", "latest", ""] {
        assert_eq!(head("", &[("x-ms-version", version)]).await.error(), (400, "InvalidHeaderValue"), "{version}");
    }
    host.set(|switches| switches.newest_version = "2021-12-02".to_owned());
    assert_eq!(head("", &[("x-ms-version", "2021-12-02")]).await.status, 200);
    assert_eq!(head("", &[("x-ms-version", "2026-04-06")]).await.error(), (400, "InvalidHeaderValue"));
    for timeout in ["0", "-1", "x", "1.5"] {
        assert_eq!(head(&format!("&timeout={timeout}"), &[]).await.error(), (400, "InvalidQueryParameterValue"), "{timeout}");
    }
    assert_eq!(head("&timeout=10", &[("x-ms-client-request-id", "mine")]).await.header("x-ms-client-request-id"), "mine");
}

#[tokio::test]
async fn reads_stay_inside_and_are_small() {
    let host = Host::new();
    host.put(1024, &SECTOR, &[]).await;
    let got = host.get(&host.write, 1000, 100).await;
    assert_eq!((got.status, got.header("content-range")), (206, "bytes 1000-1099/6291968"));
    assert_eq!(got.body, [vec![0; 24], vec![0xa5; 76]].concat());
    assert_eq!(host.get(&host.write, CONTENT + 512, 1).await.error(), (416, "InvalidRange"));
    assert_eq!(host.get(&host.write, CONTENT + 500, 4096).await.body.len(), 12, "cut to the end");
    assert_eq!(host.get(&host.write, 0, 4 * MIB).await.body.len(), 4 << 20);
    assert_eq!(host.get(&host.write, 0, 4 * MIB + 1).await.error(), (416, "InvalidRange"));
    assert_eq!(host.send("GET", &host.write, "", &[], &[]).await.error(), (416, "InvalidRange"), "the whole disk");
    assert_eq!(host.send("GET", &host.write, "", &[("range", "bytes=6291456-")], &[]).await.body.len(), 512);
    host.set(|switches| switches.largest_read = 64 * MIB);
    let whole = host.send("GET", &host.write, "", &[], &[]).await;
    assert_eq!((whole.status, whole.body.len()), (200, 6_291_968));
    let range = ("x-ms-range", "bytes=1024-1535");
    let crc = host.send("GET", &host.write, "", &[range, ("x-ms-range-get-content-crc64", "true")], &[]).await;
    assert_eq!(crc.header("x-ms-content-crc64"), crc64(&SECTOR));
    let sum = host.send("GET", &host.write, "", &[range, ("x-ms-range-get-content-md5", "true")], &[]).await;
    assert_eq!(sum.header("content-md5"), md5(&SECTOR));
    let wide = [("x-ms-range", "bytes=0-4194304"), ("x-ms-range-get-content-md5", "true")];
    assert_eq!(host.send("GET", &host.write, "", &wide, &[]).await.status, 400);
    let head = host.send("HEAD", &host.write, "", &[], &[]).await;
    assert_eq!((head.status, head.header("content-length"), head.header("x-ms-blob-type")), (200, "6291968", "PageBlob"));
    assert_eq!(head.header("last-modified"), "Thu, 01 Jan 2026 00:00:00 GMT");
}

#[tokio::test]
async fn page_ranges_are_exact() {
    let host = Host::new();
    for at in [0, 512, 4096, 1 << 20] {
        host.put(at, &SECTOR, &[]).await;
    }
    host.put(8192, &[0; 1024], &[]).await;
    host.clear(8192, 512).await;
    let ranges =
        async |query: &str, headers: &[(&str, &str)]| host.send("GET", &host.write, &format!("&comp=pagelist{query}"), headers, &[]).await;
    let list = |ranges: &[(u64, u64)], rest: &str| {
        let ranges: String =
            ranges.iter().map(|(from, to)| format!("<PageRange><Start>{from}</Start><End>{to}</End></PageRange>")).collect();
        format!("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>{ranges}{rest}</PageList>")
    };
    let got = ranges("", &[]).await;
    let all = [(0, 1023), (4096, 4607), (8704, 9215), (1_048_576, 1_049_087)];
    assert_eq!(got.text(), list(&all, "<NextMarker />"), "written zeroes are pages, cleared ones are none");
    assert_eq!(got.header("x-ms-blob-content-length"), "6291968");
    let cut = ranges("", &[("x-ms-range", "bytes=600-4200")]).await;
    assert_eq!(cut.text(), list(&[(512, 1023), (4096, 4607)], "<NextMarker />"));
    let page = ranges("&maxresults=3", &[]).await;
    assert_eq!(page.text(), list(&all[..3], "<NextMarker>1048576</NextMarker>"));
    let page = ranges("&maxresults=3&marker=1048576", &[]).await;
    assert_eq!(page.text(), list(&all[3..], "<NextMarker />"));
    assert_eq!(ranges("&maxresults=0", &[]).await.error(), (400, "InvalidQueryParameterValue"));
    assert_eq!(ranges("&marker=x", &[]).await.error(), (400, "InvalidQueryParameterValue"));
    assert_eq!(ranges("", &[("x-ms-range", "bytes=6291968-")]).await.error(), (416, "InvalidRange"));
}
