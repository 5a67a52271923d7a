//! The sampled header: addresses, VLAN tags and EtherType of an Ethernet frame.
//!
//! Only what decides whether and for whom a frame counts is read. That is also all that is
//! trusted: an EtherType says IPv4 or IPv6, and the packet behind it is not looked at, since a
//! sampled header may end right there.
//!
//! Of frames that do not count more is read, off the path of those that do: the Ethernet frame
//! that another one wraps ([`Frame::inner`]), and who says that it has which IP address
//! ([`Frame::announced`]).

use std::net::IpAddr;

use serde::Serialize;

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
    /// What is sampled behind the EtherType.
    payload: &'a [u8],
}

/// What wraps an Ethernet frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encapsulation {
    /// UDP over IPv4 or IPv6 (RFC 7348).
    Vxlan,
    /// Ethernet over MPLS (RFC 4448).
    Mpls,
    /// Provider backbone bridging (IEEE 802.1ah).
    Pbb,
}

impl Encapsulation {
    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Encapsulation::Vxlan => "vxlan",
            Encapsulation::Mpls => "mpls",
            Encapsulation::Pbb => "pbb",
        }
    }
}

/// A frame inside of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner<'a> {
    /// What wraps it.
    pub encapsulation: Encapsulation,
    /// The UDP port of VXLAN; else 0.
    pub port: u16,
    /// The inner header, from its destination address on.
    pub header: &'a [u8],
    /// The same if the first four bytes are a control word (RFC 4448, section 4.6): a first
    /// nibble of 0 is that of one, and of many MAC addresses.
    pub behind_control_word: Option<&'a [u8]>,
}

/// What nearly every frame is: IP behind one 802.1Q tag or none. It is what [`Frame::parse`] reads of
/// such a frame, without what is needed of other ones alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UsualFrame {
    /// Destination address.
    pub destination: Mac,
    /// Source address.
    pub source: Mac,
    /// IPv4 or IPv6 by EtherType.
    pub protocol: IpProtocol,
    /// The VLAN of the tag; none without one.
    pub tag: VlanTag,
}

impl UsualFrame {
    /// Reads a header, if it is one of such a frame.
    #[inline(always)]
    pub fn parse(header: &[u8]) -> Option<UsualFrame> {
        let &[a, b, c, d, e, f, g, h, i, j, k, l, tag @ .., m, n] = header.first_chunk::<18>()?;
        let [tpid_high, tpid_low, high, low] = tag;
        let outer = u16::from_be_bytes([tpid_high, tpid_low]);
        let (ether_type, tag) = if outer == 0x8100 {
            let id = u32::from(high & 0x0f) << 8 | u32::from(low);
            (u16::from_be_bytes([m, n]), VlanTag::new(id))
        } else {
            (outer, VlanTag::NONE)
        };
        Some(UsualFrame {
            destination: Mac::from_octets([a, b, c, d, e, f]),
            source: Mac::from_octets([g, h, i, j, k, l]),
            protocol: IpProtocol::from_ether_type(u32::from(ether_type))?,
            tag,
        })
    }
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
            payload: rest,
        })
    }

    /// What the sampled Ethernet record says: no tags, and nothing behind the EtherType.
    #[inline]
    pub fn untagged(source: Mac, destination: Mac, ether_type: u32) -> Frame<'a> {
        let protocol = IpProtocol::from_ether_type(ether_type);
        // A number that is none stands for no EtherType of any name.
        let ether_type = u16::try_from(ether_type).unwrap_or(u16::MAX);
        Frame { destination, source, protocol, ether_type, tags: &[], payload: &[] }
    }

    /// The VLAN tags, outermost first; absent ids (0, 4095) are left out.
    #[inline]
    pub fn tags(&self) -> impl DoubleEndedIterator<Item = VlanTag> + Clone + use<'a> {
        let (tags, _) = self.tags.as_chunks::<4>();
        tags.iter()
            .map(|&[_, _, high, low]| VlanTag::new(u32::from(high & 0x0f) << 8 | u32::from(low)))
            .filter(|tag| tag.is_some())
    }

    /// The first bytes behind the EtherType, or the 802.3 length field.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The Ethernet frame that this one wraps, if it looks like one: IEEE 802.1ah by its I-TAG,
    /// MPLS by its EtherType, VXLAN by one of these UDP ports and its flag.
    pub fn inner(&self, vxlan_ports: &[u16]) -> Option<Inner<'a>> {
        let whole = |encapsulation, port, header| {
            Some(Inner { encapsulation, port, header, behind_control_word: None })
        };
        match self.ether_type {
            // Priority, flags and the 24 bits of the I-SID stand before the customer's frame.
            PBB => whole(Encapsulation::Pbb, 0, self.payload.get(4..)?),
            MPLS | MPLS_UPSTREAM => {
                let (labels, _) = self.payload.as_chunks::<4>();
                // RFC 3032, 2.1: the lowest bit of the third byte is the bottom of the stack.
                let bottom = labels.iter().position(|label| label[2] & 1 == 1)?;
                let header = &self.payload[4 * (bottom + 1)..];
                // RFC 4928, 3: 4 and 6 are IP, a layer 3 service.
                let behind_control_word = match header.first()? >> 4 {
                    0 => header.get(4..),
                    _ => None,
                };
                let encapsulation = Encapsulation::Mpls;
                Some(Inner { encapsulation, port: 0, header, behind_control_word })
            }
            _ => {
                let udp = udp(self.protocol?, self.payload)?;
                let port = u16::from_be_bytes(*udp.get(2..)?.first_chunk()?);
                // The flag that says that the network identifier is one (RFC 7348, section 5).
                let vxlan = vxlan_ports.contains(&port) && udp.get(8)? & 0x08 != 0;
                if vxlan { whole(Encapsulation::Vxlan, port, udp.get(16..)?) } else { None }
            }
        }
    }

    /// The IP address that the frame's source says to have: the sender of ARP (RFC 826), of a
    /// neighbour solicitation, or the target of a neighbour advertisement (RFC 4861, 4.3 and
    /// 4.4). Not one that is said in another's name.
    pub fn announced(&self) -> Option<IpAddr> {
        if self.ether_type == ARP {
            // Hardware Ethernet, protocol IPv4, lengths 6 and 4; operation; sender's addresses.
            let (&[0, 1, 8, 0, 6, 4, _, _], rest) = self.payload.split_first_chunk()? else {
                return None;
            };
            let (&hardware, rest) = rest.split_first_chunk::<6>()?;
            let &address = rest.first_chunk::<4>()?;
            let own = Mac::from_octets(hardware) == self.source && address != [0; 4];
            return own.then(|| address.into());
        }
        // A fixed header with ICMPv6 right behind it, hop limit 255.
        let header =
            self.payload.first_chunk::<40>().filter(|_| self.protocol == Some(IpProtocol::V6))?;
        if header[6] != ICMP_V6 || header[7] != 255 {
            return None;
        }
        let address: [u8; 16] = match self.payload.get(40)? {
            135 => *header[8..].first_chunk()?,
            136 => *self.payload.get(48..)?.first_chunk()?,
            _ => return None,
        };
        (address != [0; 16]).then(|| address.into())
    }
}

/// EtherTypes that are read further.
const ARP: u16 = 0x0806;
const MPLS: u16 = 0x8847;
const MPLS_UPSTREAM: u16 = 0x8848;
const PBB: u16 = 0x88e7;

/// Protocol numbers of IP.
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;

/// UDP in an IP packet that is no later fragment and has no extension headers.
fn udp(protocol: IpProtocol, packet: &[u8]) -> Option<&[u8]> {
    let length = match protocol {
        IpProtocol::V4 => {
            let header = packet.first_chunk::<20>()?;
            let first = header[6] & 0x1f == 0 && header[7] == 0;
            let length = usize::from(header[0] & 0x0f) * 4;
            (first && header[9] == UDP && header[0] >> 4 == 4 && length >= 20).then_some(length)
        }
        IpProtocol::V6 => (*packet.get(6)? == UDP && packet[0] >> 4 == 6).then_some(40),
    };
    packet.get(length?..)
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
#[expect(clippy::cast_possible_truncation, reason = "ports are cut into their bytes")]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_short_way_reads_what_the_long_way_reads(
            addresses in vec(any::<u8>(), 12),
            types in vec(
                prop_oneof![
                    prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100, 0x0800, 0x86dd, 0x0806, 64]),
                    any::<u16>(),
                ],
                4,
            ),
            length in 0usize..=20,
        ) {
            let behind = types.iter().flat_map(|word| word.to_be_bytes());
            let header: Vec<u8> = addresses.into_iter().chain(behind).take(length).collect();
            if let Some(usual) = UsualFrame::parse(&header) {
                let frame = Frame::parse(&header).unwrap();
                let tag = frame.tags().next().unwrap_or(VlanTag::NONE);
                let protocol = frame.protocol.unwrap();
                let (destination, source) = (frame.destination, frame.source);
                prop_assert_eq!(usual, UsualFrame { destination, source, protocol, tag });
                prop_assert!(frame.tags().count() <= 1);
            }
        }
    }

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

    /// An inner frame: IPv6 between addresses of its own.
    const INNER: [u8; 15] = [0x02, 0, 0, 0, 0, 0x11, 0x02, 0, 0, 0, 0, 0x22, 0x86, 0xdd, 0x60];

    fn vxlan_v4(port: u16, flags: u8) -> Vec<u8> {
        let mut packet = vec![0x08, 0x00, 0x46, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
        packet.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        packet.extend([0; 4]);
        packet.extend([0xc0, 0, (port >> 8) as u8, port as u8, 0, 0, 0, 0]);
        packet.extend([flags, 0, 0, 0, 0, 0, 42, 0]);
        [&packet[..], &INNER].concat()
    }

    fn vxlan_v6(port: u16) -> Vec<u8> {
        let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 17, 64];
        packet.extend([0x20; 32]);
        packet.extend([0xc0, 0, (port >> 8) as u8, port as u8, 0, 0, 0, 0]);
        packet.extend([0x08, 0, 0, 0, 0, 0, 42, 0]);
        [&packet[..], &INNER].concat()
    }

    #[test]
    fn vxlan_is_known_by_its_port_and_flag() {
        for packet in [vxlan_v4(4789, 0x08), vxlan_v6(4789)] {
            let inner = frame(&packet).inner(&[8472, 4789]).unwrap();
            assert_eq!((inner.encapsulation, inner.port), (Encapsulation::Vxlan, 4789));
            assert_eq!((inner.header, inner.behind_control_word), (&INNER[..], None));
            assert_eq!(frame(&packet).inner(&[8472]), None);
            for end in 0..packet.len() - INNER.len() {
                let cut = header(&packet[..end]);
                let inner = Frame::parse(&cut).ok().and_then(|frame| frame.inner(&[4789]));
                assert_eq!(inner, None, "{end}");
            }
        }
        assert_eq!(frame(&vxlan_v4(4789, 0)).inner(&[4789]), None);
        let mut fragment = vxlan_v4(4789, 0x08);
        fragment[9] = 1;
        assert_eq!(frame(&fragment).inner(&[4789]), None);
    }

    #[test]
    fn a_control_word_may_stand_before_an_ethernet_frame_over_mpls() {
        let labels = [0x88, 0x47, 0, 1, 0x00, 64, 0, 2, 0x01, 64];
        let plain = [&labels[..], &INNER].concat();
        let inner = frame(&plain).inner(&[]).unwrap();
        assert_eq!((inner.encapsulation, inner.header), (Encapsulation::Mpls, &INNER[..]));
        assert_eq!(inner.behind_control_word, Some(&INNER[4..]), "02:... may be one");
        let worded = [&labels[..], &[0, 0, 0, 7], &INNER].concat();
        assert_eq!(frame(&worded).inner(&[]).unwrap().behind_control_word, Some(&INNER[..]));
        let mut other = plain.clone();
        other[10] = 0x52;
        assert_eq!(frame(&other).inner(&[]).unwrap().behind_control_word, None);
        assert_eq!(frame(&labels[..6]).inner(&[]), None, "the bottom is not there");
    }

    #[test]
    fn a_backbone_frame_may_have_a_backbone_tag() {
        let service = [0x88, 0xe7, 0, 1, 2, 3];
        let tagged = [&[0x88, 0xa8, 0, 100][..], &service, &INNER].concat();
        for packet in [&[&service[..], &INNER].concat(), &tagged] {
            let inner = frame(packet).inner(&[]).unwrap();
            assert_eq!((inner.encapsulation, inner.header), (Encapsulation::Pbb, &INNER[..]));
        }
        assert_eq!(frame(&[0x88, 0xe7, 0, 1]).inner(&[]), None);
    }

    #[test]
    fn who_says_that_it_has_an_address() {
        let mut arp = vec![0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(SOURCE);
        arp.extend([192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 192, 0, 2, 8]);
        assert_eq!(frame(&arp).announced(), Some([192, 0, 2, 7].into()));
        assert_eq!(frame(&arp[..18]).announced(), None, "cut off");
        let mut proxy = arp.clone();
        proxy[10] ^= 1;
        assert_eq!(frame(&proxy).announced(), None, "in another's name");
        arp[16..20].fill(0);
        assert_eq!(frame(&arp).announced(), None, "a probe");

        let mut discovery = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255];
        discovery.extend([0x20; 16]);
        discovery.extend([0x30; 16]);
        discovery.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        discovery.extend([0x40; 16]);
        assert_eq!(frame(&discovery).announced(), Some([0x20; 16].into()), "a solicitation");
        discovery[42] = 136;
        assert_eq!(frame(&discovery).announced(), Some([0x40; 16].into()), "an advertisement");
        discovery[42] = 128;
        assert_eq!(frame(&discovery).announced(), None, "an echo");
        assert_eq!(frame(&[0x86, 0xdd, 0x60]).announced(), None);
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
