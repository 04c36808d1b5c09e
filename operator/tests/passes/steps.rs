//! What each step does, against what the tests of decisions believe that it does.
//!
//! A case brings a world to where the step is decided, and [`shows`] does the rest: it looks, has the pass done, looks again, and compares. A new step does not
//! compile before it has a case here.

use std::{collections::BTreeMap, time::Duration};

use azure_simulator::config::SUBSCRIPTION;
use blocklog::{
    cycle::{Manifest, Order, State},
    ids::{Cycle, CycleId, DiskKey, Incarnation, Owner},
    ledger::{Ledger, RecoveryPoint, Seed},
    names as blobs,
    steward::Due,
};
use crds::{ReplicationCycleSpec, names};
use kube::ResourceExt;
use operator::{
    seeds::Which,
    vm::{
        model::Observed,
        observe,
        step::{Remains, Step},
        test_support::{self, done},
    },
};
use serde_json::json;
use uuid::Uuid;
use vsphere::snapshot::Mark;

use crate::support::{Fault, NAMESPACE, WEB, World};

/// A seed disk, as far as decisions see it.
type Disk = (Option<Which>, bool, bool, bool, Option<u64>);

/// A cycle, as far as decisions see it.
#[derive(Debug, PartialEq)]
struct CycleView {
    spec: ReplicationCycleSpec,
    finalizers: Vec<String>,
    state: Option<State>,
    ordered: bool,
}

/// What a step can change, without what is drawn or counted anew in each world.
#[derive(Debug, PartialEq)]
struct View {
    finalizers: Vec<String>,
    /// True where it is not the one of before.
    incarnation: Option<bool>,
    history: [bool; 3],
    disks: BTreeMap<String, Disk>,
    ledger: Option<Ledger>,
    due: Option<Due>,
    order: Option<(CycleId, BTreeMap<DiskKey, String>)>,
    cycles: BTreeMap<String, CycleView>,
    snapshots: BTreeMap<Cycle, String>,
    left_by: Option<Owner>,
    tracking_off: bool,
    blobs: usize,
}

impl View {
    /// Of what was seen after, or is believed to be seen after, what was seen `before`.
    fn of(seen: &Observed, before: &Observed) -> Self {
        let drawn = |seen: &Observed| seen.object.status.as_ref().and_then(|status| status.incarnation.clone());
        let status = seen.object.status.clone().unwrap_or_default();
        let mut ledger = seen.ledger.clone().unwrap();
        let mut due = seen.due.clone().unwrap();
        let known = before.ledger.as_ref().ok().and_then(Option::as_ref);
        if let (Some(ledger), Some(known)) = (&mut ledger, known)
            && ledger.incarnation != known.incarnation
        {
            ledger.incarnation = Incarnation(Uuid::nil());
        }
        if let Some(Due::Resume(state)) = &mut due
            && known.is_some_and(|known| known.incarnation != state.of.incarnation)
        {
            state.of.incarnation = Incarnation(Uuid::nil());
        }
        let disk = |disk: &azure::disks::Disk| {
            let which = Which::of(&seen.owner, disk);
            (disk.id.name.clone(), (which, disk.provisioned, disk.failed, disk.state.is_upload(), disk.content))
        };
        let cycle = |cycle: &operator::vm::model::CycleSeen| {
            let target = cycle.object.status.as_ref().and_then(|status| status.target.as_ref());
            let view = CycleView {
                spec: cycle.object.spec.clone(),
                finalizers: cycle.object.finalizers().to_vec(),
                state: cycle.state.clone(),
                ordered: target.is_some_and(|target| target.ordered.is_some()),
            };
            (cycle.object.name_any(), view)
        };
        let source = seen.source.as_ref().unwrap();
        Self {
            finalizers: seen.object.finalizers().to_vec(),
            incarnation: status.incarnation.clone().map(|it| Some(it) != drawn(before)),
            history: [status.last_cycle.is_some(), status.recovery_point.is_some(), status.failures.is_some()],
            disks: seen.disks.as_ref().unwrap().iter().map(disk).collect(),
            ledger,
            due,
            order: seen.order.as_ref().unwrap().as_ref().map(|order| (order.of, order.seeds.clone())),
            cycles: seen.cycles.iter().map(cycle).collect(),
            snapshots: source.snapshots.clone(),
            left_by: source.left_by.clone(),
            tracking_off: source.tracking_off,
            blobs: *seen.blobs.as_ref().unwrap(),
        }
    }
}

/// Passes until a step is decided that is meant, does it, and holds what is seen then against what is believed.
async fn shows(world: &World, meant: impl Fn(&Step) -> bool) -> (Observed, Step, Observed) {
    let (before, step) = world.until(WEB, meant).await;
    let after = shows_this(world, &before, &step).await;
    (before, step, after)
}

async fn shows_this(world: &World, before: &Observed, step: &Step) -> Observed {
    world.pass(WEB).await.unwrap();
    let after = world.observe(WEB).await;
    let mut believed = done(before.clone(), step);
    // What is believed of it is its first half: a crash before the object was made. The second half is a step, too.
    if let (Step::Claim(_), Ok(Some(Due::Resume(state)))) = (step, &believed.due) {
        let (of, worker) = (state.of, before.free_gateway().map(|free| free.name.clone()));
        believed = done(believed, &Step::MakeCycle { of, worker });
    }
    assert_eq!(View::of(&after, before), View::of(&believed, before), "after {step:?}");
    after
}

/// Each step, and its case.
macro_rules! cases {
    ($($pattern:pat => $case:ident),* $(,)?) => {
        /// The case of a step: all of them are here, or this does not compile.
        fn case_of(step: &Step) -> &'static str {
            match step {
                $($pattern => stringify!($case),)*
            }
        }

        $(
            #[tokio::test]
            async fn $case() {
                let step = cases::$case().await;
                assert_eq!(case_of(&step), stringify!($case), "another step than was meant");
            }
        )*
    };
}

cases! {
    Step::None => nothing,
    Step::Hold => hold,
    Step::DrawIncarnation => draw_incarnation,
    Step::TakeOver => take_over,
    Step::MakeDisks(_) => make_disks,
    Step::CreateLedger(_) => create_ledger,
    Step::Reseed(_) => reseed,
    Step::Retire(_) => retire,
    Step::SweepSeeds(_) => sweep_seeds,
    Step::SwitchTracking => switch_tracking,
    Step::LookAtSlots => look_at_slots,
    Step::Claim(_) => claim,
    Step::MakeCycle { .. } => make_cycle,
    Step::Assign { .. } => assign,
    Step::Cancel { .. } => cancel,
    Step::WriteOrder(_) => write_order,
    Step::DropOrder => drop_order,
    Step::Close { .. } => close,
    Step::ReleaseSnapshots => release_snapshots,
    Step::CleanUp(_) => clean_up,
    Step::Forget => forget,
    Step::LetGo => let_go,
    Step::Prune(_) => prune,
}

/// A world whose incarnation is the one of all tests: the model makes disks and ledgers of that one.
async fn drawn() -> World {
    let world = World::new().await;
    world.until(WEB, |step| *step == Step::DrawIncarnation).await;
    world.edit_vm(WEB, |vm| vm["status"]["incarnation"] = json!(test_support::incarnation().0));
    world
}

/// A world with a clean replica of two cycles, where nothing is due.
async fn clean() -> World {
    let world = World::new().await;
    world.settle(WEB).await;
    world
}

/// A world in which a cycle goes on, on `gw-1`, that has a snapshot.
async fn running() -> World {
    let world = World::new().await;
    world.until(WEB, |step| matches!(step, Step::Claim(_))).await;
    world.pass(WEB).await.unwrap();
    world.takes_snapshot(&world.cycles(WEB)[0]).await;
    world
}

/// How each step comes to be decided; what it was.
mod cases {
    use super::*;

    pub async fn nothing() -> Step {
        let world = clean().await;
        world.api.take_asked();
        let (_, step, _) = shows(&world, |step| *step == Step::None).await;
        let writes: Vec<_> = world.api.take_asked().into_iter().filter(crate::support::Asked::writes).collect();
        assert_eq!(writes, [], "who does nothing writes nothing");
        step
    }

    pub async fn hold() -> Step {
        shows(&World::new().await, |step| *step == Step::Hold).await.1
    }

    pub async fn draw_incarnation() -> Step {
        shows(&World::new().await, |step| *step == Step::DrawIncarnation).await.1
    }

    pub async fn take_over() -> Step {
        let world = World::new().await;
        let (other, of) = (Owner { cluster: "old".into(), object: "apps/web".into() }, world.vm_id(WEB));
        let seed = |key: u32| {
            let id = azure::ResourceId::disk(SUBSCRIPTION, "hawser", &format!("old-{key}")).to_string();
            (DiskKey(key), Seed { id, unique_id: Uuid::from_u128(key.into()).to_string(), capacity: test_support::CAPACITY })
        };
        let mut ledger = Ledger::new(of, other.clone(), Incarnation(Uuid::from_u128(77)), 1 << 20, [seed(2000), seed(2001)].into());
        ledger.begun = Cycle(5);
        let disks = vec![DiskKey(2000), DiskKey(2001)];
        ledger.recovery_point = Some(RecoveryPoint { cycle: Cycle(5), time: jiff::Timestamp::UNIX_EPOCH, disks });
        world.write(&blobs::ledger(of), &ledger).await;
        world.edit_vm(WEB, |vm| vm["spec"]["takeOver"] = json!(other.to_string()));
        shows(&world, |step| *step == Step::TakeOver).await.1
    }

    pub async fn make_disks() -> Step {
        shows(&drawn().await, |step| matches!(step, Step::MakeDisks(_))).await.1
    }

    pub async fn create_ledger() -> Step {
        shows(&drawn().await, |step| matches!(step, Step::CreateLedger(_))).await.1
    }

    pub async fn reseed() -> Step {
        let world = clean().await;
        let seen = world.observe(WEB).await;
        let site = world.context.sites.get(NAMESPACE, crate::support::APPLIANCE).unwrap();
        let (arm, id) = (&site.target.as_ref().unwrap().arm, &seen.disks.unwrap()[0].id);
        arm.revoke(id).await.unwrap();
        arm.delete_disk(id).await.unwrap();
        world.context.disks.forget();
        shows(&world, |step| matches!(step, Step::Reseed(_))).await.1
    }

    pub async fn retire() -> Step {
        let world = clean().await;
        world.vcenter.edit("vm-1", |machine| assert!(machine.disks.remove(&2001).is_some()));
        shows(&world, |step| matches!(step, Step::Retire(_))).await.1
    }

    pub async fn sweep_seeds() -> Step {
        let world = clean().await;
        world.vcenter.edit("vm-1", |machine| assert!(machine.disks.insert(2000, 2 * test_support::CAPACITY).is_some()));
        let (before, step, after) = shows(&world, |step| matches!(step, Step::SweepSeeds(_))).await;
        assert_eq!((before.disks.unwrap().len(), after.disks.unwrap().len()), (3, 2));
        step
    }

    pub async fn switch_tracking() -> Step {
        let world = World::new().await;
        world.vcenter.edit("vm-1", |machine| (machine.tracking, machine.tracked) = (false, false));
        let (_, step, _) = shows(&world, |step| *step == Step::SwitchTracking).await;
        assert_eq!(world.vcenter.snapshots("vm-1"), Vec::<String>::new(), "the one that made it work is gone");
        step
    }

    pub async fn look_at_slots() -> Step {
        let world = World::new().await;
        let (mut before, step) = world.until(WEB, |step| *step == Step::LookAtSlots).await;
        assert_eq!(View::of(&world.observe(WEB).await, &before), View::of(&done(before.clone(), &step), &before));
        before.slots = Some(observe::slots(&world.context, &before.object).await.unwrap());
        let next = crate::support::decided(&before);
        assert!(matches!(next, Step::Claim(_)), "who has looked decides: {next:?}");
        step
    }

    pub async fn claim() -> Step {
        let world = World::new().await;
        let (_, step, after) = shows(&world, |step| matches!(step, Step::Claim(_))).await;
        assert_eq!(after.cycles[0].object.labels()[names::VM_LABEL], WEB);
        step
    }

    pub async fn make_cycle() -> Step {
        let world = World::new().await;
        let (before, step) = world.until(WEB, |step| matches!(step, Step::Claim(_))).await;
        let creates = |asked: &crate::support::Asked| asked.word() == "create replicationcycles";
        world.api.plan(move |asked| creates(asked).then_some(Fault::Dropped { after: false }));
        world.pass(WEB).await.unwrap();
        world.api.no_plan();
        let claimed = world.observe(WEB).await;
        assert_eq!(View::of(&claimed, &before), View::of(&done(before.clone(), &step), &before), "the first half of {step:?}");
        shows(&world, |step| matches!(step, Step::MakeCycle { .. })).await.1
    }

    pub async fn assign() -> Step {
        let world = running().await;
        world.has_gateway("gw-1", false);
        world.has_gateway("gw-2", true);
        shows(&world, |step| matches!(step, Step::Assign { .. })).await.1
    }

    pub async fn cancel() -> Step {
        let world = running().await;
        world.api.delete("replicatedvms", NAMESPACE, WEB);
        shows(&world, |step| matches!(step, Step::Cancel { .. })).await.1
    }

    pub async fn write_order() -> Step {
        let (before, step, after) = shows(&World::new().await, |step| matches!(step, Step::WriteOrder(_))).await;
        assert!(before.order.unwrap().is_none() && after.order.unwrap().unwrap().seeds.len() == 1);
        step
    }

    pub async fn drop_order() -> Step {
        let world = clean().await;
        let ledger = world.ledger(WEB).await.unwrap();
        let of = ledger.cycle(ledger.begun);
        let manifest = blocklog::ids::Digest([0; 32]);
        let order = Order { of, owner: world.owner(WEB), manifest, seeds: BTreeMap::new(), tokens: BTreeMap::new() };
        world.write(&blobs::order(&order.owner, of.vm), &order).await;
        shows(&world, |step| *step == Step::DropOrder).await.1
    }

    pub async fn close() -> Step {
        let world = World::new().await;
        let (before, step, after) = shows(&world, |step| matches!(step, Step::Close { .. })).await;
        assert!(before.order.unwrap().is_some() && after.order.unwrap().is_none());
        let of = after.ledger.unwrap().unwrap().cycle(Cycle(1));
        assert!(world.read::<Manifest>(&blobs::manifest(of)).await.is_none(), "its log is cleaned up");
        step
    }

    pub async fn release_snapshots() -> Step {
        let world = clean().await;
        let of = world.ledger(WEB).await.unwrap().cycle(Cycle(9));
        world.vcenter.take("vm-1", &Mark { owner: world.owner(WEB), of });
        world.vcenter.take("vm-1", &Mark { owner: Owner { cluster: "another".into(), ..world.owner(WEB) }, of });
        let (_, step, _) = shows(&world, |step| *step == Step::ReleaseSnapshots).await;
        assert_eq!(world.vcenter.snapshots("vm-1").len(), 1, "another's stays");
        step
    }

    pub async fn clean_up() -> Step {
        let world = clean().await;
        let of = world.ledger(WEB).await.unwrap().cycle(Cycle(9));
        world.vcenter.take("vm-1", &Mark { owner: world.owner(WEB), of });
        world.api.delete("replicatedvms", NAMESPACE, WEB);
        let (_, step, _) = shows(&world, |step| matches!(step, Step::CleanUp(_))).await;
        let Step::CleanUp(remains) = &step else { unreachable!() };
        assert!(matches!(remains.as_slice(), [Remains::Snapshots, Remains::Seeds(_), Remains::Log]), "{remains:?}");
        let (_, last, _) = shows(&world, |step| matches!(step, Step::CleanUp(_))).await;
        assert_eq!(last, Step::CleanUp(vec![Remains::Snapshots, Remains::Ledger]));
        assert_eq!(world.store.names(), Vec::<String>::new());
        step
    }

    pub async fn forget() -> Step {
        let world = clean().await;
        world.edit_vm(WEB, |vm| vm["spec"]["replication"] = json!("Stopped"));
        shows(&world, |step| *step == Step::Forget).await.1
    }

    pub async fn let_go() -> Step {
        let world = clean().await;
        world.api.delete("replicatedvms", NAMESPACE, WEB);
        let (_, step) = world.until(WEB, |step| *step == Step::LetGo).await;
        world.pass(WEB).await.unwrap();
        assert!(world.vm(WEB).is_none(), "it is gone");
        assert!(world.cycles(WEB).is_empty(), "and its cycles with it");
        step
    }

    pub async fn prune() -> Step {
        let world = clean().await;
        for _ in 0..100 {
            let seen = world.observe(WEB).await;
            let step = crate::support::decided(&seen);
            if matches!(step, Step::Prune(_)) {
                shows_this(&world, &seen, &step).await;
                return step;
            }
            world.pass(WEB).await.unwrap();
            world.work(WEB).await;
            // The next one is due before long.
            world.clock.advance(Duration::from_secs(if step == Step::None { 3600 } else { 1 }));
        }
        panic!("no cycle is ever old");
    }
}
