//! `ixflow demo`, as a user runs it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use ixflow::count::relative_error_percent;
use ixflow::ixp::{IpProtocol, Unit, VlanTag};
use ixflow::simulate::{DEFAULT_FABRIC, Fabric};
use ixflow::sink::librrd::fetch;
use ixflow::sink::{Consolidation, File, STEP_SECS};

use crate::support::http::get;
use crate::support::path::wait_for;

const RATE: u32 = 150;

fn demo(dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ixflow"));
    command.arg("demo").arg("--dir").arg(dir);
    command.args(["--hours", "2", "--live", "1", "--rate", &RATE.to_string()]);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The number behind `option` in the output.
fn number(output: &str, option: &str) -> u64 {
    let rest = output.split(option).nth(1).unwrap_or_else(|| panic!("no {option} in\n{output}"));
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// The files that a page refers to.
fn references(page: &Path) -> Vec<PathBuf> {
    let html = fs::read_to_string(page).unwrap();
    let attributes = ["src=\"", "href=\""];
    let found = attributes.iter().flat_map(|attribute| {
        html.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap())
    });
    found.map(|target| page.parent().unwrap().join(target)).collect()
}

/// A demo; it is killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // By its own id, and nothing if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_demo_has_a_live_page_while_it_is_live() {
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ixflow"));
    command.arg("demo").arg("--dir").arg(place.path().join("demo"));
    // Far longer than the test takes.
    command.args(["--hours", "1", "--live", "600", "--rate", "300"]).stdout(Stdio::piped());
    let mut demo = Running(command.spawn().unwrap());
    let stdout = BufReader::new(demo.0.stdout.take().unwrap());
    let mut lines = stdout.lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("http://")).expect("an address");
    let address = line.split("http://").nth(1).unwrap().trim_end_matches('/').parse().unwrap();
    assert!(get(address, "/").text().contains("Traffic matrix"));
    let status = get(address, "/status.json").json();
    assert_eq!(status["ready"], true);
    let fabric = Fabric::from_toml(DEFAULT_FABRIC).unwrap();
    assert_eq!(status["table"]["vlis"], fabric.vlis().len());
    wait_for("traffic in the live view", || {
        let view = get(address, "/live.json").json();
        (view["ready"] == true && view["total"]["samples"].as_u64() > Some(0)).then_some(())
    });
}

#[test]
fn a_demo_holds_what_was_said_and_shows_it() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("two words");
    let output = demo(&dir);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", text(&output.stderr));
    assert!(printed.contains("checked: "), "{printed}");
    assert!(!printed.contains("differences"), "{printed}");

    // The demo compares all its files with the truth. Here the aggregates once more, with a truth
    // of our own: the driven part is the same for everybody who knows when it began.
    let from_secs = number(printed, "--start");
    let last_secs = number(printed, "--end") + STEP_SECS;
    assert_eq!(from_secs % STEP_SECS, 0);
    assert!((24..=26).contains(&((last_secs - from_secs) / STEP_SECS)));
    let driven_to_secs = from_secs + 23 * STEP_SECS;
    let fabric = Fabric::from_toml(DEFAULT_FABRIC).unwrap();
    let mut generator = fabric.generator(from_secs * 1000, RATE).with_truth(STEP_SECS);
    let mut payload = Vec::new();
    while generator.next_micros() < driven_to_secs * 1_000_000 {
        generator.generate(&mut payload);
    }
    let truth = generator.finish();
    assert_eq!(truth.intervals.len(), 23);
    let root = dir.join("rrd");
    for vlan in [10, 20].map(VlanTag::new) {
        for protocol in IpProtocol::ALL {
            for unit in Unit::ALL {
                let said: BTreeMap<u64, u64> = truth
                    .intervals
                    .iter()
                    .map(|interval| {
                        let aggregates = interval.aggregates(&fabric);
                        let of_vlan = aggregates.iter().filter(|((_, tag), _)| *tag == vlan);
                        let totals = of_vlan.map(|(_, traffic)| traffic.of(protocol, unit));
                        (interval.to_secs, totals.sum())
                    })
                    .collect();
                let file = File::Aggregate { protocol, unit, vlan, infrastructure: None };
                let path = file.path(&root);
                let average = Consolidation::Average;
                let rows = fetch(&path, average, from_secs, driven_to_secs, STEP_SECS).unwrap();
                assert_eq!(rows.len(), 23);
                for row in rows {
                    for rate in row.values {
                        let total = (rate * STEP_SECS as f64).round();
                        assert_eq!(total, said[&row.end_secs] as f64, "{file} {}", row.end_secs);
                    }
                }
            }
        }
    }

    let pages = ["index.html", "member.html"].map(|page| dir.join(page));
    let mut graphs = 0;
    for target in pages.iter().flat_map(|page| references(page)) {
        assert!(target.is_file(), "{}", target.display());
        if target.extension().is_some_and(|extension| extension == "png") {
            graphs += 1;
            let png = fs::read(&target).unwrap();
            assert!(png.starts_with(b"\x89PNG\r\n"), "{}", target.display());
            // Width and height of the header chunk (PNG, section 11.2.2).
            let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
            assert!((600..1000).contains(&side(16)) && (150..400).contains(&side(20)));
            assert!(png.len() > 4_000, "{} is nearly empty", target.display());
        }
    }
    // Two VLANs in four views, eight pairs; a member in four views, eleven peers on one VLAN or
    // five on the other, with both protocols.
    assert!(graphs >= 8 + 8 + 4 + 10, "{graphs} graphs");

    // The pages name files that are there.
    let html = fs::read_to_string(&pages[0]).unwrap().replace("<wbr>", "");
    let mut named = 0;
    for path in html.split("<code>rrd/").skip(1).map(|rest| rest.split('<').next().unwrap()) {
        assert!(path.parse::<File>().unwrap().path(&root).is_file(), "{path}");
        named += 1;
    }
    assert_eq!(named, 16);

    // Every rate has its error, that of its samples.
    let mut rates = 0;
    for row in html.split("<tr><td class=\"").skip(1) {
        let cells: Vec<&str> =
            row.split("<td>").skip(1).map(|cell| cell.split("</td>").next().unwrap()).collect();
        let [_, _, error, of_a_row, samples] = cells[..] else { panic!("{cells:?}") };
        let digits: String = samples.chars().filter(char::is_ascii_digit).collect();
        let percent = |cell: &str| -> f64 {
            let number = cell.strip_prefix('±').and_then(|cell| cell.strip_suffix(" %"));
            number.unwrap_or_else(|| panic!("{cell}")).parse().unwrap()
        };
        let expected = relative_error_percent(digits.parse().unwrap());
        assert!((percent(error) - expected).abs() <= 0.5, "{error}, {samples} samples");
        // Some 25 rows: five times the error.
        let ratio = percent(of_a_row) / expected;
        assert!((4.5..6.5).contains(&ratio), "{of_a_row}, {error}");
        rates += 1;
    }
    assert_eq!(rates, 2 * 16);

    // A second run starts afresh: a first update can only be taken by a new file.
    let stray = dir.join("graphs/stray.png");
    fs::write(&stray, "").unwrap();
    let output = demo(&dir);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!stray.exists());
}

#[test]
fn a_directory_of_others_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let theirs = place.path().join("rrd");
    fs::create_dir(&theirs).unwrap();
    let output = demo(place.path());
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("--dir"), "{}", text(&output.stderr));
    assert_eq!(output.stdout, b"");
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
}
