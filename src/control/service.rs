//! The service manager: readiness, reload, stop, status and watchdog, as systemd has them
//! (sd_notify(3)).
//!
//! A daemon that no service manager started (no `NOTIFY_SOCKET` in its environment) says nothing.
//! A manager that does not listen is no reason to stop: what cannot be said is logged once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::state::{Pulse, State};

/// How long one interval may be in the writer's hands before it counts as stuck.
///
/// Longer than anything that works: rrdcached may answer after 600 seconds, while it replays its
/// journal, and a slow disk is no reason for a restart, which would not make it faster.
pub const WRITE_MAX: Duration = Duration::from_secs(3_600);

/// Looks at the threads within the time after which the manager would act.
const LOOKS: u32 = 4;

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
    /// Of each worker, the flusher and the writer: beats, and since when they are the same.
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
        workers.map(|(number, pulse)| (format!("worker-{number}"), pulse, self.still_max)).chain([
            ("flush".to_owned(), &self.state.flusher, self.still_max),
            ("write".to_owned(), &self.state.writer, WRITE_MAX.max(self.still_max)),
        ])
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
        state.writer.turn();
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
