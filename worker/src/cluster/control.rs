//! vCenter's side of a cycle.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use azure_core::http::Url;
use blocklog::{
    clock::Clock,
    cycle::Snapshot,
    ids::{ChangeId, CycleId, DiskKey, Owner, VmId},
};
use crds::reasons::Reason;
use source::{DiskSource, SourceError};
use tokio::sync::Mutex;
use vsphere::{
    Client, Credentials, MoRef,
    classify::{Class, Doing, Verdict, classify},
    snapshot::{
        Mark, Note, Owning, changes,
        control::{self, Control, Settings, Taken},
        standing::Standing,
    },
    tasks::Progress,
};

use super::{
    baseline,
    event::ReportEvent,
    report::Reporter,
    vddk::{self, DiskAt, Session, VddkSource},
};
use crate::{
    patience::pause,
    snapshot::{Changes, Found, SnapshotControl, SnapshotError},
};

/// How long a vCenter that does not answer is asked again before the run ends. A successor would only ask the same.
const SILENCE: Duration = Duration::from_secs(180);
/// How often a disk that does not open is tried.
const TRIES: u32 = 5;
/// How long a host that has no session to spare is waited for.
const BUSY: Duration = Duration::from_secs(30 * 60);
/// The pause between two tries at such a host.
const BUSY_PAUSE: Duration = Duration::from_secs(10);
/// How recent a successful login must be for VDDK to log in with the same credentials.
const PROVED: Duration = Duration::from_secs(10);
/// How long one disk waits until another has been opened.
const TURN: Duration = Duration::from_secs(10);

/// What a control is made of: vCenter's client, the VM, and how its disks are read.
pub struct Setup {
    pub client: Client,
    /// Its URL, from which VDDK gets name and port.
    pub url: String,
    /// nbdkit and VMware's library.
    pub vddk: vddk::Settings,
    /// Whose snapshots.
    pub owner: Owner,
    /// The cycle, and so the VM.
    pub of: CycleId,
    /// The reference that the VM had when the cycle was made.
    pub mo_ref: Option<MoRef>,
    /// How snapshots are quiesced, retried and waited for.
    pub settings: Settings,
    /// Disks that are compared in full because somebody asked for it.
    pub full: Vec<DiskKey>,
    /// Held while a disk is opened, by all who read this vCenter with these credentials: what is refused is refused to one of them.
    pub opening: Arc<Mutex<()>>,
}

/// The snapshots and disks of one VM in a vCenter.
pub struct VcenterControl {
    setup: Setup,
    control: Control,
    reporter: Arc<Reporter>,
    /// What is open. A host lets a disk be open once only, so the old session ends before the next begins.
    open: Mutex<BTreeMap<DiskKey, Session>>,
    /// The snapshots whose first look was held against what their taker saw.
    known: Mutex<Vec<String>>,
}

impl VcenterControl {
    /// Controls the snapshots of one VM, and reports to `reporter` what is done and waited for.
    #[must_use]
    pub fn new(setup: Setup, reporter: Arc<Reporter>) -> Self {
        let teller = reporter.clone();
        let notes = Arc::new(move |note: Note| teller.tell(&told(note)));
        let owning = Owning { owner: setup.owner.clone(), vm: setup.of.vm };
        let control = Control::new(setup.client.clone(), owning, setup.settings, notes);
        let control = match &setup.mo_ref {
            Some(last) => control.last_seen_as(last.clone()),
            None => control,
        };
        Self { setup, control, reporter, open: Mutex::default(), known: Mutex::default() }
    }

    /// Ends every session, and returns when they are over.
    pub async fn close(&self) {
        let open = std::mem::take(&mut *self.open.lock().await);
        futures::future::join_all(open.values().map(Session::end)).await;
    }

    fn failed(&self, failure: &control::Failure) -> SnapshotError {
        let Verdict { class, reason, message } = failure.verdict().clone();
        self.reporter.tell(&ReportEvent::Waiting { reason, message: message.clone() });
        match failure {
            control::Failure::Passing(_) if class == Class::Wait => SnapshotError::Busy { reason, message },
            control::Failure::Passing(_) => SnapshotError::Unreachable { reason, message },
            control::Failure::Person(_) if reason == Reason::VmNotFound => SnapshotError::Gone(message),
            control::Failure::Person(_) => SnapshotError::Refused { reason, message },
        }
    }

    /// Retries while vCenter does not answer, for at most [`SILENCE`].
    async fn steadily<T, F: Future<Output = Result<T, control::Failure>>>(&self, ask: impl Fn() -> F) -> Result<T, SnapshotError> {
        let clock = self.setup.client.clock();
        let (until, mut tried) = (clock.monotonic() + SILENCE, 0);
        loop {
            match ask().await {
                Err(failure) if may_pass(failure.verdict()) && clock.monotonic() < until => {
                    let _ = self.failed(&failure);
                    clock.sleep(pause(tried)).await;
                    tried += 1;
                }
                result => return result.map_err(|failure| self.failed(&failure)),
            }
        }
    }

    async fn taken(&self, snapshot: &MoRef) -> Result<Option<Taken>, SnapshotError> {
        let control = &self.control;
        let look = || async move {
            let view = control.view().await?;
            // One that is gone is no failure here; whoever asks knows what to do.
            if view.tree.find(snapshot).is_none() {
                return Ok(None);
            }
            control.taken(snapshot, &view.tree).await.map(Some)
        };
        self.steadily(look).await
    }

    fn tell_taken(&self, name: String, taken: &Taken) {
        let reference = taken.snapshot.id().to_owned();
        let Taken { taken, quiesced, powered_off, .. } = *taken;
        self.reporter.tell(&ReportEvent::Taken { name, reference, taken, quiesced, powered_off });
    }

    /// Opens a disk, without a second try. VDDK logs in by itself with the same credentials, twice for each disk, and calls a wrong password and a missing
    /// privilege by the same name: so the credentials are proved before, one disk after the other is opened, and after a refusal they are proved again.
    async fn open_once(&self, snapshot: &Snapshot, disk: DiskKey, clock: &Arc<dyn Clock>) -> Result<VddkSource, SourceError> {
        // One that hangs must not keep all others waiting; they make sure of it themselves then.
        let (_turn, fresh) = tokio::select! {
            biased;
            turn = self.setup.opening.lock() => (Some(turn), PROVED),
            () = clock.sleep(TURN) => (None, Duration::ZERO),
        };
        let credentials = self.proved(fresh).await?;
        let at = self.disk_at(snapshot, disk, &credentials).await?;
        let opened = VddkSource::open(&self.setup.vddk, &at, clock.clone()).await;
        match &opened {
            Err(SourceError::Refused { reason: Reason::WrongCredentials, .. }) => {
                self.setup.client.was_refused(&credentials, "InvalidLogin").await
            }
            Err(SourceError::Refused { reason: Reason::PrivilegesMissing, .. }) => drop(self.proved(Duration::ZERO).await?),
            _ => {}
        }
        opened
    }

    /// Proves our credentials by a login, unless one has succeeded within `fresh`.
    async fn proved(&self, fresh: Duration) -> Result<Credentials, SourceError> {
        self.setup.client.prove(fresh).await.map_err(|error| {
            let Verdict { class, reason, message } = classify(&error, Doing::Other);
            if class == Class::Block { SourceError::Refused { reason, message } } else { SourceError::Unreachable { reason, message } }
        })
    }

    async fn disk_at(&self, snapshot: &Snapshot, disk: DiskKey, credentials: &Credentials) -> Result<DiskAt, SourceError> {
        let source_error = |error| match error {
            SnapshotError::Unreachable { reason, message } | SnapshotError::Busy { reason, message } => {
                SourceError::Unreachable { reason, message }
            }
            SnapshotError::Refused { reason, message } => SourceError::Refused { reason, message },
            SnapshotError::Gone(message) => SourceError::Refused { reason: Reason::VmNotFound, message },
        };
        let reference = MoRef::snapshot(&snapshot.reference);
        let taken = self.taken(&reference).await.map_err(source_error)?;
        let taken = taken.ok_or_else(|| SourceError::Unreachable {
            reason: Reason::SnapshotLost,
            message: format!("the snapshot {reference} is gone"),
        })?;
        let found = taken.devices.disk(disk.0);
        let found = found.ok_or_else(|| SourceError::Refused {
            reason: Reason::DiskMissing,
            message: format!("the snapshot {reference} holds no disk with the key {disk}"),
        })?;
        let vm = self.steadily(|| self.control.vm()).await.map_err(source_error)?;
        let thumbprint = self.setup.client.server_thumbprint();
        let thumbprint = thumbprint.ok_or_else(|| SourceError::unreachable("vCenter has shown no certificate yet"))?;
        let (server, port) = server(&self.setup.url).ok_or_else(|| SourceError::Refused {
            reason: Reason::ConfigInvalid,
            message: format!("{} is not the URL of a vCenter", self.setup.url),
        })?;
        Ok(DiskAt {
            server,
            port,
            user: credentials.user.clone(),
            password: credentials.password.clone(),
            thumbprint: thumbprint.to_string(),
            vm: vm.id().to_owned(),
            snapshot: snapshot.reference.clone(),
            file: found.backing.file().to_owned(),
        })
    }
}

#[async_trait]
impl SnapshotControl for VcenterControl {
    async fn find(&self, _: VmId) -> Result<Vec<Found>, SnapshotError> {
        let found = match self.control.find().await.map_err(|failure| self.failed(&failure)) {
            // Should it be registered anew with one of ours, the operator removes that before the next cycle.
            Err(SnapshotError::Gone(_)) => return Ok(Vec::new()),
            found => found?,
        };
        let mut all = Vec::new();
        for found in found {
            if let Some(taken) = self.taken(&found.snapshot).await? {
                if found.mark.of == self.setup.of {
                    self.tell_taken(found.name, &taken);
                }
                all.push(Found { of: found.mark.of, snapshot: baseline::note(&taken) });
            }
        }
        Ok(all)
    }

    async fn take(&self, of: CycleId) -> Result<Snapshot, SnapshotError> {
        self.reporter.tell(&ReportEvent::Taking);
        let mark = Mark { owner: self.setup.owner.clone(), of };
        let taken = self.control.take(&mark).await.map_err(|failure| self.failed(&failure))?;
        self.tell_taken(mark.name(), &taken);
        Ok(baseline::note(&taken))
    }

    async fn stands(&self, snapshot: &Snapshot) -> Result<bool, SnapshotError> {
        let reference = MoRef::snapshot(&snapshot.reference);
        {
            let mut known = self.known.lock().await;
            if !known.contains(&snapshot.reference) {
                if let Some(lineage) = baseline::lineage(snapshot) {
                    self.control.remember(&reference, &lineage).await;
                }
                known.push(snapshot.reference.clone());
            }
        }
        let standing = match self.steadily(|| self.control.stands(&reference)).await {
            Err(SnapshotError::Gone(_)) => return Ok(false),
            standing => standing?,
        };
        Ok(match standing {
            Standing::Stands(_) | Standing::Moved(_) => true,
            Standing::Lost(loss, why) => {
                tracing::warn!(snapshot = %reference, ?loss, "{why}");
                self.reporter.tell(&ReportEvent::Waiting { reason: Reason::SnapshotLost, message: why });
                false
            }
        })
    }

    async fn changed(&self, snapshot: &Snapshot, disk: DiskKey, since: &ChangeId) -> Result<Changes, SnapshotError> {
        if self.setup.full.contains(&disk) {
            self.reporter.tell(&ReportEvent::Full { disk, reason: None });
            return Ok(Changes::Unknown(None));
        }
        let Some(since) = baseline::read(since) else {
            let reason = Some(Reason::ChangesUnknown);
            self.reporter.tell(&ReportEvent::Full { disk, reason });
            return Ok(Changes::Unknown(reason));
        };
        let reference = MoRef::snapshot(&snapshot.reference);
        Ok(match self.steadily(|| self.control.changed(&reference, disk.0, &since)).await? {
            changes::Changes::Areas(areas) => Changes::Areas(areas),
            changes::Changes::Unknown(why) => {
                tracing::info!(%disk, "compared in full: {why}");
                let reason = Some(why.reason());
                self.reporter.tell(&ReportEvent::Full { disk, reason });
                Changes::Unknown(reason)
            }
        })
    }

    async fn open(&self, snapshot: &Snapshot, disk: DiskKey) -> Result<Arc<dyn DiskSource>, SourceError> {
        let clock = self.setup.client.clock().clone();
        let old = self.open.lock().await.remove(&disk);
        if let Some(old) = old {
            old.end().await;
        }
        let (until, mut tried) = (clock.monotonic() + BUSY, 0);
        loop {
            let (error, wait) = match self.open_once(snapshot, disk, &clock).await {
                Ok(source) => {
                    self.open.lock().await.insert(disk, source.session());
                    return Ok(Arc::new(source));
                }
                Err(error @ SourceError::Busy(_)) if clock.monotonic() < until => (error, BUSY_PAUSE),
                Err(error @ SourceError::Unreachable { .. }) if tried + 1 < TRIES => {
                    tried += 1;
                    (error, pause(tried))
                }
                Err(error) => return Err(error),
            };
            self.reporter.tell(&ReportEvent::Waiting { reason: error.reason(), message: format!("disk {disk}: {error}") });
            clock.sleep(wait).await;
        }
    }

    async fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        // A removal under an open disk waits for it, or fails by it.
        self.close().await;
        let reference = snapshot.reference.clone();
        self.reporter.tell(&ReportEvent::Releasing { reference: reference.clone() });
        match self.control.release(&MoRef::snapshot(&reference)).await.map_err(|failure| self.failed(&failure)) {
            Ok(()) | Err(SnapshotError::Gone(_)) => {}
            Err(error) => return Err(error),
        }
        self.reporter.tell(&ReportEvent::Released { reference });
        Ok(())
    }
}

/// True where asking again soon may help. A snapshot that is gone stays gone: whoever asks has to learn of it.
fn may_pass(verdict: &Verdict) -> bool {
    verdict.class == Class::Retry && verdict.reason != Reason::SnapshotLost
}

/// Name and port of a URL; the port where it is not HTTPS's own.
fn server(url: &str) -> Option<(String, Option<u16>)> {
    let url = Url::parse(url).ok()?;
    Some((url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port()))
}

fn told(note: Note) -> ReportEvent {
    match note {
        Note::Task(Progress::Running { task, name, percent }) => ReportEvent::Task { id: task.id().to_owned(), method: name, percent },
        Note::Task(Progress::Stalled { task, name, since, .. }) => {
            let message = format!("{name} ({task}) has not moved for {} minutes; it is waited for", since.as_secs() / 60);
            ReportEvent::Waiting { reason: Reason::SourceBusy, message }
        }
        Note::Waiting { reason, message, .. } => ReportEvent::Waiting { reason, message },
        Note::NotQuiesced { message } => ReportEvent::Waiting { reason: Reason::QuiesceFailed, message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_port_of_a_vcenter() {
        for (url, expected) in [
            ("https://vcenter.example.com", Some(("vcenter.example.com", None))),
            ("https://10.231.0.2:8443/", Some(("10.231.0.2", Some(8443)))),
            ("https://[fd00::1]", Some(("fd00::1", None))),
            ("nonsense", None),
        ] {
            assert_eq!(server(url), expected.map(|(host, port): (&str, _)| (host.to_owned(), port)), "{url}");
        }
    }

    #[test]
    fn a_snapshot_that_is_gone_is_not_waited_for() {
        let verdict = |class, reason| Verdict { class, reason, message: String::new() };
        assert!(may_pass(&verdict(Class::Retry, Reason::Unreachable)));
        assert!(!may_pass(&verdict(Class::Retry, Reason::SnapshotLost)));
        assert!(!may_pass(&verdict(Class::Block, Reason::PrivilegesMissing)));
    }
}
