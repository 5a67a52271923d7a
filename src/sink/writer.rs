//! A sink's thread: takes intervals from the backlog, oldest first, until each is written.
//!
//! An interval that fails whole stays in front and is tried again, so that boundaries wait while
//! rrdcached or the disk is away; ingest never does. One that every file refuses has failed whole:
//! the tree is read-only, or belongs to somebody else.
//!
//! When rrdcached had to be connected anew, it may have been killed, and have lost what it had
//! acknowledged: what was written lately is given again, oldest first, before anything newer. That
//! repairs all that a kill can lose, for what it loses is the newest of every file.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::finding::{Finding, Level};
use crate::flush::Interval;
use crate::flush::backlog::{Backlog, Front};
use crate::state::State;

use super::{FINDINGS, Receipt, Sink, SinkError};

/// First wait after a failure; doubled up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(200);

/// Longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How often the sink does what is not urgent while no interval waits.
const TEND_EVERY: Duration = Duration::from_millis(100);

/// How long a daemon that was told to stop goes on trying.
pub const LAST_ATTEMPTS: Duration = Duration::from_secs(10);

/// A failure that goes on is said again after this long.
const REPEAT: Duration = Duration::from_secs(60);

/// Writes intervals until the backlog is closed and empty, or the sink is away at the end: for
/// [`LAST_ATTEMPTS`], or once if what waits survives the end of the process.
pub fn run(number: usize, backlog: &Backlog, sink: &mut dyn Sink, state: &State, shown: &Shown) {
    let writer = Writer { number, backlog, state, shown };
    let mut retry = RETRY_FIRST;
    let mut failing_since: Option<Instant> = None;
    let mut said: Option<Instant> = None;
    let mut closed_since: Option<Instant> = None;
    // Connected anew since the last interval that was written.
    let mut renewed = false;
    let mut unmade_said: Option<Instant> = None;
    loop {
        let mut wait = TEND_EVERY;
        while !backlog.wait_work(number, wait) {
            wait = match writer.tend(sink, false) {
                Ok(()) => TEND_EVERY,
                Err(error) => {
                    writer.say_unmade(sink, &error, &mut unmade_said);
                    RETRY_MAX
                }
            };
        }
        let Some(Front { interval, again }) = backlog.front(number) else { break };
        let started = Instant::now();
        let pulse = &state.writers[number];
        pulse.turn();
        let written = sink.write(&interval).and_then(|receipt| whole(sink, receipt));
        pulse.turn();
        match written {
            Ok(receipt) => {
                writer.show(|part| part.trouble = None);
                backlog.keep_since(number, sink.waits_since_secs());
                let completed = backlog.done(number, &interval);
                renewed = false;
                let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                say_refusals(&receipt);
                if again {
                    repaired(state, &receipt, &interval, sink);
                } else {
                    add(state, &receipt);
                    writer.show(|part| part.millis = millis);
                }
                if completed {
                    let mut write = state.write();
                    write.intervals += 1;
                    write.last_to_secs = write.last_to_secs.max(interval.to_secs);
                }
                // While intervals queue, too, new files get their turn. An error comes again.
                let _ = writer.tend(sink, false);
                writer.show(|part| part.findings = sink.findings());
                if let Some(since) = failing_since.take() {
                    tracing::info!(
                        "{} takes updates again after {} s",
                        sink.describe(),
                        since.elapsed().as_secs()
                    );
                }
                if receipt.dropped_before_creation > 0 {
                    tracing::error!(
                        "{} updates are lost: {} files wait to be made, and no more can; raise \
                         sflow_create_per_sec",
                        receipt.dropped_before_creation,
                        sink.waiting()
                    );
                }
                retry = RETRY_FIRST;
                said = None;
            }
            Err(SinkError::Renewed { .. }) if !std::mem::replace(&mut renewed, true) => {
                backlog.rewind(number);
            }
            Err(error) => {
                state.write().failures += 1;
                writer.show_trouble(sink, &error);
                failing_since.get_or_insert(started);
                if said.is_none_or(|at| at.elapsed() >= REPEAT) {
                    said = Some(Instant::now());
                    let waiting = backlog.len();
                    tracing::error!("{error}; {waiting} intervals wait, nothing is lost yet");
                }
                if backlog.wait_closed(retry) {
                    let since = *closed_since.get_or_insert_with(Instant::now);
                    if backlog.is_kept() || since.elapsed() >= LAST_ATTEMPTS {
                        tracing::error!("{error}; told to stop, and not tried again");
                        return;
                    }
                    std::thread::park_timeout(RETRY_FIRST);
                }
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
    writer.make_the_rest(sink);
}

/// An error if no file took its update, and some refused.
fn whole(sink: &dyn Sink, receipt: Receipt) -> Result<Receipt, SinkError> {
    match receipt.refusals.first() {
        Some(refusal) if receipt.is_refusal() => Err(SinkError::Unusable {
            target: sink.describe(),
            answer: format!("every file refuses, {} for one: {}", refusal.file, refusal.reason),
        }),
        _ => Ok(receipt),
    }
}

/// Tells what was missing of an interval that had been written before.
fn repaired(state: &State, receipt: &Receipt, interval: &Interval, sink: &dyn Sink) {
    let mut write = state.write();
    write.created += receipt.created;
    write.repaired += receipt.accepted;
    // What a file refuses now it may have lost.
    write.updates += receipt.refused;
    write.refused += receipt.refused;
    write.dropped_before_creation += receipt.dropped_before_creation;
    drop(write);
    if receipt.accepted > 0 {
        tracing::warn!(
            "{}: {} updates of the interval up to {} had been lost, and were given again",
            sink.describe(),
            receipt.accepted,
            interval.to_secs
        );
    }
}

/// What the sinks show of themselves.
#[derive(Debug)]
pub struct Shown(Mutex<Vec<Part>>);

/// What one of them does.
#[derive(Clone, Default, Debug)]
struct Part {
    /// How long its last interval took.
    millis: u64,
    files_waiting: usize,
    /// Of the files.
    findings: Vec<Finding>,
    /// When attempts began to fail, and what is said of that.
    trouble: Option<(SystemTime, Finding)>,
}

impl Shown {
    /// Of so many sinks.
    pub fn new(sinks: usize) -> Shown {
        Shown(Mutex::new(vec![Part::default(); sinks]))
    }
}

/// The name of a sink's thread.
pub fn thread_name(number: usize) -> String {
    if number == 0 { "write".to_owned() } else { format!("write-{number}") }
}

struct Writer<'a> {
    number: usize,
    backlog: &'a Backlog,
    state: &'a State,
    shown: &'a Shown,
}

impl Writer<'_> {
    /// Changes what this sink shows, and renders what all show.
    fn show(&self, change: impl FnOnce(&mut Part)) {
        // Held to the end, so that what is rendered last is the latest.
        let mut parts = self.shown.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts[self.number]);
        let mut write = self.state.write();
        write.last_millis = parts.iter().map(|part| part.millis).max().unwrap_or(0);
        write.files_waiting = parts.iter().map(|part| part.files_waiting).sum();
        drop(write);
        let trouble = |part: &Part| part.trouble.clone().map(|(_, finding)| finding);
        let of_files = parts.iter().flat_map(|part| part.findings.iter().cloned());
        let findings = parts.iter().filter_map(trouble).chain(of_files).collect();
        self.state.set_findings(FINDINGS, findings);
    }

    /// Shows that an attempt failed, and since when they do.
    fn show_trouble(&self, sink: &dyn Sink, error: &SinkError) {
        let (name, remedy) = if error.is_no_room() {
            ("disk_full", "make room on the disk of the RRD files, or raise the quota")
        } else {
            (
                "sink_away",
                "see that rrdcached runs and lets ixflow's user in, and that the disk of the RRD \
                 files is mounted and can be written",
            )
        };
        let (intervals, files) = (self.backlog.len(), sink.waiting());
        self.show(|part| {
            let since = part.trouble.as_ref().map_or_else(SystemTime::now, |(since, _)| *since);
            let finding = Finding {
                level: Level::Fail,
                name,
                subject: sink.describe(),
                what: format!(
                    "nothing can be written since {}: {error}; {intervals} intervals and {files} \
                     new files wait",
                    httpdate::fmt_http_date(since)
                ),
                why: "graphs stand still; what waits is kept up to sflow_spool_hours and \
                      sflow_spool_bytes, and written later"
                    .into(),
                remedy: remedy.into(),
            };
            part.trouble = Some((since, finding));
        });
    }

    /// The daemon ends: makes the files that still wait, as far as [`LAST_ATTEMPTS`] goes. What is
    /// left is made by the next start if the intervals are kept, and else lost.
    fn make_the_rest(&self, sink: &mut dyn Sink) {
        let is_kept = |sink: &dyn Sink| {
            sink.waits_since_secs().is_some_and(|since| self.backlog.has_kept(since))
        };
        let started = Instant::now();
        while sink.waiting() > 0 && started.elapsed() < LAST_ATTEMPTS {
            if let Err(error) = self.tend(sink, true) {
                if is_kept(sink) {
                    tracing::error!("{error}");
                    break;
                }
                std::thread::park_timeout(RETRY_FIRST);
            }
        }
        let files = sink.waiting();
        if is_kept(sink) {
            tracing::warn!("{files} files are to be made by the next start");
        } else if files > 0 {
            let lost = sink.give_up();
            self.state.write().dropped_before_creation += lost;
            self.show(|part| part.files_waiting = 0);
            tracing::error!(
                "gave up {files} files that waited to be made, and {lost} updates of them"
            );
        }
    }

    /// Says that files cannot be made.
    fn say_unmade(&self, sink: &dyn Sink, error: &SinkError, said: &mut Option<Instant>) {
        self.state.write().failures += 1;
        if sink.waiting() > 0 && said.is_none_or(|at| at.elapsed() >= REPEAT) {
            *said = Some(Instant::now());
            let files = sink.waiting();
            tracing::error!("{error}; {files} files wait to be made, nothing is lost yet");
        }
    }

    /// Lets the sink do a part of what is not urgent.
    fn tend(&self, sink: &mut dyn Sink, last: bool) -> Result<(), SinkError> {
        let pulse = &self.state.writers[self.number];
        pulse.turn();
        let tended = sink.tend(last);
        pulse.turn();
        self.backlog.keep_since(self.number, sink.waits_since_secs());
        let waiting = sink.waiting();
        // One that had nothing to do says nothing of the disk.
        let worked = tended.as_ref().is_ok_and(|receipt| *receipt != Receipt::default());
        self.show(|part| {
            part.files_waiting = waiting;
            part.trouble = part.trouble.take().filter(|_| !worked);
        });
        let receipt = tended.inspect_err(|error| self.show_trouble(sink, error))?;
        add(self.state, &receipt);
        say_refusals(&receipt);
        if receipt.is_relapse {
            tracing::error!(
                "{}: most files of the samples lost what was acknowledged: what was written lately \
                 is given again",
                sink.describe()
            );
            self.backlog.rewind(self.number);
        }
        Ok(())
    }
}

fn say_refusals(receipt: &Receipt) {
    for refusal in &receipt.refusals {
        tracing::warn!("{}: not updated: {}", refusal.file, refusal.reason);
    }
    let named = receipt.refusals.len() as u64;
    if receipt.refused > named {
        tracing::warn!("{} more files were not updated", receipt.refused - named);
    }
}

/// Adds to the totals.
fn add(state: &State, receipt: &Receipt) {
    let mut write = state.write();
    write.updates += receipt.updates;
    write.created += receipt.created;
    write.already_there += receipt.already_there;
    write.ahead += receipt.ahead;
    write.refused += receipt.refused;
    write.left_alone += receipt.left_alone;
    write.dropped_before_creation += receipt.dropped_before_creation;
    write.lost_after_ack += receipt.lost_after_ack;
}
