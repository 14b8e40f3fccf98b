//! Tasks: futures that run beside the one that started them.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::executor;

/// Starts `future` as a task of its own, which goes on also when the handle is dropped.
///
/// A guest has one thread: tasks need not be `Send`, and share state by `Rc` and `Cell`.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let shared = Rc::new(RefCell::new(Shared::Running(None)));
    let result = shared.clone();
    executor::spawn(Box::pin(async move {
        let output = future.await;
        if let Shared::Running(Some(waker)) = result.replace(Shared::Done(Some(output))) {
            waker.wake();
        }
    }));
    JoinHandle(shared)
}

/// Lets every other runnable task go first.
pub fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// A task's result, to be awaited. Dropping it detaches the task.
#[derive(Debug)]
pub struct JoinHandle<T>(Rc<RefCell<Shared<T>>>);

#[derive(Debug)]
enum Shared<T> {
    Running(Option<Waker>),
    Done(Option<T>),
}

impl<T> JoinHandle<T> {
    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        matches!(*self.0.borrow(), Shared::Done(_))
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut *self.0.borrow_mut() {
            Shared::Running(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Shared::Done(output) => Poll::Ready(output.take().expect("a JoinHandle is not polled after it was ready")),
        }
    }
}
