//! What writing an interval takes: through rrdcached and into the files, beside the limits of both.
//!
//! Every figure is in one run and of the same files; the ways take turns, because machines are
//! shared: ratios hold where absolutes move. Figures are medians of the rounds.
//!
//! - *Allocated files* (100 and 150 members; 200 with `--members 200` need 30 GB of disk) are those
//!   that the product makes, on the disk of the temporary directory.
//! - *Linked files* (400 and 1,000 members) are hard links of a few, because four million files are
//!   754 GB: rrdcached takes their updates as any other, and is not given the time to write. They
//!   are in memory (a tmpfs of the bench's own) where it may mount one, and else on the disk, where
//!   making and removing them takes minutes.
//! - The limit of rrdcached is its own: the bytes of the same batches, made before, pushed into the
//!   socket by one thread while another one drains the answers.
//! - The limit of the direct writer is the kernel's: open, lock, read, write, close of the same
//!   files, with names and bytes that are not computed. (The rows that it writes are wrong
//!   afterwards.)
//!
//! Files and rrdcached are gone when it ends, also by SIGINT or SIGTERM.
//!
//! usage: cargo bench --bench flush [-- --quick] [--members N[,N]] [--linked N[,N]] [--rounds N]
//!        [--idle SHARE] [--directory DIR]

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../tests/support/disk.rs"]
mod disk;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../tests/support/rrdcached.rs"]
mod rrdcached;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ixflow::count::Traffic;
use ixflow::flush::{Interval, PairTraffic};
use ixflow::ixp::{InfrastructureId, IpProtocol, Unit, VlanTag, VliId};
use ixflow::resolve::Lan;
use ixflow::sink::direct::{Direct, THREADS};
use ixflow::sink::rrdcached::{Address, CHUNK_LINES, Rrdcached as Cached, Settings};
use ixflow::sink::{ARCHIVES, Aggregates, Create, Feed, File, STEP_SECS, Share, Sink, Tree, file};
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open, openat};
use nix::libc;
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, linkat};
use rrd::ops::update::{BatchTime, Datum, Options, update_all};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A multiple of a day.
const START: u64 = 1_699_920_000;

/// Intervals of a turn that count; one before them does not.
const INTERVALS: usize = 2;

/// Rounds over linked files, at the most: rrdcached keeps what it takes in memory.
const LINKED_ROUNDS: usize = 2;

/// Updates that are sent one by one in a turn.
const ONE_BY_ONE: usize = 10_000;

/// Hard links that a file may have on ext4, with room to spare.
const LINKS_MAX: usize = 60_000;

/// The option by which the bench starts itself, with a directory behind it.
const BELOW: &str = "--below";

/// Of the directory, where linked files go.
const LINKS: &str = "linked";

struct Arguments {
    allocated: Vec<u32>,
    linked: Vec<u32>,
    rounds: usize,
    idle: f64,
    directory: PathBuf,
    /// Where the files go, of the process that runs.
    below: Option<PathBuf>,
}

fn arguments() -> Arguments {
    let mut parsed = Arguments {
        allocated: vec![100, 150],
        linked: vec![400, 1_000],
        rounds: 3,
        idle: 0.0,
        directory: std::env::temp_dir(),
        below: None,
    };
    let list = |text: String| -> Vec<u32> {
        text.split(',').filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect()
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option needs a value");
        match argument.as_str() {
            "--quick" => (parsed.allocated, parsed.linked) = (vec![50], vec![100]),
            "--members" => parsed.allocated = list(value()),
            "--linked" => parsed.linked = list(value()),
            "--rounds" => parsed.rounds = value().parse().unwrap(),
            "--idle" => parsed.idle = value().parse().unwrap(),
            "--directory" => parsed.directory = value().into(),
            BELOW => parsed.below = Some(value().into()),
            // Of cargo.
            _ => {}
        }
    }
    parsed
}

/// The ways to write, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    OneByOne,
    Pipelined,
    Batch,
    BatchLimit,
    Librrd,
    Direct(usize),
    DirectLimit(usize),
}

impl Way {
    fn name(self) -> String {
        match self {
            Way::OneByOne => "rrdcached, UPDATE one by one".into(),
            Way::Pipelined => "rrdcached, UPDATE pipelined".into(),
            Way::Batch => "rrdcached, BATCH".into(),
            Way::BatchLimit => "  limit: bytes made before".into(),
            Way::Librrd => "files, librrd, 1 thread".into(),
            Way::Direct(threads) => format!("files, direct, {threads} thread(s)"),
            Way::DirectLimit(threads) => format!("  limit: bare system calls, {threads}"),
        }
    }
}

const ALLOCATED: &[Way] = &[
    Way::OneByOne,
    Way::Pipelined,
    Way::Batch,
    Way::BatchLimit,
    Way::Librrd,
    Way::Direct(1),
    Way::DirectLimit(1),
    Way::Direct(THREADS),
    Way::DirectLimit(THREADS),
];

const LINKED: &[Way] = &[Way::Pipelined, Way::Batch, Way::BatchLimit];

/// What was measured with a number of members.
#[derive(Default)]
struct Figures {
    members: u32,
    files: usize,
    /// Updates a second.
    rates: BTreeMap<Way, Vec<f64>>,
    /// Seconds of the fastest interval in batches.
    batch_secs: f64,
    create_rate: Option<f64>,
    first_touch_rate: f64,
    walk_nanos: f64,
    format_nanos: f64,
    /// Bytes that a flush needs beyond what was there, in batches and directly.
    growth: BTreeMap<Way, u64>,
}

fn main() -> ExitCode {
    let arguments = arguments();
    if !rrdcached::is_installed() {
        return ExitCode::SUCCESS;
    }
    match &arguments.below {
        None => supervise(&arguments.directory),
        Some(below) => {
            run(&arguments, below);
            ExitCode::SUCCESS
        }
    }
}

/// Runs the bench as a process group of its own, and removes what it made when it ends, or when it
/// is told to end.
fn supervise(directory: &Path) -> ExitCode {
    let directory = tempfile::tempdir_in(directory).unwrap();
    let links = directory.path().join(LINKS);
    fs::create_dir(&links).unwrap();
    // Of links a tmpfs keeps names alone, and by default counts each as a file.
    let mounted = disk::Mounted::new(&links, "size=256m,nr_inodes=0");
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD]).unwrap();
    let mut run = Command::new(std::env::current_exe().unwrap());
    run.args(std::env::args_os().skip(1)).arg(BELOW).arg(directory.path());
    let mut child = run.process_group(0).spawn().unwrap();
    let mut ended = None;
    for signal in signals.forever() {
        if signal != SIGCHLD {
            break;
        }
        ended = child.try_wait().unwrap();
        if ended.is_some() {
            break;
        }
    }
    // With rrdcached, which must not write what it has. Nobody is left if all went well.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    child.wait().unwrap();
    drop(mounted);
    eprintln!("removing {}", directory.path().display());
    directory.close().unwrap();
    if ended.is_some_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(arguments: &Arguments, below: &Path) {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "Updates per second, medians of {} rounds of {INTERVALS} intervals ({} cores, Linux {}).\n\
         Files below {}; {:.0} % of the pairs are idle.\n",
        arguments.rounds,
        thread::available_parallelism().unwrap(),
        kernel.trim(),
        below.display(),
        100.0 * arguments.idle,
    );
    let started = Instant::now();
    let mut all = Vec::new();
    for (linked, members) in [(false, &arguments.allocated), (true, &arguments.linked)] {
        for &members in members {
            let kind = if linked { LINKS } else { "allocated" };
            let place = below.join(kind).join(members.to_string());
            let mut bench = Bench::new(&place, members, linked, arguments.idle);
            eprintln!("{members} members: ready after {:.0?}", started.elapsed());
            // An interval of many files is long enough to count by itself.
            let rounds =
                if linked { arguments.rounds.min(LINKED_ROUNDS) } else { arguments.rounds };
            for _ in 0..rounds {
                for &way in if linked { LINKED } else { ALLOCATED } {
                    bench.turn(way);
                }
            }
            all.push(bench.figures);
            eprintln!("{members} members: done after {:.0?}", started.elapsed());
        }
    }
    print(&all);
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

fn print(all: &[Figures]) {
    let row = |name: &str, cell: &dyn Fn(&Figures) -> String| {
        print!("{name:<34}");
        for figures in all {
            print!(" {:>14}", cell(figures));
        }
        println!();
    };
    let number = |value: f64| match value {
        value if value.is_nan() => "-".into(),
        value => format!("{value:.0}"),
    };
    row("members", &|figures| figures.members.to_string());
    row("files", &|figures| figures.files.to_string());
    for &way in ALLOCATED {
        let rate = |figures: &Figures| figures.rates.get(&way).map_or(f64::NAN, |all| median(all));
        row(&way.name(), &|figures| number(rate(figures)));
    }
    row("first touch of rrdcached", &|figures| number(figures.first_touch_rate));
    row("files made per second", &|figures| number(figures.create_rate.unwrap_or(f64::NAN)));
    row("walk, ns an update", &|figures| number(figures.walk_nanos));
    row("formatting, ns an update", &|figures| number(figures.format_nanos));
    for way in [Way::Batch, Way::Direct(THREADS)] {
        let mib =
            |figures: &Figures| figures.growth.get(&way).map(|bytes| *bytes as f64 / 1048576.0);
        let name =
            format!("memory for a flush, MiB:{}", way.name().split(',').next_back().unwrap());
        row(&name, &|figures| mib(figures).map_or("-".into(), |mib| format!("{mib:.1}")));
    }
    println!("\nratios, and the goals");
    let ratio = |figures: &Figures, way: Way, of: Way| {
        // Turns of a round follow one another: each is compared with its neighbour.
        let [Some(rates), Some(others)] = [way, of].map(|way| figures.rates.get(&way)) else {
            return f64::NAN;
        };
        let ratios: Vec<f64> = rates.iter().zip(others).map(|(one, other)| one / other).collect();
        median(&ratios)
    };
    let two = |value: f64| if value.is_nan() { "-".into() } else { format!("{value:.2}") };
    for (name, way, of) in [
        ("BATCH of its limit (>= 0.90)", Way::Batch, Way::BatchLimit),
        ("direct, 1 of its limit (>= 0.85)", Way::Direct(1), Way::DirectLimit(1)),
        ("direct, 2 of its limit (>= 0.85)", Way::Direct(2), Way::DirectLimit(2)),
        ("direct, 1 of librrd", Way::Direct(1), Way::Librrd),
        ("direct, 2 of librrd (>= 4)", Way::Direct(2), Way::Librrd),
        ("BATCH of one by one", Way::Batch, Way::OneByOne),
        ("direct, 2 of one by one", Way::Direct(2), Way::OneByOne),
    ] {
        row(name, &|figures| two(ratio(figures, way, of)));
    }
    let seconds = |figures: &Figures| format!("{:.1} s", figures.batch_secs);
    row("an interval by BATCH (1,000: < 10 s)", &seconds);
    println!("creation: >= 20,000 files a second; formatting: <= 150 ns an update");
}

struct Bench {
    figures: Figures,
    root: PathBuf,
    interval: Interval,
    /// The path of every file, in order.
    files: Vec<File>,
    step: u64,
    daemon: rrdcached::Rrdcached,
    socket: PathBuf,
    batch: Cached,
    pipelined: Cached,
    direct: BTreeMap<usize, Direct>,
    /// The files by their directories, as the limit of the direct writer opens them.
    names: Vec<(PathBuf, Vec<CString>)>,
}

impl Bench {
    /// Makes the files, starts rrdcached, and gives it every file once.
    fn new(place: &Path, members: u32, linked: bool, idle: f64) -> Bench {
        let root = place.join("tree");
        fs::create_dir_all(&root).unwrap();
        let root = root.canonicalize().unwrap();
        let files = files(members);
        let mut figures = Figures { members, files: files.len(), ..Figures::default() };
        let started = Instant::now();
        if linked {
            link(&root, &files);
        } else {
            for file in &files {
                assert!(file::create(&file.path(&root), START).unwrap());
            }
            figures.create_rate = Some(files.len() as f64 / started.elapsed().as_secs_f64());
        }
        let daemon = rrdcached::Rrdcached::start(place, rrdcached::DOCUMENTED);
        // The one where everything is allowed.
        let socket = place.join("control.sock");
        let sink = |address: &Address| {
            let settings = Settings {
                address: address.clone(),
                root: root.clone(),
                share: Share::default(),
                create: Create::OnTraffic,
                aggregates: Aggregates::Vlan,
                timeout: Duration::from_secs(600),
            };
            Cached::new(settings, Arc::default()).unwrap()
        };
        let batch = sink(&Address::Unix(socket.clone()));
        let pipelined = sink(&daemon.address);
        let direct = [1, THREADS].map(|threads| {
            let tree = Tree::open(&root).unwrap();
            (threads, Direct::new(tree, Create::OnTraffic, threads).unwrap())
        });
        let names = if linked { Vec::new() } else { by_directory(&files) };
        let mut bench = Bench {
            figures,
            interval: interval(members, idle),
            names,
            root,
            files,
            step: 0,
            daemon,
            socket,
            batch,
            pipelined,
            direct: direct.into(),
        };
        bench.first_touch();
        bench.measure_walk();
        bench
    }

    /// The next interval: everybody's traffic a little different.
    fn next(&mut self) -> Interval {
        self.step += 1;
        let step = self.step;
        let interval = &mut self.interval;
        interval.from_secs = START + STEP_SECS * (step - 1);
        interval.to_secs = START + STEP_SECS * step;
        for pair in &mut interval.pairs {
            pair.traffic.bytes = pair.traffic.bytes.map(|bytes| bytes + 1_517);
            pair.traffic.packets = pair.traffic.packets.map(|packets| packets + 1);
        }
        interval.clone()
    }

    /// Every file once in a daemon that has just started, with the bytes made before.
    fn first_touch(&mut self) {
        let interval = self.next();
        let stream = self.stream(&interval);
        let started = Instant::now();
        push(&self.socket, &stream);
        self.figures.first_touch_rate = self.files.len() as f64 / started.elapsed().as_secs_f64();
    }

    /// What it takes to walk over an interval's updates, and to make their lines.
    fn measure_walk(&mut self) {
        let mut feed =
            Feed::new(Tree::open(&self.root).unwrap(), Share::default(), Create::OnTraffic);
        let interval = self.next();
        feed.prepare(&interval).unwrap();
        let span = feed.span(&interval);
        let mut times = [const { Vec::new() }; 2];
        let mut lines = Vec::with_capacity(1 << 20);
        for round in 0..10 {
            let started = Instant::now();
            let mut count = 0u64;
            let walk = feed.try_each(&interval, |update| {
                count += 1;
                if round % 2 == 1 {
                    if lines.len() > 1 << 19 {
                        lines.clear();
                    }
                    lines.extend_from_slice(b"UPDATE ");
                    lines.extend_from_slice(self.root.as_os_str().as_encoded_bytes());
                    lines.push(b'/');
                    update.file.write_path(&mut lines);
                    lines.push(b' ');
                    update.write_values(&span, update.lead(&span, true), &mut lines);
                    lines.push(b'\n');
                } else {
                    std::hint::black_box(update.totals);
                }
                Ok::<_, ()>(())
            });
            walk.unwrap();
            times[round % 2].push(started.elapsed().as_nanos() as f64 / count as f64);
        }
        self.figures.walk_nanos = median(&times[0]);
        self.figures.format_nanos = median(&times[1]) - self.figures.walk_nanos;
    }

    /// A turn of one way: an interval that does not count, and some that do.
    fn turn(&mut self, way: Way) {
        // What other ways wrote is a hole for this one's sink: of a step, for all of them.
        self.step += 1;
        let mut seconds = Vec::new();
        for number in 0..=INTERVALS {
            let interval = self.next();
            let (updates, elapsed) = self.write(way, &interval, number == INTERVALS);
            if number > 0 {
                self.figures.rates.entry(way).or_default().push(updates as f64 / elapsed);
                seconds.push(elapsed);
            }
        }
        if way == Way::Batch {
            self.figures.batch_secs = median(&seconds);
        }
    }

    /// Writes an interval; how many updates in how many seconds.
    fn write(&mut self, way: Way, interval: &Interval, watch_memory: bool) -> (usize, f64) {
        let all = self.files.len();
        let sink: &mut dyn Sink = match way {
            Way::Batch => &mut self.batch,
            Way::Pipelined => &mut self.pipelined,
            Way::Direct(threads) => self.direct.get_mut(&threads).unwrap(),
            Way::BatchLimit => {
                let stream = self.stream(interval);
                let started = Instant::now();
                push(&self.socket, &stream);
                return (all, started.elapsed().as_secs_f64());
            }
            Way::OneByOne => return self.one_by_one(interval),
            Way::Librrd => {
                let started = Instant::now();
                self.librrd(interval);
                return (all, started.elapsed().as_secs_f64());
            }
            Way::DirectLimit(threads) => {
                let step = interval.to_secs / STEP_SECS;
                let started = Instant::now();
                self.bare(threads, step);
                return (all, started.elapsed().as_secs_f64());
            }
        };
        let before = if watch_memory { Some(resident("VmRSS")) } else { None };
        if watch_memory {
            // Makes the peak what is there now (proc_pid_clear_refs(5)).
            let _ = fs::write("/proc/self/clear_refs", "5");
        }
        let started = Instant::now();
        let receipt = sink.write(interval).unwrap();
        let elapsed = started.elapsed().as_secs_f64();
        if let Some(before) = before {
            self.figures.growth.insert(way, resident("VmHWM").saturating_sub(before));
        }
        assert_eq!(receipt.updates, all as u64, "{receipt:?}");
        assert_eq!(receipt.refused, 0, "{receipt:?}");
        (all, elapsed)
    }

    /// The lines of an interval, in batches as the product sends them.
    fn stream(&self, interval: &Interval) -> Vec<u8> {
        let feed = Feed::new(Tree::remote(&self.root), Share::default(), Create::All);
        let span = feed.span(interval);
        let mut stream = Vec::with_capacity(self.files.len() * 220);
        let mut count = 0;
        let walk = feed.try_each(interval, |update| {
            if count % CHUNK_LINES == 0 {
                stream.extend_from_slice(if count == 0 { b"BATCH\n" } else { b".\nBATCH\n" });
            }
            count += 1;
            stream.extend_from_slice(b"UPDATE ");
            stream.extend_from_slice(self.root.as_os_str().as_encoded_bytes());
            stream.push(b'/');
            update.file.write_path(&mut stream);
            stream.push(b' ');
            update.write_values(&span, ixflow::sink::Lead::None, &mut stream);
            stream.push(b'\n');
            Ok::<_, ()>(())
        });
        walk.unwrap();
        assert_eq!(count, self.files.len());
        stream.extend_from_slice(b".\n");
        stream
    }

    fn one_by_one(&self, interval: &Interval) -> (usize, f64) {
        let lines = self.stream(interval);
        let Address::Unix(socket) = &self.daemon.address else { unreachable!("as it is started") };
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let mut answer = String::new();
        let started = Instant::now();
        let updates = lines.split_inclusive(|&byte| byte == b'\n');
        let mut count = 0;
        for line in updates.filter(|line| line.starts_with(b"UPDATE")).take(ONE_BY_ONE) {
            stream.write_all(line).unwrap();
            answer.clear();
            answers.read_line(&mut answer).unwrap();
            assert!(answer.starts_with('0'), "{answer}");
            count += 1;
        }
        (count, started.elapsed().as_secs_f64())
    }

    fn librrd(&self, interval: &Interval) {
        let time = UNIX_EPOCH + Duration::from_secs(interval.to_secs);
        for (number, file) in self.files.iter().enumerate() {
            let rate = Datum::Float(number as f64 / 300.0);
            let update = [(BatchTime::Timestamp(time), [rate, rate])];
            update_all(&file.path(&self.root), Options::default(), &update).unwrap();
        }
    }

    /// What the kernel takes for the direct writer's work.
    fn bare(&self, threads: usize, step: u64) {
        let rows = ARCHIVES.iter().filter(|archive| step.is_multiple_of(archive.steps)).count();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((directory, names)) =
                        self.names.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                        let directory =
                            open(&self.root.join(directory), flags, Mode::empty()).unwrap();
                        for name in names {
                            touch(&directory, name, rows);
                        }
                    }
                });
            }
        });
    }
}

/// Files by their directories below the root.
fn by_directory(files: &[File]) -> Vec<(PathBuf, Vec<CString>)> {
    let mut all: Vec<(PathBuf, Vec<CString>)> = Vec::new();
    for file in files {
        let path = file.to_string();
        let (directory, name) = path.rsplit_once('/').unwrap();
        if all.last().is_none_or(|(last, _)| last.as_os_str() != directory) {
            all.push((directory.into(), Vec::new()));
        }
        all.last_mut().unwrap().1.push(CString::new(name).unwrap());
    }
    all
}

/// Opens, locks and reads a file, writes rows and what was read, and closes it.
fn touch(directory: &OwnedFd, name: &CStr, rows: usize) {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let handle = openat(directory, name, flags, Mode::empty()).unwrap();
    let file = fs::File::from(handle);
    let whole = libc::flock {
        l_type: libc::F_WRLCK.try_into().unwrap(),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    let mut header = [0; file::HEADER_BYTES];
    file.read_exact_at(&mut header, 0).unwrap();
    for row in 0..rows as u64 {
        file.write_all_at(&[0; 16], file::HEADER_BYTES as u64 + row * 9_600).unwrap();
    }
    let changing = file::LAST_UPDATE.start;
    file.write_all_at(&header[changing..], changing as u64).unwrap();
}

/// Pushes bytes into rrdcached's socket, and drains what it says.
fn push(socket: &Path, stream: &[u8]) {
    let mut writer = UnixStream::connect(socket).unwrap();
    let reader = writer.try_clone().unwrap();
    let batches = stream.windows(6).filter(|window| window == b"BATCH\n").count();
    thread::scope(|scope| {
        let draining = scope.spawn(move || {
            let mut reader = BufReader::with_capacity(1 << 16, reader);
            let mut line = String::new();
            for _ in 0..2 * batches {
                line.clear();
                reader.read_line(&mut line).unwrap();
                assert!(line.starts_with('0'), "{line}");
            }
        });
        writer.write_all(stream).unwrap();
        draining.join().unwrap();
    });
}

/// The paths of an exchange in which all speak with all, in order.
fn files(members: u32) -> Vec<File> {
    let mut files = Vec::new();
    for protocol in IpProtocol::ALL {
        for unit in Unit::ALL {
            files.push(File::Aggregate {
                protocol,
                unit,
                vlan: VlanTag::new(10),
                infrastructure: None,
            });
            for vli in (1..=members).map(VliId) {
                files.push(File::Individual { protocol, unit, vli });
            }
            for vli in (1..=members).map(VliId) {
                for peer in (1..=members).map(VliId).filter(|&peer| peer != vli) {
                    files.push(File::Pair { protocol, unit, vli, peer });
                }
            }
        }
    }
    files
}

fn interval(members: u32, idle: f64) -> Interval {
    let mut pairs = Vec::new();
    for source in 1..=members {
        for destination in (1..=members).filter(|&destination| destination != source) {
            // Both directions of a pair, or none.
            let noise = (source * destination).wrapping_mul(2_654_435_761) >> 8;
            if f64::from(noise % 1_000) < 1_000.0 * idle {
                continue;
            }
            let bytes = u64::from(source + destination).pow(3) * 1_000_003;
            let bytes = [bytes, bytes / 7 + 1];
            let packets = bytes.map(|bytes| bytes / 700 + 1);
            let traffic = Traffic { bytes, packets, samples: [1, 1] };
            let (source, destination) = (VliId(source), VliId(destination));
            pairs.push(PairTraffic { source, destination, traffic });
        }
    }
    let lan = Lan {
        infrastructure: InfrastructureId(1),
        vlan: VlanTag::new(10),
        vlis: (1..=members).map(VliId).collect(),
    };
    Interval {
        from_secs: START,
        to_secs: START + STEP_SECS,
        after_hole: false,
        lans: Arc::from([lan]),
        pairs,
        vlans: Vec::new(),
    }
}

/// Makes hard links of a few files, by two threads.
fn link(root: &Path, files: &[File]) {
    let directories = by_directory(files);
    let sources = root.with_file_name("sources");
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..2 {
            let (directories, sources, next) = (&directories, &sources, &next);
            scope.spawn(move || {
                let mut links = 0;
                let mut source = PathBuf::new();
                let at = |path: &Path| {
                    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                    open(path, flags, Mode::empty()).unwrap()
                };
                while let Some((directory, names)) =
                    directories.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    fs::create_dir_all(root.join(directory)).unwrap();
                    let directory = at(&root.join(directory));
                    for name in names {
                        if links % LINKS_MAX == 0 {
                            source = sources.join(format!("{number}-{links}.rrd"));
                            assert!(file::create(&source, START).unwrap());
                        }
                        links += 1;
                        linkat(&directory, &source, &directory, name.as_c_str(), AtFlags::empty())
                            .unwrap();
                    }
                }
            });
        }
    });
}

/// A figure of proc_pid_status(5), in bytes.
fn resident(name: &str) -> u64 {
    let mut status = String::new();
    fs::File::open("/proc/self/status").unwrap().read_to_string(&mut status).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
