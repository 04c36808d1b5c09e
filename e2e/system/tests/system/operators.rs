//! The operator dies, again and again: at each step of a replication's way from nothing to its second delta. Its successor, or itself when it
//! is started again, derives from the world what is to be done next; so nothing is made twice, and nothing is forgotten.

use crds::{ReplicationCycle, replication_cycle::SnapshotState};
use system::{
    fate::Fate,
    install::{APPLIANCE, NAMESPACE},
    pods::{self, OPERATORS, Pod, workers},
    vm::{Replica, phase},
    wait,
};

use super::*;

const MIB: u64 = 1 << 20;

/// What can be seen from outside of a replication's way.
#[derive(Debug, Clone, Copy)]
enum Step {
    Finalizer,
    Incarnation,
    Seed,
    Ledger,
    /// The first blob of a cycle: from here on its number is taken.
    Claimed(i64),
    Object(i64),
    Snapshot(i64),
    Sent(i64),
    Ordered(i64),
    Applied(i64),
    Over(i64),
}

use Step::{Applied, Claimed, Finalizer, Incarnation, Ledger, Object, Ordered, Over, Seed, Sent, Snapshot};

const FIRST: [Step; 14] = [
    Finalizer,
    Incarnation,
    Seed,
    Ledger,
    Claimed(1),
    Object(1),
    Snapshot(1),
    Sent(1),
    Ordered(1),
    Applied(1),
    Over(1),
    Claimed(2),
    Ordered(2),
    Over(2),
];
const DELTA: [Step; 5] = [Claimed(3), Object(3), Ordered(3), Applied(3), Over(3)];

/// How it ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Its program crashes, and is started again in its pod.
    Crash,
    /// It is told to stop.
    Stop,
    /// Its node dies.
    Kill,
}

/// A program that has crashed before would wait before it is started again: so its pod ends in another way next.
const ENDS: [End; 4] = [End::Crash, End::Stop, End::Crash, End::Kill];

/// Whether a step was taken, or one after it.
async fn taken(replica: &Replica, step: Step) -> bool {
    let Ok(object) = replica.object().await else { return false };
    let status = object.status.unwrap_or_default();
    let cycles = replica.cycles().await.unwrap();
    let of = |number: i64| cycles.iter().find(|cycle| cycle.spec.cycle == number);
    let (id, log) = (replica.id().await.ok(), &replica.world.log);
    let blobs = match id {
        Some(id) => log.blobs(id).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let blob = |number: i64, what: &str| blobs.iter().any(|name| name.ends_with(&format!("/{number:010}/{what}")));
    let begun = async |number: i64| {
        let ledger = log.ledger(id?).await.ok()??;
        Some((i64::try_from(ledger.begun.0).ok()? >= number, ledger.is_clean()))
    };
    match step {
        Finalizer => object.metadata.finalizers.is_some_and(|all| !all.is_empty()),
        Incarnation => status.incarnation.is_some(),
        Seed => !seeds(replica).await.is_empty(),
        Ledger => begun(0).await.is_some(),
        Claimed(number) => blob(number, "state") || of(number).is_some(),
        Object(number) => of(number).is_some(),
        Snapshot(number) => of(number).is_some_and(|cycle| {
            let source = cycle.status.clone().unwrap_or_default().source.unwrap_or_default();
            source.snapshot.is_some_and(|snapshot| snapshot.state != SnapshotState::Intended)
        }),
        Sent(number) => blob(number, "manifest") || begun(number).await.is_some_and(|(begun, _)| begun),
        Ordered(number) => {
            let target = of(number).and_then(|cycle| cycle.status.clone()?.target?.ordered);
            target.is_some() || begun(number).await.is_some_and(|(begun, _)| begun)
        }
        Applied(number) => begun(number).await == Some((true, true)),
        Over(number) => of(number).is_some_and(|cycle| phase(cycle) == Some(CyclePhase::Succeeded)),
    }
}

/// Its seed disks in Azure.
async fn seeds(replica: &Replica) -> Vec<String> {
    let mut all = replica.world.azure.disks().await.unwrap();
    all.retain(|id| id.to_lowercase().contains(&format!("hawser-{}-", replica.name)));
    all
}

/// Ends the operator that leads, and waits until one leads again, where that can be seen.
async fn strike(world: &World, end: End) -> String {
    let (leader, pod) = wait::until("an operator leads", PATIENCE, async || {
        let (leader, all) = (pods::leader(world).await?, Pod::all(world, OPERATORS).await?);
        let pod = all.iter().find(|pod| pod.name == leader && pod.ready).cloned();
        pod.map(|pod| (leader, pod)).ok_or_else(|| format!("{all:?}"))
    })
    .await
    .unwrap();
    let (mut began, mut gone) = (wait::now(), Duration::ZERO);
    match end {
        End::Crash => {
            pod.crash(&world.sandbox).unwrap();
            wait::until("it is started again", PATIENCE, async || {
                let all = Pod::all(world, OPERATORS).await?;
                let again = all.iter().any(|now| now.uid == pod.uid && now.restarts > pod.restarts && now.ready);
                if again { Ok(()) } else { Err(format!("{all:?}")) }
            })
            .await
            .unwrap();
            return format!("started again after {:.1?}", began.elapsed());
        }
        End::Stop => {
            gone = pod.stop(world, Duration::from_secs(20)).await.unwrap();
            began = wait::now();
        }
        End::Kill => pod.kill(world).await.unwrap(),
    }
    wait::until("another operator leads", PATIENCE, async || match pods::leader(world).await? {
        now if now == leader => Err(now),
        _ => Ok(()),
    })
    .await
    .unwrap();
    let led = began.elapsed();
    match end {
        End::Stop => assert!(led < Duration::from_secs(5), "the lease was not given back: {led:?}"),
        _ => assert!(led < Duration::from_secs(22), "the lease has not run out: {led:?}"),
    }
    format!("gone after {gone:.1?}, another one leads {led:.1?} later")
}

/// Waits for each step, and ends the operator as soon as it is seen.
async fn at_each(replica: &Replica, steps: &[Step], ends: &mut impl Iterator<Item = End>) {
    for step in steps {
        wait::until(
            &format!("{step:?}"),
            PATIENCE,
            async || {
                if taken(replica, *step).await { Ok(()) } else { Err(replica.story().await?) }
            },
        )
        .await
        .unwrap();
        let end = ends.next().unwrap();
        println!("{step:?}: {end:?}, {}", strike(&replica.world, end).await);
    }
}

/// The shared appliance's workers, but for those that are on their way out or in.
async fn all_workers(world: &World) -> Vec<Pod> {
    let mut all = Pod::all(world, &workers(APPLIANCE, "gateway")).await.unwrap();
    all.extend(Pod::all(world, &workers(APPLIANCE, "applier")).await.unwrap());
    all.retain(|pod| pod.ready);
    all
}

mod alone {
    use super::*;

    #[tokio::test]
    async fn an_operator_that_dies_at_each_step_does_nothing_twice() {
        let (world, _gate) = alone().await;
        Pod::ready(&world, OPERATORS, 2, PATIENCE).await.unwrap();
        let workers_before = all_workers(&world).await;
        let mut ends = ENDS.into_iter().cycle();
        // Whatever it asks of Azure takes so long that it dies in the midst of it: a disk is made and nobody has heard, access is granted and no
        // order is written.
        let slow = json!({ "path": "*/disks/hawser-kill-operator-*", "effect": { "kind": "delay", "seconds": 2 } });
        let slow = Fate::arm(&world, slow).await.unwrap();
        let replica = Replica::apply(&world, "kill-operator", "").await.unwrap();
        at_each(&replica, &FIRST, &mut ends).await;
        let all = replica.succeeded(2, PATIENCE).await.unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(replica.equal_now().await.unwrap(), 2);
        let (incarnation, made) = (replica.object().await.unwrap().status.unwrap().incarnation, seeds(&replica).await);

        world.vcenter.write(&replica.name, 2000, 2 * MIB, 2 * MIB, 61).await.unwrap();
        world.vcenter.write(&replica.name, 2001, 20 * MIB, MIB, 62).await.unwrap();
        replica.sync_now("struck").await.unwrap();
        at_each(&replica, &DELTA, &mut ends).await;
        replica.sync("struck", PATIENCE).await.unwrap();
        Pod::ready(&world, OPERATORS, 2, PATIENCE).await.unwrap();

        assert_eq!(replica.equal_now().await.unwrap(), 2);
        assert_eq!((made.len(), &made), (2, &seeds(&replica).await), "one set of seeds");
        assert_eq!(replica.object().await.unwrap().status.unwrap().incarnation, incarnation);
        // Each cycle once, and each run once: no gateway had to begin again for it.
        let all = replica.cycles().await.unwrap();
        let epoch = |one: &ReplicationCycle| one.status.as_ref()?.source.as_ref()?.epoch;
        let seen: Vec<_> = all.iter().map(|one| (one.spec.cycle, phase(one), epoch(one))).collect();
        let wanted: Vec<_> = (1..=3).map(|number| (number, Some(CyclePhase::Succeeded), Some(1))).collect();
        assert_eq!(seen, wanted);
        // What cycles leave in the log is gone with them.
        let id = replica.id().await.unwrap();
        wait::until("the log is cleaned up", PATIENCE, async || {
            let blobs = world.log.blobs(id).await?;
            let left: Vec<_> = blobs.iter().filter(|name| name.ends_with(".seg") || name.ends_with("/state")).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await
        .unwrap();
        let workers_after = all_workers(&world).await;
        assert_eq!(workers_after, workers_before, "the workers have noticed nothing");

        // While it cleans up, too.
        let gone = ["delete", "replicatedvm", &replica.name, "--namespace", NAMESPACE, "--wait=false"];
        world.sandbox.kubectl(&gone).await.unwrap();
        println!("deletion: {}", strike(&world, ends.next().unwrap()).await);
        wait::until("a seed is gone", PATIENCE, async || match seeds(&replica).await.len() {
            2 => Err(replica.story().await?),
            _ => Ok(()),
        })
        .await
        .unwrap();
        println!("a seed is gone: {}", strike(&world, ends.next().unwrap()).await);
        let gone = ["wait", "--for=delete", "replicatedvm", &replica.name, "--namespace", NAMESPACE, "--timeout=120s"];
        world.sandbox.kubectl(&gone).await.unwrap();
        slow.mend().await.unwrap();
        assert_eq!((seeds(&replica).await, world.log.blobs(id).await.unwrap()), (Vec::new(), Vec::new()));
        assert!(world.vcenter.snapshots(&replica.name).await.unwrap().is_empty());
    }
}
