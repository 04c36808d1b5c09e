//! Whether we may do what we will have to: asked before anything is begun, so that a missing role is a condition and not a surprise.

use serde::Deserialize;
use serde_json::Value;

use crate::{arm::Arm, error::ArmError};

const PERMISSIONS: &str = "2022-04-01";
const GROUPS: &str = "2025-04-01";

/// The action by which a principal may ask what it may do. Without it nothing else is lost: what the others allow works, and nobody can tell.
pub const PERMISSIONS_READ: &str = "Microsoft.Authorization/permissions/read";

/// The actions on a resource group that replication needs.
pub const REPLICATION: [&str; 7] = [
    PERMISSIONS_READ,
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Compute/disks/read",
    "Microsoft.Compute/disks/write",
    "Microsoft.Compute/disks/delete",
    "Microsoft.Compute/disks/beginGetAccess/action",
    "Microsoft.Compute/disks/endGetAccess/action",
];

/// What one role allows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    /// Actions, with `*` for any text.
    #[serde(default)]
    pub actions: Vec<String>,
    /// What is taken from them.
    #[serde(default)]
    pub not_actions: Vec<String>,
}

/// Those of `needed` that no permission allows.
#[must_use]
pub fn missing<'a>(permissions: &[Permission], needed: &[&'a str]) -> Vec<&'a str> {
    let allows = |permission: &Permission, action: &str| {
        permission.actions.iter().any(|pattern| matches(pattern, action))
            && !permission.not_actions.iter().any(|pattern| matches(pattern, action))
    };
    needed.iter().copied().filter(|action| !permissions.iter().any(|permission| allows(permission, action))).collect()
}

/// Azure's patterns: `*` stands for any text, case does not count.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    // A split has at least one part.
    let Some(mut rest) = parts.next().and_then(|first| action.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// A resource group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceGroup {
    /// Its region's short name.
    pub location: String,
}

impl Arm {
    /// A resource group; none where there is none of this name.
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn resource_group(&self, subscription: &str, group: &str) -> Result<Option<ResourceGroup>, ArmError> {
        let path = format!("/subscriptions/{subscription}/resourcegroups/{group}");
        match self.get(&path, GROUPS).await {
            Ok(found) => {
                Ok(found
                    .map(|found| ResourceGroup { location: found.get("location").and_then(Value::as_str).unwrap_or_default().to_owned() }))
            }
            Err(ArmError::Refused { code, .. }) if code == "ResourceGroupNotFound" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the caller may do in a resource group.
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn permissions(&self, subscription: &str, group: &str) -> Result<Vec<Permission>, ArmError> {
        let path = format!("/subscriptions/{subscription}/resourcegroups/{group}/providers/Microsoft.Authorization/permissions");
        let read =
            |found| serde_json::from_value(found).map_err(|error| ArmError::Answer { operation: path.clone(), why: error.to_string() });
        self.list(&path, PERMISSIONS).await?.into_iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(actions: &[&str], not_actions: &[&str]) -> Permission {
        let own = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        Permission { actions: own(actions), not_actions: own(not_actions) }
    }

    #[test]
    fn patterns_are_azures() {
        for (pattern, action, is) in [
            ("*", "Microsoft.Compute/disks/read", true),
            ("*/read", "Microsoft.Compute/disks/read", true),
            ("*/read", "Microsoft.Compute/disks/write", false),
            ("microsoft.compute/*", "Microsoft.Compute/disks/beginGetAccess/action", true),
            ("Microsoft.Compute/disks/*", "Microsoft.Compute/snapshots/read", false),
            ("Microsoft.Compute/*/action", "Microsoft.Compute/disks/beginGetAccess/action", true),
            ("Microsoft.Compute/disks/read", "Microsoft.Compute/disks/read", true),
            ("Microsoft.Compute/disks/read", "Microsoft.Compute/disks/readmore", false),
            ("*a*b", "ab", true),
            ("*a*b", "ba", false),
        ] {
            assert_eq!(matches(pattern, action), is, "{pattern} {action}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(&[permission(&["*"], &[])], &REPLICATION), Vec::<&str>::new());
        let reader = permission(&["*/read"], &[]);
        assert_eq!(missing(std::slice::from_ref(&reader), &REPLICATION).len(), 4);
        let writer = permission(&["Microsoft.Compute/disks/*"], &["Microsoft.Compute/disks/delete"]);
        assert_eq!(missing(&[reader.clone(), writer.clone()], &REPLICATION), ["Microsoft.Compute/disks/delete"]);
        // Whoever may ask has that action; of all others it is one more.
        assert_eq!(missing(&[permission(&["Microsoft.Compute/disks/*"], &[])], &REPLICATION), [PERMISSIONS_READ, REPLICATION[1]]);
        // One role's exception takes nothing from what another role gives.
        assert!(missing(&[reader, writer, permission(&["Microsoft.Compute/disks/delete"], &[])], &REPLICATION).is_empty());
    }
}
