//! What a guest's task and the thread that moves the guest, or takes a checkpoint of it, say to each other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use roam_snapshot::protocol::Reason;

/// A migration or a checkpoint under way, seen from where the guest is. Clones are the same one.
#[derive(Clone)]
pub(in crate::host) struct Departure {
    inner: Arc<Inner>,
}

struct Inner {
    bell: EventFd,
    cancel: Mutex<Option<Reason>>,
    /// The worker's end has been told to the machine.
    ended: AtomicBool,
}

impl Departure {
    pub(in crate::host) fn new() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { inner: Arc::new(Inner { bell, cancel: Mutex::default(), ended: AtomicBool::new(false) }) })
    }

    /// Has it end, unless the token was sent. The first reason counts.
    pub(in crate::host) fn cancel(&self, reason: Reason) {
        self.inner.cancel.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        let _ = self.inner.bell.write(1);
    }

    /// Has its thread look what is new.
    pub(in crate::host) fn ring(&self) {
        let _ = self.inner.bell.write(1);
    }

    /// Readable when it is to be cancelled, or something else is new.
    pub(in crate::host) fn bell(&self) -> BorrowedFd<'_> {
        self.inner.bell.as_fd()
    }

    /// Whether it is to be cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.inner.cancel.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Why it is to be cancelled. Silences the bell.
    pub(in crate::host) fn take_cancel(&self) -> Option<Reason> {
        let _ = self.inner.bell.read();
        self.inner.cancel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes that the worker has ended; whether that is news.
    pub(super) fn note_ended(&self) -> bool {
        !self.inner.ended.swap(true, Ordering::Relaxed)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.inner.ended.load(Ordering::Relaxed)
    }
}
