//! The load: datagrams at a set rate, whatever becomes of them, and who answers each.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::rig::TARGET;

/// How long replies are waited for after the last request.
const DRAIN: Duration = Duration::from_millis(500);
/// Requests in a row before replies have their turn.
const BURST: usize = 32;
/// A request this long after it was due is late.
const LATE_NS: u64 = 1_000_000;
const SOCKET_BUFFER_BYTES: usize = 16 << 20;
const SLEEP_MAX: Duration = Duration::from_millis(1);

/// What is asked for.
pub(super) struct Plan {
    pub(super) rate: f64,
    pub(super) payload_bytes: usize,
    /// What times are counted from.
    pub(super) epoch: Instant,
}

/// What was sent and what came back.
#[derive(Default)]
pub(super) struct Log {
    /// When each request fell due.
    pub(super) due_ns: Vec<u64>,
    /// When it was sent.
    pub(super) sent_ns: Vec<u64>,
    pub(super) replies: Vec<Reply>,
    /// Requests that were sent late.
    pub(super) late_sends: u64,
}

/// An answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub(super) sequence: u32,
    /// Who gave it: 0 or 1.
    pub(super) host: u8,
    pub(super) received_ns: u64,
}

impl Log {
    /// From when requests were due to their replies.
    pub(super) fn round_trips_ns(&self) -> Vec<u64> {
        let due_ns = |reply: &Reply| self.due_ns.get(reply.sequence as usize).copied();
        self.replies.iter().filter_map(|reply| Some(reply.received_ns.saturating_sub(due_ns(reply)?))).collect()
    }
}

/// Where in a datagram its sequence number and, in a reply, the host's number and time are.
pub(super) const SEQUENCE: std::ops::Range<usize> = 0..4;
pub(super) const HOST: usize = 4;
pub(super) const HOST_TIME: std::ops::Range<usize> = 8..16;

/// Waits for `begin`, then loads until `stop`.
pub(super) fn run(plan: &Plan, begin: &AtomicBool, stop: &AtomicBool) -> Result<Log> {
    let socket = open()?;
    while !begin.load(Ordering::Acquire) {
        thread::sleep(Duration::from_millis(1));
    }
    // A failure costs precision only.
    let _ = nix::sys::prctl::set_timerslack(1);
    let mut load = Load { plan, socket, log: Log::default(), began_ns: now_ns(plan.epoch), payload: Vec::new() };
    load.payload = vec![0x55; plan.payload_bytes];
    while !stop.load(Ordering::Acquire) {
        let due_ns = load.send()?;
        load.receive()?;
        load.wait(Duration::from_nanos(due_ns.saturating_sub(now_ns(plan.epoch))))?;
    }
    let drained = Instant::now() + DRAIN;
    while Instant::now() < drained {
        load.receive()?;
        load.wait(SLEEP_MAX)?;
    }
    Ok(load.log)
}

/// A socket to the address in question.
pub(super) fn open() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no socket")?;
    socket.connect(TARGET).with_context(|| format!("no way to {TARGET}"))?;
    socket.set_nonblocking(true)?;
    grow(&socket);
    Ok(socket)
}

/// Buffers as large as the kernel allows.
pub(super) fn grow(socket: &UdpSocket) {
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES);
    }
    if setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        let _ = setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES);
    }
}

/// Whether an error of a datagram socket goes by itself: it is full or empty, or tells of an earlier datagram.
pub(super) fn passes(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted | ConnectionRefused | HostUnreachable)
}

fn now_ns(epoch: Instant) -> u64 {
    epoch.elapsed().as_nanos() as u64
}

struct Load<'a> {
    plan: &'a Plan,
    socket: UdpSocket,
    log: Log,
    began_ns: u64,
    payload: Vec<u8>,
}

impl Load<'_> {
    /// Sends what is due; when the next one is.
    fn send(&mut self) -> Result<u64> {
        for _ in 0..BURST {
            let sequence = self.log.sent_ns.len() as u32;
            let due_ns = self.began_ns + (f64::from(sequence) * 1e9 / self.plan.rate) as u64;
            let now_ns = now_ns(self.plan.epoch);
            if due_ns > now_ns {
                return Ok(due_ns);
            }
            self.payload[SEQUENCE].copy_from_slice(&sequence.to_le_bytes());
            match self.socket.send(&self.payload) {
                Ok(_) => {}
                Err(error) if passes(&error) => return Ok(due_ns),
                Err(error) => return Err(error).context("sending"),
            }
            self.log.due_ns.push(due_ns);
            self.log.sent_ns.push(now_ns);
            self.log.late_sends += u64::from(now_ns - due_ns > LATE_NS);
        }
        Ok(0)
    }

    fn receive(&mut self) -> Result<()> {
        let mut datagram = [0; 2048];
        loop {
            let length = match self.socket.recv(&mut datagram) {
                Ok(length) => length,
                Err(error) if passes(&error) => return Ok(()),
                Err(error) => return Err(error).context("receiving"),
            };
            let received_ns = now_ns(self.plan.epoch);
            if let (Some(sequence), true) = (datagram.first_chunk(), length > HOST) {
                let (sequence, host) = (u32::from_le_bytes(*sequence), datagram[HOST]);
                self.log.replies.push(Reply { sequence, host, received_ns });
            }
        }
    }

    fn wait(&self, limit: Duration) -> Result<()> {
        if limit.is_zero() {
            return Ok(());
        }
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(limit.min(SLEEP_MAX))), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("waiting for replies"),
        }
    }
}
