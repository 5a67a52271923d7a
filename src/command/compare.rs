//! `ixflow compare`: how two RRD trees differ, for a day beside another program.
//!
//! Both may be in use; nothing is changed. A row is compared where both files know it: what one of
//! them does not know (it began later, an rrdcached still has it) is counted, and no difference.
//! Aggregates of infrastructures, which no other program makes, are compared where both have them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::ixp::{IpProtocol, Unit};
use crate::sink::librrd::{Row, fetch};
use crate::sink::{Consolidation, File, STEP_SECS, Tree};

/// Files that cannot be read are named up to this number; all are counted.
const ERRORS_MAX: usize = 20;

/// Arguments of `ixflow compare`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Root of a tree, such as that of the program in use
    left: PathBuf,
    /// Root of the other tree
    right: PathBuf,
    /// Rows from here on: seconds since 1970, or so long ago, as 90m, 12h or 2d
    #[arg(long, value_name = "TIME", default_value = "1d")]
    from: Time,
    /// Rows up to here
    #[arg(long, value_name = "TIME", default_value = "0s")]
    to: Time,
    /// Totals of a file that differ by no more than this share are equal
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    tolerance: f64,
    /// Shows so many files, those with the largest differences first
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Shows every file, equal ones too
    #[arg(long, conflicts_with = "top")]
    all: bool,
}

/// What came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Equal within the tolerance.
    Equal,
    /// Different.
    Different,
    /// Some files could not be read; the others were compared.
    Unreadable,
}

/// The trees could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A tree cannot be read.
    #[error("{}: {error}: expected the root of an RRD tree (sflow_rrddir)", path.display())]
    Tree {
        /// The root.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Neither tree has a file.
    #[error(
        "no RRD files in {} and {}: expected roots of RRD trees, with ipv4/bytes/... below them",
        left.display(),
        right.display()
    )]
    Empty {
        /// One root.
        left: PathBuf,
        /// The other one.
        right: PathBuf,
    },
    /// The times.
    #[error("--from {from} --to {to}: expected a step of {STEP_SECS} s or more between them")]
    Times {
        /// Start, in seconds since 1970.
        from: u64,
        /// End.
        to: u64,
    },
}

/// A moment, as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Time {
    At(u64),
    Ago(u64),
}

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        let expected = || "expected seconds since 1970, or a number with s, m, h or d".to_owned();
        let (digits, secs) = match text.char_indices().next_back() {
            Some((at, 's')) => (&text[..at], 1),
            Some((at, 'm')) => (&text[..at], 60),
            Some((at, 'h')) => (&text[..at], 3_600),
            Some((at, 'd')) => (&text[..at], 86_400),
            _ => return text.parse().map(Time::At).map_err(|_| expected()),
        };
        let number: u64 = digits.parse().map_err(|_| expected())?;
        Ok(Time::Ago(number.saturating_mul(secs)))
    }
}

impl Time {
    fn secs(self, now_secs: u64) -> u64 {
        match self {
            Time::At(secs) => secs,
            Time::Ago(secs) => now_secs.saturating_sub(secs),
        }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| "expected a number")?;
    if (0.0..=100.0).contains(&percent) { Ok(percent) } else { Err("expected 0 to 100".into()) }
}

/// What a kind of file has in common: IP protocol, unit, and p2p, individual, or an aggregate.
type Family = (IpProtocol, Unit, &'static str);

fn family(file: File) -> Family {
    let (protocol, unit) = file.family();
    let kind = match file {
        File::Pair { .. } => "p2p",
        File::Individual { .. } => "individual",
        File::Aggregate { infrastructure: None, .. } => "aggregate",
        // Their traffic is in those of the tags too.
        File::Aggregate { infrastructure: Some(_), .. } => "infrastructure",
    };
    (protocol, unit, kind)
}

/// Compares the trees, and prints what it found.
///
/// # Errors
///
/// There is nothing to compare. What is wrong with single files is printed.
pub fn run(arguments: &Arguments) -> Result<Verdict, CompareError> {
    let now_secs = Clock::System.now_millis() / 1_000;
    let times = (arguments.from.secs(now_secs), arguments.to.secs(now_secs));
    if times.0.saturating_add(STEP_SECS) > times.1 {
        return Err(CompareError::Times { from: times.0, to: times.1 });
    }
    let left = scan(&arguments.left)?;
    let right = scan(&arguments.right)?;
    if left.is_empty() && right.is_empty() {
        let Arguments { left, right, .. } = arguments;
        return Err(CompareError::Empty { left: left.clone(), right: right.clone() });
    }
    let comparison = Comparison::of(&left, &right, times);
    print!("{}", comparison.render(arguments, times));
    for error in comparison.errors.iter().take(ERRORS_MAX) {
        eprintln!("ixflow: {error}");
    }
    if comparison.errors.len() > ERRORS_MAX {
        eprintln!("ixflow: {} more files cannot be read", comparison.errors.len() - ERRORS_MAX);
    }
    Ok(comparison.verdict(arguments.tolerance))
}

fn scan(root: &Path) -> Result<Tree, CompareError> {
    let scanned = Tree::open(root).and_then(|mut tree| tree.scan().map(|()| tree));
    scanned.map_err(|error| CompareError::Tree { path: root.into(), error })
}

/// What one file has, beside the other.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Difference {
    file: File,
    /// Traffic in and out of the rows that both know, in bytes or packets.
    left: [f64; 2],
    right: [f64; 2],
    /// The largest difference of a row, in bytes or packets per second.
    row: f64,
    /// Rows that both know, and that only one knows.
    rows: u64,
    one_sided: u64,
    /// The tree that alone has the file.
    only: Option<Side>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Left,
    Right,
}

impl Difference {
    fn absolute(&self) -> f64 {
        self.left.iter().zip(self.right).map(|(left, right)| (left - right).abs()).sum()
    }

    /// In percent of the larger total, the worse one of in and out.
    fn percent(&self) -> f64 {
        let shares = self.left.iter().zip(self.right).map(|(&left, right)| share(left, right));
        shares.fold(0.0, f64::max)
    }

    /// A file that only one tree has and that says nothing is none that the other one misses: one
    /// program makes files of silent pairs, another does not.
    fn is_silent(&self) -> bool {
        self.only.is_some() && self.absolute() == 0.0
    }
}

fn share(left: f64, right: f64) -> f64 {
    let larger = left.max(right);
    if larger > 0.0 { (left - right).abs() / larger * 100.0 } else { 0.0 }
}

struct Comparison {
    files: Vec<Difference>,
    errors: Vec<String>,
}

impl Comparison {
    fn of(left: &Tree, right: &Tree, times: (u64, u64)) -> Comparison {
        let mut comparison = Comparison { files: Vec::new(), errors: Vec::new() };
        let is_asked_for =
            |file: &File| matches!(file, File::Aggregate { infrastructure: Some(_), .. });
        for file in left.files().filter(|file| right.contains(file) || !is_asked_for(file)) {
            let there = right.contains(&file).then_some(right);
            comparison.add(file, Some(left), there, times);
        }
        for file in right.files().filter(|file| !left.contains(file) && !is_asked_for(file)) {
            comparison.add(file, None, Some(right), times);
        }
        comparison
    }

    fn add(&mut self, file: File, left: Option<&Tree>, right: Option<&Tree>, times: (u64, u64)) {
        let mut read = |tree: Option<&Tree>| {
            let Some(tree) = tree else { return Some(Vec::new()) };
            let path = file.path(tree.root());
            match fetch(&path, Consolidation::Average, times.0, times.1, STEP_SECS) {
                Ok(rows) => Some(rows),
                Err(error) => {
                    self.errors.push(format!("{}: {error}", path.display()));
                    None
                }
            }
        };
        let (Some(left_rows), Some(right_rows)) = (read(left), read(right)) else { return };
        let only = match (left, right) {
            (Some(_), None) => Some(Side::Left),
            (None, Some(_)) => Some(Side::Right),
            _ => None,
        };
        let (left_secs, right_secs) = (row_secs(&left_rows), row_secs(&right_rows));
        if only.is_none() && left_secs != right_secs {
            self.errors.push(format!(
                "{file}: rows of {left_secs} s and of {right_secs} s: expected the same archives"
            ));
            return;
        }
        let secs = if only == Some(Side::Right) { right_secs } else { left_secs };
        let mut difference = Difference {
            file,
            left: [0.0; 2],
            right: [0.0; 2],
            row: 0.0,
            rows: 0,
            one_sided: 0,
            only,
        };
        let mut rows: BTreeMap<u64, [Option<[f64; 2]>; 2]> = BTreeMap::new();
        for (side, side_rows) in [left_rows, right_rows].into_iter().enumerate() {
            for row in side_rows.into_iter().filter(|row| row.values.iter().all(|v| !v.is_nan())) {
                rows.entry(row.end_secs).or_default()[side] = Some(row.values);
            }
        }
        for sides in rows.into_values() {
            let (left, right) = match (sides, only) {
                ([Some(left), Some(right)], _) => (left, right),
                ([Some(left), None], Some(_)) => (left, [0.0; 2]),
                ([None, Some(right)], Some(_)) => ([0.0; 2], right),
                _ => {
                    difference.one_sided += 1;
                    continue;
                }
            };
            difference.rows += 1;
            for direction in 0..2 {
                let (left, right) = (left[direction], right[direction]);
                difference.left[direction] += left * secs as f64;
                difference.right[direction] += right * secs as f64;
                difference.row = difference.row.max((left - right).abs());
            }
        }
        self.files.push(difference);
    }

    fn verdict(&self, tolerance: f64) -> Verdict {
        if !self.errors.is_empty() {
            Verdict::Unreadable
        } else if self.files.iter().any(|file| file.percent() > tolerance) {
            Verdict::Different
        } else {
            Verdict::Equal
        }
    }

    fn render(&self, arguments: &Arguments, times: (u64, u64)) -> String {
        let mut families: BTreeMap<Family, Totals> = BTreeMap::new();
        for file in &self.files {
            families.entry(family(file.file)).or_default().add(file, arguments.tolerance);
        }
        let mut out = String::new();
        // Writing into a string does not fail.
        let _ = writeln!(
            out,
            "left:  {}\nright: {}\nrows that end after {} and up to {}, where both are known\n",
            arguments.left.display(),
            arguments.right.display(),
            times.0,
            times.1
        );
        let _ = writeln!(
            out,
            "{:<24} {:>8} {:>8} {:>9} {:>10} {:>6} {:>10} {:>10} {:>9} {:>8}",
            "",
            "in both",
            "differ",
            "only left",
            "only right",
            "silent",
            "left",
            "right",
            "right/left",
            "diff %"
        );
        for ((protocol, unit, kind), totals) in &families {
            let [left, right] = [totals.left, totals.right];
            let _ = writeln!(
                out,
                "{:<24} {:>8} {:>8} {:>9} {:>10} {:>6} {:>10} {:>10} {:>10} {:>8.3}",
                format!("{}/{}/{kind}", protocol.name(), unit.name()),
                totals.both,
                totals.differ,
                totals.only[0],
                totals.only[1],
                totals.silent,
                Amount(left).to_string(),
                Amount(right).to_string(),
                if left > 0.0 { format!("{:.5}", right / left) } else { "-".into() },
                share(left, right)
            );
        }
        let mut shown: Vec<&Difference> = self
            .files
            .iter()
            .filter(|file| arguments.all || file.percent() > arguments.tolerance)
            .collect();
        // Bytes and packets, pairs and aggregates, side by side: as shares of their family.
        let weight = |file: &Difference| {
            let totals = families.get(&family(file.file));
            let whole = totals.map_or(0.0, |totals| totals.left.max(totals.right));
            if whole > 0.0 { file.absolute() / whole } else { 0.0 }
        };
        shown.sort_by(|a, b| {
            let heavier = weight(b).partial_cmp(&weight(a)).unwrap_or(Ordering::Equal);
            heavier.then_with(|| a.file.to_string().cmp(&b.file.to_string()))
        });
        let count = shown.len();
        if !arguments.all {
            shown.truncate(arguments.top);
        }
        if shown.is_empty() {
            return out;
        }
        let _ = writeln!(
            out,
            "\n{:>8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>6} {:>9}  file",
            "diff %",
            "in left",
            "in right",
            "out left",
            "out right",
            "row max/s",
            "rows",
            "one-sided"
        );
        for file in &shown {
            let [left, right] = [file.left, file.right].map(|side| side.map(Amount));
            let _ = writeln!(
                out,
                "{:>8.3} {:>10} {:>10} {:>10} {:>10} {:>10} {:>6} {:>9}  {}{}",
                file.percent(),
                left[0].to_string(),
                right[0].to_string(),
                left[1].to_string(),
                right[1].to_string(),
                Amount(file.row).to_string(),
                file.rows,
                file.one_sided,
                file.file,
                match file.only {
                    Some(Side::Left) => " (only left)",
                    Some(Side::Right) => " (only right)",
                    None => "",
                }
            );
        }
        if count > shown.len() {
            let _ = writeln!(out, "and {} more: --all shows every file", count - shown.len());
        }
        out
    }
}

fn row_secs(rows: &[Row]) -> u64 {
    match rows {
        [first, second, ..] => second.end_secs - first.end_secs,
        _ => STEP_SECS,
    }
}

/// Of one family.
#[derive(Default)]
struct Totals {
    both: u64,
    differ: u64,
    /// Files that one tree alone has, and that say something.
    only: [u64; 2],
    /// Files that one tree alone has, and that say nothing.
    silent: u64,
    left: f64,
    right: f64,
}

impl Totals {
    fn add(&mut self, file: &Difference, tolerance: f64) {
        match file.only {
            _ if file.is_silent() => self.silent += 1,
            Some(Side::Left) => self.only[0] += 1,
            Some(Side::Right) => self.only[1] += 1,
            None => {
                self.both += 1;
                self.differ += u64::from(file.percent() > tolerance);
            }
        }
        self.left += file.left.iter().sum::<f64>();
        self.right += file.right.iter().sum::<f64>();
    }
}

/// A number with three decimals and a prefix of SI.
struct Amount(f64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut prefix) = (self.0, "");
        for next in ["k", "M", "G", "T", "P", "E"] {
            if value < 1_000.0 {
                break;
            }
            (value, prefix) = (value / 1_000.0, next);
        }
        write!(f, "{value:.3}{prefix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_or_so_long_ago() {
        let secs = |text: &str| text.parse::<Time>().map(|time| time.secs(1_000_000));
        assert_eq!(secs("12345"), Ok(12_345));
        assert_eq!(secs("90m"), Ok(1_000_000 - 5_400));
        assert_eq!(secs("2d"), Ok(1_000_000 - 172_800));
        assert_eq!(secs("0s"), Ok(1_000_000));
        for wrong in ["", "d", "-1d", "1w", "1.5h", "yesterday"] {
            assert!(secs(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn amounts_are_short() {
        for (amount, text) in
            [(0.0, "0.000"), (999.0, "999.000"), (1_234.5, "1.234k"), (2e15, "2.000P")]
        {
            assert_eq!(Amount(amount).to_string(), text);
        }
    }
}
