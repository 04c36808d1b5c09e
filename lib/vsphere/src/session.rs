//! The client: one session at a vCenter, renewed whenever it is gone.
//!
//! A wrong password is tried **once**. vCenter locks accounts out after a few, and an operator that tries again every few seconds does that
//! within a minute. So a refusal is a state ([`LoginState::Refused`]): every call fails at once with it, until somebody says that it may be
//! tried again ([`Client::allow_login`]) or that there is another password ([`Client::set_credentials`]).

use std::{
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use blocklog::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Mutex, OwnedMutexGuard};
use zeroize::Zeroizing;

use crate::{
    breaker::Breaker,
    envelope,
    error::{Error, WireError},
    methods::service::ServiceContent,
    moref::MoRef,
    secret::Secret,
    tls::{Thumbprint, Trust},
    transport::{Https, Request, Wire},
    version::{ApiVersion, negotiate},
    write::Writer,
    xml::Element,
};

/// How long an ordinary call may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Who we are at a vCenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user: `hawser@vsphere.local`.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// vCenter does not let us in. It is not tried again until somebody says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The user that was refused.
    pub user: String,
    /// The type of the fault: `InvalidLogin`, or `NoPermission` for a user without any role.
    pub kind: String,
    /// When.
    pub at: Timestamp,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind.as_str() {
            "NoPermission" => write!(f, "vCenter lets the user {} not log in: it has no role there. Give it one", self.user),
            "InvalidLogin" => write!(
                f,
                "vCenter refuses the user {} or its password. Correct the Secret; it is not tried again before, to not lock the account",
                self.user
            ),
            kind => write!(f, "vCenter refuses the user {} ({kind}). Look at the account, or correct the Secret", self.user),
        }
    }
}

impl std::error::Error for Refusal {}

/// Where the client stands with its vCenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginState {
    /// No session; the next call makes one.
    LoggedOut,
    /// A session, as far as we know.
    LoggedIn {
        /// The user as vCenter calls it.
        user: String,
    },
    /// Refused: no call is made.
    Refused(Refusal),
}

/// A password that was refused is tried again after this, though nobody has written another: an account may have been unlocked.
pub const RETRY_LOGIN: SignedDuration = SignedDuration::from_mins(5);

impl LoginState {
    /// True where a login was refused so long ago that the same words may be tried once more ([`Client::allow_login`]).
    #[must_use]
    pub fn may_be_tried_again(&self, now: Timestamp) -> bool {
        matches!(self, Self::Refused(refusal) if now.duration_since(refusal.at) >= RETRY_LOGIN)
    }
}

/// A session at a vCenter. What lives in it (filters, views, pages) dies with it.
#[derive(Debug)]
pub struct Session {
    cookie: Secret,
    /// Its key at vCenter.
    pub key: String,
    /// The user as vCenter calls it.
    pub user: String,
    /// Counts the sessions of this client.
    pub number: u64,
}

/// What a vCenter is: the same in every session.
#[derive(Debug, Clone)]
pub struct Service {
    /// The version of the API that is spoken.
    pub version: ApiVersion,
    /// Its managers, and what it says about itself.
    pub content: ServiceContent,
}

/// A call: a method on an object.
pub struct Call {
    pub(crate) method: &'static str,
    pub(crate) body: Zeroizing<String>,
    pub(crate) patience: Duration,
}

impl Call {
    /// A call whose parameters `write` writes in the WSDL's order.
    #[must_use]
    pub fn new(method: &'static str, this: &MoRef, write: impl FnOnce(&mut Writer)) -> Self {
        Self { method, body: Writer::request(method, this, write), patience: PATIENCE }
    }

    /// With another time to wait for an answer.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The document that is sent.
    #[must_use]
    pub fn document(&self) -> &str {
        &self.body
    }
}

enum Login {
    Out,
    In(Arc<Session>),
    Refused(Refusal),
}

struct State {
    credentials: Credentials,
    service: Option<Arc<Service>>,
    login: Login,
    /// [`Clock::monotonic`] of the last login that these words were good for.
    proved: Option<Duration>,
}

struct Inner {
    wire: Box<dyn Wire>,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
    /// What `state` says of the login, for those who must not wait for a call that is under way.
    shown: std::sync::Mutex<LoginState>,
    logins: AtomicU64,
}

/// A client of one vCenter. Clones share the session.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client(..)")
    }
}

impl Client {
    /// A client of the vCenter at `url`. Nothing is sent before the first call.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn new(url: &str, trust: &Trust, credentials: Credentials, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Ok(Self::over(Box::new(Https::new(url, trust)?), credentials, clock))
    }

    /// A client over another wire.
    #[must_use]
    pub fn over(wire: Box<dyn Wire>, credentials: Credentials, clock: Arc<dyn Clock>) -> Self {
        let state = Arc::new(Mutex::new(State { credentials, service: None, login: Login::Out, proved: None }));
        let shown = std::sync::Mutex::new(LoginState::LoggedOut);
        let wire = Box::new(Breaker::new(wire, clock.clone()));
        Self { inner: Arc::new(Inner { wire, clock, state, shown, logins: AtomicU64::new(0) }) }
    }

    /// The clock that it was given.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// How often it has logged in.
    #[must_use]
    pub fn logins(&self) -> u64 {
        self.inner.logins.load(Ordering::Relaxed)
    }

    /// The SHA-1 thumbprint of the server's certificate, once it has shown one: VDDK asks for it.
    #[must_use]
    pub fn server_thumbprint(&self) -> Option<Thumbprint> {
        self.inner.wire.thumbprint()
    }

    /// Where it stands with its vCenter. Asks nobody.
    #[must_use]
    pub fn login_state(&self) -> LoginState {
        self.inner.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets it try the same password once more, where it was refused.
    pub async fn allow_login(&self) {
        let mut state = self.inner.state.lock().await;
        if matches!(state.login, Login::Refused(_)) {
            self.inner.set(&mut state, Login::Out);
        }
    }

    /// Takes note that another way to the same vCenter, with these words, was refused: VDDK logs in by itself. Others by now are none the worse for it.
    pub async fn was_refused(&self, credentials: &Credentials, kind: &str) {
        let mut state = self.inner.state.lock().await;
        if state.credentials != *credentials {
            return;
        }
        let refusal = Refusal { user: state.credentials.user.clone(), kind: kind.to_owned(), at: self.inner.clock.now() };
        let old = self.inner.set(&mut state, Login::Refused(refusal));
        drop(state);
        if let Login::In(session) = old {
            self.end(&session).await;
        }
    }

    /// Makes sure that vCenter still takes our words, and gives them: where none of our logins within `fresh` has shown it, by another login, which is
    /// ended at once. For those who log in by another way (VDDK): that asks more than once, does not say that it was the password, and several may be
    /// at it, so that a password changed in vCenter would lock the account. A session outlives its password, and shows nothing.
    ///
    /// # Errors
    /// As of any call. Where it is refused, it is so for every call from now on.
    pub async fn prove(&self, fresh: Duration) -> Result<Credentials, Error> {
        let mut state = self.inner.state.clone().lock_owned().await;
        let service = self.inner.service(&mut state).await?;
        let credentials = state.credentials.clone();
        // In a task of its own, as any login.
        let proof = match &state.login {
            Login::Refused(refusal) => return Err(refusal.clone().into()),
            Login::In(_) if state.proved.is_some_and(|at| self.inner.clock.monotonic().saturating_sub(at) < fresh) => {
                return Ok(credentials);
            }
            Login::In(session) => tokio::spawn(self.inner.clone().proof(session.clone(), state, service)),
            Login::Out => {
                let login = self.inner.clone().login(state, service);
                tokio::spawn(async move { login.await.map(drop) })
            }
        };
        proof.await.map_err(|error| Error::Config(format!("the login was cut off: {error}")))??;
        Ok(credentials)
    }

    /// Uses these from now on. The same ones change nothing: a refusal stays one.
    pub async fn set_credentials(&self, credentials: Credentials) {
        let mut state = self.inner.state.lock().await;
        if state.credentials != credentials {
            (state.credentials, state.proved) = (credentials, None);
            let old = self.inner.set(&mut state, Login::Out);
            drop(state);
            if let Login::In(session) = old {
                self.end(&session).await;
            }
        }
    }

    /// What the vCenter is. Asked once.
    ///
    /// # Errors
    /// As of any call. Needs no session.
    pub async fn service(&self) -> Result<Arc<Service>, Error> {
        let mut state = self.inner.state.lock().await;
        self.inner.service(&mut state).await
    }

    /// The session, made if there is none.
    ///
    /// # Errors
    /// As of any call.
    pub async fn session(&self) -> Result<(Arc<Service>, Arc<Session>), Error> {
        let mut state = self.inner.state.clone().lock_owned().await;
        let service = self.inner.service(&mut state).await?;
        match &state.login {
            Login::In(session) => return Ok((service, session.clone())),
            Login::Refused(refusal) => return Err(refusal.clone().into()),
            Login::Out => {}
        }
        // In a task of its own: a caller that gives up in between must not have tried a password and forgotten the answer.
        let inner = self.inner.clone();
        let (for_login, login) = (service.clone(), tokio::spawn(inner.login(state, service)));
        let session = login.await.map_err(|error| Error::Config(format!("the login was cut off: {error}")))??;
        Ok((for_login, session))
    }

    /// Makes a call. Where the session is gone, it logs in once and calls again.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn call(&self, call: &Call) -> Result<Element, Error> {
        let (service, session) = self.session().await?;
        match self.call_in(&service, &session, call).await {
            Err(error) if error.is("NotAuthenticated") => {
                let (service, session) = self.session().await?;
                self.call_in(&service, &session, call).await
            }
            result => result,
        }
    }

    /// Makes a call in that session and no other: for what lives in it.
    ///
    /// # Errors
    /// [`Error`]; the fault `NotAuthenticated` where the session is gone, which is then forgotten.
    pub async fn call_in(&self, service: &Service, session: &Session, call: &Call) -> Result<Element, Error> {
        let result = self.inner.send(&service.version, Some(session.cookie.clone()), call).await.map(|(element, _)| element);
        if result.as_ref().is_err_and(|error| error.is("NotAuthenticated")) {
            self.forget(session.number).await;
        }
        result
    }

    /// Ends the session, if there is one. vCenter has room for a limited number of them.
    pub async fn logout(&self) {
        let old = {
            let mut state = self.inner.state.lock().await;
            match &state.login {
                Login::In(session) => {
                    let session = session.clone();
                    self.inner.set(&mut state, Login::Out);
                    Some(session)
                }
                Login::Out | Login::Refused(_) => None,
            }
        };
        if let Some(session) = old {
            self.end(&session).await;
        }
    }

    async fn end(&self, session: &Session) {
        let service = { self.inner.state.lock().await.service.clone() };
        if let Some(service) = service {
            self.inner.end(&service, session).await;
        }
    }

    /// Forgets a session that vCenter does not know any more, unless another has taken its place.
    async fn forget(&self, number: u64) {
        let mut state = self.inner.state.lock().await;
        if matches!(&state.login, Login::In(session) if session.number == number) {
            self.inner.set(&mut state, Login::Out);
        }
    }
}

impl Inner {
    /// The one place where the login changes; what it was before.
    fn set(&self, state: &mut State, login: Login) -> Login {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = match &login {
            Login::Out => LoginState::LoggedOut,
            Login::In(session) => LoginState::LoggedIn { user: session.user.clone() },
            Login::Refused(refusal) => LoginState::Refused(refusal.clone()),
        };
        std::mem::replace(&mut state.login, login)
    }

    async fn send(&self, version: &ApiVersion, cookie: Option<Secret>, call: &Call) -> Result<(Element, Option<Secret>), Error> {
        let request = Request { action: Some(version.action()), cookie, body: call.body.clone(), patience: call.patience };
        let reply = self.wire.send(request).await?;
        Ok((envelope::open(call.method, &reply.body)?, reply.cookie))
    }

    async fn service(&self, state: &mut State) -> Result<Arc<Service>, Error> {
        if let Some(service) = &state.service {
            return Ok(service.clone());
        }
        let list = Request { action: None, cookie: None, body: Zeroizing::new(String::new()), patience: PATIENCE };
        let version = match self.wire.send(list).await {
            Ok(reply) => negotiate(&reply.body)?,
            // A gateway in front may not let it through; the oldest version is spoken by all.
            Err(WireError::Status { status: 403 | 404, .. }) => ApiVersion::oldest(),
            Err(error) => return Err(error.into()),
        };
        let (answer, _) = self.send(&version, None, &crate::methods::service::retrieve_service_content()).await?;
        let service = Arc::new(Service { version, content: ServiceContent::read(&answer)? });
        state.service = Some(service.clone());
        Ok(service)
    }

    /// Makes the session.
    async fn login(self: Arc<Self>, mut state: OwnedMutexGuard<State>, service: Arc<Service>) -> Result<Arc<Session>, Error> {
        let session = Arc::new(self.enter(&mut state, &service).await?);
        self.set(&mut state, Login::In(session.clone()));
        Ok(session)
    }

    /// Makes a session beside the one that there is, and ends it. Where that is refused, the one that there is has no future.
    async fn proof(self: Arc<Self>, standing: Arc<Session>, mut state: OwnedMutexGuard<State>, service: Arc<Service>) -> Result<(), Error> {
        let entered = self.enter(&mut state, &service).await;
        let refused = matches!(state.login, Login::Refused(_));
        drop(state);
        match &entered {
            Ok(session) => self.end(&service, session).await,
            Err(_) if refused => self.end(&service, &standing).await,
            Err(_) => {}
        }
        entered.map(drop)
    }

    /// Logs in. A refusal is noted; what else comes of it is the caller's.
    async fn enter(&self, state: &mut State, service: &Service) -> Result<Session, Error> {
        let manager = service.content.session_manager.clone();
        let manager = manager.ok_or_else(|| Error::answer("RetrieveServiceContent", "it has no session manager"))?;
        let call = crate::methods::service::login(&manager, &state.credentials);
        let answer = self.send(&service.version, None, &call).await;
        let (answer, cookie) = match answer {
            Ok(answer) => answer,
            Err(Error::Fault { fault, .. }) if refuses(&fault.kind) => {
                let refusal = Refusal { user: state.credentials.user.clone(), kind: fault.kind, at: self.clock.now() };
                self.set(state, Login::Refused(refusal.clone()));
                return Err(refusal.into());
            }
            Err(error) => return Err(error),
        };
        state.proved = Some(self.clock.monotonic());
        let cookie = cookie.ok_or_else(|| Error::answer("Login", "it sets no session's cookie"))?;
        let value = answer.child("returnval");
        let text = |name| value.and_then(|value| value.text_of(name)).unwrap_or_default().to_owned();
        let number = self.logins.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Session { cookie, key: text("key"), user: text("userName"), number })
    }

    async fn end(&self, service: &Service, session: &Session) {
        if let Some(manager) = &service.content.session_manager {
            let call = crate::methods::service::logout(manager);
            // One that can't be ended runs out by itself.
            if let Err(error) = self.send(&service.version, Some(session.cookie.clone()), &call).await {
                tracing::debug!(%error, "logging out");
            }
        }
    }
}

/// The answers to a login that another try with the same words would only get again, and that count against the account.
fn refuses(kind: &str) -> bool {
    matches!(kind, "InvalidLogin" | "NoPermission" | "PasswordExpired" | "NotSupported" | "InvalidArgument")
}
