//! Looks at a VM, and does what the protocol decides.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backoff::{Backoff, Jitter};
use blocklog::{
    cycle,
    ids::{ChangeId, DiskKey},
};
use jiff::Timestamp;
use reasons::Reason;
use tokio::sync::Mutex;

use crate::{
    classify::{Class, Doing, Verdict, classify},
    error::Error,
    fault::Fault,
    methods::{
        properties::ObjectContent,
        vm::{self, Quiesce},
    },
    model::{disk::Devices, snapshots::Tree, task::Work},
    moref::MoRef,
    session::{Call, Client},
    snapshot::{
        Mark, Note, Owning, View,
        lineage::Lineage,
        release, standing,
        standing::{Chains, Standing},
        take,
    },
    tasks::{Outcome, Patience},
};

/// Why the source's side did not do what it was asked. Both carry the verdict that names the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It does not answer, or is busy, or has failed: trying again may help.
    #[error("{}", .0.message)]
    Passing(Verdict),
    /// A person has to do something first.
    #[error("{}", .0.message)]
    Person(Verdict),
}

impl Failure {
    /// The verdict.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        match self {
            Self::Passing(verdict) | Self::Person(verdict) => verdict,
        }
    }

    pub(crate) fn of(error: &Error, doing: Doing) -> Self {
        Self::by(classify(error, doing))
    }

    pub(crate) fn by(verdict: Verdict) -> Self {
        if verdict.class == Class::Block { Self::Person(verdict) } else { Self::Passing(verdict) }
    }

    fn person(reason: Reason, message: String) -> Self {
        Self::Person(Verdict { class: Class::Block, reason, message })
    }
}

/// How it is gone about.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether the guest is brought to rest.
    pub policy: take::Policy,
    /// How long the guest may take for it, in minutes (5 to 240).
    pub quiesce_minutes: u8,
    /// How patient the waits for tasks are.
    pub patience: Patience,
    /// The first wait before something is tried again.
    pub first_wait: Duration,
    /// The longest.
    pub longest_wait: Duration,
    /// How often a host that fails to list changes is asked again before the disk is read in full.
    pub tries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: take::Policy::Try,
            quiesce_minutes: 5,
            patience: Patience::default(),
            first_wait: Duration::from_secs(2),
            longest_wait: Duration::from_secs(60),
            tries: 5,
        }
    }
}

/// An own snapshot that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// It.
    pub snapshot: MoRef,
    /// Its name.
    pub name: String,
    /// Whose it is, and of which cycle and incarnation.
    pub mark: Mark,
    /// When it was taken.
    pub taken: Timestamp,
}

/// A snapshot, with all that a cycle needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// It.
    pub snapshot: MoRef,
    /// When it was taken, by the host's clock.
    pub taken: Timestamp,
    /// Whether the VM was powered off before and after: [`take::was_off`]. `None` where it can't be known.
    pub powered_off: Option<bool>,
    /// Whether the guest was at rest.
    pub quiesced: bool,
    /// Its own devices: capacity, files and change ID of each disk as of then.
    pub devices: Devices,
    /// What it was built on.
    pub lineage: Lineage,
}

impl Taken {
    /// As a cycle's state notes it. A disk that takes no part in snapshots is not in it.
    #[must_use]
    pub fn note(&self) -> cycle::Snapshot {
        let part = standing::chains(&self.devices);
        let disks = self.devices.disks.iter().filter(|disk| part.contains_key(&disk.key));
        let change_ids = disks.map(|disk| (DiskKey(disk.key), disk.backing.change_id.clone().map(ChangeId))).collect();
        cycle::Snapshot { reference: self.snapshot.id().to_owned(), taken: self.taken, change_ids }
    }
}

type Notes = Arc<dyn Fn(Note) + Send + Sync>;

/// The snapshots of one VM.
pub struct Control {
    client: Client,
    owning: Owning,
    settings: Settings,
    notes: Notes,
    vm: Mutex<Option<MoRef>>,
    /// The reference that the VM had when it was last seen.
    last: Option<MoRef>,
    /// The files of each snapshot when they were last looked at.
    chains: Mutex<BTreeMap<MoRef, Chains>>,
}

impl Control {
    /// Of the VM of `owning`, known by its instance UUID. `notes` is told what is waited for.
    #[must_use]
    pub fn new(client: Client, owning: Owning, settings: Settings, notes: Notes) -> Self {
        Self { client, owning, settings, notes, vm: Mutex::new(None), last: None, chains: Mutex::new(BTreeMap::new()) }
    }

    /// With the reference that the VM had when it was last seen: one that can't be found is taken for gone only where that is gone, too.
    #[must_use]
    pub fn last_seen_as(self, vm: MoRef) -> Self {
        Self { last: Some(vm), ..self }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The VM's reference. It changes when a VM is registered anew, so it is looked up, and looked up again when it is gone.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn vm(&self) -> Result<MoRef, Failure> {
        let mut known = self.vm.lock().await;
        if let Some(vm) = &*known {
            return Ok(vm.clone());
        }
        let fail = |error| Failure::of(&error, Doing::Other);
        let service = self.client.service().await.map_err(fail)?;
        if service.content.about.instance_uuid.is_some_and(|uuid| uuid != self.owning.vm.vcenter) {
            return Err(Failure::person(
                Reason::OtherVCenter,
                "this is another vCenter than the one that the VM was replicated from.".into(),
            ));
        }
        let found = self.client.find_by_instance_uuid(self.owning.vm.instance).await.map_err(fail)?;
        let gone = || {
            Failure::person(Reason::VmNotFound, format!("no VM has the instance UUID {}. Its replica is kept.", self.owning.vm.instance))
        };
        if let (None, Some(last)) = (&found, &self.last) {
            // An error where it is there and our user may not see it: its snapshots stand.
            self.client.is_gone(last).await.map_err(fail)?;
        }
        Ok(known.insert(found.ok_or_else(gone)?).clone())
    }

    /// What is there now. The tasks are looked at first: one that ends in between has left its mark on the rest.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn view(&self) -> Result<View, Failure> {
        self.seen(&[]).await.map(|(_, view, _)| view)
    }

    /// The VM, what is there, and more of its properties.
    pub(super) async fn seen(&self, more: &[&str]) -> Result<(MoRef, View, ObjectContent), Failure> {
        let vm = self.vm().await?;
        let (vm, result) = match self.look(&vm, more).await {
            Err(error) if gone(&error, "VirtualMachine") => {
                // Registered anew, perhaps.
                *self.vm.lock().await = None;
                let vm = self.vm().await?;
                let result = self.look(&vm, more).await;
                (vm, result)
            }
            result => (vm, result),
        };
        result.map(|(view, content)| (vm, view, content)).map_err(|error| Failure::of(&error, Doing::Other))
    }

    /// The same for those who have time: a vCenter that is silent for a moment is waited for.
    async fn steadily(&self) -> Result<(MoRef, View), Failure> {
        let clock = self.client.clock().clone();
        let (begun, mut attempts) = (clock.monotonic(), 0);
        loop {
            match self.seen(&[]).await {
                Ok((vm, view, _)) => return Ok((vm, view)),
                Err(Failure::Passing(verdict))
                    if verdict.class == Class::Retry && clock.monotonic().saturating_sub(begun) < self.settings.patience.silence =>
                {
                    self.pause(verdict.reason, verdict.message, &mut attempts).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn look(&self, vm: &MoRef, more: &[&str]) -> Result<(View, ObjectContent), Error> {
        let recent = told(self.client.read(vm, &["recentTask"]).await?)?;
        let recent: Vec<MoRef> =
            recent.property("recentTask").into_iter().flat_map(|list| &list.children).filter_map(MoRef::read).collect();
        let mut tasks = self.client.tasks(&recent).await?;
        let mut paths = vec!["snapshot", "runtime.consolidationNeeded", "runtime.question", "guest.toolsRunningStatus"];
        paths.extend(["runtime.powerState", "runtime.bootTime", "runtime.connectionState"]);
        paths.extend(more);
        let content = told(self.client.read(vm, &paths).await?)?;
        let mut parsed = crate::model::vm::Vm::default();
        for path in &paths {
            parsed.set(path, content.property(path));
        }
        // Of these nothing may be guessed.
        if let Some((path, why)) = parsed.unread.iter().next() {
            return Err(Error::answer("RetrievePropertiesEx", format!("{path}: {why}")));
        }
        let power = take::PowerSeen::new(&parsed, &tasks);
        tasks.retain(crate::model::task::Task::open);
        let view = View {
            tree: parsed.snapshots,
            tasks,
            consolidation_needed: parsed.consolidation_needed,
            tools_running: parsed.tools_running,
            question: parsed.question.map(|question| question.text),
            power,
        };
        Ok((view, content))
    }

    /// All own snapshots, oldest first. It waits for one that is being taken: it may be ours.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn find(&self) -> Result<Vec<Found>, Failure> {
        loop {
            let (_, view) = self.steadily().await?;
            if let Some(task) = view.task(&[Work::TakesSnapshot]) {
                self.wait(&task.task, Doing::TakingSnapshot).await?;
                continue;
            }
            let found = |(node, mark): (&crate::model::snapshots::Node, Mark)| Found {
                snapshot: node.snapshot.clone(),
                name: node.name.clone(),
                mark,
                taken: node.taken,
            };
            return Ok(view.own(&self.owning).into_iter().map(found).collect());
        }
    }

    /// Takes the snapshot of a mark, or adopts the one that a predecessor took.
    ///
    /// # Errors
    /// [`Failure`]. A call whose answer is lost may have taken it: the next look finds it.
    pub async fn take(&self, mark: &Mark) -> Result<Taken, Failure> {
        self.take_with(mark, self.settings.policy).await
    }

    pub(crate) async fn take_with(&self, mark: &Mark, policy: take::Policy) -> Result<Taken, Failure> {
        let want = take::Want { mark: mark.clone(), policy };
        let (mut past, mut attempts) = (take::Past::default(), 0);
        // What the VM was right before our own call: of a snapshot that stands already it is not known.
        let mut before = None;
        loop {
            let (vm, view) = self.steadily().await?;
            match take::next(&want, &view, &past) {
                take::Step::Stands(snapshot) => {
                    let powered_off = take::was_off(before.as_ref(), &view.power);
                    return self.taken(&snapshot, &view.tree).await.map(|taken| Taken { powered_off, ..taken });
                }
                take::Step::Await(task) => {
                    self.wait(&task, Doing::TakingSnapshot).await?;
                }
                take::Step::Wait { reason, message } => self.pause(reason, message, &mut attempts).await,
                take::Step::Refuse { reason, message } => return Err(Failure::person(reason, message)),
                take::Step::Consolidate => {
                    if past.consolidations > 0 {
                        self.pause(
                            Reason::SourceBusy,
                            "disks still have to be consolidated before a snapshot is taken.".into(),
                            &mut attempts,
                        )
                        .await;
                    }
                    past.consolidations += 1;
                    self.consolidate(&vm, &mut attempts).await?;
                }
                take::Step::Take { quiesce } => {
                    before = Some(view.power.clone());
                    let guest = quiesce.then_some(Quiesce { minutes: self.settings.quiesce_minutes });
                    let call = vm::create_snapshot_ex(&vm, &mark.name(), &mark.description(), guest);
                    let outcome = match self.client.start(&call).await {
                        Ok(task) => self.wait(&task, Doing::TakingSnapshot).await?,
                        Err(Error::Fault { fault, .. }) => Outcome::Failed(fault),
                        Err(error) => return Err(Failure::of(&error, Doing::TakingSnapshot)),
                    };
                    let Outcome::Failed(fault) = outcome else { continue };
                    match take::after(*fault, quiesce) {
                        take::After::QuiesceFailed(fault) => {
                            if want.policy == take::Policy::Try {
                                (self.notes)(Note::NotQuiesced { message: fault.to_string() });
                            }
                            past.quiesce_failed = Some(fault);
                        }
                        take::After::Wait(verdict) => {
                            let verdict = verdict.of(call.method);
                            self.pause(verdict.reason, verdict.message, &mut attempts).await;
                        }
                        take::After::GiveUp(verdict) => return Err(Failure::by(verdict.of(call.method))),
                    }
                }
            }
        }
    }

    /// All that a cycle needs to know of a snapshot that stands, but for whether the VM was off: of that only who took it can tell.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn taken(&self, snapshot: &MoRef, tree: &Tree) -> Result<Taken, Failure> {
        let lost = || {
            Failure::Passing(Verdict {
                class: Class::Retry,
                reason: Reason::SnapshotLost,
                message: "Somebody has removed the snapshot.".into(),
            })
        };
        let node = tree.find(snapshot).ok_or_else(lost)?;
        let devices = self.frozen(snapshot).await.map_err(|error| Failure::of(&error, Doing::Other))?.ok_or_else(lost)?;
        // The first look counts: a later one must not hide that files were merged in between.
        self.chains.lock().await.entry(snapshot.clone()).or_insert_with(|| standing::chains(&devices));
        let lineage = Lineage::of(snapshot, tree, &devices);
        Ok(Taken { snapshot: snapshot.clone(), taken: node.taken, powered_off: None, quiesced: node.quiesced, devices, lineage })
    }

    /// Holds the next look at a snapshot against the files that another worker saw when it was taken.
    pub async fn remember(&self, snapshot: &MoRef, taken: &Lineage) {
        self.chains.lock().await.insert(snapshot.clone(), taken.files.clone());
    }

    /// The devices of a snapshot; none where it is gone.
    async fn frozen(&self, snapshot: &MoRef) -> Result<Option<Devices>, Error> {
        match self.client.read(snapshot, &["config.hardware.device"]).await {
            Ok(content) => {
                let list = content.property("config.hardware.device");
                let list = list.ok_or_else(|| Error::answer("RetrievePropertiesEx", "the snapshot's devices are not told"))?;
                Devices::read(list).map(Some)
            }
            Err(error) if gone(&error, "VirtualMachineSnapshot") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a snapshot stands, so that all that was read from it before this call is sound.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn stands(&self, snapshot: &MoRef) -> Result<Standing, Failure> {
        let fail = |error: Error| Failure::of(&error, Doing::Other);
        let (_, view, content) = self.seen(&["config.hardware.device"]).await?;
        let frozen = self.frozen(snapshot).await.map_err(fail)?;
        let present = content.property("config.hardware.device");
        let present = present.ok_or_else(|| fail(Error::answer("RetrievePropertiesEx", "the VM's devices are not told")))?;
        let present = Devices::read(present).map_err(fail)?;
        let mut chains = self.chains.lock().await;
        let standing = standing::judge(snapshot, &view, frozen.as_ref(), &present, chains.get(snapshot));
        if let Standing::Stands(now) | Standing::Moved(now) = &standing {
            chains.insert(snapshot.clone(), now.clone());
        }
        Ok(standing)
    }

    /// Removes an own snapshot. Returns when it is gone and nothing is left to consolidate, however long that takes.
    ///
    /// # Errors
    /// [`Failure`]; `Person` where the snapshot is not ours, or somebody has to do something first.
    pub async fn release(&self, snapshot: &MoRef) -> Result<(), Failure> {
        self.settled_without(Some(snapshot)).await?;
        self.chains.lock().await.remove(snapshot);
        Ok(())
    }

    /// Returns when no task that changes the VM's disks runs, and nothing is left to consolidate.
    ///
    /// # Errors
    /// As [`Control::release`].
    pub async fn settle(&self) -> Result<(), Failure> {
        self.settled_without(None).await
    }

    /// Removes `unwanted`, where it stands, and sees to the end of what a removal leaves to be done.
    async fn settled_without(&self, unwanted: Option<&MoRef>) -> Result<(), Failure> {
        let (mut attempts, mut removals, mut consolidations) = (0, 0, 0);
        loop {
            let (vm, view) = self.steadily().await?;
            match release::next(unwanted, &self.owning, &view) {
                release::Step::Done => return Ok(()),
                release::Step::Refuse(snapshot) => {
                    let message = format!(
                        "the name or the description of the snapshot {snapshot} is not what it was given, so it can't be told whose it is, and it is \
                         not touched. Remove it in vCenter, or give it back its name and description."
                    );
                    return Err(Failure::person(Reason::SourceRefused, message));
                }
                release::Step::Await(task) => {
                    self.wait(&task, Doing::RemovingSnapshot).await?;
                }
                release::Step::Wait { reason, message } => self.pause(reason, message, &mut attempts).await,
                release::Step::Remove(snapshot) => {
                    if removals > 0 {
                        self.pause(Reason::SourceBusy, "the snapshot still stands after its removal was asked for.".into(), &mut attempts)
                            .await;
                    }
                    removals += 1;
                    self.work(vm::remove_snapshot(&snapshot), Doing::RemovingSnapshot, &mut attempts).await?;
                }
                release::Step::Consolidate => {
                    // One that has failed was waited for already.
                    if consolidations > 0 {
                        self.pause(Reason::SourceBusy, "disks still have to be consolidated after a consolidation.".into(), &mut attempts)
                            .await;
                    }
                    consolidations += u32::from(self.consolidate(&vm, &mut attempts).await?);
                }
            }
        }
    }

    async fn consolidate(&self, vm: &MoRef, attempts: &mut u32) -> Result<bool, Failure> {
        self.work(vm::consolidate_disks(vm), Doing::Consolidating, attempts).await
    }

    /// Starts a removal or a consolidation and waits for its end; true where it has succeeded. Where it has failed, it waits before it returns.
    async fn work(&self, call: Call, doing: Doing, attempts: &mut u32) -> Result<bool, Failure> {
        let outcome = match self.client.start(&call).await {
            Ok(task) => self.wait(&task, doing).await?,
            Err(Error::Fault { fault, .. }) => Outcome::Failed(fault),
            // It may have been heard: the next look tells.
            Err(error) => return Err(Failure::of(&error, doing)),
        };
        let Outcome::Failed(fault) = outcome else { return Ok(true) };
        match release::after(&fault, doing) {
            release::After::Look => Ok(false),
            release::After::Wait(verdict) => {
                let verdict = verdict.of(call.method);
                self.pause(verdict.reason, verdict.message, attempts).await;
                Ok(false)
            }
            release::After::Person(verdict) => Err(Failure::Person(verdict.of(call.method))),
        }
    }

    pub(crate) async fn wait(&self, task: &MoRef, doing: Doing) -> Result<Outcome, Failure> {
        let notes = self.notes.clone();
        let mut tell = move |progress| notes(Note::Task(progress));
        self.client.wait(task, self.settings.patience, &mut tell).await.map_err(|error| Failure::of(&error, doing))
    }

    pub(crate) async fn pause(&self, reason: Reason, message: String, attempts: &mut u32) {
        (self.notes)(Note::Waiting { reason, message, attempts: *attempts });
        // Spread over the VMs, the same each time: no need for randomness.
        let mut seed = self.owning.vm.instance.as_bytes().to_vec();
        seed.extend(attempts.to_le_bytes());
        let share = blake3::hash(&seed).as_bytes()[0];
        let waits = Backoff::new(self.settings.first_wait, self.settings.longest_wait).with(Jitter::Half);
        let wait = waits.wait(*attempts, share);
        *attempts = attempts.saturating_add(1);
        self.client.clock().sleep(wait).await;
    }

    pub(crate) fn owning(&self) -> &Owning {
        &self.owning
    }

    /// How often a host that fails to list changes is asked again.
    pub(super) fn tries(&self) -> u32 {
        self.settings.tries
    }
}

/// What is not told must not be taken for what is not there: a user who may not see a VM's snapshots would have none.
fn told(mut content: ObjectContent) -> Result<ObjectContent, Error> {
    match content.missing.pop() {
        Some((_, fault)) => Err(Error::Fault { method: "RetrievePropertiesEx".into(), fault: Box::new(fault) }),
        None => Ok(content),
    }
}

/// True where a fault says that what we called, or read, is gone.
fn gone(error: &Error, kind: &str) -> bool {
    let is = |fault: &Fault| fault.is("ManagedObjectNotFound") && fault.field("obj.type").is_none_or(|of| of == kind);
    error.fault().is_some_and(is)
}
