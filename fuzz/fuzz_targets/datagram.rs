//! A datagram from anywhere: it is read or refused, and each announced sample is accounted for.

#![no_main]

use ixflow::decode::ethernet::Frame;
use ixflow::decode::{CountersSample, Datagram, FlowSample, SAMPLES_MAX, Visitor};
use ixflow::loss::Loss;
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Tally {
    read: u64,
    refused: u64,
}

impl Visitor for Tally {
    fn flow_sample(&mut self, sample: &FlowSample<'_>) {
        self.read += 1;
        if let Some(raw) = sample.raw_packet_header {
            let _ = Frame::parse(raw.header);
        }
    }

    fn counters_sample(&mut self, _: &CountersSample) {
        self.read += 1;
    }

    fn refused(&mut self, _: Loss, times: u64) {
        assert!(times > 0);
        self.refused += times;
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(datagram) = Datagram::parse(bytes) else { return };
    let mut tally = Tally::default();
    datagram.visit(&mut tally);
    // Samples of other formats are skipped, so that this is a bound.
    let announced = u64::from(datagram.header.sample_count.min(SAMPLES_MAX));
    assert!(tally.read + tally.refused <= announced);
    assert!(tally.read <= bytes.len() as u64 / 8);
});
