//! A simulated exchange speaks sFlow over UDP, and every digit of every file is what it said.

use std::collections::BTreeSet;
use std::path::Path;

use ixflow::agent::Totals;
use ixflow::loss::{Loss, Losses};
use ixflow::simulate::{Fabric, Truth};
use ixflow::sink::{Aggregates, File};

use crate::support::datagram::{
    announcing, block, datagram, flow, flow_content, flow_out, frame, raw,
};
use crate::support::datagram::{switch, words};
use crate::support::exchange::{Bench, FABRIC, Voice, assert_rate, expected, start};
use crate::support::path::{START_SECS, files_below};
use crate::support::rrdcached::{self as daemon, DOCUMENTED, OPEN};

/// What was received is what was said, and what is not counted has a name.
fn assert_conserved(totals: &Totals, truth: &Truth) {
    assert_eq!(totals.datagrams, truth.datagrams);
    assert_eq!(totals.flow_samples, truth.flow_samples);
    assert_eq!(totals.counters_samples, truth.counters_samples);
    assert_eq!(totals.losses, truth.losses);
    let lost: u64 = totals.losses.iter().map(|(_, count)| count).sum();
    assert_eq!(totals.counted + lost, totals.flow_samples);
    let samples = truth.pairs().into_iter().flat_map(|pair| pair.traffic.samples);
    let counted: u64 = samples.map(u64::from).sum();
    assert_eq!(totals.counted, counted);
}

fn every_file_holds_the_truth(bench: &Bench) {
    let fabric = Fabric::from_toml(FABRIC).unwrap();
    let mut voice = Voice::new(&fabric);
    let mut intervals = Vec::new();

    let mut running = start(&fabric, bench, START_SECS * 1_000);
    for end_secs in (1..=4).map(|step| START_SECS + 300 * step) {
        if end_secs == START_SECS + 900 {
            // Nobody says a word: the files that are there are fed zeros.
            voice.generator.pass_until(end_secs * 1_000);
        }
        intervals.push(voice.speak(&mut running, end_secs));
        running.pass_boundary(end_secs);
    }
    // Told to stop inside a step, and started again: the row is the sum of both parts.
    let stop_millis = (START_SECS + 1_200 + 137) * 1_000 + 400;
    let stop_secs = stop_millis / 1_000 + 1;
    let mut broken = voice.speak(&mut running, stop_secs);
    running.settle();
    running.set_millis(stop_millis);
    let totals = running.state.agents.totals();
    let (state, result) = running.stop();
    result.unwrap();
    assert_eq!(state.write().last_to_secs, stop_secs);
    assert_eq!(state.write().refused, 0);
    assert_eq!(state.socket_drops().unwrap_or(0), 0);
    assert_conserved(&totals, &voice.generator.clone().finish());
    for loss in [
        Loss::NotIp,
        Loss::UnknownVlan,
        Loss::Multicast,
        Loss::UnknownSource,
        Loss::UnknownDestination,
        Loss::SameVli,
        Loss::Direction,
        Loss::Discarded,
    ] {
        assert!(totals.losses.of(loss) > 0, "{} was not met", loss.name());
    }
    let (sequence, agent_drops) = state.agents.sequence_counts();
    assert_eq!((sequence.gaps, agent_drops), (0, 0));

    // Within the second in which it stopped.
    let mut running = start(&fabric, bench, stop_millis + 200);
    let rest = voice.speak(&mut running, START_SECS + 1_500);
    for (pair, traffic) in rest {
        broken.entry(pair).or_default().merge(&traffic);
    }
    intervals.push(broken);
    running.pass_boundary(START_SECS + 1_500);
    let (state, result) = running.stop();
    result.unwrap();
    assert_eq!(state.write().refused, 0);

    // Every file, every interval, both directions.
    let present: BTreeSet<String> = files_below(&bench.root()).into_iter().collect();
    let mut spoke = BTreeSet::new();
    let end_secs = START_SECS + 300 * intervals.len() as u64;
    let by_interval: Vec<_> =
        intervals.iter().map(|traffic| expected(&fabric, bench.aggregates, traffic)).collect();
    for (name, &(file, _)) in &by_interval[0] {
        let totals: Vec<[u64; 2]> = by_interval.iter().map(|files| files[name].1).collect();
        if matches!(file, File::Pair { .. }) && totals.iter().all(|totals| *totals == [0, 0]) {
            assert!(!present.contains(name), "{name} is of a pair that never spoke");
            continue;
        }
        spoke.insert(name.clone());
        let rows = bench.rows(file, START_SECS, end_secs);
        assert_eq!(rows.len(), totals.len(), "{name}");
        for (interval, (row, totals)) in rows.iter().zip(&totals).enumerate() {
            let ulps_max = if interval == 4 { 6 } else { 3 };
            for (rate, total) in row.iter().zip(totals) {
                let what = format!("{}: {name}, interval {interval}", bench.name);
                assert_rate(*rate, *total, ulps_max, &what);
            }
        }
    }
    assert_eq!(spoke, present);
    assert!(by_interval[2].values().all(|(_, totals)| *totals == [0, 0]), "an idle interval");
    let spoken: u64 = by_interval[0].values().map(|(_, totals)| totals[0]).sum();
    assert!(spoken > 1 << 33, "totals beyond 32 bits are met: {spoken}");
}

#[test]
fn through_an_open_rrdcached() {
    if daemon::is_installed() {
        every_file_holds_the_truth(&Bench::new("open rrdcached", Some(OPEN)));
    }
}

#[test]
fn through_the_documented_rrdcached() {
    if daemon::is_installed() {
        every_file_holds_the_truth(&Bench::new("documented rrdcached", Some(DOCUMENTED)));
    }
}

#[test]
fn directly() {
    every_file_holds_the_truth(&Bench::new("librrd", None));
}

/// Two infrastructures of the fabric use one tag: each has its aggregate, beside their sum.
#[test]
fn with_aggregates_of_infrastructures() {
    let aggregates = Aggregates::Infrastructure;
    every_file_holds_the_truth(&Bench { aggregates, ..Bench::new("librrd", None) });
    if daemon::is_installed() {
        let bench = Bench::new("documented rrdcached", Some(DOCUMENTED));
        every_file_holds_the_truth(&Bench { aggregates, ..bench });
    }
}

/// A datagram for each loss that the fabric does not make by itself, with its count.
fn faults(fabric: &Fabric) -> Vec<(Vec<u8>, Losses)> {
    let [first, second] = [&fabric.vlis()[0], &fabric.vlis()[1]];
    let vlan = first.vlan.as_u16();
    let across = fabric
        .vlis()
        .iter()
        .find(|vli| vli.vlan == first.vlan && vli.infrastructure != first.infrastructure)
        .unwrap();
    let [source, destination, beyond] = [first, second, across].map(|vli| vli.macs[0].octets());
    let good = frame(source, destination, vlan, 0x0800);
    let one = |sample: Vec<u8>| datagram(&[sample]);
    let length = |bytes: u32| one(flow(512, &[raw(bytes, &good)]));
    let overrun = [words(&[1, 5_000]), vec![0; 40]].concat();
    [
        (words(&[5, 1]), vec![(Loss::DatagramTruncated, 1)]),
        (words(&[4, 1, 2, 3, 4, 5, 6, 7]), vec![(Loss::WrongVersion, 1)]),
        // NetFlow v5 (its version is 16 bits wide).
        (words(&[0x0005_001e, 1, 2, 3, 4, 5]), vec![(Loss::WrongVersion, 1)]),
        (words(&[5, 3, 1, 2, 3, 4, 5, 6]), vec![(Loss::BadAgentAddress, 1)]),
        (announcing(3, &[overrun]), vec![(Loss::SampleOverrun, 1), (Loss::SampleMissing, 2)]),
        (announcing(7, &[]), vec![(Loss::SampleMissing, 7)]),
        (one(block(1, &words(&[1, 2, 3]))), vec![(Loss::SampleTruncated, 1)]),
        (one(block(1, &flow_content(512, 2, &[raw(999, &good)]))), vec![(Loss::RecordOverrun, 1)]),
        (one(flow(512, &[block(1001, &words(&[vlan.into()]))])), vec![(Loss::RecordTruncated, 1)]),
        (one(block(5, &[0; 40])), vec![(Loss::Discarded, 1)]),
        (one(flow(0, &[raw(999, &good)])), vec![(Loss::RateZero, 1)]),
        (one(flow(512, &[switch(vlan.into())])), vec![(Loss::NoEthernet, 1)]),
        (one(flow(512, &[raw(999, &good[..13])])), vec![(Loss::HeaderTruncated, 1)]),
        (length(63), vec![(Loss::ImplausibleLength, 1)]),
        (length(16_385), vec![(Loss::ImplausibleLength, 1)]),
        (
            one(flow(512, &[raw(999, &frame(source, beyond, vlan, 0x0800))])),
            vec![(Loss::AcrossInfrastructures, 1)],
        ),
        (
            one(flow(512, &[raw(999, &frame(source, [0xff; 6], vlan, 0x0800))])),
            vec![(Loss::Broadcast, 1)],
        ),
        // A backbone service tag, and the customer's frame in it.
        (
            one(flow(
                512,
                &[raw(999, &frame([2, 9, 0, 0, 0, 1], [2, 9, 0, 0, 0, 2], vlan, 0x88e7))],
            )),
            vec![(Loss::Encapsulated, 1)],
        ),
        (
            one(flow_out(512, 0x8000_0003, &[raw(999, &frame(source, [2; 6], vlan, 0x0800))])),
            vec![(Loss::Flooded, 1)],
        ),
    ]
    .into_iter()
    .map(|(payload, counts)| {
        let mut losses = Losses::default();
        for (loss, count) in counts {
            losses.count_many(loss, count);
        }
        (payload, losses)
    })
    .collect()
}

#[test]
fn whatever_is_not_counted_has_a_name() {
    let bench = Bench::new("librrd", None);
    let fabric = Fabric::from_toml(FABRIC).unwrap();
    let mut voice = Voice::new(&fabric);
    let mut running = start(&fabric, &bench, START_SECS * 1_000);
    let said = voice.speak(&mut running, START_SECS + 300);
    let mut losses = Losses::default();
    for (payload, expected) in faults(&fabric) {
        let before = running.settle();
        running.send(9, false, &payload);
        let news = running.settle().since(&before);
        assert_eq!(news.losses, expected, "{payload:?}");
        assert_eq!((news.datagrams, news.counted), (1, 0));
        losses.merge(&expected);
    }
    running.send_from("127.0.0.2", &datagram(&[]));
    losses.count(Loss::SourceRefused);
    let totals = running.settle();
    let truth = voice.generator.clone().finish();
    losses.merge(&truth.losses);
    assert_eq!(totals.losses, losses, "{:?}", running.state.agents.refused());
    // The longest UDP payload fits into the receive buffers, and the table is there.
    // Core ports are left out where the policy says so (tests/policy.rs).
    let elsewhere = [Loss::DatagramOversized, Loss::NoTable, Loss::CorePort];
    for &loss in Loss::ALL.iter().filter(|loss| !elsewhere.contains(loss)) {
        assert!(losses.of(loss) > 0, "{} was not met", loss.name());
    }
    let refused = running.state.agents.refused();
    assert_eq!(refused.senders[&("127.0.0.2".parse().unwrap(), Loss::SourceRefused)], 1);
    running.pass_boundary(START_SECS + 300);
    let (state, result) = running.stop();
    result.unwrap();
    assert_eq!(state.write().refused, 0);
    for (name, (file, totals)) in expected(&fabric, bench.aggregates, &said) {
        if !Path::new(&bench.root().join(&name)).exists() {
            assert_eq!(totals, [0, 0], "{name}");
            continue;
        }
        for (rate, total) in bench.rows(file, START_SECS, START_SECS + 300)[0].iter().zip(totals) {
            assert_rate(*rate, total, 3, &name);
        }
    }
}
