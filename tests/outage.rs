//! What goes away comes back: rrdcached, the disk, the files, the time. In each case ingest goes
//! on, and in the end the files hold what was said, or a counter says what they lack.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use ixflow::agent::Agents;
use ixflow::flush::Interval;
use ixflow::flush::backlog::Keep;
use ixflow::ixp::{IpProtocol, Unit, VliId};
use ixflow::simulate::Fabric;
use ixflow::sink::direct::{self, Direct};
use ixflow::sink::rrdcached::{Rrdcached, Settings};
use ixflow::sink::{Aggregates, Create, File, Receipt, Share, Sink, SinkError, Tree, file};

use crate::restart::{bytes_in_all, bytes4, feed, wait_inside_a_step};
use crate::support::disk::{Mounted, fill};
use crate::support::exchange::{
    Bench, FABRIC, Pairs, Row, Voice, assert_rows, expected, plan, start, start_keeping,
};
use crate::support::http::get;
use crate::support::ixflow::{Site, ixflow_without_rights, speak, summary_field};
use crate::support::path::{Running, START_SECS, files_below, wait_for};
use crate::support::rrdcached::{self as daemon, DOCUMENTED, OPEN};

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

/// Waits until a finding of this name is there that says something.
fn wait_finding(running: &Running, name: &str, says: &str) {
    wait_for(&format!("the finding {name} that says {says:?}"), || {
        let findings = running.state.findings();
        let mut findings = findings.iter().filter(|finding| finding.name == name);
        findings.any(|finding| finding.to_string().contains(says)).then_some(())
    });
}

/// Waits until no finding of this name is there.
fn wait_no_finding(running: &Running, name: &str) {
    wait_for(&format!("the finding {name} to go"), || {
        running.state.findings().iter().all(|finding| finding.name != name).then_some(())
    });
}

/// Of how many seconds the row behind `from_secs` is, by an aggregate of what was said in it.
fn implied_secs(bench: &Bench, fabric: &Fabric, said: &Pairs, from_secs: u64) -> f64 {
    let files = expected(fabric, bench.aggregates, said);
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
        running.settle();
        wait_finding(&running, "clock_set_back", "set back by");
        running.jump((START_SECS + 450) * 1_000);
        let after = voice.speak(&mut running, START_SECS + 600);
        running.pass_boundary(START_SECS + 600);
        wait_no_finding(&running, "clock_set_back");
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
        rows.push(Row::known(before, known_secs));
        rows.push(Row::unknown());
        rows.push(Row::known(after, 240.0));
        assert_rows(&bench, &fabric, START_SECS, &rows, ULPS_MAX);
        assert_eq!(state.write().clock_set_back, Default::default());
    }
}

/// How long an answer is waited for where that is not what is tested.
const PATIENT: Duration = Duration::from_secs(60);

/// Speaks whole steps that nobody takes.
fn steps_in_vain(voice: &mut Voice, running: &mut Running, ends_secs: &[u64]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (waiting, &end_secs) in (1..).zip(ends_secs) {
        rows.push(Row::whole(voice.speak(running, end_secs)));
        running.pass_boundary_waiting(end_secs, waiting);
    }
    rows
}

/// Ends the path, and holds the files against what was said.
fn assert_nothing_lost(running: Running, voice: Voice, bench: &Bench, rows: &[Row]) {
    let totals = running.state.agents.totals();
    let (state, result) = running.stop();
    result.unwrap();
    let write = state.write().clone();
    assert_eq!((write.refused, write.intervals_dropped), (0, 0), "{}: {write:?}", bench.name);
    assert_eq!(totals.flow_samples, voice.generator.finish().flow_samples, "{}", bench.name);
    assert_rows(bench, &fabric(), START_SECS, rows, ULPS_MAX);
}

const ENDS: [u64; 3] = [START_SECS + 300, START_SECS + 600, START_SECS + 900];

/// Would break if boundaries were given up, or written with the time at which it came.
#[test]
fn rrdcached_is_not_there_at_the_start() {
    if !daemon::is_installed() {
        return;
    }
    let mut bench = Bench::new("rrdcached, late", None);
    // Nobody's file in the place of the socket is no better than nothing.
    fs::write(bench.socket(), "no socket").unwrap();
    let fabric = fabric();
    let mut voice = Voice::new(&fabric);
    let sink = bench.sink_to_be(PATIENT);
    let mut running = start_keeping(&fabric, &bench, sink, START_SECS * 1_000);
    let mut rows = steps_in_vain(&mut voice, &mut running, &ENDS);
    assert!(running.state.write().spool_bytes > 0);
    wait_finding(&running, "sink_away", "; 3 intervals and 0 new files wait");
    fs::remove_file(bench.socket()).unwrap();
    bench.start_daemon(OPEN);
    running.catch_up(START_SECS + 900);
    wait_no_finding(&running, "sink_away");
    rows.push(whole_step(&mut voice, &mut running, START_SECS + 1_200));
    assert!(running.state.write().failures > 0);
    assert_nothing_lost(running, voice, &bench, &rows);
}

/// Would break if what a killed daemon had acknowledged were believed to be in the files.
#[test]
fn rrdcached_is_killed_in_the_middle_of_a_flush() {
    if !daemon::is_installed() {
        return;
    }
    let journal = tempfile::tempdir().unwrap();
    let with_journal = ["-j", journal.path().to_str().unwrap()];
    // With a journal the end of it is lost, without one everything.
    for (name, options) in [("journal", &with_journal[..]), ("no journal", OPEN)] {
        let mut bench = Bench::new(name, Some(options));
        let fabric = fabric();
        let mut voice = Voice::new(&fabric);
        // What looks at files has them written: a file that a kill catches so is torn.
        let sink = Box::new(Stalling { disk: Arc::default(), sink: bench.sink_to_be(PATIENT) });
        let mut running = start_keeping(&fabric, &bench, sink, START_SECS * 1_000);
        let mut rows = vec![whole_step(&mut voice, &mut running, ENDS[0])];
        for kill in [1, 2] {
            let end_secs = ENDS[0] + 300 * kill;
            wait_for("rrdcached to be at rest", || {
                bench.daemon.as_ref().unwrap().is_at_rest().then_some(())
            });
            // It takes the flush and answers nothing.
            bench.daemon.as_ref().unwrap().signal("STOP");
            rows.push(Row::whole(voice.speak(&mut running, end_secs)));
            running.pass_boundary_waiting(end_secs, 1);
            bench.kill_daemon();
            bench.start_daemon(options);
            running.catch_up(end_secs);
        }
        rows.push(whole_step(&mut voice, &mut running, ENDS[0] + 900));
        assert!(running.state.write().repaired > 0, "{name}: nothing was lost");
        assert_nothing_lost(running, voice, &bench, &rows);
    }
}

/// Would break if a daemon that replays its journal were given up, or if a flush that takes longer
/// than its interval held ingest up. Scaled down: an answer is waited for 600 s by default.
#[test]
fn rrdcached_answers_late_or_too_late() {
    if !daemon::is_installed() {
        return;
    }
    for (name, timeout) in [("late", PATIENT), ("too late", Duration::from_millis(300))] {
        let bench = Bench::new(name, Some(OPEN));
        let fabric = fabric();
        let mut voice = Voice::new(&fabric);
        let sink = bench.sink_to_be(timeout);
        let mut running = start_keeping(&fabric, &bench, sink, START_SECS * 1_000);
        let mut rows = vec![whole_step(&mut voice, &mut running, ENDS[0])];
        bench.daemon.as_ref().unwrap().signal("STOP");
        rows.extend(steps_in_vain(&mut voice, &mut running, &ENDS[1..]));
        if timeout != PATIENT {
            wait_for("an answer that is too late", || {
                (running.state.write().failures > 0).then_some(())
            });
        }
        bench.daemon.as_ref().unwrap().signal("CONT");
        running.catch_up(ENDS[2]);
        assert_eq!(running.state.write().failures > 0, timeout != PATIENT, "{name}");
        assert_nothing_lost(running, voice, &bench, &rows);
    }
}

/// Would break if a daemon that replays its journal for long were taken for dead, and what waits
/// behind it for lost: it accepts connections at once.
#[test]
fn rrdcached_is_restarted_and_replays_its_journal_for_long() {
    const REPLAY: Duration = Duration::from_secs(16);
    if !daemon::is_installed() {
        return;
    }
    let journal = tempfile::tempdir().unwrap();
    let options = ["-j", journal.path().to_str().unwrap()];
    let mut bench = Bench::new("long replay", Some(&options));
    let fabric = fabric();
    let mut voice = Voice::new(&fabric);
    let sink = bench.sink_to_be(PATIENT);
    let mut running = start_keeping(&fabric, &bench, sink, START_SECS * 1_000);
    let mut rows = vec![whole_step(&mut voice, &mut running, ENDS[0])];
    bench.kill_daemon();
    bench.start_daemon(&options);
    bench.daemon.as_ref().unwrap().signal("STOP");
    let stopped = Instant::now();
    rows.extend(steps_in_vain(&mut voice, &mut running, &ENDS[1..]));
    // It is time that is tested here.
    while let Some(left) = REPLAY.checked_sub(stopped.elapsed()) {
        std::thread::park_timeout(left);
    }
    {
        let write = running.state.write();
        assert_eq!((write.failures, write.backlog, write.last_to_secs), (0, 2, ENDS[0]));
    }
    wait_no_finding(&running, "sink_away");
    bench.daemon.as_ref().unwrap().signal("CONT");
    running.catch_up(ENDS[2]);
    assert_eq!(running.state.write().failures, 0);
    assert_nothing_lost(running, voice, &bench, &rows);
}

/// A disk that stalls as long as somebody holds it, and whose files nobody looks at.
struct Stalling {
    disk: Arc<RwLock<()>>,
    sink: Box<dyn Sink>,
}

impl Sink for Stalling {
    fn write(&mut self, interval: &Interval) -> Result<Receipt, SinkError> {
        let _turn = self.disk.read().unwrap();
        self.sink.write(interval)
    }

    fn describe(&self) -> String {
        self.sink.describe()
    }
}

/// Would break if a flush into files that takes longer than its interval held ingest up, or if
/// the boundaries that passed meanwhile were lost or merged.
#[test]
fn writing_the_files_takes_longer_than_their_interval() {
    let bench = Bench::new("slow disk", None);
    let fabric = fabric();
    let mut voice = Voice::new(&fabric);
    let disk = Arc::new(RwLock::new(()));
    let sink = Box::new(Stalling { disk: disk.clone(), sink: direct(&bench) });
    let mut running = start_keeping(&fabric, &bench, sink, START_SECS * 1_000);
    let mut rows = vec![whole_step(&mut voice, &mut running, ENDS[0])];
    let stall = disk.write().unwrap();
    rows.extend(steps_in_vain(&mut voice, &mut running, &ENDS[1..]));
    assert_eq!(running.state.write().last_to_secs, ENDS[0]);
    drop(stall);
    running.catch_up(ENDS[2]);
    assert_eq!(running.state.write().failures, 0);
    assert_nothing_lost(running, voice, &bench, &rows);
}

/// Would break if a socket that denies were not named with both sides, or if that cost boundaries.
#[test]
fn the_socket_of_rrdcached_denies_ixflows_user_for_a_while() {
    if !daemon::is_installed() {
        return;
    }
    wait_inside_a_step(55);
    let site = Site::new();
    let before = feed(&site, &[10]);
    let rrdcached = daemon::Rrdcached::start(site.directory.path(), OPEN);
    let socket = site.path("rrdcached.sock");
    let command = ixflow_without_rights(&site);
    let mode = |mode| fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).unwrap();
    // Of its own user where the tests have but one.
    mode(0);
    let ixflow = site.start_as(
        command,
        &[
            "sflow_flush_secs=10",
            "sflow_rrdcached=1",
            &format!("sflow_rrdcached_socket={}", socket.display()),
            "sflow_http_listen=127.0.0.1:0",
        ],
    );
    let mut truths = vec![speak(&site.fabric, ixflow.address(), 60)];
    let line = ixflow.wait_line("Permission denied");
    for part in ["rrdcached.sock", "ixflow runs as ", "the socket is of ", "mode 0000", "lost yet"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    let findings = || get(ixflow.http(), "/status.json").json()["findings"].to_string();
    wait_for("the finding", || findings().contains("sink_away").then_some(()));
    truths.push(speak(&site.fabric, ixflow.address(), 60));
    mode(0o666);
    ixflow.wait_line("takes updates again");
    wait_for("the finding to go", || (!findings().contains("sink_away")).then_some(()));
    truths.push(speak(&site.fabric, ixflow.address(), 60));
    let log = ixflow.stop();
    for name in ["refused", "intervals_dropped"] {
        assert_eq!(summary_field(&log, name), 0, "{log}");
    }
    rrdcached.stop();
    let all: Vec<_> = truths.iter().collect();
    assert_eq!(bytes_in_all(&site, &[10]) - before, bytes4(&all), "{log}");
}

/// Would break if a state directory that takes no files were not said, or were given up.
#[test]
fn the_state_directory_cannot_be_written_for_a_while() {
    let bench = Bench::new("state", None);
    let state_dir = bench.keep().state_dir;
    fs::create_dir(&state_dir).unwrap();
    let Some(mounted) = Mounted::new(&state_dir, "size=16m") else { return };
    let fabric = fabric();
    let mut voice = Voice::new(&fabric);
    let mut running = start_keeping(&fabric, &bench, direct(&bench), START_SECS * 1_000);
    let mut rows = vec![whole_step(&mut voice, &mut running, ENDS[0])];
    mounted.remount("ro");
    rows.push(whole_step(&mut voice, &mut running, ENDS[1]));
    wait_finding(&running, "state_dir_unwritable", "Read-only file system");
    assert!(running.state.write().keep_failures > 0);
    mounted.remount("rw");
    wait_no_finding(&running, "state_dir_unwritable");
    rows.push(whole_step(&mut voice, &mut running, ENDS[2]));
    assert_nothing_lost(running, voice, &bench, &rows);
}

/// Would break if a refusal of everything were taken for refusals of files.
#[test]
fn rrdcached_allows_no_updates() {
    if !daemon::is_installed() {
        return;
    }
    let mut bench = Bench::new("no UPDATE", Some(&["-P", "FLUSH"]));
    let fabric = fabric();
    let mut voice = Voice::new(&fabric);
    let sink = bench.sink_to_be(PATIENT);
    let mut running = start_keeping(&fabric, &bench, sink, START_SECS * 1_000);
    let rows = steps_in_vain(&mut voice, &mut running, &ENDS);
    bench.kill_daemon();
    bench.start_daemon(OPEN);
    running.catch_up(ENDS[2]);
    assert_nothing_lost(running, voice, &bench, &rows);
}

fn direct(bench: &Bench) -> Box<dyn Sink> {
    let tree = Tree::open(&bench.root()).unwrap();
    Box::new(Direct::new(tree, Create::OnTraffic, direct::default_threads()).unwrap())
}

/// Would break if the refusal of every file cost every file an update.
#[test]
fn the_tree_is_read_only_for_a_while() {
    let bench = Bench::new("read-only", None);
    let root = bench.root();
    let Some(mounted) = Mounted::new(&root, "size=256m") else { return };
    let fabric = fabric();
    let mut voice = Voice::new(&fabric);
    let mut running = start_keeping(&fabric, &bench, direct(&bench), START_SECS * 1_000);
    let mut rows = vec![whole_step(&mut voice, &mut running, ENDS[0])];
    mounted.remount("ro");
    rows.extend(steps_in_vain(&mut voice, &mut running, &ENDS[1..]));
    wait_finding(&running, "sink_away", "Read-only file system");
    mounted.remount("rw");
    running.catch_up(ENDS[2]);
    wait_no_finding(&running, "sink_away");
    assert_nothing_lost(running, voice, &bench, &rows);
}

/// Would break if what rrdcached takes for a tree that is read-only were believed to be written: it
/// acknowledges, and throws away.
#[test]
fn the_tree_of_rrdcached_is_read_only_for_a_while() {
    if !daemon::is_installed() {
        return;
    }
    for (name, killed) in [("read-only", false), ("killed, then read-only", true)] {
        let mut bench = Bench::new(name, None);
        let root = bench.root();
        fs::create_dir_all(&root).unwrap();
        let Some(mounted) = Mounted::new(&root, "size=256m") else { return };
        bench.start_daemon(OPEN);
        let fabric = fabric();
        let mut voice = Voice::new(&fabric);
        let sink = bench.sink_to_be(PATIENT);
        let mut running = start_keeping(&fabric, &bench, sink, START_SECS * 1_000);
        let mut rows = vec![whole_step(&mut voice, &mut running, ENDS[0])];
        if killed {
            bench.kill_daemon();
        }
        mounted.remount("ro");
        if killed {
            bench.start_daemon(OPEN);
        }
        if killed {
            rows.extend(steps_in_vain(&mut voice, &mut running, &ENDS[1..]));
            wait_finding(&running, "sink_away", "Read-only file system");
        } else {
            rows.push(whole_step(&mut voice, &mut running, ENDS[1]));
            wait_finding(&running, "sink_away", "does not write them");
            rows.push(Row::whole(voice.speak(&mut running, ENDS[2])));
            running.pass_boundary_waiting(ENDS[2], 1);
        }
        mounted.remount("rw");
        running.catch_up(ENDS[2]);
        wait_no_finding(&running, "sink_away");
        assert!(running.state.write().repaired > 0, "{name}");
        assert_nothing_lost(running, voice, &bench, &rows);
    }
}

/// Would break if files that cannot be made cost their updates, or if these came out of order.
#[test]
fn the_disk_is_full_for_a_while() {
    const BYTES: u64 = 256 << 20;
    let mut kinds = vec![("direct", None)];
    if daemon::is_installed() {
        kinds.push(("rrdcached", Some(OPEN)));
    }
    for (name, options) in kinds {
        let mut bench = Bench::new(name, None);
        let root = bench.root();
        let Some(_mounted) = Mounted::new(&root, &format!("size={BYTES}")) else { return };
        let mut sink = match options {
            Some(options) => {
                bench.start_daemon(options);
                bench.sink_to_be(PATIENT)
            }
            None => direct(&bench),
        };
        sink.pace(100_000);
        let filler = fill(&root, BYTES);
        let fabric = fabric();
        let mut voice = Voice::new(&fabric);
        let mut running = start_keeping(&fabric, &bench, sink, START_SECS * 1_000);
        // There is room for some files only, and the intervals count as written.
        let mut rows: Vec<Row> =
            ENDS.map(|end_secs| whole_step(&mut voice, &mut running, end_secs)).into();
        wait_for("files that cannot be made", || {
            let write = running.state.write();
            (write.failures > 0 && write.files_waiting > 100).then_some(())
        });
        assert_eq!(running.state.write().refused, 0, "{name}");
        wait_finding(&running, "disk_full", "No space left on device");
        fs::remove_file(filler).unwrap();
        wait_for("the files to be made", || {
            (running.state.write().files_waiting == 0).then_some(())
        });
        wait_no_finding(&running, "disk_full");
        rows.push(whole_step(&mut voice, &mut running, START_SECS + 1_200));
        assert_eq!(running.state.write().dropped_before_creation, 0, "{name}");
        let made = running.state.write().created;
        assert_nothing_lost(running, voice, &bench, &rows);
        assert_eq!(made, files_below(&root).len() as u64, "{name}");
    }
}

/// Would break if one file's fault cost others their updates, or were not counted.
#[test]
fn one_file_is_damaged_and_the_others_are_fed() {
    let fabric = fabric();
    for bench in benches() {
        let mut voice = Voice::new(&fabric);
        let mut running = start_keeping(&fabric, &bench, bench.sink(), START_SECS * 1_000);
        let mut rows = vec![whole_step(&mut voice, &mut running, ENDS[0])];
        let name = "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00010.rrd";
        let path = bench.root().join(name);
        if let Some(daemon) = &bench.daemon {
            daemon.flush(&path);
            assert!(daemon.command(&format!("FORGET {}", path.display())).starts_with('0'));
        }
        let whole = fs::read(&path).unwrap();
        fs::write(&path, "no RRD").unwrap();
        rows.push(whole_step(&mut voice, &mut running, ENDS[1]));
        assert_eq!(running.state.write().refused, 1, "{}", bench.name);
        fs::write(&path, whole).unwrap();
        rows.push(whole_step(&mut voice, &mut running, ENDS[2]));
        let (state, result) = running.stop();
        result.unwrap();
        assert_eq!(state.write().refused, 1, "{}", bench.name);
        // The one row of the one file is unknown: it says so.
        let files = expected(&fabric, bench.aggregates, &rows[2].said);
        let (file, [total, _]) = files[name];
        let found = bench.rows(file, START_SECS, ENDS[2]);
        assert!(found[1][0].is_nan(), "{}: {found:?}", bench.name);
        assert!((found[2][0] * 300.0 - total as f64).abs() < 0.5, "{}: {found:?}", bench.name);
        fs::remove_file(&path).unwrap();
        for row in &mut rows {
            // It is looked at above; the others hold everything.
            row.without.push(name);
        }
        assert_rows(&bench, &fabric, START_SECS, &rows, ULPS_MAX);
    }
}

/// Would break if one dead daemon held the others up, if what it missed or lost were not given to
/// it, or if a file were in two shares or in none. The pairs of the second share are on another
/// disk, behind links.
#[test]
fn one_of_two_rrdcacheds_is_killed_and_comes_back() {
    if !daemon::is_installed() {
        return;
    }
    let fabric = fabric();
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let path = directory.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let (tree, disk, state_dir) = (place("tree"), place("disk"), place("state"));
    let daemons = [("a", DOCUMENTED), ("b", OPEN)]
        .map(|(name, options)| Some(daemon::Rrdcached::start(&place(name), options)));
    let mut daemons = daemons;
    let addresses = daemons.each_ref().map(|daemon| daemon.as_ref().unwrap().address.clone());
    // Any names will do; by these each has some.
    let shares = Share::of_all(&["one".into(), "two".into()]);
    let vlis: BTreeSet<VliId> = fabric.vlis().iter().map(|vli| vli.id).collect();
    let held = shares.iter().map(|share| vlis.iter().filter(|&&vli| share.has_vli(vli)).count());
    let held: Vec<usize> = held.collect();
    assert!(held.iter().all(|&count| count > 0) && held[0] + held[1] == vlis.len(), "{held:?}");
    for vli in vlis.iter().filter(|&&vli| shares[1].has_vli(vli)) {
        for family in ["ipv4/bytes", "ipv4/pkts", "ipv6/bytes", "ipv6/pkts"] {
            let pairs = format!("{family}/p2p/src-{:05}", vli.0);
            fs::create_dir_all(disk.join(&pairs)).unwrap();
            fs::create_dir_all(tree.join(&pairs).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(disk.join(&pairs), tree.join(&pairs)).unwrap();
        }
    }
    let sinks = addresses.iter().zip(&shares).map(|(address, share)| {
        let settings = Settings {
            address: address.clone(),
            root: tree.clone(),
            share: share.clone(),
            create: Create::OnTraffic,
            aggregates: Aggregates::Vlan,
            timeout: Duration::from_secs(60),
        };
        Box::new(Rrdcached::new(settings, Default::default()).unwrap()) as Box<dyn Sink>
    });
    let keep = Keep {
        state_dir,
        memory_intervals: 1,
        secs_max: 86_400,
        bytes_max: 1 << 30,
        again_secs: 3_600,
        save_every: Duration::from_secs(60),
    };
    let agents = Agents::new(100, 1_000);
    let from_millis = START_SECS * 1_000;
    let mut running =
        Running::start_keeping(2, agents, plan(&fabric), sinks.collect(), from_millis, Some(keep));
    let mut voice = Voice::new(&fabric);
    let mut rows = Vec::new();
    for step in 1..=2 {
        rows.push(whole_step(&mut voice, &mut running, START_SECS + 300 * step));
    }
    // Killed, with all that it took.
    daemons[1] = None;
    let of = |vli: VliId| File::Individual { protocol: IpProtocol::V4, unit: Unit::Bytes, vli };
    let fed = *vlis.iter().find(|&&vli| shares[0].has_vli(vli)).unwrap();
    let fed = of(fed).path(&tree);
    for step in 3..=4 {
        let end_secs = START_SECS + 300 * step;
        rows.push(Row::whole(voice.speak(&mut running, end_secs)));
        running.settle();
        running.jump(end_secs * 1_000);
        wait_for("the other's files to be fed", || {
            daemons[0].as_ref().unwrap().flush(&fed);
            let header = fs::read(&fed).unwrap();
            let last = u64::from_le_bytes(header[file::LAST_UPDATE].try_into().unwrap());
            (last >= end_secs).then_some(())
        });
    }
    {
        let write = running.state.write();
        assert_eq!((write.last_to_secs, write.backlog), (START_SECS + 600, 2));
        assert!(write.failures > 0 && write.refused == 0, "{write:?}");
    }
    daemons[1] = Some(daemon::Rrdcached::start(&place("b"), OPEN));
    rows.push(whole_step(&mut voice, &mut running, START_SECS + 1_500));
    let (state, result) = running.stop();
    result.unwrap();
    let write = state.write().clone();
    assert!(write.repaired > 0, "{write:?}");
    assert_eq!((write.intervals, write.refused, write.intervals_dropped), (5, 0, 0), "{write:?}");
    daemons.into_iter().flatten().for_each(daemon::Rrdcached::stop);
    // Whatever was made behind the links is there.
    assert!(disk.join("ipv4/bytes/p2p").read_dir().unwrap().next().is_some());
    let bench = Bench { directory, ..Bench::new("two rrdcacheds", None) };
    assert_rows(&bench, &fabric, START_SECS, &rows, ULPS_MAX);
}
