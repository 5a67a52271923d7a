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
use crate::support::ixflow::{Ixflow, Site, Speaker, speak, summary_field};
use crate::support::path::wait_for;
use crate::support::rrdcached as daemon;

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
    // Expressions of several lines would not be seen above.
    assert!(!rules_alone.contains("expr: |") && !rules_alone.contains("expr: >"));
    let reasons = rules_alone.split("reason=~\"").skip(1).flat_map(|rest| {
        let names = rest.split('"').next().unwrap_or_default();
        names.split('|')
    });
    let reasons: Vec<_> = reasons.collect();
    assert!(!reasons.is_empty());
    for reason in reasons {
        assert!(Loss::ALL.iter().any(|loss| loss.name() == reason), "{reason}");
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
fn the_live_view_shows_what_is_said() {
    let (site, daemon, http) = start();
    assert_eq!(get(http, "/live.json").json()["ready"], false);
    let view = wait_for("traffic in the live view", || {
        speak(&site.fabric, daemon.address(), BURST);
        let view = get(http, "/live.json").json();
        (view["ready"] == true && view["total"]["samples"].as_u64() > Some(0)).then_some(view)
    });
    let cells = view["cells"].as_array().unwrap();
    let samples: u64 = cells.iter().map(|cell| cell[4].as_u64().unwrap()).sum();
    assert_eq!(view["total"]["samples"], samples);
    assert_eq!(view["order"].as_array().unwrap().len(), 4);
    let pair = &view["pairs"][0];
    let expected = 196.0 / pair["samples"].as_f64().unwrap().sqrt();
    assert!((pair["error_percent"].as_f64().unwrap() - expected).abs() < 1e-9, "{pair}");
    assert_eq!(get(http, "/live.json?row_from=x").status, 400);
    let page = get(http, "/");
    assert!(page.text().contains("Traffic matrix") && !page.text().contains("/*SCRIPT*/"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    daemon.stop();
}

#[test]
fn pairs_are_in_the_metrics_where_they_are_asked_for() {
    let (site, daemon, http) = start();
    speak(&site.fabric, daemon.address(), BURST);
    wait_datagrams(http, BURST as u64 + 1);
    assert!(!get(http, "/metrics").text().contains("ixflow_pair_"), "none is asked for");
    daemon.stop();

    let site = Site::new();
    let daemon = site.start(&[HTTP, "sflow_metrics_pairs=top:3"]);
    daemon.wait_table("new table: ");
    let http = daemon.http();
    // Nobody has the page open: the metrics alone keep the view up.
    let text = wait_for("pairs in the metrics", || {
        speak(&site.fabric, daemon.address(), BURST);
        let metrics = get(http, "/metrics");
        metrics.text().contains("ixflow_pair_bytes_per_second{").then_some(metrics)
    });
    let samples = samples(text.text());
    let of = |metric: &str| -> BTreeMap<String, f64> {
        let prefix = format!("{metric}{{");
        let found = samples
            .iter()
            .filter_map(|(name, &value)| Some((name.strip_prefix(&prefix)?.to_owned(), value)));
        found.collect()
    };
    let bytes = of("ixflow_pair_bytes_per_second");
    let packets = of("ixflow_pair_packets_per_second");
    let errors = of("ixflow_pair_error_percent");
    assert_eq!((bytes.len(), packets.len()), (6, 6), "three pairs, two protocols: {bytes:?}");
    assert!(bytes.keys().eq(packets.keys()));
    for (labels, &rate) in &bytes {
        assert_eq!(rate > 0.0, packets[labels] > 0.0, "{labels}");
        // Who has a rate has an error, and nobody else.
        let error = errors.get(labels).copied();
        assert_eq!(rate > 0.0, error.is_some_and(|error| error > 0.0), "{labels}: {error:?}");
        let frame = rate / packets[labels];
        assert!(rate == 0.0 || (64.0..=1_518.0).contains(&frame), "{labels}: {frame}");
    }
    daemon.stop();
    let (_, log) = site.try_start(&[HTTP, "sflow_metrics_pairs=3"]).wait();
    assert!(log.contains("sflow_metrics_pairs = 3: expected top:N"), "{log}");
}

#[test]
fn the_quality_of_an_agent_is_in_all_views() {
    let site = Site::with_counters();
    let daemon = site.start(&[HTTP]);
    daemon.wait_table("new table: ");
    let http = daemon.http();
    let mut speaker = Speaker::start(&site.fabric, daemon.address());
    wait_for("a quality of some hundred samples", || {
        let status = get(http, "/status.json").json();
        let agents = status["agents"].as_array().unwrap();
        let few = |agent: &Value| agent["quality"]["error_percent"].as_f64() < Some(10.0);
        agents.iter().any(|agent| agent["quality"].is_object() && few(agent)).then_some(())
    });
    let status = wait_datagrams(http, speaker.stop() + 1);
    let metrics = get(http, "/metrics");
    let samples = samples(metrics.text());
    let mut compared = 0;
    for agent in status["agents"].as_array().unwrap() {
        let quality = &agent["quality"];
        let labels =
            format!("{{agent={},sub_agent=\"{}\"}}", agent["address"], agent["sub_agent_id"]);
        for (metric, field) in [
            ("ixflow_agent_quality_ratio", "ratio"),
            ("ixflow_agent_quality_error_percent", "error_percent"),
        ] {
            let sample = samples.get(&*format!("{metric}{labels}")).copied();
            assert_eq!(sample, quality[field].as_f64(), "{metric}{labels}");
        }
        if let Some(ratio) = quality["ratio"].as_f64() {
            // The simulator's counters count what its samples stand for; three times the error
            // that 19 of 20 do not exceed is exceeded by nobody.
            let error = quality["error_percent"].as_f64().unwrap() / 100.0;
            assert!((ratio - 1.0).abs() < 3.0 * error, "{quality}");
            compared += 1;
        }
    }
    assert!(compared > 0, "{status}");
    daemon.stop();
}

#[test]
fn files_are_served_fresh_and_nothing_else_is() {
    if !daemon::is_installed() {
        return;
    }
    let site = Site::new();
    let rrdcached = daemon::Rrdcached::start(site.directory.path(), daemon::DOCUMENTED);
    let socket = format!("sflow_rrdcached_socket={}", site.path("rrdcached.sock").display());
    let ixflow = site.start(&[HTTP, "sflow_rrdcached=1", "sflow_flush_secs=10", &socket]);
    ixflow.wait_table("new table: ");
    let http = ixflow.http();
    speak(&site.fabric, ixflow.address(), BURST);
    let name = "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00010.rrd";
    let target = format!("/grapher-sflow/{name}");
    let path = site.tree().join(name);
    let pending = || {
        let answer = rrdcached.command(&format!("PENDING {}", path.display()));
        answer.split(' ').next().and_then(|count| count.parse::<i64>().ok()).unwrap_or(-1)
    };
    // An interval is written before the updates of files that are still being made.
    wait_for("an update that rrdcached has", || (pending() > 0).then_some(()));
    // rrdcached would keep it to itself for an hour.
    let before = std::fs::read(&path).unwrap();
    let answer = get(http, &target);
    assert_eq!(answer.status, 200);
    assert!(answer.body != before, "rrdcached wrote down what it had");
    let head = request(http, "HEAD", &target, &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), answer.body.len().to_string());
    let (etag, modified) = (head.header("etag"), head.header("last-modified"));
    for (headers, status) in [
        (&[("If-None-Match", etag)][..], 304),
        (&[("If-None-Match", "\"other\"")][..], 200),
        (&[("If-Modified-Since", modified)][..], 304),
        (&[("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")][..], 200),
        (&[("Range", "bytes=999999999-")][..], 416),
        (&[("Range", "bytes=0-3"), ("If-Range", "\"other\"")][..], 200),
    ] {
        assert_eq!(request(http, "GET", &target, headers).status, status, "{headers:?}");
    }
    let part = request(http, "GET", &target, &[("Range", "bytes=0-3"), ("If-Range", etag)]);
    assert_eq!((part.status, &*part.body), (206, &b"RRD\0"[..]));

    // What is no name of the tree, and what a name of the tree leads out of it by.
    let outside = site.path("ixpmanager.conf");
    let link = site.tree().join("ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00011.rrd");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    std::fs::create_dir(
        site.tree().join("ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00012.rrd"),
    )
    .unwrap();
    for hostile in [
        "",
        "..",
        "../ixpmanager.conf",
        "%2e%2e/ixpmanager.conf",
        "..%2fixpmanager.conf",
        "/etc/passwd",
        "ipv4/",
        "ipv4/bytes/aggregate/",
        "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00011.rrd",
        "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00012.rrd",
        "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00010.rrd%00",
        "ipv4/bytes/aggregate/../aggregate/aggregate.ipv4.bytes.vlan00010.rrd",
        "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan10.rrd",
        "ipv4//bytes/aggregate/aggregate.ipv4.bytes.vlan00010.rrd",
        "ipv6/bytes/aggregate/aggregate.ipv4.bytes.vlan00010.rrd",
    ] {
        let answer = get(http, &format!("/grapher-sflow/{hostile}"));
        assert_eq!(answer.status, 404, "{hostile}");
    }
    let graph = "/graph.png?vlan=10&protocol=ipv4&unit=bytes&period=day";
    assert!(get(http, graph).body.starts_with(b"\x89PNG"));
    assert_eq!(get(http, "/graph.png?vlan=99&protocol=ipv4&unit=bytes&period=day").status, 404);
    ixflow.stop();
    drop(rrdcached);
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
