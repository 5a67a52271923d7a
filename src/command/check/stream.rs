//! The part of `ixflow check` about the stream: a capture, or what comes in for some seconds, goes
//! the daemon's way, and what it shows is told. Nothing is written.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Report, running_ixflow};
use crate::agent::{Agents, quality};
use crate::clock::Clock;
use crate::command::run::policy;
use crate::control::config::Config;
use crate::finding::Level;
use crate::flush::Interval;
use crate::flush::backlog::WhenFull;
use crate::ixp::MacRecord;
use crate::pipeline::{Pipeline, PipelineError, Setup};
use crate::receive::capture::CaptureSource;
use crate::receive::{Source, UdpSockets};
use crate::resolve::{MacTable, Plan};
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
        Ok(state) => tell(&state, None, report),
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
        Ok(state) => {
            let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            tell(&state, Some(&(secs, shown.join(", "))), report);
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
) -> Result<Arc<State>, PipelineError> {
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
    let pipeline = Pipeline::start(sources, plan, setup, vec![Box::new(Nowhere)], &state)?;
    if let Some(patience) = patience {
        std::thread::sleep(patience);
        pipeline.epoch().stop();
    }
    pipeline.join()?;
    Ok(state)
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
