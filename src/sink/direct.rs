//! The RRD files themselves, without a daemon: what readers see is what was written, at once.
//!
//! Files of our schema are written by [`Header::update`]: a few system calls a file, where librrd
//! locks, maps and unmaps it, which is several times as slow, and slower still with a second
//! thread. Files that have our data sources in another schema go through librrd; others, and those
//! that cannot be read, are refused by name.
//!
//! **Threads.** The updates of a directory go to one thread, in the order of the paths, and the
//! directory is opened once. Each thread has what it needs for itself; the outcomes are merged. The
//! thread that hands them out writes, too, what the others have no time for: one more, which
//! would only hand out, would take the processor from them.
//!
//! **Locks.** A file is locked as librrd locks it (fcntl(2), a write lock of the whole file, not
//! waited for), from before its header is read until it is closed: `rrdtool` and other writers, and
//! we, exclude each other. On Linux the lock belongs to the open file (F_OFD_SETLK) and not to the
//! process, so that graphs that this process draws are no exception. A file that is locked gets
//! further tries at the end of the interval.
//!
//! **Trouble.** An error that concerns one file is a refusal. One that concerns all of them (a file
//! system that is full, read-only, or not there any more) is an error of the whole interval, which
//! is given again; the updates that came through are recognised by their time stamp.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::libc;
use nix::sys::stat::Mode;

use crate::finding::Finding;
use crate::flush::Interval;
use crate::sink::file::{self, Foreign, Header, Reading, Rows};
use crate::sink::header::is_unfed;
use crate::sink::librrd::{self, is_locked};
use crate::sink::{
    Aggregates, Create, Feed, File, Lead, Outcome, Receipt, Share, Sink, SinkError, Span, Tree,
    Update, concerns_all, join,
};

/// Threads that write, where there are as many processors: more help where the header of a file is
/// not in memory only.
pub const THREADS: usize = 2;

/// Updates that go to a thread at once, at the most.
const CHUNK_UPDATES: usize = 1000;

/// Chunks that wait for a thread, at the most, for each.
const CHUNKS_WAITING: usize = 4;

/// Updates of an interval and thread that get further tries because the file was locked, at the
/// most.
const AGAIN_MAX: usize = 100_000;

/// Further tries, and the wait before the first; doubled before each other one. Readers lock a file
/// for milliseconds.
const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(10);

/// The reason of a refusal: a reader or another writer has the file for long.
const LOCKED: &str = "locked: another program has locked the file";

/// Writes files.
#[derive(Debug)]
pub struct Direct {
    feed: Feed,
    threads: usize,
    /// Device and inode of the root: another one there is another tree.
    root_id: (u64, u64),
}

impl Direct {
    /// Writes into `tree`, making files as `create` says, with so many threads (at least one).
    pub fn new(tree: Tree, create: Create, threads: usize) -> io::Result<Direct> {
        let root_id = id(tree.root())?;
        Ok(Direct {
            feed: Feed::new(tree, Share::default(), create),
            threads: threads.max(1),
            root_id,
        })
    }

    /// Feeds these aggregates.
    #[must_use]
    pub fn with_aggregates(self, aggregates: Aggregates) -> Direct {
        Direct { feed: self.feed.with_aggregates(aggregates), ..self }
    }

    /// The same, with `stop` saying that the daemon is to end.
    pub fn stopping(mut self, stop: Arc<AtomicBool>) -> Direct {
        self.feed.set_stop(stop);
        self
    }
}

/// As many threads as pay on this machine.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

fn id(directory: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(directory).map(|found| (found.dev(), found.ino()))
}

fn unreachable(root: &Path, error: io::Error) -> SinkError {
    SinkError::Unreachable { target: root.display().to_string(), error }
}

impl Direct {
    /// The root, if it is still the one of the start: below an empty mount point there would be a
    /// tree without a past.
    fn root(&self) -> Result<PathBuf, SinkError> {
        let root = self.feed.tree().root().to_owned();
        if id(&root).map_err(|error| unreachable(&root, error))? == self.root_id {
            return Ok(root);
        }
        let error = io::Error::new(
            io::ErrorKind::NotFound,
            "another directory is there than at the start: is its disk mounted?",
        );
        Err(unreachable(&root, error))
    }
}

impl Sink for Direct {
    fn write(&mut self, interval: &Interval) -> Result<Receipt, SinkError> {
        let root = self.root()?;
        self.feed.prepare(interval)?;
        let shared = Shared::new(&root, self.feed.span(interval));
        let (walk, outcomes) = thread::scope(|scope| {
            let others = self.threads - 1;
            let (sender, chunks) = bounded(CHUNKS_WAITING * others);
            let hands: Vec<_> = (0..others)
                .map(|_| {
                    let (shared, chunks) = (&shared, chunks.clone());
                    scope.spawn(move || Hand::new(shared).run(&chunks))
                })
                .collect();
            drop(chunks);
            let mut own = Hand::new(&shared);
            let mut chunk: Vec<Update> = Vec::with_capacity(CHUNK_UPDATES);
            let walk = self.feed.try_each(interval, |update| {
                let full = chunk.len() == CHUNK_UPDATES;
                let elsewhere = |last: &Update| directory(last.file) != directory(update.file);
                if full || chunk.last().is_some_and(elsewhere) {
                    chunk = match sender.try_send(std::mem::take(&mut chunk)) {
                        Ok(()) => Vec::with_capacity(CHUNK_UPDATES),
                        // The others have enough to do, or have given up, and know why.
                        Err(error) => own.write_all(error.into_inner())?,
                    };
                }
                chunk.push(update);
                Ok::<_, SinkError>(())
            });
            // What waits is done by all, to the end.
            drop(sender);
            let own = walk.and_then(|walk| {
                own.write_all(chunk)?;
                Ok((walk, own.finish()?))
            });
            let mut outcomes = hands.into_iter().map(join).collect::<Result<Vec<Outcome>, _>>()?;
            let (walk, outcome) = own?;
            outcomes.push(outcome);
            Ok::<_, SinkError>((walk, outcomes))
        })?;
        let outcome = outcomes.into_iter().fold(Outcome::default(), Outcome::merge);
        Ok(self.feed.commit(interval, walk, outcome))
    }

    fn pace(&mut self, files_per_sec: u32) {
        self.feed.set_pace(files_per_sec);
    }

    fn tend(&mut self, last: bool) -> Result<Receipt, SinkError> {
        let root = self.root()?;
        let (count, waves) = self.feed.due(last);
        let mut outcome = Outcome::default();
        for (span, updates) in waves {
            let shared = Shared::new(&root, span);
            let mut hand = Hand::new(&shared);
            for update in updates {
                if let Err(error) = hand.write(update, AGAIN_MAX) {
                    // All of them wait on, and are tried again in order.
                    let created = outcome.receipt.created + hand.outcome.receipt.created;
                    self.feed.made_in_vain(created);
                    return Err(error);
                }
            }
            outcome = outcome.merge(hand.finish()?);
        }
        let mut receipt = self.feed.made(count, outcome);
        let samples = self.feed.samples();
        if !samples.is_empty() {
            (receipt.lost_after_ack, _) = self.feed.look(samples, true);
        }
        Ok(receipt)
    }

    fn waiting(&self) -> usize {
        self.feed.waiting()
    }

    fn waits_since_secs(&self) -> Option<u64> {
        self.feed.waits_since_secs()
    }

    fn give_up(&mut self) -> u64 {
        self.feed.give_up()
    }

    fn describe(&self) -> String {
        format!("RRD files below {}", self.feed.tree().root().display())
    }

    fn findings(&self) -> Vec<Finding> {
        self.feed.findings()
    }
}

/// What tells the directories of the tree apart, in the order of the paths.
fn directory(file: File) -> (u8, u8, u32) {
    let (protocol, unit) = file.family();
    let family = protocol as u8 * 2 + unit as u8;
    match file {
        File::Aggregate { .. } => (family, 0, 0),
        File::Individual { .. } => (family, 1, 0),
        File::Pair { vli, .. } => (family, 2, vli.0),
    }
}

/// What the threads share while they write an interval.
struct Shared<'a> {
    root: &'a Path,
    span: Span,
    /// One thread at a time: they slow each other down in it.
    librrd: Mutex<()>,
    /// One of them has met an error that concerns all.
    broken: AtomicBool,
}

impl<'a> Shared<'a> {
    fn new(root: &'a Path, span: Span) -> Shared<'a> {
        Shared { root, span, librrd: Mutex::new(()), broken: AtomicBool::new(false) }
    }
}

/// A thread that writes.
struct Hand<'a> {
    shared: &'a Shared<'a>,
    outcome: Outcome,
    again: Vec<Update>,
    /// The directory of the last file, and its handle if it is there.
    directory: Option<((u8, u8, u32), Option<OwnedFd>)>,
    path: Vec<u8>,
    header: Header,
    rows: Vec<Rows>,
    decimals: Vec<u8>,
}

/// Why a file did not take its update.
enum Trouble {
    /// It is not there.
    Missing,
    /// Somebody has locked it.
    Locked,
    /// Its last update, in seconds since 1970, is not before the interval's end.
    NotAfter(u64),
    /// It is not of our schema.
    Foreign(Foreign),
    /// The operating system.
    Error(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::NotFound => Trouble::Missing,
            _ => Trouble::Error(error),
        }
    }
}

impl<'a> Hand<'a> {
    fn new(shared: &'a Shared<'a>) -> Hand<'a> {
        Hand {
            shared,
            outcome: Outcome::default(),
            again: Vec::new(),
            directory: None,
            path: Vec::new(),
            header: Header::new(),
            rows: Vec::new(),
            decimals: Vec::new(),
        }
    }

    /// Writes all chunks; what it did with them.
    fn run(mut self, chunks: &Receiver<Vec<Update>>) -> Result<Outcome, SinkError> {
        for chunk in chunks {
            self.write_all(chunk)?;
        }
        self.finish()
    }

    /// Writes a chunk, and gives its room back.
    fn write_all(&mut self, mut chunk: Vec<Update>) -> Result<Vec<Update>, SinkError> {
        for update in chunk.drain(..) {
            // An error of another thread: the interval is given again.
            if self.shared.broken.load(Ordering::Relaxed) {
                break;
            }
            self.write(update, AGAIN_MAX)?;
        }
        Ok(chunk)
    }

    /// Tries files that were locked again; what became of all.
    fn finish(mut self) -> Result<Outcome, SinkError> {
        let mut wait = FIRST_WAIT;
        for left in (0..TRIES).rev() {
            let again = std::mem::take(&mut self.again);
            if again.is_empty() || self.shared.broken.load(Ordering::Relaxed) {
                break;
            }
            thread::sleep(wait);
            wait *= 2;
            for update in again {
                self.write(update, if left == 0 { 0 } else { AGAIN_MAX })?;
            }
        }
        Ok(self.outcome)
    }

    /// Writes an update, and accounts for it; if the file is locked, and fewer than `again_max`
    /// updates wait for another try, by keeping it.
    fn write(&mut self, update: Update, again_max: usize) -> Result<(), SinkError> {
        let mut exists = update.known;
        let mut made = false;
        loop {
            let result = if exists || made {
                self.update_file(&update, exists)
            } else {
                Err(Trouble::Missing)
            };
            match result {
                Ok(()) => self.outcome.accepted(&update),
                Err(Trouble::NotAfter(last_secs)) => {
                    self.outcome.not_after(&update, &self.shared.span, last_secs);
                }
                Err(Trouble::Locked) if self.again.len() < again_max => self.again.push(update),
                Err(Trouble::Locked) => self.outcome.refused(&update, LOCKED),
                Err(Trouble::Missing) if !update.is_wanted() => self.outcome.gone(&update),
                Err(Trouble::Missing) if !made => {
                    made = true;
                    match self.make(&update) {
                        Ok(new) => exists = !new,
                        Err(error) if concerns_all(&error) => {
                            return Err(self.broken(&update, error));
                        }
                        Err(error) => {
                            self.outcome.refused(&update, format!("cannot be made: {error}"));
                            return Ok(());
                        }
                    }
                    continue;
                }
                Err(Trouble::Missing) => {
                    self.outcome.refused(&update, "deleted while it was written");
                }
                Err(Trouble::Foreign(Foreign::Schema(_))) => self.hand_over(update, again_max),
                Err(Trouble::Foreign(foreign)) => {
                    self.outcome.refused(&update, foreign.to_string());
                }
                Err(Trouble::Error(error)) if concerns_all(&error) => {
                    return Err(self.broken(&update, error));
                }
                Err(Trouble::Error(error)) => self.outcome.refused(&update, error.to_string()),
            }
            return Ok(());
        }
    }

    /// An error that concerns all: no thread need try further files.
    fn broken(&self, update: &Update, error: io::Error) -> SinkError {
        self.shared.broken.store(true, Ordering::Relaxed);
        let target = update.file.path(self.shared.root).display().to_string();
        SinkError::Unreachable { target, error }
    }

    /// Makes a file, unless it is there; whether it has had no update.
    fn make(&mut self, update: &Update) -> io::Result<bool> {
        let path = update.file.path(self.shared.root);
        let made = file::create(&path, self.shared.span.creation_secs())?;
        self.outcome.receipt.created += u64::from(made);
        // It may be ours, from an attempt that failed.
        let fresh = made || is_unfed(&path, self.shared.span.creation_secs());
        // Its directory may be new.
        self.directory = None;
        Ok(fresh)
    }

    /// Leaves a file to librrd.
    fn hand_over(&mut self, update: Update, again_max: usize) {
        let Shared { root, span, librrd, .. } = self.shared;
        // Nothing is behind the lock that a panic could leave half done.
        let _one = librrd.lock().unwrap_or_else(PoisonError::into_inner);
        match librrd::write_one(root, &update, span, &mut self.outcome) {
            Ok(()) => {}
            Err(reason) if is_locked(&reason) && self.again.len() < again_max => {
                self.again.push(update);
            }
            Err(reason) if is_locked(&reason) => self.outcome.refused(&update, LOCKED),
            Err(reason) => self.outcome.refused(&update, reason),
        }
    }

    /// Updates a file of our schema; `exists`: it was not just made.
    fn update_file(&mut self, update: &Update, exists: bool) -> Result<(), Trouble> {
        let file = self.open(update.file)?;
        if !try_lock(&file)? {
            return Err(Trouble::Locked);
        }
        // Its length, for less than fstat(2) takes.
        let file_bytes = (&file).seek(SeekFrom::End(0))?;
        match file.read_exact_at(self.header.bytes_mut(), 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Trouble::Foreign(Foreign::Unreadable("it is shorter than a header")));
            }
            result => result?,
        }
        self.header.check(file_bytes).map_err(Trouble::Foreign)?;
        let span = &self.shared.span;
        let last_secs = self.header.last_update_secs();
        if last_secs >= span.to_secs {
            return Err(Trouble::NotAfter(last_secs));
        }
        self.rows.clear();
        let lead = match update.lead(span, exists) {
            Lead::None => None,
            Lead::Unknown => Some(Reading::UNKNOWN),
            Lead::Zero => Some(Reading::ZERO),
        };
        // Else it is there already, or the file is ahead of it.
        if let Some(lead) = lead.filter(|_| last_secs < span.from_secs) {
            self.header.update(span.from_secs, &[lead; 2], &mut self.rows);
        }
        let readings =
            update.totals.map(|total| Reading::rate(total, span.secs(), &mut self.decimals));
        self.header.update(span.to_secs, &readings, &mut self.rows);
        self.header.try_each_write(&self.rows, |bytes, at| file.write_all_at(bytes, at))?;
        Ok(())
    }

    /// Opens a file by its directory, which is kept open for the next.
    fn open(&mut self, file: File) -> io::Result<fs::File> {
        self.path.clear();
        file.write_path(&mut self.path);
        let name_at = self.path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let wanted = directory(file);
        if self.directory.as_ref().is_none_or(|(open, _)| *open != wanted) {
            let below = Path::new(OsStr::from_bytes(&self.path[..name_at]));
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let handle = match open(&self.shared.root.join(below), flags, Mode::empty()) {
                Ok(handle) => Some(handle),
                Err(Errno::ENOENT) => None,
                Err(error) => return Err(error.into()),
            };
            self.directory = Some((wanted, handle));
        }
        let Some((_, Some(directory))) = &self.directory else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let handle = openat(directory, &self.path[name_at..], flags, Mode::empty())?;
        Ok(fs::File::from(handle))
    }
}

/// Takes the write lock of the whole file that librrd takes; false: somebody else has one.
fn try_lock(file: &fs::File) -> io::Result<bool> {
    let whole = libc::flock {
        // The constant fits into the field that it is made for; so does SEEK_SET, which is 0.
        l_type: libc::F_WRLCK.try_into().unwrap_or_default(),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
        #[cfg(target_os = "freebsd")]
        l_sysid: 0,
    };
    // A lock of this open file alone, which FreeBSD does not have: there it is the process's.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let lock = FcntlArg::F_OFD_SETLK(&whole);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let lock = FcntlArg::F_SETLK(&whole);
    match fcntl(file, lock) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
