//! `p2pd listen` and `p2pd connect`: a pipe between standard input and output, as netcat has it.

mod callers;
mod each;
mod gather;
mod messages;
mod programs;
mod stdio;
mod waiting;

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::{Plan, Strategy, Target};
use p2pd_tokio::{ConnectError, Node, Pipe, RecvStream, SendStream, Session};
use serde_json::json;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use crate::forward;
use crate::metrics::{Metrics, Way};
use crate::say::Say;
pub(crate) use callers::sessions;
use callers::{Caller, Callers, Open, Streamed, TAG};
use each::Pace;
pub(crate) use gather::Gather;
pub(crate) use messages::Wanted;
use messages::{Receiving, Sending};
pub(crate) use programs::serve as programs;
pub(crate) use stdio::Input;
use stdio::{CHUNK, Output};
use waiting::Waiting;
pub(crate) use waiting::{MOST, Turns, place};

/// Prefix of the connection's errors.
pub(crate) const PIPE: &str = "the pipe broke";
/// Longest wait for the peer to take the rest, once its outcome does not matter here.
const FAREWELL: Duration = Duration::from_secs(5);
/// Time for which a caller may send nothing from the start while others wait.
const MUTE: Duration = Duration::from_secs(10);

/// Standard input and output, which callers have one after another.
#[derive(Debug)]
pub(crate) struct Stdio {
    input: Input,
    output: Output,
    /// Lines are messages.
    messages: Option<Wanted>,
    pace: Pace,
}

impl Stdio {
    pub(crate) fn open(messages: Option<Wanted>) -> io::Result<Self> {
        let output = Output::start().map_err(|why| named("standard output", &why))?;
        Ok(Stdio { input: Input::default(), output, messages, pace: Pace::new() })
    }
}

/// Role of this end in a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    /// The listener may be at a terminal, where nobody may ever end the input, so the peer's end is the end.
    Listener,
    /// The caller has something to say, and ends its sending after it.
    Caller,
}

/// Counter of bytes, by what carries them.
#[derive(Debug)]
pub(crate) struct Counted {
    metrics: Arc<Metrics>,
    carrier: Carrier,
}

#[derive(Debug)]
enum Carrier {
    /// Strategy that the pipe was opened by.
    Pipe(Strategy),
    /// Session, whose connections may follow one another.
    Session(Session),
}

impl Counted {
    pub(crate) fn of_pipe(pipe: &Pipe, metrics: Arc<Metrics>) -> Self {
        Counted { metrics, carrier: Carrier::Pipe(pipe.strategy()) }
    }

    pub(crate) fn of_session(session: &Session, metrics: Arc<Metrics>) -> Self {
        Counted { metrics, carrier: Carrier::Session(session.clone()) }
    }

    pub(crate) fn add(&self, way: Way, bytes: usize) {
        let over = match &self.carrier {
            Carrier::Pipe(strategy) => Some(*strategy),
            Carrier::Session(session) => session.carrier().map(|carrier| carrier.strategy()),
        };
        if let Some(over) = over {
            self.metrics.count(way, over, bytes as u64);
        }
    }
}

/// Activity on a pipe, in either direction.
#[derive(Debug)]
struct Activity {
    last: Cell<Instant>,
    any: Cell<bool>,
    counted: Counted,
}

impl Activity {
    fn new(counted: Counted) -> Self {
        Activity { last: Cell::new(Instant::now()), any: Cell::new(false), counted }
    }

    fn now(&self, way: Way, bytes: usize) {
        self.last.set(Instant::now());
        self.any.set(true);
        self.counted.add(way, bytes);
    }

    /// Returns the time at which the silence becomes too long.
    fn until(&self, idle: Duration) -> Instant {
        self.last.get() + if self.any.get() { idle } else { idle.min(MUTE) }
    }
}

/// The peer's half of a pipe.
enum Theirs {
    Bytes(Gather<ReadHalf<Pipe>>),
    Stream(Gather<RecvStream>),
    Messages(Receiving),
}

impl Theirs {
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Theirs::Bytes(from) => from.read(into).await,
            Theirs::Stream(from) => from.read(into).await,
            Theirs::Messages(from) => from.read(into).await,
        }
    }
}

/// Half of a pipe that we write.
enum Ours {
    Bytes(WriteHalf<Pipe>),
    /// With what says that it is open, of a stream that the peer opened.
    Stream(SendStream, #[expect(dead_code, reason = "it is dropped with the stream")] Option<Open>),
    Messages(Sending),
}

impl Ours {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Ours::Bytes(to) => to.write_all(bytes).await,
            Ours::Stream(to, _) => to.write_all(bytes).await,
            Ours::Messages(to) => to.write_all(bytes).await,
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            Ours::Bytes(to) => to.flush().await,
            Ours::Stream(to, _) => to.flush().await,
            Ours::Messages(to) => to.flush().await,
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Ours::Bytes(to) => to.shutdown().await,
            Ours::Stream(to, _) => to.shutdown().await,
            Ours::Messages(to) => to.shutdown().await,
        }
    }
}

/// Handles one pipe to its end.
///
/// # Errors
/// Says which side broke.
pub(crate) async fn caller(
    pipe: Pipe,
    messages: Option<Wanted>,
    metrics: Arc<Metrics>,
    say: Say,
) -> io::Result<()> {
    let mut stdio = Stdio::open(messages)?;
    let activity = Activity::new(Counted::of_pipe(&pipe, metrics));
    talk(Caller::Pipe(pipe), &mut stdio, Side::Caller, &activity, say).await
}

/// Handles one stream of a session to its end, as the end that called.
///
/// # Errors
/// Says which side broke.
pub(crate) async fn on_stream(
    (send, recv): (SendStream, RecvStream),
    counted: Counted,
    say: Say,
) -> io::Result<()> {
    let Stdio { mut input, mut output, .. } = Stdio::open(None)?;
    let halves = (Theirs::Stream(Gather::new(recv)), Ours::Stream(send, None));
    converse(halves, (&mut input, &mut output), Side::Caller, &Activity::new(counted), say).await
}

/// Opens a session, and talks on a stream of it to its end. All that was sent has arrived then.
///
/// # Errors
/// The call's, or says which side broke.
pub(crate) async fn stream(
    node: &Node,
    (to, plan): (&Target, Plan),
    metrics: Arc<Metrics>,
    say: Say,
) -> Result<io::Result<()>, ConnectError> {
    let session = node.connect_session_with(to, plan).await?;
    if let Some(carrier) = session.carrier() {
        say.opened("connected", &carrier);
    }
    let following = tokio::spawn(forward::follow(session.clone(), metrics.clone(), say));
    let broke = |why| named(PIPE, &io::Error::from(why));
    let talked = async {
        let stream = session.open_bi(TAG).await.map_err(broke)?;
        on_stream(stream, Counted::of_session(&session, metrics), say).await?;
        session.delivered().await.map_err(broke)
    };
    let talked = talked.await;
    following.abort();
    forward::close(&session).await;
    Ok(talked)
}

/// Sends every byte of every caller back, until the node ends.
pub(crate) async fn echo(node: &Node, metrics: &Arc<Metrics>, say: Say) {
    let mut callers = Callers::new(node, metrics, say);
    while let Some(caller) = callers.next().await {
        // Further streams cost next to nothing, and a line each would fill a log.
        let quiet = caller.is_further();
        if !quiet {
            say.opened("incoming", &caller.info());
        }
        let counted = caller.counted(metrics.clone());
        tokio::spawn(async move {
            let (mut from, mut to) = split(caller);
            if let Err(why) = copy(&mut from, &mut to, &counted).await
                && !quiet
            {
                say.error(&named(PIPE, &why).to_string());
            }
        });
    }
}

async fn copy(from: &mut Theirs, to: &mut Ours, counted: &Counted) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            n => {
                counted.add(Way::Received, n);
                to.write_all(&buffer[..n]).await?;
                counted.add(Way::Sent, n);
            }
        }
        to.flush().await?;
    }
}

/// Serves callers one after another. While others wait, one that is silent for `idle` makes room. One whose messages a
/// program answers makes room after `idle` anyway, since to go on costs it nothing.
pub(crate) async fn listener(
    node: &Node,
    idle: Duration,
    messages: Option<Wanted>,
    metrics: Arc<Metrics>,
    say: Say,
) -> io::Result<()> {
    let has_end = messages.as_ref().is_some_and(|wanted| !wanted.each.is_empty());
    let mut stdio = Stdio::open(messages)?;
    let mut waiting = Waiting::default();
    let mut callers = Callers::new(node, &metrics, say);
    loop {
        let caller = match waiting.next() {
            Some(caller) => caller,
            None => match callers.next().await {
                Some(caller) => caller,
                None => return Ok(()),
            },
        };
        // Whoever comes from now on is told that it waits.
        node.set_busy(true);
        say.opened("incoming", &caller.info());
        let peer = caller.peer();
        let (activity, mut told) = (Activity::new(caller.counted(metrics.clone())), false);
        // The time since which others wait for the turn's end.
        let mut since = (!waiting.is_empty()).then(Instant::now);
        let mut talking = Box::pin(talk(caller, &mut stdio, Side::Listener, &activity, say));
        let ended = loop {
            let over = since.filter(|_| has_end).map(|since| since + idle);
            let until = activity.until(idle);
            let until = over.map_or(until, |over| over.min(until));
            tokio::select! {
                ended = &mut talking => break ended,
                () = sleep_until(until), if since.is_some() => {
                    let now = Instant::now();
                    if activity.until(idle) <= now {
                        let silent = activity.last.get().elapsed().as_secs();
                        say.line(
                            || json!({"event": "idle", "peer": peer.to_string(), "seconds": silent}),
                            || format!("{peer} was silent for {silent} s, and makes room for the next caller"),
                        );
                        break Ok(());
                    }
                    if over.is_some_and(|over| over <= now) {
                        let seconds = idle.as_secs();
                        say.line(
                            || json!({"event": "turn_over", "peer": peer.to_string(), "seconds": seconds}),
                            || format!("others wait for {seconds} s, so {peer} makes room for the next caller"),
                        );
                        break Ok(());
                    }
                }
                caller = callers.next() => match caller {
                    Some(caller) => {
                        if !std::mem::replace(&mut told, true) {
                            let (peer, at) = (caller.peer(), caller.remote_addr());
                            say.line(
                                || json!({"event": "waiting", "peer": peer.to_string(), "remote": at.to_string()}),
                                || format!("waiting: {peer} at {at}"),
                            );
                        }
                        waiting.push(caller);
                        since = since.or_else(|| (!waiting.is_empty()).then(Instant::now));
                    }
                    None => break talking.await,
                },
            }
        };
        if let Err(why) = ended {
            say.error(&why.to_string());
        }
        if waiting.is_empty() {
            node.set_busy(false);
        }
    }
}

/// Returns a caller's bytes, both ways.
fn split(caller: Caller) -> (Theirs, Ours) {
    match caller {
        Caller::Pipe(pipe) => {
            let (from, to) = tokio::io::split(pipe);
            (Theirs::Bytes(Gather::new(from)), Ours::Bytes(to))
        }
        Caller::Stream(stream) => {
            let Streamed { halves: (send, recv), open, .. } = stream;
            (Theirs::Stream(Gather::new(recv)), Ours::Stream(send, Some(open)))
        }
    }
}

/// Copies in both directions to their ends, or has a program answer messages.
async fn talk(
    caller: Caller,
    stdio: &mut Stdio,
    side: Side,
    activity: &Activity,
    say: Say,
) -> io::Result<()> {
    let peer = caller.peer();
    let Stdio { input, output, messages, pace } = stdio;
    let halves = match (caller, messages) {
        (Caller::Pipe(pipe), Some(wanted)) => {
            let halves = messages::split(pipe, wanted, say).map_err(|why| named(PIPE, &why))?;
            if !wanted.each.is_empty() {
                return each::answer(halves, (&wanted.each, pace), peer, activity, say).await;
            }
            (Theirs::Messages(halves.0), Ours::Messages(halves.1))
        }
        // A listener for messages takes no sessions.
        (caller, _) => split(caller),
    };
    converse(halves, (input, output), side, activity, say).await
}

/// Copies in both directions to their ends.
async fn converse(
    (from, mut to): (Theirs, Ours),
    (input, output): (&mut Input, &mut Output),
    side: Side,
    activity: &Activity,
    say: Say,
) -> io::Result<()> {
    {
        let ended = Cell::new(input.has_ended());
        let mut received = pin!(receive(from, output, activity));
        let mut sent = pin!(async {
            let sent = send(input, &mut to, activity).await;
            ended.set(true);
            sent
        });
        let sent_all = tokio::select! {
            // What cannot be sent is told once nothing more comes.
            sent = &mut sent => Some(sent),
            received = &mut received => {
                received?;
                None
            }
        };
        match sent_all {
            Some(sent) => return received.await.and(sent),
            None if !Input::is_terminal() || ended.get() => return sent.await,
            None if side == Side::Caller => {
                say.line(
                    || json!({"event": "peer_ended"}),
                    || "the peer sends no more; Ctrl-D ends what you send".into(),
                );
                return sent.await;
            }
            None => {}
        }
    }
    // What is being typed is for the next caller.
    match timeout(FAREWELL, to.shutdown()).await {
        Ok(ended) => ended.map_err(|why| named(PIPE, &why)),
        Err(_) => Ok(()),
    }
}

/// Standard input to its end, which is passed on.
async fn send(input: &mut Input, to: &mut Ours, activity: &Activity) -> io::Result<()> {
    while let Some(chunk) = input.next().await.map_err(|why| named("standard input", &why))? {
        let mut next = Some(chunk);
        while let Some(chunk) = next {
            to.write_all(chunk.bytes()).await.map_err(|why| named(PIPE, &why))?;
            activity.now(Way::Sent, chunk.bytes().len());
            input.done(chunk);
            next = input.waiting();
        }
        to.flush().await.map_err(|why| named(PIPE, &why))?;
    }
    to.shutdown().await.map_err(|why| named(PIPE, &why))
}

/// Copies the peer's bytes to the output, to their end.
async fn receive(mut from: Theirs, output: &mut Output, activity: &Activity) -> io::Result<()> {
    let ended = loop {
        let mut buffer = output.buffer();
        match from.read(&mut buffer[..CHUNK]).await {
            Ok(0) => break Ok(()),
            Ok(n) => {
                activity.now(Way::Received, n);
                output.write(buffer, n).await.map_err(|why| named("standard output", &why))?;
            }
            Err(why) => break Err(named(PIPE, &why)),
        }
    };
    output.flush().await.map_err(|why| named("standard output", &why))?;
    ended
}

/// An error that says whose it is.
pub(crate) fn named(side: &str, why: &io::Error) -> io::Error {
    io::Error::new(why.kind(), format!("{side}: {why}"))
}
