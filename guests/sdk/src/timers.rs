//! The guest's clock and who waits for it.
//!
//! An ordered map rather than a heap: most timeouts are cancelled (the awaited thing came first), and a heap would keep
//! them until they are due.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::Waker;

thread_local! {
    static TIMERS: RefCell<Timers> = const { RefCell::new(Timers::new()) };
}

/// A timer that waits: its deadline, then the order in which timers were set.
pub(crate) type TimerKey = (i64, u64);

struct Timers {
    now_ns: i64,
    set_count: u64,
    waiting: BTreeMap<TimerKey, Waker>,
}

impl Timers {
    const fn new() -> Self {
        Self { now_ns: 0, set_count: 0, waiting: BTreeMap::new() }
    }
}

/// The time of this poll, nanoseconds.
pub(crate) fn now_ns() -> i64 {
    TIMERS.with_borrow(|timers| timers.now_ns)
}

/// Sets the clock and wakes whose time has come.
pub(crate) fn advance(now_ns: i64) {
    TIMERS.with_borrow_mut(|timers| {
        timers.now_ns = now_ns;
        while let Some(entry) = timers.waiting.first_entry() {
            if entry.key().0 > now_ns {
                break;
            }
            entry.remove().wake();
        }
    });
}

/// The earliest deadline, if any.
pub(crate) fn first() -> Option<i64> {
    TIMERS.with_borrow(|timers| timers.waiting.first_key_value().map(|(key, _)| key.0))
}

/// Wakes `waker` once the clock has reached `deadline_ns`.
pub(crate) fn set(deadline_ns: i64, waker: &Waker) -> TimerKey {
    TIMERS.with_borrow_mut(|timers| {
        timers.set_count += 1;
        let key = (deadline_ns, timers.set_count);
        timers.waiting.insert(key, waker.clone());
        key
    })
}

/// Points a timer to another waker, where it still waits.
pub(crate) fn update(key: TimerKey, waker: &Waker) {
    TIMERS.with_borrow_mut(|timers| {
        if let Some(waiting) = timers.waiting.get_mut(&key) {
            waiting.clone_from(waker);
        }
    });
}

/// Forgets a timer; one that has fired is gone already.
pub(crate) fn cancel(key: TimerKey) {
    TIMERS.with_borrow_mut(|timers| timers.waiting.remove(&key));
}
