//! What disks and snapshots have in common: names, how they are shown, lists, deletion.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::ArmError;
use super::operations::{Provider, Start};
use super::path::ResourceId;
use super::request::{Answer, Call, Outcome};
use super::route::page;
use super::world::{Common, Kind, Upload, Volume, World};
use crate::config::seconds;

impl Kind {
    /// As in paths and roles.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Disk => "disks",
            Self::Snapshot => "snapshots",
        }
    }

    /// As Azure's messages say it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Disk => "Disk",
            Self::Snapshot => "Snapshot",
        }
    }
}

/// The canonical id of a resource in the group of the path.
#[must_use]
pub fn id(world: &World, call: &Call, kind: &str, name: &str) -> String {
    let wanted = call.path.group.clone().unwrap_or_default();
    let group = world.groups.get(&wanted.to_ascii_lowercase()).map_or(wanted, |group| group.name.clone());
    format!("/subscriptions/{}/resourceGroups/{group}/providers/{kind}/{name}", call.state.config.subscription)
}

/// The id of a disk or snapshot.
#[must_use]
pub fn volume_id(world: &World, call: &Call, kind: Kind, name: &str) -> String {
    id(world, call, &format!("Microsoft.Compute/{}", kind.plural()), name)
}

/// Refuses a name that Azure would (learn.microsoft.com, "Naming rules and restrictions for Azure resources").
///
/// # Errors
/// InvalidResourceName (400).
pub fn check_name(kind: &str, name: &str, longest: usize) -> Result<(), ArmError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let ends = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if name.len() <= longest && name.chars().all(fine) && ends {
        return Ok(());
    }
    Err(ArmError::new(
        400,
        "InvalidResourceName",
        format!(
            "Resource name {name} is invalid. The name of {kind} can be up to {longest} characters long. It must begin with a letter or number, \
             and it must end with a letter, number or underscore. The name may contain letters, numbers, underscores, periods, or hyphens."
        ),
    )
    .target("name"))
}

/// A region by its name in the API: `West Europe` is `westeurope`.
///
/// # Errors
/// LocationNotAvailableForResourceType (400).
pub fn location(call: &Call, body: &Value, kind: &str) -> Result<String, ArmError> {
    let given = body["location"].as_str().unwrap_or_default();
    let wanted: String = given.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    if call.state.config.locations.contains(&wanted) {
        return Ok(wanted);
    }
    Err(ArmError::new(
        400,
        "LocationNotAvailableForResourceType",
        format!(
            "The provided location '{given}' is not available for resource type '{kind}'. List of available regions for the resource type is '{}'.",
            call.state.config.locations.join(",")
        ),
    ))
}

/// The tags of a body.
#[must_use]
pub fn tags(body: &Value) -> Map<String, Value> {
    body["tags"].as_object().cloned().unwrap_or_default()
}

/// A new resource's common part.
#[must_use]
pub fn common(call: &Call, id: String, name: &str, location: String, tags: Map<String, Value>) -> Common {
    let group = ResourceId::parse(&id, "").map(|id| id.group).unwrap_or_default();
    Common { id, name: name.to_owned(), group, location, tags, provisioning: "Creating", busy: None, created: call.now }
}

/// Refuses while an operation holds the resource, and when a PUT would move it.
///
/// # Errors
/// Conflict or InvalidResourceLocation (409).
pub fn check_existing(common: &Common, location: Option<&str>) -> Result<(), ArmError> {
    if let Some(location) = location.filter(|location| *location != common.location) {
        return Err(ArmError::new(
            409,
            "InvalidResourceLocation",
            format!(
                "The resource '{}' already exists in location '{}' in resource group '{}'. A resource with the same name cannot be created in \
                 location '{location}'. Please select a new resource name.",
                common.name, common.location, common.group
            ),
        ));
    }
    if common.busy.is_some() { Err(ArmError::busy()) } else { Ok(()) }
}

/// 409 PropertyChangeNotAllowed.
#[must_use]
pub fn immutable(property: &str) -> ArmError {
    ArmError::new(409, "PropertyChangeNotAllowed", format!("Changing property '{property}' is not allowed.")).target(property)
}

/// The only active SAS rule that everything shares: what is given out holds the disk.
#[must_use]
pub fn outstanding_sas(name: &str, before: &str) -> ArmError {
    ArmError::not_allowed(format!(
        "There is an active shared access signature outstanding for disk {name}. Call EndGetAccess before {before} the disk."
    ))
}

fn tier(sku: &str) -> &'static str {
    match sku {
        "Premium_LRS" | "Premium_ZRS" | "PremiumV2_LRS" => "Premium",
        "UltraSSD_LRS" => "Ultra",
        _ => "Standard",
    }
}

/// A disk or snapshot, as GET answers.
#[must_use]
pub fn show(world: &World, volume: &Volume, now: Timestamp) -> Value {
    let Common { id, name, location, tags, provisioning, created, .. } = &volume.common;
    let mut properties = volume.properties.clone();
    let mut set = |name: &str, value: Value| {
        properties.insert(name.to_owned(), value);
    };
    set("provisioningState", json!(provisioning));
    set("timeCreated", json!(created));
    set("diskState", json!(world.disk_state(volume, now)));
    if volume.content > 0 {
        set("diskSizeBytes", json!(volume.content));
        set("diskSizeGB", json!(volume.gib()));
    }
    if *provisioning != "Creating" {
        set("uniqueId", json!(volume.unique));
    }
    if let Some(percent) = volume.completion(now) {
        set("completionPercent", json!(percent));
    }
    if let Some(family) = volume.family {
        set("incrementalSnapshotFamilyId", json!(family));
    }
    for (name, default) in [
        ("encryption", json!({ "type": "EncryptionAtRestWithPlatformKey" })),
        ("networkAccessPolicy", json!("AllowAll")),
        ("publicNetworkAccess", json!("Enabled")),
        ("dataAccessAuthMode", json!("None")),
    ] {
        properties.entry(name).or_insert(default);
    }
    if volume.kind == Kind::Disk {
        properties.entry("diskIOPSReadWrite").or_insert(json!(500));
        properties.entry("diskMBpsReadWrite").or_insert(json!(60));
    }
    let mut shown = json!({
        "id": id, "name": name, "type": format!("Microsoft.Compute/{}", volume.kind.plural()), "location": location, "tags": tags,
        "sku": { "name": volume.sku, "tier": tier(&volume.sku) }, "properties": properties,
    });
    if !volume.zones.is_empty() {
        shown["zones"] = json!(volume.zones);
    }
    if let Some(vm) = volume.owner.as_ref().and_then(|owner| world.vms.get(owner)) {
        shown["managedBy"] = json!(vm.common.id);
    }
    shown
}

/// GET of one.
///
/// # Errors
/// ResourceNotFound (404).
pub fn get(world: &World, call: &Call, kind: Kind, name: &str) -> Outcome {
    Ok(Answer::ok(show(world, find(world, call, kind, name)?, call.now)))
}

/// The volume of the path.
///
/// # Errors
/// ResourceNotFound (404).
pub fn find<'a>(world: &'a World, call: &Call, kind: Kind, name: &str) -> Result<&'a Volume, ArmError> {
    let key = volume_id(world, call, kind, name).to_ascii_lowercase();
    let group = call.path.group.as_deref().unwrap_or_default();
    world.volumes.get(&key).ok_or_else(|| ArmError::not_found(&format!("Microsoft.Compute/{}", kind.plural()), name, group))
}

/// A list, of the group or the subscription.
#[must_use]
pub fn list(world: &World, call: &Call, kind: Kind) -> Answer {
    let here = |common: &Common| in_scope(call, common);
    page(world.volumes.values().filter(|v| v.kind == kind && here(&v.common)).map(|v| show(world, v, call.now)).collect())
}

/// Whether a resource belongs to the list of the path.
#[must_use]
pub fn in_scope(call: &Call, common: &Common) -> bool {
    call.path.group.as_deref().is_none_or(|group| group.eq_ignore_ascii_case(&common.group))
}

/// DELETE: 204 where there is none; refused while it is attached or a SAS is outstanding.
///
/// # Errors
/// Conflict, OperationNotAllowed (409).
pub fn delete(world: &mut World, call: &Call, kind: Kind, name: &str) -> Outcome {
    let id = volume_id(world, call, kind, name);
    let key = id.to_ascii_lowercase();
    let Some(volume) = world.volumes.get(&key) else { return Ok(Answer::empty(204)) };
    check_existing(&volume.common, None)?;
    if let Some(owner) = &volume.owner {
        let vm = world.vms.get(owner).map_or(owner.as_str(), |vm| &vm.common.id);
        return Err(ArmError::not_allowed(format!("Disk {} is attached to VM {vm}.", volume.common.name)));
    }
    if volume.has_sas(call.now) {
        return Err(outstanding_sas(&volume.common.name, "deleting"));
    }
    let location = volume.common.location.clone();
    let canonical = volume.common.id.clone();
    if let Some(common) = world.common_mut(&key) {
        common.provisioning = "Deleting";
    }
    let start = Start {
        provider: Provider::Disk,
        location,
        id: canonical,
        length: seconds(call.state.config.times.disk),
        status: 202,
        body: None,
        finish: Box::new(move |world, state, _| {
            world.volumes.remove(&key);
            state.disks.delete(&key);
            Ok(Value::Null)
        }),
    };
    Ok(world.start(call, start).1)
}

/// The state of an upload, in words, for refusals.
#[must_use]
pub fn upload_state(volume: &Volume) -> Option<&'static str> {
    match volume.upload {
        Upload::Done => None,
        Upload::Ready => Some("ReadyToUpload"),
        Upload::Active => Some("ActiveUpload"),
    }
}
