//! The files of the state directory, spooled intervals and saved counts: whatever stands in one, it
//! is read or refused, and never a panic. What is read is what was written: writing it again gives
//! the same bytes, or of an earlier version what is read as the same.
//!
//! The checksum would keep everything else from being looked at, so that input is also read with
//! its length and checksum put right, as a file of each version.

#![no_main]

use ixflow::flush::format::{VERSION, decode, decode_saved, encode, encode_saved};

/// Magic, version, checksum and length.
const HEADER_BYTES: usize = 24;

/// Reads a file of either kind.
fn read(bytes: &[u8]) {
    let is_current = bytes.get(8..12) == Some(&VERSION.to_le_bytes());
    if let Ok(interval) = decode(bytes) {
        assert!(interval.from_secs < interval.to_secs);
        let written = encode(&interval);
        assert!(!is_current || written == bytes);
        assert_eq!(decode(&written), Ok(interval));
    }
    if let Ok(saved) = decode_saved(bytes) {
        assert!(saved.open.iter().all(|interval| interval.to_secs <= saved.covered_to_secs));
        let written = encode_saved(&saved);
        assert!(!is_current || written == bytes);
        assert_eq!(decode_saved(&written), Ok(saved));
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else { return };
    let length = (body.len() as u64).to_le_bytes();
    let magic = &header[..8];
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    let checksum = hasher.finalize().to_le_bytes();
    for version in 1..=VERSION {
        read(&[magic, &version.to_le_bytes(), &checksum, &length, body].concat());
    }
});
