//! What the control thread and the datapath say to each other, between two polls.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::api::GuestStats;

/// One slot each way and a bell on either side.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// Rung for the datapath.
    datapath: EventFd,
    /// Rung for the control thread.
    control: EventFd,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    asked: Asked,
    hold: Option<UnixStream>,
    stats: Option<Box<GuestStats>>,
    serving: bool,
}

/// What the datapath is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) stats: bool,
    pub(super) stop: bool,
    /// Because the daemon has gone.
    pub(super) leashed: bool,
}

impl Mailbox {
    pub(super) fn new() -> nix::Result<Self> {
        let bell = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        Ok(Self { datapath: bell()?, control: bell()?, slots: Mutex::default() })
    }

    /// Readable when the datapath is wanted.
    pub(super) fn datapath_bell(&self) -> BorrowedFd<'_> {
        self.datapath.as_fd()
    }

    /// Readable when the control thread is wanted.
    pub(super) fn control_bell(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Control to datapath: stats, please.
    pub(super) fn ask_stats(&self) {
        self.slots().asked.stats = true;
        ring(&self.datapath);
    }

    /// Control to datapath: end.
    pub(super) fn ask_stop(&self) {
        self.slots().asked.stop = true;
        ring(&self.datapath);
    }

    /// Control to datapath: end, since the daemon has gone.
    pub(super) fn say_daemon_gone(&self) {
        self.slots().asked.leashed = true;
        ring(&self.datapath);
    }

    /// Control to datapath: that connection is yours. It takes the place of one that was not taken yet.
    pub(super) fn give_hold(&self, stream: UnixStream) {
        self.slots().hold = Some(stream);
        ring(&self.datapath);
    }

    /// At the datapath: a connection that was given to it.
    pub(super) fn take_hold(&self) -> Option<UnixStream> {
        self.slots().hold.take()
    }

    /// At the datapath: what is asked for. Silences its bell.
    pub(super) fn take_asked(&self) -> Asked {
        let _ = self.datapath.read();
        std::mem::take(&mut self.slots().asked)
    }

    /// Datapath to control: here they are.
    pub(super) fn give_stats(&self, stats: GuestStats) {
        self.slots().stats = Some(Box::new(stats));
        ring(&self.control);
    }

    /// Datapath to control: the guest serves.
    pub(super) fn say_serving(&self) {
        self.slots().serving = true;
        ring(&self.control);
    }

    /// At the control thread: whether the guest serves, and what stats there are. Silences its bell.
    pub(super) fn take_news(&self) -> (bool, Option<Box<GuestStats>>) {
        let _ = self.control.read();
        let mut slots = self.slots();
        (slots.serving, slots.stats.take())
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails only when it was rung 2^64 times: then it is heard.
fn ring(bell: &EventFd) {
    let _ = bell.write(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_arrives_once() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.ask_stats();
        mailbox.ask_stats();
        assert_eq!(mailbox.take_asked(), Asked { stats: true, ..Asked::default() });
        assert_eq!(mailbox.take_asked(), Asked::default());
        mailbox.ask_stop();
        assert!(mailbox.take_asked().stop);
        mailbox.give_stats(GuestStats::default());
        mailbox.say_serving();
        assert_eq!(mailbox.take_news(), (true, Some(Box::default())));
        assert_eq!(mailbox.take_news(), (true, None));
    }
}
