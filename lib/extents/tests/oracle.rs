//! Every operation against a bitmap that can't be wrong, and the canonical form after each.

use std::collections::BTreeSet;
use std::ops::Range;

use extents::{ExtentSet, SECTOR};
use proptest::prelude::*;

/// The sectors of the oracle's disk. Small, so that ranges meet often.
const SECTORS: usize = 96;

type Bitmap = Vec<bool>;

/// Ranges in any order: empty ones and reversed ones too.
fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
    let range = (0..SECTORS as u64, 0..12_u64, any::<bool>()).prop_map(|(start, length, reversed)| {
        let end = (start + length).min(SECTORS as u64);
        if reversed && length % 5 == 0 { end..start } else { start..end }
    });
    prop::collection::vec(range, 0..14)
}

fn bitmap(ranges: &[Range<u64>]) -> Bitmap {
    let mut map = vec![false; SECTORS];
    for range in ranges {
        for sector in range.clone() {
            map[sector as usize] = true;
        }
    }
    map
}

/// What the bitmap says, as the canonical list.
fn runs(map: &[bool]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (sector, set) in map.iter().enumerate() {
        let sector = sector as u64;
        match runs.last_mut() {
            _ if !set => {}
            Some(last) if last.end == sector => last.end += 1,
            _ => runs.push(sector..sector + 1),
        }
    }
    runs
}

/// The set's ranges, after a check that they are canonical.
fn canonical(set: &ExtentSet) -> Vec<Range<u64>> {
    let list: Vec<_> = set.iter().collect();
    assert!(list.iter().all(|r| r.start < r.end), "an empty range in {list:?}");
    assert!(list.windows(2).all(|w| w[0].end < w[1].start), "not sorted, disjoint and apart: {list:?}");
    list
}

fn zip(a: &[bool], b: &[bool], f: impl Fn(bool, bool) -> bool) -> Vec<Range<u64>> {
    runs(&a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect::<Bitmap>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn made_from_ranges(list in ranges()) {
        let set = ExtentSet::from_ranges(list.clone());
        let map = bitmap(&list);
        prop_assert_eq!(canonical(&set), runs(&map));
        prop_assert_eq!(&list.iter().cloned().collect::<ExtentSet>(), &set);
        prop_assert_eq!(set.sectors(), map.iter().filter(|s| **s).count() as u64);
        prop_assert_eq!(set.bytes(), set.sectors() * SECTOR);
        prop_assert_eq!(set.fragments(), runs(&map).len());
        prop_assert_eq!(set.end(), map.iter().rposition(|s| *s).map_or(0, |at| at as u64 + 1));
        prop_assert_eq!(set.is_empty(), !map.contains(&true));
        let bytes: Vec<_> = runs(&map).into_iter().map(|r| r.start * SECTOR..r.end * SECTOR).collect();
        prop_assert_eq!(set.byte_ranges().collect::<Vec<_>>(), bytes);
    }

    #[test]
    fn insert_and_remove_in_any_order(start in ranges(), steps in prop::collection::vec((any::<bool>(), ranges()), 0..6)) {
        let mut set = ExtentSet::from_ranges(start.clone());
        let mut map = bitmap(&start);
        for (add, list) in steps {
            for range in list {
                if add { set.insert(range.clone()) } else { set.remove(range.clone()) }
                range.for_each(|sector| map[sector as usize] = add);
                prop_assert_eq!(canonical(&set), runs(&map));
            }
        }
    }

    #[test]
    fn the_algebra(a in ranges(), b in ranges()) {
        let (x, y) = (ExtentSet::from_ranges(a.clone()), ExtentSet::from_ranges(b.clone()));
        let (m, n) = (bitmap(&a), bitmap(&b));
        prop_assert_eq!(canonical(&x.union(&y)), zip(&m, &n, |a, b| a || b));
        prop_assert_eq!(canonical(&x.intersection(&y)), zip(&m, &n, |a, b| a && b));
        prop_assert_eq!(canonical(&x.difference(&y)), zip(&m, &n, |a, b| a && !b));
        prop_assert_eq!(x.is_superset(&y), m.iter().zip(&n).all(|(a, b)| *a || !*b));
        let mut extended = x.clone();
        extended.extend(b);
        prop_assert_eq!(&extended, &x.union(&y));
        prop_assert_eq!(x.digest() == y.digest(), m == n);
    }

    #[test]
    fn questions_about_a_range(list in ranges(), start in 0..SECTORS as u64, end in 0..=SECTORS as u64) {
        let set = ExtentSet::from_ranges(list.clone());
        let map = bitmap(&list);
        let asked = map.get(start as usize..end as usize).unwrap_or_default();
        prop_assert_eq!(set.contains(start..end), asked.iter().all(|s| *s));
        prop_assert_eq!(set.intersects(start..end), asked.contains(&true));
        let clip: Bitmap = map.iter().enumerate().map(|(at, set)| *set && (start..end).contains(&(at as u64))).collect();
        prop_assert_eq!(canonical(&set.within(start..end)), runs(&clip));
    }

    #[test]
    fn widened_to_a_grain(list in ranges(), grain in 0..20_u64, capacity in 0..=SECTORS as u64) {
        let set = ExtentSet::from_ranges(list.clone());
        let map = bitmap(&list);
        let step = grain.max(1) as usize;
        // A sector is in when its grain has one that was, and the disk has it. The last grain may be short.
        let wide: Bitmap = (0..SECTORS)
            .map(|at| {
                let first = at - at % step;
                at < capacity as usize && map[first..(first + step).min(SECTORS)].contains(&true)
            })
            .collect();
        prop_assert_eq!(canonical(&set.widen(grain, capacity)), runs(&wide));
    }

    #[test]
    fn small_gaps_closed(list in ranges(), gap in 0..10_u64) {
        let set = ExtentSet::from_ranges(list.clone());
        let mut map = bitmap(&list);
        for pair in runs(&map).windows(2) {
            let between = pair[0].end..pair[1].start;
            if between.end - between.start <= gap {
                between.for_each(|sector| map[sector as usize] = true);
            }
        }
        prop_assert_eq!(canonical(&set.coalesce(gap)), runs(&map));
    }

    #[test]
    fn cut_at_blocks(list in ranges(), block in 0..20_u64) {
        let set = ExtentSet::from_ranges(list.clone());
        let map = bitmap(&list);
        let step = block.max(1);
        let pieces: Vec<_> = set.cut(block).collect();
        prop_assert!(pieces.iter().all(|r| r.start < r.end && r.start / step == (r.end - 1) / step), "{pieces:?}");
        prop_assert!(pieces.windows(2).all(|w| w[0].end < w[1].start || (w[0].end == w[1].start && w[1].start % step == 0)), "{pieces:?}");
        prop_assert_eq!(ExtentSet::from_ranges(pieces), set.clone());
        let touched: BTreeSet<u64> = (0..SECTORS as u64).filter(|s| map[*s as usize]).map(|s| s / step).collect();
        prop_assert_eq!(set.blocks(block).collect::<Vec<_>>(), touched.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn made_from_bytes(
        list in prop::collection::vec((0..SECTORS as u64 * SECTOR * 2, 0..5000_u64), 0..12),
        capacity in 0..=SECTORS as u64 * SECTOR,
    ) {
        let mut map = vec![false; SECTORS];
        for (start, length) in &list {
            // The oracle asks each sector whether a byte of it is in the range and on the disk.
            for (sector, set) in map.iter_mut().enumerate() {
                let first = sector as u64 * SECTOR;
                *set |= first.max(*start) < (first + SECTOR).min(start + length).min(capacity);
            }
        }
        let set = ExtentSet::from_bytes(list.iter().map(|(start, length)| *start..start + length), capacity);
        prop_assert_eq!(canonical(&set), runs(&map));
    }

    #[test]
    fn documents_round_trip(list in ranges()) {
        let set = ExtentSet::from_ranges(list);
        let json = serde_json::to_string(&set).unwrap();
        prop_assert_eq!(&serde_json::from_str::<ExtentSet>(&json).unwrap(), &set);
    }

    /// A document is read as exactly the set that would be written as it, or it is refused.
    #[test]
    fn only_canonical_documents_are_read(pairs in prop::collection::vec((0..20_u64, 0..4_u64), 0..5)) {
        let json = serde_json::to_string(&pairs).unwrap();
        let canonical = pairs.iter().all(|p| p.1 > 0) && pairs.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0);
        match serde_json::from_str::<ExtentSet>(&json) {
            Ok(set) => {
                prop_assert!(canonical, "{json} was accepted");
                prop_assert_eq!(serde_json::to_string(&set).unwrap(), json);
            }
            Err(error) => prop_assert!(!canonical, "{json} was refused: {error}"),
        }
    }
}

#[test]
fn the_document_is_compact() {
    let set = ExtentSet::from_ranges([0..8, 2048..4096]);
    assert_eq!(serde_json::to_string(&set).unwrap(), "[[0,8],[2048,2048]]");
    assert_eq!(serde_json::to_string(&ExtentSet::new()).unwrap(), "[]");
}

#[test]
fn damaged_documents_are_refused_with_the_reason() {
    let cases = [
        ("[[0,0]]", "no length"),
        ("[[0,8],[8,8]]", "touches"),
        ("[[0,8],[4,8]]", "overlaps"),
        ("[[0,8],[0,8]]", "overlaps"),
        ("[[16,8],[0,8]]", "out of order"),
        ("[[18446744073709551615,1]]", "past any disk's end"),
        ("[[1,18446744073709551615]]", "past any disk's end"),
        ("[[36028797018963967,1]]", "past any disk's end"),
        ("[[-1,8]]", "invalid value"),
        ("[[1.5,8]]", "invalid type"),
        ("[[1]]", "invalid length"),
        ("[[1,2,3]]", "trailing"),
        ("{}", "list of [start, length] pairs"),
    ];
    for (json, reason) in cases {
        let error = serde_json::from_str::<ExtentSet>(json).unwrap_err().to_string();
        assert!(error.contains(reason), "{json}: {error}");
    }
    // The last sector whose bytes can still be addressed.
    let last = "[[36028797018963966,1]]";
    assert_eq!(serde_json::from_str::<ExtentSet>(last).unwrap().end(), extents::MAX_SECTORS);
}

#[test]
fn the_digest_is_the_one_that_was_published() {
    // Manifests hold digests: a change here is a change of the format.
    let hex = |set: &ExtentSet| set.digest().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut plain = b"hawser extents v1\0".to_vec();
    for number in [2_u64, 0, 8, 2048, 2048] {
        plain.extend(number.to_le_bytes());
    }
    assert_eq!(hex(&ExtentSet::from_ranges([2048..4096, 0..8])), blake3::hash(&plain).to_hex().as_str());
    assert_eq!(hex(&ExtentSet::new()), "dacafc5965be823ba546d4ea64dc7d298b06bee0b55feeaf1cd90c5cbfa6bb67");
}

#[test]
fn the_ends_of_the_number_range() {
    let set = ExtentSet::from_ranges([0..1, u64::MAX - 1..u64::MAX]);
    assert_eq!(set.widen(4096, u64::MAX).end(), u64::MAX);
    assert_eq!(set.cut(4096).count(), 2);
    assert_eq!(set.blocks(1).collect::<Vec<_>>(), [0, u64::MAX - 1]);
    assert_eq!(ExtentSet::all(u64::MAX).difference(&set).sectors(), u64::MAX - 2);
    assert_eq!(ExtentSet::all(u64::MAX).bytes(), u64::MAX);
    assert_eq!(ExtentSet::all(0), ExtentSet::new());
    let bytes = ExtentSet::from_bytes(std::iter::once(0..u64::MAX), u64::MAX);
    assert_eq!(bytes.sectors(), u64::MAX / SECTOR + 1);
}

#[test]
fn appending_does_not_move_what_is_there() {
    // 400,000 fragments: if an append were linear, this would be 80 billion moves and never end.
    let mut set = ExtentSet::new();
    for at in 0..400_000_u64 {
        set.insert(at * 2..at * 2 + 1);
    }
    assert_eq!(set.fragments(), 400_000);
    for at in 0..400_000_u64 {
        set.insert(800_000 + at..800_000 + at + 1);
    }
    assert_eq!(set.fragments(), 400_001);
}
