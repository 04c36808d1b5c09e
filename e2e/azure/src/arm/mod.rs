//! Resource Manager: resources, long-running operations, permissions, throttles.

mod access;
mod authorization;
mod catalog;
mod disks;
mod error;
mod import;
pub mod knobs;
mod nics;
mod operations;
mod path;
mod power;
mod rbac;
mod request;
mod route;
mod schema;
mod shapes;
mod snapshots;
mod throttle;
mod vm_rules;
mod vms;
mod volumes;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::Router;
use serde_json::{Value, json};
use uuid::Uuid;

pub use knobs::{Effect, Injection, Knobs};

use crate::State;
use crate::config::{Config, Registration};
use world::{Power, World};

/// Resource Manager's part of the state.
pub struct Arm {
    /// Faults and counters.
    pub knobs: Knobs,
    world: Mutex<World>,
}

/// The routes of Resource Manager: all of them.
pub fn router(state: State) -> Router {
    Router::new().fallback(request::handle).with_state(state)
}

impl Arm {
    /// As the configuration has it.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { knobs: Knobs::default(), world: Mutex::new(World::new(config)) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world as it is now: what was due has ended.
    fn settled(&self, state: &State) -> MutexGuard<'_, World> {
        let mut world = self.world();
        world.settle(state, state.clock.now());
        world
    }

    /// Gives a role by the control port; it holds after the delay, or at once.
    ///
    /// # Errors
    /// For roles and principals that do not exist, and for what is given already.
    pub fn assign(&self, state: &State, object_id: &str, role: &str, scope: &str, at_once: bool) -> Result<String, String> {
        let now = state.clock.now();
        let mut world = self.world();
        let role = world.rbac.role(role).ok_or_else(|| format!("no role '{role}': use a built-in name or declare it in roles"))?;
        if !state.config.principals.iter().any(|known| known.object_id.eq_ignore_ascii_case(object_id)) {
            return Err(format!("no principal has the object id '{object_id}': declare it in principals"));
        }
        let scope = if scope.is_empty() { format!("/subscriptions/{}", state.config.subscription) } else { scope.to_owned() };
        let assignment = world.rbac.assign(Uuid::new_v4(), object_id, role, &scope, now, at_once).map_err(|error| error.message.clone())?;
        Ok(assignment.id.to_string())
    }

    /// Takes a role by the control port; it ceases to hold after the delay, or at once.
    ///
    /// # Errors
    /// Where it was not given.
    pub fn unassign(&self, state: &State, object_id: &str, role: &str, scope: &str, at_once: bool) -> Result<(), String> {
        let now = state.clock.now();
        let scope = if scope.is_empty() { format!("/subscriptions/{}", state.config.subscription) } else { scope.to_owned() };
        let mut world = self.world();
        let role = world.rbac.role(role).ok_or_else(|| format!("no role '{role}'"))?;
        let wanted = |a: &rbac::Assignment| {
            a.principal.eq_ignore_ascii_case(object_id) && a.role.id == role.id && a.scope.eq_ignore_ascii_case(&scope)
        };
        world.rbac.remove(wanted, now, at_once).map(|_| ()).ok_or_else(|| format!("'{object_id}' has no role '{}' at '{scope}'", role.name))
    }

    /// Sets a VM's power from outside, as a guest that shuts itself down does.
    ///
    /// # Errors
    /// For a VM that is not there, and a power that is none.
    pub fn set_power(&self, state: &State, vm: &str, power: &str) -> Result<(), String> {
        let power = match power {
            "running" => Power::Running,
            "stopped" => Power::Stopped,
            "deallocated" => Power::Deallocated,
            other => return Err(format!("no power '{other}': say running, stopped or deallocated")),
        };
        let mut world = self.settled(state);
        let vm = world.vms.get_mut(&vm.to_ascii_lowercase()).ok_or_else(|| format!("no virtual machine '{vm}'"))?;
        vm.power = power;
        Ok(())
    }

    /// Registers or unregisters a resource provider.
    pub fn set_provider(&self, name: &str, registration: Registration) {
        let mut world = self.world();
        let known = world.providers.keys().find(|known| known.eq_ignore_ascii_case(name)).cloned();
        world.providers.insert(known.unwrap_or_else(|| name.to_owned()), registration);
    }

    /// Sets a quota of a region.
    ///
    /// # Errors
    /// For a region that does not exist.
    pub fn set_quota(&self, location: &str, name: &str, limit: u64) -> Result<(), String> {
        let mut world = self.world();
        let quotas = world.quotas.get_mut(location).ok_or_else(|| format!("no location '{location}'"))?;
        quotas.insert(name.to_owned(), limit);
        Ok(())
    }

    /// Sets the factor of the throttles; 0 switches them off.
    pub fn set_throttle(&self, scale: f64) {
        self.world().throttles.set_scale(scale);
    }

    /// Every resource, as GET would show it, and the operations.
    #[must_use]
    pub fn dump(&self, state: &State) -> Value {
        let world = self.settled(state);
        let now = state.clock.now();
        let of = |kind: world::Kind| -> Vec<Value> {
            world.volumes.values().filter(|volume| volume.kind == kind).map(|volume| volumes::show(&world, volume, now)).collect()
        };
        json!({
            "disks": of(world::Kind::Disk),
            "snapshots": of(world::Kind::Snapshot),
            "networkInterfaces": world.nics.values().map(|nic| nics::show(&world, nic)).collect::<Vec<_>>(),
            "virtualMachines": world.vms.values().map(|vm| vms::show(&world, vm, true)).collect::<Vec<_>>(),
            "roleAssignments": world.rbac.assignments.iter().filter(|a| a.until.is_none()).map(|a| world.rbac.show(a)).collect::<Vec<_>>(),
            "operations": world.operations.iter().map(|(id, op)| json!({
                "name": id, "method": op.method, "resource": op.id, "startTime": op.started,
                "status": match &op.ended { None => "InProgress", Some((_, Ok(_))) => "Succeeded", Some((_, Err(_))) => "Failed" },
            })).collect::<Vec<_>>(),
        })
    }
}
