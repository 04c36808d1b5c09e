use super::*;
use crate::fixtures::{DISK, OTHER_DISK, Seeded, cycle, epochs, incarnation, keys, manifest, order, owner, vm};

#[test]
fn each_epoch_has_a_key_of_its_own_and_opens_for_its_cycle_only() {
    let (keys, of) = (keys(), cycle(3));
    let (entropy, mut epochs) = (Seeded::new(1), Epochs::default());
    assert_eq!(epochs.last(), None);
    let first = epochs.add(&keys, of, Epoch(1), &entropy);
    let second = epochs.add(&keys, of, Epoch(2), &entropy);
    assert_eq!(epochs.last(), Some(Epoch(2)));
    // Secrets can't be compared; what they make can.
    let same = |a: &Secret, b: &Secret| a.mac(&[]) == b.mac(&[]);
    assert!(!same(&first, &second));
    assert!(same(&epochs.open(&keys, of, Epoch(1), "state").unwrap(), &first));
    assert!(same(&epochs.open(&keys, of, Epoch(2), "state").unwrap(), &second));
    assert!(matches!(epochs.open(&keys, of, Epoch(3), "state"), Err(LogError::Damaged { .. })));
    assert!(matches!(epochs.open(&keys, cycle(4), Epoch(1), "state"), Err(LogError::Damaged { .. })));
    let swapped = Epochs(BTreeMap::from([(Epoch(1), epochs.0[&Epoch(2)].clone())]));
    assert!(matches!(swapped.open(&keys, of, Epoch(1), "state"), Err(LogError::Damaged { .. })));
    let short = Epochs(BTreeMap::from([(Epoch(1), keys.seal("data key", &epoch_binding(of, Epoch(1)), &[1; 31], &entropy))]));
    assert!(matches!(short.open(&keys, of, Epoch(1), "state"), Err(LogError::Damaged { .. })));
}

#[test]
fn a_manifest_takes_only_the_keys_that_it_needs() {
    let only = epochs(cycle(3)).only(|epoch| epoch == Epoch(2));
    assert!(matches!(only.open(&keys(), cycle(3), Epoch(1), "manifest"), Err(LogError::Damaged { .. })));
    assert!(only.open(&keys(), cycle(3), Epoch(2), "manifest").is_ok());
}

#[test]
fn a_manifest_is_partial_where_a_disk_is() {
    let mut manifest = manifest(1, 0);
    assert!(!manifest.partial());
    manifest.disks.get_mut(&OTHER_DISK).unwrap().partial = true;
    assert!(manifest.partial());
}

#[test]
fn write_access_opens_for_its_seed_only() {
    let (keys, seed) = (keys(), &order().seeds[&DISK]);
    assert_eq!(seed.open(&keys, vm(), incarnation(), DISK, "order").unwrap().as_slice(), br#"{"url":"https://example.invalid/seed"}"#);
    let uuid = uuid::Uuid::from_u128(9);
    let damaged = |found: Result<zeroize::Zeroizing<Vec<u8>>, LogError>| assert!(matches!(found, Err(LogError::Damaged { .. })));
    damaged(seed.open(&keys, VmId { vcenter: uuid, ..vm() }, incarnation(), DISK, "order"));
    damaged(seed.open(&keys, VmId { instance: uuid, ..vm() }, incarnation(), DISK, "order"));
    damaged(seed.open(&keys, vm(), Incarnation(uuid), DISK, "order"));
    damaged(seed.open(&keys, vm(), incarnation(), OTHER_DISK, "order"));
    let other = OrderSeed { unique_id: "seed-b".into(), ..seed.clone() };
    damaged(other.open(&keys, vm(), incarnation(), DISK, "order"));
}

#[test]
fn a_new_state_has_done_nothing() {
    let state = State::new(cycle(3), owner(), Turn(4));
    assert_eq!((state.name(), state.basis, &state.phase), (names::state(cycle(3)), Turn(4), &Phase::Open));
    assert!(state.snapshot == SnapshotNote::None && state.disks.is_empty() && state.epochs.last().is_none());
    assert_eq!(next(Cycle(3)), Cycle(4));
}

#[test]
fn figures_add_up() {
    let mut sum = Figures { changed: 1, read: 2, uploaded: 3, in_place: 4 };
    sum += Figures { changed: 10, read: 20, uploaded: 30, in_place: 40 };
    assert_eq!(sum, Figures { changed: 11, read: 22, uploaded: 33, in_place: 44 });
}
