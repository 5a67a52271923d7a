//! The files of the RRD tree: their names, and which there are.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::header::{Fitness, examine};
use super::join;
use super::share::Share;
use crate::ixp::{InfrastructureId, IpProtocol, Unit, VlanTag, VliId};

/// In the keys of files the aggregates stand behind all VLIs: those of infrastructures by their
/// tags from here on, and those of tags at the end. These ids are nobody's (IXP Manager counts up
/// from 1).
const AGGREGATES_FROM: u32 = TAG_AGGREGATES - 0x1000;
const TAG_AGGREGATES: u32 = u32::MAX;

/// Threads that look at the headers of files: as many reads as a disk does well at once.
const READERS: usize = 8;

/// The file in the root that whoever writes the tree locks.
const LOCK_NAME: &str = ".ixflow.lock";

/// That a tree has one writer: held until it is dropped, or its process ends.
#[derive(Debug)]
pub struct TreeLock {
    _file: fs::File,
}

/// Another process writes the tree.
#[derive(Debug, thiserror::Error)]
#[error("{}: locked by {holder}", path.display())]
pub struct TreeHeld {
    /// The lock.
    pub path: PathBuf,
    /// Process and host, in words.
    pub holder: String,
}

impl TreeLock {
    /// Takes the lock of the tree below `root` (flock(2)). There is none where no file can be made
    /// or locked: then the tree is elsewhere, or others see to it.
    pub fn take(root: &Path) -> Result<Option<TreeLock>, TreeHeld> {
        let path = root.join(LOCK_NAME);
        let mut options = fs::File::options();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = match options.open(&path) {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!("{}: {error}: the tree is not locked", path.display());
                return Ok(None);
            }
        };
        match file.try_lock() {
            Ok(()) => {
                let host = nix::unistd::gethostname().unwrap_or_default();
                let holder = format!("process {} on {}", std::process::id(), host.display());
                // Only for people.
                let _ = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
                Ok(Some(TreeLock { _file: file }))
            }
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.take(300).read_to_string(&mut holder);
                Err(TreeHeld { path, holder })
            }
            Err(fs::TryLockError::Error(error)) => {
                tracing::debug!("{}: {error}: the tree is not locked", path.display());
                Ok(None)
            }
        }
    }
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
    pub(super) files: [Vec<u64>; 4],
    /// Files that cannot be fed, in the same form.
    unfit: [Vec<u64>; 4],
    /// VLIs whose files were looked at, per protocol and unit; all aggregates under one.
    examined: [HashSet<u32>; 4],
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
        Ok(Tree::new(root, true))
    }

    /// A tree on the host of an rrdcached, which cannot be looked into: its files are known once
    /// they were written.
    pub fn remote(root: &Path) -> Tree {
        Tree::new(root.into(), false)
    }

    fn new(root: PathBuf, local: bool) -> Tree {
        Tree {
            root,
            local,
            scanned: !local,
            files: Default::default(),
            unfit: Default::default(),
            examined: Default::default(),
        }
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
        self.scan_share(&Share::default(), || true).map(drop)
    }

    /// Reads which files of a part of the tree there are, once. False: `go_on`, which is asked
    /// before every directory, says no.
    pub(super) fn scan_share(
        &mut self,
        share: &Share,
        go_on: impl Fn() -> bool,
    ) -> io::Result<bool> {
        if self.scanned {
            return Ok(true);
        }
        for (protocol, unit) in families() {
            let family = self.root.join(protocol.name()).join(unit.name());
            let mut keys = Vec::new();
            for kind in ["aggregate", "individual"] {
                scan_directory(&family.join(kind), share, &mut keys)?;
            }
            let pairs = family.join("p2p");
            for entry in entries(&pairs)? {
                if !go_on() {
                    return Ok(false);
                }
                scan_directory(&pairs.join(entry?.file_name()), share, &mut keys)?;
            }
            keys.sort_unstable();
            keys.dedup();
            self.files[slot(protocol, unit)] = keys;
        }
        self.scanned = true;
        Ok(true)
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.iter().map(Vec::len).sum()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `file` is there, and can be fed.
    pub fn contains(&self, file: &File) -> bool {
        self.files[file.slot()].binary_search(&file.key()).is_ok()
    }

    /// Whether `file` is there, and must be left alone.
    pub fn is_unfit(&self, file: &File) -> bool {
        let unfit = &self.unfit[file.slot()];
        !unfit.is_empty() && unfit.binary_search(&file.key()).is_ok()
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = File> {
        families().flat_map(|(protocol, unit)| {
            let keys = self.files[slot(protocol, unit)].iter();
            keys.map(move |&key| File::from_key(protocol, unit, key))
        })
    }

    /// Looks at the files of these VLIs, and at the aggregates, as far as that was not done
    /// before. Those that cannot be fed are not in the tree any more; `report` is told of all
    /// that are not as we make them. False: `go_on`, which is asked before every file, says no; what
    /// is left is looked at the next time.
    pub(super) fn examine(
        &mut self,
        vlis: &[VliId],
        go_on: impl Fn() -> bool + Sync,
        mut report: impl FnMut(File, &Fitness),
    ) -> bool {
        if !self.local {
            return true;
        }
        let of_all = |(protocol, unit)| {
            vlis.iter().chain(&[VliId(TAG_AGGREGATES)]).map(move |&vli| (protocol, unit, vli))
        };
        let parts: Vec<_> = families()
            .flat_map(of_all)
            .filter(|(protocol, unit, vli)| !self.examined[slot(*protocol, *unit)].contains(&vli.0))
            .collect();
        let next = AtomicUsize::new(0);
        let read = || {
            let mut seen = Vec::new();
            while let Some(&(protocol, unit, vli)) = parts.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let mut unusual = Vec::new();
                for &key in self.keys_of(slot(protocol, unit), vli) {
                    if !go_on() {
                        return seen;
                    }
                    let file = File::from_key(protocol, unit, key);
                    let fitness = examine(&file.path(&self.root));
                    if fitness != Fitness::Usual {
                        unusual.push((file, fitness));
                    }
                }
                seen.push((slot(protocol, unit), vli, unusual));
            }
            seen
        };
        let seen: Vec<_> = thread::scope(|scope| {
            let readers: Vec<_> =
                (0..READERS.min(parts.len())).map(|_| scope.spawn(read)).collect();
            readers.into_iter().flat_map(join).collect()
        });
        let finished = seen.len() == parts.len();
        let mut unusual = Vec::new();
        for (slot, vli, some) in seen {
            self.examined[slot].insert(vli.0);
            unusual.extend(some);
        }
        // Whoever read them, they are told in the order of the tree.
        unusual.sort_unstable_by_key(|(file, _)| (file.slot(), file.key()));
        for (file, fitness) in &unusual {
            report(*file, fitness);
        }
        unusual.retain(|(_, fitness)| matches!(fitness, Fitness::Unfit(_)));
        let unfit: Vec<File> = unusual.into_iter().map(|(file, _)| file).collect();
        self.set_unfit(&unfit);
        finished
    }

    /// The keys of a VLI in a slot, or of all aggregates.
    fn keys_of(&self, slot: usize, vli: VliId) -> &[u64] {
        let keys = &self.files[slot];
        let first = if vli.0 == TAG_AGGREGATES { AGGREGATES_FROM } else { vli.0 };
        let start = keys.partition_point(|&key| vli_of(key).0 < first);
        let end = keys.partition_point(|&key| vli_of(key) <= vli);
        &keys[start..end]
    }

    fn set_unfit(&mut self, files: &[File]) {
        self.remove(files);
        merge(&mut self.unfit, files);
    }

    pub(super) fn insert(&mut self, files: &[File]) {
        merge(&mut self.files, files);
    }

    pub(super) fn remove(&mut self, files: &[File]) {
        for (keys, gone) in self.files.iter_mut().zip(by_slot(files)) {
            if !gone.is_empty() {
                keys.retain(|key| gone.binary_search(key).is_err());
            }
        }
    }
}

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
        /// The VLAN's tag.
        vlan: VlanTag,
        /// The infrastructure; none: all that use the tag, as the portal reads it.
        infrastructure: Option<InfrastructureId>,
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
        match *self {
            File::Pair { peer, .. } => {
                out.extend_from_slice(b".dst-");
                push_id(out, peer.0);
            }
            File::Aggregate { infrastructure: Some(infrastructure), .. } => {
                out.extend_from_slice(b".infra");
                push_id(out, infrastructure.0);
            }
            File::Aggregate { infrastructure: None, .. } | File::Individual { .. } => {}
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
        let vli =
            |part: &str, label: &str| id(part, label).filter(|&id| id < AGGREGATES_FROM).map(VliId);
        let file = match kind {
            "aggregate" => {
                let vlan = VlanTag::new(id(whose, "vlan")?);
                let infrastructure = match parts.next() {
                    Some(part) => Some(InfrastructureId(id(part, "infra")?)),
                    None => None,
                };
                File::Aggregate { protocol, unit, vlan, infrastructure }
            }
            "individual" => File::Individual { protocol, unit, vli: vli(whose, "src-")? },
            "p2p" => {
                let peer = vli(parts.next()?, "dst-")?;
                File::Pair { protocol, unit, vli: vli(whose, "src-")?, peer }
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

    /// The file of a key.
    fn from_key(protocol: IpProtocol, unit: Unit, key: u64) -> File {
        let (vli, peer) = (vli_of(key), peer_of(key));
        match (vli.0, peer.0) {
            (TAG_AGGREGATES, tag) => {
                File::Aggregate { protocol, unit, vlan: VlanTag::new(tag), infrastructure: None }
            }
            (AGGREGATES_FROM.., id) => {
                let vlan = VlanTag::new(vli.0 - AGGREGATES_FROM);
                File::Aggregate { protocol, unit, vlan, infrastructure: Some(InfrastructureId(id)) }
            }
            (_, u32::MAX) => File::Individual { protocol, unit, vli },
            _ => File::Pair { protocol, unit, vli, peer },
        }
    }

    /// Within a slot: the pairs of a VLI in the order of their peers, then its individual; behind
    /// all VLIs the aggregates.
    fn key(&self) -> u64 {
        match *self {
            File::Pair { vli, peer, .. } => pair_key(vli, peer),
            File::Individual { vli, .. } => pair_key(vli, VliId(u32::MAX)),
            File::Aggregate { vlan, infrastructure: None, .. } => {
                pair_key(VliId(TAG_AGGREGATES), VliId(u32::from(vlan.as_u16())))
            }
            File::Aggregate { vlan, infrastructure: Some(infrastructure), .. } => {
                let tag = AGGREGATES_FROM + u32::from(vlan.as_u16());
                pair_key(VliId(tag), VliId(infrastructure.0))
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

pub(super) const fn slot(protocol: IpProtocol, unit: Unit) -> usize {
    protocol as usize * 2 + unit as usize
}

const fn pair_key(vli: VliId, peer: VliId) -> u64 {
    (vli.0 as u64) << 32 | peer.0 as u64
}

const fn vli_of(key: u64) -> VliId {
    VliId((key >> 32) as u32)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half of a key is the peer")]
pub(super) const fn peer_of(key: u64) -> VliId {
    VliId(key as u32)
}

/// Appends a number in decimals, `width` digits at least.
pub(super) fn push_decimal(out: &mut Vec<u8>, mut number: u64, width: usize) {
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

fn merge(slots: &mut [Vec<u64>; 4], files: &[File]) {
    for (keys, new) in slots.iter_mut().zip(by_slot(files)) {
        if !new.is_empty() {
            keys.extend(new);
            // Two sorted runs: the stable sort merges them.
            keys.sort();
            keys.dedup();
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

/// Collects the files of `directory` that belong there, and are in the share.
fn scan_directory(directory: &Path, share: &Share, keys: &mut Vec<u64>) -> io::Result<()> {
    for entry in entries(directory)? {
        let name = entry?.file_name();
        let file = name.to_str().and_then(File::from_name).filter(|file| share.has(file));
        let Some(file) = file else { continue };
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

pub(super) fn families() -> impl Iterator<Item = (IpProtocol, Unit)> {
    IpProtocol::ALL
        .into_iter()
        .flat_map(|protocol| Unit::ALL.into_iter().map(move |unit| (protocol, unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_ixp_managers() {
        let (protocol, unit) = (IpProtocol::V6, Unit::Packets);
        let aggregate = |infrastructure: Option<u32>| File::Aggregate {
            protocol,
            unit: Unit::Bytes,
            vlan: VlanTag::new(10),
            infrastructure: infrastructure.map(InfrastructureId),
        };
        for (file, path) in [
            (
                File::Pair { protocol, unit, vli: VliId(7), peer: VliId(123_456) },
                "ipv6/pkts/p2p/src-00007/p2p.ipv6.pkts.src-00007.dst-123456.rrd",
            ),
            (
                File::Individual { protocol: IpProtocol::V4, unit, vli: VliId(99_999) },
                "ipv4/pkts/individual/individual.ipv4.pkts.src-99999.rrd",
            ),
            (aggregate(None), "ipv6/bytes/aggregate/aggregate.ipv6.bytes.vlan00010.rrd"),
            (
                aggregate(Some(2)),
                "ipv6/bytes/aggregate/aggregate.ipv6.bytes.vlan00010.infra00002.rrd",
            ),
            (
                aggregate(Some(u32::MAX)),
                "ipv6/bytes/aggregate/aggregate.ipv6.bytes.vlan00010.infra4294967295.rrd",
            ),
        ] {
            assert_eq!(file.to_string(), path);
            assert_eq!(path.parse(), Ok(file));
            assert_eq!(File::from_key(file.family().0, file.family().1, file.key()), file);
        }
        for path in [
            "",
            "p2p.ipv4.bytes.src-00007.dst-00008.rrd",
            "ipv4/bytes/p2p/src-00009/p2p.ipv4.bytes.src-00007.dst-00008.rrd",
            "ipv4/bytes/p2p/src-7/p2p.ipv4.bytes.src-7.dst-8.rrd",
            "ipv4/bytes/individual/individual.ipv4.bytes.src-+0007.rrd",
            "ipv4/bytes/individual/individual.ipv4.bytes.src-4294967295.rrd",
            "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00010.infra2.rrd",
            "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan00010.infra-00002.rrd",
            "ipv4/bytes/aggregate/aggregate.ipv4.bytes.infra00002.vlan00010.rrd",
            "ipv4/bytes/aggregate/aggregate.ipv4.bytes.vlan09999.rrd",
            "ipv4/bytes/aggregate/aggregate.ipv4.octets.vlan00010.rrd",
        ] {
            assert_eq!(path.parse::<File>(), Err(FileError), "{path}");
        }
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
            "ipv6/pkts/aggregate/aggregate.ipv6.pkts.vlan00010.infra00001.rrd",
            "ipv6/pkts/aggregate/aggregate.ipv6.pkts.vlan04094.infra00001.rrd",
        ];
        for path in paths.iter().chain(&[
            "ipv4/bytes/p2p/src-00002/p2p.ipv4.bytes.src-00001.dst-00003.rrd",
            "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00002.ixflow-new",
            "ipv4/bytes/p2p/README",
        ]) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Ours by its magic, with no data sources.
            let mut header = [0; 128];
            header[..4].copy_from_slice(b"RRD\0");
            header[16..24].copy_from_slice(&8.642135E130f64.to_le_bytes());
            fs::write(path, header).unwrap();
        }
        let mut tree = Tree::open(&root.path().join("ipv4/..")).unwrap();
        assert_eq!(tree.root(), fs::canonicalize(root.path()).unwrap());
        tree.scan().unwrap();
        assert_eq!(tree.len(), 5);
        assert!(paths.iter().all(|path| tree.contains(&path.parse().unwrap())));
        // Those of the VLIs that are asked for, and every aggregate, are looked at.
        let mut unfit = Vec::new();
        assert!(tree.examine(&[VliId(1)], || true, |file, _| unfit.push(file.to_string())));
        unfit.sort();
        let mut all = paths;
        all.sort_unstable();
        assert_eq!(unfit, all);
        Tree::open(&root.path().join("nowhere")).unwrap_err();
    }
}
