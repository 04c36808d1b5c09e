//! Snapshots.
//!
//! Rules: learn.microsoft.com, "Create an incremental snapshot for managed disks": always of standard storage, at most 7 of a disk within
//! five minutes, at most 500 of a disk; those of Premium SSD v2 and Ultra disks are complete only when `completionPercent` is 100.

use jiff::SignedDuration;
use serde_json::{Value, json};
use uuid::Uuid;

use super::disks::{copy_source, first_answer, inherit, unchanged_creation};
use super::error::ArmError;
use super::operations::{Provider, Start};
use super::request::{Answer, Call, Outcome};
use super::schema::{Style, parse};
use super::shapes;
use super::volumes::{self, check_existing, immutable, show};
use super::world::{Kind, Upload, Volume, World, hydration};
use crate::config::seconds;

/// PUT of a snapshot.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn put(world: &mut World, call: &Call, name: &str) -> Outcome {
    let body = parse(&call.body, &shapes::SNAPSHOT, Style::Compute)?;
    volumes::check_name("the snapshot", name, 80)?;
    let location = volumes::location(call, &body, "Microsoft.Compute/snapshots")?;
    let id = volumes::volume_id(world, call, Kind::Snapshot, name);
    let key = id.to_ascii_lowercase();
    let incremental = body["properties"]["incremental"].as_bool().unwrap_or(false);
    if let Some(known) = world.volumes.get(&key) {
        check_existing(&known.common, Some(&location))?;
        let known = known.clone();
        unchanged_creation(&known, &body)?;
        if !body["properties"]["incremental"].is_null() && known.properties.get("incremental") != Some(&json!(incremental)) {
            return Err(immutable("incremental"));
        }
        return retag(world, call, known, &body);
    }

    let sku = body["sku"]["name"].as_str().unwrap_or("Standard_LRS").to_owned();
    if incremental && sku == "Premium_LRS" {
        return Err(ArmError::invalid(
            "sku.name",
            "Incremental snapshots are stored on standard storage: sku Premium_LRS is not supported.",
        ));
    }
    let mut properties = body["properties"].as_object().cloned().unwrap_or_default();
    let creation = properties.get("creationData").cloned().unwrap_or_default();
    match creation["createOption"].as_str().unwrap_or_default() {
        "Copy" => {}
        "Upload" | "Empty" => {
            let message = format!("createOption {} is not supported for snapshots.", creation["createOption"]);
            return Err(ArmError::invalid("creationData.createOption", message));
        }
        other => return Err(ArmError::unsupported(&format!("creationData.createOption: {other} of a snapshot"))),
    }
    for field in ["uploadSizeBytes", "sourceUri", "storageAccountId"] {
        if !creation[field].is_null() {
            let at = format!("creationData.{field}");
            return Err(ArmError::invalid(&at, format!("Parameter '{at}' is not allowed with createOption 'Copy'.")));
        }
    }
    let Some(source) = creation["sourceResourceId"].as_str() else {
        let at = "snapshot.creationData.sourceResourceId";
        return Err(ArmError::invalid(at, format!("Required parameter '{at}' is missing (null).")));
    };
    let from = copy_source(world, call, (&id, "Microsoft.Compute/snapshots/write"), source, &location)?.clone();
    let from_key = from.common.id.to_ascii_lowercase();
    if let Some(gib) = properties.get("diskSizeGB").and_then(Value::as_u64).filter(|gib| *gib != from.gib()) {
        let message = format!("diskSizeGB {gib} is not the size of the source, {}: a snapshot has the size of its source.", from.gib());
        return Err(ArmError::invalid("diskSizeGB", message));
    }
    inherit(&mut properties, &from)?;
    let premium_v2 = matches!(from.sku.as_str(), "PremiumV2_LRS" | "UltraSSD_LRS");
    if premium_v2 && !incremental {
        return Err(ArmError::invalid("incremental", format!("Only incremental snapshots are supported for disks with sku {}.", from.sku)));
    }
    let family = incremental.then(|| family(world, call, &from, &from_key)).transpose()?;
    properties.insert("incremental".to_owned(), json!(incremental));
    for read_only in
        ["timeCreated", "diskSizeBytes", "uniqueId", "provisioningState", "diskState", "completionPercent", "copyCompletionError"]
    {
        properties.remove(read_only);
    }
    if properties.get("dataAccessAuthMode").is_some_and(|mode| mode == "AzureActiveDirectory") {
        return Err(ArmError::unsupported("properties.dataAccessAuthMode: AzureActiveDirectory"));
    }

    call.state
        .disks
        .copy(&from_key, &key, from.content)
        .map_err(|error| ArmError::new(500, "InternalServerError", format!("the simulator's disk store: {error}")))?;
    let volume = Volume {
        common: volumes::common(call, id.clone(), name, location.clone(), volumes::tags(&body)),
        kind: Kind::Snapshot,
        zones: Vec::new(),
        sku,
        properties,
        content: from.content,
        unique: Uuid::new_v4(),
        upload: Upload::Done,
        owner: None,
        grants: Vec::new(),
        hydration: premium_v2.then(|| hydration(from.content, &call.state.config, call.now)),
        family,
    };
    world.volumes.insert(key.clone(), volume);
    Ok(finish(world, call, &key, location, id))
}

/// The family of incremental snapshots of this disk, if it may have another.
fn family(world: &mut World, call: &Call, from: &Volume, from_key: &str) -> Result<Uuid, ArmError> {
    let own =
        |v: &&Volume| v.family.is_some() && v.properties.get("creationData").is_some_and(|c| c["sourceUniqueId"] == json!(from.unique));
    let count = world.volumes.values().filter(own).count();
    if count >= 500 {
        return Err(ArmError::not_allowed(format!(
            "Disk {} has {count} incremental snapshots already; at most 500 are allowed.",
            from.common.name
        )));
    }
    let family = world.volumes.values().find(own).and_then(|v| v.family).unwrap_or_else(Uuid::new_v4);
    let window = SignedDuration::from_mins(5);
    let taken = world.snapshots_taken.entry(from_key.to_owned()).or_default();
    taken.retain(|at| call.now.duration_since(*at) < window);
    if taken.len() >= 7 {
        let wait = taken.first().map_or(1, |at| (window - call.now.duration_since(*at)).as_secs().unsigned_abs().max(1));
        let message = format!(
            "Disk {} has had 7 incremental snapshots in the last five minutes. Try again after '{wait}' seconds.",
            from.common.name
        );
        return Err(ArmError::new(429, "TooManyRequests", message).retry_after(wait));
    }
    taken.push(call.now);
    Ok(family)
}

/// PATCH of a snapshot: tags.
///
/// # Errors
/// ResourceNotFound (404), Conflict (409).
pub fn patch(world: &mut World, call: &Call, name: &str) -> Outcome {
    let body = parse(&call.body, &shapes::TAGS, Style::Compute)?;
    let known = volumes::find(world, call, Kind::Snapshot, name)?.clone();
    check_existing(&known.common, None)?;
    retag(world, call, known, &body)
}

fn retag(world: &mut World, call: &Call, known: Volume, body: &Value) -> Outcome {
    let tags = volumes::tags(body);
    if tags == known.common.tags && known.common.provisioning == "Succeeded" {
        return Ok(Answer::ok(show(world, &known, call.now)));
    }
    let (location, id) = (known.common.location, known.common.id);
    let key = id.to_ascii_lowercase();
    if let Some(volume) = world.volumes.get_mut(&key) {
        volume.common.provisioning = "Updating";
        volume.common.tags = tags;
    }
    Ok(finish(world, call, &key, location, id))
}

fn finish(world: &mut World, call: &Call, key: &str, location: String, id: String) -> Answer {
    let body = world.volumes.get(key).map(first_answer);
    let key = key.to_owned();
    let start = Start {
        provider: Provider::Disk,
        location,
        id,
        length: seconds(call.state.config.times.disk),
        status: 202,
        body,
        finish: Box::new(move |world, _, at| {
            if let Some(common) = world.common_mut(&key) {
                common.provisioning = "Succeeded";
            }
            Ok(world.volumes.get(&key).map_or(Value::Null, |volume| show(world, volume, at)))
        }),
    };
    world.start(call, start).1
}
