//! The sink's thread: takes intervals from the backlog, oldest first, until each is written.
//!
//! An interval that fails whole stays in front and is tried again, so that boundaries wait while
//! rrdcached or the disk is away; ingest never does.

use std::time::{Duration, Instant};

use crate::flush::Backlog;
use crate::state::State;

use super::{FINDINGS, Receipt, Sink};

/// First wait after a failure; doubled up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(200);

/// Longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How long a daemon that was told to stop goes on trying.
pub const LAST_ATTEMPTS: Duration = Duration::from_secs(10);

/// A failure that goes on is said again after this long.
const REPEAT: Duration = Duration::from_secs(60);

/// Writes intervals until the backlog is closed and empty. Returns how many had to be given up
/// because the sink was still away [`LAST_ATTEMPTS`] after the backlog was closed.
pub fn run(backlog: &Backlog, sink: &mut dyn Sink, state: &State) -> usize {
    let mut retry = RETRY_FIRST;
    let mut failing_since: Option<Instant> = None;
    let mut said: Option<Instant> = None;
    let mut closed_since: Option<Instant> = None;
    while let Some(interval) = backlog.front() {
        let started = Instant::now();
        state.writer.turn();
        let written = sink.write(&interval);
        state.writer.turn();
        match written {
            Ok(receipt) => {
                backlog.done();
                let millis = started.elapsed().as_millis();
                note(state, backlog, &receipt, u64::try_from(millis).unwrap_or(u64::MAX));
                state.set_findings(FINDINGS, sink.findings());
                state.write().last_to_secs = interval.to_secs;
                if let Some(since) = failing_since.take() {
                    tracing::info!(
                        "{} takes updates again after {} s",
                        sink.describe(),
                        since.elapsed().as_secs()
                    );
                }
                for refusal in &receipt.refusals {
                    tracing::warn!("{}: not updated: {}", refusal.file, refusal.reason);
                }
                let named = receipt.refusals.len() as u64;
                if receipt.refused > named {
                    tracing::warn!("{} more files were not updated", receipt.refused - named);
                }
                retry = RETRY_FIRST;
                said = None;
            }
            Err(error) => {
                let (waiting, dropped) = backlog.len();
                {
                    let mut write = state.write();
                    write.failures += 1;
                    write.backlog = waiting;
                    write.intervals_dropped = dropped;
                }
                failing_since.get_or_insert(started);
                if said.is_none_or(|at| at.elapsed() >= REPEAT) {
                    said = Some(Instant::now());
                    tracing::error!("{error}; {waiting} intervals wait, nothing is lost yet");
                }
                if backlog.wait_closed(retry) {
                    let since = *closed_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= LAST_ATTEMPTS {
                        let lost = backlog.len().0;
                        state.write().intervals_dropped += lost as u64;
                        tracing::error!("gave up {lost} intervals: {error}");
                        return lost;
                    }
                    std::thread::park_timeout(RETRY_FIRST);
                }
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
    0
}

fn note(state: &State, backlog: &Backlog, receipt: &Receipt, millis: u64) {
    let (waiting, dropped) = backlog.len();
    let mut write = state.write();
    write.intervals += 1;
    write.updates += receipt.updates;
    write.created += receipt.created;
    write.already_there += receipt.already_there;
    write.ahead += receipt.ahead;
    write.refused += receipt.refused;
    write.left_alone += receipt.left_alone;
    write.intervals_dropped = dropped;
    write.backlog = waiting;
    write.last_millis = millis;
}
