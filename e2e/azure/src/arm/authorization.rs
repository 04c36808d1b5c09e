//! Microsoft.Authorization: the caller's permissions, role assignments, role definitions.

use uuid::Uuid;

use super::error::ArmError;
use super::path::{ArmPath, ResourceId};
use super::request::{Answer, Call, Outcome};
use super::route::page;
use super::schema::{Style, parse};
use super::shapes;
use super::world::World;

/// A call to Microsoft.Authorization at the scope of its path.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn route(world: &mut World, call: &Call, kind: &str, names: &[String]) -> Outcome {
    let scope = call.path.scope();
    check_scope(world, &call.path, &scope)?;
    let name = names.first().map(String::as_str);
    match (kind, name, call.method.as_str()) {
        ("permissions", None, "GET") => Ok(page(world.rbac.permissions(&call.caller.object_id, &scope, call.now))),
        ("roleDefinitions", None, "GET") => definitions(world, call),
        ("roleDefinitions", Some(name), "GET") => {
            let found = world.rbac.definitions().find(|role| role["name"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(name)));
            found.map(Answer::ok).ok_or_else(|| {
                ArmError::new(404, "RoleDefinitionDoesNotExist", format!("The specified role definition with ID '{name}' does not exist."))
            })
        }
        ("roleAssignments", None, "GET") => list(world, call, &scope),
        ("roleAssignments", Some(name), "GET") => {
            let id = assignment_id(name)?;
            let found = world.rbac.assignments.iter().find(|a| a.id == id && a.until.is_none());
            found.map(|a| Answer::ok(world.rbac.show(a))).ok_or_else(|| no_assignment(name))
        }
        ("roleAssignments", Some(name), "PUT") => put(world, call, &scope, name),
        ("roleAssignments", Some(name), "DELETE") => {
            let id = assignment_id(name)?;
            let removed = world.rbac.remove(|a| a.id == id, call.now, false);
            Ok(removed.map_or_else(|| Answer::empty(204), |a| Answer::ok(world.rbac.show(&a))))
        }
        _ => Err(ArmError::new(
            405,
            "HttpMethodNotSupported",
            format!("The http method '{}' is not supported for this resource.", call.method),
        )),
    }
}

fn check_scope(world: &World, path: &ArmPath, scope: &str) -> Result<(), ArmError> {
    if path.providers.len() > 1 {
        let id = ResourceId::parse(scope, "scope")?;
        let key = &id.key;
        let there = world.volumes.contains_key(key)
            || world.nics.contains_key(key)
            || world.vms.contains_key(key)
            || world.networks.contains_key(key)
            || world.fixtures.contains_key(key)
            || id.child.is_some();
        if !there {
            return Err(ArmError::not_found(&format!("{}/{}", id.namespace, id.kind), &id.name, &id.group));
        }
    }
    Ok(())
}

fn assignment_id(name: &str) -> Result<Uuid, ArmError> {
    Uuid::parse_str(name).map_err(|_| {
        ArmError::new(
            400,
            "InvalidRoleAssignmentId",
            format!("The role assignment ID '{name}' is not valid. The role assignment ID must be a GUID."),
        )
    })
}

fn no_assignment(name: &str) -> ArmError {
    ArmError::new(404, "RoleAssignmentNotFound", format!("The role assignment '{name}' is not found."))
}

fn definitions(world: &World, call: &Call) -> Outcome {
    let all = world.rbac.definitions();
    match call.query("$filter").map(filter) {
        None => Ok(page(all.collect())),
        Some(Some(("roleName", value))) => Ok(page(all.filter(|role| role["properties"]["roleName"] == value.as_str()).collect())),
        Some(_) => Err(unsupported_filter(call)),
    }
}

/// `assignedTo('x')`, `principalId eq 'x'`, `roleName eq 'x'`: the property and the value.
fn filter(text: &str) -> Option<(&'static str, String)> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("atScope()") {
        return Some(("atScope", String::new()));
    }
    if let Some(value) = text.strip_prefix("assignedTo('").and_then(|rest| rest.strip_suffix("')")) {
        return Some(("assignedTo", value.to_owned()));
    }
    let (name, value) = text.split_once(" eq ")?;
    let value = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    let name = ["principalId", "roleName"].into_iter().find(|known| known.eq_ignore_ascii_case(name.trim()))?;
    Some((name, value.to_owned()))
}

fn unsupported_filter(call: &Call) -> ArmError {
    let text = call.query("$filter").unwrap_or_default();
    ArmError::new(
        400,
        "UnsupportedQuery",
        format!(
            "The filter '{text}' is not supported. Supported filters are either 'atScope()' or 'principalId eq '{{value}}' or assignedTo('{{value}}')'."
        ),
    )
}

fn list(world: &World, call: &Call, scope: &str) -> Outcome {
    let filter = match call.query("$filter").map(filter) {
        None => None,
        Some(Some(filter)) if filter.0 != "roleName" => Some(filter),
        Some(_) => return Err(unsupported_filter(call)),
    };
    let shown = world.rbac.assignments.iter().filter(|a| a.until.is_none()).filter(|a| {
        // At the scope, above it, and (without atScope) below it.
        let above = super::rbac::covers(&a.scope, scope);
        let below = super::rbac::covers(scope, &a.scope);
        match &filter {
            Some(("atScope", _)) => above,
            Some((_, principal)) => (above || below) && a.principal.eq_ignore_ascii_case(principal),
            None => above || below,
        }
    });
    Ok(page(shown.map(|a| world.rbac.show(a)).collect()))
}

fn put(world: &mut World, call: &Call, scope: &str, name: &str) -> Outcome {
    let id = assignment_id(name)?;
    let body = parse(&call.body, &shapes::ROLE_ASSIGNMENT, Style::Compute)?;
    let definition = body["properties"]["roleDefinitionId"].as_str().unwrap_or_default();
    let role = definition.rsplit('/').next().and_then(|id| Uuid::parse_str(id).ok()).and_then(|id| world.rbac.role(&id.to_string()));
    let Some(role) = role.filter(|_| definition.to_ascii_lowercase().contains("/roledefinitions/")) else {
        return Err(ArmError::new(
            400,
            "RoleDefinitionDoesNotExist",
            format!("The specified role definition with ID '{definition}' does not exist."),
        ));
    };
    let principal = body["properties"]["principalId"].as_str().unwrap_or_default();
    if !call.state.config.principals.iter().any(|known| known.object_id.eq_ignore_ascii_case(principal)) {
        return Err(ArmError::new(
            400,
            "PrincipalNotFound",
            format!(
                "Principal {} does not exist in the directory {}. Check that you have the correct principal ID.",
                principal.replace('-', ""),
                call.state.config.tenant
            ),
        ));
    }
    if let Some(known) = world.rbac.assignments.iter().find(|a| a.id == id && a.until.is_none()) {
        let same = known.role.id == role.id && known.principal.eq_ignore_ascii_case(principal) && known.scope.eq_ignore_ascii_case(scope);
        if !same {
            return Err(ArmError::new(
                409,
                "RoleAssignmentUpdateNotPermitted",
                "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
            ));
        }
        return Ok(Answer::ok(world.rbac.show(known)));
    }
    let assignment = world.rbac.assign(id, principal, role, scope, call.now, false)?;
    Ok(Answer { status: 201, headers: Vec::new(), body: Some(world.rbac.show(&assignment)) })
}
