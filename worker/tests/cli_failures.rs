//! Each way to fail, with the real binary: the exit code, what is said, and that the remedy that is named works.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod cli_support;

use std::{fs, net::TcpListener, time::Duration};

use cli_support::{Bench, MIB, Running, Tmpfs, content};

const SIZE: usize = 4 * MIB + 1536;

#[test]
fn a_wrong_key_is_known_at_once() {
    let bench = Bench::new(SIZE);
    bench.good_cycle();
    let right = fs::read_to_string(bench.path("key")).unwrap();
    fs::write(bench.path("key"), format!("1 {}\n", "ab".repeat(32))).unwrap();
    let run = bench.cycle();
    run.assert_failed(10, "WrongKey", "not the one that this log store was set up with");
    assert!(run.took < Duration::from_secs(10), "it has waited for something: {:?}", run.took);
    fs::write(bench.path("key"), right.replace("\n1 ", "\n2 ")).unwrap();
    bench.cycle().assert_failed(10, "WrongKey", "version 1 of the key");
    // The blob by which it is known may be lost: then the ledger knows.
    fs::remove_file(&bench.blobs("keycheck")[0]).unwrap();
    fs::write(bench.path("key"), format!("1 {}\n", "ab".repeat(32))).unwrap();
    bench.cycle().assert_failed(11, "DamagedBlob", "written with another key");
    assert!(bench.blobs("keycheck").is_empty(), "a wrong key must not become the store's");
    fs::write(bench.path("key"), right).unwrap();
    bench.good_cycle();
    assert_eq!(bench.blobs("keycheck").len(), 1);
}

#[test]
fn a_key_file_that_is_none_shows_nothing_of_itself() {
    let bench = Bench::new(SIZE);
    fs::write(bench.path("key"), "1 5ec2e75ec2e7\n").unwrap();
    let run = bench.cycle();
    run.assert_failed(2, "BadFile", "line 1 of the key file");
    assert!(!run.text().contains("5ec2e7"));
    fs::remove_file(bench.path("key")).unwrap();
    bench.cycle().assert_failed(2, "BadFile", "key");
}

#[test]
fn a_flipped_byte_in_a_segment_reaches_no_replica() {
    let mut bench = Bench::new(SIZE);
    assert_eq!(bench.send_only().code, Some(18));
    let blob = bench.flip(".seg");
    let run = bench.cycle();
    run.assert_failed(11, "DamagedBlob", &blob);
    assert!(run.last()["remedy"].as_str().unwrap().starts_with("Run again"));
    assert!(fs::read(bench.path("r.raw")).unwrap().iter().all(|byte| *byte == 0), "nothing of it was written");
    let run = bench.good_cycle();
    assert_eq!(run.last()["cycle"], 2, "a new cycle covers the same ground: {run:?}");
}

#[test]
fn a_flipped_byte_in_a_manifest_is_refused_and_the_remedy_works() {
    let mut bench = Bench::new(SIZE);
    assert_eq!(bench.send_only().code, Some(18));
    let blob = bench.flip("manifest");
    let run = bench.cycle();
    run.assert_failed(11, "DamagedBlob", &blob);
    assert!(run.last()["remedy"].as_str().unwrap().starts_with("Delete this blob"));
    fs::remove_file(bench.path("log").join(blob)).unwrap();
    assert_eq!(bench.good_cycle().last()["cycle"], 2);
}

#[test]
fn a_flipped_byte_in_the_ledger_is_refused() {
    let mut bench = Bench::new(SIZE);
    assert_eq!(bench.send_only().code, Some(18));
    let blob = bench.flip("ledger");
    let run = bench.cycle();
    run.assert_failed(11, "DamagedBlob", &blob);
    // What it advises where there is no backup: begin anew.
    assert!(run.last()["remedy"].as_str().unwrap().contains("move the replicas away and delete the VM's folder"));
    let folder = bench.path("log").join(blob);
    fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    bench.cycle().assert_failed(18, "ReplicaRefused", "not the seed of this VM");
    fs::rename(bench.path("r.raw"), bench.path("old.raw")).unwrap();
    bench.good_cycle();
}

#[test]
fn a_flipped_byte_in_fingerprints_has_a_remedy_that_works() {
    for part in ["-index", "-000000"] {
        let bench = Bench::new(SIZE);
        bench.good_cycle();
        let blob = bench.flip(part);
        let run = bench.cycle();
        run.assert_failed(11, "DamagedBlob", &blob);
        assert!(run.last()["remedy"].as_str().unwrap().contains("forget-fingerprints"));
        let forget = |disk: &str| bench.run(&["ledger", "forget-fingerprints", bench.file().to_str().unwrap(), disk]);
        assert_eq!(forget("2001").code, Some(2));
        assert_eq!(forget("2000").code, Some(0));
        let run = bench.good_cycle();
        assert_eq!(run.disk(0)["inPlace"], 0, "the disk is sent whole: {run:?}");
        assert_eq!(bench.good_cycle().disk(0)["uploaded"], 0);
    }
}

#[test]
fn a_source_that_was_cut_is_not_replicated() {
    let bench = Bench::new(SIZE);
    bench.good_cycle();
    fs::write(bench.path("a.raw"), content(SIZE - 512)).unwrap();
    bench.cycle().assert_failed(12, "SourceTooShort", "disk 2000");
    fs::write(bench.path("a.raw"), content(SIZE - 1)).unwrap();
    bench.cycle().assert_failed(2, "BadFile", "whole sectors");
    fs::write(bench.path("a.raw"), content(SIZE)).unwrap();
    bench.good_cycle();
}

#[test]
fn a_source_that_has_grown_needs_a_larger_replica() {
    let bench = Bench::new(SIZE);
    bench.good_cycle();
    fs::write(bench.path("a.raw"), content(SIZE + 512)).unwrap();
    bench.cycle().assert_failed(13, "ReplicaTooSmall", "its replica was made for");
    bench.verify().assert_failed(13, "ReplicaTooSmall", "disk 2000");
}

#[test]
fn a_log_store_that_is_silent_is_known_within_half_a_minute() {
    let mut bench = Bench::new(SIZE);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(bench.path("sas"), "?sv=1&sig=5ec2e7").unwrap();
    bench.store = format!("{{azure: {{accountUrl: 'http://{closed}/account', container: log, sasFile: sas}}}}");
    let run = bench.cycle();
    run.assert_failed(14, "StoreUnreachable", "does not answer");
    assert!(run.took < Duration::from_secs(25), "{:?}", run.took);
    assert!(!run.text().contains("5ec2e7"), "{run:?}");
}

#[test]
fn a_full_log_store_loses_nothing() {
    let bench = Bench::new(SIZE);
    let log = Tmpfs::mount(&bench.path("log"), 2 * MIB);
    bench.cycle().assert_failed(15, "DiskFull", "full");
    let larger = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(bench.path("log")).status().unwrap();
    assert!(larger.success());
    let run = bench.good_cycle();
    assert_eq!(run.events("cycle")[0]["resumed"], true, "{run:?}");
    drop(log);
}

#[test]
fn a_full_replica_loses_nothing() {
    let bench = Bench::new(SIZE);
    let small = Tmpfs::mount(&bench.path("small"), 2 * MIB);
    let disk = "- key: 2000\n  source: {file: a.raw}\n  replica: {file: small/r.raw}\n";
    let file = bench.write_file("vm.yaml", disk);
    let cycle = || bench.run(&["cycle", file.to_str().unwrap()]);
    cycle().assert_failed(15, "DiskFull", "disk 2000");
    cycle().assert_failed(15, "DiskFull", "disk 2000");
    let larger = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(bench.path("small")).status().unwrap();
    assert!(larger.success());
    let run = cycle();
    assert_eq!((run.code, &run.last()["cycle"], &run.events("cycle")[0]["resumed"]), (Some(0), &1.into(), &true.into()), "{run:?}");
    bench.assert_equal("a.raw", "small/r.raw");
    drop(small);
}

#[test]
fn a_source_that_is_not_there() {
    let bench = Bench::new(SIZE);
    fs::remove_file(bench.path("a.raw")).unwrap();
    bench.cycle().assert_failed(17, "SourceUnreachable", "a.raw");
    assert!(bench.blobs("ledger").is_empty(), "nothing was begun");
}

#[test]
fn a_replica_that_is_somebody_elses_is_left_alone() {
    let bench = Bench::new(SIZE);
    fs::write(bench.path("r.raw"), b"precious").unwrap();
    bench.cycle().assert_failed(18, "ReplicaRefused", "not the seed of this VM");
    assert_eq!(fs::read(bench.path("r.raw")).unwrap(), b"precious");
    fs::remove_file(bench.path("r.raw")).unwrap();
    bench.good_cycle();
    // The seed was replaced by a copy of itself: nobody knows what it has seen.
    fs::copy(bench.path("r.raw"), bench.path("copy.raw")).unwrap();
    fs::rename(bench.path("copy.raw"), bench.path("r.raw")).unwrap();
    bench.cycle().assert_failed(18, "ReplicaRefused", "not the seed of this VM");
    let nowhere = bench.write_file("vm1.yaml", "- key: 2000\n  source: {file: a.raw}\n  replica: {file: nowhere/r.raw}\n");
    bench.run(&["cycle", nowhere.to_str().unwrap()]).assert_failed(18, "ReplicaRefused", "nowhere is not a folder");
}

#[test]
fn a_replica_in_use_is_not_touched() {
    let bench = Bench::new(SIZE);
    bench.good_cycle();
    let held = fs::File::options().read(true).write(true).open(bench.path("r.raw")).unwrap();
    held.lock().unwrap();
    let run = bench.cycle();
    run.assert_failed(18, "ReplicaRefused", "in use");
    assert!(run.took < Duration::from_secs(10), "it has waited for something: {:?}", run.took);
    assert_eq!(bench.verify().code, Some(0), "looking needs no lock");
    drop(held);
    bench.good_cycle();
}

#[test]
fn an_image_written_while_it_is_read_makes_no_recovery_point() {
    let mut bench = Bench::new(SIZE);
    bench.head = "bitsPerSecond: 20000000\n".to_owned();
    let mut running = Running::start(&["cycle", bench.file().to_str().unwrap()]);
    for cycle in 1..=2 {
        running.until("reading");
        bench.patch(0, &[cycle; 512]);
    }
    running.wait().assert_failed(19, "SnapshotLost", "can't be finished");
    bench.head = String::new();
    assert_eq!(bench.good_cycle().last()["cycle"], 3);
}

#[test]
fn a_replica_that_differs_is_told_where() {
    let bench = Bench::new(SIZE);
    bench.good_cycle();
    let replica = fs::File::options().write(true).open(bench.path("r.raw")).unwrap();
    for n in 0..12 {
        std::os::unix::fs::FileExt::write_all_at(&replica, b"?!", n * 8192 + 511).unwrap();
    }
    let run = bench.verify();
    run.assert_failed(20, "NotEqual", "disk 2000");
    let found = run.events("verified")[0];
    assert_eq!((&found["equal"], &found["differingRanges"], &found["differingBytes"]), (&false.into(), &12.into(), &(12 * 1024).into()));
    assert_eq!((found["first"].as_array().unwrap().len(), &found["first"][1]), (10, &serde_json::json!([8192, 1024])));
}

#[test]
fn a_file_that_can_not_be_used_is_named_with_line_and_field() {
    let bench = Bench::new(SIZE);
    let cycle = |disk: &str| bench.run(&["cycle", bench.write_file("vm.yaml", disk).to_str().unwrap()]);
    let run = cycle("- key: 2000\n  source: {fiel: a.raw}\n  replica: {file: r.raw}\n");
    run.assert_failed(2, "BadFile", "fiel");
    assert!(run.text().contains("line 3"), "{run:?}");
    cycle("- key: 2000\n  source: {file: a.raw}\n  changed: {areas: [[0, 99999744]], since: local/1}\n  replica: {file: r.raw}\n")
        .assert_failed(2, "BadFile", "reaches past the disk's");
    bench.run(&["cycle", bench.path("absent.yaml").to_str().unwrap()]).assert_failed(2, "BadFile", "absent.yaml");
    assert_eq!(bench.run(&["cycle"]).code, Some(2));
    assert_eq!(bench.run(&["cycle", "x", "--bits-per-second", "0"]).code, Some(2));
}

#[test]
fn keys_are_never_overwritten_or_shown() {
    let bench = Bench::new(SIZE);
    let key = bench.path("key");
    let before = fs::read_to_string(&key).unwrap();
    let again = bench.run(&["key", "new", key.to_str().unwrap()]);
    assert!(again.code == Some(2) && again.stderr.contains("exists"), "{again:?}");
    assert_eq!(fs::read_to_string(&key).unwrap(), before);
    let secret = before.lines().last().unwrap().split(' ').next_back().unwrap().to_owned();
    assert_eq!(secret.len(), 64);
    let file = bench.file();
    for args in [&["cycle"][..], &["verify"], &["ledger", "show"], &["log", "ls"], &["log", "verify"]] {
        let run = bench.run(&[args, &[file.to_str().unwrap()]].concat());
        assert!(run.code == Some(0) && !run.text().contains(&secret), "{run:?}");
    }
    assert!(bench.run(&["--version"]).text().starts_with("worker "));
}
