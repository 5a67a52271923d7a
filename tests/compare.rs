//! `ixflow compare`, on trees that the daemon's own writer made.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use ixflow::count::Traffic;
use ixflow::flush::{Interval, PairTraffic, VlanTraffic};
use ixflow::ixp::{InfrastructureId, Mac, MacRecord, VlanTag, VliId};
use ixflow::resolve::{Lan, MacTable};
use ixflow::sink::direct::Direct;
use ixflow::sink::{Aggregates, Create, Sink, Tree};

use crate::support::ixflow::ixflow;
use crate::support::path::START_SECS;

/// Intervals of a tree.
const STEPS: u64 = 12;

fn lans(vlis: u8) -> Arc<[Lan]> {
    let record = |n| MacRecord {
        infrastructure: InfrastructureId(1),
        vlan: VlanTag::new(10),
        mac: Mac::from_octets([2, 0, 0, 0, 0, n]),
        vli: VliId(u32::from(n)),
    };
    let records: Vec<_> = (1..=vlis).map(record).collect();
    MacTable::build(&records).unwrap().0.lans().clone()
}

/// Writes steps in which 1 sends to 2, and 3 to 1, `bytes` and as many packets of 1,000 bytes.
fn write(root: &Path, create: Create, steps: std::ops::Range<u64>, bytes: [u64; 2]) {
    std::fs::create_dir_all(root).unwrap();
    write_by(Direct::new(Tree::open(root).unwrap(), create, 1).unwrap(), steps, bytes);
}

fn write_by(mut sink: Direct, steps: std::ops::Range<u64>, bytes: [u64; 2]) {
    for step in steps {
        let from_secs = START_SECS + step * 300;
        let pair = |source, destination, bytes| PairTraffic {
            source: VliId(source),
            destination: VliId(destination),
            traffic: Traffic { bytes: [bytes, 0], packets: [bytes / 1_000, 0], samples: [1, 0] },
        };
        let pairs = [pair(1, 2, bytes[0]), pair(3, 1, bytes[1])];
        let pairs: Vec<_> = pairs.into_iter().filter(|p| p.traffic.bytes[0] > 0).collect();
        let mut vlan = Traffic::default();
        pairs.iter().for_each(|pair| vlan.merge(&pair.traffic));
        let interval = Interval {
            from_secs,
            to_secs: from_secs + 300,
            after_hole: step == 0,
            lans: lans(3),
            pairs,
            vlans: vec![VlanTraffic {
                vlan: VlanTag::new(10),
                infrastructure: Some(InfrastructureId(1)),
                traffic: vlan,
            }],
        };
        let receipt = sink.write(&interval).unwrap();
        assert_eq!(receipt.refused, 0, "{receipt:?}");
    }
}

fn compare(left: &Path, right: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let from = START_SECS.to_string();
    let to = (START_SECS + STEPS * 300).to_string();
    let mut command = ixflow();
    command.arg("compare").args([left, right]).args(["--from", &from, "--to", &to]).args(more);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// The fields of the line that begins or ends with `name`.
fn fields<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.split_whitespace().any(|field| field == name));
    line.unwrap_or_else(|| panic!("no {name} in {table}")).split_whitespace().collect()
}

#[test]
fn equal_trees_are_equal_and_silent_files_no_difference() {
    let directory = tempfile::tempdir().unwrap();
    let [left, right] = ["left", "right"].map(|name| directory.path().join(name));
    write(&left, Create::All, 0..STEPS, [3_000_000, 6_000_000]);
    // Begins two steps later: what only one knows is no difference.
    write(&right, Create::OnTraffic, 2..STEPS, [3_000_000, 6_000_000]);
    let (code, table, errors) = compare(&left, &right, &["--tolerance", "0"]);
    // A new file begins with zeros, not with unknown: these two rows differ.
    assert_eq!((code, &*errors), (Some(1), ""), "{table}");
    let later = (START_SECS + 2 * 300).to_string();
    let mut command = ixflow();
    command.arg("compare").args([&left, &right]).args(["--tolerance", "0", "--from", &later]);
    let to = (START_SECS + (STEPS + 1) * 300).to_string();
    let output = command.args(["--to", &to]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{table}");
    // In both, differ, only left, only right, silent, left, right, ratio, difference.
    let pairs = fields(&table, "ipv4/bytes/p2p");
    // Both directions of two pairs; the third pair's two files say nothing.
    assert_eq!(pairs[1..6], ["4", "0", "0", "0", "2"], "{table}");
    // Ten steps of nine million bytes, in the files of both ends.
    assert_eq!(pairs[6..], ["180.000M", "180.000M", "1.00000", "0.000"], "{table}");
    assert_eq!(fields(&table, "ipv6/bytes/p2p")[1..6], ["0", "0", "0", "0", "6"], "{table}");
    assert_eq!(table.lines().count(), 4 + 1 + 12, "no file is listed: {table}");
}

#[test]
fn differences_are_sorted_and_the_tolerance_decides() {
    let directory = tempfile::tempdir().unwrap();
    let [left, right] = ["left", "right"].map(|name| directory.path().join(name));
    write(&left, Create::OnTraffic, 0..STEPS, [3_000_000, 6_000_000]);
    write(&right, Create::OnTraffic, 0..STEPS, [3_090_000, 6_006_000]);
    let (code, table, _) = compare(&left, &right, &[]);
    assert_eq!(code, Some(1), "{table}");
    let name = "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd";
    let row = fields(&table, name);
    // 3 % of 36 MB out, which are 300 bytes/s in each of 12 rows.
    assert_eq!(row[0], "2.913", "{table}");
    assert_eq!(row[3..5], ["36.000M", "37.080M"], "{table}");
    assert_eq!(row[5..8], ["300.000", "12", "0"], "{table}");
    // The pair that differs by 0.1 % alone is within 1 %.
    assert!(!table.contains("src-00003.dst-00001"), "{table}");
    let shown = |table: &str| table.lines().filter(|line| line.ends_with(".rrd")).count();
    // All that VLI 1 and 2 exchanged: two pairs, two individuals, the aggregate; bytes, packets.
    let differing = shown(&table);
    let (code, table, _) = compare(&left, &right, &["--top", "1"]);
    assert_eq!((code, shown(&table)), (Some(1), 1), "{table}");
    assert!(table.contains(&format!("and {} more", differing - 1)), "{table}");
    let (code, _, _) = compare(&left, &right, &["--tolerance", "3"]);
    assert_eq!(code, Some(0));
    let (_, table, _) = compare(&left, &right, &["--all"]);
    assert_eq!(shown(&table), crate::support::path::files_below(&left).len(), "{table}");
    let percents: Vec<f64> = table
        .lines()
        .filter(|line| line.contains("/bytes/p2p/") && line.ends_with(".rrd"))
        .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert!(percents.is_sorted_by(|a, b| a >= b), "{table}");
}

#[test]
fn aggregates_of_infrastructures_are_compared_where_both_trees_have_them() {
    let directory = tempfile::tempdir().unwrap();
    let [left, right, third] = ["left", "right", "third"].map(|name| directory.path().join(name));
    write(&left, Create::OnTraffic, 0..STEPS, [3_000_000, 6_000_000]);
    for (root, bytes) in [(&right, [3_000_000, 6_000_000]), (&third, [3_300_000, 6_000_000])] {
        std::fs::create_dir(root).unwrap();
        let sink = Direct::new(Tree::open(root).unwrap(), Create::OnTraffic, 1).unwrap();
        write_by(sink.with_aggregates(Aggregates::Infrastructure), 0..STEPS, bytes);
    }
    let name = "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00010.infra00001.rrd";
    assert!(right.join(name).exists() && !left.join(name).exists());
    let (code, table, _) = compare(&left, &right, &["--tolerance", "0", "--all"]);
    assert_eq!(code, Some(0), "{table}");
    assert!(!table.contains("infra"), "{table}");
    let (code, table, _) = compare(&right, &third, &["--all"]);
    assert_eq!(code, Some(1), "{table}");
    assert_eq!(fields(&table, "ipv4/bytes/infrastructure")[1..3], ["1", "1"], "{table}");
    assert_eq!(fields(&table, "ipv4/bytes/aggregate")[6], "216.000M", "each once: {table}");
    assert!(fields(&table, name).len() > 5, "{table}");
}

#[test]
fn a_file_of_one_side_that_says_something_is_a_difference() {
    let directory = tempfile::tempdir().unwrap();
    let [left, right] = ["left", "right"].map(|name| directory.path().join(name));
    write(&left, Create::OnTraffic, 0..STEPS, [3_000_000, 6_000_000]);
    write(&right, Create::OnTraffic, 0..STEPS, [3_000_000, 0]);
    let (code, table, _) = compare(&left, &right, &["--tolerance", "99"]);
    assert_eq!(code, Some(1), "{table}");
    let row = fields(&table, "ipv4/bytes/p2p/src-00003/p2p.ipv4.bytes.src-00003.dst-00001.rrd");
    assert_eq!((row[0], &row[row.len() - 2..]), ("100.000", &["(only", "left)"][..]), "{table}");
    assert_eq!(fields(&table, "ipv4/pkts/p2p")[3..5], ["2", "0"], "{table}");
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let [left, right] = ["left", "right"].map(|name| directory.path().join(name));
    let (code, _, errors) = compare(&left, &right, &[]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("left: No such file"), "{errors}");
    for root in [&left, &right] {
        std::fs::create_dir(root).unwrap();
    }
    let (code, _, errors) = compare(&left, &right, &[]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("no RRD files"), "{errors}");
    for root in [&left, &right] {
        write(root, Create::OnTraffic, 0..STEPS, [3_000_000, 6_000_000]);
    }
    let name = "ipv4/bytes/individual/individual.ipv4.bytes.src-00002.rrd";
    std::fs::write(right.join(name), "junk").unwrap();
    let (code, table, errors) = compare(&left, &right, &[]);
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains(name), "{errors}");
    // The others were compared.
    assert_eq!(fields(&table, "ipv4/bytes/individual")[1..3], ["2", "0"], "{table}");
    let output = ixflow().args(["compare", "--from", "0s"]).args([&left, &right]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
