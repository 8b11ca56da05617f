//! The program on a host that runs async tasks.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use super::kernel::{Body, Entered, Kernel, current};
use super::ready::{Place, Turn};
use crate::engine::MILLI;
use crate::host::{Buffers, HostEvent};
use crate::world::{App, Cx};

/// Most rounds of a host's tasks, or of all hosts, while time stands still: tasks that wake each other without end are a fault.
pub(super) const MOST_ROUNDS: u32 = 100_000;

/// Program of a host whose tasks are futures: the [`App`] of a [`Sim`](super::Sim). A new one has no tasks.
#[derive(Default)]
pub struct Process {
    /// The host; none before its first task.
    place: Option<Place>,
    tasks: BTreeMap<u64, Task>,
    kernel: Kernel,
    run: Run,
}

#[derive(Default)]
enum Run {
    #[default]
    Running,
    /// Held back: what comes meanwhile waits.
    Paused(Turn),
}

struct Task {
    body: Body,
    waker: Waker,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paused = matches!(self.run, Run::Paused(_));
        f.debug_struct("Process")
            .field("tasks", &self.tasks())
            .field("paused", &paused)
            .finish_non_exhaustive()
    }
}

impl App for Process {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        self.kernel.event(cx.host, event);
        self.turn(cx);
    }

    fn wake(&mut self, cx: &mut Cx<'_>, _: u64) {
        self.kernel.tick(cx.host, cx.now);
        self.turn(cx);
    }
}

impl Process {
    /// Returns the number of tasks that have not ended.
    pub fn tasks(&self) -> usize {
        self.tasks.len() + self.kernel.begun.len()
    }

    /// Begins a task. It is polled at the host's next turn.
    pub(super) fn begin(&mut self, cx: &mut Cx<'_>, place: &Place, body: Body) -> u64 {
        if self.place.is_none() {
            cx.host.set_buffers(Buffers::LINUX);
            self.place = Some(place.clone());
        }
        let task = self.kernel.begin(body);
        place.wake(task);
        task
    }

    /// Does the host's work until there is none. Each round polls the tasks that are woken, in the order of their numbers.
    pub(super) fn turn(&mut self, cx: &mut Cx<'_>) {
        let Some(place) = &self.place else { return };
        let (host, seed, ms) = (cx.host.id(), cx.rng.seed(), cx.now / MILLI);
        let _entered = Entered::new(place, cx, &mut self.kernel);
        let mut rounds = 0;
        while let Some(mut work) = place.take() {
            rounds += 1;
            assert!(
                rounds < MOST_ROUNDS,
                "seed {seed}, host {host}, {ms} ms: tasks wake each other without end"
            );
            if let Run::Paused(held) = &mut self.run {
                held.add(&mut work);
                continue;
            }
            for sock in work.left {
                current(|current| current.close(sock));
            }
            for (number, body) in current(|current| core::mem::take(&mut current.kernel.begun)) {
                self.tasks.insert(number, Task { body, waker: place.waker(number) });
            }
            for number in work.aborted {
                self.tasks.remove(&number);
            }
            for number in work.woken {
                let Some(Task { body, waker }) = self.tasks.get_mut(&number) else { continue };
                let mut context = Context::from_waker(waker);
                match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(&mut context))) {
                    Ok(Poll::Pending) => {}
                    Ok(Poll::Ready(())) => _ = self.tasks.remove(&number),
                    Err(why) => {
                        self.tasks.remove(&number);
                        panic!("seed {seed}, host {host}, {ms} ms: a task panicked: {}", text(&*why));
                    }
                }
            }
        }
    }

    /// Drops all tasks. Their sockets are closed, as of a process that is killed.
    pub(super) fn kill(&mut self, cx: &mut Cx<'_>) {
        let Some(place) = &self.place else { return };
        let entered = Entered::new(place, cx, &mut self.kernel);
        core::mem::take(&mut self.tasks);
        drop(current(|current| core::mem::take(&mut current.kernel.begun)));
        drop(entered);
        self.resume(cx);
    }

    /// Stops polling.
    pub(super) fn pause(&mut self) {
        if matches!(self.run, Run::Running) {
            self.run = Run::Paused(Turn::default());
        }
    }

    /// Goes on after a pause.
    pub(super) fn resume(&mut self, cx: &mut Cx<'_>) {
        if let Run::Paused(mut held) = core::mem::take(&mut self.run)
            && let Some(place) = &self.place
        {
            place.add(|turn| turn.add(&mut held));
        }
        self.turn(cx);
    }
}

/// Returns what a panic said.
fn text(why: &(dyn Any + Send)) -> &str {
    let literal = why.downcast_ref::<&str>().copied();
    literal.or_else(|| why.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}
