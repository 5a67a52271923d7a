//! Sinks: where intervals are written.
//!
//! The RRD tree is IXP Manager's, to the letter: its Grapher finds the files by name and reads
//! `traffic_in` and `traffic_out` from them. With `P` = `ipv4` or `ipv6`, `T` = `bytes` or `pkts`,
//! and ids of at least five digits:
//!
//! ```text
//! P/T/aggregate/aggregate.P.T.vlanVVVVV.rrd               V: 802.1Q tag
//! P/T/aggregate/aggregate.P.T.vlanVVVVV.infraIIIII.rrd    I: infrastructure
//! P/T/individual/individual.P.T.src-SSSSS.rrd             S: VLI
//! P/T/p2p/src-SSSSS/p2p.P.T.src-SSSSS.dst-DDDDD.rrd       S, D: VLIs
//! ```
//!
//! `traffic_in` of a p2p file is what the peer sent to the VLI that the file is named after, and
//! `traffic_in` of an individual file what that VLI sent into the fabric: opposite directions,
//! because the portal's graphs expect them so. An aggregate is what was sent on the VLANs of a tag,
//! in and out alike. Those of infrastructures are ours, and made when asked
//! ([`Aggregates::Infrastructure`]); the portal reads no name of five parts of that kind.
//!
//! An interval becomes one update per file, in the order of the paths (a sorted walk is three
//! times as fast in rrdcached's tree). Individuals and aggregates are always fed; a pair has files
//! from its first traffic on, and is fed zeros while idle, because the portal's summed graphs go
//! blank where one of their files lags. For the same reason a new file has a history of zeros.
//!
//! Rates are written as decimals, stamped with the end of the interval. In front of one may stand
//! a second value, stamped with the start: `U` where nothing is known of the time before it, so
//! that a rate is never spread over a hole.

use std::io;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use crate::finding::Finding;
use crate::flush::Interval;

pub mod direct;
mod feed;
pub mod file;
mod header;
pub mod librrd;
pub mod rrdcached;
mod share;
mod tree;
mod verify;
mod waiting;
pub mod writer;

pub use feed::{Aggregates, Create, Feed, Lead, Outcome, Span, Update, Walk, push_rate};
pub use share::Share;
pub use tree::{File, FileError, Tree, TreeHeld, TreeLock};
pub use verify::{SAMPLE_MAX, Sample};
pub use waiting::WAITING_MAX;

/// Seconds between two rows of the finest archive.
pub const STEP_SECS: u64 = 300;

/// Seconds without an update after which RRD holds a value for unknown.
pub const HEARTBEAT_SECS: u64 = 600;

/// The data sources of every file, in order: GAUGE without limits, bytes or packets per second.
pub const DATA_SOURCES: [&str; 2] = ["traffic_in", "traffic_out"];

/// The share of unknown values up to which a consolidated value is still known.
pub const XFILES_FACTOR: f64 = 0.5;

/// How long what goes on is waited for once the daemon is to end: an answer of rrdcached, reading
/// the tree. A write that goes on is not cut off.
pub const LAST_WAIT: Duration = Duration::from_secs(5);

/// Refusals that a [`Receipt`] names; further ones are only counted.
pub const REFUSALS_MAX: usize = 16;

/// The names of what [`Sink::findings`] says.
pub const FINDINGS: &[&str] = &[
    "sink_away",
    "disk_full",
    "files_left_alone",
    "files_of_former_vlis",
    "lost_after_ack",
    "updates_dropped_before_creation",
];

/// How an archive condenses the values of its rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consolidation {
    /// The mean.
    Average,
    /// The highest of the five-minute means.
    Max,
}

impl Consolidation {
    /// RRDtool's name.
    pub const fn name(self) -> &'static str {
        match self {
            Consolidation::Average => "AVERAGE",
            Consolidation::Max => "MAX",
        }
    }
}

/// A round robin archive of every file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Archive {
    /// How it condenses.
    pub consolidation: Consolidation,
    /// Steps per row.
    pub steps: u64,
    /// Number of rows.
    pub rows: u64,
}

/// The archives of every file, in order: two days of 5 minutes, two weeks of 30 minutes, two
/// months of 2 hours and ten years of days, as IXP Manager's sflow-to-rrd-handler makes them.
pub const ARCHIVES: [Archive; 8] = {
    const fn archive(consolidation: Consolidation, steps: u64, rows: u64) -> Archive {
        Archive { consolidation, steps, rows }
    }
    [
        archive(Consolidation::Average, 1, 600),
        archive(Consolidation::Max, 1, 600),
        archive(Consolidation::Average, 6, 700),
        archive(Consolidation::Max, 6, 700),
        archive(Consolidation::Average, 24, 750),
        archive(Consolidation::Max, 24, 750),
        archive(Consolidation::Average, 288, 3650),
        archive(Consolidation::Max, 288, 3650),
    ]
};

/// What became of an interval's updates: `updates` is the sum of `accepted`, `already_there`,
/// `ahead`, `gone`, `refused` and `left_alone`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Receipt {
    /// Files that the interval concerned.
    pub updates: u64,
    /// Updates that the file, or rrdcached, took.
    pub accepted: u64,
    /// Updates that the file had from an earlier attempt.
    pub already_there: u64,
    /// Files that were updated by somebody else for a time after the interval: the incumbent
    /// before a change-over, or a clock that was ahead. They are fed again once it is past.
    pub ahead: u64,
    /// Idle pairs whose files have been deleted: nothing to do.
    pub gone: u64,
    /// Updates that are lost.
    pub refused: u64,
    /// Files whose data sources are others than ours: they are not touched.
    pub left_alone: u64,
    /// Files that were made.
    pub created: u64,
    /// Updates that wait until their file is made: they are in a later receipt, and not in
    /// `updates`.
    pub deferred: u64,
    /// Updates that are lost because [`WAITING_MAX`] others wait for their files, not in `updates`.
    pub dropped_before_creation: u64,
    /// Files of a sample that do not have what was acknowledged.
    pub lost_after_ack: u64,
    /// Most files that were looked at lost what was acknowledged, and so did the others: what was
    /// written lately is to be given again.
    pub is_relapse: bool,
    /// The first refusals, [`REFUSALS_MAX`] at the most.
    pub refusals: Vec<Refusal>,
}

impl Receipt {
    fn sum_up(&mut self) {
        self.updates = self.accepted
            + self.already_there
            + self.ahead
            + self.gone
            + self.refused
            + self.left_alone;
    }

    /// Whether no file took its update, and some refused: it is not of the files then.
    pub fn is_refusal(&self) -> bool {
        self.refused > 0 && self.refused == self.updates
    }
}

/// A file that did not take its update.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The file.
    pub file: File,
    /// Why, in the words of rrdcached, librrd or the operating system.
    pub reason: String,
}

/// The interval was not written, or only in part: try again, the same interval.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The files or the daemon cannot be reached.
    #[error("{target}: {error}")]
    Unreachable {
        /// Who or what.
        target: String,
        /// What the operating system says.
        error: io::Error,
    },
    /// The daemon does not speak as expected, or allows no updates.
    #[error("{target}: {answer}")]
    Unusable {
        /// Who.
        target: String,
        /// What it said.
        answer: String,
    },
    /// The daemon was connected anew, and nothing was written yet: it may have been restarted, and
    /// may have lost what it took. Give what was written lately again, then this interval.
    #[error("{target} closes its connections")]
    Renewed {
        /// Who.
        target: String,
    },
    /// No answer came in time, or the tree was not read in time, and the daemon is to end.
    #[error("not done in time, and the daemon is to end")]
    Stopped,
}

impl SinkError {
    /// Whether there is no room on the disk, by the system's error or rrdcached's words for it.
    fn is_no_room(&self) -> bool {
        match self {
            SinkError::Unreachable { error, .. } => {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            SinkError::Unusable { answer, .. } => NO_ROOM.iter().any(|why| answer.contains(why)),
            SinkError::Renewed { .. } | SinkError::Stopped => false,
        }
    }
}

/// What strerror(3) says where there is no room.
const NO_ROOM: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// Somewhere that intervals are written to.
pub trait Sink: Send {
    /// Writes an interval, after all earlier ones.
    ///
    /// On an error the same interval must be given again, or dropped. Writing an interval twice
    /// does no harm: the updates that came through are recognised by their time stamp.
    fn write(&mut self, interval: &Interval) -> Result<Receipt, SinkError>;

    /// From now on new files are made by [`Sink::tend`], so many a second. Without this they are
    /// made while the interval is written.
    fn pace(&mut self, _files_per_sec: u32) {}

    /// Does a part of what is not urgent: makes files that wait, writes their updates, and looks
    /// whether what was acknowledged is in the files. Called some times a second; `last`: nothing
    /// else will come, so that the pace does not matter any more.
    ///
    /// # Errors
    ///
    /// As [`Sink::write`]; it is tried again.
    fn tend(&mut self, _last: bool) -> Result<Receipt, SinkError> {
        Ok(Receipt::default())
    }

    /// Files that wait to be made.
    fn waiting(&self) -> usize {
        0
    }

    /// The end of the oldest interval of which updates wait for their files, in seconds since 1970:
    /// from it on intervals must be given again, should the process end before they are made.
    fn waits_since_secs(&self) -> Option<u64> {
        None
    }

    /// The daemon ends, and does not wait for [`Sink::tend`] any longer: how many updates are lost.
    fn give_up(&mut self) -> u64 {
        0
    }

    /// Where it writes to, and how, for people.
    fn describe(&self) -> String;

    /// What is to be said of the files at the moment, under the names of [`FINDINGS`].
    fn findings(&self) -> Vec<Finding> {
        Vec::new()
    }
}

/// What a thread came to; its panic is the caller's.
fn join<T>(hand: ScopedJoinHandle<'_, T>) -> T {
    hand.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether an error is not of one file: the file system is full, read-only or gone.
fn concerns_all(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::StaleNetworkFileHandle
    )
}

/// The file's last update, out of the message with which librrd and rrdcached refuse an update
/// that is not later: "... when last update time is 1700000300 (minimum one second step)".
fn last_update_secs(message: &str) -> Option<u64> {
    const MARK: &str = "when last update time is ";
    let (_, rest) = message.split_once(MARK).filter(|(before, _)| before.contains("illegal"))?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_update_is_read_from_refusals() {
        let message = "illegal attempt to update using time 1.000000 when last update time is \
                       1700001900.000000 (minimum one second step)";
        assert_eq!(last_update_secs(message), Some(1_700_001_900));
        let message = "/x.rrd: illegal attempt to update using time 5 when last update time is 5 \
                       (minimum one second step)";
        assert_eq!(last_update_secs(message), Some(5));
        assert_eq!(last_update_secs("No such file: /x.rrd"), None);
    }
}
