//! What a virtual machine may be made of.
//!
//! Rules: REST API of virtual machines (`Attach`: the disk exists, `osProfile` is for images), "Generation 2 VMs", resource SKUs
//! (`HyperVGenerations`, `MaxDataDiskCount`, `PremiumIO`, restrictions), "Check vCPU quotas", "FAQ for disks" (no attach in an upload
//! state), availability zones (a zonal disk goes to a VM in its zone). The words of refusals are Azure's where clients have reported them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::catalog;
use super::error::ArmError;
use super::nics;
use super::path::ResourceId;
use super::request::Call;
use super::volumes::{outstanding_sas, upload_state};
use super::world::{GIB, Kind, Power, Vm, Volume, World};
use crate::config::Size;

/// The largest OS disk (learn.microsoft.com, "Introduction to managed disks"): 4,095 GiB.
const LARGEST_OS: u64 = 4095 * GIB;

/// What a VM is made of, when it may be.
pub struct Parts {
    /// Its zone, in a list.
    pub zones: Vec<String>,
    /// Its size.
    pub size: String,
    /// Disks by key, the OS disk first, and whether each is deleted with the VM.
    pub disks: Vec<(String, bool)>,
    /// Cards by key, and whether each is deleted with the VM.
    pub nics: Vec<(String, bool)>,
}

/// The generation of a disk: V1 where it says nothing.
#[must_use]
pub fn generation(volume: &Volume) -> &'static str {
    if volume.properties.get("hyperVGeneration").is_some_and(|generation| generation == "V2") { "V2" } else { "V1" }
}

struct Check<'a> {
    world: &'a World,
    call: &'a Call,
    id: &'a str,
    key: String,
    location: &'a str,
    zones: Vec<String>,
    size: &'a Size,
}

fn bad(message: impl Into<String>, target: &str) -> ArmError {
    ArmError::new(400, "BadRequest", message).target(target)
}

/// Checks a body against the world.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn check(world: &World, call: &Call, id: &str, location: &str, body: &Value, known: Option<&Vm>) -> Result<Parts, ArmError> {
    let properties = &body["properties"];
    // An attached OS disk has its own accounts and names.
    if !properties["osProfile"].is_null() {
        return Err(ArmError::invalid("osProfile", "Parameter 'osProfile' is not allowed."));
    }
    let storage = &properties["storageProfile"];
    if !storage["imageReference"].is_null() {
        return Err(ArmError::invalid("imageReference", "Parameter 'storageProfile.imageReference' is not allowed."));
    }
    let zones: Vec<String> = body["zones"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let wanted = properties["hardwareProfile"]["vmSize"].as_str().unwrap_or_default();
    let size = size(call, wanted, location, &zones)?;
    if !properties["availabilitySet"].is_null() {
        if zones.is_empty() {
            return Err(ArmError::unsupported("properties.availabilitySet"));
        }
        return Err(bad("Virtual Machine cannot be created with both availability zone and availability set specified.", "zones"));
    }
    let check = Check { world, call, id, key: id.to_ascii_lowercase(), location, zones, size };
    let disks = check.disks(storage, &properties["securityProfile"])?;
    let nics = check.nics(&properties["networkProfile"]["networkInterfaces"])?;
    // Azure restarts a running VM to resize it; here it has to be off its host.
    if known.is_some_and(|known| !known.size.eq_ignore_ascii_case(&size.name) && known.power != Power::Deallocated) {
        return Err(ArmError::unsupported("hardwareProfile.vmSize of a virtual machine that is not deallocated"));
    }
    check.quota(known)?;
    Ok(Parts { zones: check.zones, size: size.name.clone(), disks, nics })
}

/// The size, if this subscription may use it here.
fn size<'a>(call: &'a Call, wanted: &str, location: &str, zones: &[String]) -> Result<&'a Size, ArmError> {
    let config = &call.state.config;
    let here = |size: &&Size| catalog::offered(size, location);
    let Some(size) = config.size(wanted).filter(here) else {
        let valid: Vec<&str> = config.sizes.iter().filter(here).map(|size| size.name.as_str()).collect();
        return Err(ArmError::invalid(
            "vmSize",
            format!(
                "The value {wanted} provided for the VM size is not valid. The valid sizes in the current region are: {}. Find out more on the valid VM \
                 sizes in each region at https://aka.ms/azure-regions.",
                valid.join(",")
            ),
        ));
    };
    let restricted = size.restrictions.iter().any(|restriction| {
        restriction.location == location && (restriction.zones.is_empty() || zones.iter().any(|zone| restriction.zones.contains(zone)))
    });
    if restricted {
        return Err(ArmError::new(
            409,
            "SkuNotAvailable",
            format!(
                "The requested VM size for resource 'Following SKUs have failed for Capacity Restrictions: {}' is currently not available in location \
                 '{location}'. Please try another size or deploy to a different location or different zone. See https://aka.ms/azureskunotavailable \
                 for details.",
                size.name
            ),
        ));
    }
    match zones {
        [] => Ok(size),
        [zone] if size.zones.contains(zone) => Ok(size),
        _ => Err(ArmError::new(
            400,
            "InvalidAvailabilityZone",
            format!(
                "The zone(s) '{}' for resource is not supported. The supported zones for size {} in '{location}' are '{}'.",
                zones.join(","),
                size.name,
                size.zones.join(",")
            ),
        )
        .target("zones")),
    }
}

impl Check<'_> {
    fn disks(&self, storage: &Value, security: &Value) -> Result<Vec<(String, bool)>, ArmError> {
        let os = &storage["osDisk"];
        let os_disk = self.disk(os, "osDisk")?;
        self.os_disk(os, os_disk, security)?;
        let mut disks = vec![(os_disk.common.id.to_ascii_lowercase(), os["deleteOption"] == "Delete")];

        let data: Vec<&Value> = storage["dataDisks"].as_array().into_iter().flatten().filter(|disk| disk["toBeDetached"] != true).collect();
        if data.len() as u64 > self.size.max_data_disks {
            let message =
                format!("The maximum number of data disks allowed to be attached to a VM of this size is {}.", self.size.max_data_disks);
            return Err(ArmError::not_allowed(message).target("dataDisks"));
        }
        let mut luns = BTreeSet::new();
        for disk in data {
            let lun = disk["lun"].as_i64().unwrap_or(-1);
            if !(0..64).contains(&lun) {
                return Err(ArmError::invalid(
                    "dataDisk.lun",
                    format!("The value {lun} of parameter dataDisk.lun is out of range. The value must be between 0 and 63."),
                ));
            }
            if !luns.insert(lun) {
                return Err(ArmError::invalid(
                    "dataDisk.lun",
                    format!("The LUN {lun} is used by more than one data disk: LUNs have to be unique."),
                ));
            }
            let volume = self.disk(disk, "dataDisk")?;
            if disk["caching"].as_str().is_some_and(|caching| caching != "None") {
                // "Disk caching isn't supported for disks 4 TiB and larger", nor for Premium SSD v2 and Ultra.
                if volume.content > LARGEST_OS || matches!(volume.sku.as_str(), "PremiumV2_LRS" | "UltraSSD_LRS") {
                    let message = format!(
                        "Disk caching is not supported for disk {} (sku {}, {} GiB).",
                        volume.common.name,
                        volume.sku,
                        volume.gib()
                    );
                    return Err(ArmError::invalid("dataDisk.caching", message));
                }
            }
            let key = volume.common.id.to_ascii_lowercase();
            if disks.iter().any(|(known, _)| *known == key) {
                return Err(ArmError::invalid("dataDisk.managedDisk.id", format!("Disk {} is given more than once.", volume.common.name)));
            }
            disks.push((key, disk["deleteOption"] == "Delete"));
        }
        Ok(disks)
    }

    /// A disk that may be attached to this VM.
    fn disk(&self, disk: &Value, target: &str) -> Result<&Volume, ArmError> {
        let option = disk["createOption"].as_str().unwrap_or_default();
        if option != "Attach" {
            return Err(ArmError::unsupported(&format!("{target}.createOption: {option}")));
        }
        let at = format!("{target}.managedDisk.id");
        let Some(id) = disk["managedDisk"]["id"].as_str() else {
            return Err(ArmError::invalid(&at, format!("Required parameter '{at}' is missing (null).")));
        };
        let parsed = ResourceId::parse(id, &at)?;
        self.call.may_link(self.world, ("Microsoft.Compute/virtualMachines/write", self.id), "Microsoft.Compute/disks/write", id)?;
        let found = self.world.volumes.get(&parsed.key).filter(|volume| volume.kind == Kind::Disk);
        let Some(volume) = found else {
            return Err(ArmError::new(404, "NotFound", format!("Disk {} is not found.", parsed.name)).target(at));
        };
        let name = &volume.common.name;
        if volume.common.location != self.location {
            return Err(bad(
                format!(
                    "Disk {id} cannot be attached to the VM because it is in location '{}', and the VM in '{}'.",
                    volume.common.location, self.location
                ),
                &at,
            ));
        }
        self.attachable(volume, &at)?;
        if let Some(given) = disk["name"].as_str().filter(|given| !given.eq_ignore_ascii_case(name)) {
            return Err(ArmError::invalid(
                &format!("{target}.name"),
                format!("The disk name '{given}' does not match '{name}', the name of the attached disk."),
            ));
        }
        if let Some(given) = disk["managedDisk"]["storageAccountType"].as_str().filter(|given| *given != volume.sku) {
            return Err(ArmError::invalid(
                &format!("{target}.managedDisk.storageAccountType"),
                format!("The storage account type '{given}' does not match '{}', that of the attached disk.", volume.sku),
            ));
        }
        if (volume.sku.starts_with("Premium") || volume.sku.starts_with("Ultra")) && !self.size.premium {
            return Err(ArmError::invalid(
                &at,
                format!(
                    "Requested operation cannot be performed because the VM size {} does not support the storage account type {} of disk '{name}'. \
                     Consider updating the VM to a size that supports Premium storage.",
                    self.size.name, volume.sku
                ),
            ));
        }
        Ok(volume)
    }

    fn attachable(&self, volume: &Volume, at: &str) -> Result<(), ArmError> {
        let name = &volume.common.name;
        if volume.owner.as_deref() == Some(self.key.as_str()) {
            return Ok(());
        }
        if let Some(owner) = &volume.owner {
            let owner = self.world.vms.get(owner).map_or(owner.as_str(), |vm| &vm.common.id);
            return Err(ArmError::new(
                409,
                "ConflictingUserInput",
                format!(
                    "Cannot attach the disk {name} to VM {} because it is already attached to VM {owner}. A disk can be attached to only one VM at a time.",
                    self.id
                ),
            )
            .target(volume.common.id.clone()));
        }
        if let Some(state) = upload_state(volume) {
            return Err(ArmError::not_allowed(format!(
                "Disk {name} cannot be attached to the VM because it is in state {state}. Finish its upload by EndGetAccess first."
            ))
            .target(at));
        }
        if volume.has_sas(self.call.now) {
            return Err(outstanding_sas(name, "attaching").target(at));
        }
        if volume.common.busy.is_some() {
            return Err(ArmError::busy());
        }
        if volume.common.provisioning != "Succeeded" {
            let message =
                format!("Disk {name} cannot be attached to the VM because it is in provisioning state {}.", volume.common.provisioning);
            return Err(ArmError::not_allowed(message).target(at));
        }
        let redundant = volume.sku.ends_with("_ZRS");
        if volume.zones == self.zones || redundant {
            return Ok(());
        }
        let id = &volume.common.id;
        Err(match (self.zones.as_slice(), volume.zones.as_slice()) {
            ([vm], []) => bad(format!("Disk {id} cannot be attached to the VM because it is not in zone '{vm}'."), at),
            ([vm], [disk]) => bad(
                format!(
                    "Disk {id} cannot be attached to the VM because it is not in the same zone as the VM. VM zone: '{vm}'. Disk zone: '{disk}'."
                ),
                at,
            ),
            _ => bad(
                format!(
                    "Disk {id} cannot be attached to the VM because the disk is in zone '{}' and the VM is in none.",
                    volume.zones.join(",")
                ),
                at,
            ),
        })
    }

    fn os_disk(&self, body: &Value, volume: &Volume, security: &Value) -> Result<(), ArmError> {
        let name = &volume.common.name;
        if volume.content > LARGEST_OS {
            return Err(bad(format!("The size of OS disk {name}, {} GiB, exceeds the maximum of 4095 GiB.", volume.gib()), "osDisk"));
        }
        if matches!(volume.sku.as_str(), "PremiumV2_LRS" | "UltraSSD_LRS") {
            return Err(bad(format!("Disk {name} with sku {} cannot be used as an OS disk.", volume.sku), "osDisk"));
        }
        let mine = volume.properties.get("osType").and_then(Value::as_str);
        match (mine, body["osType"].as_str()) {
            (None, None) => return Err(ArmError::invalid("osDisk.osType", "Required parameter 'osDisk.osType' is missing (null).")),
            (Some(mine), Some(given)) if mine != given => {
                let message = format!("The osType '{given}' of the VM does not match '{mine}', that of the attached disk {name}.");
                return Err(ArmError::new(409, "PropertyChangeNotAllowed", message).target("osDisk.osType"));
            }
            _ => {}
        }
        let generation = generation(volume);
        if !self.size.generations.iter().any(|known| known == generation) {
            let number = &generation[1..];
            return Err(ArmError::new(
                400,
                "BadRequest",
                format!(
                    "The selected VM size '{}' cannot boot Hypervisor Generation '{number}'. If this was a Create operation please check that the Hypervisor \
                     Generation of the Image matches the Hypervisor Generation of the selected VM Size. If this was an Update operation please select a \
                     Hypervisor Generation '{number}' VM Size. For more information, see https://aka.ms/azuregen2vm",
                    self.size.name
                ),
            ));
        }
        let trusted = security["securityType"] == "TrustedLaunch";
        if security["securityType"] == "ConfidentialVM" {
            return Err(ArmError::unsupported("securityProfile.securityType: ConfidentialVM"));
        }
        if !security["uefiSettings"].is_null() && !trusted {
            return Err(bad(
                "uefiSettings can only be set for securityType TrustedLaunch or ConfidentialVM.",
                "securityProfile.uefiSettings",
            ));
        }
        let prepared = volume.properties.get("securityProfile").is_some_and(|profile| profile["securityType"] == "TrustedLaunch");
        if trusted && generation == "V1" {
            return Err(bad("TrustedLaunch is not supported for Generation 1 virtual machines.", "securityProfile.securityType"));
        }
        if trusted != prepared {
            let of = |trusted: bool| if trusted { "TrustedLaunch" } else { "Standard" };
            let message =
                format!("The securityType of the VM ({}) does not match that of its OS disk {name} ({}).", of(trusted), of(prepared));
            return Err(bad(message, "securityProfile.securityType"));
        }
        Ok(())
    }

    fn nics(&self, given: &Value) -> Result<Vec<(String, bool)>, ArmError> {
        let given: Vec<&Value> = given.as_array().into_iter().flatten().collect();
        if given.is_empty() {
            return Err(ArmError::invalid("networkProfile", "Virtual machine must have at least one network interface."));
        }
        if given.len() as u64 > self.size.max_nics {
            let message = format!(
                "The number of network interfaces for virtual machine {} exceeds the maximum allowed for the virtual machine size {}. The number of network \
                 interfaces is {} and the maximum allowed is {}.",
                self.id,
                self.size.name,
                given.len(),
                self.size.max_nics
            );
            return Err(ArmError::new(400, "NetworkInterfaceCountExceeded", message));
        }
        let primaries = given.iter().filter(|nic| nic["properties"]["primary"] == true).count();
        if primaries > 1 || (primaries == 0 && given.len() > 1) {
            let message = format!(
                "Virtual machine {} has {} network interfaces of which {primaries} are primary: exactly one has to be.",
                self.id,
                given.len()
            );
            return Err(ArmError::new(400, "VirtualMachineMustHaveOneNetworkInterfaceAsPrimary", message));
        }
        let mut nics: Vec<(String, bool)> = Vec::new();
        let mut network: Option<String> = None;
        for reference in given {
            let id = reference["id"].as_str().unwrap_or_default();
            let parsed = ResourceId::parse(id, "networkProfile.networkInterfaces.id")?;
            self.call.may_link(
                self.world,
                ("Microsoft.Compute/virtualMachines/write", self.id),
                "Microsoft.Network/networkInterfaces/join/action",
                id,
            )?;
            let found = self.world.nics.get(&parsed.key).filter(|nic| nic.common.location == self.location);
            let Some(nic) = found else { return Err(nics::no_reference(id, self.id)) };
            nics::check_free(self.world, self.call, nic, Some(&self.key))?;
            if nic.common.busy.is_some() || nic.common.provisioning != "Succeeded" {
                let message = format!(
                    "Another operation on network interface {id} is in progress, or its last one failed ({}).",
                    nic.common.provisioning
                );
                return Err(ArmError::new(409, "AnotherOperationInProgress", message));
            }
            if nics.iter().any(|(known, _)| *known == parsed.key) {
                return Err(ArmError::invalid(
                    "networkProfile.networkInterfaces",
                    format!("Network interface {id} is given more than once."),
                ));
            }
            let subnet =
                nic.properties.get("ipConfigurations").and_then(|list| list[0]["properties"]["subnet"]["id"].as_str()).unwrap_or_default();
            let own = subnet.to_ascii_lowercase().split("/subnets/").next().unwrap_or_default().to_owned();
            if network.replace(own.clone()).is_some_and(|other| other != own) {
                let message = format!("The network interfaces of virtual machine {} are not in one virtual network.", self.id);
                return Err(ArmError::new(400, "VirtualMachineNetworkInterfacesMustBeInSameVnet", message));
            }
            nics.push((parsed.key, reference["properties"]["deleteOption"] == "Delete"));
        }
        Ok(nics)
    }

    /// Cores of the region and of the family, and machines.
    fn quota(&self, known: Option<&Vm>) -> Result<(), ArmError> {
        let Some(quotas) = self.world.quotas.get(self.location) else { return Ok(()) };
        let before = known.and_then(|vm| self.call.state.config.size(&vm.size));
        for (name, limit) in quotas {
            let needs = |size: &Size| match name.as_str() {
                "cores" => size.vcpus,
                "virtualMachines" => 1,
                family if family.eq_ignore_ascii_case(&size.family) => size.vcpus,
                _ => 0,
            };
            let additional = needs(self.size).saturating_sub(before.map_or(0, needs));
            let current = catalog::used(self.world, self.call, self.location, name);
            if additional > 0 && current + additional > *limit {
                let mut error = ArmError::not_allowed(format!(
                    "Operation could not be completed as it results in exceeding approved {} quota. Additional details - Deployment Model: Resource \
                     Manager, Location: {}, Current Limit: {limit}, Current Usage: {current}, Additional Required: {additional}, (Minimum) New Limit \
                     Required: {}. Setup Alerts when Quota reaches threshold. Learn more at https://aka.ms/quotamonitoringalerting .",
                    catalog::quota_name(name),
                    self.location,
                    current + additional
                ));
                let message = error.message.clone();
                error.details.push(json!({ "code": "QuotaExceeded", "target": name, "message": message }));
                return Err(error);
            }
        }
        Ok(())
    }
}
