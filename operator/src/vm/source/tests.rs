use std::sync::Arc;

use serde_json::json;
use vsphere::model::disk::Devices;

use super::*;

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn inventory(vms: &[(&str, u128, bool)]) -> Inventory {
    let vm = |n, template| Arc::new(Vm { instance_uuid: Some(uuid(n)), template, devices: Some(Devices::default()), ..Vm::default() });
    Inventory { vms: vms.iter().map(|(id, n, template)| (MoRef::vm(*id), vm(*n, *template))).collect(), ..Inventory::default() }
}

fn found(inventory: &Inventory, selector: &VmSelector, known: Option<Uuid>) -> Result<String, Reason> {
    find(inventory, selector, Known { uuid: known, at_path: None }).map(|(one, _)| one.id().to_owned()).map_err(|trouble| trouble.reason)
}

#[test]
fn a_vm_is_known_by_the_selector_first_and_by_its_uuid_ever_after() {
    let by_ref = VmSelector { mo_ref: Some("vm-1".into()), ..VmSelector::default() };
    let all = inventory(&[("vm-1", 1, false), ("vm-2", 2, false)]);
    assert_eq!(found(&all, &by_ref, None), Ok("vm-1".into()));
    // Registered anew, under another reference.
    assert_eq!(found(&inventory(&[("vm-9", 1, false)]), &by_ref, Some(uuid(1))), Ok("vm-9".into()));
    // Another VM has its reference now.
    assert_eq!(found(&inventory(&[("vm-1", 5, false)]), &by_ref, Some(uuid(1))), Err(Reason::VmReplaced));
    assert_eq!(found(&inventory(&[]), &by_ref, Some(uuid(1))), Err(Reason::VmNotFound));
    assert_eq!(found(&inventory(&[]), &by_ref, None), Err(Reason::VmNotFound));
    let path = MoRef::vm("vm-2");
    let by_path = VmSelector { inventory_path: Some("/DC0/vm/web".into()), ..VmSelector::default() };
    let at = find(&all, &by_path, Known { uuid: None, at_path: Some(&path) }).unwrap();
    assert_eq!(at.0.id(), "vm-2");
}

#[test]
fn two_vms_of_one_uuid_are_told_unless_one_is_a_template() {
    let selector = VmSelector { instance_uuid: Some(uuid(7).to_string()), ..VmSelector::default() };
    assert_eq!(found(&inventory(&[("vm-1", 7, false), ("vm-2", 7, false)]), &selector, None), Err(Reason::VmAmbiguous));
    assert_eq!(found(&inventory(&[("vm-1", 7, true), ("vm-2", 7, false)]), &selector, None), Ok("vm-2".into()));
}

#[test]
fn every_concern_that_can_be_accepted_has_the_apis_word_and_weight() {
    let spec: ReplicatedVMSpec = serde_json::from_value(json!({
        "applianceRef": {"name": "onprem"}, "vm": {"moRef": "vm-1"}, "acceptConcerns": ["ChangeTrackingOff"]
    }))
    .unwrap();
    for id in ["HardwareTooOld", "CbtUnsupported", "CbtNeedsNoSnapshots", "CbtOff"] {
        let of_vcenter = preflight::Concern {
            id,
            severity: preflight::Severity::Critical,
            disk: None,
            message: "m".into(),
            remedy: "r".into(),
            acceptable: true,
        };
        let concern = translated(&of_vcenter, &spec);
        let word = ConcernId::from_word(&concern.id).unwrap_or_else(|| panic!("{id}"));
        assert_eq!((concern.severity, word.severity()), (Severity::Warning, Severity::Warning), "{id}");
        assert_eq!(concern.accepted, id == "CbtOff");
        assert_eq!(translated(&preflight::Concern { acceptable: false, ..of_vcenter }, &spec).severity, Severity::Critical);
    }
}
