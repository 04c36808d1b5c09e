//! docs/api.md.

use std::fmt::Write as _;

use crds::{
    concerns::ConcernId,
    conditions::{ConditionType, Kind},
    reasons::Reason,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// Types of Kubernetes that its own reference describes: the field, and the type.
const KUBERNETES: [(&str, &str); 3] = [
    ("conditions", "list of Condition (Kubernetes)"),
    ("tolerations", "list of Toleration (Kubernetes)"),
    ("applianceSelector", "LabelSelector (Kubernetes)"),
];

/// The page.
pub fn page() -> String {
    let mut page = format!(
        "# API reference\n\n\
         Made from the types in [`crds/src`](../crds/src) by `{}`: edit those instead.\n\n\
         The objects belong to the group `hawser.dev`, version `v1alpha1`, and live in namespaces. `kubectl explain` knows all that stands \
         here, and `kubectl get hawser` lists every kind. Examples: [`crds/examples`](../crds/examples).\n\n\
         A field without a default that is not required may be left out. A dotted name goes on inside an object, `[]` inside each element of a \
         list.\n",
        super::COMMAND
    );
    for definition in crds::definitions() {
        section(&mut page, &definition);
    }
    words(&mut page);
    page
}

fn section(page: &mut String, definition: &CustomResourceDefinition) {
    let names = &definition.spec.names;
    let version = &definition.spec.versions[0];
    let schema = version.schema.as_ref().and_then(|validation| validation.open_api_v3_schema.as_ref()).expect("it has a schema");
    let short = names.short_names.iter().flatten().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let selectable = version
        .selectable_fields
        .iter()
        .flatten()
        .map(|field| format!("`{}`", field.json_path.trim_start_matches('.')))
        .collect::<Vec<_>>();
    let _ = write!(page, "\n## {}\n\n{}\n\n", names.kind, text(schema.description.as_deref()));
    let _ = writeln!(page, "`kubectl get {}`, or {short}.", names.plural);
    if !selectable.is_empty() {
        let _ = writeln!(page, "`--field-selector` knows {}.", selectable.join(", "));
    }

    let mut rules = Vec::new();
    note_rules(schema, &names.kind, &mut rules);
    for part in ["spec", "status"] {
        let _ = write!(page, "\n### {} {part}\n\n| field | type | default | bounds | meaning |\n|---|---|---|---|---|\n", names.kind);
        if let Some(inner) = schema.properties.as_ref().and_then(|properties| properties.get(part)) {
            note_rules(inner, part, &mut rules);
            rows(page, inner, part, &mut rules);
        }
    }
    let _ = write!(
        page,
        "\n### {} rules\n\nWhat an apiserver refuses, beside the bounds above, and what it says.\n\n| field | message |\n|---|---|\n",
        names.kind
    );
    for (path, message) in rules {
        let _ = writeln!(page, "| `{path}` | {} |", cell(&message));
    }
}

fn rows(page: &mut String, schema: &JSONSchemaProps, path: &str, rules: &mut Vec<(String, String)>) {
    let required = schema.required.as_deref().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        let default = match &field.default {
            _ if required.contains(name) => "required".to_owned(),
            Some(default) if field.properties.is_some() && default.0.is_object() => "see its fields".to_owned(),
            Some(default) => format!("`{}`", serde_json::to_string(&default.0).expect("JSON is text").trim_matches('"')),
            None => String::new(),
        };
        let foreign = KUBERNETES.iter().find(|(field, _)| field == name).map(|(_, kind)| (*kind).to_owned());
        let kind = foreign.clone().unwrap_or_else(|| kind_of(field));
        let meaning = text(field.description.as_deref());
        let _ = writeln!(page, "| `{path}` | {kind} | {} | {} | {} |", cell(&default), cell(&bounds(field).join("; ")), cell(&meaning));
        if foreign.is_some() {
            continue;
        }
        note_rules(field, &path, rules);
        rows(page, field, &path, rules);
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &field.items {
            note_rules(items, &format!("{path}[]"), rules);
            rows(page, items, &format!("{path}[]"), rules);
        }
    }
}

fn note_rules(schema: &JSONSchemaProps, path: &str, rules: &mut Vec<(String, String)>) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        rules.push((path.to_owned(), rule.message.clone().unwrap_or_default()));
    }
}

fn kind_of(field: &JSONSchemaProps) -> String {
    if field.x_kubernetes_int_or_string == Some(true) {
        return "quantity".to_owned();
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &field.additional_properties {
        return format!("map of {}", kind_of(values));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &field.items {
        return format!("list of {}", kind_of(items));
    }
    match (field.type_.as_deref(), field.format.as_deref()) {
        (_, Some("date-time")) => "time".to_owned(),
        (Some(kind), _) => kind.to_owned(),
        (None, _) => "any".to_owned(),
    }
}

fn bounds(field: &JSONSchemaProps) -> Vec<String> {
    let mut bounds = Vec::new();
    if let Some(values) = &field.enum_ {
        bounds.push(values.iter().map(|value| format!("`{}`", value.0.as_str().unwrap_or_default())).collect::<Vec<_>>().join(", "));
    }
    bounds.extend(between(field.minimum, field.maximum, ""));
    let float = |number: Option<i64>| number.map(|number| number as f64);
    bounds.extend(between(float(field.min_length), float(field.max_length), " characters"));
    bounds.extend(between(float(field.min_items), float(field.max_items), " items"));
    bounds.extend(between(float(field.min_properties), float(field.max_properties), " entries"));
    if let Some(list) = field.x_kubernetes_list_type.as_deref() {
        match (list, field.x_kubernetes_list_map_keys.as_deref()) {
            ("map", Some(keys)) => bounds.push(format!("one for each {}", keys.join(", "))),
            ("set", _) => bounds.push("each once".to_owned()),
            _ => {}
        }
    }
    bounds
}

fn between(least: Option<f64>, most: Option<f64>, of: &str) -> Option<String> {
    match (least, most) {
        (Some(least), Some(most)) if least == most => Some(format!("{least}{of}")),
        (Some(least), Some(most)) => Some(format!("{least} to {most}{of}")),
        (Some(least), None) => Some(format!("at least {least}{of}")),
        (None, Some(most)) => Some(format!("at most {most}{of}")),
        (None, None) => None,
    }
}

/// The closed sets of words.
fn words(page: &mut String) {
    page.push_str("\n## Conditions\n\n`True` is well, in all of them; a condition that is not `True` says what to do.\n\n| type | of | meaning of `True` |\n|---|---|---|\n");
    let kinds = [
        (Kind::Appliance, "Appliance"),
        (Kind::ReplicatedVm, "ReplicatedVM"),
        (Kind::BlackoutWindow, "BlackoutWindow"),
        (Kind::ReplicationCycle, "ReplicationCycle"),
    ];
    for of in ConditionType::ALL {
        let carriers = kinds.iter().filter(|(kind, _)| kind.conditions().contains(of)).map(|(_, name)| *name).collect::<Vec<_>>();
        let _ = writeln!(page, "| `{of}` | {} | {} |", carriers.join(", "), text(Some(of.meaning())));
    }
    page.push_str(
        "\n## Concerns\n\nAll ids there are. `spec.acceptConcerns` takes those of the severity `Warning`; `Critical` can't be accepted, and `Information` need not be.\n\n\
         | id | severity | meaning | remedy |\n|---|---|---|---|\n",
    );
    let mut ids = ConcernId::ALL.to_vec();
    ids.sort_by_key(|id| id.severity());
    for id in ids {
        let _ = writeln!(page, "| `{id}` | {} | {} | {} |", id.severity().as_str(), text(Some(id.meaning())), text(Some(id.remedy())));
    }
    page.push_str(
        "\n## Reasons\n\nOne set of words for conditions, events, metrics and `waitingFor`, whoever met the fault.\n\n\
         | reason | meaning | remedy |\n|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let _ = writeln!(page, "| `{reason}` | {} | {} |", text(Some(reason.meaning())), text(Some(reason.remedy())));
    }
}

/// On one line.
fn text(description: Option<&str>) -> String {
    description.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// In a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
