//! The daemon ends, as it is told or as it is killed, and starts again: what the files hold then.

use std::fs;
use std::path::PathBuf;

use ixflow::flush::format::{Saved, VERSION, decode, decode_saved, encode_saved};
use ixflow::simulate::{Fabric, Truth};
use ixflow::sink::Consolidation;
use ixflow::sink::STEP_SECS;
use ixflow::sink::librrd::{fetch, open_step};

use crate::support::disk::{Mounted, fill};
use crate::support::ixflow::{Site, speak, summary_field};
use crate::support::path::wait_for;

/// Datagrams of a burst: each agent of the fabric sends some.
const BURST: usize = 60;

/// Counts are saved every second, and the interval ends with the daemon, or at a boundary.
const SET: &[&str] = &["sflow_state_save_secs=1"];

fn counted(truth: &Truth) -> u64 {
    truth.pairs().into_iter().flat_map(|pair| pair.traffic.samples).map(u64::from).sum()
}

/// IPv4 bytes of all pairs.
pub(crate) fn bytes4(truths: &[&Truth]) -> f64 {
    let pairs = truths.iter().flat_map(|truth| truth.pairs());
    pairs.map(|pair| pair.traffic.bytes[0] as f64).sum()
}

fn aggregate(site: &Site, tag: u32) -> PathBuf {
    site.tree().join(format!("ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan{tag:05}.rrd"))
}

/// Makes the files, with something in them: one that is made inside a step takes the first rate
/// for all of it. Returns what the aggregates hold.
pub(crate) fn feed(site: &Site, tags: &[u32]) -> f64 {
    let daemon = site.start(SET);
    daemon.wait_table("new table: ");
    speak(&site.fabric, daemon.address(), BURST);
    daemon.stop();
    bytes_in_all(site, tags)
}

/// Bytes in the aggregates of the step that is not over.
pub(crate) fn bytes_in_all(site: &Site, tags: &[u32]) -> f64 {
    let open = tags.iter().map(|&tag| open_step(&aggregate(site, tag)).unwrap()[0]);
    open.map(f64::round).sum()
}

fn now_secs() -> u64 {
    ixflow::clock::Clock::System.now_millis() / 1_000
}

fn saved_file(site: &Site) -> PathBuf {
    site.path("state/open-step")
}

fn saved(site: &Site) -> Option<Saved> {
    fs::read(saved_file(site)).ok().map(|bytes| decode_saved(&bytes).unwrap())
}

/// Waits until so many samples are in the saved counts.
fn wait_saved(site: &Site, samples: u64) {
    wait_for("the counts to be saved", || {
        let pairs = saved(site)?.open.into_iter().flat_map(|interval| interval.pairs);
        let sum: u64 = pairs.flat_map(|pair| pair.traffic.samples).map(u64::from).sum();
        (sum >= samples).then_some(())
    });
}

/// Waits for so many seconds of a step in which no boundary comes.
pub(crate) fn wait_inside_a_step(secs: u64) {
    wait_for("some time before a boundary", || {
        (STEP_SECS - now_secs() % STEP_SECS > secs).then_some(())
    });
}

/// Would break if a stop lost the open step, or a start counted it twice.
#[test]
fn told_to_stop_inside_a_step_and_started_again_nothing_is_lost_or_counted_twice() {
    wait_inside_a_step(40);
    let site = Site::new();
    let before = feed(&site, &[10]);
    let mut truths = Vec::new();
    for _ in 0..3 {
        let daemon = site.start(SET);
        truths.push(speak(&site.fabric, daemon.address(), BURST));
        let log = daemon.stop();
        assert_eq!(summary_field(&log, "counted"), counted(truths.last().unwrap()), "{log}");
        assert_eq!(saved(&site).unwrap().open, [], "it is in the files");
    }
    let all: Vec<&Truth> = truths.iter().collect();
    assert_eq!(bytes_in_all(&site, &[10]) - before, bytes4(&all));
}

/// Would break if the counts since the last boundary lived in memory alone, or if they got the
/// stamp of the start.
#[test]
fn killed_it_loses_no_more_than_what_came_since_the_last_saving() {
    wait_inside_a_step(40);
    let site = Site::new();
    let before = feed(&site, &[10]);
    let daemon = site.start(SET);
    let first = speak(&site.fabric, daemon.address(), BURST);
    wait_saved(&site, counted(&first));
    daemon.kill();
    assert_eq!(bytes_in_all(&site, &[10]), before, "nothing was written");

    let daemon = site.start(SET);
    assert!(daemon.log().contains("were saved by the last run"), "{}", daemon.log());
    let second = speak(&site.fabric, daemon.address(), BURST);
    daemon.stop();
    assert_eq!(bytes_in_all(&site, &[10]) - before, bytes4(&[&first, &second]));

    // Once more: what the files have is not counted again.
    site.start(SET).stop();
    assert_eq!(bytes_in_all(&site, &[10]) - before, bytes4(&[&first, &second]));
}

/// Would break if saved counts were written with the time of the start: hours later, the row of
/// their step must hold them.
#[test]
fn saved_counts_reach_the_row_of_their_step_hours_later() {
    let site = Site::new();
    let daemon = site.start(SET);
    daemon.wait_table("new table: ");
    let truth = speak(&site.fabric, daemon.address(), BURST);
    wait_saved(&site, counted(&truth));
    daemon.kill();
    // As if it had been killed three hours ago, 200 seconds into a step.
    let mut then = saved(&site).unwrap();
    let begin = now_secs() / STEP_SECS * STEP_SECS - 36 * STEP_SECS;
    assert_eq!(then.open.len(), 1);
    (then.open[0].from_secs, then.open[0].to_secs) = (begin, begin + 200);
    then.covered_to_secs = begin + 200;
    fs::write(saved_file(&site), encode_saved(&then)).unwrap();
    // It hears something, so that its own interval comes behind.
    let daemon = site.start(SET);
    speak(&site.fabric, daemon.address(), BURST);
    daemon.stop();
    let rows = fetch(
        &aggregate(&site, 10),
        Consolidation::Average,
        begin,
        begin + 3 * STEP_SECS,
        STEP_SECS,
    );
    let rows = rows.unwrap();
    // Two thirds of the row are known: it holds. The time behind it is not.
    let row = |end_secs| rows.iter().find(|row| row.end_secs == end_secs).unwrap().values[0];
    assert_eq!((row(begin + 300) * 200.0).round(), bytes4(&[&truth]), "{rows:?}");
    assert!(row(begin + 600).is_nan() && row(begin + 900).is_nan(), "{rows:?}");
}

/// Would break if a damaged or newer file ended the daemon, or were read all the same.
#[test]
fn a_state_file_that_cannot_be_read_is_set_aside_and_said() {
    let whole =
        encode_saved(&Saved { covered_to_secs: 600, acknowledged_to_secs: 0, open: vec![] });
    let mut newer = whole.clone();
    newer[8] = 7;
    let mut damaged = whole.clone();
    damaged[30] ^= 4;
    let of_newer = format!("version 7, of a newer ixflow: expected up to {VERSION}");
    for (bytes, reason) in [
        (newer, of_newer.as_str()),
        (damaged, "the checksum is wrong"),
        (whole[..20].to_vec(), "20 bytes: expected"),
        (b"<html>".to_vec(), "not the saved counts of ixflow"),
    ] {
        let site = Site::new();
        fs::create_dir_all(site.path("state")).unwrap();
        fs::write(saved_file(&site), &bytes).unwrap();
        let daemon = site.start(SET);
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("open-step")).unwrap_or(&log);
        assert!(line.contains("ERROR") && line.contains(reason), "{line}");
        assert_eq!(fs::read(site.path("state/open-step.refused")).unwrap(), bytes);
        daemon.wait_table("new table: ");
        let truth = speak(&site.fabric, daemon.address(), BURST);
        let log = daemon.stop();
        assert_eq!(summary_field(&log, "counted"), counted(&truth), "{log}");
    }
}

/// Would break if intervals that nobody took were lost with the process, or came in another order
/// or with other stamps.
#[test]
fn what_waited_in_the_last_run_is_written_first() {
    wait_inside_a_step(40);
    let mut site = Site::without_portal();
    // Two infrastructures that share no tag.
    site.fabric = Fabric::from_toml(
        "ipv6_share = 0.0\n[[infrastructure]]\nid = 1\n[[infrastructure.vlan]]\ntag = 10\n\
         [[infrastructure]]\nid = 2\n[[infrastructure.vlan]]\ntag = 20\n",
    )
    .unwrap();
    site.start_portal();
    let before = feed(&site, &[10, 20]);
    let away = [
        "sflow_state_save_secs=1",
        "sflow_memory_intervals=1",
        "sflow_rrdcached=1",
        &format!("sflow_rrdcached_socket={}", site.path("nobody.sock").display()),
    ];
    let mut truths = Vec::new();
    // Stopped, and killed.
    let daemon = site.start(&away);
    truths.push(speak(&site.fabric, daemon.address(), BURST));
    daemon.stop();
    let daemon = site.start(&away);
    assert!(daemon.log().contains("1 intervals wait in"), "{}", daemon.log());
    truths.push(speak(&site.fabric, daemon.address(), BURST));
    wait_saved(&site, counted(&truths[1]));
    daemon.kill();
    // Directly now.
    let daemon = site.start(SET);
    truths.push(speak(&site.fabric, daemon.address(), BURST));
    let log = daemon.stop();
    assert_eq!(summary_field(&log, "refused"), 0, "{log}");
    let all: Vec<&Truth> = truths.iter().collect();
    assert_eq!(bytes_in_all(&site, &[10, 20]) - before, bytes4(&all));
}

/// The intervals in the spool, in order.
fn spooled(site: &Site) -> Vec<PathBuf> {
    let entries = fs::read_dir(site.path("state/spool")).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|it| it == "interval")).collect();
    paths.sort_unstable();
    paths
}

/// Would break if what a power cut left torn were read, ended the daemon, or cost more than itself.
#[test]
fn an_interval_that_a_power_cut_left_torn_is_set_aside_and_the_others_are_written() {
    wait_inside_a_step(55);
    let site = Site::new();
    let before = feed(&site, &[10]);
    let socket = format!("sflow_rrdcached_socket={}", site.path("nobody.sock").display());
    let away = ["sflow_flush_secs=10", "sflow_memory_intervals=1", "sflow_rrdcached=1", &socket];
    let daemon = site.start(&away);
    let old = spooled(&site);
    let fresh = || spooled(&site).into_iter().filter(|path| !old.contains(path)).collect();
    let mut truths = Vec::new();
    for count in 1..=3 {
        truths.push(speak(&site.fabric, daemon.address(), BURST));
        wait_for("the interval in the spool", || {
            let fresh: Vec<PathBuf> = fresh();
            (fresh.len() >= count).then_some(())
        });
    }
    daemon.kill();
    let fresh: Vec<PathBuf> = fresh();
    let whole = fs::read(&fresh[1]).unwrap();
    let torn: u64 = decode(&whole).unwrap().pairs.iter().map(|pair| pair.traffic.bytes[0]).sum();
    assert!(torn > 0);
    fs::write(&fresh[1], &whole[..whole.len() / 2]).unwrap();
    fs::write(fresh[1].with_extension("interval.new"), &whole).unwrap();

    let daemon = site.start(&["sflow_flush_secs=10"]);
    let log = daemon.stop();
    let line = log.lines().find(|line| line.contains("set aside as *.refused")).unwrap_or(&log);
    let name = fresh[1].display().to_string();
    assert!(line.contains("ERROR") && line.contains(&name) && line.contains("lost"), "{line}");
    assert_eq!(summary_field(&log, "intervals_dropped"), 1, "{log}");
    assert_eq!(summary_field(&log, "refused"), 0, "{log}");
    let all: Vec<&Truth> = truths.iter().collect();
    assert_eq!(bytes_in_all(&site, &[10]) - before, bytes4(&all) - torn as f64, "{log}");
}

/// Would break if updates that wait for their files lived in memory alone: an interval that is in no
/// file is kept, whatever `sflow_resend_secs` says.
#[test]
fn killed_while_files_cannot_be_made_it_makes_them_at_its_next_start() {
    wait_inside_a_step(55);
    let site = Site::new();
    fs::create_dir_all(site.tree()).unwrap();
    let tree = site.tree();
    let Some(_mounted) = Mounted::new(&tree, "size=32m") else { return };
    let set = ["sflow_state_save_secs=1", "sflow_flush_secs=10", "sflow_resend_secs=0"];
    let filler = fill(&site.tree(), 32 << 20);
    let daemon = site.start(&set);
    daemon.wait_table("new table: ");
    // The first interval is silent: what its files hold before it is that.
    daemon.wait_line("files wait to be made, nothing is lost yet");
    let mut truths = vec![speak(&site.fabric, daemon.address(), BURST)];
    daemon.wait_received();
    // Two boundaries behind it: the interval was taken, and then another one.
    let spoke = now_secs();
    wait_for("two boundaries", || (now_secs() / 10 >= spoke / 10 + 2).then_some(()));
    truths.push(speak(&site.fabric, daemon.address(), BURST));
    wait_saved(&site, counted(&truths[1]));
    daemon.kill();

    // Stopped, too, it leaves them to the next start.
    let daemon = site.start(&set);
    daemon.wait_line("files wait to be made, nothing is lost yet");
    let log = daemon.stop();
    assert!(log.contains("files are to be made by the next start"), "{log}");

    fs::remove_file(filler).unwrap();
    let daemon = site.start(&set);
    truths.push(speak(&site.fabric, daemon.address(), BURST));
    let log = daemon.stop();
    assert_eq!(summary_field(&log, "refused"), 0, "{log}");
    let all: Vec<&Truth> = truths.iter().collect();
    assert_eq!(bytes_in_all(&site, &[10]), bytes4(&all), "{log}");
}
