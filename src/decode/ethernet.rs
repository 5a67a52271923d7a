//! The sampled header: addresses, VLAN tags and EtherType of an Ethernet frame.

use crate::ixp::{IpProtocol, Mac, VlanTag};
use crate::loss::Loss;

/// Tags that are kept of a stack; of a deeper one the outermost seven and the innermost.
pub const TAGS_MAX: usize = 8;

/// What a sampled header says of its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Destination address.
    pub destination: Mac,
    /// Source address.
    pub source: Mac,
    /// IPv4 or IPv6 by EtherType, or neither.
    pub protocol: Option<IpProtocol>,
    /// The EtherType behind the tags; for an 802.3 frame its length field.
    pub ether_type: u16,
    tags: [VlanTag; TAGS_MAX],
    tag_count: u8,
}

impl Frame {
    /// Reads a header.
    pub fn parse(_header: &[u8]) -> Result<Frame, Loss> {
        todo!()
    }

    /// The VLAN tags, outermost first; absent ids (0, 4095) are left out.
    pub fn tags(&self) -> &[VlanTag] {
        &self.tags[..usize::from(self.tag_count)]
    }
}
