//! What is known of each agent: how much it sent, what was lost on the way and where, and how
//! far its sampling rates can be believed.
//!
//! Workers count in [`Desk`]s of their own, without locks, and fold them into the shared
//! [`Agents`] once a second. Datagrams of one agent may come through several workers; because
//! their sequence numbers are folded into one [`Sequence`], whose window is wider than what two
//! workers can be apart ([`Agents::heard_in_parts`]), the sums are exact all the same.

pub mod sequence;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use foldhash::fast::FixedState;

use self::sequence::{Mark, Sequence, SequenceCounts, WINDOW, WINDOW_SPREAD};
use crate::decode::{DataSource, DatagramHeader, FlowSample};
use crate::loss::{Loss, Losses};
use crate::resolve::{AgentPolicy, Policy};
use crate::table::{NO_KEY, Place, Table};

/// Default of the number of agents that are told apart.
pub const DEFAULT_AGENTS_MAX: usize = 4_096;

/// Default of the number of data sources that are told apart.
pub const DEFAULT_DATA_SOURCES_MAX: usize = 65_536;

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

/// Egress samples without one ingress sample after which an agent is taken to sample egress.
const EGRESS_EVIDENCE: u64 = 100;

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
        self.losses.merge(&other.losses);
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &Totals) -> Totals {
        Totals {
            datagrams: self.datagrams.saturating_sub(earlier.datagrams),
            flow_samples: self.flow_samples.saturating_sub(earlier.flow_samples),
            counters_samples: self.counters_samples.saturating_sub(earlier.counters_samples),
            counted: self.counted.saturating_sub(earlier.counted),
            losses: self.losses.since(&earlier.losses),
        }
    }
}

/// Tells the streams of datagrams apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AgentKey {
    /// The agent address in the datagram.
    pub address: IpAddr,
    /// The sub-agent id in the datagram.
    pub sub_agent_id: u32,
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
    drops: Option<u32>,
    highest: Option<u32>,
    rates: Vec<u32>,
    next_rate: usize,
    minute: u64,
    change_logged_millis: Option<u64>,
    implausible_logged_millis: Option<u64>,
}

/// What a desk saw of a data source since it was last folded.
#[derive(Clone, Copy, Debug)]
struct SourceNews {
    samples: u32,
    first: u32,
    highest: u32,
    missing: u32,
    first_drops: u32,
    drops: u32,
    sampling_rate: u32,
    rate_changes: u32,
    implausible_rates: u32,
    /// From the shared state.
    median_rate: u32,
    /// Whether `sampling_rate` is.
    implausible: bool,
    /// Whether the numbers began anew between the first sample and the last.
    restarted: bool,
}

/// Differences of cumulative or sequence fields above this are a restart, not an advance.
const FIELD_JUMP_MAX: u32 = 1 << 24;

impl SourceNews {
    const NONE: SourceNews = SourceNews {
        samples: 0,
        first: 0,
        highest: 0,
        missing: 0,
        first_drops: 0,
        drops: 0,
        sampling_rate: 0,
        rate_changes: 0,
        implausible_rates: 0,
        median_rate: 0,
        implausible: false,
        restarted: false,
    };

    #[inline]
    fn take(&mut self, sample: &FlowSample<'_>) {
        // What nearly every sample is: the next one, of the same rate, nothing dropped.
        if sample.sequence_number == self.highest.wrapping_add(1)
            && sample.drops == self.drops
            && sample.sampling_rate == self.sampling_rate
            && self.samples != 0
        {
            self.highest = sample.sequence_number;
            self.samples += 1;
            self.implausible_rates += u32::from(self.implausible);
        } else {
            self.take_unusual(sample);
        }
    }

    fn take_unusual(&mut self, sample: &FlowSample<'_>) {
        let number = sample.sequence_number;
        if self.samples == 0 {
            self.first = number;
            self.highest = number;
            self.first_drops = sample.drops;
            self.drops = sample.drops;
        } else {
            let ahead = number.wrapping_sub(self.highest);
            if ahead.wrapping_sub(1) < FIELD_JUMP_MAX {
                self.missing = self.missing.saturating_add(ahead - 1);
                self.highest = number;
            } else if self.highest.wrapping_sub(number) < WINDOW {
                self.missing = self.missing.saturating_sub(1);
            } else {
                self.highest = number;
                self.restarted = true;
            }
            if sample.drops.wrapping_sub(self.drops) < FIELD_JUMP_MAX {
                self.drops = sample.drops;
            }
        }
        if sample.sampling_rate != self.sampling_rate && self.sampling_rate != 0 {
            self.rate_changes += 1;
        }
        self.sampling_rate = sample.sampling_rate;
        self.implausible = is_implausible(self.sampling_rate, self.median_rate);
        self.samples += 1;
        self.implausible_rates += u32::from(self.implausible);
    }
}

/// The news of one data source; a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
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
    /// When it was first heard, in milliseconds since 1970.
    pub first_seen_millis: u64,
    /// When it was last heard.
    pub last_seen_millis: u64,
    foreign_logged: bool,
    egress_logged: bool,
}

impl AgentState {
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

/// Senders whose datagrams were refused.
#[derive(Clone, Default, Debug)]
pub struct Refused {
    /// Datagrams by sender and reason.
    pub senders: HashMap<(IpAddr, Loss), u64, FixedState>,
    /// Datagrams of senders beyond the limit.
    pub others: u64,
}

/// Every agent that was heard, up to a limit.
#[derive(Debug)]
pub struct Agents {
    agents: DashMap<AgentKey, Arc<Agent>>,
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

    /// Sums over all agents of what the numbers tell, and of the agents' own drops.
    pub fn sequence_counts(&self) -> (SequenceCounts, u64) {
        let mut sum = SequenceCounts::default();
        let mut agent_drops = 0;
        for agent in &self.agents {
            let state = agent.state();
            let counts = state.sequence.counts();
            sum.gaps += counts.gaps;
            sum.late += counts.late;
            sum.duplicates += counts.duplicates;
            sum.resets += counts.resets;
            agent_drops += state.agent_drops();
        }
        (sum, agent_drops)
    }

    fn find(&self, key: AgentKey, source: IpAddr, stamp_millis: u64) -> Option<Arc<Agent>> {
        if let Some(agent) = self.agents.get(&key) {
            return Some(agent.clone());
        }
        // Workers may pass the limit together, by one agent each.
        if self.agents.len() >= self.agents_max {
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
                first_seen_millis: stamp_millis,
                last_seen_millis: stamp_millis,
                foreign_logged: false,
                egress_logged: false,
            };
            Arc::new(Agent { key, state: Mutex::new(state) })
        });
        Some(agent.clone())
    }

    fn log(&self, stamp_millis: u64, line: impl FnOnce() -> String) {
        if lock(&self.lines).allows(stamp_millis) {
            tracing::warn!("{}", line());
        }
    }
}

/// Whether a sample was taken at ingress, at egress, or does not tell: its data source's index
/// equals the input, the output and not the input, or neither (a LAG member, a bridge).
#[inline]
fn direction(sample: &FlowSample<'_>) -> usize {
    // Only an index of class 0 is an ifIndex.
    if sample.data_source.class != 0 {
        UNKNOWN
    } else if sample.input.format == 0 && sample.data_source.index == sample.input.value {
        INGRESS
    } else if sample.output.format == 0 && sample.data_source.index == sample.output.value {
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
    /// What it sent.
    pub totals: Totals,
    directions: [u64; 3],
    pending: Vec<Mark>,
    sources: Table<SourcePlace>,
    foreign: Option<(IpAddr, u64)>,
    source_address: IpAddr,
    dirty: bool,
    stamp_millis: u64,
}

impl Notes {
    /// Notes a flow sample, and says where it was taken (an index of
    /// [`AgentState::directions`]).
    #[inline]
    pub fn flow_sample(&mut self, sample: &FlowSample<'_>) -> usize {
        self.totals.flow_samples += 1;
        let direction = direction(sample);
        self.directions[direction] += 1;
        if self.agent.is_some() {
            // There is no class of that number: such a source is taken for its neighbour.
            let source = sample.data_source.as_u64().min(NO_KEY - 1);
            self.sources.entry(source).news.take(sample);
        }
        direction
    }

    fn fold(&mut self, agents: &Agents) {
        lock(&agents.totals).merge(&self.totals);
        if let Some(agent) = self.agent.clone() {
            self.fold_into(&agent, agents);
        } else {
            *lock(&agents.untracked_datagrams) += self.totals.datagrams;
        }
        self.totals = Totals::default();
        self.directions = [0; 3];
        self.pending.clear();
        self.foreign = None;
        self.dirty = false;
    }

    fn fold_into(&mut self, agent: &Agent, agents: &Agents) {
        let stamp = self.stamp_millis;
        let address = agent.key.address;
        let mut state = agent.state();
        state.totals.merge(&self.totals);
        for (sum, news) in state.directions.iter_mut().zip(self.directions) {
            *sum += news;
        }
        for mark in &self.pending {
            state.sequence.take(*mark);
        }
        state.last_seen_millis = state.last_seen_millis.max(stamp);
        for place in self.sources.iter_mut() {
            let source = DataSource::from_u64(place.source);
            let news = &mut place.news;
            if news.samples == 0 {
                continue;
            }
            let known = state.sources.contains_key(&source);
            if !known && agents.sources.fetch_add(1, Ordering::Relaxed) >= agents.sources_max {
                agents.sources.fetch_sub(1, Ordering::Relaxed);
                state.untracked_samples += u64::from(news.samples);
            } else {
                let shared = state.sources.entry(source).or_default();
                let before = (shared.rate_changes, shared.implausible_rates);
                let old_rate = shared.sampling_rate;
                shared.fold(news, stamp, agents.sequence_window);
                let due = |logged: Option<u64>| logged.is_none_or(|at| stamp >= at + HOUR_MILLIS);
                if shared.rate_changes > before.0 && due(shared.change_logged_millis) {
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
                if shared.implausible_rates > before.1 && due(shared.implausible_logged_millis) {
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
            let SourceNews { sampling_rate, median_rate, .. } = *news;
            let implausible = is_implausible(sampling_rate, median_rate);
            *news = SourceNews { sampling_rate, median_rate, implausible, ..SourceNews::NONE };
        }
        if self.sources.len() > agents.sources_max {
            self.sources = Table::default();
        }
        if let Some((from, count)) = self.foreign {
            let sum = state.foreign.map_or(0, |(_, sum)| sum) + count;
            state.foreign = Some((from, sum));
            if !state.foreign_logged {
                state.foreign_logged = true;
                let first = state.source_address;
                agents.log(stamp, || {
                    format!(
                        "agent {address}: datagrams come from {from} and from {first}: two \
                         senders behind one agent address, or a forged one"
                    )
                });
            }
        }
        let [ingress, egress, _] = state.directions;
        if !state.egress_logged && ingress == 0 && egress >= EGRESS_EVIDENCE {
            state.egress_logged = true;
            let counted = self.policy.direction != crate::resolve::Direction::Ingress;
            if !counted {
                agents.log(stamp, || {
                    format!(
                        "agent {address} samples egress alone, which is not counted: let it \
                         sample ingress, or set direction = egress in <sflow_agent {address}>"
                    )
                });
            }
        }
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
    last: Option<(AgentKey, usize)>,
    /// Totals of datagrams without an agent: refused ones.
    nameless: Totals,
    refused: HashMap<(IpAddr, Loss), u64, FixedState>,
    folded_millis: u64,
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
            last: None,
            nameless: Totals::default(),
            refused: HashMap::default(),
            folded_millis: 0,
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
                    let notes = Notes::new(Some(agent), policy.agent(key.address), first_source);
                    self.notes.push(notes);
                    self.index.insert(key, self.notes.len() - 1);
                    self.notes.len() - 1
                }
                None => UNTRACKED,
            },
        };
        // Untracked agents share notes, but not a policy.
        if place == UNTRACKED {
            self.notes[UNTRACKED].policy = policy.agent(key.address);
        }
        self.last = Some((key, place));
        place
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
                notes.policy = policy.agent(agent.key.address);
            }
        }
        self.last = None;
    }

    /// Folds the notes into the registry once a second, and at once when `now`.
    pub fn fold(&mut self, stamp_millis: u64, now: bool) {
        if !now && stamp_millis.abs_diff(self.folded_millis) < 1_000 {
            return;
        }
        self.folded_millis = stamp_millis;
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
            policy,
            totals: Totals::default(),
            directions: [0; 3],
            pending: Vec::with_capacity(PENDING_MAX),
            sources: Table::default(),
            foreign: None,
            source_address,
            dirty: false,
            stamp_millis: 0,
        }
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

    fn sample(number: u32, rate: u32, drops: u32) -> FlowSample<'static> {
        let interface = |value| crate::decode::Interface { format: 0, value };
        FlowSample {
            sequence_number: number,
            data_source: DataSource { class: 0, index: 3 },
            sampling_rate: rate,
            sample_pool: 0,
            drops,
            input: interface(3),
            output: interface(4),
            raw_packet_header: None,
            sampled_ethernet: None,
            extended_switch: None,
        }
    }

    fn source_after(samples: &[(u32, u32, u32)], per_fold: usize) -> SourceState {
        let mut state = SourceState::default();
        let mut news = SourceNews::NONE;
        for (fold, samples) in samples.chunks(per_fold).enumerate() {
            for &(number, rate, drops) in samples {
                news.take(&sample(number, rate, drops));
            }
            state.fold(&news, fold as u64 * MINUTE_MILLIS, WINDOW);
            news = SourceNews {
                sampling_rate: news.sampling_rate,
                median_rate: state.median_rate,
                ..SourceNews::NONE
            };
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
                    .for_each(|n| news.take(&sample(n, 512, n * 100)));
                state.fold(&news, 0, WINDOW);
            }
        }
        assert_eq!((state.samples, state.sample_gaps), (3_600, 400));
        assert_eq!(state.agent_drops, 3_999 * 100, "from the first sample to the last");
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
                let mut sample = sample(1, 100, 0);
                sample.data_source.index = index;
                notes.flow_sample(&sample);
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
}
