//! `ixflow top` against a real daemon: its one table without a terminal, its errors, and that it
//! leaves a terminal as it was.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Output, Stdio};

use ixflow::count::relative_error_percent;
use ixflow::ixp::IpProtocol;

use crate::support::http::get;
use crate::support::ixflow::{Ixflow, Site, answer_always, ixflow, speak};
use crate::support::path::wait_for;

const HTTP: &str = "sflow_http_listen=127.0.0.1:0";
const TOKEN: &str = "not-to-be-told";

fn start(set: &[&str]) -> (Site, Ixflow, SocketAddr) {
    let site = Site::new();
    let daemon = site.start(&[&[HTTP], set].concat());
    daemon.wait_table("new table: ");
    let http = daemon.http();
    (site, daemon, http)
}

fn top(arguments: &[&str]) -> Output {
    ixflow().arg("top").args(arguments).output().unwrap()
}

/// The table at a daemon, after it has ended well.
fn table(http: SocketAddr, arguments: &[&str]) -> String {
    let url = format!("http://{http}");
    let output = top(&[&["--once", "--url", &url], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it says when it cannot.
fn error(arguments: &[&str]) -> String {
    let output = top(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Words of the rows below the titles, of which `title` is the first word.
fn rows(text: &str, title: &str) -> Vec<Vec<String>> {
    let rows = text.lines().skip_while(|line| !line.trim_start().starts_with(title)).skip(1);
    rows.map(|row| row.split_ascii_whitespace().map(str::to_owned).collect()).collect()
}

/// Source, destination and samples of the table's pairs, in its order.
fn pairs(text: &str) -> Vec<((u32, u32), u64)> {
    let rows = rows(text, "FROM VLI");
    let pair = |row: Vec<String>| {
        let number = |word: &String| word.parse().unwrap();
        ((number(&row[0]), number(&row[1])), row.last().unwrap().parse().unwrap())
    };
    rows.into_iter().filter(|row| row.len() > 6).map(pair).collect()
}

#[test]
fn one_table_is_what_the_fabric_said() {
    let (site, daemon, http) = start(&[]);
    // Somebody has looked: from now on the live view is kept.
    let text = table(http, &[]);
    assert!(text.contains(&format!(" at http://{http}, up ")), "{text}");
    let truth = speak(&site.fabric, daemon.address(), 60);
    let said = |samples: fn(&[u32; 2]) -> u32| -> BTreeMap<(u32, u32), u64> {
        let pairs = truth.pairs().into_iter();
        pairs
            .map(|pair| {
                let samples = samples(&pair.traffic.samples);
                ((pair.source.0, pair.destination.0), u64::from(samples))
            })
            .filter(|&(_, samples)| samples > 0)
            .collect()
    };
    let both = said(|samples| samples[0] + samples[1]);
    assert!(both.len() > 6);
    // The window of the live view is longer than all of this takes to be counted.
    let text = wait_for("all samples in the table", || {
        let text = table(http, &[]);
        let sum: u64 = pairs(&text).iter().map(|(_, samples)| samples).sum();
        (sum == both.values().sum::<u64>()).then_some(text)
    });
    assert_eq!(pairs(&text).into_iter().collect::<BTreeMap<_, _>>(), both, "{text}");
    for row in rows(&text, "FROM VLI") {
        let samples: u64 = row.last().unwrap().parse().unwrap();
        let error = relative_error_percent(samples);
        let shown = match error {
            _ if error >= 100.0 => "over 100 %".to_owned(),
            _ if error < 9.95 => format!("±{error:.1} %"),
            _ => format!("±{error:.0} %"),
        };
        assert!(row.join(" ").contains(&shown), "{row:?} has {shown}");
    }

    // Each filter and order at once, before the window moves on.
    let filtered = |arguments: &[&str]| pairs(&table(http, arguments));
    let of_ipv6 = filtered(&["--protocol", "ipv6"]);
    let ipv6 = said(|samples| samples[IpProtocol::V6 as usize]);
    assert_eq!(of_ipv6.into_iter().collect::<BTreeMap<_, _>>(), ipv6);
    let vli = both.keys().next().unwrap().0;
    let with_vli = filtered(&["--vli", &vli.to_string()]);
    let expected = both.keys().filter(|&&(from, to)| from == vli || to == vli).count();
    assert_eq!(with_vli.len(), expected);
    assert!(with_vli.iter().all(|&((from, to), _)| from == vli || to == vli));
    let by_error: Vec<u64> =
        filtered(&["--sort", "error"]).into_iter().map(|pair| pair.1).collect();
    assert!(by_error.is_sorted_by(|one, next| one >= next), "{by_error:?}");
    assert_eq!(filtered(&["--rows", "2"]).len(), 2);
    daemon.stop();
}

#[test]
fn agents_and_losses_are_those_of_the_status() {
    let (site, daemon, http) = start(&[]);
    let truth = speak(&site.fabric, daemon.address(), 60);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"no sFlow at all, of version 1852775", daemon.address()).unwrap();
    let status = wait_for("everything in the status", || {
        let status = get(http, "/status.json").json();
        let received = &status["received"];
        let lost = received["losses"].as_object().unwrap().values().any(|count| *count == 1);
        (received["flow_samples"] == truth.flow_samples && lost).then_some(status)
    });
    let agents = rows(&table(http, &["--view", "agents"]), "AGENT");
    let mut shown: Vec<_> = agents.iter().map(|row| (row[0].clone(), row[2].clone())).collect();
    let mut expected: Vec<_> = status["agents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|agent| {
            let samples = agent["received"]["flow_samples"].to_string();
            (agent["address"].as_str().unwrap().to_owned(), samples)
        })
        .collect();
    shown.sort();
    expected.sort();
    assert_eq!(shown, expected);
    assert!(agents.iter().all(|row| row[1] != "-"), "rates: {agents:?}");

    let losses = rows(&table(http, &["--view", "losses"]), "REASON");
    let shown: BTreeMap<_, _> =
        losses.iter().map(|row| (row[0].as_str(), row[1].parse::<u64>().unwrap())).collect();
    for (name, count) in status["received"]["losses"].as_object().unwrap() {
        assert_eq!(shown.get(name.as_str()), count.as_u64().as_ref(), "{name}: {losses:?}");
    }
    assert!(!table(http, &["--view", "findings"]).is_empty());
    daemon.stop();
}

#[test]
fn it_finds_the_daemon_and_its_token_by_the_configuration() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let site = Site::new();
    let listen = format!("sflow_http_listen=127.0.0.1:{port}");
    let daemon = site.start(&[&listen, &format!("sflow_http_token={TOKEN}")]);
    daemon.wait_table("new table: ");
    let http = daemon.http();
    let config = site.path("top.conf");
    let written = format!(
        "<ixp>\n\tsflow_http_listen = 0.0.0.0:{port}\n\tsflow_http_token = {TOKEN}\n</ixp>\n"
    );
    std::fs::write(&config, written).unwrap();
    let config = config.to_str().unwrap();
    // Standard output is no terminal here: one table without --once too.
    let output = top(&["--config", config, "--view", "findings"]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("ixflow "), "{output:?}");

    let url = format!("http://{http}");
    let said = error(&["--url", &url]);
    assert!(said.contains(&url) && said.contains("expected the token"), "{said}");
    let file = site.path("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let file = file.to_str().unwrap();
    assert!(table(http, &["--token-file", file, "--view", "agents"]).contains("AGENT"));
    std::fs::write(file, "another-token").unwrap();
    let said = error(&["--url", &url, "--token-file", file]);
    assert!(said.contains("the token is refused") && !said.contains("another-"), "{said}");
    daemon.stop();

    let said = error(&["--config", config, "--once"]);
    assert!(said.contains(&format!("http://127.0.0.1:{port}/status.json: no answer")), "{said}");
    assert!(said.contains("Connection refused") && said.contains("expected ixflow"), "{said}");
    std::fs::write(config, "<ixp>\nsflow_http_listen = off\n</ixp>\n").unwrap();
    let said = error(&["--config", config, "--once"]);
    assert!(said.contains("sflow_http_listen is off") && said.contains("top.conf"), "{said}");
}

#[test]
fn answers_that_are_not_ixflows_are_refused_by_name() {
    for (status, body, expected) in [
        ("200 OK", "<html>a page</html>".to_owned(), "expected the JSON of ixflow"),
        ("200 OK", "{}".to_owned(), "missing field"),
        ("404 Not Found", String::new(), "HTTP 404 Not Found: expected status 200"),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", String::new(), "HTTP 302"),
        ("200 OK", " ".repeat((16 << 20) + 1), "longer than 16777216 bytes"),
    ] {
        let url = answer_always(status, &body);
        let said = error(&["--url", &url, "--once"]);
        assert!(said.contains(&format!("{url}/status.json: ")), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    let said = error(&["--url", "http://user:s3cr3t@127.0.0.1:1", "--once"]);
    assert!(said.contains("127.0.0.1:1/status.json") && !said.contains("s3cr3t"), "{said}");
}

#[test]
fn a_filter_that_nothing_fits_is_an_error() {
    let (_site, daemon, http) = start(&[]);
    let url = format!("http://{http}");
    for (filter, said) in
        [("--vlan", "no VLAN 4094; expected one of VLAN "), ("--vli", "no VLI 4094;")]
    {
        let text = error(&["--url", &url, "--once", filter, "4094"]);
        assert!(text.contains(said), "{text}");
    }
    daemon.stop();
}

#[test]
fn a_terminal_is_left_as_it_was() {
    if Command::new("script").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "script(1) not found: bsdutils");
        eprintln!("skipped: script(1) not found (Debian package bsdutils)");
        return;
    }
    let (_site, daemon, http) = start(&[]);
    // A terminal that script(1) makes without one of its own has no size.
    let ixflow = env!("CARGO_BIN_EXE_ixflow");
    let command = format!(
        "stty cols 100 rows 24; before=$(stty -g); {ixflow} top --url http://{http}; code=$?; \
         [ \"$(stty -g)\" = \"$before\" ] && echo as before; exit $code"
    );
    for key in ["q", "\u{1b}", "\u{3}"] {
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm");
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut script = script.unwrap();
        let mut screen = Vec::new();
        let mut out = script.stdout.take().unwrap();
        // The alternate screen is there, and drawn.
        while !String::from_utf8_lossy(&screen).contains("Findings") {
            let mut bytes = [0; 4096];
            let read = out.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&screen));
            screen.extend_from_slice(&bytes[..read]);
        }
        let mut keys = script.stdin.take().unwrap();
        keys.write_all(key.as_bytes()).unwrap();
        keys.flush().unwrap();
        out.read_to_end(&mut screen).unwrap();
        assert!(script.wait().unwrap().success(), "{key:?}");
        let screen = String::from_utf8_lossy(&screen).into_owned();
        let (_, after) = screen.split_once("\u{1b}[?1049h").expect("the alternate screen");
        let (_, after) = after.split_once("\u{1b}[?1049l").expect("it is left");
        assert!(after.contains("as before"), "{key:?}: raw mode, echo: {after:?}");
    }
    daemon.stop();
}
