//! What a file that was there before us is: whether it can be fed.
//!
//! librrd takes values by their order, not by their names, and rrdcached acknowledges any number
//! of them and loses them when it writes: whoever feeds a file must have looked at it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::file::{DS_DEF, RRA_DEF};
use super::{ARCHIVES, DATA_SOURCES, STEP_SECS};

/// Data sources and archives that are described in a reason, at the most.
const NAMED_MAX: usize = 16;

/// What can be done with a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fitness {
    /// It is like those that we make, or nothing can be said about it: whoever writes to it finds
    /// out what is wrong.
    Usual,
    /// Its data sources are ours, its step or its archives are not: it is fed as it is.
    Differs(String),
    /// Values that were fed to it would go astray, for this reason.
    Unfit(String),
}

/// Reads a file's header (rrd_format.h: stat_head, ds_def, rra_def).
pub(super) fn examine(path: &Path) -> Fitness {
    let mut header = [0; super::file::HEADER_BYTES];
    let Ok(file) = File::open(path) else { return Fitness::Usual };
    let mut length = 0;
    while length < header.len() {
        // A file that cannot be read is refused by whoever writes to it.
        match file.read_at(&mut header[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Fitness::Usual,
        }
    }
    examine_header(&header[..length])
}

/// A file's last update, in seconds since 1970, from its header (rrd_format.h: live_head stands
/// behind the definitions, of which stat_head has the numbers).
pub(super) fn last_update(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let mut head = [0; 128];
    file.read_exact_at(&mut head, 0)?;
    let number =
        |at: usize| head[at..at + 8].iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b));
    if !head.starts_with(b"RRD\0") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not an RRD file"));
    }
    let definitions = number(24).saturating_add(number(32));
    let mut last = [0; 8];
    file.read_exact_at(&mut last, definitions.saturating_mul(120).saturating_add(128))?;
    Ok(u64::from_le_bytes(last))
}

/// Whether a file is as [`create`](super::file::create) made it, its last update being `start_secs`:
/// no update has reached it.
pub(super) fn is_unfed(path: &Path, start_secs: u64) -> bool {
    let mut header = [0; super::file::HEADER_BYTES];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut header, 0));
    read.is_ok() && super::file::is_unfed(&header, start_secs)
}

fn examine_header(header: &[u8]) -> Fitness {
    let number = |at: usize| {
        let bytes = header.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let text = |at: usize| {
        let bytes = header.get(at..at + 20).unwrap_or_default();
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    // Not an RRD, or that of a machine with another layout: librrd refuses it by name.
    if !header.starts_with(b"RRD\0") || number(16) != 8.642135E130f64.to_bits() {
        return Fitness::Usual;
    }
    let sources = usize::try_from(number(24)).unwrap_or(usize::MAX);
    let names: Vec<String> =
        (0..sources.min(NAMED_MAX)).map(|index| text(DS_DEF + 120 * index)).collect();
    if sources != DATA_SOURCES.len() || names != DATA_SOURCES {
        return Fitness::Unfit(format!(
            "its {sources} data sources are {}: expected {}",
            names.join(", "),
            DATA_SOURCES.join(", ")
        ));
    }
    for (index, name) in DATA_SOURCES.iter().enumerate() {
        let at = DS_DEF + 120 * index;
        let (kind, heartbeat_secs) = (text(at + 20), number(at + 40));
        if kind != "GAUGE" || heartbeat_secs < STEP_SECS {
            return Fitness::Unfit(format!(
                "its data source {name} is {kind} with a heartbeat of {heartbeat_secs} s: \
                 expected GAUGE with {STEP_SECS} s at least",
            ));
        }
    }
    let step_secs = number(40);
    let archives = usize::try_from(number(32)).unwrap_or(usize::MAX);
    let usual = archives == ARCHIVES.len()
        && ARCHIVES.iter().enumerate().all(|(index, archive)| {
            let at = RRA_DEF + 120 * index;
            text(at) == archive.consolidation.name()
                && (number(at + 24), number(at + 32)) == (archive.rows, archive.steps)
        });
    if step_secs != STEP_SECS {
        Fitness::Differs(format!("its step is {step_secs} s, not {STEP_SECS}"))
    } else if !usual {
        Fitness::Differs(format!("its {archives} archives are others than ixflow's"))
    } else {
        Fitness::Usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::file;

    #[test]
    fn headers_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.rrd");
        file::create(&path, 1_700_000_100).unwrap();
        assert_eq!(examine(&path), Fitness::Usual);
        assert_eq!(last_update(&path).unwrap(), 1_700_000_100);
        let header = std::fs::read(&path).unwrap()[..file::HEADER_BYTES].to_vec();
        let with = |at: usize, bytes: &[u8]| {
            let mut header = header.clone();
            header[at..at + bytes.len()].copy_from_slice(bytes);
            examine_header(&header)
        };
        assert!(matches!(with(40, &[60, 0]), Fitness::Differs(why) if why.contains("60 s")));
        assert!(matches!(with(RRA_DEF + 24, &[1]), Fitness::Differs(why) if why.contains("8 ")));
        for (at, bytes) in [
            (DS_DEF, &b"ds0\0"[..]),
            (DS_DEF + 120 + 20, b"COUNTER"),
            (DS_DEF + 40, &[120, 0]),
            (24, &[3]),
            (24, &[0xff; 8]),
        ] {
            assert!(matches!(with(at, bytes), Fitness::Unfit(_)), "{at} {bytes:?}");
        }
        // Too short, or nobody's.
        for header in [&b""[..], b"RRD\0", &header[..200], b"mine"] {
            let fitness = examine_header(header);
            assert!(!matches!(fitness, Fitness::Differs(_)), "{header:?} {fitness:?}");
        }
        assert_eq!(examine(&directory.path().join("nowhere")), Fitness::Usual);
        assert_eq!(examine(directory.path()), Fitness::Usual);
        std::fs::write(&path, "mine").unwrap();
        last_update(&path).unwrap_err();
    }
}
