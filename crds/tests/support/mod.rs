//! As an apiserver admits an object: defaults, then bounds, then rules. What is not done here is to check the types inside rules and to estimate
//! their cost. A real apiserver does both when the definitions are applied; `CRDS_KUBECONFIG=… cargo test -p crds --test rules` asks one every
//! question of the tables as well.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod real;

use std::collections::{BTreeMap, BTreeSet};

use kube::core::cel::{Validator, apply_defaults};
use real::Real;
use serde_json::{Map, Value, json};

/// A kind's schema.
pub struct Kind {
    pub name: String,
    pub schema: Value,
}

/// The kinds by name.
pub fn kinds() -> BTreeMap<String, Kind> {
    let kinds = crds::definitions().into_iter().map(|definition| {
        let name = definition.spec.names.kind.clone();
        let schema = definition.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
        (name.clone(), Kind { name, schema: serde_json::to_value(schema).unwrap() })
    });
    kinds.collect()
}

impl Kind {
    pub fn of(name: &str) -> Self {
        kinds().remove(name).unwrap_or_else(|| panic!("there is no kind {name}"))
    }

    /// The object with its defaults, or all that is wrong with it.
    pub fn admit(&self, object: &Value, old: Option<&Value>) -> Result<Value, Vec<String>> {
        let object = apply_defaults(&self.schema, &without_nulls(object));
        let mut errors = Vec::new();
        bounds(&self.schema, &object, "", &mut errors);
        // Of an object that breaks a bound an apiserver asks no rule.
        if errors.is_empty()
            && let Err(broken) = Validator::new().validate(&self.schema, &object, old)
        {
            errors.extend(broken.iter().map(|error| format!("{}: {}", error.field_path, error.message)));
        }
        if errors.is_empty() { Ok(object) } else { Err(errors) }
    }

    /// Every rule's message, with the path where it stands.
    pub fn messages(&self) -> BTreeSet<String> {
        let mut messages = BTreeSet::new();
        each(&self.schema, "", &mut |_, node| {
            for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
                messages.insert(rule["message"].as_str().unwrap().to_owned());
            }
        });
        messages
    }
}

/// Calls `visit` for every schema below and at `node`.
pub fn each<'a>(node: &'a Value, path: &str, visit: &mut dyn FnMut(&str, &'a Value)) {
    visit(path, node);
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        each(child, &format!("{path}.{name}"), visit);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if node[key].is_object() {
            each(&node[key], &format!("{path}{mark}"), visit);
        }
    }
}

/// An apiserver drops nulls of fields that may not be null.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

fn bounds(schema: &Value, value: &Value, path: &str, errors: &mut Vec<String>) {
    let mut wrong = |what: String| errors.push(format!("{}: {what}", path.trim_start_matches('.')));
    if schema["x-kubernetes-int-or-string"] == true {
        return;
    }
    let right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        other => panic!("{path}: the schema has the type {other:?}"),
    };
    if !right {
        return wrong(format!("{value} is not of the type {}", schema["type"]));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        wrong(format!("{value} is not one of {}", schema["enum"]));
    }
    let mut within = |number: f64, least: &str, most: &str| {
        if schema[least].as_f64().is_some_and(|least| number < least) || schema[most].as_f64().is_some_and(|most| number > most) {
            wrong(format!("{value} is out of bounds ({least} {}, {most} {})", schema[least], schema[most]));
        }
    };
    match value {
        Value::Number(number) => within(number.as_f64().unwrap(), "minimum", "maximum"),
        Value::String(text) => within(text.chars().count() as f64, "minLength", "maxLength"),
        Value::Array(list) => within(list.len() as f64, "minItems", "maxItems"),
        Value::Object(map) => within(map.len() as f64, "minProperties", "maxProperties"),
        _ => {}
    }
    match value {
        Value::Object(map) => object(schema, map, path, errors),
        Value::Array(list) => array(schema, list, path, errors),
        _ => {}
    }
}

fn object(schema: &Value, map: &Map<String, Value>, path: &str, errors: &mut Vec<String>) {
    for name in schema["required"].as_array().into_iter().flatten() {
        if !map.contains_key(name.as_str().unwrap()) {
            errors.push(format!("{}.{}: it is required", path.trim_start_matches('.'), name.as_str().unwrap()));
        }
    }
    for (name, value) in map {
        let root = path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str());
        let inner = [&schema["properties"][name], &schema["additionalProperties"]].into_iter().find(|inner| inner.is_object());
        match inner {
            _ if root => {}
            Some(inner) => bounds(inner, value, &format!("{path}.{name}"), errors),
            None => errors.push(format!("{}.{name}: there is no such field", path.trim_start_matches('.'))),
        }
    }
}

fn array(schema: &Value, list: &[Value], path: &str, errors: &mut Vec<String>) {
    let keys: Vec<Value> = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => list.to_vec(),
        Some("map") => {
            let names = schema["x-kubernetes-list-map-keys"].as_array().unwrap();
            list.iter().map(|item| names.iter().map(|name| item[name.as_str().unwrap()].clone()).collect()).collect()
        }
        _ => Vec::new(),
    };
    for (at, key) in keys.iter().enumerate() {
        if keys[..at].contains(key) {
            errors.push(format!("{}: {key} is there twice", path.trim_start_matches('.')));
        }
    }
    for (at, item) in list.iter().enumerate() {
        bounds(&schema["items"], item, &format!("{path}[{at}]"), errors);
    }
}

/// `object` with the value at a JSON pointer replaced (objects on the way are made); null takes it away.
pub fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let mut at = &mut object;
    for step in parent.split('/').skip(1) {
        at = if at.is_array() { &mut at[step.parse::<usize>().unwrap()] } else { &mut at[step] };
        if at.is_null() {
            *at = json!({});
        }
    }
    match at {
        Value::Array(list) => list[last.parse::<usize>().unwrap()] = value,
        Value::Object(map) if value.is_null() => drop(map.remove(last)),
        Value::Object(map) => drop(map.insert(last.to_owned(), value)),
        _ => panic!("{pointer} leads nowhere"),
    }
    object
}

/// Asserts that every edit in the table is refused with its message (a part of it) or, where that is empty, accepted; and that every rule of the
/// kind has refused something.
pub fn check(kind: &str, base: &Value, creations: &[(&str, Value, &str)], updates: &[(&str, Value, &str)]) {
    check_with(kind, base, creations, updates, &[]);
}

/// The same; `elsewhere` are messages of rules that another test breaks.
pub fn check_with(kind: &str, base: &Value, creations: &[(&str, Value, &str)], updates: &[(&str, Value, &str)], elsewhere: &[&str]) {
    let kind = Kind::of(kind);
    let old = kind.admit(base, None).unwrap_or_else(|errors| panic!("the base is refused: {errors:#?}"));
    kind.admit(base, Some(&old)).unwrap_or_else(|errors| panic!("the base is refused when it is applied again: {errors:#?}"));
    let real = Real::from_environment(&kind.name);
    if let Some(real) = &real {
        real.keep(base);
    }
    let mut unseen = kind.messages();
    unseen.retain(|message| !elsewhere.contains(&message.as_str()));
    for (edits, old) in [(creations, None), (updates, Some(&old))] {
        for (pointer, value, told) in edits {
            let object = with(base, pointer, value.clone());
            if let Some(real) = &real {
                ask(real, &kind, &object, old.is_some(), pointer, value, told);
            }
            match (kind.admit(&object, old), told.is_empty()) {
                (Ok(_), true) => {}
                (Ok(_), false) => panic!("{pointer} = {value} is accepted"),
                (Err(errors), true) => panic!("{pointer} = {value} is refused: {errors:#?}"),
                (Err(errors), false) => {
                    assert!(errors.iter().any(|error| error.contains(told)), "{pointer} = {value}: no `{told}` in {errors:#?}");
                    unseen.retain(|message| !errors.iter().any(|error| error.contains(message)));
                }
            }
        }
    }
    assert!(unseen.is_empty(), "no edit breaks these rules of {}: {unseen:#?}", kind.name);
}

fn ask(real: &Real, kind: &Kind, object: &Value, update: bool, pointer: &str, value: &Value, told: &str) {
    let fresh = with(object, "/metadata/name", if pointer == "/metadata/name" { value.clone() } else { json!("fresh") });
    match if update { real.update(object) } else { real.create(&fresh) } {
        Ok(()) => assert!(told.is_empty(), "{pointer} = {value} is accepted by the apiserver"),
        Err(said) if told.is_empty() => panic!("{pointer} = {value} is refused by the apiserver: {said}"),
        // Bounds are told in its own words, rules in ours.
        Err(said) if kind.messages().iter().any(|message| message.contains(told)) => {
            assert!(said.contains(told), "{pointer} = {value}: no `{told}` in {said}");
        }
        Err(_) => {}
    }
}
