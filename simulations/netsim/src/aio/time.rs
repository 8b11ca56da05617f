//! The world's time, with the names of `tokio::time`.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
pub use std::time::Duration;

use super::kernel::{current, try_current};
use super::ready::Place;
use crate::engine::Nanos;

/// A time of the world, in whole nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant(Nanos);

/// Returns the time, as [`Instant::now`] does.
///
/// # Panics
/// Panics outside of a task.
#[track_caller]
pub fn now() -> Instant {
    Instant::now()
}

fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

impl Instant {
    /// The world's beginning.
    pub const START: Instant = Instant(0);

    /// Returns the time. It stands still while a task runs.
    ///
    /// # Panics
    /// Panics outside of a task.
    #[track_caller]
    pub fn now() -> Instant {
        Instant(current(|current| current.now))
    }

    /// Returns the time; `None` outside of a task, where values that tasks gave out may be dropped.
    pub fn try_now() -> Option<Instant> {
        try_current(|current| Instant(current.now))
    }

    /// Returns the time since the world began.
    pub fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Returns the time between an earlier instant and this one; 0 if it is a later one.
    pub fn duration_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the time since this instant.
    ///
    /// # Panics
    /// Panics outside of a task.
    #[track_caller]
    pub fn elapsed(self) -> Duration {
        Instant::now().duration_since(self)
    }

    /// Returns the instant this much later, if there is one.
    pub fn checked_add(self, duration: Duration) -> Option<Instant> {
        self.0.checked_add(duration.as_nanos().try_into().ok()?).map(Instant)
    }
}

/// The last instant where it would be later.
impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

/// The world's beginning where it would be earlier.
impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(duration)))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.duration_since(earlier)
    }
}

/// Returns a future that ends at a time.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, set: None }
}

/// Returns a future that ends after a time, to the nanosecond.
///
/// # Panics
/// Panics outside of a task.
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// A future that ends at its deadline.
#[derive(Debug)]
pub struct Sleep {
    deadline: Instant,
    /// The timer's host and number, once it was polled.
    set: Option<(Place, u64)>,
}

impl Sleep {
    /// Returns the time at which it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns true if the deadline has come.
    ///
    /// # Panics
    /// Panics outside of a task.
    #[track_caller]
    pub fn is_elapsed(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Moves the deadline. Whoever waits has to poll again.
    pub fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.cancel();
        self.deadline = deadline;
    }

    fn cancel(&mut self) {
        let Some((place, number)) = self.set.take() else { return };
        let at = self.deadline.0;
        // One of another host fires for nobody.
        try_current(|current| {
            if current.place == place {
                current.cancel_timer(at, number);
            }
        });
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline.0;
        if current(|current| current.now) >= deadline {
            self.cancel();
            return Poll::Ready(());
        }
        let set = self.set.take();
        self.set = Some(current(|current| {
            let number = set.and_then(|(place, number)| (place == current.place).then_some(number));
            (current.place.clone(), current.set_timer(deadline, number, cx.waker()))
        }));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Error of [`timeout`]: the time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for std::io::Error {
    fn from(_: Elapsed) -> std::io::Error {
        std::io::ErrorKind::TimedOut.into()
    }
}

/// Waits for a future until a time. The future is dropped then.
///
/// # Errors
/// Fails if the time came first.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = core::pin::pin!(future);
    let mut sleep = core::pin::pin!(sleep_until(deadline));
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(Elapsed(()))),
    })
    .await
}

/// Waits for a future for at most this long.
///
/// # Errors
/// Fails if the time was over first.
///
/// # Panics
/// Panics outside of a task.
#[track_caller]
pub fn timeout<F: Future>(duration: Duration, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    timeout_at(Instant::now() + duration, future)
}

/// Returns an interval whose first tick is now.
///
/// # Panics
/// Panics outside of a task.
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    interval_at(Instant::now(), period)
}

/// Returns an interval whose first tick is at `start`.
///
/// # Panics
/// Panics for a period of 0.
#[track_caller]
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval needs a period");
    Interval { sleep: sleep_until(start), period }
}

/// Ticks at a fixed distance. Ticks that nobody waited for come at once.
#[derive(Debug)]
pub struct Interval {
    sleep: Sleep,
    period: Duration,
}

impl Interval {
    /// Waits for the next tick, and returns its time.
    pub async fn tick(&mut self) -> Instant {
        std::future::poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// Polls for what [`tick`](Self::tick) waits for.
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        let mut sleep = Pin::new(&mut self.sleep);
        std::task::ready!(sleep.as_mut().poll(cx));
        let at = sleep.deadline();
        sleep.reset(at + self.period);
        Poll::Ready(at)
    }

    /// Returns the distance of ticks.
    pub fn period(&self) -> Duration {
        self.period
    }
}
