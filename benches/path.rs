//! What a sample costs on one core, stage by stage, from a real socket on the loopback.
//!
//! A round fills the socket's buffer, and then times how long it takes to empty it: receive and
//! throw away, receive and decode, and the whole worker (receive, decode, resolve, count, the
//! agents' books). The stages take turns within a run, because machines are shared: ratios hold
//! where absolutes move. A second table feeds workers from memory, one and two of them.
//!
//! usage: cargo bench --bench path [-- --rounds N]
//!        valgrind --tool=callgrind target/release/deps/path-* --instructions LAPS STAGE
//!        (decode, resolve, count or whole, each with those before it; the difference of a run of
//!        three laps and one of two is a lap)

use std::hint::black_box;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use ixflow::agent::Agents;
use ixflow::clock::Clock;
use ixflow::count::{Hit, Ledger};
use ixflow::decode::ethernet::Frame;
use ixflow::decode::{CountersSample, Datagram, FlowSample, Visitor};
use ixflow::ixp::VlanTag;
use ixflow::loss::Loss;
use ixflow::receive::{Batch, Received, Source, UdpSockets, UdpSource};
use ixflow::resolve::{MacTable, Plan, Policy};
use ixflow::simulate::{Fabric, RingSource};
use ixflow::state::State;
use ixflow::worker::{Epoch, Worker};

const MEMBERS: [u32; 3] = [100, 1_000, 2_500];

/// Datagrams in a round: what a buffer of 64 MiB holds, with room to spare.
const ROUND_DATAGRAMS: usize = 16_000;

/// Rounds before the first that counts: ledgers and books grow to their size.
const WARM_ROUNDS: usize = 5;

/// Datagrams that are rendered for a fabric.
const RENDERED_DATAGRAMS: usize = 32_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut rounds = 9;
    while let Some(argument) = arguments.next() {
        if argument == "--instructions" {
            // For `valgrind --tool=callgrind`: the difference of two runs is one lap more.
            let laps = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1);
            let fed = fabric(1_000, 6);
            let source = RingSource::new(fed.datagrams.to_vec(), laps, 1_700_000_000_000);
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
            let samples = fed.datagrams.len() as f64 * fed.samples_per_datagram;
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
    datagrams: Arc<Vec<(SocketAddr, Vec<u8>)>>,
    samples_per_datagram: f64,
}

fn fabric(members: u32, samples_per_datagram: u32) -> Fed {
    let toml =
        format!("members = {members}\nagents = 16\nsamples_per_datagram = {samples_per_datagram}");
    let fabric = Fabric::from_toml(&toml).expect("a valid fabric");
    let (table, _) = MacTable::build(&fabric.mac_table()).expect("a table of bounded size");
    let mut generator = fabric.generator(1_700_000_000_000, 1_000_000);
    let datagrams = generator.render(RENDERED_DATAGRAMS);
    let truth = generator.finish();
    Fed {
        plan: Plan { table, policy: Policy::default() },
        samples_per_datagram: truth.flow_samples as f64 / truth.datagrams as f64,
        datagrams: Arc::new(datagrams),
    }
}

fn measure(members: u32, rounds: usize) {
    let fed = Arc::new(fabric(members, 6));
    let bare = Stage::start(&fed, |_, source| drain(source, |_| {}));
    let decoded = Stage::start(&fed, |_, source| decode(source));
    let whole = Stage::start(&fed, |fed, source| work(&fed.plan, source));
    let mut results = [const { Vec::new() }; 6];
    for round in 0..rounds + WARM_ROUNDS {
        let socket = [&bare, &decoded, &whole].map(|stage| stage.round(round));
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
            && let Ok(frame) = Frame::parse(raw.header)
        {
            self.0 ^= frame.source.as_u64() ^ frame.destination.as_u64();
            self.0 += u64::from(raw.frame_length_bytes) * u64::from(sample.sampling_rate);
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
        let Ok(frame) = Frame::parse(raw.header) else { return };
        let Some(protocol) = frame.protocol else { return };
        let switch = sample.extended_switch.map_or([VlanTag::NONE; 2], |switch| {
            [VlanTag::new(switch.source_vlan), VlanTag::new(switch.destination_vlan)]
        });
        if let Ok(vlan) = self.table.vlan(frame.tags(), switch)
            && let Ok(cell) = self.table.pair(vlan, frame.source, frame.destination)
        {
            let sampling_rate = sample.sampling_rate;
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
    go: Sender<usize>,
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
                source: sockets.into_source(Clock::driven(1_700_000_000_000)),
                sender: UdpSocket::bind("127.0.0.1:0").expect("a socket"),
                round_datagrams: ROUND_DATAGRAMS.min(fits),
                left: 0,
                started: None,
                fed: fed.clone(),
                orders,
                report,
            };
            body(&fed, metered);
        });
        Stage { go, elapsed }
    }

    /// Nanoseconds a sample of one round.
    fn round(&self, round: usize) -> f64 {
        self.go.send(round).expect("the stage waits for orders");
        self.elapsed.recv().expect("the stage reports")
    }
}

/// Fills a socket when told to, and reports the time until it is empty.
struct Metered {
    source: UdpSource,
    sender: UdpSocket,
    target: SocketAddr,
    round_datagrams: usize,
    left: usize,
    started: Option<Instant>,
    fed: Arc<Fed>,
    orders: Receiver<usize>,
    report: Sender<f64>,
}

impl Source for Metered {
    fn receive(&mut self) -> io::Result<Batch> {
        if self.left == 0 {
            if let Some(started) = self.started.take() {
                let samples = self.round_datagrams as f64 * self.fed.samples_per_datagram;
                let nanos = started.elapsed().as_nanos() as f64;
                self.report.send(nanos / samples).expect("somebody measures");
            }
            let Ok(round) = self.orders.recv() else { return Ok(Batch::End) };
            let start = round * self.round_datagrams;
            for n in start..start + self.round_datagrams {
                let (_, payload) = &self.fed.datagrams[n % self.fed.datagrams.len()];
                self.sender.send_to(payload, self.target).expect("the loopback works");
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

/// Nanoseconds a sample of workers that are fed from memory, all together: by the clock, and as if
/// each had had a core to itself all the time.
fn memory_round(fed: &Fed, workers: usize) -> [f64; 2] {
    let laps = 16;
    let sources: Vec<_> = (0..workers)
        .map(|_| RingSource::new(fed.datagrams.to_vec(), laps, 1_700_000_000_000))
        .collect();
    let started = Instant::now();
    let on_core = std::thread::scope(|scope| {
        let threads: Vec<_> = sources
            .into_iter()
            .map(|source| {
                scope.spawn(|| {
                    work(&fed.plan, source);
                    on_core_nanos()
                })
            })
            .collect();
        let nanos = threads.into_iter().map(|thread| thread.join().expect("a worker ends well"));
        nanos.fold(0.0, f64::max)
    });
    let datagrams = fed.datagrams.len() as f64 * laps as f64 * workers as f64;
    let samples = datagrams * fed.samples_per_datagram;
    [started.elapsed().as_nanos() as f64 / samples, on_core / samples]
}

/// How long this thread was on a core: the first field of /proc/PID/schedstat, in nanoseconds
/// (the kernel's Documentation/scheduler/sched-stats.rst). Not a number where there is none.
fn on_core_nanos() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
}
