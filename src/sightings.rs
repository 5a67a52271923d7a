//! Sightings: what the samples show of the fabric itself. Which addresses nobody knows, which MAC
//! comes in at which port, which ports are links between switches, which samples come twice.
//!
//! A worker collects in a [`Lookout`] of its own, without locks: of the samples that count one in
//! [`SHARE`], of the others those that say something. Once a second it is folded into the shared
//! [`Sightings`]. Every table has a limit; what is beyond it is counted as others. Nothing here
//! decides over a sample but the [core ports](Sightings::core_map) of agents for which
//! `core_ports = auto`.

mod bounded;
mod learn;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;
use serde::Serialize;

use self::bounded::{Bounded, Row};
use self::learn::Learned;
use crate::decode::ethernet::Encapsulation;
use crate::finding::{Finding, Level};
use crate::ixp::{Mac, VlanTag, VliId};
use crate::resolve::{Membership, Plan};

/// One in so many of the samples that count teaches where MACs are.
pub const SHARE: u32 = 16;

/// Samples that a worker keeps for learning in a second; further ones teach nothing.
const LESSONS_MAX: usize = 4_096;

/// Rows that a worker collects in a second, in each of its tables.
const COLLECTED_MAX: usize = 4_096;

/// Rows of the shared tables of unknown addresses and VLANs: so many are kept when twice as many
/// are there, those with most traffic of late.
const UNKNOWN_MAX: usize = 2_048;

/// Rows of the table of EtherTypes, as [`UNKNOWN_MAX`].
const ETHER_TYPES_MAX: usize = 512;

/// MACs whose IP addresses are remembered.
const ADDRESSED_MACS_MAX: usize = 16_384;

/// IP addresses of one MAC.
const ADDRESSES_PER_MAC_MAX: usize = 4;

/// Rows without a sample for so long are forgotten.
const FORGET_MILLIS: u64 = 86_400_000;

const MINUTE_MILLIS: u64 = 60_000;

/// Where a frame was seen: the ifIndex of the port, none where the sample does not tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct SwitchPort {
    /// The agent address.
    pub agent: IpAddr,
    /// Where the frame came in.
    pub if_index: Option<u32>,
}

impl std::fmt::Display for SwitchPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.if_index {
            Some(if_index) => write!(f, "{} ifIndex {if_index}", self.agent),
            None => write!(f, "{}", self.agent),
        }
    }
}

/// Which address of a frame is not in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Its source.
    Source,
    /// Its destination.
    Destination,
}

/// An address that the table does not know on the VLAN of its frames.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct UnknownMac {
    /// Whether it sent or should have received.
    pub end: End,
    /// The VLAN; 0 for none.
    pub vlan: VlanTag,
    /// The address.
    pub mac: Mac,
    /// Where its frames came in; for a destination, those that others sent to it.
    pub port: SwitchPort,
    /// Samples of it that were not counted.
    pub samples: u64,
    /// Packets that they stand for.
    pub packets: u64,
    /// Its part of all flow samples of the agent, 0 to 1.
    pub share: f64,
    /// First sample, in milliseconds since 1970.
    pub first_seen_millis: u64,
    /// Last sample.
    pub last_seen_millis: u64,
    /// Its IP addresses, as far as ARP or neighbour discovery went by in samples.
    pub addresses: Vec<IpAddr>,
    /// Where the table does know it: a known MAC on the wrong VLAN.
    pub known_on: Vec<Membership>,
}

/// A VLAN that the table does not know.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct UnknownVlan {
    /// The VLAN; 0 for frames that name none.
    pub vlan: VlanTag,
    /// Where its frames came in.
    pub port: SwitchPort,
    /// Samples that were not counted.
    pub samples: u64,
    /// Packets that they stand for.
    pub packets: u64,
    /// First sample, in milliseconds since 1970.
    pub first_seen_millis: u64,
    /// Last sample.
    pub last_seen_millis: u64,
    /// Source address of the last one.
    pub source: Mac,
    /// Destination address of the last one.
    pub destination: Mac,
    /// The one VLAN on which the table knows both: the port's VLAN is probably translated.
    pub meant: Option<VlanTag>,
}

/// Frames that are neither IPv4 nor IPv6.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EtherTypeCount {
    /// The agent address.
    pub agent: IpAddr,
    /// The EtherType; 0 for 802.3 frames with a length in its place.
    pub ether_type: u16,
    /// Its name, empty for one without.
    pub name: &'static str,
    /// Samples.
    pub samples: u64,
    /// Packets that they stand for.
    pub packets: u64,
    /// Last sample, in milliseconds since 1970.
    pub last_seen_millis: u64,
}

/// A link between switches, as the samples show it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct CorePort {
    /// The port.
    pub port: SwitchPort,
    /// MACs that came in there.
    pub macs: usize,
    /// Those of them that came in at a port with fewer MACs too.
    pub at_home_elsewhere: usize,
    /// Whether its samples are left out.
    pub left_out: bool,
}

/// A MAC at a port that is another member's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct WrongPort {
    /// The address.
    pub mac: Mac,
    /// The VLAN interface of its last sample.
    pub vli: VliId,
    /// Where it came in.
    pub port: SwitchPort,
    /// Where it usually comes in.
    pub home: SwitchPort,
    /// The VLAN interface whose home `port` is.
    pub neighbour: VliId,
    /// Samples that taught it, one in [`SHARE`].
    pub samples: u64,
    /// Its last sample there, in milliseconds since 1970.
    pub last_seen_millis: u64,
}

/// Core ports whose samples are left out: ifIndexes in rising order, by agent.
pub type CoreMap = BTreeMap<IpAddr, Arc<[u32]>>;

/// Frames that wrap others, of agents without `decapsulate` for them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Encapsulated {
    /// The agent address.
    pub agent: IpAddr,
    /// What wraps them.
    pub encapsulation: Encapsulation,
    /// The UDP port of VXLAN; else 0.
    pub udp_port: u16,
    /// Samples that were not counted.
    pub samples: u64,
    /// Last sample, in milliseconds since 1970.
    pub last_seen_millis: u64,
}

/// What is said of a sample that was not counted.
#[derive(Clone, Copy, Debug)]
pub struct Stray {
    /// Where its frame came in.
    pub port: SwitchPort,
    /// Its VLAN, that was meant.
    pub vlan: VlanTag,
    /// Its source address.
    pub source: Mac,
    /// Its destination address.
    pub destination: Mac,
    /// Packets that it stands for.
    pub packets: u32,
    /// When it came, in milliseconds since 1970.
    pub stamp_millis: u64,
}

/// A sample that counts, or was left out at a core port.
#[derive(Clone, Copy, Debug)]
pub struct Lesson {
    /// The agent address.
    pub agent: IpAddr,
    /// The ifIndex where it came in.
    pub if_index: u32,
    /// Its source address.
    pub source: Mac,
    /// The VLAN interface that is its source.
    pub vli: VliId,
    /// The sample's own numbers as one, by which its copy is known.
    pub identity: u64,
    /// Packets that it stands for.
    pub packets: u32,
    /// When it came, in milliseconds since 1970.
    pub stamp_millis: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct MacKey {
    end: End,
    vlan: VlanTag,
    mac: Mac,
    port: SwitchPort,
}

/// Source, destination, and the VLAN on which both are known.
type VlanDetail = (Mac, Mac, Option<VlanTag>);

/// Tables of what was not counted, of a worker or of all.
#[derive(Debug)]
struct Strays {
    unknown: Bounded<MacKey, Vec<Membership>>,
    vlans: Bounded<(VlanTag, SwitchPort), VlanDetail>,
    ether_types: Bounded<(IpAddr, u16), ()>,
    encapsulated: Bounded<(IpAddr, Encapsulation, u16), ()>,
}

impl Strays {
    fn new(rows: usize) -> Strays {
        Strays {
            unknown: Bounded::new(rows),
            vlans: Bounded::new(rows),
            ether_types: Bounded::new(ETHER_TYPES_MAX),
            encapsulated: Bounded::new(ETHER_TYPES_MAX),
        }
    }
}

/// What one worker saw since it was last folded.
#[derive(Debug)]
pub struct Lookout {
    lessons: Vec<Lesson>,
    strays: Strays,
    addresses: HashSet<(Mac, IpAddr), FixedState>,
}

impl Default for Lookout {
    fn default() -> Lookout {
        Lookout {
            lessons: Vec::new(),
            strays: Strays::new(COLLECTED_MAX / 2),
            addresses: HashSet::default(),
        }
    }
}

fn once<D>(packets: u32, stamp_millis: u64, detail: D) -> Row<D> {
    Row {
        samples: 1,
        packets: packets.into(),
        recent: 1,
        first_millis: stamp_millis,
        last_millis: stamp_millis,
        detail,
    }
}

impl Lookout {
    /// Whether a lesson more is taken before the next fold.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.lessons.len() < LESSONS_MAX
    }

    /// Takes a sample that shows where a MAC comes in.
    #[cold]
    pub fn learn(&mut self, lesson: Lesson) {
        if self.lessons.len() < LESSONS_MAX {
            self.lessons.push(lesson);
        }
    }

    /// Takes a frame with an address that the table does not know on its VLAN.
    #[cold]
    pub fn unknown_mac(&mut self, end: End, stray: &Stray, plan: &Plan) {
        let mac = match end {
            End::Source => stray.source,
            End::Destination => stray.destination,
        };
        let key = MacKey { end, vlan: stray.vlan, mac, port: stray.port };
        let known = plan.table.memberships(mac);
        let known = &known[..known.len().min(KNOWN_ON_MAX)];
        self.strays.unknown.add(key, once(stray.packets, stray.stamp_millis, known.to_vec()));
    }

    /// Takes a frame on a VLAN that the table does not know, or on none.
    #[cold]
    pub fn unknown_vlan(&mut self, stray: &Stray, plan: &Plan) {
        let meant = plan.table.common_vlan(None, stray.source, stray.destination);
        let detail = (stray.source, stray.destination, meant);
        let key = (stray.vlan, stray.port);
        self.strays.vlans.add(key, once(stray.packets, stray.stamp_millis, detail));
    }

    /// Takes a frame that is neither IPv4 nor IPv6.
    #[cold]
    pub fn ether_type(&mut self, ether_type: u16, stray: &Stray) {
        // IEEE 802.3, 3.2.6: up to 1500 it is a length.
        let ether_type = if ether_type <= 1_500 { 0 } else { ether_type };
        let key = (stray.port.agent, ether_type);
        self.strays.ether_types.add(key, once(stray.packets, stray.stamp_millis, ()));
    }

    /// Takes a frame that wraps another one, which is not taken out.
    #[cold]
    pub fn encapsulated(&mut self, encapsulation: Encapsulation, udp_port: u16, stray: &Stray) {
        let key = (stray.port.agent, encapsulation, udp_port);
        self.strays.encapsulated.add(key, once(stray.packets, stray.stamp_millis, ()));
    }

    /// Takes an IP address that the owner of a MAC says to have.
    #[cold]
    pub fn announced(&mut self, mac: Mac, address: IpAddr) {
        if self.addresses.len() < COLLECTED_MAX {
            self.addresses.insert((mac, address));
        }
    }
}

/// VLAN interfaces that are told of a known MAC on a wrong VLAN.
const KNOWN_ON_MAX: usize = 4;

/// What is known of the fabric, shared by all workers.
#[derive(Debug)]
pub struct Sightings {
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    strays: Strays,
    addresses: HashMap<Mac, Vec<IpAddr>, FixedState>,
    learned: Learned,
    minute: u64,
    stamp_millis: u64,
}

impl Default for Sightings {
    fn default() -> Sightings {
        let seen = Seen {
            strays: Strays::new(UNKNOWN_MAX),
            addresses: HashMap::default(),
            learned: Learned::default(),
            minute: 0,
            stamp_millis: 0,
        };
        Sightings { seen: Mutex::new(seen) }
    }
}

impl Sightings {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // The lock guards tables that are whole after every statement.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what a worker saw, and empties its lookout. In the first fold of a minute what
    /// there is to learn is learned.
    pub fn fold(&self, lookout: &mut Lookout, plan: &Plan, stamp_millis: u64) {
        let mut seen = self.seen();
        let Seen { strays, addresses, learned, minute, stamp_millis: last } = &mut *seen;
        strays.unknown.merge(&mut lookout.strays.unknown);
        strays.vlans.merge(&mut lookout.strays.vlans);
        strays.ether_types.merge(&mut lookout.strays.ether_types);
        strays.encapsulated.merge(&mut lookout.strays.encapsulated);
        for (mac, address) in lookout.addresses.drain() {
            if addresses.len() >= ADDRESSED_MACS_MAX && !addresses.contains_key(&mac) {
                // Who is still there says it again.
                addresses.clear();
            }
            let of = addresses.entry(mac).or_default();
            if !of.contains(&address) {
                if of.len() >= ADDRESSES_PER_MAC_MAX {
                    of.remove(0);
                }
                of.push(address);
            }
        }
        for lesson in lookout.lessons.drain(..) {
            learned.take(&lesson);
        }
        *last = stamp_millis.max(*last);
        let now_minute = stamp_millis / MINUTE_MILLIS;
        if now_minute > *minute {
            *minute = now_minute;
            let forgotten = stamp_millis.saturating_sub(FORGET_MILLIS);
            strays.unknown.forget_before(forgotten);
            strays.vlans.forget_before(forgotten);
            strays.ether_types.forget_before(forgotten);
            strays.encapsulated.forget_before(forgotten);
            learned.learn(&plan.policy, now_minute);
        }
    }

    /// Core ports whose samples are left out because their agent's policy is `auto`.
    pub fn core_map(&self) -> Arc<CoreMap> {
        self.seen().learned.core_map.clone()
    }

    /// The links between switches that the samples show, sorted.
    pub fn core_ports(&self) -> Vec<CorePort> {
        self.seen().learned.core_ports.clone()
    }

    /// MACs at ports of others, sorted.
    pub fn wrong_ports(&self) -> Vec<WrongPort> {
        self.seen().learned.wrong_ports.clone()
    }

    /// Addresses that the table does not know, the `limit` with most packets first; and the
    /// samples of those beyond the table's limit. `flow_samples` are those of each agent, of
    /// which a row's share is taken.
    pub fn unknown_macs(
        &self,
        limit: usize,
        flow_samples: &BTreeMap<IpAddr, u64>,
    ) -> (Vec<UnknownMac>, u64) {
        let seen = self.seen();
        let mut rows: Vec<_> = seen.strays.unknown.iter().collect();
        rows.sort_unstable_by_key(|(key, row)| {
            (std::cmp::Reverse(row.packets), key.mac, key.vlan, key.port, key.end)
        });
        let listed = rows.into_iter().take(limit).map(|(key, row)| {
            let all = flow_samples.get(&key.port.agent).copied().unwrap_or(0);
            UnknownMac {
                end: key.end,
                vlan: key.vlan,
                mac: key.mac,
                port: key.port,
                samples: row.samples,
                packets: row.packets,
                share: row.samples as f64 / all.max(row.samples) as f64,
                first_seen_millis: row.first_millis,
                last_seen_millis: row.last_millis,
                addresses: seen.addresses.get(&key.mac).cloned().unwrap_or_default(),
                known_on: row.detail.clone(),
            }
        });
        (listed.collect(), seen.strays.unknown.others)
    }

    /// VLANs that the table does not know, the `limit` with most packets first; and the samples of
    /// those beyond the table's limit.
    pub fn unknown_vlans(&self, limit: usize) -> (Vec<UnknownVlan>, u64) {
        let seen = self.seen();
        let mut rows: Vec<_> = seen.strays.vlans.iter().collect();
        rows.sort_unstable_by_key(|(key, row)| (std::cmp::Reverse(row.packets), **key));
        let listed = rows.into_iter().take(limit).map(|(&(vlan, port), row)| {
            let (source, destination, meant) = row.detail;
            UnknownVlan {
                vlan,
                port,
                samples: row.samples,
                packets: row.packets,
                first_seen_millis: row.first_millis,
                last_seen_millis: row.last_millis,
                source,
                destination,
                meant,
            }
        });
        (listed.collect(), seen.strays.vlans.others)
    }

    /// What is neither IPv4 nor IPv6, most packets first; and the samples of what is beyond the
    /// table's limit.
    pub fn ether_types(&self) -> (Vec<EtherTypeCount>, u64) {
        let seen = self.seen();
        let rows = seen.strays.ether_types.iter().map(|(&(agent, ether_type), row)| {
            let name = ether_type_name(ether_type);
            let (samples, packets) = (row.samples, row.packets);
            let last_seen_millis = row.last_millis;
            EtherTypeCount { agent, ether_type, name, samples, packets, last_seen_millis }
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable_by_key(|row| {
            (std::cmp::Reverse(row.packets), row.agent, row.ether_type)
        });
        (rows, seen.strays.ether_types.others)
    }

    /// Frames that wrap others and are not counted, sorted.
    pub fn encapsulated(&self) -> Vec<Encapsulated> {
        let seen = self.seen();
        let rows = seen.strays.encapsulated.iter();
        let mut rows: Vec<_> = rows
            .map(|(&(agent, encapsulation, udp_port), row)| {
                let (samples, last_seen_millis) = (row.samples, row.last_millis);
                Encapsulated { agent, encapsulation, udp_port, samples, last_seen_millis }
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    /// What of all this looks wrong at the moment.
    pub fn findings(&self, flow_samples: &BTreeMap<IpAddr, u64>) -> Vec<Finding> {
        let mut findings = self.seen().learned.findings();
        let since = self.seen().stamp_millis.saturating_sub(AT_THE_MOMENT_MILLIS);
        for row in self.encapsulated() {
            if row.last_seen_millis >= since {
                findings.push(encapsulated_finding(&row));
            }
        }
        let (mut vlans, _) = self.unknown_vlans(usize::MAX);
        vlans.retain(|row| row.last_seen_millis >= since);
        findings.extend(unknown_vlan_findings(&vlans).take(FINDINGS_PER_TABLE_MAX));
        let (macs, _) = self.unknown_macs(FINDINGS_PER_TABLE_MAX, flow_samples);
        let macs = macs
            .iter()
            .filter(|row| row.last_seen_millis >= since && row.samples >= UNKNOWN_SAMPLES_MIN);
        findings.extend(macs.map(unknown_mac_finding));
        findings
    }
}

/// Names of [`Sightings::findings`].
pub const FINDINGS: &[&str] = &[
    "core_port",
    "double_export",
    "seen_twice",
    "lag",
    "wrong_port",
    "encapsulated",
    "vlan_translated",
    "vlan_not_told",
    "unknown_source",
    "unknown_destination",
];

/// A row without a sample for so long is no finding any more.
const AT_THE_MOMENT_MILLIS: u64 = 600_000;

/// Rows of a table that become findings at the most, those with most packets.
const FINDINGS_PER_TABLE_MAX: usize = 16;

/// Samples of an unknown address that make it a finding.
const UNKNOWN_SAMPLES_MIN: u64 = 16;

/// What the table of EtherTypes shows (IEEE Registration Authority); 0 for a length.
fn ether_type_name(ether_type: u16) -> &'static str {
    match ether_type {
        0 => "LLC (BPDU and others)",
        0x0806 => "ARP",
        0x2000 => "CDP",
        0x8035 => "RARP",
        0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => "VLAN tag",
        0x8847 | 0x8848 => "MPLS",
        0x8863 | 0x8864 => "PPPoE",
        0x8809 => "slow protocols (LACP)",
        0x888e => "802.1X",
        0x88cc => "LLDP",
        0x88e5 => "MACsec",
        0x88e7 => "PBB",
        0x88f7 => "PTP",
        0x8902 => "CFM",
        0x9000 => "loopback test",
        _ => "",
    }
}

fn encapsulated_finding(row: &Encapsulated) -> Finding {
    let Encapsulated { agent, encapsulation, udp_port, samples, .. } = row;
    let name = encapsulation.name();
    let word = match encapsulation {
        Encapsulation::Vxlan if *udp_port != crate::resolve::VXLAN_PORT => {
            format!("vxlan:{udp_port}")
        }
        _ => name.to_owned(),
    };
    Finding {
        level: Level::Warn,
        name: "encapsulated",
        subject: agent.to_string(),
        what: format!("{samples} samples are frames inside of {name}"),
        why: "the members' frames inside are not counted".into(),
        remedy: format!(
            "set decapsulate = {word} in <sflow_agent {agent}>, or sample members' ports only"
        ),
    }
}

/// One finding for each agent and VLAN, those with most samples first.
fn unknown_vlan_findings(rows: &[UnknownVlan]) -> impl Iterator<Item = Finding> {
    let mut by_vlan: BTreeMap<(IpAddr, VlanTag), Vec<&UnknownVlan>> = BTreeMap::new();
    for row in rows {
        by_vlan.entry((row.port.agent, row.vlan)).or_default().push(row);
    }
    let mut groups: Vec<_> = by_vlan
        .into_iter()
        .map(|(key, rows)| (rows.iter().map(|row| row.samples).sum::<u64>(), key, rows))
        .filter(|(samples, ..)| *samples >= UNKNOWN_SAMPLES_MIN)
        .collect();
    groups.sort_by_key(|(samples, ..)| std::cmp::Reverse(*samples));
    groups.into_iter().filter_map(|(samples, key, rows)| unknown_vlan_finding(samples, key, &rows))
}

fn unknown_vlan_finding(
    samples: u64,
    (agent, vlan): (IpAddr, VlanTag),
    rows: &[&UnknownVlan],
) -> Option<Finding> {
    let meant: BTreeMap<Option<u32>, VlanTag> =
        rows.iter().filter_map(|row| Some((row.port.if_index, row.meant?))).collect();
    let UnknownVlan { source, destination, .. } = rows.first()?;
    let (name, what, remedy) = if !vlan.is_some() {
        let what = format!(
            "{samples} samples without a VLAN, from {source} to {destination} for example, which \
             are on no VLAN together or on several"
        );
        ("vlan_not_told", what, "untagged_vlan".to_owned())
    } else {
        // A VLAN beside the peering VLANs is nobody's business.
        let to = meant.values().next()?;
        let alias = if meant.values().all(|other| other == to) {
            format!("{vlan}={to}")
        } else {
            let by_port = meant.iter().filter_map(|(port, to)| Some((port.as_ref()?, to)));
            let by_port = by_port.take(FINDINGS_PER_TABLE_MAX);
            by_port.map(|(port, to)| format!("{port}:{vlan}={to}")).collect::<Vec<_>>().join(" ")
        };
        let what = format!(
            "{samples} samples on VLAN {vlan}, which the table does not know, between addresses \
             that it knows on VLAN {to}"
        );
        ("vlan_translated", what, format!("vlan_alias = {alias}"))
    };
    Some(Finding {
        level: Level::Warn,
        name,
        subject: format!("{agent}"),
        what,
        why: "they are not counted".into(),
        remedy: format!("set {remedy} in <sflow_agent {agent}>"),
    })
}

fn unknown_mac_finding(row: &UnknownMac) -> Finding {
    let UnknownMac { end, vlan, mac, port, samples, share, addresses, known_on, .. } = row;
    let (name, end) = match end {
        End::Source => ("unknown_source", "from"),
        End::Destination => ("unknown_destination", "to"),
    };
    let mut what = format!(
        "{samples} samples {end} {mac} on VLAN {vlan}, {:.2} % of the agent's",
        share * 100.0
    );
    if !addresses.is_empty() {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        what += &format!("; it says to be {}", addresses.join(", "));
    }
    let known: Vec<_> =
        known_on.iter().map(|m| format!("VLI {} on VLAN {}", m.vli.0, m.vlan)).collect();
    let remedy = if known.is_empty() {
        format!(
            "enter {mac} for its member in IXP Manager (configured or discovered, as macdbtype \
             says)"
        )
    } else {
        what += &format!("; the table knows it as {}", known.join(", "));
        "correct the member's VLAN interface in IXP Manager, or its port; where the port \
         translates VLANs, set vlan_alias"
            .into()
    };
    Finding {
        level: Level::Warn,
        name,
        subject: port.to_string(),
        what,
        why: "its traffic is in no graph".into(),
        remedy,
    }
}
