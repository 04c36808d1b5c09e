use std::sync::atomic::{AtomicU32, Ordering};

use blocklog::{
    codec::Sealer,
    cycle::{Epochs, Figures, Manifest, ManifestDisk, Mode, OrderSeed},
    ids::{Cycle, CycleId, Digest, DiskCycle, Epoch, Incarnation, Owner, Turn},
    keys::KeyRing,
    ledger::{Ledger, Seed},
    segment::SegmentBuilder,
    setback::Setback,
    store::{Blob, LeaseId, Listed, StoreError, When, memory::MemoryStore},
};
use bytes::Bytes;
use reasons::Reason;
use replica::raw_file::RawFileDisk;

use super::*;

fn vm(n: u128) -> VmId {
    VmId { vcenter: Uuid::from_u128(1), instance: Uuid::from_u128(n) }
}

fn owner() -> Owner {
    Owner { cluster: "demo".into(), object: "apps/web".into() }
}

struct Rig {
    applier: Arc<Applier>,
    store: Arc<MemoryStore>,
    folder: tempfile::TempDir,
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, KeyRing::new_file(1, &SystemEntropy).as_str()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let text = format!(
        "cluster: demo\nkey: {{file: {}}}\n\
         logStore: {{accountUrl: 'https://a.blob.core.windows.net', container: c, identity: {{workload: {{}}}}}}\n",
        key.display()
    );
    let file = folder.path().join("applier.yaml");
    std::fs::write(&file, text).unwrap();
    let config = ApplierConfig::read(&file).unwrap();
    let cpu = Arc::new(Threads::new(1).unwrap());
    let applier = Applier { config, store: store.clone(), auth: Auth::Url, cpu, clock, health: Health::waiting_for(&["orders"]) };
    Rig { applier: Arc::new(applier), store, folder }
}

#[test]
fn the_vm_of_an_order() {
    let prefix = names::orders("demo");
    assert_eq!(vm_of(&prefix, &names::order(&owner(), vm(2))), Some(vm(2)));
    for name in ["x", "x.y", &format!("{}.{}", vm(1).vcenter, vm(1).instance.simple()), &format!("{}", vm(1).vcenter)] {
        assert_eq!(vm_of(&prefix, &format!("{prefix}{name}")), None, "{name}");
    }
    assert_eq!(vm_of(&prefix, &names::order(&Owner { cluster: "other".into(), object: String::new() }, vm(2))), None);
}

#[tokio::test]
async fn an_order_that_was_carried_out_is_left_alone() {
    let Rig { applier, store, .. } = rig();
    let name = names::order(&owner(), vm(2));
    store.put(&name, "one".into(), When::Always, None).await.unwrap();
    store
        .put(&names::order(&Owner { cluster: "other".into(), object: String::new() }, vm(3)), "x".into(), When::Always, None)
        .await
        .unwrap();
    let mut tried = BTreeMap::new();
    let found = applier.orders(&mut tried, &[]).await;
    assert_eq!(found.iter().map(|(name, vm, _)| (name.clone(), *vm)).collect::<Vec<_>>(), [(name.clone(), vm(2))]);
    assert!(applier.orders(&mut tried, std::slice::from_ref(&name)).await.is_empty(), "it is under way");
    let etag = store.get(&name).await.unwrap().map(|blob| blob.etag);
    applier.note(&mut tried, Carried { name: name.clone(), etag, result: Ok(End::Clean), given_up: false });
    assert!(applier.orders(&mut tried, &[]).await.is_empty());
    store.put(&name, "two".into(), When::Always, None).await.unwrap();
    assert_eq!(applier.orders(&mut tried, &[]).await.len(), 1);
    store.delete(&name, None).await.unwrap();
    applier.orders(&mut tried, &[]).await;
    assert!(tried.is_empty());
}

#[tokio::test]
async fn an_order_that_fails_waits_longer_each_time() {
    let Rig { applier, .. } = rig();
    let mut tried = BTreeMap::new();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let failure = Failure::new(crate::failure::Kind::Other, "x", "y");
        let now = applier.clock.monotonic();
        applier.note(&mut tried, Carried { name: "o".into(), etag: None, result: Err(failure), given_up: false });
        pauses.push((tried["o"].next - now).as_secs());
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
    applier.note(&mut tried, Carried { name: "o".into(), etag: None, result: Ok(End::Busy), given_up: false });
    assert_eq!((tried["o"].failures, applier.health.failed.load(Ordering::Relaxed)), (0, 8));
}

#[tokio::test]
async fn a_damaged_order_stops_neither_the_others_nor_the_end() {
    let Rig { applier, store, .. } = rig();
    for n in 2..9 {
        store.put(&names::order(&owner(), vm(n)), "damaged".into(), When::Always, None).await.unwrap();
    }
    let looked = AtomicU32::new(0);
    let clock = applier.clock.clone();
    let stop = async {
        // Seven orders, four at a time: all of them are tried.
        while applier.health.failed.load(Ordering::Relaxed) < 7 {
            clock.sleep(Duration::from_millis(20)).await;
            assert!(looked.fetch_add(1, Ordering::Relaxed) < 1500, "{} were tried", applier.health.failed.load(Ordering::Relaxed));
        }
    };
    applier.run(stop).await;
    assert_eq!(applier.health.running.load(Ordering::Relaxed), 0);
}

/// A store whose answers never come.
struct Silent;

#[async_trait]
impl LogStore for Silent {
    async fn get(&self, _: &str) -> Result<Option<Blob>, StoreError> {
        std::future::pending().await
    }
    async fn get_range(&self, _: &str, _: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        std::future::pending().await
    }
    async fn put(&self, _: &str, _: Bytes, _: When, _: Option<LeaseId>) -> Result<ETag, StoreError> {
        std::future::pending().await
    }
    async fn stage(&self, _: &str, _: u32, _: Vec<Bytes>) -> Result<(), StoreError> {
        std::future::pending().await
    }
    async fn commit(&self, _: &str, _: u32) -> Result<(), StoreError> {
        std::future::pending().await
    }
    async fn delete(&self, _: &str, _: Option<LeaseId>) -> Result<bool, StoreError> {
        std::future::pending().await
    }
    async fn list(&self, _: &str) -> Result<Vec<Listed>, StoreError> {
        std::future::pending().await
    }
    async fn acquire(&self, _: &str, _: LeaseId) -> Result<(), StoreError> {
        std::future::pending().await
    }
    async fn renew(&self, _: &str, _: LeaseId) -> Result<(), StoreError> {
        std::future::pending().await
    }
    async fn release(&self, _: &str, _: LeaseId) -> Result<(), StoreError> {
        std::future::pending().await
    }
    async fn break_lease(&self, _: &str) -> Result<(), StoreError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_store_that_is_silent_does_not_hold_up_the_end() {
    let Rig { applier, folder: _folder, .. } = rig();
    let applier = Arc::into_inner(applier).unwrap();
    let applier = Applier { store: Arc::new(Silent), ..applier };
    let clock = applier.clock.clone();
    let begun = clock.monotonic();
    applier.run(clock.sleep(Duration::from_millis(300))).await;
    assert!(clock.monotonic() - begun < Duration::from_secs(3));
}

const DISK: DiskKey = DiskKey(2000);
const MIB: u64 = 1 << 20;

/// A cycle that is sent and ordered: one disk, one segment.
struct Sent {
    rig: Rig,
    keys: KeyRing,
    order: String,
    segment: String,
    of: CycleId,
}

impl Sent {
    async fn new() -> Self {
        let rig = rig();
        let keys = open::keys(&rig.applier.config.key).unwrap();
        let of = CycleId { vm: vm(2), incarnation: Incarnation(Uuid::from_u128(9)), cycle: Cycle(1) };
        let (path, id) = (rig.folder.path().join("replica.raw"), Uuid::from_u128(7));
        drop(RawFileDisk::create(&path, MIB, id).await.unwrap());
        let seed = Seed { id: path.display().to_string(), unique_id: id.to_string(), capacity: MIB };
        let ledger = Ledger::new(of.vm, owner(), of.incarnation, MIB as u32, [(DISK, seed)].into());
        let mut epochs = Epochs::default();
        let key = epochs.add(&keys, of, Epoch(1), &SystemEntropy);
        let at = DiskCycle { of, disk: DISK };
        let plain = vec![0x5a; 4096];
        let record = Sealer::new(at, &key).data(0, plain.clone(), *blake3::hash(&plain).as_bytes());
        let mut builder = SegmentBuilder::new(at, Epoch(1), 0, &key, MIB, MIB as usize);
        let mut parts = builder.push(&record);
        let (rest, _, segment) = builder.finish();
        parts.extend(rest);
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.pieces.iter().flatten().copied()).collect();
        let disk = ManifestDisk {
            seed: id.to_string(),
            capacity: MIB,
            mode: Mode::Full,
            partial: false,
            change_id: None,
            extents: std::iter::once(0..8).collect(),
            segments: vec![segment],
            figures: Figures::default(),
        };
        let snapshot_taken = rig.applier.clock.now();
        let disks = [(DISK, disk)].into();
        let manifest = Manifest { of, owner: owner(), basis: Turn(0), block: MIB as u32, snapshot_taken, epochs, disks };
        let sent = Self { keys, order: names::order(&owner(), of.vm), segment: names::segment(at, Epoch(1), 0), of, rig };
        sent.put(&names::ledger(of.vm), document::encode(&sent.keys, &names::ledger(of.vm), &ledger).unwrap()).await;
        sent.put(&sent.segment, bytes.into()).await;
        let manifest = document::encode(&sent.keys, &names::manifest(of), &manifest).unwrap();
        let digest = Digest::of(&manifest);
        sent.put(&names::manifest(of), manifest).await;
        let access = serde_json::to_vec(&ReplicaAccess::File { path }).unwrap();
        let seed = OrderSeed::seal(&sent.keys, of.vm, of.incarnation, DISK, &id.to_string(), &access, &SystemEntropy);
        let order = Order { of, owner: owner(), manifest: digest, seeds: [(DISK, seed)].into(), tokens: BTreeMap::new() };
        sent.put(&sent.order, document::encode(&sent.keys, &sent.order, &order).unwrap()).await;
        sent
    }

    async fn put(&self, name: &str, bytes: Bytes) {
        self.rig.store.put(name, bytes, When::Always, None).await.unwrap();
    }

    async fn carry_out(&self) -> Carried {
        let (stopped, stop) = watch::channel(false);
        let carried = self.rig.applier.carry_out(self.order.clone(), self.of.vm, None, stop).await;
        drop(stopped);
        carried
    }

    fn setback(&self) -> Option<Setback> {
        let name = names::setback(self.of);
        self.rig.store.peek(&name).map(|bytes| document::decode(&self.keys, &name, &bytes).unwrap())
    }

    fn ledger(&self) -> Ledger {
        let name = names::ledger(self.of.vm);
        document::decode(&self.keys, &name, &self.rig.store.peek(&name).unwrap()).unwrap()
    }
}

fn told(setback: &Setback) -> (Reason, Option<DiskKey>, u32, bool) {
    (setback.reason, setback.disk, setback.tries, setback.for_good)
}

#[tokio::test]
async fn a_damaged_segment_gives_the_cycle_up_in_writing() {
    let sent = Sent::new().await;
    sent.rig.store.corrupt(&sent.segment, |bytes| bytes[90] ^= 1);
    let carried = sent.carry_out().await;
    let failure = carried.result.as_ref().unwrap_err();
    let setback = sent.setback().unwrap();
    assert_eq!(told(&setback), (Reason::BlobDamaged, Some(DISK), 1, true));
    assert!(setback.message.contains(&sent.segment) && failure.reason == Some(setback.reason), "{setback:?}");
    assert_eq!((setback.of, setback.turn), (sent.of, Some(sent.ledger().turn)));
    assert!(std::fs::read(sent.rig.folder.path().join("replica.raw")).unwrap().iter().all(|byte| *byte == 0), "nothing of it was written");
    // The operator knows, and no other try can help: it is left alone until the order is another one.
    assert!(carried.given_up);
    let (applier, mut tried) = (&sent.rig.applier, BTreeMap::new());
    let now = applier.clock.monotonic();
    applier.note(&mut tried, carried);
    assert!(tried[&sent.order].next - now > LONGEST_PAUSE);

    // Another applier that fails otherwise does not take it back.
    std::fs::remove_file(sent.rig.folder.path().join("replica.raw")).unwrap();
    let carried = sent.carry_out().await;
    assert_eq!(carried.result.unwrap_err().reason, Some(Reason::SeedReplaced));
    assert_eq!(sent.setback().unwrap(), setback);
}

#[tokio::test]
async fn a_missing_segment_and_a_missing_manifest_give_the_cycle_up() {
    let sent = Sent::new().await;
    sent.rig.store.delete(&sent.segment, None).await.unwrap();
    sent.carry_out().await;
    assert_eq!(told(&sent.setback().unwrap()), (Reason::BlobNotFound, Some(DISK), 1, true));
    let sent = Sent::new().await;
    sent.rig.store.delete(&names::manifest(sent.of), None).await.unwrap();
    sent.carry_out().await;
    assert_eq!(told(&sent.setback().unwrap()), (Reason::BlobMissing, None, 1, true));
}

#[tokio::test]
async fn what_may_pass_is_told_and_tried_again() {
    let sent = Sent::new().await;
    let replica = sent.rig.folder.path().join("replica.raw");
    let other = RawFileDisk::open(&replica).await.unwrap();
    assert!(!sent.carry_out().await.given_up);
    let first = sent.setback().unwrap();
    assert_eq!(told(&first), (Reason::ReplicaInUse, Some(DISK), 1, false));
    sent.carry_out().await;
    let second = sent.setback().unwrap();
    assert_eq!((told(&second), second.first), ((Reason::ReplicaInUse, Some(DISK), 2, false), first.first));
    assert!(second.last > first.last);
    // One that can't be read is replaced.
    sent.rig.store.corrupt(&names::setback(sent.of), |bytes| bytes[120] ^= 1);
    sent.carry_out().await;
    assert_eq!(sent.setback().unwrap().tries, 1);
    // The next try begins a turn, and says nothing more: the ledger does.
    drop(other);
    assert_eq!(sent.carry_out().await.result, Ok(End::Clean));
    assert!(sent.ledger().is_clean() && sent.setback().unwrap().turn < Some(sent.ledger().turn));
    assert_eq!(&std::fs::read(replica).unwrap()[..4097], [vec![0x5a; 4096], vec![0]].concat());
}

#[tokio::test]
async fn what_can_not_be_written_down_is_tried_again_as_any_failure() {
    let sent = Sent::new().await;
    sent.rig.store.corrupt(&sent.segment, |bytes| bytes[90] ^= 1);
    sent.put(&names::setback(sent.of), "somebody is at it".into()).await;
    sent.rig.store.acquire(&names::setback(sent.of), LeaseId(Uuid::from_u128(1))).await.unwrap();
    let carried = sent.carry_out().await;
    assert_eq!((carried.result.unwrap_err().reason, carried.given_up), (Some(Reason::BlobDamaged), false));
}

#[tokio::test]
async fn what_is_no_failure_of_the_order_is_not_told() {
    // Another applier is at it.
    let sent = Sent::new().await;
    let lease = LeaseId(Uuid::from_u128(1));
    sent.rig.store.acquire(&names::ledger(sent.of.vm), lease).await.unwrap();
    assert_eq!(sent.carry_out().await.result, Ok(End::Busy));
    sent.rig.store.release(&names::ledger(sent.of.vm), lease).await.unwrap();
    // The key file is none: nothing could be told that the operator believes.
    let key = sent.rig.folder.path().join("key");
    let text = std::fs::read(&key).unwrap();
    std::fs::write(&key, "1 5ec2\n").unwrap();
    assert!(sent.carry_out().await.result.is_err());
    std::fs::write(&key, text).unwrap();
    // The order is damaged, or gone.
    sent.rig.store.corrupt(&sent.order, |bytes| bytes[150] ^= 1);
    assert!(sent.carry_out().await.result.is_err());
    sent.rig.store.delete(&sent.order, None).await.unwrap();
    assert_eq!(sent.carry_out().await.result, Ok(End::NoOrder));
    assert_eq!(sent.setback(), None);
    // It was taken back while it was tried: nothing is left behind for nobody.
    let order = Order { of: sent.of, owner: owner(), manifest: Digest::of(b""), seeds: BTreeMap::new(), tokens: BTreeMap::new() };
    let env = sent.rig.applier.env().unwrap();
    assert_eq!(applier::note_setback(&env, &sent.order, &order, &ApplierError::Stopped).await, Ok(None));
    assert_eq!(sent.setback(), None);
}
