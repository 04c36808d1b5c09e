use super::*;
use crate::{
    fixtures::{self, DISK, cycle, owner},
    store::{When, memory::MemoryStore},
    test_support::ManualClock,
};

/// A VM whose cycle 1 is clean; cycle 2 is sent.
struct Rig {
    steward: Steward,
    store: Arc<MemoryStore>,
    ledger: Ledger,
}

impl Rig {
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::new(Arc::new(ManualClock::new())));
        let mut ledger = fixtures::new_ledger();
        (ledger.begun, ledger.turn) = (Cycle(1), Turn(1));
        ledger.recovery_point =
            Some(crate::ledger::RecoveryPoint { cycle: Cycle(1), time: fixtures::time(0), disks: ledger.seeds.keys().copied().collect() });
        let rig = Self { steward: Steward { store: store.clone(), keys: fixtures::keys() }, store, ledger };
        rig.sent(2).await;
        rig
    }

    async fn put<D: document::Document>(&self, name: &str, document: &D) {
        let bytes = document::encode(&self.steward.keys, name, document).unwrap();
        self.store.put(name, bytes, When::Always, None).await.unwrap();
    }

    /// A cycle from the ledger's turn, with its manifest.
    async fn sent(&self, number: u64) {
        let manifest = fixtures::manifest(number, self.ledger.turn.0);
        self.put(&names::state(manifest.of), &State { phase: Phase::Sent, ..State::new(manifest.of, owner(), self.ledger.turn) }).await;
        self.put(&names::manifest(manifest.of), &manifest).await;
    }

    /// An applier has begun it.
    async fn begin(&mut self, number: u64) {
        let name = names::manifest(cycle(number));
        let (manifest, digest) = document::require::<Manifest>(self.store.as_ref(), &self.steward.keys, &name).await.unwrap();
        self.ledger = self.ledger.begin(&manifest, digest, None);
    }

    async fn setback(&self, number: u64, for_good: bool) -> Setback {
        let setback = Setback { of: cycle(number), for_good, ..fixtures::setback() };
        self.put(&setback.name(), &setback).await;
        setback
    }

    async fn look(&self) -> Look {
        self.steward.look(&self.ledger, &owner(), |_| {}).await.unwrap()
    }
}

/// What a look says of the cycles, without the states that it has read.
fn says(due: Due, given_up: Vec<GivenUp>, setback: Option<Setback>) -> impl Fn(&Look) -> bool {
    move |look| look.due == due && look.given_up == given_up && look.setback == setback
}

fn apply(number: u64, begun: bool) -> Due {
    Due::Apply { of: cycle(number), begun }
}

fn given_up(number: u64, reason: Reason) -> impl Fn(&Look) -> bool {
    move |look| look.given_up.iter().any(|gone| gone.of == cycle(number) && gone.reason == reason)
}

#[tokio::test]
async fn a_setback_is_told() {
    let mut rig = Rig::new().await;
    for begun in [false, true] {
        if begun {
            rig.begin(2).await;
        }
        assert!(rig.store.delete(&names::setback(cycle(2)), None).await.is_ok());
        assert!(says(apply(2, begun), vec![], None)(&rig.look().await));
        let setback = rig.setback(2, false).await;
        assert!(says(apply(2, begun), vec![], Some(setback))(&rig.look().await));
    }
}

#[tokio::test]
async fn a_setback_for_good_gives_the_cycle_up() {
    let mut rig = Rig::new().await;
    for begun in [false, true] {
        if begun {
            rig.begin(2).await;
        }
        rig.setback(2, true).await;
        let gone = GivenUp { of: cycle(2), reason: Reason::BlobDamaged, message: "a segment is damaged".into(), disk: Some(DISK) };
        assert!(says(Due::New { above: Cycle(2) }, vec![gone], None)(&rig.look().await));
        assert_eq!(rig.steward.due(&rig.ledger, &owner(), false, |_| {}).await, Ok(Due::New { above: Cycle(2) }));
    }
}

#[tokio::test]
async fn a_cycle_that_was_given_up_does_not_come_back() {
    for begun in [false, true] {
        let mut rig = Rig::new().await;
        if begun {
            rig.begin(2).await;
        }
        rig.setback(2, true).await;
        let of = rig.steward.claim(&rig.ledger, &owner(), Cycle(2)).await.unwrap();
        assert_eq!(of, cycle(3));
        let look = rig.look().await;
        assert!(matches!(&look.due, Due::Resume(state) if state.of == of && state.basis == rig.ledger.turn), "{look:?}");
        assert_eq!(look.given_up.len(), usize::from(begun), "of one that nobody began the next one's state is enough");
        rig.sent(3).await;
        assert_eq!(rig.look().await.due, apply(3, false));
        // It has trouble of its own: the one before does not come back for that.
        rig.setback(3, false).await;
        assert_eq!(rig.look().await.due, apply(3, false));
        rig.begin(3).await;
        assert_eq!(rig.look().await.due, apply(3, true));
        // Clean by the new one: nothing of the old one is left, what the next one has said stays.
        rig.ledger.dirty.clear();
        rig.ledger.recovery_point.as_mut().unwrap().cycle = Cycle(3);
        rig.setback(4, false).await;
        rig.steward.clean_up(&rig.ledger).await.unwrap();
        assert_eq!(rig.store.names(), [names::setback(cycle(4))]);
    }
}

#[tokio::test]
async fn a_setback_that_can_not_be_read_says_nothing() {
    let mut rig = Rig::new().await;
    rig.begin(2).await;
    let setback = rig.setback(2, true).await;
    rig.store.corrupt(&setback.name(), |bytes| bytes[120] ^= 1);
    assert!(says(apply(2, true), vec![], None)(&rig.look().await));
    // Nor does another cycle's, put in its place.
    let other = fixtures::setback();
    let bytes = document::encode(&rig.steward.keys, &other.name(), &other).unwrap();
    rig.store.put(&setback.name(), bytes, When::Always, None).await.unwrap();
    assert_eq!(rig.look().await.due, apply(2, true));
    rig.put(&setback.name(), &other).await;
    assert_eq!(rig.look().await.due, apply(2, true));
}

#[tokio::test]
async fn a_manifest_that_can_not_be_read_gives_the_cycle_up() {
    for begun in [false, true] {
        let mut rig = Rig::new().await;
        if begun {
            rig.begin(2).await;
        }
        let name = names::manifest(cycle(2));
        rig.store.corrupt(&name, |bytes| bytes[200] ^= 1);
        let look = rig.look().await;
        assert!(look.due == Due::New { above: Cycle(2) } && given_up(2, Reason::BlobDamaged)(&look), "{look:?}");
        // Whoever has people before the screen lets them decide.
        assert!(matches!(rig.steward.due(&rig.ledger, &owner(), false, |_| {}).await, Err(LogError::Damaged { .. })));
        rig.store.delete(&name, None).await.unwrap();
        let look = rig.look().await;
        assert!(look.due == Due::New { above: Cycle(2) } && given_up(2, Reason::BlobMissing)(&look), "{look:?}");
    }
}

#[tokio::test]
async fn a_begun_cycle_whose_seed_is_replaced_is_given_up() {
    let mut rig = Rig::new().await;
    rig.begin(2).await;
    rig.ledger = rig.ledger.reseed(DISK, fixtures::seed("seed-c"));
    let look = rig.look().await;
    assert!(look.due == Due::New { above: Cycle(2) } && given_up(2, Reason::SeedReplaced)(&look), "{look:?}");
}

#[tokio::test]
async fn a_look_hands_over_each_state_that_it_has_read() {
    let rig = Rig::new().await;
    let states = |look: Look| look.states.into_values().collect::<Vec<_>>();
    let two = State { phase: Phase::Sent, ..State::new(cycle(2), owner(), rig.ledger.turn) };
    let look = rig.look().await;
    assert_eq!(look.states.keys().copied().collect::<Vec<_>>(), [cycle(2), cycle(3)]);
    assert_eq!(states(look), [StateSeen::Stands(two.clone()), StateSeen::Gone]);
    let of = rig.steward.claim(&rig.ledger, &owner(), Cycle(2)).await.unwrap();
    rig.store.corrupt(&names::state(of), |bytes| bytes[120] ^= 1);
    let seen = states(rig.look().await);
    assert!(matches!(&seen[..], [StateSeen::Stands(it), StateSeen::Damaged(_), StateSeen::Gone] if *it == two), "{seen:?}");
}

#[tokio::test]
async fn a_look_at_a_begun_cycle_reads_no_state() {
    let mut rig = Rig::new().await;
    rig.begin(2).await;
    assert_eq!(rig.look().await.states, BTreeMap::new());
}
