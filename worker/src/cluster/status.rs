//! What a gateway says about its cycle: `status.source`, and the conditions `Transferred` and `SourceReleased`. Pure: news and time come in
//! as values.

use std::{collections::BTreeMap, time::Duration};

use blocklog::{
    cycle::{Manifest, Mode, SnapshotNote, State},
    ids::DiskKey,
};
use crds::{
    conditions::{self, ConditionType, Finding, Status},
    reasons::Reason,
    replicated_vm::Progress,
    replication_cycle::{DiskMode, ReplicationCycleStatus, SnapshotState, SnapshotStatus, SourceDisk, SourceStatus, TaskStatus},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::event::ReportEvent;
use crate::{
    env::Event,
    gateway::{End, GatewayError},
};

/// The field manager of a gateway's part of a status.
pub const MANAGER: &str = "hawser-gateway";

/// What is said of a log that is.
const COMPLETE: &str = "the log is complete";

/// What is said where no snapshot is.
const RELEASED: &str = "no snapshot of this cycle is left";

/// The least time between two writes of progress.
pub const EVERY: Duration = Duration::from_secs(5);

/// The least time between a write and one of words alone.
pub const WORDS: Duration = Duration::from_secs(15);

/// What is known of a cycle's source side.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    source: SourceStatus,
    disks: BTreeMap<DiskKey, SourceDisk>,
    transferred: Finding,
    released: Finding,
    /// The epoch that this start claims, once it has.
    next_epoch: i64,
    /// How much was done, and when that was noted, for the speed.
    sample: Option<(Timestamp, i64)>,
    edges: u64,
}

impl Report {
    /// When a gateway takes a cycle up: what the object says by now, of an earlier gateway or of this one.
    #[must_use]
    pub fn begin(pod: &str, old: Option<&ReplicationCycleStatus>, now: Timestamp) -> Self {
        let of_old = |of| old.and_then(|old| conditions::get(&old.conditions, of));
        let sent = of_old(ConditionType::Transferred).is_some_and(|condition| condition.status == Status::True.as_str());
        let old = old.and_then(|old| old.source.clone()).unwrap_or_default();
        let disks = old.disks.iter().filter_map(|disk| Some((DiskKey(u32::try_from(disk.key).ok()?), disk.clone()))).collect();
        let started = old.started.clone().or_else(|| Some(seconds(now)));
        let transferred = if sent {
            Finding::holds(ConditionType::Transferred, Reason::AsExpected, COMPLETE)
        } else {
            Finding::open(ConditionType::Transferred, Reason::Pending, "a gateway has taken the cycle up")
        };
        Self {
            source: SourceStatus { worker: Some(pod.to_owned()), started, tasks: Vec::new(), ..old },
            disks,
            transferred,
            released: Finding::open(ConditionType::SourceReleased, Reason::Pending, "there is no snapshot yet"),
            next_epoch: 1,
            sample: None,
            edges: 0,
        }
    }

    /// A run goes on from the cycle's `state`: it counts what was recorded.
    pub fn resume(&mut self, state: &State) {
        self.next_epoch = state.epochs.last().map_or(0, |epoch| i64::from(epoch.0)) + 1;
        self.sample = None;
        for (key, progress) in &state.disks {
            let disk = self.disk(*key);
            let figures = &progress.figures;
            disk.mode = Some(mode(progress.mode));
            // Of a disk whose first segment is not durable the state has no figure; what was said before stays.
            disk.changed_bytes = disk.changed_bytes.max(bytes(figures.changed));
            (disk.read_bytes, disk.uploaded_bytes) = (bytes(figures.read), bytes(figures.uploaded));
            (disk.in_place_bytes, disk.done) = (bytes(figures.in_place), progress.read);
        }
        match &state.snapshot {
            SnapshotNote::None => {}
            SnapshotNote::Intended => self.snapshot(SnapshotState::Intended),
            SnapshotNote::Taken(snapshot) => {
                self.snapshot(SnapshotState::Taken);
                let status = self.source.snapshot.get_or_insert_default();
                (status.mo_ref, status.taken) = (Some(snapshot.reference.clone()), Some(seconds(snapshot.taken)));
            }
            SnapshotNote::Released => self.snapshot(SnapshotState::Released),
        }
    }

    /// Counts what is worth telling at once.
    #[must_use]
    pub fn edges(&self) -> u64 {
        self.edges
    }

    pub fn take(&mut self, told: &ReportEvent, now: Timestamp) {
        match told {
            ReportEvent::Event(event) => self.event(event, now),
            ReportEvent::Taking => {
                self.source.epoch = Some(self.next_epoch);
                self.snapshot(SnapshotState::Intended);
                self.taking();
            }
            ReportEvent::Taken { name, reference, taken, quiesced, powered_off } => {
                // One that another cycle has left is found as well; it is about to go, and not this one's.
                if self.other(reference) {
                    return;
                }
                let status = self.source.snapshot.get_or_insert_default();
                let known = status.powered_off.filter(|_| status.mo_ref.as_ref() == Some(reference));
                (status.name, status.mo_ref) = (Some(name.clone()), Some(reference.clone()));
                (status.taken, status.quiesced) = (Some(seconds(*taken)), Some(*quiesced));
                // Only who took it can tell; of one that is found again what was told then holds.
                status.powered_off = powered_off.or(known);
                self.source.tasks.clear();
                if self.transferred.status == Status::Unknown {
                    self.snapshot(SnapshotState::Taken);
                    self.transferring();
                }
            }
            ReportEvent::Releasing { reference } if !self.other(reference) => {
                self.snapshot(SnapshotState::Releasing);
                self.removing();
            }
            ReportEvent::Released { reference } if !self.other(reference) => {
                self.source.tasks.clear();
                self.snapshot(SnapshotState::Released);
                let status = self.source.snapshot.get_or_insert_default();
                status.released.get_or_insert(seconds(now));
            }
            ReportEvent::Releasing { .. } | ReportEvent::Released { .. } => {}
            ReportEvent::Task { id, method, percent } => {
                let percent = percent.map(i32::from);
                let old = self.source.tasks.iter().find(|task| task.id == *id).cloned();
                let moved = old.filter(|task| task.percent == percent).and_then(|task| task.moved).or_else(|| Some(seconds(now)));
                self.source.tasks = vec![TaskStatus { id: id.clone(), method: method.clone(), percent, moved }];
                self.at_work(method);
            }
            ReportEvent::Full { disk, reason } => {
                self.disk(*disk).reason = reason.map(|reason| reason.as_str().to_owned());
                self.disk(*disk).mode = Some(DiskMode::Full);
            }
            ReportEvent::Waiting { reason, message } => self.trouble(*reason, message),
        }
    }

    /// A task gets on: what was tried in vain before is not what is waited for now.
    fn at_work(&mut self, method: &str) {
        if self.releasing() {
            if method.starts_with("ConsolidateVMDisks") {
                let message = format!("what the snapshot {} left is being consolidated", self.name());
                self.release(Finding::open(ConditionType::SourceReleased, Reason::Consolidating, message));
            } else if method.starts_with("RemoveSnapshot") {
                self.removing();
            }
        } else if method.starts_with("CreateSnapshot") && self.transferred.status == Status::Unknown {
            self.taking();
        }
    }

    /// The log store answers again: what waited for it goes on from where the cycle is.
    fn answered(&mut self) {
        if waits_for_store(&self.transferred) {
            match self.source.snapshot.as_ref().map(|snapshot| snapshot.state) {
                Some(SnapshotState::Intended) => self.taking(),
                Some(SnapshotState::Taken) => self.transferring(),
                _ => self.transfer(Finding::open(ConditionType::Transferred, Reason::Pending, "a gateway has taken the cycle up")),
            }
        }
        if waits_for_store(&self.released) {
            if self.releasing() { self.removing() } else { self.standing() }
        }
    }

    fn store_is_waited_for(&self) -> bool {
        waits_for_store(&self.transferred) || waits_for_store(&self.released)
    }

    fn taking(&mut self) {
        self.transfer(Finding::open(ConditionType::Transferred, Reason::TakingSnapshot, "the snapshot is being taken"));
    }

    fn standing(&mut self) {
        let message = format!("the snapshot {} stands while its disks are read", self.name());
        self.release(Finding::open(ConditionType::SourceReleased, Reason::Transferring, message));
    }

    fn removing(&mut self) {
        let message = format!("the snapshot {} is being removed", self.name());
        self.release(Finding::open(ConditionType::SourceReleased, Reason::RemovingSnapshot, message));
    }

    fn event(&mut self, event: &Event, now: Timestamp) {
        match event {
            Event::Reading { disk, mode: how, changed } => {
                self.source.epoch = Some(self.next_epoch);
                let fresh = self.disks.get(disk).is_none_or(|disk| disk.mode.is_none());
                let status = self.disk(*disk);
                (status.mode, status.changed_bytes) = (Some(mode(*how)), bytes(*changed));
                // The gateway asks nobody where there is nothing to start from.
                if fresh && *how == Mode::Full {
                    status.reason = Some(Reason::NoBaseline.as_str().to_owned());
                }
                self.transferring();
            }
            Event::Read { disk, step } => {
                let status = self.disk(*disk);
                status.read_bytes += bytes(step.read);
                status.uploaded_bytes += bytes(step.uploaded);
                status.in_place_bytes += bytes(step.in_place);
                self.transferring();
                self.measure(now);
            }
            Event::Sent => {
                self.source.ended.get_or_insert(seconds(now));
                self.transfer(Finding::holds(ConditionType::Transferred, Reason::AsExpected, COMPLETE));
            }
            Event::Waiting { reason, message } => self.trouble(*reason, message),
            Event::Answered => self.answered(),
            Event::Applying { .. } | Event::Applied { .. } => {}
        }
    }

    /// What the manifest says, once it stands: it counts what the log has.
    pub fn manifest(&mut self, manifest: &Manifest) {
        for (key, sent) in &manifest.disks {
            let status = self.disk(*key);
            status.mode = Some(mode(sent.mode));
            (status.changed_bytes, status.read_bytes) = (bytes(sent.figures.changed), bytes(sent.figures.read));
            (status.uploaded_bytes, status.in_place_bytes) = (bytes(sent.figures.uploaded), bytes(sent.figures.in_place));
            (status.partial, status.done) = (sent.partial, !sent.partial);
        }
    }

    /// A run has ended, or has stopped by an error after which it is tried again.
    pub fn ended(&mut self, result: &Result<End, GatewayError>, now: Timestamp) {
        match result {
            Ok(end) => {
                self.source.ended.get_or_insert(seconds(now));
                self.source.tasks.clear();
                self.source.progress = self.source.progress.take().map(|progress| Progress { bytes_per_second: None, ..progress });
                match end {
                    End::Sent { manifest } => {
                        self.source.manifest = Some(manifest.to_string());
                        self.transfer(Finding::holds(ConditionType::Transferred, Reason::AsExpected, COMPLETE));
                    }
                    End::Failed { reason } => {
                        let message = format!("{} The next cycle covers the same ground.", reason.meaning());
                        self.transfer(Finding::fails(ConditionType::Transferred, *reason, message));
                    }
                }
                if let Some(snapshot) = &mut self.source.snapshot {
                    snapshot.released.get_or_insert(seconds(now));
                }
                if self.source.snapshot.is_some() {
                    self.snapshot(SnapshotState::Released);
                }
                self.release(Finding::holds(ConditionType::SourceReleased, Reason::AsExpected, RELEASED));
            }
            // It is tried again, so nothing is decided yet.
            Err(error) => {
                if self.releasing() {
                    let status = self.source.snapshot.get_or_insert_default();
                    status.release_failures = Some(status.release_failures.unwrap_or_default().saturating_add(1));
                }
                // A lease that ran out while the log store was silent is no other trouble, and its word helps nobody.
                if !(error.reason() == Reason::LeaseLost && self.store_is_waited_for()) {
                    self.trouble(error.reason(), &error.to_string());
                }
            }
        }
    }

    /// Its state is gone: it was applied, or can never be, and its snapshot went before.
    pub fn over(&mut self, now: Timestamp) {
        if self.transferred.status != Status::True {
            self.ended(&Ok(End::Failed { reason: Reason::BlobMissing }), now);
        }
        self.release(Finding::holds(ConditionType::SourceReleased, Reason::AsExpected, RELEASED));
    }

    /// The cycle waits: its sessions are closed, its snapshot stands.
    pub fn suspended(&mut self) {
        if self.transferred.status == Status::Unknown {
            let message = "suspended: no disk of this cycle may transfer now; its snapshot stands";
            self.transfer(Finding::open(ConditionType::Transferred, Reason::Pending, message));
        }
    }

    /// What is written: the source's half and its two conditions. `old` are the object's conditions.
    #[must_use]
    pub fn status(&self, old: &[Condition], generation: Option<i64>, now: Timestamp) -> (SourceStatus, Vec<Condition>) {
        let sum = |of: fn(&SourceDisk) -> i64| self.disks.values().map(of).sum::<i64>();
        let mut source = self.source.clone();
        source.disks = self.disks.values().cloned().collect();
        if !self.disks.is_empty() {
            let (total, done) = (sum(|disk| disk.changed_bytes), sum(done));
            source.changed_bytes = Some(total);
            source.read_bytes = Some(sum(|disk| disk.read_bytes));
            source.uploaded_bytes = Some(sum(|disk| disk.uploaded_bytes));
            let sent = self.transferred.status == Status::True;
            let percent = if total == 0 || sent { i32::from(sent) * 100 } else { (done.saturating_mul(100) / total).min(100) as i32 };
            let speed = self.source.progress.as_ref().and_then(|progress| progress.bytes_per_second).filter(|_| !sent);
            source.progress = Some(Progress { percent, done_bytes: done, total_bytes: total, bytes_per_second: speed });
        }
        let conditions = conditions::merge(old, &[self.transferred.clone(), self.released.clone()], generation, now);
        (source, conditions)
    }

    fn disk(&mut self, key: DiskKey) -> &mut SourceDisk {
        self.disks.entry(key).or_insert_with(|| SourceDisk { key: i64::from(key.0), ..SourceDisk::default() })
    }

    fn measure(&mut self, now: Timestamp) {
        let done: i64 = self.disks.values().map(done).sum();
        let Some((at, before)) = self.sample else {
            self.sample = Some((now, done));
            return;
        };
        let passed = now.duration_since(at).as_secs_f64();
        if passed >= EVERY.as_secs_f64() {
            let speed = ((done - before).max(0) as f64 / passed) as i64;
            self.source.progress = Some(Progress { percent: 0, done_bytes: 0, total_bytes: 0, bytes_per_second: Some(speed) });
            self.sample = Some((now, done));
        }
    }

    fn transferring(&mut self) {
        if self.transferred.status == Status::Unknown {
            let why = |disk: &SourceDisk| disk.reason.clone().filter(|reason| reason != Reason::NoBaseline.as_str());
            let whole = self.disks.values().filter(|disk| disk.mode == Some(DiskMode::Full));
            let whole: Vec<String> = whole.filter_map(|disk| Some(format!("{} ({})", disk.key, why(disk)?))).collect();
            let compared = if whole.is_empty() { String::new() } else { format!("; compared in full: {}", whole.join(", ")) };
            let message = format!("disks are being transferred{compared}");
            self.transfer(Finding::open(ConditionType::Transferred, Reason::Transferring, message));
            self.standing();
        }
    }

    /// Something keeps the cycle from going on, for now.
    fn trouble(&mut self, reason: Reason, message: &str) {
        if self.releasing() {
            let message = format!("the snapshot {} can't be removed yet: {message}", self.name());
            self.release(Finding::fails(ConditionType::SourceReleased, reason, message));
        } else if self.transferred.status == Status::Unknown {
            self.transfer(Finding::open(ConditionType::Transferred, reason, message));
        } else if self.source.snapshot.as_ref().is_some_and(|snapshot| snapshot.state != SnapshotState::Released) {
            // The log is complete, or given up, and the removal has not begun.
            self.release(Finding::fails(ConditionType::SourceReleased, reason, message));
        }
    }

    fn releasing(&self) -> bool {
        self.source.snapshot.as_ref().is_some_and(|snapshot| snapshot.state == SnapshotState::Releasing)
    }

    /// True for a snapshot that is not this cycle's.
    fn other(&self, reference: &str) -> bool {
        let own = self.source.snapshot.as_ref().and_then(|snapshot| snapshot.mo_ref.as_deref());
        let known = self.source.snapshot.as_ref().is_some_and(|snapshot| snapshot.state != SnapshotState::Intended);
        known && own.is_some_and(|own| own != reference)
    }

    fn name(&self) -> String {
        let snapshot = self.source.snapshot.clone().unwrap_or_default();
        match (snapshot.name, snapshot.mo_ref) {
            (Some(name), Some(reference)) => format!("{name} ({reference})"),
            (name, reference) => name.or(reference).unwrap_or_default(),
        }
    }

    fn snapshot(&mut self, state: SnapshotState) {
        let first = self.source.snapshot.is_none();
        let status: &mut SnapshotStatus = self.source.snapshot.get_or_insert_default();
        if first || status.state != state {
            status.state = state;
            self.edges += 1;
        }
    }

    fn transfer(&mut self, finding: Finding) {
        self.edges += u64::from(finding.status != self.transferred.status);
        self.transferred = finding;
    }

    fn release(&mut self, finding: Finding) {
        self.edges += u64::from(finding.status != self.released.status);
        self.released = finding;
    }
}

fn waits_for_store(finding: &Finding) -> bool {
    matches!(finding.reason, Reason::LogStoreUnreachable | Reason::LogStoreFailed)
}

/// What was looked at of a disk. Of one that is compared in full a block may have been read and found in place, or be known to be zero and
/// not read at all: at least so much was looked at.
fn done(disk: &SourceDisk) -> i64 {
    let looked = if disk.mode == Some(DiskMode::Full) { disk.read_bytes.max(disk.in_place_bytes) } else { disk.read_bytes };
    if disk.done { disk.changed_bytes } else { looked.min(disk.changed_bytes) }
}

fn mode(mode: Mode) -> DiskMode {
    match mode {
        Mode::Changed => DiskMode::Changed,
        Mode::Full => DiskMode::Full,
    }
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Kubernetes keeps seconds: what is read back has to equal what was written.
fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// What was written last, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// [`blocklog::clock::Clock::monotonic`] of it.
    pub at: Duration,
    /// [`Report::edges`] of it.
    pub edges: u64,
    pub source: SourceStatus,
    pub conditions: Vec<Condition>,
}

/// What a report says that was not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// The same in other words: what servers say may be another text each time.
    Words,
    /// Something else.
    More,
}

impl Written {
    /// What these say beside it.
    #[must_use]
    pub fn news(&self, source: &SourceStatus, conditions: &[Condition]) -> News {
        let stands = |condition: &Condition| Condition { message: String::new(), ..condition.clone() };
        if self.source == *source && self.conditions == conditions {
            News::None
        } else if self.source == *source && self.conditions.iter().map(stands).eq(conditions.iter().map(stands)) {
            News::Words
        } else {
            News::More
        }
    }
}

/// When a report is to be written: at once where nothing was, or where it has passed an edge; [`EVERY`] after the last write where it says
/// something else, and [`WORDS`] after it where it only says it otherwise; never where it says the same.
#[must_use]
pub fn due(written: Option<&Written>, edges: u64, news: News, now: Duration) -> Option<Duration> {
    match (written, news) {
        (None, _) => Some(now),
        (Some(_), News::None) => None,
        (Some(written), _) if written.edges != edges => Some(now),
        (Some(written), News::Words) => Some(now.max(written.at + WORDS)),
        (Some(written), News::More) => Some(now.max(written.at + EVERY)),
    }
}

/// The object that is applied: nothing in it but what is the gateway's.
#[must_use]
pub fn patch(name: &str, uid: Option<&str>, source: &SourceStatus, conditions: &[Condition]) -> serde_json::Value {
    let status =
        ReplicationCycleStatus { source: Some(source.clone()), conditions: conditions.to_vec(), ..ReplicationCycleStatus::default() };
    let mut metadata = serde_json::json!({ "name": name });
    // With it a cycle that was made anew under the same name is left alone.
    if let Some(uid) = uid {
        metadata["uid"] = uid.into();
    }
    serde_json::json!({ "apiVersion": "hawser.dev/v1alpha1", "kind": "ReplicationCycle", "metadata": metadata, "status": status })
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
