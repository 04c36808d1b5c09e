use std::sync::atomic::{AtomicU32, Ordering};

use blocklog::{
    keys::KeyRing,
    store::{Blob, LeaseId, Listed, StoreError, When, memory::MemoryStore},
};
use bytes::Bytes;

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
    _folder: tempfile::TempDir,
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
    Rig { applier: Arc::new(applier), store, _folder: folder }
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
async fn an_order_that_was_carried_out_is_left_alone_until_it_is_another_one() {
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
    applier.note(&mut tried, name.clone(), etag, &Ok(End::Clean));
    assert!(applier.orders(&mut tried, &[]).await.is_empty());
    store.put(&name, "two".into(), When::Always, None).await.unwrap();
    assert_eq!(applier.orders(&mut tried, &[]).await.len(), 1);
    store.delete(&name, None).await.unwrap();
    applier.orders(&mut tried, &[]).await;
    assert!(tried.is_empty());
}

#[tokio::test]
async fn what_fails_waits_longer_each_time_and_what_is_busy_is_no_failure() {
    let Rig { applier, .. } = rig();
    let mut tried = BTreeMap::new();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let failure = Failure::new(crate::failure::Kind::Other, "x", "y");
        let now = applier.clock.monotonic();
        applier.note(&mut tried, "o".into(), None, &Err(failure));
        pauses.push((tried["o"].next - now).as_secs());
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
    applier.note(&mut tried, "o".into(), None, &Ok(End::Busy));
    assert_eq!((tried["o"].failures, applier.health.failed.load(Ordering::Relaxed)), (0, 8));
}

#[tokio::test]
async fn it_ends_when_it_is_told_to_and_a_damaged_order_does_not_stop_the_others() {
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
    let Rig { applier, _folder, .. } = rig();
    let applier = Arc::into_inner(applier).unwrap();
    let applier = Applier { store: Arc::new(Silent), ..applier };
    let clock = applier.clock.clone();
    let begun = clock.monotonic();
    applier.run(clock.sleep(Duration::from_millis(300))).await;
    assert!(clock.monotonic() - begun < Duration::from_secs(3));
}
