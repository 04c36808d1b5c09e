//! Where a call goes: what exists, in which versions, and which action it needs.

use std::borrow::Cow;

use super::error::ArmError;
use super::path::ArmPath;
use super::request::{Answer, Call, Outcome};
use super::world::{Kind, World};
use super::{access, authorization, catalog, disks, nics, power, snapshots, vms, volumes};
use crate::config::Registration;

/// Versions of Microsoft.Compute's disks that are served (azure-rest-api-specs, DiskRP).
const DISKS: &[&str] = &["2023-04-02", "2023-10-02", "2024-03-02", "2025-01-02", "2026-03-02"];
/// Of its virtual machines (ComputeRP).
const MACHINES: &[&str] = &["2024-03-01", "2024-07-01", "2024-11-01", "2025-04-01", "2026-03-01", "2026-04-01"];
/// Of its list of sizes (Skus).
const SKUS: &[&str] = &["2019-04-01", "2021-07-01"];
/// Of operations' URLs: they have the version of the call that began them.
const OPERATIONS: &[&str] = &[
    "2023-04-02",
    "2023-10-02",
    "2024-03-01",
    "2024-03-02",
    "2024-07-01",
    "2024-11-01",
    "2025-01-02",
    "2025-04-01",
    "2026-03-01",
    "2026-03-02",
    "2026-04-01",
];
/// Of Microsoft.Network.
const NETWORK: &[&str] =
    &["2024-01-01", "2024-03-01", "2024-05-01", "2024-07-01", "2024-10-01", "2025-01-01", "2025-03-01", "2025-05-01", "2026-01-01"];
/// Of Microsoft.Storage.
const STORAGE: &[&str] = &["2023-01-01", "2023-05-01", "2024-01-01", "2025-01-01", "2025-06-01"];
/// Of Microsoft.Authorization.
const AUTHORIZATION: &[&str] = &["2018-01-01-preview", "2018-07-01", "2020-10-01-preview", "2022-04-01", "2022-05-01-preview"];
/// Of subscriptions, resource groups and providers.
const RESOURCES: &[&str] =
    &["2021-01-01", "2021-04-01", "2022-09-01", "2022-12-01", "2024-03-01", "2024-07-01", "2024-11-01", "2025-03-01", "2025-04-01"];

/// A resource type.
struct Type {
    namespace: &'static str,
    kind: &'static str,
    versions: &'static [&'static str],
}

const TYPES: &[Type] = &[
    Type { namespace: "Microsoft.Compute", kind: "disks", versions: DISKS },
    Type { namespace: "Microsoft.Compute", kind: "snapshots", versions: DISKS },
    Type { namespace: "Microsoft.Compute", kind: "virtualMachines", versions: MACHINES },
    Type { namespace: "Microsoft.Compute", kind: "virtualMachines/instanceView", versions: MACHINES },
    Type { namespace: "Microsoft.Compute", kind: "skus", versions: SKUS },
    Type { namespace: "Microsoft.Compute", kind: "locations/usages", versions: MACHINES },
    Type { namespace: "Microsoft.Compute", kind: "locations/DiskOperations", versions: OPERATIONS },
    Type { namespace: "Microsoft.Compute", kind: "locations/operations", versions: OPERATIONS },
    Type { namespace: "Microsoft.Network", kind: "networkInterfaces", versions: NETWORK },
    Type { namespace: "Microsoft.Network", kind: "virtualNetworks", versions: NETWORK },
    Type { namespace: "Microsoft.Network", kind: "virtualNetworks/subnets", versions: NETWORK },
    Type { namespace: "Microsoft.Network", kind: "networkSecurityGroups", versions: NETWORK },
    Type { namespace: "Microsoft.Network", kind: "locations/operations", versions: NETWORK },
    Type { namespace: "Microsoft.Network", kind: "locations/operationResults", versions: NETWORK },
    Type { namespace: "Microsoft.Storage", kind: "storageAccounts", versions: STORAGE },
    Type { namespace: "Microsoft.Storage", kind: "checkNameAvailability", versions: STORAGE },
    Type { namespace: "Microsoft.Authorization", kind: "permissions", versions: AUTHORIZATION },
    Type { namespace: "Microsoft.Authorization", kind: "roleAssignments", versions: AUTHORIZATION },
    Type { namespace: "Microsoft.Authorization", kind: "roleDefinitions", versions: AUTHORIZATION },
];

/// Segments after the namespace, as type, names and action.
struct Parts {
    kind: String,
    names: Vec<String>,
    action: Option<String>,
}

fn parts(method: &str, segments: &[String]) -> Parts {
    let mut segments = segments;
    let mut action = None;
    if method == "POST" && segments.len() >= 3 && segments.len() % 2 == 1 {
        action = segments.last().cloned();
        segments = &segments[..segments.len() - 1];
    }
    let kind = segments.iter().step_by(2).cloned().collect::<Vec<_>>().join("/");
    Parts { kind, names: segments.iter().skip(1).step_by(2).cloned().collect(), action }
}

/// What counters call an operation.
#[must_use]
pub fn operation(method: &str, path: &ArmPath) -> String {
    let canonical = |namespace: &str, kind: &str| {
        TYPES
            .iter()
            .find(|t| t.namespace.eq_ignore_ascii_case(namespace) && t.kind.eq_ignore_ascii_case(kind))
            .map_or_else(|| format!("{namespace}/{kind}"), |t| format!("{}/{}", t.namespace, t.kind))
    };
    match path.last() {
        None if path.lists_providers => format!("{method} providers"),
        None if path.group.is_some() || path.lists_groups => format!("{method} resourceGroups"),
        None => format!("{method} subscriptions"),
        Some((namespace, [])) => format!("{method} providers/{namespace}"),
        Some((namespace, [only])) if method == "POST" => format!("{method} {}", canonical(namespace, only)),
        Some((namespace, segments)) => {
            let parts = parts(method, segments);
            match parts.action {
                Some(action) => format!("{method} {}/{action}", canonical(namespace, &parts.kind)),
                None => format!("{method} {}", canonical(namespace, &parts.kind)),
            }
        }
    }
}

fn check_version(call: &Call, versions: &[&str], refuse: impl Fn(&str) -> ArmError) -> Result<(), ArmError> {
    let version = call.version.as_str();
    if version.is_empty() {
        return Err(ArmError::new(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        ));
    }
    let digits = |range: std::ops::Range<usize>| version.get(range).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let dashes = version.get(4..5) == Some("-") && version.get(7..8) == Some("-");
    let tail = version.get(10..).is_some_and(|tail| tail.is_empty() || tail == "-preview");
    if !digits(0..4) || !digits(5..7) || !digits(8..10) || !dashes || !tail {
        return Err(ArmError::new(
            400,
            "InvalidApiVersionParameter",
            format!("The api-version '{version}' is invalid. The supported versions are '{}'.", versions.join(",")),
        ));
    }
    if versions.contains(&version) { Ok(()) } else { Err(refuse(version)) }
}

/// Sends a call where it belongs.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn route(world: &mut World, call: &Call) -> Outcome {
    let resources = |version: &str| {
        ArmError::new(
            400,
            "InvalidApiVersionParameter",
            format!("The api-version '{version}' is invalid. The supported versions are '{}'.", RESOURCES.join(",")),
        )
    };
    let Some(subscription) = &call.path.subscription else {
        check_version(call, RESOURCES, resources)?;
        return Err(ArmError::new(404, "InvalidResourceType", "This simulator serves what is below /subscriptions/{id}."));
    };
    let known = subscription.eq_ignore_ascii_case(&call.state.config.subscription);
    match call.path.last() {
        None => {
            check_version(call, RESOURCES, resources)?;
            known_subscription(known, subscription)?;
            catalog::subscription_level(world, call)
        }
        Some((namespace, [])) => {
            check_version(call, RESOURCES, resources)?;
            known_subscription(known, subscription)?;
            may(world, call, "Microsoft.Resources/subscriptions/providers/read")?;
            catalog::provider(world, call, namespace)
        }
        Some((namespace, [verb])) if call.method == "POST" && matches!(verb.to_ascii_lowercase().as_str(), "register" | "unregister") => {
            check_version(call, RESOURCES, resources)?;
            known_subscription(known, subscription)?;
            let namespace = provider_name(world, namespace).ok_or_else(|| no_namespace(namespace))?;
            may(world, call, &format!("{namespace}/{}/action", verb.to_ascii_lowercase()))?;
            catalog::register(world, call, &namespace, verb.eq_ignore_ascii_case("register"))
        }
        Some((namespace, segments)) => provider(world, call, namespace, segments, known),
    }
}

fn known_subscription(known: bool, subscription: &str) -> Result<(), ArmError> {
    if known {
        return Ok(());
    }
    Err(ArmError::new(404, "SubscriptionNotFound", format!("The subscription '{subscription}' could not be found.")))
}

fn no_namespace(namespace: &str) -> ArmError {
    ArmError::new(404, "InvalidResourceNamespace", format!("The resource namespace '{namespace}' is invalid."))
}

fn provider_name(world: &World, namespace: &str) -> Option<String> {
    world.providers.keys().find(|known| known.eq_ignore_ascii_case(namespace)).cloned()
}

/// Refuses what the caller may not do at the scope of its path.
pub(super) fn may(world: &World, call: &Call, action: &str) -> Result<(), ArmError> {
    let mut scope = call.path.scope();
    let own = call.path.last().filter(|(namespace, _)| !namespace.eq_ignore_ascii_case("Microsoft.Authorization"));
    if let Some((namespace, segments)) = own {
        let parts = parts(&call.method, segments);
        let kinds: Vec<&str> = parts.kind.split('/').collect();
        if !parts.names.is_empty() && parts.names.len() == kinds.len() && !kinds[0].eq_ignore_ascii_case("locations") {
            scope = format!("{scope}/providers/{namespace}");
            for (kind, name) in kinds.iter().zip(&parts.names) {
                scope = format!("{scope}/{kind}/{name}");
            }
        }
    }
    world.rbac.check(&call.caller, action, &scope, call.now)
}

fn provider(world: &mut World, call: &Call, namespace: &str, segments: &[String], known: bool) -> Outcome {
    let Some(real) = provider_name(world, namespace) else { return Err(no_namespace(namespace)) };
    let parts = parts(&call.method, segments);
    let Some(found) = TYPES.iter().find(|t| t.namespace.eq_ignore_ascii_case(&real) && t.kind.eq_ignore_ascii_case(&parts.kind)) else {
        let message =
            format!("The resource type '{}' could not be found in the namespace '{real}' for api version '{}'.", parts.kind, call.version);
        let unknown = ArmError::new(404, "InvalidResourceType", message);
        check_version(call, &[], |_| unknown.clone())?;
        return Err(unknown);
    };
    check_version(call, found.versions, |version| {
        ArmError::new(
            400,
            "NoRegisteredProviderFound",
            format!(
                "No registered resource provider found for location '{}' and API version '{version}' for type '{}'. The supported api-versions \
                 are '{}'. The supported locations are '{}'.",
                call.state.config.locations.first().map_or("", String::as_str),
                found.kind,
                found.versions.join(", "),
                call.state.config.locations.join(", ")
            ),
        )
    })?;
    known_subscription(known, call.subscription())?;

    let verb: Cow<'static, str> = match (call.method.as_str(), &parts.action) {
        ("GET" | "HEAD", _) => "read".into(),
        ("PUT" | "PATCH", _) => "write".into(),
        ("DELETE", _) => "delete".into(),
        ("POST", Some(action)) => format!("{}/action", action_name(action)).into(),
        ("POST", None) if found.kind == "checkNameAvailability" => "read".into(),
        _ => return Err(no_method(call)),
    };
    // The URL of a disk's operation is signed: whoever was given it may follow it, by no action of a role.
    if found.kind != "locations/DiskOperations" {
        may(world, call, &format!("{real}/{}/{verb}", found.kind))?;
    }
    if world.providers.get(&real) != Some(&Registration::Registered) && real != "Microsoft.Authorization" {
        return Err(ArmError::new(
            409,
            "MissingSubscriptionRegistration",
            format!(
                "The subscription is not registered to use namespace '{real}'. See https://aka.ms/rps-not-found for how to register subscriptions."
            ),
        ));
    }
    if let Some(group) = call.path.group.as_ref().filter(|group| !world.groups.contains_key(&group.to_ascii_lowercase())) {
        return Err(ArmError::new(404, "ResourceGroupNotFound", format!("Resource group '{group}' could not be found.")));
    }
    if real == "Microsoft.Authorization" {
        return authorization::route(world, call, found.kind, &parts.names);
    }
    dispatch(world, call, found, &parts)
}

/// Actions' names as roles have them, whatever their case in the path.
fn action_name(action: &str) -> String {
    const KNOWN: &[&str] = &["beginGetAccess", "endGetAccess", "start", "powerOff", "deallocate", "restart"];
    KNOWN.iter().find(|known| known.eq_ignore_ascii_case(action)).map_or_else(|| action.to_owned(), |known| (*known).to_owned())
}

fn no_method(call: &Call) -> ArmError {
    ArmError::new(405, "HttpMethodNotSupported", format!("The http method '{}' is not supported for this resource.", call.method))
}

fn dispatch(world: &mut World, call: &Call, found: &Type, parts: &Parts) -> Outcome {
    let names: Vec<&str> = parts.names.iter().map(String::as_str).collect();
    let method = call.method.as_str();
    let grouped = call.path.group.is_some();
    match (found.kind, names.as_slice(), method) {
        ("disks", [], "GET") => Ok(volumes::list(world, call, Kind::Disk)),
        ("snapshots", [], "GET") => Ok(volumes::list(world, call, Kind::Snapshot)),
        ("disks", [name], _) if grouped => match (method, parts.action.as_deref()) {
            ("GET", None) => volumes::get(world, call, Kind::Disk, name),
            ("PUT", None) => disks::put(world, call, name),
            ("PATCH", None) => disks::patch(world, call, name),
            ("DELETE", None) => volumes::delete(world, call, Kind::Disk, name),
            ("POST", Some(action)) => access::post(world, call, Kind::Disk, name, action),
            _ => Err(no_method(call)),
        },
        ("snapshots", [name], _) if grouped => match (method, parts.action.as_deref()) {
            ("GET", None) => volumes::get(world, call, Kind::Snapshot, name),
            ("PUT", None) => snapshots::put(world, call, name),
            ("PATCH", None) => snapshots::patch(world, call, name),
            ("DELETE", None) => volumes::delete(world, call, Kind::Snapshot, name),
            ("POST", Some(action)) => access::post(world, call, Kind::Snapshot, name, action),
            _ => Err(no_method(call)),
        },
        ("virtualMachines", [], "GET") => Ok(vms::list(world, call)),
        ("virtualMachines", [name], _) if grouped => match (method, parts.action.as_deref()) {
            ("GET", None) => vms::get(world, call, name),
            ("PUT", None) => vms::put(world, call, name),
            ("DELETE", None) => vms::delete(world, call, name),
            ("POST", Some(action)) => power::post(world, call, name, action),
            ("PATCH", None) => Err(ArmError::unsupported("PATCH of virtualMachines")),
            _ => Err(no_method(call)),
        },
        ("virtualMachines/instanceView", [name], "GET") if grouped => vms::instance_view(world, call, name),
        ("skus", [], "GET") => Ok(catalog::skus(call)),
        ("locations/usages", [location], "GET") => catalog::usages(world, call, location),
        ("locations/DiskOperations" | "locations/operations" | "locations/operationResults", [location, id], "GET") => {
            let kind = found.kind.trim_start_matches("locations/");
            world.show_operation(call, kind, location, id)
        }
        ("networkInterfaces", [], "GET") => Ok(nics::list(world, call)),
        ("networkInterfaces", [name], "GET") if grouped => nics::get(world, call, name),
        ("networkInterfaces", [name], "PUT") if grouped => nics::put(world, call, name),
        ("networkInterfaces", [name], "PATCH") if grouped => nics::patch(world, call, name),
        ("networkInterfaces", [name], "DELETE") if grouped => nics::delete(world, call, name),
        ("virtualNetworks", [], "GET") => Ok(catalog::networks(world, call)),
        ("virtualNetworks", [name], "GET") if grouped => catalog::network(world, call, name),
        ("virtualNetworks/subnets", [network], "GET") if grouped => catalog::subnets(world, call, network),
        ("virtualNetworks/subnets", [network, subnet], "GET") if grouped => catalog::subnet(world, call, network, subnet),
        ("networkSecurityGroups" | "storageAccounts", [], "GET") => Ok(catalog::fixtures(world, call, found.namespace, found.kind)),
        ("networkSecurityGroups" | "storageAccounts", [name], "GET") if grouped => {
            catalog::fixture(world, call, found.namespace, found.kind, name)
        }
        (
            "networkSecurityGroups" | "storageAccounts" | "virtualNetworks" | "virtualNetworks/subnets",
            _,
            "PUT" | "PATCH" | "DELETE" | "POST",
        ) => Err(ArmError::unsupported(&format!("{method} of {}: declare it in the simulator's configuration", found.kind))),
        ("checkNameAvailability", [], "POST") => catalog::check_name(world, call),
        _ => Err(no_method(call)),
    }
}

/// A page of a list: Azure pages at 100 or more; all fits here.
#[must_use]
pub fn page(values: Vec<serde_json::Value>) -> Answer {
    Answer::ok(serde_json::json!({ "value": values }))
}
