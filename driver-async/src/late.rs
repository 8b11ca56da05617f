//! Measures how late a runtime's dials are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pd_sys::{BindError, Lateness};

use crate::node::Known;
use crate::reactor::Sockets;
use crate::run::{self, Outputs};
use crate::runtime::Runtime;
use crate::session::Sessions;

/// Prints how late the runtime's timer is, and how late dials are by it.
///
/// # Errors
/// As [`Node::bind`](crate::Node::bind).
///
/// # Panics
/// Where half of the dials are 50 ms late.
pub async fn lateness<R: Runtime>(runtime: &str) -> Result<(), BindError> {
    let timer = Lateness::default();
    for _ in 0..100 {
        let at = Instant::now() + Duration::from_micros(5_300);
        R::sleep(at.saturating_duration_since(Instant::now())).await;
        timer.push(at.elapsed());
    }
    println!("the timer of {runtime} itself: {timer}");
    for (dials, gap, rounds) in Lateness::CASES {
        let late = Lateness::default();
        for _ in 0..rounds {
            fire::<R>(&late, dials, gap).await?;
        }
        late.judge(runtime, dials, gap);
    }
    Ok(())
}

async fn fire<R: Runtime>(late: &Lateness, dials: u32, gap: Duration) -> Result<(), BindError> {
    let before = late.count();
    let engine = late.engine(dials, gap, Sockets::<R>::new())?;
    let (commands, queue) = async_channel::unbounded();
    let out = Outputs {
        accept: async_channel::bounded(1).0,
        turned_away: Arc::default(),
        events: async_broadcast::broadcast(16).0,
        address: Arc::new(Known::new(engine.address().clone())),
        echo: false,
        sessions: Sessions::new(Default::default(), Arc::default()),
    };
    R::spawn(run::run(engine, queue, out));
    while late.count() < before + dials as usize {
        R::sleep(Duration::from_millis(20)).await;
    }
    drop(commands);
    Ok(())
}
