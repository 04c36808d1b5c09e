//! What goes wrong on demand: and what is refused although it went wrong.

use std::sync::Arc;
use std::time::Duration;

use super::*;

const SECTOR: [u8; 512] = [0x3c; 512];

fn fault(effect: Effect) -> Fault {
    Fault { disk: None, operation: Some(Operation::PutPage), times: Some(1), skip: 0, effect }
}

fn written(host: &Host) -> bool {
    host.bytes(0, 512) == SECTOR
}

async fn seconds(host: &Host, seconds: u64) {
    settle().await;
    host.clock.advance(Duration::from_secs(seconds));
    settle().await;
}

/// The answer to a request that runs in a task: a host that never answers fails the test.
async fn answered(task: tokio::task::JoinHandle<Got>) -> Got {
    tokio::time::timeout(Duration::from_secs(60), task).await.expect("the host does not answer").unwrap()
}

/// Waits for what runs on another thread.
async fn eventually(what: impl Fn() -> bool) {
    for _ in 0..1_000_000 {
        if what() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it did not come");
}

fn landed_late(host: &Host) -> (u64, u64) {
    let described = host.store().describe();
    let counts = &described[0]["counts"];
    (counts["landedLate"].as_u64().unwrap(), counts["refusedLate"].as_u64().unwrap())
}

#[tokio::test]
async fn errors_before_and_after() {
    let host = Host::new();
    let answer = |status, code: &str, after| Effect::Answer { status, code: code.to_owned(), after, retry_after: Some(3) };
    host.store().inject(fault(answer(503, "ServerBusy", false))).unwrap();
    let got = host.put(0, &SECTOR, &[]).await;
    assert_eq!((got.error(), got.header("retry-after")), ((503, "ServerBusy"), "3"));
    assert!(!written(&host));
    host.store().inject(fault(answer(500, "InternalError", true))).unwrap();
    assert_eq!(host.put(0, &SECTOR, &[]).await.error(), (500, "InternalError"));
    assert!(written(&host), "it took effect although it failed");
    assert_eq!(host.put(0, &SECTOR, &[]).await.status, 201, "once");
    // A refusal goes before an error that comes after.
    host.store().inject(fault(answer(500, "InternalError", true))).unwrap();
    host.store().revoke(DISK);
    assert_eq!(host.put(0, &SECTOR, &[]).await.error(), (403, "AuthenticationFailed"));
}

#[tokio::test]
async fn lost_answers() {
    let host = Host::new();
    host.store().inject(fault(Effect::Drop { after: false })).unwrap();
    assert!(host.put(0, &SECTOR, &[]).await.dropped);
    assert!(!written(&host));
    host.store().inject(fault(Effect::Drop { after: true })).unwrap();
    assert!(host.put(0, &SECTOR, &[]).await.dropped);
    assert!(written(&host));
    assert!(!host.put(0, &SECTOR, &[]).await.dropped);
}

#[tokio::test]
async fn faults_meet_what_they_are_for() {
    let host = Host::new();
    host.store().create(OTHER, CONTENT, true).unwrap();
    let other = Fault { disk: Some(OTHER.to_uppercase()), ..fault(Effect::Drop { after: false }) };
    let id = host.store().inject(other).unwrap();
    assert_eq!(host.put(0, &SECTOR, &[]).await.status, 201, "another disk's");
    host.store().inject(Fault { times: None, operation: Some(Operation::GetBlob), ..fault(Effect::Drop { after: false }) }).unwrap();
    assert_eq!(host.put(0, &SECTOR, &[]).await.status, 201, "another operation's");
    for _ in 0..3 {
        assert!(host.get(&host.write, 0, 512).await.dropped);
    }
    host.store().clear_faults(Some(id));
    assert_eq!(host.store().faults().len(), 1);
    host.store().clear_faults(None);
    assert!(!host.get(&host.write, 0, 512).await.dropped);
    host.store().inject(Fault { skip: 2, ..fault(Effect::Drop { after: false }) }).unwrap();
    let dropped = [host.put(0, &SECTOR, &[]).await, host.put(0, &SECTOR, &[]).await, host.put(0, &SECTOR, &[]).await].map(|it| it.dropped);
    assert_eq!(dropped, [false, false, true], "those before it");
    let refused = |fault: Fault| host.store().inject(fault).unwrap_err();
    assert!(refused(fault(Effect::Delay { seconds: -1.0 })).contains("give 0 or more"));
    let late = Effect::Late { seconds: 1.0, checked: Checked::Landing };
    assert!(refused(Fault { operation: Some(Operation::GetBlob), ..fault(late) }).contains("PutPage"));
    let answer = Effect::Answer { status: 200, code: String::new(), after: false, retry_after: None };
    assert!(refused(fault(answer)).contains("400 to 599"));
}

/// The request waits, and its own `timeout=` ends it: nothing was written, nothing will be.
#[tokio::test]
async fn a_time_out_of_the_server_is_honoured() {
    let host = Arc::new(Host::new());
    host.store().inject(fault(Effect::Delay { seconds: 60.0 })).unwrap();
    let headers = [("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-511")];
    let sent = {
        let host = Arc::clone(&host);
        tokio::spawn(async move { host.send("PUT", &host.write, "&comp=page&timeout=10", &headers, &SECTOR).await })
    };
    seconds(&host, 9).await;
    assert!(!sent.is_finished());
    seconds(&host, 1).await;
    assert_eq!(answered(sent).await.error(), (500, "OperationTimedOut"));
    seconds(&host, 600).await;
    assert!(!written(&host));
}

/// The worst: the client was told that it failed, or is gone, and the write lands.
#[tokio::test]
async fn a_write_lands_after_its_time_out() {
    for gone in [false, true] {
        let host = Arc::new(Host::new());
        host.store().inject(fault(Effect::Late { seconds: 30.0, checked: Checked::Landing })).unwrap();
        let headers = [("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-511")];
        let sent = {
            let host = Arc::clone(&host);
            tokio::spawn(async move { host.send("PUT", &host.write, "&comp=page&timeout=10", &headers, &SECTOR).await })
        };
        settle().await;
        if gone {
            sent.abort();
            seconds(&host, 10).await;
        } else {
            seconds(&host, 10).await;
            assert_eq!(answered(sent).await.error(), (500, "OperationTimedOut"));
        }
        assert!(!written(&host));
        seconds(&host, 20).await;
        eventually(|| landed_late(&host) == (1, 0)).await;
        assert!(written(&host), "gone: {gone}");
    }
}

/// A late write finds the SAS revoked or the condition broken: refused where the host looks when it lands, and not where it looked before.
#[tokio::test]
async fn a_late_write_is_checked_when_it_lands_or_before() {
    for (checked, lands) in [(Checked::Landing, false), (Checked::Arrival, true)] {
        for revoked in [false, true] {
            let host = Arc::new(Host::new());
            host.store().inject(fault(Effect::Late { seconds: 30.0, checked })).unwrap();
            let sent = {
                let host = Arc::clone(&host);
                let since = ("if-unmodified-since", "Thu, 01 Jan 2026 00:00:05 GMT");
                tokio::spawn(async move { host.put(0, &SECTOR, &[since]).await })
            };
            seconds(&host, 20).await;
            if revoked {
                host.store().revoke(DISK);
            } else {
                // The next turn's footer.
                assert_eq!(host.put(CONTENT, &SECTOR, &[]).await.status, 201);
            }
            seconds(&host, 10).await;
            let got = answered(sent).await;
            let refusal = if revoked { (403, "AuthenticationFailed") } else { (412, "ConditionNotMet") };
            assert_eq!(got.error(), if lands { (201, "") } else { refusal }, "{checked:?} revoked: {revoked}");
            assert_eq!(written(&host), lands);
            assert_eq!(landed_late(&host), if lands { (1, 0) } else { (0, 1) });
        }
    }
    // What is refused at once does not land later.
    let host = Host::new();
    host.store().inject(fault(Effect::Late { seconds: 30.0, checked: Checked::Arrival })).unwrap();
    let before = ("if-unmodified-since", "Wed, 31 Dec 2025 00:00:00 GMT");
    assert_eq!(host.put(0, &SECTOR, &[before]).await.error(), (412, "ConditionNotMet"));
    seconds(&host, 60).await;
    assert!(!written(&host));
}

#[tokio::test]
async fn a_write_lands_twice() {
    let host = Host::new();
    host.store().inject(fault(Effect::Twice { seconds: 30.0, checked: Checked::Landing })).unwrap();
    assert_eq!(host.put(0, &SECTOR, &[]).await.status, 201);
    assert!(written(&host));
    assert_eq!(host.put(0, &[9; 512], &[]).await.status, 201, "newer data");
    seconds(&host, 30).await;
    eventually(|| landed_late(&host) == (1, 0)).await;
    assert!(written(&host), "the older write again");
    // The second time it meets a condition that no longer holds.
    host.store().inject(fault(Effect::Twice { seconds: 30.0, checked: Checked::Landing })).unwrap();
    let since = ("if-unmodified-since", "Thu, 01 Jan 2026 00:00:40 GMT");
    assert_eq!(host.put(0, &[8; 512], &[since]).await.status, 201);
    seconds(&host, 20).await;
    assert_eq!(host.put(0, &[9; 512], &[]).await.status, 201);
    seconds(&host, 10).await;
    eventually(|| landed_late(&host) == (1, 1)).await;
    assert_eq!(host.bytes(0, 512), [9; 512]);
}

#[tokio::test]
async fn bytes_a_second() {
    let host = Arc::new(Host::new());
    host.set(|switches| switches.bytes_per_second = Some(4 * MIB));
    let data = vec![1; 4 << 20];
    assert_eq!(host.put(0, &data, &[]).await.status, 201, "the first takes a second's bytes");
    let second = {
        let (host, data) = (Arc::clone(&host), data.clone());
        tokio::spawn(async move { host.put(0, &data, &[]).await })
    };
    settle().await;
    assert!(!second.is_finished(), "the second waits for its turn");
    let third = host.put(0, &data, &[]).await;
    assert_eq!((third.error(), third.header("retry-after")), ((503, "ServerBusy"), "1"));
    seconds(&host, 1).await;
    assert_eq!(answered(second).await.status, 201);
    seconds(&host, 5).await;
    assert_eq!(host.put(0, &data, &[]).await.status, 201);
}
