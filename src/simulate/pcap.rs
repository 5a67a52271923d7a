//! Datagrams as a capture: classic pcap, Ethernet, IPv4 or IPv6, UDP to port 6343.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use super::generate::collector_of;

/// sFlow's port (IANA).
const SFLOW_PORT: u16 = 6343;
/// Longer packets than any that is written.
const SNAP_LENGTH: u32 = 65_535;
/// LINKTYPE_ETHERNET.
const LINK_TYPE: u32 = 1;

/// Writes a capture (draft-ietf-opsawg-pcap: little-endian, microseconds).
#[derive(Debug)]
pub struct PcapWriter<W> {
    out: W,
    packet: Vec<u8>,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file's header. `out` should be buffered.
    pub fn new(mut out: W) -> io::Result<PcapWriter<W>> {
        out.write_all(&0xa1b2_c3d4_u32.to_le_bytes())?;
        out.write_all(&[2, 0, 4, 0])?;
        for field in [0, 0, SNAP_LENGTH, LINK_TYPE] {
            out.write_all(&u32::to_le_bytes(field))?;
        }
        Ok(PcapWriter { out, packet: Vec::new() })
    }

    /// Writes a datagram that `source` sent at `stamp_micros` since 1970.
    pub fn write(
        &mut self,
        stamp_micros: u64,
        source: SocketAddr,
        payload: &[u8],
    ) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "datagram too long for UDP");
        let udp_length = u16::try_from(payload.len() + 8).map_err(|_| too_long())?;
        let ip_length = udp_length.checked_add(20).ok_or_else(too_long)?;
        let mut udp = [0; 8];
        udp[..2].copy_from_slice(&source.port().to_be_bytes());
        udp[2..4].copy_from_slice(&SFLOW_PORT.to_be_bytes());
        udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
        let packet = &mut self.packet;
        packet.clear();
        packet.extend_from_slice(&[0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1]);
        // The pseudo header of the checksum (RFC 768, RFC 8200 section 8.1) begins with the
        // protocol and the UDP length in both families.
        let mut sum = Sum(17 + u32::from(udp_length));
        match (source.ip(), collector_of(source.ip())) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.extend_from_slice(&[0x08, 0x00]);
                let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                ip[2..4].copy_from_slice(&ip_length.to_be_bytes());
                ip[12..16].copy_from_slice(&from.octets());
                ip[16..].copy_from_slice(&to.octets());
                let mut header = Sum(0);
                header.add(&ip);
                ip[10..12].copy_from_slice(&header.complement().to_be_bytes());
                packet.extend_from_slice(&ip);
                sum.add(&ip[12..]);
            }
            (from, to) => {
                packet.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                packet.extend_from_slice(&udp_length.to_be_bytes());
                packet.extend_from_slice(&[17, 64]);
                for address in [from, to] {
                    let octets = match address {
                        IpAddr::V6(address) => address.octets(),
                        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    };
                    packet.extend_from_slice(&octets);
                    sum.add(&octets);
                }
            }
        }
        sum.add(&udp);
        sum.add(payload);
        // A checksum of 0 would say that there is none.
        let checksum = if sum.complement() == 0 { 0xffff } else { sum.complement() };
        udp[6..].copy_from_slice(&checksum.to_be_bytes());
        packet.extend_from_slice(&udp);
        packet.extend_from_slice(payload);

        // Unsigned seconds last until 2106.
        let stamp_secs = u32::try_from(stamp_micros / 1_000_000).unwrap_or(u32::MAX);
        let fraction_micros = (stamp_micros % 1_000_000) as u32;
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        for field in [stamp_secs, fraction_micros, length, length] {
            self.out.write_all(&field.to_le_bytes())?;
        }
        self.out.write_all(packet)
    }

    /// Flushes, and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The Internet checksum (RFC 1071), not yet folded. Datagrams are too short to overflow it.
#[derive(Clone, Copy, Debug)]
struct Sum(u32);

impl Sum {
    /// Adds bytes; only the last ones added may be of odd number.
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let second = pair.get(1).copied().unwrap_or(0);
            self.0 += u32::from(u16::from_be_bytes([pair[0], second]));
        }
    }

    fn complement(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !((sum & 0xffff) as u16)
    }
}
