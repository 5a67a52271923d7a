//! Receive: datagrams in batches, with the time at which they came.

use std::io;
use std::net::SocketAddr;

/// Datagrams in a batch at the most.
pub const BATCH_MAX: usize = 64;

/// One UDP payload.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// The payload.
    pub payload: &'a [u8],
    /// Whether it was longer than what could be kept.
    pub truncated: bool,
}

/// What a call of [`Source::receive`] brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Batch {
    /// So many datagrams (0: none came in time), all received at `stamp_millis`.
    Datagrams {
        /// How many, at most [`BATCH_MAX`].
        count: usize,
        /// Milliseconds since 1970.
        stamp_millis: u64,
    },
    /// The source is exhausted: the end of a replay.
    End,
}

/// Where datagrams come from: a socket, a capture, or a simulated fabric.
pub trait Source {
    /// Waits for datagrams, 100 ms at the most, and replaces the batch by them.
    ///
    /// The stamps of one source never decrease.
    fn receive(&mut self) -> io::Result<Batch>;

    /// Datagram `index` of the batch, below its count.
    fn datagram(&self, index: usize) -> Received<'_>;
}
