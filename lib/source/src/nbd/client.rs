//! The source that reads from an NBD server.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use extents::ExtentSet;
use futures::future::try_join_all;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::driver::{Command, Driver, Order, Owner};
use super::handshake::{Agreed, Stream, negotiate};
use super::replies::Answer;
use super::target::{NbdAddress, NbdTarget};
use super::wire::{ESHUTDOWN, error_name};
use crate::zeroes::ZeroRuns;
use crate::{DiskSource, SourceError, check};

/// The requests in flight on a connection: with [`crate::MAX_READ`] each, the 4 MB that a disk has of a host's NFC buffer.
pub const IN_FLIGHT: usize = 4;
/// The time for connection and negotiation together. A server in front of VDDK answers only when VMware has opened the disk.
pub const CONNECT: Duration = Duration::from_secs(120);
/// The range of one request for zeroes, in bytes: VDDK's servers take no more than 2 GiB.
const STATUS_STEP: u64 = 2 << 30;

/// An export, open for reading over one connection.
///
/// Up to [`IN_FLIGHT`] requests are on the way at a time; more wait in order. A read that is abandoned keeps its place until its bytes have
/// come. A request without a byte of reply for [`STALL`](super::STALL) loses the connection. Once it is lost, or the server broke the
/// protocol, every read fails with the same error. When the source is dropped the connection ends by itself, with a goodbye.
#[derive(Debug)]
pub struct NbdSource {
    agreed: Agreed,
    orders: mpsc::Sender<Order>,
    in_flight: Arc<Semaphore>,
    lost: Arc<OnceLock<SourceError>>,
    /// A request for zeroes failed: they are not asked for again.
    blind: AtomicBool,
    driver: JoinHandle<()>,
}

impl NbdSource {
    /// Connects and opens the export.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] where nobody answers within [`CONNECT`], [`SourceError::Refused`] where the server or its certificate says
    /// no, or TLS was asked for and the server has none, [`SourceError::Protocol`] where it is no NBD server.
    pub async fn connect(target: NbdTarget) -> Result<Self, SourceError> {
        Self::in_time(&target, async { Self::over(dial(&target.address).await?, &target).await }).await
    }

    /// Opens the export over a connection that its caller has made.
    ///
    /// # Errors
    /// As of [`NbdSource::connect`].
    pub async fn on(stream: UnixStream, target: &NbdTarget) -> Result<Self, SourceError> {
        Self::in_time(target, Self::over(Box::new(stream), target)).await
    }

    async fn in_time(target: &NbdTarget, attempt: impl Future<Output = Result<Self, SourceError>>) -> Result<Self, SourceError> {
        timeout(CONNECT, attempt).await.unwrap_or_else(|_| {
            Err(SourceError::unreachable(format!("{} did not open the export within {} seconds", target.address, CONNECT.as_secs())))
        })
    }

    pub(super) async fn over(stream: Stream, target: &NbdTarget) -> Result<Self, SourceError> {
        let (stream, agreed) = negotiate(stream, target).await?;
        tracing::debug!(address = %target.address, export = target.export, tls = target.tls.is_some(), ?agreed, "opened an NBD export");
        // Each order holds a permit, so the channel is never full.
        let (orders, received) = mpsc::channel(IN_FLIGHT);
        let lost = Arc::new(OnceLock::new());
        let driver = tokio::spawn(Driver::new(stream, &agreed, received, Arc::clone(&lost)).run());
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        Ok(Self { agreed, orders, in_flight, lost, blind: AtomicBool::new(false), driver })
    }

    /// Ends the connection and waits until the server has been told, a second at the most. Dropping the source does the same without waiting.
    pub async fn close(self) {
        let Self { orders, driver, .. } = self;
        drop(orders);
        // It fails only if the task panicked or the runtime ends, and then there is no connection either.
        let _ = driver.await;
    }

    /// Sends one request that keeps to the server's sizes, and waits for the answer.
    async fn ask(&self, command: Command, offset: u64, length: u32) -> Result<Answer, SourceError> {
        let Ok(permit) = Arc::clone(&self.in_flight).acquire_owned().await else { return Err(self.why_lost()) };
        let (answer, answered) = oneshot::channel();
        let order = Order { command, offset, length, owner: Owner { answer, _permit: permit } };
        if self.orders.send(order).await.is_err() {
            return Err(self.why_lost());
        }
        answered.await.unwrap_or_else(|_| Err(self.why_lost()))
    }

    fn why_lost(&self) -> SourceError {
        self.lost.get().cloned().unwrap_or_else(|| SourceError::unreachable("the connection's task ended".to_owned()))
    }

    async fn read_piece(&self, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        let length = (range.end - range.start) as u32;
        match self.ask(Command::Read, range.start, length).await? {
            Answer::Bytes(bytes) => Ok(bytes),
            Answer::Failed { code: ESHUTDOWN, .. } => Err(SourceError::unreachable(error_name(ESHUTDOWN).to_owned())),
            Answer::Failed { code, message } => {
                let message = if message.is_empty() { error_name(code).to_owned() } else { format!("{} ({message})", error_name(code)) };
                Err(SourceError::Read { offset: range.start, length, message })
            }
            Answer::Runs(_) => Err(SourceError::Protocol("a status in answer to a read".to_owned())),
        }
    }

    /// The range as a server with larger blocks wants it; the export's end may cut the last block.
    fn aligned(&self, range: Range<u64>) -> Range<u64> {
        let block = u64::from(self.agreed.min_block);
        let end = range.end.checked_next_multiple_of(block).unwrap_or(u64::MAX).min(self.agreed.size);
        range.start - range.start % block..end
    }

    /// Cuts the aligned range into requests of the server's largest size.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let most = u64::from(self.agreed.max_block);
        let mut start = range.start;
        std::iter::from_fn(move || {
            let piece = start..range.end.min(start.saturating_add(most));
            start = piece.end;
            (!piece.is_empty()).then_some(piece)
        })
    }

    async fn find_zeroes(&self, range: Range<u64>) -> Option<ExtentSet> {
        let mut zeroes = ZeroRuns::default();
        let Range { start, end } = self.aligned(range);
        // Where the next request starts, and up to where the answers so far reach.
        let (mut from, mut told) = (start, start);
        while told < end {
            let asked = (end - from).min(STATUS_STEP);
            let Ok(Answer::Runs(runs)) = self.ask(Command::BlockStatus, from, asked as u32).await else { return None };
            let mut at = from;
            for (length, zero) in runs {
                let until = at.saturating_add(length);
                if zero {
                    zeroes.push(at.max(told)..until);
                }
                at = until;
            }
            // A server may stop within a block; a request starts at one.
            let next = at - at % u64::from(self.agreed.min_block);
            if next <= from && at < end {
                return None;
            }
            (from, told) = (next, told.max(at));
        }
        Some(zeroes.finish())
    }
}

#[async_trait]
impl DiskSource for NbdSource {
    fn size(&self) -> u64 {
        self.agreed.size
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, SourceError> {
        check(self.agreed.size, offset, length)?;
        let wanted = offset..offset + u64::from(length);
        let aligned = self.aligned(wanted.clone());
        let mut bytes = if aligned.end - aligned.start <= u64::from(self.agreed.max_block) {
            self.read_piece(aligned.clone()).await?
        } else {
            try_join_all(self.pieces(aligned.clone()).map(|piece| self.read_piece(piece))).await?.concat()
        };
        if aligned != wanted {
            bytes.drain(..(wanted.start - aligned.start) as usize);
            bytes.truncate(length as usize);
        }
        Ok(bytes)
    }

    async fn zeroes(&self, range: Range<u64>) -> Option<ExtentSet> {
        if self.agreed.status_context.is_none() || self.blind.load(Ordering::Relaxed) {
            return None;
        }
        let range = range.start..range.end.min(self.agreed.size);
        if range.is_empty() {
            return Some(ExtentSet::new());
        }
        let found = self.find_zeroes(range.clone()).await;
        if found.is_none() {
            tracing::debug!("the NBD server does not tell zeroes; everything is read");
            self.blind.store(true, Ordering::Relaxed);
        }
        // The last extent may reach past what was asked for, and past the export's end.
        found.map(|set| set.within(range.start.div_ceil(extents::SECTOR)..range.end / extents::SECTOR))
    }
}

async fn dial(address: &NbdAddress) -> Result<Stream, SourceError> {
    let failed = |error: std::io::Error| {
        let message = format!("{address}: {error}");
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => SourceError::refused(message),
            _ => SourceError::unreachable(message),
        }
    };
    match address {
        NbdAddress::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        NbdAddress::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            // A request is 28 bytes, and waiting for more of them would only delay the reply.
            stream.set_nodelay(true).map_err(failed)?;
            Ok(Box::new(stream))
        }
    }
}
