//! What the log store and the page blobs of `replica` share of Azure's blob service: where an account is, how requests are signed, how
//! long they are tried, and what an error says.
//!
//! The SDK (`azure_storage_blob`) knows Entra ID tokens and URLs that carry a shared access signature. [`Auth::SharedKey`] adds the account
//! key, for development and for Azurite, which takes tokens over TLS only.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use azure_core::{
    credentials::{Secret, TokenCredential},
    error::ErrorKind,
    hmac::hmac_sha256,
    http::{
        ClientOptions, Context, ExponentialRetryOptions, Request, RetryOptions, Transport, Url,
        headers::{AUTHORIZATION, HeaderName, Headers},
        policies::{Policy, PolicyResult},
    },
    time::{OffsetDateTime, to_rfc7231},
};

use crate::{constant, turnstile::TurnedAway};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a request may go without a byte of its answer. It counts from the first byte that is sent, so it also has to hold the upload of
/// 4 MiB: at less than 70 kB/s no block gets through.
const SILENCE: Duration = Duration::from_secs(60);

/// After this long [`Retry::Normal`] starts no further attempt.
const TRYING: azure_core::time::Duration = azure_core::time::Duration::seconds(15);

/// The same for [`Retry::Brief`].
const BRIEFLY: azure_core::time::Duration = azure_core::time::Duration::seconds(2);

/// How requests prove who sends them.
#[derive(Clone)]
pub enum Auth {
    /// The URL says it all: it carries a shared access signature, as those of managed disks do.
    Url,
    /// A shared access signature, the query part of its URL with or without the `?`. [`AccountUrl::container`] puts it into the URL.
    Sas(Secret),
    /// The account's key, in base64 as the portal shows it. It can do everything in the account: for development and tests.
    SharedKey {
        /// The account's name, which is part of what is signed: [`AccountUrl::account`].
        account: String,
        /// The key.
        key: Secret,
    },
    /// Entra ID. The SDK refuses it on plain `http`.
    Token(Arc<dyn TokenCredential>),
}

impl Auth {
    /// What the constructors of the SDK's clients take beside the URL.
    #[must_use]
    pub fn credential(&self) -> Option<Arc<dyn TokenCredential>> {
        match self {
            Self::Token(credential) => Some(Arc::clone(credential)),
            Self::Url | Self::Sas(_) | Self::SharedKey { .. } => None,
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "Url",
            Self::Sas(_) => "Sas",
            Self::SharedKey { .. } => "SharedKey",
            Self::Token(_) => "Token",
        })
    }
}

/// Whether the SDK sends a request again that went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Connection errors and the statuses 408, 429, 500, 502, 503 and 504 are tried again, with back-off and as the service asks; no
    /// attempt starts later than 15 s after the first one failed. Only for requests that are safe to repeat.
    Normal,
    /// As `Normal`, for 2 s: whoever asks only whether the service answers is to know soon that it does not.
    Brief,
    /// Each call is one request.
    None,
}

/// Why no client can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not a URL of a blob account.
    #[error("{url:?} is not the URL of a blob account: {why}")]
    Url {
        /// What was given, without its query.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The account key is not base64.
    #[error("the account key is not base64")]
    Key,
    /// TLS or the proxy settings of this process are broken.
    #[error("no HTTP client: {0}")]
    Client(String),
}

/// The URL of a blob account: `https://<account>.blob.core.windows.net`, or with the account in the path where the host cannot carry it, as
/// with Azurite: `http://127.0.0.1:10000/devstoreaccount1`.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountUrl {
    url: Url,
    account: String,
}

impl AccountUrl {
    /// Takes the URL apart. A query (a shared access signature) stays with it.
    ///
    /// # Errors
    /// [`ConfigError::Url`] where the scheme is neither `https` nor `http`, or the account cannot be told.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let refuse = |why: &str| {
            let url = text.split('?').next().unwrap_or_default().to_owned();
            ConfigError::Url { url, why: why.to_owned() }
        };
        let url = Url::parse(text.trim()).map_err(|error| refuse(&error.to_string()))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(refuse("the scheme must be https"));
        }
        let path: Vec<&str> = url.path_segments().into_iter().flatten().filter(|part| !part.is_empty()).collect();
        let label = url.domain().and_then(|host| host.split_once('.')).map(|(label, _)| label);
        let account = match (path.as_slice(), label) {
            ([], Some(label)) => label,
            ([account], _) => account,
            ([], None) => return Err(refuse("neither host nor path name the account")),
            _ => return Err(refuse("the path must be empty, or the account's name")),
        };
        Ok(Self { account: account.to_owned(), url: url.clone() })
    }

    /// The account's name.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Whether what is sent there is encrypted on its way.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The URL of a container, with the signature of [`Auth::Sas`] in its query: a secret then, which must not be logged.
    #[must_use]
    pub fn container(&self, container: &str, auth: &Auth) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            // `http` and `https` URLs always have a path.
            path.pop_if_empty().push(container);
        }
        if let Auth::Sas(sas) = auth {
            url.set_query(Some(sas.secret().trim().trim_start_matches('?')));
        }
        url
    }

    /// The URL of a blob, whose name's parts become the path's. With the signature of [`Auth::Sas`], as [`AccountUrl::container`].
    #[must_use]
    pub fn blob(&self, container: &str, name: &str, auth: &Auth) -> Url {
        let mut url = self.container(container, auth);
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(name.split('/'));
        }
        url
    }
}

/// Without the query: it can be a signature.
impl fmt::Display for AccountUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        write!(f, "{url}")
    }
}

impl fmt::Debug for AccountUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountUrl({self})")
    }
}

/// The options of a client (`client_options` in each of the SDK's own): transport, retries, and the signature where it is the account's
/// key. Every call makes a connection pool of its own: share the client, or clone the options.
///
/// # Errors
/// [`ConfigError::Key`], [`ConfigError::Client`].
pub fn client_options(auth: &Auth, retry: Retry) -> Result<ClientOptions, ConfigError> {
    let retry = match retry {
        Retry::Normal | Retry::Brief => RetryOptions::exponential(ExponentialRetryOptions {
            max_total_elapsed: if retry == Retry::Brief { BRIEFLY } else { TRYING },
            max_delay: azure_core::time::Duration::seconds(4),
            ..ExponentialRetryOptions::default()
        }),
        Retry::None => RetryOptions::none(),
    };
    let mut options = ClientOptions { retry, transport: Some(transport()?), ..ClientOptions::default() };
    if let Auth::SharedKey { account, key } = auth {
        options.per_try_policies.push(Arc::new(SharedKey::new(account, key.clone())?));
    }
    Ok(options)
}

/// The SDK's own transport but for its time-out of 20 s for connections, which would let an unreachable service pass for a slow one.
fn transport() -> Result<Transport, ConfigError> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .redirect(reqwest::redirect::Policy::none())
        // Ranges are ranges of the bytes as they are stored.
        .no_gzip()
        .no_deflate()
        .no_brotli()
        .no_zstd()
        .build()
        .map_err(|error| ConfigError::Client(text_of(&error)))?;
    Ok(Transport::new(Arc::new(client)))
}

/// Signs each request with the account's key, as "Authorize with Shared Key" of the Blob service's REST reference has it. It belongs into
/// `per_try_policies`, so that nothing changes the request after it and a repeated one gets a new date.
#[derive(Debug)]
pub struct SharedKey {
    account: String,
    key: Secret,
}

impl SharedKey {
    /// A policy that signs with the account's `key` (base64).
    ///
    /// # Errors
    /// [`ConfigError::Key`] where it is not base64.
    pub fn new(account: &str, key: Secret) -> Result<Self, ConfigError> {
        hmac_sha256("", &key).map_err(|_| ConfigError::Key)?;
        Ok(Self { account: account.to_owned(), key })
    }

    fn text_to_sign(&self, request: &Request) -> String {
        let mut headers: Vec<(String, &str)> =
            request.headers().iter().map(|(name, value)| (name.as_str().to_ascii_lowercase(), value.as_str().trim())).collect();
        headers.sort();
        let header = |name: &str| headers.iter().find(|(held, _)| held == name).map_or("", |(_, value)| *value);

        let length = match request.body().len() {
            Some(0) | None => String::new(),
            Some(length) => length.to_string(),
        };
        let mut text = format!("{}\n", request.method());
        let before = [header("content-encoding"), header("content-language"), &length, header("content-md5"), header("content-type")];
        // The date's line is empty: `x-ms-date` counts.
        let after = ["if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"].map(header);
        for line in before.into_iter().chain([""]).chain(after) {
            text.push_str(line);
            text.push('\n');
        }
        for (name, value) in headers.iter().filter(|(name, _)| name.starts_with("x-ms-")) {
            text.push_str(&format!("{name}:{value}\n"));
        }
        text.push_str(&format!("/{}{}", self.account, request.url().path()));
        let mut query: Vec<(String, String)> =
            request.url().query_pairs().map(|(name, value)| (name.to_lowercase(), value.into_owned())).collect();
        query.sort();
        for pairs in query.chunk_by(|one, next| one.0 == next.0) {
            let values: Vec<&str> = pairs.iter().map(|(_, value)| value.as_str()).collect();
            text.push_str(&format!("\n{}:{}", pairs[0].0, values.join(",")));
        }
        text
    }
}

#[async_trait]
impl Policy for SharedKey {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        request.insert_header(HeaderName::from_static("x-ms-date"), to_rfc7231(&OffsetDateTime::now_utc()));
        let signature = hmac_sha256(&self.text_to_sign(request), &self.key)?;
        request.insert_header(AUTHORIZATION, format!("SharedKey {}:{signature}", self.account));
        match next {
            [first, rest @ ..] => first.send(ctx, request, rest).await,
            [] => Err(azure_core::Error::with_message(ErrorKind::Other, "no transport after the signature")),
        }
    }
}

/// What an error of the SDK comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// No answer, or none that counts: no connection, a broken one, 408, 429, 5xx. The request may have been carried out.
    Unreachable,
    /// 401, 403, or no token to be had for this identity.
    Denied,
    /// Any other status: look at [`Failure::code`].
    Refused,
    /// The answer made no sense, or the request could not be built.
    Other,
}

/// An error of the SDK, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What it comes down to.
    pub kind: FailureKind,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// The storage error code (`x-ms-error-code`), such as `ConditionNotMet`; empty where there was none.
    pub code: String,
    /// A sentence for people. URLs are left out of it, because a URL can carry a signature.
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Takes an error of the SDK apart.
#[must_use]
pub fn classify(error: &azure_core::Error) -> Failure {
    match error.kind() {
        ErrorKind::HttpResponse { status, raw_response, .. } => match raw_response {
            Some(raw) => answered(u16::from(*status), raw.headers()),
            None => answered(u16::from(*status), &Headers::new()),
        },
        ErrorKind::Connection | ErrorKind::Io => silent(FailureKind::Unreachable, error),
        ErrorKind::Credential => silent(token_kind(error), error),
        ErrorKind::DataConversion | ErrorKind::Other => turned_away(error).unwrap_or_else(|| silent(FailureKind::Other, error)),
    }
}

/// What an answer that is no success says. Whoever operates the service asks for the request's id: it is in the log, and not in the text, which
/// would be another one each time.
pub(crate) fn answered(status: u16, headers: &Headers) -> Failure {
    let kind = match status {
        401 | 403 => FailureKind::Denied,
        408 | 429 | 500.. => FailureKind::Unreachable,
        200..=299 => FailureKind::Other,
        _ => FailureKind::Refused,
    };
    let header = |name| headers.get_optional_string(&HeaderName::from_static(name));
    let code = header("x-ms-error-code").unwrap_or_default();
    // What the service's support asks for stands in the log where it is likely to be asked; how many these are the turnstile bounds.
    match kind {
        FailureKind::Unreachable | FailureKind::Denied => {
            tracing::info!(status, code, request = header("x-ms-request-id"), at = header("date"), "the blob service refuses or fails");
        }
        FailureKind::Refused => {
            tracing::debug!(status, code, request = header("x-ms-request-id"), at = header("date"), "the blob service refuses")
        }
        FailureKind::Other => {}
    }
    let text = if code.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status} {code}") };
    Failure { kind, status: Some(status), code, text }
}

/// What the request met that stood for this one.
fn turned_away(error: &azure_core::Error) -> Option<Failure> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(TurnedAway(failure)) = error.downcast_ref() {
            return Some(failure.clone());
        }
        cause = error.source();
    }
    None
}

fn silent(kind: FailureKind, error: &azure_core::Error) -> Failure {
    Failure { kind, status: None, code: String::new(), text: text_of(error) }
}

/// A token that cannot be had because its service does not answer says nothing about the identity.
#[must_use]
pub fn token_kind(error: &azure_core::Error) -> FailureKind {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<azure_core::Error>().map(azure_core::Error::kind) {
            Some(ErrorKind::Connection | ErrorKind::Io) => return FailureKind::Unreachable,
            Some(ErrorKind::HttpResponse { status, .. }) if matches!(u16::from(*status), 408 | 429 | 500..) => {
                return FailureKind::Unreachable;
            }
            _ => cause = error.source(),
        }
    }
    FailureKind::Denied
}

/// The error and its causes, outermost first, without any URL.
fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = match error.downcast_ref::<reqwest::Error>() {
            // Its own text has the URL in it.
            Some(error) if error.is_timeout() => "timed out".to_owned(),
            Some(error) if error.is_connect() => "no connection".to_owned(),
            Some(_) => "the request broke off".to_owned(),
            None => error.to_string(),
        };
        if !text.is_empty() && texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = error.source();
    }
    constant::noted("Azure", &without_urls(&texts.join(": ")))
}

fn without_urls(text: &str) -> String {
    let word = |word: &str| if word.contains("://") || word.contains("sig=") { "<url>".to_owned() } else { word.to_owned() };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use azure_core::http::{Method, RawResponse, StatusCode};

    use super::*;

    #[test]
    fn the_account_is_told_from_host_or_path() {
        for (text, account, container, blob) in [
            (
                "https://acct.blob.core.windows.net",
                "acct",
                "https://acct.blob.core.windows.net/c",
                "https://acct.blob.core.windows.net/c/x/y",
            ),
            (
                "https://acct.blob.core.windows.net/",
                "acct",
                "https://acct.blob.core.windows.net/c",
                "https://acct.blob.core.windows.net/c/x/y",
            ),
            ("http://127.0.0.1:10000/dev", "dev", "http://127.0.0.1:10000/dev/c", "http://127.0.0.1:10000/dev/c/x/y"),
            (
                " http://azurite.test.svc:10000/dev/ ",
                "dev",
                "http://azurite.test.svc:10000/dev/c",
                "http://azurite.test.svc:10000/dev/c/x/y",
            ),
            ("http://localhost:1/dev", "dev", "http://localhost:1/dev/c", "http://localhost:1/dev/c/x/y"),
        ] {
            let url = AccountUrl::parse(text).unwrap();
            assert_eq!(url.account(), account, "{text}");
            assert_eq!(url.container("c", &Auth::Url).as_str(), container);
            assert_eq!(url.blob("c", "x/y", &Auth::Url).as_str(), blob);
            assert_eq!(url.encrypted(), text.trim().starts_with("https"));
        }
        for text in
            ["", "acct", "ftp://acct.blob.core.windows.net", "http://127.0.0.1:1", "http://localhost", "https://a.b/c/d", "https://"]
        {
            assert!(matches!(AccountUrl::parse(text), Err(ConfigError::Url { .. })), "{text}");
        }
    }

    #[test]
    fn a_signature_is_in_the_url_and_not_in_texts() {
        for sas in ["?sv=1&sig=a%2Bb", "sv=1&sig=a%2Bb", " sv=1&sig=a%2Bb\n"] {
            let auth = Auth::Sas(Secret::new(sas));
            let url = AccountUrl::parse("https://acct.blob.core.windows.net").unwrap();
            assert_eq!(url.container("c", &auth).as_str(), "https://acct.blob.core.windows.net/c?sv=1&sig=a%2Bb");
            assert_eq!(url.blob("c", "x/y", &auth).as_str(), "https://acct.blob.core.windows.net/c/x/y?sv=1&sig=a%2Bb");
            assert!(!format!("{auth:?}").contains("sig"));
        }
        let url = AccountUrl::parse("https://acct.blob.core.windows.net?sv=1&sig=secret").unwrap();
        assert_eq!(url.container("c", &Auth::Url).as_str(), "https://acct.blob.core.windows.net/c?sv=1&sig=secret");
        assert_eq!(format!("{url} {url:?}").matches("secret").count(), 0);
        let error = AccountUrl::parse("nonsense?sig=secret").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    /// The example of "Authorize with Shared Key".
    #[test]
    fn what_is_signed_is_what_the_reference_says() {
        let policy = SharedKey::new("myaccount", Secret::new("a2V5")).unwrap();
        let url = Url::parse("https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20").unwrap();
        let mut request = Request::new(url, Method::Get);
        request.insert_header("x-ms-version", "2015-02-21");
        request.insert_header("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT");
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
                        /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        assert_eq!(policy.text_to_sign(&request), expected);
        assert_eq!(SharedKey::new("myaccount", Secret::new("not base64!")).unwrap_err(), ConfigError::Key);
    }

    fn http(status: StatusCode, headers: &[(&'static str, &'static str)]) -> azure_core::Error {
        let mut map = Headers::new();
        for &(name, value) in headers {
            map.insert(name, value);
        }
        let raw_response = Some(Box::new(RawResponse::from_bytes(status, map, "the body says too much")));
        let kind = ErrorKind::HttpResponse { status, error_code: None, raw_response };
        azure_core::Error::with_message(kind, "and so does this: https://acct/c?sig=secret")
    }

    #[test]
    fn errors_are_taken_apart() {
        let failure =
            classify(&http(StatusCode::PreconditionFailed, &[("x-ms-error-code", "ConditionNotMet"), ("x-ms-request-id", "r-1")]));
        let text = "HTTP 412 ConditionNotMet".to_owned();
        assert_eq!(failure, Failure { kind: FailureKind::Refused, status: Some(412), code: "ConditionNotMet".to_owned(), text });
        for (status, kind) in [
            (StatusCode::Unauthorized, FailureKind::Denied),
            (StatusCode::Forbidden, FailureKind::Denied),
            (StatusCode::NotFound, FailureKind::Refused),
            (StatusCode::RequestTimeout, FailureKind::Unreachable),
            (StatusCode::TooManyRequests, FailureKind::Unreachable),
            (StatusCode::InternalServerError, FailureKind::Unreachable),
            (StatusCode::ServiceUnavailable, FailureKind::Unreachable),
        ] {
            let failure = classify(&http(status, &[]));
            assert_eq!((failure.kind, failure.code.as_str()), (kind, ""), "{status}");
            assert_eq!(failure.text, format!("HTTP {}", u16::from(status)));
        }
        for (kind, expected) in [
            (ErrorKind::Connection, FailureKind::Unreachable),
            (ErrorKind::Io, FailureKind::Unreachable),
            (ErrorKind::DataConversion, FailureKind::Other),
            (ErrorKind::Credential, FailureKind::Denied),
        ] {
            let error = azure_core::Error::with_message(kind, "GET https://acct.net/c?sv=1&sig=secret failed");
            let failure = classify(&error);
            assert_eq!((failure.kind, failure.status, failure.text.as_str()), (expected, None, "GET <url> failed"));
        }
    }

    #[test]
    fn a_token_service_that_is_down_denies_nothing() {
        let token = |cause: azure_core::Error| classify(&azure_core::Error::with_error(ErrorKind::Credential, cause, "no token")).kind;
        assert_eq!(token(ErrorKind::Connection.into_error()), FailureKind::Unreachable);
        assert_eq!(token(http(StatusCode::ServiceUnavailable, &[])), FailureKind::Unreachable);
        assert_eq!(token(http(StatusCode::BadRequest, &[])), FailureKind::Denied);
    }

    #[tokio::test]
    async fn the_transports_errors_carry_no_url() {
        let error = reqwest::Client::new().get("http://127.0.0.1:1/c?sig=secret").send().await.unwrap_err();
        assert!(error.to_string().contains("secret"), "it is what has to be hidden");
        let failure = classify(&azure_core::Error::with_error(ErrorKind::Connection, error, "failed to execute"));
        assert_eq!(failure.kind, FailureKind::Unreachable);
        assert!(!failure.text.contains("secret") && failure.text.contains("refused"), "{}", failure.text);
    }
}
