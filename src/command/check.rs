//! `ixflow check`: looks at everything that the graphs depend on, and changes nothing.
//!
//! One finding a line, in the order of the way: settings, state, portal, RRD files,
//! rrdcached, sockets, clock, and with --pcap or --listen what the stream shows. Each line says what was
//! seen, and, where it is not as it should be, why it matters and what to do. It can run beside the
//! daemon.

mod clock;
mod files;
mod portal;
mod stream;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::agent::{DIRECTION_FINDINGS, quality};
use crate::clock::Clock;
use crate::control::api;
use crate::control::config::{Config, ConfigError};
use crate::finding::{Finding, Level};
use crate::receive::UdpSockets;
use crate::sink::rrdcached::user_name;
use crate::{sightings, sink, state};

use super::run::LOCK_FILE;

/// Findings of one kind that are told one by one; the others are counted.
const SAME_MAX: usize = 20;

/// The names of what only the check says, in the order in which it looks.
pub const FINDINGS: &[&str] = &[
    "configuration",
    "key_file",
    "state_dir",
    "api",
    "table_conflict",
    "vli_without_mac",
    "mac_not_configured",
    "rrd_directory",
    "rrd_space",
    "rrd_inodes",
    "rrd_atime",
    "disk_speed",
    "rrdcached",
    "rrdcached_base",
    "rrdcached_files",
    "rrdcached_queue",
    "listen",
    "socket_buffer",
    "clock",
    "stream",
    "mac_not_seen",
];

/// The names of all findings: those of the check, and those of the daemon.
pub fn all_findings() -> impl Iterator<Item = &'static str> {
    let of_the_daemon = [
        DIRECTION_FINDINGS,
        sightings::FINDINGS,
        quality::FINDINGS,
        sink::FINDINGS,
        state::FINDINGS,
    ];
    FINDINGS.iter().chain(of_the_daemon.into_iter().flatten()).copied()
}

/// Arguments of `ixflow check`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Settings, as for `ixflow run`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides a setting of the file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Listens for so many seconds, and tells what the stream shows; where ixflow runs, use --pcap
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    listen: Option<u64>,
    /// Tells what the stream in a capture (pcap, pcapng) shows; several in the order of their time
    #[arg(long, value_name = "FILE")]
    pcap: Vec<PathBuf>,
    /// UDP port of the collector in the captures
    #[arg(long, default_value_t = 6343)]
    port: u16,
    /// Prints each finding as a JSON object in a line of its own
    #[arg(long)]
    json: bool,
}

/// Looks at everything, and says how bad the worst is.
///
/// # Errors
///
/// Standard output is gone.
pub fn run(arguments: &Arguments) -> io::Result<Level> {
    let mut report = Report { json: arguments.json, worst: Level::Ok, printed: Ok(()) };
    if let Some(config) = configuration(arguments, &mut report) {
        key_file(&config, &mut report);
        let saved = state_dir(&config, &mut report);
        let records = portal::check(&config, saved, &mut report);
        files::check(&config, records.as_deref(), &mut report);
        sockets(&config, &mut report);
        clock::check(&mut report);
        let records = records.unwrap_or_default();
        if !arguments.pcap.is_empty() {
            let (captures, port) = (&arguments.pcap, arguments.port);
            stream::capture(&config, &records, captures, port, &mut report);
        }
        if let Some(secs) = arguments.listen {
            stream::listen(&config, &records, secs, &mut report);
        }
    }
    match report.printed {
        // Whoever reads has seen enough, as head(1).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(report.worst),
        printed => printed.map(|()| report.worst),
    }
}

/// Prints findings as they come.
struct Report {
    json: bool,
    worst: Level,
    printed: io::Result<()>,
}

impl Report {
    fn add(&mut self, finding: &Finding) {
        debug_assert!(all_findings().any(|name| name == finding.name), "{}", finding.name);
        self.worst = self.worst.max(finding.level);
        if self.printed.is_err() {
            return;
        }
        let line = if self.json {
            // Strings alone, which always are JSON.
            serde_json::to_string(finding).unwrap_or_default()
        } else {
            finding.to_string()
        };
        let mut out = io::stdout().lock();
        self.printed = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    fn ok(&mut self, name: &'static str, subject: impl std::fmt::Display, what: impl Into<String>) {
        self.add(&Finding {
            level: Level::Ok,
            name,
            subject: subject.to_string(),
            what: what.into(),
            why: String::new(),
            remedy: String::new(),
        });
    }

    /// Something that is not as it should be.
    fn bad(
        &mut self,
        level: Level,
        name: &'static str,
        subject: impl std::fmt::Display,
        [what, why, remedy]: [&str; 3],
    ) {
        self.add(&Finding {
            level,
            name,
            subject: subject.to_string(),
            what: what.into(),
            why: why.into(),
            remedy: remedy.into(),
        });
    }
}

/// The first of many names, and how many more there are.
fn some_of<T: ToString>(names: impl ExactSizeIterator<Item = T>) -> String {
    const NAMED_MAX: usize = 10;
    let count = names.len();
    let named: Vec<String> = names.take(NAMED_MAX).map(|name| name.to_string()).collect();
    let mut text = named.join(", ");
    if count > NAMED_MAX {
        // Writing to a String does not fail.
        let _ = write!(text, " and {} more", count - NAMED_MAX);
    }
    text
}

fn configuration(arguments: &Arguments, report: &mut Report) -> Option<Config> {
    const NAME: &str = "configuration";
    const REMEDY: &str = "correct it; docs/settings.md lists the settings";
    let mut fail = |error: &ConfigError| {
        for fault in error.to_string().lines() {
            let text = [fault, "ixflow does not start with it", REMEDY];
            report.bad(Level::Fail, NAME, "", text);
        }
    };
    let config = match Config::load(arguments.config.as_deref(), &arguments.set) {
        Ok(config) => config,
        Err(error) => {
            fail(&error);
            return None;
        }
    };
    match config.portal() {
        Err(error) => fail(&error),
        Ok(_) => {
            let file = config.file.as_deref().map(|file| file.display().to_string());
            report.ok(NAME, file.unwrap_or_default(), "can be used");
        }
    }
    for notice in &config.notices {
        let text = [notice, "it may not be what was meant", "change or remove the line"];
        report.bad(Level::Warn, NAME, "", text);
    }
    Some(config)
}

/// Who can read the API key, and who can write the settings.
fn key_file(config: &Config, report: &mut Report) {
    const NAME: &str = "key_file";
    let Some(path) = &config.file else { return };
    let subject = path.display();
    // It was read just now.
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o7777;
    let remedy = format!(
        "chown root:GROUP and chmod 640 {subject}, where GROUP is that of ixflow and of the other \
         programs that read it"
    );
    if mode & 0o002 != 0 {
        let what = format!("mode {mode:04o}: every user of this machine can change the settings");
        let why = "whoever does can have any file of ixflow's user overwritten";
        report.bad(Level::Fail, NAME, &subject, [&what, why, &remedy]);
    } else if mode & 0o004 != 0 && config.api_key.is_some() {
        let what = format!("mode {mode:04o}: every user of this machine can read the API key");
        let why = "the key opens IXP Manager's API with its owner's rights";
        report.bad(Level::Warn, NAME, &subject, [&what, why, &remedy]);
    } else {
        report.ok(NAME, &subject, format!("mode {mode:04o}, of user {}", metadata.uid()));
    }
}

/// The state directory, and the table that is saved in it.
fn state_dir(config: &Config, report: &mut Report) -> Option<api::LastGood> {
    const NAME: &str = "state_dir";
    const WHY: &str = "after a restart while the portal is away nothing would be counted";
    let path = &config.state_dir;
    let subject = path.display();
    let remedy = format!("make it a directory that ixflow's user can write ({})", who_am_i());
    match writable_directory(path) {
        Err(reason) => {
            report.bad(Level::Warn, NAME, &subject, [&reason, WHY, &remedy]);
            return None;
        }
        Ok(false) => report.ok(NAME, &subject, "will be made at the start"),
        Ok(true) => {}
    }
    match api::read_table(path, config.infrastructure) {
        Ok(Some(saved)) => {
            let age_secs =
                (Clock::System.now_millis() / 1_000).saturating_sub(saved.fetched_at_secs);
            let what = format!(
                "can be written; it has a table of {} entries, {} old",
                saved.table.records.len(),
                duration(age_secs)
            );
            report.ok(NAME, &subject, what);
            Some(saved)
        }
        Ok(None) => {
            if path.is_dir() {
                report.ok(NAME, &subject, "can be written; no table is saved yet");
            }
            None
        }
        Err(error) => {
            let what = error.to_string();
            let remedy = "nothing: it is replaced when the portal answers";
            report.bad(Level::Warn, NAME, &subject, [&what, WHY, remedy]);
            None
        }
    }
}

/// Whether a directory is there and can be written by the user of this process, or can be made
/// (false), or why not.
fn writable_directory(path: &Path) -> Result<bool, String> {
    let what = |at: &Path, error: &dyn std::fmt::Display| {
        if at == path { format!("{error}") } else { format!("{}: {error}", at.display()) }
    };
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err("not a directory".into()),
        Ok(_) => match access(path, AccessFlags::W_OK | AccessFlags::X_OK) {
            Ok(()) => Ok(true),
            Err(error) => Err(what(path, &io::Error::from(error))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = path.ancestors().skip(1).find(|above| above.exists());
            let above = above.unwrap_or(Path::new("/"));
            match access(above, AccessFlags::W_OK | AccessFlags::X_OK) {
                Ok(()) => Ok(false),
                Err(error) => {
                    let error = io::Error::from(error);
                    Err(format!("does not exist, and cannot be made: {}", what(above, &error)))
                }
            }
        }
        Err(error) => Err(what(path, &error)),
    }
}

/// Rights are those of the user that runs the check, who may not be the daemon's.
fn who_am_i() -> String {
    format!("checked as {}", user_name(nix::unistd::geteuid()))
}

/// A time in one unit.
pub(super) fn duration(secs: u64) -> String {
    match secs {
        0..=119 => format!("{secs} s"),
        120..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    }
}

/// The addresses to listen on, and the size that the kernel gives their buffers.
fn sockets(config: &Config, report: &mut Report) {
    for &address in &config.listen {
        match UdpSockets::check_unused(&[address]) {
            Ok(()) => report.ok("listen", address, "free: no ixflow runs on it"),
            Err(error) => match running_ixflow(config) {
                Some(process) => {
                    report.ok("listen", address, format!("ixflow listens (process {process})"));
                }
                None => {
                    let why = "of two programs on one port each hears a part, or none starts";
                    let remedy = format!(
                        "end the other program (ss -lunp sport = :{}), or set sflow_listen",
                        address.port()
                    );
                    let what = error.to_string();
                    report.bad(Level::Fail, "listen", address, [&what, why, &remedy]);
                }
            },
        }
    }
    const NAME: &str = "socket_buffer";
    let wanted = config.receive_buffer_bytes;
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    match UdpSockets::bind(&[loopback], wanted) {
        Ok(sockets) => {
            let given = sockets.receive_buffer_bytes();
            if given >= wanted {
                report.ok(NAME, "", format!("{given} bytes, as sflow_receive_buffer_bytes asks"));
                return;
            }
            let limit =
                if cfg!(target_os = "linux") { "net.core.rmem_max" } else { "kern.ipc.maxsockbuf" };
            let what = format!(
                "{given} bytes where sflow_receive_buffer_bytes asks for {wanted} ({})",
                who_am_i()
            );
            let why = "datagrams are dropped (socket_drops) whenever ixflow has to wait";
            let remedy = format!("sysctl -w {limit}={wanted}, and the same in /etc/sysctl.d");
            report.bad(Level::Warn, NAME, "", [&what, why, &remedy]);
        }
        Err(error) => {
            let what = error.to_string();
            let text = [&what, "nothing can be received", "see whether the system has sockets"];
            report.bad(Level::Fail, NAME, "", text);
        }
    }
}

/// The process that holds the lock of the state directory. The lock itself is not tried: to hold
/// it for a moment could keep a daemon from starting.
fn running_ixflow(config: &Config) -> Option<u32> {
    let text = fs::read_to_string(config.state_dir.join(LOCK_FILE)).ok()?;
    let process: u32 = text.trim().parse().ok()?;
    let process_id = nix::unistd::Pid::from_raw(i32::try_from(process).ok()?);
    // Signal 0 asks whether it is there (kill(2)); EPERM is of one that is another user's.
    match nix::sys::signal::kill(process_id, None) {
        Ok(()) | Err(nix::errno::Errno::EPERM) => Some(process),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted() {
        assert_eq!(some_of([3, 4].iter()), "3, 4");
        let many: Vec<u32> = (1..=12).collect();
        assert_eq!(some_of(many.iter()), "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more");
    }

    #[test]
    fn durations_have_one_unit() {
        let shown = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(duration);
        assert_eq!(shown, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }

    #[test]
    fn a_directory_that_can_be_made_will_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(writable_directory(path), Ok(true));
        assert_eq!(writable_directory(&path.join("a/b")), Ok(false));
        assert!(!path.join("a").exists());
        fs::write(path.join("file"), "").unwrap();
        assert_eq!(writable_directory(&path.join("file")), Err("not a directory".into()));
    }
}
