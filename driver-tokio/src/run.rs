//! The task that owns the engine: waits for its sockets, its timer and the handles, and reports the results to users.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2pd_core::nat::NatReport;
use p2pd_core::{
    Allocate, AllocateError, ConnectId, Login, Name, NameError, NamePin, NodeId, Notice, PeerAddress, PipeId,
    Plan, ServerRef, Stats, Target,
};
use p2pd_sys::{Address, Calls, Engine, NameAnswer, NameCall, NameCalls, News};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::ConnectError;
use crate::messages::Allocation;
use crate::pipe::Pipe;
use crate::reactor::{Answer, Tokio};

/// Sockets served before handles and the timer are looked at again.
const BUDGET: usize = 64;

/// Request of a handle to the driver's task.
#[derive(Debug)]
pub(crate) enum Command {
    Connect {
        token: u64,
        to: Box<Target>,
        plan: Plan,
        begun: oneshot::Sender<Result<ConnectId, p2pd_core::ConnectError>>,
        done: oneshot::Sender<Result<Pipe, ConnectError>>,
    },
    Cancel {
        token: u64,
    },
    Name {
        name: Name,
        call: NameCall,
        done: oneshot::Sender<Result<NameAnswer, NameError>>,
    },
    PinName(NamePin),
    Answer {
        peer: NodeId,
        accept: bool,
    },
    Busy(bool),
    RenewLogin {
        server: ServerRef,
        login: Option<Login>,
    },
    Ping {
        to: Box<PeerAddress>,
        number: u32,
        done: oneshot::Sender<Result<u8, p2pd_core::ConnectError>>,
    },
    Allocate {
        wish: Allocate,
        done: oneshot::Sender<Result<Allocation, AllocateError>>,
    },
    /// Whoever waited for a relayed address may have given up.
    SweepAllocations,
    Nats(oneshot::Sender<Vec<NatReport>>),
    Stats(oneshot::Sender<Stats>),
    Shutdown(oneshot::Sender<()>),
}

/// Receivers of the driver's results.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) accept: mpsc::Sender<Pipe>,
    /// Pipes closed because nobody accepted them.
    pub(crate) turned_away: Arc<AtomicU64>,
    pub(crate) notices: broadcast::Sender<Notice>,
    pub(crate) address: watch::Sender<Address>,
    pub(crate) echo: bool,
}

#[derive(Debug)]
struct Driver {
    engine: Engine<Tokio>,
    calls: Calls<oneshot::Sender<Result<Pipe, ConnectError>>>,
    names: NameCalls<oneshot::Sender<Result<NameAnswer, NameError>>>,
    allocations: HashMap<PipeId, oneshot::Sender<Result<Allocation, AllocateError>>>,
    out: Outputs,
    /// Tasks that wait for the end.
    ends: Vec<oneshot::Sender<()>>,
}

pub(crate) async fn run(
    engine: Engine<Tokio>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut answers: mpsc::UnboundedReceiver<Answer>,
    out: Outputs,
) {
    let ready = engine.reactor().ready.clone();
    let (calls, names, allocations) = (Calls::default(), NameCalls::default(), HashMap::new());
    let mut driver = Driver { engine, calls, names, allocations, out, ends: Vec::new() };
    let timer = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(timer);
    let mut handles = true;
    loop {
        driver.tell();
        if driver.engine.is_over() {
            break;
        }
        let timeout = driver.engine.timeout();
        // Too near for the timer, which comes a millisecond after a time that has passed already.
        let near = driver.engine.is_firing() || timeout == Some(Duration::ZERO);
        if let Some(left) = timeout.filter(|_| !near) {
            timer.as_mut().reset(tokio::time::Instant::now() + left);
        }
        tokio::select! {
            command = commands.recv(), if handles => match command {
                Some(command) => driver.command(command),
                // The last handle is gone.
                None => {
                    handles = false;
                    driver.engine.shutdown();
                }
            },
            first = poll_fn(|cx| ready.poll_next(cx)) => {
                driver.engine.ready(first);
                for sock in std::iter::from_fn(|| ready.try_next()).take(BUDGET) {
                    driver.engine.ready(sock);
                }
            }
            Some((query, result)) = answers.recv() => driver.engine.resolved(query, result),
            () = tokio::task::yield_now(), if near => {}
            () = &mut timer, if timeout.is_some() && !near => {}
        }
        driver.engine.tick();
    }
    let ends = driver.ends;
    drop((driver.engine, driver.out));
    for done in ends {
        let _ = done.send(());
    }
}

impl Driver {
    fn command(&mut self, command: Command) {
        match command {
            Command::Connect { token, to, plan, begun, done } => {
                let id = self.calls.begin(&mut self.engine, (&to, plan), token, done);
                if begun.send(id).is_err() {
                    // Given up before it was told: the canceller's word may have come first.
                    self.calls.cancel(&mut self.engine, token);
                }
            }
            Command::Cancel { token } => self.calls.cancel(&mut self.engine, token),
            Command::Name { name, call, done } => {
                if let Err((why, done)) = self.names.begin(&mut self.engine, (name, call), done) {
                    let _ = done.send(Err(why));
                }
            }
            Command::PinName(pin) => self.engine.pin_name(pin),
            Command::Answer { peer, accept } => self.engine.answer(peer, accept),
            Command::Busy(busy) => self.engine.set_busy(busy),
            Command::RenewLogin { server, login } => self.engine.renew_login(server, login),
            Command::Ping { to, number, done } => drop(done.send(self.engine.ping(&to, number))),
            Command::Allocate { wish, done } => match self.engine.allocate(&wish) {
                Ok(id) => drop(self.allocations.insert(id, done)),
                Err(why) => drop(done.send(Err(why))),
            },
            Command::SweepAllocations => {
                let given_up: Vec<PipeId> =
                    self.allocations.iter().filter(|(_, done)| done.is_closed()).map(|(id, _)| *id).collect();
                for id in given_up {
                    self.allocations.remove(&id);
                    self.engine.cancel_allocate(id);
                }
            }
            Command::Nats(reply) => {
                let _ = reply.send(self.engine.node().nats().cloned().collect());
            }
            Command::Stats(reply) => {
                let _ = reply.send(self.engine.node().stats());
            }
            Command::Shutdown(done) => {
                self.ends.push(done);
                self.engine.shutdown();
            }
        }
    }

    /// Passes the engine's news on.
    fn tell(&mut self) {
        while let Some(news) = self.engine.take_news() {
            match news {
                News::Notice(notice) => {
                    if let Notice::Name { name, news } = &notice {
                        for (done, outcome) in self.names.told(*name, news) {
                            let _ = done.send(outcome);
                        }
                    }
                    if matches!(notice, Notice::Listening { .. } | Notice::Ready { .. }) {
                        self.out.address.send_replace(self.engine.address().clone());
                    }
                    let _ = self.out.notices.send(notice);
                }
                News::Allocated(id, stream, layer) => {
                    let allocation = Allocation::new(stream, *layer);
                    let failed = |e: std::io::Error| AllocateError::Failed(e.to_string().into());
                    self.allocated(id, allocation.map_err(failed));
                }
                News::NotAllocated(id, why) => self.allocated(id, Err(why)),
                News::NotOpened(connect, why) => self.answer(connect, Err(why)),
                News::Opened(connect, stream, start) => {
                    self.answer(connect, Ok(Pipe::new(stream.io, *start, false)));
                }
                News::Incoming(stream, start) => {
                    let pipe = Pipe::new(stream.io, *start, self.out.echo);
                    if let Err(TrySendError::Full(_)) = self.out.accept.try_send(pipe) {
                        self.out.turned_away.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Ends a wish. Whoever has given up meanwhile drops the allocation, which gives it up.
    fn allocated(&mut self, id: PipeId, outcome: Result<Allocation, AllocateError>) {
        if let Some(done) = self.allocations.remove(&id) {
            let _ = done.send(outcome);
        }
    }

    /// Ends a call. A caller that has given up meanwhile drops the pipe, which closes it.
    fn answer(&mut self, connect: ConnectId, outcome: Result<Pipe, ConnectError>) {
        if let Some(done) = self.calls.end(connect) {
            let _ = done.send(outcome);
        }
    }
}

/// `cargo test --release -p p2pd-tokio late -- --nocapture` prints the figures.
#[cfg(test)]
mod tests {
    use super::*;
    use p2pd_sys::Lateness;
    use std::time::Instant;

    async fn fire(late: &Lateness, dials: u32, gap: Duration) {
        let (answer, answers) = mpsc::unbounded_channel();
        let before = late.count();
        let engine = late.engine(dials, gap, Tokio::new(answer)).unwrap();
        let (commands, queue) = mpsc::unbounded_channel();
        let out = Outputs {
            accept: mpsc::channel(1).0,
            turned_away: Arc::default(),
            notices: broadcast::channel(16).0,
            address: watch::channel(engine.address().clone()).0,
            echo: false,
        };
        tokio::spawn(run(engine, queue, answers, out));
        while late.count() < before + dials as usize {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(commands);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn armed_dials_are_little_late() {
        let timer = Lateness::default();
        for _ in 0..100 {
            let at = Instant::now() + Duration::from_micros(5_300);
            tokio::time::sleep_until(at.into()).await;
            timer.push(at.elapsed());
        }
        println!("tokio's own timer: {timer}");
        for (dials, gap, rounds) in Lateness::CASES {
            let late = Lateness::default();
            for _ in 0..rounds {
                fire(&late, dials, gap).await;
            }
            late.judge("tokio", dials, gap);
        }
    }
}
