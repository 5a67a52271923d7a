//! `ixflow replay`: captures through the same path, into RRD files or a table.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use super::log_to_stderr;
use super::run::{RunError, open_sinks, policy};
use crate::agent::Agents;
use crate::control::api::{ApiError, parse_mac_table};
use crate::control::config::{Config, ConfigError};
use crate::count::Traffic;
use crate::decode::ethernet::Frame;
use crate::decode::{CountersSample, Datagram, FlowSample, Visitor};
use crate::flush::Interval;
use crate::flush::backlog::WhenFull;
use crate::ixp::{InfrastructureId, IpProtocol, Mac, MacRecord, VlanTag, VliId};
use crate::loss::Loss;
use crate::pipeline::{Pipeline, PipelineError, Setup};
use crate::receive::capture::{CaptureError, CaptureSource, Skipped};
use crate::receive::{Batch, Received, Source};
use crate::resolve::{Conflict, Direction, MacTable, Plan, TableError};
use crate::sink::{Receipt, Sink, SinkError};
use crate::state::State;

/// (VLAN, MAC) entries of a capture that are told apart without a table.
const ENTRIES_MAX: usize = 1_000_000;

/// Arguments of `ixflow replay`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Captures (pcap, pcapng), in the order of their time
    #[arg(required = true, value_name = "FILE.pcap")]
    captures: Vec<PathBuf>,
    /// Settings, as for `ixflow run`; needed to write RRD files
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides a setting of the file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The MAC table, as IXP Manager's API answers it; without one, pairs are told by MAC
    #[arg(long, value_name = "FILE")]
    mac_table: Option<PathBuf>,
    /// Prints what each pair exchanged as a table, and writes no files
    #[arg(long)]
    matrix: bool,
    /// Prints the same as JSON lines
    #[arg(long)]
    json: bool,
    /// UDP port of the collector in the captures
    #[arg(long, default_value_t = 6343)]
    port: u16,
    /// Samples of which direction count, for all agents
    #[arg(long, value_name = "ingress|egress|both")]
    direction: Option<Direction>,
}

/// The replay could not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A capture.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The MAC table's file.
    #[error("--mac-table {}: {source}", path.display())]
    TableFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The MAC table's contents.
    #[error("--mac-table {}: {source}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ApiError,
    },
    /// The MAC table is too large.
    #[error(transparent)]
    TableSize(#[from] TableError),
    /// RRD files are named by VLI.
    #[error(
        "RRD files need a MAC table: give --mac-table FILE (the answer of IXP Manager's API), or \
         --matrix to print pairs by MAC"
    )]
    NoTable,
    /// The sink.
    #[error(transparent)]
    Sink(#[from] RunError),
    /// The data path.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Standard output is gone.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Replays the captures.
pub fn run(arguments: &Arguments) -> Result<(), ReplayError> {
    log_to_stderr(false);
    let print = arguments.matrix || arguments.json;
    if arguments.mac_table.is_none() && !print {
        return Err(ReplayError::NoTable);
    }
    let config = if arguments.config.is_some() || !print {
        Config::load(arguments.config.as_deref(), &arguments.set)?
    } else {
        Config::from_text("--set", "<ixp>\n</ixp>\n", &arguments.set)?
    };
    let mut policy = policy(&config);
    if let Some(direction) = arguments.direction {
        policy.other_agents.direction = direction;
        for agent in policy.agents.values_mut() {
            agent.direction = direction;
        }
    }

    let records = match &arguments.mac_table {
        Some(path) => {
            let json = std::fs::read(path)
                .map_err(|source| ReplayError::TableFile { path: path.clone(), source })?;
            let table = parse_mac_table(&json, config.infrastructure)
                .map_err(|source| ReplayError::Table { path: path.clone(), source })?;
            for refused in &table.refused {
                tracing::warn!(
                    "{}: {}: expected {}",
                    path.display(),
                    refused.path,
                    refused.expected
                );
            }
            table.records
        }
        None => macs_seen(&arguments.captures, arguments.port)?,
    };
    let (table, conflicts) = MacTable::build(&records)?;
    for conflict in conflicts {
        // Without a table, VLANs and MACs are whatever the captures hold.
        if arguments.mac_table.is_some() || !matches!(conflict, Conflict::TwoLans { .. }) {
            tracing::warn!("{conflict}");
        }
    }

    let matrix = Arc::new(Mutex::new(BTreeMap::new()));
    let (sinks, _tree_lock): (Vec<Box<dyn Sink>>, _) = if print {
        (vec![Box::new(MatrixSink(matrix.clone()))], None)
    } else {
        open_sinks(&config, &Arc::new(AtomicBool::new(false)))?
    };
    let capture = Arc::new(Mutex::new(Captured::default()));
    let source = Watched {
        source: CaptureSource::open(&arguments.captures, Some(arguments.port))?,
        captured: capture.clone(),
    };
    let state = Arc::new(State::new(Agents::new(config.agents_max, config.data_sources_max), 1));
    let setup = Setup {
        step_secs: config.flush_secs,
        from_millis: None,
        backlog_max: 2,
        when_full: WhenFull::Wait,
        keep: None,
    };
    Pipeline::start(vec![move || source], Plan { table, policy }, setup, sinks, &state)?.join()?;

    let captured = std::mem::take(&mut *capture.lock().unwrap_or_else(PoisonError::into_inner));
    let names = Names::new(&records, arguments.mac_table.is_none());
    let matrix = matrix.lock().unwrap_or_else(PoisonError::into_inner);
    let out = &mut io::BufWriter::new(io::stdout().lock());
    let printed = if arguments.json {
        print_json(out, &matrix, &names, &state, captured.skipped)
    } else {
        let matrix = if arguments.matrix { print_matrix(out, &matrix, &names) } else { Ok(()) };
        matrix.and_then(|()| print_totals(out, &state, captured.skipped))
    };
    match printed.and_then(|()| out.flush()) {
        // Whoever reads has seen enough, as head(1).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    match captured.failure {
        Some(failure) => Err(failure.into()),
        None => Ok(()),
    }
}

/// What only the capture itself can tell, once the pipeline has used it up.
#[derive(Default)]
struct Captured {
    skipped: Skipped,
    failure: Option<CaptureError>,
}

struct Watched {
    source: CaptureSource,
    captured: Arc<Mutex<Captured>>,
}

impl Source for Watched {
    fn receive(&mut self) -> io::Result<Batch> {
        let batch = self.source.receive()?;
        if batch == Batch::End {
            let mut captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
            captured.skipped = self.source.skipped();
            captured.failure = captured.failure.take().or(self.source.failure());
        }
        Ok(batch)
    }

    fn datagram(&self, index: usize) -> Received<'_> {
        self.source.datagram(index)
    }
}

/// Sums up what each pair exchanged over the whole replay.
struct MatrixSink(Arc<Mutex<BTreeMap<(VliId, VliId), Traffic>>>);

impl Sink for MatrixSink {
    fn write(&mut self, interval: &Interval) -> Result<Receipt, SinkError> {
        let mut matrix = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for pair in &interval.pairs {
            matrix.entry((pair.source, pair.destination)).or_default().merge(&pair.traffic);
        }
        Ok(Receipt::default())
    }

    fn describe(&self) -> String {
        "a matrix".into()
    }
}

/// Every (VLAN, MAC) of the captures, each as a VLI of its own.
fn macs_seen(captures: &[PathBuf], port: u16) -> Result<Vec<MacRecord>, ReplayError> {
    struct Seen(BTreeSet<(VlanTag, Mac)>);
    impl Visitor for Seen {
        fn flow_sample(&mut self, sample: &FlowSample<'_>) {
            let switch = sample.extended_switch;
            let switch = switch.map_or([VlanTag::NONE; 2], |switch| {
                [VlanTag::new(switch.source_vlan), VlanTag::new(switch.destination_vlan)]
            });
            let frame = sample.raw_packet_header.and_then(|raw| Frame::parse(raw.header).ok());
            let vlan = frame.as_ref().and_then(|frame| frame.tags().next());
            let vlan = vlan.or_else(|| switch.into_iter().find(|vlan| vlan.is_some()));
            let macs = match (&frame, &sample.sampled_ethernet) {
                (Some(frame), _) => [frame.source, frame.destination],
                (None, Some(ethernet)) => [ethernet.source, ethernet.destination],
                (None, None) => return,
            };
            for mac in macs {
                if !mac.is_group() && self.0.len() < ENTRIES_MAX {
                    self.0.insert((vlan.unwrap_or(VlanTag::NONE), mac));
                }
            }
        }

        fn counters_sample(&mut self, _: &CountersSample) {}

        fn refused(&mut self, _: Loss, _: u64) {}
    }

    let mut seen = Seen(BTreeSet::new());
    let mut source = CaptureSource::open(captures, Some(port))?;
    while let Batch::Datagrams { count, .. } = source.receive()? {
        for index in 0..count {
            if let Ok(datagram) = Datagram::parse(source.datagram(index).payload) {
                datagram.visit(&mut seen);
            }
        }
    }
    let records = (1..).zip(seen.0).map(|(vli, (vlan, mac))| MacRecord {
        infrastructure: InfrastructureId(0),
        vlan,
        mac,
        vli: VliId(vli),
    });
    Ok(records.collect())
}

/// What a VLI is called in the output.
struct Names {
    vlans: BTreeMap<VliId, VlanTag>,
    /// Where VLIs are made up.
    macs: Option<BTreeMap<VliId, Mac>>,
}

impl Names {
    fn new(records: &[MacRecord], by_mac: bool) -> Names {
        let macs = || records.iter().map(|record| (record.vli, record.mac)).collect();
        Names {
            vlans: records.iter().map(|record| (record.vli, record.vlan)).collect(),
            macs: by_mac.then(macs),
        }
    }

    fn vlan(&self, vli: VliId) -> VlanTag {
        self.vlans.get(&vli).copied().unwrap_or(VlanTag::NONE)
    }

    fn name(&self, vli: VliId) -> String {
        match &self.macs {
            Some(macs) => macs.get(&vli).map(ToString::to_string).unwrap_or_default(),
            None => vli.0.to_string(),
        }
    }
}

fn print_matrix(
    out: &mut impl Write,
    matrix: &BTreeMap<(VliId, VliId), Traffic>,
    names: &Names,
) -> io::Result<()> {
    let who = if names.macs.is_some() { "MAC" } else { "VLI" };
    writeln!(
        out,
        "{:>4}  {:<17}  {:<17}  {:<5} {:>9} {:>15} {:>19} {:>8}",
        "VLAN",
        format!("source {who}"),
        format!("destination {who}"),
        "IP",
        "samples",
        "packets",
        "bytes",
        "+- %"
    )?;
    for (&(source, destination), traffic) in matrix {
        for protocol in IpProtocol::ALL {
            let p = protocol as usize;
            if traffic.samples[p] > 0 {
                writeln!(
                    out,
                    "{:>4}  {:<17}  {:<17}  {:<5} {:>9} {:>15} {:>19} {:>8.1}",
                    names.vlan(source).to_string(),
                    names.name(source),
                    names.name(destination),
                    protocol.name(),
                    traffic.samples[p],
                    traffic.packets[p],
                    traffic.bytes[p],
                    traffic.error_percent(protocol),
                )?;
            }
        }
    }
    writeln!(out)
}

fn print_totals(out: &mut impl Write, state: &State, skipped: Skipped) -> io::Result<()> {
    let totals = state.agents.totals();
    let (sequence, agent_drops) = state.agents.sequence_counts();
    let mut line = |name: &str, count: u64| writeln!(out, "{name:<38} {count:>12}");
    line("packets in the captures", skipped.packets)?;
    for (name, count) in skipped_kinds(skipped) {
        line(&format!("  {name}"), count)?;
    }
    line("datagrams", totals.datagrams)?;
    line("flow samples", totals.flow_samples)?;
    line("counters samples", totals.counters_samples)?;
    line("counted", totals.counted)?;
    for (loss, count) in totals.losses.iter() {
        line(&format!("  not counted: {}", loss.name()), count)?;
    }
    line("sequence gaps (datagrams)", sequence.gaps)?;
    line("agent drops (samples)", agent_drops)?;
    let write = state.write();
    if write.updates > 0 {
        line("updates written", write.updates)?;
        line("files created", write.created)?;
        line("updates refused", write.refused)?;
    }
    Ok(())
}

fn skipped_kinds(skipped: Skipped) -> impl Iterator<Item = (&'static str, u64)> {
    [
        ("no sFlow", skipped.other),
        ("fragments", skipped.fragments),
        ("cut off", skipped.truncated),
        ("unknown link layer", skipped.link_layer),
    ]
    .into_iter()
    .filter(|&(_, count)| count > 0)
}

fn print_json(
    out: &mut impl Write,
    matrix: &BTreeMap<(VliId, VliId), Traffic>,
    names: &Names,
    state: &State,
    skipped: Skipped,
) -> io::Result<()> {
    let (source_key, destination_key) = match names.macs {
        Some(_) => ("source_mac", "destination_mac"),
        None => ("source_vli", "destination_vli"),
    };
    let name = |vli: VliId| match names.macs {
        Some(_) => serde_json::Value::from(names.name(vli)),
        None => vli.0.into(),
    };
    for (&(source, destination), traffic) in matrix {
        for protocol in IpProtocol::ALL {
            let p = protocol as usize;
            if traffic.samples[p] > 0 {
                let line = serde_json::json!({
                    "vlan": names.vlan(source).as_u16(),
                    source_key: name(source),
                    destination_key: name(destination),
                    "protocol": protocol.name(),
                    "samples": traffic.samples[p],
                    "packets": traffic.packets[p],
                    "bytes": traffic.bytes[p],
                    "error_percent": traffic.error_percent(protocol),
                });
                writeln!(out, "{line}")?;
            }
        }
    }
    let totals = state.agents.totals();
    for (loss, count) in totals.losses.iter() {
        writeln!(out, "{}", serde_json::json!({ "not_counted": loss.name(), "count": count }))?;
    }
    for (kind, count) in skipped_kinds(skipped) {
        writeln!(out, "{}", serde_json::json!({ "skipped": kind, "count": count }))?;
    }
    let (sequence, agent_drops) = state.agents.sequence_counts();
    let line = serde_json::json!({
        "datagrams": totals.datagrams,
        "flow_samples": totals.flow_samples,
        "counters_samples": totals.counters_samples,
        "counted": totals.counted,
        "sequence_gaps": sequence.gaps,
        "agent_drops": agent_drops,
    });
    writeln!(out, "{line}")
}
