//! A vCenter that answers: a wire of the client's that knows VMs, their snapshots and their change tracking, and an inventory that follows.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use blocklog::clock::Clock;
use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;
use vsphere::{
    Client, Credentials, MoRef, Secret,
    collector::Inventory,
    error::WireError,
    model::vm::Vm,
    snapshot::Mark,
    transport::{Reply, Request, Wire},
    xml::Element,
};

use super::clock::TestClock;

const VERSIONS: &str = r#"<namespaces version="1.0"><namespace><name>urn:vim25</name><version>8.0.3.0</version></namespace></namespaces>"#;

/// A VM.
#[derive(Debug, Clone)]
pub struct Machine {
    pub name: String,
    pub instance: Uuid,
    /// By key, in bytes.
    pub disks: BTreeMap<u32, u64>,
    /// Whether changes are tracked, and whether the disks know since when.
    pub tracking: bool,
    pub tracked: bool,
    /// Reference, name and description of each, every one on top of the one before.
    pub snapshots: Vec<(String, String, String, Timestamp)>,
}

struct State {
    machines: BTreeMap<String, Machine>,
    number: u32,
    calls: Vec<String>,
    /// What every call meets, where it is down.
    down: Option<WireError>,
}

/// The vCenter. Clones are the same one.
#[derive(Clone)]
pub struct VCenter {
    pub uuid: Uuid,
    state: Arc<Mutex<State>>,
    out: Arc<watch::Sender<Arc<Inventory>>>,
    clock: Arc<TestClock>,
}

impl VCenter {
    pub fn new(uuid: Uuid, clock: Arc<TestClock>) -> Self {
        let state = State { machines: BTreeMap::new(), number: 100, calls: Vec::new(), down: None };
        Self { uuid, state: Arc::new(Mutex::new(state)), out: Arc::new(watch::Sender::new(Arc::default())), clock }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        let credentials = Credentials { user: "hawser".into(), password: Secret::new("right") };
        Client::over(Box::new(self.clone()), credentials, self.clock.clone())
    }

    /// What it tells.
    pub fn inventory(&self) -> watch::Receiver<Arc<Inventory>> {
        self.out.subscribe()
    }

    /// Has a VM, or another one in its place.
    pub fn put(&self, reference: &str, machine: Machine) {
        self.lock().machines.insert(reference.to_owned(), machine);
        self.tell();
    }

    /// Changes a VM.
    pub fn edit(&self, reference: &str, change: impl FnOnce(&mut Machine)) {
        change(self.lock().machines.get_mut(reference).unwrap());
        self.tell();
    }

    /// The names of a VM's snapshots.
    pub fn snapshots(&self, reference: &str) -> Vec<String> {
        self.lock().machines[reference].snapshots.iter().map(|(_, name, ..)| name.clone()).collect()
    }

    /// Takes a snapshot of Hawser's, as a gateway does.
    pub fn take(&self, reference: &str, mark: &Mark) {
        let now = self.clock.now();
        let mut state = self.lock();
        state.number += 1;
        let id = format!("snapshot-{}", state.number);
        state.machines.get_mut(reference).unwrap().snapshots.push((id, mark.name(), mark.description(), now));
        drop(state);
        self.tell();
    }

    /// Removes the snapshots of a mark, as a gateway does.
    pub fn release(&self, reference: &str, mark: &Mark) {
        self.edit(reference, |machine| machine.snapshots.retain(|(_, name, ..)| *name != mark.name()));
    }

    /// The methods that were called so far, and forgets them.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().calls)
    }

    /// From now on every call meets this; with none it answers again.
    pub fn down(&self, error: Option<WireError>) {
        self.lock().down = error;
    }

    /// Tells the inventory as it is.
    fn tell(&self) {
        let mut inventory = Inventory { heard: Some(self.clock.now()), ..Inventory::default() };
        for (reference, machine) in &self.lock().machines {
            let mut vm = Vm::default();
            for path in Vm::PATHS {
                let value = property(reference, machine, path).map(|value| Element::parse(&in_namespaces(&value)).unwrap());
                vm.set(path, value.as_ref());
            }
            assert!(vm.unread.is_empty(), "{:?}", vm.unread);
            inventory.vms.insert(MoRef::vm(reference.clone()), Arc::new(vm));
        }
        self.out.send_replace(Arc::new(inventory));
    }

    /// A task that has ended at once.
    fn task(&self, method: &str) -> String {
        // It keeps its result in its name: nobody else has to remember it.
        format!(r#"<{method}Response xmlns="urn:vim25"><returnval type="Task">task-{}</returnval></{method}Response>"#, self.lock().number)
    }

    fn called(&self, method: &str, body: &Element) -> String {
        let this = || body.text_of("_this").unwrap_or_default().trim().to_owned();
        let returns = |value: &str| format!(r#"<{method}Response xmlns="urn:vim25">{value}</{method}Response>"#);
        match method {
            "RetrieveServiceContent" => returns(&format!(
                "<returnval><rootFolder type=\"Folder\">group-d1</rootFolder><propertyCollector type=\"PropertyCollector\">pc</propertyCollector>\
                 <viewManager type=\"ViewManager\">vm</viewManager><about><name>VMware vCenter Server</name><fullName>VMware vCenter Server 8.0.3</fullName>\
                 <version>8.0.3</version><build>1</build><apiType>VirtualCenter</apiType><apiVersion>8.0.3.0</apiVersion>\
                 <instanceUuid>{}</instanceUuid></about><sessionManager type=\"SessionManager\">SessionManager</sessionManager>\
                 <authorizationManager type=\"AuthorizationManager\">AuthorizationManager</authorizationManager>\
                 <searchIndex type=\"SearchIndex\">SearchIndex</searchIndex></returnval>",
                self.uuid
            )),
            "Login" => returns("<returnval><key>52aa</key><userName>VSPHERE.LOCAL\\hawser</userName></returnval>"),
            "HasPrivilegeOnEntities" => {
                let granted = |privilege: &Element| {
                    format!("<privAvailability><privId>{}</privId><isGranted>true</isGranted></privAvailability>", privilege.text)
                };
                let all: String = body.all("privId").map(granted).collect();
                returns(&format!("<returnval><entity type=\"Folder\">group-d1</entity>{all}</returnval>"))
            }
            "FindByUuid" => {
                let wanted = body.text_of("uuid").and_then(|text| Uuid::parse_str(text.trim()).ok());
                let state = self.lock();
                let found = state.machines.iter().find(|(_, machine)| Some(machine.instance) == wanted);
                returns(&found.map(|(id, _)| format!("<returnval type=\"VirtualMachine\">{id}</returnval>")).unwrap_or_default())
            }
            "RetrievePropertiesEx" => returns(&self.properties(body)),
            "ReconfigVM_Task" => {
                self.edit(&this(), |machine| machine.tracking = true);
                self.task(method)
            }
            "CreateSnapshotEx_Task" => {
                let (name, description) = (body.text_of("name").unwrap_or_default(), body.text_of("description").unwrap_or_default());
                let now = self.clock.now();
                {
                    let mut state = self.lock();
                    state.number += 1;
                    let id = format!("snapshot-{}", state.number);
                    let machine = state.machines.get_mut(&this()).unwrap();
                    machine.snapshots.push((id, name.to_owned(), description.to_owned(), now));
                    machine.tracked = machine.tracking;
                }
                self.tell();
                self.task(method)
            }
            "RemoveSnapshot_Task" => {
                let gone = this();
                for machine in self.lock().machines.values_mut() {
                    machine.snapshots.retain(|(id, ..)| *id != gone);
                }
                self.tell();
                self.task(method)
            }
            "ConsolidateVMDisks_Task" => self.task(method),
            "Logout" => returns(""),
            other => panic!("this vCenter does not know {other}"),
        }
    }

    fn properties(&self, body: &Element) -> String {
        let Some(spec) = body.child("specSet") else { return String::new() };
        let paths: Vec<&str> = spec.all("propSet").flat_map(|set| set.all("pathSet")).map(|path| path.text.trim()).collect();
        let state = self.lock();
        let mut found = String::new();
        for object in spec.all("objectSet").filter_map(|set| set.child("obj")).filter_map(MoRef::read) {
            let value = |path: &str| match object.kind() {
                "Task" => Some(format!(
                    "<val xsi:type=\"TaskInfo\"><key>{id}</key><task type=\"Task\">{id}</task><name>Done</name><state>success</state></val>",
                    id = object.id()
                )),
                "VirtualMachine" => property(object.id(), state.machines.get(object.id())?, path),
                _ => {
                    let of = |machine: &&Machine| machine.snapshots.iter().any(|(id, ..)| id == object.id());
                    property("", state.machines.values().find(of)?, path)
                }
            };
            let set = |path: &&str| Some(format!("<propSet><name>{path}</name>{}</propSet>", value(path)?));
            let all: String = paths.iter().filter_map(set).collect();
            let _ = write!(found, "<objects><obj type=\"{}\">{}</obj>{all}</objects>", object.kind(), object.id());
        }
        format!("<returnval>{found}</returnval>")
    }
}

/// A property of a VM; none where it is not set.
fn property(reference: &str, machine: &Machine, path: &str) -> Option<String> {
    let text = |kind: &str, value: &str| Some(format!("<val xsi:type=\"xsd:{kind}\">{value}</val>"));
    match path {
        "name" => text("string", &machine.name),
        "config.instanceUuid" | "config.uuid" => text("string", &machine.instance.to_string()),
        "config.version" => text("string", "vmx-19"),
        "config.changeTrackingEnabled" => text("boolean", &machine.tracking.to_string()),
        "config.files.vmPathName" => text("string", &format!("[ds] {0}/{0}.vmx", machine.name)),
        "config.hardware.device" => Some(format!("<val xsi:type=\"ArrayOfVirtualDevice\">{}</val>", devices(machine))),
        "config.firmware" => text("string", "efi"),
        "config.guestId" => text("string", "ubuntu64Guest"),
        "config.template" => text("boolean", "false"),
        "capability.changeTrackingSupported" => text("boolean", "true"),
        "runtime.powerState" => text("string", "poweredOn"),
        "runtime.connectionState" => text("string", "connected"),
        "runtime.consolidationNeeded" => text("boolean", "false"),
        "guest.toolsRunningStatus" => text("string", "guestToolsRunning"),
        "snapshot" if !machine.snapshots.is_empty() => Some(snapshots(reference, machine)),
        _ => None,
    }
}

fn devices(machine: &Machine) -> String {
    let disk = |(key, capacity): (&u32, &u64)| {
        let change = if machine.tracked { format!("<changeId>52 de {key}/1</changeId>") } else { String::new() };
        format!(
            "<VirtualDevice xsi:type=\"VirtualDisk\"><key>{key}</key><deviceInfo><label>Hard disk {key}</label><summary/></deviceInfo>\
             <backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\"><fileName>[ds] {name}/{key}.vmdk</fileName><diskMode>persistent</diskMode>\
             <uuid>6000C29f-{key}</uuid>{change}</backing><capacityInKB>{kb}</capacityInKB><capacityInBytes>{capacity}</capacityInBytes>\
             </VirtualDevice>",
            name = machine.name,
            kb = capacity / 1024,
        )
    };
    machine.disks.iter().map(disk).collect()
}

fn snapshots(reference: &str, machine: &Machine) -> String {
    let mut tree = String::new();
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    for (number, (id, name, description, taken)) in machine.snapshots.iter().enumerate().rev() {
        let list = if number == 0 { "rootSnapshotList" } else { "childSnapshotList" };
        tree = format!(
            "<{list}><snapshot type=\"VirtualMachineSnapshot\">{id}</snapshot><vm type=\"VirtualMachine\">{reference}</vm><name>{}</name>\
             <description>{}</description><id>{}</id><createTime>{taken}</createTime><state>poweredOff</state><quiesced>false</quiesced>{tree}</{list}>",
            escaped(name),
            escaped(description),
            number + 1
        );
    }
    let current = machine.snapshots.last().map(|(id, ..)| id.as_str()).unwrap_or_default();
    format!(
        "<val xsi:type=\"VirtualMachineSnapshotInfo\"><currentSnapshot type=\"VirtualMachineSnapshot\">{current}</currentSnapshot>{tree}</val>"
    )
}

const NAMESPACES: &str =
    "xmlns=\"urn:vim25\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\"";

fn in_namespaces(value: &str) -> String {
    value.replacen("<val ", &format!("<val {NAMESPACES} "), 1)
}

#[async_trait]
impl Wire for VCenter {
    async fn send(&self, request: Request) -> Result<Reply, WireError> {
        self.clock.active(true);
        tokio::task::yield_now().await;
        self.clock.active(false);
        let down = self.lock().down.clone();
        if let Some(error) = down {
            self.lock().calls.push("(down)".to_owned());
            return Err(error);
        }
        if request.action.is_none() {
            return Ok(Reply { cookie: None, body: VERSIONS.into() });
        }
        let document = Element::parse(&request.body).unwrap();
        let call = document.child("Body").or_else(|| document.children.iter().find(|child| child.name == "Body"));
        let call = call.and_then(|body| body.children.first()).unwrap();
        self.lock().calls.push(call.name.clone());
        let answer = self.called(&call.name, call);
        let body = format!(
            "<?xml version=\"1.0\"?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">\
             <soapenv:Body>{answer}</soapenv:Body></soapenv:Envelope>"
        );
        let cookie = (call.name == "Login").then(|| Secret::new("session"));
        Ok(Reply { cookie, body })
    }
}
