//! Role assignments: what they allow, where, and since when.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::sim::{
    AUTHORIZATION, GROUP, LINKED, MIB, NOBODY, NOBODY_OBJECT, READER, RESOURCES, Sim, act, copy_body, disk, empty_body, id, nic, nic_body,
    upload_body, vm, vm_body,
};

const CONTRIBUTOR: &str = "/subscriptions/22222222-2222-4222-8222-222222222222/providers/Microsoft.Authorization/roleDefinitions/b24988ac-6180-42a0-ab88-20f7382dd24c";

fn assignment(scope: &str) -> String {
    format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{}?api-version={AUTHORIZATION}", Uuid::new_v4())
}

fn body() -> Value {
    json!({ "properties": { "roleDefinitionId": CONTRIBUTOR, "principalId": NOBODY_OBJECT, "principalType": "ServicePrincipal" } })
}

#[tokio::test]
async fn a_reader_does_not_write() {
    let sim = Sim::start().await;
    sim.call_as(READER, "GET", &disk("a"), None).await.is(404);
    let refused = sim.call_as(READER, "PUT", &disk("a"), Some(empty_body(1))).await;
    refused.refused(
        403,
        "AuthorizationFailed",
        "does not have authorization to perform action 'Microsoft.Compute/disks/write' over scope '/subscriptions/",
    );
    assert!(refused.message().ends_with("If access was recently granted, please refresh your credentials."), "{}", refused.message());
    assert!(refused.message().contains("with object id '55555555-5555-4555-8555-aaaaaaaaaaaa'"), "{}", refused.message());
    let action = |action: &str| format!("'{action}'");
    sim.call_as(READER, "DELETE", &disk("a"), None).await.refused(403, "AuthorizationFailed", &action("Microsoft.Compute/disks/delete"));
    sim.call_as(READER, "POST", &act("disks", "a", "begingetaccess"), None).await.refused(
        403,
        "AuthorizationFailed",
        &action("Microsoft.Compute/disks/beginGetAccess/action"),
    );
    sim.call_as(READER, "POST", &vm("m").replace("?", "/poweroff?"), None).await.refused(
        403,
        "AuthorizationFailed",
        &action("Microsoft.Compute/virtualMachines/powerOff/action"),
    );
    sim.call_as(READER, "PUT", &nic("n"), Some(nic_body("production"))).await.refused(
        403,
        "AuthorizationFailed",
        "networkInterfaces/write",
    );
    sim.call_as(READER, "PUT", &assignment(GROUP), Some(body())).await.refused(
        403,
        "AuthorizationFailed",
        "Microsoft.Authorization/roleAssignments/write",
    );
    for path in [GROUP.to_owned(), GROUP.replace("/resourceGroups/hawser", "/resourcegroups"), GROUP.replace("/resourceGroups/hawser", "")]
    {
        sim.call_as(NOBODY, "GET", &format!("{path}?api-version={RESOURCES}"), None).await.refused(
            403,
            "AuthorizationFailed",
            "Microsoft.Resources/subscriptions",
        );
    }
}

#[tokio::test]
async fn a_new_role_takes_a_minute() {
    let sim = Sim::start().await;
    let path = assignment(GROUP);
    let put = async || sim.call_as(NOBODY, "PUT", &disk("a"), Some(empty_body(1))).await;
    put().await.is(403);
    let given = sim.put(&path, body()).await;
    assert_eq!(given.is(201).body["properties"]["principalId"], NOBODY_OBJECT);
    put().await.refused(403, "AuthorizationFailed", "If access was recently granted");
    sim.advance(59);
    put().await.is(403);
    sim.advance(1);
    put().await.is(202);
    // Not beyond its scope.
    let group = GROUP.replace("/resourceGroups/hawser", "/resourcegroups/other");
    sim.call_as(NOBODY, "PUT", &format!("{group}?api-version={RESOURCES}"), Some(json!({ "location": "westeurope" }))).await.is(403);
    sim.call_as(NOBODY, "PUT", &assignment(GROUP), Some(body())).await.refused(403, "AuthorizationFailed", "roleAssignments/write");

    sim.put(&path, body()).await.is(200);
    sim.put(&assignment(GROUP), body()).await.refused(409, "RoleAssignmentExists", "already exists");
    sim.delete(&path).await.is(200);
    put().await.is(409);
    sim.advance(60);
    put().await.is(403);
    sim.delete(&path).await.is(204);
}

#[tokio::test]
async fn assignments_that_are_none() {
    let sim = Sim::start().await;
    let mut other = body();
    other["properties"]["principalId"] = json!(Uuid::new_v4());
    sim.put(&assignment(GROUP), other).await.refused(400, "PrincipalNotFound", "does not exist in the directory");
    let mut other = body();
    other["properties"]["roleDefinitionId"] = json!("Contributor");
    sim.put(&assignment(GROUP), other).await.refused(400, "RoleDefinitionDoesNotExist", "'Contributor'");
    sim.put(&format!("{GROUP}/providers/Microsoft.Authorization/roleAssignments/x?api-version={AUTHORIZATION}"), body()).await.refused(
        400,
        "InvalidRoleAssignmentId",
        "must be a GUID",
    );
    sim.put(&assignment(&id("nothing")), body()).await.refused(404, "ResourceNotFound", "disks/nothing");
    let path = assignment(GROUP);
    sim.put(&path, body()).await.is(201);
    let mut other = body();
    other["properties"]["roleDefinitionId"] =
        json!(CONTRIBUTOR.replace("b24988ac-6180-42a0-ab88-20f7382dd24c", "acdd72a7-3385-48ef-bd42-f606fba81ae7"));
    sim.put(&path, other).await.refused(409, "RoleAssignmentUpdateNotPermitted", "not allowed to be updated");
    sim.get(&assignment(GROUP)).await.refused(404, "RoleAssignmentNotFound", "is not found");
    let list =
        |filter: &str| format!("{GROUP}/providers/Microsoft.Authorization/roleAssignments?api-version={AUTHORIZATION}&$filter={filter}");
    sim.get(&list("colour%20eq%20'red'")).await.refused(400, "UnsupportedQuery", "colour");
    let found = sim.get(&list(&format!("assignedTo('{NOBODY_OBJECT}')"))).await;
    assert_eq!(found.is(200).body["value"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn permissions_are_those_of_the_caller() {
    let sim = Sim::start().await;
    let path = format!("{GROUP}/providers/Microsoft.Authorization/permissions?api-version={AUTHORIZATION}");
    assert_eq!(sim.get(&path).await.is(200).body["value"][0]["actions"], json!(["*"]));
    assert_eq!(sim.call_as(READER, "GET", &path, None).await.is(200).body["value"][0]["actions"], json!(["*/read"]));
    sim.call_as(NOBODY, "GET", &path, None).await.refused(403, "AuthorizationFailed", "Microsoft.Authorization/permissions/read");
    sim.state.arm.assign(&sim.state, NOBODY_OBJECT, "Contributor", GROUP, true).unwrap();
    assert!(
        sim.call_as(NOBODY, "GET", &path, None).await.is(200).body["value"][0]["notActions"]
            .as_array()
            .unwrap()
            .contains(&json!("Microsoft.Authorization/*/Write"))
    );
    sim.state.arm.unassign(&sim.state, NOBODY_OBJECT, "Contributor", GROUP, true).unwrap();
    sim.call_as(NOBODY, "GET", &path, None).await.is(403);
    assert!(sim.state.arm.assign(&sim.state, NOBODY_OBJECT, "Emperor", GROUP, true).is_err());
    assert!(sim.state.arm.assign(&sim.state, "nobody", "Reader", GROUP, true).is_err());
    assert!(sim.state.arm.unassign(&sim.state, NOBODY_OBJECT, "Reader", GROUP, true).is_err());
    let one = |id: &str| format!("{GROUP}/providers/Microsoft.Authorization/roleDefinitions/{id}?api-version={AUTHORIZATION}");
    sim.get(&one("b24988ac-6180-42a0-ab88-20f7382dd24c")).await.is(200);
    sim.get(&one("x")).await.refused(404, "RoleDefinitionDoesNotExist", "'x'");
    sim.get(&one("").replace("/?", "?").replace(AUTHORIZATION, &format!("{AUTHORIZATION}&$filter=atScope()"))).await.refused(
        400,
        "UnsupportedQuery",
        "atScope()",
    );
    sim.put(&path, json!({})).await.refused(405, "HttpMethodNotSupported", "'PUT'");
    let definitions = format!(
        "{GROUP}/providers/Microsoft.Authorization/roleDefinitions?api-version={AUTHORIZATION}&$filter=roleName%20eq%20'Contributor'"
    );
    assert_eq!(sim.get(&definitions).await.is(200).body["value"][0]["id"], CONTRIBUTOR);
}

#[tokio::test]
async fn permissions_need_an_action_of_their_own() {
    let sim = Sim::start().await;
    sim.state.arm.assign(&sim.state, NOBODY_OBJECT, "Disks alone", GROUP, true).unwrap();
    let path = format!("{GROUP}/providers/Microsoft.Authorization/permissions?api-version={AUTHORIZATION}");
    sim.call_as(NOBODY, "GET", &path, None).await.refused(403, "AuthorizationFailed", "Microsoft.Authorization/permissions/read");
    // It may all the same: nothing but the question is refused.
    sim.call_as(NOBODY, "PUT", &disk("a"), Some(empty_body(1))).await.is(202);
}

#[tokio::test]
async fn an_operation_is_followed_by_its_url_alone() {
    let sim = Sim::start().await;
    sim.state.arm.assign(&sim.state, NOBODY_OBJECT, "Disks alone", GROUP, true).unwrap();
    let begun = sim.call_as(NOBODY, "PUT", &disk("a"), Some(empty_body(1))).await;
    let url = begun.is(202).header("azure-asyncoperation").to_owned();
    assert_eq!(sim.call_as(NOBODY, "GET", &url, None).await.is(200).body["status"], "InProgress");
}

#[tokio::test]
async fn what_a_body_names_has_to_be_allowed_too() {
    let sim = Sim::start().await;
    let linked = async |path: &str, body: Value, action: &str| {
        let refused = sim.call_as(LINKED, "PUT", path, Some(body)).await;
        refused.refused(
            403,
            "LinkedAuthorizationFailed",
            &format!("does not have permission to perform action(s) '{action}' on the linked scope(s)"),
        );
    };
    sim.sealed("os", json!({})).await;
    sim.nic("card").await;
    linked(&disk("copy"), copy_body(&id("os")), "Microsoft.Compute/disks/beginGetAccess/action").await;
    linked(&vm("m"), vm_body("os", &[], "card"), "Microsoft.Network/networkInterfaces/join/action").await;
    linked(&nic("other"), nic_body("production"), "Microsoft.Network/virtualNetworks/subnets/join/action").await;
    let mut guarded = nic_body("production");
    guarded["properties"]["networkSecurityGroup"] =
        json!({ "id": format!("{GROUP}/providers/Microsoft.Network/networkSecurityGroups/default-nsg") });
    linked(&nic("other"), guarded, "Microsoft.Network/networkSecurityGroups/join/action").await;
    sim.call_as(LINKED, "PUT", &disk("mine"), Some(upload_body(20 * MIB))).await.is(202);
}
