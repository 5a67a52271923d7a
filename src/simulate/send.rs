//! The fabric on the network: every agent has a socket of its own, up to [`SOCKETS_MAX`], so
//! that the kernel spreads agents over a collector's SO_REUSEPORT sockets as it does real ones.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};

use super::generate::{DATAGRAM_MAX_BYTES, Generator};
use crate::clock::Clock;
use crate::receive::BATCH_MAX;

/// Sockets at the most; further agents share them.
pub const SOCKETS_MAX: usize = 64;
/// A sender that is later than this gives up the rate for what it can do.
const LATE_MAX_MILLIS: u64 = 1000;
/// Longest sleep, so that a stop is obeyed soon.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// Shortest sleep: below, waking up costs more than it spreads.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// How fast to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Each datagram at its stamp: the generator's rate, the day's curve included.
    Stamps,
    /// As fast as it goes; stamps are the time of sending.
    Unbounded,
}

/// When to stop, whichever comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limit {
    /// After so much time.
    pub duration_millis: Option<u64>,
    /// After so many datagrams.
    pub datagrams: Option<u64>,
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Flow samples in them.
    pub flow_samples: u64,
    /// How often the kernel said that nobody listens (ICMP port unreachable for an earlier
    /// datagram; the call is repeated).
    pub refusals: u64,
    /// How long it took.
    pub elapsed_millis: u64,
}

/// The datagrams that wait for one socket.
struct Queue {
    socket: UdpSocket,
    payloads: Vec<Vec<u8>>,
    count: usize,
}

/// Sends what `generator` says to `target` until the limit is reached or `stop` is set; calls
/// `progress` about once a second. The generator should start at the present.
pub fn send(
    generator: &mut Generator,
    target: SocketAddr,
    pace: Pace,
    limit: Limit,
    stop: &AtomicBool,
    mut progress: impl FnMut(&Sent),
) -> io::Result<Sent> {
    let mut queues: Vec<Queue> = Vec::new();
    let mut headers = MultiHeaders::<()>::preallocate(BATCH_MAX, None);
    let mut sent = Sent::default();
    let mut payload = Vec::with_capacity(DATAGRAM_MAX_BYTES);
    let start_millis = Clock::System.now_millis();
    let end_millis = limit.duration_millis.map_or(u64::MAX, |duration| start_millis + duration);
    let mut generated = 0;
    let mut progress_millis = start_millis + 1000;
    loop {
        let now_millis = Clock::System.now_millis();
        sent.elapsed_millis = now_millis.saturating_sub(start_millis);
        if now_millis >= progress_millis {
            progress(&sent);
            progress_millis = now_millis + 1000;
        }
        let counted_out = limit.datagrams.is_some_and(|limit| generated >= limit);
        if counted_out || now_millis >= end_millis || stop.load(Ordering::Relaxed) {
            return Ok(sent);
        }
        match pace {
            Pace::Unbounded => generator.pass_until(now_millis),
            Pace::Stamps => {
                generator.pass_until(now_millis.saturating_sub(LATE_MAX_MILLIS));
            }
        }
        // A bounded round, so that time and stop are looked at every few milliseconds.
        for _ in 0..BATCH_MAX * 8 {
            let due = pace == Pace::Unbounded || generator.next_micros() / 1000 <= now_millis;
            if !due || limit.datagrams.is_some_and(|limit| generated >= limit) {
                break;
            }
            let emitted = generator.generate(&mut payload);
            generated += 1;
            sent.flow_samples += u64::from(emitted.flow_samples);
            let number = emitted.switch % SOCKETS_MAX;
            while queues.len() <= number {
                queues.push(Queue::open(target)?);
            }
            let queue = &mut queues[number];
            std::mem::swap(&mut queue.payloads[queue.count], &mut payload);
            queue.count += 1;
            if queue.count == BATCH_MAX {
                queue.flush(&mut headers, &mut sent)?;
            }
        }
        for queue in &mut queues {
            queue.flush(&mut headers, &mut sent)?;
        }
        if pace == Pace::Stamps {
            let wait_micros =
                generator.next_micros().saturating_sub(Clock::System.now_millis() * 1000);
            if wait_micros > 0 {
                thread::sleep(Duration::from_micros(wait_micros).clamp(SLEEP_MIN, SLEEP_MAX));
            }
        }
    }
}

impl Queue {
    fn open(target: SocketAddr) -> io::Result<Queue> {
        let any = match target {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        // Connected: the route is looked up once, not per datagram.
        socket.connect(target)?;
        let payloads = (0..BATCH_MAX).map(|_| Vec::with_capacity(DATAGRAM_MAX_BYTES)).collect();
        Ok(Queue { socket, payloads, count: 0 })
    }

    /// Sends all that waits, as often as the kernel takes only a part.
    fn flush(&mut self, headers: &mut MultiHeaders<()>, sent: &mut Sent) -> io::Result<()> {
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.payloads[..self.count].iter().map(|payload| [IoSlice::new(payload)]).collect();
        let mut done = 0;
        while done < slices.len() {
            let result = sendmmsg(
                self.socket.as_raw_fd(),
                headers,
                &slices[done..],
                [None::<()>; BATCH_MAX],
                [],
                MsgFlags::empty(),
            );
            match result {
                Ok(taken) => {
                    let taken = taken.count();
                    done += taken;
                    sent.datagrams += taken as u64;
                }
                Err(Errno::ECONNREFUSED) => sent.refusals += 1,
                Err(Errno::EINTR) => {}
                // FreeBSD says so when the interface's queue is full; Linux waits.
                Err(Errno::ENOBUFS | Errno::EAGAIN) => thread::sleep(SLEEP_MIN),
                Err(error) => return Err(error.into()),
            }
        }
        self.count = 0;
        Ok(())
    }
}
