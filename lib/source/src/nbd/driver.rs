//! The one owner of a connection's socket: it sends the requests and takes the replies.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::handshake::{Agreed, Stream};
use super::replies::{Answer, Ask, Replies};
use super::wire::{CMD_BLOCK_STATUS, CMD_DISC, CMD_READ, put_request};
use crate::SourceError;

/// A request that gets no byte of its reply for this long means that the connection is lost. It is noticed within five seconds more.
pub const STALL: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(5);
const MOST_TICKS: u32 = (STALL.as_secs() / TICK.as_secs()) as u32;
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A request for the driver.
pub(super) struct Order {
    pub(super) command: Command,
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) owner: Owner,
}

/// What to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    BlockStatus,
}

/// Who waits for a reply. The permit is given back when the reply has come, and not when its reader has gone: the bytes of an abandoned read
/// still come down the wire.
pub(super) struct Owner {
    pub(super) answer: oneshot::Sender<Result<Answer, SourceError>>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Sends requests and takes replies until the client is dropped or the connection is lost.
pub(super) struct Driver {
    stream: Stream,
    orders: mpsc::Receiver<Order>,
    /// Why the connection is lost. Set before anybody is told, so that a later read finds it.
    lost: Arc<OnceLock<SourceError>>,
    replies: Replies<Owner>,
    finished: Vec<(Owner, Answer)>,
    unsent: VecDeque<u8>,
    unflushed: bool,
    next_cookie: u64,
    ticks: Interval,
}

impl Driver {
    pub(super) fn new(stream: Stream, agreed: &Agreed, orders: mpsc::Receiver<Order>, lost: Arc<OnceLock<SourceError>>) -> Self {
        let mut ticks = interval(TICK);
        // A machine that stood still makes one late tick, and not a minute's worth at once.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream,
            orders,
            lost,
            replies: Replies::new(agreed.structured, agreed.status_context),
            finished: Vec::new(),
            unsent: VecDeque::new(),
            unflushed: false,
            next_cookie: 1,
            ticks,
        }
    }

    /// Serves until the end. Everybody who waits then is told why.
    pub(super) async fn run(mut self) {
        match poll_fn(|cx| self.serve(cx)).await {
            Ok(()) => self.say_goodbye().await,
            Err(error) => {
                tracing::debug!(%error, "an NBD connection is lost");
                let error = self.lost.get_or_init(|| error).clone();
                // From here on nobody can add an order; those that had been added are answered too.
                self.orders.close();
                for owner in self.replies.into_owners() {
                    let _ = owner.answer.send(Err(error.clone()));
                }
                while let Ok(order) = self.orders.try_recv() {
                    let _ = order.owner.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Ready with `Ok` once the client is gone.
    fn serve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SourceError>> {
        loop {
            loop {
                match self.orders.poll_recv(cx) {
                    Poll::Ready(Some(order)) => self.take(order),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => break,
                }
            }
            self.send(cx).map_err(|e| broken(&e))?;
            while self.ticks.poll_tick(cx).is_ready() {
                if self.replies.tick(MOST_TICKS) {
                    let message = format!("a request has had no answer for {} seconds", STALL.as_secs());
                    return Poll::Ready(Err(SourceError::unreachable(message)));
                }
            }
            let mut space = self.replies.space();
            let count = ready!(pin!(self.stream.read_buf(&mut space)).poll(cx)).map_err(|e| broken(&e))?;
            if count == 0 {
                return Poll::Ready(Err(SourceError::unreachable("the server closed the connection".to_owned())));
            }
            let outcome = self.replies.advance(&mut self.finished);
            for (owner, answer) in self.finished.drain(..) {
                // Nobody there: the read was abandoned.
                let _ = owner.answer.send(Ok(answer));
            }
            outcome.map_err(|fault| SourceError::Protocol(fault.to_string()))?;
        }
    }

    fn take(&mut self, order: Order) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let Order { command, offset, length, owner } = order;
        let (number, ask) = match command {
            Command::Read => (CMD_READ, Ask::Read { offset, length }),
            Command::BlockStatus => (CMD_BLOCK_STATUS, Ask::Status),
        };
        let mut message = Vec::with_capacity(28);
        put_request(&mut message, number, cookie, offset, length);
        self.unsent.extend(message);
        self.replies.expect(cookie, ask, owner);
    }

    /// Sends what the socket takes. Returns also when it takes no more; the task is woken when it does.
    fn send(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, self.unsent.as_slices().0) {
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.unsent.drain(..count);
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if self.unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }

    /// Best effort: a server that is gone needs no goodbye.
    async fn say_goodbye(mut self) {
        let (head, tail) = self.unsent.as_slices();
        let mut message = [head, tail].concat();
        put_request(&mut message, CMD_DISC, 0, 0, 0);
        let _ = timeout(GOODBYE, async {
            self.stream.write_all(&message).await?;
            self.stream.flush().await?;
            self.stream.shutdown().await
        })
        .await;
    }
}

fn broken(error: &std::io::Error) -> SourceError {
    SourceError::unreachable(format!("the connection broke: {error}"))
}
