//! What a sample costs on one core, stage by stage, from a real socket on the loopback.
//!
//! A round fills the socket's buffer, and then times how long it takes to empty it: receive and
//! throw away, receive and decode, and the whole worker (receive, decode, resolve, count, the
//! agents' books). The stages take turns within a run, because machines are shared: ratios hold
//! where absolutes move. A second table feeds workers from memory, one and two of them.
//!
//! No datagram comes twice: the numbers in repeated ones would fall back each time, and every
//! sample would take the way of those that come late.
//!
//! usage: cargo bench --bench path [-- --rounds N]
//!        valgrind --tool=callgrind target/release/deps/path-* --instructions LAPS STAGE
//!        (one to three laps; decode, resolve, count or whole, each with those before it; the
//!        difference of a run of three laps and one of two is a lap)

use std::hint::black_box;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use ixflow::agent::Agents;
use ixflow::clock::Clock;
use ixflow::count::{Hit, Ledger};
use ixflow::decode::ethernet::UsualFrame;
use ixflow::decode::{CountersSample, Datagram, FlowSample, Visitor};
use ixflow::ixp::VlanTag;
use ixflow::loss::Loss;
use ixflow::receive::{BATCH_MAX, Batch, Received, Source, UdpSockets, UdpSource};
use ixflow::resolve::{MacTable, Plan, Policy};
use ixflow::simulate::{DATAGRAM_MAX_BYTES, Fabric, Generator, RingSource};
use ixflow::state::State;
use ixflow::worker::{Epoch, Worker};

const MEMBERS: [u32; 3] = [100, 1_000, 2_500];

/// Datagrams in a round: what a buffer of 64 MiB holds, with room to spare.
const ROUND_DATAGRAMS: usize = 16_000;

/// Rounds before the first that counts: ledgers and books grow to their size.
const WARM_ROUNDS: usize = 5;

/// Datagrams of a lap from memory.
const LAP_DATAGRAMS: usize = 32_000;

/// Laps that are rendered to count instructions, however many of them are used.
const LAPS_MAX: usize = 3;

const START_MILLIS: u64 = 1_700_000_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut rounds = 9;
    while let Some(argument) = arguments.next() {
        if argument == "--instructions" {
            // For `valgrind --tool=callgrind`: the difference of two runs is one lap more.
            let laps = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1).min(LAPS_MAX);
            let mut fed = fabric(1_000, 6);
            let mut datagrams = fed.generator.render(LAPS_MAX * LAP_DATAGRAMS);
            datagrams.truncate(laps * LAP_DATAGRAMS);
            let source = RingSource::new(datagrams, 1, START_MILLIS);
            match arguments.next().as_deref() {
                Some("decode") => decode(source),
                Some("resolve") => resolve(&fed.plan.table, source, |_| {}),
                Some("count") => {
                    let mut ledger = Ledger::new(fed.plan.table.cell_count());
                    resolve(&fed.plan.table, source, |hits| ledger.count(hits));
                    black_box(ledger.iter().count());
                }
                _ => work(&fed.plan, source),
            }
            let samples = LAP_DATAGRAMS as f64 * fed.samples_per_datagram;
            println!("{samples} samples a lap");
            return;
        }
        if argument == "--rounds" {
            rounds = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(rounds);
        }
    }
    println!("ns per sample, medians of {rounds} rounds of {ROUND_DATAGRAMS} datagrams each\n");
    println!(
        "{:>8} {:>13} {:>9} {:>17} {:>12} {:>11} {:>13} {:>12}",
        "members",
        "receive only",
        "+ decode",
        "+ resolve, count",
        "whole/bare",
        "from memory",
        "two workers",
        "by CPU time"
    );
    for members in MEMBERS {
        measure(members, rounds);
    }
    println!(
        "\nwhole/bare: all stages over receive only. from memory: the worker without a socket.\n\
         two workers: samples a second of two workers over one, both fed from memory; by CPU time:\n\
         the same by the time that the threads were on a core, for a machine that has more to do."
    );
}

struct Fed {
    plan: Plan,
    generator: Generator,
    samples_per_datagram: f64,
}

fn fabric(members: u32, samples_per_datagram: u32) -> Fed {
    let toml =
        format!("members = {members}\nagents = 16\nsamples_per_datagram = {samples_per_datagram}");
    let fabric = Fabric::from_toml(&toml).expect("a valid fabric");
    let (table, _) = MacTable::build(&fabric.mac_table()).expect("a table of bounded size");
    let generator = fabric.generator(START_MILLIS, 1_000_000);
    let mut ahead = generator.clone();
    ahead.render(1_000);
    let truth = ahead.finish();
    Fed {
        plan: Plan { table, policy: Policy::default() },
        generator,
        samples_per_datagram: truth.flow_samples as f64 / truth.datagrams as f64,
    }
}

fn measure(members: u32, rounds: usize) {
    let fed = Arc::new(fabric(members, 6));
    let bare = Stage::start(&fed, |_, source| drain(source, |_| {}));
    let decoded = Stage::start(&fed, |_, source| decode(source));
    let whole = Stage::start(&fed, |fed, source| work(&fed.plan, source));
    let mut results = [const { Vec::new() }; 6];
    for round in 0..rounds + WARM_ROUNDS {
        let socket = [&bare, &decoded, &whole].map(Stage::round);
        let one = memory_round(&fed, 1);
        let two = memory_round(&fed, 2);
        if round >= WARM_ROUNDS {
            let speedups = [one[0] / two[0], one[1] / two[1]];
            let values = socket.into_iter().chain([one[0]]).chain(speedups);
            for (result, value) in results.iter_mut().zip(values) {
                result.push(value);
            }
        }
    }
    let [bare, decoded, whole, memory, two, by_cpu] = results.map(median);
    println!(
        "{members:>8} {bare:>13.1} {decoded:>9.1} {whole:>17.1} {:>12.2} {memory:>11.1} {two:>12.2}x \
         {by_cpu:>11.2}x",
        whole / bare
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a visitor does that must not be optimised away.
struct Sum(u64);

impl Visitor for Sum {
    #[inline]
    fn flow_sample(&mut self, sample: &FlowSample<'_>) {
        if let Some(raw) = sample.raw_packet_header
            && let Some(frame) = UsualFrame::parse(raw.header)
        {
            self.0 ^= frame.source.as_u64() ^ frame.destination.as_u64();
            self.0 += u64::from(raw.frame_length_bytes) * u64::from(sample.sampling_rate());
        }
    }

    fn counters_sample(&mut self, _: &CountersSample) {}

    fn refused(&mut self, loss: Loss, _: u64) {
        panic!("{}", loss.name());
    }
}

fn drain<S: Source>(mut source: S, mut each: impl FnMut(&[u8])) {
    while let Ok(Batch::Datagrams { count, .. }) = source.receive() {
        for index in 0..count {
            each(source.datagram(index).payload);
        }
    }
}

fn decode<S: Source>(source: S) {
    let mut sum = Sum(0);
    drain(source, |payload| {
        if let Ok(datagram) = Datagram::parse(payload) {
            datagram.visit(&mut sum);
        }
    });
    black_box(sum.0);
}

/// What a worker does with a sample but for the agents' books and the policy.
struct Resolve<'a> {
    table: &'a MacTable,
    hits: Vec<Hit>,
}

impl Visitor for Resolve<'_> {
    #[inline]
    fn flow_sample(&mut self, sample: &FlowSample<'_>) {
        let Some(raw) = sample.raw_packet_header else { return };
        let Some(frame) = UsualFrame::parse(raw.header) else { return };
        let vlan = match (frame.tag, sample.extended_switch) {
            (VlanTag::NONE, Some(switch)) => VlanTag::new(switch.source_vlan),
            (tag, _) => tag,
        };
        if let Some(cell) = self.table.usual_pair(vlan, frame.source, frame.destination) {
            let protocol = frame.protocol;
            let sampling_rate = sample.sampling_rate();
            let frame_length_bytes = raw.frame_length_bytes;
            self.hits.push(Hit { cell, sampling_rate, frame_length_bytes, protocol });
        }
    }

    fn counters_sample(&mut self, _: &CountersSample) {}

    fn refused(&mut self, loss: Loss, _: u64) {
        panic!("{}", loss.name());
    }
}

fn resolve<S: Source>(table: &MacTable, mut source: S, mut each: impl FnMut(&[Hit])) {
    let mut resolve = Resolve { table, hits: Vec::new() };
    while let Ok(Batch::Datagrams { count, .. }) = source.receive() {
        for index in 0..count {
            if let Ok(datagram) = Datagram::parse(source.datagram(index).payload) {
                datagram.visit(&mut resolve);
            }
        }
        each(black_box(&resolve.hits));
        resolve.hits.clear();
    }
}

fn work<S: Source>(plan: &Plan, source: S) {
    let state = Arc::new(State::new(Agents::new(4_096, 65_536), 1));
    let (out, handovers) = bounded(8);
    let (_, spares) = bounded(1);
    let epoch = Arc::new(Epoch::new(plan.clone()));
    let worker = Worker::new(0, source, None, 300, epoch, out, spares, state.clone());
    worker.run().expect("the loopback works");
    black_box(handovers.try_iter().count());
    let totals = state.agents.totals();
    assert_eq!(totals.counted, totals.flow_samples, "{:?}", totals.losses);
}

/// A stage in a thread of its own, which lives through all rounds as a worker does: its ledger
/// and its books are warm.
struct Stage {
    go: Sender<()>,
    elapsed: Receiver<f64>,
}

impl Stage {
    fn start(fed: &Arc<Fed>, body: impl FnOnce(&Fed, Metered) + Send + 'static) -> Stage {
        let (go, orders) = bounded(1);
        let (report, elapsed) = bounded(1);
        let fed = fed.clone();
        std::thread::spawn(move || {
            let listen: SocketAddr = "127.0.0.1:0".parse().expect("an address");
            let sockets = UdpSockets::bind(&[listen], 256 << 20).expect("a socket");
            let fits = sockets.receive_buffer_bytes() / 2_400;
            let metered = Metered {
                target: sockets.local_addresses()[0],
                source: sockets.into_source(Clock::driven(START_MILLIS)),
                sender: UdpSocket::bind("127.0.0.1:0").expect("a socket"),
                round_datagrams: ROUND_DATAGRAMS.min(fits),
                samples_per_datagram: fed.samples_per_datagram,
                left: 0,
                started: None,
                generator: fed.generator.clone(),
                payload: Vec::with_capacity(DATAGRAM_MAX_BYTES),
                orders,
                report,
            };
            body(&fed, metered);
        });
        Stage { go, elapsed }
    }

    /// Nanoseconds a sample of one round.
    fn round(&self) -> f64 {
        self.go.send(()).expect("the stage waits for orders");
        self.elapsed.recv().expect("the stage reports")
    }
}

/// Fills a socket when told to, and reports the time until it is empty.
struct Metered {
    source: UdpSource,
    sender: UdpSocket,
    target: SocketAddr,
    round_datagrams: usize,
    samples_per_datagram: f64,
    left: usize,
    started: Option<Instant>,
    generator: Generator,
    payload: Vec<u8>,
    orders: Receiver<()>,
    report: Sender<f64>,
}

impl Source for Metered {
    fn receive(&mut self) -> io::Result<Batch> {
        if self.left == 0 {
            if let Some(started) = self.started.take() {
                let samples = self.round_datagrams as f64 * self.samples_per_datagram;
                let nanos = started.elapsed().as_nanos() as f64;
                self.report.send(nanos / samples).expect("somebody measures");
            }
            let Ok(()) = self.orders.recv() else { return Ok(Batch::End) };
            for _ in 0..self.round_datagrams {
                self.generator.generate(&mut self.payload);
                self.sender.send_to(&self.payload, self.target).expect("the loopback works");
            }
            self.left = self.round_datagrams;
            self.started = Some(Instant::now());
        }
        let batch = self.source.receive()?;
        if let Batch::Datagrams { count, .. } = batch {
            assert!(count > 0, "the kernel dropped {} of a round", self.left);
            self.left -= count;
        }
        Ok(batch)
    }

    #[inline]
    fn datagram(&self, index: usize) -> Received<'_> {
        self.source.datagram(index)
    }
}

/// Laps from memory; between two of them the watch stands still, while all workers write their
/// next ones.
struct Laps {
    generator: Generator,
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    laps: usize,
    /// The first datagram of the batch, and the one after its last.
    batch: (usize, usize),
    watch: Arc<Watch>,
    all: Arc<Barrier>,
}

/// What of a worker's time was spent between laps, in nanoseconds by the clock and on a core.
#[derive(Default)]
struct Watch {
    stopped: Mutex<[f64; 2]>,
}

impl Watch {
    fn now(start: Instant) -> [f64; 2] {
        [start.elapsed().as_nanos() as f64, on_core_nanos()]
    }

    fn add(&self, from: [f64; 2], to: [f64; 2]) {
        let mut stopped = self.stopped.lock().expect("nobody panics while holding it");
        *stopped = [stopped[0] + to[0] - from[0], stopped[1] + to[1] - from[1]];
    }
}

impl Laps {
    fn new(generator: Generator, laps: usize, watch: Arc<Watch>, all: Arc<Barrier>) -> Laps {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
        let datagrams = vec![(nobody, Vec::with_capacity(DATAGRAM_MAX_BYTES)); LAP_DATAGRAMS];
        Laps { generator, datagrams, laps, batch: (0, 0), watch, all }
    }
}

impl Source for Laps {
    fn receive(&mut self) -> io::Result<Batch> {
        let (_, mut next) = self.batch;
        if next == 0 || next == self.datagrams.len() {
            if self.laps == 0 {
                return Ok(Batch::End);
            }
            self.laps -= 1;
            next = 0;
            let start = Instant::now();
            let from = Watch::now(start);
            self.all.wait();
            for (source, payload) in &mut self.datagrams {
                *source = self.generator.generate(payload).source;
            }
            self.all.wait();
            self.watch.add(from, Watch::now(start));
        }
        let end = (next + BATCH_MAX).min(self.datagrams.len());
        self.batch = (next, end);
        Ok(Batch::Datagrams { count: end - next, stamp_millis: START_MILLIS })
    }

    #[inline]
    fn datagram(&self, index: usize) -> Received<'_> {
        let (source, payload) = &self.datagrams[self.batch.0 + index];
        Received { source: *source, payload, truncated: false }
    }
}

/// Nanoseconds a sample of workers that are fed from memory, all together: by the clock, and as if
/// each had had a core to itself all the time.
fn memory_round(fed: &Fed, workers: usize) -> [f64; 2] {
    let laps = 16;
    let all = Arc::new(Barrier::new(workers));
    let nanos = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                let all = all.clone();
                scope.spawn(|| {
                    let watch = Arc::new(Watch::default());
                    let source = Laps::new(fed.generator.clone(), laps, watch.clone(), all);
                    let start = Instant::now();
                    let from = Watch::now(start);
                    work(&fed.plan, source);
                    let to = Watch::now(start);
                    let [clock, on_core] = *watch.stopped.lock().expect("the worker is done");
                    [to[0] - from[0] - clock, to[1] - from[1] - on_core]
                })
            })
            .collect();
        let nanos = threads.into_iter().map(|thread| thread.join().expect("a worker ends well"));
        nanos.fold([0.0, 0.0], |[a, b]: [f64; 2], [c, d]| [a.max(c), b.max(d)])
    });
    let datagrams = (LAP_DATAGRAMS * laps * workers) as f64;
    nanos.map(|nanos| nanos / (datagrams * fed.samples_per_datagram))
}

/// How long this thread was on a core: the first field of /proc/PID/schedstat, in nanoseconds
/// (the kernel's Documentation/scheduler/sched-stats.rst). Not a number where there is none.
fn on_core_nanos() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
}
