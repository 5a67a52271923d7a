//! The tree over time: files that were there before, members that come and go, files of members
//! that left.

use std::fs;
use std::path::Path;
use std::process::Command;

use ixflow::sink::File;
use ixflow::sink::librrd::fetch;

use crate::sink::{START, assert_rates, benches, bytes, bytes4, individual, interval};
use crate::support::rrdcached as daemon;

/// The archives of the incumbent, as sflow-to-rrd-handler gives them to librrd.
const ARCHIVES: [&str; 8] = [
    "RRA:AVERAGE:0.5:1:600",
    "RRA:MAX:0.5:1:600",
    "RRA:AVERAGE:0.5:6:700",
    "RRA:MAX:0.5:6:700",
    "RRA:AVERAGE:0.5:24:750",
    "RRA:MAX:0.5:24:750",
    "RRA:AVERAGE:0.5:288:3650",
    "RRA:MAX:0.5:288:3650",
];

const SOURCES: [&str; 2] = ["DS:traffic_in:GAUGE:600:U:U", "DS:traffic_out:GAUGE:600:U:U"];

fn rrdtool(command: &str, path: &Path, arguments: &[&str]) {
    let mut rrdtool = Command::new("rrdtool");
    let output = rrdtool.arg(command).arg(path).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A file as somebody else made it, with a history of NaN, and fed.
fn foreign(path: &Path, step: &str, sources: &[&str], archives: &[&str], updates: &[String]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let start = (START - 3000).to_string();
    let arguments = [&["--start", &start, "--step", step], sources, archives].concat();
    rrdtool("create", path, &arguments);
    if !updates.is_empty() {
        rrdtool("update", path, &updates.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn a_tree_of_the_incumbent_is_taken_over() {
    if !daemon::is_installed() {
        return;
    }
    for (name, mut bench) in benches() {
        // Off the boundary; newer than the start of observation; newer than the first boundary.
        let [before, inside, ahead] = [bytes4(1, 2), bytes4(2, 1), individual(1)];
        for (file, last) in [(before, START + 17), (inside, START + 77), (ahead, START + 310)] {
            let updates = [START - 200, last].map(|at| format!("{at}:7:9"));
            foreign(&bench.path(file), "300", &SOURCES, &ARCHIVES, &updates);
        }
        bench.give_to_daemon();
        // Observation begins at a minute of the first step.
        let mut first = interval(&[1, 2], &[(1, 2)], START + 60, START + 300);
        first.after_hole = true;
        let receipt = bench.write(&first);
        assert_eq!((receipt.refused, receipt.ahead), (0, 1), "{name}: {receipt:?}");
        assert_eq!(receipt.accepted, receipt.updates - 1, "{name}: {receipt:?}");
        let sent = bytes(1, 2, START + 300)[0] as f64 / 240.0;
        // 17 s of the incumbent's, 43 unknown, the rest ours.
        let [_, rate] = bench.average(before, START + 300);
        let truth = (17.0 * 9.0 + 240.0 * sent) / 257.0;
        assert!((rate / truth - 1.0).abs() < 1e-9, "{name}: {rate} {truth}");
        let [rate, _] = bench.average(inside, START + 300);
        let truth = (77.0 * 7.0 + 223.0 * sent) / 300.0;
        assert!((rate / truth - 1.0).abs() < 1e-9, "{name}: {rate} {truth}");

        // From then on it is as if they were ours; also the one that was ahead.
        for end in [START + 600, START + 900] {
            let receipt = bench.write(&interval(&[1, 2], &[(1, 2)], end - 300, end));
            assert_eq!(receipt.accepted, receipt.updates, "{name}: {receipt:?}");
            let [sent, _] = bytes(1, 2, end);
            assert_rates(bench.average(before, end), [0, sent], name);
            assert_rates(bench.average(inside, end), [sent, 0], name);
        }
        let [sent, _] = bytes(1, 2, START + 900);
        assert_rates(bench.average(ahead, START + 900), [sent, 0], name);
        // What was unknown stays so.
        assert!(bench.average(before, START - 900)[0].is_nan(), "{name}");
        assert!(bench.sink.findings().is_empty(), "{name}");
    }
}

#[test]
fn files_that_are_not_ours_are_fed_if_their_data_sources_fit_and_else_left_alone() {
    if !daemon::is_installed() {
        return;
    }
    for (name, mut bench) in benches() {
        let fed: [(File, &str, &[&str]); 2] =
            [(bytes4(1, 2), "60", &ARCHIVES), (bytes4(2, 1), "300", &ARCHIVES[..2])];
        for (file, step, archives) in fed {
            foreign(&bench.path(file), step, &SOURCES, archives, &[]);
        }
        let other = ["DS:traffic_in:GAUGE:120:U:U", "DS:traffic_out:GAUGE:120:U:U"];
        let swapped = [SOURCES[1], SOURCES[0]];
        let left_alone: [(File, Vec<&str>); 4] = [
            (bytes4(1, 3), vec!["DS:ds0:GAUGE:600:U:U", "DS:ds1:GAUGE:600:U:U"]),
            (bytes4(3, 1), vec![SOURCES[0]]),
            (individual(1), swapped.to_vec()),
            (individual(2), other.to_vec()),
        ];
        let mut before = Vec::new();
        for (file, sources) in &left_alone {
            foreign(&bench.path(*file), "300", sources, &ARCHIVES, &[]);
            before.push(fs::read(bench.path(*file)).unwrap());
        }
        bench.give_to_daemon();
        for step in [1, 2, 3] {
            let end = START + 300 * step;
            let interval = interval(&[1, 2, 3], &[(1, 2), (1, 3)], end - 300, end);
            let receipt = bench.write(&interval);
            assert_eq!((receipt.left_alone, receipt.refused), (4, 0), "{name}: {receipt:?}");
            assert_eq!(receipt.accepted, receipt.updates - 4, "{name}: {receipt:?}");
        }
        let end = START + 900;
        let [sent, _] = bytes(1, 2, end);
        assert_rates(bench.average(bytes4(2, 1), end), [sent, 0], name);
        if let Some(daemon) = &bench.daemon {
            daemon.flush(&bench.path(bytes4(1, 2)));
        }
        // Each minute of the finer file has the rate of the whole step.
        let average = ixflow::sink::Consolidation::Average;
        let rows = fetch(&bench.path(bytes4(1, 2)), average, end - 300, end, 60).unwrap();
        let rows: Vec<_> = rows.iter().filter(|row| row.end_secs > end - 300).collect();
        assert_eq!(rows.len(), 5, "{name}");
        for row in rows {
            assert_rates(row.values, [0, sent], name);
        }
        // Said in one finding, and not touched.
        let findings = bench.sink.findings();
        assert_eq!(findings.len(), 1, "{name}: {findings:?}");
        assert!(findings[0].what.starts_with("4 files"), "{name}: {findings:?}");
        if let Some(daemon) = bench.daemon.take() {
            daemon.stop();
        }
        for ((file, _), before) in left_alone.iter().zip(before) {
            assert_eq!(fs::read(file.path(&bench.root())).unwrap(), before, "{name}: {file}");
        }
    }
}
