//! What the daemon knows of itself: one struct, which every view renders and none adds to.
//!
//! The data path counts into [`State`]; views read a [`Status`], which is made of it at most once
//! a second, whoever asks.

pub mod status;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use self::status::{Rates, Status};

use crate::agent::{Agents, DIRECTION_FINDINGS};
use crate::finding::{Finding, Level};
use crate::sightings::{self, Sightings, UnknownMac};

/// The names of what the daemon finds in its own state.
pub const FINDINGS: &[&str] = &["clock_set_back", "state_dir_unwritable"];

/// Stands for "the kernel does not say".
const UNKNOWN: u64 = u64::MAX;

/// A status is as good as new for so long.
const STATUS_AGE_MAX: Duration = Duration::from_secs(1);

/// Where the MAC table came from, and what is in it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct TableState {
    /// URL or file; empty while there is none.
    pub source: String,
    /// When the portal gave it, in seconds since 1970.
    pub fetched_secs: u64,
    /// Infrastructures in it.
    pub infrastructures: usize,
    /// VLANs in it.
    pub vlans: usize,
    /// (VLAN, MAC) entries in it.
    pub macs: usize,
    /// VLIs in it.
    pub vlis: usize,
    /// Attempts to fetch it that failed since the last success.
    pub failures: u64,
}

/// Counts that were made and reach no file.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct GivenUp {
    /// Pairs of VLIs that had exchanged something, of each interval.
    pub pairs: u64,
    /// Samples.
    pub samples: u64,
    /// Packets that the samples stand for.
    pub packets: u64,
    /// Bytes that the samples stand for.
    pub bytes: u64,
}

impl GivenUp {
    /// Adds `other`.
    pub fn merge(&mut self, other: &GivenUp) {
        self.pairs = self.pairs.saturating_add(other.pairs);
        self.samples = self.samples.saturating_add(other.samples);
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct WriteState {
    /// Intervals written.
    pub intervals: u64,
    /// Updates that were accepted.
    pub updates: u64,
    /// Files that were created.
    pub created: u64,
    /// Updates that were in their file already.
    pub already_there: u64,
    /// Updates for files that somebody else updated for a later time.
    pub ahead: u64,
    /// Updates that were refused.
    pub refused: u64,
    /// Updates for files that have other data sources, and are left alone.
    pub left_alone: u64,
    /// Files that wait to be made, with their updates.
    pub files_waiting: usize,
    /// Updates that were lost because too many others waited for their files, or the daemon ended
    /// before they were made.
    pub dropped_before_creation: u64,
    /// Intervals that `sflow_spool_bytes` removed from the disk while updates of theirs waited for
    /// their files: a kill would have lost these.
    pub unkept_before_creation: u64,
    /// Files, of those that were looked at, that do not have what was acknowledged.
    pub lost_after_ack: u64,
    /// Attempts to write an interval that failed whole; it was kept.
    pub failures: u64,
    /// Intervals that were given up because the backlog was full or the daemon had to end.
    pub intervals_dropped: u64,
    /// What came while the clock was set back into time that had been counted.
    pub clock_set_back: GivenUp,
    /// What was in the intervals that were given up.
    pub dropped: GivenUp,
    /// Updates of intervals that rrdcached had taken, and lost: they were given again.
    pub repaired: u64,
    /// Attempts to keep an interval or the open step on disk that failed.
    pub keep_failures: u64,
    /// Bytes of the intervals on disk.
    pub spool_bytes: u64,
    /// Intervals waiting.
    pub backlog: usize,
    /// How long the last interval took, in milliseconds.
    pub last_millis: u64,
    /// End of the last interval that was written, in seconds since 1970.
    pub last_to_secs: u64,
}

/// Whether a thread of the path moves on.
///
/// One number that grows: even while the thread waits for work, odd while it works. Who looks
/// twice and finds the same odd number knows that the thread has not moved between.
#[derive(Default, Debug)]
pub struct Pulse {
    beats: AtomicU64,
}

impl Pulse {
    /// Work begins, or ends.
    pub fn turn(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// A piece of the work is done, and the next one begins.
    #[inline]
    pub fn beat(&self) {
        self.beats.fetch_add(2, Ordering::Relaxed);
    }

    /// The number.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}

/// Sinks at the most.
pub const WRITERS_MAX: usize = 16;

/// The observable state.
#[derive(Debug)]
pub struct State {
    /// Everything that was received, in total and by agent.
    pub agents: Arc<Agents>,
    /// What the samples show of the fabric.
    pub sightings: Sightings,
    /// Of each worker: it beats at every batch, and at least ten times a second.
    pub workers: Vec<Pulse>,
    /// Of the thread that merges ledgers.
    pub flusher: Pulse,
    /// Of the threads that write, one for each sink; the others never work.
    pub writers: [Pulse; WRITERS_MAX],
    socket_drops: Vec<AtomicU64>,
    started: Instant,
    listening: Mutex<Vec<SocketAddr>>,
    table: Mutex<TableState>,
    write: Mutex<WriteState>,
    findings: Mutex<Vec<Finding>>,
    looks: Mutex<Looks>,
}

/// What is known of the state over time, by those who look.
#[derive(Default, Debug)]
struct Looks {
    status: Option<(Instant, Arc<Status>)>,
    rates: Rates,
}

impl State {
    /// The state of a daemon with so many workers that has seen nothing yet.
    pub fn new(agents: Agents, workers: usize) -> State {
        State {
            agents: Arc::new(agents),
            sightings: Sightings::default(),
            workers: (0..workers).map(|_| Pulse::default()).collect(),
            flusher: Pulse::default(),
            writers: Default::default(),
            socket_drops: (0..workers).map(|_| AtomicU64::new(UNKNOWN)).collect(),
            started: Instant::now(),
            listening: Mutex::default(),
            table: Mutex::default(),
            write: Mutex::default(),
            findings: Mutex::default(),
            looks: Mutex::default(),
        }
    }

    /// Notes the UDP addresses on which the workers listen.
    pub fn set_listening(&self, addresses: Vec<SocketAddr>) {
        *lock(&self.listening) = addresses;
    }

    /// Sockets are bound, and there is a MAC table.
    pub fn is_ready(&self) -> bool {
        !lock(&self.listening).is_empty() && self.table().macs > 0
    }

    /// What is known at the moment, `now_millis` by the daemon's clock; up to a second old.
    pub fn status(&self, now_millis: u64) -> Arc<Status> {
        let mut looks = lock(&self.looks);
        if let Some((made, status)) = &looks.status
            && made.elapsed() < STATUS_AGE_MAX
        {
            return status.clone();
        }
        let status = Arc::new(Status::of(self, now_millis, Some(&mut looks.rates)));
        looks.status = Some((Instant::now(), status.clone()));
        status
    }

    /// What is known at this very moment; without rates.
    pub fn status_now(&self, now_millis: u64) -> Status {
        Status::of(self, now_millis, None)
    }

    /// Notes what the kernel dropped on a worker's sockets.
    pub fn set_socket_drops(&self, worker: usize, drops: Option<u64>) {
        if let Some(cell) = self.socket_drops.get(worker) {
            cell.store(drops.unwrap_or(UNKNOWN), Ordering::Relaxed);
        }
    }

    /// Datagrams that the kernel dropped on all sockets; `None` where it does not say.
    pub fn socket_drops(&self) -> Option<u64> {
        let drops = self.socket_drops.iter().map(|cell| cell.load(Ordering::Relaxed));
        drops.filter(|&drops| drops != UNKNOWN).reduce(|sum, drops| sum + drops)
    }

    /// The MAC table.
    pub fn table(&self) -> MutexGuard<'_, TableState> {
        lock(&self.table)
    }

    /// What was written.
    pub fn write(&self) -> MutexGuard<'_, WriteState> {
        lock(&self.write)
    }

    /// Puts `new` in the place of the findings with these names.
    pub fn set_findings(&self, names: &[&str], new: Vec<Finding>) {
        debug_assert!(new.iter().all(|finding| names.contains(&finding.name)), "{new:?}");
        let mut findings = self.findings();
        findings.retain(|finding| !names.contains(&finding.name));
        findings.extend(new);
        findings.sort_by(|one, other| other.level.cmp(&one.level).then_with(|| one.cmp(other)));
    }

    /// Notes by how many seconds the clock was set back, or that it is where it was.
    pub fn set_clock_set_back(&self, behind_secs: Option<u64>) {
        const NAME: &str = "clock_set_back";
        let finding = behind_secs.map(|secs| Finding {
            level: Level::Fail,
            name: NAME,
            subject: String::new(),
            what: format!("the clock was set back by {secs} s, into time that is counted"),
            why: "what comes until it is where it was reaches no file, and is counted as \
                  clock_set_back"
                .into(),
            remedy: "see what sets the clock (chronyc tracking, timedatectl): NTP shall slew it, \
                     not step it"
                .into(),
        });
        self.set_findings(&[NAME], finding.into_iter().collect());
    }

    /// Notes why files of the state directory cannot be written, or that they can.
    pub fn set_state_dir_failure(&self, directory: &Path, error: Option<&str>) {
        const NAME: &str = "state_dir_unwritable";
        let finding = error.map(|error| Finding {
            level: Level::Fail,
            name: NAME,
            subject: directory.display().to_string(),
            what: error.to_owned(),
            why: "intervals wait in memory alone: a kill loses them, and the open step".into(),
            remedy: "make room on its disk, or give ixflow's user the right to write it \
                     (sflow_statedir)"
                .into(),
        });
        self.set_findings(&[NAME], finding.into_iter().collect());
    }

    /// Addresses that the MAC table does not know, the `limit` with most packets first, and the
    /// samples of those beyond what is kept.
    pub fn unknown_macs(&self, limit: usize) -> (Vec<UnknownMac>, u64) {
        self.sightings.unknown_macs(limit, &self.agents.flow_samples())
    }

    /// Finds anew what looks wrong with agents and in what the samples show of the fabric.
    pub fn refresh_findings(&self) {
        self.set_findings(DIRECTION_FINDINGS, self.agents.direction_findings());
        let findings = self.sightings.findings(&self.agents.flow_samples());
        self.set_findings(sightings::FINDINGS, findings);
    }

    /// What looks wrong at the moment, worst first.
    pub fn findings(&self) -> MutexGuard<'_, Vec<Finding>> {
        lock(&self.findings)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The locks guard plain figures, which are right after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_drops_are_a_sum_or_unknown() {
        let state = State::new(Agents::new(1, 1), 3);
        assert_eq!(state.socket_drops(), None);
        state.set_socket_drops(0, Some(2));
        state.set_socket_drops(1, None);
        state.set_socket_drops(2, Some(3));
        assert_eq!(state.socket_drops(), Some(5));
    }

    #[test]
    fn findings_of_a_name_take_the_place_of_those_before() {
        let state = State::new(Agents::new(1, 1), 1);
        let finding = |level, name| Finding {
            level,
            name,
            subject: String::new(),
            what: String::new(),
            why: String::new(),
            remedy: String::new(),
        };
        state.set_findings(&["a"], vec![finding(Level::Ok, "a")]);
        state.set_findings(&["b"], vec![finding(Level::Fail, "b"), finding(Level::Warn, "b")]);
        state.set_findings(&["a"], vec![finding(Level::Warn, "a")]);
        let names: Vec<_> = state.findings().iter().map(|f| (f.level, f.name)).collect();
        assert_eq!(names, [(Level::Fail, "b"), (Level::Warn, "a"), (Level::Warn, "b")]);
        state.set_findings(&["a", "b"], Vec::new());
        assert!(state.findings().is_empty());
    }
}
