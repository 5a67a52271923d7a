//! The highest rate at which nothing is lost, over UDP, into `ixflow run` with a real rrdcached,
//! beside a receiver that only counts bytes.
//!
//! Every step starts a receiver, sends to it for some seconds, stops it, and compares what it says
//! it received with what was sent. The first step of a row sends as fast as it goes; if something
//! is lost, further ones look for the highest rate at which nothing is.
//!
//! Datagrams are sent in two ways. `one by one` is `ixflow simulate`: each datagram goes through
//! the kernel's stack by itself, as real ones do, which costs a sender more than it costs a
//! receiver to read them; on two cores the sender is the limit then. `in trains` hands up to 54
//! datagrams of one agent to the kernel at once (udp(7), UDP_SEGMENT), which cuts them apart in
//! front of the receiver's socket: so that the receiver is the limit.
//!
//! The files are hard links of a few, in memory where there is /dev/shm, for those of 1,000
//! members would take more disk than there is: rrdcached takes every update, but is not given the
//! time to write. What writing takes is another question (docs/operations.md, Sizes).
//!
//! usage: cargo bench --bench live [-- --seconds N] [--only TEXT]

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use ixflow::clock::Clock;
use ixflow::ixp::{IpProtocol, Unit};
use ixflow::receive::{Batch, Source, UdpSockets, WAIT};
use ixflow::simulate::send::{Limit, Pace, SOCKETS_MAX, send};
use ixflow::simulate::{ApiServer, Fabric};
use ixflow::sink::rrdcached::Address;
use ixflow::sink::{File, file};

#[expect(dead_code, reason = "tests use the rest of it")]
#[path = "../tests/support/rrdcached.rs"]
mod rrdcached;

/// What ixflow asks for by default.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

/// Steps of a row behind the first, at the most.
const STEPS_MAX: usize = 6;

/// How often a rate is tried at which less than a tenth is lost.
const TRIES_MAX: usize = 3;

/// Two rates that are no further apart are one.
const RESOLUTION: f64 = 1.03;

/// Links of one file: ext4 allows 65,000.
const LINKS_MAX: usize = 60_000;

const API_KEY: &str = "bench";

struct Scenario {
    name: &'static str,
    fabric: Fabric,
    flush_secs: u64,
    one_agent: bool,
}

/// A thousand members, of which 448 speak, over IPv4 alone: a fifth of all pairs have files.
fn thousand(samples_per_datagram: u32, agents: u32) -> Fabric {
    let mut toml = format!(
        "ipv6_share = 0.0\nagents = {agents}\nsamples_per_datagram = {samples_per_datagram}\n\
         frame_length = [{{ bytes = 1518, share = 1.0 }}]\n\
         [[infrastructure]]\nid = 1\n[[infrastructure.vlan]]\ntag = 10\n"
    );
    for member in 0..1_000u32 {
        let weight = if member < 448 { 1.0 / f64::from(member + 1) } else { 0.0 };
        let (vli, switch) = (member + 1, member % agents);
        writeln!(
            toml,
            "[[infrastructure.vlan.member]]\nvli = {vli}\nswitch = {switch}\nweight = {weight}"
        )
        .unwrap();
    }
    Fabric::from_toml(&toml).unwrap()
}

/// One member for each of 1,200 agents, thirty on a VLAN.
fn many_agents() -> Fabric {
    let mut toml = String::from(
        "ipv6_share = 0.0\nagents = 1200\nframe_length = [{ bytes = 1518, share = 1.0 }]\n\
         [[infrastructure]]\nid = 1\n",
    );
    for vlan in 0..40u32 {
        writeln!(toml, "[[infrastructure.vlan]]\ntag = {}", 100 + vlan).unwrap();
        for member in 0..30u32 {
            let switch = vlan * 30 + member;
            writeln!(
                toml,
                "[[infrastructure.vlan.member]]\nvli = {}\nswitch = {switch}\nweight = 1.0",
                switch + 1
            )
            .unwrap();
        }
    }
    Fabric::from_toml(&toml).unwrap()
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    OneByOne,
    InTrains,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bare,
    Daemon { workers: u32, spread: &'static str },
}

impl Kind {
    fn name(self) -> String {
        match self {
            Kind::Bare => "bare receiver".into(),
            Kind::Daemon { workers: 1, .. } => "ixflow, 1 worker".into(),
            Kind::Daemon { workers, spread: "agent" } => format!("ixflow, {workers} workers"),
            Kind::Daemon { workers, spread } => format!("ixflow, {workers}, by {spread}"),
        }
    }
}

const ONE: Kind = Kind::Daemon { workers: 1, spread: "agent" };
const TWO: Kind = Kind::Daemon { workers: 2, spread: "agent" };
const TWO_BY_DATAGRAM: Kind = Kind::Daemon { workers: 2, spread: "datagram" };

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut seconds = 3;
    let mut only = String::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bare" => return bare(),
            "--seconds" => seconds = arguments.next().unwrap().parse().unwrap(),
            "--only" => only = arguments.next().unwrap(),
            _ => {}
        }
    }
    if !rrdcached::is_installed() {
        return;
    }
    let shm = Path::new("/dev/shm");
    let base = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let directory = tempfile::tempdir_in(base).unwrap();
    let scenario =
        |name, fabric, flush_secs, one_agent| Scenario { name, fabric, flush_secs, one_agent };
    let scenarios = [
        scenario("6 samples a datagram", thousand(6, 16), 300, false),
        scenario("1 sample a datagram", thousand(1, 16), 300, false),
        scenario("during flushes", thousand(6, 16), 10, false),
        scenario("one agent", thousand(6, 1), 300, true),
        scenario("1,200 agents", many_agents(), 300, false),
    ];
    let cores = thread::available_parallelism().unwrap();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "Highest rate at which nothing is lost in {seconds} s ({} cores, Linux {}).\n\
         Files are hard links in {}; rrdcached takes updates, and does not write.\n",
        cores,
        kernel.trim(),
        directory.path().display(),
    );
    println!(
        "{:<21} {:<11} {:<22} {:>11} {:>11} {:>7} {:>5} {:>12}  limit",
        "scenario", "sent", "receiver", "datagrams/s", "samples/s", "of bare", "CPU", "ns/datagram"
    );
    let mut site: Option<Site> = None;
    for scenario in scenarios.iter().filter(|scenario| scenario.name.contains(&only)) {
        let table_json = scenario.fabric.mac_table_json();
        if let Some(other) = site.take_if(|site| site.table_json != table_json) {
            other.finish();
        }
        let place = directory.path().join("site");
        let site = site.get_or_insert_with(|| Site::new(&place, &scenario.fabric));
        let trains = Trains::new(&scenario.fabric).into();
        let bench = Bench { scenario, site, trains };
        let ways: &[Way] = match scenario.one_agent {
            // A train goes to one socket as a whole, whatever chooses it.
            true => &[Way::OneByOne],
            false => &[Way::OneByOne, Way::InTrains],
        };
        for &way in ways {
            let kinds = match scenario.one_agent {
                true => [Kind::Bare, TWO, TWO_BY_DATAGRAM],
                false => [Kind::Bare, ONE, TWO],
            };
            let mut bare = None;
            for kind in kinds {
                let best = bench.highest(kind, way, seconds);
                let rate = best.step.sent as f64 / best.step.elapsed_secs;
                let bare = *bare.get_or_insert(rate);
                println!(
                    "{:<21} {:<11} {:<22} {:>11.0} {:>11.0} {:>7.2} {:>4.0}% {:>12.0}  {}",
                    scenario.name,
                    if way == Way::OneByOne { "one by one" } else { "in trains" },
                    kind.name(),
                    rate,
                    best.step.samples as f64 / best.step.elapsed_secs,
                    rate / bare,
                    100.0 * best.step.cpu_secs / best.step.elapsed_secs,
                    1e9 * best.step.cpu_secs / best.step.sent as f64,
                    best.limit,
                );
                io::stdout().flush().unwrap();
            }
        }
    }
    if let Some(site) = site {
        site.finish();
    }
    println!(
        "\nCPU, ns/datagram: what the receiver used of a core at that rate, the kernel's part of\n\
         receiving included, and that by datagram.\n\
         limit: sender: nothing was lost as fast as the sender goes; receiver: more was too much.\n\
         during flushes: all {} files of 1,000 members' pairs are fed every 10 s, in every step.",
        2 * 448 * 447 + 4_000 + 4
    );
}

/// What one step came to.
struct Step {
    sent: u64,
    samples: u64,
    received: u64,
    elapsed_secs: f64,
    cpu_secs: f64,
    said: String,
}

impl Step {
    fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

struct Best {
    step: Step,
    limit: &'static str,
}

/// A portal, an rrdcached and files, for scenarios with the same members.
struct Site {
    directory: PathBuf,
    table_json: String,
    files: u64,
    api: ApiServer,
    rrdcached: rrdcached::Rrdcached,
}

impl Site {
    fn new(directory: &Path, fabric: &Fabric) -> Site {
        fs::create_dir_all(directory).unwrap();
        let start_secs = (Clock::System.now_millis() / 1_000 / 300 - 1) * 300;
        let files = link_files(fabric, &directory.join("rrd"), start_secs);
        let count = files.len() as u64;
        let rrdcached = rrdcached::Rrdcached::start(directory, rrdcached::OPEN);
        // The first update of a file takes rrdcached much longer than further ones.
        let Address::Unix(socket) = &rrdcached.address else { unreachable!("as it is started") };
        let stream = UnixStream::connect(socket).unwrap();
        let mut out = BufWriter::new(&stream);
        out.write_all(b"BATCH\n").unwrap();
        for file in files {
            writeln!(out, "UPDATE {} {}:0:0", file.display(), start_secs + 1).unwrap();
        }
        out.write_all(b".\n").unwrap();
        out.flush().unwrap();
        let answers: Vec<_> = BufReader::new(&stream).lines().take(2).map(Result::unwrap).collect();
        assert!(answers[1].starts_with("0 "), "{answers:?}");

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let table_json = fabric.mac_table_json();
        let api = ApiServer::start(listener, table_json.clone(), API_KEY).unwrap();
        Site { directory: directory.to_owned(), table_json, files: count, api, rrdcached }
    }

    /// Makes room for the next one.
    fn finish(self) {
        self.api.stop();
        // Killed: it would write all that it holds.
        drop(self.rrdcached);
        fs::remove_dir_all(self.directory).unwrap();
    }
}

/// One scenario at its site.
struct Bench<'a> {
    scenario: &'a Scenario,
    site: &'a Site,
    trains: RefCell<Trains>,
}

impl Bench<'_> {
    fn highest(&self, kind: Kind, way: Way, seconds: u64) -> Best {
        let blast = self.tries(kind, way, seconds, None);
        if blast.lost() == 0 {
            return Best { step: blast, limit: "sender" };
        }
        let mut high = blast.sent as f64 / blast.elapsed_secs;
        let mut rate = high.min(blast.received as f64 / blast.elapsed_secs) * 0.97;
        let mut best: Option<Step> = None;
        for _ in 0..STEPS_MAX {
            let step = self.tries(kind, way, seconds, Some(rate));
            if step.lost() > 0 {
                high = rate;
            } else {
                best = Some(step);
            }
            let low = best.as_ref().map(|step| step.sent as f64 / step.elapsed_secs);
            match low {
                Some(low) if high <= low * RESOLUTION => break,
                // A sender that was asked for more than it can.
                Some(low) if low < rate * 0.97 && high > rate => break,
                Some(low) => rate = (low + high).min(low * 2.2) / 2.0,
                None => rate *= 0.85,
            }
        }
        match best {
            Some(step) => Best { step, limit: "receiver" },
            None => Best { step: Step { sent: 0, samples: 0, ..blast }, limit: "always lost some" },
        }
    }

    /// One step, or several: where little is lost, the machine may have had something else to do.
    fn tries(&self, kind: Kind, way: Way, seconds: u64, rate: Option<f64>) -> Step {
        let mut step = self.step(kind, way, seconds, rate);
        for _ in 1..TRIES_MAX {
            if step.lost() == 0 || step.lost() > step.sent / 10 {
                break;
            }
            step = self.step(kind, way, seconds, rate);
        }
        step
    }

    fn step(&self, kind: Kind, way: Way, seconds: u64, rate: Option<f64>) -> Step {
        let mut receiver = match kind {
            Kind::Bare => Receiver::bare(),
            Kind::Daemon { workers, spread } => self.daemon(workers, spread),
        };
        let mut duration = Duration::from_secs(seconds);
        if self.scenario.flush_secs < 60 && kind != Kind::Bare {
            // Three seconds, a flush, and four more.
            let step_millis = self.scenario.flush_secs * 1_000;
            let into = Clock::System.now_millis() % step_millis;
            thread::sleep(Duration::from_millis((2 * step_millis - 3_000 - into) % step_millis));
            duration = Duration::from_secs(7);
        }
        let before = receiver.cpu_secs();
        let started = Instant::now();
        let (sent, samples) = match way {
            Way::OneByOne => self.simulate(receiver.address, duration, rate),
            Way::InTrains => self.trains.borrow_mut().send(receiver.address, duration, rate),
        };
        let elapsed_secs = started.elapsed().as_secs_f64();
        // What waits in the buffer is received; it is no more than that.
        thread::sleep(Duration::from_millis(150));
        let cpu_secs = receiver.cpu_secs() - before;
        let said = receiver.stop();
        let field = |name: &str| -> u64 {
            let (_, rest) = said.split_once(&format!("{name}=")).unwrap_or_else(|| {
                panic!("no {name} in what the receiver says: {said}");
            });
            rest.split_ascii_whitespace().next().unwrap().parse().unwrap()
        };
        let received = field("datagrams");
        let step = Step { sent, samples, received, elapsed_secs, cpu_secs, said: said.clone() };
        if step.lost() == 0 && kind != Kind::Bare {
            let faults = [field("sequence_gaps"), field("socket_drops")];
            assert_eq!(faults, [0, 0], "nothing was lost, but: {said}");
            assert_eq!(field("counted"), samples, "{said}");
            // One in the middle, beside the one at the end.
            let flushes = if self.scenario.flush_secs < 60 { 2 } else { 1 };
            assert!(field("updated") >= flushes * self.site.files, "{said}");
        }
        eprintln!(
            "  {} of {} datagrams lost at {:.0}/s; {}",
            step.lost(),
            sent,
            sent as f64 / elapsed_secs,
            step.said.trim()
        );
        step
    }

    fn simulate(&self, target: SocketAddr, duration: Duration, rate: Option<f64>) -> (u64, u64) {
        let limit = Limit {
            duration_millis: Some(u64::try_from(duration.as_millis()).unwrap()),
            datagrams: None,
        };
        let per_datagram = f64::from(self.scenario.fabric.description().samples_per_datagram);
        let samples = rate.map_or(u32::MAX, |rate| whole(rate * per_datagram));
        let pace = if rate.is_some() { Pace::Stamps } else { Pace::Unbounded };
        let mut generator = self.scenario.fabric.generator(Clock::System.now_millis(), samples);
        let stop = AtomicBool::new(false);
        let sent = send(&mut generator, target, pace, limit, &stop, |_| {}).unwrap();
        (sent.datagrams, sent.flow_samples)
    }

    fn daemon(&self, workers: u32, spread: &str) -> Receiver {
        let state = self.site.directory.join("state");
        fs::create_dir_all(&state).unwrap();
        // Another process could take the port between these lines; then the daemon does not start.
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = self.site.directory.join("ixpmanager.conf");
        // A daemon of an earlier step is not this one's past: nothing is given again at its start.
        let text = format!(
            "<ixp>\napikey = {API_KEY}\napibaseurl = {}\nsflow_rrddir = {}\n\
             sflow_rrdcached = 1\nsflow_rrdcached_socket = {}\nsflow_statedir = {}\n\
             sflow_resend_secs = 0\n\
             sflow_listen = {address}\nsflow_workers = {workers}\nsflow_spread = {spread}\n\
             sflow_flush_secs = {}\nsflow_receive_buffer_bytes = {RECEIVE_BUFFER_BYTES}\n</ixp>\n",
            self.site.api.base_url(),
            self.site.directory.join("rrd").display(),
            self.site.rrdcached.address,
            state.display(),
            self.scenario.flush_secs,
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
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut listens, mut table) = (false, false);
        let mut line = String::new();
        while !(listens && table) {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the daemon has ended");
            listens |= line.contains("listens on UDP");
            table |= line.contains("new table: ") || line.contains("table: the saved answer");
        }
        // A worker that waits takes a new table when its wait is over.
        thread::sleep(2 * WAIT);
        // Its pipe must not fill up.
        let log = thread::spawn(move || {
            let mut rest = String::new();
            log.read_to_string(&mut rest).unwrap();
            rest
        });
        Receiver { child, address, ending: Ending::Signal(log) }
    }
}

fn whole(value: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
    let whole = value as u32;
    whole
}

/// A process that receives.
struct Receiver {
    child: Child,
    address: SocketAddr,
    ending: Ending,
}

enum Ending {
    /// It ends when its input does, and says what it received on its output.
    Input(Option<ChildStdin>),
    /// It ends by SIGTERM, and its log says.
    Signal(thread::JoinHandle<String>),
}

impl Receiver {
    fn bare() -> Receiver {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = Vec::new();
        // Byte by byte: what follows must stay in the pipe.
        let out = child.stdout.as_mut().unwrap();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            out.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        let address = String::from_utf8(line).unwrap().trim().parse().unwrap();
        let stdin = child.stdin.take();
        Receiver { child, address, ending: Ending::Input(stdin) }
    }

    /// User and system time so far: fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms
    /// (proc_pid_stat(5)).
    fn cpu_secs(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_ascii_whitespace().skip(11).take(2);
        ticks.map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// Ends it; what it says it received.
    fn stop(&mut self) -> String {
        match &mut self.ending {
            Ending::Input(input) => {
                drop(input.take());
                let mut said = String::new();
                self.child.stdout.as_mut().unwrap().read_to_string(&mut said).unwrap();
                assert!(self.child.wait().unwrap().success());
                said
            }
            Ending::Signal(log) => {
                let id = self.child.id().to_string();
                assert!(Command::new("kill").arg(id).status().unwrap().success());
                let log = std::mem::replace(log, thread::spawn(String::new)).join().unwrap();
                assert!(self.child.wait().unwrap().success(), "{log}");
                let last = log.lines().rev().find(|line| line.contains("in all: "));
                last.unwrap_or_else(|| panic!("{log}")).to_owned()
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // By its own id, and nothing if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The receiver that only counts bytes: this program's other self.
fn bare() {
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let sockets = UdpSockets::bind(&[listen], RECEIVE_BUFFER_BYTES).unwrap();
    println!("{}", sockets.local_addresses()[0]);
    io::stdout().flush().unwrap();
    let stopped = std::sync::Arc::new(AtomicBool::new(false));
    let stop = stopped.clone();
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, std::sync::atomic::Ordering::Release);
    });
    let mut source = sockets.into_source(Clock::System);
    let (mut datagrams, mut bytes) = (0, 0);
    loop {
        let stopping = stopped.load(std::sync::atomic::Ordering::Acquire);
        let Batch::Datagrams { count, .. } = source.receive().unwrap() else { break };
        datagrams += count;
        bytes += (0..count).map(|index| source.datagram(index).payload.len()).sum::<usize>();
        if stopping && count == 0 {
            break;
        }
    }
    let drops = source.socket_drops().unwrap_or(0);
    println!("datagrams={datagrams} bytes={bytes} socket_drops={drops}");
}

/// A file for everything that is fed, as links; returns their paths.
fn link_files(fabric: &Fabric, root: &Path, start_secs: u64) -> Vec<PathBuf> {
    fs::create_dir_all(root).unwrap();
    let mut files = Vec::new();
    let families = IpProtocol::ALL.into_iter().flat_map(|p| Unit::ALL.map(|unit| (p, unit)));
    for (protocol, unit) in families {
        let mut vlans = HashSet::new();
        for vli in fabric.vlis() {
            files.push(File::Individual { protocol, unit, vli: vli.id });
            if vlans.insert(vli.vlan) {
                files.push(File::Aggregate {
                    protocol,
                    unit,
                    vlan: vli.vlan,
                    infrastructure: None,
                });
            }
            let speaks = protocol == IpProtocol::V4 && vli.weight > 0.0;
            let peers = fabric.vlis().iter().filter(|peer| {
                speaks && peer.weight > 0.0 && peer.vlan == vli.vlan && peer.id != vli.id
            });
            let vli = vli.id;
            files.extend(peers.map(|peer| File::Pair { protocol, unit, vli, peer: peer.id }));
        }
    }
    let mut directories = HashSet::new();
    let mut template = PathBuf::new();
    let mut paths = Vec::with_capacity(files.len());
    for (number, each) in files.iter().enumerate() {
        if number % LINKS_MAX == 0 {
            template = root.join(format!("template-{number}.rrd"));
            file::create(&template, start_secs).unwrap();
        }
        let path = each.path(root);
        let parent = path.parent().unwrap();
        if directories.insert(parent.to_owned()) {
            fs::create_dir_all(parent).unwrap();
        }
        fs::hard_link(&template, &path).unwrap();
        paths.push(path);
    }
    paths
}

/// Bytes of a train at the most: a UDP datagram's.
const TRAIN_BYTES_MAX: usize = 65_000;

/// Datagrams of a train at the most: UDP_MAX_SEGMENTS before Linux 6.9.
const TRAIN_DATAGRAMS_MAX: usize = 64;

/// Datagrams that are rendered: enough that pairs and agents do not repeat at once.
const RENDERED_DATAGRAMS: usize = 48_000;

/// A sample's number in a train, and how far it moves on from lap to lap.
struct Number {
    offset: usize,
    step: u32,
}

/// Datagrams of one agent, one behind the other.
struct Train {
    socket: usize,
    bytes: Vec<u8>,
    numbers: Vec<Number>,
}

/// What all agents say, ready to be sent again and again: with every lap the numbers move on, so
/// that a receiver finds nothing missing.
struct Trains {
    trains: Vec<Train>,
    datagram_bytes: usize,
    samples_per_datagram: u64,
    next: usize,
    started: Instant,
}

/// Places in a datagram of an IPv4 agent (sFlow v5, section 5, struct sample_datagram_v5).
const SEQUENCE_AT: usize = 16;
const UPTIME_AT: usize = 20;
const SAMPLES_AT: usize = 28;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

impl Trains {
    fn new(fabric: &Fabric) -> Trains {
        let mut generator = fabric.generator(Clock::System.now_millis(), 1_000_000);
        let rendered = generator.render(RENDERED_DATAGRAMS);
        let datagram_bytes = rendered[0].1.len();
        let fits = (TRAIN_BYTES_MAX / datagram_bytes).min(TRAIN_DATAGRAMS_MAX);
        let mut by_agent: HashMap<SocketAddr, Vec<&[u8]>> = HashMap::new();
        let mut order = Vec::new();
        for (source, payload) in &rendered {
            assert_eq!(payload.len(), datagram_bytes, "all are cut alike");
            let agent = by_agent.entry(*source).or_insert_with(|| {
                order.push(*source);
                Vec::new()
            });
            agent.push(payload);
        }
        let mut trains = Vec::new();
        for (socket, source) in order.iter().enumerate() {
            let datagrams = &by_agent[source];
            let per_lap = u32::try_from(datagrams.len()).unwrap();
            let mut samples_of = HashMap::new();
            for payload in datagrams {
                samples(payload, |at| *samples_of.entry(word(payload, at + 12)).or_insert(0) += 1);
            }
            for chunk in datagrams.chunks(fits) {
                let mut numbers = Vec::new();
                for (place, payload) in chunk.iter().enumerate() {
                    let start = place * datagram_bytes;
                    numbers.push(Number { offset: start + SEQUENCE_AT, step: per_lap });
                    samples(payload, |at| {
                        let step = samples_of[&word(payload, at + 12)];
                        numbers.push(Number { offset: start + at + 8, step });
                    });
                }
                let socket = socket % SOCKETS_MAX;
                trains.push(Train { socket, bytes: chunk.concat(), numbers });
            }
        }
        // Each agent's trains in their order, and evenly over the lap: no agent sends 100
        // datagrams a millisecond.
        let agent = |train: &Train| word(&train.bytes, 8);
        let mut counts: HashMap<u32, (f64, f64)> = HashMap::new();
        trains.iter().for_each(|train| counts.entry(agent(train)).or_default().0 += 1.0);
        let mut keyed: Vec<_> = trains
            .into_iter()
            .map(|train| {
                let (count, place) = counts.get_mut(&agent(&train)).unwrap();
                *place += 1.0;
                ((*place - 0.5) / *count, train)
            })
            .collect();
        keyed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Trains {
            trains: keyed.into_iter().map(|(_, train)| train).collect(),
            datagram_bytes,
            samples_per_datagram: u64::from(word(&rendered[0].1, SAMPLES_AT - 4)),
            next: 0,
            started: Instant::now(),
        }
    }

    fn send(
        &mut self,
        target: SocketAddr,
        duration: Duration,
        datagrams_per_sec: Option<f64>,
    ) -> (u64, u64) {
        let sockets: Vec<UdpSocket> = (0..SOCKETS_MAX)
            .map(|_| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(target).unwrap();
                let segment = i32::try_from(self.datagram_bytes).unwrap();
                let option = nix::sys::socket::sockopt::UdpGsoSegment;
                nix::sys::socket::setsockopt(&socket, option, &segment).unwrap();
                socket
            })
            .collect();
        let uptime_base = 3_600_000;
        let begun = Instant::now();
        let mut sent = 0u64;
        while begun.elapsed() < duration {
            if let Some(rate) = datagrams_per_sec
                && sent as f64 > begun.elapsed().as_secs_f64() * rate
            {
                thread::sleep(Duration::from_micros(100));
                continue;
            }
            let next = self.next;
            self.next = (next + 1) % self.trains.len();
            let train = &mut self.trains[next];
            let uptime = u32::try_from(self.started.elapsed().as_millis()).unwrap() + uptime_base;
            for datagram in train.bytes.chunks_mut(self.datagram_bytes) {
                put(datagram, UPTIME_AT, uptime);
            }
            sockets[train.socket].send(&train.bytes).unwrap();
            for number in &train.numbers {
                let moved = word(&train.bytes, number.offset).wrapping_add(number.step);
                put(&mut train.bytes, number.offset, moved);
            }
            sent += (train.bytes.len() / self.datagram_bytes) as u64;
        }
        (sent, sent * self.samples_per_datagram)
    }
}

/// Calls `each` with the place of every sample of a datagram.
fn samples(payload: &[u8], mut each: impl FnMut(usize)) {
    let mut at = SAMPLES_AT;
    for _ in 0..word(payload, SAMPLES_AT - 4) {
        each(at);
        at += 8 + word(payload, at + 4) as usize;
    }
}
