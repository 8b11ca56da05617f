//! Sessions that peers open to a node, and carriers that find their session.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use p2pd_core::NodeId;
use p2pd_core::pipe::session::{Opening, SessionConfig, SessionToken, Side};
use p2pd_sys::session::{Greeter, Registry};

use super::pump::{Listener, Role};
use super::{Pump, Session, Shared};
use crate::peer::Pipe;
use crate::runtime::Runtime;
use crate::tcp::tried;
use crate::wait::within;

/// Sessions that nobody has accepted yet; a further one is closed. Strangers have three quarters.
const ACCEPT_QUEUE: usize = 128;
/// Longest time that a carrier may take to name its session.
const NAMED_WITHIN: Duration = Duration::from_secs(10);

/// Sessions of a node, as the end that is called.
#[derive(Debug)]
pub(crate) struct Sessions<R: Runtime> {
    pub(crate) config: SessionConfig,
    /// Carriers of each session go to its task by this.
    known: Mutex<Registry<Sender<Pipe<R>>>>,
    accept: Sender<Session>,
    accepted: Receiver<Session>,
    turned_away: Arc<AtomicU64>,
}

impl<R: Runtime> Sessions<R> {
    pub(crate) fn new(config: SessionConfig, turned_away: Arc<AtomicU64>) -> Arc<Self> {
        let (accept, accepted) = async_channel::bounded(ACCEPT_QUEUE);
        Arc::new(Sessions { config, known: Mutex::default(), accept, accepted, turned_away })
    }

    /// Waits for the next session; `None` once the node was shut down.
    pub(crate) async fn accept(&self) -> Option<Session> {
        self.accepted.recv().await.ok()
    }

    /// Accepts no more sessions. Those that there are go on while they have a carrier.
    pub(crate) fn end(&self) {
        self.accept.close();
    }

    /// Notes how many bytes a session holds. Returns false if it has to end.
    pub(super) fn weigh(&self, peer: NodeId, token: SessionToken, held: usize) -> bool {
        self.known().weigh(peer, token, held)
    }

    pub(crate) fn forget(&self, shared: &Shared, token: SessionToken) {
        self.known().remove(shared.peer, token);
    }

    fn known(&self) -> MutexGuard<'_, Registry<Sender<Pipe<R>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a carrier that a peer has opened to its session.
    pub(crate) fn greet(self: &Arc<Self>, mut pipe: Pipe<R>) {
        let sessions = self.clone();
        R::spawn(async move {
            let mut greeter = Greeter::default();
            let named =
                poll_fn(|cx| crate::peer::polled(greeter.read(|buffer| tried(pipe.poll_read(cx, buffer)))));
            if let Some(Ok(opening)) = within::<R, _>(NAMED_WITHIN, named).await
                && let Some(mut pipe) = sessions.place(pipe, opening)
            {
                // Whoever is refused has to hear it, and nothing else.
                within::<R, _>(NAMED_WITHIN, refuse(&mut pipe)).await;
            }
        });
    }

    /// Gives a carrier to its session, or makes one. Returns it if there is none.
    fn place(self: &Arc<Self>, pipe: Pipe<R>, opening: Opening) -> Option<Pipe<R>> {
        let opener = pipe.opener();
        let peer = opener.peer;
        let (Opening::New(token) | Opening::Resume(token)) = opening;
        let mut known = self.known();
        if let Some(carriers) = known.get(peer, token) {
            return carriers.try_send(pipe).err().map(async_channel::TrySendError::into_inner);
        }
        let places = if opener.named { ACCEPT_QUEUE } else { ACCEPT_QUEUE / 4 * 3 };
        if matches!(opening, Opening::Resume(_)) || !known.has_room(&opener) || self.accept.len() >= places {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            return Some(pipe);
        }
        let (carriers, coming) = async_channel::unbounded();
        if known.insert(&opener, token, carriers) {
            let shared = Shared::new(peer, Side::Listener, self.config);
            let mut pump = Pump::new(&shared, Role::Listener(Listener::new(self, token, coming)));
            pump.attach(pipe, None);
            let (sessions, of) = (self.clone(), shared.clone());
            R::spawn(async move {
                pump.run().await;
                sessions.forget(&of, token);
            });
            // Without room it is dropped, which closes it.
            let _ = self.accept.try_send(Session::new(&shared));
        }
        None
    }
}

async fn refuse<R: Runtime>(pipe: &mut Pipe<R>) -> io::Result<()> {
    let answer = Opening::refusal();
    poll_fn(|cx| pipe.poll_write(cx, &answer)).await?;
    poll_fn(|cx| pipe.poll_end(cx)).await?;
    let mut rest = [0; 1024];
    while poll_fn(|cx| pipe.poll_read(cx, &mut rest)).await? > 0 {}
    Ok(())
}
