//! Waiting for several futures at once, in one task.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

/// Which of two futures was first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first one.
    Left(A),
    /// The second one.
    Right(B),
}

/// Waits for the first of two futures and drops the other; the left one wins a tie.
pub async fn select<A: Future, B: Future>(left: A, right: B) -> Either<A::Output, B::Output> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(move |cx| {
        if let Poll::Ready(output) = left.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(output));
        }
        right.as_mut().poll(cx).map(Either::Right)
    })
    .await
}

/// Waits for both futures.
pub async fn join<A: Future, B: Future>(left: A, right: B) -> (A::Output, B::Output) {
    let (mut left, mut right) = (pin!(left), pin!(right));
    let (mut left_done, mut right_done) = (None, None);
    poll_fn(move |cx| {
        let ready = [advance(left.as_mut(), &mut left_done, cx), advance(right.as_mut(), &mut right_done, cx)];
        match (&mut left_done, &mut right_done) {
            _ if ready != [true, true] => Poll::Pending,
            (left, right) => Poll::Ready((
                left.take().expect("the left future is done"),
                right.take().expect("the right future is done"),
            )),
        }
    })
    .await
}

/// Waits for all futures; their outputs are in the same order.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        let mut ready = true;
        for (future, done) in &mut futures {
            ready &= advance(future.as_mut(), done, cx);
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    futures.into_iter().map(|(_, done)| done.expect("every future is done")).collect()
}

/// Polls a future that is not done yet; true once it is.
fn advance<F: Future>(future: Pin<&mut F>, done: &mut Option<F::Output>, cx: &mut Context<'_>) -> bool {
    if done.is_none()
        && let Poll::Ready(output) = future.poll(cx)
    {
        *done = Some(output);
    }
    done.is_some()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time::sleep;
    use crate::{executor, task};

    async fn after(ms: u64) -> u64 {
        sleep(Duration::from_millis(ms)).await;
        ms
    }

    #[test]
    fn everything_is_waited_for() {
        let handle = task::spawn(async {
            assert_eq!(select(after(3), after(2)).await, Either::Right(2));
            assert_eq!(select(async { 1 }, async { 2 }).await, Either::Left(1));
            assert_eq!(join(after(4), after(1)).await, (4, 1));
            assert_eq!(join_all([after(3), after(1), after(2)]).await, [3, 1, 2]);
            assert!(join_all(Vec::<std::future::Ready<()>>::new()).await.is_empty());
        });
        for ms in 0..20 {
            executor::poll(ms * 1_000_000);
        }
        assert!(handle.is_finished());
    }
}
