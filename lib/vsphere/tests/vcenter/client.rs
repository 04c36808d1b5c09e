//! TLS, sessions, finding, privileges.

use std::{sync::Arc, time::Duration};

use blocklog::clock::SystemClock;
use reasons::Reason;
use serde_json::json;
use uuid::Uuid;
use vsphere::{
    Client, Credentials, Error, MoRef, Secret, Thumbprint, Trust,
    classify::{Class, Doing, classify},
    error::WireError,
    methods::{
        rights::{PRIVILEGES, Privilege},
        vm as calls,
    },
    tasks::{Outcome, Patience},
    transport::{Https, Request, Wire},
};

use crate::fixture::{Simulator, vm};

#[tokio::test]
async fn a_certificate_is_trusted_by_issuer_or_thumbprint_only() {
    let simulator = Simulator::start(&[]);
    let with = |trust| simulator.client_with("hawser", "sandbox", &trust);
    with(Trust::Bundle(simulator.ca.clone())).current_time().await.unwrap();

    // Another authority.
    let other = Simulator::start(&[]);
    let error = with(Trust::Bundle(other.ca.clone())).current_time().await.unwrap_err();
    let verdict = classify(&error, Doing::Other);
    assert_eq!((verdict.class, verdict.reason), (Class::Block, Reason::UntrustedCertificate), "{error}");
    let Error::Wire(WireError::Certificate { shown: Some(shown), .. }) = error else { panic!("{error}") };
    assert!(verdict.message.contains(&shown.to_string()) && verdict.message.contains("CA"), "{}", verdict.message);
    assert!(with(Trust::System).current_time().await.is_err());

    // What it showed can be pinned as the message says; so can what VMware's tools show.
    let pinned = with(Trust::Pinned(Thumbprint::parse(&shown.to_string()).unwrap()));
    pinned.current_time().await.unwrap();
    let sha1 = pinned.server_thumbprint().unwrap();
    assert_eq!(sha1.to_string().len(), 59);
    with(Trust::Pinned(sha1)).current_time().await.unwrap();
    let wrong = with(Trust::Pinned(Thumbprint::of(b"another certificate"))).current_time().await.unwrap_err();
    assert!(matches!(wrong, Error::Wire(WireError::Certificate { .. })), "{wrong}");

    with(Trust::Insecure).current_time().await.unwrap();
}

#[tokio::test]
async fn a_name_that_the_certificate_lacks_is_not_trusted() {
    let simulator = Simulator::start(&[]);
    let url = simulator.url.replace("127.0.0.1", "localhost");
    let credentials = Credentials { user: "hawser@vsphere.local".into(), password: Secret::new("sandbox") };
    let client = Client::new(&url, &Trust::Bundle(simulator.ca.clone()), credentials, Arc::new(SystemClock::new())).unwrap();
    let error = client.current_time().await.unwrap_err();
    assert!(matches!(error, Error::Wire(WireError::Certificate { .. })), "{error}");
}

#[tokio::test]
async fn a_wrong_password_reaches_vcenter_once() {
    let simulator = Simulator::start(&[]);
    let client = simulator.client_as("hawser", "wrong");
    for _ in 0..5 {
        let error = client.current_time().await.unwrap_err();
        let verdict = classify(&error, Doing::Other);
        assert_eq!((verdict.class, verdict.reason), (Class::Block, Reason::WrongCredentials));
        assert!(verdict.message.contains("hawser@vsphere.local") && verdict.message.contains("Secret"), "{}", verdict.message);
    }
    assert_eq!(simulator.calls("Login").await, 1);
}

#[tokio::test]
async fn an_ended_session_is_renewed_and_none_is_left_behind() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let client = simulator.client();
    client.current_time().await.unwrap();
    simulator.delete("/sessions").await;
    client.current_time().await.unwrap();
    assert_eq!(client.logins(), 2);
    client.logout().await;
    assert_eq!(simulator.get("/sessions").await.as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_vcenter_that_is_unwell_is_tried_again() {
    let simulator = Simulator::start(&[]);
    let client = simulator.client();
    client.current_time().await.unwrap();
    simulator.post("/faults", json!({"method": "CurrentTime", "status": 503, "count": 1})).await;
    let error = client.current_time().await.unwrap_err();
    assert_eq!(classify(&error, Doing::Other).reason, Reason::Unreachable);
    client.current_time().await.unwrap();

    let url = simulator.url.clone();
    drop(simulator);
    let credentials = Credentials { user: "hawser@vsphere.local".into(), password: Secret::new("sandbox") };
    let error = Client::new(&url, &Trust::Insecure, credentials, Arc::new(SystemClock::new())).unwrap().current_time().await.unwrap_err();
    assert!(matches!(error, Error::Wire(WireError::Connect { .. })), "{error}");
}

#[tokio::test]
async fn an_answer_has_its_limit() {
    let simulator = Simulator::start(&[]);
    let wire = Https::new(&simulator.url, &Trust::Bundle(simulator.ca.clone())).unwrap().with_limit(1000);
    let credentials = Credentials { user: "hawser@vsphere.local".into(), password: Secret::new("sandbox") };
    let error = Client::over(Box::new(wire), credentials, Arc::new(SystemClock::new())).service().await.unwrap_err();
    assert!(matches!(error, Error::Wire(WireError::TooLarge { limit: 1000, .. })), "{error}");
}

#[tokio::test]
async fn vms_are_found_by_uuid_and_by_path() {
    let simulator = Simulator::start(&[vm("a", json!({"folder": "prod"})), vm("b", json!({}))]);
    let client = simulator.client();
    let service = client.service().await.unwrap();
    assert!(service.content.about.is_vcenter && service.content.about.instance_uuid.is_some());
    assert_eq!(service.version.to_string(), "8.0.3.0");
    let told = simulator.get("/vms/a").await;
    let reference = MoRef::vm(told["ref"].as_str().unwrap());
    let uuid = Uuid::parse_str(told["instanceUuid"].as_str().unwrap()).unwrap();
    assert_eq!(client.find_by_instance_uuid(uuid).await.unwrap(), Some(reference.clone()));
    assert_eq!(client.find_by_instance_uuid(Uuid::from_u128(1)).await.unwrap(), None);
    assert_eq!(client.find_by_path("DC/vm/prod/a").await.unwrap(), Some(reference));
    assert_eq!(client.find_by_path("DC/vm/prod/b").await.unwrap(), None);
    assert_eq!(client.find_by_path("DC/vm/prod").await.unwrap(), None);
}

#[tokio::test]
async fn missing_privileges_are_named() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let all: Vec<&'static Privilege> = PRIVILEGES.iter().collect();
    let reference = MoRef::vm(simulator.get("/vms/a").await["ref"].as_str().unwrap());
    let missing = async |user| {
        let client = simulator.client_as(user, "sandbox");
        let missing = client.missing_privileges(&reference, &all).await.unwrap();
        missing.into_iter().map(|privilege| privilege.id).collect::<Vec<_>>()
    };
    assert_eq!(missing("hawser").await, Vec::<&str>::new());
    assert_eq!(missing("no-snapshots").await, ["VirtualMachine.State.CreateSnapshot"]);
    assert_eq!(missing("reader").await.len(), PRIVILEGES.len());
}

#[tokio::test]
async fn privileges_are_asked_for_by_user_where_a_session_may_not() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let all: Vec<&'static Privilege> = PRIVILEGES.iter().collect();
    let reference = MoRef::vm(simulator.get("/vms/a").await["ref"].as_str().unwrap());
    simulator
        .post("/faults", json!({"method": "HasPrivilegeOnEntities", "fault": "NoPermission", "properties": {"privilegeId": "x"}}))
        .await;
    let missing = simulator.client_as("no-snapshots", "sandbox").missing_privileges(&reference, &all).await.unwrap();
    assert_eq!(missing.iter().map(|privilege| privilege.id).collect::<Vec<_>>(), ["VirtualMachine.State.CreateSnapshot"]);
}

#[tokio::test]
async fn a_server_that_is_silent_is_given_up_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let wire = Https::new(&url, &Trust::Insecure).unwrap();
    let request = Request { action: None, cookie: None, body: String::new().into(), patience: Duration::from_millis(300) };
    let error = wire.send(request).await.unwrap_err();
    assert!(matches!(error, WireError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn power_and_tasks() {
    let simulator =
        Simulator::with(&[vm("a", json!({"tools": "running"}))], json!({"guestShutdown": "100ms", "taskTimes": {"PowerOnVM_Task": "30s"}}));
    let client = simulator.client();
    let reference = MoRef::vm(simulator.get("/vms/a").await["ref"].as_str().unwrap());
    client.tell(&calls::shutdown_guest(&reference)).await.unwrap();
    while simulator.get("/vms/a").await["power"] != json!("off") {
        tokio::task::yield_now().await;
    }
    let off = client.start(&calls::power_off(&reference)).await;
    let off = match off {
        Ok(task) => client.wait(&task, Patience::default(), &mut |_| {}).await.unwrap(),
        Err(error) => Outcome::Failed(Box::new(error.fault().unwrap().clone())),
    };
    assert!(matches!(off, Outcome::Failed(fault) if fault.is("InvalidPowerState")));
    let task = client.start(&calls::power_on(&reference)).await.unwrap();
    let canceled = client.tell(&calls::cancel_task(&task)).await;
    // Not every task can be cancelled; what matters is that it is asked for and understood.
    assert!(canceled.is_ok() || canceled.as_ref().is_err_and(|error| error.fault().is_some()), "{canceled:?}");
    assert_eq!(client.wait(&MoRef::task("task-999999"), Patience::default(), &mut |_| {}).await.unwrap(), Outcome::Forgotten);
}
