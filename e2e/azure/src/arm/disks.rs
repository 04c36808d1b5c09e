//! Managed disks: PUT and PATCH.
//!
//! Rules: the REST API of disks (`creationData`, `uploadSizeBytes`, `diskSizeGB`), learn.microsoft.com "Upload a VHD to Azure" and "FAQ for
//! disks"; the words of refusals as they stand in public reports of Azure's clients, where they do.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::error::ArmError;
use super::import;
use super::operations::{Provider, Start};
use super::path::ResourceId;
use super::request::{Answer, Call, Outcome};
use super::schema::{Style, parse};
use super::shapes;
use super::volumes::{self, check_existing, immutable, show};
use super::world::{GIB, Kind, MIB, Power, Upload, Volume, World, hydration};
use crate::config::seconds;

/// `uploadSizeBytes`: 20 MiB and a footer at least, 32 TiB and a footer at most (REST API of disks, `CreationData`).
const SMALLEST_UPLOAD: u64 = 20_972_032;
const LARGEST_UPLOAD: u64 = 35_183_298_347_520;
const FOOTER: u64 = 512;
/// `diskSizeGB`: 32 TiB, or 64 TiB for PremiumV2 and Ultra.
const LARGEST_GIB: u64 = 32_767;
const LARGEST_GIB_V2: u64 = 65_536;

/// Where a new disk's bytes come from.
enum Source {
    /// Nowhere: zeroes.
    Empty,
    /// A client, by SAS.
    Upload,
    /// A disk or snapshot, by key.
    Copy(String),
    /// A page blob.
    Import(import::Blob),
}

/// PUT of a disk.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn put(world: &mut World, call: &Call, name: &str) -> Outcome {
    let body = parse(&call.body, &shapes::DISK, Style::Compute)?;
    volumes::check_name("the disk", name, 80)?;
    let location = volumes::location(call, &body, "Microsoft.Compute/disks")?;
    let id = volumes::volume_id(world, call, Kind::Disk, name);
    let key = id.to_ascii_lowercase();
    if let Some(known) = world.volumes.get(&key) {
        check_existing(&known.common, Some(&location))?;
        let known = known.clone();
        unchanged_creation(&known, &body)?;
        return update(world, call, &key, known, &body, true);
    }

    let zones = zones(&body)?;
    let sku = body["sku"]["name"].as_str().unwrap_or("Standard_LRS").to_owned();
    check_sku(&sku, &zones, &body)?;
    let properties = body["properties"].as_object().cloned().unwrap_or_default();
    let Created { source, content, mut properties } = create(world, call, &id, &location, &sku, properties)?;
    if properties.get("dataAccessAuthMode").is_some_and(|mode| mode == "AzureActiveDirectory") {
        return Err(ArmError::unsupported("properties.dataAccessAuthMode: AzureActiveDirectory"));
    }
    for read_only in ["timeCreated", "diskSizeBytes", "uniqueId", "provisioningState", "diskState", "completionPercent"] {
        properties.remove(read_only);
    }

    let unique = Uuid::new_v4();
    let broken = |error: std::io::Error| ArmError::new(500, "InternalServerError", format!("the simulator's disk store: {error}"));
    let mut hydrates = None;
    match &source {
        Source::Empty => call.state.disks.create(&key, content, false).map_err(broken)?,
        Source::Upload => call.state.disks.create(&key, content, true).map_err(broken)?,
        Source::Copy(from) => {
            call.state.disks.copy(from, &key, content).map_err(broken)?;
            // Usable at once; the bytes come in the background ("Create an incremental snapshot").
            hydrates = Some(hydration(content, &call.state.config, call.now));
        }
        Source::Import(_) => {}
    }
    let volume = Volume {
        common: volumes::common(call, id.clone(), name, location.clone(), volumes::tags(&body)),
        kind: Kind::Disk,
        zones,
        sku,
        properties,
        content,
        unique,
        upload: if matches!(source, Source::Upload) { Upload::Ready } else { Upload::Done },
        owner: None,
        grants: Vec::new(),
        hydration: hydrates,
        family: None,
    };
    world.volumes.insert(key.clone(), volume);
    let (operation, answer) = run(world, call, &key, location, id, |_, _| {});
    if let Source::Import(blob) = source {
        import::begin(world, call, operation, &key, blob);
    }
    Ok(answer)
}

/// Starts the operation of a PUT or PATCH whose effect is `change` and, after it, `Succeeded`.
fn run(
    world: &mut World,
    call: &Call,
    key: &str,
    location: String,
    id: String,
    change: impl FnOnce(&mut Volume, &crate::Inner) + Send + 'static,
) -> (Uuid, Answer) {
    let body = world.volumes.get(key).map(first_answer);
    let key = key.to_owned();
    let start = Start {
        provider: Provider::Disk,
        location,
        id,
        length: seconds(call.state.config.times.disk),
        status: 202,
        body,
        finish: Box::new(move |world, state, at| {
            if let Some(volume) = world.volumes.get_mut(&key) {
                change(volume, state);
                volume.common.provisioning = "Succeeded";
            }
            Ok(world.volumes.get(&key).map_or(Value::Null, |volume| show(world, volume, at)))
        }),
    };
    world.start(call, start)
}

/// What the disk provider answers first: it does not show the whole disk yet.
pub(super) fn first_answer(volume: &Volume) -> Value {
    let mut properties = volume.properties.clone();
    properties.insert("provisioningState".to_owned(), json!("Updating"));
    json!({
        "name": volume.common.name, "location": volume.common.location, "tags": volume.common.tags,
        "sku": { "name": volume.sku }, "properties": properties,
    })
}

fn zones(body: &Value) -> Result<Vec<String>, ArmError> {
    let zones: Vec<String> = body["zones"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    match zones.as_slice() {
        [] => Ok(zones),
        [zone] if matches!(zone.as_str(), "1" | "2" | "3") => Ok(zones),
        [zone] => Err(ArmError::new(
            400,
            "InvalidAvailabilityZone",
            format!("The zone(s) '{zone}' for resource is not supported. The supported zones for the location are '1,2,3'"),
        )),
        _ => Err(ArmError::invalid("zones", "At most one availability zone can be given.")),
    }
}

fn check_sku(sku: &str, zones: &[String], body: &Value) -> Result<(), ArmError> {
    if sku.ends_with("_ZRS") && !zones.is_empty() {
        return Err(
            ArmError::new(400, "BadRequest", format!("A disk with sku '{sku}' is zone-redundant: zones cannot be given.")).target("zones")
        );
    }
    if matches!(sku, "PremiumV2_LRS" | "UltraSSD_LRS") {
        if zones.is_empty() {
            return Err(
                ArmError::new(400, "BadRequest", format!("A disk with sku '{sku}' has to be in an availability zone.")).target("zones")
            );
        }
        let creation = &body["properties"]["creationData"];
        if creation["createOption"] == "Upload" && creation["logicalSectorSize"] != 512 {
            let message =
                format!("Upload to a disk with sku '{sku}' needs creationData.logicalSectorSize 512: a VHD has sectors of 512 bytes.");
            return Err(ArmError::new(400, "BadRequest", message).target("creationData.logicalSectorSize"));
        }
        return Ok(());
    }
    if !body["properties"]["creationData"]["logicalSectorSize"].is_null() {
        let message = format!("creationData.logicalSectorSize is not supported for sku '{sku}'.");
        return Err(ArmError::new(400, "BadRequest", message).target("creationData.logicalSectorSize"));
    }
    Ok(())
}

struct Created {
    source: Source,
    content: u64,
    properties: Map<String, Value>,
}

/// What `creationData` asks for.
fn create(
    world: &World,
    call: &Call,
    id: &str,
    location: &str,
    sku: &str,
    mut properties: Map<String, Value>,
) -> Result<Created, ArmError> {
    let creation = properties.get("creationData").cloned().unwrap_or_default();
    let option = creation["createOption"].as_str().unwrap_or_default().to_owned();
    let size = match properties.get("diskSizeGB").map(|gib| gib.as_u64()) {
        None => None,
        Some(Some(gib)) if (1..=largest(sku)).contains(&gib) => Some(gib * GIB),
        Some(_) => {
            let message = format!("The value of parameter diskSizeGB is out of range. The value must be between 1 and {}.", largest(sku));
            return Err(ArmError::invalid("diskSizeGB", message));
        }
    };
    let only = |needed: &[&str]| {
        ["storageAccountId", "sourceUri", "sourceResourceId", "uploadSizeBytes"]
            .iter()
            .find(|field| !needed.contains(field) && !creation[**field].is_null())
            .map_or(Ok(()), |field| {
                let at = format!("creationData.{field}");
                Err(ArmError::invalid(&at, format!("Parameter '{at}' is not allowed with createOption '{option}'.")))
            })
    };
    let missing = |at: &str| ArmError::invalid(at, format!("Required parameter '{at}' is missing (null)."));
    let (source, content) = match option.as_str() {
        "Empty" => {
            only(&[])?;
            (Source::Empty, size.ok_or_else(|| missing("disk.diskSizeGB"))?)
        }
        "Upload" => {
            only(&["uploadSizeBytes"])?;
            if size.is_some() {
                return Err(ArmError::invalid(
                    "diskSizeGB",
                    "Parameter 'diskSizeGB' is not allowed with createOption 'Upload': it follows from creationData.uploadSizeBytes.",
                ));
            }
            let bytes = creation["uploadSizeBytes"].as_i64().ok_or_else(|| missing("disk.creationData.uploadSizeBytes"))?;
            (Source::Upload, upload_size(bytes)?)
        }
        "Copy" => {
            only(&["sourceResourceId"])?;
            let source = creation["sourceResourceId"].as_str().ok_or_else(|| missing("disk.creationData.sourceResourceId"))?;
            let from = copy_source(world, call, (id, "Microsoft.Compute/disks/write"), source, location)?;
            inherit(&mut properties, from)?;
            (Source::Copy(from.common.id.to_ascii_lowercase()), copy_size(from, size)?)
        }
        "Import" => {
            only(&["sourceUri", "storageAccountId"])?;
            (Source::Import(import::source(world, call, id, location, &creation)?), size.unwrap_or(0))
        }
        other => return Err(ArmError::unsupported(&format!("creationData.createOption: {other}"))),
    };
    Ok(Created { source, content, properties })
}

fn largest(sku: &str) -> u64 {
    if matches!(sku, "PremiumV2_LRS" | "UltraSSD_LRS") { LARGEST_GIB_V2 } else { LARGEST_GIB }
}

/// The rules of `uploadSizeBytes`, in Azure's words.
fn upload_size(bytes: i64) -> Result<u64, ArmError> {
    let bad = |message: String| ArmError::new(400, "BadRequest", message).target("disk.creationData.uploadSizeBytes");
    let out_of_range = || {
        bad(format!(
            "The value {bytes} of parameter creationData.uploadSizeBytes is out of range. The value must be between {SMALLEST_UPLOAD} (20 MiB + 512 \
             bytes for the VHD footer) and {LARGEST_UPLOAD} (32 TiB + 512 bytes for the VHD footer), inclusive."
        ))
    };
    let size = u64::try_from(bytes).map_err(|_| out_of_range())?;
    if !(SMALLEST_UPLOAD..=LARGEST_UPLOAD).contains(&size) {
        return Err(out_of_range());
    }
    let content = size - FOOTER;
    if !content.is_multiple_of(MIB) {
        return Err(bad(format!(
            "The upload size in bytes {size} - 512 bytes for the VHD footer ({content} in this case) must be a multiple of MiB."
        )));
    }
    Ok(content)
}

/// The disk or snapshot that `sourceResourceId` names, if it can be copied.
///
/// # Errors
/// For ids that are none, sources that are not there, that are elsewhere, that are being uploaded, or that the caller may not read.
pub fn copy_source<'a>(
    world: &'a World,
    call: &Call,
    (id, write): (&str, &str),
    source: &str,
    location: &str,
) -> Result<&'a Volume, ArmError> {
    let target = "creationData.sourceResourceId";
    let parsed = ResourceId::parse(source, target)?;
    let kind = [Kind::Disk, Kind::Snapshot].into_iter().find(|kind| parsed.is("Microsoft.Compute", kind.plural()));
    let Some(kind) = kind else {
        return Err(ArmError::invalid(target, format!("The source resource '{source}' is neither a disk nor a snapshot.")));
    };
    call.may_link(world, (write, id), &format!("Microsoft.Compute/{}/beginGetAccess/action", kind.plural()), source)?;
    let Some(from) = world.volumes.get(&parsed.key) else {
        return Err(ArmError::not_found(&format!("Microsoft.Compute/{}", kind.plural()), &parsed.name, &parsed.group));
    };
    let name = &from.common.name;
    if from.common.location != location {
        let message = format!(
            "The source resource '{source}' is in location '{}': a copy has to be in the same location, not in '{location}'.",
            from.common.location
        );
        return Err(ArmError::invalid(target, message));
    }
    if let Some(state) = volumes::upload_state(from) {
        // No page of Azure's allows it; "Upload can only be used during the creation of a new empty disk" (FAQ for disks).
        return Err(ArmError::not_allowed(format!(
            "Disk {name} is in state {state}. It cannot be copied before its upload is finished by EndGetAccess."
        )));
    }
    if from.common.busy.is_some() {
        return Err(ArmError::busy());
    }
    if from.common.provisioning != "Succeeded" {
        let message = format!("{} {name} is in provisioning state {}: it cannot be copied.", kind.word(), from.common.provisioning);
        return Err(ArmError::not_allowed(message));
    }
    // "Incremental snapshots of Premium SSD v2 and Ultra: wait until completionPercent is 100."
    if kind == Kind::Snapshot && from.completion(call.now).is_some_and(|percent| percent < 100.0) {
        let message = format!(
            "Snapshot {name} cannot be used as a source before its completionPercent is 100; it is {}.",
            from.completion(call.now).unwrap_or(0.0)
        );
        return Err(ArmError::not_allowed(message));
    }
    Ok(from)
}

fn copy_size(from: &Volume, size: Option<u64>) -> Result<u64, ArmError> {
    match size {
        None => Ok(from.content),
        // Gibibytes are rounded up: the same number means the same disk.
        Some(size) if size / GIB == from.gib() => Ok(from.content),
        Some(size) if size < from.content => Err(smaller(from.content, size)),
        Some(size) => Ok(size),
    }
}

fn smaller(current: u64, wanted: u64) -> ArmError {
    ArmError::new(
        400,
        "BadRequest",
        format!("Disk size reduction is not supported. Current size is {current} bytes, requested size is {wanted} bytes."),
    )
    .target("diskSizeGB")
}

/// What a copy has from its source, unless the body says otherwise.
pub(super) fn inherit(properties: &mut Map<String, Value>, from: &Volume) -> Result<(), ArmError> {
    for name in ["osType", "hyperVGeneration", "supportedCapabilities", "securityProfile"] {
        if let Some(value) = from.properties.get(name) {
            let mine = properties.entry(name).or_insert_with(|| value.clone());
            if name == "hyperVGeneration" && mine != value {
                let message =
                    format!("hyperVGeneration {mine} is not that of the source, {value}: the generation of a disk cannot be changed.");
                return Err(ArmError::new(400, "BadRequest", message).target("hyperVGeneration"));
            }
        }
    }
    if let Some(Value::Object(creation)) = properties.get_mut("creationData") {
        creation.insert("sourceUniqueId".to_owned(), json!(from.unique));
    }
    Ok(())
}

/// A PUT has to say what the first one said.
pub(super) fn unchanged_creation(known: &Volume, body: &Value) -> Result<(), ArmError> {
    let zones: Vec<&str> = body["zones"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if known.kind == Kind::Disk && known.zones != zones {
        return Err(ArmError::new(
            400,
            "ResourceAvailabilityZonesCannotBeModified",
            format!(
                "Resource '{}' has an existing availability zone constraint '{}' and the request has availability zone constraint '{}', which do not \
                 match. Zones cannot be added/updated/removed once the resource is created. The resource cannot be updated from regional to zonal or \
                 vice-versa.",
                known.common.id,
                known.zones.join(","),
                zones.join(",")
            ),
        ));
    }
    let given = &body["properties"]["creationData"];
    let mine = known.properties.get("creationData").cloned().unwrap_or_default();
    for field in ["createOption", "storageAccountId", "sourceUri", "sourceResourceId", "uploadSizeBytes", "logicalSectorSize"] {
        let same = match (given[field].as_str(), mine[field].as_str()) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            _ => given[field] == mine[field],
        };
        if !same {
            return Err(immutable(&format!("creationData.{field}")));
        }
    }
    for field in ["hyperVGeneration", "securityProfile"] {
        let (given, mine) = (&body["properties"][field], known.properties.get(field).unwrap_or(&Value::Null));
        if !given.is_null() && given != mine {
            return Err(immutable(field));
        }
    }
    Ok(())
}

/// PATCH of a disk.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn patch(world: &mut World, call: &Call, name: &str) -> Outcome {
    let body = parse(&call.body, &shapes::DISK_UPDATE, Style::Compute)?;
    let known = volumes::find(world, call, Kind::Disk, name)?.clone();
    check_existing(&known.common, None)?;
    let key = known.common.id.to_ascii_lowercase();
    update(world, call, &key, known, &body, false)
}

/// Changes what can be changed: tags, size upwards, SKU, and properties without consequences here.
fn update(world: &mut World, call: &Call, key: &str, known: Volume, body: &Value, whole: bool) -> Outcome {
    let mut next = known.clone();
    if whole || !body["tags"].is_null() {
        next.common.tags = volumes::tags(body);
    }
    let held = known.owner.as_ref().and_then(|owner| world.vms.get(owner)).filter(|vm| vm.power != Power::Deallocated);
    if let Some(sku) = body["sku"]["name"].as_str().filter(|sku| *sku != known.sku) {
        if let Some(vm) = held {
            let message = format!(
                "Changing the sku of disk {} is not allowed while VM {} is running: deallocate it first.",
                known.common.name, vm.common.id
            );
            return Err(ArmError::not_allowed(message));
        }
        if let Some(state) = volumes::upload_state(&known) {
            return Err(ArmError::not_allowed(format!("Disk {} is in state {state}: its sku cannot be changed.", known.common.name)));
        }
        if matches!(sku, "PremiumV2_LRS" | "UltraSSD_LRS") || matches!(known.sku.as_str(), "PremiumV2_LRS" | "UltraSSD_LRS") {
            return Err(immutable("sku.name"));
        }
        next.sku = sku.to_owned();
    }
    let given = body["properties"].as_object().cloned().unwrap_or_default();
    if let Some(gib) = given.get("diskSizeGB").and_then(Value::as_u64).filter(|gib| *gib != known.gib()) {
        if gib * GIB < known.content {
            return Err(smaller(known.content, gib * GIB));
        }
        if gib > largest(&next.sku) {
            return Err(ArmError::invalid(
                "diskSizeGB",
                format!("The value of parameter diskSizeGB is out of range. The value must be between 1 and {}.", largest(&next.sku)),
            ));
        }
        if let Some(state) = volumes::upload_state(&known) {
            return Err(ArmError::not_allowed(format!("Disk {} is in state {state}: it cannot be resized.", known.common.name)));
        }
        if known.has_sas(call.now) {
            return Err(volumes::outstanding_sas(&known.common.name, "resizing"));
        }
        if let Some(vm) = held {
            return Err(ArmError::not_allowed(format!(
                "Cannot resize disk {} while it is attached to running VM {}.",
                known.common.name, vm.common.id
            )));
        }
        next.content = gib * GIB;
    }
    let changes: Vec<(String, Value)> = given
        .into_iter()
        .filter(|(name, _)| CHANGEABLE.contains(&name.as_str()))
        .filter(|(name, value)| known.properties.get(name) != Some(value))
        .collect();
    if held.is_some() && changes.iter().any(|(name, _)| name == "osType") {
        return Err(immutable("osType"));
    }
    if changes.iter().any(|(name, value)| name == "dataAccessAuthMode" && value != "None") {
        return Err(ArmError::unsupported("properties.dataAccessAuthMode: AzureActiveDirectory"));
    }
    next.properties.extend(changes);
    let same = next.common.tags == known.common.tags
        && next.sku == known.sku
        && next.content == known.content
        && next.properties == known.properties
        && known.common.provisioning == "Succeeded";
    if same {
        return Ok(Answer::ok(show(world, &known, call.now)));
    }
    if known.common.provisioning == "Failed" && known.content == 0 {
        return Err(ArmError::not_allowed(format!("Disk {} could not be created. Delete it, then create it again.", known.common.name)));
    }
    let (location, id) = (known.common.location.clone(), known.common.id.clone());
    if let Some(volume) = world.volumes.get_mut(key) {
        volume.common.provisioning = "Updating";
    }
    let key_again = key.to_owned();
    let (_, answer) = run(world, call, key, location, id, move |volume, state| {
        if next.content != volume.content
            && let Err(error) = state.disks.resize(&key_again, next.content)
        {
            tracing::error!(%error, "resize");
            return;
        }
        volume.content = next.content;
        volume.sku = next.sku;
        volume.properties = next.properties;
        volume.common.tags = next.common.tags;
    });
    Ok(answer)
}

/// Properties that a PUT or PATCH may change without more ado.
const CHANGEABLE: &[&str] = &[
    "osType",
    "networkAccessPolicy",
    "publicNetworkAccess",
    "dataAccessAuthMode",
    "supportedCapabilities",
    "tier",
    "burstingEnabled",
    "supportsHibernation",
    "optimizedForFrequentAttach",
    "diskIOPSReadWrite",
    "diskMBpsReadWrite",
];
