//! Receive: datagrams in batches, with the time at which they came.
//!
//! Every worker owns sockets of its own, bound with `SO_REUSEPORT` to the same addresses; the
//! kernel spreads the agents over them by a hash of addresses and ports, or their datagrams one by
//! one where few agents send much ([`spread_datagrams`]). Sockets that somebody else bound or kept
//! come in their place ([`UdpSockets::share`]), with what waits in them. `recvmmsg(2)` takes up
//! to 64 datagrams a call. No control messages are asked for, because what the kernel dropped is
//! read from `/proc/net/udp` by the socket's inode instead.

pub mod capture;

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::Clock;

/// Datagrams in a batch at the most.
pub const BATCH_MAX: usize = 64;

/// How long a call of [`Source::receive`] waits at the most.
pub const WAIT: Duration = Duration::from_millis(100);

/// The longest UDP payload is 65,507 bytes (IPv4, udp(7)): nothing is ever cut off.
const BUFFER_BYTES: usize = 65_536;

/// Distance of two buffers: not a power of two, so that the first bytes of all buffers do not
/// compete for the same cache sets.
const BUFFER_STRIDE_BYTES: usize = BUFFER_BYTES + 17 * 64;

/// One UDP payload.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// The payload.
    pub payload: &'a [u8],
    /// Whether it was longer than what could be kept.
    pub truncated: bool,
}

/// What a call of [`Source::receive`] brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Batch {
    /// So many datagrams (0: none came in time), all received at `stamp_millis`.
    Datagrams {
        /// How many, at most [`BATCH_MAX`].
        count: usize,
        /// Milliseconds since 1970.
        stamp_millis: u64,
    },
    /// The source is exhausted: the end of a replay.
    End,
}

/// Where datagrams come from: a socket, a capture, or a simulated fabric.
pub trait Source {
    /// Waits for datagrams, [`WAIT`] at the most, and replaces the batch by them.
    fn receive(&mut self) -> io::Result<Batch>;

    /// Datagram `index` of the batch, below its count.
    fn datagram(&self, index: usize) -> Received<'_>;

    /// Datagrams that the kernel dropped because a buffer was full, since the sockets exist;
    /// `None` where it does not say.
    fn socket_drops(&self) -> Option<u64> {
        None
    }
}

/// Which of the workers' sockets a datagram comes to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Spread {
    /// The same for all that comes from one address and port: what one agent sends stays in order.
    #[default]
    Agent,
    /// Each in turn, by the datagram's sequence number: [`spread_datagrams`].
    Datagram,
}

#[derive(Clone, Copy)]
struct Slot {
    length: usize,
    source: SocketAddr,
    truncated: bool,
}

/// The sockets of one worker, bound.
#[derive(Debug)]
pub struct UdpSockets {
    sockets: Vec<Socket>,
}

/// The sockets of one worker, with the buffers to read them; it stays in its worker's thread.
pub struct UdpSource {
    sockets: Vec<Socket>,
    inodes: Vec<u64>,
    /// One for each socket: the kernel leaves the length of the address that it wrote in them,
    /// and takes it for the room that there is (recvmsg(2)), so that IPv6 addresses would be cut
    /// off where IPv4 ones were.
    headers: Vec<MultiHeaders<SockaddrStorage>>,
    buffers: Vec<u8>,
    slots: Vec<Slot>,
    clock: Clock,
    /// Where the next turn over several sockets begins.
    turn: usize,
}

/// A socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on UDP {address}: {step}: {source}")]
pub struct ListenError {
    /// The address to listen on.
    pub address: SocketAddr,
    /// What failed.
    pub step: &'static str,
    /// How.
    pub source: io::Error,
}

fn new_socket(address: SocketAddr, also_v4: bool) -> Result<Socket, ListenError> {
    let failed = |step| move |source| ListenError { address, step, source };
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
        .map_err(failed("socket"))?;
    if address.is_ipv6() {
        socket.set_only_v6(!also_v4).map_err(failed("IPV6_V6ONLY"))?;
    }
    Ok(socket)
}

fn open(
    address: SocketAddr,
    also_v4: bool,
    receive_buffer_bytes: usize,
) -> Result<Socket, ListenError> {
    let failed = |step| move |source| ListenError { address, step, source };
    let socket = new_socket(address, also_v4)?;
    // FreeBSD: SO_REUSEPORT alone lets several sockets bind, but delivers to one of them;
    // SO_REUSEPORT_LB balances (setsockopt(2)).
    #[cfg(target_os = "freebsd")]
    socket.set_reuse_port_lb(true).map_err(failed("SO_REUSEPORT_LB"))?;
    #[cfg(not(target_os = "freebsd"))]
    socket.set_reuse_port(true).map_err(failed("SO_REUSEPORT"))?;
    if !force_receive_buffer(&socket, receive_buffer_bytes) {
        ask_receive_buffer(&socket, receive_buffer_bytes);
    }
    socket.set_read_timeout(Some(WAIT)).map_err(failed("SO_RCVTIMEO"))?;
    socket.bind(&address.into()).map_err(failed("bind"))?;
    Ok(socket)
}

/// SO_RCVBUFFORCE passes net.core.rmem_max, and needs CAP_NET_ADMIN (socket(7), Linux alone).
#[cfg(target_os = "linux")]
fn force_receive_buffer(socket: &Socket, bytes: usize) -> bool {
    use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
    setsockopt(socket, RcvBufForce, &bytes).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn force_receive_buffer(_socket: &Socket, _bytes: usize) -> bool {
    false
}

/// FreeBSD refuses what is above kern.ipc.maxsockbuf, where Linux cuts it down silently: the
/// largest power of two that is taken will do.
fn ask_receive_buffer(socket: &Socket, mut bytes: usize) {
    while socket.set_recv_buffer_size(bytes).is_err() && bytes > 65_536 {
        bytes /= 2;
    }
}

/// Makes a socket that somebody else bound one of ours. Its buffer grows if it may, and never
/// shrinks: a manager with more privileges may have given it more than this process can ask for.
fn adopt(socket: UdpSocket, receive_buffer_bytes: usize) -> Result<Socket, ListenError> {
    let address = socket.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into());
    let failed = |step| move |source| ListenError { address, step, source };
    let socket = Socket::from(socket);
    socket.set_nonblocking(false).map_err(failed("O_NONBLOCK"))?;
    socket.set_read_timeout(Some(WAIT)).map_err(failed("SO_RCVTIMEO"))?;
    let granted = |socket: &Socket| socket.recv_buffer_size().unwrap_or(0) / BUFFER_SIZE_FACTOR;
    if granted(&socket) < receive_buffer_bytes
        && !force_receive_buffer(&socket, receive_buffer_bytes)
    {
        // What would be granted is seen on a socket that nobody needs.
        let probe = new_socket(address, false)?;
        ask_receive_buffer(&probe, receive_buffer_bytes);
        if granted(&probe) > granted(&socket) {
            ask_receive_buffer(&socket, receive_buffer_bytes);
        }
    }
    Ok(socket)
}

/// `[::]` takes IPv4 too, unless an IPv4 address with the same port is listed.
fn takes_v4(address: SocketAddr, addresses: &[SocketAddr]) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && !addresses.iter().any(|a| a.is_ipv4() && a.port() == address.port())
}

/// Opens what `address` of the list stands for.
fn open_listed(
    address: SocketAddr,
    addresses: &[SocketAddr],
    receive_buffer_bytes: usize,
) -> Result<Socket, ListenError> {
    let also_v4 = takes_v4(address, addresses);
    match open(address, also_v4, receive_buffer_bytes) {
        Err(error)
            if also_v4
                && matches!(
                    error.source.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
                ) =>
        {
            open(v4_instead(address), false, receive_buffer_bytes)
        }
        socket => socket,
    }
}

/// What `[::]` becomes where the system has no IPv6.
fn v4_instead(address: SocketAddr) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, address.port()).into()
}

/// Whether a socket is what [`open_listed`] would open.
fn is_listed(socket: &UdpSocket, address: SocketAddr, addresses: &[SocketAddr]) -> bool {
    let Ok(local) = socket.local_addr() else { return false };
    let also_v4 = takes_v4(address, addresses);
    if local == address {
        let only_v6 = || socket2::SockRef::from(socket).only_v6().ok();
        address.is_ipv4() || only_v6() == Some(!also_v4)
    } else {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        also_v4 && local == v4_instead(address) && UdpSocket::bind(any).is_err()
    }
}

/// Gives each group of sockets to the workers, one after the other: as many workers as the
/// largest group has sockets, at most `workers`.
fn share_out(groups: impl IntoIterator<Item = Vec<Socket>>, workers: usize) -> Vec<UdpSockets> {
    let groups: Vec<_> = groups.into_iter().collect();
    let busy = groups.iter().map(Vec::len).max().unwrap_or(0).min(workers);
    let mut shares: Vec<_> = (0..busy).map(|_| UdpSockets { sockets: Vec::new() }).collect();
    for group in groups {
        for (number, socket) in group.into_iter().enumerate() {
            shares[number % busy].sockets.push(socket);
        }
    }
    shares
}

/// Linux doubles what was asked for, for its bookkeeping, and reports the double (socket(7)).
const BUFFER_SIZE_FACTOR: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

impl UdpSockets {
    /// Whether nobody listens on the addresses yet.
    ///
    /// With SO_REUSEPORT a second daemon of the same user would bind as well, and the kernel
    /// would give it a part of the agents: each would write half of the truth.
    ///
    /// # Errors
    ///
    /// Somebody listens. Whatever else is wrong, [`UdpSockets::bind`] will say.
    pub fn check_unused(addresses: &[SocketAddr]) -> Result<(), ListenError> {
        for &address in addresses {
            let socket = new_socket(address, false);
            let bound = socket.map(|socket| socket.bind(&address.into()));
            if let Ok(Err(source)) = bound
                && source.kind() == io::ErrorKind::AddrInUse
            {
                return Err(ListenError { address, step: "bind", source });
            }
        }
        Ok(())
    }

    /// Binds one socket to each address.
    ///
    /// `[::]` takes IPv4 too, unless an IPv4 address with the same port is listed; where the
    /// system has no IPv6 it becomes `0.0.0.0`.
    pub fn bind(
        addresses: &[SocketAddr],
        receive_buffer_bytes: usize,
    ) -> Result<UdpSockets, ListenError> {
        let open = |&address| open_listed(address, addresses, receive_buffer_bytes);
        Ok(UdpSockets { sockets: addresses.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// The sockets of so many workers, each bound to all addresses.
    ///
    /// Sockets in `kept` that an earlier daemon bound to these addresses come first; they are all
    /// read, even if there are more of them than workers. `forget` is called for the others, if
    /// there are any, before something is bound.
    pub fn bind_workers(
        addresses: &[SocketAddr],
        workers: usize,
        receive_buffer_bytes: usize,
        mut kept: Vec<UdpSocket>,
        forget: impl FnOnce(Vec<UdpSocket>),
    ) -> Result<Vec<UdpSockets>, ListenError> {
        let mut groups = Vec::with_capacity(addresses.len());
        for &address in addresses {
            let mut group = Vec::with_capacity(workers);
            for socket in kept.extract_if(.., |socket| is_listed(socket, address, addresses)) {
                group.push(adopt(socket, receive_buffer_bytes)?);
            }
            groups.push(group);
        }
        if !kept.is_empty() {
            forget(kept);
        }
        let unbound = addresses.iter().zip(&groups).filter(|(_, group)| group.is_empty());
        UdpSockets::check_unused(&unbound.map(|(&address, _)| address).collect::<Vec<_>>())?;
        for (&address, group) in addresses.iter().zip(&mut groups) {
            while group.len() < workers {
                group.push(open_listed(address, addresses, receive_buffer_bytes)?);
            }
        }
        Ok(share_out(groups, workers))
    }

    /// Shares sockets that somebody else bound out to at most so many workers: none binds more
    /// (Linux refuses it to another user), and all are read.
    pub fn share(
        sockets: Vec<UdpSocket>,
        workers: usize,
        receive_buffer_bytes: usize,
    ) -> Result<Vec<UdpSockets>, ListenError> {
        let mut groups: BTreeMap<_, Vec<Socket>> = BTreeMap::new();
        for socket in sockets {
            let address = socket.local_addr().ok();
            groups.entry(address).or_default().push(adopt(socket, receive_buffer_bytes)?);
        }
        Ok(share_out(groups.into_values(), workers))
    }

    /// The sockets, for whoever keeps them.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    /// Datagrams that the kernel dropped on these sockets since they exist; `None` where it does
    /// not say.
    pub fn socket_drops(&self) -> Option<u64> {
        drops_of(&self.inodes())
    }

    fn inodes(&self) -> Vec<u64> {
        let stats = self.fds().filter_map(|fd| nix::sys::stat::fstat(fd).ok());
        stats.map(|stat| stat.st_ino).collect()
    }

    /// Makes the buffers to read the sockets with.
    pub fn into_source(self, clock: Clock) -> UdpSource {
        let inodes = self.inodes();
        let headers = self.sockets.iter().map(|_| MultiHeaders::preallocate(BATCH_MAX, None));
        UdpSource {
            inodes,
            headers: headers.collect(),
            sockets: self.sockets,
            buffers: vec![0; BATCH_MAX * BUFFER_STRIDE_BYTES],
            slots: Vec::with_capacity(BATCH_MAX),
            clock,
            turn: 0,
        }
    }

    /// The addresses that the sockets are bound to, each once.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::with_capacity(self.sockets.len());
        for socket in &self.sockets {
            let address = socket.local_addr().ok().and_then(|address| address.as_socket());
            addresses.extend(address.filter(|address| !addresses.contains(address)));
        }
        addresses
    }

    /// The size of the smallest receive buffer, in bytes of payload and bookkeeping.
    pub fn receive_buffer_bytes(&self) -> usize {
        let sizes = self.sockets.iter().filter_map(|socket| socket.recv_buffer_size().ok());
        sizes.min().unwrap_or(0) / BUFFER_SIZE_FACTOR
    }
}

/// Spreads the datagrams of each agent over the sockets of all `workers`, one by one.
///
/// The kernel chooses the socket of a group (the sockets that are bound to one address) by a
/// classic BPF program, which is attached to one of them and holds for all. It works on the UDP
/// payload, and needs no privilege (socket(7), SO_ATTACH_REUSEPORT_CBPF; Linux 4.5).
///
/// # Errors
///
/// The system has no such thing: Linux alone has.
pub fn spread_datagrams(workers: &[UdpSockets]) -> Result<(), ListenError> {
    spread(workers, attach_spread)
}

/// Lets the kernel's hash choose again, on sockets for which an earlier daemon may have attached
/// another choice.
///
/// # Errors
///
/// None where the system has no such thing.
pub fn spread_agents(workers: &[UdpSockets]) -> Result<(), ListenError> {
    if cfg!(target_os = "linux") { spread(workers, attach_hash) } else { Ok(()) }
}

fn spread(
    workers: &[UdpSockets],
    attach: impl Fn(&Socket, usize) -> io::Result<()>,
) -> Result<(), ListenError> {
    let mut groups: BTreeMap<SocketAddr, (&Socket, usize)> = BTreeMap::new();
    for socket in workers.iter().flat_map(|worker| &worker.sockets) {
        if let Some(address) = socket.local_addr().ok().and_then(|address| address.as_socket()) {
            groups.entry(address).or_insert((socket, 0)).1 += 1;
        }
    }
    for (address, (socket, count)) in groups.into_iter().filter(|(_, (_, count))| *count > 1) {
        attach(socket, count).map_err(|source| ListenError {
            address,
            step: "SO_ATTACH_REUSEPORT_CBPF",
            source,
        })?;
    }
    Ok(())
}

/// Sequence number modulo the number of sockets: the number is behind the agent address, which has
/// 4 bytes or 16 (sFlow v5, section 5, struct sample_datagram_v5). What is shorter goes to socket
/// 0: a load out of bounds ends a program with 0. Where the result is no index of a socket, as
/// while sockets are closed one after the other, the kernel falls back to its hash.
#[cfg(target_os = "linux")]
fn attach_spread(socket: &Socket, count: usize) -> io::Result<()> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    attach_program(
        socket,
        &[
            // Opcodes as `tcpdump -dd` prints them.
            (0x30, 0, 0, 7),     // ldb [7]: the type of the agent address
            (0x15, 2, 0, 2),     // jeq #2 (IPv6): over the next two
            (0x20, 0, 0, 16),    // ld [16]
            (0x05, 0, 0, 1),     // ja: over the next one
            (0x20, 0, 0, 28),    // ld [28]
            (0x94, 0, 0, count), // mod #count
            (0x16, 0, 0, 0),     // ret a
        ],
    )
}

/// No index of a socket: the kernel falls back to its hash. (SO_DETACH_REUSEPORT_BPF does the same
/// from Linux 5.3 on; nix does not have it.)
#[cfg(target_os = "linux")]
fn attach_hash(socket: &Socket, _count: usize) -> io::Result<()> {
    attach_program(socket, &[(0x06, 0, 0, u32::MAX)]) // ret #-1
}

/// Attaches instructions of (opcode, jump if true, jump if false, operand).
#[cfg(target_os = "linux")]
fn attach_program(socket: &Socket, program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    use nix::libc::{sock_filter, sock_fprog};

    let step = |&(code, jt, jf, k)| sock_filter { code, jt, jf, k };
    let mut program: Vec<_> = program.iter().map(step).collect();
    let len = u16::try_from(program.len()).unwrap_or(u16::MAX);
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    let option = nix::sys::socket::sockopt::AttachReusePortCbpf;
    Ok(nix::sys::socket::setsockopt(socket, option, &program)?)
}

#[cfg(not(target_os = "linux"))]
fn attach_spread(_socket: &Socket, _count: usize) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "sflow_spread = datagram needs Linux"))
}

#[cfg(not(target_os = "linux"))]
use attach_spread as attach_hash;

impl UdpSource {
    fn take(&mut self, socket: usize, flags: MsgFlags) -> io::Result<()> {
        self.slots.clear();
        let fd = self.sockets[socket].as_raw_fd();
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH_MAX] = {
            let mut chunks = self.buffers.chunks_mut(BUFFER_STRIDE_BYTES);
            std::array::from_fn(|_| match chunks.next() {
                Some(chunk) => [IoSliceMut::new(&mut chunk[..BUFFER_BYTES])],
                None => [IoSliceMut::new(&mut [])],
            })
        };
        match recvmmsg(fd, &mut self.headers[socket], slices.iter_mut(), flags, None) {
            Ok(messages) => {
                self.slots.extend(messages.map(|message| Slot {
                    length: message.bytes,
                    source: socket_address(message.address.as_ref()),
                    truncated: message.flags.contains(MsgFlags::MSG_TRUNC),
                }));
                Ok(())
            }
            // Nothing in time; a signal; an ICMP error of a former sender.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[inline]
fn socket_address(address: Option<&SockaddrStorage>) -> SocketAddr {
    let unknown = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
    let Some(address) = address else { return unknown };
    if let Some(v4) = address.as_sockaddr_in() {
        return SocketAddr::V4((*v4).into());
    }
    match address.as_sockaddr_in6() {
        // A dual-stack socket shows IPv4 senders as ::ffff:192.0.2.1.
        Some(v6) => SocketAddr::new(v6.ip().to_canonical(), v6.port()),
        None => unknown,
    }
}

impl Source for UdpSource {
    fn receive(&mut self) -> io::Result<Batch> {
        if self.sockets.len() == 1 {
            self.take(0, MsgFlags::MSG_WAITFORONE)?;
        } else {
            // Fair to all: the turn begins one socket later at every call.
            self.slots.clear();
            let wait = PollTimeout::try_from(WAIT).unwrap_or(PollTimeout::ZERO);
            let mut ready = vec![false; self.sockets.len()];
            {
                let mut polled: Vec<PollFd<'_>> = self
                    .sockets
                    .iter()
                    .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
                    .collect();
                match nix::poll::poll(&mut polled, wait) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
                for (ready, polled) in ready.iter_mut().zip(&polled) {
                    *ready = polled.any().unwrap_or(false);
                }
            }
            let count = self.sockets.len();
            for offset in 0..count {
                let socket = (self.turn + offset) % count;
                if ready[socket] {
                    self.turn = socket + 1;
                    self.take(socket, MsgFlags::MSG_DONTWAIT)?;
                    break;
                }
            }
        }
        Ok(Batch::Datagrams { count: self.slots.len(), stamp_millis: self.clock.now_millis() })
    }

    #[inline]
    fn datagram(&self, index: usize) -> Received<'_> {
        let Slot { length, source, truncated } = self.slots[index];
        let start = index * BUFFER_STRIDE_BYTES;
        Received { source, payload: &self.buffers[start..start + length], truncated }
    }

    fn socket_drops(&self) -> Option<u64> {
        drops_of(&self.inodes)
    }
}

/// From the column `drops` of `/proc/net/udp` and `udp6` (proc_net_udp(5)).
fn drops_of(inodes: &[u64]) -> Option<u64> {
    let mut drops = None;
    for table in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
        let Ok(text) = std::fs::read_to_string(table) else { continue };
        for line in text.lines().skip(1) {
            let mut fields = line.split_ascii_whitespace();
            let inode: Option<u64> = fields.nth(9).and_then(|field| field.parse().ok());
            if inode.is_some_and(|inode| inodes.contains(&inode)) {
                let count: u64 = fields.nth(2).and_then(|f| f.parse().ok()).unwrap_or(0);
                *drops.get_or_insert(0) += count;
            }
        }
    }
    drops
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn source(listen: &[SocketAddr], bytes: usize, clock: Clock) -> (Vec<SocketAddr>, UdpSource) {
        let sockets = UdpSockets::bind(listen, bytes).unwrap();
        (sockets.local_addresses(), sockets.into_source(clock))
    }

    fn receive_some(source: &mut UdpSource) -> Vec<(SocketAddr, Vec<u8>)> {
        // One wait per call; a datagram on the loopback is there when send returns.
        let Ok(Batch::Datagrams { count, .. }) = source.receive() else { panic!("no batch") };
        (0..count).map(|i| source.datagram(i)).map(|d| (d.source, d.payload.to_vec())).collect()
    }

    #[test]
    fn a_dual_stack_socket_names_senders_of_both_families() {
        let listen: SocketAddr = "[::]:0".parse().unwrap();
        let (addresses, mut source) = source(&[listen], 1 << 20, Clock::driven(7));
        let port = addresses[0].port();
        for address in ["127.0.0.1", "::1"] {
            let sender = UdpSocket::bind((address, 0)).unwrap();
            sender.send_to(b"sample", (address, port)).unwrap();
            let from = sender.local_addr().unwrap();
            assert_eq!(receive_some(&mut source), [(from, b"sample".to_vec())]);
        }
        assert_eq!(
            source.receive().unwrap(),
            Batch::Datagrams { count: 0, stamp_millis: 7 },
            "an idle wait ends by itself"
        );
    }

    #[test]
    fn several_sockets_are_read_in_turn_and_the_largest_datagram_is_whole() {
        let listen: Vec<SocketAddr> =
            ["127.0.0.1:0", "[::1]:0"].iter().map(|a| a.parse().unwrap()).collect();
        let (addresses, mut source) = source(&listen, 1 << 20, Clock::System);
        let largest = vec![0xab; 65_507];
        // Twice, so that both families come after the other.
        for _ in 0..2 {
            let mut sent = Vec::new();
            for address in &addresses {
                let sender = UdpSocket::bind((address.ip(), 0)).unwrap();
                sender.send_to(&largest, address).unwrap();
                sent.push(sender.local_addr().unwrap());
            }
            let mut seen = Vec::new();
            for _ in 0..2 {
                seen.extend(receive_some(&mut source).into_iter().map(|(from, bytes)| {
                    assert_eq!(bytes, largest);
                    from
                }));
            }
            seen.sort_unstable();
            assert_eq!(seen, sent);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn drops_of_a_full_buffer_are_read_from_the_kernel() {
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (addresses, mut source) = source(&[listen], 4_096, Clock::System);
        assert_eq!(source.socket_drops(), Some(0));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sent = 1_000;
        for _ in 0..sent {
            sender.send_to(&[0; 1_000], addresses[0]).unwrap();
        }
        let mut received = 0;
        loop {
            match receive_some(&mut source).len() {
                0 => break,
                count => received += count as u64,
            }
        }
        assert!(received < sent, "the buffer is too small for all");
        assert_eq!(source.socket_drops(), Some(sent - received));
    }
}
