//! What is looked at: subscription, groups, providers, sizes, usage, networks, security groups, storage accounts.

use serde_json::{Value, json};

use super::error::ArmError;
use super::request::{Answer, Call, Outcome};
use super::route::{may, page};
use super::schema::{Style, parse};
use super::shapes;
use super::volumes::{self, id};
use super::world::{Group, Network, World};
use crate::config::{Registration, Size};

/// Calls that go to no provider.
///
/// # Errors
/// AuthorizationFailed (403), ResourceGroupNotFound (404), MethodNotAllowed (405).
pub fn subscription_level(world: &mut World, call: &Call) -> Outcome {
    let method = call.method.as_str();
    let scope = format!("/subscriptions/{}", call.subscription());
    let no_method =
        || ArmError::new(405, "HttpMethodNotSupported", format!("The http method '{method}' is not supported for this resource."));
    if call.path.lists_providers {
        may(world, call, "Microsoft.Resources/subscriptions/providers/read")?;
        let shown = world.providers.iter().map(|(name, state)| show_provider(call, name, *state)).collect();
        return if method == "GET" { Ok(page(shown)) } else { Err(no_method()) };
    }
    if call.path.lists_groups {
        may(world, call, "Microsoft.Resources/subscriptions/resourceGroups/read")?;
        let shown = world.groups.values().map(|group| show_group(&scope, group)).collect();
        return if method == "GET" { Ok(page(shown)) } else { Err(no_method()) };
    }
    let Some(name) = &call.path.group else {
        may(world, call, "Microsoft.Resources/subscriptions/read")?;
        return if method == "GET" {
            Ok(Answer::ok(json!({
                "id": scope, "subscriptionId": call.subscription(), "tenantId": call.state.config.tenant, "displayName": "Sandbox", "state": "Enabled",
                "authorizationSource": "RoleBased",
            })))
        } else {
            Err(no_method())
        };
    };
    let key = name.to_ascii_lowercase();
    let missing = || ArmError::new(404, "ResourceGroupNotFound", format!("Resource group '{name}' could not be found."));
    match method {
        "GET" => {
            may(world, call, "Microsoft.Resources/subscriptions/resourceGroups/read")?;
            Ok(Answer::ok(show_group(&scope, world.groups.get(&key).ok_or_else(missing)?)))
        }
        "HEAD" => {
            may(world, call, "Microsoft.Resources/subscriptions/resourceGroups/read")?;
            Ok(Answer::empty(if world.groups.contains_key(&key) { 204 } else { 404 }))
        }
        "PUT" => {
            may(world, call, "Microsoft.Resources/subscriptions/resourceGroups/write")?;
            put_group(world, call, &scope, name)
        }
        "DELETE" => {
            may(world, call, "Microsoft.Resources/subscriptions/resourceGroups/delete")?;
            world.groups.get(&key).ok_or_else(missing)?;
            Err(ArmError::unsupported("DELETE of a resource group"))
        }
        _ => Err(no_method()),
    }
}

fn put_group(world: &mut World, call: &Call, scope: &str, name: &str) -> Outcome {
    let body = parse(&call.body, &shapes::GROUP, Style::Compute)?;
    let location = volumes::location(call, &body, "Microsoft.Resources/resourceGroups")?;
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '(' | ')');
    if name.chars().count() > 90 || name.ends_with('.') || !name.chars().all(fine) {
        let message = format!(
            "The provided resource group name '{name}' has these invalid characters or length: it can have at most 90 letters, digits, '_', '-', '.', '(' and ')', and cannot end with a period."
        );
        return Err(ArmError::new(400, "InvalidResourceGroupName", message));
    }
    let key = name.to_ascii_lowercase();
    let known = world.groups.get(&key);
    if let Some(known) = known.filter(|known| known.location != location) {
        let message =
            format!("Invalid resource group location '{location}'. The Resource group already exists in location '{}'.", known.location);
        return Err(ArmError::new(409, "InvalidResourceGroupLocation", message));
    }
    let status = if known.is_some() { 200 } else { 201 };
    let real = known.map_or_else(|| name.to_owned(), |known| known.name.clone());
    let group = Group { name: real, location, tags: volumes::tags(&body) };
    let shown = show_group(scope, &group);
    world.groups.insert(key, group);
    Ok(Answer { status, headers: Vec::new(), body: Some(shown) })
}

fn show_group(scope: &str, group: &Group) -> Value {
    json!({
        "id": format!("{scope}/resourceGroups/{}", group.name), "name": group.name, "type": "Microsoft.Resources/resourceGroups",
        "location": group.location, "tags": group.tags, "properties": { "provisioningState": "Succeeded" },
    })
}

fn show_provider(call: &Call, name: &str, state: Registration) -> Value {
    json!({
        "id": format!("/subscriptions/{}/providers/{name}", call.subscription()), "namespace": name, "registrationState": state,
        "registrationPolicy": "RegistrationRequired", "resourceTypes": [],
    })
}

/// GET of a provider.
///
/// # Errors
/// InvalidResourceNamespace (404).
pub fn provider(world: &World, call: &Call, namespace: &str) -> Outcome {
    let found = world.providers.iter().find(|(name, _)| name.eq_ignore_ascii_case(namespace));
    let Some((name, state)) = found else {
        return Err(ArmError::new(404, "InvalidResourceNamespace", format!("The resource namespace '{namespace}' is invalid.")));
    };
    if call.method != "GET" {
        return Err(ArmError::new(
            405,
            "HttpMethodNotSupported",
            format!("The http method '{}' is not supported for this resource.", call.method),
        ));
    }
    Ok(Answer::ok(show_provider(call, name, *state)))
}

/// Registers or unregisters a provider.
///
/// # Errors
/// None that the router has not found.
pub fn register(world: &mut World, call: &Call, namespace: &str, on: bool) -> Outcome {
    let state = if on { Registration::Registered } else { Registration::NotRegistered };
    world.providers.insert(namespace.to_owned(), state);
    Ok(Answer::ok(show_provider(call, namespace, state)))
}

/// Sizes of virtual machines, for each region.
#[must_use]
pub fn skus(call: &Call) -> Answer {
    let config = &call.state.config;
    let wanted = call.query("$filter").and_then(|text| text.split('\'').nth(1)).map(str::to_ascii_lowercase);
    let mut shown = Vec::new();
    for location in config.locations.iter().filter(|location| wanted.as_ref().is_none_or(|wanted| wanted == *location)) {
        shown.extend(config.sizes.iter().filter(|size| offered(size, location)).map(|size| show_size(size, location)));
    }
    page(shown)
}

/// Whether a region has a size at all.
#[must_use]
pub fn offered(size: &Size, location: &str) -> bool {
    size.locations.is_empty() || size.locations.iter().any(|known| known == location)
}

fn show_size(size: &Size, location: &str) -> Value {
    let yes = |flag: bool| if flag { "True" } else { "False" };
    let capability = |name: &str, value: String| json!({ "name": name, "value": value });
    let restrictions: Vec<Value> = size
        .restrictions
        .iter()
        .filter(|restriction| restriction.location == location)
        .map(|restriction| {
            let (kind, info) = if restriction.zones.is_empty() {
                ("Location", json!({ "locations": [location] }))
            } else {
                ("Zone", json!({ "locations": [location], "zones": restriction.zones }))
            };
            json!({ "type": kind, "values": [location], "restrictionInfo": info, "reasonCode": restriction.reason })
        })
        .collect();
    json!({
        "resourceType": "virtualMachines", "name": size.name, "tier": "Standard", "size": size.name.trim_start_matches("Standard_"), "family": size.family,
        "locations": [location], "locationInfo": [{ "location": location, "zones": size.zones, "zoneDetails": [] }],
        "capabilities": [
            capability("vCPUs", size.vcpus.to_string()),
            capability("MemoryGB", size.memory_gib.to_string()),
            capability("HyperVGenerations", size.generations.join(",")),
            capability("MaxDataDiskCount", size.max_data_disks.to_string()),
            capability("MaxNetworkInterfaces", size.max_nics.to_string()),
            capability("PremiumIO", yes(size.premium).to_owned()),
            capability("CpuArchitectureType", "x64".to_owned()),
        ],
        "restrictions": restrictions,
    })
}

/// How much of a quota is used in a region. Deallocated VMs count too ("Check vCPU quotas").
#[must_use]
pub fn used(world: &World, call: &Call, location: &str, quota: &str) -> u64 {
    let here = world.vms.values().filter(|vm| vm.common.location == location);
    here.filter_map(|vm| call.state.config.size(&vm.size))
        .map(|size| match quota {
            "cores" => size.vcpus,
            "virtualMachines" => 1,
            family if family.eq_ignore_ascii_case(&size.family) => size.vcpus,
            _ => 0,
        })
        .sum()
}

/// What people call a quota.
#[must_use]
pub fn quota_name(quota: &str) -> String {
    match quota {
        "cores" => "Total Regional Cores".to_owned(),
        "virtualMachines" => "Virtual Machines".to_owned(),
        family => family.to_owned(),
    }
}

/// Usage of quotas.
///
/// # Errors
/// For regions that do not exist.
pub fn usages(world: &World, call: &Call, location: &str) -> Outcome {
    let location = location.to_ascii_lowercase();
    let Some(quotas) = world.quotas.get(&location) else {
        let message = format!(
            "No registered resource provider found for location '{location}'. The supported locations are '{}'.",
            call.state.config.locations.join(", ")
        );
        return Err(ArmError::new(400, "NoRegisteredProviderFound", message));
    };
    let shown = quotas.iter().map(|(name, limit)| {
        json!({
            "unit": "Count", "currentValue": used(world, call, &location, name), "limit": limit,
            "name": { "value": name, "localizedValue": quota_name(name) },
        })
    });
    Ok(page(shown.collect()))
}

fn in_group(call: &Call, key: &str) -> bool {
    call.path.group.as_deref().is_none_or(|group| key.contains(&format!("/resourcegroups/{}/", group.to_ascii_lowercase())))
}

fn show_subnet(world: &World, network: &Network, (name, prefix): &(String, String)) -> Value {
    let id = format!("{}/subnets/{name}", network.id);
    let lower = id.to_ascii_lowercase();
    let mut used = Vec::new();
    for nic in world.nics.values() {
        for configuration in nic.properties.get("ipConfigurations").and_then(Value::as_array).into_iter().flatten() {
            if configuration["properties"]["subnet"]["id"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(&lower)) {
                used.push(json!({ "id": configuration["id"] }));
            }
        }
    }
    json!({ "id": id, "name": name, "type": "Microsoft.Network/virtualNetworks/subnets",
        "properties": { "addressPrefix": prefix, "provisioningState": "Succeeded", "ipConfigurations": used } })
}

fn show_network(world: &World, network: &Network) -> Value {
    json!({
        "id": network.id, "name": network.name, "type": "Microsoft.Network/virtualNetworks", "location": network.location,
        "properties": {
            "provisioningState": "Succeeded", "addressSpace": { "addressPrefixes": [network.prefix] },
            "subnets": network.subnets.iter().map(|subnet| show_subnet(world, network, subnet)).collect::<Vec<_>>(),
        },
    })
}

/// A list of virtual networks.
#[must_use]
pub fn networks(world: &World, call: &Call) -> Answer {
    page(world.networks.iter().filter(|(key, _)| in_group(call, key)).map(|(_, network)| show_network(world, network)).collect())
}

fn find_network<'a>(world: &'a World, call: &Call, name: &str) -> Result<&'a Network, ArmError> {
    let key = id(world, call, "Microsoft.Network/virtualNetworks", name).to_ascii_lowercase();
    let group = call.path.group.as_deref().unwrap_or_default();
    world.networks.get(&key).ok_or_else(|| ArmError::not_found("Microsoft.Network/virtualNetworks", name, group))
}

/// GET of a virtual network.
///
/// # Errors
/// ResourceNotFound (404).
pub fn network(world: &World, call: &Call, name: &str) -> Outcome {
    Ok(Answer::ok(show_network(world, find_network(world, call, name)?)))
}

/// A list of subnets.
///
/// # Errors
/// ResourceNotFound (404).
pub fn subnets(world: &World, call: &Call, name: &str) -> Outcome {
    let network = find_network(world, call, name)?;
    Ok(page(network.subnets.iter().map(|subnet| show_subnet(world, network, subnet)).collect()))
}

/// GET of a subnet.
///
/// # Errors
/// ResourceNotFound for the network, NotFound for the subnet (404).
pub fn subnet(world: &World, call: &Call, name: &str, subnet: &str) -> Outcome {
    let network = find_network(world, call, name)?;
    let found = network.subnets.iter().find(|(known, _)| known.eq_ignore_ascii_case(subnet));
    let Some(found) = found else {
        return Err(ArmError::new(404, "NotFound", format!("Resource {}/subnets/{subnet} not found.", network.id)));
    };
    Ok(Answer::ok(show_subnet(world, network, found)))
}

/// A list of what is only looked at.
#[must_use]
pub fn fixtures(world: &World, call: &Call, namespace: &str, kind: &str) -> Answer {
    let wanted = format!("/providers/{namespace}/{kind}/").to_ascii_lowercase();
    page(
        world
            .fixtures
            .iter()
            .filter(|(key, _)| key.contains(&wanted) && in_group(call, key))
            .map(|(_, fixture)| fixture.shown.clone())
            .collect(),
    )
}

/// GET of what is only looked at.
///
/// # Errors
/// ResourceNotFound (404).
pub fn fixture(world: &World, call: &Call, namespace: &str, kind: &str, name: &str) -> Outcome {
    let full = format!("{namespace}/{kind}");
    let key = id(world, call, &full, name).to_ascii_lowercase();
    let group = call.path.group.as_deref().unwrap_or_default();
    world.fixtures.get(&key).map(|fixture| Answer::ok(fixture.shown.clone())).ok_or_else(|| ArmError::not_found(&full, name, group))
}

/// POST checkNameAvailability of storage accounts.
///
/// # Errors
/// For bodies that are none.
pub fn check_name(world: &World, call: &Call) -> Outcome {
    let body = parse(&call.body, &shapes::CHECK_NAME, Style::Compute)?;
    let name = body["name"].as_str().unwrap_or_default();
    let fine = (3..=24).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let taken = world.fixtures.keys().any(|key| key.ends_with(&format!("/storageaccounts/{name}")));
    Ok(Answer::ok(match (fine, taken) {
        (false, _) => json!({
            "nameAvailable": false, "reason": "AccountNameInvalid",
            "message": format!("{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in length and use numbers and lower-case letters only."),
        }),
        (true, true) => {
            json!({ "nameAvailable": false, "reason": "AlreadyExists", "message": format!("The storage account named {name} is already taken.") })
        }
        (true, false) => json!({ "nameAvailable": true }),
    }))
}
