//! `ixflow check` as a process: what it finds, what it says, and that it changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ixflow::simulate::{Fabric, PcapWriter, Truth};
use serde_json::Value;

use crate::support::ixflow::{KEY, Site, Speaker, ixflow};
use crate::support::rrdcached::{self as daemon, DOCUMENTED, Rrdcached};

/// What a check said.
struct Checked {
    code: i32,
    text: String,
}

impl Checked {
    /// The lines about something.
    fn of(&self, level: &str, name: &str) -> Vec<&str> {
        let wanted = format!("{level:<4}  {name}");
        let about = |line: &&str| {
            line.strip_prefix(&wanted).is_some_and(|rest| rest.starts_with([' ', ':']))
        };
        self.text.lines().filter(about).collect()
    }

    fn assert_one(&self, level: &str, name: &str, part: &str) {
        let lines = self.of(level, name);
        assert!(
            lines.len() == 1 && lines[0].contains(part),
            "{level} {name} {part}: {}",
            self.text
        );
    }
}

fn check_with(site: &Site, set: &[&str], more: &[&str]) -> Checked {
    let output = ixflow().args(site.arguments("check", set)).args(more).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Checked { code: output.status.code().unwrap(), text }
}

fn check(site: &Site, set: &[&str]) -> Checked {
    check_with(site, set, &[])
}

/// A site with nothing wrong.
fn fine_site() -> Site {
    let site = Site::new();
    let settings = format!("<ixp>\napikey = {KEY}\nsflow_receive_buffer_bytes = 64k\n</ixp>\n");
    let path = site.path("ixpmanager.conf");
    fs::write(&path, settings).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    for name in ["tree", "state"] {
        fs::create_dir(site.path(name)).unwrap();
    }
    site
}

/// Every file and directory, with its size and times.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                directories.push(path.clone());
            }
            // Whoever makes an unnamed file touches no directory.
            found.insert(path, (metadata.len(), metadata.modified().unwrap()));
        }
    }
    found
}

#[test]
fn a_fine_site_is_fine_and_stays_as_it_is() {
    let site = fine_site();
    let before = snapshot(site.directory.path());
    let checked = check(&site, &[]);
    assert_eq!(snapshot(site.directory.path()), before);
    assert!(checked.text.lines().all(|line| line.starts_with("ok    ")), "{}", checked.text);
    assert_eq!(checked.code, 0);
    assert!(!checked.text.contains(KEY));
    for name in [
        "configuration",
        "key_file",
        "state_dir",
        "api",
        "rrd_directory",
        "rrd_space",
        "rrdcached",
        "disk_speed",
        "listen",
        "socket_buffer",
        "clock",
    ] {
        assert!(!checked.of("ok", name).is_empty(), "{name}: {}", checked.text);
    }
    // Both kinds: 4 VLIs with a MAC each.
    let api = checked.of("ok", "api");
    assert_eq!(api.len(), 2);
    assert!(api.iter().all(|line| line.contains("4 MACs of 4 VLIs on 1 VLANs")), "{api:?}");
    // 4N(N-1) + 4N + 4.
    checked.assert_one("ok", "rrd_space", "all pairs of 4 VLIs would have 68 files");

    let as_json = check_with(&site, &[], &["--json"]);
    let lines: Vec<Value> =
        as_json.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), checked.text.lines().count());
    assert!(lines.iter().all(|line| line["level"] == "ok" && line["name"].is_string()));
}

#[test]
fn directories_are_not_made() {
    let site = fine_site();
    for name in ["tree", "state"] {
        fs::remove_dir(site.path(name)).unwrap();
    }
    let checked = check(&site, &[]);
    assert_eq!(checked.code, 0, "{}", checked.text);
    checked.assert_one("ok", "rrd_directory", "will be made at the start");
    checked.assert_one("ok", "state_dir", "will be made at the start");
    assert!(!site.tree().exists() && !site.path("state").exists());
}

#[test]
fn faults_of_the_settings_are_told_each() {
    let site = fine_site();
    let checked = check(&site, &["sflow_workers=0", "sflow_nonsense=1"]);
    assert_eq!(checked.code, 2);
    assert_eq!(checked.of("fail", "configuration").len(), 2, "{}", checked.text);

    let path = site.path("ixpmanager.conf");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let checked = check(&site, &[]);
    assert_eq!(checked.code, 1);
    checked.assert_one("warn", "key_file", "every user of this machine can read the API key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    checked_fails(&check(&site, &[]), "key_file", "can change the settings");
}

fn checked_fails(checked: &Checked, name: &str, part: &str) {
    assert_eq!(checked.code, 2, "{}", checked.text);
    checked.assert_one("fail", name, part);
}

#[test]
fn a_portal_that_is_away_is_a_failure_and_the_saved_table_a_comfort() {
    let mut site = fine_site();
    site.portal.take().unwrap().stop();
    checked_fails(&check(&site, &[]), "api", "without a table nothing is counted");

    site.start_portal();
    let daemon = site.start(&[]);
    daemon.wait_line("new table: ");
    daemon.signal("TERM");
    daemon.wait();
    site.portal.take().unwrap().stop();
    let checked = check(&site, &[]);
    checked_fails(&checked, "api", "the saved table is used");
    checked.assert_one("ok", "state_dir", "a table of 4 entries");
    checked.assert_one("ok", "rrd_space", "all pairs of 4 VLIs");
    // A damaged table is left where it is.
    let saved = site.path("state/mac-table.json");
    fs::write(&saved, "{").unwrap();
    check(&site, &[]).assert_one("warn", "state_dir", "mac-table.json");
    assert!(saved.exists());
}

/// A portal with a table of each kind.
fn portal_with(learned: &'static str, configured: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = head.next().unwrap().unwrap();
            while head.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let body = if first.contains("/learned-macs") { learned } else { configured };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            // The client may have hung up.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    format!("apibaseurl=http://{address}/api/v4")
}

#[test]
fn what_one_table_lacks_and_what_contradicts_itself_is_told() {
    let site = fine_site();
    let learned = r#"{"1":{"10":{"020000000001":1,"020000000002":2,"020000000009":3}}}"#;
    let configured = r#"{"1":{"10":{"020000000001":1,"020000000002":2,"020000000003":3,
        "020000000004":4,"02000000000g":5},"20":{"020000000001":1}}}"#;
    let portal = portal_with(learned, configured);
    let checked = check(&site, &[&portal]);
    assert_eq!(checked.code, 1, "{}", checked.text);
    checked.assert_one("warn", "vli_without_mac", "1 VLIs have no MAC address");
    checked.assert_one("warn", "vli_without_mac", "in the other one: VLI 4; ");

    let checked = check(&site, &[&portal, "macdbtype=configured"]);
    checked.assert_one("warn", "mac_not_configured", "at 1 VLIs: VLI 3; ");
    checked.assert_one("warn", "table_conflict", "VLI 1 is on VLANs 10, 20");
    checked.assert_one("warn", "api", "expected a MAC address");

    let checked = check(&site, &[&portal_with("[]", "[]")]);
    checked_fails(&checked, "api", "the MAC table is empty");
    let checked = check(&site, &[&portal, "sflow_infraid=2"]);
    checked_fails(&checked, "api", "no such infrastructure");
    assert!(checked.text.contains("set sflow_infraid to one of 1,"), "{}", checked.text);
}

#[test]
fn a_port_is_ixflows_or_somebody_elses() {
    let site = fine_site();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = format!("sflow_listen={}", other.local_addr().unwrap());
    checked_fails(&check(&site, &[&taken]), "listen", "Address already in use");

    let daemon = site.start(&[]);
    let taken = format!("sflow_listen={}", daemon.address());
    let checked = check(&site, &[&taken]);
    checked.assert_one("ok", "listen", "ixflow listens (process ");
    assert_eq!(checked.code, 0, "{}", checked.text);
}

/// A capture of so many seconds of a fabric.
fn capture(site: &Site, fabric: &Fabric, secs: u64) -> (String, Truth) {
    capture_from(site, fabric, 1_800_000_000, secs)
}

fn capture_from(site: &Site, fabric: &Fabric, from_secs: u64, secs: u64) -> (String, Truth) {
    let path = site.path("fabric.pcap");
    let start_millis = from_secs * 1_000;
    let mut generator = fabric.generator(start_millis, 200).with_truth(300);
    let mut writer = PcapWriter::new(fs::File::create(&path).unwrap()).unwrap();
    let mut payload = Vec::new();
    while generator.next_micros() < (start_millis + secs * 1_000) * 1_000 {
        let emitted = generator.generate(&mut payload);
        writer.write(emitted.stamp_micros, emitted.source, &payload).unwrap();
    }
    writer.finish().unwrap();
    (path.display().to_string(), generator.finish())
}

#[test]
fn a_capture_shows_what_is_right_and_what_is_wrong() {
    let site = fine_site();
    let (path, truth) = capture(&site, &site.fabric, 60);
    let before = snapshot(site.directory.path());
    let checked = check_with(&site, &[], &["--pcap", &path]);
    assert_eq!(snapshot(site.directory.path()), before);
    let said = format!("{} datagrams of ", truth.datagrams);
    checked.assert_one("ok", "stream", &said);
    let counted = format!(": {} flow samples, ", truth.flow_samples);
    checked.assert_one("ok", "stream", &counted);
    checked.assert_one("ok", "mac_not_seen", "all 4 MACs of the table sent something");

    // A fabric that the portal has never heard of: its members' MACs are others.
    let strangers = Fabric::from_toml(
        "members = 7\n[[infrastructure]]\nid = 1\n\
         [[infrastructure.vlan]]\ntag = 77\n",
    );
    let (path, truth) = capture(&site, &strangers.unwrap(), 60);
    let checked = check_with(&site, &[], &["--pcap", &path]);
    let said = format!("{} flow samples, 0 of them counted", truth.flow_samples);
    checked_fails(&checked, "stream", &said);
    let others = portal_with(r#"{"1":{"10":{"0200000000aa":1,"0200000000bb":2}}}"#, "[]");
    let checked = check_with(&site, &[&others], &["--pcap", &path]);
    checked.assert_one("warn", "mac_not_seen", "2 of 2 MACs of the table (100 %) sent nothing in ");
    checked.assert_one("warn", "mac_not_seen", ": 02:00:00:00:00:aa (VLI 1), 02:00:00:00:00:bb");

    let text = site.path("ixpmanager.conf").display().to_string();
    checked_fails(&check_with(&site, &[], &["--pcap", &text]), "stream", "ixpmanager.conf");
}

#[test]
fn some_seconds_of_the_stream_are_listened_to_unless_ixflow_does() {
    let site = fine_site();
    // A port that was free a moment ago.
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = format!("sflow_listen={port}");
    let speaker = Speaker::start(&site.fabric, port);
    let checked = check_with(&site, &[&listen], &["--listen", "1"]);
    checked.assert_one("ok", "stream", &format!(" in 1 s on {port}: "));
    drop(speaker);
    let silent = check_with(&site, &[&listen], &["--listen", "1"]);
    checked_fails(&silent, "stream", "0 datagrams of 0 agents in 1 s");

    let daemon = site.start(&[]);
    let taken = format!("sflow_listen={}", daemon.address());
    let checked = check_with(&site, &[&taken], &["--listen", "1"]);
    checked.assert_one("warn", "stream", "ixflow listens already (process ");
}

#[test]
fn a_tree_that_is_no_directory_is_a_failure() {
    let site = fine_site();
    fs::write(site.path("file"), "").unwrap();
    let tree = format!("sflow_rrddir={}", site.path("file").display());
    checked_fails(&check(&site, &[&tree]), "rrd_directory", "not a directory");
}

#[test]
fn rrdcached_is_asked_what_it_allows_and_nothing_is_written() {
    if !daemon::is_installed() {
        return;
    }
    let site = fine_site();
    let socket = |daemon: &Rrdcached| {
        ["sflow_rrdcached=1".to_owned(), format!("sflow_rrdcached_socket={}", daemon.address)]
    };

    // Nobody there.
    let absent = format!("sflow_rrdcached_socket={}", site.path("none.sock").display());
    checked_fails(&check(&site, &["sflow_rrdcached=1", &absent]), "rrdcached", "No such file");

    // A tree of a running site, through a socket on which everything is allowed.
    let directory = site.directory.path();
    let open = Rrdcached::start(directory, daemon::OPEN);
    let set = socket(&open);
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let ixflow = site.start(&set);
    ixflow.wait_line("new table: ");
    crate::support::ixflow::speak(&site.fabric, ixflow.address(), 60);
    ixflow.signal("TERM");
    let (code, log) = ixflow.wait();
    assert_eq!(code, Some(0), "{log}");
    let before = snapshot(&site.tree());
    let file = site.tree().join("ipv4/bytes/individual/individual.ipv4.bytes.src-00001.rrd");
    let pending = || open.command(&format!("PENDING {}", file.canonicalize().unwrap().display()));
    let waiting = pending();
    assert!(waiting.ends_with("updates pending"), "{waiting}");
    let checked = check(&site, &set);
    assert_eq!(checked.code, 0, "{}", checked.text);
    checked.assert_one("ok", "rrdcached", "allows UPDATE, CREATE, FLUSH, BATCH; version 1.5");
    checked.assert_one("ok", "rrdcached_files", "rrdcached can write it");
    checked.assert_one("ok", "rrdcached_queue", "files wait to be written");
    assert_eq!(snapshot(&site.tree()), before);
    assert_eq!(pending(), waiting);
    // Of several, every one is looked at.
    let both =
        format!("sflow_rrdcached_socket={} {}", open.address, site.path("none.sock").display());
    let checked = check(&site, &["sflow_rrdcached=1", &both]);
    checked.assert_one("ok", "rrdcached", "; has the files of ");
    checked_fails(&checked, "rrdcached", "No such file");
    open.stop();

    // As documented: some commands are refused, and that will do.
    let documented = Rrdcached::start(directory, DOCUMENTED);
    let set = socket(&documented);
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let checked = check(&site, &set);
    assert_eq!(checked.code, 0, "{}", checked.text);
    checked.assert_one("ok", "rrdcached", "allows UPDATE, FLUSH;");
    documented.stop();

    // One that may not write at all.
    let flush = Rrdcached::start(directory, &["-P", "FLUSH"]);
    let set = socket(&flush);
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    checked_fails(&check(&site, &set), "rrdcached", "UPDATE is not allowed");
    flush.stop();

    // One with a base directory elsewhere.
    let elsewhere = tempfile::tempdir().unwrap();
    let based = Rrdcached::start(elsewhere.path(), &["-B"]);
    let set = socket(&based);
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    checked_fails(&check(&site, &set), "rrdcached_base", "Permission denied");
}

/// A portal whose both tables are those of a fabric.
fn portal_of(fabric: &Fabric) -> String {
    let table: &str = Box::leak(fabric.mac_table_json().into_boxed_str());
    portal_with(table, table)
}

#[test]
fn a_lag_is_told_from_a_link_between_switches_and_few_silent_macs_are_no_fault() {
    // Three routers at each of two ports of one switch; one more is in the table, and silent.
    let of_port = |if_index| {
        let macs = r#"["02:00:00:00:01:01", "02:00:00:00:01:02", "02:00:00:00:01:03"]"#;
        format!(
            "[[infrastructure]]\nid = 1\n[[infrastructure.vlan]]\ntag = 10\n\
             [[infrastructure.vlan.member]]\nvli = 1\nmacs = {macs}\ntagged = true\n\
             if_index = {if_index}\n\
             [[infrastructure.vlan.member]]\nvli = 2\ntagged = true\nif_index = 30\n\
             [[switch]]\nagent = \"192.0.2.1\"\n"
        )
    };
    let site = fine_site();
    let [one, other] = [21, 22].map(|port| Fabric::from_toml(&of_port(port)).unwrap());
    let mut table: Value = serde_json::from_str(&one.mac_table_json()).unwrap();
    table["1"]["10"]["0200000000ff"] = 9.into();
    let table: &str = Box::leak(table.to_string().into_boxed_str());
    let portal = portal_with(table, table);
    // The sum of both is what a LAG of two members shows.
    let (first, _) = capture(&site, &one, 180);
    let moved = site.path("first.pcap");
    fs::rename(first, &moved).unwrap();
    let (second, _) = capture_from(&site, &other, 1_800_000_180, 190);
    let both = ["--pcap", moved.to_str().unwrap(), "--pcap", &second];
    let checked = check_with(&site, &[&portal], &both);
    checked.assert_one(
        "ok",
        "lag",
        "(192.0.2.1 ifIndex 21, 22): 2 ports share their MACs (3): a LAG",
    );
    assert!(checked.of("warn", "core_port").is_empty(), "{}", checked.text);
    let silent = "1 of 5 MACs of the table (20 %) sent nothing in ";
    checked.assert_one("ok", "mac_not_seen", silent);
    checked.assert_one("ok", "mac_not_seen", ": 02:00:00:00:00:ff (VLI 9)");
}

/// A line without what differs from site to site: numbers, addresses, paths, lengths of lists.
fn normalised(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let begins = out.ends_with([' ', '(', '=']);
        let is_mac = rest.get(..17).is_some_and(|text| {
            let mut parts = text.split(':');
            text.matches(':').count() == 5
                && parts.all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok())
        });
        let length = if is_mac {
            out.push_str("MAC");
            17
        } else if begins && first == '/' {
            out.push_str("PATH");
            rest.find([' ', ')', ';', ',']).unwrap_or(rest.len())
        } else if first.is_ascii_digit() {
            out.push('N');
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            // A full stop, and no point.
            rest[..end].trim_end_matches('.').len()
        } else {
            out.push(first);
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    for item in ["N", "N (N %)"] {
        while out.contains(&format!("{item}, {item}")) {
            out = out.replace(&format!("{item}, {item}"), item);
        }
    }
    out
}

/// The lines of output that a document prints, each as one, however it is wrapped.
fn printed(document: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut continues = false;
    for line in document.lines() {
        let Some(text) = line.strip_prefix("    ") else {
            continues = false;
            continue;
        };
        if ["ok    ", "warn  ", "fail  "].iter().any(|level| text.starts_with(level)) {
            lines.push(text.to_owned());
            continues = true;
        } else if text.starts_with("...") || text.starts_with('$') {
            continues = false;
        } else if continues && let Some(last) = lines.last_mut() {
            last.push(' ');
            last.push_str(text);
        }
    }
    lines
}

#[test]
fn the_output_in_the_documents_is_what_is_printed() {
    let site = fine_site();
    let daemon = site.start(&[]);
    daemon.wait_line("new table: ");
    daemon.signal("TERM");
    daemon.wait();
    // A member that is in one of the tables alone.
    let learned = r#"{"1":{"10":{"020000000001":1,"020000000002":2},"20":{"020000000007":7}}}"#;
    let configured = r#"{"1":{"10":{"020000000001":1,"020000000003":3,"020000000004":4}}}"#;
    let mut output = check(&site, &[&portal_with(learned, configured)]).text;

    // A switch that drops samples, and links between switches.
    let two = "members = 8\nzipf_exponent = 0.3\nsampling_rate = 1000\ntagged_share = 1.0\n\
               counters_interval_secs = 27\n";
    let throttled = "[[switch]]\nagent = \"192.0.2.1\"\n[[switch]]\nagent = \"192.0.2.2\"\n\
                     samples_per_second_max = 50\n";
    let core = "noise = { core = 0.3 }\n[[switch]]\nagent = \"192.0.2.1\"\n[[switch]]\n\
                agent = \"192.0.2.2\"\n";
    for (fault, secs) in [(throttled, 400), (core, 190)] {
        let fabric = Fabric::from_toml(&format!("{two}{fault}")).unwrap();
        let (path, _) = capture(&site, &fabric, secs);
        output += &check_with(&site, &[&portal_of(&fabric)], &["--pcap", &path]).text;
    }
    let output: BTreeSet<String> = output.lines().map(normalised).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = printed(&fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap());
    assert!(lines.len() >= 8, "{lines:#?}");
    for line in lines {
        let expected = normalised(&line);
        assert!(output.contains(&expected), "{expected}\nis none of {output:#?}");
    }
}
