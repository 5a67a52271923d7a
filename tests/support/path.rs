//! The whole data path on real sockets, with the time in the test's hands.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ixflow::agent::{Agents, Totals};
use ixflow::clock::Clock;
use ixflow::flush::backlog::{Keep, WhenFull};
use ixflow::pipeline::{Pipeline, PipelineError, Setup};
use ixflow::receive::UdpSockets;
use ixflow::resolve::Plan;
use ixflow::sink::Sink;
use ixflow::state::State;

/// How long anything may take that the path does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A multiple of a day, so that all archives' rows begin here.
pub(crate) const START_SECS: u64 = 1_699_920_000;

/// Waits for what another thread or process brings about.
pub(crate) fn wait_for<T>(what: &str, mut event: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = event() {
            return result;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Workers that listen on the loopback addresses, and everything behind them.
pub(crate) struct Running {
    pub(crate) state: Arc<State>,
    pipeline: Pipeline,
    clock: Clock,
    /// One of IPv4, and one of IPv6 where the system has it.
    addresses: Vec<SocketAddr>,
    /// By the number of the sender, so that the kernel spreads senders over the workers.
    senders: Vec<UdpSocket>,
    sent: u64,
    /// Datagrams that the receive buffers surely hold.
    window: u64,
    in_flight: u64,
}

impl Running {
    /// Starts at `from_millis`, with steps of 300 seconds.
    pub(crate) fn start(
        workers: usize,
        agents: Agents,
        plan: Plan,
        sink: Box<dyn Sink>,
        from_millis: u64,
    ) -> Running {
        Running::start_keeping(workers, agents, plan, vec![sink], from_millis, None)
    }

    /// As [`Running::start`], with sinks that share the files, and a state directory.
    pub(crate) fn start_keeping(
        workers: usize,
        agents: Agents,
        plan: Plan,
        sinks: Vec<Box<dyn Sink>>,
        from_millis: u64,
        keep: Option<Keep>,
    ) -> Running {
        let clock = Clock::driven(from_millis);
        let v4: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let v6: SocketAddr = "[::1]:0".parse().unwrap();
        let both = [v4, v6];
        let has_v6 = UdpSocket::bind(v6).is_ok();
        let first = UdpSockets::bind(if has_v6 { &both } else { &both[..1] }, 8 << 20).unwrap();
        let addresses = first.local_addresses();
        // The kernel charges some 2.3 kB for a datagram of 1.4 kB.
        let window = (first.receive_buffer_bytes() / 4_096).max(1) as u64;
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(UdpSockets::bind(&addresses, 8 << 20).unwrap());
        }
        let sources = sockets
            .into_iter()
            .map(|sockets| {
                let clock = clock.clone();
                move || sockets.into_source(clock)
            })
            .collect();
        let state = Arc::new(State::new(agents, workers));
        let setup = Setup {
            step_secs: 300,
            from_millis: Some(from_millis),
            backlog_max: 100,
            when_full: WhenFull::DropOldest,
            keep,
        };
        let pipeline = Pipeline::start(sources, plan, setup, sinks, &state).unwrap();
        let senders = Vec::new();
        Running { state, pipeline, clock, addresses, senders, sent: 0, window, in_flight: 0 }
    }

    /// Sends a datagram over IPv6 or IPv4; where there is no IPv6, over IPv4.
    pub(crate) fn send(&mut self, sender: usize, v6: bool, payload: &[u8]) {
        let wanted = self.addresses.iter().find(|address| address.is_ipv6() == v6);
        let to = *wanted.unwrap_or(&self.addresses[0]);
        let number = sender * 2 + usize::from(to.is_ipv6());
        while self.senders.len() <= number {
            let from = ["127.0.0.1:0", "[::1]:0"][self.senders.len() % 2];
            let socket = UdpSocket::bind(from).or_else(|_| UdpSocket::bind("127.0.0.1:0"));
            self.senders.push(socket.unwrap());
        }
        self.senders[number].send_to(payload, to).unwrap();
        self.sent += 1;
        self.in_flight += 1;
        if self.in_flight >= self.window {
            self.settle();
        }
    }

    /// Sends a datagram from another address of the loopback network.
    pub(crate) fn send_from(&mut self, from: &str, payload: &[u8]) {
        UdpSocket::bind((from, 0)).unwrap().send_to(payload, self.addresses[0]).unwrap();
        self.sent += 1;
        self.in_flight += 1;
    }

    /// Waits until all that was sent is folded into the state, for which time must pass: up to
    /// the end of the step, but not over it.
    pub(crate) fn settle(&mut self) -> Totals {
        let end_millis = (self.clock.now_millis() / 300_000 + 1) * 300_000;
        let mut ticks = Instant::now();
        self.in_flight = 0;
        wait_for("all datagrams", || {
            let totals = self.state.agents.totals();
            if totals.datagrams >= self.sent {
                assert_eq!(totals.datagrams, self.sent);
                return Some(totals);
            }
            // A second, over which workers fold, in every wait of theirs.
            if ticks.elapsed() >= Duration::from_millis(20) {
                ticks = Instant::now();
                let next_millis = self.clock.now_millis() + 1_000;
                self.clock.set_millis(next_millis.min(end_millis - 1));
            }
            None
        })
    }

    /// Moves the time to a boundary, and waits until what ended there is written.
    pub(crate) fn pass_boundary(&mut self, at_secs: u64) {
        self.settle();
        self.clock.set_millis(at_secs * 1_000);
        wait_for("the interval to be written", || {
            (self.state.write().last_to_secs >= at_secs).then_some(())
        });
    }

    /// Moves the time to a boundary that the sink cannot take, and waits until so many wait.
    pub(crate) fn pass_boundary_waiting(&mut self, at_secs: u64, waiting: usize) {
        self.settle();
        self.clock.set_millis(at_secs * 1_000);
        wait_for("the interval to wait", || (self.state.write().backlog >= waiting).then_some(()));
    }

    /// Waits until what waits is written, up to `at_secs`.
    pub(crate) fn catch_up(&mut self, at_secs: u64) {
        wait_for("the intervals to be written", || {
            let write = self.state.write();
            (write.last_to_secs >= at_secs && write.backlog == 0).then_some(())
        });
    }

    /// Moves the time within a step.
    pub(crate) fn set_millis(&mut self, millis: u64) {
        assert!(millis >= self.clock.now_millis());
        self.clock.set_millis(millis);
    }

    /// Sets the clock forward or back.
    pub(crate) fn jump(&mut self, millis: u64) {
        self.settle();
        self.clock.set_millis(millis);
    }

    /// Puts another table and policy in force.
    pub(crate) fn set_plan(&self, plan: Plan) {
        self.pipeline.epoch().set_plan(Arc::new(plan));
    }

    /// Tells the path to stop, and waits until everything is written.
    pub(crate) fn stop(self) -> (Arc<State>, Result<(), PipelineError>) {
        self.pipeline.epoch().stop();
        (self.state, self.pipeline.join())
    }
}

/// All files below a directory, sorted.
pub(crate) fn files_below(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, out: &mut Vec<String>) {
        let Ok(entries) = std::fs::read_dir(at) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, out);
            } else {
                out.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    let mut files = Vec::new();
    walk(root, root, &mut files);
    files.sort_unstable();
    files
}
