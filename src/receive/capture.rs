//! Captures as a source: pcap and pcapng files, replayed at the time at which they were taken.
//!
//! Read are UDP datagrams in IPv4 or IPv6, behind Ethernet (VLAN tags are skipped), Linux cooked
//! (v1, v2), BSD loopback or no link layer. What is not such a datagram is counted by kind.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use nom::IResult;
use nom::Parser as _;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u128};
use pcap_parser::traits::{PcapNGPacketBlock as _, PcapReaderIterator};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use super::{BATCH_MAX, Batch, Received, Source};

/// Longest block of a capture that is read: more than any packet and its options need.
const BLOCK_BYTES_MAX: usize = 1 << 20;

/// The shortest block (pcapng, General Block Structure): its type, and its length twice.
const PCAPNG_BLOCK_BYTES_MIN: u32 = 12;

/// Interfaces of a pcapng section at the most.
const INTERFACES_MAX: usize = 4_096;

/// What a capture held besides datagrams to the wanted port.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Skipped {
    /// Packets in all, datagrams included.
    pub packets: u64,
    /// Packets of another kind, or to another port.
    pub other: u64,
    /// Fragments of IP packets: they are not put together.
    pub fragments: u64,
    /// Packets that end inside their headers, or before their length says.
    pub truncated: u64,
    /// Packets of a link layer that is not read.
    pub link_layer: u64,
}

/// A capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened.
    #[error("{}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// The file is not a capture, or is damaged.
    #[error("{}: packet {packet}: {what}: expected a pcap or pcapng capture", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Number of the packet, from 1.
        packet: u64,
        /// What is wrong.
        what: String,
    },
}

struct Interface {
    link: Linktype,
    units_per_sec: u64,
    offset_secs: i64,
}

struct Slot {
    source: SocketAddr,
    start: usize,
    end: usize,
}

/// Capture files, one after the other, as a source of datagrams.
pub struct CaptureSource {
    paths: Vec<PathBuf>,
    path: PathBuf,
    reader: Option<Box<dyn PcapReaderIterator + Send>>,
    /// Whether the capture consists of pcapng's blocks.
    blocks: bool,
    interfaces: Vec<Interface>,
    /// Destination port of the datagrams; none: any.
    port: Option<u16>,
    skipped: Skipped,
    payloads: Vec<u8>,
    slots: Vec<Slot>,
    /// A datagram of the second after that of the batch.
    next: Option<(u64, SocketAddr, Vec<u8>)>,
    stamp_millis: u64,
    failed: Option<CaptureError>,
}

impl CaptureSource {
    /// Replays `paths` in their order; datagrams to `port`, or to any port.
    pub fn open(paths: &[PathBuf], port: Option<u16>) -> Result<CaptureSource, CaptureError> {
        let mut source = CaptureSource::new(port);
        source.paths = paths.to_vec();
        source.paths.reverse();
        source.open_next()?;
        Ok(source)
    }

    /// Replays one capture that messages call `name`.
    pub fn from_reader(
        name: &str,
        reader: impl io::Read + Send + 'static,
        port: Option<u16>,
    ) -> Result<CaptureSource, CaptureError> {
        let mut source = CaptureSource::new(port);
        source.begin(name.into(), reader)?;
        Ok(source)
    }

    fn new(port: Option<u16>) -> CaptureSource {
        CaptureSource {
            paths: Vec::new(),
            path: PathBuf::new(),
            reader: None,
            blocks: false,
            interfaces: Vec::new(),
            port,
            skipped: Skipped::default(),
            payloads: Vec::new(),
            slots: Vec::with_capacity(BATCH_MAX),
            next: None,
            stamp_millis: 0,
            failed: None,
        }
    }

    /// What was skipped so far.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// Why the replay ended before the end of the captures, if it did.
    pub fn failure(&mut self) -> Option<CaptureError> {
        self.failed.take()
    }

    fn open_next(&mut self) -> Result<bool, CaptureError> {
        let Some(path) = self.paths.pop() else { return Ok(false) };
        let file = open(&path)?;
        self.begin(path, file)?;
        Ok(true)
    }

    fn begin(
        &mut self,
        path: PathBuf,
        reader: impl io::Read + Send + 'static,
    ) -> Result<(), CaptureError> {
        self.path = path;
        self.blocks = false;
        self.interfaces.clear();
        match create_reader(BLOCK_BYTES_MAX, reader) {
            Ok(reader) => self.reader = Some(reader),
            Err(error) => return Err(self.format_error(format!("{error:?}"))),
        }
        Ok(())
    }

    fn format_error(&self, what: String) -> CaptureError {
        CaptureError::Format { path: self.path.clone(), packet: self.skipped.packets + 1, what }
    }

    /// The next datagram to the wanted port.
    fn read(&mut self) -> Result<Option<(u64, SocketAddr, Vec<u8>)>, CaptureError> {
        loop {
            let Some(mut reader) = self.reader.take() else {
                if self.open_next()? {
                    continue;
                }
                return Ok(None);
            };
            if self.blocks && is_block_too_short(reader.data()) {
                return Err(self.format_error("malformed".into()));
            }
            match reader.next() {
                Ok((consumed, block)) => {
                    let packet = self.block(&block);
                    reader.consume(consumed);
                    self.reader = Some(reader);
                    if let Some(datagram) = packet? {
                        return Ok(Some(datagram));
                    }
                }
                // The reader is dropped, and the next file opened.
                Err(PcapError::Eof) => {}
                Err(PcapError::Incomplete(_)) => {
                    if reader.reader_exhausted() {
                        return Err(self.format_error("the file ends inside a packet".into()));
                    }
                    if let Err(error) = reader.refill() {
                        return Err(self.format_error(format!("{error:?}")));
                    }
                    self.reader = Some(reader);
                }
                Err(PcapError::UnexpectedEof) => {
                    return Err(self.format_error("the file ends inside a packet".into()));
                }
                Err(error) => {
                    let what = match error {
                        PcapError::BufferTooSmall => {
                            format!("longer than {BLOCK_BYTES_MAX} bytes")
                        }
                        PcapError::ReadError => "cannot be read".into(),
                        _ => "malformed".into(),
                    };
                    return Err(self.format_error(what));
                }
            }
        }
    }

    fn block(
        &mut self,
        block: &PcapBlockOwned<'_>,
    ) -> Result<Option<(u64, SocketAddr, Vec<u8>)>, CaptureError> {
        let (interface, units, packet) = match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let nanoseconds = header.is_nanosecond_precision();
                let units_per_sec = if nanoseconds { 1_000_000_000 } else { 1_000_000 };
                self.interfaces =
                    vec![Interface { link: header.network, units_per_sec, offset_secs: 0 }];
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.blocks = true;
                self.interfaces.clear();
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
                if self.interfaces.len() >= INTERFACES_MAX {
                    return Err(self.format_error("more interfaces than any capture has".into()));
                }
                self.interfaces.push(Interface {
                    link: description.linktype,
                    units_per_sec: description.ts_resolution().unwrap_or(1_000_000).max(1),
                    offset_secs: description.if_tsoffset,
                });
                return Ok(None);
            }
            PcapBlockOwned::Legacy(block) => {
                let Some(interface) = self.interfaces.first() else { return Ok(None) };
                let units =
                    u64::from(block.ts_sec) * interface.units_per_sec + u64::from(block.ts_usec);
                (interface, Some(units), block.data)
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                let Some(interface) = self.interfaces.get(block.if_id as usize) else {
                    return Err(self.format_error(format!("no interface {}", block.if_id)));
                };
                let units = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
                (interface, Some(units), block.packet_data())
            }
            PcapBlockOwned::NG(Block::SimplePacket(block)) => {
                let Some(interface) = self.interfaces.first() else { return Ok(None) };
                (interface, None, block.packet_data())
            }
            PcapBlockOwned::NG(_) => return Ok(None),
        };
        self.skipped.packets += 1;
        let millis = units.map(|units| {
            let millis = u128::from(units) * 1_000 / u128::from(interface.units_per_sec);
            let offset = i128::from(interface.offset_secs) * 1_000;
            u64::try_from(i128::try_from(millis).unwrap_or(0) + offset).unwrap_or(0)
        });
        match datagram(interface.link, packet, self.port) {
            Ok((source, payload)) => {
                // A simple packet block has no time: it came when the one before did.
                let millis = millis.unwrap_or(self.stamp_millis);
                return Ok(Some((millis, source, payload.to_vec())));
            }
            Err(Not::Datagram) => self.skipped.other += 1,
            Err(Not::Whole) => self.skipped.fragments += 1,
            Err(Not::Long) => self.skipped.truncated += 1,
            Err(Not::Known) => self.skipped.link_layer += 1,
        }
        Ok(None)
    }

    fn append(&mut self, source: SocketAddr, payload: &[u8]) {
        let start = self.payloads.len();
        self.payloads.extend_from_slice(payload);
        self.slots.push(Slot { source, start, end: self.payloads.len() });
    }
}

/// Whether a pcapng block says that it is shorter than its type and its two lengths, in either
/// byte order: pcap-parser takes as much from the length of a process information block unseen.
/// Read in the wrong order, the length of a block that is not refused as too long is never small.
fn is_block_too_short(block: &[u8]) -> bool {
    let length = block.get(4..).and_then(|behind| behind.first_chunk());
    length.is_some_and(|&length| {
        u32::from_be_bytes(length).min(u32::from_le_bytes(length)) < PCAPNG_BLOCK_BYTES_MIN
    })
}

fn open(path: &Path) -> Result<File, CaptureError> {
    File::open(path).map_err(|source| CaptureError::Open { path: path.to_owned(), source })
}

impl Source for CaptureSource {
    fn receive(&mut self) -> io::Result<Batch> {
        self.payloads.clear();
        self.slots.clear();
        while self.slots.len() < BATCH_MAX {
            let next = match self.next.take() {
                Some(next) => Ok(Some(next)),
                None => self.read(),
            };
            match next {
                Ok(Some((millis, source, payload))) => {
                    // A batch has one stamp, and may not reach over a boundary.
                    if !self.slots.is_empty() && millis / 1_000 > self.stamp_millis / 1_000 {
                        self.next = Some((millis, source, payload));
                        break;
                    }
                    self.stamp_millis = self.stamp_millis.max(millis);
                    self.append(source, &payload);
                }
                Ok(None) => break,
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        if self.slots.is_empty() {
            return Ok(Batch::End);
        }
        Ok(Batch::Datagrams { count: self.slots.len(), stamp_millis: self.stamp_millis })
    }

    fn datagram(&self, index: usize) -> Received<'_> {
        let Slot { source, start, end } = self.slots[index];
        Received { source, payload: &self.payloads[start..end], truncated: false }
    }
}

/// What a packet is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Not {
    /// A UDP datagram to the wanted port.
    Datagram,
    /// A whole IP packet.
    Whole,
    /// As long as its headers say.
    Long,
    /// Of a link layer that is read.
    Known,
}

type Read<'a, T> = IResult<&'a [u8], T, ()>;

impl From<nom::Err<()>> for Not {
    fn from(_: nom::Err<()>) -> Not {
        Not::Long
    }
}

fn skip(count: usize, input: &[u8]) -> Result<&[u8], Not> {
    let (rest, _): (_, _) = Read::from(take(count)(input))?;
    Ok(rest)
}

/// The source and the payload of a UDP datagram.
fn datagram(link: Linktype, packet: &[u8], port: Option<u16>) -> Result<(SocketAddr, &[u8]), Not> {
    let (mut rest, mut ether_type) = match link {
        Linktype::ETHERNET => ether_type(skip(12, packet)?)?,
        // Packet type, ARPHRD type, address length, address (8), protocol.
        Linktype::LINUX_SLL => ether_type(skip(14, packet)?)?,
        // Protocol, reserved (2), interface (4), ARPHRD type (2), packet type, length, address.
        Linktype::LINUX_SLL2 => {
            let (_, ether_type) = ether_type(packet)?;
            (skip(20, packet)?, ether_type)
        }
        // A family in the byte order of the capturing host: the IP version tells as much.
        Linktype::NULL | Linktype::LOOP => (skip(4, packet)?, 0),
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => (packet, 0),
        _ => return Err(Not::Known),
    };
    while matches!(ether_type, 0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300) {
        (rest, ether_type) = self::ether_type(skip(2, rest)?)?;
    }
    let version = rest.first().map_or(0, |byte| byte >> 4);
    let (source, udp) = match (ether_type, version) {
        (0x0800 | 0, 4) => ipv4(rest)?,
        (0x86dd | 0, 6) => ipv6(rest)?,
        _ => return Err(Not::Datagram),
    };
    let (rest, (source_port, destination_port, length, _checksum)) =
        Read::from((be_u16, be_u16, be_u16, be_u16).parse(udp))?;
    if port.is_some_and(|port| port != destination_port) {
        return Err(Not::Datagram);
    }
    let length = usize::from(length).checked_sub(8).ok_or(Not::Long)?;
    let (_, payload) = Read::from(take(length)(rest))?;
    Ok((SocketAddr::new(source, source_port), payload))
}

fn ether_type(input: &[u8]) -> Result<(&[u8], u16), Not> {
    Ok(Read::from(be_u16(input))?)
}

/// IP protocol number of UDP.
const UDP: u8 = 17;

/// RFC 791.
fn ipv4(packet: &[u8]) -> Result<(IpAddr, &[u8]), Not> {
    let (rest, (version_length, _tos, total_length, _id, fragment)) =
        Read::from((be_u8, be_u8, be_u16, be_u16, be_u16).parse(packet))?;
    let (_, (_ttl, protocol, _checksum, source)) =
        Read::from((be_u8, be_u8, be_u16, be_u32).parse(rest))?;
    if protocol != UDP {
        return Err(Not::Datagram);
    }
    // More fragments, or an offset.
    if fragment & 0x3fff != 0 {
        return Err(Not::Whole);
    }
    let header = usize::from(version_length & 15) * 4;
    // What is behind the total length is the padding of a short frame.
    let packet = packet.get(..usize::from(total_length)).ok_or(Not::Long)?;
    Ok((Ipv4Addr::from_bits(source).into(), packet.get(header.max(20)..).ok_or(Not::Long)?))
}

/// RFC 8200.
fn ipv6(packet: &[u8]) -> Result<(IpAddr, &[u8]), Not> {
    let (rest, (_flow, length, mut next, _hops, source, _destination)) =
        Read::from((be_u32, be_u16, be_u8, be_u8, be_u128, be_u128).parse(packet))?;
    let mut rest = rest.get(..usize::from(length)).ok_or(Not::Long)?;
    loop {
        match next {
            UDP => return Ok((Ipv6Addr::from_bits(source).into(), rest)),
            // Hop-by-hop, routing and destination options.
            0 | 43 | 60 => {
                let (_, (following, length)) = Read::from((be_u8, be_u8).parse(rest))?;
                rest = skip(usize::from(length) * 8 + 8, rest)?;
                next = following;
            }
            44 => return Err(Not::Whole),
            _ => return Err(Not::Datagram),
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]
mod tests {
    use std::io::Write as _;

    use super::*;

    const ETHERNET: [u8; 12] = [2; 12];

    fn udp(payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u16 + 8;
        let mut udp = Vec::from([0xc0, 0x01, 0x18, 0xc7]);
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        udp
    }

    fn v4(payload: &[u8], fragment: u16) -> Vec<u8> {
        let udp = udp(payload);
        let mut packet = Vec::from([0x45, 0]);
        packet.extend((udp.len() as u16 + 20).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9]);
        packet.extend(udp);
        packet
    }

    fn v6(payload: &[u8], extension: Option<u8>) -> Vec<u8> {
        let udp = udp(payload);
        let extra = if extension.is_some() { 8 } else { 0 };
        let mut packet = Vec::from([0x60, 0, 0, 0]);
        packet.extend((udp.len() as u16 + extra).to_be_bytes());
        packet.extend([extension.unwrap_or(UDP), 64]);
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0; 16]);
        if extension.is_some() {
            packet.extend([UDP, 0, 0, 0, 0, 0, 0, 0]);
        }
        packet.extend(udp);
        packet
    }

    fn frame(head: &[u8], packet: impl AsRef<[u8]>) -> Vec<u8> {
        [&ETHERNET[..], head, packet.as_ref()].concat()
    }

    #[test]
    fn a_block_shorter_than_its_lengths_is_malformed() {
        // Section header: type, length, byte order, version 1.0, no section length, length.
        let section = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, 0x0001_0000, u32::MAX, u32::MAX, 28];
        for order in [u32::to_be_bytes, u32::to_le_bytes] {
            for block_type in [0x8000_0001, 1, 6, 99] {
                let block = [block_type, 11, 0, 0, 0, 11];
                let bytes: Vec<u8> = section.iter().chain(&block).flat_map(|&w| order(w)).collect();
                let mut source =
                    CaptureSource::from_reader("short.pcapng", io::Cursor::new(bytes), None)
                        .unwrap();
                assert_eq!(source.receive().unwrap(), Batch::End);
                let error = source.failure().unwrap().to_string();
                assert!(error.contains("short.pcapng: packet 1: malformed"), "{error}");
            }
        }
    }

    #[test]
    fn datagrams_behind_every_link_layer() {
        let cooked = [0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0];
        let cooked2 = [0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0];
        let tagged = [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0];
        let padded = [frame(&[8, 0], v4(b"sflow", 0)), vec![0; 30]].concat();
        let cases = [
            (Linktype::ETHERNET, frame(&[8, 0], v4(b"sflow", 0))),
            (Linktype::ETHERNET, padded),
            (Linktype::ETHERNET, frame(&tagged, v4(b"sflow", 0x4000))),
            (Linktype::ETHERNET, frame(&[0x86, 0xdd], v6(b"sflow", None))),
            (Linktype::ETHERNET, frame(&[0x86, 0xdd], v6(b"sflow", Some(60)))),
            (Linktype::LINUX_SLL, [&cooked[..], &[8, 0], &v4(b"sflow", 0)].concat()),
            (Linktype::LINUX_SLL2, [&[8, 0], &cooked2[..], &v4(b"sflow", 0)].concat()),
            (Linktype::NULL, [&[2, 0, 0, 0][..], &v4(b"sflow", 0)].concat()),
            (Linktype::RAW, v6(b"sflow", None)),
        ];
        for (link, packet) in cases {
            let (source, payload) = datagram(link, &packet, Some(6343)).unwrap();
            assert_eq!((payload, source.port()), (&b"sflow"[..], 0xc001), "{link}");
            assert!(["192.0.2.1", "2001:db8::1"].contains(&source.ip().to_string().as_str()));
            assert_eq!(datagram(link, &packet, Some(6344)), Err(Not::Datagram));
            for cut in 0..packet.len().min(30) {
                let result = datagram(link, &packet[..cut], Some(6343));
                assert!(result.is_err(), "{link} cut to {cut}: {result:?}");
            }
        }
        for fragment in [0x2000, 0x0010] {
            let packet = v4(b"sflow", fragment);
            assert_eq!(datagram(Linktype::RAW, &packet, Some(6343)), Err(Not::Whole));
        }
        assert_eq!(datagram(Linktype::RAW, &v6(b"", Some(44)), None), Err(Not::Whole));
        assert_eq!(datagram(Linktype(147), &v4(b"", 0), None), Err(Not::Known));
        assert_eq!(
            datagram(Linktype::ETHERNET, &frame(&[8, 6], vec![0; 40]), None),
            Err(Not::Datagram)
        );
    }

    fn pcap(packets: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 101] {
            file.extend(word.to_le_bytes());
        }
        for (secs, micros, packet) in packets {
            for word in [*secs, *micros, packet.len() as u32, packet.len() as u32] {
                file.extend(word.to_le_bytes());
            }
            file.extend(packet);
        }
        file
    }

    fn replay(contents: &[u8]) -> (Vec<(u64, usize)>, CaptureSource) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(contents).unwrap();
        let mut source = CaptureSource::open(&[file.path().to_owned()], Some(6343)).unwrap();
        let mut batches = Vec::new();
        while let Batch::Datagrams { count, stamp_millis } = source.receive().unwrap() {
            batches.push((stamp_millis, count));
        }
        (batches, source)
    }

    #[test]
    fn batches_do_not_reach_over_a_second() {
        let packets: Vec<_> =
            [(10, 999_000), (10, 999_999), (11, 0), (11, 5), (10, 7), (13, 1_000)]
                .iter()
                .map(|&(secs, micros)| (secs, micros, v4(b"sflow", 0)))
                .chain([(13, 2_000, v4(b"", 0x2000))])
                .collect();
        let (batches, mut source) = replay(&pcap(&packets));
        assert_eq!(batches, [(10_999, 2), (11_000, 3), (13_001, 1)]);
        assert!(source.failure().is_none());
        let skipped = Skipped { packets: 7, fragments: 1, ..Skipped::default() };
        assert_eq!(source.skipped(), skipped);
    }

    #[test]
    fn a_damaged_capture_counts_up_to_the_damage() {
        let whole = pcap(&[(10, 0, v4(b"sflow", 0)), (10, 0, v4(b"sflow", 0))]);
        let (batches, mut source) = replay(&whole[..whole.len() - 3]);
        assert_eq!(batches, [(10_000, 1)]);
        let error = source.failure().unwrap().to_string();
        assert!(error.contains("packet 2: the file ends inside a packet"), "{error}");

        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"this is a text, no capture at all").unwrap();
        let error = CaptureSource::open(&[file.path().to_owned()], None).err().unwrap();
        assert!(error.to_string().contains("expected a pcap or pcapng capture"), "{error}");
    }

    #[test]
    fn pcapng_with_its_own_time_unit() {
        let block = |kind: u32, body: &[u8]| {
            let length = (body.len() as u32 + 12).to_le_bytes();
            [&kind.to_le_bytes()[..], &length, body, &length].concat()
        };
        let section = [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];
        // Link type 101 (raw), if_tsresol (option 9) 10^-3.
        let interface = [101, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        let mut packet = v4(b"sflow123", 0);
        assert_eq!(packet.len() % 4, 0, "no padding needed");
        let length = packet.len() as u32;
        let mut body = Vec::new();
        for word in [0, 0, 12_345, length, length] {
            body.extend(u32::to_le_bytes(word));
        }
        body.append(&mut packet);
        let file = [block(0x0a0d_0d0a, &section), block(1, &interface), block(6, &body)].concat();
        let (batches, mut source) = replay(&file);
        assert!(source.failure().is_none());
        assert_eq!(batches, [(12_345, 1)]);
    }
}
