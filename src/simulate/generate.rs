//! The agents' voice: sFlow v5 datagrams, in the order of time.
//!
//! Samples are written from templates: of the some 216 bytes of a sample about twenty fields
//! change. Flow samples come at equal distances, not in bursts; which agent takes the next
//! datagram's worth of them is drawn in proportion to what its members send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::truth::{Recorder, Truth};
use super::{Diurnal, ExtendedSwitchRecord, Fabric, Switch};
use crate::ixp::{IpProtocol, VliId};
use crate::loss::Loss;
use crate::receive::BATCH_MAX;

/// UDP payload of a datagram at the most: what every agent seen keeps below Ethernet's MTU.
pub const DATAGRAM_MAX_BYTES: usize = 1400;

/// Largest sampled header.
const SNAP_MAX: usize = 256;
/// Removed from the end of every frame before sampling: the FCS (sampled_header's `stripped`).
const FCS_BYTES: u32 = 4;
/// Draws of a member on another switch, before it is taken that there is none.
const CORE_DRAWS_MAX: u32 = 64;
/// Agents have been up for an hour at the start.
const UPTIME_AT_START_MILLIS: u64 = 3_600_000;
/// Source ports of the agents: this one and the following.
const SOURCE_PORT_BASE: u16 = 30_000;
/// struct if_counters, without its record's format and length.
const IF_COUNTERS_BYTES: u32 = 88;

/// SplitMix64 (Steele, Lea and Flood, 2014): one multiplication chain a draw, any seed is good.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    #[inline]
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        scale(high(self.next()), limit)
    }
}

#[inline]
fn high(draw: u64) -> u32 {
    (draw >> 32) as u32
}

#[inline]
fn low(draw: u64) -> u32 {
    (draw & 0xffff_ffff) as u32
}

/// Maps 32 random bits to 0..limit.
#[inline]
fn scale(bits: u32, limit: u32) -> u32 {
    ((u64::from(bits) * u64::from(limit)) >> 32) as u32
}

/// The whole part of a number that is not negative; too large ones become the largest.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and the fraction is unwanted")]
pub(super) fn whole(value: f64) -> u64 {
    value as u64
}

/// A probability as a threshold for 32 random bits.
fn threshold(probability: f64) -> u32 {
    u32::try_from(whole(probability * 4_294_967_296.0)).unwrap_or(u32::MAX)
}

/// Draws by weight in constant time (Walker's alias method, in Vose's form).
#[derive(Clone, Debug)]
struct Alias {
    /// (threshold of keeping the first, the first, the other).
    slots: Vec<(u32, u32, u32)>,
    count: u32,
}

impl Alias {
    fn new(weighted: &[(u32, f64)]) -> Alias {
        let total: f64 = weighted.iter().map(|&(_, weight)| weight).sum();
        let count = weighted.len() as f64;
        let mut scaled: Vec<f64> =
            weighted.iter().map(|&(_, weight)| weight * count / total).collect();
        let mut slots: Vec<_> = weighted.iter().map(|&(item, _)| (u32::MAX, item, item)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weighted.len()).partition(|&index| scaled[index] < 1.0);
        while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            slots[less] = (threshold(scaled[less]), weighted[less].0, weighted[more].0);
            scaled[more] -= 1.0 - scaled[less];
            if scaled[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Alias { count: index(slots.len()), slots }
    }

    #[inline]
    fn draw(&self, draw: u64) -> u32 {
        let (keep, first, other) = self.slots[scale(high(draw), self.count) as usize];
        if low(draw) < keep { first } else { other }
    }
}

/// A VLI, as the inner loop needs it.
#[derive(Clone, Copy, Debug)]
struct Speaker {
    id: VliId,
    lan: u32,
    port: u32,
    switch: u32,
    if_index: u32,
    macs_start: u32,
    macs_count: u32,
    vlan: u16,
    tagged: bool,
}

/// What an agent counts per port, which is a data source.
#[derive(Clone, Copy, Debug, Default)]
struct DataSourceState {
    if_index: u32,
    flow_sequence: u32,
    counters_sequence: u32,
    pool: u32,
    drops: u32,
    packets: u32,
    octets: u64,
    sent_packets: u32,
    sent_octets: u64,
}

#[derive(Clone, Debug)]
struct Agent {
    source: SocketAddr,
    /// The datagram's header, with sequence number, uptime and count of samples left 0.
    header: Vec<u8>,
    /// The bytes of a flow sample before its sampled header.
    prefix: Vec<u8>,
    expanded: bool,
    extended_switch: ExtendedSwitchRecord,
    sampling_rate: u32,
    samples_per_second_max: u32,
    /// The second under way, and the samples that were taken in it.
    second: (u64, u32),
    silent_drops: bool,
    synthetic_pool: bool,
    uplink: u32,
    /// Samples frames where they leave.
    egress: bool,
    /// (VLAN, its number at the ports).
    translate: Vec<(u16, u16)>,
    /// Address and header of the agent as which it repeats itself.
    repeated: Option<(SocketAddr, Vec<u8>)>,
    samples_max: u32,
    sequence: u32,
    /// Draws a VLI on this switch; None if nobody there sends.
    speakers: Option<Alias>,
    ports: Vec<u32>,
    counters_interval_millis: u64,
    counters_due_millis: u64,
    counters_next: usize,
}

/// The frames that are sampled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FrameKind {
    V4,
    V6,
    Arp,
}

/// A sampled header with addresses, tag and lengths left 0, and the sum over its IPv4 header.
#[derive(Clone, Debug)]
struct FrameTemplate {
    bytes: Vec<u8>,
    ipv4_sum: u32,
}

/// What [`Generator::generate`] wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emitted {
    /// When, in microseconds since 1970; never less than before.
    pub stamp_micros: u64,
    /// The address of the agent and its source port.
    pub source: SocketAddr,
    /// The agent, as an index into [`Fabric::switches`].
    pub switch: usize,
    /// Flow samples in the datagram; 0 if it has counters samples, or all were dropped.
    pub flow_samples: u32,
}

impl Emitted {
    /// When, in milliseconds since 1970.
    pub fn stamp_millis(&self) -> u64 {
        self.stamp_micros / 1000
    }
}

/// Speaks for the agents of a fabric.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    start_millis: u64,
    /// Time of the next datagram, after the start.
    elapsed_nanos: f64,
    /// Distance of two samples at the day's peak.
    sample_nanos: f64,
    diurnal: Diurnal,
    /// The second for which `diurnal_share` holds.
    diurnal_secs: u64,
    diurnal_share: f64,
    agents: Vec<Agent>,
    /// Draws the agent of the next datagram.
    switches: Alias,
    counters_due_millis: u64,
    speakers: Vec<Speaker>,
    macs: Vec<[u8; 6]>,
    /// Draws a VLI of a VLAN; None if the VLAN has no traffic.
    lans: Vec<Option<Alias>>,
    /// Those of the members' ports, and behind them those of the uplinks.
    data_sources: Vec<DataSourceState>,
    /// A datagram that is to be sent again, under another address.
    repetition: Option<(Vec<u8>, Emitted)>,
    frame_lengths: Alias,
    ipv6_threshold: u32,
    /// Running sums of the noise shares as thresholds.
    noise: Vec<(u32, Loss)>,
    noise_threshold: u32,
    unknown_vlan: u16,
    snap_length: u32,
    /// Frames by kind, untagged and tagged.
    frames: [[FrameTemplate; 2]; 3],
    recorder: Recorder,
}

impl Generator {
    pub(super) fn new(
        fabric: &Fabric,
        start_millis: u64,
        samples_per_second: u32,
        part: usize,
        parts: usize,
    ) -> Generator {
        let description = &fabric.description;
        let mut macs = Vec::new();
        let speakers: Vec<Speaker> = fabric
            .vlis
            .iter()
            .map(|vli| {
                let port = fabric.ports[vli.port];
                let macs_start = index(macs.len());
                macs.extend(vli.macs.iter().map(|mac| mac.octets()));
                Speaker {
                    id: vli.id,
                    lan: index(vli.lan),
                    port: index(vli.port),
                    switch: index(port.switch),
                    if_index: port.if_index,
                    macs_start,
                    macs_count: index(vli.macs.len()),
                    vlan: vli.vlan.as_u16(),
                    tagged: vli.tagged,
                }
            })
            .collect();
        let weighted = |wanted: &dyn Fn(&Speaker) -> bool| -> Option<Alias> {
            let chosen: Vec<(u32, f64)> = (0u32..)
                .zip(speakers.iter().zip(&fabric.vlis))
                .filter(|(_, (speaker, vli))| wanted(speaker) && vli.weight > 0.0)
                .map(|(number, (_, vli))| (number, vli.weight))
                .collect();
            (!chosen.is_empty()).then(|| Alias::new(&chosen))
        };
        let mut switch_weights: Vec<(u32, f64)> =
            (0..fabric.switches.len()).map(|switch| (index(switch), 0.0)).collect();
        for (vli, speaker) in fabric.vlis.iter().zip(&speakers) {
            if speaker.switch as usize % parts == part {
                switch_weights[speaker.switch as usize].1 += vli.weight;
            }
        }
        switch_weights.retain(|&(_, weight)| weight > 0.0);
        let part_share: f64 = switch_weights.iter().map(|&(_, weight)| weight).sum();
        let mut agents: Vec<Agent> = (0..fabric.switches.len())
            .map(|switch| Agent::new(fabric, switch, start_millis))
            .collect();
        for (switch, agent) in agents.iter_mut().enumerate() {
            agent.speakers = weighted(&|speaker| speaker.switch as usize == switch);
            if switch % parts != part {
                agent.counters_due_millis = u64::MAX;
            }
        }
        let mut noise = Vec::new();
        let mut sum = 0.0;
        for (loss, share) in description.noise.shares() {
            sum += share;
            if share > 0.0 {
                noise.push((threshold(sum), loss));
            }
        }
        let taken: Vec<u16> = speakers.iter().map(|speaker| speaker.vlan).collect();
        Generator {
            // Parts of one fabric must not say the same.
            random: Random::new(
                description.seed ^ (part as u64 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03),
            ),
            start_millis,
            elapsed_nanos: 0.0,
            sample_nanos: 1e9 / (f64::from(samples_per_second.max(1)) * part_share),
            diurnal: description.diurnal,
            diurnal_secs: u64::MAX,
            diurnal_share: 1.0,
            counters_due_millis: agents
                .iter()
                .map(|agent| agent.counters_due_millis)
                .min()
                .unwrap_or(u64::MAX),
            agents,
            switches: Alias::new(&switch_weights),
            lans: (0..fabric.lan_count)
                .map(|lan| weighted(&|speaker| speaker.lan as usize == lan))
                .collect(),
            speakers,
            macs,
            data_sources: fabric
                .ports
                .iter()
                .map(|port| port.if_index)
                .chain(fabric.switches.iter().map(|switch| switch.if_index_base))
                .map(|if_index| DataSourceState { if_index, ..Default::default() })
                .collect(),
            repetition: None,
            frame_lengths: Alias::new(
                &description
                    .frame_length
                    .iter()
                    .map(|each| (each.bytes, each.share))
                    .collect::<Vec<_>>(),
            ),
            ipv6_threshold: threshold(description.ipv6_share),
            noise_threshold: noise.last().map_or(0, |&(last, _)| last),
            noise,
            unknown_vlan: (1..=4094).rev().find(|tag| !taken.contains(tag)).unwrap_or(4094),
            snap_length: description.snap_length_bytes,
            frames: [FrameKind::V4, FrameKind::V6, FrameKind::Arp]
                .map(|kind| [false, true].map(|tagged| FrameTemplate::new(kind, tagged))),
            recorder: Recorder::new(),
        }
    }

    /// Keeps the truth per interval of `step_secs`; without it, or with 0, only totals are kept.
    ///
    /// Intervals lie as a collector's: interval k is the time stamps from k to k + 1 steps since
    /// 1970. Memory grows with every interval and pair.
    pub fn with_truth(mut self, step_secs: u64) -> Generator {
        self.recorder.keep(step_secs);
        self
    }

    /// When the next datagram will be sent, in microseconds since 1970.
    pub fn next_micros(&self) -> u64 {
        match &self.repetition {
            Some((_, emitted)) => emitted.stamp_micros,
            None => self.start_millis * 1000 + whole(self.elapsed_nanos / 1000.0),
        }
    }

    /// Lets time pass in silence until `now_millis`; a time in the past changes nothing.
    pub fn pass_until(&mut self, now_millis: u64) {
        if now_millis * 1000 > self.next_micros() {
            self.elapsed_nanos = (now_millis - self.start_millis) as f64 * 1e6;
        }
    }

    /// Samples, datagrams and losses so far, and the truth of the intervals that are over.
    pub fn totals(&self) -> &Truth {
        self.recorder.totals()
    }

    /// The truth, the interval that is under way included.
    pub fn finish(self) -> Truth {
        self.recorder.finish()
    }

    /// Replaces `payload` by the next datagram.
    pub fn generate(&mut self, payload: &mut Vec<u8>) -> Emitted {
        payload.clear();
        if let Some((repeated, emitted)) = self.repetition.take() {
            payload.extend_from_slice(&repeated);
            self.recorder.repetition(emitted.flow_samples);
            return emitted;
        }
        let stamp_micros = self.next_micros();
        let stamp_millis = stamp_micros / 1000;
        if stamp_millis >= self.counters_due_millis {
            return self.counters_datagram(payload, stamp_micros);
        }
        let switch = self.switches.draw(self.random.next()) as usize;
        let count = self.agents[switch].samples_max;
        self.begin(switch, stamp_millis, count, payload);
        self.recorder.advance(stamp_millis);
        let samples =
            (0..count).filter(|_| self.flow_sample(switch, stamp_millis, payload)).count();
        let samples = index(samples);
        let count_at = self.agents[switch].header.len() - 4;
        put(payload, count_at, samples);
        self.recorder.flow_datagram(samples);
        let stamp_secs = stamp_millis / 1000;
        if stamp_secs != self.diurnal_secs {
            self.diurnal_secs = stamp_secs;
            let second_of_day = u32::try_from(stamp_secs % 86_400).unwrap_or(0);
            // A trough of nothing would never end.
            self.diurnal_share = self.diurnal.share_at(second_of_day).max(1e-4);
        }
        self.elapsed_nanos += self.sample_nanos * f64::from(count) / self.diurnal_share;
        let agent = &self.agents[switch];
        let emitted = Emitted { stamp_micros, source: agent.source, switch, flow_samples: samples };
        if let Some((source, header)) = &agent.repeated {
            // Sequence number, uptime and count are the same.
            let behind = agent.header.len() - 12;
            let copy = [&header[..header.len() - 12], &payload[behind..]].concat();
            self.repetition = Some((copy, Emitted { source: *source, ..emitted }));
        }
        emitted
    }

    /// The next `count` datagrams at once, for callers that must not spend time on generating.
    pub fn render(&mut self, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut payload = Vec::with_capacity(DATAGRAM_MAX_BYTES);
        (0..count)
            .map(|_| {
                let emitted = self.generate(&mut payload);
                (emitted.source, payload.clone())
            })
            .collect()
    }

    /// Fills `batch` with datagrams of one millisecond, [`BATCH_MAX`] at the most, before
    /// `end_millis`. Returns their stamp, or None at the end.
    pub(super) fn generate_batch(
        &mut self,
        batch: &mut [(SocketAddr, Vec<u8>)],
        end_millis: u64,
    ) -> Option<(u64, usize)> {
        let stamp_millis = self.next_micros() / 1000;
        if stamp_millis >= end_millis {
            return None;
        }
        let mut count = 0;
        for slot in batch.iter_mut().take(BATCH_MAX) {
            if self.next_micros() / 1000 != stamp_millis {
                break;
            }
            slot.0 = self.generate(&mut slot.1).source;
            count += 1;
        }
        Some((stamp_millis, count))
    }

    /// Writes the header: struct sample_datagram_v5.
    fn begin(&mut self, switch: usize, stamp_millis: u64, count: u32, payload: &mut Vec<u8>) {
        let agent = &mut self.agents[switch];
        agent.sequence = agent.sequence.wrapping_add(1);
        payload.extend_from_slice(&agent.header);
        let end = payload.len();
        // Uptime wraps after 49 days, as an agent's does.
        let uptime_millis = low(stamp_millis - self.start_millis + UPTIME_AT_START_MILLIS);
        put(payload, end - 12, agent.sequence);
        put(payload, end - 8, uptime_millis);
        put(payload, end - 4, count);
    }

    /// One flow sample of an agent that has speakers; false if the agent drops it.
    fn flow_sample(&mut self, switch: usize, stamp_millis: u64, payload: &mut Vec<u8>) -> bool {
        let agent = &self.agents[switch];
        let (chance, detail) = (self.random.next(), self.random.next());
        let mut noise = if high(chance) < self.noise_threshold {
            self.noise.iter().find(|&&(limit, _)| high(chance) < limit).map(|&(_, loss)| loss)
        } else {
            None
        };
        // Only agents that have speakers are drawn; the first VLI stands in for the impossible.
        let local_index =
            agent.speakers.as_ref().map_or(0, |speakers| speakers.draw(self.random.next()));
        let local = self.speakers[local_index as usize];
        let mut remote = local;
        if noise != Some(Loss::SameVli)
            && let Some(lan) = &self.lans[local.lan as usize]
        {
            // This ends: no member has more than DOMINANCE_MAX of its VLAN.
            while remote.id == local.id {
                remote = self.speakers[lan.draw(self.random.next()) as usize];
            }
        }
        if noise == Some(Loss::CorePort) {
            // Somebody on another switch; where there is nobody, the sample is a good one.
            let lan = self.lans[local.lan as usize].as_ref();
            let draws = lan.into_iter().flat_map(|lan| (0..CORE_DRAWS_MAX).map(move |_| lan));
            noise = None;
            for lan in draws {
                let other = self.speakers[lan.draw(self.random.next()) as usize];
                if other.switch as usize != switch {
                    (remote, noise) = (other, Some(Loss::CorePort));
                    break;
                }
            }
        }
        // Without another VLI the frame is flooded out of the uplink, never back into its port.
        let near = remote.switch as usize == switch && remote.id != local.id;
        let far_if_index = if near { remote.if_index } else { agent.uplink };
        let leaves = agent.egress != (noise == Some(Loss::Direction));
        let (source, destination, input, mut output) = if leaves || noise == Some(Loss::CorePort) {
            (remote, local, far_if_index, local.if_index)
        } else {
            (local, remote, local.if_index, far_if_index)
        };
        let mut source_mac = self.mac(source, low(detail) & 0xffff);
        let mut destination_mac = self.mac(destination, low(detail) >> 16);
        let kind = match noise {
            Some(Loss::NotIp) => FrameKind::Arp,
            _ if low(chance) < self.ipv6_threshold => FrameKind::V6,
            _ => FrameKind::V4,
        };
        let mut vlan = local.vlan;
        if let Some((_, port_vlan)) = agent.translate.iter().find(|(from, _)| *from == vlan) {
            vlan = *port_vlan;
        }
        match noise {
            // 0x02 0xff: never handed out, because infrastructures end at 64.
            Some(Loss::UnknownSource) => source_mac = [0x02, 0xff, 0, 0, 0, source_mac[5]],
            Some(Loss::UnknownDestination) => {
                destination_mac = [0x02, 0xff, 0, 0, 1, destination_mac[5]];
            }
            Some(Loss::Multicast) if kind == FrameKind::V6 => {
                destination_mac = [0x33, 0x33, 0, 0, 0, 1]
            }
            Some(Loss::Multicast) => destination_mac = [0x01, 0x00, 0x5e, 0, 0, 5],
            Some(Loss::UnknownVlan) => vlan = self.unknown_vlan,
            // Reason 256: unknown (sFlow v5, section 5, struct interface).
            Some(Loss::Discarded) => output = 256,
            _ => {}
        }
        let frame_length = match kind {
            FrameKind::Arp => 64,
            FrameKind::V4 | FrameKind::V6 => self.frame_lengths.draw(self.random.next()),
        };

        let template = &self.frames[kind as usize][usize::from(local.tagged)];
        let header_length = self.snap_length.min(frame_length - FCS_BYTES);
        let padded_length = header_length.next_multiple_of(4);
        let extended = match agent.extended_switch {
            _ if !local.tagged => Some(vlan),
            ExtendedSwitchRecord::Always => Some(vlan),
            ExtendedSwitchRecord::Untagged => None,
            ExtendedSwitchRecord::Zero => Some(0),
        };
        let at = payload.len();
        payload.extend_from_slice(&agent.prefix);
        let header_at = payload.len();
        payload.extend_from_slice(&template.bytes[..header_length as usize]);
        payload.resize(header_at + padded_length as usize, 0);
        if let Some(vlan) = extended {
            // struct extended_switch: VLAN and priority in, VLAN and priority out.
            let vlan = u32::from(vlan);
            for field in [1001, 16, vlan, 0, vlan, 0] {
                payload.extend_from_slice(&u32::to_be_bytes(field));
            }
        }
        let sample_length = index(payload.len() - at - 8);
        let packets = agent.sampling_rate;
        let octets = u64::from(frame_length) * u64::from(packets);
        let port = match noise {
            Some(Loss::CorePort) => self.data_sources.len() - self.agents.len() + switch,
            _ => local.port as usize,
        };
        let data_source = &mut self.data_sources[port];
        // Distances between samples are random with the rate as mean (sFlow v5, section 3.1.1).
        let skip = scale(high(detail), 2 * agent.sampling_rate - 1) + 1;
        data_source.pool = data_source.pool.wrapping_add(skip);
        if leaves {
            data_source.sent_packets = data_source.sent_packets.wrapping_add(packets);
            data_source.sent_octets += octets;
        } else {
            data_source.packets = data_source.packets.wrapping_add(packets);
            data_source.octets += octets;
        }
        let agent = &mut self.agents[switch];
        if agent.second.0 != stamp_millis / 1_000 {
            agent.second = (stamp_millis / 1_000, 0);
        }
        agent.second.1 += 1;
        let taken = agent.second.1 <= agent.samples_per_second_max;
        if taken {
            data_source.flow_sequence = data_source.flow_sequence.wrapping_add(1);
            if agent.synthetic_pool {
                data_source.pool = data_source.flow_sequence.wrapping_mul(packets);
            }
        } else {
            data_source.drops = data_source.drops.wrapping_add(u32::from(!agent.silent_drops));
        }

        let sample = &mut payload[at..header_at];
        put(sample, 4, sample_length);
        put(sample, 8, data_source.flow_sequence);
        let discarded = u32::from(noise == Some(Loss::Discarded));
        // struct flow_sample_expanded (3) has class and index, format and value apart; struct
        // flow_sample (1) packs them into one word each.
        let rest = if agent.expanded {
            put(sample, 16, data_source.if_index);
            put(sample, 24, data_source.pool);
            put(sample, 28, data_source.drops);
            put(sample, 36, input);
            put(sample, 40, discarded);
            put(sample, 44, output);
            &mut sample[48..]
        } else {
            put(sample, 12, data_source.if_index);
            put(sample, 20, data_source.pool);
            put(sample, 24, data_source.drops);
            put(sample, 28, input);
            put(sample, 32, discarded << 30 | output);
            &mut sample[36..]
        };
        put(rest, 0, 1 + u32::from(extended.is_some()));
        // struct sampled_header, with its record's format and length in front.
        put(rest, 8, 16 + padded_length);
        put(rest, 16, frame_length);
        put(rest, 24, header_length);
        template.fill(
            &mut payload[header_at..],
            kind,
            local.tagged.then_some(vlan),
            (source_mac, destination_mac),
            (source.id.0, destination.id.0),
            frame_length,
        );

        if !taken {
            payload.truncate(at);
        }
        match noise {
            Some(loss) if taken => self.recorder.loss(loss),
            Some(_) => {}
            // What was forwarded is the truth, sampled or not.
            None => {
                let protocol = if kind == FrameKind::V6 { IpProtocol::V6 } else { IpProtocol::V4 };
                self.recorder.count(source.id, destination.id, protocol, frame_length, packets);
            }
        }
        taken
    }

    /// One of the addresses of a VLI, by 16 random bits.
    #[inline]
    fn mac(&self, speaker: Speaker, bits: u32) -> [u8; 6] {
        self.macs[(speaker.macs_start + ((bits * speaker.macs_count) >> 16)) as usize]
    }

    /// As many counters samples as fit, of the first agent that is due.
    fn counters_datagram(&mut self, payload: &mut Vec<u8>, stamp_micros: u64) -> Emitted {
        let stamp_millis = stamp_micros / 1000;
        let due = |agent: &Agent| agent.counters_due_millis <= stamp_millis;
        let switch = self.agents.iter().position(due).unwrap_or(0);
        let agent = &self.agents[switch];
        let first = agent.counters_next;
        let sample_bytes = 8 + 4 + 8 + 4 + 8 + IF_COUNTERS_BYTES as usize;
        let fit = (DATAGRAM_MAX_BYTES - agent.header.len()) / sample_bytes;
        let ports = agent.ports[first..].iter().copied().take(fit).collect::<Vec<_>>();
        self.begin(switch, stamp_millis, index(ports.len()), payload);
        for &port in &ports {
            let expanded = self.agents[switch].expanded;
            self.data_sources[port as usize].counters_sample(expanded, payload);
        }
        let agent = &mut self.agents[switch];
        agent.counters_next += ports.len();
        if agent.counters_next >= agent.ports.len() {
            agent.counters_next = 0;
            // Missed turns, after a pause, are left out.
            let missed =
                (stamp_millis - agent.counters_due_millis) / agent.counters_interval_millis;
            agent.counters_due_millis += (missed + 1) * agent.counters_interval_millis;
        }
        let source = agent.source;
        self.counters_due_millis =
            self.agents.iter().map(|agent| agent.counters_due_millis).min().unwrap_or(u64::MAX);
        self.recorder.counters_datagram(index(ports.len()));
        Emitted { stamp_micros, source, switch, flow_samples: 0 }
    }
}

impl Agent {
    fn new(fabric: &Fabric, switch: usize, start_millis: u64) -> Agent {
        let description = &fabric.switches[switch];
        let sampling_rate =
            description.sampling_rate.unwrap_or(fabric.description.sampling_rate).max(1);
        let interval_secs = description.counters_interval_secs.unwrap_or(0);
        let ports: Vec<u32> = (0..fabric.ports.len())
            .filter(|&port| fabric.ports[port].switch == switch)
            .map(index)
            .collect();
        let counters_interval_millis = u64::from(interval_secs) * 1000;
        let named_rate = description.named_sampling_rate.unwrap_or(sampling_rate);
        let header = header_of(description.agent, description);
        let mut prefix = Vec::new();
        if description.expanded {
            // Format, length, sequence, class, index, rate, pool, drops, input, output, records.
            push(&mut prefix, &[3, 0, 0, 0, 0, named_rate, 0, 0, 0, 0, 0, 0, 0]);
        } else {
            // Format, length, sequence, source, rate, pool, drops, input, output, records.
            push(&mut prefix, &[1, 0, 0, 0, named_rate, 0, 0, 0, 0, 0]);
        }
        // Raw packet header: format, length, protocol Ethernet, frame length, stripped, length.
        push(&mut prefix, &[1, 0, 1, 0, FCS_BYTES, 0]);
        let snap = fabric.description.snap_length_bytes.next_multiple_of(4) as usize;
        let sample_max = prefix.len() + snap + 24;
        let fit = index((DATAGRAM_MAX_BYTES - header.len()) / sample_max);
        let port = SOURCE_PORT_BASE + u16::try_from(switch % 30_000).unwrap_or(0);
        Agent {
            source: SocketAddr::new(description.agent, port),
            header,
            prefix,
            expanded: description.expanded,
            extended_switch: description.extended_switch,
            sampling_rate,
            samples_per_second_max: description.samples_per_second_max.unwrap_or(u32::MAX),
            second: (0, 0),
            silent_drops: description.silent_drops,
            synthetic_pool: description.synthetic_pool,
            uplink: description.if_index_base,
            egress: description.egress,
            translate: description
                .translate
                .iter()
                .filter_map(|each| {
                    Some((each.vlan.try_into().ok()?, each.port_vlan.try_into().ok()?))
                })
                .collect(),
            repeated: description
                .repeated_as
                .map(|agent| (SocketAddr::new(agent, port), header_of(agent, description))),
            samples_max: fabric.description.samples_per_datagram.min(fit),
            sequence: 0,
            speakers: None,
            counters_due_millis: if ports.is_empty() || interval_secs == 0 {
                u64::MAX
            } else {
                // Agents do not all report at the same moment.
                start_millis + switch as u64 * 997 % counters_interval_millis
            },
            ports,
            counters_interval_millis,
            counters_next: 0,
        }
    }
}

/// The header of a switch's datagrams under an address, with sequence number, uptime and count of
/// samples left 0.
fn header_of(agent: IpAddr, switch: &Switch) -> Vec<u8> {
    let mut header = Vec::new();
    push(&mut header, &[5]);
    match agent {
        IpAddr::V4(address) => {
            push(&mut header, &[1]);
            header.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            push(&mut header, &[2]);
            header.extend_from_slice(&address.octets());
        }
    }
    push(&mut header, &[switch.sub_agent_id, 0, 0, 0]);
    header
}

impl DataSourceState {
    /// struct counters_sample (2) or counters_sample_expanded (4) with one if_counters record.
    fn counters_sample(&mut self, expanded: bool, payload: &mut Vec<u8>) {
        self.counters_sequence = self.counters_sequence.wrapping_add(1);
        if expanded {
            let length = 4 + 8 + 4 + 8 + IF_COUNTERS_BYTES;
            push(payload, &[4, length, self.counters_sequence, 0, self.if_index, 1]);
        } else {
            let length = 4 + 4 + 4 + 8 + IF_COUNTERS_BYTES;
            push(payload, &[2, length, self.counters_sequence, self.if_index, 1]);
        }
        let speed_bits: u64 = 10_000_000_000;
        push(payload, &[1, IF_COUNTERS_BYTES]);
        // Ethernet (6), full duplex (1), up (3); of what went out, what was sampled there.
        push(payload, &[self.if_index, 6, high(speed_bits), low(speed_bits), 1, 3]);
        push(payload, &[high(self.octets), low(self.octets), self.packets, 0, 0, 0, 0, 0]);
        push(payload, &[high(self.sent_octets), low(self.sent_octets), self.sent_packets]);
        push(payload, &[0, 0, 0, 0, 0]);
    }
}

impl FrameTemplate {
    fn new(kind: FrameKind, tagged: bool) -> FrameTemplate {
        let mut bytes = vec![0; 12];
        if tagged {
            bytes.extend_from_slice(&[0x81, 0x00, 0, 0]);
        }
        match kind {
            FrameKind::V4 => {
                // No options, do not fragment, TTL 60, TCP.
                bytes.extend_from_slice(&[0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 60, 6, 0, 0]);
                bytes.extend_from_slice(&[10, 0, 0, 0, 10, 0, 0, 0]);
            }
            FrameKind::V6 => {
                // TCP, hop limit 60, addresses out of 2001:db8::/32.
                bytes.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 60]);
                let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).octets();
                bytes.extend_from_slice(&address);
                bytes.extend_from_slice(&address);
            }
            FrameKind::Arp => {
                // Ethernet, IPv4, reply.
                bytes.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]);
            }
        }
        if kind != FrameKind::Arp {
            // TCP: port 443 to 50000, sequence and acknowledgement 1, ACK, some window.
            bytes.extend_from_slice(&[0x01, 0xbb, 0xc3, 0x50, 0, 0, 0, 1, 0, 0, 0, 1]);
            bytes.extend_from_slice(&[0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        }
        bytes.resize(SNAP_MAX, 0);
        let ip = if tagged { 18 } else { 14 };
        let ipv4_sum = bytes[ip..ip + 20]
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        FrameTemplate { bytes, ipv4_sum }
    }

    /// Writes addresses, tag, lengths and the IPv4 checksum over a copy of the template. `frame`
    /// holds 60 bytes at least: the shortest frame without its FCS.
    #[inline]
    fn fill(
        &self,
        frame: &mut [u8],
        kind: FrameKind,
        vlan: Option<u16>,
        (source, destination): ([u8; 6], [u8; 6]),
        (source_host, destination_host): (u32, u32),
        frame_length: u32,
    ) {
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&source);
        let ethernet = if let Some(vlan) = vlan {
            frame[14..16].copy_from_slice(&vlan.to_be_bytes());
            18
        } else {
            14
        };
        let ip = &mut frame[ethernet as usize..];
        let length = frame_length - FCS_BYTES - ethernet;
        // Hosts are numbers below 2^24 in 10.0.0.0/8, and of 32 bits in 2001:db8::/96.
        match kind {
            FrameKind::V4 => {
                let (from, to) = (source_host & 0xff_ffff, destination_host & 0xff_ffff);
                let mut sum = self.ipv4_sum + length;
                sum += (from >> 16) + (from & 0xffff) + (to >> 16) + (to & 0xffff);
                sum = (sum & 0xffff) + (sum >> 16);
                sum = (sum & 0xffff) + (sum >> 16);
                ip[2..4].copy_from_slice(&half(length));
                ip[10..12].copy_from_slice(&half(!sum));
                put(ip, 12, 10 << 24 | from);
                put(ip, 16, 10 << 24 | to);
            }
            FrameKind::V6 => {
                ip[4..6].copy_from_slice(&half(length - 40));
                put(ip, 20, source_host);
                put(ip, 36, destination_host);
            }
            FrameKind::Arp => {
                ip[8..14].copy_from_slice(&source);
                put(ip, 14, 10 << 24 | (source_host & 0xff_ffff));
                ip[18..24].copy_from_slice(&destination);
                put(ip, 24, 10 << 24 | (destination_host & 0xff_ffff));
            }
        }
    }
}

impl super::Noise {
    /// The shares beside the loss that each must be counted as.
    pub(super) fn shares(&self) -> [(Loss, f64); 9] {
        [
            (Loss::NotIp, self.arp),
            (Loss::UnknownVlan, self.unknown_vlan),
            (Loss::Multicast, self.multicast),
            (Loss::UnknownSource, self.unknown_source),
            (Loss::UnknownDestination, self.unknown_destination),
            (Loss::SameVli, self.same_vli),
            (Loss::Direction, self.egress),
            (Loss::Discarded, self.discarded),
            (Loss::CorePort, self.core),
        ]
    }
}

/// Indices and lengths here are bounded far below 2^32 by the limits of [`super`].
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[inline]
fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[inline]
fn half(value: u32) -> [u8; 2] {
    let [_, _, a, b] = value.to_be_bytes();
    [a, b]
}

fn push(bytes: &mut Vec<u8>, values: &[u32]) {
    for value in values {
        bytes.extend_from_slice(&value.to_be_bytes());
    }
}

/// Where collectors are in captures: an address of the documentation networks.
pub(super) fn collector_of(agent: IpAddr) -> IpAddr {
    match agent {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 250)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfa)),
    }
}
