//! The guest's clock: sleeping, timeouts, and what time it is.
//!
//! Time stands still during a poll: two calls give the same answer until the task has awaited something. The clock
//! starts at the guest's first poll and goes on across a migration; `std::time` is not available to a guest.

use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use roam_abi::CLOCK_REALTIME;

use crate::timers::{self, TimerKey};
use crate::{future, sys};

/// A point on the guest's clock, in nanoseconds since its first poll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(i64);

impl Instant {
    /// The time of this poll.
    pub fn now() -> Self {
        Self(timers::now_ns())
    }

    /// How long ago that was; zero for the future.
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    /// Time since the guest's first poll.
    pub fn since_start(self) -> Duration {
        self - Self(0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at the end of the clock, 292 years on.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Zero where `earlier` is not earlier.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Wall-clock time since 1970-01-01 00:00 UTC, as far as the host knows it.
pub fn system_time() -> Duration {
    Duration::from_nanos(u64::try_from(sys::clock(CLOCK_REALTIME)).unwrap_or(0))
}

/// Waits for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// Waits until the clock has reached `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None }
}

/// Waits for `future`, but no longer than `duration`; what is too late is dropped.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    match future::select(pin!(future), sleep(duration)).await {
        future::Either::Left(output) => Ok(output),
        future::Either::Right(()) => Err(Elapsed),
    }
}

/// The time of a [`timeout`] was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// See [`sleep`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    deadline: Instant,
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        match self.timer {
            Some(key) => timers::update(key, cx.waker()),
            None => self.timer = Some(timers::set(self.deadline.0, cx.waker())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer {
            timers::cancel(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use roam_abi::NO_DEADLINE;

    use super::*;
    use crate::{executor, task};

    #[test]
    fn sleepers_wake_in_order_and_on_time() {
        let woken: Rc<RefCell<Vec<u64>>> = Rc::default();
        for ms in [30, 10, 20] {
            let woken = woken.clone();
            task::spawn(async move {
                sleep(Duration::from_millis(ms)).await;
                woken.borrow_mut().push(ms);
            });
        }
        assert_eq!(executor::poll(0), 10_000_000);
        assert_eq!(executor::poll(9_999_999), 10_000_000);
        assert_eq!(executor::poll(10_000_000), 20_000_000);
        assert_eq!(executor::poll(40_000_000), NO_DEADLINE);
        assert_eq!(*woken.borrow(), [10, 20, 30]);
    }

    #[test]
    fn a_timeout_that_was_not_needed_leaves_no_timer() {
        task::spawn(async {
            assert_eq!(timeout(Duration::from_secs(60), async { 3 }).await, Ok(3));
            let late = timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
            assert_eq!(late, Err(Elapsed));
            let soon = timeout(Duration::from_secs(60), sleep(Duration::from_millis(1))).await;
            assert_eq!(soon, Ok(()));
        });
        assert_eq!(executor::poll(0), 1_000_000);
        assert_eq!(executor::poll(1_000_000), 2_000_000);
        assert_eq!(executor::poll(2_000_000), NO_DEADLINE);
    }

    #[test]
    fn a_sleep_too_long_for_the_clock_never_ends() {
        task::spawn(sleep(Duration::MAX));
        assert_eq!(executor::poll(1), i64::MAX);
    }
}
