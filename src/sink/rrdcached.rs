//! rrdcached: updates over its socket.
//!
//! **Speaking.** What the daemon allows is learned on every connection: the `-P FLUSH,UPDATE` of
//! IXP Manager's documentation refuses `BATCH` and `CREATE`. With `BATCH` a chunk of updates is one
//! exchange; without it the same lines are pipelined while a second thread reads nothing but
//! answers: rrdcached writes every answer before it reads on, so that whoever only writes ends in
//! a deadlock. A chunk is at most [`CHUNK_LINES`] updates.
//!
//! **Waiting.** After its start the daemon accepts connections at once, but answers only when its
//! journal is replayed, which can take minutes: an answer is waited for up to
//! [`Settings::timeout`], and once the stop flag is raised for [`LAST_WAIT`].
//!
//! **Again.** After an error the whole interval is given again. That does no harm: the daemon
//! answers "illegal attempt to update" with the file's last update, and one that is not before
//! ours means that ours is there. A daemon that was killed loses what its journal had not yet on
//! disk, the last 4 kB of it, and without a journal all that it had not written: so behind a new
//! connection the caller is asked for what it gave lately ([`SinkError::Renewed`]).
//!
//! **Doubt.** A daemon that was killed may also believe to have what it has not. Its journal says
//! `wrote FILE` when a write is over, and the replay throws away all that stands before that, an
//! update too that came while the file was being written. It remembers its stamp nevertheless, and
//! refuses the same update as one that it has. So behind a new connection, until an interval is
//! written that was never given before, the files tell: where the last update is before ours, the
//! daemon is told to write the file, and if that does not bring it there, to forget it; then it
//! asks the file itself. (Where a later update had come before the kill, the file has that, and
//! nothing tells that one is missing before it.)
//!
//! **Making files.** The history of a new file must be zeros. Files made here ([`file::create`])
//! have that and are quick (tens of thousands a second), but the daemon must be able to write
//! them. That is tried out on every connection with a file at the root of the tree and an update
//! that is always too old: if the answer is "illegal attempt", the daemon has opened it for
//! writing. (The credentials of the socket don't tell: they are those of the moment of listen(2),
//! before rrdcached changes to the user of its option -U.)
//!
//! Else, where `CREATE` is allowed, the daemon makes the files, with `-b START -r ZERO`; ZERO is
//! the same file at the root, its last update being START, a multiple of the step. rrdcached 1.7.2
//! then shows zeros in all rows of all archives, no unknown steps, and START as last update. (With
//! a ZERO that ends earlier, the time between is unknown; with a START inside a step, the seconds
//! since the step's begin.) It makes some 700 files a second so, and their directories only with
//! its option -R. `-O` is always given: without it an existing file would be overwritten.
//!
//! Where neither holds, files are made here all the same, and refused by the daemon by name.
//!
//! **Elsewhere.** A daemon on TCP may be on another host, and the tree with it: so it is where the
//! root is not there, or is empty and the daemon does not see the file of the trial in it. Of such
//! a tree ZERO cannot be written: there the history of a new file is unknown, not zero, and the
//! files of idle pairs are fed from their first traffic after our start. Nothing is made here.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};
use tracing::{info, warn};

use crate::finding::Finding;
use crate::flush::Interval;
use crate::sink::header::{Fitness, examine, is_unfed, last_update};
use crate::sink::librrd::is_locked;
use crate::sink::{
    ARCHIVES, Aggregates, Create, DATA_SOURCES, Feed, File, HEARTBEAT_SECS, LAST_WAIT, Lead,
    NO_ROOM, Outcome, Receipt, STEP_SECS, Sample, Share, Sink, SinkError, Span, Tree, Update,
    XFILES_FACTOR, concerns_all, file, last_update_secs,
};

/// Updates in one exchange, at the most: as fast as ten thousand, and little to lose.
pub const CHUNK_LINES: usize = 1000;

/// The port of rrdcached on TCP (rrdcached(1), option -l).
pub const DEFAULT_PORT: u16 = 42217;

/// Bytes of a batch that are sent before the next are made: rrdcached reads eight kilobytes at once.
const PART_BYTES: usize = 32 << 10;

/// Bytes of a command's arguments, at the most: the journal of rrdcached cuts a line at 4,096.
const ARGUMENTS_MAX: usize = 4000;

/// Bytes of an update's arguments behind the root, at the most: the path (under 100 with ids of
/// ten digits), two stamps, and four values of twenty digits and a point.
const ARGUMENTS_BEHIND_ROOT_MAX: usize = 100 + 2 * 22 + 4 * 23;

/// How often the stop flag is looked at while waiting.
const TICK: Duration = Duration::from_millis(500);

/// Updates of an interval that get a second try because the file was locked, at the most.
const AGAIN_MAX: usize = 100_000;

/// How long a write is waited for that the daemon has begun, before what is not there is held for
/// lost: FLUSH does not wait for it. Of one file it takes milliseconds.
const WRITE_WAIT: Duration = Duration::from_secs(2);

/// How often a file is looked at in that time.
const WRITE_TICK: Duration = Duration::from_millis(20);

/// Where rrdcached listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String, u16),
}

/// The text is not an address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected unix:/path, /path, host or host:port")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    /// As rrdcached(1), option -l: `unix:/path`, `/path`, `host`, `host:port`, `[IPv6]:port`.
    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Some(path) = text.strip_prefix("unix:").or(text.starts_with('/').then_some(text)) {
            return if path.is_empty() {
                Err(AddressError)
            } else {
                Ok(Address::Unix(path.into()))
            };
        }
        // What is behind the host: nothing, or a colon and the port.
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(AddressError)?,
            None if text.matches(':').count() == 1 => text.split_at(text.find(':').unwrap_or(0)),
            None => (text, ""),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| AddressError)?,
            None if port.is_empty() => DEFAULT_PORT,
            None => return Err(AddressError),
        };
        if host.is_empty() { Err(AddressError) } else { Ok(Address::Tcp(host.into(), port)) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// What the sink needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where rrdcached listens.
    pub address: Address,
    /// The root of the tree, as the daemon sees it.
    pub root: PathBuf,
    /// The part of the tree that goes through this daemon.
    pub share: Share,
    /// When files are made.
    pub create: Create,
    /// Whose aggregates have files.
    pub aggregates: Aggregates,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// What a daemon allows on a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abilities {
    /// Many commands in one exchange.
    pub batch: bool,
    /// Making files.
    pub create: bool,
}

/// What a daemon allows on a socket, and what it says of itself, for `ixflow check`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Inspection {
    /// The commands of ours that are allowed, of UPDATE, CREATE, BATCH and FLUSH.
    pub allowed: Vec<&'static str>,
    /// Every command that it knows, allowed or not (HELP), which tells its version; empty where it
    /// does not answer.
    pub known: Vec<String>,
    /// What it has done, by name (STATS); empty where that is not allowed.
    pub stats: Vec<(String, u64)>,
    /// Its answers to updates that are always too old, by file; empty where UPDATE is not allowed.
    pub trials: Vec<(PathBuf, Trial)>,
}

/// A daemon's answer to an update that is always too old, and therefore changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trial {
    /// It has opened the file for writing.
    Writable,
    /// The path is within its base directory (option -b), if it has one; there is no such file.
    NoFile,
    /// Whatever else it says.
    Refused(String),
}

/// Asks a daemon what it allows, without a change to anything: commands without arguments, and
/// updates of `files` with the stamp 1.
///
/// # Errors
///
/// It does not answer within `timeout`: it is not there, or replays its journal.
pub fn inspect(
    address: &Address,
    files: &[PathBuf],
    timeout: Duration,
) -> Result<Inspection, SinkError> {
    let stop = Arc::new(AtomicBool::new(false));
    // A connection for each: an answer to an incomplete command may have a second line, by
    // version.
    let ask = |line: &[u8]| -> Result<Vec<String>, SinkError> {
        let mut connection = Connection::open(address, timeout, &stop)?;
        connection.wait.write_all(&mut connection.writer, line)?;
        let first = connection.read_line()?;
        let more = first.split(' ').next().and_then(|status| status.parse::<usize>().ok());
        let mut lines = vec![first];
        for _ in 0..more.unwrap_or(0).min(INSPECTION_LINES_MAX) {
            lines.push(connection.read_line()?);
        }
        Ok(lines)
    };
    let mut inspection = Inspection::default();
    for name in ["UPDATE", "CREATE", "FLUSH"] {
        if ask(format!("{name}\n").as_bytes())?[0].starts_with("-1 Usage") {
            inspection.allowed.push(name);
        }
    }
    if ask(b"BATCH\n")?[0].starts_with('0') {
        inspection.allowed.push("BATCH");
    }
    let name = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
    inspection.known = ask(b"HELP\n")?.iter().skip(1).map(name).collect();
    let figure = |line: &String| {
        let (name, figure) = line.split_once(": ")?;
        Some((name.to_owned(), figure.parse().ok()?))
    };
    inspection.stats = ask(b"STATS\n")?.iter().skip(1).filter_map(figure).collect();
    if inspection.allowed.contains(&"UPDATE") {
        for file in files {
            let mut line = b"UPDATE ".to_vec();
            push_escaped(&mut line, file);
            line.extend_from_slice(b" 1:0:0\n");
            let answer = ask(&line)?.swap_remove(0);
            let trial = if last_update_secs(&answer).is_some() {
                Trial::Writable
            } else if answer.contains("No such file") {
                Trial::NoFile
            } else {
                Trial::Refused(answer)
            };
            inspection.trials.push((file.clone(), trial));
        }
    }
    Ok(inspection)
}

/// Lines of an answer that [`inspect`] reads.
const INSPECTION_LINES_MAX: usize = 100;

/// Writes through an rrdcached.
#[derive(Debug)]
pub struct Rrdcached {
    address: Address,
    timeout: Duration,
    stop: Arc<AtomicBool>,
    feed: Feed,
    /// The name of the file with a history of zeros that the daemon copies.
    zero_name: String,
    /// The root as it was named.
    root: PathBuf,
    /// The root, escaped, with a slash behind.
    prefix: Vec<u8>,
    connection: Option<Connection>,
    /// Connected anew, or most of what was looked at is lost, and no interval was written since that
    /// was not given before.
    renewed: bool,
    /// What was logged of the daemon last.
    announced: Option<(Abilities, Maker)>,
    /// The step that the source of zeros ends with, once it was written.
    zero_secs: Option<u64>,
}

/// Who makes files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Maker {
    Ourselves,
    Daemon,
}

impl Rrdcached {
    /// Writes as `settings` say; `stop` says that the daemon is to end. Connects at the first
    /// interval.
    ///
    /// The root must exist, unless the daemon is on TCP: then it may be on another host. An error
    /// too if the root's path is too long for rrdcached's journal.
    pub fn new(settings: Settings, stop: Arc<AtomicBool>) -> io::Result<Rrdcached> {
        let tree = match (Tree::open(&settings.root), &settings.address) {
            (Err(error), Address::Tcp(..)) if error.kind() == io::ErrorKind::NotFound => {
                Tree::remote(&settings.root)
            }
            (tree, _) => tree?,
        };
        let prefix = prefix(tree.root());
        let longest = prefix.len().max(self::prefix(&settings.root).len());
        if longest + ARGUMENTS_BEHIND_ROOT_MAX > ARGUMENTS_MAX || prefix.contains(&b'\n') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidFilename,
                "rrdcached cannot take the path of the RRD tree",
            ));
        }
        // Each of several sinks has its own.
        let zero_name = match settings.share.number() {
            0 => ".ixflow-zero.rrd".to_owned(),
            number => format!(".ixflow-zero-{number}.rrd"),
        };
        let mut feed =
            Feed::new(tree, settings.share, settings.create).with_aggregates(settings.aggregates);
        feed.set_stop(stop.clone());
        Ok(Rrdcached {
            zero_name,
            address: settings.address,
            timeout: settings.timeout,
            stop,
            root: settings.root,
            feed,
            prefix,
            connection: None,
            renewed: false,
            announced: None,
            zero_secs: None,
        })
    }
}

impl Sink for Rrdcached {
    fn write(&mut self, interval: &Interval) -> Result<Receipt, SinkError> {
        let reused = self.connection.is_some();
        match self.write_once(interval) {
            // The daemon was restarted since the last interval, which shows only now.
            Err(SinkError::Unreachable { error, .. })
                if reused && error.kind() != io::ErrorKind::TimedOut =>
            {
                self.write_once(interval)
            }
            result => result,
        }
    }

    fn pace(&mut self, files_per_sec: u32) {
        self.feed.set_pace(files_per_sec);
    }

    fn tend(&mut self, last: bool) -> Result<Receipt, SinkError> {
        // A new connection is the business of `write`, which says so.
        if self.connection.is_none() && self.announced.is_some() && !last {
            return Ok(Receipt::default());
        }
        let mut receipt = self.make_files(last)?;
        let samples = self.feed.samples();
        if !samples.is_empty() {
            let looked_at = samples.len() as u64;
            receipt.lost_after_ack = self.look(samples)?;
            receipt.is_relapse = receipt.lost_after_ack * 2 > looked_at;
            self.renewed |= receipt.is_relapse;
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
        let how = match self.announced {
            None => "not yet connected",
            Some((Abilities { batch: true, .. }, _)) => "in batches",
            Some((Abilities { batch: false, .. }, _)) => "pipelined",
        };
        format!(
            "RRD files below {}, through rrdcached at {}, {how}",
            self.feed.tree().root().display(),
            self.address
        )
    }

    fn findings(&self) -> Vec<Finding> {
        self.feed.findings()
    }
}

impl Rrdcached {
    /// Makes the daemon forget files, with what it has not yet written of them. False: it does not
    /// allow that on this socket.
    pub fn forget(&mut self, files: &[File]) -> Result<bool, SinkError> {
        let open = || Connection::open(&self.address, self.timeout, &self.stop);
        let abilities = open()?.probe()?;
        let mut connection = Connection { abilities, ..open()? };
        connection.command("FORGET", &self.prefix, files)
    }

    fn write_once(&mut self, interval: &Interval) -> Result<Receipt, SinkError> {
        self.feed.prepare(interval)?;
        let span = self.feed.span(interval);
        // Taken out, so that an error leaves no connection behind with answers unread.
        let renewed = self.connection.is_none() && self.announced.is_some();
        let connection = self.connect(&span)?;
        if renewed {
            self.connection = Some(connection);
            self.renewed = true;
            return Err(SinkError::Renewed { target: format!("rrdcached at {}", self.address) });
        }
        let zero = self.zero_for(&connection, &span);
        let tree = self.feed.tree();
        let mut writer =
            Writer::new(connection, &self.prefix, tree, zero, span, Outcome::default());
        writer.doubts = self.renewed && tree.is_local();
        let mut chunk = Vec::with_capacity(CHUNK_LINES);
        let walk = self.feed.try_each(interval, |update| {
            chunk.push(Attempt::new(update));
            if chunk.len() == CHUNK_LINES { writer.write(&mut chunk) } else { Ok(()) }
        });
        let walk = walk.and_then(|walk| {
            writer.write(&mut chunk)?;
            writer.finish()?;
            Ok(walk)
        });
        let Writer { connection, outcome, answered, .. } = writer;
        // Where the tree is full, that says nothing of the connection.
        self.connection = answered.then_some(connection);
        let walk = walk?;
        let is_new = self.feed.is_new(interval);
        let receipt = self.feed.commit(interval, walk, outcome);
        self.renewed &= !is_new || receipt.is_refusal();
        Ok(receipt)
    }

    /// Makes the files whose turn it is, and writes what waits behind them.
    fn make_files(&mut self, last: bool) -> Result<Receipt, SinkError> {
        let (count, waves) = self.feed.due(last);
        let mut outcome = Outcome::default();
        for (span, updates) in waves {
            let connection = self.connect(&span)?;
            let zero = self.zero_for(&connection, &span);
            let mut writer =
                Writer::new(connection, &self.prefix, self.feed.tree(), zero, span, outcome);
            let written = writer.write_all(updates);
            let Writer { connection, outcome: so_far, answered, .. } = writer;
            outcome = so_far;
            // Where the tree is full, that says nothing of the connection.
            self.connection = answered.then_some(connection);
            if let Err(error) = written {
                // All of them wait on, and are tried again in order.
                self.feed.made_in_vain(outcome.receipt.created);
                return Err(error);
            }
        }
        Ok(self.feed.made(count, outcome))
    }

    /// Looks whether files have what was acknowledged, after the daemon was told to write them,
    /// where it allows that. Those that do not exist any more it is told to forget: it would go on
    /// acknowledging their updates.
    fn look(&mut self, samples: Vec<Sample>) -> Result<u64, SinkError> {
        // Files are made by `write` alone: any step will do.
        let Some(first) = samples.first() else { return Ok(0) };
        let from_secs = first.to_secs - STEP_SECS;
        let span = Span { from_secs, to_secs: first.to_secs, after_hole: false };
        let mut connection = self.connect(&span)?;
        let files: Vec<File> = samples.iter().map(|sample| sample.file).collect();
        let asked = connection.command("FLUSH", &self.prefix, &files)?;
        let (lost, missing) = self.feed.look(samples, asked);
        if !missing.is_empty() {
            connection.command("FORGET", &self.prefix, &missing)?;
        }
        self.connection = Some(connection);
        Ok(lost)
    }

    fn zero_for(&mut self, connection: &Connection, span: &Span) -> Option<PathBuf> {
        match connection.maker {
            Maker::Ourselves => None,
            Maker::Daemon => self.write_zero(span).ok(),
        }
    }

    /// The connection, a new one if need be.
    fn connect(&mut self, span: &Span) -> Result<Connection, SinkError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let open = || Connection::open(&self.address, self.timeout, &self.stop);
        let abilities = open()?.probe()?;
        let mut connection = Connection { abilities, ..open()? };
        let mut zero = self.write_zero(span);
        let mut answer = match &zero {
            Err(error) => format!("{}: {error}", self.feed.tree().root().display()),
            Ok(path) => {
                let mut line = b"UPDATE ".to_vec();
                push_escaped(&mut line, path);
                line.extend_from_slice(b" 1:0:0\n");
                let mut answer = String::new();
                connection.exchange(&line, 1, |_, error| answer = error.unwrap_or_default())?;
                answer
            }
        };
        if let Ok(path) = &zero
            && matches!(self.address, Address::Tcp(..))
            && answer.contains("No such file")
            && self.feed.tree().is_empty()
        {
            let _ = fs::remove_file(path);
            self.zero_secs = None;
            zero = Err(io::ErrorKind::NotFound.into());
            answer = format!("{}: rrdcached has another directory there", self.root.display());
            self.feed.set_tree(Tree::remote(&self.root));
            self.prefix = prefix(&self.root);
        }
        let writes_ours = last_update_secs(&answer).is_some();
        if let (Ok(path), true) = (&zero, writes_ours) {
            // It was for the trial only.
            self.zero_secs = None;
            let _ = fs::remove_file(path);
        }
        connection.maker =
            if abilities.create && !writes_ours { Maker::Daemon } else { Maker::Ourselves };
        let announcement = (abilities, connection.maker);
        if self.announced != Some(announcement) {
            self.announced = Some(announcement);
            let Abilities { batch, create } = abilities;
            let files_made_by = match connection.maker {
                Maker::Ourselves => "ixflow",
                Maker::Daemon => "rrdcached",
            };
            info!(address = %self.address, batch, create, files_made_by, "connected to rrdcached");
            match connection.maker {
                Maker::Daemon if zero.is_err() => {
                    warn!(%answer, "the history of new files will be unknown, not zero");
                }
                Maker::Ourselves if !writes_ours => {
                    warn!(%answer, "rrdcached may not CREATE files, and may refuse new ones");
                }
                _ => {}
            }
        }
        Ok(connection)
    }

    /// Makes the file of zeros that ends with this interval's first step.
    fn write_zero(&mut self, span: &Span) -> io::Result<PathBuf> {
        let tree = self.feed.tree();
        if !tree.is_local() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let path = tree.root().join(&self.zero_name);
        let start_secs = span.creation_secs();
        if self.zero_secs != Some(start_secs) {
            file::replace(&path, start_secs)?;
            self.zero_secs = Some(start_secs);
        }
        Ok(path)
    }
}

/// One update on its way.
struct Attempt {
    update: Update,
    /// Whether the file is there, as far as we know.
    exists: bool,
    /// Whether it was tried to make it.
    made: bool,
    /// The value in front of the rate is there already.
    without_lead: bool,
    /// It has been put off before.
    second: bool,
    /// Why the file could not be made.
    reason: Option<String>,
    /// Why the file cannot be fed.
    unfit: Option<String>,
}

impl Attempt {
    fn new(update: Update) -> Attempt {
        let exists = update.known;
        Attempt {
            update,
            exists,
            made: false,
            without_lead: false,
            second: false,
            reason: None,
            unfit: None,
        }
    }

    fn lead(&self, span: &Span) -> Lead {
        if self.without_lead { Lead::None } else { self.update.lead(span, self.exists) }
    }
}

/// Writes one interval.
struct Writer<'a> {
    connection: Connection,
    prefix: &'a [u8],
    tree: &'a Tree,
    zero: Option<PathBuf>,
    span: Span,
    outcome: Outcome,
    again: Vec<Update>,
    /// An update is not believed to be there because the daemon says so.
    doubts: bool,
    /// Updates of this chunk that the daemon says to have, with the last update that it names; the
    /// files have not got them.
    doubted: Vec<(Update, u64)>,
    /// Those that did not get there when the daemon was told to write them.
    missing: Vec<Update>,
    lines: Vec<u8>,
    /// No answer is missing.
    answered: bool,
}

/// What the command of a line is for: the index of its attempt.
#[derive(Clone, Copy)]
enum Command {
    Create(usize),
    Update(usize),
}

impl<'a> Writer<'a> {
    fn new(
        connection: Connection,
        prefix: &'a [u8],
        tree: &'a Tree,
        zero: Option<PathBuf>,
        span: Span,
        outcome: Outcome,
    ) -> Writer<'a> {
        Writer {
            connection,
            prefix,
            tree,
            zero,
            span,
            outcome,
            again: Vec::new(),
            doubts: false,
            doubted: Vec::new(),
            missing: Vec::new(),
            lines: Vec::with_capacity(CHUNK_LINES * 256),
            answered: true,
        }
    }

    /// Sends updates, and some of them once more.
    fn write_all(&mut self, updates: Vec<Update>) -> Result<(), SinkError> {
        let mut updates = updates.into_iter().map(Attempt::new).peekable();
        while updates.peek().is_some() {
            self.write(&mut updates.by_ref().take(CHUNK_LINES).collect())?;
        }
        self.finish()
    }

    /// Sends once more the updates of files that were locked, and those that the daemon has lost
    /// and believes to have.
    fn finish(&mut self) -> Result<(), SinkError> {
        let locked = std::mem::take(&mut self.again);
        self.write_again(&locked)?;
        let mut lost = std::mem::take(&mut self.missing);
        let since = Instant::now();
        loop {
            lost.retain(|update| !self.is_there(update));
            if lost.is_empty() {
                return Ok(());
            }
            if since.elapsed() >= WRITE_WAIT {
                break;
            }
            thread::park_timeout(WRITE_TICK);
        }
        if !self.command("FORGET", lost.iter())? {
            for update in &lost {
                let reason = "rrdcached was killed and has lost it, does not take it again, and \
                              does not allow FORGET on this socket";
                self.outcome.refused(update, reason);
            }
            return Ok(());
        }
        self.doubts = false;
        self.write_again(&lost)?;
        // Not together with what comes next: were it a mistake after all, the file would refuse
        // both.
        self.command("FLUSH", lost.iter())?;
        self.outcome.receipt.sum_up();
        let in_vain = lost.iter().filter(|update| self.last_in_file(update) < self.span.to_secs);
        if in_vain.count() as u64 * 2 > self.outcome.receipt.updates {
            return Err(SinkError::Unusable {
                target: format!("rrdcached below {}", self.tree.root().display()),
                answer: "it takes updates and does not write them: is the tree read-only, its \
                         disk full?"
                    .into(),
            });
        }
        Ok(())
    }

    fn write_again(&mut self, updates: &[Update]) -> Result<(), SinkError> {
        for chunk in updates.chunks(CHUNK_LINES) {
            let second = |&update| Attempt { second: true, ..Attempt::new(update) };
            self.write(&mut chunk.iter().map(second).collect())?;
        }
        Ok(())
    }

    /// Gives a command for the files of updates. False: it is not allowed.
    fn command<'u>(
        &mut self,
        command: &str,
        updates: impl Iterator<Item = &'u Update>,
    ) -> Result<bool, SinkError> {
        let files: Vec<File> = updates.map(|update| update.file).collect();
        self.answered = false;
        let allowed = self.connection.command(command, self.prefix, &files)?;
        self.answered = true;
        Ok(allowed)
    }

    /// The last update of the file itself, in seconds since 1970; 0: there is none. What cannot be
    /// read is believed.
    fn last_in_file(&self, update: &Update) -> u64 {
        match last_update(&update.file.path(self.tree.root())) {
            Ok(last) => last,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(_) => self.span.to_secs,
        }
    }

    /// Whether the file itself has an update, which is accounted for then.
    fn is_there(&mut self, update: &Update) -> bool {
        let last = self.last_in_file(update);
        let is_there = last >= self.span.to_secs;
        if is_there {
            self.outcome.not_after(update, &self.span, last);
        }
        is_there
    }

    /// Has the daemon write the files that lack what it says to have.
    fn look_at_doubted(&mut self) -> Result<(), SinkError> {
        let doubted = std::mem::take(&mut self.doubted);
        if doubted.is_empty() {
            return Ok(());
        }
        self.doubts = self.command("FLUSH", doubted.iter().map(|(update, _)| update))?;
        for (update, last) in doubted {
            if !self.doubts {
                self.outcome.not_after(&update, &self.span, last);
            } else if !self.is_there(&update) {
                self.missing.push(update);
            }
        }
        Ok(())
    }

    /// Sends a chunk until every update of it is accounted for; leaves it empty.
    fn write(&mut self, chunk: &mut Vec<Attempt>) -> Result<(), SinkError> {
        // Missing, made, its lead there already: three rounds, and one to spare.
        const ROUNDS_MAX: usize = 4;
        for _ in 0..ROUNDS_MAX {
            if !chunk.is_empty() {
                *chunk = self.round(std::mem::take(chunk))?;
            }
        }
        for attempt in chunk.drain(..) {
            self.outcome.refused(&attempt.update, "rrdcached's answers contradict each other");
        }
        self.look_at_doubted()
    }

    /// Sends every update once; returns those that have to be sent again.
    fn round(&mut self, mut chunk: Vec<Attempt>) -> Result<Vec<Attempt>, SinkError> {
        if self.connection.maker == Maker::Ourselves {
            // Before anything is sent, so that an error leaves nothing half said.
            for attempt in chunk.iter_mut().filter(|attempt| !attempt.exists && !attempt.made) {
                attempt.made = true;
                self.make(attempt)?;
            }
        }
        let mut commands = Vec::with_capacity(chunk.len());
        self.lines.clear();
        for (index, attempt) in chunk.iter_mut().enumerate() {
            if attempt.unfit.is_some() {
                continue;
            }
            if !attempt.exists && !attempt.made {
                attempt.made = true;
                self.push_create(attempt);
                commands.push(Command::Create(index));
            }
            let lead = attempt.lead(&self.span);
            self.lines.extend_from_slice(b"UPDATE ");
            self.lines.extend_from_slice(self.prefix);
            attempt.update.file.write_path(&mut self.lines);
            self.lines.push(b' ');
            attempt.update.write_values(&self.span, lead, &mut self.lines);
            self.lines.push(b'\n');
            commands.push(Command::Update(index));
            if self.connection.abilities.batch && self.lines.len() >= PART_BYTES {
                // It works on these while the next are made.
                self.answered = false;
                self.connection.send_part(&self.lines)?;
                self.lines.clear();
            }
        }
        let mut errors: Vec<Option<String>> = vec![None; chunk.len()];
        let mut made = 0;
        self.answered = false;
        self.connection.exchange(&self.lines, commands.len(), |line, error| {
            match (commands[line], error) {
                (Command::Update(index), error) => errors[index] = error,
                (Command::Create(_), None) => made += 1,
                (Command::Create(index), Some(error)) => chunk[index].reason = Some(error),
            }
        })?;
        self.answered = true;
        self.outcome.receipt.created += made;

        let mut next = Vec::new();
        for (mut attempt, error) in chunk.into_iter().zip(errors) {
            if let Some(why) = attempt.unfit.take() {
                self.outcome.refused(&attempt.update, why);
                continue;
            }
            match error {
                None => self.outcome.accepted(&attempt.update),
                Some(error) => next.extend(self.resolve(attempt, error)?),
            }
        }
        Ok(next)
    }

    /// What to do about an update that was not accepted: it is returned if it has to be sent
    /// again, else accounted for.
    fn resolve(
        &mut self,
        mut attempt: Attempt,
        error: String,
    ) -> Result<Option<Attempt>, SinkError> {
        if error == PERMISSION_DENIED {
            // Not of this file: of the command (option -P).
            let answer = "UPDATE is not allowed on this socket".to_owned();
            return Err(self.connection.unusable(answer));
        }
        if let Some(last) = last_update_secs(&error) {
            if last >= self.span.to_secs {
                if !self.doubts {
                    self.outcome.not_after(&attempt.update, &self.span, last);
                } else if !self.is_there(&attempt.update) {
                    self.doubted.push((attempt.update, last));
                }
                return Ok(None);
            }
            if attempt.lead(&self.span) != Lead::None {
                attempt.without_lead = true;
                return Ok(Some(attempt));
            }
        } else if error.starts_with("No such file") {
            if !attempt.update.is_wanted() {
                self.outcome.gone(&attempt.update);
                return Ok(None);
            }
            if !attempt.made {
                attempt.exists = false;
                return Ok(Some(attempt));
            }
        } else if is_locked(&error) && !attempt.second && self.again.len() < AGAIN_MAX {
            self.again.push(attempt.update);
            return Ok(None);
        }
        if let Some(reason) = attempt.reason.take_if(|reason| is_full(reason)) {
            return Err(self.connection.unusable(format!("{}: {reason}", attempt.update.file)));
        }
        let reason = attempt.reason.map_or(error, |reason| format!("cannot be made: {reason}"));
        self.outcome.refused(&attempt.update, reason);
        Ok(None)
    }

    /// Makes a file, or notes why not: then the update is sent all the same, because somebody else
    /// may have made it. An error if no file can be made.
    fn make(&mut self, attempt: &mut Attempt) -> Result<(), SinkError> {
        if !self.tree.is_local() {
            attempt.reason = Some("the tree is rrdcached's, which may not CREATE here".into());
            return Ok(());
        }
        let path = attempt.update.file.path(self.tree.root());
        match file::create(&path, self.span.creation_secs()) {
            Ok(true) => self.outcome.receipt.created += 1,
            Ok(false) => match examine(&path) {
                // Somebody else made it since we looked.
                Fitness::Unfit(why) => attempt.unfit = Some(why),
                // Or we did, in an attempt that failed.
                _ => attempt.exists = !is_unfed(&path, self.span.creation_secs()),
            },
            Err(error) if concerns_all(&error) => {
                return Err(SinkError::Unreachable { target: path.display().to_string(), error });
            }
            Err(error) => attempt.reason = Some(error.to_string()),
        }
        Ok(())
    }

    fn push_create(&mut self, attempt: &Attempt) {
        let lines = &mut self.lines;
        lines.extend_from_slice(b"CREATE ");
        lines.extend_from_slice(self.prefix);
        attempt.update.file.write_path(lines);
        let start_secs = self.span.creation_secs();
        lines.extend_from_slice(format!(" -s {STEP_SECS} -b {start_secs} -O").as_bytes());
        if let Some(zero) = &self.zero {
            lines.extend_from_slice(b" -r ");
            push_escaped(lines, zero);
        }
        for name in DATA_SOURCES {
            lines.extend_from_slice(format!(" DS:{name}:GAUGE:{HEARTBEAT_SECS}:U:U").as_bytes());
        }
        for archive in ARCHIVES {
            let (name, steps, rows) = (archive.consolidation.name(), archive.steps, archive.rows);
            lines.extend_from_slice(
                format!(" RRA:{name}:{XFILES_FACTOR}:{steps}:{rows}").as_bytes(),
            );
        }
        lines.push(b'\n');
    }
}

/// The root of a tree, escaped, with a slash behind.
fn prefix(root: &Path) -> Vec<u8> {
    let mut prefix = Vec::new();
    push_escaped(&mut prefix, root);
    if !prefix.ends_with(b"/") {
        prefix.push(b'/');
    }
    prefix
}

/// Whether rrdcached made no file because it cannot make any, in the words of strerror(3).
fn is_full(reason: &str) -> bool {
    NO_ROOM.iter().chain(&["Read-only file system"]).any(|why| reason.contains(why))
}

/// The answer to a command that the socket does not allow (option -P).
const PERMISSION_DENIED: &str = "Permission denied.";

/// How rrdcached without -R refuses to make a directory, in two lines:
/// "-1 No permission to recursively create: DIR", "Did you pass -R to the daemon?".
const NO_DIRECTORY: &str = "No permission to recursively create";

/// Appends a path as rrdcached reads it: a backslash before spaces and backslashes.
fn push_escaped(out: &mut Vec<u8>, path: &Path) {
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b' ' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

/// A stream of either kind.
#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! each {
    ($stream:expr, $inner:ident => $body:expr) => {
        match $stream {
            Stream::Unix($inner) => $body,
            Stream::Tcp($inner) => $body,
        }
    };
}

impl Stream {
    fn connect(address: &Address, timeout: Duration) -> io::Result<Stream> {
        let stream = match address {
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Address::Tcp(host, port) => {
                let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    result = TcpStream::connect_timeout(&address, timeout.min(CONNECT_TIMEOUT));
                    if result.is_ok() {
                        break;
                    }
                }
                let stream = result?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        each!(&stream, inner => {
            inner.set_read_timeout(Some(TICK))?;
            inner.set_write_timeout(Some(TICK))?;
        });
        Ok(stream)
    }

    fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        })
    }

    fn shutdown(&self) {
        // It fails if the peer was quicker.
        let _ = each!(self, stream => stream.shutdown(Shutdown::Both));
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(self, stream => stream.read(buffer))
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long a connection over TCP may take; a unix socket connects at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a daemon.
#[derive(Debug)]
struct Connection {
    reader: BufReader<Stream>,
    writer: Stream,
    wait: Wait,
    abilities: Abilities,
    maker: Maker,
    /// Parts of a batch were sent, and its end was not.
    in_batch: bool,
}

/// How long to wait, and for whom.
#[derive(Clone, Debug)]
struct Wait {
    address: Address,
    timeout: Duration,
    stop: Arc<AtomicBool>,
}

impl Wait {
    /// After a tick without progress: whether to give up.
    fn check(&self, since: Instant) -> Result<(), SinkError> {
        if since.elapsed() > LAST_WAIT && self.stop.load(Ordering::Relaxed) {
            return Err(SinkError::Stopped);
        }
        if since.elapsed() > self.timeout {
            return Err(self.lost(io::Error::from(io::ErrorKind::TimedOut)));
        }
        Ok(())
    }

    fn lost(&self, error: io::Error) -> SinkError {
        SinkError::Unreachable { target: format!("rrdcached at {}", self.address), error }
    }

    fn write_all(&self, stream: &mut Stream, mut bytes: &[u8]) -> Result<(), SinkError> {
        let mut since = Instant::now();
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(0) => return Err(self.lost(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    bytes = &bytes[written..];
                    since = Instant::now();
                }
                Err(error) => self.on_error(error, since)?,
            }
        }
        Ok(())
    }

    fn on_error(&self, error: io::Error, since: Instant) -> Result<(), SinkError> {
        match error.kind() {
            // A socket's timeout is EAGAIN (socket(7), SO_RCVTIMEO).
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.check(since),
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(self.lost(error)),
        }
    }

    /// Reads a line, without its end.
    fn read_line(&self, reader: &mut BufReader<Stream>) -> Result<String, SinkError> {
        let since = Instant::now();
        let mut line = Vec::new();
        loop {
            // What was read before a timeout stays in the line.
            match reader.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => {
                    line.pop();
                    return Ok(String::from_utf8_lossy(&line).into_owned());
                }
                Ok(_) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => self.on_error(error, since)?,
            }
        }
    }
}

/// A user of this system, by name if there is one.
pub fn user_name(id: Uid) -> String {
    let name = User::from_uid(id).ok().flatten().map(|user| user.name);
    name.unwrap_or_else(|| format!("user {id}"))
}

/// Names both sides where a socket is denied: who asks, and whose it is.
fn explain_denial(address: &Address, error: io::Error) -> io::Error {
    let Address::Unix(path) = address else { return error };
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let owner = fs::metadata(path).map_or_else(
        |_| "its directory must not be entered".to_owned(),
        |socket| {
            let group = Group::from_gid(Gid::from_raw(socket.gid())).ok().flatten();
            format!(
                "the socket is of {} and group {}, mode {:04o}",
                user_name(Uid::from_raw(socket.uid())),
                group.map_or_else(|| socket.gid().to_string(), |group| group.name),
                socket.mode() & 0o7777
            )
        },
    );
    io::Error::new(
        error.kind(),
        format!("{error}: ixflow runs as {}; {owner}", user_name(Uid::effective())),
    )
}

impl Connection {
    fn open(
        address: &Address,
        timeout: Duration,
        stop: &Arc<AtomicBool>,
    ) -> Result<Connection, SinkError> {
        let wait = Wait { address: address.clone(), timeout, stop: Arc::clone(stop) };
        let open = || {
            let writer = Stream::connect(address, timeout)?;
            Ok((BufReader::with_capacity(1 << 16, writer.try_clone()?), writer))
        };
        let (reader, writer) = open().map_err(|error| wait.lost(explain_denial(address, error)))?;
        let abilities = Abilities { batch: false, create: false };
        let maker = Maker::Ourselves;
        Ok(Connection { reader, writer, wait, abilities, maker, in_batch: false })
    }

    /// Learns what the daemon allows, and spends the connection: the answer to an incomplete
    /// CREATE may have a second line, by version.
    fn probe(mut self) -> Result<Abilities, SinkError> {
        self.wait.write_all(&mut self.writer, b"BATCH\n.\nCREATE\n")?;
        let batch = self.read_line()?.starts_with('0');
        // The end of an empty batch, or an unknown command.
        self.read_line()?;
        let create = self.read_line()?.starts_with("-1 Usage");
        Ok(Abilities { batch, create })
    }

    fn unusable(&self, answer: String) -> SinkError {
        SinkError::Unusable { target: format!("rrdcached at {}", self.wait.address), answer }
    }

    fn read_line(&mut self) -> Result<String, SinkError> {
        self.wait.read_line(&mut self.reader)
    }

    /// Sends `count` commands, one a line, and calls `answer` with the index and the error of each,
    /// in order.
    fn exchange(
        &mut self,
        lines: &[u8],
        count: usize,
        answer: impl FnMut(usize, Option<String>),
    ) -> Result<(), SinkError> {
        if self.abilities.batch {
            self.exchange_batch(lines, count, answer)
        } else {
            self.exchange_pipelined(lines, count, answer)
        }
    }

    /// Sends a part of a batch, perhaps its first. Nothing is sent back before the end, so that this
    /// cannot block for ever.
    fn send_part(&mut self, lines: &[u8]) -> Result<(), SinkError> {
        if !std::mem::replace(&mut self.in_batch, true) {
            self.wait.write_all(&mut self.writer, b"BATCH\n")?;
        }
        self.wait.write_all(&mut self.writer, lines)
    }

    /// Sends the end of a batch, and reads its answers.
    fn exchange_batch(
        &mut self,
        lines: &[u8],
        count: usize,
        mut answer: impl FnMut(usize, Option<String>),
    ) -> Result<(), SinkError> {
        self.send_part(lines)?;
        self.wait.write_all(&mut self.writer, b".\n")?;
        self.in_batch = false;
        let go_ahead = self.read_line()?;
        if !go_ahead.starts_with('0') {
            return Err(self.unusable(go_ahead));
        }
        let head = self.read_line()?;
        let error_lines = head.strip_suffix(" errors").and_then(|lines| lines.parse().ok());
        let Some(error_lines): Option<usize> = error_lines else {
            return Err(self.unusable(head));
        };
        // "NUMBER MESSAGE", the commands being counted from 1; a line without a number belongs to
        // the one before.
        let mut errors: Vec<Option<String>> = vec![None; count];
        let mut last = 0;
        for _ in 0..error_lines {
            let line = self.read_line()?;
            let numbered = line.split_once(' ').and_then(|(number, message)| {
                let index = number.parse::<usize>().ok()?.checked_sub(1)?;
                (index < count).then_some((index, message))
            });
            match numbered {
                Some((index, message)) => {
                    errors[index] = Some(message.to_owned());
                    last = index;
                }
                None => match errors.get_mut(last) {
                    Some(Some(message)) => {
                        message.push_str("; ");
                        message.push_str(&line);
                    }
                    _ => return Err(self.unusable(line)),
                },
            }
        }
        for (index, error) in errors.into_iter().enumerate() {
            answer(index, error);
        }
        Ok(())
    }

    /// Gives a command for each of the files, below the root of `prefix`. False: it is not allowed
    /// on this socket.
    fn command(&mut self, command: &str, prefix: &[u8], files: &[File]) -> Result<bool, SinkError> {
        let mut allowed = true;
        for chunk in files.chunks(CHUNK_LINES) {
            let mut lines = Vec::with_capacity(chunk.len() * 256);
            for file in chunk {
                lines.extend_from_slice(command.as_bytes());
                lines.push(b' ');
                lines.extend_from_slice(prefix);
                file.write_path(&mut lines);
                lines.push(b'\n');
            }
            self.exchange(&lines, chunk.len(), |_, error| {
                // Any other error is of the file: the daemon does not know it, or it is gone.
                allowed &= error.as_deref() != Some(PERMISSION_DENIED);
            })?;
            if !allowed {
                break;
            }
        }
        Ok(allowed)
    }

    fn exchange_pipelined(
        &mut self,
        lines: &[u8],
        count: usize,
        mut answer: impl FnMut(usize, Option<String>),
    ) -> Result<(), SinkError> {
        let Connection { reader, writer, wait, .. } = self;
        let (reader, wait) = (reader, &*wait);
        thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let written = wait.write_all(writer, lines);
                if written.is_err() {
                    // So that the reader does not wait for answers that never come.
                    writer.shutdown();
                }
                written
            });
            let mut read = || {
                for index in 0..count {
                    let line = wait.read_line(reader)?;
                    let (status, message) = line.split_once(' ').unwrap_or((&line, ""));
                    match status.parse::<i64>() {
                        Ok(status @ 0..) => {
                            for _ in 0..status {
                                wait.read_line(reader)?;
                            }
                            answer(index, None);
                        }
                        Ok(_) => {
                            let mut message = message.to_owned();
                            if message.starts_with(NO_DIRECTORY) {
                                message.push_str("; ");
                                message.push_str(&wait.read_line(reader)?);
                            }
                            answer(index, Some(message));
                        }
                        Err(_) => {
                            let target = format!("rrdcached at {}", wait.address);
                            return Err(SinkError::Unusable { target, answer: line });
                        }
                    }
                }
                Ok(())
            };
            let result = read();
            if result.is_err() {
                // So that the writer does not wait for a reader that is gone.
                reader.get_ref().shutdown();
            }
            let written = writing.join().expect("the writing thread does not panic");
            // If both failed, the reader's is the consequence, or the stop flag's, as good.
            written.and(result)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_rrdcacheds() {
        for (text, address) in [
            ("unix:/run/a.sock", Address::Unix("/run/a.sock".into())),
            ("/run/a.sock", Address::Unix("/run/a.sock".into())),
            ("localhost", Address::Tcp("localhost".into(), 42217)),
            ("192.0.2.1:5", Address::Tcp("192.0.2.1".into(), 5)),
            ("2001:db8::1", Address::Tcp("2001:db8::1".into(), 42217)),
            ("[2001:db8::1]:5", Address::Tcp("2001:db8::1".into(), 5)),
        ] {
            assert_eq!(text.parse::<Address>(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string().parse::<Address>(), Ok(address));
        }
        for text in ["", "unix:", "host:", "host:port", "host:70000", ":5", "[::1", "[::1]5"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
    }

    #[test]
    fn paths_are_escaped() {
        let mut out = Vec::new();
        push_escaped(&mut out, Path::new(r"/a b\c"));
        assert_eq!(out, br"/a\ b\\c");
    }

    #[test]
    fn a_root_that_the_journal_would_cut_is_refused() {
        let settings = |root: String| Settings {
            address: Address::Tcp("localhost".into(), 1),
            root: root.into(),
            share: Share::default(),
            create: Create::OnTraffic,
            aggregates: Aggregates::Vlan,
            timeout: Duration::from_secs(60),
        };
        let stop = Arc::new(AtomicBool::new(false));
        // Each below the limit of a component and of a path, but not of an argument.
        let root = format!("/{}", "nowhere/".repeat(480));
        let error = Rrdcached::new(settings(root), Arc::clone(&stop)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidFilename);
        Rrdcached::new(settings("/nowhere".into()), stop).unwrap();
    }
}
