//! The protocol of snapshots.

use std::time::Duration;

use blocklog::clock::{Clock, SystemClock};
use reasons::Reason;
use serde_json::{Value, json};
use vsphere::{
    MoRef,
    methods::vm::{create_snapshot_ex, remove_snapshot},
    session::Call,
    snapshot::{
        Note,
        control::{Control, Failure, Settings, Taken},
        standing::{Loss, Standing},
        take::Policy,
    },
    tasks::{Outcome, Patience, Progress},
    tracking::Step,
};

use crate::fixture::{Simulator, vm};

#[tokio::test]
async fn a_snapshot_is_taken_found_watched_and_released() {
    let simulator =
        Simulator::start(&[vm("a", json!({"disks": [{"size": "64MiB"}, {"size": "32MiB", "mode": "independent_persistent"}]}))]);
    let control = simulator.control("a").await;
    assert_eq!(control.find().await.unwrap(), []);
    let taken = control.take(&control.mark(3)).await.unwrap();
    // The independent disk takes no part in it.
    let note = taken.note();
    assert_eq!(note.change_ids.len(), 1);
    assert!(note.change_ids.values().all(Option::is_some));
    assert_eq!(simulator.snapshots("a").await, [control.mark(3).name()]);

    // Another worker, that knows nothing: it finds it, and adopts it instead of taking a second.
    let successor = simulator.control("a").await;
    let found = successor.find().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].snapshot, &found[0].mark), (&taken.snapshot, &control.mark(3)));
    // Whoever has not taken it does not know what the VM was then.
    assert_eq!(successor.take(&control.mark(3)).await.unwrap(), Taken { powered_off: None, ..taken.clone() });
    assert!(matches!(successor.stands(&taken.snapshot).await.unwrap(), Standing::Stands(_)));
    // Never two own ones.
    let second = successor.take(&control.mark(4)).await.unwrap_err();
    assert_eq!(second.verdict().reason, Reason::PreviousCycleOpen);

    successor.release(&taken.snapshot).await.unwrap();
    assert_eq!(simulator.snapshots("a").await, Vec::<String>::new());
    assert!(matches!(control.stands(&taken.snapshot).await.unwrap(), Standing::Lost(Loss::Gone, _)));
    control.release(&taken.snapshot).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_is_being_taken_is_adopted() {
    let simulator = Simulator::with(&[vm("a", json!({}))], json!({"taskTimes": {"CreateSnapshotEx_Task": "1500ms"}}));
    let control = simulator.control("a").await;
    let mark = control.mark(1);
    // A predecessor asked for it and died before it could note the task.
    let vm = control.vm().await.unwrap();
    simulator.client().start(&create_snapshot_ex(&vm, &mark.name(), &mark.description(), None)).await.unwrap();
    let found = control.find().await.unwrap();
    assert_eq!(found.iter().map(|found| &found.mark).collect::<Vec<_>>(), [&mark]);
    let taken = control.take(&mark).await.unwrap();
    assert_eq!(taken.snapshot, found[0].snapshot);
    assert_eq!(simulator.calls("CreateSnapshotEx_Task").await, 1);
}

#[tokio::test]
async fn a_removal_that_crawls_is_waited_for_and_told() {
    let simulator = Simulator::with(&[vm("a", json!({}))], json!({"taskTimes": {"RemoveSnapshot_Task": "3s"}}));
    let control = simulator.control("a").await;
    let taken = control.take(&control.mark(1)).await.unwrap();
    let successor = simulator.control("a").await;
    let done = std::cell::Cell::new(false);
    let (released, seen) = tokio::join!(
        async {
            let result = control.release(&taken.snapshot).await;
            done.set(true);
            result
        },
        async {
            let mut seen = Vec::new();
            while !done.get() {
                seen.push(match successor.stands(&taken.snapshot).await.unwrap() {
                    Standing::Lost(loss, _) => Some(loss),
                    _ => None,
                });
            }
            seen
        }
    );
    released.unwrap();
    // From the moment on that its removal begins nothing read from it counts, wherever in the tree it still is.
    let lost = seen.iter().position(Option::is_some).unwrap();
    assert!(seen[lost..].iter().all(Option::is_some), "{seen:?}");
    assert!(seen.contains(&Some(Loss::BeingRemoved)), "{seen:?}");
    assert!(control.notes().iter().any(|note| matches!(note, Note::Task(Progress::Running { .. }))), "{:?}", control.notes());
}

#[tokio::test]
async fn consolidation_is_asked_for_until_it_works() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let control = simulator.control("a").await;
    let taken = control.take(&control.mark(1)).await.unwrap();
    simulator.put("/vms/a/consolidation", json!({"tries": 3})).await;
    control.release(&taken.snapshot).await.unwrap();
    assert_eq!(simulator.get("/vms/a").await["consolidationNeeded"], json!(false));
    assert_eq!(simulator.calls("ConsolidateVMDisks_Task").await, 4);
    assert!(control.waited().contains(&Reason::SourceBusy), "{:?}", control.notes());
}

#[tokio::test]
async fn none_is_taken_before_the_last_is_consolidated() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let control = simulator.control("a").await;
    simulator.put("/vms/a/consolidation", json!({"tries": 1})).await;
    let foreign = simulator.post("/vms/a/snapshots", json!({"name": "x", "description": ""})).await;
    simulator.delete(&format!("/snapshots/{}", foreign["ref"].as_str().unwrap())).await;
    assert_eq!(simulator.get("/vms/a").await["consolidationNeeded"], json!(true));
    control.take(&control.mark(1)).await.unwrap();
    assert_eq!(simulator.calls("ConsolidateVMDisks_Task").await, 2);
    assert_eq!(simulator.get("/vms/a").await["consolidationNeeded"], json!(false));
}

#[tokio::test]
async fn what_is_not_ours_is_not_touched() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let control = simulator.control("a").await;
    let mine = control.mark(1);
    let foreign = simulator.post("/vms/a/snapshots", json!({"name": "before the upgrade", "description": ""})).await;
    // Of another cluster, and one whose description somebody has edited.
    let mut other = mine.clone();
    other.owner.cluster = "another".into();
    let other = simulator.post("/vms/a/snapshots", json!({"name": other.name(), "description": other.description()})).await;
    let edited = simulator.post("/vms/a/snapshots", json!({"name": mine.name(), "description": "keep this"})).await;
    assert_eq!(control.find().await.unwrap(), []);
    for snapshot in [foreign, other, edited] {
        let failure = control.release(&MoRef::snapshot(snapshot["ref"].as_str().unwrap())).await.unwrap_err();
        assert!(matches!(&failure, Failure::Person(verdict) if verdict.reason == Reason::SourceRefused), "{failure}");
    }
    let taken = control.take(&mine).await.unwrap();
    assert_eq!(taken.lineage.path.len(), 3);
    control.release(&taken.snapshot).await.unwrap();
    assert_eq!(simulator.snapshots("a").await.len(), 3);
    assert_eq!(simulator.calls("RemoveSnapshot_Task").await, 1);
}

#[tokio::test]
async fn an_administrator_at_work_is_seen() {
    let simulator = Simulator::start(&[vm("a", json!({})), vm("b", json!({})), vm("c", json!({}))]);
    // Removes ours.
    let control = simulator.control("a").await;
    let taken = control.take(&control.mark(1)).await.unwrap();
    simulator.delete(&format!("/snapshots/{}", taken.snapshot)).await;
    assert!(matches!(control.stands(&taken.snapshot).await.unwrap(), Standing::Lost(Loss::Gone, _)));
    // Goes back to an earlier one, with ours standing aside.
    let control = simulator.control("b").await;
    let before = simulator.post("/vms/b/snapshots", json!({"name": "before", "description": ""})).await;
    let taken = control.take(&control.mark(1)).await.unwrap();
    simulator.post(&format!("/snapshots/{}/revert", before["ref"].as_str().unwrap()), json!({})).await;
    assert!(matches!(control.stands(&taken.snapshot).await.unwrap(), Standing::Lost(Loss::Reverted, _)));
    control.release(&taken.snapshot).await.unwrap();
    // Removes one below ours: its files were merged.
    let control = simulator.control("c").await;
    let below = simulator.post("/vms/c/snapshots", json!({"name": "below", "description": ""})).await;
    let taken = control.take(&control.mark(1)).await.unwrap();
    assert!(matches!(control.stands(&taken.snapshot).await.unwrap(), Standing::Stands(_)));
    simulator.delete(&format!("/snapshots/{}", below["ref"].as_str().unwrap())).await;
    let standing = control.stands(&taken.snapshot).await.unwrap();
    assert!(matches!(standing, Standing::Lost(Loss::ChainChanged, _)), "{standing:?}");
    // Moves the VM's disks: what was read is sound.
    let taken = {
        control.release(&taken.snapshot).await.unwrap();
        control.take(&control.mark(2)).await.unwrap()
    };
    simulator.post("/vms/c/migrate", json!({"host": "esx-2"})).await;
    assert!(matches!(control.stands(&taken.snapshot).await.unwrap(), Standing::Stands(_)));
}

#[tokio::test]
async fn a_guest_that_does_not_come_to_rest() {
    let simulator = Simulator::start(&[vm("a", json!({"tools": "running"}))]);
    let quiesced = |policy| move |settings: Settings| Settings { policy, ..settings };
    let fault = json!({"method": "CreateSnapshotEx_Task", "on": "task", "fault": "ApplicationQuiesceFault", "count": 1});
    simulator.post("/faults", fault.clone()).await;
    let tries = simulator.control_with("a", simulator.client(), quiesced(Policy::Try)).await;
    let taken = tries.take(&tries.mark(1)).await.unwrap();
    assert!(!taken.quiesced && tries.notes().iter().any(|note| matches!(note, Note::NotQuiesced { .. })));
    tries.release(&taken.snapshot).await.unwrap();
    let taken = tries.take(&tries.mark(2)).await.unwrap();
    assert!(taken.quiesced);
    tries.release(&taken.snapshot).await.unwrap();

    simulator.post("/faults", fault).await;
    let requires = simulator.control_with("a", simulator.client(), quiesced(Policy::Require)).await;
    assert_eq!(requires.take(&requires.mark(3)).await.unwrap_err().verdict().reason, Reason::QuiesceFailed);
    simulator.put("/vms/a/tools", json!({"state": "notRunning"})).await;
    assert_eq!(requires.take(&requires.mark(3)).await.unwrap_err().verdict().reason, Reason::ToolsNotRunning);
    assert_eq!(simulator.snapshots("a").await, Vec::<String>::new());
}

#[tokio::test]
async fn others_at_work_are_waited_for() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let control = simulator.control("a").await;
    let inject = async |method: &str, on: &str, fault: &str| {
        simulator.post("/faults", json!({"method": method, "on": on, "fault": fault, "count": 2})).await;
    };
    inject("CreateSnapshotEx_Task", "call", "TaskInProgress").await;
    let taken = control.take(&control.mark(1)).await.unwrap();
    inject("RemoveSnapshot_Task", "task", "TaskInProgress").await;
    control.release(&taken.snapshot).await.unwrap();
    assert_eq!(control.waited().iter().filter(|reason| **reason == Reason::SourceBusy).count(), 6, "{:?}", control.notes());
    inject("CreateSnapshotEx_Task", "call", "MethodDisabled").await;
    control.take(&control.mark(2)).await.unwrap();
    assert_eq!(control.waited().iter().filter(|reason| **reason == Reason::SourceBusy).count(), 8, "{:?}", control.notes());
    assert_eq!(simulator.snapshots("a").await.len(), 1);
}

#[tokio::test]
async fn what_only_a_person_can_mend_is_said_at_once() {
    let simulator = Simulator::start(&[vm("a", json!({}))]);
    let powerless = simulator.control_with("a", simulator.client_as("no-snapshots", "sandbox"), |settings| settings).await;
    let failure = powerless.take(&powerless.mark(1)).await.unwrap_err();
    assert!(matches!(failure, Failure::Person(_)));
    assert_eq!(failure.verdict().reason, Reason::PrivilegesMissing);
    assert!(failure.to_string().contains("VirtualMachine.State.CreateSnapshot"), "{failure}");

    let control = simulator.control("a").await;
    control.view().await.unwrap();
    simulator.delete("/vms/a").await;
    assert_eq!(control.view().await.unwrap_err().verdict().reason, Reason::VmNotFound);
}

#[tokio::test]
async fn a_session_that_ends_in_between_is_nobodys_business() {
    let simulator = Simulator::with(&[vm("a", json!({}))], json!({"taskTimes": {"RemoveSnapshot_Task": "1s"}}));
    let control = simulator.control("a").await;
    let taken = control.take(&control.mark(1)).await.unwrap();
    simulator.delete("/sessions").await;
    assert!(matches!(control.stands(&taken.snapshot).await.unwrap(), Standing::Stands(_)));
    let ended = async {
        for _ in 0..3 {
            simulator.delete("/sessions").await;
            simulator.get("/vms").await;
        }
    };
    let (released, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(30), control.release(&taken.snapshot)), ended);
    released.unwrap().unwrap();
}

#[tokio::test]
async fn tracking_is_switched_on_and_made_to_work() {
    let simulator = Simulator::start(&[vm("a", json!({"cbt": false})), vm("b", json!({"cbt": false}))]);
    let control = simulator.control("a").await;
    let incarnation = control.mark(1).of.incarnation;
    assert_eq!(control.switch_tracking_on(incarnation).await.unwrap(), Step::Active);
    assert_eq!(control.switch_tracking_on(incarnation).await.unwrap(), Step::Active);
    assert_eq!((simulator.calls("ReconfigVM_Task").await, simulator.snapshots("a").await.len()), (1, 0));
    let taken = control.take(&control.mark(1)).await.unwrap();
    assert!(taken.note().change_ids.values().all(Option::is_some));
    // Not while somebody's snapshot stands.
    let control = simulator.control("b").await;
    let foreign: Value = simulator.post("/vms/b/snapshots", json!({"name": "before", "description": ""})).await;
    assert!(matches!(control.switch_tracking_on(incarnation).await.unwrap(), Step::Unable(_)));
    assert_eq!(simulator.snapshots("b").await, [foreign["name"].as_str().unwrap()]);
}

#[tokio::test]
async fn a_removal_that_a_predecessor_began_is_not_asked_for_again() {
    let simulator = Simulator::with(&[vm("a", json!({}))], json!({"taskTimes": {"RemoveSnapshot_Task": "1500ms"}}));
    let control = simulator.control("a").await;
    let taken = control.take(&control.mark(1)).await.unwrap();
    // It died before it could note the task.
    simulator.client().start(&remove_snapshot(&taken.snapshot)).await.unwrap();
    let successor = simulator.control("a").await;
    successor.release(&taken.snapshot).await.unwrap();
    assert_eq!(simulator.calls("RemoveSnapshot_Task").await, 1);
    assert!(successor.notes().iter().any(|note| matches!(note, Note::Task(Progress::Running { .. }))), "{:?}", successor.notes());
    assert_eq!(simulator.snapshots("a").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_vm_that_is_registered_anew_or_renamed_is_the_same_one() {
    let simulator = Simulator::start(&[vm("a", json!({"power": "off"}))]);
    let control = simulator.control("a").await;
    let before = control.vm().await.unwrap();
    control.view().await.unwrap();
    simulator.put("/vms/a/name", json!({"name": "renamed"})).await;
    let administrator = simulator.client_as("administrator", "sandbox");
    let told = administrator.read(&before, &["parent", "resourcePool", "config.files.vmPathName"]).await.unwrap();
    let reference = |path: &str| MoRef::read(told.property(path).unwrap()).unwrap();
    let (folder, pool) = (reference("parent"), reference("resourcePool"));
    let path = told.property("config.files.vmPathName").unwrap().text.clone();
    administrator.tell(&Call::new("UnregisterVM", &before, |_| {})).await.unwrap();
    assert_eq!(control.view().await.unwrap_err().verdict().reason, Reason::VmNotFound);
    let register = Call::new("RegisterVM_Task", &folder, |w| {
        w.text("path", &path);
        w.flag("asTemplate", false);
        w.reference("pool", &pool);
    });
    let task = administrator.start(&register).await.unwrap();
    assert!(matches!(administrator.wait(&task, Patience::default(), &mut |_| {}).await.unwrap(), Outcome::Done(_)));
    // The reference that was known leads nowhere; the instance UUID does.
    let taken = control.take(&control.mark(1)).await.unwrap();
    assert_ne!(control.vm().await.unwrap(), before);
    control.release(&taken.snapshot).await.unwrap();
    // The same instance UUID in another vCenter is another VM.
    let mut owning = control.owning.clone();
    owning.vm.vcenter = uuid::Uuid::from_u128(9);
    let elsewhere = Control::new(simulator.client(), owning, Settings::default(), std::sync::Arc::new(|_| {}));
    assert_eq!(elsewhere.vm().await.unwrap_err().verdict().reason, Reason::OtherVCenter);
}

/// vCenter calls the state of every snapshot without memory `poweredOff`.
#[tokio::test]
async fn a_snapshot_knows_whether_its_vm_was_off() {
    let simulator =
        Simulator::start(&[vm("on", json!({})), vm("off", json!({"power": "off"})), vm("suspended", json!({"power": "suspended"}))]);
    for (name, was_off) in [("on", false), ("off", true), ("suspended", false)] {
        let control = simulator.control(name).await;
        assert_eq!(control.take(&control.mark(1)).await.unwrap().powered_off, Some(was_off), "{name}");
        // Whoever finds it, and has not taken it, does not know what the VM was then.
        assert_eq!(control.take(&control.mark(1)).await.unwrap().powered_off, None, "{name}");
    }
}

#[tokio::test]
async fn a_vm_that_is_started_under_its_snapshot_was_not_off() {
    let simulator = Simulator::start(&[vm("a", json!({"power": "off"}))]);
    let control = simulator.control("a").await;
    let task = json!({"on": "task", "method": "CreateSnapshotEx_Task", "delayMs": 1500, "count": 1});
    simulator.post("/faults", task).await;
    let start = async {
        SystemClock::new().sleep(Duration::from_millis(500)).await;
        simulator.put("/vms/a/power", json!({"state": "on"})).await;
    };
    let mark = control.mark(1);
    let (taken, ()) = tokio::join!(control.take(&mark), start);
    assert_eq!(taken.unwrap().powered_off, Some(false));
}
