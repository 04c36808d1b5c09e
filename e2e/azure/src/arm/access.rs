//! beginGetAccess and endGetAccess.
//!
//! Rules: REST API of disks ("Grant Access", "Revoke Access", `DiskState`), "Upload a VHD to Azure" (a write SAS for a disk that is made for
//! upload; another one when it expires before the upload is over), "FAQ for disks" (no upload to an existing disk: revoking is one way).

use jiff::SignedDuration;
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::ArmError;
use super::operations::{Provider, Start};
use super::request::{Call, Outcome};
use super::schema::{Style, parse};
use super::shapes;
use super::volumes::{self, check_existing};
use super::world::{Grant, Kind, Power, Upload, Volume, World};
use crate::config::seconds;
use crate::disks::Access;

/// The longest SAS: 60 days since 2025 (from memory: no page of Azure's was at hand).
const LONGEST: i64 = 60 * 24 * 3600;

/// POST of an action.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn post(world: &mut World, call: &Call, kind: Kind, name: &str, action: &str) -> Outcome {
    let volume = volumes::find(world, call, kind, name)?.clone();
    match action.to_ascii_lowercase().as_str() {
        "begingetaccess" => begin(world, call, volume),
        "endgetaccess" => end(world, call, volume),
        _ => Err(ArmError::new(
            404,
            "InvalidResourceType",
            format!("The action '{action}' could not be found for 'Microsoft.Compute/{}'.", kind.plural()),
        )),
    }
}

fn begin(world: &mut World, call: &Call, volume: Volume) -> Outcome {
    let body = parse(&call.body, &shapes::GRANT, Style::Compute)?;
    let duration = body["durationInSeconds"].as_i64().unwrap_or_default();
    if !(1..=LONGEST).contains(&duration) {
        let message = format!("The value of parameter durationInSeconds is out of range. The value must be between 1 and {LONGEST}.");
        return Err(ArmError::invalid("durationInSeconds", message));
    }
    if body["fileFormat"] == "VHDX" {
        return Err(ArmError::unsupported("fileFormat: VHDX"));
    }
    check_existing(&volume.common, None)?;
    let access = match body["access"].as_str() {
        Some("Write") => Access::Write,
        Some("Read") => Access::Read,
        _ => return Err(ArmError::invalid("access", "The value 'None' of parameter access gives no access.")),
    };
    may_grant(world, call, &volume, access)?;

    let key = volume.common.id.to_ascii_lowercase();
    let until = call.now.saturating_add(SignedDuration::from_secs(duration)).unwrap_or(jiff::Timestamp::MAX);
    let write = access == Access::Write;
    let start = Start {
        provider: Provider::Disk,
        location: volume.common.location,
        id: volume.common.id,
        length: seconds(call.state.config.times.access),
        status: 202,
        body: None,
        finish: Box::new(move |world, state, at| {
            let url = state.disks.grant(&key, access, until, Uuid::new_v4());
            if let Some(volume) = world.volumes.get_mut(&key) {
                volume.grants.retain(|grant| grant.until > at);
                volume.grants.push(Grant { until });
                if write {
                    volume.upload = Upload::Active;
                }
            }
            Ok(json!({ "accessSAS": url }))
        }),
    };
    Ok(world.start(call, start).1)
}

/// Who gets what, and when.
fn may_grant(world: &World, call: &Call, volume: &Volume, access: Access) -> Result<(), ArmError> {
    let name = &volume.common.name;
    let word = volume.kind.word();
    if volume.common.provisioning != "Succeeded" {
        let message = format!("{word} {name} is in provisioning state {}: access cannot be granted.", volume.common.provisioning);
        return Err(ArmError::not_allowed(message));
    }
    if volume.properties.get("networkAccessPolicy").is_some_and(|policy| policy != "AllowAll") {
        let message = format!("Access cannot be granted to {} {name}: its networkAccessPolicy is not AllowAll.", word.to_lowercase());
        return Err(ArmError::not_allowed(message));
    }
    match (access, volumes::upload_state(volume)) {
        (Access::Write, Some(_)) => Ok(()),
        (Access::Write, None) => Err(ArmError::not_allowed(format!(
            "Write access cannot be granted to {} {name}: it is not in state ReadyToUpload or ActiveUpload. Upload can only be used during the \
             creation of a new empty disk.",
            word.to_lowercase()
        ))),
        (Access::Read, Some(state)) => {
            Err(ArmError::not_allowed(format!("Read access cannot be granted to disk {name}: it is in state {state}.")))
        }
        (Access::Read, None) => may_read(world, call, volume),
    }
}

fn may_read(world: &World, call: &Call, volume: &Volume) -> Result<(), ArmError> {
    if let Some(vm) = volume.owner.as_ref().and_then(|owner| world.vms.get(owner)).filter(|vm| vm.power != Power::Deallocated) {
        return Err(ArmError::new(
            409,
            "Conflict",
            format!("Access not permitted because disk {} is currently attached to running VM {}.", volume.common.name, vm.common.id),
        ));
    }
    if let Some(family) = volume.family {
        // "You can have at most five SAS of a snapshot family at once" (incremental snapshots, restrictions).
        let open = world.volumes.values().filter(|v| v.family == Some(family) && v.has_sas(call.now) && v.unique != volume.unique).count();
        if open >= 5 {
            let message = format!(
                "Snapshot {} belongs to a family of which {open} snapshots have a SAS already; at most 5 are allowed.",
                volume.common.name
            );
            return Err(ArmError::not_allowed(message));
        }
    }
    Ok(())
}

fn end(world: &mut World, call: &Call, volume: Volume) -> Outcome {
    if !call.body.iter().all(u8::is_ascii_whitespace) && call.body != b"{}" {
        return Err(ArmError::new(400, "InvalidRequestContent", "endGetAccess takes no body."));
    }
    check_existing(&volume.common, None)?;
    if volume.upload == Upload::Ready {
        let message = format!(
            "Disk {} is in state ReadyToUpload: there is no access to end. Call BeginGetAccess and upload its content first.",
            volume.common.name
        );
        return Err(ArmError::not_allowed(message));
    }
    let key = volume.common.id.to_ascii_lowercase();
    // The SAS end with the call, not with its operation: what is written after this moment must not be in the disk. A disk whose footer
    // is no VHD's stays as it is, so that the footer can still be written.
    let refused = if volume.upload == Upload::Active { call.state.disks.footer(&key).err() } else { None };
    let refused = refused.map(|error| ArmError::new(400, "InvalidVhd", error.to_string()));
    if refused.is_none() && call.fail.is_none() {
        call.state.disks.revoke(&key);
    }
    let start = Start {
        provider: Provider::Disk,
        location: volume.common.location,
        id: volume.common.id,
        length: seconds(call.state.config.times.access),
        status: 202,
        body: None,
        finish: Box::new(move |world, _, _| {
            if let Some(error) = refused {
                return Err(error);
            }
            if let Some(volume) = world.volumes.get_mut(&key) {
                volume.grants.clear();
                volume.upload = Upload::Done;
            }
            Ok(Value::Null)
        }),
    };
    Ok(world.start(call, start).1)
}
