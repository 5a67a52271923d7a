//! `ixflow simulate`: a synthetic fabric that speaks sFlow to a collector or into a capture.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::simulate::send::{Limit, Pace, Sent, send};
use crate::simulate::{
    ApiServer, DATAGRAM_MAX_BYTES, DEFAULT_FABRIC, Description, Fabric, FabricError, Generator,
    PcapWriter, Truth,
};

/// Flow samples a second if `--rate` is not given.
pub const DEFAULT_RATE: u32 = 1000;
/// Seconds in a capture if `--duration` is not given.
pub const DEFAULT_PCAP_SECS: u32 = 300;
/// Length of the truth's intervals: the step of IXP Manager's RRD files.
pub const TRUTH_STEP_SECS: u64 = 300;
/// Key of the API server if `--api-key` is not given.
pub const DEFAULT_API_KEY: &str = "simulated";

/// Send, or write, the sFlow of a synthetic fabric.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "With neither --target nor --pcap nor --api, only files are written.")]
pub struct Arguments {
    /// Description of the fabric, TOML [default: a built-in one with twelve members]
    #[arg(long, value_name = "FILE")]
    pub fabric: Option<PathBuf>,
    /// Send to a collector over UDP
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "pcap")]
    pub target: Option<SocketAddr>,
    /// Write a capture
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Flow samples a second at the day's peak, or "max": as fast as it goes
    #[arg(long, value_name = "SAMPLES", default_value_t = Rate::PerSecond(DEFAULT_RATE))]
    pub rate: Rate,
    /// Stop after so many seconds [default: 300 with --pcap, else when interrupted]
    #[arg(long, value_name = "SECS")]
    pub duration: Option<u32>,
    /// Start of a capture, in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECS", requires = "pcap")]
    pub start: Option<u32>,
    /// Flow samples in a datagram, instead of the description's
    #[arg(long, value_name = "N")]
    pub samples_per_datagram: Option<u32>,
    /// Members of each infrastructure, instead of the description's
    #[arg(long, value_name = "N")]
    pub members: Option<u32>,
    /// Switches of each infrastructure, instead of the description's
    #[arg(long, value_name = "N")]
    pub agents: Option<u32>,
    /// Serve the MAC table as IXP Manager's API does
    #[arg(long, value_name = "ADDR:PORT")]
    pub api: Option<SocketAddr>,
    /// Key that the served API asks for
    #[arg(long, value_name = "KEY", default_value = DEFAULT_API_KEY, requires = "api")]
    pub api_key: String,
    /// Write what was sent per pair and 300 seconds, JSON lines
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Write the MAC table, JSON as the API's
    #[arg(long, value_name = "FILE")]
    pub mac_table: Option<PathBuf>,
}

/// How fast to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rate {
    /// Flow samples a second.
    PerSecond(u32),
    /// As fast as it goes.
    Max,
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Rate, Self::Err> {
        match text.parse() {
            Ok(rate) if rate > 0 => Ok(Rate::PerSecond(rate)),
            _ if text == "max" => Ok(Rate::Max),
            _ => Err("expected a number of samples a second above 0, or max"),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rate::PerSecond(rate) => write!(f, "{rate}"),
            Rate::Max => f.write_str("max"),
        }
    }
}

/// Why nothing, or not all, was simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The description is no fabric.
    #[error("{place}: {error}")]
    Fabric {
        /// The file, or what stands for it.
        place: String,
        /// What is wrong with it.
        error: FabricError,
    },
    /// A file, a socket or a signal handler.
    #[error("{what}: {error}")]
    Io {
        /// The file or address.
        what: String,
        /// What the system says.
        error: io::Error,
    },
    /// The arguments exclude each other.
    #[error("--rate max needs --target")]
    MaxWithoutTarget,
}

/// Runs until the duration is over or SIGINT or SIGTERM comes.
pub fn run(arguments: &Arguments) -> Result<(), SimulateError> {
    if arguments.rate == Rate::Max && arguments.target.is_none() {
        return Err(SimulateError::MaxWithoutTarget);
    }
    let fabric = fabric(arguments)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(io_error("signals"))?;
    }
    if let Some(path) = &arguments.mac_table {
        fs::write(path, fabric.mac_table_json()).map_err(file_error(path))?;
    }
    let api = match arguments.api {
        Some(address) => {
            let place = address.to_string();
            let server = TcpListener::bind(address)
                .and_then(|listener| {
                    ApiServer::start(listener, fabric.mac_table_json(), &arguments.api_key)
                })
                .map_err(io_error(&place))?;
            eprintln!("MAC table at {}", server.base_url());
            Some(server)
        }
        None => None,
    };
    let now_millis = Clock::System.now_millis();
    let start_millis = arguments.start.map_or(now_millis, millis);
    let (rate, pace) = match arguments.rate {
        Rate::PerSecond(rate) => (rate, Pace::Stamps),
        // Stamps are the time of sending then, whatever the rate.
        Rate::Max => (u32::MAX, Pace::Unbounded),
    };
    let mut generator = fabric.generator(start_millis, rate);
    if arguments.truth.is_some() {
        generator = generator.with_truth(TRUTH_STEP_SECS);
    }
    if let Some(target) = arguments.target {
        let limit = Limit { duration_millis: arguments.duration.map(millis), datagrams: None };
        let mut last = Sent::default();
        let sent = send(&mut generator, target, pace, limit, &stop, |sent| {
            let millis = (sent.elapsed_millis - last.elapsed_millis).max(1);
            eprintln!(
                "{} s: {} samples/s in {} datagrams/s",
                sent.elapsed_millis / 1000,
                (sent.flow_samples - last.flow_samples) * 1000 / millis,
                (sent.datagrams - last.datagrams) * 1000 / millis,
            );
            last = *sent;
        })
        .map_err(io_error(&target.to_string()))?;
        eprintln!(
            "sent {} samples in {} datagrams in {} ms{}",
            sent.flow_samples,
            sent.datagrams,
            sent.elapsed_millis,
            if sent.refusals > 0 { "; nobody listened part of the time" } else { "" },
        );
    } else if let Some(path) = &arguments.pcap {
        let end_millis = start_millis + millis(arguments.duration.unwrap_or(DEFAULT_PCAP_SECS));
        write_pcap(&mut generator, path, end_millis, &stop).map_err(file_error(path))?;
    } else if api.is_some() {
        let started = Instant::now();
        let end = arguments.duration.map(|secs| Duration::from_secs(secs.into()));
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| started.elapsed() < end) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    if let Some(path) = &arguments.truth {
        write_truth(&generator.finish(), path).map_err(file_error(path))?;
    }
    Ok(())
}

fn fabric(arguments: &Arguments) -> Result<Fabric, SimulateError> {
    let (place, text) = match &arguments.fabric {
        Some(path) => {
            (path.display().to_string(), fs::read_to_string(path).map_err(file_error(path))?)
        }
        None => ("the built-in fabric".to_owned(), DEFAULT_FABRIC.to_owned()),
    };
    let build = || -> Result<Fabric, FabricError> {
        let mut description: Description = toml::from_str(&text)?;
        if let Some(samples) = arguments.samples_per_datagram {
            description.samples_per_datagram = samples;
        }
        if let Some(members) = arguments.members {
            description.members = members;
        }
        if let Some(agents) = arguments.agents {
            description.agents = agents;
            description.switch.clear();
        }
        Fabric::new(description)
    };
    build().map_err(|error| SimulateError::Fabric { place, error })
}

fn write_pcap(
    generator: &mut Generator,
    path: &Path,
    end_millis: u64,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut writer = PcapWriter::new(BufWriter::new(File::create(path)?))?;
    let mut payload = Vec::with_capacity(DATAGRAM_MAX_BYTES);
    let mut progress = Instant::now();
    while generator.next_micros() / 1000 < end_millis && !stop.load(Ordering::Relaxed) {
        let emitted = generator.generate(&mut payload);
        writer.write(emitted.stamp_micros, emitted.source, &payload)?;
        if progress.elapsed() >= Duration::from_secs(1) {
            progress = Instant::now();
            eprintln!("{} samples written", generator.totals().flow_samples);
        }
    }
    writer.finish()?;
    let Truth { flow_samples, datagrams, .. } = generator.totals();
    eprintln!("wrote {flow_samples} samples in {datagrams} datagrams");
    Ok(())
}

fn write_truth(truth: &Truth, path: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    truth.write_json_lines(&mut out)?;
    out.flush()
}

fn millis(secs: u32) -> u64 {
    u64::from(secs) * 1000
}

fn io_error(what: &str) -> impl FnOnce(io::Error) -> SimulateError {
    move |error| SimulateError::Io { what: what.to_owned(), error }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> SimulateError {
    move |error| SimulateError::Io { what: path.display().to_string(), error }
}
