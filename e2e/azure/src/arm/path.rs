//! Paths of Resource Manager: scopes, providers, types and names; compared without regard to case, as Azure does.

use super::error::ArmError;

/// A path, taken apart.
#[derive(Debug, Clone, Default)]
pub struct ArmPath {
    /// The subscription's id.
    pub subscription: Option<String>,
    /// The resource group's name.
    pub group: Option<String>,
    /// Whether the path ends in `resourceGroups` without a name.
    pub lists_groups: bool,
    /// What follows each `providers`: namespace, and the segments after it.
    pub providers: Vec<(String, Vec<String>)>,
    /// Whether the path ends in `providers`.
    pub lists_providers: bool,
}

impl ArmPath {
    /// Takes a path apart.
    ///
    /// # Errors
    /// For a path that no resource has.
    pub fn parse(path: &str) -> Result<Self, ArmError> {
        let mut parsed = Self::default();
        let segments: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
        let mut rest = segments.as_slice();
        let nowhere =
            || ArmError::new(404, "InvalidResourceType", format!("The resource type could not be found for the request path '{path}'."));
        if segments.iter().any(String::is_empty) {
            return Err(nowhere());
        }
        if is(rest, 0, "subscriptions") {
            parsed.subscription = Some(rest.get(1).ok_or_else(nowhere)?.clone());
            rest = &rest[2..];
            if is(rest, 0, "resourcegroups") {
                match rest.get(1) {
                    None => {
                        parsed.lists_groups = true;
                        rest = &[];
                    }
                    Some(group) => {
                        parsed.group = Some(group.clone());
                        rest = &rest[2..];
                    }
                }
            }
        }
        while !rest.is_empty() {
            if !is(rest, 0, "providers") {
                return Err(nowhere());
            }
            let Some(namespace) = rest.get(1) else {
                parsed.lists_providers = true;
                break;
            };
            let end = rest.iter().skip(2).position(|segment| segment.eq_ignore_ascii_case("providers")).map_or(rest.len(), |at| at + 2);
            parsed.providers.push((namespace.clone(), rest[2..end].to_vec()));
            rest = &rest[end..];
        }
        Ok(parsed)
    }

    /// The provider that the call goes to: the last one (an extension such as Microsoft.Authorization comes after the resource).
    #[must_use]
    pub fn last(&self) -> Option<(&str, &[String])> {
        self.providers.last().map(|(namespace, segments)| (namespace.as_str(), segments.as_slice()))
    }

    /// The path before the last provider, in canonical form.
    #[must_use]
    pub fn scope(&self) -> String {
        let mut scope = String::new();
        if let Some(subscription) = &self.subscription {
            scope = format!("/subscriptions/{subscription}");
        }
        if let Some(group) = &self.group {
            scope = format!("{scope}/resourceGroups/{group}");
        }
        for (namespace, segments) in self.providers.iter().rev().skip(1).rev() {
            scope = format!("{scope}/providers/{namespace}");
            for segment in segments {
                scope = format!("{scope}/{segment}");
            }
        }
        scope
    }
}

fn is(segments: &[String], at: usize, word: &str) -> bool {
    segments.get(at).is_some_and(|segment| segment.eq_ignore_ascii_case(word))
}

/// Percent-decoding; what is no valid escape stays as it is.
#[must_use]
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok())).flatten();
        match escape {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The query, decoded; `+` is a blank.
#[must_use]
pub fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect()
}

/// The parts of a resource's id: group, namespace, type, name (and of its child, type and name).
#[derive(Debug, Clone)]
pub struct ResourceId {
    /// As written.
    pub group: String,
    /// As `Microsoft.Compute`.
    pub namespace: String,
    /// As `disks`.
    pub kind: String,
    /// As written.
    pub name: String,
    /// Type and name of a child, as `subnets` and `default`.
    pub child: Option<(String, String)>,
    /// The whole, in lower case: what ids are compared by.
    pub key: String,
}

impl ResourceId {
    /// Takes an id apart, which has to be in this subscription.
    ///
    /// # Errors
    /// LinkedInvalidPropertyId (400), as for every reference that is no id.
    pub fn parse(id: &str, target: &str) -> Result<Self, ArmError> {
        let bad = || {
            ArmError::new(
                400,
                "LinkedInvalidPropertyId",
                format!(
                    "Property id '{id}' at path '{target}' is invalid. Expect fully qualified resource Id that start with \
                     '/subscriptions/{{subscriptionId}}' or '/providers/{{resourceProviderNamespace}}/'."
                ),
            )
        };
        if !id.starts_with('/') || id.ends_with('/') {
            return Err(bad());
        }
        let path = ArmPath::parse(id).map_err(|_| bad())?;
        let (Some(_), Some(group), [(namespace, segments)]) = (&path.subscription, &path.group, path.providers.as_slice()) else {
            return Err(bad());
        };
        let child = match segments.as_slice() {
            [_, _] => None,
            [_, _, kind, name] => Some((kind.clone(), name.clone())),
            _ => return Err(bad()),
        };
        Ok(Self {
            group: group.clone(),
            namespace: namespace.clone(),
            kind: segments[0].clone(),
            name: segments[1].clone(),
            child,
            key: id.to_ascii_lowercase(),
        })
    }

    /// Whether it is of this type.
    #[must_use]
    pub fn is(&self, namespace: &str, kind: &str) -> bool {
        self.namespace.eq_ignore_ascii_case(namespace) && self.kind.eq_ignore_ascii_case(kind) && self.child.is_none()
    }
}
