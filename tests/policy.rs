//! What real agents send, and what the policy of an agent makes of it. Every row of the table of
//! agents' habits (compat.md, section 5) has its test:
//!
//! | seen | test |
//! |---|---|
//! | only egress samples; expanded, large ifIndexes, VLAN in the tag only | `an_egress_switch_is_found_and_mended`; `decode::expanded_fields_use_all_their_bits`, `decode::captures_read_as_an_independent_decoder_reads_them` |
//! | one data source samples both directions | `directions_by_data_source`, `both_directions_count_twice_and_are_found` |
//! | the data source is neither input nor output | `directions_by_data_source` |
//! | raw header, sampled Ethernet, switch and IPv4 in one sample | `one_sample_is_one_packet_of_the_raw_headers_length` |
//! | a sample longer than its records; `stripped` with the VLAN in the switch record alone | `decode::bytes_behind_the_records_and_behind_the_samples_are_left_alone`, `vlans_that_are_absent` |
//! | extended switch with VLAN 0/0, priority tags | `vlans_that_are_absent` |
//! | VLAN 0xffffffff, input 0 and 0x3fffffff | `vlans_that_are_absent`, `ports_that_are_none` |
//! | stacks of tags of every TPID | `ethernet::every_tag_protocol_is_known_and_gives_its_12_bits`, `resolve::vlan_is_the_outermost_tag_that_the_table_knows`, `vlans_that_are_absent` |
//! | header protocol 11 and 12 | `one_sample_is_one_packet_of_the_raw_headers_length` |
//! | two sequence spaces behind one agent | `agent::sequence::two_senders_behind_one_address_do_not_explode` |
//! | rates that differ, change, are 0 or absurd | `agent::rates_are_watched`, `truth::whatever_is_not_counted_has_a_name` |
//! | cumulative drops, synthetic pool | `agent::agent_drops_are_the_growth_of_a_cumulative_field`, `agent::scaling::a_pool_that_is_made_up_is_not_believed` |
//! | implausible frame lengths | `truth::whatever_is_not_counted_has_a_name` |
//! | NetFlow on the sFlow port | `truth::whatever_is_not_counted_has_a_name` |
//! | discarded by the switch | `truth::whatever_is_not_counted_has_a_name`, `decode::discarded_packets_are_counted_and_not_read` |
//! | the frame length has the FCS in it | `one_sample_is_one_packet_of_the_raw_headers_length` |

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use ixflow::agent::{Agents, Totals};
use ixflow::control::config::Config;
use ixflow::count::Traffic;
use ixflow::finding::Finding;
use ixflow::flush::Interval;
use ixflow::flush::backlog::WhenFull;
use ixflow::ixp::{InfrastructureId, Mac, MacRecord, VlanTag, VliId};
use ixflow::loss::Loss;
use ixflow::pipeline::{Pipeline, Setup};
use ixflow::receive::{Batch, Received, Source};
use ixflow::resolve::{MacTable, Plan, Policy};
use ixflow::sightings::{Encapsulated, End};
use ixflow::simulate::{Fabric, SimulatedSource, Truth};
use ixflow::sink::{Receipt, Sink, SinkError};
use ixflow::state::State;

use crate::support::datagram::{block, datagram, flow, flow_content, frame, raw, switch, words};
use crate::support::path::START_SECS;

type Pairs = BTreeMap<(VliId, VliId), Traffic>;

/// Keeps the intervals by their end.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<u64, Pairs>>>);

impl Sink for Kept {
    fn write(&mut self, interval: &Interval) -> Result<Receipt, SinkError> {
        let mut kept = self.0.lock().unwrap();
        let sums = kept.entry(interval.to_secs).or_default();
        for pair in &interval.pairs {
            sums.entry((pair.source, pair.destination)).or_default().merge(&pair.traffic);
        }
        Ok(Receipt::default())
    }

    fn describe(&self) -> String {
        "kept".into()
    }
}

/// What came of a run.
struct Outcome {
    state: Arc<State>,
    intervals: BTreeMap<u64, Pairs>,
}

impl Outcome {
    fn totals(&self) -> Totals {
        self.state.agents.totals()
    }

    fn pairs(&self) -> Pairs {
        let mut sums = Pairs::new();
        for (pair, traffic) in self.intervals.values().flatten() {
            sums.entry(*pair).or_default().merge(traffic);
        }
        sums
    }

    fn findings(&self) -> Vec<Finding> {
        self.state.refresh_findings();
        self.state.findings().clone()
    }

    fn named(&self, name: &str) -> Vec<Finding> {
        self.findings().into_iter().filter(|finding| finding.name == name).collect()
    }
}

/// The policy of a block of settings for each agent.
fn policy(agents: &[(&str, &str)]) -> Policy {
    let blocks: String = agents
        .iter()
        .map(|(agent, settings)| format!("<sflow_agent {agent}>\n{settings}\n</sflow_agent>\n"))
        .collect();
    let config = Config::from_text("test", &format!("<ixp>\n{blocks}</ixp>\n"), &[]).unwrap();
    Policy { agents: config.agents, ..Policy::default() }
}

fn run<S: Source + Send + 'static>(source: S, records: &[MacRecord], policy: Policy) -> Outcome {
    let kept = Kept::default();
    let (table, _) = MacTable::build(records).unwrap();
    let setup = Setup {
        step_secs: 300,
        from_millis: Some(START_SECS * 1_000),
        backlog_max: 100,
        when_full: WhenFull::Wait,
        keep: None,
    };
    let state = Arc::new(State::new(Agents::new(100, 10_000), 1));
    let plan = Plan { table, policy };
    let pipeline =
        Pipeline::start(vec![move || source], plan, setup, vec![Box::new(kept.clone())], &state)
            .unwrap();
    pipeline.join().unwrap();
    let intervals = std::mem::take(&mut *kept.0.lock().unwrap());
    Outcome { state, intervals }
}

/// Ten minutes of a fabric, with the settings; and the truth.
fn simulate(toml: &str, agents: &[(&str, &str)]) -> (Outcome, Truth) {
    let fabric = Fabric::from_toml(toml).unwrap();
    let generator = fabric.generator(START_SECS * 1_000, 200).with_truth(300);
    let source = SimulatedSource::new(generator, 600_000, None);
    let truth = source.truth_ahead();
    (run(source, &fabric.mac_table(), policy(agents)), truth)
}

fn pairs(truth: &Truth) -> Pairs {
    truth.pairs().into_iter().map(|pair| ((pair.source, pair.destination), pair.traffic)).collect()
}

/// Every pair of every interval, every loss, and nothing that looks wrong.
fn assert_mended(outcome: &Outcome, truth: &Truth) {
    let totals = outcome.totals();
    assert_eq!(totals.flow_samples, truth.flow_samples);
    assert_eq!(totals.losses, truth.losses);
    assert_eq!(outcome.pairs(), pairs(truth));
    assert_eq!(outcome.findings(), []);
}

/// The finding names the setting that mends it.
fn assert_remedy(finding: &Finding, agent: &str, setting: &str) {
    let remedy = &finding.remedy;
    assert!(remedy.contains(setting), "{finding}");
    assert!(remedy.contains(&format!("<sflow_agent {agent}>")), "{finding}");
}

/// Two switches with members of one VLAN.
const TWO_SWITCHES: &str = r#"
seed = 5
members = 14
zipf_exponent = 0.4
tagged_share = 1.0

[[switch]]
agent = "192.0.2.1"
sampling_rate = 1021
if_index_base = 1

[[switch]]
agent = "192.0.2.2"
sampling_rate = 2039
if_index_base = 101
"#;

#[test]
fn a_healthy_fabric_has_no_findings() {
    let noise = "noise = { arp = 0.01, multicast = 0.01, same_vli = 0.01, discarded = 0.01 }";
    let (outcome, truth) = simulate(&format!("{noise}\n{TWO_SWITCHES}"), &[]);
    assert_mended(&outcome, &truth);
    let (ether_types, others) = outcome.state.sightings.ether_types();
    let names: Vec<_> = ether_types.iter().map(|row| (row.ether_type, row.name)).collect();
    assert_eq!((names, others), (vec![(0x0806, "ARP"); 2], 0));
    let samples: u64 = ether_types.iter().map(|row| row.samples).sum();
    assert_eq!(samples, truth.losses.of(Loss::NotIp));
}

#[test]
fn an_egress_switch_is_found_and_mended() {
    // On an infrastructure of its own: where others sample ingress, packets between them and it
    // are sampled twice one way, and not at all the other.
    let fabric = r#"
members = 8
[[infrastructure]]
id = 1
[[infrastructure.vlan]]
tag = 10
[[infrastructure]]
id = 2
[[infrastructure.vlan]]
tag = 20
[[switch]]
agent = "192.0.2.1"
infrastructure = 1
[[switch]]
agent = "192.0.2.2"
infrastructure = 2
egress = true
expanded = true
if_index_base = 33554432
extended_switch = "untagged"
"#;
    let (outcome, truth) = simulate(fabric, &[]);
    let [finding] = &outcome.findings()[..] else { panic!("{:?}", outcome.findings()) };
    assert_eq!((finding.name, finding.subject.as_str()), ("egress_samples", "192.0.2.2"));
    assert_remedy(finding, "192.0.2.2", "direction = egress");
    assert!(outcome.pairs().len() < pairs(&truth).len());
    let (outcome, truth) = simulate(fabric, &[("192.0.2.2", "direction = egress")]);
    assert_mended(&outcome, &truth);
    // The other way round it is found as well.
    let (outcome, _) = simulate(fabric, &[("192.0.2.1", "direction = egress")]);
    let [finding] = &outcome.named("ingress_samples")[..] else { panic!() };
    assert_remedy(finding, "192.0.2.1", "direction = ingress");
}

#[test]
fn both_directions_count_twice_and_are_found() {
    let fabric = format!("noise = {{ egress = 0.3 }}\n{TWO_SWITCHES}");
    let both = [("192.0.2.1", "direction = both"), ("192.0.2.2", "direction = both")];
    let (outcome, truth) = simulate(&fabric, &both);
    let findings = outcome.named("both_directions");
    assert_eq!(findings.len(), 2);
    assert_remedy(&findings[0], "192.0.2.1", "direction = ingress");
    assert_eq!(outcome.totals().counted, truth.flow_samples);
    let (outcome, truth) = simulate(&fabric, &[]);
    assert_mended(&outcome, &truth);
}

#[test]
fn core_ports_are_found_and_left_out() {
    let fabric = format!("noise = {{ core = 0.3 }}\n{TWO_SWITCHES}");
    let (outcome, truth) = simulate(&fabric, &[]);
    let twice = truth.losses.of(Loss::CorePort);
    assert!(twice > 30_000, "{twice}");
    let findings = outcome.findings();
    let found: Vec<_> = findings.iter().map(|f| (f.name, f.subject.as_str())).collect();
    let expected = [("core_port", "192.0.2.1 ifIndex 1"), ("core_port", "192.0.2.2 ifIndex 101")];
    assert_eq!(found, expected);
    assert_remedy(&findings[1], "192.0.2.2", "core_ports = 101");
    assert_eq!(outcome.totals().losses.of(Loss::CorePort), 0, "reported, and counted");
    assert_eq!(outcome.totals().counted, truth.flow_samples);

    let listed = [("192.0.2.1", "core_ports = 1"), ("192.0.2.2", "core_ports = 101, 102")];
    let (outcome, truth) = simulate(&fabric, &[listed[0], ("192.0.2.2", "core_ports = 101")]);
    assert_mended(&outcome, &truth);
    // A port that is listed is a member's: what it lacks is told.
    let (outcome, _) = simulate(&fabric, &listed);
    assert!(outcome.totals().losses.of(Loss::CorePort) > twice);

    // Learned within the first minutes; then every interval is the truth.
    let auto = [("192.0.2.1", "core_ports = auto"), ("192.0.2.2", "core_ports = auto")];
    let (outcome, truth) = simulate(&fabric, &auto);
    assert_eq!(outcome.findings(), []);
    assert!(outcome.state.sightings.core_ports().iter().all(|core| core.left_out));
    let second = &truth.intervals[1];
    let expected: Pairs =
        second.pairs.iter().map(|pair| ((pair.source, pair.destination), pair.traffic)).collect();
    assert_eq!(outcome.intervals[&second.to_secs], expected);

    let off = [("192.0.2.1", "core_ports = off"), ("192.0.2.2", "core_ports = off")];
    let (outcome, _) = simulate(&fabric, &off);
    assert_eq!(outcome.findings(), []);
}

#[test]
fn translated_vlans_are_found_and_mended() {
    let fabric = format!("{TWO_SWITCHES}\ntranslate = [{{ vlan = 10, port_vlan = 2017 }}]\n");
    let (outcome, truth) = simulate(&fabric, &[]);
    let lost = outcome.totals().losses.of(Loss::UnknownVlan);
    assert!(lost > 10_000);
    assert_eq!(outcome.totals().counted + lost, truth.flow_samples);
    let [finding] = &outcome.findings()[..] else { panic!("{:?}", outcome.findings()) };
    assert_eq!(finding.name, "vlan_translated");
    assert_remedy(finding, "192.0.2.2", "vlan_alias = 2017=10");
    let (vlans, _) = outcome.state.sightings.unknown_vlans(100);
    assert_eq!(vlans.iter().map(|row| row.samples).sum::<u64>(), lost);
    let (outcome, truth) = simulate(&fabric, &[("192.0.2.2", "vlan_alias = 2017=10")]);
    assert_mended(&outcome, &truth);
    let by_port: Vec<_> = vlans
        .iter()
        .map(|row| format!("{}:2017={}", row.port.if_index.unwrap(), row.meant.unwrap()))
        .collect();
    let by_port = format!("vlan_alias = {}", by_port.join(" "));
    let (outcome, truth) = simulate(&fabric, &[("192.0.2.2", &by_port)]);
    assert_mended(&outcome, &truth);
}

#[test]
fn a_member_that_is_missing_in_the_table_is_named() {
    let fabric = format!("noise = {{ arp = 0.05 }}\n{TWO_SWITCHES}");
    let missing = format!("missing_members = 1\n{fabric}");
    let (outcome, truth) = simulate(&missing, &[]);
    let whole = Fabric::from_toml(&fabric).unwrap();
    let member = &whole.vlis()[0];
    let totals = outcome.totals();
    let lost = [Loss::UnknownSource, Loss::UnknownDestination].map(|loss| totals.losses.of(loss));
    let of = |pair: &(VliId, VliId)| [pair.0 == member.id, pair.1 == member.id];
    let mut spoken = [0, 0];
    for (pair, traffic) in pairs(&truth) {
        for (sum, counts) in spoken.iter_mut().zip(of(&pair)) {
            *sum += u64::from(counts) * traffic.samples.iter().map(|n| u64::from(*n)).sum::<u64>();
        }
    }
    assert_eq!(lost, spoken);
    let (macs, others) = outcome.state.unknown_macs(100);
    assert_eq!(others, 0);
    let end = |end| macs.iter().filter(move |row| row.end == end);
    let sent: Vec<_> = end(End::Source).collect();
    let [sent] = sent[..] else { panic!("{sent:?}") };
    assert_eq!((sent.mac, sent.samples), (member.macs[0], spoken[0]));
    assert_eq!(
        (sent.vlan, sent.port.agent),
        (VlanTag::new(10), "192.0.2.1".parse::<IpAddr>().unwrap())
    );
    assert_eq!(sent.port.if_index, Some(whole.ports()[member.port].if_index));
    assert_eq!(sent.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()], "by its ARP");
    assert_eq!(sent.known_on, []);
    let first = whole.switches()[0].agent;
    let all = outcome.state.agents.flow_samples()[&first];
    assert_eq!(sent.share, spoken[0] as f64 / all as f64);
    assert!(sent.first_seen_millis < START_SECS * 1_000 + 60_000);
    assert!(sent.last_seen_millis > START_SECS * 1_000 + 540_000);
    let received: u64 = end(End::Destination).map(|row| row.samples).sum();
    assert_eq!(received, spoken[1]);
    let finding = &outcome.named("unknown_source")[0];
    assert!(finding.what.contains(&sent.mac.to_string()), "{finding}");
    assert!(finding.what.contains("10.0.0.1"), "{finding}");
    let (outcome, truth) = simulate(&fabric, &[]);
    assert_mended(&outcome, &truth);
}

/// One source after another.
struct Then<A, B> {
    first: A,
    second: B,
    is_second: bool,
}

impl<A: Source, B: Source> Source for Then<A, B> {
    fn receive(&mut self) -> io::Result<Batch> {
        if !self.is_second {
            match self.first.receive()? {
                Batch::End => self.is_second = true,
                batch => return Ok(batch),
            }
        }
        self.second.receive()
    }

    fn datagram(&self, index: usize) -> Received<'_> {
        if self.is_second { self.second.datagram(index) } else { self.first.datagram(index) }
    }
}

/// Members of VLAN 10 with their ports.
fn members_at(ports: &[(u32, u32)]) -> Fabric {
    let members: String = ports
        .iter()
        .map(|(vli, if_index)| {
            format!(
                "[[infrastructure.vlan.member]]\nvli = {vli}\nmacs = [\"02:00:00:00:01:0{vli}\"]\n\
                 tagged = true\nif_index = {if_index}\nweight = 1.0\n"
            )
        })
        .collect();
    let toml = format!(
        "[[infrastructure]]\nid = 1\n[[infrastructure.vlan]]\ntag = 10\n{members}[[switch]]\n\
         agent = \"192.0.2.1\"\n"
    );
    Fabric::from_toml(&toml).unwrap()
}

#[test]
fn a_member_at_anothers_port_is_found_and_counts_as_itself() {
    let fabric = members_at(&[(1, 5), (2, 6), (3, 7)]);
    let part = |fabric: &Fabric, from_secs: u64, secs: u64| {
        let generator = fabric.generator((START_SECS + from_secs) * 1_000, 200).with_truth(300);
        let source = SimulatedSource::new(generator, secs * 1_000, None);
        let truth = source.truth_ahead();
        (source, truth)
    };
    let (source, _) = part(&fabric, 0, 600);
    assert_eq!(run(source, &fabric.mac_table(), policy(&[])).findings(), []);
    // Later VLI 1 speaks at the port of VLI 2: a loop, or a cable in the wrong place.
    let (first, mut said) = part(&fabric, 0, 300);
    let (second, more) = part(&members_at(&[(1, 6), (3, 7)]), 300, 150);
    let outcome = run(Then { first, second, is_second: false }, &fabric.mac_table(), policy(&[]));
    let [finding] = &outcome.named("wrong_port")[..] else { panic!("{:?}", outcome.findings()) };
    assert_eq!(finding.subject, "192.0.2.1 ifIndex 6");
    let what = "02:00:00:00:01:01 of VLI 1 comes in at the port of VLI 2; it usually comes in at \
                192.0.2.1 ifIndex 5";
    assert_eq!(finding.what, what);
    said.intervals.extend(more.intervals);
    assert_eq!(outcome.pairs(), pairs(&said));
    assert_eq!(outcome.totals().losses, said.losses);
}

#[test]
fn a_member_on_the_wrong_vlan_of_the_table_is_found_and_mended() {
    let fabric = Fabric::from_toml(TWO_SWITCHES).unwrap();
    let member = &fabric.vlis()[0];
    let source = || {
        let generator = fabric.generator(START_SECS * 1_000, 200).with_truth(300);
        SimulatedSource::new(generator, 600_000, None)
    };
    let truth = source().truth_ahead();
    let mut records = fabric.mac_table();
    for record in records.iter_mut().filter(|record| record.vli == member.id) {
        record.vlan = VlanTag::new(20);
    }
    let outcome = run(source(), &records, policy(&[]));
    let [finding] = &outcome.named("unknown_source")[..] else {
        panic!("{:?}", outcome.findings())
    };
    let known = format!("the table knows it as VLI {} on VLAN 20", member.id.0);
    assert!(finding.what.contains(&known), "{finding}");
    assert!(finding.what.contains(&format!("from {} on VLAN 10", member.macs[0])), "{finding}");
    assert!(finding.remedy.contains("correct the member's VLAN interface"), "{finding}");
    let of_member = |pair: &(VliId, VliId)| pair.0 == member.id || pair.1 == member.id;
    let mut others = pairs(&truth);
    others.retain(|pair, _| !of_member(pair));
    assert_eq!(outcome.pairs(), others);
    assert_mended(&run(source(), &fabric.mac_table(), policy(&[])), &truth);
}

#[test]
fn double_export_is_found_and_mended() {
    let fabric = format!("{TWO_SWITCHES}\nrepeated_as = \"192.0.2.99\"\n");
    let (outcome, truth) = simulate(&fabric, &[]);
    assert_eq!(outcome.totals().counted, truth.flow_samples, "twice");
    let [finding] = &outcome.findings()[..] else { panic!("{:?}", outcome.findings()) };
    assert_eq!(
        (finding.name, finding.subject.as_str()),
        ("double_export", "192.0.2.2 and 192.0.2.99")
    );
    assert_remedy(finding, "192.0.2.99", "direction = none");
    let (outcome, truth) = simulate(&fabric, &[("192.0.2.99", "direction = none")]);
    assert_mended(&outcome, &truth);
}

const A: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
const B: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
const X: [u8; 6] = [0x06, 0, 0, 0, 0, 0x01];
const Y: [u8; 6] = [0x06, 0, 0, 0, 0, 0x02];

/// The agent of [`datagram`].
const AGENT: &str = "192.0.2.77";

fn record(infrastructure: u32, vlan: u32, mac: [u8; 6], vli: u32) -> MacRecord {
    MacRecord {
        infrastructure: InfrastructureId(infrastructure),
        vlan: VlanTag::new(vlan),
        mac: Mac::from_octets(mac),
        vli: VliId(vli),
    }
}

/// A and B on VLAN 10.
fn table() -> Vec<MacRecord> {
    vec![record(1, 10, A, 1), record(1, 10, B, 2)]
}

/// Plays a datagram in the first second.
struct Once {
    payload: Vec<u8>,
    played: bool,
}

impl Source for Once {
    fn receive(&mut self) -> io::Result<Batch> {
        if std::mem::replace(&mut self.played, true) {
            return Ok(Batch::End);
        }
        Ok(Batch::Datagrams { count: 1, stamp_millis: START_SECS * 1_000 + 90_000 })
    }

    fn datagram(&self, _: usize) -> Received<'_> {
        let source = SocketAddr::from(([192, 0, 2, 77], 6_343));
        Received { source, payload: &self.payload, truncated: false }
    }
}

fn play(samples: &[Vec<u8>], records: &[MacRecord], settings: &str) -> Outcome {
    let source = Once { payload: datagram(samples), played: false };
    run(source, records, policy(&[(AGENT, settings)]))
}

/// Source, destination and bytes.
type PairBytes = (u32, u32, u64);

/// Pairs (of samples of rate 1), and losses by name.
fn result(outcome: &Outcome) -> (Vec<PairBytes>, Vec<(&'static str, u64)>) {
    let bytes = |traffic: Traffic| traffic.bytes.iter().sum::<u64>();
    let pairs = outcome.pairs().into_iter().map(|((s, d), t)| (s.0, d.0, bytes(t)));
    let losses = outcome.totals().losses;
    (pairs.collect(), losses.iter().map(|(loss, count)| (loss.name(), count)).collect())
}

/// An untagged frame.
fn bare(source: [u8; 6], destination: [u8; 6], behind: &[u8]) -> Vec<u8> {
    let mut bytes = [&destination[..], &source, behind].concat();
    bytes.resize(bytes.len().max(60), 0x45);
    bytes
}

fn vxlan(port: u16, inner: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend([10, 9, 0, 1, 10, 9, 0, 2, 0xc0, 0]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 42, 0]);
    [&packet[..], inner].concat()
}

fn vxlan_v6(port: u16, inner: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 17, 64];
    packet.extend([[0x20, 0x01, 0x0d, 0xb8], [0; 4], [0; 4], [0, 0, 0, 1]].concat().repeat(2));
    packet.extend([0xc0, 0]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 42, 0]);
    [&packet[..], inner].concat()
}

#[test]
fn frames_inside_of_frames_count_where_the_agent_decapsulates() {
    let inner = frame(A, B, 10, 0x0800);
    let plain = bare(A, B, &[0x86, 0xdd]);
    let mpls = |word: &[u8], inner: &[u8]| {
        bare(X, Y, &[&[0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64][..], word, inner].concat())
    };
    let mut zero = plain.clone();
    // An address that begins as a control word does.
    zero[0] = 0x00;
    let records = [table(), vec![record(1, 10, [0, 0, 0, 0, 0, 0x0b], 3)]].concat();
    let service = [&[0x88, 0xe7, 0, 0, 1, 2][..], &inner].concat();
    let backbone = [&[0x88, 0xa8, 0, 100][..], &service].concat();
    let v4 = bare(X, Y, &vxlan(4_789, &inner));
    // (outer frame, what wraps it, bytes that do, receiver)
    let backbone_v6 = [&[0x81, 0, 0, 99][..], &vxlan_v6(4_789, &inner)].concat();
    let cases: [(Vec<u8>, &str, u64, u32); 13] = [
        (v4.clone(), "vxlan", 50, 2),
        (bare(X, Y, &vxlan(4_789, &plain)), "vxlan", 50, 2),
        (bare(X, Y, &vxlan(8_472, &inner)), "vxlan:8472", 50, 2),
        (bare(X, Y, &vxlan_v6(4_789, &inner)), "vxlan", 70, 2),
        (bare(X, Y, &vxlan_v6(4_789, &plain)), "vxlan", 70, 2),
        (bare(X, Y, &vxlan_v6(8_472, &inner)), "vxlan:8472", 70, 2),
        (bare(X, Y, &backbone_v6), "vxlan", 74, 2),
        (mpls(&[], &plain), "mpls", 22, 2),
        (mpls(&[], &inner), "mpls", 22, 2),
        (mpls(&[0, 0, 0, 9], &inner), "mpls", 26, 2),
        (mpls(&[], &zero), "mpls", 22, 3),
        (bare(X, Y, &service), "pbb", 18, 2),
        (bare(X, Y, &backbone), "pbb", 22, 2),
    ];
    for (outer, word, wrapped, receiver) in &cases {
        let samples = [flow(1, &[raw(1_000, outer)])];
        let decapsulated = play(&samples, &records, &format!("decapsulate = {word}"));
        let counted = (vec![(1, *receiver, 1_000 - wrapped)], vec![]);
        assert_eq!(result(&decapsulated), counted, "{word}: {outer:02x?}");
        assert_eq!(decapsulated.findings(), []);

        let others = if *word == "pbb" { "mpls vxlan" } else { "pbb" };
        for settings in ["", &format!("decapsulate = {others}")] {
            let left = play(&samples, &records, settings);
            assert_eq!(result(&left), (vec![], vec![("encapsulated", 1)]), "{word}");
            let [finding] = &left.findings()[..] else { panic!("{:?}", left.findings()) };
            assert_eq!(finding.name, "encapsulated");
            assert_remedy(finding, AGENT, &format!("decapsulate = {word} in"));
            let [Encapsulated { samples: 1, .. }] = left.state.sightings.encapsulated()[..] else {
                panic!();
            };
        }
    }
    // Several at once, behind a tag of the backbone that the switch names as well.
    let tagged = [&Y[..], &X, &[0x81, 0, 0, 99], &v4[12..]].concat();
    let samples = [
        flow(1, &[raw(1_000, &tagged), switch(99)]),
        flow(1, &[raw(1_000, &bare(X, Y, &backbone))]),
        flow(1, &[raw(1_000, &bare(X, Y, &vxlan(4_789, &bare(A, B, &[0x08, 0x06]))))]),
        flow(1, &[raw(1_000, &bare(X, Y, &vxlan(4_789, &bare(A, X, &[0x08, 0x00]))))]),
        flow(1, &[raw(1_000, &v4[..55])]),
    ];
    let outcome = play(&samples, &table(), "decapsulate = vxlan pbb");
    let losses = vec![("header_truncated", 1), ("not_ip", 1), ("unknown_destination", 1)];
    assert_eq!(result(&outcome), (vec![(1, 2, 1_000 - 54 + 1_000 - 22)], losses));
}

#[test]
fn what_members_send_to_each_other_is_theirs_whatever_is_inside() {
    let inner = frame(B, A, 10, 0x0800);
    let tagged = |behind: &[u8]| bare(A, B, &[&[0x81, 0, 0, 10][..], behind].concat());
    let samples = [
        flow(1, &[raw(1_000, &tagged(&vxlan(4_789, &inner)))]),
        flow(1, &[raw(1_000, &tagged(&[&[0x88, 0xe7, 0, 0, 1, 2][..], &inner].concat()))]),
    ];
    for settings in ["", "decapsulate = vxlan mpls pbb"] {
        let outcome = play(&samples, &table(), settings);
        assert_eq!(result(&outcome), (vec![(1, 2, 1_000)], vec![("not_ip", 1)]), "{settings}");
    }
}

#[test]
fn a_frame_that_names_no_vlan_is_on_the_one_on_which_both_ends_are() {
    let untagged = flow(1, &[raw(1_000, &bare(A, B, &[0x08, 0x00]))]);
    let samples = [untagged];
    let outcome = play(&samples, &table(), "");
    assert_eq!(result(&outcome), (vec![(1, 2, 1_000)], vec![]));
    assert_eq!((outcome.totals().counted, outcome.totals().vlan_inferred), (1, 1));

    // On several it cannot be told, unless it is said.
    let several = [table(), vec![record(1, 20, A, 3), record(1, 20, B, 4)]].concat();
    let outcome = play(&vec![samples[0].clone(); 20], &several, "");
    assert_eq!(result(&outcome), (vec![], vec![("unknown_vlan", 20)]));
    let [finding] = &outcome.findings()[..] else { panic!("{:?}", outcome.findings()) };
    assert_eq!(finding.name, "vlan_not_told");
    assert_remedy(finding, AGENT, "untagged_vlan");
    let outcome = play(&samples, &several, "untagged_vlan = 20");
    assert_eq!(result(&outcome), (vec![(3, 4, 1_000)], vec![]));
    assert_eq!(outcome.totals().vlan_inferred, 0, "it was said");

    // Who is unknown is unknown, and not his VLAN.
    let strangers = [bare(X, B, &[0x08, 0x00]), bare(A, X, &[0x08, 0x00])];
    let samples: Vec<_> = strangers.iter().map(|frame| flow(1, &[raw(1_000, frame)])).collect();
    let losses = vec![("unknown_source", 1), ("unknown_destination", 1)];
    assert_eq!(result(&play(&samples, &table(), "")), (vec![], losses));
}

#[test]
fn vlans_that_are_absent() {
    let plain = bare(A, B, &[0x08, 0x00]);
    let priority = bare(A, B, &[0x81, 0, 0xe0, 0, 0x08, 0x00]);
    let reserved = bare(A, B, &[0x81, 0, 0x0f, 0xff, 0x08, 0x00]);
    let stacked = bare(A, B, &[0x91, 0, 0, 99, 0x92, 0, 0, 10, 0x08, 0x00]);
    let tagged = frame(A, B, 10, 0x0800);
    let one_way = |vlans: [u32; 2]| block(1001, &words(&[vlans[0], 0, vlans[1], 0]));
    // Beside a second VLAN of both, so that nothing can be inferred.
    let records = [table(), vec![record(1, 20, A, 3), record(1, 20, B, 4)]].concat();
    let samples = [
        flow(1, &[raw(100, &tagged), switch(0)]),
        flow(1, &[raw(100, &plain), switch(10)]),
        flow(1, &[raw(100, &priority), switch(10)]),
        flow(1, &[raw(100, &reserved), switch(10)]),
        flow(1, &[raw(100, &plain), one_way([0, 10])]),
        flow(1, &[raw(100, &plain), one_way([u32::MAX, 10])]),
        flow(1, &[raw(100, &plain), one_way([4_095, 10])]),
        flow(1, &[raw(100, &stacked)]),
        flow(1, &[raw(100, &stacked), switch(20)]),
    ];
    let outcome = play(&samples, &records, "");
    assert_eq!(result(&outcome), (vec![(1, 2, 900)], vec![]));
    let nothing = [
        flow(1, &[raw(100, &priority), switch(0)]),
        flow(1, &[raw(100, &plain), switch(u32::MAX)]),
        flow(1, &[raw(100, &plain)]),
    ];
    assert_eq!(result(&play(&nothing, &records, "")), (vec![], vec![("unknown_vlan", 3)]));
}

/// A compact flow sample of a data source, with input and output.
fn between(source: u32, input: u32, output: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(records.len()).unwrap();
    let mut content = flow_content(1, count, records);
    content[4..8].copy_from_slice(&source.to_be_bytes());
    content[20..24].copy_from_slice(&input.to_be_bytes());
    content[24..28].copy_from_slice(&output.to_be_bytes());
    block(1, &content)
}

#[test]
fn directions_by_data_source() {
    let header = [raw(100, &frame(A, B, 10, 0x0800))];
    let ingress = between(3, 3, 4, &header);
    let egress = between(4, 3, 4, &header);
    // A LAG or a bridge as the data source; the same port on both sides counts as ingress.
    let unknown = between(1_000, 3, 4, &header);
    let same = between(3, 3, 3, &header);
    let samples = [ingress, egress, unknown, same];
    for (settings, counted) in [
        ("", 3),
        ("direction = ingress", 3),
        ("direction = egress", 2),
        ("direction = both", 4),
        ("direction = none", 0),
    ] {
        let outcome = play(&samples, &table(), settings);
        let totals = outcome.totals();
        assert_eq!((totals.counted, totals.losses.of(Loss::Direction)), (counted, 4 - counted));
        assert_eq!(outcome.state.agents.list()[0].state().directions, [2, 1, 1]);
    }
}

#[test]
fn ports_that_are_none() {
    let header = [raw(100, &frame(X, B, 10, 0x0800))];
    let samples = [between(1_000, 0, 4, &header), between(1_000, 0x3fff_ffff, 4, &header)];
    let outcome = play(&samples, &table(), "");
    let (macs, _) = outcome.state.unknown_macs(10);
    let [row] = &macs[..] else { panic!("{macs:?}") };
    assert_eq!((row.port.if_index, row.samples), (None, 2));
}

#[test]
fn one_sample_is_one_packet_of_the_raw_headers_length() {
    let header = raw(1_522, &frame(A, B, 10, 0x0800));
    // Length 4 less, another EtherType, other addresses: what the raw header says counts.
    let mac = |octets: [u8; 6]| [&octets[..], &[0, 0]].concat();
    let ethernet = [words(&[1_518]), mac(X), mac(Y), words(&[0x86dd])].concat();
    let ethernet = block(2, &ethernet);
    let ipv4 = block(3, &words(&[1_500, 6, 0x0a00_0001, 0x0a00_0002, 443, 50_000, 0x10, 0]));
    let samples = [flow(1, &[header, ethernet, switch(20), ipv4])];
    let outcome = play(&samples, &table(), "");
    assert_eq!(result(&outcome), (vec![(1, 2, 1_522)], vec![]));
    assert_eq!(outcome.pairs()[&(VliId(1), VliId(2))].packets, [1, 0]);
    // Header protocols IPv4 and IPv6: no address, whatever the switch says.
    for protocol in [11, 12] {
        let header = block(1, &[&words(&[protocol, 100, 0, 20])[..], &[0x45; 20]].concat());
        let outcome = play(&[flow(1, &[header, switch(10)])], &table(), "");
        assert_eq!(result(&outcome), (vec![], vec![("no_ethernet", 1)]));
    }
}

#[test]
fn an_agent_of_one_infrastructure_settles_what_two_share() {
    let records =
        [table(), vec![record(2, 10, A, 11), record(2, 10, B, 12), record(2, 10, X, 13)]].concat();
    let samples = [
        flow(1, &[raw(100, &frame(A, B, 10, 0x0800))]),
        flow(1, &[raw(100, &frame(A, X, 10, 0x0800))]),
    ];
    let outcome = play(&samples, &records, "");
    assert_eq!(result(&outcome), (vec![(1, 2, 100), (11, 13, 100)], vec![]));
    let outcome = play(&samples, &records, "infrastructure = 2");
    assert_eq!(result(&outcome), (vec![(11, 12, 100), (11, 13, 100)], vec![]));
    let outcome = play(&samples, &records, "infrastructure = 1");
    assert_eq!(result(&outcome), (vec![(1, 2, 100)], vec![("unknown_destination", 1)]));
}

#[test]
fn floods_and_groups_are_told_apart_from_unknown_addresses() {
    let to = |destination: [u8; 6], output: u32| {
        between(3, 3, output, &[raw(100, &frame(A, destination, 10, 0x0800))])
    };
    let samples = [
        to([0xff; 6], 4),
        to([0x01, 0, 0x5e, 0, 0, 1], 4),
        to([0x33, 0x33, 0, 0, 0, 1], 0x8000_0009),
        to(X, 0x8000_0009),
        to(X, 4),
        // To a member, though flooded.
        to(B, 0x8000_0009),
    ];
    let outcome = play(&samples, &table(), "");
    let losses =
        vec![("broadcast", 1), ("multicast", 2), ("unknown_destination", 1), ("flooded", 1)];
    assert_eq!(result(&outcome), (vec![(1, 2, 100)], losses));
    let (macs, _) = outcome.state.unknown_macs(10);
    assert_eq!(
        macs.iter().map(|row| (row.mac, row.samples)).collect::<Vec<_>>(),
        [(Mac::from_octets(X), 1)]
    );
}

#[test]
fn a_known_mac_on_a_wrong_vlan_is_told_with_its_own() {
    let records = [table(), vec![record(1, 20, X, 7)]].concat();
    let samples = vec![flow(1, &[raw(100, &frame(X, B, 10, 0x0800))]); 20];
    let outcome = play(&samples, &records, "");
    let (macs, _) = outcome.state.unknown_macs(10);
    let known: Vec<_> = macs[0].known_on.iter().map(|m| (m.vlan.as_u16(), m.vli.0)).collect();
    assert_eq!((known, macs[0].share), (vec![(20, 7)], 1.0));
    let [finding] = &outcome.findings()[..] else { panic!("{:?}", outcome.findings()) };
    assert!(finding.what.contains("the table knows it as VLI 7 on VLAN 20"), "{finding}");
    // What views get is what they can serialize.
    let json = serde_json::to_value(&macs[0]).unwrap();
    assert_eq!(json["mac"], "06:00:00:00:00:01");
    assert_eq!(json["known_on"][0]["vli"], 7);
    assert_eq!((&json["end"], &json["vlan"]), (&"source".into(), &10.into()));
}

#[test]
fn what_is_not_ip_is_a_table() {
    let of = |ether_type: u16| flow(1, &[raw(100, &frame(A, B, 10, ether_type))]);
    let bpdu = bare(A, [0x01, 0x80, 0xc2, 0, 0, 0], &[0, 0x26, 0x42, 0x42, 3]);
    let samples = [of(0x0806), of(0x88cc), of(0x88cc), of(0x1234), flow(1, &[raw(100, &bpdu)])];
    let outcome = play(&samples, &table(), "");
    assert_eq!(result(&outcome), (vec![], vec![("not_ip", 5)]));
    let (rows, _) = outcome.state.sightings.ether_types();
    let rows: Vec<_> = rows.iter().map(|row| (row.ether_type, row.name, row.samples)).collect();
    let expected =
        [(0x88cc, "LLDP", 2), (0, "LLC (BPDU and others)", 1), (0x0806, "ARP", 1), (0x1234, "", 1)];
    assert_eq!(rows, expected);
}

/// The rows of the table at the top are those of compat.md, and their tests exist.
#[test]
fn every_habit_of_agents_has_its_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    let mut directories = vec![root.join("src"), root.join("tests")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                code += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    let table = include_str!("policy.rs").lines().take_while(|line| line.starts_with("//!"));
    let rows: Vec<&str> = table.filter(|line| line.starts_with("//! | ")).skip(1).collect();
    assert_eq!(rows.len(), 16);
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        let names: Vec<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            let function = name.rsplit("::").next().unwrap();
            assert!(code.contains(&format!("fn {function}(")), "{name}");
        }
    }
}
