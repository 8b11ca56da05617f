//! The task that owns the engine: waits for its sockets, its timer and the handles, and reports the results to users.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_channel::{Receiver, Sender, TrySendError};
use futures_core::Stream;
use p2pd_core::nat::NatReport;
use p2pd_core::{
    Allocate, AllocateError, Code, ConnectId, Event, Login, MeetingError, MeetingId, MeetingNews, Name,
    NameError, NamePin, NodeId, PeerAddress, PipeId, Plan, ProtocolTag, ServerRef, Stats, Target,
};
use p2pd_sys::{Calls, ConnectError, Engine, NameAnswer, NameCall, NameCalls, News};

use crate::allocation::Allocation;
use crate::node::Known;
use crate::peer::Pipe;
use crate::reactor::Sockets;
use crate::runtime::Runtime;
use crate::session::Sessions;

/// Sockets served before handles and the timer are looked at again.
const BUDGET: usize = 64;

/// Outcome of a call.
pub(crate) type Called<R> = Result<Pipe<R>, ConnectError>;

/// Request of a handle to the driver's task. A sender takes the one answer.
#[derive(Debug)]
pub(crate) enum Command<R: Runtime> {
    Connect {
        token: u64,
        to: Box<Target>,
        plan: Plan,
        begun: Sender<Result<ConnectId, p2pd_core::ConnectError>>,
        done: Sender<Called<R>>,
    },
    Cancel {
        token: u64,
    },
    Name {
        name: Name,
        call: NameCall,
        done: Sender<Result<NameAnswer, NameError>>,
    },
    PinName(NamePin),
    Meet {
        code: Option<Code>,
        purpose: ProtocolTag,
        within: Duration,
        news: Sender<MeetingNews>,
        done: Sender<Result<MeetingId, MeetingError>>,
    },
    EndMeeting(MeetingId),
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
        done: Sender<Result<u8, p2pd_core::ConnectError>>,
    },
    Allocate {
        wish: Allocate,
        done: Sender<Result<Allocation<R>, AllocateError>>,
    },
    /// Ends the requests for relayed addresses for which nobody waits any more.
    SweepAllocations,
    Nats(Sender<Vec<NatReport>>),
    Stats(Sender<Stats>),
    Shutdown(Sender<()>),
}

/// Receivers of the driver's results.
#[derive(Debug)]
pub(crate) struct Outputs<R: Runtime> {
    pub(crate) accept: Sender<R::Pipe>,
    /// Pipes closed because nobody accepted them.
    pub(crate) turned_away: Arc<AtomicU64>,
    pub(crate) events: async_broadcast::Sender<Event>,
    pub(crate) address: Arc<Known>,
    pub(crate) echo: bool,
    pub(crate) sessions: Arc<Sessions<R>>,
}

struct Driver<R: Runtime> {
    engine: Engine<Sockets<R>>,
    calls: Calls<Sender<Called<R>>>,
    names: NameCalls<Sender<Result<NameAnswer, NameError>>>,
    allocations: HashMap<PipeId, Sender<Result<Allocation<R>, AllocateError>>>,
    /// Receivers of the news of meetings.
    meetings: HashMap<MeetingId, Sender<MeetingNews>>,
    out: Outputs<R>,
    /// Tasks that wait for the end.
    ends: Vec<Sender<()>>,
}

pub(crate) async fn run<R: Runtime>(
    engine: Engine<Sockets<R>>,
    commands: Receiver<Command<R>>,
    out: Outputs<R>,
) {
    let ready = engine.reactor().ready.clone();
    let (calls, names) = (Calls::default(), NameCalls::default());
    let (allocations, meetings) = (HashMap::new(), HashMap::new());
    let mut driver = Driver { engine, calls, names, allocations, meetings, out, ends: Vec::new() };
    let (address, sessions) = (driver.out.address.clone(), driver.out.sessions.clone());
    let over = Over { commands: commands.clone(), address, sessions };
    let mut commands = pin!(commands);
    let mut timer = R::timer();
    let mut handles = true;
    loop {
        driver.tell();
        if driver.engine.is_over() {
            break;
        }
        let timeout = driver.engine.timeout();
        // Too near for the timer, which may be late: others get their turn, and no more.
        let near = driver.engine.is_firing() || timeout == Some(Duration::ZERO);
        if let Some(left) = timeout.filter(|_| !near) {
            R::set_timer(&mut timer, left);
        }
        let mut turn = pin!(near.then(R::yield_now));
        let woken = poll_fn(|cx| {
            let command = if handles { commands.as_mut().poll_next(cx) } else { Poll::Pending };
            let (sock, found) = (ready.poll_next(cx), driver.engine.reactor_mut().poll_answer(cx));
            if command.is_ready() || sock.is_ready() || found.is_ready() {
                return Poll::Ready((command, sock, found));
            }
            let time = match turn.as_mut().as_pin_mut() {
                Some(turn) => turn.poll(cx),
                None if timeout.is_some() => R::poll_timer(&mut timer, cx),
                None => Poll::Pending,
            };
            time.map(|()| (command, sock, found))
        });
        let (command, sock, found) = woken.await;
        match command {
            Poll::Ready(Some(command)) => driver.command(command),
            // The last handle is gone.
            Poll::Ready(None) => {
                handles = false;
                driver.engine.shutdown();
            }
            Poll::Pending => {}
        }
        if let Poll::Ready(first) = sock {
            driver.engine.ready(first);
            for sock in std::iter::from_fn(|| ready.try_next()).take(BUDGET) {
                driver.engine.ready(sock);
            }
        }
        if let Poll::Ready((query, result)) = found {
            driver.engine.resolved(query, result);
        }
        driver.engine.tick();
    }
    let ends = driver.ends;
    drop((driver.engine, driver.out, over));
    for done in ends {
        reply(&done, ());
    }
}

/// Says, also if the task panics, that nobody answers any more.
struct Over<R: Runtime> {
    commands: Receiver<Command<R>>,
    address: Arc<Known>,
    sessions: Arc<Sessions<R>>,
}

impl<R: Runtime> Drop for Over<R> {
    fn drop(&mut self) {
        // The channel would keep the questions that are in it.
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        self.address.end();
        self.sessions.end();
    }
}

/// Answers. Whoever has given up waiting drops the answer, which gives up what is in it.
fn reply<T>(done: &Sender<T>, answer: T) {
    let _ = done.try_send(answer);
}

impl<R: Runtime> Driver<R> {
    fn command(&mut self, command: Command<R>) {
        match command {
            Command::Connect { token, to, plan, begun, done } => {
                let id = self.calls.begin(&mut self.engine, (&to, plan), token, done);
                if begun.try_send(id).is_err() {
                    // Given up before it was told: the canceller's word may have come first.
                    self.calls.cancel(&mut self.engine, token);
                }
            }
            Command::Cancel { token } => self.calls.cancel(&mut self.engine, token),
            Command::Name { name, call, done } => {
                if let Err((why, done)) = self.names.begin(&mut self.engine, (name, call), done) {
                    reply(&done, Err(why));
                }
            }
            Command::PinName(pin) => self.engine.pin_name(pin),
            Command::Meet { code, purpose, within, news, done } => {
                let begun = self.engine.meet(code, purpose, within);
                if let Ok(id) = begun {
                    self.meetings.insert(id, news);
                }
                reply(&done, begun);
            }
            Command::EndMeeting(id) => {
                self.meetings.remove(&id);
                self.engine.end_meeting(id);
            }
            Command::Answer { peer, accept } => self.engine.answer(peer, accept),
            Command::Busy(busy) => self.engine.set_busy(busy),
            Command::RenewLogin { server, login } => self.engine.renew_login(server, login),
            Command::Ping { to, number, done } => reply(&done, self.engine.ping(&to, number)),
            Command::Allocate { wish, done } => match self.engine.allocate(&wish) {
                Ok(id) => drop(self.allocations.insert(id, done)),
                Err(why) => reply(&done, Err(why)),
            },
            Command::SweepAllocations => {
                for (id, _) in self.allocations.extract_if(|_, done| done.is_closed()) {
                    self.engine.cancel_allocate(id);
                }
            }
            Command::Nats(done) => reply(&done, self.engine.node().nats().cloned().collect()),
            Command::Stats(done) => reply(&done, self.engine.node().stats()),
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
                News::Event(event) => {
                    if let Event::Name { name, news } = &event {
                        for (done, outcome) in self.names.told(*name, news) {
                            reply(&done, outcome);
                        }
                    }
                    if let Event::Meeting { meeting, news } = &event {
                        self.met(*meeting, news);
                    }
                    if matches!(event, Event::Listening { .. } | Event::Ready { .. }) {
                        self.out.address.set(self.engine.address().clone());
                    }
                    let _ = self.out.events.try_broadcast(event);
                }
                News::Allocated(id, stream, layer) => {
                    let allocation = Allocation::new(stream, *layer);
                    let failed = |e: io::Error| AllocateError::Failed(e.to_string().into());
                    self.allocated(id, allocation.map_err(failed));
                }
                News::NotAllocated(id, why) => self.allocated(id, Err(why)),
                News::NotOpened(connect, why) => self.called(connect, Err(why)),
                News::Opened(connect, stream, start) => {
                    self.called(connect, Ok(Pipe::new(stream.io, *start, false)));
                }
                News::Incoming(stream, start) => {
                    if start.is_carrier() {
                        self.out.sessions.greet(Pipe::new(stream.io, *start, false));
                        continue;
                    }
                    let pipe = Pipe::new(stream.io, *start, self.out.echo);
                    if let Err(TrySendError::Full(_)) = self.out.accept.try_send(pipe.into()) {
                        self.out.turned_away.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Passes the news of a meeting on, and ends one for which nobody waits any more.
    fn met(&mut self, id: MeetingId, news: &MeetingNews) {
        let Some(told) = self.meetings.get(&id) else { return };
        let gone = told.try_send(news.clone()).is_err();
        let over = matches!(news, MeetingNews::Done | MeetingNews::Unconfirmed | MeetingNews::Failed(_));
        if gone {
            self.engine.end_meeting(id);
        }
        if gone || over {
            self.meetings.remove(&id);
        }
    }

    /// Ends a wish.
    fn allocated(&mut self, id: PipeId, outcome: Result<Allocation<R>, AllocateError>) {
        if let Some(done) = self.allocations.remove(&id) {
            reply(&done, outcome);
        }
    }

    /// Ends a call.
    fn called(&mut self, connect: ConnectId, outcome: Called<R>) {
        if let Some(done) = self.calls.end(connect) {
            reply(&done, outcome);
        }
    }
}
