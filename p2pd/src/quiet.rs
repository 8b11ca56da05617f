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

    pub(crate) fn last(&self) -> Instant {
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

    #[tokio::test]
    async fn each_sign_of_life_begins_the_silence_anew() {
        let (quiet, begin) = (Quiet::new(), Instant::now());
        let signs = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                quiet.now();
            }
        };
        // The signs are looked at first, however late it is.
        tokio::join!(signs, quiet.over(Duration::from_millis(50)));
        assert!(begin.elapsed() >= Duration::from_millis(3 * 30 + 50), "{:?}", begin.elapsed());
    }
}
