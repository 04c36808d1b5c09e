//! The client on an open connection, against a server that says what the test wants.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::client::{IN_FLIGHT, NbdSource};
use super::driver::STALL;
use super::target::{NbdAddress, NbdTarget};
use super::wire::server::{chunk, data, error, greeting, hole, option_reply, simple, status};
use super::wire::{
    CHUNK_NONE, CMD_BLOCK_STATUS, CMD_DISC, CMD_READ, ESHUTDOWN, FIXED_NEWSTYLE, FLAG_DONE, IHAVEOPT, INFO_BLOCK_SIZE, INFO_EXPORT,
    NO_ZEROES, OPT_GO, OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, REP_ACK, REP_ERR_UNSUP, REP_INFO, REP_META_CONTEXT,
};
use crate::{DiskSource, MAX_READ, SourceError};

const SIZE: u64 = 8 << 20;
const CONTEXT: u32 = 9;

/// The test's end of the connection.
pub(super) struct Server(pub(super) DuplexStream);

/// A request as the server got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    command: u16,
    cookie: u64,
    offset: u64,
    length: u32,
}

impl Server {
    pub(super) async fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    pub(super) async fn put(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next option: its number and its data.
    pub(super) async fn option(&mut self) -> (u32, Vec<u8>) {
        let [magic @ .., a, b, c, d, e, f, g, h] = self.take::<16>().await;
        assert_eq!(magic, IHAVEOPT.to_be_bytes());
        let mut data = vec![0; u32::from_be_bytes([e, f, g, h]) as usize];
        self.0.read_exact(&mut data).await.unwrap();
        (u32::from_be_bytes([a, b, c, d]), data)
    }

    /// Whether the client has hung up.
    pub(super) async fn hung_up(&mut self) -> bool {
        matches!(timeout(Duration::from_secs(5), self.0.read(&mut [0; 1])).await, Ok(Ok(0)))
    }

    /// The negotiation of a server that can do everything.
    async fn open(&mut self, blocks: Option<(u32, u32)>) {
        self.put(greeting(FIXED_NEWSTYLE | NO_ZEROES)).await;
        assert_eq!(self.take::<4>().await, [0, 0, 0, 3]);
        loop {
            match self.option().await {
                (OPT_STRUCTURED_REPLY, _) => self.put(option_reply(OPT_STRUCTURED_REPLY, REP_ACK, &[])).await,
                (OPT_SET_META_CONTEXT, _) => {
                    let context = [&CONTEXT.to_be_bytes()[..], b"base:allocation"].concat();
                    self.put(option_reply(OPT_SET_META_CONTEXT, REP_META_CONTEXT, &context)).await;
                    self.put(option_reply(OPT_SET_META_CONTEXT, REP_ACK, &[])).await;
                }
                (OPT_GO, _) => break,
                (other, _) => self.put(option_reply(other, REP_ERR_UNSUP, &[])).await,
            }
        }
        self.put(option_reply(OPT_GO, REP_INFO, &info_export(SIZE))).await;
        if let Some((minimum, maximum)) = blocks {
            self.put(option_reply(OPT_GO, REP_INFO, &info_blocks(minimum, maximum))).await;
        }
        self.put(option_reply(OPT_GO, REP_ACK, &[])).await;
    }

    async fn request(&mut self) -> Request {
        let message = self.take::<28>().await;
        assert_eq!(message[..6], [0x25, 0x60, 0x95, 0x13, 0, 0]);
        let number = |at: usize, length: usize| message[at..at + length].iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        Request { command: number(6, 2) as u16, cookie: number(8, 8), offset: number(16, 8), length: number(24, 4) as u32 }
    }
}

pub(super) fn info_export(size: u64) -> Vec<u8> {
    [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &[0, 1]].concat()
}

pub(super) fn info_blocks(minimum: u32, maximum: u32) -> Vec<u8> {
    [&INFO_BLOCK_SIZE.to_be_bytes()[..], &minimum.to_be_bytes(), &4096_u32.to_be_bytes(), &maximum.to_be_bytes()].concat()
}

pub(super) fn target(export: &str) -> NbdTarget {
    NbdTarget { address: NbdAddress::Unix("scripted".into()), export: export.into(), tls: None }
}

/// An open connection and the server's end of it. The pipe holds little, so that a large message takes several turns.
async fn open_with(blocks: Option<(u32, u32)>) -> (Arc<NbdSource>, Server) {
    let (ours, theirs) = duplex(4096);
    let mut server = Server(theirs);
    let target = target("");
    let (source, ()) = tokio::join!(NbdSource::over(Box::new(ours), &target), server.open(blocks));
    (Arc::new(source.unwrap()), server)
}

async fn open() -> (Arc<NbdSource>, Server) {
    open_with(None).await
}

type Reading = tokio::task::JoinHandle<Result<Vec<u8>, SourceError>>;

fn read(source: &Arc<NbdSource>, offset: u64, length: u32) -> Reading {
    let source = Arc::clone(source);
    tokio::spawn(async move { source.read(offset, length).await })
}

fn disk(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| (at * 7 / 512 + at % 253) as u8).collect()
}

/// The reply with all the bytes that were asked for.
fn whole(request: Request) -> Vec<u8> {
    data(FLAG_DONE, request.cookie, request.offset, &disk(request.offset..request.offset + u64::from(request.length)))
}

#[tokio::test]
async fn replies_and_their_chunks_may_come_in_any_order() {
    let (source, mut server) = open().await;
    let first = read(&source, 0, 2048);
    let a = server.request().await;
    let second = read(&source, 4096, 1024);
    let b = server.request().await;
    assert_eq!((a.command, a.offset, a.length), (CMD_READ, 0, 2048));
    assert_ne!(a.cookie, b.cookie);
    server.put(data(0, a.cookie, 1024, &disk(1024..2048))).await;
    server.put(data(0, b.cookie, 4096, &disk(4096..4608))).await;
    server.put(hole(0, a.cookie, 0, 1024)).await;
    server.put(data(FLAG_DONE, b.cookie, 4608, &disk(4608..5120))).await;
    assert_eq!(second.await.unwrap().unwrap(), disk(4096..5120));
    assert!(!first.is_finished());
    server.put(chunk(FLAG_DONE, CHUNK_NONE, a.cookie, &[])).await;
    assert_eq!(first.await.unwrap().unwrap(), [vec![0; 1024], disk(1024..2048)].concat());
}

#[tokio::test]
async fn four_requests_are_in_flight_and_no_more() {
    let (source, mut server) = open().await;
    let readings: Vec<_> = (0..IN_FLIGHT as u64 + 2).map(|at| read(&source, at * 512, 512)).collect();
    let mut requests = Vec::new();
    for _ in 0..IN_FLIGHT {
        requests.push(server.request().await);
    }
    assert!(timeout(Duration::from_millis(50), server.request()).await.is_err(), "a fifth request was sent");
    server.put(whole(requests[2])).await;
    requests[2] = server.request().await;
    server.put(whole(requests[0])).await;
    requests[0] = server.request().await;
    for request in requests {
        server.put(whole(request)).await;
    }
    for (at, reading) in readings.into_iter().enumerate() {
        assert_eq!(reading.await.unwrap().unwrap(), disk(at as u64 * 512..at as u64 * 512 + 512));
    }
}

#[tokio::test]
async fn an_abandoned_read_disturbs_nobody_and_keeps_its_place() {
    let (source, mut server) = open().await;
    let abandoned = read(&source, 0, MAX_READ);
    let gone = server.request().await;
    // Half of its bytes are there when the reader goes.
    let reply = whole(gone);
    server.put(&reply[..300_000]).await;
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    let readings: Vec<_> = (1..=IN_FLIGHT as u64).map(|at| read(&source, at * MAX_READ as u64, 512)).collect();
    for _ in 1..IN_FLIGHT {
        server.request().await;
    }
    assert!(timeout(Duration::from_millis(50), server.request()).await.is_err(), "the abandoned read's place was given away");
    server.put(&reply[300_000..]).await;
    let last = server.request().await;
    for cookie in gone.cookie + 1..=last.cookie {
        let offset = (cookie - gone.cookie) * MAX_READ as u64;
        server.put(whole(Request { cookie, offset, ..last })).await;
    }
    for (at, reading) in readings.into_iter().enumerate() {
        let offset = (at as u64 + 1) * MAX_READ as u64;
        assert_eq!(reading.await.unwrap().unwrap(), disk(offset..offset + 512));
    }
}

/// What a server may not say in reply to a read of 1024 bytes at 512, and the words of the refusal.
fn malformed(cookie: u64) -> Vec<(Vec<u8>, &'static str)> {
    let mut not_agreed_length = chunk(0, 1, cookie, &[0; 9]);
    not_agreed_length[16..20].copy_from_slice(&8_u32.to_be_bytes());
    let ok = data(0, cookie, 512, &[1; 512]);
    let and_then = |next: Vec<u8>| [ok.clone(), next].concat();
    vec![
        (vec![0; 20], "starts with 0x00000000"),
        (simple(0, cookie), "a simple reply with data"),
        (simple(5, cookie + 1), "not outstanding"),
        (data(FLAG_DONE, cookie + 1, 512, &[1; 1024]), "not outstanding"),
        (and_then([data(FLAG_DONE, cookie, 1024, &[1; 512]), data(FLAG_DONE, cookie, 1024, &[1; 512])].concat()), "not outstanding"),
        (chunk(FLAG_DONE, 3, cookie, &[0; 12]), "type 0x0003, which does not answer"),
        (status(FLAG_DONE, cookie, CONTEXT, &[(512, 0)]), "type 0x0005, which does not answer"),
        (chunk(FLAG_DONE, CHUNK_NONE, cookie, &[0]), "payload of 1 bytes"),
        (chunk(0, CHUNK_NONE, cookie, &[]), "NONE that is not the last"),
        (chunk(FLAG_DONE, CHUNK_NONE, cookie, &[]), "ends before every byte"),
        (not_agreed_length, "payload of 8 bytes"),
        (chunk(0, 2, cookie, &[0; 11]), "payload of 11 bytes"),
        (hole(0, cookie, 512, 0), "payload of 0 bytes"),
        (data(0, cookie, 0, &[1; 1024]), "1024 bytes at 0, outside"),
        (data(0, cookie, 1024, &[1; 1024]), "1024 bytes at 1024, outside"),
        (data(0, cookie, u64::MAX, &[1; 2]), "outside"),
        (hole(0, cookie, 512, 1025), "1025 bytes at 512, outside"),
        (hole(0, cookie, 512, u32::MAX), "outside"),
        (and_then(data(FLAG_DONE, cookie, 1023, &[1; 1])), "bytes at 1023 delivered twice"),
        (and_then(hole(FLAG_DONE, cookie, 512, 1024)), "bytes at 512 delivered twice"),
        ([data(0, cookie, 1024, &[1; 512]), data(0, cookie, 1000, &[1; 100])].concat(), "bytes at 1000 delivered twice"),
        (and_then(chunk(FLAG_DONE, CHUNK_NONE, cookie, &[])), "ends before every byte"),
        (data(FLAG_DONE, cookie, 1024, &[1; 512]), "ends before every byte"),
        (error(0, 0x8001, cookie, 0, "", &[]), "error without an error number"),
        (chunk(0, 0x8001, cookie, &[0; 5]), "payload of 5 bytes"),
        (chunk(0, 0x8001, cookie, &[0; 4200]), "payload of 4200 bytes"),
        (chunk(0, 0x8001, cookie, &[0, 0, 0, 5, 0, 9, b'x']), "message of 9 bytes in a smaller chunk"),
    ]
}

#[tokio::test]
async fn a_malformed_reply_ends_the_connection_for_everybody() {
    let cases = malformed(0).len();
    for case in 0..cases {
        let (source, mut server) = open().await;
        let other = read(&source, 4096, 512);
        let cookie = server.request().await.cookie + 1;
        let reading = read(&source, 512, 1024);
        assert_eq!(server.request().await.cookie, cookie);
        let (bytes, reason) = malformed(cookie).swap_remove(case);
        // The client may hang up before the last byte.
        let _ = server.0.write_all(&bytes).await;
        let error = match reading.await.unwrap() {
            Err(error) => error,
            // The reply was complete before the server said too much.
            Ok(_) => other.await.unwrap().unwrap_err(),
        };
        assert!(matches!(&error, SourceError::Protocol(why) if why.contains(reason)), "case {case}: {error} is not {reason:?}");
        assert!(server.hung_up().await, "case {case}: {reason}");
        assert_eq!(source.read(0, 512).await.unwrap_err(), error, "case {case}: a later read");
        assert_eq!(source.zeroes(0..SIZE).await, None);
    }
}

#[tokio::test]
async fn a_malformed_status_ends_the_connection() {
    let cases = [
        (simple(0, 1), "a simple reply with data"),
        (data(FLAG_DONE, 1, 0, &[1; 512]), "type 0x0001, which does not answer"),
        (status(FLAG_DONE, 1, CONTEXT + 1, &[(512, 0)]), "status of context 10"),
        (status(FLAG_DONE, 1, CONTEXT, &[]), "payload of 4 bytes"),
        (chunk(FLAG_DONE, 5, 1, &[0; 13]), "payload of 13 bytes"),
        (status(FLAG_DONE, 1, CONTEXT, &[(512, 0), (0, 0)]), "extent without length"),
        ([status(0, 1, CONTEXT, &[(512, 0)]), status(FLAG_DONE, 1, CONTEXT, &[(512, 0)])].concat(), "more than one status"),
        (chunk(FLAG_DONE, CHUNK_NONE, 1, &[]), "ends before every byte"),
    ];
    for (bytes, reason) in cases {
        let (source, mut server) = open().await;
        let (zeroes, ()) = tokio::join!(source.zeroes(0..SIZE), async {
            server.request().await;
            server.put(bytes).await;
        });
        assert_eq!(zeroes, None);
        let error = source.read(0, 512).await.unwrap_err();
        assert!(matches!(&error, SourceError::Protocol(why) if why.contains(reason)), "{error} is not {reason:?}");
        assert!(server.hung_up().await, "{reason}");
    }
}

#[tokio::test]
async fn an_error_of_the_server_concerns_one_read() {
    let (source, mut server) = open().await;
    let reading = read(&source, 512, 1024);
    let request = server.request().await;
    server.put(data(0, request.cookie, 512, &[1; 100])).await;
    server.put(error(0, 0x8002, request.cookie, 5, "disk\n\u{7}on fire", &[0; 8])).await;
    server.put(error(0, 0x9999, request.cookie, 12, "later ones count less", &[])).await;
    server.put(chunk(FLAG_DONE, CHUNK_NONE, request.cookie, &[])).await;
    let message = "EIO: input/output error (disk  on fire)".to_owned();
    assert_eq!(reading.await.unwrap().unwrap_err(), SourceError::Read { offset: 512, length: 1024, message });

    let reading = read(&source, 0, 512);
    let cookie = server.request().await.cookie;
    server.put(error(FLAG_DONE, 0x8001, cookie, ESHUTDOWN, "", &[])).await;
    assert!(matches!(reading.await.unwrap(), Err(SourceError::Unreachable { message: why, .. }) if why.contains("shutting down")));

    let reading = read(&source, 0, 512);
    let request = server.request().await;
    server.put(whole(request)).await;
    assert_eq!(reading.await.unwrap().unwrap(), disk(0..512));
}

#[tokio::test]
async fn a_lost_connection_is_unreachable_for_everybody() {
    let (source, mut server) = open().await;
    let readings: Vec<_> = (0..IN_FLIGHT as u64 + 3).map(|at| read(&source, at * 512, 512)).collect();
    let request = server.request().await;
    server.put(&whole(request)[..100]).await;
    drop(server);
    for reading in readings {
        assert!(matches!(reading.await.unwrap(), Err(SourceError::Unreachable { .. })));
    }
    assert!(matches!(source.read(0, 512).await, Err(SourceError::Unreachable { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_byte_for_a_minute_loses_the_connection() {
    let (source, mut server) = open().await;
    let slow = read(&source, 0, 1024);
    let a = server.request().await;
    let starved = read(&source, 4096, 512);
    server.request().await;
    let reply = whole(a);
    server.put(&reply[..100]).await;
    // The one that gets a byte now and then doesn't keep the other one waiting for ever, nor does it lose the connection by itself.
    let start = tokio::time::Instant::now();
    for at in 100..200 {
        if starved.is_finished() {
            break;
        }
        assert!(timeout(Duration::from_secs(3), std::future::pending::<()>()).await.is_err());
        let _ = server.0.write_all(&reply[at..=at]).await;
    }
    let waited = start.elapsed();
    assert!(waited > STALL && waited <= STALL + Duration::from_secs(8), "given up after {waited:?}");
    for reading in [slow, starved] {
        assert!(matches!(reading.await.unwrap(), Err(SourceError::Unreachable { message: why, .. }) if why.contains("60 seconds")));
    }
    assert!(server.hung_up().await);
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_that_moves_is_waited_for() {
    let (source, mut server) = open().await;
    let slow = read(&source, 0, 512);
    let request = server.request().await;
    for piece in whole(request).chunks(50) {
        assert!(timeout(STALL - Duration::from_secs(1), std::future::pending::<()>()).await.is_err());
        server.put(piece).await;
    }
    assert_eq!(slow.await.unwrap().unwrap(), disk(0..512));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_stays() {
    let (source, mut server) = open().await;
    tokio::time::advance(STALL * 10).await;
    let reading = read(&source, 0, 512);
    let request = server.request().await;
    tokio::time::advance(STALL / 2).await;
    server.put(whole(request)).await;
    assert_eq!(reading.await.unwrap().unwrap(), disk(0..512));
}

#[tokio::test]
async fn a_dropped_source_says_goodbye() {
    let (source, mut server) = open().await;
    drop(source);
    assert_eq!(server.request().await.command, CMD_DISC);
    assert!(server.hung_up().await);
    let (source, mut server) = open().await;
    let (command, ()) = tokio::join!(async { server.request().await.command }, Arc::into_inner(source).unwrap().close());
    assert_eq!(command, CMD_DISC);
    assert!(server.hung_up().await);
}

#[tokio::test]
async fn reads_keep_to_the_servers_block_sizes() {
    // Each reads at 4096 and by 4096 at least, 64 KiB at most.
    let (source, mut server) = open_with(Some((4096, 65536))).await;
    for (offset, length) in [(512, 512), (3584, 1024), (4096, 65536), (512, MAX_READ), (SIZE - 512, 512)] {
        let reading = read(&source, offset, length);
        while !reading.is_finished() {
            let Ok(request) = timeout(Duration::from_millis(50), server.request()).await else { continue };
            assert!(request.offset.is_multiple_of(4096) && request.length.is_multiple_of(4096) && request.length <= 65536, "{request:?}");
            server.put(whole(request)).await;
        }
        assert_eq!(reading.await.unwrap().unwrap(), disk(offset..offset + u64::from(length)), "{length} at {offset}");
    }
}

#[tokio::test]
async fn zeroes_are_asked_for_until_the_range_is_covered() {
    let (source, mut server) = open().await;
    let (zeroes, ()) = tokio::join!(source.zeroes(512..10_000), async {
        let request = server.request().await;
        assert_eq!((request.command, request.offset, request.length), (CMD_BLOCK_STATUS, 512, 10_240 - 512));
        // A run that starts within a sector, stops within another, and goes on in the next reply.
        server.put(status(FLAG_DONE, request.cookie, CONTEXT, &[(100, 0), (924, 3), (1124, 2)])).await;
        let request = server.request().await;
        assert_eq!((request.offset, request.length), (2560, 10_240 - 2560));
        server.put(status(FLAG_DONE, request.cookie, CONTEXT, &[(512, 2), (1024, 1), (1 << 20, 2)])).await;
    });
    assert_eq!(zeroes.unwrap(), extents::ExtentSet::from_ranges([2..6, 8..19]));
    assert!(source.zeroes(5..5).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_fails_to_tell_zeroes_is_not_asked_again() {
    let (source, mut server) = open().await;
    let (zeroes, ()) = tokio::join!(source.zeroes(0..SIZE), async {
        let request = server.request().await;
        server.put(error(FLAG_DONE, 0x8001, request.cookie, 95, "", &[])).await;
    });
    assert_eq!(zeroes, None);
    assert_eq!(source.zeroes(0..SIZE).await, None);
    let reading = read(&source, 0, 512);
    let request = server.request().await;
    assert_eq!(request.command, CMD_READ);
    server.put(whole(request)).await;
    assert_eq!(reading.await.unwrap().unwrap(), disk(0..512));
}

#[tokio::test]
async fn what_the_contract_forbids_never_reaches_the_server() {
    let (source, mut server) = open().await;
    for (offset, length) in [(0, 0), (1, 512), (0, MAX_READ + 512), (SIZE, 512), (u64::MAX - 511, 512)] {
        assert!(source.read(offset, length).await.is_err(), "{length} at {offset}");
    }
    let reading = read(&source, SIZE - 512, 512);
    assert_eq!(server.request().await.offset, SIZE - 512);
    reading.abort();
}
