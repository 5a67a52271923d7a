//! Files of our one schema, made whole.
//!
//! The layout is that of rrd_format.h (RRDtool 1.2 and later, version "0003") on 64-bit
//! little-endian machines, the same on Linux and FreeBSD, x86-64 and arm64; elsewhere nothing is
//! written. A file is a header of 2,912 bytes and 11,400 rows of two doubles:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 128 | stat_head: cookies, numbers of data sources and archives, step |
//! | 128 | 2 x 120 | ds_def: name, type, heartbeat, minimum, maximum |
//! | 368 | 8 x 120 | rra_def: consolidation, rows, steps, xff |
//! | 1328 | 16 | live_head: last update |
//! | 1344 | 2 x 112 | pdp_prep: last reading as text, seconds unknown and value of the step |
//! | 1568 | 16 x 80 | cdp_prep: value and unknown steps of the unfinished rows |
//! | 2848 | 8 x 8 | rra_ptr: current row |
//!
//! A new file has a history of zeros, where `rrdtool create` leaves NaN: allocated blocks read as
//! zeros, which are the doubles 0.0, so that the rows need not even be written. The blocks are
//! allocated, because a write into a hole of a full disk kills with SIGBUS whoever has the file
//! mapped, rrdcached for one. As with RRDtool the current rows start at random places, so that not
//! all files step onto a new page at the same time.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;

use crate::sink::{ARCHIVES, DATA_SOURCES, HEARTBEAT_SECS, STEP_SECS, XFILES_FACTOR};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 2912;

/// Bytes of a file.
pub const FILE_BYTES: u64 = {
    let mut rows = 0;
    let mut archive = 0;
    while archive < ARCHIVES.len() {
        rows += ARCHIVES[archive].rows;
        archive += 1;
    }
    HEADER_BYTES as u64 + rows * 8 * DATA_SOURCES.len() as u64
};

const DS_DEF: usize = 128;
const RRA_DEF: usize = DS_DEF + 120 * DATA_SOURCES.len();
const LIVE_HEAD: usize = RRA_DEF + 120 * ARCHIVES.len();
const PDP_PREP: usize = LIVE_HEAD + 16;
const CDP_PREP: usize = PDP_PREP + 112 * DATA_SOURCES.len();
const RRA_PTR: usize = CDP_PREP + 80 * ARCHIVES.len() * DATA_SOURCES.len();
const _: () = assert!(RRA_PTR + 8 * ARCHIVES.len() == HEADER_BYTES);

/// Where the last update is, in seconds since 1970.
pub const LAST_UPDATE: Range<usize> = LIVE_HEAD..LIVE_HEAD + 8;

/// The name under which a file is made, in its directory, before it gets its own.
const UNFINISHED: &str = ".ixflow-new";

/// Makes `path` with a history of zeros up to `start_secs` (seconds since 1970, a multiple of the
/// step), which becomes its last update; directories too. False: there is such a file, and it was
/// left alone.
///
/// The file appears whole or not at all.
pub fn create(path: &Path, start_secs: u64) -> io::Result<bool> {
    let unfinished = path.with_file_name(UNFINISHED);
    write_unfinished(&unfinished, start_secs)?;
    // A link, unlike a renaming, does not replace what is there.
    let linked = fs::hard_link(&unfinished, path);
    fs::remove_file(&unfinished)?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// As [`create`], but replaces the file that is there.
pub fn replace(path: &Path, start_secs: u64) -> io::Result<()> {
    let unfinished = path.with_file_name(UNFINISHED);
    write_unfinished(&unfinished, start_secs)?;
    fs::rename(unfinished, path)
}

fn write_unfinished(path: &Path, start_secs: u64) -> io::Result<()> {
    if cfg!(not(all(target_endian = "little", target_pointer_width = "64"))) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "RRD files of this machine are laid out differently",
        ));
    }
    let open = || fs::File::create_new(path);
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            open()
        }
        // Left by a process that was killed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()
        }
        other => other,
    }?;
    let written = allocate(&mut file).and_then(|()| {
        file.write_all_at(&header(start_secs, RandomState::new().hash_one(start_secs)), 0)
    });
    if written.is_err() {
        fs::remove_file(path)?;
    }
    written
}

/// Gives the file its length, in zeros.
fn allocate(file: &mut fs::File) -> io::Result<()> {
    const LENGTH: i64 = FILE_BYTES as i64;
    match posix_fallocate(&*file, 0, LENGTH) {
        Ok(()) => Ok(()),
        // ZFS cannot promise space (EINVAL, posix_fallocate(2) of FreeBSD).
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENODEV | Errno::ENOSYS) => {
            io::copy(&mut io::Read::take(io::repeat(0), FILE_BYTES), file).map(drop)
        }
        Err(error) => Err(error.into()),
    }
}

/// The header of a file that was last updated at `start_secs`, a multiple of the step, and knows
/// only zeros; the current rows are taken from `random`.
fn header(start_secs: u64, mut random: u64) -> [u8; HEADER_BYTES] {
    debug_assert_eq!(start_secs % STEP_SECS, 0, "the step of a new file is not begun");
    // RRDtool's unknown, the quiet NaN of x86 with its sign.
    const UNKNOWN: u64 = 0xfff8_0000_0000_0000;
    let mut header = [0; HEADER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);

    put(0, b"RRD\0");
    put(4, b"0003\0");
    put(16, &8.642135E130f64.to_le_bytes());
    put(24, &(DATA_SOURCES.len() as u64).to_le_bytes());
    put(32, &(ARCHIVES.len() as u64).to_le_bytes());
    put(40, &STEP_SECS.to_le_bytes());
    for (index, name) in DATA_SOURCES.iter().enumerate() {
        let at = DS_DEF + 120 * index;
        put(at, name.as_bytes());
        put(at + 20, b"GAUGE");
        put(at + 40, &HEARTBEAT_SECS.to_le_bytes());
        put(at + 48, &UNKNOWN.to_le_bytes());
        put(at + 56, &UNKNOWN.to_le_bytes());
        // The last reading; seconds unknown and value of the step are 0.
        put(PDP_PREP + 112 * index, b"U");
    }
    for (index, archive) in ARCHIVES.iter().enumerate() {
        let at = RRA_DEF + 120 * index;
        put(at, archive.consolidation.name().as_bytes());
        put(at + 24, &archive.rows.to_le_bytes());
        put(at + 32, &archive.steps.to_le_bytes());
        put(at + 40, &XFILES_FACTOR.to_le_bytes());
        put(RRA_PTR + 8 * index, &(random % archive.rows).to_le_bytes());
        random = random.rotate_right(8);
    }
    put(LIVE_HEAD, &start_secs.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rrd::ConsolidationFn;
    use rrd::ops::create::{self as librrd, DataSource, DataSourceName};
    use rrd::ops::update::{BatchTime, Datum, Options, update_all};

    use super::*;
    use crate::sink::Consolidation;
    use crate::sink::librrd::fetch;

    const START: u64 = 1_700_000_100;

    fn librrd_create(path: &Path) {
        let source = |name| DataSource::gauge(&DataSourceName::new(name).unwrap(), 600, None, None);
        let archives = ARCHIVES.map(|archive| {
            let consolidation = match archive.consolidation {
                Consolidation::Average => ConsolidationFn::Avg,
                Consolidation::Max => ConsolidationFn::Max,
            };
            let [steps, rows] = [archive.steps, archive.rows].map(|n| u32::try_from(n).unwrap());
            librrd::Archive::new(consolidation, XFILES_FACTOR, steps, rows).unwrap()
        });
        librrd::create(
            path,
            UNIX_EPOCH + Duration::from_secs(START),
            Duration::from_secs(STEP_SECS),
            true,
            None,
            &[],
            &DATA_SOURCES.map(source),
            &archives,
        )
        .unwrap();
    }

    #[test]
    fn the_header_is_librrds_but_for_the_history() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (directory.path().join("a/b.rrd"), directory.path().join("b.rrd"));
        assert!(create(&ours, START).unwrap());
        librrd_create(&theirs);
        let (ours, theirs) = (fs::read(ours).unwrap(), fs::read(theirs).unwrap());
        assert_eq!(ours.len() as u64, FILE_BYTES);
        assert_eq!(theirs.len() as u64, FILE_BYTES);
        assert_eq!(ours[..PDP_PREP], theirs[..PDP_PREP]);
        for at in [PDP_PREP, PDP_PREP + 112] {
            // Behind the reading and the unknown seconds stands the value: 0, not NaN.
            assert_eq!(ours[at..at + 40], theirs[at..at + 40]);
            assert_eq!(ours[at + 48..at + 112], theirs[at + 48..at + 112]);
        }
        for index in 0..16 {
            // Value and unknown steps.
            let at = CDP_PREP + 80 * index;
            assert_eq!(ours[at..at + 16], [0; 16]);
            assert_eq!(ours[at + 16..at + 80], theirs[at + 16..at + 80]);
        }
        for (index, archive) in ARCHIVES.iter().enumerate() {
            let at = RRA_PTR + 8 * index;
            let row = u64::from_le_bytes(ours[at..at + 8].try_into().unwrap());
            assert!(row < archive.rows);
        }
        assert!(ours[HEADER_BYTES..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn the_history_is_zero_and_the_future_librrds() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (directory.path().join("a.rrd"), directory.path().join("b.rrd"));
        create(&ours, START).unwrap();
        librrd_create(&theirs);
        let all_rows = |path: &Path, end: u64| {
            ARCHIVES.map(|archive| {
                let resolution = archive.steps * STEP_SECS;
                let end = end - end % resolution;
                let start = end - resolution * archive.rows;
                let mut rows = fetch(path, archive.consolidation, start, end, resolution).unwrap();
                // librrd adds the row that is not yet finished.
                rows.retain(|row| row.end_secs <= end);
                assert_eq!(rows.len() as u64, archive.rows, "{archive:?}");
                rows
            })
        };
        for rows in all_rows(&ours, START) {
            assert!(rows.iter().all(|row| row.values == [0.0, 0.0]), "{rows:?}");
        }
        let mut end = START;
        let mut noise = 1u64;
        for _ in 0..4 * 288 {
            end += STEP_SECS;
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let data = [Datum::Int(noise >> 33), Datum::Float((noise >> 40) as f64 / 300.0)];
            let time = BatchTime::Timestamp(UNIX_EPOCH + Duration::from_secs(end));
            let update = [(time, data)];
            for path in [&ours, &theirs] {
                update_all(path, Options::default(), &update).unwrap();
            }
        }
        for (ours, theirs) in all_rows(&ours, end).iter().zip(&all_rows(&theirs, end)) {
            let mut compared = 0;
            for (ours, theirs) in ours.iter().zip(theirs) {
                assert_eq!(ours.end_secs, theirs.end_secs);
                if theirs.values[0].is_nan() {
                    // A day that librrd's file knows in its smaller part.
                    assert!(ours.end_secs < START + 86_400, "{ours:?}");
                } else if theirs.end_secs > START + 86_400 {
                    assert_eq!(ours.values, theirs.values);
                    compared += 1;
                }
            }
            assert!(compared > 2, "{compared}");
        }
    }

    #[test]
    fn nothing_is_overwritten_unless_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.rrd");
        fs::write(&path, "mine").unwrap();
        fs::write(directory.path().join(UNFINISHED), "left behind").unwrap();
        assert!(!create(&path, START).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(!directory.path().join(UNFINISHED).exists());
        replace(&path, START).unwrap();
        assert_eq!(fs::read(&path).unwrap()[LAST_UPDATE], START.to_le_bytes());
        create(&path.join("below a file"), START).unwrap_err();
    }
}
