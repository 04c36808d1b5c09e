//! The entry for fuzzing: bytes of anybody's choice as a server's replies.

use bytes::BufMut;

use super::replies::{Answer, Ask, Fault, Replies};

/// What the requests of a run ask for, with cookies from 1; the first input byte says how many of them are sent.
pub(super) const ASKS: [Ask; 4] = [
    Ask::Read { offset: 0, length: 512 },
    Ask::Read { offset: 4096, length: 8192 },
    Ask::Status,
    Ask::Read { offset: (1 << 40) - 512, length: 2048 },
];

/// The id of the metadata context in a run.
pub(super) const CONTEXT: u32 = 1;

/// Feeds `data` to the parser of replies, as a server's bytes. The first byte says whether chunks were agreed on (bit 0) and how many requests
/// are outstanding (bits 1 and 2), the second how many bytes arrive at a time (2 to that power, up to 32768).
///
/// # Panics
/// Where the parser allocates more than it promises, gives a read other than its length, or loses a request. Never, that is.
#[doc(hidden)]
pub fn fuzz_replies(data: &[u8]) {
    if let [flags, step, stream @ ..] = data {
        feed(flags & 1 != 0, usize::from(flags >> 1 & 3) + 1, 1 << (step & 15), stream);
    }
}

/// The answers by request, and the fault that ended the run.
pub(super) fn feed(structured: bool, count: usize, step: usize, stream: &[u8]) -> (Vec<(usize, Answer)>, Option<Fault>) {
    let mut replies = Replies::new(structured, Some(CONTEXT));
    for (at, ask) in ASKS.iter().enumerate().take(count) {
        replies.expect(at as u64 + 1, *ask, at);
    }
    let mut finished = Vec::new();
    let mut fault = None;
    let mut rest = stream;
    while !rest.is_empty() && fault.is_none() {
        let mut space = replies.space();
        let room = space.remaining_mut();
        assert!(room > 0, "the parser wants bytes and has no room for them");
        let (now, later) = rest.split_at(room.min(step).min(rest.len()));
        space.put_slice(now);
        rest = later;
        fault = replies.advance(&mut finished).err();
        let (allocated, bound) = (replies.allocated(), replies.bound());
        assert!(allocated <= bound, "{allocated} bytes are allocated, more than {bound}");
    }
    for (at, answer) in &finished {
        match (&ASKS[*at], answer) {
            (Ask::Read { length, .. }, Answer::Bytes(bytes)) => assert_eq!(bytes.len(), *length as usize),
            (Ask::Status, Answer::Runs(runs)) => assert!(!runs.is_empty()),
            (_, Answer::Failed { code, .. }) => assert_ne!(*code, 0),
            (ask, answer) => panic!("{ask:?} was answered with {answer:?}"),
        }
    }
    let mut heard: Vec<usize> = finished.iter().map(|f| f.0).chain(replies.into_owners()).collect();
    heard.sort_unstable();
    assert!(heard.into_iter().eq(0..count), "a request was lost, or answered twice");
    (finished, fault)
}
