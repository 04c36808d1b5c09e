//! Every rule of the schemas, both ways: what it refuses, with what words, and what it lets through. `check` fails where no edit of a table
//! breaks a rule.
#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod support;

use serde_json::{Value, json};
use support::{Kind, check, check_with, with};

fn example(name: &str) -> Value {
    let path = format!("{}/examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

const OK: &str = "";

#[test]
fn appliance() {
    let thumbprint = vec!["4A"; 32].join(":");
    let uuid = "0AF3bbbb-2222-4222-8222-222222222222";
    let creations = [
        ("/metadata/name", json!("a".repeat(50)), OK),
        ("/metadata/name", json!("a".repeat(51)), "metadata.name: give a name of at most 50 characters"),
        // vCenter
        ("/spec/vcenter/url", json!("https://vc"), OK),
        ("/spec/vcenter/url", json!("https://10.231.0.2:443/"), OK),
        ("/spec/vcenter/url", json!("https://[fd00::2]:443"), OK),
        ("/spec/vcenter/url", json!("http://vc"), "give the vCenter as https://HOST"),
        ("/spec/vcenter/url", json!("vc.example.com"), "give the vCenter as https://HOST"),
        ("/spec/vcenter/url", json!("https://vc/sdk"), "without path, user or query"),
        ("/spec/vcenter/url", json!("https://user@vc"), "without path, user or query"),
        ("/spec/vcenter/url", json!("https://vc?x=1"), "without path, user or query"),
        ("/spec/vcenter/url", json!("https://vc\n"), "without path, user or query"),
        ("/spec/vcenter/url", Value::Null, "spec.vcenter.url: it is required"),
        ("/spec/vcenter/credentialsSecretRef/name", json!("Vcenter"), "give the name of the object in this namespace"),
        ("/spec/vcenter/credentialsSecretRef/name", json!("other/vcenter"), "give the name of the object in this namespace"),
        ("/spec/vcenter/credentialsSecretRef/name", json!("v.c-1"), OK),
        ("/spec/vcenter/credentialsSecretRef/namespace", json!("other"), "there is no such field"),
        ("/spec/vcenter/thumbprint", json!(thumbprint), "give caBundleRef or thumbprint, not both"),
        (
            "/spec/vcenter",
            with(
                &with(&example("appliance-full"), "/spec/vcenter/caBundleRef", Value::Null),
                "/spec/vcenter/thumbprint",
                json!(thumbprint),
            )["spec"]["vcenter"]
                .clone(),
            OK,
        ),
        ("/spec/vcenter/thumbprint", json!("g".repeat(95)), "give the SHA-256 fingerprint"),
        ("/spec/vcenter/caBundleRef/kind", json!("File"), "is not one of"),
        // Azure
        ("/spec/azure/subscriptionId", json!(uuid), OK),
        ("/spec/azure/subscriptionId", json!("g2222222-2222-4222-8222-222222222222"), "give the subscription's id, a UUID"),
        ("/spec/azure/subscriptionId", json!("/subscriptions/22222222"), "give the subscription's id, a UUID"),
        ("/spec/azure/resourceGroup", json!("Prod_(west)-1.a"), OK),
        ("/spec/azure/resourceGroup", json!("Größe"), OK),
        ("/spec/azure/resourceGroup", json!("prod."), "give the resource group's name, not its id"),
        ("/spec/azure/resourceGroup", json!("/subscriptions/x/resourceGroups/prod"), "give the resource group's name, not its id"),
        ("/spec/azure/location", json!("West Europe"), "give the region's short name, such as westeurope"),
        ("/spec/azure/credentials", json!({"type": "ClientSecret"}), "type ClientSecret needs tenantId, clientId and clientSecretRef"),
        ("/spec/azure/credentials/tenantId", Value::Null, "type ClientSecret needs tenantId, clientId and clientSecretRef"),
        ("/spec/azure/credentials/clientId", Value::Null, "type ClientSecret needs tenantId, clientId and clientSecretRef"),
        ("/spec/azure/credentials/type", json!("WorkloadIdentity"), "clientSecretRef is for type ClientSecret"),
        ("/spec/azure/credentials", json!({}), OK),
        ("/spec/azure/credentials", json!({"clientId": uuid, "tenantId": uuid}), OK),
        ("/spec/azure/credentials/tenantId", json!("contoso.onmicrosoft.com-is-no-uuid-36"), "give the tenant's id, a UUID"),
        ("/spec/azure/credentials/tenantId", json!("z1111111-1111-4111-8111-111111111111"), "give the tenant's id, a UUID"),
        ("/spec/azure/credentials/clientId", json!("z1111111-1111-4111-8111-111111111111"), "give the application's client id, a UUID"),
        ("/spec/azure/endpoints/resourceManager", json!("https://10.231.0.2:8443"), OK),
        (
            "/spec/azure/endpoints/resourceManager",
            json!("https://management.azure.com/subscriptions"),
            "give Resource Manager as https://HOST",
        ),
        (
            "/spec/azure/endpoints/resourceManagerAudience",
            json!("https://management.azure.com/.default"),
            "give the audience as https://HOST",
        ),
        (
            "/spec/azure/endpoints/authorityHost",
            json!("https://login.microsoftonline.com/contoso"),
            "give the token issuer as https://HOST",
        ),
        ("/spec/azure/endpoints", json!({}), OK),
        // the rest
        ("/spec/logStore/accountUrl", json!("https://10.231.0.2:10000/devstoreaccount1"), OK),
        ("/spec/logStore/accountUrl", json!("https://a.blob.core.windows.net/?sv=2026"), "give the account's blob endpoint"),
        ("/spec/logStore/accountUrl", json!("https://a.blob.core.windows.net/a/b"), "give the account's blob endpoint"),
        ("/spec/logStore/container", json!("a-1"), OK),
        ("/spec/logStore/container", json!("a--1"), "give a container's name"),
        ("/spec/logStore/container", json!("Log"), "give a container's name"),
        ("/spec/logStore/container", json!("lo"), "give a container's name"),
        ("/spec/logStore/container", json!("log"), OK),
        ("/spec/diskAccess/vddk", Value::Null, "method VDDK needs vddk"),
        ("/spec/diskAccess/vddk", json!({}), "give claimName or image: one of them, not both"),
        ("/spec/diskAccess/vddk/claimName", json!("vddk"), "give claimName or image: one of them, not both"),
        ("/spec/diskAccess/vddk", json!({"claimName": "vddk"}), OK),
        ("/spec/diskAccess/vddk", json!({"claimName": "VDDK"}), "give the name of the object in this namespace"),
        ("/spec/diskAccess/method", json!("NFC"), "is not one of"),
        ("/spec/workers/replicas", json!(0), OK),
        ("/spec/workers/replicas", json!(-1), "out of bounds"),
        ("/spec/workers/serviceAccountName", json!("Worker"), "give the name of the object in this namespace"),
        ("/spec/limits/parallelDisks", json!(0), "out of bounds"),
        ("/spec/limits/datastoreFreePercent", json!(91), "out of bounds"),
        ("/spec/limits", json!({}), OK),
        ("/spec/timeZone", json!("America/Argentina/Buenos_Aires"), OK),
        ("/spec/timeZone", json!("Etc/GMT+3"), OK),
        ("/spec/timeZone", json!("+02:00"), "give an IANA time zone"),
        // A null is as good as nothing.
        ("/spec/workers", json!({"replicas": 1, "image": null, "serviceAccountName": null}), OK),
    ];
    let updates = [
        ("/spec/vcenter/url", json!("https://vc2"), OK),
        ("/spec/azure/resourceGroup", json!("other"), OK),
        ("/spec/encryption/keySecretRef/name", json!("other"), OK),
        ("/spec/azure/subscriptionId", json!(uuid), "subscriptionId can't be edited, since seed disks lie there"),
        ("/spec/azure/location", json!("northeurope"), "location can't be edited, since seed disks lie there"),
        ("/spec/logStore/container", json!("other"), "logStore can't be edited, since the ledgers of all VMs lie there"),
        ("/spec/logStore/accountUrl", json!("https://other.blob.core.windows.net"), "logStore can't be edited"),
    ];
    check("Appliance", &example("appliance-full"), &creations, &updates);
}

#[test]
fn replicated_vm() {
    let uuid = "503c2d3e-7f1a-4c4b-9c0d-0a1b2c3d4e5f";
    let tags = |count: usize| (0..count).map(|n| (format!("tag{n}"), json!("x"))).collect::<Value>();
    let creations = [
        ("/metadata/name", json!("a".repeat(51)), "metadata.name: give a name of at most 50 characters"),
        ("/spec/applianceRef/name", json!("-onprem"), "give the name of the object in this namespace"),
        ("/spec/vm", json!({}), "give exactly one of moRef, instanceUuid and inventoryPath"),
        ("/spec/vm", json!({"moRef": "vm-1", "instanceUuid": uuid}), "give exactly one of moRef, instanceUuid and inventoryPath"),
        ("/spec/vm", json!({"moRef": "vm-1", "inventoryPath": "/a/b", "instanceUuid": uuid}), "give exactly one of"),
        ("/spec/vm", json!({"moRef": "vm-1", "instanceUuid": null}), OK),
        ("/spec/vm", json!({"moRef": "VirtualMachine:vm-1"}), "give the VM's managed object reference, such as vm-1034"),
        ("/spec/vm", json!({"instanceUuid": "503c2d3e7f1a4c4b9c0d0a1b2c3d4e5f1234"}), "give the VM's instance UUID"),
        ("/spec/vm", json!({"inventoryPath": "/DC 0/vm/Größe/a b"}), OK),
        ("/spec/vm", json!({"inventoryPath": "web01"}), "give the VM's whole path in the inventory"),
        ("/spec/vm", json!({"inventoryPath": "/DC0/vm/"}), "give the VM's whole path in the inventory"),
        ("/spec/replication", json!("Stopped"), OK),
        ("/spec/replication", json!("stopped"), "is not one of"),
        ("/spec/syncNow", json!("1"), OK),
        ("/spec/syncNow", json!("2026-11-23T18:00:00+01:00"), OK),
        ("/spec/syncNow", json!("a b"), "give any text of letters, digits"),
        ("/spec/syncNow", json!("-a"), "give any text of letters, digits"),
        ("/spec/syncNow", json!(""), "out of bounds"),
        ("/spec/maxInterval", json!("1d12h"), OK),
        ("/spec/maxInterval", json!("7d"), OK),
        ("/spec/maxInterval", json!("1h1d"), "write days, hours and minutes in this order"),
        ("/spec/maxInterval", json!("3600"), "write days, hours and minutes in this order"),
        ("/spec/maxInterval", json!("0h"), "give between one minute and seven days"),
        ("/spec/maxInterval", json!("7d1m"), "give between one minute and seven days"),
        ("/spec/disks/exclude", json!([2001]), "a disk is excluded and overridden at once"),
        ("/spec/disks/exclude", json!([2002, 2002]), "is there twice"),
        ("/spec/disks", json!({"exclude": [2001]}), OK),
        ("/spec/disks", json!({"overrides": [{"key": 2001}]}), OK),
        ("/spec/disks/overrides", json!([{"key": 1}, {"key": 1}]), "is there twice"),
        ("/spec/disks/overrides/0/diskSku", json!("UltraSSD_LRS"), "is not one of"),
        ("/spec/snapshot", json!({}), OK),
        ("/spec/snapshot/quiesce", json!("Always"), "is not one of"),
        ("/spec/target", json!({}), OK),
        ("/spec/target/zone", json!(1), "is not of the type"),
        ("/spec/target/zone", json!("4"), "is not one of"),
        ("/spec/target/resourceGroup", json!("a/b"), "give the resource group's name, not its id"),
        ("/spec/target/tags", tags(40), OK),
        ("/spec/target/tags", tags(41), "out of bounds"),
        ("/spec/target/tags", json!({"hawser-owner": "me"}), "give tags names of 1 to 512 characters that don't begin with hawser"),
        ("/spec/target/tags", json!({"": "me"}), "give tags names of 1 to 512 characters"),
        ("/spec/target/tags", json!({"a": "v".repeat(257)}), "out of bounds"),
        ("/spec/acceptConcerns", json!(["A", "A"]), "is there twice"),
        ("/spec/takeOver", json!("old-cluster/ns/web01.example.com"), OK),
        ("/spec/takeOver", json!("ns/web01"), "give the owner as the condition LedgerOwned names it"),
    ];
    let updates = [
        ("/spec/replication", json!("Paused"), OK),
        ("/spec/syncNow", Value::Null, OK),
        ("/spec/target/resourceGroup", json!("other"), OK),
        ("/spec/disks", Value::Null, OK),
        ("/spec/applianceRef/name", json!("other"), "applianceRef can't be edited"),
        ("/spec/vm/instanceUuid", json!("603c2d3e-7f1a-4c4b-9c0d-0a1b2c3d4e5f"), "vm can't be edited"),
        ("/spec/vm", json!({"moRef": "vm-1"}), "vm can't be edited"),
    ];
    check("ReplicatedVM", &example("replicatedvm-full"), &creations, &updates);
}

#[test]
fn blackout_window() {
    let creations = [
        ("/spec/applianceSelector", json!({}), "give applianceRefs or applianceSelector: one of them, not both"),
        ("/spec/applianceRefs", Value::Null, "give applianceRefs or applianceSelector: one of them, not both"),
        ("/spec", json!({"applianceSelector": {"matchLabels": {"site": "nord"}}, "windows": ["Monday;7:00;7h"]}), OK),
        ("/spec/applianceRefs", json!([]), "out of bounds"),
        ("/spec/applianceRefs", json!([{"name": "a"}, {"name": "a"}]), "is there twice"),
        ("/spec/applianceRefs/0/name", json!("A"), "give the name of the object in this namespace"),
        ("/spec/timeZone", json!("Berlin time"), "give an IANA time zone"),
        ("/spec/windows", json!([]), "out of bounds"),
        ("/spec/windows/0", json!("Wednesday;2:00;90m"), "is there twice"),
        ("/spec/windows/0", json!("Sunday;00:00;7d"), OK),
        ("/spec/windows/0", json!("Mon;7:00;7h"), "write day, start and length with semicolons, such as Monday;7:00;7h"),
        ("/spec/windows/0", json!("Monday;24:00;7h"), "write day, start and length with semicolons"),
        ("/spec/windows/0", json!("Monday;7:00"), "write day, start and length with semicolons"),
        ("/spec/windows/0", json!("Monday;7:00;"), "give a length between one minute and seven days"),
        ("/spec/windows/0", json!("Monday;7:00;8d"), "give a length between one minute and seven days"),
    ];
    check("BlackoutWindow", &example("blackoutwindow-full"), &creations, &[("/spec/windows", json!(["Monday;7:00;7h"]), OK)]);
}

fn cycle() -> Value {
    serde_yaml_ng::from_str(include_str!("support/cycle.yaml")).unwrap()
}

#[test]
fn replication_cycle() {
    let kept = "only worker, allotment and cancel of a cycle can be edited";
    let other = "703c2d3e-7f1a-4c4b-9c0d-0a1b2c3d4e5f";
    let creations = [
        ("/spec/vmRef/name", json!("Web"), "give the name of the object in this namespace"),
        ("/spec/worker", json!("Web"), "give the name of the object in this namespace"),
        ("/spec/worker", Value::Null, OK),
        ("/spec/cycle", json!(0), "out of bounds"),
        ("/spec/disks", json!([]), "out of bounds"),
        ("/spec/incarnation", json!("z03c2d3e-7f1a-4c4b-9c0d-0a1b2c3d4e5f"), "give the ledger's incarnation, a UUID"),
        ("/spec/vm/vcenterUuid", json!("z03c2d3e-7f1a-4c4b-9c0d-0a1b2c3d4e5f"), "give the vCenter's instance UUID"),
        ("/spec/vm/instanceUuid", json!("z03c2d3e-7f1a-4c4b-9c0d-0a1b2c3d4e5f"), "give the VM's instance UUID"),
        ("/spec/allotment/disks", json!(-1), "out of bounds"),
    ];
    let updates = [
        ("/spec/worker", json!("another-pod"), OK),
        ("/spec/worker", Value::Null, OK),
        ("/spec/allotment/disks", json!(0), OK),
        ("/spec/cancel", json!({"reason": "Stopped"}), OK),
        ("/spec/vmRef/name", json!("web02"), kept),
        ("/spec/applianceRef/name", json!("other"), kept),
        ("/spec/cycle", json!(8), kept),
        ("/spec/incarnation", json!(other), kept),
        ("/spec/owner/cluster", json!("other"), kept),
        ("/spec/vm/moRef", json!("vm-2"), kept),
        ("/spec/kind", json!("Initial"), kept),
        ("/spec/basis", json!(7), kept),
        ("/spec/disks/0/capacityBytes", json!(1), kept),
        ("/spec/disks/1/mode", json!("Changed"), kept),
        ("/spec/quiesce", json!("Try"), kept),
        ("/spec/syncNow", json!("tuesday"), kept),
        ("/spec/syncNow", Value::Null, kept),
    ];
    // A cycle that was cancelled stays so; it is the second base.
    let kind = Kind::of("ReplicationCycle");
    let cancelled = kind.admit(&with(&cycle(), "/spec/cancel", json!({"reason": "Stopped"})), None).unwrap();
    for edit in [Value::Null, json!({"reason": "Other"})] {
        let errors = kind.admit(&with(&cancelled, "/spec/cancel", edit), Some(&cancelled)).unwrap_err();
        assert!(errors.iter().any(|error| error.contains("cancel can't be taken back")), "{errors:?}");
    }
    kind.admit(&with(&cancelled, "/spec/worker", json!("another-pod")), Some(&cancelled)).unwrap();
    let elsewhere = ["cancel can't be taken back: the next cycle covers the same ground"];
    check_with("ReplicationCycle", &cycle(), &creations, &updates, &elsewhere);

    // No field was forgotten in the rule, today or when one is added.
    let edited: Vec<&str> =
        updates.iter().filter(|(.., told)| *told == kept).map(|(pointer, ..)| pointer.split('/').nth(2).unwrap()).collect();
    for field in kind.schema["properties"]["spec"]["properties"].as_object().unwrap().keys() {
        let editable = crds::replication_cycle::EDITABLE.contains(&field.as_str());
        assert_ne!(editable, edited.contains(&field.as_str()), "{field} is editable, or an edit of it is refused in the table above");
    }
}
