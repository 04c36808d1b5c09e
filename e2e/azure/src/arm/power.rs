//! Starting and stopping virtual machines.

use serde_json::Value;

use super::error::ArmError;
use super::operations::{Provider, Start};
use super::request::{Call, Outcome};
use super::vms;
use super::volumes::{check_existing, outstanding_sas};
use super::world::{Power, World};
use crate::config::seconds;

/// POST of an action.
///
/// # Errors
/// Whatever Azure would refuse.
pub fn post(world: &mut World, call: &Call, name: &str, action: &str) -> Outcome {
    let vm = vms::find(world, call, name)?;
    let (during, after) = match action.to_ascii_lowercase().as_str() {
        "start" => (Power::Starting, Power::Running),
        "poweroff" => (Power::Stopping, Power::Stopped),
        "deallocate" => (Power::Deallocating, Power::Deallocated),
        "restart" => (Power::Starting, Power::Running),
        _ => return Err(ArmError::unsupported(&format!("the action {action} of virtualMachines"))),
    };
    if let Some(skip) = call.query("skipShutdown").filter(|text| !text.eq_ignore_ascii_case("true") && !text.eq_ignore_ascii_case("false"))
    {
        return Err(ArmError::invalid("skipShutdown", format!("The value '{skip}' of parameter skipShutdown is invalid.")));
    }
    check_existing(&vm.common, None)?;
    if vm.common.provisioning == "Failed" && vm.power == Power::Stopped && after != Power::Deallocated {
        let message =
            format!("Operation '{action}' is not allowed on VM '{name}' since its provisioning failed. Delete it, and create it again.");
        return Err(ArmError::not_allowed(message));
    }
    if action.eq_ignore_ascii_case("restart") && vm.power != Power::Running {
        return Err(ArmError::not_allowed(format!("Operation 'restart' is not allowed on VM '{name}' since the VM is not running.")));
    }
    if after == Power::Running && vm.power == Power::Deallocated {
        let held = vm.disks.iter().filter_map(|(key, _)| world.volumes.get(key)).find(|volume| volume.has_sas(call.now));
        if let Some(volume) = held {
            return Err(outstanding_sas(&volume.common.name, "starting the VM of"));
        }
    }
    let (location, id, now) = (vm.common.location.clone(), vm.common.id.clone(), vm.power);
    let key = id.to_ascii_lowercase();
    // To stop what is off its host, or to start what runs, changes nothing.
    let idle = (after == Power::Stopped && now == Power::Deallocated) || (after == now && !action.eq_ignore_ascii_case("restart"));
    if let Some(vm) = world.vms.get_mut(&key).filter(|_| !idle) {
        vm.power = during;
    }
    let start = Start {
        provider: Provider::Compute,
        location,
        id,
        length: seconds(call.state.config.times.power),
        status: 202,
        body: None,
        finish: Box::new(move |world, _, _| {
            if let Some(vm) = world.vms.get_mut(&key).filter(|_| !idle) {
                vm.power = after;
            }
            Ok(Value::Null)
        }),
    };
    Ok(world.start(call, start).1)
}
