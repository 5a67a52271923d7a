//! Sinks: where intervals are written.
//!
//! The RRD tree is IXP Manager's, to the letter: its Grapher finds the files by name and reads
//! `traffic_in` and `traffic_out` from them. With `P` = `ipv4` or `ipv6`, `T` = `bytes` or `pkts`,
//! and ids of at least five digits:
//!
//! ```text
//! P/T/aggregate/aggregate.P.T.vlanVVVVV.rrd               V: 802.1Q tag
//! P/T/individual/individual.P.T.src-SSSSS.rrd             S: VLI
//! P/T/p2p/src-SSSSS/p2p.P.T.src-SSSSS.dst-DDDDD.rrd       S, D: VLIs
//! ```
//!
//! `traffic_in` of a p2p file is what the peer sent to the VLI that the file is named after, and
//! `traffic_in` of an individual file what that VLI sent into the fabric: opposite directions,
//! because the portal's graphs expect them so. An aggregate is the sum of its individuals.
//!
//! An interval becomes one update per file, in the order of the paths (a sorted walk is three
//! times as fast in rrdcached's tree). Individuals and aggregates are always fed; a pair has files
//! from its first traffic on, and is fed zeros while idle, because the portal's summed graphs go
//! blank where one of their files lags. For the same reason a new file has a history of zeros.
//!
//! Rates are written as decimals, stamped with the end of the interval. In front of one may stand
//! a second value, stamped with the start: `U` where nothing is known of the time before it, so
//! that a rate is never spread over a hole.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::count::Traffic;
use crate::flush::{Interval, PairTraffic};
use crate::ixp::{IpProtocol, Unit, VlanTag, VliId};

pub mod file;
pub mod librrd;
pub mod rrdcached;
pub mod writer;

/// Seconds between two rows of the finest archive.
pub const STEP_SECS: u64 = 300;

/// Seconds without an update after which RRD holds a value for unknown.
pub const HEARTBEAT_SECS: u64 = 600;

/// The data sources of every file, in order: GAUGE without limits, bytes or packets per second.
pub const DATA_SOURCES: [&str; 2] = ["traffic_in", "traffic_out"];

/// The share of unknown values up to which a consolidated value is still known.
pub const XFILES_FACTOR: f64 = 0.5;

/// Refusals that a [`Receipt`] names; further ones are only counted.
pub const REFUSALS_MAX: usize = 16;

/// Files that are remembered as having missed an update, at the most.
const LAGGING_MAX: usize = 100_000;

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

/// A file of the RRD tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum File {
    /// What `vli` and `peer` exchange, seen from `vli`.
    Pair {
        /// IPv4 or IPv6.
        protocol: IpProtocol,
        /// Bytes or packets.
        unit: Unit,
        /// The VLI whose view it is: `src` of the path.
        vli: VliId,
        /// The other one: `dst` of the path.
        peer: VliId,
    },
    /// All that a VLI exchanges with the fabric.
    Individual {
        /// IPv4 or IPv6.
        protocol: IpProtocol,
        /// Bytes or packets.
        unit: Unit,
        /// The VLI.
        vli: VliId,
    },
    /// All that the VLIs of a VLAN exchange.
    Aggregate {
        /// IPv4 or IPv6.
        protocol: IpProtocol,
        /// Bytes or packets.
        unit: Unit,
        /// The VLAN's tag, shared by the infrastructures that use it.
        vlan: VlanTag,
    },
}

impl File {
    /// Appends the path below the root of the tree.
    pub fn write_path(&self, out: &mut Vec<u8>) {
        let (protocol, unit) = self.family();
        for part in [protocol.name(), "/", unit.name()] {
            out.extend_from_slice(part.as_bytes());
        }
        match self {
            File::Aggregate { .. } => out.extend_from_slice(b"/aggregate"),
            File::Individual { .. } => out.extend_from_slice(b"/individual"),
            File::Pair { vli, .. } => {
                out.extend_from_slice(b"/p2p/src-");
                push_id(out, vli.0);
            }
        }
        out.push(b'/');
        self.write_name(out);
    }

    /// Appends the last component of the path.
    fn write_name(&self, out: &mut Vec<u8>) {
        let (protocol, unit) = self.family();
        let (kind, label, id) = match *self {
            File::Aggregate { vlan, .. } => ("aggregate.", ".vlan", u32::from(vlan.as_u16())),
            File::Individual { vli, .. } => ("individual.", ".src-", vli.0),
            File::Pair { vli, .. } => ("p2p.", ".src-", vli.0),
        };
        for part in [kind, protocol.name(), ".", unit.name(), label] {
            out.extend_from_slice(part.as_bytes());
        }
        push_id(out, id);
        if let File::Pair { peer, .. } = self {
            out.extend_from_slice(b".dst-");
            push_id(out, peer.0);
        }
        out.extend_from_slice(b".rrd");
    }

    /// The file that a path's last component names.
    fn from_name(name: &str) -> Option<File> {
        let id = |part: &str, label: &str| part.strip_prefix(label)?.parse::<u32>().ok();
        let mut parts = name.strip_suffix(".rrd")?.split('.');
        let kind = parts.next()?;
        let protocol = parts.next()?;
        let protocol = IpProtocol::ALL.into_iter().find(|known| known.name() == protocol)?;
        let unit = parts.next()?;
        let unit = Unit::ALL.into_iter().find(|known| known.name() == unit)?;
        let whose = parts.next()?;
        let file = match kind {
            "aggregate" => {
                File::Aggregate { protocol, unit, vlan: VlanTag::new(id(whose, "vlan")?) }
            }
            "individual" => File::Individual { protocol, unit, vli: VliId(id(whose, "src-")?) },
            "p2p" => {
                let peer = VliId(id(parts.next()?, "dst-")?);
                File::Pair { protocol, unit, vli: VliId(id(whose, "src-")?), peer }
            }
            _ => return None,
        };
        // Other spellings of an id (no leading zeros, a sign) are not the file that we write.
        let mut canonical = Vec::with_capacity(name.len());
        file.write_name(&mut canonical);
        (canonical == name.as_bytes()).then_some(file)
    }

    /// IP protocol and unit.
    pub const fn family(&self) -> (IpProtocol, Unit) {
        match *self {
            File::Pair { protocol, unit, .. }
            | File::Individual { protocol, unit, .. }
            | File::Aggregate { protocol, unit, .. } => (protocol, unit),
        }
    }

    /// Below the path of the tree.
    pub fn path(&self, root: &Path) -> PathBuf {
        root.join(self.to_string())
    }

    fn slot(&self) -> usize {
        let (protocol, unit) = self.family();
        slot(protocol, unit)
    }

    /// Within a slot: the pairs of a VLI in the order of their peers, then its individual; behind
    /// all VLIs the aggregates. The id 2^32-1 is nobody's (IXP Manager counts up from 1).
    fn key(&self) -> u64 {
        match *self {
            File::Pair { vli, peer, .. } => pair_key(vli, peer),
            File::Individual { vli, .. } => pair_key(vli, VliId(u32::MAX)),
            File::Aggregate { vlan, .. } => {
                pair_key(VliId(u32::MAX), VliId(u32::from(vlan.as_u16())))
            }
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut path = Vec::with_capacity(80);
        self.write_path(&mut path);
        f.write_str(&String::from_utf8_lossy(&path))
    }
}

/// The text is not the path of a file of the RRD tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a path of the RRD tree")]
pub struct FileError;

impl FromStr for File {
    type Err = FileError;

    /// Reads a path below the root, spelled as [`File::write_path`] does.
    fn from_str(path: &str) -> Result<File, FileError> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let file = File::from_name(name).ok_or(FileError)?;
        if file.to_string() == path { Ok(file) } else { Err(FileError) }
    }
}

const fn slot(protocol: IpProtocol, unit: Unit) -> usize {
    protocol as usize * 2 + unit as usize
}

const fn pair_key(vli: VliId, peer: VliId) -> u64 {
    (vli.0 as u64) << 32 | peer.0 as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the low half of a key is the peer")]
const fn peer_of(key: u64) -> VliId {
    VliId(key as u32)
}

/// Appends a number in decimals, `width` digits at least.
fn push_decimal(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 {
        at -= 1;
        // A digit fits into a byte.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let at = at.min(digits.len() - width.clamp(1, digits.len()));
    out.extend_from_slice(&digits[at..]);
}

fn push_id(out: &mut Vec<u8>, id: u32) {
    push_decimal(out, u64::from(id), 5);
}

/// Appends `total / secs` in decimals.
///
/// Seventeen significant digits name a double uniquely; librrd's own parser (rrd_strtod) adds an
/// error of a few units in the last place, so that `rate * secs` rounds to `total` up to 2^49
/// (14 terabit/s over 300 s). A whole number is written without a fraction, and is exact.
///
/// # Panics
///
/// If `secs` is 0.
pub fn push_rate(out: &mut Vec<u8>, total: u64, secs: u64) {
    const SIGNIFICANT_DIGITS: u32 = 17;
    let whole = total / secs;
    push_decimal(out, whole, 1);
    let rest = total % secs;
    if rest == 0 {
        return;
    }
    // Digits behind the point: 17 less those before it, more by the zeros that lead a fraction;
    // 19 is what 10^n in 64 bits can hold, and suffices for one byte in 600 s.
    let places = match whole.checked_ilog10() {
        Some(log) => SIGNIFICANT_DIGITS.saturating_sub(log + 1).max(1),
        None => (SIGNIFICANT_DIGITS + (secs / rest).checked_ilog10().unwrap_or(0)).min(19),
    };
    let scaled = u128::from(rest) * u128::from(10u64.pow(places)) / u128::from(secs);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "less than 10^19, because the rest is less than the seconds"
    )]
    let fraction = scaled as u64;
    out.push(b'.');
    push_decimal(out, fraction, places as usize);
}

/// When files are made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Create {
    /// At a pair's first traffic, per IP protocol.
    #[default]
    OnTraffic,
    /// For every pair of a VLAN.
    All,
}

/// Which files the RRD tree holds.
///
/// Eight bytes a file: 32 MB for the four million files of a thousand members.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    local: bool,
    scanned: bool,
    // Sorted keys per protocol and unit.
    files: [Vec<u64>; 4],
}

impl Tree {
    /// The tree below `root`, an existing directory, by its one canonical path: rrdcached takes
    /// paths literally, and two spellings of one file fight.
    ///
    /// Nothing is read yet: [`Tree::scan`] does that.
    pub fn open(root: &Path) -> io::Result<Tree> {
        let root = fs::canonicalize(root)?;
        if !root.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        Ok(Tree { root, local: true, scanned: false, files: Default::default() })
    }

    /// A tree on the host of an rrdcached, which cannot be looked into: its files are known once
    /// they were written.
    pub fn remote(root: &Path) -> Tree {
        Tree { root: root.into(), local: false, scanned: true, files: Default::default() }
    }

    /// The canonical root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the files can be reached from here.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Reads which files there are, once. Directories that do not exist are empty.
    pub fn scan(&mut self) -> io::Result<()> {
        if self.scanned {
            return Ok(());
        }
        for (protocol, unit) in families() {
            let family = self.root.join(protocol.name()).join(unit.name());
            let mut keys = Vec::new();
            for kind in ["aggregate", "individual"] {
                scan_directory(&family.join(kind), &mut keys)?;
            }
            let pairs = family.join("p2p");
            for entry in entries(&pairs)? {
                scan_directory(&pairs.join(entry?.file_name()), &mut keys)?;
            }
            keys.sort_unstable();
            keys.dedup();
            self.files[slot(protocol, unit)] = keys;
        }
        self.scanned = true;
        Ok(())
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.iter().map(Vec::len).sum()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `file` is there.
    pub fn contains(&self, file: &File) -> bool {
        self.files[file.slot()].binary_search(&file.key()).is_ok()
    }

    fn insert(&mut self, files: &[File]) {
        for (keys, new) in self.files.iter_mut().zip(by_slot(files)) {
            if !new.is_empty() {
                keys.extend(new);
                // Two sorted runs: the stable sort merges them.
                keys.sort();
                keys.dedup();
            }
        }
    }

    fn remove(&mut self, files: &[File]) {
        for (keys, gone) in self.files.iter_mut().zip(by_slot(files)) {
            if !gone.is_empty() {
                keys.retain(|key| gone.binary_search(key).is_err());
            }
        }
    }
}

/// The files' keys, sorted, per protocol and unit.
fn by_slot(files: &[File]) -> [Vec<u64>; 4] {
    let mut slots: [Vec<u64>; 4] = Default::default();
    for file in files {
        slots[file.slot()].push(file.key());
    }
    slots.iter_mut().for_each(|keys| keys.sort_unstable());
    slots
}

/// The entries of a directory; none if there is no such directory.
fn entries(directory: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None.into_iter().flatten())
        }
        Err(error) => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
        }
    }
}

/// Collects the files of `directory` that belong there.
fn scan_directory(directory: &Path, keys: &mut Vec<u64>) -> io::Result<()> {
    for entry in entries(directory)? {
        let name = entry?.file_name();
        let Some(file) = name.to_str().and_then(File::from_name) else { continue };
        let mut path = Vec::with_capacity(80);
        file.write_path(&mut path);
        // A file in another's directory is not the one that is written.
        let parent = String::from_utf8_lossy(&path);
        if parent.rsplit_once('/').is_some_and(|(parent, _)| directory.ends_with(parent)) {
            keys.push(file.key());
        }
    }
    Ok(())
}

fn families() -> impl Iterator<Item = (IpProtocol, Unit)> {
    IpProtocol::ALL
        .into_iter()
        .flat_map(|protocol| Unit::ALL.into_iter().map(move |unit| (protocol, unit)))
}

/// The interval's time stamps, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Start of observation.
    pub from_secs: u64,
    /// End: the stamp of the updates.
    pub to_secs: u64,
    /// Nothing is known of the time before.
    pub after_hole: bool,
}

impl Span {
    /// Of how many seconds the totals are.
    pub const fn secs(&self) -> u64 {
        self.to_secs - self.from_secs
    }

    /// The last update that a new file pretends to have had: the step that the interval begins
    /// in, so that the row of that step is whole.
    pub const fn creation_secs(&self) -> u64 {
        self.from_secs - self.from_secs % STEP_SECS
    }
}

/// What stands in front of an update's rate, stamped with the interval's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lead {
    /// Nothing: the file's last update is the interval's start.
    None,
    /// `U`: the time since the file's last update is unknown.
    Unknown,
    /// Zero: a new file, of which the time up to the interval's start is known to be silent.
    Zero,
}

/// One file's share of an interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update {
    /// The file.
    pub file: File,
    /// The totals of `traffic_in` and `traffic_out`, in bytes or packets.
    pub totals: [u64; 2],
    /// Whether the file is known to be there.
    pub known: bool,
    /// Whether the file missed what was before the interval.
    pub hole: bool,
}

impl Update {
    /// Whether the file must be made if it is missing; of idle pairs it need not.
    pub fn is_wanted(&self) -> bool {
        self.totals != [0, 0] || !self.known || !matches!(self.file, File::Pair { .. })
    }

    /// What to write in front of the rate, to a file that was just made or, if `exists`, was not.
    ///
    /// A new file begins at [`Span::creation_secs`]. If the interval begins later than that step,
    /// the part before it was silent, and is written so; unless it is unknown: then the rate
    /// stands for the whole step, as in an old file whose step is known in part, but it is never
    /// NaN, with which the new file would blank the portal's sums.
    pub fn lead(&self, span: &Span, exists: bool) -> Lead {
        if exists && self.hole {
            return Lead::Unknown;
        }
        let start = span.creation_secs();
        let spread = span.after_hole && span.to_secs - start <= HEARTBEAT_SECS;
        if self.known || start == span.from_secs || spread { Lead::None } else { Lead::Zero }
    }

    /// Appends the update's values as `rrdtool update` takes them.
    pub fn write_values(&self, span: &Span, lead: Lead, out: &mut Vec<u8>) {
        let value: &[u8] = match lead {
            Lead::None => b"",
            Lead::Unknown => b":U:U ",
            Lead::Zero => b":0:0 ",
        };
        if !value.is_empty() {
            push_decimal(out, span.from_secs, 1);
            out.extend_from_slice(value);
        }
        push_decimal(out, span.to_secs, 1);
        for total in self.totals {
            out.push(b':');
            push_rate(out, total, span.secs());
        }
    }
}

/// A pair, seen from one of its sides, with the indices of its traffic in the interval.
struct Row {
    vli: VliId,
    peer: VliId,
    sent: Option<u32>,
    received: Option<u32>,
}

/// What a VLI exchanged with the whole fabric.
#[derive(Clone, Copy, Default)]
struct Both {
    sent: Traffic,
    received: Traffic,
}

/// Turns intervals into updates, and remembers what the files have been fed.
#[derive(Debug)]
pub struct Feed {
    tree: Tree,
    create: Create,
    /// The interval that was written last.
    fed: Option<Fed>,
    /// Files that refused their last update.
    lagging: HashSet<File>,
}

#[derive(Debug)]
struct Fed {
    to_secs: u64,
    vlis: Vec<VliId>,
    tags: Vec<VlanTag>,
}

/// What writing an interval did to the tree.
#[derive(Default, Debug)]
pub struct Outcome {
    /// Totals for the caller.
    pub receipt: Receipt,
    /// Files that were made or found.
    found: Vec<File>,
    /// Files that are gone.
    gone: Vec<File>,
    lagging: HashSet<File>,
}

impl Outcome {
    /// A file took its update.
    pub fn accepted(&mut self, update: &Update) {
        self.receipt.accepted += 1;
        self.found(update);
    }

    /// A file had its update already.
    pub fn already_there(&mut self, update: &Update) {
        self.receipt.already_there += 1;
        self.found(update);
    }

    /// A file of an idle pair does not exist any more, and needs no update.
    pub fn gone(&mut self, update: &Update) {
        self.receipt.gone += 1;
        self.gone.push(update.file);
    }

    /// A file did not take its update.
    pub fn refused(&mut self, update: &Update, reason: impl Into<String>) {
        self.receipt.refused += 1;
        if self.receipt.refusals.len() < REFUSALS_MAX {
            self.receipt.refusals.push(Refusal { file: update.file, reason: reason.into() });
        }
        if self.lagging.len() < LAGGING_MAX {
            self.lagging.insert(update.file);
        }
    }

    fn found(&mut self, update: &Update) {
        if !update.known {
            self.found.push(update.file);
        }
    }
}

impl Feed {
    /// For `tree`, making files as `create` says.
    pub fn new(tree: Tree, create: Create) -> Feed {
        Feed { tree, create, fed: None, lagging: HashSet::new() }
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Reads the tree, the first time.
    pub fn prepare(&mut self) -> io::Result<()> {
        self.tree.scan()
    }

    /// The interval's time stamps. If the interval before it was never written, the time before
    /// it is a hole.
    ///
    /// # Panics
    ///
    /// If the interval ends before it begins.
    pub fn span(&self, interval: &Interval) -> Span {
        assert!(interval.from_secs < interval.to_secs, "an interval takes time");
        let missed = self.fed.as_ref().is_some_and(|fed| fed.to_secs < interval.from_secs);
        Span {
            from_secs: interval.from_secs,
            to_secs: interval.to_secs,
            after_hole: interval.after_hole || missed,
        }
    }

    /// Records what writing `interval` came to.
    pub fn commit(&mut self, interval: &Interval, outcome: Outcome) -> Receipt {
        let Outcome { mut receipt, found, gone, lagging } = outcome;
        receipt.updates = receipt.accepted + receipt.already_there + receipt.gone + receipt.refused;
        self.tree.insert(&found);
        self.tree.remove(&gone);
        self.lagging = lagging;
        self.fed = Some(Fed {
            to_secs: interval.to_secs,
            vlis: table_vlis(interval),
            tags: interval.lans.iter().map(|lan| lan.vlan).collect(),
        });
        receipt
    }

    /// Calls `visit` for every update of `interval`, in the order of the paths; stops at its
    /// first error.
    pub fn try_each<E>(
        &self,
        interval: &Interval,
        mut visit: impl FnMut(Update) -> Result<(), E>,
    ) -> Result<(), E> {
        let span = self.span(interval);
        let table = table_vlis(interval);
        let rows = rows(&interval.pairs);
        let sums = sums(&rows, &interval.pairs, &table);
        let aggregates = aggregates(interval, &sums);
        let fresh = self.fresh(&table);
        let mut emit = |file: File, totals: [u64; 2], known: bool| {
            let hole = span.after_hole || self.missed(&file, &fresh);
            visit(Update { file, totals, known, hole })
        };

        for (protocol, unit) in families() {
            for (&vlan, both) in &aggregates {
                let file = File::Aggregate { protocol, unit, vlan };
                emit(file, both.totals(protocol, unit), self.tree.contains(&file))?;
            }
            for (vli, both) in &sums {
                let file = File::Individual { protocol, unit, vli: *vli };
                emit(file, both.totals(protocol, unit), self.tree.contains(&file))?;
            }
            let total = |index: Option<u32>| {
                index.map_or(0, |index| interval.pairs[index as usize].traffic.of(protocol, unit))
            };
            let speaks = |index: Option<u32>| {
                index.is_some_and(|index| {
                    let traffic = &interval.pairs[index as usize].traffic;
                    Unit::ALL.into_iter().any(|unit| traffic.of(protocol, unit) > 0)
                })
            };
            let keys = &self.tree.files[slot(protocol, unit)];
            let mut members = Vec::new();
            for &(vli, _) in &sums {
                let in_table = table.binary_search(&vli).is_ok();
                members.clear();
                if self.create == Create::All {
                    members_beside(interval, vli, &mut members);
                }
                let mut active = range(&rows, |row| row.vli.cmp(&vli))
                    .iter()
                    .filter(|row| speaks(row.sent) || speaks(row.received))
                    .peekable();
                let mut others = table.iter().peekable();
                let mut existing = range(keys, |key| (key >> 32).cmp(&u64::from(vli.0)))
                    .iter()
                    .map(|&key| peer_of(key))
                    .filter(|peer| in_table && is_next(&mut others, *peer))
                    .peekable();
                let mut members = members.iter().copied().peekable();
                while let Some(peer) = [
                    active.peek().map(|row| row.peer),
                    existing.peek().copied(),
                    members.peek().copied(),
                ]
                .into_iter()
                .flatten()
                .min()
                {
                    let row = active.next_if(|row| row.peer == peer);
                    members.next_if_eq(&peer);
                    let totals = row.map_or([0, 0], |row| [total(row.received), total(row.sent)]);
                    let file = File::Pair { protocol, unit, vli, peer };
                    // A pair that left the table, and spoke before it did, may have its file.
                    let known = existing.next_if_eq(&peer).is_some() || self.tree.contains(&file);
                    emit(file, totals, known)?;
                }
            }
        }
        Ok(())
    }

    /// VLIs that were not in the table when the last interval was written, sorted.
    fn fresh(&self, table: &[VliId]) -> Vec<VliId> {
        let Some(fed) = &self.fed else { return Vec::new() };
        table.iter().copied().filter(|vli| fed.vlis.binary_search(vli).is_err()).collect()
    }

    /// Whether `file` was not fed up to the start of the interval.
    fn missed(&self, file: &File, fresh: &[VliId]) -> bool {
        let is_fresh = |vli: &VliId| !fresh.is_empty() && fresh.binary_search(vli).is_ok();
        let late = match file {
            File::Pair { vli, peer, .. } => is_fresh(vli) || is_fresh(peer),
            File::Individual { vli, .. } => is_fresh(vli),
            File::Aggregate { vlan, .. } => {
                self.fed.as_ref().is_some_and(|fed| !fed.tags.contains(vlan))
            }
        };
        late || !self.lagging.is_empty() && self.lagging.contains(file)
    }
}

impl Both {
    /// `traffic_in` (what was sent into the fabric) and `traffic_out`.
    fn totals(&self, protocol: IpProtocol, unit: Unit) -> [u64; 2] {
        [self.sent.of(protocol, unit), self.received.of(protocol, unit)]
    }
}

/// Whether a sorted iterator holds `wanted`; leaves it there.
fn is_next<'a>(
    sorted: &mut std::iter::Peekable<impl Iterator<Item = &'a VliId>>,
    wanted: VliId,
) -> bool {
    while sorted.next_if(|&&next| next < wanted).is_some() {}
    sorted.peek() == Some(&&wanted)
}

/// The part of a sorted slice for which `compare` says equal.
fn range<T>(sorted: &[T], compare: impl Fn(&T) -> std::cmp::Ordering) -> &[T] {
    let start = sorted.partition_point(|item| compare(item).is_lt());
    let rest = &sorted[start..];
    &rest[..rest.partition_point(|item| compare(item).is_eq())]
}

/// The VLIs of the table, sorted.
fn table_vlis(interval: &Interval) -> Vec<VliId> {
    let mut vlis: Vec<VliId> = interval.lans.iter().flat_map(|lan| &lan.vlis).copied().collect();
    vlis.sort_unstable();
    vlis.dedup();
    vlis
}

/// The VLIs that share a VLAN with `vli`, sorted.
fn members_beside(interval: &Interval, vli: VliId, members: &mut Vec<VliId>) {
    for lan in interval.lans.iter().filter(|lan| lan.vlis.binary_search(&vli).is_ok()) {
        members.extend(lan.vlis.iter().filter(|&&member| member != vli));
    }
    members.sort_unstable();
    members.dedup();
}

/// Every pair from both its sides, sorted.
fn rows(pairs: &[PairTraffic]) -> Vec<Row> {
    let count = u32::try_from(pairs.len()).expect("fewer than 2^32 pairs fit into memory");
    let mut incoming: Vec<u32> = (0..count).collect();
    incoming.sort_unstable_by_key(|&index| {
        let pair = &pairs[index as usize];
        (pair.destination, pair.source)
    });
    let mut incoming = incoming.into_iter().peekable();
    let seen_from = |index: u32| {
        let pair = &pairs[index as usize];
        (pair.destination, pair.source)
    };
    let mut rows = Vec::with_capacity(pairs.len() * 2);
    for (pair, sent) in pairs.iter().zip(0..) {
        let side = (pair.source, pair.destination);
        while let Some(received) = incoming.next_if(|&index| seen_from(index) < side) {
            let (vli, peer) = seen_from(received);
            rows.push(Row { vli, peer, sent: None, received: Some(received) });
        }
        let received = incoming.next_if(|&index| seen_from(index) == side);
        rows.push(Row { vli: side.0, peer: side.1, sent: Some(sent), received });
    }
    rows.extend(incoming.map(|received| {
        let (vli, peer) = seen_from(received);
        Row { vli, peer, sent: None, received: Some(received) }
    }));
    rows
}

/// What every VLI of the table, and every other that spoke, exchanged; sorted by VLI.
fn sums(rows: &[Row], pairs: &[PairTraffic], table: &[VliId]) -> Vec<(VliId, Both)> {
    let mut sums: BTreeMap<VliId, Both> = table.iter().map(|&vli| (vli, Both::default())).collect();
    for side in rows.chunk_by(|one, next| one.vli == next.vli) {
        let both = sums.entry(side[0].vli).or_default();
        for row in side {
            if let Some(sent) = row.sent {
                both.sent.merge(&pairs[sent as usize].traffic);
            }
            if let Some(received) = row.received {
                both.received.merge(&pairs[received as usize].traffic);
            }
        }
    }
    sums.into_iter().collect()
}

/// What the VLIs of every VLAN exchanged, by tag; a VLI counts once for a tag.
fn aggregates(interval: &Interval, sums: &[(VliId, Both)]) -> BTreeMap<VlanTag, Both> {
    let mut members: BTreeMap<VlanTag, Vec<VliId>> = BTreeMap::new();
    for lan in interval.lans.iter() {
        members.entry(lan.vlan).or_default().extend(&lan.vlis);
    }
    let sum = |mut vlis: Vec<VliId>| {
        vlis.sort_unstable();
        vlis.dedup();
        let mut total = Both::default();
        for vli in vlis {
            if let Ok(at) = sums.binary_search_by_key(&vli, |&(vli, _)| vli) {
                total.sent.merge(&sums[at].1.sent);
                total.received.merge(&sums[at].1.received);
            }
        }
        total
    };
    members.into_iter().map(|(tag, vlis)| (tag, sum(vlis))).collect()
}

/// What became of an interval's updates: `updates` is the sum of `accepted`, `already_there`,
/// `gone` and `refused`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Receipt {
    /// Files that the interval concerned.
    pub updates: u64,
    /// Updates that the file, or rrdcached, took.
    pub accepted: u64,
    /// Updates that the file had from an earlier attempt.
    pub already_there: u64,
    /// Idle pairs whose files have been deleted: nothing to do.
    pub gone: u64,
    /// Updates that are lost.
    pub refused: u64,
    /// Files that were made.
    pub created: u64,
    /// The first refusals, [`REFUSALS_MAX`] at the most.
    pub refusals: Vec<Refusal>,
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
    /// No answer came in time, and the daemon is to end.
    #[error("no answer, and the daemon is to end")]
    Stopped,
}

/// Somewhere that intervals are written to.
pub trait Sink: Send {
    /// Writes an interval, after all earlier ones.
    ///
    /// On an error the same interval must be given again, or dropped. Writing an interval twice
    /// does no harm: the updates that came through are recognised by their time stamp.
    fn write(&mut self, interval: &Interval) -> Result<Receipt, SinkError>;

    /// Where it writes to, and how, for people.
    fn describe(&self) -> String;
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
    use std::sync::Arc;

    use super::*;
    use crate::ixp::InfrastructureId;
    use crate::resolve::Lan;

    fn vlis(ids: &[u32]) -> Vec<VliId> {
        ids.iter().copied().map(VliId).collect()
    }

    fn lan(infrastructure: u32, tag: u32, ids: &[u32]) -> Lan {
        Lan {
            infrastructure: InfrastructureId(infrastructure),
            vlan: VlanTag::new(tag),
            vlis: vlis(ids),
        }
    }

    fn pair(source: u32, destination: u32, bytes: [u64; 2]) -> PairTraffic {
        let traffic = Traffic { bytes, packets: bytes.map(|bytes| bytes / 100), samples: [1, 1] };
        PairTraffic { source: VliId(source), destination: VliId(destination), traffic }
    }

    fn interval(lans: &[Lan], pairs: &[PairTraffic]) -> Interval {
        Interval {
            from_secs: 1_700_000_100,
            to_secs: 1_700_000_400,
            after_hole: false,
            lans: Arc::from(lans),
            pairs: pairs.to_vec(),
        }
    }

    fn feed(files: &[&str], create: Create) -> Feed {
        let mut tree = Tree::remote(Path::new("/rrd"));
        let files: Vec<File> = files.iter().map(|path| path.parse().unwrap()).collect();
        tree.insert(&files);
        Feed::new(tree, create)
    }

    fn updates(feed: &Feed, interval: &Interval) -> Vec<(String, [u64; 2], bool)> {
        let mut updates = Vec::new();
        feed.try_each(interval, |update| {
            updates.push((update.file.to_string(), update.totals, update.known));
            Ok::<_, ()>(())
        })
        .unwrap();
        updates
    }

    fn of<'a>(updates: &'a [(String, [u64; 2], bool)], start: &str) -> Vec<(&'a str, [u64; 2])> {
        updates
            .iter()
            .filter_map(|(path, totals, _)| Some((path.strip_prefix(start)?, *totals)))
            .collect()
    }

    #[test]
    fn paths_are_ixp_managers() {
        let (protocol, unit) = (IpProtocol::V6, Unit::Packets);
        for (file, path) in [
            (
                File::Pair { protocol, unit, vli: VliId(7), peer: VliId(123_456) },
                "ipv6/pkts/p2p/src-00007/p2p.ipv6.pkts.src-00007.dst-123456.rrd",
            ),
            (
                File::Individual { protocol: IpProtocol::V4, unit, vli: VliId(99_999) },
                "ipv4/pkts/individual/individual.ipv4.pkts.src-99999.rrd",
            ),
            (
                File::Aggregate { protocol, unit: Unit::Bytes, vlan: VlanTag::new(10) },
                "ipv6/bytes/aggregate/aggregate.ipv6.bytes.vlan00010.rrd",
            ),
        ] {
            assert_eq!(file.to_string(), path);
            assert_eq!(path.parse(), Ok(file));
        }
        for path in [
            "",
            "p2p.ipv4.bytes.src-00007.dst-00008.rrd",
            "ipv4/bytes/p2p/src-00009/p2p.ipv4.bytes.src-00007.dst-00008.rrd",
            "ipv4/bytes/p2p/src-7/p2p.ipv4.bytes.src-7.dst-8.rrd",
            "ipv4/bytes/individual/individual.ipv4.bytes.src-+0007.rrd",
            "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan09999.rrd",
            "ipv4/bytes/aggregate/aggregate.ipv4.octets.vlan00010.rrd",
        ] {
            assert_eq!(path.parse::<File>(), Err(FileError), "{path}");
        }
    }

    /// rrd_strtod of rrdtool 1.7: every digit in turn into a double, then divided by 10^n through
    /// the binary digits of n.
    fn librrd_double(text: &str) -> f64 {
        let mut number = 0.0;
        let mut places = 0;
        let mut behind_point = false;
        for byte in text.bytes() {
            if byte == b'.' {
                behind_point = true;
                continue;
            }
            number = number * 10.0 + f64::from(byte - b'0');
            places += u32::from(behind_point);
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

    fn rate(total: u64, secs: u64) -> String {
        let mut out = Vec::new();
        push_rate(&mut out, total, secs);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rates_are_decimals() {
        assert_eq!(rate(0, 300), "0");
        assert_eq!(rate(300, 300), "1");
        assert_eq!(rate(1, 4), "0.25000000000000000");
        assert_eq!(rate(1, 300), "0.0033333333333333333");
        assert_eq!(rate(10_001, 300), "33.336666666666666");
        assert_eq!(rate(u64::MAX, 1), u64::MAX.to_string());
        assert_eq!(rate(u64::MAX, 7), "2635249153387078802.1");
    }

    proptest::proptest! {
        #[test]
        fn rates_come_back_as_totals(bits in 0u32..49, noise: u64, secs in 1u64..=600) {
            let total = noise % (1 << bits);
            let stored = librrd_double(&rate(total, secs));
            #[expect(clippy::cast_possible_truncation, reason = "the test is of just this")]
            let back = (stored * secs as f64).round() as u64;
            proptest::prop_assert_eq!(back, total);
            let truth = total as f64 / secs as f64;
            let ulps = truth.to_bits().abs_diff(stored.to_bits());
            proptest::prop_assert!(ulps <= 3, "{} ulps", ulps);
        }
    }

    #[test]
    fn traffic_feeds_both_sides_in_the_order_of_the_paths() {
        let interval =
            interval(&[lan(1, 10, &[1, 2, 3])], &[pair(1, 2, [3000, 0]), pair(3, 1, [0, 600])]);
        let updates = updates(&feed(&[], Create::OnTraffic), &interval);
        let paths: Vec<&str> = updates.iter().map(|(path, ..)| path.as_str()).collect();
        assert!(paths.is_sorted(), "{paths:#?}");
        assert_eq!(updates.len(), 4 * 4 + 8, "{paths:#?}");
        // The peer's bytes are in, the own ones out.
        assert_eq!(
            of(&updates, "ipv4/bytes/p2p/"),
            [
                ("src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd", [0, 3000]),
                ("src-00002/p2p.ipv4.bytes.src-00002.dst-00001.rrd", [3000, 0]),
            ]
        );
        assert_eq!(
            of(&updates, "ipv6/pkts/p2p/"),
            [
                ("src-00001/p2p.ipv6.pkts.src-00001.dst-00003.rrd", [6, 0]),
                ("src-00003/p2p.ipv6.pkts.src-00003.dst-00001.rrd", [0, 6]),
            ]
        );
        // Into the fabric is in.
        assert_eq!(
            of(&updates, "ipv4/bytes/individual/individual.ipv4.bytes."),
            [("src-00001.rrd", [3000, 0]), ("src-00002.rrd", [0, 3000]), ("src-00003.rrd", [0, 0])]
        );
        assert_eq!(
            of(&updates, "ipv6/bytes/aggregate/"),
            [("aggregate.ipv6.bytes.vlan00010.rrd", [600, 600])]
        );
    }

    #[test]
    fn lans_that_share_a_tag_share_an_aggregate() {
        let lans = [lan(1, 10, &[1, 2]), lan(2, 10, &[3, 4]), lan(2, 20, &[5])];
        let interval = interval(&lans, &[pair(1, 2, [700, 0]), pair(4, 3, [60, 0])]);
        let updates = updates(&feed(&[], Create::OnTraffic), &interval);
        assert_eq!(
            of(&updates, "ipv4/bytes/aggregate/aggregate.ipv4.bytes."),
            [("vlan00010.rrd", [760, 760]), ("vlan00020.rrd", [0, 0])]
        );
    }

    #[test]
    fn idle_files_of_the_table_are_fed_and_others_left_alone() {
        let feed = feed(
            &[
                "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd",
                "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00008.rrd",
                "ipv4/bytes/p2p/src-00008/p2p.ipv4.bytes.src-00008.dst-00001.rrd",
                "ipv4/bytes/p2p/src-00009/p2p.ipv4.bytes.src-00009.dst-00001.rrd",
                "ipv4/bytes/individual/individual.ipv4.bytes.src-00001.rrd",
            ],
            Create::OnTraffic,
        );
        // 9 left the table, but spoke before it did.
        let interval = interval(&[lan(1, 10, &[1, 2])], &[pair(9, 1, [50, 0])]);
        let updates = updates(&feed, &interval);
        let pairs: Vec<_> =
            updates.iter().filter(|(path, ..)| path.starts_with("ipv4/bytes/p2p")).collect();
        assert_eq!(
            of(&updates, "ipv4/bytes/p2p/"),
            [
                ("src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd", [0, 0]),
                ("src-00001/p2p.ipv4.bytes.src-00001.dst-00009.rrd", [50, 0]),
                ("src-00009/p2p.ipv4.bytes.src-00009.dst-00001.rrd", [0, 50]),
            ]
        );
        assert_eq!(pairs.iter().map(|update| update.2).collect::<Vec<_>>(), [true, false, true]);
        let known: Vec<_> = updates
            .iter()
            .filter(|(path, _, known)| path.contains("individual") && *known)
            .collect();
        assert_eq!(known.len(), 1);
        assert!(known[0].0.ends_with("ipv4.bytes.src-00001.rrd"));
    }

    #[test]
    fn all_pairs_of_a_lan_and_no_others() {
        let lans = [lan(1, 10, &[1, 2, 3]), lan(1, 20, &[4])];
        let updates = updates(&feed(&[], Create::All), &interval(&lans, &[pair(2, 1, [9, 0])]));
        for family in ["ipv4/bytes/p2p/", "ipv6/pkts/p2p/"] {
            let paths: Vec<_> = of(&updates, family).into_iter().map(|(path, _)| path).collect();
            assert_eq!(paths.len(), 6, "{paths:?}");
            assert!(!paths.iter().any(|path| path.contains("00004")), "{paths:?}");
        }
    }

    #[test]
    fn a_hole_is_written_where_there_is_one() {
        let pairs = [
            "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd",
            "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00003.rrd",
        ];
        let mut feed = feed(&pairs, Create::OnTraffic);
        let values = |feed: &Feed, interval: &Interval| {
            let mut values = BTreeMap::new();
            feed.try_each(interval, |update| {
                let mut out = Vec::new();
                let span = feed.span(interval);
                let lead = update.lead(&span, update.known);
                update.write_values(&span, lead, &mut out);
                let old = values.insert(update.file.to_string(), String::from_utf8(out).unwrap());
                assert_eq!(old, None);
                Ok::<_, ()>(())
            })
            .unwrap();
            values
        };
        let mut interval = interval(&[lan(1, 10, &[1, 2])], &[]);
        assert_eq!(values(&feed, &interval)[pairs[0]], "1700000400:0:0");
        interval.after_hole = true;
        assert_eq!(values(&feed, &interval)[pairs[0]], "1700000100:U:U 1700000400:0:0");
        // A new file has no hole.
        let individual = "ipv4/bytes/individual/individual.ipv4.bytes.src-00001.rrd";
        assert_eq!(values(&feed, &interval)[individual], "1700000400:0:0");

        // The next interval follows; VLI 3 comes (back) into the table; one file refused.
        let mut outcome = Outcome::default();
        let refused =
            Update { file: pairs[0].parse().unwrap(), totals: [0, 0], known: true, hole: false };
        outcome.refused(&refused, "locked");
        feed.commit(&interval, outcome);
        let mut next = interval.clone();
        (next.from_secs, next.to_secs) = (interval.to_secs, interval.to_secs + 300);
        next.after_hole = false;
        next.lans = Arc::from([lan(1, 10, &[1, 2, 3])]);
        let lines = values(&feed, &next);
        assert_eq!(lines[pairs[0]], "1700000400:U:U 1700000700:0:0");
        assert_eq!(lines[pairs[1]], "1700000400:U:U 1700000700:0:0");
        feed.commit(&next, Outcome::default());

        // An interval that was dropped is a hole for all.
        (next.from_secs, next.to_secs) = (next.to_secs + 300, next.to_secs + 600);
        assert_eq!(values(&feed, &next)[pairs[0]], "1700001000:U:U 1700001300:0:0");

        // A new file in the middle of a step was silent before it, unless that is unknown.
        feed.commit(&next, Outcome::default());
        (next.from_secs, next.to_secs) = (1_700_001_400, 1_700_001_600);
        next.from_secs = 1_700_001_300;
        assert_eq!(values(&feed, &next)[individual], "1700001600:0:0");
        feed.commit(&Interval { to_secs: 1_700_001_400, ..next.clone() }, Outcome::default());
        next.from_secs = 1_700_001_400;
        assert_eq!(values(&feed, &next)[individual], "1700001400:0:0 1700001600:0:0");
        next.after_hole = true;
        assert_eq!(values(&feed, &next)[individual], "1700001600:0:0");
    }

    #[test]
    fn a_tree_knows_the_files_that_belong_to_it() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        tree.scan().unwrap();
        assert!(tree.is_empty());
        let paths = [
            "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd",
            "ipv6/pkts/individual/individual.ipv6.pkts.src-00001.rrd",
            "ipv6/pkts/aggregate/aggregate.ipv6.pkts.vlan00010.rrd",
        ];
        for path in paths.iter().chain(&[
            "ipv4/bytes/p2p/src-00002/p2p.ipv4.bytes.src-00001.dst-00003.rrd",
            "ipv4/bytes/p2p/src-00001/.ixflow-new",
            "ipv4/bytes/p2p/README",
        ]) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut tree = Tree::open(&root.path().join("ipv4/..")).unwrap();
        assert_eq!(tree.root(), fs::canonicalize(root.path()).unwrap());
        tree.scan().unwrap();
        assert_eq!(tree.len(), 3);
        assert!(paths.iter().all(|path| tree.contains(&path.parse().unwrap())));
        Tree::open(&root.path().join("nowhere")).unwrap_err();
    }

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
