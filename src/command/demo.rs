//! `ixflow demo`: a day and then live traffic of a simulated exchange, and graphs to look at.
//!
//! The path is the daemon's, in one [`Pipeline`] from the first datagram to the last: hours of
//! driven time come out of memory as fast as they can be written, until they have caught up with
//! the clock of the wall; from then on the same fabric speaks over UDP. There is no seam between
//! the two, because nothing is restarted.
//!
//! What the simulator said is then compared with what the RRD files hold, byte by byte, before
//! anything is drawn.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Sender, bounded};
use rrd::error::RrdError;

use super::simulate::DEFAULT_API_KEY;
use crate::agent::{Agents, DEFAULT_AGENTS_MAX, DEFAULT_DATA_SOURCES_MAX};
use crate::clock::Clock;
use crate::control::web::{self, Listeners, Web, WebError};
use crate::flush::backlog::WhenFull;
use crate::ixp::{IpProtocol, Unit};
use crate::pipeline::{Pipeline, PipelineError, Setup};
use crate::receive::{Batch, ListenError, Received, Source, UdpSockets, UdpSource};
use crate::resolve::{MacTable, Plan, Policy, TableError};
use crate::simulate::send::{Limit, Pace, send};
use crate::simulate::{DEFAULT_FABRIC, Fabric, FabricError, Generator, SimulatedSource};
use crate::sink::direct::{self, Direct};
use crate::sink::{Create, File, STEP_SECS, Tree};
use crate::state::{State, TableState};

mod check;
mod page;

/// Hours of driven time if `--hours` is not given.
pub const DEFAULT_HOURS: u32 = 24;
/// Hours of driven time at the most: five-minute rows are kept for 50.
pub const HOURS_MAX: u32 = 48;
/// Seconds of live traffic if `--live` is not given.
pub const DEFAULT_LIVE_SECS: u32 = 20;
/// Flow samples a second at the day's peak if `--rate` is not given.
pub const DEFAULT_RATE: u32 = 500;
/// A file that only a directory of the demo has: nothing else is ever cleared.
pub const MARKER: &str = ".ixflow-demo";

/// Driven time that is closer to the present than this has caught up with it.
const CAUGHT_UP_MILLIS: u64 = 20;
/// What the live sockets ask for; Linux gives less where net.core.rmem_max says so.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Where the daemon that carries on, and its simulated portal, are told to listen.
const CARRY_ON_SFLOW: &str = "127.0.0.1:6343";
const CARRY_ON_API: &str = "127.0.0.1:8063";

/// Arguments of `ixflow demo`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Directory of the files and pages; an earlier demo's is replaced
    #[arg(long, value_name = "DIR", default_value = "demo")]
    dir: PathBuf,
    /// Hours of driven time, up to the present
    #[arg(long, value_name = "N", default_value_t = DEFAULT_HOURS,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(HOURS_MAX)))]
    hours: u32,
    /// Seconds of live traffic over UDP
    #[arg(long, value_name = "SECS", default_value_t = DEFAULT_LIVE_SECS)]
    live: u32,
    /// Description of the fabric, TOML [default: a built-in one with twelve members]
    #[arg(long, value_name = "FILE")]
    fabric: Option<PathBuf>,
    /// Flow samples a second at the day's peak
    #[arg(long, value_name = "SAMPLES", default_value_t = DEFAULT_RATE,
          value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
}

/// The demo could not start, or came to a wrong result.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The description is no fabric.
    #[error("{place}: {error}")]
    Fabric {
        /// The file, or what stands for it.
        place: String,
        /// What is wrong with it.
        error: FabricError,
    },
    /// The directory is somebody else's.
    #[error(
        "{}: expected an empty directory or one of an earlier demo (with a file {MARKER}): \
         give another one with --dir",
        .0.display()
    )]
    Foreign(PathBuf),
    /// A file or directory.
    #[error("{}: {error}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// An RRD file.
    #[error("{file}: {error}")]
    Rrd {
        /// Its path in the tree.
        file: File,
        /// What librrd says.
        error: RrdError,
    },
    /// The fabric's table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The socket of the live part.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The live part could not be sent.
    #[error("cannot send to {target}: {error}")]
    Send {
        /// Where to.
        target: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The socket of the live page.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The data path.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Standard output is gone.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
    /// What was counted is not what was said.
    #[error("the files differ from the simulator's truth in {0} places")]
    Differs(u64),
}

/// What the pages say of a run.
#[derive(Clone, Debug)]
struct Summary {
    /// Start of the driven time, in seconds since 1970; a multiple of the step.
    from_secs: u64,
    /// From when on the fabric spoke over UDP.
    live_from_secs: u64,
    /// End of the last update.
    to_secs: u64,
    driven_samples: u64,
    /// How long it took to take the driven time through the path.
    driven_millis: u128,
    live_samples: u64,
    live_millis: u64,
    counted: u64,
    not_counted: u64,
    datagrams: u64,
    files: u64,
    updates: u64,
}

impl Summary {
    /// End of the last step that is over: the end of the last row.
    fn rows_end_secs(&self) -> u64 {
        self.to_secs - self.to_secs % STEP_SECS
    }
}

/// Runs the demo.
pub fn run(arguments: &Arguments) -> Result<(), DemoError> {
    let out = &mut io::stdout().lock();
    let began = Instant::now();
    let fabric = fabric(arguments.fabric.as_deref())?;
    let dir = prepare(&arguments.dir)?;
    let root = dir.join("rrd");

    let (table, _) = MacTable::build(&fabric.mac_table())?;
    let vlans = table.lans().len();
    writeln!(
        out,
        "fabric: {} members on {vlans} VLANs and {} switches",
        fabric.ports().len(),
        fabric.switches().len()
    )?;

    let now_secs = Clock::System.now_millis() / 1000;
    let from_secs = now_secs.saturating_sub(u64::from(arguments.hours) * 3600);
    let from_secs = from_secs - from_secs % STEP_SECS;
    let generator = fabric.generator(from_secs * 1000, arguments.rate).with_truth(STEP_SECS);
    let sockets = UdpSockets::bind(&[(Ipv4Addr::LOCALHOST, 0).into()], RECEIVE_BUFFER_BYTES)?;
    // One address was bound, so that there is one.
    let target = sockets
        .local_addresses()
        .first()
        .copied()
        .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let tree = Tree::open(&root).map_err(file_error(&root))?;
    let sink = Direct::new(tree, Create::OnTraffic, direct::default_threads())
        .map_err(file_error(&root))?;
    let state = Arc::new(State::new(Agents::new(DEFAULT_AGENTS_MAX, DEFAULT_DATA_SOURCES_MAX), 1));
    let setup = Setup {
        step_secs: u32::try_from(STEP_SECS).unwrap_or(u32::MAX),
        from_millis: Some(from_secs * 1000),
        backlog_max: 2,
        when_full: WhenFull::Wait,
        keep: None,
    };
    *state.table() = TableState {
        source: "the fabric".into(),
        fetched_secs: now_secs,
        infrastructures: fabric
            .vlis()
            .iter()
            .map(|vli| vli.infrastructure)
            .collect::<BTreeSet<_>>()
            .len(),
        vlans,
        macs: table.mac_count(),
        vlis: fabric.vlis().len(),
        failures: 0,
    };
    state.set_listening(vec![target]);
    let plan = Plan { table, policy: Policy::default() };
    let (caught_up, catching_up) = bounded(1);
    let silent = Arc::new(AtomicBool::new(false));
    let source = {
        let silent = silent.clone();
        move || {
            DrivenThenLive::new(generator, sockets.into_source(Clock::System), caught_up, silent)
        }
    };
    writeln!(out, "driven: {} h from memory, as fast as the files are written", arguments.hours)?;
    let pipeline = Pipeline::start(vec![source], plan, setup, vec![Box::new(sink)], &state)?;
    let Ok(mut generator) = catching_up.recv() else {
        pipeline.join()?;
        return Err(io::Error::other("the driven part ended early").into());
    };
    let driven_millis = began.elapsed().as_millis();
    let driven_samples = generator.totals().flow_samples;
    let live_from_secs = generator.next_micros() / 1_000_000;
    writeln!(
        out,
        "        {} samples in {} datagrams, {} s",
        grouped(driven_samples),
        grouped(generator.totals().datagrams),
        seconds(driven_millis),
    )?;
    writeln!(out, "live:   {} s over UDP to {target}", arguments.live)?;
    let web = start_web(&root, &state, &pipeline)?;
    for address in &web.1 {
        writeln!(out, "        look meanwhile at http://{address}/")?;
    }
    out.flush()?;
    let limit = Limit { duration_millis: Some(u64::from(arguments.live) * 1000), datagrams: None };
    let sent = send(&mut generator, target, Pace::Stamps, limit, &AtomicBool::new(false), |_| {});
    // The worker ends once the socket is empty, whether or not all could be sent.
    silent.store(true, Ordering::Release);
    pipeline.join()?;
    drop(web);
    let sent = sent.map_err(|error| DemoError::Send { target, error })?;
    writeln!(
        out,
        "        {} samples in {} datagrams",
        grouped(sent.flow_samples),
        grouped(sent.datagrams)
    )?;

    let totals = state.agents.totals();
    let write = state.write().clone();
    let summary = Summary {
        from_secs,
        live_from_secs,
        to_secs: write.last_to_secs,
        driven_samples,
        driven_millis,
        live_samples: sent.flow_samples,
        live_millis: sent.elapsed_millis,
        counted: totals.counted,
        not_counted: totals.losses.iter().map(|(_, samples)| samples).sum(),
        datagrams: totals.datagrams,
        files: write.created,
        updates: write.updates,
    };
    let truth = generator.finish();
    let said = check::Said::new(&fabric, &truth);
    let mut found = check::Found::default();
    found.counters(&truth, &totals, state.socket_drops());
    found.files(&said, &root, &summary)?;
    writeln!(
        out,
        "counted: {} samples for pairs; {} others, each with its reason",
        grouped(summary.counted),
        grouped(summary.not_counted)
    )?;
    writeln!(
        out,
        "written: {} updates of {} files below {}",
        grouped(summary.updates),
        grouped(summary.files),
        root.display()
    )?;
    if found.differing == 0 {
        writeln!(
            out,
            "checked: {} rows of {} files, the step that is not over included, equal what the \
             simulator said, byte by byte",
            grouped(found.rows),
            grouped(found.files)
        )?;
    } else {
        writeln!(out, "checked: {} differences from what the simulator said", found.differing)?;
        for difference in &found.differences {
            writeln!(out, "         {difference}")?;
        }
    }

    let commands = carry_on(&dir, arguments, &fabric, &summary)?;
    let drawing = Instant::now();
    let graphs = page::write(&page::Exchange {
        dir: &dir,
        root: &root,
        fabric: &fabric,
        said: &said,
        summary: &summary,
        found: &found,
        commands: &commands,
    })?;
    writeln!(out, "drawn:  {graphs} graphs in {} s", seconds(drawing.elapsed().as_millis()))?;
    writeln!(out, "in all: {} s", seconds(began.elapsed().as_millis()))?;
    writeln!(out, "\nlook at file://{}", dir.join("index.html").display())?;
    for (what, command) in &commands {
        writeln!(out, "{what}:\n  {command}")?;
    }
    match found.differing {
        0 => Ok(()),
        differing => Err(DemoError::Differs(differing)),
    }
}

/// The daemon's page over the demo's state, on a port that the system chooses.
fn start_web(
    root: &Path,
    state: &Arc<State>,
    pipeline: &Pipeline,
) -> Result<(Web, Vec<SocketAddr>), DemoError> {
    let listeners = Listeners::bind(&[(Ipv4Addr::LOCALHOST, 0).into()])?;
    let addresses = listeners.addresses();
    let settings = web::Settings {
        token: None,
        metrics_pairs: 0,
        rrd_dir: root.to_owned(),
        rrdcached: Vec::new(),
    };
    let sources = web::Sources {
        state: state.clone(),
        epoch: pipeline.epoch().clone(),
        live: pipeline.live().clone(),
        clock: Clock::System,
    };
    Ok((Web::start(listeners, settings, sources)?, addresses))
}

fn fabric(path: Option<&Path>) -> Result<Fabric, DemoError> {
    let (place, text) = match path {
        Some(path) => {
            (path.display().to_string(), fs::read_to_string(path).map_err(file_error(path))?)
        }
        None => ("the built-in fabric".to_owned(), DEFAULT_FABRIC.to_owned()),
    };
    Fabric::from_toml(&text).map_err(|error| DemoError::Fabric { place, error })
}

/// Makes `dir` a directory of the demo with an empty tree in it; returns its canonical path.
fn prepare(dir: &Path) -> Result<PathBuf, DemoError> {
    fs::create_dir_all(dir).map_err(file_error(dir))?;
    let dir = fs::canonicalize(dir).map_err(file_error(dir))?;
    let marker = dir.join(MARKER);
    let is_empty = fs::read_dir(&dir).map_err(file_error(&dir))?.next().is_none();
    if !is_empty && !marker.is_file() {
        return Err(DemoError::Foreign(dir));
    }
    for made in ["rrd", "graphs", "state"].map(|name| dir.join(name)) {
        match fs::remove_dir_all(&made) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file_error(&made)(error));
            }
            _ => {}
        }
    }
    fs::write(&marker, "ixflow demo: rrd, graphs and state are cleared when it runs again\n")
        .map_err(file_error(&marker))?;
    for made in ["rrd", "graphs"].map(|name| dir.join(name)) {
        fs::create_dir(&made).map_err(file_error(&made))?;
    }
    Ok(dir)
}

/// Writes the settings with which the daemon carries on, and returns what to type, with a word
/// on each.
fn carry_on(
    dir: &Path,
    arguments: &Arguments,
    fabric: &Fabric,
    summary: &Summary,
) -> Result<Vec<(&'static str, String)>, DemoError> {
    let path = dir.join("ixpmanager.conf");
    let value = |path: PathBuf| path.display().to_string().replace('#', "\\#");
    let settings = format!(
        "# The daemon on the demo's files, with the simulator as the portal.\n<ixp>\n\
         \tapikey = {DEFAULT_API_KEY}\n\tapibaseurl = http://{CARRY_ON_API}/api/v4\n\
         \tsflow_listen = {CARRY_ON_SFLOW}\n\tsflow_rrdcached = 0\n\
         \tsflow_rrddir = {}\n\tsflow_statedir = {}\n</ixp>\n",
        value(dir.join("rrd")),
        value(dir.join("state")),
    );
    fs::write(&path, settings).map_err(file_error(&path))?;
    let ixflow = std::env::args().next().unwrap_or_else(|| "ixflow".to_owned());
    let description = arguments
        .fabric
        .as_ref()
        .map(|path| format!(" --fabric {}", quoted(path)))
        .unwrap_or_default();
    let mut commands = Vec::new();
    if let Some(vli) = fabric.vlis().first() {
        let (protocol, unit) = (IpProtocol::V4, Unit::Bytes);
        let file = File::Aggregate { protocol, unit, vlan: vli.vlan, infrastructure: None };
        commands.push((
            "the rows of a file",
            format!(
                "rrdtool fetch {} AVERAGE --start {} --end {}",
                quoted(&file.path(&dir.join("rrd"))),
                summary.from_secs,
                summary.rows_end_secs() - STEP_SECS,
            ),
        ));
    }
    commands.push((
        "let the fabric speak on, and serve its MAC table as IXP Manager does",
        format!(
            "{ixflow} simulate{description} --rate {} --target {CARRY_ON_SFLOW} --api {CARRY_ON_API}",
            arguments.rate
        ),
    ));
    commands.push((
        "run the daemon on these files, in another terminal",
        format!("{ixflow} run --config {}", quoted(&path)),
    ));
    Ok(commands)
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%=:,".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// A number with its thousands told apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds with a tenth.
fn seconds(millis: u128) -> String {
    format!("{}.{}", millis / 1000, millis % 1000 / 100)
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> DemoError {
    move |error| DemoError::File { path: path.to_owned(), error }
}

/// The fabric out of memory until it has caught up with the present, and from then on a socket.
struct DrivenThenLive {
    driven: Option<SimulatedSource>,
    live: UdpSource,
    /// Where the generator goes to speak on.
    caught_up: Sender<Generator>,
    /// Nothing more will be sent.
    silent: Arc<AtomicBool>,
}

impl DrivenThenLive {
    fn new(
        generator: Generator,
        live: UdpSource,
        caught_up: Sender<Generator>,
        silent: Arc<AtomicBool>,
    ) -> DrivenThenLive {
        // Not a millisecond yet: how far behind it is turns out at the first call.
        let driven = Some(SimulatedSource::new(generator, 0, None));
        DrivenThenLive { driven, live, caught_up, silent }
    }
}

impl Source for DrivenThenLive {
    fn receive(&mut self) -> io::Result<Batch> {
        while let Some(mut driven) = self.driven.take() {
            let batch = driven.receive()?;
            if batch != Batch::End {
                self.driven = Some(driven);
                return Ok(batch);
            }
            let generator = driven.into_generator();
            let now_millis = Clock::System.now_millis();
            let behind_millis = now_millis.saturating_sub(generator.next_micros() / 1000);
            if behind_millis > CAUGHT_UP_MILLIS {
                self.driven = Some(SimulatedSource::new(generator, behind_millis, None));
            } else if self.caught_up.send(generator).is_err() {
                return Ok(Batch::End);
            }
        }
        // Asked before the socket: what was sent before is in it.
        let silent = self.silent.load(Ordering::Acquire);
        match self.live.receive()? {
            Batch::Datagrams { count: 0, .. } if silent => Ok(Batch::End),
            batch => Ok(batch),
        }
    }

    fn datagram(&self, index: usize) -> Received<'_> {
        match &self.driven {
            Some(driven) => driven.datagram(index),
            None => self.live.datagram(index),
        }
    }

    fn socket_drops(&self) -> Option<u64> {
        self.live.socket_drops()
    }
}
