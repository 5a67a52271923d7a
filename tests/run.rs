//! The daemon as a process: signals, the portal, rrdcached, and what it says of them.

use std::net::UdpSocket;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use ixflow::simulate::Truth;
use ixflow::sink::rrdcached::Address;

use crate::support::datagram::datagram;
use crate::support::ixflow::{
    DOCUMENTED, Ixflow, KEY, Site, answer_always, ixflow, last_rates, speak, summary_field,
};
use crate::support::path::{files_below, wait_for};
use crate::support::rrdcached::{self as daemon, DOCUMENTED as DOCUMENTED_RRDCACHED};

/// Datagrams of a burst: each agent of the fabric sends some.
const BURST: usize = 60;

fn counted(truth: &Truth) -> u64 {
    truth.pairs().into_iter().flat_map(|pair| pair.traffic.samples).map(u64::from).sum()
}

/// Files of a tree in which every pair has spoken IPv4 and IPv6.
fn files_in_all(vlis: usize) -> usize {
    // IPv4 and IPv6, bytes and packets; one VLAN.
    4 * (vlis * (vlis - 1) + vlis + 1)
}

/// The last update of the aggregate files was what was said, in both directions, over a whole
/// number of seconds.
fn assert_last_update(site: &Site, truth: &Truth, secs_max: f64) {
    let mut secs_of_all = None;
    for (p, protocol) in ["ipv4", "ipv6"].into_iter().enumerate() {
        for (u, unit) in ["bytes", "pkts"].into_iter().enumerate() {
            let amounts = truth
                .pairs()
                .into_iter()
                .map(|pair| [pair.traffic.bytes, pair.traffic.packets][u][p]);
            let said: u64 = amounts.sum();
            let name = format!("aggregate.{protocol}.{unit}.vlan00010.rrd");
            let path = site.tree().join(protocol).join(unit).join("aggregate").join(&name);
            for rate in last_rates(&path) {
                let secs = (said as f64 / rate).round();
                assert_eq!((rate * secs).round(), said as f64, "{name}: {rate}");
                assert!((1.0..=secs_max).contains(&secs), "{name}: {secs} s");
                assert_eq!(*secs_of_all.get_or_insert(secs), secs, "{name}");
            }
        }
    }
}

#[test]
fn settings_in_force_are_printed_without_the_key() {
    let site = Site::without_portal();
    let mut command = ixflow();
    command.args(["run", "--print-config", "--set", "sflow_flush_secs=60", "--config"]);
    let output = command.arg(site.path("ixpmanager.conf")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(KEY) && output.stderr.is_empty(), "{text}");
    let printed: toml::Table = text.parse().unwrap();
    let ixp = printed.get("ixp").and_then(toml::Value::as_table).unwrap_or(&printed);
    assert_eq!(ixp["sflow_rrddir"].as_str(), Some("/data/ixpmatrix"));
    assert_eq!(ixp["sflow_flush_secs"].as_integer(), Some(60));
    assert!(ixp["apikey"].as_str().is_some_and(|key| !key.is_empty()), "{text}");
}

#[test]
fn a_signal_to_stop_writes_what_was_counted() {
    for signal in ["TERM", "INT", "QUIT"] {
        for datagrams in [BURST, 0] {
            let site = Site::new();
            let daemon = site.start(&[]);
            assert!(daemon.log().contains("sflowtool and sflowtool_opts are ignored"));
            let table = daemon.wait_table("new table: ");
            assert!(table.contains("infrastructures=1 vlans=1 macs=4 vlis=4"), "{table}");
            let truth = speak(&site.fabric, daemon.address(), datagrams);
            let told = Instant::now();
            daemon.signal(signal);
            let (code, log) = daemon.wait();
            assert_eq!(code, Some(0), "{signal}: {log}");
            assert!(told.elapsed() < Duration::from_secs(5), "{signal}: {:?}", told.elapsed());
            assert_eq!(summary_field(&log, "datagrams"), datagrams as u64 + 1, "{log}");
            assert_eq!(summary_field(&log, "samples"), truth.flow_samples, "{log}");
            assert_eq!(summary_field(&log, "counted"), counted(&truth), "{log}");
            if datagrams > 0 {
                assert_eq!(site.tree_files().len(), files_in_all(4), "{log}");
                if daemon::is_installed() {
                    assert_last_update(&site, &truth, 20.0);
                }
            }
        }
    }
}

#[test]
fn all_sockets_are_read_empty_at_the_end() {
    let site = Site::new();
    let daemon = site.start(&["sflow_listen=127.0.0.1:0 127.0.0.2:0"]);
    daemon.wait_table("new table: ");
    let line = daemon.wait_line("listens on UDP ");
    let other = line.split(", ").find(|part| part.starts_with("127.0.0.2:")).unwrap();
    let other = other.split(' ').next().unwrap();
    // More than a batch waits at each, and it is told to stop before it reads any.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.freeze();
    for _ in 0..100 {
        socket.send_to(&datagram(&[]), daemon.address()).unwrap();
        socket.send_to(&datagram(&[]), other).unwrap();
    }
    daemon.signal("TERM");
    daemon.signal("CONT");
    let (_, log) = daemon.wait();
    assert_eq!(summary_field(&log, "datagrams"), 201, "{log}");
}

/// Tells it to stop again and again, as an operator who has waited would.
fn insist(daemon: &mut Ixflow) {
    wait_for("an end at once", || {
        daemon.signal("TERM");
        daemon.ended()
    });
}

#[test]
fn told_twice_it_ends_at_once_though_rrdcached_hangs() {
    let site = Site::new();
    let socket = site.path("hung.sock");
    let _hung = UnixListener::bind(&socket).unwrap();
    let mut daemon =
        site.start(&["sflow_rrdcached=1", &format!("sflow_rrdcached_socket={}", socket.display())]);
    daemon.wait_table("new table: ");
    speak(&site.fabric, daemon.address(), BURST);
    let told = Instant::now();
    insist(&mut daemon);
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(1));
    assert!(log.contains("told to stop twice: ending at once"), "{log}");
}

#[test]
fn two_signals_of_one_demand_are_one() {
    // As timeout(1) and some shells send them: to the process and to its group.
    let site = Site::new();
    let daemon = site.start(&[]);
    daemon.wait_table("new table: ");
    let truth = speak(&site.fabric, daemon.address(), BURST);
    daemon.signal("TERM");
    daemon.signal("INT");
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(summary_field(&log, "counted"), counted(&truth), "{log}");
}

#[test]
fn hangup_reloads_settings_and_table_and_flushes() {
    let site = Site::new();
    let daemon = site.start(&[]);
    daemon.wait_table("new table: ");
    let before = speak(&site.fabric, daemon.address(), BURST);
    daemon.wait_received();
    let agents = site.fabric.switches().iter().map(|switch| {
        format!("<sflow_agent {}>\n\tdirection = egress\n</sflow_agent>\n", switch.agent)
    });
    let agents: String = agents.collect();
    let changed = DOCUMENTED.replace("</ixp>", &format!("{agents}sflow_workers = 7\n</ixp>"));
    std::fs::write(site.path("ixpmanager.conf"), changed).unwrap();
    let another = r#""ffffffffff10":77,"#.replace("ff", "02");
    let table =
        site.fabric.mac_table_json().replacen(r#""10":{"#, &format!(r#""10":{{{another}"#), 1);
    site.portal.as_ref().unwrap().replace_table(table);
    // All that was sent is counted by the old settings: it is in the files after the flush.
    // Within the second in which observation begins there is no interval to flush yet.
    wait_for("the flush", || {
        daemon.signal("HUP");
        (site.tree_files().len() >= files_in_all(4)).then_some(())
    });
    daemon.wait_table("macs=5 vlis=5");
    let after = speak(&site.fabric, daemon.address(), BURST);
    let log = daemon.stop();
    assert_eq!(summary_field(&log, "counted"), counted(&before), "{log}");
    assert_eq!(summary_field(&log, "direction"), after.flow_samples, "{log}");
    assert!(log.contains("told to reload"), "{log}");

    // What is wrong changes nothing, and is said.
    let daemon = site.start(&[]);
    std::fs::write(site.path("ixpmanager.conf"), "<ixp>\nsflow_flush_secs = 7\n</ixp>").unwrap();
    daemon.signal("HUP");
    let line = daemon.wait_line("the settings in use stay");
    assert!(line.contains("ixpmanager.conf:2: sflow_flush_secs = 7: expected"), "{line}");
    daemon.stop();
}

#[test]
fn without_the_portal_it_starts_from_the_saved_table() {
    let mut site = Site::new();
    let daemon = site.start(&[]);
    daemon.wait_table("new table: ");
    wait_for("the saved table", || site.path("state/mac-table.json").exists().then_some(()));
    daemon.stop();
    site.portal = None;
    let daemon = site.start(&[]);
    let line = daemon.wait_line("listens on UDP");
    let url = format!("{}/sflow-db-mapper/configured-macs", site.base_url);
    assert!(line.contains(&format!("table: the saved answer of {url}, ")), "{line}");
    assert!(line.contains(" s old, with infrastructures=1 vlans=1 macs=4 vlis=4"), "{line}");
    let line = daemon.wait_line("ERROR");
    assert!(line.contains("no answer") && line.contains("the saved answer of"), "{line}");
    let truth = speak(&site.fabric, daemon.address(), BURST);
    let log = daemon.stop();
    assert_eq!(summary_field(&log, "counted"), counted(&truth), "{log}");
}

#[test]
fn without_any_table_it_waits_for_the_portal() {
    let mut site = Site::without_portal();
    let daemon = site.start(&["sflow_api_interval_secs=10"]);
    assert!(daemon.log().contains("table: none yet"), "{}", daemon.log());
    let line = daemon.wait_line("ERROR");
    assert!(line.contains("no answer") && line.contains(&site.base_url), "{line}");
    let lost = speak(&site.fabric, daemon.address(), BURST);
    site.start_portal();
    daemon.wait_table("new table: ");
    let truth = speak(&site.fabric, daemon.address(), BURST);
    let log = daemon.stop();
    assert_eq!(summary_field(&log, "no_table"), lost.flow_samples, "{log}");
    assert_eq!(summary_field(&log, "counted"), counted(&truth), "{log}");
}

#[test]
fn what_the_portal_answers_is_told_with_its_cause() {
    let page = "<!DOCTYPE html><html><title>Login</title>";
    for (status, body, cause) in [
        ("403 Forbidden", "Forbidden by portal", "the API key is refused: check apikey"),
        ("404 Not Found", "No such route", "apibaseurl must end in /api/v4"),
        ("200 OK", page, "this is HTML: apibaseurl does not point to the API"),
    ] {
        let mut site = Site::without_portal();
        site.base_url = answer_always(status, body);
        let daemon = site.start(&[]);
        let line = daemon.wait_line("ERROR");
        let url = format!("{}/sflow-db-mapper/configured-macs", site.base_url);
        for part in [&*url, &format!("HTTP {status}"), cause, body, "in use: none yet"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        daemon.stop();
    }
}

#[test]
fn an_empty_answer_does_not_replace_a_table() {
    let site = Site::new();
    let daemon = site.start(&[]);
    daemon.wait_table("new table: ");
    site.portal.as_ref().unwrap().replace_table("[]".into());
    daemon.signal("HUP");
    let line = daemon.wait_line("the answer is an empty table");
    assert!(line.contains("the table in use stays"), "{line}");
    let truth = speak(&site.fabric, daemon.address(), BURST);
    let log = daemon.stop();
    assert_eq!(summary_field(&log, "counted"), counted(&truth), "{log}");
    // Nor does it replace the saved one.
    let saved = std::fs::read_to_string(site.path("state/mac-table.json")).unwrap();
    let mac = site.fabric.vlis()[0].macs[0].to_string().replace(':', "");
    assert!(saved.contains(&mac), "{saved}");
}

/// Would break if the daemon made the root, or a lock in it, of a tree that is on another host: all
/// files would then be made here.
#[test]
fn of_a_tree_behind_tcp_nothing_is_made_here() {
    if !daemon::is_installed() {
        return;
    }
    let site = Site::new();
    let rrdcached = daemon::Rrdcached::start_tcp(site.directory.path(), &["-B", "-R"]);
    let ixflow = site
        .start(&["sflow_rrdcached=1", &format!("sflow_rrdcached_socket={}", rrdcached.address)]);
    ixflow.wait_table("new table: ");
    assert!(!site.tree().exists());
    let truth = speak(&site.fabric, ixflow.address(), BURST);
    let log = ixflow.stop();
    assert_eq!(summary_field(&log, "counted"), counted(&truth), "{log}");
    rrdcached.stop();
    // By rrdcached, every one of them.
    assert_eq!(files_below(&site.tree()).len(), files_in_all(4), "{log}");
}

#[test]
fn boundaries_wait_for_rrdcached() {
    if !daemon::is_installed() {
        return;
    }
    let site = Site::new();
    let socket = site.path("rrdcached.sock");
    let daemon = site.start(&[
        "sflow_rrdcached=1",
        "sflow_flush_secs=10",
        &format!("sflow_rrdcached_socket=unix:{}", socket.display()),
    ]);
    daemon.wait_table("new table: ");
    let before = speak(&site.fabric, daemon.address(), BURST);
    let line = daemon.wait_line("intervals wait, nothing is lost yet");
    assert!(line.contains("rrdcached.sock"), "{line}");
    assert_eq!(site.tree_files(), [""; 0]);
    let rrdcached = daemon::Rrdcached::start(site.directory.path(), DOCUMENTED_RRDCACHED);
    assert_eq!(rrdcached.address, Address::Unix(socket));
    daemon.wait_line("takes updates again");
    let after = speak(&site.fabric, daemon.address(), BURST);
    let log = daemon.stop();
    assert_eq!(summary_field(&log, "counted"), counted(&before) + counted(&after), "{log}");
    // At its end it writes all that it has.
    rrdcached.stop();
    assert_eq!(site.tree_files().len(), files_in_all(4));
    // One boundary passed while it was away; what was said behind it came with the last flush.
    assert_last_update(&site, &after, 10.0);
}

#[test]
fn what_rrdcached_never_took_waits_on_disk() {
    let site = Site::new();
    let socket = format!("sflow_rrdcached_socket={}", site.path("nobody.sock").display());
    let daemon = site.start(&["sflow_rrdcached=1", &socket]);
    daemon.wait_table("new table: ");
    speak(&site.fabric, daemon.address(), BURST);
    let log = daemon.stop();
    assert!(log.contains("1 intervals wait on disk"), "{log}");
}

#[test]
fn what_rrdcached_never_took_and_no_disk_does_is_told_at_the_end() {
    let site = Site::new();
    let socket = format!("sflow_rrdcached_socket={}", site.path("nobody.sock").display());
    std::fs::write(site.path("no-directory"), "").unwrap();
    let state = format!("sflow_statedir={}", site.path("no-directory").display());
    let daemon = site.start(&["sflow_rrdcached=1", &socket, &state]);
    daemon.wait_table("new table: ");
    speak(&site.fabric, daemon.address(), BURST);
    daemon.signal("TERM");
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("gave up 1 intervals"), "{log}");
    assert!(log.contains("ixflow: 1 intervals could not be written"), "{log}");
}

#[test]
fn without_a_word_rrdcached_is_used_if_it_is_there() {
    let site = Site::new();
    let auto = [
        "sflow_rrdcached=auto",
        &format!("sflow_rrdcached_socket={}", site.path("rrdcached.sock").display()),
    ];
    let daemon = site.start(&auto);
    let line = daemon.wait_line("listens on UDP");
    assert!(line.contains("RRD files below") && !line.contains("rrdcached"), "{line}");
    daemon.stop();
    if daemon::is_installed() {
        let _rrdcached = daemon::Rrdcached::start(site.directory.path(), DOCUMENTED_RRDCACHED);
        let daemon = site.start(&auto);
        let line = daemon.wait_line("listens on UDP");
        assert!(line.contains("rrdcached.sock"), "{line}");
        daemon.stop();
    }
}

#[test]
fn settings_that_cannot_be_end_it() {
    let site = Site::new();
    let (code, log) = site.try_start(&["sflow_flsh_secs=10"]).wait();
    assert_eq!(code, Some(1));
    assert!(log.contains("sflow_flsh_secs is no setting of ixflow"), "{log}");
    assert!(log.contains("did you mean sflow_flush_secs?"), "{log}");
}

#[test]
fn a_port_in_use_is_named() {
    let site = Site::new();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let listen = format!("sflow_listen={address}");
    let (code, log) = site.try_start(&[&listen]).wait();
    assert_eq!(code, Some(1));
    assert!(log.contains(&format!("cannot listen on UDP {address}: ")), "{log}");
    assert!(log.contains("in use"), "{log}");
    drop(other);

    // A second daemon would take a part of the agents from the first, in silence.
    let first = site.start(&[&listen, "sflow_workers=2"]);
    let state = format!("sflow_statedir={}", site.path("other").display());
    let tree = format!("sflow_rrddir={}", site.path("other-tree").display());
    let (code, log) = site.try_start(&[&listen, "sflow_workers=2", &state, &tree]).wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&format!("cannot listen on UDP {address}: ")), "{log}");
    // So would one that writes to the same files; it says who does.
    let (code, log) = site.try_start(&["sflow_listen=127.0.0.1:0", &state]).wait();
    assert_eq!(code, Some(1), "{log}");
    let holder = format!("locked by process {} on ", first.id());
    assert!(log.contains(".ixflow.lock: ") && log.contains(&holder), "{log}");
    // The state directory tells as well, whatever the port.
    let (code, log) = site.try_start(&["sflow_listen=127.0.0.1:0"]).wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("another ixflow runs with these settings"), "{log}");
    first.stop();
}
