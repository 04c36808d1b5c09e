//! A cycle to a container and a page blob, as Azurite plays them (`make azurite`).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod cli_support;

use std::fs;

use blocklog::test_support::Azurite;
use cli_support::{Bench, MIB};

#[tokio::test]
async fn a_container_holds_the_log_and_a_page_blob_is_the_replica() {
    let azurite = Azurite::shared();
    let (log, disks) = (azurite.create_container().await, azurite.create_container().await);
    let mut bench = Bench::new(5 * MIB + 1536);
    fs::write(bench.path("account"), azurite.key()).unwrap();
    bench.store = format!("{{azure: {{accountUrl: '{}', container: {log}, accountKeyFile: account}}}}", azurite.url());
    let run = |bench: &Bench, command: &str, changed: &str| {
        let blob = format!("{{pageBlob: {{url: '{}/{disks}/vm1.vhd', accountKeyFile: account}}}}", azurite.url());
        let disk = format!("- key: 2000\n  source: {{file: a.raw}}\n{changed}  replica: {blob}\n");
        let run = bench.run(&[command, bench.write_file("vm1.yaml", &disk).to_str().unwrap()]);
        assert!(!run.text().contains(azurite.key()), "{run:?}");
        run
    };
    let first = run(&bench, "cycle", "");
    assert_eq!(first.code, Some(0), "{first:?}");
    assert_eq!(run(&bench, "verify", "").code, Some(0));
    bench.patch(MIB + 512, b"delta");
    assert_eq!(run(&bench, "verify", "").code, Some(20));
    let delta = run(&bench, "cycle", &format!("  changed: {{areas: [[{}, 512]], since: local/1}}\n", MIB + 512));
    assert_eq!((delta.code, &delta.disk(0)["mode"], &delta.disk(0)["changed"]), (Some(0), &"Changed".into(), &512.into()), "{delta:?}");
    assert_eq!(run(&bench, "verify", "").code, Some(0));
    let log = bench.run(&["log", "verify", bench.path("vm1.yaml").to_str().unwrap()]);
    assert!(log.code == Some(0) && log.text().contains("nothing is damaged"), "{log:?}");
    // A container that is not there is told at once.
    bench.store = bench.store.replace("container: test", "container: no-test");
    run(&bench, "cycle", "").assert_failed(14, "StoreUnreachable", "container");
}
