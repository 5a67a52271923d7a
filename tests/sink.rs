//! Intervals into files, through a real rrdcached and through librrd, read back with librrd.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ixflow::count::Traffic;
use ixflow::flush::{Interval, PairTraffic, VlanTraffic};
use ixflow::ixp::{InfrastructureId, IpProtocol, Unit, VlanTag, VliId};
use ixflow::resolve::Lan;
use ixflow::sink::direct::Direct;
use ixflow::sink::librrd::{fetch, graph_png};
use ixflow::sink::rrdcached::{Address, Rrdcached, Settings};
use ixflow::sink::{
    ARCHIVES, Aggregates, Consolidation, Create, File, Receipt, Share, Sink, SinkError, Tree, file,
};

use crate::support::rrdcached::{self as daemon, DOCUMENTED, OPEN};

/// A multiple of a day, so that all archives' rows begin here.
pub(crate) const START: u64 = 1_699_920_000;

/// Bytes of IPv4 and IPv6 that a VLI sends to another in an interval: odd numbers, of every
/// magnitude.
pub(crate) fn bytes(source: u32, destination: u32, to_secs: u64) -> [u64; 2] {
    let magnitude = 10u64.pow((source * 3 + destination) % 11);
    let noise = u64::from(source % 97 * 31 + destination % 97 * 7) + to_secs / 300 % 97;
    [noise * magnitude + 1, if (source + destination).is_multiple_of(2) { 0 } else { noise }]
}

fn packets(bytes: u64) -> u64 {
    bytes.div_ceil(700)
}

pub(crate) fn interval(
    vlis: &[u32],
    speakers: &[(u32, u32)],
    from_secs: u64,
    to_secs: u64,
) -> Interval {
    let mut pairs: Vec<PairTraffic> = speakers
        .iter()
        .map(|&(source, destination)| {
            let bytes = bytes(source, destination, to_secs);
            PairTraffic {
                source: VliId(source),
                destination: VliId(destination),
                traffic: Traffic { bytes, packets: bytes.map(packets), samples: [1, 1] },
            }
        })
        .collect();
    pairs.sort_unstable_by_key(|pair| (pair.source, pair.destination));
    let lan = Lan {
        infrastructure: InfrastructureId(1),
        vlan: VlanTag::new(10),
        vlis: vlis.iter().copied().map(VliId).collect(),
    };
    let mut sum = Traffic::default();
    for pair in &pairs {
        sum.merge(&pair.traffic);
    }
    let infrastructure = Some(InfrastructureId(1));
    let vlans = vec![VlanTraffic { vlan: VlanTag::new(10), infrastructure, traffic: sum }];
    Interval { from_secs, to_secs, after_hole: false, lans: Arc::from([lan]), pairs, vlans }
}

/// A sink on a tree of its own, with its daemon if it has one.
pub(crate) struct Bench {
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) daemon: Option<daemon::Rrdcached>,
    pub(crate) directory: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("rrd tree")
    }

    pub(crate) fn path(&self, file: File) -> PathBuf {
        file.path(&self.root())
    }

    pub(crate) fn write(&mut self, interval: &Interval) -> Receipt {
        let receipt = match self.sink.write(interval) {
            // There is nothing to give again that the daemon could have lost.
            Err(SinkError::Renewed { .. }) => self.sink.write(interval),
            result => result,
        };
        let receipt = receipt.unwrap();
        let Receipt { updates, accepted, already_there, ahead, gone, refused, left_alone, .. } =
            receipt;
        assert_eq!(updates, accepted + already_there + ahead + gone + refused + left_alone);
        receipt
    }

    /// Gives everything in the tree to the owner of its root.
    pub(crate) fn give_to_daemon(&self) {
        let owner = fs::metadata(self.root()).unwrap().uid().to_string();
        let chown = Command::new("chown").args(["-R", &owner]).arg(self.root()).status().unwrap();
        assert!(chown.success());
    }

    /// Writes without any trouble.
    pub(crate) fn write_well(&mut self, interval: &Interval) -> Receipt {
        let receipt = self.write(interval);
        assert_eq!(receipt.accepted, receipt.updates, "{receipt:?}");
        receipt
    }

    /// The values of the row that ends at `end_secs`.
    pub(crate) fn row(&self, file: File, consolidation: Consolidation, end_secs: u64) -> [f64; 2] {
        let path = self.path(file);
        if let Some(daemon) = &self.daemon {
            daemon.flush(&path);
        }
        let rows = fetch(&path, consolidation, end_secs - 300, end_secs, 300).unwrap();
        rows.iter().find(|row| row.end_secs == end_secs).unwrap().values
    }

    pub(crate) fn average(&self, file: File, end_secs: u64) -> [f64; 2] {
        self.row(file, Consolidation::Average, end_secs)
    }
}

pub(crate) fn direct() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("rrd tree");
    fs::create_dir(&root).unwrap();
    let tree = Tree::open(&root).unwrap();
    let sink = Direct::new(tree, Create::OnTraffic, 2).unwrap();
    Bench { sink: Box::new(sink), daemon: None, directory }
}

fn settings(address: &Address, root: &Path) -> Settings {
    Settings {
        address: address.clone(),
        root: root.into(),
        share: Share::default(),
        create: Create::OnTraffic,
        aggregates: Aggregates::Vlan,
        timeout: Duration::from_secs(60),
    }
}

pub(crate) fn with_daemon(start: impl Fn(&Path) -> daemon::Rrdcached) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("rrd tree");
    fs::create_dir(&root).unwrap();
    let daemon = start(directory.path());
    let root = directory.path().canonicalize().unwrap().join("rrd tree");
    let sink = Rrdcached::new(settings(&daemon.address, &root), Arc::default()).unwrap();
    Bench { sink: Box::new(sink), daemon: Some(daemon), directory }
}

const NOBODY: u32 = 65_534;

/// Only root can run a daemon as somebody else.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A daemon that cannot write what we make, in a tree of its own.
fn with_daemon_of_nobody(options: &[&str]) -> Bench {
    let options = [&["-U", "nobody"], options].concat();
    with_daemon(|at| {
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
        for path in [at.to_owned(), at.join("rrd tree")] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        daemon::Rrdcached::start(at, &options)
    })
}

/// Every way to write: alone; in batches, and pipelined as on the documented socket; over TCP;
/// and where only the daemon can make files, with and without batches.
pub(crate) fn benches() -> Vec<(&'static str, Bench)> {
    let mut benches = vec![("direct", direct())];
    if daemon::is_installed() {
        let unix = |options| with_daemon(move |at| daemon::Rrdcached::start(at, options));
        let tcp = |options| with_daemon(move |at| daemon::Rrdcached::start_tcp(at, options));
        benches.push(("open unix socket", unix(OPEN)));
        benches.push(("documented unix socket", unix(DOCUMENTED)));
        benches.push(("open tcp socket", tcp(OPEN)));
        if is_root() {
            let nobody = |options| with_daemon_of_nobody(options);
            benches.push(("CREATE in batches", nobody(&["-B", "-R"])));
            benches.push(("CREATE pipelined", nobody(&["-B", "-R", "-P", "FLUSH,UPDATE,CREATE"])));
        }
    }
    benches
}

pub(crate) fn pair(protocol: IpProtocol, unit: Unit, vli: u32, peer: u32) -> File {
    File::Pair { protocol, unit, vli: VliId(vli), peer: VliId(peer) }
}

pub(crate) fn bytes4(vli: u32, peer: u32) -> File {
    pair(IpProtocol::V4, Unit::Bytes, vli, peer)
}

pub(crate) fn individual(vli: u32) -> File {
    File::Individual { protocol: IpProtocol::V4, unit: Unit::Bytes, vli: VliId(vli) }
}

/// The stored rates stand for these totals, to the last digit but the few units in the last place
/// by which librrd's parser of decimals errs.
pub(crate) fn assert_rates(rates: [f64; 2], totals: [u64; 2], what: &str) {
    for (rate, total) in rates.into_iter().zip(totals) {
        let truth = total as f64 / 300.0;
        let ulps = rate.to_bits().abs_diff(truth.to_bits());
        assert!(ulps <= 3, "{what}: {rate} is not {truth}");
        assert_eq!((rate * 300.0).round(), total as f64, "{what}");
    }
}

#[test]
fn what_was_counted_is_what_is_read() {
    const VLIS: [u32; 5] = [1, 2, 3, 40, 100_000];
    for (name, mut bench) in benches() {
        let speakers: Vec<(u32, u32)> = VLIS
            .iter()
            .flat_map(|&source| VLIS.map(|destination| (source, destination)))
            .filter(|(source, destination)| source != destination && source + destination != 3)
            .collect();
        let mut totals = Vec::new();
        for end in (1..=14).map(|step| START + 300 * step) {
            let interval = interval(&VLIS, &speakers, end - 300, end);
            let receipt = bench.write_well(&interval);
            // 18 speaking pairs, 10 of them with IPv6; five individuals and an aggregate.
            let expected = if end == START + 300 { receipt.updates } else { 0 };
            assert_eq!(receipt.created, expected, "{name}");
            totals.push((end, interval));
        }
        for (end, interval) in &totals {
            for protocol in IpProtocol::ALL {
                for unit in Unit::ALL {
                    let sent = |source: u32, destination: u32| {
                        interval
                            .pairs
                            .iter()
                            .filter(|pair| pair.source.0 == source || source == 0)
                            .filter(|pair| pair.destination.0 == destination || destination == 0)
                            .map(|pair| pair.traffic.of(protocol, unit))
                            .sum::<u64>()
                    };
                    for &(vli, peer) in &speakers {
                        let file = pair(protocol, unit, vli, peer);
                        let what = format!("{name}, {file}");
                        if sent(vli, peer) + sent(peer, vli) == 0 {
                            assert!(!bench.path(file).exists(), "{what}");
                            continue;
                        }
                        // In is what the peer sent.
                        let truth = [sent(peer, vli), sent(vli, peer)];
                        assert_rates(bench.average(file, *end), truth, &what);
                        let max = bench.row(file, Consolidation::Max, *end);
                        assert_eq!(max, bench.average(file, *end), "{what}");
                    }
                    for vli in VLIS {
                        let file = File::Individual { protocol, unit, vli: VliId(vli) };
                        // In is what it sent into the fabric.
                        let truth = [sent(vli, 0), sent(0, vli)];
                        assert_rates(bench.average(file, *end), truth, &format!("{name} {file}"));
                    }
                    let file = File::Aggregate {
                        protocol,
                        unit,
                        vlan: VlanTag::new(10),
                        infrastructure: None,
                    };
                    let truth = [sent(0, 0), sent(0, 0)];
                    assert_rates(bench.average(file, *end), truth, &format!("{name} {file}"));
                }
            }
        }
        assert!(!bench.path(bytes4(1, 2)).exists(), "{name}: a pair that never spoke");

        // The history of every new file is zero in all archives.
        for file in [bytes4(1, 3), individual(2)] {
            for archive in ARCHIVES {
                let resolution = archive.steps * 300;
                let oldest = START + 300 * 14 - resolution * (archive.rows - 1);
                let rows = fetch(
                    &bench.path(file),
                    archive.consolidation,
                    oldest,
                    START - resolution,
                    resolution,
                )
                .unwrap();
                assert!(rows.len() > 100, "{name}, {archive:?}");
                for row in rows.iter().filter(|row| row.end_secs <= START) {
                    assert_eq!(row.values, [0.0, 0.0], "{name}, {file}, {archive:?}, {row:?}");
                }
            }
        }
    }
}

#[test]
fn idle_pairs_are_zero_not_unknown() {
    for (name, mut bench) in benches() {
        bench.write_well(&interval(&[1, 2], &[(1, 2)], START, START + 300));
        bench.write_well(&interval(&[1, 2], &[], START + 300, START + 600));
        bench.write_well(&interval(&[1, 2], &[(2, 1)], START + 600, START + 900));
        let file = bytes4(1, 2);
        assert_eq!(bench.average(file, START + 600), [0.0, 0.0], "{name}");
        let [input, _] = bytes(2, 1, START + 900);
        assert_rates(bench.average(file, START + 900), [input, 0], name);
    }
}

#[test]
fn a_hole_is_unknown_and_what_follows_is_not() {
    for (name, mut bench) in benches() {
        bench.write_well(&interval(&[1, 2], &[(1, 2)], START, START + 300));
        // Twenty minutes later, and two minutes into a step.
        let (from, to) = (START + 1620, START + 1800);
        let mut second = interval(&[1, 2], &[(1, 2)], from, to);
        second.after_hole = true;
        bench.write_well(&second);
        let file = bytes4(1, 2);
        let [first, _] = bytes(1, 2, START + 300);
        assert_rates(bench.average(file, START + 300), [0, first], name);
        for end in [600, 900, 1200, 1500] {
            assert!(bench.average(file, START + end)[1].is_nan(), "{name}, {end}");
        }
        let [sent, _] = bytes(1, 2, to);
        let rate = bench.average(file, to)[1];
        assert!((rate * 180.0 / sent as f64 - 1.0).abs() < 1e-14, "{name}: {rate}");

        // The stamp of the hole's end is there already, as after a lost connection; the values of
        // the interval are not.
        let mut third = interval(&[1, 2], &[(1, 2)], to, to + 120);
        bench.write_well(&third);
        (third.from_secs, third.to_secs, third.after_hole) = (to, to + 300, true);
        bench.write_well(&third);
    }
}

#[test]
fn a_new_pair_in_the_middle_of_a_step_counts_in_full() {
    for (name, mut bench) in benches() {
        bench.write_well(&interval(&[1, 2], &[], START, START + 120));
        bench.write_well(&interval(&[1, 2], &[(1, 2)], START + 120, START + 300));
        let [sent, _] = bytes(1, 2, START + 300);
        for file in [bytes4(2, 1), individual(2)] {
            let [input, output] = bench.average(file, START + 300);
            let rate = input.max(output);
            assert!((rate * 300.0 / sent as f64 - 1.0).abs() < 1e-14, "{name} {file}: {rate}");
        }
    }
}

#[test]
fn an_interval_given_twice_counts_once() {
    for (name, mut bench) in benches() {
        bench.write_well(&interval(&[1, 2], &[(1, 2)], START, START + 300));
        let mut second = interval(&[1, 2], &[(1, 2), (2, 1)], START + 300, START + 600);
        bench.write_well(&second);
        for after_hole in [false, true] {
            second.after_hole = after_hole;
            let receipt = bench.write(&second);
            assert_eq!(receipt.already_there, receipt.updates, "{name}: {receipt:?}");
            assert_eq!((receipt.created, receipt.refused), (0, 0), "{name}");
        }
        let totals = [bytes(2, 1, START + 600)[0], bytes(1, 2, START + 600)[0]];
        assert_rates(bench.average(bytes4(1, 2), START + 600), totals, name);
    }
}

#[test]
fn a_bad_file_costs_itself_alone_and_is_named() {
    for (name, mut bench) in benches() {
        // Empty, no RRD, and a directory in its place.
        let bad = [bytes4(1, 2), bytes4(2, 1), individual(3)];
        for (file, content) in bad.into_iter().zip([Some(""), Some("not an RRD"), None]) {
            let path = bench.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content {
                Some(content) => fs::write(path, content).unwrap(),
                None => fs::create_dir(path).unwrap(),
            }
        }
        bench.give_to_daemon();
        let receipt = bench.write(&interval(&[1, 2, 3], &[(1, 2), (2, 3)], START, START + 300));
        assert_eq!(receipt.refused, 3, "{name}: {receipt:?}");
        assert_eq!(receipt.accepted, receipt.updates - 3, "{name}: {receipt:?}");
        for file in bad {
            let refusal = receipt.refusals.iter().find(|refusal| refusal.file == file);
            assert!(!refusal.unwrap().reason.is_empty(), "{name}");
        }
        let totals = [bytes(2, 3, START + 300)[0], 0];
        assert_rates(bench.average(bytes4(3, 2), START + 300), totals, name);
    }
}

#[test]
fn a_deleted_file_is_made_again_when_its_pair_speaks() {
    for (name, mut bench) in benches() {
        bench.write_well(&interval(&[1, 2], &[(1, 2)], START, START + 300));
        let path = bench.path(bytes4(1, 2));
        if let Some(daemon) = &bench.daemon {
            // Else it goes on acknowledging updates of the deleted file.
            let escaped = path.to_str().unwrap().replace(' ', "\\ ");
            assert_eq!(daemon.command(&format!("FORGET {escaped}")), "0 Gone!");
        }
        fs::remove_file(&path).unwrap();
        let receipt = bench.write(&interval(&[1, 2], &[], START + 300, START + 600));
        assert_eq!((receipt.gone, receipt.refused), (1, 0), "{name}: {receipt:?}");
        assert!(!path.exists());
        let receipt = bench.write(&interval(&[1, 2], &[(1, 2)], START + 600, START + 900));
        assert_eq!((receipt.created, receipt.refused), (1, 0), "{name}: {receipt:?}");
        let totals = [0, bytes(1, 2, START + 900)[0]];
        assert_rates(bench.average(bytes4(1, 2), START + 900), totals, name);
        assert_eq!(bench.average(bytes4(1, 2), START + 600), [0.0, 0.0], "{name}");
    }
}

#[test]
fn files_that_are_there_are_fed_from_the_start() {
    let bench = direct();
    for file in [bytes4(1, 2), individual(1)] {
        assert!(file::create(&bench.path(file), START - 3000).unwrap());
    }
    let Bench { mut sink, directory, .. } = bench;
    let mut interval = interval(&[1, 2], &[], START, START + 300);
    interval.after_hole = true;
    let receipt = sink.write(&interval).unwrap();
    // All individuals and aggregates, and the one pair.
    assert_eq!((receipt.updates, receipt.created), (8 + 4 + 1, 8 + 4 - 1), "{receipt:?}");
    let bench = Bench { sink, daemon: None, directory };
    assert_eq!(bench.average(bytes4(1, 2), START + 300), [0.0, 0.0]);
    assert!(bench.average(bytes4(1, 2), START)[0].is_nan());
    assert_eq!(bench.average(individual(2), START), [0.0, 0.0]);
}

#[test]
fn a_daemon_that_is_away_loses_nothing() {
    if !daemon::is_installed() {
        return;
    }
    for options in [OPEN, DOCUMENTED] {
        let mut bench = with_daemon(|at| daemon::Rrdcached::start(at, options));
        bench.write_well(&interval(&[1, 2], &[(1, 2)], START, START + 300));
        bench.daemon.take().unwrap().stop();
        let second = interval(&[1, 2], &[(1, 2)], START + 300, START + 600);
        for _ in 0..2 {
            let error = bench.sink.write(&second).unwrap_err();
            assert!(matches!(error, SinkError::Unreachable { .. }), "{error}");
            assert!(error.to_string().contains("rrdcached.sock"), "{error}");
        }
        bench.daemon = Some(daemon::Rrdcached::start(bench.directory.path(), options));
        bench.write_well(&second);
        // So is a restart between two intervals; what was given before it is asked for.
        bench.daemon.take().unwrap().stop();
        bench.daemon = Some(daemon::Rrdcached::start(bench.directory.path(), options));
        let third = interval(&[1, 2], &[(1, 2)], START + 600, START + 900);
        let error = bench.sink.write(&third).unwrap_err();
        assert!(matches!(error, SinkError::Renewed { .. }), "{error}");
        let again = bench.write(&second);
        assert_eq!(again.already_there, again.updates, "{again:?}");
        bench.write_well(&third);
        for end in [START + 300, START + 600, START + 900] {
            let totals = [0, bytes(1, 2, end)[0]];
            assert_rates(bench.average(bytes4(1, 2), end), totals, "again");
        }
    }
}

/// The replay of a journal throws away an update that came while its file was being written, and
/// the daemon believes to have it. Would break if it were believed.
#[test]
fn what_the_replay_of_a_journal_loses_is_given_again() {
    if !daemon::is_installed() {
        return;
    }
    for (name, permissions) in [("open", OPEN), ("no FORGET", DOCUMENTED)] {
        let journal = tempfile::tempdir().unwrap();
        let mut options = vec!["-j", journal.path().to_str().unwrap()];
        options.extend(permissions);
        let mut bench = with_daemon(|at| daemon::Rrdcached::start(at, &options));
        let step = |number: u64| {
            interval(&[1, 2], &[(1, 2)], START + 300 * number, START + 300 * (number + 1))
        };
        bench.write_well(&step(0));
        let path = bench.path(bytes4(1, 2));
        bench.daemon.as_ref().unwrap().flush(&path);
        bench.write_well(&step(1));
        bench.daemon = None;
        // As if the second update had come while the first one was being written: killed behind
        // that. The other files are as the kill left them.
        let escaped = path.to_str().unwrap().replace(' ', "\\ ");
        let entry = fs::read_dir(journal.path()).unwrap().next().unwrap().unwrap();
        let lines = [
            format!("update {escaped} {}:0:1\n", START + 300),
            format!("update {escaped} {}:0:1\n", START + 600),
            format!("wrote {}\n", path.to_str().unwrap()),
        ];
        fs::write(entry.path(), lines.concat()).unwrap();
        bench.daemon = Some(daemon::Rrdcached::start(bench.directory.path(), &options));
        let error = bench.sink.write(&step(2)).unwrap_err();
        assert!(matches!(error, SinkError::Renewed { .. }), "{name}: {error}");
        let first = bench.write(&step(0));
        assert_eq!((first.already_there + first.ahead, first.refused), (1, 0), "{name}: {first:?}");
        let second = bench.write(&step(1));
        let lost = u64::from(name == "no FORGET");
        let taken = (second.accepted, second.refused);
        assert_eq!(taken, (second.updates - lost, lost), "{name}: {second:?}");
        bench.write_well(&step(2));
        if lost == 0 {
            for end in [START + 300, START + 600, START + 900] {
                let totals = [0, bytes(1, 2, end)[0]];
                assert_rates(bench.average(bytes4(1, 2), end), totals, name);
            }
        }
    }
}

#[test]
fn a_socket_without_update_is_an_error_of_the_whole() {
    if !daemon::is_installed() {
        return;
    }
    let mut bench = with_daemon(|at| daemon::Rrdcached::start(at, &["-P", "FLUSH"]));
    let error = bench.sink.write(&interval(&[1], &[], START, START + 300)).unwrap_err();
    assert!(matches!(&error, SinkError::Unusable { answer, .. } if answer.contains("UPDATE")));
}

#[test]
fn waiting_for_an_answer_ends_with_the_stop_flag_or_the_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("silent.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut settings = settings(&Address::Unix(socket), directory.path());
    settings.timeout = Duration::ZERO;
    let interval = interval(&[1], &[], START, START + 300);
    let mut sink = Rrdcached::new(settings.clone(), Arc::clone(&stop)).unwrap();
    let error = sink.write(&interval).unwrap_err();
    assert!(matches!(error, SinkError::Unreachable { .. }), "{error}");

    settings.timeout = Duration::from_secs(3600);
    let mut sink = Rrdcached::new(settings, Arc::clone(&stop)).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| sink.write(&interval));
        stop.store(true, Ordering::Relaxed);
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, SinkError::Stopped), "{error}");
    });
}

#[test]
fn many_updates_go_in_several_chunks() {
    let vlis: Vec<u32> = (1..=19).collect();
    let speakers: Vec<(u32, u32)> = vlis
        .iter()
        .flat_map(|&source| vlis.iter().map(move |&destination| (source, destination)))
        .filter(|(source, destination)| source != destination)
        .collect();
    for (name, mut bench) in benches().into_iter().filter(|(name, _)| name.contains("unix")) {
        for step in [1, 2] {
            let end = START + 300 * step;
            let receipt = bench.write_well(&interval(&vlis, &speakers, end - 300, end));
            assert!(receipt.updates > 1050, "{name}");
            assert_eq!(receipt.created, if step == 1 { receipt.updates } else { 0 }, "{name}");
        }
        let totals = [bytes(19, 1, START + 600)[0], bytes(1, 19, START + 600)[0]];
        assert_rates(bench.average(bytes4(1, 19), START + 600), totals, name);
    }
}

#[test]
fn rrdtool_agrees() {
    if !daemon::is_installed() {
        return;
    }
    let mut bench = direct();
    bench.write_well(&interval(&[1, 2], &[(1, 2)], START, START + 300));
    let path = bench.path(bytes4(1, 2));
    let rrdtool = |arguments: &[&str]| {
        let mut command = Command::new("rrdtool");
        let output = command.arg(arguments[0]).arg(&path).args(&arguments[1..]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let info = rrdtool(&["info"]);
    for line in [
        "step = 300".to_owned(),
        format!("last_update = {}", START + 300),
        "ds[traffic_in].type = \"GAUGE\"".into(),
        "ds[traffic_out].minimal_heartbeat = 600".into(),
        "rra[7].cf = \"MAX\"".into(),
        "rra[7].rows = 3650".into(),
        "rra[7].pdp_per_row = 288".into(),
    ] {
        assert!(info.contains(&line), "{line}\n{info}");
    }
    let end = (START + 300).to_string();
    let start = START.to_string();
    let rows = rrdtool(&["fetch", "AVERAGE", "-r", "300", "-s", &start, "-e", &end]);
    let row = rows.lines().find(|line| line.starts_with(&end)).unwrap();
    let sent = bytes(1, 2, START + 300)[0] as f64 / 300.0;
    let output: f64 = row.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!((output / sent - 1.0).abs() < 1e-9, "{rows}");
}

#[test]
fn a_graph_is_a_png() {
    let mut bench = direct();
    for end in (1..=12).map(|step| START + 300 * step) {
        bench.write_well(&interval(&[1, 2], &[(1, 2), (2, 1)], end - 300, end));
    }
    for file in [bytes4(1, 2), pair(IpProtocol::V4, Unit::Packets, 1, 2)] {
        let end = START + 3600;
        let png = graph_png(&bench.root(), file, "One: to two", end - 86_400, end).unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n"));
        // Width and height of the header chunk (PNG, section 11.2.2).
        let width = u32::from_be_bytes(png[16..20].try_into().unwrap());
        assert!(width > 600);
    }
    graph_png(&bench.root(), bytes4(8, 9), "Nobody", START, START + 300).unwrap_err();
}

#[test]
fn a_daemon_of_another_user_makes_its_files_itself() {
    if !is_root() || !daemon::is_installed() {
        return;
    }
    let mut bench = with_daemon_of_nobody(&["-B", "-R"]);
    let receipt = bench.write_well(&interval(&[1, 2], &[(1, 2)], START, START + 300));
    assert_eq!(receipt.created, receipt.updates);
    let path = bench.path(bytes4(1, 2));
    assert_eq!(fs::metadata(path).unwrap().uid(), NOBODY);
    assert_eq!(bench.average(bytes4(1, 2), START - 300), [0.0, 0.0]);
    let totals = [0, bytes(1, 2, START + 300)[0]];
    assert_rates(bench.average(bytes4(1, 2), START + 300), totals, "nobody's");
}

#[test]
fn a_tree_on_the_daemons_host_is_known_as_far_as_it_was_written() {
    if !daemon::is_installed() {
        return;
    }
    // Not there when the sink starts, so that it must be elsewhere; -R makes it.
    let bench = with_daemon(|at| {
        fs::remove_dir(at.join("rrd tree")).unwrap();
        daemon::Rrdcached::start_tcp(at, &["-B", "-R"])
    });
    let Bench { mut sink, daemon, directory } = bench;
    let first = sink.write(&interval(&[1, 2], &[(1, 2)], START, START + 300)).unwrap();
    assert_eq!((first.accepted, first.created), (20, 20), "{first:?}");
    let second = sink.write(&interval(&[1, 2], &[], START + 300, START + 600)).unwrap();
    assert_eq!((second.accepted, second.created), (20, 0), "{second:?}");
    let bench = Bench { sink, daemon, directory };
    assert_rates(
        bench.average(bytes4(2, 1), START + 300),
        [bytes(1, 2, START + 300)[0], 0],
        "elsewhere",
    );
    assert!(bench.average(bytes4(2, 1), START)[0].is_nan(), "zeros were not to be had");
}

#[test]
fn a_directory_that_the_daemon_does_not_have_is_not_the_tree() {
    if !is_root() || !daemon::is_installed() {
        return;
    }
    // Empty, as the package makes it, while rrdcached's own tree is on its host.
    for (options, created) in [(&["-B", "-R"][..], 20), (&["-B", "-P", "FLUSH,UPDATE"], 0)] {
        let mut bench =
            with_daemon(|at| daemon::Rrdcached::start_elsewhere(at, &at.join("rrd tree"), options));
        let first = bench.write(&interval(&[1, 2], &[(1, 2)], START, START + 300));
        assert_eq!((first.accepted, first.created), (created, created), "{first:?}");
        for refusal in &first.refusals {
            assert!(refusal.reason.contains("may not CREATE"), "{refusal:?}");
        }
        let second = bench.write(&interval(&[1, 2], &[], START + 300, START + 600));
        assert_eq!((second.accepted, second.created), (created, 0), "{second:?}");
        assert_eq!(fs::read_dir(bench.root()).unwrap().count(), 0, "nothing was made here");
    }
}

#[test]
fn directories_that_nobody_makes_are_named() {
    if !is_root() || !daemon::is_installed() {
        return;
    }
    // Its refusal of a directory has two lines: the answers behind must not slip.
    for options in [&["-B"][..], &["-B", "-P", "FLUSH,UPDATE,CREATE"]] {
        let mut bench = with_daemon_of_nobody(options);
        let there = bench.path(individual(2));
        fs::create_dir_all(there.parent().unwrap()).unwrap();
        bench.give_to_daemon();
        let receipt = bench.write(&interval(&[1, 2], &[(1, 2)], START, START + 300));
        assert_eq!((receipt.accepted, receipt.created), (2, 2), "{receipt:?}");
        for refusal in &receipt.refusals {
            assert!(refusal.reason.contains("Did you pass -R"), "{refusal:?}");
            assert!(!bench.path(refusal.file).parent().unwrap().exists(), "{refusal:?}");
        }
        let totals = [0, bytes(1, 2, START + 300)[0]];
        assert_rates(bench.average(individual(2), START + 300), totals, "beside them");
    }
}
