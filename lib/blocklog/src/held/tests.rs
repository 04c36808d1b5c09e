use uuid::Uuid;

use super::*;
use crate::{
    fixtures::{full_ledger, keys},
    ids::Turn,
    ledger::Ledger,
    store::memory::MemoryStore,
    test_support::{Fault, Faulty, ManualClock, Op},
};

const NAME: &str = "v1/a/ledger";
const MINE: LeaseId = LeaseId(Uuid::from_u128(1));
const THEIRS: LeaseId = LeaseId(Uuid::from_u128(2));

type Script = &'static [(Op, Fault)];

struct Bench {
    clock: ManualClock,
    memory: Arc<MemoryStore>,
    store: Arc<Faulty>,
}

impl Bench {
    async fn new() -> Self {
        let clock = ManualClock::new();
        clock.auto_advance(true);
        let memory = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        let store = Faulty::new(memory.clone());
        document::write_new(memory.as_ref(), &keys(), NAME, &full_ledger()).await.unwrap();
        Self { clock, memory, store }
    }

    async fn acquire(&self, lease: LeaseId) -> Result<Held<Ledger>, LogError> {
        Held::acquire(self.store.clone(), keys(), Arc::new(self.clock.clone()), NAME, lease).await
    }

    async fn stored(&self) -> Ledger {
        document::require::<Ledger>(self.memory.as_ref(), &keys(), NAME).await.unwrap().0
    }
}

fn next(turn: u64) -> Ledger {
    Ledger { turn: Turn(turn), ..full_ledger() }
}

fn store_error<T>(found: Result<T, LogError>) -> StoreError {
    match found {
        Err(LogError::Store(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it went on"),
    }
}

fn lost() -> StoreError {
    StoreError::LeaseLost(NAME.into())
}

fn changed() -> StoreError {
    StoreError::Changed(NAME.into())
}

#[tokio::test]
async fn a_holder_reads_and_writes_and_gives_back() {
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    assert_eq!((held.value(), held.name()), (&full_ledger(), NAME));
    assert_eq!(held.remaining(), LEASE - MARGIN);
    assert_eq!(store_error(bench.acquire(THEIRS).await), StoreError::Leased(NAME.into()));
    for turn in [20, 21] {
        held.write(next(turn)).await.unwrap();
        assert_eq!((held.value(), &bench.stored().await), (&next(turn), &next(turn)));
    }
    bench.store.script([]);
    held.write(next(21)).await.unwrap();
    assert_eq!(bench.store.count(Op::Put), 0, "the same document is not written again");
    held.release().await;
    assert_eq!(bench.acquire(THEIRS).await.unwrap().value(), &next(21));
}

#[tokio::test]
async fn only_a_sound_document_is_held() {
    let bench = Bench::new().await;
    let missing = Held::<Ledger>::acquire(bench.store.clone(), keys(), Arc::new(bench.clock.clone()), "v1/b", MINE).await;
    assert_eq!(missing.err(), Some(LogError::Missing("v1/b".into())));
    bench.memory.corrupt(NAME, |bytes| bytes[200] ^= 1);
    assert!(matches!(bench.acquire(MINE).await.err(), Some(LogError::Damaged { .. })));
    bench.memory.corrupt(NAME, |bytes| bytes[200] ^= 1);
    bench.store.script([(Op::Get, Fault::Dropped)]);
    assert!(store_error(bench.acquire(MINE).await).in_doubt());
    // The lease was given back each time.
    assert!(bench.acquire(THEIRS).await.is_ok());
}

#[tokio::test]
async fn a_lease_whose_grant_was_not_heard_is_given_back() {
    let bench = Bench::new().await;
    bench.store.script([(Op::Acquire, Fault::AnswerLost)]);
    assert!(store_error(bench.acquire(MINE).await).in_doubt());
    assert!(bench.acquire(THEIRS).await.is_ok());
}

#[tokio::test]
async fn a_write_in_doubt_is_resolved_by_looking() {
    use Fault::{AnswerLost, Dropped, Late, Repeated};
    // What becomes of the requests, and how many writes and looks it then takes.
    let scripts: [(Script, usize, usize); 9] = [
        (&[(Op::Put, AnswerLost)], 1, 1),
        (&[(Op::Put, Dropped)], 2, 1),
        (&[(Op::Put, Repeated)], 1, 1),
        // The first arrives after the second: the second counts, the first is refused.
        (&[(Op::Put, Late)], 2, 1),
        (&[(Op::Put, Late), (Op::Put, Dropped)], 2, 2),
        (&[(Op::Put, Dropped), (Op::Put, Dropped), (Op::Put, AnswerLost)], 3, 3),
        (&[(Op::Put, AnswerLost), (Op::Get, Dropped), (Op::Get, Dropped)], 1, 3),
        (&[(Op::Put, Dropped), (Op::Get, Dropped)], 2, 2),
        (&[(Op::Put, Dropped), (Op::Put, Repeated)], 2, 2),
    ];
    for (script, puts, gets) in scripts {
        let bench = Bench::new().await;
        let mut held = bench.acquire(MINE).await.unwrap();
        bench.store.script(script.iter().copied());
        held.write(next(20)).await.unwrap();
        assert_eq!((bench.store.count(Op::Put), bench.store.count(Op::Get)), (puts, gets), "{script:?}");
        assert_eq!((held.value(), bench.stored().await), (&next(20), next(20)), "{script:?}");
        // And it knows which version it holds.
        held.write(next(21)).await.unwrap();
        assert_eq!(bench.stored().await, next(21), "{script:?}");
    }
}

#[tokio::test]
async fn a_store_that_stays_silent_costs_the_lease() {
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    bench.store.script(std::iter::repeat_n((Op::Put, Fault::Dropped), 1000));
    assert_eq!(store_error(held.write(next(20)).await), lost());
    assert_eq!(held.value(), &full_ledger());
    assert!(bench.clock.monotonic() >= LEASE - MARGIN);
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    bench.store.script(std::iter::repeat_n((Op::Renew, Fault::Dropped), 1000));
    assert_eq!(store_error(held.renew().await), lost());
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    let silent = std::iter::repeat_n((Op::Get, Fault::Dropped), 1000);
    bench.store.script([(Op::Put, Fault::AnswerLost)].into_iter().chain(silent));
    assert_eq!(store_error(held.write(next(20)).await), lost());
}

#[tokio::test]
async fn an_answer_that_leaves_no_doubt_is_given_on_at_once() {
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    bench.store.script([(Op::Put, Fault::Denied)]);
    assert_eq!(store_error(held.write(next(20)).await), StoreError::Denied("a test".into()));
    assert_eq!(held.value(), &full_ledger());
    bench.store.script([(Op::Put, Fault::AnswerLost), (Op::Get, Fault::Denied)]);
    assert_eq!(store_error(held.write(next(20)).await), StoreError::Denied("a test".into()));
    assert_eq!(bench.clock.monotonic(), Duration::ZERO);
}

#[tokio::test]
async fn renewing_makes_the_lease_last() {
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    for _ in 0..10 {
        bench.clock.advance(RENEW_EVERY);
        held.renew().await.unwrap();
        assert_eq!(held.remaining(), LEASE - MARGIN);
    }
    // An answer that was lost costs one pause, not the lease.
    bench.store.script([(Op::Renew, Fault::AnswerLost), (Op::Renew, Fault::Dropped)]);
    held.renew().await.unwrap();
    assert_eq!((held.remaining(), bench.store.count(Op::Renew)), (LEASE - MARGIN, 3));
    assert_eq!(store_error(bench.acquire(THEIRS).await), StoreError::Leased(NAME.into()));
}

#[tokio::test]
async fn a_lease_is_counted_from_before_the_request() {
    let bench = Bench::new().await;
    let (clock, slow) = (bench.clock.clone(), Duration::from_secs(7));
    bench.store.meanwhile(move || clock.advance(slow));
    let mut held = bench.acquire(MINE).await.unwrap();
    assert_eq!(held.remaining(), LEASE - MARGIN - slow);
    held.renew().await.unwrap();
    assert_eq!(held.remaining(), LEASE - MARGIN - slow);
}

#[tokio::test]
async fn a_lease_is_taken_for_lost_before_it_ends() {
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    bench.clock.advance(LEASE - MARGIN - Duration::from_nanos(1));
    held.check().unwrap();
    bench.clock.advance(Duration::from_nanos(1));
    assert_eq!(held.remaining(), Duration::ZERO);
    assert_eq!(store_error(held.check()), lost());
    bench.store.script([]);
    assert_eq!(store_error(held.write(next(20)).await), lost());
    assert_eq!(store_error(held.write(full_ledger()).await), lost(), "also where nothing is to be written");
    assert_eq!(store_error(held.renew().await), lost());
    assert_eq!(bench.store.count(Op::Put) + bench.store.count(Op::Renew), 0);
}

#[tokio::test]
async fn a_lease_that_another_took_is_lost() {
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    bench.memory.break_lease(NAME).await.unwrap();
    let mut theirs = bench.acquire(THEIRS).await.unwrap();
    assert_eq!(store_error(held.write(next(20)).await), lost());
    assert_eq!(store_error(held.renew().await), lost());
    theirs.write(next(30)).await.unwrap();
    // Giving back what is not ours takes nothing from them.
    held.release().await;
    theirs.write(next(31)).await.unwrap();
    assert_eq!(bench.stored().await, next(31));
}

/// Somebody writes past the lease, as only a store that is broken would let him.
async fn intrude(bench: &Bench, ledger: &Ledger) {
    bench.memory.break_lease(NAME).await.unwrap();
    let bytes = document::encode(&keys(), NAME, ledger).unwrap();
    bench.memory.put(NAME, bytes, When::Always, None).await.unwrap();
    bench.memory.acquire(NAME, MINE).await.unwrap();
}

#[tokio::test]
async fn what_another_wrote_is_never_written_over() {
    for script in [vec![], vec![(Op::Put, Fault::Dropped)], vec![(Op::Put, Fault::AnswerLost)], vec![(Op::Put, Fault::Repeated)]] {
        let bench = Bench::new().await;
        let mut held = bench.acquire(MINE).await.unwrap();
        intrude(&bench, &next(99)).await;
        bench.store.script(script.clone());
        assert_eq!(store_error(held.write(next(20)).await), changed(), "{script:?}");
        assert_eq!(bench.store.count(Op::Put), 1, "{script:?}: it is known at the first look");
        assert_eq!((bench.stored().await, held.value()), (next(99), &full_ledger()), "{script:?}");
    }
    // Or deleted.
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    bench.memory.delete(NAME, Some(MINE)).await.unwrap();
    assert!(held.write(next(20)).await.is_err());
    assert!(bench.memory.peek(NAME).is_none());
}

#[tokio::test]
async fn a_late_write_of_a_lost_holder_changes_nothing() {
    let bench = Bench::new().await;
    let mut held = bench.acquire(MINE).await.unwrap();
    bench.clock.advance(LEASE - MARGIN - Duration::from_nanos(1));
    bench.store.script([(Op::Put, Fault::Late)]);
    assert_eq!(store_error(held.write(next(20)).await), lost());
    bench.clock.advance(MARGIN);
    let mut theirs = bench.acquire(THEIRS).await.unwrap();
    assert_eq!(theirs.value(), &full_ledger());
    // His write arrives behind this one.
    theirs.write(next(30)).await.unwrap();
    assert_eq!(bench.stored().await, next(30));
    theirs.write(next(31)).await.unwrap();
}
