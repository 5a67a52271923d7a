//! Files by our own writer: beside readers and other writers, and where a file or the tree is not
//! as it should be.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ixflow::flush::Interval;
use ixflow::ixp::{IpProtocol, Unit, VliId};
use ixflow::sink::direct::Direct;
use ixflow::sink::file::LAST_UPDATE;
use ixflow::sink::{Create, File, Receipt, Sink, SinkError, Tree};

use crate::sink::{START, assert_rates, bytes, bytes4, direct, individual, interval};
use crate::support::rrdcached as daemon;

fn open(root: &Path) -> Direct {
    Direct::new(Tree::open(root).unwrap(), Create::OnTraffic, 2).unwrap()
}

/// Eight VLIs, all of which speak with all.
fn everybody(step: u64) -> Interval {
    let vlis: Vec<u32> = (1..=8).collect();
    let speakers: Vec<(u32, u32)> = vlis
        .iter()
        .flat_map(|&source| vlis.iter().map(move |&destination| (source, destination)))
        .filter(|(source, destination)| source != destination)
        .collect();
    interval(&vlis, &speakers, START + 300 * (step - 1), START + 300 * step)
}

fn rrdtool(arguments: &[&str], path: &Path) -> Result<String, String> {
    let output = Command::new("rrdtool").arg(arguments[0]).arg(path).args(&arguments[1..]).output();
    let output = output.unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    Err(String::from_utf8(output.stderr).unwrap())
}

/// As somebody who tries again if the file is locked just then: here it is written all the time.
fn patiently(arguments: &[&str], path: &Path) -> String {
    for _ in 0..100 {
        match rrdtool(arguments, path) {
            Ok(output) => return output,
            Err(error) => assert!(error.contains("could not lock RRD"), "{error}"),
        }
    }
    panic!("{} is locked a hundred times out of a hundred", path.display());
}

/// Every row that `rrdtool fetch` shows is a whole one: the two values that were written together,
/// at their time. A writer that held no lock, or wrote the header in parts, would now and then
/// show rows a step off. Who comes while the file is locked is told so, as with every writer.
#[test]
fn readers_see_whole_rows_and_the_writer_loses_nothing() {
    if !daemon::is_installed() {
        return;
    }
    const FETCHES: usize = 300;
    let mut bench = direct();
    bench.write_well(&everybody(1));
    let path = bench.path(bytes4(1, 2));
    let (written, done) = (AtomicU64::new(1), AtomicBool::new(false));
    let steps = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for number in 0..FETCHES {
                let last = written.load(Ordering::Acquire);
                let start = START + 300 * last.saturating_sub(20);
                let [from, to] = [start, START + 300 * last].map(|secs| secs.to_string());
                if number % 10 == 0 {
                    let definition = format!("DEF:in={}:traffic_in:AVERAGE", path.display());
                    let png = path.with_extension("png");
                    let arguments =
                        ["graph", "-s", &from, "-e", &to, &definition, "LINE1:in#000000"];
                    patiently(&arguments, &png);
                    assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG"));
                }
                let rows = patiently(&["fetch", "AVERAGE", "-s", &from, "-e", &to], &path);
                let mut compared = 0;
                for line in rows.lines().filter_map(|line| line.split_once(": ")) {
                    let end: u64 = line.0.parse().unwrap();
                    let values: Vec<f64> =
                        line.1.split_whitespace().map(|value| value.parse().unwrap()).collect();
                    if end <= START || end > START + 300 * last {
                        continue;
                    }
                    let truth = [bytes(2, 1, end)[0], bytes(1, 2, end)[0]];
                    for (value, total) in values.into_iter().zip(truth) {
                        let rate = total as f64 / 300.0;
                        assert!((value / rate - 1.0).abs() < 1e-9, "{end}: {value}, not {rate}");
                        compared += 1;
                    }
                }
                assert!(compared >= 2, "{rows}");
            }
            done.store(true, Ordering::Release);
        });
        let mut step = 1;
        while !done.load(Ordering::Acquire) && !reader.is_finished() {
            step += 1;
            bench.write_well(&everybody(step));
            written.store(step, Ordering::Release);
        }
        reader.join().unwrap();
        step
    });
    let [input, output] =
        [bytes(2, 1, START + 300 * steps)[0], bytes(1, 2, START + 300 * steps)[0]];
    assert_rates(bench.average(bytes4(1, 2), START + 300 * steps), [input, output], "at the end");
}

/// Two writers on one tree: each update is taken once, by one or the other.
#[test]
fn two_writers_exclude_each_other() {
    let bench = direct();
    let root = bench.root();
    let alone = direct();
    const STEPS: u64 = 40;
    let write = |sink: &mut Direct| -> Vec<Receipt> {
        (1..=STEPS).map(|step| sink.write(&everybody(step)).unwrap()).collect()
    };
    let mut first = open(&root);
    let made = first.write(&everybody(1)).unwrap();
    assert_eq!(made.created, made.updates);
    let receipts = std::thread::scope(|scope| {
        let second = scope.spawn(|| write(&mut open(&root)));
        [write(&mut first), second.join().unwrap()]
    });
    let mut sink = open(&alone.root());
    for step in 1..=STEPS {
        sink.write(&everybody(step)).unwrap();
    }
    let [ones, others] = &receipts;
    for (step, (one, other)) in ones.iter().zip(others).enumerate().skip(1) {
        assert_eq!(one.refused + other.refused, 0, "{one:?} {other:?}");
        let once = one.accepted + other.accepted;
        // One may be steps ahead of the other: then the other's come too late, and are there.
        assert_eq!(once, one.updates, "step {step}: {one:?} {other:?}");
    }
    for file in [bytes4(1, 2), individual(8)] {
        for end in (2..=STEPS).map(|step| START + 300 * step) {
            assert_eq!(bench.average(file, end), alone.average(file, end), "{file} {end}");
        }
    }
}

/// A file that is locked for long costs itself alone, and is named.
#[test]
fn a_locked_file_is_refused_by_name() {
    let mut bench = direct();
    bench.write_well(&everybody(1));
    let file = fs::File::options().write(true).open(bench.path(bytes4(1, 2))).unwrap();
    let lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK.try_into().unwrap(),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let receipt = bench.write(&everybody(2));
    assert_eq!((receipt.refused, receipt.accepted), (1, receipt.updates - 1), "{receipt:?}");
    assert_eq!(receipt.refusals[0].file, bytes4(1, 2));
    assert!(receipt.refusals[0].reason.starts_with("locked"), "{receipt:?}");
    drop(file);
    // What it missed is unknown, and what follows is not.
    bench.write_well(&everybody(3));
    assert!(bench.average(bytes4(1, 2), START + 600)[0].is_nan());
    let truth = [bytes(2, 1, START + 900)[0], bytes(1, 2, START + 900)[0]];
    assert_rates(bench.average(bytes4(1, 2), START + 900), truth, "after the lock");
}

/// Cut off behind the header, and made on a machine with another layout: they are left as they are.
#[test]
fn files_that_cannot_be_ours_are_refused_by_name_and_not_touched() {
    let mut bench = direct();
    bench.write_well(&everybody(1));
    let (short, shorter, foreign) = (bytes4(1, 2), bytes4(1, 3), bytes4(1, 4));
    let edit = |file: File, change: &dyn Fn(&mut Vec<u8>)| {
        let path = bench.path(file);
        let mut content = fs::read(&path).unwrap();
        change(&mut content);
        fs::write(&path, &content).unwrap();
        (file, content)
    };
    let edited = [
        edit(short, &|content| content.truncate(content.len() - 16)),
        edit(shorter, &|content| content.truncate(1000)),
        edit(foreign, &|content| content[16..24].reverse()),
    ];
    let receipt = bench.write(&everybody(2));
    assert_eq!((receipt.refused, receipt.accepted), (3, receipt.updates - 3), "{receipt:?}");
    for ((file, content), reason) in
        edited.iter().zip(["shorter than its archives", "shorter than a header", "architecture"])
    {
        let refusal = receipt.refusals.iter().find(|refusal| refusal.file == *file).unwrap();
        assert!(refusal.reason.contains(reason), "{refusal:?}");
        assert!(fs::read(bench.path(*file)).unwrap() == *content, "{file} was written to");
    }
}

/// Files deleted while others are written: nothing fails, and what speaks is there again.
#[test]
fn files_may_be_deleted_at_any_time() {
    let mut bench = direct();
    bench.write_well(&everybody(1));
    let doomed: Vec<_> = (2..=8).map(|peer| bench.path(bytes4(1, peer))).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                for path in &doomed {
                    let _ = fs::remove_file(path);
                }
            }
        });
        for step in 2..40 {
            let receipt = bench.write(&everybody(step));
            assert!(receipt.accepted + receipt.refused == receipt.updates, "{receipt:?}");
            let deleted = |reason: &str| reason.contains("deleted");
            assert!(receipt.refusals.iter().all(|refusal| deleted(&refusal.reason)), "{receipt:?}");
        }
        done.store(true, Ordering::Release);
    });
    let last = bench.write(&everybody(40));
    assert_eq!(last.accepted, last.updates, "{last:?}");
    for path in doomed {
        let content = fs::read(path).unwrap();
        assert_eq!(content[LAST_UPDATE], (START + 300 * 40).to_le_bytes());
    }
}

/// A place where nothing can be made costs the files in it.
#[test]
fn a_directory_that_cannot_be_made_costs_its_files_alone() {
    let mut bench = direct();
    let place = bench.path(bytes4(3, 1)).parent().unwrap().to_owned();
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "in the way").unwrap();
    let receipt = bench.write(&everybody(1));
    assert_eq!((receipt.refused, receipt.accepted), (7, receipt.updates - 7), "{receipt:?}");
    for refusal in &receipt.refusals {
        let family = (IpProtocol::V4, Unit::Bytes);
        assert_eq!(refusal.file.family(), family);
        assert!(matches!(refusal.file, File::Pair { vli: VliId(3), .. }), "{refusal:?}");
    }
    fs::remove_file(&place).unwrap();
    bench.write_well(&everybody(2));
}

/// The root of a tree whose disk is not mounted is an empty directory: nothing is made in it, and
/// the interval waits.
#[test]
fn another_directory_in_the_place_of_the_root_is_not_written_to() {
    let mut bench = direct();
    bench.write_well(&everybody(1));
    let (root, aside) = (bench.root(), bench.root().with_extension("aside"));
    fs::rename(&root, &aside).unwrap();
    for there in [false, true] {
        if there {
            fs::create_dir(&root).unwrap();
        }
        let error = bench.sink.write(&everybody(2)).unwrap_err();
        assert!(matches!(error, SinkError::Unreachable { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    fs::remove_dir(&root).unwrap();
    fs::rename(&aside, &root).unwrap();
    bench.write_well(&everybody(2));
}
