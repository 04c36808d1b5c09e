//! Network cards.
//!
//! Rules: learn.microsoft.com, "Create, change, or delete a network interface" (subnets of one network in the card's region; five addresses
//! of a subnet are Azure's; one primary configuration), and the network provider's codes as clients report them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::error::ArmError;
use super::operations::{Provider, Start};
use super::path::ResourceId;
use super::request::{Answer, Call, Outcome};
use super::route::page;
use super::schema::{Style, parse};
use super::shapes;
use super::volumes::{self, check_existing, id, in_scope};
use super::world::{Common, Nic, World};
use crate::config::{cidr, seconds};

const KIND: &str = "Microsoft.Network/networkInterfaces";

/// A card, as GET answers.
#[must_use]
pub fn show(world: &World, nic: &Nic) -> Value {
    let Common { id, name, location, tags, provisioning, .. } = &nic.common;
    let mut properties = nic.properties.clone();
    // The network provider knows no "Creating".
    let state = if *provisioning == "Creating" { "Updating" } else { provisioning };
    properties.insert("provisioningState".to_owned(), json!(state));
    properties.insert("resourceGuid".to_owned(), json!(nic.unique));
    for name in ["enableAcceleratedNetworking", "enableIPForwarding", "disableTcpStateTracking"] {
        properties.entry(name).or_insert(json!(false));
    }
    properties.entry("nicType").or_insert(json!("Standard"));
    if let Some(vm) = nic.owner.as_ref().and_then(|owner| world.vms.get(owner)) {
        properties.insert("virtualMachine".to_owned(), json!({ "id": vm.common.id }));
        properties.insert("macAddress".to_owned(), json!(nic.mac));
        properties.insert("primary".to_owned(), json!(true));
    }
    json!({ "id": id, "name": name, "type": KIND, "location": location, "tags": tags, "etag": format!("W/\"{}\"", nic.unique), "properties": properties })
}

/// A list, of the group or the subscription.
#[must_use]
pub fn list(world: &World, call: &Call) -> Answer {
    page(world.nics.values().filter(|nic| in_scope(call, &nic.common)).map(|nic| show(world, nic)).collect())
}

fn find<'a>(world: &'a World, call: &Call, name: &str) -> Result<&'a Nic, ArmError> {
    let key = id(world, call, KIND, name).to_ascii_lowercase();
    world.nics.get(&key).ok_or_else(|| ArmError::not_found(KIND, name, call.path.group.as_deref().unwrap_or_default()))
}

/// GET of one.
///
/// # Errors
/// ResourceNotFound (404).
pub fn get(world: &World, call: &Call, name: &str) -> Outcome {
    Ok(Answer::ok(show(world, find(world, call, name)?)))
}

/// 400 InvalidResourceReference.
#[must_use]
pub fn no_reference(referenced: &str, by: &str) -> ArmError {
    ArmError::new(
        400,
        "InvalidResourceReference",
        format!(
            "Resource {referenced} referenced by resource {by} was not found. Please make sure that the referenced resource exists, and that both \
             resources are in the same region."
        ),
    )
}

/// PUT of a card.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn put(world: &mut World, call: &Call, name: &str) -> Outcome {
    let body = parse(&call.body, &shapes::NIC, Style::Network)?;
    volumes::check_name("the network interface", name, 80)?;
    let location = volumes::location(call, &body, KIND)?;
    let id = id(world, call, KIND, name);
    let key = id.to_ascii_lowercase();
    let known = world.nics.get(&key).cloned();
    if let Some(known) = &known {
        check_existing(&known.common, Some(&location))?;
    }
    let mut properties = body["properties"].as_object().cloned().unwrap_or_default();
    for read_only in ["macAddress", "primary", "virtualMachine", "resourceGuid", "provisioningState"] {
        properties.remove(read_only);
    }
    security_group(world, call, &id, &location, &properties)?;
    let before = known.as_ref().map(|nic| nic.properties.clone()).unwrap_or_default();
    let configurations = configurations(world, call, &id, &location, &properties, &before)?;
    properties.insert("ipConfigurations".to_owned(), configurations);
    if let Some(known) = &known {
        let held = known.owner.is_some();
        if held && before.get("ipConfigurations") != properties.get("ipConfigurations") {
            return Err(ArmError::unsupported("ipConfigurations of a network interface that belongs to a virtual machine"));
        }
        if before == properties && known.common.tags == volumes::tags(&body) && known.common.provisioning == "Succeeded" {
            return Ok(Answer::ok(show(world, known)));
        }
    }

    let status = if known.is_some() { 200 } else { 201 };
    let mut nic = known.unwrap_or_else(|| {
        let unique = Uuid::new_v4();
        let [a, b, c, ..] = *unique.as_bytes();
        Nic {
            common: volumes::common(call, id.clone(), name, location.clone(), Map::new()),
            properties: Map::new(),
            owner: None,
            reserved: None,
            mac: format!("00-0D-3A-{a:02X}-{b:02X}-{c:02X}"),
            unique,
        }
    });
    nic.properties = properties;
    nic.common.tags = volumes::tags(&body);
    if status == 200 {
        nic.common.provisioning = "Updating";
    }
    world.nics.insert(key.clone(), nic);
    Ok(run(world, call, &key, status))
}

fn run(world: &mut World, call: &Call, key: &str, status: u16) -> Answer {
    let body = world.nics.get(key).map(|nic| show(world, nic));
    let (location, id) = world.nics.get(key).map(|nic| (nic.common.location.clone(), nic.common.id.clone())).unwrap_or_default();
    let key = key.to_owned();
    let start = Start {
        provider: Provider::Network,
        location,
        id,
        length: seconds(call.state.config.times.nic),
        status,
        body,
        finish: Box::new(move |world, _, _| {
            if let Some(nic) = world.nics.get_mut(&key) {
                nic.common.provisioning = "Succeeded";
            }
            Ok(Value::Null)
        }),
    };
    world.start(call, start).1
}

/// PATCH of a card: tags, done at once.
///
/// # Errors
/// ResourceNotFound (404), Conflict (409).
pub fn patch(world: &mut World, call: &Call, name: &str) -> Outcome {
    let body = parse(&call.body, &shapes::TAGS, Style::Network)?;
    let nic = find(world, call, name)?;
    check_existing(&nic.common, None)?;
    let key = nic.common.id.to_ascii_lowercase();
    if let Some(nic) = world.nics.get_mut(&key) {
        nic.common.tags = volumes::tags(&body);
    }
    get(world, call, name)
}

fn security_group(world: &World, call: &Call, id: &str, location: &str, properties: &Map<String, Value>) -> Result<(), ArmError> {
    let Some(group) = properties.get("networkSecurityGroup").and_then(|group| group["id"].as_str()) else { return Ok(()) };
    let parsed = ResourceId::parse(group, "properties.networkSecurityGroup.id")?;
    call.may_link(world, ("Microsoft.Network/networkInterfaces/write", id), "Microsoft.Network/networkSecurityGroups/join/action", group)?;
    let there = world.fixtures.get(&parsed.key).is_some_and(|fixture| fixture.location == location);
    if there && parsed.is("Microsoft.Network", "networkSecurityGroups") { Ok(()) } else { Err(no_reference(group, id)) }
}

/// Checks the IP configurations, and gives out addresses.
fn configurations(
    world: &World,
    call: &Call,
    id: &str,
    location: &str,
    properties: &Map<String, Value>,
    before: &Map<String, Value>,
) -> Result<Value, ArmError> {
    let given = properties.get("ipConfigurations").and_then(Value::as_array).cloned().unwrap_or_default();
    if given.is_empty() {
        return Err(ArmError::new(
            400,
            "NetworkInterfaceMustHaveIpConfiguration",
            format!("Network interface {id} must have one or more IP configurations."),
        ));
    }
    let mut names = BTreeSet::new();
    let mut primaries = 0;
    let mut network: Option<String> = None;
    let mut shown = Vec::new();
    let mut taken = BTreeSet::new();
    for (at, configuration) in given.iter().enumerate() {
        let name = configuration["name"].as_str().unwrap_or_default();
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(ArmError::new(400, "InvalidRequestFormat", format!("The IP configuration name '{name}' is used more than once.")));
        }
        let target = format!("properties.ipConfigurations[{at}].properties.subnet.id");
        let Some(subnet) = configuration["properties"]["subnet"]["id"].as_str() else {
            return Err(ArmError::new(400, "SubnetIdMissing", format!("IP configuration '{name}' of {id} has no subnet.")).target(target));
        };
        let parsed = ResourceId::parse(subnet, &target)?;
        call.may_link(
            world,
            ("Microsoft.Network/networkInterfaces/write", id),
            "Microsoft.Network/virtualNetworks/subnets/join/action",
            subnet,
        )?;
        let own = parsed.key.split("/subnets/").next().unwrap_or_default().to_owned();
        let found = world.networks.get(&own).filter(|known| known.location == location);
        let Some(subnet_name) = parsed.child.as_ref().filter(|(kind, _)| kind.eq_ignore_ascii_case("subnets")).map(|(_, name)| name) else {
            return Err(no_reference(subnet, id));
        };
        let prefix = found.and_then(|known| known.subnets.iter().find(|(known, _)| known.eq_ignore_ascii_case(subnet_name)));
        let (Some(known), Some((real, prefix))) = (found, prefix) else { return Err(no_reference(subnet, id)) };
        if network.replace(own.clone()).is_some_and(|other| other != own) {
            return Err(ArmError::new(
                400,
                "AllIpConfigurationsMustBeInSameVirtualNetwork",
                format!("The IP configurations of {id} are in different virtual networks."),
            ));
        }
        let mut properties = configuration["properties"].as_object().cloned().unwrap_or_default();
        let primary = properties.get("primary").and_then(Value::as_bool).unwrap_or(given.len() == 1);
        primaries += u32::from(primary);
        let address = address(world, id, &known.id, real, prefix, &properties, before, name, &taken)?;
        taken.insert(address);
        properties.insert("primary".to_owned(), json!(primary));
        properties.insert("privateIPAddress".to_owned(), json!(address.to_string()));
        properties.entry("privateIPAllocationMethod").or_insert(json!("Dynamic"));
        properties.entry("privateIPAddressVersion").or_insert(json!("IPv4"));
        properties.insert("subnet".to_owned(), json!({ "id": format!("{}/subnets/{real}", known.id) }));
        properties.insert("provisioningState".to_owned(), json!("Succeeded"));
        shown.push(json!({ "name": name, "id": format!("{id}/ipConfigurations/{name}"), "type": format!("{KIND}/ipConfigurations"), "properties": properties }));
    }
    if primaries != 1 {
        let message = format!("Network interface {id} has {primaries} primary IP configurations: exactly one is needed.");
        return Err(ArmError::new(400, "MultiplePrimaryIpConfigurationsNotAllowed", message));
    }
    Ok(Value::Array(shown))
}

/// Gives out a private address: the first four and the last of a subnet are Azure's.
#[allow(clippy::too_many_arguments, reason = "one place, one use")]
fn address(
    world: &World,
    id: &str,
    network: &str,
    subnet: &str,
    prefix: &str,
    properties: &Map<String, Value>,
    before: &Map<String, Value>,
    name: &str,
    taken: &BTreeSet<Ipv4Addr>,
) -> Result<Ipv4Addr, ArmError> {
    let place = format!("{network}/subnets/{subnet}");
    let used: BTreeSet<Ipv4Addr> = world
        .nics
        .values()
        .filter(|nic| !nic.common.id.eq_ignore_ascii_case(id))
        .flat_map(|nic| addresses(&nic.properties, &place))
        .collect();
    let Some((first, last)) = cidr(prefix) else {
        return Err(ArmError::new(500, "InternalServerError", format!("subnet {place} has no addresses: '{prefix}'")));
    };
    let (low, high) = (first.saturating_add(4), last.saturating_sub(1));
    let wanted = properties.get("privateIPAddress").and_then(Value::as_str);
    if properties.get("privateIPAllocationMethod").is_some_and(|method| method == "Static") {
        let Some(wanted) = wanted else {
            return Err(ArmError::new(
                400,
                "PrivateIPAddressMissing",
                format!("IP configuration '{name}' of {id} is static and has no privateIPAddress."),
            ));
        };
        let bad = || ArmError::new(400, "InvalidRequestFormat", format!("The value '{wanted}' of privateIPAddress is no IPv4 address."));
        let address: Ipv4Addr = wanted.parse().map_err(|_| bad())?;
        let number = u32::from(address);
        if !(first..=last).contains(&number) {
            return Err(ArmError::new(
                400,
                "PrivateIPAddressNotInSubnet",
                format!("Private static IP address {wanted} does not belong to the range of subnet prefix {prefix}."),
            ));
        }
        if !(low..=high).contains(&number) {
            return Err(ArmError::new(
                400,
                "PrivateIPAddressInReservedRange",
                format!("Private static IP address {wanted} falls within reserved IP range of subnet prefix {prefix}."),
            ));
        }
        if used.contains(&address) || taken.contains(&address) {
            let message = format!(
                "IP configuration {id}/ipConfigurations/{name} is using the private IP address {wanted} which is already allocated to another resource."
            );
            return Err(ArmError::new(400, "PrivateIPAddressInUse", message));
        }
        return Ok(address);
    }
    // A dynamic address stays when the card is put again.
    let kept = before.get("ipConfigurations").and_then(Value::as_array).into_iter().flatten().find(|known| known["name"] == name);
    let kept = kept.filter(|known| known["properties"]["subnet"]["id"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(&place)));
    if let Some(address) = kept.and_then(|known| known["properties"]["privateIPAddress"].as_str()).and_then(|text| text.parse().ok()) {
        return Ok(address);
    }
    (low..=high).map(Ipv4Addr::from).find(|address| !used.contains(address) && !taken.contains(address)).ok_or_else(|| {
        ArmError::new(
            400,
            "SubnetIsFull",
            format!("Subnet {subnet} with address prefix {prefix} does not have enough capacity for 1 IP addresses."),
        )
    })
}

fn addresses(properties: &Map<String, Value>, place: &str) -> Vec<Ipv4Addr> {
    let all = properties.get("ipConfigurations").and_then(Value::as_array).into_iter().flatten();
    all.filter(|known| known["properties"]["subnet"]["id"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(place)))
        .filter_map(|known| known["properties"]["privateIPAddress"].as_str()?.parse().ok())
        .collect()
}

/// DELETE: 204 where there is none; refused while it belongs to a VM or waits for one.
///
/// # Errors
/// NicInUse, NicReservedForAnotherVm (400), Conflict (409).
pub fn delete(world: &mut World, call: &Call, name: &str) -> Outcome {
    let id = id(world, call, KIND, name);
    let key = id.to_ascii_lowercase();
    let Some(nic) = world.nics.get(&key) else { return Ok(Answer::empty(204)) };
    check_existing(&nic.common, None)?;
    check_free(world, call, nic, None)?;
    let (location, id) = (nic.common.location.clone(), nic.common.id.clone());
    if let Some(common) = world.common_mut(&key) {
        common.provisioning = "Deleting";
    }
    let start = Start {
        provider: Provider::Network,
        location,
        id,
        length: seconds(call.state.config.times.nic),
        status: 202,
        body: None,
        finish: Box::new(move |world, _, _| {
            world.nics.remove(&key);
            Ok(Value::Null)
        }),
    };
    Ok(world.start(call, start).1)
}

/// Refuses a card that belongs to a VM, or waits for one, other than `vm`.
///
/// # Errors
/// NicInUse, NicReservedForAnotherVm (400).
pub fn check_free(world: &World, call: &Call, nic: &Nic, vm: Option<&str>) -> Result<(), ArmError> {
    if let Some(owner) = nic.owner.as_ref().filter(|owner| vm != Some(owner.as_str())) {
        let owner = world.vms.get(owner).map_or(owner.as_str(), |vm| &vm.common.id);
        return Err(ArmError::new(
            400,
            "NicInUse",
            format!(
                "Network Interface {} is used by existing resource {owner}. In order to delete the network interface, it must be dissociated from the \
                 resource. To learn more, see aka.ms/deletenic.",
                nic.common.id
            ),
        ));
    }
    if let Some((owner, until)) = nic.reserved.as_ref().filter(|(owner, until)| *until > call.now && vm != Some(owner.as_str())) {
        let left = until.duration_since(call.now).as_secs() + 1;
        return Err(ArmError::new(
            400,
            "NicReservedForAnotherVm",
            format!(
                "Nic(s) in request is reserved for another Virtual Machine for 180 seconds. Please provide another nic(s) or retry after {left} seconds. \
                 Reserved VM: {owner}"
            ),
        ));
    }
    Ok(())
}
