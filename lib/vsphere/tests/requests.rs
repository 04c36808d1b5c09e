//! Every request, as it is sent: against recorded documents, and against the WSDL's sequences (a real vCenter refuses another order).

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use uuid::Uuid;
use vsphere::{
    Credentials, MoRef, Secret,
    methods::{
        properties::{self, Start, Wanted},
        rights, search, service,
        vm::{self, Quiesce},
    },
    session::Call,
    xml::Element,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn calls() -> Vec<(&'static str, Call)> {
    let (of, snapshot, task) = (MoRef::vm("vm-62"), MoRef::snapshot("snapshot-74"), MoRef::task("task-73"));
    let manager = MoRef::new("SessionManager", "SessionManager");
    let rights = MoRef::new("AuthorizationManager", "AuthorizationManager");
    let index = MoRef::new("SearchIndex", "SearchIndex");
    let collector = MoRef::new("PropertyCollector", "propertyCollector");
    let views = MoRef::new("ViewManager", "ViewManager");
    let view = MoRef::new("ContainerView", "session[52aa]52bb");
    let filter = MoRef::new("PropertyFilter", "session[52aa]52cc");
    let credentials = Credentials { user: "hawser@vsphere.local".into(), password: Secret::new("a<b&\"c'") };
    let wanted = [Wanted { kind: "VirtualMachine", paths: &["name", "snapshot"] }, Wanted { kind: "Datastore", paths: &["summary"] }];
    let uuid = Uuid::from_u128(0x5025_7ff1_6a2f_46c1_9a1f_0e5b_2a8f_70d1);
    vec![
        ("retrieve-service-content", service::retrieve_service_content()),
        ("login", service::login(&manager, &credentials)),
        ("logout", service::logout(&manager)),
        ("current-time", service::current_time()),
        ("find-by-uuid", search::find_by_uuid(&index, uuid, true)),
        ("find-by-path", search::find_by_inventory_path(&index, "DC0/vm/a%2fb")),
        (
            "create-container-view",
            properties::create_container_view(&views, &MoRef::new("Folder", "group-d1"), &["VirtualMachine", "Datastore"]),
        ),
        ("destroy-view", properties::destroy_view(&view)),
        ("retrieve-properties", properties::retrieve_properties(&collector, &wanted, Start::Objects(std::slice::from_ref(&of)))),
        ("retrieve-properties-of-view", properties::retrieve_properties(&collector, &wanted, Start::View(&view))),
        ("continue-retrieve-properties", properties::continue_retrieve_properties(&collector, "1")),
        ("create-filter", properties::create_filter(&collector, &wanted, Start::View(&view))),
        ("wait-for-updates", properties::wait_for_updates(&collector, "", Duration::from_secs(120))),
        ("wait-for-more-updates", properties::wait_for_updates(&collector, "7", Duration::from_secs(120))),
        ("cancel-wait-for-updates", properties::cancel_wait_for_updates(&collector)),
        ("destroy-filter", properties::destroy_filter(&filter)),
        ("switch-tracking-on", vm::reconfigure_tracking(&of, true)),
        ("create-snapshot", vm::create_snapshot_ex(&of, "hawser-1-0", "A line\nand <another>", None)),
        ("create-quiesced-snapshot", vm::create_snapshot_ex(&of, "hawser-1-0", "d", Some(Quiesce { minutes: 1 }))),
        ("remove-snapshot", vm::remove_snapshot(&snapshot)),
        ("consolidate", vm::consolidate_disks(&of)),
        ("query-changed-disk-areas", vm::query_changed_disk_areas(&of, Some(&snapshot), 2000, 1 << 40, "52 de/4")),
        ("query-changed-disk-areas-when-off", vm::query_changed_disk_areas(&of, None, 2000, 0, "*")),
        ("cancel-task", vm::cancel_task(&task)),
        (
            "has-privilege-on-entities",
            rights::has_privilege_on_entities(&rights, std::slice::from_ref(&of), "52aa", &["System.View", "System.Read"]),
        ),
        (
            "has-user-privilege-on-entities",
            rights::has_user_privilege_on_entities(&rights, std::slice::from_ref(&of), "DOMAIN\\hawser", &["System.View"]),
        ),
        ("shutdown-guest", vm::shutdown_guest(&of)),
        ("power-off", vm::power_off(&of)),
        ("power-on", vm::power_on(&of)),
    ]
}

/// Recorded documents: `HAWSER_BLESS=1` records them anew.
#[test]
fn requests_are_as_recorded() {
    let folder = folder().join("requests");
    let bless = std::env::var_os("HAWSER_BLESS").is_some();
    let mut known: Vec<String> = Vec::new();
    for (name, call) in calls() {
        let path = folder.join(format!("{name}.xml"));
        let document = format!("{}\n", call.document());
        if bless {
            fs::write(&path, &document).unwrap();
        }
        let recorded =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; record it with HAWSER_BLESS=1", path.display()));
        assert_eq!(document, recorded, "{name}");
        known.push(format!("{name}.xml"));
    }
    for file in fs::read_dir(&folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name), "{name} belongs to no request any more");
    }
}

struct Field {
    name: String,
    kind: String,
    least: usize,
    most: usize,
}

/// The sequences: base types first, as the WSDL's extensions have it.
fn sequences() -> BTreeMap<String, Vec<Field>> {
    let text = fs::read_to_string(folder().join("sequences.txt")).unwrap();
    let mut raw: BTreeMap<String, (Option<String>, String)> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (head, fields) = line.split_once(" =").unwrap();
        let (name, base) = head.split_once(" < ").map_or((head, None), |(name, base)| (name, Some(base.to_owned())));
        raw.insert(name.to_owned(), (base, fields.trim().to_owned()));
    }
    let mut all = BTreeMap::new();
    for name in raw.keys() {
        let mut chain = vec![name.clone()];
        while let Some(base) = raw[chain.last().unwrap()].0.clone() {
            chain.push(base);
        }
        let fields = chain.iter().rev().flat_map(|name| raw[name].1.split_whitespace().map(field)).collect();
        all.insert(name.clone(), fields);
    }
    all
}

fn field(text: &str) -> Field {
    let (name, kind) = text.split_once(':').unwrap();
    let (kind, least, most) = match kind.strip_suffix(['?', '+', '*']) {
        None => (kind, 1, 1),
        Some(plain) if kind.ends_with('?') => (plain, 0, 1),
        Some(plain) if kind.ends_with('+') => (plain, 1, usize::MAX),
        Some(plain) => (plain, 0, usize::MAX),
    };
    Field { name: name.into(), kind: kind.into(), least, most }
}

/// Holds an element against the sequence of its type.
fn check(element: &Element, kind: &str, sequences: &BTreeMap<String, Vec<Field>>) -> Result<(), String> {
    let Some(fields) = sequences.get(kind) else {
        return if element.children.is_empty() {
            Ok(())
        } else {
            Err(format!("{} of the plain type {kind} has elements in it", element.name))
        };
    };
    let mut children = element.children.iter().peekable();
    for field in fields {
        let mut count = 0;
        while let Some(child) = children.next_if(|child| child.name == field.name) {
            count += 1;
            check(child, child.xsi_type().unwrap_or(&field.kind), sequences)?;
        }
        if count < field.least || count > field.most {
            return Err(format!("{kind} has {count} times {}", field.name));
        }
    }
    children.next().map_or(Ok(()), |child| Err(format!("{} does not stand there in {kind}", child.name)))
}

fn checked(document: &str, sequences: &BTreeMap<String, Vec<Field>>) -> Result<(), String> {
    let root = Element::parse(document).unwrap();
    let request = &root.child("Body").unwrap().children[0];
    let kind = request.name.strip_suffix("_Task").unwrap_or(&request.name);
    if !sequences.contains_key(kind) {
        return Err(format!("there is no sequence of {kind}"));
    }
    check(request, kind, sequences)
}

#[test]
fn requests_keep_the_order_of_the_wsdl() {
    let sequences = sequences();
    for (name, call) in calls() {
        checked(call.document(), &sequences).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn another_order_would_be_found() {
    let sequences = sequences();
    let right = vm::create_snapshot_ex(&MoRef::vm("vm-1"), "n", "d", None).document().to_owned();
    checked(&right, &sequences).unwrap();
    let (name, description) = ("<name>n</name>", "<description>d</description>");
    let swapped = right.replace(&format!("{name}{description}"), &format!("{description}{name}"));
    assert_ne!(right, swapped);
    assert!(checked(&swapped, &sequences).is_err());
    assert!(checked(&right.replace(name, ""), &sequences).is_err());
    assert!(checked(&right.replace(name, "<name>n</name><name>n</name>"), &sequences).is_err());
    assert!(checked(&right.replace("</description>", "</description><more>1</more>"), &sequences).is_err());
    // What a type inherits stands before its own.
    let view = properties::create_filter(
        &MoRef::new("PropertyCollector", "p"),
        &[Wanted { kind: "VirtualMachine", paths: &["name"] }],
        Start::View(&MoRef::new("ContainerView", "v")),
    );
    let (name, kind) = ("<name>view</name>", "<type>ContainerView</type>");
    let swapped = view.document().replace(&format!("{name}{kind}"), &format!("{kind}{name}"));
    assert_ne!(view.document(), swapped);
    assert!(checked(&swapped, &sequences).is_err());
}
