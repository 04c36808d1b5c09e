//! Virtual machines: created from disks that are there, changed, shown, deleted. What they may be made of stands in `vm_rules`.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::error::ArmError;
use super::operations::{Provider, Start};
use super::request::{Answer, Call, Outcome};
use super::route::page;
use super::schema::{Style, parse};
use super::shapes;
use super::vm_rules::{self, Parts};
use super::volumes::{self, check_existing, id, immutable, in_scope};
use super::world::{Common, Power, Vm, World};
use crate::Inner;
use crate::config::seconds;

pub(super) const KIND: &str = "Microsoft.Compute/virtualMachines";
/// How long a card waits for a VM whose creation failed ("reserved for another Virtual Machine for 180 seconds").
const RESERVED: SignedDuration = SignedDuration::from_secs(180);

/// The VM of the path.
///
/// # Errors
/// ResourceNotFound (404).
pub fn find<'a>(world: &'a World, call: &Call, name: &str) -> Result<&'a Vm, ArmError> {
    let key = id(world, call, KIND, name).to_ascii_lowercase();
    world.vms.get(&key).ok_or_else(|| ArmError::not_found(KIND, name, call.path.group.as_deref().unwrap_or_default()))
}

/// A VM, as GET answers.
#[must_use]
pub fn show(world: &World, vm: &Vm, instance: bool) -> Value {
    let Common { id, name, location, tags, provisioning, created, .. } = &vm.common;
    let mut properties = vm.properties.clone();
    properties.insert("provisioningState".to_owned(), json!(provisioning));
    properties.insert("vmId".to_owned(), json!(vm.unique));
    properties.insert("timeCreated".to_owned(), json!(created));
    if let Some(storage) = properties.get_mut("storageProfile") {
        fill_disk(world, &mut storage["osDisk"]);
        for disk in storage["dataDisks"].as_array_mut().into_iter().flatten() {
            fill_disk(world, disk);
        }
    }
    if instance {
        properties.insert("instanceView".to_owned(), view(world, vm));
    }
    let mut shown = json!({ "id": id, "name": name, "type": KIND, "location": location, "tags": tags, "properties": properties });
    if !vm.zones.is_empty() {
        shown["zones"] = json!(vm.zones);
    }
    shown
}

/// Names, sizes and kinds come from the disks.
fn fill_disk(world: &World, disk: &mut Value) {
    let Some(volume) = disk["managedDisk"]["id"].as_str().and_then(|id| world.volumes.get(&id.to_ascii_lowercase())) else { return };
    disk["name"] = json!(volume.common.name);
    disk["diskSizeGB"] = json!(volume.gib());
    disk["managedDisk"] = json!({ "id": volume.common.id, "storageAccountType": volume.sku });
    if disk["caching"].is_null() {
        disk["caching"] = json!("None");
    }
    if disk["deleteOption"].is_null() {
        disk["deleteOption"] = json!("Detach");
    }
}

/// The instance view: the only place where the power is seen.
fn view(world: &World, vm: &Vm) -> Value {
    let word = vm.common.provisioning.to_ascii_lowercase();
    let status =
        |code: String, display: String| json!({ "code": code, "level": "Info", "displayStatus": display, "time": vm.common.created });
    let first = if vm.common.provisioning == "Failed" {
        json!({ "code": "ProvisioningState/failed", "level": "Error", "displayStatus": "Provisioning failed", "time": vm.common.created })
    } else {
        status(format!("ProvisioningState/{word}"), format!("Provisioning {word}"))
    };
    let disks: Vec<Value> = vm
        .disks
        .iter()
        .filter_map(|(key, _)| world.volumes.get(key))
        .map(|volume| json!({ "name": volume.common.name, "statuses": [status("ProvisioningState/succeeded".to_owned(), "Provisioning succeeded".to_owned())] }))
        .collect();
    let generation = vm.disks.first().and_then(|(key, _)| world.volumes.get(key)).map_or("V1", vm_rules::generation);
    json!({
        "hyperVGeneration": generation,
        "disks": disks,
        "statuses": [
            first,
            json!({ "code": format!("PowerState/{}", vm.power.code()), "level": "Info", "displayStatus": vm.power.display() }),
        ],
    })
}

/// GET of one; `$expand=instanceView` shows its power.
///
/// # Errors
/// ResourceNotFound (404), InvalidParameter (400) for another `$expand`.
pub fn get(world: &World, call: &Call, name: &str) -> Outcome {
    let instance = match call.query("$expand") {
        None => false,
        Some(what) if what.eq_ignore_ascii_case("instanceView") => true,
        Some(what) if what.eq_ignore_ascii_case("userData") => false,
        Some(what) => {
            let message = format!("The expand query option value '{what}' is invalid. The supported values are: 'instanceView,userData'.");
            return Err(ArmError::invalid("$expand", message));
        }
    };
    Ok(Answer::ok(show(world, find(world, call, name)?, instance)))
}

/// GET of the instance view alone.
///
/// # Errors
/// ResourceNotFound (404).
pub fn instance_view(world: &World, call: &Call, name: &str) -> Outcome {
    Ok(Answer::ok(view(world, find(world, call, name)?)))
}

/// A list, of the group or the subscription.
#[must_use]
pub fn list(world: &World, call: &Call) -> Answer {
    page(world.vms.values().filter(|vm| in_scope(call, &vm.common)).map(|vm| show(world, vm, false)).collect())
}

/// PUT of a VM.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn put(world: &mut World, call: &Call, name: &str) -> Outcome {
    let body = parse(&call.body, &shapes::VM, Style::Compute)?;
    volumes::check_name("the virtual machine", name, 64)?;
    let location = volumes::location(call, &body, KIND)?;
    let id = id(world, call, KIND, name);
    let key = id.to_ascii_lowercase();
    let known = world.vms.get(&key).cloned();
    if let Some(known) = &known {
        check_existing(&known.common, Some(&location))?;
        unchanged(known, &body)?;
    }
    let parts = vm_rules::check(world, call, &id, &location, &body, known.as_ref())?;
    let properties = accepted(&body);
    match known {
        None => Ok(create(world, call, name, id, location, &body, parts, properties)),
        Some(known) => update(world, call, &key, known, &body, parts, properties),
    }
}

fn accepted(body: &Value) -> Map<String, Value> {
    let mut properties = body["properties"].as_object().cloned().unwrap_or_default();
    for read_only in ["provisioningState", "vmId", "timeCreated", "instanceView", "userData"] {
        properties.remove(read_only);
    }
    if let Some(disks) = properties.get_mut("storageProfile").and_then(|storage| storage.get_mut("dataDisks")).and_then(Value::as_array_mut)
    {
        disks.retain(|disk| disk["toBeDetached"] != true);
        for disk in disks {
            if let Some(disk) = disk.as_object_mut() {
                disk.remove("toBeDetached");
                disk.remove("detachOption");
            }
        }
    }
    properties
}

#[allow(clippy::too_many_arguments, reason = "one place, one use")]
fn create(
    world: &mut World,
    call: &Call,
    name: &str,
    id: String,
    location: String,
    body: &Value,
    parts: Parts,
    properties: Map<String, Value>,
) -> Answer {
    let key = id.to_ascii_lowercase();
    let vm = Vm {
        common: volumes::common(call, id.clone(), name, location.clone(), volumes::tags(body)),
        zones: parts.zones,
        properties,
        power: Power::Starting,
        size: parts.size,
        disks: parts.disks,
        nics: parts.nics,
        unique: Uuid::new_v4(),
    };
    claim(world, &key, &vm);
    world.vms.insert(key.clone(), vm);
    let shown = world.vms.get(&key).map(|vm| show(world, vm, false));
    let start = Start {
        provider: Provider::Compute,
        location,
        id,
        length: seconds(call.state.config.times.vm),
        status: 201,
        body: shown,
        finish: Box::new(move |world, _, _| {
            if let Some(vm) = world.vms.get_mut(&key) {
                vm.common.provisioning = "Succeeded";
                vm.power = Power::Running;
            }
            Ok(Value::Null)
        }),
    };
    world.start(call, start).1
}

/// Disks and cards belong to the VM from the moment its creation begins.
fn claim(world: &mut World, key: &str, vm: &Vm) {
    for (disk, _) in &vm.disks {
        if let Some(volume) = world.volumes.get_mut(disk) {
            volume.owner = Some(key.to_owned());
        }
    }
    for (nic, _) in &vm.nics {
        if let Some(nic) = world.nics.get_mut(nic) {
            nic.owner = Some(key.to_owned());
            nic.reserved = None;
        }
    }
}

/// What a PUT of a VM that exists may not change.
fn unchanged(known: &Vm, body: &Value) -> Result<(), ArmError> {
    let zones: Vec<&str> = body["zones"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if known.zones != zones {
        return Err(immutable("zones"));
    }
    let mine = |path: &str| known.properties.get("storageProfile").and_then(|storage| storage.pointer(path)).cloned().unwrap_or_default();
    let given = |path: &str| body["properties"]["storageProfile"].pointer(path).cloned().unwrap_or_default();
    for (path, name) in [
        ("/osDisk/managedDisk/id", "osDisk.managedDisk.id"),
        ("/osDisk/createOption", "osDisk.createOption"),
        ("/osDisk/osType", "osDisk.osType"),
    ] {
        let (mine, given) = (mine(path), given(path));
        let same = mine.as_str().zip(given.as_str()).map_or(given.is_null(), |(a, b)| a.eq_ignore_ascii_case(b));
        if !same {
            return Err(immutable(name));
        }
    }
    for name in ["availabilitySet", "securityProfile"] {
        let (mine, given) = (known.properties.get(name).unwrap_or(&Value::Null), &body["properties"][name]);
        if !given.is_null() && mine != given {
            return Err(immutable(name));
        }
    }
    Ok(())
}

/// Tags, data disks, options; another size or other cards only when it is off its host.
fn update(world: &mut World, call: &Call, key: &str, known: Vm, body: &Value, parts: Parts, properties: Map<String, Value>) -> Outcome {
    let mut next = known.clone();
    next.common.tags = volumes::tags(body);
    next.properties = properties;
    let cards = |vm: &[(String, bool)]| vm.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    if cards(&parts.nics) != cards(&known.nics) && known.power != Power::Deallocated {
        return Err(ArmError::new(
            409,
            "AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported",
            "Secondary network interfaces cannot be added or deleted from a running virtual machine.",
        ));
    }
    (next.disks, next.nics, next.size) = (parts.disks, parts.nics, parts.size);
    let same = next.common.tags == known.common.tags
        && next.properties == known.properties
        && next.disks == known.disks
        && next.nics == known.nics;
    if same && known.common.provisioning == "Succeeded" {
        return Ok(Answer::ok(show(world, &known, false)));
    }
    for (disk, _) in known.disks.iter().filter(|(disk, _)| !next.disks.iter().any(|(kept, _)| kept == disk)) {
        if let Some(volume) = world.volumes.get_mut(disk) {
            volume.owner = None;
        }
    }
    for (nic, _) in known.nics.iter().filter(|(nic, _)| !next.nics.iter().any(|(kept, _)| kept == nic)) {
        if let Some(nic) = world.nics.get_mut(nic) {
            nic.owner = None;
        }
    }
    claim(world, key, &next);
    next.common.provisioning = "Updating";
    let (location, id) = (next.common.location.clone(), next.common.id.clone());
    world.vms.insert(key.to_owned(), next);
    let shown = world.vms.get(key).map(|vm| show(world, vm, false));
    let key = key.to_owned();
    let start = Start {
        provider: Provider::Compute,
        location,
        id,
        length: seconds(call.state.config.times.vm),
        status: 200,
        body: shown,
        finish: Box::new(move |world, _, _| {
            if let Some(vm) = world.vms.get_mut(&key) {
                vm.common.provisioning = "Succeeded";
            }
            Ok(Value::Null)
        }),
    };
    Ok(world.start(call, start).1)
}

/// DELETE: 204 where there is none; disks and cards go or stay as their `deleteOption` says.
///
/// # Errors
/// Conflict (409), InvalidParameter (400) for a `forceDeletion` that is neither true nor false.
pub fn delete(world: &mut World, call: &Call, name: &str) -> Outcome {
    let id = id(world, call, KIND, name);
    let key = id.to_ascii_lowercase();
    let forced = match call.query("forceDeletion") {
        None => false,
        Some(text) if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") => text.eq_ignore_ascii_case("true"),
        Some(text) => return Err(ArmError::invalid("forceDeletion", format!("The value '{text}' of parameter forceDeletion is invalid."))),
    };
    let Some(vm) = world.vms.get(&key) else { return Ok(Answer::empty(204)) };
    check_existing(&vm.common, None)?;
    let failed = vm.common.provisioning == "Failed";
    let (location, id) = (vm.common.location.clone(), vm.common.id.clone());
    if let Some(common) = world.common_mut(&key) {
        common.provisioning = "Deleting";
    }
    let times = &call.state.config.times;
    let start = Start {
        provider: Provider::Compute,
        location,
        id,
        // No graceful shutdown.
        length: seconds(if forced { times.vm / 2.0 } else { times.vm }),
        status: 202,
        body: None,
        finish: Box::new(move |world, state, at| {
            remove(world, state, &key, at, failed);
            Ok(Value::Null)
        }),
    };
    Ok(world.start(call, start).1)
}

fn remove(world: &mut World, state: &Inner, key: &str, at: Timestamp, failed: bool) {
    let Some(vm) = world.vms.remove(key) else { return };
    for (disk, delete) in &vm.disks {
        if *delete {
            world.volumes.remove(disk);
            state.disks.delete(disk);
        } else if let Some(volume) = world.volumes.get_mut(disk) {
            volume.owner = None;
        }
    }
    for (key, delete) in &vm.nics {
        if *delete {
            world.nics.remove(key);
        } else if let Some(nic) = world.nics.get_mut(key) {
            nic.owner = None;
            nic.reserved = failed.then(|| (vm.common.id.clone(), at.saturating_add(RESERVED).unwrap_or(Timestamp::MAX)));
        }
    }
}

/// A VM whose creation failed stays, with its disks and cards, until it is deleted; it does not run.
pub fn after_failure(world: &mut World, key: &str) {
    if let Some(vm) = world.vms.get_mut(key) {
        vm.power = match vm.power {
            Power::Starting => Power::Stopped,
            Power::Stopping | Power::Deallocating => Power::Running,
            other => other,
        };
    }
}
