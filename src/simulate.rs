//! A synthetic fabric that speaks sFlow v5 and knows what it said: for the demo, the benches and
//! the tests.
//!
//! A [`Description`], usually TOML, says which infrastructures, VLANs, members and switches there
//! are and what the members send. [`Fabric::new`] lays it out: every member gets a port, MAC
//! addresses and one VLI per VLAN. A [`Generator`] then speaks for all agents in the order of
//! time, and keeps the [`Truth`]: what a collector that loses nothing must count. Datagrams go
//!
//! - into memory: [`SimulatedSource`] and [`RingSource`] are [`crate::receive::Source`]s,
//! - into a capture: [`PcapWriter`],
//! - onto the network: [`send`](send::send).
//!
//! [`ApiServer`] serves the MAC table as IXP Manager's API does.
//!
//! The same description and seed give the same bytes on every machine: the random numbers are
//! ours (SplitMix64) and time is an input.
//!
//! ```
//! use ixflow::simulate::Fabric;
//!
//! let fabric = Fabric::from_toml("members = 1000")?;
//! let mut generator = fabric.generator(1_700_000_000_000, 10_000).with_truth(300);
//! let mut payload = Vec::new();
//! let emitted = generator.generate(&mut payload);
//! assert_eq!(emitted.flow_samples, 6);
//! assert_eq!(generator.finish().flow_samples, 6);
//! # Ok::<(), ixflow::simulate::FabricError>(())
//! ```
//!
//! Keys of a description, all of them optional, are the fields of [`Description`];
//! [`DEFAULT_FABRIC`] is an example with most of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use crate::ixp::{InfrastructureId, Mac, MacRecord, VlanTag, VliId};

mod api;
mod generate;
mod pcap;
pub mod send;
mod source;
mod truth;

pub use api::{API_KEY_HEADER, ApiServer};
pub use generate::{DATAGRAM_MAX_BYTES, Emitted, Generator};
pub use pcap::PcapWriter;
pub use source::{RingSource, SimulatedSource};
pub use truth::{IntervalTruth, Sides, Truth};

/// The fabric of the demo: twelve members and a smaller second VLAN on two switches of
/// different makes.
pub const DEFAULT_FABRIC: &str = include_str!("simulate/default.toml");

/// VLIs of a fabric at the most; with it the truth of one interval stays below some gigabytes.
pub const VLIS_MAX: usize = 20_000;
/// MAC addresses of a VLI at the most.
pub const MACS_PER_VLI_MAX: usize = 16;
/// Infrastructures at the most.
pub const INFRASTRUCTURES_MAX: usize = 64;
/// VLANs at the most, on all infrastructures.
pub const VLANS_MAX: usize = 256;
/// Switches at the most, on all infrastructures.
pub const SWITCHES_MAX: usize = 4096;
/// Entries of the frame-length mix at the most.
pub const FRAME_LENGTHS_MAX: usize = 64;
/// A member's part of its VLAN's traffic at the most: somebody must receive it.
pub const DOMINANCE_MAX: f64 = 0.999;

/// What a fabric is to be: the keys of its TOML.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Description {
    /// Where the random numbers start.
    pub seed: u64,
    /// Members of each infrastructure; a VLAN has all of them unless it says otherwise.
    pub members: u32,
    /// Switches of each infrastructure that has none listed.
    pub agents: u32,
    /// MAC addresses per member: member i has 1 + i mod this many.
    pub macs_per_member: u32,
    /// Share of the members whose first VLAN is tagged; further VLANs of a port always are.
    pub tagged_share: f64,
    /// Share of IPv6 among the sampled packets.
    pub ipv6_share: f64,
    /// The member of rank r sends and receives in proportion to r^-exponent.
    pub zipf_exponent: f64,
    /// Flow samples in a datagram, as far as [`DATAGRAM_MAX_BYTES`] allows.
    pub samples_per_datagram: u32,
    /// Bytes of a frame that a sample holds, at the most.
    pub snap_length_bytes: u32,
    /// Sampling rate of switches that do not say another: one in so many packets.
    pub sampling_rate: u32,
    /// Seconds between two counters samples of a port, for switches that do not say; 0: none.
    pub counters_interval_secs: u32,
    /// Lengths of frames and their shares, which need not sum up to 1.
    pub frame_length: Vec<FrameLength>,
    /// How the rate changes over the day.
    pub diurnal: Diurnal,
    /// Shares of samples that must not be counted.
    pub noise: Noise,
    /// Members of each infrastructure, the first ones, whose addresses the MAC table lacks.
    pub missing_members: u32,
    /// The infrastructures.
    pub infrastructure: Vec<Infrastructure>,
    /// The switches.
    pub switch: Vec<Switch>,
}

impl Default for Description {
    fn default() -> Description {
        Description {
            seed: 1,
            members: 12,
            agents: 2,
            macs_per_member: 1,
            tagged_share: 0.25,
            ipv6_share: 0.2,
            zipf_exponent: 1.0,
            samples_per_datagram: 6,
            snap_length_bytes: 128,
            sampling_rate: 4096,
            counters_interval_secs: 0,
            // The three humps that exchanges see: acknowledgements, a rest, full segments.
            frame_length: [(64, 0.35), (576, 0.15), (1518, 0.5)]
                .map(|(bytes, share)| FrameLength { bytes, share })
                .to_vec(),
            diurnal: Diurnal::default(),
            noise: Noise::default(),
            missing_members: 0,
            infrastructure: vec![Infrastructure::default()],
            switch: Vec::new(),
        }
    }
}

/// One length of the mix.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameLength {
    /// Length of the frame with its tag and FCS.
    pub bytes: u32,
    /// Its weight in the mix.
    pub share: f64,
}

/// The day's curve: a cosine between trough and peak.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Diurnal {
    /// Rate twelve hours from the peak, as a share of the peak's; 1 is a flat day.
    pub trough_share: f64,
    /// Hour of the day (UTC) at which the rate is full.
    pub peak_hour: f64,
}

impl Default for Diurnal {
    fn default() -> Diurnal {
        Diurnal { trough_share: 1.0, peak_hour: 20.0 }
    }
}

impl Diurnal {
    /// The share of the full rate that is sent at a second of the day (UTC).
    pub fn share_at(&self, second_of_day: u32) -> f64 {
        let hours = f64::from(second_of_day) / 3600.0 - self.peak_hour;
        let height = (1.0 + (hours / 24.0 * std::f64::consts::TAU).cos()) / 2.0;
        self.trough_share + (1.0 - self.trough_share) * height
    }
}

/// Shares of samples that a collector must not count. Each such sample has one fault only, so
/// that the one [`crate::loss::Loss`] it belongs to does not depend on the order of the checks.
#[derive(Clone, Copy, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Noise {
    /// ARP replies, which are unicast (`not_ip`).
    pub arp: f64,
    /// Frames on a VLAN that is not in the table (`unknown_vlan`).
    pub unknown_vlan: f64,
    /// IP packets to a multicast group (`group`).
    pub multicast: f64,
    /// Frames from an address that is not in the table (`unknown_source`).
    pub unknown_source: f64,
    /// Frames to an address that is not in the table (`unknown_destination`).
    pub unknown_destination: f64,
    /// Frames of a VLI to itself (`same_vli`).
    pub same_vli: f64,
    /// Samples taken where the frame leaves: the data source is the output (`direction`).
    pub egress: f64,
    /// Frames that the switch discarded: output format 1 (`discarded`).
    pub discarded: f64,
    /// Samples of frames of other switches' members, taken a second time where they come in at
    /// the uplink (`core_port`, if that port is left out).
    pub core: f64,
}

/// An infrastructure.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Infrastructure {
    /// Its database id.
    pub id: u32,
    /// Its VLANs.
    pub vlan: Vec<Vlan>,
}

impl Default for Infrastructure {
    fn default() -> Infrastructure {
        Infrastructure { id: 1, vlan: vec![Vlan::default()] }
    }
}

/// A VLAN.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vlan {
    /// Its 802.1Q tag.
    pub tag: u32,
    /// Share of the infrastructure's members that are on it, two at least.
    pub member_share: f64,
    /// Its part of the traffic, beside that of the other VLANs.
    pub weight: f64,
    /// Members one by one, instead of those that `members` stands for.
    pub member: Vec<Member>,
}

impl Default for Vlan {
    fn default() -> Vlan {
        Vlan { tag: 10, member_share: 1.0, weight: 1.0, member: Vec::new() }
    }
}

/// A member's presence on a VLAN, written out.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Member {
    /// Its VLI; a free number if not given.
    pub vli: Option<u32>,
    /// Its MAC addresses; one of its own if empty.
    pub macs: Vec<String>,
    /// Whether its frames carry the VLAN's tag.
    pub tagged: bool,
    /// Its switch, counted from 0 among those of the infrastructure.
    pub switch: u32,
    /// Its port; a free one if not given.
    pub if_index: Option<u32>,
    /// Its part of the VLAN's traffic; by the Zipf law if not given.
    pub weight: Option<f64>,
}

/// A switch, which is an agent.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Agent address, and the address that its datagrams come from.
    pub agent: IpAddr,
    /// Sub-agent id.
    #[serde(default)]
    pub sub_agent_id: u32,
    /// The infrastructure that it belongs to; the first one if not given.
    pub infrastructure: Option<u32>,
    /// One in so many packets; the fabric's if not given.
    pub sampling_rate: Option<u32>,
    /// Whether it sends expanded samples (formats 3 and 4) instead of compact ones (1 and 2).
    #[serde(default)]
    pub expanded: bool,
    /// When it adds an extended switch record.
    #[serde(default)]
    pub extended_switch: ExtendedSwitchRecord,
    /// Seconds between two counters samples of a port; the fabric's if not given.
    pub counters_interval_secs: Option<u32>,
    /// The rate that its samples name, if it is not the one that it uses.
    pub named_sampling_rate: Option<u32>,
    /// Samples that it takes in a second at the most; the others it drops.
    pub samples_per_second_max: Option<u32>,
    /// Whether it keeps what it drops to itself (`drops` stays 0).
    #[serde(default)]
    pub silent_drops: bool,
    /// Whether its sample pool is made up: sequence number x sampling rate.
    #[serde(default)]
    pub synthetic_pool: bool,
    /// ifIndex of its uplink; members' ports follow. From 2^24 on only in expanded samples.
    #[serde(default = "default_if_index_base")]
    pub if_index_base: u32,
    /// Whether it samples frames where they leave at its members' ports, not where they come in.
    #[serde(default)]
    pub egress: bool,
    /// VLANs that have another number at its members' ports.
    #[serde(default)]
    pub translate: Vec<Translation>,
    /// Another agent address under which it sends every datagram with flow samples again.
    pub repeated_as: Option<IpAddr>,
}

fn default_if_index_base() -> u32 {
    1
}

/// A VLAN by another number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Translation {
    /// The tag of the VLAN.
    pub vlan: u32,
    /// Its number at the ports, in tags and extended switch records.
    pub port_vlan: u32,
}

/// When a switch adds an extended switch record, as vendors differ. Untagged frames always have
/// one: nothing else says their VLAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtendedSwitchRecord {
    /// With every sample.
    #[default]
    Always,
    /// With samples of untagged frames only.
    Untagged,
    /// With every sample, but with VLANs 0 and 0 beside a tag (Juniper, Open vSwitch).
    Zero,
}

/// Why a description is no fabric.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// Not TOML, a key that does not exist, or a value of another type.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A value out of its range.
    #[error("{key}: {value} is not within {range}")]
    Range {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        range: String,
    },
    /// Two things that exclude each other, or one that does not exist.
    #[error("{0}")]
    Conflict(String),
}

/// A VLI of a laid-out fabric.
#[derive(Clone, PartialEq, Debug)]
pub struct Vli {
    /// Its database id.
    pub id: VliId,
    /// The infrastructure of its VLAN.
    pub infrastructure: InfrastructureId,
    /// The tag of its VLAN.
    pub vlan: VlanTag,
    /// Its addresses, one at least.
    pub macs: Vec<Mac>,
    /// Its port, as an index into [`Fabric::ports`].
    pub port: usize,
    /// Whether its frames are tagged.
    pub tagged: bool,
    /// Its part of all that is sent; all VLIs together make 1.
    pub weight: f64,
    /// Whether the MAC table lacks it.
    pub missing: bool,
    /// Its VLAN, as a running number over all infrastructures.
    lan: usize,
}

/// A member's port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its switch, as an index into [`Fabric::switches`].
    pub switch: usize,
    /// Its ifIndex.
    pub if_index: u32,
}

/// A fabric with every member in its place.
#[derive(Clone, Debug)]
pub struct Fabric {
    description: Description,
    switches: Vec<Switch>,
    ports: Vec<Port>,
    vlis: Vec<Vli>,
    lan_count: usize,
}

impl Fabric {
    /// Reads a description and lays it out.
    pub fn from_toml(text: &str) -> Result<Fabric, FabricError> {
        Fabric::new(toml::from_str(text)?)
    }

    /// Lays a description out.
    pub fn new(description: Description) -> Result<Fabric, FabricError> {
        check_ranges(&description)?;
        let switches = lay_switches(&description)?;
        let mut layout = Layout::new(&description, &switches);
        for (infrastructure_index, infrastructure) in description.infrastructure.iter().enumerate()
        {
            layout.infrastructure(infrastructure_index, infrastructure)?;
        }
        let Layout { ports, mut vlis, lan_count, .. } = layout;
        let total: f64 = vlis.iter().map(|vli| vli.weight).sum();
        if total <= 0.0 {
            return Err(FabricError::Conflict("weight: no member has any above 0".to_owned()));
        }
        for vli in &mut vlis {
            vli.weight /= total;
        }
        let fabric = Fabric { description, switches, ports, vlis, lan_count };
        fabric.check_table()?;
        Ok(fabric)
    }

    /// What it was made from.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Its switches, those that were only counted included.
    pub fn switches(&self) -> &[Switch] {
        &self.switches
    }

    /// The members' ports.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The VLIs.
    pub fn vlis(&self) -> &[Vli] {
        &self.vlis
    }

    /// The MAC table, sorted; without members that are missing.
    pub fn mac_table(&self) -> Vec<MacRecord> {
        let mut table: Vec<_> = self
            .vlis
            .iter()
            .filter(|vli| !vli.missing)
            .flat_map(|vli| {
                vli.macs.iter().map(|&mac| MacRecord {
                    infrastructure: vli.infrastructure,
                    vlan: vli.vlan,
                    mac,
                    vli: vli.id,
                })
            })
            .collect();
        table.sort_unstable();
        table
    }

    /// The MAC table as the answer of IXP Manager's API:
    /// `{"infrastructure": {"vlan tag": {"mac": vli}}}`, MACs as 12 lower-case digits.
    pub fn mac_table_json(&self) -> String {
        let mut answer: BTreeMap<u32, BTreeMap<u16, BTreeMap<String, u32>>> = BTreeMap::new();
        for record in self.mac_table() {
            answer
                .entry(record.infrastructure.0)
                .or_default()
                .entry(record.vlan.as_u16())
                .or_default()
                .insert(format!("{:012x}", record.mac.as_u64()), record.vli.0);
        }
        serde_json::json!(answer).to_string()
    }

    /// A voice for all its agents that starts at `start_millis` since 1970 and takes
    /// `samples_per_second` flow samples (one at least) at the day's peak.
    pub fn generator(&self, start_millis: u64, samples_per_second: u32) -> Generator {
        Generator::new(self, start_millis, samples_per_second, 0, 1)
    }

    /// Part `index` of `count` of what [`Fabric::generator`] would be: every `count`th switch,
    /// with its part of the rate. Parts of one fabric can speak on as many threads, as the
    /// sockets of as many workers would hear them.
    ///
    /// None if `index` has no switch, or its switches have no traffic.
    pub fn generator_part(
        &self,
        start_millis: u64,
        samples_per_second: u32,
        index: usize,
        count: usize,
    ) -> Option<Generator> {
        let speaks = self
            .vlis
            .iter()
            .any(|vli| vli.weight > 0.0 && self.ports[vli.port].switch % count.max(1) == index);
        speaks.then(|| Generator::new(self, start_millis, samples_per_second, index, count.max(1)))
    }

    /// No two VLIs may have one MAC on one tag, whatever their infrastructures: IXP Manager's
    /// table would be in conflict with itself. Nor may two VLIs of a VLAN share a port: no
    /// switch forwards between them, and a sample's direction could not be told.
    fn check_table(&self) -> Result<(), FabricError> {
        let mut places = HashMap::new();
        for vli in &self.vlis {
            if let Some(other) = places.insert((vli.lan, vli.port), vli.id) {
                return Err(FabricError::Conflict(format!(
                    "member.if_index: VLIs {} and {} are on one port of VLAN {}",
                    other.0, vli.id.0, vli.vlan
                )));
            }
        }
        let mut seen = HashMap::new();
        for record in self.mac_table() {
            if let Some(other) = seen.insert((record.vlan, record.mac), record.vli) {
                return Err(FabricError::Conflict(format!(
                    "macs: {} on VLAN {} is both of VLI {} and of VLI {}",
                    record.mac, record.vlan, other.0, record.vli.0
                )));
            }
        }
        Ok(())
    }
}

/// Places members on ports, in the order of the description.
struct Layout<'a> {
    description: &'a Description,
    switches: &'a [Switch],
    ports: Vec<Port>,
    port_of: HashMap<(usize, u32), usize>,
    vlis: Vec<Vli>,
    vli_ids: BTreeSet<u32>,
    next_vli: u32,
    lan_count: usize,
    random: generate::Random,
}

impl<'a> Layout<'a> {
    fn new(description: &'a Description, switches: &'a [Switch]) -> Layout<'a> {
        let vlans = description.infrastructure.iter().flat_map(|each| &each.vlan);
        let vli_ids = vlans.flat_map(|vlan| &vlan.member).filter_map(|member| member.vli).collect();
        Layout {
            description,
            switches,
            ports: Vec::new(),
            port_of: HashMap::new(),
            vlis: Vec::new(),
            vli_ids,
            next_vli: 1,
            lan_count: 0,
            random: generate::Random::new(description.seed),
        }
    }

    fn infrastructure(
        &mut self,
        index: usize,
        infrastructure: &Infrastructure,
    ) -> Result<(), FabricError> {
        let id = infrastructure.id;
        let own: Vec<usize> = (0..self.switches.len())
            .filter(|&switch| self.switches[switch].infrastructure == Some(id))
            .collect();
        let mut explicit_vlis = BTreeSet::new();
        let mut port_of_member: HashMap<u32, usize> = HashMap::new();
        let mut tags = BTreeSet::new();
        for (vlan_index, vlan) in infrastructure.vlan.iter().enumerate() {
            if !tags.insert(vlan.tag) {
                return Err(FabricError::Conflict(format!(
                    "vlan.tag: {} is twice on infrastructure {id}",
                    vlan.tag
                )));
            }
            let count = if vlan.member.is_empty() {
                let share = f64::from(self.description.members) * vlan.member_share;
                u32::try_from(generate::whole(share.round())).unwrap_or(u32::MAX).max(2)
            } else {
                u32::try_from(vlan.member.len()).unwrap_or(u32::MAX)
            };
            range("members", u64::from(count), 2, VLIS_MAX as u64)?;
            range("members", (self.vlis.len() + count as usize) as u64, 2, VLIS_MAX as u64)?;
            // Who is popular is drawn, or the first switch would have all the traffic.
            let mut ranks: Vec<u32> = (1..=count).collect();
            for position in (1..count).rev() {
                ranks.swap(position as usize, self.random.below(position + 1) as usize);
            }
            let total: f64 = ranks.iter().map(|&rank| self.zipf(rank)).sum();
            for (member, &rank) in (0..count).zip(&ranks) {
                let written = vlan.member.get(member as usize);
                let weight = written
                    .and_then(|written| written.weight)
                    .unwrap_or_else(|| self.zipf(rank) / total);
                let (port, macs, tagged) = match written {
                    Some(written) => {
                        let macs = written_macs(written, index, vlan_index, member)?;
                        let Some(&switch) = own.get(written.switch as usize) else {
                            return Err(FabricError::Conflict(format!(
                                "member.switch: infrastructure {id} has no switch {}",
                                written.switch
                            )));
                        };
                        (self.port(switch, written.if_index)?, macs, written.tagged)
                    }
                    None => {
                        let known = port_of_member.get(&member).copied();
                        let port = match known {
                            Some(port) => port,
                            None => self.port(own[member as usize % own.len()], None)?,
                        };
                        port_of_member.insert(member, port);
                        let share = self.description.tagged_share;
                        // Evenly spread, and never in step with the switches: multiples of the
                        // golden ratio.
                        let spread = (f64::from(member) * 0.618_033_988_749_895).fract();
                        let tagged = known.is_some() || spread < share;
                        (port, counted_macs(self.description, index, member), tagged)
                    }
                };
                let vli = match written.and_then(|written| written.vli) {
                    Some(vli) if explicit_vlis.insert(vli) => vli,
                    Some(vli) => {
                        return Err(FabricError::Conflict(format!("member.vli: {vli} is twice")));
                    }
                    None => {
                        while !self.vli_ids.insert(self.next_vli) {
                            self.next_vli += 1;
                        }
                        self.next_vli
                    }
                };
                self.vlis.push(Vli {
                    id: VliId(vli),
                    infrastructure: InfrastructureId(id),
                    vlan: VlanTag::new(vlan.tag),
                    macs,
                    port,
                    tagged,
                    weight: weight * vlan.weight,
                    missing: member < self.description.missing_members,
                    lan: self.lan_count,
                });
            }
            let weights = || self.vlis[self.vlis.len() - count as usize..].iter().map(|v| v.weight);
            let total: f64 = weights().sum();
            if total > 0.0 && weights().fold(0.0, f64::max) > DOMINANCE_MAX * total {
                return Err(FabricError::Conflict(format!(
                    "member.weight: one member has almost all traffic of VLAN {}",
                    vlan.tag
                )));
            }
            self.lan_count += 1;
        }
        Ok(())
    }

    fn zipf(&self, rank: u32) -> f64 {
        f64::from(rank).powf(-self.description.zipf_exponent)
    }

    /// The port of a switch with an ifIndex, or a new one behind the uplink.
    fn port(&mut self, switch: usize, if_index: Option<u32>) -> Result<usize, FabricError> {
        let description = &self.switches[switch];
        let if_index = match if_index {
            Some(if_index) => if_index,
            None => {
                let mut free = description.if_index_base + 1;
                // Ports are handed out in rising order; only written ones are in between.
                if let Some(last) = self.ports.iter().rev().find(|port| port.switch == switch) {
                    free = free.max(last.if_index + 1);
                }
                while self.port_of.contains_key(&(switch, free)) {
                    free += 1;
                }
                free
            }
        };
        let limit = if description.expanded { u32::MAX - 1 } else { (1 << 24) - 1 };
        range("if_index", u64::from(if_index), 1, u64::from(limit))?;
        if let Some(&port) = self.port_of.get(&(switch, if_index)) {
            return Ok(port);
        }
        self.ports.push(Port { switch, if_index });
        self.port_of.insert((switch, if_index), self.ports.len() - 1);
        Ok(self.ports.len() - 1)
    }
}

/// The listed switches, and the counted ones of infrastructures without any.
fn lay_switches(description: &Description) -> Result<Vec<Switch>, FabricError> {
    let mut switches = description.switch.clone();
    let ids: Vec<u32> = description.infrastructure.iter().map(|each| each.id).collect();
    for (position, &id) in ids.iter().enumerate() {
        if ids[..position].contains(&id) {
            return Err(FabricError::Conflict(format!("infrastructure.id: {id} is twice")));
        }
    }
    for switch in &mut switches {
        let infrastructure = *switch.infrastructure.get_or_insert(ids[0]);
        if !ids.contains(&infrastructure) {
            return Err(FabricError::Conflict(format!(
                "switch.infrastructure: there is no infrastructure {infrastructure}"
            )));
        }
    }
    let mut number = 0u16;
    for &id in &ids {
        if switches.iter().any(|switch| switch.infrastructure == Some(id)) {
            continue;
        }
        for _ in 0..description.agents {
            number = number.saturating_add(1);
            let [high, low] = number.to_be_bytes();
            switches.push(Switch {
                agent: IpAddr::V4(Ipv4Addr::new(10, 255, high, low)),
                sub_agent_id: 0,
                infrastructure: Some(id),
                sampling_rate: None,
                expanded: false,
                extended_switch: ExtendedSwitchRecord::Always,
                counters_interval_secs: None,
                named_sampling_rate: None,
                samples_per_second_max: None,
                silent_drops: false,
                synthetic_pool: false,
                if_index_base: default_if_index_base(),
                egress: false,
                translate: Vec::new(),
                repeated_as: None,
            });
        }
    }
    range("switch", switches.len() as u64, 1, SWITCHES_MAX as u64)?;
    let mut agents = BTreeSet::new();
    let repeated = switches.iter().filter_map(|each| Some((each.repeated_as?, each.sub_agent_id)));
    for (agent, sub_agent_id) in repeated.collect::<Vec<_>>() {
        if !agents.insert((agent, sub_agent_id)) {
            return Err(FabricError::Conflict(format!("switch.repeated_as: {agent} is twice")));
        }
    }
    for switch in &mut switches {
        if !agents.insert((switch.agent, switch.sub_agent_id)) {
            return Err(FabricError::Conflict(format!(
                "switch.agent: {} with sub-agent {} is twice",
                switch.agent, switch.sub_agent_id
            )));
        }
        let rate = *switch.sampling_rate.get_or_insert(description.sampling_rate);
        range("sampling_rate", u64::from(rate), 1, 1 << 24)?;
        range("named_sampling_rate", switch.named_sampling_rate.unwrap_or(1).into(), 1, 1 << 24)?;
        let interval =
            *switch.counters_interval_secs.get_or_insert(description.counters_interval_secs);
        range("counters_interval_secs", u64::from(interval), 0, 86_400)?;
        range("if_index_base", u64::from(switch.if_index_base), 1, 1 << 31)?;
        for Translation { vlan, port_vlan } in &switch.translate {
            range("translate.vlan", u64::from(*vlan), 1, 4094)?;
            range("translate.port_vlan", u64::from(*port_vlan), 1, 4094)?;
        }
    }
    Ok(switches)
}

/// Locally administered addresses of member `member` of an infrastructure, the same on all of
/// its VLANs, as a router's are.
fn counted_macs(description: &Description, infrastructure: usize, member: u32) -> Vec<Mac> {
    let [_, a, b, c] = member.to_be_bytes();
    let infrastructure = u8::try_from(infrastructure).unwrap_or(u8::MAX);
    (0..=member % description.macs_per_member)
        .map(|number| {
            let number = u8::try_from(number).unwrap_or(u8::MAX);
            Mac::from_octets([0x02, infrastructure, a, b, c, number])
        })
        .collect()
}

fn written_macs(
    member: &Member,
    infrastructure: usize,
    vlan: usize,
    position: u32,
) -> Result<Vec<Mac>, FabricError> {
    range("macs", member.macs.len() as u64, 0, MACS_PER_VLI_MAX as u64)?;
    if member.macs.is_empty() {
        let [_, _, high, low] = position.to_be_bytes();
        let infrastructure = u8::try_from(infrastructure).unwrap_or(u8::MAX);
        let vlan = u8::try_from(vlan).unwrap_or(u8::MAX);
        return Ok(vec![Mac::from_octets([0x06, infrastructure, vlan, high, low, 0])]);
    }
    member
        .macs
        .iter()
        .map(|text| match text.parse::<Mac>() {
            Ok(mac) if !mac.is_group() => Ok(mac),
            _ => Err(FabricError::Conflict(format!("macs: {text} is not a unicast address"))),
        })
        .collect()
}

fn check_ranges(description: &Description) -> Result<(), FabricError> {
    let Description { diurnal, noise, .. } = description;
    range("members", description.members.into(), 2, VLIS_MAX as u64)?;
    range("missing_members", description.missing_members.into(), 0, VLIS_MAX as u64)?;
    range("agents", description.agents.into(), 1, SWITCHES_MAX as u64)?;
    range("macs_per_member", description.macs_per_member.into(), 1, MACS_PER_VLI_MAX as u64)?;
    range("samples_per_datagram", description.samples_per_datagram.into(), 1, 64)?;
    range("snap_length_bytes", description.snap_length_bytes.into(), 64, 256)?;
    range(
        "infrastructure",
        description.infrastructure.len() as u64,
        1,
        INFRASTRUCTURES_MAX as u64,
    )?;
    range("frame_length", description.frame_length.len() as u64, 1, FRAME_LENGTHS_MAX as u64)?;
    let vlans = || description.infrastructure.iter().flat_map(|each| &each.vlan);
    range("vlan", vlans().count() as u64, 1, VLANS_MAX as u64)?;
    for vlan in vlans() {
        range("tag", vlan.tag.into(), 1, 4094)?;
        share("member_share", vlan.member_share, 1.0)?;
        share("vlan.weight", vlan.weight, 1e9)?;
        for weight in vlan.member.iter().filter_map(|member| member.weight) {
            share("member.weight", weight, 1e9)?;
        }
    }
    for frame_length in &description.frame_length {
        range("frame_length.bytes", frame_length.bytes.into(), 64, 16_000)?;
        share("frame_length.share", frame_length.share, 1e9)?;
    }
    let mix: f64 = description.frame_length.iter().map(|each| each.share).sum();
    if mix <= 0.0 {
        return Err(FabricError::Conflict("frame_length.share: none is above 0".to_owned()));
    }
    share("tagged_share", description.tagged_share, 1.0)?;
    share("ipv6_share", description.ipv6_share, 1.0)?;
    share("zipf_exponent", description.zipf_exponent, 4.0)?;
    share("diurnal.trough_share", diurnal.trough_share, 1.0)?;
    share("diurnal.peak_hour", diurnal.peak_hour, 24.0)?;
    let noises = noise.shares();
    for &(_, each) in &noises {
        share("noise", each, 1.0)?;
    }
    share("noise (the sum)", noises.iter().map(|&(_, each)| each).sum(), 1.0)
}

fn range(key: &'static str, value: u64, low: u64, high: u64) -> Result<(), FabricError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(FabricError::Range { key, value: value.to_string(), range: format!("{low} to {high}") })
}

fn share(key: &'static str, value: f64, high: f64) -> Result<(), FabricError> {
    if (0.0..=high).contains(&value) {
        return Ok(());
    }
    Err(FabricError::Range { key, value: value.to_string(), range: format!("0 to {high}") })
}
