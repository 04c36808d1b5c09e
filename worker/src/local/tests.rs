use std::fs;

use super::*;

/// Nobody listens.
struct Deaf;

impl Progress for Deaf {
    fn note(&self, _: Event) {}
}

impl Listener for Deaf {
    fn tell(&self, _: RunEvent) {}
}

async fn local(folder: &std::path::Path) -> Local {
    let path = folder.join("vm1.yaml");
    let disks = "disks:\n- key: 2000\n  source: {file: a}\n  changed: {areas: [[0, 512]], since: local/1}\n  replica: {file: r}\n";
    fs::write(&path, format!("{disks}logStore: {{directory: log}}\nkey: {{file: key}}\n")).unwrap();
    Local::open(CycleFile::read(&path).unwrap(), Options::default(), Arc::new(Deaf)).await.unwrap()
}

/// A gateway that made the manifest up again, of what it has read from one state of the images and the change IDs of another, would lose what
/// changed in between for good.
#[tokio::test]
async fn a_deleted_manifest_is_not_made_again_from_later_images() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), vec![1; 4096]).unwrap();
    fs::write(folder.path().join("key"), format!("1 {}\n", "07".repeat(32))).unwrap();
    let first = local(folder.path()).await;
    let ledger = first.prepare().await.unwrap();
    let Next::Run { of, resumed: false } = first.next(&ledger, false).await.unwrap() else { panic!("a new cycle") };
    assert_eq!(first.send(of).await, Ok(Ok(())));
    assert!(first.env.store.delete(&names::manifest(of), None).await.unwrap());
    fs::write(folder.path().join("a"), vec![2; 4096]).unwrap();

    let second = local(folder.path()).await;
    assert_eq!(second.send(of).await, Ok(Err(Reason::ManifestMissing)));
    assert_eq!(second.env.store.get(&names::manifest(of)).await.unwrap().map(|blob| blob.body), None);
    let outcome = second.run().await.unwrap();
    assert_eq!((outcome.cycle, outcome.finished), (2, Vec::new()));
    assert_eq!(fs::read(folder.path().join("r")).unwrap(), vec![2; 4096]);
}
