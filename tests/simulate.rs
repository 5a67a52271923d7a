//! The synthetic fabric: what it says is valid sFlow v5, and the truth is what it said.
//!
//! Datagrams are read here by a walker of its own, which shares no code with the library.

#![expect(clippy::unwrap_used, reason = "a test ends where its assumptions do")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ixflow::clock::Clock;
use ixflow::count::Traffic;
use ixflow::ixp::{InfrastructureId, Mac, VlanTag, VliId};
use ixflow::loss::{Loss, Losses};
use ixflow::receive::{BATCH_MAX, Batch, Source};
use ixflow::simulate::send::{Limit, Pace, send};
use ixflow::simulate::{
    API_KEY_HEADER, ApiServer, DATAGRAM_MAX_BYTES, DEFAULT_FABRIC, Fabric, Generator, PcapWriter,
    RingSource, SimulatedSource, Truth,
};

/// 2023-11-14 22:13:20 UTC: not at the start of an interval.
const START_MILLIS: u64 = 1_700_000_000_000;
const STEP_SECS: u64 = 300;

/// Every feature that a fabric has.
const RICH_FABRIC: &str = r#"
seed = 7
members = 40
macs_per_member = 3
tagged_share = 0.5
ipv6_share = 0.3
counters_interval_secs = 20
frame_length = [{ bytes = 64, share = 1 }, { bytes = 65, share = 1 }, { bytes = 1522, share = 2 }]

[noise]
arp = 0.02
unknown_vlan = 0.01
multicast = 0.02
unknown_source = 0.02
unknown_destination = 0.02
same_vli = 0.02
egress = 0.05
discarded = 0.01

[[infrastructure]]
id = 1
[[infrastructure.vlan]]
tag = 10
[[infrastructure.vlan]]
tag = 20
member_share = 0.5

[[infrastructure]]
id = 2
[[infrastructure.vlan]]
tag = 10
weight = 0.5
[[infrastructure.vlan]]
tag = 30
[[infrastructure.vlan.member]]
vli = 9001
macs = ["00:1c:73:00:00:01", "001c.7300.0002"]
tagged = true
if_index = 500
[[infrastructure.vlan.member]]
switch = 1

[[switch]]
agent = "192.0.2.1"
sampling_rate = 1000
[[switch]]
agent = "2001:db8::1"
sub_agent_id = 3
expanded = true
extended_switch = "zero"
if_index_base = 40000000
[[switch]]
agent = "192.0.2.3"
infrastructure = 2
extended_switch = "untagged"
sampling_rate = 1
[[switch]]
agent = "192.0.2.3"
infrastructure = 2
sub_agent_id = 1
"#;

/// Reads big-endian words, and ends the test where they end.
struct Xdr<'a>(&'a [u8]);

impl<'a> Xdr<'a> {
    fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        head
    }

    /// An opaque of variable length with its padding, which must be zero.
    fn opaque(&mut self) -> &'a [u8] {
        let length = self.word() as usize;
        let bytes = self.bytes(length);
        assert!(self.bytes((4 - length % 4) % 4).iter().all(|&byte| byte == 0));
        bytes
    }
}

#[derive(Debug)]
struct Walked {
    agent: IpAddr,
    sub_agent: u32,
    sequence: u32,
    flows: Vec<Flow>,
    counters: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Flow {
    sequence: u32,
    data_source: u32,
    rate: u32,
    pool: u32,
    input: u32,
    output_format: u32,
    output: u32,
    frame_length: u32,
    header: Vec<u8>,
    extended_vlan: Option<u32>,
}

/// Reads a datagram whole; anything out of order ends the test.
fn walk(payload: &[u8]) -> Walked {
    let mut datagram = Xdr(payload);
    assert_eq!(datagram.word(), 5, "version");
    let agent = match datagram.word() {
        1 => IpAddr::V4(Ipv4Addr::from_bits(datagram.word())),
        2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(datagram.bytes(16)).unwrap())),
        other => panic!("address type {other}"),
    };
    let (sub_agent, sequence) = (datagram.word(), datagram.word());
    let (uptime, count) = (datagram.word(), datagram.word());
    assert!(uptime > 0 && count > 0);
    let mut walked = Walked { agent, sub_agent, sequence, flows: Vec::new(), counters: Vec::new() };
    for _ in 0..count {
        let format = datagram.word();
        let length = datagram.word() as usize;
        assert_eq!(length % 4, 0);
        let mut sample = Xdr(datagram.bytes(length));
        let sequence = sample.word();
        let expanded = matches!(format, 3 | 4);
        let data_source = if expanded {
            assert_eq!(sample.word(), 0, "class");
            sample.word()
        } else {
            let packed = sample.word();
            assert_eq!(packed >> 24, 0, "class");
            packed
        };
        if matches!(format, 2 | 4) {
            assert_eq!((sample.word(), sample.word(), sample.word()), (1, 1, 88));
            assert_eq!(sample.word(), data_source);
            assert_eq!(sample.bytes(84).len(), 84);
            walked.counters.push((sequence, data_source));
        } else {
            assert!(matches!(format, 1 | 3), "format {format}");
            let (rate, pool, drops) = (sample.word(), sample.word(), sample.word());
            assert_eq!(drops, 0);
            let mut interface = || {
                if expanded {
                    (sample.word(), sample.word())
                } else {
                    let packed = sample.word();
                    (packed >> 30, packed & 0x3fff_ffff)
                }
            };
            let ((input_format, input), (output_format, output)) = (interface(), interface());
            assert_eq!(input_format, 0);
            let mut flow = Flow {
                sequence,
                data_source,
                rate,
                pool,
                input,
                output_format,
                output,
                frame_length: 0,
                header: Vec::new(),
                extended_vlan: None,
            };
            for _ in 0..sample.word() {
                let format = sample.word();
                let length = sample.word() as usize;
                let mut record = Xdr(sample.bytes(length));
                match format {
                    1 => {
                        assert_eq!(record.word(), 1, "header protocol");
                        flow.frame_length = record.word();
                        assert_eq!(record.word(), 4, "stripped");
                        flow.header = record.opaque().to_vec();
                    }
                    1001 => {
                        flow.extended_vlan = Some(record.word());
                        assert_eq!(record.word(), 0);
                        assert_eq!(Some(record.word()), flow.extended_vlan);
                        assert_eq!(record.word(), 0);
                    }
                    other => panic!("record {other}"),
                }
                assert!(record.0.is_empty(), "record longer than its fields");
            }
            assert!(flow.header.len() + 4 <= flow.frame_length as usize);
            walked.flows.push(flow);
        }
        assert!(sample.0.is_empty(), "sample longer than its records");
    }
    assert!(datagram.0.is_empty(), "datagram longer than its samples");
    walked
}

/// What a sample is, by rules written here once more.
#[derive(Debug, PartialEq)]
enum Verdict {
    Counted(u32, u32, bool),
    Lost(Loss),
}

type Table = HashMap<(u16, Mac), u32>;

fn table(fabric: &Fabric) -> Table {
    let records = fabric.mac_table();
    let table: Table =
        records.iter().map(|each| ((each.vlan.as_u16(), each.mac), each.vli.0)).collect();
    assert_eq!(table.len(), records.len(), "a MAC is twice on a tag");
    table
}

fn judge(flow: &Flow, table: &Table, vlans: &HashSet<u16>) -> Verdict {
    let half = |at: usize| u16::from_be_bytes([flow.header[at], flow.header[at + 1]]);
    let mac = |at: usize| Mac::from_octets(flow.header[at..at + 6].try_into().unwrap());
    let (tag, ether_type, ip) =
        if half(12) == 0x8100 { (Some(half(14)), half(16), 18) } else { (None, half(12), 14) };
    if flow.output_format == 1 {
        return Verdict::Lost(Loss::Discarded);
    }
    if flow.input != flow.data_source {
        assert_eq!(flow.output, flow.data_source);
        return Verdict::Lost(Loss::Direction);
    }
    assert_ne!(flow.output, flow.input);
    let six = match ether_type {
        0x0800 => {
            let sum: u32 = (ip..ip + 20).step_by(2).map(|at| u32::from(half(at))).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "IPv4 checksum");
            assert_eq!(usize::from(half(ip + 2)) + ip + 4, flow.frame_length as usize);
            false
        }
        0x86dd => {
            assert_eq!(usize::from(half(ip + 4)) + 40 + ip + 4, flow.frame_length as usize);
            true
        }
        0x0806 => return Verdict::Lost(Loss::NotIp),
        other => panic!("EtherType {other:#x}"),
    };
    let vlan = tag.unwrap_or_else(|| flow.extended_vlan.unwrap().try_into().unwrap());
    if !vlans.contains(&vlan) {
        return Verdict::Lost(Loss::UnknownVlan);
    }
    if mac(0).is_group() {
        return Verdict::Lost(Loss::Multicast);
    }
    let Some(&source) = table.get(&(vlan, mac(6))) else {
        return Verdict::Lost(Loss::UnknownSource);
    };
    let Some(&destination) = table.get(&(vlan, mac(0))) else {
        return Verdict::Lost(Loss::UnknownDestination);
    };
    if source == destination {
        return Verdict::Lost(Loss::SameVli);
    }
    Verdict::Counted(source, destination, six)
}

/// (end of interval, source, destination) -> traffic, and losses, by naive recount.
#[derive(Default, Debug, PartialEq)]
struct Recount {
    pairs: BTreeMap<(u64, VliId, VliId), Traffic>,
    losses: Losses,
    flows: u64,
    counters: u64,
    datagrams: u64,
}

impl Recount {
    fn datagram(&mut self, stamp_secs: u64, payload: &[u8], table: &Table) {
        let vlans = table.keys().map(|&(vlan, _)| vlan).collect();
        let walked = walk(payload);
        self.datagrams += 1;
        self.counters += walked.counters.len() as u64;
        for flow in &walked.flows {
            self.flows += 1;
            match judge(flow, table, &vlans) {
                Verdict::Lost(loss) => self.losses.count(loss),
                Verdict::Counted(source, destination, six) => {
                    let end = (stamp_secs / STEP_SECS + 1) * STEP_SECS;
                    let traffic =
                        self.pairs.entry((end, VliId(source), VliId(destination))).or_default();
                    traffic.samples[usize::from(six)] += 1;
                    traffic.packets[usize::from(six)] += u64::from(flow.rate);
                    traffic.bytes[usize::from(six)] +=
                        u64::from(flow.rate) * u64::from(flow.frame_length);
                }
            }
        }
    }

    fn agrees(&self, truth: &Truth) {
        let told: BTreeMap<_, _> = truth
            .intervals
            .iter()
            .flat_map(|interval| {
                assert_eq!(interval.from_secs + STEP_SECS, interval.to_secs);
                let key = |pair: &ixflow::flush::PairTraffic| {
                    (interval.to_secs, pair.source, pair.destination)
                };
                interval.pairs.iter().map(move |pair| (key(pair), pair.traffic)).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(self.pairs, told);
        assert_eq!(self.losses, truth.losses);
        assert_eq!(
            (self.flows, self.counters, self.datagrams),
            (truth.flow_samples, truth.counters_samples, truth.datagrams)
        );
    }
}

fn speak(generator: &mut Generator, datagrams: usize) -> Vec<(u64, SocketAddr, Vec<u8>)> {
    let mut payload = Vec::new();
    (0..datagrams)
        .map(|_| {
            let emitted = generator.generate(&mut payload);
            (emitted.stamp_micros, emitted.source, payload.clone())
        })
        .collect()
}

fn rich() -> Fabric {
    Fabric::from_toml(RICH_FABRIC).unwrap()
}

#[test]
fn one_seed_says_the_same_and_another_does_not() {
    let said = |text: &str| {
        let fabric = Fabric::from_toml(text).unwrap();
        speak(&mut fabric.generator(START_MILLIS, 500), 300)
    };
    let first = said(RICH_FABRIC);
    assert!(first == said(RICH_FABRIC));
    assert!(first != said(&RICH_FABRIC.replace("seed = 7", "seed = 8")));
}

#[test]
fn truth_equals_a_naive_recount_with_every_feature() {
    let fabric = rich();
    let table = table(&fabric);
    let mut generator = fabric.generator(START_MILLIS, 40).with_truth(STEP_SECS);
    let mut recount = Recount::default();
    let mut last = 0;
    for (stamp_micros, source, payload) in speak(&mut generator, 6000) {
        assert!(payload.len() <= DATAGRAM_MAX_BYTES);
        assert!(stamp_micros >= last);
        last = stamp_micros;
        assert_eq!(walk(&payload).agent, source.ip());
        recount.datagram(stamp_micros / 1_000_000, &payload, &table);
    }
    let truth = generator.finish();
    recount.agrees(&truth);
    assert!(truth.intervals.len() >= 3);
    assert!(truth.counters_samples > 0);
    let noise = [
        Loss::NotIp,
        Loss::UnknownVlan,
        Loss::Multicast,
        Loss::UnknownSource,
        Loss::UnknownDestination,
        Loss::SameVli,
        Loss::Direction,
        Loss::Discarded,
    ];
    assert_eq!(truth.losses.iter().count(), noise.len());
    for loss in noise {
        assert!(truth.losses.of(loss) > 0, "{}", loss.name());
    }
}

#[test]
fn sequence_numbers_and_pools_are_a_well_behaved_agents() {
    let fabric = rich();
    let mut generator = fabric.generator(START_MILLIS, 40);
    let mut datagrams: HashMap<(IpAddr, u32), u32> = HashMap::new();
    let mut flows: HashMap<(IpAddr, u32, u32), (u32, u32, u32)> = HashMap::new();
    let mut counters: HashMap<(IpAddr, u32, u32), u32> = HashMap::new();
    for (_, _, payload) in speak(&mut generator, 6000) {
        let walked = walk(&payload);
        let agent = (walked.agent, walked.sub_agent);
        let sequence = datagrams.entry(agent).or_default();
        *sequence += 1;
        assert_eq!(walked.sequence, *sequence);
        for flow in &walked.flows {
            let state = flows.entry((agent.0, agent.1, flow.data_source)).or_default();
            assert_eq!(flow.sequence, state.0 + 1);
            let skip = flow.pool.wrapping_sub(state.1);
            assert!(skip >= 1 && skip < 2 * flow.rate.max(1), "{skip} of {}", flow.rate);
            *state = (flow.sequence, flow.pool, flow.rate);
        }
        for &(sequence, data_source) in &walked.counters {
            let last = counters.entry((agent.0, agent.1, data_source)).or_default();
            *last += 1;
            assert_eq!(sequence, *last);
        }
    }
    assert_eq!(datagrams.len(), fabric.switches().len());
    // 6000 datagrams of 6 samples at 40 a second are a quarter of an hour, 20 s a turn.
    let turns: HashSet<u32> = counters.values().copied().collect();
    assert_eq!(counters.len(), fabric.ports().len());
    assert!(turns.iter().all(|&turns| turns > 20), "{turns:?}");
    // The pool tells the rate: the mean distance of samples.
    let (sequence, pool, rate) =
        *flows.values().filter(|state| state.2 == 1000).max_by_key(|state| state.0).unwrap();
    let mean = f64::from(pool) / f64::from(sequence);
    assert!((mean / f64::from(rate) - 1.0).abs() < 0.1, "{mean}");
}

#[test]
fn formats_and_vlans_are_where_the_switch_puts_them() {
    let fabric = rich();
    let mut generator = fabric.generator(START_MILLIS, 40);
    let mut seen = HashSet::new();
    for (_, _, payload) in speak(&mut generator, 3000) {
        let walked = walk(&payload);
        for flow in &walked.flows {
            let tagged = flow.header[12..14] == [0x81, 0x00];
            seen.insert((walked.agent, walked.sub_agent, tagged, flow.extended_vlan));
            let large = flow.data_source > 1 << 24;
            assert_eq!(large, walked.agent.is_ipv6());
        }
    }
    let has = |agent: &str, sub_agent, tagged, vlan| {
        seen.contains(&(agent.parse().unwrap(), sub_agent, tagged, vlan))
    };
    assert!(has("192.0.2.1", 0, true, Some(10)) && has("192.0.2.1", 0, false, Some(10)));
    assert!(has("192.0.2.1", 0, true, Some(20)) && !has("192.0.2.1", 0, false, Some(20)));
    assert!(has("2001:db8::1", 3, true, Some(0)) && has("2001:db8::1", 3, false, Some(10)));
    assert!(!has("2001:db8::1", 3, true, Some(10)));
    assert!(has("192.0.2.3", 0, true, None) && has("192.0.2.3", 0, false, Some(10)));
    assert!(has("192.0.2.3", 1, false, Some(30)));
}

#[test]
fn shares_and_popularity_are_the_described_ones() {
    let fabric = Fabric::from_toml(
        "members = 50\nagents = 5\nipv6_share = 0.3\nzipf_exponent = 1.2\n\
         noise = { arp = 0.1 }\nmacs_per_member = 2",
    )
    .unwrap();
    let mut generator = fabric.generator(START_MILLIS, 100_000).with_truth(STEP_SECS);
    speak(&mut generator, 50_000);
    let truth = generator.finish();
    let counted = truth.flow_samples - truth.losses.of(Loss::NotIp);
    let near = |what: &str, value: f64, wanted: f64, sigma: f64| {
        assert!((value - wanted).abs() < 5.0 * sigma, "{what}: {value}, not {wanted}");
    };
    let deviation = |share: f64| (share * (1.0 - share) / counted as f64).sqrt();
    near("arp", 1.0 - counted as f64 / truth.flow_samples as f64, 0.1, deviation(0.1));
    let mut all = Traffic::default();
    truth.pairs().iter().for_each(|pair| all.merge(&pair.traffic));
    near("v6", f64::from(all.samples[1]) / counted as f64, 0.3, deviation(0.3));
    let mean_length = all.bytes.iter().sum::<u64>() as f64 / all.packets.iter().sum::<u64>() as f64;
    // 0.35 x 64 + 0.15 x 576 + 0.5 x 1518, whose lengths deviate by some 680.
    near("length", mean_length, 867.8, 680.0 / (counted as f64).sqrt());
    let mut individuals = BTreeMap::new();
    for interval in &truth.intervals {
        for (vli, sides) in interval.individuals() {
            *individuals.entry(vli).or_insert(0) += sides.sent.samples.iter().sum::<u32>();
        }
    }
    let mut weights: Vec<f64> = fabric.vlis().iter().map(|vli| vli.weight).collect();
    for vli in fabric.vlis() {
        let share = f64::from(individuals[&vli.id]) / counted as f64;
        near("sender", share, vli.weight, deviation(vli.weight));
    }
    weights.sort_by(f64::total_cmp);
    weights.reverse();
    assert!((weights[0] / weights[9] - 10f64.powf(1.2)).abs() < 1e-9);
}

#[test]
fn sums_of_a_truth_agree_with_its_pairs() {
    let fabric = rich();
    let mut generator = fabric.generator(START_MILLIS, 1000).with_truth(STEP_SECS);
    speak(&mut generator, 2000);
    let truth = generator.finish();
    let interval = &truth.intervals[0];
    let mut all = Traffic::default();
    interval.pairs.iter().for_each(|pair| all.merge(&pair.traffic));
    let (mut sent, mut received) = (Traffic::default(), Traffic::default());
    for sides in interval.individuals().values() {
        sent.merge(&sides.sent);
        received.merge(&sides.received);
    }
    let aggregates = interval.aggregates(&fabric);
    let mut total = Traffic::default();
    aggregates.values().for_each(|aggregate| total.merge(aggregate));
    assert_eq!((all, all, all), (sent, received, total));
    let lans: Vec<_> = aggregates.keys().map(|(id, tag)| (id.0, tag.as_u16())).collect();
    assert_eq!(lans, [(1, 10), (1, 20), (2, 10), (2, 30)]);
    let key = (InfrastructureId(2), VlanTag::new(30));
    let of_30: Vec<_> =
        fabric.vlis().iter().filter(|vli| (vli.infrastructure, vli.vlan) == key).collect();
    let mut pairs_of_30 = Traffic::default();
    for pair in interval.pairs.iter().filter(|pair| of_30.iter().any(|vli| vli.id == pair.source)) {
        pairs_of_30.merge(&pair.traffic);
    }
    assert_eq!(aggregates[&key], pairs_of_30);

    let mut lines = Vec::new();
    truth.write_json_lines(&mut lines).unwrap();
    let lines: Vec<serde_json::Value> = String::from_utf8(lines)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let bytes: u64 = lines.iter().filter_map(|line| line["bytes"].as_u64()).sum();
    let told: u64 = truth.pairs().iter().map(|pair| pair.traffic.bytes.iter().sum::<u64>()).sum();
    assert_eq!(bytes, told);
    assert_eq!(lines.last().unwrap()["flow_samples"], truth.flow_samples);
}

#[test]
fn the_day_has_its_curve() {
    let fabric = Fabric::from_toml("diurnal = { trough_share = 0.25, peak_hour = 20 }").unwrap();
    // Midnight of 2023-11-15.
    let midnight_millis = 1_700_006_400_000;
    let mut generator = fabric.generator(midnight_millis, 10).with_truth(3600);
    let mut payload = Vec::new();
    while generator.next_micros() / 1000 < midnight_millis + 86_400_000 {
        generator.generate(&mut payload);
    }
    let truth = generator.finish();
    let hours: Vec<u64> = truth
        .intervals
        .iter()
        .map(|hour| hour.pairs.iter().flat_map(|pair| pair.traffic.samples).map(u64::from).sum())
        .collect();
    assert_eq!(hours.len(), 24);
    // The peak and the trough fall between two hours each.
    assert!(hours[19].abs_diff(36_000) < 400, "{hours:?}");
    assert!(hours[7].abs_diff(9_000) < 250, "{hours:?}");
    assert!(hours[8..19].is_sorted() && hours[20..].is_sorted_by(|a, b| a >= b), "{hours:?}");
    // The mean of the curve is (1 + 0.25) / 2.
    assert!(truth.flow_samples.abs_diff(540_000) < 1000, "{}", truth.flow_samples);
}

#[test]
fn a_pause_is_silence_and_not_lateness() {
    let fabric = rich();
    let table = table(&fabric);
    let mut generator = fabric.generator(START_MILLIS, 40).with_truth(STEP_SECS);
    let mut said = speak(&mut generator, 100);
    generator.pass_until(START_MILLIS);
    assert!(generator.next_micros() / 1000 > START_MILLIS);
    generator.pass_until(START_MILLIS + 1_000_000);
    said.extend(speak(&mut generator, 100));
    assert!(said[100].0 == (START_MILLIS + 1_000_000) * 1000);
    let mut recount = Recount::default();
    for (stamp_micros, _, payload) in &said {
        recount.datagram(stamp_micros / 1_000_000, payload, &table);
    }
    let truth = generator.finish();
    recount.agrees(&truth);
    assert_eq!(truth.intervals.len(), 2);
}

#[test]
fn the_source_brings_batches_of_one_stamp_and_ends() {
    let fabric = rich();
    let table = table(&fabric);
    let clock = Clock::driven(0);
    let generator = fabric.generator(START_MILLIS, 100_000).with_truth(STEP_SECS);
    let mut source = SimulatedSource::new(generator, 2000, Some(clock.clone()));
    let truth = source.truth_ahead();
    let mut recount = Recount::default();
    let mut last = 0;
    while let Batch::Datagrams { count, stamp_millis } = source.receive().unwrap() {
        assert!((1..=BATCH_MAX).contains(&count));
        assert!(stamp_millis >= last && stamp_millis < START_MILLIS + 2000);
        assert_eq!(clock.now_millis(), stamp_millis);
        last = stamp_millis;
        for index in 0..count {
            let received = source.datagram(index);
            assert!(!received.truncated);
            recount.datagram(stamp_millis / 1000, received.payload, &table);
        }
    }
    assert_eq!(clock.now_millis(), START_MILLIS + 2000);
    assert_eq!(source.receive().unwrap(), Batch::End);
    recount.agrees(&truth);
    assert!(recount.flows.abs_diff(200_000) < 100, "{}", recount.flows);
}

#[test]
fn parts_of_a_fabric_share_agents_and_rate() {
    let fabric =
        Fabric::from_toml("members = 100\nagents = 7\ncounters_interval_secs = 5").unwrap();
    let table = table(&fabric);
    let mut agents = HashMap::new();
    let mut whole = None::<Truth>;
    let mut recount = Recount::default();
    for part in 0..3 {
        let generator = fabric.generator_part(START_MILLIS, 3000, part, 3).unwrap();
        let mut source = SimulatedSource::new(generator.with_truth(STEP_SECS), 10_000, None);
        while let Batch::Datagrams { count, stamp_millis } = source.receive().unwrap() {
            for index in 0..count {
                let payload = source.datagram(index).payload;
                assert_eq!(*agents.entry(walk(payload).agent).or_insert(part), part);
                recount.datagram(stamp_millis / 1000, payload, &table);
            }
        }
        let truth = source.into_generator().finish();
        match &mut whole {
            Some(whole) => whole.merge(&truth),
            None => whole = Some(truth),
        }
    }
    assert_eq!(agents.len(), 7);
    assert!(recount.flows.abs_diff(30_000) < 100, "{}", recount.flows);
    recount.agrees(&whole.unwrap());
    assert!(fabric.generator_part(START_MILLIS, 3000, 7, 8).is_none());
}

#[test]
fn the_ring_repeats_all_that_was_rendered() {
    let fabric = rich();
    let mut generator = fabric.generator(START_MILLIS, 1000);
    let datagrams = generator.render(150);
    let bytes: usize = datagrams.iter().map(|(_, payload)| payload.len()).sum();
    let mut ring = RingSource::new(datagrams, 3, START_MILLIS);
    let (mut counts, mut heard) = (Vec::new(), 0);
    while let Batch::Datagrams { count, stamp_millis } = ring.receive().unwrap() {
        assert_eq!(stamp_millis, START_MILLIS);
        heard += (0..count).map(|index| ring.datagram(index).payload.len()).sum::<usize>();
        counts.push(count);
    }
    assert_eq!(ring.receive().unwrap(), Batch::End);
    assert_eq!(counts, [64, 64, 22].repeat(3));
    assert_eq!(heard, 3 * bytes);
}

#[test]
fn descriptions_out_of_bounds_are_refused_by_name() {
    let refused = |text: &str, word: &str| {
        let error = Fabric::from_toml(text).expect_err(text).to_string();
        assert!(error.contains(word), "{text}: {error}");
    };
    refused("memberz = 3", "memberz");
    refused("[[infrastructure]]\nvlans = 1", "vlans");
    refused("[noise]\narps = 1.0", "arps");
    refused("members = 1", "members");
    refused("members = 20001", "members");
    refused("[[infrastructure]]\n[[infrastructure.vlan]]\ntag = 4095", "tag");
    refused("ipv6_share = 1.5", "ipv6_share");
    refused("ipv6_share = nan", "ipv6_share");
    refused("sampling_rate = 0", "sampling_rate");
    refused("frame_length = []", "frame_length");
    refused("frame_length = [{ bytes = 60, share = 1 }]", "frame_length.bytes");
    refused("noise = { arp = 0.6, multicast = 0.6 }", "noise");
    refused("[[switch]]\nagent = \"192.0.2.1\"\ninfrastructure = 9", "no infrastructure 9");
    refused(
        "[[switch]]\nagent = \"192.0.2.1\"\n[[switch]]\nagent = \"192.0.2.1\"",
        "192.0.2.1 with sub-agent 0 is twice",
    );
    refused("[[switch]]\nagent = \"192.0.2.1\"\nif_index_base = 16777214", "if_index");
    let members =
        |lines: &str| format!("[[infrastructure]]\n[[infrastructure.vlan]]\nmember = [{lines}]");
    refused(&members("{ vli = 1 }, { vli = 1 }"), "vli: 1 is twice");
    refused(&members("{ macs = [\"02aa\"] }, {}"), "02aa");
    refused(&members("{ macs = [\"01005e000001\"] }, {}"), "unicast");
    refused(&members("{ macs = [\"020000000001\"] }, { macs = [\"020000000001\"] }"), "macs");
    refused(&members("{ if_index = 5 }, { if_index = 5 }"), "if_index");
    refused(&members("{ switch = 9 }, {}"), "no switch 9");
    refused(&members("{ weight = 0 }, {}"), "almost all traffic");
    refused(&members("{ weight = 1e-30 }, {}"), "almost all traffic");
    refused(&members("{ weight = 0 }, { weight = 0 }"), "above 0");
    refused("frame_length = [{ bytes = 64, share = 0 }]", "frame_length.share");
    refused("[[infrastructure]]\n[[infrastructure.vlan]]\nweight = 0", "above 0");
}

#[test]
fn the_default_fabric_has_twelve_members_on_two_vlans() {
    let fabric = Fabric::from_toml(DEFAULT_FABRIC).unwrap();
    let on = |tag| fabric.vlis().iter().filter(|vli| vli.vlan == VlanTag::new(tag)).count();
    assert_eq!((on(10), on(20)), (12, 6));
    assert_eq!(fabric.switches().len(), 2);
    // A member of both VLANs is one router on one port.
    assert_eq!(fabric.ports().len(), 12);
    assert_eq!(fabric.vlis()[0].macs, fabric.vlis()[12].macs);
    assert!(fabric.vlis()[12..].iter().all(|vli| vli.tagged));
    assert_eq!(fabric.vlis()[..12].iter().filter(|vli| vli.tagged).count(), 4);
}

#[test]
fn the_capture_is_read_by_others() {
    use pcap_parser::traits::PcapReaderIterator;
    use pcap_parser::{LegacyPcapReader, PcapBlockOwned, PcapError};

    let fabric = rich();
    let mut generator = fabric.generator(START_MILLIS, 1000);
    let said = speak(&mut generator, 400);
    let mut writer = PcapWriter::new(Vec::new()).unwrap();
    for (stamp_micros, source, payload) in &said {
        writer.write(*stamp_micros, *source, payload).unwrap();
    }
    let capture = writer.finish().unwrap();

    let mut reader = LegacyPcapReader::new(65_536, &capture[..]).unwrap();
    let mut packets = said.iter();
    loop {
        match reader.next() {
            Ok((offset, PcapBlockOwned::LegacyHeader(header))) => {
                assert_eq!(header.network.0, 1);
                reader.consume(offset);
            }
            Ok((offset, PcapBlockOwned::Legacy(packet))) => {
                let (stamp_micros, source, payload) = packets.next().unwrap();
                let stamp = u64::from(packet.ts_sec) * 1_000_000 + u64::from(packet.ts_usec);
                assert_eq!(stamp, *stamp_micros);
                assert_eq!(packet.caplen, packet.origlen);
                check_packet(packet.data, *source, payload);
                reader.consume(offset);
            }
            Ok((_, PcapBlockOwned::NG(_))) => panic!("not pcapng"),
            Err(PcapError::Eof) => break,
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(packets.next().is_none());

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("simulated.pcap");
    std::fs::write(&file, &capture).unwrap();
    // An extra pair of eyes, where it is installed.
    if let Ok(output) = std::process::Command::new("tcpdump").arg("-nvr").arg(&file).output() {
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.matches("sFlowv5").count(), said.len());
        assert!(!text.contains("bad udp cksum") && !text.contains("bad cksum"));
        assert!(!text.contains("trunc") && !text.contains("invalid"));
    }
}

/// One packet of a capture, checked field by field.
fn check_packet(packet: &[u8], source: SocketAddr, payload: &[u8]) {
    let half = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (udp, addresses) = match half(12) {
        0x0800 => (34, 26..34),
        0x86dd => (54, 22..54),
        other => panic!("EtherType {other:#x}"),
    };
    match source.ip() {
        IpAddr::V4(address) => {
            assert_eq!(packet[26..30], address.octets());
            assert_eq!(usize::from(half(16)), packet.len() - 14);
            assert_eq!(ones_sum(&packet[14..34], 0), 0xffff, "IPv4 checksum");
        }
        IpAddr::V6(address) => {
            assert_eq!(packet[22..38], address.octets());
            assert_eq!(usize::from(half(18)), packet.len() - 54);
        }
    }
    assert_eq!((half(udp), half(udp + 2)), (source.port(), 6343));
    let length = packet.len() - udp;
    assert_eq!(usize::from(half(udp + 4)), length);
    let pseudo = ones_sum(&packet[addresses], 17 + u32::try_from(length).unwrap());
    assert_eq!(ones_sum(&packet[udp..], pseudo), 0xffff, "UDP checksum");
    assert_eq!(&packet[udp + 8..], payload);
}

fn ones_sum(bytes: &[u8], start: u32) -> u32 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[test]
fn what_a_socket_receives_is_what_was_sent() {
    for (address, pace) in [("127.0.0.1:0", Pace::Stamps), ("[::1]:0", Pace::Unbounded)] {
        let listener = match UdpSocket::bind(address) {
            Ok(listener) => listener,
            Err(error) if address.starts_with('[') => {
                eprintln!("no IPv6 loopback: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let fabric = rich();
        let table = table(&fabric);
        let start_millis = Clock::System.now_millis();
        let mut generator = fabric.generator(start_millis, 3000).with_truth(1_000_000_000_000);
        let target = listener.local_addr().unwrap();
        // Few enough for the smallest socket buffer.
        let limit = Limit { datagrams: Some(70), ..Limit::default() };
        let sent =
            send(&mut generator, target, pace, limit, &AtomicBool::new(false), |_| ()).unwrap();
        assert_eq!((sent.datagrams, sent.refusals), (70, 0));
        let mut recount = Recount::default();
        let mut ports: HashMap<(IpAddr, u32), u16> = HashMap::new();
        let mut buffer = [0; 2048];
        for _ in 0..70 {
            let (length, from) = listener.recv_from(&mut buffer).unwrap();
            let walked = walk(&buffer[..length]);
            let port = *ports.entry((walked.agent, walked.sub_agent)).or_insert(from.port());
            assert_eq!(port, from.port(), "an agent changed its socket");
            recount.datagram(0, &buffer[..length], &table);
        }
        let distinct: HashSet<u16> = ports.values().copied().collect();
        assert_eq!(distinct.len(), fabric.switches().len());
        let truth = generator.finish();
        assert_eq!(recount.losses, truth.losses);
        let told: Vec<_> = truth.pairs().iter().map(|pair| pair.traffic).collect();
        assert_eq!(recount.pairs.values().copied().collect::<Vec<_>>(), told);
        assert_eq!((recount.flows, recount.datagrams), (sent.flow_samples, truth.datagrams));
        if pace == Pace::Stamps {
            // 70 datagrams of 3000 samples a second last an eighth of a second.
            assert!(sent.elapsed_millis >= 70, "{sent:?}");
        }
    }
}

#[test]
fn sending_stops_when_told_or_when_time_is_over() {
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let fabric = rich();
    let mut generator = fabric.generator(Clock::System.now_millis(), 100);
    let told = AtomicBool::new(true);
    let sent =
        send(&mut generator, target, Pace::Unbounded, Limit::default(), &told, |_| ()).unwrap();
    assert_eq!(sent.datagrams, 0);
    let limit = Limit { duration_millis: Some(200), datagrams: None };
    let stop = AtomicBool::new(false);
    let sent = send(&mut generator, target, Pace::Stamps, limit, &stop, |_| ()).unwrap();
    assert!(sent.elapsed_millis >= 200);
}

fn request(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: ixp\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all((text + "\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_table_is_served_as_ixp_manager_does() {
    let fabric = Fabric::from_toml(
        "[[infrastructure]]\nid = 3\n[[infrastructure.vlan]]\ntag = 10\nmember = [\n\
         { vli = 7, macs = [\"00:1C:73:AB:0C:FF\", \"001c.73ab.0cfe\"] }, { vli = 8 }]",
    )
    .unwrap();
    let table = r#"{"3":{"10":{"001c73ab0cfe":7,"001c73ab0cff":7,"060000000100":8}}}"#;
    assert_eq!(fabric.mac_table_json(), table);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = ApiServer::start(listener, fabric.mac_table_json(), "secret").unwrap();
    let address = server.address();
    assert_eq!(server.base_url(), format!("http://{address}/api/v4"));
    let learned = "/api/v4/sflow-db-mapper/learned-macs";
    let key = (API_KEY_HEADER, "secret");
    let answer = request(address, learned, &[key]);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with(&format!("\r\n\r\n{table}")), "{answer}");
    let lower = answer.to_lowercase();
    assert!(lower.contains("content-type: application/json\r\n"), "{answer}");
    let etag = lower.split("etag: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    assert_eq!(answer, {
        let other = request(address, "/api/v4/sflow-db-mapper/configured-macs", &[key]);
        // The date may have moved on by a second.
        let date = |text: &str| text.split("date: ").nth(1).unwrap()[..29].to_owned();
        other.replace(&date(&other), &date(&answer))
    });
    for headers in [&[][..], &[(API_KEY_HEADER, "secret2")], &[("If-None-Match", &etag)]] {
        let answer = request(address, learned, headers);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(!answer.contains("001c73"), "{answer}");
    }
    let unchanged = request(address, learned, &[key, ("If-None-Match", &etag)]);
    assert!(unchanged.starts_with("HTTP/1.1 304 "), "{unchanged}");
    assert!(request(address, "/api/v4/other", &[key]).starts_with("HTTP/1.1 404 "));
    server.replace_table("[]".to_owned());
    let replaced = request(address, learned, &[key, ("If-None-Match", &etag)]);
    assert!(replaced.starts_with("HTTP/1.1 200 ") && replaced.ends_with("\r\n\r\n[]"));
    server.stop();
    assert!(TcpStream::connect(address).is_err());
}

#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    arguments: ixflow::command::simulate::Arguments,
}

fn arguments(line: &[&str]) -> Result<ixflow::command::simulate::Arguments, clap::Error> {
    use clap::Parser;

    CommandLine::try_parse_from([&["simulate"], line].concat()).map(|line| line.arguments)
}

#[test]
fn the_command_writes_capture_truth_and_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (pcap, truth, macs) = (path("a.pcap"), path("truth.jsonl"), path("macs.json"));
    let line = [
        "--pcap",
        &pcap,
        "--truth",
        &truth,
        "--mac-table",
        &macs,
        "--start",
        "1700000000",
        "--duration",
        "60",
        "--rate",
        "100",
        "--members",
        "20",
        "--agents",
        "3",
        "--samples-per-datagram",
        "4",
    ];
    ixflow::command::simulate::run(&arguments(&line).unwrap()).unwrap();

    let mut description: ixflow::simulate::Description = toml::from_str(DEFAULT_FABRIC).unwrap();
    description.members = 20;
    description.agents = 3;
    description.samples_per_datagram = 4;
    description.switch.clear();
    let fabric = Fabric::new(description).unwrap();
    assert_eq!(std::fs::read_to_string(macs).unwrap(), fabric.mac_table_json());
    let mut generator = fabric.generator(START_MILLIS, 100).with_truth(STEP_SECS);
    let mut writer = PcapWriter::new(Vec::new()).unwrap();
    let mut payload = Vec::new();
    while generator.next_micros() < (START_MILLIS + 60_000) * 1000 {
        let emitted = generator.generate(&mut payload);
        assert!(emitted.flow_samples <= 4);
        writer.write(emitted.stamp_micros, emitted.source, &payload).unwrap();
    }
    assert!(std::fs::read(pcap).unwrap() == writer.finish().unwrap());
    let mut lines = Vec::new();
    generator.finish().write_json_lines(&mut lines).unwrap();
    assert!(std::fs::read(truth).unwrap() == lines);
}

#[test]
fn the_command_refuses_what_cannot_be() {
    use ixflow::command::simulate::run;

    let said = |line: &[&str]| run(&arguments(line).unwrap()).unwrap_err().to_string();
    assert_eq!(said(&["--rate", "max"]), "--rate max needs --target");
    assert!(said(&["--members", "1"]).starts_with("the built-in fabric: members: 1 is not"));
    assert!(said(&["--fabric", "/nonexistent/f.toml"]).starts_with("/nonexistent/f.toml: "));
    for line in [
        &["--rate", "0"][..],
        &["--rate", "fast"],
        &["--pcap", "a", "--target", "127.0.0.1:6343"],
        &["--start", "1"],
        &["--api-key", "secret"],
    ] {
        assert!(arguments(line).is_err(), "{line:?}");
    }
}
