//! What people get wrong: each is a condition that names cause and remedy, soon, and it is well again by itself soon after it was mended.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use crds::conditions::get;
use serde_json::Value;
use system::{
    install::{CLIENT, NAMESPACE, TENANT, ready},
    own::Own,
    vm::Replica,
    wait,
};

use super::{changes::slow_reads, *};

const MIB: u64 = 1 << 20;
/// Within 15 s a condition says what is wrong, since it was applied or broken; that looks come so often is held by the operator itself. A machine on
/// which eight scenarios run is given something on top.
const SOON: Duration = Duration::from_secs(20);
/// Within this it is well again.
const MENDED: Duration = Duration::from_secs(20);
/// How soon other words alone are there, where the status was written often: a minute, and a look.
const WORDS: Duration = Duration::from_secs(80);

#[track_caller]
fn names(message: &str, words: &[&str]) {
    let missing: Vec<_> = words.iter().filter(|word| !message.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} is not in: {message}");
}

/// Waits for a condition of a ReplicatedVM, no longer than `limit` after `since`.
async fn says(replica: &Replica, condition: &str, status: &str, reason: &str, since: Instant, limit: Duration) -> String {
    let what = format!("{} says {condition}={status} {reason}", replica.name);
    let message = wait::until(&what, limit.saturating_sub(since.elapsed()), async || {
        let all = replica.object().await?.status.map(|status| status.conditions).unwrap_or_default();
        let found = all.iter().find(|one| one.type_ == condition && one.status == status && one.reason == reason);
        found.map(|found| found.message.clone()).ok_or_else(|| format!("{all:?}"))
    });
    let message = message.await.unwrap();
    println!("{} {condition}={status} {reason} after {:.1} s: {message}", replica.name, since.elapsed().as_secs_f64());
    message
}

/// `Ready` repeats the cause: who looks at nothing else finds it.
async fn repeats(own: &Own, condition: &str) {
    let api: kube::Api<crds::Appliance> = kube::Api::namespaced(own.world.client.clone(), NAMESPACE);
    let conditions = api.get(&own.name).await.unwrap().status.unwrap().conditions;
    let of = |type_: &str| conditions.iter().find(|one| one.type_ == type_).unwrap();
    assert_eq!((&of("Ready").status[..], &of("Ready").reason), ("False", &of(condition).reason), "{conditions:?}");
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_by_each_who_has_it() {
    let (mut world, _gate) = beside_others().await;
    let account = "locked@vsphere.local";
    let own = Own::apart(&mut world, "locked").await.unwrap();
    let user = |password: &str| json!({ "username": account, "password": password });
    let refused = async || {
        let all = world.vcenter.call(Method::GET, "/sessions/refused", None).await.unwrap();
        all[account].as_i64().unwrap_or_default()
    };
    let change = async |password: &str| {
        world.vcenter.call(Method::PATCH, &format!("/users/{account}"), Some(json!({ "password": password }))).await.unwrap();
        world.vcenter.call(Method::DELETE, &format!("/sessions?user={account}"), None).await.unwrap();
    };
    change("sandbox").await;
    let before = refused().await;
    own.secret("locked-vcenter", user("sandbox")).await.unwrap();
    let pods = json!({ "replicas": 1 });
    own.apply(|spec| {
        spec["vcenter"]["credentialsSecretRef"] = json!({ "name": "locked-vcenter" });
        (spec["workers"], spec["applier"]) = (pods.clone(), pods.clone());
    })
    .await
    .unwrap();
    ready(&world.sandbox, NAMESPACE, &own.name, PATIENCE).await.unwrap();
    let replica = own.replicate("wrong-password", "").await.unwrap();
    replica.succeeded(2, PATIENCE).await.unwrap();
    for (disk, seed) in [(2000, 21), (2001, 22)] {
        world.vcenter.write(&replica.name, disk, 0, 24 * MIB, seed).await.unwrap();
    }
    let slow = slow_reads(&replica).await;
    replica.sync_now("locked").await.unwrap();
    let vm = world.vcenter.vm(&replica.name).await.unwrap().mo_ref;
    wait::until("both disks are open", PATIENCE, async || {
        let all = world.vcenter.call(Method::GET, "/vddk", None).await?;
        let open = all["openDisks"].as_array().map_or(0, |open| open.iter().filter(|disk| disk["vm"] == *vm).count());
        if open == 2 { Ok(()) } else { Err(format!("{open}")) }
    })
    .await
    .unwrap();

    // Somebody changes it in vCenter, where a cycle runs: operator and gateway find out, each by itself.
    change("another").await;
    let begun = wait::now();
    let said = own.says("VCenterReachable", "False", "WrongCredentials", begun, SOON).await.unwrap();
    names(&said.message, &[account, "locked-vcenter"]);
    repeats(&own, "VCenterReachable").await;
    own.told("WrongCredentials", SOON).await.unwrap();
    world.vcenter.mend_read(slow).await.unwrap();
    let words = replica.told("WrongCredentials", PATIENCE).await.unwrap();
    println!("the cycle: {words}");
    names(&words, &[account]);
    // Time for two passes of everybody, of which each could lock the account.
    wait::pause(Duration::from_secs(25)).await;
    assert_eq!(refused().await - before, 2, "one by the operator, one by the gateway");

    let mended = own.secret("locked-vcenter", user("another")).await.unwrap();
    own.says("VCenterReachable", "True", "AsExpected", mended, MENDED).await.unwrap();
    replica.succeeded(3, PATIENCE).await.unwrap();
    println!("the gateway went on {:.0} s after the Secret was changed", mended.elapsed().as_secs_f64());
    assert_eq!(refused().await - before, 2, "the new one is right");
    assert_eq!(replica.equal_now().await.unwrap(), 2);

    // Again, but the sessions live on, as they do with a real vCenter: the gateway finds out when it opens disks, before VDDK, which would try
    // twice for each disk. The operator goes on.
    world.vcenter.write(&replica.name, 2000, 0, MIB, 23).await.unwrap();
    wait::pause(Duration::from_secs(11)).await;
    let before = refused().await;
    world.vcenter.call(Method::PATCH, &format!("/users/{account}"), Some(json!({ "password": "third" }))).await.unwrap();
    replica.sync_now("locked-again").await.unwrap();
    wait::until("the gateway is refused", PATIENCE, async || match refused().await - before {
        0 => Err("nobody was".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap();
    wait::pause(Duration::from_secs(12)).await;
    assert_eq!(refused().await - before, 1, "one by the gateway");
    own.secret("locked-vcenter", user("third")).await.unwrap();
    replica.succeeded(4, PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    assert_eq!(refused().await - before, 1, "the third one is right");
    // While there is somebody to clean up.
    let gone = ["delete", "replicatedvm", &replica.name, "--namespace", NAMESPACE, "--timeout=120s"];
    world.sandbox.kubectl(&gone).await.unwrap();
}

#[tokio::test]
async fn a_vm_that_there_is_not_is_named_and_found_when_there_is() {
    let (world, _gate) = beside_others().await;
    let (before, after) = ("misnamed", "found-later");
    // An earlier run may have renamed it.
    let _ = world.vcenter.call(Method::PUT, &format!("/vms/{after}/name"), Some(json!({ "name": before }))).await;
    let replica = Replica::apply(&world, after, "").await.unwrap();
    let path = format!("/DC1/vm/prod/{after}");
    let message = says(&replica, "SourceFound", "False", "VmNotFound", wait::now(), SOON).await;
    names(&message, &[&path, "user"]);
    let status = replica.object().await.unwrap().status.unwrap();
    let ready = get(&status.conditions, crds::conditions::ConditionType::Ready).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "VmNotFound"));
    world.vcenter.call(Method::PUT, &format!("/vms/{before}/name"), Some(json!({ "name": after }))).await.unwrap();
    says(&replica, "SourceFound", "True", "AsExpected", wait::now(), MENDED).await;
    replica.succeeded(2, PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    let gone = ["delete", "replicatedvm", &replica.name, "--namespace", NAMESPACE, "--timeout=120s"];
    world.sandbox.kubectl(&gone).await.unwrap();
    world.vcenter.call(Method::PUT, &format!("/vms/{after}/name"), Some(json!({ "name": before }))).await.unwrap();
}

#[tokio::test]
async fn an_independent_disk_is_named_and_can_be_left_out() {
    let (world, _gate) = beside_others().await;
    let vm = "independent";
    let key = 2002;
    let replica = Replica::apply(&world, vm, "").await.unwrap();
    let message = says(&replica, "PreflightPassed", "False", "ConcernsBlock", wait::now(), SOON).await;
    names(&message, &["IndependentDisk", "xclude"]);
    let concerns = replica.object().await.unwrap().status.unwrap().concerns;
    let concern = concerns.iter().find(|one| one.id == "IndependentDisk").unwrap();
    assert_eq!(concern.disk, Some(key), "{concern:?}");
    replica.told("ConcernsBlock", SOON).await.unwrap();
    Replica::apply(&world, vm, &format!("  disks: {{exclude: [{key}]}}\n")).await.unwrap();
    says(&replica, "PreflightPassed", "True", "AsExpected", wait::now(), MENDED).await;
    replica.succeeded(2, PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
}

#[tokio::test]
async fn a_privilege_that_vcenters_user_lacks_is_named() {
    let (world, _gate) = beside_others().await;
    let (account, privilege) = ("short@vsphere.local", "VirtualMachine.State.CreateSnapshot");
    let edit = async |what: Value| {
        world.vcenter.call(Method::PATCH, &format!("/users/{account}"), Some(what)).await.unwrap();
        wait::now()
    };
    edit(json!({ "grant": [privilege] })).await;
    let own = Own::new(&world, "short");
    own.secret("short-vcenter", json!({ "username": account, "password": "sandbox" })).await.unwrap();
    let applied = own.apply(|spec| spec["vcenter"]["credentialsSecretRef"] = json!({ "name": "short-vcenter" })).await.unwrap();
    own.says("VCenterPrivileges", "True", "AsExpected", applied, SOON).await.unwrap();
    let broken = edit(json!({ "revoke": [privilege] })).await;
    let said = own.says("VCenterPrivileges", "False", "PrivilegesMissing", broken, SOON).await.unwrap();
    names(&said.message, &[account, privilege, "role"]);
    repeats(&own, "VCenterPrivileges").await;
    own.told("PrivilegesMissing", SOON).await.unwrap();
    let mended = edit(json!({ "grant": [privilege] })).await;
    own.says("Ready", "True", "AsExpected", mended, MENDED).await.unwrap();
}

#[tokio::test]
async fn a_role_that_azures_principal_lacks_is_named_by_its_actions() {
    let (world, _gate) = beside_others().await;
    // It is not the principal of all others, and its roles change at once: the minute that Azure takes has a test of its own.
    let principal = "55555555-5555-4555-8555-555555555555";
    let role = async |method: Method, role: &str| {
        let body = json!({ "clientId": principal, "role": role, "atOnce": true });
        world.azure.call(method, "/arm/roles", Some(body)).await.map(|_| wait::now())
    };
    let _ = role(Method::POST, "Owner").await;
    let own = Own::new(&world, "roleless");
    own.secret("roleless-azure", json!({ "clientSecret": "sandbox" })).await.unwrap();
    let credentials =
        json!({ "type": "ClientSecret", "tenantId": TENANT, "clientId": principal, "clientSecretRef": { "name": "roleless-azure" } });
    let applied = own.apply(|spec| spec["azure"]["credentials"] = credentials).await.unwrap();
    own.says("AzurePermissions", "True", "AsExpected", applied, SOON).await.unwrap();
    // What is left lets it see, and not write.
    role(Method::POST, "Reader").await.unwrap();
    let broken = role(Method::DELETE, "Owner").await.unwrap();
    let said = own.says("AzurePermissions", "False", "RolesMissing", broken, SOON).await.unwrap();
    names(
        &said.message,
        &["Microsoft.Compute/disks/write", "Microsoft.Compute/disks/beginGetAccess/action", "resource group hawser", "role"],
    );
    repeats(&own, "AzurePermissions").await;
    own.told("RolesMissing", SOON).await.unwrap();
    // With none at all it may not even look. It was said before that roles are missing: other words for it alone are written when few others were within
    // the last minute.
    let blind = role(Method::DELETE, "Reader").await.unwrap();
    wait::until("the appliance says what it may not even look at", WORDS, async || {
        let said = own.says("AzurePermissions", "False", "RolesMissing", blind, WORDS).await?.message;
        if said.contains("resourceGroups/read") || said.contains("resourcegroups/read") { Ok(()) } else { Err(said) }
    })
    .await
    .unwrap();
    let mended = role(Method::POST, "Owner").await.unwrap();
    own.says("Ready", "True", "AsExpected", mended, MENDED).await.unwrap();

    // A role that has all but the right to ask what it has: that can't be checked, and keeps nothing from being tried.
    role(Method::POST, "Hawser replication, unasked").await.unwrap();
    let unasked = role(Method::DELETE, "Owner").await.unwrap();
    let said = own.says("AzurePermissions", "Unknown", "RolesMissing", unasked, SOON).await.unwrap();
    names(&said.message, &["Microsoft.Authorization/permissions/read", "resource group hawser"]);
    own.says("Ready", "True", "AsExpected", unasked, SOON).await.unwrap();
    // The documented one is enough.
    role(Method::DELETE, "Hawser replication, unasked").await.unwrap();
    let documented = role(Method::POST, "Hawser replication").await.unwrap();
    own.says("AzurePermissions", "True", "AsExpected", documented, MENDED).await.unwrap();
    own.says("Ready", "True", "AsExpected", documented, MENDED).await.unwrap();
    role(Method::POST, "Owner").await.unwrap();
    role(Method::DELETE, "Hawser replication").await.unwrap();
    assert_ne!(principal, CLIENT);
}

/// A way to the log store at another port of the node, for as long as it is held.
fn forward(world: &World, port: u16) -> tokio::process::Child {
    let store = world.sandbox.get("BLOB_URL").trim_start_matches("https://");
    let (host, to) = (world.sandbox.node(), store.split([':', '/']).nth(1).unwrap());
    let script = format!(
        "require('net').createServer(a => {{ const b = require('net').connect({to}, '{host}'); a.pipe(b).pipe(a); \
         a.on('error', () => b.destroy()); b.on('error', () => a.destroy()); }}).listen({port}, '{host}')"
    );
    node(world, &script)
}

/// A program of Node.js in the sandbox's network, for as long as it is held.
fn node(world: &World, script: &str) -> tokio::process::Child {
    let mut command = tokio::process::Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", world.sandbox.get("NETNS"))).args(["node", "-e", script]);
    command.stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
async fn a_log_store_that_does_not_answer_is_named_by_its_url() {
    let (world, _gate) = beside_others().await;
    let own = Own::new(&world, "storeless");
    let port = 10009;
    let url = format!("https://{}:{port}/devstoreaccount1", world.sandbox.node());
    let applied = own.apply(|spec| spec["logStore"]["accountUrl"] = json!(url)).await.unwrap();
    let said = own.says("LogStoreReachable", "False", "LogStoreUnreachable", applied, SOON).await.unwrap();
    names(&said.message, &[&url]);
    repeats(&own, "LogStoreReachable").await;
    own.told("LogStoreUnreachable", SOON).await.unwrap();
    let _way = forward(&world, port);
    own.says("LogStoreReachable", "True", "AsExpected", wait::now(), MENDED).await.unwrap();
    own.says("Ready", "True", "AsExpected", wait::now(), MENDED).await.unwrap();
}

/// Neither refused nor answered: a firewall that drops, a server that hangs.
#[tokio::test]
async fn a_log_store_that_is_silent_is_named_as_soon() {
    let (world, _gate) = beside_others().await;
    let own = Own::new(&world, "unheard");
    let port = 10011;
    let hole = format!("require('net').createServer(() => {{}}).listen({port}, '{}')", world.sandbox.node());
    let mut hole = node(&world, &hole);
    let url = format!("https://{}:{port}/devstoreaccount1", world.sandbox.node());
    let applied = own.apply(|spec| spec["logStore"]["accountUrl"] = json!(url)).await.unwrap();
    let said = own.says("LogStoreReachable", "False", "LogStoreUnreachable", applied, SOON).await.unwrap();
    names(&said.message, &[&url, "has not answered for 5 s"]);
    // What the others say does not wait for it; and whose certificate nobody has seen is not verified.
    own.says("VCenterReachable", "True", "AsExpected", applied, SOON).await.unwrap();
    own.says("TLSVerified", "Unknown", "NotChecked", applied, SOON).await.unwrap();
    hole.kill().await.unwrap();
    let _way = forward(&world, port);
    own.says("Ready", "True", "AsExpected", wait::now(), MENDED + Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_container_that_there_is_not_is_named() {
    let (world, _gate) = beside_others().await;
    let own = Own::new(&world, "containerless");
    // One that no run has made before: containers can't be unmade by the way.
    let container = format!("c-{}", uuid::Uuid::new_v4().simple());
    let applied = own.apply(|spec| spec["logStore"]["container"] = json!(container)).await.unwrap();
    let said = own.says("LogStoreReachable", "False", "ContainerMissing", applied, SOON).await.unwrap();
    names(&said.message, &[&container, "create", world.sandbox.get("BLOB_URL")]);
    system::install::make_container(&world.sandbox, &container).await.unwrap();
    own.says("Ready", "True", "AsExpected", wait::now(), MENDED).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_not_the_log_stores_is_told() {
    let (world, _gate) = beside_others().await;
    let own = Own::new(&world, "keyless");
    // The store is the shared one: it was set up with another.
    let other = format!("1 {}\n", "a5".repeat(32));
    own.secret("keyless-key", json!({ "key": other })).await.unwrap();
    let applied = own.apply(|spec| spec["encryption"]["keySecretRef"] = json!({ "name": "keyless-key" })).await.unwrap();
    let said = own.says("KeyVerified", "False", "WrongKey", applied, SOON).await.unwrap();
    names(&said.message, &["key", "encryption.keySecretRef", "keyless-key"]);
    repeats(&own, "KeyVerified").await;
    own.told("WrongKey", SOON).await.unwrap();
    let mended = own.secret("keyless-key", json!({ "key": system::install::KEY })).await.unwrap();
    own.says("Ready", "True", "AsExpected", mended, MENDED).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_told_with_whom_to_trust() {
    let (world, _gate) = beside_others().await;
    let own = Own::new(&world, "distrustful");
    let bundle = json!({ "name": "sandbox-ca" });
    let applied = own.apply(|spec| spec["vcenter"]["caBundleRef"] = Value::Null).await.unwrap();
    let said = own.says("VCenterReachable", "False", "UntrustedCertificate", applied, SOON).await.unwrap();
    let url = format!("https://{}", world.sandbox.node());
    names(&said.message, &[&url, "caBundleRef", "thumbprint"]);
    let said = own.says("TLSVerified", "False", "UntrustedCertificate", applied, SOON).await.unwrap();
    names(&said.message, &[&url]);
    own.told("UntrustedCertificate", SOON).await.unwrap();
    let mended = own.edit(json!({ "vcenter": { "caBundleRef": bundle } })).await.unwrap();
    own.says("Ready", "True", "AsExpected", mended, MENDED).await.unwrap();
    // The same on Azure's side.
    let broken = own.edit(json!({ "azure": { "caBundleRef": null } })).await.unwrap();
    let said = own.says("AzurePermissions", "False", "UntrustedCertificate", broken, SOON).await.unwrap();
    names(&said.message, &["azure.caBundleRef"]);
    own.says("TLSVerified", "False", "UntrustedCertificate", broken, SOON).await.unwrap();
    let mended = own.edit(json!({ "azure": { "caBundleRef": bundle } })).await.unwrap();
    own.says("Ready", "True", "AsExpected", mended, MENDED).await.unwrap();
}

#[tokio::test]
async fn a_missing_secret_is_named_and_counts_when_it_is_made() {
    let (world, _gate) = beside_others().await;
    let own = Own::new(&world, "secretless");
    let applied = own.apply(|spec| spec["vcenter"]["credentialsSecretRef"] = json!({ "name": "secretless-vcenter" })).await.unwrap();
    let said = own.says("VCenterReachable", "False", "CredentialsMissing", applied, SOON).await.unwrap();
    names(&said.message, &["secretless-vcenter", "create", "username"]);
    let mended = own.secret("secretless-vcenter", json!({ "username": "hawser@vsphere.local", "password": "sandbox" })).await.unwrap();
    own.says("Ready", "True", "AsExpected", mended, MENDED).await.unwrap();
}
