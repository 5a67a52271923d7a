//! sFlow v5 from the wire: a datagram becomes flow samples and counters samples.
//!
//! A datagram is read by declared length: first the sample is taken, then the record, and only
//! then what is inside. A fault therefore costs the sample that has it, and neither its
//! neighbours nor the samples before it. Whatever is announced ends as exactly one of: handed to
//! the visitor, refused under a [`Loss`], or skipped because its format is not one that ixflow
//! reads.
//!
//! Reading never panics, never allocates, and takes time in proportion to the datagram's length,
//! whatever its counts claim: every turn of a loop consumes at least 8 bytes.
//!
//! # Layout
//!
//! All numbers are 32 bits wide, big-endian, and everything is padded to 4 bytes (XDR, RFC 4506).
//! A datagram's samples and a sample's records share one form: a data format (20 bits enterprise,
//! 12 bits format), a length in bytes, and as many bytes. The length does not count the padding,
//! and real agents leave the padding of the very last one out.
//!
//! "Section 5" below is that of sFlow Version 5, sflow.org, July 2004.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nom::bytes::complete::take;
use nom::error::{ErrorKind, ParseError};
use nom::number::complete::be_u128;
use nom::{IResult, Parser};

use crate::ixp::Mac;
use crate::loss::Loss;

pub mod ethernet;

/// The version that is read.
const VERSION: u32 = 5;

/// How many samples are believed to be announced: the longest UDP datagram over IPv4 (65507
/// bytes) holds no more, at 8 bytes for an empty one.
pub const SAMPLES_MAX: u32 = 65_507 / 8;

/// Formats of samples (section 5, enterprise 0).
mod sample_format {
    pub(super) const FLOW: u32 = 1;
    pub(super) const COUNTERS: u32 = 2;
    pub(super) const FLOW_EXPANDED: u32 = 3;
    pub(super) const COUNTERS_EXPANDED: u32 = 4;
    /// sFlow Dropped Packet Notification Structures, struct discarded_packet.
    pub(super) const DISCARDED_PACKET: u32 = 5;
}

/// Formats of flow records (section 5, enterprise 0).
mod record_format {
    pub(super) const RAW_PACKET_HEADER: u32 = 1;
    pub(super) const SAMPLED_ETHERNET: u32 = 2;
    pub(super) const EXTENDED_SWITCH: u32 = 1001;
}

/// Formats of counter records (section 5.3, enterprise 0).
mod counter_format {
    pub(super) const GENERIC_INTERFACE: u32 = 1;
}

/// The header of a datagram (sFlow v5, section 5, union sample_datagram_type and struct
/// sample_datagram_v5), without its samples.
///
/// ```text
/// unsigned int version;            5
/// address agent_address;           1 and 4 bytes, or 2 and 16 bytes
/// unsigned int sub_agent_id;
/// unsigned int sequence_number;
/// unsigned int uptime;
/// sample_record samples<>;         the count, then the samples
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatagramHeader {
    /// Address of the agent, which need not be the datagram's source address.
    pub agent_address: IpAddr,
    /// Distinguishes datagram streams of one agent.
    pub sub_agent_id: u32,
    /// Counts the datagrams of a sub-agent.
    pub sequence_number: u32,
    /// Milliseconds since the agent started.
    pub uptime_millis: u32,
    /// How many samples the datagram announces.
    pub sample_count: u32,
}

/// A datagram whose header was read.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The header.
    pub header: DatagramHeader,
    samples: &'a [u8],
}

/// Where a sample was taken (sFlow v5, section 5, typedef sflow_data_source and struct
/// sflow_data_source_expanded).
///
/// The compact form has the class in the top 8 bits and the index in the other 24.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DataSource {
    /// 0: ifIndex, 1: smonVlanDataSource, 2: entPhysicalEntry.
    pub class: u32,
    /// The index within the class.
    pub index: u32,
}

impl DataSource {
    /// Class and index as one number, the key of tables.
    #[inline]
    pub const fn as_u64(self) -> u64 {
        (self.class as u64) << 32 | self.index as u64
    }

    /// The reverse of [`DataSource::as_u64`].
    #[expect(clippy::cast_possible_truncation, reason = "each half is taken for itself")]
    pub const fn from_u64(number: u64) -> DataSource {
        DataSource { class: (number >> 32) as u32, index: number as u32 }
    }
}

/// An input or output interface (sFlow v5, section 5, typedef interface and struct
/// interface_expanded).
///
/// The compact form has the format in the top 2 bits and the value in the other 30.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// 0: `value` is an ifIndex, 1: discarded with reason `value`, 2: `value` interfaces.
    pub format: u32,
    /// By format; 0x3fffffff as ifIndex: the device itself.
    pub value: u32,
}

/// The raw packet header (sFlow v5, section 5, struct sampled_header).
///
/// ```text
/// header_protocol protocol;
/// unsigned int frame_length;
/// unsigned int stripped;
/// opaque header<>;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawPacketHeader<'a> {
    /// 1: Ethernet (enum header_protocol).
    pub protocol: u32,
    /// Original length of the frame in bytes, FCS included.
    pub frame_length_bytes: u32,
    /// Bytes removed from the frame before sampling.
    pub stripped_bytes: u32,
    /// The first bytes of the frame.
    pub header: &'a [u8],
}

/// Ethernet frame data (sFlow v5, section 5, struct sampled_ethernet).
///
/// ```text
/// unsigned int length;
/// mac src_mac;                     6 bytes, padded to 8
/// mac dst_mac;
/// unsigned int type;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SampledEthernet {
    /// Length of the frame in bytes.
    pub frame_length_bytes: u32,
    /// Source address.
    pub source: Mac,
    /// Destination address.
    pub destination: Mac,
    /// The EtherType.
    pub ether_type: u32,
}

/// The VLANs of a bridge (sFlow v5, section 5, struct extended_switch), without the priorities.
///
/// ```text
/// unsigned int src_vlan;
/// unsigned int src_priority;
/// unsigned int dst_vlan;
/// unsigned int dst_priority;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtendedSwitch {
    /// VLAN id of the incoming frame.
    pub source_vlan: u32,
    /// VLAN id of the outgoing frame.
    pub destination_vlan: u32,
}

/// A flow sample (sFlow v5, section 5, struct flow_sample and struct flow_sample_expanded), with
/// the records that ixflow reads; of several records of one kind the first counts.
///
/// ```text
/// unsigned int sequence_number;
/// sflow_data_source source_id;     1 word, 2 if expanded
/// unsigned int sampling_rate;
/// unsigned int sample_pool;
/// unsigned int drops;
/// interface input;                 1 word, 2 if expanded
/// interface output;
/// flow_record flow_records<>;      the count, then the records
/// ```
///
/// The fixed fields are read out of the datagram when they are asked for: a sample that holds all
/// of them would not fit into registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowSample<'a> {
    fixed: Fixed<'a>,
    /// Record 1.
    pub raw_packet_header: Option<RawPacketHeader<'a>>,
    /// Record 2.
    pub sampled_ethernet: Option<SampledEthernet>,
    /// Record 1001.
    pub extended_switch: Option<ExtendedSwitch>,
}

/// A number as it stands in a datagram.
type Word = [u8; 4];

/// The fixed fields of a flow sample, up to the number of its records, in either form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fixed<'a> {
    /// struct flow_sample.
    Compact(&'a [Word; 8]),
    /// struct flow_sample_expanded.
    Expanded(&'a [Word; 11]),
}

/// A counters sample (sFlow v5, section 5, struct counters_sample and struct
/// counters_sample_expanded), with the record that ixflow reads; of several the first counts.
///
/// ```text
/// unsigned int sequence_number;
/// sflow_data_source source_id;     1 word, 2 if expanded
/// counter_record counters<>;       the count, then the records
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountersSample {
    /// Counts the counters samples of the data source.
    pub sequence_number: u32,
    /// What was counted.
    pub data_source: DataSource,
    /// Record 1.
    pub interface: Option<InterfaceCounters>,
}

/// Generic interface counters (sFlow v5, section 5.3, struct if_counters; RFC 2233), as they
/// stand in the sample: they count up from an unknown start, and wrap at their width. The largest
/// number stands for "not known" (section 5.3).
///
/// ```text
/// unsigned int ifIndex;
/// unsigned int ifType;
/// unsigned hyper ifSpeed;
/// unsigned int ifDirection;
/// unsigned int ifStatus;           bit 0: ifAdminStatus, bit 1: ifOperStatus
/// unsigned hyper ifInOctets;
/// unsigned int ifInUcastPkts;
/// unsigned int ifInMulticastPkts;
/// unsigned int ifInBroadcastPkts;
/// unsigned int ifInDiscards;
/// unsigned int ifInErrors;
/// unsigned int ifInUnknownProtos;
/// unsigned hyper ifOutOctets;
/// unsigned int ifOutUcastPkts;
/// unsigned int ifOutMulticastPkts;
/// unsigned int ifOutBroadcastPkts;
/// unsigned int ifOutDiscards;
/// unsigned int ifOutErrors;
/// unsigned int ifPromiscuousMode;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceCounters {
    /// The port.
    pub if_index: u32,
    /// What it is (IANAifType-MIB): 6 Ethernet, 161 a LAG.
    pub if_type: u32,
    /// Its speed in bit/s.
    pub speed_bits: u64,
    /// Whether it is up (ifOperStatus).
    pub is_up: bool,
    /// What came in.
    pub received: PortCounters,
    /// What went out.
    pub sent: PortCounters,
}

/// One direction of a port's counters.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortCounters {
    /// Bytes of the frames, FCS included (RFC 2233, ifInOctets: framing characters included).
    pub octets: u64,
    /// Packets to one address.
    pub unicast_packets: u32,
    /// Packets to a group.
    pub multicast_packets: u32,
    /// Packets to everyone.
    pub broadcast_packets: u32,
}

/// Takes what a datagram holds, in its order.
pub trait Visitor {
    /// A flow sample, whole.
    fn flow_sample(&mut self, sample: &FlowSample<'_>);

    /// A counters sample.
    fn counters_sample(&mut self, sample: &CountersSample);

    /// A sample that could not be read or reports a discarded packet, or `times` samples that are
    /// announced and not there.
    fn refused(&mut self, loss: Loss, times: u64);
}

impl<'a> Datagram<'a> {
    /// Reads the header: struct sample_datagram_v5 up to its samples.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Datagram<'a>, Loss> {
        let (rest, [version]) = words(bytes).map_err(datagram_truncated)?;
        if version != VERSION {
            return Err(wrong_version());
        }
        let (rest, [address_type]) = words(rest).map_err(datagram_truncated)?;
        let (rest, agent_address) = match address_type {
            1 => words.map(|[bits]| Ipv4Addr::from_bits(bits).into()).parse(rest),
            2 => be_u128.map(|bits| Ipv6Addr::from_bits(bits).into()).parse(rest),
            _ => return Err(bad_agent_address()),
        }
        .map_err(datagram_truncated)?;
        let (samples, [sub_agent_id, sequence_number, uptime_millis, sample_count]) =
            words(rest).map_err(datagram_truncated)?;
        let header = DatagramHeader {
            agent_address,
            sub_agent_id,
            sequence_number,
            uptime_millis,
            sample_count,
        };
        Ok(Datagram { header, samples })
    }

    /// Walks the samples, in the order of the datagram.
    ///
    /// Bytes behind the last announced sample are no sample and no fault: real agents leave some.
    #[inline]
    pub fn visit(&self, visitor: &mut impl Visitor) {
        let mut rest = self.samples;
        for left in (1..=self.header.sample_count.min(SAMPLES_MAX)).rev() {
            let Ok((behind, (format, sample))) = block(rest) else {
                return refuse_rest(rest, left, visitor);
            };
            rest = behind;
            // A way for each form: where they meet, a sample would go through memory.
            match format {
                sample_format::FLOW => {
                    if let Some(flow) = usual_flow(sample_format::FLOW, sample) {
                        visitor.flow_sample(&flow);
                        continue;
                    }
                }
                sample_format::FLOW_EXPANDED => {
                    if let Some(flow) = usual_flow(sample_format::FLOW_EXPANDED, sample) {
                        visitor.flow_sample(&flow);
                        continue;
                    }
                }
                _ => {}
            }
            visit_sample(format, sample, visitor);
        }
    }
}

/// The error of a parser: the input ends too early, the only fault that XDR knows. Who asked
/// knows which [`Loss`] that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Short;

impl ParseError<&[u8]> for Short {
    #[inline]
    fn from_error_kind(_: &[u8], _: ErrorKind) -> Short {
        Short
    }

    #[inline]
    fn append(_: &[u8], _: ErrorKind, other: Short) -> Short {
        other
    }
}

/// What a parser returns: the rest of the input and what was read.
type Read<'a, T> = IResult<&'a [u8], T, Short>;

/// N numbers. They are taken as one: a check of the length for each would double the time of a
/// sample.
#[inline]
fn words<const N: usize>(input: &[u8]) -> Read<'_, [u32; N]> {
    let (rest, bytes) = take(4 * N)(input)?;
    let (words, _) = bytes.as_chunks::<4>();
    Ok((rest, std::array::from_fn(|index| u32::from_be_bytes(words[index]))))
}

/// A data format and the bytes behind it: struct sample_record and struct flow_record.
#[inline]
fn block(input: &[u8]) -> Read<'_, (u32, &[u8])> {
    let (rest, [format, length]) = words(input)?;
    let length = length as usize;
    let data = rest.get(..length).ok_or(nom::Err::Error(Short))?;
    Ok((rest.get((length + 3) & !3..).unwrap_or_default(), (format, data)))
}

/// Nearly every flow sample: a raw packet header, and behind it an extended switch record or
/// nothing. Without a loop, a sample stays in registers on its way through the visitor; it is
/// exactly what [`visit_sample`] reads, or none.
#[inline(always)]
fn usual_flow(format: u32, sample: &[u8]) -> Option<FlowSample<'_>> {
    let (mut flow, records) = FlowSample::split(format, sample)?;
    let (rest, [format, length, fields @ ..]) = words::<6>(records).ok()?;
    let [protocol, frame_length_bytes, stripped_bytes, header_length] = fields;
    if format != record_format::RAW_PACKET_HEADER {
        return None;
    }
    let padded_header = rest.get(..length.checked_sub(16)? as usize)?;
    let header = padded_header.get(..header_length as usize)?;
    flow.raw_packet_header =
        Some(RawPacketHeader { protocol, frame_length_bytes, stripped_bytes, header });
    match flow.record_count() {
        1 => {}
        2 => {
            let behind = rest.get(padded_header.len().checked_next_multiple_of(4)?..)?;
            let (_, [format, length, switch @ ..]) = words::<6>(behind).ok()?;
            if [format, length] != [record_format::EXTENDED_SWITCH, 16] {
                return None;
            }
            let [source_vlan, _source_priority, destination_vlan, _destination_priority] = switch;
            flow.extended_switch = Some(ExtendedSwitch { source_vlan, destination_vlan });
        }
        _ => return None,
    }
    Some(flow)
}

/// Any sample.
#[cold]
#[inline(never)]
fn visit_sample(format: u32, sample: &[u8], visitor: &mut impl Visitor) {
    let read = match format {
        sample_format::FLOW | sample_format::FLOW_EXPANDED => {
            read_flow(format, sample).map(|sample| visitor.flow_sample(&sample))
        }
        sample_format::COUNTERS | sample_format::COUNTERS_EXPANDED => {
            read_counters(format, sample).map(|sample| visitor.counters_sample(&sample))
        }
        sample_format::DISCARDED_PACKET => Err(Loss::Discarded),
        _ => return,
    };
    if let Err(loss) = read {
        visitor.refused(loss, 1);
    }
}

/// struct flow_sample, or struct flow_sample_expanded.
fn read_flow(format: u32, sample: &[u8]) -> Result<FlowSample<'_>, Loss> {
    let (mut flow, records) = FlowSample::split(format, sample).ok_or(Loss::SampleTruncated)?;
    flow.read_records(records, flow.record_count())?;
    Ok(flow)
}

/// struct counters_sample, or struct counters_sample_expanded.
fn read_counters(format: u32, sample: &[u8]) -> Result<CountersSample, Loss> {
    let expanded = format == sample_format::COUNTERS_EXPANDED;
    let counters = if expanded { expanded_counters(sample) } else { compact_counters(sample) };
    let (records, (mut counters, count)) = counters.map_err(sample_truncated)?;
    counters.read_records(records, count)?;
    Ok(counters)
}

/// The fixed fields of a flow sample of N words, and what follows them.
#[inline(always)]
fn fixed_words<const N: usize>(sample: &[u8]) -> Option<(&[Word; N], &[u8])> {
    let (words, _) = sample.as_chunks::<4>();
    Some((words.first_chunk()?, &sample[4 * N..]))
}

impl<'a> FlowSample<'a> {
    /// The fixed fields of a sample of this format, and its records.
    #[inline(always)]
    fn split(format: u32, sample: &'a [u8]) -> Option<(FlowSample<'a>, &'a [u8])> {
        let (fixed, records) = match format {
            sample_format::FLOW => {
                let (fixed, records) = fixed_words(sample)?;
                (Fixed::Compact(fixed), records)
            }
            _ => {
                let (fixed, records) = fixed_words(sample)?;
                (Fixed::Expanded(fixed), records)
            }
        };
        let flow = FlowSample {
            fixed,
            raw_packet_header: None,
            sampled_ethernet: None,
            extended_switch: None,
        };
        Some((flow, records))
    }

    /// A sample of struct flow_sample's fixed fields, without records.
    #[cfg(test)]
    pub(crate) fn compact(fields: [u32; 8]) -> FlowSample<'static> {
        let fixed = Fixed::Compact(Box::leak(Box::new(fields.map(u32::to_be_bytes))));
        FlowSample { fixed, raw_packet_header: None, sampled_ethernet: None, extended_switch: None }
    }

    /// A field by its place in either form.
    #[inline(always)]
    fn word(&self, compact: usize, expanded: usize) -> u32 {
        u32::from_be_bytes(match self.fixed {
            Fixed::Compact(words) => words[compact],
            Fixed::Expanded(words) => words[expanded],
        })
    }

    /// Counts the flow samples of the data source.
    #[inline(always)]
    pub fn sequence_number(&self) -> u32 {
        self.word(0, 0)
    }

    /// Where the sample was taken.
    #[inline(always)]
    pub fn data_source(&self) -> DataSource {
        match self.fixed {
            Fixed::Compact(_) => compact_data_source(self.word(1, 1)),
            Fixed::Expanded(_) => DataSource { class: self.word(1, 1), index: self.word(2, 2) },
        }
    }

    /// One in so many packets is sampled.
    #[inline(always)]
    pub fn sampling_rate(&self) -> u32 {
        self.word(2, 3)
    }

    /// Packets that could have been sampled.
    #[inline(always)]
    pub fn sample_pool(&self) -> u32 {
        self.word(3, 4)
    }

    /// Samples that the agent had to drop, cumulative.
    #[inline(always)]
    pub fn drops(&self) -> u32 {
        self.word(4, 5)
    }

    /// Where the packet came in.
    #[inline(always)]
    pub fn input(&self) -> Interface {
        match self.fixed {
            Fixed::Compact(_) => compact_interface(self.word(5, 5)),
            Fixed::Expanded(_) => Interface { format: self.word(6, 6), value: self.word(7, 7) },
        }
    }

    /// Where the packet went out.
    #[inline(always)]
    pub fn output(&self) -> Interface {
        match self.fixed {
            Fixed::Compact(_) => compact_interface(self.word(6, 6)),
            Fixed::Expanded(_) => Interface { format: self.word(8, 8), value: self.word(9, 9) },
        }
    }

    /// How many records the sample announces.
    #[inline(always)]
    fn record_count(&self) -> u32 {
        self.word(7, 10)
    }

    /// Length of the packet in bytes, if a record tells it.
    #[inline]
    pub fn frame_length_bytes(&self) -> Option<u32> {
        match (self.raw_packet_header, self.sampled_ethernet) {
            (Some(raw), _) => Some(raw.frame_length_bytes),
            (None, Some(ethernet)) => Some(ethernet.frame_length_bytes),
            (None, None) => None,
        }
    }

    /// Reads the `count` records of a flow sample into it.
    fn read_records(&mut self, mut records: &'a [u8], count: u32) -> Result<(), Loss> {
        for _ in 0..count {
            let (rest, (format, record)) = block(records).map_err(record_overrun)?;
            records = rest;
            match format {
                record_format::RAW_PACKET_HEADER if self.raw_packet_header.is_none() => {
                    let (_, header) = raw_packet_header(record).map_err(record_truncated)?;
                    self.raw_packet_header = Some(header);
                }
                record_format::SAMPLED_ETHERNET if self.sampled_ethernet.is_none() => {
                    let (_, ethernet) = sampled_ethernet(record).map_err(record_truncated)?;
                    self.sampled_ethernet = Some(ethernet);
                }
                record_format::EXTENDED_SWITCH if self.extended_switch.is_none() => {
                    let (_, switch) = extended_switch(record).map_err(record_truncated)?;
                    self.extended_switch = Some(switch);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The fixed fields of struct counters_sample, and how many records it announces.
#[inline]
fn compact_counters(input: &[u8]) -> Read<'_, (CountersSample, u32)> {
    let (records, [sequence_number, source, count]) = words(input)?;
    let data_source = compact_data_source(source);
    Ok((records, (CountersSample { sequence_number, data_source, interface: None }, count)))
}

/// The fixed fields of struct counters_sample_expanded, and how many records it announces.
#[inline]
fn expanded_counters(input: &[u8]) -> Read<'_, (CountersSample, u32)> {
    let (records, [sequence_number, class, index, count]) = words(input)?;
    let data_source = DataSource { class, index };
    Ok((records, (CountersSample { sequence_number, data_source, interface: None }, count)))
}

impl CountersSample {
    /// Reads the `count` records of a counters sample into it.
    fn read_records(&mut self, mut records: &[u8], count: u32) -> Result<(), Loss> {
        for _ in 0..count {
            let (rest, (format, record)) = block(records).map_err(record_overrun)?;
            records = rest;
            if format == counter_format::GENERIC_INTERFACE && self.interface.is_none() {
                let (_, counters) = interface_counters(record).map_err(record_truncated)?;
                self.interface = Some(counters);
            }
        }
        Ok(())
    }
}

/// struct if_counters.
fn interface_counters(input: &[u8]) -> Read<'_, InterfaceCounters> {
    let (rest, [if_index, if_type, speed_high, speed_low, _direction, status]) = words(input)?;
    let (rest, received) = port_counters(rest)?;
    // Of what came in, packets of unknown protocols are counted beside.
    let (rest, [_unknown_protocols]) = words(rest)?;
    let (rest, sent) = port_counters(rest)?;
    let (rest, [_promiscuous_mode]) = words(rest)?;
    let speed_bits = hyper(speed_high, speed_low);
    let is_up = status & 2 != 0;
    Ok((rest, InterfaceCounters { if_index, if_type, speed_bits, is_up, received, sent }))
}

/// Octets, unicast, multicast, broadcast, discards and errors of struct if_counters.
fn port_counters(input: &[u8]) -> Read<'_, PortCounters> {
    let (rest, [high, low, unicast, multicast, broadcast, _discards, _errors]) = words(input)?;
    let counters = PortCounters {
        octets: hyper(high, low),
        unicast_packets: unicast,
        multicast_packets: multicast,
        broadcast_packets: broadcast,
    };
    Ok((rest, counters))
}

/// unsigned hyper (RFC 4506, section 4.5).
#[inline]
fn hyper(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// typedef sflow_data_source: class in the top 8 bits, index in the other 24.
#[inline]
fn compact_data_source(word: u32) -> DataSource {
    DataSource { class: word >> 24, index: word & 0x00ff_ffff }
}

/// typedef interface: format in the top 2 bits, value in the other 30.
#[inline]
fn compact_interface(word: u32) -> Interface {
    Interface { format: word >> 30, value: word & 0x3fff_ffff }
}

/// struct sampled_header.
#[inline]
fn raw_packet_header(input: &[u8]) -> Read<'_, RawPacketHeader<'_>> {
    let (rest, [protocol, frame_length_bytes, stripped_bytes, header_length]) = words(input)?;
    let (rest, header) = take(header_length)(rest)?;
    Ok((rest, RawPacketHeader { protocol, frame_length_bytes, stripped_bytes, header }))
}

/// struct sampled_ethernet.
#[inline]
fn sampled_ethernet(input: &[u8]) -> Read<'_, SampledEthernet> {
    let (rest, [frame_length_bytes]) = words(input)?;
    let (rest, (source, destination)) = (mac, mac).parse(rest)?;
    let (rest, [ether_type]) = words(rest)?;
    Ok((rest, SampledEthernet { frame_length_bytes, source, destination, ether_type }))
}

/// typedef mac: opaque[6], which XDR pads to 8.
#[inline]
fn mac(input: &[u8]) -> Read<'_, Mac> {
    let (rest, octets) = take(8usize)(input)?;
    let octets = octets.first_chunk().expect("8 bytes were taken");
    Ok((rest, Mac::from_octets(*octets)))
}

/// struct extended_switch.
#[inline]
fn extended_switch(input: &[u8]) -> Read<'_, ExtendedSwitch> {
    let (rest, fields) = words(input)?;
    let [source_vlan, _source_priority, destination_vlan, _destination_priority] = fields;
    Ok((rest, ExtendedSwitch { source_vlan, destination_vlan }))
}

/// Refuses the `left` samples that remain announced when `rest` does not hold the next one whole.
#[cold]
fn refuse_rest(rest: &[u8], left: u32, visitor: &mut impl Visitor) {
    // With both numbers there, the sample is present and its length is what points too far.
    let overrun = u32::from(rest.len() >= 8);
    if overrun > 0 {
        visitor.refused(Loss::SampleOverrun, 1);
    }
    if left > overrun {
        visitor.refused(Loss::SampleMissing, u64::from(left - overrun));
    }
}

#[cold]
fn datagram_truncated(_: nom::Err<Short>) -> Loss {
    Loss::DatagramTruncated
}

#[cold]
fn wrong_version() -> Loss {
    Loss::WrongVersion
}

#[cold]
fn bad_agent_address() -> Loss {
    Loss::BadAgentAddress
}

#[cold]
fn sample_truncated(_: nom::Err<Short>) -> Loss {
    Loss::SampleTruncated
}

#[cold]
fn record_overrun(_: nom::Err<Short>) -> Loss {
    Loss::RecordOverrun
}

#[cold]
fn record_truncated(_: nom::Err<Short>) -> Loss {
    Loss::RecordTruncated
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// A sample without its format and length: the fixed fields, then `records`.
    fn flow(format: u32, count: u32, records: &[Vec<u8>]) -> Vec<u8> {
        let fixed = if format == sample_format::FLOW { 7 } else { 10 };
        let fixed: Vec<u32> = (1..=fixed).map(|n| n << 24 | n).chain([count]).collect();
        [bytes(&fixed), records.concat()].concat()
    }

    /// A raw packet header of so many bytes, padded.
    fn raw(length: u32) -> Vec<u8> {
        let padded = length.next_multiple_of(4);
        let fields = bytes(&[record_format::RAW_PACKET_HEADER, 16 + padded, 1, 1_518, 4, length]);
        [fields, (0..padded).map(|n| n as u8).collect()].concat()
    }

    fn switch() -> Vec<u8> {
        bytes(&[record_format::EXTENDED_SWITCH, 16, 10, 0, 20, 0])
    }

    #[test]
    fn what_nearly_every_sample_is_goes_straight_through() {
        for format in [sample_format::FLOW, sample_format::FLOW_EXPANDED] {
            for length in [0, 14, 61, 128] {
                for records in [&[raw(length)][..], &[raw(length), switch()]] {
                    let sample = flow(format, records.len() as u32, records);
                    let read = usual_flow(format, &sample).unwrap();
                    assert_eq!(Ok(read), read_flow(format, &sample));
                    assert_eq!(read.raw_packet_header.unwrap().header.len(), length as usize);
                    assert_eq!(read.extended_switch.is_some(), records.len() == 2);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_short_way_reads_what_the_long_way_reads(
            expanded: bool,
            count in 0u32..4,
            records in vec((0u32..150, 0u8..5), 0..4),
            faults in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            end in any::<prop::sample::Index>(),
            whole: bool,
        ) {
            let format = if expanded { sample_format::FLOW_EXPANDED } else { sample_format::FLOW };
            let records: Vec<_> = records
                .into_iter()
                .map(|(length, kind)| if kind < 3 { raw(length) } else { switch() })
                .collect();
            let mut sample = flow(format, count, &records);
            // Faults in the first words, where counts and lengths are.
            let reach = sample.len().min(80);
            for (at, value) in faults {
                sample[at.index(reach)] = value;
            }
            let end = if whole { sample.len() } else { end.index(sample.len() + 1) };
            if let Some(read) = usual_flow(format, &sample[..end]) {
                prop_assert_eq!(Ok(read), read_flow(format, &sample[..end]));
            }
        }
    }

    #[test]
    fn words_are_big_endian_and_all_there() {
        let bytes = [0, 0, 0, 1, 0x80, 0, 0, 2, 9];
        assert_eq!(words(&bytes), Ok((&bytes[8..], [1, 0x8000_0002])));
        assert_eq!(words::<3>(&bytes), Err(nom::Err::Error(Short)));
    }

    #[test]
    fn blocks_are_padded_but_for_the_last() {
        let bytes = [0, 0, 0x10, 1, 0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 7];
        let content = &bytes[8..13];
        assert_eq!(block(&bytes), Ok((&bytes[16..], (0x1001, content))));
        for end in 13..=16 {
            assert_eq!(block(&bytes[..end]), Ok((&[][..], (0x1001, content))), "{end} bytes");
        }
        for end in 0..13 {
            assert!(block(&bytes[..end]).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn compact_words_are_split_where_the_specification_says() {
        let source = DataSource { class: 0xab, index: 0x00cd_ef01 };
        assert_eq!(compact_data_source(0xabcd_ef01), source);
        let discarded = Interface { format: 1, value: 256 };
        assert_eq!(compact_interface(0x4000_0100), discarded);
        let multiple = Interface { format: 2, value: 3 };
        assert_eq!(compact_interface(0x8000_0003), multiple);
        let internal = Interface { format: 0, value: 0x3fff_ffff };
        assert_eq!(compact_interface(0x3fff_ffff), internal);
    }

    #[test]
    fn a_mac_is_padded_to_8_bytes() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(mac(&bytes), Ok((&[9][..], Mac::from_octets([1, 2, 3, 4, 5, 6]))));
        assert!(mac(&bytes[..7]).is_err());
    }
}
