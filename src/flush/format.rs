//! How intervals look on disk.
//!
//! ```text
//! struct file {                     all numbers little-endian
//!    opaque magic[8];               "IXFLOWIV", or another kind's
//!    u32 version;                   2; 1 is read
//!    u32 checksum;                  CRC-32 of length and body
//!    u64 length;                    of the body, in bytes
//!    opaque body[length];
//! }
//!
//! struct interval {                 the body of a file "IXFLOWIV"
//!    u64 from_secs; u64 to_secs; u8 after_hole;
//!    u32 lans; { u32 infrastructure; u16 vlan; u32 vlis; u32 vli[vlis]; }[lans]
//!    u64 pairs; { u32 source; u32 destination; u64 bytes[2]; u64 packets[2]; u32 samples[2]; }[pairs]
//!    u32 vlans;
//!    { u16 vlan; u32 infrastructure; u64 bytes[2]; u64 packets[2]; u32 samples[2]; }[vlans]
//! }
//!
//! struct saved {                    the body of a file "IXFLOWSV"
//!    u64 covered_to_secs; u64 acknowledged_to_secs;
//!    u32 intervals; struct interval interval[intervals];
//! }
//! ```
//!
//! An infrastructure of 2^32-1 behind a VLAN is one that is not known: version 1 had none there.
//!
//! Readers take what a power cut, a full disk or another program can leave: whatever is not whole
//! and right is an error that says why.

use super::{Interval, PairTraffic, VlanTraffic};
use crate::count::Traffic;
use crate::ixp::{InfrastructureId, VlanTag, VliId};
use crate::resolve::Lan;

/// The version of the files that are written.
pub const VERSION: u32 = 2;

/// Bytes of a file at the most: 40 million pairs.
pub const FILE_BYTES_MAX: u64 = 2 << 30;

/// Seconds that an interval can be long: a file of more was not written by ixflow.
const INTERVAL_SECS_MAX: u64 = 86_400;

const HEADER_BYTES: usize = 24;
const PAIR_BYTES: usize = 48;
const VLAN_BYTES_MIN: usize = 42;
const INTERVAL_BYTES_MIN: usize = 33;

/// Stands for an infrastructure that is not known; it is nobody's (IXP Manager counts up from 1).
const NO_INFRASTRUCTURE: u32 = u32::MAX;

/// What a file is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kind {
    magic: [u8; 8],
    /// For people.
    name: &'static str,
}

const INTERVAL: Kind = Kind { magic: *b"IXFLOWIV", name: "an interval of ixflow" };
const SAVED: Kind = Kind { magic: *b"IXFLOWSV", name: "the saved counts of ixflow" };

/// What a restart must know.
#[derive(Clone, PartialEq, Debug)]
pub struct Saved {
    /// End of what was counted, in seconds since 1970: that of the last interval there is, those
    /// below included.
    pub covered_to_secs: u64,
    /// End of the last interval that the sink took, in seconds since 1970; 0 if there was none.
    pub acknowledged_to_secs: u64,
    /// What was counted since the last boundary: the open step so far, and rarely the one before.
    pub open: Vec<Interval>,
}

/// Why a file cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// It does not begin as it must.
    #[error("not {0}")]
    Foreign(&'static str),
    /// It is of an ixflow that came later.
    #[error("version {0}, of a newer ixflow: expected up to {VERSION}")]
    Newer(u32),
    /// It ends too early, or goes on behind its end.
    #[error("{found} bytes: expected {expected}")]
    Length {
        /// What it says of itself.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// Its bytes are not those that were written.
    #[error("the checksum is wrong: it was damaged")]
    Checksum,
    /// The checksum is right, and the content cannot be.
    #[error("{0}")]
    Content(&'static str),
}

/// A whole file of one interval.
pub fn encode(interval: &Interval) -> Vec<u8> {
    let mut body = Vec::new();
    push_interval(&mut body, interval);
    seal(INTERVAL, &body)
}

/// Reads a whole file of one interval.
///
/// # Errors
///
/// It is none, or damaged, or of a newer version.
pub fn decode(bytes: &[u8]) -> Result<Interval, Unreadable> {
    let mut reader = unseal(INTERVAL, bytes)?;
    let interval = take_interval(&mut reader)?;
    reader.end()?;
    Ok(interval)
}

/// A whole file of saved counts.
pub fn encode_saved(saved: &Saved) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&saved.covered_to_secs.to_le_bytes());
    body.extend_from_slice(&saved.acknowledged_to_secs.to_le_bytes());
    body.extend_from_slice(&length(saved.open.len()).to_le_bytes());
    saved.open.iter().for_each(|interval| push_interval(&mut body, interval));
    seal(SAVED, &body)
}

/// Reads a whole file of saved counts.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_saved(bytes: &[u8]) -> Result<Saved, Unreadable> {
    let mut reader = unseal(SAVED, bytes)?;
    let (covered_to_secs, acknowledged_to_secs) = (reader.u64()?, reader.u64()?);
    let open = u64::from(reader.u32()?);
    let open: Vec<Interval> = (0..reader.count(open, INTERVAL_BYTES_MIN)?)
        .map(|_| take_interval(&mut reader))
        .collect::<Result<_, _>>()?;
    reader.end()?;
    if !open.is_sorted_by(|one, next| one.to_secs <= next.from_secs) {
        return Err(Unreadable::Content("intervals that overlap"));
    }
    if open.last().is_some_and(|last| last.to_secs != covered_to_secs) {
        return Err(Unreadable::Content("it ends elsewhere than its intervals"));
    }
    Ok(Saved { covered_to_secs, acknowledged_to_secs, open })
}

/// Puts the header before a body.
fn seal(kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&kind.magic);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&checksum(&length, body).to_le_bytes());
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(body);
    bytes
}

/// The body of a file, if it is whole.
fn unseal(kind: Kind, bytes: &[u8]) -> Result<Reader<'_>, Unreadable> {
    let mut header = Reader { bytes, version: 0 };
    let foreign = || Unreadable::Foreign(kind.name);
    if header.take::<8>().map_err(|_| foreign())? != kind.magic {
        return Err(foreign());
    }
    let cut = |_| Unreadable::Length { expected: HEADER_BYTES as u64, found: bytes.len() as u64 };
    let version = header.u32().map_err(cut)?;
    if version > VERSION {
        return Err(Unreadable::Newer(version));
    }
    let expected_checksum = header.u32().map_err(cut)?;
    let length = header.take::<8>().map_err(cut)?;
    let body = header.bytes;
    let expected = u64::from_le_bytes(length);
    if expected != body.len() as u64 {
        let whole = expected.saturating_add(HEADER_BYTES as u64);
        return Err(Unreadable::Length { expected: whole, found: bytes.len() as u64 });
    }
    if version == 0 || checksum(&length, body) != expected_checksum {
        return Err(Unreadable::Checksum);
    }
    Ok(Reader { bytes: body, version })
}

fn checksum(length: &[u8; 8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(body);
    hasher.finalize()
}

/// Takes numbers off the front of a slice.
struct Reader<'a> {
    bytes: &'a [u8],
    /// Of the file.
    version: u32,
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (first, rest) =
            self.bytes.split_first_chunk().ok_or(Unreadable::Content("it ends too early"))?;
        self.bytes = rest;
        Ok(*first)
    }

    fn u16(&mut self) -> Result<u16, Unreadable> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Unreadable> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Unreadable> {
        self.take().map(u64::from_le_bytes)
    }

    /// A number of things of `bytes` each that follow: no more than there is room for.
    fn count(&mut self, number: u64, bytes: usize) -> Result<usize, Unreadable> {
        usize::try_from(number)
            .ok()
            .filter(|&count| count <= self.bytes.len() / bytes)
            .ok_or(Unreadable::Content("it announces more than it holds"))
    }

    fn end(&self) -> Result<(), Unreadable> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Unreadable::Content("something follows")) }
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a table's lists are shorter: CELLS_MAX, LANS_MAX")
}

/// Appends an interval.
fn push_interval(out: &mut Vec<u8>, interval: &Interval) {
    out.reserve(64 + interval.pairs.len() * PAIR_BYTES);
    out.extend_from_slice(&interval.from_secs.to_le_bytes());
    out.extend_from_slice(&interval.to_secs.to_le_bytes());
    out.push(u8::from(interval.after_hole));
    out.extend_from_slice(&length(interval.lans.len()).to_le_bytes());
    for lan in interval.lans.iter() {
        out.extend_from_slice(&lan.infrastructure.0.to_le_bytes());
        out.extend_from_slice(&lan.vlan.as_u16().to_le_bytes());
        out.extend_from_slice(&length(lan.vlis.len()).to_le_bytes());
        lan.vlis.iter().for_each(|vli| out.extend_from_slice(&vli.0.to_le_bytes()));
    }
    out.extend_from_slice(&(interval.pairs.len() as u64).to_le_bytes());
    for PairTraffic { source, destination, traffic } in &interval.pairs {
        out.extend_from_slice(&source.0.to_le_bytes());
        out.extend_from_slice(&destination.0.to_le_bytes());
        push_traffic(out, traffic);
    }
    out.extend_from_slice(&length(interval.vlans.len()).to_le_bytes());
    for VlanTraffic { vlan, infrastructure, traffic } in &interval.vlans {
        out.extend_from_slice(&vlan.as_u16().to_le_bytes());
        let infrastructure = infrastructure.map_or(NO_INFRASTRUCTURE, |id| id.0);
        out.extend_from_slice(&infrastructure.to_le_bytes());
        push_traffic(out, traffic);
    }
}

fn push_traffic(out: &mut Vec<u8>, traffic: &Traffic) {
    let Traffic { bytes, packets, samples } = traffic;
    bytes.iter().chain(packets).for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    samples.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
}

fn take_traffic(reader: &mut Reader<'_>) -> Result<Traffic, Unreadable> {
    let bytes = [reader.u64()?, reader.u64()?];
    let packets = [reader.u64()?, reader.u64()?];
    let samples = [reader.u32()?, reader.u32()?];
    Ok(Traffic { bytes, packets, samples })
}

fn take_vlan(reader: &mut Reader<'_>) -> Result<VlanTag, Unreadable> {
    let number = reader.u16()?;
    let vlan = VlanTag::new(u32::from(number));
    if vlan.as_u16() == number { Ok(vlan) } else { Err(Unreadable::Content("no VLAN tag")) }
}

/// Takes an interval; one that ixflow can have written.
fn take_interval(reader: &mut Reader<'_>) -> Result<Interval, Unreadable> {
    let (from_secs, to_secs) = (reader.u64()?, reader.u64()?);
    if !to_secs.checked_sub(from_secs).is_some_and(|secs| (1..=INTERVAL_SECS_MAX).contains(&secs)) {
        return Err(Unreadable::Content("an interval that takes no time, or more than a day"));
    }
    let after_hole = match reader.take::<1>()? {
        [0] => false,
        [1] => true,
        _ => return Err(Unreadable::Content("neither after a hole nor not")),
    };
    let lans = u64::from(reader.u32()?);
    let lans = (0..reader.count(lans, 10)?).map(|_| {
        let infrastructure = InfrastructureId(reader.u32()?);
        let vlan = take_vlan(reader)?;
        let vlis = u64::from(reader.u32()?);
        let vlis: Vec<VliId> = (0..reader.count(vlis, 4)?)
            .map(|_| reader.u32().map(VliId))
            .collect::<Result<_, _>>()?;
        if !vlis.is_sorted_by(|one, next| one < next) {
            return Err(Unreadable::Content("VLIs out of order"));
        }
        Ok(Lan { infrastructure, vlan, vlis })
    });
    let lans: Vec<Lan> = lans.collect::<Result<_, _>>()?;
    let pairs = reader.u64()?;
    let pairs = (0..reader.count(pairs, PAIR_BYTES)?).map(|_| {
        let (source, destination) = (VliId(reader.u32()?), VliId(reader.u32()?));
        Ok(PairTraffic { source, destination, traffic: take_traffic(reader)? })
    });
    let pairs: Vec<PairTraffic> = pairs.collect::<Result<_, _>>()?;
    let key = |pair: &PairTraffic| (pair.source, pair.destination);
    if !pairs.is_sorted_by(|one, next| key(one) < key(next)) {
        return Err(Unreadable::Content("pairs out of order"));
    }
    let vlans = u64::from(reader.u32()?);
    let vlans = (0..reader.count(vlans, VLAN_BYTES_MIN)?).map(|_| {
        let vlan = take_vlan(reader)?;
        let infrastructure = if reader.version == 1 { NO_INFRASTRUCTURE } else { reader.u32()? };
        let infrastructure =
            (infrastructure != NO_INFRASTRUCTURE).then_some(InfrastructureId(infrastructure));
        Ok(VlanTraffic { vlan, infrastructure, traffic: take_traffic(reader)? })
    });
    let vlans: Vec<VlanTraffic> = vlans.collect::<Result<_, _>>()?;
    let key = |vlan: &VlanTraffic| (vlan.vlan, vlan.infrastructure);
    if !vlans.is_sorted_by(|one, next| key(one) < key(next)) {
        return Err(Unreadable::Content("VLANs out of order"));
    }
    Ok(Interval { from_secs, to_secs, after_hole, lans: lans.into(), pairs, vlans })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn traffic() -> impl Strategy<Value = Traffic> {
        any::<([u64; 2], [u64; 2], [u32; 2])>().prop_map(|(bytes, packets, samples)| Traffic {
            bytes,
            packets,
            samples,
        })
    }

    fn lan() -> impl Strategy<Value = Lan> {
        (any::<u32>(), 0u32..4_095, prop::collection::btree_set(any::<u32>(), 0..5)).prop_map(
            |(infrastructure, vlan, vlis)| Lan {
                infrastructure: InfrastructureId(infrastructure),
                vlan: VlanTag::new(vlan),
                vlis: vlis.into_iter().map(VliId).collect(),
            },
        )
    }

    prop_compose! {
        fn intervals()(
            from_secs in 0u64..1 << 40,
            secs in 1..=INTERVAL_SECS_MAX,
            after_hole: bool,
            lans in prop::collection::vec(lan(), 0..4),
            pairs in prop::collection::btree_map(any::<(u32, u32)>(), traffic(), 0..9),
            vlans in
                prop::collection::btree_map((0u32..4_095, any::<Option<u32>>()), traffic(), 0..3),
        ) -> Interval {
            let pairs = pairs.into_iter().map(|((source, destination), traffic)| PairTraffic {
                source: VliId(source),
                destination: VliId(destination),
                traffic,
            });
            let to_secs = from_secs + secs;
            let vlans = vlans
                .into_iter()
                .map(|((vlan, infrastructure), traffic)| VlanTraffic {
                    vlan: VlanTag::new(vlan),
                    infrastructure: infrastructure
                        .filter(|&id| id != NO_INFRASTRUCTURE)
                        .map(InfrastructureId),
                    traffic,
                });
            let (pairs, vlans) = (pairs.collect(), vlans.collect());
            Interval { from_secs, to_secs, after_hole, lans: lans.into(), pairs, vlans }
        }
    }

    proptest! {
        #[test]
        fn intervals_come_back(interval in intervals()) {
            prop_assert_eq!(decode(&encode(&interval)), Ok(interval));
        }

        /// A power cut, or a disk that lies: at every byte.
        #[test]
        fn nothing_that_is_torn_or_flipped_is_taken(interval in intervals(), bit: prop::sample::Index) {
            let whole = encode(&interval);
            for length in 0..whole.len() {
                prop_assert!(decode(&whole[..length]).is_err());
            }
            let mut longer = whole.clone();
            longer.push(0);
            prop_assert!(decode(&longer).is_err());
            let mut flipped = whole;
            let bit = bit.index(flipped.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&flipped).is_err());
        }

        #[test]
        fn saved_counts_come_back_or_not_at_all(interval in intervals(), bit: prop::sample::Index) {
            let saved = Saved {
                covered_to_secs: interval.to_secs,
                acknowledged_to_secs: interval.from_secs,
                open: vec![interval],
            };
            let whole = encode_saved(&saved);
            prop_assert_eq!(decode_saved(&whole), Ok(saved));
            prop_assert_eq!(decode(&whole), Err(Unreadable::Foreign(INTERVAL.name)));
            for length in 0..whole.len() {
                prop_assert!(decode_saved(&whole[..length]).is_err());
            }
            let mut flipped = whole;
            let bit = bit.index(flipped.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_saved(&flipped).is_err());
        }
    }

    fn example() -> Interval {
        let traffic = Traffic { bytes: [1_518, 64], packets: [2, 1], samples: [1, 1] };
        let lan = Lan {
            infrastructure: InfrastructureId(1),
            vlan: VlanTag::new(10),
            vlis: vec![VliId(7)],
        };
        Interval {
            from_secs: 300,
            to_secs: 600,
            after_hole: true,
            lans: [lan].into(),
            pairs: vec![PairTraffic { source: VliId(7), destination: VliId(8), traffic }],
            vlans: vec![VlanTraffic {
                vlan: VlanTag::new(10),
                infrastructure: Some(InfrastructureId(1)),
                traffic,
            }],
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// Files as they are on disks: these bytes must be read by every later version.
    #[test]
    fn every_version_is_read() {
        let mut of_version_1 = example();
        of_version_1.vlans[0].infrastructure = None;
        assert_eq!(decode(&bytes(include_str!("version_1.hex"))), Ok(of_version_1.clone()));
        // What waits on disk over an upgrade is written, and read, again.
        assert_eq!(decode(&encode(&of_version_1)), Ok(of_version_1));
        let version_2 = bytes(include_str!("version_2.hex"));
        assert_eq!(decode(&version_2), Ok(example()));
        assert_eq!(encode(&example()), version_2);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let whole = encode(&example());
        let refused = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert_eq!(refused(b""), "not an interval of ixflow");
        assert_eq!(refused(b"<html>, and so on"), "not an interval of ixflow");
        let mut newer = whole.clone();
        newer[8] = 3;
        assert_eq!(refused(&newer), "version 3, of a newer ixflow: expected up to 2");
        let length = whole.len();
        let cut = refused(&whole[..length - 1]);
        assert_eq!(cut, format!("{} bytes: expected {length}", length - 1));
        let mut flipped = whole;
        flipped[length - 1] ^= 1;
        assert_eq!(refused(&flipped), "the checksum is wrong: it was damaged");
        // Whole, but impossible: counts are not believed, nor allocated.
        let mut body = vec![0; 16];
        body[8] = 1;
        body.extend_from_slice(&[0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(refused(&seal(INTERVAL, &body)), "it announces more than it holds");
        assert_eq!(
            refused(&seal(INTERVAL, &[0; 40])),
            "an interval that takes no time, or more than a day"
        );
    }
}
