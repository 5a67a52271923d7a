//! The daemon under a service manager, which these tests play: readiness, reload, watchdog, and
//! sockets that outlive it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use crossbeam_channel::{Receiver, bounded};
use ixflow::agent::Agents;
use ixflow::clock::Clock;
use ixflow::control::service::{KEPT_NAME, Watch};
use ixflow::flush::backlog::WhenFull;
use ixflow::pipeline::{Pipeline, Setup};
use ixflow::receive::{Batch, Received, Source};
use ixflow::resolve::Plan;
use ixflow::simulate::{Fabric, Truth};
use ixflow::sink::direct::Direct;
use ixflow::sink::{Create, Tree};
use ixflow::state::State;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use socket2::{Domain, Socket, Type};

use crate::support::ixflow::{
    DOCUMENTED, Ixflow, Site, ixflow, ixflow_activated, speak, summary_field,
};
use crate::support::path::wait_for;

/// What systemd is for its services: it hears them (sd_notify(3)), keeps sockets for them, and
/// passes sockets to them (sd_listen_fds(3)).
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
    /// Sockets with their names.
    sockets: Vec<(&'static str, OwnedFd)>,
}

impl Manager {
    fn new(site: &Site) -> Manager {
        let path = site.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Manager { path, socket, sockets: Vec::new() }
    }

    /// Binds sockets as a socket unit with `ReusePort=yes` does, to one address; returns it.
    fn bind(&mut self, count: usize) -> SocketAddr {
        let mut address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        for _ in 0..count {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.bind(&address.into()).unwrap();
            address = socket.local_addr().unwrap().as_socket().unwrap();
            self.sockets.push(("sflow", socket.into()));
        }
        address
    }

    /// How to start the daemon.
    fn command(&self) -> Command {
        let mut command = if self.sockets.is_empty() { ixflow() } else { ixflow_activated() };
        command.env("NOTIFY_SOCKET", &self.path);
        if !self.sockets.is_empty() {
            let names: Vec<_> = self.sockets.iter().map(|(name, _)| *name).collect();
            command.env("LISTEN_FDS", names.len().to_string());
            command.env("LISTEN_FDNAMES", names.join(":"));
            let fds = self.sockets.iter().map(|(_, fd)| fd.try_clone().unwrap());
            let mappings =
                (3..).zip(fds).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
            command.fd_mappings(mappings.collect()).unwrap();
        }
        command
    }

    /// The next message, by its lines. Sockets that come with it are kept or closed as it says.
    fn hear(&mut self) -> Vec<String> {
        let mut message = [0; 4_096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut message)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut parts, &mut ancillary, flags).unwrap();
        let text = std::str::from_utf8(&message[..received.bytes]).unwrap();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        if lines.iter().any(|line| line == "FDSTOREREMOVE=1") {
            assert!(lines.contains(&format!("FDNAME={KEPT_NAME}")), "{lines:?}");
            self.sockets.retain(|(name, _)| *name != KEPT_NAME);
        }
        for content in ancillary.drain() {
            let RecvAncillaryMessage::ScmRights(fds) = content else { panic!("{lines:?}") };
            if lines.iter().any(|line| line == "FDSTORE=1") {
                assert!(lines.contains(&format!("FDNAME={KEPT_NAME}")), "{lines:?}");
                for fd in fds {
                    self.keep(fd);
                }
            } else {
                assert_eq!(lines, ["BARRIER=1"]);
            }
        }
        lines
    }

    /// As systemd does, not the same socket twice.
    fn keep(&mut self, fd: OwnedFd) {
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        if !self.sockets.iter().any(|(_, other)| inode(other) == inode(&fd)) {
            self.sockets.push((KEPT_NAME, fd));
        }
    }

    /// Hears messages until one has the line, and returns all lines up to there.
    fn hear_until(&mut self, line: &str) -> Vec<String> {
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
    let mut manager = Manager::new(&site);
    let set = ["sflow_api_interval_secs=10"];
    let daemon = site.start_as(manager.command(), &set);
    manager.hear_until("FDPOLL=0");
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
    manager.sockets.clear();
    let daemon = site.start_as(manager.command(), &set);
    manager.hear_until("FDPOLL=0");
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
    let mut manager = Manager::new(&site);
    let patience = Duration::from_secs(2);
    let mut command = manager.command();
    command.env("WATCHDOG_USEC", patience.as_micros().to_string());
    let daemon = site.start_as(command, &["sflow_workers=2"]);
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
    let mut manager = Manager::new(&site);
    let mut command = manager.command();
    // Somebody else's: sd_watchdog_enabled(3).
    command.env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1");
    let daemon = site.start_as(command, &[]);
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
        keep: None,
    };
    let tree = Tree::open(directory.path()).unwrap();
    let sink = Box::new(Direct::new(tree, Create::OnTraffic, 1).unwrap());
    let pipeline = Pipeline::start(sources, Plan::default(), setup, vec![sink], &state).unwrap();

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

/// An exchange that speaks all the time, no faster than what receive buffers hold for ten seconds.
struct Speaker {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Truth>,
}

impl Speaker {
    /// `sockets` that read have receive buffers of `buffer_bytes` each.
    fn start(fabric: &Fabric, to: SocketAddr, sockets: usize, buffer_bytes: usize) -> Speaker {
        // The kernel charges some 2.3 kB for a datagram of 1.4 kB, and a sender may have bad luck
        // with its socket.
        let per_sec = (buffer_bytes / 2_304 / 10).clamp(10, 5_000) as u64;
        assert!(sockets > 0);
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (sent, stop) = (sent.clone(), stop.clone());
            let mut generator =
                fabric.generator(Clock::System.now_millis(), 1_000).with_truth(86_400);
            move || {
                // Several senders, so that the kernel's hash reaches all sockets.
                let senders: Vec<_> =
                    (0..16).map(|_| UdpSocket::bind((to.ip(), 0)).unwrap()).collect();
                let start = Instant::now();
                let mut payload = Vec::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    generator.generate(&mut payload);
                    senders[number % senders.len()].send_to(&payload, to).unwrap();
                    let count = sent.fetch_add(1, Ordering::Relaxed) + 1;
                    let due = start + Duration::from_micros(count * 1_000_000 / per_sec);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                generator.finish()
            }
        });
        Speaker { sent, stop, thread }
    }

    /// Waits until so many more datagrams were sent.
    fn wait_sent(&self, more: u64) {
        let until = self.sent.load(Ordering::Relaxed) + more;
        wait_for("the speaker", || (self.sent.load(Ordering::Relaxed) >= until).then_some(()));
    }

    /// Ends it; how many datagrams it sent, and what they said.
    fn stop(self) -> (u64, Truth) {
        self.stop.store(true, Ordering::Relaxed);
        let truth = self.thread.join().unwrap();
        (self.sent.load(Ordering::Relaxed), truth)
    }
}

/// The bytes of the smallest receive buffer, from the line of the start.
fn buffer_bytes(daemon: &Ixflow) -> usize {
    let line = daemon.wait_line("listens on UDP ");
    let bytes = line.split("receive buffer ").nth(1).unwrap();
    bytes.split(' ').next().unwrap().parse().unwrap()
}

/// Sums of some fields of the last lines of several daemons.
fn sums<const N: usize>(logs: &[String], names: [&str; N]) -> [u64; N] {
    names.map(|name| logs.iter().map(|log| summary_field(log, name)).sum())
}

/// What all daemons received is what was sent. (What one finds missing at its end may be in a
/// socket for the next one: `sequence_gaps` says nothing here.)
fn assert_all_counted(logs: &[String], sent: u64, truth: &Truth) {
    let samples = truth.pairs().into_iter().flat_map(|pair| pair.traffic.samples);
    let spoken: u64 = samples.map(u64::from).sum();
    let names = ["datagrams", "samples", "counted", "socket_drops", "no_table"];
    let all = logs.join("\n");
    assert_eq!(sums(logs, names), [sent, truth.flow_samples, spoken, 0, 0], "{all}");
    // Each of them took its part, or nothing was proven.
    assert!(logs.iter().all(|log| summary_field(log, "datagrams") > 0), "{all}");
}

/// Lets a daemon save the portal's table, so that all of the next ones count from the start.
fn save_table(site: &Site) {
    let daemon = site.start(&[]);
    daemon.wait_table("new table: ");
    wait_for("the saved table", || site.path("state/mac-table.json").exists().then_some(()));
    daemon.stop();
}

/// Datagrams between two restarts.
const BETWEEN: u64 = 300;

#[test]
fn restarts_under_load_lose_nothing_on_sockets_of_a_socket_unit() {
    for (sockets, workers) in [(2, 2), (3, 2), (2, 3)] {
        let site = Site::new();
        save_table(&site);
        let mut manager = Manager::new(&site);
        let address = manager.bind(sockets);
        let set = [&*format!("sflow_workers={workers}")];
        let mut daemon = site.start_as(manager.command(), &set);
        assert_eq!(daemon.address(), address);
        let expected = format!("with {} workers", workers.min(sockets));
        assert!(daemon.log().contains(&expected), "{}", daemon.log());
        let speaker = Speaker::start(&site.fabric, address, sockets, buffer_bytes(&daemon));
        let mut logs = Vec::new();
        for _ in 0..3 {
            speaker.wait_sent(BETWEEN);
            logs.push(daemon.stop());
            daemon = site.start_as(manager.command(), &set);
        }
        speaker.wait_sent(BETWEEN);
        let (sent, truth) = speaker.stop();
        daemon.wait_received();
        logs.push(daemon.stop());
        assert_all_counted(&logs, sent, &truth);
        // What has a socket unit is not given to the manager a second time.
        assert!(manager.rest().iter().all(|line| line != "FDSTORE=1"));
    }
}

#[test]
fn restarts_under_load_lose_nothing_on_sockets_that_the_manager_keeps() {
    let site = Site::new();
    save_table(&site);
    let mut manager = Manager::new(&site);
    // An address of its own, which the next daemon is told as well.
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = format!("sflow_listen={address}");
    let mut daemon = site.start_as(manager.command(), &[&listen, "sflow_workers=2"]);
    manager.hear_until("READY=1");
    assert_eq!(manager.sockets.len(), 2);
    let speaker = Speaker::start(&site.fabric, address, 2, buffer_bytes(&daemon));
    let mut logs = Vec::new();
    // One more worker binds one more socket, one fewer reads what the others leave; the spread
    // of the daemon before does not stay.
    for set in [
        ["sflow_workers=2", "sflow_spread=datagram"],
        ["sflow_workers=3", "sflow_spread=datagram"],
        ["sflow_workers=1", "sflow_spread=agent"],
    ] {
        speaker.wait_sent(BETWEEN);
        logs.push(daemon.stop());
        manager.rest();
        daemon = site.start_as(manager.command(), &[&listen, set[0], set[1]]);
        manager.hear_until("READY=1");
    }
    speaker.wait_sent(BETWEEN);
    let (sent, truth) = speaker.stop();
    daemon.wait_received();
    logs.push(daemon.stop());
    assert_all_counted(&logs, sent, &truth);
}

#[test]
fn a_daemon_that_hangs_and_is_killed_loses_nothing_that_it_did_not_read() {
    let site = Site::new();
    save_table(&site);
    let mut manager = Manager::new(&site);
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let set = [&*format!("sflow_listen={address}"), "sflow_workers=2"];
    let mut daemon = site.start_as(manager.command(), &set);
    manager.hear_until("READY=1");
    // What was read is in the files after a flush.
    speak(&site.fabric, address, 60);
    daemon.wait_received();
    wait_for("the flush", || {
        daemon.signal("HUP");
        // It says more than fits into the socket.
        manager.rest();
        (site.tree_files().len() > 20).then_some(())
    });
    daemon.freeze();
    let speaker = Speaker::start(&site.fabric, address, 2, buffer_bytes(&daemon));
    speaker.wait_sent(BETWEEN / 2);
    daemon.signal("KILL");
    wait_for("the end", || daemon.ended());
    speaker.wait_sent(BETWEEN / 2);
    manager.rest();
    let daemon = site.start_as(manager.command(), &set);
    speaker.wait_sent(BETWEEN);
    let (sent, truth) = speaker.stop();
    daemon.wait_received();
    assert_all_counted(&[daemon.stop()], sent, &truth);
}

#[test]
fn sockets_that_nobody_wants_any_more_are_given_up() {
    let site = Site::new();
    let mut manager = Manager::new(&site);
    let address = |ip: &str| UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
    // Nobody else's, so that none is taken by chance.
    let (first, second) = (address("127.0.0.71"), address("127.0.0.72"));
    let listen = format!("sflow_listen={first}");
    let daemon = site.start_as(manager.command(), &[&listen, "sflow_workers=2"]);
    manager.hear_until("READY=1");
    assert_eq!(manager.sockets.len(), 2);
    daemon.stop();
    manager.rest();

    let command = manager.command();
    let listener = std::thread::spawn(move || {
        manager.hear_until("READY=1");
        manager
    });
    let listen = format!("sflow_listen={second}");
    let daemon = site.start_as(command, &[&listen, "sflow_workers=1"]);
    let manager = listener.join().unwrap();
    assert!(daemon.log().contains(&format!("no longer listens on {first}")), "{}", daemon.log());
    assert_eq!(manager.sockets.len(), 1);
    // The first one's address is free: neither side holds it.
    wait_for("the address to be free", || UdpSocket::bind(first).ok());
    daemon.stop();
}
