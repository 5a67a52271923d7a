//! What goes away comes back: rrdcached, the disk, the files, the time. In each case ingest goes
//! on, and in the end the files hold what was said, or a counter says what they lack.

use ixflow::simulate::Fabric;

use crate::support::exchange::{Bench, FABRIC, Pairs, Row, Voice, assert_rows, expected, start};
use crate::support::path::{Running, START_SECS};
use crate::support::rrdcached::{self as daemon, OPEN};

/// Rates through decimals, and a row of several updates, round more than once.
const ULPS_MAX: u64 = 6;

fn fabric() -> Fabric {
    Fabric::from_toml(FABRIC).unwrap()
}

/// Benches of every kind that can run here.
fn benches() -> Vec<Bench> {
    let mut benches = vec![Bench::new("librrd", None)];
    if daemon::is_installed() {
        benches.push(Bench::new("open rrdcached", Some(OPEN)));
    }
    benches
}

fn merge(mut one: Pairs, other: Pairs) -> Pairs {
    for (pair, traffic) in other {
        one.entry(pair).or_default().merge(&traffic);
    }
    one
}

/// Samples, packets and bytes.
fn sums(pairs: &Pairs) -> [u64; 3] {
    let mut sums = [0; 3];
    for traffic in pairs.values() {
        sums[0] += traffic.samples.iter().map(|&n| u64::from(n)).sum::<u64>();
        sums[1] += traffic.packets.iter().sum::<u64>();
        sums[2] += traffic.bytes.iter().sum::<u64>();
    }
    sums
}

/// Speaks a whole step, and passes its end.
fn whole_step(voice: &mut Voice, running: &mut Running, end_secs: u64) -> Row {
    let said = voice.speak(running, end_secs);
    running.pass_boundary(end_secs);
    Row::whole(said)
}

/// Of how many seconds the row behind `from_secs` is, by an aggregate of what was said in it.
fn implied_secs(bench: &Bench, fabric: &Fabric, said: &Pairs, from_secs: u64) -> f64 {
    let files = expected(fabric, said);
    let (file, [total, _]) = files["ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00010.rrd"];
    let [rate, _] = bench.rows(file, from_secs, from_secs + 300)[0];
    (total as f64 / rate).round()
}

/// Would break if what comes while the clock is behind were counted: the row would hold more
/// seconds than it has.
#[test]
fn a_clock_set_back_inflates_no_rate_and_what_is_lost_has_a_name() {
    let fabric = fabric();
    for bench in benches() {
        let mut voice = Voice::new(&fabric);
        let mut running = start(&fabric, &bench, START_SECS * 1_000);
        let mut rows = vec![whole_step(&mut voice, &mut running, START_SECS + 300)];
        let before = voice.speak(&mut running, START_SECS + 450);
        running.jump((START_SECS + 450) * 1_000);
        running.settle();
        // Back by six minutes, into the step before.
        running.jump((START_SECS + 90) * 1_000);
        let lost = voice.speak(&mut running, START_SECS + 500);
        // Another minute, still behind.
        running.jump((START_SECS + 160) * 1_000);
        let lost = merge(lost, voice.speak(&mut running, START_SECS + 520));
        running.jump((START_SECS + 450) * 1_000);
        let after = voice.speak(&mut running, START_SECS + 600);
        running.pass_boundary(START_SECS + 600);
        rows.push(Row::whole(merge(before, after)));
        rows.push(whole_step(&mut voice, &mut running, START_SECS + 900));
        let (state, result) = running.stop();
        result.unwrap();
        assert_rows(&bench, &fabric, START_SECS, &rows, ULPS_MAX);
        let named = state.write().clock_set_back;
        assert_eq!([named.samples, named.packets, named.bytes], sums(&lost), "{}", bench.name);
        assert!(named.samples > 100, "{named:?}");
        assert_eq!(state.agents.totals().flow_samples, voice.generator.finish().flow_samples);
    }
}

/// Would break if every step back of a clock that NTP corrects cost samples.
#[test]
fn a_clock_set_back_by_seconds_stands_still_and_costs_nothing() {
    let fabric = fabric();
    let bench = Bench::new("librrd", None);
    let mut voice = Voice::new(&fabric);
    let mut running = start(&fabric, &bench, START_SECS * 1_000);
    let before = voice.speak(&mut running, START_SECS + 150);
    running.jump((START_SECS + 150) * 1_000);
    running.settle();
    running.jump((START_SECS + 147) * 1_000);
    let after = voice.speak(&mut running, START_SECS + 300);
    running.pass_boundary(START_SECS + 300);
    let (state, result) = running.stop();
    result.unwrap();
    let rows = [Row::whole(merge(before, after))];
    assert_rows(&bench, &fabric, START_SECS, &rows, ULPS_MAX);
    assert_eq!(state.write().clock_set_back, Default::default());
}

/// Would break if time that was jumped over were taken for silence: the rates would be too low.
#[test]
fn a_clock_set_forward_leaves_a_hole_and_the_rates_right() {
    let fabric = fabric();
    for bench in benches() {
        let mut voice = Voice::new(&fabric);
        let mut running = start(&fabric, &bench, START_SECS * 1_000);
        let mut rows = vec![whole_step(&mut voice, &mut running, START_SECS + 300)];
        let before = voice.speak(&mut running, START_SECS + 480);
        running.jump((START_SECS + 500) * 1_000);
        // Heard at that time, so that it was seen.
        let before = merge(before, voice.speak(&mut running, START_SECS + 500));
        // Over the end of this step and of the next one: 460 s.
        running.jump((START_SECS + 960) * 1_000);
        running.settle();
        let after = voice.speak(&mut running, START_SECS + 740);
        running.pass_boundary(START_SECS + 1_200);
        let (state, result) = running.stop();
        result.unwrap();
        // Settling takes some seconds of the driven clock: how many, all files must agree on.
        let known_secs = implied_secs(&bench, &fabric, &before, START_SECS + 300);
        assert!((200.0..260.0).contains(&known_secs), "{known_secs}");
        rows.push(Row { said: before, known_secs });
        rows.push(Row::unknown());
        rows.push(Row { said: after, known_secs: 240.0 });
        assert_rows(&bench, &fabric, START_SECS, &rows, ULPS_MAX);
        assert_eq!(state.write().clock_set_back, Default::default());
    }
}
