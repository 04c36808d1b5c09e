use crds::{
    Read,
    common::ObjectRef,
    conditions::{self, ConditionType, Finding},
    reasons::Reason,
    replicated_vm::CycleKind,
    replication_cycle::{Allotment, Cancel, CycleDisk, CycleVm, LedgerOwner, ReplicationCycleSpec, ReplicationCycleStatus},
};

use super::{super::shared::is_over, *};

pub(super) fn object(disks: &[(i64, Option<DiskMode>)]) -> ReplicationCycle {
    let spec = ReplicationCycleSpec {
        vm_ref: ObjectRef { name: "web".into() },
        appliance_ref: ObjectRef { name: "site-a".into() },
        cycle: 7,
        incarnation: "33333333-3333-4333-8333-333333333333".into(),
        owner: LedgerOwner { cluster: "demo".into(), object: "apps/web".into() },
        vm: CycleVm {
            vcenter_uuid: "11111111-1111-4111-8111-111111111111".into(),
            instance_uuid: "22222222-2222-4222-8222-222222222222".into(),
            mo_ref: "vm-62".into(),
        },
        kind: CycleKind::Delta,
        basis: 3,
        disks: disks.iter().map(|(key, mode)| CycleDisk { key: *key, capacity_bytes: 4096, mode: *mode }).collect(),
        quiesce: Quiesce::Never,
        sync_now: None,
        worker: Some("gateway-0".into()),
        allotment: Allotment { disks: 4 },
        cancel: None,
    };
    ReplicationCycle::new("web-7", spec)
}

fn want(change: impl FnOnce(&mut ReplicationCycleSpec)) -> Want {
    let mut cycle = object(&[(2000, None)]);
    change(&mut cycle.spec);
    Want::of(&Some(Arc::new(cycle)), "gateway-0")
}

#[test]
fn what_an_object_asks() {
    let cancel = || Some(Cancel { reason: "Stopped".into() });
    assert_eq!(want(|_| {}), Want::Run(4));
    assert_eq!(want(|spec| spec.allotment.disks = 0), Want::Suspend);
    assert_eq!(want(|spec| spec.cancel = cancel()), Want::Cancel(Reason::Stopped));
    // A suspended one is cancelled all the same, and nobody runs what is another's.
    assert_eq!(want(|spec| (spec.allotment.disks, spec.cancel) = (0, cancel())), Want::Cancel(Reason::Stopped));
    assert_eq!(want(|spec| (spec.worker, spec.cancel) = (Some("gateway-1".into()), cancel())), Want::Nothing);
    assert_eq!(want(|spec| spec.worker = None), Want::Nothing);
    assert_eq!(Want::of(&None, "gateway-0"), Want::Nothing);
}

#[test]
fn how_what_was_ended_is_noted() {
    let (unwanted, room) = (Why::NotWanted(Reason::Cancelled), Why::SnapshotHasToGo(Reason::DatastoreFull));
    assert_eq!(
        [why(Reason::Stopped), why(Reason::Unrecognized), why(Reason::DatastoreFull), why(Reason::BasisPassed)],
        [unwanted, unwanted, room, Why::NotWanted(Reason::BasisPassed)]
    );
}

#[test]
fn what_ends_a_run() {
    let run = Want::Run(4);
    for (next, ends) in [
        (Want::Run(4), false),
        (Want::Run(8), false),
        (Want::Run(3), true),
        (Want::Suspend, true),
        (Want::Cancel(Reason::Stopped), true),
        (Want::Nothing, true),
    ] {
        assert_eq!(run.ends_for(&next), ends, "{next:?}");
    }
    assert!(!Want::Cancel(Reason::Stopped).ends_for(&Want::Cancel(Reason::DatastoreFull)));
    assert!(Want::Cancel(Reason::Stopped).ends_for(&Want::Nothing));
}

#[test]
fn what_is_over() {
    use ConditionType::{Applied, SourceReleased, Transferred};
    let over = |findings: &[Finding]| {
        let mut cycle = object(&[(2000, None)]);
        let conditions = conditions::merge(&[], findings, None, jiff::Timestamp::UNIX_EPOCH);
        cycle.status = Some(ReplicationCycleStatus { conditions, ..ReplicationCycleStatus::default() });
        is_over(&cycle)
    };
    let released = Finding::holds(SourceReleased, Reason::AsExpected, "");
    assert!(!over(&[]));
    assert!(!over(&[Finding::holds(Transferred, Reason::AsExpected, "")]), "its snapshot stands");
    assert!(!over(&[Finding::open(Transferred, Reason::Transferring, ""), released.clone()]));
    assert!(over(&[Finding::holds(Transferred, Reason::AsExpected, ""), released.clone()]));
    assert!(over(&[Finding::fails(Transferred, Reason::SnapshotLost, ""), released.clone()]));
    assert!(!over(&[Finding::holds(Applied, Reason::AsExpected, ""), released]));
}

#[test]
fn what_a_run_is_made_of() {
    let (job_, full) = job(&object(&[(2000, None), (2001, Some(DiskMode::Full))])).unwrap();
    assert_eq!((job_.full, full), (false, vec![DiskKey(2001)]));
    assert_eq!(
        names::state(job_.of),
        "v1/11111111-1111-4111-8111-111111111111/22222222-2222-4222-8222-222222222222/33333333333343338333333333333333/0000000007/state"
    );
    assert_eq!(job_.owner, Owner { cluster: "demo".into(), object: "apps/web".into() });
    assert!(job(&object(&[(2000, Some(DiskMode::Full))])).unwrap().0.full);
    let mut wrong = object(&[(2000, None)]);
    wrong.spec.incarnation = "x".into();
    assert!(job(&wrong).unwrap_err().contains("incarnation"));
}

mod with_an_apiserver {
    use std::{collections::VecDeque, sync::Mutex};

    use blocklog::{
        clock::Clock,
        ids::Owner,
        keys::KeyRing,
        ledger::{Ledger, Seed},
        steward::Steward,
        store::{LeaseId, LogStore, memory::MemoryStore},
    };
    use http::{Request, Response};
    use kube::{Api, client::Body, runtime::watcher};
    use serde_json::Value;

    use super::*;
    use crate::{
        cluster::{config::GatewayConfig, gateway::Cycles},
        cpu::Threads,
    };

    /// An apiserver that keeps what is patched. It takes `times` for each, then no time; and carries out what nobody waits for any more.
    #[derive(Clone, Default)]
    struct Patches(Arc<Mutex<Vec<(String, Value)>>>, Arc<Mutex<VecDeque<Duration>>>);

    impl Patches {
        fn client(&self) -> kube::Client {
            let patches = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let patches = patches.clone();
                async move {
                    let uri = format!("{} {}", request.method(), request.uri());
                    let bytes = request.into_body().collect_bytes().await?;
                    let time = patches.1.lock().unwrap().pop_front().unwrap_or_default();
                    let patch = (uri, serde_json::from_slice(&bytes).unwrap());
                    let carried_out = async move {
                        blocklog::clock::SystemClock::new().sleep(time).await;
                        patches.0.lock().unwrap().push(patch);
                    };
                    tokio::spawn(carried_out).await.unwrap();
                    let object = serde_json::to_vec(&object(&[(2000, None)])).unwrap();
                    Ok::<_, kube::Error>(Response::new(Body::from(object)))
                }
            });
            kube::Client::new(service, "hawser")
        }

        fn conditions(&self) -> Vec<(String, String)> {
            let patches = self.0.lock().unwrap();
            let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
            let of = |patch: &Value| {
                let condition = patch["status"]["conditions"][0].clone();
                (text(&condition, "status"), text(&condition, "reason"))
            };
            patches.iter().map(|(_, patch)| of(patch)).collect()
        }
    }

    struct Rig {
        shared: Arc<Shared>,
        patches: Patches,
        store: Arc<MemoryStore>,
        state: String,
        _folder: tempfile::TempDir,
    }

    /// A gateway whose vCenter does not answer, and a cycle that is claimed.
    async fn rig() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let text = KeyRing::new_file(1, &SystemEntropy);
        let keys = KeyRing::parse(&text).unwrap();
        std::fs::write(at("key"), text.as_bytes()).unwrap();
        std::fs::write(at("username"), "hawser@vsphere.local").unwrap();
        std::fs::write(at("password"), "sandbox").unwrap();
        let yaml = format!(
            "appliance: a\nnamespace: hawser\nlogStore: {{accountUrl: 'https://a.blob.core.windows.net', container: c, identity: {{workload: {{}}}}}}\n\
             key: {{file: {}}}\nvcenter: {{url: 'https://127.0.0.1:1', usernameFile: {}, passwordFile: {}}}\nvddk: {{libdir: /none}}\n",
            at("key"),
            at("username"),
            at("password")
        );
        std::fs::write(at("gateway.yaml"), yaml).unwrap();
        let config = GatewayConfig::read(folder.path().join("gateway.yaml").as_path()).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(blocklog::clock::SystemClock::new());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let (job, _) = job(&object(&[(2000, None)])).unwrap();
        let seed = Seed { id: "s".into(), unique_id: "u".into(), capacity: 4096 };
        let owner: Owner = job.owner.clone();
        let ledger = Ledger::new(job.of.vm, owner.clone(), job.of.incarnation, 1 << 20, [(DiskKey(2000), seed)].into());
        document::write_new(store.as_ref(), &keys, &names::ledger(job.of.vm), &ledger).await.unwrap();
        let steward = Steward { store: store.clone(), keys };
        let of = steward.claim(&ledger, &owner, Cycle(6)).await.unwrap();
        assert_eq!(of, job.of);
        let patches = Patches::default();
        let client = open::vcenter(&config.vcenter, &config.log_store, clock.clone()).unwrap();
        let shared = Shared {
            pod: "gateway-0".into(),
            api: Api::namespaced(patches.client(), "hawser"),
            store: store.clone(),
            client,
            opening: Arc::default(),
            cpu: Arc::new(Threads::new(1).unwrap()),
            clock,
            health: Health::waiting_for(&[]),
            config,
        };
        Rig { shared: Arc::new(shared), patches, store, state: names::state(of), _folder: folder }
    }

    fn told(change: impl FnOnce(&mut ReplicationCycleSpec)) -> WatchedCycle {
        let mut cycle = object(&[(2000, None)]);
        cycle.metadata.uid = Some("u-1".into());
        change(&mut cycle.spec);
        Some(Arc::new(cycle))
    }

    async fn until(rig: &Rig, what: &str, done: impl Fn() -> bool) {
        for _ in 0..1000 {
            if done() {
                return;
            }
            rig.shared.clock.sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: {:?}", rig.patches.conditions());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stop_while_vcenter_is_silent_gives_the_lease_back() {
        let rig = rig().await;
        let (sender, receiver) = watch::channel(told(|_| {}));
        let seen = Seen::new(rig.shared.clone(), sender.borrow().as_ref().unwrap(), receiver);
        let clock = rig.shared.clock.clone();
        let begun = clock.monotonic();
        let stop = async {
            until(&rig, "the reason is told", || rig.patches.conditions().iter().any(|(_, reason)| reason == "Unreachable")).await;
            assert!(rig.store.acquire(&rig.state, LeaseId(Uuid::from_u128(9))).await.is_err(), "the gateway holds it");
        };
        seen.run(stop).await;
        assert!(clock.monotonic() - begun < Duration::from_secs(15));
        rig.store.acquire(&rig.state, LeaseId(Uuid::from_u128(9))).await.unwrap();
        let patches = rig.patches.0.lock().unwrap().clone();
        let (uri, patch) = &patches[0];
        assert!(uri.starts_with("PATCH /apis/hawser.dev/v1alpha1/namespaces/hawser/replicationcycles/web-7/status?"), "{uri}");
        assert!(uri.contains("fieldManager=hawser-gateway") && uri.contains("force=true"), "{uri}");
        assert_eq!((patch["metadata"]["uid"].as_str(), patch["status"]["source"]["worker"].as_str()), (Some("u-1"), Some("gateway-0")));
        // A snapshot is intended at most, never said to be taken.
        assert!(patches.iter().all(|(_, patch)| patch["status"]["source"]["snapshot"]["state"] != "Taken"));
        // The first, the reason after five seconds, the last.
        assert!(patches.len() <= 4, "{patches:#?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_suspended_cycle_holds_no_lease() {
        let rig = rig().await;
        let (sender, receiver) = watch::channel(told(|spec| spec.allotment.disks = 0));
        let seen = Seen::new(rig.shared.clone(), sender.borrow().as_ref().unwrap(), receiver);
        let running = tokio::spawn(seen.run(std::future::pending()));
        until(&rig, "it is told", || !rig.patches.conditions().is_empty()).await;
        assert_eq!(rig.patches.conditions()[0], ("Unknown".to_owned(), "Pending".to_owned()));
        let lease = LeaseId(Uuid::from_u128(9));
        rig.store.acquire(&rig.state, lease).await.unwrap();
        rig.store.release(&rig.state, lease).await.unwrap();
        sender.send(told(|_| {})).unwrap();
        until(&rig, "it goes on", || rig.patches.conditions().iter().any(|(_, reason)| reason == "Unreachable")).await;
        sender.send(None).unwrap();
        running.await.unwrap();
        rig.store.acquire(&rig.state, lease).await.unwrap();
    }

    /// A suspended cycle, whose state goes while its first report is on its way, and which may go on then: it is over at once. The apiserver
    /// takes `first` for that report.
    async fn over_at_once(first: Duration) -> (Rig, watch::Sender<WatchedCycle>, tokio::task::JoinHandle<()>) {
        let rig = rig().await;
        rig.patches.1.lock().unwrap().push_back(first);
        let (sender, receiver) = watch::channel(told(|spec| spec.allotment.disks = 0));
        let seen = Seen::new(rig.shared.clone(), sender.borrow().as_ref().unwrap(), receiver);
        let running = tokio::spawn(seen.run(std::future::pending()));
        until(&rig, "it is reported", || rig.patches.1.lock().unwrap().is_empty()).await;
        rig.store.delete(&rig.state, None).await.unwrap();
        sender.send(told(|_| {})).unwrap();
        (rig, sender, running)
    }

    fn says_it_is_over(patch: &Value) -> bool {
        let conditions = &patch["status"]["conditions"];
        let is = |at: usize, what: [&str; 3]| [&conditions[at]["type"], &conditions[at]["status"], &conditions[at]["reason"]] == what;
        is(0, ["Transferred", "False", "BlobMissing"]) && is(1, ["SourceReleased", "True", "AsExpected"])
    }

    fn last(rig: &Rig) -> Value {
        rig.patches.0.lock().unwrap().last().map(|(_, patch)| patch.clone()).unwrap_or_default()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cycle_whose_state_is_gone_is_over() {
        let (rig, sender, running) = over_at_once(Duration::ZERO).await;
        until(&rig, "it is over", || says_it_is_over(&last(&rig))).await;
        sender.send(None).unwrap();
        running.await.unwrap();
    }

    /// The last write is the last that is carried out, however long an earlier one takes, and whoever waits for that.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_report_that_is_on_its_way_is_not_overtaken() {
        let (rig, sender, running) = over_at_once(Duration::from_millis(500)).await;
        until(&rig, "it is over", || says_it_is_over(&last(&rig))).await;
        rig.shared.clock.sleep(Duration::from_millis(800)).await;
        assert!(says_it_is_over(&last(&rig)), "{:?}", rig.patches.conditions());
        sender.send(None).unwrap();
        running.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_older_report_that_comes_last_is_written_over() {
        let (rig, sender, running) = over_at_once(Duration::ZERO).await;
        until(&rig, "it is over", || says_it_is_over(&last(&rig))).await;
        let before = rig.patches.conditions().len();
        sender.send(told(|_| {})).unwrap();
        until(&rig, "it is written again", || rig.patches.conditions().len() > before).await;
        assert!(says_it_is_over(&last(&rig)));
        let mut over = told(|_| {}).unwrap().as_ref().clone();
        over.status = serde_json::from_value(last(&rig)["status"].clone()).unwrap();
        sender.send(Some(Arc::new(over))).unwrap();
        rig.shared.clock.sleep(Duration::from_secs(5)).await;
        assert!(rig.patches.conditions().len() <= before + 2, "{:?}", rig.patches.conditions());
        sender.send(None).unwrap();
        running.await.unwrap();
    }

    /// As a newer operator makes it.
    fn odd(change: impl FnOnce(&mut Value)) -> Read<ReplicationCycle> {
        let mut cycle = serde_json::to_value(told(|_| {}).unwrap().as_ref()).unwrap();
        change(&mut cycle);
        serde_json::from_value(cycle).unwrap()
    }

    fn newer(cycle: &mut Value) {
        cycle["spec"]["kind"] = "PreMigrate".into();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_unreadable_cycle_is_told_and_not_taken_up() {
        let rig = rig().await;
        let (_stop, listen) = watch::channel(false);
        let mut cycles = Cycles::new(rig.shared.clone(), listen);
        cycles.event(watcher::Event::Apply(odd(newer)));
        assert!(cycles.slots.is_empty());
        let said = [("Unknown".to_owned(), "Unreadable".to_owned())];
        until(&rig, "it is told", || rig.patches.conditions() == said).await;
        let (uri, patch) = rig.patches.0.lock().unwrap()[0].clone();
        assert!(uri.contains("/replicationcycles/web-7/status?") && uri.contains("fieldManager=hawser-gateway-reading"), "{uri}");
        assert_eq!(patch["status"].as_object().unwrap().len(), 1, "what a gateway has said before stays: {patch}");
        // The watch tells of that write, too.
        cycles.event(watcher::Event::Apply(odd(|cycle| {
            newer(cycle);
            cycle["status"] = patch["status"].clone();
        })));
        rig.shared.clock.sleep(Duration::from_millis(100)).await;
        assert_eq!(rig.patches.conditions(), said);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_running_cycle_that_gets_unreadable_goes_on() {
        let rig = rig().await;
        let (_stop, listen) = watch::channel(false);
        let mut cycles = Cycles::new(rig.shared.clone(), listen);
        cycles.event(watcher::Event::Apply(odd(|_| {})));
        for event in
            [watcher::Event::Apply(odd(newer)), watcher::Event::Init, watcher::Event::InitApply(odd(newer)), watcher::Event::InitDone]
        {
            cycles.event(event);
            assert!(cycles.slots["web-7"].told.borrow().is_some(), "it is still this pod's");
        }
        cycles.event(watcher::Event::Delete(odd(newer)));
        assert!(cycles.slots.is_empty());
    }
}
