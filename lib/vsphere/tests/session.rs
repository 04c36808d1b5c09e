//! The session: made once, renewed when it is gone, and a wrong password tried once.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use blocklog::{
    ids::{Owner, VmId},
    test_support::ManualClock,
};
use reasons::Reason;
use vsphere::{
    Client, Credentials, Error, LoginState, MoRef, Secret,
    error::WireError,
    snapshot::{
        Owning,
        control::{Control, Settings},
    },
    transport::{Reply, Request, Wire},
};

const VERSIONS: &str = r#"<namespaces version="1.0"><namespace><name>urn:vim25</name><version>8.0.3.0</version></namespace></namespaces>"#;

fn envelope(body: &str) -> String {
    format!(
        r#"<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"#
    )
}

fn fault(kind: &str) -> String {
    envelope(&format!(
        r#"<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring></faultstring><detail><{kind}Fault xmlns="urn:vim25" xsi:type="{kind}"/></detail></soapenv:Fault>"#
    ))
}

/// A vCenter with one user, whose sessions can be ended.
#[derive(Default)]
struct Server {
    password: Mutex<String>,
    valid: Mutex<Vec<String>>,
    logins: AtomicUsize,
    refusals: AtomicUsize,
    down: Mutex<bool>,
    forgets: Mutex<bool>,
    /// The VM is there, and the user may not see it any more; else it is gone.
    hidden: Mutex<bool>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Server>);

#[async_trait]
impl Wire for Fake {
    async fn send(&self, request: Request) -> Result<Reply, WireError> {
        tokio::task::yield_now().await;
        let server = &self.0;
        if *server.down.lock().unwrap() {
            return Err(WireError::Status { host: "vc".into(), status: 503 });
        }
        let Some(action) = request.action else { return Ok(Reply { cookie: None, body: VERSIONS.into() }) };
        assert_eq!(action, "\"urn:vim25/8.0.3.0\"");
        let body = request.body.as_str();
        let plain = |body: String| Ok(Reply { cookie: None, body });
        if body.contains("<RetrieveServiceContent ") {
            return plain(envelope(
                r#"<RetrieveServiceContentResponse xmlns="urn:vim25"><returnval><rootFolder type="Folder">group-d1</rootFolder><propertyCollector type="PropertyCollector">propertyCollector</propertyCollector><about><name>VMware vCenter Server</name><fullName>VMware vCenter Server 8.0.3</fullName><version>8.0.3</version><build>1</build><apiType>VirtualCenter</apiType><apiVersion>8.0.3.0</apiVersion><instanceUuid>dbed6e0c-bd88-4ef6-b594-21283e1c677f</instanceUuid></about><sessionManager type="SessionManager">SessionManager</sessionManager><searchIndex type="SearchIndex">SearchIndex</searchIndex></returnval></RetrieveServiceContentResponse>"#,
            ));
        }
        if body.contains("<Login ") {
            tokio::task::yield_now().await;
            if !body.contains(&format!("<password>{}</password>", server.password.lock().unwrap())) {
                server.refusals.fetch_add(1, Ordering::SeqCst);
                return plain(fault("InvalidLogin"));
            }
            let number = server.logins.fetch_add(1, Ordering::SeqCst) + 1;
            let cookie = format!("\"session-{number}\"");
            if !*server.forgets.lock().unwrap() {
                server.valid.lock().unwrap().push(cookie.clone());
            }
            let body = envelope(
                r#"<LoginResponse xmlns="urn:vim25"><returnval><key>52aa</key><userName>VSPHERE.LOCAL\hawser</userName></returnval></LoginResponse>"#,
            );
            return Ok(Reply { cookie: Some(Secret::new(cookie)), body });
        }
        let cookie = request.cookie.map(|cookie| cookie.reveal().to_owned()).unwrap_or_default();
        if !server.valid.lock().unwrap().contains(&cookie) {
            return plain(fault("NotAuthenticated"));
        }
        if body.contains("<Logout ") {
            server.valid.lock().unwrap().retain(|valid| *valid != cookie);
            return plain(envelope(r#"<LogoutResponse xmlns="urn:vim25"/>"#));
        }
        if body.contains("<FindByUuid ") {
            // What may not be seen is not found.
            return plain(envelope(r#"<FindByUuidResponse xmlns="urn:vim25"/>"#));
        }
        if body.contains("<RetrievePropertiesEx ") && *server.hidden.lock().unwrap() {
            return plain(envelope(
                r#"<RetrievePropertiesExResponse xmlns="urn:vim25"><returnval><objects><obj type="VirtualMachine">vm-7</obj><missingSet><path>name</path><fault><fault xsi:type="NoPermission"><object type="VirtualMachine">vm-7</object><privilegeId>System.Read</privilegeId></fault><localizedMessage>Permission to perform this operation was denied.</localizedMessage></fault></missingSet></objects></returnval></RetrievePropertiesExResponse>"#,
            ));
        }
        if body.contains("<RetrievePropertiesEx ") {
            return plain(fault("ManagedObjectNotFound"));
        }
        plain(envelope(r#"<CurrentTimeResponse xmlns="urn:vim25"><returnval>2026-01-02T03:04:05.678Z</returnval></CurrentTimeResponse>"#))
    }
}

fn client(password: &str) -> (Client, Fake) {
    let fake = Fake::default();
    *fake.0.password.lock().unwrap() = "right".into();
    let client = Client::over(Box::new(fake.clone()), credentials(password), Arc::new(ManualClock::new()));
    (client, fake)
}

fn credentials(password: &str) -> Credentials {
    Credentials { user: "hawser@vsphere.local".into(), password: Secret::new(password) }
}

#[tokio::test]
async fn a_lost_session_is_made_anew_once_for_all_who_miss_it() {
    let (client, fake) = client("right");
    client.current_time().await.unwrap();
    client.current_time().await.unwrap();
    assert_eq!(client.logins(), 1);
    fake.0.valid.lock().unwrap().clear();
    let calls = (0..20).map(|_| client.current_time());
    for result in futures::future::join_all(calls).await {
        assert_eq!(result.unwrap().to_string(), "2026-01-02T03:04:05.678Z");
    }
    assert_eq!(fake.0.logins.load(Ordering::SeqCst), 2);
    assert_eq!(client.login_state(), LoginState::LoggedIn { user: r"VSPHERE.LOCAL\hawser".into() });
    client.logout().await;
    assert!(fake.0.valid.lock().unwrap().is_empty());
    assert_eq!(client.login_state(), LoginState::LoggedOut);
}

#[tokio::test]
async fn a_server_that_forgets_every_session_is_not_asked_for_ever() {
    let (client, fake) = client("right");
    *fake.0.forgets.lock().unwrap() = true;
    assert!(client.current_time().await.unwrap_err().is("NotAuthenticated"));
    assert_eq!(fake.0.logins.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_until_somebody_says_so() {
    let (client, fake) = client("wrong");
    let refusals = || fake.0.refusals.load(Ordering::SeqCst);
    let calls = (0..20).map(|_| client.current_time());
    for result in futures::future::join_all(calls).await {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        assert!(!format!("{error} {error:?}").contains("wrong"));
    }
    assert_eq!(refusals(), 1);
    // The same words again are no news.
    client.set_credentials(credentials("wrong")).await;
    client.current_time().await.unwrap_err();
    assert_eq!(refusals(), 1);
    client.allow_login().await;
    client.current_time().await.unwrap_err();
    client.current_time().await.unwrap_err();
    assert_eq!(refusals(), 2);
    assert!(matches!(client.login_state(), LoginState::Refused(_)));
    client.set_credentials(credentials("right")).await;
    client.current_time().await.unwrap();
    assert_eq!((refusals(), client.logins()), (2, 1));
}

#[tokio::test]
async fn a_refusal_that_another_met_counts_as_ones_own() {
    let (client, fake) = client("right");
    client.current_time().await.unwrap();
    client.was_refused(&credentials("an older one"), "InvalidLogin").await;
    client.current_time().await.unwrap();
    client.was_refused(&credentials("right"), "InvalidLogin").await;
    assert!(matches!(client.current_time().await.unwrap_err(), Error::Refused(_)));
    client.set_credentials(credentials("right")).await;
    assert!(matches!(client.login_state(), LoginState::Refused(_)), "the same words are no news");
    client.allow_login().await;
    client.current_time().await.unwrap();
    assert_eq!((fake.0.refusals.load(Ordering::SeqCst), client.logins()), (0, 2));
}

/// A session outlives its password: whoever logs in by another way has to know before.
#[tokio::test]
async fn words_are_proved_by_a_login_that_leaves_nothing_behind() {
    let fake = Fake::default();
    *fake.0.password.lock().unwrap() = "right".into();
    let clock = Arc::new(ManualClock::new());
    let client = Client::over(Box::new(fake.clone()), credentials("right"), clock.clone());
    let fresh = Duration::from_secs(10);
    let seen = || {
        let sessions = fake.0.valid.lock().unwrap().clone();
        (fake.0.logins.load(Ordering::SeqCst), fake.0.refusals.load(Ordering::SeqCst), sessions)
    };
    let session = |number: u32| vec![format!("\"session-{number}\"")];
    client.prove(fresh).await.unwrap();
    client.prove(fresh).await.unwrap();
    assert_eq!(seen(), (1, 0, session(1)), "the login that had to be made anyway shows it");
    clock.advance(fresh);
    let several = (0..5).map(|_| client.prove(fresh));
    futures::future::try_join_all(several).await.unwrap();
    assert_eq!(seen(), (2, 0, session(1)), "one for all; the session goes on, the other has ended");
    // Somebody changes it. The session goes on as if nothing were.
    *fake.0.password.lock().unwrap() = "another".into();
    client.current_time().await.unwrap();
    client.prove(fresh).await.unwrap();
    clock.advance(fresh);
    let several = (0..5).map(|_| client.prove(fresh));
    for result in futures::future::join_all(several).await {
        assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
    }
    assert!(matches!(client.current_time().await, Err(Error::Refused(_))));
    assert_eq!(seen(), (2, 1, vec![]), "one for all, and no session is left to run out");
    // A vCenter that does not answer says nothing about a password.
    client.set_credentials(credentials("another")).await;
    assert_eq!(client.prove(Duration::ZERO).await.unwrap(), credentials("another"));
    *fake.0.down.lock().unwrap() = true;
    assert!(matches!(client.prove(Duration::ZERO).await, Err(Error::Wire(_))));
    *fake.0.down.lock().unwrap() = false;
    clock.advance(Duration::from_secs(60));
    client.current_time().await.unwrap();
    assert_eq!(seen(), (3, 1, session(3)));
}

#[tokio::test]
async fn a_wrong_password_counts_as_tried_if_its_caller_gives_up() {
    let (client, fake) = client("wrong");
    client.service().await.unwrap();
    for _ in 0..5 {
        // Polled far enough that the password is under way, then dropped.
        let mut call = Box::pin(client.current_time());
        let polled = futures::poll!(call.as_mut());
        assert!(polled.is_pending() || matches!(polled, std::task::Poll::Ready(Err(Error::Refused(_)))));
        drop(call);
        // This waits until the login has ended, and changes nothing.
        tokio::time::timeout(Duration::from_secs(5), client.set_credentials(credentials("wrong"))).await.unwrap();
    }
    assert_eq!(fake.0.refusals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_vcenter_that_is_down_is_no_refusal() {
    let (client, fake) = client("right");
    *fake.0.down.lock().unwrap() = true;
    assert!(matches!(client.current_time().await, Err(Error::Wire(WireError::Status { status: 503, .. }))));
    *fake.0.down.lock().unwrap() = false;
    client.current_time().await.unwrap();
}

#[test]
fn nobody_sees_the_password() {
    let credentials = credentials("hunter2");
    assert!(!format!("{credentials:?}").contains("hunter2"));
}

/// A search shows what the user may see: of a VM that a role hides the snapshots stand, and whoever takes it for gone leaves them for ever.
#[tokio::test]
async fn a_vm_that_may_not_be_seen_any_more_is_not_taken_for_gone() {
    let (client, fake) = client("right");
    let owner = Owner { cluster: "prod".into(), object: "apps/web".into() };
    let vcenter = "dbed6e0c-bd88-4ef6-b594-21283e1c677f".parse().unwrap();
    let owning = Owning { owner, vm: VmId { vcenter, instance: uuid::Uuid::from_u128(7) } };
    let control = || Control::new(client.clone(), owning.clone(), Settings::default(), Arc::new(|_| {}));
    let vm = MoRef::vm("vm-7");
    *fake.0.hidden.lock().unwrap() = true;
    let hidden = control().last_seen_as(vm.clone()).vm().await.unwrap_err();
    assert_eq!(hidden.verdict().reason, Reason::PrivilegesMissing, "{hidden}");
    assert!(client.is_gone(&vm).await.is_err());
    // Who has never seen it can't tell.
    assert_eq!(control().vm().await.unwrap_err().verdict().reason, Reason::VmNotFound);
    *fake.0.hidden.lock().unwrap() = false;
    assert_eq!(control().last_seen_as(vm.clone()).vm().await.unwrap_err().verdict().reason, Reason::VmNotFound);
    assert!(client.is_gone(&vm).await.unwrap());
}

#[test]
fn a_refused_login_is_tried_again_after_five_minutes() {
    let at = jiff::Timestamp::UNIX_EPOCH;
    let refused = LoginState::Refused(vsphere::Refusal { user: "u".into(), kind: "InvalidLogin".into(), at });
    let after = |seconds| at + jiff::SignedDuration::from_secs(seconds);
    assert!(!refused.may_be_tried_again(after(299)) && refused.may_be_tried_again(after(300)));
    assert!(!LoginState::LoggedOut.may_be_tried_again(after(999)));
}
