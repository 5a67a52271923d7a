//! The files below the state directory: a spooled interval each, and the counts of the open step.
//!
//! A file is written under another name, synchronised, and renamed: a power cut leaves the old one
//! or the new one. Whatever else stands in its place (torn, of another program, of a newer ixflow)
//! is refused with its reason, and set aside as `*.refused`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Interval;
use super::format::{self, FILE_BYTES_MAX, Saved, Unreadable};

/// Files that are set aside and kept at the most, the newest ones.
pub const REFUSED_MAX: usize = 16;

/// The directory of intervals, below the state directory.
const DIRECTORY: &str = "spool";

/// The counts of the open step, in the state directory.
const SAVED_FILE: &str = "open-step";

const INTERVAL_SUFFIX: &str = ".interval";
const UNFINISHED_SUFFIX: &str = ".new";
const REFUSED_SUFFIX: &str = ".refused";

/// A file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what it should be, and was set aside.
    #[error("{}: {reason}; set aside as *{REFUSED_SUFFIX}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Unreadable,
    },
}

/// Which interval a file holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Stamps {
    pub(super) to_secs: u64,
    pub(super) from_secs: u64,
}

impl Stamps {
    pub(super) fn of(interval: &Interval) -> Stamps {
        Stamps { to_secs: interval.to_secs, from_secs: interval.from_secs }
    }

    fn file_name(self) -> String {
        format!("{:012}-{:012}{INTERVAL_SUFFIX}", self.from_secs, self.to_secs)
    }

    fn from_file_name(name: &str) -> Option<Stamps> {
        let (from_secs, to_secs) = name.strip_suffix(INTERVAL_SUFFIX)?.split_once('-')?;
        let stamps = Stamps { from_secs: from_secs.parse().ok()?, to_secs: to_secs.parse().ok()? };
        (stamps.file_name() == name && stamps.from_secs < stamps.to_secs).then_some(stamps)
    }
}

/// The directory of a daemon.
#[derive(Debug)]
pub(super) struct Spool {
    state_dir: PathBuf,
    directory: PathBuf,
}

impl Spool {
    /// Makes the directory; what a kill left unfinished is removed.
    pub(super) fn open(state_dir: &Path) -> Result<Spool, SpoolError> {
        let directory = state_dir.join(DIRECTORY);
        fs::create_dir_all(&directory).map_err(io_error(&directory))?;
        let spool = Spool { state_dir: state_dir.to_owned(), directory };
        spool.names(&spool.directory, |path, name| {
            if name.ends_with(UNFINISHED_SUFFIX) {
                // If it stays, it is only in the way of nobody.
                let _ = fs::remove_file(path);
            }
        })?;
        Ok(spool)
    }

    /// Where the intervals are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The intervals that are there, in their order, with their sizes in bytes.
    pub(super) fn list(&self) -> Result<Vec<(Stamps, u64)>, SpoolError> {
        let mut found = Vec::new();
        self.names(&self.directory, |path, name| {
            if let (Some(stamps), Ok(metadata)) = (Stamps::from_file_name(name), path.metadata()) {
                found.push((stamps, metadata.len()));
            }
        })?;
        found.sort_unstable();
        Ok(found)
    }

    /// Writes an interval; its size in bytes.
    pub(super) fn write(&self, interval: &Interval) -> Result<u64, SpoolError> {
        let path = self.path(Stamps::of(interval));
        replace(&path, &format::encode(interval)).map_err(io_error(&path))
    }

    pub(super) fn read(&self, stamps: Stamps) -> Result<Interval, SpoolError> {
        let path = self.path(stamps);
        let interval = self.read_as(&path, format::decode)?;
        if Stamps::of(&interval) == stamps {
            Ok(interval)
        } else {
            Err(self.refuse(&path, Unreadable::Content("not the interval of its name")))
        }
    }

    pub(super) fn remove(&self, stamps: Stamps) {
        let path = self.path(stamps);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{}: cannot be removed: {error}", path.display());
            }
            _ => {}
        }
    }

    /// Saves the counts of the open step.
    pub(super) fn save(&self, saved: &Saved) -> Result<u64, SpoolError> {
        let path = self.state_dir.join(SAVED_FILE);
        replace(&path, &format::encode_saved(saved)).map_err(io_error(&path))
    }

    /// The counts that were saved last; none if there are none.
    pub(super) fn load(&self) -> Result<Option<Saved>, SpoolError> {
        let path = self.state_dir.join(SAVED_FILE);
        match self.read_as(&path, format::decode_saved) {
            Ok(saved) => Ok(Some(saved)),
            Err(SpoolError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn path(&self, stamps: Stamps) -> PathBuf {
        self.directory.join(stamps.file_name())
    }

    fn read_as<T>(
        &self,
        path: &Path,
        decode: fn(&[u8]) -> Result<T, Unreadable>,
    ) -> Result<T, SpoolError> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| {
            let length = file.metadata()?.len().min(FILE_BYTES_MAX);
            bytes.reserve_exact(usize::try_from(length).unwrap_or_default());
            file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
        });
        read.map_err(io_error(path))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let found = bytes.len() as u64;
            let reason = Unreadable::Length { expected: FILE_BYTES_MAX, found };
            return Err(self.refuse(path, reason));
        }
        decode(&bytes).map_err(|reason| self.refuse(path, reason))
    }

    /// Sets a file aside, and gives up the oldest of those before it.
    fn refuse(&self, path: &Path, reason: Unreadable) -> SpoolError {
        let mut name = path.as_os_str().to_owned();
        name.push(REFUSED_SUFFIX);
        if let Err(source) = fs::rename(path, name) {
            return SpoolError::Io { path: path.to_owned(), source };
        }
        let mut refused: Vec<(SystemTime, PathBuf)> = Vec::new();
        for directory in [&self.state_dir, &self.directory] {
            let listed = self.names(directory, |path, name| {
                let modified = path.metadata().and_then(|metadata| metadata.modified());
                if let (true, Ok(modified)) = (name.ends_with(REFUSED_SUFFIX), modified) {
                    refused.push((modified, path.to_owned()));
                }
            });
            if let Err(error) = listed {
                tracing::warn!("{error}");
            }
        }
        refused.sort_unstable();
        for (_, path) in refused.iter().rev().skip(REFUSED_MAX) {
            tracing::warn!("{}: more than {REFUSED_MAX} are set aside: removed", path.display());
            let _ = fs::remove_file(path);
        }
        SpoolError::Refused { path: path.to_owned(), reason }
    }

    fn names(
        &self,
        directory: &Path,
        mut visit: impl FnMut(&Path, &str),
    ) -> Result<(), SpoolError> {
        for entry in fs::read_dir(directory).map_err(io_error(directory))? {
            let entry = entry.map_err(io_error(directory))?;
            if let Some(name) = entry.file_name().to_str() {
                visit(&entry.path(), name);
            }
        }
        Ok(())
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SpoolError + use<> {
    let path = path.to_owned();
    move |source| SpoolError::Io { path, source }
}

/// Puts a file in its place as a whole; its size in bytes.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<u64> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED_SUFFIX);
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        // The renaming is on the disk when the directory is.
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    let written = write();
    if written.is_err() {
        // On a full disk it would take the room of the next one.
        let _ = fs::remove_file(&unfinished);
    }
    written.map(|()| bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn interval() -> Interval {
        Interval {
            from_secs: 300,
            to_secs: 600,
            after_hole: true,
            lans: Arc::new([]),
            pairs: Vec::new(),
            vlans: Vec::new(),
        }
    }

    #[test]
    fn files_are_whole_and_named_by_their_stamps() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path()).unwrap();
        let bytes = spool.write(&interval()).unwrap();
        let stamps = Stamps::of(&interval());
        assert_eq!(spool.list().unwrap(), [(stamps, bytes)]);
        assert_eq!(spool.read(stamps).unwrap(), interval());
        // What a kill left, and what is not ours.
        for name in ["000000000600-000000000900.interval.new", "600-900.interval", "x.interval"] {
            fs::write(spool.directory().join(name), "x").unwrap();
        }
        let spool = Spool::open(directory.path()).unwrap();
        assert_eq!(spool.list().unwrap(), [(stamps, bytes)]);
        assert!(!spool.directory().join("000000000600-000000000900.interval.new").exists());
        spool.remove(stamps);
        assert_eq!(spool.list().unwrap(), []);
    }

    #[test]
    fn what_is_refused_is_set_aside_and_does_not_pile_up() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path()).unwrap();
        for n in 1..=REFUSED_MAX as u64 + 3 {
            let stamps = Stamps { from_secs: n, to_secs: n + 1 };
            // Another interval than its name says.
            fs::write(spool.path(stamps), format::encode(&interval())).unwrap();
            let error = spool.read(stamps).unwrap_err();
            assert!(matches!(error, SpoolError::Refused { .. }), "{error}");
        }
        assert_eq!(fs::read_dir(spool.directory()).unwrap().count(), REFUSED_MAX);
        assert_eq!(spool.list().unwrap(), []);
    }

    #[test]
    fn saved_counts_replace_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path()).unwrap();
        assert_eq!(spool.load().unwrap(), None);
        let mut saved =
            Saved { covered_to_secs: 600, acknowledged_to_secs: 300, open: vec![interval()] };
        spool.save(&saved).unwrap();
        saved.open.clear();
        spool.save(&saved).unwrap();
        assert_eq!(spool.load().unwrap(), Some(saved));
        fs::write(directory.path().join(SAVED_FILE), "IXFLOWSV\x03\0\0\0").unwrap();
        let error = spool.load().unwrap_err().to_string();
        assert!(error.contains("version 3, of a newer ixflow"), "{error}");
        assert!(directory.path().join("open-step.refused").exists());
        assert_eq!(spool.load().unwrap(), None);
    }
}
