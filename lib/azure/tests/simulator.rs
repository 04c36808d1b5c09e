//! The client against the simulator of Azure's rules, over TLS: tokens, disks, rights, and what it does when Azure refuses, fails or is slow.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use azure::{
    Arm, ArmConfig, ArmError, ResourceId,
    credential::{Identity, credential, http},
    disks::{Access, Disk, DiskState, LEAST, UploadDisk},
    rights::{PERMISSIONS_READ, REPLICATION, missing},
};
use azure_core::credentials::Secret;
use azure_simulator::{
    Clock, Config, State,
    arm::knobs::{Effect, Injection},
    config::{Assigned, CLIENT, Principal, Role, Times},
    disks, front, serve, sts,
};
use blocklog::clock::SystemClock;
use reasons::Reason;

const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const SUBSCRIPTION: &str = "22222222-2222-4222-8222-222222222222";
const GROUP: &str = "hawser";
const READER: &str = "55555555-5555-4555-8555-555555555555";
/// Whose role has what docs/getting-started.md names, and nothing else.
const DOCUMENTED: &str = "66666666-6666-4666-8666-666666666666";
/// The same but for the action by which one asks what one may do.
const UNASKED: &str = "77777777-7777-4777-8777-777777777777";

struct Azure {
    state: State,
    endpoint: String,
    authority: String,
    _folder: tempfile::TempDir,
}

impl Azure {
    async fn start() -> Self {
        Self::whose_disks_take(0.05).await
    }

    async fn whose_disks_take(disk: f64) -> Self {
        let quick = 0.05;
        let mut config = Config {
            times: Times { disk, access: quick, nic: quick, vm: quick, power: quick, retry_after: 1, rbac: 0.0, ..Times::default() },
            ..Config::default()
        };
        config.throttle.scale = 0.0;
        config.principals.push(Principal {
            name: "reader".to_owned(),
            client_id: READER.to_owned(),
            object_id: "55555555-5555-4555-8555-aaaaaaaaaaaa".to_owned(),
            secret: Some("reader".to_owned()),
            federated: Vec::new(),
            roles: vec![Assigned { role: "Reader".to_owned(), scope: String::new() }],
        });
        for (name, client, left_out) in [("documented", DOCUMENTED, ""), ("unasked", UNASKED, PERMISSIONS_READ)] {
            let actions = REPLICATION.iter().filter(|action| **action != left_out).map(|action| (*action).to_owned()).collect();
            let role = |id: &str| id.replace("-4", "-5");
            config.roles.push(Role {
                name: name.to_owned(),
                id: role(client),
                actions,
                not_actions: Vec::new(),
                data_actions: Vec::new(),
                not_data_actions: Vec::new(),
            });
            let scope = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}");
            config.principals.push(Principal {
                name: name.to_owned(),
                client_id: client.to_owned(),
                object_id: client.replace("-8", "-9"),
                secret: Some(name.to_owned()),
                federated: Vec::new(),
                roles: vec![Assigned { role: name.to_owned(), scope }],
            });
        }
        config.check().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let disks_port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let public = format!("http://{}", disks_port.local_addr().unwrap());
        let store = disks::DiskStore::open(folder.path(), &public, clock.clone()).unwrap();
        let sts = sts::Sts::new(&config, clock.clone()).unwrap();
        let state = State::new(config, clock, store, sts);
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = issued.signing_key.serialize_der().try_into().unwrap();
        let tls = serve::acceptor(vec![issued.cert.der().clone()], key).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let routes = front(&state);
        tokio::spawn(async move { match serve::serve(listener, Some(tls), routes).await {} });
        tokio::spawn(serve::serve(disks_port, None, disks::router(state.clone())));
        Self { state, endpoint, authority: issued.cert.pem(), _folder: folder }
    }

    fn client(&self, client: &str, secret: &str) -> Arm {
        self.client_trusting(client, secret, Some(self.authority.as_bytes()))
    }

    fn client_trusting(&self, client: &str, secret: &str, authority: Option<&[u8]>) -> Arm {
        let http = http(authority).unwrap();
        let identity =
            Identity::ClientSecret { tenant: TENANT.to_owned(), client: client.to_owned(), secret: Secret::new(secret.to_owned()) };
        Arm::new(ArmConfig {
            endpoint: self.endpoint.clone(),
            audience: "https://management.azure.com".to_owned(),
            credential: credential(identity, &self.endpoint, http.clone(), Arc::new(SystemClock::new())).unwrap(),
            http,
            clock: Arc::new(SystemClock::new()),
        })
    }

    fn arm(&self) -> Arm {
        self.client(CLIENT, "sandbox")
    }

    fn inject(&self, method: &str, path: &str, times: u32, effect: Effect) {
        let injection = Injection { method: Some(method.to_owned()), path: path.to_owned(), times: Some(times), skip: 0, effect };
        self.state.arm.knobs.inject(injection);
    }

    fn count(&self, operation: &str) -> u64 {
        self.state.arm.knobs.counts().get(operation).copied().unwrap_or(0)
    }
}

fn seed(name: &str) -> ResourceId {
    ResourceId::disk(SUBSCRIPTION, GROUP, name)
}

fn wanted() -> UploadDisk {
    let tags = BTreeMap::from([("hawser-owner".to_owned(), "cluster/default/web".to_owned())]);
    UploadDisk { location: "westeurope".to_owned(), sku: "Premium_LRS".to_owned(), zone: None, content: LEAST, tags }
}

fn answer(status: u16, code: &str, retry_after: Option<u64>) -> Effect {
    Effect::Answer { status, code: code.to_owned(), message: "planted".to_owned(), retry_after }
}

async fn made(arm: &Arm, name: &str) -> Disk {
    arm.make_upload_disk(&seed(name), &wanted()).await.unwrap()
}

#[tokio::test]
async fn an_upload_disk_goes_through_all_its_states() {
    let azure = Azure::start().await;
    let arm = azure.arm();
    assert_eq!(arm.disk(&seed("one")).await.unwrap(), None);
    let disk = made(&arm, "one").await;
    assert_eq!((disk.state, disk.content, disk.provisioned), (DiskState::ReadyToUpload, Some(LEAST), true));
    assert_eq!((&disk.id, &disk.tags), (&seed("one"), &wanted().tags));
    assert!(!disk.unique_id.is_empty());
    // As after a crash between the call and whoever noted it.
    assert_eq!(made(&arm, "one").await.unique_id, disk.unique_id);
    assert_eq!(arm.disks(SUBSCRIPTION, GROUP).await.unwrap().len(), 1);

    let day = Duration::from_secs(86_400);
    let first = arm.grant(&seed("one"), Access::Write, day).await.unwrap();
    assert!(first.expose().contains("sig="));
    assert_eq!(arm.disk(&seed("one")).await.unwrap().unwrap().state, DiskState::ActiveUpload);
    arm.grant(&seed("one"), Access::Write, day).await.unwrap();

    // The disk has no footer: it can't be sealed, and stays what it is.
    assert!(matches!(arm.revoke(&seed("one")).await, Err(ArmError::Refused { .. } | ArmError::Conflict { .. })));
    assert!(arm.delete_disk(&seed("one")).await.is_err(), "a disk with an access is not deleted");
    let id = uuid::Uuid::parse_str(&disk.unique_id).unwrap();
    let clock = Arc::new(SystemClock::new());
    replica::disk_sas::DiskSasDisk::format(first.expose().parse().unwrap(), clock, None, LEAST, id).await.unwrap();
    arm.revoke(&seed("one")).await.unwrap();
    assert_eq!(arm.disk(&seed("one")).await.unwrap().unwrap().state, DiskState::Unattached);
    assert!(arm.grant(&seed("one"), Access::Write, day).await.is_err(), "a revoke is one way");
    arm.delete_disk(&seed("one")).await.unwrap();
    assert_eq!(arm.disk(&seed("one")).await.unwrap(), None);
    arm.delete_disk(&seed("one")).await.unwrap();
    assert_ne!(made(&arm, "one").await.unique_id, disk.unique_id, "another disk of the same name");
}

#[tokio::test]
async fn what_may_pass_is_sent_again_and_what_takes_too_long_is_told() {
    let azure = Azure::start().await;
    let arm = azure.arm();
    azure.inject("GET", "*/disks/*", 2, answer(503, "ServiceUnavailable", None));
    assert_eq!(arm.disk(&seed("one")).await.unwrap(), None);
    assert_eq!(azure.count("GET Microsoft.Compute/disks"), 3);

    azure.inject("GET", "*/disks/*", 1, answer(429, "TooManyRequests", Some(1)));
    assert_eq!(arm.disk(&seed("one")).await.unwrap(), None);

    azure.inject("GET", "*/disks/*", 1, answer(429, "TooManyRequests", Some(300)));
    let before = azure.count("GET Microsoft.Compute/disks");
    let error = arm.disk(&seed("one")).await.unwrap_err();
    assert_eq!((error.reason(), error.retry_after()), (Reason::Throttled, Some(Duration::from_secs(300))));
    assert_eq!(azure.count("GET Microsoft.Compute/disks"), before + 1, "it is left alone");
    // Also by whoever asks for another disk, in the same words; what is written is counted apart.
    let other = arm.disk(&seed("two")).await.unwrap_err();
    assert_eq!(other.to_string(), error.to_string().replace("/one", "/two"));
    assert!(other.retry_after().unwrap() > Duration::from_secs(290));
    assert_eq!(azure.count("GET Microsoft.Compute/disks"), before + 1, "it is left alone");
    arm.delete_disk(&seed("two")).await.unwrap();

    let arm = azure.arm();
    azure.inject("PUT", "*/disks/*", 1, Effect::Drop { after: true });
    assert_eq!(made(&arm, "lost").await.state, DiskState::ReadyToUpload, "the answer was lost, the disk was made");
    assert_eq!(arm.disks(SUBSCRIPTION, GROUP).await.unwrap().len(), 1);

    azure.inject("GET", "*/disks/*", 9, answer(500, "InternalServerError", None));
    let error = arm.disk(&seed("one")).await.unwrap_err();
    assert!(matches!(&error, ArmError::Failed { code, .. } if code == "InternalServerError"), "{error}");
}

/// No URL of an operation is kept: what is made is found by its name, and looked at until it is there.
#[tokio::test]
async fn an_operation_whose_caller_died_is_found_by_the_disks_name() {
    let azure = Azure::whose_disks_take(60.0).await;
    let arm = azure.arm();
    let died = tokio::time::timeout(Duration::from_millis(1500), arm.make_upload_disk(&seed("one"), &wanted())).await;
    assert!(died.is_err(), "it was to be cut off in its midst");
    let begun = arm.disk(&seed("one")).await.unwrap().expect("it is there by its name");
    assert!(!begun.provisioned, "{begun:?}");
    // Whoever asks for the same meanwhile is refused for now, and makes no second one.
    let refused = azure.arm().make_upload_disk(&seed("one"), &wanted()).await.unwrap_err();
    assert!(matches!(refused, ArmError::Conflict { .. }), "{refused}");
    azure.state.clock.advance(Duration::from_secs(60));
    let made = loop {
        let disk = arm.disk(&seed("one")).await.unwrap().unwrap();
        if disk.provisioned {
            break disk;
        }
    };
    assert_eq!(made.state, DiskState::ReadyToUpload);
    assert_eq!(arm.make_upload_disk(&seed("one"), &wanted()).await.unwrap().unique_id, made.unique_id);
    assert_eq!(arm.disks(SUBSCRIPTION, GROUP).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_operation_that_fails_says_why() {
    let azure = Azure::start().await;
    let arm = azure.arm();
    let fails = |code: &str| Effect::FailOperation { code: code.to_owned(), message: "planted".to_owned() };
    azure.inject("PUT", "*/disks/*", 1, fails("DiskQuotaExceeded"));
    let error = arm.make_upload_disk(&seed("one"), &wanted()).await.unwrap_err();
    assert!(matches!(&error, ArmError::Refused { code, message, .. } if code == "DiskQuotaExceeded" && message == "planted"), "{error}");
    assert_eq!(error.retry_after(), None);
    azure.inject("PUT", "*/disks/*", 1, fails("InternalServerError"));
    let error = arm.make_upload_disk(&seed("two"), &wanted()).await.unwrap_err();
    assert!(matches!(error, ArmError::Failed { .. }) && error.retry_after().is_some(), "{error}");
    azure.inject("PUT", "*/disks/*", 1, answer(409, "OperationNotAllowed", None));
    assert_eq!(arm.make_upload_disk(&seed("three"), &wanted()).await.unwrap_err().reason(), Reason::ServerFailed);
    let small = UploadDisk { content: LEAST + 512, ..wanted() };
    let error = arm.make_upload_disk(&seed("four"), &small).await.unwrap_err();
    assert!(matches!(&error, ArmError::Refused { message, .. } if message.contains("MiB")), "{error}");
}

#[tokio::test]
async fn who_we_are_and_what_we_may() {
    let azure = Azure::start().await;
    let permissions = azure.arm().permissions(SUBSCRIPTION, GROUP).await.unwrap();
    assert_eq!(missing(&permissions, &REPLICATION), Vec::<&str>::new());
    let group = azure.arm().resource_group(SUBSCRIPTION, GROUP).await.unwrap().unwrap();
    assert_eq!(group.location, "westeurope");
    assert_eq!(azure.arm().resource_group(SUBSCRIPTION, "nowhere").await.unwrap(), None);
    assert!(matches!(azure.arm().disks(SUBSCRIPTION, "nowhere").await, Err(ArmError::Refused { .. })));

    let reader = azure.client(READER, "reader");
    let lacks = missing(&reader.permissions(SUBSCRIPTION, GROUP).await.unwrap(), &REPLICATION);
    assert!(lacks.contains(&"Microsoft.Compute/disks/write") && !lacks.contains(&"Microsoft.Compute/disks/read"), "{lacks:?}");
    let error = reader.make_upload_disk(&seed("one"), &wanted()).await.unwrap_err();
    assert!(matches!(&error, ArmError::Forbidden { message, .. } if message.contains("Microsoft.Compute/disks/write")), "{error}");

    let error = azure.client(CLIENT, "wrong").disk(&seed("one")).await.unwrap_err();
    assert!(matches!(&error, ArmError::Credential(why) if why.contains("AADSTS7000215")), "{error}");
    assert!(!error.to_string().contains("wrong\""));

    let error = azure.client_trusting(CLIENT, "sandbox", None).disk(&seed("one")).await.unwrap_err();
    assert!(matches!(error, ArmError::Untrusted { .. }), "{error}");
    assert!(matches!(http(Some(b"no certificate")), Err(ArmError::Untrusted { .. })));
}

/// All that replication asks of Resource Manager.
async fn replicates(arm: &Arm, name: &str) {
    assert!(arm.resource_group(SUBSCRIPTION, GROUP).await.unwrap().is_some());
    assert_eq!(made(arm, name).await.state, DiskState::ReadyToUpload);
    assert!(arm.disks(SUBSCRIPTION, GROUP).await.unwrap().iter().any(|disk| disk.id == seed(name)));
    arm.grant(&seed(name), Access::Write, Duration::from_secs(600)).await.unwrap();
    // The disk has no footer: that it can't be sealed is no matter of rights.
    let sealed = arm.revoke(&seed(name)).await;
    assert!(!matches!(sealed, Err(ArmError::Forbidden { .. })), "{sealed:?}");
    made(arm, "another").await;
    arm.delete_disk(&seed("another")).await.unwrap();
}

#[tokio::test]
async fn the_documented_role_is_enough() {
    let azure = Azure::start().await;
    let arm = azure.client(DOCUMENTED, "documented");
    assert_eq!(missing(&arm.permissions(SUBSCRIPTION, GROUP).await.unwrap(), &REPLICATION), Vec::<&str>::new());
    replicates(&arm, "one").await;
}

#[tokio::test]
async fn asking_what_one_may_do_is_a_right_of_its_own() {
    let azure = Azure::start().await;
    let arm = azure.client(UNASKED, "unasked");
    let error = arm.permissions(SUBSCRIPTION, GROUP).await.unwrap_err();
    assert!(matches!(&error, ArmError::Forbidden { message, .. } if message.contains(PERMISSIONS_READ)), "{error}");
    replicates(&arm, "one").await;
}
