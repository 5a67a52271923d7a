//! Hostile datagrams between good ones, through real sockets: the good ones count exactly, the
//! others are accounted for by name, and nothing grows with what they claim.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use ixflow::agent::Agents;
use ixflow::count::Traffic;
use ixflow::decode::{CountersSample, Datagram, FlowSample, Visitor};
use ixflow::flush::Interval;
use ixflow::loss::{Loss, Losses};
use ixflow::resolve::{MacTable, Plan, Policy};
use ixflow::simulate::Fabric;
use ixflow::sink::{Receipt, Sink, SinkError};

use crate::support::datagram::{announcing, block, datagram, flow, raw, words};
use crate::support::path::{Running, START_SECS};

/// Sums up what it is given.
struct SumSink(Arc<[AtomicU64; 3]>);

impl Sink for SumSink {
    fn write(&mut self, interval: &Interval) -> Result<Receipt, SinkError> {
        for Traffic { bytes, packets, samples } in interval.pairs.iter().map(|pair| pair.traffic) {
            let samples = samples.map(u64::from);
            for (sum, values) in self.0.iter().zip([bytes, packets, samples]) {
                sum.fetch_add(values.iter().sum(), Ordering::Relaxed);
            }
        }
        Ok(Receipt::default())
    }

    fn describe(&self) -> String {
        "sums".into()
    }
}

/// What decode alone says of a datagram: its refusals, and how many flow and counters samples.
#[derive(Default)]
struct Alone {
    losses: Losses,
    flow_samples: u64,
    counters_samples: u64,
}

impl Visitor for Alone {
    fn flow_sample(&mut self, _: &FlowSample<'_>) {
        self.flow_samples += 1;
    }

    fn counters_sample(&mut self, _: &CountersSample) {
        self.counters_samples += 1;
    }

    fn refused(&mut self, loss: Loss, times: u64) {
        self.losses.count_many(loss, times);
    }
}

impl Alone {
    fn read(&mut self, payload: &[u8]) {
        match Datagram::parse(payload) {
            Ok(datagram) => datagram.visit(self),
            Err(loss) => self.losses.count(loss),
        }
    }
}

/// SplitMix64: the same attack in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// A datagram that means harm, made of a good one.
fn hostile(random: &mut Random, good: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    match random.below(6) {
        // Random from the first byte.
        0 => {
            let length = random.below(1_400);
            return (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
        }
        // Random behind a good header.
        1 => {
            for byte in &mut bytes[28..] {
                *byte = random.next().to_le_bytes()[0];
            }
        }
        // Cut off.
        2 => bytes.truncate(random.below(good.len())),
        // Some bytes changed, among which lengths and counts.
        3 => {
            for _ in 0..=random.below(8) {
                let place = random.below(bytes.len());
                bytes[place] = random.next().to_le_bytes()[0];
            }
        }
        // A word of all ones: the largest length, count or rate.
        4 => {
            let place = random.below(bytes.len() / 4) * 4;
            bytes[place..place + 4].fill(0xff);
        }
        // Random sequence number and agent, so that agents seem without number.
        _ => {
            for byte in &mut bytes[8..24] {
                *byte = random.next().to_le_bytes()[0];
            }
        }
    }
    bytes
}

#[test]
fn good_samples_count_between_hostile_ones() {
    const AGENTS_MAX: usize = 8;
    const SOURCES_MAX: usize = 16;
    // Whoever tries cannot guess the addresses of the table: hostile samples are not counted but
    // where they are a good one that was changed, which the truth could not tell. So the good
    // ones speak on an exchange of their own.
    let good = Fabric::from_toml(
        "members = 4\nsampling_rate = 509\ncounters_interval_secs = 20\n[noise]\narp = 0.1\n",
    );
    let good = good.unwrap();
    let members: String = (1..=4)
        .map(|n| {
            format!(
                "[[infrastructure.vlan.member]]\nswitch = {}\n\
                 macs = [\"0a:00:00:00:{n:02}:01\", \"0a:00:00:00:{n:02}:02\"]\n",
                n % 2
            )
        })
        .collect();
    let other = Fabric::from_toml(&format!(
        "seed = 3\n[[infrastructure]]\nid = 9\n[[infrastructure.vlan]]\ntag = 999\n{members}"
    ));
    let other = other.unwrap();
    let (table, _) = MacTable::build(&good.mac_table()).unwrap();
    let sums: Arc<[AtomicU64; 3]> = Arc::default();
    let plan = Plan { table, policy: Policy::default() };
    let agents = Agents::new(AGENTS_MAX, SOURCES_MAX);
    let sink = Box::new(SumSink(sums.clone()));
    let mut running = Running::start(2, agents, plan, sink, START_SECS * 1_000);

    let mut voice = good.generator(START_SECS * 1_000, 100).with_truth(300);
    let mut victim = other.generator(START_SECS * 1_000, 100);
    let mut random = Random(42);
    let (mut payload, mut model) = (Vec::new(), Vec::new());
    let mut alone = Alone::default();
    let mut datagrams = 0;
    for round in 0..2_000 {
        voice.generate(&mut payload);
        alone.read(&payload);
        running.send(0, false, &payload);
        victim.generate(&mut model);
        let attack = hostile(&mut random, &model);
        alone.read(&attack);
        running.send(1 + round % 7, round % 2 == 0, &attack);
        datagrams += 2;
    }
    let totals = running.settle();
    let truth = voice.finish();
    running.pass_boundary(START_SECS + 300);
    let (state, result) = running.stop();
    result.unwrap();

    // The good ones, exactly.
    let mut said = [0; 3];
    for Traffic { bytes, packets, samples } in truth.pairs().iter().map(|pair| pair.traffic) {
        for (sum, values) in said.iter_mut().zip([bytes, packets, samples.map(u64::from)]) {
            *sum += values.iter().sum::<u64>();
        }
    }
    assert_eq!(sums.each_ref().map(|sum| sum.load(Ordering::Relaxed)), said);
    assert_eq!(totals.counted, said[2]);

    // The others, by name: those that decode refuses, as it does alone, and all samples.
    assert_eq!(totals.datagrams, datagrams);
    assert_eq!(totals.flow_samples, alone.flow_samples);
    assert_eq!(totals.counters_samples, alone.counters_samples);
    for loss in [
        Loss::DatagramTruncated,
        Loss::WrongVersion,
        Loss::BadAgentAddress,
        Loss::SampleOverrun,
        Loss::SampleMissing,
        Loss::SampleTruncated,
        Loss::RecordOverrun,
        Loss::RecordTruncated,
    ] {
        assert_eq!(totals.losses.of(loss), alone.losses.of(loss), "{}", loss.name());
    }
    let refused: u64 = alone.losses.iter().map(|(_, count)| count).sum();
    let lost: u64 = totals.losses.iter().map(|(_, count)| count).sum();
    assert_eq!(totals.counted + lost, totals.flow_samples + refused);
    assert!(refused > 1_000, "{refused}");

    // What is remembered is bounded, and what is beyond is counted.
    let list = state.agents.list();
    assert!(list.len() <= AGENTS_MAX + 1, "{} agents", list.len());
    let sources: usize = list.iter().map(|agent| agent.state().sources.len()).sum();
    assert!(sources <= SOURCES_MAX, "{sources} data sources");
    assert!(state.agents.untracked_datagrams() > 100);
}

#[test]
fn what_a_datagram_claims_costs_nothing() {
    let fabric = Fabric::from_toml("members = 2").unwrap();
    let (table, _) = MacTable::build(&fabric.mac_table()).unwrap();
    let plan = Plan { table, policy: Policy::default() };
    let sink = Box::new(SumSink(Arc::default()));
    let agents = Agents::new(2, 4);
    let mut running = Running::start(1, agents, plan, sink, START_SECS * 1_000);
    // Samples and records without number, in few bytes.
    let claims = [
        announcing(u32::MAX, &[]),
        announcing(u32::MAX, &[words(&[1, u32::MAX])]),
        datagram(&[block(1, &words(&[1, 3, 1, 1, 1, 3, 4, u32::MAX]))]),
        datagram(&[block(3, &words(&[1, 0, 3, 1, 1, 1, 0, 3, 0, 4, u32::MAX, 1, u32::MAX]))]),
        datagram(&[block(2, &words(&[1, 3, u32::MAX]))]),
        datagram(&[flow(1, &[block(1, &words(&[1, 1_000, 4, u32::MAX]))])]),
        // The most samples that a datagram can hold, all empty.
        announcing(u32::MAX, &vec![words(&[5, 0]); (65_507 - 28) / 8]),
        // Each from a data source of its own.
        datagram(
            &(0..500)
                .map(|index| {
                    let fields = words(&[1, index, 1, 1, 0, index, 4, 1]);
                    block(1, &[fields, raw(64, &[0; 14])].concat())
                })
                .collect::<Vec<_>>(),
        ),
    ];
    let mut alone = Alone::default();
    for claim in &claims {
        alone.read(claim);
        running.send(0, false, claim);
    }
    let totals = running.settle();
    assert_eq!(totals.datagrams, claims.len() as u64);
    assert_eq!(totals.flow_samples, alone.flow_samples);
    // What is announced is believed up to what the longest datagram could hold.
    assert!(totals.losses.of(Loss::SampleMissing) <= 3 * 8_188, "{:?}", totals.losses);
    let list = running.state.agents.list();
    let sources: usize = list.iter().map(|agent| agent.state().sources.len()).sum();
    assert_eq!((list.len(), sources), (1, 4));
    assert_eq!(list[0].state().untracked_samples, 496);
    let (state, result) = running.stop();
    result.unwrap();
    assert_eq!(state.agents.totals().datagrams, claims.len() as u64);
}
