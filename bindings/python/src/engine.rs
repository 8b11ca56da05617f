//! The runtime of one event loop, and the way of results to that loop.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyList;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;

use crate::network;
use crate::node::{self, Settings};

/// Longest wait for the runtime's thread when the interpreter ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Failed call: the kind, which Python has a class of exceptions for, the text, and what more there is, as JSON.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: &'static str,
    text: String,
    detail: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: &'static str, why: impl Display) -> Self {
        Failure { kind, text: why.to_string(), detail: None }
    }

    pub(crate) fn with(self, detail: Option<String>) -> Self {
        Failure { detail, ..self }
    }
}

/// Result on its way: it becomes an object of Python's on the loop's own thread.
type Made = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

/// Results that the loop has not taken yet.
struct Returns {
    waiting: Mutex<Vec<(u64, Result<Made, Failure>)>>,
    wake: TcpStream,
}

impl Returns {
    /// Wakes the loop for the first of a batch. A socket that takes no byte has woken it already, or nobody listens any
    /// more.
    fn push(&self, call: u64, result: Result<Made, Failure>) {
        let mut waiting = lock(&self.waiting);
        waiting.push((call, result));
        if waiting.len() == 1 {
            let _ = (&self.wake).write(&[0]);
        }
    }
}

/// Calls under way.
#[derive(Default)]
struct Calls {
    last: u64,
    running: HashMap<u64, AbortHandle>,
}

/// Way into the runtime, which nodes and pipes have.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) handle: Handle,
    calls: Arc<Mutex<Calls>>,
    returns: Arc<Returns>,
}

impl Reach {
    /// Tells of a failure that no call waits for, under the number 0.
    pub(crate) fn tell(&self, failure: Failure) {
        self.returns.push(0, Err(failure));
    }

    /// Begins a call, and returns its number.
    pub(crate) fn call<T>(&self, work: impl Future<Output = Result<T, Failure>> + Send + 'static) -> u64
    where
        T: for<'py> IntoPyObject<'py> + Send + 'static,
    {
        let mut calls = lock(&self.calls);
        calls.last += 1;
        let (call, reach) = (calls.last, self.clone());
        // It waits for the lock, so it stands in the list before it is taken off.
        let task = self.handle.spawn(async move {
            let result = work.await.map(|value| -> Made { Box::new(|py| value.into_bound_py_any(py)) });
            lock(&reach.calls).running.remove(&call);
            reach.returns.push(call, result);
        });
        calls.running.insert(call, task.abort_handle());
        call
    }
}

/// Runtime with one thread, for one event loop.
#[pyclass(frozen, module = "p2pd._native")]
pub struct Engine {
    runtime: Mutex<Option<Runtime>>,
    reach: Reach,
}

#[pymethods]
impl Engine {
    /// Starts the runtime. Returns it with the number of a socket that can be read when results wait.
    #[staticmethod]
    fn start() -> PyResult<(Self, u64)> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("p2pd").enable_all().build()?;
        let (wake, woken) = p2pd_sys::socket::pair()?;
        let returns = Arc::new(Returns { waiting: Mutex::default(), wake });
        let reach = Reach { handle: runtime.handle().clone(), calls: Arc::default(), returns };
        Ok((Engine { runtime: Mutex::new(Some(runtime)), reach }, handed(woken)))
    }

    /// Takes all results there are: for each the call's number, whether it went well, and the value, or else the error's
    /// kind, text and details.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let all = std::mem::take(&mut *lock(&self.reach.returns.waiting));
        let list = PyList::empty(py);
        for (call, result) in all {
            match result {
                Ok(made) => list.append((call, true, made(py)?))?,
                Err(failure) => list.append((call, false, (failure.kind, failure.text, failure.detail)))?,
            }
        }
        Ok(list)
    }

    /// Gives a call up. One that is done already has its result dropped by whoever takes it.
    fn cancel(&self, call: u64) {
        let running = lock(&self.reach.calls).running.remove(&call);
        if let Some(task) = running {
            task.abort();
        }
    }

    /// Ends the runtime's thread. At the end of the interpreter it is waited for, and otherwise it ends by itself.
    fn close(&self, py: Python<'_>, wait: bool) {
        let runtime = lock(&self.runtime).take();
        if let Some(runtime) = runtime {
            if wait {
                py.detach(|| runtime.shutdown_timeout(FAREWELL));
            } else {
                runtime.shutdown_background();
            }
        }
    }

    /// Brings a node up: a call that gives it. Arguments: see `p2pd.Node`.
    #[pyo3(signature = (*, key, port, bind, servers, accept, plain, protocols, map_port, names))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn node(
        &self,
        key: Option<node::Key>,
        port: u16,
        bind: Option<String>,
        servers: node::Servers,
        accept: Option<node::Accepted>,
        plain: bool,
        protocols: Vec<Vec<u8>>,
        map_port: bool,
        names: Option<PathBuf>,
    ) -> u64 {
        let settings = Settings { key, port, bind, servers, accept, plain, protocols, map_port, names };
        self.reach.call(node::bind(settings, self.reach.clone()))
    }

    /// Lists the machine's network cards: a call that gives JSON.
    fn cards(&self) -> u64 {
        self.reach.call(network::cards())
    }

    /// Measures the NATs in front of this machine by the STUN servers of a list: a call that gives the reports and the
    /// routes, as JSON.
    fn nats(&self, servers: node::Servers, bind: Option<String>) -> u64 {
        self.reach.call(network::nats(servers, bind))
    }

    /// Asks a STUN server over `udp` or `tcp` how it sees a new socket: a call that gives a mapping.
    fn mapping(&self, host: String, port: u16, local: String, tcp: bool) -> u64 {
        self.reach.call(network::mapping((host, port), local, tcp))
    }

    /// Lists the STUN servers of a list: a call that gives hosts and ports.
    fn stun_servers(&self, servers: node::Servers) -> u64 {
        self.reach.call(network::stun_servers(servers))
    }
}

impl Drop for Engine {
    /// Waits for nothing: whoever drops it may be a loop.
    fn drop(&mut self) {
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

/// Gives a socket to Python, which has to close it, by its number.
#[cfg(unix)]
pub(crate) fn handed(socket: TcpStream) -> u64 {
    use std::os::fd::IntoRawFd;
    socket.into_raw_fd().unsigned_abs().into()
}

/// Gives a socket to Python, which has to close it, by its number.
#[cfg(windows)]
pub(crate) fn handed(socket: TcpStream) -> u64 {
    use std::os::windows::io::IntoRawSocket;
    socket.into_raw_socket()
}

pub(crate) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
