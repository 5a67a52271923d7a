//! Our decoder against an independent one, the crate `flowparser-sflow`: of a well-formed
//! datagram, both must read the same, field by field and sample by sample.
//!
//! An input that starts with sFlow's version is a datagram as it is. Every other input is turned
//! into a well-formed datagram of as many samples and records as its bytes give: that datagram
//! must be read by both, whole.
//!
//! Where the two differ on purpose, and what is done about it:
//!
//! - Padding. XDR pads to 4 bytes, and its lengths of samples and records, which hold whole XDR
//!   structures, are therefore multiples of 4. Agents exist that announce other lengths; we skip
//!   the padding then, the other decoder reads on in it. Such a datagram is not compared.
//! - One fault, whole datagram. The other decoder refuses a datagram for a single bad record, also
//!   of a kind that we skip without a look, and a raw packet header of which the padding is cut
//!   off. We lose the sample with the fault at the most. What the other one refuses is not
//!   compared, unless it was built here.
//! - Bytes behind the datagram. The other decoder takes them for another datagram, and then tells
//!   of an error. The first datagram is compared all the same.
//! - Several records of one kind in a sample. It keeps all, we keep the first: the first is
//!   compared.
//! - Samples of discarded packets. It reads their contents, we refuse them by their format: that
//!   there is one is compared. Both skip samples and records of formats that they do not know.

#![no_main]

use std::net::IpAddr;

use flowparser_sflow::counter_records::CounterRecord;
use flowparser_sflow::flow_records::FlowRecord;
use flowparser_sflow::{AddressType, SflowDatagram, SflowParser, SflowSample};
use ixflow::decode::{CountersSample, Datagram, FlowSample, PortCounters, Visitor};
use ixflow::loss::Loss;
use libfuzzer_sys::arbitrary::{Result, Unstructured};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if input.starts_with(&[0, 0, 0, 5]) {
        if is_well_formed(input) == Some(true)
            && let Some(theirs) = SflowParser::default().parse_bytes(input).datagrams.first()
        {
            compare(input, theirs);
        }
        return;
    }
    let mut datagram = Xdr::default();
    if datagram.datagram(&mut Unstructured::new(input)).is_err() {
        return;
    }
    let bytes = datagram.0;
    assert_eq!(is_well_formed(&bytes), Some(true));
    let theirs = SflowParser::default().parse_bytes(&bytes);
    assert_eq!((theirs.datagrams.len(), &theirs.error), (1, &None), "{bytes:02x?}");
    compare(&bytes, &theirs.datagrams[0]);
});

/// A sample as either decoder tells it.
#[derive(PartialEq, Debug)]
enum Sample {
    Flow(Box<Flow>),
    Counters { sequence_number: u32, source: (u32, u32), interface: Option<Box<Interface>> },
    Refused(Loss, u64),
}

/// Generic interface counters.
#[derive(PartialEq, Debug)]
struct Interface {
    if_index: u32,
    if_type: u32,
    speed_bits: u64,
    is_up: bool,
    /// Octets, and unicast, multicast and broadcast packets, in and out.
    received: (u64, [u32; 3]),
    sent: (u64, [u32; 3]),
}

#[derive(PartialEq, Debug)]
struct Flow {
    sequence_number: u32,
    source: (u32, u32),
    /// Sampling rate, sample pool, drops.
    numbers: [u32; 3],
    input: (u32, u32),
    output: (u32, u32),
    /// Protocol, frame length, stripped; header.
    raw: Option<([u32; 3], Vec<u8>)>,
    /// Frame length, source, destination, EtherType.
    ethernet: Option<(u32, [u8; 6], [u8; 6], u32)>,
    /// VLANs in and out.
    switch: Option<(u32, u32)>,
}

fn compare(bytes: &[u8], theirs: &SflowDatagram) {
    let ours = Datagram::parse(bytes).expect("the other decoder reads it");
    let agent = match theirs.agent_address {
        AddressType::IPv4(address) => IpAddr::V4(address),
        AddressType::IPv6(address) => IpAddr::V6(address),
    };
    assert_eq!(ours.header.agent_address, agent);
    assert_eq!(ours.header.sub_agent_id, theirs.sub_agent_id);
    assert_eq!(ours.header.sequence_number, theirs.sequence_number);
    assert_eq!(ours.header.uptime_millis, theirs.uptime);
    assert_eq!(ours.header.sample_count as usize, theirs.samples.len());

    let mut samples = Samples::default();
    ours.visit(&mut samples);
    let expected: Vec<Sample> = theirs.samples.iter().filter_map(their_sample).collect();
    assert_eq!(samples.0, expected, "{bytes:02x?}");
}

/// What our decoder says.
#[derive(Default)]
struct Samples(Vec<Sample>);

impl Visitor for Samples {
    fn flow_sample(&mut self, sample: &FlowSample<'_>) {
        let raw = sample.raw_packet_header.map(|raw| {
            let numbers = [raw.protocol, raw.frame_length_bytes, raw.stripped_bytes];
            (numbers, raw.header.to_vec())
        });
        let ethernet = sample.sampled_ethernet.map(|ethernet| {
            let (source, destination) = (ethernet.source.octets(), ethernet.destination.octets());
            (ethernet.frame_length_bytes, source, destination, ethernet.ether_type)
        });
        self.0.push(Sample::Flow(Box::new(Flow {
            sequence_number: sample.sequence_number(),
            source: (sample.data_source().class, sample.data_source().index),
            numbers: [sample.sampling_rate(), sample.sample_pool(), sample.drops()],
            input: (sample.input().format, sample.input().value),
            output: (sample.output().format, sample.output().value),
            raw,
            ethernet,
            switch: sample.extended_switch.map(|s| (s.source_vlan, s.destination_vlan)),
        })));
    }

    fn counters_sample(&mut self, sample: &CountersSample) {
        let direction = |port: &PortCounters| {
            let packets = [port.unicast_packets, port.multicast_packets, port.broadcast_packets];
            (port.octets, packets)
        };
        self.0.push(Sample::Counters {
            sequence_number: sample.sequence_number,
            source: (sample.data_source.class, sample.data_source.index),
            interface: sample.interface.map(|interface| {
                Box::new(Interface {
                    if_index: interface.if_index,
                    if_type: interface.if_type,
                    speed_bits: interface.speed_bits,
                    is_up: interface.is_up,
                    received: direction(&interface.received),
                    sent: direction(&interface.sent),
                })
            }),
        });
    }

    fn refused(&mut self, loss: Loss, times: u64) {
        self.0.push(Sample::Refused(loss, times));
    }
}

/// What the other decoder says, of what ours tells.
fn their_sample(sample: &SflowSample) -> Option<Sample> {
    let interface = |word: u32| (word >> 30, word & 0x3fff_ffff);
    Some(match sample {
        SflowSample::Flow(sample) => Sample::Flow(Box::new(Flow {
            sequence_number: sample.sequence_number,
            source: (sample.source_id_type, sample.source_id_index),
            numbers: [sample.sampling_rate, sample.sample_pool, sample.drops],
            input: interface(sample.input),
            output: interface(sample.output),
            ..their_records(&sample.records)
        })),
        SflowSample::ExpandedFlow(sample) => Sample::Flow(Box::new(Flow {
            sequence_number: sample.sequence_number,
            source: (sample.source_id_type, sample.source_id_index),
            numbers: [sample.sampling_rate, sample.sample_pool, sample.drops],
            input: (sample.input_format, sample.input_value),
            output: (sample.output_format, sample.output_value),
            ..their_records(&sample.records)
        })),
        SflowSample::Counter(sample) => Sample::Counters {
            sequence_number: sample.sequence_number,
            source: (sample.source_id_type, sample.source_id_index),
            interface: their_interface(&sample.records),
        },
        SflowSample::ExpandedCounter(sample) => Sample::Counters {
            sequence_number: sample.sequence_number,
            source: (sample.source_id_type, sample.source_id_index),
            interface: their_interface(&sample.records),
        },
        SflowSample::DiscardedPacket(_) => Sample::Refused(Loss::Discarded, 1),
        SflowSample::Unknown { .. } => return None,
    })
}

/// The first record of each kind that ours keeps; the fixed fields are for the caller to fill.
fn their_records(records: &[FlowRecord]) -> Flow {
    let raw = records.iter().find_map(|record| match record {
        FlowRecord::RawPacketHeader(raw) => {
            assert_eq!(raw.header_length as usize, raw.header.len());
            let numbers = [raw.header_protocol, raw.frame_length, raw.stripped];
            Some((numbers, raw.header.clone()))
        }
        _ => None,
    });
    let ethernet = records.iter().find_map(|record| match record {
        FlowRecord::SampledEthernet(ethernet) => {
            let (source, destination) = (ethernet.src_mac.bytes(), ethernet.dst_mac.bytes());
            Some((ethernet.length, source, destination, ethernet.eth_type))
        }
        _ => None,
    });
    let switch = records.iter().find_map(|record| match record {
        FlowRecord::ExtendedSwitch(switch) => Some((switch.src_vlan, switch.dst_vlan)),
        _ => None,
    });
    Flow {
        sequence_number: 0,
        source: (0, 0),
        numbers: [0; 3],
        input: (0, 0),
        output: (0, 0),
        raw,
        ethernet,
        switch,
    }
}

/// The first generic interface counters.
fn their_interface(records: &[CounterRecord]) -> Option<Box<Interface>> {
    records.iter().find_map(|record| match record {
        CounterRecord::GenericInterface(port) => Some(Box::new(Interface {
            if_index: port.if_index,
            if_type: port.if_type,
            speed_bits: port.if_speed,
            is_up: port.if_status & 2 != 0,
            received: (
                port.if_in_octets,
                [port.if_in_ucast_pkts, port.if_in_multicast_pkts, port.if_in_broadcast_pkts],
            ),
            sent: (
                port.if_out_octets,
                [port.if_out_ucast_pkts, port.if_out_multicast_pkts, port.if_out_broadcast_pkts],
            ),
        })),
        _ => None,
    })
}

/// Whether all that is announced is there, and every length of a sample and of a record
/// is a multiple of 4; none if the datagram ends too early to tell.
fn is_well_formed(datagram: &[u8]) -> Option<bool> {
    let (address_type, _) = word(datagram.get(4..)?)?;
    let (count, mut rest) = word(datagram.get(if address_type == 2 { 36 } else { 24 }..)?)?;
    for _ in 0..count {
        let (format, sample, behind) = block(rest)?;
        rest = behind;
        // Words before the number of records.
        let fixed = match format {
            1 => 7,
            2 => 2,
            3 => 10,
            4 => 3,
            _ if sample.len() % 4 == 0 => continue,
            _ => return Some(false),
        };
        let (count, mut records) = word(sample.get(4 * fixed..)?)?;
        let mut aligned = sample.len() % 4 == 0;
        for _ in 0..count {
            let (_, record, behind) = block(records)?;
            aligned &= record.len() % 4 == 0;
            records = behind;
        }
        if !aligned {
            return Some(false);
        }
    }
    Some(true)
}

fn word(input: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = input.split_first_chunk()?;
    Some((u32::from_be_bytes(*word), rest))
}

fn block(input: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (format, rest) = word(input)?;
    let (length, rest) = word(rest)?;
    let (data, rest) = rest.split_at_checked(length as usize)?;
    Some((format, data, rest))
}

/// Writes a well-formed datagram with the choices that the fuzzer's bytes make.
#[derive(Default)]
struct Xdr(Vec<u8>);

impl Xdr {
    fn word(&mut self, word: u32) {
        self.0.extend(word.to_be_bytes());
    }

    /// Numbers that nobody interprets.
    fn words(&mut self, from: &mut Unstructured<'_>, count: usize) -> Result<()> {
        for _ in 0..count {
            let word = from.arbitrary()?;
            self.word(word);
        }
        Ok(())
    }

    /// Bytes with their length and padding.
    fn opaque(&mut self, bytes: &[u8]) {
        self.word(u32::try_from(bytes.len()).expect("far below 4 GiB"));
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn datagram(&mut self, from: &mut Unstructured<'_>) -> Result<()> {
        self.word(5);
        if from.arbitrary()? {
            self.word(1);
            self.words(from, 1)?;
        } else {
            self.word(2);
            self.words(from, 4)?;
        }
        self.words(from, 3)?;
        let count = from.int_in_range(0..=8)?;
        self.word(count);
        for _ in 0..count {
            let mut sample = Xdr::default();
            let format = sample.sample(from)?;
            self.word(format);
            self.opaque(&sample.0);
        }
        Ok(())
    }

    fn sample(&mut self, from: &mut Unstructured<'_>) -> Result<u32> {
        let format = from.int_in_range(1..=6)?;
        match format {
            1 => self.words(from, 7)?,
            2 => self.words(from, 2)?,
            3 => self.words(from, 10)?,
            4 => self.words(from, 3)?,
            5 => self.words(from, 6)?,
            // Of nobody's format, and with anything inside.
            _ => {
                let count = from.int_in_range(0..=9)?;
                self.words(from, count)?;
                return Ok(0x0028_b001);
            }
        }
        let is_counters = matches!(format, 2 | 4);
        let count = from.int_in_range(0..=5)?;
        self.word(count);
        for _ in 0..count {
            let mut record = Xdr::default();
            let format = if is_counters { record.counters(from) } else { record.record(from) }?;
            self.word(format);
            self.opaque(&record.0);
        }
        // Some agents' samples are longer than their records.
        if from.ratio(1u8, 8u8)? {
            self.words(from, 1)?;
        }
        Ok(format)
    }

    fn counters(&mut self, from: &mut Unstructured<'_>) -> Result<u32> {
        if !from.ratio(1u8, 2u8)? {
            return unknown(self, from);
        }
        // struct if_counters.
        self.words(from, 22)?;
        Ok(1)
    }

    fn record(&mut self, from: &mut Unstructured<'_>) -> Result<u32> {
        let format = from.choose(&[1, 1001, 2, 1002, 0])?;
        match format {
            1 => {
                self.words(from, 3)?;
                let length = from.int_in_range(0..=160)?.min(from.len());
                self.opaque(from.bytes(length)?);
            }
            2 => self.words(from, 6)?,
            1001 => self.words(from, 4)?,
            // Extended router: next hop, masks.
            1002 => {
                self.word(1);
                self.words(from, 3)?;
            }
            _ => return unknown(self, from),
        }
        // A record may be longer than what is known of it.
        if from.ratio(1u8, 8u8)? {
            self.words(from, 1)?;
        }
        Ok(*format)
    }
}

/// A record of an enterprise that neither decoder knows, with anything inside.
fn unknown(record: &mut Xdr, from: &mut Unstructured<'_>) -> Result<u32> {
    let count = from.int_in_range(0..=6)?;
    record.words(from, count)?;
    Ok(from.int_in_range(0x8000..=0x8fff)? << 12 | from.int_in_range(0..=0xfff)?)
}
