//! A real rrdcached for a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ixflow::sink::rrdcached::Address;

/// The options of IXP Manager's documentation (docs/features/sflow-p2p.md).
pub(crate) const DOCUMENTED: &[&str] = &["-P", "FLUSH,UPDATE", "-m", "0666"];

/// Everything allowed.
pub(crate) const OPEN: &[&str] = &[];

/// A daemon in the foreground, stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Rrdcached {
    child: Child,
    directory: PathBuf,
    /// Where it listens for the sink; a unix socket at [`Rrdcached::socket`] is there in any case.
    pub(crate) address: Address,
}

/// Whether tests with rrdcached can run. Where CI is set they must.
pub(crate) fn is_installed() -> bool {
    let missing: Vec<_> = ["rrdcached", "rrdtool"]
        .into_iter()
        .filter(|program| {
            let mut command = Command::new(program);
            command.arg("-h").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_err()
        })
        .collect();
    assert!(
        missing.is_empty() || std::env::var_os("CI").is_none(),
        "{missing:?} not found: install the Debian packages rrdcached and rrdtool"
    );
    if !missing.is_empty() {
        eprintln!("skipped: {missing:?} not found (Debian packages rrdcached and rrdtool)");
    }
    missing.is_empty()
}

/// A free port of the loopback address. Another process could take it before it is used; then the
/// daemon does not start.
fn free_port() -> Address {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    Address::Tcp("127.0.0.1".into(), port)
}

impl Rrdcached {
    /// Starts a daemon on a unix socket in `directory`, and waits until it answers.
    pub(crate) fn start(directory: &Path, options: &[&str]) -> Rrdcached {
        let address = Address::Unix(directory.join("rrdcached.sock"));
        Rrdcached::spawn(Command::new("rrdcached"), directory, options, address)
    }

    /// Starts a daemon on a free port of the loopback address.
    pub(crate) fn start_tcp(directory: &Path, options: &[&str]) -> Rrdcached {
        Rrdcached::spawn(Command::new("rrdcached"), directory, options, free_port())
    }

    /// The same, to whom another directory stands in the place of `covered`, as on another host:
    /// only root can do that.
    pub(crate) fn start_elsewhere(directory: &Path, covered: &Path, options: &[&str]) -> Rrdcached {
        let other = directory.join("other");
        std::fs::create_dir(&other).unwrap();
        let mut command = Command::new("unshare");
        let script = r#"mount --bind "$0" "$1" && shift && exec rrdcached "$@""#;
        command.args(["--mount", "sh", "-c", script]).arg(other).arg(covered);
        Rrdcached::spawn(command, directory, options, free_port())
    }

    fn spawn(
        mut command: Command,
        directory: &Path,
        options: &[&str],
        address: Address,
    ) -> Rrdcached {
        // In the foreground; nothing is written to disk by itself for an hour; all at the end.
        command
            .args(["-g", "-F", "-w", "3600", "-f", "7200", "-p"])
            .arg(directory.join("rrdcached.pid"));
        command.arg("-b").arg(directory.canonicalize().unwrap());
        // Permissions count for the listeners behind them.
        let control = directory.join("control.sock");
        command.arg("-l").arg(format!("unix:{}", control.display()));
        command.args(options);
        let listen = match &address {
            Address::Unix(path) => format!("unix:{}", path.display()),
            Address::Tcp(host, port) => format!("{host}:{port}"),
        };
        command.arg("-l").arg(listen);
        let child = command.stdin(Stdio::null()).spawn().expect("rrdcached is installed");
        let mut daemon = Rrdcached { child, directory: directory.into(), address };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !daemon.answers() {
            assert!(Instant::now() < deadline, "rrdcached does not answer");
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "rrdcached has ended: {ended:?}");
            std::thread::yield_now();
        }
        daemon
    }

    /// Whether both listeners accept, and the daemon answers.
    fn answers(&self) -> bool {
        let listens = match &self.address {
            Address::Unix(path) => UnixStream::connect(path).is_ok(),
            Address::Tcp(host, port) => TcpStream::connect((host.as_str(), *port)).is_ok(),
        };
        listens && UnixStream::connect(self.control()).is_ok() && self.command("PING") == "0 PONG"
    }

    fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Sends a command on a socket where everything is allowed; the first line of the answer.
    pub(crate) fn command(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.control()).unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Writes what a file has in the daemon's memory to disk.
    pub(crate) fn flush(&self, path: &Path) {
        let path = path.to_str().unwrap().replace('\\', "\\\\").replace(' ', "\\ ");
        let answer = self.command(&format!("FLUSH {path}"));
        assert!(answer.starts_with('0'), "{answer}");
    }

    /// Whether it writes no file and has none to write at once: what a kill catches in the middle of
    /// a write is torn.
    pub(crate) fn is_at_rest(&self) -> bool {
        let tasks = format!("/proc/{}/task", self.child.id());
        let sleeps = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
            // A thread that has just ended has none.
            stat.map_or(true, |stat| stat.rsplit(") ").next().unwrap().starts_with('S'))
        };
        let mut stream = UnixStream::connect(self.control()).unwrap();
        stream.write_all(b"STATS\nQUIT\n").unwrap();
        let mut stats = String::new();
        stream.read_to_string(&mut stats).unwrap();
        assert!(stats.contains("QueueLength: "), "{stats}");
        stats.contains("QueueLength: 0\n") && std::fs::read_dir(&tasks).unwrap().all(sleeps)
    }

    /// Sends a signal by its name, to the daemon's own id.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(status.success());
    }

    /// Stops the daemon, which writes all it has, and waits for its end.
    pub(crate) fn stop(mut self) {
        // SIGTERM, by its own id: Child::kill would not let it write.
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        self.child.wait().unwrap();
    }
}

impl Drop for Rrdcached {
    fn drop(&mut self) {
        // By its own id, and nothing if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
