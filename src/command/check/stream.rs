//! The part of `ixflow check` about the stream: a capture, or what comes in for some seconds, goes
//! the daemon's way, and what it shows is told. Nothing is written.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Report, running_ixflow, some_of};
use crate::agent::{Agents, quality};
use crate::clock::Clock;
use crate::command::run::policy;
use crate::control::config::Config;
use crate::decode::ethernet::Frame;
use crate::decode::{CountersSample, Datagram, FlowSample, Visitor};
use crate::finding::Level;
use crate::flush::Interval;
use crate::flush::backlog::WhenFull;
use crate::ixp::{Mac, MacRecord};
use crate::loss::Loss;
use crate::pipeline::{Pipeline, PipelineError, Setup};
use crate::receive::capture::CaptureSource;
use crate::receive::{Batch, Received, Source, UdpSockets};
use crate::resolve::{MacTable, Plan, VXLAN_PORT};
use crate::sink::{Receipt, Sink, SinkError};
use crate::state::State;

const NAME: &str = "stream";

/// Counts nothing, writes nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn write(&mut self, _interval: &Interval) -> Result<Receipt, SinkError> {
        Ok(Receipt::default())
    }

    fn describe(&self) -> String {
        "nowhere".into()
    }
}

/// The MACs of the table that were the source of a sampled frame, or of one inside of it. What
/// others send is not kept, so that the table is the limit.
struct Senders<'a> {
    known: &'a BTreeSet<Mac>,
    seen: &'a mut BTreeSet<Mac>,
}

impl Senders<'_> {
    fn take(&mut self, source: Mac) {
        if self.known.contains(&source) {
            self.seen.insert(source);
        }
    }
}

impl Visitor for Senders<'_> {
    fn flow_sample(&mut self, sample: &FlowSample<'_>) {
        if let Some(ethernet) = sample.sampled_ethernet {
            self.take(ethernet.source);
        }
        let header = sample.raw_packet_header.filter(|raw| raw.protocol == 1);
        let Some(Ok(outer)) = header.map(|raw| Frame::parse(raw.header)) else { return };
        self.take(outer.source);
        if let Some(inner) = outer.inner(&[VXLAN_PORT]) {
            for header in [Some(inner.header), inner.behind_control_word].into_iter().flatten() {
                if let Ok(frame) = Frame::parse(header) {
                    self.take(frame.source);
                }
            }
        }
    }

    fn counters_sample(&mut self, _: &CountersSample) {}

    fn refused(&mut self, _: Loss, _: u64) {}
}

/// A source, and which MACs of the table its samples have as senders.
struct Watched<S> {
    source: S,
    known: Arc<BTreeSet<Mac>>,
    seen: Arc<Mutex<BTreeSet<Mac>>>,
}

impl<S: Source> Source for Watched<S> {
    fn receive(&mut self) -> io::Result<Batch> {
        let batch = self.source.receive()?;
        if let Batch::Datagrams { count, .. } = batch {
            // A set is whole after every statement.
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let mut senders = Senders { known: &self.known, seen: &mut seen };
            for index in 0..count {
                if let Ok(datagram) = Datagram::parse(self.source.datagram(index).payload) {
                    datagram.visit(&mut senders);
                }
            }
        }
        Ok(batch)
    }

    fn datagram(&self, index: usize) -> Received<'_> {
        self.source.datagram(index)
    }

    fn socket_drops(&self) -> Option<u64> {
        self.source.socket_drops()
    }
}

/// What came of a stream.
struct Heard {
    state: Arc<State>,
    /// MACs of the table that sent something.
    seen: BTreeSet<Mac>,
}

/// Takes captures through.
pub(super) fn capture(
    config: &Config,
    records: &[MacRecord],
    captures: &[PathBuf],
    port: u16,
    report: &mut Report,
) {
    let source = match CaptureSource::open(captures, Some(port)) {
        Ok(source) => source,
        Err(error) => {
            let remedy = "give a capture of UDP datagrams: tcpdump -w FILE udp port 6343";
            let text = [&error.to_string(), "nothing can be said of the stream", remedy];
            report.bad(Level::Fail, NAME, "", text);
            return;
        }
    };
    match run(config, records, vec![move || source], None) {
        Ok(heard) => {
            tell(&heard.state, None, report);
            tell_unseen(records, &heard, report);
        }
        Err(error) => failed(&error, report),
    }
}

/// Listens for some seconds in the daemon's place. A second socket beside the daemon's would take
/// datagrams away from it: where one listens, that is all that is said.
pub(super) fn listen(config: &Config, records: &[MacRecord], secs: u64, report: &mut Report) {
    if let Err(error) = UdpSockets::check_unused(&config.listen) {
        let who = match running_ixflow(config) {
            Some(process) => format!("ixflow listens already (process {process})"),
            None => error.to_string(),
        };
        let why = "two on one port would each hear a part of the datagrams";
        let remedy = "see the findings of the running daemon in its log and its live page, or \
                      take a capture (tcpdump -w FILE udp port 6343) and check that with --pcap \
                      FILE";
        report.bad(Level::Warn, NAME, "", [&who, why, remedy]);
        return;
    }
    let sockets = match UdpSockets::bind(&config.listen, config.receive_buffer_bytes) {
        Ok(sockets) => sockets,
        Err(error) => {
            let remedy = "see sflow_listen, and whether this user may listen there";
            let text = [&error.to_string(), "nothing can be received", remedy];
            report.bad(Level::Fail, NAME, "", text);
            return;
        }
    };
    let addresses: Vec<SocketAddr> = sockets.local_addresses();
    let clock = Clock::System;
    let source = move || sockets.into_source(clock);
    match run(config, records, vec![source], Some(Duration::from_secs(secs))) {
        Ok(heard) => {
            let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            tell(&heard.state, Some(&(secs, shown.join(", "))), report);
            tell_unseen(records, &heard, report);
        }
        Err(error) => failed(&error, report),
    }
}

fn failed(error: &PipelineError, report: &mut Report) {
    let why = "nothing can be said of the stream";
    report.bad(Level::Fail, NAME, "", [&error.to_string(), why, "check again"]);
}

fn run<S: Source>(
    config: &Config,
    records: &[MacRecord],
    sources: Vec<impl FnOnce() -> S + Send + 'static>,
    patience: Option<Duration>,
) -> Result<Heard, PipelineError> {
    // One that is too large was told above.
    let table = MacTable::build(records).map(|(table, _)| table).unwrap_or_default();
    let plan = Plan { table, policy: policy(config) };
    let agents = Agents::new(config.agents_max, config.data_sources_max);
    let state = Arc::new(State::new(agents, sources.len()));
    let setup = Setup {
        step_secs: config.flush_secs,
        from_millis: None,
        backlog_max: 2,
        when_full: WhenFull::Wait,
        keep: None,
    };
    let known: Arc<BTreeSet<Mac>> = Arc::new(records.iter().map(|record| record.mac).collect());
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let sources = sources
        .into_iter()
        .map(|source| {
            let (known, seen) = (known.clone(), seen.clone());
            move || Watched { source: source(), known, seen }
        })
        .collect();
    let pipeline = Pipeline::start(sources, plan, setup, vec![Box::new(Nowhere)], &state)?;
    if let Some(patience) = patience {
        std::thread::sleep(patience);
        pipeline.epoch().stop();
    }
    pipeline.join()?;
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Heard { state, seen })
}

/// `heard`: for how many seconds, and where.
fn tell(state: &State, heard: Option<&(u64, String)>, report: &mut Report) {
    let agents = state.agents.list();
    let totals = state.agents.totals();
    let last_millis = agents.iter().map(|agent| agent.state().last_seen_millis).max().unwrap_or(0);
    let how = match heard {
        Some((secs, addresses)) => format!(" in {secs} s on {addresses}"),
        None => String::new(),
    };
    let what = format!(
        "{} datagrams of {} agents{how}: {} flow samples, {} of them counted; {} counters samples",
        totals.datagrams,
        agents.len(),
        totals.flow_samples,
        totals.counted,
        totals.counters_samples
    );
    if totals.datagrams == 0 {
        let remedy = "see with tcpdump whether sFlow arrives: a firewall, sflow_listen, or the \
                      switches' collector";
        report.bad(Level::Fail, NAME, "", [&what, "nothing is counted", remedy]);
    } else if totals.counted == 0 {
        let losses: Vec<String> =
            totals.losses.iter().map(|(loss, count)| format!("{}={count}", loss.name())).collect();
        let what = format!("{what} ({})", losses.join(" "));
        let remedy = "docs/operations.md says what each reason means";
        report.bad(Level::Fail, NAME, "", [&what, "no graph has anything to show", remedy]);
    } else {
        report.ok(NAME, "", what);
    }
    state.refresh_findings();
    state.set_findings(quality::FINDINGS, quality::findings(&state.agents, last_millis));
    for finding in state.findings().iter() {
        report.add(finding);
    }
}

/// Flow samples for each MAC of the table from which on silence says something.
const SAMPLES_PER_MAC_MIN: u64 = 100;

/// Which MACs of the table sent nothing that was sampled. Few samples do not show everybody: it is
/// a warning where most of the table is silent in many.
fn tell_unseen(records: &[MacRecord], heard: &Heard, report: &mut Report) {
    const NAME: &str = "mac_not_seen";
    let totals = heard.state.agents.totals();
    let macs: BTreeSet<Mac> = records.iter().map(|record| record.mac).collect();
    if macs.is_empty() || totals.flow_samples == 0 {
        return;
    }
    let mut unseen: Vec<&MacRecord> =
        records.iter().filter(|record| !heard.seen.contains(&record.mac)).collect();
    unseen.sort_unstable_by_key(|record| (record.mac, record.vli));
    unseen.dedup_by_key(|record| record.mac);
    if unseen.is_empty() {
        report.ok(NAME, "", format!("all {} MACs of the table sent something", macs.len()));
        return;
    }
    let named = unseen.iter().map(|record| format!("{} (VLI {})", record.mac, record.vli.0));
    let what = format!(
        "{} of {} MACs of the table ({:.0} %) sent nothing in {} samples: {}",
        unseen.len(),
        macs.len(),
        unseen.len() as f64 / macs.len() as f64 * 100.0,
        totals.flow_samples,
        some_of(named)
    );
    let is_most = 2 * unseen.len() > macs.len();
    if is_most && totals.flow_samples >= SAMPLES_PER_MAC_MIN * macs.len() as u64 {
        let why = "the table is stale or of another exchange, or their ports are not sampled";
        let remedy = "compare the addresses with those of unknown_source, and see that sFlow is on \
                      at all peering ports";
        report.bad(Level::Warn, NAME, "", [&what, why, remedy]);
    } else {
        report.ok(NAME, "", what);
    }
}
