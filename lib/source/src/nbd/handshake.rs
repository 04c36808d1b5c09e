//! The negotiation: encryption, chunks, metadata, and the export.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::target::NbdTarget;
use super::tls;
use super::wire::{
    FIXED_NEWSTYLE, GREETING, IHAVEOPT, INFO_BLOCK_SIZE, INFO_EXPORT, MAX_STRING, NO_ZEROES, OLDSTYLE, OPT_EXPORT_NAME, OPT_GO,
    OPT_SET_META_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED_REPLY, OptionReply, REP_ACK, REP_ERR_SHUTDOWN, REP_ERR_UNSUP, REP_ERROR_BIT,
    REP_INFO, REP_META_CONTEXT, option_error, printable, put_counted, put_option,
};
use crate::SourceError;

/// What runs in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection in the clear or encrypted, over whatever carries it.
pub(super) type Stream = Box<dyn Duplex>;

/// The context that tells holes and zeroes.
const BASE_ALLOCATION: &[u8] = b"base:allocation";
/// The longest reply to an option, in bytes: a fixed buffer, whatever length a server announces.
const MAX_OPTION_REPLY: u32 = 64 << 10;
/// The replies to one option. Servers send a handful; without an end one could keep the negotiation going for ever.
const MAX_REPLIES: usize = 64;
/// The largest minimum block that the protocol allows.
const MAX_MINIMUM: u32 = 64 << 10;
/// The largest request where the server names none, as the protocol says: 32 MiB.
const DEFAULT_MAXIMUM: u32 = 32 << 20;

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    /// The export's size in bytes.
    pub(super) size: u64,
    /// Replies come in chunks.
    pub(super) structured: bool,
    /// The id of `base:allocation`.
    pub(super) status_context: Option<u32>,
    /// Requests start at and extend to multiples of this many bytes: a power of 2, 512 to 65536.
    pub(super) min_block: u32,
    /// A read has at most this many bytes: a multiple of `min_block`.
    pub(super) max_block: u32,
}

/// Negotiates. Where the server lacks chunks, metadata or `GO`, the connection does without; where it lacks TLS that was asked for, it ends.
pub(super) async fn negotiate(mut stream: Stream, target: &NbdTarget) -> Result<(Stream, Agreed), SourceError> {
    if target.export.len() > MAX_STRING {
        return Err(SourceError::refused(format!("the export's name has {} bytes; the protocol allows {MAX_STRING}", target.export.len())));
    }
    // Before the first byte: a file that can't be read is no reason to leave a server with half a negotiation.
    let trust = target.tls.as_ref().map(tls::prepare).transpose()?;
    let flags = greet(&mut stream).await?;
    if flags & FIXED_NEWSTYLE == 0 {
        if trust.is_some() {
            return Err(SourceError::refused("TLS was asked for, and the server's protocol is too old for it".to_owned()));
        }
        let agreed = export_name(&mut stream, &target.export, flags, Agreed::none()).await?;
        return Ok((stream, agreed));
    }
    if let Some(trust) = trust {
        put(&mut stream, OPT_STARTTLS, &[]).await?;
        match reply(&mut stream, OPT_STARTTLS).await? {
            (REP_ACK, _) => stream = tls::wrap(stream, trust).await?,
            (kind, text) if kind & REP_ERROR_BIT != 0 => {
                return Err(refused("TLS was asked for, and the server has none", kind, &text));
            }
            (kind, _) => return Err(broken(format!("it answered STARTTLS with {kind:#x}"))),
        }
    }
    let mut agreed = Agreed::none();
    put(&mut stream, OPT_STRUCTURED_REPLY, &[]).await?;
    match reply(&mut stream, OPT_STRUCTURED_REPLY).await? {
        (REP_ACK, _) => agreed.structured = true,
        (kind, _) if kind & REP_ERROR_BIT != 0 => {}
        (kind, _) => return Err(broken(format!("it answered STRUCTURED_REPLY with {kind:#x}"))),
    }
    if agreed.structured {
        agreed.status_context = meta_context(&mut stream, &target.export).await?;
    }
    let agreed = match go(&mut stream, &target.export, agreed).await? {
        Some(agreed) => agreed,
        None => export_name(&mut stream, &target.export, flags, agreed).await?,
    };
    Ok((stream, agreed))
}

impl Agreed {
    const fn none() -> Self {
        Self { size: 0, structured: false, status_context: None, min_block: 512, max_block: DEFAULT_MAXIMUM }
    }

    /// Takes over the server's block sizes. One below a sector is as good as a sector: nobody asks for less.
    fn block_sizes(&mut self, minimum: u32, maximum: u32) -> Result<(), SourceError> {
        let wrong = || broken(format!("its block sizes are {minimum} to {maximum}"));
        if !minimum.is_power_of_two() || minimum > MAX_MINIMUM || maximum < minimum.max(512) {
            return Err(wrong());
        }
        self.min_block = minimum.max(512);
        // No limit is sent as all ones, which is no multiple of anything.
        self.max_block = maximum - maximum % self.min_block;
        Ok(())
    }
}

/// Reads the greeting and answers it. Returns the server's flags.
async fn greet(stream: &mut Stream) -> Result<u16, SourceError> {
    let mut magic = [0; 16];
    read(stream, &mut magic).await?;
    let (first, second) = magic.split_at(8);
    if first != GREETING.to_be_bytes() {
        return Err(broken("it is not an NBD server"));
    }
    if second == OLDSTYLE.to_be_bytes() {
        return Err(broken("it speaks the old negotiation, without exports"));
    }
    if second != IHAVEOPT.to_be_bytes() {
        return Err(broken("its greeting is unknown"));
    }
    let mut flags = [0; 2];
    read(stream, &mut flags).await?;
    let flags = u16::from_be_bytes(flags);
    // A client returns the flags it knows, and must not set one that the server hasn't.
    write(stream, &u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes()).await?;
    Ok(flags)
}

/// Asks for `base:allocation`. It is a hint: without it zeroes are read.
async fn meta_context(stream: &mut Stream, export: &str) -> Result<Option<u32>, SourceError> {
    let mut data = Vec::new();
    put_counted(&mut data, export.as_bytes());
    data.extend_from_slice(&1_u32.to_be_bytes());
    put_counted(&mut data, BASE_ALLOCATION);
    put(stream, OPT_SET_META_CONTEXT, &data).await?;
    let mut context = None;
    for _ in 0..MAX_REPLIES {
        match reply(stream, OPT_SET_META_CONTEXT).await? {
            (REP_ACK, _) => return Ok(context),
            (REP_META_CONTEXT, data) => match data.split_first_chunk() {
                Some((id, BASE_ALLOCATION)) if context.is_none() => context = Some(u32::from_be_bytes(*id)),
                _ => return Err(broken("it chose a metadata context that nobody asked for")),
            },
            (kind, _) if kind & REP_ERROR_BIT != 0 => return Ok(None),
            (kind, _) => return Err(broken(format!("it answered SET_META_CONTEXT with {kind:#x}"))),
        }
    }
    Err(endless("SET_META_CONTEXT"))
}

/// Opens the export. `None` where the server does not know how.
async fn go(stream: &mut Stream, export: &str, mut agreed: Agreed) -> Result<Option<Agreed>, SourceError> {
    let mut data = Vec::new();
    put_counted(&mut data, export.as_bytes());
    data.extend_from_slice(&1_u16.to_be_bytes());
    data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
    put(stream, OPT_GO, &data).await?;
    let mut size = None;
    for _ in 0..MAX_REPLIES {
        match reply(stream, OPT_GO).await? {
            (REP_ACK, _) => {
                agreed.size = size.ok_or_else(|| broken("it opened the export without its size"))?;
                return Ok(Some(agreed));
            }
            (REP_INFO, data) => {
                let Some((kind, info)) = data.split_first_chunk() else {
                    return Err(broken("it sent information without a type"));
                };
                match u16::from_be_bytes(*kind) {
                    INFO_EXPORT => {
                        let export: [u8; 10] = info.try_into().map_err(|_| broken("the export's information has the wrong length"))?;
                        let [bytes @ .., _, _] = export;
                        size = Some(u64::from_be_bytes(bytes));
                    }
                    INFO_BLOCK_SIZE => {
                        let sizes: [u8; 12] = info.try_into().map_err(|_| broken("the block sizes have the wrong length"))?;
                        let [a, b, c, d, _, _, _, _, w, x, y, z] = sizes;
                        agreed.block_sizes(u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([w, x, y, z]))?;
                    }
                    // A server may tell more than it was asked.
                    _ => {}
                }
            }
            (REP_ERR_UNSUP, _) => return Ok(None),
            (kind, text) if kind & REP_ERROR_BIT != 0 => return Err(refused(&format!("the export {export:?}"), kind, &text)),
            (kind, _) => return Err(broken(format!("it answered GO with {kind:#x}"))),
        }
    }
    Err(endless("GO"))
}

/// Opens the export in the old way, in which a server that refuses can only hang up.
async fn export_name(stream: &mut Stream, export: &str, flags: u16, mut agreed: Agreed) -> Result<Agreed, SourceError> {
    put(stream, OPT_EXPORT_NAME, export.as_bytes()).await?;
    let mut answer = [0; 10 + 124];
    let length = if flags & NO_ZEROES == 0 { answer.len() } else { 10 };
    if let Err(error) = stream.read_exact(&mut answer[..length]).await {
        return Err(SourceError::refused(format!("the export {export:?}: the server hung up when asked for it ({error})")));
    }
    let [a, b, c, d, e, f, g, h, ..] = answer;
    agreed.size = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    Ok(agreed)
}

/// Reads a reply to an option: its type and its data, of which there are at most 64 KiB.
async fn reply(stream: &mut Stream, option: u32) -> Result<(u32, Vec<u8>), SourceError> {
    let mut head = [0; 20];
    read(stream, &mut head).await?;
    let head = OptionReply::parse(&head).ok_or_else(|| broken("an option's reply starts wrong"))?;
    if head.option != option {
        return Err(broken(format!("it answered option {} when asked for {option}", head.option)));
    }
    if head.length > MAX_OPTION_REPLY {
        return Err(broken(format!("it announced {} bytes in reply to option {option}", head.length)));
    }
    let mut data = vec![0; head.length as usize];
    read(stream, &mut data).await?;
    Ok((head.kind, data))
}

async fn put(stream: &mut Stream, option: u32, data: &[u8]) -> Result<(), SourceError> {
    let mut message = Vec::new();
    put_option(&mut message, option, data);
    write(stream, &message).await
}

async fn read(stream: &mut Stream, bytes: &mut [u8]) -> Result<(), SourceError> {
    stream.read_exact(bytes).await.map(|_| ()).map_err(|e| broke_off(&e))
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> Result<(), SourceError> {
    stream.write_all(bytes).await.map_err(|e| broke_off(&e))?;
    // An encrypted stream keeps what it was given until it is told to send it.
    stream.flush().await.map_err(|e| broke_off(&e))
}

fn broke_off(error: &std::io::Error) -> SourceError {
    SourceError::unreachable(format!("the negotiation broke off: {error}"))
}

fn broken(why: impl Into<String>) -> SourceError {
    SourceError::Protocol(why.into())
}

fn endless(option: &str) -> SourceError {
    broken(format!("it sent more than {MAX_REPLIES} replies to {option}"))
}

fn refused(what: &str, kind: u32, text: &[u8]) -> SourceError {
    let text = printable(text);
    let text = if text.is_empty() { String::new() } else { format!(" ({text})") };
    let message = format!("{what}: {}{text}", option_error(kind));
    // The one refusal that passes by itself.
    if kind == REP_ERR_SHUTDOWN { SourceError::unreachable(message) } else { SourceError::refused(message) }
}
