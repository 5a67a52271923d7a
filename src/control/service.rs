//! The service manager: readiness, reload, stop, status and watchdog (sd_notify(3)), and sockets
//! that outlive the daemon (sd_listen_fds(3)), as systemd has them.
//!
//! A daemon that no service manager started (no `NOTIFY_SOCKET` in its environment) says nothing.
//! A manager that does not listen is no reason to stop: what cannot be said is logged once.
//!
//! Sockets come from two sides. Those of a socket unit are all that the daemon listens on. Those
//! that it binds itself it gives to the manager to keep (`FileDescriptorStoreMax=`), and finds them
//! again at its next start. Either way they are open while no daemon runs, so that datagrams wait
//! in their buffers for the next one.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sd_notify::NotifyState;

use crate::control::config::Config;
use crate::receive::{ListenError, Spread, UdpSockets, spread_agents, spread_datagrams};
use crate::sink::writer::thread_name as writer_name;
use crate::state::{Pulse, State};

/// The name under which the manager keeps the sockets that the daemon bound.
pub const KEPT_NAME: &str = "ixflow-udp";

/// How long one interval may be in the writer's hands before it counts as stuck.
///
/// Longer than anything that works: rrdcached may answer after 600 seconds, while it replays its
/// journal, and a slow disk is no reason for a restart, which would not make it faster.
pub const WRITE_MAX: Duration = Duration::from_secs(3_600);

/// Sockets in one message to the manager: Linux takes 253 (unix(7), SCM_RIGHTS).
const FDS_PER_MESSAGE: usize = 64;

/// How long the manager may take to close the sockets that it kept.
const BARRIER_MILLIS: u16 = 5_000;

/// Looks at the threads within the time after which the manager would act.
const LOOKS: u32 = 4;

/// The sockets of the workers: passed by the manager, or bound, and then kept by the manager.
///
/// # Errors
///
/// A socket cannot be had.
pub fn listen(config: &Config) -> Result<Vec<UdpSockets>, ListenError> {
    let (kept, activated) = passed_sockets();
    let adopted = kept.len() + activated.len();
    let activation = !activated.is_empty();
    let sockets = if activation {
        if !kept.is_empty() {
            forget(kept);
        }
        let elsewhere: BTreeSet<SocketAddr> = activated
            .iter()
            .filter_map(|socket| socket.local_addr().ok())
            .filter(|address| !config.listen.contains(address))
            .collect();
        if !elsewhere.is_empty() {
            let elsewhere: Vec<_> = elsewhere.iter().map(ToString::to_string).collect();
            tracing::warn!(
                "the service manager's sockets are bound to {}: sflow_listen is not used",
                elsewhere.join(", ")
            );
        }
        let sockets = UdpSockets::share(activated, config.workers, config.receive_buffer_bytes)?;
        if sockets.len() < config.workers {
            tracing::warn!(
                "the service manager passed {} sockets for {} workers: {0} workers; list each \
                 address as often as there are to be workers (ListenDatagram= in ixflow.socket), \
                 or set sflow_workers",
                sockets.len(),
                config.workers
            );
        }
        sockets
    } else {
        let Config { listen, workers, receive_buffer_bytes, .. } = config;
        UdpSockets::bind_workers(listen, *workers, *receive_buffer_bytes, kept, forget)?
    };
    if config.spread == Spread::Datagram {
        spread_datagrams(&sockets)?;
    } else if adopted > 0 {
        spread_agents(&sockets)?;
    }
    if adopted > 0 {
        let drops: u64 = sockets.iter().filter_map(UdpSockets::socket_drops).sum();
        tracing::info!(
            "took {adopted} sockets over from the service manager; the kernel has dropped {drops} \
             datagrams on them so far, which are not counted again"
        );
    }
    if !activation {
        keep(&sockets);
    }
    Ok(sockets)
}

/// The UDP sockets that the manager passed: those that it kept for an earlier daemon, and those
/// that are its own.
fn passed_sockets() -> (Vec<UdpSocket>, Vec<UdpSocket>) {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<_> = names.split(':').collect();
    let mut passed = ListenFd::from_env();
    let (mut kept, mut activated) = (Vec::new(), Vec::new());
    for number in 0..passed.len() {
        let name = names.get(number).copied().unwrap_or_default();
        match passed.take_udp_socket(number) {
            Ok(Some(socket)) if name == KEPT_NAME => kept.push(socket),
            Ok(Some(socket)) => activated.push(socket),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("the service manager passed something else ({name:?}): {error}");
            }
        }
    }
    (kept, activated)
}

/// Gives the sockets to the manager to keep. It does not take one twice.
fn keep(sockets: &[UdpSockets]) {
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().flat_map(UdpSockets::fds).collect();
    for fds in fds.chunks(FDS_PER_MESSAGE) {
        let message = [
            NotifyState::FdStore,
            NotifyState::FdName(KEPT_NAME),
            // An error of one datagram is no reason to close the socket.
            NotifyState::Custom("FDPOLL=0"),
        ];
        if let Err(error) = sd_notify::notify_with_fds(&message, fds) {
            say_once(&error);
        }
    }
}

/// Closes sockets that an earlier daemon was bound to, and waits until the manager has closed its
/// own copies, so that their addresses are free.
fn forget(kept: Vec<UdpSocket>) {
    let addresses: BTreeSet<_> = kept.iter().filter_map(|kept| kept.local_addr().ok()).collect();
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    tracing::info!("no longer listens on {}", addresses.join(", "));
    drop(kept);
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(KEPT_NAME)]);
    // The manager closes what it gets with BARRIER=1 when it has seen all before (sd_notify(3)).
    let done = io::pipe().and_then(|(reader, writer)| {
        sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()])?;
        drop(writer);
        let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::from(BARRIER_MILLIS))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    });
    if let Err(error) = done {
        say_once(&error);
    }
}

/// What the manager was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Starting,
    Ready,
    Reloading,
}

/// The daemon's readiness: sockets are bound, and there is a MAC table to count by.
#[derive(Debug)]
pub struct Readiness {
    told: Told,
}

impl Readiness {
    /// The manager waits.
    #[expect(clippy::new_without_default, reason = "a start, not a value")]
    pub fn new() -> Readiness {
        Readiness { told: Told::Starting }
    }

    /// Whether the manager knows that the daemon is ready.
    pub fn is_told(&self) -> bool {
        self.told == Told::Ready
    }

    /// Settings and table are being read again. Nothing if the manager still waits for the start.
    pub fn reload(&mut self) {
        if self.told == Told::Starting {
            return;
        }
        self.told = Told::Reloading;
        // The manager takes the message for an answer to its signal by the time in it
        // (sd_notify(3), MONOTONIC_USEC).
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => say_once(&error),
        }
    }

    /// Says how things are, and that the daemon is ready if it `has_table` and the manager still
    /// waits to hear so.
    pub fn settle(&mut self, has_table: bool, status: &str) {
        let status = one_line(status);
        let status = NotifyState::Status(&status);
        if has_table && self.told != Told::Ready {
            self.told = Told::Ready;
            tell(&[NotifyState::Ready, status]);
        } else {
            tell(&[status]);
        }
    }
}

/// Says that the daemon ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("writing what was counted")]);
}

/// Feeds the manager's watchdog, if it has one (`WATCHDOG_USEC`), as long as the threads of the
/// path move on.
///
/// # Errors
///
/// The thread that looks after the others could not be started.
pub fn start_watchdog(state: Arc<State>) -> io::Result<()> {
    let Some(patience) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let period = (patience / LOOKS).max(Duration::from_millis(1));
    let mut watch = Watch::new(state, period, Instant::now());
    let mut said = false;
    thread::Builder::new().name("watchdog".into()).spawn(move || {
        loop {
            let stuck = watch.stuck(Instant::now());
            if stuck.is_empty() {
                tell(&[NotifyState::Watchdog]);
            } else if !said {
                let status = format!(
                    "{} without progress for {} s or more: the watchdog is not fed, so that the \
                     service manager restarts ixflow",
                    stuck.join(", "),
                    period.as_secs()
                );
                tracing::error!("{status}");
                tell(&[NotifyState::Status(&status)]);
            }
            said = !stuck.is_empty();
            // Sleeps on if it is woken early: a look more does no harm.
            thread::park_timeout(period);
        }
    })?;
    Ok(())
}

/// Looks at the threads of the path again and again.
#[derive(Debug)]
pub struct Watch {
    state: Arc<State>,
    still_max: Duration,
    /// Of each worker, the flusher and the writers: beats, and since when they are the same.
    seen: Vec<(u64, Instant)>,
}

impl Watch {
    /// A watch for which workers and flusher are stuck that have not moved for `still_max`, and
    /// the writer after [`WRITE_MAX`].
    pub fn new(state: Arc<State>, still_max: Duration, now: Instant) -> Watch {
        let mut watch = Watch { state, still_max, seen: Vec::new() };
        watch.seen = watch.pulses().map(|(_, pulse, _)| (pulse.beats(), now)).collect();
        watch
    }

    /// The threads that are at work and have not moved for longer than they may, by name.
    pub fn stuck(&mut self, now: Instant) -> Vec<String> {
        let mut seen = std::mem::take(&mut self.seen);
        let mut stuck = Vec::new();
        for ((name, pulse, still_max), (beats, since)) in self.pulses().zip(&mut seen) {
            let current = pulse.beats();
            if current != *beats {
                (*beats, *since) = (current, now);
            }
            let at_work = current % 2 == 1;
            if at_work && now.saturating_duration_since(*since) >= still_max {
                stuck.push(name);
            }
        }
        self.seen = seen;
        stuck
    }

    fn pulses(&self) -> impl Iterator<Item = (String, &Pulse, Duration)> {
        let workers = self.state.workers.iter().enumerate();
        let writers = self
            .state
            .writers
            .iter()
            .enumerate()
            .map(|(number, pulse)| (writer_name(number), pulse, WRITE_MAX.max(self.still_max)));
        workers
            .map(|(number, pulse)| (format!("worker-{number}"), pulse, self.still_max))
            .chain([("flush".to_owned(), &self.state.flusher, self.still_max)])
            .chain(writers)
    }
}

/// A message is lines of `NAME=VALUE`: a value has one.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn tell(message: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(message) {
        say_once(&error);
    }
}

fn say_once(error: &io::Error) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!("the service manager cannot be told how ixflow is: NOTIFY_SOCKET: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Agents;

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn a_thread_is_stuck_that_works_and_does_not_move() {
        let state = Arc::new(State::new(Agents::new(1, 1), 2));
        let start = Instant::now();
        let mut watch = Watch::new(state.clone(), Duration::from_secs(15), start);
        assert_eq!(watch.stuck(at(start, 1_000)), [""; 0], "nobody is at work");
        state.workers.iter().for_each(Pulse::turn);
        assert_eq!(watch.stuck(at(start, 2_000)), [""; 0], "they moved since the last look");
        state.workers[0].beat();
        assert_eq!(watch.stuck(at(start, 2_015)), ["worker-1"]);
        state.workers[1].beat();
        assert_eq!(watch.stuck(at(start, 2_016)), [""; 0]);
        state.workers.iter().for_each(Pulse::turn);
        assert_eq!(watch.stuck(at(start, 9_000)), [""; 0], "they have ended");
    }

    #[test]
    fn a_write_may_take_as_long_as_rrdcached_may_take_to_answer() {
        let state = Arc::new(State::new(Agents::new(1, 1), 0));
        let start = Instant::now();
        let mut watch = Watch::new(state.clone(), Duration::from_secs(15), start);
        state.writers[0].turn();
        state.flusher.turn();
        assert_eq!(watch.stuck(at(start, 1)), [""; 0]);
        assert_eq!(watch.stuck(at(start, 600)), ["flush"]);
        state.flusher.turn();
        assert_eq!(watch.stuck(at(start, 3_600)), [""; 0]);
        assert_eq!(watch.stuck(at(start, 3_601)), ["write"]);
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("HTTP 500\nREADY=1"), "HTTP 500 READY=1");
    }
}
