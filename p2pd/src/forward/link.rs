//! Session with an exposer, which is opened again when it ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use p2pd_core::{Plan, Target};
use p2pd_tokio::{ConnectError, Node, PipeInfo, Session};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use super::copy::{CHUNK, Stream, is_of_session};
use super::wire::{Answer, Wish};
use crate::metrics::{Metrics, Way};
use crate::say::Say;

/// Bytes of a client that are sent before the exposer has answered. They are kept, for a session that turns out to be over.
const EARLY: usize = CHUNK;
/// Longest wait for the exposer's answer. It gives its service 10 s, and a session waits 60 s for its connection.
const ANSWER: Duration = Duration::from_secs(90);
/// Longest wait for one more stream, where the exposer allows no more at a time.
const ROOM: Duration = Duration::from_secs(10);
/// Longest wait until the peer has heard of a session's end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Sessions with one exposer, of which one is open at a time.
#[derive(Debug)]
pub(super) struct Link {
    node: Node,
    to: Target,
    plan: Plan,
    metrics: Arc<Metrics>,
    say: Say,
    state: Mutex<State>,
    /// True once no session is opened any more. A call under way ends by it.
    over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Session>,
    /// Time at which a call came to nothing.
    failed: Option<Instant>,
}

/// Reason that a stream was not opened.
#[derive(Debug)]
pub(super) enum NotOpen {
    /// No session. The reason has been said.
    NoSession,
    Answered(Answer),
    /// The client is gone.
    Left,
    Broke(io::Error),
}

impl std::fmt::Display for NotOpen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotOpen::NoSession => f.write_str("there is no connection to the peer"),
            NotOpen::Answered(answer) => answer.fmt(f),
            NotOpen::Left => f.write_str("its client has left"),
            NotOpen::Broke(why) => why.fmt(f),
        }
    }
}

impl Link {
    pub(super) fn new(node: &Node, (to, plan): (&Target, Plan), metrics: Arc<Metrics>, say: Say) -> Self {
        Link {
            node: node.clone(),
            to: to.clone(),
            plan,
            metrics,
            say,
            state: Mutex::default(),
            over: watch::Sender::new(false),
        }
    }

    /// Returns the session, opened if there is none. Whoever waits for a call that comes to nothing makes none.
    ///
    /// # Errors
    /// The call's; `None` where it has been told to another one.
    pub(super) async fn session(&self) -> Result<Session, Option<ConnectError>> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(session) =
            state.session.as_ref().filter(|session| session.closed().now_or_never().is_none())
        {
            return Ok(session.clone());
        }
        state.session = None;
        if state.failed.is_some_and(|at| at >= asked) {
            return Err(None);
        }
        let mut over = self.over.subscribe();
        let opened = tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return Err(None),
            opened = self.node.connect_session_with(&self.to, self.plan.clone()) => opened,
        };
        match opened {
            Ok(session) => {
                state.session = Some(session.clone());
                if let Some(carrier) = session.carrier() {
                    self.say.opened("connected", &carrier);
                }
                tokio::spawn(super::follow(session.clone(), self.metrics.clone(), self.say));
                Ok(session)
            }
            Err(why) => {
                state.failed = Some(Instant::now());
                Err(Some(why))
            }
        }
    }

    /// Opens a stream, and waits until the exposer has answered. Meanwhile bytes of `client` are sent already. Returns
    /// true beside the stream if the client has ended its sending by then.
    ///
    /// # Errors
    /// Says why there is none.
    pub(super) async fn open(
        &self,
        wish: &Wish,
        mut client: Option<&mut (impl AsyncRead + Unpin)>,
    ) -> Result<(Stream, bool), NotOpen> {
        let (mut early, mut ended) = (Vec::new(), false);
        let mut again = true;
        loop {
            let session = self.session().await.map_err(|why| {
                why.iter().for_each(|why| self.say.failed(why));
                NotOpen::NoSession
            })?;
            // Without a connection nothing of the stream has been sent.
            let unsent = session.carrier().is_none();
            let Ok(opening) = timeout(ROOM, session.open_bi(&wish.tag())).await else {
                return Err(NotOpen::Answered(Answer::Busy));
            };
            let opened = async {
                let mut stream = opening?;
                stream.0.write_all(&early).await?;
                if ended {
                    stream.0.finish();
                }
                Ok(stream)
            };
            let answered = match opened.await {
                Ok(mut stream) => {
                    let waiting = answer(&mut stream, client.as_deref_mut(), &mut early, &mut ended);
                    match timeout(ANSWER, waiting).await {
                        Ok(Ok(Some(Answer::Open))) => return Ok((stream, ended)),
                        Ok(Ok(Some(other))) => return Err(NotOpen::Answered(other)),
                        Ok(Ok(None)) => return Err(NotOpen::Left),
                        Ok(Err(why)) => why,
                        Err(_) => return Err(NotOpen::Broke(io::ErrorKind::TimedOut.into())),
                    }
                }
                Err(why) => why,
            };
            // The exposer has begun anew. Bytes that its service may have had are not sent twice.
            let may_repeat = is_of_session(&answered) && (unsent || early.is_empty());
            if !(may_repeat && std::mem::take(&mut again)) {
                return Err(NotOpen::Broke(answered));
            }
        }
    }

    /// Returns the connection under the session; `None` where there is none now.
    pub(super) fn carrier(&self) -> Option<PipeInfo> {
        // Whoever holds it is opening a session.
        self.state.try_lock().ok()?.session.as_ref()?.carrier()
    }

    /// Counts bytes among those of the connection that is under the session.
    pub(super) fn count(&self, way: Way, bytes: usize) {
        if let Some(carrier) = self.carrier() {
            self.metrics.count(way, carrier.strategy(), bytes as u64);
        }
    }

    /// Ends the session, and waits until the peer has heard of it. With `whole`, all that was written arrives before.
    pub(super) async fn close(&self, whole: bool) {
        self.over.send_replace(true);
        let session = self.state.lock().await.session.take();
        if let Some(session) = session {
            if whole {
                let _ = session.delivered().await;
            }
            close(&session).await;
        }
    }
}

/// Waits for the exposer's answer, and sends bytes of the client meanwhile. `None` if the client is gone.
///
/// # Errors
/// The stream's; `InvalidData` for an answer that is none.
async fn answer(
    (send, recv): &mut Stream,
    mut client: Option<&mut (impl AsyncRead + Unpin)>,
    early: &mut Vec<u8>,
    ended: &mut bool,
) -> io::Result<Option<Answer>> {
    let mut buffer = vec![0; if client.is_some() { CHUNK } else { 0 }];
    loop {
        let may_read = client.is_some() && !*ended && early.len() < EARLY;
        let more = async {
            match client.as_deref_mut() {
                Some(client) => client.read(&mut buffer).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            byte = recv.read_u8() => {
                let answer = Answer::read(byte?).ok_or(io::ErrorKind::InvalidData)?;
                return Ok(Some(answer));
            }
            read = more, if may_read => match read {
                Ok(0) => {
                    *ended = true;
                    send.finish();
                }
                Ok(n) => {
                    early.extend_from_slice(&buffer[..n]);
                    match send.write_all(&buffer[..n]).await {
                        // The answer says why.
                        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => {}
                        other => other?,
                    }
                }
                Err(_) => {
                    send.reset(super::wire::RESET);
                    return Ok(None);
                }
            }
        }
    }
}

/// Closes a session, and waits until the peer has heard of it, for a second at most.
pub(crate) async fn close(session: &Session) {
    session.close(0, b"");
    let until = Instant::now() + FAREWELL;
    // The connections are dropped once the peer has ended them too.
    while session.carrier().is_some() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
