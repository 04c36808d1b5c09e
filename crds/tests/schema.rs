//! What an apiserver would refuse in a definition, or warn of; and what every field owes its reader.
#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod support;

use std::collections::BTreeSet;

use kube::core::cel::compile_schema;
use serde_json::{Value, json};
use support::{Kind, each, kinds};

/// Fields of Kubernetes' own types: their descriptions and bounds are not ours.
const FOREIGN: [&str; 3] = [".conditions", ".tolerations", ".applianceSelector"];
/// Maps that the apiserver only passes on.
const UNBOUNDED: [&str; 3] = [".nodeSelector", ".requests", ".limits"];

fn foreign(path: &str) -> bool {
    FOREIGN.iter().any(|name| path.split(['[', '{']).any(|part| part.ends_with(name)) || path.contains(&format!("{name}.")))
}

fn each_field(visit: &mut dyn FnMut(&Kind, &str, &Value)) {
    for kind in kinds().values() {
        each(&kind.schema, "", &mut |path, node| visit(kind, path, node));
    }
}

#[test]
fn kubectl_has_nothing_to_warn_of() {
    each_field(&mut |kind, path, node| {
        let at = format!("{}{path}", kind.name);
        let format = node["format"].as_str().unwrap_or("int64");
        assert!(["int32", "int64", "date-time"].contains(&format), "{at}: the format {format} is unknown to an apiserver");
        for key in ["nullable", "oneOf", "anyOf", "allOf", "not", "$ref", "const", "title", "x-kubernetes-preserve-unknown-fields"] {
            assert!(node[key].is_null(), "{at} has {key}: {node}");
        }
        assert!(node["type"].is_string() || node["x-kubernetes-int-or-string"] == true, "{at} has no type");
        assert!(node["default"] != json!(null) || !node.as_object().unwrap().contains_key("default"), "{at} is null by default");
    });
}

#[test]
fn every_field_says_what_it_is_and_who_writes_it() {
    each_field(&mut |kind, path, node| {
        let description = node["description"].as_str().unwrap_or_default();
        let item = path.ends_with("[]") || path.ends_with("{}");
        if !["", ".metadata", ".spec", ".status"].contains(&path)
            && !item
            && (!foreign(path) || FOREIGN.iter().any(|name| path.ends_with(name)))
        {
            let at = format!("{}{path}", kind.name);
            assert!(description.ends_with(['.', ')']), "{at}: {description:?} is no sentence");
            assert!(description.contains("ritten by the"), "{at} does not say who writes it: {description}");
            let optional = path.starts_with(".spec") && !node["default"].is_null() && !node["default"].is_object();
            assert!(!optional || description.contains("Default: "), "{at} does not say its default: {description}");
        }
    });
}

#[test]
fn what_a_user_writes_is_bounded() {
    each_field(&mut |kind, path, node| {
        if !path.starts_with(".spec") || foreign(path) || UNBOUNDED.iter().any(|name| path.contains(name)) && path.contains(['{', '}']) {
            return;
        }
        let at = format!("{}{path}", kind.name);
        match node["type"].as_str() {
            Some("string") if node["enum"].is_null() => assert!(node["maxLength"].is_u64(), "{at} has no maxLength"),
            Some("array") => assert!(node["maxItems"].is_u64(), "{at} has no maxItems"),
            Some("integer") => assert!(node["minimum"].is_number(), "{at} has no minimum"),
            Some("object") if node["additionalProperties"].is_object() && !UNBOUNDED.iter().any(|name| path.ends_with(name)) => {
                assert!(node["maxProperties"].is_u64(), "{at} has no maxProperties");
            }
            _ => {}
        }
    });
}

#[test]
fn rules_are_sound_and_say_what_to_do() {
    each_field(&mut |kind, path, node| {
        let compiled = compile_schema(node);
        for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let (rule, message) = (rule["rule"].as_str().unwrap(), rule["message"].as_str().unwrap_or_default());
            let at = format!("{}{path}: {rule}", kind.name);
            assert!(!compiled.has_errors(), "{at}: {:?}", compiled.compilation_errors());
            assert!(!rule.contains('\n') && !message.contains('\n') && message.len() > 30, "{at}: {message:?}");
            assert!(
                ["give ", "write ", "create another", "needs ", "set that type", "take its key", "next cycle"]
                    .iter()
                    .any(|word| message.contains(word)),
                "{at}: {message:?} does not say what to do"
            );
        }
    });
}

#[test]
fn a_definition_fits_into_the_annotation_that_kubectl_keeps() {
    for definition in crds::definitions() {
        let size = serde_json::to_string(&definition).unwrap().len();
        assert!(size < 200 * 1024, "{} has {size} bytes, kubectl apply takes 256 KiB", definition.spec.names.kind);
    }
}

#[test]
fn names_are_those_of_the_documentation() {
    let mut short = BTreeSet::new();
    for definition in crds::definitions() {
        let names = &definition.spec.names;
        assert_eq!(definition.metadata.name, Some(format!("{}.hawser.dev", names.plural)));
        assert_eq!((definition.spec.group.as_str(), definition.spec.scope.as_str()), (crds::names::GROUP, "Namespaced"));
        assert_eq!(names.categories.as_deref(), Some(&["hawser".to_owned()][..]));
        let version = &definition.spec.versions[0];
        assert_eq!((version.name.as_str(), version.served, version.storage), (crds::names::VERSION, true, true));
        assert!(version.subresources.as_ref().unwrap().status.is_some(), "status is a subresource");
        short.extend(names.short_names.clone().unwrap());
    }
    assert_eq!(short.into_iter().collect::<Vec<_>>(), ["appl", "blackout", "rcycle", "rvm"]);
}

/// A path of a column or a selectable field, such as `.status.conditions[?(@.type=="Ready")].status`, leads to a field.
#[test]
fn columns_and_selectors_lead_somewhere() {
    for definition in crds::definitions() {
        let kind = Kind::of(&definition.spec.names.kind);
        let version = &definition.spec.versions[0];
        let columns = version.additional_printer_columns.iter().flatten().map(|column| (&column.json_path, Some(column.type_.as_str())));
        let fields = version.selectable_fields.iter().flatten().map(|field| (&field.json_path, None));
        for (path, column) in columns.chain(fields).filter(|(path, _)| !path.starts_with(".metadata")) {
            let mut node = &kind.schema;
            for step in path.replace(r#"[?(@.type=="Ready")]"#, ".[]").split('.').skip(1) {
                node = if step == "[]" { &node["items"] } else { &node["properties"][step] };
                assert!(node.is_object(), "{}: {path} leads nowhere, at {step}", kind.name);
            }
            match (column, node["type"].as_str().unwrap()) {
                (Some("date"), _) => assert_eq!(node["format"], "date-time", "{path}"),
                (Some("string"), "string" | "array") | (None, "string") => {}
                (Some(column), kind) => assert_eq!(column, kind, "{path}"),
                (None, kind) => panic!("{path} is of the type {kind}, which can't be selected"),
            }
        }
    }
}

#[test]
fn what_accepts_concerns_names_each_that_can_be() {
    let vm = crds::definitions().into_iter().find(|definition| definition.spec.names.kind == "ReplicatedVM").unwrap();
    let schema = serde_json::to_value(&vm.spec.versions[0].schema).unwrap();
    let field = &schema["openAPIV3Schema"]["properties"]["spec"]["properties"]["acceptConcerns"];
    let said = field["description"].as_str().unwrap();
    for id in crds::concerns::ConcernId::ALL {
        assert_eq!(said.contains(&format!("`{id}`")), id.acceptable(), "{id}: {said}");
    }
}
