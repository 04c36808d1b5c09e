use std::sync::atomic::{AtomicU32, Ordering};

use azure_core::{
    credentials::Secret,
    http::{RawResponse, StatusCode, headers::Headers},
};
use blocklog::{
    azure_blob::{FailureKind, token_kind},
    test_support::ManualClock,
};

use super::*;

/// Who issues tokens.
#[derive(Debug, Default)]
struct Issuer {
    asked: AtomicU32,
    /// The status of its refusals, and what it asks for beside; it issues where there is none.
    refuses: Mutex<Option<(u16, Option<&'static str>)>>,
    /// How long its tokens are good for.
    lasting: i64,
}

#[async_trait]
impl TokenCredential for Issuer {
    async fn get_token(&self, scopes: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let refuses = *self.refuses.lock().unwrap();
        let Some((status, alone)) = refuses else {
            let until = OffsetDateTime::now_utc() + azure_core::time::Duration::seconds(self.lasting);
            return Ok(AccessToken::new(Secret::new(format!("{scopes:?} {number}")), until));
        };
        let mut headers = Headers::new();
        if let Some(alone) = alone {
            headers.insert(RETRY_AFTER, alone);
        }
        let status = StatusCode::from(status);
        let raw = RawResponse::from_bytes(status, headers, "");
        let kind = ErrorKind::HttpResponse { status, error_code: None, raw_response: Some(Box::new(raw)) };
        let answer = azure_core::Error::with_message(kind, format!("AADSTS90033: transient. Trace ID: {number}"));
        Err(azure_core::Error::with_error(ErrorKind::Credential, answer, "no token"))
    }
}

struct Setting {
    issuer: Arc<Issuer>,
    clock: ManualClock,
    shared: Arc<SharedToken>,
}

fn setting(lasting: i64) -> Setting {
    let (issuer, clock) = (Arc::new(Issuer { lasting, ..Issuer::default() }), ManualClock::new());
    Setting { shared: SharedToken::new(issuer.clone(), Arc::new(clock.clone())), issuer, clock }
}

impl Setting {
    fn refuses(&self, how: Option<(u16, Option<&'static str>)>) {
        *self.issuer.refuses.lock().unwrap() = how;
    }

    fn asked(&self) -> u32 {
        self.issuer.asked.swap(0, Ordering::SeqCst)
    }

    /// Ten at once; true where they got one.
    async fn ten(&self, scope: &str) -> Vec<azure_core::Result<AccessToken>> {
        let scopes = [scope];
        futures::future::join_all((0..10).map(|_| self.shared.get_token(&scopes, None))).await
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn ten_who_want_a_token_share_one_request() {
    let setting = setting(3600);
    assert!(setting.ten("arm").await.iter().all(Result::is_ok));
    assert!(setting.ten("arm").await.iter().all(Result::is_ok));
    assert_eq!(setting.asked(), 1);
    assert!(setting.ten("storage").await.iter().all(Result::is_ok));
    assert_eq!(setting.asked(), 1, "a scope has a token of its own");
}

#[tokio::test]
async fn an_issuer_that_fails_is_asked_by_one_with_growing_waits() {
    for status in [400, 401, 429, 500, 503] {
        let setting = setting(3600);
        setting.refuses(Some((status, None)));
        for _ in 0..120 {
            // Of one issuer, whatever the token is for.
            for answer in [setting.ten("arm").await, setting.ten("storage").await].into_iter().flatten() {
                let expected = if status < 429 { FailureKind::Denied } else { FailureKind::Unreachable };
                assert_eq!(token_kind(&answer.unwrap_err()), expected, "what stands behind it is still seen");
            }
            setting.clock.advance(SECOND);
        }
        // At 0, 1, 3, 7, 15, 30 s, and so on.
        assert_eq!(setting.asked(), 10, "{status}");
        setting.refuses(None);
        setting.clock.advance(SECOND * 15);
        assert!(setting.ten("arm").await.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn an_issuer_is_left_alone_for_as_long_as_it_asks() {
    let setting = setting(3600);
    setting.refuses(Some((429, Some("40"))));
    setting.ten("arm").await;
    setting.clock.advance(SECOND * 39);
    setting.ten("arm").await;
    assert_eq!(setting.asked(), 1);
    setting.clock.advance(SECOND);
    setting.ten("arm").await;
    assert_eq!(setting.asked(), 1);
}

#[tokio::test]
async fn a_token_that_is_still_good_outlasts_an_issuer_that_fails() {
    let setting = setting(120);
    assert!(setting.ten("arm").await.iter().all(Result::is_ok));
    setting.refuses(Some((503, None)));
    assert!(setting.ten("arm").await.iter().all(Result::is_ok), "two minutes are left of it");
    assert!(setting.ten("storage").await.iter().all(Result::is_err), "there was never one");
}
