//! Time since something last happened, which several tasks look at.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Time of the last sign of life.
#[derive(Debug)]
pub(crate) struct Quiet(Mutex<Instant>);

impl Quiet {
    /// Begins with a sign of life.
    pub(crate) fn new() -> Self {
        Quiet(Mutex::new(Instant::now()))
    }

    /// Notes a sign of life.
    pub(crate) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how long the silence is by now.
    pub(crate) fn lasts(&self) -> Duration {
        self.last().elapsed()
    }

    /// Waits until the silence is that long.
    pub(crate) async fn over(&self, longest: Duration) {
        while self.lasts() < longest {
            sleep_until(self.last() + longest).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_sign_of_life_begins_the_silence_anew() {
        let (quiet, begin) = (Quiet::new(), Instant::now());
        let signs = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                quiet.now();
            }
        };
        tokio::join!(quiet.over(Duration::from_secs(10)), signs);
        assert_eq!(begin.elapsed().as_secs(), 34);
    }
}
