//! The truth: what a collector that loses nothing must count.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use super::Fabric;
use crate::count::Traffic;
use crate::flush::PairTraffic;
use crate::ixp::{InfrastructureId, IpProtocol, VlanTag, VliId};
use crate::loss::{Loss, Losses};

/// What a [`super::Generator`] said.
#[derive(Clone, PartialEq, Debug)]
pub struct Truth {
    /// Length of the intervals in seconds; 0 if they were not kept.
    pub step_secs: u64,
    /// The intervals with traffic, in rising order.
    pub intervals: Vec<IntervalTruth>,
    /// Samples that must not be counted.
    pub losses: Losses,
    /// Datagrams of either kind.
    pub datagrams: u64,
    /// Flow samples, those that must not be counted included.
    pub flow_samples: u64,
    /// Counters samples.
    pub counters_samples: u64,
}

/// What was said within one interval.
#[derive(Clone, PartialEq, Debug)]
pub struct IntervalTruth {
    /// Start, in seconds since 1970.
    pub from_secs: u64,
    /// End, in seconds since 1970.
    pub to_secs: u64,
    /// What source sent to destination, sorted by both, none idle.
    pub pairs: Vec<PairTraffic>,
}

/// What a VLI sent to and received from all others.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sides {
    /// What it sent into the fabric.
    pub sent: Traffic,
    /// What it received.
    pub received: Traffic,
}

impl IntervalTruth {
    /// The sums per VLI, of those that spoke or were spoken to.
    pub fn individuals(&self) -> BTreeMap<VliId, Sides> {
        let mut individuals: BTreeMap<VliId, Sides> = BTreeMap::new();
        for pair in &self.pairs {
            individuals.entry(pair.source).or_default().sent.merge(&pair.traffic);
            individuals.entry(pair.destination).or_default().received.merge(&pair.traffic);
        }
        individuals
    }

    /// The sums per VLAN, of those with traffic. What is sent on a VLAN is received on it, so
    /// that this is both directions of the aggregate.
    pub fn aggregates(&self, fabric: &Fabric) -> BTreeMap<(InfrastructureId, VlanTag), Traffic> {
        let lan_of: HashMap<VliId, (InfrastructureId, VlanTag)> =
            fabric.vlis().iter().map(|vli| (vli.id, (vli.infrastructure, vli.vlan))).collect();
        let mut aggregates: BTreeMap<_, Traffic> = BTreeMap::new();
        for pair in &self.pairs {
            if let Some(&lan) = lan_of.get(&pair.source) {
                aggregates.entry(lan).or_default().merge(&pair.traffic);
            }
        }
        aggregates
    }
}

impl Truth {
    /// What all pairs sent in all intervals, sorted.
    pub fn pairs(&self) -> Vec<PairTraffic> {
        let mut sums: BTreeMap<(VliId, VliId), Traffic> = BTreeMap::new();
        for pair in self.intervals.iter().flat_map(|interval| &interval.pairs) {
            sums.entry((pair.source, pair.destination)).or_default().merge(&pair.traffic);
        }
        sums.into_iter()
            .map(|((source, destination), traffic)| PairTraffic { source, destination, traffic })
            .collect()
    }

    /// Adds what another generator said, as another part of the same fabric.
    pub fn merge(&mut self, other: &Truth) {
        let mut intervals: BTreeMap<(u64, u64), BTreeMap<(VliId, VliId), Traffic>> =
            BTreeMap::new();
        for interval in self.intervals.iter().chain(&other.intervals) {
            let sums = intervals.entry((interval.from_secs, interval.to_secs)).or_default();
            for pair in &interval.pairs {
                sums.entry((pair.source, pair.destination)).or_default().merge(&pair.traffic);
            }
        }
        self.intervals = intervals
            .into_iter()
            .map(|((from_secs, to_secs), sums)| IntervalTruth {
                from_secs,
                to_secs,
                pairs: sums
                    .into_iter()
                    .map(|((source, destination), traffic)| PairTraffic {
                        source,
                        destination,
                        traffic,
                    })
                    .collect(),
            })
            .collect();
        self.losses.merge(&other.losses);
        self.datagrams += other.datagrams;
        self.flow_samples += other.flow_samples;
        self.counters_samples += other.counters_samples;
    }

    /// Writes JSON lines: one per interval, pair and IP protocol, one per loss, and a last one
    /// with the totals.
    pub fn write_json_lines(&self, mut out: impl Write) -> io::Result<()> {
        for interval in &self.intervals {
            for pair in &interval.pairs {
                for protocol in IpProtocol::ALL {
                    let samples = pair.traffic.samples[protocol as usize];
                    if samples == 0 {
                        continue;
                    }
                    let line = serde_json::json!({
                        "from_secs": interval.from_secs,
                        "to_secs": interval.to_secs,
                        "source": pair.source.0,
                        "destination": pair.destination.0,
                        "protocol": protocol.name(),
                        "samples": samples,
                        "packets": pair.traffic.packets[protocol as usize],
                        "bytes": pair.traffic.bytes[protocol as usize],
                    });
                    writeln!(out, "{line}")?;
                }
            }
        }
        for (loss, samples) in self.losses.iter() {
            writeln!(out, "{}", serde_json::json!({ "loss": loss.name(), "samples": samples }))?;
        }
        let totals = serde_json::json!({
            "datagrams": self.datagrams,
            "flow_samples": self.flow_samples,
            "counters_samples": self.counters_samples,
        });
        writeln!(out, "{totals}")
    }
}

/// Keeps the truth while it is made.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    truth: Truth,
    /// Start of the open interval, and its end in milliseconds.
    open_secs: u64,
    open_until_millis: u64,
    /// (source VLI, destination VLI) in one word.
    pairs: HashMap<u64, Traffic, foldhash::fast::RandomState>,
}

impl Recorder {
    pub(super) fn new() -> Recorder {
        Recorder {
            truth: Truth {
                step_secs: 0,
                intervals: Vec::new(),
                losses: Losses::default(),
                datagrams: 0,
                flow_samples: 0,
                counters_samples: 0,
            },
            open_secs: 0,
            open_until_millis: 0,
            pairs: HashMap::default(),
        }
    }

    pub(super) fn keep(&mut self, step_secs: u64) {
        self.truth.step_secs = step_secs;
    }

    pub(super) fn totals(&self) -> &Truth {
        &self.truth
    }

    /// Opens the interval of a stamp.
    #[inline]
    pub(super) fn advance(&mut self, stamp_millis: u64) {
        if stamp_millis >= self.open_until_millis && self.truth.step_secs > 0 {
            self.close();
            let stamp_secs = stamp_millis / 1000;
            self.open_secs = stamp_secs - stamp_secs % self.truth.step_secs;
            self.open_until_millis = (self.open_secs + self.truth.step_secs) * 1000;
        }
    }

    /// Counts as compat with the incumbent asks: bytes are frame length x sampling rate.
    #[inline]
    pub(super) fn count(
        &mut self,
        source: VliId,
        destination: VliId,
        protocol: IpProtocol,
        frame_length: u32,
        sampling_rate: u32,
    ) {
        if self.truth.step_secs == 0 {
            return;
        }
        let key = u64::from(source.0) << 32 | u64::from(destination.0);
        let traffic = self.pairs.entry(key).or_default();
        traffic.bytes[protocol as usize] += u64::from(frame_length) * u64::from(sampling_rate);
        traffic.packets[protocol as usize] += u64::from(sampling_rate);
        traffic.samples[protocol as usize] += 1;
    }

    #[inline]
    pub(super) fn loss(&mut self, loss: Loss) {
        self.truth.losses.count(loss);
    }

    #[inline]
    pub(super) fn flow_datagram(&mut self, samples: u32) {
        self.truth.datagrams += 1;
        self.truth.flow_samples += u64::from(samples);
    }

    /// A datagram that came before, under another address: none of its samples must count.
    pub(super) fn repetition(&mut self, samples: u32) {
        self.flow_datagram(samples);
        self.truth.losses.count_many(Loss::Direction, samples.into());
    }

    pub(super) fn counters_datagram(&mut self, samples: u32) {
        self.truth.datagrams += 1;
        self.truth.counters_samples += u64::from(samples);
    }

    pub(super) fn finish(mut self) -> Truth {
        self.close();
        self.truth
    }

    fn close(&mut self) {
        if self.pairs.is_empty() {
            return;
        }
        let mut pairs: Vec<PairTraffic> = self
            .pairs
            .drain()
            .map(|(key, traffic)| PairTraffic {
                source: VliId((key >> 32) as u32),
                destination: VliId((key & 0xffff_ffff) as u32),
                traffic,
            })
            .collect();
        pairs.sort_unstable_by_key(|pair| (pair.source, pair.destination));
        self.truth.intervals.push(IntervalTruth {
            from_secs: self.open_secs,
            to_secs: self.open_secs + self.truth.step_secs,
            pairs,
        });
    }
}
