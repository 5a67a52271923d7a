//! The sampled header: addresses, VLAN tags and EtherType of an Ethernet frame.
//!
//! Only what decides whether and for whom a frame counts is read. That is also all that is
//! trusted: an EtherType says IPv4 or IPv6, and the packet behind it is not looked at, since a
//! sampled header may end right there.

use crate::ixp::{IpProtocol, Mac, VlanTag};
use crate::loss::Loss;

/// Tags that are kept of a stack; of a deeper one the outermost seven and the innermost.
pub const TAGS_MAX: usize = 8;

/// The largest 802.3 length field; a larger number is an EtherType (IEEE 802.3, 3.2.6).
const LENGTH_MAX: u16 = 1500;

/// LLC unnumbered information between SNAP SAPs, and the OUI under which a protocol id is an
/// EtherType (RFC 1042).
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00];

/// What a sampled header says of its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Destination address.
    pub destination: Mac,
    /// Source address.
    pub source: Mac,
    /// IPv4 or IPv6 by EtherType, or neither.
    pub protocol: Option<IpProtocol>,
    /// The EtherType behind the tags, or in LLC/SNAP; for another 802.3 frame its length field.
    pub ether_type: u16,
    tags: [VlanTag; TAGS_MAX],
    tag_count: u8,
}

impl Frame {
    /// Reads a header: a frame from its destination address on, cut off anywhere.
    #[inline]
    pub fn parse(header: &[u8]) -> Result<Frame, Loss> {
        let Some((addresses, mut rest)) = header.split_first_chunk::<12>() else {
            return Err(truncated());
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *addresses;
        let mut frame = Frame {
            destination: Mac::from_octets([d0, d1, d2, d3, d4, d5]),
            source: Mac::from_octets([s0, s1, s2, s3, s4, s5]),
            protocol: None,
            ether_type: 0,
            tags: [VlanTag::NONE; TAGS_MAX],
            tag_count: 0,
        };
        loop {
            let ether_type;
            (ether_type, rest) = word(rest)?;
            frame.ether_type = ether_type;
            if !is_tag(ether_type) {
                break;
            }
            let control;
            (control, rest) = word(rest)?;
            frame.push(VlanTag::new(u32::from(control & 0x0fff)));
        }
        if frame.ether_type <= LENGTH_MAX {
            frame.read_llc(rest)?;
        }
        frame.protocol = match frame.ether_type {
            0x0800 => Some(IpProtocol::V4),
            0x86dd => Some(IpProtocol::V6),
            _ => None,
        };
        Ok(frame)
    }

    /// The VLAN tags, outermost first; absent ids (0, 4095) are left out.
    #[inline]
    pub fn tags(&self) -> &[VlanTag] {
        &self.tags[..usize::from(self.tag_count)]
    }

    #[inline]
    fn push(&mut self, tag: VlanTag) {
        if !tag.is_some() {
            return;
        }
        match self.tags.get_mut(usize::from(self.tag_count)) {
            Some(slot) => {
                *slot = tag;
                self.tag_count += 1;
            }
            None => self.tags[TAGS_MAX - 1] = tag,
        }
    }

    /// Reads on behind an 802.3 length field. Out of the paths of IP at an exchange, where
    /// spanning tree is the usual 802.3 frame.
    #[cold]
    fn read_llc(&mut self, llc: &[u8]) -> Result<(), Loss> {
        match llc.split_first_chunk::<6>() {
            Some((&SNAP, rest)) => (self.ether_type, _) = word(rest)?,
            None if SNAP.starts_with(llc) => return Err(truncated()),
            _ => {}
        }
        Ok(())
    }
}

/// Whether the EtherType is one of those that announce a VLAN tag: 802.1Q, 802.1ad, and what
/// stood for the latter before it was a standard.
#[inline]
fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300)
}

/// The first two bytes as a number, and what follows them.
#[inline]
fn word(input: &[u8]) -> Result<(u16, &[u8]), Loss> {
    match input.split_first_chunk::<2>() {
        Some((bytes, rest)) => Ok((u16::from_be_bytes(*bytes), rest)),
        None => Err(truncated()),
    }
}

#[cold]
fn truncated() -> Loss {
    Loss::HeaderTruncated
}
