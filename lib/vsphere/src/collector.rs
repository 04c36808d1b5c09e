//! The inventory: one collector for a vCenter feeds everything that wants to know about VMs, hosts and datastores.
//!
//! It is told of changes (`WaitForUpdatesEx`) instead of asking each VM again and again. What it knows survives the loss of a session, of the
//! collector's version and of vCenter itself: until everything has been told anew, the last inventory stays, marked as stale.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use backoff::{Backoff, Jitter};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    classify::{Class, Doing, Verdict, classify},
    error::Error,
    methods::properties::{self, Kind, ObjectUpdate, Start, UpdateSet, Wanted},
    model::{
        datastore::Datastore,
        host::Host,
        vm::{Power, Vm},
    },
    moref::MoRef,
    session::{Client, Service, Session},
};

/// What vCenter has told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The VMs.
    pub vms: BTreeMap<MoRef, Arc<Vm>>,
    /// The hosts.
    pub hosts: BTreeMap<MoRef, Arc<Host>>,
    /// The datastores.
    pub datastores: BTreeMap<MoRef, Arc<Datastore>>,
    /// When vCenter last said something; none before everything was told once.
    pub heard: Option<Timestamp>,
    /// Why nothing is heard at the moment, if nothing is.
    pub trouble: Option<Verdict>,
}

impl Inventory {
    /// True once everything was told.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.heard.is_some()
    }

    /// A VM by its instance UUID. Two may have one (a copy that was registered without being asked): then the one that is no template and runs,
    /// else the first.
    #[must_use]
    pub fn by_instance(&self, uuid: uuid::Uuid) -> Option<(&MoRef, &Arc<Vm>)> {
        let found = self.vms.iter().filter(|(_, vm)| vm.instance_uuid == Some(uuid));
        found.max_by_key(|(reference, vm)| (!vm.template, vm.power == Power::On, std::cmp::Reverse((*reference).clone())))
    }

    fn apply(&mut self, update: ObjectUpdate, now: Timestamp) {
        let ObjectUpdate { object, kind, changes, missing } = update;
        match (object.kind(), kind) {
            ("VirtualMachine", Kind::Leave) => drop(self.vms.remove(&object)),
            ("HostSystem", Kind::Leave) => drop(self.hosts.remove(&object)),
            ("Datastore", Kind::Leave) => drop(self.datastores.remove(&object)),
            ("VirtualMachine", kind) => {
                let vm = self.vms.entry(object).or_default();
                let vm = fresh(vm, kind);
                changes.iter().for_each(|(path, value)| vm.set(path, value.as_ref()));
                missing.iter().for_each(|(path, fault)| vm.set_missing(path, fault));
                // Told anew it may have been something else in between: vCenter tells changes that come together as one.
                let again = changes.iter().any(|(path, _)| path == "runtime.powerState");
                // Of a host that is away, and of what can't be read, it is what was so before.
                let off = vm.power == Power::Off && vm.connection == "connected" && !vm.unread.contains_key("runtime.powerState");
                vm.off_since = off.then(|| vm.off_since.filter(|_| !again).unwrap_or(now));
            }
            ("HostSystem", kind) => {
                let host = fresh(self.hosts.entry(object).or_default(), kind);
                for (path, value) in &changes {
                    if let Err(error) = host.set(path, value.as_ref()) {
                        tracing::warn!(%error, "a host's property");
                    }
                }
            }
            ("Datastore", kind) => {
                let datastore = fresh(self.datastores.entry(object).or_default(), kind);
                for (path, value) in &changes {
                    if let Err(error) = datastore.set(path, value.as_ref()) {
                        tracing::warn!(%error, "a datastore's property");
                    }
                }
            }
            _ => {}
        }
    }
}

/// The value to change; an object that enters begins anew.
fn fresh<T: Default + Clone>(value: &mut Arc<T>, kind: Kind) -> &mut T {
    if kind == Kind::Enter {
        *value = Arc::default();
    }
    Arc::make_mut(value)
}

/// How long one wait for changes may take: a session that is used stays. A wait that is never answered is given up a minute later, and until
/// then what is known grows old without anybody knowing.
const WAIT: Duration = Duration::from_secs(30);
const KINDS: &[&str] = &["VirtualMachine", "HostSystem", "Datastore"];
const WANTED: &[Wanted<'_>] = &[
    Wanted { kind: "VirtualMachine", paths: Vm::PATHS },
    Wanted { kind: "HostSystem", paths: Host::PATHS },
    Wanted { kind: "Datastore", paths: Datastore::PATHS },
];

/// The first wait between two tries, less the quarter that the middle of the jitter takes off.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Keeps the inventory of a vCenter in a channel.
pub struct Collector {
    client: Client,
    out: watch::Sender<Arc<Inventory>>,
    /// The longest wait between two tries.
    longest: Duration,
}

impl Collector {
    /// Of the vCenter of `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, out: watch::Sender::new(Arc::default()), longest: Duration::from_secs(15) }
    }

    /// Where the inventory is seen.
    #[must_use]
    pub fn inventory(&self) -> watch::Receiver<Arc<Inventory>> {
        self.out.subscribe()
    }

    /// Follows vCenter for ever. Dropping it ends it: what it made at vCenter goes with the session, or with [`Client::logout`].
    pub async fn run(&self) {
        let (mut failures, mut lost) = (0, false);
        loop {
            let before = self.out.borrow().heard;
            let Err(error) = self.follow().await;
            if self.out.borrow().heard != before {
                (failures, lost) = (0, false);
            }
            // A session or a place in the updates was lost: no trouble if they can be had again.
            let again = error.is("NotAuthenticated") || error.is("InvalidCollectorVersion");
            if again && !lost {
                lost = true;
                continue;
            }
            let verdict = classify(&error, Doing::Other);
            tracing::warn!(reason = %verdict.reason, %error, "the inventory");
            let wait = match verdict.class {
                // Asking again costs nothing at vCenter where it was refused: the client does not even try.
                Class::Block => self.longest.min(Duration::from_secs(5)),
                // One for each vCenter, so there is nothing to spread.
                _ => Backoff::new(FIRST_WAIT, self.longest).with(Jitter::Half).wait(failures, 128),
            };
            self.trouble(verdict);
            failures = failures.saturating_add(1);
            self.client.clock().sleep(wait).await;
        }
    }

    fn trouble(&self, verdict: Verdict) {
        self.out.send_if_modified(|inventory| {
            let changed = inventory.trouble.as_ref() != Some(&verdict);
            if changed {
                Arc::make_mut(inventory).trouble = Some(verdict);
            }
            changed
        });
    }

    /// Follows until something goes wrong. Whatever it is, what comes next begins with a filter of its own: what an old one tells to those who
    /// ask it from the beginning is not the same with every server (govmomi's simulator leaves out what it has told before).
    async fn follow(&self) -> Result<Infallible, Error> {
        let (service, session) = self.client.session().await?;
        let made = async {
            let manager = service.content.view_manager.as_ref();
            let manager = manager.ok_or_else(|| Error::answer("RetrieveServiceContent", "it has no view manager"))?;
            let view = properties::create_container_view(manager, &service.content.root_folder, KINDS);
            let view = self.client.create_in(&service, &session, &view).await?;
            let filter = properties::create_filter(&service.content.property_collector, WANTED, Start::View(&view));
            match self.client.create_in(&service, &session, &filter).await {
                Ok(filter) => Ok((view, filter)),
                Err(error) => {
                    self.discard(&service, &session, &[properties::destroy_view(&view)]).await;
                    Err(error)
                }
            }
        };
        let (view, filter) = made.await?;
        let result = self.listen(&service, &session).await;
        // At once: who does not answer now takes its time to refuse what follows.
        if let Err(error @ Error::Wire(_)) = &result {
            self.trouble(classify(error, Doing::Other));
        }
        // With the session they are gone already.
        if !result.as_ref().is_err_and(|error| error.is("NotAuthenticated")) {
            self.discard(&service, &session, &[properties::destroy_filter(&filter), properties::destroy_view(&view)]).await;
        }
        result
    }

    /// Takes things away that would else pile up in the session.
    async fn discard(&self, service: &Service, session: &Session, calls: &[crate::session::Call]) {
        for call in calls {
            if let Err(error) = self.client.call_in(service, session, call).await {
                tracing::debug!(%error, "tidying up");
            }
        }
    }

    async fn listen(&self, service: &Service, session: &Session) -> Result<Infallible, Error> {
        let mut version = String::new();
        // What is told is kept aside until it is complete: nobody shall see a part of a vCenter.
        let mut anew = Some(Inventory::default());
        loop {
            let call = properties::wait_for_updates(&service.content.property_collector, &version, WAIT);
            let answer = match self.client.call_in(service, session, &call).await {
                // Somebody has ended the wait, not the filter.
                Err(error) if error.is("RequestCanceled") => continue,
                answer => answer?,
            };
            let set = UpdateSet::read(answer)?;
            let now = self.client.clock().now();
            match (&mut anew, set) {
                (Some(inventory), set) => {
                    // There is more to tell; or a wait ended without news in the midst of it. From the beginning no news is nothing to see.
                    let more = set.as_ref().map_or(!version.is_empty(), |set| set.truncated);
                    if let Some(set) = set {
                        version = set.version;
                        set.updates.into_iter().for_each(|update| inventory.apply(update, now));
                    }
                    if !more {
                        let mut inventory = anew.take().unwrap_or_default();
                        inventory.heard = Some(now);
                        self.out.send_replace(Arc::new(inventory));
                    }
                }
                (None, set) => self.out.send_modify(|inventory| {
                    let inventory = Arc::make_mut(inventory);
                    if let Some(set) = set {
                        version = set.version;
                        set.updates.into_iter().for_each(|update| inventory.apply(update, now));
                    }
                    inventory.heard = Some(now);
                    inventory.trouble = None;
                }),
            }
        }
    }
}
