//! The fabric in memory, behind the same trait as a socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use super::generate::{DATAGRAM_MAX_BYTES, Generator};
use crate::clock::Clock;
use crate::receive::{BATCH_MAX, Batch, Received, Source};

/// Speaks for `duration_millis` of simulated time, as fast as it is listened to.
#[derive(Debug)]
pub struct SimulatedSource {
    generator: Generator,
    end_millis: u64,
    clock: Option<Clock>,
    batch: Vec<(SocketAddr, Vec<u8>)>,
}

impl SimulatedSource {
    /// Listens to `generator` from its next datagram on. A driven `clock` is set to the stamp of
    /// each batch, and at the end to the end.
    ///
    /// The generator goes with the source. Whoever wants the truth beside it runs a clone:
    /// [`SimulatedSource::truth_ahead`].
    pub fn new(
        generator: Generator,
        duration_millis: u64,
        clock: Option<Clock>,
    ) -> SimulatedSource {
        let end_millis = generator.next_micros() / 1000 + duration_millis;
        SimulatedSource { generator, end_millis, clock, batch: empty_batch() }
    }

    /// What the generator will have said at the end, if all of it is received.
    pub fn truth_ahead(&self) -> super::Truth {
        let mut generator = self.generator.clone();
        let mut payload = Vec::with_capacity(DATAGRAM_MAX_BYTES);
        while generator.next_micros() / 1000 < self.end_millis {
            generator.generate(&mut payload);
        }
        generator.finish()
    }

    /// The generator as it is now.
    pub fn into_generator(self) -> Generator {
        self.generator
    }
}

impl Source for SimulatedSource {
    fn receive(&mut self) -> io::Result<Batch> {
        let generated = self.generator.generate_batch(&mut self.batch, self.end_millis);
        if let Some(clock) = &self.clock {
            clock.set_millis(generated.map_or(self.end_millis, |(stamp_millis, _)| stamp_millis));
        }
        Ok(match generated {
            Some((stamp_millis, count)) => Batch::Datagrams { count, stamp_millis },
            None => Batch::End,
        })
    }

    fn datagram(&self, index: usize) -> Received<'_> {
        received(&self.batch[index])
    }
}

/// Repeats datagrams that were rendered before: a source that costs nothing, for benches. All
/// batches but the last of a lap are full, and all have one stamp.
#[derive(Debug)]
pub struct RingSource {
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    laps: u64,
    stamp_millis: u64,
    /// The first datagram of the batch, and the one after its last.
    batch: (usize, usize),
}

impl RingSource {
    /// Repeats what [`Generator::render`] made `laps` times; what was said is the generator's
    /// truth as often.
    pub fn new(datagrams: Vec<(SocketAddr, Vec<u8>)>, laps: u64, stamp_millis: u64) -> RingSource {
        RingSource { datagrams, laps, stamp_millis, batch: (0, 0) }
    }
}

impl Source for RingSource {
    fn receive(&mut self) -> io::Result<Batch> {
        let (_, mut next) = self.batch;
        if next == self.datagrams.len() {
            self.laps = self.laps.saturating_sub(1);
            next = 0;
        }
        if self.laps == 0 || self.datagrams.is_empty() {
            self.batch = (next, next);
            return Ok(Batch::End);
        }
        let end = (next + BATCH_MAX).min(self.datagrams.len());
        self.batch = (next, end);
        Ok(Batch::Datagrams { count: end - next, stamp_millis: self.stamp_millis })
    }

    fn datagram(&self, index: usize) -> Received<'_> {
        received(&self.datagrams[self.batch.0 + index])
    }
}

fn received((source, payload): &(SocketAddr, Vec<u8>)) -> Received<'_> {
    Received { source: *source, payload, truncated: false }
}

fn empty_batch() -> Vec<(SocketAddr, Vec<u8>)> {
    let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    (0..BATCH_MAX).map(|_| (nobody, Vec::with_capacity(DATAGRAM_MAX_BYTES))).collect()
}
