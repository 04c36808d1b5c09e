//! The ids of resources.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A resource of a resource group: `/subscriptions/S/resourceGroups/G/providers/NAMESPACE/TYPE/NAME`. Azure compares ids without regard to case
/// and answers with whatever case it likes; two of these are equal where Azure takes them for the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceId {
    /// The subscription.
    pub subscription: String,
    /// The resource group.
    pub group: String,
    /// Such as `Microsoft.Compute/disks`.
    pub kind: String,
    /// The resource's own name.
    pub name: String,
}

/// Why a text is no id of a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the id of a resource: it has the form /subscriptions/…/resourceGroups/…/providers/NAMESPACE/TYPE/NAME")]
pub struct IdError(String);

impl ResourceId {
    /// A managed disk.
    #[must_use]
    pub fn disk(subscription: &str, group: &str, name: &str) -> Self {
        let [subscription, group, name] = [subscription, group, name].map(str::to_owned);
        Self { subscription, group, kind: "Microsoft.Compute/disks".to_owned(), name }
    }

    /// Takes an id apart.
    ///
    /// # Errors
    /// [`IdError`].
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let parts: Vec<&str> = text.split('/').collect();
        let is = |part: &str, word: &str| part.eq_ignore_ascii_case(word);
        match parts.as_slice() {
            ["", subscriptions, subscription, groups, group, providers, namespace, kind, name]
                if is(subscriptions, "subscriptions") && is(groups, "resourceGroups") && is(providers, "providers") =>
            {
                if [subscription, group, namespace, kind, name].iter().any(|part| part.is_empty()) {
                    return Err(IdError(text.to_owned()));
                }
                let kind = format!("{namespace}/{kind}");
                let [subscription, group, name] = [subscription, group, name].map(|part| (*part).to_owned());
                Ok(Self { subscription, group, kind, name })
            }
            _ => Err(IdError(text.to_owned())),
        }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/subscriptions/{}/resourceGroups/{}/providers/{}/{}", self.subscription, self.group, self.kind, self.name)
    }
}

impl PartialEq for ResourceId {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        same(&self.subscription, &other.subscription)
            && same(&self.group, &other.group)
            && same(&self.kind, &other.kind)
            && same(&self.name, &other.name)
    }
}

impl Eq for ResourceId {}

impl TryFrom<String> for ResourceId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<ResourceId> for String {
    fn from(id: ResourceId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_equal_where_azure_takes_them_for_the_same() {
        let id = ResourceId::disk("22222222-2222-4222-8222-222222222222", "hawser", "seed-1");
        assert_eq!(ResourceId::parse(&id.to_string()), Ok(id.clone()));
        assert_eq!(ResourceId::parse(&id.to_string().to_uppercase()), Ok(id.clone()));
        assert_ne!(ResourceId::disk("22222222-2222-4222-8222-222222222222", "hawser", "seed-2"), id);
    }

    #[test]
    fn what_is_no_id_of_a_resource() {
        for text in [
            "",
            "/",
            "/subscriptions/s/resourceGroups/g",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/",
            "/subscriptions//resourceGroups/g/providers/Microsoft.Compute/disks/d",
            "subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/n",
        ] {
            assert_eq!(ResourceId::parse(text), Err(IdError(text.to_owned())));
        }
    }
}
