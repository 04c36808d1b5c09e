//! What the simulated subscription holds before the first call: a strict YAML file, with defaults that a sandbox can work with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The tenant that the built-in configuration has.
pub const TENANT: &str = "11111111-1111-4111-8111-111111111111";
/// The subscription that the built-in configuration has.
pub const SUBSCRIPTION: &str = "22222222-2222-4222-8222-222222222222";
/// The application that owns the built-in subscription.
pub const CLIENT: &str = "33333333-3333-4333-8333-333333333333";

/// Subscription, groups, networks, sizes, quotas, principals, roles, times and throttles.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Config {
    /// The directory's id: the issuer of every token that is accepted.
    pub tenant: String,
    /// The subscription's id.
    pub subscription: String,
    /// Regions that exist, by the names of the API.
    pub locations: Vec<String>,
    /// Resource groups that exist at the start.
    pub groups: Vec<Group>,
    /// Resource providers and their registration.
    pub providers: BTreeMap<String, Registration>,
    /// Storage accounts from which disks may be imported.
    pub storage_accounts: Vec<StorageAccount>,
    /// Virtual networks.
    pub networks: Vec<Network>,
    /// Network security groups.
    pub security_groups: Vec<Named>,
    /// Sizes of virtual machines.
    pub sizes: Vec<Size>,
    /// Limits by the names of the usages API (`cores`, `virtualMachines`, `standardDSv5Family`), for each region.
    pub quotas: BTreeMap<String, u64>,
    /// Roles beside the built-in Owner, Contributor, Reader, User Access Administrator and Storage Blob Data Contributor.
    pub roles: Vec<Role>,
    /// Who may ask for tokens.
    pub principals: Vec<Principal>,
    /// How long things take.
    pub times: Times,
    /// How often one may ask.
    pub throttle: Throttle,
}

/// A resource group.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its region.
    pub location: String,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// Whether a subscription may use a resource provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Registration {
    /// It may.
    Registered,
    /// Calls to it are refused with MissingSubscriptionRegistration.
    NotRegistered,
    /// As NotRegistered, while it is on its way.
    Registering,
}

/// A storage account.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StorageAccount {
    /// Its name.
    pub name: String,
    /// Its resource group.
    pub group: String,
    /// Its region.
    pub location: String,
    /// Its key (base64), by which Import reads a blob whose URL has no SAS.
    pub key: String,
    /// Where its blobs are: a `sourceUri` has to begin with it.
    pub blob_endpoint: String,
}

/// A virtual network.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Network {
    /// Its resource group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Its region.
    pub location: String,
    /// Its address space, as `10.1.0.0/16`.
    pub prefix: String,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
}

/// A subnet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Subnet {
    /// Its name.
    pub name: String,
    /// Its addresses, as `10.1.0.0/24`.
    pub prefix: String,
}

/// A resource of which only name and place matter here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Named {
    /// Its resource group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Its region.
    pub location: String,
}

/// A size of virtual machines, as the resource-SKUs API tells it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Size {
    /// As `Standard_D2s_v5`.
    pub name: String,
    /// As `standardDSv5Family`: the quota it counts against.
    pub family: String,
    /// Cores.
    pub vcpus: u64,
    /// Memory.
    pub memory_gib: u64,
    /// `V1`, `V2`.
    pub generations: Vec<String>,
    /// How many data disks it takes.
    pub max_data_disks: u64,
    /// How many network cards it takes.
    pub max_nics: u64,
    /// Whether premium disks can be attached.
    #[serde(default = "yes")]
    pub premium: bool,
    /// Regions that offer it; empty: all.
    #[serde(default)]
    pub locations: Vec<String>,
    /// Zones that offer it.
    #[serde(default)]
    pub zones: Vec<String>,
    /// Where this subscription may not use it.
    #[serde(default)]
    pub restrictions: Vec<Restriction>,
}

fn yes() -> bool {
    true
}

/// A restriction of a size.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Restriction {
    /// The region.
    pub location: String,
    /// The zones; empty: the whole region.
    #[serde(default)]
    pub zones: Vec<String>,
    /// `NotAvailableForSubscription` or `QuotaId`.
    pub reason: String,
}

/// A role definition.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Its id, a UUID.
    pub id: String,
    /// What it allows, `*` as a wildcard.
    #[serde(default)]
    pub actions: Vec<String>,
    /// What it takes away from `actions`.
    #[serde(default)]
    pub not_actions: Vec<String>,
    /// What it allows on data.
    #[serde(default)]
    pub data_actions: Vec<String>,
    /// What it takes away from `dataActions`.
    #[serde(default)]
    pub not_data_actions: Vec<String>,
}

/// An application with its service principal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Principal {
    /// A name for people.
    pub name: String,
    /// The application's id, `client_id` in a token request and `appid` in tokens.
    pub client_id: String,
    /// The service principal's id, `oid` in tokens: what roles are assigned to.
    pub object_id: String,
    /// Its client secret, if it has one.
    #[serde(default)]
    pub secret: Option<String>,
    /// Its federated credentials.
    #[serde(default)]
    pub federated: Vec<Federated>,
    /// Its roles from the start; these hold at once.
    #[serde(default)]
    pub roles: Vec<Assigned>,
}

/// A federated credential: whose tokens stand for a client secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Federated {
    /// The `iss` of the token, exactly.
    pub issuer: String,
    /// The `sub` of the token, exactly: `system:serviceaccount:NAMESPACE:NAME`.
    pub subject: String,
    /// The `aud` of the token.
    #[serde(default = "exchange_audience")]
    pub audience: String,
    /// The issuer's keys: a JWKS document. Without it they are fetched by the issuer's discovery document.
    #[serde(default)]
    pub keys: Option<PathBuf>,
}

fn exchange_audience() -> String {
    "api://AzureADTokenExchange".to_owned()
}

/// A role, at a scope.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Assigned {
    /// The role's name.
    pub role: String,
    /// Where: an ARM scope. Empty: the subscription.
    #[serde(default)]
    pub scope: String,
}

/// How long things take, in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Times {
    /// Operations on disks and snapshots.
    pub disk: f64,
    /// beginGetAccess and endGetAccess.
    pub access: f64,
    /// Operations on network cards.
    pub nic: f64,
    /// Creating, changing and deleting virtual machines.
    pub vm: f64,
    /// Starting and stopping them.
    pub power: f64,
    /// What `Retry-After` of a running operation says; whole seconds.
    pub retry_after: u64,
    /// How fast copies hydrate, in MiB each second.
    pub copy_mib: f64,
    /// Until a role assignment holds or ceases to.
    pub rbac: f64,
    /// How long a token is good.
    pub token: f64,
}

impl Default for Times {
    fn default() -> Self {
        // Of the real order for RBAC and tokens; an operation takes as long as it needs to be seen running.
        Self { disk: 1.0, access: 0.5, nic: 0.5, vm: 3.0, power: 2.0, retry_after: 1, copy_mib: 200.0, rbac: 60.0, token: 3599.0 }
    }
}

/// Throttles: Azure's own limits, times a factor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Throttle {
    /// 1 is Azure's; 0.1 is a tenth of it; 0 switches throttles off.
    pub scale: f64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// It is no YAML, or has a field that does not exist.
    #[error("{0}: {1}")]
    Parse(PathBuf, serde_yaml_ng::Error),
    /// Its parts do not fit.
    #[error("{0}")]
    Wrong(String),
}

/// Seconds of the configuration as a length.
#[must_use]
pub fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX)
}

/// The first and last address of `10.1.0.0/24`, as numbers.
#[must_use]
pub fn cidr(text: &str) -> Option<(u32, u32)> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits) = (u32::from(address.parse::<std::net::Ipv4Addr>().ok()?), bits.parse::<u32>().ok()?);
    let hosts = match bits {
        1..=31 => (1_u32 << (32 - bits)) - 1,
        32 => 0,
        _ => return None,
    };
    (address & hosts == 0).then_some((address, address | hosts))
}

impl Config {
    /// Reads a file and checks that its parts fit.
    ///
    /// # Errors
    /// When it cannot be read, has unknown fields, or names things that it does not declare.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read(path.to_owned(), error))?;
        let config: Self = serde_yaml_ng::from_str(&text).map_err(|error| ConfigError::Parse(path.to_owned(), error))?;
        config.check()?;
        Ok(config)
    }

    /// Checks that the parts fit.
    ///
    /// # Errors
    /// Names the part that does not, and what to do.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |message: String| Err(ConfigError::Wrong(message));
        for (what, id) in [("tenant", &self.tenant), ("subscription", &self.subscription)] {
            if uuid::Uuid::parse_str(id).is_err() {
                return wrong(format!("{what}: '{id}' is not a UUID"));
            }
        }
        let region = |what: &str, name: &str, location: &str| {
            if self.locations.iter().any(|known| known == location) {
                Ok(())
            } else {
                Err(ConfigError::Wrong(format!("{what} '{name}': location '{location}' is not among locations: add it there")))
            }
        };
        for group in &self.groups {
            region("groups", &group.name, &group.location)?;
        }
        let placed = self
            .networks
            .iter()
            .map(|n| ("networks", &n.name, &n.group, &n.location))
            .chain(self.security_groups.iter().map(|n| ("securityGroups", &n.name, &n.group, &n.location)))
            .chain(self.storage_accounts.iter().map(|n| ("storageAccounts", &n.name, &n.group, &n.location)));
        for (what, name, group, location) in placed {
            region(what, name, location)?;
            if !self.groups.iter().any(|known| known.name.eq_ignore_ascii_case(group)) {
                return wrong(format!("{what} '{name}': group '{group}' is not among groups: add it there"));
            }
        }
        for network in &self.networks {
            // Five addresses of a subnet are Azure's, so that it has eight at least.
            let prefixes = std::iter::once(&network.prefix).chain(network.subnets.iter().map(|subnet| &subnet.prefix));
            for prefix in prefixes {
                if cidr(prefix).is_none_or(|(first, last)| last - first < 7) {
                    return wrong(format!(
                        "networks '{}': '{prefix}' is no range of addresses such as 10.1.0.0/24, of /29 at most",
                        network.name
                    ));
                }
            }
        }
        for size in &self.sizes {
            if size.generations.is_empty() || size.generations.iter().any(|g| g != "V1" && g != "V2") {
                return wrong(format!("sizes '{}': generations have to be V1, V2 or both", size.name));
            }
            for location in size.locations.iter().chain(size.restrictions.iter().map(|r| &r.location)) {
                region("sizes", &size.name, location)?;
            }
        }
        for principal in &self.principals {
            for (what, id) in [("clientId", &principal.client_id), ("objectId", &principal.object_id)] {
                if uuid::Uuid::parse_str(id).is_err() {
                    return wrong(format!("principals '{}': {what} '{id}' is not a UUID", principal.name));
                }
            }
            for assigned in &principal.roles {
                if self.role(&assigned.role).is_none() {
                    return wrong(format!("principals '{}': no role '{}': declare it in roles", principal.name, assigned.role));
                }
            }
        }
        let times = &self.times;
        let lengths =
            [times.disk, times.access, times.nic, times.vm, times.power, times.copy_mib, times.rbac, times.token, self.throttle.scale];
        if lengths.iter().any(|value| !value.is_finite() || *value < 0.0) {
            return wrong("times and throttle: numbers have to be 0 or more".to_owned());
        }
        if times.copy_mib == 0.0 {
            return wrong("times.copyMib: a copy that never moves never ends: give MiB a second".to_owned());
        }
        Ok(())
    }

    /// A role, built in or declared, by its name.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<Role> {
        self.roles().into_iter().find(|role| role.name.eq_ignore_ascii_case(name))
    }

    /// All roles: Azure's that matter here, and the declared ones.
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = built_in_roles();
        roles.extend(self.roles.iter().cloned());
        roles
    }

    /// A size, by its name.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<&Size> {
        self.sizes.iter().find(|size| size.name.eq_ignore_ascii_case(name))
    }
}

/// Azure's own roles, with their real ids (learn.microsoft.com, "Azure built-in roles").
fn built_in_roles() -> Vec<Role> {
    let role = |name: &str, id: &str, actions: &[&str], not_actions: &[&str], data_actions: &[&str]| {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Role {
            name: name.to_owned(),
            id: id.to_owned(),
            actions: list(actions),
            not_actions: list(not_actions),
            data_actions: list(data_actions),
            not_data_actions: Vec::new(),
        }
    };
    let contributor_not = [
        "Microsoft.Authorization/*/Delete",
        "Microsoft.Authorization/*/Write",
        "Microsoft.Authorization/elevateAccess/Action",
        "Microsoft.Blueprint/blueprintAssignments/write",
        "Microsoft.Blueprint/blueprintAssignments/delete",
        "Microsoft.Compute/galleries/share/action",
        "Microsoft.Purview/consents/write",
        "Microsoft.Purview/consents/delete",
    ];
    let blobs = "Microsoft.Storage/storageAccounts/blobServices";
    vec![
        role("Owner", "8e3af657-a8ff-443c-a75c-2fe8c4bcb635", &["*"], &[], &[]),
        role("Contributor", "b24988ac-6180-42a0-ab88-20f7382dd24c", &["*"], &contributor_not, &[]),
        role("Reader", "acdd72a7-3385-48ef-bd42-f606fba81ae7", &["*/read"], &[], &[]),
        role(
            "User Access Administrator",
            "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
            &["*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"],
            &[],
            &[],
        ),
        role(
            "Storage Blob Data Contributor",
            "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
            &[
                &format!("{blobs}/containers/delete"),
                &format!("{blobs}/containers/read"),
                &format!("{blobs}/containers/write"),
                &format!("{blobs}/generateUserDelegationKey/action"),
            ],
            &[],
            &[
                &format!("{blobs}/containers/blobs/delete"),
                &format!("{blobs}/containers/blobs/read"),
                &format!("{blobs}/containers/blobs/write"),
                &format!("{blobs}/containers/blobs/move/action"),
                &format!("{blobs}/containers/blobs/add/action"),
            ],
        ),
    ]
}

impl Default for Config {
    fn default() -> Self {
        let place = "westeurope".to_owned();
        let group = "hawser".to_owned();
        let named = |name: &str| Named { group: group.clone(), name: name.to_owned(), location: place.clone() };
        let network = |name: &str, net: &str| Network {
            group: group.clone(),
            name: name.to_owned(),
            location: place.clone(),
            prefix: format!("{net}.0.0/16"),
            subnets: vec![Subnet { name: "default".to_owned(), prefix: format!("{net}.0.0/24") }],
        };
        let both = ["V1", "V2"].as_slice();
        let zones = ["1", "2", "3"].as_slice();
        let size =
            |name: &str, family: &str, vcpus, memory_gib, generations: &[&str], max_data_disks, max_nics, premium, zones: &[&str]| Size {
                name: name.to_owned(),
                family: family.to_owned(),
                vcpus,
                memory_gib,
                generations: generations.iter().map(|g| (*g).to_owned()).collect(),
                max_data_disks,
                max_nics,
                premium,
                locations: Vec::new(),
                zones: zones.iter().map(|z| (*z).to_owned()).collect(),
                restrictions: Vec::new(),
            };
        Self {
            tenant: TENANT.to_owned(),
            subscription: SUBSCRIPTION.to_owned(),
            locations: vec![place.clone(), "northeurope".to_owned()],
            groups: vec![Group { name: group.clone(), location: place.clone(), tags: BTreeMap::new() }],
            providers: ["Microsoft.Compute", "Microsoft.Network", "Microsoft.Storage", "Microsoft.Authorization", "Microsoft.Resources"]
                .map(|name| (name.to_owned(), Registration::Registered))
                .into(),
            storage_accounts: vec![StorageAccount {
                name: "devstoreaccount1".to_owned(),
                group: group.clone(),
                location: place.clone(),
                // The emulator's account, whose key is public by design (learn.microsoft.com, "Use the Azurite emulator").
                key: "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==".to_owned(),
                blob_endpoint: "https://127.0.0.1:10000/devstoreaccount1".to_owned(),
            }],
            networks: vec![network("production", "10.1"), network("test", "10.2")],
            security_groups: vec![named("default-nsg")],
            sizes: vec![
                size("Standard_B1s", "standardBSFamily", 1, 1, both, 2, 2, true, zones),
                size("Standard_A2_v2", "standardAv2Family", 2, 4, &["V1"], 4, 2, false, zones),
                size("Standard_D2s_v5", "standardDSv5Family", 2, 8, both, 4, 2, true, zones),
                size("Standard_D4s_v5", "standardDSv5Family", 4, 16, both, 8, 2, true, zones),
                size("Standard_D8s_v5", "standardDSv5Family", 8, 32, both, 16, 4, true, zones),
                size("Standard_DC2s_v3", "standardDCSv3Family", 2, 16, &["V2"], 4, 2, true, zones),
            ],
            quotas: [("cores", 100), ("virtualMachines", 25000), ("standardDSv5Family", 50), ("standardDCSv3Family", 0)]
                .map(|(name, limit)| (name.to_owned(), limit))
                .into(),
            roles: Vec::new(),
            principals: vec![Principal {
                name: "hawser".to_owned(),
                client_id: CLIENT.to_owned(),
                object_id: "44444444-4444-4444-8444-444444444444".to_owned(),
                secret: Some("sandbox".to_owned()),
                federated: Vec::new(),
                roles: vec![Assigned { role: "Owner".to_owned(), scope: String::new() }],
            }],
            times: Times::default(),
            throttle: Throttle::default(),
        }
    }
}
