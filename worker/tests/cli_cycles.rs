//! Cycles with the real binary: from files to a log in a folder to files.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod cli_support;

use std::{fs, os::unix::fs::MetadataExt, process::Command, time::Duration};

use cli_support::{Bench, MIB, Run, Running, content};

/// Not whole megabytes.
const SIZE: usize = 8 * MIB + 1536;

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[test]
fn the_second_cycle_finds_everything_in_place() {
    let bench = Bench::new(SIZE);
    let first = bench.good_cycle();
    let disk = first.disk(0);
    assert_eq!((&disk["mode"], number(&disk["changed"]), &disk["verified"]), (&"Full".into(), SIZE as u64, &true.into()));
    // Two of every three megabytes hold data; a new replica is zero already.
    assert_eq!(number(&disk["applied"]["written"]), 5 * MIB as u64 + 1536, "{disk}");
    assert_eq!((number(&disk["applied"]["cleared"]), number(&disk["inPlace"])), (0, 3 * MIB as u64));
    let uploaded = number(&disk["uploaded"]);
    assert!((3 * MIB as u64..4 * MIB as u64).contains(&uploaded), "{disk}");
    assert!(fs::metadata(bench.path("r.raw")).unwrap().blocks() * 512 < SIZE as u64, "zeroes take no room");

    let again = bench.good_cycle();
    let disk = again.disk(0);
    assert_eq!((&disk["mode"], number(&disk["uploaded"]), number(&disk["inPlace"])), (&"Full".into(), 0, SIZE as u64));
    assert_eq!(disk["applied"], serde_json::json!({"written": 0, "cleared": 0}));
    assert_eq!(again.last()["cycle"], 2);
    assert_eq!(bench.verify().code, Some(0));
    // What is done with is gone: the ledger, its fingerprints, the last receipt and the key check are left.
    let left: Vec<String> = bench.blobs("").iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(left.len(), 5, "{left:?}");
}

#[test]
fn a_list_of_areas_sends_what_it_names() {
    let mut bench = Bench::new(SIZE);
    bench.head = "snapshot: {id: monday}\n".to_owned();
    bench.good_cycle();
    bench.patch(5000, b"here");
    bench.patch(SIZE - 512, b"there");
    bench.head = "snapshot: {id: tuesday}\n".to_owned();
    bench.changed = Some(format!("{{areas: [[5000, 4], [{}, 512]], since: monday}}", SIZE - 512));
    let delta = bench.good_cycle();
    let disk = delta.disk(0);
    assert_eq!((&disk["mode"], number(&disk["changed"]), number(&disk["applied"]["written"])), (&"Changed".into(), 1024, 1024));
    // The same list a second time is from a state that the replica is past.
    bench.head = "snapshot: {id: wednesday}\n".to_owned();
    bench.patch(2 * MIB, b"not in the list");
    assert_eq!(bench.good_cycle().disk(0)["mode"], "Full");
}

#[test]
fn areas_may_stand_in_a_file() {
    let mut bench = Bench::new(SIZE);
    bench.good_cycle();
    bench.patch(3 * MIB, &[7; 4096]);
    fs::write(bench.path("areas"), format!("# start length\n{} 4096\n", 3 * MIB)).unwrap();
    bench.changed = Some("{areasFile: areas, since: local/1}".to_owned());
    let delta = bench.good_cycle();
    assert_eq!((&delta.disk(0)["mode"], number(&delta.disk(0)["changed"])), (&"Changed".into(), 4096));
}

#[test]
fn two_images_tell_what_changed() {
    let mut bench = Bench::new(SIZE);
    bench.good_cycle();
    fs::copy(bench.path("a.raw"), bench.path("before.raw")).unwrap();
    bench.patch(MIB + 70_000, b"x");
    bench.patch(SIZE - 1, b"x");
    bench.changed = Some("{compareWith: before.raw, since: local/1}".to_owned());
    let delta = bench.good_cycle();
    let disk = delta.disk(0);
    assert_eq!((&disk["mode"], number(&disk["changed"])), (&"Changed".into(), 65536 + 1536));
    // Nothing changed: nothing is sent, and it is a recovery point all the same.
    fs::copy(bench.path("a.raw"), bench.path("before.raw")).unwrap();
    bench.changed = Some("{compareWith: before.raw, since: local/2}".to_owned());
    let nothing = bench.good_cycle();
    assert_eq!((number(&nothing.disk(0)["changed"]), number(&nothing.disk(0)["uploaded"])), (0, 0));
}

#[test]
fn what_became_zero_becomes_a_hole() {
    for changed in [None, Some(format!("{{areas: [[0, {}]], since: local/1}}", 3 * MIB))] {
        let mut bench = Bench::new(SIZE);
        bench.good_cycle();
        let before = fs::metadata(bench.path("r.raw")).unwrap().blocks();
        bench.patch(0, &vec![0; 3 * MIB]);
        bench.changed = changed;
        let run = bench.good_cycle();
        // The second megabyte was zero before: a comparison knows it, a list of changes doesn't.
        let cleared = if bench.changed.is_none() { 2 * MIB } else { 3 * MIB };
        assert_eq!(number(&run.disk(0)["applied"]["cleared"]), cleared as u64, "{run:?}");
        let after = fs::metadata(bench.path("r.raw")).unwrap().blocks();
        // A file of more pieces may need a block more for their places.
        assert!(after + 2 * MIB as u64 / 512 <= before + 64, "{before} blocks became {after}");
    }
}

#[test]
fn disks_go_together_and_one_may_be_added() {
    let bench = Bench::new(SIZE);
    fs::write(bench.path("b.raw"), &content(3 * MIB)[MIB..]).unwrap();
    let disk = |key: u32, name: &str| format!("- key: {key}\n  source: {{file: {name}.raw}}\n  replica: {{file: {name}.replica}}\n");
    let cycle = |disks: &str| bench.run(&["cycle", bench.write_file("vm.yaml", disks).to_str().unwrap()]);
    let two = format!("{}{}", disk(2000, "a"), disk(2001, "b"));
    assert_eq!(cycle(&two).code, Some(0));
    bench.assert_equal("a.raw", "a.replica");
    bench.assert_equal("b.raw", "b.replica");
    fs::write(bench.path("c.raw"), content(MIB)).unwrap();
    let three = format!("{two}{}", disk(2002, "c"));
    let run = cycle(&three);
    assert_eq!((run.code, run.last()["disks"].as_array().map(Vec::len)), (Some(0), Some(3)), "{run:?}");
    assert!(run.events("warning").iter().any(|line| line["message"].as_str().unwrap().contains("disk 2002 is new")));
    bench.assert_equal("c.raw", "c.replica");
    cycle(&two).assert_failed(2, "BadFile", "disk 2002");
}

#[test]
fn a_replica_that_is_gone_is_made_anew_and_may_be_larger() {
    let mut bench = Bench::new(SIZE);
    bench.changed = Some("{areas: [[0, 512]], since: local/1}".to_owned());
    bench.good_cycle();
    fs::remove_file(bench.path("r.raw")).unwrap();
    let run = bench.good_cycle();
    assert_eq!(run.disk(0)["mode"], "Full");
    assert!(run.events("warning").iter().any(|line| line["message"].as_str().unwrap().contains("seed is gone")), "{run:?}");
    fs::write(bench.path("a.raw"), content(SIZE + MIB)).unwrap();
    bench.cycle().assert_failed(13, "ReplicaTooSmall", "disk 2000");
    fs::rename(bench.path("r.raw"), bench.path("old.raw")).unwrap();
    bench.good_cycle();
}

#[test]
fn an_export_is_a_source() {
    let bench = Bench::new(SIZE);
    let (socket, pid) = (bench.path("s"), bench.path("pid"));
    let server = Command::new("nbdkit")
        .args(["--exit-with-parent", "--foreground", "--readonly", "--unix"])
        .arg(&socket)
        .arg("--pidfile")
        .arg(&pid)
        .args(["file", bench.path("a.raw").to_str().unwrap()])
        .spawn();
    let mut server = server.expect("nbdkit is missing: install it (apt-get install nbdkit)");
    // The pid file comes when the server listens.
    while !pid.exists() {
        assert!(server.try_wait().unwrap().is_none(), "nbdkit ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let disk = "- key: 2000\n  source: {nbd: 'nbd+unix:///?socket=s'}\n  replica: {file: r.raw}\n";
    let file = bench.write_file("vm.yaml", disk);
    let run = bench.run(&["cycle", file.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{run:?}");
    bench.assert_equal("a.raw", "r.raw");
    assert_eq!(bench.run(&["verify", file.to_str().unwrap()]).code, Some(0));
    server.kill().unwrap();
    server.wait().unwrap();
    bench.run(&["cycle", file.to_str().unwrap()]).assert_failed(17, "SourceUnreachable", "disk 2000");
}

/// So slow that it can be stopped in the middle, in segments so small that something is done by then.
fn slow(bench: &mut Bench) -> Running {
    bench.head = "bitsPerSecond: 8000000\nsegmentBytes: 1048576\n".to_owned();
    let mut running = Running::start(&["cycle", bench.file().to_str().unwrap()]);
    running.until("read");
    bench.head = "segmentBytes: 1048576\n".to_owned();
    running
}

#[test]
fn a_killed_run_is_gone_on_with() {
    let mut bench = Bench::new(SIZE);
    slow(&mut bench).kill();
    assert_eq!(bench.blobs("manifest").len(), 0);
    let run = bench.good_cycle();
    assert_eq!((&run.last()["cycle"], run.events("cycle").len(), &run.events("cycle")[0]["resumed"]), (&1.into(), 1, &true.into()));
    // It says what it waits for: the lease of the one that was killed.
    assert!(run.events("waiting").iter().any(|line| line["reason"] == "BlobLeased"), "{run:?}");
    assert!(run.took < Duration::from_secs(90), "{:?}", run.took);
    assert!(number(&run.disk(0)["changed"]) >= SIZE as u64);
}

#[test]
fn a_terminated_run_gives_its_leases_back() {
    let mut bench = Bench::new(SIZE);
    let running = slow(&mut bench);
    running.terminate();
    let stopped = running.wait();
    stopped.assert_failed(143, "Terminated", "stopped");
    let run = bench.good_cycle();
    assert_eq!((&run.last()["cycle"], &run.events("cycle")[0]["resumed"]), (&1.into(), &true.into()));
    assert!(run.took < Duration::from_secs(20) && run.events("waiting").is_empty(), "{run:?}");
}

#[test]
fn an_image_that_changed_between_two_runs_is_not_mixed() {
    let mut bench = Bench::new(SIZE);
    let running = slow(&mut bench);
    running.terminate();
    running.wait();
    bench.patch(0, b"another state of the image");
    let run = bench.good_cycle();
    let warned = run.events("warning").iter().any(|line| line["message"].as_str().unwrap().contains("SnapshotLost"));
    assert!(warned && run.last()["cycle"] == 2, "{run:?}");
}

#[test]
fn a_log_that_is_complete_is_applied_before_anything_else() {
    let mut bench = Bench::new(SIZE);
    let sent = bench.send_only();
    sent.assert_failed(18, "ReplicaRefused", "in use");
    let old = fs::read(bench.path("a.raw")).unwrap();
    let run = bench.good_cycle();
    assert_eq!(
        (&run.last()["cycle"], &run.last()["finished"], &run.events("cycle")[0]["resumed"]),
        (&1.into(), &serde_json::json!([]), &true.into())
    );
    assert_eq!(run.events("reading").len(), 0, "the image did not change since: {run:?}");
    assert_eq!(old, fs::read(bench.path("r.raw")).unwrap());
}

/// The run is for the image as it is now, not as the interrupted run saw it.
#[test]
fn a_finished_cycle_of_an_older_image_is_followed_by_a_new_one() {
    let mut bench = Bench::new(SIZE);
    assert_eq!(bench.send_only().code, Some(18));
    bench.patch(MIB, b"newer");
    let run = bench.good_cycle();
    assert_eq!((&run.last()["cycle"], &run.last()["finished"]), (&2.into(), &serde_json::json!([1])));
    // Another image that lay there before the interrupted run began is another image all the same.
    let other = content(SIZE).into_iter().rev().collect::<Vec<u8>>();
    fs::write(bench.path("b.raw"), other).unwrap();
    bench.patch(0, b"something to send");
    assert_eq!(bench.send_only().code, Some(18));
    let file = bench.write_file("vm1.yaml", "- key: 2000\n  source: {file: b.raw}\n  replica: {file: r.raw}\n");
    let run = bench.run(&["cycle", file.to_str().unwrap()]);
    assert_eq!((run.code, &run.last()["finished"]), (Some(0), &serde_json::json!([3])), "{run:?}");
    bench.assert_equal("b.raw", "r.raw");
}

#[test]
fn a_replica_is_taken_over_after_a_minute() {
    let mut bench = Bench::new(SIZE);
    let vm = "vm: {vcenter: 11111111-1111-4111-8111-111111111111, instance: 22222222-2222-4222-8222-222222222222}\n";
    bench.head = format!("owner: {{cluster: one}}\n{vm}");
    bench.good_cycle();
    bench.patch(5, b"newer");
    bench.head = format!("owner: {{cluster: two}}\n{vm}");
    bench.cycle().assert_failed(16, "LedgerOfAnother", "belongs to one/vm1");
    let run = bench.run(&["cycle", bench.file().to_str().unwrap(), "--take-over"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.took >= Duration::from_secs(60) && run.events("waiting")[0]["reason"] == "TakingOver");
    bench.assert_equal("a.raw", "r.raw");
    assert_eq!(bench.good_cycle().disk(0)["uploaded"], 0);
    bench.head = format!("owner: {{cluster: one}}\n{vm}");
    bench.cycle().assert_failed(16, "LedgerOfAnother", "belongs to two/vm1");
}

#[test]
fn a_new_version_of_the_key_is_used_and_the_old_one_still_reads() {
    let bench = Bench::new(SIZE);
    bench.good_cycle();
    let key = bench.path("key");
    let secrets = fs::read_to_string(&key).unwrap();
    let added = bench.run(&["key", "add", key.to_str().unwrap()]);
    assert!(added.code == Some(0) && added.text().contains("version 2"), "{added:?}");
    let text = fs::read_to_string(&key).unwrap();
    assert!(text.starts_with(&secrets) && text.lines().filter(|line| line.starts_with("2 ")).count() == 1);
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    bench.patch(9, b"under the new key");
    bench.good_cycle();
    let ledger = fs::read_to_string(&bench.blobs("ledger")[0]).unwrap();
    assert!(ledger.starts_with("hawser/1 ledger key=2 "), "{}", ledger.lines().next().unwrap());
    assert_eq!(bench.run(&["log", "verify", bench.file().to_str().unwrap()]).code, Some(0));
}

fn log(bench: &Bench, args: &[&str]) -> Run {
    bench.run(&[&["log", args[0], bench.file().to_str().unwrap()], &args[1..]].concat())
}

#[test]
fn a_log_can_be_looked_into() {
    let mut bench = Bench::new(SIZE);
    assert_eq!(bench.send_only().code, Some(18));
    let ls = log(&bench, &["ls"]);
    assert!(ls.text().contains("cycle 1: manifest, state; 1 segment, "), "{ls:?}");
    let json = &log(&bench, &["ls", "--json"]).lines[0];
    let vm = json["vms"].as_object().unwrap().keys().next().unwrap();
    assert_eq!(log(&bench, &["ls", "--vm", vm, "--json"]).lines[0], *json);
    assert_eq!(log(&bench, &["ls", "--vm", "x/y", "--json"]).lines[0]["vms"], serde_json::json!({}));

    let name = |part: &str| bench.blobs(part)[0].strip_prefix(bench.path("log")).unwrap().to_str().unwrap().to_owned();
    let segment = log(&bench, &["show", &name(".seg")]).text();
    assert!(segment.contains("6 records in ") && segment.contains("zstd") && segment.contains("raw"), "{segment}");
    let manifest = log(&bench, &["show", &name("manifest")]).text();
    assert!(manifest.contains("\"snapshotTaken\"") && manifest.contains("<sealed>"), "{manifest}");
    let order = log(&bench, &["show", &name("orders/")]).text();
    assert!(order.contains("<sealed>") && !order.contains("r.raw"), "{order}");
    let ledger = bench.run(&["ledger", "show", bench.file().to_str().unwrap()]).text();
    assert!(ledger.contains("\"uniqueId\"") && ledger.contains("r.raw"), "{ledger}");
    assert_eq!(log(&bench, &["show", "v1/nothing"]).code, Some(2));

    let sound = log(&bench, &["verify"]);
    assert!(sound.code == Some(0) && sound.text().contains("nothing is damaged"), "{sound:?}");
    let (segment, state) = (bench.flip(".seg"), bench.flip("state"));
    let damaged = log(&bench, &["verify"]);
    assert_eq!(damaged.code, Some(11), "{damaged:?}");
    for blob in [&segment, &state] {
        let lines: Vec<_> = damaged.lines.iter().filter(|line| line.as_str().unwrap().starts_with(blob)).collect();
        assert!(lines.len() == 1 && lines[0].as_str().unwrap().contains("Run again"), "{damaged:?}");
    }
    let json = log(&bench, &["verify", "--json"]);
    assert_eq!((json.events("damage").len(), &json.last()["damaged"]), (2, &2.into()), "{json:?}");
    // A state that can't be read costs its number, and nothing else.
    let run = bench.good_cycle();
    assert_eq!(run.last()["cycle"], 2);
}
