//! The parser of a server's replies, without I/O.
//!
//! Whoever owns the socket asks [`Replies::space`] where the next bytes go, puts some there, and calls [`Replies::advance`]. A read's bytes
//! go straight into its buffer, which is neither zeroed before nor copied after, as long as the server sends a reply's chunks in order.
//!
//! Nothing a server says is believed. A chunk lies inside the range that was asked for, no byte of it is delivered twice, and a read ends
//! when every byte was. Memory stays within [`Replies::bound`]: the lengths of the outstanding reads, and a fixed sum, whatever lengths a
//! server announces.

use std::collections::HashMap;

use bytes::buf::Limit;
use bytes::{Buf, BufMut};
use extents::ExtentSet;

use super::wire::{
    CHUNK_BLOCK_STATUS, CHUNK_ERROR_BIT, CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE, FLAG_DONE, MAX_STRING, SIMPLE_REPLY, STATE_ZERO,
    STRUCTURED_REPLY, printable,
};

/// The bytes of the control buffer: heads, messages, extents, and pieces of data that came out of order.
const CONTROL: usize = 64 << 10;
/// How far the parser reads ahead of a head: a structured chunk's head and its offset, the start of nearly every chunk, in one go.
const READ_AHEAD: usize = 28;
/// The pieces of one read that may lie apart from each other at a time. Servers send in order; this only bounds memory.
const MAX_PIECES: usize = 1024;
/// The error chunks in one reply.
const MAX_ERRORS: u32 = 16;
/// The extents kept of one reply to a status request; what is beyond counts as not covered, and is asked for again.
const MAX_RUNS: usize = 1 << 15;
/// The payload of one status chunk, as in libnbd: 64 MiB.
const MAX_STATUS_PAYLOAD: u32 = 64 << 20;

/// How the server broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("a reply starts with {0:#010x}")]
    Magic(u32),
    #[error("a reply in chunks, which was not agreed on")]
    NotAgreed,
    #[error("a simple reply with data, where chunks were agreed on")]
    SimpleData,
    #[error("a reply to request {0}, which is not outstanding")]
    UnknownCookie(u64),
    #[error("a chunk of type {0:#06x}, which does not answer the request")]
    ChunkType(u16),
    #[error("a chunk of type {kind:#06x} with a payload of {length} bytes")]
    ChunkLength { kind: u16, length: u32 },
    #[error("a chunk of type NONE that is not the last one")]
    EndlessNone,
    #[error("a chunk with {length} bytes at {at}, outside of the request")]
    OutOfRange { at: u64, length: u64 },
    #[error("bytes at {0} delivered twice")]
    Twice(u64),
    #[error("a read delivered in more than {MAX_PIECES} pieces at a time")]
    Pieces,
    #[error("a reply that ends before every byte was delivered")]
    Incomplete,
    #[error("an error without an error number")]
    NoErrorNumber,
    #[error("more than {MAX_ERRORS} errors in a reply")]
    Errors,
    #[error("an error's message of {0} bytes in a smaller chunk")]
    Message(u16),
    #[error("the status of context {0}, which was not asked for")]
    Context(u32),
    #[error("an extent without length")]
    EmptyExtent,
    #[error("more than one status in a reply")]
    StatusTwice,
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Bytes.
    Read { offset: u64, length: u32 },
    /// What reads as zero. Positions in the answer count from the request's offset.
    Status,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Every byte that was asked for.
    Bytes(Vec<u8>),
    /// Lengths in bytes, and whether they read as zero, from the request's offset on. Not empty; it may cover less or more than was asked.
    Runs(Vec<(u64, bool)>),
    /// The server failed, and the connection goes on.
    Failed { code: u32, message: String },
}

/// An outstanding request.
#[derive(Debug)]
struct Pending<T> {
    ask: Ask,
    owner: T,
    bytes: Vec<u8>,
    /// Which bytes of `bytes` were delivered, once the server has left the order; `bytes` then has its full length.
    scattered: Option<ExtentSet>,
    runs: Vec<(u64, bool)>,
    failed: Option<(u32, String)>,
    errors: u32,
    idle_ticks: u32,
}

/// A reply's chunk that is being read.
#[derive(Debug)]
struct Current<T> {
    cookie: u64,
    kind: u16,
    done: bool,
    pending: Pending<T>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The payload, up to where its data starts, is `need` bytes long; it has `payload` in all.
    Fixed { need: usize, payload: usize },
    /// Bytes are appended to the request's buffer until it is this long.
    Append { until: usize },
    /// Bytes belong into the request's buffer at `at`, up to `until`.
    Scatter { at: usize, until: usize },
    /// This many bytes of extents are still to come.
    Runs { left: usize },
}

enum Step {
    /// The stage needs more bytes.
    Starved,
    /// The next stage can be tried.
    Next,
    /// The chunk was read to its end.
    ChunkEnds,
}

/// The outstanding requests of a connection, and the bytes of replies to them. `T` is whom to tell.
#[derive(Debug)]
pub(super) struct Replies<T> {
    structured: bool,
    status_context: Option<u32>,
    outstanding: HashMap<u64, Pending<T>>,
    control: Control,
    /// The chunk in whose payload the stream stands; none between chunks.
    current: Option<Current<T>>,
}

impl<T> Replies<T> {
    /// For a connection on which chunks were agreed on or not, and `base:allocation` has this id.
    pub(super) fn new(structured: bool, status_context: Option<u32>) -> Self {
        Self { structured, status_context, outstanding: HashMap::new(), control: Control::new(), current: None }
    }

    /// Expects a reply. The cookie must be new.
    pub(super) fn expect(&mut self, cookie: u64, ask: Ask, owner: T) {
        let pending = Pending { ask, owner, bytes: Vec::new(), scattered: None, runs: Vec::new(), failed: None, errors: 0, idle_ticks: 0 };
        self.outstanding.insert(cookie, pending);
    }

    /// Where the next bytes from the server go: room for at least one. Call [`Replies::advance`] after each time that some were put there.
    pub(super) fn space(&mut self) -> Limit<&mut Vec<u8>> {
        let Some(current) = &mut self.current else { return self.control.space(READ_AHEAD) };
        match current.stage {
            Stage::Fixed { need, .. } => self.control.space(need),
            Stage::Append { until } => {
                let left = until - current.pending.bytes.len();
                (&mut current.pending.bytes).limit(left)
            }
            Stage::Scatter { at, until } => self.control.space((until - at).min(CONTROL)),
            Stage::Runs { left } => self.control.space(left.min(CONTROL)),
        }
    }

    /// Goes on with the bytes that were put into the space. Requests that are answered go to `finished`.
    ///
    /// # Errors
    /// After a fault the stream has no meaning any more; what is outstanding remains for [`Replies::into_owners`].
    pub(super) fn advance(&mut self, finished: &mut Vec<(T, Answer)>) -> Result<(), Fault> {
        loop {
            let Some(current) = &mut self.current else {
                if self.head(finished)? {
                    continue;
                }
                return Ok(());
            };
            current.pending.idle_ticks = 0;
            match current.step(&mut self.control, self.status_context)? {
                Step::Starved => return Ok(()),
                Step::Next => {}
                Step::ChunkEnds => {
                    if current.done {
                        current.pending.check_complete()?;
                    }
                    if let Some(Current { cookie, done, pending, .. }) = self.current.take() {
                        if done {
                            finished.push(pending.answer());
                        } else {
                            self.outstanding.insert(cookie, pending);
                        }
                    }
                }
            }
        }
    }

    /// Counts a tick for every outstanding request, and says whether one has now waited for more than `most` ticks without a byte.
    pub(super) fn tick(&mut self, most: u32) -> bool {
        let mut late = false;
        for pending in self.outstanding.values_mut().chain(self.current.as_mut().map(|c| &mut c.pending)) {
            pending.idle_ticks += 1;
            late |= pending.idle_ticks > most;
        }
        late
    }

    /// Everybody whose request has no answer.
    pub(super) fn into_owners(self) -> impl Iterator<Item = T> {
        self.outstanding.into_values().chain(self.current.map(|c| c.pending)).map(|p| p.owner)
    }

    /// The bytes allocated for buffers.
    pub(super) fn allocated(&self) -> usize {
        let each = |p: &Pending<T>| {
            p.bytes.capacity()
                + p.runs.capacity() * size_of::<(u64, bool)>()
                + p.scattered.as_ref().map_or(0, |s| s.fragments() * 16)
                + p.failed.as_ref().map_or(0, |f| f.1.capacity())
        };
        self.outstanding.values().chain(self.current.as_ref().map(|c| &c.pending)).map(each).sum::<usize>() + self.control.bytes.capacity()
    }

    /// What [`Replies::allocated`] never exceeds: the lengths of the outstanding reads, 64 KiB of control buffer, and for each outstanding
    /// request 36 KiB of order and message, for each status request 512 KiB of extents.
    pub(super) fn bound(&self) -> usize {
        let each = |p: &Pending<T>| match p.ask {
            Ask::Read { length, .. } => length as usize + 2 * MAX_PIECES * 16 + MAX_STRING,
            Ask::Status => MAX_RUNS * size_of::<(u64, bool)>() + MAX_STRING,
        };
        self.outstanding.values().chain(self.current.as_ref().map(|c| &c.pending)).map(each).sum::<usize>() + CONTROL
    }

    /// Reads a reply's or chunk's head, if it is there. `false` where more bytes are needed.
    fn head(&mut self, finished: &mut Vec<(T, Answer)>) -> Result<bool, Fault> {
        let mut head = self.control.unread();
        let Ok(magic) = head.try_get_u32() else { return Ok(false) };
        match magic {
            SIMPLE_REPLY => {
                let (Ok(code), Ok(cookie)) = (head.try_get_u32(), head.try_get_u64()) else { return Ok(false) };
                self.control.consume(16);
                self.simple(code, cookie, finished)?;
            }
            STRUCTURED_REPLY if !self.structured => return Err(Fault::NotAgreed),
            STRUCTURED_REPLY => {
                let fields = (head.try_get_u16(), head.try_get_u16(), head.try_get_u64(), head.try_get_u32());
                let (Ok(flags), Ok(kind), Ok(cookie), Ok(length)) = fields else { return Ok(false) };
                self.control.consume(20);
                let pending = self.outstanding.remove(&cookie).ok_or(Fault::UnknownCookie(cookie))?;
                let done = flags & FLAG_DONE != 0;
                let stage = Stage::Fixed { need: 0, payload: length as usize };
                let current = self.current.insert(Current { cookie, kind, done, pending, stage });
                let need = fixed_part(&current.pending.ask, kind, done, length)?;
                current.stage = Stage::Fixed { need, payload: length as usize };
            }
            other => return Err(Fault::Magic(other)),
        }
        Ok(true)
    }

    fn simple(&mut self, code: u32, cookie: u64, finished: &mut Vec<(T, Answer)>) -> Result<(), Fault> {
        let mut pending = self.outstanding.remove(&cookie).ok_or(Fault::UnknownCookie(cookie))?;
        if code != 0 {
            pending.failed.get_or_insert((code, String::new()));
            finished.push(pending.answer());
            return Ok(());
        }
        let kind = CHUNK_OFFSET_DATA;
        // It is put back before a refusal, so that its owner hears of it.
        match pending.ask {
            Ask::Read { length, .. } if !self.structured => {
                pending.reserve();
                let stage = Stage::Append { until: length as usize };
                self.current = Some(Current { cookie, kind, done: true, pending, stage });
                Ok(())
            }
            _ => {
                self.outstanding.insert(cookie, pending);
                Err(Fault::SimpleData)
            }
        }
    }
}

/// How many bytes of a chunk's payload must be there before it can be understood.
fn fixed_part(ask: &Ask, kind: u16, done: bool, length: u32) -> Result<usize, Fault> {
    let wrong = Fault::ChunkLength { kind, length };
    match (kind, ask) {
        (CHUNK_NONE, _) if length != 0 => Err(wrong),
        (CHUNK_NONE, _) if !done => Err(Fault::EndlessNone),
        (CHUNK_NONE, _) => Ok(0),
        (CHUNK_OFFSET_DATA, Ask::Read { .. }) if length > 8 => Ok(8),
        (CHUNK_OFFSET_HOLE, Ask::Read { .. }) if length == 12 => Ok(12),
        (CHUNK_BLOCK_STATUS, Ask::Status) if length >= 12 && (length - 4).is_multiple_of(8) && length <= MAX_STATUS_PAYLOAD => Ok(4),
        (CHUNK_OFFSET_DATA | CHUNK_OFFSET_HOLE, Ask::Read { .. }) | (CHUNK_BLOCK_STATUS, Ask::Status) => Err(wrong),
        // Errors of types that nobody has heard of yet start in the same way. The message may be followed by an offset.
        (kind, _) if kind & CHUNK_ERROR_BIT != 0 => {
            if (6..=6 + MAX_STRING as u32 + 8).contains(&length) {
                Ok(length as usize)
            } else {
                Err(wrong)
            }
        }
        (kind, _) => Err(Fault::ChunkType(kind)),
    }
}

impl<T> Current<T> {
    fn step(&mut self, control: &mut Control, status_context: Option<u32>) -> Result<Step, Fault> {
        match self.stage {
            Stage::Fixed { need, payload } => {
                let Some(fixed) = control.unread().get(..need) else { return Ok(Step::Starved) };
                let stage = self.pending.fixed(self.kind, fixed, payload - need, status_context)?;
                control.consume(need);
                match stage {
                    None => Ok(Step::ChunkEnds),
                    Some(stage) => {
                        self.stage = stage;
                        Ok(Step::Next)
                    }
                }
            }
            Stage::Append { until } => {
                let bytes = &mut self.pending.bytes;
                // What was read ahead of the head.
                let ahead = control.unread();
                let count = ahead.len().min(until - bytes.len());
                bytes.extend_from_slice(&ahead[..count]);
                control.consume(count);
                Ok(if bytes.len() == until { Step::ChunkEnds } else { Step::Starved })
            }
            Stage::Scatter { at, until } => {
                let piece = control.unread();
                let count = piece.len().min(until - at);
                self.pending.bytes[at..at + count].copy_from_slice(&piece[..count]);
                control.consume(count);
                self.stage = Stage::Scatter { at: at + count, until };
                Ok(if at + count == until { Step::ChunkEnds } else { Step::Starved })
            }
            Stage::Runs { mut left } => {
                while left > 0 {
                    let mut extent = control.unread();
                    let (Ok(length), Ok(flags)) = (extent.try_get_u32(), extent.try_get_u32()) else { break };
                    control.consume(8);
                    left -= 8;
                    self.pending.run(length, flags & STATE_ZERO != 0)?;
                }
                self.stage = Stage::Runs { left };
                Ok(if left == 0 { Step::ChunkEnds } else { Step::Starved })
            }
        }
    }
}

impl<T> Pending<T> {
    /// Understands a chunk's fixed part; `rest` bytes of payload follow it. Returns the stage that reads them, or none where the chunk ends.
    fn fixed(&mut self, kind: u16, mut fixed: &[u8], rest: usize, status_context: Option<u32>) -> Result<Option<Stage>, Fault> {
        // The fixed part is as long as its fields are: `fixed_part` is the other half of this function.
        let short = |_| Fault::ChunkLength { kind, length: rest as u32 };
        match (kind, self.ask) {
            (CHUNK_OFFSET_DATA, Ask::Read { offset, length }) => {
                let at = place(offset, length, fixed.try_get_u64().map_err(short)?, rest as u64)?;
                let until = at + rest;
                if self.deliver(offset, at, until)? {
                    self.reserve();
                    Ok(Some(Stage::Append { until }))
                } else {
                    Ok(Some(Stage::Scatter { at, until }))
                }
            }
            (CHUNK_OFFSET_HOLE, Ask::Read { offset, length }) => {
                let at = fixed.try_get_u64().map_err(short)?;
                let hole = fixed.try_get_u32().map_err(short)?;
                if hole == 0 {
                    return Err(Fault::ChunkLength { kind, length: 0 });
                }
                let at = place(offset, length, at, u64::from(hole))?;
                let until = at + hole as usize;
                if !self.deliver(offset, at, until)? {
                    // The buffer was zeroed when the order was left, and nobody has written there since.
                } else if at == 0 && hole == length {
                    // Memory that comes zeroed from the kernel costs nothing until it is touched.
                    self.bytes = vec![0; length as usize];
                } else {
                    self.reserve();
                    self.bytes.resize(until, 0);
                }
                Ok(None)
            }
            (CHUNK_BLOCK_STATUS, Ask::Status) => {
                let context = fixed.try_get_u32().map_err(short)?;
                if status_context != Some(context) {
                    return Err(Fault::Context(context));
                }
                if !self.runs.is_empty() {
                    return Err(Fault::StatusTwice);
                }
                Ok(Some(Stage::Runs { left: rest }))
            }
            (kind, _) if kind & CHUNK_ERROR_BIT != 0 => {
                let code = fixed.try_get_u32().map_err(short)?;
                let length = fixed.try_get_u16().map_err(short)?;
                let message = fixed.get(..usize::from(length)).ok_or(Fault::Message(length))?;
                self.errors += 1;
                if code == 0 {
                    return Err(Fault::NoErrorNumber);
                }
                if self.errors > MAX_ERRORS {
                    return Err(Fault::Errors);
                }
                self.failed.get_or_insert_with(|| (code, printable(message)));
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Notes that the bytes from `at` up to `until` are delivered now. Says whether they just follow what the buffer has; if not, the buffer
    /// has its full length, zeroed where nothing was delivered.
    fn deliver(&mut self, offset: u64, at: usize, until: usize) -> Result<bool, Fault> {
        let range = at as u64..until as u64;
        match &mut self.scattered {
            None if at == self.bytes.len() => return Ok(true),
            None if at < self.bytes.len() => return Err(Fault::Twice(offset + range.start)),
            None => {
                let mut there = ExtentSet::all(self.bytes.len() as u64);
                there.insert(range);
                self.scattered = Some(there);
                self.reserve();
                self.bytes.resize(self.length(), 0);
            }
            Some(there) => {
                if there.intersects(range.clone()) {
                    return Err(Fault::Twice(offset + range.start));
                }
                there.insert(range);
                if there.fragments() > MAX_PIECES {
                    return Err(Fault::Pieces);
                }
            }
        }
        Ok(false)
    }

    fn run(&mut self, length: u32, zero: bool) -> Result<(), Fault> {
        if length == 0 {
            return Err(Fault::EmptyExtent);
        }
        if self.runs.len() == MAX_RUNS {
            return Ok(());
        }
        match self.runs.last_mut() {
            Some(last) if last.1 == zero => last.0 += u64::from(length),
            _ => self.runs.push((u64::from(length), zero)),
        }
        Ok(())
    }

    fn length(&self) -> usize {
        match self.ask {
            Ask::Read { length, .. } => length as usize,
            Ask::Status => 0,
        }
    }

    /// Takes the memory for the bytes, as late as the first of them come.
    fn reserve(&mut self) {
        let length = self.length();
        self.bytes.reserve_exact(length - self.bytes.len());
    }

    /// At the reply's end: is it whole?
    fn check_complete(&self) -> Result<(), Fault> {
        let whole = match self.ask {
            _ if self.failed.is_some() => true,
            Ask::Read { length, .. } => match &self.scattered {
                None => self.bytes.len() == length as usize,
                Some(there) => there.contains(0..u64::from(length)),
            },
            Ask::Status => !self.runs.is_empty(),
        };
        if whole { Ok(()) } else { Err(Fault::Incomplete) }
    }

    fn answer(self) -> (T, Answer) {
        let answer = match (self.failed, self.ask) {
            (Some((code, message)), _) => Answer::Failed { code, message },
            (None, Ask::Read { .. }) => Answer::Bytes(self.bytes),
            (None, Ask::Status) => Answer::Runs(self.runs),
        };
        (self.owner, answer)
    }
}

/// Where in a request's buffer a chunk lies.
fn place(offset: u64, length: u32, at: u64, count: u64) -> Result<usize, Fault> {
    let inside = at.checked_sub(offset).filter(|from| from.checked_add(count).is_some_and(|end| end <= u64::from(length)));
    inside.map(|from| from as usize).ok_or(Fault::OutOfRange { at, length: count })
}

/// Bytes that were read and not yet understood.
#[derive(Debug)]
struct Control {
    bytes: Vec<u8>,
    at: usize,
}

impl Control {
    fn new() -> Self {
        Self { bytes: Vec::with_capacity(CONTROL), at: 0 }
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }

    /// Room up to `total` unread bytes. The parser asks only for more than there is, and at most for [`CONTROL`].
    fn space(&mut self, total: usize) -> Limit<&mut Vec<u8>> {
        self.bytes.drain(..self.at);
        self.at = 0;
        let room = total - self.bytes.len();
        (&mut self.bytes).limit(room)
    }
}
