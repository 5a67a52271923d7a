//! The daemon's own HTTP server: what it says, to whom, and that nobody can hold it up.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use ixflow::control::web::CONNECTIONS_MAX;
use ixflow::control::web::metrics::METRICS;
use ixflow::loss::Loss;
use serde_json::Value;

use crate::support::http::{get, request, try_request};
use crate::support::ixflow::{Ixflow, Site, speak, summary_field};
use crate::support::path::wait_for;

const BURST: usize = 60;

/// Where the daemon of a test answers.
const HTTP: &str = "sflow_http_listen=127.0.0.1:0";

/// Waits until the status tells of so many datagrams.
fn wait_datagrams(http: SocketAddr, datagrams: u64) -> Value {
    wait_for("the datagrams in the status", || {
        let status = get(http, "/status.json").json();
        (status["received"]["datagrams"] == datagrams).then_some(status)
    })
}

/// Every sample of a text of metrics, by name and labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name, value.parse().unwrap())
        })
        .collect()
}

/// Whether promtool is there. Where CI is set it must be.
fn has_promtool() -> bool {
    let found = Command::new("promtool").arg("--version").output().is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "promtool not found: install the Debian package prometheus"
    );
    if !found {
        eprintln!("skipped: promtool not found (Debian package prometheus)");
    }
    found
}

fn start() -> (Site, Ixflow, SocketAddr) {
    let site = Site::new();
    let daemon = site.start(&[HTTP]);
    daemon.wait_table("new table: ");
    let http = daemon.http();
    (site, daemon, http)
}

#[test]
fn all_views_say_the_same() {
    let (site, daemon, http) = start();
    let truth = speak(&site.fabric, daemon.address(), BURST);
    let status = wait_datagrams(http, BURST as u64 + 1);
    let metrics = get(http, "/metrics");
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let samples = samples(metrics.text());

    let received = &status["received"];
    assert_eq!(received["flow_samples"], truth.flow_samples);
    assert_eq!(samples["ixflow_datagrams_total"], BURST as f64 + 1.0);
    for (metric, field) in [
        ("ixflow_flow_samples_total", "flow_samples"),
        ("ixflow_flow_samples_counted_total", "counted"),
        ("ixflow_sequence_skipped_total", "sequence_skipped"),
        ("ixflow_agent_drops_total", "agent_drops"),
    ] {
        assert_eq!(samples[metric], received[field].as_f64().unwrap(), "{metric}");
    }
    for loss in Loss::ALL {
        let sample = samples[&*format!("ixflow_losses_total{{reason=\"{}\"}}", loss.name())];
        assert_eq!(sample, received["losses"][loss.name()].as_f64().unwrap_or(0.0), "{loss:?}");
    }
    let agents = status["agents"].as_array().unwrap();
    // The fabric's, and the one that the test speaks for while it waits for the table.
    assert_eq!(agents.len(), site.fabric.switches().len() + 1);
    let mut sum = 0.0;
    for agent in agents {
        let labels =
            format!("{{agent={},sub_agent=\"{}\"}}", agent["address"], agent["sub_agent_id"]);
        let flow_samples = samples[&*format!("ixflow_agent_flow_samples_total{labels}")];
        assert_eq!(flow_samples, agent["received"]["flow_samples"].as_f64().unwrap());
        sum += flow_samples;
    }
    assert_eq!(sum, samples["ixflow_flow_samples_total"]);
    assert_eq!(status["table"]["vlis"], 4);
    assert_eq!(samples["ixflow_table_vlis"], 4.0);
    assert_eq!(samples["ixflow_ready"], 1.0);
    // The rates are there from the second look on.
    let status = wait_for("a rate", || {
        let status = get(http, "/status.json").json();
        status["flow_samples_per_sec"].is_number().then_some(status)
    });
    assert!(status["agents"][0]["flow_samples_per_sec"].is_number(), "{status}");

    let log = daemon.stop();
    for (name, field) in [("datagrams", "datagrams"), ("samples", "flow_samples")] {
        assert_eq!(summary_field(&log, name), received[field].as_u64().unwrap(), "{log}");
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    if !has_promtool() {
        return;
    }
    let (site, daemon, http) = start();
    speak(&site.fabric, daemon.address(), BURST);
    wait_datagrams(http, BURST as u64 + 1);
    let text = get(http, "/metrics");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&text.body).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    daemon.stop();
}

/// Names of metrics in a text.
fn names_in(text: &str) -> Vec<&str> {
    let word = |c: char| c.is_ascii_lowercase() || c == '_';
    let parts = text.split(|c| !word(c));
    let names = parts.filter(|part| part.starts_with("ixflow_") && part.len() > 7);
    names.collect()
}

#[test]
fn dashboard_and_alerts_name_metrics_that_exist() {
    let dashboard = include_str!("../contrib/grafana/ixflow.json");
    let parsed: Value = serde_json::from_str(dashboard).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() > 5);
    let rules = include_str!("../contrib/prometheus/ixflow.rules.yml");
    let rules_alone: String = rules.lines().filter(|line| line.contains("expr:")).collect();
    for text in [dashboard, &rules_alone] {
        let names = names_in(text);
        assert!(names.len() > 10);
        for name in names {
            assert!(METRICS.iter().any(|metric| metric.name == name), "{name}");
        }
    }
    if has_promtool() {
        for arguments in
            [["check", "rules", "ixflow.rules.yml"], ["test", "rules", "ixflow.test.yml"]]
        {
            let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/prometheus");
            let mut command = Command::new("promtool");
            let output = command.args(arguments).current_dir(directory).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }
}

#[test]
fn every_metric_is_in_the_document() {
    let text = include_str!("../docs/operations.md");
    let (_, section) = text.split_once("\n## Metrics\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `ixflow_")).collect();
    let names: Vec<_> = rows.iter().map(|row| row.split('`').nth(1).unwrap()).collect();
    let expected: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names, expected, "every metric, in the order of METRICS");
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 3 && cells[1..].iter().all(|cell| !cell.is_empty()), "{row}");
    }
}

#[test]
fn it_is_ready_with_a_table_and_healthy_before() {
    let mut site = Site::without_portal();
    let daemon = site.start(&[HTTP, "sflow_api_interval_secs=10"]);
    let http = daemon.http();
    assert_eq!(get(http, "/healthz").status, 200);
    let answer = get(http, "/readyz");
    assert_eq!((answer.status, answer.text().contains("no MAC table")), (503, true));
    assert_eq!(get(http, "/status.json").json()["ready"], false);
    assert!(!get(http, "/metrics").text().contains("ixflow_table_age_seconds "));
    site.start_portal();
    daemon.wait_table("new table: ");
    assert_eq!(get(http, "/readyz").status, 200);
    wait_for("a status that is ready", || {
        (get(http, "/status.json").json()["ready"] == true).then_some(())
    });
    assert!(get(http, "/metrics").text().contains("\nixflow_table_age_seconds "));
    assert_eq!(get(http, "/nothing").status, 404);
    assert_eq!(request(http, "POST", "/healthz", &[]).status, 405);
    daemon.stop();
}

#[test]
fn figures_are_for_those_with_the_token() {
    let site = Site::new();
    let daemon = site.start(&[HTTP, "sflow_http_token=not-to-be-told"]);
    let http = daemon.http();
    for open in ["/healthz", "/readyz"] {
        assert_ne!(get(http, open).status, 401, "{open}");
    }
    for guarded in ["/status.json", "/metrics", "/nothing"] {
        for (headers, status) in [
            (&[][..], 401),
            (&[("Authorization", "Bearer not-to-be-tol")][..], 401),
            (&[("Authorization", "Bearer not-to-be-told2")][..], 401),
            (&[("Authorization", "Basic not-to-be-told")][..], 401),
            (&[("Authorization", "Bear")][..], 401),
            (&[("Authorization", "bearer not-to-be-told")][..], 200),
        ] {
            let answer = request(http, "GET", guarded, headers);
            let expected = if guarded == "/nothing" && status == 200 { 404 } else { status };
            assert_eq!(answer.status, expected, "{guarded} {headers:?}");
            if status == 401 {
                assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"ixflow\"");
            }
        }
    }
    let log = daemon.stop();
    assert!(!log.contains("not-to-be"), "{log}");
    let (_, log) = site.try_start(&[HTTP, "sflow_http_token=short"]).wait();
    assert!(log.contains("sflow_http_token = ***: expected at least 8"), "{log}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("sflow_http_listen={}", taken.local_addr().unwrap());
    let (code, log) = site.try_start(&[&listen]).wait();
    assert_eq!(code, Some(1));
    let said = format!("cannot listen on TCP {}: ", taken.local_addr().unwrap());
    assert!(log.contains(&said) && log.contains("sflow_http_listen"), "{log}");
}

#[test]
fn slow_clients_hold_nobody_up() {
    let (site, daemon, http) = start();
    // More than may connect, each of which has begun a request that it does not end.
    let mut slow: Vec<_> = (0..CONNECTIONS_MAX + 16)
        .map(|_| {
            let mut stream = TcpStream::connect(http).unwrap();
            stream.write_all(b"GET /status.json HTTP/1.1\r\nHost: a\r\n").unwrap();
            stream
        })
        .collect();
    let truth = speak(&site.fabric, daemon.address(), BURST);
    // A head without end is no request either.
    for stream in &mut slow {
        let _ = stream.write_all(b"X: ");
    }
    assert_eq!(get(http, "/healthz").status, 200);
    let status = wait_datagrams(http, BURST as u64 + 1);
    assert_eq!(status["received"]["flow_samples"], truth.flow_samples);
    let long = "x".repeat(100_000);
    let answer = try_request(http, "GET", "/healthz", &[("X", &long)]);
    assert!(answer.is_none_or(|answer| answer.status == 431));
    assert_eq!(get(http, "/healthz").status, 200);
    drop(slow);
    daemon.stop();
}
