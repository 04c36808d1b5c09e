//! A client of the NBD protocol: fixed newstyle negotiation, replies in chunks, `base:allocation`, TLS.
//!
//! The parser of replies (`replies`) does no I/O and believes nothing; `driver` owns the socket; [`NbdSource`] is what a reader holds. A server
//! may be older than the protocol's current form: without structured replies, `GO`, metadata or block sizes the client does without.
//!
//! Memory, whatever a server announces: the lengths of the outstanding reads (at most [`IN_FLIGHT`] of a MiB), 64 KiB of control buffer a
//! connection, and for each outstanding request 36 KiB (what came out of order, an error's message) or, for a status, 516 KiB.

mod client;
mod driver;
mod fuzz;
mod handshake;
mod replies;
mod target;
mod tls;
mod wire;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
#[path = "../../tests/test_support/random.rs"]
mod random;
#[cfg(test)]
mod replies_tests;
#[cfg(test)]
mod scripted_server_tests;

pub use client::{CONNECT, IN_FLIGHT, NbdSource};
pub use driver::STALL;
#[doc(hidden)]
pub use fuzz::fuzz_replies;
pub use target::{DEFAULT_PORT, NbdAddress, NbdTarget, NbdUriError, TlsConfig};
