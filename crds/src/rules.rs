//! The rules of the schemas, in CEL. Each message says what to write instead.
//!
//! An apiserver refuses a definition whose rules might cost too much, and it estimates that from the bounds of what a rule looks at. So every
//! string, list and map that a rule reads has its `maxLength`, `maxItems` or `maxProperties` beside it. The bounds are wider than what the rule
//! allows: an apiserver that finds a bound broken does not ask the rules any more, and "may not be more than 36 bytes" helps nobody.
//!
//! Two more facts of the apiserver shape them. A transition rule (one with `oldSelf`) on an optional field is not asked when the field comes
//! or goes, so those stand on the object around it. And an empty optional field is left out of the object ([`crate::schema::tidy`] takes
//! `nullable` away), so `has()` means that there is a value.

use kube::core::{Reason, Rule};
use schemars::Schema;
use serde_json::json;

/// A day of the week, hours and minutes of a window.
const WINDOW_FORM: &str = "^(Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday);([01]?[0-9]|2[0-3]):[0-5][0-9];([0-9]{1,5}d)?([0-9]{1,5}h)?([0-9]{1,5}m)?$";
/// Days, hours and minutes of a duration.
const SPAN_FORM: &str = "^([0-9]{1,5}d)?([0-9]{1,5}h)?([0-9]{1,5}m)?$";
/// A host, as a name or an address, and perhaps a port.
const AUTHORITY: &str = r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?";
/// As the groups of a UUID are written.
const UUID_FORM: &str = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$";
/// An object's name in Kubernetes (RFC 1123, with dots).
const NAME_FORM: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

fn matches(form: &str, message: &str) -> Rule {
    Rule::new(format!("self.matches('{form}')")).message(message)
}

/// The field can't be edited; `instead` says how what the edit wanted is done.
pub(crate) fn immutable(instead: &str) -> Rule {
    Rule::new("self == oldSelf").message(instead).reason(Reason::FieldValueForbidden)
}

/// The object's own name leaves room for what is named after it.
pub(crate) fn short_name() -> Rule {
    let max = crate::names::NAME_MAX;
    Rule::new(format!("size(self.metadata.name) <= {max}"))
        .message(&*format!("metadata.name: give a name of at most {max} characters, since other objects are named after it"))
}

/// The name of another object.
pub(crate) fn name() -> Rule {
    matches(NAME_FORM, "give the name of the object in this namespace: lower-case letters, digits, - and .")
}

/// `https://HOST` or `https://HOST:PORT`; `message` says of what.
pub(crate) fn https_origin(message: &str) -> Rule {
    matches(&format!("^https://{AUTHORITY}/?$"), message)
}

/// An account of Azure Storage; in emulators the account is the path.
pub(crate) fn account_url() -> Rule {
    matches(
        &format!("^https://{AUTHORITY}(/[a-z0-9]{{3,24}})?/?$"),
        "give the account's blob endpoint, such as https://ACCOUNT.blob.core.windows.net, without container or SAS: the container has a field of \
         its own",
    )
}

/// A UUID; `message` says of what.
pub(crate) fn uuid(message: &str) -> Rule {
    matches(UUID_FORM, message)
}

/// SHA-256 of a certificate.
pub(crate) fn thumbprint() -> Rule {
    matches(
        "^([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}$",
        "give the SHA-256 fingerprint of the server's certificate, 32 pairs of hexadecimal digits with colons, as `openssl x509 -noout \
         -fingerprint -sha256` prints it",
    )
}

/// An Azure region.
pub(crate) fn location() -> Rule {
    matches("^[a-z0-9]+$", "give the region's short name, such as westeurope (`az account list-locations -o table` lists them)")
}

/// A resource group.
pub(crate) fn resource_group() -> Rule {
    matches(
        r"^[-\\p{L}\\p{N}._()]*[-\\p{L}\\p{N}_()]$",
        "give the resource group's name, not its id: letters, digits, - . _ ( ), not ending with a dot",
    )
}

/// A container of the log store.
pub(crate) fn container() -> Rule {
    Rule::new("size(self) >= 3 && self.matches('^[a-z0-9](-?[a-z0-9])*$')")
        .message("give a container's name: 3 to 63 lower-case letters, digits and single hyphens")
}

/// An IANA time zone, as far as its form goes: the controller looks it up.
pub(crate) fn time_zone() -> Rule {
    matches("^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$", "give an IANA time zone, such as Europe/Berlin or UTC")
}

/// A trigger's token.
pub(crate) fn token() -> Rule {
    matches(
        "^[A-Za-z0-9]([A-Za-z0-9._:+-]*[A-Za-z0-9])?$",
        "give any text of letters, digits and . _ : + - that differs from the last one, such as a date; it begins and ends with a letter or digit",
    )
}

/// An owner of a ledger.
pub(crate) fn owner() -> Rule {
    matches(
        "^[A-Za-z0-9._-]{1,63}/[a-z0-9-]{1,63}/[a-z0-9.-]{1,253}$",
        "give the owner as the condition LedgerOwned names it: CLUSTER/NAMESPACE/NAME",
    )
}

/// VMware's reference of a virtual machine.
pub(crate) fn vm_reference() -> Rule {
    matches("^vm-[0-9]+$", "give the VM's managed object reference, such as vm-1034 (`govc ls -i` prints VirtualMachine:vm-1034)")
}

/// A path in vCenter's inventory.
pub(crate) fn inventory_path() -> Rule {
    matches(
        "^(/[^/]+){2,}$",
        "give the VM's whole path in the inventory, such as /DATACENTER/vm/FOLDER/NAME (`govc find / -type m` prints it)",
    )
}

/// Every rule of a duration.
pub(crate) fn span(schema: &mut Schema) {
    let form = format!("self.matches('{SPAN_FORM}')");
    bound(schema);
    add(
        schema,
        &[
            (&form, "write days, hours and minutes in this order, each at most once, such as 7h, 1d7h or 90m"),
            (&format!("!{form} || ({})", within("self")), "give between one minute and seven days"),
        ],
    );
}

/// Every rule of a window.
pub(crate) fn window(schema: &mut Schema) {
    let form = format!("self.matches('{WINDOW_FORM}')");
    bound(schema);
    add(
        schema,
        &[
            (&form, "write day, start and length with semicolons, such as Monday;7:00;7h or Saturday;23:30;1d7h"),
            (&format!("!{form} || ({})", within("self.split(';')[2]")), "give a length between one minute and seven days"),
        ],
    );
}

/// Every rule of tags, with Azure's bounds: 50 of a resource, less our own.
pub(crate) fn tags(schema: &mut Schema) {
    schema.insert("maxProperties".into(), json!(40));
    schema.insert("additionalProperties".into(), json!({"type": "string", "maxLength": 256}));
    // A key of a map has no bound that an apiserver knows of: whatever looks at all of it would seem to cost too much.
    add(
        schema,
        &[(
            "self.all(tag, size(tag) >= 1 && size(tag) <= 512 && !tag.startsWith('hawser'))",
            "give tags names of 1 to 512 characters that don't begin with hawser: those are Hawser's own",
        )],
    );
}

/// Between one minute and seven days. The `0` in front makes a number of a part that is missing.
fn within(text: &str) -> String {
    let part = |unit: &str| format!("int('0' + {text}.find('[0-9]+{unit}').replace('{unit}', ''))");
    let minutes = format!("{} * 1440 + {} * 60 + {}", part("d"), part("h"), part("m"));
    format!("{minutes} >= 1 && {minutes} <= {}", crate::span::Span::MAX.minutes())
}

fn bound(schema: &mut Schema) {
    schema.insert("minLength".into(), json!(1));
    schema.insert("maxLength".into(), json!(64));
}

fn add(schema: &mut Schema, rules: &[(&str, &str)]) {
    let rules: Vec<_> = rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect();
    schema.insert("x-kubernetes-validations".into(), json!(rules));
}
