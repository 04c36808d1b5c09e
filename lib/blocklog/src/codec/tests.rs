use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::{
    fixtures::{data, disk_cycle, noise, secret, text},
    ids::{Cycle, DiskKey, Incarnation},
};

/// What is changed, and how.
type Change<T> = (&'static str, fn(&mut T));

fn open(of: DiskCycle, key: &Secret, record: &Record) -> Result<Vec<u8>, OpenError> {
    let mut payload = record.payload.to_vec();
    Opener::new(of, key).decrypt(&record.descriptor, &mut payload)?;
    unpack(&record.descriptor, &payload)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn blocks_come_back(sectors in 1usize..=2048, seed: u64, packs: bool) {
        let plain = if packs { text(seed, sectors * 512) } else { noise(seed, sectors * 512) };
        let record = data(&Sealer::new(disk_cycle(1), &secret(1)), 512 * seed.min(1 << 40), plain.clone());
        prop_assert_eq!(record.descriptor.codec, if packs { Codec::Zstd } else { Codec::Raw });
        prop_assert_eq!(record.descriptor.stored as usize, record.payload.len());
        prop_assert_eq!(record.descriptor.length as usize, plain.len());
        prop_assert!(!record.payload.windows(16).any(|window| plain.starts_with(window)));
        prop_assert_eq!(open(disk_cycle(1), &secret(1), &record), Ok(plain));
    }

    #[test]
    fn zero_is_what_holds_no_other_byte(length in 0usize..3000, at in 0usize..3000, value: u8) {
        let mut bytes = vec![0; length];
        prop_assert!(is_zero(&bytes));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        prop_assert_eq!(is_zero(&bytes), bytes.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn every_single_bit_makes_a_block_not_zero() {
    let mut bytes = vec![0; 777];
    for at in 0..bytes.len() {
        bytes[at] = 1 << (at % 8);
        assert!(!is_zero(&bytes), "{at}");
        bytes[at] = 0;
    }
}

#[test]
fn a_block_stays_raw_where_packing_saves_less_than_a_sixteenth() {
    let sealer = Sealer::new(disk_cycle(1), &secret(1));
    // So much noise that the packed block is just above or just below 15/16 of the plain one.
    let block = |noisy: usize| {
        let mut plain = noise(3, 1 << 20);
        plain[noisy..].fill(7);
        data(&sealer, 0, plain).descriptor
    };
    let limit = (1 << 20) - (1 << 16);
    let (pays, not) = (block(limit - 4096), block(limit + 4096));
    assert_eq!(pays.codec, Codec::Zstd);
    assert!(pays.stored as usize <= limit);
    assert_eq!((not.codec, not.stored), (Codec::Raw, 1 << 20));
}

#[test]
fn a_packed_record_holds_no_more_memory_than_its_bytes() {
    let packed = compress(&text(1, 1 << 20)).unwrap();
    assert!(packed.len() < 4096);
    assert_eq!(packed.capacity(), packed.len());
}

#[test]
fn zero_ranges_are_authenticated_and_have_no_bytes() {
    let of = disk_cycle(1);
    let record = Sealer::new(of, &secret(1)).zero(1 << 30, 5 << 40);
    assert!(record.payload.is_empty());
    assert_eq!((record.descriptor.codec, record.descriptor.stored, record.descriptor.checksum), (Codec::Zero, 0, [0; 32]));
    Opener::new(of, &secret(1)).decrypt(&record.descriptor, &mut []).unwrap();
    let longer = Descriptor { length: 6 << 40, ..record.descriptor.clone() };
    assert_eq!(Opener::new(of, &secret(1)).decrypt(&longer, &mut []), Err(OpenError::Tag));
    assert_eq!(unpack(&record.descriptor, &[]), Err(OpenError::Unpack));
}

#[test]
fn a_record_opens_nowhere_else() {
    let of = disk_cycle(1);
    for plain in [text(1, 4096), noise(2, 4096)] {
        let record = data(&Sealer::new(of, &secret(1)), 8192, plain.clone());
        assert_eq!(open(of, &secret(1), &record), Ok(plain));
        let elsewhere: [Change<DiskCycle>; 5] = [
            ("vCenter", |of| of.of.vm.vcenter = uuid::Uuid::from_u128(9)),
            ("VM", |of| of.of.vm.instance = uuid::Uuid::from_u128(9)),
            ("incarnation", |of| of.of.incarnation = Incarnation(uuid::Uuid::from_u128(9))),
            ("cycle", |of| of.of.cycle = Cycle(2)),
            ("disk", |of| of.disk = DiskKey(2001)),
        ];
        for (what, change) in elsewhere {
            let mut other = of;
            change(&mut other);
            assert_eq!(open(other, &secret(1), &record), Err(OpenError::Tag), "{what}");
        }
        assert_eq!(open(of, &secret(2), &record), Err(OpenError::Tag), "key of another epoch");
        let changes: [Change<Descriptor>; 6] = [
            ("offset", |record| record.offset += 512),
            ("length", |record| record.length -= 512),
            ("codec", |record| record.codec = if record.codec == Codec::Raw { Codec::Zstd } else { Codec::Raw }),
            ("checksum", |record| record.checksum[31] ^= 1),
            ("nonce", |record| record.nonce[11] ^= 1),
            ("tag", |record| record.tag[15] ^= 1),
        ];
        for (what, change) in changes {
            let mut other = record.clone();
            change(&mut other.descriptor);
            assert_eq!(open(of, &secret(1), &other), Err(OpenError::Tag), "{what}");
        }
        for at in 0..record.payload.len() {
            let mut payload = record.payload.to_vec();
            payload[at] ^= 1;
            assert_eq!(Opener::new(of, &secret(1)).decrypt(&record.descriptor, &mut payload), Err(OpenError::Tag), "byte {at}");
        }
    }
}

#[test]
fn a_wrong_checksum_and_a_wrong_length_are_told_apart() {
    let plain = text(1, 2048);
    let sealer = Sealer::new(disk_cycle(1), &secret(1));
    let open = |record: &Record| open(disk_cycle(1), &secret(1), record);
    // As a gateway with bad memory would write it: authentic, and wrong all the same.
    assert_eq!(open(&sealer.data(0, plain.clone(), [1; 32])), Err(OpenError::Checksum));
    assert_eq!(open(&sealer.data(0, noise(1, 512), [1; 32])), Err(OpenError::Checksum));
    let record = data(&sealer, 0, plain);
    let packed = compress(&text(1, 2048)).unwrap();
    for length in [512, 1536, 2560] {
        assert_eq!(unpack(&Descriptor { length, ..record.descriptor.clone() }, &packed), Err(OpenError::Unpack), "{length}");
    }
    assert_eq!(unpack(&record.descriptor, &packed[1..]), Err(OpenError::Unpack));
    // A thread's decompressor is as good as new after a failure.
    assert!(unpack(&record.descriptor, &packed).is_ok());
}

#[test]
fn nonces_never_repeat() {
    let of = disk_cycle(1);
    let sealer = Sealer::new(of, &secret(1));
    let nonces = |sealer: Sealer| {
        (0..500).map(|i| if i % 3 == 0 { sealer.zero(0, 512) } else { data(&sealer, 0, text(0, 512)) }.descriptor.nonce).collect::<Vec<_>>()
    };
    // Several threads seal the same block of one disk, and another disk shares the key.
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn({
                let sealer = sealer.clone();
                move || nonces(sealer)
            })
        })
        .collect();
    let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    all.extend(nonces(Sealer::new(DiskCycle { disk: DiskKey(2001), ..of }, &secret(1))));
    assert_eq!(all.len(), 2500);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
}
