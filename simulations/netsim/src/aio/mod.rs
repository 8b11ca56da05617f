//! Async programs in the simulated internet: sockets and timers with tokio's names and shapes, on an executor of virtual time.
//!
//! A [`Sim`] is a [`World`] whose hosts run tasks. In a task, [`net`] has the host's sockets, [`time`] the world's time, and
//! [`spawn`] begins another task on the same host. Streams are tokio's `AsyncRead` and `AsyncWrite`, and tokio-util's `compat`
//! makes futures' traits of them. What needs no runtime of tokio's works too: channels, `select!`, codecs.
//!
//! ```
//! use p2pd_netsim::aio::net::{TcpListener, TcpStream};
//! use p2pd_netsim::aio::{Process, Sim, time};
//! use p2pd_netsim::engine::MILLI;
//! use p2pd_netsim::net::LinkSpec;
//! use p2pd_netsim::world::{SiteSpec, World};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! // A client behind a NAT, and a server in the internet: 40 ms from one to the other.
//! let mut world: World<Process> = World::new(7);
//! let link = LinkSpec::with_delay(20 * MILLI);
//! let mut home = world.add_site(&SiteSpec { number: 1, chain: "openwrt".parse().unwrap(), link });
//! let client = world.add_host_at(&mut home, Process::default());
//! let server = world.add_host(world.internet(), [198, 51, 100, 1].into(), link, Process::default());
//!
//! let mut sim = Sim::over(world);
//! sim.spawn(server, async {
//!     let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
//!     let (mut stream, _) = listener.accept().await.unwrap();
//!     let mut word = [0; 4];
//!     stream.read_exact(&mut word).await.unwrap();
//!     stream.write_all(&word).await.unwrap();
//! });
//! let echo = sim.block_on(client, async {
//!     let mut stream = TcpStream::connect("198.51.100.1:80").await.unwrap();
//!     assert_eq!(time::now().since_start().as_millis(), 80);
//!     stream.write_all(b"echo").await.unwrap();
//!     let mut word = [0; 4];
//!     stream.read_exact(&mut word).await.unwrap();
//!     word
//! });
//! assert_eq!((&echo, sim.world().now()), (b"echo", 160 * MILLI));
//! ```
//!
//! # Order
//!
//! There is one thread. Work is done host by host in the order in which events come; a host's woken tasks are polled by their
//! numbers, which count from the first one spawned there. A round of tasks ends before those that it woke are polled. So one seed
//! gives one run, as long as the program draws no randomness of its own, reads no clock and iterates over no `HashMap`: see
//! [`fill_random`] and [`time::now`].
//!
//! # Panics
//!
//! A panic of a task ends the simulation: the call that runs it panics with the seed, the host and the time. So do a task that
//! is waited for while nothing is left to happen, and tasks that wake each other without end.

/// The examples of the page for users, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../own-program.md")]
struct Page;

mod kernel;
pub mod net;
mod process;
mod ready;
mod task;
pub mod time;

use std::sync::Arc;

use self::kernel::current;
use self::process::MOST_ROUNDS;
use self::ready::{Place, Ready};
use crate::engine::{MILLI, Nanos};
use crate::world::{HostId, World};

pub use self::process::Process;
pub use self::task::{JoinError, JoinHandle, spawn, yield_now};

/// A world whose hosts run async tasks, and the executor of these.
#[derive(Debug)]
pub struct Sim {
    world: World<Process>,
    ready: Arc<Ready>,
}

impl Sim {
    /// Takes a world, whose hosts have no tasks yet. Each host with a task has send and receive buffers as a kernel's from then on:
    /// [`Buffers::LINUX`](crate::host::Buffers::LINUX).
    pub fn over(world: World<Process>) -> Sim {
        Sim { world, ready: Arc::default() }
    }

    /// Returns the world.
    pub fn world(&self) -> &World<Process> {
        &self.world
    }

    /// Returns the world, to change it between two calls that run it: links, NATs, hosts.
    pub fn world_mut(&mut self) -> &mut World<Process> {
        &mut self.world
    }

    /// Begins a task on a host. It is polled once the simulation runs.
    pub fn spawn<F>(&mut self, host: HostId, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
    {
        let (body, slot) = task::body(future);
        let place = self.place(host);
        let task = self.world.with(host, |process, cx| process.begin(cx, &place, body));
        JoinHandle { slot, place, task }
    }

    /// Runs a task on a host, and the simulation until the task has ended.
    ///
    /// # Panics
    /// Panics if the task was cancelled, and as the [module](self) says.
    #[track_caller]
    pub fn block_on<F>(&mut self, host: HostId, future: F) -> F::Output
    where
        F: Future + 'static,
    {
        let handle = self.spawn(host, future);
        self.join(handle).expect("nobody cancels a task that nobody has a handle of, but by killing its host")
    }

    /// Runs the simulation until a task has ended.
    ///
    /// # Errors
    /// Fails if the task was cancelled.
    ///
    /// # Panics
    /// Panics if nothing is left to happen that could end the task, and as the [module](self) says.
    #[track_caller]
    pub fn join<T>(&mut self, handle: JoinHandle<T>) -> Result<T, JoinError> {
        self.settle();
        while !handle.is_finished() {
            let Some(next) = self.world.next_at() else {
                let (seed, ms) = (self.world.rng().seed(), self.world.now() / MILLI);
                panic!("seed {seed}, {ms} ms: a task is waited for, and nothing is left to happen");
            };
            self.step(next);
        }
        handle.slot.take().ok_or(JoinError(()))
    }

    /// Runs the simulation until `until`.
    pub fn run_until(&mut self, until: Nanos) {
        self.settle();
        while self.step(until) {}
    }

    /// Takes one event, and does what it leads to at its time. False if there is none before or at `until`; the time is then
    /// `until`.
    pub fn step(&mut self, until: Nanos) -> bool {
        let more = self.world.step(until);
        if !more && self.world.next_at().is_some_and(|next| next <= until) {
            panic!("seed {}: {:?}", self.world.rng().seed(), self.world.check());
        }
        self.settle();
        more
    }

    /// Stops polling a host's tasks, as SIGSTOP does. Its kernel goes on: it acknowledges, and its buffers fill.
    pub fn pause(&mut self, host: HostId) {
        self.world.with(host, |process, _| process.pause());
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&mut self, host: HostId) {
        self.world.with(host, |process, cx| process.resume(cx));
    }

    /// Drops all tasks of a host, as SIGKILL does. Its kernel closes their sockets, and new tasks may be spawned.
    pub fn kill(&mut self, host: HostId) {
        self.world.with(host, |process, cx| process.kill(cx));
    }

    fn place(&self, host: HostId) -> Place {
        Place { ready: self.ready.clone(), host }
    }

    /// Does the work that is left for hosts which had no event.
    fn settle(&mut self) {
        let mut rounds = 0;
        while let Some(host) = self.ready.first() {
            rounds += 1;
            assert!(
                rounds < MOST_ROUNDS,
                "seed {}: tasks of several hosts wake each other without end",
                self.world.rng().seed()
            );
            self.world.with(host, |process, cx| process.turn(cx));
        }
    }
}

/// Tasks end on their hosts, so that what they drop may still call these.
impl Drop for Sim {
    fn drop(&mut self) {
        self.world.hosts().for_each(|host| self.kill(host));
    }
}

/// Fills `bytes` with randomness of the task's host: a function of the world's seed, the host, and the draws before.
///
/// # Panics
/// Panics outside of a task.
#[track_caller]
pub fn fill_random(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let drawn = current(|current| current.random()).to_le_bytes();
        chunk.copy_from_slice(&drawn[..chunk.len()]);
    }
}
