//! sFlow v5 from the wire: a datagram becomes flow samples and counters samples.

use std::net::IpAddr;

use crate::ixp::Mac;
use crate::loss::Loss;

pub mod ethernet;

/// Mirrors struct sample_datagram_v5 (sFlow v5, section 5), without its samples.
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

/// Where a sample was taken: struct sflow_data_source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DataSource {
    /// 0: ifIndex, 1: smonVlanDataSource, 2: entPhysicalEntry.
    pub class: u32,
    /// The index within the class.
    pub index: u32,
}

/// An input or output interface: struct interface_expanded (the compact form is widened).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// 0: `value` is an ifIndex, 1: discarded with reason `value`, 2: `value` interfaces.
    pub format: u32,
    /// By format; 0x3fffffff as ifIndex: the device itself.
    pub value: u32,
}

/// struct sampled_header: the raw packet header.
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

/// struct sampled_ethernet.
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

/// struct extended_switch, without the priorities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtendedSwitch {
    /// VLAN id of the incoming frame.
    pub source_vlan: u32,
    /// VLAN id of the outgoing frame.
    pub destination_vlan: u32,
}

/// struct flow_sample and flow_sample_expanded, with the records that ixflow reads; of several
/// records of one kind the first counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowSample<'a> {
    /// Counts the flow samples of the data source.
    pub sequence_number: u32,
    /// Where the sample was taken.
    pub data_source: DataSource,
    /// One in so many packets is sampled.
    pub sampling_rate: u32,
    /// Packets that could have been sampled.
    pub sample_pool: u32,
    /// Samples that the agent had to drop, cumulative.
    pub drops: u32,
    /// Where the packet came in.
    pub input: Interface,
    /// Where the packet went out.
    pub output: Interface,
    /// Record 1.
    pub raw_packet_header: Option<RawPacketHeader<'a>>,
    /// Record 2.
    pub sampled_ethernet: Option<SampledEthernet>,
    /// Record 1001.
    pub extended_switch: Option<ExtendedSwitch>,
}

/// struct counters_sample and counters_sample_expanded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountersSample {
    /// Counts the counters samples of the data source.
    pub sequence_number: u32,
    /// What was counted.
    pub data_source: DataSource,
}

/// Takes what a datagram holds, in its order.
pub trait Visitor {
    /// A flow sample, whole.
    fn flow_sample(&mut self, sample: &FlowSample<'_>);

    /// A counters sample.
    fn counters_sample(&mut self, sample: &CountersSample);

    /// A sample that could not be read, or `times` samples that are not there.
    fn refused(&mut self, loss: Loss, times: u64);
}

impl<'a> Datagram<'a> {
    /// Reads the header.
    pub fn parse(_bytes: &'a [u8]) -> Result<Datagram<'a>, Loss> {
        todo!()
    }

    /// Walks the samples.
    pub fn visit(&self, _visitor: &mut impl Visitor) {
        todo!()
    }
}
