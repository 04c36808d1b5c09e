use super::*;

const LEAST: &str =
    "disks:\n- key: 2000\n  source: {file: a.raw}\n  replica: {file: /r/b.raw}\nlogStore: {directory: log}\nkey: {file: k}\n";

fn read(text: &str) -> Result<CycleFile, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm1.yaml");
    std::fs::write(&path, text).unwrap();
    CycleFile::read(&path).map_err(|failure| {
        assert_eq!(failure.kind, Kind::BadFile);
        failure.message.replace(&format!("{}: ", path.display()), "")
    })
}

#[test]
fn the_least_that_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm1.yaml");
    std::fs::write(&path, LEAST).unwrap();
    let file = CycleFile::read(&path).unwrap();
    assert_eq!(file.owner.to_string(), "local/vm1");
    assert_eq!(file.disks[&DiskKey(2000)].source, SourceAt::File(folder.path().join("a.raw")));
    assert_eq!(file.disks[&DiskKey(2000)].replica, ReplicaAt::File("/r/b.raw".into()));
    assert_eq!(file.log_store, StoreAt::Directory(folder.path().join("log")));
    assert!(!file.full && file.snapshot.is_none());
    assert_eq!(file.vm, read(LEAST).unwrap().vm, "the same name gives the same VM");
    let other = read(&format!("owner: {{object: vm2}}\n{LEAST}")).unwrap();
    assert_eq!(other.vm.vcenter, file.vm.vcenter);
    assert_ne!(other.vm.instance, file.vm.instance);
    assert_eq!(file.vm.instance.get_version_num(), 8);
}

#[test]
fn everything() {
    let file = read(
        "owner: {cluster: demo, object: default/vm1}\n\
         vm: {vcenter: 11111111-1111-4111-8111-111111111111, instance: 22222222-2222-4222-8222-222222222222}\n\
         mode: full\n\
         snapshot: {id: nightly-7}\n\
         disks:\n\
         - key: 2000\n  source: {nbd: 'nbds+unix:///x?socket=s.sock', tls: {caFile: ca.pem}}\n  changed: {areas: [[0, 512], [1024, 512]], since: nightly-6}\n  replica: {pageBlob: {url: 'https://a.blob.core.windows.net/c/b', accountKeyFile: k}}\n\
         - key: 2001\n  source: {file: a}\n  changed: {compareWith: b, since: monday}\n  replica: {sas: {urlFile: u}}\n\
         logStore: {azure: {accountUrl: 'https://a.blob.core.windows.net', container: log, sasFile: s}}\n\
         key: {file: k}\n\
         segmentBytes: 8388608\nmemoryBytes: 16777216\nbitsPerSecond: 1000000\ncpus: 2\n",
    )
    .unwrap();
    assert!(file.full);
    assert_eq!(file.snapshot.as_deref(), Some("nightly-7"));
    let disk = &file.disks[&DiskKey(2000)];
    let SourceAt::Nbd(target) = &disk.source else { panic!("{disk:?}") };
    assert!(matches!(&target.address, NbdAddress::Unix(path) if path.is_absolute()));
    assert!(target.tls.as_ref().unwrap().ca_file.is_absolute());
    let changed = Changed { by: ChangedBy::Areas(vec![(0, 512), (1024, 512)]), since: "nightly-6".to_owned() };
    assert_eq!(disk.changed, Some(changed));
    assert_eq!(file.tuning, Tuning { segment: Some(8 << 20), memory: Some(16 << 20), bits_per_second: Some(1_000_000), cpus: Some(2) });
}

/// Each with the line and the field that its message has to name.
#[test]
fn what_is_wrong_is_named_with_line_and_field() {
    let disk = |lines: &str| format!("logStore: {{directory: log}}\nkey: {{file: k}}\ndisks:\n{lines}");
    let cases = [
        (format!("{LEAST}colour: red\n"), "colour", "line 7"),
        (disk("- key: 2000\n  source: {fiel: a}\n  replica: {file: b}\n"), "fiel", "line 5"),
        (disk("- key: 2000\n  source: {file: a, nbd: 'nbd://h'}\n  replica: {file: b}\n"), "source", "line 4"),
        (disk("- key: 2000\n  source: {nbd: 'http://h'}\n  replica: {file: b}\n"), "source.nbd", "line 4"),
        (disk("- key: two\n  source: {file: a}\n  replica: {file: b}\n"), "disks[0].key", "line 4"),
        (disk("- key: 1\n  source: {file: a}\n"), "replica", "line 4"),
        (disk("- key: 1\n  source: {file: a}\n  replica: {}\n"), "replica", "line 4"),
        (
            disk("- key: 1\n  source: {file: a}\n  replica: {file: b}\n  changed: {areas: [[0, 0]], since: monday}\n"),
            "changed.areas",
            "line 4",
        ),
        (disk("- key: 1\n  source: {file: a}\n  replica: {file: b}\n  changed: {since: x}\n"), "changed", "line 4"),
        (disk("- key: 1\n  source: {file: a}\n  replica: {file: b}\n  changed: {areas: [[0, 512]]}\n"), "add `since`", "line 4"),
        (
            LEAST.replace("{directory: log}", "{azure: {accountUrl: 'https://a.b/?sig=x', container: c, sasFile: s}}"),
            "accountUrl",
            "line 5",
        ),
        (format!("mode: half\n{LEAST}"), "mode", "line 1"),
        ("disks: [\n".to_owned(), "line", "line 2"),
    ];
    for (text, field, line) in cases {
        let error = read(&text).unwrap_err();
        assert!(error.contains(field) && error.contains(line), "{text}\ngave: {error}");
    }
}

#[test]
fn what_is_found_wrong_later_is_named_too() {
    let twice = LEAST.replace("logStore", "- key: 2000\n  source: {file: a}\n  replica: {file: b}\nlogStore");
    let cases = [
        (twice, "disks[1].key: 2000 is there twice"),
        (format!("owner: {{cluster: ../x}}\n{LEAST}"), "owner.cluster"),
        (format!("owner: {{object: ''}}\n{LEAST}"), "owner.object"),
        (format!("snapshot: {{id: ''}}\n{LEAST}"), "snapshot.id"),
        (format!("segmentBytes: 1\n{LEAST}"), "segmentBytes: 1 is not between"),
        (format!("cpus: 0\n{LEAST}"), "cpus"),
        ("disks: []\nlogStore: {directory: l}\nkey: {file: k}\n".to_owned(), "disks"),
    ];
    for (text, expected) in cases {
        let error = read(&text).unwrap_err();
        assert!(error.contains(expected) && error.contains(" at line "), "{text}\ngave: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(CycleFile::read(&folder.path().join("absent.yaml")).unwrap_err().message.contains("absent.yaml"));
}

#[test]
fn a_signature_is_not_shown() {
    let signed = LEAST.replace("{file: /r/b.raw}", "{pageBlob: {url: 'https://a.blob.core.windows.net/c/b?sig=SECRET'}}");
    let file = read(&signed).unwrap();
    assert!(!format!("{file:?}").contains("SECRET"));
    let error = read(&signed.replace("https", "ftp")).unwrap_err();
    assert!(!error.contains("SECRET"), "{error}");
}
