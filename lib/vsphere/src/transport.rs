//! Requests on the wire.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use zeroize::Zeroizing;

use crate::{
    error::{Error, WireError},
    secret::Secret,
    tls::{self, Seen, Thumbprint, Trust},
};

/// What a page of an inventory, or an update of it, stays below by far.
const MAX_ANSWER: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(10);

/// A request of the API.
#[derive(Debug)]
pub struct Request {
    /// The header `SOAPAction`; without one it is a plain GET of the list of versions.
    pub action: Option<String>,
    /// The session's cookie.
    pub cookie: Option<Secret>,
    /// The document.
    pub body: Zeroizing<String>,
    /// How long to wait for the whole of the answer.
    pub patience: Duration,
}

/// An answer of HTTP: 200 or 500 (SOAP's faults), all else is a [`WireError::Status`].
#[derive(Debug)]
pub struct Reply {
    /// The cookie of a session, if it sets one.
    pub cookie: Option<Secret>,
    /// The document.
    pub body: String,
}

/// Who carries requests to a vCenter.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Carries one there and its answer back.
    async fn send(&self, request: Request) -> Result<Reply, WireError>;

    /// The SHA-1 thumbprint of the certificate that the server showed, for VDDK, which asks to be told it.
    fn thumbprint(&self) -> Option<Thumbprint> {
        None
    }
}

/// HTTPS.
pub struct Https {
    client: reqwest::Client,
    url: reqwest::Url,
    host: String,
    limit: usize,
    seen: Seen,
}

impl Https {
    /// To the vCenter at `url`: `https://vcenter.example.com`, with or without `/sdk`.
    ///
    /// # Errors
    /// [`Error::Config`] where url or trust make no sense.
    pub fn new(url: &str, trust: &Trust) -> Result<Self, Error> {
        // What may hold a password is not shown.
        let shown = if url.contains('@') { "this" } else { url };
        let wrong = |why: &str| {
            Error::Config(format!("{shown:?} is no address of a vCenter: {why}; it has to be like https://vcenter.example.com"))
        };
        let mut parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        if parsed.scheme() != "https" {
            return Err(wrong("it does not begin with https://"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(Error::Config("the address of a vCenter must not hold a user or a password: they belong into the Secret".into()));
        }
        let host = parsed.host_str().ok_or_else(|| wrong("it names no host"))?;
        let host = parsed.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        match parsed.path().trim_end_matches('/') {
            "" | "/sdk" => parsed.set_path("/sdk"),
            _ => return Err(wrong("it has a path other than /sdk")),
        }
        parsed.set_query(None);
        parsed.set_fragment(None);
        let seen = Seen::default();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(trust, seen.clone())?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("hawser/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Config(format!("HTTP can't be set up: {error}")))?;
        Ok(Self { client, url: parsed, host, limit: MAX_ANSWER, seen })
    }

    /// The same, with another limit on the size of an answer.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    fn failed(&self, error: &reqwest::Error, patience: Duration) -> WireError {
        let host = self.host.clone();
        if let Some(rejected) = self.seen.rejected()
            && error.is_connect()
        {
            return WireError::Certificate { host, why: rejected.why, shown: Some(rejected.shown) };
        }
        if error.is_timeout() {
            return WireError::TimedOut { host, after: if error.is_connect() { CONNECT.min(patience) } else { patience } };
        }
        let why = root(error);
        if error.is_connect() { WireError::Connect { host, why } } else { WireError::Broken { host, why } }
    }

    async fn body(&self, mut response: reqwest::Response, patience: Duration) -> Result<String, WireError> {
        let too_large = || WireError::TooLarge { host: self.host.clone(), limit: self.limit };
        if response.content_length().is_some_and(|length| length > self.limit as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(&error, patience))? {
            if body.len() + chunk.len() > self.limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        String::from_utf8(body).map_err(|_| WireError::Broken { host: self.host.clone(), why: "it is not UTF-8".into() })
    }
}

#[async_trait]
impl Wire for Https {
    async fn send(&self, request: Request) -> Result<Reply, WireError> {
        let Request { action, cookie, body, patience } = request;
        let builder = match action {
            Some(action) => {
                let body = Bytes::from_owner(Wiped(body));
                let post = self.client.post(self.url.clone());
                post.header("Content-Type", "text/xml; charset=\"utf-8\"").header("SOAPAction", action).body(body)
            }
            None => {
                let mut url = self.url.clone();
                url.set_path("/sdk/vimServiceVersions.xml");
                self.client.get(url)
            }
        };
        let builder = match &cookie {
            Some(cookie) => {
                let mut value = reqwest::header::HeaderValue::from_str(&format!("vmware_soap_session={}", cookie.reveal()))
                    .map_err(|_| WireError::Broken { host: self.host.clone(), why: "its cookie can't be sent back".into() })?;
                value.set_sensitive(true);
                builder.header("Cookie", value)
            }
            None => builder,
        };
        let response = builder.timeout(patience).send().await.map_err(|error| self.failed(&error, patience))?;
        let status = response.status().as_u16();
        let cookie = response.headers().get_all("set-cookie").iter().filter_map(|value| session_cookie(value.to_str().ok()?)).next_back();
        let body = match status {
            200 => self.body(response, patience).await?,
            500 => {
                let body = self.body(response, patience).await?;
                // A fault is a document; the 500 of a proxy in between is not.
                if !body.contains("Envelope") {
                    return Err(WireError::Status { host: self.host.clone(), status });
                }
                body
            }
            status => return Err(WireError::Status { host: self.host.clone(), status }),
        };
        Ok(Reply { cookie, body })
    }

    fn thumbprint(&self) -> Option<Thumbprint> {
        self.seen.sha1()
    }
}

/// The value of the session's cookie as the server wrote it: vCenter puts it in quotes, and wants them back.
fn session_cookie(header: &str) -> Option<Secret> {
    let (name, value) = header.split(';').next()?.split_once('=')?;
    (name.trim() == "vmware_soap_session" && !value.trim().is_empty()).then(|| Secret::new(value.trim()))
}

/// The innermost cause: what the machine says, without the layers in between.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

struct Wiped(Zeroizing<String>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["https://vc.example.com", "https://vc.example.com/", "https://vc.example.com/sdk", "https://10.0.0.1:8443/sdk/"] {
            assert_eq!(Https::new(good, &Trust::Insecure).unwrap().url.path(), "/sdk", "{good}");
        }
        for (bad, why) in [
            ("vc.example.com", "no address"),
            ("http://vc.example.com", "https://"),
            ("https://vc.example.com/ui", "path"),
            ("https://root:secret@vc.example.com", "Secret"),
        ] {
            let error = Https::new(bad, &Trust::Insecure).err().unwrap().to_string();
            assert!(error.contains(why) && !error.contains("root:secret"), "{error}");
        }
    }

    #[test]
    fn the_cookie_keeps_its_quotes() {
        let value = |header| session_cookie(header).map(|cookie| cookie.reveal().to_owned());
        assert_eq!(value("vmware_soap_session=\"52ab\"; Path=/; HttpOnly; Secure;").as_deref(), Some("\"52ab\""));
        assert_eq!(value("vmware_soap_session=52ab; Path=/").as_deref(), Some("52ab"));
        assert_eq!(value("other=1"), None);
        assert_eq!(value(""), None);
        assert_eq!(format!("{:?}", session_cookie("vmware_soap_session=52ab")), "Some(Secret(..))");
    }
}
