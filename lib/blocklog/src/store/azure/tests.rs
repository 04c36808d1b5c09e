use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use azure_core::{credentials::Secret, hmac::hmac_sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use uuid::Uuid;

use reasons::Reason;

use super::*;
use crate::{
    clock::{Clock, SystemClock},
    store::conformance::Subject,
    test_support::Azurite,
};

/// The shortest lease that the service gives.
const LEASE_OF_TESTS: i32 = 15;

fn config(container: &str, prefix: &str, auth: Auth) -> AzureStoreConfig {
    AzureStoreConfig { account: Azurite::shared().account_url(), container: container.to_owned(), prefix: prefix.to_owned(), auth }
}

async fn subject() -> Subject {
    let azurite = Azurite::shared();
    let container = azurite.create_container().await;
    let open = || {
        let mut store = AzureStore::open(&config(&container, "some/prefix", azurite.auth())).unwrap();
        store.lease = LEASE_OF_TESTS;
        // Every listing goes over several pages.
        store.page = Some(2);
        Arc::new(store)
    };
    #[allow(clippy::disallowed_methods, reason = "Azurite's clock is the real one")]
    let pass = |length| Box::pin(tokio::time::sleep(length)) as _;
    let lease = Duration::from_secs(LEASE_OF_TESTS as u64);
    Subject { store: open(), other: open(), lease, pass: Box::new(pass), _keep: Box::new(()) }
}

crate::store::conformance::conformance!(subject);

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn id() -> LeaseId {
    LeaseId(Uuid::new_v4())
}

/// An account's SAS, made as the portal does: every permission of the blob service, for an hour of the year 2125.
fn account_sas(key: &str) -> Secret {
    let (permissions, expiry, version) = ("rwdlac", "2125-01-01T00:00:00Z", "2021-06-08");
    let account = Azurite::shared().account();
    let signed = format!("{account}\n{permissions}\nb\nco\n\n{expiry}\n\nhttps,http\n{version}\n\n");
    let signature = hmac_sha256(&signed, &Secret::new(key.to_owned())).unwrap();
    let mut url = azure_core::http::Url::parse("http://any").unwrap();
    url.query_pairs_mut().extend_pairs([
        ("sp", permissions),
        ("ss", "b"),
        ("srt", "co"),
        ("se", expiry),
        ("spr", "https,http"),
        ("sv", version),
        ("sig", &signature),
    ]);
    Secret::new(format!("?{}", url.query().unwrap()))
}

#[tokio::test]
async fn a_prefix_is_a_store_of_its_own() {
    let azurite = Azurite::shared();
    let container = azurite.create_container().await;
    let [root, one, two] = ["", "one", "one/two/"].map(|prefix| AzureStore::open(&config(&container, prefix, azurite.auth())).unwrap());
    for store in [&root, &one, &two] {
        store.put("a", text(""), When::Absent, None).await.unwrap();
    }
    let names = async |store: &AzureStore| store.list("").await.unwrap().into_iter().map(|listed| listed.name).collect::<Vec<_>>();
    assert_eq!(names(&root).await, ["a", "one/a", "one/two/a"]);
    assert_eq!(names(&one).await, ["a", "two/a"]);
    assert_eq!(names(&two).await, ["a"]);
    assert!(AzureStore::open(&config(&container, "a//b", azurite.auth())).is_err());
}

#[tokio::test]
async fn a_sas_opens_the_store() {
    let azurite = Azurite::shared();
    let container = azurite.create_container().await;
    let store = AzureStore::open(&config(&container, "", Auth::Sas(account_sas(azurite.key())))).unwrap();
    let etag = store.put("v1/a", text("first"), When::Absent, None).await.unwrap();
    store.put("v1/a", text("second"), When::Matches(etag), None).await.unwrap();
    store.stage("v1/b", 0, vec![text("part")]).await.unwrap();
    store.commit("v1/b", 1).await.unwrap();
    assert_eq!(store.list("v1/").await.unwrap().len(), 2);
    let lease = id();
    store.acquire("v1/a", lease).await.unwrap();
    store.renew("v1/a", lease).await.unwrap();
    store.release("v1/a", lease).await.unwrap();
    assert_eq!(store.delete("v1/a", None).await, Ok(true));
}

#[tokio::test]
async fn a_wrong_key_is_denied_and_told_without_secrets() {
    let azurite = Azurite::shared();
    let container = azurite.create_container().await;
    let wrong = "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkgd3Jvbmcga2V5";
    let key = Auth::SharedKey { account: azurite.account().to_owned(), key: Secret::new(wrong) };
    for auth in [key, Auth::Sas(account_sas(wrong)), Auth::Url] {
        let store = AzureStore::open(&config(&container, "", auth)).unwrap();
        let error = store.get("v1/a").await.unwrap_err();
        let StoreError::Denied(said) = &error else { panic!("{error:?}") };
        assert!(said.contains(&container), "{said}");
        for secret in ["sig=", wrong, "SharedKey"] {
            assert!(!said.contains(secret) && !format!("{store:?}").contains(secret), "{said}");
        }
        assert!(matches!(store.put("v1/a", text("x"), When::Absent, None).await, Err(StoreError::Denied(_))));
    }
}

#[tokio::test]
async fn a_container_that_is_not_there_is_told_as_missing() {
    let azurite = Azurite::shared();
    let store = AzureStore::open(&config("no-such-container", "", azurite.auth())).unwrap();
    for result in [
        store.get("a").await.map(drop),
        store.get_range("a", 0..1).await.map(drop),
        store.get_range("a", 0..0).await.map(drop),
        store.put("a", text("x"), When::Always, None).await.map(drop),
        store.put("a", text("x"), When::Absent, Some(id())).await.map(drop),
        store.stage("a", 0, vec![text("x")]).await,
        store.commit("a", 1).await,
        store.delete("a", None).await.map(drop),
        store.list("").await.map(drop),
        store.acquire("a", id()).await,
        store.renew("a", id()).await,
        store.break_lease("a").await,
    ] {
        assert!(matches!(&result, Err(StoreError::ContainerMissing(said)) if said.contains("no-such-container")), "{result:?}");
    }
}

/// Both bounds at once, as they cost real time.
#[tokio::test]
async fn a_service_that_does_not_answer_is_known_soon() {
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = |address| {
        let account = AccountUrl::parse(&format!("http://{address}/account")).unwrap();
        AzureStore::open(&AzureStoreConfig { account, container: "log".to_owned(), prefix: String::new(), auth: Auth::Url }).unwrap()
    };
    let (refused, unheard) = (store(refusing), store(silent.local_addr().unwrap()));
    let clock = SystemClock::new();
    let timed = async |result: Result<(), StoreError>| (result, clock.monotonic().as_secs());
    let results = tokio::join!(
        async { timed(refused.put("a", text("x"), When::Always, None).await.map(drop)).await },
        async { timed(refused.stage("a", 0, vec![text("x")]).await).await },
        async { timed(refused.acquire("a", id()).await).await },
        async { timed(unheard.acquire("a", id()).await).await },
        async { timed(unheard.list("").await.map(drop)).await },
        async { timed(refused.renew("a", id()).await).await },
        async { timed(unheard.renew("a", id()).await).await },
    );
    let (put, stage, acquire, unheard_acquire, list, renew, unheard_renew) = results;
    for (result, seconds) in [put, stage, acquire, unheard_acquire, list] {
        assert!(matches!(&result, Err(StoreError::Unreachable(_))), "{result:?}");
        assert!((10..=22).contains(&seconds), "{result:?} after {seconds} s");
    }
    for (result, seconds) in [renew, unheard_renew] {
        assert!(matches!(&result, Err(StoreError::Unreachable(_))), "{result:?}");
        assert!(seconds <= 10, "{result:?} after {seconds} s");
    }
}

/// A service that gives the answers that `answer` makes of a request's head and number, one for each connection.
async fn fake(answer: impl Fn(&str, u32) -> String + Send + Sync + 'static) -> (AzureStore, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let account = AccountUrl::parse(&format!("http://{}/account", listener.local_addr().unwrap())).unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).await.unwrap() > 0 {}
            let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).await.unwrap();
            let answer = answer(&head, count.fetch_add(1, Ordering::SeqCst));
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let config = AzureStoreConfig { account, container: "log".to_owned(), prefix: String::new(), auth: Auth::Url };
    (AzureStore::open(&config).unwrap(), asked)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n{body}")
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    let broken = "content-length: 10\r\ncontent-range: bytes 0-9/10\r\netag: \"e\"\r\n";
    let (store, asked) = fake(move |_, number| {
        let body = if number < 2 { "01234" } else { "0123456789" };
        answer("206 Partial Content", broken, body)
    })
    .await;
    assert_eq!(store.get_range("a", 0..10).await.unwrap(), "0123456789");
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    let (store, asked) = fake(move |_, _| answer("206 Partial Content", broken, "01234")).await;
    let result = store.get("a").await;
    assert!(matches!(result, Err(StoreError::Unreachable(_))), "{result:?}");
    assert_eq!(asked.load(Ordering::SeqCst), READS);
}

#[tokio::test]
async fn an_answer_of_the_wrong_length_is_refused() {
    for headers in ["content-length: 4\r\ncontent-range: bytes 0-3/10\r\netag: \"e\"\r\n", "content-length: 4\r\netag: \"e\"\r\n"] {
        let (store, _) = fake(move |_, _| answer("206 Partial Content", headers, "0123")).await;
        let result = store.get_range("a", 0..10).await;
        assert!(matches!(result, Err(StoreError::Failed(_))), "{result:?}");
    }
    // Less than the whole blob is not the blob.
    let (store, _) = fake(|_, _| answer("206 Partial Content", "content-length: 4\r\ncontent-range: bytes 0-3/4\r\n", "0123")).await;
    assert!(matches!(store.get("a").await, Err(StoreError::Failed(said)) if said.contains("ETag")));
}

#[tokio::test]
async fn a_busy_service_is_asked_again() {
    let (store, asked) = fake(|_, number| match number {
        0 => answer("503 Server Busy", "content-length: 0\r\nx-ms-error-code: ServerBusy\r\n", ""),
        1 => answer("500 Internal Server Error", "content-length: 0\r\n", ""),
        _ => answer("201 Created", "content-length: 0\r\netag: \"e\"\r\n", ""),
    })
    .await;
    assert_eq!(store.put("a", text("x"), When::Always, None).await, Ok(ETag("\"e\"".to_owned())));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_part_carries_its_checksum() {
    let (store, _) = fake(|head, _| {
        // CRC-64/NVME of "123456789" is ae8b14860a799888, by the catalogue of parametrised CRCs; its bytes from the last to the first.
        let expected = "x-ms-content-crc64: iJh5CoYUi64=\r\n";
        let status = if head.contains(expected) && head.contains("content-length: 9\r\n") { "201 Created" } else { "400 Bad Request" };
        answer(status, "content-length: 0\r\n", "")
    })
    .await;
    store.stage("a", 0, vec![text("1234"), text(""), text("56789")]).await.unwrap();
}

#[tokio::test]
async fn every_code_has_its_place() {
    let store = AzureStore::open(&config("log", "", Auth::Url)).unwrap();
    let refusal = |status: u16, code: &str| {
        let kind = match status {
            401 | 403 => FailureKind::Denied,
            500.. => FailureKind::Unreachable,
            _ => FailureKind::Refused,
        };
        store.refusal("a", Failure { kind, status: Some(status), code: code.to_owned(), text: format!("HTTP {status} {code}") }).reason()
    };
    for (status, code, reason) in [
        (404, "BlobNotFound", Reason::BlobNotFound),
        (404, "ContainerNotFound", Reason::ContainerMissing),
        (409, "ContainerBeingDeleted", Reason::ContainerMissing),
        // A 404 of whoever stands between us and the service does not mean that there is no blob.
        (404, "", Reason::LogStoreFailed),
        (409, "BlobAlreadyExists", Reason::BlobExists),
        (412, "ConditionNotMet", Reason::BlobChanged),
        (412, "LeaseIdMissing", Reason::BlobLeased),
        (409, "LeaseAlreadyPresent", Reason::BlobLeased),
        (409, "LeaseIsBreakingAndCannotBeAcquired", Reason::BlobLeased),
        (412, "LeaseIdMismatchWithBlobOperation", Reason::LeaseLost),
        (409, "LeaseIdMismatchWithLeaseOperation", Reason::LeaseLost),
        (412, "LeaseLost", Reason::LeaseLost),
        (412, "LeaseNotPresentWithBlobOperation", Reason::LeaseLost),
        (409, "LeaseNotPresentWithLeaseOperation", Reason::LeaseLost),
        (409, "LeaseIsBrokenAndCannotBeRenewed", Reason::LeaseLost),
        (401, "NoAuthenticationInformation", Reason::LogStoreDenied),
        (403, "AuthorizationPermissionMismatch", Reason::LogStoreDenied),
        (503, "ServerBusy", Reason::LogStoreUnreachable),
        (507, "", Reason::LogStoreFull),
        (400, "InvalidBlockList", Reason::LogStoreFailed),
        (416, "InvalidRange", Reason::LogStoreFailed),
    ] {
        assert_eq!(refusal(status, code), reason, "{status} {code}");
    }
}

#[tokio::test]
async fn a_token_is_not_sent_in_the_clear() {
    #[derive(Debug)]
    struct Never;
    #[async_trait]
    impl azure_core::credentials::TokenCredential for Never {
        async fn get_token(
            &self,
            _: &[&str],
            _: Option<azure_core::credentials::TokenRequestOptions<'_>>,
        ) -> azure_core::Result<azure_core::credentials::AccessToken> {
            panic!("nobody may ask for it");
        }
    }
    let result = AzureStore::open(&config("log", "", Auth::Token(Arc::new(Never))));
    assert!(matches!(&result, Err(ConfigError::Url { why, .. }) if why.contains("https")), "{result:?}");
}
