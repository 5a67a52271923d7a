//! The tree over time: files that were there before, members that come and go, files of members
//! that left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ixflow::agent::Agents;
use ixflow::control::api::save_table;
use ixflow::flush::backlog::Keep;
use ixflow::flush::format::{Saved, encode_saved};
use ixflow::ixp::{InfrastructureId, IpProtocol, Mac, MacRecord, Unit, VlanTag, VliId};
use ixflow::loss::Loss;
use ixflow::resolve::{MacTable, Plan, Policy};
use ixflow::sink::direct::Direct;
use ixflow::sink::librrd::fetch;
use ixflow::sink::{Create, File, Sink as _, Tree, file};

use crate::sink::{
    Bench, START, assert_rates, benches, bytes, bytes4, individual, interval, with_daemon,
};
use crate::support::datagram::{datagram, flow, frame, raw};
use crate::support::ixflow::{Site, ixflow};
use crate::support::path::{Running, files_below, wait_for};
use crate::support::rrdcached::{self as daemon, DOCUMENTED, OPEN};

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

/// A line of the MAC table: the MAC ends in `mac`.
fn record(vlan: u32, mac: u8, vli: u32) -> MacRecord {
    MacRecord {
        infrastructure: InfrastructureId(1),
        vlan: VlanTag::new(vlan),
        mac: Mac::from_octets([2, 0, 0, 0, 0, mac]),
        vli: VliId(vli),
    }
}

fn plan(records: &[MacRecord]) -> Plan {
    let (table, conflicts) = MacTable::build(records).unwrap();
    assert_eq!(conflicts, []);
    Plan { table, policy: Policy::default() }
}

/// One frame of `bytes` from a MAC to another.
fn say(running: &mut Running, vlan: u16, source: u8, destination: u8, bytes: u32) {
    let mac = |last| [2, 0, 0, 0, 0, last];
    let frame = frame(mac(source), mac(destination), vlan, 0x0800);
    running.send(0, false, &datagram(&[flow(300, &[raw(bytes, &frame)])]));
}

#[test]
fn what_came_before_a_change_of_the_table_is_of_the_old_mapping_and_what_came_after_of_the_new() {
    for (name, bench) in benches() {
        if name.contains("CREATE") {
            // Makes files as somebody else: the same for this matter.
            continue;
        }
        let root = bench.root();
        let Bench { sink, daemon, directory } = bench;
        let before = [
            record(10, 1, 1),
            record(10, 2, 2),
            record(10, 3, 3),
            record(20, 4, 4),
            record(20, 5, 5),
            record(20, 7, 7),
        ];
        // MAC 2 moves to VLI 6, VLI 3 to VLAN 20, VLI 5 leaves, VLI 8 comes.
        let after = [
            record(10, 1, 1),
            record(10, 2, 6),
            record(20, 3, 3),
            record(20, 4, 4),
            record(20, 7, 7),
            record(20, 8, 8),
        ];
        let mut running =
            Running::start(2, Agents::new(10, 10), plan(&before), sink, START * 1_000);
        for _ in 0..2 {
            say(&mut running, 10, 1, 2, 100);
            say(&mut running, 10, 3, 1, 200);
            say(&mut running, 20, 4, 5, 400);
            say(&mut running, 20, 7, 4, 800);
            running.settle();
        }
        running.set_plan(plan(&after));
        for _ in 0..3 {
            say(&mut running, 10, 1, 2, 1_000);
            say(&mut running, 20, 3, 4, 2_000);
            say(&mut running, 20, 7, 8, 4_000);
            // To where nobody is any more.
            say(&mut running, 10, 1, 3, 8_000);
            say(&mut running, 20, 4, 5, 8_000);
        }
        let totals = running.settle();
        assert_eq!(totals.counted, 2 * 4 + 3 * 3, "{name}: {totals:?}");
        assert_eq!(totals.losses.of(Loss::UnknownDestination), 6, "{name}: {totals:?}");
        running.pass_boundary(START + 300);
        say(&mut running, 10, 1, 2, 500);
        running.pass_boundary(START + 600);
        let (state, result) = running.stop();
        result.unwrap();
        assert_eq!(state.write().refused, 0, "{name}");
        let former: Vec<_> = state.findings().iter().map(|finding| finding.name).collect();
        assert_eq!(former, ["files_of_former_vlis"], "{name}");

        let tree = Tree::open(&root).unwrap();
        let sink = Box::new(Direct::new(tree, Create::OnTraffic, 1).unwrap());
        let bench = Bench { sink, daemon, directory };
        let aggregate = |tag| File::Aggregate {
            protocol: IpProtocol::V4,
            unit: Unit::Bytes,
            vlan: VlanTag::new(tag),
            infrastructure: None,
        };
        // Bytes in and out by the frame, each of which stands for 300, over 300 seconds.
        for (file, rates) in [
            (bytes4(1, 2), [0, 200]),
            (bytes4(2, 1), [200, 0]),
            (bytes4(1, 6), [0, 3_000]),
            (bytes4(6, 1), [3_000, 0]),
            (bytes4(1, 3), [400, 0]),
            (bytes4(3, 1), [0, 400]),
            (bytes4(3, 4), [0, 6_000]),
            (bytes4(4, 3), [6_000, 0]),
            (bytes4(5, 4), [800, 0]),
            (bytes4(4, 5), [0, 800]),
            (bytes4(7, 4), [0, 1_600]),
            (bytes4(7, 8), [0, 12_000]),
            // In is what it sent.
            (individual(1), [200 + 3_000, 400]),
            (individual(2), [0, 200]),
            (individual(3), [400 + 6_000, 0]),
            (individual(4), [800, 1_600 + 6_000]),
            (individual(5), [0, 800]),
            (individual(6), [0, 3_000]),
            (individual(8), [0, 12_000]),
            (aggregate(10), [3_600, 3_600]),
            (aggregate(20), [20_400, 20_400]),
        ] {
            let rates: [f64; 2] = rates.map(f64::from);
            assert_eq!(bench.average(file, START + 300), rates, "{name}: {file}");
        }
        // Those that left are not fed, those that stayed are, and nothing was deleted.
        let last = |file: File| {
            let path = bench.path(file);
            if let Some(daemon) = &bench.daemon {
                daemon.flush(&path);
            }
            let header = fs::read(path).unwrap();
            u64::from_le_bytes(header[file::LAST_UPDATE].try_into().unwrap()) - START
        };
        for file in [bytes4(1, 2), bytes4(2, 1), bytes4(4, 5), individual(2), individual(5)] {
            assert_eq!(last(file), 300, "{name}: {file}");
        }
        for file in [bytes4(1, 6), bytes4(1, 3), bytes4(3, 1), individual(3), individual(8)] {
            assert_eq!(last(file), 600, "{name}: {file}");
        }
        assert_eq!(bench.average(individual(6), START + 600), [0.0, 500.0], "{name}");
    }
}

/// A file of the tree that was last fed so many days ago.
fn fed_days_ago(root: &Path, file: File, days: u64) -> PathBuf {
    let path = file.path(root);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let fed = now - Duration::from_secs(days * 86_400 + 3_600);
    file::create(&path, fed.as_secs() / 300 * 300).unwrap();
    let handle = fs::File::options().write(true).open(&path).unwrap();
    handle.set_modified(UNIX_EPOCH + fed).unwrap();
    path
}

fn prune(site: &Site, set: &[&str], options: &[&str]) -> (bool, String) {
    let mut command = ixflow();
    command.args(site.arguments("prune", set)).args(options);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn files_of_vlis_that_left_are_pruned_and_nothing_else() {
    let mut site = Site::without_portal();
    let root = site.tree();
    fs::create_dir(&root).unwrap();
    let known: Vec<u32> = site.fabric.vlis().iter().map(|vli| vli.id.0).collect();
    let (known, gone) = ([known[0], known[1]], 77_777);
    let old = 40;
    let [inside, outside, alone] =
        [bytes4(gone, known[0]), bytes4(known[0], gone), individual(gone)];
    let removed: Vec<PathBuf> =
        [inside, outside, alone].iter().map(|file| fed_days_ago(&root, *file, old)).collect();
    let aggregate = |infrastructure| File::Aggregate {
        protocol: IpProtocol::V4,
        unit: Unit::Bytes,
        vlan: VlanTag::new(999),
        infrastructure,
    };
    let own = fed_days_ago(&root, aggregate(Some(InfrastructureId(99))), old);
    let mut kept: Vec<PathBuf> = [
        bytes4(known[0], known[1]),
        bytes4(known[1], known[0]),
        individual(known[0]),
        aggregate(None),
    ]
    .iter()
    .map(|file| fed_days_ago(&root, *file, old))
    .collect();
    // Fed lately, by the file's own time or by its last update.
    kept.push(fed_days_ago(&root, bytes4(gone, 88_888), 1));
    kept.push(fed_days_ago(&root, bytes4(gone, 88_889), 1));
    let handle = fs::File::options().write(true).open(&kept[5]).unwrap();
    handle.set_modified(UNIX_EPOCH).unwrap();
    // Foreign names, files that are no RRD, links to files and directories.
    let source = inside.path(&root).parent().unwrap().to_owned();
    kept.push(source.join("README"));
    fs::write(&kept[6], "mine").unwrap();
    kept.push(bytes4(gone, 88_890).path(&root));
    fs::write(&kept[7], "mine").unwrap();
    kept.push(bytes4(gone, 88_891).path(&root));
    let elsewhere = site.path("elsewhere.rrd");
    fs::copy(&removed[0], &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &kept[8]).unwrap();
    let linked = fed_days_ago(&site.path("other tree"), bytes4(66_666, known[0]), old);
    let link = bytes4(66_666, known[0]).path(&root).parent().unwrap().to_owned();
    std::os::unix::fs::symlink(linked.parent().unwrap(), link).unwrap();
    kept.extend([linked, own]);

    let older = ["--older-than", "30"];
    let all_there = |paths: &[PathBuf]| paths.iter().all(|path| path.symlink_metadata().is_ok());
    // No table, and no portal.
    let (success, text) = prune(&site, &[], &older);
    assert!(!success && text.contains("no MAC table is saved"), "{text}");
    // The portal's; nothing happens yet.
    site.start_portal();
    let (success, text) = prune(&site, &[], &[&older[..], &["--dry-run"]].concat());
    assert!(success, "{text}");
    assert!(text.contains("would remove 3 files, 555936 bytes"), "{text}");
    let line = format!("{}: would remove 1 files, 185312 bytes (2 left alone", source.display());
    assert!(text.contains(&line), "{line}\n{text}");
    assert!(all_there(&removed) && all_there(&kept));
    // The saved one.
    let json = site.fabric.mac_table_json();
    save_table(&site.path("state"), json.as_bytes(), "http://saved.example", 1_700_000_000)
        .unwrap();
    let (success, text) = prune(&site, &[], &older);
    assert!(success && text.contains("saved.example"), "{text}");
    assert!(text.contains("removed 3 files, 555936 bytes"), "{text}");
    assert!(removed.iter().all(|path| !path.exists()), "{text}");
    assert!(all_there(&kept) && elsewhere.exists(), "{text}");

    // More than half of the tree.
    let others: Vec<PathBuf> =
        (0..30).map(|peer| fed_days_ago(&root, bytes4(55_555, 60_000 + peer), old)).collect();
    let (success, text) = prune(&site, &[], &older);
    assert!(!success && text.contains("more than half"), "{text}");
    assert!(all_there(&others));
    if daemon::is_installed() {
        // What rrdcached still has of them is forgotten.
        let daemon = daemon::Rrdcached::start(site.directory.path(), OPEN);
        let path = others[0].canonicalize().unwrap();
        let path = path.display();
        assert_eq!(
            daemon.command(&format!("UPDATE {path} 4000000000:1:1")),
            "0 errors, enqueued 1 value(s)."
        );
        let socket = format!("sflow_rrdcached_socket={}", daemon.address);
        let set = ["sflow_rrdcached=1", &socket];
        let (success, text) = prune(&site, &set, &[&older[..], &["--yes"]].concat());
        assert!(success, "{text}");
        assert_eq!(daemon.command(&format!("PENDING {path}")), "0 updates pending", "{text}");
        assert!(others.iter().all(|path| !path.exists()));
        assert!(!others[0].parent().unwrap().exists(), "an empty directory");
    }
}

#[test]
fn new_files_are_made_beside_the_flush_and_miss_nothing() {
    for (name, mut bench) in benches() {
        bench.sink.pace(10);
        let both = interval(&[1, 2], &[(1, 2), (2, 1)], START, START + 300);
        let first = bench.write(&both);
        assert_eq!((first.updates, first.created), (0, 0), "{name}: {first:?}");
        assert_eq!(bench.sink.waiting(), 8 + 4 + 8, "{name}");
        // A second's worth, and the flush goes on beside it.
        let tended = bench.sink.tend(false).unwrap();
        assert_eq!((tended.created, tended.accepted), (10, 10), "{name}: {tended:?}");
        let idle = interval(&[1, 2], &[], START + 300, START + 600);
        let second = bench.write(&idle);
        assert_eq!((second.accepted, second.created), (10, 0), "{name}: {second:?}");
        // The third is given twice, as after a lost connection; a pair is new in it.
        let third = interval(&[1, 2, 3], &[(1, 2), (3, 1)], START + 600, START + 900);
        for accepted in [10, 0] {
            let receipt = bench.write(&third);
            assert_eq!(receipt.accepted, accepted, "{name}: {receipt:?}");
            assert_eq!(receipt.dropped_before_creation, 0, "{name}: {receipt:?}");
        }
        let (mut created, mut refused) = (10, 0);
        while bench.sink.waiting() > 0 {
            let receipt = bench.sink.tend(true).unwrap();
            created += receipt.created;
            refused += receipt.refused;
        }
        // Two individuals, an aggregate, a pair from both sides; then one more of each over IPv4.
        assert_eq!((created, refused), (8 + 4 + 8 + 4 + 4, 0), "{name}");
        let fourth = interval(&[1, 2, 3], &[(3, 1)], START + 900, START + 1_200);
        bench.write_well(&fourth);
        let of = |source, destination, end| bytes(source, destination, START + end)[0];
        for (file, end, totals) in [
            (bytes4(1, 2), 300, [of(2, 1, 300), of(1, 2, 300)]),
            (bytes4(1, 2), 600, [0, 0]),
            (bytes4(1, 2), 900, [0, of(1, 2, 900)]),
            (bytes4(1, 2), 1_200, [0, 0]),
            (bytes4(3, 1), 300, [0, 0]),
            (bytes4(3, 1), 900, [0, of(3, 1, 900)]),
            (bytes4(3, 1), 1_200, [0, of(3, 1, 1_200)]),
            (individual(2), 300, [of(2, 1, 300), of(1, 2, 300)]),
            (individual(2), 600, [0, 0]),
            (individual(2), 900, [0, of(1, 2, 900)]),
            (individual(1), 900, [of(1, 2, 900), of(3, 1, 900)]),
        ] {
            assert_rates(bench.average(file, START + end), totals, &format!("{name} {file} {end}"));
        }
    }
}

#[test]
fn files_that_wait_at_a_stop_are_made() {
    for (name, mut bench) in benches() {
        bench.sink.pace(1);
        let root = bench.root();
        let Bench { sink, daemon, directory } = bench;
        let records = [record(10, 1, 1), record(10, 2, 2)];
        let mut running =
            Running::start(1, Agents::new(10, 10), plan(&records), sink, START * 1_000);
        say(&mut running, 10, 1, 2, 1_000);
        running.pass_boundary(START + 300);
        say(&mut running, 10, 2, 1, 2_000);
        running.pass_boundary(START + 600);
        let (state, result) = running.stop();
        result.unwrap();
        let write = state.write().clone();
        assert_eq!((write.files_waiting, write.dropped_before_creation), (0, 0), "{name}");
        assert_eq!((write.created, write.refused), (8 + 4 + 4, 0), "{name}");
        let sink = Box::new(Direct::new(Tree::open(&root).unwrap(), Create::OnTraffic, 1).unwrap());
        let bench = Bench { sink, daemon, directory };
        assert_eq!(bench.average(bytes4(1, 2), START + 300), [0.0, 1_000.0], "{name}");
        assert_eq!(bench.average(bytes4(1, 2), START + 600), [2_000.0, 0.0], "{name}");
        assert_eq!(bench.average(individual(1), START + 600), [0.0, 2_000.0], "{name}");
    }
}

/// Copies all files below a directory.
fn copy_below(from: &Path, to: &Path) {
    for path in files_below(from) {
        let target = to.join(&path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join(&path), target).unwrap();
    }
}

/// Would break if a kill lost what waits for its files: the intervals are in the spool, whether
/// they were saved as acknowledged or not.
#[test]
fn files_that_wait_at_a_kill_are_made_after_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().canonicalize().unwrap().join(name);
    let keep = |name: &str| Keep {
        state_dir: place(name),
        memory_intervals: 4,
        secs_max: 86_400,
        bytes_max: 1 << 30,
        again_secs: 3_600,
        save_every: Duration::from_secs(60),
    };
    let sink = |name: &str, files_per_sec| {
        fs::create_dir_all(place(name)).unwrap();
        let tree = Tree::open(&place(name)).unwrap();
        let mut sink = Box::new(Direct::new(tree, Create::OnTraffic, 1).unwrap());
        sink.pace(files_per_sec);
        sink
    };
    let records = [record(10, 1, 1), record(10, 2, 2)];
    let agents = || Agents::new(10, 10);
    fs::create_dir(place("state")).unwrap();
    let mut running = Running::start_keeping(
        1,
        agents(),
        plan(&records),
        vec![sink("tree", 1)],
        START * 1_000,
        Some(keep("state")),
    );
    say(&mut running, 10, 1, 2, 1_000);
    running.pass_boundary(START + 300);
    say(&mut running, 10, 2, 1, 2_000);
    running.pass_boundary(START + 600);
    wait_for("both intervals to be kept", || {
        let kept = files_below(&place("state/spool"));
        (kept.iter().filter(|name| name.ends_with(".interval")).count() == 2).then_some(())
    });
    assert!(running.state.write().files_waiting > 0);
    // What a kill at this moment leaves.
    for (tree, state) in [("tree1", "state1"), ("tree2", "state2")] {
        copy_below(&place("state"), &place(state));
        copy_below(&place("tree"), &place(tree));
    }
    running.stop().1.unwrap();
    let acknowledged_to_secs = START + 600;
    let saved = Saved { covered_to_secs: START + 610, acknowledged_to_secs, open: Vec::new() };
    fs::write(place("state2/open-step"), encode_saved(&saved)).unwrap();
    for (tree, state) in [("tree1", "state1"), ("tree2", "state2")] {
        let running = Running::start_keeping(
            1,
            agents(),
            plan(&records),
            vec![sink(tree, 1_000)],
            (START + 620) * 1_000,
            Some(keep(state)),
        );
        let (state, result) = running.stop();
        result.unwrap();
        let write = state.write().clone();
        assert_eq!((write.dropped_before_creation, write.refused), (0, 0), "{write:?}");
        let average = ixflow::sink::Consolidation::Average;
        let rates = |file: File| {
            let rows = fetch(&file.path(&place(tree)), average, START, START + 600, 300).unwrap();
            [300, 600]
                .map(|end| rows.iter().find(|row| row.end_secs == START + end).unwrap().values)
        };
        assert_eq!(rates(bytes4(1, 2)), [[0.0, 1_000.0], [2_000.0, 0.0]], "{tree}");
        assert_eq!(rates(bytes4(2, 1)), [[1_000.0, 0.0], [0.0, 2_000.0]], "{tree}");
        assert_eq!(rates(individual(1)), [[1_000.0, 0.0], [0.0, 2_000.0]], "{tree}");
    }
}

/// Writes an interval in which everybody speaks, and does what is not urgent; files that were made,
/// and files that lost something.
fn write_and_look(bench: &mut Bench, end: u64) -> (u64, u64) {
    let interval = interval(&[1, 2, 3], &[(1, 2), (2, 3)], end - 300, end);
    let receipt = bench.write_well(&interval);
    (receipt.created, bench.sink.tend(false).unwrap().lost_after_ack)
}

#[test]
fn what_was_acknowledged_and_lost_is_found() {
    if !daemon::is_installed() {
        return;
    }
    for options in [OPEN, DOCUMENTED] {
        let mut bench = with_daemon(|at| daemon::Rrdcached::start(at, options));
        // Undisturbed, nothing is said.
        for step in 1..=3 {
            assert_eq!(write_and_look(&mut bench, START + 300 * step).1, 0);
        }
        assert!(bench.sink.findings().is_empty(), "{:?}", bench.sink.findings());
        // Deleted while it is cached; locked while it is written.
        write_and_look(&mut bench, START + 1_200);
        let gone = bytes4(1, 2);
        fs::remove_file(bench.path(gone)).unwrap();
        let locked = fs::File::options().write(true).open(bench.path(bytes4(2, 3))).unwrap();
        let lock = nix::libc::flock {
            l_type: i16::try_from(nix::libc::F_WRLCK).unwrap(),
            l_whence: i16::try_from(nix::libc::SEEK_SET).unwrap(),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&locked, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        // Both are among the first, which are looked at soon.
        assert_eq!(write_and_look(&mut bench, START + 1_500), (0, 2), "{options:?}");
        let findings = bench.sink.findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].name, "lost_after_ack");
        assert!(findings[0].what.contains(&gone.to_string()), "{findings:?}");
        // Where rrdcached may be told to forget it, it is made again.
        let expected = if options == OPEN { (1, 1) } else { (0, 2) };
        assert_eq!(write_and_look(&mut bench, START + 1_800), expected, "{options:?}");
        drop(locked);
        let findings = bench.sink.findings();
        assert!(findings[0].what.contains(" files of the samples"), "{findings:?}");
        if options == OPEN {
            let totals = [0, bytes(1, 2, START + 1_800)[0]];
            assert_rates(bench.average(gone, START + 1_800), totals, "made again");
            // An hour without a loss, and it is no news any more.
            for step in 7..=20 {
                write_and_look(&mut bench, START + 300 * step);
            }
            assert!(bench.sink.findings().is_empty(), "{:?}", bench.sink.findings());
        }
    }
    // It cannot be told to write: files may lag for two hours.
    let mut bench = with_daemon(|at| daemon::Rrdcached::start(at, &["-P", "UPDATE"]));
    for step in 1..=4 {
        assert_eq!(write_and_look(&mut bench, START + 300 * step).1, 0);
    }
    let (_, lost) = write_and_look(&mut bench, START + 300 * 40);
    assert!(lost > 0);
}
