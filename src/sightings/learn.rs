//! What is learned from where MACs come in: homes, links between switches, and what comes twice.
//!
//! A *core port* is one where many MACs come in of which nearly every one comes in at another port
//! too, a port with fewer MACs of which few come in here: its home. Ports that share their MACs,
//! as those of a *LAG* do, are one place and make no core port; nor does a port of a reseller, whose
//! MACs come in nowhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::bounded::{Bounded, Row};
use super::{CoreMap, CorePort, Lesson, SwitchPort, WrongPort};
use crate::finding::{Finding, Level};
use crate::ixp::{Mac, VliId};
use crate::resolve::{CorePorts, Direction, Policy};

/// (port, MAC) pairs that are remembered, and for a while twice as many.
const PLACES_MAX: usize = 32_768;

/// Samples of late, of those that teach, from which a MAC is at a port for sure.
const EVIDENCE: u64 = 8;

/// MACs, and VLIs, with their home elsewhere that make a core port.
const CORE_MACS_MIN: usize = 3;

/// Samples that were seen twice from which it is no chance.
const TWICE_EVIDENCE: u64 = 8;

/// Samples by which copies are known, in each of two generations.
const IDENTITIES_MAX: usize = 32_768;

/// A generation of samples; a copy comes within one.
const GENERATION_MILLIS: u64 = 5_000;

/// Pairs of agents in the table of copies.
const TWICE_MAX: usize = 1_024;

/// What is decided by weighs half after so many minutes.
const DECAY_MINUTES: u64 = 10;

/// Ports told of in a finding about MACs that come in at two agents.
const FINDINGS_MAX: usize = 64;

/// Ports of a LAG that its finding names.
const LAG_PORTS_NAMED_MAX: usize = 16;

type Port = (IpAddr, u32);

/// What was learned.
#[derive(Debug)]
pub(super) struct Learned {
    places: Bounded<(Port, Mac), VliId>,
    identities: [HashMap<u64, IpAddr, FixedState>; 2],
    generation: u64,
    twice: Bounded<(IpAddr, IpAddr), ()>,
    pub(super) core_map: Arc<CoreMap>,
    pub(super) core_ports: Vec<CorePort>,
    pub(super) wrong_ports: Vec<WrongPort>,
    /// Port pairs on two agents where the same MACs come in, with how many.
    at_two_agents: BTreeMap<(Port, Port), usize>,
    /// Ports of one agent that share their MACs, with how many these are.
    lags: Vec<(IpAddr, Vec<u32>, usize)>,
    copies: Vec<(IpAddr, IpAddr, u64)>,
    decayed_minute: u64,
}

impl Default for Learned {
    fn default() -> Learned {
        Learned {
            places: Bounded::new(PLACES_MAX),
            identities: Default::default(),
            generation: 0,
            twice: Bounded::new(TWICE_MAX),
            core_map: Arc::default(),
            core_ports: Vec::new(),
            wrong_ports: Vec::new(),
            at_two_agents: BTreeMap::new(),
            lags: Vec::new(),
            copies: Vec::new(),
            decayed_minute: 0,
        }
    }
}

fn shown((agent, if_index): Port) -> SwitchPort {
    SwitchPort { agent, if_index: Some(if_index) }
}

/// The MACs of a port.
#[derive(Default)]
struct PortView {
    /// All, with the VLI of the last sample and the samples of late.
    macs: BTreeMap<Mac, (VliId, u64)>,
    /// Those that are there for sure.
    sure: BTreeSet<Mac>,
}

impl PortView {
    /// Whether most of the MACs that are here for sure come in at `other` as well: two ports of
    /// one LAG, perhaps of two switches.
    fn shares_its_macs_with(&self, other: &PortView) -> bool {
        let shared = self.sure.iter().filter(|mac| other.macs.contains_key(mac)).count();
        2 * shared > self.sure.len()
    }
}

/// Ports of one agent of which each shares most of its MACs with the next, but links between
/// switches: by agent, in rising order, and the MACs of each group.
fn lags(
    ports: &BTreeMap<Port, PortView>,
    ports_of: &HashMap<Mac, Vec<Port>, FixedState>,
    core: &BTreeSet<Port>,
) -> Vec<(IpAddr, Vec<u32>, usize)> {
    let mut neighbours: BTreeSet<(Port, Port)> = BTreeSet::new();
    for places in ports_of.values() {
        // They are sorted: those of an agent stand together.
        neighbours.extend(places.windows(2).filter_map(|pair| match *pair {
            [one, next] if one.0 == next.0 => Some((one, next)),
            _ => None,
        }));
    }
    neighbours.retain(|(one, next)| {
        let (here, there) = (&ports[one], &ports[next]);
        !core.contains(one)
            && !core.contains(next)
            && here.shares_its_macs_with(there)
            && there.shares_its_macs_with(here)
    });
    // Of each port the first one of its group.
    let mut first_of: BTreeMap<Port, Port> = BTreeMap::new();
    for (one, next) in neighbours {
        let first = *first_of.entry(one).or_insert(one);
        first_of.entry(next).or_insert(first);
    }
    let mut groups: BTreeMap<Port, Vec<Port>> = BTreeMap::new();
    for (port, first) in first_of {
        groups.entry(first).or_default().push(port);
    }
    let groups = groups.into_iter().map(|(first, members)| {
        let macs: BTreeSet<&Mac> = members.iter().flat_map(|port| &ports[port].sure).collect();
        (first.0, members.into_iter().map(|(_, if_index)| if_index).collect(), macs.len())
    });
    groups.collect()
}

impl Learned {
    pub(super) fn take(&mut self, lesson: &Lesson) {
        let row = |detail| Row {
            samples: 1,
            packets: lesson.packets.into(),
            recent: 1,
            first_millis: lesson.stamp_millis,
            last_millis: lesson.stamp_millis,
            detail,
        };
        self.places.add(((lesson.agent, lesson.if_index), lesson.source), row(lesson.vli));
        let generation = lesson.stamp_millis / GENERATION_MILLIS;
        if generation > self.generation {
            self.identities.swap(0, 1);
            if generation > self.generation + 1 {
                self.identities[1].clear();
            }
            self.identities[0].clear();
            self.generation = generation;
        }
        let [now, before] = &mut self.identities;
        if let Some(&first) = now.get(&lesson.identity).or_else(|| before.get(&lesson.identity)) {
            let pair = (first.min(lesson.agent), first.max(lesson.agent));
            let row = Row {
                samples: 1,
                packets: 0,
                recent: 1,
                first_millis: 0,
                last_millis: lesson.stamp_millis,
                detail: (),
            };
            self.twice.add(pair, row);
        } else if now.len() < IDENTITIES_MAX {
            now.insert(lesson.identity, lesson.agent);
        }
    }

    /// Draws the conclusions, once a minute.
    pub(super) fn learn(&mut self, policy: &Policy, minute: u64) {
        let mut ports: BTreeMap<Port, PortView> = BTreeMap::new();
        let mut ports_of: HashMap<Mac, Vec<Port>, FixedState> = HashMap::default();
        let mut last_millis: HashMap<(Port, Mac), u64, FixedState> = HashMap::default();
        for (&(port, mac), row) in self.places.iter().filter(|(_, row)| row.recent > 0) {
            let view = ports.entry(port).or_default();
            view.macs.insert(mac, (row.detail, row.recent));
            if row.recent >= EVIDENCE {
                view.sure.insert(mac);
                ports_of.entry(mac).or_default().push(port);
                last_millis.insert((port, mac), row.last_millis);
            }
        }
        for places in ports_of.values_mut() {
            places.sort_unstable();
        }
        let setting = |port: &Port| &policy.agent(port.0).core_ports;

        let mut core = BTreeSet::new();
        self.core_ports.clear();
        let mut left_out: BTreeMap<IpAddr, Vec<u32>> = BTreeMap::new();
        for (port, view) in &ports {
            if view.sure.len() < CORE_MACS_MIN || *setting(port) == CorePorts::Off {
                continue;
            }
            // Each other port is compared once.
            let mut homes: BTreeMap<Port, bool> = BTreeMap::new();
            let mut vlis = BTreeSet::new();
            let elsewhere = view.sure.iter().filter(|mac| {
                let at_home = ports_of[*mac].iter().any(|other| {
                    *homes.entry(*other).or_insert_with(|| {
                        let home = &ports[other];
                        other != port
                            && home.macs.len() < view.sure.len()
                            && !view.shares_its_macs_with(home)
                    })
                });
                if at_home {
                    vlis.insert(view.macs[*mac].0);
                }
                at_home
            });
            let elsewhere = elsewhere.count();
            if elsewhere < CORE_MACS_MIN
                || vlis.len() < CORE_MACS_MIN
                || 4 * elsewhere < 3 * view.sure.len()
            {
                continue;
            }
            core.insert(*port);
            let is_left_out = match setting(port) {
                CorePorts::Auto => true,
                CorePorts::List(list) => list.contains(&port.1),
                CorePorts::Report | CorePorts::Off => false,
            };
            if *setting(port) == CorePorts::Auto {
                left_out.entry(port.0).or_default().push(port.1);
            }
            self.core_ports.push(CorePort {
                port: shown(*port),
                macs: view.macs.len(),
                at_home_elsewhere: elsewhere,
                left_out: is_left_out,
            });
        }
        let map: CoreMap = left_out.into_iter().map(|(agent, list)| (agent, list.into())).collect();
        if map != *self.core_map {
            self.core_map = Arc::new(map);
        }
        // Ports that the settings call core are no home either.
        for port in ports.keys() {
            if matches!(setting(port), CorePorts::List(list) if list.contains(&port.1)) {
                core.insert(*port);
            }
        }

        // The home of a MAC: the port with most of its samples; of two, the one that is more its own.
        let mut homes: HashMap<Mac, Port, FixedState> = HashMap::default();
        for (mac, places) in &ports_of {
            let own = places.iter().filter(|port| !core.contains(*port));
            let home = own.max_by_key(|port| {
                let view = &ports[*port];
                let recent = view.macs.get(mac).map_or(0, |&(_, recent)| recent);
                (recent * 1_000 / view.macs.len() as u64, **port)
            });
            homes.extend(home.map(|home| (*mac, *home)));
        }
        self.wrong_ports.clear();
        self.at_two_agents.clear();
        for (mac, home) in &homes {
            for port in ports_of[mac].iter().filter(|port| *port != home && !core.contains(*port)) {
                let (here, there) = (&ports[port], &ports[home]);
                if port.0 != home.0
                    && *setting(port) != CorePorts::Off
                    && *setting(home) != CorePorts::Off
                {
                    let pair = (*home.min(port), *home.max(port));
                    *self.at_two_agents.entry(pair).or_default() += 1;
                }
                let (vli, samples) = here.macs[mac];
                // Whose home it is, unless it is another port of the same LAG.
                let owner = here.sure.iter().find(|other| homes.get(other) == Some(port));
                let Some((neighbour, _)) = owner.map(|owner| here.macs[owner]) else { continue };
                if neighbour != vli && !here.shares_its_macs_with(there) {
                    self.wrong_ports.push(WrongPort {
                        mac: *mac,
                        vli,
                        port: shown(*port),
                        home: shown(*home),
                        neighbour,
                        samples,
                        last_seen_millis: last_millis[&(*port, *mac)],
                    });
                }
            }
        }
        self.wrong_ports.sort_unstable();

        self.lags = lags(&ports, &ports_of, &core);
        self.copies = self
            .twice
            .iter()
            .filter(|(_, row)| row.recent >= TWICE_EVIDENCE)
            .map(|(&(a, b), row)| (a, b, row.samples))
            .collect();
        self.copies.sort_unstable();
        for (a, b, _) in &self.copies {
            self.at_two_agents.retain(|(p, q), _| (p.0.min(q.0), p.0.max(q.0)) != (*a, *b));
        }
        // Whoever counts nothing counts nothing twice.
        let counts = |agent: &IpAddr| policy.agent(*agent).direction != Direction::None;
        self.copies.retain(|(a, b, _)| counts(a) && counts(b));
        self.at_two_agents.retain(|(p, q), _| counts(&p.0) && counts(&q.0));
        self.core_ports.retain(|core| counts(&core.port.agent));

        if minute >= self.decayed_minute + DECAY_MINUTES {
            self.decayed_minute = minute;
            self.places.decay();
            self.twice.decay();
            let hour_ago = minute.saturating_sub(60) * super::MINUTE_MILLIS;
            self.places.forget_before(hour_ago);
            self.twice.forget_before(hour_ago);
        }
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for core in self.core_ports.iter().filter(|core| !core.left_out) {
            let CorePort { port, macs, at_home_elsewhere, .. } = core;
            let agent = port.agent;
            let if_index = port.if_index.unwrap_or(0);
            findings.push(Finding {
                level: Level::Warn,
                name: "core_port",
                subject: port.to_string(),
                what: format!(
                    "a link between switches: of {macs} MACs that come in there {at_home_elsewhere} \
                     come in at a port of their own as well"
                ),
                why: "packets that cross it are counted twice".into(),
                remedy: format!(
                    "switch sFlow off there, or set core_ports = {if_index} (or auto) in \
                     <sflow_agent {agent}>"
                ),
            });
        }
        for (a, b, samples) in self.copies.iter().take(FINDINGS_MAX) {
            let (subject, remedy) = if a == b {
                (a.to_string(), "name this collector once in its configuration".to_owned())
            } else {
                (
                    format!("{a} and {b}"),
                    format!("let one of them send, or set direction = none in <sflow_agent {b}>"),
                )
            };
            findings.push(Finding {
                level: Level::Fail,
                name: "double_export",
                subject,
                what: format!("{samples} samples came twice, of one in {} looked at", super::SHARE),
                why: "their packets are counted twice".into(),
                remedy,
            });
        }
        for (&(p, q), macs) in self.at_two_agents.iter().take(FINDINGS_MAX) {
            let [one, other] = [p, q].map(shown);
            findings.push(Finding {
                level: Level::Warn,
                name: "seen_twice",
                subject: format!("{one} and {other}"),
                what: format!("{macs} MACs come in at both"),
                why: "unless it is one LAG of two switches, their pairs are counted twice".into(),
                remedy: format!(
                    "if one of the two is a link between switches, set core_ports = {} in \
                     <sflow_agent {}>, or that of the other; if it is a LAG, core_ports = off",
                    q.1, q.0
                ),
            });
        }
        for (agent, ports, macs) in self.lags.iter().take(FINDINGS_MAX) {
            let count = ports.len();
            let named: Vec<String> =
                ports.iter().take(LAG_PORTS_NAMED_MAX).map(ToString::to_string).collect();
            let more = if count > named.len() { ", ..." } else { "" };
            findings.push(Finding {
                level: Level::Ok,
                name: "lag",
                subject: format!("{agent} ifIndex {}{more}", named.join(", ")),
                what: format!(
                    "{count} ports share their MACs ({macs}): a LAG, whose samples count once, and \
                     no link between switches"
                ),
                why: String::new(),
                remedy: String::new(),
            });
        }
        for wrong in self.wrong_ports.iter().take(FINDINGS_MAX) {
            let WrongPort { mac, vli, port, home, neighbour, .. } = wrong;
            findings.push(Finding {
                level: Level::Warn,
                name: "wrong_port",
                subject: port.to_string(),
                what: format!(
                    "{mac} of VLI {} comes in at the port of VLI {}; it usually comes in at {home}",
                    vli.0, neighbour.0
                ),
                why: "a loop, a forged address, or a MAC that was entered for the wrong member"
                    .into(),
                remedy: "look at the port, and at the MAC's owner in IXP Manager".into(),
            });
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::AgentPolicy;

    fn agent(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    fn mac(number: u32) -> Mac {
        Mac::from_bits(0x0200_0000_0000 | u64::from(number))
    }

    /// Samples of a MAC, of a member of its own, that come in at a port.
    fn come(learned: &mut Learned, at: Port, number: u32, times: u64) {
        for n in 0..times {
            learned.take(&Lesson {
                agent: at.0,
                if_index: at.1,
                source: mac(number),
                vli: VliId(100 + number),
                identity: u64::from(number) << 40
                    ^ u64::from(at.1) << 32
                    ^ n
                    ^ u64::from(at.0.is_ipv6())
                    ^ hash(at.0),
                packets: 1_000,
                stamp_millis: 1_000,
            });
        }
    }

    fn hash(agent: IpAddr) -> u64 {
        match agent {
            IpAddr::V4(agent) => u64::from(agent.to_bits()) << 8,
            IpAddr::V6(_) => 0,
        }
    }

    fn names(learned: &Learned) -> Vec<(&'static str, String)> {
        learned.findings().into_iter().map(|found| (found.name, found.subject)).collect()
    }

    /// Five members on switch 1, five on switch 2, and what crosses the link.
    fn two_switches(learned: &mut Learned) {
        for member in 0..10 {
            let (here, there) = if member < 5 { (1, 2) } else { (2, 1) };
            come(learned, (agent(here), 10 + member), member, 30);
            // Nearly all of it: the statistics may even be the wrong way round.
            come(learned, (agent(there), 1), member, 31);
        }
    }

    #[test]
    fn a_link_between_switches_is_a_core_port() {
        let mut learned = Learned::default();
        two_switches(&mut learned);
        let mut policy = Policy::default();
        learned.learn(&policy, 1);
        let core = |number| ("core_port", format!("192.0.2.{number} ifIndex 1"));
        assert_eq!(names(&learned), [core(1), core(2)]);
        assert!(learned.core_map.is_empty());
        let remedy = &learned.findings()[0].remedy;
        assert!(remedy.contains("core_ports = 1 (or auto) in <sflow_agent 192.0.2.1>"), "{remedy}");

        let auto = AgentPolicy { core_ports: CorePorts::Auto, ..AgentPolicy::default() };
        policy.agents.insert(agent(1), auto);
        let list =
            AgentPolicy { core_ports: CorePorts::List([1].into()), ..AgentPolicy::default() };
        policy.agents.insert(agent(2), list);
        learned.learn(&policy, 2);
        assert_eq!(names(&learned), []);
        assert_eq!(learned.core_map[&agent(1)][..], [1]);
        assert!(!learned.core_map.contains_key(&agent(2)), "the list is not learned");
        assert_eq!(learned.core_ports.iter().filter(|core| core.left_out).count(), 2);

        policy.other_agents.core_ports = CorePorts::Off;
        policy.agents.clear();
        learned.learn(&policy, 3);
        assert_eq!(names(&learned), []);
        assert!(learned.core_ports.is_empty() && learned.core_map.is_empty());
    }

    #[test]
    fn two_links_between_two_switches_are_core_ports() {
        let mut learned = Learned::default();
        two_switches(&mut learned);
        for member in 0..5 {
            come(&mut learned, (agent(2), 2), member, 20);
        }
        learned.learn(&Policy::default(), 1);
        let ports: Vec<_> = learned.core_ports.iter().map(|core| core.port.to_string()).collect();
        assert_eq!(ports, ["192.0.2.1 ifIndex 1", "192.0.2.2 ifIndex 1", "192.0.2.2 ifIndex 2"]);
        assert!(names(&learned).iter().all(|(name, _)| *name == "core_port"), "and no LAG");
    }

    #[test]
    fn a_lag_is_no_core_port() {
        let mut learned = Learned::default();
        // A reseller's, of eight ports: ten members, not each seen often at each.
        for port in 1..=8 {
            for member in 0..10 {
                come(
                    &mut learned,
                    (agent(1), port),
                    member,
                    u64::from(4 + (member * 3 + port * 7) % 11),
                );
            }
        }
        // A member's, with three routers.
        for port in 21..=22 {
            for router in 20..23 {
                come(&mut learned, (agent(1), port), router, 40);
            }
        }
        learned.learn(&Policy::default(), 1);
        let lags = ["1, 2, 3, 4, 5, 6, 7, 8", "21, 22"];
        let lags = lags.map(|ports| ("lag", format!("192.0.2.1 ifIndex {ports}")));
        assert_eq!(names(&learned), lags);
        let findings = learned.findings();
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
        assert!(findings[1].what.starts_with("2 ports share their MACs (3): a LAG"));
    }

    #[test]
    fn a_resellers_port_is_no_core_port_and_the_link_behind_it_is_one() {
        let mut learned = Learned::default();
        for member in 0..10 {
            come(&mut learned, (agent(1), 7), member, 30);
        }
        learned.learn(&Policy::default(), 1);
        assert_eq!(names(&learned), [], "their MACs have no other home");
        for member in 10..15 {
            come(&mut learned, (agent(1), 10 + member), member, 30);
        }
        for member in 0..15 {
            come(&mut learned, (agent(2), 1), member, 20);
        }
        learned.learn(&Policy::default(), 2);
        // Two thirds are the reseller's, which alone could be a LAG of two switches.
        let ports: Vec<_> = learned.core_ports.iter().map(|core| core.port.to_string()).collect();
        assert!(!ports.contains(&"192.0.2.1 ifIndex 7".to_owned()), "{ports:?}");
        assert!(names(&learned).iter().all(|(name, _)| *name != "wrong_port"));
        assert!(names(&learned).iter().any(|(name, _)| *name == "seen_twice"));
    }

    #[test]
    fn a_mac_at_two_agents_is_told_of() {
        let mut learned = Learned::default();
        come(&mut learned, (agent(1), 5), 1, 30);
        come(&mut learned, (agent(2), 1), 1, 30);
        learned.learn(&Policy::default(), 1);
        let both = "192.0.2.1 ifIndex 5 and 192.0.2.2 ifIndex 1";
        assert_eq!(names(&learned), [("seen_twice", both.to_owned())]);
        let off = AgentPolicy { core_ports: CorePorts::Off, ..AgentPolicy::default() };
        let policy = Policy { agents: [(agent(2), off)].into(), ..Policy::default() };
        learned.learn(&policy, 2);
        assert_eq!(names(&learned), [], "a LAG of two switches");
    }

    #[test]
    fn a_mac_at_the_port_of_another_member_is_told_of() {
        let mut learned = Learned::default();
        come(&mut learned, (agent(1), 5), 1, 90);
        come(&mut learned, (agent(1), 6), 2, 90);
        learned.learn(&Policy::default(), 1);
        assert_eq!(learned.wrong_ports, []);
        come(&mut learned, (agent(1), 6), 1, 10);
        come(&mut learned, (agent(1), 6), 3, 90);
        learned.learn(&Policy::default(), 2);
        let [wrong] = &learned.wrong_ports[..] else { panic!("{:?}", learned.wrong_ports) };
        assert_eq!((wrong.mac, wrong.vli, wrong.neighbour), (mac(1), VliId(101), VliId(102)));
        assert_eq!(wrong.port.to_string(), "192.0.2.1 ifIndex 6");
        assert_eq!(wrong.home.to_string(), "192.0.2.1 ifIndex 5");
    }

    #[test]
    fn copies_of_samples_are_double_export() {
        let mut learned = Learned::default();
        let lesson = |by: u8, identity| Lesson {
            agent: agent(by),
            if_index: 5,
            source: mac(1),
            vli: VliId(101),
            identity,
            packets: 1_000,
            stamp_millis: 20_000 + identity * 500,
        };
        for identity in 0..30 {
            learned.take(&lesson(1, identity));
            learned.take(&lesson(9, identity));
        }
        learned.learn(&Policy::default(), 1);
        let both = "192.0.2.1 and 192.0.2.9";
        assert_eq!(names(&learned), [("double_export", both.to_owned())]);
        let none = AgentPolicy { direction: Direction::None, ..AgentPolicy::default() };
        let policy = Policy { agents: [(agent(9), none)].into(), ..Policy::default() };
        learned.learn(&policy, 2);
        assert_eq!(names(&learned), []);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut learned = Learned::default();
        two_switches(&mut learned);
        for minute in 1..=80 {
            learned.learn(&Policy::default(), minute);
        }
        assert_eq!(names(&learned), []);
        assert_eq!(learned.places.iter().count(), 0);
    }
}
