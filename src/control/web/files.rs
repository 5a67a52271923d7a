//! `/grapher-sflow/...`: the RRD tree, read-only, as the web server's alias of IXP Manager's
//! documentation serves it, and fresh: rrdcached writes down what it has of a file first.
//!
//! Only names that [`File`] parses exist. A path is opened component by component from the root,
//! and no component may be a symbolic link.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use foldhash::fast::FixedState;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use std::hash::BuildHasher as _;

use crate::sink::rrdcached::Address;
use crate::sink::{File, Share};

/// How long rrdcached may take to write a file down, whoever asked for it; the file is sent as it
/// is after that.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A file that was written down is fresh for so long.
const FRESH: Duration = Duration::from_secs(5);

/// Files that are remembered as fresh.
const FRESH_MAX: usize = 10_000;

/// Bytes of a file at the most: the portal's have 185,312.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A failure to flush is said again after so long.
const REPEAT: Duration = Duration::from_secs(60);

/// The tree, and who may have more of it in memory.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    rrdcached: Vec<(Address, Share)>,
    seen: Mutex<Seen>,
    /// rrdcached has answered for a file of [`Seen::asked`].
    answered: Condvar,
}

#[derive(Default, Debug)]
struct Seen {
    asked: HashMap<File, Asked, FixedState>,
    said: Option<Instant>,
}

/// When rrdcached was asked to write a file down, and whether it has answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    answered: bool,
}

impl Asked {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH
    }
}

impl Files {
    /// The tree below `root`, of which each `rrdcached` writes a share, if there is one.
    pub fn new(root: &Path, rrdcached: Vec<(Address, Share)>) -> Files {
        // As the sink names files to rrdcached; a root that is not there yet is looked for later.
        let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        Files { root, rrdcached, seen: Mutex::default(), answered: Condvar::new() }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Lets rrdcached write down what it has of `file`, unless it did so a few seconds ago.
    pub fn freshen(&self, file: File) {
        let mut all = self.rrdcached.iter();
        let Some((address, _)) = all.find(|(_, share)| share.has(&file)) else { return };
        {
            let mut seen = self.seen();
            if seen.asked.get(&file).is_some_and(Asked::is_fresh) {
                // Another request may be about it at this moment: what is on disk is stale until
                // that has its answer.
                let unanswered =
                    |seen: &mut Seen| seen.asked.get(&file).is_some_and(|asked| !asked.answered);
                let waited = self.answered.wait_timeout_while(seen, FLUSH_TIMEOUT, unanswered);
                drop(waited);
                return;
            }
            if seen.asked.len() >= FRESH_MAX {
                seen.asked.retain(|_, asked| asked.is_fresh());
                if seen.asked.len() >= FRESH_MAX {
                    seen.asked.clear();
                }
            }
            // Before it is asked: while it hangs, each file waits for it once.
            seen.asked.insert(file, Asked { at: Instant::now(), answered: false });
        }
        let flushed = flush(address, &file.path(&self.root));
        let mut seen = self.seen();
        if let Some(asked) = seen.asked.get_mut(&file) {
            asked.answered = true;
        }
        self.answered.notify_all();
        if let Err(error) = flushed
            && seen.said.is_none_or(|at| at.elapsed() >= REPEAT)
        {
            seen.said = Some(Instant::now());
            tracing::warn!("{file}: served as it is on disk: rrdcached at {address}: {error}");
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a file, and when it was modified.
    fn read(&self, file: File) -> io::Result<(Vec<u8>, SystemTime)> {
        let directory = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let mut at = open(&self.root, directory, Mode::empty())?;
        let path = file.to_string();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            // A pipe that somebody put there must not hold the thread up.
            let flags = if last { OFlag::O_RDONLY | OFlag::O_NONBLOCK } else { directory };
            let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            at = openat(&at, part, flags, Mode::empty())?;
        }
        let opened = fs::File::from(at);
        let metadata = opened.metadata()?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok((bytes, metadata.modified()?))
    }

    /// The answer to a GET or HEAD of `path`, what is behind `/grapher-sflow/`. Waits for the disk
    /// and rrdcached.
    pub fn answer(&self, path: &str, request: &HeaderMap) -> Response {
        let Ok(file) = path.parse::<File>() else { return StatusCode::NOT_FOUND.into_response() };
        self.freshen(file);
        match self.read(file) {
            Ok((bytes, modified)) => send(bytes, modified, request),
            Err(_) => StatusCode::NOT_FOUND.into_response(),
        }
    }
}

fn send(bytes: Vec<u8>, modified: SystemTime, request: &HeaderMap) -> Response {
    // Of the content, for a file may change twice within what its time of modification tells.
    let etag = format!("\"{:016x}\"", FixedState::default().hash_one(&bytes));
    let last_modified = httpdate::fmt_http_date(modified);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, &etag),
        (header::LAST_MODIFIED, &last_modified),
    ] {
        // Hexadecimal digits and a date are visible ASCII.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    let given = |name| request.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // RFC 9110, section 13.2.2: tags go before dates.
    let unchanged = match given(header::IF_NONE_MATCH) {
        Some(tags) => tags
            .split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag),
        None => given(header::IF_MODIFIED_SINCE)
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .is_some_and(|since| whole_secs(modified) <= whole_secs(since)),
    };
    if unchanged {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let same = given(header::IF_RANGE).is_none_or(|wanted| wanted == etag);
    let length = bytes.len();
    match given(header::RANGE).filter(|_| same).map(|range| parse_range(range, length)) {
        Some(Range::Part(from, to)) => {
            let part = bytes.get(from..=to).unwrap_or_default().to_vec();
            if let Ok(value) = HeaderValue::from_str(&format!("bytes {from}-{to}/{length}")) {
                headers.insert(header::CONTENT_RANGE, value);
            }
            (StatusCode::PARTIAL_CONTENT, headers, Body::from(part)).into_response()
        }
        Some(Range::Unsatisfiable) => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response()
        }
        Some(Range::Ignored) | None => (headers, Body::from(bytes)).into_response(),
    }
}

fn whole_secs(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Range {
    /// First and last byte.
    Part(usize, usize),
    /// Behind the end.
    Unsatisfiable,
    /// Several, or none that can be understood: the whole is sent (RFC 9110, section 14.2).
    Ignored,
}

fn parse_range(text: &str, length: usize) -> Range {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // Numbers without end are behind every end.
        digits.then(|| text.parse::<usize>().unwrap_or(usize::MAX))
    };
    let Some((from, to)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Range::Ignored;
    };
    let (from, to) = (from.trim(), to.trim());
    match (number(from), number(to)) {
        (Some(from), _) if from >= length && (to.is_empty() || number(to).is_some()) => {
            Range::Unsatisfiable
        }
        (Some(from), None) if to.is_empty() => Range::Part(from, length - 1),
        (Some(from), Some(to)) if from <= to => Range::Part(from, to.min(length - 1)),
        (None, Some(count)) if from.is_empty() => match count.min(length) {
            0 => Range::Unsatisfiable,
            count => Range::Part(length - count, length - 1),
        },
        _ => Range::Ignored,
    }
}

/// Has rrdcached write a file down, on a connection of its own.
fn flush(address: &Address, path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    let mut line = b"FLUSH ".to_vec();
    for &byte in path.as_os_str().as_bytes() {
        // rrdcached(1): a backslash makes the next character part of the argument.
        if matches!(byte, b' ' | b'\\' | b'\t') {
            line.push(b'\\');
        }
        line.push(byte);
    }
    line.push(b'\n');
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    match address {
        Address::Unix(socket) => {
            let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // It bounds connect(2) as well, which waits while as many others do as may wait.
            stream.set_write_timeout(Some(left()?))?;
            stream.connect(&SockAddr::unix(socket)?)?;
            let mut stream = UnixStream::from(OwnedFd::from(stream));
            stream.set_write_timeout(Some(left()?))?;
            stream.set_read_timeout(Some(left()?))?;
            stream.write_all(&line)?;
            answer(stream)
        }
        Address::Tcp(host, port) => {
            let address = (host.as_str(), *port).to_socket_addrs()?.next();
            let address = address.ok_or(io::Error::from(io::ErrorKind::NotFound))?;
            let mut stream = TcpStream::connect_timeout(&address, left()?)?;
            stream.set_write_timeout(Some(left()?))?;
            stream.set_read_timeout(Some(left()?))?;
            stream.write_all(&line)?;
            answer(stream)
        }
    }
}

/// Bytes of an answer of rrdcached that are read.
const ANSWER_BYTES_MAX: u64 = 4_096;

fn answer(stream: impl io::Read) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    // "0 ..." is done, or nothing to do.
    match line.split(' ').next() {
        Some("0") => Ok(()),
        _ => Err(io::Error::other(line.trim_end().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("bytes=0-0", Range::Part(0, 0)),
            ("bytes=5-", Range::Part(5, 9)),
            ("bytes=5-99", Range::Part(5, 9)),
            ("bytes=-3", Range::Part(7, 9)),
            ("bytes=-99", Range::Part(0, 9)),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=99999999999999999999999-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=0-1,3-4", Range::Ignored),
            ("bytes=5-4", Range::Ignored),
            ("bytes=-", Range::Ignored),
            ("bytes=a-b", Range::Ignored),
            ("lines=0-1", Range::Ignored),
            ("bytes=+1-2", Range::Ignored),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=-1", 0), Range::Unsatisfiable);
        assert_eq!(parse_range("bytes=0-", 0), Range::Unsatisfiable);
    }

    /// A file, and an rrdcached that stands in for one, as its side of the socket.
    fn tree_of_one(directory: &Path) -> (Arc<Files>, File, UnixListener) {
        let socket = directory.join("rrdcached.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let files = Files::new(directory, vec![(Address::Unix(socket), Share::default())]);
        let file = "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00010.rrd".parse().unwrap();
        (Arc::new(files), file, listener)
    }

    #[test]
    fn whoever_asks_while_a_file_is_written_down_waits_for_that() {
        let directory = tempfile::tempdir().unwrap();
        let (files, file, listener) = tree_of_one(directory.path());
        let first = thread::spawn({
            let files = files.clone();
            move || files.freshen(file)
        });
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert!(line.starts_with("FLUSH "), "{line}");
        let answered = Arc::new(AtomicBool::new(false));
        let rrdcached = thread::spawn({
            let answered = answered.clone();
            move || {
                // It takes its time, in which the second one asks.
                thread::sleep(FLUSH_TIMEOUT / 5);
                answered.store(true, Ordering::SeqCst);
                stream.write_all(b"0 Successfully flushed\n").unwrap();
            }
        });
        files.freshen(file);
        assert!(answered.load(Ordering::SeqCst), "the second one was sent what was on disk");
        rrdcached.join().unwrap();
        first.join().unwrap();
        // It is fresh now: rrdcached is not asked again.
        files.freshen(file);
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn an_rrdcached_that_takes_no_connections_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (files, file, listener) = tree_of_one(directory.path());
        // One may wait; then connect(2) does.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _waits = UnixStream::connect(directory.path().join("rrdcached.sock")).unwrap();
        let start = Instant::now();
        files.freshen(file);
        assert!(start.elapsed() < 10 * FLUSH_TIMEOUT, "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn a_range_lies_within_the_file(text in "bytes=[-0-9, ]{0,24}", length in 0usize..40) {
            if let Range::Part(from, to) = parse_range(&text, length) {
                prop_assert!(from <= to && to < length);
            }
        }

        #[test]
        fn what_parses_stays_in_the_tree(path in "(/?(ipv4|ipv6|\\.\\.|\\.|bytes|pkts|p2p|src-[0-9]{5}|p2p.ipv4.bytes.src-[0-9]{5}.dst-[0-9]{5}.rrd|%2e|\0|\\PC{0,5})){0,7}") {
            if let Ok(file) = path.parse::<File>() {
                prop_assert_eq!(file.to_string(), path.clone());
                prop_assert!(!path.starts_with('/') && path.split('/').all(|part| part != ".."));
            }
        }
    }
}
