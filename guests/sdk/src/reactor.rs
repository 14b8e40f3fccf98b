//! Which tasks wait for which socket.
//!
//! Readiness is edge-triggered and nothing changes during a poll, so the rule is: try; on `AGAIN` call [`wait`]; the
//! next event of that socket wakes the task, which tries again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::Waker;

use roam_abi::Event;
use roam_abi::limits::EVENTS_MAX;

use crate::sys;

thread_local! {
    static REACTOR: RefCell<Reactor> = RefCell::default();
}

/// The half of a socket a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Read,
    Write,
}

/// Wakes `waker` at the socket's next event of that half.
pub(crate) fn wait(socket: u32, half: Half, waker: &Waker) {
    REACTOR.with_borrow_mut(|reactor| {
        let waiting = reactor.sockets.entry(socket).or_default();
        let wakers = match half {
            Half::Read => &mut waiting.readers,
            Half::Write => &mut waiting.writers,
        };
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    });
}

/// Whether an event has said that the connection is over, to a task that waited.
pub(crate) fn is_closed(socket: u32) -> bool {
    REACTOR.with_borrow(|reactor| reactor.sockets.get(&socket).is_some_and(|waiting| waiting.closed))
}

/// Forgets who waits for a socket that is closed.
pub(crate) fn forget(socket: u32) {
    REACTOR.with_borrow_mut(|reactor| reactor.sockets.remove(&socket));
}

/// Takes all news from the host and wakes who waits for them.
pub(crate) fn take_events() {
    REACTOR.with_borrow_mut(|reactor| {
        loop {
            // The host only fails here when it is shutting the guest down: no news, then.
            let count = sys::ready(&mut reactor.events).unwrap_or(0) as usize;
            for bytes in reactor.events.iter().take(count) {
                if let Some(waiting) = reactor.sockets.get_mut(&Event::from_bytes(*bytes).socket) {
                    waiting.wake(Event::from_bytes(*bytes).flags);
                }
            }
            if count < reactor.events.len() {
                return;
            }
        }
    });
}

struct Reactor {
    sockets: HashMap<u32, Waiting, BuildHasherDefault<HandleHasher>>,
    events: Box<[[u8; Event::BYTES]]>,
}

impl Default for Reactor {
    fn default() -> Self {
        Self { sockets: HashMap::default(), events: vec![[0; Event::BYTES]; EVENTS_MAX].into() }
    }
}

/// Several tasks may wait for the same half; all are woken and the first to try gets what is there.
#[derive(Default)]
struct Waiting {
    readers: Vec<Waker>,
    writers: Vec<Waker>,
    closed: bool,
}

impl Waiting {
    fn wake(&mut self, flags: u32) {
        self.closed |= flags & Event::CLOSED != 0;
        if flags & (Event::READABLE | Event::CLOSED) != 0 {
            self.readers.drain(..).for_each(Waker::wake);
        }
        if flags & (Event::WRITABLE | Event::CLOSED) != 0 {
            self.writers.drain(..).for_each(Waker::wake);
        }
    }
}

/// Spreads socket handles; they come from the host, not from an adversary, so no keyed hash is needed.
#[derive(Default)]
struct HandleHasher(u64);

impl Hasher for HandleHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, handle: u32) {
        self.0 = (self.0 ^ u64::from(handle)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn event(socket: u32, flags: u32) {
        REACTOR.with_borrow_mut(|reactor| {
            if let Some(waiting) = reactor.sockets.get_mut(&socket) {
                waiting.wake(flags);
            }
        });
    }

    #[test]
    fn events_wake_their_half_once() {
        let (reads, writes) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (reader, writer) = (Waker::from(reads.clone()), Waker::from(writes.clone()));
        wait(3, Half::Read, &reader);
        wait(3, Half::Read, &reader);
        wait(3, Half::Write, &writer);
        event(4, Event::READABLE);
        event(3, Event::READABLE);
        event(3, Event::READABLE);
        assert_eq!((reads.0.load(Ordering::Relaxed), writes.0.load(Ordering::Relaxed)), (1, 0));
        wait(3, Half::Read, &reader);
        event(3, Event::CLOSED);
        assert_eq!((reads.0.load(Ordering::Relaxed), writes.0.load(Ordering::Relaxed)), (2, 1));
        assert!(is_closed(3) && !is_closed(4));
        forget(3);
        assert!(!is_closed(3));
    }

    #[test]
    fn everyone_who_waits_is_woken() {
        let counts: Vec<_> = (0..3).map(|_| Arc::new(Count::default())).collect();
        for count in &counts {
            wait(1, Half::Read, &Waker::from(count.clone()));
        }
        event(1, Event::READABLE);
        assert!(counts.iter().all(|count| count.0.load(Ordering::Relaxed) == 1));
        forget(1);
    }
}
