use super::*;
use crate::{
    fixtures::{Seeded, cycle, keys, secret},
    ids::Incarnation,
};

#[test]
fn a_key_file_has_a_line_for_each_version() {
    let a = "a1".repeat(32);
    let text = format!("# a comment\n\n  1 {a}  \r\n#7 {a}\n12\t{}\n", "B2".repeat(32));
    let ring = KeyRing::parse(&text).unwrap();
    assert_eq!(ring.current(), 12);
    assert_eq!(ring.versions.keys().copied().collect::<Vec<_>>(), [1, 12]);
    assert_eq!(*ring.versions[&1].0, [0xa1; 32]);
    assert_eq!(*ring.versions[&12].0, [0xb2; 32]);
}

#[test]
fn what_is_no_key_file_is_told_by_the_line_and_never_shown() {
    let good = "5e".repeat(32);
    let line = |line| Err(KeyFileError::Line { line });
    let cases = [
        (String::new(), Err(KeyFileError::Empty)),
        ("# nothing\n\n".into(), Err(KeyFileError::Empty)),
        (good.clone(), line(1)),
        (format!("one {good}"), line(1)),
        (format!("0 {good}"), line(1)),
        (format!("-1 {good}"), line(1)),
        (format!("+1 {good}"), line(1)),
        (format!("4294967296 {good}"), line(1)),
        (format!("1 {good}\n\n2 {}", &good[1..]), line(3)),
        (format!("1 {good}\n2 {good}5e"), line(2)),
        (format!("1 {}g", &good[1..]), line(1)),
        (format!("1 {good} # mine"), line(1)),
        (format!("1 {good}\n2 {good}\n1 {good}"), Err(KeyFileError::Twice { line: 3, version: 1 })),
    ];
    for (text, expected) in cases {
        let found = KeyRing::parse(&text).map(drop);
        assert_eq!(found, expected, "{text}");
        let error = found.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("5e5e"), "{error}");
    }
}

#[test]
fn a_new_key_file_can_be_read_and_is_never_the_same() {
    let entropy = Seeded::new(1);
    let (first, second) = (KeyRing::new_file(3, &entropy), KeyRing::new_file(3, &entropy));
    assert_ne!(*first, *second);
    let ring = KeyRing::parse(&first).unwrap();
    assert_eq!(ring.current(), 3);
    assert_ne!(*ring.versions[&3].0, [0; 32]);
    assert_ne!(*ring.versions[&3].0, *KeyRing::parse(&second).unwrap().versions[&3].0);
}

#[test]
fn secrets_are_never_printed() {
    let shown = format!("{:?} {:?} {:#?}", secret(0x5e), KeyRing::single(1, secret(0x5e)), keys());
    for trace in ["5e", "94", "11, 11", "1111", "17", "34"] {
        assert!(!shown.contains(trace), "{trace}: {shown}");
    }
    assert!(shown.contains("Secret(..)"));
}

#[test]
fn what_is_sealed_opens_for_its_purpose_and_binding_only() {
    let (keys, entropy) = (keys(), Seeded::new(2));
    let sealed = keys.seal("access", b"disk 1", b"the secret", &entropy);
    assert_eq!(sealed.key, 2);
    assert_eq!(keys.open("access", b"disk 1", &sealed, "order").unwrap().as_slice(), b"the secret");
    let damaged = |found: Result<Zeroizing<Vec<u8>>, LogError>| {
        let error = found.unwrap_err();
        assert!(matches!(&error, LogError::Damaged { name, .. } if name == "order"), "{error}");
    };
    damaged(keys.open("data key", b"disk 1", &sealed, "order"));
    damaged(keys.open("access", b"disk 2", &sealed, "order"));
    damaged(keys.open("access", b"", &sealed, "order"));
    damaged(KeyRing::single(2, secret(9)).open("access", b"disk 1", &sealed, "order"));
    // The other version of the same ring.
    damaged(keys.open("access", b"disk 1", &Sealed { key: 1, ..sealed.clone() }, "order"));
    let missing = keys.open("access", b"disk 1", &Sealed { key: 3, ..sealed.clone() }, "order");
    assert_eq!(missing.unwrap_err(), LogError::KeyMissing { name: "order".into(), version: 3 });
    for at in 0..sealed.data.len() {
        let mut data = sealed.data.clone().into_bytes();
        data[at] = if data[at] == b'A' { b'B' } else { b'A' };
        damaged(keys.open("access", b"disk 1", &Sealed { data: String::from_utf8(data).unwrap(), ..sealed.clone() }, "order"));
        damaged(keys.open("access", b"disk 1", &Sealed { data: sealed.data[..at].into(), ..sealed.clone() }, "order"));
    }
    damaged(keys.open("access", b"disk 1", &Sealed { data: "?".into(), ..sealed }, "order"));
}

#[test]
fn the_same_secret_is_never_sealed_to_the_same_bytes() {
    let (keys, entropy) = (keys(), Seeded::new(3));
    let seal = || keys.seal("access", b"", b"x", &entropy).data;
    assert_ne!(seal(), seal());
    assert_eq!(keys.open("access", b"", &keys.seal("access", b"", b"", &entropy), "").unwrap().len(), 0);
}

#[test]
fn a_rotated_key_ring_reads_the_old_and_writes_the_new_version() {
    let entropy = Seeded::new(4);
    let old = KeyRing::parse(&format!("1 {}", "11".repeat(32))).unwrap();
    let sealed = old.seal("access", b"b", b"secret", &entropy);
    assert_eq!(keys().open("access", b"b", &sealed, "order").unwrap().as_slice(), b"secret");
    let sealed = keys().seal("access", b"b", b"secret", &entropy);
    assert_eq!(old.open("access", b"b", &sealed, "order").unwrap_err(), LogError::KeyMissing { name: "order".into(), version: 2 });
}

#[test]
fn each_use_has_a_secret_of_its_own() {
    let uses = ["a", "b", ""].map(|context| secret(1).derive(context));
    assert_ne!(*uses[0].0, *uses[1].0);
    assert_ne!(*uses[0].0, *uses[2].0);
    assert_ne!(*uses[0].0, *secret(1).0);
    assert_eq!(*uses[0].0, *secret(1).derive("a").0);
}

#[test]
fn a_mac_knows_where_a_part_ends() {
    let mac = |parts: &[&[u8]]| secret(1).mac(parts);
    assert_eq!(mac(&[b"ab", b"c"]), mac(&[b"ab", b"c"]));
    assert_ne!(mac(&[b"ab", b"c"]), mac(&[b"a", b"bc"]));
    assert_ne!(mac(&[b"abc"]), mac(&[b"abc", b""]));
    assert_ne!(mac(&[]), mac(&[b""]));
    assert_ne!(mac(&[b"abc"]), secret(2).mac(&[b"abc"]));
}

#[test]
fn a_data_key_is_bound_to_one_epoch_of_one_cycle() {
    let of = cycle(3);
    let mut others = vec![epoch_binding(of, Epoch(1)), epoch_binding(of, Epoch(2)), epoch_binding(cycle(4), Epoch(1))];
    let uuid = uuid::Uuid::from_u128(9);
    others.push(epoch_binding(CycleId { incarnation: Incarnation(uuid), ..of }, Epoch(1)));
    others.push(epoch_binding(CycleId { vm: crate::ids::VmId { vcenter: uuid, ..of.vm }, ..of }, Epoch(1)));
    others.push(epoch_binding(CycleId { vm: crate::ids::VmId { instance: uuid, ..of.vm }, ..of }, Epoch(1)));
    let count = others.len();
    others.sort();
    others.dedup();
    assert_eq!(others.len(), count);
}

#[test]
fn the_operating_system_gives_other_bytes_each_time() {
    use crate::entropy::SystemEntropy;
    assert_ne!(SystemEntropy.uuid(), SystemEntropy.uuid());
    assert_eq!(SystemEntropy.uuid().get_version_num(), 4);
}
