use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};

use super::*;
use crate::vm::test_support::appliance;

fn settings() -> Settings {
    Settings { cluster: "prod".into(), worker_image: "hawser/worker:1".into(), worker_service_account: "hawser-worker".into() }
}

fn built(appliance: &Appliance, component: Component) -> Deployment {
    serde_json::from_value(deployment(appliance, component, &settings())).unwrap()
}

#[test]
fn pods_have_no_more_than_their_component_needs() {
    for component in [Component::Gateway, Component::Applier] {
        let deployment = built(&appliance(json!({})), component);
        let pod = deployment.spec.template.spec.unwrap();
        let security = pod.security_context.as_ref().unwrap();
        assert_eq!((security.run_as_non_root, security.seccomp_profile.as_ref().unwrap().type_.as_str()), (Some(true), "RuntimeDefault"));
        let container = pod.containers[0].security_context.as_ref().unwrap();
        assert_eq!((container.allow_privilege_escalation, container.read_only_root_filesystem), (Some(false), Some(true)));
        assert_eq!(container.capabilities.as_ref().unwrap().drop.as_deref(), Some(&["ALL".to_owned()][..]));
        let mounted: Vec<&str> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
        if component == Component::Gateway {
            assert_eq!(mounted, ["worker", "key", "vcenter", "vddk", "tmp"]);
            assert_eq!(pod.automount_service_account_token, Some(true));
        } else {
            assert_eq!(mounted, ["worker", "key", "tmp"]);
            assert_eq!(pod.automount_service_account_token, Some(false));
        }
        // What is not mounted is not there: every volume has its mount, but for none.
        let mounts: Vec<&str> = pod.containers[0].volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
        assert_eq!(mounts, mounted);
    }
}

#[test]
fn a_change_that_workers_have_to_see_rolls_them_and_no_other() {
    let digest = |appliance: &Appliance| {
        let template = built(appliance, Component::Gateway).spec.template;
        template.metadata.unwrap().annotations.unwrap()["hawser.dev/file"].clone()
    };
    let plain = digest(&appliance(json!({})));
    assert_eq!(plain, digest(&appliance(json!({ "limits": { "parallelDisks": 3 } }))));
    assert_ne!(plain, digest(&appliance(json!({ "logStore": { "accountUrl": "https://other.blob.core.windows.net" } }))));
}

#[test]
fn no_secret_stands_in_a_file() {
    let with_secret = appliance(json!({ "azure": {
        "subscriptionId": "22222222-2222-4222-8222-222222222222", "resourceGroup": "hawser", "location": "westeurope",
        "credentials": { "type": "ClientSecret", "tenantId": "t", "clientId": "c", "clientSecretRef": { "name": "azure" } },
        "caBundleRef": { "kind": "Secret", "name": "proxy", "key": "bundle.pem" },
    }}));
    let config: ConfigMap = serde_json::from_value(config_map(&with_secret, Component::Applier, "prod")).unwrap();
    let text = &config.data.unwrap()["applier.yaml"];
    let file: Value = serde_json::from_str(text).unwrap();
    assert_eq!(file["logStore"]["identity"]["clientSecret"]["secretFile"], "/etc/hawser/azure/clientSecret");
    assert_eq!((file["cluster"].as_str(), file["logStore"]["caFile"].as_str()), (Some("prod"), Some("/etc/hawser/azure-ca/ca.crt")));
    assert!(file.get("vcenter").is_none() && file.get("appliance").is_none());
    let deployment = built(&with_secret, Component::Applier);
    let volumes = deployment.spec.template.spec.unwrap().volumes.unwrap();
    let bundle = volumes.iter().find(|volume| volume.name == "azure-ca").unwrap().secret.as_ref().unwrap();
    assert_eq!(bundle.items.as_ref().unwrap()[0].path, "ca.crt");
}

#[test]
fn an_external_applier_has_no_pods_here() {
    let external = appliance(json!({ "applier": { "mode": "External", "replicas": 3 } }));
    assert_eq!((Component::Applier.wanted(&external), Component::Gateway.wanted(&external)), (0, 1));
}

#[test]
fn an_azure_token_is_projected_for_a_tenant_and_client() {
    let azure = |credentials: Value| {
        json!({ "azure": {
            "subscriptionId": "22222222-2222-4222-8222-222222222222", "resourceGroup": "hawser", "location": "westeurope",
            "credentials": credentials,
        }})
    };
    let named = built(&appliance(azure(json!({ "tenantId": "t", "clientId": "c" }))), Component::Applier);
    let pod = named.spec.template.spec.unwrap();
    let volume = pod.volumes.unwrap().into_iter().find(|volume| volume.name == "azure-identity-token").unwrap();
    let source = volume.projected.unwrap().sources.unwrap().remove(0).service_account_token.unwrap();
    assert_eq!(source.audience.as_deref(), Some("api://AzureADTokenExchange"));
    let env: Vec<String> = pod.containers[0].env.iter().flatten().map(|one| one.name.clone()).collect();
    assert!(env.contains(&"AZURE_FEDERATED_TOKEN_FILE".to_owned()), "{env:?}");
    let plain = built(&appliance(azure(json!({}))), Component::Applier).spec.template;
    assert_eq!(plain.metadata.unwrap().labels.unwrap()["azure.workload.identity/use"], "true");
    assert_eq!(plain.spec.unwrap().containers[0].env.as_ref().unwrap().len(), 1);
}
