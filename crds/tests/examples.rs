//! The examples are what an apiserver admits and what the types read; defaults are the same in the schema and in Rust.
#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod support;

use std::{collections::BTreeMap, sync::LazyLock};

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use support::{Kind, with};

fn examples() -> Vec<(String, Value)> {
    let folder = format!("{}/examples", env!("CARGO_MANIFEST_DIR"));
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let value = serde_yaml_ng::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        examples.push((path.file_name().unwrap().to_str().unwrap().to_owned(), value));
    }
    examples
}

fn read(object: &Value) -> Value {
    fn through<T: DeserializeOwned + serde::Serialize>(object: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(object.clone()).unwrap()).unwrap()
    }
    match object["kind"].as_str().unwrap() {
        "Appliance" => through::<crds::Appliance>(object),
        "ReplicatedVM" => through::<crds::ReplicatedVM>(object),
        "BlackoutWindow" => through::<crds::BlackoutWindow>(object),
        "ReplicationCycle" => through::<crds::ReplicationCycle>(object),
        other => panic!("{other} is no kind"),
    }
}

#[test]
fn examples_are_admitted_and_read() {
    let examples = examples();
    assert_eq!(examples.len(), 6);
    for (name, example) in examples {
        assert_eq!(example["apiVersion"], "hawser.dev/v1alpha1", "{name}");
        let kind = Kind::of(example["kind"].as_str().unwrap());
        let admitted = kind.admit(&example, None).unwrap_or_else(|errors| panic!("{name}: {errors:#?}"));
        // What Rust reads of the manifest as it is written equals what it reads with the schema's defaults: both know the same ones.
        assert_eq!(read(&example)["spec"], read(&admitted)["spec"], "{name}");
        // And nothing that was admitted gets lost when it is read.
        assert_eq!(read(&admitted)["spec"], admitted["spec"], "{name}");
    }
}

/// A full example that leaves a field out is not full.
#[test]
fn full_examples_show_every_field() {
    // Of each pair, only one can be given.
    let either = [".thumbprint", ".claimName", ".moRef", ".inventoryPath", ".applianceSelector"];
    for (name, example) in examples().into_iter().filter(|(name, _)| name.contains("-full")) {
        let kind = Kind::of(example["kind"].as_str().unwrap());
        missing(&kind.schema["properties"]["spec"], &example["spec"], "spec", &mut |path| {
            assert!(either.iter().any(|end| path.ends_with(end)), "{name} does not show {path}");
        });
    }
}

fn missing(schema: &Value, value: &Value, path: &str, tell: &mut dyn FnMut(&str)) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match (&value[name], &field["items"]) {
            (Value::Null, _) => tell(&path),
            (Value::Array(list), items) if name != "tolerations" => list.iter().take(1).for_each(|item| missing(items, item, &path, tell)),
            (inner, _) if name != "tolerations" => missing(field, inner, &path, tell),
            _ => {}
        }
    }
}

#[test]
fn statuses_are_admitted_as_they_are_written() {
    use crds::{
        conditions::{ConditionType, Finding, merge},
        reasons::Reason,
        replicated_vm as vm, replication_cycle as cycle,
    };
    let now = jiff::Timestamp::from_second(1_795_000_000).unwrap();
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now);
    let conditions = merge(&[], &[Finding::holds(ConditionType::Ready, Reason::AsExpected, "")], Some(1), now);

    let base = examples().into_iter().find(|(name, _)| name == "replicatedvm.yaml").unwrap().1;
    let disk = vm::DiskStatus {
        key: 2000,
        capacity_bytes: 1 << 40,
        baseline: Some(vm::Baseline { change_id: "52 de/81".into(), cycle: 7 }),
        seed_disk: Some(vm::SeedDisk::default()),
        ..vm::DiskStatus::default()
    };
    let status = vm::ReplicatedVMStatus {
        observed_generation: Some(1),
        phase: Some(vm::Phase::TestMigrationPending),
        conditions: conditions.clone(),
        disks: vec![disk],
        recovery_point: Some(vm::RecoveryPoint { time: time.clone(), cycle: 7, disks: vec![2000] }),
        next_cycle_time: Some(time.clone()),
        waiting_for: Some(vm::WaitingFor { reason: Reason::ApplianceFull.into(), position: Some(1), ..vm::WaitingFor::default() }),
        progress: Some(vm::Progress { percent: 40, ..vm::Progress::default() }),
        ..vm::ReplicatedVMStatus::default()
    };
    let object = with(&base, "/status", serde_json::to_value(&status).unwrap());
    assert_eq!(Kind::of("ReplicatedVM").admit(&object, None).unwrap()["status"], object["status"]);

    let base: Value = serde_yaml_ng::from_str(include_str!("support/cycle.yaml")).unwrap();
    let source = cycle::SourceStatus {
        snapshot: Some(cycle::SnapshotStatus { taken: Some(time), ..cycle::SnapshotStatus::default() }),
        tasks: vec![cycle::TaskStatus { id: "task-1".into(), ..cycle::TaskStatus::default() }],
        disks: vec![cycle::SourceDisk { key: 2000, mode: Some(cycle::DiskMode::Full), ..cycle::SourceDisk::default() }],
        ..cycle::SourceStatus::default()
    };
    let status = cycle::ReplicationCycleStatus {
        phase: Some(cycle::CyclePhase::Transfer),
        conditions,
        source: Some(source),
        target: Some(cycle::TargetStatus { disks: vec![cycle::TargetDisk::default()], ..cycle::TargetStatus::default() }),
        ..cycle::ReplicationCycleStatus::default()
    };
    let object = with(&base, "/status", serde_json::to_value(&status).unwrap());
    assert_eq!(Kind::of("ReplicationCycle").admit(&object, None).unwrap()["status"], object["status"]);
    assert_eq!(read(&object)["status"], object["status"]);
}

/// Made once: a definition takes milliseconds.
static KINDS: LazyLock<BTreeMap<String, Kind>> = LazyLock::new(support::kinds);

fn admits_interval(text: &str) -> bool {
    let base = json!({"apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicatedVM", "metadata": {"name": "a"},
                      "spec": {"applianceRef": {"name": "a"}, "vm": {"moRef": "vm-1"}, "maxInterval": text}});
    KINDS["ReplicatedVM"].admit(&base, None).is_ok()
}

fn admits_window(text: &str) -> bool {
    let base = json!({"apiVersion": "hawser.dev/v1alpha1", "kind": "BlackoutWindow", "metadata": {"name": "a"},
                      "spec": {"applianceSelector": {}, "windows": [text]}});
    KINDS["BlackoutWindow"].admit(&base, None).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The schema lets through what the parser reads, and nothing else: near misses more than noise.
    #[test]
    fn schema_and_parser_agree_on_durations(text in "[0-9]{0,6}d?[0-9]{0,6}h?[0-9]{0,3}m?[dhms 0-9]?") {
        prop_assert_eq!(admits_interval(&text), text.parse::<crds::span::Span>().is_ok(), "{}", text);
    }

    #[test]
    fn schema_and_parser_agree_on_windows(
        day in "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|Mon|sunday|",
        start in "[0-2]?[0-9]:[0-6][0-9]|[0-9]{0,3}:?[0-9]{0,3}",
        length in "([0-8]d)?([0-9]{1,3}h)?([0-9]{1,3}m)?|[0-9dhm]{0,5}",
        rest in "(;)?| ",
    ) {
        let text = format!("{day};{start};{length}{rest}");
        prop_assert_eq!(admits_window(&text), text.parse::<crds::windows::Window>().is_ok(), "{}", text);
    }
}
