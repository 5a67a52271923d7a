//! Count: a ledger of what each pair of VLIs exchanged.
//!
//! A dense index of 4 bytes a cell leads to packed rows in order of first sight: as fast as a
//! dense matrix at a fraction of its memory, and a flush walks only the pairs that ever spoke.
//!
//! Pairs are hit at random, in more memory than the caches and the TLB reach: index and rows lie
//! in huge pages where the system gives them (Linux, transparent_hugepage `madvise` or `always`).

use std::marker::PhantomData;

use bytemuck::Pod;
use memmap2::MmapMut;

use crate::ixp::{IpProtocol, Unit};

/// What was counted of one pair, per IP protocol.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Frame length x sampling rate, in bytes.
    pub bytes: [u64; 2],
    /// Sum of the sampling rates.
    pub packets: [u64; 2],
    /// Number of samples.
    pub samples: [u32; 2],
}

impl Traffic {
    /// Adds `other`; sums stop at their type's limit instead of wrapping.
    #[inline]
    pub fn merge(&mut self, other: &Traffic) {
        for protocol in 0..2 {
            self.bytes[protocol] = self.bytes[protocol].saturating_add(other.bytes[protocol]);
            self.packets[protocol] = self.packets[protocol].saturating_add(other.packets[protocol]);
            self.samples[protocol] = self.samples[protocol].saturating_add(other.samples[protocol]);
        }
    }

    /// The relative error of bytes and packets of a protocol, as
    /// [`relative_error_percent`].
    pub fn error_percent(&self, protocol: IpProtocol) -> f64 {
        relative_error_percent(self.samples[protocol as usize].into())
    }

    /// Bytes or packets of a protocol.
    #[inline]
    pub fn of(&self, protocol: IpProtocol, unit: Unit) -> u64 {
        match unit {
            Unit::Bytes => self.bytes[protocol as usize],
            Unit::Packets => self.packets[protocol as usize],
        }
    }
}

/// The relative error of a sum over so many samples, in percent: in 95 of 100 cases it is smaller
/// (196 x sqrt(1/samples); sFlow.org, Packet Sampling Basics). Infinite without a sample.
pub fn relative_error_percent(samples: u64) -> f64 {
    196.0 / (samples as f64).sqrt()
}

/// A sample that was resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The ledger cell of its pair.
    pub cell: u32,
    /// One in so many packets is sampled: what this sample stands for.
    pub sampling_rate: u32,
    /// Length of the frame.
    pub frame_length_bytes: u32,
    /// IPv4 or IPv6.
    pub protocol: IpProtocol,
}

/// Hits whose rows are found before the first of them is counted.
const BLOCK: usize = 64;

/// Zeros straight from the system: no memory before the first touch, huge pages if possible.
#[derive(Debug)]
struct Zeros<T> {
    map: MmapMut,
    kind: PhantomData<T>,
}

impl<T: Pod> Zeros<T> {
    /// # Panics
    ///
    /// The system has no memory, as with any other allocation.
    fn new(count: usize) -> Zeros<T> {
        let bytes = (count * size_of::<T>()).max(1);
        let map = MmapMut::map_anon(bytes)
            .unwrap_or_else(|error| panic!("no memory for a ledger of {bytes} bytes: {error}"));
        // Without huge pages it is only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Zeros { map, kind: PhantomData }
    }

    #[inline]
    fn slice(&self) -> &[T] {
        let whole = self.map.len() / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice(&self.map[..whole])
    }

    #[inline]
    fn slice_mut(&mut self) -> &mut [T] {
        let whole = self.map.len() / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.map[..whole])
    }
}

/// The row of a cell, plus one, which the cell gets if it has none: an earlier hit of a block may
/// have made it.
#[cold]
fn open_row(index: &mut [u32], rows: &mut [Traffic], cells: &mut Vec<u32>, cell: u32) -> u32 {
    let slot = &mut index[cell as usize];
    if *slot == 0 {
        rows[cells.len()] = Traffic::default();
        cells.push(cell);
        #[expect(clippy::cast_possible_truncation, reason = "no more rows than cells")]
        let count = cells.len() as u32;
        *slot = count;
    }
    *slot
}

/// Counts per pair, owned by one worker for one epoch.
#[derive(Debug)]
pub struct Ledger {
    cell_count: u32,
    /// By cell: 0, or one more than the row.
    index: Zeros<u32>,
    /// Room for a row for every cell; only the first `cells.len()` were ever touched.
    rows: Zeros<Traffic>,
    /// The cell of each row.
    cells: Vec<u32>,
}

impl Ledger {
    /// An empty ledger for the cells of one table.
    pub fn new(cell_count: u32) -> Ledger {
        let count = cell_count as usize;
        Ledger { cell_count, index: Zeros::new(count), rows: Zeros::new(count), cells: Vec::new() }
    }

    /// Number of cells that it was made for.
    pub fn cell_count(&self) -> u32 {
        self.cell_count
    }

    /// Counts a batch in tight loops, in each of which the cache misses of many hits overlap:
    /// the places in the index are read, then a field of each row, and only then is added.
    #[inline]
    pub fn count(&mut self, hits: &[Hit]) {
        let index = self.index.slice_mut();
        let rows = self.rows.slice_mut();
        let mut found = [0u32; BLOCK];
        for block in hits.chunks(BLOCK) {
            for (row, hit) in found.iter_mut().zip(block) {
                *row = index[hit.cell as usize];
            }
            let mut touched = 0u32;
            for (row, hit) in found.iter_mut().zip(block) {
                if *row == 0 {
                    *row = open_row(index, rows, &mut self.cells, hit.cell);
                }
                *row -= 1;
                touched ^= rows[*row as usize].samples[hit.protocol as usize];
            }
            // Else nobody would need what was read.
            std::hint::black_box(touched);
            for (&row, hit) in found.iter().zip(block) {
                let row = &mut rows[row as usize];
                let protocol = hit.protocol as usize;
                let rate = u64::from(hit.sampling_rate);
                let bytes = u64::from(hit.frame_length_bytes) * rate;
                row.bytes[protocol] = row.bytes[protocol].saturating_add(bytes);
                row.packets[protocol] = row.packets[protocol].saturating_add(rate);
                row.samples[protocol] = row.samples[protocol].saturating_add(1);
            }
        }
    }

    /// The cells that were counted, with their sums.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Traffic)> {
        self.cells.iter().copied().zip(self.rows.slice())
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Empties the ledger for its next epoch, in time of the rows that were used.
    pub fn clear(&mut self) {
        let index = self.index.slice_mut();
        for &cell in &self.cells {
            index[cell as usize] = 0;
        }
        self.cells.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn hit(cell: u32, rate: u32, length: u32, v6: bool) -> Hit {
        let protocol = if v6 { IpProtocol::V6 } else { IpProtocol::V4 };
        Hit { cell, sampling_rate: rate, frame_length_bytes: length, protocol }
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_samples(
            samples in prop::collection::vec((0u32..50, 1u32..100_000, 64u32..9_000, any::<bool>()), 0..400),
            split in 0usize..400,
        ) {
            let hits: Vec<_> = samples.iter().map(|&(c, r, l, p)| hit(c, r, l, p)).collect();
            let mut expected: BTreeMap<u32, Traffic> = BTreeMap::new();
            let mut ledger = Ledger::new(50);
            let split = split.min(hits.len());
            // What was cleared leaves nothing behind.
            ledger.count(&hits);
            ledger.clear();
            prop_assert!(ledger.is_empty());
            ledger.count(&hits[..split]);
            ledger.count(&hits[split..]);
            for (cell, rate, length, v6) in samples {
                let row = expected.entry(cell).or_default();
                let p = usize::from(v6);
                row.bytes[p] += u64::from(rate) * u64::from(length);
                row.packets[p] += u64::from(rate);
                row.samples[p] += 1;
            }
            let counted: BTreeMap<_, _> = ledger.iter().map(|(c, t)| (c, *t)).collect();
            prop_assert_eq!(counted, expected);
        }
    }

    #[test]
    fn absurd_sums_stop_at_the_limit() {
        let mut ledger = Ledger::new(1);
        let hits = vec![hit(0, u32::MAX, u32::MAX, false); 3];
        ledger.count(&hits);
        let (_, row) = ledger.iter().next().unwrap();
        assert_eq!(row.bytes, [u64::MAX, 0]);
        assert_eq!(row.packets[0], 3 * u64::from(u32::MAX));
    }
}
