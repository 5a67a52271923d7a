//! The daemon under a service manager, which these tests play: readiness, reload, watchdog, and
//! sockets that outlive it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use ixflow::agent::Agents;
use ixflow::control::service::Watch;
use ixflow::flush::WhenFull;
use ixflow::pipeline::{Pipeline, Setup};
use ixflow::receive::{Batch, Received, Source};
use ixflow::resolve::Plan;
use ixflow::sink::librrd::Librrd;
use ixflow::sink::{Create, Tree};
use ixflow::state::State;

use crate::support::ixflow::{DOCUMENTED, Site};
use crate::support::path::wait_for;

/// The socket on which systemd hears its services (sd_notify(3)).
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn new(site: &Site) -> Manager {
        let socket = UnixDatagram::bind(site.path("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Manager { socket }
    }

    /// The next message, by its lines.
    fn hear(&self) -> Vec<String> {
        let mut message = [0; 4_096];
        let length = self.socket.recv(&mut message).unwrap();
        let text = std::str::from_utf8(&message[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Hears messages until one has the line, and returns all lines up to there.
    fn hear_until(&self, line: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while !heard.iter().any(|other| other == line) {
            heard.extend(self.hear());
        }
        heard
    }

    /// What has been said, and is not heard yet.
    fn rest(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).unwrap();
        let mut rest = Vec::new();
        let mut message = [0; 4_096];
        while let Ok(length) = self.socket.recv(&mut message) {
            rest.extend(String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned));
        }
        self.socket.set_nonblocking(false).unwrap();
        rest
    }
}

#[test]
fn it_is_ready_when_it_listens_and_has_a_table() {
    let mut site = Site::without_portal();
    let manager = Manager::new(&site);
    let socket = site.path("notify");
    let set = ["sflow_api_interval_secs=10"];
    let daemon = site.start_as(&set, |command| {
        command.env("NOTIFY_SOCKET", &socket);
    });
    // Without a table it says what it waits for.
    let said = manager.hear();
    assert!(said[0].starts_with("STATUS=table: none yet"), "{said:?}");
    let said = manager.hear();
    assert!(said.len() == 1 && said[0].contains("no answer"), "{said:?}");
    assert!(said[0].contains(&site.base_url), "{said:?}");
    site.start_portal();
    let said = manager.hear();
    assert_eq!(said[0], "READY=1");
    assert!(said[1].contains("macs=4 vlis=4"), "{said:?}");

    // As systemd reloads (Type=notify-reload): it looks at the clock, sends the signal, and waits
    // for RELOADING with a later time, and READY.
    for conf in [DOCUMENTED, "<ixp>\nsflow_flush_secs = 7\n</ixp>"] {
        std::fs::write(site.path("ixpmanager.conf"), conf).unwrap();
        let before = monotonic_micros();
        daemon.signal("HUP");
        let said = manager.hear_until("RELOADING=1");
        let at = said.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        let at: u64 = at.unwrap().parse().unwrap();
        assert!((before..monotonic_micros()).contains(&at), "{said:?}");
        let said = manager.hear();
        assert_eq!(said[0], "READY=1", "{said:?}");
    }

    daemon.signal("TERM");
    manager.hear_until("STOPPING=1");
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");

    // A saved table counts: no portal is needed.
    site.portal = None;
    std::fs::write(site.path("ixpmanager.conf"), DOCUMENTED).unwrap();
    manager.rest();
    let daemon = site.start_as(&set, |command| {
        command.env("NOTIFY_SOCKET", &socket);
    });
    let said = manager.hear();
    assert_eq!(said[0], "READY=1");
    assert!(said[1].contains("the saved answer of"), "{said:?}");
    daemon.stop();
}

/// CLOCK_MONOTONIC, as systemd reads it.
fn monotonic_micros() -> u64 {
    // The first field of uptime is CLOCK_BOOTTIME in hundredths: no better than the crate's.
    let now = sd_notify::NotifyState::monotonic_usec_now().unwrap().to_string();
    now.strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap()
}

#[test]
fn the_watchdog_is_fed_in_time() {
    let site = Site::new();
    let manager = Manager::new(&site);
    let patience = Duration::from_secs(2);
    let daemon = site.start_as(&["sflow_workers=2"], |command| {
        command.env("NOTIFY_SOCKET", site.path("notify"));
        command.env("WATCHDOG_USEC", patience.as_micros().to_string());
    });
    let mut fed = Vec::new();
    while fed.len() < 6 {
        if manager.hear().iter().any(|line| line == "WATCHDOG=1") {
            fed.push(Instant::now());
        }
    }
    for pair in fed.windows(2) {
        assert!(pair[1] - pair[0] < patience, "{:?}", pair[1] - pair[0]);
    }
    daemon.stop();
}

#[test]
fn without_a_watchdog_nothing_feeds_it() {
    let site = Site::new();
    let manager = Manager::new(&site);
    let daemon = site.start_as(&[], |command| {
        command.env("NOTIFY_SOCKET", site.path("notify"));
        // Somebody else's: sd_watchdog_enabled(3).
        command.env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1");
    });
    manager.hear_until("READY=1");
    daemon.stop();
    let rest = manager.rest();
    assert!(!rest.iter().any(|line| line == "WATCHDOG=1"), "{rest:?}");
    assert!(rest.iter().any(|line| line == "STOPPING=1"), "{rest:?}");
}

/// A source that waits for the test instead of for datagrams, as a socket would whose driver hangs.
struct Blocked {
    release: Receiver<Batch>,
}

impl Source for Blocked {
    fn receive(&mut self) -> io::Result<Batch> {
        Ok(self.release.recv().unwrap_or(Batch::End))
    }

    fn datagram(&self, _index: usize) -> Received<'_> {
        Received { source: SocketAddr::from(([127, 0, 0, 1], 1)), payload: &[], truncated: false }
    }
}

#[test]
fn a_worker_that_hangs_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let state = Arc::new(State::new(Agents::new(1, 1), 2));
    let (releases, sources): (Vec<_>, Vec<_>) =
        [bounded(8), bounded(8)].map(|(release, source)| (release, source)).into_iter().unzip();
    let sources = sources.into_iter().map(|release| move || Blocked { release }).collect();
    let setup = Setup {
        step_secs: 300,
        from_millis: Some(0),
        backlog_max: 10,
        when_full: WhenFull::DropOldest,
    };
    let tree = Tree::open(directory.path()).unwrap();
    let sink = Box::new(Librrd::new(tree, Create::OnTraffic));
    let pipeline = Pipeline::start(sources, Plan::default(), setup, sink, &state).unwrap();

    let still_max = Duration::from_secs(15);
    let start = Instant::now();
    let mut watch = Watch::new(state.clone(), still_max, start);
    // Both are at work, and wait for their sources.
    wait_for("the workers", || state.workers.iter().all(|p| p.beats() % 2 == 1).then_some(()));
    watch.stuck(start);
    let beats: Vec<_> = state.workers.iter().map(|pulse| pulse.beats()).collect();
    releases[0].send(Batch::Datagrams { count: 0, stamp_millis: 1 }).unwrap();
    wait_for("the first one's next turn", || (state.workers[0].beats() != beats[0]).then_some(()));
    assert_eq!(watch.stuck(start + still_max), ["worker-1"]);
    releases[1].send(Batch::Datagrams { count: 0, stamp_millis: 1 }).unwrap();
    wait_for("the second one's", || (state.workers[1].beats() != beats[1]).then_some(()));
    assert_eq!(watch.stuck(start + still_max), [""; 0]);
    // Whoever has ended is not stuck.
    drop(releases);
    pipeline.join().unwrap();
    assert_eq!(watch.stuck(start + 100 * still_max), [""; 0]);
}
