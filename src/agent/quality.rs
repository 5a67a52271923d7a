//! How good the sampling is: what the samples of a port stand for, over what the switch counted at
//! the same port in the same time.
//!
//! Switches send the counters of each port every 20 to 30 seconds (counters samples, sFlow v5,
//! section 5.3), at moments of their own. Each reading is held against the estimates of that
//! moment; a window begins with a reading, and ends with the first one that is five minutes later
//! or more. What is compared are frames that came in (ifInOctets, and unicast, multicast and
//! broadcast packets), or went out where the configuration counts egress; both have the FCS in
//! them. So the ratio does not depend on when the readings come.
//!
//! The relative error of an estimate from n samples is at most 196 x sqrt(1/n) percent in 95 of
//! 100 cases (sFlow.org, Packet Sampling Basics). A ratio is told as a fault when it is under 0.9
//! or over 1.1 by more than this error.
//!
//! Counters that are set back, of ports that go and of switches that restart, begin a window anew.
//! Octets of switches that count in 32 bits wrap at 2^32; where a port can wrap twice between two
//! readings, packets alone are compared.

use std::fmt;

use serde::Serialize;

use super::scaling::Trust;
use super::{Agent, Agents, SourceState};
use crate::count::relative_error_percent;
use crate::decode::{DataSource, InterfaceCounters, PortCounters};
use crate::finding::{Finding, Level};
use crate::resolve::Direction;

/// How long a window is at least, in milliseconds.
pub const WINDOW_MILLIS: u64 = 300_000;

/// An agent that says nothing, or nothing but counters, for so long is told, in milliseconds.
pub const SILENT_MILLIS: u64 = 300_000;

/// An agent that was silent for so long was taken away, and is not told any more.
const GONE_MILLIS: u64 = 86_400_000;

/// Ratios within these are as good as sampling gets.
const RATIO_GOOD: std::ops::RangeInclusive<f64> = 0.9..=1.1;

/// Samples from which on a ratio says something.
const SAMPLES_MIN: u64 = 100;

/// By how much more than its speed a port may seem to receive: the clocks of two readings differ.
const SPEED_SLACK: f64 = 1.25;

/// By how much the time between two readings may differ from that between their datagrams, in
/// milliseconds: octets of 32 bits at 1 Gbit/s, which wrap in 34 s, are told once in 30 s.
const READING_SLACK_MILLIS: u64 = 2_000;

/// Bytes of the shortest frame, with which packets and octets are held against each other.
const FRAME_BYTES_MIN: u64 = 64;

/// An agent's samples and packets are summed up over stretches of so many milliseconds.
const STRETCH_MILLIS: u64 = 600_000;

/// Stretches that are kept of an agent: traffic changes over hours.
const STRETCHES_KEPT: usize = 36;

/// Ports that a finding names.
const PORTS_NAMED_MAX: usize = 5;

/// Counters of a port, and what its samples stood for since the last fold, at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) source: u64,
    pub(super) stamp_millis: u64,
    pub(super) counters: InterfaceCounters,
    pub(super) estimated_bytes: u64,
    pub(super) estimated_packets: u64,
}

/// Where a window begins or ends: sums of the port's data source.
#[derive(Clone, Copy, Default, Debug)]
struct Moment {
    stamp_millis: u64,
    estimated_bytes: u64,
    estimated_packets: u64,
    pool_packets: u64,
    pool_samples: u64,
    agent_drops: u64,
    sample_gaps: u64,
}

/// What is known of a port that has counters.
#[derive(Clone, Debug)]
pub struct Port {
    /// What it is (IANAifType-MIB).
    pub if_type: u32,
    /// Its speed in bit/s; 0 if the agent does not say.
    pub speed_bits: u64,
    /// Whether it is up.
    pub is_up: bool,
    last: PortCounters,
    last_millis: u64,
    /// Its octets are counted in 32 bits.
    narrow: bool,
    begin: Moment,
    open: Window,
    closed: Option<Window>,
}

/// What was counted and estimated at a port from one reading of its counters to another one.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Window {
    /// Begin, in milliseconds since 1970.
    pub from_millis: u64,
    /// End, in milliseconds since 1970.
    pub to_millis: u64,
    /// Bytes that the switch counted; none where they cannot be told.
    pub counted_bytes: Option<u64>,
    /// Packets that the switch counted; none where they cannot be told.
    pub counted_packets: Option<u64>,
    /// Frame length x sampling rate over the samples, in bytes.
    pub estimated_bytes: u64,
    /// Sum of the sampling rates.
    pub estimated_packets: u64,
    /// Samples behind the estimates.
    pub samples: u64,
    /// What `estimated_packets` would be with `sflow_scaling = pool`; 0 where there is no pool.
    pub pool_packets: u64,
    /// Samples that the agent dropped itself.
    pub agent_drops: u64,
    /// Samples that are missing by their numbers.
    pub sample_gaps: u64,
}

fn ratio(estimated: u64, counted: Option<u64>) -> Option<f64> {
    counted.filter(|&counted| counted > 0).map(|counted| estimated as f64 / counted as f64)
}

impl Window {
    /// Estimated over counted: of bytes, or of packets where the switch's bytes cannot be told.
    /// None while nothing was counted.
    pub fn ratio(&self) -> Option<f64> {
        ratio(self.estimated_bytes, self.counted_bytes).or_else(|| self.packet_ratio())
    }

    /// The same of packets.
    pub fn packet_ratio(&self) -> Option<f64> {
        ratio(self.estimated_packets, self.counted_packets)
    }

    /// The error of the ratio, in percent, in 95 of 100 cases.
    pub fn error_percent(&self) -> f64 {
        relative_error_percent(self.samples)
    }

    /// How far the ratio is from what is good, beyond what chance explains: -1 under, 1 over, 0
    /// neither. Bytes and packets must both say so, where both are known.
    fn deviation(&self) -> i8 {
        if self.samples < SAMPLES_MIN {
            return 0;
        }
        let error = self.error_percent() / 100.0;
        let side = |ratio: f64| {
            if ratio < RATIO_GOOD.start() - error {
                -1
            } else {
                i8::from(ratio > RATIO_GOOD.end() + error)
            }
        };
        let packets = self.packet_ratio().map(side);
        match (ratio(self.estimated_bytes, self.counted_bytes).map(side), packets) {
            (Some(bytes), Some(packets)) if bytes != packets => 0,
            (bytes, packets) => bytes.or(packets).unwrap_or(0),
        }
    }

    fn merge(&mut self, other: &Window) {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            _ => None,
        };
        self.from_millis = self.from_millis.min(other.from_millis);
        self.to_millis = self.to_millis.max(other.to_millis);
        self.counted_bytes = sum(self.counted_bytes, other.counted_bytes);
        self.counted_packets = sum(self.counted_packets, other.counted_packets);
        self.estimated_bytes = self.estimated_bytes.saturating_add(other.estimated_bytes);
        self.estimated_packets = self.estimated_packets.saturating_add(other.estimated_packets);
        self.samples += other.samples;
        self.pool_packets = self.pool_packets.saturating_add(other.pool_packets);
        self.agent_drops += other.agent_drops;
        self.sample_gaps += other.sample_gaps;
    }
}

impl Port {
    /// The last whole window, or the one under way where there is no whole one yet.
    pub fn window(&self) -> Option<&Window> {
        self.closed.as_ref().or((self.open.to_millis > self.open.from_millis).then_some(&self.open))
    }

    /// Whether it is a port that frames come in at, and not a VLAN, a tunnel or a LAG, of which
    /// the members are the ports (IANAifType-MIB: ethernetCsmacd, iso88023Csmacd, fastEther,
    /// fastEtherFX, gigabitEthernet).
    pub fn is_physical(&self) -> bool {
        [6, 7, 62, 69, 117].contains(&self.if_type)
    }

    fn new(counters: &InterfaceCounters, last: PortCounters, at: Moment) -> Port {
        Port {
            if_type: counters.if_type,
            speed_bits: counters.speed_bits,
            is_up: counters.is_up,
            last,
            last_millis: at.stamp_millis,
            narrow: false,
            begin: at,
            open: Window::from(at.stamp_millis),
            closed: None,
        }
    }

    /// Takes counters in, and returns by how many packets they grew; `rate` is what a sample of
    /// the port stands for.
    fn take(
        &mut self,
        counters: &InterfaceCounters,
        new: PortCounters,
        at: Moment,
        rate: u32,
    ) -> u64 {
        self.if_type = counters.if_type;
        self.speed_bits = counters.speed_bits;
        self.is_up = counters.is_up;
        let Some(millis) = at.stamp_millis.checked_sub(self.last_millis).filter(|&ms| ms > 0)
        else {
            // A second one of the same moment, or a clock that was set back.
            return 0;
        };
        let old = std::mem::replace(&mut self.last, new);
        self.last_millis = at.stamp_millis;
        let Some((bytes, packets)) = self.growth(&old, &new, millis) else {
            // Set back: what was before does not go on.
            self.begin = at;
            self.open = Window::from(at.stamp_millis);
            return 0;
        };
        let begin = &self.begin;
        let open = &mut self.open;
        let add = |sum: Option<u64>, growth: Option<u64>| Some(sum?.saturating_add(growth?));
        open.counted_bytes = add(open.counted_bytes, bytes);
        open.counted_packets = add(open.counted_packets, packets);
        open.to_millis = at.stamp_millis;
        open.estimated_bytes = at.estimated_bytes.saturating_sub(begin.estimated_bytes);
        open.estimated_packets = at.estimated_packets.saturating_sub(begin.estimated_packets);
        open.samples = open.estimated_packets.checked_div(rate.into()).unwrap_or(0);
        let pool_samples = at.pool_samples.saturating_sub(begin.pool_samples);
        let pool_packets = at.pool_packets.saturating_sub(begin.pool_packets);
        // The pool may have both directions in it; the samples of one take their part of it.
        open.pool_packets = if pool_samples == 0 {
            0
        } else {
            let part = u128::from(pool_packets) * u128::from(open.samples);
            u64::try_from(part / u128::from(pool_samples)).unwrap_or(u64::MAX)
        };
        open.agent_drops = at.agent_drops.saturating_sub(begin.agent_drops);
        open.sample_gaps = at.sample_gaps.saturating_sub(begin.sample_gaps);
        if at.stamp_millis - open.from_millis >= WINDOW_MILLIS {
            self.closed = Some(*open);
            self.begin = at;
            self.open = Window::from(at.stamp_millis);
        }
        packets.unwrap_or(0)
    }

    /// By how much octets and packets grew, each none where it cannot be told; none at all where
    /// they were set back.
    fn growth(
        &mut self,
        old: &PortCounters,
        new: &PortCounters,
        millis: u64,
    ) -> Option<(Option<u64>, Option<u64>)> {
        // Numbers of which all bits are set stand for "not known" (section 5.3).
        let packets = |old: u32, new: u32| {
            if old == u32::MAX || new == u32::MAX { 0 } else { u64::from(new.wrapping_sub(old)) }
        };
        let unicast = packets(old.unicast_packets, new.unicast_packets);
        let has_packets = new.unicast_packets != u32::MAX;
        let all = unicast
            + packets(old.multicast_packets, new.multicast_packets)
            + packets(old.broadcast_packets, new.broadcast_packets);
        let bits_max = self.speed_bits as f64 * SPEED_SLACK * millis as f64 / 1_000.0;
        // Without a speed (0), or with one beyond the field, whatever is not a set-back will do.
        let plausible = |bytes: u64| self.speed_bits == 0 || bytes as f64 * 8.0 <= bits_max;
        let bytes = if old.octets == u64::MAX || new.octets == u64::MAX {
            None
        } else if new.octets >= old.octets {
            let growth = new.octets - old.octets;
            if !plausible(growth) {
                return None;
            }
            Some(growth)
        } else {
            let wrapped = (1u64 << 32).wrapping_add(new.octets).wrapping_sub(old.octets);
            let is_wrap = old.octets < 1 << 32 && unicast < 1 << 31 && plausible(wrapped);
            if !is_wrap {
                return None;
            }
            self.narrow = true;
            Some(wrapped)
        };
        // Twice around between two readings: nobody can tell.
        let longest_secs = (millis + READING_SLACK_MILLIS) as f64 / 1_000.0;
        let may_wrap_twice = self.speed_bits as f64 / 8.0 * longest_secs >= 4_294_967_296.0;
        let bytes = bytes.filter(|_| !(self.narrow && may_wrap_twice));
        let fits = bytes.is_none_or(|bytes| all.saturating_mul(FRAME_BYTES_MIN - 4) <= bytes);
        Some((bytes, (has_packets && fits).then_some(all)))
    }
}

impl Window {
    fn from(from_millis: u64) -> Window {
        Window {
            from_millis,
            to_millis: from_millis,
            counted_bytes: Some(0),
            counted_packets: Some(0),
            ..Window::default()
        }
    }
}

impl SourceState {
    /// Holds counters of the port against what its samples stand for; `rate` is the sampling rate
    /// of the configuration, where it has one. Returns the growth of the packets in it.
    pub(super) fn take_counters(
        &mut self,
        reading: &Reading,
        direction: Direction,
        rate: Option<u32>,
    ) -> u64 {
        let counters = &reading.counters;
        let new = match direction {
            Direction::Egress => counters.sent,
            _ => counters.received,
        };
        let at = Moment {
            stamp_millis: reading.stamp_millis,
            estimated_bytes: self.estimated_bytes.saturating_add(reading.estimated_bytes),
            estimated_packets: self.estimated_packets.saturating_add(reading.estimated_packets),
            pool_packets: self.pool_packets,
            pool_samples: self.pool_samples,
            agent_drops: self.agent_drops,
            sample_gaps: self.sample_gaps,
        };
        match &mut self.port {
            Some(port) => port.take(counters, new, at, rate.unwrap_or(self.sampling_rate)),
            None => {
                self.port = Some(Box::new(Port::new(counters, new, at)));
                0
            }
        }
    }
}

/// What an agent sampled and counted in ten minutes: a ceiling shows when it counts more, and
/// samples the same.
#[derive(Clone, Copy, Default, Debug)]
struct Stretch {
    number: u64,
    samples: u64,
    packets: u64,
}

/// What an agent's sampling is judged by, beside its ports.
#[derive(Clone, Default, Debug)]
pub struct Evidence {
    /// When its last flow sample came, in milliseconds since 1970; 0 if none did.
    pub last_flow_millis: u64,
    /// When its last counters sample came, in milliseconds since 1970; 0 if none did.
    pub last_counters_millis: u64,
    /// Whether its rates are to be corrected by its sample pools.
    pub(super) is_scaled: bool,
    stretches: Vec<Stretch>,
}

impl Evidence {
    /// Takes in what was folded at a moment.
    pub(super) fn take(&mut self, stamp_millis: u64, samples: u64, packets: u64) {
        let number = stamp_millis / STRETCH_MILLIS;
        if self.stretches.last().is_none_or(|stretch| stretch.number < number) {
            if self.stretches.len() > STRETCHES_KEPT {
                self.stretches.remove(0);
            }
            self.stretches.push(Stretch { number, ..Stretch::default() });
        }
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.samples += samples;
            stretch.packets += packets;
        }
    }

    /// What the samples do while the agent counts more at one time than at another.
    fn pace(&self) -> Pace {
        // Neither the first stretch nor the last one is whole.
        let whole = self.stretches.get(1..self.stretches.len().saturating_sub(1));
        let whole = whole.unwrap_or_default();
        let range = |of: fn(&Stretch) -> f64| {
            whole.iter().map(of).fold((f64::INFINITY, 0.0f64), |(least, most), value| {
                (least.min(value), most.max(value))
            })
        };
        let (least, most) = range(|stretch| stretch.samples as f64);
        let (counted_least, counted_most) = range(|stretch| stretch.packets as f64);
        if whole.len() < 4 || least < SAMPLES_MIN as f64 || counted_most <= counted_least * 1.2 {
            return Pace::Unclear;
        }
        if most <= least * 1.05 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a sum of samples, over 600"
            )]
            let samples_per_second = (most * 1_000.0 / STRETCH_MILLIS as f64) as u64;
            return Pace::Ceiling { samples_per_second };
        }
        // Readings of the counters end elsewhere than stretches; and there is chance.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as above")]
        let chance = 1.1 + 2.0 * relative_error_percent(least as u64) / 100.0;
        let (rarest, densest) = range(|stretch| stretch.samples as f64 / stretch.packets as f64);
        if densest <= rarest * chance && counted_most > counted_least * 1.1 * chance {
            Pace::Proportional
        } else {
            Pace::Unclear
        }
    }
}

/// What an agent's samples do while its traffic changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pace {
    /// They stay so many a second.
    Ceiling {
        /// Samples a second.
        samples_per_second: u64,
    },
    /// They change as the traffic does.
    Proportional,
    /// The traffic is too even to tell, or too few of it was seen.
    Unclear,
}

/// What a wrong ratio looks like.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The agent drops samples itself, and says so (`drops`).
    Throttled,
    /// The agent samples no more than so many packets a second.
    Ceiling {
        /// Samples a second.
        samples_per_second: u64,
    },
    /// Samples are lost on their way.
    Lost,
    /// The agent samples what goes out.
    Egress,
    /// The agent says another sampling rate than it uses.
    Rate {
        /// The rate that it uses, as a power of two of what it says.
        sampling_rate: u32,
    },
    /// One of the two: its traffic was too even so far to say which.
    RateOrCeiling {
        /// The rate that it uses if it is that.
        sampling_rate: u32,
    },
    /// Nothing of these.
    Unknown,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Throttled => f.write_str("throttled: the switch drops samples (agent_drops)"),
            Cause::Ceiling { samples_per_second } => write!(
                f,
                "throttled: the switch takes {samples_per_second} samples a second, whatever it \
                 forwards"
            ),
            Cause::Lost => f.write_str("lost between switch and ixflow (sequence gaps)"),
            Cause::Egress => f.write_str("the switch samples egress"),
            Cause::Rate { sampling_rate } => {
                write!(f, "wrong rate: the switch samples one in {sampling_rate}")
            }
            Cause::RateOrCeiling { sampling_rate } => write!(
                f,
                "wrong rate: the switch samples one in {sampling_rate}; or throttled without a \
                 word, which shows when its traffic has changed by a fifth"
            ),
            Cause::Unknown => f.write_str("throttled without a word, or another rate than it says"),
        }
    }
}

/// How far a ratio of a power of two may be away from it.
const POWER_SLACK: f64 = 0.07;

/// What a window looks like that is too low or too high.
fn cause(window: &Window, directions: [u64; 3], rate: u32, pace: Pace) -> Cause {
    let [ingress, egress, unknown] = directions;
    if ingress + unknown == 0 && egress > 0 {
        return Cause::Egress;
    }
    let Some(ratio) = window.packet_ratio().or(window.ratio()).filter(|&ratio| ratio > 0.0) else {
        return Cause::Unknown;
    };
    if ratio < 1.0 {
        let missing = window.samples as f64 * (1.0 / ratio - 1.0);
        let (drops, gaps) = (window.agent_drops as f64, window.sample_gaps as f64);
        if drops + gaps >= missing / 2.0 {
            return if drops >= gaps { Cause::Throttled } else { Cause::Lost };
        }
        if let Pace::Ceiling { samples_per_second } = pace {
            return Cause::Ceiling { samples_per_second };
        }
    }
    let power = ratio.log2();
    if power.round() != 0.0 && (power - power.round()).abs() <= POWER_SLACK {
        let used = (f64::from(rate) / power.round().exp2()).round();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates"
        )]
        let sampling_rate = used as u32;
        // A throttled switch may happen to take a half of what it should.
        return if ratio > 1.0 || pace == Pace::Proportional {
            Cause::Rate { sampling_rate }
        } else {
            Cause::RateOrCeiling { sampling_rate }
        };
    }
    Cause::Unknown
}

/// A port's quality, as plain figures.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PortQuality {
    /// The port.
    pub if_index: u32,
    /// Its speed in bit/s.
    pub speed_bits: u64,
    /// Whether it is up.
    pub is_up: bool,
    /// Estimated over counted; none while nothing was counted.
    pub ratio: Option<f64>,
    /// The error of the ratio, in percent, in 95 of 100 cases.
    pub error_percent: f64,
    /// Whether the ratio is further from 1 than sampling and chance explain.
    pub is_wrong: bool,
    /// What was compared.
    pub window: Window,
}

/// An agent's quality, as plain figures.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AgentQuality {
    /// Estimated over counted, of its sampled ports together; none while nothing was counted.
    pub ratio: Option<f64>,
    /// The error of the ratio, in percent, in 95 of 100 cases.
    pub error_percent: f64,
    /// What was compared, of its sampled ports together.
    pub window: Window,
    /// What the wrong ratio looks like; none where it is right.
    pub cause: Option<Cause>,
    /// Its ports that have counters and samples, in rising order.
    pub ports: Vec<PortQuality>,
    /// Ports that received as much as should have been sampled, and were not: in rising order.
    pub unsampled: Vec<u32>,
    /// The sampling rate of most samples.
    sampling_rate: u32,
}

impl Agent {
    /// The ratio of what its samples stand for to what it counted, by port and in all, over the
    /// last five minutes ([`WINDOW_MILLIS`]) or so. It takes the time of a walk over its ports.
    pub fn quality(&self) -> AgentQuality {
        let state = self.state();
        let mut ports = Vec::new();
        let mut unsampled = Vec::new();
        let mut all: Option<Window> = None;
        let mut sources: Vec<(&DataSource, &SourceState)> = state.sources.iter().collect();
        sources.sort_unstable_by_key(|(source, _)| source.as_u64());
        let busiest = sources.iter().max_by_key(|(_, source)| source.samples);
        let sampling_rate = busiest.map_or(0, |(_, source)| source.sampling_rate);
        for (source, known) in sources {
            let Some((port, window)) =
                known.port.as_deref().and_then(|port| Some((port, *port.window()?)))
            else {
                continue;
            };
            if window.samples == 0 {
                // Its own rate is not known where none of its packets was ever sampled.
                let rate = u64::from(sampling_rate.max(1));
                let expected = window.counted_packets.unwrap_or(0) / rate;
                if expected >= SAMPLES_MIN && port.is_physical() {
                    unsampled.push(source.index);
                }
                continue;
            }
            match &mut all {
                Some(all) => all.merge(&window),
                None => all = Some(window),
            }
            ports.push(PortQuality {
                if_index: source.index,
                speed_bits: port.speed_bits,
                is_up: port.is_up,
                ratio: window.ratio(),
                error_percent: window.error_percent(),
                is_wrong: window.deviation() != 0,
                window,
            });
        }
        let window = all.unwrap_or_default();
        // Of many ports with few samples each, their sum may say what none of them can.
        let wrong = std::iter::once(&window)
            .chain(ports.iter().map(|port| &port.window))
            .find(|window| window.deviation() != 0);
        let pace = state.evidence.pace();
        let mut cause = wrong.map(|window| cause(window, state.directions, sampling_rate, pace));
        let [ingress, egress, unknown] = state.directions;
        if !unsampled.is_empty() && ingress + unknown == 0 && egress > 0 {
            cause = Some(Cause::Egress);
        }
        let (ratio, error_percent) = (window.ratio(), window.error_percent());
        AgentQuality { ratio, error_percent, window, cause, ports, unsampled, sampling_rate }
    }
}

/// The names of the findings of [`findings`].
pub const FINDINGS: &[&str] =
    &["sampling_quality", "unsampled_ports", "counters_only", "agent_silent", "sample_pool"];

/// What looks wrong with the sampling of agents, in the order of the agents. `now_millis` is the
/// time, in milliseconds since 1970, by the clock that stamps the datagrams.
pub fn findings(agents: &Agents, now_millis: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for agent in agents.list() {
        let (last_seen_millis, evidence) = {
            let state = agent.state();
            (state.last_seen_millis, state.evidence.clone())
        };
        let silent_millis = now_millis.saturating_sub(last_seen_millis);
        if silent_millis >= GONE_MILLIS {
            continue;
        }
        if silent_millis >= SILENT_MILLIS {
            findings.push(silent_finding(&agent, silent_millis));
            continue;
        }
        let heard = agent.state().first_seen_millis;
        let flow_millis = evidence.last_flow_millis.max(heard);
        if evidence.last_counters_millis > 0
            && now_millis.saturating_sub(flow_millis) >= SILENT_MILLIS
        {
            findings.push(counters_only_finding(&agent, evidence.last_flow_millis, now_millis));
            continue;
        }
        let quality = agent.quality();
        findings.extend(quality_finding(&agent, &quality));
        findings.extend(unsampled_finding(&agent, &quality));
        if evidence.is_scaled {
            findings.extend(pool_finding(&agent));
        }
    }
    findings
}

fn subject(agent: &Agent) -> String {
    match agent.key.sub_agent_id {
        0 => agent.key.address.to_string(),
        id => format!("{}, sub-agent {id}", agent.key.address),
    }
}

fn silent_finding(agent: &Agent, silent_millis: u64) -> Finding {
    Finding {
        level: Level::Warn,
        name: "agent_silent",
        subject: subject(agent),
        what: format!("neither flow samples nor counters for {} min", silent_millis / 60_000),
        why: "what comes in at this switch is missing in the graphs".into(),
        remedy: "see that the switch runs, and that its sFlow collector is this machine".into(),
    }
}

fn counters_only_finding(agent: &Agent, last_flow_millis: u64, now_millis: u64) -> Finding {
    let since = match last_flow_millis {
        0 => "no flow sample so far".to_owned(),
        last => format!("no flow sample for {} min", now_millis.saturating_sub(last) / 60_000),
    };
    Finding {
        level: Level::Warn,
        name: "counters_only",
        subject: subject(agent),
        what: format!("{since}, but counters samples"),
        why: "what comes in at this switch is missing in the graphs".into(),
        remedy: "turn flow sampling on at its peering ports (sampling rate, ingress)".into(),
    }
}

/// An agent that is to be counted by its pools, and has some that cannot be believed.
fn pool_finding(agent: &Agent) -> Option<Finding> {
    let state = agent.state();
    let of = |trust| state.sources.values().filter(|source| source.scaling.trust == trust).count();
    let (made_up, implausible) = (of(Trust::MadeUp), of(Trust::Implausible));
    if made_up + implausible == 0 {
        return None;
    }
    let reason = if made_up >= implausible {
        "it grows by the sampling rate with each sample, and counts nothing"
    } else {
        "it is far from the sampling rate"
    };
    Some(Finding {
        level: Level::Warn,
        name: "sample_pool",
        subject: subject(agent),
        what: format!(
            "sflow_scaling = pool, but the sample_pool of {} of {} data sources cannot be \
             believed: {reason}",
            made_up + implausible,
            state.sources.values().filter(|source| source.samples > 0).count()
        ),
        why: "they count by their sampling rate, so that what is lost stays lost".into(),
        remedy: format!("set scaling = rate in <sflow_agent {}>", agent.key.address),
    })
}

fn quality_finding(agent: &Agent, quality: &AgentQuality) -> Option<Finding> {
    let cause = quality.cause?;
    let address = agent.key.address;
    let wrong: Vec<&PortQuality> = quality.ports.iter().filter(|port| port.is_wrong).collect();
    let window = &quality.window;
    let mut what = match quality.ratio {
        Some(ratio) => format!(
            "samples stand for {:.0} % (+-{:.0} %) of what the switch counted, by {} samples",
            ratio * 100.0,
            quality.error_percent,
            window.samples
        ),
        None => "no samples of ports that carry traffic".to_owned(),
    };
    if !wrong.is_empty() {
        let named = wrong.iter().take(PORTS_NAMED_MAX).map(|port| {
            let percent = port.ratio.unwrap_or(0.0) * 100.0;
            format!("{} ({percent:.0} %)", port.if_index)
        });
        let named: Vec<String> = named.collect();
        let more = match wrong.len().saturating_sub(PORTS_NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        what.push_str(&format!("; wrong at ifIndex {}{more}", named.join(", ")));
    }
    what.push_str(&format!(": it looks like {cause}"));
    let with_pool = ratio(window.pool_packets, window.counted_packets)
        .filter(|ratio| RATIO_GOOD.contains(ratio))
        .map(|ratio| {
            format!(", or sflow_scaling = pool, which would make it {:.0} %", ratio * 100.0)
        })
        .unwrap_or_default();
    let rate = quality.sampling_rate;
    let remedy = match cause {
        Cause::Throttled | Cause::Ceiling { .. } => {
            format!("sample less often (one in {}, say){with_pool}", rate.saturating_mul(2))
        }
        Cause::Lost => format!(
            "look for rate limits on the switch's own packets, and for full links{with_pool}"
        ),
        Cause::Egress => {
            format!("let it sample ingress, or set direction = egress in <sflow_agent {address}>")
        }
        Cause::Rate { sampling_rate } => format!(
            "compare with the switch's settings; sampling_rate = {sampling_rate} in <sflow_agent \
             {address}> corrects it"
        ),
        Cause::RateOrCeiling { sampling_rate } => format!(
            "compare the sampling rate with the switch's settings (sampling_rate = {sampling_rate} \
             in <sflow_agent {address}> corrects it), and look for a limit of samples a second \
             there{with_pool}"
        ),
        Cause::Unknown => format!(
            "compare the sampling rate with the switch's settings, and look for a limit of \
             samples a second there{with_pool}"
        ),
    };
    Some(Finding {
        level: Level::Warn,
        name: "sampling_quality",
        subject: subject(agent),
        what,
        why: "its members' rates are wrong by as much".into(),
        remedy,
    })
}

fn unsampled_finding(agent: &Agent, quality: &AgentQuality) -> Option<Finding> {
    if quality.unsampled.is_empty() || quality.cause == Some(Cause::Egress) {
        return None;
    }
    let named: Vec<String> =
        quality.unsampled.iter().take(2 * PORTS_NAMED_MAX).map(ToString::to_string).collect();
    let more = match quality.unsampled.len().saturating_sub(2 * PORTS_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(Finding {
        level: Level::Ok,
        name: "unsampled_ports",
        subject: subject(agent),
        what: format!(
            "{} ports carry traffic and are not sampled: ifIndex {}{more}; right for links between \
             switches, wrong for members' ports",
            quality.unsampled.len(),
            named.join(", ")
        ),
        why: String::new(),
        remedy: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEED_BITS: u64 = 10_000_000_000;

    fn counters(octets: u64, unicast: u32) -> InterfaceCounters {
        let received = PortCounters { octets, unicast_packets: unicast, ..PortCounters::default() };
        InterfaceCounters {
            if_index: 1,
            if_type: 6,
            speed_bits: SPEED_BITS,
            is_up: true,
            received,
            sent: PortCounters::default(),
        }
    }

    /// The windows of a port that is read every 30 seconds; without samples.
    fn read(readings: &[(u64, u32)]) -> Vec<Window> {
        let mut state = SourceState::default();
        let mut windows = Vec::new();
        for (number, &(octets, unicast)) in (0..).zip(readings) {
            let reading = Reading {
                source: 1,
                stamp_millis: number * 30_000,
                counters: counters(octets, unicast),
                estimated_bytes: 0,
                estimated_packets: 0,
            };
            state.take_counters(&reading, Direction::Ingress, None);
            let closed = state.port.as_ref().and_then(|port| port.closed);
            if closed.is_some() && windows.last() != closed.as_ref() {
                windows.extend(closed);
            }
        }
        windows
    }

    fn sums(windows: &[Window]) -> Vec<(Option<u64>, Option<u64>)> {
        windows.iter().map(|window| (window.counted_bytes, window.counted_packets)).collect()
    }

    #[test]
    fn windows_end_with_the_first_reading_after_five_minutes() {
        let readings: Vec<_> = (0..22).map(|n| (u64::from(n) * 1_000_000, 1_000 * n)).collect();
        let windows = read(&readings);
        assert_eq!(sums(&windows), [(Some(10_000_000), Some(10_000)); 2]);
        assert_eq!((windows[1].from_millis, windows[1].to_millis), (300_000, 600_000));
    }

    #[test]
    fn counters_wrap_at_their_width() {
        // Packets at 2^32, octets of 64 bits going on.
        let packets = |n: u32| (u32::MAX - 5_500).wrapping_add(1_000 * n);
        let readings: Vec<_> =
            (0..11u32).map(|n| ((1 << 40) + u64::from(n) * 1_000_000, packets(n))).collect();
        assert_eq!(sums(&read(&readings)), [(Some(10_000_000), Some(10_000))]);
        // Octets of 32 bits: at 10 Gbit/s they may wrap more than once in 30 s.
        let octets = |n: u64| ((1 << 32) - 5_000_000 + 1_000_000 * n) % (1 << 32);
        let readings: Vec<_> = (0..11).map(|n| (octets(n.into()), 1_000 * n)).collect();
        assert_eq!(sums(&read(&readings)), [(None, Some(10_000))]);
        let mut port = Port::new(&counters(0, 0), PortCounters::default(), Moment::default());
        port.speed_bits = 1_000_000_000;
        let at = |octets| PortCounters { octets, ..PortCounters::default() };
        let grown = port.growth(&at((1 << 32) - 10), &at(20), 20_000);
        assert_eq!(grown, Some((Some(30), Some(0))), "at 1 Gbit/s it cannot, in 20 s");
        let grown = port.growth(&at((1 << 32) - 10), &at(20), 31_000);
        assert_eq!(grown, Some((Some(30), Some(0))), "nor in 30 s, of a reading that comes late");
        let grown = port.growth(&at((1 << 32) - 10), &at((1 << 32) - 600_000_000), 30_000);
        assert_eq!(grown, Some((Some(3_694_967_306), Some(0))), "at full speed, once around");
        let grown = port.growth(&at((1 << 32) - 10), &at(20), 35_000);
        assert_eq!(grown, Some((None, Some(0))), "but in 35 s it can");
    }

    #[test]
    fn counters_that_are_set_back_begin_anew() {
        let mut readings: Vec<_> = (0..5).map(|n| ((1 << 50) + n * 1_000_000, 1 << 31)).collect();
        readings.extend((0..11).map(|n| (u64::from(n) * 2_000_000, 1_000 * n)));
        assert_eq!(sums(&read(&readings)), [(Some(20_000_000), Some(10_000))]);
        // More than the port can receive is no growth either.
        let mut readings = vec![(0, 0)];
        readings.extend((0..11).map(|n| ((1 << 50) + u64::from(n) * 1_000_000, 1_000 * n)));
        assert_eq!(sums(&read(&readings)), [(Some(10_000_000), Some(10_000))]);
    }

    #[test]
    fn what_an_agent_does_not_know_is_not_compared() {
        let readings: Vec<_> = (0..11).map(|n| (n * 1_000_000, u32::MAX)).collect();
        assert_eq!(sums(&read(&readings)), [(Some(10_000_000), None)]);
        let readings: Vec<_> = (0..11).map(|n| (u64::MAX, 1_000 * n)).collect();
        assert_eq!(sums(&read(&readings)), [(None, Some(10_000))]);
    }

    fn window(ratio: f64, samples: u64, agent_drops: u64, sample_gaps: u64) -> Window {
        let estimated_packets = samples * 1_000;
        let counted = (estimated_packets as f64 / ratio).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let counted = counted as u64;
        Window {
            counted_bytes: Some(counted * 800),
            counted_packets: Some(counted),
            estimated_bytes: estimated_packets * 800,
            estimated_packets,
            samples,
            agent_drops,
            sample_gaps,
            ..Window::from(0)
        }
    }

    #[test]
    fn only_what_chance_does_not_explain_is_wrong() {
        // 400 samples: 9.8 %.
        for (ratio, samples, deviation) in [
            (1.0, 10_000, 0),
            (0.91, 1_000_000, 0),
            (0.89, 1_000_000, -1),
            (1.12, 1_000_000, 1),
            (0.81, 400, 0),
            (0.79, 400, -1),
            (1.19, 400, 0),
            (1.21, 400, 1),
            (0.1, 99, 0),
        ] {
            assert_eq!(window(ratio, samples, 0, 0).deviation(), deviation, "{ratio} {samples}");
        }
        // Bytes and packets say different things.
        let torn = Window { counted_bytes: Some(1), ..window(0.5, 10_000, 0, 0) };
        assert_eq!(torn.deviation(), 0);
    }

    #[test]
    fn causes_are_told_by_their_marks() {
        let ingress = [1, 0, 0];
        let of = |window: Window, pace| cause(&window, ingress, 1_000, pace);
        let unclear = Pace::Unclear;
        assert_eq!(of(window(0.5, 1_000, 900, 0), unclear), Cause::Throttled);
        assert_eq!(of(window(0.5, 1_000, 100, 800), unclear), Cause::Lost);
        let ceiling = Cause::Ceiling { samples_per_second: 7 };
        let quiet = || window(0.5, 1_000, 0, 0);
        assert_eq!(of(quiet(), Pace::Ceiling { samples_per_second: 7 }), ceiling);
        // Exactly half, and nothing that tells a wrong rate from a limit.
        assert_eq!(of(quiet(), unclear), Cause::RateOrCeiling { sampling_rate: 2_000 });
        assert_eq!(of(quiet(), Pace::Proportional), Cause::Rate { sampling_rate: 2_000 });
        assert_eq!(of(window(4.1, 1_000, 0, 0), unclear), Cause::Rate { sampling_rate: 250 });
        assert_eq!(of(window(0.7, 1_000, 10, 10), unclear), Cause::Unknown);
        assert_eq!(cause(&window(0.1, 100, 0, 0), [0, 5, 0], 1_000, unclear), Cause::Egress);
    }

    #[test]
    fn a_ceiling_shows_when_traffic_rises_and_so_does_a_rate() {
        let evidence = |samples: [u64; 8], packets: [u64; 8]| {
            let mut evidence = Evidence::default();
            for (number, (samples, packets)) in (1..).zip(samples.into_iter().zip(packets)) {
                evidence.take(number * STRETCH_MILLIS, samples, packets);
            }
            evidence.pace()
        };
        let rising = [1, 10, 11, 12, 13, 14, 15, 1].map(|packets| packets * 1_000_000);
        assert_eq!(evidence([6_000; 8], rising), Pace::Ceiling { samples_per_second: 10 });
        assert_eq!(evidence([6_000; 8], [1_000_000; 8]), Pace::Unclear, "so does the traffic");
        let proportional = rising.map(|packets| packets / 1_000);
        assert_eq!(evidence(proportional, rising), Pace::Proportional);
        let few = rising.map(|packets| packets / 50_000);
        assert_eq!(evidence(few, rising), Pace::Unclear, "chance is as large as the rise");
        assert_eq!(evidence([10; 8], rising), Pace::Unclear, "too few samples");
        // Up to a limit the samples follow, and no further.
        let bent = [1, 10, 11, 12, 12, 12, 12, 1].map(|samples| samples * 1_000);
        assert_eq!(evidence(bent, rising), Pace::Unclear);
    }
}
