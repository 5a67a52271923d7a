//! What every view renders: the state at one moment, whole and of bounded size.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use serde::{Serialize, Serializer};

use super::{State, TableState, WriteState, lock};
use crate::agent::sequence::SequenceCounts;
use crate::agent::{Agent, AgentKey, EGRESS, INGRESS, Totals, UNKNOWN};
use crate::finding::Finding;
use crate::loss::{Loss, Losses};
use crate::sightings::UnknownMac;

/// Agents that have figures of their own in a status: those that were heard first, so that none
/// has to leave for another one. The others are summed up.
pub const AGENTS_SHOWN_MAX: usize = 512;

/// Findings in a status, the worst.
pub const FINDINGS_SHOWN_MAX: usize = 200;

/// Unknown addresses in a status.
pub const UNKNOWN_MACS_SHOWN_MAX: usize = 100;

/// Rates are taken over so long, if somebody looked so often.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Counts behind the rates, one a look, at the most.
const LOOKS_MAX: usize = 12;

/// What the daemon knows of itself at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The version of ixflow.
    pub version: &'static str,
    /// The moment, in milliseconds since 1970.
    pub now_millis: u64,
    /// Seconds since the start.
    pub uptime_secs: u64,
    /// UDP addresses on which sFlow is received; none before the sockets are bound.
    pub listening: Vec<SocketAddr>,
    /// Sockets are bound, and there is a MAC table.
    pub ready: bool,
    /// Receiving threads.
    pub workers: usize,
    /// Everything that was received.
    pub received: Received,
    /// Flow samples a second over the last seconds; none before the second look.
    pub flow_samples_per_sec: Option<f64>,
    /// Datagrams that the kernel dropped, where it says so.
    pub socket_drops: Option<u64>,
    /// Datagrams of agents beyond `sflow_agents_max`.
    pub untracked_datagrams: u64,
    /// The MAC table.
    pub table: TableState,
    /// What was written.
    pub write: WriteState,
    /// Agents that were heard, up to `sflow_agents_max`.
    pub agents_known: usize,
    /// The first [`AGENTS_SHOWN_MAX`] of them, by address.
    pub agents: Vec<AgentStatus>,
    /// The sum of the others.
    pub other_agents: Received,
    /// What looks wrong, worst first.
    pub findings: Vec<Finding>,
    /// Addresses that the MAC table does not know, those with most packets.
    pub unknown_macs: Vec<UnknownMac>,
    /// Samples of unknown addresses beyond what is kept.
    pub unknown_macs_others: u64,
}

/// What came, and what became of it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Received {
    /// Datagrams, refused ones included where they are not told by agent.
    pub datagrams: u64,
    /// Flow samples that could be read.
    pub flow_samples: u64,
    /// Counters samples.
    pub counters_samples: u64,
    /// Flow samples that were counted for a pair.
    pub counted: u64,
    /// Those of them whose VLAN was inferred, because the sample names none.
    pub vlan_inferred: u64,
    /// What was not, by reason; reasons that did not occur are left out.
    #[serde(serialize_with = "losses_by_name")]
    pub losses: Losses,
    /// Datagrams missing at the moment: `sequence_skipped - sequence_late`.
    pub sequence_gaps: u64,
    /// Datagrams that were missing when their successors came.
    pub sequence_skipped: u64,
    /// Those of them that came in the end.
    pub sequence_late: u64,
    /// Datagrams that came twice.
    pub sequence_duplicates: u64,
    /// Restarts of agents, and senders that share an agent address.
    pub sequence_restarts: u64,
    /// Samples that agents dropped themselves.
    pub agent_drops: u64,
}

/// One agent.
#[derive(Clone, Debug, Serialize)]
pub struct AgentStatus {
    /// The agent address in the datagrams.
    pub address: IpAddr,
    /// The sub-agent id.
    pub sub_agent_id: u32,
    /// Address that sent for it first.
    pub source_address: IpAddr,
    /// What it sent.
    pub received: Received,
    /// Flow samples a second over the last seconds; none before the second look.
    pub flow_samples_per_sec: Option<f64>,
    /// Samples taken at ingress.
    pub ingress: u64,
    /// Samples taken at egress.
    pub egress: u64,
    /// Samples that do not tell.
    pub direction_unknown: u64,
    /// Data sources that are told apart.
    pub data_sources: usize,
    /// Their sampling rates, lowest and highest; 0 where there is none.
    pub sampling_rates: [u32; 2],
    /// Its samples held against its counters; none while there is nothing to compare.
    pub quality: Option<QualityStatus>,
    /// When it was first heard, in milliseconds since 1970.
    pub first_seen_millis: u64,
    /// When it was last heard.
    pub last_seen_millis: u64,
}

/// What an agent's samples stand for, over what it counted at the same ports in the same time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct QualityStatus {
    /// Estimated over counted: 1 is right.
    pub ratio: f64,
    /// The error of the ratio, in percent, in 95 of 100 cases.
    pub error_percent: f64,
}

fn losses_by_name<S: Serializer>(losses: &Losses, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(losses.iter().map(|(loss, count)| (loss.name(), count)))
}

impl Received {
    fn new(totals: &Totals, sequence: SequenceCounts, agent_drops: u64) -> Received {
        Received {
            datagrams: totals.datagrams,
            flow_samples: totals.flow_samples,
            counters_samples: totals.counters_samples,
            counted: totals.counted,
            vlan_inferred: totals.vlan_inferred,
            losses: totals.losses.clone(),
            sequence_gaps: sequence.gaps,
            // A late one takes one off the gaps: the sum never falls.
            sequence_skipped: sequence.gaps + sequence.late,
            sequence_late: sequence.late,
            sequence_duplicates: sequence.duplicates,
            sequence_restarts: sequence.resets,
            agent_drops,
        }
    }

    fn merge(&mut self, other: &Received) {
        self.datagrams += other.datagrams;
        self.flow_samples += other.flow_samples;
        self.counters_samples += other.counters_samples;
        self.counted += other.counted;
        self.vlan_inferred += other.vlan_inferred;
        self.losses.merge(&other.losses);
        self.sequence_gaps += other.sequence_gaps;
        self.sequence_skipped += other.sequence_skipped;
        self.sequence_late += other.sequence_late;
        self.sequence_duplicates += other.sequence_duplicates;
        self.sequence_restarts += other.sequence_restarts;
        self.agent_drops += other.agent_drops;
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &Received) -> Received {
        Received {
            datagrams: self.datagrams.saturating_sub(earlier.datagrams),
            flow_samples: self.flow_samples.saturating_sub(earlier.flow_samples),
            counters_samples: self.counters_samples.saturating_sub(earlier.counters_samples),
            counted: self.counted.saturating_sub(earlier.counted),
            vlan_inferred: self.vlan_inferred.saturating_sub(earlier.vlan_inferred),
            losses: self.losses.since(&earlier.losses),
            sequence_gaps: self.sequence_gaps.saturating_sub(earlier.sequence_gaps),
            sequence_skipped: self.sequence_skipped.saturating_sub(earlier.sequence_skipped),
            sequence_late: self.sequence_late.saturating_sub(earlier.sequence_late),
            sequence_duplicates: self
                .sequence_duplicates
                .saturating_sub(earlier.sequence_duplicates),
            sequence_restarts: self.sequence_restarts.saturating_sub(earlier.sequence_restarts),
            agent_drops: self.agent_drops.saturating_sub(earlier.agent_drops),
        }
    }

    /// Everything that was not counted: datagrams and samples.
    pub fn lost(&self) -> u64 {
        Loss::ALL.iter().map(|&loss| self.losses.of(loss)).sum()
    }
}

impl AgentStatus {
    fn of(agent: &Agent) -> AgentStatus {
        let state = agent.state();
        let rates = state.sources.values().map(|source| source.sampling_rate);
        let lowest = rates.clone().min().unwrap_or(0);
        AgentStatus {
            address: agent.key.address,
            sub_agent_id: agent.key.sub_agent_id,
            source_address: state.source_address,
            received: Received::new(&state.totals, state.sequence.counts(), state.agent_drops()),
            flow_samples_per_sec: None,
            ingress: state.directions[INGRESS],
            egress: state.directions[EGRESS],
            direction_unknown: state.directions[UNKNOWN],
            data_sources: state.sources.len(),
            sampling_rates: [lowest, rates.max().unwrap_or(0)],
            quality: None,
            first_seen_millis: state.first_seen_millis,
            last_seen_millis: state.last_seen_millis,
        }
    }

    fn key(&self) -> AgentKey {
        AgentKey { address: self.address, sub_agent_id: self.sub_agent_id }
    }
}

fn quality(agent: &Agent) -> Option<QualityStatus> {
    let quality = agent.quality();
    let ratio = quality.ratio?;
    Some(QualityStatus { ratio, error_percent: quality.error_percent })
}

impl Status {
    pub(super) fn of(state: &State, now_millis: u64, rates: Option<&mut Rates>) -> Status {
        let totals = state.agents.totals();
        let list = state.agents.list();
        let agents_known = list.len();
        let mut agents: Vec<(AgentStatus, Arc<Agent>)> =
            list.into_iter().map(|agent| (AgentStatus::of(&agent), agent)).collect();
        // Those of agents that gave their places up are in these sums.
        let (sequence, agent_drops) = state.agents.sequence_counts();
        let received = Received::new(&totals, sequence, agent_drops);

        agents.sort_by_key(|(agent, _)| (agent.first_seen_millis, agent.key()));
        let mut other_agents = Received::default();
        for (other, _) in agents.drain(AGENTS_SHOWN_MAX.min(agents.len())..) {
            other_agents.merge(&other.received);
        }
        // A walk over the ports of those that are shown.
        let mut agents: Vec<AgentStatus> = agents
            .into_iter()
            .map(|(status, agent)| AgentStatus { quality: quality(&agent), ..status })
            .collect();
        agents.sort_by_key(AgentStatus::key);

        let mut findings = state.findings().clone();
        findings.sort_by_key(|finding| Reverse(finding.level));
        findings.truncate(FINDINGS_SHOWN_MAX);
        let (unknown_macs, unknown_macs_others) = state.unknown_macs(UNKNOWN_MACS_SHOWN_MAX);
        // Each lock is let go before the next one is taken.
        let ready = state.is_ready();
        let listening = lock(&state.listening).clone();
        let table = state.table().clone();
        let write = state.write().clone();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION"),
            now_millis,
            uptime_secs: state.started.elapsed().as_secs(),
            listening,
            ready,
            workers: state.workers.len(),
            received,
            flow_samples_per_sec: None,
            socket_drops: state.socket_drops(),
            untracked_datagrams: state.agents.untracked_datagrams(),
            table,
            write,
            agents_known,
            agents,
            other_agents,
            findings,
            unknown_macs,
            unknown_macs_others,
        };
        if let Some(rates) = rates {
            rates.fill(&mut status, Instant::now());
        }
        status
    }

    /// Seconds since the portal gave the table; none while there is no table.
    pub fn table_age_secs(&self) -> Option<u64> {
        let is_there = !self.table.source.is_empty();
        is_there.then(|| (self.now_millis / 1_000).saturating_sub(self.table.fetched_secs))
    }
}

/// Counts of the last looks, of which rates are made.
#[derive(Default, Debug)]
pub(super) struct Rates {
    looks: VecDeque<Look>,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    flow_samples: u64,
    agents: HashMap<AgentKey, u64, FixedState>,
}

impl Rates {
    fn fill(&mut self, status: &mut Status, now: Instant) {
        let look = Look {
            at: now,
            flow_samples: status.received.flow_samples,
            agents: status
                .agents
                .iter()
                .map(|agent| (agent.key(), agent.received.flow_samples))
                .collect(),
        };
        // The oldest within the window, or the last one if nobody has looked for longer.
        while self.looks.len() > 1
            && (self.looks.len() >= LOOKS_MAX
                || self.looks.front().is_some_and(|look| now - look.at > RATE_WINDOW))
        {
            self.looks.pop_front();
        }
        if let Some(before) = self.looks.front() {
            let secs = (now - before.at).as_secs_f64();
            let rate = |now: u64, before: u64| {
                (secs > 0.0).then(|| now.saturating_sub(before) as f64 / secs)
            };
            status.flow_samples_per_sec = rate(look.flow_samples, before.flow_samples);
            for agent in &mut status.agents {
                // One that was not there has sent all that it has since.
                let earlier = before.agents.get(&agent.key()).copied().unwrap_or(0);
                agent.flow_samples_per_sec = rate(agent.received.flow_samples, earlier);
            }
        }
        self.looks.push_back(look);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Agents, Desk};
    use crate::decode::DatagramHeader;
    use crate::resolve::Policy;

    fn hear(desk: &mut Desk, number: u32, stamp_millis: u64, datagrams: u32) {
        let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
        for sequence_number in 0..datagrams {
            let header = DatagramHeader {
                agent_address: address,
                sub_agent_id: 0,
                sequence_number,
                uptime_millis: 0,
                sample_count: 0,
            };
            let notes = desk.datagram(&header, address, stamp_millis, &Policy::default());
            notes.totals.flow_samples += 1;
            notes.totals.losses.count(Loss::NotIp);
        }
        desk.fold(stamp_millis, true);
    }

    #[test]
    fn no_agent_leaves_and_none_is_lost() {
        let state = State::new(Agents::new(10_000, 10_000), 1);
        let mut desk = Desk::new(state.agents.clone());
        let shown = u32::try_from(AGENTS_SHOWN_MAX).unwrap();
        // The highest addresses are heard first: they keep their places.
        for number in (100..100 + shown).rev() {
            hear(&mut desk, number, 1_000, 1);
        }
        let before = state.status_now(2_000);
        assert_eq!(before.other_agents, Received::default());
        for number in 0..100 {
            hear(&mut desk, number, 3_000, 2);
        }
        let after = state.status_now(4_000);
        assert_eq!(after.agents_known, AGENTS_SHOWN_MAX + 100);
        let keys = |status: &Status| status.agents.iter().map(AgentStatus::key).collect::<Vec<_>>();
        assert_eq!(keys(&after), keys(&before));
        assert_eq!(after.other_agents.flow_samples, 200);
        let shown: u64 = after.agents.iter().map(|agent| agent.received.flow_samples).sum();
        assert_eq!(shown + 200, after.received.flow_samples);
        assert_eq!(after.other_agents.lost(), 200);
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let state = State::new(Agents::new(10, 10), 1);
        let mut desk = Desk::new(state.agents.clone());
        let mut rates = Rates::default();
        let start = Instant::now();
        let mut look = |secs: u64| {
            let mut status = state.status_now(0);
            rates.fill(&mut status, start + Duration::from_secs(secs));
            (status.flow_samples_per_sec, status.agents.first().map(|a| a.flow_samples_per_sec))
        };
        assert_eq!(look(0), (None, None));
        hear(&mut desk, 1, 1_000, 40);
        assert_eq!(look(4), (Some(10.0), Some(Some(10.0))));
        // Nobody looked for a minute: the rate is that of the minute.
        hear(&mut desk, 1, 2_000, 120);
        assert_eq!(look(64), (Some(2.0), Some(Some(2.0))));
        // What is older than the window no longer counts.
        assert_eq!(look(66), (Some(0.0), Some(Some(0.0))));
    }

    #[test]
    fn ready_with_sockets_and_table() {
        let state = State::new(Agents::new(1, 1), 1);
        assert!(!state.status_now(0).ready);
        state.set_listening(vec!["127.0.0.1:6343".parse().unwrap()]);
        assert!(!state.status_now(0).ready);
        assert_eq!(state.status_now(0).table_age_secs(), None);
        *state.table() =
            TableState { source: "x".into(), fetched_secs: 7, macs: 1, ..TableState::default() };
        assert!(state.status_now(0).ready);
        assert_eq!(state.status_now(9_999).table_age_secs(), Some(2));
    }
}
