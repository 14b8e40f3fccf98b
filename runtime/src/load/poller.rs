//! Waiting: for sockets, and for a time more exact than a millisecond.
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;

/// Time since the client started, in ns.
#[derive(Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// ns since the start.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("a run shorter than 584 years")
    }
}

/// A socket that may have something to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// Which connection.
    pub(crate) connection: usize,
    /// Something can be written, or connecting is over.
    pub(crate) writable: bool,
    /// Something can be read, or the connection broke.
    pub(crate) readable: bool,
}

/// Level-triggered epoll over the sockets of a run.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

/// Sockets looked at in one turn.
const EVENTS_MAX: usize = 256;

impl Poller {
    /// An empty one. Asks the kernel to wake this thread as exactly as it can.
    pub(crate) fn new() -> Result<Self, Errno> {
        // Best effort: without it, waking is up to 50 µs late, and that is visible in `send_lag_us_max`.
        let _ = nix::sys::prctl::set_timerslack(1);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); EVENTS_MAX] })
    }

    /// Watches a socket for reading, and for writing if `writable`.
    pub(crate) fn add(&self, socket: impl AsFd, connection: usize, writable: bool) -> Result<(), Errno> {
        self.epoll.add(socket, EpollEvent::new(interest(writable), connection as u64))
    }

    /// Changes whether a watched socket is watched for writing. Closing it ends the watch.
    pub(crate) fn modify(&self, socket: impl AsFd, connection: usize, writable: bool) -> Result<(), Errno> {
        self.epoll.modify(socket, &mut EpollEvent::new(interest(writable), connection as u64))
    }

    /// Puts what is ready now into `ready`, in place of what was there.
    pub(crate) fn poll(&mut self, ready: &mut Vec<Ready>) -> Result<(), Errno> {
        ready.clear();
        let count = match self.epoll.wait(&mut self.events, EpollTimeout::ZERO) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        ready.extend(self.events[..count].iter().map(|event| Ready {
            connection: event.data() as usize,
            writable: event.events().intersects(EpollFlags::EPOLLOUT | broken),
            readable: event.events().intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | broken),
        }));
        Ok(())
    }

    /// Sleeps until a socket is ready, a signal comes or so many ns have passed.
    pub(crate) fn sleep_ns(&self, nanoseconds: u64) -> Result<(), Errno> {
        let timeout = TimeSpec::new((nanoseconds / 1_000_000_000) as i64, (nanoseconds % 1_000_000_000) as i64);
        match ppoll(&mut [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)], Some(timeout), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

fn interest(writable: bool) -> EpollFlags {
    let read = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
    if writable { read | EpollFlags::EPOLLOUT } else { read }
}
