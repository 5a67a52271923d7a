//! A datagram from anywhere: it is read or refused, each announced sample is accounted for, and
//! nothing is allocated, whatever the counts and lengths in it claim.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use ixflow::decode::ethernet::Frame;
use ixflow::decode::{CountersSample, Datagram, FlowSample, SAMPLES_MAX, Visitor};
use ixflow::loss::Loss;
use libfuzzer_sys::fuzz_target;

/// The system's allocator, which counts how often Rust code asks it for memory. libFuzzer itself
/// is not Rust, and asks elsewhere.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came; a counter is all that is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of this function, which is that one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[derive(Default)]
struct Tally {
    read: u64,
    refused: u64,
    tags: usize,
}

impl Visitor for Tally {
    fn flow_sample(&mut self, sample: &FlowSample<'_>) {
        self.read += 1;
        if let Some(raw) = sample.raw_packet_header
            && let Ok(frame) = Frame::parse(raw.header)
        {
            self.tags += frame.tags().count();
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

fuzz_target!(
    init: {
        // A counter that counts nothing would find nothing.
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        std::hint::black_box(Box::new(0u64));
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before + 1);
    },
    |bytes: &[u8]| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let mut tally = Tally::default();
        let parsed = Datagram::parse(bytes);
        if let Ok(datagram) = &parsed {
            datagram.visit(&mut tally);
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "decoding allocated");

        let Ok(datagram) = parsed else { return };
        // Samples of other formats are skipped, so that this is a bound.
        let announced = u64::from(datagram.header.sample_count.min(SAMPLES_MAX));
        assert!(tally.read + tally.refused <= announced);
        assert!(tally.read <= bytes.len() as u64 / 8);
        assert!(tally.tags <= bytes.len() / 4);
    }
);
