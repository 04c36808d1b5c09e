//! The project's own writer of managed disks against the disk host, over TCP: what it writes is what the control port reads, and a stale
//! writer is kept out by the time fence where the host honours `If-Unmodified-Since`, and is not where it does not.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use azure_simulator::disks::{Access, Checked, Conditional, DiskStore, Effect, Fault, Operation};
use azure_simulator::sts::Sts;
use azure_simulator::{Clock, Config, State, control, disks, serve};
use blocklog::azure_blob::Auth;
use blocklog::clock::{Clock as WriterClock, SystemClock};
use jiff::{SignedDuration, Timestamp};
use replica::access::{Purpose, ReplicaAccess, open};
use replica::disk_sas::DiskSasDisk;
use replica::{Fence, FenceKind, Permit, ReplicaDisk, ReplicaError};
use tokio::net::TcpListener;
use uuid::Uuid;

const DISK: &str = "/subscriptions/s/resourcegroups/g/providers/microsoft.compute/disks/seed";
const CAPACITY: u64 = 8 << 20;
const ID: Uuid = Uuid::from_u128(0xfeed_0000_0000_4000_8000_0000_0000_0007);

/// The simulator's disks and control port on loopback, with an upload disk and the SAS to write it.
struct Sandbox {
    state: State,
    sas: String,
    control: String,
    _folder: tempfile::TempDir,
}

impl Sandbox {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (disks_port, control_port) = (listen().await, listen().await);
        let public = format!("http://{}", disks_port.local_addr().unwrap());
        let control = format!("http://{}", control_port.local_addr().unwrap());
        let (config, clock) = (Config::default(), Clock::system());
        let store = DiskStore::open(folder.path(), &public, clock.clone()).unwrap();
        let sts = Sts::new(&config, clock.clone()).unwrap();
        let state = State::new(config, clock, store, sts);
        // Without TLS, which the judges have: a client's trust in a certificate is set for its whole process.
        tokio::spawn(serve::serve(disks_port, None, disks::router(state.clone())));
        tokio::spawn(serve::serve(control_port, None, control::router(state.clone())));
        state.disks.create(DISK, CAPACITY, true).unwrap();
        let until = state.clock.now() + SignedDuration::from_hours(24);
        let sas = state.disks.grant(DISK, Access::Write, until, Uuid::new_v4());
        Self { state, sas, control, _folder: folder }
    }

    fn conditions(&self, conditions: Conditional) {
        let mut switches = self.state.disks.switches();
        switches.conditions = conditions;
        self.state.disks.set_switches(switches);
    }

    async fn format(&self) -> Arc<SlowClock> {
        let clock = SlowClock::new();
        DiskSasDisk::format(self.sas.parse().unwrap(), clock.clone(), None, CAPACITY, ID).await.unwrap();
        clock
    }

    async fn open(&self, clock: Arc<dyn WriterClock>) -> Arc<dyn ReplicaDisk> {
        let access = ReplicaAccess::DiskSas { url: self.sas.clone().try_into().unwrap(), api_version: None };
        open(&access, Purpose::Write, &Auth::Url, clock).await.unwrap()
    }

    /// What the control port reads.
    async fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let url = format!("{}/disks/bytes?id={DISK}&offset={offset}&length={length}", self.control);
        reqwest::get(url).await.unwrap().error_for_status().unwrap().bytes().await.unwrap().to_vec()
    }

    async fn sha256(&self) -> String {
        let url = format!("{}/disks/sha256?id={DISK}&footer=false", self.control);
        let answer: serde_json::Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        answer["sha256"].as_str().unwrap().to_owned()
    }
}

/// A machine's clock that is behind by some seconds: the stale writer's, which believes that its permit lasts.
struct SlowClock {
    base: SystemClock,
    behind: AtomicI64,
}

impl SlowClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { base: SystemClock::new(), behind: AtomicI64::new(0) })
    }
}

#[async_trait]
impl WriterClock for SlowClock {
    fn now(&self) -> Timestamp {
        self.base.now() - SignedDuration::from_secs(self.behind.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.base.monotonic()
    }

    async fn sleep(&self, length: Duration) {
        self.base.sleep(length).await;
    }
}

fn permit(turn: u64, until: Timestamp) -> Permit {
    Permit { turn, until }
}

#[tokio::test]
async fn a_disk_is_filled_and_read_back() {
    let sandbox = Sandbox::start().await;
    let clock = sandbox.format().await;
    let disk = sandbox.open(clock.clone()).await;
    assert_eq!((disk.capacity(), disk.fence_kind()), (CAPACITY, FenceKind::Time));
    assert_eq!(disk.unique_id().await.unwrap(), ID.to_string());
    disk.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
    let until = clock.now() + SignedDuration::from_mins(1);
    // A pattern without a period of pages, in the largest writes and in odd ones, and a hole.
    let mut expected: Vec<u8> = (0..CAPACITY).map(|at| (at * 31 % 251) as u8).collect();
    expected[3 << 20..5 << 20].fill(0);
    let mut at = 0;
    for length in [4 << 20, 512, 1 << 20, 3 << 20].into_iter().cycle() {
        let end = (at + length).min(CAPACITY);
        let data = expected[at as usize..end as usize].to_vec();
        disk.write(permit(1, until), at, data.into()).await.unwrap();
        at = end;
        if at == CAPACITY {
            break;
        }
    }
    disk.clear(permit(1, until), 3 << 20, 2 << 20).await.unwrap();
    disk.flush().await.unwrap();
    assert!(sandbox.read(0, CAPACITY).await == expected);
    assert_eq!(sandbox.sha256().await, hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &expected)));
    assert!(disk.read(1 << 20, 4 << 20).await.unwrap() == expected[1 << 20..5 << 20]);
    assert_eq!(sandbox.state.disks.footer(DISK), Ok(()), "the writer's footer is one that Azure takes");
    sandbox.state.disks.revoke(DISK);
    let refused = disk.write(permit(1, until), 0, vec![9; 512].into()).await.unwrap_err();
    assert_eq!(refused.reason(), reasons::Reason::ReplicaDenied);
    assert_eq!(sandbox.read(0, 512).await, expected[..512]);
}

/// Two writers: the first one's turn ends, the second raises its fence; then the first wakes, believing that its permit lasts.
async fn stale_writer(conditions: Conditional) -> (Result<(), ReplicaError>, Vec<u8>) {
    let sandbox = Sandbox::start().await;
    sandbox.conditions(conditions);
    let slow = sandbox.format().await;
    let stale = sandbox.open(slow.clone()).await;
    stale.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
    let end = SystemClock::new().now() + SignedDuration::from_secs(11);
    stale.write(permit(1, end), 0, vec![1; 512].into()).await.unwrap();
    // The permit ends at once by the second writer's clock, and in a minute by the first one's.
    slow.behind.store(60, Ordering::SeqCst);
    let fresh = sandbox.open(Arc::new(SystemClock::new())).await;
    fresh.raise_fence(Fence { turn: 2, previous_end: Some(end) }).await.unwrap();
    let until = SystemClock::new().now() + SignedDuration::from_mins(1);
    fresh.write(permit(2, until), 0, vec![2; 512].into()).await.unwrap();
    let outcome = stale.write(permit(1, end), 0, vec![1; 512].into()).await;
    (outcome, sandbox.read(0, 512).await)
}

#[tokio::test]
async fn a_stale_writer_is_refused_where_conditions_are_honoured() {
    let (outcome, bytes) = stale_writer(Conditional::Honoured).await;
    assert_eq!(outcome, Err(ReplicaError::Fenced { turn: 1 }));
    assert_eq!(bytes, [2; 512]);
}

#[tokio::test]
async fn a_stale_writer_gets_through_where_they_are_ignored() {
    let (outcome, bytes) = stale_writer(Conditional::Ignored).await;
    assert_eq!(outcome, Ok(()));
    assert_eq!(bytes, [1; 512], "the newer data are lost: what `lost` in the ledger is for");
}

/// Where the host refuses conditional headers, writes go without, and are as safe as where it ignores them: a wait before each turn keeps late ones
/// out, and nothing else.
#[tokio::test]
async fn a_host_that_refuses_conditions_is_written_without() {
    let sandbox = Sandbox::start().await;
    let clock = sandbox.format().await;
    sandbox.conditions(Conditional::Refused);
    let disk = sandbox.open(clock.clone()).await;
    disk.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
    let until = clock.now() + SignedDuration::from_mins(1);
    for at in [0, 512] {
        disk.write(permit(1, until), at, vec![1; 512].into()).await.unwrap();
    }
    disk.clear(permit(1, until), 512, 512).await.unwrap();
    assert_eq!(sandbox.read(0, 1024).await, [[1; 512], [0; 512]].concat());
    // What is wrong for another reason is told as before.
    sandbox.state.disks.revoke(DISK);
    assert_eq!(disk.write(permit(1, until), 0, vec![2; 512].into()).await.unwrap_err().reason(), reasons::Reason::ReplicaDenied);
    let (outcome, bytes) = stale_writer(Conditional::Refused).await;
    assert_eq!((outcome, bytes), (Ok(()), vec![1; 512]));
}

/// The client gives up after its own time-out, and the write lands afterwards: in doubt it is, and rightly.
#[tokio::test]
async fn a_write_lands_after_the_client_gave_up() {
    let sandbox = Sandbox::start().await;
    let clock = sandbox.format().await;
    let disk = sandbox.open(clock.clone()).await;
    disk.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
    let effect = Effect::Late { seconds: 60.0, checked: Checked::Landing };
    sandbox.state.disks.inject(Fault { disk: None, operation: Some(Operation::PutPage), times: Some(1), skip: 0, effect }).unwrap();
    let until = clock.now() + SignedDuration::from_mins(2);
    let outcome = disk.write(permit(1, until), 0, vec![7; 512].into()).await.unwrap_err();
    assert!(outcome.in_doubt(), "{outcome}");
    assert_eq!(sandbox.read(0, 512).await, [0; 512]);
    sandbox.state.clock.advance(Duration::from_secs(60));
    for _ in 0..100 {
        if sandbox.read(0, 512).await == [7; 512] {
            return;
        }
        SystemClock::new().sleep(Duration::from_millis(20)).await;
    }
    panic!("the late write never landed");
}

/// Errors before and after the effect, and lost answers: each is in doubt, and a repeat of the same bytes is safe.
#[tokio::test]
async fn what_goes_wrong_is_in_doubt() {
    let sandbox = Sandbox::start().await;
    let clock = sandbox.format().await;
    let disk = sandbox.open(clock.clone()).await;
    disk.raise_fence(Fence { turn: 1, previous_end: None }).await.unwrap();
    let until = clock.now() + SignedDuration::from_mins(2);
    let answer = |status, code: &str, after| Effect::Answer { status, code: code.to_owned(), after, retry_after: None };
    for (at, effect, landed) in [
        (0, answer(500, "InternalError", false), false),
        (512, answer(500, "InternalError", true), true),
        (1024, answer(503, "ServerBusy", false), false),
        (1536, Effect::Drop { after: false }, false),
        (2048, Effect::Drop { after: true }, true),
    ] {
        sandbox
            .state
            .disks
            .inject(Fault { disk: Some(DISK.to_owned()), operation: None, times: Some(1), skip: 0, effect: effect.clone() })
            .unwrap();
        let outcome = disk.write(permit(1, until), at, vec![5; 512].into()).await.unwrap_err();
        assert!(outcome.in_doubt() && outcome.retryable(), "{effect:?}: {outcome}");
        assert_eq!(sandbox.read(at, 512).await == [5; 512], landed, "{effect:?}");
        disk.write(permit(1, until), at, vec![5; 512].into()).await.unwrap();
        assert_eq!(sandbox.read(at, 512).await, [5; 512]);
    }
}
