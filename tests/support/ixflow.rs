//! The daemon as a process, and the site that it runs at.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ixflow::clock::Clock;
use ixflow::simulate::{ApiServer, Fabric, Truth};

use super::datagram::datagram;
use super::path::{files_below, wait_for};

/// The API key of [`DOCUMENTED`].
pub(crate) const KEY: &str = "your-api-key";

/// The example of IXP Manager's documentation (docs.ixpmanager.org, sFlow, configuration), with
/// what else such files hold.
pub(crate) const DOCUMENTED: &str = "\
<sql>
	dbase_password = s3cr3t
</sql>
<ixp>
	sflowtool = /usr/bin/sflowtool
	sflowtool_opts = -4 -p 6343 -l
	sflow_rrdcached = 1
	sflow_rrddir = /data/ixpmatrix
	apikey = your-api-key
	apibaseurl = http://www.example.com/ixp/api/v4
	macdbtype = configured
</ixp>
";

/// An `ixflow` command, without what the environment says.
pub(crate) fn ixflow() -> Command {
    bare(Command::new(env!("CARGO_BIN_EXE_ixflow")))
}

/// The same under `LISTEN_PID`, its own process id, as a service manager passes sockets.
pub(crate) fn ixflow_activated() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@""#, env!("CARGO_BIN_EXE_ixflow")]);
    bare(command)
}

/// The same, as a user who has no rights but to the site; where the tests do not run as root, as
/// their own user.
pub(crate) fn ixflow_without_rights(site: &Site) -> Command {
    /// "nobody" of Linux and FreeBSD.
    const NOBODY: u32 = 65_534;
    fn give(path: &Path) {
        std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        if path.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
        }
    }
    if !nix::unistd::geteuid().is_root() {
        return ixflow();
    }
    // Others may not enter the directory in which it was built.
    let program = site.path("ixflow");
    std::fs::copy(env!("CARGO_BIN_EXE_ixflow"), &program).unwrap();
    give(site.directory.path());
    let mut command = bare(Command::new(program));
    command.uid(NOBODY).gid(NOBODY);
    command
}

fn bare(mut command: Command) -> Command {
    for variable in ["IXFLOW_LOG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// A directory with a configuration file, and a portal.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) fabric: Fabric,
    pub(crate) base_url: String,
    pub(crate) portal: Option<ApiServer>,
}

impl Site {
    /// A site whose portal answers.
    pub(crate) fn new() -> Site {
        let mut site = Site::without_portal();
        site.start_portal();
        site
    }

    /// A site whose portal answers, and whose ports tell their counters every second.
    pub(crate) fn with_counters() -> Site {
        Site::with_fabric(
            "members = 4\nipv6_share = 0.3\nsampling_rate = 509\ncounters_interval_secs = 1",
        )
    }

    /// A site of a fabric by its description, whose portal answers.
    pub(crate) fn with_fabric(description: &str) -> Site {
        let mut site = Site::without_portal();
        site.fabric = Fabric::from_toml(description).unwrap();
        site.start_portal();
        site
    }

    /// A site whose portal is away; its address is free until [`Site::start_portal`].
    pub(crate) fn without_portal() -> Site {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ixpmanager.conf"), DOCUMENTED).unwrap();
        let fabric = Fabric::from_toml("members = 4\nipv6_share = 0.5\nsampling_rate = 509");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let base_url = format!("http://{address}/api/v4");
        Site { directory, fabric: fabric.unwrap(), base_url, portal: None }
    }

    pub(crate) fn start_portal(&mut self) {
        let address = self.base_url.strip_prefix("http://").unwrap();
        let address = address.strip_suffix("/api/v4").unwrap();
        let listener = TcpListener::bind(address).unwrap();
        let portal = ApiServer::start(listener, self.fabric.mac_table_json(), KEY);
        self.portal = Some(portal.unwrap());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The root of the RRD files.
    pub(crate) fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// The files of the tree, but for the daemon's lock.
    pub(crate) fn tree_files(&self) -> Vec<String> {
        files_below(&self.tree()).into_iter().filter(|path| path != ".ixflow.lock").collect()
    }

    /// The arguments of a command that put the documented configuration into this directory:
    /// paths and ports, and files instead of rrdcached. `set` has the last word.
    pub(crate) fn arguments(&self, command: &str, set: &[&str]) -> Vec<String> {
        let here = |key: &str, name: &str| format!("{key}={}", self.path(name).display());
        let mut settings = vec![
            format!("apibaseurl={}", self.base_url),
            here("sflow_rrddir", "tree"),
            here("sflow_statedir", "state"),
            "sflow_listen=127.0.0.1:0".to_owned(),
            "sflow_http_listen=off".to_owned(),
            "sflow_workers=1".to_owned(),
            "sflow_rrdcached=0".to_owned(),
        ];
        for setting in set {
            let key = setting.split('=').next().unwrap();
            settings.retain(|other| other.split('=').next() != Some(key));
            settings.push((*setting).to_owned());
        }
        let config = self.path("ixpmanager.conf").display().to_string();
        let mut arguments = vec![command.to_owned(), "--config".to_owned(), config];
        arguments.extend(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]));
        arguments
    }

    /// Starts the daemon, and waits until it listens.
    pub(crate) fn start(&self, set: &[&str]) -> Ixflow {
        self.start_as(ixflow(), set)
    }

    /// Starts the daemon by a command of the test's own, and waits until it listens.
    pub(crate) fn start_as(&self, command: Command, set: &[&str]) -> Ixflow {
        let mut daemon = self.try_start_as(command, set);
        let line = daemon.wait_line("listens on UDP ");
        let address = line.split("listens on UDP ").nth(1).unwrap();
        daemon.address = address.split([' ', ',']).next().unwrap().parse().ok();
        daemon
    }

    /// Starts the daemon where it will not get far.
    pub(crate) fn try_start(&self, set: &[&str]) -> Ixflow {
        self.try_start_as(ixflow(), set)
    }

    fn try_start_as(&self, mut command: Command, set: &[&str]) -> Ixflow {
        command.args(self.arguments("run", set)).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn({
            let lines = lines.clone();
            move || {
                for line in stderr.lines() {
                    lines.lock().unwrap().push(line.unwrap());
                }
            }
        });
        Ixflow { child, lines, reader: Some(reader), address: None }
    }
}

/// A daemon; it is killed when it is dropped.
pub(crate) struct Ixflow {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    address: Option<SocketAddr>,
}

impl Ixflow {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// Where it answers HTTP.
    pub(crate) fn http(&self) -> SocketAddr {
        let line = self.wait_line("live page, metrics and files: http://");
        line.split("http://").nth(1).unwrap().trim_end_matches('/').parse().unwrap()
    }

    /// All that it has logged so far.
    pub(crate) fn log(&self) -> String {
        let log = self.lines.lock().unwrap().join("\n");
        assert!(!log.contains(KEY), "the key is in the log:\n{log}");
        assert!(!log.contains('\x1b'), "colours are for terminals:\n{log}");
        log
    }

    /// Waits for a line of the log that contains `text`, and returns it.
    pub(crate) fn wait_line(&self, text: &str) -> String {
        wait_for(&format!("a line with {text:?}"), || {
            let found = self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            let ended = self.reader.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(found.is_some() || !ended, "ended without {text:?}:\n{}", self.log());
            found
        })
    }

    /// Waits until the daemon has taken all datagrams out of its sockets (proc_net_udp(5)).
    pub(crate) fn wait_received(&self) {
        let local = format!(":{:04X} ", self.address().port());
        wait_for("the receive queues to be empty", || {
            let table = std::fs::read_to_string("/proc/net/udp").unwrap();
            let lines = table.lines().filter(|line| {
                line.split_once(": ").is_some_and(|(_, rest)| rest[8..].starts_with(&local))
            });
            // Local address, remote address, state, tx_queue:rx_queue.
            let mut queues = lines.map(|line| line.split_ascii_whitespace().nth(4).unwrap());
            queues.all(|queues| queues.ends_with(":00000000")).then_some(())
        });
    }

    /// Waits for the line that tells of a new table, and until the workers resolve by it: they
    /// take a new plan up behind the batch that they are waiting for, here an empty datagram.
    pub(crate) fn wait_table(&self, text: &str) -> String {
        let line = self.wait_line(text);
        let socket = UdpSocket::bind((self.address().ip(), 0)).unwrap();
        socket.send_to(&datagram(&[]), self.address()).unwrap();
        self.wait_received();
        line
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(status.success());
    }

    /// Stops it by SIGSTOP, and waits until each of its threads has stopped: until then one may
    /// still read a datagram.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        wait_for("all threads to stop", || {
            let mut tasks = std::fs::read_dir(&tasks).unwrap();
            // proc_pid_stat(5): the state is behind the name, which is in parentheses.
            let stopped = tasks.all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
                stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
            });
            stopped.then_some(())
        });
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end; its exit code, and all that it logged.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let status = wait_for("the daemon's end", || self.ended());
        self.reader.take().unwrap().join().unwrap();
        (status.code(), self.log())
    }

    /// Kills it at once, and waits for its end.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Tells it to stop, and waits until it has ended well.
    pub(crate) fn stop(self) -> String {
        self.signal("TERM");
        let (code, log) = self.wait();
        assert_eq!(code, Some(0), "{log}");
        log
    }
}

impl Drop for Ixflow {
    fn drop(&mut self) {
        // By its own id, and nothing if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends datagrams of a fabric to a collector, some of every agent, and returns what they said.
pub(crate) fn speak(fabric: &Fabric, to: SocketAddr, datagrams: usize) -> Truth {
    let mut generator = fabric.generator(Clock::System.now_millis(), 1_000).with_truth(86_400);
    let socket = UdpSocket::bind((to.ip(), 0)).unwrap();
    let mut payload = Vec::new();
    for _ in 0..datagrams {
        generator.generate(&mut payload);
        socket.send_to(&payload, to).unwrap();
    }
    generator.finish()
}

/// A fabric that speaks to the daemon until it is dropped or stopped.
pub(crate) struct Speaker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Speaker {
    pub(crate) fn start(fabric: &Fabric, to: SocketAddr) -> Speaker {
        Speaker::start_at(fabric, to, 500)
    }

    /// The same with so many samples a second.
    pub(crate) fn start_at(fabric: &Fabric, to: SocketAddr, samples_per_sec: u32) -> Speaker {
        let stop = Arc::new(AtomicBool::new(false));
        let mut generator = fabric.generator(Clock::System.now_millis(), samples_per_sec);
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let socket = UdpSocket::bind((to.ip(), 0)).unwrap();
                let mut payload = Vec::new();
                let mut datagrams = 0;
                while !stop.load(Ordering::Relaxed) {
                    generator.generate(&mut payload);
                    socket.send_to(&payload, to).unwrap();
                    datagrams += 1;
                    // The pace of a small exchange; nothing is waited for.
                    let now_micros = Clock::System.now_millis() * 1_000;
                    let ahead = generator.next_micros().saturating_sub(now_micros);
                    std::thread::park_timeout(Duration::from_micros(ahead));
                }
                datagrams
            }
        });
        Speaker { stop, thread: Some(thread) }
    }

    /// Ends it; how many datagrams it has sent.
    pub(crate) fn stop(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return 0 };
        thread.thread().unpark();
        thread.join().unwrap()
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The fields of the line that sums up what was received, as `name=value`.
pub(crate) fn summary_field(log: &str, name: &str) -> u64 {
    let line = log.lines().rfind(|line| line.contains("in all: ")).unwrap_or_default();
    let prefix = format!("{name}=");
    let field = line.split(' ').find_map(|field| field.strip_prefix(&prefix));
    field.map_or(0, |value| value.parse().unwrap())
}

/// The rates of the last update of a file, as they were written.
pub(crate) fn last_rates(path: &Path) -> [f64; 2] {
    let output = Command::new("rrdtool").arg("info").arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let info = String::from_utf8(output.stdout).unwrap();
    ["traffic_in", "traffic_out"].map(|source| {
        let prefix = format!("ds[{source}].last_ds = \"");
        let value = info.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap();
        value.trim_end_matches('"').parse().unwrap()
    })
}

/// A server that answers every request with the same, until the test binary ends.
pub(crate) fn answer_always(status: &str, body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            skip_request(&stream);
            // The client may hang up in the middle of what it does not want.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}/api/v4")
}

fn skip_request(stream: &TcpStream) {
    let mut end = Vec::new();
    for byte in BufReader::new(stream).bytes() {
        let Ok(byte) = byte else { return };
        end.push(byte);
        if end.ends_with(b"\r\n\r\n") {
            return;
        }
    }
}
