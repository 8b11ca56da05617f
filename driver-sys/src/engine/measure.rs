//! Measures the lateness of a driver's dials: makes dials that no core asked for, and has the engine note when it made
//! them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2pd_core::{Config, Output, SecretKey, SockId, SockOpts};

use super::{Engine, Reactor};
use crate::BindError;

/// Lateness of each dial.
#[derive(Clone, Debug, Default)]
pub struct Lateness(Arc<Mutex<Vec<Duration>>>);

impl Lateness {
    /// Cases that every driver measures: dials armed, time between two of them, and number of runs.
    pub const CASES: [(u32, Duration, usize); 4] = [
        (1, Duration::ZERO, 50),
        (64, Duration::from_millis(1), 4),
        (512, Duration::from_millis(1), 1),
        (512, Duration::ZERO, 1),
    ];

    /// Creates a node on loopback with so many dials armed, to a port where nobody listens. The first is in 60 ms, each
    /// other `gap` after the one before.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn engine<R: Reactor>(&self, dials: u32, gap: Duration, reactor: R) -> Result<Engine<R>, BindError> {
        let mut config = Config::new(SecretKey::from_bytes(crate::random_seed().map_err(BindError::Random)?));
        config.bind = Some(Ipv4Addr::LOCALHOST.into());
        let interfaces = crate::interfaces(config.bind, &config.interfaces).map_err(BindError::Interfaces)?;
        let mut engine = Engine::new(config, None, &interfaces, reactor)?;
        engine.lateness = Some(self.0.clone());
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let first = engine.clock.now() + Duration::from_millis(60);
        for n in 0..dials {
            let (sock, at) = (SockId::accepted((1 << 62) + u64::from(n)), first + gap * n);
            let deadline = at + Duration::from_secs(5);
            let opts = SockOpts::default();
            engine.act(Output::Connect { sock, local, remote, opts, at, deadline, wrap: None });
        }
        Ok(engine)
    }

    /// Returns the number of dials made.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Median and 99 %.
    pub fn quantiles(&self) -> (Duration, Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort();
        let at = |percent: usize| all.get(all.len() * percent / 100).copied().unwrap_or_default();
        (at(50), at(99))
    }

    /// Prints the figures of a case. A busy machine may be much later than they are.
    ///
    /// # Panics
    /// Where half of the dials are 50 ms late.
    pub fn judge(&self, driver: &str, dials: u32, gap: Duration) {
        println!("{driver}, {dials} armed, {gap:?} apart: {self}");
        assert!(self.quantiles().0 < Duration::from_millis(50), "{self}");
    }

    /// Notes the lateness of one.
    pub fn push(&self, late: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    }
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (half, most) = self.quantiles();
        write!(f, "median {half:?}, 99 % {most:?}")
    }
}
