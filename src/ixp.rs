//! The vocabulary of an exchange: the words of IXP Manager as types, without logic.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// An Ethernet address, in the low 48 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(u64);

impl Mac {
    /// The address ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac(0xffff_ffff_ffff);

    /// From the six octets of a frame, in the order of transmission.
    #[inline]
    pub const fn from_octets(octets: [u8; 6]) -> Mac {
        let [a, b, c, d, e, f] = octets;
        Mac(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// From the low 48 bits; the others are left out.
    #[inline]
    pub const fn from_bits(bits: u64) -> Mac {
        Mac(bits & 0xffff_ffff_ffff)
    }

    /// The six octets in the order of transmission.
    pub const fn octets(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// The address as a number below 2^48.
    #[inline]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The group bit (IEEE 802, the lowest bit of the first octet): multicast and broadcast.
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0 >> 40 & 1 == 1
    }
}

/// The text is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 12 hexadecimal digits, with or without separators (: - .)")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    /// Accepts 12 hexadecimal digits of either case, with `:`, `-` or `.` between them.
    fn from_str(text: &str) -> Result<Mac, MacError> {
        let mut value = 0u64;
        let mut digits = 0;
        for character in text.chars() {
            match character.to_digit(16) {
                Some(digit) if digits < 12 => {
                    value = value << 4 | u64::from(digit);
                    digits += 1;
                }
                None if matches!(character, ':' | '-' | '.') => {}
                _ => return Err(MacError),
            }
        }
        if digits == 12 { Ok(Mac(value)) } else { Err(MacError) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    /// As it is printed.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An 802.1Q VLAN id, 1 to 4094, or none.
///
/// 0 (a priority tag), 4095 (reserved) and everything that does not fit into 12 bits, as
/// 0xffffffff in an extended switch record, mean "absent".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct VlanTag(u16);

impl VlanTag {
    /// No VLAN: an untagged frame; the key `""` of the MAC table.
    pub const NONE: VlanTag = VlanTag(0);

    /// The VLAN of a number off the wire or out of the table.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "below 4095")]
    pub const fn new(number: u32) -> VlanTag {
        if number < 4095 { VlanTag(number as u16) } else { VlanTag::NONE }
    }

    /// Whether a VLAN is named.
    #[inline]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// The number, 0 for none.
    #[inline]
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for VlanTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The database id of an infrastructure, one switching fabric of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct InfrastructureId(pub u32);

/// The database id of a VLAN interface: a member's presence on a VLAN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct VliId(pub u32);

/// The IP protocol of a frame, by its EtherType.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IpProtocol {
    /// EtherType 0x0800.
    V4 = 0,
    /// EtherType 0x86dd.
    V6 = 1,
}

impl IpProtocol {
    /// Both, in the order of the RRD tree.
    pub const ALL: [IpProtocol; 2] = [IpProtocol::V4, IpProtocol::V6];

    /// By EtherType.
    #[inline]
    pub const fn from_ether_type(ether_type: u32) -> Option<IpProtocol> {
        match ether_type {
            0x0800 => Some(IpProtocol::V4),
            0x86dd => Some(IpProtocol::V6),
            _ => None,
        }
    }

    /// The name in the RRD tree.
    pub const fn name(self) -> &'static str {
        match self {
            IpProtocol::V4 => "ipv4",
            IpProtocol::V6 => "ipv6",
        }
    }
}

/// What a file measures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unit {
    /// Bytes per second.
    Bytes = 0,
    /// Packets per second.
    Packets = 1,
}

impl Unit {
    /// Both, in the order of the RRD tree.
    pub const ALL: [Unit; 2] = [Unit::Bytes, Unit::Packets];

    /// The name in the RRD tree.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Packets => "pkts",
        }
    }
}

/// One line of IXP Manager's MAC table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MacRecord {
    /// The infrastructure that the VLAN is on.
    pub infrastructure: InfrastructureId,
    /// The VLAN's tag; none for a VLI without a VLAN.
    pub vlan: VlanTag,
    /// The address of the member's router.
    pub mac: Mac,
    /// The member's VLAN interface.
    pub vli: VliId,
}

/// A prefix of IP addresses, as `192.0.2.0/24` or `2001:db8::/32`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

/// The text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a prefix as 192.0.2.0/24 or 2001:db8::/32, without host bits, or an address")]
pub struct IpPrefixError;

/// The address as the upper bits of 128, whatever its family.
fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl IpPrefix {
    /// Whether `address` is in the prefix; an IPv4 address is never in an IPv6 prefix.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        let difference = address_bits(self.address) ^ address_bits(address);
        self.address.is_ipv4() == address.is_ipv4()
            && difference.leading_zeros() >= u32::from(self.length)
    }
}

impl FromStr for IpPrefix {
    type Err = IpPrefixError;

    /// A bare address is a prefix of its full length.
    fn from_str(text: &str) -> Result<IpPrefix, IpPrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| IpPrefixError)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse().map_err(|_| IpPrefixError)?,
            None => longest,
        };
        if length > longest {
            return Err(IpPrefixError);
        }
        let network_bits = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        if address_bits(address) & !network_bits != 0 {
            return Err(IpPrefixError);
        }
        Ok(IpPrefix { address, length })
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_texts_of_every_vendor_are_one_address() {
        let mac = Mac::from_octets([0x00, 0x1c, 0x73, 0xab, 0x0c, 0xff]);
        for text in ["001c73ab0cff", "00:1c:73:AB:0c:FF", "001c.73ab.0cff", "00-1C-73-AB-0C-FF"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        for text in ["", "001c73ab0cf", "001c73ab0cff0", "001c73ab0cfg", "00 1c73ab0cff"] {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
        assert_eq!(mac.to_string(), "00:1c:73:ab:0c:ff");
        assert_eq!(Mac::from_octets(mac.octets()), mac);
    }

    #[test]
    fn group_bit_is_the_lowest_of_the_first_octet() {
        assert!(Mac::BROADCAST.is_group());
        assert!(Mac::from_octets([0x33, 0x33, 0, 0, 0, 1]).is_group());
        assert!(!Mac::from_octets([0x02, 0xff, 0xff, 0xff, 0xff, 0xff]).is_group());
    }

    #[test]
    fn vlan_numbers_that_mean_absent() {
        for number in [0, 4095, 4096, 5000, u32::MAX] {
            assert!(!VlanTag::new(number).is_some(), "{number}");
        }
        for number in [1, 10, 4094] {
            assert_eq!(u32::from(VlanTag::new(number).as_u16()), number);
        }
    }

    #[test]
    fn prefixes() {
        let contains = |prefix: &str, address: &str| {
            prefix.parse::<IpPrefix>().unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("192.0.2.0/24", "192.0.2.255"));
        assert!(!contains("192.0.2.0/24", "192.0.3.0"));
        assert!(contains("192.0.2.1", "192.0.2.1"));
        assert!(!contains("192.0.2.1", "192.0.2.2"));
        assert!(contains("0.0.0.0/0", "198.51.100.1"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("2001:db8::/33", "2001:db8:7fff::1"));
        assert!(!contains("2001:db8::/33", "2001:db8:8000::"));
        assert!(!contains("::/0", "192.0.2.1"));
        assert!(!contains("2001:db8::/32", "2001:db9::"));
        let refused =
            ["", "/", "192.0.2.1/24", "192.0.2.0/33", "::1/127", "::/129", "1/8", "::/x", "::/-1"];
        for text in refused {
            assert_eq!(text.parse::<IpPrefix>(), Err(IpPrefixError), "{text}");
        }
        for text in ["192.0.2.0/24", "2001:db8::/33", "0.0.0.0/0", "::1/128"] {
            assert_eq!(text.parse::<IpPrefix>().unwrap().to_string(), text);
        }
    }
}
