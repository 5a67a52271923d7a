//! Files of our one schema: made whole, and updated as librrd updates them.
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
//!
//! **Updates.** [`Header::update`] is rrd_update.c of RRDtool 1.7.2 for this schema, operation by
//! operation, so that the file is the same to the last byte as if librrd had written it (on x86-64;
//! where a compiler fuses multiplication and addition, librrd's numbers differ from its own ones
//! elsewhere by a unit in the last place). It takes any last update and any gap: unknown values,
//! steps in part, more rows than an archive has.
//!
//! **Order.** An update is written rows first and header last. The rows that it writes are behind
//! the current ones, and so the oldest of their archives; every later update that ends a step
//! writes them again. The header's changing part is one write within one page. A process that ends
//! between two writes therefore leaves a file in which nothing has happened, but for values at the
//! far end of the archives; the same update, or any later one, makes it the file that it would have
//! been.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;

use crate::sink::{
    ARCHIVES, Archive, Consolidation, DATA_SOURCES, HEARTBEAT_SECS, STEP_SECS, XFILES_FACTOR,
    push_rate,
};

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

pub(super) const DS_DEF: usize = 128;
pub(super) const RRA_DEF: usize = DS_DEF + 120 * DATA_SOURCES.len();
const LIVE_HEAD: usize = RRA_DEF + 120 * ARCHIVES.len();
const PDP_PREP: usize = LIVE_HEAD + 16;
const CDP_PREP: usize = PDP_PREP + 112 * DATA_SOURCES.len();
const RRA_PTR: usize = CDP_PREP + 80 * ARCHIVES.len() * DATA_SOURCES.len();
const _: () = assert!(RRA_PTR + 8 * ARCHIVES.len() == HEADER_BYTES);

/// Where the last update is, in seconds since 1970.
pub const LAST_UPDATE: Range<usize> = LIVE_HEAD..LIVE_HEAD + 8;

/// Bytes of a row.
const ROW_BYTES: u64 = 8 * DATA_SOURCES.len() as u64;

/// RRDtool's unknown, the quiet NaN of x86 with its sign.
const UNKNOWN: u64 = 0xfff8_0000_0000_0000;

/// Bytes of the last reading as text, with the zero behind (rrd_format.h, LAST_DS_LEN).
const LAST_READING_BYTES: usize = 30;

/// Within a pdp_prep: seconds unknown, and the sum of value times seconds (enum pdp_par_en).
const PDP_UNKNOWN_SECS: usize = 32;
const PDP_VALUE: usize = 40;

/// Within a cdp_prep (enum cdp_par_en): the unfinished row's value and unknown steps; the values of
/// the first row that the last update finished, and of those behind it.
const CDP_VALUE: usize = 0;
const CDP_UNKNOWN_STEPS: usize = 8;
const CDP_PRIMARY: usize = 64;
const CDP_SECONDARY: usize = 72;

/// What stands for `rrd` in the name under which a file is made, before it gets its own: several
/// threads make files in one directory.
const UNFINISHED: &str = "ixflow-new";

/// Makes `path` with a history of zeros up to `start_secs` (seconds since 1970, a multiple of the
/// step), which becomes its last update; directories too. False: there is such a file, and it was
/// left alone.
///
/// The file appears whole or not at all.
pub fn create(path: &Path, start_secs: u64) -> io::Result<bool> {
    let unfinished = path.with_extension(UNFINISHED);
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

/// Whether a header is that of a file as [`create`] made it: no update has reached it.
pub(super) fn is_unfed(bytes: &[u8; HEADER_BYTES], start_secs: u64) -> bool {
    let fresh = header(start_secs, 0);
    // Behind it are the places of the last rows, which are random.
    bytes[..RRA_PTR] == fresh[..RRA_PTR]
}

/// As [`create`], but replaces the file that is there.
pub fn replace(path: &Path, start_secs: u64) -> io::Result<()> {
    let unfinished = path.with_extension(UNFINISHED);
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

/// What an update says of a data source: a rate, or that it is unknown.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// As text, filled up with zeros.
    text: [u8; LAST_READING_BYTES],
    /// NaN if unknown.
    value: f64,
}

impl Reading {
    /// `U`.
    pub const UNKNOWN: Reading = {
        let mut text = [0; LAST_READING_BYTES];
        text[0] = b'U';
        Reading { text, value: f64::NAN }
    };

    /// `0`.
    pub const ZERO: Reading = {
        let mut text = [0; LAST_READING_BYTES];
        text[0] = b'0';
        Reading { text, value: 0.0 }
    };

    /// `total / secs`, in the decimals of [`push_rate`] and with the value that librrd reads in
    /// them. `scratch` is overwritten.
    ///
    /// # Panics
    ///
    /// If `secs` is 0.
    pub fn rate(total: u64, secs: u64, scratch: &mut Vec<u8>) -> Reading {
        if total == 0 {
            return Reading::ZERO;
        }
        scratch.clear();
        push_rate(scratch, total, secs);
        Reading::from_decimals(scratch)
    }

    /// Digits, and perhaps a point and more digits.
    fn from_decimals(decimals: &[u8]) -> Reading {
        let mut text = [0; LAST_READING_BYTES];
        let kept = decimals.len().min(LAST_READING_BYTES - 1);
        text[..kept].copy_from_slice(&decimals[..kept]);
        Reading { text, value: read_decimals(decimals) }
    }
}

/// Reads decimals as librrd does (rrd_strtod.c): every digit in turn into a double, then divided by
/// 10^n through the binary digits of n. Off by up to three units in the last place.
pub(crate) fn read_decimals(decimals: &[u8]) -> f64 {
    let mut number = 0.0;
    let mut places = 0u32;
    let mut behind_point = 0;
    for &byte in decimals {
        if byte == b'.' {
            behind_point = 1;
        } else {
            number = number * 10.0 + f64::from(byte - b'0');
            places += behind_point;
        }
    }
    let mut power = 10.0;
    while places > 0 {
        if places & 1 == 1 {
            number /= power;
        }
        power *= power;
        places >>= 1;
    }
    number
}

/// Why a file is not exactly of our schema.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Foreign {
    /// It is no RRD file, or one of another machine, or cut off, or its pointers lead nowhere.
    #[error("{0}")]
    Unreadable(&'static str),
    /// It has other data sources, so that our values would mean something else in it.
    #[error("its data sources are not the GAUGEs traffic_in and traffic_out")]
    DataSources,
    /// It has our data sources, but another step, heartbeat, limits, or other archives.
    #[error("its {0}")]
    Schema(&'static str),
}

/// The header of a file of our schema.
#[derive(Clone, Debug)]
pub struct Header {
    bytes: [u8; HEADER_BYTES],
}

/// Rows that an update finishes in one archive.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    archive: usize,
    /// Of the first one.
    row: u64,
    count: u64,
    first: [u64; DATA_SOURCES.len()],
    others: [u64; DATA_SOURCES.len()],
}

impl Header {
    /// An empty one, for [`Header::bytes_mut`].
    pub const fn new() -> Header {
        Header { bytes: [0; HEADER_BYTES] }
    }

    /// To read a file's header into; [`Header::check`] comes next.
    pub fn bytes_mut(&mut self) -> &mut [u8; HEADER_BYTES] {
        &mut self.bytes
    }

    /// Whether this is the header of a file of our schema that has `file_bytes`.
    pub fn check(&self, file_bytes: u64) -> Result<(), Foreign> {
        if self.bytes[..LIVE_HEAD] != TEMPLATE[..LIVE_HEAD] {
            self.check_definitions()?;
        }
        if file_bytes < FILE_BYTES {
            return Err(Foreign::Unreadable("it is shorter than its archives"));
        }
        for (index, archive) in ARCHIVES.iter().enumerate() {
            if self.count(RRA_PTR + 8 * index) >= archive.rows {
                return Err(Foreign::Unreadable("a current row is outside of its archive"));
            }
        }
        Ok(())
    }

    /// Whether the fields that mean something are ours: other versions of RRDtool may leave
    /// anything between them.
    fn check_definitions(&self) -> Result<(), Foreign> {
        let text = |at: usize, length: usize, expected: &str| {
            let field = &self.bytes[at..at + length];
            field.split(|&byte| byte == 0).next() == Some(expected.as_bytes())
        };
        let unlimited = |at: usize| f64::from_bits(self.count(at)).is_nan();
        let need = |holds: bool, else_: Foreign| if holds { Ok(()) } else { Err(else_) };

        need(text(0, 4, "RRD"), Foreign::Unreadable("it is not an RRD file"))?;
        need(
            self.bytes[16..24] == TEMPLATE[16..24],
            Foreign::Unreadable("it was made on another architecture"),
        )?;
        need(text(4, 5, "0003"), Foreign::Schema("format has another version"))?;
        need(self.count(24) == DATA_SOURCES.len() as u64, Foreign::DataSources)?;
        for (index, name) in DATA_SOURCES.iter().enumerate() {
            let at = DS_DEF + 120 * index;
            let ours = text(at, 20, name) && text(at + 20, 20, "GAUGE");
            need(ours, Foreign::DataSources)?;
        }
        need(self.count(40) == STEP_SECS, Foreign::Schema("step is another one"))?;
        for index in 0..DATA_SOURCES.len() {
            let at = DS_DEF + 120 * index;
            let ours = self.count(at + 40) == HEARTBEAT_SECS;
            need(ours, Foreign::Schema("heartbeat is another one"))?;
            let ours = unlimited(at + 48) && unlimited(at + 56);
            need(ours, Foreign::Schema("data sources have limits"))?;
        }
        let archives = Foreign::Schema("archives are others");
        need(self.count(32) == ARCHIVES.len() as u64, archives.clone())?;
        for (index, archive) in ARCHIVES.iter().enumerate() {
            let at = RRA_DEF + 120 * index;
            let ours = text(at, 20, archive.consolidation.name())
                && self.count(at + 24) == archive.rows
                && self.count(at + 32) == archive.steps
                && self.number(at + 40).to_bits() == XFILES_FACTOR.to_bits();
            need(ours, archives.clone())?;
        }
        Ok(())
    }

    /// The last update, in seconds since 1970.
    pub fn last_update_secs(&self) -> u64 {
        self.count(LAST_UPDATE.start)
    }

    /// Takes readings for the time from the last update up to `at_secs`; appends the rows that are
    /// finished thereby.
    ///
    /// # Panics
    ///
    /// If `at_secs` is not behind the last update.
    pub fn update(
        &mut self,
        at_secs: u64,
        readings: &[Reading; DATA_SOURCES.len()],
        rows: &mut Vec<Rows>,
    ) {
        const MICROS: f64 = 1e6;
        let last_secs = self.last_update_secs();
        assert!(at_secs > last_secs, "updates go forward");
        // Of files that were updated with "N", as the incumbent does.
        let last_micros = self.count(LIVE_HEAD + 8) as f64;
        let mut interval = (at_secs - last_secs) as f64 - last_micros / MICROS;

        // Value times seconds (update_pdp_prep).
        let mut fresh = [f64::NAN; DATA_SOURCES.len()];
        for (index, reading) in readings.iter().enumerate() {
            if HEARTBEAT_SECS as f64 >= interval {
                fresh[index] = reading.value * interval;
            }
            let at = PDP_PREP + 112 * index;
            self.bytes[at..at + LAST_READING_BYTES].copy_from_slice(&reading.text);
        }

        // calculate_elapsed_steps
        let begun_secs = last_secs - last_secs % STEP_SECS;
        let ended_secs = at_secs - at_secs % STEP_SECS;
        let mut steps = (ended_secs - begun_secs) / STEP_SECS;
        let mut step = begun_secs / STEP_SECS;
        if steps == 0 {
            self.continue_step(interval, fresh);
        } else {
            let mut before = (ended_secs - last_secs) as f64 - last_micros / MICROS;
            let behind = (at_secs % STEP_SECS) as f64;
            if steps > 1 {
                // The step that was begun is ended by itself (process_arg, "most left open PDP").
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "whole seconds are meant, of a time that is positive"
                )]
                let open_secs = before as u64 % STEP_SECS;
                if open_secs > 0 {
                    let open = open_secs as f64;
                    let mut share = [f64::NAN; DATA_SOURCES.len()];
                    for (share, fresh) in share.iter_mut().zip(&mut fresh) {
                        if !fresh.is_nan() && interval > 0.0 {
                            *share = *fresh * open / interval;
                            *fresh -= *share;
                        }
                    }
                    self.end_steps(
                        Ending { interval: open, before: open, behind: 0.0 },
                        share,
                        step,
                        1,
                        rows,
                    );
                    interval -= open;
                    before -= open;
                    steps -= 1;
                    step += 1;
                }
            }
            self.end_steps(Ending { interval, before, behind }, fresh, step, steps, rows);
        }
        self.put_count(LIVE_HEAD, at_secs);
        self.put_count(LIVE_HEAD + 8, 0);
    }

    /// An update within a step (simple_update).
    fn continue_step(&mut self, interval: f64, fresh: [f64; DATA_SOURCES.len()]) {
        for (index, fresh) in fresh.into_iter().enumerate() {
            let at = PDP_PREP + 112 * index;
            if fresh.is_nan() {
                let unknown_secs = self.count(at + PDP_UNKNOWN_SECS) as f64 + interval.floor();
                self.put_count(at + PDP_UNKNOWN_SECS, whole(unknown_secs));
            } else {
                let value = self.number(at + PDP_VALUE);
                let sum = if value.is_nan() { fresh } else { value + fresh };
                self.put_number(at + PDP_VALUE, sum);
            }
        }
    }

    /// Ends `steps` steps, of which `step` is the first one's number since 1970.
    fn end_steps(
        &mut self,
        ending: Ending,
        fresh: [f64; DATA_SOURCES.len()],
        step: u64,
        steps: u64,
        rows: &mut Vec<Rows>,
    ) {
        let mut values = [f64::NAN; DATA_SOURCES.len()];
        for (index, (value, fresh)) in values.iter_mut().zip(fresh).enumerate() {
            *value = self.end_step(PDP_PREP + 112 * index, ending, fresh, steps);
        }
        for (index, archive) in ARCHIVES.iter().enumerate() {
            // Steps to the end of the unfinished row (update_all_cdp_prep).
            let missing = archive.steps - step % archive.steps;
            let count = if missing <= steps {
                ((steps - missing) / archive.steps + 1).min(archive.rows)
            } else {
                0
            };
            for (source, &value) in values.iter().enumerate() {
                let at = CDP_PREP + 80 * (DATA_SOURCES.len() * index + source);
                if archive.steps > 1 {
                    self.consolidate(at, archive, value, count > 0, steps, missing);
                } else {
                    // update_aberrant_cdps for one and two steps, reset_cdp for more.
                    self.put_number(at + CDP_PRIMARY, value);
                    if steps > 1 {
                        self.put_number(at + CDP_SECONDARY, value);
                    }
                }
            }
            if count > 0 {
                // write_to_rras
                let at = RRA_PTR + 8 * index;
                let current = self.count(at);
                self.put_count(at, (current + count) % archive.rows);
                let at = CDP_PREP + 80 * DATA_SOURCES.len() * index;
                rows.push(Rows {
                    archive: index,
                    row: (current + 1) % archive.rows,
                    count,
                    first: [0, 80].map(|source| self.count(at + source + CDP_PRIMARY)),
                    others: [0, 80].map(|source| self.count(at + source + CDP_SECONDARY)),
                });
            }
        }
    }

    /// The mean of the steps that end, of one data source; what is behind them begins the next
    /// (process_pdp_st).
    fn end_step(&mut self, at: usize, ending: Ending, fresh: f64, steps: u64) -> f64 {
        let Ending { interval, before, behind } = ending;
        let mut sum = self.number(at + PDP_VALUE);
        let unknown_secs = self.count(at + PDP_UNKNOWN_SECS);
        let mut unknown_before = 0.0;
        if fresh.is_nan() {
            unknown_before = before;
        } else {
            if sum.is_nan() {
                sum = 0.0;
            }
            sum += fresh / interval * before;
        }
        #[expect(clippy::cast_possible_truncation, reason = "librrd's (signed)")]
        let mostly_unknown = STEP_SECS as f64 / 2.0 < f64::from(unknown_secs as i32);
        let value = if interval > HEARTBEAT_SECS as f64 || mostly_unknown {
            f64::NAN
        } else {
            let known_secs = (steps * STEP_SECS).wrapping_sub(unknown_secs) as f64;
            sum / (known_secs - unknown_before)
        };
        if fresh.is_nan() {
            self.put_count(at + PDP_UNKNOWN_SECS, whole(behind));
            self.put_number(at + PDP_VALUE, f64::NAN);
        } else {
            self.put_count(at + PDP_UNKNOWN_SECS, 0);
            self.put_number(at + PDP_VALUE, fresh / interval * behind);
        }
        value
    }

    /// Takes the mean of `steps` steps into the unfinished row of an archive and data source, of
    /// which `missing` steps are missing (update_cdp).
    fn consolidate(
        &mut self,
        at: usize,
        archive: &Archive,
        value: f64,
        ends: bool,
        steps: u64,
        missing: u64,
    ) {
        let mut unknown = self.count(at + CDP_UNKNOWN_STEPS);
        let so_far = self.number(at + CDP_VALUE);
        if !ends {
            if value.is_nan() {
                self.put_count(at + CDP_UNKNOWN_STEPS, unknown.wrapping_add(steps));
                return;
            }
            // calculate_cdp_val
            let sum = match archive.consolidation {
                Consolidation::Average if so_far.is_nan() => value * steps as f64,
                Consolidation::Average => so_far + value * steps as f64,
                Consolidation::Max if so_far.is_nan() || value > so_far => value,
                Consolidation::Max => so_far,
            };
            self.put_number(at + CDP_VALUE, sum);
            return;
        }
        if value.is_nan() {
            unknown = unknown.wrapping_add(missing);
        }
        self.put_number(at + CDP_SECONDARY, value);
        let or = |value: f64, other: f64| if value.is_nan() { other } else { value };
        let first = if unknown as f64 > archive.steps as f64 * XFILES_FACTOR {
            f64::NAN
        } else {
            // initialize_cdp_val
            match archive.consolidation {
                Consolidation::Average => {
                    (or(so_far, 0.0) + or(value, 0.0) * missing as f64)
                        / archive.steps.wrapping_sub(unknown) as f64
                }
                Consolidation::Max => {
                    let so_far = or(so_far, f64::NEG_INFINITY);
                    let value = or(value, f64::NEG_INFINITY);
                    if value > so_far { value } else { so_far }
                }
            }
        };
        self.put_number(at + CDP_PRIMARY, first);
        // initialize_carry_over
        let carried = (steps - missing) % archive.steps;
        let known = carried > 0 && !value.is_nan();
        let next = match archive.consolidation {
            Consolidation::Average if known => value * carried as f64,
            Consolidation::Average => 0.0,
            Consolidation::Max if known => value,
            Consolidation::Max => f64::NEG_INFINITY,
        };
        self.put_number(at + CDP_VALUE, next);
        self.put_count(at + CDP_UNKNOWN_STEPS, if value.is_nan() { carried } else { 0 });
    }

    /// Calls `write` with what has to be written, and where, in this order: the rows that updates
    /// have finished, then the header's changing part.
    pub fn try_each_write(
        &self,
        rows: &[Rows],
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        for rows in rows {
            rows.try_each_write(&mut write)?;
        }
        write(&self.bytes[LIVE_HEAD..], LIVE_HEAD as u64)
    }

    fn count(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    fn number(&self, at: usize) -> f64 {
        f64::from_bits(self.count(at))
    }

    fn put_count(&mut self, at: usize, count: u64) {
        self.bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
    }

    fn put_number(&mut self, at: usize, number: f64) {
        self.put_count(at, if number.is_nan() { UNKNOWN } else { number.to_bits() });
    }
}

impl Default for Header {
    fn default() -> Header {
        Header::new()
    }
}

/// Seconds of an update that ends steps: all of them, those before the last end of a step, and
/// those behind it.
#[derive(Clone, Copy)]
struct Ending {
    interval: f64,
    before: f64,
    behind: f64,
}

impl Rows {
    fn try_each_write(
        &self,
        write: &mut impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let archive = &ARCHIVES[self.archive];
        let start = ROWS_START[self.archive];
        let row_bytes = |values: [u64; DATA_SOURCES.len()]| {
            let mut bytes = [0; 8 * DATA_SOURCES.len()];
            bytes[..8].copy_from_slice(&values[0].to_le_bytes());
            bytes[8..].copy_from_slice(&values[1].to_le_bytes());
            bytes
        };
        write(&row_bytes(self.first), start + self.row * ROW_BYTES)?;
        // Behind the last row comes the first: two runs at the most.
        let mut row = self.row + 1;
        let mut left = self.count - 1;
        while left > 0 {
            row %= archive.rows;
            let run = left.min(archive.rows - row);
            #[expect(clippy::cast_possible_truncation, reason = "3,650 rows at the most")]
            let bytes = row_bytes(self.others).repeat(run as usize);
            write(&bytes, start + row * ROW_BYTES)?;
            row += run;
            left -= run;
        }
        Ok(())
    }
}

/// Where the rows of each archive begin.
const ROWS_START: [u64; ARCHIVES.len()] = {
    let mut starts = [HEADER_BYTES as u64; ARCHIVES.len()];
    let mut index = 1;
    while index < ARCHIVES.len() {
        starts[index] = starts[index - 1] + ARCHIVES[index - 1].rows * ROW_BYTES;
        index += 1;
    }
    starts
};

/// A number of seconds without what is behind its point.
#[expect(
    clippy::cast_possible_truncation,
    reason = "librrd's assignment of a double to an unsigned long"
)]
fn whole(secs: f64) -> u64 {
    secs.floor() as u64
}

/// The header of a file that was never updated.
static TEMPLATE: LazyLock<[u8; HEADER_BYTES]> = LazyLock::new(|| header(0, 0));

/// The header of a file that was last updated at `start_secs`, a multiple of the step, and knows
/// only zeros; the current rows are taken from `random`.
fn header(start_secs: u64, mut random: u64) -> [u8; HEADER_BYTES] {
    debug_assert_eq!(start_secs % STEP_SECS, 0, "the step of a new file is not begun");
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
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, ChildStdout, Command, Stdio};
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;
    use rrd::ConsolidationFn;
    use rrd::ops::create::{self as librrd, DataSource, DataSourceName};
    use rrd::ops::update::{BatchTime, Datum, Options, update_all};

    use super::*;
    use crate::sink::Consolidation;
    use crate::sink::librrd::fetch;

    const START: u64 = 1_700_000_100;

    /// An update of both data sources at a time; of values that are known, total and seconds.
    #[derive(Clone, Debug)]
    struct Step {
        gap_secs: u64,
        values: [Option<(u64, u64)>; 2],
    }

    fn steps(count: Range<usize>) -> impl Strategy<Value = Vec<Step>> {
        // Weights so that rows of all archives are finished in parts, whole, and many at once.
        let gap_secs = prop_oneof![
            40 => Just(0).boxed(),
            6 => (1..4u64).prop_map(|steps| steps * 300).boxed(),
            20 => (1..300u64).boxed(),
            8 => (1..1_500u64).boxed(),
            3 => (1..400u64).prop_map(|steps| steps * 300).boxed(),
            2 => (1..400_000u64).boxed(),
            1 => (1..500u64).prop_map(|days| days * 86_400).boxed(),
            1 => (1..50_000_000u64).boxed(),
        ];
        let total = (0u32..60, any::<u64>()).prop_map(|(bits, noise)| noise % (1 << bits));
        let secs = prop_oneof![3 => Just(300u64), 1 => 1..=600u64];
        let value = prop_oneof![1 => Just(None), 9 => (total, secs).prop_map(Some)];
        let step = (gap_secs, value.clone(), value)
            .prop_map(|(gap_secs, one, other)| Step { gap_secs, values: [one, other] });
        proptest::collection::vec(step, count)
    }

    /// librrd by way of the `rrd` crate, which makes its own decimals, and by way of rrdtool,
    /// which takes those that go to rrdcached.
    enum Oracle {
        Crate,
        Tool { process: Child, answers: BufReader<ChildStdout> },
    }

    impl Oracle {
        fn tool() -> Option<Oracle> {
            let mut process = Command::new("rrdtool")
                .arg("-")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .ok()?;
            let answers = BufReader::new(process.stdout.take().unwrap());
            Some(Oracle::Tool { process, answers })
        }

        /// Updates `path`, and returns what our writer is to take for the same.
        fn update(
            &mut self,
            path: &Path,
            at_secs: u64,
            values: [Option<(u64, u64)>; 2],
        ) -> [Reading; 2] {
            let mut scratch = Vec::new();
            match self {
                Oracle::Crate => {
                    let rate = |(total, secs)| total as f64 / secs as f64;
                    let data = values.map(|value| {
                        value.map_or(Datum::Unspecified, |value| Datum::Float(rate(value)))
                    });
                    let time = UNIX_EPOCH + Duration::from_secs(at_secs);
                    update_all(path, Options::default(), &[(BatchTime::Timestamp(time), data)])
                        .unwrap();
                    values.map(|value| match value {
                        None => Reading::UNKNOWN,
                        Some(value) => Reading::from_decimals(rate(value).to_string().as_bytes()),
                    })
                }
                Oracle::Tool { .. } => {
                    let mut line = format!("update {} {at_secs}", path.display()).into_bytes();
                    for value in values {
                        line.push(b':');
                        match value {
                            None => line.push(b'U'),
                            Some((total, secs)) => push_rate(&mut line, total, secs),
                        }
                    }
                    line.push(b'\n');
                    self.ask(&line);
                    values.map(|value| match value {
                        None => Reading::UNKNOWN,
                        Some((total, secs)) => Reading::rate(total, secs, &mut scratch),
                    })
                }
            }
        }
    }

    impl Oracle {
        /// Has rrdtool execute a line.
        fn ask(&mut self, line: &[u8]) {
            let Oracle::Tool { process, answers } = self else { panic!("this is the crate") };
            process.stdin.as_mut().unwrap().write_all(line).unwrap();
            let mut answer = String::new();
            answers.read_line(&mut answer).unwrap();
            assert!(answer.starts_with("OK"), "{answer}");
        }
    }

    impl Drop for Oracle {
        fn drop(&mut self) {
            if let Oracle::Tool { process, .. } = self {
                drop(process.stdin.take());
                process.wait().unwrap();
            }
        }
    }

    fn read_header(file: &fs::File) -> Header {
        let mut header = Header::new();
        file.read_exact_at(header.bytes_mut(), 0).unwrap();
        header.check(file.metadata().unwrap().len()).unwrap();
        header
    }

    /// Where two files differ, by the first byte.
    fn difference(ours: &[u8], theirs: &[u8]) -> Option<usize> {
        assert_eq!(ours.len(), theirs.len());
        (ours != theirs).then(|| ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap())
    }

    /// Updates two equal files, one with librrd, and compares: the header always, all of the file
    /// now and then and at the end.
    fn compare(oracle: &mut Oracle, whole: bool, steps: &[Step]) {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (directory.path().join("a.rrd"), directory.path().join("b.rrd"));
        let mut at_secs = START;
        if whole {
            create(&ours, START).unwrap();
        } else {
            librrd_create(&ours);
        }
        if matches!(oracle, Oracle::Tool { .. }) && steps.len() % 2 == 1 {
            // As the incumbent's "N" leaves a file: within a second.
            oracle.ask(format!("update {} {}.25:3:U\n", ours.display(), START + 130).as_bytes());
            at_secs = START + 130;
        }
        fs::copy(&ours, &theirs).unwrap();
        let file = fs::File::options().read(true).write(true).open(&ours).unwrap();
        let librrds = fs::File::open(&theirs).unwrap();
        for (number, step) in steps.iter().enumerate() {
            // A gap of none is to the next boundary.
            at_secs = match step.gap_secs {
                0 => at_secs - at_secs % 300 + 300,
                gap_secs => at_secs + gap_secs,
            };
            let readings = oracle.update(&theirs, at_secs, step.values);
            let mut header = read_header(&file);
            let mut rows = Vec::new();
            header.update(at_secs, &readings, &mut rows);
            header.try_each_write(&rows, |bytes, at| file.write_all_at(bytes, at)).unwrap();

            let differs = difference(&read_header(&file).bytes, &read_header(&librrds).bytes);
            assert_eq!(differs, None, "header, update {number}: {step:?}");
            if number % 16 == 0 || number + 1 == steps.len() {
                let (ours, theirs) = (fs::read(&ours).unwrap(), fs::read(&theirs).unwrap());
                assert_eq!(difference(&ours, &theirs), None, "by update {number}");
            }
        }
    }

    proptest! {
        // 120,000 updates in all.
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn updates_are_librrds_to_the_last_byte(
            steps in steps(2_000..2_002),
            whole: bool,
            tool: bool,
        ) {
            let mut oracle = if tool { Oracle::tool() } else { None }.unwrap_or(Oracle::Crate);
            compare(&mut oracle, whole, &steps);
        }
    }

    /// Reads a file and updates it, but writes only so much: `writes` of the update's.
    fn update_in_part(path: &Path, at_secs: u64, readings: &[Reading; 2], writes: usize) -> usize {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let (mut header, mut rows) = (read_header(&file), Vec::new());
        header.update(at_secs, readings, &mut rows);
        let mut number = 0;
        header
            .try_each_write(&rows, |bytes, at| {
                number += 1;
                if number <= writes { file.write_all_at(bytes, at) } else { Ok(()) }
            })
            .unwrap();
        number
    }

    #[test]
    fn an_update_cut_off_anywhere_leaves_no_trace_in_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (file, torn) = (path("a.rrd"), path("b.rrd"));
        let (once, later) = (path("c.rrd"), path("d.rrd"));
        create(&file, START).unwrap();
        let mut scratch = Vec::new();
        let mut cuts = 0;
        // Part of a step, a boundary, the end of a row of every archive, gaps of some rows, and of
        // more than the first archives have.
        for gap_secs in [100, 200, 300, 1_500, 86_400, 900, 450, 1_000, 300 * 650, 3_000_000] {
            let at_secs =
                read_header(&fs::File::open(&file).unwrap()).last_update_secs() + gap_secs;
            let mut readings = |total| {
                [
                    Reading::rate(total, 300, &mut scratch),
                    Reading::rate(gap_secs, 300, &mut scratch),
                ]
            };
            let (now, next) = (readings(100_001), readings(77));
            let all = usize::MAX;
            fs::copy(&file, &once).unwrap();
            let writes = update_in_part(&once, at_secs, &now, all);
            fs::copy(&file, &later).unwrap();
            update_in_part(&later, at_secs + 301, &next, all);
            for cut in 0..writes {
                fs::copy(&file, &torn).unwrap();
                update_in_part(&torn, at_secs, &now, cut);
                // Nothing has happened, as far as the file says.
                let headers =
                    [&file, &torn].map(|path| fs::read(path).unwrap()[..HEADER_BYTES].to_vec());
                assert_eq!(headers[0], headers[1]);
                // The same again, or, if the interval was given up, the next.
                for (expected, at_secs, readings) in
                    [(&once, at_secs, &now), (&later, at_secs + 301, &next)]
                {
                    let again = path("again.rrd");
                    fs::copy(&torn, &again).unwrap();
                    update_in_part(&again, at_secs, readings, all);
                    let (again, expected) =
                        (fs::read(&again).unwrap(), fs::read(expected).unwrap());
                    assert_eq!(difference(&again, &expected), None, "{gap_secs}, cut at {cut}");
                }
                cuts += 1;
            }
            fs::copy(&once, &file).unwrap();
        }
        assert!(cuts > 50, "{cuts}");
    }

    #[test]
    fn files_of_another_schema_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.rrd");
        librrd_create(&path);
        let ours = fs::read(&path).unwrap();
        let check = |change: &dyn Fn(&mut [u8])| {
            let mut bytes = ours.clone();
            change(&mut bytes);
            let mut header = Header::new();
            header.bytes_mut().copy_from_slice(&bytes[..HEADER_BYTES]);
            header.check(FILE_BYTES)
        };
        assert_eq!(check(&|_| ()), Ok(()));
        // What older versions leave behind the end of a text means nothing.
        assert_eq!(check(&|bytes| bytes[DS_DEF + 12..DS_DEF + 20].fill(7)), Ok(()));
        let unreadable = |result| matches!(result, Err(Foreign::Unreadable(_)));
        let schema = |result| matches!(result, Err(Foreign::Schema(_)));
        assert!(unreadable(check(&|bytes| bytes[0] = b'X')));
        // The float cookie of a machine with 32 bits is elsewhere, of another order reversed.
        assert!(unreadable(check(&|bytes| bytes[16..24].reverse())));
        assert!(unreadable(check(&|bytes| bytes.copy_within(16..2_800, 12))));
        assert!(unreadable(check(&|bytes| bytes[RRA_PTR + 1] = 9)));
        assert_eq!(check(&|bytes| bytes[DS_DEF] = b'T'), Err(Foreign::DataSources));
        assert_eq!(check(&|bytes| bytes[24] = 1), Err(Foreign::DataSources));
        assert_eq!(
            check(&|bytes| bytes[DS_DEF + 20..DS_DEF + 28].copy_from_slice(b"COUNTER\0")),
            Err(Foreign::DataSources)
        );
        assert!(schema(check(&|bytes| bytes[40] = 60)));
        assert!(schema(check(&|bytes| bytes[8] = b'5')));
        assert!(schema(check(&|bytes| bytes[DS_DEF + 40] = 1)));
        assert!(schema(check(&|bytes| bytes[DS_DEF + 48..DS_DEF + 56].fill(0))));
        assert!(schema(check(&|bytes| bytes[32] = 4)));
        assert!(schema(check(&|bytes| bytes[RRA_DEF + 24] = 1)));
        let mut header = Header::new();
        header.bytes_mut().copy_from_slice(&ours[..HEADER_BYTES]);
        assert!(unreadable(header.check(FILE_BYTES - 1)));
    }

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
        fs::write(path.with_extension(UNFINISHED), "left behind").unwrap();
        assert!(!create(&path, START).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(!path.with_extension(UNFINISHED).exists());
        replace(&path, START).unwrap();
        assert_eq!(fs::read(&path).unwrap()[LAST_UPDATE], START.to_le_bytes());
        create(&path.join("below a file"), START).unwrap_err();
    }
}
