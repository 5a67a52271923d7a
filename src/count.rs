//! Count: a ledger of what each pair of VLIs exchanged.

use crate::ixp::{IpProtocol, Unit};

/// What was counted of one pair, per IP protocol.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
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

    /// Bytes or packets of a protocol.
    #[inline]
    pub fn of(&self, protocol: IpProtocol, unit: Unit) -> u64 {
        match unit {
            Unit::Bytes => self.bytes[protocol as usize],
            Unit::Packets => self.packets[protocol as usize],
        }
    }
}
