//! Ends a guest that does not return from a poll.
//!
//! The hot path only counts polls up; the watchdog thread looks at the counter and, while it stands still on a poll
//! under way, at the CPU time of the polling thread, so that neither a busy machine nor a stopped process looks like
//! a runaway guest. While the edge sleeps, so does the watchdog.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use nix::time::ClockId;

/// A poll took more CPU time than its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// The budget, CPU time of one poll.
    pub budget: Duration,
}

/// Watches the thread that made it.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Thread,
    join: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Odd while a poll is under way; goes up at the start and at the end of each.
    turns: AtomicU64,
    asleep: AtomicBool,
    watchdog_parked: AtomicBool,
    ended: AtomicBool,
}

/// Looks per budget: the overrun is noticed at most this fraction of the budget late.
const TICKS_PER_BUDGET: u32 = 4;

impl Watchdog {
    /// Watches the calling thread; `on_overrun` is called on the watchdog's own thread, once.
    pub fn new(budget: Duration, on_overrun: impl FnOnce(Overrun) + Send + 'static) -> std::io::Result<Self> {
        Self::with_start(budget, || {}, on_overrun)
    }

    /// As [`Self::new`]; `on_start` is called on the watchdog's thread before all else.
    pub fn with_start(
        budget: Duration,
        on_start: impl FnOnce() + Send + 'static,
        on_overrun: impl FnOnce(Overrun) + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = shared.clone();
        let clock = thread_cpu_clock(nix::unistd::gettid().as_raw());
        let join = thread::Builder::new().name("watchdog".into()).spawn(move || {
            on_start();
            if watch(&watched, clock, budget) {
                on_overrun(Overrun { budget });
            }
        })?;
        Ok(Self { shared, thread: join.thread().clone(), join: Some(join) })
    }

    /// Watches `act` like a poll.
    pub fn guard<T>(&self, act: impl FnOnce() -> T) -> T {
        self.turn();
        let result = act();
        self.turn();
        result
    }

    /// A poll begins or ends.
    fn turn(&self) {
        // Only this thread writes the counter, so no read-modify-write is needed.
        let turns = self.shared.turns.load(Ordering::Relaxed);
        self.shared.turns.store(turns.wrapping_add(1), Ordering::Release);
    }

    /// The edge goes to sleep until a frame, a deadline or a signal.
    pub(crate) fn sleep(&self) {
        self.shared.asleep.store(true, Ordering::SeqCst);
    }

    /// The edge is awake again.
    pub(crate) fn wake(&self) {
        self.shared.asleep.store(false, Ordering::SeqCst);
        if self.shared.watchdog_parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(join) = self.join.take() {
            let _ = join.join();
        }
    }
}

/// Returns true when a poll overran.
fn watch(shared: &Shared, clock: ClockId, budget: Duration) -> bool {
    let tick = (budget / TICKS_PER_BUDGET).max(Duration::from_millis(1));
    let mut seen = (0, Duration::ZERO);
    while !shared.ended.load(Ordering::SeqCst) {
        if shared.asleep.load(Ordering::SeqCst) {
            shared.watchdog_parked.store(true, Ordering::SeqCst);
            // Looked at again after saying so: else the edge could wake between the look and the park.
            if shared.asleep.load(Ordering::SeqCst) && !shared.ended.load(Ordering::SeqCst) {
                thread::park();
            }
            shared.watchdog_parked.store(false, Ordering::SeqCst);
        }
        thread::park_timeout(tick);
        let turns = shared.turns.load(Ordering::Acquire);
        let used = cpu_time(clock);
        if turns.is_multiple_of(2) || turns != seen.0 {
            seen = (turns, used);
        } else if used.saturating_sub(seen.1) >= budget {
            return true;
        }
    }
    false
}

/// The CPU-time clock of a thread, by the kernel's encoding (`CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED`, posix-timers.h).
fn thread_cpu_clock(tid: i32) -> ClockId {
    ClockId::from_raw((!tid << 3) | 6)
}

/// Zero when the thread is gone: then nothing can overrun.
fn cpu_time(clock: ClockId) -> Duration {
    clock.now().map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_poll_that_does_not_return_is_noticed() {
        let (sender, receiver) = mpsc::channel();
        let budget = Duration::from_millis(20);
        let watchdog =
            Watchdog::new(budget, move |overrun| sender.send(overrun).expect("the test listens")).expect("a thread");
        watchdog.turn();
        let overrun = loop {
            if let Ok(overrun) = receiver.try_recv() {
                break overrun;
            }
        };
        assert_eq!(overrun, Overrun { budget });
    }

    #[test]
    fn sleeping_and_short_polls_are_not_overruns() {
        let (sender, receiver) = mpsc::channel();
        let budget = Duration::from_millis(50);
        let watchdog =
            Watchdog::new(budget, move |overrun| sender.send(overrun).expect("the test listens")).expect("a thread");
        for _ in 0..3 {
            watchdog.turn();
            // A poll that waits for the CPU, or whose process is stopped, uses none.
            thread::sleep(Duration::from_millis(120));
            watchdog.turn();
            watchdog.sleep();
            thread::sleep(Duration::from_millis(60));
            watchdog.wake();
        }
        assert!(receiver.try_recv().is_err());
        drop(watchdog);
        assert!(receiver.recv().is_err(), "the watchdog ended without an overrun");
    }
}
