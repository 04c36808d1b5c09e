use std::sync::atomic::{AtomicU32, Ordering};

use azure_core::http::{StatusCode, Url};

use super::*;
use crate::test_support::ManualClock;

/// An account: what it answers, and how often it was asked.
#[derive(Debug)]
struct Account {
    answer: Mutex<(StatusCode, Vec<(&'static str, String)>)>,
    asked: AtomicU32,
}

#[async_trait]
impl Policy for Account {
    async fn send(&self, _: &Context, _: &mut Request, _: &[Arc<dyn Policy>]) -> PolicyResult {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let (status, more) = self.answer.lock().unwrap().clone();
        let mut headers = Headers::new();
        headers.insert("x-ms-request-id", format!("id-{number}"));
        more.into_iter().for_each(|(name, value)| headers.insert(name, value));
        Ok(AsyncRawResponse::from_bytes(status, headers, ""))
    }
}

impl Account {
    fn new() -> Arc<Self> {
        Arc::new(Self { answer: Mutex::new((StatusCode::Ok, Vec::new())), asked: AtomicU32::new(0) })
    }

    fn answers(&self, status: StatusCode, headers: &[(&'static str, &str)]) {
        *self.answer.lock().unwrap() = (status, headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect());
    }

    fn asked(&self) -> u32 {
        self.asked.swap(0, Ordering::SeqCst)
    }
}

async fn ask(turnstile: &Arc<Turnstile>, account: &Arc<Account>) -> Result<StatusCode, Failure> {
    let mut request = Request::new(Url::parse("http://account/c").unwrap(), Method::Get);
    let next: [Arc<dyn Policy>; 1] = [account.clone()];
    turnstile.send(&Context::new(), &mut request, &next).await.map(|answer| answer.status()).map_err(|error| classify(&error))
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn ten_who_ask_a_silent_account_are_one() {
    let (clock, account) = (ManualClock::new(), Account::new());
    let turnstile = Turnstile::new(Arc::new(clock.clone()), Silence::Told);
    account.answers(StatusCode::ServiceUnavailable, &[("x-ms-error-code", "ServerBusy")]);
    for second in 0..120 {
        for _ in 0..10 {
            if let Err(failure) = ask(&turnstile, &account).await {
                assert_eq!((failure.kind, failure.text.as_str()), (FailureKind::Unreachable, "HTTP 503 ServerBusy"), "at {second} s");
            }
        }
        clock.advance(SECOND);
    }
    // 3 until it is known; then after 1, 3, 7, 15 s, and each 10 s.
    assert_eq!(account.asked(), 3 + 14);
    account.answers(StatusCode::Ok, &[]);
    clock.advance(SECOND * 10);
    for _ in 0..10 {
        assert_eq!(ask(&turnstile, &account).await, Ok(StatusCode::Ok));
    }
    assert_eq!(account.asked(), 10);
}

#[tokio::test]
async fn who_bears_a_silence_waits_for_his_turn() {
    let (clock, account) = (ManualClock::new(), Account::new());
    clock.auto_advance(true);
    let turnstile = Turnstile::new(Arc::new(clock.clone()), Silence::Borne(SECOND * 5));
    account.answers(StatusCode::InternalServerError, &[]);
    for _ in 0..3 {
        assert_eq!(ask(&turnstile, &account).await, Ok(StatusCode::InternalServerError));
    }
    account.asked();
    assert_eq!(ask(&turnstile, &account).await, Ok(StatusCode::InternalServerError));
    assert_eq!((account.asked(), clock.monotonic()), (1, SECOND));
    assert_eq!(ask(&turnstile, &account).await, Ok(StatusCode::InternalServerError));
    assert_eq!(ask(&turnstile, &account).await, Ok(StatusCode::InternalServerError));
    assert_eq!((account.asked(), clock.monotonic()), (2, SECOND * 7));
    // The next turn is too far away: it is told at once.
    assert_eq!(ask(&turnstile, &account).await.unwrap_err().status, Some(500));
    assert_eq!((account.asked(), clock.monotonic()), (0, SECOND * 7));
}

#[tokio::test]
async fn an_account_is_left_alone_for_as_long_as_it_asks() {
    let (clock, account) = (ManualClock::new(), Account::new());
    let turnstile = Turnstile::new(Arc::new(clock.clone()), Silence::Told);
    account.answers(StatusCode::TooManyRequests, &[("retry-after", "8")]);
    assert_eq!(ask(&turnstile, &account).await, Ok(StatusCode::TooManyRequests));
    clock.advance(SECOND * 7);
    assert_eq!(ask(&turnstile, &account).await.unwrap_err().status, Some(429));
    clock.advance(SECOND);
    assert_eq!(ask(&turnstile, &account).await, Ok(StatusCode::TooManyRequests));
    assert_eq!(account.asked(), 2);
}

/// A lease lasts a minute, and its renewals pass here as well.
#[tokio::test]
async fn no_account_is_left_alone_until_leases_are_lost() {
    let (clock, account) = (ManualClock::new(), Account::new());
    let turnstile = Turnstile::new(Arc::new(clock.clone()), Silence::Told);
    account.answers(StatusCode::ServiceUnavailable, &[("retry-after", "300")]);
    assert_eq!(ask(&turnstile, &account).await, Ok(StatusCode::ServiceUnavailable));
    account.answers(StatusCode::Ok, &[]);
    clock.advance(LEFT_ALONE);
    assert_eq!(ask(&turnstile, &account).await, Ok(StatusCode::Ok));
}

#[tokio::test]
async fn a_clear_no_is_told_at_once_and_never_waited_for() {
    let (clock, account) = (ManualClock::new(), Account::new());
    clock.auto_advance(true);
    let turnstile = Turnstile::new(Arc::new(clock.clone()), Silence::Borne(SECOND * 15));
    account.answers(StatusCode::NotFound, &[("x-ms-error-code", "ContainerNotFound")]);
    for _ in 0..20 {
        let _ = ask(&turnstile, &account).await;
    }
    assert_eq!((account.asked(), clock.monotonic()), (3, Duration::ZERO));
}

#[tokio::test]
async fn a_no_about_one_blob_is_an_answer() {
    let (clock, account) = (ManualClock::new(), Account::new());
    let turnstile = Turnstile::new(Arc::new(clock), Silence::Told);
    for (status, code, others) in [
        (StatusCode::NotFound, "BlobNotFound", false),
        (StatusCode::Conflict, "LeaseAlreadyPresent", false),
        (StatusCode::PreconditionFailed, "ConditionNotMet", false),
        (StatusCode::NotFound, "ContainerNotFound", true),
        (StatusCode::Forbidden, "AuthorizationPermissionMismatch", true),
        (StatusCode::Unauthorized, "NoAuthenticationInformation", true),
    ] {
        account.answers(status, &[("x-ms-error-code", code)]);
        for _ in 0..10 {
            let _ = ask(&turnstile, &account).await;
        }
        assert_eq!(account.asked(), if others { 3 } else { 10 }, "{code}");
        *turnstile.breaker() = Breaker::new(FAILURES, WAITS);
    }
}
