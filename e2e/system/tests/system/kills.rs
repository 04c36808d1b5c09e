//! What dies in the midst of its work: gateway, applier, node's containerd, and blobs of the log. Whoever comes after goes on, and nothing is
//! done twice that need not be. Appliances of their own, with a log store's container of their own: here pods are killed, and appliers
//! held back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use blocklog::{
    ids::{Cycle, CycleId, DiskCycle, Epoch, Incarnation},
    names,
    store::When,
};
use crds::ReplicationCycle;
use system::{
    diary::Diary,
    fate::Fate,
    install::ready,
    own::Own,
    pods::{Pod, workers},
    vm::{Replica, phase},
    wait,
};
use tokio::task::JoinHandle;

use super::*;

const MIB: u64 = 1 << 20;
/// What may be sent again when a gateway is gone: two segments, and the window of blocks that a disk has in memory.
const AGAIN: u64 = 2 * (6 << 20) + (16 << 20);
/// How long a program may take that is told to stop: 10 s, and what kubelet takes to tell it on a busy machine.
const STOPPED: Duration = Duration::from_secs(13);
/// Sooner than a lease in the log store runs out: it was given back.
const SOON: Duration = Duration::from_secs(30);
/// kubelet stops no pod while containerd is away, and tries again only seconds after it is back. Read from before a transfer until what strikes pods
/// under it is over; written from before the transfer under which containerd is taken away.
static CONTAINERD: RwLock<()> = RwLock::const_new(());

/// An appliance of a test's own, with one gateway, so many appliers, and a container of its own. Its name is the container's.
async fn site(world: &mut World, name: &str, appliers: u32) -> Own {
    let own = Own::apart(world, name).await.unwrap();
    own.apply(|spec| {
        spec["workers"] = json!({ "replicas": 1 });
        spec["applier"] = json!({ "replicas": appliers });
    })
    .await
    .unwrap();
    ready(&world.sandbox, "hawser", name, PATIENCE).await.unwrap();
    own
}

/// Who a cycle is in the log.
async fn of(replica: &Replica, cycle: &ReplicationCycle) -> CycleId {
    let incarnation = Incarnation(cycle.spec.incarnation.parse().unwrap());
    CycleId { vm: replica.id().await.unwrap(), incarnation, cycle: Cycle(u64::try_from(cycle.spec.cycle).unwrap()) }
}

/// It is deleted, and nothing of it is left: else what was killed has left something that nobody knows of.
async fn leaves_nothing(replica: &Replica) {
    let (world, id) = (&replica.world, replica.id().await.unwrap());
    world.sandbox.kubectl(&["-n", "hawser", "delete", "replicatedvm", &replica.name, "--timeout=120s"]).await.unwrap();
    let mine = format!("hawser-{}-", replica.name);
    let disks = world.azure.disks().await.unwrap();
    assert!(!disks.iter().any(|disk| disk.to_lowercase().contains(&mine)), "{disks:?}");
    assert_eq!(world.log.blobs(id).await.unwrap(), Vec::<String>::new());
    assert!(world.vcenter.snapshots(&replica.name).await.unwrap().is_empty());
}

/// Bytes, by what they are of.
type Bytes = Arc<Mutex<BTreeMap<String, u64>>>;

/// What is read of a VM's disks and written to its log, by whomever.
struct Meter {
    /// By disk and the time at which it was opened.
    read: Bytes,
    /// By segment.
    written: Bytes,
    watchers: [JoinHandle<()>; 2],
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.watchers.iter().for_each(JoinHandle::abort);
    }
}

impl Meter {
    async fn watch(world: &World, vm: &str, of: CycleId) -> Self {
        let (read, written) = (Bytes::default(), Bytes::default());
        let (reads, writes, vcenter, log) = (read.clone(), written.clone(), world.vcenter.clone(), world.log.clone());
        let vm = vcenter.vm(vm).await.unwrap().mo_ref;
        let reading = tokio::spawn(async move {
            loop {
                let open = vcenter.call(Method::GET, "/vddk", None).await.unwrap_or_default();
                for disk in open["openDisks"].as_array().into_iter().flatten().filter(|disk| disk["vm"] == vm.as_str()) {
                    reads.lock().unwrap().insert(format!("{} {}", disk["path"], disk["since"]), disk["bytes"].as_u64().unwrap());
                }
                wait::pause(Duration::from_millis(50)).await;
            }
        });
        let writing = tokio::spawn(async move {
            loop {
                let segments = log.segments(of).await.unwrap_or_default();
                writes.lock().unwrap().extend(segments);
                wait::pause(Duration::from_millis(200)).await;
            }
        });
        Self { read, written, watchers: [reading, writing] }
    }

    fn read(&self) -> u64 {
        self.read.lock().unwrap().values().sum()
    }

    fn opened(&self) -> usize {
        self.read.lock().unwrap().len()
    }

    fn written(&self) -> u64 {
        self.written.lock().unwrap().values().sum()
    }
}

/// The last epoch of a cycle, and the bytes of the segments that its state knows to be durable: of all epochs, and of the last one.
async fn durable(replica: &Replica, of: CycleId) -> system::Result<(Epoch, u64, u64)> {
    let (state, sizes) = (replica.world.log.state(of).await?, replica.world.log.segments(of).await?);
    let last = state.epochs.last().ok_or("nobody has taken it up")?;
    let (mut all, mut latest) = (0, 0);
    for (disk, progress) in &state.disks {
        let disk = DiskCycle { of, disk: *disk };
        for run in &progress.runs {
            let names = (0..run.durable).map(|n| names::segment(disk, run.epoch, n));
            let bytes: u64 = names.filter_map(|name| sizes.get(&name)).sum();
            all += bytes;
            latest += if run.epoch == last { bytes } else { 0 };
        }
    }
    Ok((last, all, latest))
}

/// Waits until an epoch has made so many bytes durable.
async fn in_the_midst(replica: &Replica, of: CycleId, epoch: Epoch, least: u64) {
    wait::until(&format!("epoch {epoch} has {least} bytes durable"), PATIENCE, async || {
        let found = durable(replica, of).await?;
        if found.0 == epoch && found.2 >= least { Ok(()) } else { Err(format!("{found:?}; {}", replica.story().await?)) }
    })
    .await
    .unwrap();
}

/// Waits until another gateway has taken the cycle up; gives the bytes that were read and are not durable: what is read and sent again.
async fn taken_up(replica: &Replica, of: CycleId, from: Epoch, meter: &Meter, limit: Duration) -> u64 {
    let (mut read, mut kept) = (0, 0);
    wait::until(&format!("a gateway has taken the cycle up after {from}"), limit, async || {
        let now = meter.read();
        let (last, all, _) = durable(replica, of).await?;
        if last > from {
            return Ok(());
        }
        (read, kept) = (now, all);
        Err(replica.story().await?)
    })
    .await
    .unwrap();
    read - kept.min(read)
}

/// The one snapshot that a VM has.
async fn snapshot_of(replica: &Replica) -> String {
    let mut all = replica.world.vcenter.snapshots(&replica.name).await.unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).mo_ref
}

#[tokio::test]
async fn a_gateway_that_stops_or_is_killed_is_followed() {
    let (mut world, _gate) = beside_others().await;
    let own = site(&mut world, "kills-gateway", 1).await;
    let containerd = CONTAINERD.read().await;
    let slow = Fate::slow_reads(&world, "kill-gateway", 700).await.unwrap();
    let replica = own.replicate("kill-gateway", "").await.unwrap();
    let diary = Diary::keep(&replica, &own.name);
    let cycle = of(&replica, &replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap()).await;
    let meter = Meter::watch(&world, &replica.name, cycle).await;
    let gateways = workers(&own.name, "gateway");
    let data = 144 * MIB;

    // It is told to stop, as by `kubectl rollout restart` and by a node that is drained.
    in_the_midst(&replica, cycle, Epoch(1), 36 * MIB).await;
    let snapshot = snapshot_of(&replica).await;
    let first = Pod::ready(&world, &gateways, 1, PATIENCE).await.unwrap().remove(0);
    let began = wait::now();
    let (took, stopped) = tokio::join!(first.stop(&world, STOPPED), taken_up(&replica, cycle, Epoch(1), &meter, SOON));
    println!("stopped within {:.1?}, taken up after {:.1?}; {stopped} bytes were read for nothing", took.unwrap(), began.elapsed());
    assert!(stopped <= AGAIN, "{stopped} bytes are sent again");
    assert_eq!(snapshot_of(&replica).await, snapshot);

    // It is killed: its lease runs out by itself.
    in_the_midst(&replica, cycle, Epoch(2), 36 * MIB).await;
    let second = Pod::ready(&world, &gateways, 1, PATIENCE).await.unwrap().remove(0);
    assert_ne!(second.uid, first.uid);
    let began = wait::now();
    second.kill(&world).await.unwrap();
    let killed = taken_up(&replica, cycle, Epoch(2), &meter, PATIENCE).await.saturating_sub(stopped);
    drop(containerd);
    println!("killed, taken up after {:.1?}; {killed} bytes were read for nothing", began.elapsed());
    assert!(killed <= AGAIN, "{killed} bytes are sent again");
    assert_eq!(snapshot_of(&replica).await, snapshot);
    let waits = diary.tells("BlobLeased", &["leased by another holder"], PATIENCE).await.unwrap();
    assert_eq!(waits.condition, "Transferred", "{waits:?}");
    // By whoever looks while there is none.
    diary.tells("PodsNotReady", &["kills-gateway"], PATIENCE).await.unwrap();

    slow.mend().await.unwrap();
    diary.tells("Applying", &[], PATIENCE).await.unwrap();
    let (read, written) = (meter.read(), meter.written());
    println!("{read} bytes read and {written} written for {data} of data");
    assert!(read >= data - MIB, "the meter has missed something: {read}");
    assert_eq!(meter.opened(), 3, "each gateway has opened the disk once");
    assert!(read <= data + stopped + killed + MIB, "{read} bytes were read for {data}");
    assert!(written <= data + stopped + killed + MIB, "{written} bytes were written for {data}");
    replica.succeeded(2, PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 1);
    let all = replica.cycles().await.unwrap();
    assert!(all.iter().all(|cycle| phase(cycle) == Some(CyclePhase::Succeeded)), "{}", replica.story().await.unwrap());
    assert_eq!(all[0].status.as_ref().unwrap().source.as_ref().unwrap().epoch, Some(3));
    leaves_nothing(&replica).await;
}

/// How many changes the host of a managed disk has carried out.
async fn landed(replica: &Replica, disk: &str) -> u64 {
    let all = replica.world.azure.call(Method::GET, "/disks", None).await.unwrap();
    let mine = all["disks"].as_array().unwrap().iter().find(|one| one["id"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(disk)));
    mine.unwrap()["counts"]["landed"].as_u64().unwrap()
}

/// Waits until some of a turn's writes have landed on a disk.
async fn half_applied(replica: &Replica, disk: &str, before: u64) {
    wait::until("some writes have landed", PATIENCE, async || {
        let now = landed(replica, disk).await;
        if now > before { Ok(()) } else { Err(format!("{now}; {}", replica.story().await?)) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_an_applier_leaves_half_done_is_applied_again() {
    let (mut world, _gate) = beside_others().await;
    let own = site(&mut world, "kills-applier", 1).await;
    let containerd = CONTAINERD.read().await;
    let slow = Fate::slow_reads(&world, "kill-applier", 1000).await.unwrap();
    let replica = own.replicate("kill-applier", "").await.unwrap();
    let diary = Diary::keep(&replica, &own.name);
    let cycle = of(&replica, &replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap()).await;
    let (id, appliers) = (replica.id().await.unwrap(), workers(&own.name, "applier"));
    let ledger = async || world.log.ledger(id).await.unwrap().unwrap();
    let mut hosts = Vec::new();
    for seed in ledger().await.seeds.values() {
        let fault = json!({ "disk": seed.id, "operation": "PutPage", "effect": { "kind": "delay", "seconds": 4 } });
        hosts.push(Fate::disk(&world, fault).await.unwrap());
    }
    let seed = ledger().await.seeds.values().next().unwrap().id.clone();
    let formatted = landed(&replica, &seed).await;
    slow.mend().await.unwrap();

    // It is told to stop: what was sent is waited for, and the ledger is given back, dirty.
    half_applied(&replica, &seed, formatted).await;
    let (turn, first) = (ledger().await.turn, Pod::ready(&world, &appliers, 1, PATIENCE).await.unwrap().remove(0));
    assert!(!ledger().await.is_clean());
    let began = wait::now();
    let took = first.stop(&world, STOPPED).await.unwrap();
    let (dirty, some) = (!ledger().await.is_clean(), landed(&replica, &seed).await);
    wait::until("a successor has begun again", SOON.saturating_sub(began.elapsed()), async || {
        let now = ledger().await.turn;
        if now > turn { Ok(()) } else { Err(format!("{now} after {turn}; {}", replica.story().await?)) }
    })
    .await
    .unwrap();
    println!("stopped within {took:.1?}, begun again after {:.1?}, {} writes had landed", began.elapsed(), some - formatted);
    assert!(dirty, "what is half applied is no replica");
    assert_eq!(ledger().await.lost, [], "it has waited for what it had sent");

    // It is killed with writes on their way.
    half_applied(&replica, &seed, some).await;
    let (turn, second) = (ledger().await.turn, Pod::ready(&world, &appliers, 1, PATIENCE).await.unwrap().remove(0));
    assert_ne!(second.uid, first.uid);
    let began = wait::now();
    second.kill(&world).await.unwrap();
    drop(containerd);
    assert!(!ledger().await.is_clean());
    for host in hosts {
        host.mend().await.unwrap();
    }
    replica.succeeded(2, PATIENCE).await.unwrap();
    println!("killed, and applied by a successor after {:.1?}", began.elapsed());
    assert!(ledger().await.turn > turn);
    // A write of the one that was killed may still land, in the same place and with the same bytes as its successor's: it is remembered.
    assert_eq!(ledger().await.lost, [cycle]);
    diary.tells("PodsNotReady", &["kills-applier-applier", "0 of 1"], PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    let all = replica.cycles().await.unwrap();
    assert!(all.iter().all(|cycle| phase(cycle) == Some(CyclePhase::Succeeded)), "{}", replica.story().await.unwrap());
    leaves_nothing(&replica).await;
}

#[tokio::test]
async fn a_node_whose_containerd_is_started_again_goes_on_meanwhile() {
    let (mut world, _gate) = beside_others().await;
    let own = site(&mut world, "kills-node", 1).await;
    let nobody_stops = CONTAINERD.write().await;
    // Enough to read for as long as it takes to look, on a busy machine too.
    world.vcenter.write("kill-node", 2000, 12 * MIB, 28 * MIB, 14).await.unwrap();
    let slow = Fate::slow_reads(&world, "kill-node", 3000).await.unwrap();
    let replica = own.replicate("kill-node", "").await.unwrap();
    let cycle = of(&replica, &replica.reaches(CyclePhase::Transfer, PATIENCE).await.unwrap()).await;
    let meter = Meter::watch(&world, &replica.name, cycle).await;
    let gateways = workers(&own.name, "gateway");
    let before = Pod::ready(&world, &gateways, 1, PATIENCE).await.unwrap();
    let containerd = Fate::end(&world, "containerd").await.unwrap();
    let read = meter.read();
    wait::until("the transfer goes on without containerd", PATIENCE, async || {
        let now = meter.read();
        if now > read + MIB { Ok(()) } else { Err(format!("{read}, {now}")) }
    })
    .await
    .unwrap();
    containerd.mend().await.unwrap();
    slow.mend().await.unwrap();
    replica.succeeded(2, PATIENCE).await.unwrap();
    assert_eq!(replica.equal_now().await.unwrap(), 2);
    assert_eq!(Pod::ready(&world, &gateways, 1, PATIENCE).await.unwrap(), before);
    drop(nobody_stops);
    let all = replica.cycles().await.unwrap();
    assert_eq!(all[0].status.as_ref().unwrap().source.as_ref().unwrap().epoch, Some(1));
    assert!(all.iter().all(|cycle| phase(cycle) == Some(CyclePhase::Succeeded)), "{}", replica.story().await.unwrap());
    leaves_nothing(&replica).await;
}

/// Which blob of a cycle is damaged, and how.
enum Damage {
    Flipped,
    Deleted,
}

/// Damages a segment of the cycle that waits to be applied; gives the segment's name.
async fn damage(replica: &Replica, damage: &Damage) -> String {
    let cycle = of(replica, &replica.reaches(CyclePhase::Applying, PATIENCE).await.unwrap()).await;
    let store = &replica.world.log.store;
    let name = replica.world.log.segments(cycle).await.unwrap().into_keys().next().unwrap();
    match damage {
        Damage::Flipped => {
            let blob = store.get(&name).await.unwrap().unwrap();
            let mut bytes = blob.body.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            store.put(&name, bytes.into(), When::Matches(blob.etag), None).await.unwrap();
        }
        Damage::Deleted => assert!(store.delete(&name, None).await.unwrap()),
    }
    name
}

#[tokio::test]
async fn a_block_damaged_or_dropped_in_the_log_fails_its_cycle() {
    let (mut world, _gate) = beside_others().await;
    let own = site(&mut world, "damages", 1).await;
    let both = [("corrupt-block", Damage::Flipped, "BlobDamaged"), ("drop-block", Damage::Deleted, "BlobNotFound")];
    let mut replicas = Vec::new();
    for (name, _, _) in &both {
        replicas.push(own.replicate(name, "").await.unwrap());
    }
    let diaries: Vec<Diary> = replicas.iter().map(|replica| Diary::keep(replica, &own.name)).collect();
    for replica in &replicas {
        replica.succeeded(2, PATIENCE).await.unwrap();
        assert_eq!(replica.equal_now().await.unwrap(), 2);
    }

    // The log of a delta lies there, and nobody applies it yet.
    let appliers = workers(&own.name, "applier");
    own.edit(json!({ "applier": { "replicas": 0 } })).await.unwrap();
    Pod::ready(&world, &appliers, 0, PATIENCE).await.unwrap();
    for ((name, how, _), replica) in both.iter().zip(&replicas) {
        world.vcenter.write(name, 2000, 20 * MIB, 3 * MIB, 51).await.unwrap();
        world.vcenter.write(name, 2001, 2 * MIB, MIB, 52).await.unwrap();
        replica.sync_now("damaged").await.unwrap();
        println!("{} of {name}", damage(replica, how).await);
    }
    own.edit(json!({ "applier": { "replicas": 1 } })).await.unwrap();

    for ((name, _, reason), (replica, diary)) in both.iter().zip(replicas.iter().zip(&diaries)) {
        let third = format!("{name}-3");
        let told = diary.tells(reason, &[".seg", "the next cycle covers the same ground"], PATIENCE).await.unwrap();
        println!("{told:?}");
        let began = wait::now();
        let failed = replica.reaches(CyclePhase::Failed, PATIENCE).await.unwrap();
        assert_eq!((failed.metadata.name.as_deref(), failed.spec.cycle), (Some(third.as_str()), 3));
        assert_eq!(failed.status.unwrap().failure.unwrap().reason, *reason);
        replica.told(reason, PATIENCE).await.unwrap();
        replica.succeeded(3, PATIENCE).await.unwrap();
        println!("the next one has covered it after {:.1?}", began.elapsed());
        assert_eq!(replica.equal_now().await.unwrap(), 2);
    }
    for replica in &replicas {
        leaves_nothing(replica).await;
    }
}
