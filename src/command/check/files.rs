//! The part of `ixflow check` about the RRD files: the directory, its room, its speed, and
//! rrdcached.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

use super::{Report, who_am_i, writable_directory};
use crate::command::run::{goes_through_rrdcached, rrdcached_settings};
use crate::control::config::{Config, RrdcachedUse};
use crate::finding::Level;
use crate::ixp::{IpProtocol, MacRecord, Unit};
use crate::resolve::MacTable;
use crate::sink::rrdcached::{self, Address, Inspection, Settings, Trial};
use crate::sink::{File, Share, Tree};

/// Bytes of an RRD file of ours (docs/design.md, "Files on disk").
const FILE_BYTES: u64 = 185_312;

/// How long rrdcached may take for an answer.
const RRDCACHED_PATIENCE: Duration = Duration::from_secs(10);

/// Pages that are dirtied in a file at each step: its header and the rows of two archives.
const PAGES_PER_UPDATE: u64 = 3;

/// Writes of the trial of the disk, each of a page.
const TRIAL_WRITES: u32 = 256;

/// The file of the trial of the disk: large enough that its pages are scattered.
const TRIAL_BYTES: u64 = 16 << 20;

/// `records`: the MAC table, as far as it is known.
pub(super) fn check(config: &Config, records: Option<&[MacRecord]>, report: &mut Report) {
    let through_rrdcached = goes_through_rrdcached(config);
    let tree = directory(config, through_rrdcached, report);
    let files = tree.as_ref().map_or(0, Tree::len) as u64;
    let whole = records.and_then(whole_tree);
    if let Some(tree) = &tree {
        room(tree, files, whole, report);
        access_times(tree.root(), report);
        speed(tree.root(), files, report);
    }
    if through_rrdcached {
        for settings in rrdcached_settings(config) {
            rrdcached(&settings, tree.as_ref(), records.unwrap_or_default(), report);
        }
    } else {
        let how = match config.rrdcached {
            RrdcachedUse::Auto => "sflow_rrdcached = auto, and its socket is not there",
            _ => "sflow_rrdcached = 0",
        };
        report.ok("rrdcached", "", format!("not used ({how}): ixflow writes the files itself"));
    }
}

/// Files of a table of which every pair speaks both IP protocols, and VLIs in it.
fn whole_tree(records: &[MacRecord]) -> Option<(u64, u64)> {
    let (table, _) = MacTable::build(records).ok()?;
    let lans = table.lans();
    // Two IP protocols, bytes and packets.
    let pairs: u64 = lans.iter().map(|lan| lan.vlis.len() as u64).map(|n| n * (n - n.min(1))).sum();
    let vlis: BTreeSet<_> = lans.iter().flat_map(|lan| &lan.vlis).collect();
    let tags: BTreeSet<_> = lans.iter().map(|lan| lan.vlan).collect();
    Some((4 * (pairs + vlis.len() as u64 + tags.len() as u64), vlis.len() as u64))
}

fn directory(config: &Config, through_rrdcached: bool, report: &mut Report) -> Option<Tree> {
    const NAME: &str = "rrd_directory";
    let path = &config.rrd_dir;
    let subject = path.display();
    if through_rrdcached && config.rrdcached_is_elsewhere() && !path.exists() {
        report.ok(NAME, &subject, "not on this machine: taken to be on rrdcached's");
        return None;
    }
    match writable_directory(path) {
        Err(reason) => {
            let what = format!("{reason} ({})", who_am_i());
            let why = "no file can be made or written";
            let remedy = "give it to ixflow's user, or to a group of ixflow and rrdcached, with \
                          write permission";
            report.bad(Level::Fail, NAME, &subject, [&what, why, remedy]);
            if !path.is_dir() {
                return None;
            }
        }
        Ok(false) => {
            report.ok(NAME, &subject, "will be made at the start");
            return None;
        }
        Ok(true) => {}
    }
    let scanned = Tree::open(path).and_then(|mut tree| tree.scan().map(|()| tree));
    match scanned {
        Ok(tree) => {
            if writable_directory(path).is_ok() {
                report.ok(NAME, &subject, format!("can be written, has {} files", tree.len()));
            }
            Some(tree)
        }
        Err(error) => {
            let why = "which files there are cannot be seen";
            let remedy = "let ixflow's user read it";
            report.bad(Level::Fail, NAME, &subject, [&error.to_string(), why, remedy]);
            None
        }
    }
}

/// Space and inodes, against what the files of all pairs take.
fn room(tree: &Tree, files: u64, whole: Option<(u64, u64)>, report: &mut Report) {
    const NAME: &str = "rrd_space";
    let subject = tree.root().display();
    let Ok(system) = statvfs(tree.root()) else { return };
    let free_bytes = system.blocks_available() * system.fragment_size();
    // File systems that make inodes as needed say 0 of 0.
    let free_inodes = if system.files() == 0 { u64::MAX } else { system.files_available() };
    let Some((all, vlis)) = whole else {
        report.ok(NAME, &subject, format!("{} free; no table to reckon with", bytes(free_bytes)));
        return;
    };
    let missing = all.saturating_sub(files);
    // A directory for each VLI in each of the four families.
    let missing_inodes = if missing == 0 { 0 } else { missing + 4 * vlis };
    let needed_bytes = missing * FILE_BYTES;
    let what = format!(
        "{} free; {files} files are there, all pairs of {vlis} VLIs would have {all} files, for \
         which {} more are needed",
        bytes(free_bytes),
        bytes(needed_bytes)
    );
    // Individuals and aggregates, and a gigabyte to work with, are needed in any case.
    let least_bytes = if files == 0 { 4 * (vlis + 1) * FILE_BYTES } else { 0 } + (1 << 30);
    if free_bytes < least_bytes {
        let why = "files cannot be made, or soon no longer";
        report.bad(Level::Fail, NAME, &subject, [&what, why, "give the file system more room"]);
    } else if free_bytes < needed_bytes {
        let why = "files are made when pairs first speak: the disk may fill up";
        let remedy = "watch its fill level, or give the file system more room";
        report.bad(Level::Warn, NAME, &subject, [&what, why, remedy]);
    } else {
        report.ok(NAME, &subject, what);
    }
    if free_inodes < missing_inodes {
        let what = format!("{free_inodes} inodes free, all pairs need {missing_inodes} more");
        let why = "files cannot be made once they are used up, whatever room there is";
        let remedy = "make the file system with more of them (mkfs.ext4 -i 65536), or use XFS";
        report.bad(Level::Warn, "rrd_inodes", &subject, [&what, why, remedy]);
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000_000 => format!("{} kB", bytes / 1_000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

/// Whether reading a file writes to the disk.
fn access_times(root: &Path, report: &mut Report) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return };
    let Some((point, options)) = mount_of(root, &mounts) else { return };
    let has = |wanted: &str| options.split(',').any(|option| option == wanted);
    let shown = point.display();
    if has("noatime") || has("relatime") || has("ro") {
        let how = if has("noatime") { "noatime" } else { "relatime" };
        report.ok("rrd_atime", &shown, format!("mounted with {how}"));
    } else {
        let what =
            format!("mounted with {options}: every read of a file writes its time of access");
        let why = "each graph that is looked at costs the disk a write";
        let remedy = format!("mount -o remount,noatime {shown}, and the same in /etc/fstab");
        report.bad(Level::Warn, "rrd_atime", &shown, [&what, why, &remedy]);
    }
}

/// The mount that a path is on, and its options (proc_pid_mounts(5), fstab(5)).
fn mount_of<'a>(path: &Path, mounts: &'a str) -> Option<(PathBuf, &'a str)> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let point = fields.nth(1)?.replace("\\040", " ").replace("\\134", "\\");
        Some((PathBuf::from(point), fields.nth(1)?))
    });
    // Of several on one point the last is on top.
    mounts
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.as_os_str().len())
}

/// Writes pages all over a file that has no name, and measures how long they take to reach the
/// disk.
fn speed(root: &Path, files: u64, report: &mut Report) {
    const NAME: &str = "disk_speed";
    let measured = || -> io::Result<f64> {
        let mut file = tempfile::tempfile_in(root)?;
        file.set_len(TRIAL_BYTES)?;
        let page = [0x5a; 4_096];
        // Every page once, in an order without neighbours.
        let pages = TRIAL_BYTES / 4_096;
        let begin = Instant::now();
        for number in 0..u64::from(TRIAL_WRITES) {
            file.seek(SeekFrom::Start(number * 1_021 % pages * 4_096))?;
            file.write_all(&page)?;
        }
        file.sync_data()?;
        Ok(f64::from(TRIAL_WRITES) / begin.elapsed().as_secs_f64().max(1e-6))
    };
    let subject = root.display();
    let Ok(pages_per_second) = measured() else { return };
    let needed = (files * PAGES_PER_UPDATE) as f64 / 300.0;
    let what = format!(
        "{pages_per_second:.0} scattered pages a second reach the disk; the {files} files need \
         {needed:.0}"
    );
    if pages_per_second < needed {
        let why = "updates pile up: graphs lag, and rrdcached's queue grows";
        let remedy = "put the tree on a solid-state disk, or raise rrdcached's -w (1800) and -z \
                      (900), so that it writes several updates of a file at once";
        report.bad(Level::Warn, NAME, &subject, [&what, why, remedy]);
    } else {
        report.ok(NAME, &subject, what);
    }
}

fn rrdcached(settings: &Settings, tree: Option<&Tree>, records: &[MacRecord], report: &mut Report) {
    const NAME: &str = "rrdcached";
    let Settings { address, share, .. } = settings;
    let root = tree.map_or(settings.root.as_path(), Tree::root);
    let existing = tree.and_then(|tree| an_existing_file(tree, share, records));
    let absent = root.join(".ixflow-check.rrd");
    let mut files = vec![absent.clone()];
    files.extend(existing.clone());
    let inspection = match rrdcached::inspect(address, &files, RRDCACHED_PATIENCE) {
        Ok(inspection) => inspection,
        Err(error) => {
            let why = "nothing is written; intervals wait in memory, for a day at the most";
            let remedy = "start rrdcached (after a restart it replays its journal before it \
                          answers), or set sflow_rrdcached_socket or sflow_rrdcached = 0";
            report.bad(Level::Fail, NAME, address, [&error.to_string(), why, remedy]);
            return;
        }
    };
    let Inspection { allowed, known, stats, trials } = &inspection;
    if !allowed.contains(&"UPDATE") {
        let what = format!("UPDATE is not allowed on this socket, only {}", allowed.join(", "));
        let why = "nothing can be written through it";
        let remedy = "give -P FLUSH,UPDATE,BATCH,CREATE,STATS before its -l";
        report.bad(Level::Fail, NAME, address, [&what, why, remedy]);
        return;
    }
    let version = match known.iter().any(|command| command == "CREATE") {
        _ if known.is_empty() => "",
        true => "; version 1.5 or later",
        false => "; older than version 1.5",
    };
    let part = if share.is_whole() {
        String::new()
    } else {
        let vlis: BTreeSet<_> = records.iter().map(|record| record.vli).collect();
        let of_share = vlis.iter().filter(|&&vli| share.has_vli(vli)).count();
        format!("; has the files of {of_share} of {} VLIs", vlis.len())
    };
    report.ok(NAME, address, format!("answers; allows {}{version}{part}", allowed.join(", ")));
    if !allowed.contains(&"FLUSH") {
        let why = "the portal cannot ask for what is not on the disk yet: its graphs lag by up to \
                   rrdcached's -w";
        let text = ["FLUSH is not allowed on this socket", why, "add FLUSH to its -P"];
        report.bad(Level::Warn, NAME, address, text);
    }
    for (path, trial) in trials {
        let subject = path.display();
        match trial {
            Trial::Refused(answer) if *path == absent => {
                let why = "rrdcached takes no files of this directory";
                let remedy = "start it without -B, or with -b set to the directory or one above";
                let subject = root.display();
                report.bad(Level::Fail, "rrdcached_base", &subject, [answer, why, remedy]);
            }
            _ if *path == absent => {}
            Trial::Writable => report.ok("rrdcached_files", &subject, "rrdcached can write it"),
            Trial::NoFile => {
                let why = "rrdcached sees other files than this machine: another mount or chroot";
                let remedy = "let both see the tree under the same path";
                let text = ["no such file, says rrdcached", why, remedy];
                report.bad(Level::Fail, "rrdcached_files", &subject, text);
            }
            Trial::Refused(answer) => {
                let why = "files that ixflow makes are not updated";
                let remedy = "let rrdcached's user write them: a common group, and UMask=0002 for \
                              ixflow (docs/migration.md, whose files)";
                report.bad(Level::Fail, "rrdcached_files", &subject, [answer, why, remedy]);
            }
        }
    }
    queue(address, stats, report);
}

/// Whether rrdcached keeps up with the disk.
fn queue(address: &Address, stats: &[(String, u64)], report: &mut Report) {
    let stat = |wanted: &str| stats.iter().find(|(name, _)| name == wanted).map(|(_, n)| *n);
    let (Some(queue), Some(nodes)) = (stat("QueueLength"), stat("TreeNodesNumber")) else {
        return;
    };
    let what = format!("{queue} of {nodes} files wait to be written");
    // With -w a whole round becomes due at once, so that a short queue is nothing.
    if queue > 1_000 && queue > nodes / 2 {
        let why = "the disk is slower than the updates: graphs lag, and a stop takes long";
        let remedy = "put the tree on a faster disk, raise -t (4) and -w and -z (1800, 900)";
        report.bad(Level::Warn, "rrdcached_queue", address, [&what, why, remedy]);
    } else {
        report.ok("rrdcached_queue", address, what);
    }
}

/// One of the files of the table's VLIs in a share that are there.
fn an_existing_file(tree: &Tree, share: &Share, records: &[MacRecord]) -> Option<PathBuf> {
    let (protocol, unit) = (IpProtocol::V4, Unit::Bytes);
    let mut files =
        records.iter().map(|record| File::Individual { protocol, unit, vli: record.vli });
    files.find(|file| share.has(file) && tree.contains(file)).map(|file| file.path(tree.root()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ixp::{InfrastructureId, Mac, VlanTag, VliId};

    #[test]
    fn the_mount_of_a_path_is_the_deepest() {
        let mounts = "/dev/a / ext4 rw,relatime 0 0\n/dev/b /data ext4 rw 0 0\n\
                      /dev/c /data/my\\040tree xfs rw,noatime 0 0\n/dev/d /database ext4 ro 0 0\n";
        for (path, point, options) in [
            ("/data/x", "/data", "rw"),
            ("/data/my tree/ipv4", "/data/my tree", "rw,noatime"),
            ("/databases", "/", "rw,relatime"),
        ] {
            let found = mount_of(Path::new(path), mounts);
            assert_eq!(found, Some((PathBuf::from(point), options)), "{path}");
        }
    }

    #[test]
    fn the_whole_tree_of_n_members() {
        let records: Vec<MacRecord> = (1..=200)
            .map(|vli| MacRecord {
                infrastructure: InfrastructureId(1),
                vlan: VlanTag::new(10),
                mac: Mac::from_octets([2, 0, 0, 0, 0, vli]),
                vli: VliId(vli.into()),
            })
            .collect();
        // 4N(N-1) + 4N + 4.
        assert_eq!(whole_tree(&records), Some((4 * 200 * 199 + 4 * 200 + 4, 200)));
        assert_eq!(whole_tree(&[]), Some((0, 0)));
    }

    #[test]
    fn sizes_have_a_unit() {
        let shown = [0, 185_312, 9_999_999, 30_000_000, 188_000_000_000].map(bytes);
        assert_eq!(shown, ["0 kB", "185 kB", "9999 kB", "30 MB", "188 GB"]);
    }
}
