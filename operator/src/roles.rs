//! Roles that are missing, told from those that not everybody in Azure knows yet.

use azure::{Arm, ArmError, rights};
use crds::reasons::Reason;

use crate::trouble::Trouble;

/// Where Resource Manager refuses what it says itself that our roles allow: the assignment is new, and there is nothing to do but wait. Any
/// other trouble stays what it is. (Azure's documents: a change of role assignments takes up to ten minutes to be in effect.)
pub async fn pending(arm: &Arm, subscription: &str, group: &str, trouble: Trouble) -> Trouble {
    if trouble.reason != Reason::RolesMissing {
        return trouble;
    }
    answered(arm.permissions(subscription, group).await, group, trouble)
}

/// By what was answered to whoever asked what our roles allow.
fn answered(answer: Result<Vec<rights::Permission>, ArmError>, group: &str, trouble: Trouble) -> Trouble {
    match answer {
        Ok(permissions) => told(&permissions, group, trouble),
        // Who may not ask may have all the rest: what is missing is what Azure has named.
        Err(ArmError::Forbidden { .. }) => {
            let why = format!(
                "what its roles allow can't be asked, for that the principal lacks {} on the resource group {group}; assign it a role there that \
                 has that action and the one that was refused",
                rights::PERMISSIONS_READ
            );
            Trouble { message: format!("{}: {why}", trouble.message.trim_end_matches('.')), ..trouble }
        }
        Err(error) => {
            tracing::debug!(%error, group, "what our roles allow can't be asked");
            let refused = trouble.message.trim_end_matches('.');
            let message = format!("{refused}. Assign the principal a role on the resource group {group} that has it");
            Trouble { message, ..trouble }
        }
    }
}

/// What a refusal means, by what our roles allow in the resource group.
fn told(permissions: &[rights::Permission], group: &str, trouble: Trouble) -> Trouble {
    let missing = rights::missing(permissions, &rights::REPLICATION);
    let (reason, why) = if missing.is_empty() {
        let why = format!(
            "the principal has a role on the resource group {group} that allows it, and a new assignment takes minutes to be known \
             everywhere in Azure. It is tried again"
        );
        (Reason::RolesPending, why)
    } else {
        (Reason::RolesMissing, lacks(group, &missing))
    };
    Trouble { reason, message: format!("{}: {why}", trouble.message.trim_end_matches('.')), ..trouble }
}

/// What is missing, and what helps.
#[must_use]
pub fn lacks(group: &str, missing: &[&str]) -> String {
    format!("the principal lacks actions on the resource group {group}: {}; assign it a role there that has them", missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_pending_where_it_is_there_and_else_missing() {
        let refused = Trouble::new(Reason::RolesMissing, "Azure refuses POST x.");
        let role = |action: &str| rights::Permission { actions: vec![action.to_owned()], not_actions: Vec::new() };
        let pending = told(&[role("*")], "g", refused.clone());
        assert_eq!(pending.reason, Reason::RolesPending);
        assert!(pending.message.starts_with("Azure refuses POST x: the principal has a role"), "{pending}");
        let missing = told(&[role("*/read")], "g", refused.clone());
        assert_eq!(missing.reason, Reason::RolesMissing);
        assert!(missing.message.contains("Microsoft.Compute/disks/write") && !missing.message.contains("disks/read"), "{missing}");
        assert_eq!(told(&[], "g", refused).reason, Reason::RolesMissing);
    }

    #[test]
    fn roles_that_can_not_be_asked_for_are_not_taken_for_none() {
        let forbidden = || Err(ArmError::Forbidden { operation: "GET permissions".into(), message: "no".into() });
        let refused = Trouble::new(Reason::RolesMissing, "Azure refuses POST x: no action 'Microsoft.Compute/disks/write'.");
        let told = answered(forbidden(), "g", refused.clone());
        assert_eq!(told.reason, Reason::RolesMissing);
        assert!(told.message.starts_with("Azure refuses POST x: no action 'Microsoft.Compute/disks/write': "), "{told}");
        assert!(told.message.contains("Microsoft.Authorization/permissions/read"), "{told}");
        assert!(
            !told.message.contains("disks/read") && !told.message.contains("endGetAccess"),
            "what may be there is not called missing: {told}"
        );
        let silent = answered(Err(ArmError::Unreachable("gone".into())), "g", refused.clone());
        assert_eq!(silent.reason, refused.reason);
        assert!(silent.message.ends_with("write'. Assign the principal a role on the resource group g that has it"), "{silent}");
    }
}
