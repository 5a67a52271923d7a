//! Many minutes of traffic over UDP into `ixflow run`, with a real rrdcached that is killed again
//! and again: at the end every file holds what was sent, to the byte.
//!
//! The simulator knows what it sent, but not in which second it was received, so a file is compared
//! by its sum: rate times seconds over all its rows, and what its open step holds, is the total of
//! its pair, member or VLAN. No row between start and end may be unknown. Were datagrams lost on the
//! way, which the kernel counts, the files cannot hold what was sent; then the packets of all files
//! of VLANs must be those of the samples that the daemon says it counted.
//!
//! rrdcached keeps a journal, and is given no time to write by itself (`-w 3600`): a SIGKILL in the
//! middle of a file may leave it torn, which no client can mend. It writes at its end.
//!
//! A fifth of all pairs speak, over both IP protocols: the members that do are those of highest
//! rank, and among them all do. Files of 67 of 150 members take 3.5 GB.
//!
//! usage: cargo bench --bench soak [-- --minutes M] [--members N] [--rate SAMPLES] [--kill-secs S]

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use ixflow::clock::Clock;
use ixflow::ixp::{IpProtocol, Unit};
use ixflow::receive::WAIT;
use ixflow::simulate::send::{Limit, Pace, Sent, send};
use ixflow::simulate::{ApiServer, Fabric, Truth};
use ixflow::sink::librrd::{fetch, open_step};
use ixflow::sink::{Consolidation, File, STEP_SECS};

#[expect(dead_code, reason = "tests use the rest of it")]
#[path = "../tests/support/rrdcached.rs"]
mod rrdcached;

use rrdcached::Rrdcached;

/// Share of all pairs that speak.
const PAIRS_SHARE: f64 = 0.2;

/// Several boundaries between two kills.
const FLUSH_SECS: u64 = 30;

/// How long rrdcached is away.
const AWAY: Duration = Duration::from_secs(7);

/// Time for the last datagrams, and the last writes of what was repaired.
const SETTLE: Duration = Duration::from_secs(5);

/// One in so many packets is sampled: a prime, so that no total is round.
const SAMPLING_RATE: u64 = 4_093;

const API_KEY: &str = "soak";

struct Options {
    minutes: u64,
    members: u32,
    rate: u32,
    kill_secs: u64,
}

fn options() -> Options {
    let mut options = Options { minutes: 20, members: 150, rate: 200_000, kill_secs: 120 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || -> u64 {
            let value = arguments.next().and_then(|value| value.parse().ok());
            value.unwrap_or_else(|| panic!("{argument}: expected a number"))
        };
        match argument.as_str() {
            "--minutes" => options.minutes = value(),
            "--members" => options.members = u32::try_from(value()).unwrap(),
            "--rate" => options.rate = u32::try_from(value()).unwrap(),
            "--kill-secs" => options.kill_secs = value().max(15),
            // What cargo says to every bench.
            "--bench" => {}
            _ => panic!("{argument}: expected --minutes, --members, --rate or --kill-secs"),
        }
    }
    options
}

fn main() -> ExitCode {
    let options = options();
    if !rrdcached::is_installed() {
        return ExitCode::SUCCESS;
    }
    let (fabric, speakers) = fabric(options.members);
    println!(
        "{} minutes, {} members of whom {speakers} speak to each other, {} samples/s; every {} s \
         rrdcached is killed, and started again {} s later",
        options.minutes,
        options.members,
        options.rate,
        options.kill_secs,
        AWAY.as_secs()
    );
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let api = ApiServer::start(listener, fabric.mac_table_json(), API_KEY).unwrap();
    let mut keeper = Keeper::start(directory.path());
    wait_for_the_later_half();
    let daemon = Daemon::start(directory.path(), &api.base_url());
    // What was observed from the start of an interval on has no hole before it.
    wait_past_boundary(FLUSH_SECS);
    let from_secs = now_secs() / STEP_SECS * STEP_SECS;

    let stop = Arc::new(AtomicBool::new(false));
    let killer = thread::spawn({
        let (stop, every) = (stop.clone(), Duration::from_secs(options.kill_secs));
        move || {
            keeper.kill_every(every, &stop);
            keeper
        }
    });
    let (sent, truth) = speak(&fabric, &options, daemon.address);
    stop.store(true, Ordering::Release);
    let keeper = killer.join().unwrap();
    thread::sleep(SETTLE);
    if now_secs() % STEP_SECS > STEP_SECS - 30 {
        // The end must not be beside that of a row.
        wait_past_boundary(STEP_SECS);
    }
    let end_secs = now_secs() / STEP_SECS * STEP_SECS;
    let (peak_kib, log) = daemon.stop();
    let kills = keeper.kills;
    keeper.rrdcached.unwrap().stop();
    api.stop();

    let found = compare(&directory.path().join("rrd"), &fabric, &truth, from_secs, end_secs);
    report(&options, sent, &truth, kills, &found, peak_kib, &log)
}

/// A fabric of one VLAN, of which the members of highest rank speak.
fn fabric(members: u32) -> (Fabric, u32) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no more than the members"
    )]
    let speakers = ((f64::from(members) * PAIRS_SHARE.sqrt()).round() as u32).clamp(2, members);
    let mut toml = format!(
        "ipv6_share = 0.3\nagents = 8\nsampling_rate = {SAMPLING_RATE}\n\
         [[infrastructure]]\nid = 1\n[[infrastructure.vlan]]\ntag = 10\n"
    );
    for member in 0..members {
        // By a law under which the last pair, too, speaks every second.
        let weight = if member < speakers { f64::from(member + 1).powf(-0.5) } else { 0.0 };
        let (vli, switch) = (member + 1, member % 8);
        writeln!(
            toml,
            "[[infrastructure.vlan.member]]\nvli = {vli}\nswitch = {switch}\nweight = {weight}"
        )
        .unwrap();
    }
    (Fabric::from_toml(&toml).unwrap(), speakers)
}

fn now_secs() -> u64 {
    Clock::System.now_millis() / 1_000
}

/// The files that are made first begin with the step. Of a step of which less than half is
/// observed their row is what was observed, and that is silence.
fn wait_for_the_later_half() {
    let into = now_secs() % STEP_SECS;
    if into <= STEP_SECS / 2 {
        let secs = STEP_SECS / 2 + 1 - into;
        println!("waits {secs} s for the later half of a step");
        thread::sleep(Duration::from_secs(secs));
    }
}

fn wait_past_boundary(every_secs: u64) {
    thread::sleep(Duration::from_secs(every_secs - now_secs() % every_secs + 1));
}

/// Sends for the whole time; what was sent.
fn speak(fabric: &Fabric, options: &Options, target: SocketAddr) -> (Sent, Truth) {
    let limit = Limit { duration_millis: Some(options.minutes * 60_000), datagrams: None };
    let now_millis = Clock::System.now_millis();
    let mut generator = fabric.generator(now_millis, options.rate).with_truth(STEP_SECS);
    let never = AtomicBool::new(false);
    let (mut minute, mut before) = (0, 0);
    let sent = send(&mut generator, target, Pace::Stamps, limit, &never, |sent| {
        if sent.elapsed_millis / 60_000 > minute {
            minute = sent.elapsed_millis / 60_000;
            println!("  minute {minute}: {} samples/s", (sent.flow_samples - before) / 60);
            before = sent.flow_samples;
            io::stdout().flush().unwrap();
        }
    });
    (sent.unwrap(), generator.finish())
}

/// An rrdcached with a journal, and how often it was killed.
struct Keeper {
    directory: std::path::PathBuf,
    rrdcached: Option<Rrdcached>,
    kills: u64,
}

impl Keeper {
    fn start(directory: &Path) -> Keeper {
        fs::create_dir_all(directory.join("journal")).unwrap();
        let mut keeper = Keeper { directory: directory.to_owned(), rrdcached: None, kills: 0 };
        keeper.start_again();
        keeper
    }

    fn start_again(&mut self) {
        let journal = self.directory.join("journal");
        let options = ["-j", journal.to_str().unwrap()];
        self.rrdcached = Some(Rrdcached::start(&self.directory, &options));
    }

    /// Kills it by SIGKILL as often as there is time; it is there at the end.
    fn kill_every(&mut self, every: Duration, stop: &AtomicBool) {
        let sleep = |until: Instant| {
            while Instant::now() < until && !stop.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(100));
            }
            !stop.load(Ordering::Acquire)
        };
        let mut next = Instant::now() + every;
        while sleep(next) {
            self.rrdcached = None;
            self.kills += 1;
            sleep(Instant::now() + AWAY);
            self.start_again();
            next += every;
        }
    }
}

/// `ixflow run`.
struct Daemon {
    child: Child,
    address: SocketAddr,
    log: thread::JoinHandle<String>,
}

impl Daemon {
    fn start(directory: &Path, base_url: &str) -> Daemon {
        let (rrd, state) = (directory.join("rrd"), directory.join("state"));
        fs::create_dir_all(&rrd).unwrap();
        // Another process could take the port between these lines; then the daemon does not start.
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = directory.join("ixpmanager.conf");
        let text = format!(
            "<ixp>\napikey = {API_KEY}\napibaseurl = {base_url}\nsflow_rrddir = {}\n\
             sflow_rrdcached = 1\nsflow_rrdcached_socket = unix:{}\nsflow_statedir = {}\n\
             sflow_listen = {address}\nsflow_http_listen = off\nsflow_flush_secs = {FLUSH_SECS}\n\
             </ixp>\n",
            rrd.display(),
            directory.join("rrdcached.sock").display(),
            state.display(),
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ixflow"))
            .args(["run", "--config"])
            .arg(config)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(child.stderr.take().unwrap());
        let (mut listens, mut table) = (false, false);
        let mut log = String::new();
        while !(listens && table) {
            let from = log.len();
            assert!(reader.read_line(&mut log).unwrap() > 0, "the daemon has ended: {log}");
            let line = &log[from..];
            listens |= line.contains("listens on UDP");
            table |= line.contains("new table: ") || line.contains("table: the saved answer");
        }
        // A worker that waits takes a new table when its wait is over.
        thread::sleep(2 * WAIT);
        let log = thread::spawn(move || {
            for line in reader.lines() {
                log.push_str(&line.unwrap());
                log.push('\n');
            }
            log
        });
        Daemon { child, address, log }
    }

    /// Ends it; the most memory that it had, and its log.
    fn stop(mut self) -> (u64, String) {
        let id = self.child.id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kib = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(Command::new("kill").arg(id.to_string()).status().unwrap().success());
        let ended = self.child.wait().unwrap();
        let log = self.log.join().unwrap();
        assert!(ended.success(), "{log}");
        (peak_kib, log)
    }
}

/// What the files hold.
#[derive(Default)]
struct Found {
    compared: u64,
    missing: u64,
    /// Files with unknown rows.
    unknown: u64,
    differing: u64,
    /// By how much a sum is wrong at the most, and where.
    worst: f64,
    worst_file: String,
    /// Packets of all files of VLANs.
    packets: f64,
}

/// The totals of every file that there must be.
fn expected(fabric: &Fabric, truth: &Truth) -> BTreeMap<String, (File, [u64; 2])> {
    let mut files = BTreeMap::new();
    let mut add = |file: File, totals: [u64; 2]| {
        let (_, sums) = files.entry(file.to_string()).or_insert((file, [0, 0]));
        *sums = [sums[0] + totals[0], sums[1] + totals[1]];
    };
    for protocol in IpProtocol::ALL {
        for unit in Unit::ALL {
            let vlan = fabric.vlis()[0].vlan;
            add(File::Aggregate { protocol, unit, vlan, infrastructure: None }, [0, 0]);
            for vli in fabric.vlis() {
                add(File::Individual { protocol, unit, vli: vli.id }, [0, 0]);
            }
            for pair in truth.pairs() {
                let (from, to) = (pair.source, pair.destination);
                let amount = match unit {
                    Unit::Bytes => pair.traffic.bytes[protocol as usize],
                    Unit::Packets => pair.traffic.packets[protocol as usize],
                };
                if amount == 0 {
                    continue;
                }
                add(
                    File::Aggregate { protocol, unit, vlan, infrastructure: None },
                    [amount, amount],
                );
                add(File::Individual { protocol, unit, vli: from }, [amount, 0]);
                add(File::Individual { protocol, unit, vli: to }, [0, amount]);
                // In the file of a pair, what the peer sent comes in.
                add(File::Pair { protocol, unit, vli: from, peer: to }, [0, amount]);
                add(File::Pair { protocol, unit, vli: to, peer: from }, [amount, 0]);
            }
        }
    }
    files
}

fn compare(root: &Path, fabric: &Fabric, truth: &Truth, from_secs: u64, end_secs: u64) -> Found {
    let mut found = Found::default();
    for (name, (file, totals)) in expected(fabric, truth) {
        let path = file.path(root);
        if !path.exists() {
            found.missing += 1;
            found.differing += 1;
            continue;
        }
        found.compared += 1;
        let mut sums = open_step(&path).unwrap();
        if end_secs > from_secs {
            let rows = fetch(&path, Consolidation::Average, from_secs, end_secs, STEP_SECS);
            let rows = rows.unwrap().into_iter();
            for row in rows.filter(|row| row.end_secs > from_secs && row.end_secs <= end_secs) {
                for (sum, rate) in sums.iter_mut().zip(row.values) {
                    // Bytes and packets are whole: what a rate lacks in digits does not add up.
                    *sum += (rate * STEP_SECS as f64).round();
                }
            }
        }
        if let File::Aggregate { unit: Unit::Packets, .. } = file {
            found.packets += sums[0].round();
        }
        let mut differs = false;
        for (sum, total) in sums.into_iter().zip(totals) {
            found.unknown += u64::from(sum.is_nan());
            let difference = (sum.round() - total as f64).abs();
            differs |= difference.is_nan() || difference > 0.0;
            if difference > found.worst {
                (found.worst, found.worst_file) = (difference, name.clone());
            }
        }
        found.differing += u64::from(differs);
    }
    found
}

fn report(
    options: &Options,
    sent: Sent,
    truth: &Truth,
    kills: u64,
    found: &Found,
    peak_kib: u64,
    log: &str,
) -> ExitCode {
    let summary = log.lines().rfind(|line| line.contains("in all: ")).unwrap_or_default();
    let field = |name: &str| -> u64 {
        let (_, rest) = summary.split_once(&format!(" {name}=")).unwrap_or_else(|| {
            panic!("no {name} in what the daemon says: {summary}");
        });
        rest.split_ascii_whitespace().next().unwrap().parse().unwrap()
    };
    let counted = field("counted");
    let repaired_intervals = log.lines().filter(|line| line.contains("were given again")).count();
    let secs = sent.elapsed_millis as f64 / 1_000.0;
    println!("\n{:<44}{:>16}", "minutes of traffic", format!("{:.1}", secs / 60.0));
    let line = |what: &str, count: u64| println!("{what:<44}{count:>16}");
    line("samples a second, asked", options.rate.into());
    println!("{:<44}{:>16.0}", "samples a second, sent", sent.flow_samples as f64 / secs);
    line("datagrams sent", sent.datagrams);
    line("datagrams received", field("datagrams"));
    line("samples sent", truth.flow_samples);
    line("samples received", field("samples"));
    line("samples counted", counted);
    for name in ["socket_drops", "sequence_gaps", "refused", "intervals_dropped", "clock_set_back"]
    {
        line(&format!("lost: {name}"), field(name));
    }
    line("kills of rrdcached", kills);
    line("intervals that were given again in part", repaired_intervals as u64);
    line("updates that had been lost, and were given", field("repaired"));
    line("updates written", field("updated"));
    line("files made", field("created"));
    line("files compared", found.compared);
    line("files missing", found.missing);
    line("sums with unknown rows", found.unknown);
    line("files that differ", found.differing);
    println!("{:<44}{:>16}", "worst difference (bytes or packets)", found.worst);
    println!("{:<44}{:>16.1}", "peak memory of ixflow (MiB)", peak_kib as f64 / 1024.0);

    // What the kernel dropped is named; all else must be in the files.
    let on_the_way = sent.datagrams - field("datagrams");
    let named = on_the_way > 0 && on_the_way == field("socket_drops");
    let conserved = found.packets == (counted * SAMPLING_RATE) as f64;
    let complete = found.missing == 0 && found.unknown == 0;
    let good = match found.differing {
        0 => on_the_way == 0,
        _ => named && conserved && complete,
    };
    if found.differing > 0 {
        println!("the worst: {}", found.worst_file);
        println!(
            "datagrams lost on the way: {on_the_way}; the files hold what was counted: {conserved}"
        );
        for text in log.lines().filter(|line| line.contains("ERROR") || line.contains("WARN")) {
            eprintln!("{text}");
        }
    }
    println!("{}", if good { "nothing is lost without a name" } else { "FAILED" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
