//! Success is no proof: whether what rrdcached took is in the files.
//!
//! It acknowledges an update and may lose it without a word: when somebody else has the file locked
//! at the moment of writing, when the file was deleted while it was cached, when its disk is full,
//! or when it writes to another directory than we read. So of every interval a few files are looked
//! at later, others each time: their last update must have followed. Some of them are looked at
//! soon: a tree that takes nothing any more (its disk was mounted read-only) shows before the next
//! interval comes, whose updates would fill the rows of those that were lost.

use std::collections::VecDeque;

use super::header::last_update;
use super::tree::{File, Tree};

/// Files of an interval that are looked at, at the most.
pub const SAMPLE_MAX: usize = 256;

/// Of these, that many before the next interval.
const SOON_MAX: usize = 16;

/// How long a file may lag behind, in seconds, where rrdcached does not let itself be told to write
/// it: `-w 1800 -z 1800`, and an hour for its queue.
pub(super) const PATIENCE_SECS: u64 = 7_200;

/// Files that wait to be looked at, at the most: those of [`PATIENCE_SECS`].
const SAMPLES_MAX: usize = SAMPLE_MAX * 26;

/// Intervals without a loss after which a loss is no news any more: an hour.
const CLEAN_ROUNDS: u32 = 12;

/// Losses that are named in the log, of one look.
const NAMED_MAX: usize = 8;

/// A file that was fed up to a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The file.
    pub file: File,
    /// The time stamp of its update.
    pub to_secs: u64,
}

/// What is looked at, and what was found.
#[derive(Default, Debug)]
pub(super) struct Verify {
    /// The number, in the order of the paths, of the update with which the next sample begins.
    pub(super) cursor: usize,
    samples: VecDeque<Sample>,
    /// Those in front that are looked at before the next interval.
    due: usize,
    /// Files of which something was lost lately, the last of them, and why.
    lost: Option<(u64, String)>,
    clean_rounds: u32,
}

impl Verify {
    /// Remembers files that took their update of the interval that ended at `to_secs`; `updates` is
    /// the number of all.
    pub(super) fn note(&mut self, files: impl Iterator<Item = File>, to_secs: u64, updates: usize) {
        self.cursor = if self.cursor + SAMPLE_MAX < updates { self.cursor + SAMPLE_MAX } else { 0 };
        let room = SAMPLES_MAX - self.samples.len().min(SAMPLES_MAX);
        let mut samples = files.take(room).map(|file| Sample { file, to_secs });
        let soon: Vec<Sample> = samples.by_ref().take(SOON_MAX).collect();
        self.due = self.samples.len() + soon.len();
        self.samples.extend(samples);
        soon.into_iter().for_each(|sample| self.samples.push_front(sample));
    }

    /// Samples of earlier intervals, some at a time, each once in an interval; they are forgotten
    /// here.
    pub(super) fn due(&mut self) -> Vec<Sample> {
        let count = self.due.min(SAMPLE_MAX).min(self.samples.len());
        self.due -= count;
        self.samples.drain(..count).collect()
    }

    /// Looks at the files. `asked`: rrdcached was told to write them, or nobody holds them back.
    /// Returns how many lost what was acknowledged, and those of them that do not exist.
    pub(super) fn look(
        &mut self,
        tree: &Tree,
        samples: Vec<Sample>,
        now_secs: u64,
        asked: bool,
    ) -> (u64, Vec<File>) {
        let (mut lost, mut missing) = (0, Vec::new());
        for sample in samples {
            let Sample { file, to_secs } = sample;
            let last = last_update(&file.path(tree.root()));
            let reason = match last {
                Ok(last) if last >= to_secs => continue,
                _ if !asked && now_secs < to_secs + PATIENCE_SECS => {
                    if self.samples.len() < SAMPLES_MAX {
                        self.samples.push_back(sample);
                    }
                    continue;
                }
                Ok(last) => format!(
                    "its last update is {last}: another program may have had it locked (rrdtool \
                     locks what it reads), it may have been replaced, the disk or that of the \
                     journal may be full, or rrdcached writes to another directory"
                ),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    missing.push(file);
                    "it was deleted while rrdcached had it cached".to_owned()
                }
                Err(error) => error.to_string(),
            };
            lost += 1;
            let reason = format!("{file}: was fed up to {to_secs}, but {reason}");
            if lost <= NAMED_MAX {
                tracing::warn!("{reason}");
            }
            self.lost = Some((self.lost.take().map_or(0, |(count, _)| count) + 1, reason));
        }
        if lost > NAMED_MAX {
            tracing::warn!("{} more files lost what was acknowledged", lost - NAMED_MAX);
        }
        self.clean_rounds = if lost > 0 { 0 } else { self.clean_rounds.saturating_add(1) };
        if self.clean_rounds >= CLEAN_ROUNDS {
            self.lost = None;
        }
        (lost as u64, missing)
    }

    /// How many files lost something lately, and the last of them.
    pub(super) fn lost(&self) -> Option<&(u64, String)> {
        self.lost.as_ref()
    }
}
