//! The numbers of the NBD protocol and the messages that a client sends.
//!
//! Source: "The NBD protocol" (`doc/proto.md` of the NetworkBlockDevice project). All integers are big-endian.

/// A read, in a request's `type`.
pub(super) const CMD_READ: u16 = 0;
/// Goodbye: no reply.
pub(super) const CMD_DISC: u16 = 2;
/// Asks for the metadata of a range.
pub(super) const CMD_BLOCK_STATUS: u16 = 7;

const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts a reply without chunks, 16 bytes, then a read's bytes.
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
/// Starts a chunk of a structured reply, 20 bytes, then its payload.
pub(super) const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// The chunk is the reply's last.
pub(super) const FLAG_DONE: u16 = 1;
/// No payload: the reply ends.
pub(super) const CHUNK_NONE: u16 = 0;
/// An offset and bytes.
pub(super) const CHUNK_OFFSET_DATA: u16 = 1;
/// An offset and a count of zero bytes.
pub(super) const CHUNK_OFFSET_HOLE: u16 = 2;
/// A metadata context and its extents.
pub(super) const CHUNK_BLOCK_STATUS: u16 = 5;
/// Set in the type of every chunk that reports an error.
pub(super) const CHUNK_ERROR_BIT: u16 = 1 << 15;

/// In an extent of `base:allocation`: the range reads as zeroes.
pub(super) const STATE_ZERO: u32 = 2;

/// The server is shutting down.
pub(super) const ESHUTDOWN: u32 = 108;

/// Appends a request: 28 bytes.
pub(super) fn put_request(out: &mut Vec<u8>, command: u16, cookie: u64, offset: u64, length: u32) {
    out.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
    out.extend_from_slice(&0_u16.to_be_bytes());
    out.extend_from_slice(&command.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

/// The name of a protocol's error number. They are fixed by the protocol, whatever the server's system calls them.
pub(super) fn error_name(code: u32) -> &'static str {
    match code {
        1 => "EPERM: operation not permitted",
        5 => "EIO: input/output error",
        12 => "ENOMEM: out of memory",
        22 => "EINVAL: invalid argument",
        28 => "ENOSPC: no space left",
        75 => "EOVERFLOW: too large",
        95 => "ENOTSUP: not supported",
        ESHUTDOWN => "ESHUTDOWN: the server is shutting down",
        _ => "an error that the protocol has no name for",
    }
}

/// What a server wrote for people, fit for a log line: printable, and no longer than 300 characters.
pub(super) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect::<String>().trim().to_owned()
}

/// Starts the server's greeting.
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// Follows the greeting of the newstyle negotiation, and starts each option.
pub(super) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Follows the greeting of the old negotiation, which has neither exports nor TLS.
pub(super) const OLDSTYLE: u64 = 0x0000_4202_8186_1253;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;

/// Options can be refused by the server one by one.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
/// No 124 zeroes behind the answer to `EXPORT_NAME`.
pub(super) const NO_ZEROES: u16 = 2;

/// Opens an export without a way to say no.
pub(super) const OPT_EXPORT_NAME: u32 = 1;
/// Goes on encrypted.
pub(super) const OPT_STARTTLS: u32 = 5;
/// Opens an export.
pub(super) const OPT_GO: u32 = 7;
/// Replies in chunks.
pub(super) const OPT_STRUCTURED_REPLY: u32 = 8;
/// Chooses metadata.
pub(super) const OPT_SET_META_CONTEXT: u32 = 10;

/// An option's reply: done.
pub(super) const REP_ACK: u32 = 1;
/// An option's reply: about the export.
pub(super) const REP_INFO: u32 = 3;
/// An option's reply: a context that was chosen.
pub(super) const REP_META_CONTEXT: u32 = 4;
/// Set in every option's reply that is an error.
pub(super) const REP_ERROR_BIT: u32 = 1 << 31;
/// The server does not know the option.
pub(super) const REP_ERR_UNSUP: u32 = REP_ERROR_BIT | 1;
/// The server is going away.
pub(super) const REP_ERR_SHUTDOWN: u32 = REP_ERROR_BIT | 7;

/// Information about an export: size and flags.
pub(super) const INFO_EXPORT: u16 = 0;
/// Information about an export: the sizes that requests must keep to.
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

/// The longest export name and the longest message that the protocol allows, in bytes.
pub(super) const MAX_STRING: usize = 4096;

/// Appends an option with its data.
pub(super) fn put_option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend_from_slice(&IHAVEOPT.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    put_counted(out, data);
}

/// Appends a length of 32 bits and the bytes.
pub(super) fn put_counted(out: &mut Vec<u8>, data: &[u8]) {
    // Everything sent has a bound far below 4 GiB: names are checked against MAX_STRING.
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// The head of an option's reply: 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OptionReply {
    pub(super) option: u32,
    pub(super) kind: u32,
    pub(super) length: u32,
}

impl OptionReply {
    /// Reads the head. `None` where the magic number is wrong.
    pub(super) fn parse(head: &[u8; 20]) -> Option<Self> {
        let [magic @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *head;
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        (u64::from_be_bytes(magic) == OPTION_REPLY).then(|| Self { option: word(8), kind: word(12), length: word(16) })
    }
}

/// What an option's error means.
pub(super) fn option_error(kind: u32) -> &'static str {
    match kind ^ REP_ERROR_BIT {
        1 => "the option is not supported",
        2 => "a policy forbids it",
        3 => "the option is invalid",
        4 => "the server's platform can't do it",
        5 => "TLS is required",
        6 => "no such export",
        7 => "the server is shutting down",
        8 => "the client must keep to the server's block size",
        9 => "the option is too big",
        _ => "an error that the protocol has no name for",
    }
}

#[cfg(test)]
pub(super) mod server {
    //! What a server sends, for the tests' scripts.
    use super::*;

    /// The greeting of the newstyle negotiation.
    pub(in super::super) fn greeting(flags: u16) -> Vec<u8> {
        [&GREETING.to_be_bytes()[..], &IHAVEOPT.to_be_bytes(), &flags.to_be_bytes()].concat()
    }

    /// An option's reply.
    pub(in super::super) fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
        let mut out = [&OPTION_REPLY.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes()].concat();
        put_counted(&mut out, data);
        out
    }

    /// A chunk of a structured reply.
    pub(in super::super) fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = [&STRUCTURED_REPLY.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes(), &cookie.to_be_bytes()].concat();
        put_counted(&mut out, payload);
        out
    }

    /// A chunk with data.
    pub(in super::super) fn data(flags: u16, cookie: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
        chunk(flags, CHUNK_OFFSET_DATA, cookie, &[&offset.to_be_bytes()[..], bytes].concat())
    }

    /// A chunk with a hole.
    pub(in super::super) fn hole(flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
        chunk(flags, CHUNK_OFFSET_HOLE, cookie, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat())
    }

    /// A chunk with an error.
    pub(in super::super) fn error(flags: u16, kind: u16, cookie: u64, code: u32, message: &str, tail: &[u8]) -> Vec<u8> {
        let length = (message.len() as u16).to_be_bytes();
        chunk(flags, kind, cookie, &[&code.to_be_bytes()[..], &length, message.as_bytes(), tail].concat())
    }

    /// A chunk with the extents of a context.
    pub(in super::super) fn status(flags: u16, cookie: u64, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
        let extents = extents.iter().flat_map(|(length, flags)| [length.to_be_bytes(), flags.to_be_bytes()].concat());
        chunk(flags, CHUNK_BLOCK_STATUS, cookie, &context.to_be_bytes().into_iter().chain(extents).collect::<Vec<_>>())
    }

    /// A reply without chunks; a read's bytes follow it.
    pub(in super::super) fn simple(code: u32, cookie: u64) -> Vec<u8> {
        [&SIMPLE_REPLY.to_be_bytes()[..], &code.to_be_bytes(), &cookie.to_be_bytes()].concat()
    }
}
