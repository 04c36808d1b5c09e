use proptest::prelude::*;

use super::*;
use crate::{
    codec::{Sealer, unpack},
    fixtures::{build, data, disk_cycle, noise, secret, small_segment, text},
    ids::{Cycle, DiskKey, Incarnation},
};

const NAME: &str = "v1/x.seg";
const EPOCH: Epoch = Epoch(1);

/// What is changed, and how.
type Change<T> = (&'static str, fn(&mut T));

fn small() -> (Vec<u8>, SegmentRef) {
    small_segment(disk_cycle(1), EPOCH, 3, &secret(1))
}

fn open(expected: &SegmentRef, bytes: Vec<u8>) -> Result<Segment, LogError> {
    Segment::open(NAME, disk_cycle(1), expected, &secret(1), bytes)
}

fn tail(size: u64, bytes: &[u8]) -> Result<Result<Tail, u64>, LogError> {
    read_tail(NAME, disk_cycle(1), EPOCH, 3, &secret(1), size, bytes)
}

/// A record to be made: offset in sectors, and its plain bytes or the sectors that are zero.
#[derive(Debug, Clone)]
enum Plain {
    Data(u64, Vec<u8>),
    Zero(u64, u64),
}

fn plain() -> impl Strategy<Value = Plain> {
    let offset = 0u64..1 << 40;
    prop_oneof![
        (offset.clone(), 1usize..40, any::<u64>(), any::<bool>()).prop_map(|(offset, sectors, seed, packs)| {
            Plain::Data(offset, if packs { text(seed, sectors * 512) } else { noise(seed, sectors * 512) })
        }),
        (offset, 1u64..1 << 40).prop_map(|(offset, sectors)| Plain::Zero(offset, sectors)),
    ]
}

fn seal(sealer: &Sealer, plain: &Plain) -> Record {
    match plain {
        Plain::Data(offset, bytes) => data(sealer, offset * 512, bytes.clone()),
        Plain::Zero(offset, sectors) => sealer.zero(offset * 512, sectors * 512),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn segments_come_back(plains in prop::collection::vec(plain(), 1..30), part_size in 0usize..20_000, limit in 0u64..100_000) {
        let (of, key) = (disk_cycle(1), secret(1));
        let sealer = Sealer::new(of, &key);
        let mut segments = Vec::new();
        let mut builder = SegmentBuilder::new(of, EPOCH, 0, &key, limit, part_size);
        let mut parts = Vec::new();
        let mut records = 0;
        for (i, plain) in plains.iter().enumerate() {
            let record = seal(&sealer, plain);
            if builder.is_full_for(record.payload.len()) {
                let n = segments.len() as u32 + 1;
                let done = std::mem::replace(&mut builder, SegmentBuilder::new(of, EPOCH, n, &key, limit, part_size));
                segments.push((std::mem::take(&mut parts), done.finish(), i - records..i));
                records = 0;
            }
            parts.extend(builder.push(&record));
            records += 1;
            prop_assert!(!builder.is_empty());
        }
        segments.push((parts, builder.finish(), plains.len() - records..plains.len()));
        let part_size = part_size.clamp(HEADER + 1, MAX_PART);
        for (n, (mut parts, (last, count, segment), range)) in segments.into_iter().enumerate() {
            parts.extend(last);
            prop_assert_eq!(parts.len(), count as usize);
            let lengths: Vec<usize> = parts.iter().map(|part| part.pieces.iter().map(Bytes::len).sum()).collect();
            prop_assert!(parts.iter().enumerate().all(|(i, part)| part.number as usize == i));
            prop_assert!(lengths[..lengths.len() - 1].iter().all(|length| *length == part_size) && lengths[lengths.len() - 1] <= part_size);
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.pieces.iter().flatten().copied()).collect();
            prop_assert_eq!(bytes.len() as u64, segment.size);
            prop_assert!(segment.size <= limit || segment.records == 1);
            prop_assert_eq!(segment.n as usize, n);
            // The end alone tells the same, however much of it is read.
            let needed = tail_length(segment.records);
            for length in [TRAILER as u64, needed - 1, needed, needed + 1, segment.size] {
                let end = &bytes[(segment.size - length) as usize..];
                let tail = read_tail(NAME, of, EPOCH, n as u32, &key, segment.size, end).unwrap();
                if length < needed {
                    prop_assert_eq!(tail, Err(needed));
                } else {
                    let tail = tail.unwrap();
                    prop_assert_eq!(&tail.segment, &segment);
                    prop_assert_eq!(tail.records.len(), range.len());
                }
            }
            let opened = Segment::open(NAME, of, &segment, &key, bytes).unwrap();
            let mut found = opened.into_records();
            for plain in &plains[range] {
                let (record, bytes) = found.next().unwrap();
                match plain {
                    Plain::Zero(offset, sectors) => {
                        prop_assert_eq!((record.codec, record.offset, record.length), (Codec::Zero, offset * 512, sectors * 512));
                        prop_assert_eq!(record.sectors(), *offset..offset + sectors);
                    }
                    Plain::Data(offset, plain) => {
                        prop_assert_eq!(record.offset, offset * 512);
                        prop_assert_eq!(&unpack(&record, &bytes).unwrap(), plain);
                    }
                }
            }
            prop_assert!(found.next().is_none());
        }
    }
}

#[test]
fn parts_have_the_size_that_was_asked_for_or_the_nearest() {
    let (of, key) = (disk_cycle(1), secret(1));
    let record = data(&Sealer::new(of, &key), 0, noise(1, 1024));
    for (asked, size) in [(0, 81), (1, 81), (79, 81), (80, 81), (81, 81), (82, 82), (1168, 1168), (1248, 1248), (usize::MAX, MAX_PART)] {
        let mut builder = SegmentBuilder::new(of, EPOCH, 3, &key, MAX_SEGMENT, asked);
        let mut parts = builder.push(&record);
        let (last, _, segment) = builder.finish();
        parts.extend(last);
        let lengths: Vec<usize> = parts.iter().map(|part| part.pieces.iter().map(Bytes::len).sum()).collect();
        assert_eq!(segment.size, 1248, "80 + 1024 + 84 + 60");
        assert_eq!(lengths.len(), 1248usize.div_ceil(size), "{asked}");
        assert!(lengths[..lengths.len() - 1].iter().all(|length| *length == size) && lengths[lengths.len() - 1] > 0, "{asked}");
    }
}

#[test]
fn a_segment_of_full_blocks_stays_within_its_limit() {
    let (of, key) = (disk_cycle(1), secret(1));
    let sealer = Sealer::new(of, &key);
    let mut builder = SegmentBuilder::new(of, EPOCH, 0, &key, u64::MAX, usize::MAX);
    let mut size = 0;
    let block = noise(1, MAX_BLOCK as usize);
    let mut parts = Vec::new();
    loop {
        let record = data(&sealer, size, block.clone());
        if builder.is_full_for(record.payload.len()) {
            break;
        }
        parts.extend(builder.push(&record));
        size += u64::from(MAX_BLOCK);
    }
    let (last, _, segment) = builder.finish();
    parts.extend(last);
    assert_eq!(segment.records, 31);
    assert!(segment.size <= MAX_SEGMENT);
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.pieces.iter().flatten().copied()).collect();
    assert!(parts[0].pieces.iter().map(Bytes::len).sum::<usize>() == MAX_PART);
    assert_eq!(open(&segment, bytes).unwrap().into_records().count(), 31);
}

#[test]
fn the_number_of_records_is_limited() {
    let (of, key) = (disk_cycle(1), secret(1));
    let sealer = Sealer::new(of, &key);
    let mut builder = SegmentBuilder::new(of, EPOCH, 0, &key, MAX_SEGMENT, MAX_PART);
    for i in 0..MAX_RECORDS as u64 {
        assert!(!builder.is_full_for(0), "{i}");
        builder.push(&sealer.zero(i * 1024, 512));
    }
    assert!(builder.is_full_for(0));
    let (bytes, segment) = build(&mut builder, &[]);
    assert_eq!(segment.records as usize, MAX_RECORDS);
    // What was given out before is not here; the index and the trailer are.
    let end = &bytes[bytes.len() - tail_length(segment.records) as usize..];
    let tail = read_tail(NAME, of, EPOCH, 0, &key, segment.size, end).unwrap().unwrap();
    assert_eq!(tail.records.len(), MAX_RECORDS);
}

#[test]
fn no_reader_takes_an_empty_segment() {
    let builder = SegmentBuilder::new(disk_cycle(1), EPOCH, 3, &secret(1), MAX_SEGMENT, MAX_PART);
    assert!(builder.is_empty());
    let (parts, _, segment) = builder.finish();
    let bytes: Vec<u8> = parts[0].pieces.iter().flatten().copied().collect();
    assert!(matches!(open(&segment, bytes), Err(LogError::Damaged { .. })));
}

#[test]
fn every_changed_bit_is_found() {
    let (bytes, segment) = small();
    assert_eq!(open(&segment, bytes.clone()).unwrap().into_records().count(), 3);
    let index = bytes.len() - tail_length(3) as usize;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            if at >= index {
                assert!(!matches!(tail(segment.size, &changed), Ok(Ok(_))), "tail, byte {at} bit {bit}");
            }
            let error = open(&segment, changed).err().unwrap_or_else(|| panic!("byte {at} bit {bit}"));
            let version = (8..12).contains(&at);
            assert_eq!(matches!(error, LogError::UnknownVersion { .. }), version, "byte {at} bit {bit}: {error}");
            assert_eq!(matches!(error, LogError::Damaged { .. }), !version, "byte {at} bit {bit}: {error}");
        }
    }
}

#[test]
fn every_truncation_and_every_addition_is_found() {
    let (bytes, segment) = small();
    for length in 0..bytes.len() {
        assert!(open(&segment, bytes[..length].to_vec()).is_err(), "{length}");
        // Also where the manifest were wrong in the same way.
        let short = SegmentRef { size: length as u64, ..segment.clone() };
        assert!(open(&short, bytes[..length].to_vec()).is_err(), "{length}");
        assert!(tail(length as u64, &bytes[..length]).is_err(), "{length}");
        assert!(open(&short, bytes[bytes.len() - length..].to_vec()).is_err(), "{length} from the end");
        // A tail of another length than the store says.
        assert!(tail(length as u64, &bytes).is_err(), "{length}");
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(open(&segment, longer.clone()).is_err());
    assert!(open(&SegmentRef { size: segment.size + 1, ..segment.clone() }, longer).is_err());
    let twice = [&bytes[..HEADER], &bytes].concat();
    assert!(open(&SegmentRef { size: twice.len() as u64, ..segment }, twice).is_err());
}

#[test]
fn a_segment_opens_nowhere_else() {
    let (bytes, segment) = small();
    const UUID: uuid::Uuid = uuid::Uuid::from_u128(9);
    let elsewhere: [Change<DiskCycle>; 5] = [
        ("vCenter", |of| of.of.vm.vcenter = UUID),
        ("VM", |of| of.of.vm.instance = UUID),
        ("incarnation", |of| of.of.incarnation = Incarnation(UUID)),
        ("cycle", |of| of.of.cycle = Cycle(2)),
        ("disk", |of| of.disk = DiskKey(2001)),
    ];
    for (what, change) in elsewhere {
        let mut other = disk_cycle(1);
        change(&mut other);
        // Its bytes in another place.
        assert!(Segment::open(NAME, other, &segment, &secret(1), bytes.clone()).is_err(), "{what}");
        assert!(read_tail(NAME, other, EPOCH, 3, &secret(1), segment.size, &bytes).is_err(), "{what}");
        // Another place's segment here, under a manifest that is this one's.
        let (theirs, _) = small_segment(other, EPOCH, 3, &secret(1));
        assert!(open(&segment, theirs).is_err(), "{what}");
    }
    for (epoch, n) in [(EPOCH, 4), (Epoch(2), 3)] {
        let expected = SegmentRef { epoch, n, ..segment.clone() };
        assert!(open(&expected, bytes.clone()).is_err());
        assert!(read_tail(NAME, disk_cycle(1), epoch, n, &secret(1), segment.size, &bytes).is_err());
        let (theirs, _) = small_segment(disk_cycle(1), epoch, n, &secret(1));
        assert!(open(&segment, theirs).is_err());
    }
    assert!(Segment::open(NAME, disk_cycle(1), &segment, &secret(2), bytes.clone()).is_err());
    assert!(read_tail(NAME, disk_cycle(1), EPOCH, 3, &secret(2), segment.size, &bytes).is_err());
}

#[test]
fn a_segment_is_the_one_that_the_manifest_names() {
    let (bytes, segment) = small();
    let changes: [(&str, SegmentRef); 4] = [
        ("digest", SegmentRef { digest: Digest([0; 32]), ..segment.clone() }),
        ("records", SegmentRef { records: 2, ..segment.clone() }),
        ("first", SegmentRef { first: 512, ..segment.clone() }),
        ("size", SegmentRef { size: segment.size + 1, ..segment.clone() }),
    ];
    for (what, expected) in changes {
        assert!(matches!(open(&expected, bytes.clone()), Err(LogError::Damaged { .. })), "{what}");
    }
    // Another segment of the same name, epoch and number: what a gateway might have written in another run.
    let sealer = Sealer::new(disk_cycle(1), &secret(1));
    let (other, _) = build(&mut SegmentBuilder::new(disk_cycle(1), EPOCH, 3, &secret(1), 1 << 20, 1 << 20), &[sealer.zero(0, 512)]);
    assert!(open(&segment, other).is_err());
}

#[test]
fn an_unknown_version_is_refused_by_name() {
    let (mut bytes, segment) = small();
    bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
    let error = open(&segment, bytes).err().unwrap();
    assert_eq!(error, LogError::UnknownVersion { name: NAME.into(), found: "2".into(), known: 1 });
}

/// Index and trailer as a writer with a bug would sign them.
fn signed(change: impl Fn(&mut Descriptor)) -> (Vec<u8>, SegmentRef) {
    let sealer = Sealer::new(disk_cycle(1), &secret(1));
    let mut record = data(&sealer, 4096, noise(1, 1024));
    change(&mut record.descriptor);
    build(&mut SegmentBuilder::new(disk_cycle(1), EPOCH, 3, &secret(1), 1 << 20, 1 << 20), &[record])
}

#[test]
fn an_index_that_makes_no_sense_is_refused_though_it_is_signed() {
    let (bytes, segment) = signed(|_| {});
    assert!(open(&segment, bytes).is_ok());
    let changes: [Change<Descriptor>; 10] = [
        ("offset within a sector", |record| record.offset = 1),
        ("length within a sector", |record| record.length = 1023),
        ("no length", |record| record.length = 0),
        ("past the end of the numbers", |record| record.offset = u64::MAX - 511),
        ("a raw record that is longer than its bytes", |record| record.length = 1536),
        ("a raw record that is longer than a block", |record| record.length = u64::from(MAX_BLOCK) + 512),
        ("a packed record that is no shorter", |record| record.codec = Codec::Zstd),
        ("a zero record with bytes", |record| record.codec = Codec::Zero),
        ("fewer bytes than there are", |record| (record.stored, record.length) = (512, 512)),
        ("more bytes than there are", |record| (record.stored, record.length) = (1536, 1536)),
    ];
    for (what, change) in changes {
        let (bytes, segment) = signed(change);
        assert!(matches!(tail(segment.size, &bytes), Err(LogError::Damaged { .. })), "{what}");
        assert!(matches!(open(&segment, bytes), Err(LogError::Damaged { .. })), "{what}");
    }
}

#[test]
fn a_signed_trailer_that_does_not_fit_its_index_is_refused() {
    let (bytes, segment) = small();
    let fields = bytes.len() - TRAILER;
    let forge = |at: usize, field: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[fields + at..fields + at + field.len()].copy_from_slice(field);
        let index = bytes.len() - tail_length(3) as usize;
        let mac = secret(1).derive(MAC_CONTEXT).mac(&[&bytes[..HEADER], &bytes[index..fields], &bytes[fields..fields + 20]]);
        bytes[fields + 20..fields + 52].copy_from_slice(mac.as_bytes());
        bytes
    };
    assert_eq!(forge(12, &0u64.to_le_bytes()), bytes, "it is forged as it is signed");
    for bytes in
        [forge(12, &512u64.to_le_bytes()), forge(4, &0u64.to_le_bytes()), forge(0, &2u32.to_le_bytes()), forge(0, &u32::MAX.to_le_bytes())]
    {
        assert!(matches!(tail(segment.size, &bytes), Err(LogError::Damaged { .. })));
        assert!(matches!(open(&segment, bytes), Err(LogError::Damaged { .. })));
    }
}

#[test]
fn a_wrong_block_is_told_by_its_place() {
    let (_, segment) = small();
    let error = Segment::damaged(
        NAME,
        &Descriptor { offset: 4096, length: 512, codec: Codec::Raw, stored: 512, checksum: [0; 32], nonce: [0; 12], tag: [0; 16] },
        OpenError::Checksum,
    );
    assert_eq!(error.to_string(), "v1/x.seg is damaged: the block at 4096: its checksum does not fit");
    assert_eq!((segment.n, segment.first), (3, 0));
}

#[test]
fn fuzzing_reaches_behind_the_mac() {
    let (bytes, _) = small();
    fuzz(&bytes);
    fuzz(&[]);
}
