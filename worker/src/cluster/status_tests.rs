use blocklog::{
    LogError,
    cycle::{DiskProgress, Epochs, Figures, Phase},
    ids::{Cycle, CycleId, Digest, Incarnation, Owner, Turn, VmId},
    store::StoreError,
};
use crds::replication_cycle::CyclePhase;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

const DISK: DiskKey = DiskKey(2000);

fn taken(reference: &str) -> ReportEvent {
    ReportEvent::Taken {
        name: format!("hawser-7-{reference}"),
        reference: reference.to_owned(),
        taken: at(3),
        quiesced: false,
        powered_off: Some(true),
    }
}

fn reading(changed: u64, mode: Mode) -> ReportEvent {
    ReportEvent::Event(Event::Reading { disk: DISK, mode, changed })
}

fn read(read: u64, uploaded: u64) -> ReportEvent {
    ReportEvent::Event(Event::Read { disk: DISK, step: Figures { read, uploaded, ..Figures::default() } })
}

fn sent() -> Result<End, GatewayError> {
    Ok(End::Sent { manifest: Digest([7; 32]) })
}

fn phase(report: &Report) -> CyclePhase {
    let (source, conditions) = report.status(&[], Some(1), at(99));
    ReplicationCycleStatus { source: Some(source), conditions, ..ReplicationCycleStatus::default() }.derive_phase()
}

fn conditions(report: &Report) -> Vec<(String, String, String)> {
    let (_, conditions) = report.status(&[], Some(1), at(99));
    conditions.into_iter().map(|one| (one.type_, one.status, one.reason)).collect()
}

fn is(report: &Report, transferred: (&str, &str), released: (&str, &str)) {
    let expect = [("Transferred", transferred), ("SourceReleased", released)];
    let expect = expect.map(|(of, (status, reason))| (of.to_owned(), status.to_owned(), reason.to_owned()));
    assert_eq!(conditions(report), expect);
}

#[test]
fn a_cycle_from_beginning_to_end() {
    let mut report = Report::begin("gateway-0", None, at(1));
    assert_eq!(phase(&report), CyclePhase::Pending);
    is(&report, ("Unknown", "Pending"), ("Unknown", "Pending"));
    report.take(&ReportEvent::Taking, at(2));
    assert_eq!(phase(&report), CyclePhase::Snapshot);
    report.take(&taken("snapshot-1"), at(3));
    assert_eq!(phase(&report), CyclePhase::Transfer);
    report.take(&reading(4000, Mode::Changed), at(3));
    report.take(&read(1000, 300), at(4));
    is(&report, ("Unknown", "Transferring"), ("Unknown", "Transferring"));
    let (source, _) = report.status(&[], None, at(4));
    assert_eq!((source.changed_bytes, source.read_bytes, source.uploaded_bytes), (Some(4000), Some(1000), Some(300)));
    assert_eq!(source.progress.map(|progress| (progress.percent, progress.done_bytes)), Some((25, 1000)));
    assert_eq!((source.epoch, source.worker.as_deref()), (Some(1), Some("gateway-0")));

    report.take(&ReportEvent::Event(Event::Sent), at(5));
    report.take(&ReportEvent::Releasing { reference: "snapshot-1".into() }, at(5));
    assert_eq!(phase(&report), CyclePhase::Applying);
    is(&report, ("True", "AsExpected"), ("Unknown", "RemovingSnapshot"));
    report.take(&ReportEvent::Task { id: "task-9".into(), method: "ConsolidateVMDisks_Task".into(), percent: Some(40) }, at(6));
    is(&report, ("True", "AsExpected"), ("Unknown", "Consolidating"));
    report.take(&ReportEvent::Released { reference: "snapshot-1".into() }, at(7));
    report.ended(&sent(), at(8));
    is(&report, ("True", "AsExpected"), ("True", "AsExpected"));
    let (source, _) = report.status(&[], None, at(9));
    assert_eq!(source.manifest, Some("07".repeat(32)));
    assert_eq!((source.ended, source.tasks.len()), (Some(Time(at(5))), 0));
    assert_eq!(source.snapshot.map(|snapshot| (snapshot.state, snapshot.released)), Some((SnapshotState::Released, Some(Time(at(7))))));
    assert_eq!(source.progress.map(|progress| (progress.percent, progress.bytes_per_second)), Some((100, None)));
}

#[test]
fn what_keeps_a_snapshot_is_told_by_the_condition_that_it_keeps() {
    let mut report = Report::begin("gateway-0", None, at(1));
    report.take(&taken("snapshot-1"), at(2));
    report.take(&ReportEvent::Waiting { reason: Reason::DatastoreFull, message: "no room".into() }, at(3));
    is(&report, ("Unknown", "DatastoreFull"), ("Unknown", "Transferring"));
    report.take(&read(1, 1), at(4));
    is(&report, ("Unknown", "Transferring"), ("Unknown", "Transferring"));
    report.take(&ReportEvent::Event(Event::Sent), at(5));
    report.take(&ReportEvent::Waiting { reason: Reason::SourceUnreachable, message: "503".into() }, at(5));
    is(&report, ("True", "AsExpected"), ("False", "SourceUnreachable"));
    report.take(&ReportEvent::Releasing { reference: "snapshot-1".into() }, at(5));
    is(&report, ("True", "AsExpected"), ("Unknown", "RemovingSnapshot"));
    report.take(&ReportEvent::Waiting { reason: Reason::SourceUnreachable, message: "a proxy has it".into() }, at(6));
    is(&report, ("True", "AsExpected"), ("False", "SourceUnreachable"));
    let (_, conditions) = report.status(&[], None, at(7));
    assert!(
        conditions[1].message.contains("hawser-7-snapshot-1 (snapshot-1)") && conditions[1].message.contains("a proxy"),
        "{conditions:?}"
    );
    report.ended(&Err(crate::snapshot::SnapshotError::unreachable("x").into()), at(8));
    let (source, _) = report.status(&[], None, at(8));
    assert_eq!(source.snapshot.and_then(|snapshot| snapshot.release_failures), Some(1));
}

/// A removal may run for hours: meanwhile nobody is to look for what has failed before it.
#[test]
fn a_task_that_gets_on_clears_the_failures_before_it() {
    let mut report = Report::begin("gateway-0", None, at(0));
    let busy = |message: &str| ReportEvent::Waiting { reason: Reason::SourceBusy, message: message.into() };
    let task = |method: &str| ReportEvent::Task { id: "task-1".into(), method: method.into(), percent: Some(5) };
    report.take(&ReportEvent::Taking, at(1));
    report.take(&busy("another task works on the VM"), at(2));
    is(&report, ("Unknown", "SourceBusy"), ("Unknown", "Pending"));
    report.take(&task("CreateSnapshotEx_Task"), at(3));
    is(&report, ("Unknown", "TakingSnapshot"), ("Unknown", "Pending"));
    report.take(&taken("snapshot-1"), at(4));
    report.take(&ReportEvent::Event(Event::Sent), at(5));
    report.take(&ReportEvent::Releasing { reference: "snapshot-1".into() }, at(5));
    report.take(&busy("the disks are locked"), at(6));
    is(&report, ("True", "AsExpected"), ("False", "SourceBusy"));
    report.take(&task("RemoveSnapshot_Task"), at(7));
    is(&report, ("True", "AsExpected"), ("Unknown", "RemovingSnapshot"));
}

/// Each step may last long after an outage that it began in.
#[test]
fn a_log_store_that_answers_again_is_not_what_is_waited_for() {
    let outage = || ReportEvent::Event(Event::Waiting { reason: Reason::LogStoreUnreachable, message: "no route".into() });
    let answered = ReportEvent::Event(Event::Answered);
    let mut report = Report::begin("gateway-0", None, at(0));
    let mut meets_one = |step: Option<ReportEvent>, cut: [(&str, &str); 2], after: [(&str, &str); 2]| {
        step.into_iter().for_each(|told| report.take(&told, at(1)));
        report.take(&outage(), at(2));
        is(&report, cut[0], cut[1]);
        report.take(&answered, at(3));
        is(&report, after[0], after[1]);
    };
    let (gone, pending, transferring) = (("Unknown", "LogStoreUnreachable"), ("Unknown", "Pending"), ("Unknown", "Transferring"));
    let (complete, kept) = (("True", "AsExpected"), ("False", "LogStoreUnreachable"));
    meets_one(None, [gone, pending], [pending, pending]);
    meets_one(Some(ReportEvent::Taking), [gone, pending], [("Unknown", "TakingSnapshot"), pending]);
    meets_one(Some(taken("snapshot-1")), [gone, transferring], [transferring, transferring]);
    meets_one(Some(ReportEvent::Event(Event::Sent)), [complete, kept], [complete, transferring]);
    let releasing = ReportEvent::Releasing { reference: "snapshot-1".into() };
    meets_one(Some(releasing), [complete, kept], [complete, ("Unknown", "RemovingSnapshot")]);
    // That the outage has outlasted the lease is no news; without one it is.
    let lost = || Err(LogError::Store(StoreError::LeaseLost("state".into())).into());
    report.take(&outage(), at(3));
    report.ended(&lost(), at(3));
    is(&report, complete, kept);
    report.take(&answered, at(3));
    report.ended(&lost(), at(3));
    is(&report, complete, ("False", "LeaseLost"));
    // What else was in the way still is.
    report.take(&ReportEvent::Waiting { reason: Reason::SourceBusy, message: "the disks are locked".into() }, at(4));
    report.take(&answered, at(5));
    is(&report, complete, ("False", "SourceBusy"));
}

#[test]
fn an_error_decides_nothing_and_a_failure_does() {
    let mut report = Report::begin("gateway-0", None, at(1));
    let message = "CreateSnapshot_Task: no".to_owned();
    let refused = crate::snapshot::SnapshotError::Refused { reason: Reason::PrivilegesMissing, message };
    report.ended(&Err(refused.into()), at(2));
    is(&report, ("Unknown", "PrivilegesMissing"), ("Unknown", "Pending"));
    report.ended(&Ok(End::Failed { reason: Reason::SnapshotLost }), at(3));
    is(&report, ("False", "SnapshotLost"), ("True", "AsExpected"));
    assert_eq!(phase(&report), CyclePhase::Failed);
    let mut report = Report::begin("gateway-0", None, at(1));
    report.ended(&Ok(End::Failed { reason: Reason::Cancelled }), at(3));
    assert_eq!(phase(&report), CyclePhase::Cancelled);
}

#[test]
fn what_was_sent_stays_sent_when_its_gateway_is_another_one() {
    let mut report = Report::begin("gateway-0", None, at(1));
    report.take(&ReportEvent::Event(Event::Sent), at(2));
    let (source, conditions) = report.status(&[], None, at(2));
    let old = ReplicationCycleStatus { source: Some(source), conditions, ..ReplicationCycleStatus::default() };
    let mut successor = Report::begin("gateway-1", Some(&old), at(5));
    is(&successor, ("True", "AsExpected"), ("Unknown", "Pending"));
    successor.over(at(6));
    is(&successor, ("True", "AsExpected"), ("True", "AsExpected"));
    let mut lost = Report::begin("gateway-1", None, at(5));
    lost.over(at(6));
    is(&lost, ("False", "BlobMissing"), ("True", "AsExpected"));
}

#[test]
fn a_successor_goes_on_from_the_state() {
    let progress = |figures: Figures, read| DiskProgress { mode: Mode::Changed, runs: Vec::new(), read, figures };
    let mut state = State {
        of: CycleId { vm: VmId { vcenter: Uuid::nil(), instance: Uuid::nil() }, incarnation: Incarnation(Uuid::nil()), cycle: Cycle(7) },
        owner: Owner { cluster: "c".into(), object: "n/o".into() },
        basis: Turn(0),
        phase: Phase::Open,
        epochs: Epochs::default(),
        snapshot: SnapshotNote::Intended,
        disks: [(DISK, progress(Figures { changed: 100, read: 40, uploaded: 30, in_place: 0 }, false))].into(),
    };
    let mut report = Report::begin("gateway-0", None, at(1));
    report.resume(&state);
    assert_eq!(phase(&report), CyclePhase::Snapshot);
    let snapshot = blocklog::cycle::Snapshot { reference: "snapshot-1".into(), taken: at(1), change_ids: BTreeMap::new() };
    state.snapshot = SnapshotNote::Taken(snapshot);
    report.resume(&state);
    report.resume(&state);
    let (source, _) = report.status(&[], None, at(2));
    assert_eq!((source.changed_bytes, source.read_bytes, source.uploaded_bytes), (Some(100), Some(40), Some(30)));
    assert_eq!(source.progress.map(|progress| progress.percent), Some(40));
    state.disks.insert(DISK, progress(Figures { changed: 100, read: 100, uploaded: 30, in_place: 0 }, true));
    report.resume(&state);
    assert_eq!(report.status(&[], None, at(2)).0.progress.map(|progress| progress.percent), Some(100));
}

#[test]
fn anothers_snapshot_is_not_this_ones() {
    let mut report = Report::begin("gateway-0", None, at(1));
    report.take(&taken("snapshot-2"), at(2));
    report.take(&taken("snapshot-1"), at(3));
    report.take(&ReportEvent::Releasing { reference: "snapshot-1".into() }, at(4));
    report.take(&ReportEvent::Released { reference: "snapshot-1".into() }, at(4));
    let (source, _) = report.status(&[], None, at(5));
    let snapshot = source.snapshot.unwrap();
    assert_eq!((snapshot.state, snapshot.mo_ref.as_deref()), (SnapshotState::Taken, Some("snapshot-2")));
}

#[test]
fn why_a_disk_is_compared_in_full_survives_its_gateway() {
    let mut report = Report::begin("gateway-0", None, at(1));
    report.take(&ReportEvent::Full { disk: DISK, reason: Some(Reason::Reverted) }, at(2));
    report.take(&reading(4096, Mode::Full), at(3));
    report.take(&ReportEvent::Event(Event::Reading { disk: DiskKey(2001), mode: Mode::Full, changed: 1 }), at(3));
    let (source, _) = report.status(&[], None, at(4));
    let reasons = |source: &SourceStatus| source.disks.iter().map(|disk| disk.reason.clone().unwrap_or_default()).collect::<Vec<_>>();
    assert_eq!(reasons(&source), ["Reverted", "NoBaseline"]);
    let old = ReplicationCycleStatus { source: Some(source), ..ReplicationCycleStatus::default() };
    let mut successor = Report::begin("gateway-1", Some(&old), at(5));
    successor.take(&reading(4096, Mode::Full), at(6));
    let (source, _) = successor.status(&[], None, at(6));
    assert_eq!((reasons(&source), source.started), (vec!["Reverted".to_owned(), "NoBaseline".to_owned()], Some(Time(at(1)))));
}

#[test]
fn progress_is_written_each_five_seconds_and_edges_at_once() {
    let second = Duration::from_secs(1);
    let (source, conditions) = Report::begin("p", None, at(1)).status(&[], None, at(1));
    let written = Written { at: 10 * second, edges: 3, source, conditions };
    assert_eq!(due(None, 0, News::More, 4 * second), Some(4 * second));
    assert_eq!(due(Some(&written), 3, News::More, 11 * second), Some(15 * second));
    assert_eq!(due(Some(&written), 3, News::More, 17 * second), Some(17 * second));
    assert_eq!(due(Some(&written), 4, News::More, 11 * second), Some(11 * second));
    assert_eq!(due(Some(&written), 3, News::None, 99 * second), None);
    assert_eq!(due(Some(&written), 4, News::None, 99 * second), None);
    assert_eq!(due(Some(&written), 3, News::Words, 11 * second), Some(25 * second));
    assert_eq!(due(Some(&written), 4, News::Words, 11 * second), Some(11 * second));
}

#[test]
fn a_patch_holds_the_gateways_fields_alone() {
    let (source, conditions) = Report::begin("gateway-0", None, at(1)).status(&[], Some(2), at(1));
    let patch = patch("vm-7", Some("u-1"), &source, &conditions);
    let status: Vec<&String> = patch["status"].as_object().unwrap().keys().collect();
    assert_eq!(status, ["conditions", "source"]);
    assert_eq!((patch["metadata"]["uid"].as_str(), patch["kind"].as_str()), (Some("u-1"), Some("ReplicationCycle")));
}

proptest! {
    /// A transfer that waits and goes on, again and again, is no row of edges: only what it comes to is told at once.
    #[test]
    fn edges_are_few(told in proptest::collection::vec(0..4, 0..200)) {
        let mut report = Report::begin("p", None, at(1));
        report.take(&taken("snapshot-1"), at(2));
        let before = report.edges();
        for (n, told) in told.into_iter().enumerate() {
            let told = match told {
                0 => reading(1 << 30, Mode::Full),
                1 => read(4096, 100),
                2 => ReportEvent::Waiting { reason: Reason::SourceUnreachable, message: "x".into() },
                _ => ReportEvent::Task { id: "task-1".into(), method: "CreateSnapshot_Task".into(), percent: Some(3) },
            };
            report.take(&told, at(3 + n as i64));
            let (source, _) = report.status(&[], None, at(300));
            let progress = source.progress.unwrap_or(Progress { percent: 0, done_bytes: 0, total_bytes: 0, bytes_per_second: None });
            prop_assert!((0..=100).contains(&progress.percent) && progress.done_bytes <= progress.total_bytes);
        }
        prop_assert_eq!(report.edges(), before);
    }
}

#[test]
fn what_is_compared_in_full_and_why_is_said_while_it_is() {
    let mut report = Report::begin("gateway-0", None, at(1));
    report.take(&taken("snapshot-1"), at(3));
    report.take(&ReportEvent::Full { disk: DISK, reason: Some(Reason::Reverted) }, at(3));
    report.take(&reading(4000, Mode::Full), at(3));
    let (_, conditions) = report.status(&[], Some(1), at(4));
    assert_eq!(conditions[0].message, "disks are being transferred; compared in full: 2000 (Reverted)");
}

/// Row 39 of docs/pitfalls.md.
#[test]
fn power_of_a_snapshot_that_is_found_again_is_kept() {
    let told = |reference: &str, powered_off| ReportEvent::Taken {
        name: format!("hawser-7-{reference}"),
        reference: reference.to_owned(),
        taken: at(3),
        quiesced: false,
        powered_off,
    };
    let off = |report: &Report| report.status(&[], Some(1), at(9)).0.snapshot.unwrap().powered_off;
    let mut report = Report::begin("gateway-0", None, at(1));
    report.take(&ReportEvent::Taking, at(2));
    report.take(&told("snapshot-1", Some(true)), at(3));
    report.take(&told("snapshot-1", None), at(4));
    assert_eq!(off(&report), Some(true), "by a successor, who knows no better");
    // Another one, taken by nobody knows whom, in the place of the first.
    report.take(&ReportEvent::Taking, at(5));
    report.take(&told("snapshot-2", None), at(6));
    assert_eq!(off(&report), None);
}
