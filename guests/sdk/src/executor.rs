//! Runs tasks to completion, one poll of the host at a time.
//!
//! Tasks, queue and wakers are plain data in guest memory, and nothing of a task is on the stack between two polls:
//! that is what lets the host freeze a guest at any of them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use roam_abi::NO_DEADLINE;

use crate::{reactor, timers};

/// Task polls one host poll does before it hands back to the host, so that frames keep moving while tasks are busy.
pub const TASK_POLLS_MAX: usize = 1024;

thread_local! {
    static EXECUTOR: RefCell<Executor> = const { RefCell::new(Executor::new()) };
}

/// One host poll: takes in the time and the sockets' news, runs what can run, returns the next deadline.
pub(crate) fn poll(now_ns: i64) -> i64 {
    reactor::take_events();
    timers::advance(now_ns);
    for _ in 0..TASK_POLLS_MAX {
        if !run_one() {
            return timers::first().unwrap_or(NO_DEADLINE);
        }
    }
    if EXECUTOR.with_borrow(|executor| executor.runnable.is_empty()) {
        timers::first().unwrap_or(NO_DEADLINE)
    } else {
        now_ns
    }
}

/// Starts `future` as a task of its own.
pub(crate) fn spawn(future: Pin<Box<dyn Future<Output = ()>>>) {
    EXECUTOR.with_borrow_mut(|executor| executor.spawn(future));
}

/// Polls the task that has waited longest; false when none is runnable.
fn run_one() -> bool {
    let Some(index) = EXECUTOR.with_borrow_mut(|executor| executor.runnable.pop_front()) else { return false };
    // The task is out of the table while it runs, so that it may spawn and wake as it likes.
    let Some(mut task) = EXECUTOR.with_borrow_mut(|executor| executor.tasks[index].take()) else { return true };
    task.flag.queued.store(false, Ordering::Relaxed);
    match task.future.as_mut().poll(&mut Context::from_waker(&task.waker)) {
        Poll::Pending => EXECUTOR.with_borrow_mut(|executor| executor.tasks[index] = Some(task)),
        Poll::Ready(()) => {
            drop(task);
            EXECUTOR.with_borrow_mut(|executor| executor.free.push(index));
        }
    }
    true
}

struct Executor {
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    runnable: VecDeque<usize>,
}

impl Executor {
    const fn new() -> Self {
        Self { tasks: Vec::new(), free: Vec::new(), runnable: VecDeque::new() }
    }

    fn spawn(&mut self, future: Pin<Box<dyn Future<Output = ()>>>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.tasks.push(None);
            self.tasks.len() - 1
        });
        let flag = Arc::new(Flag { index, queued: AtomicBool::new(true) });
        self.tasks[index] = Some(Task { future, waker: Waker::from(flag.clone()), flag });
        self.runnable.push_back(index);
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
    flag: Arc<Flag>,
}

/// What a waker points to. It may outlive its task: whoever has the index then is woken for nothing, which is allowed.
struct Flag {
    index: usize,
    queued: AtomicBool,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            EXECUTOR.with_borrow_mut(|executor| executor.runnable.push_back(self.index));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::task;

    #[test]
    fn a_finished_guest_waits_for_nothing() {
        let done = Rc::new(Cell::new(0));
        let seen = done.clone();
        task::spawn(async move { seen.set(task::spawn(async { 7 }).await) });
        assert_eq!(poll(0), NO_DEADLINE);
        assert_eq!(done.get(), 7);
    }

    #[test]
    fn busy_tasks_let_the_host_in() {
        task::spawn(async {
            loop {
                task::yield_now().await;
            }
        });
        assert_eq!(poll(5), 5);
        assert_eq!(poll(9), 9);
    }

    #[test]
    fn slots_are_reused() {
        for round in 0..100 {
            for _ in 0..10 {
                task::spawn(task::yield_now());
            }
            assert_eq!(poll(round), NO_DEADLINE);
        }
        assert_eq!(EXECUTOR.with_borrow(|executor| executor.tasks.len()), 10);
    }

    #[test]
    fn stale_wakers_are_harmless() {
        let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
        let keep = kept.clone();
        task::spawn(std::future::poll_fn(move |cx| {
            *keep.borrow_mut() = Some(cx.waker().clone());
            Poll::Ready(())
        }));
        poll(0);
        kept.take().expect("the task ran").wake();
        assert_eq!(poll(1), NO_DEADLINE);
        task::spawn(async {});
        assert_eq!(poll(2), NO_DEADLINE);
    }
}
