//! The sampled header: addresses, VLAN tags and EtherType of an Ethernet frame.
//!
//! Only what decides whether and for whom a frame counts is read. That is also all that is
//! trusted: an EtherType says IPv4 or IPv6, and the packet behind it is not looked at, since a
//! sampled header may end right there.

use crate::ixp::{IpProtocol, Mac, VlanTag};
use crate::loss::Loss;

/// The largest 802.3 length field; a larger number is an EtherType (IEEE 802.3, 3.2.6).
const LENGTH_MAX: u16 = 1500;

/// LLC unnumbered information between SNAP SAPs, and the OUI under which a protocol id is an
/// EtherType (RFC 1042).
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00];

/// What a sampled header says of its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Destination address.
    pub destination: Mac,
    /// Source address.
    pub source: Mac,
    /// IPv4 or IPv6 by EtherType, or neither.
    pub protocol: Option<IpProtocol>,
    /// The EtherType behind the tags, or in LLC/SNAP; for another 802.3 frame its length field.
    pub ether_type: u16,
    /// Tag protocol ids and tag control information, as they stand in the header.
    tags: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a header: a frame from its destination address on, cut off anywhere.
    #[inline]
    pub fn parse(header: &'a [u8]) -> Result<Frame<'a>, Loss> {
        // Two words instead of twelve bytes, which would go through memory one by one.
        let Some((high, behind)) = header.split_first_chunk::<8>() else {
            return Err(truncated());
        };
        let Some((low, stack)) = behind.split_first_chunk::<4>() else {
            return Err(truncated());
        };
        let high = u64::from_be_bytes(*high);
        let low = u32::from_be_bytes(*low);
        let mut tags_length = 0;
        let (mut ether_type, mut rest) = word(stack)?;
        while is_tag(ether_type) {
            (_, rest) = word(rest)?;
            (ether_type, rest) = word(rest)?;
            tags_length += 4;
        }
        if ether_type <= LENGTH_MAX {
            ether_type = llc_ether_type(rest)?.unwrap_or(ether_type);
        }
        Ok(Frame {
            destination: Mac::from_bits(high >> 16),
            source: Mac::from_bits(high << 32 | u64::from(low)),
            protocol: IpProtocol::from_ether_type(u32::from(ether_type)),
            ether_type,
            tags: &stack[..tags_length],
        })
    }

    /// The VLAN tags, outermost first; absent ids (0, 4095) are left out.
    #[inline]
    pub fn tags(&self) -> impl DoubleEndedIterator<Item = VlanTag> + Clone + use<'a> {
        let (tags, _) = self.tags.as_chunks::<4>();
        tags.iter()
            .map(|&[_, _, high, low]| VlanTag::new(u32::from(high & 0x0f) << 8 | u32::from(low)))
            .filter(|tag| tag.is_some())
    }
}

/// Reads on behind an 802.3 length field. Out of the path of IP at an exchange, where spanning
/// tree is the usual 802.3 frame.
#[cold]
fn llc_ether_type(llc: &[u8]) -> Result<Option<u16>, Loss> {
    match llc.split_first_chunk::<6>() {
        Some((&SNAP, rest)) => word(rest).map(|(ether_type, _)| Some(ether_type)),
        None if SNAP.starts_with(llc) => Err(truncated()),
        _ => Ok(None),
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

#[cfg(test)]
mod tests {
    use super::*;

    const DESTINATION: [u8; 6] = [0x00, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];
    const SOURCE: [u8; 6] = [0x00, 0x11, 0x22, 0x33, 0x44, 0x55];

    /// A header with what follows the addresses.
    fn header(behind: &[u8]) -> Vec<u8> {
        [&DESTINATION, &SOURCE, behind].concat()
    }

    fn frame(behind: &[u8]) -> Frame<'static> {
        Frame::parse(header(behind).leak()).unwrap()
    }

    fn ids(frame: &Frame<'_>) -> Vec<u16> {
        frame.tags().map(|tag| tag.as_u16()).collect()
    }

    /// Tags with these ids, and IPv4 behind them.
    fn stack(ids: impl IntoIterator<Item = u8>) -> Vec<u8> {
        let tags = ids.into_iter().flat_map(|id| [0x81, 0x00, 0x00, id]);
        tags.chain([0x08, 0x00]).collect()
    }

    #[test]
    fn untagged_frames() {
        let read = frame(&[0x08, 0x00]);
        assert_eq!(read.destination, Mac::from_octets(DESTINATION));
        assert_eq!(read.source, Mac::from_octets(SOURCE));
        assert_eq!(read.protocol, Some(IpProtocol::V4));
        assert_eq!(read.ether_type, 0x0800);
        assert_eq!(ids(&read), [0u16; 0]);
        assert_eq!(frame(&[0x86, 0xdd, 0x45]).protocol, Some(IpProtocol::V6));
        for other in [0x0806u16, 0x8847, 0x8864, 0x88cc, 0x0600, 0x05dd, 0x9999, 0x8101] {
            let read = frame(&other.to_be_bytes());
            assert_eq!((read.protocol, read.ether_type), (None, other));
        }
    }

    #[test]
    fn every_tag_protocol_is_known_and_gives_its_12_bits() {
        for tpid in [0x8100u16, 0x88a8, 0x9100, 0x9200, 0x9300] {
            let [a, b] = tpid.to_be_bytes();
            let read = frame(&[a, b, 0xff, 0xfe, 0x81, 0x00, 0xf0, 0x0a, 0x86, 0xdd]);
            assert_eq!(ids(&read), [4094, 10], "{tpid:#x}");
            assert_eq!(read.protocol, Some(IpProtocol::V6), "{tpid:#x}");
        }
    }

    #[test]
    fn absent_ids_are_left_out() {
        let read = frame(&[0x81, 0x00, 0xe0, 0x00, 0x81, 0x00, 0x0f, 0xff, 0x08, 0x00]);
        assert_eq!(ids(&read), [0u16; 0]);
        assert_eq!(read.protocol, Some(IpProtocol::V4));
        let read = frame(&[0x88, 0xa8, 0x00, 0x00, 0x81, 0x00, 0x00, 0x0a, 0x08, 0x00]);
        assert_eq!(ids(&read), [10]);
    }

    #[test]
    fn a_stack_is_kept_whatever_its_depth() {
        assert_eq!(ids(&frame(&stack(1..=9))), (1..=9).collect::<Vec<_>>());
        assert_eq!(ids(&frame(&stack((0..=30).chain([0])))), (1..=30).collect::<Vec<_>>());
    }

    #[test]
    fn snap_names_an_ether_type_under_oui_0() {
        let snap = [0x00, 0x40, 0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00, 0x86, 0xdd];
        let read = frame(&snap);
        assert_eq!((read.protocol, read.ether_type), (Some(IpProtocol::V6), 0x86dd));
        let read = frame(&[&[0x81, 0x00, 0x00, 0x0a][..], &snap].concat());
        assert_eq!((read.protocol, ids(&read)), (Some(IpProtocol::V6), vec![10]));
        let mut longest = snap;
        longest[..2].copy_from_slice(&1500u16.to_be_bytes());
        assert_eq!(frame(&longest).protocol, Some(IpProtocol::V6));
        longest[..2].copy_from_slice(&1501u16.to_be_bytes());
        assert_eq!(frame(&longest).protocol, None);
    }

    #[test]
    fn other_llc_is_not_ip() {
        let others: [&[u8]; 5] = [
            &[0x00, 0x40, 0x06, 0x06, 0x03, 0x45, 0x00, 0x00, 0x08, 0x00],
            &[0x00, 0x40, 0xaa, 0xaa, 0x03, 0x00, 0x00, 0x0c, 0x08, 0x00],
            &[0x00, 0x40, 0xaa, 0xaa, 0x13, 0x00, 0x00, 0x00, 0x08, 0x00],
            &[0x00, 0x40, 0x42, 0x42, 0x03],
            &[0x00, 0x40, 0x42],
        ];
        for behind in others {
            let read = frame(behind);
            assert_eq!((read.protocol, read.ether_type), (None, 0x0040), "{behind:02x?}");
        }
    }

    #[test]
    fn a_header_that_ends_before_the_ether_type_is_refused() {
        let snap = [0x00, 0x40, 0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00, 0x08, 0x00];
        for behind in [&stack([])[..], &stack([10]), &stack(1..=9), &snap] {
            let whole = header(behind);
            for end in 0..whole.len() {
                assert_eq!(
                    Frame::parse(&whole[..end]),
                    Err(Loss::HeaderTruncated),
                    "{end} bytes of {whole:02x?}"
                );
            }
            assert!(Frame::parse(&whole).is_ok());
        }
    }
}
