//! Captures: whatever a file holds, datagrams in the order of their stamps or an error that names
//! the file, and never a panic.

#![no_main]

use std::io::Cursor;

use ixflow::receive::capture::CaptureSource;
use ixflow::receive::{BATCH_MAX, Batch, Source};

libfuzzer_sys::fuzz_target!(|capture: &[u8]| {
    let bytes = Cursor::new(capture.to_vec());
    let mut source = match CaptureSource::from_reader("fuzz.pcap", bytes, None) {
        Ok(source) => source,
        Err(error) => return assert!(error.to_string().contains("fuzz.pcap"), "{error}"),
    };
    let mut last_millis = 0;
    let mut datagrams = 0;
    while let Ok(Batch::Datagrams { count, stamp_millis }) = source.receive() {
        assert!(count <= BATCH_MAX && stamp_millis >= last_millis);
        last_millis = stamp_millis;
        for index in 0..count {
            assert!(source.datagram(index).payload.len() <= capture.len());
        }
        datagrams += count as u64;
    }
    assert!(datagrams <= source.skipped().packets);
    if let Some(error) = source.failure() {
        assert!(error.to_string().contains("fuzz.pcap"), "{error}");
    }
});
