//! Role assignments: who may do what, and since when.
//!
//! Rules: learn.microsoft.com, "Understand Azure role assignments" and "role definitions" (`actions` less `notActions`, `*` as a
//! wildcard, inheritance down the scopes) and "Troubleshoot Azure RBAC" (a change takes time to hold: here the configured delay).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::ArmError;
use crate::config::{Config, Role};

/// A role assignment.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Its name.
    pub id: Uuid,
    /// Whose: a service principal's object id.
    pub principal: String,
    /// The role.
    pub role: Role,
    /// Where, as written.
    pub scope: String,
    /// Since when it holds.
    pub from: Timestamp,
    /// Until when it holds, once it is removed.
    pub until: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

/// All assignments, and the roles there are.
#[derive(Debug)]
pub struct Rbac {
    /// Those that are listed, and those removed that still hold.
    pub assignments: Vec<Assignment>,
    roles: Vec<Role>,
    delay: SignedDuration,
    subscription: String,
}

impl Rbac {
    /// With what the configuration gives; that holds at once.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut rbac = Self {
            assignments: Vec::new(),
            roles: config.roles(),
            delay: SignedDuration::try_from(crate::config::seconds(config.times.rbac)).unwrap_or(SignedDuration::MAX),
            subscription: config.subscription.clone(),
        };
        for principal in &config.principals {
            for assigned in &principal.roles {
                let scope =
                    if assigned.scope.is_empty() { format!("/subscriptions/{}", config.subscription) } else { assigned.scope.clone() };
                if let Some(role) = rbac.role(&assigned.role) {
                    rbac.assignments.push(Assignment {
                        id: Uuid::new_v4(),
                        principal: principal.object_id.clone(),
                        role,
                        scope,
                        from: Timestamp::MIN,
                        until: None,
                        created: Timestamp::UNIX_EPOCH,
                    });
                }
            }
        }
        rbac
    }

    /// A role, by its name or its id.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<Role> {
        self.roles.iter().find(|role| role.name.eq_ignore_ascii_case(name) || role.id.eq_ignore_ascii_case(name)).cloned()
    }

    /// Gives a role; it holds after the delay, or at once.
    ///
    /// # Errors
    /// RoleAssignmentExists (409) when it is given already.
    pub fn assign(
        &mut self,
        id: Uuid,
        principal: &str,
        role: Role,
        scope: &str,
        now: Timestamp,
        at_once: bool,
    ) -> Result<Assignment, ArmError> {
        let same = |a: &&Assignment| {
            a.until.is_none() && a.principal.eq_ignore_ascii_case(principal) && a.role.id == role.id && a.scope.eq_ignore_ascii_case(scope)
        };
        if let Some(known) = self.assignments.iter().find(same) {
            if known.id == id {
                return Ok(known.clone());
            }
            return Err(ArmError::new(
                409,
                "RoleAssignmentExists",
                format!("The role assignment already exists. The ID of the existing role assignment is {}.", known.id.simple()),
            ));
        }
        let from = if at_once { now } else { now.saturating_add(self.delay).unwrap_or(Timestamp::MAX) };
        let scope = scope.trim_end_matches('/').to_owned();
        let assignment = Assignment { id, principal: principal.to_owned(), role, scope, from, until: None, created: now };
        self.assignments.push(assignment.clone());
        Ok(assignment)
    }

    /// Takes a role away; it ceases to hold after the delay, or at once.
    pub fn remove(&mut self, wanted: impl Fn(&Assignment) -> bool, now: Timestamp, at_once: bool) -> Option<Assignment> {
        let until = if at_once { now } else { now.saturating_add(self.delay).unwrap_or(Timestamp::MAX) };
        let found = self.assignments.iter_mut().find(|a| a.until.is_none() && wanted(a))?;
        found.until = Some(until);
        Some(found.clone())
    }

    /// The assignments of this principal that hold now and reach this scope.
    fn holding<'a>(&'a self, principal: &'a str, scope: &'a str, now: Timestamp) -> impl Iterator<Item = &'a Assignment> {
        self.assignments.iter().filter(move |a| {
            a.principal.eq_ignore_ascii_case(principal)
                && a.from <= now
                && a.until.is_none_or(|until| now < until)
                && covers(&a.scope, scope)
        })
    }

    /// Whether this principal may do this here and now.
    #[must_use]
    pub fn allows(&self, principal: &str, action: &str, scope: &str, now: Timestamp) -> bool {
        self.holding(principal, scope, now).any(|a| permits(&a.role, action))
    }

    /// What the permissions API answers.
    #[must_use]
    pub fn permissions(&self, principal: &str, scope: &str, now: Timestamp) -> Vec<Value> {
        self.holding(principal, scope, now)
            .map(|a| {
                json!({
                    "actions": a.role.actions, "notActions": a.role.not_actions,
                    "dataActions": a.role.data_actions, "notDataActions": a.role.not_data_actions,
                })
            })
            .collect()
    }

    /// Refuses with AuthorizationFailed, in Azure's words.
    ///
    /// # Errors
    /// 403 where the principal may not.
    pub fn check(&self, caller: &crate::sts::Caller, action: &str, scope: &str, now: Timestamp) -> Result<(), ArmError> {
        if self.allows(&caller.object_id, action, scope, now) {
            return Ok(());
        }
        Err(ArmError::new(
            403,
            "AuthorizationFailed",
            format!(
                "The client '{}' with object id '{}' does not have authorization to perform action '{action}' over scope '{scope}' or the scope \
                 is invalid. If access was recently granted, please refresh your credentials.",
                caller.client_id, caller.object_id
            ),
        ))
    }

    /// Refuses with LinkedAuthorizationFailed where a body names a resource that the principal may not use so.
    ///
    /// # Errors
    /// 403 where the principal may not.
    pub fn check_linked(
        &self,
        caller: &crate::sts::Caller,
        (own, on): (&str, &str),
        linked: (&str, &str),
        now: Timestamp,
    ) -> Result<(), ArmError> {
        let (action, scope) = linked;
        if self.allows(&caller.object_id, action, scope, now) {
            return Ok(());
        }
        Err(ArmError::new(
            403,
            "LinkedAuthorizationFailed",
            format!(
                "The client '{}' with object id '{}' has permission to perform action '{own}' on scope '{on}'; however, it does not have \
                 permission to perform action(s) '{action}' on the linked scope(s) '{scope}' (respectively) or the linked scope(s) are invalid.",
                caller.client_id, caller.object_id
            ),
        ))
    }

    /// A role's definition, as the API shows it.
    #[must_use]
    pub fn definition_id(&self, role: &Role) -> String {
        format!("/subscriptions/{}/providers/Microsoft.Authorization/roleDefinitions/{}", self.subscription, role.id)
    }

    /// An assignment, as the API shows it.
    #[must_use]
    pub fn show(&self, assignment: &Assignment) -> Value {
        let Assignment { id, principal, role, scope, created, .. } = assignment;
        json!({
            "id": format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{id}"),
            "name": id,
            "type": "Microsoft.Authorization/roleAssignments",
            "properties": {
                "roleDefinitionId": self.definition_id(role), "principalId": principal, "principalType": "ServicePrincipal",
                "scope": scope, "createdOn": created, "updatedOn": created,
            },
        })
    }

    /// Every role, as the API shows it.
    pub fn definitions(&self) -> impl Iterator<Item = Value> {
        self.roles.iter().map(|role| {
            json!({
                "id": self.definition_id(role),
                "name": role.id,
                "type": "Microsoft.Authorization/roleDefinitions",
                "properties": {
                    "roleName": role.name, "type": "BuiltInRole", "assignableScopes": ["/"],
                    "permissions": [{
                        "actions": role.actions, "notActions": role.not_actions,
                        "dataActions": role.data_actions, "notDataActions": role.not_data_actions,
                    }],
                },
            })
        })
    }
}

/// Whether a role assigned at `scope` reaches `resource`.
#[must_use]
pub fn covers(scope: &str, resource: &str) -> bool {
    let (scope, resource) = (scope.trim_end_matches('/').to_ascii_lowercase(), resource.to_ascii_lowercase());
    resource.strip_prefix(&scope).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn permits(role: &Role, action: &str) -> bool {
    let any = |list: &[String]| list.iter().any(|pattern| matches(pattern, action));
    any(&role.actions) && !any(&role.not_actions)
}

/// `*` stands for anything, slashes too.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    match pattern.split_once('*') {
        None => pattern == action,
        Some((head, tail)) => match action.strip_prefix(head) {
            None => false,
            Some(_) if tail.is_empty() => true,
            Some(rest) => (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| matches(tail, &rest[at..])),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_and_what_is_taken_away() {
        assert!(matches("*/read", "Microsoft.Compute/disks/read"));
        assert!(!matches("*/read", "Microsoft.Compute/disks/write"));
        assert!(matches("Microsoft.Compute/disks/*", "microsoft.compute/disks/beginGetAccess/action"));
        assert!(!matches("Microsoft.Compute/disks", "Microsoft.Compute/disks/read"));
        let contributor = Config::default().role("contributor").unwrap();
        assert!(permits(&contributor, "Microsoft.Compute/disks/write"));
        assert!(!permits(&contributor, "Microsoft.Authorization/roleAssignments/write"));
    }

    #[test]
    fn scopes_reach_down_and_not_aside() {
        assert!(covers("/subscriptions/a", "/subscriptions/A/resourceGroups/b"));
        assert!(!covers("/subscriptions/a/resourceGroups/b", "/subscriptions/a/resourceGroups/bc"));
        assert!(covers("/", "/subscriptions/a"));
    }
}
