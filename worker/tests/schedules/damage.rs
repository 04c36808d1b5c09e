//! A changed byte in the log, wherever it is: the worker that reads it says so, and nothing of it reaches a replica.

use blocklog::{
    cycle::Manifest,
    ids::{Cycle, DiskCycle},
    names,
    segment::read_tail,
    steward::Due,
    store::LogStore,
};
use extents::ExtentSet;
use replica::memory::HostKind;

use crate::{
    operator::Operator,
    scheduler::Sim,
    vm::{DISKS, snapshot_of},
    world::{VM, World},
};

/// At most so many bytes of one blob are flipped, evenly spread; the parsers' own tests flip every byte.
const FLIPS: usize = 60;

fn setting() -> (World, Operator) {
    let sim = Sim::new(3);
    let world = World::new(sim, HostKind::Exact);
    let operator = Operator::idle(&world);
    operator.calm_down();
    let first = operator.send(false);
    operator.place_order(first);
    operator.run_applier();
    assert!(world.ledger().unwrap().is_clean());
    (0..9).for_each(|_| world.vm.guest_writes());
    (world, operator)
}

fn replicas(world: &World) -> Vec<Vec<u8>> {
    DISKS.iter().map(|(disk, _)| world.hosts[disk].peek()).collect()
}

/// The sectors in which two disks differ.
fn differences(one: &[u8], two: &[u8]) -> ExtentSet {
    let sectors = one.chunks(512).zip(two.chunks(512)).enumerate().filter(|(_, (one, two))| one != two);
    sectors.map(|(sector, _)| sector as u64..sector as u64 + 1).collect()
}

/// The sectors of a disk that the begun cycle's other segments cover, where the blob is a segment.
fn others(world: &World, name: &str, disk: usize) -> ExtentSet {
    let Some(ledger) = name.ends_with(".seg").then(|| world.ledger()).flatten() else { return ExtentSet::new() };
    let of = ledger.cycle(ledger.begun);
    let manifest_name = names::manifest(of);
    let (manifest, _) = world.read::<Manifest>(&manifest_name).unwrap();
    let of = DiskCycle { of, disk: DISKS[disk].0 };
    let mut all = ExtentSet::new();
    for segment in &manifest.disks[&of.disk].segments {
        let other = names::segment(of, segment.epoch, segment.n);
        if other != name {
            let key = manifest.epochs.open(&world.keys, of.of, segment.epoch, &manifest_name).unwrap();
            let tail =
                read_tail(&other, of, segment.epoch, segment.n, &key, segment.size, &world.store.peek(&other).unwrap()).unwrap().unwrap();
            tail.records.iter().for_each(|record| all.insert(record.sectors()));
        }
    }
    all
}

fn last_note(world: &World) -> String {
    world.sim.history().last().cloned().unwrap_or_default()
}

/// Flips bytes of every blob whose name ends like this, one at a time; each time `work` runs, it has to end with an error. What comes of a
/// segment is only that nothing of *it* is written: other segments are sound, and the cycle is begun.
fn flip_each(world: &World, ending: &str, mut work: impl FnMut()) -> usize {
    let before = replicas(world);
    let names: Vec<_> = world.store.names().into_iter().filter(|name| name.ends_with(ending)).collect();
    assert!(!names.is_empty(), "no blob ends with {ending}");
    let mut flips = 0;
    for name in names {
        let length = world.store.peek(&name).unwrap().len();
        for at in (0..length).step_by(length.div_ceil(FLIPS)) {
            world.store.corrupt(&name, |bytes| bytes[at] ^= 0x40);
            work();
            let note = last_note(world);
            assert!(
                note.contains("Err(") && note.contains("Damaged") || note.contains("UnknownVersion") || note.contains("KeyMissing"),
                "{name} byte {at}: {note}"
            );
            let known: Vec<_> = replicas(world)
                .into_iter()
                .zip(&before)
                .enumerate()
                .map(|(i, (now, before))| differences(&now, before).difference(&others(world, &name, i)))
                .collect();
            assert!(known.iter().all(ExtentSet::is_empty), "{name} byte {at}: {known:?} reached a replica");
            // A ledger that is damaged itself can't be asked.
            if !ending.ends_with("ledger") {
                assert!(world.ledger().is_some_and(|ledger| !ledger.dirty.is_empty() || ledger.begun.0 == 1));
            }
            world.store.corrupt(&name, |bytes| bytes[at] ^= 0x40);
            flips += 1;
        }
    }
    flips
}

#[test]
fn a_flipped_byte_reaches_no_replica() {
    let (world, operator) = setting();
    let of = operator.send(false);
    operator.place_order(of);
    let cycle = names::cycle(of);
    let applier = || operator.run_applier();
    let mut flips = 0;
    for ending in ["ledger".to_owned(), names::manifest(of), format!("{}.{}", VM.vcenter, VM.instance)] {
        flips += flip_each(&world, &ending, applier);
    }
    // Only this cycle's segments: those of the first are applied and would not be read.
    for name in world.store.names().into_iter().filter(|name| name.starts_with(&cycle) && name.ends_with(".seg")) {
        flips += flip_each(&world, &name, applier);
    }
    for index in world.store.names().into_iter().filter(|name| name.ends_with("-index")) {
        flips += flip_each(&world, &index, applier);
    }
    println!("{flips} flips, each an error");

    // With every byte as it was, the same cycle is applied.
    operator.run_applier();
    assert!(world.ledger().unwrap().is_clean(), "{}", last_note(&world));
    assert_eq!(world.sim.violation(), None);
}

#[test]
fn a_flipped_byte_in_state_or_fingerprints_stops_the_gateway() {
    let (world, operator) = setting();
    let of = operator.send(false);
    let full = names::state(of);
    flip_each(&world, &full, || operator.run_gateway(of, true));
    // A gateway that reads fingerprints: the next cycle, in full.
    world.now(world.store.delete(&names::manifest(of), None)).unwrap();
    world.now(world.store.delete(&full, None)).unwrap();
    for chunk in world.store.names().into_iter().filter(|name| name.ends_with("-000000")) {
        let name = chunk.clone();
        let before = replicas(&world);
        world.store.corrupt(&name, |bytes| bytes[17] ^= 1);
        operator.send(true);
        let note = last_note(&world);
        assert!(note.contains("Damaged") && note.contains(&chunk), "{note}");
        assert!(replicas(&world) == before);
        world.store.corrupt(&name, |bytes| bytes[17] ^= 1);
    }
}

/// What breaks a cycle's log, and the word for it.
const BREAKS: [(&str, &str); 4] = [
    ("a segment is damaged", "BlobDamaged"),
    ("a segment is gone", "BlobNotFound"),
    ("the manifest is damaged", "BlobDamaged"),
    ("the manifest is gone", "BlobMissing"),
];

/// From a broken log to an equal replica, by what lies in the log alone: the applier writes down why, the cycle is given up, the next one covers
/// its ground.
#[test]
fn a_broken_log_is_told_given_up_and_covered_by_the_next_cycle() {
    for (what, word) in BREAKS {
        let (world, operator) = setting();
        let of = operator.send(false);
        operator.place_order(of);
        assert_eq!(operator.look_at_log().due, Due::Apply { of, begun: false });
        let folder = names::cycle(of);
        let ending = if what.contains("segment") { ".seg" } else { "manifest" };
        // The last one of the last disk: what comes before it is written.
        let name = world.store.names().into_iter().rfind(|name| name.starts_with(&folder) && name.ends_with(ending)).unwrap();
        if what.ends_with("gone") {
            world.now(world.store.delete(&name, None)).unwrap();
        } else {
            world.store.corrupt(&name, |bytes| bytes[100] ^= 1);
        }
        operator.run_pod();
        // It has begun to write, unless there was nothing to begin with.
        let ledger = world.ledger().unwrap();
        assert_eq!(ledger.dirty.len(), usize::from(ending == ".seg"), "{what}");
        let look = operator.look_at_log();
        assert_eq!(look.due, Due::New { above: of.cycle }, "{what}");
        let [gone] = look.given_up.as_slice() else { panic!("{what}: {look:?}") };
        assert_eq!((gone.of, gone.reason.as_str()), (of, word), "{what}");
        assert!(gone.message.contains(&name), "{what}: {gone:?}");
        // Whoever looks again, before and after the order is taken back, and after the number is claimed, sees the same.
        operator.drop_order();
        assert_eq!(operator.look_at_log(), look, "{what}");
        (0..5).for_each(|_| world.vm.guest_writes());
        let next = operator.claim(of.cycle);
        assert_eq!(next.cycle, Cycle(of.cycle.0 + 1));
        assert!(matches!(operator.look_at_log().due, Due::Resume(state) if state.of == next), "{what}");
        operator.run_gateway(next, false);
        assert_eq!(operator.look_at_log().due, Due::Apply { of: next, begun: false }, "{what}");
        operator.place_order(next);
        operator.run_pod();
        let ledger = world.ledger().unwrap();
        assert!(ledger.is_clean() && ledger.begun == next.cycle, "{what}: {}", last_note(&world));
        assert_eq!(world.sim.violation(), None);
        let frozen = snapshot_of(&world.vm, next.cycle, ledger.recovery_point.as_ref().unwrap().time).unwrap();
        assert!(replicas(&world) == frozen.bytes, "{what}");
        // Nothing of it is left.
        world.now(operator.steward().clean_up(&ledger)).unwrap();
        let left: Vec<_> = world.store.names().into_iter().filter(|name| name.contains(&folder)).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

/// What was changed on its way is not damaged where it lies: a cycle is not given up for that.
#[test]
fn a_segment_that_was_misread_once_is_read_again() {
    let (world, operator) = setting();
    let of = operator.send(false);
    operator.place_order(of);
    let folder = names::cycle(of);
    let name = world.store.names().into_iter().find(|name| name.starts_with(&folder) && name.ends_with(".seg")).unwrap();
    world.misread_once(&name);
    operator.run_pod();
    assert!(world.ledger().unwrap().is_clean(), "{}", last_note(&world));
    assert!(world.store.peek(&names::setback(of)).is_none());
    assert!(!world.is_misread(&name), "it was to be misread");
}
