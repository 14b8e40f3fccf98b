//! Datagrams: many a system call each way, in buffers made once.
use std::array;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, recvmmsg, sendmmsg, sendmsg, setsockopt, sockopt};

use super::account::Account;
use super::content::{self, Check};
use super::plan::{Kind, Plan};
use super::poller::{Clock, Poller, Ready};
use super::run::{Driver, LoadError};
use super::square::{Numbers, REPLY_BYTES_MAX};

/// Datagrams of one system call: as many as a `u64` has bits.
const BATCH: usize = 64;

/// Batches sent or received before the other direction has its turn.
const BATCHES_IN_TURN: usize = 4;

/// What sockets are asked to buffer; the kernel gives less to those without privileges.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// What a segmented send may hold in all: a UDP datagram before it is cut.
const SEGMENTED_BYTES_MAX: usize = 65_507;

/// One byte more than a right reply, so that a longer one shows.
const SLACK_BYTES: usize = 1;

/// The datagram side of a run.
pub(crate) struct Udp {
    sockets: Vec<UdpSocket>,
    codec: Codec,
    payload_bytes: usize,
    /// Whether a group of datagrams goes to the kernel as one, to be cut at the device.
    segmentation: bool,
    outbox: Vec<u8>,
    /// Whose datagram is at each place of the outbox.
    outbox_connections: [usize; BATCH],
    /// The places of the outbox that wait to be sent, a bit each.
    unsent: u64,
    /// The place that failed last: a second failure drops it.
    failed: Option<usize>,
    send_headers: MultiHeaders<()>,
    inbox: Vec<u8>,
    inbox_bytes_each: usize,
    receive_headers: MultiHeaders<()>,
}

/// How requests are written and replies checked, by connection.
enum Codec {
    Echo(Vec<u64>),
    Square(Vec<Numbers>),
}

impl Udp {
    /// Opens the sockets and has them watched.
    pub(crate) fn open(plan: &Plan, poller: &Poller) -> Result<Self, LoadError> {
        let sockets: Vec<_> = (0..plan.connections).map(|_| open_socket(plan.target)).collect::<Result<_, _>>()?;
        for (connection, socket) in sockets.iter().enumerate() {
            poller.add(socket, connection, false).map_err(LoadError::Poll)?;
        }
        let keys = (0..plan.connections).map(|connection| content::key(plan.seed, connection));
        let (codec, reply_bytes) = match plan.kind {
            Kind::UdpSquare => {
                (Codec::Square(keys.map(|key| Numbers::new(plan.payload_bytes, key)).collect()), REPLY_BYTES_MAX)
            }
            _ => (Codec::Echo(keys.collect()), plan.payload_bytes),
        };
        let inbox_bytes_each = reply_bytes + SLACK_BYTES;
        Ok(Self {
            sockets,
            codec,
            payload_bytes: plan.payload_bytes,
            segmentation: plan.segmentation,
            outbox: vec![0; BATCH * plan.payload_bytes],
            outbox_connections: [0; BATCH],
            unsent: 0,
            failed: None,
            send_headers: MultiHeaders::preallocate(BATCH, None),
            inbox: vec![0; BATCH * inbox_bytes_each],
            inbox_bytes_each,
            receive_headers: MultiHeaders::preallocate(BATCH, None),
        })
    }

    /// Fills the outbox, which is empty, with what is due.
    fn fill(&mut self, account: &mut Account, now_ns: u64) {
        for (place, payload) in self.outbox.chunks_exact_mut(self.payload_bytes).enumerate() {
            let Some(connection) = account.take(now_ns) else { return };
            let sequence = account.open(connection, now_ns);
            match &self.codec {
                Codec::Echo(keys) => content::write(payload, keys[connection], sequence),
                Codec::Square(numbers) => numbers[connection].write(payload, sequence),
            }
            self.outbox_connections[place] = connection;
            self.unsent |= 1 << place;
        }
    }

    /// Sends what is in the outbox; `false` if the kernel takes no more for now.
    fn flush(&mut self, account: &mut Account, clock: &Clock) -> bool {
        while self.unsent != 0 {
            let first = self.unsent.trailing_zeros() as usize;
            let connection = self.outbox_connections[first];
            let mut group = places(self.unsent)
                .filter(|place| self.outbox_connections[*place] == connection)
                .fold(0_u64, |group, place| group | 1 << place);
            match self.send_group(connection, group) {
                Ok(sent) => {
                    for _ in 0..sent {
                        self.unsent &= !(group & group.wrapping_neg());
                        group &= group - 1;
                    }
                    self.failed = None;
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return false,
                Err(Errno::EINTR) => {}
                // The error may be an earlier datagram's, reported late. If it stays, this one is lost.
                Err(_) if self.failed == Some(first) => {
                    self.unsent &= !(1 << first);
                    self.failed = None;
                }
                Err(errno) => {
                    self.failed = Some(first);
                    account.reset(clock.now_ns());
                    account.problem(&errno.desc());
                }
            }
        }
        true
    }

    /// Sends the datagrams at the places of `group`, all of one connection; returns how many the kernel took.
    fn send_group(&mut self, connection: usize, group: u64) -> Result<usize, Errno> {
        let socket = self.sockets[connection].as_raw_fd();
        let mut payloads = self.outbox.chunks_exact(self.payload_bytes);
        let slices: [_; BATCH] =
            array::from_fn(|_| [IoSlice::new(payloads.next().expect("the outbox holds a whole batch"))]);
        if self.segmentation {
            match send_segmented(socket, &slices, group, self.payload_bytes) {
                Err(Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP | Errno::EIO) => self.segmentation = false,
                result => return result,
            }
        }
        let group = places(group).map(|place| &slices[place]);
        sendmmsg(socket, &mut self.send_headers, group, [None; BATCH], [], MsgFlags::MSG_DONTWAIT)
            .map(|results| results.count())
    }

    /// Receives a batch: how many datagrams, and the length of each.
    fn receive_batch(&mut self, connection: usize) -> Result<(usize, [usize; BATCH]), Errno> {
        let socket = self.sockets[connection].as_raw_fd();
        let mut places = self.inbox.chunks_exact_mut(self.inbox_bytes_each);
        let mut slices: [_; BATCH] =
            array::from_fn(|_| [IoSliceMut::new(places.next().expect("the inbox holds a whole batch"))]);
        let mut lengths = [0; BATCH];
        let mut count = 0;
        let headers = &mut self.receive_headers;
        for message in recvmmsg(socket, headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)? {
            lengths[count] = message.bytes;
            count += 1;
        }
        Ok((count, lengths))
    }

    fn receive_from(&mut self, connection: usize, account: &mut Account, clock: &Clock) {
        for _ in 0..BATCHES_IN_TURN {
            let (count, lengths) = match self.receive_batch(connection) {
                Ok(batch) => batch,
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(errno) => {
                    account.reset(clock.now_ns());
                    account.problem(&errno.desc());
                    return;
                }
            };
            let now_ns = clock.now_ns();
            for (place, reply) in self.inbox.chunks_exact(self.inbox_bytes_each).take(count).enumerate() {
                let reply = &reply[..lengths[place]];
                let check = match &self.codec {
                    Codec::Echo(keys) => content::check(reply, keys[connection], self.payload_bytes),
                    Codec::Square(numbers) => numbers[connection].check(reply),
                };
                if !matches!(check, Check::Intact(_)) {
                    account.problem(&WrongReply(reply));
                }
                account.bytes(reply.len(), now_ns);
                account.reply(connection, check, now_ns);
            }
            if count < BATCH {
                return;
            }
        }
    }
}

impl Driver for Udp {
    fn is_connected(&mut self, _poller: &Poller, _ready: &[Ready], _now_ns: u64) -> Result<bool, LoadError> {
        Ok(true)
    }

    fn begin(&mut self, _account: &mut Account) {}

    fn send(&mut self, _poller: &Poller, account: &mut Account, clock: &Clock) -> Result<(), LoadError> {
        for _ in 0..BATCHES_IN_TURN {
            if self.unsent == 0 {
                self.fill(account, clock.now_ns());
            }
            if self.unsent == 0 || !self.flush(account, clock) {
                break;
            }
        }
        Ok(())
    }

    fn receive(
        &mut self,
        _poller: &Poller,
        ready: &[Ready],
        account: &mut Account,
        clock: &Clock,
    ) -> Result<(), LoadError> {
        for ready in ready {
            self.receive_from(ready.connection, account, clock);
        }
        Ok(())
    }

    fn next_ns(&self) -> Option<u64> {
        // A full socket buffer empties in its own time: look again at once.
        (self.unsent != 0).then_some(0)
    }
}

/// Sends as many datagrams as one call takes, as a single buffer that is cut into them further down (UDP_SEGMENT,
/// udp(7)); returns how many. `EINVAL` and its like where the kernel, the path or the size do not allow it.
fn send_segmented(
    socket: RawFd,
    slices: &[[IoSlice<'_>; 1]; BATCH],
    group: u64,
    payload_bytes: usize,
) -> Result<usize, Errno> {
    let count_max = (SEGMENTED_BYTES_MAX / payload_bytes).min(BATCH);
    let mut buffers = [IoSlice::new(&[]); BATCH];
    let mut count = 0;
    for place in places(group).take(count_max) {
        buffers[count] = slices[place][0];
        count += 1;
    }
    let segment_bytes = u16::try_from(payload_bytes).map_err(|_| Errno::EINVAL)?;
    let control = [ControlMessage::UdpGsoSegments(&segment_bytes)];
    sendmsg::<()>(socket, &buffers[..count], &control, MsgFlags::MSG_DONTWAIT, None).map(|_| count)
}

/// The places whose bits are set, lowest first.
fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (place < BATCH).then_some(place)
    })
}

/// A reply that is no answer, as far as it can be shown.
struct WrongReply<'a>(&'a [u8]);

impl std::fmt::Display for WrongReply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN_BYTES_MAX: usize = 60;
        if self.0.is_ascii() && !self.0.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
            let shown = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
            write!(f, "a wrong reply: {:?}", String::from_utf8_lossy(shown))
        } else {
            write!(f, "a wrong reply of {} bytes", self.0.len())
        }
    }
}

fn open_socket(target: SocketAddr) -> Result<UdpSocket, LoadError> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = (|| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })()
    .map_err(|source| LoadError::Connect { target, source })?;
    // Best effort: with privileges beyond the system's limit, else up to it, else what there was.
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES);
    }
    if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        let _ = setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES);
    }
    Ok(socket)
}
