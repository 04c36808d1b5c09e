//! The parser of replies: what is right comes through in any shape, and what is wrong is refused.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};
use std::sync::LazyLock;

use proptest::prelude::*;

use super::fuzz::{ASKS, CONTEXT, feed, fuzz_replies};
use super::random::Random;
use super::replies::{Answer, Ask, Fault};
use super::wire::server::{chunk, data, error, hole, simple, status};
use super::wire::{CHUNK_NONE, FLAG_DONE};

/// What the made-up disk holds: 1 to 251, over and over. From a table, as 100,000 rounds of it would take most of the test's time.
fn disk(at: u64, count: usize) -> &'static [u8] {
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| (0..251 + 8192_u32).map(|at| (at % 251) as u8 + 1).collect());
    &TABLE[(at % 251) as usize..][..count]
}

/// One request's reply as its chunks, and the answer that it makes.
fn reply(random: &mut Random, cookie: u64, ask: Ask, structured: bool) -> (Vec<Vec<u8>>, Answer) {
    if random.one_in(6) {
        let failed = |message: &str| Answer::Failed { code: 5, message: message.to_owned() };
        if !structured {
            return (vec![simple(5, cookie)], failed(""));
        }
        let kind = 0x8001 + random.below(3) as u16;
        let tail: &[u8] = if kind == 0x8002 { &[0; 8] } else { &[] };
        return (vec![error(FLAG_DONE, kind, cookie, 5, "no luck", tail)], failed("no luck"));
    }
    match ask {
        Ask::Status => {
            let extents: Vec<_> = (0..random.below(9) + 1).map(|_| (random.below(9) as u32 + 1, random.below(4) as u32)).collect();
            let mut runs: Vec<(u64, bool)> = Vec::new();
            for (length, flags) in &extents {
                let zero = flags & 2 != 0;
                match runs.last_mut() {
                    Some(last) if last.1 == zero => last.0 += u64::from(*length),
                    _ => runs.push((u64::from(*length), zero)),
                }
            }
            (vec![status(FLAG_DONE, cookie, CONTEXT, &extents)], Answer::Runs(runs))
        }
        Ask::Read { offset, length } if !structured => {
            let bytes = disk(offset, length as usize).to_vec();
            (vec![[simple(0, cookie), bytes.clone()].concat()], Answer::Bytes(bytes))
        }
        Ask::Read { offset, length } => {
            let mut bytes = Vec::new();
            let mut chunks = Vec::new();
            while bytes.len() < length as usize {
                let left = length as usize - bytes.len();
                let count = if random.one_in(3) { left } else { random.below(left) + 1 };
                let at = offset + bytes.len() as u64;
                if random.one_in(3) {
                    bytes.resize(bytes.len() + count, 0);
                    chunks.push(hole(0, cookie, at, count as u32));
                } else {
                    bytes.extend_from_slice(disk(at, count));
                    chunks.push(data(0, cookie, at, &bytes[bytes.len() - count..]));
                }
            }
            if random.one_in(2) {
                for at in (1..chunks.len()).rev() {
                    chunks.swap(at, random.below(at + 1));
                }
            }
            if random.one_in(2) {
                chunks.push(chunk(FLAG_DONE, CHUNK_NONE, cookie, &[]));
            } else if let Some(last) = chunks.last_mut() {
                last[5] = FLAG_DONE as u8;
            }
            (chunks, Answer::Bytes(bytes))
        }
    }
}

/// Replies to the first requests of a run, their chunks among each other, and the answers in the requests' order.
fn valid_stream(random: &mut Random, structured: bool, count: usize) -> (Vec<u8>, Vec<(usize, Answer)>) {
    let mut queues = Vec::new();
    let mut answers = Vec::new();
    for (at, ask) in ASKS.iter().enumerate().take(count) {
        // Without chunks nobody asks for a status; a server has no way to answer.
        let (chunks, answer) = match ask {
            Ask::Status if !structured => (vec![simple(22, at as u64 + 1)], Answer::Failed { code: 22, message: String::new() }),
            ask => reply(random, at as u64 + 1, *ask, structured),
        };
        queues.push(std::collections::VecDeque::from(chunks));
        answers.push((at, answer));
    }
    let mut stream = Vec::new();
    while !queues.is_empty() {
        let at = random.below(queues.len());
        match queues[at].pop_front() {
            Some(chunk) => stream.extend(chunk),
            None => drop(queues.swap_remove(at)),
        }
    }
    (stream, answers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Chunks in any order and among each other, cut anywhere: the bytes are the disk's.
    #[test]
    fn a_valid_stream_gives_every_answer(seed: u64, structured: bool, count in 1..=4_usize, step in 0..16_u32) {
        let (stream, expected) = valid_stream(&mut Random(seed), structured, count);
        let (mut answers, fault) = feed(structured, count, 1 << step, &stream);
        answers.sort_by_key(|a| a.0);
        prop_assert_eq!(fault, None);
        prop_assert_eq!(answers, expected);
    }
}

fn mutate(random: &mut Random, stream: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        if stream.is_empty() {
            return;
        }
        let at = random.below(stream.len());
        // Heads are few among data; most mutations go where they matter.
        let at = if random.one_in(2) { at.min(random.below(64)) } else { at };
        match random.below(6) {
            0 => stream[at] ^= 1 << random.below(8),
            1 => stream[at] = [0, 1, 2, 5, 0x7f, 0x80, 0xff][random.below(7)],
            2 => stream.truncate(at),
            3 => drop(stream.drain(at..(at + random.below(40)).min(stream.len()))),
            4 => {
                let piece = stream[at..(at + random.below(64)).min(stream.len())].to_vec();
                stream.splice(at..at, piece);
            }
            _ => {
                let noise: Vec<u8> = (0..random.below(16)).map(|_| random.next() as u8).collect();
                stream.splice(at..at, noise);
            }
        }
    }
}

/// The assertions are those of [`feed`]: no panic, memory within the bound, no request lost, no read of another length.
#[test]
fn nbd_replies_survive_100_000_mutations() {
    let mut random = Random(0x4e42_444d);
    let mut faults: HashSet<Discriminant<Fault>> = HashSet::new();
    let (mut faulted, mut answered) = (0, 0);
    for round in 0..100_000 {
        let (structured, count) = (!random.one_in(4), random.below(4) + 1);
        let step = 1 << (4 + random.below(12));
        let stream = if round % 10 == 0 {
            // Bytes without a plan, behind a head that lets some of them in.
            let noise: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
            let head = [simple(0, 1), chunk(0, random.below(6) as u16, 1, &[]), Vec::new()];
            [head[random.below(3)].clone(), noise].concat()
        } else {
            let (mut stream, _) = valid_stream(&mut random, structured, count);
            mutate(&mut random, &mut stream);
            stream
        };
        let (answers, fault) = feed(structured, count, step, &stream);
        answered += answers.len();
        faulted += usize::from(fault.is_some());
        faults.extend(fault.as_ref().map(discriminant));
    }
    // A run that refuses nothing, or everything, would have tested nothing.
    assert!(faulted > 20_000 && answered > 50_000, "{faulted} runs were refused, {answered} requests answered");
    assert!(faults.len() >= 12, "only {} kinds of fault were met", faults.len());
}

/// A server that announces much, sends in the smallest pieces, or reports without end.
#[test]
fn memory_stays_within_the_bound() {
    let one = |stream: &[u8]| feed(true, 4, 4096, stream);
    // Every second byte: the pieces lie apart from each other.
    let pieces: Vec<u8> = (0..4096_u64).flat_map(|at| data(0, 2, 4096 + 2 * at + 1, &[1])).collect();
    assert_eq!(one(&pieces).1, Some(Fault::Pieces));
    let errors: Vec<u8> = (0..20).flat_map(|_| error(0, 0x8001, 1, 5, "again", &[])).collect();
    assert_eq!(one(&errors).1, Some(Fault::Errors));
    // 100,000 extents: those that are kept are a prefix, and the rest counts as not covered.
    let extents: Vec<(u32, u32)> = (0..100_000).map(|at| (512, at % 2 * 2)).collect();
    let (answers, fault) = one(&status(FLAG_DONE, 3, CONTEXT, &extents));
    assert_eq!(fault, None);
    let [(2, Answer::Runs(runs))] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(runs.len(), 1 << 15);
    assert!(runs.iter().enumerate().all(|(at, run)| *run == (512, at % 2 == 1)));
    // 4 GiB announced: refused at the head, and nothing was allocated for it.
    let mut huge = chunk(0, 1, 1, &[]);
    huge[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    huge.extend([0; 8]);
    assert_eq!(one(&huge).1, Some(Fault::OutOfRange { at: 0, length: u64::from(u32::MAX) - 8 }));
}

#[test]
fn the_fuzzers_entry_takes_anything() {
    for input in [&[][..], &[1], &[255, 255], &[7, 15, 0x67, 0x44, 0x66, 0x98]] {
        fuzz_replies(input);
    }
}
