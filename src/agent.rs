//! What is known of each agent: how much it sent, what was lost on the way and where, and how
//! far its sampling rates can be believed.
//!
//! Workers count in [`Desk`]s of their own, without locks, and fold them into the shared
//! [`Agents`] once a second. Datagrams of one agent may come through several workers; because
//! their sequence numbers are folded into one [`Sequence`], whose window is wider than what two
//! workers can be apart ([`Agents::heard_in_parts`]), the sums are exact all the same.

pub mod quality;
pub mod scaling;
pub mod sequence;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use foldhash::fast::FixedState;

use self::sequence::{Mark, Sequence, SequenceCounts, WINDOW, WINDOW_SPREAD};
use crate::decode::{CountersSample, DataSource, DatagramHeader, FlowSample, Interface};
use crate::finding::{Finding, Level};
use crate::loss::{Loss, Losses};
use crate::resolve::{AgentPolicy, CorePorts, Direction, Policy, ScalingBy};
use crate::table::{NO_KEY, Place, Table};

/// Default of the number of agents that are told apart.
pub const DEFAULT_AGENTS_MAX: usize = 4_096;

/// Default of the number of data sources that are told apart.
pub const DEFAULT_DATA_SOURCES_MAX: usize = 65_536;

/// How long an agent must have been silent to give its place to another one, in milliseconds.
/// It does so only where there is no other place: what is known of it is kept until then.
pub const AGENT_SILENT_MILLIS: u64 = HOUR_MILLIS;

/// Counters of ports that wait in a desk before they are folded, per agent; the ports of what is
/// beyond are read again when the agent sends their counters the next time.
const READINGS_MAX: usize = 4_096;

/// Sequence numbers that wait in a desk before they are folded.
const PENDING_MAX: usize = 128;

/// A sampling rate so many times above or below the median of the last hour is implausible.
const RATE_FACTOR_MAX: u32 = 16;

/// One rate a minute makes the hour of which the median is taken.
const RATES_KEPT: usize = 60;

const MINUTE_MILLIS: u64 = 60_000;
const HOUR_MILLIS: u64 = 3_600_000;

/// Lines that all agents together may log in a minute; further ones are counted and said later.
const LINES_PER_MINUTE_MAX: u32 = 60;

/// Senders that are told apart in the table of refused datagrams.
const REFUSED_SENDERS_MAX: usize = 1_024;

/// Samples of one direction, with none of the other, after which an agent is taken to sample
/// that one alone.
const DIRECTION_EVIDENCE: u64 = 100;

/// Sums of what was received and what became of it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// Datagrams received, refused ones included.
    pub datagrams: u64,
    /// Flow samples read: `counted` plus those of the losses that concern a whole flow sample.
    pub flow_samples: u64,
    /// Counters samples read.
    pub counters_samples: u64,
    /// Flow samples that were counted for a pair.
    pub counted: u64,
    /// Of these, samples without a VLAN that were counted on the one VLAN on which both ends are.
    pub vlan_inferred: u64,
    /// What was not, by reason.
    pub losses: Losses,
}

impl Totals {
    /// Adds `other`.
    pub fn merge(&mut self, other: &Totals) {
        self.datagrams += other.datagrams;
        self.flow_samples += other.flow_samples;
        self.counters_samples += other.counters_samples;
        self.counted += other.counted;
        self.vlan_inferred += other.vlan_inferred;
        self.losses.merge(&other.losses);
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &Totals) -> Totals {
        Totals {
            datagrams: self.datagrams.saturating_sub(earlier.datagrams),
            flow_samples: self.flow_samples.saturating_sub(earlier.flow_samples),
            counters_samples: self.counters_samples.saturating_sub(earlier.counters_samples),
            counted: self.counted.saturating_sub(earlier.counted),
            vlan_inferred: self.vlan_inferred.saturating_sub(earlier.vlan_inferred),
            losses: self.losses.since(&earlier.losses),
        }
    }
}

/// Tells the streams of datagrams apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AgentKey {
    /// The agent address in the datagram.
    pub address: IpAddr,
    /// The sub-agent id in the datagram.
    pub sub_agent_id: u32,
}

impl Hash for AgentKey {
    /// In one word or three: every datagram is looked up by it.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let sub_agent = u64::from(self.sub_agent_id);
        match self.address {
            IpAddr::V4(address) => state.write_u64(u64::from(address.to_bits()) << 32 | sub_agent),
            IpAddr::V6(address) => {
                state.write_u128(address.to_bits());
                state.write_u64(sub_agent);
            }
        }
    }
}

/// What is known of a data source.
#[derive(Clone, Default, Debug)]
pub struct SourceState {
    /// Flow samples received.
    pub samples: u64,
    /// Flow samples missing by their own sequence numbers: the cross-check of the gaps.
    pub sample_gaps: u64,
    /// Samples that the agent dropped: the growth of its cumulative `drops`.
    pub agent_drops: u64,
    /// The last sampling rate.
    pub sampling_rate: u32,
    /// How often the rate changed.
    pub rate_changes: u64,
    /// Samples with a rate far from the median of the last hour.
    pub implausible_rates: u64,
    /// The median of the last hour.
    pub median_rate: u32,
    /// Sum of frame length x sampling rate over the samples that were not taken at egress, in
    /// bytes: what the port received, as the samples tell it. It stops at its type's limit. Where
    /// egress is counted (`direction = egress`): over those not taken at ingress, what it sent.
    pub estimated_bytes: u64,
    /// Sum of the sampling rates over the same samples, in packets.
    pub estimated_packets: u64,
    /// Packets that went by the data source, by its own count: the growth of `sample_pool` from
    /// sample to sample. Restarts are left out.
    pub pool_packets: u64,
    /// Samples received while the pool grew by `pool_packets`. The quotient of the two, as of
    /// their growth in an interval, is the effective sampling rate (sFlow v5, section 5, struct
    /// flow_sample).
    pub pool_samples: u64,
    /// Folds in which the pool did not grow by exactly the sampling rate for each sample number:
    /// evidence that it is counted, and not made up from the numbers.
    pub pool_varied: u64,
    /// What its samples stand for by its pool.
    pub scaling: scaling::Scaling,
    /// Its port, if the agent sends counters of it.
    pub port: Option<Box<quality::Port>>,
    drops: Option<u32>,
    highest: Option<u32>,
    pool: Option<u32>,
    rates: Vec<u32>,
    next_rate: usize,
    minute: u64,
    change_logged_millis: Option<u64>,
    implausible_logged_millis: Option<u64>,
}

/// What a desk saw of a data source since it was last folded. The fields that every sample
/// touches come first: with the key in front they fill the first of two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct SourceNews {
    estimated_bytes: u64,
    estimated_packets: u64,
    samples: u32,
    highest: u32,
    drops: u32,
    sampling_rate: u32,
    pool: u32,
    /// Whether a sample like the last one needs no second look: there is one, and its rate is
    /// plausible.
    steady: bool,
    /// Whether the numbers began anew between the first sample and the last.
    restarted: bool,
    first: u32,
    first_drops: u32,
    first_pool: u32,
    missing: u32,
    rate_changes: u32,
    implausible_rates: u32,
    /// From the shared state.
    median_rate: u32,
    /// The same: what rates are multiplied with, in fixed point.
    factor: u32,
    /// What rounding left.
    carry: u32,
}

/// Differences of cumulative or sequence fields above this are a restart, not an advance.
const FIELD_JUMP_MAX: u32 = 1 << 24;

/// The same for the sample pool, of which a port of 400 Gbit/s counts 600 million a second.
const POOL_JUMP_MAX: u32 = 1 << 31;

impl SourceNews {
    const NONE: SourceNews = SourceNews {
        estimated_bytes: 0,
        estimated_packets: 0,
        samples: 0,
        highest: 0,
        drops: 0,
        sampling_rate: 0,
        pool: 0,
        steady: false,
        restarted: false,
        first: 0,
        first_drops: 0,
        first_pool: 0,
        missing: 0,
        rate_changes: 0,
        implausible_rates: 0,
        median_rate: 0,
        factor: scaling::ONE,
        carry: 0,
    };

    /// Nothing yet, of a source with this rate and this median.
    const fn after(sampling_rate: u32, median_rate: u32) -> SourceNews {
        SourceNews { sampling_rate, median_rate, ..SourceNews::NONE }
    }

    #[inline(always)]
    fn take(&mut self, sample: &FlowSample<'_>) {
        let number = sample.sequence_number();
        // What nearly every sample is: the next one, of the same rate, nothing dropped.
        if number == self.highest.wrapping_add(1)
            && sample.drops() == self.drops
            && sample.sampling_rate() == self.sampling_rate
            && self.steady
        {
            self.highest = number;
            self.pool = sample.sample_pool();
            self.samples += 1;
        } else {
            let (drops, rate) = (sample.drops(), sample.sampling_rate());
            self.take_unusual(number, drops, rate, sample.sample_pool());
        }
    }

    /// The fields one by one: they come in registers.
    #[cold]
    #[inline(never)]
    fn take_unusual(&mut self, number: u32, drops: u32, sampling_rate: u32, pool: u32) {
        if self.samples == 0 {
            (self.first, self.first_drops, self.first_pool) = (number, drops, pool);
            (self.highest, self.drops, self.pool) = (number, drops, pool);
        } else {
            let ahead = number.wrapping_sub(self.highest);
            if ahead.wrapping_sub(1) < FIELD_JUMP_MAX {
                self.missing = self.missing.saturating_add(ahead - 1);
                (self.highest, self.pool) = (number, pool);
            } else if self.highest.wrapping_sub(number) < WINDOW {
                self.missing = self.missing.saturating_sub(1);
            } else {
                (self.highest, self.pool) = (number, pool);
                self.restarted = true;
            }
            if drops.wrapping_sub(self.drops) < FIELD_JUMP_MAX {
                self.drops = drops;
            }
        }
        if sampling_rate != self.sampling_rate && self.sampling_rate != 0 {
            self.rate_changes += 1;
        }
        self.sampling_rate = sampling_rate;
        let implausible = is_implausible(sampling_rate, self.median_rate);
        self.steady = !implausible;
        self.samples += 1;
        self.implausible_rates += u32::from(implausible);
    }
}

/// The news of one data source.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct SourcePlace {
    /// [`DataSource::as_u64`].
    source: u64,
    news: SourceNews,
}

impl Place for SourcePlace {
    const EMPTY: SourcePlace = SourcePlace { source: NO_KEY, news: SourceNews::NONE };

    #[inline]
    fn key(&self) -> u64 {
        self.source
    }

    fn set_key(&mut self, key: u64) {
        self.source = key;
    }
}

#[inline]
fn is_implausible(rate: u32, median: u32) -> bool {
    median != 0
        && (u64::from(rate) > u64::from(median) * u64::from(RATE_FACTOR_MAX)
            || u64::from(rate) * u64::from(RATE_FACTOR_MAX) < u64::from(median))
}

impl SourceState {
    /// `window`: how many samples a worker may be behind another one; what is further behind has
    /// begun anew.
    fn fold(&mut self, news: &SourceNews, stamp_millis: u64, window: u32) {
        let samples = u64::from(news.samples);
        self.samples += samples;
        self.estimated_bytes = self.estimated_bytes.saturating_add(news.estimated_bytes);
        self.estimated_packets = self.estimated_packets.saturating_add(news.estimated_packets);
        // Where several workers read one agent their news interleave: what one of them misses
        // another one holds. Hence missing is by how much the highest number rose, less what came
        // (as RFC 3550, A.3).
        match self.highest {
            Some(highest) if !news.restarted => {
                let ahead = news.highest.wrapping_sub(highest);
                if ahead < FIELD_JUMP_MAX {
                    self.sample_gaps =
                        (self.sample_gaps + u64::from(ahead)).saturating_sub(samples);
                } else if highest.wrapping_sub(news.highest) < window {
                    self.sample_gaps = self.sample_gaps.saturating_sub(samples);
                } else {
                    self.sample_gaps += u64::from(news.missing);
                }
            }
            Some(highest) => {
                let ahead = news.first.wrapping_sub(highest).wrapping_sub(1);
                let between = if ahead < FIELD_JUMP_MAX { ahead } else { 0 };
                self.sample_gaps += u64::from(between) + u64::from(news.missing);
            }
            None => self.sample_gaps += u64::from(news.missing),
        }
        let forward = self.highest.is_none_or(|highest| {
            news.highest.wrapping_sub(highest) < FIELD_JUMP_MAX
                || highest.wrapping_sub(news.highest) >= window
        });
        self.fold_pool(news, forward);
        if forward {
            self.highest = Some(news.highest);
        }
        match self.drops.or(Some(news.first_drops)) {
            Some(drops) if news.drops.wrapping_sub(drops) < FIELD_JUMP_MAX => {
                self.agent_drops += u64::from(news.drops.wrapping_sub(drops));
                self.drops = Some(news.drops);
            }
            // Another worker, which has later samples, was folded first.
            Some(_) if !forward => {}
            // A restart.
            _ => self.drops = Some(news.drops),
        }
        if self.sampling_rate != 0 && self.sampling_rate != news.sampling_rate {
            self.rate_changes += 1;
        }
        self.rate_changes += u64::from(news.rate_changes);
        self.implausible_rates += u64::from(news.implausible_rates);
        self.sampling_rate = news.sampling_rate;
        let minute = stamp_millis / MINUTE_MILLIS;
        if self.rates.is_empty() || minute != self.minute {
            self.minute = minute;
            if self.rates.len() < RATES_KEPT {
                self.rates.push(news.sampling_rate);
            } else {
                self.rates[self.next_rate] = news.sampling_rate;
                self.next_rate = (self.next_rate + 1) % RATES_KEPT;
            }
            let mut sorted = self.rates.clone();
            sorted.sort_unstable();
            self.median_rate = sorted[sorted.len() / 2];
        }
    }

    /// `forward`: whether the news have later samples than what was folded before.
    fn fold_pool(&mut self, news: &SourceNews, forward: bool) {
        let samples = u64::from(news.samples);
        if !forward {
            // Another worker's growth has these samples in it.
            self.pool_samples += samples;
            return;
        }
        let (before, samples) = match self.pool.replace(news.pool) {
            Some(pool) => (pool, samples),
            None => (news.first_pool, samples.saturating_sub(1)),
        };
        let growth = news.pool.wrapping_sub(before);
        let first = self.highest.unwrap_or(news.first);
        let numbers = news.highest.wrapping_sub(first);
        if news.restarted || numbers >= FIELD_JUMP_MAX || growth >= POOL_JUMP_MAX {
            return;
        }
        self.pool_packets += u64::from(growth);
        self.pool_samples += samples;
        let steady =
            news.rate_changes == 0 && [0, news.sampling_rate].contains(&self.sampling_rate);
        if steady && growth != numbers.wrapping_mul(news.sampling_rate) {
            self.pool_varied += 1;
        }
    }
}

/// What is known of an agent.
#[derive(Clone, Debug)]
pub struct AgentState {
    /// What it sent.
    pub totals: Totals,
    /// Samples by where they were taken: ingress, egress, and those that do not tell.
    pub directions: [u64; 3],
    /// Its datagram numbers.
    pub sequence: Sequence,
    /// Its data sources.
    pub sources: HashMap<DataSource, SourceState, FixedState>,
    /// Samples of data sources beyond the limit.
    pub untracked_samples: u64,
    /// Address that sent for it first.
    pub source_address: IpAddr,
    /// Datagrams that another address sent for it, and the last such address.
    pub foreign: Option<(IpAddr, u64)>,
    /// Which of its samples are counted.
    pub direction: Direction,
    /// When it was first heard, in milliseconds since 1970.
    pub first_seen_millis: u64,
    /// When it was last heard.
    pub last_seen_millis: u64,
    /// What its sampling is judged by, beside its ports.
    pub evidence: quality::Evidence,
    foreign_logged_millis: Option<u64>,
    /// Another agent has its place; who still holds it asks for a place again.
    retired: bool,
}

impl AgentState {
    /// Whether a data source is known, or there is a place for it, which is then taken.
    fn has_room(&self, source: DataSource, agents: &Agents) -> bool {
        let known = self.sources.contains_key(&source);
        let room = known || agents.sources.fetch_add(1, Ordering::Relaxed) < agents.sources_max;
        if !room {
            agents.sources.fetch_sub(1, Ordering::Relaxed);
        }
        room
    }

    /// Samples that the agent dropped itself, over its data sources.
    pub fn agent_drops(&self) -> u64 {
        self.sources.values().map(|source| source.agent_drops).sum()
    }
}

/// One agent, shared by the workers that hear it.
#[derive(Debug)]
pub struct Agent {
    /// Who it is.
    pub key: AgentKey,
    state: Mutex<AgentState>,
}

impl Agent {
    /// What is known of it.
    pub fn state(&self) -> MutexGuard<'_, AgentState> {
        // The lock guards counters, which are right after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct LineLimit {
    minute: u64,
    lines: u32,
    suppressed: u64,
}

impl LineLimit {
    fn allows(&mut self, stamp_millis: u64) -> bool {
        let minute = stamp_millis / MINUTE_MILLIS;
        if minute != self.minute {
            if self.suppressed > 0 {
                tracing::warn!("{} further lines about agents were left out", self.suppressed);
            }
            *self = LineLimit { minute, lines: 0, suppressed: 0 };
        }
        self.lines += 1;
        let allowed = self.lines <= LINES_PER_MINUTE_MAX;
        self.suppressed += u64::from(!allowed);
        allowed
    }
}

/// What goes on is said again once an hour.
fn is_due(logged_millis: Option<u64>, stamp_millis: u64) -> bool {
    logged_millis.is_none_or(|at| stamp_millis >= at + HOUR_MILLIS)
}

/// Senders whose datagrams were refused.
#[derive(Clone, Default, Debug)]
pub struct Refused {
    /// Datagrams by sender and reason.
    pub senders: HashMap<(IpAddr, Loss), u64, FixedState>,
    /// Datagrams of senders beyond the limit.
    pub others: u64,
}

/// Agents that were silent for long when somebody looked.
#[derive(Debug, Default)]
struct Silent {
    /// When each was last heard, and who; the one that was silent longest is the last.
    agents: Vec<(u64, AgentKey)>,
    /// Nobody else is silent for long before this.
    look_again_millis: u64,
}

/// What remains of agents that gave their places up.
#[derive(Clone, Copy, Debug, Default)]
struct Retired {
    agents: u64,
    sequence: SequenceCounts,
    agent_drops: u64,
}

/// Every agent that was heard, up to a limit.
#[derive(Debug)]
pub struct Agents {
    agents: DashMap<AgentKey, Arc<Agent>>,
    silent: Mutex<Silent>,
    retired: Mutex<Retired>,
    agents_max: usize,
    sources_max: usize,
    sequence_window: u32,
    sources: AtomicUsize,
    /// Totals of all agents, of refused datagrams, and of agents beyond the limit.
    totals: Mutex<Totals>,
    untracked_datagrams: Mutex<u64>,
    refused: Mutex<Refused>,
    lines: Mutex<LineLimit>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The locks guard counters, which are right after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agents {
    /// A registry for at most so many agents and data sources.
    pub fn new(agents_max: usize, sources_max: usize) -> Agents {
        Agents {
            agents: DashMap::new(),
            silent: Mutex::default(),
            retired: Mutex::default(),
            agents_max,
            sources_max,
            sequence_window: WINDOW,
            sources: AtomicUsize::new(0),
            totals: Mutex::default(),
            untracked_datagrams: Mutex::default(),
            refused: Mutex::default(),
            lines: Mutex::default(),
        }
    }

    /// Expects the datagrams of one agent from several workers, which may be far apart in its
    /// stream; it takes up to 16 KiB more for each sender.
    #[must_use]
    pub fn heard_in_parts(self) -> Agents {
        Agents { sequence_window: WINDOW_SPREAD, ..self }
    }

    /// Totals over everything that was received.
    pub fn totals(&self) -> Totals {
        lock(&self.totals).clone()
    }

    /// Datagrams of agents beyond the limit; they are counted, but not by agent.
    pub fn untracked_datagrams(&self) -> u64 {
        *lock(&self.untracked_datagrams)
    }

    /// Who was refused.
    pub fn refused(&self) -> Refused {
        lock(&self.refused).clone()
    }

    /// The agents, sorted.
    pub fn list(&self) -> Vec<Arc<Agent>> {
        let mut agents: Vec<_> = self.agents.iter().map(|entry| entry.value().clone()).collect();
        agents.sort_unstable_by_key(|agent| agent.key);
        agents
    }

    /// Agents that were silent for [`AGENT_SILENT_MILLIS`] and gave their place to another one.
    pub fn retired(&self) -> u64 {
        lock(&self.retired).agents
    }

    /// Sums of what the numbers tell, and of the agents' own drops, over all agents that there
    /// were.
    pub fn sequence_counts(&self) -> (SequenceCounts, u64) {
        let Retired { mut sequence, mut agent_drops, .. } = *lock(&self.retired);
        for agent in &self.agents {
            let state = agent.state();
            sequence.merge(state.sequence.counts());
            agent_drops += state.agent_drops();
        }
        (sequence, agent_drops)
    }

    /// Flow samples by agent address.
    pub fn flow_samples(&self) -> BTreeMap<IpAddr, u64> {
        let mut samples: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for agent in &self.agents {
            *samples.entry(agent.key.address).or_default() += agent.state().totals.flow_samples;
        }
        samples
    }

    /// Agents whose policy does not fit to where they sample, in their order.
    pub fn direction_findings(&self) -> Vec<Finding> {
        self.list().iter().filter_map(|agent| direction_finding(agent)).collect()
    }

    fn find(&self, key: AgentKey, source: IpAddr, stamp_millis: u64) -> Option<Arc<Agent>> {
        if let Some(agent) = self.agents.get(&key) {
            return Some(agent.clone());
        }
        // Workers may pass the limit together, by one agent each.
        if self.agents.len() >= self.agents_max && !self.retire_one(stamp_millis) {
            return None;
        }
        let agent = self.agents.entry(key).or_insert_with(|| {
            let state = AgentState {
                totals: Totals::default(),
                directions: [0; 3],
                sequence: Sequence::new(self.sequence_window),
                sources: HashMap::default(),
                untracked_samples: 0,
                source_address: source,
                foreign: None,
                direction: Direction::default(),
                first_seen_millis: stamp_millis,
                last_seen_millis: stamp_millis,
                evidence: quality::Evidence::default(),
                foreign_logged_millis: None,
                retired: false,
            };
            Arc::new(Agent { key, state: Mutex::new(state) })
        });
        Some(agent.clone())
    }

    /// Takes its place from the agent that was silent longest, if one was for long enough.
    ///
    /// Whoever invents agents makes this run for each of them. All agents are therefore looked at
    /// only when it is known that one of them can be silent by then.
    #[cold]
    fn retire_one(&self, stamp_millis: u64) -> bool {
        let silent_since =
            |last_seen_millis: u64| last_seen_millis + AGENT_SILENT_MILLIS <= stamp_millis;
        let mut silent = lock(&self.silent);
        loop {
            if silent.agents.is_empty() {
                if stamp_millis < silent.look_again_millis {
                    return false;
                }
                let mut agents: Vec<_> = self
                    .agents
                    .iter()
                    .map(|agent| (agent.state().last_seen_millis, agent.key))
                    .collect();
                agents.sort_unstable_by(|a, b| b.cmp(a));
                let oldest = agents.last().map_or(stamp_millis, |&(last_seen, _)| last_seen);
                let none = !silent_since(oldest);
                silent.look_again_millis =
                    if none { oldest + AGENT_SILENT_MILLIS } else { stamp_millis + 1_000 };
                agents.retain(|&(last_seen, _)| silent_since(last_seen));
                silent.agents = agents;
            }
            let Some((_, key)) = silent.agents.pop() else { return false };
            let retired = self.agents.remove_if(&key, |_, agent| {
                let mut state = agent.state();
                state.retired = silent_since(state.last_seen_millis);
                state.retired
            });
            if let Some((_, agent)) = retired {
                let mut state = agent.state();
                let mut sums = lock(&self.retired);
                sums.agents += 1;
                sums.sequence.merge(state.sequence.counts());
                sums.agent_drops += state.agent_drops();
                // Desks may hold the agent for some time: without what takes memory.
                state.sequence = Sequence::new(self.sequence_window);
                let sources = std::mem::take(&mut state.sources);
                self.sources.fetch_sub(sources.len(), Ordering::Relaxed);
                return true;
            }
        }
    }

    fn log(&self, stamp_millis: u64, line: impl FnOnce() -> String) {
        if lock(&self.lines).allows(stamp_millis) {
            tracing::warn!("{}", line());
        }
    }
}

/// Names of [`Agents::direction_findings`].
pub const DIRECTION_FINDINGS: &[&str] = &["egress_samples", "ingress_samples", "both_directions"];

/// An agent whose policy does not fit to where it samples.
fn direction_finding(agent: &Agent) -> Option<Finding> {
    let (policy, [ingress, egress, _]) = {
        let state = agent.state();
        (state.direction, state.directions)
    };
    let address = agent.key.address;
    let (name, what, why, wanted) = match policy {
        Direction::Ingress if ingress == 0 && egress >= DIRECTION_EVIDENCE => (
            "egress_samples",
            format!("all {egress} samples that tell were taken at egress"),
            "they are not counted",
            "let it sample ingress, or set direction = egress",
        ),
        Direction::Egress if egress == 0 && ingress >= DIRECTION_EVIDENCE => (
            "ingress_samples",
            format!("all {ingress} samples that tell were taken at ingress"),
            "direction = egress leaves them out",
            "set direction = ingress",
        ),
        Direction::Both if ingress >= DIRECTION_EVIDENCE && egress >= DIRECTION_EVIDENCE => (
            "both_directions",
            format!("{ingress} samples were taken at ingress, {egress} at egress"),
            "packets are counted twice, where they come in and where they go out",
            "set direction = ingress",
        ),
        _ => return None,
    };
    Some(Finding {
        level: Level::Fail,
        name,
        subject: address.to_string(),
        what,
        why: why.into(),
        remedy: format!("{wanted} in <sflow_agent {address}>"),
    })
}

/// The direction of samples (an index of [`AgentState::directions`]) that are no part of what a
/// policy counts.
fn other_side(policy: &AgentPolicy) -> usize {
    if policy.direction == Direction::Egress { INGRESS } else { EGRESS }
}

/// Whether a sample was taken at ingress, at egress, or does not tell: its data source's index
/// equals the input, the output and not the input, or neither (a LAG member, a bridge).
#[inline(always)]
fn direction(sample: &FlowSample<'_>) -> usize {
    let source = sample.data_source();
    // Only an index of class 0 is an ifIndex.
    if source.class != 0 {
        UNKNOWN
    } else if sample.input() == (Interface { format: 0, value: source.index }) {
        INGRESS
    } else if sample.output() == (Interface { format: 0, value: source.index }) {
        EGRESS
    } else {
        UNKNOWN
    }
}

/// Index of ingress in [`AgentState::directions`].
pub const INGRESS: usize = 0;

/// Index of egress in [`AgentState::directions`].
pub const EGRESS: usize = 1;

/// Index of those that do not tell in [`AgentState::directions`].
pub const UNKNOWN: usize = 2;

/// One worker's notes on one agent since the last fold.
#[derive(Debug)]
pub struct Notes {
    agent: Option<Arc<Agent>>,
    /// What holds for the agent.
    pub policy: AgentPolicy,
    /// Ports whose samples are left out as those of links between switches: ifIndexes in rising
    /// order.
    pub core_ports: Arc<[u32]>,
    /// What it sent.
    pub totals: Totals,
    directions: [u64; 3],
    /// Samples of this direction are no part of what is counted.
    other_side: usize,
    /// Whether rates are corrected by the pool.
    scaled: bool,
    /// Whether nothing is set for the agent, and no port of it left out: one question a sample
    /// instead of many.
    is_plain: bool,
    pending: Vec<Mark>,
    readings: Vec<quality::Reading>,
    sources: Table<SourcePlace>,
    foreign: Option<(IpAddr, u64)>,
    source_address: IpAddr,
    dirty: bool,
    stamp_millis: u64,
}

impl Notes {
    /// Notes a flow sample, and says where it was taken (an index of
    /// [`AgentState::directions`]) and what it stands for: its sampling rate, or the one that
    /// the configuration has for the agent, perhaps corrected by the pool ([`scaling`]).
    #[inline(always)]
    pub fn flow_sample(&mut self, sample: &FlowSample<'_>) -> (usize, u32) {
        let direction = direction(sample);
        self.directions[direction] += 1;
        let mut rate = sample.sampling_rate();
        if !self.is_plain {
            rate = self.policy.sampling_rate.unwrap_or(rate);
            if self.agent.is_none() {
                return (direction, rate);
            }
        }
        // There is no class of that number: such a source is taken for its neighbour.
        let source = sample.data_source().as_u64().min(NO_KEY - 1);
        let news = &mut self.sources.entry(source).news;
        if self.scaled {
            rate = scaling::apply(rate, news.factor, &mut news.carry);
        }
        if direction != self.other_side {
            let rate = u64::from(rate);
            let bytes = u64::from(sample.frame_length_bytes().unwrap_or(0)) * rate;
            news.estimated_bytes = news.estimated_bytes.saturating_add(bytes);
            news.estimated_packets += rate;
        }
        news.take(sample);
        (direction, rate)
    }

    /// Notes a counters sample, for what the samples of its port stand for up to here.
    #[cold]
    pub fn counters_sample(&mut self, sample: &CountersSample) {
        self.totals.counters_samples += 1;
        // Only an index of class 0 is an ifIndex.
        let Some(counters) = sample.interface.filter(|_| sample.data_source.class == 0) else {
            return;
        };
        if self.agent.is_none() || self.readings.len() >= READINGS_MAX {
            return;
        }
        let source = sample.data_source.as_u64();
        let news = self.sources.get(source).map(|place| place.news);
        let news = news.unwrap_or(SourceNews::NONE);
        self.readings.push(quality::Reading {
            source,
            stamp_millis: self.stamp_millis,
            counters,
            estimated_bytes: news.estimated_bytes,
            estimated_packets: news.estimated_packets,
        });
    }

    fn set_policy(&mut self, policy: AgentPolicy, learned: &BTreeMap<IpAddr, Arc<[u32]>>) {
        self.policy = policy;
        self.other_side = other_side(&self.policy);
        self.scaled = self.policy.scaling == Some(ScalingBy::Pool);
        if !self.scaled {
            for place in self.sources.iter_mut() {
                (place.news.factor, place.news.carry) = (scaling::ONE, 0);
            }
        }
        self.take_core_ports(learned);
    }

    fn fold(&mut self, agents: &Agents) {
        self.totals.flow_samples += self.directions.iter().sum::<u64>();
        lock(&agents.totals).merge(&self.totals);
        match self.agent.clone() {
            Some(agent) if self.fold_into(&agent, agents) => {}
            // It was silent for so long that another agent has its place.
            Some(agent) => {
                let found = agents.find(agent.key, self.source_address, self.stamp_millis);
                // Were that one retired at once, the next fold would find the one after it.
                match found {
                    Some(agent) => {
                        self.fold_into(&agent, agents);
                        self.agent = Some(agent);
                    }
                    None => self.fold_untracked(agents),
                }
            }
            None => self.fold_untracked(agents),
        }
        self.readings = Vec::new();
        self.totals = Totals::default();
        self.directions = [0; 3];
        self.pending.clear();
        self.foreign = None;
        self.dirty = false;
    }

    fn fold_untracked(&mut self, agents: &Agents) {
        *lock(&agents.untracked_datagrams) += self.totals.datagrams;
        for place in self.sources.iter_mut() {
            place.news = SourceNews::after(place.news.sampling_rate, place.news.median_rate);
        }
    }

    /// Whether the agent still has a place, and took the notes.
    fn fold_into(&mut self, agent: &Agent, agents: &Agents) -> bool {
        let stamp = self.stamp_millis;
        let address = agent.key.address;
        let mut state = agent.state();
        if state.retired {
            return false;
        }
        state.totals.merge(&self.totals);
        state.direction = self.policy.direction;
        for (sum, news) in state.directions.iter_mut().zip(self.directions) {
            *sum += news;
        }
        for mark in &self.pending {
            state.sequence.take(*mark);
        }
        state.last_seen_millis = state.last_seen_millis.max(stamp);
        self.fold_readings(&mut state, agents);
        for place in self.sources.iter_mut() {
            let source = DataSource::from_u64(place.source);
            let news = &mut place.news;
            if news.samples == 0 {
                continue;
            }
            if !state.has_room(source, agents) {
                state.untracked_samples += u64::from(news.samples);
            } else {
                let shared = state.sources.entry(source).or_default();
                let before = (shared.rate_changes, shared.implausible_rates);
                let old_rate = shared.sampling_rate;
                let pool = (shared.pool_packets, shared.pool_samples);
                shared.fold(news, stamp, agents.sequence_window);
                if self.scaled {
                    let rate = self.policy.sampling_rate.unwrap_or(news.sampling_rate);
                    news.factor = shared.scaling.fold(&scaling::Growth {
                        packets: shared.pool_packets - pool.0,
                        samples: shared.pool_samples - pool.1,
                        rate,
                        factor: news.factor,
                        varied: shared.pool_varied,
                        stamp_millis: stamp,
                    });
                }
                if shared.rate_changes > before.0 && is_due(shared.change_logged_millis, stamp) {
                    shared.change_logged_millis = Some(stamp);
                    let (rate, times) = (shared.sampling_rate, shared.rate_changes);
                    agents.log(stamp, || {
                        format!(
                            "agent {address}: sampling rate of ifIndex {} changed from {old_rate} \
                             to {rate} ({times} changes so far); samples count by their own rate",
                            source.index
                        )
                    });
                }
                if shared.implausible_rates > before.1
                    && is_due(shared.implausible_logged_millis, stamp)
                {
                    shared.implausible_logged_millis = Some(stamp);
                    let (rate, median) = (shared.sampling_rate, shared.median_rate);
                    agents.log(stamp, || {
                        format!(
                            "agent {address}: sampling rate {rate} of ifIndex {} is more than \
                             {RATE_FACTOR_MAX} times away from {median}, its median of the last \
                             hour; if it is wrong, set sampling_rate in <sflow_agent {address}>",
                            source.index
                        )
                    });
                }
                news.median_rate = shared.median_rate;
            }
            let SourceNews { sampling_rate, median_rate, factor, carry, .. } = *news;
            *news = SourceNews { factor, carry, ..SourceNews::after(sampling_rate, median_rate) };
        }
        if self.sources.len() > agents.sources_max {
            self.sources = Table::default();
        }
        if let Some((from, count)) = self.foreign {
            let sum = state.foreign.map_or(0, |(_, sum)| sum) + count;
            state.foreign = Some((from, sum));
            if is_due(state.foreign_logged_millis, stamp) {
                state.foreign_logged_millis = Some(stamp);
                let first = state.source_address;
                let count = sum;
                agents.log(stamp, || {
                    format!(
                        "agent {address}: datagrams come from {from} and from {first} ({count} so \
                         far are not from {first}): two senders behind one agent address, or a \
                         forged one"
                    )
                });
            }
        }
        true
    }

    /// Before the news of the samples: a reading has the part of them that came before it.
    fn fold_readings(&mut self, state: &mut AgentState, agents: &Agents) {
        let AgentPolicy { direction, sampling_rate, .. } = self.policy;
        let mut packets = 0;
        for reading in std::mem::take(&mut self.readings) {
            let source = DataSource::from_u64(reading.source);
            if state.has_room(source, agents) {
                let shared = state.sources.entry(source).or_default();
                packets += shared.take_counters(&reading, direction, sampling_rate);
            }
        }
        let (samples, stamp) = (self.totals.flow_samples, self.stamp_millis);
        let evidence = &mut state.evidence;
        evidence.is_scaled = self.scaled;
        evidence.take(stamp, samples, packets);
        if samples > 0 {
            evidence.last_flow_millis = stamp;
        }
        if self.totals.counters_samples > 0 {
            evidence.last_counters_millis = stamp;
        }
    }

    /// Whether they are of an agent that gave its place up, and say nothing more.
    fn is_over(&self) -> bool {
        !self.dirty && self.agent.as_ref().is_some_and(|agent| agent.state().retired)
    }
}

/// One worker's notes on all agents that it hears.
#[derive(Debug)]
pub struct Desk {
    agents: Arc<Agents>,
    index: HashMap<AgentKey, usize, FixedState>,
    notes: Vec<Notes>,
    /// Notes with news.
    dirty: Vec<usize>,
    /// Notes on agents that gave their places up.
    free: Vec<usize>,
    last: Option<(AgentKey, usize)>,
    /// Totals of datagrams without an agent: refused ones.
    nameless: Totals,
    refused: HashMap<(IpAddr, Loss), u64, FixedState>,
    folded_millis: u64,
    /// Learned ones, of agents whose policy is to leave them out.
    core_ports: Arc<BTreeMap<IpAddr, Arc<[u32]>>>,
}

/// Place of the notes on agents beyond the limit.
const UNTRACKED: usize = 0;

impl Desk {
    /// An empty desk.
    pub fn new(agents: Arc<Agents>) -> Desk {
        let untracked = Notes::new(None, AgentPolicy::default(), IpAddr::from([0; 4]));
        Desk {
            agents,
            index: HashMap::default(),
            notes: vec![untracked],
            dirty: Vec::new(),
            free: Vec::new(),
            last: None,
            nameless: Totals::default(),
            refused: HashMap::default(),
            folded_millis: 0,
            core_ports: Arc::default(),
        }
    }

    /// Notes a datagram, and returns its agent's notes.
    #[inline]
    pub fn datagram(
        &mut self,
        header: &DatagramHeader,
        source: IpAddr,
        stamp_millis: u64,
        policy: &Policy,
    ) -> &mut Notes {
        let key = AgentKey { address: header.agent_address, sub_agent_id: header.sub_agent_id };
        let place = match self.last {
            Some((last, place)) if last == key => place,
            _ => self.place(key, source, stamp_millis, policy),
        };
        let notes = &mut self.notes[place];
        notes.stamp_millis = stamp_millis;
        notes.totals.datagrams += 1;
        if !notes.dirty {
            notes.dirty = true;
            self.dirty.push(place);
        }
        if notes.agent.is_some() {
            if notes.pending.len() == PENDING_MAX {
                notes.flush_marks();
            }
            #[expect(clippy::cast_possible_truncation, reason = "taken modulo 2^32")]
            notes.pending.push(Mark {
                number: header.sequence_number,
                uptime_millis: header.uptime_millis,
                stamp_millis: stamp_millis as u32,
            });
            if source != notes.source_address {
                let count = notes.foreign.map_or(0, |(_, count)| count) + 1;
                notes.foreign = Some((source, count));
            }
        }
        notes
    }

    #[cold]
    fn place(
        &mut self,
        key: AgentKey,
        source: IpAddr,
        stamp_millis: u64,
        policy: &Policy,
    ) -> usize {
        let place = match self.index.get(&key) {
            Some(&place) => place,
            None => match self.agents.find(key, source, stamp_millis) {
                Some(agent) => {
                    let first_source = agent.state().source_address;
                    let policy = policy.agent(key.address).clone();
                    let mut notes = Notes::new(Some(agent), policy, first_source);
                    notes.take_core_ports(&self.core_ports);
                    let place = self.room();
                    self.notes[place] = notes;
                    self.index.insert(key, place);
                    place
                }
                None => UNTRACKED,
            },
        };
        // Untracked agents share notes, but not a policy.
        if place == UNTRACKED {
            let notes = &mut self.notes[UNTRACKED];
            notes.set_policy(policy.agent(key.address).clone(), &self.core_ports);
        }
        self.last = Some((key, place));
        place
    }

    /// The place of notes that nobody needs: this desk's agents are no more than the registry's.
    fn room(&mut self) -> usize {
        if self.free.is_empty() && self.notes.len() > self.agents.agents_max {
            let over = (UNTRACKED + 1..self.notes.len()).filter(|&at| self.notes[at].is_over());
            self.free = over.collect();
            let free: HashSet<usize, FixedState> = self.free.iter().copied().collect();
            self.index.retain(|_, place| !free.contains(place));
        }
        self.free.pop().unwrap_or_else(|| {
            self.notes.push(Notes::new(None, AgentPolicy::default(), IpAddr::from([0; 4])));
            self.notes.len() - 1
        })
    }

    /// Notes a datagram that was refused before its agent was known.
    #[cold]
    pub fn refused(&mut self, source: IpAddr, loss: Loss) {
        self.nameless.datagrams += 1;
        self.nameless.losses.count(loss);
        if self.refused.len() < REFUSED_SENDERS_MAX || self.refused.contains_key(&(source, loss)) {
            *self.refused.entry((source, loss)).or_default() += 1;
        }
    }

    /// Takes over a new policy.
    pub fn set_policy(&mut self, policy: &Policy) {
        for notes in &mut self.notes {
            if let Some(agent) = &notes.agent {
                let policy = policy.agent(agent.key.address).clone();
                notes.set_policy(policy, &self.core_ports);
            }
        }
        self.last = None;
    }

    /// Takes over which ports were learned to be links between switches, by agent address.
    pub fn set_core_ports(&mut self, learned: &Arc<BTreeMap<IpAddr, Arc<[u32]>>>) {
        if Arc::ptr_eq(learned, &self.core_ports) {
            return;
        }
        self.core_ports = learned.clone();
        for notes in &mut self.notes {
            notes.take_core_ports(learned);
        }
    }

    /// Folds the notes into the registry once a second, and at once when `now`.
    pub fn fold(&mut self, stamp_millis: u64, now: bool) {
        if !now && stamp_millis.abs_diff(self.folded_millis) < 1_000 {
            return;
        }
        self.folded_millis = stamp_millis;
        // There may be a place for it by then.
        self.last = self.last.filter(|&(_, place)| place != UNTRACKED);
        for place in self.dirty.drain(..) {
            self.notes[place].fold(&self.agents);
        }
        if self.nameless.datagrams == 0 {
            return;
        }
        lock(&self.agents.totals).merge(&self.nameless);
        let mut listed = 0;
        let mut shared = lock(&self.agents.refused);
        for ((source, loss), count) in self.refused.drain() {
            listed += count;
            let known = shared.senders.contains_key(&(source, loss));
            if !known && shared.senders.len() >= REFUSED_SENDERS_MAX {
                shared.others += count;
                continue;
            }
            *shared.senders.entry((source, loss)).or_default() += count;
            if !known {
                self.agents.log(stamp_millis, || {
                    format!("datagrams from {source} are refused: {}", loss.name())
                });
            }
        }
        shared.others += self.nameless.datagrams - listed;
        self.nameless = Totals::default();
    }
}

impl Notes {
    fn new(agent: Option<Arc<Agent>>, policy: AgentPolicy, source_address: IpAddr) -> Notes {
        Notes {
            agent,
            core_ports: Arc::default(),
            other_side: other_side(&policy),
            scaled: policy.scaling == Some(ScalingBy::Pool),
            is_plain: false,
            policy,
            totals: Totals::default(),
            directions: [0; 3],
            pending: Vec::with_capacity(PENDING_MAX),
            readings: Vec::new(),
            sources: Table::default(),
            foreign: None,
            source_address,
            dirty: false,
            stamp_millis: 0,
        }
    }

    fn take_core_ports(&mut self, learned: &BTreeMap<IpAddr, Arc<[u32]>>) {
        let address = self.agent.as_ref().map(|agent| agent.key.address);
        self.core_ports = match &self.policy.core_ports {
            CorePorts::List(list) => list.clone(),
            CorePorts::Auto => {
                address.and_then(|address| learned.get(&address)).cloned().unwrap_or_default()
            }
            CorePorts::Report | CorePorts::Off => Arc::default(),
        };
        self.is_plain = self.agent.is_some()
            && self.core_ports.is_empty()
            && !self.scaled
            && self.policy.sampling_rate.is_none()
            && self.policy.direction == Direction::Ingress
            && self.policy.is_by_table();
    }

    /// Whether nothing that is set for the agent, nor a port that is left out, decides over its
    /// samples: those taken at egress do not count, and the table alone resolves the others.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    #[cold]
    fn flush_marks(&mut self) {
        if let Some(agent) = &self.agent {
            let mut state = agent.state();
            for mark in self.pending.drain(..) {
                state.sequence.take(mark);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(number: u32, rate: u32, pool: u32, drops: u32) -> FlowSample<'static> {
        FlowSample::compact([number, 3, rate, pool, drops, 3, 4, 0])
    }

    fn sample(number: u32, rate: u32, drops: u32) -> FlowSample<'static> {
        pooled(number, rate, 0, drops)
    }

    fn source_after(samples: &[(u32, u32, u32)], per_fold: usize) -> SourceState {
        let mut state = SourceState::default();
        let mut news = SourceNews::NONE;
        for (fold, samples) in samples.chunks(per_fold).enumerate() {
            for &(number, rate, drops) in samples {
                news.take(&sample(number, rate, drops));
            }
            state.fold(&news, fold as u64 * MINUTE_MILLIS, WINDOW);
            news = SourceNews::after(news.sampling_rate, state.median_rate);
        }
        state
    }

    #[test]
    fn agent_drops_are_the_growth_of_a_cumulative_field() {
        for per_fold in [1, 2, 7] {
            let samples: Vec<_> = (0..10).map(|n| (n + 1, 100, 14_000_000 + n * 5)).collect();
            let state = source_after(&samples, per_fold);
            assert_eq!((state.agent_drops, state.sample_gaps, state.samples), (45, 0, 10));
        }
    }

    #[test]
    fn a_wrap_of_drops_is_growth_and_a_restart_is_not() {
        let wrapped = source_after(&[(1, 100, u32::MAX - 1), (2, 100, 3)], 1);
        assert_eq!(wrapped.agent_drops, 5);
        let restarted = source_after(&[(1_000_000, 100, 90_000), (1, 100, 0), (2, 100, 7)], 1);
        assert_eq!(restarted.agent_drops, 7);
    }

    #[test]
    fn sample_numbers_cross_check_the_gaps() {
        let samples: Vec<_> = (1..=100).filter(|n| n % 10 != 3).map(|n| (n, 512, 0)).collect();
        for per_fold in [1, 9, 200] {
            assert_eq!(source_after(&samples, per_fold).sample_gaps, 10, "{per_fold}");
        }
    }

    #[test]
    fn workers_that_share_a_data_source_agree_with_one() {
        let lost = |n: &u32| n % 10 == 3;
        let mut state = SourceState::default();
        for block in 0..20u32 {
            for parity in [1, 0] {
                let mut news = SourceNews::NONE;
                (block * 200 + 1..=(block + 1) * 200)
                    .filter(|n| n % 2 == parity && !lost(n))
                    .for_each(|n| news.take(&pooled(n, 512, n * 500, n * 100)));
                state.fold(&news, 0, WINDOW);
            }
        }
        assert_eq!((state.samples, state.sample_gaps), (3_600, 400));
        assert_eq!(state.agent_drops, 3_999 * 100, "from the first sample to the last");
        assert_eq!(state.pool_packets, 3_999 * 500, "likewise");
        assert_eq!(state.pool_samples, 3_599, "all but the first");
    }

    #[test]
    fn rates_are_watched() {
        let mut samples: Vec<_> = (1..=100).map(|n| (n, 2_048, 0)).collect();
        samples.push((101, 4_096, 0));
        samples.push((102, 2_048, 0));
        samples.push((103, 2_048 * 17, 0));
        samples.push((104, 2_048 / 17, 0));
        samples.push((105, 2_048, 0));
        let state = source_after(&samples, 5);
        assert_eq!((state.rate_changes, state.implausible_rates), (5, 2));
        assert_eq!(state.median_rate, 2_048);
    }

    #[test]
    fn what_a_port_received_is_estimated_from_all_but_egress_samples() {
        let agents = Arc::new(Agents::new(2, 3));
        let mut desk = Desk::new(agents.clone());
        let mut policy = Policy::default();
        let framed = |number, ports: [u32; 2], length| {
            let fields = [number, 3, 100, 0, 0, ports[0], ports[1], 0];
            let mut sample = FlowSample::compact(fields);
            sample.sampled_ethernet = Some(crate::decode::SampledEthernet {
                frame_length_bytes: length,
                source: crate::ixp::Mac::BROADCAST,
                destination: crate::ixp::Mac::BROADCAST,
                ether_type: 0x0806,
            });
            sample
        };
        let estimates = |desk: &mut Desk| {
            desk.fold(0, true);
            let state = agents.list()[0].state().clone();
            let source = &state.sources[&DataSource { class: 0, index: 3 }];
            (source.estimated_bytes, source.estimated_packets)
        };
        let from = IpAddr::from([198, 51, 100, 1]);
        let take = |desk: &mut Desk, policy: &Policy, samples: &[FlowSample<'_>]| {
            let notes = desk.datagram(&header(1, 1), from, 0, policy);
            samples.iter().for_each(|sample| {
                notes.flow_sample(sample);
            });
            estimates(desk)
        };
        // At ingress; without a length; at egress; neither.
        let samples = [
            framed(1, [3, 4], 64),
            sample(2, 100, 0),
            framed(3, [9, 3], 5_000),
            framed(3, [9, 9], 5_000),
        ];
        assert_eq!(take(&mut desk, &policy, &samples), (506_400, 300));
        // By the rate that the configuration has.
        policy.other_agents.sampling_rate = Some(1_000);
        desk.set_policy(&policy);
        assert_eq!(take(&mut desk, &policy, &[framed(5, [3, 4], 64)]), (570_400, 1_300));
        // Absurd sums stop at the limit.
        policy.other_agents.sampling_rate = Some(u32::MAX);
        desk.set_policy(&policy);
        let absurd = [6, 7].map(|number| framed(number, [3, 4], u32::MAX));
        assert_eq!(take(&mut desk, &policy, &absurd).0, u64::MAX);
    }

    /// Folds samples of rate 100 with their pools, so many at a time.
    fn pools_after(samples: &[(u32, u32)], per_fold: usize) -> (u64, u64, u64) {
        let mut state = SourceState::default();
        for samples in samples.chunks(per_fold) {
            let mut news = SourceNews::after(state.sampling_rate, state.median_rate);
            for &(number, pool) in samples {
                news.take(&pooled(number, 100, pool, 0));
            }
            state.fold(&news, 0, WINDOW);
        }
        (state.pool_packets, state.pool_samples, state.pool_varied)
    }

    #[test]
    fn the_pool_grows_by_what_went_by_lost_samples_included() {
        for per_fold in [1, 3, 50] {
            // Every other sample is lost: 200 packets for each that came. The pool wraps.
            let lossy: Vec<_> =
                (1..=50u32).map(|n| (2 * n, (200 * n + n % 2).wrapping_sub(1_000))).collect();
            let (packets, samples, varied) = pools_after(&lossy, per_fold);
            assert_eq!((packets, samples), (200 * 49 - 1, 49), "{per_fold}");
            assert!(varied > 0, "{per_fold}");
        }
    }

    #[test]
    fn a_pool_made_up_from_the_numbers_does_not_vary() {
        for per_fold in [1, 3, 50] {
            let made_up: Vec<_> = (1..=50).filter(|n| n % 7 != 0).map(|n| (n, 100 * n)).collect();
            assert_eq!(pools_after(&made_up, per_fold), (4_900, 42, 0), "{per_fold}");
        }
    }

    #[test]
    fn a_restart_is_no_growth_of_the_pool() {
        let long: Vec<_> = (1..=10).map(|n| (9_000_000 + n, 7_000 + 101 * n)).collect();
        let short: Vec<_> = (1..=10).map(|n| (n, 101 * n)).collect();
        for per_fold in [1, 5, 10] {
            let (packets, samples, _) = pools_after(&[&long[..], &short].concat(), per_fold);
            assert_eq!(packets, 101 * samples, "{per_fold}");
            assert!((9..=18).contains(&samples), "{per_fold}: {samples}");
        }
        // The pool alone begins anew.
        assert_eq!(pools_after(&[(1, 5_000), (2, 0), (3, 99)], 1), (99, 1, 1));
    }

    fn header(agent: u8, number: u32) -> DatagramHeader {
        DatagramHeader {
            agent_address: [192, 0, 2, agent].into(),
            sub_agent_id: 0,
            sequence_number: number,
            uptime_millis: number,
            sample_count: 1,
        }
    }

    #[test]
    fn agents_and_sources_beyond_the_limit_are_counted_together() {
        let agents = Arc::new(Agents::new(2, 3));
        let mut desk = Desk::new(agents.clone());
        let policy = Policy::default();
        let source = IpAddr::from([198, 51, 100, 1]);
        for agent in 1..=4 {
            for index in 0..2 {
                let notes = desk.datagram(&header(agent, index + 1), source, 1_000, &policy);
                notes.flow_sample(&FlowSample::compact([1, index, 100, 0, 0, 3, 4, 0]));
            }
        }
        desk.fold(1_000, true);
        assert_eq!(agents.list().len(), 2);
        assert_eq!(agents.untracked_datagrams(), 4);
        let states: Vec<_> = agents.list().iter().map(|agent| agent.state().clone()).collect();
        assert_eq!(states.iter().map(|s| s.sources.len()).sum::<usize>(), 3);
        assert_eq!(states.iter().map(|s| s.untracked_samples).sum::<u64>(), 1);
        assert_eq!(agents.totals().flow_samples, 8, "nothing is lost in the total");
    }

    #[test]
    fn refused_senders_are_named_up_to_a_limit() {
        let agents = Arc::new(Agents::new(2, 3));
        let mut desk = Desk::new(agents.clone());
        for n in 0..2_000u32 {
            let [_, _, a, b] = n.to_be_bytes();
            desk.refused([10, 0, a, b].into(), Loss::WrongVersion);
            desk.refused([10, 0, 0, 0].into(), Loss::SourceRefused);
        }
        desk.fold(0, true);
        let refused = agents.refused();
        assert!(refused.senders.len() <= REFUSED_SENDERS_MAX);
        assert_eq!(refused.senders[&([10, 0, 0, 0].into(), Loss::SourceRefused)], 2_000);
        assert_eq!(refused.senders.values().sum::<u64>() + refused.others, 4_000);
        assert_eq!(agents.totals().losses.of(Loss::WrongVersion), 2_000);
    }

    #[test]
    fn a_second_sender_for_an_agent_is_noticed() {
        let agents = Arc::new(Agents::new(2, 3));
        let mut desk = Desk::new(agents.clone());
        let policy = Policy::default();
        desk.datagram(&header(1, 1), [198, 51, 100, 1].into(), 0, &policy);
        desk.datagram(&header(1, 2), [198, 51, 100, 2].into(), 0, &policy);
        desk.fold(0, true);
        let foreign = agents.list()[0].state().foreign;
        assert_eq!(foreign, Some(([198, 51, 100, 2].into(), 1)));
    }

    #[test]
    fn a_second_sender_is_reported_again_after_an_hour_and_only_while_it_goes_on() {
        let agents = Arc::new(Agents::new(2, 3));
        let mut desk = Desk::new(agents.clone());
        let policy = Policy::default();
        let mut reported = Vec::new();
        let half_hour = HOUR_MILLIS / 2;
        for turn in 0..10 {
            let stamp = turn * half_hour;
            let sender = if turn > 6 { 1 } else { 1 + u8::from(turn > 0) };
            desk.datagram(&header(1, 1), [198, 51, 100, sender].into(), stamp, &policy);
            desk.fold(stamp, true);
            let logged = agents.list()[0].state().foreign_logged_millis;
            reported.extend(logged.filter(|_| logged == Some(stamp)).map(|at| at / half_hour));
        }
        assert_eq!(reported, [1, 3, 5]);
    }

    /// Hears one datagram of each agent, with a sample of one data source.
    fn hear(desk: &mut Desk, agents: impl IntoIterator<Item = u8>, stamp_millis: u64) {
        for agent in agents {
            let header = header(agent, 1 + u32::try_from(stamp_millis / 1_000).unwrap());
            let from = IpAddr::from([198, 51, 100, 1]);
            desk.datagram(&header, from, stamp_millis, &Policy::default())
                .flow_sample(&sample(1, 100, 0));
        }
        desk.fold(stamp_millis, true);
    }

    fn last_octets(agents: &Agents) -> Vec<u8> {
        let octet = |agent: &Arc<Agent>| match agent.key.address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        agents.list().iter().map(octet).collect()
    }

    #[test]
    fn silent_agents_give_their_places_up_when_there_is_no_other_oldest_first() {
        let agents = Arc::new(Agents::new(4, 4));
        let mut desk = Desk::new(agents.clone());
        hear(&mut desk, [1, 2, 3, 4], 0);
        hear(&mut desk, [2], 10_000);
        hear(&mut desk, [1, 4], 20_000);
        // Nobody was silent for long enough.
        hear(&mut desk, [5], AGENT_SILENT_MILLIS - 1);
        assert_eq!(last_octets(&agents), [1, 2, 3, 4]);
        assert_eq!(agents.untracked_datagrams(), 1);
        // 3 was, and 2 was not.
        hear(&mut desk, [5, 6], AGENT_SILENT_MILLIS + 5_000);
        assert_eq!(last_octets(&agents), [1, 2, 4, 5]);
        assert_eq!((agents.untracked_datagrams(), agents.retired()), (2, 1));
        let five = agents.list()[3].state().clone();
        assert_eq!((five.totals.datagrams, five.sources.len()), (1, 1), "its source has a place");
        // Nobody asks for the places of the others, however long they are silent.
        hear(&mut desk, [5], 100 * AGENT_SILENT_MILLIS);
        assert_eq!(last_octets(&agents), [1, 2, 4, 5]);
        assert_eq!(agents.totals().datagrams, 11, "totals are kept");
        assert_eq!(agents.totals().flow_samples, 11);
    }

    #[test]
    fn an_agent_that_is_heard_again_by_a_desk_that_knew_it_asks_for_a_place() {
        let agents = Arc::new(Agents::new(2, 9));
        let mut desks = [Desk::new(agents.clone()), Desk::new(agents.clone())];
        hear(&mut desks[0], [1, 2], 0);
        let stamp = AGENT_SILENT_MILLIS + 1_000;
        hear(&mut desks[1], [3, 4], stamp);
        assert_eq!(last_octets(&agents), [3, 4]);
        // Both places are taken: counted, though not by agent.
        hear(&mut desks[0], [1, 2], stamp + 1_000);
        assert_eq!((last_octets(&agents), agents.untracked_datagrams()), (vec![3, 4], 2));
        hear(&mut desks[0], [2, 1], stamp + AGENT_SILENT_MILLIS);
        assert_eq!(last_octets(&agents), [1, 2]);
        let one = agents.list()[0].state().clone();
        assert_eq!((one.totals.datagrams, one.totals.flow_samples), (1, 1));
        assert_eq!(agents.totals().datagrams, 8);
    }

    #[test]
    fn invented_agents_take_neither_a_desks_memory_nor_the_sums() {
        let agents = Arc::new(Agents::new(8, 100));
        let mut desk = Desk::new(agents.clone());
        for turn in 0..100u64 {
            let first = u8::try_from(turn * 2).unwrap();
            hear(&mut desk, first..first + 8, turn * AGENT_SILENT_MILLIS);
            assert!(desk.notes.len() <= 1 + 8 && desk.index.len() <= 8, "{turn}");
            assert!(agents.list().len() <= 8, "{turn}");
        }
        assert_eq!(agents.totals().datagrams, 800);
        assert_eq!(agents.sources.load(Ordering::Relaxed), agents.list().len());
        let resets = agents.list().into_iter().map(|a| a.state().sequence.counts().resets);
        let (sums, _) = agents.sequence_counts();
        assert!(resets.sum::<u64>() < sums.resets, "those of the retired are kept");
    }
}
