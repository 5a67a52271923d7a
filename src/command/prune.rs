//! `ixflow prune`: removes the files of VLIs that the portal no longer knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::control::api::{self, ApiError, Client, Fetched, Limits, StateError};
use crate::control::config::{Config, ConfigError};
use crate::ixp::VliId;
use crate::sink::file::LAST_UPDATE;
use crate::sink::rrdcached::Rrdcached;
use crate::sink::{File, SinkError, Tree};

use super::run::{goes_through_rrdcached, rrdcached_settings};

/// Directories that get a line of their own.
const LINES_MAX: usize = 10_000;

/// Arguments of `ixflow prune`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The site's ixpmanager.conf [default: as for `ixflow run`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides a setting of the file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Removes only what was last fed so many days ago, or longer
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    older_than: u32,
    /// Says what would be removed, and removes nothing
    #[arg(long)]
    dry_run: bool,
    /// Removes even more than half of the tree
    #[arg(long)]
    yes: bool,
}

/// Nothing was removed, or not all.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The saved table.
    #[error(transparent)]
    State(#[from] StateError),
    /// The portal, asked because no table is saved.
    #[error(
        "no MAC table is saved in {}, and the portal gives none: {source}; without a table every \
         file would be of an unknown VLI",
        state_dir.display()
    )]
    Portal {
        /// The state directory.
        state_dir: PathBuf,
        /// What is wrong.
        source: Box<ApiError>,
    },
    /// A table without an entry.
    #[error("{0}: the table is empty: every file would be of an unknown VLI")]
    EmptyTable(String),
    /// The tree.
    #[error("sflow_rrddir = {}: {source}", path.display())]
    Tree {
        /// The root.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Probably the wrong table, or the wrong tree.
    #[error(
        "{found} of the {all} files would be removed, more than half: is this the table of this \
         tree? If it is, say --yes"
    )]
    TooMany {
        /// Files to be removed.
        found: usize,
        /// Files of the tree.
        all: usize,
    },
    /// rrdcached.
    #[error("{0}; nothing was removed")]
    Rrdcached(#[from] SinkError),
    /// Some files are still there.
    #[error("{0} files could not be removed")]
    Remaining(usize),
    /// The runtime that asks the portal.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

/// Lists or removes the files.
pub fn run(arguments: &Arguments) -> Result<(), PruneError> {
    let config = Config::load(arguments.config.as_deref(), &arguments.set)?;
    let tree_error = |source| PruneError::Tree { path: config.rrd_dir.clone(), source };
    let (known, source) = known_vlis(&config)?;
    if known.is_empty() {
        return Err(PruneError::EmptyTable(source));
    }
    let mut tree = Tree::open(&config.rrd_dir).map_err(tree_error)?;
    tree.scan().map_err(tree_error)?;

    let now_secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let fed_before_secs = now_secs.saturating_sub(u64::from(arguments.older_than) * 86_400);
    let mut directories: BTreeMap<PathBuf, Directory> = BTreeMap::new();
    let (mut strangers, mut young) = (0, 0);
    for file in tree.files().filter(|file| is_unknown(file, &known)) {
        strangers += 1;
        let path = file.path(tree.root());
        // Never the root: a file's path has four components at least.
        let Some(parent) = path.parent() else { continue };
        let directory = directories
            .entry(parent.to_owned())
            .or_insert_with(|| Directory { is_plain: is_plain(parent), ..Directory::default() });
        match examine(&path) {
            Some((fed_secs, bytes)) if directory.is_plain && fed_secs < fed_before_secs => {
                directory.files.push(file);
                directory.bytes += bytes;
            }
            Some((_, _)) if directory.is_plain => young += 1,
            _ => directory.foreign += 1,
        }
    }
    directories.retain(|_, directory| !directory.files.is_empty() || directory.foreign > 0);

    let found: usize = directories.values().map(|directory| directory.files.len()).sum();
    let bytes: u64 = directories.values().map(|directory| directory.bytes).sum();
    let verb = if arguments.dry_run { "would remove" } else { "to remove" };
    for (path, Directory { files, bytes, foreign, .. }) in directories.iter().take(LINES_MAX) {
        let foreign = match foreign {
            0 => String::new(),
            count => format!(" ({count} left alone: a link, or no RRD file)"),
        };
        println!("{}: {verb} {} files, {bytes} bytes{foreign}", path.display(), files.len());
    }
    if directories.len() > LINES_MAX {
        println!("... and {} more directories", directories.len() - LINES_MAX);
    }
    println!(
        "{verb} {found} files, {bytes} bytes, of {} files in {}; {strangers} are of VLIs that \
         {source} does not know, {young} of them fed within {} days",
        tree.len(),
        tree.root().display(),
        arguments.older_than,
    );
    if arguments.dry_run || found == 0 {
        return Ok(());
    }
    if found * 2 > tree.len() && !arguments.yes {
        return Err(PruneError::TooMany { found, all: tree.len() });
    }
    remove(&config, &tree, &directories)
}

/// What is to be removed from a directory.
#[derive(Default)]
struct Directory {
    files: Vec<File>,
    bytes: u64,
    /// No link leads out of the tree.
    is_plain: bool,
    /// Files that have the name of one of ours, and are none.
    foreign: usize,
}

/// The VLIs of the last good table, else of the portal's; of all infrastructures, for the others
/// may be fed by another daemon. Also where they are from.
fn known_vlis(config: &Config) -> Result<(BTreeSet<VliId>, String), PruneError> {
    let (table, source) = match api::load_table(&config.state_dir, None)? {
        Some(saved) => (saved.table, format!("the saved answer of {}", saved.url)),
        None => {
            let mut portal = config.portal()?;
            portal.infrastructure = None;
            let error = |source| PruneError::Portal {
                state_dir: config.state_dir.clone(),
                source: Box::new(source),
            };
            let mut client = Client::new(&portal, Limits::default()).map_err(error)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(PruneError::Start)?;
            match runtime.block_on(client.fetch()).map_err(error)? {
                Fetched::Table { table, .. } => (table, client.url().to_string()),
                // Only the answer to a second question.
                Fetched::NotModified => (Default::default(), client.url().to_string()),
            }
        }
    };
    Ok((table.records.iter().map(|record| record.vli).collect(), source))
}

/// Whether a file is of a VLI, or of a pair with one, that the table does not know. Aggregates are
/// of VLANs.
fn is_unknown(file: &File, known: &BTreeSet<VliId>) -> bool {
    match file {
        File::Pair { vli, peer, .. } => !known.contains(vli) || !known.contains(peer),
        File::Individual { vli, .. } => !known.contains(vli),
        File::Aggregate { .. } => false,
    }
}

/// Whether a directory is where its path says, without a link on the way.
fn is_plain(directory: &Path) -> bool {
    fs::canonicalize(directory).is_ok_and(|real| real == directory)
}

/// When a file was fed last, by its own last update and by its time of modification, in seconds
/// since 1970, and its bytes; none if it is not an RRD file, or a link to one.
fn examine(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() {
        return None;
    }
    let mut header = [0; LAST_UPDATE.end];
    fs::File::open(path).ok()?.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"RRD\0") {
        return None;
    }
    let last_update = header.get(LAST_UPDATE)?.try_into().ok().map(u64::from_le_bytes)?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some((last_update.max(modified), metadata.len()))
}

/// Lets rrdcached forget the files, removes them, and the directories that are empty then.
fn remove(
    config: &Config,
    tree: &Tree,
    directories: &BTreeMap<PathBuf, Directory>,
) -> Result<(), PruneError> {
    if goes_through_rrdcached(config) {
        let files: Vec<File> =
            directories.values().flat_map(|directory| &directory.files).copied().collect();
        // Each of all: a file may have been another's before the list of sockets was changed.
        for settings in rrdcached_settings(config) {
            let address = settings.address.clone();
            let mut sink = Rrdcached::new(settings, Default::default())
                .map_err(|source| PruneError::Tree { path: config.rrd_dir.clone(), source })?;
            if !sink.forget(&files)? {
                println!(
                    "rrdcached at {address} does not allow FORGET on this socket: what it knows of \
                     these files it keeps until it is restarted"
                );
            }
        }
    }
    let (mut removed, mut bytes, mut remaining) = (0, 0, 0);
    for (path, directory) in directories {
        for file in &directory.files {
            let path = file.path(tree.root());
            let length = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
            match fs::remove_file(&path) {
                Ok(()) => (removed, bytes) = (removed + 1, bytes + length),
                Err(error) => {
                    remaining += 1;
                    if remaining <= crate::sink::REFUSALS_MAX {
                        eprintln!("ixflow: {}: {error}", path.display());
                    }
                }
            }
        }
        // Only if it is empty; and only directories of one VLI.
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("src-")) {
            let _ = fs::remove_dir(path);
        }
    }
    println!("removed {removed} files, {bytes} bytes");
    if remaining > 0 { Err(PruneError::Remaining(remaining)) } else { Ok(()) }
}
