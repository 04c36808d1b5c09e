//! The bytes of the format, written down: with fixed keys, randomness and time, each document and one segment are what the files under
//! `tests/golden/` hold. A test that fails here says that logs and ledgers of earlier releases can't be read any more, or not be told from
//! changed ones. The files are written anew only by `HAWSER_BLESS=1 cargo test -p blocklog golden`, together with a new format version.

use std::{fmt::Debug, path::PathBuf};

use crate::{
    codec::{Codec, Sealer, unpack},
    cycle::{KeyCheck, Manifest, Order, Receipt, State},
    document::{self, Document},
    fingerprints::{Index, tests::example},
    fixtures::{self, data, disk_cycle, keys, noise, secret, text},
    ids::{Digest, Epoch},
    ledger::Ledger,
    names,
    segment::{Segment, SegmentBuilder, SegmentRef, read_tail},
    setback::Setback,
};

fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("HAWSER_BLESS").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; HAWSER_BLESS=1 writes it", path.display()))
}

fn document<D: Document + Debug>(name: &str, made: &D) {
    let bytes = document::encode(&keys(), name, made).unwrap();
    let golden = golden(D::KIND, &bytes);
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&golden), "{}", D::KIND);
    assert_eq!(document::decode::<D>(&keys(), name, &golden).unwrap(), *made);
}

#[test]
fn documents_are_the_golden_ones() {
    let of = fixtures::cycle(3);
    document::<State>(&names::state(of), &fixtures::state());
    document::<Manifest>(&names::manifest(of), &fixtures::manifest(3, 4));
    document::<Order>(&names::order(&fixtures::owner(), of.vm), &fixtures::order());
    document::<Receipt>(&names::receipt(of), &fixtures::receipt());
    document::<Setback>(&names::setback(of), &fixtures::setback());
    document::<Ledger>(&names::ledger(of.vm), &fixtures::full_ledger());
    document::<Index>(&names::index(of.vm, of.incarnation, fixtures::DISK, crate::ids::Turn(12)), &example());
    document::<KeyCheck>(names::KEY_CHECK, &fixtures::key_check());
}

#[test]
fn sealed_secrets_of_golden_documents_open() {
    let bytes = |kind: &str| std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind)).unwrap();
    let of = fixtures::cycle(3);
    let order: Order = document::decode(&keys(), &names::order(&fixtures::owner(), of.vm), &bytes("order")).unwrap();
    let access = order.seeds[&fixtures::DISK].open(&keys(), of.vm, of.incarnation, fixtures::DISK, "order").unwrap();
    assert_eq!(access.as_slice(), br#"{"url":"https://example.invalid/seed"}"#);
    let state: State = document::decode(&keys(), &names::state(of), &bytes("state")).unwrap();
    let key = state.epochs.open(&keys(), of, Epoch(2), "state").unwrap();
    // The randomness was drawn in this order: key and nonce of the first epoch, key of the second.
    let drawn: [u8; 32] = noise(5, 76)[44..].try_into().unwrap();
    assert_eq!(key.mac(&[]), crate::keys::Secret::new(drawn).mac(&[]));
}

#[test]
fn names_are_the_golden_ones() {
    use crate::ids::Turn;
    let (of, disk) = (fixtures::cycle(3), disk_cycle(3));
    let vm = "v1/00000000-0000-0000-0000-000000000011/00000000-0000-0000-0000-000000000022/";
    let inc = "00000000000000000000000000000033/";
    let found = [
        names::KEY_CHECK.to_owned(),
        names::vm(of.vm),
        names::ledger(of.vm),
        names::orders("west"),
        names::order(&fixtures::owner(), of.vm),
        names::incarnation(of.vm, of.incarnation),
        names::cycle(of),
        names::state(of),
        names::manifest(of),
        names::receipt(of),
        names::setback(of),
        names::segments(disk),
        names::segment(disk, Epoch(2), 7),
        names::fingerprints(of.vm, of.incarnation, disk.disk),
        names::chunk(of.vm, of.incarnation, disk.disk, Turn(12), 5),
        names::index(of.vm, of.incarnation, disk.disk, Turn(12)),
    ];
    let expected = [
        "v1/keycheck".to_owned(),
        vm.to_owned(),
        format!("{vm}ledger"),
        "v1/orders/west/".to_owned(),
        "v1/orders/west/00000000-0000-0000-0000-000000000011.00000000-0000-0000-0000-000000000022".to_owned(),
        format!("{vm}{inc}"),
        format!("{vm}{inc}0000000003/"),
        format!("{vm}{inc}0000000003/state"),
        format!("{vm}{inc}0000000003/manifest"),
        format!("{vm}{inc}0000000003/receipt"),
        format!("{vm}{inc}0000000003/setback"),
        format!("{vm}{inc}0000000003/2000/"),
        format!("{vm}{inc}0000000003/2000/0002-00000007.seg"),
        format!("{vm}{inc}fingerprints/2000/"),
        format!("{vm}{inc}fingerprints/2000/0000000012-000005"),
        format!("{vm}{inc}fingerprints/2000/0000000012-index"),
    ];
    assert_eq!(found, expected);
}

fn segment(packed: bool) -> (Vec<u8>, SegmentRef) {
    let (of, key) = (disk_cycle(3), secret(3));
    let sealer = Sealer::new(of, &key);
    let mut records = vec![data(&sealer, 1 << 20, noise(1, 512)), sealer.zero(1 << 30, 1 << 40)];
    if packed {
        records.push(data(&sealer, 0, text(1, 4096)));
    }
    fixtures::build(&mut SegmentBuilder::new(of, Epoch(2), 7, &key, 1 << 20, 1 << 20), &records)
}

#[test]
fn a_segment_of_raw_and_zero_records_is_the_golden_one() {
    let (bytes, _) = segment(false);
    assert!(bytes == golden("raw.seg", &bytes));
}

#[test]
fn a_golden_segment_with_a_packed_record_is_read() {
    // Another release of zstd may pack it into other bytes: what is pinned is that these are read.
    let (made, _) = segment(true);
    let (of, key, bytes) = (disk_cycle(3), secret(3), golden("packed.seg", &made));
    let tail = read_tail("packed.seg", of, Epoch(2), 7, &key, bytes.len() as u64, &bytes).unwrap().unwrap();
    let opened = Segment::open("packed.seg", of, &tail.segment, &key, bytes).unwrap();
    let records: Vec<_> = opened.into_records().collect();
    let found: Vec<_> = records.iter().map(|(record, _)| (record.offset, record.length, record.codec)).collect();
    assert_eq!(found, [(1 << 20, 512, Codec::Raw), (1 << 30, 1 << 40, Codec::Zero), (0, 4096, Codec::Zstd)]);
    assert_eq!(unpack(&records[0].0, &records[0].1).unwrap(), noise(1, 512));
    assert_eq!(unpack(&records[2].0, &records[2].1).unwrap(), text(1, 4096));
}

#[test]
fn a_chunk_of_fingerprints_is_the_golden_one() {
    let bytes = crate::fingerprints::tests::chunk();
    assert!(bytes == golden("chunk", &bytes));
}

#[test]
fn derived_secrets_are_the_golden_ones() {
    // Each context word is part of the format.
    let derived =
        ["hawser v1 document mac", "hawser v1 segment mac", "hawser v1 block", "hawser v1 seal data key", "hawser v1 seal access"]
            .map(|context| secret(1).derive(context).mac(&[]).to_hex().to_string())
            .join("\n");
    assert_eq!(derived.as_bytes(), golden("derived", derived.as_bytes()));
    assert_eq!(Digest::of(b"").to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
}
